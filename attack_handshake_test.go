package main

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// A halfOpener leaves handshakes with attic half open: it never gets round to
// judging attic's certificate.
type halfOpener struct {
	link  *link
	enter chan struct{} // a handshake has come so far
	end   func()
}

func newHalfOpener(t *testing.T, m *testMachine) *halfOpener {
	t.Helper()
	l, err := m.link("attic") // for its path
	if err != nil {
		t.Fatal(err)
	}
	return &halfOpener{link: l}
}

// begin begins to dial again and again.
func (h *halfOpener) begin(t *testing.T, dials int) {
	n := h.link.owner.(*node)
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	h.enter = make(chan struct{}, dials)
	over := make(chan struct{})
	var running sync.WaitGroup
	h.end = sync.OnceFunc(func() {
		close(over)
		running.Wait()
		stop()
	})
	t.Cleanup(h.end)
	conf := n.id.tlsConfig(alpnLink, func(publicKeys) error {
		h.enter <- struct{}{}
		<-over
		return errors.New("never mind")
	})
	for range dials {
		running.Go(func() {
			if c, err := n.tr.Dial(ctx, h.link.proc.udp.virtual, conf, linkQUIC(false)); err == nil {
				c.CloseWithError(0, "")
			}
		})
	}
}

// handshakes counts those half open.
func (n *node) handshakes() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.halfOpen)
}

// Machines that the log does not know, and one that it does, begin many
// handshakes and finish none: few of each, and few of all strangers, are taken
// up. Others come in meanwhile, and all are let go.
func TestAttackHandshakesLeftHalfOpen(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	attic, phone := w.join("attic"), w.join("phone")
	w.signDevice(attic, "server")
	w.signDevice(phone, "client")
	if err := attic.update(); err != nil {
		t.Fatal(err)
	}
	n, log := attic.serve()
	w.await(attic)
	const strangers, dials = maxStrangersHalfOpen/maxHalfOpen + 1, 3 * maxHalfOpen
	var all []*halfOpener
	for range strangers {
		all = append(all, newHalfOpener(t, attackStranger(w, c)))
	}
	all = append(all, newHalfOpener(t, phone))
	for _, h := range all {
		h.begin(t, dials)
	}
	most := maxStrangersHalfOpen + maxHalfOpen
	waitUntil(t, func() bool { return n.handshakes() == most })
	if out, err := w.exec(w.laptop.client(), "attic", "echo in"); out != "in\n" {
		t.Errorf("the laptop meanwhile: %q, %v\n%s", out, err, log)
	}
	for began := time.Now(); time.Since(began) < 500*time.Millisecond; { // the dials go on and on
		if got := n.handshakes(); got > most {
			t.Fatalf("%d handshakes are half open", got)
		}
	}
	for i, h := range all {
		if got := len(h.enter); got > maxHalfOpen {
			t.Errorf("process %d was answered %d times at once", i, got)
		}
	}
	for _, h := range all {
		h.end()
	}
	waitWithin(t, 2*handshakeIdle, func() bool { return n.handshakes() == 0 })
}
