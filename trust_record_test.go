package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"strings"
	"testing"
)

func TestTrustRecordBytes(t *testing.T) {
	sid := "s" + strings.Repeat("a", 25)
	sigs := []recordSig{{signerID(sid), signerSSH, [][]byte{[]byte("blob")}}, {signerID(sid[:25] + "b"), signerWebauthn, [][]byte{{1}, {2}, nil}}}
	got := appendRecord(nil, []byte("text"), sigs)
	want := "\x00\x00\x00\x04text\x00\x00\x00\x02" +
		"\x00\x00\x00\x1a" + sid + "\x00\x00\x00\x03ssh\x00\x00\x00\x04blob" +
		"\x00\x00\x00\x1a" + sid[:25] + "b\x00\x00\x00\x08webauthn\x00\x00\x00\x01\x01\x00\x00\x00\x01\x02\x00\x00\x00\x00"
	if string(got) != want {
		t.Errorf("%q\nwant\n%q", got, want)
	}
	text, back, err := splitRecord(got)
	if err != nil || string(text) != "text" || len(back) != 2 || string(back[1].parts[1]) != "\x02" {
		t.Error(text, back, err)
	}
}

func TestTrustRecordMalformed(t *testing.T) {
	id := func(i byte) signerID { return signerID("s" + strings.Repeat("a", 24) + string('a'+rune(i))) }
	sig := func(i byte) recordSig { return recordSig{id(i), signerSSH, [][]byte{{1}}} }
	many := func(n int) (list []recordSig) {
		for i := range n {
			list = append(list, sig(byte(i)))
		}
		return list
	}
	good := appendRecord(nil, []byte("text"), many(maxRecordSigs))
	if _, _, err := splitRecord(good); err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{
		"empty":            nil,
		"no signature":     appendRecord(nil, []byte("text"), nil),
		"nine signatures":  appendRecord(nil, []byte("text"), many(maxRecordSigs+1)),
		"one twice":        appendRecord(nil, []byte("text"), []recordSig{sig(1), sig(1)}),
		"tail":             append(bytes.Clone(good), 0),
		"odd kind":         appendRecord(nil, []byte("text"), []recordSig{{id(0), "gpg", [][]byte{{1}}}}),
		"kind of no parts": appendRecord(nil, []byte("text"), []recordSig{{id(0), "gpg", nil}}),
		"odd id":           appendRecord(nil, []byte("text"), []recordSig{{"nobody", signerSSH, [][]byte{{1}}}}),
		"device id":        appendRecord(nil, []byte("text"), []recordSig{{"d" + id(0)[1:], signerSSH, [][]byte{{1}}}}),
		"too few parts":    appendRecord(nil, []byte("text"), []recordSig{{id(0), signerWebauthn, [][]byte{{1}, {2}}}}),
		"too large":        appendRecord(nil, []byte("text"), []recordSig{{id(0), signerSSH, [][]byte{make([]byte, maxRecord)}}}),
		"huge length":      binary.BigEndian.AppendUint32(nil, 1<<31),
	}
	for i := range good {
		bad["cut short"] = good[:i]
		for name, b := range bad {
			if _, _, err := splitRecord(b); codeOf(err) != "record-malformed" {
				t.Fatalf("%s (%d bytes): %v", name, len(b), err)
			}
		}
	}
	// to the byte: 16 KiB is allowed
	room := maxRecord - len(appendRecord(nil, []byte("text"), []recordSig{{id(0), signerSSH, [][]byte{nil}}}))
	for _, more := range []int{0, 1} {
		b := appendRecord(nil, []byte("text"), []recordSig{{id(0), signerSSH, [][]byte{make([]byte, room+more)}}})
		if _, _, err := splitRecord(b); (err == nil) != (more == 0) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
	// a good frame around a bad statement
	if _, err := parseRecord(good); codeOf(err) != "stmt-malformed" {
		t.Error(err)
	}
	var k trustTestAcct
	k.t = t
	k.refused("record-malformed", nil)
	k.refused("stmt-malformed", good)
}

func FuzzParseRecord(f *testing.F) {
	k := newTrustTestAcct(f)
	k.addDevice("attic")
	for _, raw := range k.raws {
		f.Add(raw)
	}
	f.Add(appendRecord(nil, []byte(trustTestStmts()["bare"]), []recordSig{{k.a.id(), signerWebauthn, [][]byte{{1}, {2}, {3}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := parseRecord(b)
		if err != nil {
			if c := codeOf(err); c != "record-malformed" && c != "stmt-malformed" {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(appendRecord(nil, rec.text, rec.sigs), b) || !bytes.Equal(rec.stmt.append(nil), rec.text) {
			t.Fatal("encodes otherwise")
		}
	})
}

func TestTrustRecoveryKey(t *testing.T) {
	k := recoveryKey(trustTestSeed("paper"))
	text := k.String()
	if len(text) != 14*5-1 {
		t.Fatal(text)
	}
	for _, typed := range []string{text, strings.ToUpper(text), strings.ReplaceAll(text, "-", ""), " " + strings.ReplaceAll(text, "-", " \r\n\t") + "\n"} {
		if got, err := parseRecoveryKey(typed); err != nil || got != k {
			t.Errorf("%q: %v", typed, err)
		}
	}
	for i := range text {
		for _, c := range []byte("az27") {
			if text[i] == '-' || text[i] == c {
				continue
			}
			b := []byte(text)
			b[i] = c
			if _, err := parseRecoveryKey(string(b)); err == nil || !strings.Contains(err.Error(), "checksum") {
				t.Errorf("%s: %v", b, err)
			}
		}
	}
	for typed, want := range map[string]string{
		"":             "0 characters, not 56",
		text[:60]:      "characters, not 56",
		text + "a":     "57 characters",
		"0" + text[1:]: "character 1 is none of",
		"é" + text[1:]: "character 1 is none of",
		// version 2, with the checksum right
		func() string {
			b := append([]byte{2}, k[:]...)
			return base32Lower.EncodeToString(append(b, recoveryChecksum(b)...))
		}(): "version 2",
	} {
		if _, err := parseRecoveryKey(typed); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", typed, err, want)
		}
	}
	if one, two := newRecoveryKey(), newRecoveryKey(); one == two {
		t.Error("two recovery keys are the same")
	}
	if k.line().id != k.signer().id() || k.line().powers != "r" {
		t.Error(k.line())
	}
	if !bytes.Contains(k.signer().key.PublicKey().Marshal(), ed25519.NewKeyFromSeed(k[:]).Public().(ed25519.PublicKey)) {
		t.Error("the seed makes another key")
	}
}

func FuzzParseRecoveryKey(f *testing.F) {
	f.Add(recoveryKey{}.String())
	f.Add("aaaa-aaaa")
	f.Fuzz(func(t *testing.T, typed string) {
		k, err := parseRecoveryKey(typed)
		if err != nil {
			return
		}
		if back, err := parseRecoveryKey(k.String()); err != nil || back != k {
			t.Fatal(k, err)
		}
	})
}
