package main

// This file answers questions about an account: who belongs to it, and whether
// a device may act now. Every role asks here and nowhere else.

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"strings"
	"time"
)

// A signedDevice is a device that signers of the account have vouched for. Only
// a trustState makes one.
type signedDevice struct {
	id         deviceID
	name       string
	keys       publicKeys
	roles      []string
	users      []string
	caps       []string
	expires    int64 // unix seconds, 0 never
	addedSeq   uint64
	revoked    bool
	revokedSeq uint64
	reason     string // lost, retired, stolen; or undone with the signer who added it
}

func (d signedDevice) hasRole(role string) bool { return slices.Contains(d.roles, role) }
func (d signedDevice) hasCap(name string) bool  { return slices.Contains(d.caps, name) }

// allowsUser reports whether login is listed, or any login is.
func (d signedDevice) allowsUser(login string) bool {
	return validLogin(login) && (slices.Contains(d.users, login) || slices.Contains(d.users, "*"))
}

func (d signedDevice) expired(now time.Time) bool {
	return d.expires != 0 && now.Unix() >= d.expires
}

// A signer is one that is active.
type signer struct {
	signerLine
	addedSeq uint64
}

func (s *trustState) acct() acctID {
	if s == nil {
		return acctID{}
	}
	return acctID(s.chain[0])
}

// seq is the number of the last record. An empty log has none: see head.
func (s *trustState) seq() uint64 {
	if s == nil {
		return 0
	}
	return uint64(len(s.chain) - 1)
}

// head is the hash of the last statement, zero for an empty log.
func (s *trustState) head() [32]byte {
	if s == nil {
		return [32]byte{}
	}
	return s.chain[len(s.chain)-1]
}

func (s *trustState) lastTime() int64 {
	if s == nil {
		return 0
	}
	return s.time
}

// troubles are what a person must be told at every command: codes unknown-op,
// fork, time-future.
func (s *trustState) troubles() []error {
	if s == nil {
		return nil
	}
	return s.trouble
}

// devices are the active ones, by name.
func (s *trustState) devices() []signedDevice {
	var list []signedDevice
	for _, d := range s.devicesEver() {
		if d.revoked == 0 {
			list = append(list, d.signed())
		}
	}
	sortBy(list, func(a, b signedDevice) int { return strings.Compare(a.name, b.name) })
	return list
}

// revokedDevices are those that were and never come back, by their ids.
func (s *trustState) revokedDevices() []signedDevice {
	var list []signedDevice
	for _, d := range s.devicesEver() {
		if d.revoked != 0 {
			list = append(list, d.signed())
		}
	}
	sortBy(list, func(a, b signedDevice) int { return strings.Compare(string(a.id), string(b.id)) })
	return list
}

// device finds an active or revoked device.
func (s *trustState) device(id deviceID) (signedDevice, bool) {
	d := s.devicesEver()[id]
	if d == nil {
		return signedDevice{}, false
	}
	return d.signed(), true
}

// deviceByName finds an active device.
func (s *trustState) deviceByName(name string) (signedDevice, bool) {
	for _, d := range s.devicesEver() {
		if d.revoked == 0 && d.grant().name == name {
			return d.signed(), true
		}
	}
	return signedDevice{}, false
}

// deviceByKey finds an active or revoked device.
func (s *trustState) deviceByKey(key ed25519.PublicKey) (signedDevice, bool) {
	for _, d := range s.devicesEver() {
		if len(key) == ed25519.PublicKeySize && bytes.Equal(d.keys.sign, key) {
			return d.signed(), true
		}
	}
	return signedDevice{}, false
}

func (d *deviceRec) signed() signedDevice {
	g := d.grant()
	return signedDevice{
		id: d.id, name: g.name, keys: d.keys,
		roles: g.roles, users: g.users, caps: g.caps, expires: g.expires,
		addedSeq: d.acts[0].seq, revoked: d.revoked != 0, revokedSeq: d.revoked, reason: d.reason,
	}
}

// signers are the active ones, as they came.
func (s *trustState) signers() []signer {
	if s == nil {
		return nil
	}
	var list []signer
	for _, m := range s.members {
		if m.active() {
			list = append(list, signer{m.signerLine, m.added})
		}
	}
	return list
}

// judge decides whether the holder of both keys may act in role ("client" or
// "server") now. Codes: unknown-device, key-mismatch, revoked, expired, role.
func (s *trustState) judge(keys publicKeys, role string, now time.Time) (signedDevice, error) {
	d, ok := s.deviceByKey(keys.sign)
	if ok && d.keys.path != keys.path {
		return signedDevice{}, coded("key-mismatch", "device %s shows another path key than the log has", d.name)
	}
	return s.judgeKey(keys.sign, role, now)
}

// judgeKey is judge for a peer that can show the signing key alone, as one does
// that logs in over TCP.
func (s *trustState) judgeKey(key ed25519.PublicKey, role string, now time.Time) (signedDevice, error) {
	d, ok := s.deviceByKey(key)
	switch {
	case !ok:
		return signedDevice{}, coded("unknown-device", "no signer of the account has signed this device")
	case d.revoked:
		return signedDevice{}, coded("revoked", "device %s is revoked (%s)", d.name, d.reason)
	case d.expired(now):
		return signedDevice{}, coded("expired", "device %s was signed until %s", d.name, stmtDate(d.expires))
	case !d.hasRole(role):
		return signedDevice{}, coded("role", "device %s is not signed as a %s", d.name, role)
	}
	return d, nil
}

// judgeLogin decides whether client may enter server as login now, and what it
// may do there. On a server users and caps say what the account's clients may;
// those of a pure client bound what it may anywhere. Codes: as judge, and user.
func (s *trustState) judgeLogin(client ed25519.PublicKey, server deviceID, login string, now time.Time) (signedDevice, []string, error) {
	c, err := s.judgeKey(client, "client", now)
	if err != nil {
		return signedDevice{}, nil, err
	}
	self, ok := s.device(server)
	if !ok {
		return signedDevice{}, nil, coded("unknown-device", "no signer of the account has signed this server")
	}
	if self, err = s.judgeKey(self.keys.sign, "server", now); err != nil {
		return signedDevice{}, nil, err
	}
	if !self.allowsUser(login) {
		return signedDevice{}, nil, coded("user", "nobody may log in to %s as %q", self.name, login)
	}
	caps := self.caps
	if !c.hasRole("server") {
		if !c.allowsUser(login) {
			return signedDevice{}, nil, coded("user", "device %s may not log in as %q", c.name, login)
		}
		caps = slices.DeleteFunc(slices.Clone(caps), func(name string) bool { return !c.hasCap(name) })
	}
	return c, caps, nil
}
