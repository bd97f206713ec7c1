//go:build linux

package main

// These tests copy trees: all that a name, a mode and a time can be.

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// treeHash is names, types, modes, times and contents, a line each.
func treeHash(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%q %v %d", strings.TrimPrefix(path, root), info.Mode(), info.ModTime().Unix())
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// cpMakeTree makes a tree of what can be copied, with n files in one directory.
func cpMakeTree(t *testing.T, root string, n int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"", "names", "modes", "times", "many", "deep/er/still", "empty"} {
		must(os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for b := 1; b < 256; b++ {
		if b != '/' {
			must(os.WriteFile(filepath.Join(root, "names", "x"+string([]byte{byte(b)})), []byte{byte(b)}, 0o644))
		}
	}
	must(os.WriteFile(filepath.Join(root, "names", strings.Repeat("n", 255)), nil, 0o644))
	for mode := range fs.FileMode(0o1000) {
		must(os.WriteFile(filepath.Join(root, "modes", fmt.Sprintf("%o", mode)), []byte("m"), 0o600))
		must(os.Chmod(filepath.Join(root, "modes", fmt.Sprintf("%o", mode)), mode|0o400))
	}
	for _, s := range []int64{0, 1, 1 << 31, 1<<31 - 1, 1<<32 - 1} {
		name := filepath.Join(root, "times", fmt.Sprint(s))
		must(os.WriteFile(name, []byte("t"), 0o644))
		must(os.Chtimes(name, time.Unix(s, 0), time.Unix(s, 0)))
	}
	for i := range n {
		must(os.WriteFile(filepath.Join(root, "many", fmt.Sprint(i)), fmt.Append(nil, i), 0o644))
	}
	f, err := os.Create(filepath.Join(root, "sparse"))
	must(err)
	_, err = f.WriteAt([]byte("in the middle"), 5<<20)
	must(errors.Join(err, f.Truncate(16<<20), f.Close()))
	must(os.WriteFile(filepath.Join(root, "deep/er/still/file"), []byte("deep"), 0o640))
	must(os.Chmod(filepath.Join(root, "deep/er"), 0o711))
	must(os.Chmod(filepath.Join(root, "empty"), 0o500))
	must(os.Chtimes(filepath.Join(root, "deep"), time.Unix(1e9, 0), time.Unix(1e9, 0)))
}

// A tree comes back as it was, 2,000 entries in one directory among it.
func TestCpTreeRoundTrip(t *testing.T) {
	c := newCPTest(t, newSFTPPeer(t, &sftpHand{sums: true}))
	cpMakeTree(t, c.here("tree"), 700)
	c.good("-r", "-p", "here/tree", "attic:/")
	c.good("-r", "-p", "attic:/tree", "attic:/over")
	c.good("-r", "-p", "attic:/over", "here/back")
	want := treeHash(t, c.here("tree"))
	for _, got := range []string{c.there("tree"), c.there("over"), c.here("back")} {
		if have := treeHash(t, got); have != want {
			t.Errorf("%s differs:\n%s", got, firstDifference(have, want))
		}
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(got, "sparse"), &st); err != nil || st.Blocks*512 > 4<<20 {
			t.Errorf("%s: the sparse file has %d bytes on disk, %v", got, st.Blocks*512, err)
		}
	}
	os.Chmod(c.there("tree/empty"), 0o700)
	c.good("-r", "-p", "here/tree", "attic:/") // over what is there
	if have := treeHash(t, c.there("tree")); have != want {
		t.Errorf("a second copy differs:\n%s", firstDifference(have, want))
	}
}

func firstDifference(have, want string) string {
	a, b := strings.Split(have, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] + "\n" + b[i]
		}
	}
	return fmt.Sprintf("%d and %d entries", len(a), len(b))
}

// Links are followed as scp does, but not in circles; what is no file is left
// out with a line, and directories get their times all the same.
func TestCpTreeLinks(t *testing.T) {
	c := newCPTest(t, sshcSSHD(t))
	tree := c.here("tree")
	if err := errors.Join(os.MkdirAll(filepath.Join(tree, "dir/sub"), 0o755), os.Mkdir(c.here("outside"), 0o755),
		os.Symlink("file", filepath.Join(tree, "link")), os.Symlink("../outside", filepath.Join(tree, "out")),
		os.Symlink("nowhere", filepath.Join(tree, "broken")), os.Symlink("../..", filepath.Join(tree, "dir/sub/circle")),
		syscall.Mkfifo(filepath.Join(tree, "fifo"), 0o644), os.Chtimes(filepath.Join(tree, "dir"), treeTimes, treeTimes)); err != nil {
		t.Fatal(err)
	}
	b, o := c.file(filepath.Join(tree, "file"), 100), c.file(c.here("outside/o"), 10)
	for _, w := range [][]string{{"here/tree", "attic:/up", c.there("up")}, {"attic:/tree", "here/down", c.here("down")}} {
		if err := c.cp("-r", "-p", w[0], w[1]); exitStatus(err) != 1 || strings.Count(c.errs, "\n") != 3 {
			t.Fatalf("%v, %s", err, c.errs)
		}
		for _, want := range []string{"/circle: links to a directory that it is in", "/broken: no such file", "/fifo: is no regular file"} {
			if !strings.Contains(c.errs, want) {
				t.Errorf("%q is missing in %s", want, c.errs)
			}
		}
		c.same(filepath.Join(w[2], "link"), b)
		c.same(filepath.Join(w[2], "out/o"), o)
		if info, err := os.Stat(filepath.Join(w[2], "dir")); err != nil || !info.ModTime().Equal(treeTimes) {
			t.Errorf("where something is left out, directories have no times: %v, %v", info, err)
		}
		if info, err := os.Lstat(filepath.Join(w[2], "link")); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%v, %v", info, err)
		}
		if err := errors.Join(os.Rename(tree, c.there("tree")), os.Rename(c.here("outside"), c.there("outside"))); err != nil && w[1] != "here/down" {
			t.Fatal(err)
		}
	}
}
