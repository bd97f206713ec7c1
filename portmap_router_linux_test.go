package main

// This file runs the port mapper against miniupnpd, in namespaces of its own:
// a machine on a LAN, its router with a NAT, and a peer on the WAN.

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	portRoleEnv = "SESSIO_TEST_PORTMAP" // what the test binary is: the whole test in a network of its own, or "machine"
	wanAddr     = "11.22.33.1"          // a public one; no packet leaves the namespaces
	lanRules    = `table inet filter {
	chain forward { type filter hook forward priority 0; policy drop; iifname "lan" accept; ct state established,related accept; jump miniupnpd; }
	chain input { type filter hook input priority 0; %s; }
	chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
	chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; oifname "wan" masquerade; }
	chain miniupnpd {
	}
	chain prerouting_miniupnpd {
	}
	chain postrouting_miniupnpd {
	}
}
`
	// withoutPCP drops what PCP sends: miniupnpd switches both protocols only.
	withoutPCP = "udp dport 5351 @th,64,8 2 drop"
)

func TestPortMapRouter(t *testing.T) {
	switch os.Getenv(portRoleEnv) {
	case "machine":
		portMachineMain(t)
		return
	case "":
		inOwnNames(t) // leases of two seconds: nothing runs beside it
		return
	}
	t.Run("pcp", func(t *testing.T) {
		t.Parallel()
		w := newPortWorld(t, wanAddr, "", "enable_natpmp=yes\nenable_upnp=no\n")
		w.mapsAndReleases(t, "pcp")
	})
	t.Run("nat-pmp", func(t *testing.T) {
		t.Parallel()
		w := newPortWorld(t, wanAddr, withoutPCP, "enable_natpmp=yes\nenable_upnp=no\n")
		w.mapsAndReleases(t, "nat-pmp")
	})
	t.Run("upnp", func(t *testing.T) {
		t.Parallel()
		w := newPortWorld(t, wanAddr, "", "enable_natpmp=no\nenable_upnp=yes\nsecure_mode=yes\n")
		w.mapsAndReleases(t, "upnp")
	})
	t.Run("upnp by multicast", func(t *testing.T) {
		t.Parallel()
		w := newPortWorld(t, wanAddr, "ip daddr 192.168.77.1 udp dport 1900 drop", "enable_natpmp=no\nenable_upnp=yes\n")
		w.mapsAndReleases(t, "upnp")
	})
	t.Run("upnp version 1", func(t *testing.T) {
		t.Parallel()
		w := newPortWorld(t, wanAddr, "", "enable_natpmp=no\nenable_upnp=yes\nforce_igd_desc_v1=yes\nsecure_mode=yes\n")
		w.mapsAndReleases(t, "upnp")
	})
	t.Run("the port is taken", portMapTaken)
	t.Run("short leases are renewed", portMapRenewed)
	t.Run("the router starts anew", portMapRestart)
	t.Run("we were killed", portMapKilled)
	t.Run("double NAT", portMapDouble)
	t.Run("no router", portMapNone)
}

// portMapTaken has the port mapped for somebody else already.
func portMapTaken(t *testing.T) {
	for i, c := range []struct{ by, conf, input string }{
		{"pcp", "enable_natpmp=yes\nenable_upnp=no\n", ""},
		{"nat-pmp", "enable_natpmp=yes\nenable_upnp=no\n", withoutPCP},
		{"upnp", "enable_natpmp=no\nenable_upnp=yes\n", ""},
		{"upnp", "enable_natpmp=no\nenable_upnp=yes\nforce_igd_desc_v1=yes\n", ""},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			leases := filepath.Join(t.TempDir(), "leases")
			if err := os.WriteFile(leases, []byte("UDP:7722:192.168.77.9:7722:0:other\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			w := newPortWorld(t, wanAddr, c.input, c.conf+"lease_file="+leases+"\n")
			m := w.machine(t, "2h")
			at := m.mapped(t, c.by)
			if strings.HasSuffix(at, ":7722") {
				t.Errorf("%s: got the port of somebody else", c.by)
			}
			w.reaches(t, m, at)
			m.ends(t)
			if left := w.ruleset(t); strings.Contains(left, "192.168.77.2") || !strings.Contains(left, "192.168.77.9") {
				t.Errorf("%s: our mapping was not ended, or another's was:\n%s", c.by, left)
			}
		})
	}
}

