package main

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// The addresses of 127.0.0.0/8 are all ours on Linux: each is another client.

// webTestFull reports whether the server ends a connection with nothing said.
func webTestFull(t *testing.T, c net.Conn) bool {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(make([]byte, 1))
	return n == 0 && err != nil
}

func TestWebStrangerDoesNotShutOutOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	roots := tlsTestPair(t, dir, "a.example", time.Now())
	ln, _, err := listenWeb("127.0.0.1:0", webTLS{cert: filepath.Join(dir, "cert"), key: filepath.Join(dir, "key")}, dir, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer serveTLSTest(t, ln)()
	web := ln.(*webListener)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	var open []net.Conn
	for range 2 * maxWebConnsPer {
		c, err := from.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	for i, c := range open[maxWebConnsPer:] {
		if !webTestFull(t, c) {
			t.Fatalf("connection %d of one address is let in", maxWebConnsPer+i)
		}
	}
	if _, err := tlsTestGet(ln.Addr().String(), "a.example", roots, "127.0.0.3"); err != nil {
		t.Errorf("another address: %v", err)
	}
	// Those that say nothing are ended by the time for a handshake.
	for i, c := range open[:maxWebConnsPer] {
		if !webTestFull(t, c) {
			t.Fatalf("silent connection %d hears something", i)
		}
	}
	waitUntil(t, func() bool {
		web.mu.Lock()
		defer web.mu.Unlock()
		return web.conns == 0 && len(web.from) == 0
	})
	if _, err := tlsTestGet(ln.Addr().String(), "a.example", roots, "127.0.0.2"); err != nil {
		t.Errorf("the stranger's address, afterwards: %v", err)
	}
}

func TestWebConnsAreBounded(t *testing.T) {
	ln, _, err := listenWeb("127.0.0.1:0", webTLS{}, "", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer serveTLSTest(t, ln)()
	// A proxy: all come from one address, and each is in before the next.
	var in []net.Conn
	get := func() (net.Conn, bool) {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
		return c, !webTestFull(t, c)
	}
	for i := range maxWebConns {
		c, ok := get()
		defer c.Close()
		if in = append(in, c); !ok {
			t.Fatalf("connection %d is not let in", i)
		}
	}
	c, ok := get()
	defer c.Close()
	if ok {
		t.Errorf("one more than %d is let in", maxWebConns)
	}
	in[7].Close()
	waitUntil(t, func() bool {
		c, ok := get()
		c.Close()
		return ok
	})
}
