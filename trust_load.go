package main

// This file reads dir/trust into memory: the anchor, the log, what stands beside
// it, and the floor under the clock. Damage is reported and worked around: what
// is sound is kept, the rest is fetched again from any peer. Checking an account
// from the ground up, with every signature, is here as well.
//
// What stock OpenSSH reads is written here: authorized_keys (who may come in) and
// known_hosts (who is who), both made from the verified state and from nothing
// else. They are never read back as authority.

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// An anchor is what a machine pins when it joins: the account, and where its
// coordinator stands. As text:
//
//	sessio-anchor-v1
//	acct <64 hex>
//	coordinator <host:port> <b64 ed25519> <b64 X25519>
type anchor struct {
	acct      acctID
	coordAddr string // host:port
	coordKeys publicKeys
}

const anchorFirstLine = "sessio-anchor-v1"

func (a anchor) append(b []byte) []byte {
	return fmt.Appendf(b, "%s\nacct %s\ncoordinator %s %s %s\n",
		anchorFirstLine, a.acct, a.coordAddr, b64(a.coordKeys.sign), b64(a.coordKeys.path[:]))
}

func parseAnchor(text []byte) (a anchor, err error) {
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || lines[0] != anchorFirstLine || lines[3] != "" {
		return a, errors.New("trust anchor: not in the form of " + anchorFirstLine)
	}
	if a.acct, err = parseAcctID(strings.TrimPrefix(lines[1], "acct ")); err != nil {
		return a, fmt.Errorf("trust anchor: %w", err)
	}
	f := strings.Split(lines[2], " ")
	if len(f) != 4 {
		return a, errors.New("trust anchor: no coordinator with address and two keys")
	}
	sign, signErr := base64.StdEncoding.DecodeString(f[2])
	path, pathErr := base64.StdEncoding.DecodeString(f[3])
	if signErr != nil || pathErr != nil || len(sign) != 32 || len(path) != 32 {
		return a, errors.New("trust anchor: the coordinator's keys are not 32 bytes each")
	}
	if _, _, err := net.SplitHostPort(f[1]); err != nil {
		return a, fmt.Errorf("trust anchor: %w", err)
	}
	a.coordAddr, a.coordKeys.sign = f[1], sign
	copy(a.coordKeys.path[:], path)
	if string(a.append(nil)) != string(text) || a.acct.isZero() {
		return a, errors.New("trust anchor: not in the form of " + anchorFirstLine)
	}
	return a, nil
}

// checkSame refuses b if it is another account, or the same with another
// coordinator.
func (a *anchor) checkSame(b anchor) error {
	switch {
	case a == nil:
		return errors.New("trust anchor: written, and then not there")
	case a.acct != b.acct:
		return withHint(coded("wrong-account", "this machine belongs to account %s already", acctWords(a.acct)),
			"sessio trust reset makes it forget that account")
	case string(a.append(nil)) != string(b.append(nil)):
		return withHint(fmt.Errorf("this machine has joined the account by way of %s", a.coordAddr),
			"sessio trust reset makes it forget the account, then join again")
	}
	return nil
}

// loadIfChangedLocked reads the files if they are not what memory holds. The
// lock file must be held.
func (t *trustStore) loadIfChangedLocked() error {
	if !t.onDisk.changed(t) {
		return nil
	}
	return t.loadLocked()
}

func (t *trustStore) loadLocked() error {
	t.pin, t.tree, t.onDisk = nil, nil, diskMark{beside: map[stmtHash]bool{}}
	text, err := os.ReadFile(t.path("anchor"))
	if errors.Is(err, fs.ErrNotExist) {
		t.onDisk.set(t)
		t.publishLocked()
		return nil
	}
	if err != nil {
		return fmt.Errorf("trust anchor: %w", err)
	}
	pin, err := parseAnchor(text)
	if err != nil {
		return err
	}
	t.pin, t.tree = &pin, newTrustTree(pin.acct)
	if err := t.loadLogLocked(); err != nil {
		return err
	}
	if err := t.loadEvidenceLocked(); err != nil {
		return err
	}
	t.tree.look()
	t.onDisk.set(t)
	t.publishLocked()
	return nil
}

