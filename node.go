package main

// This file is a device's process on the network: one socket, one conversation
// with the coordinator, paths to peers and links over them. A verb makes one
// for itself, -device keeps one and lends its links.

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// A nodeConfig is what a node is made of.
type nodeConfig struct {
	id     *identity
	trust  *trustStore // with an anchor
	listen string      // UDP address, "" = any port
	hold   time.Duration
	beat   bool       // keep presence at the coordinator
	ssh    *sshServer // nil: may not be entered
	logf   func(level int, format string, args ...any)
}

// A node owns the socket and all that lives on it.
type node struct {
	nodeConfig
	acct     acctID
	anchor   anchor
	instance instanceID
	mux      *udpMux
	tr       *quic.Transport
	listener *quic.Listener
	sessions *sessionTable
	wake     chan struct{} // the run loop shall look again
	fetch    chan struct{} // the coordinator has records that we lack
	hint     sealHint      // on the coordinator's datagrams to us
	small    bool          // little memory

	strangers exchangeBudget // what unknown peers may send us a minute

	running sync.WaitGroup // added to by spawn, or by what it counts already
	stop    context.CancelFunc

	mu      sync.Mutex
	talk    *coordTalk            // guarded by mu
	peers   *peerTable            // guarded by mu
	links   map[*link]bool        // guarded by mu
	dials   map[deviceID]*dialing // guarded by mu
	changed chan struct{}         // guarded by mu: closed and made anew when paths or links change
	wanted  uint64                // guarded by mu: seq that the coordinator has
	closed  bool                  // guarded by mu: nothing new may be spawned
}

// openNode opens the socket and starts to listen for links.
func openNode(ctx context.Context, c nodeConfig) (*node, error) {
	a, ok := c.trust.anchor()
	if !ok {
		return nil, withHint(errors.New("this machine belongs to no account yet"), "run: sessio join TICKET")
	}
	addrs, err := resolveCoord(ctx, a.coordAddr)
	if err != nil {
		c.logf(1, "%v", err) // peers may still be reached without it
	}
	n := &node{nodeConfig: c, acct: a.acct, anchor: a, instance: newInstanceID(), small: smallMemory(),
		sessions: newSessionTable(time.Now()), wake: make(chan struct{}, 1), fetch: make(chan struct{}, 1),
		hint:  sealHintOf(a.acct, c.id.keys.sign),
		links: map[*link]bool{}, dials: map[deviceID]*dialing{}, changed: make(chan struct{})}
	if n.listen == "" {
		n.listen = ":0"
	}
	if n.mux, err = listenUDP(n.listen, false, n.datagram); err != nil {
		return nil, withHint(err, "another program has that port: choose one with -listen, or none for any")
	}
	if err := n.start(addrs); err != nil {
		n.mux.Close()
		return nil, err
	}
	return n, nil
}

func (n *node) start(addrs []netip.AddrPort) error {
	send, recv, err := sealKeys(n.id.path, sealDevice, n.anchor.coordKeys.path, sealCoord)
	if err != nil {
		return err
	}
	n.peers = newPeerTable(n.id, n.acct, n.instance, n.mux)
	if n.hold > 0 {
		n.peers.idle = min(idlePing, n.hold/3)
	}
	n.talk = &coordTalk{
		box:   &sealBox{sendKey: send, recvKey: recv, hint: n.hint, mine: n.instance},
		addrs: addrs, send: n.mux.send, beating: n.beat, serves: n.ssh != nil,
		cands: func() []netip.AddrPort { return localCandidates(n.mux.port()) },
		calls: map[callID]*coordCall{}, rings: map[callID]time.Time{},
		onHead: n.headSeen, onRing: n.rung,
		onRefused: func(m *refuseMsg) { n.logf(0, "coordinator: %v", refusalOf(m, "this machine")) },
	}
	n.tr = &quic.Transport{Conn: n.mux.packetConn(), ConnectionIDLength: 8, DisableVersionNegotiationPackets: true}
	n.listener, err = n.tr.Listen(n.id.tlsConfig(alpnLink, func(publicKeys) error { return nil }), linkQUIC(n.small))
	if err != nil {
		return err
	}
	if err := n.mux.capBuffers(socketBuffer(n.small)); err != nil {
		n.logf(1, "socket buffers: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.running.Go(func() { n.loop(ctx) })
	n.running.Go(func() { n.accept(ctx) })
	n.running.Go(func() { n.fetchLoop(ctx) })
	unwatch := n.trust.watch(func(_, now *trustState) { n.logChanged(ctx, now) })
	context.AfterFunc(ctx, unwatch)
	return nil
}

// socketBuffer is how much the kernel may keep for the socket, in bytes.
func socketBuffer(small bool) int {
	if small {
		return 256 << 10
	}
	return 1 << 20
}

// close ends every link and returns when nothing of the node runs any more.
func (n *node) close() {
	n.mu.Lock()
	n.closed = true
	n.talk.leave()
	n.mu.Unlock()
	for _, l := range n.liveLinks() {
		l.close("closing")
	}
	n.stop()
	n.listener.Close()
	n.running.Wait()
	n.tr.Close()
	n.mux.Close()
}

// spawn runs f in a goroutine that close waits for; not once close has begun.
func (n *node) spawn(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.running.Go(f)
	}
}

// loop ticks whatever is due.
func (n *node) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.wake:
		}
		now := time.Now()
		n.mu.Lock()
		next := earlier(n.talk.tick(now), n.peers.tick(now))
		next = earlier(next, n.tickLinksLocked(now))
		n.mu.Unlock()
		if next.IsZero() {
			next = now.Add(time.Hour)
		}
		timer.Reset(max(time.Until(next), 0))
	}
}

// poke makes the loop look again.
func (n *node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// datagram takes a sealed datagram from the socket.
func (n *node) datagram(b []byte, from udpSource) {
	hint, ok := hintOfDatagram(b)
	if !ok {
		return
	}
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.talk == nil {
		return
	}
	before := n.pathsLocked()
	if hint == n.hint {
		n.fromCoordLocked(now, b, from)
	} else {
		n.peers.handle(now, hint, b, from)
	}
	if n.pathsLocked() != before {
		n.changedLocked()
	}
	n.poke()
}

func (n *node) fromCoordLocked(now time.Time, b []byte, from udpSource) {
	body, err := n.talk.box.recvKey.open(b)
	if err != nil {
		return
	}
	if h, rest, err := parseHead(body); err == nil {
		n.talk.handle(now, h, rest, from)
	}
}

// pathsLocked counts the paths there are.
func (n *node) pathsLocked() (paths int) {
	for _, q := range n.peers.byVirtual {
		if q.finder.best != nil {
			paths++
		}
	}
	return paths
}

// changedLocked wakes whoever waits for a path or a link. n.mu must be held.
func (n *node) changedLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// rung takes an introduction: a client wants in, and its first packets are on
// their way. n.mu is held.
func (n *node) rung(now time.Time, m *ringMsg) {
	if st := n.trust.state(); st != nil {
		if dev, ok := st.deviceByKey(m.keys.sign); ok && (dev.keys.path != m.keys.path || dev.revoked) {
			n.logf(1, "ring from %s dropped: revoked, or with another path key", dev.name)
			return
		}
	}
	q, err := n.peers.proc(now, m.keys, m.instance, false)
	if err != nil {
		n.logf(1, "ring: %v", err)
		return
	}
	q.idleAt = now
	n.sessions.add(now, m.token, m.keys.sign, time.Duration(m.ttl)*time.Second)
	n.logf(2, "ring from %s at %v", m.keys.deviceID(), m.caller)
	q.finder.introduce(now, append([]netip.AddrPort{m.caller}, m.cands...))
}

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

func (n *node) accepted(ctx context.Context, conn *quic.Conn) {
	n.mu.Lock()
	proc := n.peers.ofVirtual(conn.RemoteAddr())
	n.mu.Unlock()
	if proc == nil {
		conn.CloseWithError(quic.ApplicationErrorCode(linkCode("denied")), "")
		return
	}
	l, err := newLink(n, conn, proc, false)
	if err != nil || l.device != proc.keys.deviceID() {
		conn.CloseWithError(quic.ApplicationErrorCode(linkCode("key-mismatch")), "")
		return
	}
	if _, err := n.judge(l.peer, ""); err != nil && codeOf(err) != "unknown-device" {
		n.logf(1, "link from %s refused: %v", l.peerName(), err)
		conn.CloseWithError(quic.ApplicationErrorCode(linkCode(deniedTo(err))), "")
		return
	}
	n.runLink(ctx, l)
}

// runLink serves a link until it ends.
func (n *node) runLink(ctx context.Context, l *link) {
	now := time.Now()
	n.mu.Lock()
	n.links[l] = true
	l.proc.link = l
	n.questionOlderLocked(now, l)
	n.changedLocked()
	n.mu.Unlock()
	n.poke()
	n.logf(1, "link %s with %s is up", l.id, l.peerName())
	if l.dialed {
		n.spawn(func() { l.startExchange(l.conn.Context()) })
	}
	l.serve(ctx)
	if ctx.Err() != nil {
		l.close("closing")
	}
	n.mu.Lock()
	delete(n.links, l)
	if l.proc.link == l {
		l.proc.link, l.proc.idleAt = nil, time.Now()
	}
	n.changedLocked()
	n.mu.Unlock()
	n.logf(1, "link %s with %s has ended: %v", l.id, l.peerName(), l.err())
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
		case l.proc.finder.replaced():
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
		if !l.questioned.IsZero() {
			next = earlier(next, now.Add(500*ms))
		}
	}
	return next
}

// endLinkLocked closes a link without holding the lock for it.
func (n *node) endLinkLocked(l *link, code string) {
	n.running.Go(func() { l.close(code) })
}

// logChanged acts on a new head: peers hear of it, and links of those who may
// no longer be here are closed.
func (n *node) logChanged(ctx context.Context, _ *trustState) {
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

// judge asks the log whether a peer may act in a role now; "" is any role.
func (n *node) judge(keys publicKeys, role string) (signedDevice, error) {
	st, now := n.trust.state(), n.trust.now()
	if role != "" {
		return st.judge(keys, role, now)
	}
	dev, err := st.judge(keys, "client", now)
	if codeOf(err) == "role" {
		return st.judge(keys, "server", now)
	}
	return dev, err
}

func (n *node) deviceOf(id deviceID) (signedDevice, bool) {
	st := n.trust.state()
	if st == nil {
		return signedDevice{}, false
	}
	return st.device(id)
}

// exchangeOn runs one exchange of the log with a peer.
func (n *node) exchangeOn(ctx context.Context, rw exchangeStream, peer publicKeys) error {
	_, err := n.judge(peer, "")
	return runExchange(ctx, rw, n.trust, exchangeOpts{peerKnown: err == nil, strangers: &n.strangers})
}

func (n *node) liveLinks() (out []*link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		out = append(out, l)
	}
	return out
}

// addrsOf returns the addresses of the path that a link takes now.
func (n *node) addrsOf(l *link) (local, remote netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := l.proc.finder
	if f.best == nil {
		return netip.AddrPort{}, netip.AddrPort{}
	}
	if f.best.src.local.IsValid() {
		local = netip.AddrPortFrom(f.best.src.local, n.mux.port())
	}
	return local, f.best.src.addr
}
