//go:build !windows

package main

import (
	"os"
	"strings"
	"syscall"
)

// step does one line; false ends the script without failure.
func (s *script) step(words []string) bool {
	s.t.Helper()
	want := words[0] != "!"
	if !want {
		words = words[1:]
	}
	args := words[1:]
	switch words[0] {
	case "tool", "exec":
		name := toolFile()
		if words[0] == "exec" {
			name, args = args[0], args[1:]
		}
		if n := len(args) - 1; n >= 0 && len(args[n]) > 1 && args[n][0] == '&' {
			s.background(args[n][1:], name, args[:n], false)
		} else {
			s.start(want, name, args)
		}
	case "term":
		s.background(args[0], toolFile(), args[1:], true)
	case "type":
		if _, err := s.proc(args[0]).tty.WriteString(args[1] + "\r"); err != nil {
			s.fatalf("%v", err)
		}
	case "input":
		s.input += strings.Join(args, " ") + "\n"
	case "stdout", "stderr":
		text := s.stdout
		if words[0] == "stderr" {
			text = s.stderr
		}
		if s.match(args[0], text) != want {
			s.fatalf("%s %v %q", words[0], want, args[0])
		}
	case "status":
		s.wantStatus(words, 1, s.status)
	case "root", "notroot":
		return (os.Geteuid() == 0) == (words[0] == "root")
	default:
		if !s.stepBeside(words, args) && !s.stepFile(want, words[0], args) {
			s.fatalf("there is no command %s", words[0])
		}
	}
	return true
}

// stepBeside does what is about programs beside the script and variables.
func (s *script) stepBeside(words, args []string) bool {
	s.t.Helper()
	switch words[0] {
	case "wait":
		b := s.proc(args[0])
		s.until(args[0]+" says "+args[1], func() bool { return s.match(args[1], b.said()) })
	case "ended":
		b := s.proc(args[0])
		if !b.wait() {
			s.fatalf("%s does not end", args[0])
		}
		s.wantStatus(args, 1, exitCode(b.cmd, b.err))
	case "silent":
		if b := s.proc(args[0]); s.match(args[1], b.said()) {
			s.fatalf("%s has said %q", args[0], args[1])
		}
	case "signal":
		s.proc(args[0]).cmd.Process.Signal(map[string]os.Signal{"INT": syscall.SIGINT, "HUP": syscall.SIGHUP}[args[1]])
	case "stop", "kill":
		sig := syscall.SIGTERM
		if words[0] == "kill" {
			sig = syscall.SIGKILL
		}
		b := s.proc(args[0])
		if !b.end(sig) {
			s.fatalf("%s does not end", args[0])
		}
		s.wantStatus(args, 1, exitCode(b.cmd, b.err))
	case "until":
		s.until("sessio "+strings.Join(args[1:], " "), func() bool {
			cmd := s.command(toolFile(), args[1:]...)
			out, _ := cmd.CombinedOutput()
			s.stdout, s.stderr = string(out), ""
			return s.match(args[0], string(out))
		})
	case "capture":
		text := s.stdout + s.stderr
		if len(args) == 3 {
			text = s.proc(args[1]).said()
		}
		value, ok := s.captured(args[len(args)-1], text)
		if !ok {
			s.fatalf("nothing matches %q in %q", args[len(args)-1], text)
		}
		s.vars[args[0]] = value
	case "on":
		s.machine(args[0])
	case "env":
		k, v, _ := strings.Cut(args[0], "=")
		if s.vars[k] = v; v == "" {
			delete(s.vars, k)
		}
	default:
		return false
	}
	return true
}

// stepFile does what is about files.
func (s *script) stepFile(want bool, word string, args []string) bool {
	s.t.Helper()
	switch word {
	case "exists":
		if _, err := os.Lstat(s.path(args[0])); (err == nil) != want {
			s.fatalf("exists %s: %v", args[0], err)
		}
	case "mode":
		info, err := os.Stat(s.path(args[0]))
		if err != nil || info.Mode().Perm().String() != args[1] {
			s.fatalf("%s: %v, %v", args[0], info, err)
		}
	case "write":
		if err := os.WriteFile(s.path(args[0]), []byte(strings.Join(args[1:], " ")+"\n"), 0o600); err != nil {
			s.fatalf("%v", err)
		}
	case "same":
		a, err := os.ReadFile(s.path(args[0]))
		b, otherErr := os.ReadFile(s.path(args[1]))
		if err != nil || otherErr != nil || (string(a) == string(b)) != want {
			s.fatalf("same %v: %v, %v", want, err, otherErr)
		}
	default:
		return false
	}
	return true
}
