package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// These tests bring hostile clients to an honest device.

// newClientWorld has attic running, a server, and phone and mallory, clients;
// mallory may take no login that there is.
func newClientWorld(t *testing.T) (w *testWorld, c *attackCoord, phone, mallory *testMachine, n *node, log *testLog) {
	t.Helper()
	w, c = newAttackWorld(t)
	attic := w.join("attic")
	phone, mallory = w.join("phone"), w.join("mallory")
	w.signDevice(attic, "server")
	w.signDevice(phone, "client")
	text, err := buildDeviceAdd(w.trust.state(), mallory.id.keys, newDeviceGrant("mallory", []string{"client"}, []string{"nobody-here"}, allCaps(), 0), time.Now())
	w.publish(text, err)
	for _, m := range []*testMachine{attic, phone, mallory} {
		if err := m.update(); err != nil {
			t.Fatal(err)
		}
	}
	n, log = attic.serve()
	w.await(attic)
	return w, c, phone, mallory, n, log
}

// A falseSigner shows one key and signs with another.
type falseSigner struct {
	ssh.Signer
	shows ssh.PublicKey
}

func (s falseSigner) PublicKey() ssh.PublicKey { return s.shows }

// attackLogin logs in by a link with the methods given.
func attackLogin(l *link, user string, methods ...ssh.AuthMethod) error {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	s, err := l.openSSH(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	conn, _, _, err := ssh.NewClientConn(s, "attic", &ssh.ClientConfig{User: user, Auth: methods,
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil }})
	if err == nil {
		conn.Close()
	}
	return err
}

func TestAttackClientOffersAKeyAndSignsWithAnother(t *testing.T) {
	t.Parallel()
	w, _, _, mallory, _, log := newClientWorld(t)
	l, err := mallory.link("attic")
	if err != nil {
		t.Fatal(err)
	}
	user, own, laptop := localLogin(), mallory.id.sshSigner(), w.laptop.id.sshSigner()
	for name, signers := range map[string][]ssh.Signer{
		"her own key":                            {own},
		"the laptop's, signed with hers":         {falseSigner{own, laptop.PublicKey()}},
		"the laptop's to be accepted, then hers": {falseSigner{own, laptop.PublicKey()}, own},
		"hers, then the laptop's":                {own, falseSigner{own, laptop.PublicKey()}},
	} {
		if attackLogin(l, user, ssh.PublicKeys(signers...)) == nil {
			t.Errorf("%s: let in", name)
		}
	}
	if strings.Contains(log.String(), "logged in") {
		t.Errorf("somebody was let in:\n%s", log)
	}
	if err := attackLogin(l, user, ssh.PublicKeys(laptop)); err != nil {
		t.Errorf("who really has the laptop's key: %v", err)
	}
}

func TestAttackClientUsesAnothersToken(t *testing.T) {
	t.Parallel()
	w, _, phone, _, n, _ := newClientWorld(t)
	laptop, err := w.laptop.client().ownNode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dev, _ := w.trust.state().deviceByName("attic")
	ll, err := laptop.connect(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	pl, err := phone.link("attic")
	if err != nil {
		t.Fatal(err)
	}
	ll.mu.Lock()
	stolen := ll.token
	ll.mu.Unlock()
	if banner, err := ll.trySSH(); !strings.HasPrefix(banner, "SSH-2.0-") {
		t.Fatalf("the laptop itself: %q, %v", banner, err)
	}
	for name, token := range map[string]sessionToken{"the laptop's": stolen, "one that nobody made": attackToken()} {
		pl.setToken(time.Now(), token, 0, 0)
		began := time.Now()
		_, err := pl.trySSH()
		attackDenied(t, name, err, "token-unknown")
		if took := time.Since(began); took < tokenWait-100*time.Millisecond {
			t.Errorf("%s: refused after %v, before its ring could come", name, took)
		}
	}
	for size, code := range map[int]string{16: "token-unknown", 0: "role", 15: "role", 17: "role"} {
		_, err := pl.tryStream(streamHead{streamSSH, streamVersion, make([]byte, size)}, nil)
		attackDenied(t, fmt.Sprintf("a token of %d zeros", size), err, code)
	}
	if n.sessions.inUse() > 1 {
		t.Errorf("%d sessions are in use", n.sessions.inUse())
	}
	if banner, err := pl.trySSH(); !strings.HasPrefix(banner, "SSH-2.0-") {
		t.Errorf("the phone, which now asks for a token of its own: %q, %v", banner, err)
	}
}

// An unknown token waits for its ring, and is good when that comes.
func TestAttackTokenBeforeItsRing(t *testing.T) {
	t.Parallel()
	w, c, phone, _, n, _ := newClientWorld(t)
	pl, err := phone.link("attic")
	if err != nil {
		t.Fatal(err)
	}
	ring := ringMsg{call: callID{1}, token: attackToken(), ttl: 60, keys: phone.id.keys, instance: newInstanceID()}
	pl.setToken(time.Now(), ring.token, 0, 0)
	done := make(chan error, 1)
	go func() { _, err := pl.trySSH(); done <- err }()
	waitUntil(t, func() bool { return pl.streamCount() == 1 })
	attic, _ := w.trust.state().deviceByName("attic")
	c.tell(w.acct(), attic.keys, msgRing, &ring)
	if err := <-done; err != nil {
		t.Errorf("a token whose ring came late: %v", err)
	}
	n.sessions.reap(time.Now())
}

func (l *link) streamCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streams
}

