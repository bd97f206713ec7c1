package main

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// unhex reads hexadecimal digits, with blanks among them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Most of RFC 8949, appendix A, is good here or is not: floats, tags and
// indefinite lengths are not.
func TestCBOR(t *testing.T) {
	for _, good := range []string{
		"00", "17", "1818", "18ff", "190100", "19ffff", "1a00010000", "1affffffff", "1b0000000100000000", "1bffffffffffffffff",
		"20", "37", "3863", "3903e7", "3bffffffffffffffff", "40", "4401020304", "60", "6449455446", "62c3bc", "80", "83010203",
		"8301820203820405", "98190102030405060708090a0b0c0d0e0f101112131415161718181819", "a0", "a201020304", "a26161016162820203",
		"f4", "f5", "f6", "a120f6", "81818180",
	} {
		b := unhex(t, good)
		v, err := parseCBOR(b)
		if err != nil || !bytes.Equal(v.append(nil), b) {
			t.Errorf("%s: %x, %v", good, v.append(nil), err)
		}
	}
	for _, bad := range []string{
		"", "18", "1817", "190017", "1900ff", "1a0000ffff", "1b00000000ffffffff", "1c", "1f", "3817", "41", "5801", "7801", "61ff", "5f", "7f", "9f", "bf",
		"81", "8201", "a1", "a101", "9bffffffffffffffff", "bbffffffffffffffff", "bb8000000000000000", "5bffffffffffffffff",
		"c000", "d81800", "e0", "f3", "f7", "f800", "f818", "f90000", "fa00000000", "fb0000000000000000", "ff",
		"0000", "a001", // a tail
		"a201010102", "a2616101616102", "a220012002", // twice
		"a1400141", "a1f401", "a18001", "a1a001", // keys of other kinds
		"8181818180", "a101a101a101a101a0", // too deep
	} {
		if v, err := parseCBOR(unhex(t, bad)); codeOf(err) != "cbor-malformed" {
			t.Errorf("%s: %v, %v", bad, v, err)
		}
	}
	v, err := parseCBOR(unhex(t, "a3 01 02 20 61 78 61 79 f5"))
	if y, ok := v.text("y"); err != nil || !v.member(1).is(2) || string(v.member(-1).b) != "x" || !ok || y.n != 21 {
		t.Errorf("members: %v, %v", v, err)
	}
	if _, ok := v.text("x"); ok || v.member(2).major != cborSimple {
		t.Error("a member that is not there")
	}
}

func FuzzParseCBOR(f *testing.F) {
	for _, s := range []string{"a201020304", "a26161016162820203", "1bffffffffffffffff", "9bffffffffffffffff", "8181818180"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseCBOR(b); err == nil && !bytes.Equal(v.append(nil), b) {
			t.Errorf("%x is written as %x", b, v.append(nil))
		}
	})
}

const (
	testX = "65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d" // RFC 8152, appendix C.7.1, the key of meriadoc
	testY = "1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c"
	test1 = "0000000000000000000000000000000000000000000000000000000000000001"
)

