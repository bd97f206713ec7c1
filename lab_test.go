//go:build linux

package main

// The lab: real NATs in network namespaces, and between them an internet with
// delay and loss (testdata/hub). The machines in it run the built program.
//
// lab_nat_test.go has the routers, lab_world_test.go the machines and their
// account; what is tested in it stands in the other lab_*_test.go.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// labPrefix begins the names of our namespaces, before the test's pid.
	labPrefix = "sessiolab"
	// labEnv, in the environment, asks for more than make test does: "short",
	// or "full" for all pairs and moves many times.
	labEnv = "SESSIO_LAB"
	// labLogs names a directory to keep the logs of failed runs in.
	labLogs = "SESSIO_LAB_LOGS"

	labCoord  = "coord.lab" // how machines know the coordinator
	labCoord4 = "198.51.100.1"
	labOther4 = "198.51.100.2" // its second address
	labCoord6 = "2001:db8:ffff::1"
	labOther6 = "2001:db8:ffff::2"

	// The round trips: 40 ms to the coordinator, 60 ms between machines.
	labCoordDelay = 5 * time.Millisecond
	labDelay      = 15 * time.Millisecond
	labCoordRTT   = 2 * (labCoordDelay + labDelay)
	labPeerRTT    = 4 * labDelay
)

// A lab is one such world, gone with its test.
type lab struct {
	t      *testing.T
	prefix string
	dir    string
	hub    *labHub
	coord  *labHost
	n      int // routers so far
}

// labsMade counts, for the names of namespaces.
var labsMade atomic.Int64

// needLab says why there can be no lab: a person may test without root, the
// machine that judges may not.
func needLab(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("the NAT lab needs root")
	}
	t.Skip("SKIPPED: the NAT lab needs root (network namespaces, nftables, TUN): sudo make lab")
}

// needTime leaves what takes more than seconds to make lab and make lab-full.
func needTime(t *testing.T) {
	t.Helper()
	needLab(t)
	if os.Getenv(labEnv) == "" {
		t.Skip("make lab runs it")
	}
}

// needHour leaves what takes minutes to make lab-full.
func needHour(t *testing.T) {
	t.Helper()
	needTime(t)
	if !labIsFull() {
		t.Skip("make lab-full runs it")
	}
}

func labIsFull() bool { return os.Getenv(labEnv) == "full" }

func newLab(t *testing.T) *lab {
	t.Helper()
	needLab(t)
	labSweep(t)
	for _, tool := range []string{"ip", "nft", "conntrack", "ping", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: testdata/tools.sh lab installs it", err)
		}
	}
	l := &lab{t: t, prefix: fmt.Sprintf("%s%d-%d-", labPrefix, os.Getpid(), labsMade.Add(1)), dir: t.TempDir()}
	t.Cleanup(func() { labRemove(l.prefix) })
	l.hub = newLabHub(t)
	l.coord = l.newHost("coord")
	l.openWAN(l.coord, labCoordDelay, labCoord4+"/32", labOther4+"/32", labCoord6+"/128", labOther6+"/128")
	return l
}

// openWAN puts a namespace on the internet with its addresses.
func (l *lab) openWAN(h *labHost, delay time.Duration, addrs ...string) {
	l.t.Helper()
	l.hub.do("open", h.ns)
	l.hub.do("delay", h.ns, delay.String())
	batch := "link set wan up txqueuelen 2000\n"
	for _, a := range addrs {
		l.hub.do("route", h.ns, a)
		batch += "addr add " + a + " dev wan" + nodad(a) + "\n"
	}
	h.ip(batch + "route add default dev wan\nroute add ::/0 dev wan")
}

// nodad has an IPv6 address be good at once.
func nodad(addr string) string {
	if strings.Contains(addr, ":") {
		return " nodad"
	}
	return ""
}

// A labHost is a namespace: a machine's, a router's or the coordinator's.
type labHost struct {
	l  *lab
	ns string

	router *labRouter // that it is behind; nil for routers and coordinator
	dev    string     // with which it is plugged in
	addr4  string     // in its network, as is addr6; "" for none
	addr6  string
	leases map[int]int // its addresses' last parts in the LANs of routers, by their ids
}

func (l *lab) newHost(name string) *labHost {
	l.t.Helper()
	h := &labHost{l: l, ns: l.prefix + name, leases: map[int]int{}}
	etc := filepath.Join("/etc/netns", h.ns)
	hosts := fmt.Sprintf("127.0.0.1 localhost\n%s %s\n%s %s\n", labCoord4, labCoord, labCoord6, labCoord)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(etc, "hosts"), []byte(hosts), 0o644); err != nil {
		l.t.Fatal(err)
	}
	l.run("", "ip", "netns", "add", h.ns)
	h.ip("link set lo up")
	return h
}

