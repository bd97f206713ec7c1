package main

// This file keeps a node's links: takes those that peers dial, serves them, and
// ends them when the log, a newer process or silence says so.

import (
	"context"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
)

// accept takes links from peers.
func (n *node) accept(ctx context.Context) {
	for {
		conn, err := n.listener.Accept(ctx)
		if err != nil {
			return
		}
		n.running.Go(func() { n.accepted(ctx, conn) })
	}
}

// quicFor is the configuration of a link that a peer begins to dial.
func (n *node) quicFor(info *quic.ClientInfo) (*quic.Config, error) {
	n.mu.Lock()
	proc := n.peers.ofVirtual(info.RemoteAddr)
	n.mu.Unlock()
	if proc != nil {
		if _, err := n.judge(proc.keys, ""); err == nil {
			return linkQUIC(n.small), nil
		}
	}
	return strangerQUIC(n.small), nil
}

func (n *node) accepted(ctx context.Context, conn *quic.Conn) {
	if h, ok := conn.Context().Value(halfOpenKey{}).(*halfOpen); ok {
		n.opened(h)
	}
	n.mu.Lock()
	proc := n.peers.ofVirtual(conn.RemoteAddr())
	n.mu.Unlock()
	if proc == nil {
		conn.CloseWithError(quic.ApplicationErrorCode(linkCode("denied")), "")
		return
	}
	l, err := n.newLink(conn, proc, false)
	if err != nil || l.device != proc.keys.deviceID() {
		conn.CloseWithError(quic.ApplicationErrorCode(linkCode("key-mismatch")), "")
		return
	}
	_, err = n.judge(l.peer, "")
	if codeOf(err) == "unknown-device" && n.takeStranger(l) {
		n.spawn(func() { n.endStranger(l) })
		err = nil
	}
	if err != nil {
		n.logf(1, "link from %s refused: %v", l.peerName(), err)
		conn.CloseWithError(quic.ApplicationErrorCode(linkCode(deniedTo(err))), "")
		return
	}
	n.runLink(ctx, l)
}

// maxStrangerLinks bounds the links of machines that the log does not know,
// each some 100 KiB. Only a coordinator that lies brings as many.
const maxStrangerLinks = 8

// takeStranger counts a link of a stranger in, if there is room.
func (n *node) takeStranger(l *link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	strangers := 0
	for o := range n.links {
		if _, known := n.deviceOf(o.device); !known {
			strangers++
		}
	}
	if strangers >= maxStrangerLinks {
		return false
	}
	n.links[l] = true
	return true
}

// endStranger ends the link of a stranger whom the first exchange of the log
// has not made known.
func (n *node) endStranger(l *link) {
	wait := time.NewTimer(headWait)
	defer wait.Stop()
	select {
	case <-l.known:
	case <-wait.C:
	case <-l.conn.Context().Done():
	}
	if _, err := n.judge(l.peer, ""); codeOf(err) == "unknown-device" {
		l.close("denied")
	}
}

// newLink makes a link of ours.
func (n *node) newLink(conn *quic.Conn, proc *peerProc, dialed bool) (*link, error) {
	l, err := newLink(n, conn, proc, dialed)
	if err == nil {
		l.ssh, l.tokens, l.logf = n.ssh, n.sessions, n.logf
	}
	return l, err
}

// runLink serves a link until it ends.
func (n *node) runLink(ctx context.Context, l *link) {
	now := time.Now()
	n.mu.Lock()
	n.links[l] = true
	l.proc.used = true
	n.questionOlderLocked(now, l)
	n.changedLocked()
	n.mu.Unlock()
	n.poke()
	n.logf(1, "link %s with %s is up", l.id, l.peerName())
	if n.busy != nil {
		defer n.busy()()
	}
	if l.dialed {
		n.spawn(func() { l.startExchange(l.conn.Context()) })
	}
	unhook := context.AfterFunc(ctx, func() { l.close("closing") })
	l.serve(ctx)
	unhook()
	n.noteReached(l)
	n.mu.Lock()
	delete(n.links, l)
	n.talk.hangUp(l.recall.id)
	l.proc.used, l.proc.idleAt = n.usedLocked(l.proc), time.Now()
	n.changedLocked()
	n.mu.Unlock()
	n.logf(1, "link %s with %s has ended: %v", l.id, l.peerName(), l.err())
}

// noteReached remembers where the device at the end of a link was reached.
func (n *node) noteReached(l *link) {
	if n.reached == nil || !l.dialed {
		return
	}
	n.mu.Lock()
	at := reachedAt{l.device, l.proc.instance, l.proc.finder.reached()}
	n.mu.Unlock()
	if err := n.reached.note(at); err != nil {
		n.logf(1, "%v", err)
	}
}

// usedLocked reports whether any link goes to a process.
func (n *node) usedLocked(q *peerProc) bool {
	for l := range n.links {
		if l.proc == q {
			return true
		}
	}
	return false
}

// questionOlderLocked asks the older links of the same device whether their
// process still lives: one without an answer is closed.
func (n *node) questionOlderLocked(now time.Time, newer *link) {
	for l := range n.links {
		if l == newer || l.device != newer.device {
			continue
		}
		l.questioned = now
		l.proc.finder.question(now)
	}
}

// answerWait is how long a questioned link may stay silent.
const answerWait = 10 * time.Second

