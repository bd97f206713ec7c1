package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

const keysTestBlob = "AAAAC3NzaC1lZDI1NTE5AAAAIIKzuJ46CPWrUd+pYFTjFOMQd5D4HkGzv6GKyUJ9vuQZ"

const keysTestKey = "ssh-ed25519 " + keysTestBlob

// TestParseKeyOptions: what each option means, beside those before it.
func TestParseKeyOptions(t *testing.T) {
	command, quotes := "ls -l", `echo "a\b", c`
	for _, c := range []struct {
		options string
		want    lineOptions
	}{
		{"restrict", lineOptions{noPty: true, noForward: true, keyLimits: keyLimits{noAgent: true}}},
		{"restrict,pty", lineOptions{noForward: true, keyLimits: keyLimits{noAgent: true}}},
		{"pty,restrict", lineOptions{noPty: true, noForward: true, keyLimits: keyLimits{noAgent: true}}},
		{"Restrict,PORT-forwarding,agent-forwarding", lineOptions{noPty: true}},
		{"no-pty", lineOptions{noPty: true}},
		{"no-port-forwarding", lineOptions{noForward: true}},
		{"no-agent-forwarding", lineOptions{keyLimits: keyLimits{noAgent: true}}},
		{"no-X11-forwarding,X11-forwarding,no-user-rc,user-rc,no-verify-required,touch-required", lineOptions{}},
		{`tunnel="0"`, lineOptions{}},
		{`command="ls -l"`, lineOptions{keyLimits: keyLimits{command: &command}}},
		{`command="echo \"a\b\", c"`, lineOptions{keyLimits: keyLimits{command: &quotes}}},
		{`environment="A=1",environment="B=",environment="A=2"`, lineOptions{keyLimits: keyLimits{env: []string{"A=1", "B="}}}},
		{`permitopen="[::1]:80",permitopen="h:*"`, lineOptions{keyLimits: keyLimits{permitOpen: []string{"[::1]:80", "h:*"}}}},
		{`permitlisten="8080",permitlisten="localhost:*"`, lineOptions{keyLimits: keyLimits{permitListen: []string{"8080", "localhost:*"}}}},
		{"no-touch-required", lineOptions{noTouch: true}},
		{`cert-authority,principals="a,b"`, lineOptions{ca: true, principals: []string{"a", "b"}}},
		{`expiry-time="20300102Z",expiry-time="203001010304UTC",expiry-time="20400101010101z"`,
			lineOptions{expires: time.Date(2030, 1, 1, 3, 4, 0, 0, time.UTC)}},
		{`expiry-time="20300102"`, lineOptions{expires: time.Date(2030, 1, 2, 0, 0, 0, 0, time.Local)}},
		{`from="10.0.0.0/8,!10.1.*"`, lineOptions{from: []fromPattern{{net: netip.MustParsePrefix("10.0.0.0/8")}, {not: true, glob: "10.1.*"}}}},
	} {
		l, err := parseKeyLine(c.options + " " + keysTestKey + " a comment")
		if err != nil || !reflect.DeepEqual(l.lineOptions, c.want) || l.comment != "a comment" {
			t.Errorf("%s: %+v, %v", c.options, l, err)
		}
	}
}

