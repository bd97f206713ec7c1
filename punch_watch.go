package main

// This file watches a path that works: data that stays unanswered, a NAT that
// has forgotten us and a network of our own that has changed bring it into
// doubt, and an answer ends that.

import (
	"net/netip"
	"time"
)

// checkTimes are when a path that QUIC has left in silence is checked, counted
// from its last packet: a NAT that has rebooted is noticed while somebody types,
// and an idle path gets no more packets than its hole needs.
var checkTimes = []time.Duration{300 * ms, 1 * time.Second, 3 * time.Second, 10 * time.Second}

// With no path, and the round over, what is known to lead to the peer is pinged
// on: quickly while data waits, for the network may be back any moment.
const (
	// movePing and moveFor: when our own network has changed the path is pinged
	// so often for so long, for the other end opens its NAT when it hears of us.
	movePing = 50 * ms
	moveFor  = 2 * time.Second

	hurryPing = 90 * ms
	hurryFor  = time.Hour
	hurryBoth = 10 * time.Minute
)

// watch questions the path when data sent stays unanswered, trusts it again
// when anything has come in, and hurries while data waits for a path.
func (f *pathFinder) watch(now time.Time) (next time.Time) {
	heard, wrote := f.router.idle(now)
	t := f.best
	if t == nil {
		return f.hurry(now, wrote < heard)
	}
	asked, stall := now.Sub(t.lastAsked()), max(stallPing, 3*t.rtt)
	if wrote < checkTimes[0] {
		f.checks = 0
	}
	switch {
	case f.router.failed() && t.missed == 0:
		t.next = now
	case t.missed > 0 && heard < asked && !f.moving:
		f.trust(now, t)
	case t.missed > 0: // pingProved counts
	case wrote < heard && heard > stall && asked > stall:
		t.next = now
		f.probeBigAgain(now, t)
	case f.checks < len(checkTimes) && wrote > checkTimes[f.checks]:
		f.checks++
		t.next = now
	}
	if wrote > activeFor {
		return next
	}
	if now.Sub(f.rivalAt) > time.Minute && f.doubt.IsZero() {
		f.seekRivals(now)
	}
	return now.Add(stall / 4)
}

// hurry pings what led to the peer of late while data waits. The end that only
// received hurries too, for a while: both have a NAT to open.
func (f *pathFinder) hurry(now time.Time, waits bool) (next time.Time) {
	lost := now.Sub(f.lostAt)
	if !(waits && lost < hurryFor || f.active && lost < hurryBoth) {
		return next
	}
	for _, t := range f.tries {
		late := t.returned && t.wordAt.After(f.lostAt.Add(-time.Minute))
		if due := t.lastAsked().Add(hurryPing); late && (t.next.IsZero() || t.next.After(due)) {
			t.next = due
		}
	}
	return now.Add(hurryPing)
}

// seekRivals asks the other addresses now and then whether they lead to the
// peer on a better path.
func (f *pathFinder) seekRivals(now time.Time) {
	f.rivalAt = now
	for _, t := range f.tries {
		if t != f.best && t.vouched && t.next.IsZero() {
			f.ping(now, t)
		}
	}
}

// suspect tries everything known, while data goes on by the path.
func (f *pathFinder) suspect(now time.Time) {
	f.doubt, f.tell, f.strangers = now, true, 0
	if f.best != nil {
		f.router.logf("path %v is in doubt", f.best.src.addr)
	}
	f.retry(now)
}

// trust ends all doubt: t, the path, carries packets both ways.
func (f *pathFinder) trust(now time.Time, t *pathTry) {
	t.missed, t.next = 0, now.Add(f.idleGap())
	if !f.doubt.IsZero() {
		f.router.logf("path %v is good again", t.src.addr)
		f.doubt, f.moving = time.Time{}, false
		f.replay(now, t)
	}
}

// maxReplays is how often the last datagrams are sent by a path that is there
// again: the other end may open its NAT for us a moment later than we know.
const maxReplays = 3

func (f *pathFinder) replay(now time.Time, t *pathTry) {
	f.replays, f.replayAt = maxReplays, now
	f.tickReplay(now)
}

func (f *pathFinder) tickReplay(now time.Time) (next time.Time) {
	if f.replays == 0 || f.best == nil {
		return next
	}
	if now.Before(f.replayAt) {
		return f.replayAt
	}
	if f.router.came() && f.replays < maxReplays { // the other end lets us in
		f.replays = 0
		return next
	}
	f.router.replay(f.best.src)
	f.replays--
	f.replayAt = now.Add(max(50*ms, f.best.rtt))
	return f.replayAt
}

// roam takes note that our own network has changed: no address of ours is
// what it was, the kernel may choose others.
func (f *pathFinder) roam(now time.Time) {
	f.moving = true
	f.suspect(now)
	for _, t := range f.tries {
		t.src.local = netip.Addr{}
	}
	if f.best != nil {
		f.router.setPath(f.best.src)
		f.best.missed, f.best.next = 1, now
	}
	f.tick(now)
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

// replaced reports that a hello came and that pings stayed unanswered for
// eight times askWait, 900 ms at a round trip of 40 ms.
func (f *pathFinder) replaced() bool {
	return f.restarted && (f.best == nil || f.best.missed >= deadAfter)
}
