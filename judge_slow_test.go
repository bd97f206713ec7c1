//go:build linux

package main

// What takes minutes: make judge runs it, on the program that is built.

import (
	"fmt"
	"os"
	"testing"
	"time"
)

func slow(t *testing.T) {
	t.Helper()
	if os.Getenv("SESSIO_SLOW") == "" {
		t.Skip("only in make judge")
	}
}

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
