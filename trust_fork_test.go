package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// tree makes a tree of the account's records.
func (k *trustTestAcct) tree() *trustTree {
	k.t.Helper()
	t := newTrustTree(k.state.acct())
	for i, raw := range k.raws {
		if out, err := t.add(raw, trustTestNow); out != addAppended {
			k.t.Fatalf("record %d: %v", i, err)
		}
	}
	return t
}

// give adds other's records from seq on, and wants each kept beside the log.
func (t *trustTree) give(tb testing.TB, other *trustTestAcct, from int) {
	tb.Helper()
	for _, raw := range other.raws[from:] {
		if out, err := t.add(raw, trustTestNow); out != addKept || codeOf(err) != "fork" {
			tb.Fatalf("outcome %d: %v", out, err)
		}
	}
}

func trustTestTroubles(s *trustState) string {
	var codes []string
	for _, err := range s.troubles() {
		codes = append(codes, codeOf(err))
	}
	return strings.Join(codes, " ")
}

func (t *trustTree) expect(tb testing.TB, devices, signers, troubles string) {
	tb.Helper()
	k := &trustTestAcct{t: tb, state: t.view}
	k.expect(devices, signers)
	if got := trustTestTroubles(t.view); got != troubles {
		tb.Errorf("troubles %q, want %q", got, troubles)
	}
}

// Keep ours, refuse the other's additions, apply its revocations.
func TestTrustForkKeepsOursAndRevokes(t *testing.T) {
	k := newTrustTestAcct(t)
	k.device("attic", k.a)
	k.device("cellar", k.a)
	ours, theirs := k.branch(), k.branch()
	ours.device("ours", k.a)
	theirs.device("theirs", k.a)
	theirs.revokeDevice("attic", k.b)
	tree := ours.tree()
	tree.give(t, theirs, 3)
	tree.expect(t, "cellar ours", "alice bob recovery", "fork")
	d, _ := tree.view.device(trustTestID("attic"))
	if !d.revoked || d.reason != "lost" || d.revokedSeq != 4 {
		t.Error(d)
	}
	if tree.view.head() != ours.state.head() {
		t.Error("the log is another one")
	}
	// the log itself goes on as all who hold it see it
	ours.update("attic", "roof", k.a)
	if out, err := tree.add(ours.raws[4], trustTestNow); out != addAppended {
		t.Fatal(err)
	}
	tree.expect(t, "cellar ours", "alice bob recovery", "fork")
	// known records change nothing
	for _, raw := range theirs.raws {
		if out, err := tree.add(raw, trustTestNow); out != addNothing || err != nil {
			t.Error(out, err)
		}
	}
	if hintOf(tree.view.troubles()[0]) == "" {
		t.Error("no hint")
	}
}

// A revoked machine does not come back under half a new identity in the other
// branch, and a revocation of ours stays what it was.
func TestTrustForkRevokesBySignKey(t *testing.T) {
	k := newTrustTestAcct(t)
	k.device("attic", k.a)
	half := publicKeys{trustTestKeys("x").sign, trustTestKeys("y").path}
	ours, theirs := k.branch(), k.branch()
	ours.ok(ours.text(opDeviceAdd{half.deviceID(), half, trustTestGrant("half")}), nil, k.a)
	ours.ok(ours.text(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "stolen"}), nil, k.a)
	theirs.device("x", k.a)
	theirs.revokeDevice("x", k.a)
	theirs.revokeDevice("attic", k.a)
	tree := ours.tree()
	tree.expect(t, "half", "alice bob recovery", "")
	tree.give(t, theirs, 2)
	tree.expect(t, "", "alice bob recovery", "fork")
	if d, _ := tree.view.device(trustTestID("attic")); d.reason != "stolen" || d.revokedSeq != 3 {
		t.Error(d)
	}
}

