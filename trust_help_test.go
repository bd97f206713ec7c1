package main

// This file makes accounts for tests: keys from small numbers, statements by
// the real builders, records by the real signatures.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// trustTestNow is the time in all tests of the log.
var trustTestNow = time.Unix(1800000000, 0)

func trustTestClock() time.Time { return trustTestNow }

// trustTestSeed makes a seed of a label.
func trustTestSeed(label string) []byte {
	sum := sha256.Sum256([]byte(label))
	return sum[:]
}

// trustTestKey is an ed25519 SSH key made of a label.
func trustTestKey(label string) sshStmtSigner {
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(trustTestSeed(label)))
	if err != nil {
		panic(err)
	}
	return sshStmtSigner{s}
}

// trustTestECDSA is a fresh key on P-256.
func trustTestECDSA() sshStmtSigner {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		panic(err)
	}
	return sshStmtSigner{s}
}

func trustTestLine(s sshStmtSigner, powers, label string) signerLine {
	l, err := newSSHSignerLine(s.key.PublicKey(), powers, label)
	if err != nil {
		panic(err)
	}
	return l
}

// trustTestCOSE is a passkey's key on Ed25519, made of a label.
func trustTestCOSE(label string) []byte {
	return coseKey{coseEdDSA, ed25519.NewKeyFromSeed(trustTestSeed(label)).Public()}.append(nil)
}

// trustTestKeys are a device's keys, made of its name.
func trustTestKeys(name string) publicKeys {
	id, err := newIdentity(ed25519.NewKeyFromSeed(trustTestSeed("device " + name)))
	if err != nil {
		panic(err)
	}
	return id.keys
}

func trustTestID(name string) deviceID { return trustTestKeys(name).deviceID() }

// trustTestGrant is what a server with all caps gets.
func trustTestGrant(name string, roles ...string) deviceGrant {
	if len(roles) == 0 {
		roles = []string{"server"}
	}
	return newDeviceGrant(name, roles, []string{"*"}, deviceCaps, 0)
}

// A trustTestAcct is an account under construction: signer a has both powers,
// b has s, r is the recovery key.
type trustTestAcct struct {
	t       testing.TB
	a, b, r sshStmtSigner
	state   *trustState
	raws    [][]byte
}

func newTrustTestAcct(t testing.TB) *trustTestAcct {
	t.Helper()
	k := &trustTestAcct{t: t, a: trustTestKey("a"), b: trustTestKey("b"), r: trustTestKey("r")}
	text, err := buildGenesis([]signerLine{
		trustTestLine(k.a, "ds", "alice"), trustTestLine(k.b, "s", "bob"), trustTestLine(k.r, "r", "recovery"),
	}, trustTestNow)
	k.ok(text, err, k.a, k.b)
	return k
}

// branch is a copy that goes its own way.
func (k *trustTestAcct) branch() *trustTestAcct {
	n := *k
	n.raws = append([][]byte(nil), k.raws...)
	return &n
}

// ok has a built statement signed and applied.
func (k *trustTestAcct) ok(text []byte, err error, by ...stmtSigner) []byte {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
	return k.applied(k.sign(text, by...))
}

func (k *trustTestAcct) sign(text []byte, by ...stmtSigner) []byte {
	k.t.Helper()
	raw, err := signRecord(text, by...)
	if err != nil {
		k.t.Fatal(err)
	}
	return raw
}

func (k *trustTestAcct) applied(raw []byte) []byte {
	k.t.Helper()
	next, err := apply(k.state, raw, trustTestNow)
	if err != nil {
		k.t.Fatalf("record %d: %v", k.state.seq()+1, err)
	}
	k.state = next
	k.raws = append(k.raws, raw)
	return raw
}

// bad has text signed and expects the code from apply.
func (k *trustTestAcct) bad(code string, text []byte, by ...stmtSigner) {
	k.t.Helper()
	k.refused(code, k.sign(text, by...))
}

