package main

// This file makes and checks what is kept of a password: argon2id (RFC 9106) in
// the PHC string format, or bcrypt. It knows no user and no file.

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// What hash-password makes: OWASP's least for argon2id, 19 MiB of memory.
// It is the same work on a router and a server: a router can afford no more.
var argonDefault = passwordHash{memory: 19456, time: 2, threads: 1}

const (
	saltSize = 16 // bytes, as RFC 9106, section 3.1 recommends; the same
	argonKey = 32 // bytes

	// Bounds of hashes that others made: one check takes at most 256 MiB, and
	// some seconds.
	maxArgonMemory = 256 << 10 // KiB
	maxArgonTime   = 16
	maxArgonLanes  = 16
	maxBcryptCost  = 15
)

// A passwordHash is what is known of a password. parsePasswordHash is its source.
type passwordHash struct {
	bcrypt []byte // all of it; the rest is unused then

	memory, time uint32 // KiB, passes
	threads      uint8
	salt, key    []byte
}

// hashPassword is what a users file holds for a password. A salt is used once.
func hashPassword(pw, salt []byte) string {
	h := argonDefault
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.threads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(h.derive(pw, salt, argonKey)))
}

func (h passwordHash) derive(pw, salt []byte, size int) []byte {
	return argon2.IDKey(pw, salt, h.time, h.memory, h.threads, uint32(size))
}

// matches takes as long for a wrong password as for the right one.
func (h passwordHash) matches(pw []byte) bool {
	if h.bcrypt != nil {
		return bcrypt.CompareHashAndPassword(h.bcrypt, pw) == nil
	}
	return len(h.key) > 0 && subtle.ConstantTimeCompare(h.derive(pw, h.salt, len(h.key)), h.key) == 1
}

// parsePasswordHash reads a hash. Its errors do not show it.
func parsePasswordHash(s string) (h passwordHash, err error) {
	switch kind, _, _ := strings.Cut(strings.TrimPrefix(s, "$"), "$"); {
	case !strings.HasPrefix(s, "$"):
		err = errors.New("no password hash")
	case kind == "argon2id":
		h, err = parseArgon(s)
	case kind == "2a" || kind == "2b" || kind == "2y":
		h, err = parseBcrypt(s)
	default:
		err = errors.New("a password hash of another kind: argon2id and bcrypt ($2a, $2b, $2y) are allowed")
	}
	if err != nil {
		return passwordHash{}, withHint(err, "sessio hash-password makes one")
	}
	return h, nil
}

func parseArgon(s string) (h passwordHash, err error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return h, fmt.Errorf("an argon2id hash is $argon2id$v=%d$m=…,t=…,p=…$SALT$HASH", argon2.Version)
	}
	params := strings.Split(parts[3], ",")
	var threads uint32
	if len(params) != 3 ||
		!argonParam(&h.memory, params[0], "m=", 8, maxArgonMemory) ||
		!argonParam(&h.time, params[1], "t=", 1, maxArgonTime) ||
		!argonParam(&threads, params[2], "p=", 1, maxArgonLanes) || h.memory < 8*threads {
		return h, fmt.Errorf("argon2id needs m=8 to m=%d (KiB, at least 8 for each p), t=1 to t=%d, p=1 to p=%d, in this order", maxArgonMemory, maxArgonTime, maxArgonLanes)
	}
	h.threads = uint8(threads)
	strict := base64.RawStdEncoding.Strict()
	var saltErr, keyErr error
	h.salt, saltErr = strict.DecodeString(parts[4])
	h.key, keyErr = strict.DecodeString(parts[5])
	if saltErr != nil || keyErr != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.key) < 16 || len(h.key) > 64 {
		return h, errors.New("argon2id needs a salt of 8 to 64 bytes and a hash of 16 to 64, in base64 without =")
	}
	return h, nil
}

// argonParam reads a decimal number as the encoder writes it.
func argonParam(v *uint32, s, name string, least, most uint64) bool {
	digits, ok := strings.CutPrefix(s, name)
	n, err := strconv.ParseUint(digits, 10, 32)
	*v = uint32(n)
	return ok && err == nil && n >= least && n <= most && strconv.FormatUint(n, 10) == digits
}

func parseBcrypt(s string) (h passwordHash, err error) {
	const alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	cost, err := bcrypt.Cost([]byte(s))
	if err != nil || len(s) != 60 || s[6] != '$' || strings.Trim(s[7:], alphabet) != "" {
		return h, errors.New("a bcrypt hash is $2b$COST$ and 53 letters, digits, dots and slashes")
	}
	if cost > maxBcryptCost {
		return h, fmt.Errorf("a bcrypt cost of %d: 4 to %d are allowed", cost, maxBcryptCost)
	}
	return passwordHash{bcrypt: []byte(s)}, nil
}
