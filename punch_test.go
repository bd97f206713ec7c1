package main

import (
	"container/heap"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A punchNet is a network in memory with its own clock: two ends, one-way
// delay, and a filter at each end that lets in only what was sent to before.
type punchNet struct {
	now    time.Time
	events punchEvents
	delay  time.Duration
	ends   [2]*punchEnd
	drop   func(from, to netip.AddrPort) bool
}

type punchEvent struct {
	at time.Time
	do func()
}
type punchEvents []punchEvent

func (e punchEvents) Len() int           { return len(e) }
func (e punchEvents) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e punchEvents) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *punchEvents) Push(x any)        { *e = append(*e, x.(punchEvent)) }
func (e *punchEvents) Pop() (x any) {
	old := *e
	x = old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// A punchEnd is one machine with one or more addresses.
type punchEnd struct {
	net      *punchNet
	addrs    []netip.AddrPort
	filtered bool // port-restricted
	sentTo   map[netip.AddrPort]bool
	finder   *pathFinder
	box      *sealBox
	path     udpSource
	admitted []netip.AddrPort
	replays  []netip.AddrPort
	credits  map[netip.AddrPort]int
	sent     map[netip.AddrPort]int // datagrams by destination
	heard    time.Time
	wrote    time.Time
	cameIn   bool // packets of QUIC's come by the path
	using    int  // largest datagram that QUIC sends
	shrunk   []netip.AddrPort
	socks    int // opened
	closed   int
}

func (e *punchEnd) admit(s udpSource)        { e.admitted = append(e.admitted, s.addr) }
func (e *punchEnd) setPath(s udpSource) bool { e.path = s; return true }
func (e *punchEnd) trial(s udpSource, c int) { e.credits[s.addr] = c }
func (e *punchEnd) forget(s udpSource) {
	delete(e.credits, s.addr)
	e.admitted = slices.DeleteFunc(e.admitted, func(a netip.AddrPort) bool { return a == s.addr })
}
func (e *punchEnd) mayPing(time.Time, netip.Addr) bool { return true }
func (e *punchEnd) known() bool                        { return true }
func (e *punchEnd) lives(netip.Addr)                   {}
func (e *punchEnd) inUse() int                         { return e.using }
func (e *punchEnd) shrink(s udpSource)                 { e.shrunk = append(e.shrunk, s.addr) }
func (e *punchEnd) sendLow([]byte, udpSource)          {}
func (e *punchEnd) logf(string, ...any)                {}
func (e *punchEnd) failed() bool                       { return false }
func (e *punchEnd) came() bool                         { return e.cameIn }
func (e *punchEnd) openSock() (int, error)             { e.socks++; return e.socks, nil }
func (e *punchEnd) closeSock(int)                      { e.closed++ }
func (e *punchEnd) observe(time.Time, int, func(time.Time, netip.AddrPort)) {
}
func (e *punchEnd) replay(s udpSource) { e.replays = append(e.replays, s.addr) }
func (e *punchEnd) other() *punchEnd {
	if e == e.net.ends[0] {
		return e.net.ends[1]
	}
	return e.net.ends[0]
}
func (e *punchEnd) idle(now time.Time) (_, _ time.Duration) {
	return now.Sub(e.heard), now.Sub(e.wrote)
}

// send carries b from the address of ours that stands at the place of the
// destination among the other's: first to first, second to second.
func (e *punchEnd) send(b []byte, to udpSource) {
	n, o := e.net, e.other()
	e.sentTo[to.addr] = true
	e.sent[to.addr]++
	i := slices.Index(o.addrs, to.addr)
	if i < 0 {
		return
	}
	from := e.addrs[min(i, len(e.addrs)-1)]
	if n.drop != nil && n.drop(from, to.addr) {
		return
	}
	n.at(n.delay, func() { o.receive(b, from) })
}

func (e *punchEnd) receive(b []byte, from netip.AddrPort) {
	if e.filtered && !e.sentTo[from] {
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
	e.heard = e.net.now
	src := udpSource{addr: from}
	if m, err := parsePing(rest); h.kind == msgPing && err == nil {
		e.finder.pinged(e.net.now, m, src, len(b))
	}
	if m, err := parsePong(rest); h.kind == msgPong && err == nil {
		e.finder.ponged(e.net.now, m, src)
	}
	e.tick()
}

func (e *punchEnd) tick() {
	next := e.finder.tick(e.net.now)
	if !next.IsZero() {
		e.net.at(max(next.Sub(e.net.now), time.Microsecond), e.tick)
	}
}

func (n *punchNet) at(d time.Duration, do func()) {
	heap.Push(&n.events, punchEvent{n.now.Add(d), do})
}

// run lets time pass, until done says so or d is over, and returns how much did.
func (n *punchNet) run(d time.Duration, done func() bool) time.Duration {
	began, end := n.now, n.now.Add(d)
	for !done() {
		if len(n.events) == 0 || n.events[0].at.After(end) {
			n.now = end
			break
		}
		ev := heap.Pop(&n.events).(punchEvent)
		n.now = ev.at
		ev.do()
	}
	return n.now.Sub(began)
}

func newPunchNet(t *testing.T, delay time.Duration, a, b []netip.AddrPort) *punchNet {
	t.Helper()
	n := &punchNet{now: time.Unix(1e9, 0), delay: delay}
	ids := [2]*identity{wireIdentity(t, 1), wireIdentity(t, 2)}
	for i, addrs := range [][]netip.AddrPort{a, b} {
		e := &punchEnd{net: n, addrs: addrs, sentTo: map[netip.AddrPort]bool{}, credits: map[netip.AddrPort]int{}, sent: map[netip.AddrPort]int{}}
		send, recv, err := sealKeys(ids[i].path, sealDevice, ids[1-i].keys.path, sealDevice)
		if err != nil {
			t.Fatal(err)
		}
		e.box = &sealBox{sendKey: send, recvKey: recv, mine: instanceID{byte(i + 1)}, theirs: instanceID{byte(2 - i)}}
		e.finder = newPathFinder(e, e.box, i == 0, n.now)
		n.ends[i] = e
	}
	return n
}

func (n *punchNet) bothProved() bool {
	return n.ends[0].finder.best != nil && n.ends[1].finder.best != nil
}

func (n *punchNet) introduce(i int) {
	e := n.ends[i]
	e.finder.introduce(n.now, netip.AddrPort{}, e.other().addrs)
	e.finder.vouch(n.now, netip.AddrPort{}, e.other().addrs, netip.AddrPort{}, false)
	e.tick()
}

var (
	punchA = addrList("192.0.2.1:1001")
	punchB = addrList("198.51.100.2:2002")
)

func TestPunchThroughTwoFilters(t *testing.T) {
	n := newPunchNet(t, 30*ms, punchA, punchB)
	n.ends[0].filtered, n.ends[1].filtered = true, true
	n.introduce(1) // the ring comes 10 ms before the answer
	n.at(10*ms, func() { n.introduce(0) })
	if took := n.run(time.Second, n.bothProved); took > 10*ms+3*30*ms+5*ms {
		t.Errorf("proved after %v", took)
	}
	if n.ends[0].path.addr != punchB[0] {
		t.Errorf("path is %v", n.ends[0].path)
	}
}

func TestPunchFlightGoesWithTheFirstPings(t *testing.T) {
	n := newPunchNet(t, 300*ms, punchA, punchB)
	n.introduce(0)
	n.run(250*ms, func() bool { return false })
	if c := n.ends[0].credits[punchB[0]]; c != flightCredit {
		t.Errorf("the named address may be sent %d bytes at once, not %d", c, flightCredit)
	}
	if got := len(n.ends[0].replays); got != 2 {
		t.Errorf("flight sent again %d times, not at 30 and 90 ms", got)
	}
	n.introduce(1)
	n.run(time.Second, n.bothProved)
	if c := n.ends[0].credits[punchB[0]]; c != -1 {
		t.Errorf("a named source that has pinged may be sent %d bytes, not any number", c)
	}
	if slices.Contains(n.ends[1].replays, punchA[0]) && n.ends[1].credits[punchA[0]] >= 0 {
		t.Error("the device sent to an address before it was admitted")
	}
}

func TestPunchPrefersTheLAN(t *testing.T) {
	a := append(addrList("192.168.1.2:1001"), punchA...)
	b := append(addrList("192.168.1.3:2002"), punchB...)
	n := newPunchNet(t, 5*ms, a, b)
	n.drop = func(from, _ netip.AddrPort) bool { // the LAN's first packets are lost
		return from.Addr().IsPrivate() && n.now.Before(time.Unix(1e9, 0).Add(100*ms))
	}
	n.introduce(0)
	n.introduce(1)
	n.run(80*ms, func() bool { return false })
	if n.ends[0].path.addr != punchB[0] {
		t.Fatalf("first path is %v", n.ends[0].path.addr)
	}
	n.run(time.Second, func() bool { return false })
	if n.ends[0].path.addr != b[0] || n.ends[1].path.addr != a[0] {
		t.Errorf("paths %v and %v, not by the LAN", n.ends[0].path.addr, n.ends[1].path.addr)
	}
	if n.ends[0].finder.moves != 1 {
		t.Errorf("%d moves counted", n.ends[0].finder.moves)
	}
}

func TestPunchFindsAgainWhatItLost(t *testing.T) {
	n := newPunchNet(t, 10*ms, punchA, punchB)
	n.introduce(0)
	n.introduce(1)
	n.run(time.Second, n.bothProved)
	cut := true
	n.drop = func(_, _ netip.AddrPort) bool { return cut }
	lost := func() bool { return n.ends[0].finder.best == nil && n.ends[1].finder.best == nil }
	if n.run(time.Minute, lost); !lost() {
		t.Fatal("a dead path was kept")
	}
	if n.ends[0].path.addr.IsValid() {
		t.Error("packets still go by the dead path")
	}
	cut = false
	if took := n.run(time.Minute, n.bothProved); !n.bothProved() || took > 5*time.Second+100*ms {
		t.Errorf("found again: %v, after %v", n.bothProved(), took)
	}
	if len(n.ends[0].replays) == 0 {
		t.Error("the last datagrams were not sent again")
	}
}

func TestPunchStallQuestionsThePath(t *testing.T) {
	n := newPunchNet(t, 10*ms, punchA, punchB)
	n.introduce(0)
	n.introduce(1)
	n.run(3*time.Second, func() bool { return false })
	n.drop = func(_, _ netip.AddrPort) bool { return true }
	n.at(0, func() { n.ends[0].wrote = n.now; n.ends[0].tick() })
	took := n.run(time.Minute, func() bool { return n.ends[0].finder.best == nil })
	if took > 3*time.Second {
		t.Errorf("data went into a dead path for %v", took)
	}
}

func TestPunchIdlePathIsKeptOpen(t *testing.T) {
	n := newPunchNet(t, 10*ms, punchA, punchB)
	n.introduce(0)
	n.introduce(1)
	n.run(5*time.Second, func() bool { return false })
	before := n.ends[0].sent[punchB[0]]
	n.run(10*time.Minute, func() bool { return false })
	// pings, or the pongs to the others: one in 20 to 25 s
	if sent := n.ends[0].sent[punchB[0]] - before; sent < 24 || sent > 33 {
		t.Errorf("%d datagrams in ten idle minutes", sent)
	}
	if !n.bothProved() {
		t.Error("an idle path was given up")
	}
}

func TestPunchStrangersAreFew(t *testing.T) {
	n := newPunchNet(t, 10*ms, punchA, punchB)
	n.introduce(1)
	e := n.ends[1]
	for i := range 10 {
		from := udpSource{addr: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), uint16(5000+i))}
		e.finder.pinged(n.now, &pingMsg{nonce: 1}, from, 90)
	}
	if len(e.admitted) != maxStrangers {
		t.Fatalf("%d sources that nobody named were admitted, not %d", len(e.admitted), maxStrangers)
	}
	n.run(20*time.Second, func() bool { return false })
	for _, a := range e.admitted {
		// A pong of 100 bytes and two pings of 82 for one ping of 90.
		if a.Port() >= 5000 && (e.sent[a] != 3 || e.credits[a] != 0) {
			t.Errorf("%v was sent %d datagrams for one ping, and QUIC may send %d bytes", a, e.sent[a], e.credits[a])
		}
	}
}

