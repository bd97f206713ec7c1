package main

// This file finds a login's uid, gid, groups, home and shell in /etc/passwd and
// /etc/group. They are read anew for every login, so that a changed group holds
// at once; there is no cgo, and so no NSS.

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

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
