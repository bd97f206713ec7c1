package main

// This file finds and keeps a direct path to one peer process. Both ends have
// learnt each other's addresses and ping all of them from the socket that
// carries QUIC. A source whose sealed ping came in is admitted: its packets
// may reach QUIC. An address that returned our nonce is proved: it may carry
// data. The best proved one is the path; it is watched, and when it dies
// everything known is tried again.
//
// It owns no goroutine and no clock: its owner calls tick when next says so,
// and serialises all calls.

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// pingTimes are when an unproved address is pinged, counted from the start of
// a round: dense at first, for the first packets of both ends must cross
// before either NAT gives up on them, then once a second.
var pingTimes = []time.Duration{0, 10 * ms, 30 * ms, 90 * ms, 150 * ms, 310 * ms, 630 * ms,
	1 * time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second, 5 * time.Second,
	6 * time.Second, 7 * time.Second, 8 * time.Second, 9 * time.Second, 10 * time.Second}

const (
	ms = time.Millisecond
	// flightCredit is what an address that was named, and has not pinged us
	// yet, may be sent of QUIC's first flight, in bytes: its two datagrams,
	// at 0, 30 and 90 ms. Later the pings alone open the hole.
	flightCredit = 3 * 2 * maxDatagram
	// maxStrangers bounds the sources that nobody named and that one
	// introduction admits.
	maxStrangers = 3
	// maxPathTries bounds the addresses known for one process, about 600 bytes
	// each: those of three rounds, all strangers.
	maxPathTries = 32
	// idlePing keeps the hole open: most NATs forget a UDP binding after 30 s
	// (RFC 4787, REQ-5, asks for 2 minutes; few obey). Up to a fifth is taken
	// off at random.
	idlePing = 20 * time.Second
	// stallPing is how long sent data may stay without any answer before the
	// path is questioned.
	stallPing = 1 * time.Second
	// deadAfter is how many pings in a row a path may leave unanswered, at
	// 300, 600, 1200 and 2400 ms: 4.5 s in all.
	deadAfter = 4
	// searchPing and searchFor: with no path, and the round over, everything
	// known is pinged every 5 s for a minute.
	searchPing = 5 * time.Second
	searchFor  = 60 * time.Second
	// settleFor is how long after the first proof other addresses are still
	// tried, for a better path.
	settleFor = 2 * time.Second
)

// A pathRouter carries out what a pathFinder decides.
type pathRouter interface {
	send(b []byte, to udpSource)
	admit(src udpSource)
	setPath(src udpSource) bool                      // zero: none
	trial(src udpSource, credit int)                 // where packets may go without a path; bytes, negative = any
	forget(src udpSource)                            // undoes admit and trial
	replay(to udpSource)                             // the last datagrams, again
	idle(now time.Time) (heard, wrote time.Duration) // since something came by the path, and since QUIC wrote
}

// A pathTry is one address that may lead to the peer.
type pathTry struct {
	src      udpSource
	named    bool
	admitted bool
	proved   bool
	returned bool // has proved itself at least once
	credit   int  // bytes that it may still be sent while neither named nor returned
	rtt      time.Duration
	start    time.Time   // of the round
	step     int         // of pingTimes
	next     time.Time   // when to ping next, zero = not
	missed   int         // pings without answer, when proved
	asked    [16]pathAsk // a round trip of satellites has 8 under way
	askedAt  int
}

// A pathAsk is a ping under way.
type pathAsk struct {
	nonce uint64
	at    time.Time
}

// A pathFinder finds and keeps the paths to one peer process.
type pathFinder struct {
	router pathRouter
	box    *sealBox
	flight bool          // we dial: the first flight goes with the pings
	idle   time.Duration // between pings of a path that nothing else uses

	tries     map[udpKey]*pathTry
	strangers int // admitted in this round though nobody named them
	best      *pathTry
	began     time.Time // of the round
	lostAt    time.Time // since when there is no path; zero while there is one
	since     time.Time // when best became the path
	moves     int       // how often the path has changed
	restarted bool      // a hello said that the peer's process is another now
}

func newPathFinder(r pathRouter, box *sealBox, flight bool, now time.Time) *pathFinder {
	return &pathFinder{router: r, box: box, flight: flight, idle: idlePing, tries: map[udpKey]*pathTry{}, lostAt: now}
}

// introduce begins a round: the addresses, at most maxCandidates and one
// observed, were named by the coordinator.
func (f *pathFinder) introduce(now time.Time, named []netip.AddrPort) {
	f.began, f.strangers = now, 0
	for _, a := range named {
		if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			continue
		}
		t := f.know(now, udpSource{addr: a})
		t.named = true
		if f.flight && !t.admitted {
			f.router.trial(t.src, flightCredit)
		}
	}
	for _, t := range f.tries {
		if t != f.best {
			t.restart(now)
		}
	}
	f.tick(now)
}

