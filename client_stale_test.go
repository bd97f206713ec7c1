package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

// signAnew signs a machine anew; what it was signed for before is void.
func (w *testWorld) signAnew(m *testMachine, lasts time.Duration, roles ...string) {
	w.t.Helper()
	grant := newDeviceGrant(m.name, roles, []string{"*"}, allCaps(), time.Now().Add(lasts).Unix())
	text, err := buildDeviceUpdate(w.trust.state(), m.id.keys.deviceID(), grant, time.Now())
	w.publish(text, err)
}

// laterClient is client, two hours from now.
func (m *testMachine) laterClient() *client {
	c := m.client()
	c.trust.clock = func() time.Time { return time.Now().Add(2 * time.Hour) }
	return c
}

const testYear = 8760 * time.Hour

// A device that its owner has signed anew is entered with a log from before, by
// verbs and by what goes by sessio proxy; and so does a client that was.
func TestStaleLogIsFetchedBeforeAnyoneIsRefused(t *testing.T) {
	w := newTestWorld(t)
	attic, loft, phone := w.join("attic"), w.join("loft"), w.join("phone")
	for _, m := range []*testMachine{attic, loft, phone} {
		w.signDevice(m, "client")
	}
	enters := func(name string, change func()) {
		t.Helper()
		w.must(0, phone.update())
		change()
		for _, m := range []*testMachine{attic, loft} {
			w.must(0, m.update())
		}
		c := phone.laterClient()
		pipe, err := c.openSSH(t.Context(), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		defer pipe.Close()
		if n, err := pipe.Read(make([]byte, 4)); n != 4 {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.signAnew(attic, time.Hour, "server")
	w.signAnew(loft, testYear, "server")
	attic.serve()
	loft.serve()
	w.await(attic)
	w.await(loft)
	enters("attic", func() { w.signAnew(attic, testYear, "server") })
	w.signAnew(loft, testYear, "client")
	enters("loft", func() { w.signAnew(loft, testYear, "server") })
	w.signAnew(phone, time.Hour, "client")
	enters("attic", func() { w.signAnew(phone, testYear, "client") })
	w.signAnew(phone, testYear, "server")
	enters("attic", func() { w.signAnew(phone, testYear, "client") })
}

// What speaks against this machine is said before anything is dialled, with
// what helps.
func TestOwnEntryIsJudgedFirst(t *testing.T) {
	w := newTestWorld(t)
	attic := w.join("attic") // runs nowhere
	w.signDevice(attic, "server")
	thrown, old, server, unsigned := w.join("thrown"), w.join("old"), w.join("basement"), w.join("unsigned")
	w.signDevice(thrown, "client")
	w.signDevice(old, "client")
	w.signDevice(server, "server")
	w.signAnew(old, time.Hour, "client")
	for _, m := range []*testMachine{thrown, old, server} {
		w.must(0, m.update())
	}
	text, err := buildDeviceRevoke(w.trust.state(), []deviceID{thrown.id.keys.deviceID()}, "lost", time.Now())
	w.publish(text, err)
	for _, raw := range w.trust.records(0, maxRecords) { // what a peer has told
		thrown.trust.add(raw)
		unsigned.trust.add(raw)
	}
	for _, c := range []struct {
		m                *testMachine
		code, text, hint string
	}{
		{thrown, "revoked", "connecting to attic: this machine is revoked (lost)", "new identity: another -dir, and a ticket"},
		{old, "expired", "connecting to attic: this machine's signature was good until ", "sessio trust update -device-expires 8760h old"},
		{server, "role", "connecting to attic: this machine is not signed as a client", "sessio trust update -roles server,client basement"},
		{unsigned, "unsigned", "connecting to attic: this machine is not signed yet", "sessio trust sign " + string(unsigned.id.keys.deviceID())},
	} {
		began := time.Now()
		_, err := dialSSH(t.Context(), c.m.laterClient(), "attic", "root")
		if codeOf(err) != c.code || !strings.HasPrefix(err.Error(), c.text) || !strings.Contains(hintOf(err), c.hint) {
			t.Errorf("%s: %v (%s), hint %q", c.m.name, err, codeOf(err), hintOf(err))
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: the reason came after %v", c.m.name, took)
		}
	}
	if _, err := server.client().find(t.Context(), "attic", ""); err != nil {
		t.Errorf("a server pings: %v", err)
	}
	if _, err := attic.client().find(t.Context(), "laptop", ""); err != nil {
		t.Errorf("a pure client is pinged: %v", err)
	}
	c := old.laterClient()
	r := c.report(t.Context(), c.trust.now())
	if r.self.State != "expired" {
		t.Errorf("status: this machine is %s", r.self.State)
	}
	for _, d := range r.devices {
		if gone := d.Name == "old"; d.Signed == gone || d.Expired != gone || d.signedText(c.trust.now()) == "expired" != gone {
			t.Errorf("status: %+v", d)
		}
	}
}

// Without the coordinator a refusal by the log says that the log may be old,
// and this machine's own entry is left to the device, but for a revoked one.
func TestStaleLogWithoutTheCoordinator(t *testing.T) {
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	w.signAnew(w.laptop, time.Hour, "client")
	c := w.laptop.laterClient()
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errClosing)
	if _, err := c.find(ctx, "atic", "client"); codeOf(err) != "unknown-device" || hintOf(err) != "did you mean attic?" ||
		!strings.Contains(err.Error(), "no such device, as far as is known here: ") {
		t.Errorf("%v, hint %q", err, hintOf(err))
	}
	if _, err := c.find(ctx, "attic", "client"); err != nil {
		t.Errorf("with a date of our own: %v", err)
	}
	text, err := buildDeviceRevoke(w.trust.state(), []deviceID{w.laptop.id.keys.deviceID()}, "lost", time.Now())
	w.must(0, err)
	w.must(w.trust.add(w.sign(text)))
	if _, err := c.find(ctx, "attic", "client"); codeOf(err) != "revoked" {
		t.Errorf("revoked: %v", err)
	}
}

// A link that we have dialled lives, by our own date, until its first exchange
// of the log is over, which may bring what is new; one that came does not.
func TestOwnDateWaitsForTheFirstExchange(t *testing.T) {
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	w.signAnew(w.laptop, time.Hour, "client")
	c := w.laptop.laterClient()
	n, err := c.ownNode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = c.withCoord(t.Context(), func(cc *coordClient) error {
		l := &link{device: attic.id.keys.deviceID(), conn: cc.conn, dialed: true, opened: time.Now(), known: make(chan struct{})}
		ends := func(after time.Duration) bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.expireLocked(l.opened.Add(after), l).IsZero()
		}
		if ends(0) {
			t.Error("it ended before its exchange")
		}
		if !ends(headWait) {
			t.Error("it waits for an exchange without end")
		}
		close(l.known)
		if !ends(0) {
			t.Error("it lives on after its exchange")
		}
		l.dialed, l.known = false, make(chan struct{})
		if !ends(0) {
			t.Error("one that came lives on")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
