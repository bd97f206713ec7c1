package main

// This file seals datagrams: what a device and the coordinator, or two
// devices, tell each other from the socket that also carries QUIC. A datagram:
//
//	version  1 byte    0x01; QUIC's first byte is never below 0x40
//	hint     8 bytes   whose keys to try: see sealHint
//	nonce    24 bytes  random
//	box      n bytes   XChaCha20-Poly1305; what stands before is its
//	                   associated data
//
// There is one key a direction, from the X25519 secret of both path keys.

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	sealVersion = 0x01
	sealHeader  = 1 + 8 + chacha20poly1305.NonceSizeX
	// sealOverhead is what a datagram is longer than its body, in bytes.
	sealOverhead = sealHeader + chacha20poly1305.Overhead
	// maxDatagram is the largest sealed message sent, in bytes: what a path of
	// the smallest MTU that QUIC works on will carry.
	maxDatagram = 1200
	// maxSealed is the largest datagram opened: a ping padded to the size of
	// QUIC's packets, which Ethernet's frames bound.
	maxSealed = 1500
)

// What an end of a sealed conversation is; it is part of the keys.
const (
	sealCoord  = 'C'
	sealDevice = 'D'
)

type (
	sealHint [8]byte
	sealKey  [32]byte
)

// sealHintOf names the account and the device of a datagram: the sender's key, or
// the receiver's when the coordinator sends.
func sealHintOf(acct acctID, device ed25519.PublicKey) sealHint {
	h := sha256.New()
	h.Write([]byte("sessio-hint-v1\n"))
	h.Write(acct[:])
	h.Write(device)
	return sealHint(h.Sum(nil)[:8])
}

// sealKeys derives the keys for sending to and receiving from a peer. It fails
// for a peer key of low order.
func sealKeys(mine *ecdh.PrivateKey, myKind byte, peer [32]byte, peerKind byte) (send, recv sealKey, err error) {
	pub, err := ecdh.X25519().NewPublicKey(peer[:])
	if err != nil {
		return send, recv, fmt.Errorf("path key: %w", err)
	}
	secret, err := mine.ECDH(pub)
	if err != nil {
		return send, recv, fmt.Errorf("path key: %w", err)
	}
	me := mine.PublicKey().Bytes()
	if send, err = sealDirection(secret, myKind, peerKind, me, peer[:]); err != nil {
		return send, recv, err
	}
	recv, err = sealDirection(secret, peerKind, myKind, peer[:], me)
	return send, recv, err
}

// sealDirection is HKDF-SHA-256 (RFC 5869) without salt.
func sealDirection(secret []byte, from, to byte, fromKey, toKey []byte) (k sealKey, err error) {
	info := append([]byte("sessio-seal-v1"), from, to)
	info = append(append(info, fromKey...), toKey...)
	b, err := hkdf.Key(sha256.New, secret, nil, string(info), len(k))
	if err != nil {
		return k, err
	}
	return sealKey(b), nil
}

// isSealed tells a sealed datagram from a QUIC packet by its first byte.
func isSealed(b []byte) bool { return len(b) > 0 && b[0] < 0x40 }

// hintOfDatagram returns the hint, unproved, of a datagram of right form.
func hintOfDatagram(b []byte) (sealHint, bool) {
	if len(b) < sealOverhead+msgHeadLen || len(b) > maxSealed || b[0] != sealVersion {
		return sealHint{}, false
	}
	return sealHint(b[1:9]), true
}

// seal boxes body under a fresh nonce.
func (k *sealKey) seal(hint sealHint, body []byte) []byte {
	b := make([]byte, sealHeader, sealOverhead+len(body))
	b[0] = sealVersion
	copy(b[1:], hint[:])
	rand.Read(b[9:sealHeader])
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		panic("32-byte key refused: " + err.Error())
	}
	return aead.Seal(b, b[9:sealHeader], body, b[:sealHeader])
}

var errSeal = errors.New("datagram does not open")

// open returns the body of a datagram that was sealed with k. It fails the
// same way for whatever is wrong.
func (k *sealKey) open(b []byte) ([]byte, error) {
	if _, ok := hintOfDatagram(b); !ok {
		return nil, errSeal
	}
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		return nil, err
	}
	body, err := aead.Open(nil, b[9:sealHeader], b[sealHeader:], b[:sealHeader])
	if err != nil {
		return nil, errSeal
	}
	return body, nil
}

// A replayWindow remembers which counters of one sender instance were seen:
// the highest, and the 64 up to it. The zero value has seen none.
type replayWindow struct {
	top  uint64 // highest counter seen
	bits uint64 // bit i set: top-i was seen
}

// fresh reports whether n was not seen before, and marks it.
func (w *replayWindow) fresh(n uint64) bool {
	switch {
	case n == 0: // counters begin with 1
		return false
	case n > w.top:
		if d := n - w.top; d < 64 {
			w.bits = w.bits<<d | 1
		} else {
			w.bits = 1
		}
		w.top = n
		return true
	case w.top-n >= 64 || w.bits>>(w.top-n)&1 == 1:
		return false
	}
	w.bits |= 1 << (w.top - n)
	return true
}