func (t *trustStore) loadLogLocked() error {
	raws, err := t.readEntriesLocked("log")
	if err != nil {
		return err
	}
	for i, raw := range raws {
		if err := t.tree.replay(raw); err != nil {
			return t.cutLocked("log", raws[:i], err)
		}
	}
	return nil
}

// replay takes the next record from this machine's own disk.
func (t *trustTree) replay(raw []byte) error {
	rec, err := parseRecord(raw)
	if err != nil {
		return err
	}
	if len(t.log) == 0 && acctID(rec.hash) != t.pin {
		return coded("wrong-account", "the log is of another account than the anchor")
	}
	next, err := t.state.replay(rec)
	if err != nil {
		return err
	}
	t.state = next
	t.log = append(t.log, &treeNode{rec, raw, nil})
	return nil
}

func (t *trustStore) loadEvidenceLocked() error {
	raws, err := t.readEntriesLocked("evidence")
	if err != nil {
		return err
	}
	t.orphans = false
	for i, raw := range raws {
		err := t.tree.replayBeside(raw)
		if codeOf(err) == "gap" {
			t.orphans = true // the log was cut: wait until it is whole again
		} else if err != nil {
			return t.cutLocked("evidence", raws[:i], err)
		}
		if rec, err := parseRecord(raw); err == nil {
			t.onDisk.beside[rec.hash] = true
		}
	}
	return nil
}

// replayBeside takes a record that was kept beside the log. It may have come
// into the log since.
func (t *trustTree) replayBeside(raw []byte) error {
	rec, err := parseRecord(raw)
	if err != nil || t.find(rec.stmt.seq, rec.hash) != nil {
		return err
	}
	if rec.stmt.seq == 0 {
		return coded("wrong-account", "the first statement makes another account")
	}
	parent := t.find(rec.stmt.seq-1, rec.stmt.prev)
	if parent == nil {
		return coded("gap", "statement %d follows one that is not here", rec.stmt.seq)
	}
	before, err := t.stateAfter(parent)
	if err != nil {
		return err
	}
	after, err := before.clone().replay(rec)
	if err == nil {
		t.keep(&treeNode{rec, raw, after})
	}
	return err
}

// readEntriesLocked reads a file of records. Where one is damaged, it keeps a
// copy, cuts the file there and goes on with what is sound.
func (t *trustStore) readEntriesLocked(name string) ([][]byte, error) {
	if _, err := os.Stat(t.path(name)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	l, raws, err := openEntryLog(t.path(name), maxRecord)
	if err == nil {
		return raws, l.close()
	}
	if codeOf(err) != "log-corrupt" {
		return nil, fmt.Errorf("trust: %w", err)
	}
	b, readErr := os.ReadFile(t.path(name))
	if readErr != nil {
		return nil, fmt.Errorf("trust: %w", readErr)
	}
	for {
		raw, ok := cutEntry(b, maxRecord)
		if !ok {
			return raws, t.cutLocked(name, raws, err)
		}
		raws = append(raws, raw)
		b = b[len(raw)+entryOverhead:]
	}
}

// cutLocked keeps a copy of a damaged file and writes it anew with the records
// that are sound.
func (t *trustStore) cutLocked(name string, sound [][]byte, why error) error {
	b, err := os.ReadFile(t.path(name))
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	bad := t.path(name + ".corrupt")
	if err := replaceFile(bad, b, 0o600); err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	if err := replaceEntries(t.path(name), sound); err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	t.noteLocked(coded("log-corrupt", "%s was damaged after record %d; a copy is in %s, what is missing is fetched again: %w",
		t.path(name), len(sound)-1, bad, why))
	return nil
}

// oldestNow is a time that is past, 20 November 2026, for builds that do not say
// when they were made. No clock behind it was ever set.
const oldestNow = 1795132800

// saveClockAfter spares flash: the floor is written once a day at most.
const saveClockAfter = 24 * time.Hour

// now is the system's time, or the floor if that is later: nothing that has
// expired comes back to life because a router woke up in 1970.
func (t *trustStore) now() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	if now.Before(t.past) {
		return t.past
	}
	if now.Sub(t.past) >= saveClockAfter && t.pin != nil {
		t.past = now
		if err := replaceFile(t.path("clock"), strconv.AppendInt(nil, now.Unix(), 10), 0o600); err != nil {
			t.noteLocked(fmt.Errorf("trust clock: %w", err))
		}
	}
	return now
}

