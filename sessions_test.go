package main

import (
	"context"
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
		release, err := tab.take(at, token, owner)
		if codeOf(err) != code {
			t.Fatalf("take: %v, not %q", err, code)
		}
		return release
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
