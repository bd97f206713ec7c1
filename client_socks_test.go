package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// A socksTest is what a program sends at once, and what it is answered.
type socksTest struct {
	io.Reader
	bytes.Buffer
}

func (s *socksTest) Read(b []byte) (int, error)  { return s.Reader.Read(b) }
func (s *socksTest) Write(b []byte) (int, error) { return s.Buffer.Write(b) }

func TestSocks(t *testing.T) {
	for _, tt := range []struct{ name, sent, to, yes, no string }{
		{"5, a name", "05 02 02 00 05 01 00 03 05 6174746963 0050", "attic:80", "0500 05000001 00000000 0000", "0500 05040001 00000000 0000"},
		{"5, IPv4", "05 01 00 05 01 00 01 c0000201 1f90", "192.0.2.1:8080", "0500 05000001 00000000 0000", "0500 05040001 00000000 0000"},
		{"5, IPv6", "05 01 00 05 01 00 04 20010db8000000000000000000000001 0016", "[2001:db8::1]:22", "0500 05000001 00000000 0000", "0500 05040001 00000000 0000"},
		{"4", "04 01 0050 c0000201 6d6500", "192.0.2.1:80", "005a 000000000000", "005b 000000000000"},
		{"4a", "04 01 0050 00000001 00 617474696300", "attic:80", "005a 000000000000", "005b 000000000000"},
	} {
		sent := unhex(t, tt.sent)
		for answer, connected := range map[string]bool{tt.yes: true, tt.no: false} {
			s := &socksTest{Reader: io.MultiReader(bytes.NewReader(sent), strings.NewReader("its own"))}
			to, reply, err := readSocks(s)
			if err != nil || to.String() != tt.to || reply(connected) != nil || !bytes.Equal(s.Bytes(), unhex(t, answer)) {
				t.Errorf("%s, %t: %v %v, answered %x", tt.name, connected, to, err, s.Bytes())
			}
			if rest, _ := io.ReadAll(s); string(rest) != "its own" {
				t.Errorf("%s: left for the connection: %q", tt.name, rest)
			}
		}
		for n := range sent {
			if _, _, err := readSocks(&socksTest{Reader: bytes.NewReader(sent[:n])}); err == nil {
				t.Errorf("%s: %d bytes are enough", tt.name, n)
			}
		}
	}
}

func TestSocksRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ sent, answered string }{
		"HTTP":               {"474554202f", ""},
		"only by a password": {"05 01 02", "05ff"},
		"to listen":          {"05 01 00 05 02 00 01 c0000201 1f90", "0500 05070001 00000000 0000"},
		"4, to listen":       {"04 02 0050 c0000201 00", "005b 000000000000"},
		"an unknown address": {"05 01 00 05 01 00 02 00", "0500 05080001 00000000 0000"},
		"port 0":             {"05 01 00 05 01 00 01 c0000201 0000", "0500"},
		"no name":            {"05 01 00 05 01 00 03 00 0050", "0500"},
		"4a without a name":  {"04 01 0050 00000001 00 00", ""},
		"a name without end": {"04 01 0050 00000001 00 " + strings.Repeat("61", 300), ""},
	} {
		s := &socksTest{Reader: bytes.NewReader(unhex(t, tt.sent))}
		if to, _, err := readSocks(s); err == nil || !bytes.Equal(s.Bytes(), unhex(t, tt.answered)) {
			t.Errorf("%s: %v, %v, answered %x", name, to, err, s.Bytes())
		}
	}
}

// What is asked for is written again in version 5 and read alike.
func FuzzReadSocks(f *testing.F) {
	for _, s := range []string{"05 01 00 05 01 00 03 05 6174746963 0050", "04 01 0050 c0000201 6d6500", "04 01 0050 00000001 00 617474696300"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		to, reply, err := readSocks(&socksTest{Reader: bytes.NewReader(b)})
		if err != nil {
			return
		}
		if reply == nil || to.host == "" || to.port == 0 || len(to.host) > maxSocksText {
			t.Fatalf("%x leads to %+v", b, to)
		}
		again := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(to.host))}, to.host...)
		again = append(again, byte(to.port>>8), byte(to.port))
		if same, _, err := readSocks(&socksTest{Reader: bytes.NewReader(again)}); err != nil || same != to {
			t.Errorf("%x: %+v, again %+v, %v", b, to, same, err)
		}
	})
}
