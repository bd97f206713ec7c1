package main

// This file is the byte form of what sealed datagrams say. Every body begins:
//
//	type      1 byte
//	sender    8 bytes  instance of the sending process
//	receiver  8 bytes  instance of the receiving process, 0 = unknown
//	counter   8 bytes  one more than the sender's last to this receiver
//
// What follows depends on the type. Numbers are big endian; addresses are 18
// bytes, IPv6 (IPv4 in mapped form) 16 and port 2, all zero = none. Bytes after
// the last field are ignored: that is where fields are added.

import (
	"encoding/hex"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
)

// The types; those from 12 to 16 stand in wire_path.go.
const (
	msgBeat    = 1
	msgBeatAck = 2
	msgHello   = 3
	msgCall    = 4
	msgAnswer  = 5
	msgRing    = 6
	msgRefuse  = 7
	msgAck     = 8
	msgNews    = 9
	msgPing    = 10
	msgPong    = 11
	msgEcho    = 12
	msgEchoAck = 13
	msgRelay   = 14
	msgRelayed = 15
	msgNote    = 16
	msgEnd     = 17
)

// protoVersion is the version of everything on the wire that this program
// speaks; ranges are sent so that a later one can tell an earlier one why.
const (
	protoMin = 1
	protoMax = 1
)

const msgHeadLen = 25 // bytes

// A msgHead begins every body.
type msgHead struct {
	kind             byte
	sender, receiver instanceID
	counter          uint64
}

func (h msgHead) append(b []byte) []byte {
	b = append(b, h.kind)
	b = append(b, h.sender[:]...)
	b = append(b, h.receiver[:]...)
	return append64(b, h.counter)
}

// parseHead returns the head and what follows it.
func parseHead(b []byte) (h msgHead, rest []byte, err error) {
	s := cryptobyte.String(b)
	if !s.ReadUint8(&h.kind) || !s.CopyBytes(h.sender[:]) || !s.CopyBytes(h.receiver[:]) || !s.ReadUint64(&h.counter) {
		return h, nil, errShort
	}
	return h, s, nil
}

// A protoRange says which versions its sender speaks and what program it is.
//
//	min    1 byte
//	max    1 byte
//	build  1 byte length and text, at most maxBuild
type protoRange struct {
	min, max byte
	build    string
}

// speaks reports whether both ends know a common version.
func (p protoRange) speaks() bool { return p.min <= protoMax && p.max >= protoMin }

func (p protoRange) append(b []byte) []byte {
	b = append(b, p.min, p.max, byte(len(p.build)))
	return append(b, p.build...)
}

func readProto(s *cryptobyte.String, p *protoRange) bool {
	var build cryptobyte.String
	if !s.ReadUint8(&p.min) || !s.ReadUint8(&p.max) || !s.ReadUint8LengthPrefixed(&build) || len(build) > maxBuild {
		return false
	}
	p.build = string(build)
	return true
}

// A cookie proves that its bearer receives at an address: 16 bytes that only
// the coordinator can make, zero = none.
type cookie [16]byte

// A beatMsg tells the coordinator that a device is up. After the head:
//
//	proto    protoRange
//	flags    1 byte    1 = its process serves (may be rung), 2 = it is leaving
//	cookie   16 bytes  as last sent to this address
//	cands    1 byte count, then 18 bytes each
//	running  1 byte count, at most maxRunning, then each: id 4 bytes, live
//	         1 byte, client 8 bytes. Earlier programs end before it.
type beatMsg struct {
	proto   protoRange
	serves  bool
	leaves  bool
	cookie  cookie
	cands   []netip.AddrPort
	running []runningSession
}

// maxRunning bounds the sessions of a beat: a device serves no more connections
// at once. With as many, and maxCandidates, a beat has less than 600 bytes.
const maxRunning = 20

// A runningSession is a session that connections are open under.
type runningSession struct {
	id     sessionID
	live   byte    // connections
	client [8]byte // its sealHint
}

func (m *beatMsg) append(b []byte) []byte {
	b = m.proto.append(b)
	b = append(b, boolByte(m.serves)|boolByte(m.leaves)<<1)
	b = append(b, m.cookie[:]...)
	return appendRunning(appendAddrs(b, m.cands), m.running)
}

func appendRunning(b []byte, list []runningSession) []byte {
	list = list[:min(len(list), maxRunning)]
	b = append(b, byte(len(list)))
	for _, r := range list {
		b = append(append(append(b, r.id[:]...), r.live), r.client[:]...)
	}
	return b
}

