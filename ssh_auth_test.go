//go:build linux || darwin

package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshdTwoKeys lets in two devices: laptop may do all, phone nothing.
func sshdTwoKeys(t *testing.T, change func(*sshPolicy)) (d *sshdTest, phone ssh.Signer) {
	phone = sshdSigner(t, sshdKey(t))
	d = startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		laptop := p.authorize
		p.authorize = func(key ssh.PublicKey, user string) (sshGrant, error) {
			if bytes.Equal(key.Marshal(), phone.PublicKey().Marshal()) {
				return sshGrant{device: "phone"}, nil
			}
			return laptop(key, user)
		}
		if change != nil {
			change(p)
		}
	})
	return d, phone
}

// An sshdLiar is a signer that shows one key and signs with another.
type sshdLiar struct {
	ssh.Signer
	shown ssh.PublicKey
}

func (l sshdLiar) PublicKey() ssh.PublicKey { return l.shown }

func (l sshdLiar) SignWithAlgorithm(r io.Reader, data []byte, algo string) (*ssh.Signature, error) {
	return l.Signer.Sign(r, data)
}

// TestSSHDForeignSignature: an authorised public key with the signature of
// another key is refused.
func TestSSHDForeignSignature(t *testing.T) {
	d, phone := sshdTwoKeys(t, nil)
	laptop := sshdSigner(t, d.key).PublicKey()
	for _, by := range []ssh.Signer{sshdSigner(t, sshdKey(t)), phone} {
		if cl, err := d.dial(ssh.PublicKeys(sshdLiar{by, laptop})); err == nil {
			cl.Close()
			t.Errorf("a signature by another key: logged in, log %q", d.logged())
		}
	}
}

// An sshdTurncoat is a public key that changes once it has been asked about.
type sshdTurncoat struct {
	ssh.PublicKey
	then  ssh.PublicKey
	asked *int
}

func (k sshdTurncoat) Marshal() []byte {
	if *k.asked++; *k.asked > 2 { // the query and the check of its answer
		return k.then.Marshal()
	}
	return k.PublicKey.Marshal()
}

// sshdNoSigner offers a key and does not sign.
type sshdNoSigner struct{ key ssh.PublicKey }

func (s sshdNoSigner) PublicKey() ssh.PublicKey { return s.key }
func (sshdNoSigner) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return nil, errors.New("not signing")
}

