package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWebauthnAnswers(t *testing.T) {
	challenge := []byte("a challenge of thirty-two bytes.")
	for name, alg := range testAlgs {
		t.Run(name, func(t *testing.T) {
			p := newTestPasskey(t, alg)
			got, err := p.create(challenge).verify(p.rp, challenge)
			if err != nil || !bytes.Equal(got.credential, p.credential) || !bytes.Equal(got.key.append(nil), p.key.append(nil)) {
				t.Fatalf("registration: %v", err)
			}
			p.count, p.extra = 7, ""
			d, err := p.get(challenge).verify(p.rp, p.key, challenge)
			if err != nil || d.signCount != 7 || d.flags != flagUP|flagUV {
				t.Fatalf("assertion: %v, %v", d, err)
			}
			p.flags |= flagED
			p.ext = []byte{0xa1, 0x61, 'x', 0xf5}
			if _, err := p.get(challenge).verify(p.rp, p.key, challenge); err != nil {
				t.Errorf("with extensions: %v", err)
			}
			if _, err := p.create(challenge).verify(p.rp, challenge); err != nil {
				t.Errorf("registration with extensions: %v", err)
			}
			if _, err := p.get(challenge).verify(p.rp, newTestPasskey(t, coseES256).key, challenge); codeOf(err) != "wa-signature" {
				t.Errorf("by another key: %v", err)
			}
		})
	}
}

// Every bit of an answer is covered: flipped, it is refused.
func TestWebauthnBits(t *testing.T) {
	challenge := sshsigInput(stmtNamespace, []byte("a statement"))
	for name, alg := range testAlgs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newTestPasskey(t, alg)
			a := p.get(challenge)
			for i, part := range [][]byte{a.authData, a.clientData, a.signature} {
				for bit := range 8 * len(part) {
					part[bit/8] ^= 1 << (bit % 8)
					if _, err := a.verify(p.rp, p.key, challenge); err == nil {
						t.Errorf("bit %d of part %d may be flipped", bit, i)
					}
					part[bit/8] ^= 1 << (bit % 8)
				}
			}
			if _, err := a.verify(p.rp, p.key, challenge); err != nil {
				t.Error(err)
			}
		})
	}
}

