package main

import (
	"net/netip"
	"testing"
	"time"
)

// These tests play datagrams again long after, when nobody remembers that they
// have been said.

// A call that a verb made, whose process keeps no presence, is forgotten after
// a minute. Said again from elsewhere it draws one hello and rings nobody.
func TestAttackReplaysAnOldCall(t *testing.T) {
	for _, later := range []time.Duration{callFresh + 2*time.Second, callLife, callLife + time.Second, time.Hour} {
		pt, caller, attic := newIntroTest(t)
		b := caller.datagram(msgCall, caller.callBody(callID{1}, attic.deviceID()), maxDatagram)
		caller.say(b)
		_, amsg := caller.takeAnswer()
		_, rmsg := attic.takeRing()
		caller.ack(amsg)
		attic.ack(rmsg)
		for end := pt.now.Add(later); pt.now.Before(end); {
			pt.advance(min(20*time.Second, end.Sub(pt.now)))
			attic.beat(true)
			attic.takeBeatAck()
		}
		pt.take()
		thief := udpSource{addr: netip.MustParseAddrPort("192.0.2.66:6666")}
		for range 3 {
			pt.p.datagram(pt.now, b, thief)
			out := pt.take()
			if len(out) > 1 || len(out) == 1 && (len(out[0].b) != helloLen || out[0].to.addr != thief.addr) {
				t.Errorf("%v later: %d datagrams, the first of %d bytes to %v", later, len(out), len(out[0].b), out[0].to.addr)
			}
		}
		if st := attic.status(); st.addr != attic.addr {
			t.Errorf("%v later: attic has moved to %v", later, st.addr)
		}
	}
}

// A caller whose clock is wrong is asked for a cookie, and then introduced.
func TestAttackNoneByACallerWithAWrongClock(t *testing.T) {
	pt, caller, attic := newIntroTest(t)
	m := callMsg{proto: protoRange{1, 1, "dev"}, call: callID{1}, target: attic.deviceID()}
	caller.say(caller.datagram(msgCall, m.append(nil), maxDatagram))
	caller.takeHello()
	m.cookie = caller.cookie
	caller.say(caller.datagram(msgCall, m.append(nil), maxDatagram))
	caller.takeAnswer()
	attic.takeRing()
	pt.take()
}

// What a former instance of the coordinator has said stays said when somebody
// plays its hello again, and nothing moves.
func TestAttackReplaysTheHelloOfAFormerCoordinator(t *testing.T) {
	device, coord := wireIdentity(t, 1), wireIdentity(t, 3)
	send, recv, err := sealKeys(device.path, sealDevice, coord.keys.path, sealCoord)
	if err != nil {
		t.Fatal(err)
	}
	home := udpSource{addr: netip.MustParseAddrPort("198.51.100.1:7722")}
	elsewhere := udpSource{addr: netip.MustParseAddrPort("192.0.2.66:6666")}
	var sent []udpSource
	rings := 0
	c := &coordTalk{
		box:   &sealBox{sendKey: send, recvKey: recv, mine: instanceID{1}},
		addrs: []netip.AddrPort{home.addr}, serves: true, beating: true,
		send:  func(_ []byte, to udpSource) { sent = append(sent, to) },
		cands: func() []netip.AddrPort { return nil },
		calls: map[callID]*coordCall{}, rings: map[callID]time.Time{}, left: map[instanceID]replayWindow{},
		onHead: func(uint64, [32]byte) {}, onRing: func(time.Time, *ringMsg) { rings++ },
	}
	now := time.Now()
	say := func(kind byte, from instanceID, counter uint64, msg payload, at udpSource) {
		c.handle(now, msgHead{kind, from, c.box.mine, counter}, msg.append(nil), at)
	}
	ring := &ringMsg{keys: device.keys}
	former, new := instanceID{7}, instanceID{8}
	say(msgHello, former, 1, &helloMsg{}, home)
	say(msgRing, former, 2, ring, home)
	say(msgHello, new, 1, &helloMsg{cookie{8}}, home)
	now = now.Add(2 * time.Minute)
	c.tick(now)
	sent = nil
	say(msgHello, former, 1, &helloMsg{}, elsewhere)
	say(msgRing, former, 2, ring, elsewhere)
	if rings != 1 || c.cookie != (cookie{8}) || c.box.theirs != new || c.at.addr != home.addr || len(sent) > 0 {
		t.Errorf("%d rings, cookie %v, instance %v, at %v, %d sent", rings, c.cookie, c.box.theirs, c.at.addr, len(sent))
	}
	say(msgHello, former, 3, &helloMsg{}, home) // it really is back
	if c.box.theirs != former {
		t.Error("a former instance cannot come back")
	}
	say(msgRing, former, 2, ring, home)
	if rings != 1 {
		t.Error("and what it said before counts again")
	}
}
