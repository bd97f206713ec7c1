package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each attack that trust.md begins with, by name, as a hostile coordinator or
// peer would try it: over the wire, against a device with a store on disk.

// trustTestVictim is a device with the account's first n records.
func trustTestVictim(t *testing.T, k *trustTestAcct, n int) (v *trustStore, held func(code string, err error)) {
	v = trustTestStore(t, k, n)
	before := v.state()
	names := trustTestNames(before)
	return v, func(code string, err error) {
		t.Helper()
		if codeOf(err) != code {
			t.Errorf("got %v, want code %q", err, code)
		}
		again, openErr := openTrustStore(v.dir, trustTestClock)
		if openErr != nil || v.state().head() != before.head() || again.state().head() != before.head() || trustTestNames(v.state()) != names {
			t.Error("the victim's log has changed", openErr)
		}
	}
}

func TestTrustAttackInjectKey(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	v, held := trustTestVictim(t, k, 2)
	evil := k.text(opDeviceAdd{trustTestID("evil"), trustTestKeys("evil"), trustTestGrant("evil", "client")})
	_, err := v.add(appendRecord(nil, evil, nil))
	held("record-malformed", err) // no signature at all
	_, err = v.add(k.sign(evil, trustTestKey("coordinator")))
	held("no-power", err) // its own
	forged, err := trustTestKey("coordinator").sign(stmtNamespace, evil)
	if err != nil {
		t.Fatal(err)
	}
	forged.claimed = k.a.id()
	_, err = v.add(appendRecord(nil, evil, []recordSig{forged}))
	held("sig-invalid", err) // under alice's name
	_, sigs, err := splitRecord(k.raws[1])
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.add(appendRecord(nil, evil, sigs))
	held("sig-invalid", err) // alice's signature of something else
	// into the file that stock ssh reads
	file := filepath.Join(v.dir, "authorized_keys")
	if err := os.WriteFile(file, []byte("ssh-ed25519 AAAA evil\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := openTrustStore(v.dir, trustTestClock)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), "evil") {
		t.Errorf("%s %v", text, err)
	}
	if trustTestNames(again.state()) != "attic" {
		t.Error("the derived file was read back")
	}
}

func TestTrustAttackReplayOldLog(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("laptop", "client")
	k.revokeDevice("laptop", k.a)
	v, held := trustTestVictim(t, k, 3)
	n, err := v.add(k.raws[:2]...)
	if n != 0 {
		t.Error(n)
	}
	held("", err)
	// by the protocol: a peer that says it has no more than the old log
	old := trustTestStore(t, k, 2)
	trustTestMeet(t, v, old)
	held("", nil)
	if trustTestNames(old.state()) != "" {
		t.Error("the old log was not brought up to date")
	}
	// and the same device once more under the same keys
	k.bad("op-invalid", k.text(opDeviceAdd{trustTestID("laptop"), trustTestKeys("laptop"), trustTestGrant("laptop", "client")}), k.a)
}

// A revocation withheld by the coordinator comes by any peer that knows it.
func TestTrustAttackHideRevocation(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("laptop", "client")
	k.addDevice("phone", "client")
	k.revokeDevice("laptop", k.a)
	kept, informed := trustTestStore(t, k, 3), trustTestStore(t, k, 4)
	// its coordinator says that there is nothing new: the head that it has
	trustTestMeet(t, kept, trustTestStore(t, k, 3))
	if _, err := kept.state().judge(trustTestKeys("laptop"), "client", trustTestNow); err != nil {
		t.Fatal(err)
	}
	trustTestMeet(t, kept, informed)
	if _, err := kept.state().judge(trustTestKeys("laptop"), "client", trustTestNow); codeOf(err) != "revoked" {
		t.Error(err)
	}
}

func TestTrustAttackTwoHistories(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("laptop", "client")
	k.addDevice("attic")
	x, y := k.branch(), k.branch()
	x.addDevice("evil-x", "client")
	y.revokeDevice("laptop", k.a)
	y.addDevice("evil-y", "client")
	a, b := trustTestStore(t, x, 4), trustTestStore(t, y, 5)
	trustTestMeet(t, a, b)
	for _, c := range []struct {
		s            *trustStore
		mine, theirs string
	}{{a, "evil-x", "evil-y"}, {b, "evil-y", "evil-x"}} {
		if _, err := c.s.state().judge(trustTestKeys("laptop"), "client", trustTestNow); codeOf(err) != "revoked" {
			t.Error("a revocation of one branch does not count:", err)
		}
		if _, err := c.s.state().judge(trustTestKeys(c.mine), "client", trustTestNow); err != nil {
			t.Error(err)
		}
		if _, err := c.s.state().judge(trustTestKeys(c.theirs), "client", trustTestNow); codeOf(err) != "unknown-device" {
			t.Error("the other branch's addition counts:", err)
		}
		if got := trustTestTroubles(c.s.state()); got != "fork" {
			t.Error("nobody is warned:", got)
		}
		again, err := openTrustStore(c.s.dir, trustTestClock)
		if err != nil || trustTestTroubles(again.state()) != "fork" || trustTestNames(again.state()) != trustTestNames(c.s.state()) {
			t.Error("the evidence is forgotten", err)
		}
	}
}

func TestTrustAttackSwapFields(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	good := k.sign(k.text(opDeviceAdd{trustTestID("laptop"), trustTestKeys("laptop"), newDeviceGrant("laptop", []string{"client"}, []string{"alice"}, []string{"exec"}, 1900000000)}), k.a)
	v, held := trustTestVictim(t, k, 2)
	text, sigs, err := splitRecord(good)
	if err != nil {
		t.Fatal(err)
	}
	evil := trustTestKeys("evil")
	for _, c := range [][2]string{
		{"name laptop", "name phone"},
		{"name laptop", "name attic"},
		{"roles client", "roles client,server"},
		{"users alice", "users alice,root"},
		{"users alice", "users *"},
		{"caps exec", "caps exec,forward"},
		{"expires 1900000000", "expires 0"},
		{b64(trustTestKeys("laptop").sshKey().Marshal()), b64(evil.sshKey().Marshal())},
		{"device " + string(trustTestID("laptop")), "device " + string(evil.deviceID())},
		{"time 1800000000", "time 1800000001"},
	} {
		changed := bytes.Replace(text, []byte(c[0]), []byte(c[1]), 1)
		if bytes.Equal(changed, text) {
			t.Fatal(c)
		}
		_, err := v.add(appendRecord(nil, changed, sigs))
		want := "sig-invalid"
		if strings.Contains(c[1], "attic") || strings.Contains(c[1], b64(evil.sshKey().Marshal())) || strings.HasPrefix(c[1], "device") {
			want = "op-invalid"
		}
		held(want, err)
	}
	if n, err := v.add(good); n != 1 || err != nil {
		t.Error(err)
	}
}

func TestTrustAttackOtherAccount(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	other := newTrustTestAcct(t) // same signers, another nonce
	other.addDevice("attic")
	other.addDevice("evil", "client")
	v, held := trustTestVictim(t, k, 2)
	for _, raw := range other.raws {
		_, err := v.add(raw)
		held("wrong-account", err)
	}
	o := trustTestStore(t, other, 3)
	known := exchangeOpts{peerKnown: true}
	errV, errO := trustTestExchange(t, v, o, known, known)
	held("wrong-account", errV)
	if codeOf(errO) != "wrong-account" {
		t.Error(errO)
	}
	// a record whose account line alone was changed to ours
	text, sigs, err := splitRecord(other.raws[2])
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte(other.state.acct().String()), []byte(k.state.acct().String()), 1)
	_, err = v.add(appendRecord(nil, text, sigs))
	held("fork", err)
}