func (k *trustTestAcct) refused(code string, raw []byte) {
	k.t.Helper()
	next, err := apply(k.state, raw, trustTestNow)
	if codeOf(err) != code || next != nil {
		k.t.Fatalf("got code %q, want %q: %v", codeOf(err), code, err)
	}
}

// text writes body as the next statement with no check of any rule.
func (k *trustTestAcct) text(body stmtBody) []byte {
	return k.edit(body, func(*statement) {})
}

func (k *trustTestAcct) edit(body stmtBody, change func(st *statement)) []byte {
	st := &statement{acct: k.state.acct(), seq: k.state.seq() + 1, prev: k.state.head(),
		time: trustTestNow.Unix(), op: body.op(), body: body}
	change(st)
	return st.append(nil)
}

func (k *trustTestAcct) addDevice(name string, roles ...string) []byte {
	k.t.Helper()
	text, err := buildDeviceAdd(k.state, trustTestKeys(name), trustTestGrant(name, roles...), trustTestNow)
	return k.ok(text, err, k.a)
}

func (k *trustTestAcct) revokeDevice(name string, by stmtSigner) []byte {
	k.t.Helper()
	text, err := buildDeviceRevoke(k.state, []deviceID{trustTestID(name)}, "lost", trustTestNow)
	return k.ok(text, err, by)
}

// names are the active devices of a state.
func trustTestNames(s *trustState) string {
	var b bytes.Buffer
	for _, d := range s.devices() {
		fmt.Fprintf(&b, "%s ", d.name)
	}
	return string(bytes.TrimSpace(b.Bytes()))
}

// trustTestStore is a store in a new directory, pinned to the account and with
// its first n records.
func trustTestStore(t testing.TB, k *trustTestAcct, n int) *trustStore {
	t.Helper()
	st, err := openTrustStore(t.TempDir(), trustTestClock)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.setAnchor(trustTestAnchor(k)); err != nil {
		t.Fatal(err)
	}
	if got, err := st.add(k.raws[:n]...); err != nil || got != n {
		t.Fatalf("added %d of %d: %v", got, n, err)
	}
	return st
}

func trustTestAnchor(k *trustTestAcct) anchor {
	return anchor{acct: k.state.acct(), coordAddr: "coord.example.com:7722", coordKeys: trustTestKeys("coordinator")}
}

// A trustTestSK is a security key in software. OpenSSH's PROTOCOL.u2f, "SSH U2F
// Signatures".
type trustTestSK struct {
	ed    ed25519.PrivateKey // or
	ec    *ecdsa.PrivateKey
	flags byte
}

func (k trustTestSK) PublicKey() ssh.PublicKey {
	var blob []byte
	if k.ed != nil {
		blob = ssh.Marshal(struct {
			Type string
			Key  []byte
			App  string
		}{ssh.KeyAlgoSKED25519, k.ed.Public().(ed25519.PublicKey), "ssh:"})
	} else {
		point, _ := k.ec.PublicKey.Bytes()
		blob = ssh.Marshal(struct {
			Type, Curve string
			Point       []byte
			App         string
		}{ssh.KeyAlgoSKECDSA256, "nistp256", point, "ssh:"})
	}
	pub, err := ssh.ParsePublicKey(blob)
	if err != nil {
		panic(err)
	}
	return pub
}

func (k trustTestSK) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	app, sum := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	rest := binary.BigEndian.AppendUint32([]byte{k.flags}, 7)
	signed := append(append(app[:], rest...), sum[:]...)
	sig := &ssh.Signature{Format: k.PublicKey().Type(), Rest: rest}
	if k.ed != nil {
		sig.Blob = ed25519.Sign(k.ed, signed)
		return sig, nil
	}
	digest := sha256.Sum256(signed)
	r, s, err := ecdsa.Sign(rand.Reader, k.ec, digest[:])
	if err != nil {
		return nil, err
	}
	sig.Blob = ssh.Marshal(struct{ R, S *big.Int }{r, s})
	return sig, nil
}
