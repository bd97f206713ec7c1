package main

// This file is the verb sftp: a device's files by the words of sftp(1), typed
// at a prompt or read from a file. At the prompt ^C ends a line, not the verb.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

type sftpArgs struct {
	target target
	batch  string // a file, "-" for standard input, "" for a person
}

func sftpVerb() verb {
	return verb{name: "sftp", usage: "[-b FILE] [-l LOGIN] [-v] [LOGIN@]DEVICE", summary: "a device's files, with the words of sftp(1)",
		more: "help at the prompt lists the words. With -b they are read from a file, or for -\nfrom standard input: the first that fails ends it with status 1, unless it\nbegins with a hyphen; one that begins with @ is not shown.",
		setup: func(f *flag.FlagSet) verbRun {
			var a sftpArgs
			f.StringVar(&a.batch, "b", "", "read the words from a `FILE`")
			login, dir, verbose := loginFlag(f), dirFlag(f), verboseFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				word, err := o.one("DEVICE")
				if err == nil {
					a.target, err = parseTarget(word, *login)
				}
				if err != nil {
					return err
				}
				return withClient(ctx, p, dir, *verbose, func(ctx context.Context, c *client) error {
					return cmdSFTP(ctx, c, p.stdio, a)
				})
			}
		}}
}

// A sftpShell is a session with a prompt.
type sftpShell struct {
	ctx    context.Context
	now    context.Context // ends with the line that is done, too
	breaks chan os.Signal  // ^C while a line is done; nil without a person
	op     sshOpener
	to     target
	files  stdio
	r      *remoteSide
	unhook func() bool // has r outlive ctx
	cut    bool        // r is over, by ^C: the next line needs another
	cwd    string      // there, absolute
	lcwd   string      // here, absolute
	batch  bool
	quiet  bool // no bar
}

// errSFTPBye ends a session.
var errSFTPBye = errors.New("bye")

func cmdSFTP(ctx context.Context, op sshOpener, files stdio, a sftpArgs) error {
	s := &sftpShell{ctx: ctx, now: ctx, op: op, to: a.target, files: files, batch: a.batch != "", quiet: a.batch != ""}
	lines, end, err := sftpLines(ctx, files, a.batch, s.tab)
	if err != nil {
		return err
	}
	defer end()
	if err := s.open(files.err); err != nil {
		return err
	}
	defer func() { s.unhook(); s.r.end() }()
	if s.cwd, err = s.r.resolve("."); err != nil {
		return err
	}
	if s.lcwd, err = os.Getwd(); err != nil {
		return err
	}
	if !s.batch && term.IsTerminal(int(files.in.Fd())) && !signal.Ignored(syscall.SIGINT) {
		s.breaks = make(chan os.Signal, 1)
		signal.Ignore(syscall.SIGINT) // takes it from untilSignal
		signal.Notify(s.breaks, syscall.SIGINT)
		defer signal.Stop(s.breaks)
	}
	err = s.loop(lines)
	if ctx.Err() != nil {
		return endedBy(ctx)
	}
	return err
}

// open begins a session, after the end of what there was.
func (s *sftpShell) open(errs io.Writer) error {
	if s.r != nil {
		s.unhook()
		s.r.end()
	}
	r, err := openRemote(s.now, s.op, s.to, errs)
	if err == nil {
		s.r, s.unhook, s.cut = r, context.AfterFunc(s.ctx, r.cut), false
	}
	return err
}