// portMapRenewed grants two seconds, and sees six of them.
func portMapRenewed(t *testing.T) {
	t.Parallel()
	w := newPortWorld(t, wanAddr, "", "enable_natpmp=yes\nenable_upnp=no\n")
	m := w.machine(t, "2s")
	at := m.mapped(t, "pcp")
	waitUntil(t, func() bool { return strings.Count(w.router.said(), "60bytes") >= 6 })
	w.reaches(t, m, at)
	if n := strings.Count(m.said(), "mapped "); n != 1 {
		t.Errorf("it changed %d times:\n%s", n, m.said())
	}
	m.ends(t)
}

func portMapRestart(t *testing.T) {
	for i, c := range []struct{ by, conf, input string }{
		{"pcp", "enable_natpmp=yes\nenable_upnp=no\n", ""},
		{"nat-pmp", "enable_natpmp=yes\nenable_upnp=no\n", withoutPCP},
		{"upnp", "enable_natpmp=no\nenable_upnp=yes\n", ""},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			w := newPortWorld(t, wanAddr, c.input, c.conf)
			m := w.machine(t, "2h")
			at := m.mapped(t, c.by)
			w.router.end(syscall.SIGKILL)
			w.run(t, "rtr", "nft", "flush", "ruleset")
			w.rules(t, c.input)
			// An epoch may stand at the old one's value for a second: let it.
			waitUntil(t, func() bool { return time.Since(w.started) > 4*time.Second })
			w.start(t)
			if c.by == "upnp" { // which says nothing when it starts
				m.line(t, "again")
			}
			waitUntil(t, func() bool { return strings.Contains(w.ruleset(t), "dport 7722") })
			w.reaches(t, m, at)
			m.ends(t)
		})
	}
}

// portMapKilled comes back while the router still holds the old mapping.
func portMapKilled(t *testing.T) {
	for i, c := range []struct{ conf, input string }{
		{"enable_natpmp=yes\nenable_upnp=no\n", ""},
		{"enable_natpmp=yes\nenable_upnp=no\n", withoutPCP},
		{"enable_natpmp=no\nenable_upnp=yes\n", ""},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			w := newPortWorld(t, wanAddr, c.input, c.conf)
			m := w.machine(t, "2h")
			m.waits(t, "\nmapped ")
			m.end(syscall.SIGKILL)
			m = w.machine(t, "2h")
			m.waits(t, "\nmapped ")
			w.reaches(t, m, wanAddr+":7722")
			m.ends(t)
		})
	}
}

func portMapDouble(t *testing.T) {
	for i, c := range []struct{ conf, input, says string }{
		{"enable_natpmp=yes\nenable_upnp=no\n", "", "double true, ; pcp true the router is itself behind another NAT: its own address is 100.64.9.1;"},
		{"enable_natpmp=yes\nenable_upnp=no\n", withoutPCP, "nat-pmp false the router refuses: the router has no network (3);"},
		{"enable_natpmp=no\nenable_upnp=yes\n", "", "upnp false the router has no address outside end"},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			w := newPortWorld(t, "100.64.9.1", c.input, c.conf)
			m := w.machine(t, "2h")
			for end := time.Now().Add(scriptWait); !strings.Contains(m.said(), c.says); time.Sleep(100 * ms) {
				if m.line(t, "own report"); time.Now().After(end) {
					t.Fatalf("never said %q:\n%s", c.says, m.said())
				}
			}
			if strings.Contains(m.said(), "mapped ") {
				t.Errorf("an address inside another NAT was used:\n%s", m.said())
			}
			m.ends(t)
		})
	}
}

// portMapNone has a router that answers nothing, and none at all.
func portMapNone(t *testing.T) {
	t.Parallel()
	w := newPortWorld(t, wanAddr, "", "")
	m := w.machine(t, "2h")
	m.line(t, "report")
	m.waits(t, "; upnp false no answer end")
	if strings.Contains(m.said(), "true") {
		t.Errorf("a silent router can do something:\n%s", m.said())
	}
	w.run(t, "lan", "ip", "route", "del", "default")
	m.line(t, "report")
	m.waits(t, "no router was found")
	m.ends(t)
}

// A portWorld is a WAN, a router and a LAN.
type portWorld struct {
	number  string // before its namespaces' names
	conf    string
	router  *portProc
	started time.Time
	peer    string // an address on the WAN
}

