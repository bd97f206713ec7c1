package main

// This file copies files from side to side, many small ones at once, and one
// file from beginning to end: it goes on with a part that fits, compares what
// arrived with what was read, and only then gives it its name.

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"
)

// A cpJob is one file.
type cpJob struct {
	src, dst cpSide
	from, to string
	attrs    sftpAttrs // of the source
	stream   cpReader  // instead of src; standard input
	sink     cpWriter  // instead of dst; standard output
}

func (j cpJob) size() int64 {
	if j.stream != nil || j.attrs.flags&sftpHasSize == 0 {
		return -1
	}
	return int64(min(j.attrs.size, 1<<63-1))
}

// A cpEngine copies what walkers find.
type cpEngine struct {
	ctx      context.Context
	preserve bool
	inplace  bool
	goOn     bool       // behind what is there already
	sync     bool       // have it on disk
	limit    *rateLimit // nil for none
	bar      *cpBar
	say      func(path string, err error) // a file that failed
	note     func(path, text string)

	jobs    chan cpJob
	workers sync.WaitGroup
	large   chan struct{} // slots of large files

	mu     sync.Mutex
	busy   map[string]chan struct{} // guarded by mu; targets under way, closed when done
	failed bool                     // guarded by mu
}

// newCPEngine is an engine of a verb, which tells on errs what fails and, unless
// it is quiet, what else is to be known.
func newCPEngine(ctx context.Context, errs io.Writer, verb string, bar *cpBar, quiet bool) *cpEngine {
	return &cpEngine{ctx: ctx, bar: bar,
		say: func(path string, err error) {
			bar.print(func() { sayError(errs, "sessio: "+verb, fmt.Errorf("%s: %w", path, err)) })
		},
		note: func(path, text string) {
			if !quiet {
				bar.print(func() { fmt.Fprintf(errs, "%s: %s\n", printable(path), printable(text)) })
			}
		},
	}
}

// At once are many small files, so that they do not wait for round trips one
// after another, and two large ones, so that one begins while the other ends.
// As many jobs wait as walkers may be ahead.
const (
	cpSmallFiles = 64
	cpLargeFiles = 2
	cpQueue      = 1 << 10
)

// start has workers wait for jobs.
func (e *cpEngine) start(workers int) {
	e.jobs, e.large, e.busy = make(chan cpJob, cpQueue), make(chan struct{}, cpLargeFiles), map[string]chan struct{}{}
	for range min(workers, cpSmallFiles) {
		e.workers.Go(func() {
			for j := range e.jobs {
				e.do(j)
			}
		})
	}
}

// finish waits for all jobs. It reports whether all went well.
func (e *cpEngine) finish() bool {
	close(e.jobs)
	e.workers.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.failed
}

// fail tells of a path that was not copied.
func (e *cpEngine) fail(path string, err error) {
	e.mu.Lock()
	e.failed = true
	e.mu.Unlock()
	e.say(path, err)
}

func (e *cpEngine) do(j cpJob) {
	if e.ctx.Err() != nil || lostSide(j.src) || lostSide(j.dst) {
		e.mu.Lock()
		e.failed = true // it is said of those that had begun
		e.mu.Unlock()
		return
	}
	if resumable(j.size()) || j.size() < 0 {
		e.large <- struct{}{}
		defer func() { <-e.large }()
	}
	defer e.claim(j.to)()
	e.copyFile(j)
}

// claim waits until nothing else is written to a name.
func (e *cpEngine) claim(name string) (done func()) {
	e.mu.Lock()
	for other := e.busy[name]; other != nil; other = e.busy[name] {
		e.mu.Unlock()
		<-other
		e.mu.Lock()
	}
	mine := make(chan struct{})
	e.busy[name] = mine
	e.mu.Unlock()
	return func() {
		e.mu.Lock()
		delete(e.busy, name)
		e.mu.Unlock()
		close(mine)
	}
}

func lostSide(s cpSide) bool {
	r, ok := s.(*remoteSide)
	return ok && r.over() != nil
}

