package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// These tests are about sessions of real machines: what the coordinator hears of
// them, and what ends them.

// A liveWorld is attic, which serves phone, with the coordinator at hand.
type liveWorld struct {
	*testWorld
	t            *testing.T
	c            *attackCoord
	attic, phone *testMachine
	node         *node // attic's
	link         *link // phone's
}

func newLiveWorld(t *testing.T) *liveWorld {
	t.Parallel()
	w, c := newAttackWorld(t)
	l := &liveWorld{testWorld: w, t: t, c: c, attic: w.join("attic"), phone: w.join("phone")}
	w.signDevice(l.attic, "server")
	w.signDevice(l.phone, "client")
	for _, m := range []*testMachine{l.attic, l.phone} {
		if err := m.update(); err != nil {
			t.Fatal(err)
		}
	}
	l.node, _ = l.attic.serve()
	w.await(l.attic)
	var err error
	if l.link, err = l.phone.link("attic"); err != nil {
		t.Fatal(err)
	}
	return l
}

// open opens an SSH connection, as far as the server's first words.
func (l *liveWorld) open() *linkStream {
	l.t.Helper()
	s, err := l.link.openSSH(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { s.Close() })
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(s, make([]byte, 4)); err != nil {
		l.t.Fatal(err)
	}
	return s
}

// ended waits until a connection has, and returns how.
func (l *liveWorld) ended(s *linkStream, within time.Duration) error {
	l.t.Helper()
	s.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, s)
	if errors.Is(err, errAttackTimeout) || err != nil && codeOf(err) == "" {
		l.t.Fatalf("the connection is still there: %v", err)
	}
	return err
}

// runs waits until the coordinator says that this many connections are open in
// this many sessions, and returns these.
func (l *liveWorld) runs(live, sessions int) (views []sessionView) {
	l.t.Helper()
	waitUntil(l.t, func() bool {
		views = nil
		n := 0
		for _, v := range l.c.sessionsOf(l.acct()) {
			if v.live > 0 {
				views, n = append(views, v), n+v.live
			}
		}
		return n == live && len(views) == sessions
	})
	return views
}

// The coordinator hears of connections as they begin and end, by tokens that it
// drew and by those that the device has made.
func TestSessionsThatRunAreKnown(t *testing.T) {
	l := newLiveWorld(t)
	began := time.Now()
	var streams []*linkStream
	for range maxPerToken {
		streams = append(streams, l.open())
	}
	one := l.runs(maxPerToken, 1)[0]
	t.Logf("%d connections are known after %v", maxPerToken, time.Since(began))
	if one.client != l.phone.id.keys.deviceID() || one.device != l.attic.id.keys.deviceID() || one.revoked || one.id != l.link.token.publicID() {
		t.Errorf("%+v", one)
	}
	kept := l.c.sessions.list(l.acct(), func(s *coordSession) bool { return s.id == l.link.token.id() })
	if len(kept) != 1 || kept[0].hash != sha256.Sum256(l.link.token[:]) {
		t.Errorf("kept as %+v", kept)
	}
	streams = append(streams, l.open()) // by one that the device makes
	l.runs(maxPerToken+1, 2)
	kept = l.c.sessions.list(l.acct(), func(s *coordSession) bool { return s.id == l.link.token.id() })
	if len(kept) != 1 || kept[0].hash != ([32]byte{}) || kept[0].client != one.client || kept[0].expires == 0 {
		t.Errorf("the device's own is kept as %+v", kept)
	}
	for i, s := range streams {
		s.Close()
		if i == maxPerToken {
			break
		}
		l.runs(maxPerToken-i, min(2, 1+maxPerToken-i-1))
	}
	l.runs(0, 0)
}

// A ban on the device holds for links, too: who is in from there is out, and who
// comes hears why, until it is lifted.
func TestSessionsOfABannedAddress(t *testing.T) {
	l := newLiveWorld(t)
	s := l.open()
	if n, err := l.node.ssh.ban("127.0.0.1", 0); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	l.ended(s, 10*time.Second)
	if s, err := l.link.openSSH(t.Context()); err != nil {
		t.Error(err)
	} else if err := l.ended(s, 10*time.Second); codeOf(err) != "address" {
		t.Errorf("let in, or told %v", err)
	}
	if err := l.node.ssh.unban("127.0.0.1"); err != nil {
		t.Error(err)
	}
	l.open()
}

// To end is not to revoke: by the same token the client comes in again.
func TestSessionsEndedByWayOfTheCoordinator(t *testing.T) {
	l := newLiveWorld(t)
	s := l.open()
	l.runs(1, 1)
	n, err := l.c.endSessions(l.acct(), sessionMatch{client: l.phone.id.keys.deviceID()})
	if n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if err := l.ended(s, 10*time.Second); err != nil {
		t.Errorf("ended with %v", err)
	}
	token := l.link.token
	l.open()
	if v := l.runs(1, 1)[0]; v.id != token.publicID() || v.revoked {
		t.Errorf("%+v", v)
	}
}

