package main

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// These tests play recorded datagrams again, from other addresses, and let
// copies of fresh ones overtake them.

// A replayWorld is attic and the laptop with a session over a path through one
// relay, and a coordinator behind another.
type replayWorld struct {
	*testWorld
	coord        *attackCoord
	toCoord      *attackRelay
	toAttic      *attackRelay
	attic        *testMachine
	atticNode    *node
	laptopClient *client
}

func newReplayWorld(t *testing.T) *replayWorld {
	t.Helper()
	c := newAttackCoord(t)
	r := &replayWorld{coord: c, toCoord: newAttackRelay(t, addrPortOf(c.mux.UDPConn.LocalAddr()))}
	r.toCoord.record()
	r.testWorld = newWorldAt(t, c, r.toCoord.addr().String())
	r.attic = r.join("attic")
	r.signDevice(r.attic, "server")
	if err := r.attic.update(); err != nil {
		t.Fatal(err)
	}
	r.atticNode, _ = r.attic.serve()
	r.await(r.attic)
	r.toAttic = newAttackRelay(t, r.atticNode.addr())
	r.toAttic.record()
	c.turn(throughRelay(r.toAttic.addr()))
	r.laptopClient = r.laptop.client()
	r.exchangeHello()
	return r
}

// throughRelay makes the coordinator introduce callers to an address of ours.
func throughRelay(addr netip.AddrPort) attackHooks {
	h := onAnswer(func(m *answerMsg) { m.target, m.cands = addr, []netip.AddrPort{addr} })
	answers := h.datagram
	h.datagram = func(to deviceID, h msgHead, rest []byte) []byte {
		if h.kind == msgRelayed {
			return nil // the ends would tell each other of the way around
		}
		if m, err := parseRing(rest); h.kind == msgRing && err == nil {
			m.caller, m.cands = netip.AddrPort{}, nil
			return m.append(nil)
		}
		return answers(to, h, rest)
	}
	return h
}

// exchangeHello runs a command at attic.
func (r *replayWorld) exchangeHello() {
	r.t.Helper()
	if out, err := r.exec(r.laptopClient, "attic", "echo hello"); out != "hello\n" {
		r.t.Fatalf("got %q, %v", out, err)
	}
}

// A replayStand is what no replay may change.
type replayStand struct {
	atticAt, laptopAt          netip.AddrPort // their paths
	moves, peers, links, rings int
	coordAt, observed          netip.AddrPort // as attic knows it
	presence                   netip.AddrPort // as the coordinator knows attic
	head                       [32]byte
}

func (r *replayWorld) stand() (s replayStand) {
	r.t.Helper()
	best := func(n *node) (addr netip.AddrPort) {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, q := range n.peers.byVirtual {
			if q.finder.best != nil {
				addr = q.finder.best.src.addr
				s.moves += q.finder.moves
			}
		}
		return addr
	}
	s.atticAt, s.laptopAt = best(r.atticNode), best(r.laptopClient.node)
	n := r.atticNode
	n.mu.Lock()
	defer n.mu.Unlock()
	s.peers, s.links, s.rings = len(n.peers.byVirtual), len(n.links), len(n.talk.rings)
	s.coordAt, s.observed = n.talk.at.addr, n.talk.observed
	s.presence = r.coord.presence.status(time.Now(), r.acct(), r.attic.id.keys.deviceID()).addr
	s.head = n.trust.state().head()
	return s
}

// unchanged fails if anything has moved since, or if the session is gone.
func (r *replayWorld) unchanged(was replayStand) {
	r.t.Helper()
	if is := r.stand(); is != was {
		r.t.Errorf("replays have moved\n%+v\nto\n%+v", was, is)
	}
	r.exchangeHello()
}

// Whatever devices have told the coordinator, told again from elsewhere, draws
// one datagram at most, not longer, and moves nobody.
func TestAttackReplaysToTheCoordinator(t *testing.T) {
	t.Parallel()
	r := newReplayWorld(t)
	was := r.stand()
	s := newAttackSocket(t, r.toCoord.target)
	s.markAs(r.attic.id, r.acct(), r.keys, sealCoord)
	kinds := map[bool]int{}
	for range 2 {
		for _, k := range r.toCoord.take() {
			if k.in && isSealed(k.b) {
				s.wantLittle("a datagram of a device", k.b)
				kinds[len(k.b) == maxDatagram]++ // a call, or not
			}
		}
	}
	if kinds[true] == 0 || kinds[false] < 4 {
		t.Errorf("only %v datagrams were recorded", kinds)
	}
	r.unchanged(was)
}

// Whatever the coordinator has told a device, told again from elsewhere, draws
// nothing: no ring is acted on twice, no address of the coordinator is learnt.
func TestAttackReplaysOfTheCoordinator(t *testing.T) {
	t.Parallel()
	r := newReplayWorld(t)
	r.signDevice(r.join("den"), "server") // news
	waitUntil(t, func() bool { return r.attic.trust.state().seq() == 3 })
	was := r.stand()
	s := newAttackSocket(t, r.atticNode.addr())
	s.markAs(r.laptop.id, r.acct(), r.attic.id.keys, sealDevice)
	hint, said := sealHintOf(r.acct(), r.attic.id.keys.sign), 0
	kept := r.toCoord.take()
	for range 2 {
		for _, k := range kept {
			if h, ok := hintOfDatagram(k.b); !k.in && ok && h == hint {
				s.wantNothing("a datagram of the coordinator", k.b)
				said++
			}
		}
	}
	if said < 8 {
		t.Errorf("only %d datagrams were recorded", said)
	}
	r.atticNode.mu.Lock()
	clear(r.atticNode.talk.rings) // a minute later
	r.atticNode.mu.Unlock()
	was.rings = 0
	for _, k := range kept {
		if !k.in && isSealed(k.b) {
			s.wantNothing("a datagram of the coordinator, later", k.b)
		}
	}
	r.unchanged(was)
}

