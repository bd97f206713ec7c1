package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestSessionsCountAndExpire(t *testing.T) {
	now := time.Now()
	tab := newSessionTable(now)
	alice, mallory := make([]byte, 32), append(make([]byte, 31), 1)
	token := sessionToken{1}
	want := func(at time.Time, owner []byte, code string) func() {
		t.Helper()
		lease, err := tab.take(at, token, owner)
		if codeOf(err) != code {
			t.Fatalf("take: %v, not %q", err, code)
		}
		return lease.release
	}
	want(now, alice, "token-unknown")
	tab.add(now, token, alice, time.Hour)
	tab.add(now, token, mallory, 0) // cannot take it over
	want(now, mallory, "token-unknown")
	var releases []func()
	for range maxPerToken {
		releases = append(releases, want(now, alice, ""))
	}
	want(now, alice, "token-busy")
	releases[0]()
	releases[0]() // counts once
	want(now, alice, "")
	want(now, alice, "token-busy")
	releases[1]()
	want(now.Add(time.Hour), alice, "token-expired")
	releases[2]()
	for range maxPerToken {
		tab.mu.Lock()
		tab.entries[token].live = 0
		tab.mu.Unlock()
	}
	tab.reap(now.Add(2 * time.Hour))
	want(now, alice, "token-unknown")
}

func TestSessionsOfADeviceAreBounded(t *testing.T) {
	now := time.Now()
	tab := newSessionTable(now)
	owner := make([]byte, 32)
	for i := range maxPerDevice {
		token := sessionToken{byte(i)}
		tab.add(now, token, owner, 0)
		if _, err := tab.take(now, token, owner); err != nil {
			t.Fatal(err)
		}
	}
	tab.add(now, sessionToken{255}, owner, 0)
	if _, err := tab.take(now, sessionToken{255}, owner); codeOf(err) != "device-busy" {
		t.Errorf("one more: %v", err)
	}
}

// The token is judged before the device, and a place that is not to be had
// leaves no trace.
func TestSessionsOverTheirLimits(t *testing.T) {
	now := time.Now()
	tab := newSessionTable(now)
	owner := make([]byte, 32)
	taken := 0
	for i := range byte(7) {
		tab.add(now, sessionToken{i}, owner, 0)
		for range maxPerToken {
			_, err := tab.take(now, sessionToken{i}, owner)
			if want := map[bool]string{true: "device-busy"}[taken == maxPerDevice]; codeOf(err) != want {
				t.Fatalf("connection %d: %v, not %q", taken+1, err, want)
			}
			if err == nil {
				taken++
			}
		}
	}
	if n := tab.entries[sessionToken{6}].live; taken != maxPerDevice || n != 2 {
		t.Errorf("%d taken, %d by the last token", taken, n)
	}
	if _, err := tab.take(now, sessionToken{0}, owner); codeOf(err) != "token-busy" {
		t.Errorf("both limits reached: %v", err)
	}
}

func TestSessionsRaceForTheLastPlace(t *testing.T) {
	now := time.Now()
	owner := make([]byte, 32)
	for range 200 {
		tab := newSessionTable(now)
		tab.add(now, sessionToken{1}, owner, 0)
		for range maxPerToken - 1 {
			if _, err := tab.take(now, sessionToken{1}, owner); err != nil {
				t.Fatal(err)
			}
		}
		got := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := tab.take(now, sessionToken{1}, owner)
				got <- err
			}()
		}
		if a, b := <-got, <-got; (a == nil) == (b == nil) {
			t.Fatalf("%v and %v", a, b)
		}
	}
}

func TestSessionsRevoked(t *testing.T) {
	now := time.Now()
	tab := newSessionTable(now)
	alice, bob := make([]byte, 32), append(make([]byte, 31), 1)
	const many = 1500
	for i := range many {
		tab.add(now, sessionToken{1, byte(i), byte(i >> 8)}, alice, 0)
	}
	tab.add(now, sessionToken{2}, bob, 0)
	lease, err := tab.take(now, sessionToken{1}, alice)
	if err != nil {
		t.Fatal(err)
	}
	one := func(token sessionToken, _ [32]byte) bool { return token == sessionToken{1} }
	if n := tab.revoke(one); n != 1 {
		t.Errorf("%d revoked", n)
	}
	select {
	case <-lease.ended:
	default:
		t.Error("its connection does not hear of it")
	}
	if n := tab.revoke(one); n != 0 {
		t.Errorf("%d revoked twice", n)
	}
	lease.release()
	if _, err := tab.take(now, sessionToken{1}, alice); codeOf(err) != "token-revoked" {
		t.Errorf("by a revoked one: %v", err)
	}
	if n := tab.revoke(func(_ sessionToken, owner [32]byte) bool { return owner == [32]byte(alice) }); n != many-1 {
		t.Errorf("%d of a device's %d revoked", n, many-1)
	}
	if _, err := tab.take(now, sessionToken{2}, bob); err != nil {
		t.Errorf("another device's: %v", err)
	}
	tab.reap(now.Add(tokenTTL))
	if n := len(tab.entries); n != 1 { // bob is in
		t.Errorf("%d left after their time", n)
	}
}