// Each check has its code, and what is signed is no excuse.
func TestWebauthnRefusals(t *testing.T) {
	challenge := []byte("a challenge of thirty-two bytes.")
	b64 := base64.RawURLEncoding.EncodeToString(challenge)
	p := newTestPasskey(t, coseES256)
	data := func(text string) func(*testPasskey) assertion {
		return func(p *testPasskey) assertion {
			return p.signs([]byte(strings.ReplaceAll(strings.ReplaceAll(text, "CHALLENGE", b64), "ORIGIN", p.rp.origins[0])))
		}
	}
	changed := func(change func(*testPasskey)) func(*testPasskey) assertion {
		return func(p *testPasskey) assertion {
			q := *p
			change(&q)
			return q.get(challenge)
		}
	}
	for _, c := range []struct {
		name, code string
		make       func(*testPasskey) assertion
	}{
		{"a sign-in's question", "wa-challenge", func(p *testPasskey) assertion { return p.get([]byte("another challenge of 32 bytes...")) }},
		{"a longer one", "wa-challenge", func(p *testPasskey) assertion { return p.get(append(bytes.Clone(challenge), 0)) }},
		{"a shorter one", "wa-challenge", func(p *testPasskey) assertion { return p.get(challenge[:31]) }},
		{"a registration's data", "wa-type", func(p *testPasskey) assertion { return p.signs(p.clientData("webauthn.create", challenge)) }},
		{"another order", "wa-type", data(`{"challenge":"CHALLENGE","type":"webauthn.get","origin":"ORIGIN"}`)},
		{"a blank", "wa-type", data(`{ "type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN"}`)},
		{"padding", "wa-challenge", data(`{"type":"webauthn.get","challenge":"CHALLENGE=","origin":"ORIGIN"}`)},
		{"another page", "wa-origin", changed(func(p *testPasskey) { p.rp.origins = []string{"http://localhost:7723"} })},
		{"a page whose name begins so", "wa-origin", changed(func(p *testPasskey) { p.rp.origins = []string{"http://localhost:77220"} })},
		{"a page with more in its name", "wa-origin", data(`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN\""}`)},
		{"a blank behind the page", "wa-origin", data(`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN" }`)},
		{"in another site's page", "wa-crossorigin", changed(func(p *testPasskey) { p.extra = `,"crossOrigin":true` })},
		{"in another site's page, spelt oddly", "wa-crossorigin", changed(func(p *testPasskey) { p.extra = `,"crossOrigin":1` })},
		{"in another site's page, in other letters", "wa-crossorigin", changed(func(p *testPasskey) { p.extra = `,"CROSSORIGIN":true` })},
		{"below another site", "wa-crossorigin", changed(func(p *testPasskey) { p.extra = `,"crossOrigin":false,"topOrigin":"https://example.com"` })},
		{"type twice", "wa-json", changed(func(p *testPasskey) { p.extra = `,"type":"webauthn.get"` })},
		{"type in other letters", "wa-json", changed(func(p *testPasskey) { p.extra = `,"TYPE":"webauthn.get"` })},
		{"challenge twice", "wa-json", changed(func(p *testPasskey) { p.extra = `,"challenge":"` + b64 + `"` })},
		{"challenge by an escape", "wa-json", changed(func(p *testPasskey) { p.extra = `,"ch\u0061llenge":"x"` })},
		{"origin in letters that fold", "wa-json", changed(func(p *testPasskey) { p.extra = `,"oriGin":"https://evil.example"` })},
		{"crossOrigin twice", "wa-json", changed(func(p *testPasskey) { p.extra = `,"crossOrigin":false,"crossorigin":true` })},
		{"another member twice", "wa-json", changed(func(p *testPasskey) { p.extra = `,"x":1,"x":2` })},
		{"a Kelvin sign", "wa-json", changed(func(p *testPasskey) { p.extra = `,"k":1,"` + "\u212a" + `":2` })},
		{"a tail", "wa-json", data(`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN"}x`)},
		{"a second object", "wa-json", data(`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN"}{}`)},
		{"no closing brace", "wa-json", data(`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN"`)},
		{"no end", "wa-json", data(`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN",`)},
		{"no end of a value", "wa-json", data(`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN","x":[1`)},
		{"a list of pairs", "wa-json", data(`["type","webauthn.get"]`)},
		{"a list", "wa-json", data(`["webauthn.get"]`)},
		{"nothing", "wa-json", data(``)},
		{"a byte order mark", "wa-json", data("\ufeff" + `{"type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN"}`)},
		{"no UTF-8", "wa-json", data(`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"ORIGIN","x":"` + "\xff" + `"}`)},
		{"another relying party", "wa-rpid", changed(func(p *testPasskey) { p.rp.id = "example.com" })},
		{"nobody there", "wa-up", changed(func(p *testPasskey) { p.flags = flagUV })},
		{"nobody known", "wa-uv", changed(func(p *testPasskey) { p.flags = flagUP })},
		{"backed up and not eligible", "wa-backup", changed(func(p *testPasskey) { p.flags |= flagBS })},
		{"with a new passkey", "wa-authdata", changed(func(p *testPasskey) { p.flags |= flagAT })},
		{"extensions without their flag", "wa-authdata", changed(func(p *testPasskey) { p.ext = []byte{0xa0} })},
		{"their flag without extensions", "cbor-malformed", changed(func(p *testPasskey) { p.flags |= flagED })},
		{"extensions that are no map", "wa-authdata", changed(func(p *testPasskey) { p.flags, p.ext = p.flags|flagED, []byte{0x80} })},
		{"a tail behind them", "wa-authdata", changed(func(p *testPasskey) { p.flags, p.ext = p.flags|flagED, []byte{0xa0, 0} })},
		{"too much of it", "wa-size", changed(func(p *testPasskey) { p.ext = make([]byte, maxAuthData) })},
		{"too much browser's data", "wa-size", changed(func(p *testPasskey) { p.extra = `,"x":"` + strings.Repeat("x", maxClientData) + `"` })},
		{"cut short", "wa-authdata", func(p *testPasskey) assertion { a := p.get(challenge); a.authData = a.authData[:36]; return a }},
		{"another key's signature", "wa-signature", func(p *testPasskey) assertion {
			a := p.get(challenge)
			a.signature = newTestPasskey(t, coseES256).get(challenge).signature
			return a
		}},
		{"a long signature", "wa-size", func(p *testPasskey) assertion {
			a := p.get(challenge)
			a.signature = make([]byte, maxPasskeySig+1)
			return a
		}},
		{"no signature", "wa-signature", func(p *testPasskey) assertion { a := p.get(challenge); a.signature = nil; return a }},
	} {
		a := c.make(p)
		if _, err := a.verify(relyingParty{"localhost", []string{"http://localhost:7722"}}, p.key, challenge); codeOf(err) != c.code {
			t.Errorf("%s: code %q, want %q: %v", c.name, codeOf(err), c.code, err)
		}
	}
	p.flags |= flagBE | flagBS | 0x02 | 0x20
	if _, err := p.get(challenge).verify(p.rp, p.key, challenge); err != nil {
		t.Errorf("backed up, reserved bits set: %v", err)
	}
}

