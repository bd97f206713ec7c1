package main

// This file compiles the rules of the file filter from YAML, and refuses rules
// that could never match: who writes one means something else.

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
)

const (
	// maxFilterRules bounds what each operation on a file may cost.
	maxFilterRules = 1000
	// maxRuleName is in bytes: names are shown to clients and recorded.
	maxRuleName = 100
)

// text is f as the value of filter: in a file, for parseFilter.
func (f *fileFilter) text() string {
	return "{default_action: " + f.byDefault.String() + ", rules: " + cmp.Or(f.written, "[]") + "}"
}

// parseFilter compiles what text wrote.
func parseFilter(text string) (*fileFilter, error) {
	f := new(fileFilter)
	n, errs := parseYAML([]byte(text))
	for _, p := range n.pairs {
		switch p.key {
		case "default_action":
			errs = append(errs, f.setDefault(p.value))
		case "rules":
			errs = append(errs, f.setRules(p.value))
		default:
			errs = append(errs, fmt.Errorf("unknown key %q", p.key))
		}
	}
	if n.kind != yamlMap {
		errs = append(errs, fmt.Errorf("%s is not a filter", n))
	}
	return f, errors.Join(errs...)
}

func (f *fileFilter) setDefault(n yamlNode) (err error) {
	f.byDefault, err = filterActionOf(n)
	return err
}

func filterActionOf(n yamlNode) (filterAction, error) {
	i := slices.Index(filterActions, n.text)
	if i < 0 || n.kind != yamlScalar {
		return filterDeny, fmt.Errorf("%s is not one of: allow, deny, log", n)
	}
	return filterAction(i), nil
}

func (f *fileFilter) setRules(n yamlNode) error {
	if n.kind != yamlList && n.kind != yamlNull {
		return fmt.Errorf("%s is not a list of rules", n)
	}
	r := filterReader{sizes: []int64{0}}
	f.rules = nil
	for i, item := range n.list {
		f.rules = append(f.rules, r.rule(item, i+1))
	}
	r.where = ""
	if len(f.rules) > maxFilterRules {
		r.fail(n.line, "%d rules, at most %d", len(f.rules), maxFilterRules)
	}
	f.sizes, f.written = nil, ""
	if len(r.sizes) > 1 {
		slices.Sort(r.sizes)
		f.sizes = slices.Compact(r.sizes)
	}
	if len(f.rules) > 0 {
		f.written = n.flow()
	}
	if _, wrong := parseYAML([]byte(f.text())); wrong != nil { // a long list of short texts, in quotes
		r.fail(n.line, "the rules written out in one line: %w", errors.Join(wrong...))
	}
	return errors.Join(r.errs...)
}

// A filterReader compiles rules and gathers what is wrong with them.
type filterReader struct {
	where string // the rule that is read
	sizes []int64
	errs  []error
}

func (r *filterReader) fail(line int, format string, args ...any) {
	r.errs = append(r.errs, atLine(line, fmt.Errorf("%s%w", r.where, fmt.Errorf(format, args...))))
}

// rule compiles the rule at a place in the list, 1 the first.
func (r *filterReader) rule(n yamlNode, at int) filterRule {
	rule := filterRule{name: fmt.Sprintf("rule %d", at), line: n.line, action: filterDeny, written: n.flow()}
	r.where = rule.name + ": "
	for _, p := range n.pairs {
		if s, ok := p.value.str(); ok && p.key == "name" {
			r.where = "rule " + yamlNode{kind: yamlScalar, text: s}.String() + ": "
		}
	}
	acts := false
	var matchers []yamlPair
	for _, p := range n.pairs {
		var err error
		switch p.key {
		case "name":
			if rule.name, err = textOf(p.value); err == nil && (rule.name == "" || len(rule.name) > maxRuleName || rule.name != printable(rule.name)) {
				err = fmt.Errorf("%s is not a name: 1 to %d bytes, all of them printable", p.value, maxRuleName)
			}
		case "action":
			acts = true
			rule.action, err = filterActionOf(p.value)
		case "operations":
			for _, op := range r.texts(p, "%q is no operation; there are: "+strings.Join(filterOps, ", "), func(s string) bool { return slices.Contains(filterOps, s) }) {
				rule.ops = append(rule.ops, filterOp(op))
			}
		case "users":
			rule.users = r.texts(p, "%q is no user", func(s string) bool { return s != "" })
		default:
			matchers = append(matchers, p)
		}
		if err != nil {
			r.fail(p.line, "%s: %w", p.key, err)
		}
	}
	switch rule.test = r.all(matchers, n.line, "name, action, operations, users"); {
	case n.kind != yamlMap:
		r.fail(n.line, "%s is not a rule: {name: …, pattern: …, action: …}", n)
	case len(matchers) == 0:
		r.fail(n.line, "it has no matcher: %s (path_prefix: / matches all)", filterMatchers)
	case !acts:
		r.fail(n.line, "it has no action: allow, deny or log")
	}
	return rule
}

