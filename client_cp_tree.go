package main

// This file finds the files of a copy: trees are walked by several at once,
// ahead of those who copy, and links are followed but for circles.

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
)

// A cpSource is where a copy begins.
type cpSource struct {
	side   cpSide
	path   string
	stream cpReader
}

// A cpTree is the target and what was found of the sources.
type cpTree struct {
	e         *cpEngine
	recursive bool
	dst       cpSide
	to        string
	into      bool     // to is a directory that the sources go into
	sink      cpWriter // standard output

	walkers sync.WaitGroup
	slots   chan struct{}

	mu   sync.Mutex
	dirs []cpDir // guarded by mu; made, to get their attributes last
}

type cpDir struct {
	path  string
	depth int
	attrs sftpAttrs
}

// Bounds of a walk: walkers at once; how deep a tree may be, which the length
// of paths bounds elsewhere; directories and links of one directory, so that a
// device cannot fill the memory.
const (
	cpWalkers    = 16
	maxTreeDepth = 512
	maxOffshoots = 1 << 20
)

// aim finds out what the target is.
func (t *cpTree) aim(to string, sources int) error {
	t.to = to
	a, err := t.dst.stat(to, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", t.dst.show(to), err)
	}
	if t.into = err == nil && a.is(modeDir); t.into {
		return nil
	}
	if sources > 1 || strings.HasSuffix(to, "/") && !t.recursive {
		if err != nil {
			return noDirectory(t.dst, to)
		}
		return fmt.Errorf("%s is no directory", t.dst.show(to))
	}
	return nil
}

// missing is why something could not be made, where that is its directory.
func missing(s cpSide, name string, err error) error {
	trimmed := strings.TrimRight(name, "/")
	dir := strings.TrimSuffix(trimmed, s.base(trimmed))
	if dir == "" || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, statErr := s.stat(dir, true); !errors.Is(statErr, fs.ErrNotExist) {
		return err
	}
	return noDirectory(s, dir)
}

func noDirectory(s cpSide, dir string) error {
	in := ""
	if r, ok := s.(*remoteSide); ok {
		in = " in sessio sftp " + r.device
	}
	return withHint(fmt.Errorf("no such file or directory: there is no %s", s.show(strings.TrimRight(dir, "/"))), "mkdir%s makes it", in)
}

// walk finds what is in one source.
func (t *cpTree) walk(s cpSource) {
	if t.slots == nil {
		t.slots = make(chan struct{}, cpWalkers)
	}
	if s.stream != nil {
		if t.into {
			t.e.fail(t.dst.show(t.to), errors.New("is a directory: standard input has no name"))
			return
		}
		t.emit(cpJob{dst: t.dst, to: t.to, stream: s.stream})
		return
	}
	a, err := s.side.stat(s.path, true)
	if err != nil {
		t.e.fail(s.side.show(s.path), t.e.reason(err))
		return
	}
	to := t.to
	if trimmed := strings.TrimRight(s.path, "/"); t.into {
		if base := s.side.base(trimmed); base != "" && base != "." && base != ".." {
			to = t.dst.join(to, base)
		}
	}
	if a.is(modeDir) && t.recursive && samePlace(s.side, t.dst) && t.inItself(s, to) {
		t.e.fail(s.side.show(s.path), fmt.Errorf("%s is in it, or is it: left alone", t.dst.show(to)))
		return
	}
	t.branch(s.side, s.path, to, a, 0, "")
}

// inItself reports whether a directory would be copied to where it is.
func (t *cpTree) inItself(s cpSource, to string) bool {
	from, err := s.side.resolve(s.path)
	if err != nil {
		return false
	}
	real, err := t.dst.resolve(to)
	if trimmed := strings.TrimRight(to, "/"); err != nil { // it is yet to be made
		name := t.dst.base(trimmed)
		if dir := strings.TrimSuffix(trimmed, name); dir != "" {
			real, err = t.dst.resolve(dir)
		} else {
			real, err = t.dst.resolve(".")
		}
		real = t.dst.join(real, name)
	}
	return err == nil && strings.HasPrefix(t.dst.join(real, ""), s.side.join(from, ""))
}

// branch takes a file or a directory. real is the resolved path of the
// directory that it was found in, when a link led here.
func (t *cpTree) branch(src cpSide, from, to string, a sftpAttrs, depth int, real string) {
	switch {
	case t.e.ctx.Err() != nil || lostSide(src):
	case a.is(modeDir) && !t.recursive:
		t.e.fail(src.show(from), withHint(errors.New("is a directory"), "-r copies directories"))
	case a.is(modeDir) && t.sink != nil:
		t.e.fail(src.show(from), errors.New("is a directory, and standard output is a file"))
	case a.is(modeDir):
		t.directory(src, from, to, a, depth, real)
	case a.is(modeFile) || a.flags&sftpHasMode == 0 || depth == 0:
		t.emit(cpJob{src: src, from: from, dst: t.dst, to: to, attrs: a, sink: t.sink})
	default:
		t.e.fail(src.show(from), errors.New("is no regular file: left out"))
	}
}

func (t *cpTree) emit(j cpJob) {
	j.sink = t.sink
	t.e.bar.found(j.size())
	t.e.jobs <- j
}

// directory makes a directory and takes what is in it.
func (t *cpTree) directory(src cpSide, from, to string, a sftpAttrs, depth int, real string) {
	if depth > maxTreeDepth {
		t.e.fail(src.show(from), fmt.Errorf("more than %d directories deep: left out", maxTreeDepth))
		return
	}
	mode := a.mode & 0o777
	if err := t.dst.mkdir(to, mode|0o700); err == nil {
		t.later(to, a, depth, mode&0o700 != 0o700)
	} else if old, statErr := t.dst.stat(to, true); statErr != nil || !old.is(modeDir) {
		t.e.fail(t.dst.show(to), t.e.reason(missing(t.dst, to, err)))
		return
	} else {
		t.later(to, a, depth, false)
	}
	if real == "" {
		var err error
		if real, err = src.resolve(from); err != nil {
			t.e.fail(src.show(from), t.e.reason(err))
			return
		}
	}
	type branch struct {
		name string
		a    sftpAttrs
	}
	var branches []branch
	err := src.list(from, func(name string, a sftpAttrs) error {
		if t.e.ctx.Err() != nil {
			return t.e.ctx.Err()
		}
		if !a.is(modeDir) && !a.is(modeLink) && a.flags&sftpHasMode != 0 {
			t.branch(src, src.join(from, name), t.dst.join(to, name), a, depth+1, "")
			return nil
		}
		if len(branches) == maxOffshoots {
			return fmt.Errorf("more than %d directories and links", maxOffshoots)
		}
		branches = append(branches, branch{name, a})
		return nil
	})
	if err != nil {
		t.e.fail(src.show(from), t.e.reason(err))
	}
	for _, b := range branches {
		visit := func() {
			t.visit(src, src.join(from, b.name), t.dst.join(to, b.name), b.a, depth+1, src.join(real, b.name))
		}
		select {
		case t.slots <- struct{}{}:
			t.walkers.Go(func() {
				visit()
				<-t.slots
			})
		default:
			visit()
		}
	}
}

// visit takes a directory, or what a link leads to.
func (t *cpTree) visit(src cpSide, from, to string, a sftpAttrs, depth int, real string) {
	if a.is(modeDir) {
		t.branch(src, from, to, a, depth, real)
		return
	}
	a, err := src.stat(from, true)
	if err == nil && a.is(modeDir) {
		var leads string
		if leads, err = src.resolve(from); err == nil && strings.HasPrefix(real, src.join(leads, "")) {
			err = errors.New("links to a directory that it is in: left out")
		}
		real = leads
	}
	if err != nil {
		t.e.fail(src.show(from), t.e.reason(err))
		return
	}
	t.branch(src, from, to, a, depth, real)
}

// later keeps what a directory shall have when all is in it.
func (t *cpTree) later(to string, a sftpAttrs, depth int, narrow bool) {
	if a.flags &= sftpHasMode | sftpHasTimes; !t.e.preserve {
		a.flags &^= sftpHasTimes
	}
	if !t.e.preserve && !narrow {
		return
	}
	if _, here := t.dst.(localSide); here {
		a.mode &= 0o3777
	}
	a.mode &= 0o7777
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dirs = append(t.dirs, cpDir{to, depth, a})
}

