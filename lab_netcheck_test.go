//go:build linux

package main

// What netcheck says of each kind of NAT in the lab is what that does.

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// netcheck runs the verb for people and returns what -json shows beside it.
func (w *labWorld) netcheck(at *labHost, status int) (r netReport, words labRun) {
	w.t.Helper()
	var both sync.WaitGroup
	both.Go(func() { words = w.laptop.verb(at, "netcheck") })
	shown := w.laptop.verb(at, "netcheck", "-json")
	both.Wait()
	for _, run := range []labRun{words, shown} {
		if run.status != status || run.took > netcheckFor+time.Second {
			w.t.Errorf("netcheck: %v", run)
		}
	}
	if err := json.Unmarshal([]byte(shown.out), &r); err != nil {
		w.t.Fatalf("%v: %v", err, shown)
	}
	return r, words
}

func TestLabNetcheck(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	for _, k := range []struct {
		nat          labKind
		kind, filter string
		pairs        string // ordinary, symmetric, random
	}{
		{labPublic, "none", "open-or-address", "at-once at-once at-once"},
		{labFullCone, "same", "open-or-address", "at-once at-once at-once"},
		{labAddress, "same", "open-or-address", "at-once at-once at-once"},
		{labPort, "same", "port", "at-once second seconds"},
		{labHairpin, "same", "port", "at-once second seconds"},
		{labStep, "step", "port", "second mostly no"},
		{labBlock, "block", "port", "second mostly no"},
		{labRandom, "random", "port", "seconds no no"},
	} {
		t.Run(string(k.nat), func(t *testing.T) {
			router := l.router(k.nat)
			at := router.host()
			r, words := w.netcheck(at, 0)
			t.Logf("%v", words)
			if r.NAT.Kind != k.kind || r.IPv4.Filter != k.filter || netWorks(r) != k.pairs {
				t.Errorf("%+v %+v %v", r.NAT, r.IPv4, r.Pairs)
			}
			if r.IPv4.Local != at.addr4 || r.NAT.Kind != "none" && !strings.HasPrefix(r.IPv4.Observed, router.wan+":") || r.NAT.Double {
				t.Errorf("%+v %+v", r.IPv4, r.NAT)
			}
			if back := r.NAT.Hairpin; k.nat != labPublic && (back == nil || *back != (k.nat == labHairpin)) {
				t.Errorf("hairpin: %v", back)
			}
			if rtt := labCoordRTT.Seconds() * 1000; r.RTT < rtt || r.RTT > rtt+15 {
				t.Errorf("round trip %v ms", r.RTT)
			}
			if low, high := uint16(router.block), uint16(router.block+999); k.nat == labBlock && (r.NAT.Low < low || r.NAT.High > high) {
				t.Errorf("block %d to %d, not within %d to %d", r.NAT.Low, r.NAT.High, low, high)
			}
			if k.nat == labStep && r.NAT.Step != 1 || r.NAT.PortKept != (k.nat == labPublic || k.kind == "same") {
				t.Errorf("%+v", r.NAT)
			}
		})
	}
}

func netWorks(r netReport) string {
	var works []string
	for _, p := range r.Pairs {
		works = append(works, p.Works)
	}
	return strings.Join(works, " ")
}

// With the second port on another address the filter is told apart further.
func TestLabNetcheckTwoAddresses(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account("-udp2", labOther4+":7723")
	for _, k := range []struct {
		nat    labKind
		filter string
	}{{labFullCone, "open"}, {labAddress, "address-or-port"}, {labPort, "address-or-port"}} {
		if r, words := w.netcheck(l.router(k.nat).host(), 0); r.NAT.Kind != "same" || r.IPv4.Filter != k.filter {
			t.Errorf("%s: %+v %v", k.nat, r.NAT, words)
		}
	}
	// The other address is one of IPv4: nothing follows from it for IPv6.
	at := l.newRouter(routerConf{nat: labPort, v6: true}).host()
	if r, words := w.netcheck(at, 0); r.NAT.Kind != "same" || r.IPv6.State != "works" || r.IPv6.Filter != "" {
		t.Errorf("%+v %v", r.IPv6, words)
	}
}

