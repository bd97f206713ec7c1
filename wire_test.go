package main

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// wireParsers are the parsers by type, with a value of each whose bytes are
// given: that is how every message must look for ever.
var wireMessages = []struct {
	kind  byte
	name  string
	parse func([]byte) (payload, error)
	value payload
	bytes string
}{
	{msgBeat, "beat", func(b []byte) (payload, error) { return parseBeat(b) },
		&beatMsg{proto: protoRange{1, 2, "v1"}, serves: true, cookie: cookie{15: 9}, cands: addrList("192.0.2.1:22"),
			running: []runningSession{{sessionID{1, 2, 3, 4}, 3, [8]byte{7: 5}}, {sessionID{3: 6}, 1, [8]byte{7}}}},
		"01 02 02 7631 01 00000000000000000000000000000009 01 00000000000000000000ffffc0000201 0016" +
			"02 01020304 03 0000000000000005 00000006 01 0700000000000000"},
	{msgBeat, "beat of one that leaves", func(b []byte) (payload, error) { return parseBeat(b) },
		&beatMsg{proto: protoRange{1, 1, ""}, leaves: true, cands: addrList()},
		"01 01 00 02 00000000000000000000000000000000 00 00"},
	{msgBeatAck, "beatAck", func(b []byte) (payload, error) { return parseBeatAck(b) },
		&beatAckMsg{proto: protoRange{1, 1, "x"}, observed: addrList("[2001:db8::1]:7722")[0], cookie: cookie{1}, time: 0x65000000, seq: 7, head: [32]byte{0xaa}, second: addrList("[::]:7723")[0]},
		"01 01 01 78 20010db8000000000000000000000001 1e2a 01000000000000000000000000000000 0000000065000000 0000000000000007 aa" + strings.Repeat("00", 31) + strings.Repeat("00", 16) + "1e2b"},
	{msgHello, "hello", func(b []byte) (payload, error) { return parseHello(b) },
		&helloMsg{cookie{2}}, "02000000000000000000000000000000"},
	{msgCall, "call", func(b []byte) (payload, error) { return parseCall(b) },
		&callMsg{proto: protoRange{1, 1, ""}, cookie: cookie{3}, call: callID{4}, time: 1800000000, target: "dabcdefghijklmnopqrstuvwxy", cands: addrList("10.0.0.1:1")},
		"01 01 00 03000000000000000000000000000000 0400000000000000 000000006b49d200 64" + hex.EncodeToString([]byte("abcdefghijklmnopqrstuvwxy")) + " 01 00000000000000000000ffff0a000001 0001"},
	{msgAnswer, "answer", func(b []byte) (payload, error) { return parseAnswer(b) },
		&answerMsg{call: callID{1}, token: sessionToken{2}, ttl: 86400, instance: instanceID{3}, target: addrList("1.2.3.4:5")[0], caller: addrList("6.7.8.9:10")[0], cands: addrList()},
		"0100000000000000 02000000000000000000000000000000 00015180 0300000000000000 00000000000000000000ffff01020304 0005 00000000000000000000ffff06070809 000a " + strings.Repeat("00", 18) + "00"},
	{msgRing, "ring", func(b []byte) (payload, error) { return parseRing(b) },
		&ringMsg{call: callID{1}, token: sessionToken{2}, ttl: 1, keys: publicKeys{bytes.Repeat([]byte{7}, 32), [32]byte{8}}, instance: instanceID{3}, caller: addrList("1.2.3.4:5")[0], cands: addrList()},
		"0100000000000000 02000000000000000000000000000000 00000001 " + strings.Repeat("07", 32) + " 08" + strings.Repeat("00", 31) + " 0300000000000000 00000000000000000000ffff01020304 0005 00"},
	{msgRefuse, "refuse", func(b []byte) (payload, error) { return parseRefuse(b) },
		&refuseMsg{call: callID{1}, reason: refuseOffline, seconds: 3600, proto: protoRange{1, 1, "v"}},
		"0100000000000000 02 0000000000000e10 01 01 01 76"},
	{msgAck, "ack", func(b []byte) (payload, error) { return parseAck(b) }, &ackMsg{258}, "0000000000000102"},
	{msgNews, "news", func(b []byte) (payload, error) { return parseNews(b) },
		&newsMsg{3, [32]byte{31: 1}}, "0000000000000003 " + strings.Repeat("00", 31) + "01"},
	{msgPing, "ping", func(b []byte) (payload, error) { return parsePing(b) }, &pingMsg{1, true}, "000000000000000101"},
	{msgPong, "pong", func(b []byte) (payload, error) { return parsePong(b) },
		&pongMsg{1, netip.AddrPort{}}, "0000000000000001 " + strings.Repeat("00", 18)},
	{msgEcho, "echo", func(b []byte) (payload, error) { return parseEcho(b) },
		&echoMsg{nonce: 2, other: true}, "0000000000000002 01" + strings.Repeat("00", 17)},
	{msgEchoAck, "echoAck", func(b []byte) (payload, error) { return parseEchoAck(b) },
		&echoAckMsg{2, addrList("1.2.3.4:5")[0]}, "0000000000000002 00000000000000000000ffff01020304 0005"},
	{msgRelay, "relay", func(b []byte) (payload, error) { return parseRelay(b) },
		&relayMsg{"dabcdefghijklmnopqrstuvwxy", instanceID{1}, []byte{9, 8}},
		"64" + hex.EncodeToString([]byte("abcdefghijklmnopqrstuvwxy")) + " 0100000000000000 0002 0908"},
	{msgRelayed, "relayed", func(b []byte) (payload, error) { return parseRelayed(b) },
		&relayedMsg{addrList("1.2.3.4:5")[0], []byte{9}}, "00000000000000000000ffff01020304 0005 0001 09"},
	{msgNote, "note", func(b []byte) (payload, error) { return parseNote(b) },
		&noteMsg{nonce: 1, have: 2, moved: true, nat: natKind{natStep, -1, 3, 4, 5}, mapped: addrList("1.2.3.4:5")[0], addrs: addrList("10.0.0.1:1")},
		"0000000000000001 0000000000000002 01 02 ff 0003 0004 0005 00000000000000000000ffff01020304 0005 01 00000000000000000000ffff0a000001 0001"},
	{msgEnd, "end of two sessions", func(b []byte) (payload, error) { return parseEnd(b) },
		&endMsg{order: [8]byte{7: 1}, ids: []sessionID{{1}, {3: 2}}}, "0000000000000001 00 00 02 01000000 00000002"},
	{msgEnd, "end of a client's connections", func(b []byte) (payload, error) { return parseEnd(b) },
		&endMsg{keep: true, client: "dabcdefghijklmnopqrstuvwxy"}, "0000000000000000 02 1a 64" + hex.EncodeToString([]byte("abcdefghijklmnopqrstuvwxy")) + "00"},
	{msgEnd, "end of all", func(b []byte) (payload, error) { return parseEnd(b) },
		&endMsg{all: true}, "0000000000000000 01 00 00"},
}

