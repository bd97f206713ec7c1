package main

// This file keeps a role from running twice in one directory, and processes that
// share files from writing them at once. The lock is the kernel's, on an open
// file, so that it ends with its process however that ends: a lock or a pid file
// left behind by kill -9 is never in the way.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// errLocked says that another process holds the file.
var errLocked = errors.New("in use by another process")

// A fileLock is a file that holds our process id and that nobody else can lock
// while we live.
type fileLock struct{ f *os.File }

// holdFile locks file and writes our process id into it. The error is
// errLocked, with the holder's id where it can be read, or says why there can
// be no lock.
func holdFile(file string) (*fileLock, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := flock(f, false); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w%s", file, err, holderOf(file))
		}
		if !isFile(f, file) { // its last holder removed it while we waited
			f.Close()
			continue
		}
		l := &fileLock{f}
		if err := l.writePID(); err != nil {
			l.release()
			return nil, err
		}
		return l, nil
	}
}

// isFile reports whether the open f is what stands at name.
func isFile(f *os.File, name string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(name)
	return err == nil && os.SameFile(open, named)
}

// holderOf is " (process 123)" where the file tells.
func holderOf(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

func (l *fileLock) writePID() error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// release removes the file and ends the lock, in this order: who comes between
// sees isFile fail and makes a new one. Where an open file cannot be removed
// it stays, which does no harm.
func (l *fileLock) release() {
	os.Remove(l.f.Name())
	l.f.Close()
}

// lockRole makes this process the only one of its role in dir. errLocked means
// that the role runs already.
func lockRole(dir, role string) (*fileLock, error) {
	l, err := holdFile(filepath.Join(dir, role+".lock"))
	switch {
	case errors.Is(err, errLocked):
		return nil, withHint(fmt.Errorf("a %s runs already: %w", role, err), "with -once a second one ends quietly")
	case errors.Is(err, fs.ErrPermission):
		return nil, withHint(fmt.Errorf("locking the role: %w", err), "is -dir the right directory for this user?")
	case err != nil:
		return nil, fmt.Errorf("locking the role: %w", err)
	}
	return l, nil
}

// lockFile waits until nobody else holds the lock on file, in this process or
// another. The file stays.
func lockFile(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, true); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: file, Err: err}
	}
	return func() { f.Close() }, nil
}
