package main

// This file says how errors travel: a stable code for machines and tests, a
// hint for people, an exit status for the shell. main.go alone prints them.

import (
	"errors"
	"fmt"
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
