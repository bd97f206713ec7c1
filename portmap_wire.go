package main

// This file has the bytes of PCP (RFC 6887) and NAT-PMP (RFC 6886), by which a
// router is asked to keep a UDP port open. The router may be hostile: nothing
// here believes it beyond its words' form.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

const (
	pcpVersion   = 2
	pmpVersion   = 0
	pcpAnnounce  = 0 // opcodes
	pcpMap       = 1
	pmpAddress   = 0
	pmpMapUDP    = 1
	portReplyBit = 0x80 // of the opcode
	pcpUDP       = 17   // IANA's number of the protocol
	maxPCP       = 1100 // RFC 6887, section 7: the longest message, in bytes
)

// errOtherVersion is the answer of a router that speaks only the elder, or
// only the newer, of the two protocols on that port.
var errOtherVersion = errors.New("the router speaks another version")

// pcpResults are result codes, RFC 6887, section 7.4.
var pcpResults = []string{1: "version not supported", 2: "not authorised", 3: "request malformed", 4: "operation not supported",
	5: "option not supported", 6: "option malformed", 7: "the router has no network", 8: "no room", 9: "protocol not supported",
	10: "quota exceeded", 11: "cannot provide that port", 12: "another NAT lies between", 13: "too many peers"}

// pmpResults are those of RFC 6886, section 3.5.
var pmpResults = []string{1: "version not supported", 2: "not authorised, or switched off", 3: "the router has no network",
	4: "no room", 5: "operation not supported"}

func resultError(results []string, code uint16) error {
	if code == 0 {
		return nil
	}
	if int(code) < len(results) {
		return fmt.Errorf("the router refuses: %s (%d)", results[code], code)
	}
	return fmt.Errorf("the router refuses with code %d", code)
}

// appendPCPAnnounce is the smallest request: whether PCP is spoken here.
//
//	version   1 byte   2
//	opcode    1 byte
//	reserved  2 bytes
//	lifetime  4 bytes  in seconds, 0 deletes
//	self      16 bytes our own address, IPv4 in mapped form
func appendPCPAnnounce(b []byte, self netip.Addr) []byte {
	return appendPCPHead(b, pcpAnnounce, 0, self)
}

func appendPCPHead(b []byte, opcode byte, lifetime uint32, self netip.Addr) []byte {
	ip := self.As16()
	return append(append32(append(b, pcpVersion, opcode, 0, 0), lifetime), ip[:]...)
}

// A pcpMapping is what follows the head of a MAP and of its answer:
//
//	nonce     12 bytes  ours: who does not know it cannot delete the mapping
//	protocol  1 byte    UDP, 17
//	reserved  3 bytes
//	port      2 bytes   ours
//	external  2 bytes   the router's port, and 16 its address; in a request what we wish for
type pcpMapping struct {
	nonce    [12]byte
	protocol uint8
	port     uint16
	external netip.AddrPort
}

func (m *pcpMapping) append(b []byte) []byte {
	ip := [16]byte{10: 0xff, 11: 0xff} // IPv4, any: RFC 6887, section 5
	if m.external.IsValid() {
		ip = m.external.Addr().As16()
	}
	b = append(append(b, m.nonce[:]...), m.protocol, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, m.port)
	return append(binary.BigEndian.AppendUint16(b, m.external.Port()), ip[:]...)
}

func readPCPMapping(s *cryptobyte.String, m *pcpMapping) bool {
	var ip [16]byte
	var port uint16
	if len(*s) < 36 || !s.CopyBytes(m.nonce[:]) || !s.ReadUint8(&m.protocol) || !s.Skip(3) || !s.ReadUint16(&m.port) || !s.ReadUint16(&port) || !s.CopyBytes(ip[:]) {
		return false
	}
	m.external = netip.AddrPortFrom(netip.AddrFrom16(ip).Unmap(), port)
	return true
}

func appendPCPMap(b []byte, self netip.Addr, lifetime uint32, m *pcpMapping) []byte {
	return m.append(appendPCPHead(b, pcpMap, lifetime, self))
}

// A pcpReply is a router's answer, or its announcement:
//
//	version   1 byte   2
//	opcode    1 byte   the request's, and 0x80
//	reserved  1 byte
//	result    1 byte   0 = done
//	lifetime  4 bytes  in seconds; of an error: how long it will last
//	epoch     4 bytes  seconds since the router lost its mappings
//	reserved  12 bytes
//	mapping   36 bytes of a MAP; an error may leave it out
//
// Options after that are ignored: we sent none.
type pcpReply struct {
	opcode, result  uint8
	lifetime, epoch uint32
	mapping         pcpMapping
	hasMapping      bool
}

