//go:build linux

package main

// The lab itself is proved here: its delays and losses, and that each NAT does
// what it is called after, as seen from two addresses with two ports each.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// udp opens a socket in the namespace.
func (h *labHost) udp(addr string) *net.UDPConn {
	h.l.t.Helper()
	var c *net.UDPConn
	err := h.inside(func() error {
		a, err := net.ResolveUDPAddr("udp", addr)
		if err == nil {
			c, err = net.ListenUDP("udp", a)
		}
		return err
	})
	if err != nil {
		h.l.t.Fatalf("%s: socket %s: %v", h.ns, addr, err)
	}
	h.l.t.Cleanup(func() { c.Close() })
	return c
}

// labHeard is how long a packet is waited for: far above every delay.
const labHeard = 300 * time.Millisecond

// say sends a word from one socket to an address.
func (l *lab) say(from *net.UDPConn, to netip.AddrPort, word string) {
	l.t.Helper()
	if _, err := from.WriteToUDPAddrPort([]byte(word), to); err != nil {
		l.t.Fatalf("sending to %v: %v", to, err)
	}
}

// hear waits for the word and returns whom the socket sees as its sender.
func (l *lab) hear(at *net.UDPConn, word string) (from netip.AddrPort, ok bool) {
	l.t.Helper()
	at.SetReadDeadline(time.Now().Add(labHeard))
	buf := make([]byte, 100)
	for {
		n, a, err := at.ReadFromUDPAddrPort(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return from, false
		}
		if err == nil && string(buf[:n]) == word {
			return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), true
		}
	}
}

// reach says a word until it is heard: a new path may take its time.
func (l *lab) reach(from, to *net.UDPConn, word string) (seen netip.AddrPort, ok bool) {
	l.t.Helper()
	for range 5 {
		l.say(from, socketAddr(to), word)
		if seen, ok = l.hear(to, word); ok {
			break
		}
	}
	return seen, ok
}

func socketAddr(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// A natProbe is four sockets of the coordinator's host: two addresses with two
// ports each.
type natProbe struct {
	*lab
	far []*net.UDPConn
}

func newNATProbe(l *lab) *natProbe {
	p := &natProbe{lab: l}
	for _, a := range []string{labCoord4 + ":7001", labCoord4 + ":7002", labOther4 + ":7001", labOther4 + ":7002"} {
		p.far = append(p.far, l.coord.udp(a))
	}
	return p
}

// mappings returns where the four see a socket.
func (p *natProbe) mappings(near *net.UDPConn) (seen []netip.AddrPort) {
	p.t.Helper()
	for i, far := range p.far {
		word := fmt.Sprint("map ", i)
		from, ok := p.reach(near, far, word)
		if !ok {
			p.t.Fatalf("%v does not get through to %v", near.LocalAddr(), far.LocalAddr())
		}
		seen = append(seen, from)
	}
	return seen
}

// lets reports which of the four reach a socket that has sent to the first:
// "1000" is the first alone.
func (p *natProbe) lets(near *net.UDPConn) string {
	p.t.Helper()
	at, ok := p.reach(near, p.far[0], "open")
	if !ok {
		p.t.Fatal("nothing gets out")
	}
	for i, far := range p.far {
		p.say(far, at, strconv.Itoa(i))
	}
	in := []byte("0000")
	buf := make([]byte, 100)
	near.SetReadDeadline(time.Now().Add(labHeard))
	for {
		n, err := near.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return string(in)
		}
		if i, err := strconv.Atoi(string(buf[:n])); err == nil {
			in[i] = '1'
		}
	}
}

