package main

// This file finds and keeps a direct path to one peer process. Both ends have
// learnt each other's addresses and ping all of them from the socket that
// carries QUIC. A source whose sealed ping came in is admitted: its packets
// may reach QUIC. An address that returned our nonce is proved: it may carry
// data. The best proved one is the path; it is watched, and when it is in doubt
// everything known is tried again, while data goes on by it.
//
// An address has three standings. What the coordinator names gets three small
// packets, for it may be a victim's. What the peer's own note names, sealed by
// its key, or what has once returned a nonce, is pinged as often as it takes.
// What merely sends us copies of sealed datagrams gets three times their bytes.
//
// It owns no goroutine and no clock: its owner calls tick when next says so,
// and serialises all calls.

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// pingTimes are when an unproved address is pinged, counted from the start of
// a round: dense at first, for the first packets of both ends must cross
// before either NAT gives up on them, then once a second.
var pingTimes = []time.Duration{0, 30 * ms, 90 * ms, 150 * ms, 310 * ms, 630 * ms,
	1 * time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second, 5 * time.Second,
	6 * time.Second, 7 * time.Second, 8 * time.Second, 9 * time.Second, 10 * time.Second}

const (
	ms = time.Millisecond
	// flightCredit is what an address that was named, and has not pinged us
	// yet, may be sent of QUIC's first flight, in bytes: its two datagrams,
	// at 0, 30 and 90 ms. Later the pings alone open the hole.
	flightCredit = 3 * 2 * maxDatagram
	// maxUnvouched bounds the pings to an address that only the coordinator
	// has named.
	maxUnvouched = 3
	// maxStrangers bounds the sources that nobody named, that have not proved
	// themselves either, and that one introduction admits.
	maxStrangers = 3
	// maxPathTries bounds the addresses known for one process, about 600 bytes
	// each: those of three rounds, all strangers.
	maxPathTries = 32
	// shyPings open our own NAT, one of them may be lost, and shyWait after the first
	// come those that go all the way: the other end has opened its own by then. It is
	// twice as long with each fresh socket, for an end that is slow.
	shyPings = 2
	shyWait  = 200 * ms
	// idlePing keeps the hole open: most NATs forget a UDP binding after 30 s
	// (RFC 4787, REQ-5, asks for 2 minutes; few obey). Up to a fifth is taken
	// off at random.
	idlePing = 25 * time.Second
	// stallPing, or three round trips, is how long sent data may stay without
	// any answer before the path is questioned.
	stallPing = 250 * ms
	// activeFor is how long after QUIC's last packet a stall is looked for.
	activeFor = 30 * time.Second
	// deadAfter is how many pings in a row a path may leave unanswered: at
	// intervals of 1, 1, 2, 4 and 8 times askWait, 2 s at a round trip of 60 ms.
	deadAfter = 5
	// settleFor is how long after the first proof other addresses are still
	// tried, for a better path.
	settleFor = 2 * time.Second
)

// A pathRouter carries out what a pathFinder decides.
type pathRouter interface {
	send(b []byte, to udpSource)
	sendLow(b []byte, to udpSource) // so that it dies before the other end's NAT
	admit(src udpSource)
	setPath(src udpSource) bool                      // zero: none
	trial(src udpSource, credit int)                 // where packets may go without a path; bytes, negative = any
	forget(src udpSource)                            // undoes admit and trial
	replay(to udpSource)                             // the last datagrams, again
	idle(now time.Time) (heard, wrote time.Duration) // since something came by the path, and since QUIC wrote
	mayPing(now time.Time, a netip.Addr) bool        // takes one ping to an address that only the coordinator named
	lives(a netip.Addr)                              // it has shown life
	known() bool                                     // the log knows the peer
	inUse() int                                      // the largest datagram that QUIC sends, in bytes
	shrink(src udpSource)                            // datagrams that size get lost: let them be fragmented
	failed() bool                                    // a write could not leave since this was last asked
	came() bool                                      // a packet of QUIC's came by the path since this was last asked
	logf(format string, args ...any)                 // what becomes of paths, for -vvv
	openSock() (int, error)                          // one more socket
	closeSock(i int)
	observe(now time.Time, sock int, seen func(now time.Time, at netip.AddrPort)) // where the coordinator sees a socket; invalid: no answer
}

