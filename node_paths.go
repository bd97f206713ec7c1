package main

// This file keeps a node's paths abreast of the network: it tells peers where we
// are, sealed for them and handed on by the coordinator, takes their notes, and
// looks at everything anew when our own network has changed.

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// noteTimes are when a note goes out, counted from when there was something to
// tell, until the other end has it.
var noteTimes = []time.Duration{0, 60 * ms, 150 * ms, 350 * ms, 750 * ms, 1500 * ms, 3 * time.Second, 6 * time.Second}

// tellLocked begins to tell a process where we are. A NAT that counts is asked
// for its next port first: natChanged goes on then.
func (n *node) tellLocked(now time.Time, q *peerProc) {
	q.finder.tell = false
	s := &q.note
	s.nonce, s.had, s.began, s.sent = rand.Uint64(), false, now, 0
	if !q.finder.doubt.IsZero() {
		n.talk.beatAgain(now) // where are we now?
	}
	if n.nat.refresh(now) {
		s.nonce = 0
	}
	if n.nat.stale(now) {
		n.nat.start(now, false)
	}
}

// tickNotesLocked sends the notes that are due.
func (n *node) tickNotesLocked(now time.Time) (next time.Time) {
	for _, q := range n.peers.byVirtual {
		if q.finder.tell {
			n.tellLocked(now, q)
		}
		s := &q.note
		if s.nonce == 0 || s.had || s.sent == len(noteTimes) {
			continue
		}
		if due := s.began.Add(noteTimes[s.sent]); due.After(now) {
			next = earlier(next, due)
			continue
		}
		s.sent++
		n.sendNoteLocked(q)
		if s.sent < len(noteTimes) {
			next = earlier(next, s.began.Add(noteTimes[s.sent]))
		}
	}
	return next
}

func (n *node) sendNoteLocked(q *peerProc) {
	var addrs []netip.AddrPort
	if at := q.finder.hard.freshTold(); at.IsValid() {
		addrs = append(addrs, at)
	}
	addrs = append(addrs, n.nat.observed()...)
	for _, a := range n.candidates() {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	m := noteMsg{nonce: q.note.nonce, have: q.note.theirs, moved: q.finder.moving, nat: n.nat.kind, mapped: n.mapped(), addrs: addrs}
	n.logf(3, "note %x to %s: %v, moved %v", m.nonce>>48, q.keys.deviceID(), addrs, m.moved)
	b, _ := q.box.pack(msgNote, &m, 0)
	n.talk.relay(q.keys.deviceID(), q.instance, b)
}

// relayed takes what the coordinator hands on. n.mu is held.
func (n *node) relayed(now time.Time, m *relayedMsg) {
	hint, ok := hintOfDatagram(m.inner)
	if !ok {
		return
	}
	q, note := n.peers.noted(hint, m.inner)
	if q == nil {
		return
	}
	if _, err := n.judge(q.keys, ""); err != nil {
		return // what strangers name is nobody's word
	}
	n.logf(3, "note %x from %s, by the coordinator seen at %v: %v, moved %v", note.nonce>>48, q.keys.deviceID(), m.observed, note.addrs, note.moved)
	s := &q.note
	anew := note.nonce != s.theirs || m.observed != s.from
	s.theirs, s.from, s.nat = note.nonce, m.observed, note.nat
	s.seen = nil
	for _, a := range note.addrs {
		if !slices.Contains(n.candidates(), a) {
			s.seen = append(s.seen, a)
		}
	}
	s.had = s.had || note.have == s.nonce && s.nonce != 0
	if anew {
		q.finder.vouch(now, m.observed, note.addrs, note.mapped, note.moved)
		q.finder.setKinds(now, n.nat.kind, s.nat, s.seen)
		n.replyLocked(now, q, note)
	}
}

// replyLocked lets the other end know that its note has come: by a note of our
// own that is under way anyway, or by one more.
func (n *node) replyLocked(now time.Time, q *peerProc, note *noteMsg) {
	switch s := &q.note; {
	case s.nonce == 0:
		n.tellLocked(now, q)
	case s.had || s.sent == len(noteTimes):
		n.sendNoteLocked(q)
	default:
		s.began, s.sent = now, 0
	}
}

// natChanged takes what the NAT probe has found. n.mu is held.
func (n *node) natChanged(now time.Time) {
	n.logf(2, "NAT: this end's %s; seen at %v", n.nat.kind.text(), n.nat.observed())
	for _, q := range n.peers.byVirtual {
		f := q.finder
		if f.best == nil || !f.doubt.IsZero() || !q.used {
			f.setKinds(now, n.nat.kind, q.note.nat, q.note.seen)
			n.tellLocked(now, q)
		}
	}
	n.poke()
}

// placed takes note of where the coordinator sees us now. n.mu is held.
func (n *node) placed(now time.Time, at netip.AddrPort) {
	n.logf(0, "the coordinator knows this machine, at %v", at)
	if was := n.nat.seen[0]; was.IsValid() && was != at && was.Addr().Is4() == at.Addr().Is4() {
		n.nat.start(now, true)
	}
	if n.keepPort && n.ports == nil && !n.closed && behindNAT(at.Addr()) {
		n.ports = newPortMapper(n.mux.port(), n.logf, n.portChanged)
		n.running.Go(func() { n.ports.run(n.life) })
	}
}

// behindNAT reports whether an address at which we are seen is none of ours: only
// then is there a router to be asked for a port.
func behindNAT(seen netip.Addr) bool {
	return seen.Is4() && !seen.IsLoopback() &&
		!slices.ContainsFunc(machineAddrs(), func(p netip.Prefix) bool { return p.Addr() == seen })
}

// portChanged tells the coordinator and peers of another mapped port.
func (n *node) portChanged() {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, by := n.ports.mapped()
	n.logf(2, "the router keeps %v open for us (%s)", at, by)
	n.talk.beatSoon()
	for _, q := range n.peers.byVirtual {
		n.tellLocked(time.Now(), q)
	}
	n.poke()
}

// roam acts on a change of our own network: the coordinator and every peer
// learn where we are now, and all paths are tried.
func (n *node) roam(now time.Time, why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.logf(2, "network: %s", why)
	n.talk.at = udpSource{} // any of its addresses may be the one that is reached
	n.talk.beatSoon()
	n.nat.start(now, true)
	if n.ports != nil {
		n.ports.again()
	}
	for _, q := range n.peers.byVirtual {
		q.finder.roam(now)
	}
	n.poke()
}

// watchLoop waits for changes of the network.
func (n *node) watchLoop(ctx context.Context) {
	watchNetwork(ctx, func(why string) { n.roam(time.Now(), why) })
}

// A sleepWatch notices that the machine has slept: the clock on the wall goes
// on meanwhile, the monotonic one does not.
type sleepWatch struct{ last time.Time }

// woke reports whether the machine has slept since the last call.
func (s *sleepWatch) woke(now time.Time) bool {
	last := s.last
	s.last = now
	return !last.IsZero() && now.Round(0).Sub(last.Round(0))-now.Sub(last) > 2*time.Second
}
