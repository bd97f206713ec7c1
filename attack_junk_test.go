package main

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// This file makes junk, and counts exactly what each kind of it draws.

// floodJunk makes junk of every kind, of recorded datagrams too.
func floodJunk(t *testing.T, recorded [][]byte) func(i int) []byte {
	kinds := attackJunk(coordNetInitial(t), recorded)
	return func(i int) []byte { return kinds[i%len(kinds)].make() }
}

// A junkKind is one kind of junk; each call makes another datagram.
type junkKind struct {
	name string
	make func() []byte
}

// attackJunk is all that a stranger can think of.
func attackJunk(initial []byte, recorded [][]byte) []junkKind {
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := 0; i < n; i += 8 {
			var w [8]byte
			binary.LittleEndian.PutUint64(w[:], rand.Uint64())
			copy(b[i:], w[:])
		}
		return b
	}
	old := func() []byte { return recorded[rand.IntN(len(recorded))] }
	long := func(first byte, version uint32, n int) []byte {
		b := random(n)
		b[0] = first
		binary.BigEndian.PutUint32(b[1:], version)
		b[5], b[14] = 8, 8 // lengths of two connection ids
		return b
	}
	other := func() []byte { // another connection id: it does not open
		b := bytes.Clone(initial)
		copy(b[6:], random(8))
		return b
	}
	token := func() []byte { // a token where a client has none
		b := long(0xc3, 1, 1200)
		b[23] = 32
		return b
	}
	return []junkKind{
		{"random bytes", func() []byte { return random(1 + rand.IntN(1400)) }},
		{"one byte", func() []byte { return random(1) }},
		{"a sealed datagram of random bytes", func() []byte { b := random(1 + rand.IntN(1200)); b[0] = sealVersion; return b }},
		{"an old one", old},
		{"an old one, cut short", func() []byte { b := old(); return b[:1+rand.IntN(len(b)-1)] }},
		{"an old one with one bit changed", func() []byte { b := bytes.Clone(old()); b[rand.IntN(len(b))] ^= 1 << rand.IntN(8); return b }},
		{"an old one, longer", func() []byte { return append(bytes.Clone(old()), random(9)...) }},
		{"an Initial of a stranger", func() []byte { return initial }},
		{"an Initial that does not open", other},
		{"an Initial cut short", func() []byte { return initial[:1+rand.IntN(len(initial)-1)] }},
		{"an Initial with a token", token},
		{"0-RTT", func() []byte { return long(0xd0, 1, 1200) }},
		{"Handshake", func() []byte { return long(0xe0, 1, 1200) }},
		{"Retry", func() []byte { return long(0xf0, 1, 1200) }},
		{"version negotiation", func() []byte { return long(0xc0, 0, 1200) }},
		{"an unknown version", func() []byte { return long(0xc0, 0x1a2a3a4a, 1200) }},
		{"version 2", func() []byte { return long(0xc0, 0x6b3343cf, 1200) }},
		{"an unknown version, small", func() []byte { return long(0xc0, 0xff00001d, 40) }},
		{"a short header", func() []byte { b := random(1 + rand.IntN(1400)); b[0] = 0x40 | b[0]&0x3f; return b }},
	}
}

// Whatever a stranger sends to the coordinator, it draws no more bytes than it
// brings, each kind by itself: Retry and hello are all that comes.
func TestAttackJunkAtTheCoordinator(t *testing.T) {
	t.Parallel()
	nt := newCoordNetTest(t)
	device := presTestIdentity(t)
	owner := newCoordTestAcct(t, device.keys)
	nt.create(owner)
	send, _, err := sealKeys(device.path, sealDevice, nt.me.keys.path, sealCoord)
	if err != nil {
		t.Fatal(err)
	}
	box := sealBox{sendKey: send, hint: sealHintOf(owner.id(), device.keys.sign), mine: newInstanceID()}
	beat, _ := box.pack(msgBeat, &beatMsg{proto: ourProto()}, 0)
	call, _ := box.pack(msgCall, &callMsg{proto: ourProto(), target: device.keys.deviceID()}, maxDatagram)
	echo, _ := box.pack(msgEcho, &echoMsg{nonce: 1}, 0)
	other, _ := box.pack(msgEcho, &echoMsg{nonce: 2, other: true}, 0)
	relay, _ := box.pack(msgRelay, &relayMsg{target: device.keys.deviceID(), instance: box.mine, inner: beat}, 0)
	small, _ := box.pack(msgCall, &callMsg{proto: ourProto(), target: device.keys.deviceID()}, 0)
	sockets := map[string]*attackSocket{}
	for _, to := range []netip.AddrPort{netip.MustParseAddrPort(nt.addr), nt.echo} {
		for _, k := range attackJunk(coordNetInitial(t), [][]byte{beat, call, small, echo, other, relay}) {
			s := newAttackSocket(t, to)
			s.markAs(device, owner.id(), nt.me.keys, sealCoord)
			for i := range 200 {
				s.send(k.make())
				if i%50 == 49 {
					s.settle()
				}
			}
			sockets[k.name+" to "+to.String()] = s
		}
	}
	for range 3 { // QUIC answers from goroutines of its own: let it come round
		if _, err := nt.dial(device).whoami(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for what, s := range sockets {
		s.settle()
		if s.came > s.sent || s.came > 0 && s.to == nt.echo && !strings.HasPrefix(what, "an old one") {
			t.Errorf("%s: %d bytes draw %d", what, s.sent, s.came)
		}
	}
}

// Whatever a stranger sends to a device, it draws nothing.
func TestAttackJunkAtADevice(t *testing.T) {
	t.Parallel()
	r := newReplayWorld(t)
	var recorded [][]byte
	for _, k := range r.toCoord.take() { // what attic was told
		if !k.in && k.client == r.atticNode.addr() && isSealed(k.b) {
			recorded = append(recorded, k.b)
		}
	}
	for _, k := range r.toAttic.take() { // sealed, and QUIC's
		if k.in {
			recorded = append(recorded, k.b)
		}
	}
	if len(recorded) < 10 {
		t.Fatalf("%d datagrams were recorded", len(recorded))
	}
	was := r.stand()
	for _, alpn := range []string{alpnCoord, alpnLink} {
		for _, k := range attackJunk(quicInitial(t, alpn), recorded) {
			s := newAttackSocket(t, r.atticNode.addr())
			s.markAs(r.laptop.id, r.acct(), r.attic.id.keys, sealDevice)
			for i := range 100 {
				s.send(k.make())
				if i%25 == 24 {
					s.settle()
				}
			}
			if s.came > 0 {
				t.Errorf("%s: %d bytes draw %d", k.name, s.sent, s.came)
			}
		}
	}
	r.unchanged(was)
}