// texts are those of a list that is not empty.
func (r *filterReader) texts(p yamlPair, wrong string, right func(string) bool) []string {
	list, err := textsOf(p.value, func(s string) error {
		if !right(s) {
			return fmt.Errorf(wrong, s)
		}
		return nil
	})
	if all, ok := err.(interface{ Unwrap() []error }); ok { // a line for each
		for _, err := range all.Unwrap() {
			r.fail(p.line, "%s: %w", p.key, err)
		}
	} else if err != nil {
		r.fail(p.line, "%s: %w", p.key, err)
	} else if len(list) == 0 {
		r.fail(p.line, "%s: an empty list: nothing would match; leave the key out where it shall not matter", p.key)
	}
	return list
}

const filterMatchers = "pattern, path_prefix, extensions, directory, min_size, max_size, composite, not"

// all compiles matchers that all have to match; others are keys that may stand
// beside them.
func (r *filterReader) all(pairs []yamlPair, line int, others string) filterTest {
	var tests []filterTest
	least, most := int64(0), int64(math.MaxInt64)
	for _, p := range pairs {
		switch p.key {
		case "min_size":
			least = r.size(p)
			r.sizes = append(r.sizes, least)
			tests = append(tests, filterTest{match: func(t filterTarget) bool { return t.size >= least }})
		case "max_size":
			most = r.size(p)
			if most < math.MaxInt64 {
				r.sizes = append(r.sizes, most+1)
			}
			tests = append(tests, filterTest{match: func(t filterTarget) bool { return t.size >= 0 && t.size <= most }})
		default:
			tests = append(tests, r.one(p, others))
		}
	}
	if least > most {
		r.fail(line, "min_size is more than max_size: nothing would match")
	}
	return allOf(tests)
}

// allOf matches what every test does, and nothing when there are none.
func allOf(tests []filterTest) filterTest {
	if len(tests) == 1 {
		return tests[0]
	}
	misses := func(t filterTarget) func(filterTest) bool { return func(x filterTest) bool { return !x.match(t) } }
	return filterTest{
		match:  func(t filterTarget) bool { return len(tests) > 0 && !slices.ContainsFunc(tests, misses(t)) },
		always: len(tests) > 0 && !slices.ContainsFunc(tests, func(x filterTest) bool { return !x.always }),
	}
}

func (r *filterReader) size(p yamlPair) int64 {
	v, ok := p.value.int()
	if !ok || v < 0 {
		r.fail(p.line, "%s: %s is not a whole number of bytes", p.key, p.value)
	}
	return v
}

