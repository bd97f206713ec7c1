//go:build !windows

package main

// This file runs testdata/script/*.txt: what a person types, and what they
// must see. Each script has a directory of its own in $WORK, and machines in it
// by name: "on attic" makes the words after it run with that machine's home.
//
//	tool WORD…             run sessio; it must succeed
//	! tool WORD…           it must fail
//	exec WORD…, ! exec …   run another program
//	tool WORD… &NAME       run it beside, and exec too; it is killed at the end
//	term NAME WORD…        run sessio beside, on a terminal
//	type NAME TEXT         type a line there
//	input TEXT             lines for the next program's standard input
//	status N               how the last one ended
//	stdout RE, ! stdout RE, stderr RE, ! stderr RE
//	wait NAME RE           until what runs beside has said it
//	ended NAME [N]         until it has ended, with status N
//	stop NAME [N]          by SIGTERM; kill NAME: by SIGKILL
//	signal NAME INT|HUP    and go on
//	silent NAME RE         it has not said that
//	until RE WORD…         run sessio again and again until it says RE
//	capture VAR RE         of the last output, its group or all; VAR NAME RE: of NAME
//	on MACHINE, env K=V, exists FILE, ! exists FILE, mode FILE PERM
//	write FILE TEXT, same FILE FILE, root, notroot
//
// Words are split at blanks; '…' is literal, "…" and bare words have $VAR
// replaced.

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			newScript(t, file).run(string(text))
		})
	}
}

// A script is one file under way.
type script struct {
	t      *testing.T
	file   string
	line   int
	work   string
	vars   map[string]string
	on     string
	input  string
	stdout string
	stderr string
	status int
	beside map[string]*besideProc
}

// scriptWait bounds every wait of a script.
const scriptWait = 30 * time.Second

func newScript(t *testing.T, file string) *script {
	work, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, file: file, work: work, beside: map[string]*besideProc{}}
	s.vars = map[string]string{"WORK": work, "USER": me.Username, "TOOL": toolFile()}
	s.machine("home")
	t.Cleanup(s.cleanup)
	return s
}