// Three pings to an address that the coordinator alone has named were lost: when
// the peer pings from there, it is asked for its proof all the same.
func TestPunchAnswersAreWorthAPing(t *testing.T) {
	n := newPunchNet(t, 10*ms, punchA, punchB)
	n.drop = func(_, _ netip.AddrPort) bool { return true }
	e := n.ends[1]
	e.finder.introduce(n.now, punchA[0], nil)
	e.tick()
	n.run(15*time.Second, func() bool { return false })
	if e.sent[punchA[0]] != maxUnvouched {
		t.Fatalf("%d pings on the coordinator's word", e.sent[punchA[0]])
	}
	n.drop = nil
	n.introduce(0)
	if took := n.run(time.Second, n.bothProved); !n.bothProved() || took > 50*ms {
		t.Errorf("%v after %v", n.bothProved(), took)
	}
}

func TestPunchPongProvesOnlyWhereItWasAsked(t *testing.T) {
	n := newPunchNet(t, 10*ms, punchA, punchB)
	n.introduce(0)
	f := n.ends[0].finder
	t0 := f.tries[udpSource{addr: punchB[0]}.key()]
	nonce := t0.asked[0].nonce
	f.ponged(n.now, &pongMsg{nonce: nonce + 1}, t0.src)
	f.ponged(n.now, &pongMsg{nonce: nonce}, udpSource{addr: addrList("203.0.113.7:9")[0]})
	if f.best != nil {
		t.Fatal("proved by a wrong nonce or from a wrong source")
	}
	f.ponged(n.now, &pongMsg{nonce: nonce}, t0.src)
	if f.best != t0 {
		t.Fatal("not proved by the right one")
	}
	t0.proved, f.best = false, nil
	f.ponged(n.now, &pongMsg{nonce: nonce}, t0.src)
	if f.best != nil {
		t.Fatal("proved twice by one nonce")
	}
}