func parsePCPReply(b []byte) (*pcpReply, error) {
	s := cryptobyte.String(b)
	var r pcpReply
	var version, opcode uint8
	if !s.ReadUint8(&version) || !s.ReadUint8(&opcode) {
		return nil, errShort
	}
	if opcode&portReplyBit == 0 {
		return nil, errors.New("no answer but a request")
	}
	switch version {
	case pcpVersion:
	case pmpVersion:
		return nil, errOtherVersion
	default:
		return nil, fmt.Errorf("version %d", version)
	}
	r.opcode = opcode &^ portReplyBit
	if !s.Skip(1) || !s.ReadUint8(&r.result) || !s.ReadUint32(&r.lifetime) || !s.ReadUint32(&r.epoch) || !s.Skip(12) {
		return nil, errShort
	}
	if r.opcode != pcpMap {
		return &r, nil
	}
	if r.hasMapping = readPCPMapping(&s, &r.mapping); !r.hasMapping && r.result == 0 {
		return nil, errShort
	}
	return &r, nil
}

// appendPMPAddress asks NAT-PMP for the router's own address.
func appendPMPAddress(b []byte) []byte { return append(b, pmpVersion, pmpAddress) }

// appendPMPMap asks NAT-PMP for a mapping:
//
//	version   1 byte   0
//	opcode    1 byte   1: UDP
//	reserved  2 bytes
//	port      2 bytes  ours
//	external  2 bytes  the one wished for; 0 in a deletion
//	lifetime  4 bytes  in seconds, 0 deletes
func appendPMPMap(b []byte, port, external uint16, lifetime uint32) []byte {
	b = binary.BigEndian.AppendUint16(append(b, pmpVersion, pmpMapUDP, 0, 0), port)
	return append32(binary.BigEndian.AppendUint16(b, external), lifetime)
}

// A pmpReply is a router's answer, or its announcement:
//
//	version   1 byte   0
//	opcode    1 byte   the request's, and 0x80
//	result    2 bytes  0 = done; in an error nothing need follow the epoch
//	epoch     4 bytes  seconds since the router lost its mappings
//
// and then, for an address, 4 bytes of it; for a mapping
//
//	port      2 bytes  ours
//	external  2 bytes  the router's
//	lifetime  4 bytes  in seconds
type pmpReply struct {
	opcode         uint8
	result         uint16
	epoch          uint32
	address        netip.Addr
	port, external uint16
	lifetime       uint32
}

func parsePMPReply(b []byte) (*pmpReply, error) {
	s := cryptobyte.String(b)
	var r pmpReply
	var version, opcode uint8
	if !s.ReadUint8(&version) || !s.ReadUint8(&opcode) {
		return nil, errShort
	}
	if opcode&portReplyBit == 0 {
		return nil, errors.New("no answer but a request")
	}
	switch version {
	case pmpVersion:
	case pcpVersion:
		return nil, errOtherVersion
	default:
		return nil, fmt.Errorf("version %d", version)
	}
	r.opcode = opcode &^ portReplyBit
	if !s.ReadUint16(&r.result) || !s.ReadUint32(&r.epoch) {
		return nil, errShort
	}
	var ip [4]byte
	switch {
	case r.result != 0:
		return &r, nil
	case r.opcode == pmpAddress && s.CopyBytes(ip[:]):
		r.address = netip.AddrFrom4(ip)
		return &r, nil
	case r.opcode == pmpMapUDP && s.ReadUint16(&r.port) && s.ReadUint16(&r.external) && s.ReadUint32(&r.lifetime):
		return &r, nil
	}
	return nil, errShort
}

// parseAnnouncement reads what a router calls out to the whole network after
// it has started or got another address: its epoch.
func parseAnnouncement(b []byte) (epoch uint32, ok bool) {
	if r, err := parsePCPReply(b); err == nil && r.opcode == pcpAnnounce && r.result == 0 {
		return r.epoch, true
	}
	r, err := parsePMPReply(b)
	if err != nil || r.opcode != pmpAddress || r.result != 0 {
		return 0, false
	}
	return r.epoch, true
}

// An epochWatch notices a router that has lost its mappings.
type epochWatch struct {
	epoch uint32
	at    time.Time
}

// lost takes in an epoch and reports whether it does not fit the one before:
// RFC 6887, section 8.5, which allows for clocks that differ by a sixteenth.
func (w *epochWatch) lost(epoch uint32, now time.Time) bool {
	old := *w
	*w = epochWatch{epoch, now}
	if old.at.IsZero() {
		return false
	}
	theirs, ours := int64(epoch)-int64(old.epoch), int64(now.Sub(old.at)/time.Second)
	return theirs < -1 || ours+2 < theirs-theirs/16 || theirs+2 < ours-ours/16
}

// natNets are addresses that a router has when another NAT lies behind it, or
// none at all, beside those that the standard library knows for private.
var natNets = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), // carriers' NATs, RFC 6598
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4")}

// publicIPv4 reports whether a stranger on the internet could write to a.
func publicIPv4(a netip.Addr) bool {
	for _, n := range natNets {
		if n.Contains(a) {
			return false
		}
	}
	return a.Is4() && a.IsGlobalUnicast() && !a.IsPrivate()
}
