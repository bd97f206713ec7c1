package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// configTestSource is a state directory with a file of settings in it.
func configTestSource(t testing.TB, text string) configSource {
	t.Helper()
	s := configSource{dir: t.TempDir(), getenv: func(string) string { return "" }}
	s.file = filepath.Join(s.dir, "c.yaml")
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// settingsOf is c in force.
func settingsOf(c *serverConfig) *liveConfig {
	l := new(liveConfig)
	l.current.Store(c)
	return l
}

// TestConfigDefaults: what gen-config writes changes nothing.
func TestConfigDefaults(t *testing.T) {
	l, err := configTestSource(t, configFileText()).load()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range configKeys {
		if got, want := key.get(l.serverConfig), key.get(defaultServerConfig()); got != want {
			t.Errorf("%s: %s, the default is %s", key.name, got, want)
		}
		if from := l.from[key.name]; from == "" && key.get(l.serverConfig) != "" {
			t.Errorf("%s is not in the file", key.name)
		}
	}
	if len(l.warnings) > 0 {
		t.Error(l.warnings)
	}
}

const configTestHash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$mBYBT9ZtkMj9aOXNJlZM9lpPEhmFMSLRoyrVXr5zCFY"

// configWrong are files that are refused: the line that the error names, and
// what it says.
var configWrong = []struct {
	name, text string
	line       int
	says       string
}{
	{"unknown key", "port: 22\n", 1, "unknown key port"},
	{"unknown key in a section", "server:\n  colour: red\n", 2, "in server there are: bind_address"},
	{"near key", "server:\n  prt: 22\n", 2, "did you mean server.port"},
	{"unknown section", "# x\nservers:\n  port: 22\n", 2, "unknown key servers"},
	{"section that is a value", "server: 22\n", 1, "server is not a mapping"},
	{"section that is a list", "auth: [publickey]\n", 1, "auth is not a mapping"},
	{"key twice", "server:\n  port: 22\n  port: 23\n", 3, "port"},
	{"a list alone", "- a\n", 1, "not a mapping"},
	{"a text alone", "hello\n", 1, "not a mapping"},
	{"address", "server:\n  bind_address: everywhere\n", 2, `"everywhere" is not an IP address`},
	{"address with port", "server:\n  bind_address: \"0.0.0.0:22\"\n", 2, "is not an IP address"},
	{"port too high", "server:\n  port: 65536\n", 2, "from 0 to 65535"},
	{"port below", "server:\n  port: -1\n", 2, "from 0 to 65535"},
	{"port as text", "server:\n  port: \"22\"\n", 2, "whole number"},
	{"port as float", "server:\n  port: 22.0\n", 2, "whole number"},
	{"port as name", "server:\n  port: ssh\n", 2, "whole number"},
	{"port as list", "server:\n  port: [22]\n", 2, "whole number"},
	{"port without value", "server:\n  port:\n", 2, "whole number"},
	{"host key relative", "server:\n  host_keys: [host_key]\n", 2, "absolute path"},
	{"host key missing", "server:\n  host_keys:\n    - /nonexistent/key\n", 2, "/nonexistent/key"},
	{"host key twice", "server:\n  host_keys:\n    - /a\n    - /a\n", 4, "twice"},
	{"host keys a map", "server:\n  host_keys: {a: b}\n", 2, "not a list"},
	{"banner relative", "server:\n  banner: motd\n", 2, "absolute path"},
	{"no connections", "server:\n  max_connections: 0\n", 2, "from 1 to"},
	{"timeout below", "server:\n  timeout: -5\n", 2, "whole number of seconds"},
	{"timeout with unit", "server:\n  timeout: 5m\n", 2, "whole number of seconds"},
	{"keepalive", "server:\n  keepalive_interval: often\n", 2, "whole number of seconds"},
	{"no methods", "auth:\n  methods: []\n", 2, "at least one of"},
	{"unknown method", "auth:\n  methods:\n    - publickey\n    - hostbased\n", 4, `"hostbased" is not one of: publickey, password`},
	{"method twice", "auth:\n  methods: [password, password]\n", 2, "twice"},
	{"keys directory relative", "auth:\n  publickey:\n    authorized_keys_dir: keys\n", 3, "absolute path"},
	{"keys directory above", "auth:\n  publickey:\n    authorized_keys_dir: /a/../b\n", 3, "has .. in it"},
	{"keys pattern relative", "auth:\n  publickey:\n    authorized_keys_pattern: \"{user}/keys\"\n", 3, "absolute path"},
	{"keys twice", "auth:\n  publickey:\n    authorized_keys_dir: /a\n    authorized_keys_pattern: /b/{user}\n", 4, "only one of them"},
	{"user environment", "auth:\n  publickey:\n    permit_user_environment: yes\n", 3, "true or false"},
	{"users file relative", "auth:\n  password:\n    users_file: users\n", 3, "absolute path"},
	{"users file missing", "auth:\n  password:\n    users_file: /nonexistent/users\n", 3, "/nonexistent/users"},
	{"users not a list", "auth:\n  password:\n    users: alice\n", 3, "not a list of users"},
	{"user not a map", "auth:\n  password:\n    users:\n      - alice\n", 4, "is not a user"},
	{"user without name", "auth:\n  password:\n    users:\n      - password_hash: \"" + configTestHash + "\"\n", 4, "without a name"},
	{"user without hash", "auth:\n  password:\n    users:\n      - name: root\n", 4, "no password_hash"},
	{"user with a password", "auth:\n  password:\n    users:\n      - name: root\n        password: secret\n", 5, `unknown key "password" of a user`},
	{"user with a bad hash", "auth:\n  password:\n    users:\n      - name: root\n        password_hash: \"$1$abc$def\"\n", 5, "argon2id"},
	{"user with a short hash", "auth:\n  password:\n    users:\n      - name: root\n        password_hash: \"$argon2id$v=19$m=19456,t=2,p=1$c29t$bQ\"\n", 5, "argon2id"},
	{"user with a name like a number", "auth:\n  password:\n    users:\n      - name: \"0\"\n        password_hash: \"" + configTestHash + "\"\n", 4, "cannot be a user"},
	{"user twice", "auth:\n  password:\n    users:\n      - {name: root, password_hash: \"" + configTestHash + "\"}\n      - {name: root, password_hash: \"" + configTestHash + "\"}\n", 5, `user "root" stands there twice`},
	{"user with half an id", "auth:\n  password:\n    users:\n      - name: root\n        uid: 5\n        password_hash: \"" + configTestHash + "\"\n", 4, "only one of uid and gid"},
	{"user with a bad id", "auth:\n  password:\n    users:\n      - name: root\n        uid: 4294967295\n        gid: 1\n        password_hash: \"" + configTestHash + "\"\n", 5, "not a number from 0"},
	{"user with a relative home", "auth:\n  password:\n    users:\n      - name: root\n        home: root\n", 5, "absolute path"},
	{"user with a shell that is not there", "auth:\n  password:\n    users:\n      - name: root\n        shell: /nonexistent/sh\n        password_hash: \"" + configTestHash + "\"\n", 4, "/nonexistent/sh"},
	{"user with a bad variable", "auth:\n  password:\n    users:\n      - name: root\n        env: [A]\n", 5, "mapping of names"},
	{"shell missing", "shell:\n  default: /nonexistent/sh\n", 2, "/nonexistent/sh"},
	{"shell not executable", "shell:\n  default: /etc/passwd\n", 2, "not executable"},
	{"shell relative", "shell:\n  default: sh\n", 2, "absolute path"},
	{"env not a map", "shell:\n  env:\n    - A=b\n", 2, "mapping of names"},
	{"env with a number", "shell:\n  env:\n    A: b\n    B: 5\n", 4, "write it in quotes"},
	{"env with an equals sign", "shell:\n  env:\n    \"A=B\": c\n", 3, "not a name of a variable"},
	{"command timeout", "shell:\n  command_timeout: 1h\n", 2, "whole number of seconds"},
	{"accepted glob", "shell:\n  accept_env: [\"[\"]\n", 2, "not a glob"},
	{"accepted number", "shell:\n  accept_env:\n    - LANG\n    - 5\n", 4, "write it in quotes"},
	{"allowed commands a map", "shell:\n  allowed_commands: {ls: true}\n", 2, "not a list"},
	{"forward word", "forward:\n  local: on\n", 2, "true or false"},
	{"forward number", "forward:\n  remote: 1\n", 2, "true or false"},
	{"forward text", "forward:\n  agent: \"true\"\n", 2, "true or false"},
	{"permit without port", "forward:\n  permit:\n    - localhost\n", 3, "is not HOST:PORT"},
	{"permit of a bare IPv6 address", "forward:\n  permit: [\"::1:22\"]\n", 2, "is not HOST:PORT"},
	{"permit with an empty host", "forward:\n  permit: [\":22\"]\n", 2, "is not HOST:PORT"},
	{"no attempts", "security:\n  max_auth_attempts: 0\n", 2, "from 1 to"},
	{"no window", "security:\n  auth_window: 0\n", 2, "1 or more"},
	{"no ban", "security:\n  ban_time: 0\n", 2, "1 or more"},
	{"network with bits", "security:\n  blocked_ips: [10.0.0.1/8]\n", 2, "10.0.0.0/8 is the network"},
	{"network too long", "security:\n  allowed_ips:\n    - 10.0.0.0/33\n", 3, "not an address or CIDR"},
	{"network by name", "security:\n  whitelist_ips:\n    - \"::1\"\n    - localhost\n", 4, "not an address or CIDR"},
	{"address with a zone", "security:\n  whitelist_ips: [\"fe80::1%eth0\"]\n", 2, "it has a zone"},
	{"no sessions", "security:\n  max_sessions_per_user: 0\n", 2, "from 1 to"},
	{"idle", "security:\n  idle_timeout: never\n", 2, "whole number of seconds"},
	{"session", "security:\n  session_timeout: -1\n", 2, "whole number of seconds"},
	{"audit word", "audit:\n  enabled: maybe\n", 2, "true or false"},
	{"exporters a map", "audit:\n  exporters:\n    type: file\n", 2, "not a list of exporters"},
	{"exporter without type", "audit:\n  exporters:\n    - path: /a\n", 3, "has a type: file, logstash or otel"},
	{"exporter of another type", "audit:\n  exporters:\n    - type: syslog\n      path: /a\n", 3, "has a type"},
	{"exporter with another's key", "audit:\n  exporters:\n    - type: file\n      path: /a\n      host: b\n", 5, "there are: path, max_size, keep"},
	{"file exporter without path", "audit:\n  exporters:\n    - {type: file, keep: 3}\n", 3, "of type file has a path"},
	{"file exporter with a relative path", "audit:\n  exporters:\n    - type: file\n      path: audit.log\n", 4, "absolute path"},
	{"file exporter that keeps too many", "audit:\n  exporters:\n    - {type: file, path: /a, keep: 5000}\n", 3, "keep: \"5000\" is not"},
	{"logstash without port", "audit:\n  exporters:\n    - {type: logstash, host: a}\n", 3, "has a port"},
	{"logstash with a port too high", "audit:\n  exporters:\n    - {type: logstash, host: a, port: 70000}\n", 3, "from 1 to 65535"},
	{"otel without a scheme", "audit:\n  exporters:\n    - {type: otel, endpoint: \"collector:4317\"}\n", 3, "not a URL"},
	{"sftp word", "sftp:\n  enabled: \"true\"\n", 2, "true or false"},
	{"scp word", "scp:\n  enabled: on\n", 2, "scp.enabled: \"on\""},
	{"relative root", "sftp:\n  root: files\n", 2, "absolute path"},
	{"root that is not there", "sftp:\n  root: /nonexistent/root\n", 2, "/nonexistent/root: no such file"},
	{"root that is a file", "scp:\n  root: /etc/passwd\n", 2, "/etc/passwd is not a directory"},
	{"negative size", "scp:\n  max_size: -1\n", 2, "number of bytes"},
	{"size with a unit", "scp:\n  max_size: 10GiB\n", 2, "number of bytes"},
	{"filter word", "filter:\n  enabled: 1\n", 2, "filter.enabled"},
	{"default action", "filter:\n  default_action: refuse\n", 2, "allow, deny, log"},
	{"rule that cannot match", "filter:\n  rules:\n    - name: a\n      action: deny\n      path_prefix: home\n", 5, "rule \"a\": path_prefix \"home\""},
	{"rule without action", "filter:\n  rules:\n    - pattern: a\n    - pattern: b\n      action: log\n", 3, "rule 1: it has no action"},
	{"matcher deep down", "filter:\n  rules:\n    - action: deny\n      composite:\n        type: or\n        matchers:\n          - pattern: a\n          - not:\n              extensions: []\n", 9, "extensions: an empty list"},
	{"ttl", "session:\n  ttl: 1.5\n", 2, "whole number of seconds"},
	{"hold", "hold: 0\n", 1, "1 or more"},
	{"tab", "server:\n\tport: 22\n", 2, "tab"},
	{"anchor", "server: &s\n  port: 22\n", 1, "anchor"},
	{"alias", "server: *s\n", 1, "alias"},
	{"tag", "server:\n  port: !!int 22\n", 2, "tag"},
	{"block scalar", "server:\n  banner: |\n    hello\n", 2, ""},
	{"second document", "hold: 5\n---\nhold: 6\n", 2, "document"},
	{"indentation", "server:\n  port: 22\n   timeout: 5\n", 3, ""},
	{"open quote", "server:\n  banner: \"/a\n", 2, ""},
}

func TestConfigWrong(t *testing.T) {
	seen := map[string]string{}
	for _, c := range configWrong {
		s := configTestSource(t, c.text)
		_, err := s.load()
		if err == nil {
			t.Errorf("%s: loads", c.name)
			continue
		}
		said := strings.ReplaceAll(err.Error(), s.file, "FILE")
		if !strings.HasPrefix(said, fmt.Sprintf("FILE:%d: ", c.line)) && !strings.HasPrefix(said, fmt.Sprintf("FILE: line %d: ", c.line)) || !strings.Contains(said, c.says) {
			t.Errorf("%s: %s", c.name, said)
		}
		if strings.Contains(said, "\n") {
			t.Errorf("%s: more than one error: %s", c.name, said)
		}
		if other := seen[said]; other != "" {
			t.Errorf("%s and %s are told by the same words: %s", other, c.name, said)
		}
		seen[said] = c.name
	}
	if len(configWrong) < 80 {
		t.Error("only", len(configWrong))
	}
}

// TestConfigTellsAll: every error at once, in the order of the file; after them
// what it points to.
func TestConfigTellsAll(t *testing.T) {
	s := configTestSource(t, "server:\n  port: x\n  colour: red\nauth:\n  methods: [a, b]\nhold: -1\nshell:\n  default: /nosuch\nsftp:\n  root: /nosuch/dir\n")
	s.flags = []configFlag{{"-p", "server.port", "99999"}, {"-set", "nothing", "5"}}
	s.getenv = func(name string) string { return map[string]string{"SESSIO_MAX_CONNECTIONS": "0"}[name] }
	_, err := s.load()
	var places []string
	for line := range strings.SplitSeq(fmt.Sprint(err), "\n") {
		place, _, _ := strings.Cut(strings.ReplaceAll(line, s.file, "F"), ": ")
		places = append(places, place)
	}
	if got := strings.Join(places, " "); got != "F:2 F:3 F:5 F:5 F:6 SESSIO_MAX_CONNECTIONS -p -set F:8 F:10" {
		t.Error(got, err)
	}
}

// TestConfigOrder: flags, environment, file, defaults, and who is named for it.
func TestConfigOrder(t *testing.T) {
	env := map[string]string{}
	s := configTestSource(t, "server:\n  port: 1\n  bind_address: 127.0.0.1\n  max_connections: 7\n")
	s.getenv = func(name string) string { return env[name] }
	show := func(want string) {
		t.Helper()
		l, err := s.load()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%d %s", l.port, strings.ReplaceAll(l.from["server.port"], s.file, "F")); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if l.bindAddress.String() != "127.0.0.1" || l.maxConnections != 7 {
			t.Error(l.bindAddress, l.maxConnections)
		}
	}
	show("1 F:2")
	env["BSSH_PORT"] = "2"
	show("2 BSSH_PORT")
	env["SESSIO_PORT"] = "3"
	show("3 SESSIO_PORT")
	s.flags = []configFlag{{"-set", "server.port", "4"}}
	show("4 -set")
	s.flags = append(s.flags, configFlag{"-p", "server.port", "5"})
	show("5 -p")
	s.flags, env["SESSIO_PORT"], env["BSSH_PORT"] = nil, "", ""
	show("1 F:2") // empty is not set
}

