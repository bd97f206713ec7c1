package main

// This file answers what the rest of the coordinator asks of the presence
// table: who is online, and which addresses are proved.

import (
	"net/netip"
	"time"
)

// isProved reports whether an online device beat from an address: a QUIC
// handshake from there needs no Retry.
func (p *presence) isProved(addr netip.AddrPort) bool {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proved[wireAddrOf(addr)] > 0
}

// A memberStatus says whether a device is online; of several processes the one
// that serves speaks for it.
type memberStatus struct {
	online, serves bool
	silent         uint64 // seconds since it was last heard, never = not heard
	build          string
	addr           netip.AddrPort
}

func (p *presence) status(now time.Time, acct acctID, id deviceID) memberStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.accounts[acct]
	if a == nil {
		return memberStatus{silent: never}
	}
	m := a.member(id)
	if m == nil {
		return memberStatus{silent: never}
	}
	st := memberStatus{silent: m.silence(now.Sub(p.start))}
	inst := m.serving()
	for i := range m.instances {
		if inst == nil && !m.instances[i].left {
			inst = &m.instances[i]
		}
	}
	if inst != nil {
		st.online, st.serves = true, inst.serves
		st.build, st.addr = inst.build.Value(), inst.addr.addrPort()
	}
	return st
}

// silence is how long a member was not heard, in seconds.
func (m *presMember) silence(at time.Duration) uint64 {
	if !m.heard {
		return never
	}
	return uint64(uint32(at/time.Second) - m.seen)
}
