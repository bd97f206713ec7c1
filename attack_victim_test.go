//go:build linux

package main

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// These tests have a device pointed at somebody who has nothing to do with it,
// by whoever is not a device of the log: no more than three small packets in a
// minute may come of it.

// A pathVictim is one address with some ports.
type pathVictim struct {
	t     testing.TB
	socks []*net.UDPConn
}

func newPathVictim(t testing.TB, ports int) *pathVictim {
	t.Helper()
	v := &pathVictim{t: t}
	for range ports {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 66)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		v.socks = append(v.socks, c)
	}
	return v
}

func (v *pathVictim) addrs() (out []netip.AddrPort) {
	for _, c := range v.socks {
		out = append(out, addrPortOf(c.LocalAddr()))
	}
	return out
}

// got counts what has come: loopback delivers before a write returns.
func (v *pathVictim) got() (packets, largest int) {
	b := make([]byte, 2048)
	for _, c := range v.socks {
		for {
			c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			n, err := c.Read(b)
			if err != nil {
				break
			}
			packets, largest = packets+1, max(largest, n)
		}
	}
	return packets, largest
}

func (v *pathVictim) spared(what string) {
	v.t.Helper()
	if packets, largest := v.got(); packets > maxUnvouched || largest > 100 {
		v.t.Errorf("%s: the victim gets %d packets of up to %d bytes", what, packets, largest)
	} else {
		v.t.Logf("%s: %d packets of up to %d bytes", what, packets, largest)
	}
}

// A pathTarget is attic, whose clock for paths the test moves.
type pathTarget struct {
	*testWorld
	coord *attackCoord
	attic *testMachine
	node  *node
	now   time.Time
}

func newPathTarget(t *testing.T) *pathTarget {
	t.Helper()
	w, c := newAttackWorld(t)
	p := &pathTarget{testWorld: w, coord: c, attic: w.join("attic"), now: time.Now()}
	w.signDevice(p.attic, "server")
	if err := p.attic.update(); err != nil {
		t.Fatal(err)
	}
	p.node, _ = p.attic.serve()
	w.await(p.attic)
	return p
}

// do calls f with the node's lock held.
func (p *pathTarget) do(f func()) {
	p.node.mu.Lock()
	defer p.node.mu.Unlock()
	f()
}

// pass lets time pass for the paths.
func (p *pathTarget) pass(d time.Duration) {
	for end := p.now.Add(d); p.now.Before(end); p.now = p.now.Add(10 * ms) {
		p.do(func() { p.node.peers.tick(p.now) })
	}
}

// A pathPeer is a process with somebody's keys, as attic may know it.
type pathPeer struct {
	p   *pathTarget
	id  *identity
	box *sealBox
}

func (p *pathTarget) peer(id *identity) *pathPeer {
	p.t.Helper()
	send, _, err := sealKeys(id.path, sealDevice, p.attic.id.keys.path, sealDevice)
	if err != nil {
		p.t.Fatal(err)
	}
	return &pathPeer{p, id, &sealBox{sendKey: send, hint: sealHintOf(p.acct(), id.keys.sign), mine: newInstanceID(), theirs: p.node.instance}}
}

// ring has the coordinator introduce it at addresses.
func (e *pathPeer) ring(at netip.AddrPort, cands ...netip.AddrPort) {
	m := ringMsg{token: attackToken(), ttl: 60, instance: e.box.mine, caller: at, cands: cands, keys: e.id.keys}
	e.p.do(func() { e.p.node.rung(e.p.now, &m) })
}

func (e *pathPeer) note(m noteMsg) []byte {
	b, _ := e.box.pack(msgNote, &m, 0)
	return b
}

// relay has the coordinator hand a note on, as from an address.
func (e *pathPeer) relay(observed netip.AddrPort, note []byte) {
	e.p.do(func() { e.p.node.relayed(e.p.now, &relayedMsg{observed, note}) })
}

