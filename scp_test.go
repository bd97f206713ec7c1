//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// scpTestServe does a command beside in and out, as the rules say.
func scpTestServe(t testing.TB, r fileRules, command string, in io.Reader, out io.Writer) int {
	t.Helper()
	c, ok := parseScpCommand(command)
	if !ok {
		t.Fatalf("%q is no command", command)
	}
	r.protocol, r.user = "scp", "ann"
	d, err := openFileDoor(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	return serveSCP(d, c, in, out, nil)
}

// scpTestStock does ours against a stock scp on the other side, and returns the
// statuses of both.
func scpTestStock(t *testing.T, r fileRules, ours string, stock ...string) (int, int) {
	t.Helper()
	cmd := exec.Command("scp", stock...)
	in, out := startPiped(t, cmd)
	status := scpTestServe(t, r, ours, out, in)
	in.Close()
	io.Copy(io.Discard, out)
	cmd.Wait()
	return status, cmd.ProcessState.ExitCode()
}

// scpTestPair has two stock scps talk, and returns the statuses of both.
func scpTestPair(t *testing.T, source, sink []string) (int, int) {
	t.Helper()
	from, to := exec.Command("scp", source...), exec.Command("scp", sink...)
	var ends []*os.File
	for _, side := range [][2]*exec.Cmd{{from, to}, {to, from}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		side[0].Stdout, side[1].Stdin = w, r
		ends = append(ends, r, w)
	}
	if err := errors.Join(from.Start(), to.Start()); err != nil {
		t.Fatal(err)
	}
	for _, f := range ends {
		f.Close()
	}
	from.Wait()
	to.Wait()
	return from.ProcessState.ExitCode(), to.ProcessState.ExitCode()
}

// scpTestTree fills a directory with what a copy may get wrong.
func scpTestTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for name, mode := range map[string]fs.FileMode{"a": 0o644, "empty": 0o600, "x": 0o755, "read only": 0o444, "sub/\xff\xfe": 0o640, "sub/deep/big": 0o664, "with;sign$": 0o666} {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		data := strings.Repeat(name, 20000)
		if name == "empty" {
			data = ""
		}
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name), []byte(data), mode), os.Chmod(filepath.Join(dir, name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	os.Mkdir(filepath.Join(dir, "bare"), 0o750)
	os.Symlink("a", filepath.Join(dir, "link"))
	old := time.Unix(1_000_000_000, 0)
	filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Chtimes(p, old, old)) })
	return dir
}

// scpTestList is a tree as text: name, mode, content, and times if wanted.
func scpTestList(t *testing.T, dir string, times bool) string {
	t.Helper()
	return treeText(t, dir, func(st fs.FileInfo) any {
		if times {
			return st.ModTime().Unix()
		}
		return ""
	})
}

// treeText is a directory as text: names, modes, links, contents, and a stamp.
func treeText(t testing.TB, dir string, stamp func(fs.FileInfo) any) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%q %v", p[len(dir):], st.Mode())
		switch {
		case st.Mode().IsRegular():
			data, err := os.ReadFile(p)
			fmt.Fprintf(&b, " %d %x %v", len(data), sha256.Sum256(data), err)
		case st.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			fmt.Fprintf(&b, " -> %q %v", to, err)
		}
		fmt.Fprintln(&b, "", stamp(st))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestScpAsStock: a tree that ours sends or takes is what two stock scps make.
