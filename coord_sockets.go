package main

// This file opens the coordinator's two UDP ports. The first carries QUIC and
// every datagram. The second answers echoes, so that a device can tell whether
// its NAT uses one port for all destinations or another for each.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// maxPairTries bounds the search for two free ports that are neighbours.
const maxPairTries = 64

// coordSockets are the two ports; a udpSource's sock is 0 or 1.
type coordSockets struct{ first, second *udpMux }

// listenCoordSockets opens udp, and udp2 or else the next port on the same
// address. Where any port may be the first, both are looked for together.
func listenCoordSockets(udp, udp2 string, sealed func([]byte, udpSource)) (s coordSockets, err error) {
	tries := 1
	if a, err := net.ResolveUDPAddr("udp", udp); err == nil && a.Port == 0 && udp2 == "" {
		tries = maxPairTries
	}
	for range tries {
		if s.first, err = listenUDP(udp, true, sealed); err != nil {
			return s, fmt.Errorf("opening UDP port %s: %w", udp, err)
		}
		if s.second, err = s.listenSecond(udp2, sealed); err == nil {
			return s, nil
		}
		s.first.UDPConn.Close()
	}
	return s, withHint(err, "name another address for the second port, with -udp2 ADDR")
}

func (s coordSockets) listenSecond(addr string, sealed func([]byte, udpSource)) (*udpMux, error) {
	if addr == "" {
		next := *s.first.UDPConn.LocalAddr().(*net.UDPAddr)
		next.Port++
		addr = next.String()
	}
	u, err := listenUDP(addr, false, func(b []byte, from udpSource) {
		from.sock = 1
		sealed(b, from)
	})
	if err != nil {
		return nil, fmt.Errorf("opening the second UDP port %s: %w", addr, err)
	}
	return u, nil
}

// told is how devices learn of the second port: without an IP where that is
// the first one's.
func (s coordSockets) told() netip.AddrPort {
	first, second := addrPortOf(s.first.UDPConn.LocalAddr()), addrPortOf(s.second.UDPConn.LocalAddr())
	if second.Addr().IsUnspecified() || second.Addr() == first.Addr() {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), second.Port())
	}
	return second
}

// echoPort is what a person is told of the second port.
func (s coordSockets) echoPort() string {
	if a := s.told(); !a.Addr().IsUnspecified() {
		return a.String()
	}
	return strconv.Itoa(int(s.second.port()))
}

func (s coordSockets) send(b []byte, to udpSource) {
	if to.sock == 0 {
		s.first.send(b, to)
	} else {
		to.sock = 0 // the only one of its own set
		s.second.send(b, to)
	}
}

// readSecond takes in what comes to the second port until ctx ends; QUIC reads
// the first.
func (s coordSockets) readSecond(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { s.second.SetReadDeadline(time.Unix(1, 0)) })()
	err := s.second.drain()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("second UDP port: %w", err)
}

func (s coordSockets) close() error {
	return errors.Join(s.first.UDPConn.Close(), s.second.UDPConn.Close())
}
