package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A testWorld is a coordinator, an account and its machines, all real, in one
// process on loopback.
type testWorld struct {
	t      *testing.T
	word   coordWord
	keys   publicKeys // the coordinator's
	owner  sshStmtSigner
	trust  *trustStore // the owner's first machine
	laptop *testMachine
}

// A testMachine is one state directory.
type testMachine struct {
	w     *testWorld
	name  string
	dir   string
	id    *identity
	trust *trustStore
}

// A testLog gathers what a role says.
type testLog struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *testLog) logf(level int, format string, args ...any) {
	fmt.Fprintf(l, format+"\n", args...)
}

// testRun starts f and stops it, and waits for it, when the test is over or
// stop is called.
func testRun(t *testing.T, name string, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s does not end", name)
		}
	})
	t.Cleanup(stop)
	return stop
}

// newTestWorld runs a coordinator and makes an account whose first machine is
// called laptop, a client.
func newTestWorld(t *testing.T) *testWorld {
	t.Helper()
	w, _ := newTestWorldIn(t, t.TempDir(), &testLog{})
	return w
}

// newTestWorldIn is newTestWorld with the coordinator's directory and its log, for
// who ends it and starts another there.
func newTestWorldIn(t *testing.T, dir string, out *testLog) (w *testWorld, stop func()) {
	t.Helper()
	w = &testWorld{t: t, owner: trustTestKey("owner")}
	stop = w.startCoordinator(dir, "127.0.0.1:0", out)
	id, err := loadIdentity(filepath.Join(dir, "coord", "identity"))
	if err != nil {
		t.Fatal(err)
	}
	w.keys = id.keys
	w.laptop = w.machine("laptop")
	w.create()
	return w, stop
}

// startCoordinator runs one and reads its word from what it prints.
func (w *testWorld) startCoordinator(dir, udp string, out *testLog) (stop func()) {
	w.t.Helper()
	stop = testRun(w.t, "coordinator", func(ctx context.Context) error {
		return runCoordinator(ctx, coordConfig{dir: dir, udp: udp, signup: signupClaim}, out, func(string, ...any) {})
	})
	waitUntil(w.t, func() bool { return strings.Contains(out.String(), "\n") && strings.Contains(out.String(), "s1/") })
	for _, f := range strings.Fields(out.String()) {
		if strings.HasPrefix(f, "s1/") {
			word, err := parseCoordWord(f)
			if err != nil {
				w.t.Fatal(err)
			}
			w.word = word
		}
	}
	return stop
}

