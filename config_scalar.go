package main

// This file is about the values of a configuration file: how scalars are written,
// what YAML's core schema takes a plain one for, and how values are read and shown.

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// scalar reads a quoted or plain scalar.
func (r *yamlReader) scalar(flow bool) (n yamlNode, err error) {
	n = yamlNode{kind: yamlScalar, line: r.row + 1}
	switch r.rest()[0] {
	case '\'':
		n.quoted = true
		n.text, err = r.single()
	case '"':
		n.quoted = true
		n.text, err = r.double()
	default:
		n.text, err = r.plainText(flow)
		if unsigned := strings.TrimLeft(n.text, "+-"); err == nil && coreType(n.text) == 'i' && len(unsigned) > 1 && unsigned[0] == '0' && unsigned[1] <= '9' {
			err = r.errorf("%s is octal to some readers and decimal to others: write it without the 0, as 0o%s, or in quotes", n.text, unsigned[1:])
		}
		if coreType(n.text) == 'n' {
			n.kind = yamlNull
		}
	}
	return n, err
}

// yamlSigns are the signs that no plain scalar begins with.
var yamlSigns = map[byte]string{
	'&':  "an anchor (&): write the value out where it is used",
	'*':  "an alias (*): write the value out; a text like *.exe in quotes",
	'!':  "a tag (!): leave it out; a text with it in quotes",
	'|':  "a text of several lines (|): write it on one line, in double quotes with \\n",
	'>':  "a text of several lines (>): write it on one line",
	'%':  "a directive (%): leave it out; a text with it in quotes",
	'@':  "@ is reserved: write the text in quotes",
	'`':  "` is reserved: write the text in quotes",
	',':  "a comma with nothing before it",
	']':  "] closes nothing here",
	'}':  "} closes nothing here",
	'[':  "a list as a key: keys are texts",
	'{':  "a mapping as a key: keys are texts",
	'#':  "a comment needs a blank before its #; a text with it is written in quotes",
	'\t': "a tab: write spaces; a text with it in double quotes, as \\t",
}

// plainText reads a plain scalar (section 7.3.3) up to the blanks behind it.
func (r *yamlReader) plainText(flow bool) (string, error) {
	rest := r.rest()
	switch {
	case yamlSigns[rest[0]] != "":
		return "", r.errorf("%s", yamlSigns[rest[0]])
	case r.at('?', flow):
		return "", r.errorf("a key that begins with ?: write \"key: value\"")
	case r.at(':', flow):
		return "", r.errorf("a colon without a key before it")
	case r.at('-', flow):
		return "", r.errorf("an entry of a list begins on a line of its own, and not inside brackets; a text that is a dash is written in quotes")
	}
	begin := r.col
	for ; r.rest() != ""; r.col++ {
		c := r.rest()[0]
		if r.atEnd() || r.at(':', flow) || c == '\t' || flow && isFlowSign(c) {
			break
		}
	}
	text := strings.TrimRight(r.lines[r.row][begin:r.col], " ")
	r.col = begin + len(text)
	return text, nil
}

// single reads a scalar in single quotes: two of them stand for one.
func (r *yamlReader) single() (string, error) {
	var b strings.Builder
	for rest := r.rest()[1:]; ; {
		text, more, ok := strings.Cut(rest, "'")
		if !ok {
			return "", r.unquoted()
		}
		b.WriteString(text)
		if rest, ok = strings.CutPrefix(more, "'"); !ok {
			r.col = len(r.lines[r.row]) - len(more)
			return b.String(), nil
		}
		b.WriteByte('\'')
	}
}

func (r *yamlReader) unquoted() error {
	return r.errorf("the quote is not closed on its line: a text of several lines is written on one, in double quotes with \\n")
}

