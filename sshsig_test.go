package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshsigTestKeys is one key of each type that may sign.
func sshsigTestKeys(t testing.TB) map[string]ssh.Signer {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]ssh.Signer{
		ssh.KeyAlgoED25519:    trustTestKey("ed").key,
		ssh.KeyAlgoECDSA256:   trustTestECDSA().key,
		ssh.KeyAlgoSKED25519:  trustTestSK{ed: ed25519.NewKeyFromSeed(trustTestSeed("sk")), flags: 5},
		ssh.KeyAlgoSKECDSA256: trustTestSK{ec: ec, flags: 5},
	}
}

// The bytes signed are those of PROTOCOL.sshsig: for our namespace 107.
func TestSSHSigInput(t *testing.T) {
	want := "535348534947" + "0000000f" + hex.EncodeToString([]byte("sessio-trust@v1")) + "00000000" + "00000006" + hex.EncodeToString([]byte("sha512")) +
		// SHA-512 of "abc", FIPS 180-4 example
		"00000040ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
	if got := hex.EncodeToString(sshsigInput(stmtNamespace, []byte("abc"))); got != want || len(got) != 2*107 {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestSSHSigRoundTrip(t *testing.T) {
	for typ, key := range sshsigTestKeys(t) {
		blob, err := signSSHSig(key, stmtNamespace, []byte("message"))
		if err != nil {
			t.Fatal(typ, err)
		}
		s, err := parseSSHSig(blob)
		if err != nil || !bytes.Equal(s.blob(), blob) {
			t.Fatal(typ, err)
		}
		back, err := dearmorSSHSig(armorSSHSig(blob))
		if err != nil || !bytes.Equal(back, blob) {
			t.Fatal(typ, err)
		}
		if err := s.verify(key.PublicKey(), stmtNamespace, []byte("message")); err != nil {
			t.Error(typ, err)
		}
		if s.verify(key.PublicKey(), stmtNamespace, []byte("messagE")) == nil {
			t.Error(typ, "another message is accepted")
		}
		if s.verify(key.PublicKey(), "git", []byte("message")) == nil {
			t.Error(typ, "another namespace is accepted")
		}
		if s.verify(trustTestKey("other").key.PublicKey(), stmtNamespace, []byte("message")) == nil {
			t.Error(typ, "another key is accepted")
		}
	}
}

// Every field that the key does not sign is compared, one at a time.
func TestSSHSigAltered(t *testing.T) {
	for typ, key := range sshsigTestKeys(t) {
		for name, change := range map[string]func(s *sshSig){
			"key inside": func(s *sshSig) { s.claimedKey = trustTestKey("other").key.PublicKey().Marshal() },
			"namespace":  func(s *sshSig) { s.namespace = "sessio-trust@v2" },
			"hash":       func(s *sshSig) { s.hash = "sha256" },
			"format":     func(s *sshSig) { s.sig.Format = "ssh-rsa" },
			"tail":       func(s *sshSig) { s.sig.Rest = append(bytes.Clone(s.sig.Rest), 0) },
			"signature":  func(s *sshSig) { s.sig.Blob[10] ^= 1 },
		} {
			blob, err := signSSHSig(key, stmtNamespace, []byte("message"))
			if err != nil {
				t.Fatal(err)
			}
			s, err := parseSSHSig(blob)
			if err != nil {
				t.Fatal(err)
			}
			change(s)
			if s.verify(key.PublicKey(), stmtNamespace, []byte("message")) == nil {
				t.Errorf("%s with another %s is accepted", typ, name)
			}
		}
	}
}

// The signature's own namespace and hash must be right also where somebody has
// signed what they should have been.
func TestSSHSigFieldsAreNotOnlyCompared(t *testing.T) {
	key := trustTestKey("ed").key
	for _, c := range []struct{ namespace, inside string }{{"git", stmtNamespace}, {stmtNamespace, "git"}} {
		sig, err := key.Sign(rand.Reader, sshsigInput(c.namespace, []byte("message")))
		if err != nil {
			t.Fatal(err)
		}
		s := &sshSig{claimedKey: key.PublicKey().Marshal(), namespace: c.inside, hash: sshsigHash, sig: sig}
		if s.verify(key.PublicKey(), stmtNamespace, []byte("message")) == nil {
			t.Errorf("signed for %s, says %s: accepted", c.namespace, c.inside)
		}
	}
}

// A security key must say that its owner was there and was verified.
func TestSSHSigSecurityKeyFlags(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed := ed25519.NewKeyFromSeed(trustTestSeed("sk"))
	for flags := range 256 {
		for _, key := range []trustTestSK{{ed: ed, flags: byte(flags)}, {ec: ec, flags: byte(flags)}} {
			_, err := signSSHSig(key, stmtNamespace, []byte("message"))
			if want := flags&5 == 5; (err == nil) != want {
				t.Fatalf("%s with flags %#02x: %v", key.PublicKey().Type(), flags, err)
			}
			// here too, not only in x/crypto (which did not before 0.52)
			rest := []byte{byte(flags), 0, 0, 0, 7}
			if want := flags&5 == 5; (checkSSHSigFlags(key.PublicKey().Type(), rest) == nil) != want {
				t.Fatalf("flags %#02x", flags)
			}
			if flags == 1 && hintOf(err) == "" {
				t.Error("no hint at verify-required:", err)
			}
		}
	}
	// flags that the key has not signed
	for _, key := range []trustTestSK{{ed: ed, flags: 1}, {ec: ec, flags: 4}} {
		sig, err := key.Sign(nil, sshsigInput(stmtNamespace, []byte("message")))
		if err != nil {
			t.Fatal(err)
		}
		sig.Rest[0] = 5
		s := &sshSig{claimedKey: key.PublicKey().Marshal(), namespace: stmtNamespace, hash: sshsigHash, sig: sig}
		if s.verify(key.PublicKey(), stmtNamespace, []byte("message")) == nil {
			t.Error("altered flags are accepted")
		}
		sig.Rest = nil
		if s.verify(key.PublicKey(), stmtNamespace, []byte("message")) == nil {
			t.Error("no flags are accepted")
		}
	}
}

func TestSSHSigKeyTypes(t *testing.T) {
	dir := t.TempDir()
	for i, args := range [][]string{{"-t", "rsa", "-b", "2048"}, {"-t", "ecdsa", "-b", "384"}} {
		file := filepath.Join(dir, fmt.Sprint(i))
		sshsigTestRun(t, nil, "ssh-keygen", append(args, "-q", "-N", "", "-f", file)...)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ssh.ParsePrivateKey(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signSSHSig(key, stmtNamespace, []byte("m")); err == nil || !strings.Contains(err.Error(), "cannot sign statements") {
			t.Error(args, err)
		}
		if _, err := newSSHSignerLine(key.PublicKey(), "d", "x"); err == nil {
			t.Error(args, "is a signer")
		}
	}
	good := trustTestKey("ed").key.PublicKey().Marshal()
	for _, bad := range [][]byte{nil, good[:50], append(bytes.Clone(good), 0), []byte("ssh-ed25519")} {
		if _, err := parseSSHKeyBlob(bad); err == nil {
			t.Errorf("key %x is accepted", bad)
		}
	}
}

func TestSSHSigMalformed(t *testing.T) {
	good, err := signSSHSig(trustTestKey("ed").key, stmtNamespace, []byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	long, err := parseSSHSig(good)
	if err != nil {
		t.Fatal(err)
	}
	long.namespace = strings.Repeat("x", maxSSHSig)
	bad := map[string][]byte{
		"magic":    append([]byte("SSHSIH"), good[6:]...),
		"version":  append([]byte("SSHSIG\x00\x00\x00\x02"), good[10:]...),
		"tail":     append(bytes.Clone(good), 0),
		"size":     long.blob(),
		"reserved": bytes.Replace(good, []byte("v1\x00\x00\x00\x00"), []byte("v1\x00\x00\x00\x01x"), 1),
	}
	for i := range good {
		bad[fmt.Sprint(i, " bytes")] = good[:i]
	}
	for name, b := range bad {
		if _, err := parseSSHSig(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	armored := string(armorSSHSig(good))
	for _, text := range []string{"", armored[1:], armored + "x", strings.Replace(armored, "SSH SIGNATURE", "SSH SIGNATURES", 2),
		strings.Replace(armored, "-----\n", "-----\nA: b\n\n", 1)} {
		if _, err := dearmorSSHSig([]byte(text)); err == nil {
			t.Errorf("accepted: %q", text)
		}
	}
	if _, err := dearmorSSHSig([]byte(armored + "\n \n")); err != nil {
		t.Error(err)
	}
}

func FuzzParseSSHSig(f *testing.F) {
	for _, key := range sshsigTestKeys(f) {
		blob, err := signSSHSig(key, stmtNamespace, []byte("m"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(blob)
		f.Add(armorSSHSig(blob))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if blob, err := dearmorSSHSig(b); err == nil {
			b = blob
		}
		s, err := parseSSHSig(b)
		if err != nil {
			return
		}
		if !bytes.Equal(s.blob(), b) {
			t.Fatalf("%x encodes as %x", b, s.blob())
		}
		if key, err := parseSSHKeyBlob(s.claimedKey); err == nil && s.verify(key, stmtNamespace, []byte("forged")) == nil {
			t.Fatal("a signature of what nobody signed")
		}
	})
}

func sshsigTestRun(t *testing.T, stdin []byte, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// What ssh-keygen -Y sign writes becomes a record.
func TestSSHSigBySSHKeygen(t *testing.T) {
	for _, typ := range []string{"ed25519", "ecdsa"} {
		dir := t.TempDir()
		file := filepath.Join(dir, "key")
		sshsigTestRun(t, nil, "ssh-keygen", "-q", "-t", typ, "-N", "", "-f", file)
		pub, err := os.ReadFile(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		line, err := newSSHSignerLine(key, "ds", "keygen")
		if err != nil {
			t.Fatal(err)
		}
		text, err := buildGenesis([]signerLine{line}, trustTestNow)
		if err != nil {
			t.Fatal(err)
		}
		stmt := filepath.Join(dir, "statement")
		if err := os.WriteFile(stmt, text, 0o600); err != nil {
			t.Fatal(err)
		}
		sign := func(args ...string) (recordSig, error) {
			os.Remove(stmt + ".sig")
			sshsigTestRun(t, nil, "ssh-keygen", append(append([]string{"-q", "-Y", "sign", "-f", file}, args...), stmt)...)
			armored, err := os.ReadFile(stmt + ".sig")
			if err != nil {
				t.Fatal(err)
			}
			return readSSHKeygenSig(text, armored)
		}
		sig, err := sign("-n", stmtNamespace)
		if err != nil {
			t.Fatal(typ, err)
		}
		raw, err := newRecord(text, []recordSig{sig})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := apply(nil, raw, trustTestNow); err != nil {
			t.Error(typ, err)
		}
		if _, err := sign("-n", "file"); err == nil || hintOf(err) == "" {
			t.Error("another namespace:", err)
		}
		if _, err := sign("-n", stmtNamespace, "-O", "hashalg=sha256"); err == nil {
			t.Error("another hash is accepted")
		}
	}
}

// Every record, with keys of every type, is accepted by ssh-keygen -Y verify as
// exported; altered ones are not.
func TestTrustExportForSSHKeygen(t *testing.T) {
	_, list := readTrustVectors(t)
	k := newTrustTestAcct(t)
	for typ, key := range sshsigTestKeys(t) {
		s := sshStmtSigner{key}
		label := strings.Trim(strings.NewReplacer("@openssh.com", "", "nistp256", "").Replace(typ), "-")
		k.ok(k.text(opSignerAdd{trustTestLine(s, "d", label)}), nil, k.b, s)
		k.ok(k.text(opDeviceAdd{trustTestID(label), trustTestKeys(label), trustTestGrant(label)}), nil, s)
	}
	verify := func(dir string, ids []signerID) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, "statement"))
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range ids {
			file := "statement.sig"
			if i > 0 {
				file = fmt.Sprintf("statement.%d.sig", i+1)
			}
			args := []string{"-Y", "verify", "-f", filepath.Join(dir, "allowed_signers"), "-I", string(id), "-n", stmtNamespace, "-s", filepath.Join(dir, file)}
			sshsigTestRun(t, text, "ssh-keygen", args...)
			cmd := exec.Command("ssh-keygen", args...)
			cmd.Stdin = bytes.NewReader(append(bytes.Clone(text), '\n'))
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("ssh-keygen accepts an altered statement: %s", out)
			}
		}
	}
	for _, v := range list {
		k.raws = append(k.raws, v.Record)
	}
	for _, raw := range k.raws {
		dir := t.TempDir()
		files, _, err := exportRecord(k.state, raw)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, sigs, err := splitRecord(raw)
		if err != nil {
			t.Fatal(err)
		}
		var ids []signerID
		for _, sig := range sigs {
			ids = append(ids, sig.claimed)
		}
		verify(dir, ids)
	}
}
