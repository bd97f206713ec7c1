package main

import (
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