func TestPunchHelloCountsOnlyWithSilence(t *testing.T) {
	n := newPunchNet(t, 10*ms, punchA, punchB)
	n.introduce(0)
	n.introduce(1)
	n.run(3*time.Second, func() bool { return false })
	f := n.ends[0].finder
	f.greeted(n.now)
	n.run(2*time.Second, func() bool { return false })
	if f.replaced() {
		t.Fatal("a hello alone ended a process that answers")
	}
	n.drop = func(_, _ netip.AddrPort) bool { return true }
	f.greeted(n.now)
	n.ends[0].tick()
	if took := n.run(5*time.Second, f.replaced); !f.replaced() || took > 2*time.Second {
		t.Errorf("replaced: %v, after %v", f.replaced(), took)
	}
}

func TestPathRanks(t *testing.T) {
	try := func(a string, rtt time.Duration) *pathTry {
		return &pathTry{src: udpSource{addr: netip.MustParseAddrPort(a)}, rtt: rtt}
	}
	for _, c := range []struct {
		a, b   *pathTry
		better bool
	}{
		{try("192.168.1.1:1", 5*ms), try("198.51.100.1:1", 5*ms), true},
		{try("192.168.1.1:1", 50*ms), try("198.51.100.1:1", 5*ms), false},
		{try("[2001:db8::1]:1", 20*ms), try("198.51.100.1:1", 20*ms), true},
		{try("198.51.100.1:1", 18*ms), try("[2001:db8::1]:1", 20*ms), false},
		{try("198.51.100.1:1", 10*ms), try("[2001:db8::1]:1", 20*ms), true},
		{try("198.51.100.1:1", 95*ms), try("198.51.100.2:1", 100*ms), false},
		{try("198.51.100.1:1", 80*ms), try("198.51.100.2:1", 100*ms), true},
	} {
		if got := betterPath(c.a, c.b); got != c.better {
			t.Errorf("%v in %v better than %v in %v: %v", c.a.src.addr, c.a.rtt, c.b.src.addr, c.b.rtt, got)
		}
	}
}

