package main

import (
	"runtime"
	"testing"
)

// One processor, and one more for each further connection.
func TestProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(4) // what this test has of them
	defer runtime.GOMAXPROCS(before)
	t.Setenv("GOMAXPROCS", "")
	use := func(want int) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != want {
			t.Errorf("%d processors, not %d", got, want)
		}
	}
	var g processorGear
	g.busy()()
	use(4) // as the runtime has it
	g.limit()
	use(1)
	first, second := g.busy(), g.busy()
	use(2)
	first()
	use(1)
	second()
	use(1)
	for range 6 {
		g.busy()
	}
	use(4)
	for range 6 {
		g.add(-1)
	}
	use(1)
	g.free()
	use(4)
	g.busy()
	use(4)

	t.Setenv("GOMAXPROCS", "3")
	g = processorGear{}
	g.limit()
	g.busy()()
	use(4)
}