func TestLabNATs(t *testing.T) {
	l := newLab(t)
	probe := newNATProbe(l)
	const all, address, port = "1111", "1100", "1000"
	for _, k := range []struct {
		nat    labKind
		filter string
		one    bool // one mapping for all destinations
	}{
		{labPublic, all, true}, {labFullCone, all, true}, {labAddress, address, true}, {labPort, port, true}, {labHairpin, port, true},
		{labStep, port, false}, {labBlock, port, false}, {labRandom, port, false},
	} {
		t.Run(string(k.nat), func(t *testing.T) {
			r := l.router(k.nat)
			h := r.host()
			seen := probe.mappings(h.udp(":41000"))
			ports := portsOf(seen)
			t.Logf("ports: %v", ports)
			if one := len(slices.Compact(slices.Clone(ports))) == 1; one != k.one {
				t.Errorf("mappings %v", seen)
			}
			if want := r.wan; k.nat != labPublic && seen[0].Addr().String() != want {
				t.Errorf("seen at %v, not %v", seen[0], want)
			}
			checkPorts(t, k.nat, r, ports)
			if got := probe.lets(h.udp(":41001")); got != k.filter {
				t.Errorf("lets in %s, want %s", got, k.filter)
			}
		})
	}
}

func portsOf(seen []netip.AddrPort) (out []int) {
	for _, a := range seen {
		out = append(out, int(a.Port()))
	}
	return out
}

// checkPorts looks at what is particular to a kind.
func checkPorts(t *testing.T, k labKind, r *labRouter, ports []int) {
	t.Helper()
	for i, p := range ports {
		switch {
		case k == labStep && i > 0 && p != ports[i-1]+1:
			t.Errorf("not in steps of one: %v", ports)
		case k == labBlock && (p < r.block || p > r.block+999):
			t.Errorf("not in the block from %d: %v", r.block, ports)
		case (k == labPort || k == labFullCone || k == labAddress) && p != 41000:
			t.Errorf("port not kept: %v", ports)
		}
	}
}

func TestLabHairpinAndBlocked(t *testing.T) {
	l := newLab(t)
	probe := newNATProbe(l)
	for _, k := range []struct {
		nat  labKind
		back bool
	}{{labHairpin, true}, {labPort, false}} {
		r := l.router(k.nat)
		a, b := r.host().udp(":41000"), r.host().udp(":42000")
		atA, atB := probe.mappings(a)[0], probe.mappings(b)[0]
		l.say(a, atB, "hairpin")
		from, ok := l.hear(b, "hairpin")
		if ok != k.back || ok && from != atA {
			t.Errorf("%s: from inside to %v: %v, from %v", k.nat, atB, ok, from)
		}
		c, d := r.host(), r.host()
		in := d.udp(":43000")
		l.say(c.udp(":41000"), netip.MustParseAddrPort(d.addr4+":43000"), "lan")
		if _, ok := l.hear(in, "lan"); !ok {
			t.Errorf("%s: two machines of a LAN do not reach each other", k.nat)
		}
	}
	l.say(l.router(labNoUDP).host().udp(":41000"), socketAddr(probe.far[0]), "blocked")
	if _, ok := l.hear(probe.far[0], "blocked"); ok {
		t.Error("UDP passes a router that blocks it")
	}
}

func TestLabDoubleNAT(t *testing.T) {
	l := newLab(t)
	probe := newNATProbe(l)
	for _, outer := range []labKind{labPort, labBlock} {
		cgn := l.router(outer)
		home := l.newRouter(routerConf{nat: labPort, behind: cgn})
		seen := probe.mappings(home.host().udp(":41000"))
		if seen[0].Addr().String() != cgn.wan {
			t.Errorf("seen at %v, not at the outer router's %v", seen[0], cgn.wan)
		}
		if one := seen[0] == seen[3]; one != (outer == labPort) {
			t.Errorf("%s outside: mappings %v", outer, seen)
		}
	}
}

func TestLabIPv6(t *testing.T) {
	l := newLab(t)
	r := l.newRouter(routerConf{nat: labPort, v6: true})
	h := r.host()
	near, far, other := h.udp("["+h.addr6+"]:41000"), l.coord.udp("["+labCoord6+"]:7001"), l.coord.udp("["+labOther6+"]:7001")
	from, ok := l.reach(near, far, "out")
	if !ok || from != socketAddr(near) {
		t.Fatalf("seen at %v, %v: not without NAT", from, ok)
	}
	for _, c := range []struct {
		from *net.UDPConn
		in   bool
	}{{far, true}, {other, false}} {
		l.say(c.from, from, "in")
		if _, ok := l.hear(near, "in"); ok != c.in {
			t.Errorf("from %v: %v", c.from.LocalAddr(), ok)
		}
	}
	l.hub.do("mtu", r.ns, "1300")
	if said := h.tooBig(labCoord6); !strings.Contains(said, "1300") {
		t.Errorf("no word of the smaller size: %s", said)
	}
	r.hole6()
	l.say(near, socketAddr(far), "gone")
	if _, ok := l.hear(far, "gone"); ok {
		t.Error("IPv6 passes the hole")
	}
}

