package main

// This file is the table of peer processes: whose keys a datagram's hint
// names, which process of theirs sent it, and the path to that process.

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// maxProcs bounds the processes of one peer that paths are kept for, more than
// may have sessions at once; each takes about 4 KiB.
const maxProcs = 32

// procLinger is how long a process without a link is remembered: a handshake's
// time, or the last packets of a link that has closed.
const procLinger = 20 * time.Second

// A peerTable is guarded by its owner's lock.
type peerTable struct {
	id       *identity
	acct     acctID
	instance instanceID
	mux      *udpMux
	idle     time.Duration // see pathFinder.idle
	small    bool          // see pathFinder.small
	observe  func(now time.Time, sock int, seen func(time.Time, netip.AddrPort))
	known    func(publicKeys) bool // by the log
	// member returns whose datagrams of the log's machines bear a hint, for they
	// may come without an introduction; nil: nobody's may.
	member    func(sealHint) (publicKeys, bool)
	onHello   func(deviceID, instanceID) // a peer says that it is another process now
	unvouched pingBudget
	logf      func(level int, format string, args ...any)

	byHint    map[sealHint]*peerKeys
	byVirtual map[netip.Addr]*peerProc
}

// A peerKeys is a peer by its keys, with the secrets shared with it.
type peerKeys struct {
	keys       publicKeys
	send, recv sealKey
	procs      map[instanceID]*peerProc
	member     bool                        // of the log: kept without processes too
	gone       map[instanceID]replayWindow // processes that were forgotten: what they said stays said
	went       []instanceID                // those in gone, in order
}

// A peerProc is one process of a peer.
type peerProc struct {
	keys     publicKeys
	instance instanceID
	udp      *udpPeer
	finder   *pathFinder
	box      *sealBox
	note     noteState
	used     bool      // a link goes to it
	idleAt   time.Time // since when none does
}

// A noteState is the exchange of notes with one process.
type noteState struct {
	nonce  uint64         // of our last one, 0 = none
	theirs uint64         // of the last that came, 0 = none
	from   netip.AddrPort // where the coordinator saw its sender
	had    bool           // the other end has ours
	began  time.Time
	sent   int
	nat    natKind // theirs
	seen   []netip.AddrPort
}

func newPeerTable(id *identity, acct acctID, instance instanceID, mux *udpMux) *peerTable {
	return &peerTable{id: id, acct: acct, instance: instance, mux: mux, idle: idlePing,
		byHint: map[sealHint]*peerKeys{}, byVirtual: map[netip.Addr]*peerProc{}}
}

// learn makes the peer's keys known, so that its datagrams open.
func (t *peerTable) learn(keys publicKeys) (*peerKeys, error) {
	hint := sealHintOf(t.acct, keys.sign)
	if p := t.byHint[hint]; p != nil {
		if p.keys.path != keys.path {
			return nil, coded("key-mismatch", "path key of %s is not the one known", keys.deviceID())
		}
		return p, nil
	}
	p := &peerKeys{keys: keys, procs: map[instanceID]*peerProc{}, gone: map[instanceID]replayWindow{}}
	var err error
	if p.send, p.recv, err = sealKeys(t.id.path, sealDevice, keys.path, sealDevice); err != nil {
		return nil, fmt.Errorf("device %s: %w", keys.deviceID(), err)
	}
	t.byHint[hint] = p
	return p, nil
}

// proc returns the peer's process, made known now if it was not. flight says
// that we are to dial it.
func (t *peerTable) proc(now time.Time, keys publicKeys, instance instanceID, flight bool) (*peerProc, error) {
	p, err := t.learn(keys)
	if err != nil {
		return nil, err
	}
	if q := p.procs[instance]; q != nil {
		q.finder.flight = q.finder.flight || flight
		return q, nil
	}
	if len(p.procs) >= maxProcs && !t.forgetOne(p) {
		return nil, fmt.Errorf("device %s: %d processes at once", keys.deviceID(), len(p.procs))
	}
	q := &peerProc{keys: keys, instance: instance, udp: t.mux.addPeer(), idleAt: now}
	q.box = &sealBox{sendKey: p.send, recvKey: p.recv, hint: sealHintOf(t.acct, t.id.keys.sign), mine: t.instance, theirs: instance,
		// A process that is forgotten and comes back must not begin at a counter
		// that its other end has seen.
		counter: uint64(monoNow()), window: p.gone[instance]}
	if i := slices.Index(p.went, instance); i >= 0 {
		delete(p.gone, instance)
		p.went = slices.Delete(p.went, i, i+1)
	}
	q.finder = newPathFinder(&muxRouter{t, q.udp, keys}, q.box, flight, now)
	q.finder.idle, q.finder.small = t.idle, t.small
	p.procs[instance] = q
	t.byVirtual[virtualIP(q.udp.virtual)] = q
	return q, nil
}

// ofVirtual returns the process behind an address that QUIC knows it by.
func (t *peerTable) ofVirtual(a net.Addr) *peerProc {
	ua, ok := a.(*net.UDPAddr)
	if !ok {
		return nil
	}
	return t.byVirtual[virtualIP(ua)]
}

