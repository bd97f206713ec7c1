package main

// This file judges where a client may be forwarded to: by forward.permit, and
// by permitopen and permitlisten of the key that let it in. It resolves names,
// as far as rules ask for it, and says what may be dialled; nothing else is.

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// A permitRule is one host:port that a client may be forwarded to. Both are
// globs: "*" and "?" and classes. An IPv6 address stands in brackets.
//
// A rule that looks like addresses (digits, dots and wildcards; or a colon) is
// about addresses alone: 10.* does not let in the name 10.example.com. Other
// rules are about the name that the client asks for.
type permitRule struct {
	host, port string
	addr       netip.Addr // what host is, if it is one
	isAddr     bool       // host is about addresses
}

// parsePermit reads host:port or [host]:port.
func parsePermit(s string) (r permitRule, err error) {
	host, port, ok := cutPort(s)
	if !ok || host == "" || port == "" {
		return r, fmt.Errorf("%q is not HOST:PORT, with * for any and an IPv6 address in brackets", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	glob := strings.Trim(port, "0123456789") != ""
	if strings.Trim(port, "0123456789*?[-]") != "" || !glob && (err != nil || strconv.FormatUint(n, 10) != port) {
		return r, fmt.Errorf("%q: %q is not a port", s, port)
	}
	for _, glob := range []string{host, port} {
		if _, err := path.Match(glob, ""); err != nil {
			return r, fmt.Errorf("%q: %w", s, err)
		}
	}
	r = permitRule{host: strings.ToLower(host), port: port}
	if r.addr, err = netip.ParseAddr(host); err == nil {
		r.addr = r.addr.Unmap()
	}
	digits := strings.ContainsAny(host, "0123456789") && strings.Trim(host, "0123456789.*?[-]^") == ""
	r.isAddr = r.addr.IsValid() || digits || strings.Contains(host, ":")
	return r, nil
}

// cutPort cuts at the last colon and takes brackets around the host away. A
// host with colons of its own must have them.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	host, port = s[:i], s[i+1:]
	inner, open := strings.CutPrefix(host, "[")
	inner, shut := strings.CutSuffix(inner, "]")
	if open && shut && !strings.ContainsAny(inner, "[]") {
		return inner, port, true
	}
	return host, port, !strings.Contains(host, ":")
}

// A permitList is rules of which one must hold. Nil lets all in, and a list
// that is not nil and empty nobody. What cannot be parsed holds for nothing.
type permitList []permitRule

// permitListOf parses rules; bare, if set, is the host of a rule that is a port
// alone, as in permitlisten.
func permitListOf(rules []string, bare string) permitList {
	if rules == nil {
		return nil
	}
	l := permitList{}
	for _, s := range rules {
		if bare != "" && !strings.Contains(s, ":") {
			s = bare + ":" + s
		}
		if r, err := parsePermit(s); err == nil {
			l = append(l, r)
		}
	}
	return l
}

func (r permitRule) hasPort(port uint16) bool {
	ok, _ := path.Match(r.port, strconv.Itoa(int(port)))
	return ok
}

// hasName: name is as the client says it, in lower case, "" for an address.
func (r permitRule) hasName(name string) bool {
	ok, _ := path.Match(r.host, name)
	return ok && name != "" && !r.isAddr
}

// allows judges one address of what the client asks for. Whoever answers for
// the names under a wildcard could point them at the machine itself or its
// neighbours on the wire: those need a rule that names them.
func (r permitRule) allows(name string, addr netip.Addr) bool {
	switch {
	case r.host == "*" || r.addr.IsValid() && r.addr == addr:
		return true
	case r.isAddr:
		ok, _ := path.Match(r.host, addr.String())
		return ok
	case !r.hasName(name):
		return false
	}
	near := addr.IsLoopback() || addr.IsUnspecified() || addr.IsLinkLocalUnicast()
	return !near || !strings.ContainsAny(r.host, "*?[")
}

// any reports whether a rule for port holds by f.
func (l permitList) any(port uint16, f func(permitRule) bool) bool {
	for _, r := range l {
		if r.hasPort(port) && f(r) {
			return true
		}
	}
	return l == nil
}

// listens judges what a client wants to listen on, by the words it uses.
func (l permitList) listens(host string, port uint16) bool {
	return l.any(port, func(r permitRule) bool {
		ok, _ := path.Match(r.host, strings.ToLower(host))
		return ok
	})
}

// permitted is what to dial for host and port under all lists, most wanted
// first: host itself where there are no rules, otherwise the addresses it has,
// now, that the rules let in. A name that no rule could hold for is not
// resolved.
func permitted(ctx context.Context, lists []permitList, host string, port uint16) (addrs []string, err error) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	ips := make([]netip.Addr, 1)
	if ips[0], err = netip.ParseAddr(host); err == nil {
		name = ""
	}
	free := true
	for _, l := range lists {
		free = free && l == nil
		if name != "" && !l.any(port, func(r permitRule) bool { return r.isAddr || r.hasName(name) }) {
			return nil, notPermitted(host, port)
		}
	}
	if free {
		return []string{net.JoinHostPort(host, strconv.Itoa(int(port)))}, nil
	}
	if name != "" {
		if ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			return nil, err
		}
	}
	for _, ip := range ips {
		bare := ip.Unmap().WithZone("")
		ok := true
		for _, l := range lists {
			ok = ok && l.any(port, func(r permitRule) bool { return r.allows(name, bare) })
		}
		if ok {
			addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), port).String())
		}
	}
	if len(addrs) == 0 {
		return nil, notPermitted(host, port)
	}
	return addrs, nil
}

// A permitError is a refusal by rule.
type permitError struct{ what string }

func (e *permitError) Error() string { return "forwarding to " + e.what + " is not permitted" }

func notPermitted(host string, port uint16) error {
	return &permitError{net.JoinHostPort(host, strconv.Itoa(int(port)))}
}
