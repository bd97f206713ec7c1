package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// A simEnd is one process in a simNet: the real path finder and NAT finder, and
// in small what node_paths.go, udp.go and QUIC do around them.
type simEnd struct {
	net    *simNet
	nat    *simNAT
	inside netip.AddrPort
	finder *pathFinder
	probe  *natFinder
	box    *sealBox
	note   noteState
	wake   time.Time
	still  time.Time // until when it stands
	met    bool      // they have been introduced

	path     udpSource
	admitted map[udpKey]bool
	trials   map[udpKey]int
	socks    map[int]bool
	lastSock int
	most     int // sockets open at once
	stale    int // sockets that were open for longer than hardFor and settleFor
	opened   map[int]time.Time

	pathRx, lastTx time.Time
	fail, cameIn   bool
	mtu            int // above which packets of this end vanish, 0 = none
	using          int // largest datagram that QUIC sends
	fragments      bool

	out  int // packets sent to the peer
	data uint32
	have uint32 // the highest of the peer's that has come
	ackd uint32 // the highest of ours that is acknowledged
	pto  time.Duration
	last []byte // the last datagram of QUIC
}

// simKeys are those of both ends, made once.
var simKeys = sync.OnceValue(func() (k [2][2]sealKey) {
	var ids [2]*identity
	for i := range ids {
		ids[i], _ = newIdentity(ed25519FromSeed(byte(i + 1)))
	}
	for i := range ids {
		k[i][0], k[i][1], _ = sealKeys(ids[i].path, sealDevice, ids[1-i].keys.path, sealDevice)
	}
	return k
})

// newSimNet makes two ends behind NATs of two kinds: the first one dials. Round
// trips are those of the lab: 60 ms between the ends, 40 to the coordinator.
func newSimNet(t testing.TB, seed uint64, a, b simKind) *simNet {
	t.Helper()
	n := &simNet{now: time.Unix(1e9, 0), delay: 30 * ms, coord: 20 * ms, nats: map[netip.Addr]*simNAT{}, rng: rand.New(rand.NewPCG(seed, 1))}
	for i, k := range []simKind{a, b} {
		n.ends[i] = n.newEnd(i, n.newNAT(k, []string{"192.0.2.1", "203.0.113.1"}[i]))
	}
	for _, e := range n.ends {
		e.probe.start(n.now, false)
	}
	n.run(2*time.Second, nil)
	return n
}

func (n *simNet) newEnd(i int, r *simNAT) *simEnd {
	keys := simKeys()[i]
	e := &simEnd{net: n, nat: r, admitted: map[udpKey]bool{}, trials: map[udpKey]int{}, socks: map[int]bool{}, opened: map[int]time.Time{},
		pathRx: n.now, lastTx: n.now.Add(-time.Hour),
		inside: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 2}), 40000)}
	e.box = &sealBox{sendKey: keys[0], recvKey: keys[1], mine: instanceID{byte(i + 1)}, theirs: instanceID{byte(2 - i)}}
	e.finder = newPathFinder(e, e.box, i == 0, n.now)
	e.probe = &natFinder{openSock: e.openSock, closeSock: e.closeSock, changed: func(now time.Time) {
		if f := e.finder; e.met && (f.best == nil || !f.doubt.IsZero()) {
			f.setKinds(now, e.probe.kind, e.note.nat, e.note.seen)
			e.tellPeer()
		}
		e.tick()
	}, echo: func(now time.Time, c echoCall) {
		port := simCoord
		if c.second {
			port = simSecond
		}
		e.ask(c.sock, port, 0, func(at netip.AddrPort) { c.seen(n.now, at) })
	}}
	return e
}

// ask repeats an echo as coord_talk does.
func (e *simEnd) ask(sock int, port netip.AddrPort, try int, seen func(netip.AddrPort)) {
	done := false
	once := func(at netip.AddrPort) {
		if !done {
			done = true
			seen(at)
		}
	}
	var again func(try int)
	again = func(try int) {
		switch {
		case done:
		case try == len(echoTimes):
			once(netip.AddrPort{})
		default:
			e.net.seen(e, sock, port, once)
			e.net.at(echoTimes[try], func() { again(try + 1) })
		}
	}
	again(try)
}

func (e *simEnd) other() *simEnd {
	if e == e.net.ends[0] {
		return e.net.ends[1]
	}
	return e.net.ends[0]
}

// The decisions of the finder.

