package main

import (
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func (d *presTestDevice) callBody(id callID, target deviceID) []byte {
	m := callMsg{proto: protoRange{1, 1, "dev"}, cookie: d.cookie, call: id, time: d.pt.now.Unix(), target: target,
		cands: []netip.AddrPort{netip.MustParseAddrPort("192.168.2.2:22")}}
	return m.append(nil)
}

// call sends a call, padded to size, and returns its id.
func (d *presTestDevice) call(target *presTestDevice, size int) (id callID) {
	rand.Read(id[:])
	d.say(d.datagram(msgCall, d.callBody(id, target.deviceID()), size))
	return id
}

func (d *presTestDevice) recall(id callID, target *presTestDevice, size int) {
	d.say(d.datagram(msgCall, d.callBody(id, target.deviceID()), size))
}

func (d *presTestDevice) ack(m presTestMsg) {
	d.coord = m.head.sender
	d.say(d.datagram(msgAck, (&ackMsg{m.head.counter}).append(nil), 0))
}

func (d *presTestDevice) takeAnswer() (*answerMsg, presTestMsg) {
	d.pt.t.Helper()
	msg := d.one(msgAnswer)
	a, err := parseAnswer(msg.body)
	if err != nil {
		d.pt.t.Fatal(err)
	}
	return a, msg
}

func (d *presTestDevice) takeRing() (*ringMsg, presTestMsg) {
	d.pt.t.Helper()
	msg := d.one(msgRing)
	r, err := parseRing(msg.body)
	if err != nil {
		d.pt.t.Fatal(err)
	}
	return r, msg
}

func (d *presTestDevice) takeRefuse() *refuseMsg {
	d.pt.t.Helper()
	no, err := parseRefuse(d.one(msgRefuse).body)
	if err != nil {
		d.pt.t.Fatal(err)
	}
	return no
}

// newIntroTest is a table with a device that serves, and a caller that the
// coordinator has not heard yet.
func newIntroTest(t *testing.T) (pt *presTest, caller, attic *presTestDevice) {
	pt = newPresTest(t)
	caller, attic = pt.device("198.51.100.7:1000"), pt.device("203.0.113.5:7722")
	pt.members(5, caller, attic)
	attic.online(true)
	return pt, caller, attic
}

func TestIntroduce(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	id := caller.call(attic, maxDatagram)
	a, amsg := caller.takeAnswer()
	r, rmsg := attic.takeRing()
	if a.call != id || a.token == (sessionToken{}) || a.instance != attic.instance || a.target != attic.addr || a.caller != caller.addr ||
		len(a.cands) != 1 || a.cands[0].String() != "192.168.1.7:7000" || a.ttl != 86400 {
		t.Errorf("answer %+v", a)
	}
	if r.call != id || r.token != a.token || r.keys.deviceID() != caller.deviceID() || r.instance != caller.instance ||
		r.caller != caller.addr || len(r.cands) != 1 || r.cands[0].String() != "192.168.2.2:22" || r.ttl != 86400 {
		t.Errorf("ring %+v", r)
	}
	caller.ack(amsg)
	attic.ack(rmsg)
	pt.advance(5 * time.Second)
	if out := pt.take(); len(out) != 0 {
		t.Errorf("%d datagrams after both acks", len(out))
	}
	if len(pt.p.intro.due) != 0 || len(pt.p.intro.unacked) != 0 {
		t.Error("something still waits for an ack")
	}
	pt.advance(callLife)
	if len(pt.p.intro.calls) != 0 || len(pt.p.intro.order) != 0 {
		t.Error("the call is still known after a minute")
	}
}

func TestIntroduceAgainUntilAcknowledged(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	caller.online(false)
	caller.call(attic, 0)
	began := pt.now
	var at []time.Duration
	pt.p.send = func(b []byte, to udpSource) {
		if to.addr == attic.addr {
			at = append(at, pt.now.Sub(began))
		}
		pt.sent = append(pt.sent, outDatagram{b, to})
	}
	_, amsg := caller.takeAnswer()
	caller.ack(amsg)
	pt.advance(5 * time.Second)
	want := []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}
	if !slices.Equal(at, want) {
		t.Errorf("rung again after %v, want %v", at, want)
	}
	seen := map[uint64]bool{}
	for _, m := range attic.got() {
		if m.head.kind != msgRing || seen[m.head.counter] {
			t.Errorf("datagram %+v to the device", m.head)
		}
		seen[m.head.counter] = true
	}
	if no := caller.takeRefuse(); no.reason != refuseSilent || no.seconds != 0 {
		t.Errorf("refuse %+v", no)
	}
}

