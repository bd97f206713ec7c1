package main

// This file is one link: the QUIC connection between two processes, whatever
// path it takes. Both ends have shown their identity in TLS; the log says what
// the peer may do. A peer that the log does not know may exchange records of
// the log, and nothing else.

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// A linkOwner is what a link needs of the process that it lives in.
type linkOwner interface {
	// judge asks the log whether a peer may act in a role now; "" is any.
	judge(keys publicKeys, role string) (signedDevice, error)
	deviceOf(id deviceID) (signedDevice, bool)
	// exchangeOn runs one exchange of the log with a peer.
	exchangeOn(ctx context.Context, rw exchangeStream, peer publicKeys) error
	// addrsOf are the addresses of the path that a link takes now.
	addrsOf(l *link) (local, remote netip.AddrPort)
}

// A link is one connection. Its streams are SSH connections, exchanges of the
// log and control requests.
type link struct {
	id     string // the same at both ends
	owner  linkOwner
	ssh    *sshServer // nil: may not be entered
	tokens *sessionTable
	logf   func(level int, format string, args ...any)
	conn   *quic.Conn
	proc   *peerProc
	peer   publicKeys
	device deviceID
	dialed bool
	opened time.Time

	recall     linkRecall // guarded by the owner's lock
	questioned time.Time  // guarded by the owner's lock: when asked whether it still lives
	successor  *peerProc  // guarded by the owner's lock: what serves now, says the coordinator

	mu      sync.Mutex
	token   sessionToken   // guarded by mu: the newest
	tokenAt time.Time      // guarded by mu: when it came
	tokenIn time.Duration  // guarded by mu: its lifetime
	tokenNo int            // guarded by mu: SSH connections that came by it
	streams int            // guarded by mu: SSH streams, both directions
	pulls   sync.WaitGroup // goroutines that serve it
	cause   error          // guarded by mu: why it ended
	known   chan struct{}  // closed when the first exchange of the log is over
	knownAt sync.Once
}

// handshakeIdle is how long a handshake may wait for the other end: hard NATs
// take up to 12 s.
const handshakeIdle = 15 * time.Second

// linkQUIC is the configuration of links. Liveness is punch.go's to judge:
// QUIC's own idle clock would end a link whose lid is closed for the night.
//
// The connection's window is that of all SSH connections that a link may have,
// from the start: a reader that stalls leaves up to a stream's window unread,
// and with QUIC's usual window, 1.5 of a stream's, the second such reader would
// stop everybody on the link. It is memory only while readers stall.
func linkQUIC(small bool) *quic.Config {
	stream := uint64(6 << 20)
	if small {
		stream = 1 << 20
	}
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeIdle,
		MaxIdleTimeout:                 30 * 24 * time.Hour,
		InitialPacketSize:              1200, // 1280 with DF never arrives behind a small MTU
		MaxIncomingStreams:             1024,
		MaxIncomingUniStreams:          -1,
		MaxStreamReceiveWindow:         stream,
		InitialConnectionReceiveWindow: (maxPerDevice + 1) * stream, // and one for all else
		MaxConnectionReceiveWindow:     (maxPerDevice + 1) * stream,
	}
}

// strangerQUIC is linkQUIC for a peer that the log does not know: it has
// records of the log to exchange. Should these make it known, then its window
// grows as it is used.
func strangerQUIC(small bool) *quic.Config {
	c := linkQUIC(small)
	c.InitialStreamReceiveWindow = 64 << 10
	c.InitialConnectionReceiveWindow = 256 << 10
	return c
}

// A linkRecall is asking the coordinator for another introduction.
type linkRecall struct {
	id    callID
	next  time.Time
	tries int
}

// newLink dresses a connection whose handshake is over. Its owner sets ssh,
// tokens and logf.
func newLink(owner linkOwner, conn *quic.Conn, proc *peerProc, dialed bool) (*link, error) {
	cs := conn.ConnectionState().TLS
	keys, err := keysOfCert(cs.PeerCertificates[0].Raw)
	if err != nil {
		return nil, err
	}
	id, err := cs.ExportKeyingMaterial("EXPORTER-sessio-link-id", nil, 4)
	if err != nil {
		return nil, err
	}
	return &link{id: hex.EncodeToString(id), owner: owner, conn: conn, proc: proc, peer: keys, device: keys.deviceID(),
		dialed: dialed, opened: time.Now(), known: make(chan struct{})}, nil
}

// close ends the link for both ends with a stable code.
func (l *link) close(code string) {
	l.mu.Lock()
	if l.cause == nil {
		l.cause = coded(code, "%s", linkCodeTexts[code])
	}
	l.mu.Unlock()
	l.conn.CloseWithError(quic.ApplicationErrorCode(linkCode(code)), "")
}

