package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// These tests serve false logs from a hostile coordinator, over real QUIC, to
// machines with real stores: what trust.md lists first.

// servesLog makes the reply hook of a coordinator that serves the records that
// change makes of the true ones, to everybody but the laptop.
func (c *attackCoord) servesLog(w *testWorld, change func(honest [][]byte) [][]byte) attackHooks {
	return attackHooks{reply: func(peer *coordPeer, op byte, reply []byte, asked []byte) []byte {
		if op != opFetch || bytes.Equal(peer.keys.sign, w.laptop.id.keys.sign) && peer.keys.path == w.laptop.id.keys.path {
			return reply
		}
		q, err := parseFetch(asked)
		if err != nil {
			c.t.Error(err)
			return reply
		}
		log := change(c.log(q.acct))
		page := fetchedMsg{head: attackHead(log)}
		if q.from < uint64(len(log)) {
			page.records = log[q.from:]
		}
		return page.append(nil)
	}}
}

// log is the true one.
func (c *attackCoord) log(acct acctID) [][]byte {
	a, err := c.store.account(acct)
	if err != nil {
		c.t.Error(err)
		return nil
	}
	log, err := a.records(0, maxRecords)
	if err != nil {
		c.t.Error(err)
	}
	return log
}

// attackHead is what a log seems to end with, however false it is.
func attackHead(log [][]byte) headMsg {
	text, _, err := splitRecord(log[len(log)-1])
	if err != nil {
		return headMsg{uint64(len(log) - 1), [32]byte{1}}
	}
	return headMsg{uint64(len(log) - 1), hashStatement(text)}
}

// names are the active devices of a machine's log.
func (m *testMachine) names() string { return trustTestNames(m.trust.state()) }

