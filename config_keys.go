package main

// This file is the table of the configuration's keys: name, environment, what
// may stand there, default, and a sentence for people. Loading, gen-config,
// check-config and the reference in the README are made of it.

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A configKey is one key. set takes a value as it was written, get writes the
// value in force as a file would have it.
type configKey struct {
	name string // "server.port"
	env  string // what follows SESSIO_ and BSSH_; "" none
	kind configKind
	help string // a sentence without its full stop
	set  func(c *serverConfig, n yamlNode) error
	get  func(c *serverConfig) string
}

// A configKind is how text from the environment or a flag is read.
type configKind byte

const (
	configPlain configKind = iota // a number or truth value
	configText                    // taken as it is
	configList                    // texts with commas between
	configOther                   // as in a file
)

// configKeys is the table, in the order of the file that gen-config writes.
var configKeys = slices.Concat([]configKey{
	addrKey("server.bind_address", "BIND_ADDRESS", "address of the TCP port", func(c *serverConfig) *netip.Addr { return &c.bindAddress }),
	intKey("server.port", "PORT", "TCP port for stock SSH clients, 0 none", 0, 65535, func(c *serverConfig) *int { return &c.port }),
	listKey("server.host_keys", "HOST_KEY", "files of the TCP port's host keys; none: the device's identity, which links always show", checkPath, func(c *serverConfig) *[]string { return &c.hostKeys }),
	textKey("server.banner", "", "file shown before the login", emptyOr(checkPath), func(c *serverConfig) *string { return &c.banner }),
	intKey("server.max_connections", "MAX_CONNECTIONS", "connections at once, logged in or not", 1, 1<<16, func(c *serverConfig) *int { return &c.maxConnections }),
	secondsKey("server.timeout", "", "seconds that a login may take, 0 without end", 0, func(c *serverConfig) *time.Duration { return &c.grace }),
	secondsKey("server.keepalive_interval", "KEEPALIVE_INTERVAL", "seconds between two questions whether a client of the TCP port is there; three without answer end it; 0 none", 0, func(c *serverConfig) *time.Duration { return &c.keepalive }),

	listKey("auth.methods", "AUTH_METHODS", "publickey, password or both", configChoice("publickey", "password"), func(c *serverConfig) *[]string { return &c.methods }),
	textKey("auth.publickey.authorized_keys_dir", "AUTHORIZED_KEYS_DIR", "keys stand in DIR/USER/authorized_keys, not in the user's .sessio/authorized_keys.local", emptyOr(checkKeysName), func(c *serverConfig) *string { return &c.keysDir }),
	textKey("auth.publickey.authorized_keys_pattern", "AUTHORIZED_KEYS_PATTERN", "keys stand in this file; {user} is the login", emptyOr(checkKeysName), func(c *serverConfig) *string { return &c.keysPattern }),
	boolKey("auth.publickey.permit_user_environment", "whether environment= in a line of keys is obeyed", func(c *serverConfig) *bool { return &c.permitUserEnv }),
	textKey("auth.password.users_file", "", "file with a list users: as below", emptyOr(checkPath), func(c *serverConfig) *string { return &c.usersFile }),
	{"auth.password.users", "", configOther, "logins with a password: name, password_hash (see sessio hash-password), and if wanted shell, home, env, uid, gid", setUsers, getUsers},

	textKey("shell.default", "SHELL", "shell of users whose entry names none", emptyOr(checkPath), func(c *serverConfig) *string { return &c.shell }),
	{"shell.env", "", configOther, "variables set in every session", setEnvMap, func(c *serverConfig) string { return envText(c.env) }},
	secondsKey("shell.command_timeout", "COMMAND_TIMEOUT", "seconds that a command may run, 0 without end", 0, func(c *serverConfig) *time.Duration { return &c.commandTimeout }),
	listKey("shell.accept_env", "", "globs of variables that a client may set", checkGlob, func(c *serverConfig) *[]string { return &c.acceptEnv }),
	listKey("shell.allowed_commands", "", "the only programs that may be run, without a shell; none: any", nil, func(c *serverConfig) *[]string { return &c.allowedCommands }),

	boolKey("forward.local", "whether a client may reach ports from here (ssh -L, -D, -W, -J)", func(c *serverConfig) *bool { return &c.forwardLocal }),
	boolKey("forward.remote", "whether a client may have a port opened here (ssh -R)", func(c *serverConfig) *bool { return &c.forwardRemote }),
	boolKey("forward.agent", "whether a client may bring its agent (ssh -A)", func(c *serverConfig) *bool { return &c.forwardAgent }),
	boolKey("forward.streamlocal", "whether Unix sockets may be forwarded too", func(c *serverConfig) *bool { return &c.forwardStreamlocal }),
	listKey("forward.permit", "", "host:port that may be reached, with globs; none: any", checkPermitRule, func(c *serverConfig) *[]string { return &c.permit }),
}, configFileKeys, []configKey{
	intKey("security.max_auth_attempts", "", "failed logins within auth_window after which an address is banned", 1, maxAuthAttemptsCounted, func(c *serverConfig) *int { return &c.maxAuthAttempts }),
	secondsKey("security.auth_window", "", "seconds in which failed logins count", 1, func(c *serverConfig) *time.Duration { return &c.authWindow }),
	secondsKey("security.ban_time", "", "seconds that a ban lasts", 1, func(c *serverConfig) *time.Duration { return &c.banTime }),
	prefixesKey("security.whitelist_ips", "addresses or networks that are never banned", func(c *serverConfig) *[]netip.Prefix { return &c.whitelist }),
	prefixesKey("security.allowed_ips", "addresses or networks that may connect; none: all", func(c *serverConfig) *[]netip.Prefix { return &c.allowed }),
	prefixesKey("security.blocked_ips", "addresses or networks that may not, whatever else is said", func(c *serverConfig) *[]netip.Prefix { return &c.blocked }),
	intKey("security.max_sessions_per_user", "", "connections of one user at once", 1, 1<<16, func(c *serverConfig) *int { return &c.maxSessionsPerUser }),
	{"security.idle_timeout", "", configPlain, "seconds without data after which a connection ends, 0 never; not set: an hour on the TCP port, never over links", setIdle, getIdle},
	secondsKey("security.session_timeout", "", "seconds after which a connection ends, 0 never", 0, func(c *serverConfig) *time.Duration { return &c.sessionTimeout }),

	boolKey("audit.enabled", "whether what happens is recorded", func(c *serverConfig) *bool { return &c.auditEnabled }),
	{"audit.exporters", "", configOther, "where records go, a list of: {type: file, path, max_size in bytes, keep}, {type: logstash, host, port, tls, ca}, {type: otel, endpoint, ca}", setExporters, getExporters},

	secondsKey("session.ttl", "", "seconds in which a client may come again by the same introduction, 0 without end", 0, func(c *serverConfig) *time.Duration { return &c.sessionTTL }),
	secondsKey("hold", "", "seconds that a link lives without a path", 1, func(c *serverConfig) *time.Duration { return &c.hold }),
})