// wireOptional is how many bytes at the end of a message may be absent: an
// earlier program's beat says nothing of sessions.
func wireOptional(m payload) int {
	if b, ok := m.(*beatMsg); ok {
		return 1 + 13*len(b.running)
	}
	return 0
}

func addrList(list ...string) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(list))
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestWireBytes(t *testing.T) {
	for _, m := range wireMessages {
		want := unhex(t, m.bytes)
		if got := m.value.append(nil); !bytes.Equal(got, want) {
			t.Errorf("%s is\n%x, not\n%x", m.name, got, want)
		}
		got, err := m.parse(append(bytes.Clone(want), 1, 2, 3)) // later fields
		if err != nil || !reflect.DeepEqual(got, m.value) {
			t.Errorf("%s parses as %+v, %v, not %+v", m.name, got, err, m.value)
		}
		for n := range want {
			if _, err := m.parse(want[:n]); err == nil && n != len(want)-wireOptional(m.value) {
				t.Errorf("%s cut to %d of %d bytes was accepted", m.name, n, len(want))
			}
		}
	}
}

func TestWireRefusesTooMany(t *testing.T) {
	b := (&beatMsg{proto: protoRange{1, 1, ""}}).append(nil)
	b[len(b)-2] = maxCandidates + 1
	b = append(b, make([]byte, 18*(maxCandidates+1))...)
	if _, err := parseBeat(b); err == nil {
		t.Error("nine candidates were accepted")
	}
	b = (&beatMsg{proto: protoRange{1, 1, ""}}).append(nil)
	b[len(b)-1] = maxRunning + 1
	b = append(b, make([]byte, 13*(maxRunning+1))...)
	if _, err := parseBeat(b); err == nil {
		t.Error("21 sessions were accepted")
	}
	for name, hex := range map[string]string{
		"201 sessions":  "0000000000000000 00 00 c9" + strings.Repeat("00000000", 201),
		"no device id":  "0000000000000000 00 01 64 00",
		"a longer name": "0000000000000000 00 1b" + strings.Repeat("61", 27) + "00",
	} {
		if m, err := parseEnd(unhex(t, hex)); err == nil {
			t.Errorf("an end of %s parses as %+v", name, m)
		}
	}
}

