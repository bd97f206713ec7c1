package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"
)

// A revokeTest is a coordinator's table and store, a client and a device that
// serves, with a clock that the test moves.
type revokeTest struct {
	*presTest
	t             *testing.T
	dir           string
	server        *coordServer
	caller, attic *presTestDevice
}

func newRevokeTest(t *testing.T) *revokeTest {
	pt, caller, attic := newIntroTest(t)
	rt := &revokeTest{presTest: pt, t: t, dir: t.TempDir(), caller: caller, attic: attic}
	rt.open()
	return rt
}

// open opens the store, as a coordinator that was started again does.
func (rt *revokeTest) open() {
	rt.t.Helper()
	if rt.server != nil {
		if err := rt.server.sessions.close(); err != nil {
			rt.t.Fatal(err)
		}
	}
	rt.server = &coordServer{sessions: sessionTestOpen(rt.t, rt.dir, rt.now), presence: rt.p, now: func() time.Time { return rt.now }}
	rt.p.keeper = rt.server
}

// introduced makes a session by a call, and acknowledges all.
func (rt *revokeTest) introduced() sessionToken {
	rt.t.Helper()
	rt.take()
	rt.caller.call(rt.attic, maxDatagram)
	a, msg := rt.caller.takeAnswer()
	rt.caller.ack(msg)
	_, msg = rt.attic.takeRing()
	rt.attic.ack(msg)
	return a.token
}

// beats is a beat of a device that says which sessions run, for the caller.
func (d *presTestDevice) beats(live byte, client *presTestDevice, tokens ...sessionToken) {
	d.pt.t.Helper()
	m := beatMsg{proto: protoRange{1, 1, "dev"}, serves: true, cookie: d.cookie}
	for _, token := range tokens {
		m.running = append(m.running, runningSession{token.id(), live, sealHintOf(presTestAcct, client.id.keys.sign)})
	}
	d.say(d.datagram(msgBeat, m.append(nil), 0))
}

// takeEnds returns the orders that came, each of an own counter.
func (d *presTestDevice) takeEnds() (ends []*endMsg, msgs []presTestMsg) {
	d.pt.t.Helper()
	for _, msg := range d.got() {
		if msg.head.kind != msgEnd {
			continue
		}
		m, err := parseEnd(msg.body)
		if err != nil {
			d.pt.t.Fatal(err)
		}
		ends, msgs = append(ends, m), append(msgs, msg)
	}
	return ends, msgs
}

func (rt *revokeTest) mustHave(want ...sessionView) {
	rt.t.Helper()
	if got := rt.server.sessionsOf(presTestAcct); !slices.Equal(got, want) {
		rt.t.Fatalf("sessions are\n%+v, not\n%+v", got, want)
	}
}

func (rt *revokeTest) view(token sessionToken, live int, revoked bool) sessionView {
	return sessionView{token.id().String(), rt.caller.deviceID(), rt.attic.deviceID(), rt.now, rt.now.Add(sessionTTL), live, revoked}
}

// A call's session is known at once, whatever the disk does, and what a device
// says of those that run is what an owner sees.
func TestCoordSessionsOfACall(t *testing.T) {
	rt := newRevokeTest(t)
	rt.server.sessions.disk.Lock() // a disk that hangs
	first := rt.introduced()
	rt.mustHave(rt.view(first, 0, false))
	rt.attic.beats(2, rt.caller, first)
	rt.mustHave(rt.view(first, 2, false))
	rt.server.sessions.disk.Unlock()
	rt.p.ttl = 0
	endless := rt.view(rt.introduced(), 0, false)
	endless.expires = time.Time{}
	rt.mustHave(rt.view(first, 2, false), endless)
	// Only a restart of the table forgets what runs, until the next beat.
	again := rt.attic.again()
	again.online(true)
	again.beats(1, rt.caller, first)
	rt.mustHave(rt.view(first, 3, false), endless) // by two processes
	rt.attic.say(rt.attic.datagram(msgBeat, (&beatMsg{proto: protoRange{1, 1, ""}, leaves: true, cookie: rt.attic.cookie}).append(nil), 0))
	rt.mustHave(rt.view(first, 1, false), endless)
	again.beats(0, rt.caller)
	if got := rt.server.sessionsOf(presTestAcct); got[0].live+got[1].live != 0 {
		t.Errorf("%+v", got)
	}
	made := rt.now
	rt.now = rt.now.Add(sessionTTL)
	if got := rt.server.sessionsOf(presTestAcct); len(got) != 1 || !got[0].expires.IsZero() || !got[0].made.Equal(made) {
		t.Errorf("at the second that one expires: %+v", got)
	}
}

