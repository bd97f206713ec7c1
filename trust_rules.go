package main

// This file holds each op's own rules (step 7 of apply), judged before any
// signature, so that forged records cost little; and what a record does once it
// is judged good: it changes a state that nobody else has seen yet.

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
)

// newSignerID names a signer by its kind and key: an SSH blob or a COSE key.
func newSignerID(kind string, key []byte) signerID {
	h := sha256.New()
	fmt.Fprintf(h, "sessio-signer-v1\n%s\n%s", kind, key)
	return signerID("s" + base32Lower.EncodeToString(h.Sum(nil))[:idLen-1])
}

// checkRules judges what st says, not yet who says it.
func (s *trustState) checkRules(st *statement) error {
	if (st.op == "genesis") != (st.seq == 0) {
		return coded("op-invalid", "statement %d is a %s: an account begins with genesis and has one", st.seq, st.op)
	}
	if err := checkRoom(st); err != nil {
		return err
	}
	for _, l := range st.newSigners() {
		if err := s.checkNewSigner(l); err != nil {
			return err
		}
	}
	if !st.understood() {
		if st.seq == 0 {
			return withHint(coded("op-invalid", "the account was made by a later version"), "update sessio on this machine")
		}
		return nil
	}
	if s != nil && s.unknown != 0 {
		return nil // what came before is only partly known: rules would misjudge
	}
	switch b := st.body.(type) {
	case opGenesis:
		return checkSignerSet(b.signers)
	case opSignerAdd:
		return s.checkSignerAdd(b)
	case opSignerRemove:
		return s.checkSignerRemove(b, st.seq)
	case opDeviceAdd:
		return s.checkDeviceAdd(b)
	case opDeviceUpdate:
		return s.checkDeviceUpdate(b)
	case opDeviceRevoke:
		return s.checkDeviceRevoke(b)
	case opRecover:
		return s.checkRecover(b, st.seq)
	}
	return nil
}

// checkRoom keeps the last records of a log for removals.
func checkRoom(st *statement) error {
	if st.seq >= maxRecords {
		return coded("op-invalid", "statement %d: a log has at most %d", st.seq, maxRecords)
	}
	if st.seq >= maxRecords-recordsReserved && !st.removal() {
		return coded("op-invalid", "statement %d: the last %d of a log are kept for removals", st.seq, recordsReserved)
	}
	return nil
}

// checkNewSigner holds for every signer line, whatever the op.
func (s *trustState) checkNewSigner(l signerLine) error {
	if l.id != newSignerID(l.kind, l.key) {
		return coded("op-invalid", "signer %s (%s): the id is not that of its key", l.label, l.id)
	}
	for _, d := range s.devicesEver() {
		if d.hasSignKey(l) {
			return coded("op-invalid", "signer %s has the key of device %s: a machine's own key signs no statements", l.label, d.id)
		}
	}
	return nil
}

// checkSignerSet is for the signers of a new or recovered account.
func checkSignerSet(list []signerLine) error {
	var d, s, r int
	for _, l := range list {
		if l.can('d') {
			d++
		}
		if l.can('s') {
			s++
		}
		if l.can('r') {
			r++
		}
	}
	if d == 0 || s == 0 {
		return coded("op-invalid", "no signer may sign devices (d), or none may sign signers (s)")
	}
	if r > 1 {
		return coded("op-invalid", "%d recovery keys, at most one", r)
	}
	return nil
}

func (s *trustState) checkSignerAdd(b opSignerAdd) error {
	if _, ok := s.member(b.signer.id); ok {
		return coded("op-invalid", "%s is a signer already", b.signer.id)
	}
	active := 1
	for _, m := range s.members {
		if m.active() && !(m.can('r') && b.signer.can('r')) { // a recovery key replaces the last
			active++
		}
	}
	if active > maxSigners {
		return coded("op-invalid", "%d signers, at most %d", active, maxSigners)
	}
	return nil
}