// Revoked sessions end at the device, which then lets nobody in by them; a
// device that does not hear of it hears of it with its next beat.
func TestSessionsRevokedByWayOfTheCoordinator(t *testing.T) {
	l := newLiveWorld(t)
	for _, lost := range []bool{false, true} {
		s := l.open()
		token := l.link.token
		waitUntil(t, func() bool {
			return l.c.presence.running(l.acct())[sessionKey{l.attic.id.keys.deviceID(), token.id()}] == 1
		})
		if lost {
			l.c.turn(attackHooks{datagram: func(_ deviceID, h msgHead, rest []byte) []byte {
				if h.kind == msgEnd {
					return nil
				}
				return rest
			}})
		}
		n, err := l.c.revokeSessions(l.acct(), sessionMatch{id: token.publicID()})
		if n != 1 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		if lost {
			l.c.turn(attackHooks{})
			l.c.sessions.mu.Lock() // as if orderAgain were over
			for _, o := range l.c.sessions.accts[l.acct()].orders {
				o.sent = time.Time{}
			}
			l.c.sessions.mu.Unlock()
			l.node.mu.Lock()
			l.node.talk.beatSoon()
			l.node.mu.Unlock()
			l.node.poke()
		}
		attackDenied(t, "the connection", l.ended(s, 10*time.Second), "token-revoked")
		l.link.setToken(time.Now(), token, 0, 0)
		_, err = l.link.trySSH()
		attackDenied(t, "by the same token", err, "token-revoked")
		waitUntil(t, func() bool {
			return len(l.c.sessions.due(l.acct(), l.attic.id.keys.deviceID(), time.Now().Add(time.Hour))) == 0
		})
		if n, err := l.c.revokeSessions(l.acct(), sessionMatch{id: token.publicID()}); n != 0 || err != nil {
			t.Errorf("twice: %d, %v", n, err)
		}
	}
	l.open() // by a new one
}

// What an order names ends at the device, whoever made the session, and nothing
// else does.
func TestSessionsEndedByScope(t *testing.T) {
	l := newLiveWorld(t)
	phone, laptop := l.phone.id.keys, l.laptop.id.keys
	for _, tt := range []struct {
		name string
		msg  endMsg
		want string // whose end
	}{
		{"all", endMsg{all: true}, "phone 1, phone 2, laptop"},
		{"of a client", endMsg{client: phone.deviceID()}, "phone 1, phone 2"},
		{"of a client that the log does not know", endMsg{client: sessionTestLaptop}, ""},
		{"by ids", endMsg{ids: []sessionID{{2}, {3}, {9}}}, "phone 2, laptop"},
		{"none", endMsg{}, ""},
	} {
		tab := newSessionTable(time.Now())
		l.node.mu.Lock()
		l.node.sessions = tab
		l.node.mu.Unlock()
		var names []string
		leases := map[string]sessionLease{}
		for i, name := range []string{"phone 1", "phone 2", "laptop"} {
			owner := phone.sign
			if name == "laptop" {
				owner = laptop.sign
			}
			token := sessionToken{byte(1 + i)}
			tab.add(time.Now(), token, owner, 0)
			lease, err := tab.take(time.Now(), token, owner)
			if err != nil {
				t.Fatal(err)
			}
			leases[name], names = lease, append(names, name)
		}
		l.node.mu.Lock()
		l.node.endSessions(&tt.msg)
		l.node.mu.Unlock()
		names = slices.DeleteFunc(names, func(name string) bool {
			select {
			case <-leases[name].ended:
				return false
			default:
				return true
			}
		})
		if got := strings.Join(names, ", "); got != tt.want {
			t.Errorf("%s: %q end, not %q", tt.name, got, tt.want)
		}
	}
}

// A device that is thrown out is out at once, in connections of links that are
// not held any more too, and its sessions are forgotten.
func TestSessionsOfARevokedDeviceEnd(t *testing.T) {
	l := newLiveWorld(t)
	s := l.open()
	l.runs(1, 1)
	l.node.mu.Lock()
	clear(l.node.links)
	l.node.mu.Unlock()
	text, err := buildDeviceRevoke(l.trust.state(), []deviceID{l.phone.id.keys.deviceID()}, "stolen", time.Now())
	l.publish(text, err)
	began := time.Now()
	attackDenied(t, "the connection", l.ended(s, 5*time.Second), "token-revoked")
	t.Logf("ended after %v", time.Since(began))
	if list := l.c.sessionsOf(l.acct()); len(list) != 0 {
		t.Errorf("the coordinator has %+v", list)
	}
	waitUntil(t, func() bool { return l.node.sessions.inUse() == 0 })
}

// A connection that comes to nothing gives both places back, by its token and of
// the device.
func TestSessionsThatFailToStartReleaseTheirPlaces(t *testing.T) {
	l := newLiveWorld(t)
	token := l.link.token
	for range 2 * maxPerToken {
		if _, err := l.link.tryStream(streamHead{streamSSH, streamVersion, token[:]}, bytes.Repeat([]byte("no SSH"), 100)); err != nil {
			t.Fatal(err)
		}
	}
	waitUntil(t, func() bool { return l.node.sessions.inUse() == 0 })
	l.node.sessions.running(func(sessionToken, [32]byte, int) { t.Error("a token counts what is over") })
}

