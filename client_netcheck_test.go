package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Each kind of NAT and of network has its words.
func TestNetcheckWords(t *testing.T) {
	yes, no := true, false
	works := netVersion{State: "works", Local: "192.168.1.5", Addresses: []string{"192.168.1.5"}, Observed: "203.0.113.7:41000", Filter: "port"}
	none := netVersion{State: "none"}
	for _, c := range []struct {
		name string
		r    netReport
		says []string
	}{
		{"public", netReport{IPv4: netVersion{State: "works", Local: "203.0.113.7", Observed: "203.0.113.7:41000", Filter: "open"}, IPv6: none, NAT: netNAT{Kind: "none", PortKept: true}},
			[]string{"IPv4:          203.0.113.7, and the coordinator sees the same", "NAT:           none\n", "lets in:       anybody, once it has been sent from", "ports           yes, at once"}},
		{"ordinary", netReport{IPv4: works, IPv6: none, NAT: netNAT{Kind: "same", PortKept: true, Hairpin: &no}},
			[]string{"IPv4:          192.168.1.5, the coordinator sees 203.0.113.7:41000", "IPv6:          none here", "ordinary: one port for all peers, the same as here",
				"hairpin:       no: ", "lets in:       only whom was sent to", "ordinary router        yes, at once", "has a block  yes, in about a second"}},
		{"ordinary, another port, double", netReport{IPv4: works, IPv6: none, NAT: netNAT{Kind: "same", Double: true, Hairpin: &yes}},
			[]string{"ordinary: one port for all peers\n", "               double: the router stands behind another NAT", "hairpin:       yes\n"}},
		{"counting", netReport{IPv4: works, IPv6: none, NAT: netNAT{Kind: "step", Step: -2}},
			[]string{"symmetric, counting: each peer sees another port, the next one (-2)", "ordinary router        yes, in about a second", "has a block  mostly", "random ports           no\n", "Where it says no, IPv6 at both ends or a port mapping"}},
		{"block", netReport{IPv4: works, IPv6: none, NAT: netNAT{Kind: "block", Low: 2011, High: 2999}},
			[]string{"symmetric, with a block: each peer sees another port, out of about 2011 to 2999"}},
		{"random", netReport{IPv4: works, IPv6: none, NAT: netNAT{Kind: "random"}},
			[]string{"symmetric, random: each peer sees another port, any of all", "ordinary router        yes, within a few seconds", "has a block  no\n", "random ports           no\n"}},
		{"unknown", netReport{IPv4: works, IPv6: none, NAT: netNAT{Kind: "unknown", Why: "so"}},
			[]string{"NAT:           not known: so\n", "ordinary router        not known"}},
		{"IPv6 too", netReport{IPv4: works, IPv6: netVersion{State: "works", Local: "2001:db8::5", Observed: "[2001:db8::5]:41000", Filter: "port"}, NAT: netNAT{Kind: "random"}},
			[]string{"IPv6:           2001:db8::5, and the coordinator sees the same", "lets in, IPv6:  only whom", "with IPv6                                          yes, at once"}},
		{"IPv6 alone", netReport{IPv4: none, IPv6: netVersion{State: "works", Local: "2001:db8::5", Observed: "[2001:db8::5]:41000"}, NAT: netNAT{Kind: "unknown"}},
			[]string{"IPv4:          none here", "ordinary router        no\n", "There is no IPv4 here: the other end needs IPv6"}},
		{"IPv6 that leads nowhere", netReport{IPv4: works, IPv6: netVersion{State: "silent", Local: "2001:db8::5"}},
			[]string{"IPv6:          2001:db8::5, but the coordinator does not answer over it"}},
		{"IPv6 without a way", netReport{IPv4: works, IPv6: netVersion{State: "no-route", Addresses: []string{"2001:db8::5"}}},
			[]string{"IPv6:          2001:db8::5, but no route leads out"}},
		{"IPv6 that the coordinator lacks", netReport{IPv4: works, IPv6: netVersion{State: "untried", Addresses: []string{"2001:db8::5"}}},
			[]string{"IPv6:          2001:db8::5, not tried: the coordinator has none"}},
	} {
		c.r.UDP, c.r.Coordinator, c.r.RTT = true, "coord:7722", 40.25
		c.r.Pairs = c.r.pairs()
		text := c.r.text()
		for _, want := range append(c.says, "the coordinator coord:7722 answers in 40.2 ms") {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", c.name, want, text)
			}
		}
	}
}

// What is said to work is what punch_hard.go has a plan for.
func TestNetcheckPairsHavePlans(t *testing.T) {
	peers := map[string][]byte{"ordinary": {natSame}, "symmetric": {natStep, natBlock}, "random": {natRandom}}
	for kind, name := range natNames[natSame:] {
		mine := natKind{kind: byte(kind + natSame)}
		r := netReport{IPv4: netVersion{State: "works", Filter: "port"}, NAT: netNAT{Kind: name}}
		for _, p := range r.pairs() {
			for _, k := range peers[p.To] {
				theirs := natKind{kind: k}
				_, plan := planFor(mine, theirs, true, false)
				if met := plan || !mine.hard() && !theirs.hard(); met != (p.Works != "no") {
					t.Errorf("%s to %s (%s): says %s, and there is a plan: %v", name, p.To, natNames[k], p.Works, plan)
				}
			}
		}
	}
}

