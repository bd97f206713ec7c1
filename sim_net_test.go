package main

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"time"
)

// A simNet is an internet in memory with a clock of its own: two ends, each
// behind a NAT of some kind, and a coordinator with two ports. Nothing in it
// waits for real time.
type simNet struct {
	now    time.Time
	events punchEvents
	rng    *rand.Rand
	delay  time.Duration // one way, between the ends
	coord  time.Duration // one way, to the coordinator
	loss   float64       // of each packet
	jitter time.Duration // added at random: packets overtake each other
	nats   map[netip.Addr]*simNAT
	ends   [2]*simEnd
	mute   bool // the coordinator is dead
	moved  int  // addresses given since
}

var (
	simCoord  = netip.MustParseAddrPort("198.51.100.1:7722")
	simSecond = netip.MustParseAddrPort("198.51.100.1:7723")
)

// What a NAT lets in: from anywhere, from addresses, or from addresses and
// ports that were sent to.
const (
	simOpen = iota
	simAddress
	simPort
)

// A simKind is a kind of NAT. mapping is natUnknown where there is none: a
// public address, open or behind a firewall.
type simKind struct {
	mapping byte
	filter  int
}

var (
	simPublic     = simKind{natUnknown, simOpen}
	simFirewall   = simKind{natUnknown, simPort}
	simFullCone   = simKind{natSame, simOpen}
	simRestricted = simKind{natSame, simAddress}
	simEasy       = simKind{natSame, simPort}
	simStep       = simKind{natStep, simPort}
	simBlock      = simKind{natBlock, simPort}
	simRandom     = simKind{natRandom, simPort}
)

// A simNAT is one router with one outside address.
type simNAT struct {
	simKind
	net     *simNet
	ip      netip.Addr
	timeout time.Duration // of a mapping that nothing uses
	down    bool          // the line is cut
	low     int           // first port of the block
	next    int           // of a counting one
	flows   map[simFlow]*simHole
	holes   map[simOuter]*simHole
	accept  bool              // it answers strangers, and holds their flows for its own
	own     map[simOuter]bool // those, by an accepting one of the kind natSame
}

// A simFlow is what has a port of its own: a socket, or with hard NATs a socket
// and where it sends to.
type simFlow struct {
	end  *simEnd
	sock int
	to   netip.AddrPort
}

// A simOuter is a flow from outside: to a port, with hard NATs from one address
// alone, so that many flows share a port.
type simOuter struct {
	port uint16
	from netip.AddrPort
}

type simHole struct {
	flow simFlow
	at   simOuter
	sent map[netip.AddrPort]bool
	last time.Time
}

// simBlockSize is how many ports a carrier gives a customer.
const simBlockSize = 1000

func (n *simNet) newNAT(k simKind, ip string) *simNAT {
	r := &simNAT{simKind: k, net: n, ip: netip.MustParseAddr(ip), timeout: 30 * time.Second}
	n.nats[r.ip] = r
	r.reboot()
	return r
}

// reboot makes the router forget everything.
func (r *simNAT) reboot() {
	r.flows, r.holes, r.own = map[simFlow]*simHole{}, map[simOuter]*simHole{}, map[simOuter]bool{}
	r.low, r.next = 1024+r.net.rng.IntN(60000), 1024+r.net.rng.IntN(60000)
}

// freshIP is an address that nobody has had.
func (n *simNet) freshIP() netip.Addr {
	n.moved++
	return netip.AddrFrom4([4]byte{100, 64, byte(n.moved >> 8), byte(n.moved)})
}

// redial gives it another address too.
func (r *simNAT) redial() {
	delete(r.net.nats, r.ip)
	r.ip = r.net.freshIP()
	r.net.nats[r.ip] = r
	r.reboot()
}

// out returns the address that a packet leaves from.
func (r *simNAT) out(e *simEnd, sock int, to netip.AddrPort) netip.AddrPort {
	f := simFlow{end: e, sock: sock}
	if r.mapping >= natStep {
		f.to = to
	}
	h := r.flows[f]
	if h == nil || r.net.now.Sub(h.last) > r.timeout {
		if h != nil {
			delete(r.holes, h.at)
		}
		h = &simHole{flow: f, at: r.freePort(f), sent: map[netip.AddrPort]bool{}}
		r.flows[f], r.holes[h.at] = h, h
	}
	if !h.sent[to] && r.own[simOuter{h.at.port, to}] { // taken: another port for this peer
		return netip.AddrPortFrom(r.ip, h.at.port%64000+1024)
	}
	h.last, h.sent[to] = r.net.now, true
	return netip.AddrPortFrom(r.ip, h.at.port)
}