// hosts has the host know the coordinator by these addresses only.
func (h *labHost) hosts(addrs ...string) {
	h.l.t.Helper()
	text := "127.0.0.1 localhost\n"
	for _, a := range addrs {
		text += a + " " + labCoord + "\n"
	}
	if err := os.WriteFile(filepath.Join("/etc/netns", h.ns, "hosts"), []byte(text), 0o644); err != nil {
		h.l.t.Fatal(err)
	}
}

// ip runs a batch of commands of ip(8) in the namespace.
func (h *labHost) ip(batch string) {
	h.l.t.Helper()
	h.l.run(batch+"\n", "ip", "-n", h.ns, "-batch", "-")
}

// command is one that will run in the namespace and die with us.
func (h *labHost) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.ns, name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// sysctl sets a value of the namespace: "net/ipv4/ip_forward".
func (h *labHost) sysctl(name, value string) {
	h.l.t.Helper()
	err := h.inside(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644) })
	if err != nil {
		h.l.t.Fatalf("%s: %s = %s: %v", h.ns, name, value, err)
	}
}

// inside calls f on a thread in the namespace: sockets made by it stay there.
func (h *labHost) inside(f func() error) error {
	done := make(chan error)
	go func() { done <- insideNetns("/run/netns/"+h.ns, f) }()
	return <-done
}

// insideNetns keeps the thread, and lets it go only when it is at home again.
func insideNetns(file string, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	ns, err := os.Open(file)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// run runs a command, which must be well, and returns what it said.
func (l *lab) run(input, name string, args ...string) string {
	l.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, out, input)
	}
	return string(out)
}

// A labHub is the hub's process.
type labHub struct {
	t   *testing.T
	mu  sync.Mutex
	in  io.WriteCloser
	out *bufio.Reader
}

func newLabHub(t *testing.T) *labHub {
	t.Helper()
	bin, err := labHubFile()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin)
	cmd.Stderr = os.Stderr
	in, out := startPiped(t, cmd)
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return &labHub{t: t, in: in, out: bufio.NewReader(out)}
}

// do gives the hub a command and returns its answer.
func (h *labHub) do(words ...string) string {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := fmt.Fprintln(h.in, strings.Join(words, " ")); err != nil {
		h.t.Fatalf("hub: %v", err)
	}
	said, err := h.out.ReadString('\n')
	if err != nil || !strings.HasPrefix(said, "ok") {
		h.t.Fatalf("hub: %v: %s%v", words, said, err)
	}
	return said
}

// labHubFile and labTool build what the lab runs, once.
var labHubFile = sync.OnceValues(func() (string, error) {
	return labBuild("hub", "go", "build", "-C", "testdata/hub", "-o")
})

var labTool = sync.OnceValues(func() (string, error) {
	if file := os.Getenv(toolFileEnv); file != "" {
		return filepath.Abs(file)
	}
	return labBuild("sessio", "testdata/build.sh", "-s -w", "-o")
})

// labBuild runs a build whose last argument is the file to make. Another test
// run here may execute the old one.
func labBuild(name string, words ...string) (string, error) {
	file, err := filepath.Abs(filepath.Join("dist", "lab", name))
	if err != nil {
		return "", err
	}
	made := fmt.Sprintf("%s.%d", file, os.Getpid())
	cmd := exec.Command(words[0], append(words[1:], made)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return file, os.Rename(made, file)
}

// labSweep removes the labs of test runs that were killed.
func labSweep(t *testing.T) {
	t.Helper()
	left, _ := filepath.Glob("/run/netns/" + labPrefix + "*-coord")
	for _, file := range left {
		prefix, _, _ := strings.Cut(filepath.Base(file), "-")
		pid, _ := strconv.Atoi(strings.TrimPrefix(prefix, labPrefix))
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || !strings.Contains(filepath.Base(exe), ".test") {
			t.Logf("removing %s, left by a run that was killed", prefix)
			labRemove(prefix + "-")
		}
	}
}

// labRemove ends what runs in the namespaces of a prefix and removes them.
func labRemove(prefix string) {
	left, _ := filepath.Glob("/run/netns/" + prefix + "*")
	for _, file := range left {
		ns := filepath.Base(file)
		pids, _ := exec.Command("ip", "netns", "pids", ns).Output()
		for _, word := range strings.Fields(string(pids)) {
			if pid, err := strconv.Atoi(word); err == nil && pid != os.Getpid() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput()
		if err = errors.Join(err, os.RemoveAll("/etc/netns/"+ns)); err != nil {
			fmt.Fprintf(os.Stderr, "removing namespace %s: %v\n%s", ns, err, out)
		}
	}
}
