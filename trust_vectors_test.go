package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// vectorBytes reads hex from a vector file.
type vectorBytes []byte

func (b *vectorBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

func readVectors(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatal(err)
	}
}

// The script that made the vectors is not ours to trust either: it is run again,
// and a machine without Python is one where this was not checked.
func TestVectorsAreWhatTheScriptMakes(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command("/usr/bin/python3", "testdata/vectors/make.py", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("make.py (it needs python3-cryptography): %v\n%s", err, out)
	}
	files, err := filepath.Glob("testdata/vectors/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no vectors", err)
	}
	for _, file := range files {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, filepath.Base(file)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs from what make.py writes: %v", file, err)
		}
	}
}

func TestTrustVectorIDs(t *testing.T) {
	var v struct {
		Machines []struct {
			Seed, Sign, PathSeed, Path, Blob vectorBytes
			Device, DeviceWords, Coord       string
		}
		Signers []struct {
			Type, ID, Line string
			Blob           vectorBytes
		}
		Webauthn struct {
			Cose vectorBytes
			ID   string
		}
		Recovery []struct {
			Seed         vectorBytes
			Text, Signer string
		}
	}
	readVectors(t, "ids.json", &v)
	for _, m := range v.Machines {
		id, err := newIdentity(ed25519.NewKeyFromSeed(m.Seed))
		if err != nil {
			t.Fatal(err)
		}
		k := id.keys
		if !bytes.Equal(k.sign, m.Sign) || !bytes.Equal(k.path[:], m.Path) || !bytes.Equal(id.path.Bytes(), m.PathSeed) ||
			!bytes.Equal(k.sshKey().Marshal(), m.Blob) {
			t.Errorf("keys of %s differ", m.Device)
		}
		if string(k.deviceID()) != m.Device || k.deviceWords() != m.DeviceWords || string(k.coordID()) != m.Coord {
			t.Errorf("%s %s %s, want %s %s %s", k.deviceID(), k.deviceWords(), k.coordID(), m.Device, m.DeviceWords, m.Coord)
		}
	}
	for _, s := range v.Signers {
		r := &stmtReader{rest: s.Line}
		l := r.signerLine(r.value("signer"))
		if r.err != nil || newSignerID(signerSSH, s.Blob) != l.id || string(l.id) != s.ID || !bytes.Equal(l.key, s.Blob) {
			t.Errorf("signer %s: %v", s.ID, r.err)
		}
	}
	if got := newSignerID(signerWebauthn, v.Webauthn.Cose); string(got) != v.Webauthn.ID {
		t.Errorf("webauthn signer %s, want %s", got, v.Webauthn.ID)
	}
	for _, r := range v.Recovery {
		k := recoveryKey(r.Seed)
		back, err := parseRecoveryKey(r.Text)
		if k.String() != r.Text || err != nil || back != k {
			t.Errorf("recovery key %s: %v", k, err)
		}
		if line := string(appendSignerLines(nil, []signerLine{k.line()})); line != r.Signer {
			t.Errorf("recovery signer %q, want %q", line, r.Signer)
		}
	}
}

type trustVector struct {
	Op, Note, Statement, Head, HeadWords string
	Signed, Record                       vectorBytes
	Devices, Signers                     []string
}

func readTrustVectors(t *testing.T) (acct acctID, list []trustVector) {
	t.Helper()
	var v struct {
		Acct, AcctWords string
		Records         []trustVector
	}
	readVectors(t, "trust.json", &v)
	acct, err := parseAcctID(v.Acct)
	if err != nil || acctWords(acct) != v.AcctWords {
		t.Fatal(acctWords(acct), err)
	}
	return acct, v.Records
}

func TestTrustVectorRecords(t *testing.T) {
	acct, list := readTrustVectors(t)
	var s *trustState
	for i, v := range list {
		rec, err := parseRecord(v.Record)
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		if string(rec.text) != v.Statement || rec.stmt.op != v.Op || string(rec.stmt.append(nil)) != v.Statement {
			t.Fatalf("record %d: statement differs", i)
		}
		if !bytes.Equal(appendRecord(nil, rec.text, rec.sigs), v.Record) {
			t.Fatalf("record %d: encodes otherwise", i)
		}
		if in := sshsigInput(stmtNamespace, rec.text); !bytes.Equal(in, v.Signed) || len(in) != 107 {
			t.Fatalf("record %d: signed bytes %x", i, in)
		}
		if s, err = apply(s, v.Record, time.Unix(rec.stmt.time, 0)); err != nil {
			t.Fatalf("record %d (%s): %v", i, v.Op, err)
		}
		head := s.head()
		if s.acct() != acct || hex.EncodeToString(head[:]) != v.Head || headWords(head) != v.HeadWords {
			t.Fatalf("record %d: head %x", i, head)
		}
		if got := strings.Fields(trustTestNames(s)); !slices.Equal(got, v.Devices) {
			t.Errorf("after record %d: devices %q, want %q", i, got, v.Devices)
		}
		var labels []string
		for _, m := range s.signers() {
			labels = append(labels, m.label)
		}
		if slices.Sort(labels); !slices.Equal(labels, v.Signers) {
			t.Errorf("after record %d: signers %q, want %q", i, labels, v.Signers)
		}
		if reserved := v.Note == "reserved"; (s.unknown != 0) != reserved {
			t.Errorf("after record %d: not understood since %d", i, s.unknown)
		}
	}
	if d, _ := s.deviceByName("attic"); !d.allowsUser("bob") || !d.hasCap("pty") {
		t.Error("the update of attic did not count", d)
	}
	if d, ok := s.device(trustVectorDevice(t, "spare")); !ok || !d.revoked || d.revokedSeq != 6 {
		t.Error("spare", d, ok)
	}
}

// trustVectorDevice is the id of a machine of make.py.
func trustVectorDevice(t *testing.T, name string) deviceID {
	id, err := newIdentity(ed25519.NewKeyFromSeed(trustTestSeed("machine " + name)))
	if err != nil {
		t.Fatal(err)
	}
	return id.keys.deviceID()
}

// Every bit of a record of each op is flipped. What is still accepted must be
// the very same statement (bits of a signature that mean the same do not exist
// in the types used, so nothing is).
func TestTrustEveryBitFlipped(t *testing.T) {
	_, list := readTrustVectors(t)
	var s *trustState
	for _, v := range list {
		before := s
		t.Run(v.Op, func(t *testing.T) {
			t.Parallel()
			raw := bytes.Clone(v.Record)
			for bit := range len(raw) * 8 {
				raw[bit/8] ^= 1 << (bit % 8)
				if next, err := apply(before, raw, time.Time{}); err == nil || next != nil {
					t.Errorf("with bit %d flipped it is accepted", bit)
				}
				raw[bit/8] ^= 1 << (bit % 8)
			}
		})
		next, err := apply(s, v.Record, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		s = next
	}
}
