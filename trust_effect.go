package main

// This file is what a record does once it is judged good: it changes a state
// that nobody else has seen yet.

import (
	"maps"
	"slices"
)

// clone copies what effect changes in place.
func (s *trustState) clone() *trustState {
	if s == nil {
		return &trustState{devs: map[deviceID]*deviceRec{}}
	}
	n := *s
	n.chain = slices.Clip(s.chain)
	n.members = slices.Clone(s.members)
	n.devs = maps.Clone(s.devs)
	return &n
}

// effect makes s the state after rec, which by have backed.
//
// After a statement that was not understood only removals act. New signers are
// noted even then: they could do nothing but remove, and without them no later
// removal by them could be verified.
func (s *trustState) effect(rec *trustRecord, by []int) {
	st := rec.stmt
	s.chain = append(s.chain, rec.hash)
	s.time = st.time
	if !st.understood() {
		if s.unknown == 0 {
			s.unknown = st.seq
		}
		return
	}
	switch b := st.body.(type) {
	case opGenesis:
		for _, l := range b.signers {
			s.members = append(s.members, member{signerLine: l})
		}
	case opSignerAdd:
		s.install(b.signer, st.seq, by)
	case opSignerRemove:
		s.removeSigner(b, st.seq)
	case opDeviceAdd:
		if s.unknown == 0 {
			act := deviceAct{st.seq, by, b.grant}
			s.devs[b.device] = &deviceRec{id: b.device, keys: b.keys, acts: []deviceAct{act}}
		}
	case opDeviceUpdate:
		if s.unknown == 0 {
			d := *s.devs[b.device]
			d.acts = append(slices.Clip(d.acts), deviceAct{st.seq, by, b.grant})
			s.devs[b.device] = &d
		}
	case opDeviceRevoke:
		for _, id := range b.devices {
			s.revoke(id, st.seq, b.reason)
		}
	case opRecover:
		s.recover(b, st.seq, by)
	}
}

// install brings a signer in. A recovery key takes the place of the last one.
func (s *trustState) install(l signerLine, seq uint64, by []int) {
	if _, ok := s.member(l.id); ok {
		return // only after a statement not understood
	}
	if l.can('r') {
		for i := range s.members {
			if s.members[i].active() && s.members[i].can('r') {
				s.members[i].remove(seq, 0)
			}
		}
	}
	s.members = append(s.members, member{signerLine: l, added: seq, by: by})
}

// maxDevsEver bounds the devices that a state remembers, in entries of some 200
// bytes. Only statements not understood could lead to as many.
const maxDevsEver = 2 * maxRecords

// revoke is for ever: the id stays, and with it both keys. An id that is not
// known here was added by a statement that had no effect.
func (s *trustState) revoke(id deviceID, seq uint64, reason string) {
	d := deviceRec{id: id, acts: []deviceAct{{}}}
	if old := s.devs[id]; old != nil {
		d = *old
	} else if len(s.devs) >= maxDevsEver {
		return
	}
	if d.revoked == 0 {
		d.revoked, d.reason = seq, reason
		s.devs[id] = &d
	}
}

// A takenBack says of each member from which statement on its acts count for
// nothing; 0 means that all of them count.
type takenBack []uint64

func (s *trustState) removeSigner(b opSignerRemove, seq uint64) {
	gone := s.removedWith(b)
	s.undo(gone, seq, false)
	for i := range s.members {
		if gone[i] != 0 || s.members[i].id == b.signer {
			s.members[i].remove(seq, gone[i])
		}
	}
}

// remove ends a signer's time. With since, its acts from there on are taken
// back, and earlier ones than before if it is removed already.
func (m *member) remove(seq, since uint64) {
	if m.active() {
		m.removed = seq
	}
	if since != 0 && (m.undone == 0 || since < m.undone) {
		m.undone = since
	}
}

// removedWith marks the members that b takes acts back from: the signer, and
// those whom it alone let in from there on, and so forth. Without since nobody.
func (s *trustState) removedWith(b opSignerRemove) takenBack {
	gone := make(takenBack, len(s.members))
	for i, m := range s.members {
		if m.id == b.signer {
			gone[i] = b.since
		}
	}
	s.spread(gone)
	return gone
}

// recover removes all signers but the recovery key at once and installs those
// of b. What any of them did from since on is taken back, also what was done by
// one who is no signer any more.
func (s *trustState) recover(b opRecover, seq uint64, by []int) {
	gone := make(takenBack, len(s.members))
	for i := range s.members {
		if m := &s.members[i]; !m.can('r') {
			gone[i] = b.since
			m.remove(seq, b.since)
		}
	}
	s.undo(gone, seq, false)
	for _, l := range b.signers {
		s.install(l, seq, by)
	}
	s.recovered = seq
}

// spread adds to gone whoever was let in by acts taken back, and by nobody
// else. Members stand in the order in which they came, so one pass is enough.
func (s *trustState) spread(gone takenBack) {
	for i, m := range s.members {
		if gone[i] == 0 && gone.covers(m.added, m.by) {
			gone[i] = m.added
		}
	}
}

// covers reports whether an act of statement seq is taken back from all who
// backed it. Nobody backed the signers of genesis; what covers says of them is
// "from statement 0 on", which means not at all.
func (t takenBack) covers(seq uint64, by []int) bool {
	for _, i := range by {
		if t[i] == 0 || seq < t[i] {
			return false
		}
	}
	return true
}

const reasonUndone = "undone" // the signer who added the device was thrown out

// undo takes back acts on devices: a device whose adding is taken back is
// revoked, a grant that was changed is again what it was before. With confirm a
// device stays if a later update of it, by somebody else, still counts. It
// touches no signer.
func (s *trustState) undo(gone takenBack, seq uint64, confirm bool) {
	var back []*deviceRec
	for _, id := range slices.Sorted(maps.Keys(s.devs)) {
		d := s.devs[id]
		if d.revoked != 0 {
			continue
		}
		undone := func(a deviceAct) bool { return gone.covers(a.seq, a.by) }
		left := slices.DeleteFunc(slices.Clone(d.acts), undone)
		if len(left) == 0 || !confirm && undone(d.acts[0]) {
			s.revoke(id, seq, reasonUndone)
		} else if len(left) < len(d.acts) {
			n := *d
			n.acts = left
			back = append(back, &n)
		}
	}
	for _, d := range back {
		s.devs[d.id] = d
	}
	for _, d := range back {
		s.keepNameUnique(d)
	}
}

// keepNameUnique is for an earlier grant in force again whose name somebody has
// taken meanwhile: the device is then called by its id, which has the form of a
// name and is nobody else's.
func (s *trustState) keepNameUnique(d *deviceRec) {
	if s.checkNameFree(d.grant().name, d.id) != nil {
		d.acts[len(d.acts)-1].grant.name = string(d.id)
	}
}