func readRunning(s *cryptobyte.String) (list []runningSession, err error) {
	var count uint8
	if s.Empty() {
		return nil, nil
	}
	if s.ReadUint8(&count); count > maxRunning {
		return nil, fmt.Errorf("beat with %d sessions, at most %d", count, maxRunning)
	}
	for range count {
		var r runningSession
		if !s.CopyBytes(r.id[:]) || !s.ReadUint8(&r.live) || !s.CopyBytes(r.client[:]) {
			return nil, errShort
		}
		list = append(list, r)
	}
	return list, nil
}

func parseBeat(b []byte) (*beatMsg, error) {
	s := cryptobyte.String(b)
	var m beatMsg
	var flags uint8
	if !readProto(&s, &m.proto) || !s.ReadUint8(&flags) || !s.CopyBytes(m.cookie[:]) {
		return nil, errShort
	}
	m.serves, m.leaves = flags&1 != 0, flags&2 != 0
	var err error
	if m.cands, err = readAddrs(&s); err == nil {
		m.running, err = readRunning(&s)
	}
	return &m, err
}

// A beatAckMsg answers a beat whose cookie was right. After the head:
//
//	proto     protoRange
//	observed  18 bytes  where the beat came from
//	cookie    16 bytes  for the next beat
//	time      8 bytes   unix seconds at the coordinator
//	seq       8 bytes   of the last record of the log, all ones = no log
//	head      32 bytes  hash of its statement
//	second    18 bytes  where echoes are answered too: see answerMsg
type beatAckMsg struct {
	proto    protoRange
	observed netip.AddrPort
	cookie   cookie
	time     int64
	seq      uint64
	head     [32]byte
	second   netip.AddrPort
}

func (m *beatAckMsg) append(b []byte) []byte {
	b = m.proto.append(b)
	b = appendAddr(b, m.observed)
	b = append(b, m.cookie[:]...)
	b = append64(append64(b, uint64(m.time)), m.seq)
	return appendAddr(append(b, m.head[:]...), m.second)
}

func parseBeatAck(b []byte) (*beatAckMsg, error) {
	s := cryptobyte.String(b)
	var m beatAckMsg
	var t uint64
	if !readProto(&s, &m.proto) || !readAddr(&s, &m.observed) || !s.CopyBytes(m.cookie[:]) ||
		!s.ReadUint64(&t) || !s.ReadUint64(&m.seq) || !s.CopyBytes(m.head[:]) || !readAddr(&s, &m.second) {
		return nil, errShort
	}
	m.time = int64(t)
	return &m, nil
}

// A helloMsg answers a body that names a wrong receiver instance, and a beat
// or short call without the cookie of where it came from; the right instance
// stands in its head. After the head:
//
//	cookie  16 bytes  for the address that the body came from
type helloMsg struct{ cookie cookie }

func (m *helloMsg) append(b []byte) []byte { return append(b, m.cookie[:]...) }

func parseHello(b []byte) (*helloMsg, error) {
	s := cryptobyte.String(b)
	var m helloMsg
	if !s.CopyBytes(m.cookie[:]) {
		return nil, errShort
	}
	return &m, nil
}

// A callID is drawn by the caller: one call id makes one session.
type callID [8]byte

// A sessionToken names a session: 128 random bits.
type sessionToken [16]byte

// A sessionID is the first bytes of a token: it names a session where the token
// must not be shown.
type sessionID [4]byte

func (t sessionToken) id() sessionID { return sessionID(t[:4]) }
func (id sessionID) String() string  { return hex.EncodeToString(id[:]) }

// A callMsg asks to be introduced. Its datagram is padded to maxDatagram while
// its source is unproved. After the head:
//
//	proto   protoRange
//	cookie  16 bytes
//	call    8 bytes
//	time    8 bytes   unix seconds at the caller: an old call is a replay
//	target  26 bytes  device id
//	cands   1 byte count, then 18 bytes each
type callMsg struct {
	proto  protoRange
	cookie cookie
	call   callID
	time   int64
	target deviceID
	cands  []netip.AddrPort
}

func (m *callMsg) append(b []byte) []byte {
	b = m.proto.append(b)
	b = append(b, m.cookie[:]...)
	b = append64(append(b, m.call[:]...), uint64(m.time))
	b = append(b, m.target...)
	return appendAddrs(b, m.cands)
}