// Whatever passed between two peers, sealed or QUIC's, sent again from
// elsewhere, draws one hello at most and moves no path.
func TestAttackReplaysBetweenPeers(t *testing.T) {
	t.Parallel()
	r := newReplayWorld(t)
	was := r.stand()
	kept := r.toAttic.take()
	atAttic, atLaptop := newAttackSocket(t, r.atticNode.addr()), newAttackSocket(t, r.laptopClient.node.addr())
	atAttic.markAs(r.laptop.id, r.acct(), r.attic.id.keys, sealDevice)
	atLaptop.markAs(r.attic.id, r.acct(), r.laptop.id.keys, sealDevice)
	sealed, plain := 0, 0
	for _, k := range kept {
		s := atLaptop
		if k.in {
			s = atAttic
		}
		if isSealed(k.b) {
			s.wantHello("a datagram of a peer", k.b)
			sealed++
		} else {
			s.wantNothing("a QUIC packet of a peer", k.b)
			plain++
		}
	}
	if sealed < 4 || plain < 10 {
		t.Errorf("only %d sealed datagrams and %d QUIC packets were recorded", sealed, plain)
	}
	r.unchanged(was)
}

// A copy of a fresh datagram overtakes it: the original, which comes second, is
// then the replay. Still nobody believes that its sender has moved.
func TestAttackCopiesOvertakeTheCoordinator(t *testing.T) {
	t.Parallel()
	r := newReplayWorld(t)
	was := r.stand()
	s := newAttackSocket(t, r.atticNode.addr())
	s.markAs(r.laptop.id, r.acct(), r.attic.id.keys, sealDevice)
	overtaken := make(chan struct{}, 64)
	r.toCoord.filter(func(k attackKept) bool {
		if !k.in && isSealed(k.b) && k.seenAs == was.presence {
			s.conn.WriteToUDPAddrPort(k.b, s.to)
			overtaken <- struct{}{}
		}
		return false
	})
	for range 3 { // beats, answered to us
		r.atticNode.mu.Lock()
		r.atticNode.talk.beatSoon()
		r.atticNode.mu.Unlock()
		r.atticNode.poke()
		<-overtaken
		s.settle()
	}
	was.observed = r.stand().observed
	r.unchanged(was)
}

func TestAttackCopiesOvertakeADevice(t *testing.T) {
	t.Parallel()
	r := newReplayWorld(t)
	was := r.stand()
	s := newAttackSocket(t, r.toCoord.target)
	s.markAs(r.attic.id, r.acct(), r.keys, sealCoord)
	overtaken := make(chan []byte, 64)
	r.toCoord.filter(func(k attackKept) bool {
		if k.in && isSealed(k.b) && k.seenAs == was.presence {
			s.conn.WriteToUDPAddrPort(k.b, s.to)
			overtaken <- k.b
		}
		return false
	})
	r.atticNode.mu.Lock()
	r.atticNode.talk.beatSoon()
	r.atticNode.mu.Unlock()
	r.atticNode.poke()
	b := <-overtaken
	for _, reply := range s.settle() {
		if len(reply) != helloLen || len(reply) > len(b) {
			t.Errorf("a copied beat of %d bytes draws %d bytes", len(b), len(reply))
		}
	}
	r.unchanged(was)
}

// An address that sends a copy of a fresh ping before the ping itself gets no
// path, and before it has proved itself no more than three times what it sent.
func TestAttackCopiesOvertakeAPing(t *testing.T) {
	t.Parallel()
	r := newReplayWorld(t)
	was := r.stand()
	s := newAttackSocket(t, r.atticNode.addr())
	s.markAs(r.laptop.id, r.acct(), r.attic.id.keys, sealDevice)
	overtaken := make(chan int, 64)
	ctx, stop := context.WithCancel(t.Context())
	r.toAttic.filter(func(k attackKept) bool {
		if !k.in || !isSealed(k.b) || ctx.Err() != nil {
			return false
		}
		stop() // one is enough
		s.conn.WriteToUDPAddrPort(k.b, s.to)
		overtaken <- len(k.b)
		return true
	})
	n := r.laptopClient.node
	n.mu.Lock()
	for _, q := range n.peers.byVirtual {
		q.finder.question(time.Now())
	}
	n.mu.Unlock()
	sent := <-overtaken
	due := time.After(1500 * time.Millisecond)
	for over := false; !over; {
		select {
		case <-due: // all that attic's schedule has for an address that is new
			over = true
		default:
			s.settle()
		}
	}
	if s.came == 0 || s.came > 3*sent {
		t.Errorf("%d bytes drew %d", sent, s.came)
	}
	r.unchanged(was)
}
