package main

import (
	"sync/atomic"
	"testing"
	"time"
)

// A testClock is the system's, set forward by as much as the test says.
type testClock struct{ ahead atomic.Int64 }

func (c *testClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// A link ends when the signature of either end is over: at the end whose clock
// says so, be it the signed device or the other, and the other end is told.
func TestLinkEndsWithTheSignature(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		expires   string // whose signature has a date
		late      string // whose clock passes it
		byItself  bool   // the date passes while nobody looks
		prolonged bool   // the owner has signed it for longer in between
	}{
		{"the client's, at the device", "phone", "attic", false, false},
		{"the client's, at the client", "phone", "phone", false, false},
		{"the device's, at the client", "attic", "phone", false, false},
		{"the device's, at the device", "attic", "attic", false, false},
		{"by its timer", "phone", "attic", true, false},
		{"signed for longer", "phone", "attic", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newTestWorld(t)
			m := map[string]*testMachine{"attic": w.join("attic"), "phone": w.join("phone")}
			clocks := map[string]*testClock{}
			life := time.Hour
			if tt.byItself {
				life = 3 * time.Second
			}
			at := time.Now().Add(life)
			for name, role := range map[string]string{"attic": "server", "phone": "client"} {
				expires := int64(0)
				if name == tt.expires {
					expires = at.Unix()
				}
				text, err := buildDeviceAdd(w.trust.state(), m[name].id.keys, newDeviceGrant(name, []string{role}, []string{"*"}, allCaps(), expires), time.Now())
				w.publish(text, err)
			}
			for name, one := range m {
				clocks[name] = &testClock{}
				one.trust.clock = clocks[name].now
				if err := one.update(); err != nil {
					t.Fatal(err)
				}
			}
			an, _ := m["attic"].serve()
			w.await(m["attic"])
			l, err := m["phone"].link("attic")
			if err != nil {
				t.Fatal(err)
			}
			pn := l.owner.(*node)
			if tt.prolonged {
				text, err := buildDeviceUpdate(w.trust.state(), m["phone"].id.keys.deviceID(), newDeviceGrant("phone", []string{"client"}, []string{"*"}, allCaps(), at.Add(time.Hour).Unix()), time.Now())
				w.publish(text, err)
				waitUntil(t, func() bool {
					dev, _ := an.deviceOf(l.device)
					mine, _ := an.deviceOf(pn.id.keys.deviceID())
					return dev.id != "" && mine.expires > at.Unix()
				})
			}
			if !tt.byItself {
				clocks[tt.late].ahead.Store(int64(life))
				an.poke()
				pn.poke()
			}
			if tt.prolonged {
				if err := l.echo(t.Context()); err != nil || l.conn.Context().Err() != nil {
					t.Errorf("%v, %v", err, l.err())
				}
				return
			}
			attackDenied(t, "the link", l.end(), "expired")
			waitUntil(t, func() bool { return len(an.liveLinks()) == 0 })
			if late := time.Since(at); tt.byItself && (late < -time.Second || late > 2*time.Second) {
				t.Errorf("%v after the date", late)
			}
		})
	}
}