func TestLabNetcheckIPv6(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	r, words := w.netcheck(l.newRouter(routerConf{nat: labPort, v6: true}).host(), 0)
	t.Logf("%v", words)
	if r.IPv4.State != "works" || r.IPv6.State != "works" || r.IPv6.Filter != "port" || netWorks(r) != "at-once second seconds at-once" {
		t.Errorf("both: %+v %+v", r.IPv4, r.IPv6)
	}
	r, words = w.netcheck(l.newRouter(routerConf{nat: labPort, only6: true}).host(), 0)
	t.Logf("%v", words)
	if r.IPv4.State != "none" || r.IPv6.State != "works" {
		t.Errorf("IPv6 only: %+v %+v", r.IPv4, r.IPv6)
	}
	hole := l.newRouter(routerConf{nat: labPort, v6: true})
	hole.hole6()
	r, words = w.netcheck(hole.host(), 0)
	if r.IPv4.State != "works" || r.IPv6.State != "silent" || !strings.Contains(words.out, "does not answer over it") {
		t.Errorf("a hole in IPv6: %v", words)
	}
}

// Where there is no way, that is said in time, and why.
func TestLabNetcheckNothing(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	at := l.router(labNoUDP).host()
	_, words := w.netcheck(at, 1)
	t.Logf("%v", words)
	if !strings.Contains(words.errs, "this network blocks UDP") {
		t.Errorf("%v", words)
	}
	at.ip("route del default")
	if _, words = w.netcheck(at, 1); !strings.Contains(words.errs, "network is unreachable") {
		t.Errorf("%v", words)
	}
	w.coord.stop()
	if words = w.laptop.verb(l.router(labPort).host(), "netcheck"); words.status != 1 || !strings.Contains(words.errs, "nothing listens there") {
		t.Errorf("%v", words)
	}
	at.hosts()
	if _, words = w.netcheck(at, 1); !strings.Contains(words.errs, labCoord) {
		t.Errorf("%v", words)
	}
}

// A router that maps ports: at the internet, behind its provider's NAT, and
// there with an address outside that it believes to have.
func TestLabNetcheckPortMapping(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	cgn := l.router(labPort)
	for _, c := range []struct {
		conf   routerConf
		flags  string
		double bool
		says   string
	}{
		{routerConf{wan: "11.22.33.9"}, "", false, "the router keeps a port open for it"},
		{routerConf{behind: cgn}, "", false, "port mapping:  PCP at the router 192.168.3.1; NAT-PMP: the router refuses: the router has no network (3)"},
		{routerConf{behind: cgn}, "ext_ip=11.22.33.10\n", true, "of no use behind the other NAT"},
	} {
		c.conf.nat, c.conf.accept = labPort, true
		home := l.newRouter(c.conf)
		home.mapsPorts(c.flags)
		r, words := w.netcheck(home.host(), 0)
		t.Logf("%v", words)
		if r.NAT.Double != c.double || !strings.Contains(words.out, c.says) {
			t.Errorf("%+v %+v", r.NAT, r.PortMapping)
		}
	}
}

// mapsPorts starts miniupnpd on the router; it maps nothing, for its rules are
// not those of miniupnpd.
func (r *labRouter) mapsPorts(flags string) {
	r.l.t.Helper()
	conf := filepath.Join(r.l.dir, r.ns+".conf")
	r.l.run(flags+"ext_ifname=wan\nlistening_ip=lan\nipv6_disable=yes\nenable_natpmp=yes\nenable_upnp=yes\nsystem_uptime=no\nuuid=e1f2a3b4-0000-4000-8000-000000000001\n",
		"sh", "-c", "cat >"+conf)
	r.l.beside("miniupnpd", r.command("/usr/sbin/miniupnpd", "-d", "-f", conf, "-P", conf+".pid")).until("starting", "\n")
}
