package main

// This file is a device's side of the conversation with its coordinator by
// sealed datagrams: beats that keep it known, calls that ask for an
// introduction, and what the coordinator says by itself (rings, news).
//
// Like punch.go it owns no goroutine and no clock: its owner calls tick when
// next says so, and serialises all calls.

import (
	"crypto/rand"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

const (
	// beatEvery keeps the NAT's hole to the coordinator open, and presence
	// with it; up to a fifth is taken off at random, never added.
	beatEvery = 25 * time.Second
	// usesGap paces the beats that tell of connections which begin and end.
	usesGap = time.Second
	// callRetry paces an unanswered call: 50, 100, 200, 400 ms, then each second.
	callRetry = 50 * ms
	// callSlow paces a call that nobody has answered for a quarter of a minute.
	callSlow = 15 * time.Second
	// maxUnheard is how many times a call or an echo goes to where the
	// coordinator answered last; from then on, 350 or 700 ms after the first, it
	// goes to all of its addresses: that one may be dead.
	maxUnheard = 3
)

// beatRetry is when an unanswered beat is sent again.
var beatRetry = []time.Duration{1 * time.Second, 2 * time.Second, 4 * time.Second}

// A coordTalk is the conversation. Callbacks are called from handle, and must
// not call back into it.
type coordTalk struct {
	box   *sealBox
	addrs []netip.AddrPort // where the coordinator may be, as its name resolved
	at    udpSource        // the one that answered last; no addr = none yet
	send  func(b []byte, to udpSource)

	beating bool // keep presence
	serves  bool // our process may be rung
	cookie  cookie
	cands   func() []netip.AddrPort
	uses    func() uint64           // changes when a session's connections do
	running func() []runningSession // what a beat says of them; both nil: serves nobody
	told    uint64                  // uses when we beat last

	observed netip.AddrPort // where the coordinator sees us
	place    netip.AddrPort // where it did when a beat last counted
	heardAt  time.Time      // when it last proved to be there
	offset   time.Duration  // its clock minus ours, when last heard
	nextBeat time.Time
	lastBeat time.Time
	tries    int // beats since the last answer
	calls    map[callID]*coordCall

	onHead    func(seq uint64, head [32]byte) // its log's head
	onRing    func(now time.Time, m *ringMsg)
	onPlace   func(now time.Time, at netip.AddrPort) // a beat counts, from a new address; may be nil
	onRefused func(m *refuseMsg)                     // a beat was refused
	onRelayed func(now time.Time, m *relayedMsg)
	onEnd     func(m *endMsg) // sessions are to end

	second netip.AddrPort              // its other port; without an IP that of its first
	echoes map[uint64]*echoCall        // by nonce
	rings  map[callID]time.Time        // and orders to end sessions, by when they came
	left   map[instanceID]replayWindow // of the coordinator's former instances
}

// A coordCall is one call under way.
type coordCall struct {
	msg  callMsg
	next time.Time
	sent int
	// answered calls stay until they are hung up: that the ring is silent
	// comes later.
	answered bool
	answer   func(now time.Time, m *answerMsg)
	refuse   func(now time.Time, m *refuseMsg)
}

// An echoCall asks where the coordinator sees one of our sockets.
type echoCall struct {
	version       byte // of IP: 4, 6, 0 = any
	sock          int
	second, other bool // asked of its second port; to be answered from the other one
	full          bool // of maxDatagram bytes
	sent          int
	next          time.Time
	seen          func(now time.Time, at netip.AddrPort)
}

// is reports whether an echo may go to a.
func (e *echoCall) is(a netip.AddrPort) bool {
	return e.version == 0 || a.Addr().Is4() == (e.version == 4)
}

// echoTimes are when an echo goes out again; after the last it has failed.
var echoTimes = []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms}

func ourProto() protoRange { return protoRange{protoMin, protoMax, buildVersion()} }

// known reports whether the coordinator has answered within the last minute.
func (c *coordTalk) known(now time.Time) bool {
	return !c.heardAt.IsZero() && now.Sub(c.heardAt) < time.Minute
}

