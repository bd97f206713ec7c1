package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// join has a new signer added and returns its key.
func (k *trustTestAcct) join(label, powers string, by stmtSigner) sshStmtSigner {
	k.t.Helper()
	s := trustTestKey(label)
	k.ok(k.text(opSignerAdd{trustTestLine(s, powers, label)}), nil, by, s)
	return s
}

func (k *trustTestAcct) device(name string, by ...stmtSigner) {
	k.t.Helper()
	k.ok(k.text(opDeviceAdd{trustTestID(name), trustTestKeys(name), trustTestGrant(name)}), nil, by...)
}

func (k *trustTestAcct) update(name, to string, by ...stmtSigner) {
	k.t.Helper()
	k.ok(k.text(opDeviceUpdate{trustTestID(name), trustTestGrant(to)}), nil, by...)
}

func (k *trustTestAcct) labels() string {
	var list []string
	for _, s := range k.state.signers() {
		list = append(list, s.label)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func (k *trustTestAcct) expect(devices, signers string) {
	k.t.Helper()
	if got := trustTestNames(k.state); got != devices {
		k.t.Errorf("devices %q, want %q", got, devices)
	}
	if got := k.labels(); got != signers {
		k.t.Errorf("signers %q, want %q", got, signers)
	}
}

// Statement numbers:  1 thief in, 2 good, 3 before, 4 evil, 5 helper in,
// 6 deeper, 7 witnessed, 8 friend in by two, 9 friendly, 10 helper out.
func newTrustTestTheft(t *testing.T) (k *trustTestAcct, thief sshStmtSigner) {
	k = newTrustTestAcct(t)
	thief = k.join("thief", "ds", k.a)
	k.device("good", k.a)
	k.device("before", thief)
	k.device("evil", thief)
	helper := k.join("helper", "ds", thief)
	k.device("deeper", helper)
	k.device("witnessed", thief, k.a)
	friend := trustTestKey("friend")
	k.ok(k.text(opSignerAdd{trustTestLine(friend, "ds", "friend")}), nil, thief, k.b, friend)
	k.device("friendly", friend)
	k.ok(k.text(opSignerRemove{helper.id(), 0}), nil, helper)
	return k, thief
}

func TestTrustRemoveSignerKeepsItsPast(t *testing.T) {
	k, thief := newTrustTestTheft(t)
	k.ok(k.text(opSignerRemove{thief.id(), 0}), nil, k.a)
	k.expect("before deeper evil friendly good witnessed", "alice bob friend recovery")
}

// Revocation by since is transitive, also through a signer that is gone, and
// spares what somebody else has backed.
func TestTrustRemoveSignerSince(t *testing.T) {
	k, thief := newTrustTestTheft(t)
	k.ok(k.text(opSignerRemove{thief.id(), 4}), nil, k.a)
	k.expect("before friendly good witnessed", "alice bob friend recovery")
	d, ok := k.state.device(trustTestID("deeper"))
	if !ok || !d.revoked || d.revokedSeq != 11 || d.reason != reasonUndone {
		t.Error(d)
	}
	k.bad("op-invalid", k.text(opDeviceAdd{trustTestID("evil"), trustTestKeys("evil"), trustTestGrant("evil")}), k.a)

	k, thief = newTrustTestTheft(t)
	k.ok(k.text(opSignerRemove{thief.id(), 1}), nil, k.a)
	k.expect("friendly good witnessed", "alice bob friend recovery")
}

// Removal takes whoever the thief alone let in, at once.
func TestTrustRemoveSignerTakesItsSigners(t *testing.T) {
	k := newTrustTestAcct(t)
	thief := k.join("thief", "ds", k.a)
	second := k.join("second", "ds", thief)
	third := k.join("third", "ds", second)
	k.device("evil", third)
	k.ok(k.text(opSignerRemove{thief.id(), 2}), nil, k.b)
	k.expect("", "alice bob recovery")
	k.bad("no-power", k.text(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), trustTestGrant("x")}), third)
	// one d and one s must remain after that, not only after the removal itself
	k = newTrustTestAcct(t)
	heir := k.join("heir", "ds", k.a)
	k.bad("op-invalid", k.text(opSignerRemove{k.a.id(), 1}), k.a)
	k.ok(k.text(opSignerRemove{k.a.id(), 0}), nil, k.a)
	k.expect("", "bob heir recovery")
	// and what a signer did in an earlier time of its own counts too
	k.device("early", heir)
	k.join("other", "d", heir)
	k.ok(k.text(opSignerRemove{heir.id(), 0}), nil, k.r)
	k.ok(k.text(opSignerAdd{trustTestLine(heir, "ds", "heir")}), nil, k.b, heir)
	k.device("late", heir)
	k.ok(k.text(opSignerAdd{trustTestLine(k.a, "ds", "alice")}), nil, k.b, k.a)
	k.ok(k.text(opSignerRemove{heir.id(), 3}), nil, k.b)
	k.expect("", "alice bob recovery")
}

