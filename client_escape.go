package main

// This file finds the escapes in what a person types: a tilde at the start of
// a line and one letter more, as ssh has them.

import (
	"io"
	"strings"
	"sync"
)

type escape byte

const (
	escapeNone    escape = 0
	escapeEnd     escape = '.'
	escapeHelp    escape = '?'
	escapeSuspend escape = 'Z' - '@' // ^Z
)

func escapeHelpText() string {
	lines := []string{
		"Supported escape sequences:",
		" ~.   - end the connection, whatever runs over it",
		" ~?   - this message",
		" ~~   - send the escape character by typing it twice",
	}
	if canSuspend {
		lines = append(lines, " ~^Z  - suspend sessio")
	}
	lines = append(lines, "(Note that escapes are only recognized immediately after newline.)")
	return strings.Join(lines, "\r\n") + "\r\n"
}

// An escapeFilter keeps what it must know of the bytes before. Make one by
// newEscapeFilter: the beginning counts as the start of a line.
type escapeFilter struct {
	lineStart bool
	pending   bool // a tilde is held back
}

func newEscapeFilter() escapeFilter { return escapeFilter{lineStart: true} }

// next appends to out what of typed is for the far end. It stops behind an
// escape and returns it with the rest.
func (f *escapeFilter) next(out, typed []byte) (_ []byte, e escape, rest []byte) {
	for i, b := range typed {
		if f.pending {
			f.pending = false
			switch e := escape(b); {
			case e == escapeEnd, e == escapeHelp, e == escapeSuspend && canSuspend:
				return out, e, typed[i+1:]
			case b != '~':
				out = append(out, '~')
			}
		} else if f.lineStart && b == '~' {
			f.pending = true
			continue
		}
		f.lineStart = b == '\r' || b == '\n'
		out = append(out, b)
	}
	return out, escapeNone, nil
}

// ttyChunk is the size of a read from the terminal in bytes; as many as
// ttyQueue of them wait while the link takes none, 64 KiB in all. More typing
// ahead than that waits in the terminal, escapes with it.
const (
	ttyChunk = 1 << 10
	ttyQueue = 64
)

// A ttyInput reads a terminal apart from the session that takes what is read:
// escapes are heard although the link is stuck.
type ttyInput struct {
	src    sessionInput
	chunks chan []byte // closed when src has ended
	stop   chan struct{}
	once   sync.Once

	rest []byte // of the chunk that Read is in
}

func newTTYInput(src sessionInput) *ttyInput {
	return &ttyInput{src: src, chunks: make(chan []byte, ttyQueue), stop: make(chan struct{})}
}

// pump reads until the terminal ends or cancel is called, and calls obey for
// every escape.
func (t *ttyInput) pump(obey func(escape)) {
	defer close(t.chunks)
	filter := newEscapeFilter()
	buf := make([]byte, ttyChunk)
	for {
		n, err := t.src.Read(buf)
		for typed := buf[:n]; len(typed) > 0; {
			out, e, rest := filter.next(nil, typed)
			if len(out) > 0 {
				select {
				case t.chunks <- out:
				case <-t.stop:
					return
				}
			}
			if e != escapeNone {
				obey(e)
			}
			typed = rest
		}
		if err != nil {
			return
		}
	}
}

func (t *ttyInput) Read(b []byte) (int, error) {
	if len(t.rest) == 0 {
		select {
		case chunk, ok := <-t.chunks:
			if !ok {
				return 0, io.EOF
			}
			t.rest = chunk
		case <-t.stop:
			return 0, io.EOF
		}
	}
	n := copy(b, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

func (t *ttyInput) cancel() {
	t.once.Do(func() { close(t.stop) })
	t.src.cancel()
}
