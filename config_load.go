package main

// This file finds the settings of a device: flags go before the environment,
// that before the file, and that before the defaults. Whatever is wrong is an
// error with its place and with what is allowed there, all of them at once.

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// maxConfigFile is the most that is read, in bytes.
const maxConfigFile = 1 << 20

// systemConfig is read where the state directory has no file.
const systemConfig = "/etc/sessio/server.yaml"

// A configSource is where settings come from. It is kept, for a reload.
type configSource struct {
	dir    string // the state directory
	file   string // named by a flag; "" looks for one
	getenv func(string) string
	flags  []configFlag
	hold   time.Duration // of -hold, which may be below a second; 0 none
}

// A configFlag is a value given by a flag.
type configFlag struct{ flag, key, value string }

// A loadedConfig is settings and where each came from.
type loadedConfig struct {
	*serverConfig
	file     string            // "" none
	from     map[string]string // by key; none: the default
	warnings []string
}

// load reads everything anew. The error joins all that is wrong.
func (s configSource) load() (l loadedConfig, err error) {
	l = loadedConfig{serverConfig: defaultServerConfig(), from: map[string]string{}}
	var errs configErrors
	if l.file, err = s.find(); err != nil {
		return l, err
	}
	if l.file != "" {
		if err := l.readFile(&errs); err != nil {
			return l, err
		}
	}
	for _, key := range configKeys {
		for _, prefix := range []string{"SESSIO_", "BSSH_"} {
			if v := s.getenv(prefix + key.env); key.env != "" && v != "" {
				l.setText(&errs, key, prefix+key.env, v)
				break
			}
		}
	}
	for _, f := range s.flags {
		if key, err := findConfigKey(f.key); err != nil {
			errs.add(f.flag, 0, "", err)
		} else {
			l.setText(&errs, key, f.flag, f.value)
		}
	}
	if s.hold > 0 {
		l.hold, l.from["hold"] = s.hold, "-hold"
	}
	l.check(&errs) // of keys that are wrong it sees the defaults
	return l, errors.Join(errs...)
}

// find is the file: the one named, which must be there, else the first of the
// two places that exists.
func (s configSource) find() (string, error) {
	if s.file != "" {
		return s.file, nil
	}
	for _, file := range []string{filepath.Join(s.dir, "sessio.yaml"), systemConfig} {
		if _, err := os.Stat(file); err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("configuration: %w", err)
		}
	}
	return "", nil
}

// A liveConfig is the settings in force. It is safe for concurrent use.
type liveConfig struct {
	source  configSource
	current atomic.Pointer[serverConfig]
}

// get is what holds now.
func (c *liveConfig) get() *serverConfig { return c.current.Load() }

// reload loads the settings and puts them in force, and lists what is doubtful
// in them. After an error those before hold on.
func (c *liveConfig) reload() (warnings []string, err error) {
	l, err := c.source.load()
	if err == nil {
		c.current.Store(l.serverConfig)
	}
	return l.warnings, err
}

// configErrors gathers what is wrong.
type configErrors []error

// add adds err about a key ("" none), or what it joins: each at its own line of
// place if it has one. Line 0 is a place without lines, a flag.
func (e *configErrors) add(place string, line int, key string, err error) {
	switch err := err.(type) {
	case nil:
	case *lineError:
		if line > 0 {
			line = err.line
		}
		e.add(place, line, key, err.err)
	case interface{ Unwrap() []error }:
		for _, one := range err.Unwrap() {
			e.add(place, line, key, one)
		}
	default:
		if line > 0 {
			place = fmt.Sprintf("%s:%d", place, line)
		}
		if key != "" {
			place += ": " + key
		}
		*e = append(*e, fmt.Errorf("%s: %w", place, err))
	}
}

// readFile sets what the file says.
func (l *loadedConfig) readFile(errs *configErrors) error {
	root, err := l.readYAML(l.file, errs)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	l.walk(errs, "", root)
	return nil
}

