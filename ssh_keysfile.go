package main

// This file reads authorized_keys files: which key each line is about and what
// it lets that key do, and whether a line lets in a key or a certificate that
// comes from an address. It knows no file, socket or clock. The lines are those
// of sshd(8), AUTHORIZED_KEYS FILE FORMAT; a line that it would not obey to the
// letter grants nothing.

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/ssh"
)

const (
	// maxKeysFile bounds a file in bytes, maxKeyLines its lines, maxKeyLine one
	// of them in bytes: an RSA key of 8192 bits takes 1400, options the rest.
	maxKeysFile = 1 << 20
	maxKeyLines = 1000
	maxKeyLine  = 16 << 10
	// minRSABits is what NIST SP 800-131A allows at least.
	minRSABits = 2048
)

// A keyLine is a line of the file that is about a key.
type keyLine struct {
	num     int    // in the file, the first is 1
	bad     error  // why it grants nothing; then only num is set
	blob    []byte // the key in its wire form
	comment string
	lineOptions
}

// lineOptions are the options of a line.
type lineOptions struct {
	keyLimits
	noPty, noForward bool
	noTouch, verify  bool
	ca               bool // the key signs certificates, and is none itself
	from             []fromPattern
	principals       []string  // nil: the login's name
	expires          time.Time // zero never
}

// parseAuthorizedKeys reads a file. An error is about the whole of it.
func parseAuthorizedKeys(text []byte) (lines []keyLine, err error) {
	if len(text) > maxKeysFile {
		return nil, fmt.Errorf("more than %d bytes", maxKeysFile)
	}
	num := 0
	for line := range strings.Lines(string(text)) {
		if num++; num > maxKeyLines {
			return nil, fmt.Errorf("more than %d lines", maxKeyLines)
		}
		line = strings.Trim(line, " \t\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		l, err := parseKeyLine(line)
		if err != nil {
			l = keyLine{bad: err}
		}
		l.num = num
		lines = append(lines, l)
	}
	return lines, nil
}

func parseKeyLine(line string) (l keyLine, err error) {
	if len(line) > maxKeyLine {
		return l, fmt.Errorf("longer than %d bytes", maxKeyLine)
	}
	if strings.ContainsRune(line, 0) {
		return l, errors.New("a NUL byte")
	}
	ok := false
	if l.blob, l.comment, ok = cutKey(line); ok {
		return l, nil
	}
	options, rest, err := cutKeyOptions(line)
	if err != nil {
		return l, err
	}
	if l.blob, l.comment, ok = cutKey(strings.TrimLeft(rest, " \t")); !ok {
		return l, errors.New("no key of a type that may log in")
	}
	l.lineOptions, err = parseKeyOptions(options)
	return l, err
}

// cutKey takes "type base64 comment" apart.
func cutKey(s string) (blob []byte, comment string, ok bool) {
	typ, rest := cutWord(s)
	if typ != ssh.KeyAlgoRSA && !slices.Contains(userKeyAlgos, typ) {
		return nil, "", false
	}
	text, comment := cutWord(rest)
	blob, err := base64.StdEncoding.DecodeString(text)
	in, named := cryptobyte.String(blob), cryptobyte.String(nil)
	var n uint32
	if err != nil || !in.ReadUint32(&n) || !in.ReadBytes((*[]byte)(&named), int(n)) || string(named) != typ {
		return nil, "", false
	}
	return blob, comment, true
}

func cutWord(s string) (word, rest string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimLeft(s[i:], " \t")
	}
	return s, ""
}

var errKeyQuote = errors.New("a quote is not closed")

// cutKeyOptions ends at the first blank that is not in quotes.
func cutKeyOptions(s string) (options, rest string, err error) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && strings.HasPrefix(s[i+1:], `"`):
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t'):
			return s[:i], s[i:], nil
		}
	}
	if quoted {
		return "", "", errKeyQuote
	}
	return s, "", nil
}

// parseKeyOptions reads options with commas between them.
func parseKeyOptions(s string) (o lineOptions, err error) {
	for {
		name, value, valued := s, "", false
		if i := strings.IndexAny(s, ",="); i >= 0 {
			name, valued = s[:i], s[i] == '='
		}
		rest := s[len(name):]
		if valued {
			if value, rest, err = cutKeyValue(rest[1:]); err != nil {
				return o, fmt.Errorf("option %.40q: %w", name, err)
			}
		}
		known := false
		if lower := strings.ToLower(name); valued {
			known, err = o.setValue(lower, value)
		} else {
			known = o.setFlag(lower)
		}
		if err != nil {
			return o, fmt.Errorf("option %.40q: %w", name, err)
		}
		if !known {
			return o, fmt.Errorf("option %.40q is not known here", name)
		}
		if rest == "" {
			break
		}
		if rest[0] != ',' {
			return o, fmt.Errorf("no comma after option %.40q", name)
		}
		s = rest[1:]
	}
	switch {
	case o.verify:
		// The library checks the signature and shows its flags to nobody.
		err = errors.New("whether a security key has verified its user cannot be seen here (verify-required)")
	case o.principals != nil && !o.ca:
		err = errors.New("principals without cert-authority")
	}
	return o, err
}