func newPortWorld(t *testing.T, outside, input, conf string) *portWorld {
	t.Helper()
	w := &portWorld{number: fmt.Sprint(lastFakeRouter.Add(1)), conf: filepath.Join(t.TempDir(), "conf"), peer: strings.TrimSuffix(outside, "1") + "2"}
	t.Cleanup(w.down)
	settings := conf + "ext_ifname=wan\nlistening_ip=lan\nipv6_disable=yes\nmin_lifetime=1\nsystem_uptime=no\nuuid=e1f2a3b4-0000-4000-8000-000000000001\n"
	if err := os.WriteFile(w.conf, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"netns add @wan", "netns add @rtr", "netns add @lan", "-n @wan link set lo up", "-n @rtr link set lo up", "-n @lan link set lo up",
		"link add wan netns @rtr type veth peer name eth0 netns @wan", "link add lan netns @rtr type veth peer name eth0 netns @lan",
		"-n @wan addr add " + w.peer + "/24 dev eth0", "-n @rtr addr add " + outside + "/24 dev wan",
		"-n @rtr addr add 192.168.77.1/24 dev lan", "-n @lan addr add 192.168.77.2/24 dev eth0",
		"-n @wan link set eth0 up", "-n @rtr link set wan up", "-n @rtr link set lan up", "-n @lan link set eth0 up", "-n @lan route add default via 192.168.77.1"} {
		runIP(t, strings.Fields(strings.ReplaceAll(line, "@", w.number))...)
	}
	w.run(t, "rtr", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	w.rules(t, input)
	if conf != "" {
		w.start(t)
	}
	return w
}

// down takes everything away; the namespaces' devices go with them.
func (w *portWorld) down() {
	if w.router != nil {
		w.router.end(syscall.SIGKILL)
		w.router = nil
	}
	for _, ns := range []string{"wan", "rtr", "lan"} {
		exec.Command("ip", "netns", "del", w.number+ns).Run()
	}
}

func (w *portWorld) rules(t *testing.T, input string) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", w.number+"rtr", "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(lanRules, input))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
}

// start has miniupnpd up and listening.
func (w *portWorld) start(t *testing.T) {
	t.Helper()
	w.router = startPortProc(t, nil, w.number+"rtr", "/usr/sbin/miniupnpd", "-d", "-f", w.conf, "-P", w.conf+".pid")
	w.started = time.Now()
	waitUntil(t, func() bool { return w.router.over() || strings.Contains(w.router.said(), "starting") })
	if w.router.over() && !strings.Contains(w.router.said(), "starting") {
		t.Fatalf("miniupnpd does not start:\n%s", w.router.said())
	}
}

func (w *portWorld) run(t *testing.T, ns string, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", append([]string{"netns", "exec", w.number + ns}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (w *portWorld) ruleset(t *testing.T) string { return w.run(t, "rtr", "nft", "list", "ruleset") }

// machine is a process of ours on the LAN.
func (w *portWorld) machine(t *testing.T, life string) *portProc {
	t.Helper()
	env := []string{portRoleEnv + "=machine", "SESSIO_TEST_LIFE=" + life, "GORACE=atexit_sleep_ms=0"}
	m := startPortProc(t, env, w.number+"lan", os.Args[0], "-test.run=^TestPortMapRouter$")
	t.Cleanup(func() { m.end(syscall.SIGKILL) })
	return m
}

// reaches has a stranger on the WAN write to the mapped port.
func (w *portWorld) reaches(t *testing.T, m *portProc, at string) {
	t.Helper()
	host, port, _ := strings.Cut(at, ":")
	text := fmt.Sprintf("knock at %d", time.Now().UnixNano())
	w.run(t, "wan", "bash", "-c", "echo -n '"+text+"' >/dev/udp/"+host+"/"+port)
	m.waits(t, "got "+text+" from "+w.peer)
}

// mapsAndReleases is the whole life of one mapping.
func (w *portWorld) mapsAndReleases(t *testing.T, by string) {
	t.Helper()
	m := w.machine(t, "2h")
	at := m.mapped(t, by)
	if at != wanAddr+":7722" {
		t.Errorf("mapped at %s", at)
	}
	w.reaches(t, m, at)
	m.line(t, "report")
	m.waits(t, "router 192.168.77.1, outside "+wanAddr+", double false, ;")
	m.waits(t, " end\n")
	if !strings.Contains(m.said(), by+" true ;") && !strings.Contains(m.said(), by+" true  end") {
		t.Errorf("the probe does not see it:\n%s", m.said())
	}
	m.ends(t)
	if left := w.ruleset(t); strings.Contains(left, "192.168.77.2") || strings.Contains(left, "7722") {
		t.Errorf("not ended at the router:\n%s", left)
	}
}

// portMachineMain is the machine on the LAN: it says what is mapped and what
// comes in by its socket, and obeys lines until there are no more.
func portMachineMain(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 7722})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			fmt.Printf("got %s from %v\n", buf[:n], from)
		}
	}()
	var m *portMapper // its own callback asks it
	m = newPortMapper(7722, func(_ int, format string, args ...any) { fmt.Printf(format+"\n", args...) }, func() {
		a, by := m.mapped()
		fmt.Printf("mapped %v by %s\n", a, by)
	})
	if m.times.life, err = time.ParseDuration(os.Getenv("SESSIO_TEST_LIFE")); err != nil {
		t.Fatal(err)
	}
	m.times.floor, m.times.calm = 500*ms, 100*ms
	ctx, stop := context.WithCancel(t.Context())
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	var running sync.WaitGroup
	running.Go(func() { m.run(ctx) })
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "again":
			m.again()
		case "report":
			showPortReport(probePortMapping(ctx, 7722))
		case "own report":
			showPortReport(m.report())
		}
	}
	stop()
	start := time.Now()
	running.Wait()
	fmt.Printf("ended within %v\n", time.Since(start))
	waitUntil(t, func() bool { return runtime.NumGoroutine() <= goroutines }) // some are just going
	if n := openFiles(t); n > files {
		t.Errorf("%d files are left open", n-files)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(dir)
}

