package main

// This file runs one shell or command over an SSH connection: its requests,
// its three streams, and how it ends. A signal ends it in such a way that its
// deferred work, the terminal above all, is done first.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// A sessionSpec is what the far end is to start.
type sessionSpec struct {
	command string // "" is the login shell
	env     []string
	pty     *ptyRequestMsg // nil for none
}

// A remoteSession is one session channel. Its end is known when the far end
// has closed the channel and both outputs are written.
type remoteSession struct {
	client   *sshClient
	ch       ssh.Channel
	requests <-chan *ssh.Request

	over   chan struct{} // closed at the end
	exit   sessionExit   // valid then
	silent atomic.Bool   // nothing is printed any more
}

// A sessionExit is how the command ended.
type sessionExit struct {
	known  bool // it came with a status
	status int
	signal string // without "SIG"; "" when it exited by itself
}

// Payloads of RFC 4254, sections 6.2, 6.4, 6.5, 6.7 and 6.10, after the
// want-reply byte.
type (
	ptyRequestMsg struct {
		Term          string
		Cols, Rows    uint32
		Width, Height uint32 // pixels
		Modes         string // opcode and value, ended by opcode 0
	}
	envMsg        struct{ Name, Value string }
	execMsg       struct{ Command string }
	signalMsg     struct{ Name string }
	exitSignalMsg struct {
		Name    string
		Core    bool
		Message string
		Lang    string
	}
)

// openSession opens the channel, one round trip. It returns early when ctx
// ends, at the cost of the connection.
func openSession(ctx context.Context, c *sshClient) (*remoteSession, error) {
	unhook := context.AfterFunc(ctx, func() { c.wire.Close() })
	ch, requests, err := c.OpenChannel("session", nil)
	if !unhook() {
		return nil, endedBy(ctx)
	}
	if refused := (*ssh.OpenChannelError)(nil); errors.As(err, &refused) {
		return nil, fmt.Errorf("%s refused a session: %s: %q", c.device, refused.Reason, refused.Message)
	}
	if err != nil {
		if lost := c.lost(); lost != nil {
			return nil, lost
		}
		return nil, fmt.Errorf("opening a session on %s: %w", c.device, err)
	}
	return &remoteSession{client: c, ch: ch, requests: requests, over: make(chan struct{})}, nil
}

// runSession runs spec on the target from beginning to end.
func runSession(ctx context.Context, op sshOpener, t target, spec sessionSpec, st streams) error {
	client, err := dialSSH(ctx, op, t.device, t.login)
	if err != nil {
		return linkFailure(err)
	}
	defer client.close()
	if client.banner != "" {
		io.WriteString(st.err, client.banner)
	}
	s, err := openSession(ctx, client)
	if err != nil {
		return linkFailure(err)
	}
	return s.run(ctx, spec, st)
}

// A streams is what a session talks to at this end.
type streams struct {
	in       sessionInput // nil for none
	out, err io.Writer
	tty      *localTTY // nil when there is no terminal to make raw
}

// A sessionInput is read until it ends or is cancelled; a Read that waits
// returns io.EOF then.
type sessionInput interface {
	io.Reader
	cancel()
}

// run starts what spec says and returns how it ended, the verb's error. When
// ctx ends first it does not wait for an output that takes nothing more.
func (s *remoteSession) run(ctx context.Context, spec sessionSpec, st streams) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if err := st.tty.makeRaw(); err != nil {
		return linkFailure(err)
	}
	defer st.tty.restore()
	defer st.tty.attach(s, end)()
	s.copyOutputs(st, end)
	// Whatever sends may wait for a link that has lost its path, so that
	// nothing is sent from here.
	var senders sync.WaitGroup
	senders.Go(func() { st.tty.guard(func() { s.feed(spec, st.in, end) }) })

	select {
	case <-s.over:
	case <-ctx.Done():
		if by := (signalError{}); spec.pty == nil && errors.As(context.Cause(ctx), &by) {
			senders.Go(func() { s.sendSignal(by.sig) })
			s.waitOver()
		}
		s.silent.Store(true)
	}
	st.tty.restore()
	err := endedBy(ctx)
	if err == nil {
		if err = s.result(); !s.exit.known {
			st.tty.say("\n") // what main prints starts a line
		}
	}
	s.client.wire.Close()
	if st.in != nil {
		st.in.cancel()
	}
	senders.Wait()
	s.waitOver()
	return err
}

// copyOutputs copies both outputs until they end, and ends the session when
// nobody takes its standard output any more.
func (s *remoteSession) copyOutputs(st streams, end context.CancelCauseFunc) {
	var ends sync.WaitGroup
	ends.Go(func() { st.tty.guard(func() { s.exit = s.awaitExit() }) })
	ends.Go(func() {
		st.tty.guard(func() {
			if err, _ := copyChunks(whileLoud{s, st.out}, s.ch); err != nil {
				end(brokenOutput(err))
			}
		})
	})
	ends.Go(func() {
		st.tty.guard(func() {
			if err, _ := copyChunks(whileLoud{s, st.err}, s.ch.Stderr()); err != nil {
				copyChunks(io.Discard, s.ch.Stderr())
			}
		})
	})
	go func() {
		ends.Wait()
		close(s.over)
	}()
}

// A whileLoud is an output until the session falls silent: what the library
// has stored by then, up to 2 MiB, would run over the user's own prompt.
type whileLoud struct {
	s *remoteSession
	w io.Writer
}