func TestWebauthnRegistrationRefusals(t *testing.T) {
	challenge := []byte("a challenge of thirty-two bytes.")
	rp := relyingParty{"localhost", []string{"http://localhost:7722"}}
	text := func(s string) cborValue { return cborValue{major: cborText, b: []byte(s)} }
	with := func(change func(p *testPasskey)) func() registration {
		return func() registration {
			p := newTestPasskey(t, coseES256)
			change(p)
			return p.create(challenge)
		}
	}
	object := func(change func(v *cborValue)) func() registration {
		return func() registration {
			r := newTestPasskey(t, coseES256).create(challenge)
			v, err := parseCBOR(r.attestation)
			if err != nil {
				t.Fatal(err)
			}
			change(&v)
			r.attestation = v.append(nil)
			return r
		}
	}
	for _, c := range []struct {
		name, code string
		make       func() registration
	}{
		{"an assertion's data", "wa-type", func() registration {
			p := newTestPasskey(t, coseES256)
			r := p.create(challenge)
			r.clientData = p.clientData("webauthn.get", challenge)
			return r
		}},
		{"another question", "wa-challenge", func() registration { return newTestPasskey(t, coseES256).create([]byte("x")) }},
		{"another page", "wa-origin", with(func(p *testPasskey) { p.rp.origins = []string{"http://localhost"} })},
		{"another relying party", "wa-rpid", with(func(p *testPasskey) { p.rp.id = "x" })},
		{"nobody known", "wa-uv", with(func(p *testPasskey) { p.flags = flagUP })},
		{"no id", "wa-authdata", with(func(p *testPasskey) { p.credential = nil })},
		{"a long id", "wa-authdata", with(func(p *testPasskey) { p.credential = make([]byte, maxCredentialID+1) })},
		{"a tail", "wa-authdata", with(func(p *testPasskey) { p.ext = []byte{0} })},
		{"too much browser's data", "wa-size", with(func(p *testPasskey) { p.extra = `,"x":"` + strings.Repeat("x", maxClientData) + `"` })},
		{"too large", "wa-size", with(func(p *testPasskey) { p.ext = make([]byte, maxAttestation) })},
		{"one member more", "cbor-malformed", object(func(v *cborValue) { v.items = append(v.items, text("x"), text("x")) })},
		{"one less", "cbor-malformed", object(func(v *cborValue) { v.items = v.items[:4] })},
		{"no statement", "cbor-malformed", object(func(v *cborValue) { v.items[3] = text("x") })},
		{"no format", "cbor-malformed", object(func(v *cborValue) { v.items[1] = cborInt(1) })},
		{"no data", "cbor-malformed", object(func(v *cborValue) { v.items[5] = text("x") })},
		{"a list", "cbor-malformed", object(func(v *cborValue) { v.major, v.items = cborArray, nil })},
		{"no passkey in it", "wa-authdata", object(func(v *cborValue) { v.items[5].b = newTestPasskey(t, coseES256).authData(flagUP | flagUV) })},
		{"cut short", "wa-authdata", object(func(v *cborValue) { v.items[5].b = v.items[5].b[:50] })},
		{"a key cut short", "cbor-malformed", object(func(v *cborValue) { v.items[5].b = v.items[5].b[:80] })},
		{"a key of another kind", "cose-unsupported", object(func(v *cborValue) {
			b := v.items[5].b
			v.items[5].b = append(b[:55+len("a credential")], 0xa0)
		})},
	} {
		if _, err := c.make().verify(rp, challenge); codeOf(err) != c.code {
			t.Errorf("%s: code %q, want %q: %v", c.name, codeOf(err), c.code, err)
		}
	}
	p := newTestPasskey(t, coseES256)
	r := p.create(challenge)
	data, _ := parseCBOR(r.attestation)
	r.attestation = testAttestation("packed", data.items[5].b)
	if _, err := r.verify(rp, challenge); err != nil {
		t.Errorf("another format of attestation: %v", err)
	}
}

