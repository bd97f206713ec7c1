package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// A coordNetTest is a coordinator that listens on loopback.
type coordNetTest struct {
	*coordTestServer
	me   *identity
	ln   *coordListener
	addr string
	echo netip.AddrPort // the second port
	stop func() error   // ends it, and returns what serve returned
}

func newCoordNetTest(t *testing.T) *coordNetTest {
	nt := &coordNetTest{coordTestServer: newCoordTestServer(t)}
	nt.me = nt.presence.me
	sockets, err := listenCoordSockets("127.0.0.1:0", "", func(b []byte, from udpSource) { nt.presence.datagram(nt.now(), b, from) })
	if err != nil {
		t.Fatal(err)
	}
	nt.presence.send, nt.presence.second = sockets.send, sockets.told()
	nt.addr, nt.echo = sockets.first.UDPConn.LocalAddr().String(), addrPortOf(sockets.second.UDPConn.LocalAddr())
	if nt.ln, err = listenCoord(nt.coordServer, nt.me, sockets.first.packetConn()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- runAll(ctx, []func(context.Context) error{nt.ln.serve, sockets.readSecond}) }()
	stopped := false
	nt.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return errors.Join(<-served, nt.ln.close(), sockets.close())
	}
	t.Cleanup(func() { nt.stop() })
	return nt
}

// dial connects as id from a socket of its own.
func (nt *coordNetTest) dial(id *identity) *coordClient {
	nt.t.Helper()
	c, err := nt.tryDial(id)
	if err != nil {
		nt.t.Fatal(err)
	}
	return c
}

func (nt *coordNetTest) tryDial(id *identity) (*coordClient, error) {
	d, err := newCoordDialer()
	if err != nil {
		return nil, err
	}
	conn, err := d.dial(context.Background(), id, nt.addr, nt.me.keys.coordID())
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	nt.t.Cleanup(func() { d.close() })
	nt.t.Cleanup(func() { conn.CloseWithError(0, "") }) // runs first
	return newCoordClient(conn), nil
}

// The whole way of a second machine into an account.
func TestCoordEndToEnd(t *testing.T) {
	nt, ctx := newCoordNetTest(t), t.Context()
	laptop, attic := presTestIdentity(t), presTestIdentity(t)
	owner := newCoordTestAcct(t, laptop.keys)
	lc, ac := nt.dial(laptop), nt.dial(attic)

	if err := lc.create(ctx, claimSecret{1}, owner.log); codeOf(err) != "claim-unknown" {
		t.Errorf("with a wrong claim: %v", err)
	}
	if err := lc.create(ctx, nt.store.unusedClaim(), owner.log); err != nil {
		t.Fatal(err)
	}
	secret := ticketSecret{7}
	if err := lc.ticket(ctx, owner.id(), secret, ticketLife, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ac.fetchAll(ctx, owner.id(), 0, nil); codeOf(err) != "denied" {
		t.Errorf("a stranger fetches: %v", err)
	}
	if signed, err := ac.join(ctx, attic.keys, owner.id(), secret, "attic", "root"); err != nil || signed {
		t.Fatalf("join: %v, %v", signed, err)
	}
	joins, err := lc.pending(ctx, owner.id())
	if err != nil || len(joins) != 1 || !joins[0].provedBy(secret, owner.id()) || joins[0].name != "attic" || joins[0].addr.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Fatalf("pending: %+v, %v", joins, err)
	}
	if got, err := ac.fetchAll(ctx, owner.id(), 0, nil); err != nil || len(got) != 2 {
		t.Errorf("one that waits fetches %d records, %v", len(got), err)
	}
	if err := lc.append(ctx, owner.id(), owner.addDevice(joins[0].keys, joins[0].name, "server")); err != nil {
		t.Fatal(err)
	}
	if signed, err := ac.join(ctx, attic.keys, owner.id(), secret, "attic", "root"); err != nil || !signed {
		t.Errorf("join when signed: %v, %v", signed, err)
	}
	got, err := ac.fetchAll(ctx, owner.id(), 1, nil)
	if err != nil || !bytes.Equal(bytes.Join(got, nil), bytes.Join(owner.log[1:], nil)) {
		t.Errorf("fetched %d records from number 1, %v", len(got), err)
	}
	seen, err := ac.devices(ctx, owner.id())
	if err != nil || len(seen) != 2 {
		t.Errorf("devices: %+v, %v", seen, err)
	}
	if err := ac.append(ctx, owner.id(), owner.log[1]); codeOf(err) != "role" {
		t.Errorf("a server appends: %v", err)
	}
	who, err := ac.whoami(ctx)
	if err != nil || who.time != nt.now().Unix() || who.observed.Port() == 0 {
		t.Errorf("whoami: %+v, %v", who, err)
	}
}

