//go:build unix

package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// This file is a second filter, written from the specification alone and as
// plainly as it can be: globs by recursion, rules as they were written. The fuzz
// target asks both the same.

// An oracleRule is a rule as it would be written, and what it means.
type oracleRule struct {
	text       string
	ops, users []string
	deny, log  bool
	match      func(path string, size int64) bool
}

// oracleGlob tries every way.
func oracleGlob(g, s string, atStart bool) bool {
	switch {
	case g == "":
		return s == ""
	case atStart && g == "**":
		return true
	case atStart && strings.HasPrefix(g, "**/"):
		for i := range len(s) + 1 {
			if (i == 0 || s[i-1] == '/') && oracleGlob(g[3:], s[i:], true) {
				return true
			}
		}
		return false
	case g[0] == '*':
		for i := range len(s) + 1 {
			if oracleGlob(g[1:], s[i:], false) {
				return true
			}
		}
		return false
	case s == "":
		return false
	case g[0] == '?':
		return oracleGlob(g[1:], s[1:], false)
	case strings.HasPrefix(g, "[!ab]"):
		return s[0] != 'a' && s[0] != 'b' && oracleGlob(g[5:], s[1:], false)
	case strings.HasPrefix(g, "[a-b]"):
		return (s[0] == 'a' || s[0] == 'b') && oracleGlob(g[5:], s[1:], false)
	}
	return g[0] == s[0] && oracleGlob(g[1:], s[1:], g[0] == '/')
}

func oracleName(path string) string { return path[strings.LastIndex(path, "/")+1:] }

// An oracleWriter makes rules and paths by choices, which are bytes.
type oracleWriter struct{ yamlWriter }

func (w *oracleWriter) glob() string {
	var parts []string
	for range 1 + w.pick(4) {
		if w.pick(4) == 0 {
			parts = append(parts, "**")
			continue
		}
		s := ""
		for range 1 + w.pick(3) {
			s += w.oneOf("a", "b", "a.b", "?", "[!ab]", "[a-b]", "a*", "\xc3\xa9")
		}
		if w.pick(3) == 0 {
			s = "*" + s
		}
		parts = append(parts, s)
	}
	return w.oneOf("", "/") + strings.Join(parts, "/")
}

func (w *oracleWriter) path() string {
	s := ""
	for range w.pick(6) {
		s += "/" + w.oneOf("a", "b", "ab", "a.b", "a.B", ".a", "c", "\xc3\xa9", "\xff", "aab")
	}
	if s == "" {
		return "/"
	}
	return s
}

// matcher is one matcher and what it means.
func (w *oracleWriter) matcher(depth int) (string, func(string, int64) bool) {
	kind := w.pick(8)
	if depth > 3 {
		kind %= 5
	}
	switch kind {
	case 0:
		g := w.glob()
		return "pattern: " + strconv.Quote(g), func(p string, _ int64) bool {
			return oracleGlob(g, p, true) || p != "/" && oracleGlob(g, oracleName(p), true)
		}
	case 1:
		prefix := w.path()
		return "path_prefix: " + strconv.QuoteToASCII(strings.ToValidUTF8(prefix, "x")) + "", func(p string, _ int64) bool {
			prefix := strings.ToValidUTF8(prefix, "x")
			return prefix == "/" || p == prefix || strings.HasPrefix(p, prefix+"/")
		}
	case 2:
		ext := w.oneOf("a", "b", ".B")
		return "extensions: [c, " + ext + "]", func(p string, _ int64) bool {
			parts := strings.Split(strings.ToLower(oracleName(p)), ".")
			last := parts[len(parts)-1]
			return (len(parts) > 2 || len(parts) == 2 && parts[0] != "") && (last == "c" || last == strings.Trim(strings.ToLower(ext), "."))
		}
	case 3:
		dir := w.oneOf("a", "b", ".a")
		return "directory: " + dir, func(p string, _ int64) bool { return strings.Contains(p+"/", "/"+dir+"/") }
	case 4:
		low := int64(w.pick(5))
		high := low + int64(w.pick(3))
		return fmt.Sprintf("min_size: %d, max_size: %d", low, high), func(_ string, size int64) bool { return size != -1 && low <= size && size <= high }
	case 5:
		text, inner := w.matcher(depth + 1)
		return w.oneOf("not: {"+text+"}", "composite: {type: not, matcher: {"+text+"}}"), func(p string, n int64) bool { return !inner(p, n) }
	}
	a, ma := w.matcher(depth + 1)
	b, mb := w.matcher(depth + 1)
	if kind == 6 {
		return "composite: {type: and, matchers: [{" + a + "}, {" + b + "}]}", func(p string, n int64) bool { return ma(p, n) && mb(p, n) }
	}
	return "composite: {matchers: [{" + a + "}, {" + b + "}], type: or}", func(p string, n int64) bool { return ma(p, n) || mb(p, n) }
}