// A vectorDraw draws the values of the vectors of WebAuthn Level 3, section 16.
type vectorDraw struct {
	info string
	n    byte
}

func (d *vectorDraw) draw(length int) []byte {
	b, err := hkdf.Key(sha256.New, []byte("WebAuthn test vectors"), []byte{d.n}, d.info, length)
	if err != nil {
		panic(err)
	}
	d.n++
	return b
}

// clientData has one more member now and then.
func (d *vectorDraw) clientData(typ string, challenge []byte, beside string) []byte {
	s := `{"type":"` + typ + `","challenge":"` + base64.RawURLEncoding.EncodeToString(challenge) + `","origin":"https://example.org"` + beside
	if d.draw(1)[0]&1 != 0 {
		s += `,"extraData":"clientDataJSON may be extended with additional fields in the future, such as this: ` +
			base64.RawURLEncoding.EncodeToString(d.draw(16)) + `"`
	}
	return []byte(s + "}")
}

// The official vectors, made again: those without certificates whole, byte for
// byte as published (by their hashes), and verified.
func TestWebauthnVectors(t *testing.T) {
	rp := relyingParty{"example.org", []string{"https://example.org"}}
	for _, c := range []struct {
		info, beside         string
		idLen                int
		self                 bool
		made, asserted       string // codes
		madeSum, assertedSum string // begin of SHA-256 over all parts
	}{
		{"none.ES256", `,"crossOrigin":false`, 32, false, "wa-uv", "wa-uv", "ca116797d5733da6", "51f88ba36a5fc7da"},
		{"packed-self.ES256", `,"crossOrigin":false`, 32, true, "", "wa-uv", "fd0d89d617360cd0", "f04d30c37e47d62e"},
		{"none.ES256.crossOrigin", `,"crossOrigin":true`, 32, false, "wa-crossorigin", "wa-crossorigin", "", ""},
		{"none.ES256.topOrigin", `,"crossOrigin":true,"topOrigin":"https://example.com"`, 32, false, "wa-crossorigin", "wa-crossorigin", "", ""},
		{"none.ES256.long-credential-id", `,"crossOrigin":false`, maxCredentialID, false, "wa-uv", "", "", ""},
	} {
		d := &vectorDraw{info: c.info}
		challenge := d.draw(32)
		priv, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d.draw(32))
		if err != nil {
			t.Fatal(err)
		}
		key := coseKey{coseES256, &priv.PublicKey}
		client := d.clientData("webauthn.create", challenge, c.beside)
		aaguid, id := d.draw(16), d.draw(c.idLen)
		bits := d.draw(1)[0] & (flagUV | flagBE | flagBS)
		if bits&flagBE == 0 {
			bits &^= flagBS
		}
		hash := sha256.Sum256([]byte("example.org"))
		data := append(hash[:], bits|flagUP|flagAT, 0, 0, 0, 0)
		data = append(append(data, aaguid...), byte(c.idLen>>8), byte(c.idLen))
		data = key.append(append(data, id...))
		text := func(s string) cborValue { return cborValue{major: cborText, b: []byte(s)} }
		bin := func(b []byte) cborValue { return cborValue{major: cborBytes, b: b} }
		sign := func(data, client []byte) []byte {
			sum := sha256.Sum256(client)
			digest := sha256.Sum256(slices.Concat(data, sum[:]))
			sig, err := priv.Sign(nil, digest[:], crypto.SHA256) // RFC 6979
			if err != nil {
				t.Fatal(err)
			}
			return sig
		}
		format, stmt := text("none"), cborValue{major: cborMap}
		if c.self {
			format = text("packed")
			stmt.items = []cborValue{text("alg"), cborInt(coseES256), text("sig"), bin(sign(data, client))}
		}
		made := registration{client, cborValue{major: cborMap, items: []cborValue{text("fmt"), format, text("attStmt"), stmt, text("authData"), bin(data)}}.append(nil)}
		_, err = made.verify(rp, challenge)
		if codeOf(err) != c.made {
			t.Errorf("%s: registration: %v", c.info, err)
		}
		challenge = d.draw(32)
		a := assertion{clientData: d.clientData("webauthn.get", challenge, c.beside)}
		more := d.draw(1)[0] & (flagUV | flagBS)
		if bits&flagBE == 0 {
			more &^= flagBS
		}
		a.authData = append(hash[:], more|bits&flagBE|flagUP, 0, 0, 0, 0)
		a.signature = sign(a.authData, a.clientData)
		if _, err := a.verify(rp, key, challenge); codeOf(err) != c.asserted {
			t.Errorf("%s: assertion: %v", c.info, err)
		}
		for what, pair := range map[string][2]string{
			"registration": {vectorSum(made.clientData, made.attestation), c.madeSum},
			"assertion":    {vectorSum(a.authData, a.clientData, a.signature), c.assertedSum},
		} {
			if pair[1] != "" && pair[0] != pair[1] {
				t.Errorf("%s: %s is %s", c.info, what, pair[0])
			}
		}
	}
}

