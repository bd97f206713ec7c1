package main

// This file keeps what is known beside the log. If a signer's key is stolen, or
// two machines sign at once, one statement gets two continuations: a fork. Which
// of them came first nobody can prove, so every device keeps to its own log,
// keeps the other branch as evidence, grants nothing that it grants, and takes
// away all that it takes away. A branch in which the recovery key has spoken
// beats one without.
//
// Records from the future wait here too, until their time has come; what they
// remove is removed at once.

import (
	"slices"
	"time"
)

const (
	// maxBeside bounds evidence, in records; the last quarter is for
	// removals. Every one carries a signature that once was good, so only a
	// signer can fill it.
	maxBeside      = 256
	besideReserved = 64

	maxBranches = 8
)

// A trustTree is the log of an account and all verified records beside it. It
// does no locking and knows no disk.
type trustTree struct {
	pin    acctID
	log    []*treeNode // by number
	state  *trustState // that the log alone makes
	beside map[stmtHash]*treeNode
	order  []*treeNode // beside, parents before children
	view   *trustState // state, less what other branches have taken away
	roomy  bool        // no bounds on what stands beside: it has been let in before
}

// A logTip names the end of a log or of a branch.
type logTip struct {
	seq  uint64
	hash stmtHash
}

// A treeNode is a verified record.
type treeNode struct {
	*trustRecord
	raw   []byte
	state *trustState // after it; only kept at the tips of branches
}

// What add has done with a record.
type addOutcome int

const (
	addNothing  addOutcome = iota // refused, or known before
	addAppended                   // to the log
	addKept                       // beside the log
	addSwitched                   // the log is now another branch
)

func newTrustTree(pin acctID) *trustTree {
	return &trustTree{pin: pin, beside: map[stmtHash]*treeNode{}}
}

// add judges a record and puts it where it belongs. The error says what is
// wrong with it, or, with addKept, why it is not in the log: fork, time-future.
func (t *trustTree) add(raw []byte, now time.Time) (addOutcome, error) {
	rec, err := parseRecord(raw)
	if err != nil {
		return addNothing, err
	}
	if t.find(rec.stmt.seq, rec.hash) != nil {
		return addNothing, nil
	}
	if rec.stmt.seq == 0 && acctID(rec.hash) != t.pin {
		return addNothing, coded("wrong-account", "the first statement makes another account")
	}
	next, err := t.state.applyRecord(rec, now)
	switch codeOf(err) {
	case "":
		t.append(&treeNode{rec, slices.Clone(raw), nil}, next)
		return addAppended, nil
	case "fork", "gap", "time-future":
		return t.addBeside(&treeNode{rec, slices.Clone(raw), nil}, err, now)
	}
	return addNothing, err
}

// find returns the record with the given number and hash, or nil.
func (t *trustTree) find(seq uint64, hash stmtHash) *treeNode {
	if seq < uint64(len(t.log)) && t.log[seq].hash == hash {
		return t.log[seq]
	}
	if n := t.beside[hash]; n != nil && n.stmt.seq == seq {
		return n
	}
	return nil
}

// byHash returns the record with the given hash, or nil.
func (t *trustTree) byHash(hash stmtHash) *treeNode {
	if n := t.beside[hash]; n != nil {
		return n
	}
	if i := slices.IndexFunc(t.log, func(n *treeNode) bool { return n.hash == hash }); i >= 0 {
		return t.log[i]
	}
	return nil
}

func (t *trustTree) append(n *treeNode, next *trustState) {
	t.log = append(t.log, n)
	t.state = next
	t.look()
}

// addBeside takes a record that does not continue the log, for the reason why,
// if it continues something else that is known.
func (t *trustTree) addBeside(n *treeNode, why error, now time.Time) (addOutcome, error) {
	if n.stmt.seq == 0 {
		return addNothing, why // a new account from the future
	}
	parent := t.find(n.stmt.seq-1, n.stmt.prev)
	if parent == nil {
		return addNothing, why
	}
	before, err := t.stateAfter(parent)
	if err != nil {
		return addNothing, err
	}
	if n.state, err = before.applyRecord(n.trustRecord, time.Time{}); err != nil {
		return addNothing, err
	}
	if err := t.checkBesideRoom(n, parent); err != nil {
		return addNothing, err
	}
	t.keep(n)
	if t.settle(now) {
		return addSwitched, nil
	}
	t.look()
	if codeOf(why) == "gap" { // only the log has it, n does not
		why = t.whyBeside(n)
	}
	return addKept, why
}

