package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func gateConf(whitelist, allowed, blocked string) *serverConfig {
	c := defaultServerConfig()
	for list, text := range map[*[]netip.Prefix]string{&c.whitelist: whitelist, &c.allowed: allowed, &c.blocked: blocked} {
		for f := range strings.FieldsSeq(text) {
			p, err := parsePrefix(f)
			if err != nil {
				panic(err)
			}
			*list = append(*list, p)
		}
	}
	return c
}

// gateFrom is an address as a connection brings it.
func gateFrom(s string) netip.Addr {
	if strings.Contains(s, ":") {
		s = "[" + s + "]"
	}
	return gateAddr(s + ":22")
}

func TestGateLists(t *testing.T) {
	for _, c := range []struct {
		whitelist, allowed, blocked, from, why string
	}{
		{"", "", "", "192.0.2.1", ""},
		{"", "", "192.0.2.0/24", "192.0.2.1", "blocked"},
		{"", "", "192.0.2.0/24", "::ffff:192.0.2.1", "blocked"},
		{"", "", "::ffff:192.0.2.0/120", "192.0.2.1", "blocked"},
		{"", "", "192.0.2.0/24", "192.0.3.1", ""},
		{"", "", "2001:db8::/32", "2001:db8::1", "blocked"},
		{"", "", "fe80::/10", "fe80::1%eth0", "blocked"},
		{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1", "blocked"}, // wins over all
		{"", "192.0.2.1", "", "192.0.2.1", ""},
		{"", "192.0.2.1", "", "::ffff:192.0.2.1", ""},
		{"", "192.0.2.1", "", "192.0.2.2", "not among"},
		{"192.0.2.2", "192.0.2.1", "", "192.0.2.2", "not among"}, // the whitelist opens nothing
		{"", "", "", "0.0.0.0", ""},                              // a link without a path
		{"", "192.0.2.1", "", "0.0.0.0", "not known"},
		{"", "", "192.0.2.1", "::", "not known"},
	} {
		err := newGate(time.Now()).judge(gateConf(c.whitelist, c.allowed, c.blocked), gateFrom(c.from), time.Now())
		if c.why == "" && err != nil || c.why != "" && (codeOf(err) != "address" || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestGateBans(t *testing.T) {
	c, now := gateConf("192.0.2.9 2001:db8::9", "", ""), time.Now()
	g := newGate(now)
	fail := func(from string, times int, after time.Duration) (bans bool) {
		for range times {
			bans = g.failed(c, gateFrom(from), now.Add(after))
		}
		return bans
	}
	banned := func(from string, after time.Duration) bool {
		return g.judge(c, gateFrom(from), now.Add(after)) != nil
	}
	if fail("192.0.2.1", 4, 0) || banned("192.0.2.1", 0) || !fail("::ffff:192.0.2.1", 1, time.Second) || !banned("192.0.2.1", time.Second) {
		t.Error("five failures, or fewer")
	}
	if !banned("::ffff:192.0.2.1", time.Second) || banned("192.0.2.2", time.Second) {
		t.Error("another form, another address")
	}
	if !banned("192.0.2.1", 300*time.Second) || banned("192.0.2.1", 301*time.Second) {
		t.Error("the ban's end")
	}
	// after it all begins anew
	if fail("192.0.2.1", 4, 302*time.Second) {
		t.Error("banned again for less")
	}
	fail("192.0.2.3", 4, 0)
	if fail("192.0.2.3", 4, 300*time.Second) {
		t.Error("failures outside the window count")
	}
	if !fail("192.0.2.3", 1, 599*time.Second) {
		t.Error("failures within the window do not count")
	}
	if fail("192.0.2.9", 50, 0) || banned("192.0.2.9", 0) {
		t.Error("banned from the whitelist")
	}
	for i := range 5 { // one machine has all of a /64
		fail(fmt.Sprintf("2001:db8::%d", i+1), 1, 0)
	}
	if !banned("2001:db8::ffff", 0) || banned("2001:db8:0:1::1", 0) || banned("2001:db8::9", 0) {
		t.Error("the /64, its neighbour, the whitelisted in it")
	}
}

// A flood of failures from new addresses lifts no ban, nor does one of bans lift
// the owner's, and the gate remembers no more than it may.
func TestGateFlood(t *testing.T) {
	c, now := defaultServerConfig(), time.Now()
	g := newGate(now)
	victim, owners := gateFrom("192.0.2.1"), gateFrom("192.0.2.2")
	for range c.maxAuthAttempts {
		g.failed(c, victim, now)
	}
	if err := g.ban(c, owners, 0, now); err != nil {
		t.Fatal(err)
	}
	near := gateFrom("192.0.2.3") // one failure short of a ban
	for range c.maxAuthAttempts - 1 {
		g.failed(c, near, now)
	}
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range 2 * maxGateEntries {
		g.failed(c, at(i), now)
	}
	if g.judge(c, victim, now) == nil || g.judge(c, owners, now) == nil || !g.failed(c, near, now) {
		t.Error("a flood of failures made it forget")
	}
	later := now.Add(time.Second)
	for i := range 3 * maxGateEntries / 2 {
		for range c.maxAuthAttempts {
			g.failed(c, at(i), later)
		}
		if len(g.entries) > maxGateEntries || g.judge(c, at(i), later) == nil {
			t.Fatalf("%d entries, %d bans", len(g.entries), len(g.bans(later)))
		}
	}
	if g.judge(c, owners, later) == nil || len(g.bans(later)) != maxGateBans {
		t.Errorf("a flood of bans: the owner's is %v, %d in all", g.judge(c, owners, later), len(g.bans(later)))
	}
	if !g.unban(owners, later) || g.unban(owners, later) || g.judge(c, owners, later) != nil {
		t.Error("unban")
	}
}

func TestGateOrders(t *testing.T) {
	c, now := gateConf("192.0.2.9", "", ""), time.Now()
	g := newGate(now)
	if err := g.ban(c, gateFrom("192.0.2.9"), 0, now); err == nil {
		t.Error("banned from the whitelist")
	}
	for i, d := range []time.Duration{0, time.Hour, time.Minute} {
		if err := g.ban(c, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), d, now); err != nil {
			t.Fatal(err)
		}
	}
	g.ban(c, gateFrom("2001:db8::1"), time.Minute, now)
	var got []string
	for _, b := range g.bans(now) {
		got = append(got, b.Address)
	}
	if want := []string{"10.0.0.2", "2001:db8::/64", "10.0.0.1", "10.0.0.0"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
	if left := len(g.bans(now.Add(time.Minute))); left != 2 {
		t.Errorf("%d left after a minute", left)
	}
	for i := range maxOrderedBans {
		g.ban(c, netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}), 0, now)
	}
	if err := g.ban(c, gateFrom("192.0.2.1"), 0, now); err == nil {
		t.Error("more than there may be")
	}
	if err := g.ban(c, gateFrom("10.0.0.0"), time.Hour, now); err != nil { // one of them again
		t.Error(err)
	}
	for _, bad := range []string{"", "attic", "10.0.0.0/8", "0.0.0.0", "::"} {
		if _, err := banAddr(bad); err == nil {
			t.Errorf("%q is an address", bad)
		}
	}
}

// A gateModel says of one address what the gate must: from all failures there
// were, in the plainest way.
type gateModel struct {
	fails []time.Duration
	until time.Duration
}

func (m *gateModel) failed(c *serverConfig, at time.Duration) {
	if at < m.until {
		return
	}
	m.fails = append(m.fails, at)
	n := 0
	for _, f := range m.fails {
		if at-f < c.authWindow {
			n++
		}
	}
	if n >= c.maxAuthAttempts {
		m.until, m.fails = at+c.banTime, nil
	}
}

// TestGateIsAsItsModel plays random failures of a few addresses.
func TestGateIsAsItsModel(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		c := defaultServerConfig()
		c.maxAuthAttempts = 1 + r.IntN(6)
		c.authWindow, c.banTime = time.Duration(1+r.IntN(40))*time.Second, time.Duration(1+r.IntN(40))*time.Second
		began := time.Now()
		g, model := newGate(began), make([]gateModel, 3)
		var at time.Duration
		for range 200 {
			at += time.Duration(r.IntN(8)) * time.Second
			i := r.IntN(len(model))
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			if r.IntN(3) > 0 {
				g.failed(c, a, began.Add(at))
				model[i].failed(c, at)
			}
			if got, want := g.judge(c, a, began.Add(at)) != nil, at < model[i].until; got != want {
				t.Fatalf("seed %d at %v: banned %v, the model says %v", seed, at, got, want)
			}
		}
	}
}

// TestCrowd: MaxStartups 10:30:100, three of a network, and all in all.
func TestCrowd(t *testing.T) {
	c := defaultServerConfig()
	for _, n := range []struct {
		crowd
		trusted, small bool
		chance         float64
		in             bool
	}{
		{crowd{0, 0, 0}, false, false, 0, true},
		{crowd{99, 0, 0}, false, false, 0, true},
		{crowd{100, 0, 0}, false, false, 0.99, false},
		{crowd{100, 0, 0}, true, false, 0.99, false},
		{crowd{99, 99, 99}, true, false, 0, true},
		{crowd{3, 3, 2}, false, false, 0, true},
		{crowd{3, 3, 3}, false, false, 0.99, false},
		{crowd{9, 9, 0}, false, false, 0, true},
		{crowd{10, 10, 0}, false, false, 0.29, false},
		{crowd{10, 10, 0}, false, false, 0.31, true},
		{crowd{55, 55, 0}, false, false, 0.64, false},
		{crowd{55, 55, 0}, false, false, 0.66, true},
		{crowd{99, 99, 0}, false, false, 0.98, false},
		{crowd{9, 9, 0}, false, true, 0, true},
		{crowd{10, 10, 0}, false, true, 0.99, false},
	} {
		if err := n.admits(c, n.trusted, n.small, n.chance); (err == nil) != n.in {
			t.Errorf("%+v: %v", n, err)
		}
	}
	c.maxConnections = 5 // fewer than where the dropping begins
	if (crowd{4, 4, 0}).admits(c, false, false, 0) != nil || (crowd{5, 5, 0}).admits(c, false, false, 0.99) == nil {
		t.Error("five in all")
	}
}

func TestParsePrefix(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "192.0.2.0/24": "192.0.2.0/24", "2001:db8::1": "2001:db8::1/128", "0.0.0.0/0": "0.0.0.0/0",
		"::ffff:192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.0/120": "192.0.2.0/24", "::/0": "::/0",
		"": "", "attic": "", "192.0.2.7/24": "", "192.0.2.0/33": "", "fe80::1%eth0": "", "::ffff:0:0/90": "", "192.0.2.1-9": "", "10.0.0.0/08": "",
	} {
		p, err := parsePrefix(in)
		if err == nil != (want != "") || err == nil && p.String() != want {
			t.Errorf("%q: %v, %v", in, p, err)
		}
	}
}

