package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// These tests let a coordinator lie about who is where, and let machines stand
// in for others with half of their keys.

// onAnswer makes the hook that changes answers.
func onAnswer(change func(m *answerMsg)) attackHooks {
	return attackHooks{datagram: func(_ deviceID, h msgHead, rest []byte) []byte {
		if h.kind == msgRelayed {
			return nil // a note would set it right
		}
		if m, err := parseAnswer(rest); h.kind == msgAnswer && err == nil {
			change(m)
			return m.append(nil)
		}
		return rest
	}}
}

// noPaths fails if the node has a path or a link to anybody.
func (n *node) noPaths(t *testing.T, who string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pathsLocked() > 0 || len(n.links) > 0 {
		t.Errorf("%s has %d paths and %d links", who, n.pathsLocked(), len(n.links))
	}
}

// An answer that names another process, or addresses where nobody is, leads
// nowhere.
func TestAttackAnswersWithFalseInstanceOrAddresses(t *testing.T) {
	t.Parallel()
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	nowhere := addrPortOf(sink.LocalAddr())
	for name, change := range map[string]func(m *answerMsg){
		"instance":  func(m *answerMsg) { m.instance = newInstanceID() },
		"addresses": func(m *answerMsg) { m.target, m.cands = nowhere, []netip.AddrPort{nowhere} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, c := newAttackWorld(t)
			attic := w.join("attic")
			w.signDevice(attic, "server")
			n, _ := attic.serve()
			w.await(attic)
			hooks := onAnswer(change)
			honest := hooks.datagram
			hooks.datagram = func(to deviceID, h msgHead, rest []byte) []byte {
				if h.kind == msgRing && name == "addresses" {
					return nil // else attic's own pings would open the path
				}
				return honest(to, h, rest)
			}
			c.turn(hooks)
			l := w.laptop.client()
			_, err := l.openSSH(t.Context(), "attic")
			if codeOf(err) != "no-path" && codeOf(err) != "silent" {
				t.Errorf("got %v (%s)", err, codeOf(err))
			}
			l.node.noPaths(t, "the laptop")
			n.noPaths(t, "attic")
			c.turn(attackHooks{})
			if out, err := w.exec(l, "attic", "echo direct"); out != "direct\n" {
				t.Errorf("once it is honest: %q, %v", out, err)
			}
		})
	}
}

// The coordinator answers a call to attic with the whereabouts of den, another
// signed device, and rings den: pings for attic open at attic only.
func TestAttackRedirectionToAnotherSignedDevice(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic, den := w.join("attic"), w.join("den")
	w.signDevice(attic, "server")
	w.signDevice(den, "server")
	if err := errors.Join(attic.update(), den.update()); err != nil {
		t.Fatal(err)
	}
	an, _ := attic.serve()
	dn, log := den.serve()
	w.await(attic)
	w.await(den)
	hooks := onAnswer(func(m *answerMsg) {
		m.instance, m.target, m.cands = dn.instance, dn.addr(), []netip.AddrPort{dn.addr()}
	})
	answers := hooks.datagram
	hooks.datagram = func(to deviceID, h msgHead, rest []byte) []byte {
		if m, err := parseRing(rest); h.kind == msgRing && to == attic.id.keys.deviceID() && err == nil {
			go c.tell(w.acct(), den.id.keys, msgRing, m)
			return nil
		}
		return answers(to, h, rest)
	}
	c.turn(hooks)
	l := w.laptop.client()
	if _, err := l.openSSH(t.Context(), "attic"); codeOf(err) != "no-path" && codeOf(err) != "silent" {
		t.Errorf("got %v (%s)", err, codeOf(err))
	}
	if !strings.Contains(log.String(), "ring from") {
		t.Error("den was not rung: the attack was not tried")
	}
	l.node.noPaths(t, "the laptop")
	an.noPaths(t, "attic")
	dn.noPaths(t, "den")
}

// attackHalf is a machine that has another's path key, and so opens and seals
// its datagrams, but an identity of its own.
func attackHalf(t *testing.T, victim *identity) *identity {
	t.Helper()
	half := presTestIdentity(t)
	half.path, half.keys.path = victim.path, victim.keys.path
	var err error
	if half.cert, err = half.certificate(); err != nil {
		t.Fatal(err)
	}
	half.keys = victim.keys // what its datagrams claim
	return half
}

