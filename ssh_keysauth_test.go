//go:build linux || darwin

package main

// Stock clients with keys and certificates that stand in authorized_keys.local.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// A keysTest is a server to which the log says nothing, and a home with an
// authorized_keys.local.
type keysTest struct {
	*sshdTest

	mu     sync.Mutex
	conf   *serverConfig // guarded by mu
	failed []string      // what onAuthFailure was told
	logins []*sshLogin
}

func startKeysTest(t *testing.T, change func(*keysTest, *sshPolicy)) *keysTest {
	k := &keysTest{conf: defaultServerConfig()}
	k.sshdTest = startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		k.sshdTest = d
		p.authorize = func(ssh.PublicKey, string) (sshGrant, error) {
			return sshGrant{}, coded("unknown-device", "no signer has signed this device")
		}
		p.config = func() *serverConfig {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.conf
		}
		p.onAuthFailure = func(_ netip.Addr, user, method string, err error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.failed = append(k.failed, user+" "+method)
		}
		p.onAuthSuccess = func(_ netip.Addr, l *sshLogin) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.logins = append(k.logins, l)
		}
		if change != nil {
			change(k, p)
		}
	})
	return k
}

// set makes other settings of those in force.
func (k *keysTest) set(change func(c *serverConfig)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := *k.conf
	change(&c)
	k.conf = &c
}

// lines sets the file of the user.
func (k *keysTest) lines(lines ...string) {
	k.Helper()
	if err := os.MkdirAll(k.acct.home+"/.sessio", 0o700); err != nil {
		k.Fatal(err)
	}
	k.write(".sessio/"+localKeysFile, []byte(strings.Join(lines, "\n")+"\n"))
}

func (k *keysTest) line(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// own is the line of the client's key.
func (k *keysTest) own() string { return k.line(sshdSigner(k.T, k.key).PublicKey()) }

func (k *keysTest) failures() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Join(k.failed, ", ")
}

// last is the latest login.
func (k *keysTest) last() *sshLogin {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.logins) == 0 {
		k.Fatal("nobody has logged in")
	}
	return k.logins[len(k.logins)-1]
}

// TestKeysStock: a stock client logs in by a line, and each option has its
// effect on what the session is given.
func TestKeysStock(t *testing.T) {
	t.Parallel()
	k := startKeysTest(t, nil)
	const refused = 255
	for _, c := range []struct {
		options string
		code    int
		limits  string // caps, env, permitOpen, permitListen, noAgent
	}{
		{"", 0, "[shell exec sftp forward pty] [] [] [] false"},
		{"restrict", 0, "[shell exec sftp] [] [] [] true"},
		{"restrict,pty", 0, "[shell exec sftp pty] [] [] [] true"},
		{"no-port-forwarding,no-agent-forwarding", 0, "[shell exec sftp pty] [] [] [] true"},
		{`environment="A=1"`, 0, "[shell exec sftp forward pty] [] [] [] false"},
		{`permitopen="h:80",permitlisten="81"`, 0, "[shell exec sftp forward pty] [] [h:80] [81] false"},
		{`from="127.0.0.0/8"`, 0, "[shell exec sftp forward pty] [] [] [] false"},
		{`from="127.0.0.?"`, 0, "[shell exec sftp forward pty] [] [] [] false"},
		{`from="10.0.0.0/8"`, refused, ""},
		{`from="*,!127.0.0.1"`, refused, ""},
		{`expiry-time="20991231Z"`, 0, "[shell exec sftp forward pty] [] [] [] false"},
		{`expiry-time="20200101"`, refused, ""},
		{"cert-authority", refused, ""},
		{"frobnicate", refused, ""},
		{"verify-required", refused, ""},
	} {
		k.lines("# a comment", strings.TrimSpace(c.options+" "+k.own()))
		_, stderr, code := k.run(k.ssh("h", "true"))
		if code != c.code {
			t.Errorf("%s: code %d, %s", c.options, code, stderr)
			continue
		}
		if code == 0 {
			l := k.last()
			if got := fmt.Sprint(l.caps, " ", l.env, " ", l.permitOpen, " ", l.permitListen, " ", l.noAgent); got != c.limits {
				t.Errorf("%s: %s", c.options, got)
			}
			if l.method != "publickey" || !strings.HasPrefix(l.device, "SHA256:") || l.from.String() != "127.0.0.1" {
				t.Errorf("%s: %+v", c.options, l)
			}
		}
	}
	if k.failures() != "" {
		t.Errorf("refused keys are no failures: %s", k.failures())
	}
	for _, want := range []string{`line 2 grants nothing: option "frobnicate" is not known here`, "verify-required"} {
		if !strings.Contains(k.logged(), want) {
			t.Errorf("log lacks %q", want)
		}
	}
	if err := os.Chmod(k.acct.home+"/.sessio/"+localKeysFile, 0o666); err != nil {
		t.Fatal(err)
	}
	k.want(k.ssh("h", "true"), "", refused)
	k.want(k.ssh("h", "true"), "", refused)
	if n := strings.Count(k.logged(), "may be written by others"); n != 1 {
		t.Errorf("said %d times that others may write the file", n)
	}
}

