package main

// This file finds out what the NAT before us does with ports: two ports of the
// coordinator say where they see one socket, and if they differ, a few more
// sockets show by what rule. It is never on the way of a connection: who is told
// nothing yet does as if the NAT were an ordinary one.

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// natSamples is how many sockets are sent from when the ports differ.
	natSamples = 8
	// maxBlock is the width, in ports, up to which ports seen are held to come
	// from a block: carriers give 512 to 4096.
	maxBlock = 4096
	// maxStep is the most that one step of a counting NAT is taken for, with
	// what its other users take meanwhile.
	maxStep = 16
	// natAgain is how long a finding counts.
	natAgain = 10 * time.Minute
	// natRetry is when a finding that has come to nothing is tried again.
	natRetry = 5 * time.Second
	// natStale is how long a hole that nothing keeps open is counted on.
	natStale = 15 * time.Second
	// natBaseFor is how long the last port of a counting NAT says what is next.
	natBaseFor = 2 * time.Second
)

// A natFinder asks and concludes. Its owner serialises all calls.
type natFinder struct {
	echo      func(now time.Time, e echoCall)
	openSock  func() (int, error)
	closeSock func(int)
	changed   func(now time.Time) // the finding, or where we are seen
	// versions of IP to ask by: that of the NAT, and another one by which we are
	// only seen; 0 = any, and none. May be nil.
	versions func() (nat, other byte)

	kind    natKind
	at      time.Time         // when it was concluded, zero = never
	seen    [2]netip.AddrPort // by the first and the second port
	last    netip.AddrPort    // by the first one when that was concluded
	other   netip.AddrPort    // by the other version of IP
	version byte              // of IP, see versions
	asked   time.Time         // when it last began
	round   int               // answers to questions of an older round do not count
	waits   int               // answers under way
	samples []netip.AddrPort  // in the order asked
}

// start asks anew. What was found before stays until there is more; moved: but
// where we were seen, for our network is another now.
func (p *natFinder) start(now time.Time, moved bool) {
	p.round++
	p.asked, p.waits = now, 2
	if moved {
		p.seen, p.other = [2]netip.AddrPort{}, netip.AddrPort{}
	}
	round := p.round
	var other byte
	if p.versions != nil {
		p.version, other = p.versions()
	}
	if other != 0 {
		p.echo(now, echoCall{version: other, seen: func(now time.Time, at netip.AddrPort) {
			if known := p.other; at != known {
				p.other = at
				p.changed(now)
			}
		}})
	}
	for i := range p.seen {
		p.echo(now, echoCall{version: p.version, second: i == 1, seen: func(now time.Time, at netip.AddrPort) {
			if p.round != round {
				return
			}
			p.seen[i] = at
			if p.waits--; p.waits == 0 {
				p.compare(now)
			}
		}})
	}
}

// due reports whether it is time to ask, where the coordinator answers: an
// outage may have come between.
func (p *natFinder) due(now time.Time, answers bool) bool {
	age := now.Sub(p.asked)
	return age >= natAgain || age >= natRetry && answers && p.waits == 0 && !p.seen[0].IsValid()
}

// stale reports whether what the coordinator has seen by the version of IP that no
// beat keeps open may be out of date.
func (p *natFinder) stale(now time.Time) bool {
	return p.version != 0 && now.Sub(p.asked) > natStale
}

func (p *natFinder) compare(now time.Time) {
	switch a, b := p.seen[0], p.seen[1]; {
	case a.IsValid() && !b.IsValid() && a == p.last && p.kind.kind != natUnknown:
		p.conclude(now, p.kind) // an answer is lost; where the first port sees us is as it was
	case !a.IsValid() || !b.IsValid():
		p.conclude(now, natKind{}) // the second port is not reached: nothing can be said
	case a == b:
		p.conclude(now, natKind{kind: natSame, base: a.Port()})
	default:
		p.sample(now, natSamples)
	}
}

// sample sends from n new sockets, one after the other.
func (p *natFinder) sample(now time.Time, n int) {
	p.round++
	round := p.round
	p.samples = make([]netip.AddrPort, n)
	p.waits = n
	var socks []int
	for i := range n {
		sock, err := p.openSock()
		if err != nil {
			p.waits--
			continue
		}
		socks = append(socks, sock)
		p.echo(now, echoCall{version: p.version, sock: sock, seen: func(now time.Time, at netip.AddrPort) {
			p.closeSock(sock)
			if p.round != round {
				return
			}
			p.samples[i] = at
			if p.waits--; p.waits == 0 {
				p.conclude(now, natOf(p.samples, p.kind))
			}
		}})
	}
	if len(socks) == 0 {
		p.conclude(now, natKind{})
	}
}

// refresh asks a counting NAT for its next port; it reports whether the answer
// is awaited.
func (p *natFinder) refresh(now time.Time) bool {
	if p.kind.kind != natStep || now.Sub(p.at) < natBaseFor {
		return false
	}
	if p.waits == 0 {
		p.sample(now, 2)
	}
	return true
}

func (p *natFinder) conclude(now time.Time, k natKind) {
	p.kind, p.at, p.last = k, now, p.seen[0]
	p.changed(now)
}

// natOf reads the rule from the ports of new sockets, in the order asked; before
// is what was held until now, for when there are too few to tell.
func natOf(samples []netip.AddrPort, before natKind) natKind {
	var ports []int
	for _, a := range samples {
		if a.IsValid() {
			ports = append(ports, int(a.Port()))
		}
	}
	if len(ports) == 0 {
		return before
	}
	k := natKind{base: uint16(ports[len(ports)-1])}
	if len(ports) < natSamples/2 {
		before.base = k.base
		return before
	}
	k.low, k.high = uint16(slices.Min(ports)), uint16(slices.Max(ports))
	k.kind = natRandom
	if step, ok := stepOf(ports); ok {
		k.kind, k.step = natStep, int8(step)
	} else if k.high-k.low <= maxBlock {
		k.kind = natBlock
	}
	return k
}

// stepOf returns the distance that most ports have to the one before, if all go
// one way in small steps.
func stepOf(ports []int) (step int, ok bool) {
	count := map[int]int{}
	for i := 1; i < len(ports); i++ {
		d := ports[i] - ports[i-1]
		if d == 0 || d > maxStep || d < -maxStep || d*(ports[1]-ports[0]) < 0 {
			return 0, false
		}
		if count[d]++; count[d] > count[step] {
			step = d
		}
	}
	return step, step != 0
}

// observed are the addresses at which the coordinator sees the main socket.
func (p *natFinder) observed() (out []netip.AddrPort) {
	for _, a := range []netip.AddrPort{p.seen[0], p.seen[1], p.other} {
		if a.IsValid() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