// copyFile copies one file and tells what went wrong.
func (e *cpEngine) copyFile(j cpJob) {
	r, w := j.stream, j.sink
	var err error
	from := "standard input"
	if r == nil {
		from = j.src.show(j.from)
		if r, err = j.src.read(j.from, j.size()); err != nil {
			e.fail(from, err)
			return
		}
	}
	defer r.close()
	to := "standard output"
	if w == nil {
		to = j.dst.show(j.to)
		if samePlace(j.src, j.dst) && j.dst.same(j.from, j.to) {
			e.fail(from, fmt.Errorf("%s is the same file: left alone", to))
			return
		}
		perm := uint32(0o666)
		if j.attrs.flags&sftpHasMode != 0 {
			perm = j.attrs.mode
		}
		if w, err = j.dst.create(j.to, cpHow{j.size(), perm, e.inplace, e.goOn, e.sync}); err != nil {
			e.fail(to, e.reason(missing(j.dst, j.to, err)))
			return
		}
	}
	f := &cpFile{e: e, j: j, r: r, w: w, name: from, digest: sha256.New()}
	if err = f.run(); err == nil {
		return
	}
	err = e.reason(err)
	if f.unread && e.ctx.Err() == nil {
		to = from
	}
	keep := f.off > 0 && resumable(j.size()) && w.part() != "" && !f.wrong && f.summed
	there, left := w.abort(keep)
	switch {
	case left:
		err = fmt.Errorf("%w; %s could not be removed", err, j.dst.show(w.part()))
	case keep && there > 0:
		err = fmt.Errorf("%w; %s of %s stay in %s, the same command goes on there", err, sayBytes(there), sayBytes(j.size()), j.dst.show(w.part()))
	case j.sink == nil && w.part() == "":
		err = fmt.Errorf("%w; %s of it are written, in the file itself", err, sayBytes(there))
	}
	e.fail(to, err)
}

// reason is what a person is told: an interruption breaks much.
func (e *cpEngine) reason(err error) error {
	if e.ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// A cpFile is a file under way.
type cpFile struct {
	e      *cpEngine
	j      cpJob
	r      cpReader
	w      cpWriter
	name   string
	off    int64 // bytes that are copied, or were there
	digest hash.Hash
	block  int64 // where digest began
	ours   *cpSum
	checks []cpCheck
	summed bool // one side can tell what it has
	wrong  bool // it differs
	unread bool // the source is to blame
}

// A cpCheck is a digest to come, and of how many bytes.
type cpCheck struct {
	sum *cpSum
	n   int64
}

// sumBlock is how many bytes are compared at once: while they are still in the
// device's memory, and without a silence at the end that is long on a router.
const sumBlock = 64 << 20

func (f *cpFile) run() error {
	size := f.j.size()
	if size >= 0 {
		f.summed = canSum(f.j.src) || canSum(f.j.dst)
	}
	at, err := f.resume(size)
	if err == nil {
		f.off, f.block = at, at
		err = f.w.begin(at)
	}
	if err != nil {
		return err
	}
	f.e.bar.begin(f.name, at)
	if err := f.pump(size); err != nil {
		return err
	}
	var a sftpAttrs
	if f.e.preserve {
		a = f.j.attrs
		a.flags &= sftpHasMode | sftpHasTimes
	}
	if err := f.w.settle(f.off, a); err != nil {
		return err
	}
	for len(f.checks) > 0 {
		if err := f.check(); err != nil {
			return err
		}
	}
	return f.w.commit()
}

func canSum(s cpSide) bool {
	r, ok := s.(*remoteSide)
	return ok && r.ext[sftpSHA256]
}

// resume is how much of the file is there already: all of a part that agrees
// with as much of the source, or nothing.
func (f *cpFile) resume(size int64) (int64, error) {
	had := f.w.have()
	if had == 0 || size < 0 {
		return 0, nil
	}
	if had > size {
		if f.e.goOn {
			return 0, fmt.Errorf("there are %d bytes already, of %d", had, size)
		}
		return 0, nil
	}
	for off := int64(0); off < had; off += sumBlock {
		n := min(sumBlock, had-off)
		source, part := f.r.sum(off, n), f.w.sum(off, n)
		if source == nil || part == nil {
			if f.e.goOn {
				f.e.note(f.name, "whether what is there fits cannot be checked")
				return had, nil
			}
			return 0, nil
		}
		digest, got, err := part.wait()
		other, otherGot, otherErr := source.wait()
		if err = errors.Join(err, otherErr); err != nil {
			return 0, err
		}
		if string(digest) != string(other) || got != n || otherGot != n {
			if f.e.goOn {
				return 0, errors.New("what is there is not the beginning of it")
			}
			f.e.note(f.name, "the part that is there does not fit: begun anew")
			return 0, nil
		}
	}
	f.e.note(f.name, fmt.Sprintf("goes on behind %s of %s", sayBytes(had), sayBytes(size)))
	return had, nil
}

// pump copies the bytes.
func (f *cpFile) pump(size int64) error {
	_, far := f.j.src.(*remoteSide) // zeros come from there
	to, there := f.w.(*remoteWriter)
	sparse := !far && there && to.plain
	f.r.seek(f.off)
	f.askSource(size)
	for {
		data, err := f.r.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			f.unread = true
			return err
		}
		for rest := data; len(rest) > 0; {
			n := int(min(int64(len(rest)), f.block+sumBlock-f.off))
			n = f.e.limit.most(n)
			goes := rest[:n]
			if sparse {
				_, goes = withoutZeros(f.off, goes)
			}
			if err := f.e.limit.wait(f.e.ctx, len(goes)); err != nil { // or it was interrupted
				return err
			}
			f.digest.Write(rest[:n])
			if err := f.w.write(f.off, rest[:n]); err != nil {
				return err
			}
			f.off += int64(n)
			f.e.bar.add(int64(n))
			rest = rest[n:]
			if f.off == f.block+sumBlock {
				if err := f.endBlock(size); err != nil {
					return err
				}
			}
		}
		f.r.release(data)
	}
	if err := f.e.ctx.Err(); err != nil { // standard input ends with it
		return err
	}
	if f.off < size {
		f.unread = true
		return fmt.Errorf("it ended after %d of %d bytes: it has changed", f.off, size)
	}
	return f.endBlock(-1)
}