func (r *simNAT) freePort(f simFlow) simOuter {
	for {
		var p int
		switch r.mapping {
		case natUnknown, natSame:
			if p = 40000 + f.sock; r.mapping == natSame {
				p = 1024 + r.net.rng.IntN(64000)
			}
		case natStep:
			r.next = 1024 + (r.next-1023)%64000
			p = r.next
		case natBlock:
			p = r.low + r.net.rng.IntN(simBlockSize)
		case natRandom:
			p = 1024 + r.net.rng.IntN(64512)
		}
		if at := (simOuter{uint16(p), f.to}); r.holes[at] == nil {
			return at
		}
	}
}

// in returns whose socket a packet from outside is for.
func (r *simNAT) in(port uint16, from netip.AddrPort) (f simFlow, ok bool) {
	key := simOuter{port: port}
	if r.mapping >= natStep {
		key.from = from
	}
	h := r.holes[key]
	if h == nil || r.net.now.Sub(h.last) > r.timeout || r.down {
		return f, false
	}
	switch r.filter {
	case simAddress:
		for a := range h.sent {
			ok = ok || a.Addr() == from.Addr()
		}
	case simPort:
		ok = h.sent[from]
	default:
		ok = true
	}
	if ok {
		h.last = r.net.now
	} else if r.accept {
		r.own[simOuter{port, from}] = true
	}
	return h.flow, ok
}

// at calls do after d.
func (n *simNet) at(d time.Duration, do func()) {
	heap.Push(&n.events, punchEvent{n.now.Add(d), do})
}

// run lets time pass until done says so or d is over; it returns how much did.
func (n *simNet) run(d time.Duration, done func() bool) time.Duration {
	began, end := n.now, n.now.Add(d)
	for done == nil || !done() {
		if len(n.events) == 0 || n.events[0].at.After(end) {
			n.now = end
			break
		}
		ev := heap.Pop(&n.events).(punchEvent)
		n.now = ev.at
		ev.do()
	}
	return n.now.Sub(began)
}

// lost decides about one packet.
func (n *simNet) lost() bool { return n.loss > 0 && n.rng.Float64() < n.loss }

// lostOnWay decides about two, by the coordinator.
func (n *simNet) lostOnWay() bool {
	there := n.lost()
	return n.lost() || there
}

func (n *simNet) late(d time.Duration) time.Duration {
	if n.jitter > 0 {
		d += time.Duration(n.rng.Int64N(int64(n.jitter)))
	}
	return d
}

// carry takes a packet from an end's socket to whoever has an address.
func (n *simNet) carry(e *simEnd, sock int, b []byte, to netip.AddrPort) {
	if e.nat.down || to.Addr().IsPrivate() {
		return
	}
	from := e.nat.out(e, sock, to)
	if n.lost() {
		return
	}
	n.at(n.late(n.delay), func() {
		if r := n.nats[to.Addr()]; r != nil {
			if f, ok := r.in(to.Port(), from); ok && f.end.nat == r {
				f.end.act(func() { f.end.receive(b, udpSource{sock: f.sock, addr: from}) })
			}
		}
	})
}

// seen is where one of the coordinator's ports sees an end's socket; answer is
// called after a round trip if nothing is lost.
func (n *simNet) seen(e *simEnd, sock int, port netip.AddrPort, answer func(at netip.AddrPort)) {
	if e.nat.down || n.mute {
		return
	}
	at := e.nat.out(e, sock, port)
	if n.lostOnWay() {
		return
	}
	n.at(2*n.coord, func() {
		if f, ok := e.nat.in(at.Port(), port); ok && f.end == e {
			e.act(func() { answer(at) })
		}
	})
}

// relay hands a note to the other end.
func (n *simNet) relay(e *simEnd, m noteMsg) {
	if e.nat.down || n.mute || n.lostOnWay() {
		return
	}
	at := e.nat.out(e, 0, simCoord)
	n.at(2*n.coord, func() {
		if o := e.other(); !o.nat.down {
			o.act(func() { o.noted(&m, at) })
		}
	})
}
