//go:build linux || darwin

package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestNodeSettings: hold and session.ttl hold for links and tokens to come, and
// at once when they change.
func TestNodeSettings(t *testing.T) {
	now := time.Now()
	n := &node{sessions: newSessionTable(now), peers: new(peerTable)}
	owner := ed25519.PublicKey(make([]byte, 32))
	for i, c := range []struct {
		ttl, hold, idle time.Duration
		given, lives    time.Duration
	}{
		{time.Minute, 30 * time.Second, 10 * time.Second, time.Hour, time.Minute},
		{time.Hour, time.Hour, idlePing, time.Minute, time.Minute},
		{0, time.Hour, idlePing, 0, maxSeconds * time.Second},
		{0, time.Hour, idlePing, time.Hour, time.Hour},
	} {
		conf := defaultServerConfig()
		conf.sessionTTL, conf.hold = c.ttl, c.hold
		deviceConfig{settings: settingsOf(conf)}.apply(n)
		if n.hold != c.hold || n.peers.idle != c.idle {
			t.Errorf("hold %v, idle %v", n.hold, n.peers.idle)
		}
		token := sessionToken{byte(i + 1)}
		n.sessions.add(now, token, owner, c.given)
		l, err := n.sessions.take(now.Add(c.lives-1), token, owner)
		if err != nil {
			t.Errorf("%v before its end: %v", c, err)
			continue
		}
		l.release()
		if _, err := n.sessions.take(now.Add(c.lives), token, owner); codeOf(err) != "token-expired" {
			t.Errorf("%v at its end: %v", c, err)
		}
	}
}

// TestDeviceSettings: a device that runs takes up another file of settings at
// SIGHUP: where its audit goes, its port, its methods. A wrong one changes nothing.
func TestDeviceSettings(t *testing.T) {
	dir, log := t.TempDir(), &testLog{}
	port := portFree(t)
	write := func(rest string) {
		t.Helper()
		text := fmt.Sprintf("server:\n  bind_address: 127.0.0.1\n  port: %d\n", port) + rest
		if err := os.WriteFile(filepath.Join(dir, "sessio.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	exporter := func(name string) (path, text string) {
		path = filepath.Join(dir, name)
		return path, "audit:\n  enabled: true\n  exporters:\n    - {type: file, path: " + path + "}\n"
	}
	first, text := exporter("first")
	write(text)
	settings := &liveConfig{source: configSource{dir: dir, getenv: func(string) string { return "" }}}
	if _, err := settings.reload(); err != nil {
		t.Fatal(err)
	}
	hangups := make(chan os.Signal)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- runDevice(ctx, deviceConfig{dir: dir, settings: settings, hangups: hangups, drain: time.Second, logf: log.logf})
	}()
	tried := func() {
		t.Helper()
		conf := &ssh.ClientConfig{User: "nobody-at-all", Auth: []ssh.AuthMethod{ssh.Password("wrong")}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}
		sshdUntil(t, "an answer", func() bool {
			_, err := ssh.Dial("tcp", fmt.Sprint("127.0.0.1:", port), conf)
			return err != nil && strings.Contains(err.Error(), "unable to authenticate")
		})
	}
	recorded := func(file string) func() bool {
		return func() bool {
			b, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(b), string(auditAuthFailure))
		}
	}
	said := func(what string) func() bool { return func() bool { return strings.Contains(log.String(), what) } }
	user := "auth:\n  methods: [password]\n  password:\n    users:\n      - {name: somebody, uid: 4711, gid: 4711, password_hash: \"" + hashPassword([]byte("x"), make([]byte, saltSize)) + "\"}\n"

	sshdUntil(t, "the port", said("ssh on tcp"))
	tried() // by a method that is off: nothing failed
	if recorded(first)() {
		t.Error("a password counted while passwords are off")
	}
	second, text := exporter("second")
	write(text + user)
	hangups <- syscall.SIGHUP
	sshdUntil(t, "the reload", said("settings loaded anew"))
	tried()
	sshdUntil(t, "a record in the second file", recorded(second))
	if recorded(first)() {
		t.Error("a record in the first file too")
	}
	write("colour: red\n")
	hangups <- syscall.SIGHUP
	sshdUntil(t, "the error", said("unknown key colour"))
	before := settings.get()
	write("audit:\n  enabled: true\n  exporters:\n    - {type: file, path: " + dir + "}\n" + user)
	hangups <- syscall.SIGHUP
	sshdUntil(t, "the error", said("the settings stay as they were: audit exporter file "+dir))
	if settings.get() != before {
		t.Error("half of the settings are in force")
	}
	tried()
	port = portFree(t)
	write(user)
	hangups <- syscall.SIGHUP
	sshdUntil(t, "the other port", said(fmt.Sprint("ssh on tcp 127.0.0.1:", port)))
	tried()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestSSHDBarred: a device that was revoked lets nobody in, and who was in is
// out, by whatever method.
func TestSSHDBarred(t *testing.T) {
	var revoked atomic.Bool
	c := defaultServerConfig()
	c.methods = []string{"publickey", "password"}
	c.users = []configUser{{name: "somebody", passwordHash: hashPassword([]byte("x"), make([]byte, saltSize))}}
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		d.user = "somebody"
		p.config = func() *serverConfig { return c }
		p.barred = func() error {
			if revoked.Load() {
				return coded("revoked", "this device was revoked")
			}
			return nil
		}
	})
	methods := []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(t, d.key)), ssh.Password("x")}
	var in []*ssh.Client
	for _, m := range methods {
		cl, err := d.dial(m)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		in = append(in, cl)
	}
	revoked.Store(true)
	d.srv.recheck()
	for _, cl := range in {
		cl.Wait()
	}
	for _, m := range methods {
		if cl, err := d.dial(m); err == nil {
			cl.Close()
			t.Error("in")
		}
	}
}

// TestSessionsMoreThanListed: the answer has so many; what is counted is all.
func TestSessionsMoreThanListed(t *testing.T) {
	srv := newSSHServer(sshPolicy{})
	nc, other := net.Pipe()
	defer nc.Close()
	defer other.Close()
	for range maxListed + 7 {
		srv.conns[&sshConnection{meter: newSSHMeter(nc, time.Now())}] = true
	}
	a, err := (&lender{ssh: srv}).sessions(lendRequest{Op: "sessions"})
	if err != nil || len(a.Sessions) != maxListed || a.Stats.Total != maxListed+7 {
		t.Errorf("%d listed, %+v, %v", len(a.Sessions), a.Stats, err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	a.Sessions = a.Sessions[:10] // what a pipe holds
	err = (&program{stdio: stdio{out: write}, now: time.Now}).listSessions(a)
	write.Close()
	said, _ := io.ReadAll(read)
	if want := fmt.Sprintf("and %d more\n", maxListed-3); err != nil || !strings.HasSuffix(string(said), want) {
		t.Errorf("%q, %v", said, err)
	}
}
