//go:build !windows

package main

// These tests watch the bar of cp, on a real pseudo-terminal.

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// The bar keeps within the window, also after the window has changed, and ends
// as a full line.
func TestCpBarOnATerminal(t *testing.T) {
	t.Parallel()
	h := newSFTPHold(t)
	c := newCPTest(t, h.peer)
	b := c.file(c.there("movie.mkv"), 8<<20)
	term := sshcOpenTerminal(t)
	term.size(80, 24)
	held := h.holding(t, 5<<20)
	helper := term.start(sshcHelper(c.peer, "cp", "attic:"+c.there("movie.mkv")+" "+c.here("movie.mkv")))
	held()
	within := func(cols int, shown string) {
		t.Helper()
		for _, line := range strings.FieldsFunc(shown, func(r rune) bool { return r == '\r' || r == '\n' }) {
			if n := utf8.RuneCountInString(line); n >= cols {
				t.Errorf("%d characters in %d columns: %q", n, cols, line)
			}
		}
	}
	whole := regexp.MustCompile(`^\S*movie\.mkv +\d+% +\d\S* .?B +\d\S* .?B/s +[-\d]+:[-\d]+( left)?$`)
	shown := term.expect("%") + term.expect("\r")
	within(80, shown)
	if line := screenOf(80, strings.TrimSuffix(shown, "\r")); !whole.MatchString(line) {
		t.Errorf("the bar: %q", line)
	}
	// A line of the old width may be on its way.
	drawn := func(want func(line string) bool) string {
		for {
			if line := strings.TrimRight(term.expect("\r"), "\r"); want(line) {
				return line
			}
		}
	}
	term.size(20, 24)
	within(20, drawn(func(line string) bool { return !strings.Contains(line, "movie") && strings.Contains(line, "%") }))
	term.size(100, 24)
	within(100, drawn(func(line string) bool { return strings.Contains(line, "movie") }))
	h.on <- struct{}{}
	shown = term.expect("\n")
	within(100, shown)
	if lines := strings.Split(screenOf(100, shown), "\n"); len(lines) != 2 || !whole.MatchString(lines[0]) || !strings.Contains(lines[0], " 100% ") || lines[1] != "" {
		t.Errorf("at the end: %q", lines)
	}
	if status := helper.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	c.same(c.here("movie.mkv"), b)
}

// ^C takes the bar away, the letters of ^C with it, and says what stays. Where
// standard error is no terminal, nothing is drawn.
func TestCpBreakOnATerminal(t *testing.T) {
	t.Parallel()
	for _, terminal := range []bool{true, false} {
		h := newSFTPHold(t)
		c := newCPTest(t, h.peer)
		c.file(c.there("movie.mkv"), 8<<20)
		term := sshcOpenTerminal(t)
		helper := sshcHelper(c.peer, "cp", "attic:"+c.there("movie.mkv")+" "+c.here("movie.mkv"))
		errs := c.temp()
		if !terminal {
			helper.Stderr = errs
		}
		held := h.holding(t, 1<<20)
		process := term.start(helper)
		held()
		awaitBytes(t, c.here(partName("movie.mkv")))
		shown := ""
		if terminal {
			shown = term.expect("%")
		}
		term.keys("\x03")
		if shown += term.expect("^C"); !terminal && shown != "^C" {
			t.Errorf("drawn where none is wanted: %q", shown)
		}
		if status := process.status(); status != 130 {
			t.Errorf("status %d", status)
		}
		said := c.read(errs)
		if terminal {
			said = strings.ReplaceAll(screenOf(97, shown+term.expect("goes on there")), "\n", "")
		}
		if !strings.HasPrefix(said, "sessio: cp: "+c.here("movie.mkv")+": interrupted; ") || !strings.Contains(said, "stay in") || strings.Contains(said, "%") {
			t.Errorf("terminal %v: %q", terminal, said)
		}
		if _, err := os.Stat(c.here(partName("movie.mkv"))); err != nil {
			t.Error(err)
		}
	}
}
