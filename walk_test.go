package main

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestWalkShellCommandOverADirectPath(t *testing.T) {
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	_, log := attic.run(defaultHold)
	c := w.laptop.client()
	out, err := w.exec(c, "attic", "echo over $SSH_CONNECTION")
	if err != nil || !strings.Contains(out, " 127.0.0.1 ") {
		t.Fatalf("got %q, %v\n%s", out, err, log)
	}
	links := c.node.linkStatuses()
	if len(links) != 1 || links[0].Path == "" || !links[0].Dialed {
		t.Errorf("links: %+v", links)
	}
}

func TestWalkTrueReasonsWithinASecond(t *testing.T) {
	w := newTestWorld(t)
	never, gone, revoked := w.join("never"), w.join("gone"), w.join("revoked")
	w.join("unsigned")
	for _, m := range []*testMachine{never, gone, revoked} {
		w.signDevice(m, "server")
	}
	stop, _ := gone.run(defaultHold)
	stop()
	revoked.run(defaultHold)
	text, err := buildDeviceRevoke(w.trust.state(), []deviceID{revoked.id.keys.deviceID()}, "lost", time.Now())
	w.publish(text, err)
	for _, c := range []struct{ device, code, text, hint string }{
		{"nevr", "unknown-device", "no such device", "did you mean never?"},
		{"xyzzy", "unknown-device", "no such device", "sessio status"},
		{"unsigned", "unsigned", "not signed yet", "sessio trust sign unsigned"},
		{"never", "offline", "offline, not seen", "sessio -device"},
		{"gone", "offline", "offline, last seen", "sessio -device"},
		{"revoked", "revoked", "revoked (lost)", "new ticket"},
		{"laptop", "role", "pure client", "trust update"},
	} {
		began := time.Now()
		_, err := w.laptop.client().openSSH(t.Context(), c.device)
		if codeOf(err) != c.code || !strings.Contains(err.Error(), c.text) || !strings.Contains(hintOf(err), c.hint) {
			t.Errorf("%s: %v (%s), hint %q", c.device, err, codeOf(err), hintOf(err))
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: the reason came after %v", c.device, took)
		}
	}
}

func TestWalkLentLinksAreOneConnection(t *testing.T) {
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	attic.run(defaultHold)
	w.laptop.run(defaultHold)
	var verbs sync.WaitGroup
	for range 6 {
		verbs.Go(func() {
			c := w.laptop.client()
			if out, err := w.exec(c, "attic", "echo hi"); out != "hi\n" {
				t.Errorf("got %q, %v", out, err)
			}
			if c.node != nil {
				t.Error("a verb made a link of its own")
			}
		})
	}
	verbs.Wait()
	self, links, err := lentStatus(t.Context(), w.laptop.dir)
	if err != nil || self == nil || len(links) != 1 {
		t.Errorf("links %+v, %v", links, err)
	}
	// A refusal reaches the verb with its code.
	_, err = w.exec(w.laptop.client(), "laptop", "true")
	if codeOf(err) != "role" {
		t.Errorf("the laptop itself: %v", err)
	}
}

func TestWalkRevocationClosesLiveLinks(t *testing.T) {
	w := newTestWorld(t)
	attic, phone := w.join("attic"), w.join("phone")
	w.signDevice(attic, "server")
	w.signDevice(phone, "client")
	attic.run(defaultHold)
	phone.withCoord(func(ctx context.Context, c *coordClient) error { return fetchInto(ctx, c, phone.trust) })
	c := phone.client()
	n, err := c.ownNode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := c.openSSH(t.Context(), "attic")
	if err != nil {
		t.Fatal(err)
	}
	text, err := buildDeviceRevoke(w.trust.state(), []deviceID{phone.id.keys.deviceID()}, "stolen", time.Now())
	w.publish(text, err)
	began := time.Now()
	<-pipe.lost
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the link of a revoked device lived %v longer", took)
	}
	if err := pipe.reason(); codeOf(err) != "revoked" {
		t.Errorf("it ended with %v", err)
	}
	if len(n.linkStatuses()) > 0 {
		waitUntil(t, func() bool { return len(n.linkStatuses()) == 0 })
	}
}

func TestWalkCoordinatorDiesAndReturns(t *testing.T) {
	t.Parallel()
	dir, out := t.TempDir(), &testLog{}
	w, stop := newTestWorldIn(t, dir, out)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	attic.run(defaultHold)
	c := w.laptop.client()
	if out, err := w.exec(c, "attic", "echo one"); out != "one\n" {
		t.Fatalf("got %q, %v", out, err)
	}
	stop()
	if out, err := w.exec(c, "attic", "echo two"); out != "two\n" {
		t.Fatalf("without the coordinator: %q, %v", out, err)
	}
	w.startCoordinator(dir, w.word.addr, out)
	began := time.Now()
	w.await(attic)
	if took := time.Since(began); took > beatEvery+time.Second {
		t.Errorf("known again after %v, more than a beat", took)
	}
}

func TestWalkDeadClientIsHungUp(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	_, log := attic.run(5 * time.Second)
	c := w.laptop.client()
	pipe, err := c.openSSH(t.Context(), "attic")
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	waitUntil(t, func() bool { return strings.Contains(log.String(), "is up") }) // at attic, too
	c.node.mux.Close()                                                           // what kill -9 looks like from outside
	began := time.Now()
	waitWithin(t, 15*time.Second, func() bool { return strings.Contains(log.String(), "has ended: ") })
	if took := time.Since(began); took < 3*time.Second || took > 10*time.Second {
		t.Errorf("hung up after %v with a hold of 5 s\n%s", took, log)
	}
}

func TestWalkNewProcessEndsTheOldOnesLink(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	_, log := attic.run(defaultHold)
	dead := w.laptop.client()
	if _, err := w.exec(dead, "attic", "true"); err != nil {
		t.Fatal(err)
	}
	dead.node.mux.Close()
	if _, err := w.exec(w.laptop.client(), "attic", "true"); err != nil {
		t.Fatal(err)
	}
	waitWithin(t, answerWait+5*time.Second, func() bool { return strings.Contains(log.String(), "has ended: ") })
}

func TestWalkNewDeviceProcessEndsTheLinkToTheOldOne(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	old, _ := attic.serve()
	w.await(attic)
	c := w.laptop.client()
	pipe, err := c.openSSH(t.Context(), "attic")
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	waitUntil(t, func() bool { return len(old.liveLinks()) == 1 })
	old.mux.Close() // kill -9
	attic.serve()
	// Data tells the client at once that nobody answers; nothing but the
	// coordinator can tell it that another process serves now.
	if _, err := pipe.Write([]byte("SSH-2.0-test\r\n")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-pipe.lost:
	case <-time.After(30 * time.Second):
		t.Fatal("the link to a dead process is kept")
	}
	if err := pipe.reason(); codeOf(err) != "replaced" {
		t.Errorf("it ended with %v", err)
	}
}
