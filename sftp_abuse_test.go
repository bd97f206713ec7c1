//go:build linux

package main

// Hostile SFTP: what is cut, too long, too much, or leads out of a root. It gets
// an error or an end, in bounded memory.

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sftpFed serves what stands in stream, and returns the answers.
func sftpFed(t testing.TB, r fileRules, stream []byte) ([]sftpReply, error) {
	t.Helper()
	d, err := openFileDoor(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	var out bytes.Buffer
	err = (&sftpServer{door: d}).serve(t.Context(), bytes.NewReader(stream), &out)
	var replies []sftpReply
	for out.Len() > 0 {
		packet, err := readSFTPPacket(&out, nil)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := parseSFTPReply(packet)
		if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, reply)
	}
	return replies, err
}

func sftpStreamOf(p *oraclePeer, ops ...oracleOp) (b []byte) {
	for i, op := range append([]oracleOp{askInit}, ops...) {
		q := op(p)
		if i > 0 {
			q.id = uint32(i)
		}
		b = q.appendTo(b)
	}
	return b
}

// sftpEveryKind is a session with each kind of request.
func sftpEveryKind(p *oraclePeer) []byte {
	a := sftpAttrs{flags: 15, size: 3, mode: 0o600}
	p.handles = []string{"\x00\x00\x00\x01", "\x00\x00\x00\x02"}
	return sftpStreamOf(p, askOpen("new", 0x1b, a), askPath(sftpOpendir, "d"), askHandle(sftpWrite, 0, sftpRequest{data: []byte("data")}), askHandle(sftpRead, 0, sftpRequest{length: 9}),
		askHandle(sftpReaddir, 1, sftpRequest{}), askHandle(sftpFstat, 0, sftpRequest{}), askHandle(sftpFsetstat, 0, sftpRequest{attrs: a}), askPath(sftpStat, "f"), askAttrs(sftpSetstat, "f", a),
		askAttrs(sftpMkdir, "m", a), askPath(sftpRmdir, "m"), askTwo(sftpRename, "f", "g"), askTwo(sftpSymlink, "g", "s"), askPath(sftpReadlink, "s"), askPath(sftpRemove, "s"), askPath(sftpRealpath, "."),
		askExtended(sftpPosixRename, "g", "f"), askExtended(sftpHardlink, "f", "h"), askExtended(sftpStatvfs, "."), askExtended(sftpFstatvfs, 0), askExtended(sftpFsync, 0), askExtended(sftpLsetstat, "f", a),
		askExtended(sftpLimits), askExtended(sftpExpandPath, "~"), askExtended(sftpHomeDir, "root"), askExtended(sftpUsersGroups, "\x00\x00\x00\x00", ""), askExtended(sftpCopyData, 0, uint64(0), uint64(1), 1, uint64(0)),
		askExtended(sftpSHA256, 0, uint64(0), uint64(0)), askHandle(sftpClose, 0, sftpRequest{}), askHandle(sftpClose, 1, sftpRequest{}))
}

// TestSFTPTruncated: each packet cut at every length, both as the end of the
// stream and with a length that says so.
func TestSFTPTruncated(t *testing.T) {
	dir := t.TempDir()
	oracleTree(t, dir+"/t")
	rules := fileRules{protocol: "sftp", home: dir + "/t"}
	whole := sftpEveryKind(&oraclePeer{dir: dir})
	if replies, err := sftpFed(t, rules, whole); err != nil || len(replies) != 31 {
		t.Fatalf("whole: %d replies, %v", len(replies), err)
	}
	for begin := 0; begin < len(whole); {
		n := int(binary.BigEndian.Uint32(whole[begin:]))
		for cut := range n + 4 {
			if _, err := sftpFed(t, rules, whole[:begin+cut]); (err == nil) != (cut == 0) {
				t.Fatalf("the packet at %d ends after %d of %d bytes: %v", begin, cut, n+4, err)
			}
			if cut < 4 {
				continue
			}
			short := binary.BigEndian.AppendUint32(bytes.Clone(whole[:begin]), uint32(cut-4))
			short = append(append(short, whole[begin+4:begin+cut]...), whole[begin+4+n:]...)
			sftpFed(t, rules, short) // some field less may be well
		}
		begin += 4 + n
	}
}

