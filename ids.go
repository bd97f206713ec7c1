package main

// This file names things: accounts, devices, signers and coordinators by the
// hashes of what they are, people's names for them, words to compare aloud, and
// the words that people paste. Such a word is
//
// 	s1/HOST:PORT/KEYS               a coordinator
// 	s1/HOST:PORT/KEYS/CLAIM         where an account may be made, once
// 	s1/HOST:PORT/KEYS/ACCT          an account, to recover it
// 	s1/HOST:PORT/KEYS/ACCT/SECRET   a ticket: its bearer may ask to join
//
// KEYS is the coordinator id, ACCT the account id (32 bytes each), CLAIM and
// SECRET 16 bytes; all in base32 of lower case. An IPv6 host is in brackets.

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
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

// fingerprint is a device's identity as ssh-keygen -l shows it.
func fingerprint(k publicKeys) string { return ssh.FingerprintSHA256(k.sshKey()) }

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

// b64url is how pages and the program write bytes.
var b64url = base64.RawURLEncoding

// A ticketSecret is what a ticket proves to who made it.
type ticketSecret [16]byte

// A claimSecret lets one account be made; zero = none.
type claimSecret [16]byte

// A ticketHash names a ticket to who does not have it.
type ticketHash [32]byte

// A coordWord is what a word says. Of claim, acct and secret those that it
// does not have are zero.
type coordWord struct {
	addr   string  // host:port
	keys   coordID // hash of the coordinator's keys
	claim  claimSecret
	acct   acctID
	secret ticketSecret
}

// isTicket reports whether the word admits a machine.
func (w coordWord) isTicket() bool { return w.secret != ticketSecret{} }

func (w coordWord) String() string {
	s := "s1/" + w.addr + "/" + string(w.keys)
	if w.claim != (claimSecret{}) {
		s += "/" + base32Lower.EncodeToString(w.claim[:])
	}
	if !w.acct.isZero() {
		s += "/" + base32Lower.EncodeToString(w.acct[:])
	}
	if w.isTicket() {
		s += "/" + base32Lower.EncodeToString(w.secret[:])
	}
	return s
}

func parseCoordWord(s string) (w coordWord, err error) {
	f := strings.Split(s, "/")
	if f[0] != "s1" || len(f) < 3 || len(f) > 5 {
		return w, fmt.Errorf("%q is not of the form s1/HOST:PORT/KEYS…", s)
	}
	if w.addr, err = parseCoordAddr(f[1]); err != nil {
		return w, err
	}
	var keys [32]byte
	if !decodeWord(keys[:], f[2]) {
		return w, fmt.Errorf("%q is not the hash of a coordinator's keys", f[2])
	}
	w.keys = coordID(f[2])
	ok := true
	switch {
	case len(f) == 4 && len(f[3]) == base32Lower.EncodedLen(len(w.claim)):
		ok = decodeWord(w.claim[:], f[3]) && w.claim != (claimSecret{})
	case len(f) >= 4:
		ok = decodeWord(w.acct[:], f[3]) && !w.acct.isZero()
	}
	if !ok {
		return coordWord{}, fmt.Errorf("%q is neither a claim nor an account", f[3])
	}
	if len(f) == 5 && (!decodeWord(w.secret[:], f[4]) || !w.isTicket()) {
		return coordWord{}, fmt.Errorf("%q is not a ticket's secret", f[4])
	}
	return w, nil
}

// decodeWord fills b from base32, of which there is one spelling.
func decodeWord(b []byte, s string) bool {
	if len(s) != base32Lower.EncodedLen(len(b)) {
		return false
	}
	n, err := base32Lower.Decode(b, []byte(s))
	return err == nil && n == len(b) && base32Lower.EncodeToString(b) == s
}

// parseCoordAddr checks a host:port that will be typed into shells.
func parseCoordAddr(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("address %q: %w", s, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return "", fmt.Errorf("address %q: port %q is not 1 to 65535", s, port)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
		return net.JoinHostPort(ip.String(), port), nil
	}
	host = strings.ToLower(host)
	if host == "" || len(host) > 253 || host[0] == '-' || strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return "", fmt.Errorf("address %q: %q is no host name", s, host)
	}
	return net.JoinHostPort(host, port), nil
}

// hashTicket is what the coordinator knows a ticket by.
func hashTicket(secret ticketSecret) ticketHash {
	return sha256.Sum256(append([]byte("sessio-ticket-v1\n"), secret[:]...))
}

// joinProof shows to who has the ticket that its bearer asked for exactly
// this, an HMAC-SHA-256 under the secret over
//
//	"sessio-join-v1\n"
//	acct          32 bytes
//	sign, path    4 bytes length and key, each
//	name, login   4 bytes length and text, each
func joinProof(secret ticketSecret, acct acctID, keys publicKeys, name, login string) [32]byte {
	b := append([]byte("sessio-join-v1\n"), acct[:]...)
	for _, f := range [][]byte{keys.sign, keys.path[:], []byte(name), []byte(login)} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	mac := hmac.New(sha256.New, secret[:])
	mac.Write(b)
	return [32]byte(mac.Sum(nil))
}
