package main

// This file is the byte form of what finds paths beyond the first introduction:
// echoes that show what a NAT does, and notes that two ends have the
// coordinator hand on, sealed for each other.

import (
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
)

// An echoMsg asks either port of the coordinator where it sees us. It is as
// long as its answer. After the head:
//
//	nonce  8 bytes
//	other  1 byte    1 = answer from the other port: does it get through?
//	pad    17 bytes  zero
type echoMsg struct {
	nonce uint64
	other bool
}

func (m *echoMsg) append(b []byte) []byte {
	b = append(append64(b, m.nonce), boolByte(m.other))
	return append(b, make([]byte, 17)...)
}

func parseEcho(b []byte) (*echoMsg, error) {
	s := cryptobyte.String(b)
	var m echoMsg
	var other uint8
	if !s.ReadUint64(&m.nonce) || !s.ReadUint8(&other) || !s.Skip(17) {
		return nil, errShort
	}
	m.other = other == 1
	return &m, nil
}

// An echoAckMsg answers an echo. After the head:
//
//	nonce     8 bytes   the echo's
//	observed  18 bytes  where it came from
type echoAckMsg struct {
	nonce    uint64
	observed netip.AddrPort
}

func (m *echoAckMsg) append(b []byte) []byte { return appendAddr(append64(b, m.nonce), m.observed) }

func parseEchoAck(b []byte) (*echoAckMsg, error) {
	s := cryptobyte.String(b)
	var m echoAckMsg
	if !s.ReadUint64(&m.nonce) || !readAddr(&s, &m.observed) {
		return nil, errShort
	}
	return &m, nil
}

// maxRelayed bounds the datagram that a relay carries, in bytes: a note.
const maxRelayed = 320

// A relayMsg has the coordinator hand a sealed datagram to a process of a
// device of the same account: two ends that have lost each other, or whose NATs
// take more than a first ping, tell each other where they are. After the head:
//
//	target    26 bytes  device id
//	instance  8 bytes   of the process
//	inner     2 bytes length, at most maxRelayed, and the datagram
type relayMsg struct {
	target   deviceID
	instance instanceID
	inner    []byte
}

func (m *relayMsg) append(b []byte) []byte {
	b = append(b, m.target...)
	b = append(b, m.instance[:]...)
	return appendInner(b, m.inner)
}

func parseRelay(b []byte) (*relayMsg, error) {
	s := cryptobyte.String(b)
	var m relayMsg
	var target [idLen]byte
	if !s.CopyBytes(target[:]) || !s.CopyBytes(m.instance[:]) || !readInner(&s, &m.inner) || !validID(string(target[:]), 'd') {
		return nil, errShort
	}
	m.target = deviceID(target[:])
	return &m, nil
}

// A relayedMsg is what the coordinator hands on. After the head:
//
//	observed  18 bytes  where the relay came from
//	inner     2 bytes length, at most maxRelayed, and the datagram
type relayedMsg struct {
	observed netip.AddrPort
	inner    []byte
}

func (m *relayedMsg) append(b []byte) []byte { return appendInner(appendAddr(b, m.observed), m.inner) }

func parseRelayed(b []byte) (*relayedMsg, error) {
	s := cryptobyte.String(b)
	var m relayedMsg
	if !readAddr(&s, &m.observed) || !readInner(&s, &m.inner) {
		return nil, errShort
	}
	return &m, nil
}

func appendInner(b, inner []byte) []byte {
	return append(append(b, byte(len(inner)>>8), byte(len(inner))), inner...)
}

func readInner(s *cryptobyte.String, inner *[]byte) bool {
	var in cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&in) || len(in) > maxRelayed {
		return false
	}
	*inner = in
	return true
}

// What a NAT does with the ports of one socket that sends to many addresses.
const (
	natUnknown = 0
	natSame    = 1 // one port for all: no NAT, or an endpoint-independent one
	natStep    = 2 // each new address gets the next port
	natBlock   = 3 // any port of a narrow range
	natRandom  = 4 // any port at all
)

// A natKind is what an end knows of the NAT before it. low and high bound the
// ports of a block; base and step are the last port seen and the distance to
// the next.
type natKind struct {
	kind      byte
	step      int8
	base      uint16
	low, high uint16
}

// hard reports whether nobody can know the port before a packet has left.
func (n natKind) hard() bool { return n.kind >= natStep }

// A noteMsg tells the other end of a path, sealed for it, where its sender may
// be reached: what no coordinator can make up. After the head:
//
//	nonce   8 bytes   of this note's round
//	have    8 bytes   nonce of the last note that came from the other end, 0 = none
//	moved   1 byte    1 = the sender is no longer where it was
//	kind    1 byte    natKind
//	step    1 byte    signed
//	base    2 bytes
//	low     2 bytes
//	high    2 bytes
//	mapped  18 bytes  a port that the router keeps open for us, zero = none
//	addrs   1 byte count, then 18 bytes each: observed ones first
type noteMsg struct {
	nonce, have uint64
	moved       bool
	nat         natKind
	mapped      netip.AddrPort
	addrs       []netip.AddrPort
}

func (m *noteMsg) append(b []byte) []byte {
	n := m.nat
	b = append(append64(append64(b, m.nonce), m.have), boolByte(m.moved), n.kind, byte(n.step))
	for _, v := range []uint16{n.base, n.low, n.high} {
		b = append(b, byte(v>>8), byte(v))
	}
	return appendAddrs(appendAddr(b, m.mapped), m.addrs)
}

func parseNote(b []byte) (*noteMsg, error) {
	s := cryptobyte.String(b)
	var m noteMsg
	var moved, step uint8
	n := &m.nat
	if !s.ReadUint64(&m.nonce) || !s.ReadUint64(&m.have) || !s.ReadUint8(&moved) || !s.ReadUint8(&n.kind) || !s.ReadUint8(&step) ||
		!s.ReadUint16(&n.base) || !s.ReadUint16(&n.low) || !s.ReadUint16(&n.high) || !readAddr(&s, &m.mapped) {
		return nil, errShort
	}
	m.moved, n.step = moved == 1, int8(step)
	if n.kind > natRandom || n.low > n.high {
		*n = natKind{} // of a kind to come, or nonsense
	}
	var err error
	m.addrs, err = readAddrs(&s)
	return &m, err
}