func TestSFTPLimits(t *testing.T) {
	dir := t.TempDir()
	oracleTree(t, dir+"/t")
	rules := fileRules{protocol: "sftp", home: dir + "/t"}
	p := &oraclePeer{handles: []string{"\x00\x00\x00\x01"}}

	ops := []oracleOp{}
	for range 300 {
		ops = append(ops, askOpen("d/g", sftpOpenRead, sftpAttrs{}))
	}
	replies, err := sftpFed(t, rules, sftpStreamOf(p, append(ops, askHandle(sftpClose, 0, sftpRequest{}), ops[0], ops[0])...))
	granted := 0
	for _, r := range replies {
		if r.kind == sftpHandle {
			granted++
		}
	}
	if n := len(replies); err != nil || granted != maxSFTPHandles+1 || replies[n-2].kind != sftpHandle || replies[n-1].code != sftpFailure {
		t.Errorf("%d of 300 handles and one after a close, %v", granted, err)
	}

	for _, n := range []uint32{1 << 31, math.MaxUint32} {
		replies, err := sftpFed(t, rules, sftpStreamOf(p, ops[0], askHandle(sftpRead, 0, sftpRequest{length: n})))
		if err != nil || len(replies[2].data) != 100000 {
			t.Errorf("READ of %d: %d bytes, %v", n, len(replies[2].data), err)
		}
	}
	for _, n := range []uint32{0, maxSFTPPacket + 1, 1 << 31, math.MaxUint32} {
		stream := append(sftpStreamOf(p), binary.BigEndian.AppendUint32(nil, n)...)
		if replies, err := sftpFed(t, rules, append(stream, make([]byte, 300<<10)...)); err != errSFTPLong || len(replies) != 1 {
			t.Errorf("a packet of %d bytes: %v", n, err)
		}
	}
	most := sftpRequest{kind: sftpStat, path: strings.Repeat("x", maxSFTPPacket-9)}
	if replies, err := sftpFed(t, rules, sftpStreamOf(p, func(*oraclePeer) sftpRequest { return most })); err != nil || replies[1].code != sftpBadMessage {
		t.Errorf("a packet of 256 KiB: %v, %v", replies, err)
	}
	for c := range 256 {
		name := "n" + string([]byte{byte(c)})
		if c == 0 || c == '/' {
			continue
		}
		if replies, err := sftpFed(t, rules, sftpStreamOf(p, askAttrs(sftpMkdir, name, sftpAttrs{}), askPath(sftpRealpath, name))); err != nil || !strings.HasSuffix(replies[2].names[0].name, "/"+name) {
			t.Errorf("%q: %v, %v", name, replies, err)
		}
		if st, err := os.Lstat(dir + "/t/" + name); err != nil || !st.IsDir() {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestSFTPUnread: 2,048 READs of 255 KiB to one who reads no answer take no more
// memory than one answer.
func TestSFTPUnread(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", make([]byte, maxSFTPData), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openFileDoor(fileRules{protocol: "sftp", home: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	p := &oraclePeer{handles: []string{"\x00\x00\x00\x01"}}
	ops := []oracleOp{askOpen("f", sftpOpenRead, sftpAttrs{})}
	for range 2048 {
		ops = append(ops, askHandle(sftpRead, 0, sftpRequest{length: maxSFTPData}))
	}
	stream := sftpStreamOf(p, ops...)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- (&sftpServer{door: d}).serve(context.Background(), bytes.NewReader(stream), w) }()
	var first [4]byte
	if _, err := io.ReadFull(r, first[:]); err != nil { // it has begun, and waits now
		t.Fatal(err)
	}
	if grown := int64(heap()) - int64(before); grown > 2<<20 {
		t.Errorf("%d bytes for answers that nobody reads", grown)
	} else {
		t.Logf("%d bytes", grown)
	}
	r.Close()
	if err := <-done; err != io.ErrClosedPipe {
		t.Errorf("its end: %v", err)
	}
}

// FuzzSFTPServer: any bytes are served below a root, and end.
func FuzzSFTPServer(f *testing.F) {
	var seed []byte
	for _, r := range []sftpRequest{{kind: sftpInit, id: 3}, {kind: sftpOpen, id: 1, path: "f", pflags: sftpOpenCreate | sftpOpenWrite}, {kind: sftpRealpath, id: 2, path: "d/.."}} {
		seed = r.appendTo(seed)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) > 4<<10 {
			return
		}
		dir := t.TempDir()
		if err := os.MkdirAll(dir+"/d", 0o700); err != nil {
			t.Fatal(err)
		}
		d, err := openFileDoor(fileRules{protocol: "sftp", home: dir, root: dir, maxSize: 1 << 20}, nil) // or hashing would take for ever
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		(&sftpServer{door: d}).serve(t.Context(), bytes.NewReader(stream), io.Discard)
	})
}

