package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// auditTestFiles are a file and those it was rotated into, oldest first.
func auditTestFiles(t *testing.T, path string) []string {
	t.Helper()
	files := []string{path}
	for n := 1; ; n++ {
		old := fmt.Sprintf("%s.%d", path, n)
		if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
			slices.Reverse(files)
			return files
		}
		files = append(files, old)
	}
}

// auditTestMany gives n records by several at once, and waits when the queue
// fills: nothing may be lost.
func auditTestMany(a *auditLog, n int) {
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range n / 4 {
				for a.lost()[0].waiting > maxAuditQueue/2 {
					runtime.Gosched()
				}
				a.record(auditEvent{kind: auditFileRead, user: "alice", path: "/a/file"})
			}
		})
	}
	all.Wait()
}

func TestAuditFileRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	const size = 20_000
	a, said := auditTestOpen(t, auditExporter{kind: "file", path: path, maxSize: size, keep: 1000})
	auditTestMany(a, 4000)
	a.close()
	files := auditTestFiles(t, path)
	auditTestSeqs(t, auditTestFile(t, files...), 1, 4000)
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil || info.Size() > size || info.Mode() != 0o600 {
			t.Errorf("%s: %d bytes, mode %v, %v", f, info.Size(), info.Mode(), err)
		}
	}
	if len(files) < 20 || said.all() != "" {
		t.Errorf("%d files, %s", len(files), said.all())
	}
}

func TestAuditFileKeeps(t *testing.T) {
	for _, keep := range []int{0, 2} {
		path := filepath.Join(t.TempDir(), "audit.log")
		a, _ := auditTestOpen(t, auditExporter{kind: "file", path: path, maxSize: 2000, keep: keep})
		auditTestMany(a, 400)
		a.close()
		files := auditTestFiles(t, path)
		if len(files) != keep+1 {
			t.Errorf("keep %d: %v", keep, files)
		}
		got := auditTestFile(t, files...)
		auditTestSeqs(t, got, got[0].Seq, 400)
	}
}

// Something else renames the file and says so: no line is lost, and none stays
// away from the new file for long.
func TestAuditFileOutsideRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	a, said := auditTestOpen(t, auditExporter{kind: "file", path: path})
	var recording sync.WaitGroup
	recording.Go(func() { auditTestMany(a, 4000) })
	for n := range 10 {
		for i := 10; i > 1; i-- {
			os.Rename(fmt.Sprintf("%s.%d", path, i-1), fmt.Sprintf("%s.%d", path, i))
		}
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(n, err)
		}
		a.reopen()
		waitUntil(t, func() bool { _, err := os.Stat(path); return err == nil })
	}
	recording.Wait()
	a.close()
	auditTestSeqs(t, auditTestFile(t, auditTestFiles(t, path)...), 1, 4000)
	if said.all() != "" {
		t.Error(said.all())
	}
}

