package main

// This file spells the recovery key: printed once when an account is made, kept
// on paper, typed in when all other signers are lost.

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

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
