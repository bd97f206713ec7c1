package main

// This file owns the UDP sockets and shows QUIC one constant, virtual address
// per peer process. What the kernel reads is sorted here: sealed datagrams go
// to their handler, QUIC packets of an admitted source go up under the peer's
// virtual address, all else is dropped. What QUIC writes to a virtual address
// leaves by the peer's path, or by every address that may be tried until
// there is one. It knows where packets go, not why: punch.go decides that.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// virtualNet holds the virtual addresses: the discard prefix of RFC 6666,
// where no real peer can be.
var virtualNet = netip.MustParsePrefix("100::/64")

const (
	// maxReplay is how many of the last datagrams are kept per peer, to be
	// sent again when a path returns or a new address may be tried: what a
	// typist and QUIC's probes send in a quarter of a second. Of small ones each
	// takes its size, at most 18 KB in all.
	maxReplay = 12
	// maxEarly is how many datagrams are kept of an outage's beginning, at most
	// 54 KB: QUIC's timers repeat what the other end lacks first and never repeat
	// it again by themselves, so that all else would have to wait for it.
	maxEarly = 36
	// forgetAfter is how long an outage lasts that QUIC shall begin anew after. After a
	// shorter one it goes on sooner with what it knows, its window above all.
	forgetAfter = 15 * time.Second
	// maxSegment is the largest single datagram kept, in bytes.
	maxSegment = 1500
)

// A udpMux is the set of sockets. It is the net.PacketConn that QUIC is given.
type udpMux struct {
	*net.UDPConn // the main socket
	udpBatch     // what the system adds for reading in batches
	udpExtra     // further sockets

	// sealed is called with each sealed datagram, from the reading goroutine;
	// b is valid during the call only. Set when made, then only read.
	sealed func(b []byte, from udpSource)
	// real lets QUIC see and use real addresses: the coordinator's way.
	real bool

	// stir is called when QUIC writes after a second's silence, writes with no
	// path, or a write by a path fails. Set before QUIC has the socket.
	stir func()

	writeErrors atomic.Uint64 // transient ones, swallowed

	mu       sync.RWMutex
	peers    map[netip.Addr]*udpPeer // guarded by mu: by virtual address
	admitted map[udpKey]*udpPeer     // guarded by mu: sources whose packets reach QUIC
	direct   map[netip.AddrPort]int  // guarded by mu: real addresses that we dialled, by count
	next     uint64                  // guarded by mu: the next virtual address
}

// listenUDP opens the main socket on addr, "host:port" as in net.ListenPacket.
func listenUDP(addr string, real bool, sealed func(b []byte, from udpSource)) (*udpMux, error) {
	ua, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", ua)
	if err != nil {
		return nil, err
	}
	u := &udpMux{UDPConn: conn, real: real, sealed: sealed,
		peers: map[netip.Addr]*udpPeer{}, admitted: map[udpKey]*udpPeer{}, direct: map[netip.AddrPort]int{},
		udpExtra: udpExtra{socks: map[int]*net.UDPConn{}, queue: make(chan udpQueued, extraQueue)}}
	if err := u.initBatch(); err != nil {
		conn.Close()
		return nil, err
	}
	return u, nil
}

// LocalAddr is, but for the coordinator, a specified address: QUIC must never
// pin source and interface of a connection whose path may move.
func (u *udpMux) LocalAddr() net.Addr {
	la := u.UDPConn.LocalAddr().(*net.UDPAddr)
	if u.real {
		return la
	}
	return &net.UDPAddr{IP: virtualNet.Addr().AsSlice(), Port: la.Port}
}

// port is the main socket's UDP port.
func (u *udpMux) port() uint16 {
	return uint16(u.UDPConn.LocalAddr().(*net.UDPAddr).Port)
}

// send sends one sealed datagram. Transient errors are counted, not returned:
// what is lost is sent again.
func (u *udpMux) send(b []byte, to udpSource) {
	u.writeReal(b, udpMeta{}, to)
}

// sendLow sends b so that it passes our own NAT and dies before the other end's,
// where systems can: a NAT that takes early packets of strangers ill is told
// nothing, and ours lets the other end in.
func (u *udpMux) sendLow(b []byte, to udpSource) { u.writeReal(b, udpMeta{low: true}, to) }

// lowTTL is how many routers such a packet passes: a home's and a carrier's.
const lowTTL = 5