func TestScpAsStock(t *testing.T) {
	tree := scpTestTree(t)
	for _, flags := range []string{"-r", "-r -p"} {
		times := strings.Contains(flags, "p")
		for _, there := range []bool{true, false} { // the target
			want := ""
			for _, side := range []string{"stock", "source", "sink"} {
				target := filepath.Join(t.TempDir(), "t")
				if there {
					os.Mkdir(target, 0o755)
				}
				var us, it int
				switch words := slices.Clip(strings.Fields(flags)); side {
				case "stock":
					us, it = scpTestPair(t, append(words, "-f", tree), append(words, "-t", target))
				case "source":
					us, it = scpTestStock(t, fileRules{}, "scp "+flags+" -f "+tree, append(words, "-t", target)...)
				case "sink":
					us, it = scpTestStock(t, fileRules{}, "scp "+flags+" -t "+target, append(words, "-f", tree)...)
				}
				if there { // it is of now, which need not be the same second
					if err := os.Chtimes(target, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
						t.Fatal(err)
					}
				}
				got := scpTestList(t, target, times)
				if side == "stock" {
					want = got
				}
				if us != 0 || it != 0 || got != want {
					t.Errorf("%s, %s, target there %v: %d %d\n%s\nstock:\n%s", flags, side, there, us, it, got, want)
				}
			}
		}
	}
}

// TestScpDialogs: what ours answers, byte for byte.
func TestScpDialogs(t *testing.T) {
	deny := filterTestMake(t, "allow", `[{name: no, pattern: "*.exe", action: deny}, {name: big, min_size: 10, operations: [upload], action: deny}]`)
	for _, c := range []struct {
		name, flags, in, out string
		rules                fileRules
		status               int
		left                 string // names that are there afterwards
	}{
		{"a file", "-t .", "C0644 2 a\nhi\x00", "\x00\x00\x00", fileRules{}, 0, "a"},
		{"denied, and the next goes on", "-t .", "C0644 2 a.exe\nC0644 2 b\nhi\x00", "\x00\x01scp: ./a.exe: denied by filter rule \"no\"\n\x00\x00", fileRules{filter: deny}, 1, "b"},
		{"denied by its size", "-t .", "C0644 10 a\n", "\x00\x01scp: ./a: denied by filter rule \"big\"\n", fileRules{filter: deny}, 1, ""},
		{"larger than may be", "-t .", "C0644 11 a\n", "\x00\x01scp: ./a: File too large\n", fileRules{maxSize: 10}, 1, ""},
		{"no directory", "-d -t x", "", "\x01scp: x: No such file or directory\n", fileRules{}, 1, ""},
		{"two targets", "-t x y", "", "\x02scp: ambiguous target\n", fileRules{}, 1, ""},
		{"a directory without -r", "-t .", "D0755 0 d\n", "\x00\x02scp: received directory without -r, or too deep\n", fileRules{}, 1, ""},
		{"a name that leads up", "-r -t .", "C0644 1 ..\n", "\x00\x02scp: unexpected filename \"..\"\n", fileRules{}, 1, ""},
		{"names with control bytes, and the others go on", "-r -t .", "C0644 1 a\x1b[2J\nT5 0 6 0\nD0755 0 d\x7f\nC0644 1 b\nx\x00", "\x00\x01scp: ./a\\x1b[2J: a name with control bytes is not taken here\n" +
			"\x00\x01scp: ./d\\x7f: a name with control bytes is not taken here\n\x00\x00", fileRules{}, 1, "b"},
		{"an end of nothing", "-r -t .", "E\n", "\x00\x02scp: protocol error: the end of no directory\n", fileRules{}, 1, ""},
		{"a warning of the source", "-t .", "\x01gone\nC0644 1 a\nx\x00", "\x00\x00\x00", fileRules{}, 1, "a"},
		{"times without -p", "-t .", "T5 0 6 0\nC0644 1 a\nx\x00", "\x00\x00\x00\x00", fileRules{}, 0, "a"},
		{"a source that fails midway", "-t .", "C0644 1 a\nx\x01gone\n", "\x00\x00\x00", fileRules{}, 1, "a"},
		{"nothing there", "-f x", "\x00", "\x01scp: x: No such file or directory\n", fileRules{}, 1, ""},
		{"a directory is not sent", "-f .", "\x00", "\x01scp: .: not a regular file\n", fileRules{}, 1, ""},
	} {
		dir := t.TempDir()
		c.rules.home = dir
		var out bytes.Buffer
		status := scpTestServe(t, c.rules, "scp "+c.flags, strings.NewReader(c.in), &out)
		var left []string
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			left = append(left, e.Name())
		}
		if out.String() != c.out || status != c.status || strings.Join(left, " ") != c.left {
			t.Errorf("%s: %q, status %d, left %q", c.name, out.String(), status, left)
		}
	}
}