// ping has a ping come from an address that need not be the peer's.
func (e *pathPeer) ping(from netip.AddrPort, m pingMsg) []byte {
	b, _ := e.box.pack(msgPing, &m, 0)
	e.come(from, b)
	return b
}

func (e *pathPeer) come(from netip.AddrPort, b []byte) {
	hint, _ := hintOfDatagram(b)
	e.p.do(func() { e.p.node.peers.handle(e.p.now, hint, b, udpSource{addr: from}) })
}

// Rings without end name one victim: other calls, keys, processes and ports of
// it each time.
func TestAttackVictimOfRings(t *testing.T) {
	t.Parallel()
	p, v := newPathTarget(t), newPathVictim(t, maxCandidates+1)
	a := v.addrs()
	for i := range 60 {
		e := p.peer(p.laptop.id)
		if i%2 == 0 {
			e = p.peer(presTestIdentity(t))
		}
		e.ring(a[i%len(a)], a...)
		p.pass(900 * ms)
	}
	v.spared("60 rings in a minute")
}

// The coordinator takes a device's true notes and says that each came from the
// victim.
func TestAttackVictimOfRelays(t *testing.T) {
	t.Parallel()
	p, v := newPathTarget(t), newPathVictim(t, 8)
	e := p.peer(p.laptop.id)
	e.ring(netip.AddrPort{})
	home := addrList("127.0.0.9:9")
	for i := range 40 {
		e.relay(v.addrs()[i%8], e.note(noteMsg{nonce: uint64(1 + i/8), moved: true, addrs: home}))
		p.pass(time.Second)
	}
	v.spared("40 notes said to be the victim's")
}

// What a stranger's notes name is nobody's word, hard NATs included; a device's
// note has ports sprayed.
func TestAttackVictimOfNotes(t *testing.T) {
	t.Parallel()
	p, v := newPathTarget(t), newPathVictim(t, 4)
	note := noteMsg{nonce: 1, moved: true, nat: natKind{kind: natBlock, low: v.addrs()[0].Port(), high: v.addrs()[0].Port() + 9}, addrs: v.addrs()}
	e := p.peer(presTestIdentity(t))
	e.ring(v.addrs()[0])
	for i := range 8 {
		note.nonce++
		e.relay(v.addrs()[i%4], e.note(note))
		p.pass(time.Second)
	}
	v.spared("a stranger's notes")
	p.pass(time.Minute)
	v.got()
	known := p.peer(p.laptop.id)
	known.ring(netip.AddrPort{})
	known.relay(netip.AddrPort{}, known.note(note))
	p.pass(2 * time.Second)
	if packets, _ := v.got(); packets < 100 {
		t.Errorf("%d packets: nothing is sprayed at the word of a device either", packets)
	}
}