// TestConfigFound: the first file that is there, no other.
func TestConfigFound(t *testing.T) {
	s := configSource{dir: t.TempDir(), getenv: func(string) string { return "" }}
	if l, err := s.load(); err != nil || l.file != "" && l.file != systemConfig {
		t.Error(l.file, err)
	}
	own := filepath.Join(s.dir, "sessio.yaml")
	os.WriteFile(own, []byte("hold: 77\n"), 0o644)
	l, err := s.load()
	if err != nil || l.file != own || l.hold != 77*time.Second {
		t.Error(l.file, l.hold, err)
	}
	if len(l.warnings) != 1 || !strings.Contains(l.warnings[0], "others can read it") {
		t.Error(l.warnings)
	}
	s.file = filepath.Join(s.dir, "not-there.yaml")
	if _, err := s.load(); err == nil {
		t.Error("a file that was named and is not there")
	}
}

// TestConfigText: how text from the environment and from -set is read.
func TestConfigText(t *testing.T) {
	s := configTestSource(t, "")
	for _, c := range []struct{ key, value, want string }{
		{"auth.methods", "publickey, password", `["publickey", "password"]`},
		{"auth.methods", "[password]", `["password"]`},
		{"security.blocked_ips", "10.0.0.0/8,::ffff:192.0.2.1", `["10.0.0.0/8", "192.0.2.1/32"]`},
		{"security.blocked_ips", "", `[]`},
		{"server.banner", "/etc/issue", `"/etc/issue"`},
		{"server.port", " 22 ", "22"},
		{"forward.remote", "true", "true"},
		{"shell.env", "{A: b, C: \"1\"}", `{"A": "b", "C": "1"}`},
		{"session.ttl", "9999999999999", "3153600000"},
		{"security.idle_timeout", "0", "0"},
	} {
		s.flags = []configFlag{{"-set", c.key, c.value}}
		l, err := s.load()
		if err != nil {
			t.Error(c, err)
			continue
		}
		key, _ := findConfigKey(c.key)
		if got := key.get(l.serverConfig); got != c.want {
			t.Errorf("%s=%s: %s", c.key, c.value, got)
		}
	}
}

