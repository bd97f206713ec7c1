package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

// These tests keep a device in the dark: the coordinator introduces everybody
// to it and withholds every new record.

// darkFor withholds from some devices all records but those of log.
func (c *attackCoord) darkFor(w *testWorld, log [][]byte, dark ...*testMachine) attackHooks {
	honest := c.servesLog(w, func(all [][]byte) [][]byte { return all })
	held := c.servesLog(w, func([][]byte) [][]byte { return log })
	kept := func(id deviceID) bool {
		return slices.ContainsFunc(dark, func(m *testMachine) bool { return m.id.keys.deviceID() == id })
	}
	return attackHooks{
		reply: func(peer *coordPeer, op byte, reply, asked []byte) []byte {
			if kept(peer.keys.deviceID()) {
				return held.reply(peer, op, reply, asked)
			}
			return honest.reply(peer, op, reply, asked)
		},
		datagram: func(to deviceID, h msgHead, rest []byte) []byte {
			switch {
			case !kept(to):
				return rest
			case h.kind == msgNews:
				return nil
			}
			return attackOldHead(h, rest, log)
		},
	}
}

// A device with yesterday's log lets a freshly signed client in: it brings its
// own record.
func TestAttackWithheldRecordsKeepNoFreshClientOut(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic, phone := w.join("attic"), w.join("phone")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	c.turn(c.darkFor(w, c.log(w.acct()), attic))
	_, log := attic.serve()
	w.await(attic)
	w.signDevice(phone, "client")
	if err := phone.update(); err != nil {
		t.Fatal(err)
	}
	if attic.update(); attic.names() != "attic laptop" {
		t.Fatalf("the coordinator has not withheld the record: %s", attic.names())
	}
	if out, err := w.exec(phone.client(), "attic", "echo in"); out != "in\n" {
		t.Errorf("got %q, %v\n%s", out, err, log)
	}
	if attic.names() != "attic laptop phone" {
		t.Errorf("attic has %s", attic.names())
	}
}

// A device that is kept in the dark about a revocation learns it from the first
// peer that knows, ends what the revoked client has open, and keeps it out.
func TestAttackWithheldRevocationIsBroughtByAnyPeer(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic, phone := w.join("attic"), w.join("phone")
	w.signDevice(attic, "server")
	w.signDevice(phone, "client")
	for _, m := range []*testMachine{attic, phone} {
		if err := m.update(); err != nil {
			t.Fatal(err)
		}
	}
	c.turn(c.darkFor(w, c.log(w.acct()), attic, phone))
	_, log := attic.serve()
	w.await(attic)
	text, err := buildDeviceRevoke(w.trust.state(), []deviceID{phone.id.keys.deviceID()}, "stolen", time.Now())
	w.publish(text, err)
	p := phone.client()
	pipe, err := p.openSSH(t.Context(), "attic")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := w.exec(p, "attic", "echo still in"); out != "still in\n" {
		t.Fatalf("attic cannot know yet, and says %q, %v\n%s", out, err, log)
	}
	// The laptop knows. It need not even enter: the link is enough.
	if _, err := w.laptop.client().openSSH(t.Context(), "attic"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-pipe.lost:
		attackDenied(t, "the phone's link", pipe.reason(), "revoked")
	case <-time.After(10 * time.Second):
		t.Fatalf("the phone is still in\n%s", log)
	}
	// By the path that is still open, without a ring, it gets no further.
	dev, _ := w.trust.state().deviceByName("attic")
	attackDenied(t, "dialling again", p.node.dialAgain(t, dev), "revoked")
	// Nor by a new introduction.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go phone.client().openSSH(ctx, "attic")
	waitUntil(t, func() bool { return strings.Contains(log.String(), "ring from phone dropped") })
}

// dialAgain dials the process that the node has had a link to, unasked.
func (n *node) dialAgain(t *testing.T, dev signedDevice) error {
	t.Helper()
	n.mu.Lock()
	var q *peerProc
	for _, p := range n.peers.byVirtual {
		if p.keys.deviceID() == dev.id {
			q = p
		}
	}
	n.mu.Unlock()
	if q == nil {
		t.Fatal("the path is gone")
	}
	l, err := n.dialQUIC(t.Context(), dev, q)
	if err != nil {
		return err
	}
	return l.end()
}
