package main

// This file reads the two encodings in which a passkey's public key comes: a
// strict subset of CBOR (RFC 8949) and, in that, COSE keys (RFC 9052, section 7;
// RFC 9053; RFC 8230). Whatever may be said in several ways is taken in one: there
// is no second form of a key that a signature could be moved to.

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"slices"
	"unicode/utf8"
)

// Major types of CBOR.
const (
	cborUint   = 0
	cborNegint = 1
	cborBytes  = 2
	cborText   = 3
	cborArray  = 4
	cborMap    = 5
	cborSimple = 7 // of these false, true and null alone
)

// maxCBORDepth bounds arrays and maps in each other. An attestation object has
// three: map, statement, list of certificates.
const maxCBORDepth = 4

// A cborValue is one item. Heads are the shortest, lengths definite, the keys of
// a map numbers or text and none of them twice.
type cborValue struct {
	major byte
	n     uint64      // of a number, as in its head; of a simple value
	b     []byte      // of a string
	items []cborValue // of an array; of a map keys and values by turns
}

// parseCBOR reads one item that has no tail.
func parseCBOR(b []byte) (v cborValue, err error) {
	v, rest, err := readCBOR(b, maxCBORDepth)
	if err == nil && len(rest) > 0 {
		err = coded("cbor-malformed", "%d bytes behind the end", len(rest))
	}
	return v, err
}

// readCBOR reads the item that b begins with.
func readCBOR(b []byte, depth int) (v cborValue, rest []byte, err error) {
	v.major, v.n, rest, err = readCBORHead(b)
	if err != nil {
		return v, nil, err
	}
	switch v.major {
	case cborUint, cborNegint:
		return v, rest, nil
	case cborSimple:
		if v.n < 20 || v.n > 22 {
			return v, nil, coded("cbor-malformed", "simple value %d", v.n)
		}
		return v, rest, nil
	case cborBytes, cborText:
		if v.n > uint64(len(rest)) {
			return v, nil, coded("cbor-malformed", "a string of %d bytes where %d are left", v.n, len(rest))
		}
		v.b, rest = rest[:v.n], rest[v.n:]
		if v.major == cborText && !utf8.Valid(v.b) {
			return v, nil, coded("cbor-malformed", "text that is no UTF-8")
		}
		v.n = 0
		return v, rest, nil
	case cborArray, cborMap:
		return v.readItems(rest, depth)
	}
	return v, nil, coded("cbor-malformed", "major type %d", v.major)
}

// readCBORHead reads type and number. RFC 8949, section 4.2.1: as short as it can be.
func readCBORHead(b []byte) (major byte, n uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, 0, nil, coded("cbor-malformed", "cut short")
	}
	major, n, rest = b[0]>>5, uint64(b[0]&31), b[1:]
	if n < 24 {
		return major, n, rest, nil
	}
	size := 1 << (n - 24)
	if n > 27 || len(rest) < size {
		return 0, 0, nil, coded("cbor-malformed", "head 0x%02x", b[0])
	}
	var full [8]byte
	copy(full[8-size:], rest)
	n, rest = binary.BigEndian.Uint64(full[:]), rest[size:]
	if n < 24 || size > 1 && n>>(4*size) == 0 {
		return 0, 0, nil, coded("cbor-malformed", "the number %d in %d bytes", n, size)
	}
	return major, n, rest, nil
}

// readItems reads the items of an array or a map: v.n is their count.
func (v cborValue) readItems(b []byte, depth int) (_ cborValue, rest []byte, err error) {
	count := v.n
	if v.major == cborMap {
		count *= 2
	}
	if depth == 0 || count > uint64(len(b)) || v.n > uint64(len(b)) { // an item is a byte at least
		return v, nil, coded("cbor-malformed", "%d items in %d bytes, or in too many others", v.n, len(b))
	}
	for i := range count {
		var item cborValue
		if item, b, err = readCBOR(b, depth-1); err != nil {
			return v, nil, err
		}
		if v.major == cborMap && i%2 == 0 {
			if err := v.checkKey(item); err != nil {
				return v, nil, err
			}
		}
		v.items = append(v.items, item)
	}
	v.n = 0
	return v, b, nil
}

func (v cborValue) checkKey(key cborValue) error {
	if key.major != cborUint && key.major != cborNegint && key.major != cborText {
		return coded("cbor-malformed", "a key of major type %d", key.major)
	}
	for i := 0; i < len(v.items); i += 2 {
		if k := v.items[i]; k.major == key.major && k.n == key.n && bytes.Equal(k.b, key.b) {
			return coded("cbor-malformed", "a key that stands twice")
		}
	}
	return nil
}

// append is the inverse of readCBOR.
func (v cborValue) append(b []byte) []byte {
	switch v.major {
	case cborBytes, cborText:
		return append(appendCBORHead(b, v.major, uint64(len(v.b))), v.b...)
	case cborArray:
		b = appendCBORHead(b, v.major, uint64(len(v.items)))
	case cborMap:
		b = appendCBORHead(b, v.major, uint64(len(v.items)/2))
	default:
		return appendCBORHead(b, v.major, v.n)
	}
	for _, item := range v.items {
		b = item.append(b)
	}
	return b
}

func appendCBORHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major<<5|byte(n))
	case n < 1<<8:
		return append(b, major<<5|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major<<5|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major<<5|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major<<5|27), n)
}

