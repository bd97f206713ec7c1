package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func trustTestOpen(t testing.TB, dir string) *trustStore {
	t.Helper()
	st, err := openTrustStore(dir, trustTestClock)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// trustTestNotes collects what a store reports.
func trustTestNotes(st *trustStore) *[]error {
	var notes []error
	st.setLog(func(err error) { notes = append(notes, err) })
	return &notes
}

// A fork is told when it is seen, once, and again by whoever opens the directory.
func TestTrustStoreTellsTroubles(t *testing.T) {
	k := newTrustTestAcct(t)
	ours, theirs := k.branch(), k.branch()
	ours.addDevice("ours")
	theirs.addDevice("theirs")
	theirs.addDevice("more")
	st := trustTestOpen(t, t.TempDir())
	if err := st.setAnchor(trustTestAnchor(k)); err != nil {
		t.Fatal(err)
	}
	notes := trustTestNotes(st)
	if _, err := st.add(ours.raws...); err != nil || len(*notes) != 0 {
		t.Fatal(err, *notes)
	}
	for _, raw := range theirs.raws[1:] {
		st.add(raw)
		if len(*notes) != 1 || codeOf((*notes)[0]) != "fork" {
			t.Error(*notes)
		}
	}
	if notes := trustTestNotes(trustTestOpen(t, st.dir)); len(*notes) != 1 {
		t.Error(*notes)
	}
}

func trustTestRead(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTrustStoreKeepsTheLog(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("laptop", "client")
	k.revokeDevice("attic", k.b)
	dir := t.TempDir()
	st := trustTestOpen(t, dir)
	if _, ok := st.anchor(); ok || st.state() != nil || st.records(0, 9) != nil {
		t.Error("an empty directory has an account")
	}
	if _, err := os.Stat(filepath.Join(dir, "trust")); err == nil {
		t.Error("files were made before there is an account")
	}
	if _, err := st.add(k.raws...); err == nil || hintOf(err) == "" {
		t.Error("records without an account:", err)
	}
	if err := st.setAnchor(trustTestAnchor(k)); err != nil {
		t.Fatal(err)
	}
	if n, err := st.add(k.raws[:2]...); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := st.add(k.raws...); n != 2 || err != nil { // known ones are skipped
		t.Fatal(n, err)
	}
	for _, s := range []*trustStore{st, trustTestOpen(t, dir)} {
		a, ok := s.anchor()
		if !ok || a.checkSame(trustTestAnchor(k)) != nil {
			t.Error("anchor", a)
		}
		if got := trustTestNames(s.state()); got != "laptop" || s.state().head() != k.state.head() {
			t.Error(got)
		}
		got := s.records(1, 99)
		if len(got) != 3 || !bytes.Equal(got[0], k.raws[1]) || len(s.records(4, 9)) != 0 {
			t.Error("records", len(got))
		}
		if d, _ := s.state().device(trustTestID("attic")); !d.revoked || d.revokedSeq != 3 {
			t.Error(d)
		}
	}
	for _, name := range []string{"trust", "trust/anchor", "trust/log", "authorized_keys", "known_hosts"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Error(name, info.Mode(), err)
		}
	}
}

// The first bad record ends an add; what stood before it is kept.
func TestTrustStoreStopsAtTheFirstBadRecord(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("a")
	bad := k.sign(k.text(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), trustTestGrant("x")}), k.b)
	k.addDevice("b")
	st := trustTestStore(t, k, 1)
	n, err := st.add(k.raws[1], bad, k.raws[2])
	if n != 1 || codeOf(err) != "no-power" || trustTestNames(trustTestOpen(t, st.dir).state()) != "a" {
		t.Error(n, err)
	}
	if n, err := st.add(k.raws[1], k.raws[1][:40]); n != 0 || codeOf(err) != "record-malformed" {
		t.Error(n, err)
	}
}

