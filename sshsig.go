package main

// This file makes, reads and checks SSH signatures of messages (SSHSIG, as
// ssh-keygen -Y makes them; OpenSSH's PROTOCOL.sshsig), and the records that hold
// them: a statement with its signatures, the bytes that logs hold and peers
// exchange. Trust statements are signed by nothing else.

import (
	"bytes"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/ssh"
)

const (
	sshsigMagic   = "SSHSIG"
	sshsigVersion = 1
	sshsigHash    = "sha512" // what ssh-keygen takes unless told otherwise
	sshsigArmor   = "SSH SIGNATURE"

	// maxSSHSig bounds a signature in bytes: the longest key (sk-ecdsa with
	// an application of 64) and its signature take under 500.
	maxSSHSig = 2 << 10
)

// sshsigTypes are the kinds of keys that may sign: short, fast to check, and
// known to every OpenSSH since 8.2.
var sshsigTypes = []string{
	ssh.KeyAlgoED25519,
	ssh.KeyAlgoECDSA256,
	ssh.KeyAlgoSKED25519,
	ssh.KeyAlgoSKECDSA256,
}

// An sshSig is an SSHSIG blob taken apart. The key in it is what the signature
// claims; verify compares it with the one expected.
type sshSig struct {
	claimedKey []byte // SSH wire form
	namespace  string
	hash       string
	sig        *ssh.Signature
}

// sshsigWire is the blob after the six bytes of the magic.
type sshsigWire struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  string
	Hash      string
	Signature []byte
}

// parseSSHKeyBlob reads a public key of one of sshsigTypes in its one encoding.
func parseSSHKeyBlob(blob []byte) (ssh.PublicKey, error) {
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if !slices.Contains(sshsigTypes, key.Type()) {
		return nil, fmt.Errorf("a key of type %s cannot sign statements, only ed25519, ecdsa on P-256 and their security keys", key.Type())
	}
	if !bytes.Equal(key.Marshal(), blob) {
		return nil, errors.New("public key in an odd encoding")
	}
	return key, nil
}

// sshsigInput is B(namespace, message): the bytes that the key signs. For
// trust statements they are 107.
func sshsigInput(namespace string, message []byte) []byte {
	sum := sha512.Sum512(message)
	return append([]byte(sshsigMagic), ssh.Marshal(struct {
		Namespace, Reserved, Hash string
		Sum                       []byte
	}{namespace, "", sshsigHash, sum[:]})...)
}

// parseSSHSig reads a blob that has no tail.
func parseSSHSig(blob []byte) (*sshSig, error) {
	rest, ok := bytes.CutPrefix(blob, []byte(sshsigMagic))
	if !ok || len(blob) > maxSSHSig {
		return nil, errors.New("not an SSH signature")
	}
	var w sshsigWire
	if err := ssh.Unmarshal(rest, &w); err != nil {
		return nil, fmt.Errorf("SSH signature: %w", err)
	}
	if w.Version != sshsigVersion {
		return nil, fmt.Errorf("SSH signature of version %d", w.Version)
	}
	if w.Reserved != "" {
		return nil, errors.New("SSH signature with bytes in its reserved field")
	}
	s := &sshSig{claimedKey: w.PublicKey, namespace: w.Namespace, hash: w.Hash, sig: new(ssh.Signature)}
	if err := ssh.Unmarshal(w.Signature, s.sig); err != nil {
		return nil, fmt.Errorf("SSH signature: %w", err)
	}
	return s, nil
}

// blob is the inverse of parseSSHSig.
func (s *sshSig) blob() []byte {
	return append([]byte(sshsigMagic), ssh.Marshal(sshsigWire{
		Version:   sshsigVersion,
		PublicKey: s.claimedKey,
		Namespace: s.namespace,
		Hash:      s.hash,
		Signature: ssh.Marshal(s.sig),
	})...)
}