// A udpPeer is one peer process as QUIC sees it.
type udpPeer struct {
	virtual *net.UDPAddr

	// seen is under which address QUIC sees the process: virtual, but for the port,
	// which is another after an outage of forgetAfter. QUIC's server takes that for a move of its
	// client, asks the new address for its proof and begins anew: what it had
	// learnt of round trips and losses was the outage's.
	seen atomic.Pointer[net.UDPAddr]

	// Monotonic nanoseconds, see monoNow: when anything came from the process,
	// when from the path in use, and when QUIC last wrote.
	lastRx, pathRx, lastTx atomic.Int64
	failed                 atomic.Bool // a write by the path could not leave, since this was last read
	came                   atomic.Bool // a packet came up to QUIC by the path, since this was last read

	mu     sync.Mutex
	path   udpSource         // guarded by mu: where packets go; no addr = none
	trials []udpTrial        // guarded by mu: where they go while there is no path
	replay [maxReplay][]byte // guarded by mu: the last datagrams, a ring
	at     int               // guarded by mu: next slot of replay
	early  [][]byte          // guarded by mu: what stood there when the last path was lost, and what QUIC wrote first after that
	lost   int64             // guarded by mu: when there was no path any more, by monoNow
	later  int               // guarded by mu: datagrams written since there is a path again
	worked int               // guarded by mu: largest datagram that has left, bytes: QUIC goes on with it on any path
}

// A udpTrial is an address that packets go to before a path is proved. budget
// is how many bytes it may still be sent, negative: any number. A source that
// nobody named gets at most three times what came from it.
type udpTrial struct {
	to     udpSource
	budget int
}

// addPeer makes a virtual address.
func (u *udpMux) addPeer() *udpPeer {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.next++
	ip := virtualNet.Addr().As16()
	binary.BigEndian.PutUint64(ip[8:], u.next)
	p := &udpPeer{virtual: &net.UDPAddr{IP: ip[:], Port: 1}}
	p.seen.Store(p.virtual)
	u.peers[netip.AddrFrom16(ip)] = p
	return p
}

// removePeer forgets the peer; what QUIC still writes to it goes nowhere.
func (u *udpMux) removePeer(p *udpPeer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.peers, netip.AddrFrom16([16]byte(p.virtual.IP)))
	for k, q := range u.admitted {
		if q == p {
			delete(u.admitted, k)
		}
	}
}

// admit lets packets from src reach QUIC as the peer's.
func (u *udpMux) admit(src udpSource, p *udpPeer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.admitted[src.key()] = p
}

// forget undoes admit, and addTrial.
func (u *udpMux) forget(src udpSource, p *udpPeer) {
	u.mu.Lock()
	if u.admitted[src.key()] == p {
		delete(u.admitted, src.key())
	}
	u.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trials = slices.DeleteFunc(p.trials, func(t udpTrial) bool { return t.to.key() == src.key() })
}

// dialDirect lets QUIC talk to a real address until done is called: the
// coordinator's.
func (u *udpMux) dialDirect(addr netip.AddrPort) (done func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.direct[addr]++
	return sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.direct[addr]--; u.direct[addr] == 0 {
			delete(u.direct, addr)
		}
	})
}

func (u *udpMux) peerOf(src udpSource) (p *udpPeer, direct bool) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.admitted[src.key()], u.direct[src.addr] > 0
}

// sort takes one datagram that was read and says under which address QUIC
// shall see it; nil: not at all.
func (u *udpMux) sort(b []byte, from udpSource) net.Addr {
	if isSealed(b) {
		if u.sealed != nil {
			u.sealed(b, from)
		}
		return nil
	}
	if len(b) == 0 {
		return nil
	}
	if u.real {
		return net.UDPAddrFromAddrPort(from.addr)
	}
	p, direct := u.peerOf(from)
	if direct {
		return net.UDPAddrFromAddrPort(from.addr)
	}
	if p == nil {
		return nil
	}
	p.lastRx.Store(monoNow())
	p.credit(from, len(b))
	return p.seen.Load()
}

// credit notes what came by the path, and raises what may be sent to an unnamed source by three times n bytes.
func (p *udpPeer) credit(from udpSource, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if from.key() == p.path.key() {
		p.pathRx.Store(monoNow())
		p.came.Store(true)
	}
	for i := range p.trials {
		if t := &p.trials[i]; t.budget >= 0 && t.to.key() == from.key() {
			t.budget += 3 * n
		}
	}
}