// A signer removed in the other branch is removed, and what it alone did here
// since the fork does not count, until somebody else has confirmed it.
func TestTrustForkRemovesSigners(t *testing.T) {
	k := newTrustTestAcct(t)
	thief := k.join("thief", "ds", k.a)
	k.device("before", thief)
	k.device("attic", k.a)
	ours, theirs := k.branch(), k.branch()
	ours.device("evil", thief)       // 4
	ours.update("attic", "x", thief) // 5
	ours.device("both", thief, k.a)  // 6
	helper := ours.join("helper", "ds", thief)
	ours.device("evil2", helper)
	theirs.ok(theirs.text(opSignerRemove{thief.id(), 0}), nil, k.a)
	tree := ours.tree()
	tree.expect(t, "before both evil evil2 x", "alice bob helper recovery thief", "")
	tree.give(t, theirs, 4)
	tree.expect(t, "attic before both", "alice bob recovery", "fork")
	// what it goes on to sign is in the log and counts for nothing
	ours.device("evil3", thief)
	if out, err := tree.add(ours.raws[9], trustTestNow); out != addAppended {
		t.Fatal(err)
	}
	tree.expect(t, "attic before both", "alice bob recovery", "fork")
	ours.update("evil", "confirmed", k.a)
	if out, err := tree.add(ours.raws[10], trustTestNow); out != addAppended {
		t.Fatal(err)
	}
	tree.expect(t, "attic before both confirmed", "alice bob recovery", "fork")
	// since reaches behind the fork
	later := theirs.branch()
	later.device("z", k.a)
	theirs = k.branch()
	theirs.ok(theirs.text(opSignerRemove{thief.id(), 2}), nil, k.a)
	tree.give(t, theirs, 4)
	tree.expect(t, "attic both confirmed", "alice bob recovery", "fork fork")
	// the same the other way round: the one who removed sees nothing of it
	tree = theirs.tree()
	tree.give(t, ours, 4)
	tree.expect(t, "attic", "alice bob recovery", "fork")
}

// The same in a branch that takes acts back from one already removed.
func TestTrustForkTakesBackFromTheRemoved(t *testing.T) {
	k := newTrustTestAcct(t)
	thief := k.join("thief", "ds", k.a)
	k.device("attic", k.a)
	k.update("attic", "x", thief)
	k.ok(k.text(opSignerRemove{thief.id(), 0}), nil, k.a)
	ours, theirs := k.branch(), k.branch()
	ours.device("ours", k.b, k.a)
	theirs.ok(theirs.text(opSignerAdd{trustTestLine(thief, "ds", "thief")}), nil, k.a, thief)
	theirs.ok(theirs.text(opSignerRemove{thief.id(), 3}), nil, k.a)
	tree := ours.tree()
	tree.give(t, theirs, 5)
	tree.expect(t, "attic ours", "alice bob recovery", "fork")
}

// The recovery key is removed by nobody but its holder, so another branch's word
// on it is not taken either: or a thief who once held it could lock all out.
func TestTrustForkLeavesTheRecoveryKey(t *testing.T) {
	k := newTrustTestAcct(t)
	ours, theirs := k.branch(), k.branch()
	fresh := trustTestKey("fresh")
	ours.device("x", k.a)
	ours.ok(ours.text(opRecover{0, []signerLine{trustTestLine(fresh, "ds", "fresh")}}), nil, k.r, fresh)
	ours.device("attic", fresh)
	theirs.ok(theirs.text(opSignerRemove{k.r.id(), 0}), nil, k.r)
	tree := ours.tree()
	tree.give(t, theirs, 1)
	tree.expect(t, "attic x", "fresh recovery", "")
}

// A branch where the recovery key has spoken beats one without, whichever came
// first; what the loser revoked stays revoked.
func TestTrustForkRecoverWins(t *testing.T) {
	k := newTrustTestAcct(t)
	k.device("attic", k.a)
	k.device("cellar", k.a)
	fresh := trustTestKey("fresh")
	ours, theirs := k.branch(), k.branch()
	ours.device("evil", k.a)
	ours.device("evil2", k.a)
	ours.revokeDevice("cellar", k.b)
	theirs.device("more", k.a)
	theirs.ok(theirs.text(opRecover{0, []signerLine{trustTestLine(fresh, "ds", "fresh")}}), nil, k.r, fresh)
	theirs.device("new", fresh)

	tree := ours.tree()
	tree.give(t, theirs.cut(4), 3)
	out, err := tree.add(theirs.raws[4], trustTestNow)
	if out != addSwitched || err != nil {
		t.Fatal(out, err)
	}
	if out, err := tree.add(theirs.raws[5], trustTestNow); out != addAppended {
		t.Fatal(out, err)
	}
	tree.expect(t, "attic more new", "fresh recovery", "")
	if tree.view.head() != theirs.state.head() || len(tree.order) != 3 {
		t.Error("log and evidence after the switch", tree.view.seq(), len(tree.order))
	}
	other := theirs.tree()
	other.give(t, ours, 3)
	other.expect(t, "attic more new", "fresh recovery", "")
	// the loser's branch may go on: it stays where it is
	ours.device("evil3", k.a)
	tree.give(t, ours, 6)
	tree.expect(t, "attic more new", "fresh recovery", "")
	// two branches with a recover: everybody keeps their own
	third := k.branch()
	third.ok(third.text(opRecover{0, []signerLine{trustTestLine(k.a, "ds", "alice")}}), nil, k.r, k.a)
	tree.give(t, third, 3)
	tree.expect(t, "attic new", "fresh recovery", "") // who added more was removed there
}