func TestIntroduceLateAckOfAnyRing(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	caller.call(attic, maxDatagram)
	pt.advance(250 * time.Millisecond)
	rings := attic.got()
	if len(rings) != 4 {
		t.Fatalf("%d rings in 250 ms", len(rings))
	}
	attic.ack(rings[1])
	caller.got()
	pt.advance(time.Second)
	if len(attic.got()) != 0 {
		t.Error("rung again after an ack")
	}
	for _, m := range caller.got() {
		if m.head.kind == msgRefuse {
			t.Error("refused though the ring was acknowledged")
		}
	}
}

func TestIntroduceOneCallOneSession(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	id := caller.call(attic, maxDatagram)
	first, _ := caller.takeAnswer()
	attic.ack(attic.one(msgRing))
	for range 3 {
		pt.advance(15 * time.Second)
		pt.take()
		attic.beat(true)
		attic.takeBeatAck()
		caller.recall(id, attic, maxDatagram)
		if a, _ := caller.takeAnswer(); a.token != first.token {
			t.Fatal("one call id made two sessions")
		}
		if len(attic.got()) != 0 {
			t.Fatal("rung again though nothing is new")
		}
	}
	caller.addr = netip.MustParseAddrPort("198.51.100.7:1001")
	caller.recall(id, attic, maxDatagram)
	if a, _ := caller.takeAnswer(); a.token != first.token || a.caller != caller.addr {
		t.Fatalf("answer %+v", a)
	}
	if r, _ := attic.takeRing(); r.token != first.token || r.caller != caller.addr {
		t.Fatalf("ring %+v after the caller moved", r)
	}
}

func TestIntroduceRingsAgainAfterSilence(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	id := caller.call(attic, maxDatagram)
	pt.advance(time.Second)
	pt.take()
	next := attic.again()
	next.online(true)
	caller.recall(id, attic, maxDatagram)
	a, _ := caller.takeAnswer()
	if r, _ := next.takeRing(); r.token != a.token || a.instance != next.instance {
		t.Fatalf("ring %+v, answer %+v", r, a)
	}
}

func TestIntroduceRefusals(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	gone, waiting, off, idle, stranger := pt.device("192.0.2.1:1"), pt.device("192.0.2.2:1"), pt.device("192.0.2.3:1"),
		pt.device("192.0.2.4:1"), pt.device("192.0.2.5:1")
	gone.standing, waiting.standing = memberRevoked, memberWaiting
	pt.members(5, caller, attic, gone, waiting, off, idle)
	gone.online(true)
	waiting.online(true)
	idle.online(false)
	off.online(true)
	pt.advance(80 * time.Second)
	idle.online(false)
	never64 := uint64(never)
	for _, tt := range []struct {
		name    string
		target  *presTestDevice
		reason  byte
		seconds uint64
	}{
		{"unknown", stranger, refuseUnknown, 0},
		{"revoked", gone, refuseRevoked, 0},
		{"not signed yet", waiting, refuseUnsigned, 0},
		{"offline", off, refuseOffline, 80},
		{"online and not serving", idle, refuseOffline, 0},
		{"never heard", caller, refuseOffline, never64},
	} {
		id := caller.call(tt.target, maxDatagram)
		no := caller.takeRefuse()
		if no.call != id || no.reason != tt.reason || no.seconds != tt.seconds || no.proto.build != "test" {
			t.Errorf("%s: refuse %+v", tt.name, no)
		}
	}
	if len(pt.p.intro.calls) != 0 {
		t.Error("refused calls are kept")
	}
}