// cutKeyValue reads "text" in quotes, in which \" stands for a quote.
func cutKeyValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", errors.New("its value is not in quotes")
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		case strings.HasPrefix(s[i:], `\"`):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "", errKeyQuote
}

// setFlag obeys an option without value; false when there is none of the name.
func (o *lineOptions) setFlag(name string) bool {
	positive, negated := strings.CutPrefix(name, "no-")
	switch positive {
	case "pty":
		o.noPty = negated
	case "port-forwarding":
		o.noForward = negated
	case "agent-forwarding":
		o.noAgent = negated
	case "touch-required":
		o.noTouch = negated
	case "verify-required":
		o.verify = !negated
	case "user-rc", "x11-forwarding": // nothing of the kind is here
	case "restrict":
		o.noPty, o.noForward, o.noAgent = true, true, true
		return !negated
	case "cert-authority":
		o.ca = true
		return !negated
	default:
		return false
	}
	return true
}

var errKeyTwice = errors.New("given twice")

// setValue is setFlag for an option with a value.
func (o *lineOptions) setValue(name, v string) (known bool, err error) {
	switch name {
	case "command":
		if o.command != nil {
			return true, errKeyTwice
		}
		o.command = &v
	case "from":
		if o.from != nil {
			return true, errKeyTwice
		}
		o.from, err = parseFrom(v)
	case "principals":
		if o.principals != nil {
			return true, errKeyTwice
		}
		o.principals = strings.Split(v, ",")
	case "environment":
		err = o.setEnv(v)
	case "expiry-time":
		t, err := parseExpiry(v)
		if o.expires.IsZero() || t.Before(o.expires) {
			o.expires = t
		}
		return true, err
	case "permitopen":
		o.permitOpen = append(o.permitOpen, v)
		err = checkPermit(v)
	case "permitlisten":
		o.permitListen = append(o.permitListen, v)
		if !isKeyPort(v) { // a port alone is one at any address
			err = checkPermit(v)
		}
	case "tunnel": // which device a tunnel would get, and there are none
	default:
		return false, nil
	}
	return true, err
}

// setEnv takes NAME=value; the first of a name counts.
func (o *lineOptions) setEnv(v string) error {
	name, _, ok := strings.Cut(v, "=")
	if !ok || name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return errors.New("not NAME=value")
	}
	if !slices.ContainsFunc(o.env, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
		o.env = append(o.env, v)
	}
	return nil
}

// parseExpiry reads YYYYMMDD, with HHMM or HHMMSS behind it, in the time of
// this machine or, with a Z or UTC at its end, in UTC.
func parseExpiry(v string) (time.Time, error) {
	digits, zone := v, time.Local
	for _, utc := range []string{"Z", "UTC"} {
		if n := len(v) - len(utc); n > 0 && strings.EqualFold(v[n:], utc) {
			digits, zone = v[:n], time.UTC
		}
	}
	const layout = "20060102150405"
	if n := len(digits); n == 8 || n == 12 || n == 14 {
		if t, err := time.ParseInLocation(layout[:n], digits, zone); err == nil && t.Unix() > 0 {
			return t, nil
		}
	}
	return time.Time{}, errors.New("no time of the form YYYYMMDD[HHMM[SS]][Z]")
}

// checkPermit wants host:port; IPv6 stands in brackets.
func checkPermit(v string) error {
	host, port, err := net.SplitHostPort(v)
	if err != nil || host == "" || port != "*" && !isKeyPort(port) {
		return errors.New("not host:port")
	}
	return nil
}

func isKeyPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// A fromPattern is an address, a network or a pattern with * and ? for the
// text of an address, as "from" has them.
type fromPattern struct {
	not  bool
	net  netip.Prefix // or
	glob string
}

