package main

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// actTest is a world's first machine acting, and what it prints.
func actTest(t *testing.T, w *testWorld, f func(ctx context.Context, a *acting) error) (string, error) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := &program{stdio{nil, out, out}, time.Now}
	dir := w.laptop.dir
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	err = p.act(ctx, stateDir{&dir}, false, f)
	said, readErr := os.ReadFile(out.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(said), err
}

func consented(context.Context, []byte) (bool, error) { return true, nil }

// Another signer was faster: nothing is signed again without asking.
func TestSubmitStaleHead(t *testing.T) {
	w := newTestWorld(t)
	asked := 0
	_, err := actTest(t, w, func(ctx context.Context, a *acting) error {
		return a.submit(ctx, proposal{
			build: func(st *trustState) ([]byte, error) {
				return buildDeviceAdd(st, trustTestKeys("slow"), trustTestGrant("slow"), time.Now())
			},
			consent: func(ctx context.Context, _ []byte) (bool, error) {
				asked++
				text, err := buildDeviceAdd(w.trust.state(), trustTestKeys("fast"), trustTestGrant("fast"), time.Now())
				w.publish(text, err)
				return true, nil
			},
			signers: []stmtSigner{w.owner},
		})
	})
	if codeOf(err) != "stale-head" || !strings.Contains(hintOf(err), "run the same again") || asked != 1 {
		t.Errorf("asked %d times: %v, hint %q", asked, err, hintOf(err))
	}
}

func TestSubmitDeclined(t *testing.T) {
	w := newTestWorld(t)
	_, err := actTest(t, w, func(ctx context.Context, a *acting) error {
		return a.submit(ctx, proposal{
			build: func(st *trustState) ([]byte, error) {
				return buildDeviceAdd(st, trustTestKeys("x"), trustTestGrant("x"), time.Now())
			},
			consent: func(context.Context, []byte) (bool, error) { return false, nil },
			signers: []stmtSigner{w.owner},
		})
	})
	if err != error(errDeclined) || w.trust.state().seq() != 1 {
		t.Errorf("record %d, %v", w.trust.state().seq(), err)
	}
}

// A coordinator that holds a record back is found out by any device that has
// it, and is given the record.
func TestActHearsPeers(t *testing.T) {
	w := newTestWorld(t)
	attic := w.join("attic")
	w.signDevice(attic, "server")
	stop, log := attic.run(defaultHold)
	defer stop()
	// A record that only the attic has got.
	text, err := buildDeviceAdd(w.trust.state(), trustTestKeys("held"), trustTestGrant("held"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	records := w.trust.records(0, 9)
	if _, err := attic.trust.add(append(records, w.sign(text))...); err != nil {
		t.Fatal(err)
	}
	_, err = actTest(t, w, func(ctx context.Context, a *acting) error {
		if _, ok := a.trust.state().deviceByName("held"); !ok {
			t.Errorf("the record was not heard of\n%s", log)
		}
		return a.submit(ctx, proposal{
			build: func(st *trustState) ([]byte, error) {
				return buildDeviceRevoke(st, []deviceID{trustTestID("held")}, "lost", time.Now())
			},
			consent: consented, signers: []stmtSigner{w.owner},
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	w.laptop.withCoord(func(ctx context.Context, c *coordClient) error {
		all, err := c.fetchAll(ctx, w.acct(), 0, nil)
		if len(all) != 5 {
			t.Errorf("the coordinator has %d records", len(all))
		}
		return err
	})
}

func TestCheckClock(t *testing.T) {
	w := newTestWorld(t)
	for off, code := range map[time.Duration]string{
		0: "", 9 * time.Minute: "", -9 * time.Minute: "", 11 * time.Minute: "clock", -11 * time.Minute: "clock",
	} {
		p := &program{now: func() time.Time { return time.Now().Add(off) }}
		w.laptop.withCoord(func(ctx context.Context, c *coordClient) error {
			if err := p.checkClock(ctx, c, false); codeOf(err) != code {
				t.Errorf("off by %v: %v, want code %q", off, err, code)
			}
			return p.checkClock(ctx, c, true)
		})
	}
}

// What the coordinator says of who waits is believed as far as the ticket
// proves it.
func TestCandidates(t *testing.T) {
	w := newTestWorld(t)
	copied := &ticketCopy{Made: time.Now(), Grant: grantWish{Name: "attic", Users: []string{"backup"}}}
	rand.Read(copied.secret[:])
	if err := copied.save(w.laptop.dir); err != nil {
		t.Fatal(err)
	}
	keys, other := trustTestKeys("attic"), trustTestKeys("thief")
	honest := pendingJoin{keys: keys, ticket: hashTicket(copied.secret), name: "host", login: "root",
		proof: joinProof(copied.secret, w.acct(), keys, "host", "root")}
	cases := []struct {
		name  string
		forge func(j *pendingJoin)
		typed string
		want  string // in the error
	}{
		{"honest", func(*pendingJoin) {}, "attic", ""},
		{"other keys", func(j *pendingJoin) { j.keys = other }, "attic", "the coordinator shows other keys"},
		{"other keys, by id", func(j *pendingJoin) { j.keys = other }, string(other.deviceID()), "the coordinator shows other keys"},
		{"other name", func(j *pendingJoin) { j.name = "evil" }, "attic", "the coordinator shows other keys"},
		{"other login", func(j *pendingJoin) { j.login = "daemon" }, "attic", "the coordinator shows other keys"},
		{"no ticket of ours", func(j *pendingJoin) { j.ticket[0] ^= 1 }, "host", "a person must compare its words"},
		{"no ticket of ours, by id", func(j *pendingJoin) { j.ticket[0] ^= 1 }, string(keys.deviceID()), ""},
	}
	_, err := actTest(t, w, func(_ context.Context, a *acting) error {
		for _, c := range cases {
			j := honest
			c.forge(&j)
			list, err := a.judgeJoins([]pendingJoin{j})
			if err != nil {
				t.Fatal(err)
			}
			if list[0].wish.Name != "attic" && list[0].copy != nil {
				t.Errorf("%s: name %s", c.name, list[0].wish.Name)
			}
			err = a.mayBeSigned(&list[0], c.typed)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Roles, users and caps come from the ticket's copy and the flags, and are
// filled in by who joined.
func TestGrant(t *testing.T) {
	now := trustTestNow
	for _, c := range []struct {
		wish  grantWish
		login string
		want  string
	}{
		{grantWish{}, "root", "server, users root"},
		{grantWish{Roles: []string{"client"}}, "root", "client, users *"},
		{grantWish{Roles: []string{"server", "client"}}, "alice", "client+server, users alice"},
		{grantWish{Users: []string{"root", "alice", "root"}}, "", "server, users alice,root"},
		{grantWish{Users: []string{"*", "alice"}, Caps: []string{"shell", "pty"}}, "", "server, users *, only pty,shell"},
		{grantWish{Expires: time.Hour}, "root", "server, users root, until " + stmtDate(now.Unix()+3600)},
		{grantWish{}, "", "nobody knows which login"},
	} {
		g, err := c.wish.grant(c.login, now)
		got := sayGrant(g.roles, g.users, g.caps, g.expires)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v for %q: %q, want %q", c.wish, c.login, got, c.want)
		}
	}
}
