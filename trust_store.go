package main

// This file keeps an account on disk, for one or many processes at a time:
//
//	<dir>/trust/anchor     account and coordinator, written once
//	<dir>/trust/log        the records, append only
//	<dir>/trust/evidence   verified records beside the log, append only
//	<dir>/trust/clock      a time that is past
//	<dir>/trust/lock       held by whoever reads or writes the others
//
// A record is on disk before anybody acts on it. Signatures are checked before a
// record is written and by fsck, not again at every start.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A trustStore is safe for use by many goroutines.
type trustStore struct {
	dir   string           // of the state; trust/ is in it
	clock func() time.Time // the system's

	view atomic.Pointer[trustState] // what state returns

	mu       sync.Mutex
	pin      *anchor    // guarded by mu, as all that follows
	tree     *trustTree // nil without an anchor
	onDisk   diskMark   // what the files were when they were last read or written
	orphans  bool       // whether evidence waits for records that the log has lost
	past     time.Time  // the floor under the clock
	watchers map[int]func(old, new *trustState)
	watchID  int
	notes    []error // for a person, until setLog takes them
	log      func(error)
}

// A diskMark remembers which content of the files is in memory.
type diskMark struct {
	files   [3]fs.FileInfo // anchor, log, evidence; nil where there is none
	records int            // in log
	head    [32]byte
	beside  map[stmtHash]bool // in evidence
}

// openTrustStore reads what dir/trust holds, which may be nothing yet. It makes
// no files before setAnchor.
func openTrustStore(dir string, now func() time.Time) (*trustStore, error) {
	t := &trustStore{dir: dir, clock: now, watchers: map[int]func(old, new *trustState){}}
	t.past = t.clockFloor()
	if _, err := t.refresh(); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *trustStore) path(name string) string { return filepath.Join(t.dir, "trust", name) }

// state is the account as far as this device may act on it: nil until the first
// record is there.
func (t *trustStore) state() *trustState { return t.view.Load() }

// anchor is the pin that join or account create has set.
func (t *trustStore) anchor() (anchor, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pin == nil {
		return anchor{}, false
	}
	return *t.pin, true
}

// setAnchor pins the account, once.
func (t *trustStore) setAnchor(a anchor) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := os.MkdirAll(t.path(""), 0o700); err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	return t.locked(func() error {
		text := a.append(nil)
		if _, err := parseAnchor(text); err != nil {
			return err
		}
		if err := createFileOnce(t.path("anchor"), text, 0o600); err != nil {
			return fmt.Errorf("trust anchor: %w", err)
		}
		if err := t.loadLocked(); err != nil {
			return err
		}
		return t.pin.checkSame(a)
	})
}

// records returns the log's records from…to, those of them that there are.
func (t *trustStore) records(from, to uint64) [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list [][]byte
	if t.tree != nil {
		for seq := from; seq <= to && seq < uint64(len(t.tree.log)); seq++ {
			list = append(list, t.tree.log[seq].raw)
		}
	}
	return list
}

// add judges records in order and keeps what is good, on disk before it counts.
// What is known already is skipped. It stops at the first bad record. n counts
// those that went into the log. One that is only kept beside it does not stop
// the rest, but is the error: fork, or time-future.
func (t *trustStore) add(records ...[]byte) (n int, err error) {
	res, err := t.addAll(records)
	return res.appended, err
}

// What addAll did.
type addResult struct {
	appended int // records new in the log
	kept     int // records new beside it
}

