package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// privateUmask does nothing: a socket has the rights of its directory.
func privateUmask() (unmask func()) { return func() {} }

// detached starts a process that has no console, and outlives the one here.
func detached() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: windows.DETACHED_PROCESS | windows.CREATE_NEW_PROCESS_GROUP}
}

// endProcess ends a process; it cannot be asked.
func endProcess(p *os.Process) { p.Kill() }
