package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// A udpTestEnd is one socket with a QUIC transport on it.
type udpTestEnd struct {
	mux    *udpMux
	tr     *quic.Transport
	peer   *udpPeer
	sealed atomic.Int64
	id     *identity
}

func newUDPTestEnd(t *testing.T, seed byte) *udpTestEnd {
	t.Helper()
	e := &udpTestEnd{id: wireIdentity(t, seed)}
	var err error
	e.mux, err = listenUDP("127.0.0.1:0", false, func([]byte, udpSource) { e.sealed.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	e.tr = &quic.Transport{Conn: e.mux.packetConn(), ConnectionIDLength: 8}
	t.Cleanup(func() {
		e.tr.Close()
		e.mux.Close()
	})
	return e
}

func (e *udpTestEnd) source() udpSource {
	return udpSource{addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.mux.port())}
}

// udpTestPair are two ends that know each other's address, with a listener at
// the second and a connection from the first.
func udpTestPair(t *testing.T) (a, b *udpTestEnd, dialed, accepted *quic.Conn) {
	t.Helper()
	a, b = newUDPTestEnd(t, 1), newUDPTestEnd(t, 2)
	for _, e := range []*udpTestEnd{a, b} {
		o := a
		if e == a {
			o = b
		}
		e.peer = e.mux.addPeer()
		e.mux.admit(o.source(), e.peer)
		e.peer.setPath(o.source())
	}
	any := func(publicKeys) error { return nil }
	ln, err := b.tr.Listen(b.id.tlsConfig(alpnLink, any), linkQUIC(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	dialed, err = a.tr.Dial(ctx, a.peer.virtual, a.id.tlsConfig(alpnLink, any), linkQUIC(false))
	if err != nil {
		t.Fatal(err)
	}
	accepted, err = ln.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.CloseWithError(0, ""); accepted.CloseWithError(0, "") })
	return a, b, dialed, accepted
}

// udpTestCopy sends n random bytes from one connection to the other and checks
// that they arrive; during is called meanwhile.
func udpTestCopy(t *testing.T, from, to *quic.Conn, n int, during func()) {
	t.Helper()
	data := make([]byte, n)
	rand.Read(data)
	want := sha256.Sum256(data)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		s, err := from.OpenStream()
		if err != nil {
			t.Error(err)
			return
		}
		s.Write(data)
		s.Close()
	})
	if during != nil {
		wg.Go(during)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	s, err := to.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.SetReadDeadline(time.Now().Add(30 * time.Second))
	h := sha256.New()
	if _, err := io.Copy(h, s); err != nil {
		t.Fatal(err)
	}
	if [32]byte(h.Sum(nil)) != want {
		t.Error("what arrived is not what was sent")
	}
}

func TestUDPSortsWhatItReads(t *testing.T) {
	a, b, dialed, accepted := udpTestPair(t)
	stranger, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	const sent = 400
	sealed := bytes.Repeat([]byte{sealVersion}, 100)
	udpTestCopy(t, dialed, accepted, 8<<20, func() {
		for range sent {
			a.mux.send(sealed, b.source())                                                 // taken out
			stranger.WriteToUDPAddrPort(bytes.Repeat([]byte{0xc0}, 1200), b.source().addr) // dropped
		}
	})
	if got := b.sealed.Load(); got == 0 {
		t.Error("no sealed datagram reached its handler")
	}
	stranger.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _, err := stranger.ReadFrom(make([]byte, 2000)); err == nil {
		t.Errorf("a stranger was answered with %d bytes", n)
	}
	if accepted.RemoteAddr().String() != b.peer.virtual.String() {
		t.Errorf("QUIC sees %v", accepted.RemoteAddr())
	}
}

func TestUDPPathChangeIsInvisible(t *testing.T) {
	a, b, dialed, accepted := udpTestPair(t)
	udpTestCopy(t, dialed, accepted, 1<<20, nil)
	// No path: what is written is kept, and the last datagrams come again.
	a.peer.setPath(udpSource{})
	s, err := dialed.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	before := a.peer.lastTx.Load()
	if _, err := s.Write([]byte("held")); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, func() bool { return a.peer.lastTx.Load() != before })
	a.peer.setPath(b.source())
	a.mux.replayTo(a.peer, b.source())
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	r, err := accepted.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "held" {
		t.Fatalf("read %q, %v", buf, err)
	}
}

// waitUntil polls a condition that another goroutine brings about.
func waitUntil(t testing.TB, done func() bool) {
	t.Helper()
	waitWithin(t, 15*time.Second, done)
}

