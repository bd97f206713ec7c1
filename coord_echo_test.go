package main

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
)

var presTestSecond = netip.MustParseAddrPort("[::]:7723")

// echo asks one of the two ports and returns the datagram.
func (d *presTestDevice) echo(sock int, nonce uint64, other bool) []byte {
	b := d.datagram(msgEcho, (&echoMsg{nonce, other}).append(nil), 0)
	d.pt.p.datagram(d.pt.now, b, udpSource{sock: sock, addr: d.addr, local: netip.MustParseAddr("192.0.2.1")})
	return b
}

// takeEcho returns the answer and where it left from.
func (d *presTestDevice) takeEcho() (*echoAckMsg, presTestMsg) {
	d.pt.t.Helper()
	msg := d.one(msgEchoAck)
	ack, err := parseEchoAck(msg.body)
	if err != nil {
		d.pt.t.Fatal(err)
	}
	return ack, msg
}

// Both ports answer members that are not online, from where they were asked or
// from the other, no more than was asked, and keep nothing.
func TestEcho(t *testing.T) {
	for _, second := range []string{"[::]:7723", "192.0.2.2:7722"} {
		pt := newPresTest(t)
		pt.p.second = netip.MustParseAddrPort(second)
		d, waiting, gone := pt.device("198.51.100.7:1000"), pt.device("198.51.100.8:1000"), pt.device("198.51.100.9:1000")
		waiting.standing, gone.standing = memberWaiting, memberRevoked
		pt.members(5, d, waiting, gone)
		for i, tt := range []struct {
			from   *presTestDevice
			sock   int
			other  bool
			leaves int
		}{{d, 0, false, 0}, {d, 1, false, 1}, {d, 0, true, 1}, {d, 1, true, 0}, {waiting, 1, false, 1}} {
			b := tt.from.echo(tt.sock, uint64(i), tt.other)
			ack, msg := tt.from.takeEcho()
			local := netip.MustParseAddr("192.0.2.1")
			if tt.other && second != "[::]:7723" {
				local = netip.Addr{}
			}
			want := udpSource{tt.leaves, tt.from.addr, local}
			if *ack != (echoAckMsg{uint64(i), tt.from.addr}) || msg.to != want || msg.size > len(b) {
				t.Errorf("%d: %+v to %+v, %d bytes for %d", i, ack, msg.to, msg.size, len(b))
			}
			if tt.from.status().online || len(pt.p.proved) != 0 {
				t.Error("an echo is kept")
			}
		}
		gone.echo(0, 1, false)
		stranger := pt.device("203.0.113.1:1")
		stranger.echo(1, 1, false)
		if out := pt.take(); len(out) != 0 {
			t.Errorf("%d answers to a revoked device and a stranger", len(out))
		}
		d.coord = instanceID{9}
		b := d.echo(1, 7, false)
		if hello := d.one(msgHello); hello.to.sock != 1 || hello.size > len(b) || hello.head.sender != pt.p.instance {
			t.Errorf("another coordinator's echo draws %+v", hello)
		}
		d.coord = pt.p.instance
		d.echo(1, 8, false)
		d.takeEcho()
	}
}

func TestEchoWithoutASecondPort(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	d.echo(0, 1, true)
	if len(pt.take()) != 0 {
		t.Error("answered from a port that is none")
	}
}

// The second port does nothing but answer echoes.
func TestSecondPortTakesEchoesOnly(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	caller.online(false)
	pt.p.second = presTestSecond
	ask := func(kind byte, m interface{ append([]byte) []byte }) {
		b := caller.datagram(kind, m.append(nil), maxDatagram)
		pt.p.datagram(pt.now, b, udpSource{sock: 1, addr: caller.addr})
	}
	for _, receiver := range []instanceID{pt.p.instance, {}, {7}} {
		caller.coord = receiver
		ask(msgBeat, &beatMsg{proto: ourProto(), cookie: caller.cookie})
		ask(msgCall, &callMsg{proto: ourProto(), target: attic.deviceID(), time: pt.now.Unix()})
		ask(msgAck, &ackMsg{1})
		ask(msgRelay, &relayMsg{attic.deviceID(), attic.instance, presTestNote(attic, 100)})
	}
	pt.advance(time.Second)
	if out := pt.take(); len(out) != 0 {
		t.Errorf("%d datagrams", len(out))
	}
}

func TestSecondPortIsTold(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	pt.p.second = presTestSecond
	caller.beat(false)
	caller.takeHello()
	caller.beat(false)
	if ack := caller.takeBeatAck(); ack.second != presTestSecond {
		t.Errorf("a beat is told %v", ack.second)
	}
	caller.call(attic, 0)
	if a, _ := caller.takeAnswer(); a.second != presTestSecond {
		t.Errorf("a call is told %v", a.second)
	}
}

// presTestNote is a sealed datagram for d, of n bytes.
func presTestNote(d *presTestDevice, n int) []byte {
	return d.send.seal(sealHint{1}, make([]byte, n-sealOverhead))
}