// TestSFTPRootRace: while a directory and a link that leads out change places
// without end, no operation through them reaches what lies outside.
func TestSFTPRootRace(t *testing.T) { rootRace(t, 2*time.Second) }

func TestSlowSFTPRootRace(t *testing.T) {
	slow(t)
	rootRace(t, 30*time.Second)
}

func rootRace(t *testing.T, lasts time.Duration) {
	base := t.TempDir()
	root, out := base+"/root", base+"/out"
	for _, dir := range []string{root + "/spot", out + "/empty"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{root + "/spot", out} {
		if err := os.WriteFile(dir+"/f", []byte(filepath.Base(dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(out, root+"/link"); err != nil {
		t.Fatal(err)
	}
	before := rootRaceTree(t, out)
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	n := 0
	swaps.Go(func() {
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, root+"/spot", unix.AT_FDCWD, root+"/link", unix.RENAME_EXCHANGE)
			}
		}
	})
	d, err := openFileDoor(fileRules{protocol: "sftp", root: root, home: root}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	a := sftpAttrs{flags: sftpHasMode | sftpHasTimes | sftpHasOwner, uid: 1, gid: 1, mode: 0o600, atime: 1, mtime: 1}
	rounds := 0
	for end := time.Now().Add(lasts); time.Now().Before(end); rounds++ {
		for _, at := range []string{"spot/", "spot/../spot/", "/proc/self/root" + out + "/", "../out/", out + "/", "../../../../" + out + "/"} {
			if f, err := d.open(at+"f", sftpOpenRead, 0, -1); err == nil {
				var b [8]byte
				if n, _ := f.readAt(b[:], 0); string(b[:n]) == "out" {
					t.Fatalf("%s was read outside", at)
				}
				f.close()
			}
			if f, err := d.open(at+"made", sftpOpenWrite|sftpOpenCreate|sftpOpenTrunc, 0o600, -1); err == nil {
				f.writeAt([]byte("spot"), 0)
				f.setstat(a)
				f.close()
			}
			d.setstat(at+"f", a)
			d.setstat(at+"f", sftpAttrs{flags: sftpHasSize, size: 4})
			d.lsetstat(at+"f", a)
			d.mkdir(at+"dir", 0o700)
			d.rename(at+"made", at+"made2", true)
			d.rename(at+"empty", "stolen", false)
			d.link(at+"f", at+"hard")
			d.link(at+"f", "linked")
			d.symlink("x", at+"sym")
			for _, name := range []string{"made", "made2", "hard", "sym"} {
				d.remove(at + name)
			}
			d.rmdir(at + "dir")
			d.rmdir(at + "empty")
			if st, err := os.Stat(root + "/linked"); err == nil && st.Sys() != nil {
				if text, _ := os.ReadFile(root + "/linked"); string(text) == "out" {
					t.Fatalf("%s was linked from outside", at)
				}
				d.remove("linked")
			}
			if dir, err := d.openDir(at + "."); err == nil {
				list, _ := dir.next(10)
				for _, e := range list {
					if e.name == "empty" {
						t.Fatalf("%s was listed outside", at)
					}
				}
				dir.close()
			}
			var in bytes.Buffer
			in.WriteString("C0600 4 scp\nspot\x00")
			scpTestServe(t, fileRules{root: root, home: root}, "scp -t "+at+"scp", &in, io.Discard)
			d.remove(at + "scp")
			var sent bytes.Buffer
			scpTestServe(t, fileRules{root: root, home: root}, "scp -f "+at+"f", bytes.NewReader(make([]byte, 3)), &sent)
			if strings.Contains(sent.String(), "out\x00") {
				t.Fatalf("%s was sent from outside", at)
			}
		}
	}
	close(stop)
	swaps.Wait()
	if after := rootRaceTree(t, out); after != before {
		t.Errorf("outside, before\n%s\nand after\n%s", before, after)
	}
	t.Logf("%d rounds, %d swaps", rounds, n)
	if rounds == 0 || n == 0 {
		t.Error("no race took place")
	}
}

// rootRaceTree is all of dir as text, with modes, owners and times.
func rootRaceTree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		text, _ := os.ReadFile(p)
		b.WriteString(strings.Join([]string{p, time.Unix(st.Mtim.Unix()).String(), os.FileMode(st.Mode).String(), string(text), string(rune('0' + st.Nlink)), string(rune('0' + st.Uid)), "\n"}, " "))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