// TestScpControlNames: of a tree with a name that a terminal would obey, a sink
// takes the others, as one that is not allowed; a source sends it, as stock's.
func TestScpControlNames(t *testing.T) {
	tree, left := filepath.Join(t.TempDir(), "tree"), ""
	for _, name := range []string{"bell\a", "line\nend\\\a\xff\xa0\xe9\x81 ", "a", "d\x1b/in", "z/z"} {
		file := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(target string) string { return scpTestList(t, target, false) }
	var trees []string
	for range 3 {
		trees = append(trees, filepath.Join(t.TempDir(), "t"))
	}
	if us, it := scpTestPair(t, []string{"-r", "-f", tree}, []string{"-r", "-t", trees[0]}); us != 0 || it != 0 {
		t.Fatal(us, it)
	}
	if us, it := scpTestStock(t, fileRules{}, "scp -r -f "+tree, "-r", "-t", trees[1]); us != 0 || it != 0 || list(trees[1]) != list(trees[0]) {
		t.Errorf("our source: %d %d\n%s\nstock:\n%s", us, it, list(trees[1]), list(trees[0]))
	}
	if us, it := scpTestStock(t, fileRules{}, "scp -r -p -t "+trees[2], "-r", "-p", "-f", tree); us != 1 || it != 1 {
		t.Errorf("our sink: %d %d", us, it)
	}
	for name := range strings.SplitSeq(list(trees[0]), "\n") {
		if !strings.HasPrefix(name, `"/bell`) && !strings.HasPrefix(name, `"/d`) {
			left += name + "\n"
		}
	}
	if got := list(trees[2]); got+"\n" != left {
		t.Errorf("our sink left\n%swant\n%s", got, left)
	}
}

// TestScpCut: a stream that ends anywhere ends the sink, and what was copied
// before stays.
func TestScpCut(t *testing.T) {
	whole := "T5 0 6 0\nD0755 0 d\nC0644 5 a\nhello\x00T5 0 6 0\nC0600 0 b\n\x00E\nC0644 1 c\nx\x00"
	for n := range len(whole) + 1 {
		dir := t.TempDir()
		status := scpTestServe(t, fileRules{root: dir, home: dir}, "scp -r -p -t /", strings.NewReader(whole[:n]), io.Discard)
		_, err := os.Stat(filepath.Join(dir, "c"))
		if ends := n == 0 || n == len(whole) || n == strings.Index(whole, "C0644 1"); (status == 0) != ends || n == len(whole) && err != nil {
			t.Errorf("cut at %d, %q: status %d", n, whole[:n], status)
		}
	}
}

// TestScpSymlinks: below a root a source leaves links out.
func TestScpSymlinks(t *testing.T) {
	tree := scpTestTree(t)
	target := t.TempDir()
	us, it := scpTestStock(t, fileRules{root: tree, home: tree}, "scp -r -f /sub /l* /*nk", "-r", "-t", target)
	if _, err := os.Lstat(filepath.Join(target, "link")); err != nil || us != 0 || it != 0 {
		t.Error("a link that was named is followed within the root:", err, us, it)
	}
	os.Symlink("/etc/passwd", filepath.Join(tree, "sub/out"))
	if us, it = scpTestStock(t, fileRules{root: tree, home: tree}, "scp -r -f /sub", "-r", "-t", target); us != 0 || it != 0 {
		t.Error(us, it)
	}
	if _, err := os.Lstat(filepath.Join(target, "sub/out")); err == nil {
		t.Error("a link was copied")
	}
}
