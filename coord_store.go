package main

// This file keeps the coordinator's accounts on disk, and the claim by which
// the first is made:
//
// 	<dir>/claim                   until it is used
// 	<dir>/accounts/<acct>/log     records, as devices keep them
// 	<dir>/accounts/<acct>/claim   hash of the claim that made the account
// 	<dir>/accounts/<acct>/waiting its tickets, and who waits for a signature
// 	<dir>/accounts/<acct>/owner   who signs in to the page: coord_owner.go
//
// An account's directory is whole or absent. What has been answered survives
// kill -9 and power loss. Every record is judged by the same apply as on the
// devices. Tickets and waiting joins stand in one file that is replaced whole,
// so that a ticket is used up and its bearer enters in one step:
//
// 	version  1 byte    1
// 	tickets  2 bytes   count, then each: hash 32 bytes, expires 8 bytes
// 	joins    as a pendingMsg
// 	sum      32 bytes  SHA-256 of all before

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
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

// Who may make an account.
const (
	signupClaim  = "claim" // who has the claim that the first start has drawn
	signupOpen   = "open"  // anyone
	signupClosed = "closed"
)

const (
	// maxAccounts bounds the accounts of a store: 4 KiB each and more.
	maxAccounts = 1 << 17
	// maxClockAhead is how far a statement may be ahead of our clock.
	maxClockAhead = 10 * time.Minute
)

// A coordStore is the directory. All methods may be called at once.
type coordStore struct {
	dir    string
	signup string

	mu       sync.Mutex
	claim    claimSecret              // guarded by mu: zero = used or none
	accounts map[acctID]*coordAccount // guarded by mu
	broken   map[acctID]error         // guarded by mu: could not be read at start

	signinKeys map[string]acctID // guarded by mu: the account of each passkey that signs in, by its id
}

// openCoordStore opens or makes the store in dir. An account that cannot be
// read is reported to logf and refused later; the others go on.
func openCoordStore(dir, signup string, logf func(format string, args ...any)) (*coordStore, error) {
	s := &coordStore{dir: dir, signup: signup, accounts: map[acctID]*coordAccount{}, broken: map[acctID]error{}, signinKeys: map[string]acctID{}}
	if err := os.MkdirAll(s.accountsDir(), 0o700); err != nil {
		return nil, fmt.Errorf("coordinator's store: %w", err)
	}
	entries, err := os.ReadDir(s.accountsDir())
	if err != nil {
		return nil, fmt.Errorf("coordinator's store: %w", err)
	}
	for _, e := range entries {
		file := filepath.Join(s.accountsDir(), e.Name())
		if strings.HasPrefix(e.Name(), ".") { // the rest of a create that did not end
			if err := os.RemoveAll(file); err != nil {
				return nil, fmt.Errorf("coordinator's store: %w", err)
			}
			continue
		}
		id, err := parseAcctID(e.Name())
		if err != nil {
			logf("%s: not an account, left alone", file)
			continue
		}
		if s.accounts[id], err = openCoordAccount(file, id, logf); err != nil {
			delete(s.accounts, id)
			s.broken[id] = err
			logf("account %s: %v", id, err)
			continue
		}
		for _, k := range s.accounts[id].owner.Keys {
			if k.good(s.accounts[id].state) {
				s.signinKeys[string(k.ID)] = id
			}
		}
	}
	if err := s.openClaim(); err != nil {
		return nil, fmt.Errorf("coordinator's store: %w", err)
	}
	return s, nil
}

func (s *coordStore) accountsDir() string { return filepath.Join(s.dir, "accounts") }
func (s *coordStore) claimFile() string   { return filepath.Join(s.dir, "claim") }

// openClaim reads the claim, draws it at first start, and removes one that an
// account was made with just before the coordinator was killed.
func (s *coordStore) openClaim() error {
	b, err := os.ReadFile(s.claimFile())
	if errors.Is(err, fs.ErrNotExist) {
		if s.signup == signupClaim && len(s.accounts)+len(s.broken) == 0 {
			return s.drawClaim()
		}
		return nil
	}
	if err != nil {
		return err
	}
	var c claimSecret
	if !decodeWord(c[:], strings.TrimSpace(string(b))) {
		return fmt.Errorf("%s: not a claim", s.claimFile())
	}
	entries, err := filepath.Glob(filepath.Join(s.accountsDir(), "*", "claim"))
	if err != nil {
		return err
	}
	for _, file := range entries {
		if b, err := os.ReadFile(file); err == nil && string(b) == claimHash(c) {
			return s.removeClaim()
		}
	}
	s.claim = c
	return nil
}

func (s *coordStore) drawClaim() error {
	rand.Read(s.claim[:])
	return replaceFile(s.claimFile(), []byte(base32Lower.EncodeToString(s.claim[:])+"\n"), 0o600)
}