func TestAttackCoordinatorInjectsAKey(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	if err := attic.update(); err != nil || attic.names() != "attic laptop" {
		t.Fatal(err, attic.names())
	}
	evil := presTestIdentity(t)
	text, err := buildDeviceAdd(w.trust.state(), evil.keys, newDeviceGrant("evil", deviceRoles, []string{"*"}, allCaps(), 0), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	stranger := attackSigner(t)
	signedBy := func(s stmtSigner, claimed signerID, signed []byte) []byte {
		sig, err := s.sign(stmtNamespace, signed)
		if err != nil {
			t.Fatal(err)
		}
		sig.claimed = claimed
		return appendRecord(nil, text, []recordSig{sig})
	}
	otherSpace, err := signSSHSig(w.owner.key, fetchNamespace, text)
	if err != nil {
		t.Fatal(err)
	}
	recovery := trustTestKey("recovery")
	_, old, err := splitRecord(c.log(w.acct())[2])
	if err != nil {
		t.Fatal(err)
	}
	laptopKey, coordKey := sshStmtSigner{w.laptop.id.sshSigner()}, sshStmtSigner{c.me.sshSigner()}
	for _, a := range []struct {
		name, code string
		record     []byte
	}{
		{"by nobody", "record-malformed", appendRecord(nil, text, nil)},
		{"by a stranger", "no-power", signedBy(stranger, stranger.id(), text)},
		{"by a stranger in the owner's name", "sig-invalid", signedBy(stranger, w.owner.id(), text)},
		{"by the coordinator", "no-power", signedBy(coordKey, coordKey.id(), text)},
		{"by a device", "no-power", signedBy(laptopKey, laptopKey.id(), text)},
		{"by the recovery key", "no-power", signedBy(recovery, recovery.id(), text)},
		{"with an earlier signature", "sig-invalid", appendRecord(nil, text, old)},
		{"with a signature of another namespace", "sig-invalid", appendRecord(nil, text, []recordSig{{w.owner.id(), signerSSH, [][]byte{otherSpace}}})},
		{"with a signature of half the statement", "sig-invalid", signedBy(w.owner, w.owner.id(), text[:len(text)/2])},
	} {
		c.turn(c.servesLog(w, func(honest [][]byte) [][]byte { return append(honest, a.record) }))
		attackDenied(t, a.name, attic.update(), a.code)
		if attic.names() != "attic laptop" || attic.trust.state().seq() != 2 {
			t.Errorf("%s: the log now has %s", a.name, attic.names())
		}
	}
	c.turn(attackHooks{})
	w.signDevice(w.join("den"), "server")
	if err := attic.update(); err != nil || attic.names() != "attic den laptop" {
		t.Errorf("the truth after all that: %v, %s", err, attic.names())
	}
}

func TestAttackCoordinatorRewritesRecords(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic := w.join("attic")
	text, err := buildDeviceAdd(w.trust.state(), attic.id.keys, newDeviceGrant("attic", []string{"server"}, []string{"alice"}, []string{"exec"}, 1), time.Now())
	w.publish(text, err)
	evil := presTestIdentity(t).keys
	stmt := func(field string) string {
		_, rest, _ := strings.Cut(string(text), "\n"+field+" ")
		value, _, _ := strings.Cut(rest, "\n")
		return field + " " + value + "\n"
	}
	for _, a := range []struct{ field, to, code string }{
		{"name", "name evil\n", "sig-invalid"},
		{"roles", "roles client,server\n", "sig-invalid"},
		{"users", "users *\n", "sig-invalid"},
		{"users", "users alice,root\n", "sig-invalid"},
		{"caps", "caps exec,forward,pty,sftp,shell\n", "sig-invalid"},
		{"expires", "expires 0\n", "sig-invalid"},
		{"time", fmt.Sprintf("time %d\n", time.Now().Unix()+60), "sig-invalid"},
		{"key", "key ssh-ed25519 " + b64(evil.sshKey().Marshal()) + "\n", "op-invalid"},
		{"path", "path " + b64(evil.path[:]) + "\n", "op-invalid"},
		{"device", "device " + string(evil.deviceID()) + "\n", "op-invalid"},
		{"prev", "prev " + strings.Repeat("0", 63) + "1\n", "fork"},
		{"acct", "acct " + strings.Repeat("0", 63) + "1\n", "wrong-account"},
		{"seq", "seq 3\n", "gap"},
		{"name", "name attic\nname evil\n", "stmt-malformed"},
		{"name", "name at\ntic\n", "stmt-malformed"},
		{"users", "users alice\nexpires 0\n", "stmt-malformed"},
	} {
		fresh := w.join("den")
		changed := strings.Replace(string(text), stmt(a.field), a.to, 1)
		if changed == string(text) {
			t.Fatalf("%s is not in the statement", a.field)
		}
		c.turn(c.servesLog(w, func(honest [][]byte) [][]byte {
			_, sigs, err := splitRecord(honest[2])
			if err != nil {
				t.Error(err)
			}
			return append(honest[:2:2], appendRecord(nil, []byte(changed), sigs))
		}))
		attackDenied(t, fmt.Sprintf("%q", a.to), fresh.update(), a.code)
		if fresh.trust.state().seq() != 1 || fresh.names() != "laptop" {
			t.Errorf("%q: the log now has %s", a.to, fresh.names())
		}
		c.turn(attackHooks{})
		if err := fresh.update(); err != nil || fresh.names() != "attic laptop" {
			t.Errorf("%q: the truth after it: %v, %s", a.to, err, fresh.names())
		}
	}
}

func TestAttackCoordinatorServesAnotherAccount(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	other := newCoordTestAcctAt(t, presTestIdentity(t).keys, time.Now())
	mixed := newCoordTestAcctAt(t, presTestIdentity(t).keys, time.Now())
	fresh := w.join("den")
	for _, a := range []struct {
		name string
		log  func(honest [][]byte) [][]byte
		want string
	}{
		{"whole", func([][]byte) [][]byte { return other.log }, ""},
		{"after our genesis", func(honest [][]byte) [][]byte { return append(honest[:1:1], mixed.log[1]) }, ""},
		{"after our log", func(honest [][]byte) [][]byte { return append(honest, other.log[1]) }, "laptop"},
		{"another genesis at the end", func(honest [][]byte) [][]byte { return append(honest, other.log[0]) }, "laptop"},
	} {
		c.turn(c.servesLog(w, a.log))
		attackDenied(t, a.name, fresh.update(), "wrong-account")
		if fresh.names() != a.want {
			t.Errorf("%s: the log now has %q", a.name, fresh.names())
		}
	}
	c.turn(attackHooks{})
	if err := fresh.update(); err != nil || fresh.names() != "laptop" {
		t.Errorf("the truth after all that: %v, %s", err, fresh.names())
	}
}

// A device that knows of a revocation cannot be talked out of it: not by the
// old log, nor by one that brings the revoked device back.
func TestAttackCoordinatorReplaysAnOldLog(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic, phone := w.join("attic"), w.join("phone")
	w.signDevice(attic, "server")
	w.signDevice(phone, "client")
	if err := phone.update(); err != nil { // it will believe that it is in
		t.Fatal(err)
	}
	yesterday := c.log(w.acct())
	text, err := buildDeviceRevoke(w.trust.state(), []deviceID{phone.id.keys.deviceID()}, "stolen", time.Now())
	w.publish(text, err)
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n, log := attic.serve()
	w.await(attic)
	knows := func(what string) {
		t.Helper()
		if st := attic.trust.state(); st.seq() != 4 || attic.names() != "attic laptop" {
			t.Errorf("%s: the log ends at %d and has %s", what, st.seq(), attic.names())
		}
	}
	var fetched atomic.Int32
	for _, a := range []struct {
		name string
		log  [][]byte
	}{
		{"the old log", yesterday},
		{"the old log, then the signature of the phone again", append(yesterday[:4:4], yesterday[3], yesterday[3])},
		{"nothing but genesis", yesterday[:1]},
	} {
		hooks := c.servesLog(w, func([][]byte) [][]byte { return a.log })
		hooks.fetched = func(by deviceID) { fetched.Add(1) }
		hooks.datagram = func(to deviceID, h msgHead, rest []byte) []byte { return attackOldHead(h, rest, a.log) }
		c.turn(hooks)
		c.tell(w.acct(), attic.id.keys, msgNews, &newsMsg{9, [32]byte{9}}) // it comes and looks
		before := fetched.Load()
		waitUntil(t, func() bool { return fetched.Load() > before })
		knows(a.name)
		attic.update()
		knows(a.name + ", fetched again")
	}
	again, err := openTrustStore(attic.dir, time.Now)
	if err != nil || trustTestNames(again.state()) != "attic laptop" {
		t.Errorf("on disk: %v, %s", err, trustTestNames(again.state()))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go phone.client().openSSH(ctx, "attic")
	waitUntil(t, func() bool { return strings.Contains(log.String(), "ring from phone dropped") })
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.peers.byHint[sealHintOf(w.acct(), phone.id.keys.sign)] != nil {
		t.Error("attic has opened a path to the revoked phone")
	}
}

// attackOldHead makes beats' answers and news tell the head of a log.
func attackOldHead(h msgHead, rest []byte, log [][]byte) []byte {
	head := attackHead(log)
	if m, err := parseBeatAck(rest); h.kind == msgBeatAck && err == nil {
		m.seq, m.head = head.seq, head.head
		return m.append(nil)
	}
	return rest
}

// Two signers, or one whose key is stolen, have continued the log twice, and
// the coordinator shows each device the branch that suits it. When the devices
// meet both know, both take the removals of both branches, and neither takes
// what the other branch adds.
func TestAttackTwoDevicesAreShownTwoHistories(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic, phone := w.join("attic"), w.join("phone")
	w.signDevice(attic, "server")
	w.signDevice(phone, "client")
	thief := presTestIdentity(t)
	theirs, err := buildDeviceAdd(w.trust.state(), thief.keys, newDeviceGrant("theirs", []string{"client"}, []string{"*"}, allCaps(), 0), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	branch := append(c.log(w.acct()), w.sign(theirs))
	text, err := buildDeviceRevoke(w.trust.state(), []deviceID{phone.id.keys.deviceID()}, "stolen", time.Now())
	w.publish(text, err) // the laptop's branch
	c.turn(c.servesLog(w, func([][]byte) [][]byte { return branch }))
	if err := attic.update(); err != nil || attic.names() != "attic laptop phone theirs" {
		t.Fatal(err, attic.names())
	}
	_, log := attic.serve()
	w.await(attic)
	l := w.laptop.client()
	if out, err := w.exec(l, "attic", "echo met"); out != "met\n" {
		t.Fatalf("%q, %v\n%s", out, err, log)
	}
	waitUntil(t, func() bool {
		return len(attic.trust.state().troubles()) > 0 && len(l.trust.state().troubles()) > 0
	})
	attackDenied(t, "attic", attic.trust.state().troubles()[0], "fork")
	attackDenied(t, "laptop", l.trust.state().troubles()[0], "fork")
	if got := attic.names(); got != "attic laptop theirs" {
		t.Errorf("attic has %s", got)
	}
	if got := trustTestNames(l.trust.state()); got != "attic laptop" {
		t.Errorf("laptop has %s", got)
	}
	if _, err := l.trust.state().judge(thief.keys, "client", time.Now()); codeOf(err) != "unknown-device" {
		t.Errorf("the other branch's device: %v", err)
	}
}

// attackFlood counts what a coordinator that never stops sending gets rid of.
type attackFlood struct {
	requests, bytes atomic.Int64
}

// pages answers each fetch with a page of records, and says that a million
// follow.
func (f *attackFlood) pages(page func(from uint64) [][]byte) attackHooks {
	return attackHooks{reply: func(_ *coordPeer, op byte, reply []byte, asked []byte) []byte {
		q, err := parseFetch(asked)
		if op != opFetch || err != nil {
			return reply
		}
		out := (&fetchedMsg{headMsg{1 << 20, [32]byte{1}}, page(q.from)}).append(nil)
		f.requests.Add(1)
		f.bytes.Add(int64(len(out)))
		return out
	}}
}

// A coordinator that never stops sending records is left after the first page
// that does not stand up to judgement.
func TestAttackCoordinatorSendsEndlessRecords(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	fresh := w.join("den")
	honest := c.log(w.acct())
	for _, a := range []struct {
		name string
		page func(from uint64) [][]byte
	}{
		{"records of the largest size", func(uint64) [][]byte { return [][]byte{bytes.Repeat([]byte{7}, maxCoordBody-256)} }},
		{"64 small ones a page", func(uint64) [][]byte { return bytes.SplitAfter(bytes.Repeat([]byte{7}, 64), []byte{7})[:64] }},
		{"the same good ones again and again", func(uint64) [][]byte { return honest }},
		{"nothing, again and again", func(uint64) [][]byte { return nil }},
	} {
		var f attackFlood
		c.turn(f.pages(a.page))
		if err := fresh.update(); err == nil {
			t.Errorf("%s: no error", a.name)
		}
		if f.requests.Load() > 2 || f.bytes.Load() > 2*maxCoordBody {
			t.Errorf("%s: %d requests, %d bytes taken", a.name, f.requests.Load(), f.bytes.Load())
		}
	}
	c.turn(attackHooks{})
	if err := fresh.update(); err != nil || fresh.names() != "laptop" {
		t.Errorf("the truth after all that: %v, %s", err, fresh.names())
	}
}

// Replies that are longer than any may be, or than they say, are cut off.
func TestAttackCoordinatorSendsOversizedReplies(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	fresh := w.join("den")
	var sent atomic.Int64
	for name, head := range map[string][]byte{
		"a length of 4 GiB":                    {statusDone, 0xff, 0xff, 0xff, 0xff},
		"one byte too long":                    append32([]byte{statusDone}, maxCoordBody+1),
		"an error too long":                    append32([]byte{statusError}, maxCoordBody+1),
		"longer than it says":                  append32([]byte{statusDone}, 16),
		"255 records where 64 are allowed":     append(append32([]byte{statusDone}, 1<<16), append(make([]byte, 40), 255)...),
		"a record longer than the whole reply": append(append32([]byte{statusDone}, 100), append(make([]byte, 40), 1, 0x7f, 0, 0, 0)...),
	} {
		sent.Store(0)
		done := make(chan struct{})
		c.turn(attackHooks{stream: func(_ byte, st io.ReadWriteCloser) bool {
			defer close(done)
			_, err := st.Write(head)
			for junk := make([]byte, 1<<16); err == nil; {
				var n int
				n, err = st.Write(junk)
				sent.Add(int64(n))
			}
			return true
		}})
		if err := fresh.update(); err == nil {
			t.Errorf("%s: no error", name)
		}
		<-done // it was told to stop
		if sent.Load() > 2<<20 {
			t.Errorf("%s: %d bytes taken", name, sent.Load())
		}
	}
	c.turn(attackHooks{})
	if err := fresh.update(); err != nil || fresh.names() != "laptop" {
		t.Errorf("the truth after all that: %v, %s", err, fresh.names())
	}
}
