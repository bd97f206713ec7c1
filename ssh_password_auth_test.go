//go:build linux || darwin

package main

// Passwords, tries, and logins that are judged again.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// startPasswordTest is a server with the user's password "right" and somebody
// else's. What is compared is collected.
func startPasswordTest(t *testing.T, methods ...string) (k *keysTest, compared func() string) {
	var mu sync.Mutex
	var seen []string
	k = startKeysTest(t, func(k *keysTest, p *sshPolicy) {
		k.set(func(c *serverConfig) {
			c.methods = methods
			c.whitelist = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} // no bans here
			c.users = []configUser{{name: k.user, passwordHash: "right"}, {name: "else", passwordHash: "other"}}
		})
		p.passwordFits = func(hash string, password []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, hash)
			return hash == string(password)
		}
		mine := p.account
		p.account = func(user string) (osAccount, error) {
			if user != k.user {
				return osAccount{}, coded("user", "nobody")
			}
			return mine(user)
		}
	})
	return k, func() string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { seen = nil }()
		return strings.Join(seen, " ")
	}
}

// asks is a stock client that answers prompts with password.
func (k *keysTest) asks(password, method string) *exec.Cmd {
	script := k.write("askpass", []byte("#!/bin/sh\necho \"$1\" >>"+k.dir+"/prompts\necho '"+password+"'\n"))
	if err := os.Chmod(script, 0o700); err != nil {
		k.Fatal(err)
	}
	cmd := k.ssh("-o", "BatchMode=no", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications="+method, "-o", "NumberOfPasswordPrompts=2", "h", "echo in")
	cmd.Args = slices.DeleteFunc(cmd.Args, func(a string) bool { return a == "BatchMode=yes" })
	keysTestTidy(cmd)
	cmd.Env = append(cmd.Env, "SSH_ASKPASS="+script, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:0")
	return cmd
}

// keysTestTidy removes options whose values were removed: the first value
// counts for ssh.
func keysTestTidy(cmd *exec.Cmd) {
	for i := 1; i+1 < len(cmd.Args); {
		if next := cmd.Args[i+1]; (cmd.Args[i] == "-o" || cmd.Args[i] == "-i") && strings.HasPrefix(next, "-") {
			cmd.Args = slices.Delete(cmd.Args, i, i+1)
		} else {
			i++
		}
	}
}

// TestPasswordStock: both methods with a stock client, right and wrong.
func TestPasswordStock(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"password", "keyboard-interactive"} {
		k, _ := startPasswordTest(t, "password")
		k.want(k.asks("right", method), "in\n", 0)
		if l := k.last(); l.method != method || l.device != "password" || l.key != nil || len(l.caps) != len(sshdAllCaps) {
			t.Errorf("%+v, caps %v, method %s", l, l.caps, l.method)
		}
		if k.failures() != "" {
			t.Error(k.failures())
		}
		k.want(k.asks("wrong", method), "", 255)
		if want := k.user + " " + method + ", " + k.user + " " + method; k.failures() != want {
			t.Errorf("failures %q, want %q", k.failures(), want)
		}
		if strings.Contains(k.logged(), "right") {
			t.Error("the password is in the log")
		}
		k.want(k.ssh("h", "true"), "", 255) // keys are off, whatever lines say
	}
}

// TestPasswordOff: without the method nothing is compared, whoever asks.
func TestPasswordOff(t *testing.T) {
	k, compared := startPasswordTest(t, "publickey")
	k.lines(k.own())
	for _, m := range []ssh.AuthMethod{ssh.Password("right"), keysTestAnswer("right")} {
		if _, err := k.dial(m); err == nil {
			t.Error("in by a password")
		}
	}
	if got := compared(); got != "" {
		t.Error(got)
	}
	k.want(k.ssh("h", "echo in"), "in\n", 0)
}

func keysTestAnswer(answer string) ssh.AuthMethod {
	return ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		return slices.Repeat([]string{answer}, len(questions)), nil
	})
}