func showPortReport(r portReport) {
	text := fmt.Sprintf("router %v, outside %v, double %v, %s", r.router, r.external, r.doubleNAT, r.err)
	for _, p := range r.protocols {
		text += fmt.Sprintf("; %s %v %s", p.by, p.available, p.err)
	}
	fmt.Println(text + " end")
}

// A portProc is a process in a namespace.
type portProc struct {
	besideProc
	in *os.File
}

func startPortProc(t *testing.T, env []string, ns, program string, args ...string) *portProc {
	t.Helper()
	p := &portProc{}
	p.done = make(chan struct{})
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", ns, program}, args...)...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	r, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdin, p.in = r, in
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	go func() { p.err = p.cmd.Wait(); in.Close(); close(p.done) }()
	return p
}

func (p *portProc) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *portProc) line(t *testing.T, text string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, text); err != nil {
		t.Fatalf("%v\n%s", err, p.said())
	}
}

func (p *portProc) waits(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(scriptWait); !strings.Contains(p.said(), text); time.Sleep(5 * ms) {
		if p.over() || time.Now().After(end) {
			t.Fatalf("it never said %q:\n%s", text, p.said())
		}
	}
}

// mapped waits for a mapping and returns the address outside.
func (p *portProc) mapped(t *testing.T, by string) string {
	t.Helper()
	p.waits(t, "\nmapped ")
	_, rest, _ := strings.Cut(p.said(), "\nmapped ")
	at, rest, _ := strings.Cut(rest, " ")
	if !strings.HasPrefix(rest, "by "+by+"\n") {
		t.Fatalf("not mapped by %s:\n%s", by, p.said())
	}
	return at
}

// ends closes the machine's input, which ends it well.
func (p *portProc) ends(t *testing.T) {
	t.Helper()
	p.in.Close()
	if !p.wait() || p.err != nil || !strings.Contains(p.said(), "ended within") {
		t.Fatalf("it did not end well: %v\n%s", p.err, p.said())
	}
	_, text, _ := strings.Cut(p.said(), "ended within ")
	text, _, _ = strings.Cut(text, "\n")
	if d, err := time.ParseDuration(text); err != nil || d > portReleaseTime+500*ms {
		t.Errorf("it took %s to end", text)
	}
}

// inOwnNames runs the calling test again where names of network namespaces,
// and these themselves, are its own: nothing is left of them after it.
func inOwnNames(t *testing.T) {
	t.Helper()
	inner := "mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up && exec \"$0\" \"$@\""
	cmd := exec.Command("/bin/sh", "-c", inner, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.parallel=6")
	cmd.Env = append(os.Environ(), portRoleEnv+"=all")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in namespaces of its own (needs root, or namespaces for users): %v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}
