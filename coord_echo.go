package main

// This file is what the coordinator does for ends that look for a path: it
// tells on both its ports where it sees them, and hands a short note from one
// device to another of its account. Nothing is kept of either. Neither ever
// sends more bytes than came in.
//
// A note is all that the coordinator carries for two devices: sealed for the
// other end, at most maxRelayed bytes, relayRate of them a second. It is how
// two that have lost each other say where they are now, and no way for traffic.

import (
	"net/netip"
	"time"
)

const (
	// relayGap is the time for one relay of a device, and relayBurst the relays
	// that it may be ahead: it roams, and holds links to a whole account.
	relayGap   = 50 * time.Millisecond
	relayBurst = 256
)

// takes reports whether a port takes in messages of a kind: the second one does
// nothing but answer echoes.
func takes(sock int, kind byte) bool {
	switch kind {
	case msgBeat, msgCall, msgAck, msgRelay:
		return sock == 0
	}
	return kind == msgEcho
}

// echoLocked answers from the port that was asked, or from the other one. Who
// only wants to know what its NAT does need not be online.
func (p *presence) echoLocked(in presInput, rest []byte) {
	msg, err := parseEcho(rest)
	if err != nil || in.m.standing == memberRevoked {
		return
	}
	to := in.from
	if msg.other {
		if !p.second.IsValid() {
			return
		}
		to.sock = 1 - to.sock
		if !p.second.Addr().IsUnspecified() {
			to.local = netip.Addr{} // it is not the other port's
		}
	}
	ack := echoAckMsg{nonce: msg.nonce, observed: in.from.addr}
	p.postLocked(in.m, in.head.sender, to, msgEchoAck, ack.append(nil))
}

// relayLocked hands a note on to a process that is online. Where that is not
// there the note is dropped: its sender repeats it.
func (p *presence) relayLocked(in presInput, rest []byte) {
	msg, err := parseRelay(rest)
	if err != nil || in.m.standing != memberActive {
		return
	}
	if _, sealed := hintOfDatagram(msg.inner); !sealed {
		return
	}
	inst := in.m.instance(in.head.sender)
	if inst == nil || inst.left {
		p.helloLocked(in) // it shall beat first
		return
	}
	if !inst.window.fresh(in.head.counter) || !in.m.nextRelay.take(in.at, relayGap, relayBurst) {
		return
	}
	target := in.m.acct.member(msg.target)
	if target == nil || target.standing != memberActive {
		return
	}
	if to := target.instance(msg.instance); to != nil && !to.left {
		relayed := relayedMsg{observed: in.from.addr, inner: msg.inner}
		p.postLocked(target, to.id, p.sourceLocked(to), msgRelayed, relayed.append(nil))
	}
}
