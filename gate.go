package main

// This file decides from which addresses the SSH server takes connections, and
// how many at once: the lists of addresses, bans for failed logins, and how a
// crowd of those who have not logged in is thinned out. It knows no socket and
// no clock, and its caller keeps it to one goroutine at a time.

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A gate remembers failed logins and bans by network: one IPv4 address, or the
// /64 of an IPv6 one, for that is what a single machine commands.
type gate struct {
	began   time.Time // the times below are since then, so that no set clock moves them
	entries map[netip.Prefix]*gateEntry
}

type gateEntry struct {
	fails   []time.Duration // within the window, oldest first
	banned  bool
	until   time.Duration // end of the ban; 0 none
	ordered bool          // by the owner
}

const (
	// maxGateEntries networks are remembered, of which maxGateBans may be banned:
	// what is left counts failures, so that no number of bans makes the server
	// forget how to count. 100 bytes each, and 8 a failure: 0.6 MB by default.
	maxGateEntries = 4096
	maxGateBans    = 3072
	// maxOrderedBans are the owner's own, which no flood pushes out.
	maxOrderedBans = 1024
	// maxAuthAttemptsCounted bounds security.max_auth_attempts.
	maxAuthAttemptsCounted = 100
)

func newGate(now time.Time) *gate {
	return &gate{began: now, entries: map[netip.Prefix]*gateEntry{}}
}

// parsePrefix reads an address or a CIDR as a list of addresses has it: IPv4 in
// IPv6 form is IPv4, and bits after the prefix are an error, for who wrote them
// meant something else.
func parsePrefix(s string) (netip.Prefix, error) {
	bad := func(why string) (netip.Prefix, error) {
		return netip.Prefix{}, fmt.Errorf("%.80q is not an address or CIDR: %s", s, why)
	}
	p, err := netip.ParsePrefix(s)
	if !strings.Contains(s, "/") {
		var a netip.Addr
		a, err = netip.ParseAddr(s)
		p = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case err != nil:
		return bad("such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32")
	case strings.Contains(s, "%"):
		return bad("it has a zone")
	case p.Addr().Is4In6() && p.Bits() < 96:
		return bad("write the IPv4 range itself")
	case p.Addr().Is4In6():
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return bad("it has bits after the prefix: " + p.Masked().String() + " is the network")
	}
	return p, nil
}

