package main

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// simTimes is how often a random test is tried.
func simTimes(quick, slow int) int {
	if slowTests() {
		return slow
	}
	return quick
}

var simEasyKinds = map[string]simKind{"public": simPublic, "firewall": simFirewall, "full cone": simFullCone, "address": simRestricted, "port": simEasy}

// Every pair of ordinary NATs: the dialer has a path one round trip to the
// coordinator and one to the peer after it began, the device half of one later
// at most.
func TestSimSetupIsIdeal(t *testing.T) {
	for an, a := range simEasyKinds {
		for bn, b := range simEasyKinds {
			for seed := range uint64(5) {
				n := newSimNet(t, seed, a, b)
				n.call()
				ideal := 2*n.coord + 2*n.delay
				took := n.run(5*time.Second, func() bool { return n.ends[0].finder.best != nil })
				both := took + n.run(time.Second, n.proved)
				if took > ideal+5*ms || both > ideal+n.delay+5*ms {
					t.Errorf("%s to %s: %v, both %v; ideal is %v", an, bn, took, both, ideal)
				}
				if rtt, ok := n.flows(time.Second); !ok || rtt > 2*n.delay+5*ms {
					t.Errorf("%s to %s: data %v, %v", an, bn, ok, rtt)
				}
			}
		}
	}
}

// However early or late either end begins, and whatever is lost of the first
// packets, they meet.
func TestSimReorderedBeginnings(t *testing.T) {
	for _, skew := range []time.Duration{-2 * time.Second, -300 * ms, -50 * ms, 0, 50 * ms, 300 * ms, 2 * time.Second} {
		for seed := range uint64(simTimes(10, 100)) {
			n := newSimNet(t, seed, simEasy, simEasy)
			n.jitter = 20 * ms
			n.loss = 0.1
			a, b := n.ends[0], n.ends[1]
			atA, atB := a.nat.out(a, 0, simCoord), b.nat.out(b, 0, simCoord)
			n.at(max(0, skew), func() { a.introduced(atB, b.inside) })
			n.at(max(0, -skew), func() { b.introduced(atA, a.inside) })
			n.run(skew.Abs(), nil)
			if took := n.run(10*time.Second, n.proved); !n.proved() || took > 3*time.Second {
				t.Errorf("skew %v, seed %d: %v after %v", skew, seed, n.proved(), took)
			}
		}
	}
}

// Routers that take the port of an early packet for themselves, and ends that are
// late, stand still in between or lose packets: within a connect they meet.
func TestSimEarlyBirds(t *testing.T) {
	for seed := range uint64(simTimes(300, 3000)) {
		n := newSimNet(t, seed, simEasy, simEasy)
		a, b := n.ends[0], n.ends[1]
		a.nat.accept, b.nat.accept = true, true
		n.loss = []float64{0, .1, .2}[seed%3]
		atA, atB := a.nat.out(a, 0, simCoord), b.nat.out(b, 0, simCoord)
		n.at(0, func() { a.introduced(atB, b.inside) })
		n.at(time.Duration(n.rng.Int64N(int64(400*ms))), func() { b.act(func() { b.introduced(atA, a.inside) }) })
		for range 6 { // of either end's, up to half a second long
			e, long := n.ends[n.rng.IntN(2)], time.Duration(n.rng.Int64N(int64(500*ms)))
			n.at(time.Duration(n.rng.Int64N(int64(3*time.Second))), func() { e.still = n.now.Add(long) })
		}
		if took := n.run(connectFor, n.proved); !n.proved() {
			t.Errorf("seed %d, %.0f%% lost: not after %v", seed, 100*n.loss, took)
		}
		n.run(time.Minute, nil)
		for i, e := range n.ends {
			used := map[int]bool{e.path.sock: true}
			for k, f := range e.finder.tries {
				used[k.sock] = used[k.sock] || n.now.Sub(f.pingedAt) < 2*idlePing+time.Second
			}
			for s := range e.socks {
				if !used[s] || e.most > maxFresh {
					t.Errorf("seed %d: end %d has left socket %d open; there were %d", seed, i, s, e.most)
				}
			}
		}
	}
}