// tick sends what is due and says when it wants to be called again.
func (c *coordTalk) tick(now time.Time) (next time.Time) {
	if c.beating {
		if soon := c.lastBeat.Add(usesGap); c.uses != nil && c.uses() != c.told && c.nextBeat.After(soon) {
			c.nextBeat = soon
		}
		if !c.nextBeat.After(now) {
			c.beat(now)
		}
		next = c.nextBeat
	}
	for _, call := range c.calls {
		if call.answered {
			continue
		}
		if !call.next.After(now) {
			c.sendCall(now, call)
		}
		next = earlier(next, call.next)
	}
	for nonce, e := range c.echoes {
		if !e.next.After(now) {
			c.sendEcho(now, nonce, e)
		}
		if c.echoes[nonce] != nil {
			next = earlier(next, e.next)
		}
	}
	for id, at := range c.rings {
		if now.Sub(at) > time.Minute {
			delete(c.rings, id)
		}
	}
	return next
}

// beatSoon makes the next beat due: an address has changed, or a process has
// begun to serve.
func (c *coordTalk) beatSoon() { c.nextBeat, c.tries = time.Time{}, 0 }

// beatAgain makes it due unless one has just gone out.
func (c *coordTalk) beatAgain(now time.Time) {
	if now.Sub(c.lastBeat) > time.Second {
		c.beatSoon()
	}
}

func (c *coordTalk) beat(now time.Time) {
	c.lastBeat = now
	m := beatMsg{proto: ourProto(), serves: c.serves, cookie: c.cookie, cands: c.cands()}
	if c.uses != nil {
		c.told, m.running = c.uses(), c.running()
	}
	if c.tries >= 2 {
		c.at = udpSource{} // try every address again
	}
	c.transmit(msgBeat, &m, 0, 0)
	if c.tries < len(beatRetry) {
		c.nextBeat = now.Add(beatRetry[c.tries])
	} else {
		c.nextBeat = now.Add(beatEvery - mrand.N(beatEvery/5))
	}
	c.tries++
}

// leave tells the coordinator that this process ends: callers then hear at
// once that the device is offline. A lost one costs them a wait.
func (c *coordTalk) leave() {
	if c.beating && c.at.addr.IsValid() {
		c.transmit(msgBeat, &beatMsg{proto: ourProto(), leaves: true, cookie: c.cookie}, 0, 0)
	}
}

// echo asks where the coordinator sees a socket of ours: its first port, or
// its second. seen is called once, with an invalid address when nothing came.
func (c *coordTalk) echo(now time.Time, e echoCall) {
	nonce := mrand.Uint64()
	c.echoes[nonce] = &e
	c.sendEcho(now, nonce, &e)
}

func (c *coordTalk) sendEcho(now time.Time, nonce uint64, e *echoCall) {
	if e.sent == len(echoTimes) {
		delete(c.echoes, nonce)
		e.seen(now, netip.AddrPort{})
		return
	}
	pad := 0
	if e.full {
		pad = maxDatagram
	}
	b, _ := c.box.pack(msgEcho, &echoMsg{nonce, e.other}, pad)
	addrs := c.addrs
	if c.at.addr.IsValid() && e.is(c.at.addr) && e.sent < maxUnheard {
		addrs = []netip.AddrPort{c.at.addr}
	}
	for _, a := range addrs {
		if !e.is(a) {
			continue
		}
		if e.second {
			a = c.secondOf(a)
		}
		c.send(b, udpSource{sock: e.sock, addr: a})
	}
	e.next = now.Add(echoTimes[e.sent])
	e.sent++
}

// secondOf is the coordinator's other port beside its first at a: the next one,
// until it says otherwise.
func (c *coordTalk) secondOf(a netip.AddrPort) netip.AddrPort {
	switch {
	case !c.second.IsValid():
		return netip.AddrPortFrom(a.Addr(), a.Port()+1)
	case c.second.Addr().IsUnspecified(), c.second.Addr().Is4() != a.Addr().Is4():
		return netip.AddrPortFrom(a.Addr(), c.second.Port())
	}
	return c.second
}

