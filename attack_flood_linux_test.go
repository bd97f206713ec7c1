package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// This file floods the two UDP ports of real processes with junk.

// maxFloodRSS is how much a flood may add to a process, in KiB.
const maxFloodRSS = 2 << 10

// A floodProc is the real binary at work.
type floodProc struct {
	t    *testing.T
	cmd  *exec.Cmd
	said *testLog
}

// buildSessio builds the program as it is given to people, without the race
// detector.
func buildSessio(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sessio")
	cmd := exec.Command("go", "build", "-o", file, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return file
}

// startProc runs the binary until the test is over.
func startProc(t *testing.T, file string, args ...string) *floodProc {
	t.Helper()
	p := &floodProc{t: t, cmd: exec.Command(file, args...), said: &testLog{}}
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	p.cmd.Env = []string{"HOME=" + t.TempDir()}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(15*time.Second, func() { p.cmd.Process.Kill() })
		defer kill.Stop()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, p.said)
		}
	})
	return p
}

// word waits until the process has said one that begins with prefix, and
// returns the rest of it.
func (p *floodProc) word(prefix string) (rest string) {
	p.t.Helper()
	waitUntil(p.t, func() bool {
		line, ok := "", false
		_, line, ok = strings.Cut(p.said.String(), prefix)
		rest, _, _ = strings.Cut(line, "\n")
		return ok && strings.Contains(line, "\n")
	})
	return rest
}

// rss is the process's resident memory in KiB.
func (p *floodProc) rss() int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	p.t.Fatalf("no VmRSS in\n%s", b)
	return 0
}

// queued reads how many bytes wait in the kernel for a UDP port of loopback,
// and how many datagrams it has dropped there.
func queued(t *testing.T, port uint16) (waiting, drops int) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	local := fmt.Sprintf("0100007F:%04X", port)
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 13 || string(f[1]) != local {
			continue
		}
		_, rx, _ := strings.Cut(string(f[4]), ":")
		n, _ := strconv.ParseInt(rx, 16, 64)
		drops, _ = strconv.Atoi(string(f[12]))
		return int(n), drops
	}
	t.Fatalf("no socket at port %d", port)
	return 0, 0
}

// A flood is junk on its way to one port.
type flood struct {
	t        *testing.T
	conn     *net.UDPConn
	to       netip.AddrPort
	sent     int // bytes
	answered chan int
}

func newFlood(t *testing.T, to netip.AddrPort) *flood {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadBuffer(4 << 20)
	f := &flood{t: t, conn: conn, to: to, answered: make(chan int, 1)}
	go func() {
		bytes := 0
		for b := make([]byte, 2048); ; {
			n, err := conn.Read(b)
			if err != nil {
				f.answered <- bytes
				return
			}
			bytes += n
		}
	}()
	return f
}

// run sends n datagrams, in bursts that the receiver's buffer holds.
func (f *flood) run(n int, junk func(i int) []byte) {
	f.t.Helper()
	_, before := queued(f.t, f.to.Port())
	for i := range n {
		b := junk(i)
		if _, err := f.conn.Write(b); err != nil {
			f.t.Fatal(err)
		}
		f.sent += len(b)
		if i%128 == 127 || i == n-1 {
			waitUntil(f.t, func() bool { waiting, _ := queued(f.t, f.to.Port()); return waiting == 0 })
		}
	}
	if _, drops := queued(f.t, f.to.Port()); drops != before {
		f.t.Errorf("%d of %d datagrams were not read", drops-before, n)
	}
}

// end returns how many bytes came back.
func (f *flood) end() int {
	f.conn.Close()
	return <-f.answered
}

func TestAttackFloodOfJunk(t *testing.T) {
	n := 20_000
	if slowTests() {
		n = 1_000_000
	}
	file := buildSessio(t)
	dir := t.TempDir()
	coord := startProc(t, file, "-coordinator", "-dir", dir, "-udp", "127.0.0.1:0")
	word, err := parseCoordWord("s1/" + coord.word("s1/"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := loadIdentity(filepath.Join(dir, "coord", "identity"))
	if err != nil {
		t.Fatal(err)
	}
	relay := newAttackRelay(t, netip.MustParseAddrPort(word.addr))
	relay.record()
	word.addr = relay.addr().String()
	w := &testWorld{t: t, owner: trustTestKey("owner"), keys: id.keys, word: word}
	w.laptop = w.machine("laptop")
	w.create()
	attic := w.join("attic")
	w.signDevice(attic, "server")
	device := startProc(t, file, "-device", "-v", "-dir", attic.dir, "-listen", "127.0.0.1:0")
	port, err := strconv.ParseUint(device.word("ready on udp port "), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	w.await(attic)
	c := w.laptop.client()
	if out, err := w.exec(c, "attic", "echo in"); out != "in\n" {
		t.Fatal(out, err)
	}
	c.close() // a link is an excuse to take memory
	waitUntil(t, func() bool { return strings.Contains(device.said.String(), "has ended: ") })
	var in, out [][]byte
	for _, k := range relay.take() {
		if isSealed(k.b) && k.in {
			in = append(in, k.b)
		} else if isSealed(k.b) {
			out = append(out, k.b)
		}
	}
	for _, p := range []struct {
		*floodProc
		name     string
		to       netip.AddrPort
		recorded [][]byte
	}{
		{coord, "coordinator", relay.target, in},
		{device, "device", netip.AddrPortFrom(relay.target.Addr(), uint16(port)), out},
	} {
		f := newFlood(t, p.to)
		f.run(min(n, 20_000), floodJunk(t, p.recorded)) // it has what the collector lets it have from now on
		before, began := p.rss(), time.Now()
		f.run(n, floodJunk(t, p.recorded))
		took, after := time.Since(began), p.rss()
		back := f.end()
		t.Logf("%s: %d datagrams in %v, %d bytes in, %d out, %d KiB before, %d after", p.name, n, took, f.sent, back, before, after)
		if p.name == "device" && back > 0 || back > f.sent {
			t.Errorf("%s: %d bytes in draw %d", p.name, f.sent, back)
		}
		if after > before+maxFloodRSS {
			t.Errorf("%s: has grown from %d to %d KiB", p.name, before, after)
		}
		if perSecond := float64(n) / took.Seconds(); perSecond < 1000 {
			t.Errorf("%s: takes %.0f datagrams a second", p.name, perSecond)
		}
	}
	if out, err := w.exec(w.laptop.client(), "attic", "echo in"); out != "in\n" {
		t.Errorf("after the flood: %q, %v", out, err)
	}
}
