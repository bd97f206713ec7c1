package main

// This file decides whom a verb means: the device, the login on it, and the
// command among the words that were typed.

import (
	"errors"
	"os/user"
	"slices"
	"strings"
)

// A target is a device and the login asked for; "" leaves the login to the
// rule.
type target struct{ device, login string }

// parseTarget reads [user@]DEVICE. The login of -l goes before user@, as with
// ssh.
func parseTarget(operand, login string) (target, error) {
	t := target{device: operand, login: login}
	if at := strings.LastIndexByte(operand, '@'); at >= 0 {
		t.device = operand[at+1:]
		if at == 0 {
			return target{}, usageError("%q has no user before the @", operand)
		}
		if login == "" {
			t.login = operand[:at]
		}
	}
	if t.device == "" {
		return target{}, usageError("%q names no device", operand)
	}
	return t, nil
}

// chooseLogin is the login on a device that lists users: the one asked for;
// else the local user's name if it is listed; else the only one listed.
func chooseLogin(asked, local, device string, users []string) (string, error) {
	switch {
	case asked != "":
		return asked, nil
	case local != "" && loginListed(local, users):
		return local, nil
	case len(users) == 1 && users[0] != "*":
		return users[0], nil
	case len(users) == 0:
		return "", usageError("%s lists no login: name one with -l", device)
	case slices.Contains(users, "*"):
		return "", usageError("%s lets in any login: name one with -l", device)
	}
	return "", usageError("%s has several logins, name one with -l: %s", device, strings.Join(users, ", "))
}

// loginListed reports whether users, where "*" is any, has login.
func loginListed(login string, users []string) bool {
	return slices.Contains(users, login) || slices.Contains(users, "*")
}

// localLogin is the name of the user that runs this process, "" when it has
// none. Windows puts the domain before a backslash.
func localLogin() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username[strings.LastIndexByte(u.Username, '\\')+1:]
}

// commandLine is the line that the remote shell reads: one word is a line of
// shell already, several arrive there as exactly these arguments.
func commandLine(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = shellQuote(w)
	}
	return strings.Join(quoted, " ")
}

// shellQuote makes one word of the POSIX shell of s, which holds no NUL. It
// always quotes: the shell has reserved words and aliases that a command by
// that name must not become.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// linkFailure gives err the status that ssh has for all that is not the remote
// command's, unless it has one.
func linkFailure(err error) error {
	if e := (*exitError)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	return &exitError{255, err}
}