// What kill -9 left torn is cut; what is no record is not touched; nor is
// what is no file of ours.
func TestAuditFileOpens(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	const whole = `{"id":"x-1"}` + "\n"
	for _, tt := range []struct{ content, want string }{
		{"", ""}, {whole, whole}, {whole + `{"id":"x-2","seq`, whole}, {whole + "{", whole}, {`{"id":"x`, ""}, {whole + "word", ""}, {"word", ""},
	} {
		if err := os.WriteFile(path, []byte(tt.content), 0o666); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, 0o646)
		a, err := openAudit([]auditExporter{{kind: "file", path: path}}, auditOptions{now: time.Now})
		a.close()
		if strings.HasSuffix(tt.content, "word") {
			if tt.want = tt.content; err == nil || !strings.Contains(err.Error(), path) || hintOf(err) == "" {
				t.Errorf("%q: %v", tt.content, err)
			}
		} else if err != nil {
			t.Errorf("%q: %v", tt.content, err)
		}
		b, _ := os.ReadFile(path)
		info, err := os.Stat(path)
		if string(b) != tt.want || err != nil || info.Mode() != 0o640 {
			t.Errorf("%q became %q, mode %v", tt.content, b, info.Mode())
		}
	}
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.Symlink(path, link), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, pipe, dir, "/dev/null"} {
		if _, err := openAudit([]auditExporter{{kind: "file", path: path}}, auditOptions{now: time.Now}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A rotation that fails loses nothing: the file grows.
func TestAuditFileCannotRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.MkdirAll(filepath.Join(path+".1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	a, said := auditTestOpen(t, auditExporter{kind: "file", path: path, maxSize: 2000, keep: 1})
	auditTestMany(a, 100)
	a.close()
	auditTestSeqs(t, auditTestFile(t, path), 1, 100)
	if n := strings.Count(said.all(), "audit: rotating "+path); n < 1 || n > 20 {
		t.Errorf("said %d times: %s", n, said.all())
	}
}

// auditTestFull writes to a file that cannot grow while full holds: records go
// on, whole lines alone stand in the file, what the queue cannot hold is counted
// and told, and it goes on by itself.
func auditTestFull(t *testing.T, path string, full, room func()) {
	t.Helper()
	a, said := auditTestOpen(t, auditExporter{kind: "file", path: path, maxSize: 1 << 30})
	full()
	for range 3000 {
		a.record(auditEvent{kind: auditFileRead, user: "alice", path: "/a/file"})
		runtime.Gosched()
	}
	waitUntil(t, func() bool { c := a.lost()[0]; return c.lost > 0 && said.all() != "" })
	for a.lost()[0].waiting < maxAuditQueue { // it has come to rest
		a.record(auditEvent{kind: auditFileRead, user: "alice", path: "/a/file"})
	}
	if c := a.lost()[0]; c.delivered == 0 {
		t.Errorf("%+v", c)
	}
	room()
	waitUntil(t, func() bool { return a.lost()[0].waiting == 0 })
	a.close()
	got := auditTestFile(t, path)
	c := a.lost()[0]
	told := 0
	for i, r := range got {
		if i > 0 && r.Seq <= got[i-1].Seq {
			t.Fatalf("seq %d after %d", r.Seq, got[i-1].Seq)
		}
		if r.Type == string(auditLost) {
			var n int
			fmt.Sscan(r.Details, &n)
			told += n
		}
	}
	if int64(told) != c.lost || int64(len(got)) != c.delivered || got[len(got)-1].Seq != len(got)+told {
		t.Errorf("%d told of %+v, %d lines, the last is %d", told, c, len(got), got[len(got)-1].Seq)
	}
	if n := strings.Count(said.all(), "\n"); n > 2 {
		t.Errorf("it says too much: %s", said.all())
	}
}

// The limit on file sizes is for a process of its own: go test writes files too.
func TestAuditFileLimit(t *testing.T) {
	const child = "SESSIO_TEST_AUDIT_LIMIT"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAuditFileLimit$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	limit := func(cur uint64) func() {
		return func() {
			if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: cur, Max: was.Max}); err != nil {
				t.Error(err)
			}
		}
	}
	auditTestFull(t, filepath.Join(t.TempDir(), "audit.log"), limit(10_001), limit(was.Cur))
}

func TestAuditFileFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("only root mounts:", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	auditTestFull(t, filepath.Join(dir, "audit.log"), func() {
		os.WriteFile(ballast, make([]byte, 48<<10), 0o600)
	}, func() {
		if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
			t.Error(err)
		}
	})
}

// A line is in the file at once, and synced within a second, no more than once
// in that; afterwards nothing happens.
func TestAuditFileSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "audit.log")
		a, _ := auditTestOpen(t, auditExporter{kind: "file", path: path})
		w := a.outlets[0].sink.(*auditFile)
		for n := range 3 {
			begun := time.Now()
			for i := range 3 { // the first after a pause is synced at once
				a.record(auditEvent{kind: auditFileRead})
				synctest.Wait()
				if got := len(auditTestFile(t, path)); got != 3*n+i+1 {
					t.Fatalf("%d lines of %d", got, 3*n+i+1)
				}
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if w.unsynced != 0 || w.syncedAt.Sub(begun) != auditSync {
				t.Errorf("%d not synced after a second, the others after %v", w.unsynced, w.syncedAt.Sub(begun))
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if w.due.Stop() {
				t.Error("a timer runs with nothing to do")
			}
		}
	})
}

func BenchmarkAuditFile(b *testing.B) {
	a, _ := auditTestOpen(b, auditExporter{kind: "file", path: filepath.Join(b.TempDir(), "audit.log"), maxSize: auditMaxSize, keep: auditKeep})
	for b.Loop() {
		a.record(auditEvent{kind: auditFileRead, user: "alice", path: "/a/file", clientIP: "192.0.2.1", protocol: "sftp", session: "0123456789abcdef"})
	}
}