func TestTrustStoreAnchor(t *testing.T) {
	k := newTrustTestAcct(t)
	a := trustTestAnchor(k)
	text := string(a.append(nil))
	back, err := parseAnchor([]byte(text))
	if err != nil || string(back.append(nil)) != text || back.acct != a.acct || back.coordAddr != a.coordAddr ||
		back.coordKeys.coordID() != a.coordKeys.coordID() {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{"-v1", "-v2"}, {"acct ", "acct  "}, {"acct ", ""}, {"acct ", "Acct "}, {"coordinator ", "coordinator  "}, {"coordinator", "coord"},
		{":7722", ""}, {":7722", ":77:22"}, {"=\n", "\n"}, {"= ", " "}, {"=\n", "=\n\n"}, {"=\n", "= more\n"},
		{a.acct.String(), strings.Repeat("0", 64)}, {"acct", "\nacct"},
	} {
		if bad := strings.Replace(text, c[0], c[1], 1); bad == text {
			t.Error(c)
		} else if _, err := parseAnchor([]byte(bad)); err == nil {
			t.Errorf("accepted: %q", bad)
		}
	}
	st := trustTestStore(t, k, 1)
	if err := st.setAnchor(a); err != nil {
		t.Error("the same again:", err)
	}
	moved := a
	moved.coordAddr = "elsewhere:1"
	if err := st.setAnchor(moved); err == nil || hintOf(err) == "" {
		t.Error("another coordinator:", err)
	}
	moved.coordAddr = "no port"
	empty := trustTestOpen(t, t.TempDir())
	if err := empty.setAnchor(moved); err == nil {
		t.Error("an anchor without a port")
	}
	if _, ok := trustTestOpen(t, empty.dir).anchor(); ok {
		t.Error("a bad anchor was written")
	}
	other := trustTestAnchor(newTrustTestAcct(t))
	if err := st.setAnchor(other); codeOf(err) != "wrong-account" || hintOf(err) == "" {
		t.Error(err)
	}
	if got, _ := st.anchor(); got.acct != a.acct || st.state() == nil {
		t.Error("the pin has changed")
	}
	if err := os.WriteFile(st.path("anchor"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openTrustStore(st.dir, trustTestClock); err == nil {
		t.Error("a damaged anchor is an account")
	}
}

func FuzzParseAnchor(f *testing.F) {
	f.Add(trustTestAnchor(newTrustTestAcct(f)).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAnchor(b); err == nil && !bytes.Equal(a.append(nil), b) {
			t.Fatalf("%q is written as %q", b, a.append(nil))
		}
	})
}

// A log of another account than the anchor's is not used.
func TestTrustStoreLogOfAnotherAccount(t *testing.T) {
	k, other := newTrustTestAcct(t), newTrustTestAcct(t)
	st := trustTestStore(t, k, 1)
	if err := replaceEntries(st.path("log"), other.raws); err != nil {
		t.Fatal(err)
	}
	again := trustTestOpen(t, st.dir)
	notes := trustTestNotes(again)
	if again.state() != nil || len(*notes) != 1 || codeOf((*notes)[0]) != "log-corrupt" {
		t.Error(again.state(), *notes)
	}
}

// Several processes share a directory: none loses what another wrote.
func TestTrustStoreSharedDirectory(t *testing.T) {
	k := newTrustTestAcct(t)
	for i := range 20 {
		k.addDevice(fmt.Sprint("m", i))
	}
	first := trustTestStore(t, k, 1)
	var wg sync.WaitGroup
	for range 4 {
		st := trustTestOpen(t, first.dir)
		wg.Go(func() {
			for i := range k.raws {
				if _, err := st.add(k.raws[:i+1]...); err != nil {
					t.Error(err)
				}
			}
			if st.state().head() != k.state.head() {
				t.Error("one has", st.state().seq())
			}
		})
	}
	wg.Wait()
	changed, err := first.refresh()
	if !changed || err != nil || first.state().head() != k.state.head() {
		t.Error(changed, err)
	}
	if changed, err := first.refresh(); changed || err != nil {
		t.Error("changed once more", err)
	}
	_, raws, err := openEntryLog(first.path("log"), maxRecord)
	if err != nil || len(raws) != len(k.raws) {
		t.Errorf("%d records on disk, %d were written: %v", len(raws), len(k.raws), err)
	}
}

// Two processes take turns: each add builds upon what the other has written.
func TestTrustStoreSharedTurns(t *testing.T) {
	k := newTrustTestAcct(t)
	for i := range 4 {
		k.addDevice(fmt.Sprint("m", i))
	}
	first := trustTestStore(t, k, 1)
	stores := []*trustStore{first, trustTestOpen(t, first.dir)}
	for i, raw := range k.raws[1:] {
		if n, err := stores[(i+1)%2].add(raw); n != 1 || err != nil {
			t.Errorf("record %d: %d appended, %v", i+1, n, err)
		}
	}
}

// Who cannot lock writes nothing: a directory stands where the lock should be.
func TestTrustStoreSharedLock(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	st := trustTestStore(t, k, 1)
	if err := os.Remove(st.path("lock")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(st.path("lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if n, err := st.add(k.raws[1]); n != 0 || err == nil {
		t.Errorf("%d records written without the lock, %v", n, err)
	}
}

func TestTrustStoreWatch(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("laptop")
	st := trustTestStore(t, k, 1)
	var calls []string
	stop := st.watch(func(old, new *trustState) {
		calls = append(calls, trustTestNames(old)+">"+trustTestNames(new))
		st.state() // no lock is held
		st.anchor()
	})
	st.add(k.raws[1])
	st.add(k.raws[1])
	other := trustTestOpen(t, st.dir)
	if _, err := other.add(k.raws[2]); err != nil {
		t.Fatal(err)
	}
	st.refresh()
	stop()
	if err := st.reset(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(calls, " "); got != ">attic attic>attic laptop" {
		t.Error(got)
	}
}

func TestTrustStoreReset(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	st := trustTestStore(t, k, 2)
	other := trustTestOpen(t, st.dir)
	own := filepath.Join(st.dir, localKeysFile)
	if err := os.WriteFile(own, []byte("ssh-ed25519 AAAA mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(st.dir, "known_hosts"), []byte("mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := st.reset(); err != nil {
		t.Fatal(err)
	}
	if _, ok := st.anchor(); ok || st.state() != nil {
		t.Error("the account is still there")
	}
	if trustTestRead(t, own) == "" || trustTestRead(t, filepath.Join(st.dir, "known_hosts")) != "mine\n" {
		t.Error("a person's file is gone")
	}
	if _, err := os.Stat(filepath.Join(st.dir, "authorized_keys")); err == nil {
		t.Error("keys of a forgotten account are still allowed")
	}
	if changed, err := other.refresh(); !changed || err != nil || other.state() != nil {
		t.Error("another process goes on with it:", changed, err)
	}
	if err := st.reset(); err != nil {
		t.Error("twice:", err)
	}
	if err := trustTestOpen(t, t.TempDir()).reset(); err != nil {
		t.Error("with nothing there:", err)
	}
	next := newTrustTestAcct(t)
	if err := st.setAnchor(trustTestAnchor(next)); err != nil {
		t.Error("another account afterwards:", err)
	}
	// the whole directory gone
	if err := os.RemoveAll(st.path("")); err != nil {
		t.Fatal(err)
	}
	if changed, err := st.refresh(); err != nil || changed {
		t.Error(changed, err)
	}
	if _, ok := st.anchor(); ok {
		t.Error("an account without files")
	}
}

// Nothing that has expired comes back to life because a clock went back.
func TestTrustStoreClock(t *testing.T) {
	k := newTrustTestAcct(t)
	dir := t.TempDir()
	now := trustTestNow
	clock := func() time.Time { return now }
	open := func() *trustStore {
		st, err := openTrustStore(dir, clock)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	st := open()
	if st.now(); len(trustTestFiles(t, dir)) != 0 {
		t.Error("a time was saved before there is an account")
	}
	if err := st.setAnchor(trustTestAnchor(k)); err != nil {
		t.Fatal(err)
	}
	if got := st.now(); !got.Equal(now) || trustTestRead(t, st.path("clock")) != "1800000000" {
		t.Error(got)
	}
	now = now.Add(23 * time.Hour) // not again within a day
	if got := st.now(); !got.Equal(now) || trustTestRead(t, st.path("clock")) != "1800000000" {
		t.Error(got)
	}
	now = now.Add(time.Hour)
	st.now()
	if got := trustTestRead(t, st.path("clock")); got != "1800086400" {
		t.Error(got)
	}
	now = time.Unix(1000, 0)
	for _, s := range []*trustStore{st, open()} {
		if got := s.now(); got.Unix() != 1800086400 {
			t.Error("the clock went back to", got)
		}
	}
	fresh, err := openTrustStore(t.TempDir(), clock)
	if err != nil {
		t.Fatal(err)
	}
	if got := fresh.now().Unix(); got < oldestNow {
		t.Error("before this program was made:", got)
	}
	for _, junk := range []string{"", "x", "-5", "99999999999999999999999", "9999999999999999"} {
		if err := os.WriteFile(st.path("clock"), []byte(junk), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := open().now().Unix(); got < oldestNow || got > trustTestNow.Unix() {
			t.Errorf("clock %q: %d", junk, got)
		}
	}
}

// A clock that was never set does not hold the present back for the future.
func TestTrustStoreUnsetClock(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	st, err := openTrustStore(t.TempDir(), func() time.Time { return time.Unix(77, 0) })
	if err != nil {
		t.Fatal(err)
	}
	if err := st.setAnchor(trustTestAnchor(k)); err != nil {
		t.Fatal(err)
	}
	if n, err := st.add(k.raws...); n != 2 || err != nil {
		t.Error(n, err)
	}
}

// A record from the future waits on disk, removes at once, and counts when its
// time has come, in whichever process.
func TestTrustStoreFuture(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("cellar")
	now := trustTestNow
	st, err := openTrustStore(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	if err := st.setAnchor(trustTestAnchor(k)); err != nil {
		t.Fatal(err)
	}
	raw := k.sign(k.edit(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "lost"}, func(s *statement) { s.time += 90000 }), k.b)
	n, err := st.add(append(k.raws, raw)...)
	if n != 3 || codeOf(err) != "time-future" {
		t.Fatal(n, err)
	}
	again, err := openTrustStore(st.dir, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*trustStore{st, again} {
		if s.state().seq() != 2 || trustTestNames(s.state()) != "cellar" || trustTestTroubles(s.state()) != "time-future" {
			t.Error(s.state().seq(), trustTestNames(s.state()), trustTestTroubles(s.state()))
		}
	}
	now = now.Add(2 * time.Hour)
	if changed, err := again.refresh(); !changed || err != nil || again.state().seq() != 3 || trustTestTroubles(again.state()) != "" {
		t.Error(changed, err, again.state().seq())
	}
	if changed, err := st.refresh(); !changed || err != nil || st.state().seq() != 3 {
		t.Error(changed, err)
	}
}

func trustTestFiles(t *testing.T, dir string) (names []string) {
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// The derived files, to the byte, and read by stock tools.
func TestTrustStoreDerivedFiles(t *testing.T) {
	k := newTrustTestAcct(t)
	add := func(name, roles, users, caps string, expires int64) {
		g := newDeviceGrant(name, strings.Split(roles, ","), strings.Split(users, ","), strings.Split(caps, ","), expires)
		k.ok(k.text(opDeviceAdd{trustTestID(name), trustTestKeys(name), g}), nil, k.a)
	}
	all := strings.Join(deviceCaps, ",")
	add("attic", "server", "root", all, 0)
	add("both", "client,server", "alice", "exec", 0)
	add("late", "client", "*", all, 1900000000)
	add("nopty", "client", "*", "exec,sftp,shell", 0)
	add("narrow", "client", "alice", all, 0)
	add("shy", "client", "*", "pty,sftp,shell", 0)
	add("quiet", "client", "*", "exec,pty,sftp", 0)
	add("poor", "client", "*", "exec,pty,shell", 0)
	add("old", "client,server", "*", all, 0)
	k.revokeDevice("old", k.a)
	st := trustTestStore(t, k, len(k.raws))
	line := func(name string) string {
		return fmt.Sprintf("ssh-ed25519 %s %s.%s\n", b64(trustTestKeys(name).sshKey().Marshal()), name, trustTestID(name))
	}
	host := func(name string) string {
		return fmt.Sprintf("%s.sessio,%s.sessio ssh-ed25519 %s\n", name, trustTestID(name), b64(trustTestKeys(name).sshKey().Marshal()))
	}
	keysFile, hostsFile := filepath.Join(st.dir, "authorized_keys"), filepath.Join(st.dir, "known_hosts")
	check := func(file, want string) {
		t.Helper()
		head, body := "", trustTestRead(t, file)
		for strings.HasPrefix(body, "#") {
			line, rest, _ := strings.Cut(body, "\n")
			head, body = head+line+"\n", rest
		}
		if body != want {
			t.Errorf("%s\n%s\nwant\n%s", file, body, want)
		}
		if !strings.Contains(head, localKeysFile) || strings.Count(head, "\n") != 3 {
			t.Error("head", head)
		}
	}
	check(keysFile, "restrict,pty,port-forwarding "+line("both")+
		`restrict,pty,port-forwarding,expiry-time="20300317174640Z" `+line("late")+
		"restrict "+line("nopty"))
	check(hostsFile, host("attic")+host("both")+"@revoked "+host("old"))
	if out := sshsigTestRun(t, nil, "ssh-keygen", "-lf", keysFile); strings.Count(out, "\n") != 3 {
		t.Error(out)
	}
	if out := sshsigTestRun(t, nil, "ssh-keygen", "-F", "attic.sessio", "-f", hostsFile); !strings.Contains(out, b64(trustTestKeys("attic").sshKey().Marshal())) {
		t.Error(out)
	}
	if out, _ := exec.Command("ssh-keygen", "-F", "old.sessio", "-f", hostsFile).CombinedOutput(); !strings.Contains(string(out), "REVOKED") {
		t.Errorf("%s", out)
	}

	// an edit by hand is reported and replaced, a copy kept
	notes := trustTestNotes(st)
	good := trustTestRead(t, keysFile)
	edited := good + "ssh-ed25519 AAAA evil\n"
	if err := os.WriteFile(keysFile, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	k.addDevice("more")
	if _, err := st.add(k.raws...); err != nil {
		t.Fatal(err)
	}
	if trustTestRead(t, keysFile) != good || trustTestRead(t, keysFile+".edited") != edited {
		t.Error("the edit was not replaced, or not kept")
	}
	if len(*notes) != 1 || !strings.Contains((*notes)[0].Error(), "edited by hand") || !strings.Contains(hintOf((*notes)[0]), localKeysFile) {
		t.Error(*notes)
	}
	// older text of ours is no edit; a file with no head of ours is one
	if len(*notes) != 1 {
		t.Error(*notes)
	}
	if err := os.WriteFile(hostsFile, []byte("a\nb\nc\nd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(keysFile); err != nil {
		t.Fatal(err)
	}
	notes = trustTestNotes(trustTestOpen(t, st.dir))
	if len(*notes) != 1 || trustTestRead(t, keysFile) != good {
		t.Error(*notes)
	}
}