// echoed takes an answer from the other port only on the socket that asked:
// another one may have a hole to that port, by the same port of the NAT.
func (c *coordTalk) echoed(now time.Time, rest []byte, from udpSource) {
	m, err := parseEchoAck(rest)
	if err != nil {
		return
	}
	if e := c.echoes[m.nonce]; e != nil && (!e.other || e.sock == from.sock) {
		delete(c.echoes, m.nonce)
		e.seen(now, m.observed)
	}
}

// versions are those of IP to find out by what a NAT does, and where else we are
// seen, if the coordinator has addresses of both.
func (c *coordTalk) versions() (nat, other byte) {
	has := map[bool]bool{}
	for _, a := range c.addrs {
		has[a.Addr().Is4()] = true
	}
	if len(has) == 2 {
		return 4, 6
	}
	return 0, 0
}

// relay has the coordinator hand a sealed datagram to a process of a device.
func (c *coordTalk) relay(target deviceID, instance instanceID, inner []byte) {
	c.transmit(msgRelay, &relayMsg{target, instance, inner}, 0, 0)
}

// transmit sends to where the coordinator answered last, else everywhere; sent
// is how often it has gone out already.
func (c *coordTalk) transmit(kind byte, p payload, pad, sent int) {
	b, _ := c.box.pack(kind, p, pad)
	if c.at.addr.IsValid() && sent < maxUnheard {
		c.send(b, c.at)
		return
	}
	for _, a := range c.addrs {
		c.send(b, udpSource{addr: a})
	}
}

// call asks to be introduced to target. Either answer is called once, and
// refuse perhaps later with reason refuseSilent, or refuse alone. The caller
// hangs up.
func (c *coordTalk) call(now time.Time, target deviceID, answer func(time.Time, *answerMsg), refuse func(time.Time, *refuseMsg)) callID {
	var id callID
	rand.Read(id[:])
	call := &coordCall{
		msg:    callMsg{proto: ourProto(), call: id, target: target, cands: c.cands()},
		answer: answer, refuse: refuse,
	}
	c.calls[id] = call
	c.sendCall(now, call)
	return id
}

// hangUp ends a call.
func (c *coordTalk) hangUp(id callID) { delete(c.calls, id) }

func (c *coordTalk) sendCall(now time.Time, call *coordCall) {
	call.msg.cookie = c.cookie
	call.msg.time = now.Add(c.offset).Unix()
	c.transmit(msgCall, &call.msg, maxDatagram, call.sent)
	call.next = now.Add(min(callRetry<<min(call.sent, 5), time.Second))
	if call.sent > 20 {
		call.next = now.Add(callSlow)
	}
	call.sent++
}

// handle takes a body that came sealed from the coordinator's path key.
func (c *coordTalk) handle(now time.Time, h msgHead, rest []byte, from udpSource) {
	if h.receiver != c.box.mine {
		return
	}
	if h.kind == msgHello {
		c.hello(now, h, rest, from)
		return
	}
	if c.box.theirs == (instanceID{}) {
		c.adopt(h.sender)
	}
	if c.box.accept(h) != nil {
		return
	}
	c.heard(now, from)
	switch h.kind {
	case msgBeatAck:
		c.beatAck(now, rest)
	case msgAnswer:
		c.answered(now, h, rest)
	case msgRefuse:
		c.refused(now, rest)
	case msgRing:
		c.ring(now, h, rest)
	case msgEchoAck:
		c.echoed(now, rest, from)
	case msgRelayed:
		if m, err := parseRelayed(rest); err == nil && c.onRelayed != nil {
			c.onRelayed(now, m)
		}
	case msgNews:
		if m, err := parseNews(rest); err == nil {
			c.ack(h)
			c.onHead(m.seq, m.head)
		}
	case msgEnd:
		c.end(now, h, rest)
	}
}