// TestSSHDLastKeyOffered is CVE-2024-45337: the phone asks about its own key,
// then about laptop's, and signs with its own. It must be the phone.
func TestSSHDLastKeyOffered(t *testing.T) {
	d, phone := sshdTwoKeys(t, nil)
	laptop := sshdSigner(t, d.key).PublicKey()
	offers := []ssh.Signer{
		sshdNoSigner{phone.PublicKey()},
		sshdNoSigner{laptop},
		sshdLiar{phone, sshdTurncoat{laptop, phone.PublicKey(), new(int)}},
	}
	cl, err := ssh.Dial("tcp", d.addr, &ssh.ClientConfig{
		User: d.user, HostKeyCallback: ssh.FixedHostKey(sshdSigner(t, d.host).PublicKey()),
		AuthCallback: func(*ssh.ClientAuthContext) (ssh.AuthMethod, error) {
			if len(offers) == 0 {
				return nil, errors.New("the signature by another key was refused")
			}
			next := offers[:1]
			offers = offers[1:]
			return ssh.PublicKeys(next...), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if out, _ := d.newSession(cl).Output("echo in"); len(out) > 0 {
		t.Errorf("the phone runs commands with laptop's caps")
	}
	// Who has logged in is said before a command is refused.
	if !strings.Contains(d.logged(), "ssh phone as ") || strings.Contains(d.logged(), "laptop") {
		t.Errorf("log %q", d.logged())
	}
}

// TestSSHDNone: the key that the link proved needs no signature; without such
// a key "none" is refused, whatever else the server knows.
func TestSSHDNone(t *testing.T) {
	d := startSSHD(t, nil)
	if _, err := d.dial(); err == nil {
		t.Error("none without a link key")
	}
	d = startSSHD(t, func(d *sshdTest, p *sshPolicy) { d.linkKey = sshdSigner(t, d.key).PublicKey() })
	cl, err := d.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if out, err := d.newSession(cl).Output("echo in"); string(out) != "in\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	cmd := d.ssh("-o", "PubkeyAuthentication=no", "-o", "IdentityFile=none", "h", "echo stock")
	d.want(cmd, "stock\n", 0)
}

// TestSSHDNoneRefused: a device that has proved its key learns why it is
// refused, a machine that the log does not know nothing; another key may still
// log in by its signature.
func TestSSHDNoneRefused(t *testing.T) {
	for _, c := range []struct {
		err    error
		banner string
	}{
		{coded("revoked", "laptop is revoked"), "sessio: laptop is revoked (revoked)\r\n"},
		{coded("unknown-device", "key 1 is nobody's"), "sessio: the login is denied (denied)\r\n"},
		{errors.New("disk full"), "sessio: the login is denied (denied)\r\n"},
	} {
		d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
			d.linkKey = sshdSigner(t, sshdKey(t)).PublicKey()
			allow := p.authorize
			p.authorize = func(key ssh.PublicKey, user string) (sshGrant, error) {
				if bytes.Equal(key.Marshal(), d.linkKey.Marshal()) {
					return sshGrant{}, c.err
				}
				return allow(key, user)
			}
		})
		var banner string
		conf := &ssh.ClientConfig{
			User: d.user, HostKeyCallback: ssh.FixedHostKey(sshdSigner(t, d.host).PublicKey()),
			BannerCallback: func(text string) error { banner += text; return nil },
		}
		if _, err := ssh.Dial("tcp", d.addr, conf); err == nil {
			t.Errorf("%v, and yet logged in", c.err)
		}
		if banner != c.banner {
			t.Errorf("%v: banner %q", c.err, banner)
		}
		d.want(d.ssh("h", "echo signed"), "signed\n", 0)
	}
}

func TestSSHDOtherKeysLearnNothing(t *testing.T) {
	d := startSSHD(t, nil)
	conf := &ssh.ClientConfig{
		User: d.user, HostKeyCallback: ssh.FixedHostKey(sshdSigner(t, d.host).PublicKey()),
		Auth:           []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(t, sshdKey(t)))},
		BannerCallback: func(text string) error { t.Errorf("banner %q", text); return nil },
	}
	if _, err := ssh.Dial("tcp", d.addr, conf); err == nil {
		t.Error("any key logs in")
	}
}

// TestSSHDSelfSigned: a key that stands in no line vouches for nothing.
func TestSSHDSelfSigned(t *testing.T) {
	d := startSSHD(t, nil)
	key := sshdSigner(t, sshdKey(t))
	cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{d.user}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, key); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.dial(ssh.PublicKeys(signer)); err == nil {
		t.Error("a certificate logged in")
	}
}

// TestSSHDMaxOffers: keys that are offered are no tries, yet not without end.
func TestSSHDMaxOffers(t *testing.T) {
	d := startSSHD(t, nil)
	var keys []ssh.Signer
	for range maxAuthOffers {
		keys = append(keys, sshdSigner(t, sshdKey(t)))
	}
	if _, err := d.dial(ssh.PublicKeys(append(keys[1:], sshdSigner(t, d.key))...)); err != nil {
		t.Error(err)
	}
	_, err := d.dial(ssh.PublicKeys(append(keys, sshdSigner(t, d.key))...))
	if !strings.Contains(fmt.Sprint(err), "too many authentication failures") {
		t.Error(err)
	}
}

