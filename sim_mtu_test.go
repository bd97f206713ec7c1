package main

import (
	"testing"
	"time"
)

// A smaller MTU further along, of which no router tells, is noticed: when the
// path changes, and when it comes about under a path that stays. Nothing else is
// taken for it.
func TestSimSilentSmallMTU(t *testing.T) {
	for name, change := range map[string]func(n *simNet, e *simEnd){
		"a move":          func(n *simNet, e *simEnd) { n.move(e, simEasy) },
		"the same path":   func(*simNet, *simEnd) {},
		"the other moves": func(n *simNet, e *simEnd) { n.move(e.other(), simFirewall) },
	} {
		for _, mtu := range []int{0, 1280} {
			n := newSimNet(t, 1, simEasy, simEasy)
			n.call()
			n.run(5*time.Second, n.proved)
			e := n.ends[0]
			e.using = 1452
			if _, ok := n.flows(time.Second); !ok {
				t.Fatal("no data")
			}
			n.run(10*time.Second, nil)
			e.mtu = mtu
			change(n, e)
			e.write()
			took := n.run(20*time.Second, func() bool { return e.ackd == e.data })
			if e.ackd != e.data || e.fragments != (mtu != 0) || took > 1500*ms {
				t.Errorf("%s, MTU %d: data %v after %v, fragments %v", name, mtu, e.ackd == e.data, took, e.fragments)
			}
			t.Logf("%s, MTU %d: %v", name, mtu, took)
		}
	}
}

// An outage that swallows the large pings with the small ones says nothing about
// sizes.
func TestSimOutageIsNoSmallMTU(t *testing.T) {
	n := newSimNet(t, 1, simEasy, simEasy)
	n.call()
	n.run(5*time.Second, n.proved)
	e := n.ends[0]
	e.using = 1452
	n.flows(time.Second)
	n.run(10*time.Second, nil)
	n.ends[1].nat.down = true
	e.write()
	n.run(6*time.Second, nil)
	n.ends[1].nat.down = false
	n.run(5*time.Second, func() bool { return e.ackd == e.data })
	if e.fragments || e.ackd != e.data {
		t.Errorf("fragments %v, data %v", e.fragments, e.ackd == e.data)
	}
}
