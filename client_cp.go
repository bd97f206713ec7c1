package main

// This file is the verb cp: copies between this machine and devices, or from
// device to device by way of this machine.

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

type cpArgs struct {
	from      []cpPlace
	to        cpPlace
	recursive bool
	preserve  bool
	quiet     bool
	inplace   bool
	verbose   bool
	rate      int64 // bytes a second, 0 for no limit
}

// A cpPlace is an operand: a path here, or on a device.
type cpPlace struct {
	target target // no device: here
	path   string // "-" here is standard input or output
}

func (p cpPlace) remote() bool { return p.target.device != "" }
func (p cpPlace) stream() bool { return !p.remote() && p.path == "-" }

func cpVerb() verb {
	return verb{name: "cp", usage: "[-r] [-p] [-q] [-inplace] [-limit RATE] [-l LOGIN] [-v] SRC… DST", summary: "copy files to a device, from one, or between two",
		more: "On a device a file is [LOGIN@]DEVICE:PATH, from the login's home where PATH does\nnot begin with a slash; * ? and [ ] in it are expanded there. What has a slash\nbefore its colon is here, as with scp, and - is standard input or output.\n\n" +
			"A file is written as .NAME.sessio-part beside its target and renamed when it is\nwhole and its SHA-256 is that of the source. What was cut goes on where it\nstopped when the same command is given again. -r follows links, as scp does; a\nlink to a directory that it stands in is left out, and so are fifos and devices.\nEach file that failed is one line; the exit status is 1 then.",
		setup: func(f *flag.FlagSet) verbRun {
			var a cpArgs
			f.BoolVar(&a.recursive, "r", false, "directories with all that is in them")
			f.BoolVar(&a.preserve, "p", false, "keep times and modes")
			f.BoolVar(&a.quiet, "q", false, "no progress, no notes")
			f.BoolVar(&a.inplace, "inplace", false, "write into the target itself: links to it stay, half a file may stay, nothing is resumed")
			limit := f.String("limit", "", "at most this many bytes a second; `RATE` is a number, or one with K, M or G (1024 bytes and so on)")
			login := loginFlag(f)
			dir, verbose := dirFlag(f), verboseFlag(f)
			return func(ctx context.Context, p *program, o operands) (err error) {
				if a.verbose = *verbose; *limit != "" {
					if a.rate, err = parseRate(*limit); err != nil {
						return err
					}
				}
				if err := a.places(o.all(), *login); err != nil {
					return err
				}
				return withClient(ctx, p, dir, a.verbose, func(ctx context.Context, c *client) error {
					return cmdCp(ctx, c, p.stdio, a)
				})
			}
		}}
}

// parseRate reads bytes a second.
func parseRate(s string) (int64, error) {
	digits := strings.TrimRight(s, "kKmMgG")
	n, err := strconv.ParseInt(digits, 10, 64)
	shift := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30}[strings.ToLower(s[len(digits):])]
	if len(s)-len(digits) > 1 || err != nil || n < 1 || n > 1<<(62-shift) {
		return 0, usageError("-limit %q is no number of bytes a second, such as 500K", s)
	}
	return n << shift, nil
}

// parsePlace reads one operand. A name with a slash before its colon is here.
func parsePlace(operand, login string) (cpPlace, error) {
	colon := strings.IndexByte(operand, ':')
	if colon < 0 || strings.IndexByte(operand[:colon], '/') >= 0 || hasDrive(operand) {
		if operand == "" {
			return cpPlace{}, usageError("an operand is empty")
		}
		return cpPlace{path: operand}, nil
	}
	t, err := parseTarget(operand[:colon], login)
	return cpPlace{t, operand[colon+1:]}, err
}

func (a *cpArgs) places(words []string, login string) error {
	if len(words) < 2 {
		return usageError("cp needs a source and a target")
	}
	remote := false
	for i, word := range words {
		place, err := parsePlace(word, login)
		if err != nil {
			return err
		}
		if remote = remote || place.remote(); i < len(words)-1 {
			a.from = append(a.from, place)
		} else {
			a.to = place
		}
		if place.stream() && len(words) > 2 {
			return usageError("- goes with one file")
		}
	}
	if !remote {
		return withHint(usageError("no operand is on a device"), "a file there is DEVICE:PATH")
	}
	return nil
}

