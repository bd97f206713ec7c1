package main

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// trustTestExchange lets two stores meet over a pipe.
func trustTestExchange(t testing.TB, a, b *trustStore, oa, ob exchangeOpts) (errA, errB error) {
	t.Helper()
	ca, cb := net.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	done := make(chan error)
	go func() { done <- runExchange(ctx, cb, b, ob) }()
	errA = runExchange(ctx, ca, a, oa)
	errB = <-done
	return errA, errB
}

// trustTestMeet is an exchange between devices that know each other.
func trustTestMeet(t testing.TB, a, b *trustStore) {
	t.Helper()
	known := exchangeOpts{peerKnown: true, build: "test"}
	if ea, eb := trustTestExchange(t, a, b, known, known); ea != nil || eb != nil {
		t.Fatalf("exchange: %v", errors.Join(ea, eb))
	}
}

func TestTrustExchangeBringsTheOneBehindUpToDate(t *testing.T) {
	k := newTrustTestAcct(t)
	for _, name := range []string{"a1", "a2", "a3"} {
		k.addDevice(name)
	}
	for have := range len(k.raws) + 1 {
		a, b := trustTestStore(t, k, len(k.raws)), trustTestStore(t, k, have)
		trustTestMeet(t, a, b)
		if b.state().head() != k.state.head() {
			t.Fatalf("with %d records: ended at %d", have, b.state().seq())
		}
		trustTestMeet(t, b, a)
	}
}

func TestTrustExchangeFork(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("laptop", "client")
	x, y := k.branch(), k.branch()
	x.addDevice("mine")
	x.revokeDevice("attic", x.a)
	y.addDevice("theirs")
	y.revokeDevice("laptop", y.b)
	y.addDevice("more")
	a, b := trustTestStore(t, x, len(x.raws)), trustTestStore(t, y, len(y.raws))
	trustTestMeet(t, a, b)
	if got := trustTestNames(a.state()); got != "mine" {
		t.Error(got)
	}
	if got := trustTestNames(b.state()); got != "more theirs" {
		t.Error(got)
	}
	if len(a.state().troubles()) != 1 || codeOf(a.state().troubles()[0]) != "fork" {
		t.Error(a.state().troubles())
	}
	// a third machine that meets only b's log hears of a's branch too
	c := trustTestStore(t, y, 3)
	trustTestMeet(t, b, c)
	if got := trustTestNames(c.state()); got != "more theirs" {
		t.Error(got)
	}
	again, err := openTrustStore(a.dir, trustTestClock)
	if err != nil || trustTestNames(again.state()) != "mine" {
		t.Error(err, trustTestNames(again.state()))
	}
}
