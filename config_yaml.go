package main

// This file reads the part of YAML 1.2 that a configuration file needs: block
// mappings and lists, flow lists and maps, plain and quoted scalars of one line,
// comments, one document. What is accepted means the same to every reader of YAML
// 1.2 by its core schema; all else is an error which says what to write instead.

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A yamlNode is a value of the file.
type yamlNode struct {
	kind   yamlKind
	line   int    // 1 is the first
	text   string // of a scalar, quotes and escapes undone
	quoted bool   // "5" is a text, 5 a number
	list   []yamlNode
	pairs  []yamlPair // of a mapping, as they stand in the file
}

// A yamlPair is an entry of a mapping. No two of one mapping have the same key.
type yamlPair struct {
	key   string
	line  int
	value yamlNode
}

type yamlKind byte

const (
	yamlNull yamlKind = iota // nothing, ~ or null
	yamlScalar
	yamlList
	yamlMap
)

const (
	// maxYAML is the largest file read, in bytes.
	maxYAML = 1 << 20
	// maxYAMLDepth bounds how deep lists and maps nest.
	maxYAMLDepth = 32
	// maxYAMLKey is the longest key, in bytes: readers need not look further for
	// its colon (section 7.4.2, there in characters).
	maxYAMLKey = 1024
)

// A yamlReader stands before lines[row][col:]. Between the nodes of a block it
// stands at the first text of a line, or behind the last line.
type yamlReader struct {
	lines    []string
	row, col int
	depth    int
	errs     []error
}

// parseYAML reads a configuration file; every error names its line, as
// "line 7: text". The node of an empty file is yamlNull.
func parseYAML(b []byte) (yamlNode, []error) {
	if len(b) > maxYAML {
		return yamlNode{}, []error{fmt.Errorf("line 1: a file of %d bytes, at most %d", len(b), maxYAML)}
	}
	text := strings.TrimPrefix(string(b), "\ufeff")
	r := &yamlReader{lines: strings.Split(text, "\n"), row: -1}
	r.checkLines()
	if len(r.errs) > 0 {
		return yamlNode{}, r.errs
	}
	root := yamlNode{line: 1}
	if r.nextLine(); !r.ended() {
		root = r.block(-1)
	}
	return root, r.errs
}

func (r *yamlReader) errorf(format string, args ...any) error {
	return &lineError{min(r.row, len(r.lines)-1) + 1, fmt.Errorf(format, args...)}
}

// A lineError is wrong at a line of its own.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }

// checkLines refuses bytes that YAML has no place for, tabs where blanks belong,
// and what stands about a document. It takes the document's start away.
func (r *yamlReader) checkLines() {
	begun := false
	defer func() { r.row = -1 }()
	for r.row = range r.lines {
		line := strings.TrimSuffix(r.lines[r.row], "\r")
		r.lines[r.row] = line
		if err := r.checkBytes(line); err != nil {
			r.errs = append(r.errs, err)
			continue
		}
		blank := strings.TrimLeft(line, " ")
		if strings.HasPrefix(blank, "\t") {
			r.errs = append(r.errs, r.errorf("a tab in the indentation: write spaces"))
			continue
		}
		if blank == "" || blank[0] == '#' {
			continue
		}
		mark, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimLeft(rest, " ")
		switch {
		case line[0] == '%' && !begun:
			r.errs = append(r.errs, r.errorf("%s", yamlSigns['%']))
			continue
		case mark == "..." || mark == "---" && begun:
			r.errs = append(r.errs, r.errorf("%s: the file holds one document: leave this line out", mark))
		case mark == "---" && rest != "" && rest[0] != '#':
			r.errs = append(r.errs, r.errorf("text behind ---: write it on a line of its own"))
		case mark == "---":
			r.lines[r.row] = ""
		}
		begun = true
	}
}

func (r *yamlReader) checkBytes(line string) error {
	if !utf8.ValidString(line) {
		return r.errorf("bytes that are not UTF-8: save the file as UTF-8")
	}
	for _, c := range line {
		if c < ' ' && c != '\t' || c >= 0x7f && c < 0xa0 || c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffe || c == 0xffff {
			return r.errorf(`the character %U: write it as "\u%04x", in double quotes`, c, c)
		}
	}
	return nil
}

func (r *yamlReader) ended() bool { return r.row >= len(r.lines) }

// rest is what stands before the reader on its line.
func (r *yamlReader) rest() string { return r.lines[r.row][r.col:] }

// nextLine goes to the first text of the next line that has any.
func (r *yamlReader) nextLine() {
	for r.row++; !r.ended(); r.row++ {
		r.col = 0
		r.spaces()
		if !r.atEnd() {
			return
		}
	}
	r.col = -1
}

