package main

// This file ends a client verb on a signal in such a way that its deferred
// work, the terminal above all, is done first.

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

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
