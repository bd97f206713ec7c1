package main

// This file asks the person at the terminal: yes or no, and secrets, without
// showing them.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// hasTerminal reports whether somebody can be asked: standard input is a
// terminal.
func (p *program) hasTerminal() bool {
	return p.in != nil && term.IsTerminal(int(p.in.Fd()))
}

// confirm asks until it gets a yes or a no. The end of input is a no.
func (p *program) confirm(ctx context.Context, question string) (bool, error) {
	for {
		fmt.Fprintf(p.err, "%s [yes/no] ", question)
		line, err := p.ask(ctx, func() ([]byte, error) { return readLine(p.in) })
		if errors.Is(err, io.EOF) {
			fmt.Fprintln(p.err)
			return false, nil
		}
		if err != nil {
			return false, err
		}
		switch strings.ToLower(strings.TrimSpace(string(line))) {
		case "yes", "y":
			return true, nil
		case "no", "n":
			return false, nil
		}
	}
}

// secret asks for a passphrase or a recovery key. It is typed at the terminal,
// even where standard input is something else, and is not shown; without any
// terminal it is a line of standard input.
func (p *program) secret(ctx context.Context, question string) ([]byte, error) {
	tty, out := p.in, p.err
	if !p.hasTerminal() {
		own, err := os.OpenFile(ttyName, os.O_RDWR, 0)
		if err != nil {
			b, err := p.ask(ctx, func() ([]byte, error) { return readLine(p.in) })
			if errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("%s: nobody there to ask", question)
			}
			return b, err
		}
		defer own.Close()
		if tty = own; ttyTakesOutput {
			out = own
		}
	}
	fmt.Fprintf(out, "%s: ", question)
	defer fmt.Fprintln(out)
	saved, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return nil, err
	}
	defer term.Restore(int(tty.Fd()), saved)
	return p.ask(ctx, func() ([]byte, error) { return term.ReadPassword(int(tty.Fd())) })
}

// ask reads until ctx ends. A read that nobody answers is left behind: the
// program ends.
func (p *program) ask(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type answer struct {
		b   []byte
		err error
	}
	got := make(chan answer, 1)
	go func() {
		b, err := read()
		got <- answer{b, err}
	}()
	select {
	case a := <-got:
		return a.b, a.err
	case <-ctx.Done():
		return nil, endedBy(ctx)
	}
}

// maxAnswer bounds a typed line, in bytes.
const maxAnswer = 4 << 10

// readLine reads one line and nothing behind it: there may be more to ask. The
// last line may lack its end.
func readLine(f *os.File) ([]byte, error) {
	if f == nil {
		return nil, io.EOF
	}
	var line []byte
	for b := make([]byte, 1); len(line) < maxAnswer; {
		n, err := f.Read(b)
		switch {
		case n == 1 && b[0] == '\n':
			return bytes.TrimRight(line, "\r"), nil
		case n == 1:
			line = append(line, b[0])
		case err != nil && len(line) > 0 && err == io.EOF:
			return line, nil
		case err != nil:
			return nil, err
		}
	}
	return nil, fmt.Errorf("an answer of more than %d bytes", maxAnswer)
}