func (l whileLoud) Write(b []byte) (int, error) {
	if l.s.silent.Load() {
		return 0, errSilent
	}
	return l.w.Write(b)
}

var errSilent = errors.New("the session is over")

// feed sends the requests, waits for the answer to the last, and gives the
// command its input. Output flows before the answer has come, input after it:
// a refused command must not eat any. A server that refuses the pty has to
// refuse what was to run on it.
func (s *remoteSession) feed(spec sessionSpec, in io.Reader, end context.CancelCauseFunc) {
	if spec.pty != nil {
		s.ch.SendRequest("pty-req", false, ssh.Marshal(spec.pty))
	}
	for _, e := range spec.env {
		name, value, _ := strings.Cut(e, "=")
		s.ch.SendRequest("env", false, ssh.Marshal(envMsg{name, value}))
	}
	kind, payload := "shell", []byte(nil)
	if spec.command != "" {
		kind, payload = "exec", ssh.Marshal(execMsg{spec.command})
	}
	started, err := s.ch.SendRequest(kind, true, payload)
	if err != nil {
		return // the channel is closed: result knows why
	}
	if !started {
		end(linkFailure(fmt.Errorf("%s refused the %s request", s.client.device, kind)))
		return
	}
	if in != nil {
		copyChunks(s.ch, in)
	}
	s.ch.CloseWrite()
}

// awaitExit serves the channel's requests until it closes.
func (s *remoteSession) awaitExit() (exit sessionExit) {
	for r := range s.requests {
		switch r.Type {
		case "exit-status":
			var m struct{ Status uint32 }
			if ssh.Unmarshal(r.Payload, &m) == nil {
				exit = sessionExit{known: true, status: int(m.Status & 0xff)}
			}
		case "exit-signal":
			var m exitSignalMsg
			if ssh.Unmarshal(r.Payload, &m) == nil {
				exit = sessionExit{known: true, signal: m.Name}
			}
		}
		r.Reply(false, nil)
	}
	return exit
}

// result is the verb's error for a session that is over.
func (s *remoteSession) result() error {
	switch {
	case s.exit.signal != "": // 255 is what ssh ends with here, too
		return &exitError{255, fmt.Errorf("ended on %s by signal %q", s.client.device, s.exit.signal)}
	case s.exit.known && s.exit.status != 0:
		return &exitError{status: s.exit.status}
	case s.exit.known:
		return nil
	}
	if lost := s.client.lost(); lost != nil {
		return &exitError{255, lost}
	}
	return &exitError{255, fmt.Errorf("%s closed the session and told no exit status", s.client.device)}
}

// brokenOutput is the end of a verb whose own output broke. A closed pipe is
// silent, as for any program in a pipeline.
func brokenOutput(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return &exitError{status: 128 + int(syscall.SIGPIPE)}
	}
	return fmt.Errorf("writing what the command printed: %w", err)
}

// sendSignal passes on the signal that ended the verb. Whether it arrives is
// not known.
func (s *remoteSession) sendSignal(sig syscall.Signal) {
	names := map[syscall.Signal]string{syscall.SIGINT: "INT", syscall.SIGTERM: "TERM", syscall.SIGHUP: "HUP"}
	s.ch.SendRequest("signal", false, ssh.Marshal(signalMsg{names[sig]}))
}

// sessionGrace is how long a command may take to obey a signal and have its
// last words shown, and how long an output that takes nothing is waited for.
const sessionGrace = time.Second

// waitOver waits for the end, but not for ever.
func (s *remoteSession) waitOver() {
	grace := time.NewTimer(sessionGrace)
	defer grace.Stop()
	select {
	case <-s.over:
	case <-grace.C:
	}
}

// sessionEnv picks the variables that servers let in: language and nothing
// else. Long ones are no locale.
func sessionEnv(environ []string) []string {
	var env []string
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if (name == "LANG" || strings.HasPrefix(name, "LC_")) && len(value) <= 256 {
			env = append(env, e)
		}
	}
	slices.Sort(env)
	return env
}

// A signalError is the cause of a context that a signal has ended.
type signalError struct{ sig syscall.Signal }

func (e signalError) Error() string { return e.sig.String() }

// endedBy is the error of a verb whose context has ended, nil while it has
// not. After a signal nothing is printed and the status is the one that shells
// report for it; a plain cancellation is ^C.
func endedBy(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause == nil {
		return nil
	}
	if s := (signalError{}); errors.As(cause, &s) {
		return &exitError{status: 128 + int(s.sig)}
	}
	if cause == context.Canceled {
		return &exitError{status: 128 + int(syscall.SIGINT)}
	}
	return cause
}

// interruptible runs f until a signal ends it. What the person did is the
// error then, not what broke by it.
func interruptible(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	err := f(ctx)
	if ctx.Err() != nil {
		return endedBy(ctx)
	}
	return err
}

// untilSignal returns a context that ends on the first SIGINT, SIGTERM or
// SIGHUP that the process was not started to ignore. Until stop is called a
// broken standard output is an error and not the end of the process, which
// would leave the terminal in raw mode.
func untilSignal(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	first := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(first, s)
		}
	}
	brokenPipe := make(chan os.Signal, 1) // nobody reads it
	signal.Notify(brokenPipe, syscall.SIGPIPE)
	var loop sync.WaitGroup
	loop.Go(func() {
		select {
		case s := <-first:
			cancel(signalError{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel(nil)
		loop.Wait()
		signal.Stop(first)
		signal.Stop(brokenPipe)
	}
}
