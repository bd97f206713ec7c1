package main

// This file reads the command that scp has run on the server, and does with its
// words what a login shell would: quotes, backslashes, ~ and globs. What it does
// not know is the shell's.

import (
	"errors"
	"slices"
	"strings"
)

// A scpCommand is "scp [-v] [-r] [-p] [-d] -t|-f [--] path…".
type scpCommand struct {
	sink                     bool // -t, else -f
	recursive, times, folder bool // -r, -p, -d
	paths                    []bareWord
}

// maxScpCommand is the longest command read, in bytes.
const maxScpCommand = 64 << 10

// parseScpCommand reads a command; ok is false for any other, whose meaning is
// the shell's affair.
func parseScpCommand(s string) (c scpCommand, ok bool) {
	words, ok := scpWords(s)
	if !ok || len(words) == 0 || words[0].text != "scp" {
		return c, false
	}
	from := false
	for words = words[1:]; len(words) > 0 && len(words[0].text) > 1 && words[0].text[0] == '-'; words = words[1:] {
		if words[0].text == "--" {
			words = words[1:]
			break
		}
		for _, flag := range words[0].text[1:] {
			switch flag {
			case 'v':
			case 'r':
				c.recursive = true
			case 'p':
				c.times = true
			case 'd':
				c.folder = true
			case 't':
				c.sink = true
			case 'f':
				from = true
			default:
				return c, false
			}
		}
	}
	c.paths = words
	return c, c.sink != from && len(words) > 0
}

// scpWords splits a command as sh does; ok is false where it would do more than
// expand ~ and globs.
func scpWords(s string) (words []bareWord, ok bool) {
	if len(s) > maxScpCommand || strings.ContainsRune(s, 0) {
		return nil, false
	}
	return shellWords(s, ";&|<>()$`{}\n\r", true)
}

// A scpTree is what globs are looked up in.
type scpTree struct {
	home func(user string) (string, error) // of ~ ("") and ~user
	list func(dir string) ([]string, error)
	is   func(file string) bool
}

// maxScpPaths bounds what one word may become, with what is gone through for it.
const maxScpPaths = 100_000

var errScpPaths = errors.New("the pattern matches too many files")

// expand is what the word stands for: itself where nothing matches, as in sh.
func (w bareWord) expand(t scpTree) ([]string, error) {
	text, bare := w.text, w.bare
	prefix := ""
	if name, _, _ := strings.Cut(text, "/"); strings.HasPrefix(name, "~") && !slices.Contains(bare[:len(name)], false) {
		if home, err := t.home(name[1:]); err == nil {
			prefix, text, bare = home, text[len(name):], bare[len(name):]
		}
	}
	plain := prefix + text
	if !globBytes(text, bare) {
		return []string{plain}, nil
	}
	found, seen := []string{prefix}, 0
	for at := 0; at <= len(text); {
		n := strings.IndexByte(text[at:], '/')
		end, slash := at+n, "/"
		if n < 0 {
			end, slash = len(text), ""
		}
		name := text[at:end]
		glob := scpGlob(name, bare[at:end])
		var next []string
		for _, dir := range found {
			if glob == nil {
				if file := dir + name; slash != "" || name == "" || t.is(file) {
					next = append(next, file+slash)
				}
				continue
			}
			names, err := t.list(dir)
			if err != nil {
				continue
			}
			slices.Sort(names)
			for _, entry := range names {
				// A dot in front is matched by a dot alone.
				if (entry[0] != '.' || name[0] == '.') && glob.match(entry) && (slash == "" || t.is(dir+entry+"/.")) {
					next = append(next, dir+entry+slash)
				}
			}
			if seen+len(next) > maxScpPaths {
				return nil, errScpPaths
			}
		}
		seen += len(next)
		found, at = next, end+1
		if slash == "" {
			break
		}
	}
	if len(found) == 0 {
		return []string{plain}, nil
	}
	return found, nil
}

func globBytes(text string, bare []bool) bool {
	for i, b := range bare {
		if b && strings.IndexByte("*?[", text[i]) >= 0 {
			return true
		}
	}
	return false
}

// scpGlob compiles a component, nil if it has no globs. A [ that is closed by
// nothing stands for itself.
func scpGlob(s string, bare []bool) (g fileGlob) {
	if !globBytes(s, bare) {
		return nil
	}
	for i := 0; i < len(s); i++ {
		part := globPart{}
		switch c := s[i]; {
		case c == '*' && bare[i]:
			part.run = globAny
		case c == '?' && bare[i]:
			part.set = allBytes
		case c == '[' && bare[i] && !slices.Contains(bare[i:], false):
			class := s[i:]
			if strings.HasPrefix(class, "[^") {
				class = "[!" + class[2:]
			}
			if set, n, err := parseByteClass(class); err == nil {
				part.set = set
				i += n - 1
				break
			}
			fallthrough
		default:
			part.set.add(c, c)
		}
		g = append(g, part)
	}
	return g
}
