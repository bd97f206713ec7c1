//go:build linux

package main

// No way out of a root: every operation of SFTP and SCP by every way that would
// lead outside if there were no root.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A wayOutTest has out beside root, and in root what a client has planted: w,
// with links. Both out and, as root/out, its twin have a file f, a directory d
// with a file in it, an empty one e and a link l; nothing is called new.
type wayOutTest struct {
	*filesTest
	*rawSFTP
	root, out string
	leaked    string // what came of the outside
	leaks     [][]byte
	run       func(command, in string) (out string, status int)
}

const wayOutSecret = "OUTSIDE!"

// wayOutTime is that of all outside.
var wayOutTime = time.Unix(1234567891, 0)

// wayOuts are the ways to X, for a client whose paths begin at the root. OUT is
// the path of the outside on disk.
var wayOuts = []struct{ name, path string }{
	{"..", "/../out/X"},
	{".. of where it begins", "../out/X"},
	{".. in the middle", "/w/in/../../../out/X"},
	{"an absolute path", "OUT/X"},
	{"an absolute link", "/w/absdir/X"},
	{"a relative link", "/w/reldir/X"},
	{"a link to above", "/w/up/out/X"},
	{"a link to a link", "/w/chain/X"},
	{".. behind a link", "/w/absdir/../out/X"},
	{"/proc", "/proc/self/rootOUT/X"},
	{"a link to /proc", "/w/procdir/X"},
	{"an absolute link at the end", "/w/absend-X"},
	{"a relative link at the end", "/w/relend-X"},
	{"a link to /proc at the end", "/w/procend-X"},
}

// A wayOutOp is an operation on p, which is X by one of the ways.
type wayOutOp struct {
	name, x string
	// What becomes of a link at the end of the path: it is followed, itself is
	// meant, it is in the way, or whatever there is.
	end     byte
	changes bool // the twin
	do      func(w *wayOutTest, p string) bool
}

const (
	wayFollow = iota
	wayItself
	wayTaken
	wayAny // as of the middle of the path
)

// wayOK takes the end of a file for well: there is none where none is open.
func wayOK(r sftpReply) bool { return r.kind != sftpStatus || r.code == sftpOK || r.code == sftpEOF }

// one, two and with make operations of requests.
func wayOne(kind byte, a sftpAttrs) func(*wayOutTest, string) bool {
	return func(w *wayOutTest, p string) bool {
		return wayOK(w.do(sftpRequest{kind: kind, path: p, attrs: a}))
	}
}

func wayExt(name string, a sftpAttrs, before ...string) func(*wayOutTest, string) bool {
	return func(w *wayOutTest, p string) bool {
		var rest []byte
		for _, s := range before {
			rest = appendSFTPString(rest, s)
		}
		rest = appendSFTPString(rest, p)
		if a.flags != 0 {
			rest = a.appendTo(rest)
		}
		return wayOK(w.do(sftpRequest{kind: sftpExtended, path: name, rest: rest}))
	}
}

// wayOpen writes, or reads what is inside.
func wayOpen(pflags uint32) func(*wayOutTest, string) bool {
	return func(w *wayOutTest, p string) bool {
		if pflags&sftpOpenWrite != 0 {
			return wayOK(w.put(p, "changed", pflags))
		}
		return wayOK(onHandle(w.rawSFTP, p, pflags, func(h string) sftpRequest { return sftpRequest{kind: sftpRead, path: h, length: 99} }))
	}
}

func wayHandle(pflags uint32, ask func(h string) sftpRequest) func(*wayOutTest, string) bool {
	return func(w *wayOutTest, p string) bool { return wayOK(onHandle(w.rawSFTP, p, pflags, ask)) }
}

// wayTo gives w/mine the name p, or p the name w/got, which is read then.
func wayTo(kind byte, ext string) func(*wayOutTest, string) bool {
	return func(w *wayOutTest, p string) bool { return wayOK(w.pair(kind, ext, "/w/mine", p)) }
}

func wayFrom(kind byte, ext string) func(*wayOutTest, string) bool {
	return func(w *wayOutTest, p string) bool {
		ok := wayOK(w.pair(kind, ext, p, "/w/got"))
		w.get("/w/got")
		return ok
	}
}

