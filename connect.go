package main

// This file makes a link to a device: it asks the coordinator for an
// introduction, lets punch.go find a path and dials over it. Several callers
// share one attempt.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// connectFor bounds the whole way to a link: a network that hinders is named
// within it.
const connectFor = 12 * time.Second

// coordSilence is how long a coordinator may leave a call unanswered before it
// is said not to answer.
const coordSilence = 5 * time.Second

// linkByID returns a link to a device that the log knows as active.
func (n *node) linkByID(ctx context.Context, id deviceID) (*link, error) {
	n.trust.refresh()
	dev, ok := n.deviceOf(id)
	if !ok {
		return nil, coded("unknown-device", "no such device")
	}
	if err := revokedError(dev); err != nil {
		return nil, err
	}
	return n.connect(ctx, dev)
}

// openSSHByID opens a stream to the device's SSH server.
func (n *node) openSSHByID(ctx context.Context, id deviceID) (*linkStream, error) {
	if dev, ok := n.deviceOf(id); ok {
		if err := entryError(dev, n.trust.now()); err != nil {
			return nil, err
		}
	}
	l, err := n.linkByID(ctx, id)
	if err != nil {
		return nil, err
	}
	return l.openSSH(ctx)
}

// connect returns a link to the device that has a path, or says why there is
// none.
func (n *node) connect(ctx context.Context, dev signedDevice) (*link, error) {
	n.mu.Lock()
	if l := n.linkToLocked(dev.id); l != nil {
		n.mu.Unlock()
		return l, nil
	}
	d := n.dials[dev.id]
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		n.dials[dev.id] = d
		n.mu.Unlock()
		n.spawn(func() { n.runDial(d, dev) })
	} else {
		n.mu.Unlock()
	}
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-n.life.Done():
		return nil, errors.New("given up: this process ends")
	}
}

// linkOfLocked returns the live link to a process, nil if there is none.
func (n *node) linkOfLocked(q *peerProc) *link {
	for l := range n.links {
		if l.proc == q && l.conn.Context().Err() == nil {
			return l
		}
	}
	return nil
}

// linkToLocked returns a link to the device over which data can flow now. One
// that the device has dialled may come from a verb there, which serves nobody.
func (n *node) linkToLocked(id deviceID) (found *link) {
	for l := range n.links {
		if l.device != id || !l.dialed || l.conn.Context().Err() != nil || l.proc.finder.best == nil {
			continue
		}
		if found == nil || l.opened.After(found.opened) {
			found = l
		}
	}
	return found
}

func (n *node) runDial(d *dialing, dev signedDevice) {
	ctx, stop := context.WithTimeout(n.life, connectFor)
	defer stop()
	d.link, d.err = n.dial(ctx, dev)
	n.mu.Lock()
	delete(n.dials, dev.id)
	n.mu.Unlock()
	close(d.done)
}

// An introduction is what the coordinator said to a call.
type introduction struct {
	answer *answerMsg
	refuse *refuseMsg
}