func secondsKey(name, env, help string, least int64, field func(*serverConfig) *time.Duration) configKey {
	return configKey{name, env, configPlain, help, func(c *serverConfig, n yamlNode) error {
		d, err := secondsOf(n, least)
		if err == nil {
			*field(c) = d
		}
		return err
	}, func(c *serverConfig) string { return sayWhole(*field(c)) }}
}

func sayWhole(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

func secondsOf(n yamlNode, least int64) (time.Duration, error) {
	v, ok := n.int()
	if !ok || v < least {
		return 0, fmt.Errorf("%s is not a whole number of seconds, %d or more", n, least)
	}
	return time.Duration(min(v, maxSeconds)) * time.Second, nil
}

func intKey(name, env, help string, least, most int64, field func(*serverConfig) *int) configKey {
	return configKey{name, env, configPlain, help, func(c *serverConfig, n yamlNode) error {
		v, ok := n.int()
		if !ok || v < least || v > most {
			return fmt.Errorf("%s is not a whole number from %d to %d", n, least, most)
		}
		*field(c) = int(v)
		return nil
	}, func(c *serverConfig) string { return strconv.Itoa(*field(c)) }}
}

func boolKey(name, help string, field func(*serverConfig) *bool) configKey {
	return configKey{name, "", configPlain, help, func(c *serverConfig, n yamlNode) error {
		v, ok := n.bool()
		if !ok {
			return fmt.Errorf("%s is not true or false", n)
		}
		*field(c) = v
		return nil
	}, func(c *serverConfig) string { return strconv.FormatBool(*field(c)) }}
}

func textKey(name, env, help string, check func(string) error, field func(*serverConfig) *string) configKey {
	return configKey{name, env, configText, help, func(c *serverConfig, n yamlNode) error {
		s, err := textOf(n)
		if err == nil {
			err = check(s)
		}
		if err == nil {
			*field(c) = s
		}
		return err
	}, func(c *serverConfig) string { return yamlQuote(*field(c)) }}
}

func emptyOr(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

func checkPath(s string) error {
	if !path.IsAbs(s) || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is not an absolute path", s)
	}
	return nil
}

func checkKeysName(s string) error {
	if slices.Contains(strings.Split(s, "/"), "..") {
		return fmt.Errorf("%q has .. in it", s)
	}
	return checkPath(s)
}

func checkGlob(s string) error {
	if _, err := path.Match(s, ""); err != nil || s == "" {
		return fmt.Errorf("%q is not a glob of names", s)
	}
	return nil
}

func configChoice(words ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(words, s) {
			return fmt.Errorf("%q is not one of: %s", s, strings.Join(words, ", "))
		}
		return nil
	}
}

