package main

import (
	"context"
	"errors"
)

// A netChild cannot be had on macOS: it has no Unix sockets that keep messages
// apart and notice their peer's end.
type netChild struct{}

var errNoNetChild = errors.New("no forwarding for another user than the server's own on macOS")

func (*netChild) dial(context.Context, osAccount, string) (streamConn, error) {
	return nil, errNoNetChild
}

func (*netChild) stop() {}

func isNetChild([]string) bool { return false }
func runNetChild() error       { return errNoNetChild }
