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
	n.trust.refresh() // a verb may have written what it has fetched
	if dev, ok := n.deviceOf(id); ok {
		if err := entryError(dev, n.trust.now()); err != nil {
			return nil, err
		}
	}
	l, err := n.linkByID(ctx, id)
	if err != nil {
		return nil, err
	}
	return n.openSSHOn(ctx, l)
}

// openSSHOn opens a stream to the SSH server at the end of a link. The first
// Read says why nothing comes, if nothing does.
func (n *node) openSSHOn(ctx context.Context, l *link) (*linkStream, error) {
	begun, over := n.beginOn(ctx, l)
	s, err := l.openSSH(begun)
	if err != nil {
		return nil, over(err)
	}
	unhook := context.AfterFunc(begun, func() { s.CancelRead(0) })
	s.first = func(err error) error {
		unhook()
		return over(err)
	}
	return s, nil
}

// beginOn watches a link, which may have died a moment ago, until what begins
// on it is answered: begun ends when it will not be. over is to be called then,
// or with the error that came instead, and says why.
func (n *node) beginOn(ctx context.Context, l *link) (begun context.Context, over func(error) error) {
	begun, stop := context.WithCancelCause(ctx)
	n.spawn(func() { n.awaitAnswer(begun, stop, l) })
	return begun, func(err error) error {
		if cause := context.Cause(begun); err != nil && cause != nil {
			err = cause
		}
		stop(nil)
		if codeOf(err) == "replaced" {
			return withHint(err, "run the same again")
		}
		return err
	}
}

// awaitAnswer ends what has begun on a link: with what connect says once the
// path is lost and not found again, or when nothing has come for connectFor.
func (n *node) awaitAnswer(ctx context.Context, stop context.CancelCauseFunc, l *link) {
	patience := time.NewTimer(connectFor)
	defer patience.Stop()
	for l.conn.Context().Err() == nil { // else the stream says why
		n.mu.Lock()
		best, changed := l.proc.finder.best, n.changed
		n.mu.Unlock()
		if best == nil {
			again, err := n.linkByID(ctx, l.device)
			if err == nil && again != l {
				err = coded("replaced", "%s", linkCodeTexts["replaced"])
			}
			if err != nil {
				stop(err)
				return
			}
			patience.Reset(connectFor)
			continue
		}
		select {
		case <-changed:
		case <-l.conn.Context().Done():
		case <-patience.C:
			stop(withHint(fmt.Errorf("a path is open, but nothing has come by it within %v", connectFor),
				"is that machine overloaded? try again in a minute"))
		case <-ctx.Done():
			return
		}
	}
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
		d = &dialing{done: make(chan struct{}), hello: make(chan instanceID, 1)}
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
		return nil, errClosing
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
	if l := n.linkToLocked(dev.id); d.err != nil && l != nil { // its path was found meanwhile
		d.link, d.err = l, nil
	}
	delete(n.dials, dev.id)
	n.mu.Unlock()
	close(d.done)
}

var errClosing = errors.New("given up: this process ends")

// An introduction is what the coordinator said to a call.
type introduction struct {
	answer *answerMsg
	refuse *refuseMsg
}

// dial asks to be introduced, and tries meanwhile where the device was reached
// last: it may be near while the coordinator is far, or gone.
func (n *node) dial(ctx context.Context, dev signedDevice) (*link, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	near, hello := n.dialReached(ctx, dev)
	defer func() {
		if near != nil {
			near.drop()
		}
	}()
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
	deadline := time.NewTimer(coordSilence)
	defer deadline.Stop()
	late := false // the coordinator's time is over
	no := withHint(fmt.Errorf("coordinator %s does not answer", n.anchor.coordAddr),
		"is it running, and does a firewall here let UDP out?")
	for {
		select {
		case in := <-said:
			if in.answer != nil {
				at := near
				near = nil
				return n.dialAnswered(ctx, dev, in.answer, said, at)
			}
			no = refusalOf(in.refuse, dev.name)
			if near == nil || in.refuse.reason != refuseOffline {
				return nil, no
			}
			deadline.Reset(nearGrace)
		case <-near.ended():
			at := near
			if near = nil; at.err == nil {
				n.startLink(at.link)
				return at.link, nil
			}
			n.logf(2, "%s where it was last: %v", dev.name, at.err)
			switch {
			case late && n.hasPath(at.q):
				return nil, at.err
			case late, codeOf(no) == "offline":
				return nil, no
			}
		case instance := <-hello:
			if near != nil && near.q.instance != instance {
				near.drop()
				if near = n.dialAt(ctx, dev, reachedAt{dev.id, instance, n.reached.look(dev.id).addrs}); near == nil && late {
					return nil, no
				}
			}
		case <-deadline.C:
			if late = true; near == nil || !n.hasPath(near.q) {
				return nil, no
			}
		case <-ctx.Done():
			switch {
			case n.life.Err() != nil:
				return nil, context.Cause(ctx)
			case near == nil:
				return nil, no
			}
			late, ctx = true, context.WithoutCancel(ctx) // near ends with it, and says why
		}
	}
}

// nearGrace is what a device that the coordinator calls offline has to answer
// from where it was last.
const nearGrace = 500 * ms

// A dialAttempt is a dial of one process under way.
type dialAttempt struct {
	q    *peerProc
	ctx  context.Context
	stop context.CancelCauseFunc
	done chan struct{} // closed when link and err are set
	link *link
	err  error
}

// attempt begins to dial a process whose addresses are known.
func (n *node) attempt(ctx context.Context, dev signedDevice, q *peerProc) *dialAttempt {
	a := &dialAttempt{q: q, done: make(chan struct{}), err: errClosing}
	a.ctx, a.stop = context.WithCancelCause(ctx)
	if !n.spawn(func() {
		defer close(a.done)
		a.link, a.err = n.dialQUIC(a.ctx, dev, q)
	}) {
		close(a.done)
	}
	return a
}

// ended is closed when there is a link or none; of no attempt never.
func (a *dialAttempt) ended() <-chan struct{} {
	if a == nil {
		return nil
	}
	return a.done
}

// linked reports whether it has made its link.
func (a *dialAttempt) linked() bool {
	select {
	case <-a.done:
		return a.err == nil
	default:
		return false
	}
}

// drop gives an attempt up, and the link that it may have made meanwhile.
func (a *dialAttempt) drop() {
	a.stop(nil)
	<-a.done
	if a.link != nil {
		a.link.close("closing")
	}
}

// dialReached tries where the device was reached last; nil: nothing is known.
// hello tells when another process has answered there.
func (n *node) dialReached(ctx context.Context, dev signedDevice) (near *dialAttempt, hello <-chan instanceID) {
	if n.reached == nil {
		return nil, nil
	}
	at := n.reached.look(dev.id)
	if len(at.addrs) == 0 {
		return nil, nil
	}
	n.mu.Lock()
	if d := n.dials[dev.id]; d != nil {
		hello = d.hello
	}
	n.mu.Unlock()
	return n.dialAt(ctx, dev, at), hello
}

func (n *node) dialAt(ctx context.Context, dev signedDevice, at reachedAt) *dialAttempt {
	n.mu.Lock()
	now := time.Now()
	q, err := n.peers.proc(now, dev.keys, at.instance, true)
	if err != nil || n.linkOfLocked(q) != nil { // one without a path: its own search goes on
		n.mu.Unlock()
		return nil
	}
	q.idleAt = now
	q.finder.remember(now, at.addrs)
	n.mu.Unlock()
	n.poke()
	return n.attempt(ctx, dev, q)
}

// helloLocked takes a peer's word that it is another process now.
func (n *node) helloLocked(id deviceID, instance instanceID) {
	if d := n.dials[id]; d != nil {
		select {
		case d.hello <- instance:
		default:
		}
	}
}

func (n *node) hasPath(q *peerProc) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return q.finder.best != nil
}

func offer(said chan introduction, in introduction) {
	select {
	case said <- in:
	default:
	}
}

// dialAnswered dials the process that the coordinator named, or waits for the
// path of a link that we have to it. near is an attempt under way, or nil.
func (n *node) dialAnswered(ctx context.Context, dev signedDevice, m *answerMsg, said chan introduction, near *dialAttempt) (*link, error) {
	if near != nil && near.linked() {
		n.startLink(near.link)
		return near.link, nil
	}
	now := time.Now()
	n.mu.Lock()
	q, err := n.peers.proc(now, dev.keys, m.instance, true)
	if err != nil {
		n.mu.Unlock()
		if near != nil {
			near.drop()
		}
		return nil, err
	}
	n.succeedLocked(dev.id, q)
	q.idleAt = now
	old := n.linkOfLocked(q)
	q.finder.introduce(now, m.target, m.cands)
	n.tellLocked(now, q)
	n.mu.Unlock()
	n.poke()
	if near != nil && (near.q != q || old != nil) {
		near.drop()
		near = nil
	}
	if old != nil {
		return n.awaitPath(ctx, dev, said, old)
	}
	if near == nil {
		near = n.attempt(ctx, dev, q)
	}
	n.spawn(func() { n.giveUpSilent(near.ctx, near.stop, said, dev.name, q) })
	n.spawn(func() { n.giveUpHopeless(near.ctx, near.stop, q) })
	<-near.done
	l := near.link
	if near.err != nil {
		return nil, near.err
	}
	l.setToken(now, m.token, time.Duration(m.ttl)*time.Second, 0)
	n.startLink(l)
	return l, nil
}

// silentGrace is how long the dial goes on after the coordinator has said that
// its ring stays unanswered: the device may be between two addresses.
const silentGrace = 3 * time.Second

// giveUpSilent ends the dial of a device that does not answer its ring, unless q,
// its process, has been heard meanwhile: the coordinator may be further away.
func (n *node) giveUpSilent(ctx context.Context, stop context.CancelCauseFunc, said chan introduction, name string, q *peerProc) {
	began := time.Now()
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
		n.mu.Lock()
		silent := q.finder.best == nil && q.heard() > time.Since(began)
		n.mu.Unlock()
		if silent {
			stop(refusalOf(in.refuse, name))
		}
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
func (n *node) awaitPath(ctx context.Context, dev signedDevice, said chan introduction, l *link) (*link, error) {
	waits, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	n.spawn(func() { n.giveUpSilent(waits, stop, said, dev.name, l.proc) })
	for {
		n.mu.Lock()
		up, changed, no := l.proc.finder.best != nil, n.changed, noPathError(l.proc.finder, ctx.Err())
		n.mu.Unlock()
		switch cause := context.Cause(waits); {
		case l.conn.Context().Err() != nil:
			return n.dial(ctx, dev)
		case up:
			return l, nil
		case codeOf(cause) == "silent":
			return nil, cause
		case cause != nil:
			return nil, no
		}
		select {
		case <-changed:
		case <-l.conn.Context().Done():
		case <-waits.Done():
		}
	}
}
