//go:build linux

package main

// Trees of all that a file system may hold: fifty thousand entries and five GiB
// by cp over a link and back, and a smaller one by stock clients.

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// roomyDir is a directory with this many bytes of room, in memory where that has
// them.
func roomyDir(t *testing.T, bytes uint64) string {
	t.Helper()
	var st syscall.Statfs_t
	if syscall.Statfs("/dev/shm", &st) != nil || st.Bavail*uint64(st.Bsize) < bytes {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "sessio-tree-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const (
	bigTreeEntries = 50_000
	bigTreeNoise   = 350 << 20       // bytes of noise in one file
	bigTreeSparse  = 4<<30 + 600<<20 // bytes of a file with holes, beyond 2^32
)

// bigTreeOdd are left out by cp, with these words.
var bigTreeOdd = map[string]string{"broken": "no such file", "broken too": "no such file", "fifo": "is no regular file: left out", "fifo too": "is no regular file: left out"}

// makeBigTree makes it, of names, modes and times that a number makes. Who is
// not root has to be able to read its own.
func makeBigTree(t *testing.T, root string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(6, 2))
	own := uint32(0)
	if os.Geteuid() != 0 {
		own = 0o700
	}
	name := func(i int) string {
		b := make([]byte, 1+rng.IntN(24))
		for k := range b {
			if b[k] = byte(1 + rng.IntN(255)); b[k] == '/' {
				b[k] = '.'
			}
		}
		return fmt.Sprintf("%s%d", b, i)
	}
	ages := []int64{0, 1, math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32}
	age := func(i int) time.Time {
		if i < len(ages) {
			return time.Unix(ages[i], 0)
		}
		return time.Unix(rng.Int64N(math.MaxUint32+1), 0)
	}
	must(os.Mkdir(root, 0o755))
	dirs, text := []string{root}, make([]byte, 8<<10)
	for i := 1; i < 500; i++ { // up to some dozen deep
		dirs = append(dirs, filepath.Join(dirs[rng.IntN(len(dirs))], name(i)))
		must(os.Mkdir(dirs[i], 0o755))
	}
	for i := 0; i < bigTreeEntries-500-8; i++ {
		file := filepath.Join(dirs[rng.IntN(len(dirs))], name(i))
		size := 0
		if i%8 != 0 {
			size = rng.IntN(1 << (i % 14))
		}
		for k := range size {
			text[k] = byte(rng.Uint32())
		}
		when := age(i)
		must(errors.Join(os.WriteFile(file, text[:size], 0o600), syscall.Chmod(file, uint32(i)&0o7777|own), os.Chtimes(file, when, when)))
	}
	f, err := os.Create(filepath.Join(root, "noise"))
	must(err)
	_, err = io.Copy(f, noise(bigTreeNoise))
	must(errors.Join(err, f.Close()))
	f, err = os.Create(filepath.Join(root, "sparse"))
	must(err)
	for _, off := range []int64{0, 1 << 31, 1<<32 - 2, bigTreeSparse - 1<<20} {
		_, wErr := f.WriteAt([]byte("no hole"), off)
		err = errors.Join(err, wErr)
	}
	must(errors.Join(err, f.Truncate(bigTreeSparse), f.Close(), os.Symlink("noise", filepath.Join(root, "link")), os.Symlink("sparse-not", filepath.Join(root, "broken")),
		os.Symlink("/nowhere", filepath.Join(root, "broken too")), syscall.Mkfifo(filepath.Join(root, "fifo"), 0o644), syscall.Mkfifo(filepath.Join(root, "fifo too"), 0)))
	must(os.Symlink(dirs[499], filepath.Join(root, "link to a directory")))
	modes := []uint32{0o755, 0o700, 0o1777, 0o2755, 0o4711, 0o500, 0, 0o7777}
	for i, dir := range slices.Backward(dirs) { // what is above comes last: its time changes
		must(errors.Join(syscall.Chmod(dir, modes[i%len(modes)]|own), os.Chtimes(dir, age(i), age(i))))
	}
}

// A treeEntry is one of a tree, without its mode's bits.
type treeEntry struct {
	text string
	dir  bool
	mode uint32
}

