package main

// This file knows which program this is, and keeps it small: one copy of the
// sorting algorithm in the binary, memory by how much the machine has, and one
// processor for each connection.

import (
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// version and builtAt (unix seconds) are set by the linker; see the Makefile.
var (
	version = "dev"
	builtAt = "0"
)

// maxBuild bounds a program's version text on the wire, in bytes.
const maxBuild = 32

// buildVersion is the version as peers are told it, at most maxBuild bytes.
func buildVersion() string { return version[:min(len(version), maxBuild)] }

// buildTime is a time that lies in the past of every right clock.
func buildTime() time.Time {
	n, err := strconv.ParseInt(builtAt, 10, 64)
	if err != nil {
		return time.Unix(0, 0)
	}
	return time.Unix(n, 0)
}

// sortBy sorts list; what compares equal stays in order.
func sortBy[T any](list []T, compare func(a, b T) int) {
	sort.SliceStable(list, func(i, j int) bool { return compare(list[i], list[j]) < 0 })
}

// smallBelow is what a machine with little memory has, in bytes.
const smallBelow = 128 << 20

// totalMemory reads MemTotal, in bytes; 0 = not known.
func totalMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		rest, ok := strings.CutPrefix(line, "MemTotal:")
		if !ok {
			continue
		}
		if f := strings.Fields(rest); len(f) == 2 && f[1] == "kB" {
			n, _ := strconv.ParseInt(f[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// smallMemory reports that windows and buffers should be small.
func smallMemory() bool {
	total := totalMemory()
	return total > 0 && total <= smallBelow
}

// How much garbage is left lying, in percent of what is in use. The runtime does
// not collect below 4 MiB times this, and 40 bytes for each datagram of junk
// fill that in no time: a process that only waits leaves less. With links, when
// bytes move, that would cost 40 % more CPU.
const (
	gcWaiting   = 25
	gcBusy      = 100
	gcBusySmall = 50 // where memory is little
)

// boundMemory is for roles, which wait most of the time: it makes the collector
// work harder, unless the environment says how hard.
func boundMemory() {
	setGC(gcWaiting)
	if smallMemory() && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(totalMemory() * 3 / 8)
	}
}

func setGC(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// A gcGear counts what makes the process busy.
type gcGear struct {
	mu sync.Mutex
	n  int // guarded by mu
}

// busy says that something has begun; end is called once when it is over.
func (g *gcGear) busy() (end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n++; g.n == 1 {
		percent := gcBusy
		if smallMemory() {
			percent = gcBusySmall
		}
		setGC(percent)
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.n--; g.n == 0 {
			setGC(gcWaiting)
		}
	}
}

// processors says how many the runtime uses. What a connection moves goes from
// goroutine to goroutine, and with a second processor each step wakes it by a
// system call: an upload over a link then costs twice the CPU time and is slower
// by a third. So there is one processor, and one more for each further SSH
// connection, as far as the machine has them.
var processors processorGear

type processorGear struct {
	mu  sync.Mutex
	all int // there are; 0: the runtime decides. Guarded by mu
	n   int // connections, guarded by mu
}

// limit begins to count, unless the environment says how many.
func (g *processorGear) limit() {
	if os.Getenv("GOMAXPROCS") == "" {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.all = runtime.GOMAXPROCS(0)
		g.useLocked()
	}
}

// free is for a coordinator, which has no SSH connections and many peers.
func (g *processorGear) free() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all > 0 {
		runtime.GOMAXPROCS(g.all)
		g.all = 0
	}
}

// busy says that a connection has begun; end is called once when it is over.
func (g *processorGear) busy() (end func()) {
	g.add(1)
	return func() { g.add(-1) }
}

func (g *processorGear) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n += n
	g.useLocked()
}

// useLocked stops all goroutines for some microseconds where the number changes.
func (g *processorGear) useLocked() {
	if want := min(max(g.n, 1), g.all); want > 0 && want != runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(want)
	}
}