// signSSHSig signs message with key and returns the blob. What an agent gave
// back is checked before it goes anywhere.
func signSSHSig(key ssh.Signer, namespace string, message []byte) ([]byte, error) {
	pub := key.PublicKey()
	if _, err := parseSSHKeyBlob(pub.Marshal()); err != nil {
		return nil, err
	}
	sig, err := key.Sign(rand.Reader, sshsigInput(namespace, message))
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	s := &sshSig{claimedKey: pub.Marshal(), namespace: namespace, hash: sshsigHash, sig: sig}
	if err := s.verify(pub, namespace, message); err != nil {
		return nil, err
	}
	return s.blob(), nil
}

// verify reports whether s is key's signature of message in namespace.
func (s *sshSig) verify(key ssh.PublicKey, namespace string, message []byte) error {
	switch {
	case !bytes.Equal(s.claimedKey, key.Marshal()):
		return errors.New("the signature is by another key")
	case s.namespace != namespace:
		return fmt.Errorf("the signature is for namespace %.80q, not %q", s.namespace, namespace)
	case s.hash != sshsigHash:
		return fmt.Errorf("the signature hashes by %.80q, not %s", s.hash, sshsigHash)
	case s.sig.Format != key.Type():
		return fmt.Errorf("the signature is of type %.80q, its key of %s", s.sig.Format, key.Type())
	}
	if err := checkSSHSigFlags(key.Type(), s.sig.Rest); err != nil {
		return err
	}
	if err := key.Verify(sshsigInput(namespace, message), s.sig); err != nil {
		return fmt.Errorf("the signature does not fit: %w", err)
	}
	return nil
}

// checkSSHSigFlags demands of a security key that its owner was present (UP)
// and was verified by PIN or finger (UV): a touch alone is not enough to change
// who is trusted. The flags are covered by the signature. OpenSSH's
// PROTOCOL.u2f, "SSH U2F Signatures": byte flags, uint32 counter.
func checkSSHSigFlags(keyType string, rest []byte) error {
	const userPresent, userVerified = 0x01, 0x04
	if keyType != ssh.KeyAlgoSKED25519 && keyType != ssh.KeyAlgoSKECDSA256 {
		if len(rest) != 0 {
			return errors.New("the signature has bytes behind its end")
		}
		return nil
	}
	if len(rest) != 5 {
		return errors.New("the security key's signature has no flags and counter")
	}
	if rest[0]&userPresent == 0 {
		return errors.New("the security key was not touched")
	}
	if rest[0]&userVerified == 0 {
		return withHint(errors.New("the security key did not verify its user"),
			"make the key with ssh-keygen -O verify-required")
	}
	return nil
}

// armorSSHSig is the text form that ssh-keygen -Y writes and reads.
func armorSSHSig(blob []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: sshsigArmor, Bytes: blob})
}

// dearmorSSHSig reads the text form.
func dearmorSSHSig(text []byte) ([]byte, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != sshsigArmor || len(block.Headers) != 0 {
		return nil, errors.New("not an SSH signature (the file that ssh-keygen -Y sign writes)")
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("SSH signature with text behind its end")
	}
	return block.Bytes, nil
}

const (
	maxRecord     = 16 << 10 // bytes, judged before parsing
	maxRecordSigs = 8
)

// stmtNamespace is what signatures of statements are made for.
const stmtNamespace = "sessio-trust@v1"

// A trustRecord is a record taken apart. Its signatures are claims until apply
// has judged them. The bytes are SSH strings, with no tail:
//
//	string  statement
//	uint32  count of signatures, 1 to 8; for each:
//	string  signer id
//	string  kind
//	string  ssh: SSHSIG blob
//	        webauthn: authenticatorData, string clientDataJSON, string signature
type trustRecord struct {
	text []byte // the statement as signed
	stmt *statement
	hash stmtHash
	sigs []recordSig
}

// A recordSig is one signature, by the signer that it claims.
type recordSig struct {
	claimed signerID
	kind    string
	parts   [][]byte // one for ssh, three for webauthn
}

// sigParts is how many strings a signature of each kind has.
var sigParts = map[string]int{signerSSH: 1, signerWebauthn: 3}

