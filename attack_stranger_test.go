package main

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// These tests bring machines that nobody has signed to a device, by a
// coordinator that introduces them all the same.

// attackStranger is a machine that no log knows and that has none; the
// coordinator treats it as a member.
func attackStranger(w *testWorld, c *attackCoord) *testMachine {
	w.t.Helper()
	m := w.machine("evil")
	if err := m.trust.setAnchor(anchor{acct: w.acct(), coordAddr: w.word.addr, coordKeys: w.keys}); err != nil {
		w.t.Fatal(err)
	}
	c.admit(w.acct(), m.id.keys)
	return m
}

// A machine that the log does not know gets a link, for the exchange of the log
// that may make it known, and on it nothing else: no session, no answer to a
// control request, no record.
func TestAttackStrangerMayOnlyExchangeTheLog(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n, log := attic.serve()
	w.await(attic)
	evil := attackStranger(w, c)
	token := make(chan sessionToken, 1)
	c.turn(onAnswer(func(m *answerMsg) { token <- m.token }))
	l, err := evil.link("attic")
	if err != nil {
		t.Fatalf("no link to exchange the log by: %v\n%s", err, log)
	}
	// Each try on a link of its own: attic may end one that brings nothing.
	l.setToken(time.Now(), <-token, 0, 0)
	_, err = l.trySSH()
	attackDenied(t, "a session", err, "denied")
	c.turn(attackHooks{})
	if l, err = evil.link("attic"); err != nil {
		t.Fatal(err)
	}
	attackDenied(t, "asking for a token", l.askControl(t.Context(), controlSession, make([]byte, 20)), "denied")
	attackDenied(t, "the link, when nothing came of the exchange", l.end(), "denied")
	if evil.trust.state() != nil {
		t.Errorf("the stranger has read %d records", evil.trust.state().seq()+1)
	}
	if n.sessions.inUse() > 0 {
		t.Error("a session is in use")
	}
}

// trySSH opens an SSH stream and reads from it.
func (l *link) trySSH() (banner string, err error) {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	s, err := l.openSSH(ctx)
	if err != nil {
		return "", err
	}
	defer s.Close()
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 64)
	k, err := s.Read(b)
	return string(b[:k]), err
}

// inUse is how many connections are counted now.
func (t *sessionTable) inUse() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

// Links of machines that the log does not know are few, and each ends once it
// has had its chance to bring records.
func TestAttackStrangersHoldFewLinks(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n, _ := attic.serve()
	w.await(attic)
	evil := attackStranger(w, c)
	for range 2 * maxStrangerLinks {
		if l, err := evil.link("attic"); err == nil {
			defer l.close("closing")
		}
		if held := len(n.liveLinks()); held > maxStrangerLinks {
			t.Fatalf("strangers hold %d links", held)
		}
	}
	waitUntil(t, func() bool { return len(n.liveLinks()) == 0 })
	if out, err := w.exec(w.laptop.client(), "attic", "echo in"); out != "in\n" {
		t.Errorf("the laptop: %q, %v", out, err)
	}
}

// A coordinator that rings without end, with keys that nobody has signed,
// neither fills memory nor stands in the way of who is signed.
func TestAttackEndlessRings(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n, _ := attic.serve()
	w.await(attic)
	for i := range 300 {
		keys := presTestIdentity(t).keys
		ring := ringMsg{call: callID{byte(i), byte(i >> 8), 1}, token: attackToken(), keys: keys, instance: newInstanceID(),
			caller: netip.MustParseAddrPort("127.0.0.1:9")}
		c.tell(w.acct(), attic.id.keys, msgRing, &ring)
	}
	n.mu.Lock()
	peers := len(n.peers.byHint)
	later := time.Now().Add(procLinger + time.Second)
	n.peers.tick(later)
	left := len(n.peers.byHint)
	n.mu.Unlock()
	if peers == 0 || peers > maxRings {
		t.Errorf("%d peers are known by their rings", peers)
	}
	if left > 0 {
		t.Errorf("%d peers are remembered for ever", left)
	}
	c.turn(attackHooks{})
	n.mu.Lock()
	clear(n.talk.rings) // a minute later
	n.mu.Unlock()
	if out, err := w.exec(w.laptop.client(), "attic", "echo in"); out != "in\n" {
		t.Errorf("the laptop: %q, %v", out, err)
	}
}

// What the coordinator says of a session's life may shorten it only, and tokens
// that nobody uses give way to new ones.
func TestAttackRingsWithEndlessSessions(t *testing.T) {
	t.Parallel()
	now := time.Now()
	owner := presTestIdentity(t).keys.sign
	for _, ttl := range []time.Duration{0, tokenTTL + time.Second, 1 << 62} {
		s, token := newSessionTable(now), attackToken()
		s.add(now, token, owner, ttl)
		if _, err := s.take(now.Add(tokenTTL-time.Second), token, owner); err != nil {
			t.Errorf("of %v: %v within its life", ttl, err)
		}
		_, err := s.take(now.Add(tokenTTL), token, owner)
		attackDenied(t, "after its life", err, "token-expired")
	}
	s := newSessionTable(now)
	used := attackToken()
	s.add(now, used, owner, time.Second)
	lease, err := s.take(now, used, owner)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.release()
	for range maxTokens + 10 {
		s.add(now, attackToken(), attackAnybody, 0)
	}
	if _, err := s.take(now, s.make(now, owner), owner); err != nil {
		t.Errorf("a new token among %d: %v", maxTokens, err)
	}
	if _, err := s.take(now, used, owner); err != nil {
		t.Errorf("a token in use: %v", err)
	}
	if len(s.entries) > maxTokens {
		t.Errorf("%d tokens are remembered", len(s.entries))
	}
}

var attackAnybody = trustTestKeys("anybody").sign

// A coordinator that names other addresses for a peer and others again has few
// of them kept.
func TestAttackEndlessAddresses(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n, _ := attic.serve()
	w.await(attic)
	l := w.laptop.client()
	if out, err := w.exec(l, "attic", "echo in"); out != "in\n" {
		t.Fatalf("%q, %v", out, err)
	}
	ring := ringMsg{token: attackToken(), keys: w.laptop.id.keys, instance: l.node.instance}
	for i := range 100 {
		ring.call = callID{1, byte(i)}
		ring.cands = nil
		for j := range maxCandidates {
			ring.cands = append(ring.cands, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 9, byte(i), byte(j)}), 9))
		}
		c.tell(w.acct(), attic.id.keys, msgRing, &ring)
	}
	waitUntil(t, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		_, last := n.talk.rings[ring.call]
		return last
	})
	n.mu.Lock()
	for _, q := range n.peers.byVirtual {
		q.udp.mu.Lock()
		if tries, trials := len(q.finder.tries), len(q.udp.trials); tries == 0 || tries > maxPathTries || trials > maxPathTries {
			t.Errorf("%d addresses are known, packets go to %d", tries, trials)
		}
		q.udp.mu.Unlock()
	}
	n.mu.Unlock()
	if out, err := w.exec(l, "attic", "echo in"); out != "in\n" {
		t.Errorf("%q, %v", out, err)
	}
}
