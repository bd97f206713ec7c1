//go:build !windows

package main

import (
	"errors"
	"os"
	"syscall"
)

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
