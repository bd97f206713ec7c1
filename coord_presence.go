package main

// This file knows who is online: the coordinator's table of the devices that
// beat, without sockets, clocks or files. Nothing is kept for a datagram that
// does not open, and nothing is sent for it.
//
// A device of an account is a member; a process of it that beats is one of its
// instances. An address becomes an instance's when a beat from there carries
// the cookie that was sent to it, so that neither replays nor forged sources
// move anybody. What members ask of each other is in coord_introduce.go.

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"golang.org/x/crypto/cryptobyte"
)

const (
	// maxInstances bounds the processes of one device that are kept: the one
	// that serves, and verbs while they hold a link. See roomLocked.
	maxInstances = 8
	// presenceLife is how long an instance is online after a beat, in seconds:
	// beats come every 20 to 25, so it is two lost ones and their retries.
	// A sweep each presenceSweep makes it 66 to 74.
	presenceLife  = 66
	presenceSweep = 8 * time.Second
	// cookieTurn is how long the same cookie is made; the one before it still
	// counts, so that a cookie lives 30 to 60 s. That is more than the time
	// between two beats, and less than presenceLife: when an instance has been
	// forgotten, no beat of it that might be replayed has a right cookie.
	cookieTurn = 30 * time.Second
)

// What a member is in its account's log.
const (
	memberActive  = 0
	memberRevoked = 1
	memberWaiting = 2 // joined, not signed yet
)

// A memberInfo is a device of an account, for presence.update.
type memberInfo struct {
	keys     publicKeys
	standing byte
}

// A wireAddr is an address and port in the 18 bytes that messages carry: it
// takes a third of the memory of a netip.AddrPort.
type wireAddr [18]byte

func wireAddrOf(a netip.AddrPort) wireAddr { return wireAddr(appendAddr(nil, a)) }

func (w wireAddr) addrPort() (a netip.AddrPort) {
	s := cryptobyte.String(w[:])
	readAddr(&s, &a)
	return a
}

// A presInstance is a process of a device that beats: 96 bytes, 18 for each
// candidate, and 13 for each session that runs.
type presInstance struct {
	id     instanceID
	first  uint32 // seconds since the table began: when it came
	seen   uint32 // when it beat last
	window replayWindow
	addr   wireAddr
	local  uint16 // index in presence.locals
	serves bool
	left   bool   // it has said that it ends; serves is what it did
	cands  string // wireAddrs
	runs   string // appendRunning; "" = no connection is open
	build  unique.Handle[string]
}

// A presMember is a device of an account: 240 bytes, and its instances.
type presMember struct {
	acct      *presAccount // nil when it was dropped
	sign      [32]byte
	path      [32]byte
	send      sealKey
	recv      sealKey
	id        [idLen]byte
	hint      sealHint
	standing  byte
	keyed     bool   // send and recv are derived
	bad       bool   // its path key is none
	heard     bool   // it has beaten
	seen      uint32 // when it beat last, as in presInstance
	sent      uint64 // counter of the last datagram to it
	nextCall  pace
	nextRelay pace
	instances []presInstance
}

func (m *presMember) keys() publicKeys { return publicKeys{m.sign[:], m.path} }

func (m *presMember) deviceID() deviceID { return deviceID(m.id[:]) }

// instance returns the entry of a process, nil when there is none. It is valid
// until instances changes.
func (m *presMember) instance(id instanceID) *presInstance {
	for i := range m.instances {
		if m.instances[i].id == id {
			return &m.instances[i]
		}
	}
	return nil
}

// serving returns the newest process that may be rung, nil when none may.
func (m *presMember) serving() *presInstance {
	var best *presInstance
	for i := range m.instances {
		// Of two that came in the same second the later entry is newer.
		if in := &m.instances[i]; in.serves && !in.left && (best == nil || in.first >= best.first) {
			best = in
		}
	}
	return best
}

