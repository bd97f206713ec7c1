package main

// What the door keeps shut whatever the rules say, asked of the door itself.

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// openTestDoor is a door with a filter, "" for none.
func openTestDoor(t *testing.T, rules string) *fileDoor {
	t.Helper()
	r := fileRules{protocol: "sftp", user: "u", home: "/"}
	if rules != "" {
		f, err := parseFilter(rules)
		if err != nil {
			t.Fatal(err)
		}
		r.filter = f
	}
	d, err := openFileDoor(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d
}

// TestFilesProc: by /proc/self/mem a client would rewrite the server, and what
// is no file has no name that a filter could judge.
func TestFilesProc(t *testing.T) {
	plain := openTestDoor(t, "")
	filtered := openTestDoor(t, "{default_action: allow, rules: [{pattern: '*.exe', action: deny}]}")
	for _, c := range []struct {
		door   *fileDoor
		path   string
		pflags uint32
		ok     bool
	}{
		{plain, "/proc/self/mem", sftpOpenRead | sftpOpenWrite, false},
		{plain, "/proc/self/comm", sftpOpenWrite, false},
		{plain, "/proc/self/comm", sftpOpenRead, true},
		{plain, "/dev/null", sftpOpenRead, true},
		{filtered, "/proc/self/mem", sftpOpenRead, false},
		{filtered, "/dev/null", sftpOpenRead, false},
		{filtered, "/etc/passwd", sftpOpenRead, true},
	} {
		f, err := c.door.open(c.path, c.pflags, 0o600, -1)
		if err == nil {
			f.close()
		}
		if ok := err == nil; ok != c.ok || !ok && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s, flags %d, filter %t: %v", c.path, c.pflags, c.door.filter != nil, err)
		}
	}
}

// TestFilesLongAlready: a file that is longer than may be is not written to.
func TestFilesLongAlready(t *testing.T) {
	d := openTestDoor(t, "{default_action: allow, rules: [{name: long, min_size: 10, action: deny, operations: [upload]}]}")
	file := t.TempDir() + "/f"
	if err := os.WriteFile(file, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := d.open(file, sftpOpenWrite, 0o600, -1)
	if denied := (*fileDenied)(nil); !errors.As(err, &denied) {
		if err == nil {
			f.writeAt([]byte("X"), 0)
			f.close()
		}
		t.Errorf("opened: %v", err)
	}
	if text, err := os.ReadFile(file); string(text) != "0123456789abcdef" {
		t.Errorf("%q, %v", text, err)
	}
}