// The recovery key reads the log from a machine that is not in it; its proof is
// good on one connection only.
func TestCoordRecoveryKeyEndToEnd(t *testing.T) {
	nt, ctx := newCoordNetTest(t), t.Context()
	owner := newCoordTestAcct(t, presTestIdentity(t).keys)
	nt.create(owner)
	fresh := presTestIdentity(t)
	c, again := nt.dial(fresh), nt.dial(fresh)
	got, err := c.fetchAll(ctx, owner.id(), 0, owner.recovery.signer().key)
	if err != nil || len(got) != len(owner.log) {
		t.Fatalf("%d records, %v", len(got), err)
	}
	proof, err := c.fetchProof(owner.id(), owner.recovery.signer().key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.ask(ctx, opFetch, &fetchMsg{owner.id(), 0, proof}); codeOf(err) != "denied" {
		t.Errorf("the proof on another connection: %v", err)
	}
	if err := again.append(ctx, owner.id(), owner.recover()); err != nil {
		t.Errorf("recover from a machine that is not in the log: %v", err)
	}
}

func TestCoordRetryUnlessProved(t *testing.T) {
	nt := newCoordNetTest(t)
	laptop := presTestIdentity(t)
	owner := newCoordTestAcct(t, laptop.keys)
	nt.create(owner)
	udp, err := net.Dial("udp", nt.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if !nt.ln.tr.VerifySourceAddress(udp.LocalAddr()) {
		t.Error("no Retry for a stranger")
	}
	coordNetBeat(t, udp, laptop, nt.me.keys, owner.id())
	if nt.ln.tr.VerifySourceAddress(udp.LocalAddr()) {
		t.Error("Retry for a device that is online")
	}
	if seen, err := nt.dial(laptop).devices(t.Context(), owner.id()); err != nil || len(seen) != 1 || !seen[0].status.online ||
		seen[0].status.addr.String() != udp.LocalAddr().String() || seen[0].status.build != "dev" {
		t.Errorf("devices: %+v, %v", seen, err)
	}
}

// coordNetBeat brings a device online over a real socket.
func coordNetBeat(t *testing.T, udp net.Conn, id *identity, coord publicKeys, acct acctID) {
	t.Helper()
	send, recv, err := sealKeys(id.path, sealDevice, coord.path, sealCoord)
	if err != nil {
		t.Fatal(err)
	}
	head := msgHead{kind: msgBeat, sender: newInstanceID()}
	beat := beatMsg{proto: protoRange{1, 1, "dev"}, serves: true}
	for {
		head.counter++
		if _, err := udp.Write(send.seal(sealHintOf(acct, id.keys.sign), beat.append(head.append(nil)))); err != nil {
			t.Fatal(err)
		}
		udp.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, maxDatagram)
		n, err := udp.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		body, err := recv.open(b[:n])
		if err != nil {
			t.Fatal(err)
		}
		h, rest, err := parseHead(body)
		if err != nil || h.receiver != head.sender {
			t.Fatalf("%+v, %v", h, err)
		}
		if h.kind == msgBeatAck {
			return
		}
		hello, err := parseHello(rest)
		if err != nil || h.kind != msgHello {
			t.Fatalf("kind %d, %v", h.kind, err)
		}
		head.receiver, beat.cookie = h.sender, hello.cookie
	}
}

// Of many who come at once each ticket admits one, and of records with one
// number one comes into the log.
func TestCoordManyAtOnce(t *testing.T) {
	nt, ctx := newCoordNetTest(t), t.Context()
	laptop := presTestIdentity(t)
	owner := newCoordTestAcct(t, laptop.keys)
	nt.create(owner)
	lc := nt.dial(laptop)
	secret := ticketSecret{1}
	if err := lc.ticket(ctx, owner.id(), secret, ticketLife, nil); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var joined, appended atomic.Int32
	for i := range 8 {
		id := presTestIdentity(t)
		c, mine := nt.dial(id), *owner
		raw := mine.addDevice(id.keys, fmt.Sprintf("d%d", i), "server")
		all.Go(func() {
			switch signed, err := c.join(ctx, id.keys, owner.id(), secret, "", ""); {
			case err == nil && !signed:
				joined.Add(1)
			case codeOf(err) != "ticket-unknown":
				t.Errorf("join: %v, %v", signed, err)
			}
			switch err := lc.append(ctx, owner.id(), raw); {
			case err == nil:
				appended.Add(1)
			case codeOf(err) != "stale-head":
				t.Errorf("append: %v", err)
			}
			if _, err := lc.fetchAll(ctx, owner.id(), 0, nil); err != nil {
				t.Errorf("fetch: %v", err)
			}
		})
	}
	all.Wait()
	if joined.Load() != 1 || appended.Load() != 1 {
		t.Errorf("%d joined by one ticket, %d records have one number", joined.Load(), appended.Load())
	}
}

// Connections are counted from their first packet to their end.
func TestCoordConnectionLimits(t *testing.T) {
	l := &coordListener{hosts: map[netip.Prefix]int{}}
	admit := func(ctx context.Context, addr string) error {
		_, err := l.admit(ctx, &quic.ClientInfo{RemoteAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))})
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	for range maxConnsPerHost {
		if err := admit(ctx, "[2001:db8::1]:1"); err != nil {
			t.Fatal(err)
		}
	}
	if admit(ctx, "[2001:db8::2]:1") == nil {
		t.Error("one more from the same /64")
	}
	for i := 0; l.conns < maxCoordConns; i++ {
		if err := admit(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1).String()); err != nil {
			t.Fatal(err)
		}
	}
	if admit(ctx, "192.0.2.1:1") == nil {
		t.Error("one more than all")
	}
	cancel()
	for count := 1; count > 0; runtime.Gosched() { // they leave in goroutines of their own
		l.mu.Lock()
		count = l.conns + len(l.hosts)
		l.mu.Unlock()
	}
}