// A device that a thief added is revoked also where somebody else, deceived, has
// updated it since.
func TestTrustUndoneAddAfterUpdate(t *testing.T) {
	k := newTrustTestAcct(t)
	thief := k.join("thief", "ds", k.a)
	k.device("evil", thief)
	k.update("evil", "fine", k.a)
	k.ok(k.text(opSignerRemove{thief.id(), 2}), nil, k.a)
	k.expect("", "alice bob recovery")
}

// A grant changed by a thief is again what it was, with the name it had if that
// is free.
func TestTrustUndoneUpdate(t *testing.T) {
	k := newTrustTestAcct(t)
	thief := k.join("thief", "ds", k.a)
	k.device("attic", k.a)
	k.device("cellar", k.a)
	k.device("garage", k.a)
	wide := newDeviceGrant("attic2", []string{"client", "server"}, []string{"*"}, deviceCaps, 0)
	k.ok(k.text(opDeviceUpdate{trustTestID("attic"), wide}), nil, thief) // 5
	k.update("cellar", "cellar2", thief)                                 // 6
	k.update("garage", "cellar", k.a, thief)                             // 7
	k.update("attic", "attic3", thief)                                   // 8
	k.ok(k.text(opSignerRemove{thief.id(), 5}), nil, k.a)
	k.expect("attic cellar "+string(trustTestID("cellar")), "alice bob recovery")
	if d, _ := k.state.deviceByName("attic"); d.hasRole("client") || d.id != trustTestID("attic") {
		t.Error("the thief's grant still counts", d)
	}
	if d, _ := k.state.deviceByName("cellar"); d.id != trustTestID("garage") {
		t.Error("a name that others gave was taken back", d)
	}
}

func TestTrustRecover(t *testing.T) {
	fresh, helper := trustTestKey("fresh"), trustTestLine(trustTestKey("fresh"), "ds", "fresh")
	k, thief := newTrustTestTheft(t)
	k.bad("no-power", k.text(opRecover{0, []signerLine{helper}}), thief, fresh)
	k.bad("op-invalid", k.text(opRecover{11, []signerLine{helper}}), k.r, fresh)
	k.bad("op-invalid", k.text(opRecover{0, []signerLine{trustTestLine(fresh, "d", "fresh")}}), k.r, fresh)
	k.bad("op-invalid", k.text(opRecover{0, []signerLine{trustTestLine(fresh, "s", "fresh")}}), k.r, fresh)
	k.bad("op-invalid", k.text(opRecover{0, sortedSigners([]signerLine{helper, trustTestLine(k.r, "r", "recovery")})}), k.r, fresh)
	liar := helper
	liar.id = k.a.id()
	k.bad("op-invalid", k.text(opRecover{0, []signerLine{liar}}), k.r, k.a)

	whole := k.branch()
	whole.ok(whole.text(opRecover{0, []signerLine{helper}}), nil, k.r, fresh)
	whole.expect("before deeper evil friendly good witnessed", "fresh recovery")
	whole.bad("no-power", whole.text(opDeviceRevoke{[]deviceID{trustTestID("evil")}, "lost"}), k.a, k.b)
	whole.device("new", fresh)

	// what anybody but r did since is taken back
	k.ok(k.text(opRecover{3, []signerLine{helper}}), nil, k.r, fresh)
	k.expect("good", "fresh recovery")
	if k.state.recovered != 11 {
		t.Error(k.state.recovered)
	}
	k.device("new", fresh)
}

// Signers may be installed that were there before, and the recovery key be
// replaced by itself.
func TestTrustRecoverInstalls(t *testing.T) {
	k := newTrustTestAcct(t)
	k.device("attic", k.a)
	r2, r3 := trustTestKey("r2"), trustTestKey("r3")
	list := []signerLine{trustTestLine(k.a, "ds", "alice"), trustTestLine(r2, "r", "r2"), trustTestLine(r3, "r", "r3")}
	k.bad("op-invalid", k.text(opRecover{0, sortedSigners(list)}), k.r, k.a, r2, r3)
	k.ok(k.text(opRecover{0, sortedSigners(list[:2])}), nil, k.r, k.a, r2)
	k.expect("attic", "alice r2")
	var many []signerLine
	by := []stmtSigner{r2}
	for _, label := range strings.Fields("q1 q2 q3 q4 q5 q6 q7") {
		s := trustTestKey(label)
		many, by = append(many, trustTestLine(s, "ds", label)), append(by, s)
	}
	eighth := trustTestKey("q8")
	k.bad("op-invalid", k.text(opRecover{0, sortedSigners(append(many, trustTestLine(eighth, "ds", "q8")))}), r2)
	k.ok(k.text(opRecover{0, sortedSigners(many)}), nil, by...)
	k.bad("no-power", k.text(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "lost"}), k.a)
	if len(k.state.signers()) != 8 {
		t.Error(k.labels())
	}
	list = append(many[:6:6], trustTestLine(r3, "r", "r3"))
	k.ok(k.text(opRecover{0, sortedSigners(list)}), nil, append(by[:7:7], r3)...)
	k.expect("attic", "q1 q2 q3 q4 q5 q6 r3")
}

