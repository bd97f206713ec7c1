package main

// This file reads what a person typed: the verb, its flags before or after its
// operands, and "--"; answers to questions, and secrets, without showing them. It
// also writes the help, from the same table, so that the two cannot differ.

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"
)

// A verb is one or more words after "sessio", and what they do.
type verb struct {
	name    string // "trust sign"
	usage   string // flags and operands, as the help shows them
	summary string // one line
	more    string // further lines that -h shows, may be empty
	// command is set where what follows the first operand is another
	// program's command, flags and all, unless "--" stands somewhere.
	command bool
	bare    bool // takes no operands
	// setup declares the flags and returns what to do once they are read.
	setup func(f *flag.FlagSet) verbRun
}

// A verbRun does the verb's work.
type verbRun func(ctx context.Context, p *program, o operands) error

// A program is what a verb has to do with besides its flags.
type program struct {
	stdio
	now  func() time.Time
	page *signPage // on which passkeys sign; nil until one shall
}

// operands are the words that are no flags. Those behind "--" stand apart.
type operands struct {
	before, after []string
	dashed        bool // there was a "--"
}

// all are the operands of a verb to which "--" only says that no flag follows.
func (o operands) all() []string { return append(o.before[:len(o.before):len(o.before)], o.after...) }

// none is the error of a verb that takes no operands.
func (o operands) none() error {
	if all := o.all(); len(all) > 0 {
		return usageError("%q is one word too many", all[0])
	}
	return nil
}

// one returns the only operand, which is called what in the error.
func (o operands) one(what string) (string, error) {
	all := o.all()
	if len(all) == 0 {
		return "", usageError("%s is missing", what)
	}
	if len(all) > 1 {
		return "", usageError("%q is one word too many", all[1])
	}
	return all[0], nil
}

// findVerb returns the verb with the longest name that args begin with, and
// the words behind it.
func findVerb(table []verb, args []string) (v *verb, rest []string) {
	used := 0
	for i := range table {
		words := strings.Fields(table[i].name)
		if len(words) > used && len(words) <= len(args) && strings.Join(args[:len(words)], " ") == table[i].name {
			v, used = &table[i], len(words)
		}
	}
	return v, args[used:]
}

// verbsUnder are the verbs whose names begin with the words.
func verbsUnder(table []verb, words string) (list []verb) {
	for _, v := range table {
		if words == "" || v.name == words || strings.HasPrefix(v.name, words+" ") {
			list = append(list, v)
		}
	}
	return list
}

