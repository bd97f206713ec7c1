package main

import "net/netip"

// A udpSource is where a datagram came from, and so where an answer goes: the
// socket that received it, the sender's address, and the address of ours that
// it was sent to, so that the answer leaves from there.
type udpSource struct {
	sock  int            // index in the set of sockets, 0 = the main one
	addr  netip.AddrPort // never IPv4 in mapped form
	local netip.Addr     // invalid: unknown, the kernel chooses
}

// A udpKey tells sources apart: the same address on another socket of ours
// passes another hole.
type udpKey struct {
	sock int
	addr netip.AddrPort
}

func (s udpSource) key() udpKey { return udpKey{s.sock, s.addr} }
