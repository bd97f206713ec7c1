package main

// This file finds the account that a login runs as: its uid, gid, groups, home
// and shell in /etc/passwd and /etc/group. They are read anew for every login,
// so that a changed group holds at once; there is no cgo, and so no NSS.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An osAccount is a login user of this machine.
type osAccount struct {
	name     string
	uid, gid uint32
	groups   []uint32 // supplementary ones, gid first
	home     string
	shell    string   // never empty
	noShell  bool     // the entry names none: shell is only the usual one
	env      []string // NAME=value, of the user's entry in the configuration
}

// user finds the entry of a login that has a password.
func (c *serverConfig) user(name string) (u configUser, ok bool) {
	i := slices.IndexFunc(c.users, func(u configUser) bool { return u.name == name })
	if i < 0 {
		return u, false
	}
	return c.users[i], true
}

// loginAccount finds the account that a login as user runs as. As in sshd, a
// shell that is not there refuses the login, and nologin is a shell like any
// other: it says its sentence itself. Home, shell and environment of the
// user's entry in c win over those of passwd.
func loginAccount(user string, c *serverConfig) (osAccount, error) {
	if !plausibleLogin(user) {
		return osAccount{}, coded("user", "%q cannot be a user", user)
	}
	entry, _ := c.user(user)
	acct, err := accountToBecome(user, entry)
	if err != nil {
		return osAccount{}, coded("user", "%w", err)
	}
	if os.Geteuid() == 0 { // as in sshd, who cannot be read about is not expired
		if shadow, err := os.ReadFile(shadowFile); err == nil && accountExpired(string(shadow), user, time.Now()) {
			return osAccount{}, withHint(coded("user", "user %q: the account has expired", user), "chage -E -1 %s lets it live on", user)
		}
	}
	acct.env = entry.env
	if entry.home != "" {
		acct.home = entry.home
	}
	if entry.shell != "" {
		acct.shell, acct.noShell = entry.shell, false
	}
	st, err := os.Stat(acct.shell)
	if err != nil {
		return osAccount{}, coded("user", "user %q: shell: %w", user, err)
	}
	if !isExecutable(st) {
		return osAccount{}, coded("user", "user %q: shell %s is not executable", user, acct.shell)
	}
	return acct, nil
}

// accountExpired looks at the day, counted from 1970, that is the last of user's
// account: shadow(5), field 8; none or a negative one is never. A locked password
// ("!" before it) is not looked at: passwd -l locks that way to log in and no
// other, and so it is with sshd wherever UsePAM is on. An account is closed by
// its day.
func accountExpired(shadow, user string, now time.Time) bool {
	for line := range strings.Lines(shadow) {
		if f := strings.Split(strings.TrimSuffix(line, "\n"), ":"); f[0] == user && len(f) > 7 {
			day, err := strconv.ParseInt(f[7], 10, 64)
			return err == nil && day >= 0 && now.Unix()/(24*60*60) > day
		}
	}
	return false
}

func isExecutable(st fs.FileInfo) bool { return st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0 }

// accountToBecome: root may become anyone, everybody else only themselves. Who
// is not in passwd is who the entry says, and never root by accident.
func accountToBecome(user string, entry configUser) (osAccount, error) {
	known, err := findAccount(user)
	switch {
	case err != nil && !errors.Is(err, errNoSuchUser):
		return osAccount{}, err
	case err == nil && entry.hasID && (entry.uid != known.uid || entry.gid != known.gid):
		return osAccount{}, fmt.Errorf("user %q has uid %d and gid %d in the configuration, and others in %s", user, entry.uid, entry.gid, passwdFile)
	}
	if os.Geteuid() != 0 {
		return ownAccountAs(user, entry, err == nil)
	}
	if err == nil {
		return known, nil
	}
	if !entry.hasID {
		if entry.name != "" {
			err = withHint(err, "give the user uid and gid in the configuration")
		}
		return osAccount{}, err
	}
	return entryAccount(entry)
}

// ownAccountAs is the account of this process, for its own name or for an entry
// that has its uid and gid and a name that passwd does not know.
func ownAccountAs(user string, entry configUser, known bool) (osAccount, error) {
	if !known && entry.hasID && entry.uid == uint32(os.Geteuid()) && entry.gid == uint32(os.Getegid()) {
		return entryAccount(entry)
	}
	own, err := ownAccount()
	if err == nil && own.name != user {
		err = fmt.Errorf("the server runs as %q, so nobody can log in as %q here", own.name, user)
	}
	return own, err
}

// entryAccount is who an entry with uid and gid is. A home that is not there
// means the root directory.
func entryAccount(u configUser) (osAccount, error) {
	return osAccount{name: u.name, uid: u.uid, gid: u.gid, home: "/", shell: fallbackShell, noShell: true}.withGroups()
}

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
	shadowFile = "/etc/shadow"
	// fallbackShell is what an empty last field means: passwd(5).
	fallbackShell = "/bin/sh"
)

var errNoSuchUser = errors.New("is not in " + passwdFile)

// findAccount reads the account called name, with its groups. errNoSuchUser:
// passwd does not know it.
func findAccount(name string) (osAccount, error) {
	passwd, err := os.ReadFile(passwdFile)
	if err != nil {
		return osAccount{}, fmt.Errorf("user %q: %w", name, err)
	}
	acct, ok := pickAccount(string(passwd), func(a osAccount) bool { return a.name == name })
	if !ok {
		return osAccount{}, fmt.Errorf("user %q %w", name, errNoSuchUser)
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
		a.shell, a.noShell = fallbackShell, true
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