// err is why the link ended.
func (l *link) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return l.cause
	}
	return linkErrorOf(context.Cause(l.conn.Context()))
}

// serve takes the peer's streams until the link ends, and returns when all of
// them are done.
func (l *link) serve(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for {
		s, err := l.conn.AcceptStream(ctx)
		if err != nil {
			break
		}
		l.pulls.Go(func() { l.serveStream(l.conn.Context(), s) })
	}
	l.pulls.Wait()
}

// headWait bounds how long a stream may take to say what it is for.
const headWait = 10 * time.Second

func (l *link) serveStream(ctx context.Context, s *quic.Stream) {
	s.SetReadDeadline(time.Now().Add(headWait))
	h, err := readStreamHead(s)
	if err != nil || h.version != streamVersion {
		refuseStream(s, "stream-kind")
		return
	}
	s.SetReadDeadline(time.Time{})
	switch h.kind {
	case streamLog:
		l.exchange(ctx, s)
	case streamSSH:
		l.serveSSH(ctx, s, h.body)
	case streamControl:
		l.serveControl(ctx, s, h.body)
	default:
		refuseStream(s, "stream-kind")
	}
}

// exchange runs one exchange of the log over s and closes it.
func (l *link) exchange(ctx context.Context, s *quic.Stream) {
	defer s.Close()
	defer s.CancelRead(0)
	stop := context.AfterFunc(ctx, func() { s.CancelRead(0); s.CancelWrite(0) })
	defer stop()
	s.SetDeadline(time.Now().Add(time.Minute))
	err := l.owner.exchangeOn(ctx, s, l.peer)
	l.knownAt.Do(func() { close(l.known) })
	if err != nil {
		l.logf(2, "link %s: exchange of the log: %v", l.id, err)
	}
}

// startExchange opens an exchange of the log, for a new head or a new link.
func (l *link) startExchange(ctx context.Context) {
	s, err := openStream(ctx, l.conn, streamHead{kind: streamLog, version: streamVersion})
	if err != nil {
		l.knownAt.Do(func() { close(l.known) })
		return
	}
	l.exchange(ctx, s)
}

// judge says whether the peer may use role of ours; a peer that the log does
// not know may still be made known by the exchange that runs first.
func (l *link) judge(ctx context.Context, role string) (signedDevice, error) {
	dev, err := l.owner.judge(l.peer, role)
	if codeOf(err) != "unknown-device" {
		return dev, err
	}
	select {
	case <-l.known:
	case <-ctx.Done():
	case <-time.After(tokenWait):
	}
	return l.owner.judge(l.peer, role)
}

// deniedTo is the code that a peer may read: one that the log does not know
// learns nothing.
func deniedTo(err error) string {
	if code := codeOf(err); code != "" && code != "unknown-device" && code != "key-mismatch" {
		return code
	}
	return "denied"
}

// serveSSH runs the SSH server on s, for a client that the log allows in and
// under a session token that is good.
func (l *link) serveSSH(ctx context.Context, s *quic.Stream, body []byte) {
	if l.ssh == nil || len(body) != len(sessionToken{}) {
		refuseStream(s, "role")
		return
	}
	if _, err := l.judge(ctx, "client"); err != nil {
		l.logf(1, "link %s from %s: refused: %v", l.id, l.peerName(), err)
		refuseStream(s, deniedTo(err))
		return
	}
	token := sessionToken(body)
	lease, err := l.tokens.await(ctx, token, l.peer.sign)
	if err != nil {
		l.logf(1, "link %s from %s: refused: %v", l.id, l.peerName(), err)
		refuseStream(s, codeOf(err))
		return
	}
	defer lease.release()
	l.countStream(1)
	defer l.countStream(-1)
	nc := l.netConn(s, nil)
	defer nc.Close()
	ctx, end := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end(nil)
	watch.Go(func() {
		select {
		case <-lease.ended:
			refuseStream(s, "token-revoked")
			end(coded("token-revoked", "session revoked"))
		case <-ctx.Done():
		}
	})
	if err := l.ssh.serve(ctx, nc, l.peer.sshKey(), token.publicID()); err != nil {
		l.logf(2, "link %s: session %s: %v", l.id, token.publicID(), err)
	}
}

func (l *link) countStream(d int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams += d
}

// Requests on a control stream: the one byte of its body.
const (
	controlSession = 1 // answered by a token of 16 bytes and its ttl, 4 bytes in seconds
	controlEcho    = 2 // answered by itself, for a round trip
)

