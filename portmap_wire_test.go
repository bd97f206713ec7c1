package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	testPCPNonce = [12]byte{0xa0, 11: 0xab}
	testPortSelf = netip.MustParseAddr("192.168.1.2")
)

const testSelfHex = "00000000000000000000ffffc0a80102 "

func TestPortMapRequests(t *testing.T) {
	m := pcpMapping{testPCPNonce, pcpUDP, 7722, netip.AddrPort{}}
	again := pcpMapping{testPCPNonce, pcpUDP, 7722, netip.MustParseAddrPort("198.51.100.7:40000")}
	for _, c := range []struct {
		name  string
		got   []byte
		bytes string
	}{
		{"pcp announce", appendPCPAnnounce(nil, testPortSelf), "02000000 00000000 " + testSelfHex},
		{"pcp map", appendPCPMap(nil, testPortSelf, 7200, &m),
			"02010000 00001c20 " + testSelfHex + "a000000000000000000000ab 11000000 1e2a 0000 00000000000000000000ffff00000000"},
		{"pcp renew", appendPCPMap(nil, testPortSelf, 7200, &again),
			"02010000 00001c20 " + testSelfHex + "a000000000000000000000ab 11000000 1e2a 9c40 00000000000000000000ffffc6336407"},
		{"nat-pmp address", appendPMPAddress(nil), "0000"},
		{"nat-pmp map", appendPMPMap(nil, 7722, 40000, 7200), "00010000 1e2a 9c40 00001c20"},
	} {
		if !bytes.Equal(c.got, unhex(t, c.bytes)) {
			t.Errorf("%s: %x", c.name, c.got)
		}
	}
}

// appendReply is a router's side of the bytes.
func (r *pcpReply) appendReply(b []byte) []byte {
	b = append(b, pcpVersion, r.opcode|portReplyBit, 0, r.result)
	b = append(append32(append32(b, r.lifetime), r.epoch), make([]byte, 12)...)
	if r.hasMapping {
		b = r.mapping.append(b)
	}
	return b
}

func (r *pmpReply) appendReply(b []byte) []byte {
	b = append32(append(b, pmpVersion, r.opcode|portReplyBit, byte(r.result>>8), byte(r.result)), r.epoch)
	switch {
	case r.result != 0:
	case r.opcode == pmpAddress:
		b = append(b, r.address.AsSlice()...)
	default:
		b = append32(append(b, byte(r.port>>8), byte(r.port), byte(r.external>>8), byte(r.external)), r.lifetime)
	}
	return b
}

var pcpReplies = []struct {
	name  string
	value pcpReply
	bytes string
}{
	{"map", pcpReply{pcpMap, 0, 7200, 5, pcpMapping{testPCPNonce, pcpUDP, 7722, netip.MustParseAddrPort("198.51.100.7:40000")}, true},
		"02810000 00001c20 00000005 000000000000000000000000 a000000000000000000000ab 11000000 1e2a 9c40 00000000000000000000ffffc6336407"},
	{"announce", pcpReply{opcode: pcpAnnounce, epoch: 258}, "02800000 00000000 00000102 000000000000000000000000"},
	{"refusal without a mapping", pcpReply{opcode: pcpMap, result: 2, lifetime: 30, epoch: 1}, "02810002 0000001e 00000001 000000000000000000000000"},
}

var pmpReplies = []struct {
	name  string
	value pmpReply
	bytes string
}{
	{"address", pmpReply{opcode: pmpAddress, epoch: 9, address: netip.MustParseAddr("198.51.100.7")}, "00800000 00000009 c6336407"},
	{"map", pmpReply{opcode: pmpMapUDP, epoch: 9, port: 7722, external: 40000, lifetime: 7200}, "00810000 00000009 1e2a 9c40 00001c20"},
	{"refusal", pmpReply{opcode: pmpMapUDP, result: 2, epoch: 9}, "00810002 00000009"},
}

func TestPortMapReplies(t *testing.T) {
	for _, c := range pcpReplies {
		b := unhex(t, c.bytes)
		if got, err := parsePCPReply(b); err != nil || *got != c.value {
			t.Errorf("pcp %s: %+v, %v", c.name, got, err)
		}
		if got := c.value.appendReply(nil); !bytes.Equal(got, b) {
			t.Errorf("pcp %s: %x", c.name, got)
		}
		for n := range b {
			if r, err := parsePCPReply(b[:n]); err == nil && (r.result == 0 || n < 24) {
				t.Errorf("pcp %s: %d bytes of it were read as %+v", c.name, n, r)
			}
		}
	}
	for _, c := range pmpReplies {
		b := unhex(t, c.bytes)
		if got, err := parsePMPReply(b); err != nil || *got != c.value {
			t.Errorf("nat-pmp %s: %+v, %v", c.name, got, err)
		}
		if got := c.value.appendReply(nil); !bytes.Equal(got, b) {
			t.Errorf("nat-pmp %s: %x", c.name, got)
		}
		for n := range b {
			if r, err := parsePMPReply(b[:n]); err == nil {
				t.Errorf("nat-pmp %s: %d bytes of it were read as %+v", c.name, n, r)
			}
		}
	}
	if _, err := parsePCPReply(unhex(t, "00810001 00000009")); err != errOtherVersion {
		t.Errorf("a router of NAT-PMP alone, to PCP: %v", err)
	}
	if _, err := parsePCPReply(appendPCPAnnounce(nil, testPortSelf)); err == nil {
		t.Error("a request passes for an answer")
	}
}