func (n *node) dial(ctx context.Context, dev signedDevice) (*link, error) {
	said := make(chan introduction, 8)
	n.mu.Lock()
	id := n.talk.call(time.Now(), dev.id,
		func(_ time.Time, m *answerMsg) { offer(said, introduction{answer: m}) },
		func(_ time.Time, m *refuseMsg) { offer(said, introduction{refuse: m}) })
	n.mu.Unlock()
	n.poke()
	defer func() {
		n.mu.Lock()
		n.talk.hangUp(id)
		n.mu.Unlock()
	}()
	silent := time.NewTimer(coordSilence)
	defer silent.Stop()
	select {
	case in := <-said:
		if in.refuse != nil {
			return nil, refusalOf(in.refuse, dev.name)
		}
		return n.dialAnswered(ctx, dev, in.answer, said)
	case <-silent.C:
		return nil, withHint(fmt.Errorf("coordinator %s does not answer", n.anchor.coordAddr),
			"is it running, and does a firewall here let UDP out?")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func offer(said chan introduction, in introduction) {
	select {
	case said <- in:
	default:
	}
}

// dialAnswered dials the process that the coordinator named, or waits for the
// path of a link that we have to it.
func (n *node) dialAnswered(ctx context.Context, dev signedDevice, m *answerMsg, said chan introduction) (*link, error) {
	now := time.Now()
	n.mu.Lock()
	q, err := n.peers.proc(now, dev.keys, m.instance, true)
	if err != nil {
		n.mu.Unlock()
		return nil, err
	}
	n.succeedLocked(dev.id, q)
	q.idleAt = now
	old := n.linkOfLocked(q)
	q.finder.introduce(now, m.target, m.cands)
	n.tellLocked(now, q)
	n.mu.Unlock()
	n.poke()
	if old != nil {
		return n.awaitPath(ctx, dev, old)
	}
	dialCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	n.spawn(func() { giveUpSilent(dialCtx, stop, said, dev.name) })
	n.spawn(func() { n.giveUpHopeless(dialCtx, stop, q) })
	l, err := n.dialQUIC(dialCtx, dev, q)
	if err != nil {
		return nil, err
	}
	l.setToken(now, m.token, time.Duration(m.ttl)*time.Second, 0)
	n.startLink(l)
	return l, nil
}

// silentGrace is how long the dial goes on after the coordinator has said that
// its ring stays unanswered: the device may be between two addresses.
const silentGrace = 3 * time.Second

// giveUpSilent ends the dial of a device that does not answer its ring.
func giveUpSilent(ctx context.Context, stop context.CancelCauseFunc, said chan introduction, name string) {
	var in introduction
	select {
	case in = <-said:
	case <-ctx.Done():
		return
	}
	if in.refuse == nil {
		return
	}
	grace := time.NewTimer(silentGrace)
	defer grace.Stop()
	select {
	case <-grace.C:
		stop(refusalOf(in.refuse, name))
	case <-ctx.Done():
	}
}

// succeedLocked has links to other processes of the device end once q, which
// the coordinator says serves now, has shown that it does.
func (n *node) succeedLocked(id deviceID, q *peerProc) {
	for l := range n.links {
		if l.device == id && l.dialed && l.proc != q {
			l.successor = q
		}
	}
}

func (n *node) dialQUIC(ctx context.Context, dev signedDevice, q *peerProc) (*link, error) {
	var refused error
	tlsConf := n.id.tlsConfig(alpnLink, func(claimed publicKeys) error {
		if claimed.deviceID() != dev.id {
			refused = withHint(coded("host-key", "the machine that answers shows another key than %s has in the log", dev.name),
				"someone has its path key or stands in its place: look at that machine before you trust it")
		}
		return refused
	})
	conn, err := n.tr.Dial(ctx, q.udp.virtual, tlsConf, linkQUIC(n.small))
	if err != nil {
		if refused != nil {
			return nil, refused
		}
		if lerr := linkErrorOf(err); codeOf(lerr) != "" {
			return nil, lerr
		}
		if cause := context.Cause(ctx); codeOf(cause) == "silent" {
			return nil, cause
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		return nil, noPathError(q.finder, err)
	}
	return n.newLink(conn, q, true)
}

// hopelessAfter is how long even two NATs that nothing is known to cross get:
// the ends may share a LAN, or have IPv6.
const hopelessAfter = 5 * time.Second

var errHopeless = errors.New("hopeless")

// giveUpHopeless ends the dial between two such NATs.
func (n *node) giveUpHopeless(ctx context.Context, stop context.CancelCauseFunc, q *peerProc) {
	if !pause(ctx, hopelessAfter) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if q.finder.best == nil && q.finder.hard.hopeless() {
		stop(errHopeless)
	}
}

// noPathError says what was tried.
func noPathError(f *pathFinder, err error) error {
	if f.best != nil {
		return fmt.Errorf("a path is open, but the device's process does not answer on it: %w", err)
	}
	var tried []string
	for _, t := range f.tries {
		tried = append(tried, t.src.addr.String())
	}
	slices.Sort(tried)
	no := coded("no-path", "no direct path: tried %s", strings.Join(slices.Compact(tried), ", "))
	if h := &f.hard; h.mine.hard() && h.theirs.hard() {
		return withHint(coded("no-path", "no direct path: the NAT here %s, the one there %s", h.mine.text(), h.theirs.text()),
			"a port mapping (UPnP, NAT-PMP, PCP) or IPv6 at either end would do: sessio netcheck says what there is")
	}
	return withHint(no, "does a firewall at either end drop UDP? sessio netcheck says what this network allows")
}

// startLink runs a link that we dialled.
func (n *node) startLink(l *link) {
	n.mu.Lock()
	n.links[l] = true
	l.proc.used = true
	n.mu.Unlock()
	n.spawn(func() { n.runLink(context.Background(), l) })
}

// awaitPath waits for a path of a link that there is already.
func (n *node) awaitPath(ctx context.Context, dev signedDevice, l *link) (*link, error) {
	for {
		n.mu.Lock()
		up, changed := l.proc.finder.best != nil, n.changed
		n.mu.Unlock()
		switch {
		case l.conn.Context().Err() != nil:
			return n.dial(ctx, dev)
		case up:
			return l, nil
		}
		select {
		case <-changed:
		case <-l.conn.Context().Done():
		case <-ctx.Done():
			n.mu.Lock()
			defer n.mu.Unlock()
			return nil, noPathError(l.proc.finder, ctx.Err())
		}
	}
}
