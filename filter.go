package main

// This file is the file filter: rules, compiled when the configuration is
// loaded, that say of an operation on a path whether it is allowed. It reads no
// file and knows no clock. filter_read.go compiles, filter_glob.go matches globs.

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// A filterOp is what rules can be limited to.
type filterOp string

const (
	opUpload    filterOp = "upload"
	opDownload  filterOp = "download"
	opDelete    filterOp = "delete"
	opRename    filterOp = "rename"
	opCreateDir filterOp = "createdir"
	opListDir   filterOp = "listdir"
	opStat      filterOp = "stat"
	opSetstat   filterOp = "setstat"
	opSymlink   filterOp = "symlink"
	opReadlink  filterOp = "readlink"
)

// filterOps are all of them.
var filterOps = []string{"upload", "download", "delete", "rename", "createdir", "listdir", "stat", "setstat", "symlink", "readlink"}

// A filterAction is a verdict, the stricter the greater.
type filterAction byte

const (
	filterAllow filterAction = iota
	filterLog                // allow, and leave a record
	filterDeny
)

var filterActions = []string{"allow", "log", "deny"}

func (a filterAction) String() string { return filterActions[a] }

// A filterAsk is what is to be judged: one path, as the client sees it and as
// it resolved on disk, both absolute, both bytes. An operation on two names is
// two asks.
type filterAsk struct {
	op             filterOp
	user           string
	seen, resolved string
	size           int64 // of the file, in bytes; -1 where it is not known yet
}

// A filterVerdict is what holds for an ask.
type filterVerdict struct {
	action filterAction
	rule   string // its name, or "rule N"; "" where default_action decided
	bySize bool   // with another size the action may be another
}

// A fileFilter is compiled rules. Nil allows all.
type fileFilter struct {
	byDefault filterAction
	rules     []filterRule
	// sizes are 0 and every size in bytes at which a matcher begins or ceases to
	// match: between two of them no verdict changes.
	sizes   []int64
	written string // the rules, as flow YAML
}

// A filterRule is one compiled rule.
type filterRule struct {
	name, written string
	line          int // of the file that it stands in
	action        filterAction
	ops           []filterOp // nil any
	users         []string   // nil any
	test          filterTest
}

// A filterTest is a matcher, or several that all have to match.
type filterTest struct {
	match  func(filterTarget) bool
	always bool // it is known to match every path
}

// A filterTarget is what matchers look at.
type filterTarget struct {
	path string // absolute, without . and .. and doubled slashes
	name string // the last component, "" of /
	size int64  // in bytes; -1 not known: no size matcher matches
}

// judge is the verdict of the first rule that matches, else default_action. The
// path that the client sees and the one it leads to are judged apart, and of a
// part of cp both names; the strictest verdict holds, of two alike that on what
// the client sees.
func (f *fileFilter) judge(a filterAsk) filterVerdict {
	if f == nil {
		return filterVerdict{}
	}
	v := f.sized(a)
	if a.size < 0 {
		for _, a.size = range f.sizes {
			v.bySize = v.bySize || f.sized(a).action != v.action
		}
	}
	return v
}

func (f *fileFilter) sized(a filterAsk) filterVerdict {
	v, _ := f.first(a, a.seen)
	for _, file := range [...]string{a.resolved, a.wholeOf(a.seen), a.wholeOf(a.resolved)} {
		if file != "" && file != a.seen {
			if on, _ := f.first(a, file); on.action > v.action {
				v = on
			}
		}
	}
	return v
}

// newFileSuffix ends the name of a part of cp, which begins with a dot. An
// upload of it is one of what it will be: denied before its bytes are sent.
const newFileSuffix = ".sessio-part"

// wholeOf is the path that an upload will have when it is whole, "" where that
// is not another.
func (a *filterAsk) wholeOf(file string) string {
	dir, name := path.Split(file)
	if a.op != opUpload || len(name) < len(".x"+newFileSuffix) || name[0] != '.' || !strings.HasSuffix(name, newFileSuffix) {
		return ""
	}
	return dir + strings.TrimSuffix(name[1:], newFileSuffix)
}

// first is the verdict on one path, and the rule that gives it, nil for the
// default.
func (f *fileFilter) first(a filterAsk, file string) (filterVerdict, *filterRule) {
	t := filterTarget{path: path.Clean(file), size: a.size}
	t.name = t.path[strings.LastIndexByte(t.path, '/')+1:]
	for i := range f.rules {
		r := &f.rules[i]
		if (r.ops == nil || slices.Contains(r.ops, a.op)) && (r.users == nil || slices.Contains(r.users, a.user)) && r.test.match(t) {
			return filterVerdict{action: r.action, rule: r.name}, r
		}
	}
	return filterVerdict{action: f.byDefault}, nil
}

// unreached lists, as warnings, rules that never decide: one before them matches
// whatever they could.
func (f *fileFilter) unreached() (warnings []string) {
	for i, late := range f.rules {
		for _, early := range f.rules[:i] {
			if early.test.always && covers(early.ops, late.ops) && covers(early.users, late.users) {
				warnings = append(warnings, fmt.Sprintf("filter.rules: %q in line %d never decides: %q in line %d matches all that it could", late.name, late.line, early.name, early.line))
				break
			}
		}
	}
	return warnings
}

// covers reports whether a limit lets through all that another does; nil is none.
func covers[T comparable](wide, narrow []T) bool {
	return wide == nil || narrow != nil && !slices.ContainsFunc(narrow, func(v T) bool { return !slices.Contains(wide, v) })
}