func (w *oracleWriter) rule() (r oracleRule) {
	matcher, match := w.matcher(0)
	r.text, r.match = "{"+matcher+", action: ", match
	switch w.pick(3) {
	case 0:
		r.text += "allow"
	case 1:
		r.text, r.log = r.text+"log", true
	case 2:
		r.text, r.deny = r.text+"deny", true
	}
	if w.pick(3) == 0 {
		r.ops = []string{w.oneOf("upload", "stat"), "delete"}
		r.text += ", operations: [" + strings.Join(r.ops, ", ") + "]"
	}
	if w.pick(3) == 0 {
		r.users = []string{w.oneOf("ann", "bob")}
		r.text += ", users: " + r.users[0]
	}
	r.text += "}"
	return r
}

// oracleAction is 0 allow, 1 log, 2 deny for one path, and who said so.
func oracleAction(rules []oracleRule, a filterAsk, path string) (int, string) {
	for i, r := range rules {
		if r.ops != nil && r.ops[0] != string(a.op) && r.ops[1] != string(a.op) || r.users != nil && r.users[0] != a.user || !r.match(path, a.size) {
			continue
		}
		name := fmt.Sprint("rule ", i+1)
		switch {
		case r.deny:
			return 2, name
		case r.log:
			return 1, name
		}
		return 0, name
	}
	return 1, "" // default_action: log
}

func FuzzFilter(f *testing.F) {
	for i := range 40 {
		f.Add([]byte(strings.Repeat(string(rune('a'+i))+"\x03\x11\x07\x02\x09", 1+i)))
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		if len(choices) > 400 {
			return
		}
		w := &oracleWriter{yamlWriter{choices: choices}}
		var rules []oracleRule
		var texts []string
		for range 1 + w.pick(4) {
			r := w.rule()
			rules, texts = append(rules, r), append(texts, r.text)
		}
		text := "{default_action: log, rules: [" + strings.Join(texts, ", ") + "]}"
		got, err := parseFilter(text)
		if err != nil {
			// Refused is what can match nothing: then nothing does.
			for i, r := range rules {
				if strings.Contains(err.Error(), fmt.Sprintf("rule %d: pattern", i+1)) && !strings.Contains(r.text, "composite") && !strings.Contains(r.text, "not:") && r.match(w.path(), 0) {
					t.Fatalf("%s: %v", r.text, err)
				}
			}
			return
		}
		if again, err := parseFilter(got.text()); err != nil || again.text() != got.text() {
			t.Fatalf("%s: %v", got.text(), err)
		}
		for range 8 {
			a := filterAsk{op: filterOp(w.oneOf("upload", "delete", "stat", "rename")), user: w.oneOf("ann", "bob", "eve"), seen: w.path(), resolved: w.path(), size: int64(w.pick(9)) - 1}
			want := func(a filterAsk) (int, string) {
				action, rule := oracleAction(rules, a, a.seen)
				if other, by := oracleAction(rules, a, a.resolved); other > action {
					return other, by
				}
				return action, rule
			}
			action, rule := want(a)
			v := got.judge(a)
			if int(v.action) != action || v.rule != rule {
				t.Fatalf("%s on %+v: %+v, want %d by %q", text, a, v, action, rule)
			}
			bySize := false
			for size := range int64(9) {
				b := a
				b.size = size
				other, _ := want(b)
				bySize = bySize || other != action
			}
			if v.bySize != (bySize && a.size == -1) {
				t.Fatalf("%s on %+v: bySize %v", text, a, v.bySize)
			}
		}
	})
}

// FuzzFilterText: any text is a filter that says the same again, or an error.
func FuzzFilterText(f *testing.F) {
	f.Add("{default_action: deny, rules: [{name: a, pattern: \"*.x\", min_size: 0x10, action: log}]}")
	for _, c := range filterWrong {
		f.Add("{rules: " + c.rules + "}")
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseFilter(text)
		if err != nil {
			return
		}
		again, err := parseFilter(got.text())
		if err != nil || again.text() != got.text() || len(again.rules) != len(got.rules) {
			t.Fatalf("%q, then %q: %v", text, got.text(), err)
		}
		got.judge(filterAsk{op: opUpload, user: "a", seen: text, resolved: "/" + text, size: -1})
	})
}
