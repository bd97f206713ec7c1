package main

// This file adds sockets to the main one, for NATs that give each socket, or
// each address that it sends to, a port of its own. What comes in on them is
// sorted as on the main socket; QUIC's packets reach QUIC through the main
// socket's read, which is woken for them.

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxExtraSocks bounds the sockets beside the main one.
	maxExtraSocks = 256
	// extraQueue is how many packets may wait for QUIC's read, 1.5 KB each;
	// more are dropped, as a full socket buffer drops them.
	extraQueue = 128
)

var errTooManySocks = errors.New("too many sockets are open for hard NATs")

// A udpExtra is the part of a udpMux that has the further sockets.
type udpExtra struct {
	socks   map[int]*net.UDPConn // guarded by the mux's mu
	last    int                  // guarded by the mux's mu: an index is never used twice
	closed  bool                 // guarded by the mux's mu
	readers sync.WaitGroup
	queue   chan udpQueued
	woken   atomic.Bool // the main read's deadline is in the past for the queue
	ending  atomic.Bool // QUIC has set a deadline: its read shall end
}

// A udpQueued is a packet on its way to QUIC.
type udpQueued struct {
	b  []byte
	as net.Addr
}

// openSock opens one more socket and returns its index.
func (u *udpMux) openSock() (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.closed:
		return 0, net.ErrClosed
	case len(u.socks) >= maxExtraSocks:
		return 0, errTooManySocks
	}
	bound := u.UDPConn.LocalAddr().(*net.UDPAddr)
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: bound.IP, Zone: bound.Zone})
	if err != nil {
		return 0, err
	}
	initExtra(c)
	u.last++
	i := u.last
	u.socks[i] = c
	u.readers.Go(func() { u.readExtra(i, c) })
	return i, nil
}

// closeSock closes a socket that openSock opened.
func (u *udpMux) closeSock(i int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.socks[i]; c != nil {
		c.Close()
		delete(u.socks, i)
	}
}

// connOf returns the socket of an index, nil when it is closed.
func (u *udpMux) connOf(i int) *net.UDPConn {
	if i == 0 {
		return u.UDPConn
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.socks[i]
}

// Close closes every socket and returns when none is read any more.
func (u *udpMux) Close() error {
	err := u.UDPConn.Close()
	u.mu.Lock()
	u.closed = true
	for i, c := range u.socks {
		c.Close()
		delete(u.socks, i)
	}
	u.mu.Unlock()
	u.readers.Wait()
	return err
}

func (u *udpMux) readExtra(i int, c *net.UDPConn) {
	b := make([]byte, maxSegment)
	for {
		n, ap, err := c.ReadFromUDPAddrPort(b)
		if isClosed(err) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // a transient error must not spin
			continue
		}
		from := udpSource{sock: i, addr: netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}
		if as := u.sort(b[:n], from); as != nil {
			u.enqueue(udpQueued{append([]byte(nil), b[:n]...), as})
		}
	}
}

func (u *udpMux) enqueue(q udpQueued) {
	select {
	case u.queue <- q:
	default:
		return
	}
	if u.woken.CompareAndSwap(false, true) {
		u.UDPConn.SetReadDeadline(time.Unix(1, 0))
	}
}

// dequeue returns the next packet that waits, if any.
func (u *udpMux) dequeue() (q udpQueued, ok bool) {
	select {
	case q = <-u.queue:
		return q, true
	default:
		return q, false
	}
}

// wokenBy reports whether a read of the main socket ended only because packets
// wait in the queue.
func (u *udpMux) wokenBy(err error) bool {
	if u.ending.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	u.UDPConn.SetReadDeadline(time.Time{})
	u.woken.Store(false)
	return !u.ending.Load()
}

// SetReadDeadline is how QUIC ends its read.
func (u *udpMux) SetReadDeadline(t time.Time) error {
	u.ending.Store(!t.IsZero())
	return u.UDPConn.SetReadDeadline(t)
}
