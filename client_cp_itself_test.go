//go:build !windows

package main

// These tests copy files onto themselves, and at a rate.

import (
	"os"
	"strings"
	"testing"
	"time"
)

// A directory does not go into itself, nor a file onto itself.
func TestCpRefusesItself(t *testing.T) {
	c := newCPTest(t, newSFTPPeer(t, &sftpHand{ours: true}))
	os.MkdirAll(c.there("d/sub"), 0o755)
	os.Symlink("d", c.there("link"))
	b, mine := c.file(c.there("d/f"), 100), c.file(c.here("f"), 10)
	os.Link(c.here("f"), c.here("hard"))
	for _, w := range [][]string{
		{"-r", "attic:/d", "attic:/d/sub"}, {"-r", "attic:/d", "attic:/link/new"}, {"-r", "attic:/d", "attic:/"},
		{"-inplace", "attic:/d/f", "attic:/link/f"}, {"-inplace", "attic:/d/f", "here/f", "here/hard"},
	} {
		if w[len(w)-1] == "here/hard" { // beside one from a device
			os.Mkdir(c.here("to"), 0o755)
			os.Link(c.here("f"), c.here("to/f"))
			w = []string{"-inplace", "attic:/d/sub/none", "here/f", "here/to"}
		}
		if err := c.cp(w...); exitStatus(err) != 1 || !strings.Contains(c.errs, "left alone") {
			t.Errorf("%q: %v, %s", w, err, c.errs)
		}
	}
	c.same(c.there("d/f"), b)
	c.same(c.here("f"), mine)
	if list, err := os.ReadDir(c.there("d/sub")); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// A rate holds: a quarter of a second's bytes may go at once.
func TestCpKeepsARate(t *testing.T) {
	l := &rateLimit{rate: 1 << 20}
	at := time.Now()
	for sent := 0; sent < 1<<20; {
		n := l.most(64 << 10)
		if err := l.wait(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	if took := time.Since(at); took < 900*time.Millisecond {
		t.Errorf("1 MiB took %v at 1 MiB a second", took)
	}
}
