package main

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// flock takes an exclusive lock, at once or not at all unless wait is set. It
// covers a byte far behind the process id, which others may read.
func flock(f *os.File, wait bool) error {
	const at = 1 << 30
	how := uint32(windows.LOCKFILE_EXCLUSIVE_LOCK)
	if !wait {
		how |= windows.LOCKFILE_FAIL_IMMEDIATELY
	}
	err := windows.LockFileEx(windows.Handle(f.Fd()), how, 0, 1, 0, &windows.Overlapped{Offset: at})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return errLocked
	}
	return err
}
