//go:build linux

package main

// What a connect must be like in networks that people have: how soon, which
// path, and what loss, distance and a hole may cost.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A labSetup is how one cold connect went.
type labSetup struct {
	labRun
	link time.Duration // from the start of the process to the link; 0 for none
}

// connect runs a command on the device and notes when the link was up, as -v
// tells.
func (w *labWorld) connect(at *labHost, device string) labSetup {
	w.t.Helper()
	stderr := &labLinkWatch{began: time.Now()}
	cmd := w.laptop.command(at, "run", "-v", device, "--", "true")
	cmd.Stderr, cmd.WaitDelay = stderr, time.Second
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	timer := time.AfterFunc(labVerbFor, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	return labSetup{labRun{exitCode(cmd, err), "", stderr.said.String(), time.Since(stderr.began)}, stderr.up}
}

// A labLinkWatch reads what a verb says and notes when its link is up.
type labLinkWatch struct {
	began time.Time
	mu    sync.Mutex
	said  strings.Builder
	up    time.Duration
}

func (l *labLinkWatch) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.up == 0 && strings.Contains(string(b), " is up") {
		l.up = time.Since(l.began)
	}
	return l.said.Write(b)
}

// startTime is what a process costs here before it does anything.
func (w *labWorld) startTime(at *labHost) time.Duration {
	w.t.Helper()
	var took []time.Duration
	for range 9 {
		took = append(took, w.laptop.verb(at, "version").took)
	}
	return quantile(took, 0.5)
}

// setups connects n times, cold at the client, and returns the sorted times of
// the links, the start of the process taken off. Failures are errors.
func (w *labWorld) setups(at *labHost, n int) (links []time.Duration) {
	w.t.Helper()
	start := w.startTime(at)
	for i := range n {
		at.router.flush()
		s := w.connect(at, "attic")
		if s.status != 0 || s.link == 0 {
			dir := w.keep(w.t.Name()+"-connect", map[string]string{"client": s.String(), "coordinator": w.coord.log.String()})
			w.t.Errorf("connect %d of %d: %v; logs in %s", i+1, n, s.labRun, dir)
			continue
		}
		links = append(links, s.link-start)
	}
	slices.Sort(links)
	w.t.Logf("%d links, process start of %v taken off: median %v, 90%% %v, slowest %v", len(links), start,
		quantile(links, 0.5), quantile(links, 0.9), quantile(links, 1))
	return links
}

// labEnough is how often a quick test connects, or a long one.
func labEnough(quick, full int) int {
	if labIsFull() {
		return full
	}
	return quick
}

// One round trip to the coordinator and one to the peer make a link.
func TestLabSetupTime(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	for _, k := range [][2]labKind{{labPublic, labPort}, {labPort, labPort}} {
		at, there := l.router(k[0]).host(), l.router(k[1]).host()
		device := w.attic.serve(there)
		links := w.setups(at, labEnough(5, 30))
		device.stop()
		if got, want := quantile(links, 0.25), labCoordRTT+labPeerRTT+10*time.Millisecond; got > want+labSlack {
			t.Errorf("%s to %s: a good quarter of the links took %v, want %v", k[0], k[1], got, want)
		}
	}
}

// labSlack is what this machine's other work may add.
const labSlack = 15 * time.Millisecond

// Every tenth packet is lost, each way, alone or in bursts, and still every
// connect succeeds.
func TestLabLoss(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	at, there := l.router(labPort).host(), l.router(labPort).host()
	w.attic.serve(there)
	l.hub.do("loss", at.router.ns, "10")
	links := w.setups(at, labEnough(10, 100))
	ideal := labCoordRTT + labPeerRTT
	if got := quantile(links, 0.9); labIsFull() && got > 3*ideal {
		t.Errorf("of ten connects one took %v, want at most %v", got, 3*ideal)
	}
	l.hub.do("burst", at.router.ns, "3")
	w.setups(at, labEnough(10, 100))
}

// A satellite: 600 ms to everybody.
func TestLabSatellite(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	at, there := l.router(labPort).host(), l.router(labPort).host()
	w.attic.serve(there)
	l.hub.do("delay", at.router.ns, (300*time.Millisecond - labDelay).String())
	links := w.setups(at, labEnough(2, 10))
	if got := quantile(links, 1); got > 3*time.Second {
		t.Errorf("a link took %v, want at most 3 s", got)
	}
	l.hub.do("delay", at.router.ns, (225*time.Millisecond - labDelay).String())
	l.hub.do("loss", at.router.ns, "12")
	if got := quantile(w.setups(at, labEnough(2, 20)), 1); got > 8*time.Second {
		t.Errorf("with 12%% loss a link took %v, want at most 8 s", got)
	}
}