func (t *trustStore) addAll(records [][]byte) (res addResult, err error) {
	old := t.state()
	t.mu.Lock()
	err = t.locked(func() error {
		if err := t.loadIfChangedLocked(); err != nil {
			return err
		}
		if t.tree == nil {
			return errNoAccount
		}
		var judged error
		res, judged = t.judgeLocked(records)
		if err := t.saveLocked(); err != nil {
			res = addResult{}
			return err
		}
		return judged
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoAccount
	}
	t.mu.Unlock()
	t.tell(old)
	return res, err
}

// errNoAccount is for a machine that has not joined.
var errNoAccount = withHint(errors.New("this machine belongs to no account"), "sessio join, or sessio account create")

// judgeLocked puts records into the tree in memory.
func (t *trustStore) judgeLocked(records [][]byte) (res addResult, err error) {
	now := t.syncedNowLocked()
	res.appended = t.tree.catchUp(now)
	if t.tree.settle(now) {
		res.appended++
	}
	for _, raw := range records {
		switch outcome, e := t.tree.add(raw, now); outcome {
		case addAppended, addSwitched:
			res.appended++
		case addKept:
			res.kept++
			err = e
		default:
			if e != nil {
				return res, e
			}
		}
	}
	return res, err
}

// refresh takes up what other processes have written, and records whose time
// has come. It costs three stats when there is nothing new.
func (t *trustStore) refresh() (changed bool, err error) {
	old := t.state()
	t.mu.Lock()
	if _, statErr := os.Stat(t.path("")); statErr == nil {
		if t.onDisk.changed(t) || t.waitingLocked() {
			err = t.locked(func() error {
				if err := t.loadIfChangedLocked(); err != nil || t.tree == nil {
					return err
				}
				if _, err := t.judgeLocked(nil); err != nil {
					return err
				}
				return t.saveLocked()
			})
		}
	} else if t.pin != nil {
		t.forgetLocked() // another process has reset this directory
	}
	t.mu.Unlock()
	t.tell(old)
	return t.state() != old, err
}

// waitingLocked reports whether a record beside the log could join it now.
func (t *trustStore) waitingLocked() bool { return t.tree != nil && len(t.tree.order) > 0 }

// watch has f called after each change of the state, by whoever made it and
// with no lock held.
func (t *trustStore) watch(f func(old, new *trustState)) (stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watchID++
	id := t.watchID
	t.watchers[id] = f
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.watchers, id)
	}
}

// tell calls the watchers if the state is not old any more, and hands out what
// there is to report.
func (t *trustStore) tell(old *trustState) {
	t.mu.Lock()
	var call []func(old, new *trustState)
	if t.state() != old {
		for _, f := range t.watchers {
			call = append(call, f)
		}
	}
	log, notes := t.log, t.notes
	if log != nil {
		t.notes = nil
	}
	t.mu.Unlock()
	for _, f := range call {
		f(old, t.state())
	}
	for _, err := range notes {
		if log != nil {
			log(err)
		}
	}
}

// setLog has log called with what a person should know: hand edits of derived
// files, damage on disk. What came up before is told at once.
func (t *trustStore) setLog(log func(error)) {
	t.mu.Lock()
	t.log = log
	t.mu.Unlock()
	t.tell(t.state())
}

// maxNotes bounds what waits for setLog, in errors.
const maxNotes = 32

func (t *trustStore) noteLocked(err error) {
	if len(t.notes) < maxNotes {
		t.notes = append(t.notes, err)
	}
}

