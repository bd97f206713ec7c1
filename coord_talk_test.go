package main

import (
	"net/netip"
	"testing"
	"time"
)

// A coordinator with two addresses, of which the one that answered last is dead:
// what a device sends reaches the other one within seconds.
func TestTalkLeavesADeadAddress(t *testing.T) {
	dead, alive := netip.MustParseAddrPort("198.51.100.1:7722"), netip.MustParseAddrPort("[2001:db8::1]:7722")
	began := time.Now()
	for _, tt := range []struct {
		what   string
		begin  func(c *coordTalk)
		within time.Duration
	}{
		{"a beat", func(c *coordTalk) { c.beating = true }, 3 * time.Second},
		{"a call", func(c *coordTalk) {
			c.call(began, deviceID("x"), func(time.Time, *answerMsg) {}, func(time.Time, *refuseMsg) {})
		}, 350 * ms},
		{"an echo", func(c *coordTalk) { c.echo(began, echoCall{seen: func(time.Time, netip.AddrPort) {}}) }, 700 * ms},
	} {
		c, _ := liveTalk(t)
		c.addrs, c.at, c.beating = []netip.AddrPort{dead, alive}, udpSource{addr: dead}, false
		c.calls, c.echoes = map[callID]*coordCall{}, map[uint64]*echoCall{}
		now, first := began, 0
		reached := time.Duration(-1)
		c.send = func(_ []byte, to udpSource) {
			switch {
			case to.addr == dead && reached < 0:
				first++
			case to.addr == alive && reached < 0:
				reached = now.Sub(began)
			}
		}
		tt.begin(c)
		for range 10 {
			if next := c.tick(now); !next.IsZero() {
				now = next
			}
		}
		if reached != tt.within || first < 2 {
			t.Errorf("%s reaches the other address after %v and %d to the dead one, want %v", tt.what, reached, first, tt.within)
		}
	}
}
