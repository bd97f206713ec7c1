package main

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// move takes an end to another network, which the kernel tells 20 ms later.
func (n *simNet) move(e *simEnd, k simKind) {
	e.nat = n.newNAT(k, n.freshIP().String())
	n.at(20*ms, func() {
		e.probe.start(n.now, true)
		e.finder.roam(n.now)
		e.tick()
	})
}

// live has both ends beat, and the first one ask for introductions while there
// is no path, as a node does.
func (n *simNet) live() {
	for _, e := range n.ends {
		var beat func()
		beat = func() {
			e.beat()
			n.at(beatEvery-time.Duration(n.rng.Int64N(int64(5*time.Second))), beat)
		}
		n.at(beatEvery/2, beat)
	}
	for _, e := range n.ends {
		var ask func()
		ask = func() {
			if e.probe.due(n.now, !n.mute && !e.nat.down) {
				e.probe.start(n.now, false)
			}
			n.at(natRetry, ask)
		}
		n.at(natRetry, ask)
	}
	e, gap := n.ends[0], time.Second
	var look func()
	look = func() {
		if f := e.finder; f.best != nil {
			gap = time.Second
		} else if n.now.Sub(f.lostAt) > recallAfter {
			n.call()
			gap = min(2*gap, time.Minute)
		}
		n.at(gap, look)
	}
	n.at(gap, look)
}

// An agreement of both ends: packets by either's path reach the other, and
// nothing moves any more.
func (n *simNet) agree() error {
	if took, ok := n.flows(40 * time.Second); !ok {
		return fmt.Errorf("no data after %v: paths %v and %v", took, n.ends[0].path, n.ends[1].path)
	}
	n.run(12*time.Second, nil) // what is left to be tried is tried
	moves := n.ends[0].finder.moves + n.ends[1].finder.moves
	out := n.ends[0].out + n.ends[1].out
	n.run(50*time.Second, nil)
	if now := n.ends[0].finder.moves + n.ends[1].finder.moves; now != moves {
		return fmt.Errorf("%d moves at rest", now-moves)
	}
	if now := n.ends[0].out + n.ends[1].out; now > out+16 {
		return fmt.Errorf("%d packets in 50 s at rest", now-out)
	}
	if took, ok := n.flows(time.Second); !ok || took > 2*n.delay+5*ms {
		return fmt.Errorf("after a rest: %v, %v", ok, took)
	}
	return nil
}

var simMoves = []simKind{simPublic, simFirewall, simFullCone, simRestricted, simEasy}

// upset does something to the network, and undoes in time what must be undone.
func (n *simNet) upset() string {
	e := n.ends[n.rng.IntN(2)]
	switch n.rng.IntN(9) {
	case 0:
		n.loss = n.rng.Float64() / 3
		n.at(3*time.Second, func() { n.loss = 0 })
		return "loss"
	case 1:
		n.jitter = 80 * ms
		n.at(3*time.Second, func() { n.jitter = 0 })
		return "jitter"
	case 2:
		r := e.nat
		r.down = true
		n.at(time.Duration(n.rng.Int64N(int64(8*time.Second))), func() { r.down = false; e.roamed() })
		return "outage"
	case 3:
		e.nat.reboot()
		return "reboot"
	case 4:
		e.nat.redial()
		return "redial"
	case 5:
		n.move(e, simMoves[n.rng.IntN(len(simMoves))])
		return "move"
	case 6:
		for _, e := range n.ends {
			n.move(e, simMoves[n.rng.IntN(len(simMoves))])
		}
		return "both move"
	case 7:
		n.mute = true
		n.at(time.Duration(n.rng.Int64N(int64(5*time.Second))), func() { n.mute = false })
		return "coordinator dead"
	}
	e.write()
	return "data"
}

// roamed is the kernel's word that a link is up, half of the time.
func (e *simEnd) roamed() {
	if e.net.rng.IntN(2) == 0 {
		e.finder.roam(e.net.now)
		e.tick()
	}
}

// Whatever happens to the networks of two ends, in whatever order: once it is
// over they agree on a path that works, and rest.
func TestSimRandomSchedules(t *testing.T) {
	const lanes = 4
	times := simTimes(400, 10000)
	for lane := range lanes {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(lane); seed < uint64(times); seed += lanes {
				r := rand.New(rand.NewPCG(seed, 2))
				n := newSimNet(t, seed, simMoves[r.IntN(len(simMoves))], simMoves[r.IntN(len(simMoves))])
				n.live()
				n.call()
				var story []string
				for range 1 + r.IntN(8) {
					n.run(time.Duration(r.Int64N(int64(4*time.Second))), nil)
					story = append(story, fmt.Sprintf("%v %s", n.now.Sub(time.Unix(1e9, 0)).Round(ms), n.upset()))
				}
				n.run(9*time.Second, nil) // all outages are over
				err := n.agree()
				if moves := n.ends[0].finder.moves + n.ends[1].finder.moves; err == nil && moves > 6*len(story)+6 {
					err = fmt.Errorf("%d moves", moves)
				}
				if err != nil {
					t.Errorf("seed %d: %v\n\t%v", seed, err, story)
				}
			}
		})
	}
}
