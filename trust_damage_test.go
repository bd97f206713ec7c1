package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// trustTestEdit changes a file of the store.
func trustTestEdit(t *testing.T, file string, change func(b []byte) []byte) {
	t.Helper()
	if err := os.WriteFile(file, change([]byte(trustTestRead(t, file))), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A damaged entry before good ones: what is sound stays, a copy is kept, and the
// rest is fetched again.
func TestTrustStoreCorruptLog(t *testing.T) {
	k := newTrustTestAcct(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		k.addDevice(name)
	}
	st := trustTestStore(t, k, len(k.raws))
	at := len(k.raws[0]) + len(k.raws[1]) + 2*entryOverhead + 50
	trustTestEdit(t, st.path("log"), func(b []byte) []byte { b[at] ^= 1; return b })
	damaged := trustTestRead(t, st.path("log"))

	again := trustTestOpen(t, st.dir)
	notes := trustTestNotes(again)
	if len(*notes) != 1 || codeOf((*notes)[0]) != "log-corrupt" {
		t.Fatal(*notes)
	}
	if got := trustTestNames(again.state()); got != "a" {
		t.Error("what was sound is gone:", got)
	}
	if trustTestRead(t, st.path("log.corrupt")) != damaged {
		t.Error("no copy was kept")
	}
	trustTestMeet(t, again, trustTestStore(t, k, len(k.raws)))
	got, _, err := readEntries(strings.NewReader(trustTestRead(t, st.path("log"))), maxRecord)
	if again.state().head() != k.state.head() || err != nil || !reflect.DeepEqual(got, k.raws) {
		t.Error("not fetched again")
	}
	if notes := trustTestNotes(trustTestOpen(t, st.dir)); len(*notes) != 0 {
		t.Error(*notes)
	}
}

// A torn tail was never acknowledged: it is cut without a word.
func TestTrustStoreTornTail(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("a")
	k.addDevice("b")
	for _, cut := range []int{1, 40, len(k.raws[2]) + entryOverhead - 1} {
		st := trustTestStore(t, k, 3)
		trustTestEdit(t, st.path("log"), func(b []byte) []byte { return b[:len(b)-cut] })
		again := trustTestOpen(t, st.dir)
		if notes := trustTestNotes(again); len(*notes) != 0 || again.state().seq() != 1 {
			t.Error(*notes, again.state().seq())
		}
		if n, err := again.add(k.raws[2]); n != 1 || err != nil {
			t.Error(n, err)
		}
	}
}

// A record that does not follow, in an entry that is whole.
func TestTrustStoreImpossibleLog(t *testing.T) {
	k := newTrustTestAcct(t)
	for _, name := range []string{"a", "b", "c"} {
		k.addDevice(name)
	}
	again := k.branch()
	again.state = nil
	again.applied(k.raws[0])
	again.applied(k.raws[1])
	again.update("a", "a", k.a)
	again.raws = again.raws[4:]
	early := k.branch()
	late := early.edit(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), trustTestGrant("x")}, func(s *statement) { s.time += 10 })
	early.ok(late, nil, k.a)
	backwards := early.sign(early.text(opDeviceRevoke{[]deviceID{trustTestID("a")}, "lost"}), k.a)
	stranger := k.branch()
	stranger.state, stranger.raws = nil, nil
	for _, raw := range k.raws[:2] {
		stranger.applied(raw)
	}
	nobodys := stranger.sign(stranger.text(opDeviceRevoke{[]deviceID{trustTestID("a")}, "lost"}), trustTestKey("stranger"))
	want := map[string]uint64{"left out": 1, "twice": 2, "junk": 1, "by nobody": 1}
	for name, list := range map[string][][]byte{
		"left out":  {k.raws[0], k.raws[1], k.raws[3]},
		"twice":     {again.raws[0], again.raws[1], again.raws[2], again.raws[2]},
		"junk":      {k.raws[0], k.raws[1], []byte("junk"), k.raws[2]},
		"by nobody": {k.raws[0], k.raws[1], nobodys},
	} {
		st := trustTestStore(t, k, 4)
		if err := replaceEntries(st.path("log"), list); err != nil {
			t.Fatal(err)
		}
		again := trustTestOpen(t, st.dir)
		notes := trustTestNotes(again)
		if len(*notes) != 1 || codeOf((*notes)[0]) != "log-corrupt" || again.state().seq() != want[name] {
			t.Error(name, *notes, again.state().seq())
		}
	}
	st := trustTestStore(t, early, 5)
	if err := replaceEntries(st.path("log"), append(early.raws[:5:5], backwards)); err != nil {
		t.Fatal(err)
	}
	if again := trustTestOpen(t, st.dir); again.state().seq() != 4 {
		t.Error("a log where time runs backwards", again.state().seq())
	}
	// rules and powers are judged at every start, signatures by fsck
	wrong := k.sign(k.text(opDeviceUpdate{trustTestID("nobody"), trustTestGrant("x")}), k.a)
	weak := k.sign(k.text(opDeviceUpdate{trustTestID("a"), trustTestGrant("x")}), k.b)
	for _, raw := range [][]byte{wrong, weak} {
		if err := replaceEntries(st.path("log"), append(k.raws[:4:4], raw)); err != nil {
			t.Fatal(err)
		}
		if again := trustTestOpen(t, st.dir); again.state().seq() != 3 {
			t.Error("a record that breaks a rule came in by way of the disk")
		}
	}
}