// text returns the member of a map under a text key.
func (v cborValue) text(key string) (m cborValue, ok bool) {
	for i := 0; v.major == cborMap && i < len(v.items); i += 2 {
		if k := v.items[i]; k.major == cborText && string(k.b) == key {
			return v.items[i+1], true
		}
	}
	return m, false
}

// cborInt is a number as COSE writes it: -1 - n for the negative ones.
func cborInt(n int64) cborValue {
	if n < 0 {
		return cborValue{major: cborNegint, n: uint64(-1 - n)}
	}
	return cborValue{major: cborUint, n: uint64(n)}
}

// member returns the member of a map under a number.
func (v cborValue) member(key int64) (m cborValue) {
	for i := 0; i < len(v.items); i += 2 {
		if k, want := v.items[i], cborInt(key); k.major == want.major && k.n == want.n {
			return v.items[i+1]
		}
	}
	return cborValue{major: cborSimple}
}

func (v cborValue) is(n int64) bool {
	want := cborInt(n)
	return v.major == want.major && v.n == want.n
}

// COSE algorithms: RFC 9053, sections 2.1 and 2.2; RFC 8812, section 2.
const (
	coseES256 = -7
	coseEdDSA = -8
	coseRS256 = -257
)

// maxCOSEKey bounds a key in bytes: RSA of 8,192 bits with an exponent of four.
const maxCOSEKey = 1100

// A coseKey is a passkey's public key.
type coseKey struct {
	alg int64
	pub crypto.PublicKey // *ecdsa.PublicKey, ed25519.PublicKey or *rsa.PublicKey
}

// parseCOSE reads a key: exactly the members of one of the three algorithms, in
// any order. What else there is has the code cose-unsupported.
func parseCOSE(b []byte) (k coseKey, err error) {
	if len(b) > maxCOSEKey {
		return k, coded("cose-unsupported", "a key of %d bytes, at most %d", len(b), maxCOSEKey)
	}
	v, err := parseCBOR(b)
	if err != nil {
		return k, err
	}
	switch {
	case v.major != cborMap:
	case v.member(1).is(2) && v.member(3).is(coseES256) && v.member(-1).is(1) && len(v.items) == 2*5:
		k.alg, k.pub = coseES256, coseP256(v.member(-2), v.member(-3))
	case v.member(1).is(1) && v.member(3).is(coseEdDSA) && v.member(-1).is(6) && len(v.items) == 2*4:
		k.alg, k.pub = coseEdDSA, coseEd25519(v.member(-2))
	case v.member(1).is(3) && v.member(3).is(coseRS256) && len(v.items) == 2*4:
		k.alg, k.pub = coseRS256, coseRSA(v.member(-1), v.member(-2))
	}
	if k.pub == nil {
		return coseKey{}, coded("cose-unsupported", "a key of a kind that this version does not know, or out of its bounds")
	}
	return k, nil
}

func coseP256(x, y cborValue) crypto.PublicKey {
	if x.major != cborBytes || y.major != cborBytes || len(x.b) != 32 || len(y.b) != 32 {
		return nil
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x.b, y.b))
	if err != nil { // not on the curve
		return nil
	}
	return pub
}

func coseEd25519(x cborValue) crypto.PublicKey {
	if x.major != cborBytes || len(x.b) != ed25519.PublicKeySize {
		return nil
	}
	return ed25519.PublicKey(x.b)
}

// coseRSA takes 2,048 to 8,192 bits, and an odd exponent of three or more.
func coseRSA(n, e cborValue) crypto.PublicKey {
	if n.major != cborBytes || e.major != cborBytes || len(n.b) < 256 || len(n.b) > 1024 || len(e.b) < 1 || len(e.b) > 4 {
		return nil
	}
	mod := new(big.Int).SetBytes(n.b)
	exp := new(big.Int).SetBytes(e.b).Uint64()
	if n.b[0] == 0 || e.b[0] == 0 || mod.BitLen() < 2048 || exp < 3 || exp&1 == 0 || exp >= 1<<31 {
		return nil
	}
	return &rsa.PublicKey{N: mod, E: int(exp)}
}

// append writes the one form of a key that stands in statements: the order of
// CTAP2, section 8.
func (k coseKey) append(b []byte) []byte {
	str := func(s []byte) cborValue { return cborValue{major: cborBytes, b: s} }
	var items []cborValue
	switch pub := k.pub.(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		if err != nil {
			return b // parseCOSE has no such key
		}
		items = []cborValue{cborInt(1), cborInt(2), cborInt(3), cborInt(coseES256), cborInt(-1), cborInt(1), cborInt(-2), str(point[1:33]), cborInt(-3), str(point[33:])}
	case ed25519.PublicKey:
		items = []cborValue{cborInt(1), cborInt(1), cborInt(3), cborInt(coseEdDSA), cborInt(-1), cborInt(6), cborInt(-2), str(pub)}
	case *rsa.PublicKey:
		items = []cborValue{cborInt(1), cborInt(3), cborInt(3), cborInt(coseRS256), cborInt(-1), str(pub.N.Bytes()), cborInt(-2), str(big.NewInt(int64(pub.E)).Bytes())}
	}
	return cborValue{major: cborMap, items: items}.append(b)
}

// verify reports whether sig is the key's signature of message.
func (k coseKey) verify(message, sig []byte) bool {
	sum := sha256.Sum256(message)
	switch pub := k.pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, sum[:], sig)
	case ed25519.PublicKey:
		return ed25519.Verify(pub, message, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], sig) == nil
	}
	return false
}