func (w *wayOutTest) pair(kind byte, ext, a, b string) sftpReply {
	if ext != "" {
		return w.ext(ext, a, b)
	}
	return w.rawSFTP.do(twoNames(kind, a, b))
}

func wayScp(command, in string) func(*wayOutTest, string) bool {
	return func(w *wayOutTest, p string) bool {
		words := strings.NewReplacer("UPPER", path.Dir(path.Dir(p)), "NAME", path.Base(path.Dir(p)), "PATH", p)
		out, status := w.run(words.Replace(command), words.Replace(in))
		w.look([]byte(out))
		return status == 0
	}
}

func (w *wayOutTest) do(r sftpRequest) sftpReply { return w.rawSFTP.do(r) }

var wayOutOps = []wayOutOp{
	{"open to read", "f", wayFollow, false, wayOpen(sftpOpenRead)},
	{"open as nothing", "f", wayFollow, false, wayOpen(0)},
	{"open to write", "f", wayFollow, true, wayOpen(sftpOpenWrite)},
	{"open for both", "f", wayFollow, true, wayOpen(sftpOpenRead | sftpOpenWrite)},
	{"open to append", "f", wayFollow, true, wayOpen(sftpOpenWrite | sftpOpenAppend)},
	{"open to create", "new", wayFollow, true, wayOpen(sftpOpenNew)},
	{"open to overwrite", "f", wayFollow, true, wayOpen(sftpOpenNew)},
	{"open to truncate alone", "f", wayFollow, true, wayOpen(sftpOpenTrunc)},
	{"open to create alone", "new", wayFollow, true, wayOpen(sftpOpenCreate)},
	{"open to create, not to overwrite", "new", wayTaken, true, wayOpen(sftpOpenNew | sftpOpenExcl)},
	{"opendir and readdir", "d", wayFollow, false, func(w *wayOutTest, p string) bool {
		h := w.one(sftpOpendir, p)
		if h.kind == sftpHandle {
			w.one(sftpReaddir, string(h.data))
			w.one(sftpClose, string(h.data))
		}
		return wayOK(h)
	}},
	{"stat", "f", wayFollow, false, wayOne(sftpStat, sftpAttrs{})},
	{"lstat", "f", wayItself, false, wayOne(sftpLstat, sftpAttrs{})},
	{"setstat of the mode", "f", wayFollow, true, wayOne(sftpSetstat, sftpAttrs{flags: sftpHasMode, mode: 0o711})},
	{"setstat of the size", "f", wayFollow, true, wayOne(sftpSetstat, sftpAttrs{flags: sftpHasSize, size: 1})},
	{"setstat of the times", "f", wayFollow, true, wayOne(sftpSetstat, sftpAttrs{flags: sftpHasTimes, mtime: 9})},
	{"setstat of the owner", "f", wayFollow, false, func(w *wayOutTest, p string) bool {
		return wayOne(sftpSetstat, sftpAttrs{flags: sftpHasOwner, uid: w.acct.uid, gid: w.acct.gid})(w, p)
	}},
	{"lsetstat of the times", "f", wayItself, true, wayExt(sftpLsetstat, sftpAttrs{flags: sftpHasTimes, mtime: 9})},
	{"fstat", "f", wayFollow, false, wayHandle(sftpOpenRead, func(h string) sftpRequest { return sftpRequest{kind: sftpFstat, path: h} })},
	{"fsetstat", "f", wayFollow, true, wayHandle(sftpOpenRead, func(h string) sftpRequest {
		return sftpRequest{kind: sftpFsetstat, path: h, attrs: sftpAttrs{flags: sftpHasMode | sftpHasTimes, mode: 0o711, mtime: 9}}
	})},
	{"remove", "f", wayItself, true, wayOne(sftpRemove, sftpAttrs{})},
	{"remove a link", "l", wayItself, true, wayOne(sftpRemove, sftpAttrs{})},
	{"rmdir", "e", wayTaken, true, wayOne(sftpRmdir, sftpAttrs{})},
	{"mkdir", "new", wayTaken, true, wayOne(sftpMkdir, sftpAttrs{})},
	{"rename from", "f", wayItself, true, wayFrom(sftpRename, "")},
	{"rename a directory from", "d", wayItself, true, wayFrom(sftpRename, "")},
	{"rename to", "new", wayTaken, true, wayTo(sftpRename, "")},
	{"posix-rename from", "f", wayItself, true, wayFrom(0, sftpPosixRename)},
	{"posix-rename to", "new", wayItself, true, wayTo(0, sftpPosixRename)},
	{"posix-rename over", "f", wayItself, true, wayTo(0, sftpPosixRename)},
	{"hardlink of", "f", wayItself, false, wayFrom(0, sftpHardlink)},
	{"hardlink to", "new", wayTaken, true, wayTo(0, sftpHardlink)},
	{"symlink at", "new", wayTaken, true, wayTo(sftpSymlink, "")},
	{"symlink that leads there", "f", wayFollow, true, func(w *wayOutTest, p string) bool {
		return wayOK(w.rawSFTP.do(twoNames(sftpSymlink, "/w/in/../../"+p, "/w/got"))) && wayOpen(sftpOpenRead)(w, "/w/got") && wayOpen(sftpOpenNew)(w, "/w/got")
	}},
	{"readlink", "l", wayItself, false, wayOne(sftpReadlink, sftpAttrs{})},
	{"realpath", "f", wayFollow, false, wayOne(sftpRealpath, sftpAttrs{})},
	{"expand-path", "f", wayFollow, false, wayExt(sftpExpandPath, sftpAttrs{})},
	{"expand-path of ~", "f", wayFollow, false, func(w *wayOutTest, p string) bool { return wayOK(w.ext(sftpExpandPath, "~/"+p)) }},
	{"statvfs", "f", wayFollow, false, wayExt(sftpStatvfs, sftpAttrs{})},
	{"fstatvfs", "f", wayFollow, false, wayHandle(sftpOpenRead, func(h string) sftpRequest {
		return sftpRequest{kind: sftpExtended, path: sftpFstatvfs, rest: appendSFTPString(nil, h)}
	})},
	{"sha256-range", "f", wayFollow, false, wayHandle(sftpOpenRead, func(h string) sftpRequest {
		return sftpRequest{kind: sftpExtended, path: sftpSHA256, rest: rangeOf(h)}
	})},
	{"copy-data of", "f", wayFollow, false, func(w *wayOutTest, p string) bool {
		ok := wayOK(copyData(w.rawSFTP, p, "/w/got"))
		w.get("/w/got")
		return ok
	}},
	{"copy-data to", "f", wayFollow, true, func(w *wayOutTest, p string) bool { return wayOK(copyData(w.rawSFTP, "/w/mine", p)) }},
	{"scp of a file", "f", wayFollow, false, wayScp("scp -p -f PATH", "\x00\x00\x00\x00")},
	{"scp of a glob", "f", wayFollow, false, wayScp("scp -f PATH*", "\x00\x00\x00\x00")},
	{"scp of a tree", "d", wayAny, false, wayScp("scp -r -f PATH", "\x00\x00\x00\x00\x00\x00\x00")},
	{"scp over a file", "f", wayFollow, true, wayScp("scp -t PATH", "C0644 7 any\nchanged\x00")},
	{"scp to a new file", "new", wayFollow, true, wayScp("scp -p -t PATH", "T9 0 9 0\nC0644 7 any\nchanged\x00")},
	{"scp into a directory", "d", wayFollow, true, wayScp("scp -d -t PATH", "C0644 7 any\nchanged\x00")},
	{"scp of a tree into a directory", "d", wayFollow, true, wayScp("scp -p -r -t PATH", "T9 0 9 0\nD0711 0 any\nC0644 7 any\nchanged\x00E\n")},
	{"scp of a tree to a new name", "new", wayAny, true, wayScp("scp -r -t PATH", "D0711 0 any\nC0644 7 any\nchanged\x00E\n")},
	{"scp of a tree whose directory is there", "new", wayAny, false, wayScp("scp -p -r -t UPPER", "T9 0 9 0\nD0711 0 NAME\nC0644 7 new\nchanged\x00E\n")},
	{"scp of a path as name", "new", wayAny, false, wayScp("scp -t /w", "C0644 7 PATH\nchanged\x00")},
}

