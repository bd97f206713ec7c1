package main

// This file keeps what the coordinator knows of an account beside its log, none
// of it signed: the passkeys by which the owner signs in to the page, who is
// signed in, what tickets were made for, and how devices are sorted. It stands
// in <dir>/accounts/<acct>/owner, which is replaced whole.

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxSigninKeys bounds the passkeys that sign in to one account.
	maxSigninKeys = 8
	// maxSignins bounds the browsers that are signed in to one account; the
	// oldest gives way.
	maxSignins = 32
	// signinLife is how long a browser stays signed in.
	signinLife = 12 * time.Hour
)

// An ownerState is replaced, never changed.
type ownerState struct {
	Keys       []signinKey           `json:"keys,omitempty"`
	Signins    []signin              `json:"signins,omitempty"`
	Categories map[deviceID][]string `json:"categories,omitempty"`
	Wishes     map[string]ticketWish `json:"wishes,omitempty"` // by the ticket's hash in hex
}

// A signinKey is a passkey that signs in, and can sign no statement.
type signinKey struct {
	ID    []byte `json:"id"`
	Key   []byte `json:"key"`  // canonical COSE
	User  []byte `json:"user"` // the handle that it was made with
	Label string `json:"label"`
	Made  int64  `json:"made"` // unix seconds
	Used  int64  `json:"used,omitempty"`
	Count uint32 `json:"count,omitempty"` // signCount, for information
	// Eligible is whether it may be backed up, which never changes.
	Eligible bool `json:"eligible,omitempty"`
	// By is the signer by whose word it was made, whether at once or by another
	// passkey that signs in; "": it came with the account, or by one that did.
	By signerID `json:"by,omitempty"`
	// Seq is the last record of the log when it was made.
	Seq uint64 `json:"seq,omitempty"`
}

// good reports whether a passkey signs in still: its signer is one, and no
// recovery has come since, for whoever had the signers' keys may have it too.
func (k *signinKey) good(s *trustState) bool {
	return k != nil && k.Seq >= s.recovered && (k.By == "" || slices.ContainsFunc(ownerLines(s), func(l signerLine) bool { return l.id == k.By }))
}

// A signin is one browser. Its secret is not kept.
type signin struct {
	Hash    []byte `json:"hash"` // SHA-256 of the secret
	Key     []byte `json:"key"`  // passkey that it came by
	Expires int64  `json:"expires"`
}

// A ticketWish is what a ticket was made for: a proposal until it is signed.
type ticketWish struct {
	Grant      grantWish `json:"grant"`
	Categories []string  `json:"categories,omitempty"`
	Until      int64     `json:"until"` // unix seconds: no join refers to it any more
}

func (a *coordAccount) ownerFile() string { return filepath.Join(a.dir, "owner") }

// loadOwner reads the file. Without it nobody can sign in until a signer lets
// somebody.
func (a *coordAccount) loadOwner() error {
	a.owner = new(ownerState)
	b, err := os.ReadFile(a.ownerFile())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := json.Unmarshal(b, a.owner); err != nil {
		a.owner = new(ownerState)
		return errors.Join(fmt.Errorf("who signs in is forgotten, the file is put aside: %w", err), os.Rename(a.ownerFile(), a.ownerFile()+".damaged"))
	}
	return nil
}

// ownerNow is the state that is known now; nobody changes it.
func (a *coordAccount) ownerNow() *ownerState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.owner
}

// changeOwner applies change to a copy, and keeps that once it is on disk.
func (a *coordAccount) changeOwner(now time.Time, change func(o *ownerState) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changeOwnerLocked(now, change)
}

func (a *coordAccount) changeOwnerLocked(now time.Time, change func(o *ownerState) error) error {
	b, err := json.Marshal(a.owner)
	if err != nil {
		return err
	}
	o := new(ownerState)
	if err := json.Unmarshal(b, o); err != nil {
		return err
	}
	o.drop(now)
	if err := change(o); err != nil {
		return err
	}
	if b, err = json.Marshal(o); err != nil {
		return err
	}
	if err := replaceFile(a.ownerFile(), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("account %s: %w", a.id, err)
	}
	a.owner = o
	return nil
}

// drop forgets what is over.
func (o *ownerState) drop(now time.Time) {
	o.Signins = slices.DeleteFunc(o.Signins, func(s signin) bool { return s.Expires <= now.Unix() })
	for hash, w := range o.Wishes {
		if w.Until <= now.Unix() {
			delete(o.Wishes, hash)
		}
	}
}

