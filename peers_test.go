package main

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestPeersForgetTheLongestWithoutALink(t *testing.T) {
	mux, err := listenUDP("127.0.0.1:0", false, func([]byte, udpSource) {})
	if err != nil {
		t.Fatal(err)
	}
	defer mux.Close()
	tab := newPeerTable(presTestIdentity(t), acctID{}, newInstanceID(), mux)
	peer, now := presTestIdentity(t).keys, time.Now()
	var procs []*peerProc
	come := func(i int) (*peerProc, error) {
		return tab.proc(now.Add(time.Duration(i)*ms), peer, instanceID{byte(i), byte(i >> 8), 1}, false)
	}
	for i := range maxProcs {
		q, err := come(i)
		if err != nil {
			t.Fatal(err)
		}
		q.used = i != 5 && i != 7
		procs = append(procs, q)
	}
	for i, gone := range []int{5, 7} {
		q, err := come(maxProcs + i)
		if err != nil {
			t.Fatal(err)
		}
		q.used = true
		if tab.ofVirtual(procs[gone].udp.virtual) != nil {
			t.Errorf("process %d is not the one forgotten", gone)
		}
	}
	if _, err := come(maxProcs + 2); err == nil {
		t.Error("more processes with links than may be")
	}
	if n := len(tab.byVirtual); n != maxProcs {
		t.Errorf("%d processes are known", n)
	}
}

// A knockWorld is a table with one machine in the log, whose processes' pings were
// recorded, and a victim in whose name they are played again.
type knockWorld struct {
	t      *testing.T
	tab    *peerTable
	peer   *identity
	hint   sealHint
	victim *net.UDPConn
	now    time.Time
}

func newKnockWorld(t *testing.T) *knockWorld {
	t.Helper()
	mux, err := listenUDP("127.0.0.1:0", false, func([]byte, udpSource) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mux.Close() })
	victim, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { victim.Close() })
	k := &knockWorld{t: t, peer: presTestIdentity(t), victim: victim, now: time.Now()}
	k.tab = newPeerTable(presTestIdentity(t), acctID{}, newInstanceID(), mux)
	k.hint = sealHintOf(acctID{}, k.peer.keys.sign)
	k.tab.logf = func(int, string, ...any) {}
	k.tab.known = func(publicKeys) bool { return true }
	k.tab.observe = func(time.Time, int, func(time.Time, netip.AddrPort)) {}
	k.tab.member = func(h sealHint) (publicKeys, bool) { return k.peer.keys, h == k.hint }
	return k
}

// pings are those of n processes, one each.
func (k *knockWorld) pings(n int) (all [][]byte) {
	k.t.Helper()
	send, _, err := sealKeys(k.peer.path, sealDevice, k.tab.id.keys.path, sealDevice)
	if err != nil {
		k.t.Fatal(err)
	}
	for range n {
		x := sealBox{sendKey: send, hint: k.hint, mine: newInstanceID(), theirs: k.tab.instance}
		b, _ := x.pack(msgPing, &pingMsg{nonce: 1}, 0)
		all = append(all, b)
	}
	return all
}

// play sends them in the victim's name, so far apart, and returns what the victim
// gets in the end.
func (k *knockWorld) play(pings [][]byte, apart time.Duration) (got int) {
	k.t.Helper()
	from := udpSource{addr: addrPortOf(k.victim.LocalAddr())}
	for _, b := range pings {
		k.tab.handle(k.now, k.hint, b, from)
		k.now = k.now.Add(apart)
		k.tab.tick(k.now)
	}
	for b := make([]byte, 2000); ; got++ { // loopback delivers at once
		k.victim.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := k.victim.Read(b); err != nil {
			return got
		}
	}
}

// Old pings of many processes bring a victim three small packets a minute.
func TestPeersOldPingsDrawLittle(t *testing.T) {
	k := newKnockWorld(t)
	pings := k.pings(maxGone + 20)
	k.play(pings, 2*procLinger) // they came once, from elsewhere or from here
	k.now = k.now.Add(budgetFor)
	for round := range 3 {
		if got := k.play(pings, ms/10); got > maxUnvouched {
			t.Errorf("round %d: the victim gets %d packets", round, got)
		}
	}
	if p := k.tab.byHint[k.hint]; len(p.gone) > maxGone || len(p.went) != len(p.gone) {
		t.Errorf("%d and %d processes are remembered", len(p.gone), len(p.went))
	}
}

// Who knocks makes room of nobody's: a process that was introduced, and is in its
// handshake, stays.
func TestPeersKnocksEvictNobody(t *testing.T) {
	k := newKnockWorld(t)
	q, err := k.tab.proc(k.now, k.peer.keys, newInstanceID(), false)
	if err != nil {
		t.Fatal(err)
	}
	k.play(k.pings(3*maxProcs), ms/10)
	p := k.tab.byHint[k.hint]
	if k.tab.ofVirtual(q.udp.virtual) != q || len(p.procs) != 1+maxKnocked {
		t.Errorf("it is there: %v, with %d others", k.tab.ofVirtual(q.udp.virtual) == q, len(p.procs)-1)
	}
}

// Pings on our own memory take nothing from what the coordinator's word is worth.
func TestPeersMemoryLeavesTheBudget(t *testing.T) {
	k := newKnockWorld(t)
	at := addrPortOf(k.victim.LocalAddr())
	q, err := k.tab.proc(k.now, k.peer.keys, newInstanceID(), true)
	if err != nil {
		t.Fatal(err)
	}
	for i, begin := range []func(){
		func() { q.finder.remember(k.now, []netip.AddrPort{at}) },
		func() { q.finder.introduce(k.now, at, nil) },
	} {
		begin()
		if got := k.play(nil, 0) + k.ticks(650*ms); got != maxUnvouched {
			t.Errorf("step %d: %d pings", i, got)
		}
	}
}

// ticks lets time pass and returns what the victim gets meanwhile.
func (k *knockWorld) ticks(d time.Duration) int {
	k.t.Helper()
	for range d / (10 * ms) {
		k.now = k.now.Add(10 * ms)
		k.tab.tick(k.now)
	}
	return k.play(nil, 0)
}