// A pathFinder finds and keeps the paths to one peer process.
type pathFinder struct {
	router pathRouter
	box    *sealBox
	flight bool          // we dial: the first flight goes with the pings
	small  bool          // little memory: fewer sockets
	idle   time.Duration // between pings of a path that nothing else uses

	tries     map[udpKey]*pathTry
	early     bool // QUIC has dialled before anybody named an address
	knocked   bool // it has pinged us, and nobody has introduced it since
	strangers int  // admitted in this round though nobody named them, and not proved
	best      *pathTry
	began     time.Time // of the round
	lostAt    time.Time // since when there is no path; zero while there is one
	active    bool      // QUIC was writing when the path was lost
	since     time.Time // when best became the path
	moves     int       // how often the path has changed
	doubt     time.Time // since when the path may be dead; zero while it is trusted
	moving    bool      // our own network has changed, and no path is proved since
	checks    int       // of checkTimes that are over since QUIC's last packet
	rivalAt   time.Time // when better paths than best were looked for
	replays   int       // of the last datagrams that are still to come
	replayAt  time.Time // when
	tell      bool      // the other end needs a note: its owner clears this
	restarted bool      // a hello said that the peer's process is another now
	big       bigProbe
	hard      hardPunch
}

func newPathFinder(r pathRouter, box *sealBox, flight bool, now time.Time) *pathFinder {
	return &pathFinder{router: r, box: box, flight: flight, idle: idlePing, tries: map[udpKey]*pathTry{}, lostAt: now}
}

// introduce begins a round with what the coordinator says: where it sees the
// peer, and the addresses, at most maxCandidates, of the peer's interfaces.
func (f *pathFinder) introduce(now time.Time, observed netip.AddrPort, own []netip.AddrPort) {
	f.began, f.strangers, f.knocked = now, 0, false
	if f.best == nil {
		f.hard.renew(now)
	}
	f.named(now, observed, own)
	f.retry(now)
	f.tick(now)
}

func (f *pathFinder) named(now time.Time, observed netip.AddrPort, own []netip.AddrPort) {
	for i, a := range append([]netip.AddrPort{observed}, own...) {
		if !usableAddr(a) {
			continue
		}
		t := f.know(now, udpSource{addr: a})
		if i == 0 && t.kept && !t.returned {
			t.own = false // it was, once
		}
		t.named, t.kept, t.own = true, false, t.own || i > 0
		if f.since.IsZero() && !f.flownTo(t.src.addr.Addr()) {
			f.fly(t)
		}
	}
}

// fly sends QUIC's first flight to an address too, if there is one.
func (f *pathFinder) fly(t *pathTry) {
	if f.flight && !t.admitted && !t.flown {
		t.flown = true
		f.router.trial(t.src, flightCredit)
		if f.early {
			f.router.replay(t.src)
		}
	}
}

// flownTo reports whether a host gets the first flight: what the coordinator
// names gets it once, whatever the ports, and none when a link is up.
func (f *pathFinder) flownTo(a netip.Addr) bool {
	for _, t := range f.tries {
		if t.flown && hostOf(t.src.addr.Addr()) == hostOf(a) {
			return true
		}
	}
	return false
}

// vouch takes the peer's own word for where it is, and the coordinator's for
// where the peer's note came from. moved: it is no longer where it was.
func (f *pathFinder) vouch(now time.Time, observed netip.AddrPort, addrs []netip.AddrPort, mapped netip.AddrPort, moved bool) {
	if !slices.Contains(addrs, observed) && usableAddr(observed) {
		f.named(now, observed, nil)
		t := f.tries[udpKey{0, observed}]
		t.moves(now, moved)
		if t != f.best {
			t.restart(now)
		}
	}
	for i, a := range append([]netip.AddrPort{mapped}, addrs...) {
		if !usableAddr(a) {
			continue
		}
		fresh := f.tries[udpKey{0, a}] == nil && f.hard.freshes > 0 && f.searching()
		t := f.know(now, udpSource{addr: a})
		t.mapped = t.mapped || i == 0
		if fresh {
			t.shy = shyPings
		}
		t.moves(now, moved)
		if t.admitted {
			f.router.trial(t.src, -1)
		}
		f.fly(t)
		known := t.vouched
		t.vouched = true
		if f.searching() {
			f.knowFresh(now, t)
		}
		if !known || moved {
			t.named = true
			if t != f.best {
				t.restart(now)
			}
		}
	}
	f.knocked = false
	if moved && f.best != nil {
		f.question(now)
	}
	f.tick(now)
}