// TestConfigUsersFile: its users come after those of the configuration.
func TestConfigUsersFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users.yaml")
	user := func(name string) string {
		return "  - name: " + name + "\n    password_hash: \"" + configTestHash + "\"\n    uid: 5\n    gid: 6\n"
	}
	load := func(users string) (loadedConfig, error) {
		if err := os.WriteFile(file, []byte(users), 0o600); err != nil {
			t.Fatal(err)
		}
		return configTestSource(t, "auth:\n  methods: [password]\n  password:\n    users_file: "+file+"\n    users:\n    "+strings.ReplaceAll(user("alice"), "\n", "\n    ")+"\n").load()
	}
	l, err := load("users:\n" + user("bob"))
	if err != nil || len(l.users) != 2 || l.users[1].name != "bob" || l.users[1].uid != 5 || !l.users[1].hasID {
		t.Error(l.users, err)
	}
	for text, want := range map[string]string{
		"users:\n" + user("alice"): `user "alice" stands in the configuration as well`,
		"people: []\n":             `:1: unknown key "people"`,
		"users:\n  - name: bob\n":  `:2: user "bob" has no password_hash`,
		"users: [\n":               ":2: ",
		"users:\n" + user("bob") + strings.Replace(user("eve"), "uid", "shell: /nosuch\n    uid", 1): `:6: user "eve": stat /nosuch`,
		"users:\n" + user("bob") + user("bob"):                                                       `:6: user "bob" stands there twice`,
	} {
		if _, err := load(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestConfigUserLine: what is wrong with a user is told at its own line.
func TestConfigUserLine(t *testing.T) {
	users := "\n    - {name: a, password_hash: \"" + configTestHash + "\", uid: 5, gid: 6}\n"
	s := configTestSource(t, "auth:\n  password:\n    users:"+users+strings.Replace(users[1:], "a,", "b, shell: /nosuch,", 1))
	if _, err := s.load(); err == nil || !strings.HasPrefix(err.Error(), s.file+`:5: auth.password.users: user "b"`) {
		t.Error(err)
	}
}

// TestConfigAudit: an exporter that could not be opened is an error of its line,
// once the audit is on.
func TestConfigAudit(t *testing.T) {
	text := "audit:\n  enabled: true\n  exporters:\n    - {type: file, path: /nosuch/dir/a}\n    - {type: logstash, host: h, port: 1, ca: /nosuch}\n" +
		"    - {type: logstash, host: h, port: 1, tls: true, ca: /nosuch}\n    - {type: otel, endpoint: \"http://h:4317\", ca: /nosuch}\n"
	s := configTestSource(t, text)
	_, err := s.load()
	lines := strings.Split(fmt.Sprint(err), "\n")
	for i := range 4 {
		if len(lines) != 4 || !strings.HasPrefix(lines[i], fmt.Sprintf("%s:%d: audit.exporters: ", s.file, i+4)) {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	if sayError(&said, "sessio", err); strings.Count(said.String(), "\nsessio: ") != 3 {
		t.Errorf("%q", said.String())
	}
	if _, err := configTestSource(t, strings.Replace(text, "true", "false", 1)).load(); err != nil {
		t.Error("the audit is off:", err)
	}
}

// TestConfigReload: a wrong file changes nothing.
func TestConfigReload(t *testing.T) {
	s := configTestSource(t, "hold: 5\n")
	c := &liveConfig{source: s}
	if _, err := c.reload(); err != nil || c.get().hold != 5*time.Second {
		t.Fatal(c.get(), err)
	}
	os.WriteFile(s.file, []byte("hold: x\n"), 0o600)
	if _, err := c.reload(); err == nil || c.get().hold != 5*time.Second {
		t.Error(c.get().hold, err)
	}
	os.WriteFile(s.file, []byte("hold: 6\n"), 0o600)
	if _, err := c.reload(); err != nil || c.get().hold != 6*time.Second {
		t.Error(c.get().hold, err)
	}
}

func TestConfigWarnings(t *testing.T) {
	for text, want := range map[string]string{
		"shell:\n  allowed_commands: [rsync]\n":              "can have any command",
		"security:\n  max_sessions_per_user: 200\n":          "more than server.max_connections",
		"security:\n  session_timeout: 60\n":                 "session_timeout is less",
		"auth:\n  methods: [password]\n":                     "has no users",
		"sftp:\n  root: /tmp\n":                              "sftp.root binds SFTP and SCP alone: a shell",
		"scp:\n  root: /tmp\nforward:\n  remote: true\n":     "by -L goes round it",
		"filter:\n  enabled: true\n  default_action: deny\n": "filter binds SFTP and SCP alone: a shell",
		"filter:\n  enabled: true\n":                         "filter.rules has none",
		"filter:\n  rules: [{pattern: a, action: deny}]\n":   "filter.enabled is false",
		"filter:\n  enabled: true\n  rules: [{path_prefix: /, action: deny},\n    {pattern: a, action: deny}]\n": "\"rule 2\" in line 4 never decides",
		"auth:\n  password:\n    users:\n      - {name: root, password_hash: \"" + configTestHash + "\"}\n":      "has no password",
	} {
		l, err := configTestSource(t, text).load()
		if err != nil || !slices.ContainsFunc(l.warnings, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("%q: %q, %v", text, l.warnings, err)
		}
	}
}

// configEffects names, for each key, the test that shows what it does to a
// server that runs.
var configEffects = map[string]string{
	"server.bind_address":                    "TestSSHPortFollowsSettings",
	"server.port":                            "TestSSHPortFollowsSettings",
	"server.host_keys":                       "TestSSHPortHostKeys",
	"server.banner":                          "TestSSHDBanner",
	"server.max_connections":                 "TestCrowd",
	"server.timeout":                         "TestSSHDGrace",
	"server.keepalive_interval":              "TestSSHPortKeepalive",
	"auth.methods":                           "TestPasswordOff",
	"auth.publickey.authorized_keys_dir":     "TestKeysElsewhere",
	"auth.publickey.authorized_keys_pattern": "TestKeysElsewhere",
	"auth.publickey.permit_user_environment": "TestKeysEnvironment",
	"auth.password.users_file":               "TestConfigUsersFile",
	"auth.password.users":                    "TestPasswordStock",
	"shell.default":                          "TestSSHDDefaultShell",
	"shell.env":                              "TestSSHDVariables",
	"shell.command_timeout":                  "TestSSHDCommandTimeout",
	"shell.accept_env":                       "TestSSHDVariables",
	"shell.allowed_commands":                 "TestSSHDAllowedCommands",
	"forward.local":                          "TestSSHDForwardGates",
	"forward.remote":                         "TestSSHDForwardGates",
	"forward.agent":                          "TestSSHDForwardGates",
	"forward.streamlocal":                    "TestSSHDForwardGates",
	"forward.permit":                         "TestSSHAudit",
	"sftp.enabled":                           "TestSFTPSettings",
	"sftp.root":                              "TestSFTPSettings",
	"scp.enabled":                            "TestSCPSettings",
	"scp.root":                               "TestSCPSettings",
	"scp.max_size":                           "TestSCPSettings",
	"filter.enabled":                         "TestFilterTable",
	"filter.default_action":                  "TestFilterTable",
	"filter.rules":                           "TestFilterTable",
	"audit.enabled":                          "TestDeviceSettings",
	"audit.exporters":                        "TestDeviceSettings",
	"security.max_auth_attempts":             "TestSSHWrongPasswordsBan",
	"security.auth_window":                   "TestGateBans",
	"security.ban_time":                      "TestGateBans",
	"security.whitelist_ips":                 "TestGateBans",
	"security.allowed_ips":                   "TestSSHPortRefusesAddresses",
	"security.blocked_ips":                   "TestSSHPortRefusesAddresses",
	"security.max_sessions_per_user":         "TestSSHPortSessionsOfAUser",
	"security.idle_timeout":                  "TestSSHPortIdle",
	"security.session_timeout":               "TestSSHPortSessionTimeout",
	"session.ttl":                            "TestNodeSettings",
	"hold":                                   "TestNodeSettings",
}

// TestConfigEffects: every key has a test of what it does.
func TestConfigEffects(t *testing.T) {
	var tests strings.Builder
	for _, f := range sourceFiles(t, true) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(b)
	}
	for _, key := range configKeys {
		test := configEffects[key.name]
		if test == "" || !strings.Contains(tests.String(), "\nfunc "+test+"(t *testing.T) {") {
			t.Errorf("%s: no test %q", key.name, test)
		}
	}
	if len(configEffects) != len(configKeys) {
		t.Errorf("%d keys, %d tests", len(configKeys), len(configEffects))
	}
}

// TestConfigBound: commands that are listed and ports that are listed or off go
// round nothing.
func TestConfigBound(t *testing.T) {
	l, err := configTestSource(t, "filter:\n  enabled: true\n  default_action: deny\nsftp:\n  root: /tmp\nforward:\n  local: false\nshell:\n  allowed_commands: [true-thing]\nauth:\n  publickey:\n    authorized_keys_dir: /etc\n").load()
	if err != nil || len(l.warnings) > 0 || l.filter.judge(filterAsk{op: opStat, seen: "/", size: -1}).action != filterDeny {
		t.Error(l.warnings, err)
	}
}
