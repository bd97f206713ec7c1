package main

// This file answers what the rest of the coordinator asks of the presence
// table: who is online, which sessions run, and which addresses are proved.

import (
	"net/netip"
	"time"

	"golang.org/x/crypto/cryptobyte"
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

// A sessionKey names a session in an account: two devices may have drawn the
// same id.
type sessionKey struct {
	target deviceID
	id     sessionID
}

// running counts the connections that an account's devices have open now, by
// what each process said in its last beat.
func (p *presence) running(acct acctID) map[sessionKey]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	live := map[sessionKey]int{}
	a := p.accounts[acct]
	if a == nil {
		return live
	}
	for _, m := range a.members {
		for i := range m.instances {
			s := cryptobyte.String(m.instances[i].runs)
			runs, _ := readRunning(&s) // as we have written them
			for _, r := range runs {
				live[sessionKey{m.deviceID(), r.id}] += int(r.live)
			}
		}
	}
	return live
}

// runsLocked hands on which sessions run, as a beat says, when the beat is of a
// device that may be entered. Clients that the log does not know are left out.
func (p *presence) runsLocked(in presInput, msg *beatMsg) {
	if p.keeper == nil || !msg.serves || in.m.standing != memberActive {
		return
	}
	acct, target, runs := in.m.acct, in.m.deviceID(), map[sessionID]deviceID{}
	for _, r := range msg.running {
		if m := p.members[r.client]; m != nil && m.acct == acct && m.standing == memberActive {
			runs[r.id] = m.deviceID()
		}
	}
	p.after = append(p.after, func() { p.keeper.sessionsRun(acct.id, target, runs) })
}