// tickLinksLocked closes links whose process is gone or that were without a
// path for too long.
func (n *node) tickLinksLocked(now time.Time) (next time.Time) {
	for l := range n.links {
		heard := l.proc.heard()
		silent := l.proc.finder.best == nil || l.proc.finder.best.missed > 0
		switch {
		case l.proc.finder.replaced(), l.successor != nil && l.successor.finder.best != nil:
			n.endLinkLocked(l, "replaced")
		case silent && heard >= n.hold:
			n.endLinkLocked(l, "held-out")
		case !l.questioned.IsZero() && heard < now.Sub(l.questioned):
			l.questioned = time.Time{}
		case !l.questioned.IsZero() && now.Sub(l.questioned) >= answerWait:
			n.endLinkLocked(l, "closing")
		}
		if silent {
			next = earlier(next, now.Add(max(n.hold-heard, 100*ms)))
		}
		next = earlier(next, n.recallLocked(now, l))
		next = earlier(next, n.expireLocked(now, l))
		if !l.questioned.IsZero() {
			next = earlier(next, now.Add(500*ms))
		}
	}
	return next
}

// expiryLook is how often, at least, dates are looked at while a signature has
// one: clocks are set, and stand still while the machine sleeps.
const expiryLook = time.Minute

// expireLocked ends a link when the signature of either end is good no longer.
// Ours may have been renewed: where we have dialled, the first exchange of the
// log may bring that, and until then the device judges us by its own log.
func (n *node) expireLocked(now time.Time, l *link) (next time.Time) {
	for _, id := range []deviceID{l.device, n.id.keys.deviceID()} {
		dev, ok := n.deviceOf(id)
		if !ok || dev.expires == 0 {
			continue
		}
		today := n.trust.now()
		switch {
		case !dev.expired(today):
		case id != l.device && l.dialed && !l.exchanged() && now.Sub(l.opened) < headWait:
			next = earlier(next, now.Add(100*ms))
			continue
		default:
			n.endLinkLocked(l, "expired")
			return next
		}
		next = earlier(next, now.Add(min(time.Unix(dev.expires, 0).Sub(today), expiryLook)))
	}
	return next
}

// exchanged reports whether the first exchange of the log is over.
func (l *link) exchanged() bool {
	select {
	case <-l.known:
		return true
	default:
		return false
	}
}

// recallAfter is how long the two ends of a link may look for each other before
// the one that dialled asks to be introduced again: both may have moved.
const recallAfter = time.Second

// recallLocked asks the coordinator to introduce the ends of a link that has
// no path, again and again at growing intervals of at most a minute.
func (n *node) recallLocked(now time.Time, l *link) (next time.Time) {
	f, r := l.proc.finder, &l.recall
	if f.best != nil || !l.dialed || l.conn.Context().Err() != nil {
		n.talk.hangUp(r.id)
		*r = linkRecall{}
		return next
	}
	due := f.lostAt.Add(recallAfter)
	if !r.next.IsZero() {
		due = r.next
	}
	if now.Before(due) {
		return due
	}
	n.talk.hangUp(r.id)
	r.id = n.talk.call(now, l.device, func(now time.Time, m *answerMsg) { n.recalledLocked(now, l, m) }, func(time.Time, *refuseMsg) {})
	r.next = now.Add(min(time.Second<<r.tries, time.Minute))
	r.tries = min(r.tries+1, 6)
	return r.next
}

// recalledLocked takes the answer: the process at the other end is the same,
// and is looked for at its new addresses, or another serves now. That ends the
// link when the other has answered a ping, not on the coordinator's word.
func (n *node) recalledLocked(now time.Time, l *link, m *answerMsg) {
	q := l.proc
	if m.instance != q.instance {
		var err error
		if q, err = n.peers.proc(now, l.peer, m.instance, false); err != nil {
			n.logf(1, "link %s: %v", l.id, err)
			return
		}
		q.idleAt, l.successor = now, q
	}
	q.finder.introduce(now, m.target, m.cands)
	n.tellLocked(now, q)
}

// endLinkLocked closes a link without holding the lock for it.
func (n *node) endLinkLocked(l *link, code string) {
	n.running.Go(func() { l.close(code) })
}

// runningSessions are those that connections are open under, for a beat.
func (n *node) runningSessions() (list []runningSession) {
	n.sessions.running(func(t sessionToken, owner [32]byte, live int) {
		list = append(list, runningSession{t.id(), byte(live), sealHintOf(n.acct, owner[:])})
	})
	return list
}

// endSessions does what the coordinator asks for. It may: the log lets the same
// clients in again. n.mu is held.
func (n *node) endSessions(m *endMsg) {
	client, known := n.deviceOf(m.client) // without keys, if it was revoked before it was in the log
	match := func(t sessionToken, owner [32]byte) bool {
		return m.all || known && string(owner[:]) == string(client.keys.sign) || slices.Contains(m.ids, t.id())
	}
	ended := 0
	if m.keep {
		tokens := map[string]bool{}
		n.sessions.running(func(t sessionToken, owner [32]byte, _ int) { tokens[t.publicID()] = match(t, owner) })
		ended = n.ssh.kill(func(_, _, token string) bool { return tokens[token] })
	} else {
		ended = n.sessions.revoke(match)
	}
	n.logf(1, "%d ended, asked for by way of the coordinator", ended)
}

// logChanged acts on a new head: peers hear of it, and links of those who may
// no longer be here are closed.
func (n *node) logChanged(ctx context.Context, st *trustState) {
	n.sessions.revoke(func(_ sessionToken, owner [32]byte) bool {
		dev, ok := st.deviceByKey(owner[:])
		return ok && dev.revoked
	})
	for _, l := range n.liveLinks() {
		n.spawn(func() { l.startExchange(l.conn.Context()) })
		if _, err := n.judge(l.peer, ""); codeOf(err) == "revoked" || codeOf(err) == "expired" {
			n.logf(0, "link %s with %s closed: %v", l.id, l.peerName(), err)
			l.close(codeOf(err))
		}
	}
	if ctx.Err() == nil {
		n.poke()
	}
}
