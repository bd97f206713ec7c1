package main

// This file is the coordinator's QUIC side: it accepts connections, proves the
// peer's keys by TLS, and gives each stream's request to coord_requests.go.
// Every goroutine that it starts has ended when serve returns.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// maxCoordConns bounds the connections, those in handshake included:
	// about 70 KB each.
	maxCoordConns = 1024
	// maxConnsPerHost bounds those of one IPv4 address or IPv6 /64.
	maxConnsPerHost = 256
	// maxConnStreams bounds the requests at once on a connection.
	maxConnStreams = 4
	// maxBodyBytes bounds the bodies that are being read and answered, of all
	// connections together.
	maxBodyBytes = 16 << 20
	// maxConnRequests bounds the requests of a connection in all; a client
	// that wants more dials again.
	maxConnRequests = 4096
	// requestTime is how long a request may take to arrive, and its reply to
	// leave.
	requestTime = 15 * time.Second
	// coordIdle closes a connection on which nothing comes.
	coordIdle = 15 * time.Second
)

// coordQUICConfig has small windows: requests are small, and of strangers.
func coordQUICConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 coordIdle,
		InitialPacketSize:              1200, // what every path carries
		InitialStreamReceiveWindow:     64 << 10,
		MaxStreamReceiveWindow:         maxCoordBody,
		InitialConnectionReceiveWindow: 128 << 10,
		MaxConnectionReceiveWindow:     2 * maxCoordBody,
		MaxIncomingStreams:             maxConnStreams,
		MaxIncomingUniStreams:          -1,
		Versions:                       []quic.Version{quic.Version1},
	}
}

// A coordListener is the coordinator's end of QUIC on one socket.
type coordListener struct {
	server *coordServer
	tr     *quic.Transport
	ln     *quic.Listener

	bodies atomic.Int64 // bytes of maxBodyBytes in use

	mu    sync.Mutex
	conns int                  // guarded by mu
	hosts map[netip.Prefix]int // guarded by mu
}

// listenCoord begins to accept on conn, which the caller closes after close.
func listenCoord(server *coordServer, me *identity, conn net.PacketConn) (*coordListener, error) {
	l := &coordListener{server: server, hosts: map[netip.Prefix]int{}}
	key, err := me.resetKey()
	if err != nil {
		return nil, err
	}
	l.tr = &quic.Transport{
		StatelessResetKey:                (*quic.StatelessResetKey)(&key),
		Conn:                             conn,
		ConnectionIDLength:               8,
		DisableVersionNegotiationPackets: true,
		VerifySourceAddress:              func(a net.Addr) bool { return !server.presence.isProved(addrPortOf(a)) },
		ConnContext:                      l.admit,
	}
	l.ln, err = l.tr.Listen(me.tlsConfig(alpnCoord, func(publicKeys) error { return nil }), coordQUICConfig())
	return l, err
}

func addrPortOf(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

const coordStops = "the coordinator stops"

var errTooMany = errors.New("too many connections")

// admit counts a connection from its first packet to its end.
func (l *coordListener) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	host := hostOf(addrPortOf(info.RemoteAddr).Addr())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns >= maxCoordConns || l.hosts[host] >= maxConnsPerHost {
		return nil, errTooMany
	}
	l.conns++
	l.hosts[host]++
	context.AfterFunc(ctx, func() { l.leave(host) })
	return ctx, nil
}

func (l *coordListener) leave(host netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns--
	if l.hosts[host]--; l.hosts[host] == 0 {
		delete(l.hosts, host)
	}
}

// serve answers until ctx ends.
func (l *coordListener) serve(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop() // ends the connections when accepting has failed
	for {
		conn, err := l.ln.Accept(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("accepting connections: %w", err)
		}
		conns.Go(func() { l.serveConn(ctx, conn) })
	}
}

// close ends QUIC on the socket, when serve has returned; the socket stays
// open. Who was not served yet is told: else it would wait for its idle timer.
func (l *coordListener) close() error {
	err := l.ln.Close()
	for {
		conn, none := l.ln.Accept(context.Background())
		if none != nil { // the queue is empty
			return errors.Join(err, l.tr.Close())
		}
		conn.CloseWithError(0, coordStops)
	}
}

func (l *coordListener) serveConn(ctx context.Context, conn *quic.Conn) {
	defer conn.CloseWithError(0, "")
	defer context.AfterFunc(ctx, func() { conn.CloseWithError(0, coordStops) })()
	certs := conn.ConnectionState().TLS.PeerCertificates
	if len(certs) != 1 {
		return // tlsConfig has seen to it
	}
	keys, err := keysOfCert(certs[0].Raw)
	if err != nil {
		return
	}
	var requests sync.WaitGroup
	defer requests.Wait()
	for range maxConnRequests {
		st, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		peer := &coordPeer{keys: keys, addr: addrPortOf(conn.RemoteAddr()), channel: func() ([]byte, error) { return channelKey(conn) }}
		requests.Go(func() { l.serveStream(peer, st) })
	}
}

// serveStream answers one request. A stream that brings none in time, or none
// of right form, is reset.
func (l *coordListener) serveStream(peer *coordPeer, st *quic.Stream) {
	defer st.Close()
	st.SetDeadline(time.Now().Add(requestTime))
	reply, err := l.serveRequest(peer, st)
	switch {
	case errors.Is(err, errBadRequest):
		st.CancelRead(0)
		st.CancelWrite(0)
	case err != nil:
		st.CancelRead(0) // it may be unread
		writeCoordFrame(st, statusError, l.server.errorReply(peer, err).append(nil))
	default:
		writeCoordFrame(st, statusDone, reply) // who hangs up early loses it
	}
}

var errBadRequest = errors.New("no request came")

func (l *coordListener) serveRequest(peer *coordPeer, st *quic.Stream) ([]byte, error) {
	op, length, err := readCoordHead(st)
	if err != nil {
		return nil, errBadRequest
	}
	defer l.bodies.Add(-int64(length))
	if l.bodies.Add(int64(length)) > maxBodyBytes {
		return nil, errBusy
	}
	body, err := readCoordBody(st, length)
	if err != nil {
		return nil, errBadRequest
	}
	// To read its end frees the stream; to cancel it would race with the end.
	if _, err := io.ReadFull(st, make([]byte, 1)); err != io.EOF {
		return nil, errBadRequest
	}
	return l.server.answer(peer, op, body)
}