func virtualIP(a *net.UDPAddr) netip.Addr {
	ip, _ := netip.AddrFromSlice(a.IP)
	return ip
}

// handle takes a sealed datagram whose hint names no coordinator.
func (t *peerTable) handle(now time.Time, hint sealHint, b []byte, from udpSource) {
	p, h, rest := t.open(hint, b)
	if p == nil {
		return
	}
	if h.kind == msgHello {
		t.greeted(now, p, h, from)
		return
	}
	if h.receiver != t.instance {
		t.greet(p, h, len(b), from)
		return
	}
	q := p.procs[h.sender]
	if q == nil && h.kind == msgPing && p.member && t.known(p.keys) {
		q = t.knocked(now, p, h)
	}
	if q == nil || q.box.accept(h) != nil {
		return
	}
	q.udp.lastRx.Store(monoNow())
	if best := q.finder.best; best != nil && best.src.key() == from.key() {
		q.udp.pathRx.Store(monoNow())
	}
	switch h.kind {
	case msgPing:
		if m, err := parsePing(rest); err == nil {
			q.finder.pinged(now, m, from, len(b))
		}
	case msgPong:
		if m, err := parsePong(rest); err == nil {
			q.finder.ponged(now, m, from)
		}
	}
}

// maxKnocked bounds the processes of a peer that nobody has introduced and that
// have not proved themselves.
const maxKnocked = 4

// knocked makes a process known that pings without an introduction; nil: what it
// says was said before, or there is no room. It makes nobody else's: the ping may
// be an old one, played again by anybody.
func (t *peerTable) knocked(now time.Time, p *peerKeys, h msgHead) *peerProc {
	if w := p.gone[h.sender]; !w.fresh(h.counter) {
		return nil
	}
	waiting := 0
	for _, q := range p.procs {
		if q.finder.knocking() {
			waiting++
		}
	}
	if waiting >= maxKnocked || len(p.procs) >= maxProcs {
		return nil
	}
	q, err := t.proc(now, p.keys, h.sender, false)
	if err != nil {
		return nil
	}
	q.finder.knocked = true
	return q
}

// open returns what a datagram says and whose it is, nil when it does not open.
func (t *peerTable) open(hint sealHint, b []byte) (*peerKeys, msgHead, []byte) {
	p := t.byHint[hint]
	if p == nil || !p.member {
		t.learnMember(hint)
		p = t.byHint[hint]
	}
	if p == nil {
		return nil, msgHead{}, nil
	}
	body, err := p.recv.open(b)
	if err != nil {
		return nil, msgHead{}, nil
	}
	h, rest, err := parseHead(body)
	if err != nil {
		return nil, msgHead{}, nil
	}
	return p, h, rest
}

// learnMember makes a machine of the log known that nobody has introduced.
func (t *peerTable) learnMember(hint sealHint) {
	if t.member == nil {
		return
	}
	if keys, ok := t.member(hint); ok {
		if p, err := t.learn(keys); err == nil {
			p.member = true
		}
	}
}

// noted opens a note that came by the coordinator; nil: it is none, or not for
// this process, or came before.
func (t *peerTable) noted(hint sealHint, b []byte) (*peerProc, *noteMsg) {
	p, h, rest := t.open(hint, b)
	if p == nil || h.kind != msgNote || p.procs[h.sender] == nil {
		return nil, nil
	}
	q := p.procs[h.sender]
	m, err := parseNote(rest)
	if err != nil || q.box.accept(h) != nil {
		return nil, nil
	}
	return q, m
}

// greet tells a peer that it speaks to a process that is gone, in no more
// bytes than it sent. That is all a wrong instance brings about.
func (t *peerTable) greet(p *peerKeys, h msgHead, n int, from udpSource) {
	if n < helloLen || p.member && !t.known(p.keys) {
		return
	}
	x := sealBox{sendKey: p.send, hint: sealHintOf(t.acct, t.id.keys.sign), mine: t.instance, theirs: h.sender}
	b, _ := x.pack(msgHello, &helloMsg{}, 0)
	t.mux.send(b, from)
}

// greeted takes a hello: the processes that we thought were at its source may
// be gone.
func (t *peerTable) greeted(now time.Time, p *peerKeys, h msgHead, from udpSource) {
	if h.receiver != t.instance {
		return
	}
	for id, q := range p.procs {
		if id != h.sender && q.finder.best != nil && q.finder.best.src.key() == from.key() {
			q.finder.greeted(now)
		}
	}
	if t.onHello != nil {
		t.onHello(p.keys.deviceID(), h.sender)
	}
}

// tick serves every path and forgets processes that nothing needs, and peers
// without any: else whoever makes a coordinator ring fills the table.
func (t *peerTable) tick(now time.Time) (next time.Time) {
	for hint, p := range t.byHint {
		for id, q := range p.procs {
			if !q.used && now.Sub(q.idleAt) > procLinger {
				t.forget(p, id)
				continue
			}
			next = earlier(next, q.finder.tick(now))
			if !q.used {
				next = earlier(next, q.idleAt.Add(procLinger+time.Millisecond))
			}
		}
		if len(p.procs) == 0 && !p.member {
			delete(t.byHint, hint)
		}
	}
	return next
}