func (l *link) serveControl(ctx context.Context, s *quic.Stream, body []byte) {
	if _, err := l.judge(ctx, "client"); err != nil || l.ssh == nil {
		refuseStream(s, deniedTo(err))
		return
	}
	if len(body) != 1 {
		refuseStream(s, "stream-kind")
		return
	}
	switch body[0] {
	case controlSession:
		token := l.tokens.make(time.Now(), l.peer.sign)
		s.Write(append32(token[:], uint32(time.Duration(l.tokens.life.Load())/time.Second)))
	case controlEcho:
		s.Write(body)
	default:
		refuseStream(s, "stream-kind")
		return
	}
	s.CancelRead(0)
	s.Close()
}

// openSSH opens a stream to the peer's SSH server.
func (l *link) openSSH(ctx context.Context) (*linkStream, error) {
	token, err := l.takeToken(ctx)
	if err != nil {
		return nil, err
	}
	s, err := openStream(ctx, l.conn, streamHead{streamSSH, streamVersion, token[:]})
	if err != nil {
		return nil, err
	}
	l.countStream(1)
	c := l.netConn(s, sync.OnceFunc(func() { l.countStream(-1) }))
	c.failed = func(err error) {
		if strings.HasPrefix(codeOf(err), "token-") {
			l.forgetToken(token)
		}
	}
	return c, nil
}

// forgetToken makes the next connection ask for a token of its own: the device
// does not take this one, whatever the coordinator said, or does no more.
func (l *link) forgetToken(t sessionToken) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == t {
		l.token = sessionToken{}
	}
}

// takeToken returns a token with room for one more connection: the newest, or
// a new one that the device makes. Each is used maxPerToken times and then no
// more: when a connection is over at the device, which waits for what it has
// hung up on, is not known here.
func (l *link) takeToken(ctx context.Context) (sessionToken, error) {
	l.mu.Lock()
	if l.tokenGoodLocked(time.Now()) {
		defer l.mu.Unlock()
		l.tokenNo++
		return l.token, nil
	}
	l.mu.Unlock()
	t, ttl, err := l.askToken(ctx)
	if err == nil {
		l.setToken(time.Now(), t, ttl, 1)
	}
	return t, err
}

// tokenGoodLocked reports whether the newest token is still good, with a good
// deal of time to spare: the device has a clock of its own. Of ours the
// monotonic one stands still while the machine sleeps, the other may be set.
func (l *link) tokenGoodLocked(now time.Time) bool {
	age := max(now.Sub(l.tokenAt), now.Round(0).Sub(l.tokenAt.Round(0)))
	return l.token != (sessionToken{}) && l.tokenNo < maxPerToken && age < l.tokenIn/2
}

func (l *link) askToken(ctx context.Context) (t sessionToken, ttl time.Duration, err error) {
	b := make([]byte, len(t)+4)
	if err := l.askControl(ctx, controlSession, b); err != nil {
		return t, 0, err
	}
	seconds := binary.BigEndian.Uint32(b[copy(t[:], b):])
	return t, time.Duration(seconds) * time.Second, nil
}

// echo returns after one round trip.
func (l *link) echo(ctx context.Context) error {
	return l.askControl(ctx, controlEcho, make([]byte, 1))
}

// askControl makes a request of one byte and reads the answer into b.
func (l *link) askControl(ctx context.Context, request byte, b []byte) error {
	s, err := openStream(ctx, l.conn, streamHead{streamControl, streamVersion, []byte{request}})
	if err != nil {
		return err
	}
	defer s.Close()
	defer s.CancelRead(0)
	stop := context.AfterFunc(ctx, func() { s.CancelRead(0) })
	defer stop()
	_, err = io.ReadFull(s, b)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return linkErrorOf(err)
}

// setToken takes a token that has just come, and was used so often since; ttl 0
// is the longest there is.
func (l *link) setToken(now time.Time, t sessionToken, ttl time.Duration, used int) {
	if ttl <= 0 {
		ttl = tokenTTL
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.tokenNo, l.tokenAt, l.tokenIn = t, used, now, ttl
}

// netConn dresses a stream as net.Conn with the path's addresses.
func (l *link) netConn(s *quic.Stream, done func()) *linkStream {
	local, remote := l.owner.addrsOf(l)
	return &linkStream{Stream: s, local: tcpAddr(local), remote: tcpAddr(remote), done: done}
}

func tcpAddr(a netip.AddrPort) net.Addr {
	if !a.IsValid() {
		return &net.TCPAddr{IP: net.IPv4zero}
	}
	return net.TCPAddrFromAddrPort(a)
}

// peerName is the peer's name in the log, or its id.
func (l *link) peerName() string {
	if dev, ok := l.owner.deviceOf(l.device); ok {
		return dev.name
	}
	return string(l.device)
}