// A device that was revoked stays so when the one who revoked it turns out to be
// a thief.
func TestTrustRevokedStaysRevoked(t *testing.T) {
	k := newTrustTestAcct(t)
	thief := k.join("thief", "ds", k.a)
	k.device("attic", k.a)
	k.revokeDevice("attic", thief)
	k.ok(k.text(opSignerRemove{thief.id(), 1}), nil, k.a)
	fresh := trustTestKey("fresh")
	k.ok(k.text(opRecover{1, []signerLine{trustTestLine(fresh, "ds", "fresh")}}), nil, k.r, fresh)
	k.expect("", "fresh recovery")
	if d, _ := k.state.device(trustTestID("attic")); d.revokedSeq != 3 || d.reason != "lost" {
		t.Error(d)
	}
}

// After something that this program does not know only removals act, and the log
// goes on all the same.
func TestTrustUnknownOp(t *testing.T) {
	k := newTrustTestAcct(t)
	k.device("attic", k.a)
	k.device("laptop", k.a)
	k.device("box", k.a)
	odd := func(op string) []byte {
		return k.edit(opDeviceRevoke{}, func(s *statement) { s.op, s.body, s.extra = op, nil, []string{"what ever"} })
	}
	k.bad("no-power", odd("device.lend"), k.b, k.r)
	k.bad("no-power", odd("signer.lend"), trustTestKey("stranger"))
	d := k.join("onlyd", "d", k.b)
	k.bad("no-power", odd("signer.lend"), d)
	k.bad("no-power", odd("devices"), d)
	for _, c := range []struct {
		op string
		by stmtSigner
	}{{"device.lend", d}, {"device.lend", k.a}, {"signer.lend", k.b}, {"devices", k.r}} {
		k := k.branch()
		k.ok(odd(c.op), nil, c.by)
		k.expect("attic box laptop", "alice bob onlyd recovery")
	}
	extra := k.branch()
	extra.ok(k.edit(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "lost"}, func(s *statement) { s.extra = []string{"from now"} }), nil, k.a)
	extra.expect("attic box laptop", "alice bob onlyd recovery") // no effect at all

	// a signer whom only a later version can find is passed over, beside one of ours
	odd2 := odd("signer.lend")
	k.ok(odd2, nil, k.b, trustTestKey("later"))
	if k.state.unknown != 5 {
		t.Error(k.state.unknown)
	}
	k.device("x", k.a)
	k.ok(k.text(opDeviceUpdate{trustTestID("x"), trustTestGrant("y")}), nil, k.a, trustTestKey("later"))
	k.update("attic", "roof", k.a)
	k.expect("attic box laptop", "alice bob onlyd recovery")
	k.ok(odd("again"), nil, k.b)
	if k.state.unknown != 5 {
		t.Error(k.state.unknown)
	}
	k.ok(k.text(opDeviceRevoke{[]deviceID{trustTestID("attic"), trustTestID("nobody")}[:1], "lost"}), nil, k.b)
	k.ok(k.text(opDeviceRevoke{[]deviceID{trustTestID("x")}, "lost"}), nil, k.b) // had no effect here
	k.expect("box laptop", "alice bob onlyd recovery")
	k.ok(k.text(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "stolen"}), nil, k.b) // once more
	if d, _ := k.state.device(trustTestID("attic")); d.revokedSeq != 10 || d.reason != "lost" {
		t.Error("a revocation was changed by a later one", d)
	}
	if d, ok := k.state.device(trustTestID("x")); !ok || !d.revoked {
		t.Error("the revocation of a device that had no effect here is forgotten")
	}
	// a new signer can be known by its signatures, and remove
	late := k.join("late", "ds", k.b)
	k.ok(k.text(opSignerAdd{trustTestLine(late, "ds", "late")}), nil, k.b, late) // twice: no effect
	k.device("y", late)
	k.revokeDevice("laptop", late)
	k.ok(k.text(opSignerRemove{trustTestKey("later").id(), 0}), nil, k.b)
	k.ok(k.text(opSignerRemove{d.id(), 0}), nil, k.b)
	k.expect("box", "alice bob late recovery")
	k.ok(k.text(opRecover{0, []signerLine{trustTestLine(k.a, "ds", "alice")}}), nil, k.r, k.a)
	k.expect("box", "alice recovery")
	err := buildErr(buildDeviceAdd(k.state, trustTestKeys("z"), trustTestGrant("z"), trustTestNow))
	if codeOf(err) != "unknown-op" || hintOf(err) != "update sessio on this machine" {
		t.Error(err)
	}
	if err := buildErr(buildDeviceRevoke(k.state, []deviceID{trustTestID("box")}, "lost", trustTestNow)); err != nil {
		t.Error(err)
	}
}

func buildErr(_ []byte, err error) error { return err }

// What a program remembers of devices that had no effect is bounded.
func TestTrustUnknownRevocationsAreBounded(t *testing.T) {
	s := &trustState{devs: map[deviceID]*deviceRec{}}
	for i := range maxDevsEver + 10 {
		s.revoke(deviceID(time.Unix(int64(i), 0).String()), 1, "lost")
	}
	if len(s.devs) != maxDevsEver {
		t.Error(len(s.devs))
	}
}