func TestSSHDGrace(t *testing.T) {
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		c := defaultServerConfig()
		c.grace = 30 * time.Millisecond
		p.config = func() *serverConfig { return c }
	})
	nc, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.ReadAll(nc); err != nil {
		t.Error(err)
	}
	sshdUntil(t, "the reason", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.errs) == 1 && errors.Is(d.errs[0], errSSHGrace)
	})
}

// TestSSHDAlgorithms: ours are accepted, what is older or weaker is not.
func TestSSHDAlgorithms(t *testing.T) {
	d := startSSHD(t, nil)
	ours := sshAlgorithms()
	try := func(change func(*ssh.Config)) error {
		conf := &ssh.ClientConfig{
			User: d.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(t, d.key))},
			HostKeyCallback: ssh.FixedHostKey(sshdSigner(t, d.host).PublicKey()),
		}
		change(&conf.Config)
		cl, err := ssh.Dial("tcp", d.addr, conf)
		if err == nil {
			cl.Close()
		}
		return err
	}
	all, weak := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	check := func(name string, ours bool, change func(*ssh.Config)) {
		if err := try(change); (err == nil) != ours {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, a := range append(all.KeyExchanges, weak.KeyExchanges...) {
		mine := a == ours.KeyExchanges[0] || a == ours.KeyExchanges[1]
		check(a, mine || a == "curve25519-sha256@libssh.org", func(c *ssh.Config) { c.KeyExchanges = []string{a} })
	}
	for _, a := range append(all.Ciphers, weak.Ciphers...) {
		check(a, strings.Contains(strings.Join(ours.Ciphers, " "), a), func(c *ssh.Config) { c.Ciphers = []string{a} })
	}
	for _, a := range append(all.MACs, weak.MACs...) {
		mine := a == ours.MACs[0] || a == ours.MACs[1] || a == ours.MACs[2]
		check(a, mine, func(c *ssh.Config) {
			c.MACs, c.Ciphers = []string{a}, []string{ssh.CipherAES128CTR}
		})
	}
}

func TestLoginAccount(t *testing.T) {
	own, err := ownAccount()
	if err != nil {
		t.Fatal(err)
	}
	got, err := loginAccount(own.name, defaultServerConfig())
	if err != nil || got.uid != own.uid || len(got.groups) == 0 || got.groups[0] != own.gid {
		t.Errorf("%+v, %v", got, err)
	}
	for _, user := range []string{"", "0", "1000", "no-such-user", "a:b", "-x", "../x", "a\x00b", "+", "root\n"} {
		if _, err := loginAccount(user, defaultServerConfig()); codeOf(err) != "user" {
			t.Errorf("%q: %v", user, err)
		}
	}
	if os.Geteuid() != 0 {
		if _, err := loginAccount("root", defaultServerConfig()); !strings.Contains(fmt.Sprint(err), "nobody can log in as") {
			t.Error(err)
		}
		return
	}
	// As in sshd, nologin says its sentence itself.
	if nobody, err := loginAccount("nobody", defaultServerConfig()); err == nil && nobody.uid == 0 {
		t.Errorf("%+v", nobody)
	}
}

// TestSSHDWeakSignature: an RSA key signs with SHA-2 or not at all.
func TestSSHDWeakSignature(t *testing.T) {
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		p.authorize = func(ssh.PublicKey, string) (sshGrant, error) { return sshGrant{device: "old"}, nil }
	})
	for algo, ok := range map[string]bool{ssh.KeyAlgoRSA: false, ssh.KeyAlgoRSASHA256: true, ssh.KeyAlgoRSASHA512: true} {
		signer, err := ssh.NewSignerWithAlgorithms(key.(ssh.AlgorithmSigner), []string{algo})
		if err != nil {
			t.Fatal(err)
		}
		cl, err := d.dial(ssh.PublicKeys(signer))
		if (err == nil) != ok {
			t.Errorf("%s: %v", algo, err)
		}
		if err == nil {
			cl.Close()
		}
	}
}
