package main

import (
	"fmt"
	"strings"
	"testing"
)

// What is no part of the subset is refused by name, at its line.
func TestYAMLWrong(t *testing.T) {
	deep := strings.Repeat("[", maxYAMLDepth+1)
	for _, c := range []struct {
		text string
		line int
		want string
	}{
		// what full YAML has besides
		{"a: &x b", 1, "an anchor (&)"},
		{"a: 1\n&x b: c", 2, "an anchor (&)"},
		{"a:\n  - *x", 2, "an alias (*)"},
		{"a: [*.exe]", 1, "a text like *.exe in quotes"},
		{"*a : b", 1, "an alias (*)"},
		{"a: !!str b", 1, "a tag (!)"},
		{"!t\na: b", 1, "a tag (!)"},
		{"a: |\n  b\n  c\n", 1, "several lines (|)"},
		{"- |-\n  b", 1, "several lines (|)"},
		{"a: >\n  b", 1, "several lines (>)"},
		{"a: 1\n<<: b", 2, "the merge key <<"},
		{"a: {<<: b}", 1, "the merge key <<"},
		{"%YAML 1.2\n---\na: b", 1, "a directive (%)"},
		{"? a\n: b", 1, "begins with ?"},
		{"a: {? b : c}", 1, "begins with ?"},
		{"[a]: b", 1, "a list or mapping as a key"},
		{"{a: b}: c", 1, "a list or mapping as a key"},
		{"a: 1\n[b]: c", 2, "a list as a key"},
		{"a: {[b]: c}", 1, "a list as a key"},
		{"a: {{b: c}: d}", 1, "a mapping as a key"},
		{"a: b\n---\nc: d", 2, "one document"},
		{"---\n---\n", 2, "one document"},
		{"a: b\n...\n", 2, "one document"},
		{"--- a: b", 1, "text behind ---"},
		// texts over several lines
		{"a: b\n  c", 2, "a text is written on one line"},
		{"a:\n  b\n  c", 3, "a text is written on one line"},
		{"a: 'b\n  c'", 1, "quote is not closed on its line"},
		{"a: \"b\n  c\"", 1, "quote is not closed on its line"},
		{"a: \"b\\\n  c\"", 1, "quote is not closed on its line"},
		{"a: [b\n  c]", 2, `"c]": a comma or ]`},
		{"a: [b c, 'd]", 1, "quote is not closed"},
		// tabs and bytes
		{"a:\n\tb: c", 2, "a tab in the indentation"},
		{"a:\n  \t- b", 2, "a tab in the indentation"},
		{"a:\tb", 1, "a tab: write spaces"},
		{"a: b\tc", 1, "a tab: write spaces"},
		{"a: b\t# c", 1, "a tab: write spaces"},
		{"-\tb", 1, "a tab: write spaces"},
		{"a: [b,\tc]", 1, "a tab: write spaces"},
		{"a: b\nc: \x00", 2, "the character U+0000"},
		{"a: '\x1b'", 1, "the character U+001B"},
		{"a: \x7f", 1, "the character U+007F"},
		{"a: \u0085", 1, "the character U+0085"},
		{"# \u2028", 1, "the character U+2028"},
		{"a: \ufeffb", 1, "the character U+FEFF"},
		{"a: \uffff", 1, "the character U+FFFF"},
		{"a: b\rc: d", 1, "the character U+000D"},
		{"a: b\nc: \xff", 2, "not UTF-8"},
		{"\xff\xfea\x00", 1, "not UTF-8"},
		// escapes
		{`a: "\q"`, 1, `no escape \q`},
		{`a: "\é"`, 1, `no escape \é`},
		{`a: "C:\Users"`, 1, `\U needs 8 hexadecimal digits`},
		{`a: "\x4"`, 1, `\x needs 2`},
		{`a: "\u12G4"`, 1, `\u needs 4`},
		{`a: "\u+123"`, 1, `\u needs 4`},
		{`a: "\ud83d\ude00"`, 1, "surrogates are none"},
		{`a: "\U00110000"`, 1, `\U needs 8`},
		// columns
		{"a: b\n  c: d", 2, "entries of one mapping in one column"},
		{"a:\n  b: c\n d: e", 3, "indented by 1, fits no line above"},
		{"a:\n    b: c\n  d: e\nf: g", 3, "indented by 2, fits no line above"},
		{"a:\n  - b\n - c", 3, "indented by 1, fits no line above"},
		{"- a\nb: c", 2, "indented by 0, fits no line above"},
		{"a: b\n- c", 2, "an entry of a list among the keys"},
		{"  a: b\nc: d", 2, "indented by 0, fits no line above"},
		{"a: []\n  b", 2, "as if the value above went on"},
		// keys
		{"a: b\nc", 2, "no key here"},
		{"a: 1\nb:2", 2, "with a blank behind the colon"},
		{"a: {\"b\":1}", 1, "with a blank behind the colon"},
		{"a: {b}", 1, "no key here"},
		{"a: {b: c, d}", 1, "no key here"},
		{"a: {b: }", 1, `the key "b" has no value`},
		{"a: {b: , c: d}", 1, `the key "b" has no value`},
		{"a: {b:}", 1, "with a blank behind the colon"},
		{"a: {b:[c]}", 1, "with a blank behind the colon"},
		{": a", 1, "a colon without a key"},
		{"a: 1\nb: 2\n'a': 3", 3, `the key "a" stands in line 1 already`},
		{"a: {b: 1,\n  b: 2}", 2, `the key "b" stands in line 1 already`},
		{"5: a", 1, `the key 5 is no text: write "5"`},
		{"true: a", 1, `the key true is no text`},
		{"a: {~: b}", 1, `the key ~ is no text`},
		{"1.5: a", 1, `the key 1.5 is no text`},
		{strings.Repeat("k", maxYAMLKey+1) + ": a", 1, "a key of 1025 bytes"},
		// values
		{"a: b: c", 1, "inside a value"},
		{"a: b:", 1, "inside a value"},
		{"a: 'b': c", 1, "inside a value"},
		{"a: - b", 1, "an entry of a list begins on a line of its own"},
		{"a: 007", 1, "octal to some readers"},
		{"a: [-08]", 1, "octal to some readers"},
		{"a: @b", 1, "@ is reserved"},
		{"a: `b`", 1, "` is reserved"},
		{"a: 'b'c", 1, `"c" behind the value`},
		{"a: \"b\"# c", 1, "a comment needs a blank"},
		{"a: [b]c", 1, `"c" behind the value`},
		{"a: ]", 1, "] closes nothing"},
		{"a: }", 1, "} closes nothing"},
		{"a: , b", 1, "a comma with nothing before it"},
		// brackets
		{"a: [b", 1, "bracket of line 1 is not closed"},
		{"a: 1\nb: [\n  c,\n", 4, "bracket of line 2 is not closed"},
		{"a: [\n  b\n]", 3, "or its lines are not indented more"},
		{"a: {b: c", 1, "bracket of line 1 is not closed"},
		{"a: [b}", 1, "a comma or ] belongs before it"},
		{"a: {b: c]", 1, "a comma or } belongs before it"},
		{"a: [,]", 1, "a comma with nothing before it"},
		{"a: [b,,c]", 1, "a comma with nothing before it"},
		{"a: [b: c]", 1, "write {key: value}"},
		{"a: ['b':c]", 1, "write {key: value}"},
		{"a: [- b]", 1, "not inside brackets"},
		{"a: [#b]", 1, "a comment needs a blank"},
		{"a: ['b'#c\n ]", 1, "a comma or ]"},
		{"a: {'b' 'c'}", 1, "no key here"},
		// sizes
		{"a: 1\nb: " + deep, 2, "more than 32 deep"},
		{strings.Repeat("- ", maxYAMLDepth+1) + "a", 1, "more than 32 deep"},
		{strings.Repeat("\n", maxYAML+1), 1, "at most 1048576"},
	} {
		_, errs := parseYAML([]byte(c.text))
		begin := fmt.Sprintf("line %d: ", c.line)
		if len(errs) == 0 || !strings.HasPrefix(errs[0].Error(), begin) || !strings.Contains(errs[0].Error(), c.want) {
			t.Errorf("%.60q: %v, want %s…%s…", c.text, errs, begin, c.want)
		}
	}
}

// One look finds all that is wrong, and nothing else.
func TestYAMLAllErrors(t *testing.T) {
	n, errs := parseYAML([]byte("&x a: 1\nb: |\n  text\n  more: text\nc:\n  d: 1\n   e: 2\n  f: *g\nh:\n  - i\n  - [j\n  - k: !l m\nb: 2\nn: 3\n"))
	var lines []string
	for _, err := range errs {
		line, _, _ := strings.Cut(err.Error(), ":")
		lines = append(lines, line)
	}
	if got, want := strings.Join(lines, ", "), "line 1, line 2, line 7, line 8, line 12, line 13"; got != want {
		t.Errorf("errors at %s, want %s: %v", got, want, errs)
	}
	if len(n.pairs) == 0 || n.pairs[len(n.pairs)-1].key != "n" {
		t.Errorf("the rest was not read: %s", yamlShape(n))
	}
}
