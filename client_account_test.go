//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A createTest is a coordinator without an account, and a machine that is to
// make one.
type createTest struct {
	t   *testing.T
	w   *testWorld
	dir string
	key string
	out *os.File
}

func newCreateTest(t *testing.T) *createTest {
	t.Helper()
	c := &createTest{t: t, w: &testWorld{t: t}, dir: filepath.Join(t.TempDir(), "state")}
	c.w.startCoordinator(t.TempDir(), "127.0.0.1:0", &testLog{})
	c.key = filepath.Join(t.TempDir(), "id")
	id, err := loadIdentity(filepath.Join(t.TempDir(), "some"))
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(id.sign, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.out, err = os.Create(filepath.Join(t.TempDir(), "out")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.out.Close() })
	return c
}

// creating is account create as typed.
func (c *createTest) creating() *creating {
	c.t.Helper()
	a := &creating{p: &program{stdio: stdio{nil, c.out, c.out}, now: time.Now}, keyFile: c.key, name: "laptop"}
	var dir string = c.dir
	if err := a.read(stateDir{&dir}, c.w.word.String()); err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *createTest) withCoord(a *creating, f func(ctx context.Context, cc *coordClient) error) {
	c.t.Helper()
	ctx, stop := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer stop()
	err := withCoordAt(ctx, a.id, a.word.addr, a.word.keys, func(cc *coordClient) error { return f(ctx, cc) })
	if err != nil {
		c.t.Fatal(err)
	}
}

// whole checks that there is one account, and that this machine is in it.
func (c *createTest) whole() {
	c.t.Helper()
	t, err := openTrustStore(c.dir, time.Now)
	if err != nil {
		c.t.Fatal(err)
	}
	if d := t.state().devices(); len(d) != 1 || d[0].name != "laptop" {
		c.t.Errorf("devices %v", d)
	}
	if r, err := t.fsck(); err != nil || r.records != 2 || len(r.found) != 0 {
		c.t.Errorf("fsck: %+v, %v", r, err)
	}
	if _, err := os.Stat(filepath.Join(c.dir, createFile)); !errors.Is(err, fs.ErrNotExist) {
		c.t.Errorf("left behind: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(c.dir, signerFile)); err != nil || strings.TrimSpace(string(b)) != c.key {
		c.t.Errorf("signer %q, %v", b, err)
	}
}

// Cut short after each of its steps, the same words finish it.
func TestCreateCutShort(t *testing.T) {
	for stage, name := range []string{"records on disk", "coordinator has it", "anchor set", "records added"} {
		t.Run(name, func(t *testing.T) {
			c := newCreateTest(t)
			a := c.creating()
			c.withCoord(a, func(ctx context.Context, cc *coordClient) error {
				n, err := a.begin(ctx, cc)
				if err != nil || stage == 0 {
					return err
				}
				if err := cc.create(ctx, a.word.claim, n.Records); err != nil || stage == 1 {
					return err
				}
				keys, err := cc.coordKeys()
				if err != nil {
					return err
				}
				rec, err := parseRecord(n.Records[0])
				if err != nil {
					return err
				}
				if err := a.trust.setAnchor(anchor{acctID(rec.hash), a.word.addr, keys}); err != nil || stage == 2 {
					return err
				}
				_, err = a.trust.add(n.Records...)
				return err
			})
			again := c.creating()
			c.withCoord(again, again.run)
			c.whole()
		})
	}
}

// A coordinator that refuses for good makes what was begun void.
func TestCreateRefused(t *testing.T) {
	c := newCreateTest(t)
	good := c.w.word
	c.w.word.claim[0] ^= 1
	a := c.creating()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	err := withCoordAt(ctx, a.id, a.word.addr, a.word.keys, func(cc *coordClient) error { return a.run(ctx, cc) })
	if codeOf(err) != "claim-unknown" {
		t.Errorf("wrong claim: %v", err)
	}
	c.w.word = good
	a = c.creating()
	c.withCoord(a, a.run)
	c.whole()
}

// runKilled runs sessio again and again, killed a little later each time, until
// it ends by itself.
func runKilled(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	for after := time.Duration(0); ; after += 3 * time.Millisecond {
		cmd := toolCommand(args...)
		b, err := runUntil(cmd, after)
		if cmd.ProcessState.ExitCode() != -1 {
			t.Logf("killed %d times: sessio %s", after/(3*time.Millisecond), args[0])
			return b, err
		}
	}
}

func runUntil(cmd *exec.Cmd, after time.Duration) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	kill := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer kill.Stop()
	err := cmd.Wait()
	return out.String(), err
}

// Killed at any moment, each of the three finishes by the same words.
func TestKilledVerbs(t *testing.T) {
	t.Parallel()
	c := newCreateTest(t)
	out, err := runKilled(t, "account", "create", "-dir", c.dir, "-key", c.key, "-name", "laptop", c.w.word.String())
	if err != nil && !strings.Contains(out, "already") {
		t.Fatalf("account create: %v\n%s", err, out)
	}
	c.whole()
	ticket, err := runUntil(toolCommand("ticket", "-dir", c.dir, "-name", "attic", "-users", "root"), time.Minute)
	if err != nil {
		t.Fatalf("ticket: %v\n%s", err, ticket)
	}
	attic := filepath.Join(t.TempDir(), "attic")
	if out, err := runKilled(t, "join", "-dir", attic, "-no-wait", strings.Fields(ticket)[2]); err != nil {
		t.Fatalf("join: %v\n%s", err, out)
	}
	if out, err := runKilled(t, "trust", "sign", "-dir", c.dir, "attic"); err != nil || !strings.Contains(out, "signed") {
		t.Fatalf("trust sign: %v\n%s", err, out)
	}
	out, err = runUntil(toolCommand("trust", "log", "-dir", c.dir), time.Minute)
	if lines := strings.Count(out, "\n"); err != nil || lines != 3 || strings.Count(out, "attic") != 1 {
		t.Errorf("log: %v\n%s", err, out)
	}
}

func toolCommand(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), toolEnv+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}