// inUse is the largest datagram that has left, in bytes.
func (p *udpPeer) inUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.worked
}

// setPath makes all further packets go to src and returns true when that is a
// change. A path without address means none.
func (p *udpPeer) setPath(src udpSource) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == src {
		return false
	}
	switch {
	case !src.addr.IsValid():
		p.early, p.lost = p.lastLocked(), monoNow()
	case !p.path.addr.IsValid() && p.early != nil && monoSince(p.lost) >= forgetAfter:
		p.seen.Store(&net.UDPAddr{IP: p.virtual.IP, Port: p.seen.Load().Port%65535 + 1})
	}
	p.path, p.later = src, 0
	p.pathRx.Store(monoNow())
	return true
}

// addTrial adds an address to try while there is no path, with a budget in
// bytes, negative = any. An older one of the same key takes the higher budget.
func (p *udpPeer) addTrial(src udpSource, budget int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.trials {
		if t := &p.trials[i]; t.to.key() == src.key() {
			t.to = src
			if budget < 0 {
				t.budget = budget
			} else if t.budget >= 0 {
				t.budget = max(t.budget, budget)
			}
			return
		}
	}
	p.trials = append(p.trials, udpTrial{src, budget})
}

// keepLocked keeps the last datagrams of a write for replay. p.mu must be held.
func (p *udpPeer) keepLocked(b []byte, segment int) {
	if segment == 0 {
		segment = len(b)
	}
	for skip := (len(b)+segment-1)/segment - maxReplay; skip > 0; skip-- {
		b = b[segment:]
	}
	for len(b) > 0 {
		n := min(segment, len(b))
		if n <= maxSegment {
			p.replay[p.at] = append(p.replay[p.at][:0], b[:n]...)
			p.at = (p.at + 1) % maxReplay
			p.keepEarlyLocked(b[:n])
		}
		b = b[n:]
	}
}

// keepEarlyLocked keeps what is written first while there is no path, and
// forgets it when much has been written since.
func (p *udpPeer) keepEarlyLocked(b []byte) {
	switch {
	case p.early == nil:
	case !p.path.addr.IsValid():
		if len(p.early) < maxEarly {
			p.early = append(p.early, bytes.Clone(b))
		}
	case p.later > maxEarly:
		p.early = nil
	default:
		p.later++
	}
}

// lastLocked returns copies of the last datagrams, oldest first.
func (p *udpPeer) lastLocked() [][]byte {
	last := make([][]byte, 0, maxEarly)
	for i := range maxReplay {
		if d := p.replay[(p.at+i)%maxReplay]; len(d) > 0 {
			last = append(last, bytes.Clone(d))
		}
	}
	return last
}

// A udpMeta is what QUIC asks of the kernel for one write.
type udpMeta struct {
	segment int  // bytes a datagram, 0 = b is one
	ecn     byte // the two ECN bits
	setECN  bool
	low     bool // not to leave our own side: see sendLow
}

// writePeer sends what QUIC wrote to a virtual address.
func (u *udpMux) writePeer(p *udpPeer, b []byte, m udpMeta) error {
	p.mu.Lock()
	p.keepLocked(b, m.segment)
	path := p.path
	var targets []udpSource
	if !path.addr.IsValid() {
		targets = p.takeTrialsLocked(len(b))
	}
	worked := p.worked
	p.mu.Unlock()
	silent := monoSince(p.lastTx.Swap(monoNow())) > time.Second
	if u.stir != nil && (silent || !path.addr.IsValid()) {
		u.stir()
	}
	if path.addr.IsValid() {
		return u.writePath(p, path, b, m, worked)
	}
	for _, t := range targets {
		u.writeReal(b, m, t)
	}
	return nil
}

// takeTrialsLocked returns the addresses that may be sent n bytes now.
func (p *udpPeer) takeTrialsLocked(n int) (to []udpSource) {
	for i := range p.trials {
		t := &p.trials[i]
		if t.budget >= 0 {
			if t.budget < n {
				continue
			}
			t.budget -= n
		}
		to = append(to, t.to)
	}
	return to
}

