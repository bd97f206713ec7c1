package main

// This file decides who may log in. The role that runs the SSH server says what
// the log lets a key do; a key that the log does not know may stand in the
// user's own authorized_keys, or be certified by one that stands there; and a
// user of the configuration may have a password, if passwords are on. The
// decision is about the key that signed, or that the link has proved.

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// An sshPolicy is what a role decides for its SSH server.
type sshPolicy struct {
	hostKey ssh.Signer
	// authorize says what the log lets key do as user, or why it may not log
	// in; code unknown-device: the log does not know it. It is asked for keys
	// that are only offered, too: it must not act on them. Connections ask at
	// the same time.
	authorize func(key ssh.PublicKey, user string) (sshGrant, error)
	// account finds the account that user logs in to; nil is loginAccount.
	account func(user string) (osAccount, error)
	// log tells what happened. It is never given what was typed, nor commands.
	log func(format string, args ...any)
	// warn tells what its owner has to know in any case; nil is log.
	warn func(format string, args ...any)
	// config is the settings in force, asked for anew where they count; nil is
	// the defaults.
	config func() *serverConfig
	// passwordFits compares a password with the hash in a user's entry. It may
	// take a tenth of a second and megabytes; nil is passwordFits.
	passwordFits func(hash string, password []byte) bool

	// onAuthFailure is told of each login that failed for real: a wrong
	// signature or password, by the SSH name of the method. Keys that were only
	// offered are no failures, nor is "none". onAuthSuccess is told of each
	// login. Both may be nil, and must not block.
	onAuthFailure func(from netip.Addr, user, method string, err error)
	onAuthSuccess func(from netip.Addr, l *sshLogin)

	// barred is why nobody at all may log in now; nil is never.
	barred func() error
	// audit is where events go now; nil, or what is nil, records nothing.
	audit func() *auditLog
	// nologin is the file that keeps all but root out; "" is nologinFile.
	nologin string

	*authShared // set by withDefaults
}

// authShared is what all connections under a policy have together.
type authShared struct {
	passwords chan struct{} // a slot for each comparison at once

	mu   sync.Mutex
	said map[string]string // guarded by mu: what was said last of a keys file
}

const (
	// maxPasswordsAtOnce bounds the memory that strangers can make us use: a
	// comparison by argon2id takes 19 MiB and more.
	maxPasswordsAtOnce = 2
	// maxSaid bounds authShared.said. Files are few, and their users' own.
	maxSaid = 256
	// maxPassword is the longest tried, in bytes, as in sshd.
	maxPassword = 1024
)

// withDefaults fills in what may be nil.
func (p sshPolicy) withDefaults() sshPolicy {
	if p.config == nil {
		p.config = defaultServerConfig
	}
	if p.account == nil {
		p.account = func(user string) (osAccount, error) { return loginAccount(user, p.config()) }
	}
	if p.barred == nil {
		p.barred = func() error { return nil }
	}
	if p.audit == nil {
		p.audit = func() *auditLog { return nil }
	}
	if p.passwordFits == nil {
		p.passwordFits = passwordFits
	}
	p.authShared = &authShared{passwords: make(chan struct{}, maxPasswordsAtOnce), said: map[string]string{}}
	return p
}

// sshServerVersion begins with OpenSSH because clients take from it which
// extensions they may use. Without it "ssh host yes | head" never ends: ssh
// says that it wants no more output (eow@openssh.com) to its like only.
const sshServerVersion = "SSH-2.0-OpenSSH_Sessio"

const (
	// maxAuthTries is OpenSSH's default, here of real failures.
	maxAuthTries = 6
	// maxAuthOffers bounds what is refused on a connection in all: keys that are
	// offered, one by one, come first. sshd would stop at 6.
	maxAuthOffers = 20
)

// An sshGrant is what a login may do, and whose it is.
type sshGrant struct {
	device string   // name for the log: a device's, a key's, or "password"
	caps   []string // of shell exec sftp forward pty
	keyLimits
}

