package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	sessionTestAcct                         = acctID{7}
	sessionTestLaptop, sessionTestPhone     = sessionTestDevice('l'), sessionTestDevice('p')
	sessionTestAttic, sessionTestBasement   = sessionTestDevice('a'), sessionTestDevice('b')
	sessionTestOfAttic, sessionTestOfLaptop = sessionMatch{target: sessionTestAttic}, sessionMatch{client: sessionTestLaptop}
)

// sessionTestDay is the life of its sessions, in seconds.
const sessionTestDay = int64(24 * 3600)

func sessionTestDevice(letter byte) deviceID {
	return deviceID("d" + strings.Repeat(string(letter), idLen-1))
}

// sessionTestOpen opens a store; whatever it reports fails the test.
func sessionTestOpen(t testing.TB, dir string, now time.Time) *sessionStore {
	t.Helper()
	st, err := openSessionStore(dir, now, func(format string, args ...any) { t.Errorf("the store reports: "+format, args...) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.log.close() })
	return st
}

// sessionTestMade is the n-th session of the laptop in the attic, of a day.
func sessionTestMade(n int) *coordSession {
	s := &coordSession{acct: sessionTestAcct, client: sessionTestLaptop, target: sessionTestAttic,
		made: coordTestNow.Unix(), expires: coordTestNow.Unix() + sessionTestDay, hash: [32]byte{1}}
	binary.BigEndian.PutUint32(s.id[:], uint32(n))
	return s
}

// all are an account's sessions, the one with the lowest id first.
func (st *sessionStore) all(acct acctID) []*coordSession {
	list := st.list(acct, func(*coordSession) bool { return true })
	sortBy(list, func(a, b *coordSession) int { return bytes.Compare(a.id[:], b.id[:]) })
	return list
}

func (st *sessionStore) mustRevoke(t testing.TB, which sessionMatch, want int, targets ...deviceID) {
	t.Helper()
	n, told, err := st.revoke(sessionTestAcct, which, coordTestNow)
	slices.Sort(told)
	if err != nil || n != want || !slices.Equal(told, targets) {
		t.Fatalf("revoking %+v: %d at %v, %v; want %d at %v", which, n, told, err, want, targets)
	}
}

func (st *sessionStore) mustFlush(t testing.TB) {
	t.Helper()
	if err := st.flush(); err != nil {
		t.Fatal(err)
	}
}