// A presAccount is what the table knows of an account.
type presAccount struct {
	id      acctID
	seq     uint64
	head    [32]byte
	members []*presMember // sorted by id
}

func (a *presAccount) member(id deviceID) *presMember {
	i, ok := slices.BinarySearchFunc(a.members, id, func(m *presMember, id deviceID) int {
		return strings.Compare(string(m.id[:]), string(id))
	})
	if !ok {
		return nil
	}
	return a.members[i]
}

// A sessionKeeper remembers sessions; the table knows of those that run what
// the last beat said. It is called without the table's lock, and may call back.
type sessionKeeper interface {
	// sessionMade: a call of client has made a session for target.
	sessionMade(acct acctID, client, target deviceID, token sessionToken, ttl uint32)
	// sessionsRun: a process of target that serves has beaten. runs names the
	// client of each session that connections are open under.
	sessionsRun(acct acctID, target deviceID, runs map[sessionID]deviceID)
}

// presence is the table. All methods may be called at once; send and wake are
// called without the lock.
type presence struct {
	me       *identity
	instance instanceID
	proto    protoRange
	second   netip.AddrPort // the other port as beatAck tells it; set before the first datagram
	ttl      uint32         // life of a session in seconds, 0 = without end
	send     func(b []byte, to udpSource)
	wake     func()        // tick is wanted earlier than it said
	keeper   sessionKeeper // set before the first datagram; nil: nobody remembers
	start    time.Time
	secret   [32]byte // makes cookies

	mu       sync.Mutex // guards all below
	accounts map[acctID]*presAccount
	members  map[sealHint]*presMember
	proved   map[wireAddr]int32 // instances at an address
	locals   []netip.Addr       // own addresses that were written to
	sweepAt  time.Duration
	promised time.Duration // when the caller of tick will come again
	out      []outDatagram // goes out when mu is released
	after    []func()      // called after that
	intro    introductions // see coord_introduce.go
}

type outDatagram struct {
	b  []byte
	to udpSource
}

// newPresence makes an empty table. wake may be nil.
func newPresence(me *identity, proto protoRange, now time.Time, send func([]byte, udpSource), wake func()) *presence {
	p := &presence{me: me, instance: newInstanceID(), proto: proto, send: send, wake: wake, start: now,
		ttl:      uint32(sessionTTL / time.Second),
		accounts: make(map[acctID]*presAccount), members: make(map[sealHint]*presMember),
		proved: make(map[wireAddr]int32), sweepAt: presenceSweep,
		intro: newIntroductions()}
	rand.Read(p.secret[:])
	return p
}

// update says what an account's log and waiting list hold now. Members that
// stay keep their instances; a new head is told to all that are online.
func (p *presence) update(now time.Time, id acctID, seq uint64, head [32]byte, devices []memberInfo) {
	p.mu.Lock()
	a := p.accounts[id]
	if a == nil {
		a = &presAccount{id: id, seq: seq, head: head}
		p.accounts[id] = a
	}
	news := a.seq != seq || a.head != head
	a.seq, a.head = seq, head
	p.setMembersLocked(a, devices)
	if news {
		p.newsLocked(now.Sub(p.start), a)
	}
	p.unlockAndSend()
}

func (p *presence) setMembersLocked(a *presAccount, devices []memberInfo) {
	old := a.members
	for _, m := range old {
		m.acct = nil
	}
	a.members = make([]*presMember, 0, len(devices))
	for _, d := range devices {
		hint := sealHintOf(a.id, d.keys.sign)
		m := p.members[hint]
		switch {
		case m == nil || m.acct == nil && m.path != d.keys.path:
			p.dropMemberLocked(m)
			m = &presMember{sign: [32]byte(d.keys.sign), path: d.keys.path, hint: hint, id: [idLen]byte([]byte(d.keys.deviceID()))}
			p.members[hint] = m
		case m.acct != nil:
			continue // a second device with one signing key: the first has it
		}
		m.acct, m.standing = a, d.standing
		a.members = append(a.members, m)
	}
	for _, m := range old {
		if m.acct == nil && p.members[m.hint] == m {
			p.dropMemberLocked(m)
		}
	}
	sortBy(a.members, func(x, y *presMember) int { return strings.Compare(string(x.id[:]), string(y.id[:])) })
}