func TestCoordTooManyConnectionsFromOneHost(t *testing.T) {
	t.Parallel()
	nt := newCoordNetTest(t)
	id := presTestIdentity(t)
	for range maxConnsPerHost {
		nt.dial(id)
	}
	if _, err := nt.tryDial(id); err == nil {
		t.Error("one connection more than allowed")
	}
}

// Bodies under way take no more memory than allowed, whoever sends them.
func TestCoordBodiesAreBounded(t *testing.T) {
	nt := newCoordNetTest(t)
	c := nt.dial(presTestIdentity(t))
	nt.ln.bodies.Add(maxBodyBytes)
	if _, err := c.whoami(t.Context()); err != nil {
		t.Errorf("a request without a body: %v", err)
	}
	if _, err := c.devices(t.Context(), acctID{1}); codeOf(err) != "busy" {
		t.Errorf("a request too many: %v", err)
	}
	nt.ln.bodies.Add(-maxBodyBytes)
	if _, err := c.devices(t.Context(), acctID{1}); codeOf(err) != "denied" {
		t.Errorf("after that: %v", err)
	}
	if n := nt.ln.bodies.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}

func TestCoordBadRequestsAreReset(t *testing.T) {
	nt := newCoordNetTest(t)
	c := nt.dial(presTestIdentity(t))
	for _, raw := range []string{"", "\x08", "\x08\x00\x04\x00\x01", "\x02\x00\x00\x00\x05half", "\x08\x00\x00\x00\x00tail"} {
		st, err := c.conn.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st.Write([]byte(raw))
		st.Close()
		st.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, _, err = readCoordFrame(st)
		if reset := (*quic.StreamError)(nil); !errors.As(err, &reset) {
			t.Errorf("%q: %v", raw, err)
		}
	}
	if _, err := c.whoami(t.Context()); err != nil {
		t.Errorf("a good request after them: %v", err)
	}
}

