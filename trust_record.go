package main

// This file reads and writes records: a statement with its signatures, the
// bytes that logs hold and peers exchange.

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

const (
	maxRecord     = 16 << 10 // bytes, judged before parsing
	maxRecordSigs = 8
)

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
		return sig, coded("record-malformed", "a signature of kind %q by %q", kind, id)
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

// verify checks the signature against the signer that it claims to be by.
func (sig recordSig) verify(by signerLine, text []byte) error {
	if sig.kind != by.kind {
		return fmt.Errorf("a signature of kind %s by a signer of kind %s", sig.kind, by.kind)
	}
	if by.kind != signerSSH {
		return errWebauthnUnsupported
	}
	key, err := parseSSHKeyBlob(by.key)
	if err != nil {
		return err
	}
	s, err := parseSSHSig(sig.parts[0])
	if err != nil {
		return err
	}
	return s.verify(key, stmtNamespace, text)
}