// TestPasswordWork: a password is compared once, for users that there are and
// that there are not; never an empty or endless one.
func TestPasswordWork(t *testing.T) {
	k, compared := startPasswordTest(t, "password", "publickey")
	try := func(user, password string) bool {
		cl, err := ssh.Dial("tcp", k.addr, &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.Password(password)},
			HostKeyCallback: ssh.FixedHostKey(sshdSigner(t, k.host).PublicKey())})
		if err == nil {
			cl.Close()
		}
		return err == nil
	}
	for _, c := range []struct {
		user, password string
		in             bool
		work           int
	}{
		{k.user, "right", true, 1},
		{k.user, "wrong", false, 1},
		{"nobody-here", "wrong", false, 1},
		{"nobody-here", "right", false, 1},
		{"nobody-here", "other", false, 1},
		{"", "right", false, 1},
		{"else", "other", false, 1}, // right, and the system does not know the user
		{k.user, "", false, 0},
		{"nobody-here", "", false, 0},
		{k.user, strings.Repeat("x", maxPassword+1), false, 0},
	} {
		if in := try(c.user, c.password); in != c.in {
			t.Errorf("%s, %.10q: in is %v", c.user, c.password, in)
		}
		if n := len(strings.Fields(compared())); n != c.work {
			t.Errorf("%s, %.10q: %d comparisons, want %d", c.user, c.password, n, c.work)
		}
	}
}

// TestPasswordTries: six real failures end the connection; offers are none.
func TestPasswordTries(t *testing.T) {
	k, compared := startPasswordTest(t, "password", "publickey")
	var keys []ssh.Signer
	for range 6 {
		keys = append(keys, sshdSigner(t, sshdKey(t)))
	}
	var banner string
	n := 0
	_, err := ssh.Dial("tcp", k.addr, &ssh.ClientConfig{User: k.user, HostKeyCallback: ssh.FixedHostKey(sshdSigner(t, k.host).PublicKey()),
		BannerCallback: func(text string) error { banner += text; return nil },
		Auth: []ssh.AuthMethod{ssh.PublicKeys(keys...), ssh.RetryableAuthMethod(ssh.PasswordCallback(func() (string, error) {
			n++
			return "wrong", nil
		}), 0)}})
	if err == nil || n > maxAuthTries+1 {
		t.Errorf("%d tries, %v", n, err)
	}
	if got := len(strings.Fields(compared())); got != maxAuthTries {
		t.Errorf("%d comparisons", got)
	}
	if !strings.Contains(banner, "too many authentication failures") {
		t.Errorf("banner %q", banner)
	}
	if err := k.lastErr(); !errors.Is(err, errAuthTries) {
		t.Error(err)
	}
	if got := strings.Count(k.failures(), "password"); got != maxAuthTries || strings.Contains(k.failures(), "publickey") {
		t.Error(k.failures())
	}
}

// TestWrongSignatureIsAFailure: of each kind of key, once, and an offer is
// none. It pins what the library says of a signature.
func TestWrongSignatureIsAFailure(t *testing.T) {
	k := startKeysTest(t, nil)
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, key := range []any{sshdKey(t), priv, ec, trustTestSK{ed: sshdKey(t)}, trustTestSK{ec: ec}} {
		signer, ok := key.(ssh.Signer)
		if !ok {
			if signer, err = ssh.NewSignerFromKey(key); err != nil {
				t.Fatal(err)
			}
		}
		k.lines(k.line(signer.PublicKey()))
		if _, err := k.dial(ssh.PublicKeys(keysTestForger{signer})); err == nil {
			t.Fatalf("%s: in by a wrong signature", signer.PublicKey().Type())
		}
		k.lastErr()
		if want = strings.TrimPrefix(want+", "+k.user+" publickey", ", "); k.failures() != want {
			t.Fatalf("%s: failures %q; %v", signer.PublicKey().Type(), k.failures(), k.lastErr())
		}
	}
}

// A keysTestForger signs something else than it is asked to.
type keysTestForger struct{ ssh.Signer }

func (f keysTestForger) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return f.Signer.Sign(r, append([]byte("x"), data...))
}

func (f keysTestForger) SignWithAlgorithm(r io.Reader, data []byte, algo string) (*ssh.Signature, error) {
	if s, ok := f.Signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(r, append([]byte("x"), data...), algo)
	}
	return f.Sign(r, data)
}

