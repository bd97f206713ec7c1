package main

// This file lends a terminal to a session: raw while it runs, its own modes
// again on every way out; its size, and the escapes that a person types: a tilde
// at the start of a line and one letter more, as ssh has them.

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"
)

// A localTTY is the terminal that a person sits at. A nil one stands for none
// and does nothing.
type localTTY struct {
	in      *os.File // the terminal
	errs    *os.File // takes the help on escapes
	input   *ttyInput
	resumed chan struct{} // has a value after a suspension

	mu   sync.Mutex
	back func() // guarded by mu; restores the modes, nil when they are as found
}

// terminalOf returns the terminal on standard input, nil if it is none.
func terminalOf(files stdio) *localTTY {
	if files.in == nil || !term.IsTerminal(int(files.in.Fd())) {
		return nil
	}
	return &localTTY{in: files.in, errs: files.err,
		input: newTTYInput(newStdinReader(files.in)), resumed: make(chan struct{}, 1)}
}

func (t *localTTY) makeRaw() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.back != nil {
		return nil
	}
	saved, err := term.MakeRaw(int(t.in.Fd()))
	if err != nil {
		return fmt.Errorf("making the terminal raw: %w", err)
	}
	undoOutput := rawOutput(t.errs)
	t.back = func() {
		undoOutput()
		term.Restore(int(t.in.Fd()), saved)
	}
	return nil
}

func (t *localTTY) restore() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.back != nil {
		t.back()
		t.back = nil
	}
}

// guard runs f, and restores the terminal when f panics: that ends the
// process, past the deferred calls of every other goroutine. It does not
// recover, so that the trace stays whole.
func (t *localTTY) guard(f func()) {
	returned := false
	defer func() {
		if !returned {
			t.restore()
		}
	}()
	f()
	returned = true
}

// attach passes changes of the terminal's size to s, and what is typed to its
// input, but for the escapes: those it obeys. The function it returns ends
// that.
func (t *localTTY) attach(s *remoteSession, end context.CancelCauseFunc) (detach func()) {
	if t == nil {
		return func() {}
	}
	var loops sync.WaitGroup
	resized, stop := watchResize(t.in)
	loops.Go(func() {
		t.guard(func() {
			for {
				select {
				case _, more := <-resized:
					if !more {
						return
					}
				case <-t.resumed: // changes while suspended went to the shell
				}
				if size, err := terminalSize(t.in); err == nil {
					s.ch.SendRequest("window-change", false, ssh.Marshal(size))
				}
			}
		})
	})
	loops.Go(func() {
		t.guard(func() {
			t.input.pump(func(e escape) { t.obey(e, s.client.device, end) })
		})
	})
	return func() {
		stop()
		t.input.cancel()
		loops.Wait()
	}
}

func (t *localTTY) obey(e escape, device string, end context.CancelCauseFunc) {
	switch e {
	case escapeEnd:
		t.say("~.\r\n")
		end(&exitError{255, fmt.Errorf("connection to %s closed", device)})
	case escapeHelp:
		t.say("~?\r\n" + escapeHelpText())
	case escapeSuspend:
		t.say("~^Z\r\n")
		t.restore()
		suspendSelf()
		if err := t.makeRaw(); err != nil {
			end(linkFailure(err))
		}
		select {
		case t.resumed <- struct{}{}:
		default:
		}
	}
}

// say prints a line of ours among what the session prints.
func (t *localTTY) say(text string) {
	if t != nil {
		io.WriteString(t.errs, text)
	}
}

// ptyRequestFor describes the terminal to the far end. Without one of our own,
// any of the three files may tell the size.
func ptyRequestFor(files stdio) *ptyRequestMsg {
	m := &ptyRequestMsg{Term: os.Getenv("TERM"), Cols: 80, Rows: 24, Modes: "\x00"}
	if m.Term == "" {
		m.Term = defaultTERM
	}
	for _, f := range []*os.File{files.in, files.out, files.err} {
		if size, err := terminalSize(f); err == nil {
			m.Cols, m.Rows, m.Width, m.Height = size.Cols, size.Rows, size.Width, size.Height
			m.Modes = terminalModes(f)
			break
		}
	}
	return m
}

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