func (r *yamlReader) spaces() { r.col = len(r.lines[r.row]) - len(strings.TrimLeft(r.rest(), " ")) }

// atEnd reports whether the line has no more text: a comment begins a line or
// stands behind a blank.
func (r *yamlReader) atEnd() bool {
	rest := r.rest()
	return rest == "" || rest[0] == '#' && (r.col == 0 || r.lines[r.row][r.col-1] == ' ')
}

// at reports whether a sign stands here with nothing that would make it the
// beginning of a word. In a flow, its brackets and commas end it too.
func (r *yamlReader) at(sign byte, flow bool) bool {
	rest := r.rest()
	return rest != "" && rest[0] == sign && (len(rest) == 1 || rest[1] == ' ' || rest[1] == '\t' || flow && isFlowSign(rest[1]))
}

func isFlowSign(c byte) bool { return strings.IndexByte(",[]{}", c) >= 0 }

// misplaced is the error about a line that belongs to nothing above it.
func (r *yamlReader) misplaced() error {
	return r.errorf("this line, indented by %d, fits no line above it: entries of one list or mapping stand in one column", r.col)
}

// skip keeps an error and goes behind all that is indented more than parent.
func (r *yamlReader) skip(parent int, err error) {
	r.errs = append(r.errs, err)
	if r.ended() {
		return
	}
	for r.nextLine(); r.col > parent; r.nextLine() {
	}
}

// block reads the node that begins here and belongs to a line indented by parent:
// all of it is indented more.
func (r *yamlReader) block(parent int) (n yamlNode) {
	for r.col > parent {
		row, col := r.row, r.col
		var err error
		if r.at('-', false) {
			n = r.blockList()
			break
		}
		if n, err = r.inline(parent, false); err != nil {
			r.skip(col, err) // and see what else is wrong
			continue
		}
		if r.spaces(); r.row > row || n.kind > yamlScalar || !r.at(':', false) {
			r.endValue(parent, n)
			return n
		}
		r.col = col
		n = r.blockMap()
		break
	}
	if r.col > parent {
		r.skip(parent, r.misplaced())
	}
	return n
}

// deeper enters a list or mapping and returns what leaves it.
func (r *yamlReader) deeper() (leave func(), err error) {
	if r.depth++; r.depth > maxYAMLDepth {
		err = r.errorf("lists and mappings are nested more than %d deep", maxYAMLDepth)
	}
	return func() { r.depth-- }, err
}

// endValue goes on behind a value in the line, which has to end here.
func (r *yamlReader) endValue(parent int, n yamlNode) {
	switch r.spaces(); {
	case r.atEnd():
		if r.nextLine(); r.col > parent {
			r.skip(parent, r.errorf("this line is indented as if the value above went on: a text is written on one line (\\n in double quotes begins another), entries of one mapping in one column"))
		}
	case r.at(':', false) && n.kind > yamlScalar:
		r.skip(parent, r.errorf("a list or mapping as a key: keys are texts"))
	case r.at(':', false):
		r.skip(parent, r.errorf("a colon with a blank behind it, inside a value: write the value in quotes, or a mapping on lines of its own"))
	case r.rest()[0] == '\t':
		r.skip(parent, r.errorf("%s", yamlSigns['\t']))
	default:
		r.skip(parent, r.errorf("%q behind the value: a comment needs a blank before its #, a text with quotes or brackets in it is quoted as a whole", clip(r.rest())))
	}
}

// clip shortens what an error shows.
func clip(s string) string {
	if len(s) > 20 {
		return strings.ToValidUTF8(s[:20], "") + "…"
	}
	return s
}

// blockList reads the entries that begin with a dash in this column.
func (r *yamlReader) blockList() yamlNode {
	n := yamlNode{kind: yamlList, line: r.row + 1}
	leave, err := r.deeper()
	defer leave()
	if err != nil {
		r.skip(r.col-1, err)
		return n
	}
	for col := r.col; r.col == col && r.at('-', false); {
		item := yamlNode{line: r.row + 1}
		r.col++
		if r.spaces(); r.atEnd() {
			r.nextLine()
		}
		if r.col > col {
			item = r.block(col)
		}
		n.list = append(n.list, item)
	}
	return n
}