// heardFamily is what a netcheck has heard by IPv4.
func heardFamily(local, first, second string) *netFamily {
	f := &netFamily{talk: &coordTalk{addrs: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:7722")}}, nat: &natFinder{}, full: true}
	f.talk.at.addr = f.talk.addrs[0]
	f.local = netip.MustParseAddr(local)
	f.observed, f.nat.seen[1] = netip.MustParseAddrPort(first), netip.MustParseAddrPort(second)
	f.nat.kind = natKind{kind: natSame}
	return f
}

func TestNetcheckConclusions(t *testing.T) {
	other := netip.MustParseAddrPort("198.51.100.2:7723")
	for _, c := range []struct {
		name, local, seen, external string
		through                     bool
		second                      netip.AddrPort
		kind, filter                string
		double                      bool
	}{
		{"public", "203.0.113.7", "203.0.113.7:41000", "", true, other, "none", "open", false},
		{"other IP", "192.168.1.5", "203.0.113.7:41000", "203.0.113.7", false, other, "same", "address-or-port", false},
		{"same IP", "192.168.1.5", "203.0.113.7:41000", "203.0.113.7", true, netip.AddrPort{}, "same", "open-or-address", false},
		{"port", "192.168.1.5", "203.0.113.7:41000", "", false, netip.AddrPort{}, "same", "port", false},
		{"double", "192.168.1.5", "203.0.113.7:41000", "11.22.33.4", false, netip.AddrPort{}, "same", "port", true},
		{"inside", "192.168.1.5", "192.168.1.5:41000", "203.0.113.7", true, netip.AddrPort{}, "unknown", "", false},
		{"inside a carrier", "192.168.1.5", "100.64.3.4:41000", "100.64.3.4", true, netip.AddrPort{}, "unknown", "", false},
	} {
		f := heardFamily(c.local, c.seen, c.seen)
		f.through, f.talk.second = c.through, c.second
		router := portReport{}
		if c.external != "" {
			router.external = netip.MustParseAddr(c.external)
		}
		r := &netReport{}
		r.fill([]*netFamily{f}, 41000, router, nil)
		if r.NAT.Kind != c.kind || r.IPv4.Filter != c.filter || r.NAT.Double != c.double || !r.UDP {
			t.Errorf("%s: %+v %+v", c.name, r.NAT, r.IPv4)
		}
	}
	f := heardFamily("192.168.1.5", "203.0.113.7:41000", "203.0.113.7:41000")
	f.full = false
	r := &netReport{}
	if r.fill([]*netFamily{f}, 41000, portReport{}, nil); r.UDP || !strings.Contains(r.Error, "1200 bytes") || hintOf(r.err) == "" {
		t.Errorf("small datagrams only: %+v", r)
	}
}

// An answer that came through another socket's hole does not count.
func TestNetcheckFilterBySocket(t *testing.T) {
	through := false
	ask := &echoCall{sock: 3, other: true, seen: func(time.Time, netip.AddrPort) { through = true }}
	c := &coordTalk{echoes: map[uint64]*echoCall{7: ask}}
	ack := (&echoAckMsg{7, netip.MustParseAddrPort("203.0.113.7:41000")}).append(nil)
	for _, sock := range []int{0, 4, 3} {
		if c.echoed(time.Now(), ack, udpSource{sock: sock}); through != (sock == 3) {
			t.Errorf("on socket %d: %v", sock, through)
		}
	}
}

// What ping says of its path, and when it changes.
func TestPathWords(t *testing.T) {
	now := time.Now()
	hole := linkStatus{Link: "ab12cd34", Path: "203.0.113.7:41000", Kind: "punched", PathAt: now.Add(-3 * time.Second)}
	lan := linkStatus{Link: "ab12cd34", Path: "192.168.1.5:7000", Kind: "lan", PathAt: now, Moves: 1}
	back, other, held := hole, hole, hole
	back.Moves, other.Link, held.Path = 2, "ffffffff", ""
	for _, c := range []struct {
		before *linkStatus
		now    linkStatus
		want   string
	}{
		{nil, hole, ", through a hole in the device's NAT, for 3 s; link ab12cd34"},
		{&hole, hole, ""},
		{&hole, lan, ", moved from punched 203.0.113.7:41000"},
		{&hole, back, ", moved away and back"},
		{&hole, other, ", a new link ffffffff, the old one was punched 203.0.113.7:41000"},
		{&held, hole, ", moved from held, no path"},
	} {
		if got := c.now.change(c.before, now); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	for _, try := range []pathTry{{src: udpSource{addr: netip.MustParseAddrPort("10.1.1.1:1")}}, {src: udpSource{addr: netip.MustParseAddrPort("[2001:db8::1]:1")}},
		{src: udpSource{addr: netip.MustParseAddrPort("203.0.113.7:1")}}, {own: true, src: udpSource{addr: netip.MustParseAddrPort("203.0.113.7:1")}}, {mapped: true, src: udpSource{addr: netip.MustParseAddrPort("203.0.113.7:1")}}} {
		l := linkStatus{Link: "ab12cd34", Kind: try.kind()}
		if got := l.change(nil, now); strings.HasPrefix(got, ", link") {
			t.Errorf("no words for the kind %s", l.Kind)
		}
	}
}