// An early packet makes a router with an open INPUT take the port for itself.
func TestLabEarlyBird(t *testing.T) {
	l := newLab(t)
	probe := newNATProbe(l)
	for _, accept := range []bool{false, true} {
		r := l.newRouter(routerConf{nat: labPort, accept: accept})
		near := r.host().udp(":41000")
		l.say(probe.far[0], netip.MustParseAddrPort(r.wan+":41000"), "early")
		if _, ok := l.hear(near, "early"); ok {
			t.Fatal("a stranger's packet came in")
		}
		if port := probe.mappings(near)[0].Port(); (port != 41000) != accept {
			t.Errorf("INPUT accept %v: port %d", accept, port)
		}
	}
}

// A reboot and a redial give another mapping; a kept one stays.
func TestLabChanges(t *testing.T) {
	l := newLab(t)
	probe := newNATProbe(l)
	r := l.router(labPort)
	h := r.host()
	near := h.udp(":41000")
	before := probe.mappings(near)[0]
	r.reboot()
	if after := probe.mappings(near)[0]; after.Port() == before.Port() {
		t.Errorf("after a reboot still %v", after)
	}
	r.redialled()
	if after := probe.mappings(near)[0]; after.Addr() == before.Addr() || after.Addr().String() != r.wan {
		t.Errorf("after a redial %v, not %s", after, r.wan)
	}
	other := l.router(labPort)
	h.move(other)
	if after := probe.mappings(near)[0]; after.Addr().String() != other.wan {
		t.Errorf("after a move %v, not %s", after, other.wan)
	}
	old := h.addr4
	h.readdress()
	if probe.mappings(near); h.addr4 == old {
		t.Error("no other address in the LAN")
	}
	h.link(false)
	h.link(true)
	probe.mappings(near)
	// What goes through says it, not conntrack's own count: that holds packets
	// under way and flows that nothing forwards.
	var far []*net.UDPConn
	for i := range 8 {
		far = append(far, l.coord.udp(fmt.Sprintf("%s:%d", labCoord4, 9000+i)))
	}
	other.timeouts(time.Minute, time.Minute)
	other.maxFlows(2)
	if _, ok := l.reach(near, far[0], "first"); !ok {
		t.Fatal("not even the first flow gets through")
	}
	through := 1
	for _, to := range far[1:] {
		l.say(near, socketAddr(to), "many")
	}
	for _, at := range far[1:] {
		if _, ok := l.hear(at, "many"); ok {
			through++
		}
	}
	if through != 2 {
		t.Errorf("%d flows through a table of 2", through)
	}
}

func TestLabDelayAndLoss(t *testing.T) {
	l := newLab(t)
	a, b := l.router(labPublic).host(), l.router(labPort).host()
	for _, p := range []struct {
		from *labHost
		to   string
		want time.Duration
	}{{a, labCoord4, labCoordRTT}, {b, labCoord4, labCoordRTT}, {b, a.addr4, labPeerRTT}} {
		rtt, lost := p.from.ping(p.to, 20, "0.02")
		t.Logf("%s to %s: least %v, %d%% lost", p.from.ns, p.to, rtt, lost)
		if off := (rtt - p.want).Abs(); off > 3*time.Millisecond || lost != 0 {
			t.Errorf("round trip %v, want %v; %d%% lost", rtt, p.want, lost)
		}
	}
	l.hub.do("loss", a.router.ns, "10")
	near, far := b.udp(":0"), a.udp(a.addr4+":42000")
	for _, burst := range []string{"1", "3"} {
		l.hub.do("burst", a.router.ns, burst)
		lost := l.lose(near, far)
		t.Logf("%.1f%% lost in bursts of %s", lost, burst)
		if lost < 6 || lost > 14 {
			t.Errorf("%.1f%% lost in bursts of %s, not 10", lost, burst)
		}
	}
	l.hub.do("loss", a.router.ns, "0")
	l.hub.do("mtu", a.router.ns, "1300")
	if said := b.tooBig(a.addr4); !strings.Contains(said, "1300") {
		t.Errorf("no word of the smaller size: %s", said)
	}
	if _, lost := b.ping(a.addr4, 5, "0.01", "-W", "0.2", "-M", "dont", "-s", "2000"); lost != 0 {
		t.Errorf("in fragments: %d%% lost", lost)
	}
	l.hub.do("hole", a.router.ns, "1300")
	if _, lost := b.ping(a.addr4, 3, "0.01", "-W", "0.2", "-M", "do", "-s", "1400"); lost != 100 {
		t.Errorf("a hole for large packets let some through: %d%% lost", lost)
	}
}