func newFlagSet(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

// runVerb reads flags and operands and does what they say.
func (v *verb) runVerb(ctx context.Context, p *program, args []string) error {
	f := newFlagSet(v.name)
	run := v.setup(f)
	o, err := v.parse(f, args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(p.out, v.help())
		return err
	}
	if err == nil && v.bare {
		err = o.none()
	}
	if err == nil {
		err = run(ctx, p, o)
	}
	if exitStatus(err) == 2 && hintOf(err) == "" {
		word, _, _ := strings.Cut(err.Error(), " ")
		if fl := f.Lookup(strings.TrimPrefix(word, "-")); fl != nil && word[0] == '-' {
			value, text := flag.UnquoteUsage(fl)
			return withHint(err, "%s: %s", strings.TrimSpace(word+" "+value), text)
		}
		err = withHint(err, "usage: sessio %s", strings.TrimSpace(v.name+" "+v.usage))
	}
	return err
}

// parse reads args; flags may stand on either side of operands.
func (v *verb) parse(f *flag.FlagSet, args []string) (o operands, err error) {
	greedy := v.command && !hasDashes(args)
	for {
		args = apart(f, args)
		if err := f.Parse(args); err != nil {
			return o, flagError(f, err)
		}
		rest := f.Args()
		switch read := len(args) - len(rest); {
		case read > 0 && args[read-1] == "--":
			o.after, o.dashed = rest, true
			return o, nil
		case len(rest) == 0:
			return o, nil
		case greedy && len(o.before) > 0:
			o.before = append(o.before, rest...)
			return o, nil
		}
		o.before = append(o.before, rest[0])
		args = rest[1:]
	}
}

// apart takes flags of one letter that are written together apart, as in -rp,
// among the flags that args begin with.
func apart(f *flag.FlagSet, args []string) []string {
	for i := 0; i < len(args) && len(args[i]) > 1 && args[i][0] == '-' && args[i] != "--"; i++ {
		name, _, hasValue := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if known := f.Lookup(name); known != nil {
			if !isBoolFlag(known) && !hasValue {
				i++ // what follows is its value
			}
			continue
		}
		letters := make([]string, 0, len(name))
		for _, c := range args[i][1:] {
			letters = append(letters, "-"+string(c))
			if known := f.Lookup(string(c)); known == nil || !isBoolFlag(known) {
				return args
			}
		}
		args = slices.Concat(args[:i], letters, args[i+1:])
	}
	return args
}

func isBoolFlag(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

func hasDashes(args []string) bool {
	for _, a := range args {
		if a == "--" {
			return true
		}
	}
	return false
}

// flagError makes wrong usage of what package flag says.
func flagError(f *flag.FlagSet, err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: "); ok {
		return usageError("there is no flag %s", name)
	}
	if bad, ok := strings.CutSuffix(text, ": parse error"); ok {
		want := "a whole number"
		if fl := f.Lookup(bad[strings.LastIndex(bad, " -")+2:]); fl != nil && isBoolFlag(fl) {
			want = "true or false"
		} else if v, ok := fl.Value.(flag.Getter); ok {
			if _, ok := v.Get().(time.Duration); ok {
				want = "a length of time such as 90m or 8760h"
			}
		}
		return usageError("%s: not %s", bad, want)
	}
	return usageError("%s", text)
}

// help is what -h shows.
func (v *verb) help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: sessio %s\n\n%s.\n", strings.TrimSpace(v.name+" "+v.usage), upperFirst(v.summary))
	if v.more != "" {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(v.more))
	}
	f := newFlagSet(v.name)
	v.setup(f)
	b.WriteString(flagHelp(f))
	return b.String()
}

// flagHelp lists flags with what they do.
func flagHelp(f *flag.FlagSet) string {
	var b strings.Builder
	f.VisitAll(func(fl *flag.Flag) {
		if b.Len() == 0 {
			b.WriteString("\nflags:\n")
		}
		value, text := flag.UnquoteUsage(fl)
		head := "-" + fl.Name
		if value != "" {
			head += " " + value
		}
		if len(head) > 18 {
			fmt.Fprintf(&b, "  %s\n  %-18s  %s\n", head, "", text)
		} else {
			fmt.Fprintf(&b, "  %-18s  %s\n", head, text)
		}
	})
	return b.String()
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// A stateDir is the flag -dir. Which directory an unset one means is found out
// when it is asked.
type stateDir struct{ flag *string }

func dirFlag(f *flag.FlagSet) stateDir {
	return stateDir{f.String("dir", "", "state `directory`; else $SESSIO_DIR, else ~/.sessio")}
}

// path is absolute: what is printed from it must be good anywhere.
func (d stateDir) path() (string, error) {
	dir := *d.flag
	if dir == "" {
		dir = os.Getenv("SESSIO_DIR")
	}
	if dir == "" {
		return defaultDir()
	}
	return filepath.Abs(dir)
}

// defaultDir is ~/.sessio. Services are often started without $HOME.
func defaultDir() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		u, lookupErr := user.Current()
		if lookupErr != nil || u.HomeDir == "" {
			return "", withHint(fmt.Errorf("no home directory for ~/.sessio: %w", err), "name a directory with -dir")
		}
		home = u.HomeDir
	}
	return filepath.Join(home, ".sessio"), nil
}

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
	saved, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return nil, err
	}
	defer term.Restore(int(tty.Fd()), saved)
	if err := hideTyping(tty); err != nil { // before anybody is asked
		return nil, err
	}
	fmt.Fprintf(out, "%s: ", question)
	defer fmt.Fprintln(out)
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