// cmdCp copies. What failed has been said, a line each.
func cmdCp(ctx context.Context, op sshOpener, files stdio, a cpArgs) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	bar := newCPBar(files.err, a.quiet, time.Now)
	e := newCPEngine(ctx, files.err, "cp", bar, a.quiet)
	e.preserve, e.inplace = a.preserve, a.inplace
	if a.rate > 0 {
		e.limit = &rateLimit{rate: a.rate}
	}
	sides := cpSides{op: op, errs: files.err, rate: a.rate}
	defer sides.end()
	err := sides.open(ctx, a.from, a.to)
	if err == nil {
		for _, r := range sides.all() {
			if a.verbose && !r.ext[sftpSHA256] {
				e.note(r.device, "its server tells no SHA-256: sizes alone are compared, and nothing is resumed")
			}
		}
		unhook := cutLate(ctx, sides.cut)
		err = a.copyAll(e, &sides, files)
		unhook()
	}
	bar.end(err == nil)
	if ctx.Err() != nil {
		return endedBy(ctx)
	}
	return err
}

// cutLate calls cut a second after ctx has ended, unless stop comes before: what
// is under way may still remove what is of no use.
func cutLate(ctx context.Context, cut func()) (stop func()) {
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-ctx.Done():
		case <-over:
			return
		}
		grace := time.NewTimer(sessionGrace)
		defer grace.Stop()
		select {
		case <-grace.C:
			cut()
		case <-over:
		}
	})
	return func() { close(over); watch.Wait() }
}

// cpSides are the places of one copy. Each device has a connection for what
// is read and one for what is written: they must not wait for each other.
type cpSides struct {
	op   sshOpener
	errs io.Writer
	rate int64
	from map[target]*remoteSide
	to   *remoteSide
}

func (s *cpSides) open(ctx context.Context, from []cpPlace, to cpPlace) (err error) {
	s.from = map[target]*remoteSide{}
	for _, p := range from {
		if p.remote() && s.from[p.target] == nil {
			r, err := openRemote(ctx, s.op, p.target, s.errs)
			if err != nil {
				return err
			}
			r.pace(s.rate)
			s.from[p.target] = r
		}
	}
	if to.remote() {
		if s.to, err = openRemote(ctx, s.op, to.target, s.errs); err == nil {
			s.to.pace(s.rate)
		}
	}
	return err
}

// cut ends what is under way.
func (s *cpSides) cut() {
	for _, r := range s.all() {
		r.cut()
	}
}

func (s *cpSides) all() (list []*remoteSide) {
	for _, r := range s.from {
		list = append(list, r)
	}
	if s.to != nil {
		list = append(list, s.to)
	}
	return list
}

func (s *cpSides) end() {
	for _, r := range s.all() {
		r.end()
	}
}

// errSaid ends a verb whose failures are said.
var errSaid = &exitError{status: 1}

// copyAll finds the files and copies them.
func (a *cpArgs) copyAll(e *cpEngine, sides *cpSides, files stdio) error {
	dst := cpSide(localSide{})
	if sides.to != nil {
		dst = sides.to
	}
	sources, workers := []cpSource(nil), cpSmallFiles
	whole := true
	for _, p := range a.from {
		if p.stream() {
			in := newStdinReader(files.in)
			defer context.AfterFunc(e.ctx, in.cancel)()
			sources = append(sources, cpSource{stream: &streamReader{in, make([]byte, sshChunk)}, path: "standard input"})
			continue
		}
		src := cpSide(localSide{})
		paths := []string{p.path}
		if r := sides.from[p.target]; r != nil {
			src, workers = r, min(workers, r.files)
			var err error
			if paths, err = r.expand(p.path); err != nil {
				e.say(r.show(p.path), e.reason(err))
				whole = false
				continue
			}
		}
		for _, path := range paths {
			sources = append(sources, cpSource{side: src, path: path})
		}
	}
	t := &cpTree{e: e, recursive: a.recursive, dst: dst}
	if r := sides.to; r != nil {
		workers = min(workers, r.files)
		to, err := r.home(a.to.path)
		if err != nil {
			return fmt.Errorf("%s: %w", r.show(a.to.path), err)
		}
		a.to.path = to
	}
	if a.to.stream() {
		t.sink = streamWriter{files.out}
	} else if err := t.aim(a.to.path, len(sources)); err != nil {
		return err
	}
	e.start(max(workers, 1))
	for _, s := range sources {
		t.walk(s)
	}
	t.done()
	good := e.finish()
	if dirs := t.finishDirs(); !good || !dirs || !whole {
		return errSaid
	}
	return nil
}
