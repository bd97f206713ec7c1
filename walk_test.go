package main

import (
	"strings"
	"testing"
)

func TestWalkShellCommandOverADirectPath(t *testing.T) {
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	_, log := attic.run(defaultHold)
	c := w.laptop.client()
	out, err := w.exec(c, "attic", "echo over $SSH_CONNECTION")
	if err != nil || !strings.HasPrefix(out, "over 127.0.0.1 ") {
		t.Fatalf("got %q, %v\n%s", out, err, log)
	}
	links := c.node.linkStatuses()
	if len(links) != 1 || links[0].Kind != "lan" || !links[0].Dialed {
		t.Errorf("links: %+v", links)
	}
}
