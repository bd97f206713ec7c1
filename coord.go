package main

// This file is the coordinator's role: it opens identity, store and sockets,
// says what to do next, and runs until it is told to stop.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// A coordConfig is what the flags say.
type coordConfig struct {
	dir    string // state directory; the coordinator's is coord in it
	udp    string // address of the UDP port
	udp2   string // of the second one, "" = the next port
	url    string // public address, to be printed; "" = the machine's
	signup string // signupClaim, signupOpen or signupClosed
	page   pageConfig
}

// coordBuffers is the size of the socket's buffers: a second of the beats of
// 10,000 devices.
const coordBuffers = 1 << 20

// runCoordinator runs until ctx ends, which is no error. What a person should
// do next goes to out.
func runCoordinator(ctx context.Context, cfg coordConfig, out io.Writer, logf func(format string, args ...any)) error {
	c, err := openCoordinator(cfg, logf)
	if err != nil {
		return err
	}
	err = c.run(ctx, cfg, out)
	if err = errors.Join(err, c.close()); ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil
	}
	return err
}

// A coordinator is the parts of the role.
type coordinator struct {
	me       *identity
	server   *coordServer
	presence *presence
	sockets  coordSockets
	listener *coordListener
	wake     chan struct{} // tick is wanted
}

// openCoordinator opens all but HTTP.
func openCoordinator(cfg coordConfig, logf func(string, ...any)) (*coordinator, error) {
	c := &coordinator{wake: make(chan struct{}, 1)}
	dir := filepath.Join(cfg.dir, "coord")
	var err error
	if c.me, err = loadIdentity(filepath.Join(dir, "identity")); err != nil {
		return nil, err
	}
	store, err := openCoordStore(dir, cfg.signup, logf)
	if err != nil {
		return nil, err
	}
	sessions, err := openSessionStore(dir, time.Now(), logf)
	if err != nil {
		return nil, err
	}
	// QUIC begins to read the first socket, and so to call sealed, in listenCoord.
	sealed := func(b []byte, from udpSource) { c.presence.datagram(time.Now(), b, from) }
	if c.sockets, err = listenCoordSockets(cfg.udp, cfg.udp2, sealed); err != nil {
		return nil, err
	}
	c.presence = newPresence(c.me, ourProto(), time.Now(), c.sockets.send, c.wakeUp)
	c.presence.second = c.sockets.told()
	c.server = &coordServer{store: store, sessions: sessions, presence: c.presence, now: time.Now, logf: logf}
	c.presence.keeper = c.server
	for _, a := range store.list() {
		c.server.publishAccount(a)
	}
	if c.listener, err = listenCoord(c.server, c.me, c.sockets.first.packetConn()); err != nil {
		return nil, errors.Join(err, c.sockets.close())
	}
	if err := c.sockets.first.capBuffers(coordBuffers); err != nil {
		logf("UDP buffers: %v", err)
	}
	return c, nil
}

func (c *coordinator) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default: // it is awake already
	}
}

// close ends QUIC, then the sockets; then nothing comes to be kept any more.
func (c *coordinator) close() error {
	return errors.Join(c.listener.close(), c.sockets.close(), c.server.sessions.close())
}

// run runs the loops. The first to fail ends the others.
func (c *coordinator) run(ctx context.Context, cfg coordConfig, out io.Writer) error {
	word, err := c.word(cfg)
	if err != nil {
		return err
	}
	loops, err := c.openPage(cfg, word)
	if err != nil {
		return err
	}
	loops = append(loops, c.listener.serve, c.sockets.readSecond, c.tickLoop, c.keepSessions)
	c.sayReady(out, word)
	return runAll(ctx, loops)
}

// runAll runs loops until the first ends, and returns its error when all have
// ended.
func runAll(ctx context.Context, loops []func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var running sync.WaitGroup
	for _, loop := range loops {
		running.Go(func() { stop(loop(ctx)) })
	}
	running.Wait()
	return context.Cause(ctx)
}

// tickLoop calls tick when it asks for it.
func (c *coordinator) tickLoop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.wake:
		case <-timer.C:
		}
		timer.Reset(time.Until(c.presence.tick(time.Now())))
	}
}

func (c *coordinator) keepSessions(ctx context.Context) error {
	return c.server.sessions.run(ctx, time.Now, c.server.logf)
}

// word is how this coordinator is named to others.
func (c *coordinator) word(cfg coordConfig) (coordWord, error) {
	host, err := coordHost(cfg)
	if err != nil {
		return coordWord{}, err
	}
	addr, err := parseCoordAddr(net.JoinHostPort(host, strconv.Itoa(int(c.sockets.first.port()))))
	if err != nil {
		return coordWord{}, err
	}
	return coordWord{addr: addr, keys: c.me.keys.coordID()}, nil
}

// coordHost is the host that others know the coordinator by: that of -url,
// that of -udp, or the machine's.
func coordHost(cfg coordConfig) (string, error) {
	if cfg.url != "" {
		u, err := url.Parse(cfg.url)
		if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
			return "", usageError("-url %q is not of the form https://HOST", cfg.url)
		}
		return u.Hostname(), nil
	}
	host, _, err := net.SplitHostPort(cfg.udp)
	if err != nil {
		return "", usageError("-udp %q is not of the form HOST:PORT", cfg.udp)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return machineAddr(), nil
	}
	return host, nil
}

// machineAddr is the address that this machine reaches others from; loopback
// when it reaches nobody. Nothing is sent: the documentation addresses of
// RFC 5737 and RFC 3849 only make the kernel choose a route.
func machineAddr() string {
	for _, far := range []string{"192.0.2.1:7722", "[2001:db8::1]:7722"} {
		conn, err := net.Dial("udp", far)
		if err != nil {
			continue
		}
		addr := addrPortOf(conn.LocalAddr()).Addr()
		conn.Close()
		return addr.String()
	}
	return "127.0.0.1"
}

// sayReady tells the person who started the coordinator what to do next.
func (c *coordinator) sayReady(out io.Writer, word coordWord) {
	fmt.Fprintf(out, "coordinator ready at %s (udp; echo on %s), keys %s\n", word.addr, c.sockets.echoPort(), word.keys)
	if len(c.server.store.list()) > 0 || c.server.store.signup == signupClosed {
		return
	}
	word.claim = c.server.store.unusedClaim()
	if c.server.page != "" {
		fmt.Fprintf(out, "no account yet: open %s/%s\nor, ", c.server.page, claimFragment(word.claim))
	} else {
		fmt.Fprint(out, "no account yet: ")
	}
	fmt.Fprintf(out, "on the machine that shall be the first of it, run\nsessio account create -key ~/.ssh/id_ed25519 %s\n", word)
}

// claimFragment is what the page needs to make an account. A fragment is sent to
// nobody: it stands in no proxy's log.
func claimFragment(claim claimSecret) string {
	if claim == (claimSecret{}) {
		return "#register"
	}
	return "#claim=" + base32Lower.EncodeToString(claim[:])
}
