//go:build unix

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// filterTestMake compiles rules as they stand behind "rules:" in one line.
func filterTestMake(t testing.TB, byDefault, rules string) *fileFilter {
	t.Helper()
	f, err := parseFilter("{default_action: " + byDefault + ", rules: " + rules + "}")
	if err != nil {
		t.Fatalf("%s: %v", rules, err)
	}
	return f
}

// TestFilterMatchers: a rule with one matcher, a path, and whether it matches.
func TestFilterMatchers(t *testing.T) {
	for _, c := range []struct {
		matcher, path string
		want          bool
	}{
		{`pattern: "*.exe"`, "/a/b.exe", true},
		{`pattern: "*.exe"`, "/a.exe/b", false},
		{`pattern: "*.exe"`, "/a/b.EXE", false},
		{`pattern: "/a/*"`, "/a/b/c", true},
		{`pattern: "/a/*"`, "/a", false},
		{`pattern: "/a?b"`, "/a/b", true},
		{`pattern: "b"`, "/a/b", true},
		{`pattern: "b"`, "/b/a", false},
		{`pattern: "/b"`, "/a/b", false},
		{`pattern: "/**/b"`, "/b", true},
		{`pattern: "/**/b"`, "/a/c/b", true},
		{`pattern: "/**/b"`, "/a/cb", false},
		{`pattern: "**/b/c"`, "/a/b/c", true},
		{`pattern: "**/b/c"`, "/ab/c", false},
		{`pattern: "/a/**"`, "/a/b/c", true},
		{`pattern: "/a/**"`, "/ab", false},
		{`pattern: "**"`, "/", true},
		{`pattern: "*"`, "/", true},
		{`pattern: "/"`, "/", true},
		{`pattern: "[abc]"`, "/x/b", true},
		{`pattern: "[!abc]"`, "/x/b", false},
		{`pattern: "[a-c]x"`, "/cx", true},
		{`pattern: "[a-c]x"`, "/dx", false},
		{`pattern: "[]x]"`, "/]", true},
		{`pattern: "[!]x]"`, "/]", false},
		{`pattern: "[a-]"`, "/-", true},
		{`pattern: "[*]"`, "/*", true},
		{`pattern: "[*]"`, "/a", false},
		{`pattern: "a[!b]c"`, "/x/a/c", false},
		{`pattern: "*a[!b]c"`, "/x/a/c", true},
		{`pattern: "?"`, "/\xff", true},
		{`pattern: "?"`, "/é", false},
		{`pattern: "é"`, "/é", true},
		{`pattern: "[!a]"`, "/\x80", true},
		{`path_prefix: /a/b`, "/a/b", true},
		{`path_prefix: /a/b/`, "/a/b/c", true},
		{`path_prefix: /a/b`, "/a/bc", false},
		{`path_prefix: //a/./x/../b`, "/a/b/c", true},
		{`path_prefix: /`, "/", true},
		{`extensions: [exe, ".Sh"]`, "/a.EXE", true},
		{`extensions: [exe, ".Sh"]`, "/a.b.sh", true},
		{`extensions: exe`, "/.exe", false},
		{`extensions: [exe]`, "/..exe", true},
		{`extensions: [exe]`, "/a.exe/b", false},
		{`extensions: [exe]`, "/a.exe.", false},
		{`extensions: [exe]`, "/aexe", false},
		{`directory: .git`, "/a/.git/b", true},
		{`directory: .git`, "/.git", true},
		{`directory: .git`, "/a/x.git", false},
		{`directory: .git`, "/", false},
		{`not: {path_prefix: /home}`, "/etc", true},
		{`not: {path_prefix: /home}`, "/home", false},
		{`composite: {type: and, matchers: [{pattern: "*.env"}, {not: {path_prefix: /home}}]}`, "/x/.env", true},
		{`composite: {type: and, matchers: [{pattern: "*.env"}, {not: {path_prefix: /home}}]}`, "/home/.env", false},
		{`composite: {type: or, matchers: [{pattern: "*.key"}, {extensions: [crt]}]}`, "/x.CRT", true},
		{`composite: {type: or, matchers: [{pattern: "*.key"}, {extensions: [crt]}]}`, "/x", false},
		{`composite: {type: not, matcher: {composite: {type: or, matchers: [{directory: a}, {directory: b}]}}}`, "/c", true},
		{`composite: {type: not, matcher: {composite: {type: or, matchers: [{directory: a}, {directory: b}]}}}`, "/c/b", false},
		{`composite: {type: not, matcher: {directory: a, pattern: b}}`, "/a/c", true},
		{`composite: {type: not, matcher: {directory: a, pattern: b}}`, "/a/b", false},
		{`directory: a, pattern: b`, "/a/b", true},
		{`directory: a, pattern: b`, "/c/b", false},
	} {
		f := filterTestMake(t, "allow", "[{"+c.matcher+", action: deny}]")
		for _, f := range []*fileFilter{f, filterTestAgain(t, f)} {
			v := f.judge(filterAsk{op: opStat, seen: c.path, resolved: c.path, size: -1})
			if (v.action == filterDeny) != c.want || c.want && v.rule != "rule 1" || v.bySize {
				t.Errorf("%s on %q: %+v", c.matcher, c.path, v)
			}
		}
	}
}

