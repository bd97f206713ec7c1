package main

// A passkey in memory, for tests: it answers as a browser and an authenticator
// together do, and lies where it is told to.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
)

// A testPasskey has one relying party, and asks its user nothing.
type testPasskey struct {
	key        coseKey
	priv       crypto.Signer
	rp         relyingParty
	credential []byte
	flags      byte
	count      uint32
	extra      string // further members of the browser's data: `,"crossOrigin":false`
	ext        []byte // extensions
	label      string
}

// testRSA is slow to make.
var testRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newTestPasskey(t testing.TB, alg int64) *testPasskey {
	t.Helper()
	p := &testPasskey{rp: relyingParty{"localhost", []string{"http://localhost:7722"}}, credential: []byte("a credential"), flags: flagUP | flagUV,
		extra: `,"crossOrigin":false`, label: "phone"}
	switch alg {
	case coseES256:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		p.priv, p.key = key, coseKey{alg, &key.PublicKey}
	case coseEdDSA:
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		p.priv, p.key = key, coseKey{alg, pub}
	case coseRS256:
		p.priv, p.key = testRSA(), coseKey{alg, &testRSA().PublicKey}
	}
	return p
}

// testAlgs are the algorithms by name.
var testAlgs = map[string]int64{"ES256": coseES256, "EdDSA": coseEdDSA, "RS256": coseRS256}

func (p *testPasskey) clientData(typ string, challenge []byte) []byte {
	return []byte(`{"type":"` + typ + `","challenge":"` + base64.RawURLEncoding.EncodeToString(challenge) + `","origin":"` + p.rp.origins[0] + `"` + p.extra + `}`)
}

func (p *testPasskey) authData(flags byte) []byte {
	hash := sha256.Sum256([]byte(p.rp.id))
	b := append(hash[:], flags)
	return binary.BigEndian.AppendUint32(b, p.count)
}

// create makes the passkey known.
func (p *testPasskey) create(challenge []byte) registration {
	data := p.authData(p.flags | flagAT)
	data = append(data, make([]byte, 16)...)
	data = binary.BigEndian.AppendUint16(data, uint16(len(p.credential)))
	data = p.key.append(append(data, p.credential...))
	data = append(data, p.ext...)
	return registration{p.clientData("webauthn.create", challenge), testAttestation("none", data)}
}

func testAttestation(format string, data []byte) []byte {
	text := func(s string) cborValue { return cborValue{major: cborText, b: []byte(s)} }
	return cborValue{major: cborMap, items: []cborValue{text("fmt"), text(format), text("attStmt"), {major: cborMap},
		text("authData"), {major: cborBytes, b: data}}}.append(nil)
}

// get signs a challenge.
func (p *testPasskey) get(challenge []byte) assertion {
	return p.signs(p.clientData("webauthn.get", challenge))
}

func (p *testPasskey) signs(client []byte) assertion {
	a := assertion{authData: append(p.authData(p.flags), p.ext...), clientData: client}
	sum := sha256.Sum256(client)
	message := slices.Concat(a.authData, sum[:])
	hash := crypto.Hash(0)
	if p.key.alg != coseEdDSA {
		digest := sha256.Sum256(message)
		message, hash = digest[:], crypto.SHA256
	}
	a.signature, _ = p.priv.Sign(rand.Reader, message, hash)
	return a
}

func (p *testPasskey) id() signerID { return newSignerID(signerWebauthn, p.key.append(nil)) }

func (p *testPasskey) sign(namespace string, text []byte) (recordSig, error) {
	a := p.get(sshsigInput(namespace, text))
	return recordSig{p.id(), signerWebauthn, [][]byte{a.authData, a.clientData, a.signature}}, nil
}

func (p *testPasskey) line(powers string) signerLine {
	return signerLine{id: p.id(), kind: signerWebauthn, powers: powers, label: p.label, key: p.key.append(nil),
		rpID: p.rp.id, origins: p.rp.origins, credential: p.credential}
}
