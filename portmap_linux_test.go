package main

// This file has routers that lie, stall and flood, each at an address of its
// own on loopback.

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// lastFakeRouter numbers their addresses.
var lastFakeRouter atomic.Uint32

// A fakeRouter answers as a test says.
type fakeRouter struct {
	addr netip.Addr

	mu    sync.Mutex
	asked []string // guarded by mu; UPnP's actions, and requests in hex
}

func newFakeRouter() *fakeRouter {
	return &fakeRouter{addr: netip.AddrFrom4([4]byte{127, 0, 83, byte(lastFakeRouter.Add(1))})}
}

func (r *fakeRouter) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, text)
}

func (r *fakeRouter) notes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// udp answers datagrams to a port of the router with what answer sends.
func (r *fakeRouter) udp(t *testing.T, port uint16, answer func(b []byte, send func([]byte))) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.addr, port)))
	if err != nil {
		t.Fatal(err)
	}
	var loop sync.WaitGroup
	t.Cleanup(func() { conn.Close(); loop.Wait() })
	loop.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				answer(bytes.Clone(buf[:n]), func(b []byte) { conn.WriteToUDPAddrPort(b, from) })
			}
		}
	})
}

// upnp answers the search, and requests by HTTP with what answer returns.
func (r *fakeRouter) upnp(t *testing.T, kind string, answer func(action, body string) string) {
	t.Helper()
	l, err := net.Listen("tcp4", r.addr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	r.udp(t, ssdpPort, func(_ []byte, send func([]byte)) { send([]byte(searchAnswer("http://" + at.String() + "/d"))) })
	var loops sync.WaitGroup
	t.Cleanup(func() { l.Close(); loops.Wait() })
	loops.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			loops.Go(func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				n, _ := conn.Read(buf)
				text := string(buf[:n])
				_, action, _ := strings.Cut(headerValue(text, "soapaction"), "#")
				reply := describe("", upnpService{kind, upnpURL{at, "/c"}})
				if action = strings.Trim(action, `"`); action != "" {
					r.note(action)
					reply = answer(action, text)
				}
				status := 200
				if strings.Contains(reply, "errorCode") {
					status = 500
				}
				if !strings.HasPrefix(reply, "HTTP/") {
					reply = fmt.Sprintf("HTTP/1.1 %d\r\nContent-Length: %d\r\n\r\n%s", status, len(reply), reply)
				}
				conn.Write([]byte(reply))
				if strings.HasSuffix(reply, "…") { // and then nothing
					conn.Read(buf)
				}
			})
		}
	})
}

func (r *fakeRouter) mapper() *portMapper {
	m := newPortMapper(7722, func(int, string, ...any) {}, func() {})
	m.gateway = func() netip.Addr { return r.addr }
	return m
}

// grant is a good answer of PCP to a request.
func grant(request []byte, external string) *pcpReply {
	r := &pcpReply{opcode: request[1], lifetime: 7200, epoch: 77}
	if request[1] == pcpMap {
		r.hasMapping = true
		s := request[24:]
		copy(r.mapping.nonce[:], s)
		r.mapping.protocol, r.mapping.port, r.mapping.external = s[12], 7722, netip.MustParseAddrPort(external)
		r.lifetime = min(7200, uint32(request[6])<<8|uint32(request[7]))
	}
	return r
}

func TestPortMapTakesOnlyItsOwnAnswer(t *testing.T) {
	for _, good := range []bool{true, false} {
		r := newFakeRouter()
		r.udp(t, pcpPort, func(b []byte, send func([]byte)) {
			if b[0] != pcpVersion {
				return
			}
			for _, change := range []func(*pcpReply){
				func(r *pcpReply) { r.mapping.nonce[0] ^= 1 },
				func(r *pcpReply) { r.mapping.port++ },
				func(r *pcpReply) { r.mapping.protocol = 6 },
				func(r *pcpReply) { r.opcode = 2 },
			} {
				a := grant(b, "11.22.33.99:1")
				change(a)
				if b[1] == pcpMap {
					send(a.appendReply(nil))
				}
			}
			send(b)
			send(nil)
			send(bytes.Repeat([]byte{0xff}, 1400))
			if good || b[1] == pcpAnnounce {
				send(grant(b, "11.22.33.44:40000").appendReply(nil))
			}
		})
		m := r.mapper()
		m.look(t.Context())
		if a, by := m.mapped(); good && (a.String() != "11.22.33.44:40000" || by != "pcp") || !good && a.IsValid() {
			t.Errorf("a good answer came: %v; mapped %v by %s", good, a, by)
		}
	}
}