func (e *simEnd) admit(s udpSource) { e.admitted[s.key()] = true }
func (e *simEnd) setPath(s udpSource) bool {
	e.path, e.pathRx = s, e.net.now
	return true
}
func (e *simEnd) trial(s udpSource, credit int)      { e.trials[s.key()] = credit }
func (e *simEnd) forget(s udpSource)                 { delete(e.admitted, s.key()); delete(e.trials, s.key()) }
func (e *simEnd) mayPing(time.Time, netip.Addr) bool { return true }
func (e *simEnd) known() bool                        { return true }
func (e *simEnd) lives(netip.Addr)                   {}
func (e *simEnd) logf(string, ...any)                {}
func (e *simEnd) inUse() int                         { return e.using }
func (e *simEnd) shrink(udpSource)                   { e.fragments = true }
func (e *simEnd) idle(now time.Time) (_, _ time.Duration) {
	return now.Sub(e.pathRx), now.Sub(e.lastTx)
}

func (e *simEnd) failed() bool {
	was := e.fail
	e.fail = false
	return was
}

func (e *simEnd) came() bool {
	was := e.cameIn
	e.cameIn = false
	return was
}

func (e *simEnd) openSock() (int, error) {
	if len(e.socks) >= maxExtraSocks {
		return 0, errTooManySocks
	}
	e.lastSock++
	e.socks[e.lastSock], e.opened[e.lastSock] = true, e.net.now
	e.most = max(e.most, len(e.socks))
	return e.lastSock, nil
}

func (e *simEnd) closeSock(i int) {
	if e.socks[i] && e.net.now.Sub(e.opened[i]) > hardFor+settleFor+2*sprayStep {
		e.stale++
	}
	delete(e.socks, i)
}

func (e *simEnd) observe(now time.Time, sock int, seen func(time.Time, netip.AddrPort)) {
	e.ask(sock, simCoord, 0, func(at netip.AddrPort) { seen(e.net.now, at); e.tick() })
}

func (e *simEnd) send(b []byte, to udpSource) {
	e.out++
	if e.nat.down {
		e.fail = true
	}
	if to.sock != 0 && !e.socks[to.sock] || len(b) > e.limit() {
		return
	}
	e.net.carry(e, to.sock, b, to.addr)
}

// limit is the largest packet that gets through.
func (e *simEnd) limit() int {
	if e.mtu == 0 || e.fragments {
		return 1 << 16
	}
	return e.mtu
}

// sendLow opens a hole in our own NAT, no more.
func (e *simEnd) sendLow(b []byte, to udpSource) {
	e.out++
	if e.socks[to.sock] || to.sock == 0 {
		e.nat.out(e, to.sock, to.addr)
	}
}

func (e *simEnd) replay(to udpSource) {
	if e.last != nil {
		e.send(e.last, to)
	}
}

// tick serves the finder and the notes, and comes again when they say.
func (e *simEnd) tick() {
	if e.finder.tell {
		e.tellPeer()
	}
	next := earlier(e.finder.tick(e.net.now), e.tickNote())
	if next.IsZero() || !e.wake.IsZero() && e.wake.After(e.net.now) && !next.Before(e.wake) {
		return
	}
	e.wake = next
	e.net.at(max(next.Sub(e.net.now), time.Microsecond), func() {
		e.act(func() {
			if e.wake == next {
				e.wake = time.Time{}
				e.tick()
			}
		})
	})
}

// act calls do, later when the process stands still.
func (e *simEnd) act(do func()) {
	if e.net.now.Before(e.still) {
		e.net.at(e.still.Sub(e.net.now), do)
		return
	}
	do()
}

// Notes, as node_paths.go has them.

func (e *simEnd) tellPeer() {
	e.finder.tell = false
	if !e.finder.doubt.IsZero() {
		e.beat()
	}
	s := &e.note
	s.nonce, s.had, s.began, s.sent = rand.Uint64(), false, e.net.now, 0
	if e.probe.refresh(e.net.now) {
		s.nonce = 0
	}
}

// beat finds out where the coordinator sees us now; another place is looked at.
func (e *simEnd) beat() {
	e.net.seen(e, 0, simCoord, func(at netip.AddrPort) {
		if was := e.probe.seen[0]; was.IsValid() && was != at {
			e.probe.start(e.net.now, true)
		}
	})
}

func (e *simEnd) tickNote() (next time.Time) {
	s := &e.note
	if s.nonce == 0 || s.had || s.sent == len(noteTimes) {
		return next
	}
	if due := s.began.Add(noteTimes[s.sent]); due.After(e.net.now) {
		return due
	}
	s.sent++
	e.sendNote()
	if s.sent < len(noteTimes) {
		next = s.began.Add(noteTimes[s.sent])
	}
	return next
}

func (e *simEnd) sendNote() {
	var addrs []netip.AddrPort
	if at := e.finder.hard.freshTold(); at.IsValid() {
		addrs = append(addrs, at)
	}
	addrs = append(append(addrs, e.probe.observed()...), e.inside)
	e.net.relay(e, noteMsg{nonce: e.note.nonce, have: e.note.theirs, moved: e.finder.moving, nat: e.probe.kind, addrs: addrs})
}