// Thousands are forgotten in one go, at the moment that they expire and not before,
// and neither those in use nor by a clock that steps back.
func TestSessionsReaped(t *testing.T) {
	now := time.Now()
	tab := newSessionTable(now)
	owner := make([]byte, 32)
	const many = 2500
	for i := range many {
		tab.add(now, sessionToken{1, byte(i), byte(i >> 8)}, owner, time.Hour)
	}
	tab.add(now, sessionToken{2}, owner, 0) // as long as tokens live
	lease, err := tab.take(now, sessionToken{1}, owner)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		after time.Duration
		left  int
	}{{-24 * time.Hour, many + 1}, {time.Hour - 1, many + 1}, {time.Hour, 2}, {-time.Hour, 2}, {tokenTTL - 1, 2}, {tokenTTL, 1}} {
		tab.reap(now.Add(at.after))
		if n := len(tab.entries); n != at.left {
			t.Fatalf("after %v: %d left, want %d", at.after, n, at.left)
		}
	}
	lease.release()
	if tab.reap(now.Add(tokenTTL)); len(tab.entries) != 0 {
		t.Error("one stays when it is used no more")
	}
	if n := tab.revoke(func(sessionToken, [32]byte) bool { return true }); n != 0 {
		t.Errorf("%d of none revoked", n)
	}
}

// Whatever happens, the counts are those of the connections that there are.
func TestSessionsCountsAreTrue(t *testing.T) {
	now := time.Now()
	tab := newSessionTable(now)
	owner := make([]byte, 32)
	var live []sessionLease
	for i := range 10_000 {
		now = now.Add(time.Second)
		token := sessionToken{byte(rand.IntN(12))}
		switch rand.IntN(10) {
		case 0:
			tab.add(now, token, owner, time.Duration(rand.IntN(1000))*time.Second)
		case 1:
			tab.reap(now)
		case 2:
			if i%50 == 0 {
				tab.revoke(func(t sessionToken, _ [32]byte) bool { return t == token })
			}
		case 3, 4, 5:
			if len(live) > 0 {
				k := rand.IntN(len(live))
				live[k].release()
				live[k].release() // counts once
				live = slices.Delete(live, k, k+1)
			}
		default:
			if lease, err := tab.take(now, token, owner); err == nil {
				live = append(live, lease)
			}
		}
		sum := 0
		for _, e := range tab.entries {
			sum += e.live
			if e.live < 0 || e.live > maxPerToken {
				t.Fatalf("step %d: %d by one token", i, e.live)
			}
		}
		if sum != len(live) || tab.live != len(live) || sum > maxPerDevice {
			t.Fatalf("step %d: %d by tokens, %d in all, %d are there", i, sum, tab.live, len(live))
		}
	}
}

func TestSessionTokenMayComeAfterItsBearer(t *testing.T) {
	tab := newSessionTable(time.Now())
	owner := make([]byte, 32)
	got := make(chan error, 1)
	go func() {
		_, err := tab.await(t.Context(), sessionToken{1}, owner)
		got <- err
	}()
	tab.add(time.Now(), sessionToken{9}, owner, 0)
	tab.add(time.Now(), sessionToken{1}, owner, 0)
	if err := <-got; err != nil {
		t.Error(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := tab.await(ctx, sessionToken{2}, owner); codeOf(err) != "token-unknown" {
		t.Errorf("a token that never comes: %v", err)
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		d    int
	}{{"attic", "attic", 0}, {"atic", "attic", 1}, {"attci", "attic", 1}, {"", "ab", 2}, {"barn", "attic", 5}, {"attik", "attic", 1}} {
		if d := editDistance(c.a, c.b); d != c.d {
			t.Errorf("%s to %s is %d, not %d", c.a, c.b, d, c.d)
		}
	}
}

func TestSayDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		5 * time.Second: "5 s", 119 * time.Second: "119 s", 2 * time.Minute: "2 min", 3 * time.Hour: "3 h", 72 * time.Hour: "3 days",
	} {
		if got := sayDuration(d); got != want {
			t.Errorf("%v is %q, not %q", d, got, want)
		}
	}
}
