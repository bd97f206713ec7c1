package main

// This file makes statements and records: what the verbs of sessio trust have
// signed. A statement is judged here by the same rules that every device will
// judge it by, before anybody is asked to sign it. It also spells the recovery
// key: printed once when an account is made, kept on paper, typed in when all
// other signers are lost.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ssh"
)

// A stmtSigner signs statements: an SSH key, in memory or behind an agent.
type stmtSigner interface {
	id() signerID
	// sign signs text: a statement in stmtNamespace, what is none in another.
	sign(namespace string, text []byte) (recordSig, error)
}

// sshStmtSigner signs with an SSH key.
type sshStmtSigner struct{ key ssh.Signer }

func (s sshStmtSigner) id() signerID {
	return newSignerID(signerSSH, s.key.PublicKey().Marshal())
}

func (s sshStmtSigner) sign(namespace string, text []byte) (recordSig, error) {
	blob, err := signSSHSig(s.key, namespace, text)
	if err != nil {
		return recordSig{}, err
	}
	return recordSig{s.id(), signerSSH, [][]byte{blob}}, nil
}

// newSSHSignerLine describes an SSH key as a signer of the account.
func newSSHSignerLine(key ssh.PublicKey, powers, label string) (signerLine, error) {
	if _, err := parseSSHKeyBlob(key.Marshal()); err != nil {
		return signerLine{}, err
	}
	if !validName(label) {
		return signerLine{}, fmt.Errorf("signer label %q: only a-z, 0-9 and dashes, at most 32", label)
	}
	return signerLine{
		id: newSignerID(signerSSH, key.Marshal()), kind: signerSSH,
		powers: powers, label: label, key: key.Marshal(),
	}, nil
}

// newPasskeySignerLine describes a passkey just made as a signer on the pages of rp.
func newPasskeySignerLine(p newPasskey, powers, label string, rp relyingParty) signerLine {
	key := p.key.append(nil)
	return signerLine{
		id: newSignerID(signerWebauthn, key), kind: signerWebauthn,
		powers: powers, label: label, rpID: rp.id, origins: rp.origins, key: key, credential: p.credential,
	}
}

// newDeviceGrant puts lists in the order that statements have.
func newDeviceGrant(name string, roles, users, caps []string, expires int64) deviceGrant {
	g := deviceGrant{name: name, roles: sortedSet(roles), users: sortedSet(users), caps: sortedSet(caps), expires: expires}
	if slices.Contains(g.users, "*") {
		g.users = []string{"*"}
	}
	return g
}