// TestKeyLinesThatGrantNothing: each names its fault.
func TestKeyLinesThatGrantNothing(t *testing.T) {
	for _, c := range []struct{ line, why string }{
		{"frobnicate " + keysTestKey, `"frobnicate" is not known`},
		{"no-restrict " + keysTestKey, "not known"},
		{"no-cert-authority " + keysTestKey, "not known"},
		{`restrict="yes" ` + keysTestKey, "not known"},
		{"command " + keysTestKey, "not known"},
		{"restrict, " + keysTestKey, `"" is not known`},
		{",restrict " + keysTestKey, `"" is not known`},
		{`command="a"pty ` + keysTestKey, "no comma"},
		{"command=ls " + keysTestKey, "not in quotes"},
		{`command="ls ` + keysTestKey, "not closed"},
		{`command="ls\" ` + keysTestKey, "not closed"},
		{`command="a",command="a" ` + keysTestKey, "twice"},
		{`from="a",from="b" ` + keysTestKey, "twice"},
		{`cert-authority,principals="a",principals="b" ` + keysTestKey, "twice"},
		{`principals="a" ` + keysTestKey, "without cert-authority"},
		{"verify-required " + keysTestKey, "verify-required"},
		{`from="" ` + keysTestKey, "empty"},
		{`from="10.0.0.0/8,!" ` + keysTestKey, "empty"},
		{`from="10.1.0.0/8" ` + keysTestKey, "no network"},
		{`from="10.0.0.0/33" ` + keysTestKey, "no network"},
		{`environment="A" ` + keysTestKey, "NAME=value"},
		{`environment="=1" ` + keysTestKey, "NAME=value"},
		{`environment="A B=1" ` + keysTestKey, "NAME=value"},
		{`permitopen="80" ` + keysTestKey, "host:port"},
		{`permitopen=":80" ` + keysTestKey, "host:port"},
		{`permitopen="h:0" ` + keysTestKey, "host:port"},
		{`permitopen="h:65536" ` + keysTestKey, "host:port"},
		{`permitopen="::1:80" ` + keysTestKey, "host:port"},
		{`permitlisten="x" ` + keysTestKey, "host:port"},
		{`expiry-time="2030" ` + keysTestKey, "YYYYMMDD"},
		{`expiry-time="20301301Z" ` + keysTestKey, "YYYYMMDD"},
		{`expiry-time="" ` + keysTestKey, "YYYYMMDD"},
		{`expiry-time="19700101Z" ` + keysTestKey, "YYYYMMDD"},
		{"ssh-dss AAAAB3NzaC1kc3MAAAAA", "no key"},
		{"ssh-rsa " + keysTestBlob, "no key"},
		{"ssh-ed25519", "no key"},
		{"ssh-ed25519 !!!!", "no key"},
		{"restrict ssh-ed25519 AAAA", "no key"},
		{"-----BEGIN OPENSSH PRIVATE KEY-----", "no key"},
		{keysTestKey + " a\x00b", "NUL"},
		{`command="` + strings.Repeat("x", maxKeyLine) + `" ` + keysTestKey, "longer"},
	} {
		if _, err := parseKeyLine(c.line); !strings.Contains(fmt.Sprint(err), c.why) {
			t.Errorf("%.60q: %v, want %q", c.line, err, c.why)
		}
		lines, err := parseAuthorizedKeys([]byte("# c\n\n" + c.line + "\n" + keysTestKey))
		if err != nil || len(lines) != 2 || lines[0].bad == nil || lines[0].blob != nil || lines[0].num != 3 || lines[1].bad != nil {
			t.Errorf("%.60q: %+v, %v", c.line, lines, err)
		}
	}
	for _, text := range []string{strings.Repeat("\n", maxKeyLines+1), strings.Repeat("x", maxKeysFile+1)} {
		if lines, err := parseAuthorizedKeys([]byte(text)); err == nil {
			t.Errorf("%d lines of a file of %d bytes", len(lines), len(text))
		}
	}
}

// TestKeysFromPatterns: networks, addresses and patterns, negated ones win.
func TestKeysFromPatterns(t *testing.T) {
	for _, c := range []struct {
		list, addr string
		want       bool
	}{
		{"10.0.0.0/8", "10.2.3.4", true},
		{"10.0.0.0/8", "::ffff:10.2.3.4", true},
		{"10.0.0.0/8", "11.0.0.1", false},
		{"10.0.0.0/8,!10.1.0.0/16", "10.1.2.3", false},
		{"!10.1.0.0/16,10.0.0.0/8", "10.1.2.3", false},
		{"!10.1.0.0/16", "10.2.0.1", false},
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.1", "10.0.0.10", false},
		{"::ffff:10.0.0.1", "10.0.0.1", true},
		{"::ffff:10.0.0.0/104", "10.9.9.9", true},
		{"2001:db8::/32", "2001:db8::5", true},
		{"2001:DB8::5", "2001:db8::5", true},
		{"2001:db8:*", "2001:db8::5", true},
		{"fe80::/10", "fe80::1%eth0", true},
		{"10.0.0.?", "10.0.0.7", true},
		{"10.0.0.?", "10.0.0.17", false},
		{"10.*.7", "10.1.2.7", true},
		{"10.*.7", "10.1.7.8", false},
		{"*", "10.0.0.1", true},
		{"*.example.com", "10.0.0.1", false},
		{"0.0.0.0/0", "::1", false},
	} {
		list, err := parseFrom(c.list)
		if err != nil || fromAllows(list, netip.MustParseAddr(c.addr)) != c.want {
			t.Errorf("%s, %s: %v", c.list, c.addr, err)
		}
	}
	if list, _ := parseFrom("*"); fromAllows(list, netip.Addr{}) {
		t.Error("a peer of no address is somewhere")
	}
}

