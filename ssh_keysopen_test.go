//go:build linux || darwin

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestReadKeysFile: what somebody else could have put there is not read.
func TestReadKeysFile(t *testing.T) {
	uid := uint32(os.Geteuid())
	for _, c := range []struct {
		name string
		make func(home, file string) error
		why  string // "" it is read
	}{
		{"sound", func(home, file string) error { return nil }, ""},
		{"readable by all", func(home, file string) error { return os.Chmod(file, 0o644) }, ""},
		{"written by a group", func(home, file string) error { return os.Chmod(file, 0o620) }, "authorized_keys.local may be written by others (mode 0620)"},
		{"written by all", func(home, file string) error { return os.Chmod(file, 0o602) }, "may be written by others"},
		{"directory of a group", func(home, file string) error { return os.Chmod(filepath.Dir(file), 0o770) }, ".sessio may be written by others"},
		{"home of all", func(home, file string) error { return os.Chmod(home, 0o777) }, "may be written by others"},
		{"a link", func(home, file string) error {
			return errors.Join(os.Rename(file, home+"/keys"), os.Symlink(home+"/keys", file))
		}, "symlink"},
		{"a linked directory", func(home, file string) error {
			return errors.Join(os.Rename(home+"/.sessio", home+"/real"), os.Symlink("real", home+"/.sessio"))
		}, "symlink"},
		{"a FIFO", func(home, file string) error { return errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o600)) }, "is not a file"},
		{"a directory", func(home, file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) }, "is not a file"},
		{"a file for a directory", func(home, file string) error {
			return errors.Join(os.RemoveAll(home+"/.sessio"), os.WriteFile(home+"/.sessio", nil, 0o600))
		}, "symlink or not a directory"},
		{"foreign", func(home, file string) error { return os.Chown(file, 12345, -1) }, "belongs to uid 12345"},
		{"foreign directory", func(home, file string) error { return os.Chown(filepath.Dir(file), 12345, -1) }, "belongs to uid 12345"},
		{"nothing", func(home, file string) error { return os.Remove(file) }, "no such file"},
		{"no directory", func(home, file string) error { return os.RemoveAll(home + "/.sessio") }, "no such file"},
	} {
		if strings.HasPrefix(c.name, "foreign") && uid != 0 {
			continue
		}
		home := t.TempDir()
		file := filepath.Join(home, ".sessio", localKeysFile)
		if err := errors.Join(os.Mkdir(home+"/.sessio", 0o700), os.WriteFile(file, []byte("text"), 0o600), c.make(home, file)); err != nil {
			t.Fatal(c.name, err)
		}
		text, err := readKeysFile(file, uid)
		if c.why == "" && (err != nil || string(text) != "text") || c.why != "" && (!strings.Contains(fmt.Sprint(err), c.why) || text != nil) {
			t.Errorf("%s: %q, %v", c.name, text, err)
		}
		if (c.why == "no such file") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestReadKeysFileLeavesNothingOpen: neither way through leaks a descriptor.
func TestReadKeysFileLeavesNothingOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	highest := func() int {
		fd, err := syscall.Open("/", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		syscall.Close(fd)
		return fd
	}
	before := highest()
	for range 100 {
		readKeysFile(file, uint32(os.Geteuid()))
		readKeysFile(file+"/none", uint32(os.Geteuid()))
		readKeysFile(file+"none", uint32(os.Geteuid()))
	}
	if after := highest(); after > before+20 {
		t.Errorf("the next descriptor was %d and is %d", before, after)
	}
}

func TestKeysPath(t *testing.T) {
	for _, c := range []struct {
		dir, pattern, user, home, want string
	}{
		{"", "", "u", "/home/u", "/home/u/.sessio/authorized_keys.local"},
		{"", "", "u", "/home/u/", "/home/u/.sessio/authorized_keys.local"},
		{"", "", "u", "", ""},
		{"", "", "u", "home", ""},
		{"/etc/keys", "", "u", "", "/etc/keys/u/authorized_keys"},
		{"/etc/keys", "", "..", "", ""},
		{"/etc/keys", "", ".", "", ""},
		{"/etc/keys", "", "a/b", "", ""},
		{"", "/etc/keys/{user}.pub", "u", "", "/etc/keys/u.pub"},
		{"", "/etc/keys/{user}", "..", "", ""},
		{"", "/etc/keys", "u", "", "/etc/keys"},
	} {
		got, err := (&serverConfig{keysDir: c.dir, keysPattern: c.pattern}).keysPath(c.user, c.home)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}