// sayTree has a line for each, with as much of the modes as is told.
func sayTree(tree []treeEntry, files, dirs uint32) string {
	var lines []string
	for _, e := range tree {
		mask := files
		if e.dir {
			mask = dirs
		}
		lines = append(lines, fmt.Sprintf("%s %o", e.text, e.mode&mask))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// copiedTree is what cp -r -p makes of a tree: links are followed, what is no
// file left out.
func copiedTree(t *testing.T, root string) (tree []treeEntry) {
	t.Helper()
	var walk func(name string)
	walk = func(name string) {
		var st syscall.Stat_t
		err := syscall.Stat(name, &st)
		if err != nil && bigTreeOdd[filepath.Base(name)] == "" {
			t.Fatal(name, err)
		}
		head := fmt.Sprintf("%q %d ", name[len(root):], st.Mtim.Sec)
		switch {
		case err != nil || st.Mode&syscall.S_IFMT == syscall.S_IFIFO:
		case st.Mode&syscall.S_IFMT == syscall.S_IFDIR:
			tree = append(tree, treeEntry{head, true, st.Mode & 0o7777})
			list, err := os.ReadDir(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				walk(name + "/" + e.Name())
			}
		default:
			h := sha256.New()
			f, err := os.Open(name)
			if err == nil {
				_, err = io.Copy(h, f)
				f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			tree = append(tree, treeEntry{fmt.Sprintf("%s%d %x", head, st.Size, h.Sum(nil)[:12]), false, st.Mode & 0o7777})
		}
	}
	walk(root)
	return tree
}

// maxTreeMemory is what either side may hold while the big tree is copied, in
// KiB: 64 files at once, and 500 directories of which something is remembered.
const maxTreeMemory = 48 << 10

// TestSlowCpBigTree: names of every byte, modes, times from 1970 to 2106, links,
// holes and offsets beyond 2^32 come to a device by cp -r -p and back. Left out,
// and said, are fifos and links to nothing. What comes from a device gets no
// bit that lends rights here: files neither setuid nor setgid, directories no
// setuid.
func TestSlowCpBigTree(t *testing.T) {
	slow(t)
	j := newJudge(t, "")
	dir := roomyDir(t, 6<<30)
	began := time.Now()
	src, far, back := dir+"/src", dir+"/far", dir+"/back"
	makeBigTree(t, src)
	want := copiedTree(t, src)
	t.Logf("%d entries are made and read after %v", len(want), time.Since(began))
	j.on = "laptop"
	copyTree := func(way, from, to string, odd int) {
		t.Helper()
		cmd := j.command(toolFile(), "cp", "-r", "-p", from, to)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &errs, &errs, time.Second
		began, peak, done := time.Now(), 0, make(chan error, 1)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() }).Stop()
		go func() { done <- cmd.Wait() }()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for over := false; !over; {
			select {
			case <-tick.C:
				peak = max(peak, procStatus(cmd.Process.Pid, "VmHWM"))
			case <-done:
				over = true
			}
		}
		server := procStatus(j.pid("attic"), "VmHWM")
		t.Logf("%s: %v, %v of processor here; at most %d MiB here and %d MiB there", way, time.Since(began).Round(time.Millisecond),
			cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), peak>>10, server>>10)
		if code := cmd.ProcessState.ExitCode(); code != min(odd, 1) || strings.Count(errs.String(), "\n") != odd {
			t.Fatalf("%s: status %d, said %.2000s", way, code, errs.String())
		}
		for name, why := range bigTreeOdd {
			if odd > 0 && !strings.Contains(errs.String(), "/"+name+": "+why) {
				t.Errorf("%s: nothing is said of %s: %s", way, name, errs.String())
			}
		}
		if os.Getenv(toolFileEnv) != "" && max(peak, server) > maxTreeMemory { // the detector of races has its own
			t.Errorf("%s: more than %d MiB", way, maxTreeMemory>>10)
		}
	}
	copyTree("up", src, "attic:"+far, len(bigTreeOdd))
	copyTree("down", "attic:"+far, back, 0)
	for _, x := range []struct {
		dir         string
		files, dirs uint32
	}{{far, 0o7777, 0o7777}, {back, 0o1777, 0o3777}} {
		have, want := sayTree(copiedTree(t, x.dir), 0o7777, 0o7777), sayTree(want, x.files, x.dirs)
		if have != want {
			t.Errorf("%s differs:\n%s", x.dir, firstDifference(have, want))
		}
		var st syscall.Stat_t
		if err := syscall.Stat(x.dir+"/sparse", &st); err != nil || st.Size != bigTreeSparse || st.Blocks*512 > 64<<20 {
			t.Errorf("%s: the sparse file has %d bytes, %d on disk, %v", x.dir, st.Size, st.Blocks*512, err)
		}
	}
	t.Logf("all of it took %v", time.Since(began))
}

