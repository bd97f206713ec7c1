package main

// This file meets NATs that give each connection a port of its own. One end of
// that kind opens many sockets towards the other, which tries ports of the NAT
// until it meets one of them (the birthday paradox); two ends of that kind can
// meet only where the ports of both can be foretold, or are few. And it gives an
// ordinary NAT that has taken our first packets ill a fresh socket.
//
// What is sprayed goes only where the peer itself, in a sealed note, says that
// its NAT is.

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

const (
	// hardAfter is when it begins, counted from the round: until then a plain
	// ping may get through, for not every NAT filters as it maps.
	hardAfter = 100 * ms
	// hardFor bounds one attempt, and hardGap is from one to the next.
	hardFor = 10 * time.Second
	hardGap = 15 * time.Second
	// duelFor and duelGap are these where both NATs are hard: all ports have been
	// tried by then, and new sockets draw anew.
	duelFor = 4500 * ms
	duelGap = 5 * time.Second
	// maxHardAttempts bounds the attempts until a path has been there.
	maxHardAttempts = 3
	// freshAfter is when a fresh socket is tried between ordinary NATs, and freshAgain
	// is from one to the next: what was late or lost the first time has come by then.
	freshAfter = 700 * ms
	freshAgain = 4 * time.Second
	// maxFresh bounds them, until a path has been there or there is a new introduction.
	maxFresh   = 3
	freshDoubt = 400 * ms // counted from when a path came into doubt
	// freshMoving, or two round trips, is it when our own network has changed: by
	// then a path is usually proved, and a router that has known another machine
	// or another address of ours by our port is the likeliest reason if none is.
	freshMoving = 120 * ms
	// sprayStep is between two bursts of pings.
	sprayStep = 10 * ms
)

// A hardPlan says what one end does. walk pings go to ports of the other NAT,
// else every socket pings the other's one port.
type hardPlan struct {
	socks  int // to open; 0: the main one
	walk   bool
	stride int // of the steps of a NAT that counts
	ports  int // to try on each socket
	rate   int // pings a second
}

// planFor returns what an end with NAT mine does to meet one with theirs; ok is
// false where nothing helps. Numbers: design notes in DESIGN.md, "Hard NATs".
func planFor(mine, theirs natKind, dialer, small bool) (p hardPlan, ok bool) {
	m, t := mine.kind, theirs.kind
	switch {
	case !mine.hard() && !theirs.hard():
		return p, false
	case !mine.hard():
		return hardPlan{walk: true, stride: 1, ports: [...]int{natStep: 512, natBlock: 5000, natRandom: 6144}[t], rate: 1000}, true
	case !theirs.hard() && (m != natRandom || small):
		return hardPlan{socks: 64, rate: 2000}, true
	case !theirs.hard():
		return hardPlan{socks: maxExtraSocks, rate: 2000}, true
	case m == natRandom || t == natRandom:
		return p, false
	case m == natStep && t == natStep && dialer:
		// The offsets of both ends are unknown: steps of one against steps of two
		// meet whatever they are.
		return hardPlan{socks: 1, walk: true, stride: 1, ports: 300, rate: 500}, true
	case m == natStep && t == natStep:
		return hardPlan{socks: 1, walk: true, stride: 2, ports: 300, rate: 500}, true
	case m == natStep:
		return hardPlan{socks: 1, walk: true, stride: 1, ports: 400, rate: 500}, true
	case t == natStep:
		return hardPlan{socks: 8, walk: true, stride: 1, ports: 450, rate: 1000}, true
	}
	return hardPlan{socks: 6, walk: true, stride: 1, ports: 700, rate: 1000}, true
}

// A portWalk goes through the ports that a NAT may have given, in an order of
// its own: the i-th is first + (i*a + b) mod n.
type portWalk struct{ first, n, a, b int }