func (o *ownerState) key(id []byte) *signinKey {
	i := slices.IndexFunc(o.Keys, func(k signinKey) bool { return bytes.Equal(k.ID, id) })
	if i < 0 {
		return nil
	}
	return &o.Keys[i]
}

// wish is what a ticket was made for.
func (o *ownerState) wish(hash ticketHash) ticketWish { return o.Wishes[hex.EncodeToString(hash[:])] }

// addKey lets a passkey sign in from now on.
func (o *ownerState) addKey(k signinKey) error {
	if o.key(k.ID) != nil {
		return coded("passkey-known", "this passkey signs in already")
	}
	if len(o.Keys) >= maxSigninKeys {
		return coded("limit", "%d passkeys sign in to this account: remove one first", len(o.Keys))
	}
	o.Keys = append(o.Keys, k)
	return nil
}

// enter signs a browser in, and returns what it must show from now on.
func (o *ownerState) enter(acct acctID, key []byte, now time.Time) (cookie string, expires time.Time) {
	var secret [32]byte
	rand.Read(secret[:]) // never fails since Go 1.24
	if len(o.Signins) >= maxSignins {
		o.Signins = o.Signins[1:]
	}
	hash := sha256.Sum256(secret[:])
	expires = now.Add(signinLife)
	o.Signins = append(o.Signins, signin{Hash: hash[:], Key: key, Expires: expires.Unix()})
	return acct.String() + "." + b64url.EncodeToString(secret[:]), expires
}

// signedIn finds who shows a cookie.
func (s *coordStore) signedIn(cookie string, now time.Time) (*coordAccount, *signin) {
	name, text, _ := strings.Cut(cookie, ".")
	id, err := parseAcctID(name)
	secret, bad := b64url.DecodeString(text)
	if err != nil || bad != nil {
		return nil, nil
	}
	a, err := s.account(id)
	if err != nil {
		return nil, nil
	}
	hash := sha256.Sum256(secret)
	for _, in := range a.ownerNow().Signins {
		if subtle.ConstantTimeCompare(in.Hash, hash[:]) == 1 && in.Expires > now.Unix() && a.signinKey(in.Key) != nil {
			return a, &in
		}
	}
	return nil, nil
}

// signinKey finds a passkey that signs in. It is judged by the log as it is now:
// what dropWithSigners could not write must open nothing.
func (a *coordAccount) signinKey(id []byte) *signinKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k := a.owner.key(id); k.good(a.state) {
		return k
	}
	return nil
}

// signinAccount finds the account that a passkey signs in to.
func (s *coordStore) signinAccount(id []byte) (*coordAccount, *signinKey) {
	s.mu.Lock()
	a := s.accounts[s.signinKeys[string(id)]]
	s.mu.Unlock()
	if a == nil {
		return nil, nil
	}
	return a, a.signinKey(id)
}

// addSigninKey lets a passkey sign in to an account, and a browser with it. Who
// has begun it must be good still: the signer, and the sign-in with the hash by.
func (s *coordStore) addSigninKey(a *coordAccount, k signinKey, by []byte, now time.Time) (cookie string, expires time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.signinKeysFreeLocked([]signinKey{k}); err != nil {
		return "", expires, err
	}
	state, _ := a.snapshot(now)
	if k.Seq = state.seq(); !k.good(state) {
		return "", expires, coded("no-power", "the signer who has begun this is one no more")
	}
	err = a.changeOwner(now, func(o *ownerState) error {
		i := slices.IndexFunc(o.Signins, func(in signin) bool { return bytes.Equal(in.Hash, by) })
		if by != nil && (i < 0 || !o.key(o.Signins[i].Key).good(state)) {
			return errSignedOut
		}
		if err := o.addKey(k); err != nil {
			return err
		}
		cookie, expires = o.enter(a.id, k.ID, now)
		return nil
	})
	if err == nil {
		s.signinKeys[string(k.ID)] = a.id
	}
	return cookie, expires, err
}

// signinKeysFreeLocked reports whether passkeys are nobody's yet: the id of one is
// whatever its maker says. s.mu must be held.
func (s *coordStore) signinKeysFreeLocked(keys []signinKey) error {
	for _, k := range keys {
		if _, taken := s.signinKeys[string(k.ID)]; taken {
			return coded("passkey-known", "this passkey signs in already")
		}
	}
	return nil
}