func TestIntroduceRevokedAndWaitingCallersMayExchangeTheLog(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	for _, standing := range []byte{memberRevoked, memberWaiting} {
		caller.standing = standing
		pt.members(5, caller, attic)
		caller.call(attic, maxDatagram)
		attic.takeRing()
		pt.take()
	}
}

func TestIntroduceOtherVersion(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	m := callMsg{proto: protoRange{2, 3, ""}, call: callID{9}, target: attic.deviceID()}
	b := caller.datagram(msgCall, m.append(nil), 0)
	caller.say(b)
	if no := caller.takeRefuse(); no.reason != refuseUpdate || no.call != m.call {
		t.Errorf("refuse %+v", no)
	}
	if len(pt.take()) != 0 {
		t.Error("something else was sent")
	}
}

func TestIntroduceLimits(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	caller.online(false)
	for range callBurst {
		caller.call(attic, 0)
	}
	for _, m := range caller.got() {
		if m.head.kind != msgAnswer {
			t.Fatalf("a call within the burst got kind %d", m.head.kind)
		}
	}
	caller.call(attic, 0)
	if no := caller.takeRefuse(); no.reason != refuseLimit {
		t.Errorf("refuse %+v", no)
	}
	pt.now = pt.now.Add(callGap)
	caller.call(attic, 0)
	caller.takeAnswer()
}

func TestIntroduceBusy(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	for i := range maxCalls {
		pt.p.intro.calls[callKey{nil, callID{byte(i), byte(i >> 8), 1}}] = nil
	}
	caller.call(attic, maxDatagram)
	if no := caller.takeRefuse(); no.reason != refuseBusy {
		t.Errorf("refuse %+v", no)
	}
}

// A caller whose address is not proved gets no more bytes than it sent, however
// long its answer stays unacknowledged.
func TestIntroduceUnprovedCallerGetsNoMoreThanItSent(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	for size := 0; size <= maxDatagram; size += 40 {
		d := caller.again()
		d.addr = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.77"), uint16(1+size))
		in := 0
		pt.p.send = func(b []byte, to udpSource) {
			if to.addr == d.addr {
				in -= len(b)
			}
			pt.sent = append(pt.sent, outDatagram{b, to})
		}
		var id callID
		rand.Read(id[:])
		for range 3 {
			b := d.datagram(msgCall, d.callBody(id, attic.deviceID()), size)
			in += len(b)
			d.say(b)
			pt.advance(300 * time.Millisecond)
		}
		pt.advance(5 * time.Second)
		if in < 0 {
			t.Errorf("padded to %d: %d bytes more out than in", size, -in)
		}
		kinds := map[byte]int{}
		for _, m := range d.got() {
			kinds[m.head.kind]++
		}
		if size == maxDatagram && (kinds[msgAnswer] < 4 || kinds[msgRefuse] == 0) || size == 0 && kinds[msgHello] == 0 {
			t.Errorf("padded to %d: got %v by kind", size, kinds)
		}
		pt.take()
		attic.beat(true)
		attic.takeBeatAck()
	}
}

func TestIntroduceReplayedCallDrawsNothing(t *testing.T) {
	for _, known := range []bool{false, true} {
		pt, caller, attic := newIntroTest(t)
		if known {
			caller.online(false)
		}
		var id callID
		rand.Read(id[:])
		b := caller.datagram(msgCall, caller.callBody(id, attic.deviceID()), maxDatagram)
		caller.say(b)
		_, amsg := caller.takeAnswer()
		caller.ack(amsg)
		attic.ack(attic.one(msgRing))
		pt.p.datagram(pt.now, b, udpSource{addr: netip.MustParseAddrPort("203.0.113.66:6")})
		pt.p.datagram(pt.now, b, caller.source())
		pt.advance(2 * time.Second)
		if out := pt.take(); len(out) != 0 {
			t.Errorf("known %v: %d datagrams for a replayed call", known, len(out))
		}
	}
}

