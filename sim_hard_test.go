package main

import (
	"net/netip"
	"testing"
	"time"
)

// checkSockets fails if any are left but for those that a path uses, if there
// were ever more than 256, or if more than a few were open for over 10 s and
// the time that both ends have to choose.
func (n *simNet) checkSockets(t *testing.T, name string, seed uint64) {
	t.Helper()
	if !n.proved() {
		n.run(maxHardAttempts*hardGap, nil)
	}
	n.run(2*idlePing+hardFor, nil)
	for i, e := range n.ends {
		used := map[int]bool{0: true, e.path.sock: true}
		if f, ok := e.nat.in(e.other().path.addr.Port(), e.atOther()); ok {
			used[f.sock] = true
		}
		for s := range e.socks {
			if !used[s] {
				t.Errorf("%s, seed %d: end %d has left socket %d of %v open", name, seed, i, s, e.socks)
			}
		}
		// How many sockets get through, and are kept while the other end may take
		// their paths, is chance: seven were seen in one of some thousand runs.
		if e.most > maxExtraSocks || e.stale > 4*maxStrangers {
			t.Errorf("%s, seed %d: end %d had %d sockets open, %d for more than %v", name, seed, i, e.most, e.stale, hardFor+settleFor)
		}
	}
}

// atOther is where the other end's path leaves from, as this end sees it.
func (e *simEnd) atOther() netip.AddrPort {
	o := e.other()
	if !o.path.addr.IsValid() {
		return netip.AddrPort{}
	}
	return o.nat.out(o, o.path.sock, o.path.addr)
}

// The pairs that need more than pings, as often as the goals say, cold.
func TestSimHardPairs(t *testing.T) {
	t.Parallel()
	for _, p := range []struct {
		name   string
		a, b   simKind
		rate   float64
		median time.Duration
	}{
		{"E to R", simEasy, simRandom, .98, time.Second},
		{"R to E", simRandom, simEasy, .98, time.Second},
		{"E to B", simEasy, simBlock, .99, time.Second},
		{"B to E", simBlock, simEasy, .99, time.Second},
		{"E to S", simEasy, simStep, .98, time.Second},
		{"S to E", simStep, simEasy, .98, time.Second},
		{"S to S", simStep, simStep, .85, 2 * time.Second},
		{"S to B", simStep, simBlock, .85, 2 * time.Second},
		{"B to S", simBlock, simStep, .85, 2 * time.Second},
		{"B to B", simBlock, simBlock, .85, 4 * time.Second},
		{"P to R", simPublic, simRandom, 1, 135 * ms},
		{"R to P", simRandom, simPublic, 1, 135 * ms},
		{"R to A", simRandom, simRestricted, 1, time.Second},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			runs := simTimes(60, 200)
			met, early := 0, 0
			var worst time.Duration
			for seed := range uint64(runs) {
				n := newSimNet(t, seed, p.a, p.b)
				n.call()
				took := n.run(connectFor, n.proved)
				if n.proved() {
					met++
					worst = max(worst, took)
					if took <= p.median {
						early++
					}
					if _, ok := n.flows(3 * time.Second); !ok {
						t.Errorf("%s, seed %d: no data by %v, %v", p.name, seed, n.ends[0].path, n.ends[1].path)
					}
				}
				had := n.proved()
				n.checkSockets(t, p.name, seed)
				if _, ok := n.flows(time.Second); had && !ok {
					t.Errorf("%s, seed %d: the path is dead once the sockets are closed", p.name, seed)
				}
			}
			t.Logf(p.name+": %d of %d met, the slowest in %v, %d within %v", met, runs, worst, early, p.median)
			// Four standard deviations are left to chance.
			if least := p.rate - 4*deviation(p.rate, runs); float64(met)/float64(runs) < least {
				t.Errorf(p.name+": %d of %d met, not %.0f %%", met, runs, 100*p.rate)
			}
			if 2*early < runs {
				t.Errorf("only %d of %d within %v", early, runs, p.median)
			}
		})
	}
}

// Two random symmetric NATs: nothing is sprayed, and it is said.
func TestSimHopelessPair(t *testing.T) {
	for _, p := range [][2]simKind{{simRandom, simRandom}, {simRandom, simBlock}, {simStep, simRandom}} {
		n := newSimNet(t, 1, p[0], p[1])
		n.call()
		n.run(connectFor, n.proved)
		for i, e := range n.ends {
			if !e.finder.hard.hopeless() || e.out > 200 || n.proved() {
				t.Errorf("%v: end %d: hopeless %v, %d packets", p, i, e.finder.hard.hopeless(), e.out)
			}
		}
		err := noPathError(n.ends[0].finder, nil)
		t.Log(err)
		n.checkSockets(t, "hopeless", 1)
	}
	n := newSimNet(t, 1, simEasy, simRandom)
	n.call()
	n.run(time.Second, nil)
	if n.ends[0].finder.hard.hopeless() {
		t.Error("a pair that the birthday helps is held to be hopeless")
	}
}
