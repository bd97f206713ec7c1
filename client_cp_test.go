//go:build !windows

package main

// These tests copy to and from OpenSSH's sshd.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// A cpTest is a device and what is said on the way.
type cpTest struct {
	t    *testing.T
	peer *sshcPeer
	ctx  context.Context // nil: the test's
	dir  string          // where "here" and "there" are
	errs string          // of the last copy
	out  string
	in   string
}

func newCPTest(t *testing.T, peer *sshcPeer) *cpTest {
	c := &cpTest{t: t, peer: peer, dir: t.TempDir()}
	for _, d := range []string{"here", "there"} {
		if err := os.Mkdir(filepath.Join(c.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *cpTest) here(name string) string  { return filepath.Join(c.dir, "here", name) }
func (c *cpTest) there(name string) string { return filepath.Join(c.dir, "there", name) }

// file writes size random bytes.
func (c *cpTest) file(name string, size int) []byte {
	c.t.Helper()
	b := make([]byte, size)
	rand.Read(b)
	if err := os.WriteFile(name, b, 0o644); err != nil {
		c.t.Fatal(err)
	}
	return b
}

// cp runs the verb with words in which "there/" is the device's directory.
func (c *cpTest) cp(words ...string) error {
	c.t.Helper()
	var a cpArgs
	var operands []string
	for _, w := range words {
		switch w {
		case "-r":
			a.recursive = true
		case "-p":
			a.preserve = true
		case "-q":
			a.quiet = true
		case "-inplace":
			a.inplace = true
		default:
			w = strings.Replace(w, "attic:/", "attic:"+c.there("")+"/", 1)
			if rest, ok := strings.CutPrefix(w, "here/"); ok {
				w = c.here("") + "/" + rest
			}
			operands = append(operands, w)
		}
	}
	if err := a.places(operands, ""); err != nil {
		c.t.Fatal(err)
	}
	in, err := os.Open(cmp.Or(c.in, os.DevNull))
	if err != nil {
		c.t.Fatal(err)
	}
	defer in.Close()
	out, errs := c.temp(), c.temp()
	ctx := c.ctx
	if ctx == nil {
		ctx = c.t.Context()
	}
	err = cmdCp(ctx, c.peer, stdio{in, out, errs}, a)
	c.out, c.errs = c.read(out), c.read(errs)
	return err
}

func (c *cpTest) temp() *os.File {
	c.t.Helper()
	f, err := os.CreateTemp(c.dir, "said")
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

func (c *cpTest) read(f *os.File) string {
	f.Close()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// good fails the test unless the copy went well and without a word.
func (c *cpTest) good(words ...string) {
	c.t.Helper()
	if err := c.cp(words...); err != nil || c.errs != "" {
		c.t.Fatalf("cp %q: %v, %s", words, err, c.errs)
	}
}

func (c *cpTest) same(name string, want []byte) {
	c.t.Helper()
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, want) {
		c.t.Fatalf("%s: %d bytes, want %d, %v", name, len(got), len(want), err)
	}
}

// Sizes about every edge arrive whole, both ways and through this machine,
// with digests and without.
func TestCpSizes(t *testing.T) {
	for name, peer := range map[string]*sshcPeer{"sshd": sshcSSHD(t), "sums": newSFTPPeer(t, &sftpHand{sums: true})} {
		t.Run(name, func(t *testing.T) {
			c := newCPTest(t, peer)
			for _, size := range []int{0, 1, 32 << 10, maxSFTPData - 1, maxSFTPData, maxSFTPData + 1, 5<<20 + 3} {
				b := c.file(c.here("f"), size)
				c.good("here/f", "attic:/f")
				c.same(c.there("f"), b)
				c.good("attic:/f", "here/g")
				c.same(c.here("g"), b)
				c.good("attic:/f", "attic:/h")
				c.same(c.there("h"), b)
			}
		})
	}
}

// A cut leaves the old file as it was and a part, of which the next copy makes
// use; a part that does not fit is begun anew.
func TestCpGoesOnAfterACut(t *testing.T) {
	const size = 3 << 20
	var left, moved atomic.Int64
	h := &sftpHand{sums: true}
	h.request = func(q *sftpRequest) bool {
		if q.kind != sftpWrite {
			return true
		}
		moved.Add(int64(len(q.data)))
		return left.Add(-int64(len(q.data))) > 0
	}
	h.reply = func(_ sftpRequest, r *sftpReply) {
		if r.kind == sftpData {
			if moved.Add(int64(len(r.data))); left.Add(-int64(len(r.data))) <= 0 {
				r.kind = 0
			}
		}
	}
	c := newCPTest(t, newSFTPPeer(t, h))
	for _, tt := range []struct{ name, from, to, file, part string }{
		{"up", "here/f", "attic:/g", c.there("g"), c.there(partName("g"))},
		{"down", "attic:/f", "here/g", c.here("g"), c.here(partName("g"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.t = t
			b := c.file(c.here("f"), size)
			if err := os.WriteFile(c.there("f"), b, 0o600); err != nil {
				t.Fatal(err)
			}
			old := c.file(tt.file, 1000)
			left.Store(2 << 20)
			if err := c.cp(tt.from, tt.to); exitStatus(err) != 1 || !strings.Contains(c.errs, "stay in") || !strings.Contains(c.errs, partName("g")) || strings.Count(c.errs, "\n") > 2 {
				t.Fatalf("%v, %s", err, c.errs)
			}
			c.same(tt.file, old)
			part, err := os.ReadFile(tt.part)
			if err != nil || len(part) < 512<<10 || !bytes.Equal(part, b[:len(part)]) {
				t.Fatalf("a part of %d bytes, %v", len(part), err)
			}
			left.Store(1 << 40)
			moved.Store(0)
			if err := c.cp(tt.from, tt.to); err != nil || !strings.Contains(c.errs, "goes on behind") {
				t.Fatalf("%v, %s", err, c.errs)
			}
			c.same(tt.file, b)
			// A server that was cut off may have written more since the part was
			// read, but no more than had come: 2 MiB.
			if n := moved.Load(); n > int64(size-len(part)) || n < size-2<<20 {
				t.Errorf("moved %d bytes, %d were missing", n, size-len(part))
			}
			c.gone(tt.part)

			other := c.file(tt.part, 2<<20)
			if err := c.cp(tt.from, tt.to); err != nil || !strings.Contains(c.errs, "begun anew") {
				t.Fatalf("over a part of %d other bytes: %v, %s", len(other), err, c.errs)
			}
			c.same(tt.file, b)
			c.gone(tt.part)
		})
	}
}

func (c *cpTest) gone(name string) {
	c.t.Helper()
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		c.t.Fatalf("%s is there: %v", name, err)
	}
}

// A byte that changes on the way is seen before the old file is replaced.
func TestCpSeesADifference(t *testing.T) {
	h := &sftpHand{sums: true}
	h.request = func(q *sftpRequest) bool {
		if q.kind == sftpWrite && q.offset == 0 {
			q.data[7] ^= 1
		}
		return true
	}
	h.reply = func(q sftpRequest, r *sftpReply) {
		if q.kind == sftpRead && q.offset == 0 && r.kind == sftpData {
			r.data[7] ^= 1
		}
	}
	c := newCPTest(t, newSFTPPeer(t, h))
	for _, size := range []int{100, 1 << 20} {
		c.file(c.here("f"), size)
		c.file(c.there("f"), size)
		oldThere, oldHere := c.file(c.there("g"), 10), c.file(c.here("g"), 10)
		for _, w := range [][]string{{"here/f", "attic:/g"}, {"attic:/f", "here/g"}} {
			if err := c.cp(w...); exitStatus(err) != 1 || !strings.Contains(c.errs, "is not what was read") {
				t.Fatalf("%q: %v, %s", w, err, c.errs)
			}
		}
		c.same(c.there("g"), oldThere)
		c.same(c.here("g"), oldHere)
		c.gone(c.there(partName("g")))
		c.gone(c.here(partName("g")))
	}
}

// A device's names lead nowhere else: CVE-2019-6111.
func TestCpRefusesEvilNames(t *testing.T) {
	for _, name := range []string{"../evil", "/tmp/evil", "a/b", "", "a\x00b", "..\x00"} {
		h := &sftpHand{}
		h.reply = func(q sftpRequest, r *sftpReply) {
			for i := range r.names {
				if q.kind == sftpReaddir && r.names[i].name == "innocent" {
					r.names[i].name = name
				}
			}
		}
		c := newCPTest(t, newSFTPPeer(t, h))
		os.Mkdir(c.there("d"), 0o755)
		c.file(c.there("d/innocent"), 10)
		if err := c.cp("-r", "attic:/d", "here/d"); exitStatus(err) != 1 || !strings.Contains(c.errs, "is no name of a file") {
			t.Errorf("%q: %v, %s", name, err, c.errs)
		}
		if err := c.cp("attic:/d/*", "here/"); exitStatus(err) != 1 || !strings.Contains(c.errs, "is no name of a file") {
			t.Errorf("%q by a pattern: %v, %s", name, err, c.errs)
		}
		c.gone(c.here("evil"))
		if list, err := os.ReadDir(c.here("d")); err != nil || len(list) != 0 {
			t.Errorf("%q: %v, %v", name, list, err)
		}
	}
}

// A failure is a line for each file, and the others go on.
func TestCpGoesOnWithOthers(t *testing.T) {
	c := newCPTest(t, sshcSSHD(t))
	b := c.file(c.here("b"), 10)
	os.Mkdir(c.here("dir"), 0o755)
	if err := c.cp("here/a", "here/b", "here/dir", "here/c", "attic:/"); exitStatus(err) != 1 {
		t.Fatal(err)
	}
	c.same(c.there("b"), b)
	for _, want := range []string{"sessio: cp: " + c.here("/a") + ": no such file", "/dir: is a directory\nhint: -r ", "/c: no such"} {
		if !strings.Contains(c.errs, want) {
			t.Errorf("%q is missing in %s", want, c.errs)
		}
	}
	c.out = ""
	if err := c.cp("attic:/none*", "here/"); exitStatus(err) != 1 || !strings.Contains(c.errs, "nothing there has such a name") {
		t.Errorf("%v, %s", err, c.errs)
	}
	if err := c.cp("attic:/b", "attic:/none", "here/b"); err == nil || !strings.Contains(err.Error(), "is no directory") {
		t.Errorf("%v, %s", err, c.errs)
	}
}

// What has no directory to go to is said to have none, once, and how to make it;
// nothing is made.
func TestCpWithoutADirectory(t *testing.T) {
	c := newCPTest(t, sshcSSHD(t))
	c.file(c.here("f"), 10)
	c.file(c.there("f"), 10)
	if err := errors.Join(os.MkdirAll(c.here("d/e"), 0o755), os.Mkdir(c.there("d"), 0o755)); err != nil {
		t.Fatal(err)
	}
	up, down := "attic:"+c.there("no/such"), c.here("no/such")
	for _, words := range [][]string{
		{"here/f", "attic:/no/such/f", "/f", up}, {"-inplace", "here/f", "attic:/no/such/f", "/f", up}, {"-r", "here/d", "attic:/no/such/d", "/d", up}, {"here/f", "attic:/no/such/", "", up},
		{"attic:/f", "here/no/such/f", "/f", down}, {"-inplace", "attic:/f", "here/no/such/f", "/f", down}, {"-r", "attic:/d", "here/no/such/d", "/d", down}, {"here/f", "attic:/f", "here/no/such", "", down},
	} {
		n := len(words) - 2
		want := "no such file or directory: there is no " + words[n+1]
		hint := "mkdir makes it"
		if words[n+1] == up {
			hint = "mkdir in sessio sftp attic makes it"
		}
		err := c.cp(words[:n]...)
		if words[n] == "" { // main says it
			if err == nil || err.Error() != want || hintOf(err) != hint {
				t.Errorf("%q: %v", words, err)
			}
		} else if said := "sessio: cp: " + words[n+1] + words[n] + ": " + want + "\nhint: " + hint + "\n"; exitStatus(err) != 1 || c.errs != said {
			t.Errorf("%q: %v, %s want %s", words, err, c.errs, said)
		}
	}
	c.gone(c.there("no"))
	c.gone(c.here("no"))
}

// What stands under the name is kept in mode, and through a link.
func TestCpOverWhatIsThere(t *testing.T) {
	c := newCPTest(t, sshcSSHD(t))
	b := c.file(c.here("f"), 1<<20)
	for _, place := range []string{c.there(""), c.here("")} {
		w := []string{"here/f", "attic:/link"}
		if place == c.here("") {
			c.good("here/f", "attic:/f")
			w = []string{"attic:/f", "here/link"}
		}
		target := filepath.Join(place, "target")
		c.file(target, 5)
		if err := errors.Join(os.Chmod(target, 0o620), os.Symlink("target", filepath.Join(place, "link"))); err != nil {
			t.Fatal(err)
		}
		for _, how := range []string{"-q", "-inplace"} {
			if how == "-q" {
				w = append([]string{how}, w...)
			}
			w[0] = how
			c.good(w...)
			c.same(target, b)
			if info, err := os.Stat(target); err != nil || info.Mode() != 0o620 {
				t.Errorf("%v %v", info.Mode(), err)
			}
			if to, err := os.Readlink(filepath.Join(place, "link")); to != "target" {
				t.Errorf("the link leads to %q, %v", to, err)
			}
		}
		if err := os.Remove(target); err != nil {
			t.Fatal(err)
		}
		for range 2 { // a link to nothing yet
			c.good(w...)
			c.same(target, b)
			if err := os.Remove(target); err != nil {
				t.Fatal(err)
			}
			w[0] = "-q"
		}
	}
}

// Standard input goes up, and a file comes to standard output.
func TestCpStandardStreams(t *testing.T) {
	c := newCPTest(t, sshcSSHD(t))
	b := c.file(c.here("f"), 3<<20+5)
	c.in = c.here("f")
	c.good("-", "attic:/g")
	c.same(c.there("g"), b)
	c.in = ""
	c.good("attic:/g", "-")
	if c.out != string(b) {
		t.Errorf("%d bytes, want %d", len(c.out), len(b))
	}
}

// A pipe is refused: an open would wait for its other end.
func TestCpPipe(t *testing.T) {
	c := newCPTest(t, sshcSSHD(t))
	if err := syscall.Mkfifo(c.here("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.cp("here/pipe", "attic:/f"); err == nil || !strings.Contains(c.errs, "here/pipe: is a pipe") || !strings.Contains(c.errs, "cp - DEVICE:FILE") {
		t.Errorf("%v: %s", err, c.errs)
	}
	c.gone(c.there("f"))
}