// Two machines behind one NAT talk over their LAN, whether or not the router
// sends packets back in, and with one port number for both.
func TestLabSameLAN(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	for _, c := range []struct {
		nat  labKind
		port string
	}{{labPort, ":0"}, {labHairpin, ":0"}, {labPort, ":7722"}, {labHairpin, ":7722"}} {
		r := l.router(c.nat)
		at, there := r.host(), r.host()
		device, lent := w.attic.serve(there, "-listen", c.port), w.laptop.serve(at, "-listen", c.port)
		p := w.pathTo(at, "attic", 3)
		if p.Kind != "lan" || !strings.HasPrefix(p.Path, there.addr4+":") {
			t.Errorf("%s, ports %s: path %s %s, not by the LAN to %s", c.nat, c.port, p.Kind, p.Path, there.addr4)
		}
		lent.stop()
		device.stop()
	}
}

// pathTo pings the device some times and returns the path in the end.
func (w *labWorld) pathTo(at *labHost, device string, pings int) linkStatus {
	w.t.Helper()
	out := w.laptop.must(at, "ping", "-json", "-c", string(rune('0'+pings)), device)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var p pingResult
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &p); err != nil {
		w.t.Fatalf("ping: %v in %s", err, out)
	}
	return p.Link
}

// Both ends have IPv6 and prefer it; where the client's vanishes on the way,
// IPv4 wins within a second.
func TestLabIPv6Hole(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	both := routerConf{nat: labPort, v6: true}
	at, there := l.newRouter(both).host(), l.newRouter(both).host()
	w.attic.serve(there)
	if p := w.pathTo(at, "attic", 2); !strings.HasPrefix(p.Path, "[") {
		t.Errorf("path %s %s, not by IPv6", p.Kind, p.Path)
	}
	at.router.hole6()
	links := w.setups(at, labEnough(3, 20))
	if got := quantile(links, 1); got > time.Second {
		t.Errorf("the slowest link took %v", got)
	}
	if p := w.pathTo(at, "attic", 2); p.Path == "" || p.Path[0] == '[' {
		t.Errorf("path %s %s, not by IPv4", p.Kind, p.Path)
	}
}

// A router that answers strangers takes the port of an early packet for
// itself: the client's is early when the device is slow to hear its ring.
func TestLabEarlyBirdConnect(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	good, n := 0, labEnough(2, 20)
	for _, skew := range []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond} {
		conf := routerConf{nat: labPort, accept: true}
		at, there := l.newRouter(conf).host(), l.newRouter(conf).host()
		device := w.attic.serve(there)
		for range n {
			at.router.flush()
			s := w.connectLate(at, device, skew)
			t.Logf("device stopped for %v: status %d, link after %v", skew, s.status, s.link)
			if s.status == 0 {
				good++
			}
		}
		device.stop()
	}
	labGoals["late"].judge(t, "connects to a late device", good, 4*n)
}

// connectLate connects to a device that is stopped for a while.
func (w *labWorld) connectLate(at *labHost, device *labRole, skew time.Duration) labSetup {
	w.t.Helper()
	device.cmd.Process.Signal(syscall.SIGSTOP)
	timer := time.AfterFunc(skew, func() { device.cmd.Process.Signal(syscall.SIGCONT) })
	s := w.connect(at, "attic")
	if timer.Stop() {
		device.cmd.Process.Signal(syscall.SIGCONT)
	}
	if s.status != 0 {
		w.keep(fmt.Sprintf("late-%v", skew), map[string]string{"client": s.String(), "device": device.log.String(), "coordinator": w.coord.log.String()})
	}
	return s
}

// A smaller packet size somewhere on the way stops neither link nor data.
func TestLabSmallMTU(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	at, there := l.router(labPort).host(), l.router(labPort).host()
	w.attic.serve(there)
	for _, size := range []string{"1280", "1400", "1492"} {
		for _, how := range []string{"mtu", "hole"} {
			l.hub.do(how, there.router.ns, size)
			r := w.laptop.verb(at, "run", "attic", "--", "head -c 1000000 /dev/zero")
			if r.status != 0 || len(r.out) != 1000000 {
				t.Errorf("%s %s: %d bytes, status %d after %v: %s", how, size, len(r.out), r.status, r.took, r.errs)
			}
			t.Logf("1 MB with %s %s: %v", how, size, r.took.Round(time.Millisecond))
		}
	}
}