// TestKeysEnvironment: only if the settings say so, and a forced command
// travels with the login.
func TestKeysEnvironment(t *testing.T) {
	k := startKeysTest(t, func(k *keysTest, p *sshPolicy) { k.set(func(c *serverConfig) { c.permitUserEnv = true }) })
	k.lines(`command="echo forced",environment="A=1" ` + k.own())
	k.settle(k.mustDial())
	if l := k.last(); fmt.Sprint(l.env) != "[A=1]" || l.command == nil || *l.command != "echo forced" {
		t.Errorf("%+v", l)
	}
}

// TestKeysElsewhere: a directory or a pattern takes the place of the home.
func TestKeysElsewhere(t *testing.T) {
	k := startKeysTest(t, nil)
	k.lines(k.own())
	dir := t.TempDir()
	k.set(func(c *serverConfig) { c.keysDir = dir })
	k.want(k.ssh("h", "true"), "", 255)
	if err := os.Mkdir(filepath.Join(dir, k.user), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, k.user, "authorized_keys"), []byte(k.own()), 0o644); err != nil {
		t.Fatal(err)
	}
	k.want(k.ssh("h", "true"), "", 0)
	k.set(func(c *serverConfig) { c.keysDir, c.keysPattern = "", filepath.Join(dir, "{user}", "authorized_keys") })
	k.want(k.ssh("h", "true"), "", 0)
}