func TestAttackStolenPathKeyOfADevice(t *testing.T) {
	t.Parallel()
	w, _ := newAttackWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n := attic.serveAs(attackHalf(t, attic.id), &testLog{})
	w.await(attic)
	_, err := w.laptop.client().openSSH(t.Context(), "attic")
	attackDenied(t, "the laptop meets a double", err, "host-key")
	if len(n.liveLinks()) > 0 {
		t.Error("the double has a link")
	}
}

func TestAttackStolenPathKeyOfAClient(t *testing.T) {
	t.Parallel()
	w, _ := newAttackWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n, log := attic.serve()
	w.await(attic)
	thief := &testMachine{w: w, name: "thief", dir: t.TempDir(), id: attackHalf(t, w.laptop.id), trust: w.laptop.trust}
	l, err := thief.link("attic")
	if err == nil {
		err = l.end()
	}
	attackDenied(t, "attic meets a double", err, "key-mismatch")
	if len(n.liveLinks()) > 0 {
		t.Errorf("the double has a link\n%s", log)
	}
}

// link opens a link from a node of the machine's own; who device is it knows
// from the owner.
func (m *testMachine) link(device string) (*link, error) {
	m.w.t.Helper()
	n, err := openNode(context.Background(), nodeConfig{id: m.id, trust: m.trust, listen: "127.0.0.1:0", hold: defaultHold, logf: (&testLog{}).logf})
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.w.t.Cleanup(n.close)
	dev, ok := m.w.trust.state().deviceByName(device)
	if !ok {
		m.w.t.Fatalf("%s is not in the log", device)
	}
	return n.connect(m.w.t.Context(), dev)
}

// end waits until the link has ended, and says why.
func (l *link) end() error {
	select {
	case <-l.conn.Context().Done():
		return l.err()
	case <-time.After(15 * time.Second):
		return errAttackTimeout
	}
}

// A ring with a signing key that the log knows and another path key opens
// nothing: who has that path key stays a stranger, and gets no answer.
func TestAttackRingWithAnotherPathKey(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n, log := attic.serve()
	w.await(attic)
	s := newAttackSocket(t, n.addr())
	evil := presTestIdentity(t)
	ring := ringMsg{call: callID{1}, token: attackToken(), ttl: 60, instance: newInstanceID(), caller: s.addr(),
		keys: publicKeys{w.laptop.id.keys.sign, evil.keys.path}}
	c.tell(w.acct(), attic.id.keys, msgRing, &ring)
	waitUntil(t, func() bool { return strings.Contains(log.String(), "ring from laptop dropped") })
	// The laptop itself is introduced: its marks are answered.
	ring.call, ring.instance, ring.caller, ring.keys = callID{2}, newInstanceID(), netip.AddrPort{}, w.laptop.id.keys
	c.tell(w.acct(), attic.id.keys, msgRing, &ring)
	s.markAs(w.laptop.id, w.acct(), attic.id.keys, sealDevice)
	s.settle()
	send, _, err := sealKeys(evil.path, sealDevice, attic.id.keys.path, sealDevice)
	if err != nil {
		t.Fatal(err)
	}
	x := sealBox{sendKey: send, hint: sealHintOf(w.acct(), w.laptop.id.keys.sign), mine: newInstanceID(), theirs: n.instance}
	for range 3 {
		ping, _ := x.pack(msgPing, &pingMsg{nonce: 1}, maxDatagram)
		s.wantNothing("a ping by who is not the laptop", ping)
	}
}

// The coordinator says that attic has a new process, while a link is looking
// for its path. Only attic's own word ends the link: it finds its path again.
func TestAttackAnswersWithAFalseInstanceEndNoLink(t *testing.T) {
	t.Parallel()
	r := newReplayWorld(t)
	links := r.laptopClient.node.liveLinks()
	if len(links) != 1 {
		t.Fatalf("%d links", len(links))
	}
	l := links[0]
	lied := make(chan struct{}, 16)
	r.coord.turn(onAnswer(func(m *answerMsg) {
		m.instance = newInstanceID()
		lied <- struct{}{}
	}))
	r.toAttic.filter(func(attackKept) bool { return true })
	n := r.laptopClient.node
	n.mu.Lock()
	l.proc.finder.lose(time.Now())
	n.mu.Unlock()
	n.poke()
	<-lied // the link has asked to be introduced again
	go r.laptopClient.openSSH(t.Context(), "attic")
	<-lied // and so has a verb
	r.toAttic.filter(nil)
	waitUntil(t, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return l.proc.finder.best != nil || l.conn.Context().Err() != nil
	})
	r.exchangeHello()
	if err := l.conn.Context().Err(); err != nil {
		t.Errorf("the link has ended: %v", l.err())
	}
}