// readYAML reads a file of settings; what is wrong in it goes to errs.
func (l *loadedConfig) readYAML(file string, errs *configErrors) (yamlNode, error) {
	b, st, err := readSmall(file, maxConfigFile)
	if err != nil {
		return yamlNode{}, err
	}
	if st.Mode().Perm()&0o044 != 0 && runtime.GOOS != "windows" {
		l.warnings = append(l.warnings, fmt.Sprintf("%s: others can read it: chmod 600", file))
	}
	root, wrong := parseYAML(b)
	for _, err := range wrong {
		errs.add(file, 1, "", err)
	}
	if len(wrong) > 0 {
		return yamlNode{}, nil
	}
	if root.kind != yamlMap && root.kind != yamlNull {
		errs.add(file, root.line, "", fmt.Errorf("%s, not a mapping of keys to values", root))
		return yamlNode{}, nil
	}
	return root, nil
}

// walk sets the keys below prefix.
func (l *loadedConfig) walk(errs *configErrors, prefix string, n yamlNode) {
	for _, p := range n.pairs {
		name := prefix + p.key
		key, err := findConfigKey(name)
		switch {
		case err == nil:
			errs.add(l.file, p.line, name, key.set(l.serverConfig, p.value))
			l.from[name] = fmt.Sprintf("%s:%d", l.file, p.line)
		case !isConfigSection(name):
			errs.add(l.file, p.line, "", err)
		case p.value.kind == yamlMap:
			l.walk(errs, name+".", p.value)
		case p.value.kind != yamlNull:
			errs.add(l.file, p.line, "", fmt.Errorf("%s is not a mapping of keys to values", name))
		}
	}
}

// isConfigSection reports whether keys stand below name.
func isConfigSection(name string) bool {
	return slices.ContainsFunc(configKeys, func(k configKey) bool { return strings.HasPrefix(k.name, name+".") })
}

// findConfigKey finds a key, or says what is near.
func findConfigKey(name string) (configKey, error) {
	at := slices.IndexFunc(configKeys, func(k configKey) bool { return k.name == name })
	if at >= 0 {
		return configKeys[at], nil
	}
	var names, siblings []string
	section := name[:strings.LastIndex(name, ".")+1]
	for _, k := range configKeys {
		names = append(names, k.name)
		if rest, ok := strings.CutPrefix(k.name, section); ok {
			first, _, _ := strings.Cut(rest, ".")
			siblings = append(siblings, first)
		}
	}
	err := fmt.Errorf("unknown key %s", name)
	if near := nearest(name, names); len(near) > 0 {
		return configKey{}, fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	if siblings = slices.Compact(siblings); section != "" && len(siblings) > 0 {
		return configKey{}, fmt.Errorf("%w; in %s there are: %s", err, strings.TrimSuffix(section, "."), strings.Join(siblings, ", "))
	}
	return configKey{}, err
}

// setText sets a key to what the environment or a flag says.
func (l *loadedConfig) setText(errs *configErrors, key configKey, place, text string) {
	n, err := key.kind.node(text)
	if err == nil {
		err = key.set(l.serverConfig, n)
	}
	errs.add(place, 0, key.name, err)
	l.from[key.name] = place
}

// node reads text as the kind wants it.
func (k configKind) node(text string) (yamlNode, error) {
	switch {
	case k == configPlain:
		return yamlNode{kind: yamlScalar, text: strings.TrimSpace(text)}, nil
	case k == configText:
		return yamlNode{kind: yamlScalar, text: text, quoted: true}, nil
	case k == configList && !strings.HasPrefix(strings.TrimSpace(text), "["):
		n := yamlNode{kind: yamlList}
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				n.list = append(n.list, yamlNode{kind: yamlScalar, text: part, quoted: true})
			}
		}
		return n, nil
	}
	n, wrong := parseYAML([]byte(text))
	return n, errors.Join(wrong...)
}