// A flood, of whatever sort, ends when the time for an answer does.
func TestPortMapFlood(t *testing.T) {
	r := newFakeRouter()
	stop := make(chan struct{})
	defer close(stop)
	r.udp(t, pcpPort, func(b []byte, send func([]byte)) {
		junk := grant(append([]byte{2, pcpMap}, make([]byte, 58)...), "11.22.33.99:1").appendReply(nil)
		for {
			select {
			case <-stop:
				return
			default:
				send(junk)
			}
		}
	})
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 600*ms)
	defer cancel()
	if err := r.mapper().askersOf(r)[0].release(ctx); err == nil {
		t.Error("junk was taken for an answer")
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestPortMapDoubleNAT(t *testing.T) {
	for _, inside := range []string{"100.64.0.9", "192.168.178.20", "10.0.0.1", "0.0.0.0"} {
		r := newFakeRouter()
		r.udp(t, pcpPort, func(b []byte, send func([]byte)) {
			switch {
			case b[0] == pcpVersion:
				r.note(fmt.Sprintf("pcp %d for %d", b[1], uint32(b[6])<<8|uint32(b[7])))
				send(grant(b, inside+":7722").appendReply(nil))
			case b[1] == pmpAddress:
				send((&pmpReply{opcode: pmpAddress, address: netip.MustParseAddr(inside)}).appendReply(nil))
			default:
				r.note("nat-pmp maps")
			}
		})
		r.upnp(t, upnpWANIP2, func(action, _ string) string { return soapValue("NewExternalIPAddress", inside) })
		m := r.mapper()
		m.look(t.Context())
		if a, _ := m.mapped(); a.IsValid() {
			t.Errorf("%s is a candidate: %v", inside, a)
		}
		if rep := m.report(); rep.doubleNAT != (inside != "0.0.0.0") {
			t.Errorf("%s: %+v", inside, rep)
		}
		notes := r.notes()
		if !slices.Contains(notes, "pcp 1 for 0") || slices.Contains(notes, "nat-pmp maps") || slices.Contains(notes, "AddPortMapping") {
			t.Errorf("%s: %v", inside, notes)
		}
	}
}

func TestPortMapUPnPFaults(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		add        func(try int, body string) string
		permanent  bool
		want       string // the address, or "" and an error
		asked      string
	}{
		{"only permanent leases", upnpServices[1], func(try int, body string) string {
			if strings.Contains(body, "<NewLeaseDuration>0<") {
				return ""
			}
			return soapFault(upnpOnlyPermanent, "OnlyPermanentLeasesSupported")
		}, true, "11.22.33.44:7722", "AddPortMapping AddPortMapping"},
		{"invalid arguments", upnpServices[2], func(try int, body string) string {
			if strings.Contains(body, "<NewLeaseDuration>0<") {
				return ""
			}
			return soapFault(upnpInvalidArgs, "Invalid Args")
		}, true, "11.22.33.44:7722", "AddPortMapping AddPortMapping"},
		{"a conflict, version 2", upnpWANIP2, func(try int, body string) string {
			if strings.Contains(body, "u:AddAny") {
				return soapValue("NewReservedPort", "40001")
			}
			return soapFault(upnpConflict, "ConflictInMappingEntry")
		}, false, "11.22.33.44:40001", "AddPortMapping AddAnyPortMapping"},
		{"no port is given", upnpWANIP2, func(try int, body string) string {
			if strings.Contains(body, "u:AddAny") {
				return soapValue("NewReservedPort", "70000")
			}
			return soapFault(upnpConflict, "ConflictInMappingEntry")
		}, false, "", "AddPortMapping AddAnyPortMapping"},
		{"conflicts for ever", upnpServices[1], func(int, string) string { return soapFault(upnpConflict, "ConflictInMappingEntry") },
			false, "", "AddPortMapping AddPortMapping AddPortMapping AddPortMapping"},
		{"not allowed", upnpServices[1], func(int, string) string { return soapFault(606, "Action not authorized") }, false, "", "AddPortMapping"},
		{"a page to log in", upnpServices[1], func(int, string) string { return "HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n" }, false, "", "AddPortMapping"},
		{"no HTTP", upnpServices[1], func(int, string) string { return "HTTP/9 what" }, false, "", "AddPortMapping"},
	} {
		r := newFakeRouter()
		tries := 0
		r.upnp(t, c.kind, func(action, body string) string {
			if action == "GetExternalIPAddress" {
				return soapValue("NewExternalIPAddress", "11.22.33.44")
			}
			tries++
			return c.add(tries, body)
		})
		u := r.mapper().askersOf(r)[2]
		if _, err := u.probe(t.Context()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		lease, err := u.hold(t.Context(), 2*time.Hour)
		if (err == nil) != (c.want != "") || err == nil && (lease.external.String() != c.want || (lease.life == 0) != c.permanent) {
			t.Errorf("%s: %+v, %v", c.name, lease, err)
		}
		asked := slices.DeleteFunc(r.notes(), func(a string) bool { return a == "GetExternalIPAddress" })
		if strings.Join(asked, " ") != c.asked {
			t.Errorf("%s: asked for %v", c.name, asked)
		}
	}
}

// askersOf are askers for the router, as find makes them.
func (m *portMapper) askersOf(r *fakeRouter) [len(portProtocols)]portAsker {
	return portRouter{r.addr, sourceTowards(r.addr)}.askers(m.port)
}

// Only the router itself is heard, and only it is talked to.
func TestPortMapSearchOthers(t *testing.T) {
	r, other := newFakeRouter(), newFakeRouter()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(other.addr, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	searched := make(chan netip.AddrPort, 9)
	go func() {
		for at := range searched {
			conn.WriteToUDPAddrPort([]byte(searchAnswer("http://"+r.addr.String()+":1/from-another")), at)
		}
	}()
	defer close(searched)
	l, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.addr, ssdpPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := l.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			searched <- from
			l.WriteToUDPAddrPort([]byte(searchAnswer("http://"+other.addr.String()+":1/elsewhere")), from)
		}
	}()
	u := &upnpAsker{router: portRouter{r.addr, sourceTowards(r.addr)}}
	if places, err := u.search(t.Context()); err == nil {
		t.Errorf("it would go to %v", places)
	}
}

