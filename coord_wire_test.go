package main

import (
	"bytes"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A coordTestMsg is a body that can be written; coordTestParse reads one.
type (
	coordTestMsg   interface{ append([]byte) []byte }
	coordTestParse func([]byte) (coordTestMsg, error)
)

func coordTestParser[M coordTestMsg](parse func([]byte) (M, error)) coordTestParse {
	return func(b []byte) (coordTestMsg, error) { return parse(b) }
}

var coordTestParsers = []coordTestParse{
	coordTestParser(parseFailure), coordTestParser(parseCreate), coordTestParser(parseHeadMsg), coordTestParser(parseFetch),
	coordTestParser(parseFetched), coordTestParser(parseAppend), coordTestParser(parseTicketMsg), coordTestParser(parseJoin),
	coordTestParser(parseJoined), coordTestParser(parseAcctMsg), coordTestParser(parsePending), coordTestParser(parseDevices),
	coordTestParser(parseWhoami), coordTestParser(parseEnrol), coordTestParser(parseEnrolled),
}

// coordTest32 is 32 bytes of one value, and coordTestHex32 its hex.
func coordTest32(v byte) (b [32]byte) { copy(b[:], bytes.Repeat([]byte{v}, 32)); return b }

var (
	coordTestA     = strings.Repeat("aa", 32)
	coordTestB     = strings.Repeat("bb", 32)
	coordTestC     = strings.Repeat("cc", 32)
	coordTestD     = strings.Repeat("dd", 32)
	coordTestAddr  = netip.MustParseAddrPort("192.0.2.1:22")
	coordTestAddrX = "00000000000000000000ffffc0000201 0016"
)

var coordWireTests = []struct {
	name  string
	msg   coordTestMsg
	parse coordTestParse
	hex   string
}{
	{"error", &failureMsg{"gap", "no"}, coordTestParsers[0], "03 676170 0002 6e6f"},
	{"create", &createMsg{claimSecret{0xc1}, [][]byte{{1, 2}, {3}}}, coordTestParsers[1],
		"c1" + strings.Repeat("00", 15) + "02 00000002 0102 00000001 03"},
	{"head", &headMsg{258, coordTest32(0xaa)}, coordTestParsers[2], "0000000000000102" + coordTestA},
	{"fetch", &fetchMsg{coordTest32(0xaa), 7, []byte{9, 9}}, coordTestParsers[3], coordTestA + "0000000000000007 00000002 0909"},
	{"fetch without proof", &fetchMsg{acct: coordTest32(0xaa), from: 7}, coordTestParsers[3], coordTestA + "0000000000000007 00000000"},
	{"records", &fetchedMsg{headMsg{1, coordTest32(0xbb)}, [][]byte{{5}}}, coordTestParsers[4],
		"0000000000000001" + coordTestB + "01 00000001 05"},
	{"no records", &fetchedMsg{head: headMsg{1, coordTest32(0xbb)}}, coordTestParsers[4], "0000000000000001" + coordTestB + "00"},
	{"append", &appendMsg{coordTest32(0xaa), []byte{6}}, coordTestParsers[5], coordTestA + "00000001 06"},
	{"ticket", &ticketMsg{acct: coordTest32(0xaa), ticket: coordTest32(0xbb), seconds: 900}, coordTestParsers[6], coordTestA + coordTestB + "00000384 00"},
	{"ticket for a category", &ticketMsg{coordTest32(0xaa), coordTest32(0xbb), 900, []string{"lab", "pi"}}, coordTestParsers[6],
		coordTestA + coordTestB + "00000384 02 03 6c6162 02 7069"},
	{"join", &joinMsg{coordTest32(0xaa), coordTest32(0xbb), "attic", "root", coordTest32(0xcc)}, coordTestParsers[7],
		coordTestA + coordTestB + "05 6174746963 04 726f6f74" + coordTestC},
	{"joined", &joinedMsg{true, headMsg{2, coordTest32(0xbb)}}, coordTestParsers[8], "01 0000000000000002" + coordTestB},
	{"acct", &acctMsg{coordTest32(0xaa)}, coordTestParsers[9], coordTestA},
	{"nothing pending", &pendingMsg{}, coordTestParsers[10], "00"},
	{"pending", &pendingMsg{[]pendingJoin{{publicKeys{bytes.Repeat([]byte{0xaa}, 32), coordTest32(0xbb)}, coordTest32(0xcc),
		"a", "", coordTest32(0xdd), 5, coordTestAddr}}}, coordTestParsers[10],
		"01" + coordTestA + coordTestB + coordTestC + "01 61 00" + coordTestD + "0000000000000005" + coordTestAddrX},
	{"devices", &devicesMsg{[]deviceSeen{
		{deviceID("d" + strings.Repeat("a", 25)), memberStatus{true, true, 3, "1.0", coordTestAddr}, []string{"lab"}},
		{deviceID("d" + strings.Repeat("b", 25)), memberStatus{silent: never}, nil}}}, coordTestParsers[11],
		"0002" + "64" + strings.Repeat("61", 25) + "03 0000000000000003" + coordTestAddrX + "03 312e30" +
			"64" + strings.Repeat("62", 25) + "00 ffffffffffffffff" + strings.Repeat("00", 18) + "00" + "01 03 6c6162 00"},
	{"enrol", &enrolMsg{coordTest32(0xaa), []byte{7}}, coordTestParsers[13], coordTestA + "00000001 07"},
	{"enrolled", &enrolledMsg{"https://c", "ab"}, coordTestParsers[14], "0009 68747470733a2f2f63 02 6162"},
	{"whoami", &whoamiMsg{coordTestAddr, 1_800_000_000, "http://a", "b"}, coordTestParsers[12],
		coordTestAddrX + "000000006b49d200 08 687474703a2f2f61 01 62"},
	{"whoami without builds", &whoamiMsg{observed: coordTestAddr, time: 1_800_000_000}, coordTestParsers[12],
		coordTestAddrX + "000000006b49d200 00 00"},
}

// whoamiBefore is how long a whoamiMsg was before it told of builds, in bytes.
const whoamiBefore = 18 + 8

// Old programs and new ones understand each other: the one ignores what stands
// behind the time, the other does without.
func TestWhoamiOfACoordinatorOfBefore(t *testing.T) {
	long := (&whoamiMsg{coordTestAddr, 7, "https://coord.example.com", "abc"}).append(nil)
	got, err := parseWhoami(long[:whoamiBefore])
	if want := (whoamiMsg{observed: coordTestAddr, time: 7}); err != nil || *got != want {
		t.Errorf("parsed %+v, %v", got, err)
	}
}

// coordTestEnds are lengths at which messages ended before fields were added.
var coordTestEnds = map[string][]int{"ticket": {68}, "ticket for a category": {68}, "devices": {113, 118},
	"whoami": {whoamiBefore}, "whoami without builds": {whoamiBefore}}

func TestCoordWireBytes(t *testing.T) {
	for _, tt := range coordWireTests {
		want := unhex(t, tt.hex)
		if got := tt.msg.append(nil); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", tt.name, got, want)
		}
		for _, tail := range []string{"", "later fields"} {
			got, err := tt.parse(append(bytes.Clone(want), tail...))
			if err != nil || !reflect.DeepEqual(got, tt.msg) {
				t.Errorf("%s with tail %q: parsed %+v, %v", tt.name, tail, got, err)
			}
		}
		for n := range want {
			if m, err := tt.parse(want[:n]); err == nil && !slices.Contains(coordTestEnds[tt.name], n) {
				t.Errorf("%s: first %d bytes parse as %+v", tt.name, n, m)
			}
		}
	}
}