// A recover before the fork is common to both and decides nothing.
func TestTrustForkAfterRecover(t *testing.T) {
	k := newTrustTestAcct(t)
	fresh := trustTestKey("fresh")
	k.ok(k.text(opRecover{0, []signerLine{trustTestLine(fresh, "ds", "fresh")}}), nil, k.r, fresh)
	ours, theirs := k.branch(), k.branch()
	ours.device("ours", fresh)
	theirs.device("theirs", fresh)
	tree := ours.tree()
	tree.give(t, theirs, 2)
	tree.expect(t, "ours", "fresh recovery", "fork")
}

// cut is the account with its first n records only (its state stays).
func (k *trustTestAcct) cut(n int) *trustTestAcct {
	c := k.branch()
	c.raws = c.raws[:n]
	return c
}

// time-future holds a record back, but never what it removes.
func TestTrustForkFuture(t *testing.T) {
	k := newTrustTestAcct(t)
	k.device("attic", k.a)
	k.device("cellar", k.a)
	soon := trustTestNow.Add(48 * time.Hour)
	late := func(body stmtBody) []byte {
		return k.edit(body, func(s *statement) { s.time = soon.Unix() })
	}
	tree := k.tree()
	before := k.branch()
	add := func(raw []byte) {
		t.Helper()
		if out, err := tree.add(raw, trustTestNow); out != addKept || codeOf(err) != "time-future" {
			t.Fatal(out, err)
		}
		s, err := apply(k.state, raw, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		k.state, k.raws = s, append(k.raws, raw)
	}
	add(k.sign(late(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), trustTestGrant("x")}), k.a))
	tree.expect(t, "attic cellar", "alice bob recovery", "time-future")
	add(k.sign(late(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "lost"}), k.a))
	tree.expect(t, "cellar", "alice bob recovery", "time-future")
	if tree.catchUp(trustTestNow) != 0 || tree.catchUp(soon.Add(-25*time.Hour)) != 0 {
		t.Error("too early")
	}
	other := before.tree()
	for _, raw := range k.raws[3:] {
		other.add(raw, trustTestNow)
	}
	if n := tree.catchUp(soon.Add(-24 * time.Hour)); n != 2 || len(tree.order) != 0 {
		t.Error(n, len(tree.order))
	}
	tree.expect(t, "cellar x", "alice bob recovery", "")
	// the first whose time has come is taken, not the first
	two := before.tree()
	for i, hours := range []time.Duration{72, 48} {
		raw := before.sign(before.edit(opDeviceUpdate{trustTestID("attic"), trustTestGrant(fmt.Sprint("n", i))},
			func(s *statement) { s.time += int64(hours * 3600) }), before.a)
		if out, err := two.add(raw, trustTestNow); out != addKept {
			t.Fatal(err)
		}
	}
	if two.catchUp(soon.Add(-24*time.Hour)) != 1 {
		t.Error("neither")
	}
	two.expect(t, "cellar n1", "alice bob recovery", "fork")
	// where something else took its place it is a fork
	before.device("y", k.a)
	if out, err := other.add(before.raws[3], trustTestNow); out != addAppended {
		t.Fatal(err)
	}
	other.expect(t, "cellar y", "alice bob recovery", "fork")
	if other.catchUp(soon) != 0 {
		t.Error("both branches")
	}
}

// A recover from the future does not win before its time.
func TestTrustForkFutureRecover(t *testing.T) {
	k := newTrustTestAcct(t)
	ours, theirs := k.branch(), k.branch()
	ours.device("ours", k.a)
	soon := trustTestNow.Add(48 * time.Hour)
	fresh := trustTestKey("fresh")
	raw := theirs.sign(theirs.edit(opRecover{0, []signerLine{trustTestLine(fresh, "ds", "fresh")}}, func(s *statement) { s.time = soon.Unix() }), k.r, fresh)
	tree := ours.tree()
	if out, err := tree.add(raw, trustTestNow); out != addKept {
		t.Fatal(out, err)
	}
	tree.expect(t, "", "recovery", "fork")
	if tree.settle(trustTestNow) || !tree.settle(soon) {
		t.Error("settled at the wrong time")
	}
	tree.expect(t, "", "fresh recovery", "")
}