// writePath sends by the proved path. A datagram too big for the path is
// QUIC's to know of (it is how it finds the MTU), unless that size has left
// by this path before: then the path has shrunk under it, and the datagram
// goes in fragments.
func (u *udpMux) writePath(p *udpPeer, path udpSource, b []byte, m udpMeta, worked int) error {
	sent, err := u.writeReal(b, m, path)
	size := len(b)
	if m.segment > 0 {
		size = m.segment
	}
	if errors.Is(err, syscall.EMSGSIZE) && (size <= worked || size <= maxDatagram) {
		u.allowFragments(path.sock)
		sent, err = u.writeReal(b, m, path)
		if errors.Is(err, syscall.EMSGSIZE) {
			return nil // nothing of this size leaves now: lost, as any packet may be
		}
	}
	if err == nil && !sent {
		p.failed.Store(true)
		if u.stir != nil {
			u.stir()
		}
	}
	if sent && size > worked {
		p.mu.Lock()
		if p.path == path {
			p.worked = max(p.worked, size)
		}
		p.mu.Unlock()
	}
	return err
}

// replayTo sends the last datagrams again, and those of an outage's beginning,
// to src alone: a path has returned, or an address may be tried that missed
// them. The newest goes first: QUIC takes the age of the highest that is
// acknowledged for a round trip, and after an outage any other is far older.
func (u *udpMux) replayTo(p *udpPeer, src udpSource) {
	p.mu.Lock()
	again := p.againLocked()
	for i := range p.trials {
		if t := &p.trials[i]; t.budget >= 0 && t.to.key() == src.key() {
			again = t.spendLocked(again)
		}
	}
	p.mu.Unlock()
	for _, d := range again {
		u.writeReal(d, udpMeta{}, src)
	}
}

// lastWord sends the newest datagram twice more: that a link ends is said by one
// alone, and who misses it keeps its shells.
func (u *udpMux) lastWord(p *udpPeer) {
	p.mu.Lock()
	path, last := p.path, p.lastLocked()
	p.mu.Unlock()
	if !path.addr.IsValid() || len(last) == 0 {
		return
	}
	for range 2 {
		u.writeReal(last[len(last)-1], udpMeta{}, path)
	}
}

// againLocked returns what is to be sent again: after an outage the newest, then
// what was written in it from its beginning; else the last, oldest first.
func (p *udpPeer) againLocked() [][]byte {
	last := p.lastLocked()
	if p.early == nil || len(last) == 0 {
		return last
	}
	again := [][]byte{last[len(last)-1]}
	for _, d := range slices.Concat(p.early, last) {
		if !slices.ContainsFunc(again, func(b []byte) bool { return bytes.Equal(b, d) }) {
			again = append(again, d)
		}
	}
	return again
}

// spendLocked keeps as many datagrams as the budget allows and takes them off.
func (t *udpTrial) spendLocked(d [][]byte) [][]byte {
	for i := range d {
		if t.budget < len(d[i]) {
			return d[:i]
		}
		t.budget -= len(d[i])
	}
	return d
}

// writeTo sends what QUIC wrote, to a virtual or a real address.
func (u *udpMux) writeTo(b []byte, m udpMeta, addr *net.UDPAddr, local netip.Addr) error {
	ap := addr.AddrPort()
	if !virtualNet.Contains(ap.Addr()) {
		_, err := u.writeReal(b, m, udpSource{addr: netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), local: local})
		return err
	}
	u.mu.RLock()
	p := u.peers[ap.Addr()]
	u.mu.RUnlock()
	if p == nil {
		return nil
	}
	return u.writePeer(p, b, m)
}

// isTransient reports an error of one write that says nothing about the
// socket: a route that is gone, a firewall's no, a full queue. Any of them
// would otherwise end the QUIC connection that hit it.
func isTransient(err error) bool {
	var ae *net.AddrError // an IPv6 address on a machine without IPv6
	if errors.As(err, &ae) {
		return true
	}
	for _, e := range transientErrors {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// isClosed reports that the socket is gone, or that its read was ended.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}

// monoStart is where monoNow counts from.
var monoStart = time.Now()

// monoNow is the time since the program's start on the monotonic clock, in
// nanoseconds, never 0.
func monoNow() int64 { return int64(time.Since(monoStart)) + 1 }

// monoSince is how long ago a value of monoNow was.
func monoSince(t int64) time.Duration { return time.Duration(monoNow() - t) }
