package main

// This file matches globs against paths, byte for byte: * and ? cross slashes,
// ** stands for whole components. The time is at most the length of the path
// times that of the glob, whatever both are.

import (
	"errors"
	"fmt"
	"strings"
)

// maxGlob is the longest glob, in bytes: more than any name (255), and a path of
// 4096 bytes is judged within milliseconds.
const maxGlob = 1024

// A fileGlob is a glob, part by part.
type fileGlob []globPart

// A globPart is a byte, or a run of any length.
type globPart struct {
	run globRun
	set byteSet // of globByte
}

type globRun byte

const (
	globByte globRun = iota // one byte of set
	globAny                 // * and a ** at the end: any bytes
	globDirs                // **/ : nothing, or bytes that end with a slash
)

// A byteSet has a bit for each byte.
type byteSet [4]uint64

func (s *byteSet) add(low, high byte) {
	for c := int(low); c <= int(high); c++ {
		s[c>>6] |= 1 << (c & 63)
	}
}

func (s *byteSet) has(c byte) bool { return s[c>>6]>>(c&63)&1 == 1 }

// allBytes are those of a path: all but NUL.
var allBytes = byteSet{^uint64(1), ^uint64(0), ^uint64(0), ^uint64(0)}

// parseFileGlob reads a glob. One that matches no path is an error.
func parseFileGlob(s string) (g fileGlob, err error) {
	if s == "" || len(s) > maxGlob {
		return nil, fmt.Errorf("a glob of %d bytes: 1 to %d", len(s), maxGlob)
	}
	for i := 0; i < len(s); i++ {
		part := globPart{}
		switch c := s[i]; c {
		case '{':
			return nil, errors.New("{a,b} is not known: write composite: {type: or, matchers: […]} with a pattern for each; [{] is the sign itself")
		case '\\':
			return nil, errors.New("a backslash escapes nothing: write [*] for a star itself, [?] and [[] likewise, ? for a backslash")
		case '*':
			if part.run = globAny; strings.HasPrefix(s[i:], "**") {
				rest := s[i+2:]
				if i > 0 && s[i-1] != '/' || rest != "" && rest[0] != '/' {
					return nil, errors.New("** is a whole component, as in /a/**/b: write *, which crosses slashes too")
				}
				i++
				if rest != "" {
					part.run = globDirs
					i++
				}
			}
		case '?':
			part.set = allBytes
		case '[':
			n := 0
			if part.set, n, err = parseByteClass(s[i:]); err != nil {
				return nil, err
			}
			i += n - 1
		default:
			part.set.add(c, c)
		}
		g = append(g, part)
	}
	if !g.possible(pathBegin) && !g.possible(pathSlash) {
		return nil, errors.New("no path matches: paths begin with a slash, end without one, and have no . and .. in them; a glob without a slash is tried on the last component too, **/ before it finds it anywhere")
	}
	return g, nil
}

// parseByteClass reads [abc], [a-z] or [!abc], and its length in bytes.
func parseByteClass(s string) (set byteSet, n int, err error) {
	body := s[1:]
	not := strings.HasPrefix(body, "!")
	if strings.HasPrefix(body, "^") {
		return set, 0, errors.New("[^ is not known: write [! for it")
	}
	if not {
		body = body[1:]
	}
	end := strings.IndexByte(body[min(1, len(body)):], ']') + 1 // a ] that comes first is one of the class
	if end == 0 {
		return set, 0, errors.New("[ without its ]: write [[] for the sign itself")
	}
	for i := 0; i < end; i++ {
		low, high := body[i], body[i]
		if i+2 < end && body[i+1] == '-' {
			high = body[i+2]
			i += 2
		}
		switch {
		case low == '\\' || high == '\\':
			return set, 0, errors.New("a backslash in brackets: signs need no escape there, ? stands for a backslash")
		case low >= 0x80 || high >= 0x80:
			return set, 0, errors.New("brackets hold single bytes, and a letter beyond ASCII is several: write a pattern for each")
		case low > high:
			return set, 0, fmt.Errorf("[%c-%c] is the wrong way round", low, high)
		}
		set.add(low, high)
	}
	if not {
		for i := range set {
			set[i] = allBytes[i] &^ set[i]
		}
	}
	return set, len(s) - len(body) + end + 1, nil
}

// match tries the last run first: what an earlier one could take as well, the
// last one can take instead, so that no more is ever undone.
func (g fileGlob) match(s string) bool {
	p, i := 0, 0
	last, from := -1, 0 // the last run, and where what follows it was tried
	for {
		switch {
		case p < len(g) && g[p].run != globByte:
			last, from = p, i
			p++
			continue
		case p == len(g) && i == len(s):
			return true
		case p < len(g) && i == len(s):
			return false // a longer run would leave even less
		case p < len(g) && g[p].set.has(s[i]):
			p++
			i++
			continue
		case last < 0:
			return false
		case g[last].run == globAny:
			from++
		default:
			slash := strings.IndexByte(s[from:], '/')
			if slash < 0 {
				return false
			}
			from += slash + 1
		}
		p, i = last+1, from
	}
}

// always reports whether every path matches, as far as can be seen: * ** /* **/*.
func (g fileGlob) always() bool {
	if g[0].run == globByte && g[0].set.has('/') {
		g = g[1:]
	}
	for _, part := range g {
		if part.run == globByte {
			return false
		}
	}
	return len(g) > 0 && g[len(g)-1].run == globAny
}

// Where one can stand in a path. A path is not over at pathBegin, pathDot,
// pathDots and pathSlash.
const (
	pathBegin = iota
	pathRoot  // behind the first slash
	pathName  // in a component
	pathDot   // in one that is . so far
	pathDots  // in one that is .. so far
	pathSlash // behind another slash; a last component alone begins here
	pathWrong
)

// pathSteps are where a slash, a dot and another byte lead.
var pathSteps = [...][3]uint8{
	pathBegin: {pathRoot, pathWrong, pathWrong},
	pathRoot:  {pathWrong, pathDot, pathName},
	pathName:  {pathSlash, pathName, pathName},
	pathDot:   {pathWrong, pathDots, pathName},
	pathDots:  {pathWrong, pathName, pathName},
	pathSlash: {pathWrong, pathDot, pathName},
}

// possible reports whether g matches any path, or from pathSlash any component.
// It goes from part to part with all places where a path could stand, a bit each.
func (g fileGlob) possible(start uint8) bool {
	step := func(at uint8, set byteSet) (next uint8) {
		slash, dot := set.has('/') && start == pathBegin, set.has('.')
		set[0] &^= 1<<'/' | 1<<'.' | 1
		for place, to := range pathSteps {
			if at>>place&1 == 0 {
				continue
			}
			for i, may := range [...]bool{slash, dot, set != byteSet{}} {
				if may {
					next |= 1 << to[i]
				}
			}
		}
		return next
	}
	at := uint8(1) << start
	for _, part := range g {
		switch part.run {
		case globByte:
			at = step(at, part.set)
		case globAny:
			for range pathSteps { // until nothing new is reached
				at |= step(at, allBytes)
			}
		case globDirs:
			if start == pathBegin && at&(1<<pathBegin) != 0 {
				at |= 1<<pathRoot | 1<<pathSlash
			}
			if start == pathBegin && at&(1<<pathRoot|1<<pathSlash) != 0 {
				at |= 1 << pathSlash
			}
		}
	}
	return at&(1<<pathName|1<<pathRoot) != 0
}
