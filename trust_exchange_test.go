package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
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

// More records than fit a reply, in number and in bytes.
func TestTrustExchangeManyRecords(t *testing.T) {
	k := newTrustTestAcct(t)
	for i := range 150 {
		k.addDevice(fmt.Sprint("m", i))
	}
	a, b := trustTestStore(t, k, len(k.raws)), trustTestStore(t, k, 0)
	trustTestMeet(t, a, b)
	if b.state().head() != k.state.head() {
		t.Error("ended at", b.state().seq())
	}
	// records near their bound: a few fill a frame
	big := newTrustTestAcct(t)
	for range 12 {
		text := big.text(opDeviceRevoke{})
		text = append(text[:strings.Index(string(text), "op ")], "op filler\n"...)
		for len(text) < maxStatement-100 {
			text = append(text, "x "+strings.Repeat("y", 97)+"\n"...)
		}
		sigs := []stmtSigner{big.a}
		raw := big.sign(text, sigs...)
		odd := recordSig{trustTestKey("later").id(), signerSSH, [][]byte{make([]byte, maxRecord-len(raw)-100)}}
		_, own, err := splitRecord(raw)
		if err != nil {
			t.Fatal(err)
		}
		big.applied(appendRecord(nil, text, append(own, odd)))
	}
	a, b = trustTestStore(t, big, len(big.raws)), trustTestStore(t, big, 0)
	trustTestMeet(t, a, b)
	if b.state().head() != big.state.head() {
		t.Error("ended at", b.state().seq())
	}
}

// The common record is far back, further than any reply reaches.
func TestTrustExchangeDeepFork(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("laptop", "client")
	x, y := k.branch(), k.branch()
	for i := range 150 {
		x.update("laptop", fmt.Sprint("x", i), x.a)
		y.update("laptop", fmt.Sprint("y", i), y.a)
	}
	y.revokeDevice("laptop", y.a)
	a, b := trustTestStore(t, x, len(x.raws)), trustTestStore(t, y, len(y.raws))
	trustTestMeet(t, a, b)
	if got := trustTestNames(a.state()); got != "" || a.state().head() != x.state.head() {
		t.Error("the revocation did not come through:", got)
	}
	if !b.knows(logTip{a.state().seq(), a.state().head()}) {
		t.Error("the other branch is not known")
	}
	trustTestMeet(t, b, a) // nothing more to say
}

// A machine that has joined and holds nothing gets the log from whoever knows
// it, and one that the log does not know learns only how far it is.
func TestTrustExchangeWithStrangers(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("laptop", "client")
	whole := trustTestStore(t, k, 3)
	joiner := trustTestStore(t, k, 0)
	stranger := exchangeOpts{}
	known := exchangeOpts{peerKnown: true}
	if ea, eb := trustTestExchange(t, joiner, whole, stranger, known); ea != nil || eb != nil || joiner.state().head() != k.state.head() {
		t.Error("a joiner that its peer knows:", ea, eb)
	}
	joiner = trustTestStore(t, k, 0)
	if ea, eb := trustTestExchange(t, joiner, whole, stranger, stranger); ea != nil || eb != nil || joiner.state() != nil {
		t.Error("a stranger was given records:", ea, eb)
	}
	err := trustTestScripted(t, whole, stranger, func(p *trustTestPeer) {
		p.hello(logHelloMsg{acct: k.state.acct(), min: 1, max: 1})
		p.read(frameHello)
		p.read(frameHello)
		for range 3 {
			p.write(frameGet, (&logGetMsg{k.state.head(), 0, 2}).append(nil))
			if body := p.read(frameError); string(body) != "\x06denied" {
				t.Errorf("answered with %q", body)
			}
		}
		p.hello(logHelloMsg{acct: k.state.acct(), min: 1, max: 1})
	})
	if err != nil {
		t.Error(err)
	}
}

// A freshly signed client brings its own proof to a server that the coordinator
// keeps in the dark.
func TestTrustExchangeFreshClientBringsItsProof(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	server := trustTestStore(t, k, 2)
	k.addDevice("laptop", "client")
	client := trustTestStore(t, k, 3)
	if _, err := server.state().judge(trustTestKeys("laptop"), "client", trustTestNow); codeOf(err) != "unknown-device" {
		t.Fatal(err)
	}
	budget := new(exchangeBudget)
	if es, ec := trustTestExchange(t, server, client, exchangeOpts{strangers: budget}, exchangeOpts{peerKnown: true}); es != nil || ec != nil {
		t.Fatal(es, ec)
	}
	if _, err := server.state().judge(trustTestKeys("laptop"), "client", trustTestNow); err != nil {
		t.Error(err)
	}
	if budget.records != 0 || budget.checks != 0 || budget.bytes > 100 {
		t.Error("records that advance the log were charged", budget.records, budget.checks, budget.bytes)
	}
}