func TestCoordWireRefuses(t *testing.T) {
	name := coordTestA + coordTestB
	for _, tt := range []struct {
		name  string
		parse coordTestParse
		hex   string
	}{
		{"nine records to create", coordTestParsers[1], strings.Repeat("00", 16) + "09" + strings.Repeat("0000000101", 9)},
		{"65 records in a reply", coordTestParsers[4], strings.Repeat("00", 40) + "41" + strings.Repeat("0000000101", 65)},
		{"an empty record", coordTestParsers[4], strings.Repeat("00", 40) + "01 00000000"},
		{"a record longer than all", coordTestParsers[5], coordTestA + "ffffffff 01"},
		{"a long proof", coordTestParsers[3], coordTestA + "0000000000000007 00000801" + strings.Repeat("00", 2049)},
		{"a name with a newline", coordTestParsers[7], name + "02 610a 00" + coordTestC},
		{"a login with a comma", coordTestParsers[7], name + "00 03 612c62" + coordTestC},
		{"a long error text", coordTestParsers[0], "00 0401" + strings.Repeat("61", 1025)},
		{"a device id with a newline", coordTestParsers[11], "0001 640a" + strings.Repeat("61", 24) + "00" + strings.Repeat("00", 27)},
	} {
		if m, err := tt.parse(unhex(t, tt.hex)); err == nil {
			t.Errorf("%s: parsed as %+v", tt.name, m)
		}
	}
}

func TestCoordFrame(t *testing.T) {
	var b bytes.Buffer
	if err := writeCoordFrame(&b, opJoin, []byte("body")); err != nil {
		t.Fatal(err)
	}
	if want := "\x05\x00\x00\x00\x04body"; b.String() != want {
		t.Fatalf("%q, want %q", b.String(), want)
	}
	op, body, err := readCoordFrame(bytes.NewReader(b.Bytes()))
	if err != nil || op != opJoin || string(body) != "body" {
		t.Fatalf("%d %q %v", op, body, err)
	}
	for n := range b.Len() {
		if _, _, err := readCoordFrame(bytes.NewReader(b.Bytes()[:n])); err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
	if _, _, err := readCoordFrame(strings.NewReader("\x05\x00\x04\x00\x01")); err == nil || err == io.ErrUnexpectedEOF {
		t.Errorf("a frame of 256 KiB and a byte: %v", err)
	}
}

func FuzzParseCoordWire(f *testing.F) {
	for _, tt := range coordWireTests {
		for i := range coordTestParsers {
			f.Add(byte(i), tt.msg.append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		parse := coordTestParsers[int(which)%len(coordTestParsers)]
		m, err := parse(b)
		if err != nil {
			return
		}
		again, err := parse(m.append(nil))
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%+v, written and parsed again: %+v, %v", m, again, err)
		}
	})
}

func FuzzReadCoordFrame(f *testing.F) {
	f.Add([]byte("\x05\x00\x00\x00\x04body"))
	f.Fuzz(func(t *testing.T, b []byte) {
		first, body, err := readCoordFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		writeCoordFrame(&out, first, body)
		if !bytes.HasPrefix(b, out.Bytes()) {
			t.Fatalf("%x read from %x", out.Bytes(), b)
		}
	})
}
