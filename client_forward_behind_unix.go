//go:build !windows

package main

import (
	"os"
	"syscall"
)

// privateUmask keeps new files and sockets from everybody else until unmask is
// called. It holds for the whole process; what is private anyway is not hurt.
func privateUmask() (unmask func()) {
	old := syscall.Umask(0o077)
	return func() { syscall.Umask(old) }
}

// detached starts a process that no terminal can hang up.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// endProcess asks a process to end and tidy up.
func endProcess(p *os.Process) { p.Signal(syscall.SIGTERM) }
