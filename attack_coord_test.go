package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/crypto/ssh"
)

// An attackCoord is a hostile coordinator. It is made of the real one's parts
// and speaks the real protocol, but every reply and every datagram passes its
// hooks, and it sends what it likes to whom it likes.
type attackCoord struct {
	*coordServer
	t  testing.TB
	me *identity
	coordSockets
	mux *udpMux // the first of them

	mu    sync.Mutex
	hooks attackHooks // guarded by mu
}

// attackHooks are nil where the coordinator is honest.
type attackHooks struct {
	// reply gets what the honest one would say to what was asked, and says it
	// or something else.
	reply func(peer *coordPeer, op byte, reply, asked []byte) []byte
	// stream may take a request over: true when it has.
	stream func(op byte, st io.ReadWriteCloser) bool
	// datagram gets what the honest one would send and returns what goes out;
	// nil = nothing does.
	datagram func(to deviceID, h msgHead, rest []byte) []byte
	// fetched is told of each fetch that was answered.
	fetched func(by deviceID)
}

// newAttackCoord runs one on loopback until the test is over.
func newAttackCoord(t testing.TB) *attackCoord {
	t.Helper()
	c := &attackCoord{t: t, me: presTestIdentity(t)}
	dir := t.TempDir()
	store, err := openCoordStore(dir, signupClaim, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := openSessionStore(dir, time.Now(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	p := newPresence(c.me, ourProto(), time.Now(), c.send, nil)
	c.coordServer = &coordServer{store: store, sessions: sessions, presence: p, now: time.Now, logf: func(string, ...any) {}}
	p.keeper = c.coordServer
	if c.coordSockets, err = listenCoordSockets("127.0.0.1:0", "", func(b []byte, from udpSource) { p.datagram(time.Now(), b, from) }); err != nil {
		t.Fatal(err)
	}
	c.mux, p.second = c.first, c.told()
	tr := &quic.Transport{Conn: c.mux.packetConn(), ConnectionIDLength: 8}
	ln, err := tr.Listen(c.me.tlsConfig(alpnCoord, func(publicKeys) error { return nil }), coordQUICConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.accept(ctx, ln) })
	running.Go(func() { c.tick(ctx) })
	running.Go(func() { c.readSecond(ctx) })
	t.Cleanup(func() {
		stop()
		ln.Close()
		tr.Close()
		running.Wait()
		c.coordSockets.close()
		sessions.close()
	})
	return c
}

// turn makes it hostile, or with no hooks honest again.
func (c *attackCoord) turn(h attackHooks) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hooks = h
}

func (c *attackCoord) hooked() attackHooks {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hooks
}

// tick does what is due every 20 ms: an introduction's own pace.
func (c *attackCoord) tick(ctx context.Context) {
	due := time.NewTicker(20 * time.Millisecond)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-due.C:
			c.presence.tick(now)
		}
	}
}

func (c *attackCoord) accept(ctx context.Context, ln *quic.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := ln.Accept(ctx)
		if err != nil {
			return
		}
		conns.Go(func() { c.serveConn(ctx, conn) })
	}
}

func (c *attackCoord) serveConn(ctx context.Context, conn *quic.Conn) {
	defer conn.CloseWithError(0, "")
	keys, err := keysOfCert(conn.ConnectionState().TLS.PeerCertificates[0].Raw)
	if err != nil {
		return
	}
	peer := &coordPeer{keys: keys, addr: addrPortOf(conn.RemoteAddr()), channel: func() ([]byte, error) { return channelKey(conn) }}
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		st, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		streams.Go(func() { c.serveStream(peer, st) })
	}
}

func (c *attackCoord) serveStream(peer *coordPeer, st *quic.Stream) {
	defer st.Close()
	st.SetDeadline(time.Now().Add(requestTime))
	op, body, err := readCoordFrame(st)
	if err != nil {
		return
	}
	h := c.hooked()
	if h.stream != nil && h.stream(op, st) {
		return
	}
	reply, err := c.answer(peer, op, body)
	switch {
	case err != nil:
		writeCoordFrame(st, statusError, c.errorReply(peer, err).append(nil))
	case h.reply != nil:
		writeCoordFrame(st, statusDone, h.reply(peer, op, reply, body))
	default:
		writeCoordFrame(st, statusDone, reply)
	}
	if h.fetched != nil && op == opFetch {
		h.fetched(peer.keys.deviceID())
	}
}

