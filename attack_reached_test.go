package main

import (
	"math/rand/v2"
	"testing"
	"time"
)

// These tests ping a device that nobody has introduced the sender to.

// A reachSocket seals pings as a process of a machine would.
type reachSocket struct {
	*attackSocket
	box sealBox
}

// newReachSocket has marks of a machine that the node knows.
func newReachSocket(t *testing.T, from *testMachine, to *node, marks *testMachine) *reachSocket {
	t.Helper()
	send, recv, err := sealKeys(from.id.path, sealDevice, to.id.keys.path, sealDevice)
	if err != nil {
		t.Fatal(err)
	}
	s := &reachSocket{attackSocket: newAttackSocket(t, to.addr())}
	s.markAs(marks.id, to.acct, to.id.keys, sealDevice)
	s.box = sealBox{sendKey: send, recvKey: recv, hint: sealHintOf(to.acct, from.id.keys.sign), mine: newInstanceID(), theirs: to.instance}
	return s
}

func (s *reachSocket) ping() []byte {
	b, _ := s.box.pack(msgPing, &pingMsg{nonce: rand.Uint64()}, 0)
	return b
}

func TestAttackPingsWithoutIntroduction(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	attic, den, stranger := w.join("attic"), w.join("den"), w.join("stranger")
	w.signDevice(attic, "server")
	w.signDevice(den, "client")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n, _ := attic.serve()
	waitUntil(t, func() bool { return n.trust.state().seq() >= 3 })

	s := newReachSocket(t, den, n, w.laptop)
	first := s.ping()
	if got := s.drawn(first); len(got) == 0 {
		t.Fatalf("a machine of the log draws %d datagrams", len(got))
	}
	s.wantLittle("its ping again", first)

	unknown := newReachSocket(t, stranger, n, w.laptop)
	unknown.wantNothing("a machine that nobody has signed", unknown.ping())

	// the process ends, is forgotten, and its ping is played again
	n.mu.Lock()
	p := n.peers.byHint[s.box.hint]
	n.peers.forget(p, s.box.mine)
	n.mu.Unlock()
	newReachSocket(t, den, n, w.laptop).wantNothing("a ping of a process that has ended", first)

	// thrown out, it draws nothing any more
	w.publish(w.laptop.trust.state().build(opDeviceRevoke{[]deviceID{den.id.keys.deviceID()}, "lost"}, time.Now()))
	waitUntil(t, func() bool { _, err := n.judge(den.id.keys, ""); return codeOf(err) == "revoked" })
	late := newReachSocket(t, den, n, w.laptop)
	late.wantNothing("a revoked machine", late.ping())
}

// A machine that may be entered by nobody answers nobody whom it did not ask.
func TestAttackPingsAtAClient(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	den := w.join("den")
	w.signDevice(den, "client")
	c := w.laptop.client()
	n, err := c.ownNode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	_, err = n.peers.proc(time.Now(), den.id.keys, newInstanceID(), false) // as by an introduction
	n.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s := newReachSocket(t, den, n, den)
	s.wantNothing("a machine of the log, at one that serves nobody,", s.ping())
}
