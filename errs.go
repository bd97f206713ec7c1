package main

// This file says how errors travel: a stable code for machines and tests, a
// hint for people, an exit status for the shell. main.go alone prints them; what
// the roles have to tell goes to standard error as lines of a log.

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
)

// A codedError carries one of the stable codes that DESIGN.md lists. Tests and
// peers decide by the code, people read the text.
type codedError struct {
	code string
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// coded makes an error with a stable code. The text is given as to fmt.Errorf.
func coded(code, format string, args ...any) error {
	return &codedError{code, fmt.Errorf(format, args...)}
}

// codeOf returns the outermost stable code in err's chain, or "".
func codeOf(err error) string {
	if c := (*codedError)(nil); errors.As(err, &c) {
		return c.code
	}
	return ""
}

// A hintedError carries what a person could do about it, one sentence.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// withHint adds a hint to err; nil stays nil.
func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hintedError{err, fmt.Sprintf(format, args...)}
}

// hintOf returns the outermost hint in err's chain, or "".
func hintOf(err error) string {
	if h := (*hintedError)(nil); errors.As(err, &h) {
		return h.hint
	}
	return ""
}

// An exitError ends the program with the given status. A nil err prints
// nothing: the remote side has said all there is to say.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// usageError is wrong usage: exit status 2.
func usageError(format string, args ...any) error {
	return &exitError{2, fmt.Errorf(format, args...)}
}

// exitStatus is what the process ends with for err: 0, 1 failed, 2 wrong
// usage, or what an exitError says.
func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	if e := (*exitError)(nil); errors.As(err, &e) {
		return e.status
	}
	return 1
}

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

// sayError writes what went wrong and what may help, for people.
func sayError(w io.Writer, before string, err error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok && strings.Contains(err.Error(), "\n") { // errors.Join
		for _, one := range many.Unwrap() {
			sayError(w, before, one)
		}
		return
	}
	fmt.Fprintf(w, "%s: %s\n", before, printable(err.Error()))
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", printable(hint))
	}
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