// whyBeside says why a record that continues a branch is not in the log.
func (t *trustTree) whyBeside(n *treeNode) error {
	if t.forkPoint(n) == t.state.seq() {
		return coded("time-future", "statement %d follows one that waits for its time", n.stmt.seq)
	}
	return coded("fork", "statement %d is on another branch than the log", n.stmt.seq)
}

func (t *trustTree) keep(n *treeNode) {
	t.beside[n.hash] = n
	t.order = append(t.order, n)
	if parent := t.beside[n.stmt.prev]; parent != nil {
		parent.state = nil
	}
}

// checkBesideRoom keeps evidence within bounds.
func (t *trustTree) checkBesideRoom(n, parent *treeNode) error {
	room := maxBeside - besideReserved
	if n.stmt.removal() {
		room = maxBeside
	}
	_, extends := t.beside[parent.hash]
	if t.roomy {
		return nil
	}
	if len(t.order) >= room || !extends && len(t.tips()) >= maxBranches {
		return coded("fork", "statement %d is on another branch, and no more of them are kept", n.stmt.seq)
	}
	return nil
}

// stateAfter is the account after n, on n's own branch.
func (t *trustTree) stateAfter(n *treeNode) (*trustState, error) {
	if n.state != nil {
		return n.state, nil
	}
	if n == t.log[len(t.log)-1] {
		return t.state, nil
	}
	var s *trustState
	for _, m := range t.path(n, 0, n.stmt.seq) {
		next, err := s.replay(m.trustRecord)
		if err != nil {
			return nil, err
		}
		s = next
	}
	return s, nil
}

// path returns the records with numbers from…to on the way to n.
func (t *trustTree) path(n *treeNode, from, to uint64) []*treeNode {
	var back []*treeNode
	for n != nil && n.stmt.seq >= from {
		if n.stmt.seq <= to {
			back = append(back, n)
		}
		if n.stmt.seq == 0 {
			break
		}
		n = t.find(n.stmt.seq-1, n.stmt.prev)
	}
	slices.Reverse(back)
	return back
}

// tips are the ends of the branches beside the log.
func (t *trustTree) tips() []*treeNode {
	inner := map[stmtHash]bool{}
	for _, n := range t.order {
		inner[n.stmt.prev] = true
	}
	return slices.DeleteFunc(slices.Clone(t.order), func(n *treeNode) bool { return inner[n.hash] })
}

// forkPoint is the number of the last statement that n's branch shares with
// the log.
func (t *trustTree) forkPoint(n *treeNode) uint64 {
	for t.beside[n.hash] != nil {
		n = t.find(n.stmt.seq-1, n.stmt.prev)
	}
	return n.stmt.seq
}

// settle makes another branch the log if the recovery key has spoken there since
// the fork and not here, and appends records whose time has come. It reports
// whether the log is another one than before.
func (t *trustTree) settle(now time.Time) (switched bool) {
	for _, tip := range t.tips() {
		at := t.forkPoint(tip)
		s, err := t.stateAfter(tip)
		if err != nil || !t.timely(tip, now) {
			continue
		}
		if s.recovered > at && t.state.recovered <= at {
			t.switchTo(tip, s, at)
			return true
		}
	}
	return false
}

// timely reports whether no record of tip's branch is from the future.
func (t *trustTree) timely(tip *treeNode, now time.Time) bool {
	return t.state.checkTime(max(tip.stmt.time, t.state.time), now) == nil
}