func waitWithin(t testing.TB, d time.Duration, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(d)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("what was waited for did not come")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestUDPWriteErrorsDoNotReachQUIC(t *testing.T) {
	a, _, dialed, accepted := udpTestPair(t)
	// A unicast address of a reserved block: no route, or no permission.
	for _, bad := range []string{"240.0.0.1:9", "[100::9]:9", "255.255.255.255:9"} {
		a.peer.setPath(udpSource{addr: netip.MustParseAddrPort(bad)})
		if err := a.mux.writePeer(a.peer, []byte{0x40, 1, 2}, udpMeta{}); err != nil {
			t.Errorf("to %s: %v", bad, err)
		}
	}
	a.peer.setPath(udpSource{addr: admittedSource(a)})
	udpTestCopy(t, accepted, dialed, 1<<20, nil)
}

// The one datagram that ends a link may be lost: said again, it is heard.
func TestUDPLastWordIsHeard(t *testing.T) {
	a, _, dialed, accepted := udpTestPair(t)
	there := a.peer.path
	a.peer.setPath(udpSource{addr: netip.MustParseAddrPort("127.0.0.1:9")})
	dialed.CloseWithError(5, "")
	a.peer.mu.Lock()
	a.peer.path, a.peer.early = there, nil // nobody notices that it has returned
	a.peer.mu.Unlock()
	a.mux.lastWord(a.peer)
	select {
	case <-accepted.Context().Done():
		if ended := (*quic.ApplicationError)(nil); !errors.As(context.Cause(accepted.Context()), &ended) || ended.ErrorCode != 5 {
			t.Errorf("it ended by %v", context.Cause(accepted.Context()))
		}
	case <-time.After(5 * time.Second):
		t.Error("the other end has not heard of it")
	}
}

func admittedSource(a *udpTestEnd) netip.AddrPort {
	a.mux.mu.RLock()
	defer a.mux.mu.RUnlock()
	for k := range a.mux.admitted {
		return k.addr
	}
	return netip.AddrPort{}
}

func TestUDPUnnamedSourceGetsThreefold(t *testing.T) {
	a := newUDPTestEnd(t, 1)
	p := a.mux.addPeer()
	src := udpSource{addr: netip.MustParseAddrPort("127.0.0.1:9")}
	p.addTrial(src, 300)
	take := func(n int) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.takeTrialsLocked(n)) == 1
	}
	if !take(200) || take(200) {
		t.Error("300 bytes of credit are not 300")
	}
	a.mux.admit(src, p)
	a.mux.sort(bytes.Repeat([]byte{0x40}, 100), src)
	if !take(400) || take(1) {
		t.Error("100 bytes that came in do not allow 300 more")
	}
	p.addTrial(src, -1)
	if !take(1 << 20) {
		t.Error("a named source is limited")
	}
}

func TestUDPKeepsTheLastDatagrams(t *testing.T) {
	p := &udpPeer{}
	var want []byte
	for i := range byte(maxReplay + 2) {
		p.keepLocked(bytes.Repeat([]byte{i}, 10), 0)
		want = append(want, i)
	}
	p.keepLocked(append(bytes.Repeat([]byte{77}, 100), bytes.Repeat([]byte{88}, 100)...), 100)
	want = append(want[4:], 77, 88)
	var got []byte
	for i := range maxReplay {
		got = append(got, p.replay[(p.at+i)%maxReplay][0])
	}
	if !bytes.Equal(got, want) {
		t.Errorf("kept %v", got)
	}
	p.keepLocked(make([]byte, 64<<10), 1000)
	if n := len(p.replay[(p.at+maxReplay-1)%maxReplay]); n != 64<<10%1000 {
		t.Errorf("last of a large batch has %d bytes", n)
	}
}

// After an outage what QUIC repeated first is sent again too, the newest first;
// it is forgotten when more has been written than that.
func TestReplayKeepsTheBeginningOfAnOutage(t *testing.T) {
	path := udpSource{addr: netip.MustParseAddrPort("192.0.2.1:1")}
	p := &udpPeer{virtual: &net.UDPAddr{IP: net.IPv6loopback, Port: 1}}
	p.seen.Store(p.virtual)
	write := func(from, n int) {
		for i := range n {
			p.keepLocked([]byte{byte(from + i)}, 0)
		}
	}
	again := func() (got []int) {
		for _, d := range p.againLocked() {
			got = append(got, int(d[0]))
		}
		return got
	}
	p.setPath(path)
	write(0, 20)
	if got := again(); len(got) != maxReplay || got[0] != 8 {
		t.Errorf("with a path: %v", got)
	}
	p.setPath(udpSource{})
	write(20, 60)
	got := again()
	want := []int{79}
	for i := 8; i < 8+maxEarly; i++ {
		want = append(want, i)
	}
	for i := 68; i < 79; i++ {
		want = append(want, i)
	}
	if !slices.Equal(got, want) {
		t.Errorf("after an outage: %v, want %v", got, want)
	}
	p.setPath(path)
	if got := again(); !slices.Equal(got, want) {
		t.Errorf("with a path again: %v", got)
	}
	if p.seen.Load() != p.virtual {
		t.Errorf("after a short outage QUIC sees %v", p.seen.Load())
	}
	write(80, maxEarly+2)
	if got := again(); len(got) != maxReplay {
		t.Errorf("much later: %v", got)
	}
	p.setPath(udpSource{})
	p.setPath(path)
	if got := again(); len(got) != maxReplay {
		t.Errorf("after a short outage: %v", got)
	}
}

// After an outage QUIC's server sees its client at another address, and forgets
// what it took for round trips.
func TestUDPOutageIsForgotten(t *testing.T) {
	a, b, dialed, accepted := udpTestPair(t)
	udpTestCopy(t, accepted, dialed, 1<<20, nil)
	udpTestCopy(t, accepted, dialed, 8<<20, func() {
		b.peer.setPath(udpSource{})
		waitUntil(t, func() bool {
			b.peer.mu.Lock()
			defer b.peer.mu.Unlock()
			return len(b.peer.early) >= maxReplay+4 // QUIC has tried again, and again
		})
		b.peer.mu.Lock()
		b.peer.lost -= int64(forgetAfter)
		b.peer.mu.Unlock()
		b.peer.setPath(a.source())
		b.mux.replayTo(b.peer, a.source())
	})
	waitUntil(t, func() bool { return accepted.RemoteAddr().(*net.UDPAddr).Port == 2 })
	udpTestCopy(t, dialed, accepted, 1<<20, nil)
	if rtt := accepted.ConnectionStats().SmoothedRTT; rtt > 100*ms {
		t.Errorf("a round trip of %v on loopback", rtt)
	}
}