// What was made is there again after a restart; the token is nowhere on disk.
func TestCoordSessionsAreKept(t *testing.T) {
	dir := t.TempDir()
	st := sessionTestOpen(t, dir, coordTestNow)
	server := &coordServer{sessions: st, now: func() time.Time { return coordTestNow }}
	token := attackToken()
	server.sessionMade(sessionTestAcct, sessionTestLaptop, sessionTestAttic, token, 3600)
	server.sessionMade(sessionTestAcct, sessionTestLaptop, sessionTestBasement, token, 3600) // its call goes on to another
	server.sessionMade(sessionTestAcct, sessionTestLaptop, sessionTestAttic, token, 3600)    // and back: known
	server.sessionMade(acctID{8}, sessionTestPhone, sessionTestAttic, attackToken(), 0)
	st.mustFlush(t)
	before := [][]*coordSession{st.all(sessionTestAcct), st.all(acctID{8})}
	if len(before[0]) != 2 || before[0][0].expires != coordTestNow.Unix()+3600 || before[0][0].id != token.id() || len(before[1]) != 1 || before[1][0].expires != 0 {
		t.Fatalf("%+v", before)
	}
	again := sessionTestOpen(t, dir, coordTestNow)
	if got := [][]*coordSession{again.all(sessionTestAcct), again.all(acctID{8})}; len(got[0]) != 2 || !reflect.DeepEqual(got[1], before[1]) {
		t.Errorf("after a restart %+v, not %+v", got, before)
	}
	if again.count != 3 || again.entries != 3 {
		t.Errorf("%d sessions, %d entries", again.count, again.entries)
	}
	b, err := os.ReadFile(filepath.Join(dir, "sessions"))
	if err != nil || bytes.Contains(b, token[:8]) {
		t.Errorf("the file has a token in it, %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "sessions"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestCoordSessionsExpire(t *testing.T) {
	at := func(seconds int64) time.Time { return coordTestNow.Add(time.Duration(seconds) * time.Second) }
	dir := t.TempDir()
	st := sessionTestOpen(t, dir, coordTestNow)
	endless, used := sessionTestMade(2), sessionTestMade(3)
	endless.expires = 0
	for _, s := range []*coordSession{sessionTestMade(1), endless, used} {
		st.made(s)
	}
	left := func(now time.Time, want ...byte) {
		t.Helper()
		if err := st.reap(now); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for _, s := range st.all(sessionTestAcct) {
			got = append(got, s.id[3])
		}
		if !bytes.Equal(got, want) || st.count != len(want) {
			t.Fatalf("at %v: %v left, %d counted, want %v", now, got, st.count, want)
		}
	}
	left(coordTestNow.Add(-10*365*24*time.Hour), 1, 2, 3) // the clock has stepped back
	left(at(sessionTestDay-1), 1, 2, 3)
	st.reported(sessionTestAcct, sessionTestAttic, map[sessionID]deviceID{used.id: sessionTestLaptop}, at(sessionTestDay-1))
	left(at(sessionTestDay), 2, 3) // at equality it is over; one that runs stays
	left(at(-sessionTestDay), 2, 3)
	left(at(sessionTestDay+sessionInUse), 2)
	left(at(1000*sessionTestDay), 2) // without end
	if n, _, err := st.revoke(sessionTestAcct, sessionMatch{all: true}, at(0)); n != 1 || err != nil {
		t.Fatalf("%d revoked, %v", n, err)
	}
	left(at(sessionTestDay-1), 2) // so that its device cannot bring it back
	left(at(sessionTestDay))
	again := sessionTestOpen(t, dir, at(-sessionTestDay))
	if len(again.due(sessionTestAcct, sessionTestAttic, at(0))) != 1 {
		t.Error("the order is forgotten with the session")
	}
	if err := again.reap(at(orderLife)); err != nil || len(again.accts) != 0 {
		t.Errorf("orders are kept for ever: %v, %v", again.accts, err)
	}
}

// 2,500 are reaped in one go, at start too, and the file is written anew.
func TestCoordSessionsReapedByThousands(t *testing.T) {
	const many = 2500
	for _, start := range []bool{false, true} {
		dir := t.TempDir()
		st := sessionTestOpen(t, dir, coordTestNow)
		for i := range many {
			st.made(sessionTestMade(i))
		}
		late := sessionTestMade(many)
		late.expires++
		st.made(late)
		st.mustFlush(t)
		over := coordTestNow.Add(24 * time.Hour)
		if start {
			st.log.close()
			st = sessionTestOpen(t, dir, over)
		} else if err := st.reap(over); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "sessions"))
		if got := st.all(sessionTestAcct); err != nil || len(got) != 1 || got[0].id != late.id || info.Size() > 300 {
			t.Errorf("at start %v: %d left in %d bytes, %v", start, len(got), info.Size(), err)
		}
		st.made(sessionTestMade(1)) // into the new file
		st.mustFlush(t)
		if again := sessionTestOpen(t, dir, over.Add(-time.Hour)); again.count != 2 {
			t.Errorf("at start %v: %d after a restart", start, again.count)
		}
	}
}