func parseCall(b []byte) (*callMsg, error) {
	s := cryptobyte.String(b)
	var m callMsg
	var t uint64
	var target [idLen]byte
	if !readProto(&s, &m.proto) || !s.CopyBytes(m.cookie[:]) || !s.CopyBytes(m.call[:]) || !s.ReadUint64(&t) || !s.CopyBytes(target[:]) {
		return nil, errShort
	}
	m.time = int64(t)
	if !validID(string(target[:]), 'd') {
		return nil, fmt.Errorf("call to %q, which is no device id", target)
	}
	m.target = deviceID(target[:])
	var err error
	m.cands, err = readAddrs(&s)
	return &m, err
}

// An answerMsg introduces the target to the caller. It carries no keys: the
// caller uses its own log. After the head:
//
//	call      8 bytes
//	token     16 bytes
//	ttl       4 bytes   seconds that the session lives, 0 = without end
//	instance  8 bytes   of the target's serving process
//	target    18 bytes  where the coordinator sees the target
//	caller    18 bytes  where it sees the caller
//	second    18 bytes  where the coordinator answers echoes too, zero = nowhere;
//	                    without an IP it is that of its first port
//	cands     1 byte count, then 18 bytes each: the target's
type answerMsg struct {
	call           callID
	token          sessionToken
	ttl            uint32
	instance       instanceID
	target, caller netip.AddrPort
	second         netip.AddrPort
	cands          []netip.AddrPort
}

func (m *answerMsg) append(b []byte) []byte {
	b = append(b, m.call[:]...)
	b = append(b, m.token[:]...)
	b = append32(b, m.ttl)
	b = append(b, m.instance[:]...)
	b = appendAddr(appendAddr(appendAddr(b, m.target), m.caller), m.second)
	return appendAddrs(b, m.cands)
}

func parseAnswer(b []byte) (*answerMsg, error) {
	s := cryptobyte.String(b)
	var m answerMsg
	if !s.CopyBytes(m.call[:]) || !s.CopyBytes(m.token[:]) || !s.ReadUint32(&m.ttl) || !s.CopyBytes(m.instance[:]) ||
		!readAddr(&s, &m.target) || !readAddr(&s, &m.caller) || !readAddr(&s, &m.second) {
		return nil, errShort
	}
	var err error
	m.cands, err = readAddrs(&s)
	return &m, err
}

// A ringMsg introduces the caller to the target. The caller's keys serve to
// open its pings; what it may do, the target's own log says. After the head:
//
//	call      8 bytes
//	token     16 bytes
//	ttl       4 bytes   seconds, 0 = without end
//	sign      32 bytes  caller's ed25519 key
//	path      32 bytes  caller's X25519 key
//	instance  8 bytes   of the calling process
//	caller    18 bytes  where the coordinator sees the caller
//	cands     1 byte count, then 18 bytes each: the caller's
type ringMsg struct {
	call     callID
	token    sessionToken
	ttl      uint32
	keys     publicKeys
	instance instanceID
	caller   netip.AddrPort
	cands    []netip.AddrPort
}

func (m *ringMsg) append(b []byte) []byte {
	b = append(b, m.call[:]...)
	b = append(b, m.token[:]...)
	b = append32(b, m.ttl)
	b = append(b, m.keys.sign...)
	b = append(b, m.keys.path[:]...)
	b = append(b, m.instance[:]...)
	b = appendAddr(b, m.caller)
	return appendAddrs(b, m.cands)
}

func parseRing(b []byte) (*ringMsg, error) {
	s := cryptobyte.String(b)
	var m ringMsg
	m.keys.sign = make([]byte, 32)
	if !s.CopyBytes(m.call[:]) || !s.CopyBytes(m.token[:]) || !s.ReadUint32(&m.ttl) || !s.CopyBytes(m.keys.sign) ||
		!s.CopyBytes(m.keys.path[:]) || !s.CopyBytes(m.instance[:]) || !readAddr(&s, &m.caller) {
		return nil, errShort
	}
	var err error
	m.cands, err = readAddrs(&s)
	return &m, err
}

// Why a call or beat was refused.
const (
	refuseUnknown  = 1 // no such device
	refuseOffline  = 2 // seconds: since it was last heard, all ones = never
	refuseSilent   = 3 // the ring is unanswered; seconds: since it was last heard
	refuseRevoked  = 4
	refuseUnsigned = 5 // not signed yet
	refuseLimit    = 6 // a limit is reached
	refuseBusy     = 7 // the coordinator is
	refuseUpdate   = 8 // no common version: see proto
)

// never stands for no time at all in seconds of a refuseMsg.
const never = 1<<64 - 1

