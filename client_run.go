package main

// This file is the verbs that run something on a device:
//
// 	shell   a login shell on a pty, or on plain streams when standard input is
// 	        no terminal, as with ssh
// 	run     a command on one device as if it ran here, or on several at once
// 	        with every line marked by its device
// 	proxy   standard input and output joined to a device's SSH server, for
// 	        ProxyCommand of a stock ssh

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
)

func shellVerb() verb {
	return verb{name: "shell", usage: "[-l LOGIN] [-v] [LOGIN@]DEVICE", summary: "a login shell on a device",
		more: "At the start of a line ~. ends the link and ~? shows what else there is. The\nexit status is the shell's, or 255 when there is no link.",
		setup: func(f *flag.FlagSet) verbRun {
			user := loginFlag(f)
			return onDevice(f, func(o operands) (target, error) { return parseShellOperands(o.all(), *user) }, cmdShell)
		}}
}

func runVerb() verb {
	return verb{name: "run", usage: "[-t] [-j N] [-l LOGIN] [-v] [LOGIN@]DEVICE… -- CMD ARG…", summary: "a command on one device or several", command: true,
		more: "Behind -- one word is a line for the device's shell, and several words arrive as\nexactly those arguments. Without -- the first word is the device and the rest the\ncommand. With several devices each line of output begins with the device's name,\nand the exit status is the worst.",
		setup: func(f *flag.FlagSet) verbRun {
			user := loginFlag(f)
			tty := f.Bool("t", false, "run it on a terminal")
			jobs := f.Int("j", defaultJobs, "`devices` at once (default 16)")
			return onDevice(f, func(o operands) (runArgs, error) {
				devices, line, err := parseRunOperands(o.before, o.after, o.dashed)
				if err == nil && *jobs < 1 {
					err = usageError("-j %d: at least 1", *jobs)
				}
				return runArgs{devices, line, *tty, *jobs, *user}, err
			}, cmdRun)
		}}
}

func proxyVerb() verb {
	return verb{name: "proxy", usage: "[-v] [LOGIN@]DEVICE [PORT]", summary: "the device's SSH on standard input and output, for ssh's ProxyCommand",
		setup: func(f *flag.FlagSet) verbRun {
			return onDevice(f, func(o operands) (target, error) { return parseProxyOperands(o.all()) }, cmdProxy)
		}}
}

// parseShellOperands reads [user@]DEVICE.
func parseShellOperands(operands []string, user string) (target, error) {
	if len(operands) != 1 {
		return target{}, usageError("shell takes one device; run starts a command")
	}
	return parseTarget(operands[0], user)
}

func cmdShell(ctx context.Context, op sshOpener, files stdio, t target) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	spec := sessionSpec{env: sessionEnv(os.Environ())}
	st := streamsOf(files)
	if st.tty != nil {
		spec.pty = ptyRequestFor(files)
	}
	return runSession(ctx, op, t, spec, st)
}

// streamsOf lends all three files to one session, with the escapes of a
// terminal on standard input.
func streamsOf(files stdio) streams {
	st := streams{out: files.out, err: files.err, tty: terminalOf(files)}
	if st.tty != nil {
		st.in = st.tty.input
	} else if files.in != nil {
		st.in = newStdinReader(files.in)
	}
	return st
}

type runArgs struct {
	devices []string // each DEVICE or user@DEVICE
	line    string   // for the remote shell
	tty     bool     // -t: a pty
	jobs    int      // -j: devices at once, 0 for the default
	user    string   // of -l
}

// defaultJobs is how many devices run at once: each holds a connection and a
// few buffers, some 200 KiB.
const defaultJobs = 16

// parseRunOperands reads what stood before a "--" and, where there was one,
// after it. Without it the first operand is the device, the rest the command.
func parseRunOperands(before, after []string, dashed bool) (devices []string, line string, err error) {
	if !dashed && len(before) > 0 {
		before, after = before[:1], before[1:]
	}
	if len(before) == 0 {
		return nil, "", usageError("run needs a device and a command")
	}
	if len(after) == 0 {
		return nil, "", withHint(usageError("run needs a command after the device"), "sessio shell %s opens a shell", before[0])
	}
	return before, commandLine(after), nil
}

func cmdRun(ctx context.Context, op sshOpener, files stdio, args runArgs) error {
	targets := make([]target, len(args.devices))
	for i, d := range args.devices {
		t, err := parseTarget(d, args.user)
		if err != nil {
			return err
		}
		targets[i] = t
	}
	spec := sessionSpec{command: args.line, env: sessionEnv(os.Environ())}
	ctx, stop := untilSignal(ctx)
	defer stop()
	switch {
	case len(targets) == 0 || args.line == "":
		return usageError("run needs a device and a command")
	case len(targets) > 1 && args.tty:
		return usageError("-t is for one device")
	case len(targets) > 1:
		return runMany(ctx, op, files, targets, spec, args.jobs)
	case args.tty:
		spec.pty = ptyRequestFor(files)
		return runSession(ctx, op, targets[0], spec, streamsOf(files))
	}
	st := streams{out: files.out, err: files.err}
	if files.in != nil {
		st.in = newStdinReader(files.in)
	}
	return runSession(ctx, op, targets[0], spec, st)
}