func TestCoordSessionsRevoked(t *testing.T) {
	dir := t.TempDir()
	st := sessionTestOpen(t, dir, coordTestNow)
	for i := range 12 {
		s := sessionTestMade(i)
		if i%2 == 1 {
			s.client = sessionTestPhone
		}
		if i >= 6 {
			s.target = sessionTestBasement
		}
		st.made(s)
	}
	for _, none := range []sessionMatch{{}, {id: "ffffffff"}, {client: sessionTestDevice('x')}, {target: sessionTestLaptop}} {
		st.mustRevoke(t, none, 0)
	}
	if st.entries != 0 {
		t.Error("revoking nothing has written")
	}
	one := sessionMatch{id: "00000000"}
	st.mustRevoke(t, one, 1, sessionTestAttic)
	st.mustRevoke(t, one, 0) // twice
	if n, _, err := st.revoke(acctID{9}, sessionMatch{all: true}, coordTestNow); n != 0 || err != nil {
		t.Errorf("of another account: %d, %v", n, err)
	}
	st.mustRevoke(t, sessionMatch{client: sessionTestPhone, target: sessionTestBasement}, 3, sessionTestBasement)
	st.mustRevoke(t, sessionTestOfAttic, 5, sessionTestAttic)
	st.mustRevoke(t, sessionMatch{all: true}, 3, sessionTestBasement)
	st.mustRevoke(t, sessionMatch{all: true}, 0)
	st.made(sessionTestMade(77)) // another one is good
	st.mustFlush(t)
	for _, st := range []*sessionStore{st, sessionTestOpen(t, dir, coordTestNow)} {
		good := st.list(sessionTestAcct, func(s *coordSession) bool { return s.revoked == 0 })
		if len(good) != 1 || good[0].id[3] != 77 || st.count != 13 {
			t.Errorf("good are %+v", good)
		}
		// An order of a whole device makes the earlier ones needless.
		for _, target := range []deviceID{sessionTestAttic, sessionTestBasement} {
			if due := st.due(sessionTestAcct, target, coordTestNow); len(due) != 1 || !due[0].msg.all {
				t.Errorf("%s is told %+v", target, due)
			}
		}
	}
}

// An order stays until its device has acknowledged it, over restarts and over
// the writing anew of the log, and hits nothing that came after it.
func TestCoordSessionsOrdersStay(t *testing.T) {
	dir := t.TempDir()
	st := sessionTestOpen(t, dir, coordTestNow)
	for i := range 3 * maxOrders {
		st.made(sessionTestMade(i))
	}
	st.mustRevoke(t, sessionTestOfLaptop, 3*maxOrders, sessionTestAttic)
	fresh := sessionTestMade(9999)
	st.made(fresh)
	st.mustFlush(t)
	order := st.due(sessionTestAcct, sessionTestAttic, coordTestNow)[0]
	for range 3 {
		st.log.close()
		st = sessionTestOpen(t, dir, coordTestNow)
		due := st.due(sessionTestAcct, sessionTestAttic, coordTestNow)
		if len(due) != 1 || !reflect.DeepEqual(due[0], order) {
			t.Fatalf("%+v, not %+v", due, order)
		}
		if good := st.list(sessionTestAcct, func(s *coordSession) bool { return s.revoked == 0 }); len(good) != 1 || good[0].id != fresh.id {
			t.Fatalf("%d are good", len(good))
		}
		st.mu.Lock()
		for k := range st.accts[sessionTestAcct].sessions { // as if they had expired
			if k.id != fresh.id {
				delete(st.accts[sessionTestAcct].sessions, k)
				st.count--
			}
		}
		st.mu.Unlock()
		st.mustFlush(t)
		if st.entries != 2 {
			t.Fatalf("%d entries after the log was written anew", st.entries)
		}
	}
	// Sent, it is not sent again for some seconds; the clock may step back.
	st.sent(st.due(sessionTestAcct, sessionTestAttic, coordTestNow)[0], coordTestNow)
	for after, want := range map[time.Duration]int{0: 0, orderAgain - 1: 0, orderAgain: 1, -time.Second: 1} {
		if due := st.due(sessionTestAcct, sessionTestAttic, coordTestNow.Add(after)); len(due) != want {
			t.Errorf("%d due after %v", len(due), after)
		}
	}
	st.done(sessionTestAcct, order.msg.order)
	st.mustFlush(t)
	for _, st := range []*sessionStore{st, sessionTestOpen(t, dir, coordTestNow)} {
		if due := st.due(sessionTestAcct, sessionTestAttic, coordTestNow.Add(time.Hour)); len(due) != 0 {
			t.Errorf("acknowledged, and still %+v", due)
		}
	}
}

