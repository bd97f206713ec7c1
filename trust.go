package main

// This file decides what a record may do to an account: apply judges it in the
// order of nine steps and returns the state after it. Nothing else makes a
// state, and nothing else is believed about who belongs to an account.
//
// The ninth step, disk and memory, is in trust_store.go. What stands beside the
// log because somebody signed two continuations of it is in trust_fork.go. What
// follows from a state, who belongs to it and whether a device may act now, every
// role asks here and nowhere else.

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"strings"
	"time"
)

const (
	// maxRecords bounds a log; the last of them are kept for removals, so
	// that a log filled up by a thief can still throw him out.
	maxRecords      = 2048
	recordsReserved = 256

	maxDevices = 256 // active ones

	// maxAhead is how far a statement may be ahead of a clock that is right.
	maxAhead = 24 * time.Hour
)

// A trustState is an account after some record of its log. It never changes:
// apply makes a new one. A nil state is that of an empty log.
type trustState struct {
	chain     []stmtHash // of every statement, by its number
	time      int64      // of the last statement
	members   []member   // all signers there ever were, as they came
	devs      map[deviceID]*deviceRec
	unknown   uint64 // number of the first statement not understood; 0 none
	recovered uint64 // number of the last recover; 0 none

	// The rest only in a view, which trustTree.look makes: the log's own
	// state, and what a person should be told.
	log     *trustState
	trouble []error
}

// A member is a signer's time in the account. One that is removed and comes
// back is a new member.
type member struct {
	signerLine
	added   uint64 // statement
	by      []int  // members with the power to let it in who did; nil in genesis
	removed uint64 // statement; 0 while active
	undone  uint64 // acts from this statement on were taken back then; 0 none
}

func (m member) active() bool { return m.removed == 0 }

// A deviceRec is all that the log says about a device. It is replaced, never
// changed.
type deviceRec struct {
	id      deviceID
	keys    publicKeys
	acts    []deviceAct // device.add, then the updates
	revoked uint64      // statement; 0 while active
	reason  string
}

// A deviceAct is one grant and the members with power who signed it.
type deviceAct struct {
	seq   uint64
	by    []int
	grant deviceGrant
}

// grant is what counts now.
func (d *deviceRec) grant() deviceGrant { return d.acts[len(d.acts)-1].grant }

// apply judges raw as the next record after s and returns the state after it.
// A record that s holds already changes nothing. A zero now means that the
// clock cannot be relied on. Errors carry the stable codes.
func apply(s *trustState, raw []byte, now time.Time) (*trustState, error) {
	rec, err := parseRecord(raw) // steps 1 and 2
	if err != nil {
		return nil, err
	}
	return s.plain().applyRecord(rec, now)
}

// plain is the state that the log alone makes.
func (s *trustState) plain() *trustState {
	if s != nil && s.log != nil {
		return s.log
	}
	return s
}

func (s *trustState) applyRecord(rec *trustRecord, now time.Time) (*trustState, error) {
	known, err := s.checkPlace(rec) // steps 3 to 5
	if err != nil {
		return nil, err
	}
	if known {
		return s, nil
	}
	if err := s.checkTime(rec.stmt.time, now); err != nil { // step 6
		return nil, err
	}
	if err := s.checkRules(rec.stmt); err != nil { // step 7
		return nil, err
	}
	if err := s.verifySignatures(rec); err != nil { // step 8
		return nil, err
	}
	by, err := s.checkPowers(rec)
	if err != nil {
		return nil, err
	}
	n := s.clone()
	n.effect(rec, by)
	return n, nil
}

// replay applies a record that this machine has judged before it wrote it to
// its own disk. Only the signatures are not checked again: on a small router
// that takes a minute for a long log. It changes s, unless s is nil.
func (s *trustState) replay(rec *trustRecord) (*trustState, error) {
	known, err := s.checkPlace(rec)
	if err == nil && known {
		err = coded("log-corrupt", "record %d stands twice in the log", rec.stmt.seq)
	}
	if err == nil {
		err = s.checkTime(rec.stmt.time, time.Time{})
	}
	if err == nil {
		err = s.checkRules(rec.stmt)
	}
	if err != nil {
		return nil, err
	}
	by, err := s.checkPowers(rec)
	if err != nil {
		return nil, err
	}
	if s == nil {
		s = s.clone()
	}
	s.effect(rec, by)
	return s, nil
}

// checkPlace compares account, number and previous hash with s. known is true
// for a record that s holds already.
func (s *trustState) checkPlace(rec *trustRecord) (known bool, err error) {
	st := rec.stmt
	switch {
	case s == nil && st.seq != 0:
		return false, coded("gap", "statement %d, and the log is empty", st.seq)
	case s == nil:
		return false, nil
	case st.seq == 0 && rec.hash != s.chain[0], st.seq != 0 && st.acct != s.acct():
		return false, coded("wrong-account", "statement %d is of another account", st.seq)
	case st.seq > s.seq()+1:
		return false, coded("gap", "statement %d, and the log ends at %d", st.seq, s.seq())
	case st.seq <= s.seq() && s.chain[st.seq] == rec.hash:
		return true, nil
	case st.seq <= s.seq():
		return false, coded("fork", "a second statement %d: the log holds another one", st.seq)
	case st.prev != s.head():
		return false, coded("fork", "statement %d follows another statement %d than the log's", st.seq, s.seq())
	}
	return false, nil
}