// liveTalk is a conversation with no socket, whose beats are counted.
func liveTalk(t *testing.T) (c *coordTalk, beats *[]*beatMsg) {
	t.Helper()
	send, recv, err := sealKeys(wireIdentity(t, 1).path, sealDevice, wireIdentity(t, 3).keys.path, sealCoord)
	if err != nil {
		t.Fatal(err)
	}
	_, open, err := sealKeys(wireIdentity(t, 3).path, sealCoord, wireIdentity(t, 1).keys.path, sealDevice)
	if err != nil {
		t.Fatal(err)
	}
	beats = new([]*beatMsg)
	return &coordTalk{
		box:   &sealBox{sendKey: send, recvKey: recv, mine: instanceID{1}},
		addrs: addrList("198.51.100.1:7722"), serves: true, beating: true,
		send: func(b []byte, _ udpSource) {
			body, err := open.open(b)
			if err != nil {
				t.Fatal(err)
			}
			h, rest, _ := parseHead(body)
			if h.kind != msgBeat {
				return
			}
			m, err := parseBeat(rest)
			if err != nil {
				t.Fatal(err)
			}
			*beats = append(*beats, m)
		},
		cands: func() []netip.AddrPort { return nil },
		rings: map[callID]time.Time{}, left: map[instanceID]replayWindow{}, onHead: func(uint64, [32]byte) {},
	}, beats
}

// However often connections begin and end, beats tell of it at most once a
// second; what came last is told.
func TestSessionsChangesArePaced(t *testing.T) {
	c, beats := liveTalk(t)
	tab := newSessionTable(time.Now())
	c.uses = tab.uses.Load
	c.running = func() (list []runningSession) {
		tab.running(func(t sessionToken, _ [32]byte, live int) {
			list = append(list, runningSession{id: t.id(), live: byte(live)})
		})
		return list
	}
	now, token, owner := time.Now(), attackToken(), make([]byte, 32)
	tab.add(now, token, owner, 0)
	answered := func() {
		c.handle(now, msgHead{msgBeatAck, instanceID{2}, instanceID{1}, uint64(len(*beats))}, (&beatAckMsg{}).append(nil), udpSource{addr: c.addrs[0]})
	}
	c.tick(now)
	answered()
	now = now.Add(2 * time.Second)
	if c.tick(now); len(*beats) != 1 {
		t.Fatalf("%d beats when nothing has changed", len(*beats))
	}
	lease, err := tab.take(now, token, owner)
	if err != nil {
		t.Fatal(err)
	}
	if c.tick(now); len(*beats) != 2 || len((*beats)[1].running) != 1 || (*beats)[1].running[0] != (runningSession{id: token.id(), live: 1}) {
		t.Fatalf("a connection began: %d beats, %+v", len(*beats), (*beats)[len(*beats)-1])
	}
	answered()
	for end := now.Add(usesGap - 10*ms); now.Before(end); now = now.Add(10 * ms) {
		lease.release()
		if lease, err = tab.take(now, token, owner); err != nil {
			t.Fatal(err)
		}
		if next := c.tick(now); len(*beats) != 2 || next.Sub(now) > usesGap {
			t.Fatalf("%d beats, the next in %v", len(*beats), next.Sub(now))
		}
	}
	lease.release()
	now = now.Add(10 * ms)
	if c.tick(now); len(*beats) != 3 || len((*beats)[2].running) != 0 {
		t.Fatalf("%d beats, %+v", len(*beats), (*beats)[len(*beats)-1])
	}
	answered()
	now = now.Add(15 * time.Second)
	if c.tick(now); len(*beats) != 3 {
		t.Errorf("%d beats when it is quiet again", len(*beats))
	}
}

// An order is obeyed once and acknowledged each time, also while many rings come.
func TestSessionsOrdersAreObeyedOnce(t *testing.T) {
	c, _ := liveTalk(t)
	acks, obeyed := 0, 0
	c.send = func([]byte, udpSource) { acks++ }
	now, counter := time.Now(), uint64(0)
	say := func(kind byte, m payload) {
		counter++
		c.handle(now, msgHead{kind, instanceID{2}, instanceID{1}, counter}, m.append(nil), udpSource{addr: c.addrs[0]})
	}
	say(msgEnd, &endMsg{all: true}) // by one that serves nobody
	if acks != 0 {
		t.Fatal("acknowledged and not obeyed")
	}
	c.onEnd = func(*endMsg) { obeyed++ }
	for i := range byte(3) {
		for range 4 {
			say(msgEnd, &endMsg{order: [8]byte{i}, all: true})
		}
	}
	if acks != 12 || obeyed != 3 {
		t.Errorf("%d acks, obeyed %d times", acks, obeyed)
	}
	for i := range maxRings {
		c.rings[callID{9, byte(i), byte(i >> 8)}] = now
	}
	say(msgEnd, &endMsg{order: [8]byte{77}})
	if obeyed != 4 || len(c.rings) > maxRings+3 {
		t.Errorf("obeyed %d times, %d remembered", obeyed, len(c.rings))
	}
}