// A device that still runs what it has not been told to end brings nothing back.
func TestCoordSessionsReported(t *testing.T) {
	st := sessionTestOpen(t, t.TempDir(), coordTestNow)
	own := sessionID{9}
	runs := map[sessionID]deviceID{own: sessionTestPhone}
	st.reported(sessionTestAcct, sessionTestAttic, runs, coordTestNow)
	st.reported(sessionTestAcct, sessionTestAttic, runs, coordTestNow.Add(time.Minute))
	got := st.all(sessionTestAcct)
	want := coordSession{acct: sessionTestAcct, client: sessionTestPhone, target: sessionTestAttic, id: own,
		made: coordTestNow.Unix(), expires: coordTestNow.Unix() + sessionTestDay, used: coordTestNow.Unix() + 60}
	if len(got) != 1 || *got[0] != want || len(st.queue) != 1 {
		t.Fatalf("%+v, %d to write", got, len(st.queue))
	}
	st.mustRevoke(t, sessionTestOfAttic, 1, sessionTestAttic)
	st.keepOnly(sessionTestAcct, nil)
	if st.count != 0 || len(st.accts) != 0 {
		t.Fatalf("%d sessions of no members", st.count)
	}
	st.made(sessionTestMade(1))
	st.mustRevoke(t, sessionTestOfAttic, 1, sessionTestAttic)
	st.reported(sessionTestAcct, sessionTestAttic, runs, coordTestNow)
	if got := st.list(sessionTestAcct, func(s *coordSession) bool { return s.revoked == 0 }); st.count != 2 || len(got) != 0 {
		t.Errorf("what its device is about to end counts as good: %+v", got)
	}
	// A device that makes sessions up fills neither memory nor disk.
	for i := range 10 * reportBurst {
		st.reported(sessionTestAcct, sessionTestAttic, map[sessionID]deviceID{{1, byte(i), byte(i >> 8)}: sessionTestPhone}, coordTestNow)
	}
	if st.count > 1+reportBurst {
		t.Errorf("%d sessions reported at once are kept", st.count)
	}
}

func TestCoordSessionsAreBounded(t *testing.T) {
	st := sessionTestOpen(t, t.TempDir(), coordTestNow)
	first := sessionTestMade(0)
	st.made(first)
	st.reported(sessionTestAcct, sessionTestAttic, map[sessionID]deviceID{first.id: sessionTestLaptop}, coordTestNow.Add(time.Hour))
	for i := range 2 * maxAcctSessions {
		s := sessionTestMade(1 + i)
		s.made += int64(i) / 8
		st.made(s)
		if st.count > maxAcctSessions || len(st.queue) > maxSessionQueue {
			t.Fatalf("%d sessions, %d to write", st.count, len(st.queue))
		}
	}
	list := st.all(sessionTestAcct)
	if list[0].id != first.id || len(list) < maxAcctSessions*15/16 {
		t.Errorf("%d left, the one that is in use first: %v", len(list), list[0].id)
	}
	for i, s := range list[1:] {
		if want := sessionTestMade(2*maxAcctSessions - len(list) + 2 + i).id; s.id != want {
			t.Fatalf("%v is left in the place of %v: not the ones unused the longest went", s.id, want)
		}
	}
	for a := range maxSessions/1000 + 5 {
		for i := range 1000 {
			s := sessionTestMade(i)
			s.acct = acctID{8, byte(a)}
			st.made(s)
		}
	}
	sum := 0
	for id := range st.accts {
		sum += len(st.all(id))
	}
	if sum != st.count || sum > maxSessions || sum < maxSessions*15/16 {
		t.Errorf("%d are there, %d counted", sum, st.count)
	}
}

