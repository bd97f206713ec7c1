package main

import "path/filepath"

// lendPath is the path of a socket in dir.
func lendPath(dir, name string) (path string, done func(), err error) {
	return filepath.Join(dir, name), func() {}, nil
}