// TestKeysLogGoesFirst: a device that the log has revoked stays out whatever
// line it stands in, and one that the log narrows stays narrow.
func TestKeysLogGoesFirst(t *testing.T) {
	var lifted atomic.Bool
	k := startKeysTest(t, func(k *keysTest, p *sshPolicy) {
		mine := sshdSigner(t, k.key).PublicKey().Marshal()
		p.authorize = func(key ssh.PublicKey, user string) (sshGrant, error) {
			if !bytes.Equal(key.Marshal(), mine) {
				return sshGrant{}, coded("unknown-device", "nobody's")
			}
			if !lifted.Load() {
				return sshGrant{}, coded("revoked", "laptop is revoked")
			}
			return sshGrant{device: "laptop", caps: []string{"sftp"}}, nil
		}
	})
	k.lines(k.own(), "cert-authority "+k.own())
	self, other := sshdSigner(t, k.key), sshdSigner(t, sshdKey(t))
	ways := map[string]ssh.Signer{
		"the key":                  self,
		"a certificate for it":     k.cert(self, self, nil),
		"a certificate by it":      k.cert(other, self, nil),
		"a key that is in no line": other,
	}
	for name, signer := range ways {
		if _, err := k.dial(ssh.PublicKeys(signer)); err == nil {
			t.Errorf("revoked, and in by %s", name)
		}
	}
	lifted.Store(true)
	for _, name := range []string{"the key", "a certificate for it"} {
		cl, err := k.dial(ssh.PublicKeys(ways[name]))
		if err != nil {
			t.Fatal(name, err)
		}
		k.settle(cl)
		cl.Close()
		if l := k.last(); l.device != "laptop" || fmt.Sprint(l.caps) != "[sftp]" {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

// cert makes a certificate of ca for key; change may alter it before it is
// signed.
func (k *keysTest) cert(key, ca ssh.Signer, change func(*ssh.Certificate)) ssh.Signer {
	k.Helper()
	c := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.UserCert, KeyId: "id", ValidPrincipals: []string{k.user}, ValidBefore: ssh.CertTimeInfinity}
	if change != nil {
		change(c)
	}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		k.Fatal(err)
	}
	s, err := ssh.NewCertSigner(c, key)
	if err != nil {
		k.Fatal(err)
	}
	return s
}

// TestKeysCertificate: certificates made by ssh-keygen, shown by stock ssh.
func TestKeysCertificate(t *testing.T) {
	t.Parallel()
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("no ssh-keygen here")
	}
	k := startKeysTest(t, nil)
	k.write("id.pub", []byte(k.own()+"\n"))
	var lines [2]string // of the right and a wrong authority
	for i, name := range []string{"ca", "wrong"} {
		key := sshdKey(t)
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			t.Fatal(err)
		}
		k.write(name, pem.EncodeToMemory(block))
		lines[i] = k.line(sshdSigner(t, key).PublicKey())
	}
	for _, c := range []struct {
		options string // of the line
		ca      string
		args    string // of ssh-keygen
		why     string // "" it is let in
		limits  string
	}{
		{"", "ca", "-n USER", "", "[shell exec sftp forward pty] - false"},
		{"", "ca", "-n other,USER", "", "[shell exec sftp forward pty] - false"},
		{"", "ca", "-n other", `principal "USER" not in the set`, ""},
		{"", "ca", "", "names no principals", ""},
		{"", "wrong", "-n USER", "neither the log nor ", ""},
		{"", "ca", "-n USER -V 20200101:20200102", "expired", ""},
		{"", "ca", "-n USER -V 20900101:20900102", "not yet valid", ""},
		{"", "ca", "-n USER -V -1h:+1h", "", "[shell exec sftp forward pty] - false"},
		{`,principals="ops"`, "ca", "-n USER", "principals", ""},
		{`,principals="x,ops"`, "ca", "-n ops", "", "[shell exec sftp forward pty] - false"},
		{"", "ca", "-n USER -O clear", "", "[shell exec sftp] - true"},
		{"", "ca", "-n USER -O no-pty", "", "[shell exec sftp forward] - false"},
		{"", "ca", "-n USER -O no-agent-forwarding -O no-port-forwarding", "", "[shell exec sftp pty] - true"},
		{",restrict", "ca", "-n USER", "", "[shell exec sftp] - true"},
		{"", "ca", "-n USER -O force-command=id", "", "[shell exec sftp forward pty] id false"},
		{`,command="id"`, "ca", "-n USER -O force-command=id", "", "[shell exec sftp forward pty] id false"},
		{`,command="ls"`, "ca", "-n USER -O force-command=id", "different commands", ""},
		{`,command="ls"`, "ca", "-n USER", "", "[shell exec sftp forward pty] ls false"},
		{"", "ca", "-n USER -O source-address=10.0.0.0/8", "not for 127.0.0.1", ""},
		{"", "ca", "-n USER -O source-address=10.0.0.0/8,127.0.0.1", "", "[shell exec sftp forward pty] - false"},
		{`,from="10.0.0.0/8"`, "ca", "-n USER", "not from 127.0.0.1", ""},
		{"", "ca", "-n USER -O critical:frob=1", "unsupported critical option", ""},
		{"", "ca", "-n USER -O verify-required", "unsupported critical option", ""},
		{"", "ca", "-n USER -O extension:frob=1", "", "[shell exec sftp forward pty] - false"},
	} {
		k.lines("cert-authority" + c.options + " " + lines[0])
		args := append([]string{"-q", "-s", k.dir + "/" + c.ca, "-I", "me"}, strings.Fields(strings.ReplaceAll(c.args, "USER", k.user))...)
		if out, err := exec.Command(keygen, append(args, k.dir+"/id.pub")...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v, %s", c.args, err, out)
		}
		_, stderr, code := k.run(k.ssh("-o", "CertificateFile="+k.dir+"/id-cert.pub", "h", "true"))
		if (code == 0) != (c.why == "") {
			t.Errorf("%s / %s: code %d, %s", c.options, c.args, code, stderr)
			continue
		}
		if why := strings.ReplaceAll(c.why, "USER", k.user); why != "" {
			if err := k.lastErr(); !strings.Contains(fmt.Sprint(err), why) {
				t.Errorf("%s / %s: %v", c.options, c.args, err)
			}
			continue
		}
		l, command := k.last(), "-"
		if l.command != nil {
			command = *l.command
		}
		if got := fmt.Sprint(l.caps, " ", command, " ", l.noAgent); got != c.limits {
			t.Errorf("%s / %s: %s", c.options, c.args, got)
		}
		if !strings.HasPrefix(l.device, `certificate "me" of SHA256:`) {
			t.Error(l.device)
		}
	}
	if k.failures() != "" {
		t.Errorf("refused certificates are no failures: %s", k.failures())
	}
}

// lastErr waits for all connections to end and says how the last one did. A
// client that has been answered is a connection that was counted.
func (k *keysTest) lastErr() (err error) {
	sshdUntil(k.T, "no connections", func() bool {
		k.srv.mu.Lock()
		begun := k.srv.lastID
		k.srv.mu.Unlock()
		k.sshdTest.mu.Lock()
		defer k.sshdTest.mu.Unlock()
		if len(k.errs) > 0 {
			err = k.errs[len(k.errs)-1]
		}
		return len(k.errs) == begun
	})
	return err
}

// settle returns when the server has told of the login: the client hears of it
// a little earlier.
func (k *keysTest) settle(cl *ssh.Client) {
	if _, _, err := cl.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		k.Fatal(err)
	}
}

