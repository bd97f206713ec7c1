package main

// This file opens QUIC connections to a coordinator, pinned to its keys: no
// CA bundle, no date, no TCP.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// coordDialFor bounds finding a coordinator, name resolution included.
const coordDialFor = 10 * time.Second

// resolveCoord returns the addresses of "host:port", at most 4.
func resolveCoord(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("coordinator address: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("coordinator address %s: port %q is no number", hostport, portText)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, withHint(fmt.Errorf("coordinator %s: %w", hostport, err), "check this machine's DNS, or that the name is right")
	}
	var out []netip.AddrPort
	for _, ip := range ips {
		if len(out) < 4 {
			out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
		}
	}
	return out, nil
}

// coordQUIC is the configuration of connections to the coordinator.
func coordQUIC() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout: 5 * time.Second,
		MaxIdleTimeout:       30 * time.Second,
		KeepAlivePeriod:      10 * time.Second,
		InitialPacketSize:    1200,
		MaxIncomingStreams:   -1,
	}
}

// dialCoord connects to the first of addrs that answers and proves to be want.
func dialCoord(ctx context.Context, tr *quic.Transport, mux *udpMux, id *identity, addrs []netip.AddrPort, want coordID) (*quic.Conn, error) {
	ctx, stop := context.WithTimeout(ctx, coordDialFor)
	defer stop()
	type result struct {
		conn *quic.Conn
		err  error
	}
	results := make(chan result, len(addrs))
	var dials sync.WaitGroup
	for _, a := range addrs {
		dials.Go(func() {
			conn, err := dialCoordAt(ctx, tr, mux, id, a, want)
			results <- result{conn, err}
		})
	}
	var won *quic.Conn
	var errs []error
	for range addrs {
		r := <-results
		switch {
		case r.err != nil:
			errs = append(errs, r.err)
		case won == nil:
			won = r.conn
			stop()
		default:
			r.conn.CloseWithError(0, "")
		}
	}
	dials.Wait()
	if won == nil {
		return nil, errors.Join(errs...)
	}
	return won, nil
}

func dialCoordAt(ctx context.Context, tr *quic.Transport, mux *udpMux, id *identity, addr netip.AddrPort, want coordID) (*quic.Conn, error) {
	done := mux.dialDirect(addr)
	var refused error
	tlsConf := id.tlsConfig(alpnCoord, func(claimed publicKeys) error {
		if got := claimed.coordID(); got != want {
			refused = coded("coord-key", "coordinator at %s has other keys: %.8s…, not %.8s…", addr, got, want)
		}
		return refused
	})
	conn, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConf, coordQUIC())
	if err != nil {
		done()
		if refused != nil {
			return nil, withHint(refused, "this is another coordinator, or someone in between: nothing was sent to it")
		}
		return nil, withHint(fmt.Errorf("coordinator at %s does not answer: %w", addr, err), "is it running, and does a firewall let UDP port %d through?", addr.Port())
	}
	context.AfterFunc(conn.Context(), done)
	return conn, nil
}

// A coordDialer makes connections to a coordinator from a socket of its own:
// for verbs that need no path to a device.
type coordDialer struct {
	mux *udpMux
	tr  *quic.Transport
}

func newCoordDialer() (*coordDialer, error) {
	mux, err := listenUDP(":0", false, nil)
	if err != nil {
		return nil, err
	}
	return &coordDialer{mux, &quic.Transport{Conn: mux.packetConn()}}, nil
}

func (d *coordDialer) dial(ctx context.Context, id *identity, hostport string, want coordID) (*quic.Conn, error) {
	addrs, err := resolveCoord(ctx, hostport)
	if err != nil {
		return nil, err
	}
	return dialCoord(ctx, d.tr, d.mux, id, addrs, want)
}

// close ends the socket; connections are to be closed before.
func (d *coordDialer) close() error {
	return errors.Join(d.tr.Close(), d.mux.Close())
}
