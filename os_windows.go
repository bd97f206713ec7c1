package main

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/windows"
)

// syncDir does nothing: NTFS journals renames, and a directory cannot be
// synced there.
func syncDir(string) error { return nil }

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

// ttyName is the console's input; what is asked goes to standard error.
const (
	ttyName        = "CONIN$"
	ttyTakesOutput = false
)

// defaultAgent is the named pipe of the service that Windows brings.
const defaultAgent = `\\.\pipe\openssh-ssh-agent`

func dialAgent(addr string) (io.ReadWriteCloser, error) {
	if strings.HasPrefix(addr, `\\`) {
		return os.OpenFile(addr, os.O_RDWR, 0)
	}
	return net.Dial("unix", addr)
}

const openNoFollow = 0