// What is kept beside the log is bounded, with room for removals at the end.
func TestTrustForkBounds(t *testing.T) {
	k := newTrustTestAcct(t)
	k.device("attic", k.a)
	var more []string
	for i := range besideReserved {
		more = append(more, fmt.Sprint("m", i))
		k.device(more[i], k.a)
	}
	fork := k.branch()
	k.device("ours", k.a)
	tree := k.tree()
	for i := range maxBeside - besideReserved {
		fork.update("attic", fmt.Sprint("attic", i), k.a)
	}
	tree.give(t, fork, 66)
	full := fork.branch()
	fork.device("x", k.a)
	if out, err := tree.add(fork.raws[len(fork.raws)-1], trustTestNow); out != addNothing || codeOf(err) != "fork" {
		t.Error(out, err)
	}
	for _, name := range more {
		full.revokeDevice(name, k.a)
	}
	tree.give(t, full, 66+maxBeside-besideReserved)
	tree.expect(t, "attic ours", "alice bob recovery", "fork")
	full.revokeDevice("attic", k.a)
	if out, err := tree.add(full.raws[len(full.raws)-1], trustTestNow); out != addNothing || codeOf(err) != "fork" {
		t.Error(out, err)
	}

	tree = k.tree()
	for i := range maxBranches + 1 {
		b := newTrustTestBranch(k, fmt.Sprint("b", i))
		out, err := tree.add(b.raws[66], trustTestNow)
		if want := i < maxBranches; (out == addKept) != want || codeOf(err) != "fork" {
			t.Fatal(i, out, err)
		}
		if i == 0 { // a branch that is known may go on though there are no more
			defer func() {
				b.device("on", k.a)
				tree.give(t, b, 67)
			}()
		}
	}
}

func newTrustTestBranch(k *trustTestAcct, name string) *trustTestAcct {
	b := newTrustTestAcct(k.t)
	b.state, b.raws = nil, nil
	for _, raw := range k.raws[:66] {
		b.applied(raw)
	}
	b.device(name, b.a)
	return b
}

// Records that join on to nothing known are refused: the exchange asks for what
// is before them.
func TestTrustForkUnknownParent(t *testing.T) {
	k := newTrustTestAcct(t)
	ours, theirs := k.branch(), k.branch()
	ours.device("a", k.a)
	ours.device("b", k.a)
	for _, name := range strings.Fields("c d e f") {
		theirs.device(name, k.a)
	}
	tree := ours.tree()
	for seq, code := range map[int]string{2: "fork", 3: "fork", 4: "gap"} {
		if out, err := tree.add(theirs.raws[seq], trustTestNow); out != addNothing || codeOf(err) != code {
			t.Error(seq, out, err)
		}
	}
	if out, err := newTrustTree(k.state.acct()).add(k.raws[0], trustTestNow); out != addAppended {
		t.Error(err)
	}
	empty := newTrustTree(acctID{1})
	if out, err := empty.add(k.raws[0], trustTestNow); out != addNothing || codeOf(err) != "wrong-account" {
		t.Error(out, err)
	}
	if out, err := empty.add(theirs.raws[1], trustTestNow); out != addNothing || codeOf(err) != "gap" {
		t.Error(out, err)
	}
	// judged in full on its own branch
	bad := theirs.sign(k.text(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), trustTestGrant("x")}), k.b)
	if out, err := tree.add(bad, trustTestNow); out != addNothing || codeOf(err) != "no-power" {
		t.Error(out, err)
	}
}

// Applying to a view is applying to the log that it is a view of.
func TestTrustViewIsNoLog(t *testing.T) {
	k := newTrustTestAcct(t)
	thief := k.join("thief", "ds", k.a)
	ours, theirs := k.branch(), k.branch()
	ours.device("x", k.a)
	theirs.ok(theirs.text(opSignerRemove{thief.id(), 0}), nil, k.a)
	tree := ours.tree()
	tree.give(t, theirs, 2)
	ours.device("evil", thief)
	next, err := apply(tree.view, ours.raws[3], trustTestNow)
	if err != nil || next.log != nil || next.trouble != nil {
		t.Fatal(err)
	}
	if text, err := buildDeviceRevoke(tree.view, []deviceID{trustTestID("x")}, "lost", trustTestNow); err != nil || len(text) == 0 {
		t.Error(err)
	}
}