func vectorSum(parts ...[]byte) string {
	sum := sha256.Sum256(slices.Concat(parts...))
	return hex.EncodeToString(sum[:8])
}

// A passkey signs for an account like any other signer; its algorithm does not
// matter, its page does.
func TestWebauthnSigners(t *testing.T) {
	for name, alg := range testAlgs {
		t.Run(name, func(t *testing.T) {
			k := newTrustTestAcct(t)
			p := newTestPasskey(t, alg)
			text := k.text(opSignerAdd{p.line("ds")})
			k.bad("no-possession", text, k.b)
			k.applied(k.sign(text, k.b, p))
			text, err := buildDeviceAdd(k.state, trustTestKeys("attic"), trustTestGrant("attic", "server"), trustTestNow)
			added := k.ok(text, err, p)
			if _, ok := k.state.deviceByName("attic"); !ok {
				t.Error("not added:", trustTestNames(k.state))
			}
			elsewhere := *p
			elsewhere.rp.origins = []string{"https://coord.example.com"}
			k.bad("sig-invalid", k.text(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "lost"}), &elsewhere)
			one, two := k.text(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "lost"}), k.text(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "stolen"})
			sig, err := p.sign(stmtNamespace, one)
			if err != nil {
				t.Fatal(err)
			}
			k.refused("sig-invalid", appendRecord(nil, two, []recordSig{sig})) // of another statement
			files, left, err := exportRecord(k.state, added)
			if err != nil || (len(left) == 0) != (alg == coseES256) {
				t.Fatalf("export: %v, %v", left, err)
			}
			if alg == coseES256 {
				sshKeygenVerifies(t, files, p.id())
			}
		})
	}
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	p := newTestPasskey(t, coseEdDSA)
	p.key.pub = trustTestKeys("attic").sign
	k.bad("op-invalid", k.text(opSignerAdd{p.line("ds")}), k.b) // a device's own key
	liar := newTestPasskey(t, coseES256).line("ds")
	liar.id = newTestPasskey(t, coseES256).id()
	k.bad("op-invalid", k.text(opSignerAdd{liar}), k.b)
	den := newTestPasskey(t, coseEdDSA)
	id, err := newIdentity(ed25519.NewKeyFromSeed(trustTestSeed("device den")))
	if err != nil {
		t.Fatal(err)
	}
	den.priv, den.key.pub = id.sign, id.keys.sign
	k.applied(k.sign(k.text(opSignerAdd{den.line("ds")}), k.b, den))
	text := k.text(opDeviceAdd{device: trustTestID("den"), keys: trustTestKeys("den"), grant: trustTestGrant("den", "server")})
	k.bad("op-invalid", text, k.a) // a signer's key
}