func sortedSet(list []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

func buildGenesis(signers []signerLine, now time.Time) ([]byte, error) {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails since Go 1.24
	return (*trustState)(nil).build(opGenesis{nonce, sortedSigners(signers)}, now)
}

func buildSignerAdd(s *trustState, l signerLine, now time.Time) ([]byte, error) {
	return s.build(opSignerAdd{l}, now)
}

func buildSignerRemove(s *trustState, id signerID, since uint64, now time.Time) ([]byte, error) {
	return s.build(opSignerRemove{id, since}, now)
}

func buildDeviceAdd(s *trustState, keys publicKeys, g deviceGrant, now time.Time) ([]byte, error) {
	return s.build(opDeviceAdd{keys.deviceID(), keys, g}, now)
}

func buildDeviceUpdate(s *trustState, id deviceID, g deviceGrant, now time.Time) ([]byte, error) {
	return s.build(opDeviceUpdate{id, g}, now)
}

func buildDeviceRevoke(s *trustState, ids []deviceID, reason string, now time.Time) ([]byte, error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	return s.build(opDeviceRevoke{ids, reason}, now)
}

func buildRecover(s *trustState, since uint64, signers []signerLine, now time.Time) ([]byte, error) {
	return s.build(opRecover{since, sortedSigners(signers)}, now)
}

func sortedSigners(list []signerLine) []signerLine {
	list = slices.Clone(list)
	sortBy(list, func(a, b signerLine) int { return strings.Compare(a.value(), b.value()) })
	return list
}

// build writes body as the statement that follows s and judges it as far as
// that can be done without signatures. It continues the log as it stands, also
// where other branches of it are known.
func (s *trustState) build(body stmtBody, now time.Time) ([]byte, error) {
	s = s.plain()
	st := &statement{time: max(s.lastTime(), now.Unix()), op: body.op(), body: body}
	if s != nil {
		st.acct, st.seq, st.prev = s.acct(), s.seq()+1, s.head()
		if s.unknown != 0 && !st.removal() {
			return nil, errUpdate(s.unknown)
		}
	}
	text := st.append(nil)
	if _, err := parseStatement(text); err != nil {
		return nil, err
	}
	if err := s.checkRules(st); err != nil {
		return nil, err
	}
	return text, nil
}

// signRecord has text signed by everybody and returns the record.
func signRecord(text []byte, signers ...stmtSigner) ([]byte, error) {
	var sigs []recordSig
	for _, s := range signers {
		sig, err := s.sign(stmtNamespace, text)
		if err != nil {
			return nil, fmt.Errorf("signer %s: %w", s.id(), err)
		}
		sigs = append(sigs, sig)
	}
	return newRecord(text, sigs)
}

// newRecord joins a statement and signatures made anywhere.
func newRecord(text []byte, sigs []recordSig) ([]byte, error) {
	raw := appendRecord(nil, text, sigs)
	if _, err := parseRecord(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// readSSHKeygenSig takes the file that ssh-keygen -Y sign has written for the
// statement text.
func readSSHKeygenSig(text, armored []byte) (recordSig, error) {
	blob, err := dearmorSSHSig(armored)
	if err != nil {
		return recordSig{}, err
	}
	s, err := parseSSHSig(blob)
	if err != nil {
		return recordSig{}, err
	}
	key, err := parseSSHKeyBlob(s.claimedKey)
	if err != nil {
		return recordSig{}, err
	}
	if err := s.verify(key, stmtNamespace, text); err != nil {
		return recordSig{}, withHint(err, "sign the very file that was printed, with ssh-keygen -Y sign -n %s", stmtNamespace)
	}
	return recordSig{newSignerID(signerSSH, s.claimedKey), signerSSH, [][]byte{blob}}, nil
}

// exportRecord returns the files by which stock ssh-keygen can audit a record:
//
//	ssh-keygen -Y verify -n sessio-trust@v1 -f allowed_signers -I SIGNER -s statement.sig < statement
//
// A record with more signatures has them in statement.2.sig and so on. The
// first word of each line of allowed_signers is the signer's id. Of passkeys
// OpenSSH knows those on P-256 alone; the signers of others are returned as left.
func exportRecord(s *trustState, raw []byte) (files map[string][]byte, left []signerID, err error) {
	rec, err := parseRecord(raw)
	if err != nil {
		return nil, nil, err
	}
	files = map[string][]byte{"statement": rec.text}
	var allowed bytes.Buffer
	for i, sig := range rec.sigs {
		key, blob, err := sshFormOf(s, rec, sig)
		if errors.Is(err, errNoSSHForm) {
			left = append(left, sig.claimed)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		name := "statement.sig"
		if i > 0 {
			name = fmt.Sprintf("statement.%d.sig", i+1)
		}
		files[name] = armorSSHSig(blob)
		fmt.Fprintf(&allowed, "%s namespaces=%q %s", sig.claimed, stmtNamespace, ssh.MarshalAuthorizedKey(key))
	}
	files["allowed_signers"] = allowed.Bytes()
	return files, left, nil
}

// errNoSSHForm is for signatures that OpenSSH has no form of.
var errNoSSHForm = errors.New("OpenSSH knows no passkeys of this kind")

// sshFormOf returns a signature as ssh-keygen reads it, and the key for it.
func sshFormOf(s *trustState, rec *trustRecord, sig recordSig) (ssh.PublicKey, []byte, error) {
	if sig.kind == signerSSH {
		parsed, err := parseSSHSig(sig.parts[0])
		if err != nil {
			return nil, nil, err
		}
		key, err := parseSSHKeyBlob(parsed.claimedKey)
		return key, sig.parts[0], err
	}
	for _, l := range slices.Concat(s.everSigners(), rec.stmt.newSigners()) {
		if l.id == sig.claimed {
			return passkeySSHSig(l, sig)
		}
	}
	return nil, nil, errNoSSHForm
}

// passkeySSHSig writes a passkey's signature as OpenSSH does one made in a
// browser: PROTOCOL.u2f, "webauthn-sk-ecdsa-sha2-nistp256@openssh.com".
func passkeySSHSig(l signerLine, sig recordSig) (ssh.PublicKey, []byte, error) {
	cose, err := parseCOSE(l.key)
	if err != nil {
		return nil, nil, err
	}
	pub, ok := cose.pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, nil, errNoSSHForm
	}
	point, err := pub.Bytes()
	if err != nil {
		return nil, nil, err
	}
	key, err := parseSSHKeyBlob(ssh.Marshal(struct {
		Type, Curve string
		Point       []byte
		Application string
	}{ssh.KeyAlgoSKECDSA256, "nistp256", point, l.rpID}))
	if err != nil {
		return nil, nil, err
	}
	data, client := sig.parts[0], sig.parts[1]
	parsed, err := parseAuthData(data, false)
	if err != nil {
		return nil, nil, err
	}
	var r, s big.Int
	der := cryptobyte.String(sig.parts[2])
	var seq cryptobyte.String
	if !der.ReadASN1(&seq, asn1.SEQUENCE) || !der.Empty() || !seq.ReadASN1Integer(&r) || !seq.ReadASN1Integer(&s) || !seq.Empty() {
		return nil, nil, errors.New("signature in an odd encoding")
	}
	_, rest, _ := bytes.Cut(client, []byte(`"origin":"`))
	origin, _, _ := bytes.Cut(rest, []byte(`"`))
	return key, (&sshSig{claimedKey: key.Marshal(), namespace: stmtNamespace, hash: sshsigHash, sig: &ssh.Signature{
		Format: "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
		Blob:   ssh.Marshal(struct{ R, S *big.Int }{&r, &s}),
		Rest: ssh.Marshal(struct {
			Flags                      byte
			Counter                    uint32
			Origin, ClientData, Extras []byte
		}{parsed.flags, parsed.signCount, origin, client, data[37:]}),
	}}).blob(), nil
}

const (
	recoveryVersion = 1
	recoveryLabel   = "recovery"
	recoverySum     = 2 // bytes of checksum: 35 bytes are 14 groups without rest
	recoveryLen     = 1 + ed25519.SeedSize + recoverySum
)

// A recoveryKey is the seed of an ed25519 key with power r. Spelt, it is in
// base32, in groups of four:
//
//	version  1 byte   1
//	seed    32 bytes
//	sum      2 bytes  SHA-256("sessio-recovery-v1\n" ‖ version ‖ seed), first two
type recoveryKey [ed25519.SeedSize]byte

func newRecoveryKey() (k recoveryKey) {
	rand.Read(k[:]) // never fails since Go 1.24
	return k
}

// String is what is printed: 14 groups of 4 characters.
func (k recoveryKey) String() string {
	b := append([]byte{recoveryVersion}, k[:]...)
	b = append(b, recoveryChecksum(b)...)
	text := base32Lower.EncodeToString(b)
	var groups []string
	for len(text) > 0 {
		groups = append(groups, text[:4])
		text = text[4:]
	}
	return strings.Join(groups, "-")
}

func recoveryChecksum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte("sessio-recovery-v1\n"), b...))
	return sum[:recoverySum]
}