// What all strangers together may cost a minute.
func TestTrustExchangeStrangersShareABudget(t *testing.T) {
	g := new(exchangeBudget)
	now := trustTestNow
	for _, c := range []struct {
		records, bytes, checks int
		ok                     bool
	}{
		{64, 0, 0, true}, {1, 0, 0, false}, {-1, 0, 0, true}, {1, 0, 0, true},
		{0, 256 << 10, 0, true}, {0, 1, 0, false}, {0, 0, 32, true}, {0, 0, 1, false}, {-99, -1 << 30, -99, true},
		{64, 256 << 10, 32, true},
	} {
		if err := g.take(now, c.records, c.bytes, c.checks); (err == nil) != c.ok || !c.ok && codeOf(err) != "denied" {
			t.Error(c, err)
		}
	}
	if g.take(now.Add(time.Minute-1), 1, 0, 0) == nil {
		t.Error("the minute is not over")
	}
	if g.take(now.Add(time.Minute), 64, 0, 0) != nil || g.take(now, 1, 0, 0) != nil {
		t.Error("a new minute, and a clock that went back")
	}

	k := newTrustTestAcct(t)
	k.addDevice("attic")
	fork := k.branch()
	k.addDevice("x")
	for i := range 80 {
		fork.update("attic", fmt.Sprint("n", i), fork.a)
	}
	victim := trustTestStore(t, k, 3)
	flood := trustTestStore(t, fork, len(fork.raws))
	g = new(exchangeBudget)
	opts := exchangeOpts{strangers: g}
	ev, ef := trustTestExchange(t, victim, flood, opts, exchangeOpts{peerKnown: true})
	if codeOf(ev) != "denied" || codeOf(ef) != "denied" || g.checks != maxStrangeChecks {
		t.Error(ev, ef, g.checks)
	}
	if got := len(victim.tips()); got != 2 {
		t.Error(got)
	}
	// another stranger has nothing left, and a known peer is not concerned
	ev, _ = trustTestExchange(t, victim, flood, opts, exchangeOpts{peerKnown: true})
	if codeOf(ev) != "denied" {
		t.Error(ev)
	}
	trustTestMeet(t, victim, flood)
	// bytes count before they are read
	g = &exchangeBudget{since: trustTestNow, bytes: maxStrangeBytes - 10}
	err := trustTestScripted(t, victim, exchangeOpts{strangers: g}, func(p *trustTestPeer) {
		p.raw(append([]byte{frameRecords}, 0, 0, 0, 11))
		p.read(frameHello)
		p.read(frameError)
	})
	if codeOf(err) != "denied" {
		t.Error(err)
	}
}