// gateAddr is an address as the gate compares it, the zero one for what is
// none: a link without a path says 0.0.0.0.
func gateAddr(s string) netip.Addr {
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Addr().Unmap().IsUnspecified() {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// banAddr reads an address that is to be banned.
func banAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if a = a.Unmap().WithZone(""); err != nil || a.IsUnspecified() {
		return a, withHint(fmt.Errorf("%.80q is not an address", s), "such as 192.0.2.7 or 2001:db8::1, of which the /64 is meant; security.blocked_ips takes networks")
	}
	return a, nil
}

// gateNet is what is counted and banned with a.
func gateNet(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

func onList(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// gateRefusal makes what a gate refuses with.
func gateRefusal(format string, args ...any) error { return coded("address", format, args...) }

// judgeLists says why a, zero if it is not known, may not be here at all. A
// blocked address never may; where allowed ones are set, all others may not.
func judgeLists(c *serverConfig, a netip.Addr) error {
	switch {
	case !a.IsValid() && len(c.blocked)+len(c.allowed) > 0:
		return gateRefusal("its address is not known, and there are lists of addresses")
	case onList(c.blocked, a):
		return gateRefusal("its address is blocked")
	case len(c.allowed) > 0 && !onList(c.allowed, a):
		return gateRefusal("its address is not among those allowed")
	}
	return nil
}

// judge says why a connection from a may not come in now, nil if it may. The
// whitelist opens no door that the other lists close: it keeps the banning hand
// from who stands on it, even where a neighbour has had their /64 banned.
func (g *gate) judge(c *serverConfig, a netip.Addr, now time.Time) error {
	if err := judgeLists(c, a); err != nil || !a.IsValid() || onList(c.whitelist, a) {
		return err
	}
	if e := g.entries[gateNet(a)]; e != nil && e.isBanned(now.Sub(g.began)) {
		return gateRefusal("its address is banned")
	}
	return nil
}

func (e *gateEntry) isBanned(at time.Duration) bool {
	return e.banned && (e.until == 0 || at < e.until)
}

// failed counts a failed login from a, and reports whether that bans it. A
// login that succeeds takes nothing back.
func (g *gate) failed(c *serverConfig, a netip.Addr, now time.Time) (bans bool) {
	if !a.IsValid() || onList(c.whitelist, a) {
		return false
	}
	at, key := now.Sub(g.began), gateNet(a)
	e := g.entries[key]
	if e == nil {
		g.makeRoom(at, c.authWindow)
		e = new(gateEntry)
		g.entries[key] = e
	}
	if e.isBanned(at) {
		return false
	}
	e.banned = false
	e.forget(at, c.authWindow)
	e.fails = append(e.fails, at)
	if len(e.fails) < min(c.maxAuthAttempts, maxAuthAttemptsCounted) {
		return false
	}
	g.makeBanRoom(at)
	*e = gateEntry{banned: true, until: at + c.banTime}
	return true
}

// forget drops failures that are as old as the window.
func (e *gateEntry) forget(at, window time.Duration) {
	e.fails = slices.DeleteFunc(e.fails, func(f time.Duration) bool { return at-f >= window })
}

// makeRoom makes room for one more network: what holds nothing any more goes,
// else of those not banned the one with the fewest failures, the oldest of
// these. So new addresses that fail once each push out each other.
func (g *gate) makeRoom(at, window time.Duration) {
	if len(g.entries) < maxGateEntries {
		return
	}
	var least netip.Prefix
	var with *gateEntry
	for key, e := range g.entries {
		if e.isBanned(at) {
			continue
		}
		if e.forget(at, window); len(e.fails) == 0 {
			delete(g.entries, key)
			continue
		}
		last := func(e *gateEntry) time.Duration { return e.fails[len(e.fails)-1] }
		if with == nil || len(e.fails) < len(with.fails) || len(e.fails) == len(with.fails) && last(e) < last(with) {
			least, with = key, e
		}
	}
	if len(g.entries) >= maxGateEntries {
		delete(g.entries, least)
	}
}

// makeBanRoom lifts the ban that would end first, but for the owner's, where
// there are too many: who wants that must earn as many bans.
func (g *gate) makeBanRoom(at time.Duration) {
	var first netip.Prefix
	var ends time.Duration
	bans := 0
	for key, e := range g.entries {
		if !e.isBanned(at) {
			continue
		}
		bans++
		if !e.ordered && (ends == 0 || e.until < ends) {
			first, ends = key, e.until
		}
	}
	if bans >= maxGateBans {
		delete(g.entries, first)
	}
}

// ban bans a's network for d, 0 without end.
func (g *gate) ban(c *serverConfig, a netip.Addr, d time.Duration, now time.Time) error {
	if onList(c.whitelist, a) {
		return withHint(fmt.Errorf("%s is on the whitelist, and never banned", a), "take it off security.whitelist_ips first")
	}
	at, ordered := now.Sub(g.began), 0
	for _, e := range g.entries {
		if e.ordered && e.isBanned(at) {
			ordered++
		}
	}
	key := gateNet(a)
	e := g.entries[key]
	if ordered >= maxOrderedBans && (e == nil || !e.ordered) {
		return withHint(fmt.Errorf("there are %d such bans already", ordered), "security.blocked_ips takes whole networks")
	}
	if e == nil {
		g.makeRoom(at, c.authWindow)
	}
	g.makeBanRoom(at)
	e = &gateEntry{banned: true, ordered: true}
	if d > 0 {
		e.until = at + d
	}
	g.entries[key] = e
	return nil
}

// unban lifts the ban of a's network, with the failures that led to it.
func (g *gate) unban(a netip.Addr, now time.Time) (was bool) {
	e := g.entries[gateNet(a)]
	if e == nil || !e.isBanned(now.Sub(g.began)) {
		return false
	}
	delete(g.entries, gateNet(a))
	return true
}

// A sshBan is one ban, as sessions bans shows it.
type sshBan struct {
	Address string    `json:"address"` // IPv4, or the /64 of IPv6
	Until   time.Time `json:"until,omitzero"`
	Ordered bool      `json:"ordered"` // by sessions ban
}

// bans lists the bans, those that end first before the others.
func (g *gate) bans(now time.Time) (list []sshBan) {
	at := now.Sub(g.began)
	for key, e := range g.entries {
		if !e.isBanned(at) {
			continue
		}
		b := sshBan{Address: key.String(), Ordered: e.ordered}
		if key.Addr().Is4() {
			b.Address = key.Addr().String()
		}
		if e.until > 0 {
			b.Until = now.Add(e.until - at).Round(0)
		}
		list = append(list, b)
	}
	sortBy(list, func(a, b sshBan) int {
		switch {
		case a.Until.Equal(b.Until):
			return strings.Compare(a.Address, b.Address)
		case a.Until.IsZero() || !b.Until.IsZero() && a.Until.After(b.Until):
			return 1
		}
		return -1
	})
	return list
}

const (
	// maxWaitingNear connections of one network may be not logged in.
	maxWaitingNear = 3
	// From earlyDrop connections that are not logged in on, new ones are dropped
	// by chance: earlyDropRate percent there, all at security's maximum, and in
	// proportion between. That is MaxStartups 10:30:max of sshd_config(5).
	earlyDrop     = 10
	earlyDropRate = 30
)

var errSSHFull = coded("device-busy", "there are as many connections as there may be")

// A crowd counts the connections there are when another comes.
type crowd struct {
	total   int
	waiting int // on the TCP port, not logged in
	near    int // of these, those of the same network
}

// admits says why there is no room for one more. Of one that is trusted, for its
// link has proved a key or its address is on the whitelist, only the total
// counts. chance is a random number in [0,1).
//
// Until it is logged in a connection holds at most maxUnlogged bytes unread and
// some 70 KB more: of 100 that is 60 MB, and 6 MB where memory is small and
// waiting ends at earlyDrop.
func (n crowd) admits(c *serverConfig, trusted, small bool, chance float64) error {
	most := c.maxConnections
	if small {
		most = min(most, earlyDrop)
	}
	switch {
	case n.total >= c.maxConnections:
		return errSSHFull
	case trusted:
		return nil
	case n.near >= maxWaitingNear:
		return fmt.Errorf("%d connections from there are not logged in", n.near)
	case n.waiting >= most:
		return errSSHFull
	case n.waiting < earlyDrop:
		return nil
	}
	rate := earlyDropRate + float64(100-earlyDropRate)*float64(n.waiting-earlyDrop)/float64(most-earlyDrop)
	if chance*100 < rate {
		return fmt.Errorf("dropped by chance: %d connections are not logged in", n.waiting)
	}
	return nil
}
