package main

// This file names things: accounts, devices, signers and coordinators by the
// hashes of what they are, people's names for them, and words to compare aloud.

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// An acctID is the hash of an account's first statement: the pin that a
// machine gets at join.
type acctID [32]byte

func (a acctID) String() string { return hex.EncodeToString(a[:]) }
func (a acctID) isZero() bool   { return a == acctID{} }

// parseAcctID reads 64 lower-case hex digits.
func parseAcctID(s string) (a acctID, err error) {
	if len(s) != 64 || strings.ToLower(s) != s {
		return a, fmt.Errorf("account id %q is not 64 lower-case hex digits", s)
	}
	if _, err := hex.Decode(a[:], []byte(s)); err != nil {
		return acctID{}, fmt.Errorf("account id %q is not 64 lower-case hex digits", s)
	}
	return a, nil
}

// A deviceID is "d" and 25 characters of base32; a signerID "s" and 25. A
// coordID is a whole hash in base32, 52 characters.
type (
	deviceID string
	signerID string
	coordID  string
)

const idLen = 26

// base32Lower is RFC 4648 base32 in lower case without padding.
var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// publicKeys are the two keys of a device or of a coordinator. Their hash is
// the id, so that neither can be swapped.
type publicKeys struct {
	sign ed25519.PublicKey // 32 bytes: SSH host key, SSH user key, TLS key
	path [32]byte          // X25519: seals datagrams
}

// sshKey is the signing key as SSH knows it.
func (k publicKeys) sshKey() ssh.PublicKey {
	pub, err := ssh.NewPublicKey(k.sign)
	if err != nil {
		panic("ed25519 key refused: " + err.Error()) // only for a key of wrong length
	}
	return pub
}

func (k publicKeys) hash(domain string) [32]byte {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write(k.sshKey().Marshal())
	h.Write(k.path[:])
	return [32]byte(h.Sum(nil))
}

func (k publicKeys) deviceID() deviceID {
	h := k.hash("sessio-device-v1\n")
	return deviceID("d" + base32Lower.EncodeToString(h[:])[:25])
}

// deviceWords are 4 words to compare aloud: the first 8 bytes of the hash
// that the device id is made of.
func (k publicKeys) deviceWords() string {
	h := k.hash("sessio-device-v1\n")
	return words(h[:8])
}

func (k publicKeys) coordID() coordID {
	h := k.hash("sessio-coord-v1\n")
	return coordID(base32Lower.EncodeToString(h[:]))
}

// acctWords are 6 words, headWords 4: the first 12 and 8 bytes.
func acctWords(a acctID) string      { return words(a[:12]) }
func headWords(head [32]byte) string { return words(head[:8]) }

// words spells b, of even length, as proquints: 16 bits a word, consonant,
// vowel, consonant, vowel, consonant, joined by dashes.
func words(b []byte) string {
	const con, vow = "bdfghjklmnprstvz", "aiou"
	var s strings.Builder
	for i := 0; i+1 < len(b); i += 2 {
		n := uint(b[i])<<8 | uint(b[i+1])
		if i > 0 {
			s.WriteByte('-')
		}
		s.WriteByte(con[n>>12&15])
		s.WriteByte(vow[n>>10&3])
		s.WriteByte(con[n>>6&15])
		s.WriteByte(vow[n>>4&3])
		s.WriteByte(con[n&15])
	}
	return s.String()
}

// validName reports whether s may name a device or label a signer:
// [a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?
func validName(s string) bool {
	if len(s) < 1 || len(s) > 32 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// foldName makes a name of a host name: lower case, dashes for all else, what
// stands before the first dot. It returns "" when nothing is left.
func foldName(host string) string {
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	var s strings.Builder
	for _, r := range host {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			s.WriteRune(r)
		} else {
			s.WriteByte('-')
		}
	}
	name := strings.Trim(s.String(), "-")
	if len(name) > 32 {
		name = strings.Trim(name[:32], "-")
	}
	return name
}

// validLogin reports whether s is a login user of the grammar
// [a-z_][a-z0-9_-]{0,31}. "*" (any user) is not one.
func validLogin(s string) bool {
	if len(s) < 1 || len(s) > 32 || s[0] == '-' || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// validID reports whether s has the form of a device or signer id, by prefix
// 'd' or 's'.
func validID(s string, prefix byte) bool {
	return len(s) == idLen && s[0] == prefix &&
		strings.Trim(s[1:], "abcdefghijklmnopqrstuvwxyz234567") == ""
}