func (w *testWorld) machine(name string) *testMachine {
	w.t.Helper()
	m := &testMachine{w: w, name: name, dir: filepath.Join(w.t.TempDir(), name)}
	var err error
	if m.id, err = loadIdentity(filepath.Join(m.dir, "identity")); err != nil {
		w.t.Fatal(err)
	}
	if m.trust, err = openTrustStore(m.dir, time.Now); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// withCoord runs f with the machine's connection to the coordinator.
func (m *testMachine) withCoord(f func(ctx context.Context, c *coordClient) error) {
	m.w.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	err := withCoordAt(ctx, m.id, m.w.word.addr, m.w.keys.coordID(), func(c *coordClient) error { return f(ctx, c) })
	if err != nil {
		m.w.t.Fatalf("%s: %v", m.name, err)
	}
}

func (w *testWorld) create() {
	w.t.Helper()
	line := trustTestLine(w.owner, "ds", "owner")
	genesis, err := buildGenesis([]signerLine{line, trustTestLine(trustTestKey("recovery"), "r", "recovery")}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	rec := w.sign(genesis)
	acct := acctID(hashStatement(genesis))
	if err := w.laptop.trust.setAnchor(anchor{acct: acct, coordAddr: w.word.addr, coordKeys: w.keys}); err != nil {
		w.t.Fatal(err)
	}
	w.trust = w.laptop.trust
	w.must(w.trust.add(rec))
	add, err := buildDeviceAdd(w.trust.state(), w.laptop.id.keys, newDeviceGrant("laptop", []string{"client"}, []string{"*"}, allCaps(), 0), time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	second := w.sign(add)
	w.must(w.trust.add(second))
	w.laptop.withCoord(func(ctx context.Context, c *coordClient) error {
		return c.create(ctx, w.word.claim, [][]byte{rec, second})
	})
}

func allCaps() []string { return []string{"shell", "exec", "sftp", "forward", "pty"} }

func (w *testWorld) must(_ int, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *testWorld) sign(text []byte) []byte {
	w.t.Helper()
	rec, err := signRecord(text, w.owner)
	if err != nil {
		w.t.Fatal(err)
	}
	return rec
}

// publish signs a statement, adds it to the owner's log and hands it in.
func (w *testWorld) publish(text []byte, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	rec := w.sign(text)
	w.must(w.trust.add(rec))
	w.laptop.withCoord(func(ctx context.Context, c *coordClient) error {
		return c.append(ctx, w.acct(), rec)
	})
}

func (w *testWorld) acct() acctID {
	a, _ := w.trust.anchor()
	return a.acct
}

// join enrols a machine by a ticket, unsigned.
func (w *testWorld) join(name string) *testMachine {
	w.t.Helper()
	m := w.machine(name)
	secret := ticketSecret([]byte("ticket for " + (name + "     "))[:16])
	w.laptop.withCoord(func(ctx context.Context, c *coordClient) error {
		return c.ticket(ctx, w.acct(), secret, time.Minute, nil)
	})
	m.withCoord(func(ctx context.Context, c *coordClient) error {
		_, err := c.join(ctx, m.id.keys, w.acct(), secret, name, "root")
		return err
	})
	if err := m.trust.setAnchor(anchor{acct: w.acct(), coordAddr: w.word.addr, coordKeys: w.keys}); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// signDevice signs a machine that has joined.
func (w *testWorld) signDevice(m *testMachine, roles ...string) {
	w.t.Helper()
	text, err := buildDeviceAdd(w.trust.state(), m.id.keys, newDeviceGrant(m.name, roles, []string{"*"}, allCaps(), 0), time.Now())
	w.publish(text, err)
}

// run runs the machine as -device and waits until the coordinator knows it.
func (m *testMachine) run(hold time.Duration) (stop func(), log *testLog) {
	m.w.t.Helper()
	log = &testLog{}
	stop = testRun(m.w.t, m.name, func(ctx context.Context) error {
		settings := &liveConfig{source: configSource{dir: m.dir, getenv: func(string) string { return "" }, hold: hold}}
		if _, err := settings.reload(); err != nil {
			return err
		}
		return runDevice(ctx, deviceConfig{dir: m.dir, listen: "127.0.0.1:0", settings: settings, drain: time.Second, logf: log.logf})
	})
	m.w.await(m)
	return stop, log
}

// await waits until the coordinator says that the machine is online.
func (w *testWorld) await(m *testMachine) {
	w.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !m.online(); <-tick.C {
		if time.Since(began) > 30*time.Second {
			w.t.Fatalf("%s does not come online", m.name)
		}
	}
}

// online reports whether the coordinator says so.
func (m *testMachine) online() (online bool) {
	m.w.laptop.withCoord(func(ctx context.Context, c *coordClient) error {
		list, err := c.devices(ctx, m.w.acct())
		for _, d := range list {
			online = online || d.id == m.id.keys.deviceID() && d.status.online
		}
		return err
	})
	return online
}

// client opens the machine's state as a verb does.
func (m *testMachine) client() *client {
	m.w.t.Helper()
	c, err := openClient(m.dir, func(int, string, ...any) {})
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.w.t.Cleanup(c.close)
	return c
}

// exec runs a command by an opener and returns what it prints.
func (w *testWorld) exec(op sshOpener, device, command string) (string, error) {
	w.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	c, err := dialSSH(ctx, op, device, "")
	if err != nil {
		return "", err
	}
	defer c.close()
	var out bytes.Buffer
	err = testExec(ctx, c, command, &out)
	return out.String(), err
}

// testExec runs one command on a connection.
func testExec(ctx context.Context, c *sshClient, command string, out *bytes.Buffer) error {
	defer context.AfterFunc(ctx, func() { c.wire.Close() })()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(reqs)
	if _, err := ch.SendRequest("exec", true, ssh.Marshal(execMsg{command})); err != nil {
		return err
	}
	_, err = out.ReadFrom(ch)
	return err
}
