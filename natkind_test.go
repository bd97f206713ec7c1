package main

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// natPorts makes samples of ports, 0 being one that was not answered.
func natPorts(ports ...uint16) (out []netip.AddrPort) {
	for _, p := range ports {
		a := netip.AddrPort{}
		if p != 0 {
			a = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), p)
		}
		out = append(out, a)
	}
	return out
}

func TestNATOf(t *testing.T) {
	before := natKind{kind: natBlock, base: 7, low: 5, high: 9}
	for _, tt := range []struct {
		name  string
		ports []uint16
		want  natKind
	}{
		{"nothing", []uint16{0, 0, 0, 0, 0, 0, 0, 0}, before},
		{"too few to tell", []uint16{0, 100, 0, 200, 300, 0, 0, 0}, natKind{natBlock, 0, 300, 5, 9}},
		{"steps of one", []uint16{10, 11, 12, 13, 14, 15, 16, 17}, natKind{natStep, 1, 17, 10, 17}},
		{"steps of two", []uint16{10, 12, 14, 16, 18, 20, 22, 24}, natKind{natStep, 2, 24, 10, 24}},
		{"downwards", []uint16{50, 49, 48, 47, 46, 45, 44, 43}, natKind{natStep, -1, 43, 43, 50}},
		{"others in between", []uint16{10, 11, 13, 14, 15, 18, 19, 20}, natKind{natStep, 1, 20, 10, 20}},
		{"one lost", []uint16{10, 11, 0, 13, 14, 15, 16, 17}, natKind{natStep, 1, 17, 10, 17}},
		{"a block", []uint16{2000, 2100, 2050, 2900, 2333, 2001, 2777, 2500}, natKind{natBlock, 0, 2500, 2000, 2900}},
		{"there and back", []uint16{10, 11, 10, 11, 10, 11, 10, 12}, natKind{natBlock, 0, 12, 10, 12}},
		{"one port", []uint16{10, 10, 10, 10, 10, 10, 10, 10}, natKind{natBlock, 0, 10, 10, 10}},
		{"the widest block", []uint16{1024, 1024 + maxBlock, 2000, 3000, 4000, 5000, 1500, 2500}, natKind{natBlock, 0, 2500, 1024, 1024 + maxBlock}},
		{"random", []uint16{1024, 1025 + maxBlock, 2000, 3000, 4000, 5000, 1500, 2500}, natKind{natRandom, 0, 2500, 1024, 1025 + maxBlock}},
		{"all over", []uint16{60000, 1025, 33000, 22222, 45000, 5000, 65535, 1500}, natKind{natRandom, 0, 1500, 1025, 65535}},
		{"steps too wide", []uint16{10, 27, 44, 61, 78, 95, 112, 129}, natKind{natBlock, 0, 129, 10, 129}},
		{"over the end", []uint16{65533, 65534, 65535, 1024, 1025, 1026, 1027, 1028}, natKind{natRandom, 0, 1028, 1024, 65535}},
	} {
		if got := natOf(natPorts(tt.ports...), before); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// Whatever ports are seen, what is concluded agrees with them, and leads to a
// walk of real ports.
func FuzzNATOf(f *testing.F) {
	f.Add([]byte{0, 10, 0, 11, 0, 12, 0, 13, 0, 14})
	f.Add([]byte{255, 255, 0, 1, 7, 7, 1, 1, 0, 0, 9, 9, 200, 3, 4, 4})
	f.Add([]byte{0, 48, 0, 48, 0, 48, 0, 48})
	f.Fuzz(func(t *testing.T, b []byte) {
		var ports, seen []uint16
		for ; len(b) >= 2 && len(ports) < natSamples; b = b[2:] {
			ports = append(ports, uint16(b[0])<<8|uint16(b[1]))
		}
		for _, p := range ports {
			if p != 0 {
				seen = append(seen, p)
			}
		}
		k := natOf(natPorts(ports...), natKind{})
		if len(seen) == 0 && k != (natKind{}) || len(seen) > 0 && k.base != seen[len(seen)-1] {
			t.Fatalf("%+v of %v", k, ports)
		}
		if len(seen) < natSamples/2 {
			return
		}
		if !k.hard() || k.low != slices.Min(seen) || k.high != slices.Max(seen) || (k.kind == natStep) != (k.step != 0) || k.step > maxStep || k.step < -maxStep {
			t.Fatalf("%+v of %v", k, ports)
		}
		if got, err := parseNote((&noteMsg{nat: k}).append(nil)); err != nil || got.nat != k {
			t.Fatalf("%+v comes back as %+v, %v", k, got, err)
		}
		for _, stride := range []int{1, 2} {
			w, hit := walkOf(k, stride), map[uint16]bool{}
			for i := range 200 {
				hit[w.port(i)] = true
			}
			if want := min(200, w.n); k.kind != natStep && len(hit) != want {
				t.Fatalf("%+v: %d ports of %d in 200 steps", w, len(hit), w.n)
			}
		}
	})
}

// A walk visits each port of its range once, and then again in the same order.
func TestPortWalkVisitsEachPortOnce(t *testing.T) {
	for _, k := range []natKind{{kind: natRandom}, {kind: natBlock, low: 2000, high: 2999}, {kind: natBlock, low: 1024, high: 1024},
		{kind: natBlock, low: 65000, high: 65535}, {kind: natBlock, low: 1, high: 65535}} {
		w := walkOf(k, 1)
		seen := map[uint16]bool{}
		for i := range w.n {
			p := w.port(i)
			if seen[p] || p < 1024 {
				t.Fatalf("%+v: port %d at step %d", k, p, i)
			}
			seen[p] = true
			if w.port(i+w.n) != p {
				t.Fatalf("%+v: another port at step %d of the second round", k, i)
			}
		}
		for p := max(1024, int(k.low)); k.kind == natBlock && p <= int(k.high); p++ {
			if !seen[uint16(p)] {
				t.Fatalf("%+v: port %d is left out", k, p)
			}
		}
	}
	for _, k := range []natKind{{kind: natBlock, low: 48, high: 48}, {kind: natBlock, low: 65535, high: 65535}, {kind: natBlock, low: 9, high: 0}} {
		if p := walkOf(k, 1).port(7); p < 1024 {
			t.Errorf("%+v: port %d", k, p)
		}
	}
	up, down := walkOf(natKind{kind: natStep, base: 65534, step: 1}, 1), walkOf(natKind{kind: natStep, base: 3, step: -1}, 2)
	for i, want := range []uint16{65535, 0, 1, 2} {
		if got := up.port(i); got != want {
			t.Errorf("step %d upwards is port %d", i, got)
		}
	}
	for i, want := range []uint16{2, 0, 65534, 65532} {
		if got := down.port(i); got != want {
			t.Errorf("step %d downwards by two is port %d", i, got)
		}
	}
}

// A finder whose every socket fails, or whose echoes come late, doubled or not
// at all, concludes once and leaves nothing open.
func TestNATFinderClosesWhatItOpens(t *testing.T) {
	now := time.Unix(1e9, 0)
	port := func(p uint16) netip.AddrPort { return natPorts(p)[0] }
	var open, concluded int
	var asked []echoCall
	p := &natFinder{openSock: func() (int, error) { open++; return 100 + open, nil }, closeSock: func(int) { open-- },
		echo: func(_ time.Time, e echoCall) { asked = append(asked, e) }, changed: func(time.Time) { concluded++ }}
	p.start(now, false)
	late := asked
	asked = nil
	p.start(now, true) // the network has changed meanwhile
	late[0].seen(now, port(1))
	late[1].seen(now, port(2))
	if concluded != 0 || p.seen[0].IsValid() {
		t.Fatal("answers to older questions count")
	}
	pair := asked
	asked = nil
	pair[0].seen(now, port(10))
	pair[1].seen(now, port(20))
	if len(asked) != natSamples || open != natSamples {
		t.Fatalf("%d samples, %d sockets", len(asked), open)
	}
	for i, e := range asked {
		e.seen(now, natPorts(uint16(30 + i))[0])
	}
	if open != 0 || concluded != 1 || p.kind.kind != natStep || p.kind.base != 37 {
		t.Errorf("%d sockets left, %d times concluded, %+v", open, concluded, p.kind)
	}
	asked = nil
	if p.refresh(now.Add(natBaseFor/2)) || !p.refresh(now.Add(natBaseFor)) || len(asked) != 2 {
		t.Errorf("refresh asks %d times", len(asked))
	}
	for _, e := range asked {
		e.seen(now, netip.AddrPort{})
	}
	if open != 0 || p.kind.kind != natStep {
		t.Errorf("%d sockets left, %+v", open, p.kind)
	}
	p.openSock = func() (int, error) { return 0, errTooManySocks }
	asked, concluded = nil, 0
	p.start(now, false)
	asked[0].seen(now, port(10))
	asked[1].seen(now, port(20))
	if concluded != 1 || p.waits != 0 {
		t.Errorf("without sockets: %d times concluded, %d awaited", concluded, p.waits)
	}
}

// What a note says of a NAT may be anything: whatever it is, a plan is made of it,
// or none.
func TestNATKindsOfNotes(t *testing.T) {
	for kind := range 256 {
		for _, span := range [][2]uint16{{0, 0}, {9, 1}, {65535, 65535}, {0, 65535}, {1, 48}} {
			m, err := parseNote((&noteMsg{nat: natKind{byte(kind), -128, 7, span[0], span[1]}}).append(nil))
			if err != nil {
				t.Fatal(err)
			}
			for mine := byte(natUnknown); mine <= natRandom; mine++ {
				planFor(natKind{kind: mine}, m.nat, true, false)
			}
			if w := walkOf(m.nat, 2); w.n < 1 || m.nat.kind != natStep && w.port(1<<20) < 1024 {
				t.Errorf("%+v of %+v", w, m.nat)
			}
		}
	}
}

// A lost answer of the second port does not undo what is known of a NAT, while the
// first one sees us where it did.
func TestNATKindOutlivesALostAnswer(t *testing.T) {
	var asked []echoCall
	p := &natFinder{changed: func(time.Time) {}, echo: func(_ time.Time, c echoCall) { asked = append(asked, c) }}
	now := time.Unix(1e9, 0)
	for i, tt := range []struct {
		first, second uint16
		want          byte
	}{{10, 10, natSame}, {10, 0, natSame}, {11, 0, natUnknown}, {11, 11, natSame}, {0, 0, natUnknown}} {
		asked = nil
		p.start(now, false)
		for j, port := range []uint16{tt.first, tt.second} {
			asked[j].seen(now, natPorts(port)[0])
		}
		if p.kind.kind != tt.want {
			t.Errorf("round %d: %+v, want kind %d", i, p.kind, tt.want)
		}
	}
}
