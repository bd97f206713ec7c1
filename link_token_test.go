package main

import (
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestLinkTokensGrowOld: a link outlives the token that it came with, and one
// that the device has forgotten stops one verb at most.
func TestLinkTokensGrowOld(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	attic.run(defaultHold)
	c := w.laptop.client()
	want := func(code string) {
		t.Helper()
		if out, err := w.exec(c, "attic", "echo in"); codeOf(err) != code || code == "" && out != "in\n" {
			t.Fatalf("got %q, %v; want code %q", out, err, code)
		}
	}
	want("")
	links := c.node.liveLinks()
	if len(links) != 1 {
		t.Fatalf("%d links", len(links))
	}
	l := links[0]
	old := sessionToken{1} // the device does not know it
	l.setToken(time.Now().Add(-tokenTTL), old, tokenTTL, 0)
	want("")
	// A machine that has slept: only its wall clock has gone on.
	l.setToken(time.Now().Round(0).Add(-tokenTTL), old, tokenTTL, 0)
	want("")
	l.setToken(time.Now(), old, 0, 0)
	want("token-unknown")
	want("")
}

// TestLinkTokensOfTheDying: a device counts a connection until all that it hung
// up on is gone, and new ones come by the same link meanwhile.
func TestLinkTokensOfTheDying(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	attic.run(defaultHold)
	c := w.laptop.client()
	for range maxPerToken + 1 {
		cl, err := dialSSH(t.Context(), c, "attic", "")
		if err != nil {
			t.Fatal(err)
		}
		s, err := openSession(t.Context(), cl)
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(s.requests)
		s.ch.SendRequest("exec", true, ssh.Marshal(execMsg{"trap '' HUP; echo; sleep 10"}))
		if _, err := s.ch.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		cl.close()
	}
	if out, err := w.exec(c, "attic", "echo in"); err != nil || out != "in\n" {
		t.Errorf("got %q, %v", out, err)
	}
}
