package main

// This file reads and writes the fields that messages share.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
)

// maxCandidates bounds the addresses that one message names.
const maxCandidates = 8

var errShort = errors.New("message too short")

func append32(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }
func append64(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// appendAddr writes 18 bytes; an invalid address is all zero. Zones are local
// to a machine and are left out.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(b, make([]byte, 18)...)
	}
	ip := a.Addr().As16()
	return binary.BigEndian.AppendUint16(append(b, ip[:]...), a.Port())
}

func readAddr(s *cryptobyte.String, a *netip.AddrPort) bool {
	var ip [16]byte
	var port uint16
	if !s.CopyBytes(ip[:]) || !s.ReadUint16(&port) {
		return false
	}
	*a = netip.AddrPort{}
	if ip != [16]byte{} || port != 0 {
		*a = netip.AddrPortFrom(netip.AddrFrom16(ip).Unmap(), port)
	}
	return true
}

// appendAddrs writes a count and the addresses, the first maxCandidates of them.
func appendAddrs(b []byte, addrs []netip.AddrPort) []byte {
	addrs = addrs[:min(len(addrs), maxCandidates)]
	b = append(b, byte(len(addrs)))
	for _, a := range addrs {
		b = appendAddr(b, a)
	}
	return b
}

func readAddrs(s *cryptobyte.String) ([]netip.AddrPort, error) {
	var count uint8
	if !s.ReadUint8(&count) {
		return nil, errShort
	}
	if count > maxCandidates {
		return nil, fmt.Errorf("message with %d candidates, at most %d", count, maxCandidates)
	}
	addrs := make([]netip.AddrPort, 0, count)
	for range count {
		var a netip.AddrPort
		if !readAddr(s, &a) {
			return nil, errShort
		}
		if a.IsValid() && a.Port() != 0 {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}