// heard notes where the coordinator answers from: one of its addresses. From
// elsewhere somebody passes its words on, before they come themselves.
func (c *coordTalk) heard(now time.Time, from udpSource) {
	if slices.Contains(c.addrs, from.addr) {
		from.sock = 0 // whichever of our sockets asked
		c.at, c.heardAt = from, now
	}
}

// maxLeft bounds the coordinator's former instances that are remembered.
const maxLeft = 8

// adopt takes up the conversation with another instance of the coordinator, or
// the former one again: what it has said before stays said.
func (c *coordTalk) adopt(theirs instanceID) {
	if len(c.left) >= maxLeft {
		clear(c.left)
	}
	c.left[c.box.theirs] = c.box.window
	c.box.theirs, c.box.window = theirs, c.left[theirs]
}

// hello tells the coordinator's instance: it has restarted, or never heard of
// ours. A beat follows at once, and so does every call.
func (c *coordTalk) hello(now time.Time, h msgHead, rest []byte, from udpSource) {
	m, err := parseHello(rest)
	if err != nil {
		return
	}
	if former := c.left[h.sender]; h.sender != c.box.theirs && former.fresh(h.counter) {
		c.adopt(h.sender)
	}
	if h.sender != c.box.theirs || !c.box.window.fresh(h.counter) {
		return
	}
	c.cookie = m.cookie
	c.heard(now, from)
	if c.beating {
		c.beatSoon()
	}
	for _, call := range c.calls {
		call.next, call.sent = now, 0
	}
	c.tick(now)
}

func (c *coordTalk) beatAck(now time.Time, rest []byte) {
	m, err := parseBeatAck(rest)
	if err != nil {
		return
	}
	if c.onPlace != nil && m.observed != c.place {
		c.onPlace(now, m.observed)
	}
	c.place, c.observed, c.cookie, c.second, c.tries = m.observed, m.observed, m.cookie, m.second, 0
	c.offset = time.Unix(m.time, 0).Sub(now)
	c.nextBeat = now.Add(beatEvery - mrand.N(beatEvery/5))
	if m.seq != never {
		c.onHead(m.seq, m.head)
	}
}

func (c *coordTalk) answered(now time.Time, h msgHead, rest []byte) {
	m, err := parseAnswer(rest)
	if err != nil {
		return
	}
	c.ack(h)
	c.observed, c.second = m.caller, m.second
	if call := c.calls[m.call]; call != nil && !call.answered {
		call.answered = true
		call.answer(now, m)
	}
}

func (c *coordTalk) refused(now time.Time, rest []byte) {
	m, err := parseRefuse(rest)
	if err != nil {
		return
	}
	if call := c.calls[m.call]; call != nil {
		if m.reason != refuseSilent {
			delete(c.calls, m.call)
		}
		call.refuse(now, m)
	} else if m.call == (callID{}) && c.onRefused != nil {
		c.onRefused(m)
	}
}

// ring is acknowledged every time and acted on once.
func (c *coordTalk) ring(now time.Time, h msgHead, rest []byte) {
	m, err := parseRing(rest)
	if err != nil {
		return
	}
	c.ack(h)
	if c.serves && len(c.rings) < maxRings && c.first(now, m.call) {
		c.onRing(now, m)
	}
}

// end is acknowledged when it is done. It comes again until then, and what
// begins meanwhile may stay.
func (c *coordTalk) end(now time.Time, h msgHead, rest []byte) {
	m, err := parseEnd(rest)
	if err != nil || c.onEnd == nil {
		return
	}
	if c.first(now, m.order) {
		c.onEnd(m)
	}
	c.ack(h)
}

// maxRings bounds the rings remembered for a minute, about 64 bytes each.
const maxRings = 1024

// first reports whether a ring or an order has not come within a minute before,
// and remembers it if there is room.
func (c *coordTalk) first(now time.Time, id callID) bool {
	_, seen := c.rings[id]
	if !seen && len(c.rings) < maxRings {
		c.rings[id] = now
	}
	return !seen
}

func (c *coordTalk) ack(h msgHead) { c.transmit(msgAck, &ackMsg{h.counter}, 0, 0) }