// runMany runs spec on every target, at most jobs at once, without input. It
// ends with the worst status of all.
func runMany(ctx context.Context, op sshOpener, files stdio, targets []target, spec sessionSpec, jobs int) error {
	if jobs <= 0 {
		jobs = defaultJobs
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var lines sync.Mutex // whole lines go out
	var runs sync.WaitGroup
	status := make([]int, len(targets))
	slots := make(chan struct{}, jobs)
	for i, t := range targets {
		slots <- struct{}{}
		runs.Go(func() {
			defer func() { <-slots }()
			status[i] = runOne(ctx, op, files, t, spec, &lines, end)
		})
	}
	runs.Wait()
	if ctx.Err() != nil {
		return endedBy(ctx)
	}
	worst := 0
	for _, s := range status {
		worst = max(worst, s)
	}
	if worst != 0 {
		return &exitError{status: worst} // its reason is printed
	}
	return nil
}

// runOne runs spec on one of several targets and prints what went wrong in
// the manner of main, marked like the other lines. A broken standard output
// ends all runs.
func runOne(ctx context.Context, op sshOpener, files stdio, t target, spec sessionSpec, lines *sync.Mutex, end context.CancelCauseFunc) int {
	if ctx.Err() != nil {
		return 255
	}
	out := &prefixWriter{lines: lines, w: files.out, prefix: t.device + ": ",
		broken: func(err error) { end(brokenOutput(err)) }}
	errs := &prefixWriter{lines: lines, w: files.err, prefix: t.device + ": "}
	err := runSession(ctx, op, t, spec, streams{out: out, err: errs})
	if ctx.Err() != nil {
		return 255
	}
	out.flush()
	var e *exitError
	if said := errors.As(err, &e) && e.err == nil; err != nil && !said {
		sayError(errs, "sessio", err)
	}
	errs.flush()
	return exitStatus(err)
}

// maxPrefixedLine is the longest line in bytes that is held back until its
// end; longer ones are cut, each piece marked.
const maxPrefixedLine = 64 << 10

// A prefixWriter marks every line. It writes whole lines only, each in one
// Write under the lock that all of them share.
type prefixWriter struct {
	lines  *sync.Mutex
	w      io.Writer
	prefix string
	broken func(error) // told when w takes no more; may be nil
	buf    []byte      // prefix and an unfinished line, or empty
}

func (p *prefixWriter) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		if len(p.buf) == 0 {
			p.buf = append(p.buf, p.prefix...)
		}
		n := bytes.IndexByte(rest, '\n') + 1
		if n == 0 {
			n = len(rest)
		}
		n = min(n, maxPrefixedLine+len(p.prefix)-len(p.buf))
		p.buf = append(p.buf, rest[:n]...)
		rest = rest[n:]
		if p.buf[len(p.buf)-1] == '\n' || len(p.buf) == maxPrefixedLine+len(p.prefix) {
			if err := p.flush(); err != nil {
				return len(b) - len(rest), err
			}
		}
	}
	return len(b), nil
}

// flush writes an unfinished line and finishes it.
func (p *prefixWriter) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	if p.buf[len(p.buf)-1] != '\n' {
		p.buf = append(p.buf, '\n')
	}
	p.lines.Lock()
	defer p.lines.Unlock()
	_, err := p.w.Write(p.buf)
	p.buf = p.buf[:0]
	if err != nil && p.broken != nil {
		p.broken(err)
	}
	return err
}

// parseProxyOperands reads [user@]DEVICE [PORT]. The port is what ssh's %p
// stands for; a device has one SSH server, so that it selects nothing. The user
// is ssh's business.
func parseProxyOperands(operands []string) (target, error) {
	if len(operands) < 1 || len(operands) > 2 {
		return target{}, usageError("proxy takes a device and at most a port")
	}
	if len(operands) == 2 {
		if n, err := strconv.ParseUint(operands[1], 10, 16); err != nil || n == 0 {
			return target{}, usageError("%q is not a port", operands[1])
		}
	}
	return parseTarget(operands[0], "")
}

// cmdProxy returns as soon as either direction has ended: ssh never closes the
// input of its helper, it waits for the helper to go.
func cmdProxy(ctx context.Context, op sshOpener, files stdio, t target) error {
	// ssh closes our input and then sends a SIGHUP, which must not end us while
	// we tell the device that the link is over: it would hold the link for a day.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	ctx, stop := untilSignal(ctx)
	defer stop()
	pipe, err := op.openSSH(ctx, t.device)
	if err != nil {
		return dialError(ctx, t.device, err)
	}
	conn := newWatchedConn(pipe.Conn)
	in := newStdinReader(files.in)
	var up sync.WaitGroup
	ended := make(chan error, 2)
	up.Go(func() {
		writeErr, readErr := copyChunks(conn, in)
		if half, ok := pipe.Conn.(interface{ CloseWrite() error }); ok && writeErr == nil {
			writeErr = half.CloseWrite()
		}
		ended <- errors.Join(writeErr, readErr)
	})
	go func() { // ends with the pipe, unless standard output takes nothing
		writeErr, readErr := copyChunks(files.out, conn)
		if writeErr != nil {
			writeErr = brokenOutput(writeErr)
		}
		ended <- errors.Join(writeErr, readErr)
	}()
	defer up.Wait()
	defer in.cancel()
	defer conn.Close()
	select {
	case err = <-ended:
	case <-pipe.lost:
		err = pipe.lossReason()
	case <-ctx.Done():
		return endedBy(ctx)
	}
	if e := (*exitError)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("proxy to %s: %w", t.device, err)
}