// tryStream opens a stream with head, writes what follows and reads to its end.
func (l *link) tryStream(h streamHead, rest []byte) (reply []byte, err error) {
	s, err := l.conn.OpenStreamSync(context.Background())
	if err != nil {
		return nil, linkErrorOf(err)
	}
	s.SetDeadline(time.Now().Add(10 * time.Second))
	go func() { // it may never be read
		s.Write(append(h.append(nil), rest...))
	}()
	reply, err = io.ReadAll(s)
	s.CancelWrite(0)
	return reply, linkErrorOf(err)
}

// Streams of no right form are refused, and hurt nothing else of the link.
func TestAttackMalformedStreams(t *testing.T) {
	t.Parallel()
	_, _, phone, _, n, _ := newClientWorld(t)
	l, err := phone.link("attic")
	if err != nil {
		t.Fatal(err)
	}
	frame := func(typ byte, size uint32) []byte { return append32([]byte{typ}, size) }
	hello := func() []byte {
		a, _ := phone.trust.anchor()
		m := logHelloMsg{acct: a.acct, min: exchangeProto, max: exchangeProto}
		return appendFrame(nil, frameHello, m.append(nil))
	}()
	log := streamHead{kind: streamLog, version: streamVersion}
	for _, a := range []struct {
		name string
		head streamHead
		rest []byte
	}{
		{"of an unknown kind", streamHead{kind: 77, version: streamVersion}, nil},
		{"of another version", streamHead{kind: streamSSH, version: 9, body: make([]byte, 16)}, nil},
		{"with a body too long", streamHead{kind: streamControl, version: streamVersion, body: make([]byte, maxStreamBody+1)}, nil},
		{"with an unknown request", streamHead{kind: streamControl, version: streamVersion, body: []byte{99}}, nil},
		{"with an empty request", streamHead{kind: streamControl, version: streamVersion}, nil},
		{"of the log, with a frame of 4 GiB", log, append(bytes.Clone(hello), frame(frameRecords, 1<<32-1)...)},
		{"of the log, with a frame one byte too long", log, append(bytes.Clone(hello), frame(frameRecords, maxFrame+1)...)},
		{"of the log, with an unknown frame", log, append(bytes.Clone(hello), frame(77, 0)...)},
		{"of the log, with records unasked", log, append(bytes.Clone(hello), appendFrame(nil, frameRecords, []byte{0})...)},
		{"of the log, without hello", log, appendFrame(nil, frameGet, make([]byte, 48))},
		{"of the log, of another account", log, appendFrame(nil, frameHello, (&logHelloMsg{acct: acctID{1}, min: 1, max: 1}).append(nil))},
	} {
		reply, err := l.tryStream(a.head, a.rest)
		if a.head.kind == streamLog && a.head.version == streamVersion {
			if !bytes.Contains(reply, []byte{frameError}) && err == nil {
				t.Errorf("%s: taken: %q", a.name, reply)
			}
			continue
		}
		if codeOf(err) != "stream-kind" {
			t.Errorf("%s: %q, %v", a.name, reply, err)
		}
	}
	if banner, err := l.trySSH(); !strings.HasPrefix(banner, "SSH-2.0-") {
		t.Errorf("a session on the same link: %q, %v", banner, err)
	}
	if len(n.liveLinks()) != 1 {
		t.Errorf("%d links", len(n.liveLinks()))
	}
}

// A device that may only be entered enters nobody, one whose time is over
// neither enters nor is entered.
func TestAttackRolesAndExpiry(t *testing.T) {
	t.Parallel()
	w, _, phone, _, _, _ := newClientWorld(t)
	den, late := w.join("den"), w.join("late")
	w.signDevice(den, "server")
	soon := time.Now().Add(-time.Hour).Unix()
	text, err := buildDeviceAdd(w.trust.state(), late.id.keys, newDeviceGrant("late", deviceRoles, []string{"*"}, allCaps(), soon), time.Now())
	w.publish(text, err)
	late.serveTo(late.id, &testLog{}, func(ssh.PublicKey, string) (sshGrant, error) {
		return sshGrant{device: "anybody", caps: allCaps()}, nil
	})
	w.await(late)
	l, err := den.link("attic")
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.trySSH()
	attackDenied(t, "a pure server enters", err, "role")
	if l, err = late.link("attic"); err == nil {
		err = l.end()
	}
	attackDenied(t, "an expired device enters", err, "expired")
	if err := phone.update(); err != nil {
		t.Fatal(err)
	}
	_, err = w.exec(phone.client(), "late", "true")
	attackDenied(t, "the phone enters an expired device", err, "expired")
}

// When the log takes back what a client may do, what it has open ends.
func TestAttackClientStaysWhenItsGrantIsTakenBack(t *testing.T) {
	t.Parallel()
	w, _ := newAttackWorld(t)
	attic, phone := w.join("attic"), w.join("phone")
	w.signDevice(attic, "server")
	w.signDevice(phone, "client")
	_, log := attic.run(defaultHold)
	if err := phone.update(); err != nil {
		t.Fatal(err)
	}
	c, err := dialSSH(t.Context(), phone.client(), "attic", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	var out bytes.Buffer
	if err := testExec(t.Context(), c, "echo in", &out); err != nil || out.String() != "in\n" {
		t.Fatal(out.String(), err)
	}
	text, err := buildDeviceUpdate(w.trust.state(), phone.id.keys.deviceID(), newDeviceGrant("phone", []string{"client"}, []string{"nobody-here"}, allCaps(), 0), time.Now())
	w.publish(text, err)
	over := make(chan error, 1)
	go func() { over <- c.Wait() }()
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		t.Errorf("its session goes on\n%s", log)
	}
}