// blockMap reads the entries whose keys begin in this column.
func (r *yamlReader) blockMap() yamlNode {
	n := yamlNode{kind: yamlMap, line: r.row + 1}
	leave, err := r.deeper()
	defer leave()
	if err != nil {
		r.skip(r.col-1, err)
		return n
	}
	seen := map[string]int{}
	for col := r.col; r.col == col; {
		if r.at('-', false) {
			r.skip(col, r.errorf("an entry of a list among the keys of a mapping"))
			continue
		}
		pair, err := r.key(seen, false)
		if err != nil {
			r.skip(col, err)
			continue
		}
		if r.spaces(); r.atEnd() {
			if r.nextLine(); r.col > col {
				pair.value = r.block(col)
			} else if r.col == col && r.at('-', false) {
				pair.value = r.blockList()
			}
		} else if pair.value, err = r.inline(col, false); err != nil {
			r.skip(col, err)
		} else {
			r.endValue(col, pair.value)
		}
		n.pairs = append(n.pairs, pair)
		if r.col > col {
			r.skip(col, r.misplaced())
		}
	}
	return n
}

// key reads a key and its colon.
func (r *yamlReader) key(seen map[string]int, flow bool) (pair yamlPair, err error) {
	begin := r.col
	merge := strings.HasPrefix(r.rest(), "<<")
	n, err := r.scalar(flow)
	if err != nil {
		return pair, err
	}
	switch r.spaces(); {
	case !r.at(':', false): // in a flow a bracket would do, but not for all readers
		return pair, r.errorf("no key here: an entry of a mapping is written as \"key: value\", with a blank behind the colon")
	case r.col-begin > maxYAMLKey:
		return pair, r.errorf("a key of %d bytes, at most %d", r.col-begin, maxYAMLKey)
	case merge && n.text == "<<":
		return pair, r.errorf("the merge key <<: write out the entries that it brings")
	case seen[n.text] > 0:
		return pair, r.errorf("the key %q stands in line %d already", clip(n.text), seen[n.text])
	}
	if _, ok := n.str(); !ok {
		return pair, r.errorf("the key %s is no text: write %q", n.text, n.text)
	}
	r.col++
	seen[n.text] = r.row + 1
	return yamlPair{key: n.text, line: r.row + 1, value: yamlNode{line: r.row + 1}}, nil
}

// inline reads a value that is written within lines: a scalar, or a flow, whose
// lines are indented more than parent.
func (r *yamlReader) inline(parent int, flow bool) (yamlNode, error) {
	open := r.rest()[0]
	if open != '[' && open != '{' {
		return r.scalar(flow)
	}
	n := yamlNode{kind: yamlList, line: r.row + 1}
	leave, err := r.deeper()
	defer leave()
	if err != nil {
		return n, err
	}
	closed, seen := byte(']'), map[string]int{}
	if open == '{' {
		n.kind, closed = yamlMap, '}'
	}
	unclosed := func() bool { return r.rest()[0] != closed }
	r.col++
	for err = r.flowSpace(parent, n.line); ; {
		if err != nil {
			return n, err
		}
		if !unclosed() {
			r.col++
			return n, nil
		}
		if open == '[' {
			err = r.flowItem(&n, parent)
		} else {
			err = r.flowPair(&n, parent, seen)
		}
		if err == nil {
			err = r.flowSpace(parent, n.line)
		}
		if err == nil && r.rest()[0] == ',' {
			r.col++
			err = r.flowSpace(parent, n.line)
		} else if err == nil && unclosed() {
			err = r.errorf("%q: a comma or %c belongs before it; texts of several lines or with such signs are written in quotes, on one line", clip(r.rest()), closed)
		}
	}
}

// flowSpace goes to the next text inside a flow that began in a line.
func (r *yamlReader) flowSpace(parent, began int) error {
	if r.spaces(); !r.atEnd() {
		return nil
	}
	if r.nextLine(); r.ended() {
		return r.errorf("the bracket of line %d is not closed", began)
	}
	if r.col <= parent {
		return r.errorf("the bracket of line %d is not closed, or its lines are not indented more than the entry that they belong to", began)
	}
	return nil
}

func (r *yamlReader) flowItem(n *yamlNode, parent int) error {
	item, err := r.inline(parent, true)
	if err != nil {
		return err
	}
	n.list = append(n.list, item)
	if r.spaces(); r.rest() != "" && r.rest()[0] == ':' {
		return r.errorf("a key and its value in a list: write {key: value}")
	}
	return nil
}

func (r *yamlReader) flowPair(n *yamlNode, parent int, seen map[string]int) error {
	pair, err := r.key(seen, true)
	if err == nil {
		err = r.flowSpace(parent, n.line)
	}
	if err != nil {
		return err
	}
	if c := r.rest()[0]; c == ',' || c == '}' {
		return r.errorf("the key %q has no value: write one, null if it is nothing", clip(pair.key))
	}
	pair.value, err = r.inline(parent, true)
	n.pairs = append(n.pairs, pair)
	return err
}
