package main

// This file checks what passkeys answer: the assertion by which one signs, and
// the registration by which one is made (W3C WebAuthn Level 3, sections 7.1 and
// 7.2). It knows bytes alone; who asked what, and whether that was asked only
// once, is its callers' to know.

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxCredentialID = 1023 // §4, "Credential ID"
	// maxClientData and maxAttestation bound what a browser sends, in bytes.
	maxClientData  = 4 << 10
	maxAttestation = 16 << 10
	// maxAuthData bounds the authenticator data of an assertion, and its
	// extensions with it.
	maxAuthData = 1 << 10
	// maxPasskeySig bounds a signature: RSA of 8,192 bits.
	maxPasskeySig = 1 << 10
)

// Flags of authenticator data (§6.1). The other two bits are reserved, and
// ignored as it says.
const (
	flagUP = 0x01 // the user was present
	flagUV = 0x04 // and was verified by PIN, finger or face
	flagBE = 0x08 // the passkey may be backed up
	flagBS = 0x10 // and is
	flagAT = 0x40 // the new passkey stands here
	flagED = 0x80 // extensions stand here
)

// A relyingParty is whom a passkey answers, and from which pages.
type relyingParty struct {
	id      string
	origins []string
}

// An assertion is a passkey's answer as a browser sent it. Nothing in it may be
// believed until verify has returned no error.
type assertion struct{ authData, clientData, signature []byte }

// verify checks that the passkey with this key has signed the challenge, on a
// page of rp, and that its user was present and verified. What it returns has
// then been signed.
func (a assertion) verify(rp relyingParty, key coseKey, challenge []byte) (authData, error) {
	if len(a.authData) > maxAuthData || len(a.clientData) > maxClientData || len(a.signature) > maxPasskeySig {
		return authData{}, coded("wa-size", "an answer of %d, %d and %d bytes", len(a.authData), len(a.clientData), len(a.signature))
	}
	if err := checkClientData(a.clientData, "webauthn.get", challenge, rp.origins); err != nil {
		return authData{}, err
	}
	d, err := parseAuthData(a.authData, false)
	if err != nil {
		return authData{}, err
	}
	if err := d.check(rp.id); err != nil {
		return authData{}, err
	}
	sum := sha256.Sum256(a.clientData)
	if !key.verify(slices.Concat(a.authData, sum[:]), a.signature) {
		return authData{}, coded("wa-signature", "the signature does not fit the passkey")
	}
	return d, nil
}

// A registration is the answer to making a passkey. What it says of the device
// that made it is not looked at: none is better than another.
type registration struct{ clientData, attestation []byte }

// A newPasskey is what a registration brought: a claim, until the passkey has
// signed something.
type newPasskey struct {
	authData
	key coseKey
}

func (r registration) verify(rp relyingParty, challenge []byte) (p newPasskey, err error) {
	if len(r.clientData) > maxClientData || len(r.attestation) > maxAttestation {
		return p, coded("wa-size", "an answer of %d and %d bytes", len(r.clientData), len(r.attestation))
	}
	if err := checkClientData(r.clientData, "webauthn.create", challenge, rp.origins); err != nil {
		return p, err
	}
	v, err := parseCBOR(r.attestation)
	if err != nil {
		return p, err
	}
	format, okFormat := v.text("fmt")
	stmt, okStmt := v.text("attStmt")
	data, okData := v.text("authData")
	if !okFormat || !okStmt || !okData || len(v.items) != 2*3 ||
		format.major != cborText || stmt.major != cborMap || data.major != cborBytes {
		return p, coded("cbor-malformed", "not an attestation object")
	}
	if p.authData, err = parseAuthData(data.b, true); err != nil {
		return p, err
	}
	if err := p.check(rp.id); err != nil {
		return p, err
	}
	p.key, err = parseCOSE(p.cose)
	return p, err
}