// What nobody may know of is not kept: sessions of callers and devices that are
// not in the log, of clients whom the log does not know, of processes that do not
// serve.
func TestCoordSessionsOfStrangers(t *testing.T) {
	rt := newRevokeTest(t)
	stranger := rt.device("192.0.2.1:1")
	rt.attic.beats(1, stranger, attackToken())
	for _, standing := range []byte{memberRevoked, memberWaiting} {
		rt.caller.standing = standing
		rt.members(5, rt.caller, rt.attic)
		rt.introduced()
		rt.attic.beats(1, rt.caller, attackToken())
	}
	rt.caller.standing, rt.attic.standing = memberActive, memberWaiting
	rt.members(5, rt.caller, rt.attic)
	rt.attic.beats(1, rt.caller, attackToken())
	rt.attic.standing = memberActive
	rt.members(5, rt.caller, rt.attic)
	m := beatMsg{proto: protoRange{1, 1, ""}, cookie: rt.attic.cookie, running: []runningSession{{sessionID{1}, 1, sealHintOf(presTestAcct, rt.caller.id.keys.sign)}}}
	rt.attic.say(rt.attic.datagram(msgBeat, m.append(nil), 0))
	rt.mustHave()
}

// A revocation goes out at once and until it is acknowledged, and no more then.
func TestCoordSessionsRevocationIsToldUntilAcknowledged(t *testing.T) {
	rt := newRevokeTest(t)
	token, other := rt.introduced(), rt.introduced()
	rt.take()
	n, err := rt.server.revokeSessions(presTestAcct, sessionMatch{id: token.id().String()})
	if n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	ends, _ := rt.attic.takeEnds()
	if len(ends) != 1 || ends[0].all || ends[0].keep || ends[0].client != "" || !slices.Equal(ends[0].ids, []sessionID{token.id()}) {
		t.Fatalf("told %+v", ends)
	}
	rt.mustHave(append([]sessionView(nil), sortedViews(rt.view(token, 0, true), rt.view(other, 0, false))...)...)
	if n, err := rt.server.revokeSessions(presTestAcct, sessionMatch{id: token.id().String()}); n != 0 || err != nil {
		t.Errorf("twice: %d, %v", n, err)
	}
	rt.attic.beats(0, rt.caller) // on its way: not once more
	rt.advance(time.Second)
	again, msgs := rt.attic.takeEnds()
	if len(again) != 3 || again[2].order != ends[0].order || msgs[0].head.counter == msgs[1].head.counter {
		t.Fatalf("told %d times more in a second: %+v", len(again), again)
	}
	rt.attic.ack(msgs[0]) // of any of them
	rt.advance(time.Minute)
	rt.attic.beat(true)
	if more, _ := rt.attic.takeEnds(); len(more) != 0 {
		t.Errorf("told %d times after the ack", len(more))
	}
	rt.open()
	rt.attic.beats(0, rt.caller)
	if more, _ := rt.attic.takeEnds(); len(more) != 0 {
		t.Errorf("told %d times after a restart", len(more))
	}
}