// TestKeysCertificateForged: what ssh-keygen does not make.
func TestKeysCertificateForged(t *testing.T) {
	k := startKeysTest(t, nil)
	ca, key := sshdSigner(t, sshdKey(t)), sshdSigner(t, sshdKey(t))
	rsaKey := func(bits int) ssh.Signer {
		priv, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ssh.NewSignerFromKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sha1, err := ssh.NewSignerWithAlgorithms(rsaKey(2048).(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSA})
	if err != nil {
		t.Fatal(err)
	}
	short := rsaKey(1024)
	k.lines("cert-authority "+k.line(ca.PublicKey()), "cert-authority "+k.line(sha1.PublicKey()), "cert-authority "+k.line(short.PublicKey()), k.line(short.PublicKey()))
	broken := k.cert(key, ca, nil)
	broken.PublicKey().(*ssh.Certificate).ValidPrincipals = []string{k.user, "root"}
	for name, s := range map[string]ssh.Signer{
		"changed after signing":    broken,
		"signed with SHA-1":        k.cert(key, sha1, nil),
		"of a short RSA authority": k.cert(key, short, nil),
		"of a short RSA key":       k.cert(short, ca, nil),
		"a short RSA key itself":   short,
		"for a host":               k.cert(key, ca, func(c *ssh.Certificate) { c.CertType = ssh.HostCert }),
	} {
		if _, err := k.dial(ssh.PublicKeys(s)); err == nil {
			t.Errorf("in by a certificate: %s", name)
		}
	}
	if _, err := k.dial(ssh.PublicKeys(k.cert(key, ca, nil))); err != nil {
		t.Error(err)
	}
}

// TestKeysSecurityKey: a touch is wanted unless the line says otherwise; for a
// certificate both must say so.
func TestKeysSecurityKey(t *testing.T) {
	k := startKeysTest(t, nil)
	k.set(func(c *serverConfig) { c.maxAuthAttempts = 100 }) // no ban
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := sshdSigner(t, sshdKey(t))
	noTouch := func(c *ssh.Certificate) { c.Extensions = map[string]string{certNoTouch: ""} }
	for _, sk := range []trustTestSK{{ed: ed25519.NewKeyFromSeed(trustTestSeed("sk"))}, {ec: ec}} {
		for _, c := range []struct {
			options string
			flags   byte
			change  func(*ssh.Certificate)
			in      bool
		}{
			{"", 1, nil, true},
			{"", 5, nil, true},
			{"", 0, nil, false},
			{"", 4, nil, false},
			{"no-touch-required", 0, nil, true},
			{"no-touch-required,touch-required", 0, nil, false},
			{"verify-required", 5, nil, false},
			{"cert-authority", 1, func(*ssh.Certificate) {}, true},
			{"cert-authority", 0, func(*ssh.Certificate) {}, false},
			{"cert-authority", 0, noTouch, false},
			{"cert-authority,no-touch-required", 0, func(*ssh.Certificate) {}, false},
			{"cert-authority,no-touch-required", 0, noTouch, true},
		} {
			sk.flags = c.flags
			var signer ssh.Signer = sk
			k.lines(c.options + " " + k.line(sk.PublicKey()))
			if c.change != nil {
				signer = k.cert(sk, ca, c.change)
				k.lines(c.options + " " + k.line(ca.PublicKey()))
			}
			cl, err := k.dial(ssh.PublicKeys(signer))
			if (err == nil) != c.in {
				t.Errorf("%s %q, flags %d: %v", sk.PublicKey().Type(), c.options, c.flags, err)
			}
			if err == nil {
				cl.Close()
			}
		}
	}
}

// TestKeysRefusedAreTold: the log has who came with which key and why it was
// refused, whatever else was tried, and the same of a line that went.
func TestKeysRefusedAreTold(t *testing.T) {
	k := startKeysTest(t, nil)
	k.set(func(c *serverConfig) { c.methods = []string{"publickey", "password"} })
	own := sshdSigner(t, k.key)
	name := ssh.FingerprintSHA256(own.PublicKey())
	told := func(want string) {
		t.Helper()
		sshdUntil(t, want, func() bool { return strings.Contains(k.logged(), want) })
	}
	k.lines(k.own())
	in := k.mustDial()
	k.settle(in)
	k.lines(`from="192.0.2.1" ` + k.own())
	k.srv.recheck()
	told("ended: " + name + ": ")
	if _, err := k.dial(ssh.PublicKeys(own, sshdSigner(t, sshdKey(t))), ssh.Password("wrong")); err == nil {
		t.Error("in")
	}
	told(fmt.Sprintf("ssh login as %q from 127.0.0.1 failed (publickey): %s: ", k.user, name))
	k.lines("")
	if _, err := k.dial(ssh.PublicKeys(own)); err == nil {
		t.Error("in")
	}
	told(name + ": neither the log nor " + k.acct.home + "/.sessio/" + localKeysFile + " has this key")
	if strings.Contains(k.logged(), "no auth passed") {
		t.Error(k.logged())
	}
}
