package main

// This file reads the forwards that a person types: [BIND:]PORT:HOST:PORT,
// with IPv6 addresses in brackets, and paths of Unix sockets on either side.

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// A forwardSpec is one local forward: connections to the local end come out at
// the remote one.
type forwardSpec struct {
	local, remote forwardEnd
}

// A forwardEnd is a host and port, or the path of a Unix socket. An empty host
// at the local end is loopback, "*" is every address.
type forwardEnd struct {
	path string
	host string
	port uint16
}

func (e forwardEnd) String() string {
	if e.path != "" {
		return e.path
	}
	return net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))
}

// String is the form that parseForwardSpec reads.
func (f forwardSpec) String() string {
	local := f.local.path
	if local == "" {
		local = strconv.Itoa(int(f.local.port))
		if f.local.host != "" {
			local = f.local.String()
		}
	}
	return local + ":" + f.remote.String()
}

// parseForwardSpec reads what -L of ssh takes.
func parseForwardSpec(s string) (forwardSpec, error) {
	f, err := splitForwardSpec(s)
	if err != nil {
		return forwardSpec{}, usageError("forward %q: %w", s, err)
	}
	return f, nil
}

func splitForwardSpec(s string) (f forwardSpec, err error) {
	fields, err := forwardFields(s)
	if err != nil {
		return f, err
	}
	last := len(fields) - 1
	remoteLen := 2
	if isSocketPath(fields[last]) {
		remoteLen = 1
		f.remote.path = fields[last]
	} else if last < 1 {
		return f, errors.New("want [BIND:]PORT:HOST:PORT")
	} else if f.remote, err = hostAndPort(fields[last-1], fields[last]); err != nil {
		return f, err
	}
	if f.remote.path == "" && (f.remote.host == "" || f.remote.port == 0) {
		return f, errors.New("the far end needs a host and a port other than 0")
	}
	switch local := fields[:len(fields)-remoteLen]; {
	case len(local) == 1 && isSocketPath(local[0]):
		f.local.path = local[0]
	case len(local) == 1:
		f.local, err = hostAndPort("", local[0])
	case len(local) == 2:
		f.local, err = hostAndPort(local[0], local[1])
		if f.local.host == "" { // ":8080:…" is every address, as with ssh
			f.local.host = "*"
		}
	default:
		err = errors.New("want [BIND:]PORT:HOST:PORT")
	}
	return f, err
}

// forwardFields splits at colons outside of brackets, and takes the brackets
// away.
func forwardFields(s string) (fields []string, err error) {
	for {
		if !strings.HasPrefix(s, "[") {
			field, rest, more := strings.Cut(s, ":")
			if strings.ContainsAny(field, "[]") {
				return nil, errors.New("a bracket inside of a field")
			}
			fields = append(fields, field)
			if !more {
				return fields, nil
			}
			s = rest
			continue
		}
		field, rest, closed := strings.Cut(s[1:], "]")
		if !closed || strings.Contains(field, "[") || field == "" {
			return nil, errors.New("brackets do not match")
		}
		fields = append(fields, field)
		if rest == "" {
			return fields, nil
		}
		if rest[0] != ':' {
			return nil, errors.New("a bracket inside of a field")
		}
		s = rest[1:]
	}
}

func isSocketPath(s string) bool { return strings.Contains(s, "/") }

func hostAndPort(host, port string) (forwardEnd, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || port != strconv.FormatUint(n, 10) {
		return forwardEnd{}, fmt.Errorf("%q is not a port", port)
	}
	if strings.ContainsAny(host, "/ \t\r\n\x00") {
		return forwardEnd{}, fmt.Errorf("%q is not a host", host)
	}
	return forwardEnd{host: host, port: uint16(n)}, nil
}