func checkPermitRule(s string) error {
	_, err := parsePermit(s)
	return err
}

func listKey(name, env, help string, check func(string) error, field func(*serverConfig) *[]string) configKey {
	return configKey{name, env, configList, help, func(c *serverConfig, n yamlNode) error {
		list, err := textsOf(n, check)
		if err == nil && name == "auth.methods" && len(list) == 0 {
			err = errors.New("at least one of: publickey, password")
		}
		if err == nil {
			*field(c) = list
		}
		return err
	}, func(c *serverConfig) string { return yamlFlow(*field(c)) }}
}

func addrKey(name, env, help string, field func(*serverConfig) *netip.Addr) configKey {
	return configKey{name, env, configText, help, func(c *serverConfig, n yamlNode) error {
		s, err := textOf(n)
		if err != nil {
			return err
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("%q is not an IP address", s)
		}
		*field(c) = a.Unmap()
		return nil
	}, func(c *serverConfig) string { return yamlQuote(field(c).String()) }}
}

func prefixesKey(name, help string, field func(*serverConfig) *[]netip.Prefix) configKey {
	return configKey{name, "", configList, help, func(c *serverConfig, n yamlNode) error {
		var list []netip.Prefix
		_, err := textsOf(n, func(s string) error {
			p, err := parsePrefix(s)
			list = append(list, p)
			return err
		})
		if err == nil {
			*field(c) = list
		}
		return err
	}, func(c *serverConfig) string {
		var texts []string
		for _, p := range *field(c) {
			texts = append(texts, p.String())
		}
		return yamlFlow(texts)
	}}
}

// setIdle sets what holds on the TCP port and over links.
func setIdle(c *serverConfig, n yamlNode) error {
	d, err := secondsOf(n, 0)
	if err == nil {
		c.idlePort, c.idleLink = d, d
	}
	return err
}

func getIdle(c *serverConfig) string {
	if c.idleLink != c.idlePort {
		return ""
	}
	return sayWhole(c.idlePort)
}