// look notes what of the outside is among bytes that came.
func (w *wayOutTest) look(b []byte) {
	for _, leak := range w.leaks {
		if bytes.Contains(b, leak) {
			w.leaked = fmt.Sprintf("%q", b)
		}
	}
}

// plant makes out, or its twin in the root: whose is what, as its user may
// change all of it, is not what keeps it.
func (w *wayOutTest) plant(dir, text string, at time.Time) {
	for _, err := range []error{
		os.RemoveAll(dir), os.MkdirAll(dir+"/d", 0o777), os.Mkdir(dir+"/e", 0o777),
		os.WriteFile(dir+"/f", []byte(text), 0o666), os.WriteFile(dir+"/d/"+text, []byte(text), 0o666), os.Symlink(text, dir+"/l"),
	} {
		if err != nil {
			w.Fatal(err)
		}
	}
	w.own(dir)
	for _, name := range []string{"f", "d/" + text, "l", "d", "e", ""} {
		ts := unix.NsecToTimespec(at.UnixNano())
		unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/"+name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}
}

func (w *wayOutTest) own(dir string) {
	filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		os.Lchown(p, int(w.acct.uid), int(w.acct.gid))
		if err == nil && e.Type()&fs.ModeSymlink == 0 {
			err = os.Chmod(p, 0o777)
		}
		return err
	})
}