// checkClientData reads what the browser says it was asked. Type, challenge and
// origin stand first, in this order and spelling (§5.8.1.1): programs that read
// JSON do not agree on members that stand twice or differ in case, so there must
// be none of those either.
func checkClientData(b []byte, typ string, challenge []byte, origins []string) error {
	if !utf8.Valid(b) {
		return coded("wa-json", "the browser's data is no UTF-8")
	}
	crossOrigin, err := readClientData(b)
	if err != nil {
		return err
	}
	rest, ok := bytes.CutPrefix(b, []byte(`{"type":"`+typ+`","challenge":"`))
	if !ok {
		return coded("wa-type", "the browser's data does not begin as that of %s", typ)
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(base64.RawURLEncoding.EncodeToString(challenge)+`","origin":"`)); !ok {
		return coded("wa-challenge", "it answers another question than the one asked")
	}
	origin, rest, ok := bytes.Cut(rest, []byte(`"`))
	if !ok || !slices.Contains(origins, string(origin)) || len(rest) == 0 || rest[0] != ',' && rest[0] != '}' {
		return coded("wa-origin", "it was made on the page of %.80q, not of %s", origin, strings.Join(origins, " or "))
	}
	if crossOrigin {
		return coded("wa-crossorigin", "the page was part of another site's page")
	}
	return nil
}

// readClientData reads b as JSON: an object whose members all differ, in more
// than the case of their names.
func readClientData(b []byte) (crossOrigin bool, err error) {
	malformed := func() (bool, error) {
		return false, coded("wa-json", "the browser's data is no JSON, or a member of it stands twice")
	}
	in := json.NewDecoder(bytes.NewReader(b))
	if tok, err := in.Token(); err != nil || tok != json.Delim('{') {
		return malformed()
	}
	var seen []string
	for in.More() {
		tok, err := in.Token()
		name, ok := tok.(string)
		if err != nil || !ok || slices.ContainsFunc(seen, func(s string) bool { return strings.EqualFold(s, name) }) {
			return malformed()
		}
		seen = append(seen, name)
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return malformed()
		}
		switch {
		case strings.EqualFold(name, "topOrigin"), strings.EqualFold(name, "crossOrigin") && string(value) != "false":
			crossOrigin = true
		}
	}
	if _, err := in.Token(); err != nil {
		return malformed()
	}
	if _, err := in.Token(); err != io.EOF {
		return malformed()
	}
	return crossOrigin, nil
}

// An authData is authenticator data (§6.1):
//
//	rpIdHash    32 bytes  SHA-256 of the relying party's id
//	flags       1 byte
//	signCount   4 bytes   big endian
//	            with flagAT, for a new passkey: aaguid 16, length 2, that many
//	            bytes of its id, and its key in COSE
//	            with flagED: extensions, a map in CBOR
type authData struct {
	rpIDHash   [32]byte
	flags      byte
	signCount  uint32 // information alone: synced passkeys have none
	credential []byte // only of a new passkey, as is
	cose       []byte // its key, not read yet
}

// parseAuthData reads b, which has no tail. fresh: that of a new passkey.
func parseAuthData(b []byte, fresh bool) (d authData, err error) {
	short := coded("wa-authdata", "the passkey's data is cut short, or its parts do not fit its flags")
	if len(b) < 37 {
		return d, short
	}
	d.rpIDHash, d.flags, d.signCount = [32]byte(b), b[32], binary.BigEndian.Uint32(b[33:])
	b = b[37:]
	if (d.flags&flagAT != 0) != fresh {
		return d, short
	}
	if fresh {
		if len(b) < 18 {
			return d, short
		}
		n := int(binary.BigEndian.Uint16(b[16:]))
		if b = b[18:]; n < 1 || n > maxCredentialID || n > len(b) {
			return d, short
		}
		d.credential, b = b[:n], b[n:]
		_, rest, err := readCBOR(b, maxCBORDepth)
		if err != nil {
			return d, err
		}
		d.cose, b = b[:len(b)-len(rest)], rest
	}
	if d.flags&flagED != 0 {
		v, rest, err := readCBOR(b, maxCBORDepth)
		if err != nil {
			return d, err
		}
		if b = rest; v.major != cborMap {
			return d, short
		}
	}
	if len(b) > 0 {
		return d, short
	}
	return d, nil
}

// check demands that the data is for rpID, and that somebody was there and was
// known to the passkey.
func (d authData) check(rpID string) error {
	switch {
	case d.rpIDHash != sha256.Sum256([]byte(rpID)):
		return coded("wa-rpid", "the passkey answers somebody else than %s", rpID)
	case d.flags&flagUP == 0:
		return coded("wa-up", "nobody was there to touch the passkey")
	case d.flags&flagUV == 0:
		return withHint(coded("wa-uv", "the passkey did not verify its user"),
			"a passkey that signs needs a PIN, a finger or a face")
	case d.flags&flagBS != 0 && d.flags&flagBE == 0:
		return coded("wa-backup", "the passkey is backed up and may not be")
	}
	return nil
}