// A machine that moves again and again to where nobody has named it is followed
// each time: three unproved strangers are too many, proved ones are none.
func TestPunchFollowsManyMoves(t *testing.T) {
	n := newPunchNet(t, 30*ms, punchA, punchB)
	n.introduce(0)
	n.introduce(1)
	n.run(time.Second, n.bothProved)
	for i := range 2 * maxStrangers {
		at := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), uint16(1000+i))
		n.run(3*time.Second, func() bool { return false })
		n.ends[0].addrs = []netip.AddrPort{at}
		n.ends[0].finder.roam(n.now)
		n.ends[0].tick()
		if took := n.run(time.Second, func() bool { return n.ends[1].path.addr == at }); took > 100*ms {
			t.Errorf("move %d was followed after %v", i+1, took)
		}
	}
}

// What is sent again when a path is there is sent three times, until QUIC's
// packets come by it: more would stand before what QUIC itself sends again.
func TestPunchReplaysUntilPacketsCome(t *testing.T) {
	for cameIn, want := range map[bool]int{false: maxReplays, true: 1} {
		n := newPunchNet(t, 10*ms, punchA, punchB)
		n.ends[0].cameIn = cameIn
		n.introduce(0)
		n.introduce(1)
		n.run(time.Second, n.bothProved)
		n.ends[0].replays = nil
		n.ends[0].finder.replay(n.now, n.ends[0].finder.best)
		n.ends[0].tick()
		n.run(time.Second, func() bool { return false })
		if got := len(n.ends[0].replays); got != want {
			t.Errorf("packets come %v: sent %d times again, want %d", cameIn, got, want)
		}
	}
}

// A path in doubt is tried from a fresh socket too, sooner when we have moved.
func TestPunchFreshSocketInDoubt(t *testing.T) {
	for moved, want := range map[bool]time.Duration{false: freshDoubt, true: freshMoving} {
		n := newPunchNet(t, 10*ms, punchA, punchB)
		n.introduce(0)
		n.introduce(1)
		n.run(3*time.Second, func() bool { return false })
		n.drop = func(_, _ netip.AddrPort) bool { return true }
		e := n.ends[0]
		if moved {
			e.finder.roam(n.now)
		} else {
			e.finder.suspect(n.now)
		}
		e.tick()
		if took := n.run(time.Second, func() bool { return e.socks > 0 }); took != want {
			t.Errorf("moved %v: after %v, want %v", moved, took, want)
		}
	}
}