// reset makes the root as it was: with a twin, all ways that would lead out lead
// there.
func (w *wayOutTest) reset(twin bool) {
	errs := []error{os.RemoveAll(w.root + "/w"), os.RemoveAll(w.root + "/out"), os.MkdirAll(w.root+"/w/in", 0o777), os.WriteFile(w.root+"/w/mine", []byte("mine"), 0o666)}
	links := map[string]string{"absdir": w.out, "reldir": "../../out", "up": "../..", "chain": "absdir", "procdir": "/proc/self/root" + w.out}
	for _, x := range []string{"f", "d", "e", "l", "new"} {
		links["absend-"+x], links["relend-"+x], links["procend-"+x] = w.out+"/"+x, "../../out/"+x, "/proc/self/root"+w.out+"/"+x
	}
	for name, to := range links {
		errs = append(errs, os.Symlink(to, w.root+"/w/"+name))
	}
	for _, err := range errs {
		if err != nil {
			w.Fatal(err)
		}
	}
	w.own(w.root + "/w")
	if twin {
		w.plant(w.root+"/out", "inside", time.Unix(1e9, 0))
	}
}

// outside is all there is beside the root, to the last change.
func (w *wayOutTest) outside() string {
	var b strings.Builder
	filepath.WalkDir(filepath.Dir(w.out), func(p string, _ fs.DirEntry, err error) error {
		if p == w.root {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		st.Atim = unix.Timespec{} // the last change is told by ctime, of whatever
		fmt.Fprintf(&b, "%q %+v %v\n", p, st, err)
		return nil
	})
	return b.String()
}

// startWayOut serves a root to f. Without a twin, an absolute path has a
// directory in the root that leads to nowhere.
func startWayOut(f *filesTest) *wayOutTest {
	w := &wayOutTest{filesTest: f, root: f.dir + "/root", out: f.dir + "/out"}
	sum := sha256.Sum256([]byte(wayOutSecret))
	at := binary.BigEndian.AppendUint32(nil, uint32(wayOutTime.Unix()))
	w.leaks = [][]byte{[]byte(wayOutSecret), sum[:], at, fmt.Appendf(nil, "T%d", wayOutTime.Unix())}
	w.plant(w.out, wayOutSecret, wayOutTime)
	for _, err := range []error{
		os.MkdirAll(w.root+filepath.Dir(w.out), 0o777), os.Symlink("/out", w.root+w.out),
		os.MkdirAll(w.root+"/proc/self", 0o777), os.Symlink("/", w.root+"/proc/self/root"),
	} {
		if err != nil {
			f.Fatal(err)
		}
	}
	w.own(w.root)
	f.set(func(c *serverConfig) { c.sftpRoot = w.root })
	f.setAccount(func(a *osAccount) { a.home = w.root })
	w.rawSFTP = f.sftp()
	w.rawSFTP.seen = w.look
	return w
}

// TestFilesNoWayOut: by each way the outside is neither read nor changed, and
// where the root has a twin of it, that is what is meant.
func TestFilesNoWayOut(t *testing.T) { filesNoWayOut(t, 3) }

func TestSlowFilesNoWayOut(t *testing.T) {
	slow(t)
	filesNoWayOut(t, 1)
}

// filesNoWayOut takes one in some ways of each operation, others of the next.
func filesNoWayOut(t *testing.T, some int) {
	bothWays(t, func(f *filesTest) {
		w := startWayOut(f)
		w.run = func(command, in string) (string, int) {
			var out bytes.Buffer
			status := scpTestServe(f, fileRules{root: w.root, home: w.root}, command, strings.NewReader(in), &out)
			return out.String(), status
		}
		child := f.acct.uid != uint32(os.Getuid())
		if child {
			w.run = func(command, in string) (string, int) {
				out, _, status := f.scp(command, in)
				return out, status
			}
		}
		w.reset(false)
		for _, way := range wayOuts {
			words := strings.NewReplacer("OUT", w.out, "X", "f").Replace(way.path)
			for _, p := range []string{w.root + "/" + words, words} {
				if text, err := os.ReadFile(p); err == nil && string(text) == wayOutSecret {
					words = ""
				}
			}
			if words != "" {
				f.Errorf("without a root %s is no way out", way.name)
			}
		}
		before, n := w.outside(), 0
		for _, twin := range []bool{false, true} {
			w.reset(twin)
			for k, way := range wayOuts {
				for i, op := range wayOutOps {
					scp := child && strings.HasPrefix(op.name, "scp ") // each a login
					if (i+k)%some > 0 || scp && (some > 1 || k%6 > 0) {
						continue
					}
					n++
					w.check(op, way.name, way.path, twin, before)
				}
			}
		}
		f.Log(n, "cases")
	})
}

// check does an operation by a way, and leaves the root as it was.
func (w *wayOutTest) check(op wayOutOp, way, p string, twin bool, before string) {
	t, dir, end := w.filesTest.T, w.root+"/out", strings.Contains(p, "end-")
	p = strings.NewReplacer("OUT", w.out, "X", op.x).Replace(p)
	what, was, want := fmt.Sprintf("%s by %s, %q, twin %t", op.name, way, p, twin), "", twin
	if end && op.end != wayFollow {
		want = op.end == wayItself
	}
	changes := twin && want && op.changes && !(end && op.end == wayItself)
	if changes {
		was = filesTree(t, dir)
	}
	ok := op.do(w, p)
	if w.leaked != "" {
		t.Errorf("%s: from outside came %s", what, w.leaked)
		w.leaked = ""
	}
	if now := w.outside(); now != before {
		t.Fatalf("%s: outside was\n%s\nand is\n%s", what, before, now)
	}
	if ok != want && op.end != wayAny {
		t.Errorf("%s: done: %t", what, ok)
	}
	if changes && op.end != wayAny && filesTree(t, dir) == was {
		t.Errorf("%s: the twin is as it was", what)
	}
	if _, err := os.Lstat(w.root + "/w/got"); ok && op.changes || op.end == wayAny || err == nil {
		w.reset(twin)
	}
}

// TestFilesNoWayOutWhole: the table has each request and extension that takes a
// path or reaches a file by one.
func TestFilesNoWayOutWhole(t *testing.T) {
	for _, name := range sftpRequestNames() {
		if !slices.ContainsFunc(wayOutOps, func(op wayOutOp) bool {
			return slices.Contains(strings.Fields(op.name), name)
		}) && !slices.Contains([]string{"close", "read", "write", "fsync", "limits", "home-directory", "users-groups-by-id"}, name) {
			t.Errorf("no case of %s", name)
		}
	}
}