func (s *trustState) checkSignerRemove(b opSignerRemove, seq uint64) error {
	if _, ok := s.member(b.signer); !ok {
		return coded("op-invalid", "%s is no signer", b.signer)
	}
	if err := checkSince(b.since, seq); err != nil {
		return err
	}
	gone := s.removedWith(b)
	var left []signerLine
	for i, m := range s.members {
		if m.active() && gone[i] == 0 && m.id != b.signer {
			left = append(left, m.signerLine)
		}
	}
	return checkSignerSet(left)
}

func checkSince(since, seq uint64) error {
	if since >= seq {
		return coded("op-invalid", "acts from statement %d on cannot be taken back by statement %d", since, seq)
	}
	return nil
}

func (s *trustState) checkRecover(b opRecover, seq uint64) error {
	if err := checkSince(b.since, seq); err != nil {
		return err
	}
	if err := checkSignerSet(b.signers); err != nil {
		return err
	}
	total := len(b.signers)
	for _, m := range s.members {
		if m.active() && m.can('r') && !hasRecovery(b.signers) {
			total++
		}
		for _, l := range b.signers {
			if m.active() && m.can('r') && m.id == l.id {
				return coded("op-invalid", "the recovery key stays what it is")
			}
		}
	}
	if total > maxSigners {
		return coded("op-invalid", "%d signers, at most %d", total, maxSigners)
	}
	return nil
}

func hasRecovery(list []signerLine) bool {
	return slices.ContainsFunc(list, func(l signerLine) bool { return l.can('r') })
}

// checkDeviceAdd also refuses either key of a device that ever was in the log:
// a revoked machine does not come back under half a new identity.
func (s *trustState) checkDeviceAdd(b opDeviceAdd) error {
	if b.device != b.keys.deviceID() {
		return coded("op-invalid", "device %s (%s): the id is not that of its keys", b.grant.name, b.device)
	}
	active := 1
	for _, d := range s.devicesEver() {
		if d.id == b.device || bytes.Equal(d.keys.sign, b.keys.sign) || d.keys.path == b.keys.path {
			return coded("op-invalid", "device %s has or had the keys of %s", d.id, b.device)
		}
		if d.revoked == 0 {
			active++
		}
	}
	if active > maxDevices {
		return coded("op-invalid", "%d devices, at most %d", active, maxDevices)
	}
	for _, m := range s.members {
		if (&deviceRec{keys: b.keys}).hasSignKey(m.signerLine) {
			return coded("op-invalid", "device %s has the key of signer %s", b.device, m.id)
		}
	}
	return s.checkNameFree(b.grant.name, b.device)
}

func (s *trustState) checkDeviceUpdate(b opDeviceUpdate) error {
	if err := s.checkActive(b.device); err != nil {
		return err
	}
	return s.checkNameFree(b.grant.name, b.device)
}

func (s *trustState) checkDeviceRevoke(b opDeviceRevoke) error {
	for _, id := range b.devices {
		if err := s.checkActive(id); err != nil {
			return err
		}
	}
	return nil
}

func (s *trustState) checkActive(id deviceID) error {
	d := s.devs[id]
	if d == nil {
		return coded("op-invalid", "%s is no device of the account", id)
	}
	if d.revoked != 0 {
		return coded("op-invalid", "device %s is revoked", id)
	}
	return nil
}

// checkNameFree keeps names unique among active devices. but may have it.
func (s *trustState) checkNameFree(name string, but deviceID) error {
	for _, d := range s.devs {
		if d.revoked == 0 && d.id != but && d.grant().name == name {
			return coded("op-invalid", "the name %s is taken by device %s", name, d.id)
		}
	}
	return nil
}

// devicesEver are active and revoked ones.
func (s *trustState) devicesEver() map[deviceID]*deviceRec {
	if s == nil {
		return nil
	}
	return s.devs
}

// hasSignKey compares a signer's key with the device's signing key.
func (d *deviceRec) hasSignKey(l signerLine) bool {
	switch {
	case d.keys.sign == nil:
		return false
	case l.kind == signerWebauthn:
		return bytes.Equal(coseKey{coseEdDSA, d.keys.sign}.append(nil), l.key)
	}
	return bytes.Equal(d.keys.sshKey().Marshal(), l.key)
}

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
