//go:build !windows

package main

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// syncDir makes a rename in dir durable. Some file systems cannot sync a
// directory and say EINVAL; there is nothing more to do there.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// flock takes an exclusive lock, at once or not at all unless wait is set. It
// belongs to the open file and is not inherited by children: Go opens files
// close-on-exec.
func flock(f *os.File, wait bool) error {
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err := syscall.Flock(int(f.Fd()), how)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		}
		return err
	}
}

// ttyName is the terminal of this process, which can be written to as well.
const (
	ttyName        = "/dev/tty"
	ttyTakesOutput = true
)

// defaultAgent is where an ssh-agent is without $SSH_AUTH_SOCK.
const defaultAgent = ""

func dialAgent(addr string) (io.ReadWriteCloser, error) { return net.Dial("unix", addr) }

// openNoFollow opens no symbolic link, and waits for nobody at a pipe's end.
const openNoFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK
