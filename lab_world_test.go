//go:build linux

package main

// The lab's machines: an account with a client and a device, their identities
// kept while they are carried from one NAT to another.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A labWorld is a lab with a coordinator that runs and an account: laptop, a
// client, and attic, a device.
type labWorld struct {
	*lab
	tool   string
	coord  *labRole
	laptop *labMachine
	attic  *labMachine
}

// A labMachine is an identity in a directory, which processes anywhere in the
// lab may use.
type labMachine struct {
	w    *labWorld
	name string
	home string
}

// account starts the coordinator and enrols the machines, in its namespace.
func (l *lab) account(flags ...string) *labWorld {
	l.t.Helper()
	tool, err := labTool()
	if err != nil {
		l.t.Fatal(err)
	}
	w := &labWorld{lab: l, tool: tool}
	vps := w.machine("vps")
	w.coord = vps.start(l.coord, append([]string{"-coordinator", "-vvv", "-udp", ":7722", "-url", "https://" + labCoord}, flags...)...)
	word := w.coord.until("s1/", "\n")
	w.laptop, w.attic = w.machine("laptop"), w.machine("attic")
	key := filepath.Join(w.laptop.home, "id")
	l.run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	w.laptop.must(l.coord, "account", "create", "-key", key, "-name", "laptop", word)
	w.enrol(w.attic)
	return w
}

func (w *labWorld) machine(name string) *labMachine {
	m := &labMachine{w, name, filepath.Join(w.dir, name)}
	if err := os.MkdirAll(m.home, 0o700); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// enrol makes a machine a device of the account.
func (w *labWorld) enrol(m *labMachine) {
	w.t.Helper()
	said := strings.Fields(w.laptop.must(w.lab.coord, "ticket", "-name", m.name, "-users", "root"))
	for _, ticket := range said {
		if strings.HasPrefix(ticket, "s1/") {
			m.must(w.lab.coord, "join", "-no-wait", ticket)
			break
		}
	}
	w.laptop.must(w.lab.coord, "trust", "sign", m.name)
}

// command is sessio, run with the machine's identity in a namespace.
func (m *labMachine) command(at *labHost, args ...string) *exec.Cmd {
	cmd := at.command(m.w.tool, args...)
	cmd.Dir = m.home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.home, "LC_ALL=C", "TERM=xterm", toolEnv + "=1", "GORACE=atexit_sleep_ms=0"}
	return cmd
}

// A labRun is how a verb ended.
type labRun struct {
	status int
	out    string
	errs   string
	took   time.Duration
}

func (r labRun) String() string {
	return fmt.Sprintf("status %d after %v\n%s%s", r.status, r.took.Round(time.Millisecond), r.out, r.errs)
}

// labVerbFor bounds every verb.
const labVerbFor = 60 * time.Second

// verb runs a verb to its end.
func (m *labMachine) verb(at *labHost, args ...string) labRun {
	m.w.t.Helper()
	var out, errs bytes.Buffer
	cmd := m.command(at, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	began := time.Now()
	if err := cmd.Start(); err != nil {
		m.w.t.Fatal(err)
	}
	timer := time.AfterFunc(labVerbFor, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	return labRun{exitCode(cmd, err), out.String(), errs.String(), time.Since(began)}
}

// must runs a verb that must succeed, and returns what it printed.
func (m *labMachine) must(at *labHost, args ...string) string {
	m.w.t.Helper()
	r := m.verb(at, args...)
	if r.status != 0 {
		m.w.t.Fatalf("%s: sessio %v: %v", m.name, args, r)
	}
	return r.out
}

// A labRole is a role's process.
type labRole struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	log  labLog
	done chan struct{}
}

// start starts a role, which is killed at the end of the test if it still runs.
func (m *labMachine) start(at *labHost, args ...string) *labRole {
	m.w.t.Helper()
	return m.w.beside(m.name, m.command(at, args...))
}

// beside runs a command beside the test.
func (l *lab) beside(name string, cmd *exec.Cmd) *labRole {
	l.t.Helper()
	r := &labRole{t: l.t, name: name, cmd: cmd, done: make(chan struct{})}
	r.log.more = make(chan struct{})
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	if err := r.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		r.cmd.Wait()
	}()
	l.t.Cleanup(r.kill)
	return r
}

// serve starts the machine's device role and waits until it can be called.
func (m *labMachine) serve(at *labHost, flags ...string) *labRole {
	m.w.t.Helper()
	r := m.start(at, append([]string{"-device", "-vvv"}, flags...)...)
	r.until("the coordinator knows this machine", "\n")
	return r
}

// stop ends the role as a service manager would.
func (r *labRole) stop() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.done:
	case <-time.After(10 * time.Second):
		r.t.Errorf("%s does not end:\n%s", r.name, r.log.String())
		r.kill()
	}
}

func (r *labRole) kill() {
	r.cmd.Process.Kill()
	<-r.done
}

// until waits until the role has said a text, and returns it as far as end.
func (r *labRole) until(text, end string) string {
	r.t.Helper()
	ctx, stop := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer stop()
	for {
		said, more := r.log.read()
		if _, after, ok := strings.Cut(said, text); ok {
			if rest, _, ok := strings.Cut(after, end); ok {
				return text + rest
			}
		}
		select {
		case <-more:
		case <-r.done:
			r.t.Fatalf("%s has ended before it said %q:\n%s", r.name, text, r.log.String())
		case <-ctx.Done():
			r.t.Fatalf("%s never said %q:\n%s", r.name, text, r.log.String())
		}
	}
}

// A labLog keeps what a process says.
type labLog struct {
	mu   sync.Mutex
	b    bytes.Buffer  // guarded by mu
	more chan struct{} // guarded by mu; closed when b grows
}

func (l *labLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.more)
	l.more = make(chan struct{})
	return l.b.Write(b)
}

func (l *labLog) read() (said string, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String(), l.more
}

func (l *labLog) String() string {
	said, _ := l.read()
	return said
}

// keep writes logs of a run that went wrong to a directory that stays, and
// returns its name.
func (w *labWorld) keep(run string, logs map[string]string) string {
	w.t.Helper()
	dir := os.Getenv(labLogs)
	if dir == "" {
		dir = filepath.Join("dist", "lab", "logs")
	}
	dir = filepath.Join(dir, strings.NewReplacer("/", "-", " ", "-").Replace(run))
	err := os.MkdirAll(dir, 0o755)
	for name, text := range logs {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name+".log"), []byte(text), 0o644))
	}
	if err != nil {
		w.t.Error(err)
	}
	return dir
}