// A joining machine that is given a log that does not begin as its ticket says
// takes nothing of it.
func TestTrustAttackAlteredJoin(t *testing.T) {
	k, evil := newTrustTestAcct(t), newTrustTestAcct(t)
	evil.addDevice("attic")
	joiner, err := openTrustStore(t.TempDir(), trustTestClock)
	if err != nil {
		t.Fatal(err)
	}
	if err := joiner.setAnchor(trustTestAnchor(k)); err != nil {
		t.Fatal(err)
	}
	if n, err := joiner.add(evil.raws...); n != 0 || codeOf(err) != "wrong-account" {
		t.Error(n, err)
	}
	// a peer that lies about its account and hands out the other log
	err = trustTestHostile(t, joiner, func(p *trustTestPeer) {
		p.hello(logHelloMsg{acct: k.state.acct(), tip: logTip{1, evil.state.head()}, min: 1, max: 1})
		p.read(frameHello)
		p.read(frameGet)
		p.write(frameRecords, (&logRecordsMsg{evil.raws}).append(nil))
	})
	if codeOf(err) != "wrong-account" || joiner.state() != nil {
		t.Error(err)
	}
	if err := joiner.setAnchor(trustTestAnchor(evil)); codeOf(err) != "wrong-account" {
		t.Error("the pin was replaced:", err)
	}
}