// Requests that never end hold up neither the end of the coordinator nor any
// goroutine of it.
func TestCoordStopsUnderStalledRequests(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		nt := newCoordNetTest(t)
		d, err := newCoordDialer()
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		conn, err := d.dial(t.Context(), presTestIdentity(t), nt.addr, nt.me.keys.coordID())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseWithError(0, "")
		for range maxConnStreams {
			st, err := conn.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write([]byte{opFetch, 0, 0, 1}); err != nil {
				t.Fatal(err)
			}
		}
		if err := nt.stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("serve: %v", err)
		}
		select {
		case <-conn.Context().Done():
		case <-time.After(10 * time.Second):
			t.Error("the client is not told")
		}
	}()
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if runtime.Gosched(); time.Now().After(deadline) {
			b := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, before %d:\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
		}
	}
}

// Junk, truncated packets and a stranger's first QUIC packets draw no more
// bytes than they bring.
func TestCoordJunkAtSocket(t *testing.T) {
	nt := newCoordNetTest(t)
	laptop := presTestIdentity(t)
	owner := newCoordTestAcct(t, laptop.keys)
	nt.create(owner)
	udp, err := net.Dial("udp", nt.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	got := make(chan int)
	go func() {
		sum := 0
		for b := make([]byte, 2048); ; {
			n, err := udp.Read(b)
			if err != nil {
				got <- sum
				return
			}
			sum += n
		}
	}()
	in, initial := 0, coordNetInitial(t)
	b := make([]byte, 1400)
	for i := range 3000 {
		rand.Read(b)
		junk := b[:1+i%1400]
		switch i % 5 {
		case 0:
			junk[0] = sealVersion
		case 1: // a QUIC version that nobody speaks
			junk[0] |= 0xc0
		case 2: // an Initial of garbage
			junk[0] = 0xc3
			if len(junk) > 5 {
				binary.BigEndian.PutUint32(junk[1:], 1)
			}
		case 3:
			junk = initial[:1+i%len(initial)]
		case 4:
			junk = initial
		}
		n, err := udp.Write(junk)
		if err != nil {
			t.Fatal(err)
		}
		in += n
	}
	if _, err := nt.dial(laptop).whoami(t.Context()); err != nil { // all before it has been read
		t.Error(err)
	}
	udp.SetReadDeadline(time.Now())
	if out := <-got; out > in {
		t.Errorf("%d bytes out for %d in", out, in)
	} else {
		t.Logf("%d bytes out for %d in", out, in)
	}
}

// coordNetInitial is the first packet of a real QUIC client.
func coordNetInitial(t *testing.T) []byte {
	t.Helper()
	return quicInitial(t, alpnCoord)
}

func quicInitial(t *testing.T, alpn string) []byte {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ctx, cancel := context.WithCancel(t.Context())
	dialed := make(chan struct{})
	go func() {
		defer close(dialed)
		quic.DialAddr(ctx, pc.LocalAddr().String(), presTestIdentity(t).tlsConfig(alpn, func(publicKeys) error { return nil }), coordQUICConfig())
	}()
	b := make([]byte, 2048)
	n, _, err := pc.ReadFrom(b)
	if err != nil {
		t.Error(err)
	}
	cancel()
	<-dialed
	return b[:n]
}

func TestPlainText(t *testing.T) {
	if got := plainText("a\x1b[31mb\nc" + strings.Repeat("é", 2)); got != "a?[31mb?c??" {
		t.Errorf("%q", got)
	}
}