// relay sends a note for a process and returns the datagram.
func (d *presTestDevice) relay(to *presTestDevice, inner []byte) []byte {
	b := d.datagram(msgRelay, (&relayMsg{to.deviceID(), to.instance, inner}).append(nil), 0)
	d.say(b)
	return b
}

func TestRelay(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	caller.online(false)
	other := attic.again()
	other.addr = netip.MustParseAddrPort("203.0.113.5:9000")
	other.online(false)
	for _, target := range []*presTestDevice{attic, other} {
		for _, n := range []int{sealOverhead + msgHeadLen, maxRelayed} {
			note := presTestNote(attic, n)
			b := caller.relay(target, note)
			msg := target.one(msgRelayed)
			m, err := parseRelayed(msg.body)
			if err != nil || m.observed != caller.addr || !bytes.Equal(m.inner, note) || msg.to.addr != target.addr || msg.size > len(b) {
				t.Fatalf("%+v to %v, %d bytes of %d, %v", m, msg.to, msg.size, len(b), err)
			}
			pt.p.datagram(pt.now, b, udpSource{addr: netip.MustParseAddrPort("203.0.113.66:6")})
			caller.say(b)
			pt.advance(10 * time.Second)
			if out := pt.take(); len(out) != 0 {
				t.Fatalf("%d datagrams for a replayed relay, and without an ack", len(out))
			}
			for _, d := range []*presTestDevice{caller, attic, other} {
				d.beat(d == attic)
				d.takeBeatAck()
			}
		}
	}
	caller.addr = netip.MustParseAddrPort("198.51.100.7:2000") // it has moved, and says so at once
	caller.relay(attic, presTestNote(attic, 200))
	if m, err := parseRelayed(attic.one(msgRelayed).body); err != nil || m.observed != caller.addr {
		t.Errorf("%+v, %v", m, err)
	}
	if caller.status().addr == caller.addr {
		t.Error("a relay has moved its sender")
	}
}

// What is not for a process online, of an active member of the same account,
// from another one that is online, goes nowhere.
func TestRelayRefused(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	caller.online(false)
	waiting, gone, left, off := pt.device("192.0.2.2:1"), pt.device("192.0.2.3:1"), pt.device("192.0.2.4:1"), pt.device("192.0.2.5:1")
	waiting.standing, gone.standing = memberWaiting, memberRevoked
	pt.members(5, caller, attic, waiting, gone, left, off)
	for _, d := range []*presTestDevice{waiting, gone, left} {
		d.online(true)
	}
	left.leave()
	// One more account, with a device of its own: its id is known to the caller.
	foreign := pt.device("192.0.2.6:1")
	pt.p.update(pt.now, acctID{9}, 1, [32]byte{}, []memberInfo{{foreign.id.keys, memberActive}})
	m := pt.p.accounts[acctID{9}].members[0]
	pt.p.countBeatLocked(presInput{m: m, head: msgHead{sender: foreign.instance}, from: foreign.source()}, &beatMsg{}, replayWindow{})
	note := presTestNote(attic, 100)
	for _, tt := range []struct {
		what     string
		from, to *presTestDevice
		inner    []byte
	}{
		{"to one that waits", caller, waiting, note}, {"to a revoked one", caller, gone, note},
		{"to one that has left", caller, left, note}, {"to one that never came", caller, off, note},
		{"to another account", caller, foreign, note}, {"to another process", caller, attic.again(), note},
		{"by one that waits", waiting, attic, note}, {"by a revoked one", gone, attic, note},
		{"not sealed", caller, attic, bytes.Repeat([]byte("GET "), 50)}, {"nothing", caller, attic, nil},
		{"too long", caller, attic, presTestNote(attic, maxRelayed+1)},
	} {
		tt.from.relay(tt.to, tt.inner)
		if out := pt.take(); len(out) != 0 {
			t.Errorf("%s: %d datagrams", tt.what, len(out))
		}
	}
	for _, d := range []*presTestDevice{off, left} { // it is told to beat, with what it needs for that
		d.coord = pt.p.instance
		b := d.relay(attic, note)
		if hello := d.one(msgHello); hello.size > len(b) || len(pt.take()) != 0 {
			t.Errorf("a relay by one that is not online draws %+v", hello)
		}
	}
}

func TestRelayLimit(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	caller.online(false)
	const seconds = 5
	in, out := 0, 0
	for range seconds * 100 {
		for range 10 {
			in += len(caller.relay(attic, presTestNote(attic, maxRelayed)))
		}
		pt.now = pt.now.Add(10 * time.Millisecond)
	}
	msgs := attic.got()
	for _, m := range msgs {
		out += m.size
	}
	if want := relayBurst + seconds*20; len(msgs) < want || len(msgs) > want+1 {
		t.Errorf("%d notes were handed on, want %d", len(msgs), want)
	}
	if out > in {
		t.Errorf("%d bytes out, %d in", out, in)
	}
	caller.call(attic, 0) // notes do not stand in the way of calls
	caller.takeAnswer()
}
