package main

// This file is the verb sftp: a device's files by the words of sftp(1), typed
// at a prompt or read from a file.

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

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
	ctx   context.Context
	files stdio
	r     *remoteSide
	cwd   string // there, absolute
	lcwd  string // here, absolute
	batch bool
}

// errSFTPBye ends a session.
var errSFTPBye = errors.New("bye")

func cmdSFTP(ctx context.Context, op sshOpener, files stdio, a sftpArgs) error {
	lines, end, err := sftpLines(ctx, files, a.batch)
	if err != nil {
		return err
	}
	defer end()
	r, err := openRemote(ctx, op, a.target, files.err)
	if err != nil {
		return err
	}
	defer r.end()
	defer context.AfterFunc(ctx, func() { r.fail(errors.New("interrupted")) })()
	s := &sftpShell{ctx: ctx, files: files, r: r, batch: a.batch != ""}
	if s.cwd, err = r.resolve("."); err != nil {
		return err
	}
	if s.lcwd, err = os.Getwd(); err != nil {
		return err
	}
	err = s.loop(lines)
	if ctx.Err() != nil {
		return endedBy(ctx)
	}
	return err
}

// sftpLines is where words come from, a line at a time; io.EOF is their end.
func sftpLines(ctx context.Context, files stdio, batch string) (next func() (string, error), end func(), err error) {
	tty := terminalOf(files)
	if batch == "" && tty != nil {
		t := term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{tty.input.src, files.out}, "sftp> ")
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
			return nil, nil, err
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
		err = s.do(line)
		if err == errSFTPBye {
			break
		}
		if failed = err != nil && !forgive; err != nil && err != errSaid {
			sayError(s.files.err, "sessio: sftp", err)
		}
		if lost := s.r.over(); lost != nil && s.ctx.Err() == nil {
			return lost
		}
		if failed && s.batch {
			break
		}
	}
	if failed {
		return errSaid
	}
	return nil
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
		if special := strings.IndexByte(`*?[]\`, c) >= 0; special && quoted {
			w.pattern += `\`
		} else if special && c != ']' {
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

// do does one line.
func (s *sftpShell) do(line string) error {
	words, err := sftpWords(line)
	if err != nil || len(words) == 0 {
		return err
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
			return fmt.Errorf("usage: %s %s", name, usage)
		}
		return c.do(s, flags, words)
	}
	return withHint(fmt.Errorf("there is no word %q", name), "help lists them")
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
	bar := newCPBar(s.files.err, s.batch, time.Now)
	goOn := strings.Contains(flags, "a")
	e := newCPEngine(s.ctx, s.files.err, "sftp", bar, false)
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
