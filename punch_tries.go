package main

// This file is what a pathFinder knows of the addresses that may lead to its
// peer: which of them are tried, which forgotten.

import (
	"net/netip"
	"time"
)

// A pathTry is one address that may lead to the peer.
type pathTry struct {
	src      udpSource
	named    bool // by the coordinator
	vouched  bool // by the peer's own word
	own      bool // an interface of the peer has it
	mapped   bool // the peer's router keeps it open
	admitted bool
	proved   bool
	returned bool      // has proved itself at least once
	flown    bool      // it gets the first flight
	paid     bool      // it has pinged us since we last did: one for one
	shy      int       // pings to come that shall only open our own NAT
	pings    int       // sent before it was vouched
	kept     bool      // it led to the peer in an earlier process of ours
	spare    int       // pings that it may still be sent for that
	credit   int       // bytes that it may still be sent while neither named nor returned
	movedAt  time.Time // when the peer last said that it is here now
	wordAt   time.Time // when it was last named, or showed life
	rtt      time.Duration
	pingedAt time.Time   // when a ping last came from there
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

// moves notes that the peer says it is here now, if it does.
func (t *pathTry) moves(now time.Time, moved bool) {
	if moved {
		t.movedAt = now
	}
}

// know returns what is known of an address, and makes room for a new one.
func (f *pathFinder) know(now time.Time, src udpSource) *pathTry {
	t := f.tries[src.key()]
	if t == nil {
		if len(f.tries) >= maxPathTries {
			f.forgetOne(now)
		}
		t = &pathTry{src: src, start: now}
		f.tries[src.key()] = t
	}
	t.wordAt = now
	return t
}

// maxTried bounds the addresses that a doubt or a new round has tried again:
// those that there was word of last. The others are forgotten.
const maxTried = 12

// remember tries addresses that led to the peer from an earlier process of ours:
// by three small pings each, for by now somebody else may be there.
func (f *pathFinder) remember(now time.Time, addrs []netip.AddrPort) {
	f.began, f.early = now, true
	for _, a := range addrs {
		t := f.know(now, udpSource{addr: a})
		if !t.named {
			t.named, t.own, t.kept, t.spare = true, true, true, maxUnvouched
		}
	}
	f.retry(now)
	f.tick(now)
}

// knocking reports whether the process is nobody's word but its own, unproved.
func (f *pathFinder) knocking() bool { return f.knocked && f.best == nil }

// reached are the addresses that have led to the peer and may be tried without
// an introduction, the best first: nothing has to be opened for them.
func (f *pathFinder) reached() (addrs []netip.AddrPort) {
	var tries []*pathTry
	for _, t := range f.tries {
		if t.returned && t.src.sock == 0 && t.kind() != "punched" && t.src.addr.Addr().Zone() == "" {
			tries = append(tries, t)
		}
	}
	sortBy(tries, func(a, b *pathTry) int {
		switch {
		case a == f.best, b != f.best && betterPath(a, b):
			return -1
		case b == f.best, betterPath(b, a):
			return 1
		}
		return 0
	})
	for _, t := range tries[:min(len(tries), maxReachedAddrs)] {
		addrs = append(addrs, t.src.addr)
	}
	return addrs
}

// retry tries again what there was word of last.
func (f *pathFinder) retry(now time.Time) {
	var tries []*pathTry
	for _, t := range f.tries {
		if t != f.best {
			tries = append(tries, t)
		}
	}
	sortBy(tries, func(a, b *pathTry) int {
		if d := b.worth(now) - a.worth(now); d != 0 {
			return d
		}
		return b.wordAt.Compare(a.wordAt)
	})
	for i, t := range tries {
		t.proved = false
		if i < maxTried {
			t.restart(now)
		} else {
			f.forget(t)
		}
	}
}

// forgetOne forgets the address that there was no word of for the longest time,
// but for the path: first of those that only the coordinator names. Else one
// that names others and others again would have us ping the whole world.
func (f *pathFinder) forgetOne(now time.Time) {
	var worst *pathTry
	for _, t := range f.tries {
		if t != f.best && (worst == nil || worst.worth(now) > t.worth(now) ||
			worst.worth(now) == t.worth(now) && t.wordAt.Before(worst.wordAt)) {
			worst = t
		}
	}
	f.forget(worst)
}

// worth ranks addresses that may be forgotten: what was named just now is not.
func (t *pathTry) worth(now time.Time) int {
	switch {
	case now.Sub(t.wordAt) < time.Second:
		return 2
	case t.admitted || t.vouched:
		return 1
	}
	return 0
}

func (f *pathFinder) forget(t *pathTry) {
	delete(f.tries, t.src.key())
	f.router.forget(t.src)
}

func (t *pathTry) restart(now time.Time) {
	t.start, t.step, t.next, t.missed = now, 0, now, 0
}
