package main

// This file is the verb proxy: standard input and output joined to a device's
// SSH server, for ProxyCommand of a stock ssh.

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
)

type proxyArgs struct {
	device string // or user@device; the user is ssh's business
}

// parseProxyOperands reads [user@]DEVICE [PORT]. The port is what ssh's %p
// stands for; a device has one SSH server, so that it selects nothing.
func parseProxyOperands(operands []string) (proxyArgs, error) {
	if len(operands) < 1 || len(operands) > 2 {
		return proxyArgs{}, usageError("proxy takes a device and at most a port")
	}
	if len(operands) == 2 {
		if n, err := strconv.ParseUint(operands[1], 10, 16); err != nil || n == 0 {
			return proxyArgs{}, usageError("%q is not a port", operands[1])
		}
	}
	t, err := parseTarget(operands[0], "")
	return proxyArgs{t.device}, err
}

// cmdProxy returns as soon as either direction has ended: ssh never closes the
// input of its helper, it waits for the helper to go.
func cmdProxy(ctx context.Context, op sshOpener, files stdio, args proxyArgs) error {
	t, err := parseTarget(args.device, "")
	if err != nil {
		return err
	}
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
