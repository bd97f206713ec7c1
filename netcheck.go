package main

// This file finds out what the network here allows: what the coordinator sees
// of a few sockets of our own, by IPv4 and by IPv6, and what the router says. It
// changes nothing at the router, and needs no process beside it.

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// netcheckFor bounds all of it, netcheckName the coordinator's name.
	netcheckFor  = 3 * time.Second
	netcheckName = time.Second
	// secondFor is how long the coordinator may take, after its first answer, to
	// say which its other port is: that takes two round trips.
	secondFor = 400 * ms
	// hairpinFor is for a packet to the router and back, sent three times.
	hairpinFor, hairpinGap = 500 * ms, 100 * ms
	complaintGap           = 400 * ms
)

// A netcheck is one look at the network.
type netcheck struct {
	mux  *udpMux
	wake chan struct{}

	mu       sync.Mutex
	families []*netFamily // guarded by mu, with all that they hold
}

// A netFamily is what is asked by one version of IP.
type netFamily struct {
	talk    *coordTalk
	nat     *natFinder
	open    func() (int, error)
	close   func(int)
	local   netip.Addr // ours on the way to the coordinator
	fault   error      // what the system says of sending there
	asked   int        // answers under way
	refused bool       // we may not beat: the other port is guessed
	begun   bool       // nat has
	ended   bool

	observed  netip.AddrPort // where the first port sees the main socket
	at        time.Time      // since when that is known
	rtt       time.Duration  // the shortest round trip
	full      bool           // datagrams of maxDatagram bytes pass
	through   bool           // the other port's answer came through a hole to the first
	word      []byte         // sent to ourselves by way of observed
	wordSock  int
	wordTries int
	wordBack  bool
}

// runNetcheck looks for at most netcheckFor.
func runNetcheck(ctx context.Context, id *identity, a anchor) (*netReport, error) {
	ctx, stop := context.WithTimeout(ctx, netcheckFor)
	defer stop()
	c := &netcheck{wake: make(chan struct{}, 1)}
	var err error
	if c.mux, err = listenUDP(":0", false, c.datagram); err != nil {
		return nil, err
	}
	var reading, asking sync.WaitGroup
	reading.Go(func() { c.mux.drain() })
	defer reading.Wait()
	defer c.mux.Close()
	r := &netReport{Coordinator: a.coordAddr}
	router := portReport{err: "not asked: the coordinator is on this machine"}
	naming, named := context.WithTimeout(ctx, netcheckName)
	addrs, err := resolveCoord(naming, a.coordAddr)
	named()
	if !slices.ContainsFunc(addrs, func(a netip.AddrPort) bool { return a.Addr().IsLoopback() }) {
		asking.Go(func() { router = probePortMapping(ctx, c.mux.port()) })
	}
	if err == nil {
		err = c.run(ctx, id, a, addrs)
	}
	asking.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range localCandidates(0) {
		v := r.version(a.Addr())
		v.Addresses = append(v.Addresses, a.Addr().String())
	}
	r.fill(c.families, c.mux.port(), router, err)
	return r, nil
}

// run asks by each version of IP that the coordinator has.
func (c *netcheck) run(ctx context.Context, id *identity, a anchor, addrs []netip.AddrPort) error {
	send, recv, err := sealKeys(id.path, sealDevice, a.coordKeys.path, sealCoord)
	if err != nil {
		return err
	}
	var listening sync.WaitGroup
	defer listening.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c.mu.Lock()
	for _, four := range []bool{true, false} {
		of := slices.DeleteFunc(slices.Clone(addrs), func(a netip.AddrPort) bool { return a.Addr().Is4() != four })
		if len(of) == 0 {
			continue
		}
		f := c.newFamily(&sealBox{sendKey: send, recvKey: recv, hint: sealHintOf(a.acct, id.keys.sign), mine: newInstanceID()}, of)
		c.families = append(c.families, f)
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(of[0]))
		if err != nil {
			f.fault, f.ended = err, true
			continue
		}
		f.local = conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		listening.Go(func() { c.complaint(ctx, f, conn) })
		f.begin(time.Now())
	}
	c.mu.Unlock()
	c.loop(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.families {
		f.talk.leave()
	}
	return nil
}