func setEnvMap(c *serverConfig, n yamlNode) error {
	env, err := envOf(n)
	if err == nil {
		c.env = env
	}
	return err
}

// envOf reads a mapping of names to texts.
func envOf(n yamlNode) (env []string, err error) {
	if n.kind != yamlMap && n.kind != yamlNull {
		return nil, fmt.Errorf("%s is not a mapping of names to texts", n)
	}
	var errs []error
	for _, p := range n.pairs {
		s, err := textOf(p.value)
		switch {
		case err != nil:
		case p.key == "" || strings.ContainsAny(p.key, "=\x00"):
			err = fmt.Errorf("%q is not a name of a variable", p.key)
		case strings.ContainsRune(s, 0):
			err = fmt.Errorf("%s has a zero byte", p.key)
		}
		if err != nil {
			errs = append(errs, atLine(p.line, err))
		}
		env = append(env, p.key+"="+s)
	}
	return env, errors.Join(errs...)
}

func envText(env []string) string {
	var b strings.Builder
	for i, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(yamlQuote(name) + ": " + yamlQuote(value))
	}
	return "{" + b.String() + "}"
}

func setUsers(c *serverConfig, n yamlNode) error {
	users, err := usersOf(n)
	if err == nil {
		c.users = users
	}
	return err
}

// usersOf reads the list of logins with a password.
func usersOf(n yamlNode) (users []configUser, err error) {
	if n.kind != yamlList && n.kind != yamlNull {
		return nil, fmt.Errorf("%s is not a list of users", n)
	}
	var errs []error
	for _, item := range n.list {
		u, err := userOf(item)
		u.line = item.line
		if err == nil && slices.ContainsFunc(users, func(o configUser) bool { return o.name == u.name }) {
			err = fmt.Errorf("user %q stands there twice", u.name)
		}
		if err != nil {
			errs = append(errs, atLine(item.line, err))
		}
		users = append(users, u)
	}
	return users, errors.Join(errs...)
}

func userOf(n yamlNode) (u configUser, err error) {
	if n.kind != yamlMap {
		return u, fmt.Errorf("%s is not a user: name, password_hash, …", n)
	}
	var errs []error
	ids := 0
	for _, p := range n.pairs {
		var err error
		text := func(to *string) { *to, err = textOf(p.value) }
		id := func(to *uint32) {
			v, ok := p.value.int()
			if !ok || v < 0 || v >= math.MaxUint32 {
				err = fmt.Errorf("%s is not a number from 0 to %d", p.value, uint32(math.MaxUint32-1))
			}
			*to = uint32(v)
			ids++
		}
		switch p.key {
		case "name":
			if text(&u.name); err == nil && !plausibleLogin(u.name) {
				err = fmt.Errorf("%q cannot be a user", u.name)
			}
		case "password_hash":
			if text(&u.passwordHash); err == nil {
				_, err = parsePasswordHash(u.passwordHash)
			}
		case "shell":
			if text(&u.shell); err == nil {
				err = checkPath(u.shell)
			}
		case "home":
			if text(&u.home); err == nil {
				err = checkPath(u.home)
			}
		case "env":
			u.env, err = envOf(p.value)
		case "uid":
			id(&u.uid)
		case "gid":
			id(&u.gid)
		default:
			err = fmt.Errorf("unknown key %q of a user; there are: name, password_hash, shell, home, env, uid, gid", p.key)
		}
		if err != nil {
			errs = append(errs, atLine(p.line, err))
		}
	}
	u.hasID = ids == 2
	switch {
	case len(errs) > 0:
	case u.name == "":
		err = errors.New("a user without a name")
	case u.passwordHash == "":
		err = fmt.Errorf("user %q has no password_hash", u.name)
	case ids == 1:
		err = fmt.Errorf("user %q has only one of uid and gid", u.name)
	}
	return u, errors.Join(append(errs, err)...)
}

