package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
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

// attackSlow reports that the tests may take their full length: make slow.
func attackSlow() bool { return os.Getenv("SESSIO_SLOW") != "" }

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

// floodJunk makes junk of every kind, of recorded datagrams too.
func floodJunk(t *testing.T, recorded [][]byte) func(i int) []byte {
	kinds := attackJunk(coordNetInitial(t), recorded)
	return func(i int) []byte { return kinds[i%len(kinds)].make() }
}

// A junkKind is one kind of junk; each call makes another datagram.
type junkKind struct {
	name string
	make func() []byte
}

// attackJunk is all that a stranger can think of.
func attackJunk(initial []byte, recorded [][]byte) []junkKind {
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := 0; i < n; i += 8 {
			var w [8]byte
			binary.LittleEndian.PutUint64(w[:], rand.Uint64())
			copy(b[i:], w[:])
		}
		return b
	}
	old := func() []byte { return recorded[rand.IntN(len(recorded))] }
	long := func(first byte, version uint32, n int) []byte {
		b := random(n)
		b[0] = first
		binary.BigEndian.PutUint32(b[1:], version)
		b[5], b[14] = 8, 8 // lengths of two connection ids
		return b
	}
	other := func() []byte { // another connection id: it does not open
		b := bytes.Clone(initial)
		copy(b[6:], random(8))
		return b
	}
	token := func() []byte { // a token where a client has none
		b := long(0xc3, 1, 1200)
		b[23] = 32
		return b
	}
	return []junkKind{
		{"random bytes", func() []byte { return random(1 + rand.IntN(1400)) }},
		{"one byte", func() []byte { return random(1) }},
		{"a sealed datagram of random bytes", func() []byte { b := random(1 + rand.IntN(1200)); b[0] = sealVersion; return b }},
		{"an old one", old},
		{"an old one, cut short", func() []byte { b := old(); return b[:1+rand.IntN(len(b)-1)] }},
		{"an old one with one bit changed", func() []byte { b := bytes.Clone(old()); b[rand.IntN(len(b))] ^= 1 << rand.IntN(8); return b }},
		{"an old one, longer", func() []byte { return append(bytes.Clone(old()), random(9)...) }},
		{"an Initial of a stranger", func() []byte { return initial }},
		{"an Initial that does not open", other},
		{"an Initial cut short", func() []byte { return initial[:1+rand.IntN(len(initial)-1)] }},
		{"an Initial with a token", token},
		{"0-RTT", func() []byte { return long(0xd0, 1, 1200) }},
		{"Handshake", func() []byte { return long(0xe0, 1, 1200) }},
		{"Retry", func() []byte { return long(0xf0, 1, 1200) }},
		{"version negotiation", func() []byte { return long(0xc0, 0, 1200) }},
		{"an unknown version", func() []byte { return long(0xc0, 0x1a2a3a4a, 1200) }},
		{"version 2", func() []byte { return long(0xc0, 0x6b3343cf, 1200) }},
		{"an unknown version, small", func() []byte { return long(0xc0, 0xff00001d, 40) }},
		{"a short header", func() []byte { b := random(1 + rand.IntN(1400)); b[0] = 0x40 | b[0]&0x3f; return b }},
	}
}

func TestAttackFloodOfJunk(t *testing.T) {
	n := 20_000
	if attackSlow() {
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
	device := startProc(t, file, "-device", "-dir", attic.dir, "-listen", "127.0.0.1:0")
	port, err := strconv.ParseUint(device.word("ready on udp port "), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	w.await(attic)
	if out, err := w.exec(w.laptop.client(), "attic", "echo in"); out != "in\n" {
		t.Fatal(out, err)
	}
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
		before, began := p.rss(), time.Now()
		f := newFlood(t, p.to)
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
		if perSecond := float64(n) / took.Seconds(); perSecond < 5000 {
			t.Errorf("%s: takes %.0f datagrams a second", p.name, perSecond)
		}
	}
	if out, err := w.exec(w.laptop.client(), "attic", "echo in"); out != "in\n" {
		t.Errorf("after the flood: %q, %v", out, err)
	}
}
