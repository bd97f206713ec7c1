//go:build linux || darwin

package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// An sshdSlowConn lets one Write through for each token.
type sshdSlowConn struct {
	net.Conn
	tokens chan struct{}

	mu     sync.Mutex
	writes [][]byte
}

func (c *sshdSlowConn) Write(p []byte) (int, error) {
	<-c.tokens
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes = append(c.writes, bytes.Clone(p))
	return len(p), nil
}

func (c *sshdSlowConn) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.writes)
}

// TestSSHWireGathers: what is written while a write runs goes out in one.
func TestSSHWireGathers(t *testing.T) {
	a, _ := net.Pipe()
	slow := &sshdSlowConn{Conn: a, tokens: make(chan struct{})}
	w := newSSHWire(slow)
	var sent []byte
	for i := range 100 {
		b := fmt.Appendf(nil, "packet %d,", i)
		sent = append(sent, b...)
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	close(slow.tokens)
	w.wait() // Close sends what is left
	if got := bytes.Join(slow.writes, nil); !bytes.Equal(got, sent) {
		t.Errorf("sent %q, got %q", sent, got)
	}
	if slow.count() > 2 {
		t.Errorf("%d writes", slow.count())
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
}

// TestSSHWireBounded: the queue is bounded, a larger write than it passes, and
// nothing is lost or mixed up.
func TestSSHWireBounded(t *testing.T) {
	a, b := sshdConnPair(t)
	w := newSSHWire(a)
	sent := make([]byte, 3<<20)
	rand.Read(sent)
	go func() {
		defer w.Close()
		for rest, i := sent, 1; len(rest) > 0; i++ {
			n := min(len(rest), i*7919%(2*maxWireQueue))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			if len(w.queue) > max(maxWireQueue, n) {
				t.Errorf("%d bytes queued", len(w.queue))
			}
			w.mu.Unlock()
			rest = rest[n:]
		}
	}()
	got, err := io.ReadAll(b)
	if !bytes.Equal(got, sent) || err != nil {
		t.Errorf("%d of %d bytes, or others; %v", len(got), len(sent), err)
	}
	w.wait()
}

// TestSSHWireCloseReader: Close ends a Read, and a peer that reads nothing
// does not hold it up for ever.
func TestSSHWireCloseReader(t *testing.T) {
	t.Parallel() // it waits for wireFlush
	a, b := net.Pipe()
	defer b.Close()
	w := newSSHWire(a)
	w.Write([]byte("nobody reads this"))
	read := make(chan error)
	go func() {
		_, err := w.Read(make([]byte, 1))
		read <- err
	}()
	w.Close()
	if err := <-read; err == nil {
		t.Error("a Read after Close")
	}
	w.wait()
}

func TestSSHWireSendError(t *testing.T) {
	a, b := net.Pipe()
	b.Close()
	w := newSSHWire(a)
	sshdUntil(t, "an error", func() bool {
		_, err := w.Write([]byte("x"))
		return err != nil
	})
	w.wait()
}

func TestSSHWireRemoteAddr(t *testing.T) {
	a, _ := net.Pipe()
	w := newSSHWire(sshdAddrConn{a, &net.UDPAddr{IP: net.IPv6loopback, Port: 7, Zone: "x"}})
	if got, ok := w.RemoteAddr().(*net.TCPAddr); !ok || got.String() != "[::1%x]:7" {
		t.Error(w.RemoteAddr())
	}
	w.Close()
	w.wait()
}

type sshdAddrConn struct {
	net.Conn
	addr net.Addr
}

func (c sshdAddrConn) RemoteAddr() net.Addr { return c.addr }

// TestSSHDFlood: tiny packets to a command that does not read cost the server
// little, and then the connection is closed.
func TestSSHDFlood(t *testing.T) {
	t.Run("stalled command", func(t *testing.T) {
		floodEnds(t, func(s *ssh.Session) error { return s.Start("exec sleep 1000") })
	})
	t.Run("no command", func(t *testing.T) { floodEnds(t, func(s *ssh.Session) error { return nil }) })
}

func TestSlowSSHDFlood(t *testing.T) {
	slow(t)
	floodEnds(t, func(s *ssh.Session) error {
		return s.Start("while :; do dd bs=1 count=500 >/dev/null 2>&1; sleep .05; done")
	})
}

// floodEnds sends bytes one by one to what does not read them.
func floodEnds(t *testing.T, start func(*ssh.Session) error) {
	d := startSSHD(t, nil)
	cl := d.mustDial()
	s := d.newSession(cl)
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := start(s); err != nil {
		t.Fatal(err)
	}
	before := sshdHeap()
	most := before
	for i := 0; err == nil; i++ {
		if _, err = in.Write([]byte{'x'}); i > 0 && i%20000 == 0 {
			most = max(most, sshdHeap())
		}
		if i > 1<<20 {
			t.Fatal("a million tiny packets")
		}
	}
	cl.Wait()
	if grown := most - before; grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	} else {
		t.Logf("the heap grew by %d KiB", grown>>10)
	}
	sshdUntil(t, "the reason", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.errs) == 1 && errors.Is(d.errs[0], errFlood)
	})
}

func sshdHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSSHDNoFlood: what honest clients do is not a flood: a full window that
// nobody reads while much goes on beside it, and long streams of small pieces.
func TestSSHDNoFlood(t *testing.T) { noFlood(t, 1500, 8000) }

// noFlood types so many keys, an echo awaited for each, and sends so many lines.
func noFlood(t *testing.T, keyCount, lineCount int) {
	d := startSSHD(t, nil)
	cl := d.mustDial()
	stalled := d.newSession(cl)
	in, _ := stalled.StdinPipe()
	if err := stalled.Start("exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	for range (2 << 20) / (16 << 10) { // as much as the window takes
		if _, err := in.Write(make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
	}

	up := d.newSession(cl)
	up.Stdin = bytes.NewReader(make([]byte, 30<<20))
	if out, err := up.Output("wc -c"); strings.TrimSpace(string(out)) != fmt.Sprint(30<<20) || err != nil {
		t.Errorf("%q %v", out, err)
	}
	down := d.newSession(cl)
	if out, err := down.Output("head -c 30000000 /dev/zero"); len(out) != 30000000 || err != nil {
		t.Errorf("%d bytes, %v", len(out), err)
	}

	keys := d.newSession(cl)
	typing, _ := keys.StdinPipe()
	echo, _ := keys.StdoutPipe()
	if err := keys.Start("exec cat"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	for i := range keyCount {
		if _, err := typing.Write(b); err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
		if i%10 == 0 { // pings are answered by the library
			if _, _, err := cl.SendRequest("keepalive@openssh.com", true, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.ReadFull(echo, b); err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
	}

	lines := d.newSession(cl)
	feed, _ := lines.StdinPipe()
	if err := lines.Start("while read -r x; do :; done"); err != nil { // slower than we are
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 79) + "\n")
	for i := range lineCount {
		if _, err := feed.Write(line); err != nil {
			t.Fatalf("line %d: %v", i, err)
		}
	}
	feed.Close()
	if err := lines.Wait(); err != nil {
		t.Error(err)
	}
}

// TestSSHDStderrDrained: what a client sends as stderr is read away.
func TestSSHDStderrDrained(t *testing.T) {
	d := startSSHD(t, nil)
	cl := d.mustDial()
	ch, reqs, err := cl.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	for range 4 { // more than a window
		if _, err := ch.Stderr().Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSSHWireNotSSH: what is no client of SSH is told so at once; one whose
// first bytes come one by one is waited for.
func TestSSHWireNotSSH(t *testing.T) {
	d := startSSHD(t, nil)
	for _, said := range []string{"\n", "GET / HTTP/1.0\r\n\r\n", "SSX", "\x16\x03\x01"} {
		nc, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(nc, said)
		got, err := io.ReadAll(nc)
		if !bytes.HasPrefix(got, []byte("SSH-2.0-")) || !bytes.HasSuffix(got, []byte("\r\nInvalid SSH identification string.\r\n")) {
			t.Errorf("%q: %q, %v", said, got, err)
		}
		nc.Close()
	}
	sshdUntil(t, "the reasons", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.errs) == 4 && !slices.ContainsFunc(d.errs, func(err error) bool { return !errors.Is(err, errNotSSH) })
	})
	nc, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, c := range []byte("SSH-2.0-slow\r\n") {
		nc.Write([]byte{c})
	}
	b := make([]byte, 4<<10)
	if n, err := io.ReadAtLeast(nc, b, 200); err != nil || !bytes.Contains(b[:n], []byte("curve25519")) {
		t.Errorf("%q %v", b[:n], err)
	}
}