// Notes replayed, for another process, of a revoked device, or that are none,
// change nothing.
func TestAttackNotesThatDoNotCount(t *testing.T) {
	t.Parallel()
	p, v := newPathTarget(t), newPathVictim(t, 1)
	phone := p.join("phone")
	p.signDevice(phone, "client")
	if err := p.attic.update(); err != nil {
		t.Fatal(err)
	}
	e := p.peer(phone.id)
	e.ring(netip.AddrPort{})
	theirs := func() (nonce uint64, tries int) {
		p.do(func() {
			q := p.node.peers.byHint[e.box.hint].procs[e.box.mine]
			nonce = q.note.theirs
			for k := range q.finder.tries {
				if k.sock == 0 { // a slow machine tries them from a fresh socket too
					tries++
				}
			}
		})
		return nonce, tries
	}
	first := e.note(noteMsg{nonce: 1, addrs: addrList("127.0.0.9:9")})
	second := e.note(noteMsg{nonce: 2, addrs: addrList("127.0.0.9:10")})
	old := e.note(noteMsg{nonce: 3, addrs: v.addrs()})
	for range 100 {
		e.box.pack(msgNote, &noteMsg{}, 0) // never come
	}
	newest := e.note(noteMsg{nonce: 4, addrs: addrList("127.0.0.9:11")})
	e.relay(netip.AddrPort{}, second)
	e.relay(netip.AddrPort{}, first) // late, and counts
	e.relay(netip.AddrPort{}, newest)
	was, tries := theirs()
	if was != 4 || tries != 3 {
		t.Fatalf("note %d, %d addresses", was, tries)
	}
	elsewhere := p.peer(phone.id)
	elsewhere.box.mine, elsewhere.box.theirs = e.box.mine, newInstanceID()
	elsewhere.box.counter = 1000
	ping, _ := e.box.pack(msgPing, &pingMsg{nonce: 9}, 0)
	long, _ := e.box.pack(msgNote, &noteMsg{nonce: 5, addrs: v.addrs()}, maxRelayed+1)
	for what, b := range map[string][]byte{"replayed": first, "replayed newest": newest, "older than the window": old,
		"for another process": elsewhere.note(noteMsg{nonce: 6, addrs: v.addrs()}), "a ping": ping, "nothing": nil} {
		e.relay(v.addrs()[0], b)
		if now, n := theirs(); now != was || n != tries {
			t.Errorf("%s: note %d, %d addresses", what, now, n)
		}
	}
	if _, err := parseRelayed((&relayedMsg{v.addrs()[0], long}).append(nil)); err == nil {
		t.Error("an oversized note is read")
	}
	text, err := buildDeviceRevoke(p.trust.state(), []deviceID{phone.id.keys.deviceID()}, "lost", time.Now())
	p.publish(text, err)
	if err := p.attic.update(); err != nil {
		t.Fatal(err)
	}
	e.relay(v.addrs()[0], e.note(noteMsg{nonce: 7, addrs: v.addrs()}))
	if now, n := theirs(); now != was || n != tries {
		t.Errorf("of a revoked device: note %d, %d addresses", now, n)
	}
	p.pass(5 * time.Second)
	if packets, _ := v.got(); packets > 0 {
		t.Errorf("the victim got %d packets", packets)
	}
}

// A stranger sends true pings in the victim's name, and the coordinator has
// named the victim before: nothing but three small packets goes there, no
// packet of QUIC either.
func TestAttackVictimOfSpoofedPings(t *testing.T) {
	t.Parallel()
	p, v := newPathTarget(t), newPathVictim(t, 4)
	for _, named := range []bool{false, true} {
		for i := range 10 {
			e := p.peer(presTestIdentity(t))
			if named {
				e.ring(v.addrs()[0], v.addrs()...)
			} else {
				e.ring(netip.AddrPort{})
			}
			for range 10 {
				e.ping(v.addrs()[i%4], pingMsg{nonce: 1, moved: i%2 == 0})
			}
			p.do(func() {
				q := p.node.peers.byHint[e.box.hint].procs[e.box.mine]
				p.node.mux.writePeer(q.udp, make([]byte, maxDatagram), udpMeta{}) // QUIC's answer to an Initial
			})
			p.pass(time.Second)
		}
		v.spared("pings in its name")
		p.pass(time.Minute)
		v.got()
	}
}

// A ping that says "I have moved here", copied and sent from elsewhere.
func TestAttackMovedPingFromAnotherSource(t *testing.T) {
	t.Parallel()
	p, v := newPathTarget(t), newPathVictim(t, 2)
	e := p.peer(p.laptop.id)
	e.ring(netip.AddrPort{})
	at := v.addrs()[0]
	b := e.ping(at, pingMsg{nonce: 7, moved: true})
	e.come(v.addrs()[1], b)
	p.do(func() {
		f := p.node.peers.byHint[e.box.hint].procs[e.box.mine].finder
		if len(f.tries) != 1 || f.tries[udpKey{0, at}] == nil || f.best != nil {
			t.Errorf("%d addresses, path %v", len(f.tries), f.best)
		}
	})
}

