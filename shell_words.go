package main

// This file splits a line into words as any POSIX shell does: blanks, both
// quotes, backslashes. Whatever else a shell would do is for the caller to know.

import "strings"

// A bareWord is a word without its quotes, with a note of which bytes had none.
type bareWord struct {
	text string
	bare []bool // by byte: * ? [ ~ have their meaning
}

// shellWords splits s. ok is false where a shell would do more: for what dark has
// outside of quotes, $ and ` within double ones, comments and quotes that do not
// end; and, without join, for a line that goes on behind a backslash.
func shellWords(s, dark string, join bool) (words []bareWord, ok bool) {
	var w bareWord
	begun := false // '' is a word too
	add := func(c byte, bare bool) {
		w.text, w.bare, begun = w.text+string([]byte{c}), append(w.bare, bare), true
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ' ' || c == '\t':
			if begun {
				words = append(words, w)
			}
			w, begun = bareWord{}, false
		case c == '\'':
			n := strings.IndexByte(s[i+1:], '\'')
			if n < 0 {
				return nil, false
			}
			for _, c := range []byte(s[i+1 : i+1+n]) {
				add(c, false)
			}
			i, begun = i+1+n, true
		case c == '"':
			begun = true
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '$' || s[i] == '`' {
					return nil, false
				}
				if s[i] == '\\' && i+1 < len(s) && strings.IndexByte("$`\"\\\n", s[i+1]) >= 0 {
					if i++; s[i] == '\n' {
						continue
					}
				}
				add(s[i], false)
			}
			if i == len(s) {
				return nil, false
			}
		case c == '\\':
			if i++; i == len(s) || s[i] == '\n' && !join {
				return nil, false
			}
			if s[i] != '\n' {
				add(s[i], false)
			}
		case strings.IndexByte(dark, c) >= 0 || c == '#' && !begun:
			return nil, false
		default:
			add(c, true)
		}
	}
	if begun {
		words = append(words, w)
	}
	return words, true
}
