package main

// This file starts a node, runs it and ends it: the walk of a datagram from
// the socket to who it is for, and of a ring to the first ping.

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

// openNode opens the socket and starts to listen for links.
func openNode(ctx context.Context, c nodeConfig) (*node, error) {
	a, ok := c.trust.anchor()
	if !ok {
		return nil, withHint(errors.New("this machine belongs to no account yet"), "run: sessio join TICKET")
	}
	addrs, err := resolveCoord(ctx, a.coordAddr)
	if err != nil && !c.beat {
		return nil, err
	}
	if err != nil { // at boot the resolver may not be up yet: resolveLoop goes on
		c.logf(0, "%v; trying again", err)
	}
	n := &node{nodeConfig: c, acct: a.acct, anchor: a, instance: newInstanceID(), small: smallMemory(),
		sessions: newSessionTable(time.Now()), wake: make(chan struct{}, 1), fetch: make(chan struct{}, 1),
		hint:  sealHintOf(a.acct, c.id.keys.sign),
		links: map[*link]bool{}, dials: map[deviceID]*dialing{}, halfOpen: map[*halfOpen]bool{}, changed: make(chan struct{})}
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

// setHold is for links that live already, too.
func (n *node) setHold(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setHoldLocked(d)
}

// setHoldLocked is setHold. n.mu must be held, or nobody else know n.
func (n *node) setHoldLocked(d time.Duration) {
	n.hold = d
	n.peers.idle = idlePing
	if d > 0 {
		n.peers.idle = min(idlePing, d/3)
	}
}

func (n *node) start(addrs []netip.AddrPort) error {
	send, recv, err := sealKeys(n.id.path, sealDevice, n.anchor.coordKeys.path, sealCoord)
	if err != nil {
		return err
	}
	n.peers = newPeerTable(n.id, n.acct, n.instance, n.mux)
	n.setHoldLocked(n.hold)
	n.talk = &coordTalk{
		box:   &sealBox{sendKey: send, recvKey: recv, hint: n.hint, mine: n.instance},
		addrs: addrs, send: n.mux.send, beating: n.beat, serves: n.ssh != nil,
		cands: n.candidates,
		calls: map[callID]*coordCall{}, rings: map[callID]time.Time{}, left: map[instanceID]replayWindow{}, echoes: map[uint64]*echoCall{},
		onHead: n.headSeen, onRing: n.rung, onRelayed: n.relayed,
		onPlace:   n.placed,
		onRefused: func(m *refuseMsg) { n.logf(0, "coordinator: %v", refusalOf(m, "this machine")) },
	}
	n.nat = &natFinder{echo: n.talk.echo, openSock: n.mux.openSock, closeSock: n.mux.closeSock, changed: n.natChanged, versions: n.talk.versions}
	n.peers.logf, n.peers.small = n.logf, n.small
	n.peers.known = func(keys publicKeys) bool {
		_, err := n.judge(keys, "")
		return err == nil
	}
	if n.ssh != nil {
		n.peers.member = n.memberOf
		n.sessions.used, n.talk.uses, n.talk.running = n.poke, n.sessions.uses.Load, n.runningSessions
		n.talk.onEnd = n.endSessions
	}
	n.peers.onHello = n.helloLocked
	n.peers.observe = func(now time.Time, sock int, seen func(time.Time, netip.AddrPort)) {
		n.talk.echo(now, echoCall{sock: sock, seen: seen})
	}
	n.mux.stir = n.poke
	n.tr = &quic.Transport{Conn: n.mux.packetConn(), ConnectionIDLength: 8, DisableVersionNegotiationPackets: true, ConnContext: n.connContext}
	conf := linkQUIC(n.small)
	conf.GetConfigForClient = n.quicFor
	n.listener, err = n.tr.Listen(n.id.tlsConfig(alpnLink, func(publicKeys) error { return nil }), conf)
	if err != nil {
		return err
	}
	if err := n.mux.capBuffers(socketBuffer(n.small)); err != nil {
		n.logf(1, "socket buffers: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n.life, n.stop = ctx, stop
	n.running.Go(func() { n.loop(ctx) })
	n.running.Go(func() { n.accept(ctx) })
	n.running.Go(func() { n.fetchLoop(ctx) })
	n.running.Go(func() { n.resolveLoop(ctx) })
	n.running.Go(func() { n.watchLoop(ctx) })
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
	links := n.liveLinks()
	for _, l := range links {
		l.close("closing")
	}
	n.stop()
	n.listener.Close()
	n.running.Wait()
	for _, l := range links {
		n.mux.lastWord(l.proc.udp)
	}
	n.tr.Close()
	n.mux.Close()
}

// loop ticks whatever is due.
func (n *node) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var sleep sleepWatch
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.wake:
		}
		now := time.Now()
		if sleep.woke(now) {
			n.roam(now, "the machine has slept")
		}
		n.mu.Lock()
		if n.nat.due(now, n.talk.known(now)) {
			n.nat.start(now, false)
		}
		before := n.pathsLocked()
		next := earlier(n.talk.tick(now), n.peers.tick(now))
		if n.pathsLocked() != before {
			n.changedLocked()
		}
		next = earlier(next, n.tickLinksLocked(now))
		next = earlier(next, n.tickNotesLocked(now))
		n.mu.Unlock()
		if next.IsZero() {
			next = now.Add(time.Hour)
		}
		timer.Reset(max(time.Until(next), 0))
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
	q.finder.introduce(now, m.caller, m.cands)
	n.tellLocked(now, q)
}