// reset forgets the account: trust/ and the derived files go, the identity
// stays.
func (t *trustStore) reset() error {
	old := t.state()
	t.mu.Lock()
	err := t.locked(func() error {
		for _, name := range []string{"anchor", "log", "evidence", "clock"} {
			if err := os.Remove(t.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("trust reset: %w", err)
			}
		}
		t.forgetLocked()
		return t.removeDerived()
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // there was no trust/
	}
	t.mu.Unlock()
	t.tell(old)
	return err
}

func (t *trustStore) forgetLocked() {
	t.pin, t.tree, t.onDisk = nil, nil, diskMark{}
	t.view.Store(nil)
}

// locked runs f while no other process reads or writes trust/.
func (t *trustStore) locked(f func() error) error {
	unlock, err := lockFile(t.path("lock"))
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	defer unlock()
	return f()
}

// saveLocked writes what the tree in memory has and the disk has not, then
// publishes the state and rewrites the derived files. If that fails, memory is
// again what the disk holds.
func (t *trustStore) saveLocked() error {
	if err := t.writeLocked(); err != nil {
		return errors.Join(err, t.loadLocked())
	}
	if t.orphans {
		return t.loadLocked()
	}
	t.onDisk.set(t)
	t.publishLocked()
	return nil
}

// publishLocked makes the tree's view the state, once what it is made of is on
// disk.
func (t *trustStore) publishLocked() {
	old := t.state()
	if t.tree == nil || t.tree.view == nil {
		t.view.Store(nil)
		return
	}
	if t.tree.view == old {
		return
	}
	t.view.Store(t.tree.view)
	for _, trouble := range t.tree.view.trouble {
		same := func(e error) bool { return e.Error() == trouble.Error() }
		if !slices.ContainsFunc(old.troubles(), same) {
			t.noteLocked(trouble)
		}
	}
	t.writeDerivedLocked()
}

// writeLocked appends to evidence, then to the log: a log that has become
// another branch is never without the records it gave up.
func (t *trustStore) writeLocked() error {
	var beside, log [][]byte
	for _, n := range t.tree.order {
		if !t.onDisk.beside[n.hash] {
			beside = append(beside, n.raw)
		}
	}
	if len(beside) > 0 {
		if err := appendEntries(t.path("evidence"), beside); err != nil {
			return fmt.Errorf("trust evidence: %w", err)
		}
		for _, n := range t.tree.order {
			t.onDisk.beside[n.hash] = true
		}
	}
	for _, n := range t.tree.log {
		log = append(log, n.raw)
	}
	kept := t.onDisk.records
	switch {
	case kept > 0 && (kept > len(log) || t.tree.log[kept-1].hash != t.onDisk.head):
		if err := replaceEntries(t.path("log"), log); err != nil {
			return fmt.Errorf("trust log: %w", err)
		}
	case kept < len(log):
		if err := appendEntries(t.path("log"), log[kept:]); err != nil {
			return fmt.Errorf("trust log: %w", err)
		}
	}
	return nil
}

func appendEntries(file string, records [][]byte) error {
	l, _, err := openEntryLog(file, maxRecord)
	if err != nil {
		return err
	}
	return errors.Join(l.append(records...), l.close())
}

// replaceEntries makes file hold just these records, whole or not at all.
func replaceEntries(file string, records [][]byte) error {
	tmp := file + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := appendEntries(tmp, records); err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

// changed reports whether another process has written since read.
func (m *diskMark) changed(t *trustStore) bool {
	for i, info := range t.fileInfos() {
		was := m.files[i]
		if (info == nil) != (was == nil) {
			return true
		}
		if info != nil && (info.Size() != was.Size() || !info.ModTime().Equal(was.ModTime()) || !os.SameFile(info, was)) {
			return true
		}
	}
	return false
}

func (t *trustStore) fileInfos() (infos [3]fs.FileInfo) {
	for i, name := range []string{"anchor", "log", "evidence"} {
		if info, err := os.Stat(t.path(name)); err == nil {
			infos[i] = info
		}
	}
	return infos
}

// set notes that memory holds what the files hold.
func (m *diskMark) set(t *trustStore) {
	m.files = t.fileInfos()
	if t.tree != nil {
		m.records, m.head = len(t.tree.log), t.tree.state.head()
	}
}

// count is how many records the log has.
func (t *trustStore) count() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tree == nil {
		return 0
	}
	return uint64(len(t.tree.log))
}

// tips are the end of the log, zero if that is empty, and those of the branches
// beside it.
func (t *trustStore) tips() []logTip {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tree == nil || t.tree.state == nil {
		return []logTip{{}}
	}
	tips := []logTip{{t.tree.state.seq(), t.tree.state.head()}}
	for _, n := range t.tree.tips() {
		if len(tips) <= maxBranches {
			tips = append(tips, logTip{n.stmt.seq, n.hash})
		}
	}
	return tips
}

// knows reports whether a statement is in the log or beside it.
func (t *trustStore) knows(tip logTip) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tree != nil && t.tree.find(tip.seq, tip.hash) != nil
}

// onPath returns the records from…to on the way to the statement tip, or none
// if that is not known.
func (t *trustStore) onPath(tip stmtHash, from, to uint64) (list [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tree == nil {
		return nil
	}
	for _, n := range t.tree.path(t.tree.byHash(tip), from, to) {
		list = append(list, n.raw)
	}
	return list
}