// A peer that does wrong is told why; a stranger is told nothing.
func TestTrustExchangeErrors(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	forged := k.sign(k.text(opDeviceAdd{trustTestID("evil"), trustTestKeys("evil"), trustTestGrant("evil")}), k.b)
	for _, c := range []struct {
		known      bool
		code, told string
	}{{true, "no-power", "\x08no-power"}, {false, "no-power", "\x06denied"}} {
		v := trustTestStore(t, k, 2)
		err := trustTestScripted(t, v, exchangeOpts{peerKnown: c.known}, func(p *trustTestPeer) {
			p.hello(logHelloMsg{acct: k.state.acct(), tip: logTip{2, stmtHash{9}}, min: 1, max: 1})
			p.read(frameHello)
			if body := p.read(frameGet); !bytes.Equal(body, (&logGetMsg{stmtHash{9}, 2, 2}).append(nil)) {
				t.Errorf("asked for %x", body)
			}
			p.write(frameRecords, (&logRecordsMsg{[][]byte{forged}}).append(nil))
			if body := p.read(frameError); string(body) != c.told {
				t.Errorf("told %q", body)
			}
		})
		if codeOf(err) != c.code || v.state().seq() != 1 {
			t.Error(err)
		}
	}
	hello := logHelloMsg{acct: k.state.acct(), tip: logTip{1, k.state.head()}, min: 1, max: 1}
	for name, c := range map[string]struct {
		code   string
		script func(p *trustTestPeer)
	}{
		"too new":       {"update", func(p *trustTestPeer) { h := hello; h.min, h.max = 2, 3; p.hello(h) }},
		"too old":       {"update", func(p *trustTestPeer) { h := hello; h.min, h.max = 0, 0; p.hello(h) }},
		"their error":   {"sig-invalid", func(p *trustTestPeer) { p.hello(hello); p.write(frameError, (&logErrorMsg{"sig-invalid"}).append(nil)) }},
		"error at once": {"denied", func(p *trustTestPeer) { p.write(frameError, (&logErrorMsg{"denied"}).append(nil)) }},
		"gone":          {"", func(p *trustTestPeer) { p.hello(hello) }},
		"gone at once":  {"", func(p *trustTestPeer) {}},
		"another account": {"wrong-account", func(p *trustTestPeer) {
			p.hello(logHelloMsg{acct: acctID{1}, min: 1, max: 1})
			p.hello(logHelloMsg{acct: acctID{1}, min: 1, max: 1})
			p.read(frameHello)
			p.read(frameHello)
		}},
		"no hello": {"", func(p *trustTestPeer) {
			p.write(frameGet, (&logGetMsg{k.state.head(), 0, 1}).append(nil))
			p.read(frameHello)
			if p.read(frameError); !p.ok {
				t.Error("a request before any hello was answered")
			}
		}},
		"records at once": {"", func(p *trustTestPeer) { p.write(frameRecords, (&logRecordsMsg{}).append(nil)) }},
		"three hellos": {"", func(p *trustTestPeer) {
			h := hello
			h.tip = logTip{2, stmtHash{9}} // it asks, so that it is not over before the third
			p.hello(h)
			p.hello(h)
			p.hello(h)
			p.read(frameHello)
			p.read(frameGet)
			p.read(frameError)
		}},
		"a gap in records": {"", func(p *trustTestPeer) {
			h := hello
			h.tip = logTip{3, stmtHash{9}}
			p.hello(h)
			p.read(frameHello)
			p.read(frameGet)
			p.write(frameRecords, (&logRecordsMsg{k.raws[:1]}).append(nil))
			p.read(frameError)
		}},
	} {
		v := trustTestStore(t, k, 2)
		if err := trustTestHostile(t, v, c.script); err == nil || codeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	// no account at all
	none, err := openTrustStore(t.TempDir(), trustTestClock)
	if err != nil {
		t.Fatal(err)
	}
	if err := trustTestHostile(t, none, func(p *trustTestPeer) { p.hello(logHelloMsg{min: 1, max: 1}); p.read(frameHello); p.read(frameError) }); codeOf(err) != "wrong-account" {
		t.Error(err)
	}
}

// A peer that cannot give what it spoke of is not waited for.
func TestTrustExchangePeerWithoutRecords(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	v := trustTestStore(t, k, 1)
	err := trustTestHostile(t, v, func(p *trustTestPeer) {
		p.hello(logHelloMsg{acct: k.state.acct(), tip: logTip{5, stmtHash{9}}, min: 1, max: 1, branches: []logTip{{1, k.state.head()}, {maxRecords, stmtHash{8}}}})
		p.read(frameHello)
		p.read(frameGet)
		p.write(frameRecords, (&logRecordsMsg{}).append(nil)) // nothing of the first
		if body := p.read(frameGet); !bytes.HasPrefix(body, k.rawHash(1)) {
			t.Errorf("asked for %x", body)
		}
		p.write(frameRecords, (&logRecordsMsg{k.raws[1:]}).append(nil))
		p.read(frameHello)
		p.write(frameGet, (&logGetMsg{stmtHash{7}, 0, 9}).append(nil)) // it does not know that either
		if body := p.read(frameRecords); !bytes.Equal(body, []byte{0}) {
			t.Errorf("given %x", body)
		}
		p.write(frameGet, (&logGetMsg{k.state.head(), 1, 9}).append(nil))
		if body := p.read(frameRecords); !bytes.Equal(body, (&logRecordsMsg{k.raws[1:]}).append(nil)) {
			t.Errorf("given %x", body)
		}
		p.hello(logHelloMsg{acct: k.state.acct(), min: 1, max: 1})
	})
	if err != nil || v.state().head() != k.state.head() {
		t.Error(err)
	}
}

func (k *trustTestAcct) rawHash(seq int) []byte {
	rec, err := parseRecord(k.raws[seq])
	if err != nil {
		k.t.Fatal(err)
	}
	return rec.hash[:]
}
