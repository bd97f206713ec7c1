package main

import (
	"strings"
	"testing"
	"time"
)

func TestLogLine(t *testing.T) {
	var b strings.Builder
	at := time.Date(2026, 2, 3, 4, 5, 6, 7e6, time.UTC)
	l := &lineLog{level: 1, now: func() time.Time { return at }, w: &b}
	l.logf(0, "link %s is up", "ab")
	l.logf(1, "name %s", "x\x1b[2J\ny")
	l.logf(2, "too much")
	want := "2026-02-03T04:05:06.007Z link ab is up\n2026-02-03T04:05:06.007Z name x\\x1b[2J\\x0ay\n"
	if b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"attic: offline":    "attic: offline",
		"grüße, 東京":         "grüße, 東京",
		"a\tb\r\x07\x7f":    `a\x09b\x0d\x07\x7f`,
		"bad \xff\xc3 utf8": `bad \xff\xc3 utf8`,
		"\u202eevil\u009b":  `\x202eevil\x9b`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