// TestAgentOfSixKeys: the sixth key of a stock client's agent logs in.
func TestAgentOfSixKeys(t *testing.T) {
	k := startKeysTest(t, nil)
	ring := agent.NewKeyring()
	for i := range 6 {
		key := sshdKey(t)
		if i == 5 {
			key = k.key
		}
		if err := ring.Add(agent.AddedKey{PrivateKey: &key}); err != nil {
			t.Fatal(err)
		}
	}
	sock := k.dir + "/agent"
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			agent.ServeAgent(ring, c)
			c.Close()
		}
	})
	defer serving.Wait()
	defer ln.Close()
	k.lines(k.own())
	cmd := k.ssh("-o", "IdentitiesOnly=no", "h", "echo in")
	cmd.Args = slices.DeleteFunc(cmd.Args, func(a string) bool { return a == "IdentitiesOnly=yes" || a == k.dir+"/id" })
	cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+sock)
	keysTestTidy(cmd)
	k.want(cmd, "in\n", 0)
	if k.failures() != "" {
		t.Error(k.failures())
	}
}

// TestJudgedAgain: a login goes on while its line or entry is there, and its
// method on.
func TestJudgedAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		auth   func(k *keysTest) ssh.AuthMethod
		change func(k *keysTest)
	}{
		{"line gone", nil, func(k *keysTest) { k.lines("# nobody") }},
		{"line narrowed to elsewhere", nil, func(k *keysTest) { k.lines(`from="10.0.0.0/8" ` + k.own()) }},
		{"file unsafe", nil, func(k *keysTest) { os.Chmod(k.acct.home+"/.sessio/"+localKeysFile, 0o622) }},
		{"keys off", nil, func(k *keysTest) { k.set(func(c *serverConfig) { c.methods = []string{"password"} }) }},
		{"user gone", func(*keysTest) ssh.AuthMethod { return ssh.Password("right") }, func(k *keysTest) {
			k.set(func(c *serverConfig) { c.users = c.users[1:] })
		}},
		{"passwords off", func(*keysTest) ssh.AuthMethod { return ssh.Password("right") }, func(k *keysTest) {
			k.set(func(c *serverConfig) { c.methods = []string{"publickey"} })
		}},
	} {
		k, _ := startPasswordTest(t, "publickey", "password")
		k.lines(k.own())
		auth := ssh.PublicKeys(sshdSigner(t, k.key))
		if c.auth != nil {
			auth = c.auth(k)
		}
		cl, err := k.dial(auth)
		if err != nil {
			t.Fatal(c.name, err)
		}
		k.srv.recheck()
		if out, err := k.newSession(cl).Output("echo in"); string(out) != "in\n" {
			t.Fatalf("%s: ended without a reason: %v", c.name, err)
		}
		c.change(k)
		k.srv.recheck()
		cl.Wait()
		k.lastErr()
	}
}

// TestLoginAccountOfAnEntry: who passwd does not know has uid and gid, and
// nobody becomes root by their absence.
func TestLoginAccountOfAnEntry(t *testing.T) {
	own, err := ownAccount()
	if err != nil {
		t.Fatal(err)
	}
	conf := func(u configUser) *serverConfig { return &serverConfig{users: []configUser{u}} }
	got, err := loginAccount(own.name, conf(configUser{name: own.name, home: "/tmp", shell: "/bin/sh", env: []string{"A=1"}}))
	if err != nil || got.uid != own.uid || got.home != "/tmp" || got.shell != "/bin/sh" || fmt.Sprint(got.env) != "[A=1]" {
		t.Errorf("%+v, %v", got, err)
	}
	id := configUser{name: "sessio-nobody", uid: own.uid, gid: own.gid, hasID: true}
	if got, err = loginAccount(id.name, conf(id)); err != nil || got.uid != id.uid || got.gid != id.gid || got.home != "/" || got.shell != fallbackShell || len(got.groups) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, u := range []configUser{
		{name: "sessio-nobody"},
		{name: own.name, uid: own.uid + 1, gid: own.gid, hasID: true},
		{name: own.name, uid: own.uid, gid: own.gid + 1, hasID: true},
		{name: own.name, shell: "/no/such/shell"},
		{name: own.name, shell: "/etc/passwd"},
	} {
		if got, err := loginAccount(u.name, conf(u)); codeOf(err) != "user" || got.name != "" {
			t.Errorf("%+v: %+v, %v", u, got, err)
		}
	}
	id.uid += 7
	if got, err := loginAccount(id.name, conf(id)); (err == nil) != (os.Geteuid() == 0) || err == nil && got.uid != id.uid {
		t.Errorf("%+v, %v", got, err)
	}
}
