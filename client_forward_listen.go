package main

// This file opens the listening sockets of forwards at this end: loopback in
// both families, an address, or the path of a Unix socket, which is its
// owner's alone.

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
)

// A forwardListener is one listening socket of a spec.
type forwardListener struct {
	net.Listener
	spec forwardSpec
}

// listenAll opens every listener of this end or none.
func listenAll(specs []forwardSpec) (all []forwardListener, err error) {
	for _, f := range specs {
		if f.back {
			continue
		}
		listeners, err := listenForward(f.listen)
		for _, l := range listeners {
			all = append(all, forwardListener{l, f})
		}
		if err != nil {
			closeListeners(all)
			err = fmt.Errorf("forward %s: %w", f, err)
			if f.listen.path != "" && errors.Is(err, syscall.EADDRINUSE) {
				err = withHint(err, "a path is used again only if it is a socket on which nobody listens any more")
			}
			return nil, err
		}
	}
	return all, nil
}

func closeListeners(all []forwardListener) {
	for _, l := range all {
		l.Close()
	}
}

// listenForward listens on one local end: a path, loopback in both families,
// every address, or the one that is named.
func listenForward(at forwardEnd) ([]net.Listener, error) {
	switch {
	case at.path != "":
		return listenPath(at.path)
	case at.host == "" || at.host == "localhost":
		return listenLoopback(at.port)
	case at.host == "*":
		return listenOne("tcp", net.JoinHostPort("", strconv.Itoa(int(at.port))))
	}
	return listenOne("tcp", at.String())
}

func listenOne(network, address string) ([]net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

// listenPath makes a socket that nobody but its owner could ever open.
func listenPath(path string) ([]net.Listener, error) {
	removeStaleSocket(path)
	unmask := privateUmask()
	l, err := net.Listen("unix", path)
	unmask()
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return []net.Listener{l}, nil
}

// listenLoopback listens on 127.0.0.1 and ::1, so that "localhost" finds the
// port whatever it resolves to. A machine without IPv6 has only the one. Port
// 0 is any that is free in both.
func listenLoopback(port uint16) ([]net.Listener, error) {
	const tries = 16
	for try := 1; ; try++ {
		v4, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			return nil, err
		}
		v6, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(v4.Addr().(*net.TCPAddr).Port)))
		switch {
		case err == nil:
			return []net.Listener{v4, v6}, nil
		case !hasIPv6Loopback():
			return []net.Listener{v4}, nil
		case port != 0 || try == tries:
			v4.Close()
			return nil, err
		}
		v4.Close()
	}
}

func hasIPv6Loopback() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// removeStaleSocket removes a socket that nobody listens on any more, the
// leaving of a process that was killed: what started it can start it again.
// Files, and sockets that somebody listens on, stay, unlike with
// StreamLocalBindUnlink of ssh.
func removeStaleSocket(path string) {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != os.ModeSocket {
		return
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path)
	}
}