// dropMemberLocked forgets a member; nil is none.
func (p *presence) dropMemberLocked(m *presMember) {
	if m == nil {
		return
	}
	for len(m.instances) > 0 {
		p.dropInstanceLocked(m, 0)
	}
	delete(p.members, m.hint)
}

// A presInput is a datagram that opened.
type presInput struct {
	at   time.Duration // since the table began
	now  int64         // unix seconds: the clock may have been set since
	m    *presMember
	head msgHead
	from udpSource
	size int // of the datagram, in bytes
}

// datagram takes in what came from a socket. b is not kept.
func (p *presence) datagram(now time.Time, b []byte, from udpSource) {
	hint, ok := hintOfDatagram(b)
	if !ok {
		return
	}
	from.addr = netip.AddrPortFrom(from.addr.Addr().Unmap(), from.addr.Port())
	p.mu.Lock()
	if m := p.members[hint]; m != nil && p.keyLocked(m) {
		if body, err := m.recv.open(b); err == nil {
			p.bodyLocked(presInput{at: now.Sub(p.start), now: now.Unix(), m: m, from: from, size: len(b)}, body)
		}
	}
	p.unlockAndSend()
}

// unlockAndSend releases mu, then sends what was to be sent.
func (p *presence) unlockAndSend() {
	out, after := p.out, p.after
	p.out, p.after = nil, nil
	wake := p.intro.earlierThan(p.promised)
	if wake {
		p.promised = p.intro.due[0].next
	}
	p.mu.Unlock()
	for _, d := range out {
		p.send(d.b, d.to)
	}
	for _, f := range after {
		f()
	}
	if wake && p.wake != nil {
		p.wake()
	}
}

// keyLocked derives a member's keys when they are first needed.
func (p *presence) keyLocked(m *presMember) bool {
	if !m.keyed {
		var err error
		m.send, m.recv, err = sealKeys(p.me.path, sealCoord, m.path, sealDevice)
		m.keyed, m.bad = true, err != nil
	}
	return !m.bad
}

func (p *presence) bodyLocked(in presInput, body []byte) {
	h, rest, err := parseHead(body)
	if err != nil || h.sender == (instanceID{}) {
		return
	}
	in.head = h
	// A call or an echo may come before its sender has heard from us.
	early := (h.kind == msgCall || h.kind == msgEcho) && h.receiver == instanceID{}
	switch {
	case !takes(in.from.sock, h.kind):
		return
	case h.receiver != p.instance && !early:
		p.helloLocked(in)
	case h.kind == msgBeat:
		p.beatLocked(in, rest)
	case h.kind == msgCall:
		p.callLocked(in, rest)
	case h.kind == msgAck:
		p.ackLocked(in, rest)
	case h.kind == msgEcho:
		p.echoLocked(in, rest)
	case h.kind == msgRelay:
		p.relayLocked(in, rest)
	}
}

// postLocked seals a message to a process of a member and returns its counter.
func (p *presence) postLocked(m *presMember, receiver instanceID, to udpSource, kind byte, body []byte) (counter uint64) {
	m.sent++
	h := msgHead{kind, p.instance, receiver, m.sent}
	b := append(h.append(make([]byte, 0, msgHeadLen+len(body))), body...)
	p.out = append(p.out, outDatagram{m.send.seal(m.hint, b), to})
	return m.sent
}

// helloLocked tells our instance, and a cookie for where the body came from;
// it is never longer than what it answers.
func (p *presence) helloLocked(in presInput) {
	if in.size >= helloLen {
		msg := helloMsg{p.cookie(in)}
		p.postLocked(in.m, in.head.sender, in.from, msgHello, msg.append(nil))
	}
}