// Revocations that wait for devices are bounded, and those of a whole device are
// one.
func TestCoordSessionsOrdersAreBounded(t *testing.T) {
	st := sessionTestOpen(t, t.TempDir(), coordTestNow)
	for i := range maxOrders + 1 {
		st.made(sessionTestMade(i))
	}
	for i := range maxOrders {
		st.mustRevoke(t, sessionMatch{id: fmt.Sprintf("%08x", i)}, 1, sessionTestAttic)
	}
	last := sessionMatch{id: fmt.Sprintf("%08x", maxOrders)}
	n, _, err := st.revoke(sessionTestAcct, last, coordTestNow)
	if n != 0 || codeOf(err) != "limit" || hintOf(err) == "" {
		t.Fatalf("one more: %d, %v", n, err)
	}
	if due := st.due(sessionTestAcct, sessionTestAttic, coordTestNow); len(due) != maxOrdersOut {
		t.Errorf("%d at once", len(due))
	}
	st.done(sessionTestAcct, st.due(sessionTestAcct, sessionTestAttic, coordTestNow)[0].msg.order)
	st.mustRevoke(t, last, 1, sessionTestAttic)
	st.made(sessionTestMade(maxOrders + 1)) // what the hint says goes
	st.mustRevoke(t, sessionTestOfAttic, 1, sessionTestAttic)
	if a := st.accts[sessionTestAcct]; len(a.orders) != 1 {
		t.Errorf("%d orders for a device that ends all", len(a.orders))
	}
}

// A revocation that could not be written is none, and what was queued is written
// later.
func TestCoordSessionsDiskFails(t *testing.T) {
	dir := t.TempDir()
	st := sessionTestOpen(t, dir, coordTestNow)
	st.made(sessionTestMade(1))
	st.log.f.Close()
	if n, _, err := st.revoke(sessionTestAcct, sessionMatch{all: true}, coordTestNow); n != 0 || err == nil {
		t.Fatalf("%d revoked on no disk, %v", n, err)
	}
	if st.all(sessionTestAcct)[0].revoked != 0 || len(st.due(sessionTestAcct, sessionTestAttic, coordTestNow)) != 0 || st.flush() == nil {
		t.Fatal("it counts all the same")
	}
	var err error
	if st.log, _, err = openEntryLog(st.file, maxSessionEntry); err != nil {
		t.Fatal(err)
	}
	st.mustRevoke(t, sessionMatch{all: true}, 1, sessionTestAttic)
	if again := sessionTestOpen(t, dir, coordTestNow); again.count != 1 || again.all(sessionTestAcct)[0].revoked == 0 {
		t.Errorf("%+v", again.all(sessionTestAcct))
	}
}