func sortedViews(list ...sessionView) []sessionView {
	slices.SortFunc(list, func(a, b sessionView) int { return map[bool]int{true: -1, false: 1}[a.id < b.id] })
	return list
}

// What a device does not hear, because it or the coordinator is gone, it hears
// with its next beat.
func TestCoordSessionsRevocationWaitsForTheDevice(t *testing.T) {
	rt := newRevokeTest(t)
	token := rt.introduced()
	rt.advance(2 * time.Minute) // the device is silent
	if n, err := rt.server.revokeSessions(presTestAcct, sessionMatch{client: rt.caller.deviceID()}); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if out := rt.take(); len(out) != 0 {
		t.Fatalf("%d datagrams to nobody", len(out))
	}
	rt.restart()
	rt.members(5, rt.caller, rt.attic)
	rt.open()
	for range 2 { // lost the first time: all of newsTimes
		rt.attic.coord, rt.attic.counter = instanceID{}, rt.attic.counter+100
		rt.attic.beat(true)
		rt.attic.takeHello()
		rt.attic.beats(1, rt.caller, token)
		rt.advance(10 * time.Second)
		if ends, _ := rt.attic.takeEnds(); len(ends) != len(newsTimes) || ends[0].client != rt.caller.deviceID() || ends[0].all {
			t.Fatalf("told %d times: %+v", len(ends), ends)
		}
	}
	rt.attic.beats(1, rt.caller, token)
	_, msgs := rt.attic.takeEnds()
	rt.attic.ack(msgs[0])
	rt.attic.beats(0, rt.caller)
	rt.advance(time.Minute)
	if ends, _ := rt.attic.takeEnds(); len(ends) != 0 {
		t.Errorf("told again: %+v", ends)
	}
	if got := rt.server.sessionsOf(presTestAcct); len(got) != 1 || !got[0].revoked {
		t.Errorf("%+v", got)
	}
}

// Of many orders some are on their way at a time, and each that is acknowledged
// makes room for the next.
func TestCoordSessionsRevokedOneByOne(t *testing.T) {
	rt := newRevokeTest(t)
	const many = 3*maxOrdersOut + 5
	var tokens []sessionToken
	for range many {
		tokens = append(tokens, rt.introduced())
	}
	rt.advance(2 * time.Minute)
	for i, token := range tokens {
		if n, err := rt.server.revokeSessions(presTestAcct, sessionMatch{id: token.id().String()}); n != 1 || err != nil {
			t.Fatalf("%d: %d, %v", i, n, err)
		}
	}
	rt.attic.again().online(false) // a verb of it is not who serves
	if out := rt.take(); len(out) != 0 {
		t.Fatalf("%d datagrams", len(out))
	}
	rt.attic.beat(true)
	rt.attic.takeHello() // silent for so long, it shows that it is there
	rt.attic.beat(true)
	told := map[sessionID]bool{}
	for len(told) < many {
		ends, msgs := rt.attic.takeEnds()
		if len(ends) == 0 || len(ends) > maxOrdersOut {
			t.Fatalf("%d at once, %d told", len(ends), len(told))
		}
		for i, end := range ends {
			told[end.ids[0]] = true
			rt.attic.ack(msgs[i])
		}
	}
	if len(rt.p.intro.due) != 0 || len(rt.p.intro.unacked) != 0 {
		t.Error("something still waits for an ack")
	}
}