// maxGone bounds the processes of a peer whose counters are remembered, about 50
// bytes each. What the others have said may be said again, see knocked.
const maxGone = 256

func (t *peerTable) forget(p *peerKeys, id instanceID) {
	q := p.procs[id]
	if len(p.went) >= maxGone {
		delete(p.gone, p.went[0])
		p.went = slices.Delete(p.went, 0, 1)
	}
	p.gone[id], p.went = q.box.window, append(p.went, id)
	q.finder.closeSocks()
	t.mux.removePeer(q.udp)
	delete(t.byVirtual, virtualIP(q.udp.virtual))
	delete(p.procs, id)
}

// forgetOne makes room: of the processes without a link it forgets the one
// that has been so the longest. Many verbs, one after the other, are as many
// processes within procLinger.
func (t *peerTable) forgetOne(p *peerKeys) bool {
	var oldest *peerProc
	for _, q := range p.procs {
		if !q.used && (oldest == nil || q.idleAt.Before(oldest.idleAt)) {
			oldest = q
		}
	}
	if oldest != nil {
		t.forget(p, oldest.instance)
	}
	return oldest != nil
}

// heard is how long ago anything came from the process.
func (q *peerProc) heard() time.Duration { return monoSince(q.udp.lastRx.Load()) }

// A muxRouter carries out a path finder's decisions on the sockets.
type muxRouter struct {
	table *peerTable
	peer  *udpPeer
	keys  publicKeys
}

func (r *muxRouter) send(b []byte, to udpSource)     { r.table.mux.send(b, to) }
func (r *muxRouter) sendLow(b []byte, to udpSource)  { r.table.mux.sendLow(b, to) }
func (r *muxRouter) admit(src udpSource)             { r.table.mux.admit(src, r.peer) }
func (r *muxRouter) setPath(src udpSource) bool      { return r.peer.setPath(src) }
func (r *muxRouter) trial(src udpSource, credit int) { r.peer.addTrial(src, credit) }
func (r *muxRouter) forget(src udpSource)            { r.table.mux.forget(src, r.peer) }
func (r *muxRouter) replay(to udpSource)             { r.table.mux.replayTo(r.peer, to) }
func (r *muxRouter) openSock() (int, error)          { return r.table.mux.openSock() }
func (r *muxRouter) closeSock(i int)                 { r.table.mux.closeSock(i) }
func (r *muxRouter) inUse() int                      { return r.peer.inUse() }
func (r *muxRouter) shrink(src udpSource)            { r.table.mux.allowFragments(src.sock) }
func (r *muxRouter) logf(format string, args ...any) { r.table.logf(3, format, args...) }
func (r *muxRouter) failed() bool                    { return r.peer.failed.Swap(false) }
func (r *muxRouter) came() bool                      { return r.peer.came.Swap(false) }

func (r *muxRouter) idle(time.Time) (_, _ time.Duration) {
	return monoSince(r.peer.pathRx.Load()), monoSince(r.peer.lastTx.Load())
}

func (r *muxRouter) mayPing(now time.Time, a netip.Addr) bool { return r.table.unvouched.take(now, a) }
func (r *muxRouter) known() bool                              { return r.table.known(r.keys) }
func (r *muxRouter) lives(a netip.Addr)                       { r.table.unvouched.forgive(a) }

func (r *muxRouter) observe(now time.Time, sock int, seen func(time.Time, netip.AddrPort)) {
	r.table.observe(now, sock, seen)
}

// A pingBudget bounds the pings to addresses that only a coordinator has named,
// whatever it calls the peers there: it may want somebody flooded.
type pingBudget map[netip.Prefix]pingCount

type pingCount struct {
	pings int
	since time.Time
}

const (
	// budgetFor is how long pings to an address count.
	budgetFor = time.Minute
	// maxBudgets bounds the addresses counted, about 80 bytes each.
	maxBudgets = 1024
)

// take counts one ping; false: there were enough.
func (p *pingBudget) take(now time.Time, a netip.Addr) bool {
	if *p == nil {
		*p = pingBudget{}
	}
	host := hostOf(a)
	c, ok := (*p)[host]
	if now.Sub(c.since) >= budgetFor {
		c = pingCount{since: now}
	}
	if c.pings >= maxUnvouched || !ok && len(*p) >= maxBudgets && !p.sweep(now) {
		return false
	}
	c.pings++
	(*p)[host] = c
	return true
}

// sweep forgets what counts no more; false: there was nothing of the kind.
func (p *pingBudget) sweep(now time.Time) bool {
	for host, c := range *p {
		if now.Sub(c.since) >= budgetFor {
			delete(*p, host)
		}
	}
	return len(*p) < maxBudgets
}

// forgive takes note that an address has answered.
func (p *pingBudget) forgive(a netip.Addr) { delete(*p, hostOf(a)) }
