//go:build linux

package main

// How sessions of files end, and what is left then: no child, no descriptor, no
// goroutine, no file that its client was not to see.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sftpOn opens SFTP on a client that the test means to cut.
func (f *filesTest) sftpOn(cl *ssh.Client) *rawSFTP {
	f.Helper()
	c, err := openRawSFTP(f.T, cl)
	if err != nil {
		f.Fatal(err)
	}
	return c
}

// held is what is held when nobody is in, one session having been.
func (f *filesTest) held() sshdHeld {
	f.Helper()
	cl := f.mustDial()
	f.sftpOn(cl).end()
	cl.Close()
	f.idle()
	return sshdCount(f.T)
}

// TestFilesKilled: sessions kill ends a session with its child.
func TestFilesKilled(t *testing.T) {
	bothWays(t, func(f *filesTest) {
		before := f.held()
		c := f.sftp()
		if h := c.openFile("new", sftpOpenNew); h.kind != sftpHandle {
			t.Fatal(h)
		}
		id := f.srv.list("")[0].ID
		if n := f.srv.kill(func(is, _, _ string) bool { return is == id }); n != 1 {
			t.Errorf("%d are ended", n)
		}
		if code := c.wait(); code != -1 {
			t.Errorf("exit status %d", code)
		}
		f.settled(before)
		f.mu.Lock()
		defer f.mu.Unlock()
		if err := f.errs[len(f.errs)-1]; !errors.Is(err, errSSHKilled) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// TestFilesIdle: a session that asks for nothing ends with its child, and one
// that does stays.
func TestFilesIdle(t *testing.T) {
	t.Parallel()
	bothWays(t, func(f *filesTest) {
		f.set(func(c *serverConfig) { c.idleLink = 1500 * time.Millisecond })
		began, over := time.Now(), make(chan int, 1)
		idle := f.sftp()
		go func() { over <- idle.wait() }()
		moves := f.sftp()
		for waiting := true; waiting; {
			select {
			case <-over:
				waiting = false
			case <-time.After(20 * time.Millisecond):
				if r := moves.one(sftpStat, "."); r.kind != sftpAttrsReply {
					t.Fatalf("%+v", r)
				}
			}
		}
		if d := time.Since(began); d < 1500*time.Millisecond {
			t.Errorf("it ended after %v", d)
		}
		if r := moves.one(sftpStat, "."); r.kind != sftpAttrsReply {
			t.Errorf("%+v", r)
		}
		sshdUntil(t, "the reason", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.errs) == 1 && errors.Is(f.errs[0], errSSHIdle)
		})
		if pids := f.pids(); len(pids) > 0 {
			sshdUntil(t, "the end of one child", func() bool { return len(sessionMembers(pids[0])) != len(sessionMembers(pids[1])) })
		}
	})
}

// filesCuts are sessions that are cut in the middle of a file, and what is left
// of the file "old", which held "old".
var filesCuts = []struct {
	name, filter string
	do           func(*filesTest, *ssh.Client)
	left, record string // what is in the directory; type, result and bytes
}{
	{"put", "", cutPut, "old=half", "file_uploaded failure 4 cut"},
	{"put under a rule of sizes", "[{max_size: 2, action: deny, operations: [upload]}]", cutPut, "old=old", "file_uploaded failure 4 cut"},
	{"new under a rule of sizes", "[{max_size: 9, action: deny, operations: [upload]}]", func(f *filesTest, cl *ssh.Client) { f.halfPut(cl, "new") }, "old=old", "file_uploaded failure 4 denied"},
	{"get", "", cutGet, "old=old", "file_downloaded failure cut"},
	{"scp -t", "", cutSink, "old=half", "file_uploaded failure 4 cut"},
	{"scp -f", "", cutSource, "old=old", "file_downloaded failure cut"},
}

func cutPut(f *filesTest, cl *ssh.Client) { f.halfPut(cl, "old") }

func (f *filesTest) halfPut(cl *ssh.Client, name string) {
	c := f.sftpOn(cl)
	h := c.openFile("files/"+name, sftpOpenNew)
	if r := c.do(sftpRequest{kind: sftpWrite, path: string(h.data), data: []byte("half")}); r.code != sftpOK {
		f.Fatal(r)
	}
}

// cutGet asks for more than a window, and takes nothing.
func cutGet(f *filesTest, cl *ssh.Client) {
	c := f.sftpOn(cl)
	h := c.openFile("big", sftpOpenRead)
	for i := range uint64(12) {
		ask := sftpRequest{kind: sftpRead, id: 100 + uint32(i), path: string(h.data), offset: i << 18, length: maxSFTPData}
		if _, err := c.ch.Write(ask.appendTo(nil)); err != nil {
			f.Fatal(err)
		}
	}
	f.fills()
}

// fills waits until the client's window is full.
func (f *filesTest) fills() {
	f.Helper()
	sshdUntil(f.T, "2 MiB on the way", func() bool { return f.srv.list("")[0].Out > 2<<20 })
}

func cutSink(f *filesTest, cl *ssh.Client) {
	s := f.newSession(cl)
	in, err := s.StdinPipe()
	if err = errors.Join(err, s.Start("scp -t files/old")); err != nil {
		f.Fatal(err)
	}
	fmt.Fprint(in, "C0644 8 x\nhalf")
	sshdUntil(f.T, "half of it", func() bool {
		b, _ := os.ReadFile(f.dir + "/files/old")
		return string(b) == "half"
	})
}

func cutSource(f *filesTest, cl *ssh.Client) {
	s := f.newSession(cl)
	in, err := s.StdinPipe()
	if err = errors.Join(err, s.Start("scp -f big")); err != nil {
		f.Fatal(err)
	}
	fmt.Fprint(in, "\x00\x00\x00")
	f.fills()
}

// TestFilesCut: a client that vanishes in the middle of a file leaves nothing
// but, without rules of sizes, what it has written; and the audit says that it
// was cut.
func TestFilesCut(t *testing.T) {
	bothWays(t, func(f *filesTest) {
		big := f.write("big", "")
		if err := os.Truncate(big, 8<<20); err != nil {
			t.Fatal(err)
		}
		before := f.held()
		var want []string
		for _, c := range filesCuts {
			if f.acct.mustBecome() && c.filter == "" && c.name != "get" {
				continue // is no other way to end for a child
			}
			f.write("files/old", "old")
			f.set(func(conf *serverConfig) {
				if conf.filter = nil; c.filter != "" {
					conf.filter = filterTestMake(t, "allow", c.filter)
				}
			})
			cl := f.mustDial()
			c.do(f, cl)
			cl.Conn.Close()
			f.settled(before)
			var left []string
			list, _ := os.ReadDir(f.dir + "/files")
			for _, e := range list {
				b, _ := os.ReadFile(filepath.Join(f.dir, "files", e.Name()))
				left = append(left, e.Name()+"="+string(b))
			}
			if got := strings.Join(left, " "); got != c.left {
				t.Errorf("%s: left %q, want %q", c.name, got, c.left)
			}
			want = append(want, c.record)
		}
		var got []string
		for _, r := range f.records() {
			if r.Type != string(auditFileUploaded) && r.Type != string(auditFileDownloaded) {
				continue
			}
			line := r.Type + " " + r.Result
			if r.Type == string(auditFileUploaded) {
				line += fmt.Sprint(" ", *r.Bytes)
			}
			switch {
			case r.Details == errFileCut.Error():
				line += " cut"
			case strings.HasPrefix(r.Details, "denied by"):
				line += " denied"
			}
			got = append(got, line)
		}
		if !slices.Equal(got, want) {
			t.Errorf("recorded %q, want %q", got, want)
		}
	})
}

// TestSlowFilesDrops: 200 clients, four at a time, are cut at random in the
// middle of files.
func TestSlowFilesDrops(t *testing.T) {
	slow(t)
	bothWays(t, func(f *filesTest) {
		before := f.held()
		seed := rand.Uint64()
		t.Logf("seed %#x", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		drops := make(chan int64)
		var clients sync.WaitGroup
		for i := range 4 {
			clients.Go(func() {
				for after := range drops {
					f.droppedSFTP(fmt.Sprint("files", i), after)
				}
			})
		}
		f.set(func(c *serverConfig) {
			c.filter = filterTestMake(t, "allow", "[{path_prefix: "+f.dir+"/files1, min_size: 300000, action: deny, operations: [upload]}]")
		})
		for range 200 {
			drops <- 1<<rng.IntN(19) + rng.Int64N(2000)
		}
		close(drops)
		clients.Wait()
		f.settled(before)
		if left, _ := filepath.Glob(f.dir + "/.sessio-*"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// droppedSFTP writes and reads until it is cut, after so many bytes have come.
func (f *filesTest) droppedSFTP(name string, after int64) {
	nc, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.Error(err)
		return
	}
	cut := &cutConn{Conn: nc}
	cut.left.Store(after)
	defer cut.Close()
	cc, chans, reqs, err := ssh.NewClientConn(cut, "", &ssh.ClientConfig{
		User: f.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(f.T, f.key))},
		HostKeyCallback: ssh.FixedHostKey(sshdSigner(f.T, f.host).PublicKey())})
	if err != nil {
		return
	}
	cl := ssh.NewClient(cc, chans, reqs)
	defer cl.Close()
	c, err := openRawSFTP(f.T, cl)
	data := make([]byte, 32<<10)
	for err == nil {
		var h sftpReply
		if h, err = c.try(sftpRequest{kind: sftpOpen, path: name, pflags: sftpOpenNew | sftpOpenRead}); err != nil || h.kind != sftpHandle {
			return
		}
		for i := uint64(0); i < 8 && err == nil; i++ {
			if _, err = c.try(sftpRequest{kind: sftpWrite, path: string(h.data), offset: i * 32 << 10, data: data}); err == nil {
				_, err = c.try(sftpRequest{kind: sftpRead, path: string(h.data), offset: i * 32 << 10, length: 32 << 10})
			}
		}
		if err == nil {
			_, err = c.try(sftpRequest{kind: sftpClose, path: string(h.data)})
		}
	}
}