// syncedNowLocked is now for judging what is from the future: zero where the
// clock is visibly wrong.
func (t *trustStore) syncedNowLocked() time.Time {
	if now := t.clock(); !now.Before(t.past) {
		return now
	}
	return time.Time{}
}

// clockFloor is the latest of the times known to be past: when this program was
// made, and what was saved.
func (t *trustStore) clockFloor() time.Time {
	floor := max(oldestNow, buildTime().Unix())
	if b, err := os.ReadFile(t.path("clock")); err == nil {
		if saved, err := strconv.ParseInt(string(b), 10, 64); err == nil && saved < maxStmtNumber {
			floor = max(floor, saved)
		}
	}
	return time.Unix(floor, 0)
}

// A fsckReport says what fsck has read and what is wrong with it.
type fsckReport struct {
	records int // in the log, all sound up to here
	beside  int // verified records beside it
	found   []error
}

func (r *fsckReport) add(format string, args ...any) {
	r.found = append(r.found, fmt.Errorf(format, args...))
}

// fsck trusts nothing in memory and changes nothing on disk.
func (t *trustStore) fsck() (r fsckReport, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.locked(func() error {
		text, err := os.ReadFile(t.path("anchor"))
		if err != nil {
			return err
		}
		pin, err := parseAnchor(text)
		if err != nil {
			return err
		}
		tree := newTrustTree(pin.acct)
		tree.roomy = true
		t.fsckFile(&r, "log", tree, addAppended)
		r.records = len(tree.log)
		t.fsckFile(&r, "evidence", tree, addKept)
		r.beside = len(tree.order)
		t.fsckRest(&r, tree)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoAccount
	}
	return r, err
}

// fsckFile puts the records of a file into tree as if a stranger had sent them.
func (t *trustStore) fsckFile(r *fsckReport, name string, tree *trustTree, want addOutcome) {
	b, err := os.ReadFile(t.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		r.add("%w", err)
		return
	}
	raws, _, err := readEntries(bytes.NewReader(b), maxRecord)
	if err != nil {
		r.add("%s: %w", t.path(name), err)
		return
	}
	for i, raw := range raws {
		rec, parseErr := parseRecord(raw)
		if parseErr == nil && want == addKept && tree.find(rec.stmt.seq, rec.hash) != nil {
			continue // it has come into the log since
		}
		outcome, err := tree.add(raw, time.Time{})
		if err == nil {
			err = errors.New("it stands in the wrong place")
		}
		if outcome != want {
			r.add("%s, record %d: %w", t.path(name), i, err)
			return
		}
	}
}

// fsckRest compares what follows from the log with what is in use.
func (t *trustStore) fsckRest(r *fsckReport, tree *trustTree) {
	if t.tree != nil && tree.state.head() != t.tree.state.head() {
		r.add("the log on disk ends at statement %d, and this program uses it up to %d", tree.state.seq(), t.tree.state.seq())
	}
	if tree.view == nil {
		return
	}
	for name, body := range derivedTexts(tree.view) {
		text, err := os.ReadFile(filepath.Join(t.dir, name))
		if err != nil || !bytes.Equal(text, append(derivedHead(tree.view, body), body...)) {
			r.add("%s does not say what the log says", filepath.Join(t.dir, name))
		}
	}
}

const localKeysFile = "authorized_keys.local"

// authorizedKeysText lists the clients. A pure client whose logins are narrowed,
// or which may not run what it likes, is left out: these lines cannot say so.
func authorizedKeysText(s *trustState) []byte {
	var b []byte
	for _, d := range s.devices() {
		caps := d.caps
		if d.hasRole("server") {
			caps = deviceCaps // what is signed then bounds only who enters it
		}
		free := d.hasRole("server") || slices.Contains(d.users, "*") && d.hasCap("shell") && d.hasCap("exec") && d.hasCap("sftp")
		if !d.hasRole("client") || !free {
			continue
		}
		b = fmt.Appendf(b, "%s %s %s %s.%s\n", keyOptions(caps, d.expires),
			ssh.KeyAlgoED25519, b64(d.keys.sshKey().Marshal()), d.name, d.id)
	}
	return b
}

// keyOptions are in the form of sshd(8), "AUTHORIZED_KEYS FILE FORMAT".
func keyOptions(caps []string, expires int64) string {
	options := "restrict"
	if slices.Contains(caps, "pty") {
		options += ",pty"
	}
	if slices.Contains(caps, "forward") {
		options += ",port-forwarding"
	}
	if expires != 0 {
		options += fmt.Sprintf(",expiry-time=%q", time.Unix(expires, 0).UTC().Format("20060102150405Z"))
	}
	return options
}

// knownHostsText lists the servers, and what once were servers as revoked.
func knownHostsText(s *trustState) []byte {
	var b []byte
	for _, d := range append(s.devices(), s.revokedDevices()...) {
		if !d.hasRole("server") {
			continue
		}
		if d.revoked {
			b = append(b, "@revoked "...)
		}
		b = fmt.Appendf(b, "%s.sessio,%s.sessio %s %s\n", d.name, d.id,
			ssh.KeyAlgoED25519, b64(d.keys.sshKey().Marshal()))
	}
	return b
}

// derivedHead begins a derived file: whose it is, and a sum of what follows, by
// which an edit by hand is told from an older state.
func derivedHead(s *trustState, body []byte) []byte {
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "# made by sessio from the signed log of account %s, and replaced when that changes\n"+
		"# your own keys go into %s\n# sum %x\n", acctWords(s.acct()), localKeysFile, sum[:8])
}