func FuzzParsePrefix(f *testing.F) {
	for _, s := range []string{"192.0.2.7", "::ffff:192.0.2.0/120", "fe80::1%x", "2001:db8::/32", "::ffff:0:0/95", "1.2.3.4/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePrefix(s)
		if err != nil {
			return
		}
		again, err := parsePrefix(p.String())
		if err != nil || again != p || !p.IsValid() || p.Addr().Is4In6() || !p.Contains(p.Addr()) {
			t.Errorf("%q: %v, then %v, %v", s, p, again, err)
		}
	})
}

// FuzzGate: whatever happens, the gate stays within its bounds, a ban is a ban
// and the whitelist holds.
func FuzzGate(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1, 0, 1, 2, 1, 3, 1})
	f.Fuzz(func(t *testing.T, moves []byte) {
		c := gateConf("10.0.0.255", "", "")
		c.maxAuthAttempts = 2
		now := time.Now()
		g := newGate(now)
		for ; len(moves) > 1; moves = moves[2:] {
			a := netip.AddrFrom4([4]byte{10, 0, 0, moves[1]})
			switch moves[0] % 5 {
			case 0:
				if g.failed(c, a, now) && g.judge(c, a, now) == nil {
					t.Fatal("banned and let in")
				}
			case 1:
				now = now.Add(time.Duration(moves[1]) * time.Second)
			case 2:
				if g.ban(c, a, time.Duration(moves[1])*time.Second, now) == nil && g.judge(c, a, now) == nil {
					t.Fatal("banned and let in")
				}
			case 3:
				if g.unban(a, now); g.judge(c, a, now) != nil {
					t.Fatal("lifted and kept out")
				}
			case 4:
				if len(g.bans(now)) > len(g.entries) {
					t.Fatal("bans of nobody")
				}
			}
			if g.judge(c, netip.AddrFrom4([4]byte{10, 0, 0, 255}), now) != nil {
				t.Fatal("the whitelist does not hold")
			}
		}
	})
}