// yamlEscapes are the escapes of one letter (section 5.7), and what they mean.
var yamlEscapes = map[byte]string{
	'0': "\x00", 'a': "\a", 'b': "\b", 't': "\t", '\t': "\t", 'n': "\n", 'v': "\v", 'f': "\f", 'r': "\r", 'e': "\x1b",
	' ': " ", '"': `"`, '/': "/", '\\': `\`, 'N': "\u0085", '_': "\u00a0", 'L': "\u2028", 'P': "\u2029",
}

// double reads a scalar in double quotes.
func (r *yamlReader) double() (string, error) {
	var b strings.Builder
	for rest := r.rest()[1:]; ; {
		i := strings.IndexAny(rest, `"\`)
		if i < 0 || rest[i:] == `\` {
			return "", r.unquoted()
		}
		b.WriteString(rest[:i])
		if rest[i] == '"' {
			r.col = len(r.lines[r.row]) - len(rest) + i + 1
			return b.String(), nil
		}
		escape := rest[i+1:]
		letter := escape[0]
		rest = escape[1:]
		if text, ok := yamlEscapes[letter]; ok {
			b.WriteString(text)
			continue
		}
		digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[letter]
		if digits == 0 {
			return "", r.errorf(`there is no escape \%s: write a backslash as \\, or the text in single quotes`, string([]rune(escape)[:1]))
		}
		c, err := strconv.ParseUint(rest[:min(digits, len(rest))], 16, 32)
		if err != nil || len(rest) < digits || !utf8.ValidRune(rune(c)) {
			return "", r.errorf(`\%c needs %d hexadecimal digits of a character, surrogates are none`, letter, digits)
		}
		b.WriteRune(rune(c))
		rest = rest[digits:]
	}
}

// coreType is what the core schema (YAML 1.2.2, section 10.3.2) takes a plain
// scalar for: 'n' null, 'b' bool, 'i' int, 'f' float, 's' a string.
func coreType(s string) byte {
	switch s {
	case "", "~", "null", "Null", "NULL":
		return 'n'
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return 'b'
	case ".nan", ".NaN", ".NAN":
		return 'f'
	}
	const digits = "0123456789"
	if n, ok := strings.CutPrefix(s, "0o"); ok && n != "" && strings.Trim(n, digits[:8]) == "" {
		return 'i'
	}
	if n, ok := strings.CutPrefix(s, "0x"); ok && n != "" && strings.Trim(n, digits+"abcdefABCDEF") == "" {
		return 'i'
	}
	if s[0] == '-' || s[0] == '+' {
		s = s[1:]
	}
	if s == ".inf" || s == ".Inf" || s == ".INF" {
		return 'f'
	}
	whole := strings.TrimLeft(s, digits)
	if s != "" && whole == "" {
		return 'i'
	}
	rest, dot := strings.CutPrefix(whole, ".")
	part := rest
	if dot {
		rest = strings.TrimLeft(rest, digits)
	}
	if len(whole) == len(s) && len(part) == len(rest) {
		return 's' // no digit
	}
	if exp := strings.TrimLeft(rest, "eE"); len(exp) == len(rest)-1 {
		if exp != "" && (exp[0] == '-' || exp[0] == '+') {
			exp = exp[1:]
		}
		if exp != "" && strings.Trim(exp, digits) == "" {
			rest = ""
		}
	}
	if rest == "" {
		return 'f'
	}
	return 's'
}

// plain is the text of a plain scalar of a type.
func (n yamlNode) plain(core byte) (string, bool) {
	return n.text, n.kind == yamlScalar && !n.quoted && coreType(n.text) == core
}

func (n yamlNode) bool() (v, ok bool) {
	s, ok := n.plain('b')
	return ok && s[0]|' ' == 't', ok
}

// int fails for what does not fit into 64 bits, too.
func (n yamlNode) int() (v int64, ok bool) {
	s, ok := n.plain('i')
	if !ok {
		return 0, false
	}
	base := 10
	if len(s) > 2 && s[1] == 'o' {
		base, s = 8, s[2:]
	} else if len(s) > 2 && s[1] == 'x' {
		base, s = 16, s[2:]
	}
	v, err := strconv.ParseInt(s, base, 64)
	return v, err == nil
}

// str fails for plain scalars that are a bool, a number or null to other readers:
// those need quotes.
func (n yamlNode) str() (string, bool) {
	if n.quoted {
		return n.text, n.kind == yamlScalar
	}
	return n.plain('s')
}

// String is a value as an error shows it.
func (n yamlNode) String() string {
	switch n.kind {
	case yamlNull:
		return "nothing"
	case yamlList:
		return "a list"
	case yamlMap:
		return "a mapping"
	}
	if len(n.text) > 60 {
		return strconv.Quote(n.text[:60] + "…")
	}
	return strconv.Quote(n.text)
}

func textOf(n yamlNode) (string, error) {
	if s, ok := n.str(); ok {
		return s, nil
	}
	if n.kind == yamlScalar || n.kind == yamlNull {
		return "", fmt.Errorf("%s is not a text: write it in quotes", n)
	}
	return "", fmt.Errorf("%s is not a text", n)
}

// textsOf is a list of texts, or one text alone. An empty list is nil.
func textsOf(n yamlNode, check func(string) error) (list []string, err error) {
	items := n.list
	switch n.kind {
	case yamlNull:
		return nil, nil
	case yamlScalar:
		items = []yamlNode{n}
	case yamlMap:
		return nil, fmt.Errorf("%s is not a list", n)
	}
	var errs []error
	for _, item := range items {
		s, err := textOf(item)
		if err == nil && check != nil {
			err = check(s)
		}
		if err == nil && slices.Contains(list, s) {
			err = fmt.Errorf("%q stands there twice", s)
		}
		if err != nil {
			errs = append(errs, atLine(item.line, err))
		}
		list = append(list, s)
	}
	return list, errors.Join(errs...)
}

// yamlQuote is s as a double-quoted scalar.
func yamlQuote(s string) string { return strconv.Quote(s) }

func yamlFlow(list []string) string {
	var quoted []string
	for _, s := range list {
		quoted = append(quoted, yamlQuote(s))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// flow is n in one line, which parseYAML reads as the same.
func (n yamlNode) flow() string {
	var parts []string
	switch n.kind {
	case yamlNull:
		return "null"
	case yamlList:
		for _, item := range n.list {
			parts = append(parts, item.flow())
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case yamlMap:
		for _, p := range n.pairs {
			parts = append(parts, yamlQuote(p.key)+": "+p.value.flow())
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	if !n.quoted && coreType(n.text) != 's' {
		return n.text
	}
	return yamlQuote(n.text)
}

// atLine is err at a line of the file.
func atLine(line int, err error) error {
	if err == nil || line == 0 {
		return err
	}
	return &lineError{line, err}
}
