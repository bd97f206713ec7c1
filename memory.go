package main

// This file chooses how much memory to use by how much there is.

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

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

// boundMemory makes the collector work harder where memory is little, unless
// the environment says how hard.
func boundMemory() {
	total := totalMemory()
	if total == 0 || total > smallBelow {
		return
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(total * 3 / 8)
	}
}