// Evidence that joins on to what a damaged log has lost waits for it.
func TestTrustStoreEvidenceOutlivesTheLog(t *testing.T) {
	k := newTrustTestAcct(t)
	for _, name := range []string{"a", "b", "c"} {
		k.addDevice(name)
	}
	ours, theirs := k.branch(), k.branch()
	ours.addDevice("d")
	theirs.revokeDevice("a", k.b)
	st := trustTestStore(t, ours, 5)
	if _, err := st.add(theirs.raws[4]); codeOf(err) != "fork" {
		t.Fatal(err)
	}
	at := len(k.raws[0]) + len(k.raws[1]) + 2*entryOverhead + 50
	trustTestEdit(t, st.path("log"), func(b []byte) []byte { b[at] ^= 1; return b })
	again := trustTestOpen(t, st.dir)
	if again.state().seq() != 1 {
		t.Fatal(again.state().seq())
	}
	if _, err := again.add(ours.raws...); err != nil {
		t.Fatal(err)
	}
	if got := trustTestNames(again.state()); got != "b c d" {
		t.Error("the other branch's revocation is forgotten:", got)
	}
	// and a damaged evidence file loses only itself
	trustTestEdit(t, st.path("evidence"), func(b []byte) []byte { b[9] ^= 1; return append(b, b...) })
	again = trustTestOpen(t, st.dir)
	if again.state().seq() != 4 || trustTestTroubles(again.state()) != "" {
		t.Error(again.state().seq(), trustTestTroubles(again.state()))
	}
	// of another account, or by nobody
	nobodys := k.sign(k.text(opDeviceRevoke{[]deviceID{trustTestID("b")}, "lost"}), trustTestKey("stranger"))
	for _, raws := range [][][]byte{newTrustTestAcct(t).raws, {nobodys}, {[]byte("junk")}} {
		if err := replaceEntries(st.path("evidence"), raws); err != nil {
			t.Fatal(err)
		}
		again = trustTestOpen(t, st.dir)
		if notes := trustTestNotes(again); len(*notes) != 1 || codeOf((*notes)[0]) != "log-corrupt" || again.state().seq() != 4 {
			t.Error(*notes)
		}
	}
}

// A branch that has won is the log on disk too, and the loser is evidence.
func TestTrustStoreSwitch(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	ours, theirs := k.branch(), k.branch()
	ours.addDevice("evil")
	ours.revokeDevice("attic", k.b)
	ours.addDevice("evil2")
	fresh := trustTestKey("fresh")
	theirs.ok(theirs.text(opRecover{0, []signerLine{trustTestLine(fresh, "ds", "fresh")}}), nil, k.r, fresh)
	st := trustTestStore(t, ours, 5)
	// a crash after the evidence was written and before the log was: the
	// switch is made at the next start
	half := trustTestStore(t, ours, 5)
	if err := appendEntries(half.path("evidence"), append(theirs.raws[2:3:3], ours.raws[2:]...)); err != nil {
		t.Fatal(err)
	}
	if n, err := st.add(theirs.raws[2]); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for _, s := range []*trustStore{st, trustTestOpen(t, st.dir), trustTestOpen(t, half.dir), trustTestOpen(t, half.dir)} {
		if s.state().head() != theirs.state.head() || trustTestNames(s.state()) != "" || len(s.records(0, 9)) != 3 {
			t.Error(s.state().seq(), trustTestNames(s.state()), len(s.records(0, 9)))
		}
		if len(s.tips()) != 2 || !s.knows(logTip{4, ours.state.head()}) {
			t.Error("the loser is not kept")
		}
		if r, err := s.fsck(); err != nil || len(r.found) != 0 || r.records != 3 || r.beside != 3 {
			t.Error(r, err)
		}
	}
}