// parseRecord reads b. Errors have the code record-malformed, or that of the
// statement.
func parseRecord(b []byte) (*trustRecord, error) {
	text, sigs, err := splitRecord(b)
	if err != nil {
		return nil, err
	}
	st, err := parseStatement(text)
	if err != nil {
		return nil, err
	}
	return &trustRecord{text, st, hashStatement(text), sigs}, nil
}

// splitRecord finds the parts of a record without reading the statement.
func splitRecord(b []byte) (text []byte, sigs []recordSig, err error) {
	if len(b) > maxRecord {
		return nil, nil, coded("record-malformed", "a record of %d bytes, at most %d", len(b), maxRecord)
	}
	s := cryptobyte.String(b)
	var count uint32
	if !readSSHString(&s, &text) || !s.ReadUint32(&count) {
		return nil, nil, coded("record-malformed", "a record cut short")
	}
	if count < 1 || count > maxRecordSigs {
		return nil, nil, coded("record-malformed", "a record with %d signatures, not 1 to %d", count, maxRecordSigs)
	}
	seen := map[signerID]bool{}
	for range count {
		sig, err := readRecordSig(&s)
		if err != nil {
			return nil, nil, err
		}
		if seen[sig.claimed] {
			return nil, nil, coded("record-malformed", "a record with two signatures by %s", sig.claimed)
		}
		seen[sig.claimed] = true
		sigs = append(sigs, sig)
	}
	if !s.Empty() {
		return nil, nil, coded("record-malformed", "a record with %d bytes behind its end", len(s))
	}
	return text, sigs, nil
}

func readRecordSig(s *cryptobyte.String) (sig recordSig, err error) {
	var id, kind []byte
	if !readSSHString(s, &id) || !readSSHString(s, &kind) {
		return sig, coded("record-malformed", "a signature cut short")
	}
	sig = recordSig{claimed: signerID(id), kind: string(kind)}
	if !validID(string(id), 's') || sigParts[sig.kind] == 0 {
		return sig, coded("record-malformed", "a signature of kind %.80q by %.80q", kind, id)
	}
	for range sigParts[sig.kind] {
		var part []byte
		if !readSSHString(s, &part) {
			return sig, coded("record-malformed", "a signature cut short")
		}
		sig.parts = append(sig.parts, part)
	}
	return sig, nil
}

// appendRecord is the inverse of splitRecord.
func appendRecord(b, text []byte, sigs []recordSig) []byte {
	b = appendSSHString(b, text)
	b = binary.BigEndian.AppendUint32(b, uint32(len(sigs)))
	for _, sig := range sigs {
		b = appendSSHString(b, []byte(sig.claimed))
		b = appendSSHString(b, []byte(sig.kind))
		for _, part := range sig.parts {
			b = appendSSHString(b, part)
		}
	}
	return b
}

// readSSHString reads an SSH string (RFC 4251, section 5). out points into s.
func readSSHString(s *cryptobyte.String, out *[]byte) bool {
	var n uint32
	return s.ReadUint32(&n) && n <= maxRecord && s.ReadBytes(out, int(n))
}

func appendSSHString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// verify checks a statement's signature against the signer that it claims to be
// by.
func (sig recordSig) verify(by signerLine, text []byte) error {
	return sig.verifyIn(stmtNamespace, by, text)
}

// verifyIn is verify for what is no statement.
func (sig recordSig) verifyIn(namespace string, by signerLine, text []byte) error {
	if sig.kind != by.kind {
		return fmt.Errorf("a signature of kind %s by a signer of kind %s", sig.kind, by.kind)
	}
	if by.kind == signerWebauthn {
		key, err := parseCOSE(by.key)
		if err != nil {
			return err
		}
		a := assertion{authData: sig.parts[0], clientData: sig.parts[1], signature: sig.parts[2]}
		_, err = a.verify(relyingParty{by.rpID, by.origins}, key, sshsigInput(namespace, text))
		return err
	}
	key, err := parseSSHKeyBlob(by.key)
	if err != nil {
		return err
	}
	s, err := parseSSHSig(sig.parts[0])
	if err != nil {
		return err
	}
	return s.verify(key, namespace, text)
}