// Where UDP is blocked nothing can be done, and that is said in time.
func TestLabNoUDP(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	at, there := l.router(labNoUDP).host(), l.router(labPort).host()
	w.attic.serve(there)
	r := w.laptop.verb(at, "run", "attic", "--", "true")
	if r.status != 255 || r.took > 13*time.Second || !strings.Contains(r.errs, "UDP") {
		t.Errorf("no clear error: %v", r)
	}
}

// A router behind the provider's NAT.
func TestLabDoubleNATConnect(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	at := l.newRouter(routerConf{nat: labPort, behind: l.router(labPort)}).host()
	w.attic.serve(l.router(labPort).host())
	w.setups(at, labEnough(2, 20))
}

// A device behind a NAT that forgets flows after 30 s stays reachable, at the
// price of a packet each way in 20 s.
func TestLabIdle(t *testing.T) {
	needHour(t)
	l := newLab(t)
	w := l.account()
	at, there := l.router(labPort).host(), l.router(labPort).host()
	there.router.timeouts(30*time.Second, 30*time.Second)
	w.attic.serve(there)
	const rest = 3 * time.Minute
	out, in := there.router.packets()
	for quiet := -1; quiet != out; { // what a start brings is over
		quiet = out
		<-time.After(3 * time.Second)
		out, in = there.router.packets()
	}
	<-time.After(rest)
	out2, in2 := there.router.packets()
	t.Logf("at rest for %v: %d packets out, %d in", rest, out2-out, in2-in)
	if most := int(rest / (20 * time.Second)); out2-out > most+1 || in2-in > most+1 {
		t.Errorf("more than %d packets each way", most)
	}
	w.setups(at, 3)
}

// packets counts what has left and reached a router's provider.
func (r *labRouter) packets() (out, in int) {
	r.l.t.Helper()
	if _, err := fmt.Sscanf(r.l.hub.do("count", r.ns), "ok %d %d", &out, &in); err != nil {
		r.l.t.Fatal(err)
	}
	return out, in
}

// A birthday attack must not fill the router's table: with room for 1,024
// flows a second machine behind it still gets through.
func TestLabSmallTable(t *testing.T) {
	needTime(t)
	l := newLab(t)
	w := l.account()
	r := l.router(labRandom)
	at, other := r.host(), r.host()
	w.attic.serve(l.router(labPort).host())
	r.maxFlows(1024)
	s := w.connect(at, "attic")
	t.Logf("connect: status %d after %v", s.status, s.took)
	if rtt, lost := other.ping(labCoord4, 5, "0.1"); lost == 100 {
		t.Errorf("the router's table is full: round trip %v, %d%% lost", rtt, lost)
	}
	w.laptop.must(other, "status")
}

// A smaller MTU somewhere on the way, of which no router tells, comes with a
// move or under a path that stays: a transfer goes on, and so does its link.
func TestLabSilentSmallMTU(t *testing.T) {
	needTime(t)
	for name, change := range map[string]func(r *labRoam){
		"the device moves": func(r *labRoam) {
			r.hub.do("hole", r.spare[0].ns, "1280")
			r.carry(r.there)
		},
		"the client moves": func(r *labRoam) {
			r.hub.do("hole", r.spare[0].ns, "1280")
			r.carry(r.at)
		},
		"nothing moves": func(r *labRoam) { r.hub.do("hole", r.there.router.ns, "1280") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newLabRoam(t, labMove{})
			r.t = t
			f := r.bulk()
			if err := f.flows(); err != nil {
				t.Fatal(err)
			}
			before := r.link()
			f.reset()
			change(r)
			err := f.flows()
			// Half a second of doubt, and then QUIC's timer, which has doubled by
			// that time: twice to five times this without our doubt.
			most := 3 * time.Second
			if name == "nothing moves" { // QUIC's own timer comes before our doubt
				most = 5 * time.Second
			}
			if gap := f.gap(); err != nil || gap > most {
				t.Errorf("stood still for %v, %v", gap, err)
			} else {
				t.Logf("stood still for %v", gap)
			}
			if after := r.link(); before.Link == "" || after.Link != before.Link {
				t.Errorf("link %q, then %q", before.Link, after.Link)
			}
		})
	}
}