// parseFrom reads patterns with commas between them. A network with bits of a
// host in it is an error, as in sshd.
func parseFrom(v string) (list []fromPattern, err error) {
	for item := range strings.SplitSeq(v, ",") {
		var p fromPattern
		item, p.not = strings.CutPrefix(item, "!")
		if strings.Contains(item, "/") {
			if p.net, err = netip.ParsePrefix(item); err != nil || p.net != p.net.Masked() {
				return nil, fmt.Errorf("%.60q is no network", item)
			}
			if a := p.net.Addr(); a.Is4In6() && p.net.Bits() >= 96 {
				p.net = netip.PrefixFrom(a.Unmap(), p.net.Bits()-96)
			}
		} else if a, err := netip.ParseAddr(item); err == nil {
			a = a.Unmap().WithZone("")
			p.net = netip.PrefixFrom(a, a.BitLen())
		} else if p.glob = strings.ToLower(item); item == "" {
			return nil, errors.New("an empty pattern")
		}
		list = append(list, p)
	}
	return list, nil
}

// fromAllows reports whether a may come: no pattern with ! is about it, and one
// without is. Names are never looked up, so patterns of names match nothing.
func fromAllows(list []fromPattern, a netip.Addr) (ok bool) {
	if !a.IsValid() {
		return false
	}
	a = a.Unmap().WithZone("")
	for _, p := range list {
		if p.net.Contains(a) || p.glob != "" && wildcard(p.glob, a.String()) {
			if p.not {
				return false
			}
			ok = true
		}
	}
	return ok
}

// wildcard matches * and ?, and all else by itself. It takes at most
// len(pattern)*len(s) steps.
func wildcard(pattern, s string) bool {
	star, mark, p := -1, 0, 0
	for i := 0; i < len(s); {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0: // the last star takes one byte more
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// A keyQuestion is a key that wants to log in.
type keyQuestion struct {
	key     ssh.PublicKey // or a certificate
	user    string
	from    netip.Addr
	now     time.Time
	userEnv bool // lines may set the environment
}

// A keyVerdict is what a line grants.
type keyVerdict struct {
	sshGrant
	noTouch bool // a security key need not have been touched
}

// errNoKeyLine: no line is about the key.
var errNoKeyLine = errors.New("no line has this key")

// judgeKeyLines finds the first line that lets the key in. As in sshd, a line
// about the key that does not, says nothing about those after it.
func judgeKeyLines(lines []keyLine, q keyQuestion) (v keyVerdict, err error) {
	cert, isCert := q.key.(*ssh.Certificate)
	want := q.key
	if isCert {
		want = cert.SignatureKey
	}
	blob, err := want.Marshal(), errNoKeyLine
	for _, l := range lines {
		if l.bad != nil || l.ca != isCert || !bytes.Equal(l.blob, blob) {
			continue
		}
		why := l.judge(want, q)
		if why == nil && isCert {
			why = l.judgeCert(cert, q)
		}
		if why == nil {
			return l.verdict(q), nil
		}
		err = fmt.Errorf("line %d: %w", l.num, why)
	}
	return v, err
}

func (l *keyLine) judge(key ssh.PublicKey, q keyQuestion) error {
	if !l.expires.IsZero() && q.now.After(l.expires) {
		return fmt.Errorf("it was valid until %s", l.expires.UTC().Format(time.RFC3339))
	}
	if l.from != nil && !fromAllows(l.from, q.from) {
		return fmt.Errorf("not from %s", q.from)
	}
	return checkRSASize(key)
}

// checkRSASize refuses RSA keys that are too short.
func checkRSASize(key ssh.PublicKey) error {
	if ck, ok := key.(ssh.CryptoPublicKey); ok {
		if pub, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok && pub.N.BitLen() < minRSABits {
			return fmt.Errorf("an RSA key of %d bits, at least %d", pub.N.BitLen(), minRSABits)
		}
	}
	return nil
}

// verdict is what the line grants to a key that it lets in.
func (l *keyLine) verdict(q keyQuestion) keyVerdict {
	g := sshGrant{device: keyName(q.key, l.comment), caps: []string{"shell", "exec", "sftp"}, keyLimits: l.keyLimits}
	if !l.noForward {
		g.caps = append(g.caps, "forward")
	}
	if !l.noPty {
		g.caps = append(g.caps, "pty")
	}
	if !q.userEnv {
		g.env = nil
	}
	return keyVerdict{g, l.noTouch}
}

// keyName is how a key is called in the log. Comments and key ids are whoever's
// words.
func keyName(key ssh.PublicKey, comment string) string {
	if cert, ok := key.(*ssh.Certificate); ok {
		return fmt.Sprintf("certificate %.64q of %s", cert.KeyId, ssh.FingerprintSHA256(cert.SignatureKey))
	}
	name := ssh.FingerprintSHA256(key)
	if comment != "" {
		name += fmt.Sprintf(" %.64q", comment)
	}
	return name
}
