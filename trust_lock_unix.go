//go:build !windows

package main

import (
	"errors"
	"os"
	"syscall"
)

// lockFile waits until no other process, and nobody else in this one, holds the
// lock on file. The kernel gives it back when the holder dies.
func lockFile(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: file, Err: err}
		}
	}
}