// askSource asks for the source's own digest of the block that begins, as far
// as it is known to go.
func (f *cpFile) askSource(size int64) {
	f.ours = nil
	if n := min(sumBlock, size-f.block); n > 0 {
		f.ours = f.r.sum(f.block, n)
	}
}

// endBlock has both sides' digests of the block compared with ours; a source
// that has grown is asked again. The next block begins.
func (f *cpFile) endBlock(size int64) error {
	n := f.off - f.block
	if n == 0 {
		return nil
	}
	mine := f.digest.Sum(nil)
	if f.ours != nil && f.j.size() < f.off {
		f.ours.wait()
		f.ours = f.r.sum(f.block, n)
	}
	for _, s := range []*cpSum{f.ours, f.w.sum(f.block, n)} {
		if s != nil {
			s.want = [sha256.Size]byte(mine)
			f.checks = append(f.checks, cpCheck{s, n})
		}
	}
	f.digest.Reset()
	f.block = f.off
	f.askSource(size)
	for len(f.checks) > 4 {
		if err := f.check(); err != nil {
			return err
		}
	}
	return nil
}

func (f *cpFile) check() error {
	c := f.checks[0]
	f.checks = f.checks[1:]
	err := c.sum.check(c.n)
	f.wrong = f.wrong || codeOf(err) == "differs"
	return err
}

// A rateLimit paces bytes. A nil one does not.
type rateLimit struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	next time.Time // guarded by mu; when the next byte may go
}

// most is how many of n bytes may go at once: a quarter of a second's.
func (l *rateLimit) most(n int) int {
	if l == nil {
		return n
	}
	return int(min(int64(n), max(l.rate/4, 1)))
}

// wait waits until n bytes may go.
func (l *rateLimit) wait(ctx context.Context, n int) error {
	if l == nil || n == 0 {
		return ctx.Err()
	}
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	pause := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	l.mu.Unlock()
	if pause <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