func (e *simEnd) noted(m *noteMsg, observed netip.AddrPort) {
	s, now := &e.note, e.net.now
	anew := m.nonce != s.theirs || observed != s.from
	s.theirs, s.from, s.nat, s.seen = m.nonce, observed, m.nat, m.addrs
	s.had = s.had || m.have == s.nonce && s.nonce != 0
	if anew {
		e.finder.vouch(now, observed, m.addrs, netip.AddrPort{}, m.moved)
		e.finder.setKinds(now, e.probe.kind, s.nat, s.seen)
		switch {
		case s.nonce == 0:
			e.tellPeer()
		case s.had || s.sent == len(noteTimes):
			e.sendNote()
		default:
			s.began, s.sent = now, 0
		}
	}
	e.tick()
}

// call has the first end ask for an introduction to the second.
func (n *simNet) call() {
	a, b := n.ends[0], n.ends[1]
	n.seen(a, 0, simCoord, func(atA netip.AddrPort) {
		n.seen(b, 0, simCoord, func(netip.AddrPort) {})
		atB := b.nat.out(b, 0, simCoord)
		a.introduced(atB, b.inside)
		b.introduced(atA, a.inside)
	})
}

func (e *simEnd) introduced(at, inside netip.AddrPort) {
	e.met = true
	e.finder.introduce(e.net.now, at, []netip.AddrPort{inside})
	e.tellPeer()
	e.tick()
}

// receive takes a packet: sealed, or data and its acknowledgement.
func (e *simEnd) receive(b []byte, src udpSource) {
	if src.sock != 0 && !e.socks[src.sock] {
		return
	}
	now := e.net.now
	onPath := e.path.addr.IsValid() && src.key() == e.path.key()
	if b[0] >= 0x40 {
		if e.admitted[src.key()] {
			if onPath {
				e.pathRx, e.cameIn = now, true
			}
			e.took(b)
		}
		return
	}
	body, err := e.box.recvKey.open(b)
	if err != nil {
		return
	}
	h, rest, err := parseHead(body)
	if err != nil || e.box.accept(h) != nil {
		return
	}
	if onPath {
		e.pathRx = now
	}
	if m, err := parsePing(rest); h.kind == msgPing && err == nil {
		e.finder.pinged(now, m, src, len(b))
	}
	if m, err := parsePong(rest); h.kind == msgPong && err == nil {
		e.finder.ponged(now, m, src)
	}
	e.tick()
}

// The data: one number at a time, sent again until it is acknowledged, at
// QUIC's intervals.

const (
	simData = 0x40
	simAck  = 0x41
)

// write sends the next number.
func (e *simEnd) write() {
	e.data++
	e.pto = 200 * ms
	e.quic(simData, e.data, e.using)
	e.again(e.data)
}

func (e *simEnd) again(seq uint32) {
	e.net.at(e.pto, func() {
		if e.ackd < seq && e.data == seq {
			e.pto = min(2*e.pto, time.Minute)
			e.quic(simData, seq, e.using)
			e.again(seq)
		}
	})
}

func (e *simEnd) quic(kind byte, seq uint32, size int) {
	b := binary.BigEndian.AppendUint32([]byte{kind}, seq)
	b = append(b, make([]byte, max(0, size-len(b)))...)
	e.last = b
	stir := e.net.now.Sub(e.lastTx) > time.Second || !e.path.addr.IsValid()
	e.lastTx = e.net.now
	if e.path.addr.IsValid() {
		e.send(b, e.path)
	} else {
		for k, credit := range e.trials {
			if credit != 0 {
				e.send(b, udpSource{sock: k.sock, addr: k.addr})
			}
		}
	}
	if stir || e.fail {
		e.tick()
	}
}

func (e *simEnd) took(b []byte) {
	seq := binary.BigEndian.Uint32(b[1:])
	if b[0] == simAck {
		e.ackd = max(e.ackd, seq)
		return
	}
	e.have = max(e.have, seq)
	e.quic(simAck, seq, 0)
}

// proved reports that both ends have a path.
func (n *simNet) proved() bool { return n.ends[0].finder.best != nil && n.ends[1].finder.best != nil }

// flows sends one number each way and returns how long both took.
func (n *simNet) flows(within time.Duration) (took time.Duration, ok bool) {
	a, b := n.ends[0], n.ends[1]
	a.write()
	b.write()
	done := func() bool { return a.ackd == a.data && b.ackd == b.data }
	took = n.run(within, done)
	return took, done()
}