// sftpLines is where words come from, a line at a time; io.EOF is their end.
func sftpLines(ctx context.Context, files stdio, batch string, tab func(show io.Writer, line string, pos int) (string, int)) (next func() (string, error), end func(), err error) {
	var tty *localTTY
	if batch == "" {
		tty = terminalOf(files)
	}
	if tty != nil {
		t := term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{&ctrlC{Reader: tty.input.src}, files.out}, "sftp> ")
		t.History = fullLines{t.History}
		t.AutoCompleteCallback = func(line string, pos int, key rune) (string, int, bool) {
			if key != '\t' {
				return "", 0, false
			}
			line, pos = tab(t, line, pos)
			return line, pos, true
		}
		unhook := context.AfterFunc(ctx, tty.input.src.cancel)
		return func() (string, error) {
			if err := tty.makeRaw(); err != nil {
				return "", err
			}
			defer tty.restore()
			if size, err := terminalSize(files.in); err == nil && size.Cols > 0 {
				t.SetSize(int(size.Cols), int(size.Rows))
			}
			line, err := t.ReadLine()
			if err == io.EOF {
				io.WriteString(files.out, "\r\n")
			}
			return line, err
		}, func() { unhook(); tty.input.cancel() }, nil
	}
	in := files.in
	if batch != "" && batch != "-" {
		if in, err = os.Open(batch); err != nil {
			return nil, nil, withHint(fmt.Errorf("batch file %s: %w", batch, reasonOf(err)), "-b takes a file of sftp's words, or - for standard input")
		}
	}
	src := newStdinReader(in)
	unhook := context.AfterFunc(ctx, src.cancel)
	scan := bufio.NewScanner(src)
	return func() (string, error) {
			if !scan.Scan() {
				return "", errors.Join(scan.Err(), io.EOF)
			}
			line := scan.Text()
			if !strings.HasPrefix(strings.TrimLeft(line, " \t-"), "@") {
				fmt.Fprintf(files.out, "sftp> %s\n", printable(line))
			}
			return line, nil
		}, func() {
			unhook()
			src.cancel()
			if in != files.in {
				in.Close()
			}
		}, nil
}

// A ctrlC makes of each ^C what leaves an empty line: to its end, all of it
// away, enter. To the line editor ^C is the end of the input.
type ctrlC struct {
	io.Reader
	held []byte
}

func (c *ctrlC) Read(b []byte) (n int, err error) {
	if len(c.held) == 0 {
		n, err = c.Reader.Read(b)
		c.held = bytes.ReplaceAll(b[:n], []byte("\x03"), []byte("\x05\x15\r"))
	}
	n = copy(b, c.held)
	c.held = c.held[n:]
	return n, err
}

// fullLines are the lines that were typed, but for empty ones.
type fullLines struct{ term.History }

func (l fullLines) Add(line string) {
	if line != "" {
		l.History.Add(line)
	}
}

// loop does line after line. What failed is said; in a batch it is the end.
func (s *sftpShell) loop(next func() (string, error)) error {
	failed := false
	for s.ctx.Err() == nil {
		line, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		line = strings.TrimLeft(line, " \t")
		forgive := false
		for line != "" && strings.IndexByte("-@", line[0]) >= 0 {
			forgive, line = forgive || line[0] == '-', strings.TrimLeft(line[1:], " \t")
		}
		var act func() error
		if command, ok := strings.CutPrefix(line, "!"); ok {
			err = s.shell(command) // ^C is its
		} else {
			act, err = s.parse(line)
		}
		if act != nil && s.cut {
			err = s.watched(func() error { return s.open(io.Discard) })
		}
		if act != nil && err == nil {
			err = s.watched(act)
		}
		if err == errSFTPBye {
			break
		}
		if failed = err != nil && !forgive; err != nil && err != errSaid {
			sayError(s.files.err, "sessio: sftp", err)
		}
		if lost := s.r.over(); lost != nil && !s.cut && s.ctx.Err() == nil {
			return lost
		}
		if failed && s.batch {
			break
		}
	}
	if failed && s.breaks == nil {
		return errSaid
	}
	return nil
}

// watched does f so that a person's ^C ends it. What the device says late is
// waited for a second, for the sake of a part there; then the session is cut.
func (s *sftpShell) watched(f func() error) error {
	if s.breaks == nil {
		return f()
	}
	select {
	case <-s.breaks: // it came to nothing
	default:
	}
	now, stop := context.WithCancel(s.ctx)
	defer stop()
	s.now = now
	r, over := s.r, make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-s.breaks:
		case <-over:
			return
		}
		if term.IsTerminal(int(s.files.err.Fd())) {
			io.WriteString(s.files.err, "\b\b  \b\b") // over the ^C that it shows
		}
		stop()
		grace := time.NewTimer(sessionGrace)
		defer grace.Stop()
		select {
		case <-grace.C:
			r.cut()
		case <-over:
		}
	})
	err := f()
	close(over)
	watch.Wait()
	if now.Err() == nil || s.ctx.Err() != nil {
		return err
	}
	s.cut = r.over() != nil && s.r == r
	if err != nil && err != errSaid {
		err = errInterrupted
	}
	return err
}