// A program that ends a beat where beats ended once is heard, and the largest
// beat and end are datagrams that every path carries.
func TestWireBeatOldAndLarge(t *testing.T) {
	m := beatMsg{proto: protoRange{1, 1, strings.Repeat("v", maxBuild)}, cands: make([]netip.AddrPort, maxCandidates), running: make([]runningSession, maxRunning)}
	for i := range m.cands {
		m.cands[i] = netip.MustParseAddrPort("[2001:db8::1]:7722")
	}
	b := m.append(nil)
	old, err := parseBeat(b[:len(b)-1-13*maxRunning])
	if err != nil || len(old.cands) != maxCandidates || old.running != nil {
		t.Errorf("an old beat: %+v, %v", old, err)
	}
	if n := datagramLen(b); n >= 600 {
		t.Errorf("the largest beat has %d bytes", n)
	}
	end := endMsg{client: "dabcdefghijklmnopqrstuvwxy", ids: make([]sessionID, maxEndIDs)}
	if n := datagramLen(end.append(nil)); n > maxDatagram {
		t.Errorf("the largest end has %d bytes", n)
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, m := range wireMessages {
		f.Add(m.kind, m.value.append(nil))
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		for _, m := range wireMessages {
			if m.kind != kind {
				continue
			}
			v, err := m.parse(b)
			if err != nil {
				continue
			}
			again, err := m.parse(v.append(nil))
			if err != nil || !reflect.DeepEqual(again, v) {
				t.Fatalf("%s: %+v came back as %+v, %v", m.name, v, again, err)
			}
		}
	})
}

func FuzzParseHead(f *testing.F) {
	f.Add(msgHead{msgPing, instanceID{1}, instanceID{2}, 3}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := parseHead(b)
		if err == nil && !bytes.Equal(append(h.append(nil), rest...), b) {
			t.Fatalf("%x came back as %+v and %x", b, h, rest)
		}
	})
}

func FuzzReadStreamHead(f *testing.F) {
	f.Add(streamHead{streamSSH, 1, []byte("token")}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readStreamHead(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(b, h.append(nil)) {
			t.Fatalf("%x read as %+v", b, h)
		}
	})
}

// wireKeys are two ends' keys, made from constant seeds.
func wireIdentity(t testing.TB, seed byte) *identity {
	t.Helper()
	id, err := newIdentity(ed25519FromSeed(seed))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSealOpensOnlyForThePeer(t *testing.T) {
	a, b := wireIdentity(t, 1), wireIdentity(t, 2)
	send, back, err := sealKeys(a.path, sealDevice, b.keys.path, sealCoord)
	if err != nil {
		t.Fatal(err)
	}
	_, recv, err := sealKeys(b.path, sealCoord, a.keys.path, sealDevice)
	if err != nil {
		t.Fatal(err)
	}
	body := msgHead{msgPing, instanceID{1}, instanceID{2}, 1}.append(nil)
	d := send.seal(sealHint{9}, body)
	got, err := recv.open(d)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("opened as %x, %v", got, err)
	}
	for i := range d {
		for bit := range 8 {
			c := bytes.Clone(d)
			c[i] ^= 1 << bit
			if _, err := recv.open(c); err == nil {
				t.Fatalf("opens with bit %d of byte %d flipped", bit, i)
			}
		}
	}
	for n := range d {
		if _, err := recv.open(d[:n]); err == nil {
			t.Fatalf("opens when cut to %d bytes", n)
		}
	}
	if _, err := back.open(d); err == nil {
		t.Fatal("opens with the key of the other direction: it could be reflected")
	}
	asDevice, _, _ := sealKeys(a.path, sealDevice, b.keys.path, sealDevice)
	if _, err := recv.open(asDevice.seal(sealHint{9}, body)); err == nil {
		t.Fatal("a datagram for a device opens at a coordinator of the same key")
	}
}

func TestSealRefusesLowOrderKeys(t *testing.T) {
	if _, _, err := sealKeys(wireIdentity(t, 1).path, sealDevice, [32]byte{}, sealDevice); err == nil {
		t.Error("the zero path key was accepted")
	}
}

func TestReplayWindow(t *testing.T) {
	var w replayWindow
	for _, c := range []struct {
		n     uint64
		fresh bool
	}{{0, false}, {1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {100, true}, {37, true}, {37, false},
		{36, false}, {200, true}, {100, false}, {137, true}, {1 << 63, true}, {200, false}} {
		if got := w.fresh(c.n); got != c.fresh {
			t.Fatalf("counter %d fresh: %v, not %v", c.n, got, c.fresh)
		}
	}
}

func TestBoxAccepts(t *testing.T) {
	x := sealBox{mine: instanceID{1}, theirs: instanceID{2}}
	for _, c := range []struct {
		name string
		h    msgHead
		want error
	}{
		{"fresh", msgHead{0, instanceID{2}, instanceID{1}, 5}, nil},
		{"played again", msgHead{0, instanceID{2}, instanceID{1}, 5}, errReplayed},
		{"for our last process", msgHead{0, instanceID{2}, instanceID{9}, 6}, errInstance},
		{"from their last process", msgHead{0, instanceID{9}, instanceID{1}, 6}, errInstance},
	} {
		if err := x.accept(c.h); err != c.want {
			t.Errorf("%s: %v, not %v", c.name, err, c.want)
		}
	}
}
