//go:build !windows

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// maxSocketPath is what sun_path holds on every system, in bytes.
const maxSocketPath = 103

// lendPath is the path of a socket in dir. One too long for the kernel goes by way of
// the open directory, where /proc can do that; done closes it.
func lendPath(dir, name string) (path string, done func(), err error) {
	path = filepath.Join(dir, name)
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	if runtime.GOOS != "linux" {
		return "", nil, fmt.Errorf("%s: longer than %d bytes, too long for a socket", path, maxSocketPath)
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), func() { d.Close() }, nil
}
