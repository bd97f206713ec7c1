package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A coordRun is a running coordinator and what it prints.
type coordRun struct {
	t    *testing.T
	out  *bufio.Scanner
	stop func() error
}

func runCoordTest(t *testing.T, cfg coordConfig) *coordRun {
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := runCoordinator(ctx, cfg, w, func(format string, args ...any) { t.Logf("coordinator: "+format, args...) })
		w.CloseWithError(err)
		ended <- err
	}()
	return &coordRun{t, bufio.NewScanner(r), func() error { cancel(errors.New("told to stop")); return <-ended }}
}

func (r *coordRun) line() string {
	r.t.Helper()
	if !r.out.Scan() {
		r.t.Fatalf("no line more: %v", r.out.Err())
	}
	return r.out.Text()
}

func TestRunCoordinatorFirstDay(t *testing.T) {
	before := runtime.NumGoroutine()
	cfg := coordConfig{dir: filepath.Join(t.TempDir(), "state"), udp: "127.0.0.1:0", signup: signupClaim}
	run := runCoordTest(t, cfg)
	ready, hint, command := run.line(), run.line(), run.line()
	text, ok := strings.CutPrefix(command, "sessio account create -key ~/.ssh/id_ed25519 ")
	word, err := parseCoordWord(text)
	next := netip.MustParseAddrPort(word.addr).Port() + 1
	if !ok || err != nil || word.claim == (claimSecret{}) || !strings.HasPrefix(hint, "no account yet: ") ||
		ready != "coordinator ready at "+word.addr+fmt.Sprintf(" (udp; echo on %d), keys ", next)+string(word.keys) {
		t.Fatalf("printed:\n%s\n%s\n%s\n%v", ready, hint, command, err)
	}
	if _, err := os.Stat(filepath.Join(cfg.dir, "coord", "identity")); err != nil {
		t.Error(err)
	}

	laptop := presTestIdentity(t)
	owner := newCoordTestAcctAt(t, laptop.keys, time.Now())
	err = withCoordAt(t.Context(), laptop, word.addr, word.keys, func(c *coordClient) error {
		return c.create(t.Context(), word.claim, owner.log)
	})
	if err != nil {
		t.Fatal(err)
	}
	coordRunBeat(t, word, laptop, owner.id())
	if err := run.stop(); err != nil {
		t.Errorf("stopped: %v", err)
	}

	run = runCoordTest(t, cfg)
	again := run.line()
	if !strings.HasSuffix(again, "keys "+string(word.keys)) {
		t.Errorf("started again it says %q", again)
	}
	coordRunBeat(t, coordWord{addr: strings.Fields(again)[3], keys: word.keys}, laptop, owner.id())
	if err := run.stop(); err != nil {
		t.Errorf("stopped: %v", err)
	}
	if run.out.Scan() {
		t.Errorf("an account was made, and it says %q", run.out.Text())
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			b := make([]byte, 1<<20)
			t.Fatalf("goroutines are left:\n%s", b[:runtime.Stack(b, true)])
		}
	}
}

// coordRunBeat beats, having learnt the coordinator's keys by TLS.
func coordRunBeat(t *testing.T, word coordWord, id *identity, acct acctID) {
	t.Helper()
	var keys publicKeys
	err := withCoordAt(t.Context(), id, word.addr, word.keys, func(c *coordClient) (err error) {
		keys, err = keysOfCert(c.conn.ConnectionState().TLS.PeerCertificates[0].Raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.Dial("udp", word.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	coordNetBeat(t, udp, id, keys, acct)
}

func TestRunCoordinatorFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]coordConfig{
		"HTTP port in use":     {dir: t.TempDir(), udp: "127.0.0.1:0", page: pageConfig{http: taken.Addr().String()}},
		"UDP address is none":  {dir: t.TempDir(), udp: "127.0.0.1:none"},
		"the second is none":   {dir: t.TempDir(), udp: "127.0.0.1:0", udp2: "127.0.0.1:none"},
		"the URL is none":      {dir: t.TempDir(), udp: "127.0.0.1:0", url: "coord.example.com"},
		"directory is a file":  {dir: file, udp: "127.0.0.1:0"},
		"a claim that is none": {dir: coordTestBadClaim(t), udp: "127.0.0.1:0"},
	} {
		cfg.signup = signupClaim
		if err := runCoordinator(t.Context(), cfg, io.Discard, t.Logf); err == nil {
			t.Errorf("%s, and it ran", name)
		}
	}
}

func coordTestBadClaim(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "coord"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "coord", "claim"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCoordHost(t *testing.T) {
	for _, tt := range []struct{ udp, url, want string }{
		{":7722", "https://coord.example.com", "coord.example.com"},
		{":7722", "https://coord.example.com:8443/x", "coord.example.com"},
		{"192.0.2.1:7722", "", "192.0.2.1"},
		{"[2001:db8::1]:7722", "", "2001:db8::1"},
		{"192.0.2.1:7722", "https://[2001:db8::2]", "2001:db8::2"},
		{":7722", "", machineAddr()},
		{"0.0.0.0:7722", "", machineAddr()},
		{"[::]:7722", "", machineAddr()},
	} {
		if got, err := coordHost(coordConfig{udp: tt.udp, url: tt.url}); err != nil || got != tt.want {
			t.Errorf("-udp %q -url %q: %q, %v; want %q", tt.udp, tt.url, got, err, tt.want)
		}
	}
}

func TestCoordHTTP(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the page") })
	go func() { ended <- serveCoordHTTP(ctx, ln, page, nil) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/healthz", "ok\n", 200},
		{"GET", "/", "the page", 200},
		{"POST", "/healthz", "the page", 200}, // it knows how to refuse
	} {
		req, err := http.NewRequest(tt.method, "http://"+ln.Addr().String()+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != tt.status || string(b) != tt.body {
			t.Errorf("%s %s: %d %q, %v", tt.method, tt.path, res.StatusCode, b, err)
		}
	}
	stalled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	why := errors.New("told to stop")
	cancel(why)
	if err := <-ended; err != why {
		t.Errorf("ended with %v", err)
	}
}
