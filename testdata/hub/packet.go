//go:build linux

package main

// This file knows as much of IP as a router in the middle does.

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// hops is how many routers the internet counts as: a packet with a smaller
// TTL passes its own NAT and no other.
const hops = 8

var (
	hub4 = netip.MustParseAddr("192.0.2.254") // says what is too big
	hub6 = netip.MustParseAddr("2001:db8:fffe::1")
)

// parsePacket returns where a packet wants to go.
func parsePacket(b []byte) (dst netip.Addr, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[16:20])), true
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[24:40])), true
	}
	return dst, false
}

// crossHops takes the hops off the TTL, and reports whether it lasts.
func crossHops(b []byte) bool {
	ttl := &b[8]
	if b[0]>>4 == 6 {
		ttl = &b[7]
	}
	if *ttl <= hops {
		return false
	}
	*ttl -= hops
	if b[0]>>4 == 4 {
		sumHeader(b)
	}
	return true
}

// sumHeader sets an IPv4 header's checksum.
func sumHeader(b []byte) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b[:headerLen(b)]))
}

func headerLen(b []byte) int { return int(b[0]&15) * 4 }

// sum adds in ones' complement, RFC 1071.
func sum(s uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// tooBig is the ICMP error for b, nil if b may be cut up instead.
func tooBig(b []byte, limit int) []byte {
	if b[0]>>4 == 6 {
		return tooBig6(b, limit)
	}
	if b[6]&0x40 == 0 {
		return nil
	}
	quote := b[:min(len(b), headerLen(b)+8)]
	icmp := append([]byte{3, 4, 0, 0, 0, 0, byte(limit >> 8), byte(limit)}, quote...)
	binary.BigEndian.PutUint16(icmp[2:], ^sum(0, icmp))
	head := make([]byte, 20)
	head[0], head[8], head[9] = 0x45, 64, 1
	binary.BigEndian.PutUint16(head[2:], uint16(20+len(icmp)))
	copy(head[12:], hub4.AsSlice())
	copy(head[16:], b[12:16])
	sumHeader(head)
	return append(head, icmp...)
}

// tooBig6 is RFC 4443, section 3.2.
func tooBig6(b []byte, limit int) []byte {
	quote := b[:min(len(b), 1232)]
	icmp := append([]byte{2, 0, 0, 0}, binary.BigEndian.AppendUint32(nil, uint32(limit))...)
	icmp = append(icmp, quote...)
	head := make([]byte, 40)
	head[0], head[6], head[7] = 0x60, 58, 64
	binary.BigEndian.PutUint16(head[4:], uint16(len(icmp)))
	copy(head[8:], hub6.AsSlice())
	copy(head[24:], b[8:24])
	pseudo := uint32(sum(0, head[8:40])) + uint32(len(icmp)) + 58
	binary.BigEndian.PutUint16(icmp[2:], ^sum(pseudo, icmp))
	return append(head, icmp...)
}

// fragments cuts an IPv4 packet, RFC 791, section 3.2.
func fragments(b []byte, limit int) (out [][]byte) {
	h := headerLen(b)
	flags := binary.BigEndian.Uint16(b[6:])
	step := (limit - h) &^ 7
	for at := h; at < len(b); at += step {
		end := min(at+step, len(b))
		part := append(slices.Clone(b[:h]), b[at:end]...)
		binary.BigEndian.PutUint16(part[2:], uint16(len(part)))
		field := flags + uint16((at-h)/8)
		if end < len(b) {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(part[6:], field)
		sumHeader(part)
		out = append(out, part)
	}
	return out
}