// getUsers names them; hashes are nobody's to see.
func getUsers(c *serverConfig) string {
	var names []string
	for _, u := range c.users {
		names = append(names, u.name)
	}
	return yamlFlow(names)
}

func setExporters(c *serverConfig, n yamlNode) error {
	if n.kind != yamlList && n.kind != yamlNull {
		return fmt.Errorf("%s is not a list of exporters", n)
	}
	var errs []error
	var list []auditExporter
	var lines []int
	for _, item := range n.list {
		x, err := exporterOf(item)
		errs = append(errs, atLine(item.line, err))
		list, lines = append(list, x), append(lines, item.line)
	}
	err := errors.Join(errs...)
	if err == nil {
		c.exporters, c.exporterLines = list, lines
	}
	return err
}

// exporterKeys are the keys that an exporter has beside its type.
var exporterKeys = map[string][]string{
	"file":     {"path", "max_size", "keep"},
	"logstash": {"host", "port", "tls", "ca"},
	"otel":     {"endpoint", "ca"},
}

// exporterOf reads one exporter.
func exporterOf(n yamlNode) (x auditExporter, err error) {
	if n.kind != yamlMap {
		return x, fmt.Errorf("%s is not an exporter: {type: file, path: …}", n)
	}
	x = auditExporter{maxSize: auditMaxSize, keep: auditKeep}
	for _, p := range n.pairs {
		if p.key == "type" {
			x.kind, _ = p.value.str()
		}
	}
	keys := exporterKeys[x.kind]
	if keys == nil {
		return x, fmt.Errorf("an exporter has a type: file, logstash or otel; this has %q", x.kind)
	}
	var errs []error
	given := map[string]bool{}
	for _, p := range n.pairs {
		if p.key != "type" && !slices.Contains(keys, p.key) {
			errs = append(errs, atLine(p.line, fmt.Errorf("unknown key %q of an exporter of type %s; there are: %s", p.key, x.kind, strings.Join(keys, ", "))))
			continue
		}
		given[p.key] = true
		errs = append(errs, atLine(p.line, x.set(p.key, p.value)))
	}
	if first := keys[0]; !given[first] {
		errs = append(errs, fmt.Errorf("an exporter of type %s has a %s", x.kind, first))
	}
	if x.kind == "logstash" && !given["port"] {
		errs = append(errs, errors.New("an exporter of type logstash has a port"))
	}
	return x, errors.Join(errs...)
}

// set takes one key's value.
func (x *auditExporter) set(key string, n yamlNode) (err error) {
	number := func(least, most int64) (v int64) {
		v, ok := n.int()
		if !ok || v < least || v > most {
			err = fmt.Errorf("%s: %s is not a whole number from %d to %d", key, n, least, most)
		}
		return v
	}
	path := func() (s string) {
		if s, err = textOf(n); err == nil {
			err = checkPath(s)
		}
		return s
	}
	switch key {
	case "path":
		x.path = path()
	case "ca":
		x.ca = path()
	case "max_size":
		x.maxSize = number(0, math.MaxInt64)
	case "keep":
		x.keep = int(number(0, 1000))
	case "port":
		x.port = int(number(1, 65535))
	case "host":
		x.host, err = textOf(n)
	case "endpoint":
		if x.endpoint, err = textOf(n); err == nil {
			err = checkEndpoint(x.endpoint)
		}
	case "tls":
		var ok bool
		if x.tls, ok = n.bool(); !ok {
			err = fmt.Errorf("%s is not true or false", n)
		}
	}
	return err
}

func checkEndpoint(s string) error {
	_, rest, ok := strings.Cut(s, "://")
	if !ok || !strings.HasPrefix(s, "http") || strings.Trim(rest, "/") == "" {
		return fmt.Errorf("%q is not a URL that begins with http:// or https://", s)
	}
	return nil
}

func getExporters(c *serverConfig) string {
	var list []string
	for _, x := range c.exporters {
		list = append(list, x.String())
	}
	return yamlFlow(list)
}