// removeSigninKey takes a passkey away, and signs out who came by it. The last
// one stays: nobody could sign in any more.
func (s *coordStore) removeSigninKey(a *coordAccount, id []byte, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := a.changeOwner(now, func(o *ownerState) error {
		if o.key(id) == nil {
			return coded("passkey-unknown", "this passkey does not sign in here")
		}
		if len(o.Keys) == 1 {
			return coded("op-invalid", "this is the only passkey that signs in: add another one first")
		}
		o.Keys = slices.DeleteFunc(o.Keys, func(k signinKey) bool { return bytes.Equal(k.ID, id) })
		o.Signins = slices.DeleteFunc(o.Signins, func(in signin) bool { return bytes.Equal(in.Key, id) })
		return nil
	})
	if err == nil {
		delete(s.signinKeys, string(id))
	}
	return err
}

// dropWithSigners takes away what signs in no more after a record.
func (s *coordStore) dropWithSigners(a *coordAccount, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, _ := a.snapshot(now)
	gone := func(k signinKey) bool { return !k.good(state) }
	keys := a.ownerNow().Keys
	if !slices.ContainsFunc(keys, gone) {
		return nil
	}
	err := a.changeOwner(now, func(o *ownerState) error {
		o.Keys = slices.DeleteFunc(o.Keys, gone)
		o.Signins = slices.DeleteFunc(o.Signins, func(in signin) bool { return o.key(in.Key) == nil })
		return nil
	})
	for _, k := range keys {
		if err == nil && gone(k) {
			delete(s.signinKeys, string(k.ID))
		}
	}
	return err
}

// setCategories sorts a device under categories.
func (a *coordAccount) setCategories(id deviceID, list []string, now time.Time) error {
	list, err := checkCategories(list)
	if err != nil {
		return err
	}
	return a.changeOwner(now, func(o *ownerState) error {
		o.setCategories(id, list)
		return nil
	})
}

func (o *ownerState) setCategories(id deviceID, list []string) {
	if o.Categories == nil {
		o.Categories = map[deviceID][]string{}
	}
	if o.Categories[id] = list; len(list) == 0 {
		delete(o.Categories, id)
	}
}

// keepWishLocked notes what a ticket is made for, if that is said.
func (a *coordAccount) keepWishLocked(hash ticketHash, wish ticketWish, now time.Time) error {
	if wish.Grant.empty() && len(wish.Categories) == 0 {
		return nil
	}
	wish.Until = now.Add(ticketLife).Unix()
	return a.changeOwnerLocked(now, func(o *ownerState) error {
		if len(o.Wishes) >= maxTickets+maxPending {
			return coded("limit", "%d tickets are waiting to be used", len(o.Wishes))
		}
		if o.Wishes == nil {
			o.Wishes = map[string]ticketWish{}
		}
		o.Wishes[hex.EncodeToString(hash[:])] = wish
		return nil
	})
}

// sortLocked sorts who has just used a ticket under its categories, and keeps what
// it was made for as long as that machine may wait.
func (a *coordAccount) sortLocked(j pendingJoin, now time.Time) error {
	wish := a.owner.wish(j.ticket)
	if wish.Until == 0 {
		return nil
	}
	return a.changeOwnerLocked(now, func(o *ownerState) error {
		wish.Until = now.Add(pendingLife).Unix()
		o.Wishes[hex.EncodeToString(j.ticket[:])] = wish
		if len(wish.Categories) > 0 {
			o.setCategories(j.keys.deviceID(), wish.Categories)
		}
		return nil
	})
}

// refuse sends a machine away that waits for a signature.
func (a *coordAccount) refuse(id deviceID, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.waitingLocked(now)
	n := len(w.joins)
	if w.joins = slices.DeleteFunc(w.joins, func(j pendingJoin) bool { return j.keys.deviceID() == id }); len(w.joins) == n {
		return coded("unknown-device", "no such machine is waiting")
	}
	if err := a.setWaitingLocked(w); err != nil || len(a.owner.Categories[id]) == 0 {
		return err
	}
	return a.changeOwnerLocked(now, func(o *ownerState) error {
		delete(o.Categories, id)
		return nil
	})
}

// cancelTicket makes a ticket that nobody has used worthless.
func (a *coordAccount) cancelTicket(hash ticketHash, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.waitingLocked(now)
	n := len(w.tickets)
	if w.tickets = slices.DeleteFunc(w.tickets, func(t waitingTicket) bool { return t.hash == hash }); len(w.tickets) == n {
		return coded("ticket-unknown", "the ticket is used already, or too old")
	}
	if err := a.setWaitingLocked(w); err != nil || a.owner.wish(hash).Until == 0 {
		return err
	}
	return a.changeOwnerLocked(now, func(o *ownerState) error {
		delete(o.Wishes, hex.EncodeToString(hash[:]))
		return nil
	})
}

