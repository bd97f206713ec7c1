//go:build linux || darwin

package main

// This file decides what a session runs and with which variables: the command
// that a key is bound to, the commands that the configuration allows, what a
// client may set.

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A sshProgram is what a session starts.
type sshProgram struct {
	file string
	argv []string
}

// What refused sessions and commands that were ended exit with: as shells and
// timeout(1) have it, the last one as sshd.
const (
	exitExpired  = 124
	exitRefused  = 126
	exitNotFound = 127
	exitNologin  = 254
)

// errNoShell is told to who asks for a shell where commands are listed.
var errNoShell = errors.New("no shell here: only the commands of shell.allowed_commands")

// shellProgram has the account's shell run command, nil for a login shell.
func shellProgram(acct osAccount, command *string) sshProgram {
	base := filepath.Base(acct.shell)
	if command == nil {
		return sshProgram{acct.shell, []string{"-" + base}}
	}
	return sshProgram{acct.shell, []string{base, "-c", *command}}
}

// allowedProgram is command without a shell, if its first word is one of
// allowed and the account may run anything: a shell that turns logins away
// would not be asked. pathList is where it is looked for.
func allowedProgram(acct osAccount, command *string, allowed []string, pathList string) (p sshProgram, err error) {
	if command == nil {
		return p, errNoShell
	}
	if base := filepath.Base(acct.shell); base == "nologin" || base == "false" {
		return p, fmt.Errorf("user %s may not log in: the shell is %s", acct.name, acct.shell)
	}
	if p.argv, err = splitCommand(*command); err != nil {
		return p, err
	}
	if len(p.argv) == 0 || !slices.Contains(allowed, p.argv[0]) {
		return p, errors.New("the command is none of shell.allowed_commands")
	}
	if strings.Contains(p.argv[0], "/") {
		p.file = p.argv[0]
		return p, nil
	}
	for dir := range strings.SplitSeq(pathList, ":") {
		p.file = filepath.Join(dir, p.argv[0])
		if st, err := os.Stat(p.file); err == nil && filepath.IsAbs(dir) && isExecutable(st) {
			return p, nil
		}
	}
	return p, &exitError{exitNotFound, errors.New("the command is not installed")}
}

// splitCommand splits a command into the words that any POSIX shell would make
// of it, and refuses what a shell would do more with: substitution, globs,
// several commands. Quotes and backslashes are undone.
func splitCommand(line string) (words []string, err error) {
	split, ok := shellWords(line, "|&;<>()$`*?[{\n", false)
	for _, w := range split {
		for i, bare := range w.bare { // a home
			ok = ok && (!bare || w.text[i] != '~' || i > 0 && strings.IndexByte("=:", w.text[i-1]) < 0)
		}
		words = append(words, w.text)
	}
	if !ok {
		return nil, errNeedsShell
	}
	return words, nil
}

var errNeedsShell = errors.New("the command needs a shell, and shell.allowed_commands has none: plain words and quotes only")

// neverEnv are variables that no client sets, whatever the configuration says:
// they would change what a command means, or who is told to have called.
var neverEnv = []string{
	"LD_*", "DYLD_*", "GCONV_PATH", "GLIBC_*", "MALLOC_*", "PATH", "HOME", "SHELL", "USER", "LOGNAME", "SSH_*",
	"BASH*", "ENV", "IFS", "SHELLOPTS", "PYTHON*", "PERL*", "RUBY*", "NODE_OPTIONS",
}

// acceptsEnv reports whether a client may set name where globs are accepted.
func acceptsEnv(globs []string, name string) bool {
	has := func(globs []string) bool {
		return slices.ContainsFunc(globs, func(glob string) bool {
			ok, _ := path.Match(glob, name)
			return ok
		})
	}
	return name != "" && !strings.ContainsAny(name, "=/\x00") && has(globs) && !has(neverEnv)
}

// lastOf leaves of the settings of a variable the last one. Of two a program
// would take either.
func lastOf(env []string) (out []string) {
	at := map[string]int{}
	for _, setting := range env {
		name, _, _ := strings.Cut(setting, "=")
		if i, ok := at[name]; ok {
			out[i] = setting
			continue
		}
		at[name] = len(out)
		out = append(out, setting)
	}
	return out
}

// valueOf is the value of a variable in env, "" when it is not there.
func valueOf(env []string, name string) string {
	for _, setting := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(setting, name+"="); ok {
			return v
		}
	}
	return ""
}
