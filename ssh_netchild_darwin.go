package main

import (
	"context"
	"errors"
)

// A netChild cannot be had on macOS: it has no Unix sockets that keep messages
// apart and notice their peer's end.
type netChild struct{}

func (*netChild) dial(context.Context, osAccount, string) (streamConn, error) {
	return nil, errors.New("no forwarding for another user than the server's own on macOS")
}

func (*netChild) stop() {}
