package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// actTest is a world's first machine acting, and what it prints.
func actTest(t *testing.T, w *testWorld, f func(ctx context.Context, a *acting) error) (string, error) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := &program{stdio: stdio{nil, out, out}, now: time.Now}
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

// What another branch of the log takes away can be confirmed or revoked here.
func TestActOnTheSuspended(t *testing.T) {
	w := newTestWorld(t)
	thief := trustTestKey("thief")
	both := func(text []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		rec, err := signRecord(text, w.owner, thief)
		if err != nil {
			t.Fatal(err)
		}
		w.must(w.trust.add(rec))
		w.laptop.withCoord(func(ctx context.Context, c *coordClient) error { return c.append(ctx, w.acct(), rec) })
	}
	both(buildSignerAdd(w.trust.state(), trustTestLine(thief, "ds", "thief"), time.Now()))
	fork := w.trust.state()
	w.owner, thief = thief, w.owner // the thief signs alone
	for _, name := range []string{"evil", "attic"} {
		text, err := buildDeviceAdd(w.trust.state(), trustTestKeys(name), trustTestGrant(name), time.Now())
		w.publish(text, err)
	}
	w.owner, thief = thief, w.owner
	text, err := buildSignerRemove(fork, thief.id(), 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.trust.add(w.sign(text)); codeOf(err) != "fork" {
		t.Fatal(err)
	}
	evil, attic := trustTestKeys("evil").deviceID(), trustTestKeys("attic").deviceID()
	for _, called := range []string{"evil", string(evil)} {
		if _, err := findDevice(w.trust.state(), called); codeOf(err) != "revoked" || !strings.Contains(hintOf(err), "sessio trust update "+string(evil)) {
			t.Errorf("%s: %v, hint %q", called, err, hintOf(err))
		}
	}
	block, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(trustTestSeed("owner")), "")
	if err != nil {
		t.Fatal(err)
	}
	file, no := filepath.Join(t.TempDir(), "owner"), false
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	by := signerChoice{&file, &no, &no}
	said, err := actTest(t, w, func(ctx context.Context, a *acting) error {
		return errors.Join(a.update(ctx, by, string(attic), grantWish{}, false), a.revoke(ctx, by, []string{string(evil)}, "stolen"))
	})
	if err != nil || !strings.Contains(said, "confirming it") || !strings.Contains(said, "revoking it in this one") {
		t.Errorf("%v, said %q", err, said)
	}
	w.trust.refresh()
	st := w.trust.state()
	if dev, ok := st.deviceByName("attic"); !ok || st.suspended(attic) || dev.id != attic {
		t.Errorf("attic is not confirmed: %+v", dev)
	}
	if dev, _ := st.device(evil); st.suspended(evil) || dev.reason != "stolen" {
		t.Errorf("evil is not revoked: %+v", dev)
	}
}
