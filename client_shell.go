package main

// This file is the verb shell: a login shell on a pty, or on plain streams
// when standard input is no terminal, as with ssh.

import (
	"context"
	"os"
)

type shellArgs struct {
	device string // or user@device
	user   string // of -l
}

// parseShellOperands reads [user@]DEVICE.
func parseShellOperands(operands []string, user string) (shellArgs, error) {
	if len(operands) != 1 {
		return shellArgs{}, usageError("shell takes one device; run starts a command")
	}
	t, err := parseTarget(operands[0], user)
	return shellArgs{t.device, t.login}, err
}

func cmdShell(ctx context.Context, op sshOpener, files stdio, args shellArgs) error {
	t, err := parseTarget(args.device, args.user)
	if err != nil {
		return err
	}
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
