package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// coordTestOpen opens a store in dir; whatever it reports fails the test.
func coordTestOpen(t testing.TB, dir, signup string) *coordStore {
	t.Helper()
	s, err := openCoordStore(dir, signup, func(format string, args ...any) {
		t.Errorf("the store reports: "+format, args...)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func coordTestFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestCoordStoreClaim(t *testing.T) {
	dir := t.TempDir()
	claim := coordTestOpen(t, dir, signupClaim).unusedClaim()
	if claim == (claimSecret{}) {
		t.Fatal("the first start drew no claim")
	}
	if coordTestOpen(t, dir, signupOpen).unusedClaim() != (claimSecret{}) {
		t.Error("there is a claim where anyone may sign up")
	}
	s := coordTestOpen(t, dir, signupClaim)
	if s.unusedClaim() != claim {
		t.Fatal("the second start has another claim")
	}
	a, b := newCoordTestAcct(t, presTestIdentity(t).keys), newCoordTestAcct(t, presTestIdentity(t).keys)
	for _, wrong := range []claimSecret{{}, {1}} {
		if _, err := s.create(wrong, a.log, new(ownerState), coordTestNow); codeOf(err) != "claim-unknown" {
			t.Errorf("claim %x: %v", wrong, err)
		}
	}
	for range 2 { // and again, for a lost answer
		if _, err := s.create(claim, a.log, new(ownerState), coordTestNow); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.create(claim, b.log, new(ownerState), coordTestNow); codeOf(err) != "claim-unknown" {
		t.Errorf("a second account by one claim: %v", err)
	}
	s = coordTestOpen(t, dir, signupClaim)
	if s.unusedClaim() != (claimSecret{}) {
		t.Error("the used claim came back, or a new one was drawn")
	}
	if _, err := s.create(claimSecret{}, b.log, new(ownerState), coordTestNow); codeOf(err) != "claim-unknown" {
		t.Errorf("an account by no claim: %v", err)
	}
	if _, err := coordTestOpen(t, dir, signupClosed).create(claim, b.log, new(ownerState), coordTestNow); codeOf(err) != "signup-closed" {
		t.Errorf("where nobody may sign up: %v", err)
	}
	if _, err := coordTestOpen(t, dir, signupOpen).create(claimSecret{}, b.log, new(ownerState), coordTestNow); err != nil {
		t.Errorf("where anyone may sign up: %v", err)
	}
}

func TestCoordStoreCreateAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	s := coordTestOpen(t, dir, signupClaim)
	a := newCoordTestAcct(t, presTestIdentity(t).keys)
	other := newCoordTestAcct(t, presTestIdentity(t).keys)
	for name, records := range map[string][][]byte{
		"no record":        nil,
		"junk":             {[]byte("junk")},
		"without genesis":  a.log[1:],
		"of two accounts":  {a.log[0], other.log[1]},
		"a bad signature":  {a.log[0], append(bytes.Clone(a.log[1][:len(a.log[1])-1]), a.log[1][len(a.log[1])-1]^1)},
		"genesis is wrong": {append(bytes.Clone(a.log[0][:len(a.log[0])-1]), a.log[0][len(a.log[0])-1]^1)},
	} {
		if _, err := s.create(s.unusedClaim(), records, new(ownerState), coordTestNow); err == nil {
			t.Errorf("%s: an account was made", name)
		}
	}
	if files := coordTestFiles(t, dir); !reflect.DeepEqual(files, []string{"claim"}) || len(s.list()) != 0 {
		t.Errorf("left behind: %v", files)
	}
	if _, err := s.create(s.unusedClaim(), a.log[:1], new(ownerState), coordTestNow); err != nil {
		t.Fatal(err)
	}
	if _, err := s.create(claimSecret{}, a.log, new(ownerState), coordTestNow); codeOf(err) != "stale-head" {
		t.Errorf("made again with a record more: %v", err)
	}
}

// What a kill at each step of create, append and join leaves behind.
func TestCoordStoreAfterKills(t *testing.T) {
	dir := t.TempDir()
	s := coordTestOpen(t, dir, signupClaim)
	claim := s.unusedClaim()
	a := newCoordTestAcct(t, presTestIdentity(t).keys)
	acct, err := s.create(claim, a.log, new(ownerState), coordTestNow)
	if err != nil {
		t.Fatal(err)
	}
	if err := acct.addTicket(ticketHash{1}, ticketLife, ticketWish{}, coordTestNow); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.ReadFile(acct.logFile())
	if err != nil {
		t.Fatal(err)
	}
	base := "accounts/" + a.id().String()
	write("claim", base32Lower.EncodeToString(claim[:])+"\n") // killed before the claim was removed
	write("accounts/.new-123/log", string(log[:40]))          // killed while an account was built
	write(base+"/.waiting.tmp77", "half")                     // killed while the list was written
	write(base+"/log", string(log)+string(log[:100]))         // killed while a record was written

	s = coordTestOpen(t, dir, signupClaim)
	if s.unusedClaim() != (claimSecret{}) {
		t.Error("the used claim is good again")
	}
	want := []string{base + "/claim", base + "/log", base + "/waiting"}
	if files := coordTestFiles(t, dir); !reflect.DeepEqual(files, want) {
		t.Errorf("files %v, want %v", files, want)
	}
	if acct, err = s.account(a.id()); err != nil {
		t.Fatal(err)
	}
	if state, wait := acct.snapshot(coordTestNow); state.head() != a.state.head() || len(wait.tickets) != 1 {
		t.Errorf("log ends at %d, %d tickets", state.seq(), len(wait.tickets))
	}
	if _, changed, err := acct.append(a.addDevice(presTestIdentity(t).keys, "next", "server"), coordTestNow); err != nil || !changed {
		t.Fatal(err)
	}
	got, err := acct.records(0, never)
	if err != nil || !bytes.Equal(bytes.Join(got, nil), bytes.Join(a.log, nil)) {
		t.Errorf("%d records, want %d; %v", len(got), len(a.log), err)
	}
}

func TestCoordStoreDamagedAccountStopsNoOther(t *testing.T) {
	dir := t.TempDir()
	s := coordTestOpen(t, dir, signupOpen)
	var accts []*coordTestAcct
	for range 3 {
		a := newCoordTestAcct(t, presTestIdentity(t).keys)
		if _, err := s.create(claimSecret{}, a.log, new(ownerState), coordTestNow); err != nil {
			t.Fatal(err)
		}
		accts = append(accts, a)
	}
	spoil := func(a *coordTestAcct, f func(log []byte) []byte) {
		t.Helper()
		file := filepath.Join(dir, "accounts", a.id().String(), "log")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, f(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spoil(accts[0], func(b []byte) []byte { b[60] ^= 1; return b })
	spoil(accts[1], func([]byte) []byte { return nil })
	var said []string
	s, err := openCoordStore(dir, signupOpen, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"log-corrupt", "log-corrupt", ""} {
		if _, err := s.account(accts[i].id()); codeOf(err) != want {
			t.Errorf("account %d: %v", i, err)
		}
	}
	if len(said) != 2 {
		t.Errorf("reported: %q", said)
	}
	if _, err := s.create(claimSecret{}, accts[0].log, new(ownerState), coordTestNow); codeOf(err) != "log-corrupt" {
		t.Errorf("made again over what is damaged: %v", err)
	}
}

func TestCoordStoreDamagedWaitingList(t *testing.T) {
	dir := t.TempDir()
	s := coordTestOpen(t, dir, signupOpen)
	a := newCoordTestAcct(t, presTestIdentity(t).keys)
	acct, err := s.create(claimSecret{}, a.log, new(ownerState), coordTestNow)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(acct.waitingFile(), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said []string
	s, err = openCoordStore(dir, signupOpen, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
	if err != nil || len(said) != 1 || !strings.Contains(said[0], "forgotten") {
		t.Fatalf("%v, reported: %q", err, said)
	}
	if _, err := s.account(a.id()); err != nil {
		t.Error(err)
	}
}

// A log that was changed under a running coordinator is not written to.
func TestCoordAppendToChangedLog(t *testing.T) {
	s := coordTestOpen(t, t.TempDir(), signupOpen)
	a := newCoordTestAcct(t, presTestIdentity(t).keys)
	acct, err := s.create(claimSecret{}, a.log, new(ownerState), coordTestNow)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(acct.logFile(), 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := acct.append(a.addDevice(presTestIdentity(t).keys, "next", "server"), coordTestNow); codeOf(err) != "log-corrupt" {
		t.Errorf("%v", err)
	}
}

func coordTestWaiting() waitingList {
	return waitingList{
		[]waitingTicket{{coordTest32(0xaa), 900}},
		[]pendingJoin{{publicKeys{bytes.Repeat([]byte{0xaa}, 32), coordTest32(0xbb)}, coordTest32(0xcc), "a", "", coordTest32(0xdd), 5, coordTestAddr}},
	}
}

func TestWaitingListBytes(t *testing.T) {
	b := coordTestWaiting().append(nil)
	want := unhex(t, "01 0001"+coordTestA+"0000000000000384"+
		"01"+coordTestA+coordTestB+coordTestC+"01 61 00"+coordTestD+"0000000000000005"+coordTestAddrX)
	if !bytes.Equal(b[:len(b)-32], want) {
		t.Errorf("%x, want %x and a sum", b, want)
	}
	if w, err := parseWaiting(b); err != nil || !reflect.DeepEqual(w, coordTestWaiting()) {
		t.Errorf("parsed %+v, %v", w, err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := parseWaiting(bad); err == nil {
			t.Errorf("byte %d changed, and nothing is said", i)
		}
		if _, err := parseWaiting(b[:i]); err == nil {
			t.Errorf("cut at byte %d, and nothing is said", i)
		}
	}
}

func FuzzParseWaiting(f *testing.F) {
	b := coordTestWaiting().append(nil)
	f.Add(b[:len(b)-32])
	f.Add(unhex(f, "01 0000 00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := hashStatement(body) // any SHA-256
		w, err := parseWaiting(append(bytes.Clone(body), sum[:]...))
		if err != nil {
			return
		}
		again, err := parseWaiting(w.append(nil))
		if err != nil || !reflect.DeepEqual(w, again) {
			t.Fatalf("%+v, written and parsed again: %+v, %v", w, again, err)
		}
	})
}