// A router that answers no more holds up neither the end nor the goroutine.
func TestPortMapStalls(t *testing.T) {
	t.Parallel()
	for _, stall := range []string{"HTTP/1.1 200 OK\r\nA: …", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n…"} {
		r := newFakeRouter()
		asked := make(chan struct{}, 99)
		r.upnp(t, upnpWANIP2, func(action, _ string) string {
			asked <- struct{}{}
			if action == "GetExternalIPAddress" && len(r.notes()) < 3 {
				return soapValue("NewExternalIPAddress", "11.22.33.44")
			}
			return stall
		})
		m := r.mapper()
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { m.run(ctx) })
		for range 3 { // twice the address, then AddPortMapping
			<-asked
		}
		stop()
		start := time.Now()
		running.Wait()
		if d := time.Since(start); d > portReleaseTime+500*ms {
			t.Errorf("it took %v to end", d)
		}
		if notes := r.notes(); notes[len(notes)-1] != "DeletePortMapping" {
			t.Errorf("what was perhaps mapped is not ended: %v", notes)
		}
	}
}

func TestPortMapRenewal(t *testing.T) {
	m := newFakeRouter().mapper()
	for _, c := range []struct{ granted, want time.Duration }{
		{2 * time.Hour, 10 * time.Minute}, {10 * time.Minute, 5 * time.Minute}, {time.Second, 30 * time.Second},
		{(1<<32 - 1) * time.Second, 10 * time.Minute}, {0, time.Hour},
	} {
		if got := m.renewal(c.granted); got != c.want {
			t.Errorf("%v: renewed after %v", c.granted, got)
		}
	}
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 320, 600, 600} {
		if got := m.later(); got != want*time.Second {
			t.Errorf("looks again after %v, not %v s", got, want)
		}
	}
	m.fails = 1 << 30
	if got := m.later(); got != 10*time.Minute {
		t.Errorf("looks again after %v", got)
	}
}

func TestParseRoutes(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	hex := func(a string) string {
		ip := netip.MustParseAddr(a).As4()
		return fmt.Sprintf("%08X", binary.NativeEndian.Uint32(ip[:]))
	}
	line := func(to, via, flags, metric, mask string) string {
		return "eth0\t" + hex(to) + "\t" + hex(via) + "\t" + flags + "\t0\t0\t" + metric + "\t" + hex(mask) + "\t0\t0\t0\n"
	}
	lan := line("192.168.1.0", "0.0.0.0", "0001", "0", "255.255.255.0")
	for _, c := range []struct{ text, want string }{
		{head + lan + line("0.0.0.0", "192.168.1.1", "0003", "0", "0.0.0.0"), "192.168.1.1"},
		{head + line("0.0.0.0", "192.168.2.1", "0003", "600", "0.0.0.0") + line("0.0.0.0", "192.168.1.1", "0003", "100", "0.0.0.0") + lan, "192.168.1.1"},
		{head + line("0.0.0.0", "192.168.2.1", "0002", "0", "0.0.0.0"), "invalid IP"},                                                                  // down
		{head + line("0.0.0.0", "0.0.0.0", "0001", "0", "0.0.0.0"), "invalid IP"},                                                                      // a tunnel
		{head + line("0.0.0.0", "10.8.0.1", "0003", "0", "128.0.0.0"), "invalid IP"},                                                                   // half of the world
		{head + "eth0\t00000000\tzz\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "invalid IP"}, {head + "eth0\t00000000\n", "invalid IP"}, {"", "invalid IP"}, // damaged
	} {
		if got := parseRoutes(c.text).String(); got != c.want {
			t.Errorf("%s: %s", c.text, got)
		}
	}
}