// tick sends what is due and returns when it wants to be called again, zero =
// not before something comes in or QUIC writes.
func (f *pathFinder) tick(now time.Time) (next time.Time) {
	next = f.watch(now)
	for _, t := range f.tries {
		if !t.next.IsZero() && !t.next.After(now) {
			f.pingDue(now, t)
		}
		next = earlier(next, t.next)
	}
	next = earlier(next, f.tickReplay(now))
	next = earlier(next, f.tickBig(now))
	return earlier(next, f.tickHard(now))
}

// earlier returns the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
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
	if t.shy > 0 {
		f.pingShy(now, t)
		return
	}
	elapsed := now.Sub(t.start)
	for t.step < len(pingTimes) && pingTimes[t.step] <= elapsed {
		t.step++
	}
	if t.mayBePinged() && f.allowed(now, t) {
		f.ping(now, t)
	}
	if f.best == nil && t.flown && (t.step == 2 || t.step == 3) {
		f.router.replay(t.src)
	}
	switch {
	case f.best != nil && now.Sub(f.since) > settleFor && f.doubt.IsZero():
		t.next = time.Time{}
	case t.step < len(pingTimes):
		t.next = t.start.Add(pingTimes[t.step])
	case f.best == nil && (t.vouched || t.returned):
		t.next = now.Add(f.searchGap(now))
	default:
		t.next = time.Time{}
	}
}

// pingShy opens our own NAT for t.
func (f *pathFinder) pingShy(now time.Time, t *pathTry) {
	wait := shyWait << max(0, f.hard.freshes-1) / shyPings
	t.shy--
	t.start = now.Add(wait)
	t.next = t.start
	b, _ := f.box.pack(msgPing, &pingMsg{nonce: rand.Uint64()}, 0)
	f.router.sendLow(b, t.src)
}

// mayBePinged reports whether an address is more than the coordinator's word,
// or has had less than that is worth, or has just pinged us.
func (t *pathTry) mayBePinged() bool {
	if t.kept && !t.vouched && !t.returned && !t.paid {
		return t.spare > 0
	}
	return t.vouched || t.returned || t.paid || t.pings < maxUnvouched
}

// allowed counts a ping on the coordinator's word alone; some are free where the
// peer was reached before, else none would be left when the coordinator names it.
func (f *pathFinder) allowed(now time.Time, t *pathTry) bool {
	if t.vouched || t.returned || t.paid || !t.named {
		t.paid = false
		return true
	}
	if t.spare > 0 {
		t.spare--
		return true
	}
	t.pings++
	return !f.router.known() || f.router.mayPing(now, t.src.addr.Addr()) // send counts a stranger's
}

// searchGap is how long to wait between pings when there has been no path.
func (f *pathFinder) searchGap(now time.Time) time.Duration {
	switch lost := now.Sub(f.lostAt); {
	case lost < time.Minute:
		return 5 * time.Second
	case lost < time.Hour:
		return idlePing
	}
	return time.Minute
}

// askWait is how long an answer of a proved address may take.
func (t *pathTry) askWait() time.Duration { return max(100*ms, t.rtt*3/2+50*ms) }

// pingProved keeps the path's hole open, or counts against it.
func (f *pathFinder) pingProved(now time.Time, t *pathTry) {
	if t != f.best { // proved, but not used: its time is over
		t.next = time.Time{}
		return
	}
	if t.missed >= deadAfter && (!f.moving || now.Sub(f.doubt) > moveFor) {
		f.lose(now)
		return
	}
	if t.missed == 1 && f.doubt.IsZero() {
		f.suspect(now)
	}
	if other := f.provedOther(); t.missed >= 2 && other != nil {
		f.choose(now, other)
		return
	}
	f.ping(now, t)
	t.next = now.Add(t.askWait() << min(max(0, t.missed-1), 3))
	if f.moving && now.Sub(f.doubt) <= moveFor {
		t.next = now.Add(movePing)
	}
	t.missed++
}

// provedOther returns the best address but the path's that has proved itself
// since there is doubt, nil when none has.
func (f *pathFinder) provedOther() (other *pathTry) {
	for _, t := range f.tries {
		if t != f.best && t.proved && (other == nil || betterPath(t, other)) {
			other = t
		}
	}
	return other
}

// lose gives the path up and tries everything known again.
func (f *pathFinder) lose(now time.Time) {
	f.router.logf("path %v is lost", f.best.src.addr)
	f.best.proved = false
	f.best = nil
	f.lostAt, f.began, f.strangers, f.tell = now, now, 0, true
	f.hard.freshes = 0
	_, wrote := f.router.idle(now)
	f.active = wrote < activeFor
	f.router.setPath(udpSource{})
	f.retry(now)
	f.tick(now)
}