func (s *coordStore) removeClaim() error {
	s.claim = claimSecret{}
	if err := os.Remove(s.claimFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(s.dir)
}

// claimHash is what an account's directory says of the claim that made it.
func claimHash(c claimSecret) string {
	return fmt.Sprintf("%x\n", sha256.Sum256(append([]byte("sessio-claim-v1\n"), c[:]...)))
}

// unusedClaim returns the claim by which an account may be made now; zero =
// there is none.
func (s *coordStore) unusedClaim() claimSecret {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signup != signupClaim {
		return claimSecret{}
	}
	return s.claim
}

// list returns the accounts that could be read.
func (s *coordStore) list() (list []*coordAccount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accounts {
		list = append(list, a)
	}
	return list
}

// account finds an account. Strangers learn nothing from the error.
func (s *coordStore) account(id acctID) (*coordAccount, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.accounts[id]; a != nil {
		return a, nil
	}
	if err := s.broken[id]; err != nil {
		return nil, coded("log-corrupt", "the coordinator cannot read this account: %w", err)
	}
	return nil, errDenied
}

// create makes an account of its first records and of who signs in to it. Made
// already, by the same records, is well: the answer may have been lost.
func (s *coordStore) create(claim claimSecret, records [][]byte, owner *ownerState, now time.Time) (*coordAccount, error) {
	if len(records) == 0 {
		return nil, coded("record-malformed", "an account without records")
	}
	genesis, err := parseRecord(records[0])
	if err != nil {
		return nil, err
	}
	id := acctID(genesis.hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken[id] != nil {
		return nil, coded("log-corrupt", "the coordinator cannot read this account")
	}
	if a := s.accounts[id]; a != nil {
		return a, a.holds(records)
	}
	if err := errors.Join(s.mayCreateLocked(claim), s.signinKeysFreeLocked(owner.Keys)); err != nil {
		return nil, err
	}
	var state *trustState
	for _, raw := range records {
		if state, err = applyNow(state, raw, now); err != nil {
			return nil, err
		}
	}
	a := &coordAccount{id: id, dir: filepath.Join(s.accountsDir(), id.String()), state: state, owner: owner}
	if err := s.writeAccount(a, claim, records); err != nil {
		return nil, fmt.Errorf("writing a new account: %w", err)
	}
	s.accounts[id] = a
	for _, k := range owner.Keys {
		s.signinKeys[string(k.ID)] = id
	}
	if s.signup == signupClaim {
		s.removeClaim() // should this fail, the next start does it: it is forgotten
	}
	return a, nil
}

// mayCreate reports whether an account may be made by a claim now.
func (s *coordStore) mayCreate(claim claimSecret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mayCreateLocked(claim)
}

// mayCreateLocked judges the claim before anything costs time.
func (s *coordStore) mayCreateLocked(claim claimSecret) error {
	switch {
	case s.signup == signupClosed:
		return coded("signup-closed", "this coordinator makes no accounts")
	case len(s.accounts) >= maxAccounts:
		return coded("limit", "this coordinator holds as many accounts as it may")
	case s.signup == signupOpen:
		return nil
	case s.claim == claimSecret{} || subtle.ConstantTimeCompare(s.claim[:], claim[:]) != 1:
		return coded("claim-unknown", "the claim is used already, or is not that of this coordinator")
	}
	return nil
}

// writeAccount builds the directory beside its place and moves it there.
func (s *coordStore) writeAccount(a *coordAccount, claim claimSecret, records [][]byte) error {
	tmp, err := os.MkdirTemp(s.accountsDir(), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // it is not there any more if all went well
	log, _, err := openEntryLog(filepath.Join(tmp, "log"), maxRecord)
	if err != nil {
		return err
	}
	if err := errors.Join(log.append(records...), log.close()); err != nil {
		return err
	}
	if len(a.owner.Keys) > 0 {
		b, err := json.Marshal(a.owner)
		if err == nil {
			err = replaceFile(filepath.Join(tmp, "owner"), append(b, '\n'), 0o600)
		}
		if err != nil {
			return err
		}
	}
	if s.signup == signupClaim {
		if err := replaceFile(filepath.Join(tmp, "claim"), []byte(claimHash(claim)), 0o600); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, a.dir); err != nil {
		return err
	}
	return syncDir(s.accountsDir())
}

// applyNow is apply for a machine whose clock is right: the coordinator's.
func applyNow(state *trustState, raw []byte, now time.Time) (*trustState, error) {
	next, err := apply(state, raw, now)
	if err != nil {
		return nil, err
	}
	if next != state && next.lastTime() > now.Add(maxClockAhead).Unix() {
		return nil, withHint(coded("time-future", "a statement of %s, and at the coordinator it is %s",
			stmtDate(next.lastTime()), stmtDate(now.Unix())), "set this machine's clock")
	}
	return next, nil
}

const (
	// maxTickets and maxPending bound what waits in an account: 10 KiB and
	// 15 KiB.
	maxTickets = 256
	maxPending = 64
	// ticketLife is the longest life of a ticket.
	ticketLife = 15 * time.Minute
	// pendingLife is how long a join waits for a signature.
	pendingLife = 7 * 24 * time.Hour
)

// A coordAccount is one account. All methods may be called at once.
type coordAccount struct {
	id  acctID
	dir string

	mu    sync.Mutex
	state *trustState // guarded by mu; what it points to never changes
	wait  waitingList // guarded by mu
	owner *ownerState // guarded by mu; what it points to never changes

	publish sync.Mutex // see coordServer.publish
}

// A waitingList is what has not come to the log yet. It is replaced, never
// changed.
type waitingList struct {
	tickets []waitingTicket
	joins   []pendingJoin
}

type waitingTicket struct {
	hash    ticketHash
	expires int64 // unix seconds
}

func openCoordAccount(dir string, id acctID, logf func(string, ...any)) (*coordAccount, error) {
	a := &coordAccount{id: id, dir: dir}
	// A directory for temporary files that a kill has left.
	leftovers, err := filepath.Glob(filepath.Join(dir, ".*.tmp*"))
	for _, file := range leftovers {
		err = errors.Join(err, os.Remove(file))
	}
	if err != nil {
		return nil, err
	}
	log, records, err := openEntryLog(a.logFile(), maxRecord)
	if err != nil {
		return nil, err
	}
	if err := log.close(); err != nil {
		return nil, err
	}
	for i, raw := range records {
		rec, err := parseRecord(raw)
		if err == nil {
			a.state, err = a.state.replay(rec)
		}
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", i, err)
		}
	}
	if a.state == nil || a.state.acct() != id {
		return nil, coded("log-corrupt", "the log is not that of account %s", id)
	}
	b, err := os.ReadFile(a.waitingFile())
	if err == nil {
		a.wait, err = parseWaiting(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		logf("account %s: %v: tickets and waiting machines are forgotten", id, err)
	}
	if err := a.loadOwner(); err != nil {
		logf("account %s: %v", id, err)
	}
	return a, nil
}

func (a *coordAccount) logFile() string     { return filepath.Join(a.dir, "log") }
func (a *coordAccount) waitingFile() string { return filepath.Join(a.dir, "waiting") }

// snapshot returns the account as it is now.
func (a *coordAccount) snapshot(now time.Time) (*trustState, waitingList) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state, a.waitingLocked(now)
}

// waitingLocked is what still waits: not too old, and not in the log.
func (a *coordAccount) waitingLocked(now time.Time) (w waitingList) {
	for _, t := range a.wait.tickets {
		if t.expires > now.Unix() {
			w.tickets = append(w.tickets, t)
		}
	}
	for _, j := range a.wait.joins {
		if _, ok := a.state.deviceByKey(j.keys.sign); !ok && now.Unix()-j.time < int64(pendingLife/time.Second) {
			w.joins = append(w.joins, j)
		}
	}
	return w
}

// members is what the presence table is told of the account.
func (a *coordAccount) members(now time.Time) (seq uint64, head [32]byte, list []memberInfo) {
	state, wait := a.snapshot(now)
	for _, d := range state.devices() {
		list = append(list, memberInfo{d.keys, memberActive})
	}
	for _, d := range state.revokedDevices() {
		if d.keys.sign != nil { // nil: revoked before it was ever added
			list = append(list, memberInfo{d.keys, memberRevoked})
		}
	}
	for _, j := range wait.joins {
		list = append(list, memberInfo{j.keys, memberWaiting})
	}
	return state.seq(), state.head(), list
}

// holds reports, by an error if not, whether the log has these records.
func (a *coordAccount) holds(records [][]byte) error {
	state, _ := a.snapshot(time.Time{})
	for _, raw := range records {
		if next, err := apply(state, raw, time.Time{}); err != nil {
			return err
		} else if next != state {
			return coded("stale-head", "the account was made before, without record %d", next.seq())
		}
	}
	return nil
}

// records returns the raw records from one number to another, both included.
func (a *coordAccount) records(from, to uint64) ([][]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := os.Open(a.logFile())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, _, err := readEntries(f, maxRecord)
	if err != nil {
		return nil, err
	}
	to = min(to, a.state.seq())
	if from > to || to >= uint64(len(all)) {
		return nil, nil
	}
	return all[from : to+1], nil
}

// append adds a record, if it is the next one: compare and swap. A record that
// the log holds already changes nothing.
func (a *coordAccount) append(raw []byte, now time.Time) (state *trustState, changed bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next, err := applyNow(a.state, raw, now)
	if codeOf(err) == "fork" {
		return nil, false, coded("stale-head", "the log has gone on to record %d meanwhile", a.state.seq())
	}
	if err != nil || next == a.state {
		return a.state, false, err
	}
	if err := a.writeRecordLocked(raw); err != nil {
		return nil, false, fmt.Errorf("account %s: %w", a.id, err)
	}
	a.state = next
	return next, true, nil
}

// writeRecordLocked appends to the log on disk, which must end where the state
// does.
func (a *coordAccount) writeRecordLocked(raw []byte) error {
	log, records, err := openEntryLog(a.logFile(), maxRecord)
	if err != nil {
		return err
	}
	if uint64(len(records)) != a.state.seq()+1 {
		err = coded("log-corrupt", "the log on disk has %d records, not %d", len(records), a.state.seq()+1)
	} else {
		err = log.append(raw)
	}
	return errors.Join(err, log.close())
}

// addTicket lets the bearer of a secret join within life. What it is made for is
// known before it is good.
func (a *coordAccount) addTicket(hash ticketHash, life time.Duration, wish ticketWish, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.waitingLocked(now)
	if slices.ContainsFunc(w.tickets, func(t waitingTicket) bool { return t.hash == hash }) {
		return nil
	}
	if len(w.tickets) >= maxTickets {
		return coded("limit", "%d tickets are waiting to be used", len(w.tickets))
	}
	if err := a.keepWishLocked(hash, wish, now); err != nil {
		return err
	}
	w.tickets = append(w.tickets, waitingTicket{hash, now.Add(min(life, ticketLife)).Unix()})
	return a.setWaitingLocked(w)
}

// join enters a machine that has a ticket, and uses the ticket up. Asked again
// by the same machine it is well.
func (a *coordAccount) join(j pendingJoin, now time.Time) (signed bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d, ok := a.state.deviceByKey(j.keys.sign); ok {
		return mayJoinAgain(d, j)
	}
	w := a.waitingLocked(now)
	same := slices.IndexFunc(w.joins, func(o pendingJoin) bool { return bytes.Equal(o.keys.sign, j.keys.sign) })
	ticket := slices.IndexFunc(w.tickets, func(t waitingTicket) bool { return t.hash == j.ticket })
	used := false
	switch {
	case same >= 0 && w.joins[same].ticket == j.ticket && w.joins[same].keys.path == j.keys.path:
		w.joins[same] = j
	case ticket < 0:
		return false, coded("ticket-unknown", "the ticket is used already, too old, or not of this account")
	case same >= 0:
		w.joins[same], used = j, true
	case len(w.joins) >= maxPending:
		return false, coded("limit", "%d machines are waiting for a signature", len(w.joins))
	default:
		w.joins, used = append(w.joins, j), true
	}
	if used {
		w.tickets = slices.Delete(w.tickets, ticket, ticket+1)
		if err := a.sortLocked(j, now); err != nil {
			return false, err
		}
	}
	return false, a.setWaitingLocked(w)
}

// mayJoinAgain answers a machine that is in the log.
func mayJoinAgain(d signedDevice, j pendingJoin) (signed bool, err error) {
	if d.keys.path != j.keys.path {
		return false, coded("key-mismatch", "a device with this key and another path key is in the log")
	}
	if d.revoked {
		return false, withHint(coded("revoked", "this machine is revoked (%s)", d.reason), "give it a new identity: remove its state directory")
	}
	return true, nil
}

func (a *coordAccount) setWaitingLocked(w waitingList) error {
	if err := replaceFile(a.waitingFile(), w.append(nil), 0o600); err != nil {
		return fmt.Errorf("account %s: %w", a.id, err)
	}
	a.wait = w
	return nil
}

const waitingVersion = 1

func (w *waitingList) fields(c *codec) {
	if v := c.uint(waitingVersion, 1); v != waitingVersion {
		c.fail("a list of who waits of version %d", v)
	}
	listed(c, &w.tickets, 2, 1<<16-1, "tickets", func(t *waitingTicket) {
		c.fixed(t.hash[:])
		t.expires = int64(c.uint(uint64(t.expires), 8))
	})
	joins := pendingMsg{w.joins}
	joins.fields(c)
	w.joins = joins.joins
	if !c.in.Empty() {
		c.fail("a list of who waits with bytes behind its end")
	}
}

func (w waitingList) append(b []byte) []byte {
	at := len(b)
	b = appendFields(b, &w)
	sum := sha256.Sum256(b[at:])
	return append(b, sum[:]...)
}

func parseWaiting(b []byte) (w waitingList, err error) {
	if len(b) < sha256.Size {
		return w, errCut
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if sha256.Sum256(body) != [32]byte(sum) {
		return w, coded("log-corrupt", "the list of who waits is damaged")
	}
	read, err := parseFields(body, new(waitingList))
	if err != nil {
		return w, err
	}
	return *read, nil
}