// sshKeygenVerifies has stock OpenSSH check what was exported, and refuse it for
// another statement.
func sshKeygenVerifies(t *testing.T, files map[string][]byte, id signerID) {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for altered, text := range map[bool][]byte{false: files["statement"], true: append(bytes.Clone(files["statement"]), '\n')} {
		cmd := exec.Command("ssh-keygen", "-Y", "verify", "-n", stmtNamespace, "-f", filepath.Join(dir, "allowed_signers"), "-I", string(id), "-s", filepath.Join(dir, "statement.sig"))
		cmd.Stdin = bytes.NewReader(text)
		if out, err := cmd.CombinedOutput(); (err != nil) != altered {
			t.Errorf("altered %v: %v: %s", altered, err, out)
		}
	}
}

func FuzzWebauthnAnswers(f *testing.F) {
	challenge := []byte("c")
	for _, alg := range testAlgs {
		p := newTestPasskey(f, alg)
		a, r := p.get(challenge), p.create(challenge)
		f.Add(a.authData, a.clientData, r.attestation)
	}
	f.Fuzz(func(t *testing.T, data, client, attestation []byte) {
		rp := relyingParty{"localhost", []string{"http://localhost:7722"}}
		if checkClientData(client, "webauthn.get", challenge, rp.origins) == nil {
			want := fmt.Sprintf(`{"type":"webauthn.get","challenge":"Yw","origin":"%s"`, rp.origins[0])
			if !strings.HasPrefix(string(client), want) {
				t.Errorf("%q was taken", client)
			}
		}
		for _, fresh := range []bool{false, true} {
			if d, err := parseAuthData(data, fresh); err == nil {
				if n := 37 + len(d.credential) + len(d.cose); fresh && n+18 > len(data) || !fresh && d.flags&flagED == 0 && n != len(data) {
					t.Errorf("%x: %d bytes of %d", data, n, len(data))
				}
			}
		}
		if v, err := parseCBOR(attestation); err == nil && !bytes.Equal(v.append(nil), attestation) {
			t.Errorf("%x is written as %x", attestation, v.append(nil))
		}
		registration{client, attestation}.verify(rp, challenge)
	})
}