func (c *netcheck) newFamily(box *sealBox, addrs []netip.AddrPort) *netFamily {
	f := &netFamily{open: c.mux.openSock, close: c.mux.closeSock, word: make([]byte, sealOverhead)}
	rand.Read(f.word[1:]) // the first byte is that of something sealed
	f.talk = &coordTalk{box: box, addrs: addrs, send: c.mux.send, beating: true,
		cands: func() []netip.AddrPort { return nil },
		calls: map[callID]*coordCall{}, rings: map[callID]time.Time{}, left: map[instanceID]replayWindow{}, echoes: map[uint64]*echoCall{},
		onHead: func(uint64, [32]byte) {}, onRefused: func(*refuseMsg) { f.refused = true }}
	f.nat = &natFinder{echo: f.echo, openSock: f.open, closeSock: f.close, changed: func(time.Time) { f.ended = true }}
	return f
}

// complaint waits for what a router or the coordinator's machine says of a
// datagram: only a socket that has one peer is told, and routers say it seldom.
func (c *netcheck) complaint(ctx context.Context, f *netFamily, conn *net.UDPConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for ctx.Err() == nil {
		_, err := conn.Write([]byte{0})
		if err == nil {
			conn.SetReadDeadline(time.Now().Add(complaintGap))
			_, err = conn.Read(make([]byte, 1))
		}
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			c.mu.Lock()
			f.fault = errno
			c.mu.Unlock()
			return
		}
	}
}

// loop ticks whatever is due until there is nothing more to wait for.
func (c *netcheck) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.wake:
		}
		now, next, waits := time.Now(), time.Time{}, false
		c.mu.Lock()
		for _, f := range c.families {
			if due := f.tick(now); !due.IsZero() {
				next, waits = earlier(next, due), true
			}
		}
		c.mu.Unlock()
		if !waits {
			return
		}
		timer.Reset(max(time.Until(next), 0))
	}
}

// datagram takes a sealed datagram from the sockets.
func (c *netcheck) datagram(b []byte, from udpSource) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.families {
		if bytes.Equal(b, f.word) {
			f.wordBack = true
		} else if body, err := f.talk.box.recvKey.open(b); err == nil {
			if h, rest, err := parseHead(body); err == nil {
				f.talk.handle(now, h, rest, from)
			}
		}
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// begin asks what needs no other answer.
func (f *netFamily) begin(now time.Time) {
	f.talk.tick(now) // beats
	f.echo(now, echoCall{seen: func(now time.Time, at netip.AddrPort) {
		f.observed, f.at, f.ended = at, now, !at.IsValid()
	}})
	f.echo(now, echoCall{full: true, seen: func(_ time.Time, at netip.AddrPort) { f.full = at.IsValid() }})
	if sock, err := f.open(); err == nil {
		f.echo(now, echoCall{sock: sock, other: true, seen: func(_ time.Time, at netip.AddrPort) {
			f.through = at.IsValid()
			f.close(sock)
		}})
	}
}

// echo asks the coordinator, and counts.
func (f *netFamily) echo(now time.Time, e echoCall) {
	f.asked++
	seen := e.seen
	e.seen = func(at time.Time, where netip.AddrPort) {
		f.asked--
		if took := at.Sub(now); where.IsValid() && (f.rtt == 0 || took < f.rtt) {
			f.rtt = took
		}
		seen(at, where)
	}
	f.talk.echo(now, e)
}

// tick sends what is due and says when to be called again; zero: all is known.
func (f *netFamily) tick(now time.Time) (next time.Time) {
	next = f.talk.tick(now)
	if f.ended && f.asked == 0 && !f.hairpins() {
		return time.Time{}
	}
	if !f.observed.IsValid() {
		return next
	}
	if wait := f.at.Add(secondFor); !f.begun && !f.refused && !f.talk.place.IsValid() && now.Before(wait) {
		return earlier(next, wait)
	}
	if !f.begun {
		f.begun = true
		f.nat.start(now, false)
	}
	return earlier(next, f.tickHairpin(now))
}

// hairpins reports whether it is still to be found out if the NAT takes back
// what it is sent from inside.
func (f *netFamily) hairpins() bool {
	return f.observed.IsValid() && f.observed.Addr() != f.local && !f.wordBack && f.wordTries <= int(hairpinFor/hairpinGap)
}

// tickHairpin sends a word from another socket to where the main one is seen.
func (f *netFamily) tickHairpin(now time.Time) (next time.Time) {
	if !f.hairpins() {
		return next
	}
	if f.wordTries == 0 {
		f.wordSock, _ = f.open()
	}
	due := f.at.Add(time.Duration(f.wordTries) * hairpinGap)
	if now.Before(due) {
		return due
	}
	if f.wordTries++; f.wordTries <= 3 && f.wordSock != 0 {
		f.talk.send(f.word, udpSource{sock: f.wordSock, addr: f.observed})
	}
	return due.Add(hairpinGap)
}