func TestTrustAttackNewlineInName(t *testing.T) {
	k := newTrustTestAcct(t)
	for _, name := range []string{"a\nb", "a\n", "a b", "a\rb", "a\x00b", "a,b", "*", "a#b", "a\"b", "ä", ""} {
		g := trustTestGrant(name)
		if _, err := buildDeviceAdd(k.state, trustTestKeys("x"), g, trustTestNow); codeOf(err) != "stmt-malformed" {
			t.Errorf("name %q: %v", name, err)
		}
		k.refusedSigned("stmt-malformed", k.text(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), g}))
		g = newDeviceGrant("x", []string{"server"}, []string{name + "x y"}, deviceCaps, 0)
		k.refusedSigned("stmt-malformed", k.text(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), g}))
	}
	// a line smuggled in by way of a value
	g := trustTestGrant("x\nroles client,server")
	k.refusedSigned("stmt-malformed", k.text(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), g}))
}

// refusedSigned has alice sign text, however odd, and expects the code.
func (k *trustTestAcct) refusedSigned(code string, text []byte) {
	k.t.Helper()
	sig, err := k.a.sign(stmtNamespace, text)
	if err != nil {
		k.t.Fatal(err)
	}
	k.refused(code, appendRecord(nil, text, []recordSig{sig}))
}

// Endless data: records, frames, requests, silence.
func TestTrustAttackEndlessData(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	v, held := trustTestVictim(t, k, 2)
	_, err := v.add(make([]byte, 1<<20))
	held("record-malformed", err)
	far := logTip{500, stmtHash{1}}
	hello := logHelloMsg{acct: k.state.acct(), tip: far, min: 1, max: 1}
	for name, script := range map[string]func(p *trustTestPeer){
		"a frame that is too long": func(p *trustTestPeer) {
			p.raw([]byte{frameHello, 0, 1, 0, 1})
		},
		"hellos without end": func(p *trustTestPeer) {
			for p.ok {
				p.hello(hello)
			}
		},
		"requests without end": func(p *trustTestPeer) {
			p.hello(hello)
			go io.Copy(io.Discard, p.c)
			for p.ok {
				p.write(frameGet, (&logGetMsg{k.state.head(), 0, 1}).append(nil))
			}
		},
		"records nobody asked for": func(p *trustTestPeer) {
			h := hello
			h.tip = logTip{1, k.state.head()}
			p.hello(h)
			for p.ok {
				p.write(frameRecords, (&logRecordsMsg{k.raws}).append(nil))
			}
		},
		"the same records for ever": func(p *trustTestPeer) {
			p.hello(hello)
			p.read(frameHello)
			for p.ok {
				p.read(frameGet)
				p.write(frameRecords, (&logRecordsMsg{k.raws}).append(nil))
			}
		},
		"frames of no known type": func(p *trustTestPeer) {
			p.hello(hello)
			p.write(9, nil)
		},
		"too many records at once": func(p *trustTestPeer) {
			p.hello(hello)
			p.read(frameHello)
			p.read(frameGet)
			p.write(frameRecords, []byte{maxReplyRecords + 1})
		},
	} {
		if err := trustTestHostile(t, v, script); err == nil {
			t.Errorf("%s: the exchange ended well", name)
		}
		held("", nil)
	}
	// silence ends when the caller's patience does
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	if err := runExchange(ctx, ours, v, exchangeOpts{peerKnown: true}); err == nil {
		t.Error("silence is an exchange")
	}
}

// A trustTestPeer speaks frames as a test tells it to.
type trustTestPeer struct {
	c  net.Conn
	ok bool
	t  testing.TB
}

func (p *trustTestPeer) raw(b []byte) {
	if _, err := p.c.Write(b); err != nil {
		p.ok = false
	}
}

func (p *trustTestPeer) write(typ byte, body []byte) { p.raw(appendFrame(nil, typ, body)) }
func (p *trustTestPeer) hello(m logHelloMsg)         { p.write(frameHello, m.append(nil)) }

// read takes one frame and wants it to be of type typ while all is well.
func (p *trustTestPeer) read(typ byte) []byte {
	got, body, err := readFrame(p.c, func(byte, int) error { return nil })
	if err != nil || got != typ {
		p.ok = false
		return nil
	}
	return body
}

// trustTestHostile runs an exchange of v with a peer that follows script.
func trustTestHostile(t testing.TB, v *trustStore, script func(p *trustTestPeer)) error {
	return trustTestScripted(t, v, exchangeOpts{peerKnown: true}, script)
}

func trustTestScripted(t testing.TB, v *trustStore, o exchangeOpts, script func(p *trustTestPeer)) error {
	t.Helper()
	ours, theirs := net.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	done := make(chan error)
	go func() {
		err := runExchange(ctx, ours, v, o)
		ours.Close()
		done <- err
	}()
	script(&trustTestPeer{theirs, true, t})
	theirs.Close()
	err := <-done
	if ctx.Err() != nil {
		t.Error("the exchange did not end by itself", fmt.Sprint(err))
	}
	return err
}