// check judges the settings as a whole, and what they point to.
func (l *loadedConfig) check(errs *configErrors) {
	fail := func(key string, err error) { errs.add(cmp.Or(l.from[key], key), 0, key, err) }
	failAt := func(key string, line int, err error) {
		if l.file != "" && strings.HasPrefix(l.from[key], l.file+":") {
			errs.add(l.file, line, key, err)
		} else {
			fail(key, err)
		}
	}
	if l.keysDir != "" && l.keysPattern != "" {
		fail("auth.publickey.authorized_keys_pattern", errors.New("authorized_keys_dir is set as well: only one of them can be"))
	}
	if l.usersFile != "" {
		l.readUsersFile(errs, fail)
	}
	if slices.Contains(l.methods, "password") && len(l.users) == 0 {
		l.warn("auth.methods: password is on, and auth.password has no users")
	}
	if len(l.users) > 0 && !slices.Contains(l.methods, "password") {
		l.warn("auth.password has users, and auth.methods has no password")
	}
	for _, u := range l.users {
		if u.file != "" {
			errs.add(u.file, u.line, "", checkUser(u))
		} else {
			failAt("auth.password.users", u.line, checkUser(u))
		}
	}
	if l.shell != "" {
		fail("shell.default", checkExecutable(l.shell))
	}
	_, err := loadHostKeys(l.hostKeys)
	fail("server.host_keys", err)
	if l.auditEnabled && len(l.exporters) == 0 {
		l.warn("audit.enabled is true, and audit.exporters has none")
	}
	for i, x := range l.exporters {
		if l.auditEnabled {
			failAt("audit.exporters", l.exporterLines[i], x.check())
		}
	}
	if l.allowedCommands != nil && l.keysDir == "" && l.keysPattern == "" {
		l.warn("shell.allowed_commands: who may write to their own .sessio/authorized_keys.local can have any command by command= there: set auth.publickey.authorized_keys_dir")
	}
	l.checkFiles(fail)
	if l.maxSessionsPerUser > l.maxConnections {
		l.warn("security.max_sessions_per_user is more than server.max_connections")
	}
	if l.sessionTimeout > 0 && l.sessionTimeout < max(l.idlePort, l.idleLink) {
		l.warn("security.session_timeout is less than security.idle_timeout, which has no effect then")
	}
}

func (l *loadedConfig) warn(text string) { l.warnings = append(l.warnings, text) }

// readUsersFile adds the users of auth.password.users_file.
func (l *loadedConfig) readUsersFile(errs *configErrors, fail func(string, error)) {
	const key = "auth.password.users_file"
	before := len(*errs)
	root, err := l.readYAML(l.usersFile, errs)
	if err != nil {
		fail(key, err)
		return
	}
	for _, p := range root.pairs {
		if p.key != "users" {
			errs.add(l.usersFile, p.line, "", fmt.Errorf("unknown key %q; there is only: users", p.key))
			continue
		}
		users, err := usersOf(p.value)
		if err != nil {
			errs.add(l.usersFile, p.line, "", err)
			continue
		}
		for _, u := range users {
			if u.file = l.usersFile; slices.ContainsFunc(l.users, func(o configUser) bool { return o.name == u.name }) {
				errs.add(u.file, u.line, "", fmt.Errorf("user %q stands in the configuration as well", u.name))
			}
			l.users = append(l.users, u)
		}
	}
	if len(*errs) == before && len(l.users) == 0 {
		l.warn(l.usersFile + ": no users")
	}
}

// checkUser: whom passwd does not know needs uid and gid where the server may
// become anyone: nobody is to be root by accident.
func checkUser(u configUser) error {
	if u.shell != "" {
		if err := checkExecutable(u.shell); err != nil {
			return fmt.Errorf("user %q: %w", u.name, err)
		}
	}
	if u.hasID || os.Geteuid() != 0 {
		return nil
	}
	if _, err := findAccount(u.name); err != nil {
		return fmt.Errorf("%w: give uid and gid", err)
	}
	return nil
}

func checkExecutable(file string) error {
	st, err := os.Stat(file)
	if err == nil && !isExecutable(st) {
		err = fmt.Errorf("%s is not executable", file)
	}
	return err
}
