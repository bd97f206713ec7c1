package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// These tests have the coordinator on another branch of the log than a machine:
// its store was restored from an old copy, or it lies.

// refreshed is the machine's log, as its device has it on disk now.
func (m *testMachine) refreshed() *trustState {
	m.w.t.Helper()
	if _, err := m.trust.refresh(); err != nil {
		m.w.t.Error(err)
	}
	return m.trust.state()
}

func (m *testMachine) mustUpdate() {
	m.w.t.Helper()
	if err := m.update(); err != nil {
		m.w.t.Fatalf("%s: %v", m.name, err)
	}
}

// A store restored from a copy one record old: what is signed then reaches all who
// have the record that was lost, and a recover brings them together.
func TestForkRestoredStore(t *testing.T) {
	t.Parallel()
	dir, out := t.TempDir(), &testLog{}
	w, stop := newTestWorldIn(t, dir, out)
	attic, phone, den := w.join("attic"), w.join("phone"), w.join("den")
	w.signDevice(attic, "server")
	w.signDevice(phone, "client")
	w.signDevice(den, "client")
	den.mustUpdate()
	phone.mustUpdate()
	logs, err := filepath.Glob(filepath.Join(dir, "coord", "accounts", "*", "log"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	old, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	text, err := buildDeviceAdd(w.trust.state(), trustTestKeys("lost"), trustTestGrant("lost"), time.Now())
	w.publish(text, err) // record 5
	attic.mustUpdate()
	stop()
	if err := os.WriteFile(logs[0], old, 0o600); err != nil {
		t.Fatal(err)
	}
	w.startCoordinator(dir, w.word.addr, out)
	halt, log := attic.run(defaultHold)
	if out, err := w.exec(phone.client(), "attic", "echo in"); out != "in\n" {
		t.Fatalf("%q, %v\n%s", out, err, log)
	}

	// den, which has met nobody, signs another record 5
	text, err = buildDeviceRevoke(den.trust.state(), []deviceID{phone.id.keys.deviceID()}, "stolen", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	den.withCoord(func(ctx context.Context, c *coordClient) error { return c.append(ctx, w.acct(), w.sign(text)) })
	den.mustUpdate()
	phoneID := phone.id.keys.deviceID()
	gone := func() bool { d, _ := attic.refreshed().device(phoneID); return d.revoked }
	waitUntil(t, gone)
	if !attic.trust.knows(logTip{5, den.refreshed().head()}) || attic.trust.state().head() != w.trust.state().head() {
		t.Error("attic has left its log, or kept no evidence")
	}
	halt()
	if !strings.Contains(log.String(), "two statements 5") {
		t.Errorf("the device says nothing:\n%s", log)
	}
	_, log = attic.run(defaultHold)
	ctx, leave := context.WithCancel(t.Context())
	refused := make(chan error, 1)
	own, err := phone.client().ownNode(ctx) // the verb itself would say that it is revoked
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := own.openSSHByID(ctx, attic.id.keys.deviceID())
		refused <- err
	}()
	waitUntil(t, func() bool { return strings.Contains(log.String(), "dropped: revoked") })
	leave() // it would ring for long
	if err := <-refused; err == nil {
		t.Errorf("the revoked device is in\n%s", log)
	}
	if !strings.Contains(log.String(), "two statements 5") || strings.Contains(log.String(), "fetching the log") {
		t.Errorf("the device started anew says:\n%s", log)
	}

	// the laptop hears of it, and can sign nothing more
	for range 2 {
		if said, _ := w.laptop.verb("status"); strings.Count(said, "two statements 5") != 1 {
			t.Error(said)
		}
	}
	said, err := w.laptop.verb("trust", "revoke", "-key", w.ownerKey(), "lost")
	if codeOf(err) != "fork" || !strings.Contains(said, "recover -dir EMPTY -key NEW s1/"+w.word.addr) {
		t.Error(said, err)
	}

	w.recoverIn("spare")
	waitUntil(t, func() bool { s := attic.refreshed().signers(); return s[len(s)-1].label == "fresh" })
	w.laptop.mustUpdate()
	if got := w.laptop.names(); got != "attic den laptop spare" || w.trust.state().trouble != nil {
		t.Error(got, w.trust.state().trouble)
	}
}

// recoverIn is trust recover in an empty directory.
func (w *testWorld) recoverIn(name string) {
	w.t.Helper()
	m, none, no := w.machine(name), "", false
	since, fresh := uint64(0), trustTestKey("fresh")
	r := &recovering{force: &no, since: &since, key: &none, passkey: &no, name: &name,
		recovery: trustTestKey("recovery"), owner: fresh, line: trustTestLine(fresh, "ds", "fresh")}
	p := &program{stdio: stdio{nil, nullFile(w.t), nullFile(w.t)}, now: time.Now}
	word := coordWord{addr: w.word.addr, keys: w.keys.coordID(), acct: w.acct()}
	m.withCoord(func(ctx context.Context, c *coordClient) error {
		return r.recover(ctx, &acting{&client{dir: m.dir, id: m.id, trust: m.trust, logf: (&testLog{}).logf}, p, c, word.acct}, word)
	})
}

func nullFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Where two long branches part is found, whichever is the longer, and what is on
// the other one is kept.
func TestForkFarBack(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]struct{ ours, theirs int }{"behind": {3, 20}, "ahead": {20, 2}} {
		w, c := newAttackWorld(t)
		attic := w.join("attic")
		w.signDevice(attic, "server")
		attic.mustUpdate()
		other := attic.trust.state()
		for i := range n.ours {
			text, err := buildDeviceUpdate(other, w.laptop.id.keys.deviceID(), newDeviceGrant("laptop", []string{"client"}, []string{"*"}, allCaps(), int64(i+1)), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			w.must(attic.trust.add(w.sign(text)))
			other = attic.trust.state()
		}
		for i := range n.theirs {
			text, err := buildDeviceUpdate(w.trust.state(), attic.id.keys.deviceID(), newDeviceGrant("attic", []string{"server"}, []string{"*"}, allCaps(), 1<<40+int64(i)), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			rec := w.sign(text)
			w.must(w.trust.add(rec))
			if a, err := c.store.account(w.acct()); err != nil {
				t.Fatal(err)
			} else if _, _, err := a.append(rec, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // again: what is known already is well
			if err := attic.update(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		st := attic.trust.state()
		if !attic.trust.knows(logTip{w.trust.state().seq(), w.trust.state().head()}) || st.head() != other.head() {
			t.Errorf("%s: nothing kept, or the log changed", name)
		}
	}
}

// A coordinator that shows a branch without end, or without a beginning, is left
// after one search.
func TestForkSearchIsBounded(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	den := w.join("den")
	w.signDevice(den, "client")
	den.mustUpdate()
	st := den.trust.state()
	var alien [][]byte // record n does not follow record n-1 of anybody's
	for seq := range uint64(3) {
		text, err := buildDeviceUpdate(st, den.id.keys.deviceID(), newDeviceGrant("den", []string{"client"}, []string{"*"}, allCaps(), int64(seq+1)), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		old, prev := bytes.Index(text, []byte("\nprev ")), bytes.Index(text, []byte("\ntime "))
		text = append(append(bytes.Clone(text[:old]), "\nprev "+strings.Repeat("ab", 32)...), text[prev:]...)
		seqAt, seqEnd := bytes.Index(text, []byte("\nseq ")), bytes.Index(text, []byte("\nprev "))
		text = append(append(bytes.Clone(text[:seqAt]), "\nseq "+string('1'+byte(seq))...), text[seqEnd:]...)
		alien = append(alien, w.sign(text))
	}
	honest := c.log(w.acct())
	for _, a := range []struct {
		name string
		page func(from uint64) [][]byte
	}{
		{"no beginning", func(from uint64) [][]byte {
			if from == 0 {
				return alien[:1]
			}
			return alien[from-1 : from]
		}},
		{"a beginning that leads nowhere", func(from uint64) [][]byte {
			if from == 0 {
				return honest[:1]
			}
			return alien[from-1 : from]
		}},
		{"nothing", func(uint64) [][]byte { return nil }},
	} {
		var f attackFlood
		c.turn(f.pages(a.page))
		if err := den.update(); err == nil {
			t.Errorf("%s: no error", a.name)
		}
		if n := f.requests.Load(); n > 3 {
			t.Errorf("%s: %d requests", a.name, n)
		}
	}
	if den.trust.state() != st {
		t.Error("something was taken")
	}
}

// A coordinator that says stale-head without reason gets one statement of a
// number, on a terminal too.
func TestForkFalseStaleHead(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	c.turn(attackHooks{stream: func(op byte, st io.ReadWriteCloser) bool {
		if op == opAppend {
			writeCoordFrame(st, statusError, (&failureMsg{"stale-head", "the log has gone on"}).append(nil))
		}
		return op == opAppend
	}})
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	defer tty.Close()
	p, asked := &program{stdio: stdio{tty, nullFile(t), nullFile(t)}, now: time.Now}, 0
	err = p.act(t.Context(), stateDir{&w.laptop.dir}, false, func(ctx context.Context, a *acting) error {
		return a.submit(ctx, proposal{
			build: func(st *trustState) ([]byte, error) {
				return buildDeviceAdd(st, trustTestKeys("x"), trustTestGrant("x"), time.Now())
			},
			consent: func(context.Context, []byte) (bool, error) {
				if asked++; asked > 1 {
					return false, errors.New("asked again")
				}
				return true, nil
			},
			signers: []stmtSigner{w.owner},
		})
	})
	if codeOf(err) != "fork" || asked != 1 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}