// filterTestAgain is f as another process has it.
func filterTestAgain(t *testing.T, f *fileFilter) *fileFilter {
	t.Helper()
	again, err := parseFilter(f.text())
	if err != nil || again.text() != f.text() {
		t.Fatalf("%s again: %v", f.text(), err)
	}
	return again
}

// TestFilterVerdict: order, operations, users, default, the two paths.
func TestFilterVerdict(t *testing.T) {
	f := filterTestMake(t, "log", `[
  {name: up, path_prefix: /a, operations: [upload, delete], action: deny},
  {path_prefix: /a/b, users: [eve], action: deny},
  {path_prefix: /a, action: allow}]`)
	for _, c := range []struct {
		op                   filterOp
		user, seen, resolved string
		want                 string
	}{
		{opUpload, "bob", "/a/x", "/a/x", "deny up"},
		{opDelete, "bob", "/a", "/a", "deny up"},
		{opDownload, "bob", "/a/x", "/a/x", "allow rule 3"},
		{opDownload, "eve", "/a/b/x", "/a/b/x", "deny rule 2"},
		{opDownload, "Eve", "/a/b/x", "", "allow rule 3"},
		{opDownload, "eve", "/x", "/x", "log "},
		{opUpload, "bob", "/x", "/a/x", "deny up"},       // a link into what is closed
		{opUpload, "bob", "/a/x", "/x", "deny up"},       // a closed name of what is open
		{opDownload, "bob", "/a/x", "/x", "log "},        // what it leads to is judged stricter
		{opDownload, "bob", "/a/x/", "", "allow rule 3"}, // paths are cleaned all the same
		{opDownload, "bob", "/a/../x", "", "log "},
	} {
		v := f.judge(filterAsk{op: c.op, user: c.user, seen: c.seen, resolved: c.resolved, size: -1})
		if got := fmt.Sprint(v.action, " ", v.rule); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	if v := (*fileFilter)(nil).judge(filterAsk{op: opUpload}); v != (filterVerdict{}) {
		t.Error(v)
	}
}

// TestFilterSizes: both bounds belong to the range, and an unknown size says
// whether it matters.
func TestFilterSizes(t *testing.T) {
	for _, c := range []struct {
		rules string
		size  int64
		want  string
	}{
		{`[{max_size: 10, action: allow}, {path_prefix: /, action: deny}]`, 10, "allow rule 1 false"},
		{`[{max_size: 10, action: allow}, {path_prefix: /, action: deny}]`, 11, "deny rule 2 false"},
		{`[{max_size: 10, action: allow}, {path_prefix: /, action: deny}]`, -1, "deny rule 2 true"},
		{`[{min_size: 10, action: deny}]`, 9, "allow  false"},
		{`[{min_size: 10, action: deny}]`, 10, "deny rule 1 false"},
		{`[{min_size: 10, action: deny}]`, -1, "allow  true"},
		{`[{min_size: 5, max_size: 5, action: deny}]`, 5, "deny rule 1 false"},
		{`[{min_size: 5, max_size: 5, action: deny}]`, 6, "allow  false"},
		{`[{min_size: 5, max_size: 5, action: deny}]`, 4, "allow  false"},
		{`[{not: {max_size: 10}, action: deny}]`, 10, "allow  false"},
		{`[{not: {max_size: 10}, action: deny}]`, 11, "deny rule 1 false"},
		{`[{not: {max_size: 10}, action: deny}]`, -1, "deny rule 1 true"},
		{`[{min_size: 10, pattern: "*.x", action: deny}]`, -1, "allow  false"},                                  // /a is no *.x
		{`[{path_prefix: /, action: deny}, {min_size: 10, action: allow}]`, -1, "deny rule 1 false"},            // decided before
		{`[{min_size: 10, action: deny}, {max_size: 9, action: deny}]`, -1, "allow  true"},                      // every size is denied
		{`[{min_size: 10, action: allow}]`, -1, "allow  false"},                                                 // no size changes it
		{`[{max_size: 9223372036854775807, action: deny}]`, 9223372036854775807, "deny rule 1 false"},           //
		{`[{composite: {type: or, matchers: [{min_size: 7}, {pattern: b}]}, action: log}]`, -1, "allow  true"},  //
		{`[{composite: {type: and, matchers: [{min_size: 0}, {pattern: a}]}, action: log}]`, -1, "allow  true"}, // no size at all: no match
	} {
		v := filterTestMake(t, "allow", c.rules).judge(filterAsk{op: opUpload, seen: "/a", resolved: "/a", size: c.size})
		if got := fmt.Sprint(v.action, " ", v.rule, " ", v.bySize); got != c.want {
			t.Errorf("%s at %d: %s, want %s", c.rules, c.size, got, c.want)
		}
	}
}

// filterWrong are rules that are refused: what follows "rules:", and the error.
var filterWrong = []struct{ name, rules, says string }{
	{"rules a map", `{a: b}`, "a mapping is not a list of rules"},
	{"rule a text", `[deny]`, `"deny" is not a rule`},
	{"rule empty", `[{}]`, "has no matcher"},
	{"no matcher", `[{action: deny}]`, "has no matcher"},
	{"no action", `[{pattern: a}]`, "has no action"},
	{"unknown action", `[{pattern: b, action: forbid}]`, `"forbid" is not one of: allow, deny, log`},
	{"unknown key", `[{patern: a, action: deny}]`, `unknown key "patern"; there are: name, action`},
	{"unknown operation", `[{pattern: a, action: deny, operations: [write]}]`, `"write" is no operation; there are: upload, download`},
	{"no operations", `[{pattern: a, action: deny, operations: []}]`, "operations: an empty list"},
	{"no users", `[{pattern: a, action: deny, users: []}]`, "users: an empty list"},
	{"an empty user", `[{pattern: a, action: deny, users: [""]}]`, `"" is no user`},
	{"no extensions", `[{extensions: [], action: deny}]`, "extensions: an empty list"},
	{"extension with a dot", `[{extensions: [tar.gz], action: deny}]`, `"tar.gz" is no extension`},
	{"extension of a dot", `[{extensions: ["."], action: deny}]`, `"." is no extension`},
	{"relative prefix", `[{path_prefix: home, action: deny}]`, "does not begin with a slash"},
	{"directory with a slash", `[{directory: a/b, action: deny}]`, "not one component"},
	{"directory ..", `[{directory: .., action: deny}]`, `directory "..": it is not one component`},
	{"directory a number", `[{directory: 5, action: deny}]`, "write it in quotes"},
	{"zero byte", `[{directory: "a\0", action: deny}]`, "zero byte"},
	{"size negative", `[{min_size: -1, action: deny}]`, "not a whole number of bytes"},
	{"size with a unit", `[{max_size: 5MB, action: deny}]`, `"5MB" is not a whole number of bytes`},
	{"sizes the wrong way round", `[{min_size: 5, max_size: 4, action: deny}]`, "min_size is more than max_size"},
	{"braces", `[{pattern: "*.{a,b}", action: deny}]`, "type: or"},
	{"backslash", `[{pattern: 'a\*', action: deny}]`, "write [*] for a star"},
	{"backslash in brackets", `[{pattern: '[\]]', action: deny}]`, "a backslash in brackets"},
	{"caret", `[{pattern: "[^a]", action: deny}]`, "write [!"},
	{"open bracket", `[{pattern: "[a", action: deny}]`, "[ without its ]"},
	{"empty brackets", `[{pattern: "[]", action: deny}]`, `pattern "[]": [ without its ]`},
	{"range", `[{pattern: "[z-a]", action: deny}]`, "wrong way round"},
	{"letter in brackets", `[{pattern: "[é]", action: deny}]`, "single bytes"},
	{"stars within a component", `[{pattern: "a**", action: deny}]`, "** is a whole component"},
	{"three stars", `[{pattern: "***", action: deny}]`, `pattern "***": ** is a whole component`},
	{"empty glob", `[{pattern: "", action: deny}]`, "a glob of 0 bytes"},
	{"long glob", `[{pattern: "` + strings.Repeat("a", 1025) + `", action: deny}]`, "a glob of 1025 bytes"},
	{"relative glob", `[{pattern: a/b, action: deny}]`, `pattern "a/b": no path matches`},
	{"glob with a slash at the end", `[{pattern: /a/, action: deny}]`, `pattern "/a/": no path matches`},
	{"glob with two slashes", `[{pattern: "/a//b", action: deny}]`, `pattern "/a//b": no path matches`},
	{"glob with ..", `[{pattern: "/a/../b", action: deny}]`, `pattern "/a/../b": no path matches`},
	{"glob of dots", `[{pattern: "[.].", action: deny}]`, `pattern "[.].": no path matches`},
	{"components and a slash", `[{pattern: "/a/**/", action: deny}]`, `pattern "/a/**/": no path matches`},
	{"not of all", `[{not: {pattern: "*"}, action: deny}]`, "not of what matches every path"},
	{"not of a text", `[{not: a, action: deny}]`, `"a" is not a matcher`},
	{"not of nothing", `[{not: {}, action: deny}]`, "a mapping is not a matcher"},
	{"action within", `[{not: {pattern: a, action: deny}, action: deny}]`, `unknown key "action"; there are: pattern`},
	{"composite a text", `[{composite: or, action: deny}]`, "a composite is"},
	{"composite without type", `[{composite: {matchers: [{pattern: a}]}, action: deny}]`, "rule 1: a composite is"},
	{"composite of another type", `[{composite: {type: xor, matchers: [{pattern: a}]}, action: deny}]`, "a composite is"},
	{"or of none", `[{composite: {type: or, matchers: []}, action: deny}]`, "a composite is"},
	{"or with matcher", `[{composite: {type: or, matcher: {pattern: a}}, action: deny}]`, "a composite is"},
	{"not with a list", `[{composite: {type: not, matchers: [{pattern: a}]}, action: deny}]`, "a composite is"},
	{"matchers a map", `[{composite: {type: or, matchers: {pattern: a}}, action: deny}]`, "not a list of matchers"},
	{"composite with another key", `[{composite: {type: not, matcher: {pattern: a}, x: y}, action: deny}]`, `unknown key "x" of a composite`},
	{"name with a line end", `[{name: "a\nb", pattern: a, action: deny}]`, "is not a name"},
	{"no name", `[{name: "", pattern: a, action: deny}]`, `name: "" is not a name`},
}

// TestFilterWrong: one error each, which names the rule.
func TestFilterWrong(t *testing.T) {
	for _, c := range filterWrong {
		_, err := parseFilter("{rules: " + c.rules + "}")
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for text, says := range map[string]string{
		"": "is not a filter", "[a]": "a list is not a filter", "{x: y}": `unknown key "x"`, "{default_action: maybe}": "not one of", "{": "line 1",
	} {
		if _, err := parseFilter(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestFilterUnreached: what a rule before it makes idle.
func TestFilterUnreached(t *testing.T) {
	for rules, want := range map[string]int{
		`[{pattern: "*", action: deny}, {pattern: a, action: deny}, {pattern: b, action: deny}]`:                           2,
		`[{pattern: a, action: deny}, {path_prefix: /, action: deny}]`:                                                     0,
		`[{path_prefix: /, operations: [upload], action: deny}, {pattern: a, action: deny}]`:                               0,
		`[{path_prefix: /, operations: [upload, stat], action: deny}, {pattern: a, operations: [stat], action: deny}]`:     1,
		`[{pattern: "/**", users: [a], action: deny}, {pattern: a, users: [a], action: deny}]`:                             1,
		`[{pattern: "**/*", users: [a], action: deny}, {pattern: a, users: [a, b], action: deny}]`:                         0,
		`[{composite: {type: or, matchers: [{pattern: a}, {pattern: "/*"}]}, action: deny}, {pattern: a, action: deny}]`:   1,
		`[{composite: {type: and, matchers: [{pattern: a}, {pattern: "*"}]}, action: deny}, {pattern: a, action: deny}]`:   0,
		`[{composite: {type: and, matchers: [{pattern: "**"}, {pattern: "*"}]}, action: log}, {pattern: a, action: deny}]`: 1,
		`[{min_size: 0, action: deny}, {pattern: a, action: deny}]`:                                                        0,
	} {
		if got := filterTestMake(t, "allow", rules).unreached(); len(got) != want {
			t.Errorf("%s: %q", rules, got)
		}
	}
}

// TestFilterHostileGlob: many stars against a long path that nearly matches cost
// no more than their lengths multiplied.
func TestFilterHostileGlob(t *testing.T) {
	for _, pattern := range []string{
		strings.Repeat("*a", 500) + "b", strings.Repeat("?*", 500) + "b", strings.Repeat("**/", 300) + "*b",
		"/" + strings.Repeat("**/a/", 200) + "b", strings.Repeat("*/", 400) + "b", "*" + strings.Repeat("a", 1000) + "b",
		"/**/" + strings.Repeat("*[!b]", 180) + "b",
	} {
		g, err := parseFileGlob(pattern)
		if err != nil {
			t.Fatal(pattern, err)
		}
		for _, path := range []string{strings.Repeat("/a", 2048), "/" + strings.Repeat("a", 4095)} {
			begin := time.Now()
			if g.match(path) {
				t.Errorf("%.20s matches", pattern)
			}
			// 4 million steps are milliseconds, with -race tens of them; what
			// backtracks over stars would not end.
			if d := time.Since(begin); d > 2*time.Second {
				t.Errorf("%.20s: %v", pattern, d)
			}
		}
	}
}

// TestFilterExample: a configuration of the model that this one follows loads,
// and each rule in it that can be reached decides something.
func TestFilterExample(t *testing.T) {
	text, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := configTestSource(t, "")
	key := s.dir + "/host_key"
	if out, err := toolCommand("gen-host-key", "-t", "ed25519", "-o", key).CombinedOutput(); err != nil {
		t.Fatal(string(out), err)
	}
	users := s.dir + "/users.yaml"
	paths := strings.NewReplacer("/etc/files/host_key", key, "/etc/files/users.yaml", users, "/srv/files", s.dir, "/home/demo", s.dir)
	os.WriteFile(users, []byte("users:\n  - {name: other, uid: 5, gid: 5, password_hash: \""+configTestHash+"\"}\n"), 0o600)
	os.WriteFile(s.file, []byte(paths.Replace(string(text))), 0o600)
	l, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		op         filterOp
		user, path string
		want       string
	}{
		{opUpload, "demo", "/data/setup.exe", "deny no-exe"},
		{opStat, "demo", "/tmp/x", "log watch-tmp"},
		{opDownload, "demo", "/tmp/x.exe", "deny no-exe"},
		{opUpload, "demo", "/data/run.PS1", "deny no-scripts"},
		{opListDir, "demo", "/data/p/.git", "deny no-git"},
		{opDownload, "demo", "/data/app.env", "deny env-at-home"},
		{opDownload, "demo", "/home/demo/app.env", "deny only-data"},
		{opDownload, "demo", "/data/id.key", "deny no-secrets"},
		{opDownload, "demo", "/data/ca.CRT", "deny no-secrets"},
		{opDownload, "demo", "/var/x", "deny only-data"},
		{opUpload, "demo", "/data/app.log", "deny keep-logs"},
		{opDelete, "demo", "/data/app.log", "deny keep-logs"},
		{opDownload, "demo", "/data/app.log", "allow "},
		{opDownload, "guest", "/etc/passwd", "deny only-data"}, // the last rule stands behind it
		{opUpload, "demo", "/data/x.txt", "allow "},
	} {
		v := l.filter.judge(filterAsk{op: c.op, user: c.user, seen: c.path, resolved: c.path, size: -1})
		if got := fmt.Sprint(v.action, " ", v.rule); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	if len(l.filter.rules) != 9 || len(l.exporters) != 3 || l.sftpRoot != s.dir || len(l.users) != 2 {
		t.Errorf("%d rules, %d exporters, root %s, %d users", len(l.filter.rules), len(l.exporters), l.sftpRoot, len(l.users))
	}
}