// A branch given up is evidence however long it is.
func TestTrustStoreLongEvidence(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	ours, theirs := k.branch(), k.branch()
	for i := range maxBeside + 5 {
		ours.update("attic", strings.Repeat("x", i%30+1), k.a)
	}
	fresh := trustTestKey("fresh")
	theirs.ok(theirs.text(opRecover{0, []signerLine{trustTestLine(fresh, "ds", "fresh")}}), nil, k.r, fresh)
	st := trustTestStore(t, ours, len(ours.raws))
	if _, err := st.add(theirs.raws[2]); err != nil {
		t.Fatal(err)
	}
	again := trustTestOpen(t, st.dir)
	if notes := trustTestNotes(again); len(*notes) != 0 || !again.knows(logTip{ours.state.seq(), ours.state.head()}) {
		t.Error(*notes)
	}
	if r, err := again.fsck(); err != nil || len(r.found) != 0 || r.beside != maxBeside+5 {
		t.Error(r, err)
	}
}

func TestTrustStoreFsck(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("a")
	ours, theirs := k.branch(), k.branch()
	ours.addDevice("b")
	theirs.revokeDevice("a", k.b)
	fresh := func() *trustStore {
		st := trustTestStore(t, ours, 3)
		if _, err := st.add(theirs.raws[2]); codeOf(err) != "fork" {
			t.Fatal(err)
		}
		return st
	}
	if _, err := trustTestOpen(t, t.TempDir()).fsck(); err == nil || hintOf(err) == "" {
		t.Error(err)
	}
	if r, err := fresh().fsck(); err != nil || len(r.found) != 0 || r.records != 3 || r.beside != 1 {
		t.Error(r, err)
	}
	forged := func(raw []byte) []byte {
		b := bytes.Clone(raw)
		b[len(b)-5] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		change func(st *trustStore) error
		want   string
	}{
		"signature in the log": {func(st *trustStore) error {
			return replaceEntries(st.path("log"), [][]byte{ours.raws[0], ours.raws[1], forged(ours.raws[2])})
		}, "record 2: signature of statement 2"},
		"signature beside it": {func(st *trustStore) error {
			return replaceEntries(st.path("evidence"), [][]byte{forged(theirs.raws[2])})
		}, "record 0: signature of statement 2"},
		"damage": {func(st *trustStore) error {
			b, err := os.ReadFile(st.path("log"))
			b[60] ^= 1
			return cmpOr(err, os.WriteFile(st.path("log"), b, 0o600))
		}, "damaged entry at byte 0"},
		"order": {func(st *trustStore) error {
			return replaceEntries(st.path("log"), [][]byte{ours.raws[0], ours.raws[2]})
		}, "statement 2, and the log ends at 0"},
		"twice": {func(st *trustStore) error {
			return replaceEntries(st.path("log"), append(ours.raws[:3:3], ours.raws[1]))
		}, "wrong place"},
		"shorter": {func(st *trustStore) error {
			return cmpOr(os.Remove(st.path("evidence")), replaceEntries(st.path("log"), ours.raws[:2]))
		}, "ends at statement 1, and this program uses it up to 2"},
		"keys": {func(st *trustStore) error {
			return os.WriteFile(filepath.Join(st.dir, "authorized_keys"), nil, 0o600)
		}, "authorized_keys does not say"},
		"hosts": {func(st *trustStore) error {
			return os.Remove(filepath.Join(st.dir, "known_hosts"))
		}, "known_hosts does not say"},
	} {
		st := fresh()
		if err := c.change(st); err != nil {
			t.Fatal(err)
		}
		r, err := st.fsck()
		if err != nil || len(r.found) == 0 || !strings.Contains(r.found[0].Error(), c.want) {
			t.Errorf("%s: %v %v, want %q", name, r.found, err, c.want)
		}
	}
}

func cmpOr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