func (p *presence) beatLocked(in presInput, rest []byte) {
	var proto protoRange
	s := cryptobyte.String(rest)
	if !readProto(&s, &proto) {
		return
	}
	if !proto.speaks() {
		p.refuseLocked(in, refuseMsg{reason: refuseUpdate})
		return
	}
	msg, err := parseBeat(rest)
	if err != nil {
		return
	}
	inst := in.m.instance(in.head.sender)
	var window replayWindow
	if inst != nil {
		window = inst.window
	}
	switch {
	case !window.fresh(in.head.counter): // a replay
	case msg.leaves:
		if inst != nil && p.receivesAt(in, inst, msg.cookie) {
			p.leaveLocked(in, inst, window)
		}
	case p.receivesAt(in, inst, msg.cookie):
		if p.countBeatLocked(in, msg, window) {
			p.beatAckLocked(in)
			p.runsLocked(in, msg)
		} else {
			p.refuseLocked(in, refuseMsg{reason: refuseLimit})
		}
	default: // the window stays: who races a copy of it here stops no beat
		p.helloLocked(in)
	}
}

// receivesAt reports whether the sender receives at where the datagram came
// from: it beat from there before, or has the cookie that was sent there.
func (p *presence) receivesAt(in presInput, inst *presInstance, c cookie) bool {
	return inst != nil && inst.addr == wireAddrOf(in.from.addr) || p.cookieRight(in, c)
}

// countBeatLocked enters a beat into the table, if there is room.
func (p *presence) countBeatLocked(in presInput, msg *beatMsg, window replayWindow) bool {
	m, now := in.m, uint32(in.at/time.Second)
	inst := m.instance(in.head.sender)
	if inst == nil {
		if !p.roomLocked(m, msg.serves) {
			return false
		}
		m.instances = append(m.instances, presInstance{id: in.head.sender, first: now})
		inst = &m.instances[len(m.instances)-1]
	}
	if addr := wireAddrOf(in.from.addr); addr != inst.addr {
		p.provedAddLocked(inst.addr, -1)
		p.provedAddLocked(addr, 1)
		inst.addr = addr
	}
	inst.window, inst.seen, inst.serves, inst.left = window, now, msg.serves, false
	inst.local = p.localIndexLocked(in.from.local)
	if cands := wireAddrs(msg.cands); cands != inst.cands {
		inst.cands = cands
	}
	inst.runs = ""
	if len(msg.running) > 0 {
		inst.runs = string(appendRunning(nil, msg.running))
	}
	inst.build = unique.Make(msg.proto.build)
	m.seen, m.heard = now, true
	return true
}

// leaveLocked takes an instance offline that says that it ends. It stays in the
// table for presenceLife, so that its earlier beats are still seen as replays.
func (p *presence) leaveLocked(in presInput, inst *presInstance, window replayWindow) {
	p.provedAddLocked(inst.addr, -1)
	now := uint32(in.at / time.Second)
	*inst = presInstance{id: inst.id, first: inst.first, seen: now, window: window, serves: inst.serves, left: true}
	in.m.seen = now
}

// roomLocked makes room for one more process of m and reports whether there is.
// Those that do not serve go first, of these those that have left, and of like
// ones the one silent the longest. None that serves, or did, gives way to one
// that does not: a replay might bring it back, and it would be rung.
func (p *presence) roomLocked(m *presMember, serves bool) bool {
	if len(m.instances) < maxInstances {
		return true
	}
	worth := func(i int) uint64 {
		in := &m.instances[i]
		return uint64(boolByte(in.serves))<<33 | uint64(boolByte(!in.left))<<32 | uint64(in.seen)
	}
	least := 0
	for i := range m.instances {
		if worth(i) < worth(least) {
			least = i
		}
	}
	if m.instances[least].serves && !serves {
		return false
	}
	p.dropInstanceLocked(m, least)
	return true
}