// know returns what is known of an address, and makes room for a new one.
func (f *pathFinder) know(now time.Time, src udpSource) *pathTry {
	t := f.tries[src.key()]
	if t == nil {
		if len(f.tries) >= maxPathTries {
			f.forgetOne()
		}
		t = &pathTry{src: src, start: now}
		f.tries[src.key()] = t
	}
	return t
}

// forgetOne forgets the address whose round is the oldest, but for the path:
// first of those that have shown no life. Else a coordinator that names others
// and others again would have us ping the whole world.
func (f *pathFinder) forgetOne() {
	var worst *pathTry
	for _, t := range f.tries {
		switch {
		case t == f.best:
		case worst == nil, worst.admitted && !t.admitted, worst.admitted == t.admitted && t.start.Before(worst.start):
			worst = t
		}
	}
	delete(f.tries, worst.src.key())
	f.router.forget(worst.src)
}

func (t *pathTry) restart(now time.Time) {
	t.start, t.step, t.next, t.missed = now, 0, now, 0
}

// tick sends what is due and returns when it wants to be called again, zero =
// not before something comes in.
func (f *pathFinder) tick(now time.Time) (next time.Time) {
	f.watchBest(now)
	for _, t := range f.tries {
		if !t.next.IsZero() && !t.next.After(now) {
			f.pingDue(now, t)
		}
		next = earlier(next, t.next)
	}
	if f.best != nil { // a stall shows only by looking
		next = earlier(next, now.Add(stallPing))
	}
	return next
}

// earlier returns the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// watchBest questions the path when data sent stays unanswered, and forgives
// it when anything has come in.
func (f *pathFinder) watchBest(now time.Time) {
	t := f.best
	if t == nil {
		return
	}
	heard, wrote := f.router.idle(now)
	switch {
	case t.missed > 0 && heard < now.Sub(t.lastAsked()):
		t.missed = 0
		t.next = now.Add(f.idleGap())
	case t.missed == 0 && heard > stallPing && wrote < heard && t.next.Sub(now) > 0 && now.Sub(t.lastAsked()) > stallPing:
		t.next = now
	}
}

func (t *pathTry) lastAsked() time.Time {
	return t.asked[(t.askedAt+len(t.asked)-1)%len(t.asked)].at
}

func (f *pathFinder) idleGap() time.Duration { return f.idle - rand.N(f.idle/5) }

// pingDue pings t and decides when next.
func (f *pathFinder) pingDue(now time.Time, t *pathTry) {
	if t.proved {
		f.pingProved(now, t)
		return
	}
	elapsed := now.Sub(t.start)
	for t.step < len(pingTimes) && pingTimes[t.step] <= elapsed {
		t.step++
	}
	f.ping(now, t)
	if f.flight && f.best == nil && t.named && (t.step == 3 || t.step == 4) {
		f.router.replay(t.src)
	}
	switch {
	case f.best != nil && now.Sub(f.since) > settleFor:
		t.next = time.Time{}
	case t.step < len(pingTimes):
		t.next = t.start.Add(pingTimes[t.step])
	case f.best == nil && now.Sub(f.lostAt) < searchFor:
		t.next = now.Add(searchPing)
	default:
		t.next = time.Time{}
	}
}

// pingProved keeps the path's hole open, or counts against it.
func (f *pathFinder) pingProved(now time.Time, t *pathTry) {
	if t != f.best { // proved, but not used: its time is over
		t.next = time.Time{}
		return
	}
	if t.missed >= deadAfter {
		f.lose(now)
		return
	}
	f.ping(now, t)
	t.next = now.Add(300 * ms << t.missed)
	t.missed++
}

// lose gives the path up and tries everything known again.
func (f *pathFinder) lose(now time.Time) {
	f.best.proved = false
	f.best = nil
	f.lostAt, f.began, f.strangers = now, now, 0
	f.router.setPath(udpSource{})
	for _, t := range f.tries {
		t.proved = false
		t.restart(now)
		f.pingDue(now, t)
	}
}

func (f *pathFinder) ping(now time.Time, t *pathTry) {
	a := pathAsk{rand.Uint64(), now}
	t.asked[t.askedAt] = a
	t.askedAt = (t.askedAt + 1) % len(t.asked)
	b, _ := f.box.pack(msgPing, &pingMsg{a.nonce}, 0)
	f.send(t, b)
}