func TestIntroduceFromAnotherReceiverInstanceIsHello(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	caller.coord = instanceID{7}
	caller.call(attic, maxDatagram)
	caller.takeHello()
	if len(pt.take()) != 0 {
		t.Error("rung for a call to another coordinator process")
	}
	caller.call(attic, 0)
	caller.takeAnswer()
}

func TestNewsGoesToAllOnline(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	waiting := pt.device("192.0.2.2:1")
	waiting.standing = memberWaiting
	pt.members(5, caller, attic, waiting)
	waiting.online(false)
	second := attic.again()
	second.online(false)
	pt.members(6, caller, attic, waiting)
	for _, d := range []*presTestDevice{attic, second, waiting} {
		msg := d.one(msgNews)
		n, err := parseNews(msg.body)
		if err != nil || n.seq != 6 || n.head != ([32]byte{6}) {
			t.Fatalf("news %+v, %v", n, err)
		}
		if d != second {
			d.ack(msg)
		}
	}
	pt.advance(time.Second)
	if n := len(second.got()); n != 3 {
		t.Errorf("%d more news in 1 s without an ack, want 3", n)
	}
	if len(pt.take()) != 0 {
		t.Error("news again after an ack")
	}
	pt.members(7, caller, attic, waiting)
	pt.take()
	pt.advance(200 * time.Millisecond)
	for _, m := range second.got() {
		if n, _ := parseNews(m.body); n.seq != 7 {
			t.Errorf("old news of %d", n.seq)
		}
	}
	pt.advance(10 * time.Second)
	if len(pt.p.intro.due) != 0 || len(pt.p.intro.unacked) != 0 {
		t.Error("news is sent for ever")
	}
}

// Whatever is replayed, cut short, altered or sent from elsewhere: no source
// but the devices' own gets more bytes than it sent, and nobody moves.
func TestPresenceHostileDatagrams(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	pt.p.second = presTestSecond
	rng := mrand.New(mrand.NewPCG(1, 2))
	var captured [][]byte
	for i := range 30 {
		caller.online(false)
		b := attic.datagram(msgBeat, attic.beatMsg(true), 0)
		captured = append(captured, b)
		attic.say(b)
		pt.take()
		var id callID
		rand.Read(id[:])
		call := caller.datagram(msgCall, caller.callBody(id, attic.deviceID()), rng.IntN(maxDatagram))
		captured = append(captured, call, caller.datagram(msgAck, (&ackMsg{uint64(i)}).append(nil), 0),
			caller.datagram(msgEcho, (&echoMsg{uint64(i), i%2 == 0}).append(nil), 0),
			caller.datagram(msgRelay, (&relayMsg{attic.deviceID(), attic.instance, b}).append(nil), 0))
		caller.say(call)
		caller = caller.again()
	}
	pt.advance(2 * time.Second)
	for _, out := range pt.take() {
		captured = append(captured, out.b)
	}
	balance := map[netip.AddrPort]int{}
	pt.p.send = func(b []byte, to udpSource) { balance[to.addr] -= len(b) }
	for i := range 20000 {
		if i%500 == 0 {
			pt.advance(time.Duration(rng.IntN(3000)) * time.Millisecond)
		}
		b := slices.Clone(captured[rng.IntN(len(captured))])
		switch rng.IntN(4) {
		case 0:
			b = b[:rng.IntN(len(b)+1)]
		case 1:
			if len(b) > 0 {
				b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
			}
		}
		from := netip.MustParseAddrPort(fmt.Sprintf("203.0.113.%d:6", 100+rng.IntN(50)))
		balance[from] += len(b)
		pt.p.datagram(pt.now, b, udpSource{addr: from, sock: rng.IntN(2)})
		if pt.p.isProved(from) {
			t.Fatalf("%v counts as proved", from)
		}
		if st := attic.status(); st.online && st.addr != attic.addr {
			t.Fatalf("the device moved to %v", st.addr)
		}
	}
	pt.advance(10 * time.Second)
	for addr, n := range balance {
		if n < 0 && addr != attic.addr && addr != caller.addr {
			t.Errorf("%v got %d bytes more than it sent", addr, -n)
		}
	}
}