// checkCategories returns categories as they are kept: they are names.
func checkCategories(list []string) ([]string, error) {
	for _, c := range list {
		if !validName(c) {
			return nil, coded("request-malformed", "category %.40q: a-z, 0-9 and dashes, at most 32, no dash at either end", c)
		}
	}
	if list = sortedSet(list); len(list) > maxCategories {
		return nil, coded("limit", "%d categories of one device, at most %d", len(list), maxCategories)
	}
	return list, nil
}

// ownerLines are who may own the page of an account: signers of signers, and the
// recovery key.
func ownerLines(s *trustState) (lines []signerLine) {
	for _, l := range s.signers() {
		if l.can('s') || l.can('r') {
			lines = append(lines, l.signerLine)
		}
	}
	return lines
}

const (
	// flowLife is how long a step of a ceremony may take.
	flowLife = 5 * time.Minute
	// enrolLife is how long the code of account sign-in is good.
	enrolLife = 15 * time.Minute
	// maxFlows bounds the ceremonies under way, about 1 KB each; strangers have
	// three quarters of it, accounts the rest, and one address, account or signer
	// maxOwnerFlows. When a share is all taken who has most of it gives way.
	maxFlows      = 4096
	maxOwnerFlows = 64
)

// A webFlow is a ceremony between two requests. Each step is taken once.
type webFlow struct {
	kind      string // its next step
	acct      acctID
	claim     claimSecret
	label     string
	challenge []byte
	user      []byte     // handle of the passkey being made
	key       signinKey  // made before the account
	signer    signerLine // likewise
	text      []byte     // to be signed
	powers    string     // of a signer to be
	by        signerID   // who has proved to be that signer; "" = nobody has
	in        []byte     // hash of the sign-in that has begun it; nil = none has
	code      string     // to be used up at the end
	owner     string     // who has begun it: an address, an account or a signer
	stranger  bool       // that is an address
	until     time.Time
}

// webFlows are safe for concurrent use; the zero value is ready.
type webFlows struct {
	mu   sync.Mutex
	list map[string]webFlow // guarded by mu: by an id that nobody guesses
}

// put keeps the next step of a ceremony and returns its id.
func (f *webFlows) put(now time.Time, flow webFlow) (string, error) {
	var id [16]byte
	rand.Read(id[:]) // never fails since Go 1.24
	f.mu.Lock()
	defer f.mu.Unlock()
	share, have, has := maxFlows/4, 0, map[string]int{}
	if flow.stranger {
		share = maxFlows * 3 / 4
	}
	for id, old := range f.list {
		switch {
		case !now.Before(old.until):
			delete(f.list, id)
		case old.stranger == flow.stranger:
			have++
			has[old.owner]++
		}
	}
	if has[flow.owner] >= maxOwnerFlows {
		return "", coded("too-often", "too much is begun from this address, or for this account, and not ended: wait a few minutes")
	}
	if have >= share {
		f.makeRoomLocked(has)
	}
	if f.list == nil {
		f.list = map[string]webFlow{}
	}
	if flow.until = now.Add(flowLife); flow.kind == "enrol" {
		flow.until = now.Add(enrolLife)
	}
	name := base32Lower.EncodeToString(id[:])
	f.list[name] = flow
	return name, nil
}

// makeRoomLocked drops the oldest step of the one who has the most: many take no
// room from one more. f.mu must be held.
func (f *webFlows) makeRoomLocked(has map[string]int) {
	var oldest string
	for id, flow := range f.list {
		if old, ok := f.list[oldest]; has[flow.owner] > 0 && (!ok || has[flow.owner] > has[old.owner] || has[flow.owner] == has[old.owner] && flow.until.Before(old.until)) {
			oldest = id
		}
	}
	delete(f.list, oldest)
}

// keep puts a flow in the place of one that was taken.
func (f *webFlows) keep(id string, flow webFlow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list[id] = flow
}

// take returns a step that is due, once.
func (f *webFlows) take(now time.Time, id, kind string) (webFlow, error) {
	flow, err := f.look(now, id, kind)
	if err != nil {
		return flow, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.list[id]; !ok {
		return webFlow{}, errFlowOver
	}
	delete(f.list, id)
	return flow, nil
}

var errSignedOut = coded("signed-out", "you are not signed in, or not any more")

var errFlowOver = coded("too-late", "this took too long, or is done already: begin again")

// look is take for a step that stays due.
func (f *webFlows) look(now time.Time, id, kind string) (webFlow, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	flow, ok := f.list[id]
	if !ok || flow.kind != kind || !now.Before(flow.until) {
		return webFlow{}, errFlowOver
	}
	return flow, nil
}