// TestSlowFilesKinds: of a tree of all kinds, stock clients make at a device, and
// here of what is there, what they make with sshd, and say the same of what they
// leave out.
func TestSlowFilesKinds(t *testing.T) {
	slow(t)
	j := newFileJudge(t)
	src := filepath.Join(j.work, "src")
	cpMakeTree(t, src, 20)
	for mode := range uint32(8) {
		for _, perm := range []uint32{0, 0o755} {
			name := filepath.Join(src, fmt.Sprintf("bits%o-%o", mode, perm))
			if err := errors.Join(os.WriteFile(name, []byte("bits"), 0o600), syscall.Chmod(name, mode<<9|perm|0o400),
				os.Mkdir(name+" dir", 0o700), syscall.Chmod(name+" dir", mode<<9|perm|0o500)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(os.Symlink("sparse", src+"/link"), os.Symlink("deep", src+"/link to a directory"), os.Symlink("nowhere", src+"/broken"),
		syscall.Mkfifo(src+"/fifo", 0o644), os.Link(src+"/sparse", src+"/hard")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stamp := func(st fs.FileInfo) any { // what a client does not keep is of now
		if st.ModTime().After(began.Add(-time.Minute)) && st.ModTime().Before(time.Now().Add(time.Minute)) {
			return "now"
		}
		return st.ModTime().Unix()
	}
	if err := filepath.WalkDir(src, func(name string, e fs.DirEntry, err error) error {
		if st, statErr := os.Lstat(name); err == nil && statErr == nil && stamp(st) == "now" && e.Type()&fs.ModeSymlink == 0 {
			err = os.Chtimes(name, treeTimes, treeTimes)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, client := range []struct {
		name     string
		up, down []string
	}{
		{"scp", []string{"scp", "-s", "-rp", "SRC", "h:FAR"}, []string{"scp", "-s", "-rp", "h:FROM", "BACK"}},
		{"sftp", []string{"put -Rp SRC FAR"}, []string{"get -Rp FROM BACK"}},
		{"scp-O", []string{"scp", "-O", "-rp", "SRC", "h:FAR"}, []string{"scp", "-O", "-rp", "h:FROM", "BACK"}},
	} {
		if client.name == "scp-O" { // ours takes no control bytes in names: not as OpenSSH, on purpose
			names, err := filepath.Glob(src + "/names/x[\x01-\x1f\x7f]")
			if err != nil || len(names) != 32 {
				t.Fatal(len(names), err)
			}
			for _, name := range names {
				os.Remove(name)
			}
			os.Chtimes(src+"/names", treeTimes, treeTimes)
		}
		var trees, said [2][2]string // by peer, and way
		for i, p := range j.peers {
			far, back := filepath.Join(j.work, client.name+"-far-"+p.name), filepath.Join(j.work, client.name+"-back-"+p.name)
			for way, words := range [][]string{client.up, client.down} {
				// What comes down is the source: of what went up kinds are missing.
				fill := strings.NewReplacer("SRC", src, "FROM", src, "FAR", far, "BACK", back)
				var args []string
				for _, w := range words {
					args = append(args, fill.Replace(w))
				}
				if len(args) == 1 {
					args = []string{"sftp", "-b", write(t, p.dir+"/batch", args[0]+"\n"), "-F", p.dir + "/config", "h"}
				} else {
					args = slices.Insert(args, 2, "-F", p.dir+"/config")
				}
				cmd := exec.Command(args[0], args[1:]...)
				cmd.Dir, cmd.Env = p.dir, append(os.Environ(), "LC_ALL=C", "HOME="+p.dir)
				defer timeLimit(cmd)()
				out, err := cmd.CombinedOutput()
				lines := strings.Split(strings.NewReplacer(far, "FAR", back, "BACK").Replace(string(out)), "\n")
				slices.Sort(lines)
				said[i][way] = fmt.Sprint(exitCode(cmd, err), strings.Join(lines, "\n"))
				trees[i][way] = treeText(t, []string{far, back}[way], stamp)
			}
		}
		for way, name := range []string{"up", "down"} {
			if trees[0][way] != trees[1][way] {
				t.Errorf("%s, %s, with sessio and with sshd:\n%s", client.name, name, firstDifference(trees[0][way], trees[1][way]))
			}
			if said[0][way] != said[1][way] {
				t.Errorf("%s, %s, with sessio says\n%s\nwith sshd\n%s", client.name, name, said[0][way], said[1][way])
			}
			if n := strings.Count(trees[1][way], "\n"); n < 800 {
				t.Errorf("%s, %s: only %d entries, and it said %s", client.name, name, n, said[1][way])
			}
		}
		t.Logf("%s: %d entries up, %d down", client.name, strings.Count(trees[0][0], "\n"), strings.Count(trees[0][1], "\n"))
	}
}
