package main

// This file is a sealed conversation between two processes: both keys, both
// instances, the counters that make each datagram count once.

import "errors"

// helloLen is the length of a sealed hello, in bytes.
const helloLen = sealOverhead + msgHeadLen + 16

// A sealBox packs and unpacks the datagrams of one conversation. It is not
// safe for concurrent use.
type sealBox struct {
	sendKey, recvKey sealKey
	hint             sealHint // what our datagrams carry
	mine, theirs     instanceID
	counter          uint64 // of the last datagram packed
	window           replayWindow
}

// A payload is what follows the head of a body.
type payload interface{ append(b []byte) []byte }

// pack seals one message and returns its counter too. pad is the least length
// of the datagram in bytes; zeros fill it, which every parser ignores.
func (x *sealBox) pack(kind byte, p payload, pad int) ([]byte, uint64) {
	x.counter++
	body := msgHead{kind, x.mine, x.theirs, x.counter}.append(make([]byte, 0, 256))
	body = p.append(body)
	if n := pad - sealOverhead - len(body); n > 0 {
		body = append(body, make([]byte, n)...)
	}
	return x.sendKey.seal(x.hint, body), x.counter
}

var (
	errInstance = errors.New("for another instance")
	errReplayed = errors.New("seen before")
)

// accept judges a head that came out of a datagram sealed for us. errInstance:
// the sender does not know who we are now; errReplayed: it changes nothing.
func (x *sealBox) accept(h msgHead) error {
	if h.receiver != x.mine || h.sender != x.theirs {
		return errInstance
	}
	if !x.window.fresh(h.counter) {
		return errReplayed
	}
	return nil
}
