package main

// This file says that on macOS no process connects for another user, and how a
// socket is made private there.

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// privateSocket can do nothing: a socket has no mode before it has a path.
func privateSocket(int) {}

// privatePath: until now the umask has kept others from connecting.
func privatePath(path string) error {
	return unix.Fchmodat(unix.AT_FDCWD, path, 0o600, unix.AT_SYMLINK_NOFOLLOW)
}

// A netChild cannot be had on macOS: it has no Unix sockets that keep messages
// apart and notice their peer's end.
type netChild struct{}

var errNoNetChild = errors.New("no forwarding for another user than the server's own on macOS")

func (*netChild) ask(context.Context, osAccount, netAsk) (netGot, error) {
	return netGot{}, errNoNetChild
}

func (*netChild) stop() {}

func isNetChild([]string) bool { return false }
func runNetChild() error       { return errNoNetChild }
