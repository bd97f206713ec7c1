package main

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
)

// A memPacketConn is one end of a network in memory, for a bubble.
type memPacketConn struct {
	net.PacketConn
	at      *net.UDPAddr
	in, out chan []byte
	peer    *net.UDPAddr
	done    chan struct{}
	close   func()
}

func newMemPackets() (a, b *memPacketConn) {
	end := func(port int) *memPacketConn {
		c := &memPacketConn{at: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: port}, in: make(chan []byte, 64), done: make(chan struct{})}
		c.close = sync.OnceFunc(func() { close(c.done) })
		return c
	}
	a, b = end(1), end(2)
	a.out, b.out, a.peer, b.peer = b.in, a.in, b.at, a.at
	return a, b
}

func (c *memPacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-c.in:
		return copy(b, p), c.peer, nil
	case <-c.done:
		return 0, nil, net.ErrClosed
	}
}

func (c *memPacketConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	select {
	case c.out <- append([]byte(nil), b...):
	default:
	}
	return len(b), nil
}

func (c *memPacketConn) LocalAddr() net.Addr             { return c.at }
func (c *memPacketConn) SetReadDeadline(time.Time) error { c.close(); return nil } // only the end sets one
func (c *memPacketConn) SetReadBuffer(int) error         { return nil }
func (c *memPacketConn) SetWriteBuffer(int) error        { return nil }
func (c *memPacketConn) Close() error                    { c.close(); return nil }

// inMemory calls f with a node that has a link without a path, in a bubble.
func inMemory(t *testing.T, f func(t *testing.T, n *node, l *link)) {
	here, there := wireIdentity(t, 1), wireIdentity(t, 2)
	synctest.Test(t, func(t *testing.T) {
		any := func(publicKeys) error { return nil }
		a, b := newMemPackets()
		near, far := &quic.Transport{Conn: a}, &quic.Transport{Conn: b}
		defer near.Close()
		defer far.Close()
		ln, err := far.Listen(there.tlsConfig(alpnLink, any), linkQUIC(true))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		conf := here.tlsConfig(alpnLink, any)
		conf.CurvePreferences = []tls.CurveID{tls.X25519} // quick
		conn, err := near.Dial(t.Context(), b.at, conf, linkQUIC(true))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseWithError(0, "")
		n := &node{changed: make(chan struct{})}
		n.life, n.stop = context.WithCancel(context.Background())
		defer n.running.Wait()
		defer n.stop()
		l := &link{owner: n, conn: conn, dialed: true, device: "x", proc: &peerProc{udp: new(udpPeer), finder: &pathFinder{}}}
		f(t, n, l)
	})
}

// setPath gives a link a path, or none.
func (n *node) setPath(l *link, best *pathTry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l.proc.finder.best = best
	n.changedLocked()
}

// A link that is held waits for its path no longer than a new one would, once
// the coordinator has said that the device is silent.
func TestHeldLinkOfASilentDevice(t *testing.T) {
	for _, path := range []time.Duration{0, silentGrace - ms, silentGrace + time.Second} {
		inMemory(t, func(t *testing.T, n *node, l *link) {
			ctx, stop := context.WithTimeout(t.Context(), connectFor)
			defer stop()
			said := make(chan introduction, 1)
			said <- introduction{refuse: &refuseMsg{reason: refuseSilent}}
			l.proc.udp.lastRx.Store(monoNow() - int64(time.Hour))
			n.running.Go(func() {
				if path > silentGrace { // it is heard within the grace: the coordinator is far away
					time.Sleep(time.Second)
					l.proc.udp.lastRx.Store(monoNow())
				}
				if path > 0 {
					time.Sleep(path)
					n.setPath(l, &pathTry{})
				}
			})
			began := time.Now()
			got, err := n.awaitPath(ctx, signedDevice{name: "attic"}, said, l)
			switch took := time.Since(began); {
			case took > max(path, silentGrace)+time.Second:
				t.Errorf("it took %v", took)
			case path > 0 && (got != l || err != nil), path == 0 && codeOf(err) != "silent":
				t.Errorf("path after %v: %v, %v", path, got, err)
			}
		})
	}
}

// What begins on a link whose path is open, and is not answered, ends in the time
// that a new link would have had, and says so.
func TestBegunAndNotAnswered(t *testing.T) {
	inMemory(t, func(t *testing.T, n *node, l *link) {
		n.setPath(l, &pathTry{})
		began := time.Now()
		begun, over := n.beginOn(t.Context(), l)
		err := l.echo(begun)
		if took := time.Since(began); took != connectFor || err != context.Cause(begun) || err != over(io.EOF) ||
			!strings.HasPrefix(err.Error(), "a path is open") || hintOf(err) == "" {
			t.Errorf("after %v: %v", took, err)
		}
		if begun, over = n.beginOn(t.Context(), l); over(nil) != nil || begun.Err() == nil {
			t.Error("what was answered is watched on")
		}
	})
}

// A device dies, or is out of reach for a moment, and a verb begins on the link
// to it: it hears what connect says, and goes on when the path is there again.
func TestBegunOnADeadLink(t *testing.T) {
	w := newLiveWorld(t)
	n, id := w.link.owner.(*node), w.attic.id.keys.deviceID()
	ctx, stop := context.WithTimeout(t.Context(), connectFor)
	defer stop()
	begin := func() *linkStream { // and have the path lost: what is sent stays unanswered
		s, err := n.openSSHByID(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		waitUntil(t, func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			best := w.link.proc.finder.best
			if best != nil && best.missed > 0 {
				best.missed = deadAfter // without the wait
			}
			return best == nil
		})
		return s
	}
	first := make([]byte, 8)
	w.node.mu.Lock() // the device's process stands still
	s := begin()
	w.node.mu.Unlock()
	if _, err := io.ReadFull(s, first); string(first) != "SSH-2.0-" {
		t.Errorf("a path that was lost for a moment: %q, %v", first, err)
	}
	waitUntil(t, func() bool { // its words may come before our path is proved
		n.mu.Lock()
		defer n.mu.Unlock()
		return w.link.proc.finder.best != nil && len(n.dials) == 0
	})
	w.node.mu.Lock()
	defer w.node.mu.Unlock()
	w.node.talk.leave()
	if k, err := begin().Read(first); k > 0 || codeOf(err) != "offline" {
		t.Errorf("a device that is gone: %q, %v", first[:k], err)
	}
}