func (f *pathFinder) ping(now time.Time, t *pathTry) {
	a := pathAsk{rand.Uint64(), now}
	t.asked[t.askedAt] = a
	t.askedAt = (t.askedAt + 1) % len(t.asked)
	pad := 0
	if t.kept && !t.returned { // room for a hello: another process may be there now
		pad = helloLen
	}
	b, _ := f.box.pack(msgPing, &pingMsg{a.nonce, f.moving}, pad)
	f.send(now, t, b)
}

// send keeps what goes to an address that nobody named below three times what
// came from it, until it has proved itself: its pings may be copies, sent in
// somebody else's name. A stranger makes such copies itself, as many as it
// likes, and who knocks may be an old ping played again: with these an address
// gets no more than the coordinator's word is worth.
func (f *pathFinder) send(now time.Time, t *pathTry, b []byte) {
	if !t.named && !t.returned {
		if t.credit < len(b) {
			return
		}
		t.credit -= len(b)
	}
	if !t.returned && (f.knocked || !f.router.known()) && !f.router.mayPing(now, t.src.addr.Addr()) {
		return
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
	t.src, t.wordAt, t.pingedAt, t.paid = from, now, now, true // with our own address now
	t.shy = 0                                                  // its NAT is open for us
	t.credit += 3 * n
	b, _ := f.box.pack(msgPong, &pongMsg{m.nonce, from.addr}, 0)
	f.send(now, t, b)
	first := !t.admitted
	if first {
		t.admitted = true
		f.router.admit(from)
		if t.vouched || t.returned {
			f.router.trial(from, -1)
		} else {
			f.router.trial(from, 0) // what QUIC brings from there is credited
		}
		if f.best == nil {
			f.router.replay(from)
		}
	}
	if m.moved && t != f.best && (f.best == nil || !t.movedAt.After(f.best.movedAt)) {
		t.movedAt, t.proved = now, false
		f.askBack(now, t)
		return
	}
	t.moves(now, m.moved)
	switch {
	case !t.proved && (first || t.next.IsZero()):
		f.askBack(now, t)
	case t == f.best && t.missed == 0 && f.doubt.IsZero():
		t.next = now.Add(f.idleGap()) // its ping and our answer have kept the hole open
	case t == f.best && f.moving:
		f.ping(now, t) // the other end has just opened its NAT for us
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
	if t == nil && f.hard.sent(m.nonce) {
		t = f.know(now, from)
		t.asked[0] = pathAsk{m.nonce, f.hard.began}
	}
	if t == nil {
		return
	}
	if f.ponedBig(m, t) {
		return
	}
	for i, a := range t.asked {
		if a.nonce != m.nonce || a.at.IsZero() {
			continue
		}
		if !t.named && !t.returned { // a stranger no more: there is room for another
			f.strangers = max(0, f.strangers-1)
		}
		t.asked[i].nonce = 0
		t.rtt = now.Sub(a.at)
		t.src, t.wordAt, t.proved, t.returned = from, now, true, true
		t.admitted = true
		f.router.lives(from.addr.Addr())
		f.router.admit(from) // again: another process may have had the address
		f.router.trial(from, -1)
		f.choose(now, t)
		return
	}
}

// choose makes t the path if it is better than what there is.
func (f *pathFinder) choose(now time.Time, t *pathTry) {
	f.restarted = false
	if t == f.best {
		f.router.setPath(t.src)
		if f.moving { // out by another way
			f.probeBig(now, t)
		}
		f.trust(now, t)
		return
	}
	t.missed, t.next = 0, now.Add(f.idleGap())
	b := f.best
	yields := b == nil || t.movedAt.After(b.movedAt) || b.missed >= 2 || f.moving && b.missed >= 1
	if !yields && !betterPath(t, b) {
		return
	}
	again := b == nil || !f.doubt.IsZero() || t.movedAt.After(b.movedAt)
	if !f.since.IsZero() {
		f.moves++
	}
	f.best, f.since, f.lostAt, f.rivalAt = t, now, time.Time{}, now
	f.doubt, f.moving = time.Time{}, false
	f.router.logf("path is now %s %v, round trip %v", t.kind(), t.src.addr, t.rtt.Round(ms))
	f.router.setPath(t.src)
	if again {
		f.replay(now, t)
	}
	f.probeBig(now, t)
}