// one compiles any matcher that is not about the size.
func (r *filterReader) one(p yamlPair, others string) filterTest {
	s, err := "", error(nil)
	if p.key == "pattern" || p.key == "path_prefix" || p.key == "directory" {
		if s, err = textOf(p.value); err == nil && strings.ContainsRune(s, 0) {
			err = errors.New("a zero byte, which no path has")
		}
	}
	switch p.key {
	case "pattern":
		var g fileGlob
		if err == nil {
			g, err = parseFileGlob(s)
		}
		if err != nil {
			break
		}
		return filterTest{func(t filterTarget) bool { return g.match(t.path) || t.name != "" && g.match(t.name) }, g.always()}
	case "path_prefix":
		if err == nil && !path.IsAbs(s) {
			err = errors.New("it does not begin with a slash, as every path does")
		}
		if err != nil {
			break
		}
		s = strings.TrimSuffix(path.Clean(s), "/")
		return filterTest{func(t filterTarget) bool {
			rest, ok := strings.CutPrefix(t.path, s)
			return ok && (rest == "" || rest[0] == '/')
		}, s == ""}
	case "extensions":
		list := r.texts(p, "%q is no extension: what follows the last dot of a name, which a pattern as *.tar.gz goes beyond", func(s string) bool {
			s = strings.TrimPrefix(s, ".")
			return s != "" && !strings.ContainsAny(s, "./\x00")
		})
		return filterTest{match: func(t filterTarget) bool {
			dot := strings.LastIndexByte(t.name, '.')
			return dot > 0 && slices.ContainsFunc(list, func(s string) bool {
				return strings.EqualFold(t.name[dot+1:], strings.TrimPrefix(s, "."))
			})
		}}
	case "directory":
		if err == nil && (strings.Contains(s, "/") || s == "" || s == "." || s == "..") {
			err = errors.New("it is not one component of a path: write path_prefix for a path")
		}
		if err != nil {
			break
		}
		return filterTest{match: func(t filterTarget) bool {
			for name := range strings.SplitSeq(t.path[1:], "/") {
				if name == s {
					return true
				}
			}
			return false
		}}
	case "not":
		return r.not(r.nested(p.value, p.line), p.line)
	case "composite":
		return r.composite(p)
	default:
		r.fail(p.line, "unknown key %q; there are: %s", p.key, strings.Trim(others+", "+filterMatchers, ", "))
	}
	if err != nil {
		r.fail(p.line, "%s %s: %w", p.key, p.value, err)
	}
	return filterTest{match: func(filterTarget) bool { return false }}
}

// nested compiles a matcher within another.
func (r *filterReader) nested(n yamlNode, line int) filterTest {
	if n.kind != yamlMap || len(n.pairs) == 0 {
		r.fail(cmp.Or(n.line, line), "%s is not a matcher: %s", n, filterMatchers)
	}
	return r.all(n.pairs, n.line, "")
}

func (r *filterReader) not(t filterTest, line int) filterTest {
	if t.always {
		r.fail(line, "not of what matches every path: nothing would match")
	}
	return filterTest{match: func(to filterTarget) bool { return !t.match(to) }}
}

// composite compiles {type: and|or, matchers: […]} and {type: not, matcher: …}.
func (r *filterReader) composite(p yamlPair) filterTest {
	var kind string
	var tests []filterTest
	before, matcher, matchers := len(r.errs), 0, 0
	for _, part := range p.value.pairs {
		switch part.key {
		case "type":
			kind, _ = part.value.str()
		case "matcher":
			matcher++
			tests = append(tests, r.nested(part.value, part.line))
		case "matchers":
			matchers++
			if part.value.kind != yamlList {
				r.fail(part.line, "matchers: %s is not a list of matchers", part.value)
			}
			for _, item := range part.value.list {
				tests = append(tests, r.nested(item, part.line))
			}
		default:
			r.fail(part.line, "unknown key %q of a composite; there are: type, matchers, matcher", part.key)
		}
	}
	switch {
	case (kind == "and" || kind == "or") && matcher == 0 && len(tests) > 0:
	case kind == "not" && matchers == 0 && len(tests) == 1:
		return r.not(tests[0], p.line)
	case len(r.errs) == before:
		r.fail(p.line, "a composite is {type: and, matchers: [one or more]}, {type: or, matchers: [one or more]} or {type: not, matcher: one}")
	}
	if kind != "or" {
		return allOf(tests)
	}
	return filterTest{
		match: func(t filterTarget) bool {
			return slices.ContainsFunc(tests, func(x filterTest) bool { return x.match(t) })
		},
		always: slices.ContainsFunc(tests, func(x filterTest) bool { return x.always }),
	}
}
