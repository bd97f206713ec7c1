//go:build linux

package main

// What takes minutes: make judge runs it, on the program that is built.

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

func TestSlowBulk(t *testing.T) {
	slow(t)
	newJudge(t, "").throughCat(1<<30, 3*time.Minute)
}

func TestSlowSessions(t *testing.T) {
	slow(t)
	manySessions(t, 500)
}

// TestSlowStalled: as many stalled readers as a device lets in, less one.
func TestSlowStalled(t *testing.T) {
	slow(t)
	j := newJudge(t, "")
	j.lend()
	before := min(j.transfer(), j.transfer())
	for i := range maxPerDevice - 1 {
		j.stall(fmt.Sprint("stalled", i))
	}
	took := min(j.transfer(), j.transfer())
	t.Logf("a command takes %v beside %d stalled ones, alone %v", took, maxPerDevice-1, before)
	if took > 3*before+time.Second {
		t.Error("that is too long")
	}
	j.stall("last")
	j.run("! tool run attic true\nstatus 255\nstderr 'device has as many sessions as it may'")
}

func TestSlowSSHDNoFlood(t *testing.T) {
	slow(t)
	noFlood(t, 20000, 100000)
}

func TestSlowCoordinatorKilled(t *testing.T) {
	slow(t)
	crashAll(t, "vps", 60)
}

func TestSlowVerbsKilled(t *testing.T) {
	slow(t)
	crashAll(t, "verb", 60)
}

// TestSlowStoreKilled and TestSlowSessionsKilled kill what writes the
// coordinator's store five hundred times.
func TestSlowStoreKilled(t *testing.T) {
	slow(t)
	coordStoreKilled(t, 380)
}

func TestSlowSessionsKilled(t *testing.T) {
	slow(t)
	coordSessionsKilled(t, 120)
}

// TestSlowCoordinatorReturns: what it knew is known again within one beat.
func TestSlowCoordinatorReturns(t *testing.T) {
	slow(t)
	t.Parallel()
	coordinatorReturns(t, true)
}

// coordinatorReturns kills the coordinator while shells run, and brings it back.
func coordinatorReturns(t *testing.T, wait bool) {
	j := newJudge(t, "")
	j.enrol("cellar")
	j.run(`
on cellar
tool -device &cellar
wait cellar 'cellar serves as'
on laptop
until '(?s)attic +online.*cellar +online' status
capture PORT vps 'ready at 127.0.0.1:([0-9]+)'
term own shell attic
wait own '[$#] $'
tool -device &laptop
wait laptop 'laptop serves as'
term lent shell attic
wait lent '[$#] $'
kill vps
type own 'echo own-$((6*7))'
wait own 'own-42'
type lent 'echo lent-$((6*7))'
wait lent 'lent-42'
tool run attic -- echo without
stdout '^without$'
on vps
tool -coordinator -udp 127.0.0.1:$PORT &vps
wait vps 'ready at'
on laptop
tool run attic -- echo lent still
stdout '^lent still$'`)
	began := time.Now()
	if wait {
		j.within(scriptWait, "every device is online", func() bool {
			out := j.tool("status")
			return j.match(`attic +online`, out) && j.match(`cellar +online`, out) && j.match(`laptop +online`, out)
		})
		took := time.Since(began)
		t.Logf("every device was known again after %v", took)
		if took > beatEvery+500*time.Millisecond {
			t.Error("that is more than a beat")
		}
		j.run("tool run cellar -- echo introduced\nstdout '^introduced$'\nstop laptop 0\ntool run attic -- echo introduced\nstdout '^introduced$'")
	}
	j.run("type own 'exit 7'\nended own 7")
	j.run("silent vps ' joins '")
}

// Half-open connections of one address hold up nobody else, and those of many
// nobody who is trusted; when the grace time is over nothing of them is left.
func TestSlowHalfOpen(t *testing.T) {
	slow(t)
	for _, many := range []bool{false, true} {
		p := startPort(t, func(c *serverConfig) {
			c.grace = 5 * time.Second
			c.whitelist = []netip.Prefix{netip.MustParsePrefix("127.0.9.2/32")}
		})
		p.mustLogin("127.0.9.1").Close() // whatever is made once
		sshdUntil(t, "quiet", func() bool { return p.here() == 0 })
		before, goroutines := sshdCount(t).fds, runtime.NumGoroutine()
		heap := portHeap()
		began := time.Now()
		var open []net.Conn
		for i := range 564 {
			from, good := "127.0.0.2", "127.0.9.1"
			if many {
				from, good = fmt.Sprintf("127.0.%d.%d", 1+i%4, 2+i/4), "127.0.9.2"
			}
			nc := p.dialFrom(from)
			if open = append(open, nc); i >= 500 {
				io.WriteString(nc, "SSH-2.0-half\r\n\x00\x00\x01\x00\x08\x14")
			}
			if i%141 == 140 {
				at := time.Now()
				cl, err := p.login(good, nil)
				if took := time.Since(at); err != nil || took > 2*time.Second {
					t.Fatalf("from %s beside %d: %v after %v", good, p.here(), err, took)
				}
				cl.Close()
			}
		}
		t.Logf("%d of 564 are waiting after %v, the heap has grown by %d kB", p.here(), time.Since(began), (portHeap()-heap)>>10)
		sshdUntil(t, "the end of the grace time", func() bool { return p.here() == 0 })
		t.Logf("all are gone after %v", time.Since(began))
		for _, nc := range open {
			nc.Close()
		}
		sshdUntil(t, "descriptors and goroutines as before", func() bool {
			return sshdCount(t).fds <= before && runtime.NumGoroutine() <= goroutines
		})
		t.Logf("the heap is larger by %d kB", (portHeap()-heap)>>10)
	}
}

func portHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