// A megabit a second takes 25,000 bytes in a fifth of a second. Other work on
// this machine may hold up the reader: one train in five must show it.
func TestLabRate(t *testing.T) {
	l := newLab(t)
	from, h := l.coord.udp(":0"), l.router(labPublic).host()
	to := h.udp(h.addr4 + ":42000")
	l.hub.do("rate", h.router.ns, "1000000")
	for range 5 {
		took := l.train(from, to, 20, 1250-28)
		t.Logf("19 packets took %v", took)
		if (took - 190*time.Millisecond).Abs() <= 20*time.Millisecond {
			return
		}
	}
	t.Error("never 190 ms")
}

// train sends n packets at once and returns the time from the first that comes
// to the last.
func (l *lab) train(from, to *net.UDPConn, n, size int) time.Duration {
	l.t.Helper()
	for range n {
		l.say(from, socketAddr(to), strings.Repeat("x", size))
	}
	to.SetReadDeadline(time.Now().Add(10 * time.Second))
	var first time.Time
	for i := range n {
		if _, err := to.Read(make([]byte, 2000)); err != nil {
			l.t.Fatalf("packet %d: %v", i, err)
		}
		if i == 0 {
			first = time.Now()
		}
	}
	return time.Since(first)
}

// lose sends many packets and returns the share lost, in percent.
func (l *lab) lose(from, to *net.UDPConn) float64 {
	l.t.Helper()
	const n = 2000
	to.SetReadDeadline(time.Time{})
	came := make(chan int)
	go func() {
		got := 0
		for buf := make([]byte, 100); ; got++ {
			if _, err := to.Read(buf); err != nil {
				came <- got
				return
			}
		}
	}()
	pace := time.Tick(time.Millisecond) // all at once would flow over in a queue
	for i := range n {
		l.say(from, socketAddr(to), "one of many")
		if i%4 == 0 {
			<-pace
		}
	}
	to.SetReadDeadline(time.Now().Add(time.Second))
	return 100 * float64(n-<-came) / n
}

// tooBig sends what does not pass a limit of 1,300 bytes and returns what ping
// says to that.
func (h *labHost) tooBig(to string) string {
	out, _ := h.command("ping", "-n", "-c", "2", "-i", "0.1", "-W", "0.2", "-M", "do", "-s", "1400", to).CombinedOutput() // the error is wanted
	return string(out)
}

// ping returns the least round trip (other work on this machine only adds) and the share lost, in percent.
func (h *labHost) ping(to string, n int, every string, flags ...string) (least time.Duration, lost int) {
	h.l.t.Helper()
	args := append([]string{"-n", "-c", strconv.Itoa(n), "-i", every}, append(flags, to)...)
	out, _ := h.command("ping", args...).CombinedOutput() // to it loss is an error
	var rtts []time.Duration
	for _, line := range strings.Split(string(out), "\n") {
		if _, text, ok := strings.Cut(line, " time="); ok {
			if d, err := time.ParseDuration(strings.ReplaceAll(text, " ", "")); err == nil {
				rtts = append(rtts, d)
			}
		}
	}
	lost = 100 - 100*len(rtts)/n
	if len(rtts) > 0 {
		least = slices.Min(rtts)
	}
	return least, lost
}