// dropInstanceLocked forgets the process with index i.
func (p *presence) dropInstanceLocked(m *presMember, i int) {
	p.provedAddLocked(m.instances[i].addr, -1)
	m.instances = slices.Delete(m.instances, i, i+1)
	if len(m.instances) == 0 {
		m.instances = nil // give the memory back
	}
}

func (p *presence) provedAddLocked(a wireAddr, n int32) {
	if a == (wireAddr{}) {
		return
	}
	if p.proved[a] += n; p.proved[a] == 0 {
		delete(p.proved, a)
	}
}

// maxLocals bounds the own addresses remembered; what comes in on one more is
// answered from where the system likes.
const maxLocals = 256

func (p *presence) localIndexLocked(local netip.Addr) uint16 {
	i := slices.Index(p.locals, local)
	if i < 0 && len(p.locals) < maxLocals {
		i = len(p.locals)
		p.locals = append(p.locals, local)
	}
	return uint16(i + 1) // 0 is none
}

// sourceLocked is where an instance is written to, and from which address.
func (p *presence) sourceLocked(in *presInstance) udpSource {
	s := udpSource{addr: in.addr.addrPort()}
	if in.local > 0 {
		s.local = p.locals[in.local-1]
	}
	return s
}

func (p *presence) beatAckLocked(in presInput) {
	msg := beatAckMsg{proto: p.proto, observed: in.from.addr, cookie: p.cookie(in),
		time: in.now, seq: in.m.acct.seq, head: in.m.acct.head, second: p.second}
	p.postLocked(in.m, in.head.sender, in.from, msgBeatAck, msg.append(nil))
}

func wireAddrs(addrs []netip.AddrPort) string {
	var b []byte
	for _, a := range addrs {
		b = appendAddr(b, a)
	}
	return string(b)
}

func (in *presInstance) candidates() []netip.AddrPort {
	var addrs []netip.AddrPort
	for s := cryptobyte.String(in.cands); !s.Empty(); {
		var a netip.AddrPort
		if !readAddr(&s, &a) {
			break
		}
		addrs = append(addrs, a)
	}
	return addrs
}

// cookieAt makes the cookie of a member for an address in the n-th cookieTurn.
func (p *presence) cookieAt(n int64, m *presMember, from udpSource) cookie {
	mac := hmac.New(sha256.New, p.secret[:])
	addr := wireAddrOf(from.addr)
	mac.Write(append64(addr[:], uint64(n)))
	mac.Write(m.hint[:])
	mac.Write(m.sign[:])
	return cookie(mac.Sum(nil)[:len(cookie{})])
}

func (p *presence) cookie(in presInput) cookie {
	return p.cookieAt(int64(in.at/cookieTurn), in.m, in.from)
}

func (p *presence) cookieRight(in presInput, c cookie) bool {
	n := int64(in.at / cookieTurn)
	for _, n := range [...]int64{n, n - 1} {
		want := p.cookieAt(n, in.m, in.from)
		if subtle.ConstantTimeCompare(want[:], c[:]) == 1 {
			return true
		}
	}
	return false
}

// tick does what is due and returns when it wants to be called again.
func (p *presence) tick(now time.Time) (next time.Time) {
	at := now.Sub(p.start)
	p.mu.Lock()
	p.introTickLocked(at)
	if at >= p.sweepAt {
		p.sweepLocked(at)
	}
	p.promised = p.sweepAt
	if p.intro.earlierThan(p.promised) {
		p.promised = p.intro.due[0].next
	}
	next = p.start.Add(p.promised)
	p.unlockAndSend()
	return next
}

// sweepLocked drops instances that were silent for presenceLife.
func (p *presence) sweepLocked(at time.Duration) {
	p.sweepAt = at + presenceSweep
	now := uint32(at / time.Second)
	for _, m := range p.members {
		for i := len(m.instances) - 1; i >= 0; i-- {
			if now-m.instances[i].seen > presenceLife {
				p.dropInstanceLocked(m, i)
			}
		}
	}
}
