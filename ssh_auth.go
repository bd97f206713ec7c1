package main

// This file decides who may log in. The role that runs the SSH server judges
// keys by its policy; this file asks it for the key that signed, or that the
// link has proved, and finds the account that the login runs as: its uid, gid,
// groups, home and shell in /etc/passwd and /etc/group. They are read anew for
// every login, so that a changed group holds at once; there is no cgo, and so no
// NSS.

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

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
	// config is the settings in force, asked for anew where they count; nil is
	// the defaults.
	config func() *serverConfig
}

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

// An osAccount is a login user of this machine.
type osAccount struct {
	name     string
	uid, gid uint32
	groups   []uint32 // supplementary ones, gid first
	home     string
	shell    string // never empty
}

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
	// fallbackShell is what an empty last field means: passwd(5).
	fallbackShell = "/bin/sh"
)

// findAccount reads the account called name, with its groups.
func findAccount(name string) (osAccount, error) {
	passwd, err := os.ReadFile(passwdFile)
	if err != nil {
		return osAccount{}, fmt.Errorf("user %q: %w", name, err)
	}
	acct, ok := pickAccount(string(passwd), func(a osAccount) bool { return a.name == name })
	if !ok {
		return osAccount{}, fmt.Errorf("user %q is not in %s", name, passwdFile)
	}
	return acct.withGroups()
}

// ownAccount is who runs this process. A container may run under a uid that
// passwd does not know; then the environment is all there is to go by.
func ownAccount() (osAccount, error) {
	uid := uint32(os.Geteuid())
	passwd, err := os.ReadFile(passwdFile)
	if err == nil {
		if acct, ok := pickAccount(string(passwd), func(a osAccount) bool { return a.uid == uid }); ok {
			return acct.withGroups()
		}
	}
	acct := osAccount{
		name: os.Getenv("USER"), uid: uid, gid: uint32(os.Getegid()),
		home: os.Getenv("HOME"), shell: os.Getenv("SHELL"),
	}
	if acct.name == "" {
		return osAccount{}, fmt.Errorf("uid %d is not in %s and USER is not set", uid, passwdFile)
	}
	if acct.shell == "" {
		acct.shell = fallbackShell
	}
	return acct.withGroups()
}

func (a osAccount) withGroups() (osAccount, error) {
	group, err := os.ReadFile(groupFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		// Without its groups a process might get past a rule that denies a group.
		return osAccount{}, fmt.Errorf("user %q: %w", a.name, err)
	}
	a.groups = groupsOf(string(group), a.name, a.gid)
	return a, nil
}

// pickAccount returns the first sound line of passwd that want agrees to. Other
// lines (comments, NIS, broken ones) are nobody: a login is never root by
// accident of a number that could not be read.
func pickAccount(passwd string, want func(osAccount) bool) (osAccount, bool) {
	for line := range strings.Lines(passwd) {
		a, ok := parsePasswdLine(strings.TrimRight(line, "\r\n"))
		if ok && want(a) {
			return a, true
		}
	}
	return osAccount{}, false
}

// parsePasswdLine reads name:password:uid:gid:gecos:home:shell.
func parsePasswdLine(line string) (a osAccount, ok bool) {
	f := strings.Split(line, ":")
	if len(f) != 7 || !plausibleLogin(f[0]) || strings.ContainsRune(line, 0) {
		return a, false
	}
	uid, uidOK := parseUnixID(f[2])
	gid, gidOK := parseUnixID(f[3])
	if !uidOK || !gidOK {
		return a, false
	}
	a = osAccount{name: f[0], uid: uid, gid: gid, home: f[5], shell: f[6]}
	if a.shell == "" {
		a.shell = fallbackShell
	}
	return a, true
}

// parseUnixID reads a uid or gid. The highest number means "leave as it is" to
// the kernel and is nobody's.
func parseUnixID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}

// plausibleLogin refuses names that tools take for something else: numbers are
// taken for a uid by chown, a dash for an option, plus and minus for NIS.
func plausibleLogin(s string) bool {
	if s == "" || len(s) > 256 || strings.ContainsAny(s, ":/,\n\r\x00 ") || strings.ContainsAny(s[:1], "-+#~") {
		return false
	}
	return strings.Trim(s, "0123456789") != ""
}

// groupsOf lists gid and the groups that name is a member of. Lines are
// name:password:gid:member,member.
func groupsOf(group, name string, gid uint32) []uint32 {
	groups := []uint32{gid}
	for line := range strings.Lines(group) {
		g, members, ok := parseGroupLine(strings.TrimRight(line, "\r\n"))
		if !ok || g.gid == gid {
			continue
		}
		for _, m := range members {
			if m == name {
				groups = append(groups, g.gid)
				break
			}
		}
	}
	return groups
}

type osGroup struct {
	name string
	gid  uint32
}

func parseGroupLine(line string) (g osGroup, members []string, ok bool) {
	f := strings.Split(line, ":")
	if len(f) != 4 || f[0] == "" || strings.ContainsAny(f[0][:1], "+-#") {
		return g, nil, false
	}
	gid, ok := parseUnixID(f[2])
	if !ok {
		return g, nil, false
	}
	if f[3] != "" {
		members = strings.Split(f[3], ",")
	}
	return osGroup{f[0], gid}, members, true
}

// findGroup returns the gid of the group called name.
func findGroup(name string) (uint32, bool) {
	group, err := os.ReadFile(groupFile)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(group)) {
		if g, _, ok := parseGroupLine(strings.TrimRight(line, "\r\n")); ok && g.name == name {
			return g.gid, true
		}
	}
	return 0, false
}

// mustBecome reports whether a process for this account needs another uid
// than ours.
func (a osAccount) mustBecome() bool { return os.Geteuid() == 0 && a.uid != 0 }
