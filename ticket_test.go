package main

import (
	"encoding/hex"
	"strings"
	"testing"
)

var (
	ticketTestKeys   = coordID(strings.Repeat("a", 51) + "q")
	ticketTestClaim  = claimSecret{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	ticketTestSecret = ticketSecret(ticketTestClaim)
	ticketTest16     = "aaaqeayeaudaocajbifqydiob4"
	ticketTestAcct   = acctID(coordTest32(0xff))
	ticketTest32     = strings.Repeat("7", 51) + "q"
)

func TestCoordWord(t *testing.T) {
	k := string(ticketTestKeys)
	for _, tt := range []struct {
		word coordWord
		text string
	}{
		{coordWord{addr: "coord.example.com:7722", keys: ticketTestKeys}, "s1/coord.example.com:7722/" + k},
		{coordWord{addr: "192.0.2.1:1", keys: ticketTestKeys, claim: ticketTestClaim}, "s1/192.0.2.1:1/" + k + "/" + ticketTest16},
		{coordWord{addr: "[2001:db8::1]:65535", keys: ticketTestKeys, acct: ticketTestAcct}, "s1/[2001:db8::1]:65535/" + k + "/" + ticketTest32},
		{coordWord{addr: "a:7722", keys: ticketTestKeys, acct: ticketTestAcct, secret: ticketTestSecret},
			"s1/a:7722/" + k + "/" + ticketTest32 + "/" + ticketTest16},
	} {
		if got := tt.word.String(); got != tt.text {
			t.Errorf("%+v is written %q, want %q", tt.word, got, tt.text)
		}
		if got, err := parseCoordWord(tt.text); err != nil || got != tt.word {
			t.Errorf("%q parsed as %+v, %v", tt.text, got, err)
		}
	}
	if w, err := parseCoordWord("s1/Coord.Example:7722/" + k); err != nil || w.addr != "coord.example:7722" {
		t.Errorf("a host in capitals: %+v, %v", w, err)
	}
}

func TestCoordWordRefuses(t *testing.T) {
	k := string(ticketTestKeys)
	for _, s := range []string{
		"", "s1", "s1/a:1", "s2/a:1/" + k, "s1/a:1/" + k + "/", "s1/a:1/" + k + "/" + ticketTest32 + "/" + ticketTest16 + "/x",
		"s1/a/" + k, "s1/a:0/" + k, "s1/a:65536/" + k, "s1/a:07/" + k, "s1/:1/" + k, "s1/-oProxyCommand:1/" + k,
		"s1/a b:1/" + k, "s1/$(id):1/" + k, "s1/a\n:1/" + k, "s1/fe80::1:1/" + k, "s1/[fe80::1%eth0]:1/" + k,
		"s1/a:1/" + k[1:], "s1/a:1/" + strings.ToUpper(k), "s1/a:1/" + k[:51] + "r", "s1/a:1/" + k[:50] + "\nq",
		"s1/a:1/" + k + "/" + ticketTest16[1:], "s1/a:1/" + k + "/" + strings.Repeat("a", 26), "s1/a:1/" + k + "/" + strings.Repeat("a", 52),
		"s1/a:1/" + k + "/" + ticketTest16 + "/" + ticketTest16, "s1/a:1/" + k + "/" + ticketTest32 + "/" + strings.Repeat("a", 26),
	} {
		if w, err := parseCoordWord(s); err == nil {
			t.Errorf("%q parsed as %+v", s, w)
		}
	}
}

func FuzzParseCoordWord(f *testing.F) {
	f.Add("s1/a:7722/" + string(ticketTestKeys) + "/" + ticketTest32 + "/" + ticketTest16)
	f.Add("s1/[2001:db8::1]:7722/" + string(ticketTestKeys) + "/" + ticketTest16)
	f.Fuzz(func(t *testing.T, s string) {
		w, err := parseCoordWord(s)
		if err != nil {
			return
		}
		if strings.Trim(w.String(), "abcdefghijklmnopqrstuvwxyz0123456789./:-_[]") != "" {
			t.Fatalf("%q has other characters", w)
		}
		if again, err := parseCoordWord(w.String()); err != nil || again != w {
			t.Fatalf("%+v, written and parsed again: %+v, %v", w, again, err)
		}
	})
}

// The figures were made with Python's hashlib and hmac.
func TestTicketHashAndProof(t *testing.T) {
	h := hashTicket(ticketTestSecret)
	if got, want := hex.EncodeToString(h[:]), "9285fdaefa4639cf7b9888bc12390b34f757b703cd4cc7c83b374eb01a1a7aaf"; got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	sign, path := coordTest32(0xaa), coordTest32(0xbb)
	p := joinProof(ticketTestSecret, ticketTestAcct, publicKeys{sign[:], path}, "attic", "root")
	if got, want := hex.EncodeToString(p[:]), "6ce09592f3bdd00c03078867cbee1b626c638aa8d1918c7687aa0e0af180a7b8"; got != want {
		t.Errorf("proof %s, want %s", got, want)
	}
}