func TestPortMapAnnouncements(t *testing.T) {
	for text, want := range map[string]bool{
		"02800000 00000000 00000102 000000000000000000000000": true,
		"00800000 00000102 c6336407":                          true,
		"00800003 00000102 00000000":                          false, // it has no network
		"00810000 00000102 1e2a 9c40 00001c20":                false,
		"02000000 00000000 00000102 000000000000000000000000": false,
		"00": false,
	} {
		if epoch, ok := parseAnnouncement(unhex(t, text)); ok != want || ok && epoch != 258 {
			t.Errorf("%s: %d, %v", text, epoch, ok)
		}
	}
}

func TestEpochWatch(t *testing.T) {
	start := time.Unix(1e9, 0)
	for _, c := range []struct {
		was, is uint32
		after   time.Duration
		lost    bool
	}{
		{100, 160, time.Minute, false},
		{100, 99, 0, false}, // one second of disorder
		{100, 98, 0, true},
		{100, 0, time.Second, true},
		{100, 157, time.Minute, false},
		{1000, 1000, time.Minute, true},                          // restarted, and older by chance
		{1000, 1000 + 3600 - 225, time.Hour, false},              // a clock slow by a sixteenth
		{1000, 1000 + 3600 - 240, time.Hour, true},               // and by more
		{1000, 1000 + 3600 + 235, time.Hour, false},              // a fast one
		{1000, 1000 + 3600 + 300, time.Hour, true},               // we slept
		{1<<32 - 1, 5, 6 * time.Second, true},                    // it has run over: 136 years
		{0, 1<<32 - 1, time.Second, true},                        // nonsense
		{1 << 31, 1<<31 + 7200, 2 * time.Hour, false},            // large ones
		{100, 100 + 1e6, 1e6 * time.Second, false},               // eleven days
		{100, 100, -time.Second, false}, {100, 110, -15e9, true}, // a clock that went back
	} {
		w := epochWatch{}
		if w.lost(c.was, start) {
			t.Error("the first one is a loss")
		}
		if got := w.lost(c.is, start.Add(c.after)); got != c.lost {
			t.Errorf("from %d to %d in %v: lost %v", c.was, c.is, c.after, got)
		}
		if w.lost(c.is, start.Add(c.after)) {
			t.Errorf("%d after itself is a loss: it was not taken in", c.is)
		}
	}
}

func TestPublicIPv4(t *testing.T) {
	for text, want := range map[string]bool{"11.22.33.1": true, "198.51.100.7": true, "100.63.255.255": true, "100.128.0.0": true, "100.64.0.1": false,
		"100.127.255.255": false, "10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.1.1": false, "127.0.0.1": false, "0.0.0.0": false, "0.1.2.3": false,
		"255.255.255.255": false, "224.0.0.1": false, "240.0.0.1": false, "192.0.0.8": false, "198.18.0.1": false, "2001:db8::1": false, "::": false} {
		if got := publicIPv4(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if publicIPv4(netip.Addr{}) {
		t.Error("no address is public")
	}
}

func TestPortMapResults(t *testing.T) {
	if err := resultError(pcpResults, 0); err != nil {
		t.Error(err)
	}
	if err := resultError(pcpResults, 12); err == nil || !strings.Contains(err.Error(), "another NAT") {
		t.Error(err)
	}
	if err := resultError(pmpResults, 65535); err == nil || !strings.Contains(err.Error(), "65535") {
		t.Error(err)
	}
}

func FuzzParsePCPReply(f *testing.F) {
	for _, c := range pcpReplies {
		f.Add(c.value.appendReply(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parsePCPReply(b)
		if err != nil {
			return
		}
		if again, err := parsePCPReply(r.appendReply(nil)); err != nil || *again != *r {
			t.Fatalf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

func FuzzParsePMPReply(f *testing.F) {
	for _, c := range pmpReplies {
		f.Add(c.value.appendReply(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parsePMPReply(b)
		if err != nil {
			return
		}
		if again, err := parsePMPReply(r.appendReply(nil)); err != nil || *again != *r {
			t.Fatalf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

func FuzzParseAnnouncement(f *testing.F) {
	f.Add([]byte{0, 0x80, 0, 0, 0, 0, 1, 2, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		epoch, ok := parseAnnouncement(b)
		if !ok {
			return
		}
		again, ok := parseAnnouncement((&pcpReply{opcode: pcpAnnounce, epoch: epoch}).appendReply(nil))
		if !ok || again != epoch {
			t.Fatalf("%d came back as %d, %v", epoch, again, ok)
		}
	})
}