func walkOf(n natKind, stride int) portWalk {
	switch n.kind {
	case natStep:
		return portWalk{first: int(n.base), n: 1 << 16, a: int(n.step) * stride, b: int(n.step)}
	case natBlock:
		// The ports seen are a few of the block's: it reaches further each way.
		more := max(8, (int(n.high)-int(n.low))/8)
		low := min(max(1024, int(n.low)-more), 65535)
		high := max(low, min(65535, int(n.high)+more))
		return shuffledWalk(low, high-low+1)
	}
	return shuffledWalk(1024, 65536-1024)
}

// shuffledWalk visits each of n ports once in n steps: a has no factor in
// common with n.
func shuffledWalk(first, n int) portWalk {
	w := portWalk{first: first, n: n, a: 1 + rand.N(n), b: rand.N(n)}
	for gcd(w.a, n) != 1 {
		w.a++
	}
	return w
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (w portWalk) port(i int) uint16 { return uint16(w.first + ((i*w.a+w.b)%w.n+w.n)%w.n) }

// A hardPunch is the state of it, part of a pathFinder.
type hardPunch struct {
	mine, theirs natKind
	ips          []netip.AddrPort // where the peer's NAT is seen, says the peer
	socks        []int            // open, of all attempts

	began    time.Time // of the attempt under way, zero = none
	last     time.Time // when the last one began
	attempts int       // since there was a path
	plan     hardPlan
	walks    []portWalk
	nonce    uint64 // of all pings of the attempt
	at       int    // pings sent

	freshAt   netip.AddrPort // where the coordinator sees the fresh socket
	freshSock int
	freshOpen bool      // its NAT is open for what the peer has named
	freshes   int       // there have been since there was a path
	freshOn   time.Time // when the first was opened
	freshDue  time.Time // when the next may be
}

// times are the length of an attempt and the time to the next.
func (h *hardPunch) times() (span, gap time.Duration) {
	if h.mine.hard() && h.theirs.hard() {
		return duelFor, duelGap
	}
	return hardFor, hardGap
}

// sent reports whether nonce is that of a ping of this attempt.
func (h *hardPunch) sent(nonce uint64) bool { return !h.began.IsZero() && h.nonce == nonce }

// maxHardIPs bounds the addresses of the peer's NAT that are sprayed.
const maxHardIPs = 2

// setKinds takes what is known of both NATs, and where the peer's is. Ports that
// are foretold anew begin the attempt anew.
func (f *pathFinder) setKinds(now time.Time, mine, theirs natKind, seen []netip.AddrPort) {
	h := &f.hard
	var ips []netip.AddrPort
	for _, a := range seen {
		public := usableAddr(a) && !a.Addr().IsPrivate() && !a.Addr().IsLinkLocalUnicast()
		if public && len(ips) < maxHardIPs && !slices.ContainsFunc(ips, func(b netip.AddrPort) bool { return b.Addr() == a.Addr() }) {
			ips = append(ips, a)
		}
	}
	anew := h.theirs != theirs || mine.kind != h.mine.kind
	h.mine, h.theirs, h.ips = mine, theirs, ips
	if anew && !h.began.IsZero() {
		f.startHard(now)
	}
}

// tickHard begins, goes on with and ends attempts.
func (f *pathFinder) tickHard(now time.Time) (next time.Time) {
	h := &f.hard
	span, gap := h.times()
	switch {
	case f.best != nil:
		h.began = time.Time{}
		if f.doubt.IsZero() {
			h.attempts, h.last, h.freshes = 0, time.Time{}, 0
			return f.sweepSocks(now)
		}
		return f.freshInDoubt(now)
	case !h.began.IsZero() && now.Sub(h.began) > span:
		h.began = time.Time{}
		f.closeSocks()
		return next
	case !h.began.IsZero():
		return f.spray(now)
	}
	if f.began.IsZero() {
		return next
	}
	_, ok := planFor(h.mine, h.theirs, f.flight, f.small)
	switch due := f.began.Add(hardAfter); {
	case ok && len(h.ips) > 0 && h.attempts < maxHardAttempts:
		if !h.last.IsZero() && h.last.Add(gap).After(due) {
			due = h.last.Add(gap)
		}
		if now.Before(due) {
			return due
		}
		h.attempts++
		h.last = now
		f.tell = f.tell || h.attempts > 1 // a NAT that counts has gone on
		f.startHard(now)
		return f.spray(now)
	case !ok && h.freshes == 0:
		if due = f.began.Add(freshAfter); now.Before(due) {
			return due
		}
		f.freshSock(now)
		return h.freshDue
	case len(h.socks) > 0:
		if due = h.freshOn.Add(hardFor); !now.Before(due) {
			f.closeSocks()
			return next
		}
		if !ok && h.freshes < maxFresh && !h.hopeless() {
			if !now.Before(h.freshDue) {
				f.freshSock(now)
			}
			return earlier(due, h.freshDue)
		}
		return due
	}
	return next
}

// renew lets an introduction try again what an outage has used up: the other end
// may have slept while we tried.
func (h *hardPunch) renew(now time.Time) {
	_, gap := h.times()
	if h.began.IsZero() && len(h.socks) == 0 && now.Sub(h.last) > gap && now.Sub(h.freshOn) > gap {
		h.attempts, h.freshes = 0, 0
	}
}

// freshInDoubt opens a fresh socket while the path is in doubt: behind a router
// that remembers us from another visit, our old port may lead to nobody.
func (f *pathFinder) freshInDoubt(now time.Time) (next time.Time) {
	h := &f.hard
	wait := freshDoubt
	if f.moving {
		wait = min(wait, max(freshMoving, 2*f.best.rtt))
	}
	due := f.doubt.Add(wait)
	switch {
	case h.freshes > 0 || h.mine.hard() || h.theirs.hard():
		return next
	case now.Before(due):
		return due
	}
	f.freshSock(now)
	return next
}

// searching reports whether there is no path, or none that is trusted.
func (f *pathFinder) searching() bool { return f.best == nil || !f.doubt.IsZero() }

func (f *pathFinder) startHard(now time.Time) {
	h := &f.hard
	f.closeSocks()
	var ok bool
	h.plan, ok = planFor(h.mine, h.theirs, f.flight, f.small)
	if !ok {
		h.began = time.Time{}
		return
	}
	h.began, h.nonce, h.at, h.walks = now, rand.Uint64(), 0, nil
	f.router.logf("hard NAT: here %d, there %d (kinds); %+v towards %v", h.mine.kind, h.theirs.kind, h.plan, h.ips)
	f.strangers = 0
	for range h.plan.socks {
		i, err := f.router.openSock()
		if err != nil {
			break // as many as there may be
		}
		h.socks = append(h.socks, i)
	}
	for range max(1, len(h.socks)) {
		h.walks = append(h.walks, walkOf(h.theirs, h.plan.stride))
	}
}

// sweepSocks closes the sockets that the paths of neither end use, once both
// have had the time to choose: of two pairs that meet at once each end may have
// taken another.
func (f *pathFinder) sweepSocks(now time.Time) (next time.Time) {
	switch due := f.since.Add(settleFor); {
	case len(f.hard.socks) == 0:
		return next
	case now.Before(due):
		return due
	}
	keep := []int{f.best.src.sock}
	for _, t := range f.tries {
		if used := t.pingedAt.Add(2 * f.idle); now.Before(used) && t != f.best {
			keep = append(keep, t.src.sock)
			next = earlier(next, used)
		}
	}
	f.closeSocks(keep...)
	return next
}

func (f *pathFinder) closeSocks(keep ...int) {
	f.hard.freshAt = netip.AddrPort{}
	f.hard.socks = slices.DeleteFunc(f.hard.socks, func(i int) bool {
		kept := slices.Contains(keep, i)
		if !kept {
			f.router.closeSock(i)
		}
		return !kept
	})
	for _, t := range f.tries {
		if t.src.sock != 0 && !slices.Contains(keep, t.src.sock) {
			f.forget(t)
		}
	}
}

// spray sends what is due of an attempt.
func (f *pathFinder) spray(now time.Time) (next time.Time) {
	h := &f.hard
	due := int(now.Sub(h.began)*time.Duration(h.plan.rate)/time.Second) + 1
	socks := max(1, len(h.socks))
	once := socks * max(1, h.plan.ports)
	if !h.plan.walk { // each socket once; again each 2 s, for a ping may be lost
		due = min(due, once*(1+int(now.Sub(h.began)/(2*time.Second))))
	}
	for burst := 0; h.at < due && burst < 64; burst++ {
		f.sprayOne(h.at%socks, h.at/socks%max(1, h.plan.ports))
		h.at++
	}
	return now.Add(sprayStep)
}

func (f *pathFinder) sprayOne(sock, step int) {
	h := &f.hard
	b, _ := f.box.pack(msgPing, &pingMsg{h.nonce, f.moving}, 0)
	for _, to := range h.ips {
		if h.plan.walk {
			to = netip.AddrPortFrom(to.Addr(), h.walks[sock].port(step))
		}
		src := udpSource{addr: to}
		if len(h.socks) > 0 {
			src.sock = h.socks[sock]
		}
		f.router.send(b, src)
	}
}

// freshSock opens a socket that no NAT has seen, asks where it is seen and tries
// the peer's addresses from it: a NAT that has held our packets, or the other
// end's, for its own may have given our port another number for this peer. The
// peer hears of it when our own NAT has been opened for where it is.
func (f *pathFinder) freshSock(now time.Time) {
	h := &f.hard
	if h.freshes == 0 {
		h.freshOn = now
	}
	h.freshes++
	h.freshDue = now.Add(freshAgain)
	i, err := f.router.openSock()
	if err != nil {
		return
	}
	h.socks = append(h.socks, i)
	f.router.observe(now, i, func(now time.Time, at netip.AddrPort) {
		if !f.searching() || !slices.Contains(h.socks, i) {
			return
		}
		if h.freshAt, h.freshSock, h.freshOpen = at, i, false; !at.IsValid() {
			h.freshDue = now // nothing has come of this one
		}
		for _, t := range f.tries {
			if t.vouched && t.src.sock == 0 {
				f.knowFresh(now, t)
			}
		}
		f.tick(now)
	})
}

// knowFresh tries an address of the peer's from the fresh socket too. No NAT that
// could have taken our port is on the way to a private one.
func (f *pathFinder) knowFresh(now time.Time, t *pathTry) {
	h := &f.hard
	if !h.freshAt.IsValid() {
		return
	}
	f.tell = f.tell || !h.freshOpen
	h.freshOpen = true
	src := udpSource{sock: h.freshSock, addr: t.src.addr}
	if src.addr.Addr().IsPrivate() || len(f.tries) >= maxPathTries || f.tries[src.key()] != nil {
		return
	}
	n := f.know(now, src)
	n.named, n.vouched, n.shy = true, true, shyPings
	n.restart(now)
}

// freshTold is where the coordinator sees the fresh socket, for the peer; invalid
// while there is none, or nothing has left by it.
func (h *hardPunch) freshTold() netip.AddrPort {
	if !h.freshOpen {
		return netip.AddrPort{}
	}
	return h.freshAt
}

// hopeless reports whether the NATs of both ends are known, and nothing is known
// to get through them.
func (h *hardPunch) hopeless() bool {
	_, ok := planFor(h.mine, h.theirs, false, false)
	return !ok && h.mine.hard() && h.theirs.hard()
}

// text tells what a NAT does.
func (n natKind) text() string {
	switch n.kind {
	case natSame:
		return "keeps one port for all peers (endpoint-independent)"
	case natStep:
		return "takes the next port for every peer (symmetric, counting)"
	case natBlock:
		return "takes a port out of a block for every peer (symmetric, block)"
	case natRandom:
		return "takes a random port for every peer (symmetric, random)"
	}
	return "is not known"
}