// done waits for the walkers.
func (t *cpTree) done() {
	t.walkers.Wait()
	t.e.bar.foundAll()
}

// finishDirs gives directories their modes and times, the deepest first: what
// is set may shut them.
func (t *cpTree) finishDirs() bool {
	if t.e.ctx.Err() != nil || lostSide(t.dst) {
		return false
	}
	deepest := 0
	for _, d := range t.dirs {
		deepest = max(deepest, d.depth)
	}
	levels := make([][]cpDir, deepest+1)
	for _, d := range t.dirs {
		levels[d.depth] = append(levels[d.depth], d)
	}
	good := true
	var mu sync.Mutex
	slots := make(chan struct{}, cpSmallFiles)
	for depth := deepest; depth >= 0; depth-- {
		var sets sync.WaitGroup
		for _, d := range levels[depth] {
			slots <- struct{}{}
			sets.Go(func() {
				defer func() { <-slots }()
				if err := t.dst.set(d.path, d.attrs); err != nil {
					mu.Lock()
					defer mu.Unlock()
					good = false
					t.e.say(t.dst.show(d.path), t.e.reason(err))
				}
			})
		}
		sets.Wait()
	}
	return good
}

// home makes a device's path of what was typed: SFTP begins at the login's
// home, and another's home has to be asked for.
func (r *remoteSide) home(p string) (string, error) {
	switch {
	case strings.Trim(strings.TrimPrefix(p, "~"), "/") == "" && !strings.HasPrefix(p, "/"):
		return ".", nil
	case strings.HasPrefix(p, "~/"):
		return strings.TrimLeft(p[1:], "/"), nil
	case p[0] == '~' && r.ext[sftpExpandPath]:
		name, rest, _ := strings.Cut(p, "/")
		dir, err := r.extended(sftpExpandPath, appendSFTPString(nil, name)).oneName()
		if err != nil || rest == "" {
			return dir, err
		}
		return r.join(dir, rest), nil
	}
	return p, nil
}

// maxGlobFound is how many names one pattern may stand for.
const maxGlobFound = 1 << 17

// expand is the paths that a pattern stands for, in order. A file by that very
// name goes first.
func (r *remoteSide) expand(pattern string) ([]string, error) {
	pattern, err := r.home(pattern)
	if err != nil || !strings.ContainsAny(pattern, `*?[`) {
		return []string{pattern}, err
	}
	if _, err := r.stat(pattern, false); err == nil {
		return []string{pattern}, nil
	}
	found := []string{""}
	if strings.HasPrefix(pattern, "/") {
		found = []string{"/"}
	}
	for part := range strings.SplitSeq(strings.Trim(pattern, "/"), "/") {
		if found, err = r.expandPart(found, part); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, errors.New("nothing there has such a name")
	}
	return found, nil
}

func (r *remoteSide) expandPart(dirs []string, part string) (found []string, err error) {
	if part == "" {
		return dirs, nil
	}
	pattern := strings.ReplaceAll(part, "[!", "[^")
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("%q is no pattern", part)
	}
	for _, dir := range dirs {
		join := func(name string) string {
			if dir == "" {
				return name
			}
			return r.join(dir, name)
		}
		if !strings.ContainsAny(part, `*?[\`) {
			if _, err := r.stat(join(part), false); err == nil {
				found = append(found, join(part))
			}
			continue
		}
		in := dir
		if in == "" {
			in = "."
		}
		var names []string
		err := r.list(in, func(name string, _ sftpAttrs) error {
			if ok, _ := path.Match(pattern, name); ok && (name[0] != '.' || part[0] == '.') {
				names = append(names, join(name))
			}
			if len(found)+len(names) > maxGlobFound {
				return fmt.Errorf("more than %d names", maxGlobFound)
			}
			return nil
		})
		if err != nil && len(dirs) == 1 {
			return nil, err
		}
		slices.Sort(names)
		found = append(found, names...)
	}
	return found, nil
}
