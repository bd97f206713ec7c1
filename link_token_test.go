package main

import (
	"testing"
	"time"
)

// TestLinkTokensGrowOld: a link outlives the token that it came with, and one
// that the device has forgotten stops one verb at most.
func TestLinkTokensGrowOld(t *testing.T) {
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
	l.setToken(time.Now().Add(-tokenTTL), old, tokenTTL)
	want("")
	// A machine that has slept: only its wall clock has gone on.
	l.setToken(time.Now().Round(0).Add(-tokenTTL), old, tokenTTL)
	want("")
	l.setToken(time.Now(), old, 0)
	want("token-unknown")
	want("")
}