func TestCOSE(t *testing.T) {
	n := strings.Repeat("ff", 256)
	rsa := func(n, e string) string {
		return "a4 0103 03390100 20" + hex.EncodeToString(cborValue{major: cborBytes, b: unhex(t, n)}.append(nil)) + "21" +
			hex.EncodeToString(cborValue{major: cborBytes, b: unhex(t, e)}.append(nil))
	}
	ec := func(x, y string) string { return "a5 0102 0326 2001 215820" + x + "225820" + y }
	for _, good := range []string{ec(testX, testY), "a4 0101 0327 2006 215820" + testX, rsa(n, "03"), rsa(n, "010001"), rsa(strings.Repeat("ff", 1024), "7fffffff")} {
		b := unhex(t, good)
		if k, err := parseCOSE(b); err != nil || !bytes.Equal(k.append(nil), b) {
			t.Errorf("%s: %x, %v", good, k.append(nil), err)
		}
	}
	other := unhex(t, "a5 225820"+testY+"215820"+testX+"2001 0326 0102")
	if k, err := parseCOSE(other); err != nil || !bytes.Equal(k.append(nil), unhex(t, ec(testX, testY))) {
		t.Errorf("another order: %x, %v", k.append(nil), err)
	}
	for _, c := range []struct{ code, key string }{
		{"cose-unsupported", ec(testX, test1)},                                          // not on the curve
		{"cose-unsupported", ec("00"+testX[2:], testY)},                                 // neither
		{"cose-unsupported", "a5 0102 0326 2001 21581f" + testX[2:] + "225820" + testY}, // short
		{"cose-unsupported", "a5 0102 0326 2001 215820" + testX + "22581f" + testY[2:]},
		{"cose-unsupported", "a5 0102 0326 2001 215820" + testX + "22f5"}, // compressed
		{"cose-unsupported", "a5 0102 0326 2002 215820" + testX + "225820" + testY},
		{"cose-unsupported", "a5 0102 033822 2001 215820" + testX + "225820" + testY}, // ES384
		{"cose-unsupported", "a5 0101 0326 2001 215820" + testX + "225820" + testY},
		{"cose-unsupported", "a6 0102 0326 2001 215820" + testX + "225820" + testY + "0440"}, // one more
		{"cose-unsupported", "a4 0102 0326 2001 215820" + testX},                             // one less
		{"cose-unsupported", "a4 0101 0327 2007 215820" + testX},
		{"cose-unsupported", "a4 0101 0327 2006 21581f" + testX[2:]},
		{"cose-unsupported", "a4 0101 0327 2006 217820" + strings.Repeat("61", 32)},
		{"cose-unsupported", "a5 0101 0327 2006 215820" + testX + "22f5"},
		{"cose-unsupported", rsa(n[2:], "03")},
		{"cose-unsupported", rsa("00"+n, "03")},
		{"cose-unsupported", rsa("7f"+n[2:], "03")},
		{"cose-unsupported", rsa(n, "01")},
		{"cose-unsupported", rsa(n, "04")},
		{"cose-unsupported", rsa(n, "0003")},
		{"cose-unsupported", rsa(n, "ffffffff")},
		{"cose-unsupported", rsa(n, "0100000001")},
		{"cose-unsupported", rsa(n, "")},
		{"cose-unsupported", rsa(strings.Repeat("ff", 1025), "03")},
		{"cose-unsupported", "80"}, {"cose-unsupported", "a0"}, {"cose-unsupported", "01"},
		{"cose-unsupported", strings.Repeat("00", maxCOSEKey+1)},
		{"cbor-malformed", ec(testX, testY) + "00"}, {"cbor-malformed", ""},
		{"cbor-malformed", "a5 0102 0326 2001 215820" + testX + "215820" + testY},
	} {
		if k, err := parseCOSE(unhex(t, c.key)); codeOf(err) != c.code || k.pub != nil {
			t.Errorf("%.80s: code %q, want %q", c.key, codeOf(err), c.code)
		}
	}
	if (coseKey{}).verify(nil, nil) {
		t.Error("no key has signed")
	}
	if got := (coseKey{alg: coseES256}).append(nil); !bytes.Equal(got, []byte{0xa0}) {
		t.Errorf("no key is %x", got)
	}
}

func FuzzParseCOSE(f *testing.F) {
	f.Add(unhex(f, "a50102032620012158 20"+testX+"225820"+testY))
	f.Add(unhex(f, "a4010103272006215820"+testX))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parseCOSE(b)
		if err != nil {
			return
		}
		again, err := parseCOSE(k.append(nil))
		if err != nil || again.alg != k.alg || !bytes.Equal(again.append(nil), k.append(nil)) {
			t.Errorf("%x: %v", b, err)
		}
	})
}