// editedByHand reports whether text is not as sessio wrote it, now or earlier.
func editedByHand(text []byte) bool {
	lines := bytes.SplitAfterN(text, []byte("\n"), 4)
	if len(lines) < 4 || !bytes.HasPrefix(lines[0], []byte("# made by sessio ")) {
		return true
	}
	sum := sha256.Sum256(lines[3])
	return string(lines[2]) != fmt.Sprintf("# sum %x\n", sum[:8])
}

// derivedTexts are the bodies of the files in dir.
func derivedTexts(s *trustState) map[string][]byte {
	return map[string][]byte{
		"authorized_keys": authorizedKeysText(s),
		"known_hosts":     knownHostsText(s),
	}
}

// writeDerivedLocked brings the files up to date. What somebody has written into
// them is kept in a copy, reported, and has no effect: the log is the authority,
// so that a failure here is reported and changes nothing else.
func (t *trustStore) writeDerivedLocked() {
	for name, body := range derivedTexts(t.state()) {
		file := filepath.Join(t.dir, name)
		text := append(derivedHead(t.state(), body), body...)
		old, err := os.ReadFile(file)
		if err == nil && bytes.Equal(old, text) {
			continue
		}
		if err == nil && editedByHand(old) {
			t.noteLocked(withHint(fmt.Errorf("%s was edited by hand: it is replaced, the edited text is in %s.edited", file, file),
				"your own keys go into %s", filepath.Join(t.dir, localKeysFile)))
			if err := replaceFile(file+".edited", old, 0o600); err != nil {
				t.noteLocked(fmt.Errorf("keeping a copy: %w", err))
			}
		}
		if err := replaceFile(file, text, 0o600); err != nil {
			t.noteLocked(fmt.Errorf("writing %s: %w", file, err))
		}
	}
}

// removeDerived is for a machine that forgets its account.
func (t *trustStore) removeDerived() error {
	for _, name := range []string{"authorized_keys", "known_hosts"} {
		file := filepath.Join(t.dir, name)
		if text, err := os.ReadFile(file); err != nil || editedByHand(text) {
			continue // not ours
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("trust reset: %w", err)
		}
	}
	return nil
}