// A sftpWord is a word of a line. In its pattern what was quoted stands behind
// backslashes; glob says that something was not.
type sftpWord struct {
	text, pattern string
	glob          bool
}

// sftpWords splits a line as sftp(1) does: blanks, both quotes, a backslash for
// the byte behind it, and # for the rest.
func sftpWords(line string) (words []sftpWord, err error) {
	var w sftpWord
	open, quote := false, byte(0)
	put := func(c byte, quoted bool) {
		open = true
		if special := strings.IndexByte(`*?[\]{,}`, c); special >= 0 && quoted {
			w.pattern += `\`
		} else if special >= 0 && special < len(`*?[\`) {
			w.glob = true
		}
		w.text, w.pattern = w.text+string([]byte{c}), w.pattern+string([]byte{c})
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && i+1 < len(line) && (quote == 0 || line[i+1] == quote || line[i+1] == '\\'):
			i++
			put(line[i], true)
		case c == quote:
			quote = 0
		case quote != 0:
			put(c, true)
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == ' ' || c == '\t' || c == '\r' || c == '#' && !open:
			if open {
				words, w, open = append(words, w), sftpWord{}, false
			}
			if c == '#' {
				return words, nil
			}
		default:
			put(c, false)
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %c is not closed", quote)
	}
	if open {
		words = append(words, w)
	}
	return words, nil
}

// parse finds out what a line says, nil for nothing.
func (s *sftpShell) parse(line string) (act func() error, err error) {
	words, err := sftpWords(line)
	if err != nil || len(words) == 0 {
		return nil, err
	}
	name, words := words[0].text, words[1:]
	for i := range sftpActs {
		c := &sftpActs[i]
		names, usage, _ := strings.Cut(c.usage, " ")
		if !strings.Contains("|"+names+"|", "|"+name+"|") {
			continue
		}
		flags := ""
		for len(words) > 0 && len(words[0].text) > 1 && words[0].text[0] == '-' && strings.Trim(words[0].text[1:], c.flags) == "" {
			flags, words = flags+words[0].text[1:], words[1:]
		}
		if len(words) < c.least || len(words) > c.most {
			return nil, fmt.Errorf("usage: %s %s", name, usage)
		}
		if c.do == nil {
			return nil, errSFTPBye
		}
		return func() error { return c.do(s, flags, words) }, nil
	}
	return nil, withHint(fmt.Errorf("there is no word %q", name), "help lists them")
}

// Bounds of a completion: names, and how long it may take; there is no ^C then.
const (
	maxTabNames = 1 << 10
	tabPatience = 3 * time.Second
)

// tab completes the word before pos, as far as its names agree, or shows them. A
// device that says nothing is given up, as after ^C.
func (s *sftpShell) tab(show io.Writer, line string, pos int) (string, int) {
	typed, quote := line[:pos], ""
	words, err := sftpWords(typed + "x") // there is a word
	for _, q := range []string{`"`, "'"} {
		if err != nil {
			quote = q
			words, err = sftpWords(typed + "x" + q)
		}
	}
	if err != nil || len(words) == 0 || words[0].text == "" || words[0].text[0] == '!' || strings.HasSuffix(typed, `\`) {
		return line, pos
	}
	word := strings.TrimSuffix(words[len(words)-1].text, "x")
	cut := strings.LastIndexByte(word, '/') + 1
	dir, base := word[:cut], word[cut:]
	var names []string
	take := func(name string, a sftpAttrs) error {
		if len(names) == maxTabNames {
			return fmt.Errorf("more than %d names", maxTabNames)
		}
		if strings.HasPrefix(name, base) && (name[0] != '.' || base != "") && printable(name) == name {
			if a.is(modeDir) {
				name += "/"
			}
			names = append(names, name)
		}
		return nil
	}
	if len(words) == 1 {
		for _, act := range sftpActs {
			usage, _, _ := strings.Cut(act.usage, " ")
			for name := range strings.SplitSeq(usage, "|") {
				if name[0] != '!' {
					take(name, sftpAttrs{})
				}
			}
		}
	} else if s.tabHere(words) {
		err = localSide{}.list(s.here(dir), take)
	} else {
		late := time.AfterFunc(tabPatience, s.r.cut)
		in := s.cwd
		if dir != "" {
			in, err = s.there(dir)
		}
		if err == nil {
			err = s.r.list(in, take)
		}
		if !late.Stop() {
			s.cut = true
		}
	}
	if err != nil || len(names) == 0 {
		return line, pos
	}
	common := names[0]
	for _, name := range names {
		for !strings.HasPrefix(name, common) || !utf8.ValidString(common) {
			common = common[:len(common)-1]
		}
	}
	added := common[len(base):]
	if added == "" && len(names) > 1 {
		slices.Sort(names)
		fmt.Fprintln(show, strings.Join(names, "  "))
	}
	for _, c := range added {
		if c == '\\' || quote != "" && string(c) == quote || quote == "" && strings.ContainsRune(" \"'#*?[]{},", c) {
			typed += `\`
		}
		typed += string(c)
	}
	if len(names) == 1 && !strings.HasSuffix(common, "/") {
		typed += quote + " "
	}
	return typed + line[pos:], len(typed)
}

// tabHere reports whether the last of words is a path on this machine.
func (s *sftpShell) tabHere(words []sftpWord) bool {
	name, paths := words[0].text, 0
	for _, w := range words[1:] {
		if !strings.HasPrefix(w.text, "-") {
			paths++
		}
	}
	switch name {
	case "lcd", "lls", "lmkdir":
		return true
	case "put", "mput", "reput":
		return paths < 2
	case "get", "mget", "reget":
		return paths > 1
	}
	return false
}

// there is a path on the device, absolute.
func (s *sftpShell) there(name string) (string, error) {
	if strings.HasPrefix(name, "~") {
		home, err := s.r.home(name)
		if err != nil || strings.HasPrefix(home, "/") {
			return home, err
		}
		return s.r.resolve(home)
	}
	if name == "" || strings.HasPrefix(name, "/") {
		return name, nil
	}
	return s.r.join(s.cwd, name), nil
}

// found is what a word stands for on the device.
func (s *sftpShell) found(w sftpWord) ([]string, error) {
	if !w.glob {
		name, err := s.there(w.text)
		return []string{name}, err
	}
	pattern, err := s.there(w.pattern)
	if err != nil {
		return nil, err
	}
	list, err := s.r.expand(pattern)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.text, err)
	}
	return list, nil
}

// here is a path on this machine.
func (s *sftpShell) here(name string) string {
	if name = localHome(name); filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.lcwd, name)
}

// foundHere is what a word stands for on this machine.
func (s *sftpShell) foundHere(w sftpWord) ([]string, error) {
	if !w.glob {
		return []string{s.here(w.text)}, nil
	}
	list, err := filepath.Glob(s.here(w.pattern))
	if err == nil && len(list) == 0 {
		err = errors.New("nothing here has such a name")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.text, err)
	}
	return list, nil
}

// transfer copies with what flags say: a goes on behind what is there, f has it
// on disk, p keeps times and modes, r takes directories.
func (s *sftpShell) transfer(flags string, from []string, src, dst cpSide, to string) error {
	bar := newCPBar(s.files.err, s.quiet, time.Now)
	goOn := strings.Contains(flags, "a")
	e := newCPEngine(s.now, s.files.err, "sftp", bar, false)
	e.preserve, e.goOn, e.inplace, e.sync = strings.ContainsAny(flags, "pP"), goOn, goOn, strings.Contains(flags, "f")
	t := &cpTree{e: e, recursive: strings.ContainsAny(flags, "rR"), dst: dst}
	if err := t.aim(to, len(from)); err != nil {
		bar.end(false)
		return err
	}
	e.start(s.r.files)
	for _, path := range from {
		t.walk(cpSource{side: src, path: path})
	}
	t.done()
	good := e.finish()
	good = t.finishDirs() && good
	if bar.end(good); !good {
		return errSaid
	}
	return nil
}