// A coordinator that has named the whole world does not keep a device's own word
// from being acted on.
func TestAttackBudgetFilledUp(t *testing.T) {
	t.Parallel()
	p, v := newPathTarget(t), newPathVictim(t, 1)
	p.do(func() {
		for i := range 2 * maxBudgets {
			p.node.peers.unvouched.take(p.now, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
		}
		if n := len(p.node.peers.unvouched); n > maxBudgets {
			t.Errorf("%d addresses are counted", n)
		}
	})
	e := p.peer(p.laptop.id)
	e.ring(v.addrs()[0])
	p.pass(time.Second)
	if packets, _ := v.got(); packets > 0 {
		t.Errorf("%d pings on the coordinator's word", packets)
	}
	e.relay(v.addrs()[0], e.note(noteMsg{nonce: 1, addrs: v.addrs()}))
	p.pass(time.Second)
	if packets, _ := v.got(); packets == 0 {
		t.Error("no ping on the device's own word")
	}
	p.pass(budgetFor)
	p.do(func() {
		if !p.node.peers.unvouched.take(p.now, v.addrs()[0].Addr().Next()) {
			t.Error("the table stays full")
		}
	})
}

// Echoes that nobody asked for, and others' nonces, say nothing of where we are.
func TestAttackForgedEchoes(t *testing.T) {
	t.Parallel()
	p := newPathTarget(t)
	lie := addrList("127.0.0.66:66")[0]
	waitUntil(t, func() (done bool) {
		p.do(func() { done = p.node.nat.waits == 0 && len(p.node.talk.echoes) == 0 })
		return done
	})
	p.do(func() {
		seen, kind := p.node.nat.seen, p.node.nat.kind
		for nonce := range uint64(50) {
			p.node.talk.echoed(p.now, (&echoAckMsg{nonce, lie}).append(nil), udpSource{})
		}
		p.node.talk.echoed(p.now, nil, udpSource{})
		if p.node.nat.seen != seen || p.node.nat.kind != kind {
			t.Errorf("seen at %v", p.node.nat.seen)
		}
	})
}

// The coordinator answers a call with the victim's ports: one of them gets the
// first flight, as the device would have, and no more. Once there is a link the
// victim gets nothing of it.
func TestAttackVictimOfAnswers(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	attic.serve()
	w.await(attic)
	l, err := w.laptop.link("attic")
	if err != nil {
		t.Fatal(err)
	}
	n, v := l.owner.(*node), newPathVictim(t, maxCandidates)
	n.mu.Lock()
	now := time.Now()
	l.proc.finder.lose(now)
	n.recalledLocked(now, l, &answerMsg{instance: l.proc.instance, target: v.addrs()[0], cands: v.addrs()})
	n.mux.writePeer(l.proc.udp, make([]byte, maxDatagram), udpMeta{})
	n.mu.Unlock()
	waitUntil(t, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return l.proc.finder.best != nil
	})
	v.spared("an answer while a link looks for its path")

	first := newPathVictim(t, maxCandidates)
	hooks := onAnswer(func(m *answerMsg) { m.target, m.cands = first.addrs()[0], first.addrs() })
	answers := hooks.datagram
	hooks.datagram = func(to deviceID, h msgHead, rest []byte) []byte {
		if h.kind == msgRing || h.kind == msgRelayed {
			return nil
		}
		return answers(to, h, rest)
	}
	c.turn(hooks)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	if _, err := w.laptop.client().openSSH(ctx, "attic"); err == nil {
		t.Fatal("there is a link")
	}
	flown := 0
	for _, sock := range first.socks {
		one := &pathVictim{t, []*net.UDPConn{sock}}
		packets, largest := one.got()
		if largest > 100 {
			flown++
		}
		if packets > maxUnvouched+flightCredit/maxDatagram {
			t.Errorf("one port gets %d packets", packets)
		}
	}
	if flown != 1 {
		t.Errorf("%d ports get the first flight", flown)
	}
}