// keyLimits are the options of the line in authorized_keys that let a key in:
// sshd(8), AUTHORIZED_KEYS FILE FORMAT. What is none of caps stands here.
type keyLimits struct {
	command                  *string  // runs instead of whatever was asked for
	env                      []string // NAME=value
	permitOpen, permitListen []string // host:port; nil any
	noAgent                  bool
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
	method string        // its SSH name
	key    ssh.PublicKey // nil for a password
	user   string
	acct   osAccount
	from   netip.Addr
}

type sshLoginKey struct{}

func loginOf(p *ssh.Permissions) (*sshLogin, bool) {
	if p == nil {
		return nil, false
	}
	l, ok := p.ExtraData[sshLoginKey{}].(*sshLogin)
	return l, ok
}

// An sshAuth is one connection on its way to a login. The library asks it from
// one goroutine.
type sshAuth struct {
	*sshPolicy
	ctx     context.Context
	end     context.CancelCauseFunc // ends the connection
	linkKey ssh.PublicKey           // that the link has proved; nil none, and then "none" never succeeds
	from    netip.Addr

	pre     ssh.ServerPreAuthConn
	user    string // that a key was offered for last
	failed  int    // real failures
	refused error  // why a key was: the last that is not just unknown, if any
}

// serverConfig is for one connection.
func (a *sshAuth) serverConfig() *ssh.ServerConfig {
	conf := &ssh.ServerConfig{
		Config:                  sshAlgorithms(),
		PublicKeyAuthAlgorithms: slices.Clone(userKeyAlgos),
		MaxAuthTries:            maxAuthOffers,
		ServerVersion:           sshServerVersion,
		PreAuthConnCallback:     func(pre ssh.ServerPreAuthConn) { a.pre = pre },
	}
	conf.AddHostKey(a.hostKey)
	methods := a.config().methods
	if slices.Contains(methods, "publickey") {
		conf.PublicKeyCallback = func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			a.user = m.User()
			return a.byKey("publickey", key)
		}
		conf.NoClientAuth = a.linkKey != nil
		conf.NoClientAuthCallback = func(m ssh.ConnMetadata) (*ssh.Permissions, error) {
			a.user = m.User()
			perms, err := a.byKey("none", a.linkKey)
			return perms, tellWhy(err)
		}
	}
	if slices.Contains(methods, "password") {
		conf.PasswordCallback = func(m ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			return a.byPassword("password", m.User(), password)
		}
		conf.KeyboardInteractiveCallback = func(m ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			answers, err := ask("", "", []string{"Password: "}, []bool{false})
			if err != nil {
				return nil, err
			}
			return a.byPassword("keyboard-interactive", m.User(), []byte(answers[0]))
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
	return &ssh.BannerError{Err: err, Message: sayWhy(err)}
}

func sayWhy(err error) string {
	code, text := codeOf(err), err.Error()
	if code == "" || code == "unknown-device" {
		code, text = "denied", "the login is denied"
	}
	return fmt.Sprintf("sessio: %s (%s)\r\n", text, code)
}

// letIn is the one door: all logins are made here.
func (a *sshAuth) letIn(method string, key ssh.PublicKey, user string, acct osAccount, v keyVerdict) *ssh.Permissions {
	login := &sshLogin{v.sshGrant, method, key, user, acct, a.from}
	perms := &ssh.Permissions{ExtraData: map[any]any{sshLoginKey{}: login}}
	if v.noTouch {
		perms.Extensions = map[string]string{certNoTouch: ""}
	}
	return perms
}

// byKey judges a key that is offered, signs, or is the link's. All three get
// the same answer, and none acts.
func (a *sshAuth) byKey(method string, key ssh.PublicKey) (*ssh.Permissions, error) {
	v, acct, err := a.judgeKey(method, key, a.user, a.from)
	if err != nil {
		if a.refused == nil || codeOf(err) != "unknown-device" {
			a.refused = err
		}
		return nil, err
	}
	return a.letIn(method, key, a.user, acct, v), nil
}

// judgeKey is the word on a key: the log's if it knows the key, whatever lines
// or certificates say, otherwise that of the user's authorized_keys. A
// certificate stands for its key before the log. For "none" the log alone
// counts.
func (p *sshPolicy) judgeKey(method string, key ssh.PublicKey, user string, from netip.Addr) (v keyVerdict, acct osAccount, err error) {
	if err := p.barred(); err != nil {
		return v, acct, err
	}
	cert, isCert := key.(*ssh.Certificate)
	if isCert {
		if _, err := p.authorize(cert.SignatureKey, user); codeOf(err) == "revoked" {
			return v, acct, err
		}
		key = cert.Key
	}
	v.sshGrant, err = p.authorize(key, user)
	unknown := codeOf(err) == "unknown-device" && method != "none"
	if err != nil && !unknown {
		return v, acct, err
	}
	acct, accountErr := p.account(user)
	if accountErr != nil || !unknown {
		return v, acct, accountErr
	}
	conf := p.config()
	q := keyQuestion{key: key, user: user, from: from, now: time.Now(), userEnv: conf.permitUserEnv}
	if isCert {
		q.key = cert
	}
	path, lines := p.keyLines(user, acct)
	switch v, err = judgeKeyLines(lines, q); err {
	case nil:
		return v, acct, nil
	case errNoKeyLine:
		return v, acct, coded("unknown-device", "%s: neither the log nor %s has this key", keyName(q.key, ""), path)
	}
	return v, acct, coded("denied", "%s: %w", keyName(q.key, ""), err)
}

// keysPath is the file with the keys of user.
func (c *serverConfig) keysPath(user, home string) (string, error) {
	switch {
	case user == "." || user == ".." || strings.ContainsAny(user, "/\x00"):
		return "", fmt.Errorf("%q cannot be part of a path", user)
	case c.keysPattern != "":
		return strings.ReplaceAll(c.keysPattern, "{user}", user), nil
	case c.keysDir != "":
		return filepath.Join(c.keysDir, user, "authorized_keys"), nil
	case !filepath.IsAbs(home):
		return "", fmt.Errorf("user %q has no home", user)
	}
	return filepath.Join(home, ".sessio", localKeysFile), nil
}

// keyLines reads the keys of user, where there are any. What is wrong with the
// file is said in the log once, until it changes.
func (p *sshPolicy) keyLines(user string, acct osAccount) (path string, lines []keyLine) {
	path, err := p.config().keysPath(user, acct.home)
	if err != nil {
		return "a file", nil
	}
	text, err := readKeysFile(path, acct.uid)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	if err == nil {
		lines, err = parseAuthorizedKeys(text)
	}
	if err != nil {
		p.sayOnce(path, fmt.Sprintf("nothing in %s counts: %v", path, err))
		return path, nil
	}
	p.sayOnce(path, badLines(path, lines))
	return path, lines
}

// maxBadLines is how many are said, the first ones.
const maxBadLines = 5

func badLines(path string, lines []keyLine) string {
	var b strings.Builder
	n := 0
	for _, l := range lines {
		if l.bad == nil {
			continue
		}
		if n++; n <= maxBadLines {
			fmt.Fprintf(&b, "; line %d grants nothing: %v", l.num, l.bad)
		}
	}
	if n > maxBadLines {
		fmt.Fprintf(&b, "; nor do %d more", n-maxBadLines)
	}
	if n == 0 {
		return ""
	}
	return path + ": " + b.String()[2:]
}

// sayOnce logs text, unless it is what was said of path before.
func (p *sshPolicy) sayOnce(path, text string) {
	p.mu.Lock()
	news := p.said[path] != text
	if len(p.said) >= maxSaid {
		clear(p.said)
	}
	if p.said[path] = text; text == "" {
		delete(p.said, path)
	}
	p.mu.Unlock()
	if news && text != "" {
		p.log("ssh: %s", text)
	}
}

func passwordFits(hash string, password []byte) bool {
	h, err := parsePasswordHash(hash)
	return err == nil && h.matches(password)
}

var errWrongPassword = errors.New("wrong password")

// byPassword judges a password. A wrong one is a real failure.
func (a *sshAuth) byPassword(method, user string, password []byte) (*ssh.Permissions, error) {
	acct, err := a.judgePassword(user, password)
	if a.ctx.Err() != nil {
		return nil, context.Cause(a.ctx)
	}
	if err != nil {
		a.fail(method, user, err)
		return nil, err
	}
	return a.letIn(method, nil, user, acct, keyVerdict{sshGrant: sshGrant{device: "password", caps: slices.Clone(deviceCaps)}}), nil
}

// judgePassword takes as long for users that there are not: a hash is tried
// for them too, somebody else's.
func (a *sshAuth) judgePassword(user string, password []byte) (acct osAccount, err error) {
	conf := a.config()
	if len(password) == 0 || len(password) > maxPassword || len(conf.users) == 0 {
		return acct, errWrongPassword
	}
	entry, known := conf.user(user)
	if !known {
		sum := sha256.Sum256([]byte(user))
		entry = conf.users[int(sum[0])%len(conf.users)]
	}
	select {
	case a.passwords <- struct{}{}:
	case <-a.ctx.Done():
		return acct, context.Cause(a.ctx)
	}
	fits := a.passwordFits(entry.passwordHash, password)
	<-a.passwords
	if !fits || !known {
		return acct, errWrongPassword
	}
	if err := a.barred(); err != nil {
		return acct, err
	}
	return a.account(user)
}

var errAuthTries = errors.New("too many authentication failures")

// fail counts a real failure, and ends the connection with the last one that
// it has. The library could only count offers as well.
func (a *sshAuth) fail(method, user string, err error) {
	a.failed++
	a.log("ssh login as %.64q from %s failed (%s): %v", user, a.from, method, err)
	if a.onAuthFailure != nil {
		a.onAuthFailure(a.from, user, method, err)
	}
	if a.failed >= maxAuthTries {
		a.pre.SendAuthBanner("sessio: " + errAuthTries.Error() + " (denied)\r\n")
		a.end(errAuthTries)
	}
}

// finish is told how the handshake ended. After a wrong signature it has ended
// without a callback.
func (a *sshAuth) finish(perms *ssh.Permissions, err error) {
	login, ok := loginOf(perms)
	switch {
	case err == nil && ok && a.onAuthSuccess != nil:
		a.onAuthSuccess(a.from, login)
	case err != nil && wrongSignature(err):
		a.fail("publickey", a.user, err)
	}
}

// wrongSignature recognises what the library's keys say of a signature. Their
// errors have no type; a test knows the text of each.
func wrongSignature(err error) bool {
	return errors.Is(err, rsa.ErrVerification) || strings.Contains(err.Error(), "signature did not verify") ||
		strings.Contains(err.Error(), "user presence")
}

// judgeAgain says why a login may not go on, of one that was let in before: the
// log, the line or the user's entry is gone, or its method is off. That another
// line or fewer caps would be found now is no reason.
func (p *sshPolicy) judgeAgain(l *sshLogin) error {
	kind := "publickey"
	if l.key == nil {
		kind = "password"
	}
	conf := p.config()
	if !slices.Contains(conf.methods, kind) {
		return coded("denied", "logins by %s are off now", kind)
	}
	if l.key != nil {
		_, _, err := p.judgeKey(l.method, l.key, l.user, l.from)
		return err
	}
	if err := p.barred(); err != nil {
		return err
	}
	if _, ok := conf.user(l.user); !ok {
		return coded("denied", "user %q has no password any more", l.user)
	}
	return nil
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