// send keeps what goes to an address that nobody named below three times what
// came from it, until it has proved itself: its pings may be copies, sent in
// somebody else's name.
func (f *pathFinder) send(t *pathTry, b []byte) {
	if !t.named && !t.returned {
		if t.credit < len(b) {
			return
		}
		t.credit -= len(b)
	}
	f.router.send(b, t.src)
}

// pinged answers a fresh ping of n bytes that was sealed for this instance.
// Every one is answered, to where it came from: the other end may still need
// the proof.
func (f *pathFinder) pinged(now time.Time, m *pingMsg, from udpSource, n int) {
	t := f.tries[from.key()]
	if t == nil {
		if f.strangers == maxStrangers {
			return
		}
		f.strangers++
		t = f.know(now, from)
	}
	t.src = from // now with our own address
	t.credit += 3 * n
	b, _ := f.box.pack(msgPong, &pongMsg{m.nonce, from.addr}, 0)
	f.send(t, b)
	first := !t.admitted
	if first {
		t.admitted = true
		f.router.admit(from)
		if t.named {
			f.router.trial(from, -1)
		} else {
			f.router.trial(from, 0) // what QUIC brings from there is credited
		}
		if f.best == nil {
			f.router.replay(from)
		}
	}
	if !t.proved && (first || t.next.IsZero()) {
		f.askBack(now, t)
	}
}

// askBack asks an address that has just shown life for its proof at once. Its
// schedule, if it has one, goes on as it was: two ends that answered every
// ping with a ping would never stop.
func (f *pathFinder) askBack(now time.Time, t *pathTry) {
	if t.next.IsZero() {
		t.restart(now)
		f.pingDue(now, t)
		return
	}
	f.ping(now, t)
}

// ponged takes the proof that an address returns what we send to it.
func (f *pathFinder) ponged(now time.Time, m *pongMsg, from udpSource) {
	t := f.tries[from.key()]
	if t == nil {
		return
	}
	for i, a := range t.asked {
		if a.nonce != m.nonce || a.at.IsZero() {
			continue
		}
		t.asked[i].nonce = 0
		t.rtt = now.Sub(a.at)
		t.src, t.proved, t.returned, t.missed = from, true, true, 0
		t.admitted = true
		f.router.admit(from) // again: another process may have had the address
		f.router.trial(from, -1)
		f.choose(now, t)
		return
	}
}

// choose makes t the path if it is better than what there is.
func (f *pathFinder) choose(now time.Time, t *pathTry) {
	t.next = now.Add(f.idleGap())
	f.restarted = false
	if t == f.best {
		f.router.setPath(t.src)
		return
	}
	if f.best != nil && f.best.missed < 2 && !betterPath(t, f.best) {
		return
	}
	lost := f.best == nil
	if !f.since.IsZero() {
		f.moves++
	}
	f.best, f.since, f.lostAt = t, now, time.Time{}
	f.router.setPath(t.src)
	if lost {
		f.router.replay(t.src)
	}
}

// betterPath ranks LAN, then IPv6, then IPv4, where a worse kind wins by a
// round trip shorter by a quarter and 2 ms; within a kind a tenth and 1 ms.
func betterPath(a, b *pathTry) bool {
	ra, rb := pathRank(a.src.addr.Addr()), pathRank(b.src.addr.Addr())
	switch {
	case ra < rb:
		return b.rtt > a.rtt*3/4-2*ms
	case ra > rb:
		return a.rtt < b.rtt*3/4-2*ms
	}
	return a.rtt < b.rtt*9/10-1*ms
}

func pathRank(a netip.Addr) int {
	switch pathKind(a) {
	case "lan":
		return 0
	case "v6":
		return 1
	}
	return 2
}

// pathKind names what a path by this address is.
func pathKind(a netip.Addr) string {
	switch {
	case a.IsLoopback(), a.IsPrivate(), a.IsLinkLocalUnicast():
		return "lan"
	case a.Is6():
		return "v6"
	}
	return "v4"
}

// question pings the path now: is the process at its end still there?
func (f *pathFinder) question(now time.Time) {
	if f.best != nil && f.best.missed == 0 {
		f.best.next = now
		f.tick(now)
	}
}

// greeted takes a hello of another instance: the peer's process may have been
// replaced. That counts only when the old one stays silent, for a hello may
// be an old one played again.
func (f *pathFinder) greeted(now time.Time) {
	if f.restarted {
		return
	}
	f.restarted = true
	for _, t := range f.tries {
		if t.admitted || t == f.best {
			t.next = now
		}
	}
	f.tick(now)
}

// replaced reports that a hello came and pings stayed unanswered for 900 ms.
func (f *pathFinder) replaced() bool {
	return f.restarted && (f.best == nil || f.best.missed >= 3)
}
