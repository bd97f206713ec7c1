package main

// This file reads what a person types for a forward: [BIND:]PORT:HOST:PORT,
// with IPv6 addresses in brackets, and paths of Unix sockets on either side.

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// A forwardSpec is one forward: connections to the end that listens come out
// at the other.
type forwardSpec struct {
	listen, to forwardEnd
	back       bool // -R: the device listens, and to is reached from here
	dynamic    bool // -D: who connects says by SOCKS where to; to is empty
}

// A forwardEnd is a host and port, or the path of a Unix socket. An empty host
// of the end that listens is loopback, "*" is every address.
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
	listen := f.listen.path
	if listen == "" {
		listen = strconv.Itoa(int(f.listen.port))
		if f.listen.host != "" {
			listen = f.listen.String()
		}
	}
	if f.dynamic {
		return listen
	}
	return listen + ":" + f.to.String()
}

// leadsTo is where a forward goes, for people.
func (f forwardSpec) leadsTo() string {
	if f.dynamic {
		return "what is asked for by SOCKS"
	}
	return f.to.String()
}

// parseForwardSpec reads what -L of ssh takes, and with back what -R does.
func parseForwardSpec(s string, back bool) (forwardSpec, error) {
	f, err := splitForwardSpec(s)
	if err != nil {
		what := "forward"
		if back {
			what = "-R"
		}
		return forwardSpec{}, usageError("%s %q: %w", what, s, err)
	}
	f.back = back
	return f, nil
}

func splitForwardSpec(s string) (f forwardSpec, err error) {
	fields, err := forwardFields(s)
	if err != nil {
		return f, err
	}
	last := len(fields) - 1
	toLen := 2
	if isSocketPath(fields[last]) {
		toLen = 1
		f.to.path = fields[last]
	} else if last < 1 {
		return f, errors.New("want [BIND:]PORT:HOST:PORT")
	} else if f.to, err = hostAndPort(fields[last-1], fields[last]); err != nil {
		return f, err
	}
	if f.to.path == "" && (f.to.host == "" || f.to.port == 0) {
		return f, errors.New("the far end needs a host and a port other than 0")
	}
	listen := fields[:len(fields)-toLen]
	if len(listen) == 1 && isSocketPath(listen[0]) {
		f.listen.path = listen[0]
		return f, nil
	}
	f.listen, err = bindAndPort(listen, "want [BIND:]PORT:HOST:PORT")
	return f, err
}

// bindAndPort reads [BIND:]PORT.
func bindAndPort(fields []string, want string) (e forwardEnd, err error) {
	switch len(fields) {
	case 1:
		return hostAndPort("", fields[0])
	case 2:
		if e, err = hostAndPort(fields[0], fields[1]); e.host == "" { // ":8080" is every address, as with ssh
			e.host = "*"
		}
		return e, err
	}
	return e, errors.New(want)
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

// parseDynamicSpec reads what -D of ssh takes: [BIND:]PORT.
func parseDynamicSpec(s string) (f forwardSpec, err error) {
	f.dynamic = true
	fields, err := forwardFields(s)
	if err == nil {
		f.listen, err = bindAndPort(fields, "want [BIND:]PORT")
	}
	if err != nil {
		return f, usageError("-D %q: %w", s, err)
	}
	return f, nil
}
