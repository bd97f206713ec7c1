package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An attackSocket sends raw datagrams to one port and sees what they draw.
type attackSocket struct {
	t    testing.TB
	conn *net.UDPConn
	to   netip.AddrPort
	// mark makes a datagram that the other side surely answers with a hello:
	// what has come before that hello is all that was drawn before it.
	mark       func(sender instanceID) []byte
	recv       sealKey // opens that hello
	sent, came int     // bytes, marks and their answers left out
}

func newAttackSocket(t testing.TB, to netip.AddrPort) *attackSocket {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &attackSocket{t: t, conn: conn, to: to}
}

// markAs makes marks with the keys of a member: to a device those of a peer
// that it has been introduced to, to the coordinator those of a device.
func (s *attackSocket) markAs(id *identity, acct acctID, other publicKeys, kind byte) {
	s.t.Helper()
	send, recv, err := sealKeys(id.path, sealDevice, other.path, kind)
	if err != nil {
		s.t.Fatal(err)
	}
	s.recv = recv
	kindOf := byte(msgBeat)
	if kind == sealCoord {
		kindOf = msgEcho // on both ports
	}
	s.mark = func(sender instanceID) []byte {
		x := sealBox{sendKey: send, hint: sealHintOf(acct, id.keys.sign), mine: sender, theirs: newInstanceID()}
		b, _ := x.pack(kindOf, noMsg{}, helloLen)
		return b
	}
}

func (s *attackSocket) addr() netip.AddrPort { return addrPortOf(s.conn.LocalAddr()) }

func (s *attackSocket) send(b []byte) {
	s.t.Helper()
	if _, err := s.conn.WriteToUDPAddrPort(b, s.to); err != nil {
		s.t.Fatal(err)
	}
	s.sent += len(b)
}

// drawn sends b and returns what it draws.
func (s *attackSocket) drawn(b []byte) (replies [][]byte) {
	s.t.Helper()
	s.send(b)
	return s.settle()
}

// settle returns what comes before the answer to a mark.
func (s *attackSocket) settle() (replies [][]byte) {
	s.t.Helper()
	sender := newInstanceID()
	mark := s.mark(sender)
	for try := range 20 { // loopback drops, too
		if _, err := s.conn.WriteToUDPAddrPort(mark, s.to); err != nil {
			s.t.Fatal(err)
		}
		s.conn.SetReadDeadline(time.Now().Add(time.Second << min(try, 2)))
		for {
			b := make([]byte, 2048)
			n, _, err := s.conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				s.t.Fatal(err)
			}
			if s.isMark(b[:n], sender) {
				return replies
			}
			replies = append(replies, b[:n])
			s.came += n
		}
	}
	s.t.Fatal("the mark is not answered")
	return nil
}

func (s *attackSocket) isMark(b []byte, sender instanceID) bool {
	body, err := s.recv.open(b)
	if err != nil {
		return false
	}
	h, _, err := parseHead(body)
	return err == nil && h.kind == msgHello && h.receiver == sender
}

// wantNothing fails if b draws anything; wantHello allows one hello no longer
// than b.
func (s *attackSocket) wantNothing(what string, b []byte) {
	s.t.Helper()
	if got := s.drawn(b); len(got) > 0 {
		s.t.Errorf("%s of %d bytes draws %d datagrams, the first of %d bytes", what, len(b), len(got), len(got[0]))
	}
}

func (s *attackSocket) wantHello(what string, b []byte) {
	s.t.Helper()
	got := s.drawn(b)
	if len(got) > 1 || len(got) == 1 && (len(got[0]) != helloLen || len(got[0]) > len(b)) {
		s.t.Errorf("%s of %d bytes draws %d datagrams, the first of %d bytes", what, len(b), len(got), len(got[0]))
	}
}

// wantLittle is wantHello for what may also be an echo, which is answered as it
// came, or a note, whose receiver tries where it came from.
func (s *attackSocket) wantLittle(what string, b []byte) {
	s.t.Helper()
	if got := s.drawn(b); len(got) > 1 || len(got) == 1 && len(got[0]) > len(b) {
		s.t.Errorf("%s of %d bytes draws %d datagrams, the first of %d bytes", what, len(b), len(got), len(got[0]))
	}
}

// An attackRelay stands before a port, counts what passes and keeps copies. To
// the other side each of its clients has an address of its own.
type attackRelay struct {
	t      testing.TB
	conn   *net.UDPConn
	target netip.AddrPort

	in, out atomic.Int64 // bytes to the target and from it

	mu    sync.Mutex
	flows map[netip.AddrPort]*net.UDPConn // guarded by mu: to the target, by client
	kept  []attackKept                    // guarded by mu
	keep  bool                            // guarded by mu
	stop  func(attackKept) bool           // guarded by mu: true keeps it from passing; nil = all pass
}

// An attackKept is a copy of a datagram.
type attackKept struct {
	in     bool           // to the target
	client netip.AddrPort // of whom
	seenAs netip.AddrPort // what the target knows the client as
	b      []byte
}

func newAttackRelay(t testing.TB, target netip.AddrPort) *attackRelay {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &attackRelay{t: t, conn: conn, target: target, flows: map[netip.AddrPort]*net.UDPConn{}}
	var running sync.WaitGroup
	running.Go(func() { r.forward(&running) })
	t.Cleanup(func() {
		conn.Close()
		r.mu.Lock()
		for _, f := range r.flows {
			f.Close()
		}
		r.mu.Unlock()
		running.Wait()
	})
	return r
}

func (r *attackRelay) addr() netip.AddrPort { return addrPortOf(r.conn.LocalAddr()) }

func (r *attackRelay) forward(running *sync.WaitGroup) {
	for b := make([]byte, 1<<16); ; {
		n, client, err := r.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
		f := r.flow(client, running)
		if f != nil && r.passes(attackKept{true, client, addrPortOf(f.LocalAddr()), b[:n]}) {
			r.in.Add(int64(n))
			f.Write(b[:n])
		}
	}
}

// flow returns the client's socket to the target, which takes in nothing from
// anybody else.
func (r *attackRelay) flow(client netip.AddrPort, running *sync.WaitGroup) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.flows[client]; f != nil {
		return f
	}
	f, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, net.UDPAddrFromAddrPort(r.target))
	if err != nil {
		r.t.Error(err)
		return nil
	}
	r.flows[client] = f
	running.Go(func() { r.back(client, f) })
	return f
}

func (r *attackRelay) back(client netip.AddrPort, f *net.UDPConn) {
	for b := make([]byte, 1<<16); ; {
		n, err := f.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // the target is not there now
			continue
		}
		if r.passes(attackKept{false, client, addrPortOf(f.LocalAddr()), b[:n]}) {
			r.out.Add(int64(n))
			r.conn.WriteToUDPAddrPort(b[:n], client)
		}
	}
}

// passes keeps a copy, if wanted, and says whether the datagram goes on.
func (r *attackRelay) passes(k attackKept) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.keep && r.stop == nil {
		return true
	}
	k.b = append([]byte(nil), k.b...)
	if r.keep {
		r.kept = append(r.kept, k)
	}
	return r.stop == nil || !r.stop(k)
}

// record begins to keep copies.
func (r *attackRelay) record() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep, r.kept = true, nil
}

// take returns the copies kept, and keeps no more.
func (r *attackRelay) take() []attackKept {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep = false
	return r.kept
}

// filter lets stop decide what does not pass.
func (r *attackRelay) filter(stop func(attackKept) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop = stop
}