// switchTo makes tip the end of the log; what stood there after fork point at
// goes beside it.
func (t *trustTree) switchTo(tip *treeNode, s *trustState, at uint64) {
	branch := t.path(tip, at+1, tip.stmt.seq)
	old := slices.Clone(t.log[at+1:])
	for _, n := range branch {
		delete(t.beside, n.hash)
	}
	t.order = slices.DeleteFunc(t.order, func(n *treeNode) bool { return t.beside[n.hash] == nil })
	if len(old) > 0 {
		old[len(old)-1].state = t.state
	}
	t.log = append(slices.Clip(t.log[:at+1]), branch...)
	for _, n := range t.log {
		n.state = nil
	}
	t.state = s
	for _, n := range old {
		t.keep(n)
	}
	t.look()
}

// catchUp appends records that were held back and whose time has come. It
// returns how many.
func (t *trustTree) catchUp(now time.Time) (count int) {
	for t.state != nil {
		i := slices.IndexFunc(t.order, func(n *treeNode) bool {
			return n.stmt.prev == t.state.head() && t.state.checkTime(n.stmt.time, now) == nil
		})
		if i < 0 {
			break
		}
		n := t.order[i]
		next, err := t.state.applyRecord(n.trustRecord, now)
		if err != nil {
			break // it was judged good when it came
		}
		delete(t.beside, n.hash)
		t.order = slices.Delete(t.order, i, i+1)
		n.state = nil
		t.append(n, next)
		count++
	}
	return count
}

// look makes the view: the log's state without anything that a branch beside it
// has taken away. Devices revoked there are revoked. Signers removed there are
// removed, and what they alone did here since the fork does not count, unless
// somebody else has confirmed it with an update since.
func (t *trustTree) look() {
	t.view = t.state
	if t.state == nil || len(t.order) == 0 && t.state.unknown == 0 {
		return
	}
	v := t.state.clone()
	v.log = t.state
	if v.unknown != 0 {
		v.trouble = append(v.trouble, errUpdate(v.unknown))
	}
	gone := make(takenBack, len(v.members))
	for _, tip := range t.tips() {
		s, err := t.stateAfter(tip)
		if err != nil {
			continue // every record beside the log has been applied before
		}
		at := t.forkPoint(tip)
		v.takeRevoked(s)
		v.takeRemoved(s, at, gone)
		v.noteBranch(tip, at)
	}
	v.spread(gone)
	v.undo(gone, v.seq(), true)
	for i := range v.members {
		if m := &v.members[i]; gone[i] != 0 && m.active() {
			m.removed = v.seq()
		}
	}
	t.view = v
}

// takeRevoked revokes in v what is revoked in a branch: an id, and what shares
// its signing key.
func (v *trustState) takeRevoked(branch *trustState) {
	for id, d := range branch.devs {
		if d.revoked == 0 {
			continue
		}
		if v.devs[id] != nil {
			v.revoke(id, d.revoked, d.reason)
		}
		if same, ok := v.deviceByKey(d.keys.sign); ok {
			v.revoke(same.id, d.revoked, d.reason)
		}
	}
}

// takeRemoved marks in gone the signers that a branch has removed after the
// fork at statement at, or whose acts it has taken back. Up to there both have
// the same members. The recovery key is left out: only its own holder can
// remove it.
func (v *trustState) takeRemoved(branch *trustState, at uint64, gone takenBack) {
	for i, m := range branch.members {
		if m.added > at || m.can('r') {
			continue
		}
		from := m.undone
		if m.removed > at && (from == 0 || from > at+1) {
			from = at + 1
		}
		if from != 0 && (gone[i] == 0 || from < gone[i]) {
			gone[i] = from
		}
	}
}

// noteBranch says what a person should know of a branch.
func (v *trustState) noteBranch(tip *treeNode, at uint64) {
	switch {
	case at == v.seq():
		v.trouble = append(v.trouble, coded("time-future", "statement %d is of %s and waits until then; what it removes is removed",
			at+1, stmtDate(tip.stmt.time)))
	case v.recovered <= at:
		v.trouble = append(v.trouble, withHint(coded("fork", "the account has two statements %d: somebody signed both. What either removes is removed, what the other one adds is refused", at+1),
			"compare sessio trust log on your machines; if a key was stolen: sessio trust recover -since %d", at+1))
	}
}
