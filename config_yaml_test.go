package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// yamlShape writes a node: texts in quotes, other scalars bare.
func yamlShape(n yamlNode) string {
	var parts []string
	switch n.kind {
	case yamlNull:
		return "null"
	case yamlList:
		for _, item := range n.list {
			parts = append(parts, yamlShape(item))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case yamlMap:
		for _, pair := range n.pairs {
			parts = append(parts, strconv.Quote(pair.key)+": "+yamlShape(pair.value))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	if s, ok := n.str(); ok {
		return strconv.Quote(s)
	}
	return n.text
}

var yamlRight = []struct{ text, shape string }{
	{"", "null"},
	{"\ufeff# a comment\n\n---  # the start\n", "null"},
	{"a: 1\nb: x y\n", `{"a": 1, "b": "x y"}`},
	{"a: 1\r\nb:\r\n  - c\r\n", `{"a": 1, "b": ["c"]}`},
	{"---\na:\n", `{"a": null}`},
	{"a:   # c\n\n  # d\n  b: c # e\n\nd: ~", `{"a": {"b": "c"}, "d": null}`},
	{"a:\n- 1\n- 2\nb: 3", `{"a": [1, 2], "b": 3}`},
	{"- a:\n  - x\n  - y\n  b: z\n-   c: d\n    e: f\n-\n  g\n-\n- - 1\n  - - 2\n", `[{"a": ["x", "y"], "b": "z"}, {"c": "d", "e": "f"}, "g", null, [1, [2]]]`},
	{"a: [x, 'y, z', \"w\", [], {}, -1, :b, ::1, a#b, http://c:1/d,]", `{"a": ["x", "y, z", "w", [], {}, -1, ":b", "::1", "a#b", "http://c:1/d"]}`},
	{"a: [ # c\n  x,\n\n  y # d\n  , z\n ]\nb: {c: d,\n  'e' : [f]\n  , g:\n   h }", `{"a": ["x", "y", "z"], "b": {"c": "d", "e": ["f"], "g": "h"}}`},
	{"- {a: b}\n- {a: {b: [c]}, d: null}", `[{"a": "b"}, {"a": {"b": ["c"]}, "d": null}]`},
	{"a: 'it''s'\n'b c': \"\"\n\"d\" : ''\n", `{"a": "it's", "b c": "", "d": ""}`},
	{`a: "\0\a\b\t\n\v\f\r\e\ \"\/\\\N\_\L\P\x41\u00e9\U0001f600"`, `{"a": "\x00\a\b\t\n\v\f\r\x1b \"/\\\u0085\u00a0\u2028\u2029Aé😀"}`},
	{"a: \"x\ty\" #\tc\nb: 'x\ty'", `{"a": "x\ty", "b": "x\ty"}`},
	{"a: b:c\nd: e #f\ng: h#i\nj: -k\nl: ?m\nn: :o\np : q\nr: s]t,{u}", `{"a": "b:c", "d": "e", "g": "h#i", "j": "-k", "l": "?m", "n": ":o", "p": "q", "r": "s]t,{u}"}`},
	{"a: true\nb: True\nc: FALSE\nd: yes\ne: tRue\nf: \"true\"", `{"a": true, "b": True, "c": FALSE, "d": "yes", "e": "tRue", "f": "true"}`},
	{"[0, -0, +7, 0o17, 0x1F, 1_0, 0b1, 1:30, 0x, 0o8, -0x1, '5', 2001-01-01]", `[0, -0, +7, 0o17, 0x1F, "1_0", "0b1", "1:30", "0x", "0o8", "-0x1", "5", "2001-01-01"]`},
	{"[1.5, -.5, 5., 1e3, 1E-3, .inf, -.INF, .NaN, ., 1.2.3, 1e, e1, .e1, 1ee1, +]", `[1.5, -.5, 5., 1e3, 1E-3, .inf, -.INF, .NaN, ".", "1.2.3", "1e", "e1", ".e1", "1ee1", "+"]`},
	{"[null, Null, NULL, ~, nULL, 'null', nothing]", `[null, null, null, null, "nULL", "null", "nothing"]`},
	{"text", `"text"`},
	{"  a: b\n  c: d", `{"a": "b", "c": "d"}`},
	{"'---': a\nb: --- c\n", `{"---": "a", "b": "--- c"}`},
	{"a: é日本\n", `{"a": "é日本"}`},
}

func TestYAMLRight(t *testing.T) {
	for _, c := range yamlRight {
		n, errs := parseYAML([]byte(c.text))
		if got := yamlShape(n); len(errs) > 0 || got != c.shape {
			t.Errorf("%q\n got %s, %v\nwant %s", c.text, got, errs, c.shape)
		}
	}
}

func TestYAMLLines(t *testing.T) {
	n, errs := parseYAML([]byte("# c\na: 1\n\nb:\n  - x\n  -\n  - {c: d,\n     e: f}\ng:\n"))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var lines []int
	var walk func(n yamlNode)
	walk = func(n yamlNode) {
		lines = append(lines, n.line)
		for _, item := range n.list {
			walk(item)
		}
		for _, pair := range n.pairs {
			lines = append(lines, -pair.line)
			walk(pair.value)
		}
	}
	walk(n)
	if got, want := fmt.Sprint(lines), "[2 -2 2 -4 5 5 6 7 -7 7 -8 8 -9 9]"; got != want {
		t.Errorf("lines %s, want %s", got, want)
	}
}

func TestYAMLNumbers(t *testing.T) {
	n, errs := parseYAML([]byte("a: 9223372036854775807\nb: 9223372036854775808\nc: 0x7fffffffffffffff\nd: -9223372036854775808\n"))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for i, want := range []int64{1<<63 - 1, 0, 1<<63 - 1, -1 << 63} {
		if got, ok := n.pairs[i].value.int(); ok != (want != 0) || ok && got != want {
			t.Errorf("%s is %d, %v", n.pairs[i].value.text, got, ok)
		}
	}
}