// To end is not to revoke: who is in is told to go, once, and nothing is kept.
func TestCoordSessionsEnded(t *testing.T) {
	rt := newRevokeTest(t)
	running, idle := rt.introduced(), rt.introduced()
	rt.attic.beats(1, rt.caller, running)
	rt.take()
	for i, tt := range []struct {
		which sessionMatch
		want  int
	}{
		{sessionMatch{id: idle.id().String()}, 0},
		{sessionMatch{id: "00000000"}, 0},
		{sessionMatch{}, 0},
		{sessionMatch{target: rt.caller.deviceID()}, 0},
		{sessionMatch{id: running.id().String()}, 1},
		{sessionMatch{client: rt.caller.deviceID()}, 1},
		{sessionMatch{target: rt.attic.deviceID()}, 1},
		{sessionMatch{all: true}, 1},
	} {
		n, err := rt.server.endSessions(presTestAcct, tt.which)
		ends, msgs := rt.attic.takeEnds()
		if n != tt.want || err != nil || len(ends) != tt.want || tt.want == 1 && !ends[0].keep {
			t.Errorf("%d: %d ended, %v, told %+v", i, n, err, ends)
		}
		for _, msg := range msgs {
			rt.attic.ack(msg)
		}
	}
	if due := rt.server.sessions.due(presTestAcct, rt.attic.deviceID(), rt.now); len(due) != 0 {
		t.Errorf("%d orders are kept", len(due))
	}
	rt.mustHave(rt.view(running, 1, false), rt.view(idle, 0, false))
	rt.advance(2 * time.Minute)
	if n, err := rt.server.endSessions(presTestAcct, sessionMatch{all: true}); n != 0 || err != nil {
		t.Errorf("of a device that is offline: %d, %v", n, err)
	}
}

// Orders of any scope hit what they name at the device, and nothing else.
func TestCoordSessionsOrdersByScope(t *testing.T) {
	a, b := sessionTestMade(1), sessionTestMade(2)
	b.client = sessionTestPhone
	for _, tt := range []struct {
		which sessionMatch
		want  string
	}{
		{sessionMatch{all: true}, "all"},
		{sessionTestOfAttic, "all"},
		{sessionMatch{client: sessionTestLaptop}, "client"},
		{sessionMatch{client: sessionTestLaptop, target: sessionTestAttic}, "client"},
		{sessionMatch{id: a.id.String()}, "ids"},
		{sessionMatch{id: a.id.String(), client: sessionTestLaptop}, "ids"},
	} {
		var list []*coordSession
		for _, s := range []*coordSession{a, b} {
			if tt.which.is(s) {
				list = append(list, s)
			}
		}
		orders := tt.which.orders(sessionTestAcct, list, false, coordTestNow)
		if len(orders) != 1 {
			t.Fatalf("%+v: %d orders", tt.which, len(orders))
		}
		m := orders[0].msg
		want := endMsg{order: m.order, all: tt.want == "all"}
		switch tt.want {
		case "client":
			want.client = sessionTestLaptop
		case "ids":
			want.ids = []sessionID{a.id}
		}
		if !reflect.DeepEqual(m, want) {
			t.Errorf("%+v: %+v", tt.which, m)
		}
		if !orders[0].covers(a) || orders[0].covers(b) != (tt.want == "all") {
			t.Errorf("%+v covers others than it should", tt.which)
		}
	}
}

// A coordinator that is stopped has written what it knew, and is there again with
// it; while it runs it writes within a second.
func TestCoordSessionsOutliveTheProcess(t *testing.T) {
	cfg := coordConfig{dir: t.TempDir(), udp: "127.0.0.1:0", signup: signupOpen}
	var tokens []sessionToken
	for i := range 3 {
		c, err := openCoordinator(cfg, t.Logf)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.run(ctx, cfg, io.Discard) }()
		if got := c.server.sessionsOf(presTestAcct); len(got) != i {
			t.Errorf("start %d: %+v", i, got)
		}
		tokens = append(tokens, attackToken())
		c.server.sessionMade(presTestAcct, sessionTestLaptop, sessionTestAttic, tokens[i], 60)
		if i == 1 {
			waitUntil(t, func() bool {
				b, err := os.ReadFile(filepath.Join(cfg.dir, "coord", "sessions"))
				hash := sha256.Sum256(tokens[i][:])
				return err == nil && bytes.Contains(b, hash[:])
			})
		}
		stop()
		<-done
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
	}
}