// checkTime keeps statements in order of time, and those from the future out
// until their time comes.
func (s *trustState) checkTime(t int64, now time.Time) error {
	if s != nil && t < s.time {
		return coded("time-backwards", "a statement of %s after one of %s", stmtDate(t), stmtDate(s.time))
	}
	if !now.IsZero() && t > now.Add(maxAhead).Unix() {
		return coded("time-future", "a statement of %s, and here it is %s", stmtDate(t), stmtDate(now.Unix()))
	}
	return nil
}

func stmtDate(t int64) string { return time.Unix(t, 0).UTC().Format(time.RFC3339) }

// verifySignatures checks every signature of the record that can be checked.
// One by somebody who is neither in s nor brought in by the statement could
// mean nothing and is refused; but once a later version has spoken, a signer may
// stand there whom only that version can find, and is passed over.
func (s *trustState) verifySignatures(rec *trustRecord) error {
	fresh := rec.stmt.newSigners()
	for _, sig := range rec.sigs {
		line, ok := s.signerLine(sig.claimed)
		if i := slices.IndexFunc(fresh, func(l signerLine) bool { return l.id == sig.claimed }); !ok && i >= 0 {
			line, ok = fresh[i], true
		}
		if !ok && (!rec.stmt.understood() || s != nil && s.unknown != 0) {
			continue
		}
		if !ok {
			return coded("no-power", "statement %d is signed by %s, who is no signer of the account", rec.stmt.seq, sig.claimed)
		}
		if err := sig.verify(line, rec.text); err != nil {
			return coded("sig-invalid", "signature of statement %d by %s: %w", rec.stmt.seq, sig.claimed, err)
		}
	}
	return nil
}

// checkPowers returns the members who signed and may sign this op, and demands
// that new signers have shown to hold their keys.
func (s *trustState) checkPowers(rec *trustRecord) (by []int, err error) {
	signed := func(id signerID) bool {
		return slices.ContainsFunc(rec.sigs, func(sig recordSig) bool { return sig.claimed == id })
	}
	if s != nil {
		for i, m := range s.members {
			if m.active() && signed(m.id) && s.mayBack(m, rec.stmt) {
				by = append(by, i)
			}
		}
		if len(by) == 0 {
			return nil, coded("no-power", "nobody with the power for %s has signed statement %d", rec.stmt.op, rec.stmt.seq)
		}
	}
	for _, l := range rec.stmt.newSigners() {
		// The recovery key of a new account need not sign: it may be on
		// paper already.
		if !signed(l.id) && (s != nil || !l.can('r')) && rec.stmt.understood() {
			return nil, coded("no-possession", "the new signer %s (%s) has not signed statement %d", l.label, l.id, rec.stmt.seq)
		}
	}
	return by, nil
}

// mayBack is the table of powers: whether m's signature is enough for st.
func (s *trustState) mayBack(m member, st *statement) bool {
	if !st.understood() {
		if strings.HasPrefix(st.op, "device.") {
			return m.can('d')
		}
		return m.can('s') || m.can('r')
	}
	switch b := st.body.(type) {
	case opSignerAdd:
		return m.can('r') || m.can('s') && !b.signer.can('r')
	case opSignerRemove:
		if m.can('r') {
			return true
		}
		target, ok := s.member(b.signer)
		return m.can('s') && (!ok || !target.can('r') && m.added <= target.added)
	case opDeviceAdd, opDeviceUpdate:
		return m.can('d')
	case opDeviceRevoke:
		return m.can('d') || m.can('s') || m.can('r')
	case opRecover:
		return m.can('r')
	}
	return false
}

// member finds an active signer.
func (s *trustState) member(id signerID) (member, bool) {
	if s != nil {
		for _, m := range s.members {
			if m.id == id && m.active() {
				return m, true
			}
		}
	}
	return member{}, false
}

func (s *trustState) signerLine(id signerID) (signerLine, bool) {
	m, ok := s.member(id)
	return m.signerLine, ok
}

// everSigners are the lines of all signers that there ever were.
func (s *trustState) everSigners() (list []signerLine) {
	if s != nil {
		for _, m := range s.members {
			list = append(list, m.signerLine)
		}
	}
	return list
}

// errUpdate is what an older program has to say about a newer log.
func errUpdate(seq uint64) error {
	return withHint(coded("unknown-op", "statement %d says something that this version does not know: until it is updated only removals count", seq),
		"update sessio on this machine")
}

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

// suspended reports whether the log has the device as active, and only a branch
// beside it takes it away.
func (s *trustState) suspended(id deviceID) bool {
	here, there := s.plain().devicesEver()[id], s.devicesEver()[id]
	return here != nil && here.revoked == 0 && there.revoked != 0
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
