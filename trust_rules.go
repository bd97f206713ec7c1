package main

// This file holds each op's own rules (step 7 of apply). They are judged before
// any signature, so that forged records cost little.

import (
	"bytes"
	"crypto/sha256"
	"fmt"
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
	if l.kind == signerWebauthn {
		return errWebauthnUnsupported
	}
	if l.id != newSignerID(l.kind, l.key) {
		return coded("op-invalid", "signer %s (%s): the id is not that of its key", l.label, l.id)
	}
	for _, d := range s.devicesEver() {
		if d.hasSignKey(l.key) {
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
	for _, l := range list {
		if l.can('r') {
			return true
		}
	}
	return false
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
	blob := b.keys.sshKey().Marshal()
	for _, m := range s.members {
		if m.kind == signerSSH && bytes.Equal(m.key, blob) {
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

// hasSignKey compares an SSH blob with the device's signing key.
func (d *deviceRec) hasSignKey(blob []byte) bool {
	return d.keys.sign != nil && bytes.Equal(d.keys.sshKey().Marshal(), blob)
}