// A refuseMsg says at once why not. After the head:
//
//	call     8 bytes  zero when it answers a beat
//	reason   1 byte
//	seconds  8 bytes
//	proto    protoRange of the coordinator
type refuseMsg struct {
	call    callID
	reason  byte
	seconds uint64
	proto   protoRange
}

func (m *refuseMsg) append(b []byte) []byte {
	b = append(append(b, m.call[:]...), m.reason)
	return m.proto.append(append64(b, m.seconds))
}

func parseRefuse(b []byte) (*refuseMsg, error) {
	s := cryptobyte.String(b)
	var m refuseMsg
	if !s.CopyBytes(m.call[:]) || !s.ReadUint8(&m.reason) || !s.ReadUint64(&m.seconds) || !readProto(&s, &m.proto) {
		return nil, errShort
	}
	return &m, nil
}

// An ackMsg ends the retransmission of an answer, ring, news or end. After the
// head:
//
//	counter  8 bytes  of the message acknowledged
type ackMsg struct{ counter uint64 }

func (m *ackMsg) append(b []byte) []byte { return append64(b, m.counter) }

func parseAck(b []byte) (*ackMsg, error) {
	s := cryptobyte.String(b)
	var m ackMsg
	if !s.ReadUint64(&m.counter) {
		return nil, errShort
	}
	return &m, nil
}

// A newsMsg says that the log has a new head. After the head:
//
//	seq   8 bytes
//	head  32 bytes
type newsMsg struct {
	seq  uint64
	head [32]byte
}

func (m *newsMsg) append(b []byte) []byte { return append(append64(b, m.seq), m.head[:]...) }

func parseNews(b []byte) (*newsMsg, error) {
	s := cryptobyte.String(b)
	var m newsMsg
	if !s.ReadUint64(&m.seq) || !s.CopyBytes(m.head[:]) {
		return nil, errShort
	}
	return &m, nil
}

// An endMsg tells the device that serves sessions to end some of them. After the
// head:
//
//	order   8 bytes   drawn for it: however often it comes, it is obeyed once
//	flags   1 byte    1 = all sessions, 2 = their connections only: the sessions
//	                  stay good
//	client  1 byte length and device id: all sessions of that device; empty = no
//	        device's
//	ids     1 byte count, at most maxEndIDs, then 4 bytes each
type endMsg struct {
	order  [8]byte
	all    bool
	keep   bool
	client deviceID
	ids    []sessionID
}

// maxEndIDs keeps an endMsg below maxDatagram.
const maxEndIDs = 200

func (m *endMsg) fields(c *codec) {
	c.fixed(m.order[:])
	flags := c.uint(uint64(boolByte(m.all)|boolByte(m.keep)<<1), 1)
	m.all, m.keep = flags&1 != 0, flags&2 != 0
	m.client = deviceID(c.text(string(m.client), 1, idLen))
	if c.reading && m.client != "" && !validID(string(m.client), 'd') {
		c.fail("%q is no device id", string(m.client))
	}
	listed(c, &m.ids, 1, maxEndIDs, "sessions", func(id *sessionID) { c.fixed(id[:]) })
}

func (m *endMsg) append(b []byte) []byte { return appendFields(b, m) }
func parseEnd(b []byte) (*endMsg, error) { return parseFields(b, new(endMsg)) }

// A pingMsg asks a peer to prove that it receives here; bytes may follow to
// try a size. After the head:
//
//	nonce  8 bytes
//	moved  1 byte   1 = where this comes from is where the sender is now
type pingMsg struct {
	nonce uint64
	moved bool
}

func (m *pingMsg) append(b []byte) []byte { return append(append64(b, m.nonce), boolByte(m.moved)) }

func parsePing(b []byte) (*pingMsg, error) {
	s := cryptobyte.String(b)
	var m pingMsg
	var moved uint8
	if !s.ReadUint64(&m.nonce) || !s.ReadUint8(&moved) {
		return nil, errShort
	}
	m.moved = moved == 1
	return &m, nil
}

// A pongMsg answers a ping, to where it came from. After the head:
//
//	nonce  8 bytes   the ping's
//	seen   18 bytes  where the ping came from
type pongMsg struct {
	nonce uint64
	seen  netip.AddrPort
}

func (m *pongMsg) append(b []byte) []byte { return appendAddr(append64(b, m.nonce), m.seen) }

func parsePong(b []byte) (*pongMsg, error) {
	s := cryptobyte.String(b)
	var m pongMsg
	if !s.ReadUint64(&m.nonce) || !readAddr(&s, &m.seen) {
		return nil, errShort
	}
	return &m, nil
}
