package main

// These tests put parts of others in the way of copies, and end copies early.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A part that others may have open is not made use of, nor is one that does not
// fit truncated: the file is another one than what they hold.
func TestCpPartOfOthers(t *testing.T) {
	c := newCPTest(t, newSFTPPeer(t, &sftpHand{ours: true}))
	const size = 1 << 20
	b := c.file(c.here("f"), size)
	if err := os.WriteFile(c.there("f"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{c.there("g"), c.here("g")} {
		w := []string{"here/f", "attic:/g"}
		part := c.there(partName("g"))
		if to == c.here("g") {
			w, part = []string{"attic:/f", "here/g"}, c.here(partName("g"))
		}
		for _, tt := range []struct {
			mode    os.FileMode
			content []byte
		}{{0o666, b[:size/2]}, {0o600, bytes.Repeat([]byte("x"), size/2)}} {
			if err := os.WriteFile(part, tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(part, tt.mode); err != nil {
				t.Fatal(err)
			}
			held, err := os.OpenFile(part, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			if err := c.cp(w...); err != nil || strings.Contains(c.errs, "goes on") {
				t.Fatalf("%q: %v, %s", w, err, c.errs)
			}
			if info, err := held.Stat(); err != nil || info.Size() != size/2 {
				t.Errorf("%q: what is held is %v, %v", w, info, err)
			}
			held.WriteAt([]byte("EVIL"), 0)
			c.same(to, b)
			if info, err := os.Stat(to); err != nil || info.Mode().Perm()&0o022 != 0 {
				t.Errorf("%q: %v, %v", w, info.Mode(), err)
			}
			c.gone(part)
			os.Remove(to)
		}
	}
}

// What is of no use after an interruption is removed at the device.
func TestCpInterruptedLeavesNothing(t *testing.T) {
	ctx, cut := context.WithCancelCause(t.Context())
	h := &sftpHand{ours: true}
	h.request = func(q *sftpRequest) bool {
		if q.kind == sftpWrite {
			cut(signalError{syscall.SIGINT})
		}
		return true
	}
	c := newCPTest(t, newSFTPPeer(t, h))
	c.ctx = ctx
	c.file(c.here("f"), 8<<20)
	c.in = c.here("f")
	if err := c.cp("-", "attic:/pipe"); exitStatus(err) != 130 {
		t.Fatalf("%v, %s", err, c.errs)
	}
	c.gone(c.there(partName("pipe")))
	c.gone(c.there("pipe"))
}

// Zeros that are not sent take none of the rate: nothing is waited for.
func TestCpZerosTakeNoRate(t *testing.T) {
	c := newCPTest(t, newSFTPPeer(t, &sftpHand{ours: true}))
	if err := os.WriteFile(c.here("f"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := localSide{}.read(c.here("f"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	l := &rateLimit{rate: 64 << 10}
	f := &cpFile{e: &cpEngine{ctx: t.Context(), limit: l, bar: newCPBar(c.temp(), true, time.Now)}, r: r, w: &remoteWriter{plain: true, end: 1 << 20, sftpWriter: sftpWriter{c: &sftpClient{}}}, j: cpJob{src: localSide{}}, digest: sha256.New()}
	if err := f.pump(1); err != nil || f.off != 1<<20 || !l.next.IsZero() {
		t.Errorf("%d bytes, waits until %v, %v", f.off, l.next, err)
	}
}

// A source that cannot be read is the one that is named, and a target without a
// home is too.
func TestCpNamesWhatFailed(t *testing.T) {
	c := newCPTest(t, newSFTPPeer(t, &sftpHand{ours: true}))
	if err := c.cp("/proc/self/mem", "attic:/mem"); exitStatus(err) != 1 || !strings.HasPrefix(c.errs, "sessio: cp: /proc/self/mem: ") {
		t.Errorf("%v, %s", err, c.errs)
	}
	c.file(c.here("f"), 10)
	if err := c.cp("here/f", "attic:~nobodyatall/x"); err == nil || !strings.Contains(err.Error(), "attic:~nobodyatall/x: ") {
		t.Errorf("%v, %s", err, c.errs)
	}
	if err := c.cp("here/f", "attic:/"+strings.Repeat("n", 256)); err == nil || !strings.Contains(err.Error(), "file name too long") {
		t.Errorf("%v, %s", err, c.errs)
	}
	r, err := localSide{}.read("/proc/self/status", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if data, err := r.next(); err != nil || len(data) < 100 {
		t.Errorf("%d bytes of a file without a size, %v", len(data), err)
	}
	if _, err := parseFilter("{default_action: allow, rules: [{path_prefix: /, action: deny, operations: [mkdirs, reads]}]}"); err == nil || strings.Count(err.Error(), "rule 1: operations: ") != 2 {
		t.Errorf("%v", err)
	}
}
