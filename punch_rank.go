package main

// This file judges paths that work: which of two is better, what a path is
// called, and whether it carries datagrams of the size in use.

import (
	"math/rand/v2"
	"time"
)

// betterPath ranks LAN, then IPv6, then what a router keeps open, then all
// else, where a worse kind wins by a round trip shorter by a quarter and 2 ms;
// within a kind a tenth and 1 ms.
func betterPath(a, b *pathTry) bool {
	ra, rb := a.rank(), b.rank()
	switch {
	case ra < rb:
		return b.rtt > a.rtt*3/4-2*ms
	case ra > rb:
		return a.rtt < b.rtt*3/4-2*ms
	}
	return a.rtt < b.rtt*9/10-1*ms
}

func (t *pathTry) rank() int {
	switch t.kind() {
	case "lan":
		return 0
	case "v6":
		return 1
	case "mapped":
		return 2
	}
	return 3
}

// kind names what a path by this address is: "v4" is a public address of the
// peer's own, "punched" one that only its NAT has.
func (t *pathTry) kind() string {
	switch a := t.src.addr.Addr(); {
	case a.IsLoopback(), a.IsPrivate(), a.IsLinkLocalUnicast():
		return "lan"
	case a.Is6():
		return "v6"
	case t.mapped:
		return "mapped"
	case t.own:
		return "v4"
	}
	return "punched"
}

// A bigProbe finds out whether a path carries datagrams of the size that QUIC
// uses: its MTU discovery only ever grows, and a smaller MTU beyond the first
// hop would swallow them all.
type bigProbe struct {
	try   *pathTry // nil: nothing is probed
	nonce uint64
	began time.Time
	next  time.Time
	tries int
}

// maxBigProbes is how many datagrams of that size may be lost, when small ones
// are not, before they are let be fragmented.
const maxBigProbes = 3

// bigGap is from one probe of a path that stalls to the next: routes change, and
// fragments are tried without after a while.
const bigGap = time.Second

// probeBig begins to probe a path that has just been chosen.
func (f *pathFinder) probeBig(now time.Time, t *pathTry) {
	f.big = bigProbe{}
	if f.router.inUse() > maxDatagram {
		f.big = bigProbe{try: t, nonce: rand.Uint64(), began: now, next: now}
	}
}

func (f *pathFinder) probeBigAgain(now time.Time, t *pathTry) {
	if f.big.try == nil && now.Sub(f.big.began) > bigGap {
		f.probeBig(now, t)
	}
}

func (f *pathFinder) tickBig(now time.Time) (next time.Time) {
	p := &f.big
	switch {
	case p.try == nil || p.try != f.best:
		return next
	case now.Before(p.next):
		return p.next
	case p.tries == maxBigProbes && p.try.missed > 0: // small ones are lost too
		f.probeBig(now, p.try)
		return p.next
	case p.tries == maxBigProbes:
		f.router.shrink(p.try.src)
		f.router.replay(p.try.src)
		p.try = nil
		return next
	}
	b, _ := f.box.pack(msgPing, &pingMsg{nonce: p.nonce}, f.router.inUse())
	f.router.send(b, p.try.src)
	p.tries++
	p.next = now.Add(p.try.askWait())
	return p.next
}

func (f *pathFinder) ponedBig(m *pongMsg, t *pathTry) bool {
	if f.big.try == nil || t != f.big.try || m.nonce != f.big.nonce {
		return false
	}
	f.big.try = nil
	return true
}