// What a kill leaves of a log that was being written is removed, and a damaged
// log is put aside.
func TestCoordSessionsDamage(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sessions")
	st := sessionTestOpen(t, dir, coordTestNow)
	for i := range 3 {
		st.made(sessionTestMade(i))
		st.mustFlush(t)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+sessionsFresh, whole[:99], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, whole[:len(whole)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if st := sessionTestOpen(t, dir, coordTestNow); st.count != 2 {
		t.Errorf("%d sessions in a log whose end is torn", st.count)
	}
	if got := coordTestFiles(t, dir); !slices.Equal(got, []string{"sessions"}) {
		t.Errorf("files %q", got)
	}
	whole[50] ^= 1
	for name, bad := range map[string][]byte{"a bit is wrong": whole, "not a session": sessionTestLog(t, []byte{entrySession, 1, 2})} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		said := 0
		st, err := openSessionStore(dir, coordTestNow, func(string, ...any) { said++ })
		if err != nil || said != 1 || st.count != 0 {
			t.Fatalf("%s: %v, said %d times", name, err, said)
		}
		st.made(sessionTestMade(5))
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
		if kept, err := os.ReadFile(file + ".damaged"); err != nil || !bytes.Equal(kept, bad) {
			t.Errorf("%s: %d bytes are put aside, %v", name, len(kept), err)
		}
		if st := sessionTestOpen(t, dir, coordTestNow); st.count != 1 {
			t.Errorf("%s: %d sessions after it", name, st.count)
		}
	}
	// An entry of a later program does no harm.
	if err := os.WriteFile(file, sessionTestLog(t, []byte{99, 1}, sessionEntryOf(entrySession, sessionTestMade(1))), 0o600); err != nil {
		t.Fatal(err)
	}
	if st := sessionTestOpen(t, dir, coordTestNow); st.count != 1 {
		t.Errorf("%d sessions beside an entry that is not known", st.count)
	}
}

// sessionTestLog is a log of entries.
func sessionTestLog(t testing.TB, entries ...[]byte) []byte {
	t.Helper()
	b, err := os.ReadFile(flatTestLog(t.(*testing.T), entries))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Who has the device is gone, its sessions are too: those into it, and its own.
func TestCoordSessionsOfADeviceThatIsRevoked(t *testing.T) {
	laptop, attic, phone := presTestIdentity(t).keys, presTestIdentity(t).keys, presTestIdentity(t).keys
	s := newCoordTestServer(t)
	a := newCoordTestAcct(t, laptop)
	a.addDevice(attic, "attic", "server", "client")
	a.addDevice(phone, "phone", "client", "server")
	s.create(a)
	const many = 1500
	for i := range many {
		for j, ends := range [][2]publicKeys{{laptop, attic}, {attic, phone}} {
			m := sessionTestMade(2*i + j)
			m.acct, m.client, m.target = a.id(), ends[0].deviceID(), ends[1].deviceID()
			s.sessions.made(m)
		}
	}
	m := sessionTestMade(9999)
	m.acct, m.client, m.target = a.id(), laptop.deviceID(), phone.deviceID()
	s.sessions.made(m)
	if n, err := s.revokeSessions(a.id(), sessionMatch{target: attic.deviceID()}); n != many || err != nil {
		t.Fatalf("%d revoked, %v", n, err)
	}
	if n := len(s.sessionsOf(a.id())); n != 2*many+1 {
		t.Fatalf("%d sessions", n)
	}
	if _, code := s.ask(laptop, opAppend, &appendMsg{a.id(), a.revoke(attic.deviceID())}); code != "" {
		t.Fatal(code)
	}
	check := func() {
		t.Helper()
		if list := s.sessionsOf(a.id()); len(list) != 1 || list[0].id != m.id.String() {
			t.Errorf("%d sessions are left", len(list))
		}
		if due := s.sessions.due(a.id(), attic.deviceID(), s.now()); len(due) != 0 {
			t.Errorf("a device that is thrown out is to be told %+v", due)
		}
	}
	check()
	if err := s.sessions.close(); err != nil {
		t.Fatal(err)
	}
	s.open(presTestIdentity(t))
	check()
}

func FuzzParseSessionEntry(f *testing.F) {
	o := sessionOrder{acct: sessionTestAcct, target: sessionTestAttic, msg: endMsg{client: sessionTestLaptop, ids: []sessionID{{1}}}, made: 5}
	for kind, m := range map[byte]fielded{entrySession: sessionTestMade(1), entryOrder: &o, entryDone: &o} {
		f.Add(sessionEntryOf(kind, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		st := &sessionStore{accts: map[acctID]*acctSessions{}}
		if st.replay(b) != nil {
			return
		}
		for id, a := range st.accts {
			for _, s := range a.sessions {
				if again, err := parseFields(sessionEntryOf(entrySession, s)[1:], new(coordSession)); err != nil || *again != *s || id != s.acct {
					t.Fatalf("%+v came back as %+v, %v", s, again, err)
				}
			}
			for _, o := range a.orders {
				if again, err := parseFields(sessionEntryOf(entryOrder, o)[1:], new(sessionOrder)); err != nil || !reflect.DeepEqual(again, o) {
					t.Fatalf("%+v came back as %+v, %v", o, again, err)
				}
			}
		}
	})
}

// BenchmarkCoordSessionsOpen is a restart with 10,000 sessions.
func BenchmarkCoordSessionsOpen(b *testing.B) {
	dir := b.TempDir()
	st := sessionTestOpen(b, dir, coordTestNow)
	for i := range 10_000 {
		s := sessionTestMade(i)
		s.acct = acctID{byte(i % 7)}
		st.made(s)
		if i%1000 == 999 {
			st.mustFlush(b)
		}
	}
	for b.Loop() {
		again, err := openSessionStore(dir, coordTestNow, b.Logf)
		if err != nil || again.count != 10_000 {
			b.Fatalf("%d, %v", again.count, err)
		}
		again.log.close()
	}
}
