package main

// This file times copies over a slow link of its own making.

import (
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// A file fills 90 % of a link of 40 ms and 100 Mbit/s, and many small ones do
// not wait for its round trips one after another.
func TestSlowCpOverALink(t *testing.T) {
	slow(t)
	const rate, size, files = 12_500_000, 64 << 20, 2000
	peer := sshcSSHD(t)
	slowPeer(t, peer, 20*time.Millisecond, rate)
	c := newCPTest(t, peer)
	os.Mkdir(c.here("tree"), 0o755)
	for i := range files {
		c.file(c.here(fmt.Sprintf("tree/%d", i)), 4096)
	}
	c.file(c.here("big"), size)
	const login = time.Second // ten round trips, and sshd's start
	const full = size * time.Second / (rate / 10 * 9)
	for _, tt := range []struct {
		words []string
		most  time.Duration
	}{
		{[]string{"here/big", "attic:/big"}, full + login}, {[]string{"attic:/big", "here/big2"}, full + login},
		// scp takes five round trips a file, 400 s
		{[]string{"-r", "here/tree", "attic:/tree"}, 80 * time.Second}, {[]string{"-r", "attic:/tree", "here/tree2"}, 80 * time.Second},
	} {
		at := time.Now()
		c.good(tt.words...)
		took := time.Since(at)
		if t.Logf("%v: %v", tt.words, took); took > tt.most {
			t.Errorf("%v took %v, at most %v", tt.words, took, tt.most)
		}
	}
}

// slowPeer puts a delay and a rate between a client and p.
func slowPeer(t *testing.T, p *sshcPeer, delay time.Duration, rate int) {
	behind := p.addr
	q := sshcListen(t, func(near net.Conn) {
		defer near.Close()
		far, err := net.Dial("tcp", behind)
		if err != nil {
			return
		}
		defer far.Close()
		var ways sync.WaitGroup
		for _, w := range [][2]net.Conn{{near, far}, {far, near}} {
			ways.Go(func() { slowCopy(w[1].(*net.TCPConn), w[0], delay, rate) })
		}
		ways.Wait()
	})
	p.addr = q.addr
}

// slowCopy hands on bytes at a rate, each after delay.
func slowCopy(to *net.TCPConn, from net.Conn, delay time.Duration, rate int) {
	type piece struct {
		at time.Time
		b  []byte
	}
	queue := make(chan piece, 1<<12)
	var out sync.WaitGroup
	out.Go(func() {
		for p := range queue {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.b); err != nil {
				from.Close()
			}
		}
		to.CloseWrite()
	})
	free := time.Now()
	for {
		b := make([]byte, 16<<10)
		n, err := from.Read(b)
		if n > 0 {
			if now := time.Now(); now.Sub(free) > 20*time.Millisecond { // idle, not just late
				free = now
			}
			free = free.Add(time.Duration(n) * time.Second / time.Duration(rate))
			time.Sleep(time.Until(free))
			queue <- piece{free.Add(delay), b[:n]}
		}
		if err != nil {
			break
		}
	}
	close(queue)
	out.Wait()
}