// parseRecoveryKey reads what was typed: case, spaces, dashes and line ends do
// not matter. Errors name no part of the key.
func parseRecoveryKey(typed string) (k recoveryKey, err error) {
	drop := func(r rune) rune {
		if strings.ContainsRune(" -\t\r\n", r) {
			return -1
		}
		return r
	}
	text := strings.ToLower(strings.Map(drop, typed))
	for i, r := range text {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz234567", r) {
			return k, fmt.Errorf("recovery key: character %d is none of a-z and 2-7", i+1)
		}
	}
	if want := base32Lower.EncodedLen(recoveryLen); len(text) != want {
		return k, fmt.Errorf("recovery key: %d characters, not %d", len(text), want)
	}
	b, err := base32Lower.DecodeString(text)
	if err != nil {
		return k, errors.New("recovery key: not base32")
	}
	body, sum := b[:len(b)-recoverySum], b[len(b)-recoverySum:]
	if string(sum) != string(recoveryChecksum(body)) {
		return k, errors.New("recovery key: mistyped, its checksum does not fit")
	}
	if body[0] != recoveryVersion {
		return k, withHint(fmt.Errorf("recovery key: version %d is not known here", body[0]), "update sessio on this machine")
	}
	return recoveryKey(body[1:]), nil
}

// signer is the key as one that signs statements.
func (k recoveryKey) signer() sshStmtSigner {
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(k[:]))
	if err != nil {
		panic("ed25519 signer refused: " + err.Error())
	}
	return sshStmtSigner{s}
}

// line is the key as a signer of the account.
func (k recoveryKey) line() signerLine {
	pub := k.signer().key.PublicKey().Marshal()
	return signerLine{id: newSignerID(signerSSH, pub), kind: signerSSH, powers: "r", label: recoveryLabel, key: pub}
}