// A NAT that forgets after 30 s: an hour of idling costs a packet each way in
// 20 s at most, and the path is there.
func TestSimIdleHour(t *testing.T) {
	for _, kinds := range [][2]simKind{{simEasy, simEasy}, {simPublic, simEasy}, {simEasy, simRandom}} {
		n := newSimNet(t, 1, kinds[0], kinds[1])
		n.call()
		if n.run(20*time.Second, n.proved); !n.proved() {
			t.Fatalf("%v: no path", kinds)
		}
		n.flows(time.Second)
		n.run(time.Minute, nil)
		before := [2]int{n.ends[0].out, n.ends[1].out}
		moves := n.ends[0].finder.moves + n.ends[1].finder.moves
		n.run(time.Hour, nil)
		for i, e := range n.ends {
			most := int(time.Hour / (20 * time.Second))
			if kinds[1].mapping >= natStep { // each end may keep a pair of sockets of its own open
				most *= 2
			}
			if got := e.out - before[i]; got > most {
				t.Errorf("%v: end %d sent %d packets in an idle hour", kinds, i, got)
			} else {
				t.Logf("%v: end %d sent %d packets", kinds, i, got)
			}
		}
		if now := n.ends[0].finder.moves + n.ends[1].finder.moves; now != moves {
			t.Errorf("%v: %d moves of an idle path", kinds, now-moves)
		}
		if took, ok := n.flows(time.Second); !ok || took > 2*n.delay+5*ms {
			t.Errorf("%v: data after an hour: %v, %v", kinds, ok, took)
		}
	}
}

// After an outage with data waiting, the data is through within 150 ms and a
// round trip, however long the outage was.
func TestSimOutages(t *testing.T) {
	for _, long := range []time.Duration{5 * time.Second, time.Minute, 30 * time.Minute} {
		for _, kinds := range [][2]simKind{{simEasy, simEasy}, {simPublic, simEasy}, {simEasy, simPublic}} {
			for who := range 2 { // whose line it is
				for writer := range 2 {
					for seed := range uint64(simTimes(3, 30)) {
						if long > time.Minute && (seed > 0 || kinds[0] != kinds[1]) && !slowTests() {
							break // 20,000 pings each
						}
						name := fmt.Sprintf("%v out, %v, line of %d, data of %d, seed %d", long, kinds, who, writer, seed)
						n := newSimNet(t, seed, kinds[0], kinds[1])
						n.ends[who].nat.timeout = 2 * time.Hour // the NAT keeps the holes; TestSimRebinding has others
						n.ends[1-who].nat.timeout = 2 * time.Hour
						n.call()
						n.run(10*time.Second, n.proved)
						n.flows(time.Second)
						n.ends[who].nat.down = true
						n.run(time.Duration(n.rng.Int64N(int64(time.Second))), nil)
						w := n.ends[writer]
						w.write()
						n.run(long, nil)
						n.ends[who].nat.down = false
						took := n.run(10*time.Second, func() bool { return w.ackd == w.data })
						if want := 150*ms + 2*n.delay + 5*ms; w.ackd != w.data || took > want {
							t.Errorf("%s: %v, after %v", name, w.ackd == w.data, took)
						}
					}
				}
			}
		}
	}
}

// An end behind a NAT that needs more than pings sleeps for longer than the other
// goes on trying: with the next introduction they meet again.
func TestSimSleeper(t *testing.T) {
	for _, kinds := range [][2]simKind{{simEasy, simRandom}, {simRandom, simEasy}, {simBlock, simBlock}, {simEasy, simEasy}} {
		for seed := range uint64(5) {
			n := newSimNet(t, seed, kinds[0], kinds[1])
			n.call()
			n.run(connectFor, n.proved)
			for _, e := range n.ends {
				if e.nat.mapping == natRandom || e == n.ends[0] && kinds[0] == kinds[1] {
					e.nat.down = true
					n.run(3*time.Minute, nil)
					e.nat.down = false
					e.nat.redial()
				}
			}
			n.call()
			if took := n.run(connectFor, n.proved); !n.proved() {
				t.Errorf("%v, seed %d: not after %v", kinds, seed, took)
			}
		}
	}
}

// deviation is that of a share of runs, each of which succeeds with a chance.
func deviation(chance float64, runs int) float64 {
	return math.Sqrt(chance * (1 - chance) / float64(runs))
}
