package main

// This file keeps the coordinator's accounts on disk, and the claim by which
// the first is made:
//
//	<dir>/claim                   until it is used
//	<dir>/accounts/<acct>/log     records, as devices keep them
//	<dir>/accounts/<acct>/claim   hash of the claim that made the account
//	<dir>/accounts/<acct>/waiting see coord_account.go
//
// An account's directory is whole or absent. What has been answered survives
// kill -9 and power loss.

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
}

// openCoordStore opens or makes the store in dir. An account that cannot be
// read is reported to logf and refused later; the others go on.
func openCoordStore(dir, signup string, logf func(format string, args ...any)) (*coordStore, error) {
	s := &coordStore{dir: dir, signup: signup, accounts: map[acctID]*coordAccount{}, broken: map[acctID]error{}}
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

// create makes an account of its first records. Made already, by the same
// records, is well: the answer may have been lost.
func (s *coordStore) create(claim claimSecret, records [][]byte, now time.Time) (*coordAccount, error) {
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
	if err := s.mayCreateLocked(claim); err != nil {
		return nil, err
	}
	var state *trustState
	for _, raw := range records {
		if state, err = applyNow(state, raw, now); err != nil {
			return nil, err
		}
	}
	a := &coordAccount{id: id, dir: filepath.Join(s.accountsDir(), id.String()), state: state}
	if err := s.writeAccount(a, claim, records); err != nil {
		return nil, fmt.Errorf("writing a new account: %w", err)
	}
	s.accounts[id] = a
	if s.signup == signupClaim {
		// Should this fail, the next start removes the claim: until then it
		// is forgotten.
		if err := s.removeClaim(); err != nil {
			return nil, fmt.Errorf("removing the claim: %w", err)
		}
	}
	return a, nil
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
