//go:build !windows

package main

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes an exclusive lock without waiting. It belongs to the open file
// and is not inherited by children: Go opens files close-on-exec.
func tryLock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		}
		return err
	}
}
