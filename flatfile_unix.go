//go:build !windows

package main

import (
	"errors"
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