// send is how the presence table sends.
func (c *attackCoord) send(b []byte, to udpSource) {
	change := c.hooked().datagram
	if change == nil {
		c.coordSockets.send(b, to)
		return
	}
	hint, _ := hintOfDatagram(b)
	c.presence.mu.Lock()
	m := c.presence.members[hint]
	c.presence.mu.Unlock()
	if m == nil {
		return
	}
	body, err := m.send.open(b)
	if err != nil {
		c.t.Errorf("the coordinator cannot read its own datagram: %v", err)
		return
	}
	h, rest, err := parseHead(body)
	if err != nil {
		c.t.Error(err)
		return
	}
	if rest = change(m.deviceID(), h, rest); rest != nil {
		c.coordSockets.send(m.send.seal(hint, append(h.append(nil), rest...)), to)
	}
}

// tell sends a message to every process of a device that beats.
func (c *attackCoord) tell(acct acctID, keys publicKeys, kind byte, msg payload) {
	c.t.Helper()
	p := c.presence
	p.mu.Lock()
	m := p.members[sealHintOf(acct, keys.sign)]
	if m == nil || len(m.instances) == 0 {
		p.mu.Unlock()
		c.t.Fatalf("the coordinator does not know %s", keys.deviceID())
	}
	for i := range m.instances {
		p.postLocked(m, m.instances[i].id, p.sourceLocked(&m.instances[i]), kind, msg.append(nil))
	}
	p.unlockAndSend()
}

// admit makes a machine a member of an account that nobody has signed.
func (c *attackCoord) admit(acct acctID, keys publicKeys) {
	c.t.Helper()
	a, err := c.store.account(acct)
	if err != nil {
		c.t.Fatal(err)
	}
	seq, head, list := a.members(time.Now())
	c.presence.update(time.Now(), acct, seq, head, append(list, memberInfo{keys, memberActive}))
}

// newAttackWorld is a world whose coordinator is hostile, honest for now.
func newAttackWorld(t *testing.T) (*testWorld, *attackCoord) {
	t.Helper()
	c := newAttackCoord(t)
	return newWorldAt(t, c, c.mux.UDPConn.LocalAddr().String()), c
}

// newWorldAt makes an account at c, which everybody knows by addr.
func newWorldAt(t *testing.T, c *attackCoord, addr string) *testWorld {
	t.Helper()
	w := &testWorld{t: t, owner: trustTestKey("owner"), keys: c.me.keys}
	w.word = coordWord{addr: addr, keys: c.me.keys.coordID(), claim: c.store.unusedClaim()}
	w.laptop = w.machine("laptop")
	w.create()
	return w
}

// serve runs the machine as -device does, with the node at hand.
func (m *testMachine) serve() (*node, *testLog) {
	m.w.t.Helper()
	log := &testLog{}
	return m.serveAs(m.id, log), log
}

// serveAs serves with the machine's log and another identity.
func (m *testMachine) serveAs(id *identity, log *testLog) *node {
	m.w.t.Helper()
	d := &device{id: id, trust: m.trust, logf: log.logf}
	return m.serveTo(id, log, d.authorize)
}

// serveTo serves whom authorize lets in.
func (m *testMachine) serveTo(id *identity, log *testLog, authorize func(ssh.PublicKey, string) (sshGrant, error)) *node {
	m.w.t.Helper()
	server := newSSHServer(sshPolicy{hostKey: id.sshSigner(), authorize: authorize,
		log: func(format string, args ...any) { log.logf(1, format, args...) }})
	n, err := openNode(context.Background(), nodeConfig{id: id, trust: m.trust, listen: "127.0.0.1:0",
		hold: defaultHold, beat: true, ssh: server, logf: log.logf})
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.w.t.Cleanup(func() {
		n.close()
		server.closeAll(0)
	})
	return n
}

// update fetches the log, as a device does.
func (m *testMachine) update() error {
	m.w.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	return withCoordAt(ctx, m.id, m.w.word.addr, m.w.keys.coordID(), func(c *coordClient) error {
		return fetchInto(ctx, c, m.trust)
	})
}

// addr is the node's own address.
func (n *node) addr() netip.AddrPort { return n.candidates()[0] }

// attackSigner is an SSH signer with a key that nobody knows.
func attackSigner(t testing.TB) sshStmtSigner {
	t.Helper()
	key, err := ssh.NewSignerFromKey(presTestIdentity(t).sign)
	if err != nil {
		t.Fatal(err)
	}
	return sshStmtSigner{key}
}

func attackToken() (t sessionToken) {
	rand.Read(t[:])
	return t
}

// attackDenied fails unless err has the code.
func attackDenied(t testing.TB, what string, err error, code string) {
	t.Helper()
	if codeOf(err) != code {
		t.Errorf("%s: %v (%q), want %q", what, err, codeOf(err), code)
	}
}

var errAttackTimeout = errors.New("what was waited for did not come")