func (s *script) cleanup() {
	for _, b := range s.beside {
		b.end(syscall.SIGKILL)
	}
	locks, _ := filepath.Glob(filepath.Join(s.work, "*", ".sessio", "forwards", "*.lock"))
	for _, file := range locks { // what went to the background
		pid, _ := os.ReadFile(file)
		if l, err := holdFile(file); err == nil {
			l.release()
		} else if n, err := strconv.Atoi(strings.TrimSpace(string(pid))); err == nil {
			syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

func (s *script) run(text string) {
	for i, line := range strings.Split(text, "\n") {
		s.line = i + 1
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		words := s.split(line)
		if !s.step(words) {
			return
		}
	}
}

func (s *script) fatalf(format string, args ...any) {
	s.t.Helper()
	var beside strings.Builder
	for name, b := range s.beside {
		fmt.Fprintf(&beside, "\n--- %s\n%s", name, b.said())
	}
	s.t.Fatalf("%s:%d: %s\n--- stdout\n%s--- stderr\n%s%s", s.file, s.line, fmt.Sprintf(format, args...), s.stdout, s.stderr, beside.String())
}

// split makes words of a line.
func (s *script) split(line string) (words []string) {
	var word strings.Builder
	open, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, open = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if open {
				words = append(words, word.String())
			}
			word.Reset()
			open = false
		case c == '$' && quote != '\'':
			name := leadingName(line[i+1:])
			value, ok := s.vars[name]
			if name == "" {
				value, ok = "$", true
			}
			if !ok {
				s.fatalf("there is no $%s", name)
			}
			word.WriteString(value)
			i += len(name)
			open = true
		default:
			word.WriteByte(c)
			open = true
		}
	}
	if open {
		words = append(words, word.String())
	}
	if quote != 0 || len(words) == 0 {
		s.fatalf("open quote")
	}
	return words
}

func leadingName(text string) string {
	n := 0
	for n < len(text) && (text[n] == '_' || text[n] >= 'A' && text[n] <= 'Z' || text[n] >= '0' && text[n] <= '9') {
		n++
	}
	return text[:n]
}

// machine makes a home and goes there.
func (s *script) machine(name string) {
	s.on = name
	if err := os.MkdirAll(filepath.Join(s.work, name), 0o700); err != nil {
		s.t.Fatal(err)
	}
}

// command is a program with a bare environment, without a terminal.
func (s *script) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = filepath.Join(s.work, s.on)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "TMPDIR=" + s.work, "LC_ALL=C", toolEnv + "=1",
		"GORACE=atexit_sleep_ms=0 exitcode=66"}
	for k, v := range s.vars {
		if strings.HasPrefix(k, "SESSIO_") || strings.HasPrefix(k, "SSH_") {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.Stdin = strings.NewReader(s.input)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.input = ""
	return cmd
}

// start runs a program to its end.
func (s *script) start(want bool, name string, args []string) {
	s.t.Helper()
	cmd := s.command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err := cmd.Start()
	if err == nil {
		timer := time.AfterFunc(2*scriptWait, func() { cmd.Process.Kill() })
		err = cmd.Wait()
		timer.Stop()
	}
	s.stdout, s.stderr, s.status = out.String(), errs.String(), exitCode(cmd, err)
	if (s.status == 0) != want {
		s.fatalf("status %d (%v)", s.status, err)
	}
}

func exitCode(cmd *exec.Cmd, err error) int {
	if cmd.ProcessState == nil {
		return -1
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 || err == nil {
		return code
	}
	return -1
}

// A besideProc runs beside the script.
type besideProc struct {
	cmd  *exec.Cmd
	tty  *os.File // of one on a terminal
	done chan struct{}
	err  error // once done is closed

	mu  sync.Mutex
	out bytes.Buffer // guarded by mu
}

func (b *besideProc) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *besideProc) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

// end sends a signal and waits.
func (b *besideProc) end(sig os.Signal) bool {
	b.cmd.Process.Signal(sig)
	return b.wait()
}

func (b *besideProc) wait() bool {
	select {
	case <-b.done:
		return true
	case <-time.After(scriptWait):
		return false
	}
}

// background starts a program beside the script.
func (s *script) background(name, program string, args []string, terminal bool) {
	if old := s.beside[name]; old != nil {
		select {
		case <-old.done:
		default:
			s.fatalf("%s runs already", name)
		}
	}
	b := &besideProc{cmd: s.command(program, args...), done: make(chan struct{})}
	if !terminal {
		b.cmd.Stdout, b.cmd.Stderr = b, b
		if err := b.cmd.Start(); err != nil {
			s.fatalf("%v", err)
		}
		s.beside[name] = b
		go func() { b.err = b.cmd.Wait(); close(b.done) }()
		return
	}
	b.cmd.Stdin = nil
	tty, err := pty.StartWithSize(b.cmd, &pty.Winsize{Rows: 24, Cols: 200})
	if err != nil {
		s.fatalf("%v", err)
	}
	s.beside[name], b.tty = b, tty
	go func() {
		io.Copy(b, tty)
		b.err = b.cmd.Wait()
		tty.Close()
		close(b.done)
	}()
}

func (s *script) proc(name string) *besideProc {
	b := s.beside[name]
	if b == nil {
		s.fatalf("nothing called %s runs beside", name)
	}
	return b
}

// until calls ok until it is true.
func (s *script) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(scriptWait); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.fatalf("%s: not within %v", what, scriptWait)
		}
	}
}

func (s *script) match(re, text string) bool {
	s.t.Helper()
	r, err := regexp.Compile("(?m)" + re)
	if err != nil {
		s.fatalf("%v", err)
	}
	return r.MatchString(text)
}

// captured is the first group of re in text, or all that it matches.
func (s *script) captured(re, text string) (string, bool) {
	r, err := regexp.Compile("(?m)" + re)
	if err != nil {
		s.fatalf("%v", err)
	}
	m := r.FindStringSubmatch(text)
	if m == nil {
		return "", false
	}
	return m[len(m)-1], true
}

// path is a file of the current machine.
func (s *script) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.work, s.on, name)
}

func (s *script) wantStatus(words []string, at int, got int) {
	s.t.Helper()
	if len(words) <= at {
		return
	}
	if want, err := strconv.Atoi(words[at]); err != nil || got != want {
		s.fatalf("status %d, want %s", got, words[at])
	}
}
