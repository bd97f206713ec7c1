package main

// This file writes the log lines of the roles, one line each, to standard
// error.

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
)

// A lineLog writes lines up to a level: 0 what an owner wants to know, 1 (-v)
// who came and went, 2 (-vv) what for, 3 (-vvv) every step. It is safe for
// concurrent use.
type lineLog struct {
	level int
	now   func() time.Time

	mu sync.Mutex
	w  io.Writer // guarded by mu
}

// logf writes a line. What peers sent may be among args: control characters
// are shown, not obeyed.
func (l *lineLog) logf(level int, format string, args ...any) {
	if level > l.level {
		return
	}
	line := l.now().Format("2006-01-02T15:04:05.000Z07:00 ") + printable(fmt.Sprintf(format, args...)) + "\n"
	l.mu.Lock()
	defer l.mu.Unlock()
	io.WriteString(l.w, line)
}

// printable is s in one line, without anything that a terminal would obey: a
// name or an error text may come from the other side.
func printable(s string) string {
	if strings.IndexFunc(s, notPrintable) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == unicode.ReplacementChar: // perhaps a byte that is no UTF-8
			fmt.Fprintf(&b, "\\x%02x", s[i])
		case notPrintable(r):
			fmt.Fprintf(&b, "\\x%02x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func notPrintable(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }
