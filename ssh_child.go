//go:build linux || darwin

package main

// This file runs the process of a session: as the right user, leading a session
// of its own, on pipes or on a terminal, and hangs up on all that it started
// when the connection is lost.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A childSpec is a process to be.
type childSpec struct {
	acct    osAccount
	command *string     // nil: a login shell
	env     []string    // SSH_TTY and TERM are added
	pty     *ptyRequest // nil: pipes
}

// An sshChild is the process of a session. It leads a session and a process
// group of the kernel, so that signals reach what it started.
type sshChild struct {
	proc   *os.Process
	term   *terminal // nil with pipes
	stdin  *os.File  // to write; the master with a terminal
	stdout *os.File  // to read; the master with a terminal
	stderr *os.File  // nil with a terminal
	notice string    // to be shown before all else, "" mostly

	mu     sync.Mutex
	reaped bool // its process id may be another's
}

// startChild starts the process. Its ends of the pipes are closed here, so that
// end of file is seen when the last process that holds them is gone.
func startChild(spec childSpec) (*sshChild, error) {
	c := new(sshChild)
	ends, err := c.open(spec)
	defer closeFiles(ends)
	if err != nil {
		return nil, err
	}
	env := spec.env
	if c.term != nil {
		env = append(env, "TERM="+spec.pty.term, "SSH_TTY="+c.term.slave.Name())
	}
	attr := &os.ProcAttr{Env: env, Files: ends, Sys: &syscall.SysProcAttr{
		Setsid:     true,
		Setctty:    c.term != nil,
		Credential: credentialOf(spec.acct),
	}}
	if err := c.start(spec, attr); err != nil {
		c.closeIO()
		return nil, err
	}
	return c, nil
}

// open makes terminal or pipes and returns the child's ends.
func (c *sshChild) open(spec childSpec) (ends []*os.File, err error) {
	if spec.pty != nil {
		if c.term, err = spec.pty.open(spec.acct); err != nil {
			return nil, err
		}
		c.stdin, c.stdout = c.term.master, c.term.master
		return []*os.File{c.term.slave, c.term.slave, c.term.slave}, nil
	}
	var r, w [3]*os.File
	for i := range r {
		if r[i], w[i], err = os.Pipe(); err != nil {
			closeFiles(append(r[:i], w[:i]...))
			return nil, fmt.Errorf("no pipes: %w", err)
		}
	}
	c.stdin, c.stdout, c.stderr = w[0], r[1], r[2]
	return []*os.File{r[0], w[1], w[2]}, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close() // twice for a terminal, which is harmless
	}
}

// credentialOf is nil where the process is to run as who we are. The groups are
// always set: a forgotten one is a leak (CVE-2023-28436).
func credentialOf(acct osAccount) *syscall.Credential {
	if !acct.mustBecome() {
		return nil
	}
	return &syscall.Credential{Uid: acct.uid, Gid: acct.gid, Groups: acct.groups}
}

// start runs the shell in the home directory, or in / with a notice, as sshd
// does. The kernel enters the directory as the user, and does not say whether
// directory or shell was missing: trying / tells.
func (c *sshChild) start(spec childSpec, attr *os.ProcAttr) (err error) {
	argv := []string{"-" + filepath.Base(spec.acct.shell)}
	if spec.command != nil {
		argv = []string{filepath.Base(spec.acct.shell), "-c", *spec.command}
	}
	attr.Dir = spec.acct.home
	if attr.Dir == "" {
		attr.Dir = "/"
	}
	if c.proc, err = os.StartProcess(spec.acct.shell, argv, attr); err == nil {
		return nil
	}
	attr.Dir = "/"
	var rootErr error
	if c.proc, rootErr = os.StartProcess(spec.acct.shell, argv, attr); rootErr != nil {
		return fmt.Errorf("starting %s: %w", spec.acct.shell, rootErr)
	}
	c.notice = fmt.Sprintf("Could not chdir to home directory %s: %v\r\n", spec.acct.home, syscallCause(err))
	return nil
}

// wait returns when the process has ended, and reaps it.
func (c *sshChild) wait() (syscall.WaitStatus, error) {
	state, err := c.proc.Wait()
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return state.Sys().(syscall.WaitStatus), nil
}

// ended reports whether the process has been reaped.
func (c *sshChild) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reaped
}

// signal goes to the process group of the leader: RFC 4254, section 6.9.
func (c *sshChild) signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return os.ErrProcessDone
	}
	return unix.Kill(-c.proc.Pid, sig)
}

// closeStdout is for a client that takes no more output, as in "ssh host yes |
// head": the next write ends the writer with SIGPIPE.
func (c *sshChild) closeStdout() error {
	if c.term != nil {
		return errors.ErrUnsupported // stdin comes the same way
	}
	return c.stdout.Close()
}

// closeIO closes what we hold of terminal or pipes and so ends all copying.
// Losing its master, a terminal hangs up by itself.
func (c *sshChild) closeIO() {
	if c.term != nil {
		c.term.close()
		return
	}
	for _, f := range []*os.File{c.stdin, c.stdout, c.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

const (
	// hangupGrace is how long processes may tidy up after SIGHUP. With the time
	// in which a dead client is found out, answerWait, it stays below 15 s.
	hangupGrace = 3 * time.Second
	// hangupLook is how often we look whether they are gone.
	hangupLook = 50 * time.Millisecond
	// killRounds bounds the hunt for processes that fork while they are killed.
	killRounds = 40
)

// hangup ends the session because its connection is lost. While the leader
// lives, everything in its session gets SIGHUP, and SIGKILL after hangupGrace:
// background jobs too, whose process groups are their own. When the leader has
// ended by itself, what it left behind only gets SIGHUP, so that a daemon that
// was started with nohup lives on when the client does not wait for its pipes.
func (c *sshChild) hangup() {
	leaderAlive := !c.ended() // now: a terminal that closes is its end
	c.closeIO()
	c.signalSession(syscall.SIGHUP)
	c.signalSession(syscall.SIGCONT) // the stopped ones hear it only then
	if !leaderAlive {
		return
	}
	look := time.NewTicker(hangupLook)
	defer look.Stop()
	grace := time.After(hangupGrace)
	for rounds := 0; rounds < killRounds && !c.gone(); {
		select {
		case <-grace:
			rounds = 1
		case <-look.C:
		}
		if rounds > 0 {
			c.signalSession(syscall.SIGKILL)
			rounds++
		}
	}
}

// gone reports whether the leader is reaped and nothing of its session is left.
func (c *sshChild) gone() bool {
	return c.ended() && len(sessionMembers(c.proc.Pid)) == 0
}

// signalSession signals the leader's process group and, where the system lets
// us find them, all other processes of its session. The kernel does not hand
// out a process id while a group or session is called by it. So if the leader
// is reaped and its number lives, then it is another's and nobody is left.
func (c *sshChild) signalSession(sig syscall.Signal) {
	sid := c.proc.Pid
	if c.ended() && unix.Kill(sid, 0) != unix.ESRCH {
		return
	}
	unix.Kill(-sid, sig)
	for _, pid := range sessionMembers(sid) {
		unix.Kill(pid, sig)
	}
}

// syscallCause is the last error in err's chain: the kernel's word without
// what we tried.
func syscallCause(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err
		}
		err = u.Unwrap()
	}
}