// TestKeysFirstLineThatFits: lines that refuse the key say nothing about later
// ones, and the first that lets it in decides.
func TestKeysFirstLineThatFits(t *testing.T) {
	key := sshdPublic(t, keysTestKey)
	q := keyQuestion{key: key, user: "u", from: netip.MustParseAddr("10.0.0.1"), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	text := strings.Join([]string{
		"unknown " + keysTestKey,
		"cert-authority " + keysTestKey,
		`from="10.9.0.0/16" ` + keysTestKey,
		`expiry-time="20251231Z" ` + keysTestKey,
		`restrict,environment="A=1" ` + keysTestKey + " third",
		keysTestKey,
	}, "\n")
	lines, err := parseAuthorizedKeys([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	v, err := judgeKeyLines(lines, q)
	want := ssh.FingerprintSHA256(key) + ` "third"`
	if err != nil || v.device != want || fmt.Sprint(v.caps) != "[shell exec sftp]" || !v.noAgent || v.env != nil {
		t.Errorf("%+v, %v", v, err)
	}
	q.userEnv = true
	if v, err = judgeKeyLines(lines, q); err != nil || fmt.Sprint(v.env) != "[A=1]" {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err = judgeKeyLines(lines[5:], q); err != nil || fmt.Sprint(v.caps) != "[shell exec sftp forward pty]" || v.noAgent {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err = judgeKeyLines(lines[:4], q); !strings.Contains(fmt.Sprint(err), "line 4: it was valid until 2025-12-31") {
		t.Error(err)
	}
	if _, err = judgeKeyLines(lines[:2], q); err != errNoKeyLine {
		t.Error(err)
	}
}

func sshdPublic(t testing.TB, line string) ssh.PublicKey {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestKeysAsKeygenReads: ssh-keygen finds in a file the fingerprints that we do.
func TestKeysAsKeygenReads(t *testing.T) {
	t.Parallel()
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("no ssh-keygen here")
	}
	dir := t.TempDir()
	var text bytes.Buffer
	for i, typ := range []string{"ed25519", "ecdsa", "rsa"} {
		id := filepath.Join(dir, typ)
		if out, err := exec.Command(keygen, "-q", "-t", typ, "-N", "", "-C", "it is "+typ, "-f", id).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		pub, err := os.ReadFile(id + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString([]string{"", `command="a \"b\", c",no-pty `, "\t restrict "}[i])
		text.Write(pub)
	}
	file := filepath.Join(dir, "authorized_keys")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(keygen, "-l", "-f", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines, err := parseAuthorizedKeys(text.Bytes())
	if err != nil || len(lines) != 3 {
		t.Fatal(lines, err)
	}
	for i, said := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		key, err := ssh.ParsePublicKey(lines[i].blob)
		if err != nil || lines[i].bad != nil {
			t.Fatal(err, lines[i].bad)
		}
		if !strings.Contains(said, ssh.FingerprintSHA256(key)) || !strings.Contains(said, lines[i].comment) {
			t.Errorf("%q, ours %s %q", said, ssh.FingerprintSHA256(key), lines[i].comment)
		}
	}
}

// keysTestText writes a line that was read, for the fuzz test.
func keysTestText(l keyLine) string {
	var o []string
	flag := func(on bool, name string) {
		if on {
			o = append(o, name)
		}
	}
	value := func(name, v string) { o = append(o, name+`="`+strings.ReplaceAll(v, `"`, `\"`)+`"`) }
	flag(l.noPty, "no-pty")
	flag(l.noForward, "no-port-forwarding")
	flag(l.noAgent, "no-agent-forwarding")
	flag(l.noTouch, "no-touch-required")
	flag(l.ca, "cert-authority")
	if l.command != nil {
		value("command", *l.command)
	}
	if l.principals != nil {
		value("principals", strings.Join(l.principals, ","))
	}
	var from []string
	for _, p := range l.from {
		text := p.glob
		if text == "" {
			text = p.net.String()
		}
		if p.not {
			text = "!" + text
		}
		from = append(from, text)
	}
	if from != nil {
		value("from", strings.Join(from, ","))
	}
	if !l.expires.IsZero() {
		value("expiry-time", l.expires.UTC().Format("20060102150405Z"))
	}
	for _, e := range l.env {
		value("environment", e)
	}
	for _, p := range l.permitOpen {
		value("permitopen", p)
	}
	for _, p := range l.permitListen {
		value("permitlisten", p)
	}
	typ := string(l.blob[4 : 4+l.blob[3]])
	return strings.Join(o, ",") + " " + typ + " " + b64(l.blob) + " " + l.comment
}

func FuzzParseAuthorizedKeys(f *testing.F) {
	f.Add([]byte(keysTestKey + " comment\n# text\n\nfrob " + keysTestKey))
	f.Add([]byte(`command="a \"b\\",from="10.0.0.0/8,!10.*",permitopen="[::1]:80",permitlisten="80",environment="A=\"" ` + keysTestKey))
	f.Add([]byte(`cert-authority,principals="a,b",expiry-time="20300101Z",no-touch-required,restrict ` + keysTestKey))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines, err := parseAuthorizedKeys(text)
		if err != nil {
			return
		}
		for _, l := range lines {
			if l.bad != nil {
				if l.blob != nil {
					t.Fatalf("line %d is bad (%v) and has a key", l.num, l.bad)
				}
				continue
			}
			back, err := parseKeyLine(strings.Trim(keysTestText(l), " \t\r\n"))
			if len(keysTestText(l)) > maxKeyLine {
				continue
			}
			back.num, back.expires, l.expires = l.num, back.expires.UTC(), l.expires.UTC()
			if err != nil || !reflect.DeepEqual(back, l) {
				t.Fatalf("%q: %v\n%+v\n%+v", keysTestText(l), err, l, back)
			}
		}
	})
}
