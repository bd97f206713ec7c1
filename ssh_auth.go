package main

// This file decides who may log in. The role that runs the SSH server judges
// keys by its policy; this file asks it for the key that signed, or that the
// link has proved, and finds the account that the login runs as.

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// An sshPolicy is what a role decides for its SSH server.
type sshPolicy struct {
	hostKey ssh.Signer
	// authorize says what key may do as user, or why it may not log in. It is
	// asked for keys that are only offered, too: it must not act on them.
	// Connections ask at the same time.
	authorize func(key ssh.PublicKey, user string) (sshGrant, error)
	// account finds the account that user logs in to; nil is loginAccount.
	account func(user string) (osAccount, error)
	// log tells what happened. It is never given what was typed, nor commands.
	log func(format string, args ...any)
	// grace is how long a connection may be unauthenticated; 0 is sshGrace.
	grace time.Duration
}

const sshGrace = 30 * time.Second

// sshServerVersion begins with OpenSSH because clients take from it which
// extensions they may use. Without it "ssh host yes | head" never ends: ssh
// says that it wants no more output (eow@openssh.com) to its like only.
const sshServerVersion = "SSH-2.0-OpenSSH_Sessio"

// maxAuthTries is OpenSSH's default.
const maxAuthTries = 6

// An sshGrant is what a key may do, and whose it is.
type sshGrant struct {
	device string   // name for the log
	caps   []string // of shell exec sftp forward pty
}

// notGranted is why a cap is missed: it is the owner who grants them.
func notGranted(what string) error {
	return fmt.Errorf("the log does not allow this device %s (caps)", what)
}

func (g sshGrant) may(what string) bool { return slices.Contains(g.caps, what) }

// An sshLogin is a login that authentication has let in: only auth makes one,
// and it travels in the Permissions that the library returns for the method
// that succeeded, so that no key merely offered can be taken for it
// (CVE-2024-45337).
type sshLogin struct {
	sshGrant
	key  ssh.PublicKey
	user string
	acct osAccount
}

type sshLoginKey struct{}

func loginOf(p *ssh.Permissions) (*sshLogin, bool) {
	if p == nil {
		return nil, false
	}
	l, ok := p.ExtraData[sshLoginKey{}].(*sshLogin)
	return l, ok
}

// sshServerConfig is for one connection. linkKey is the key that the link has
// proved the peer to hold, nil when there is none: then "none" never succeeds.
func (p *sshPolicy) sshServerConfig(linkKey ssh.PublicKey) *ssh.ServerConfig {
	conf := &ssh.ServerConfig{
		Config:                  sshAlgorithms(),
		PublicKeyAuthAlgorithms: slices.Clone(userKeyAlgos),
		MaxAuthTries:            maxAuthTries,
		ServerVersion:           sshServerVersion,
		PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return p.auth(key, m.User())
		},
	}
	conf.AddHostKey(p.hostKey)
	if linkKey != nil {
		conf.NoClientAuth = true
		conf.NoClientAuthCallback = func(m ssh.ConnMetadata) (*ssh.Permissions, error) {
			perms, err := p.auth(linkKey, m.User())
			return perms, tellWhy(err)
		}
	}
	return conf
}

// tellWhy sends the reason to the peer, who has proved to be the device that it
// is about, in the form "sessio: TEXT (CODE)". A machine that the log does not
// know learns nothing, nor does whoever only offers a key.
func tellWhy(err error) error {
	if err == nil {
		return nil
	}
	code, text := codeOf(err), err.Error()
	if code == "" || code == "unknown-device" {
		code, text = "denied", "the login is denied"
	}
	return &ssh.BannerError{Err: err, Message: fmt.Sprintf("sessio: %s (%s)\r\n", text, code)}
}

// auth is the one door: it makes the login of key as user.
func (p *sshPolicy) auth(key ssh.PublicKey, user string) (*ssh.Permissions, error) {
	if _, isCert := key.(*ssh.Certificate); isCert {
		return nil, errors.New("certificates are not accepted")
	}
	grant, err := p.authorize(key, user)
	if err != nil {
		return nil, err
	}
	acct, err := p.account(user)
	if err != nil {
		return nil, err
	}
	login := &sshLogin{grant, key, user, acct}
	return &ssh.Permissions{ExtraData: map[any]any{sshLoginKey{}: login}}, nil
}

// loginAccount finds the account that a login as user runs as. As in sshd, a
// shell that is not there refuses the login, and nologin is a shell like any
// other: it says its sentence itself.
func loginAccount(user string) (osAccount, error) {
	if !plausibleLogin(user) {
		return osAccount{}, coded("user", "%q cannot be a user", user)
	}
	acct, err := accountToBecome(user)
	if err != nil {
		return osAccount{}, err
	}
	st, err := os.Stat(acct.shell)
	if err != nil {
		return osAccount{}, coded("user", "user %q: shell: %w", user, err)
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0 {
		return osAccount{}, coded("user", "user %q: shell %s is not executable", user, acct.shell)
	}
	return acct, nil
}

// accountToBecome: root may become anyone, everybody else only themselves.
func accountToBecome(user string) (osAccount, error) {
	if os.Geteuid() == 0 {
		acct, err := findAccount(user)
		if err != nil {
			return osAccount{}, coded("user", "%w", err)
		}
		return acct, nil
	}
	own, err := ownAccount()
	if err != nil {
		return osAccount{}, coded("user", "%w", err)
	}
	if own.name != user {
		return osAccount{}, coded("user", "the server runs as %q, so nobody can log in as %q here", own.name, user)
	}
	return own, nil
}

// userKeyAlgos are the signatures accepted from users: no SHA-1, no DSA.
var userKeyAlgos = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
}

// sshAlgorithms are what either side of our SSH offers. The client's order
// wins in SSH, so a server steers to the cheaper cipher only by leaving the
// dearer out: with AES instructions GCM is eight times faster than ChaCha20,
// without them ChaCha20 is four times faster than GCM. CTR with an HMAC stays
// for Dropbear, which has no GCM by default.
func sshAlgorithms() ssh.Config {
	ctr := []string{ssh.CipherAES128CTR, ssh.CipherAES256CTR}
	ciphers := append([]string{ssh.CipherChaCha20Poly1305}, ctr...)
	if hasAESInstructions() {
		ciphers = append([]string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}, ctr...)
	}
	return ssh.Config{
		KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
		Ciphers:      ciphers,
		MACs:         []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256},
	}
}

// hasAESInstructions reports whether the CPU does AES and the multiplication of
// GCM in hardware, as crypto/aes would use them.
func hasAESInstructions() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 ||
		cpu.ARM64.HasAES && cpu.ARM64.HasPMULL ||
		cpu.S390X.HasAES && cpu.S390X.HasAESCTR && cpu.S390X.HasGHASH
}

func (l *sshLogin) String() string {
	return fmt.Sprintf("%s as %s", l.device, l.user)
}
