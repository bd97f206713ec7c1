package main

// This file reads and writes the words that people paste, and makes what
// follows from a ticket's secret. A word is
//
//	s1/HOST:PORT/KEYS               a coordinator
//	s1/HOST:PORT/KEYS/CLAIM         where an account may be made, once
//	s1/HOST:PORT/KEYS/ACCT          an account, to recover it
//	s1/HOST:PORT/KEYS/ACCT/SECRET   a ticket: its bearer may ask to join
//
// KEYS is the coordinator id, ACCT the account id (32 bytes each), CLAIM and
// SECRET 16 bytes; all in base32 of lower case. An IPv6 host is in brackets.

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// A ticketSecret is what a ticket proves to who made it.
type ticketSecret [16]byte

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
		b = append(append32(b, uint32(len(f))), f...)
	}
	mac := hmac.New(sha256.New, secret[:])
	mac.Write(b)
	return [32]byte(mac.Sum(nil))
}
