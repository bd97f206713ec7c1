package main

// This file is this machine as one side of a copy.

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// localSide is stateless: names are paths of this process.
type localSide struct{}

func (localSide) join(dir, name string) string {
	return strings.TrimSuffix(dir, string(filepath.Separator)) + string(filepath.Separator) + name
}
func (localSide) base(name string) string { return filepath.Base(name) }
func (localSide) show(name string) string { return name }
func (localSide) resolve(name string) (string, error) {
	real, err := filepath.EvalSymlinks(name)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	return real, reasonOf(err)
}

// same compares devices and inodes.
func (localSide) same(a, b string) bool {
	one, err := os.Stat(a)
	two, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(one, two)
}

func (localSide) stat(name string, follow bool) (sftpAttrs, error) {
	info, err := os.Lstat(name)
	if follow && err == nil && info.Mode()&fs.ModeSymlink != 0 {
		info, err = os.Stat(name)
	}
	if err != nil {
		return sftpAttrs{}, reasonOf(err)
	}
	return attrsOf(info), nil
}

// reasonOf leaves out the path that the caller names.
func reasonOf(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	if l := (*os.LinkError)(nil); errors.As(err, &l) {
		return l.Err
	}
	return err
}

// goModes are the bits of perm that package fs has elsewhere.
var goModes = []struct {
	bit uint32
	of  fs.FileMode
}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}}

func attrsOf(info fs.FileInfo) sftpAttrs {
	a := sftpAttrs{flags: sftpHasSize | sftpHasMode | sftpHasTimes, size: uint64(info.Size()), mode: uint32(info.Mode().Perm())}
	switch info.Mode().Type() {
	case 0:
		a.mode |= modeFile
	case fs.ModeDir:
		a.mode |= modeDir
	case fs.ModeSymlink:
		a.mode |= modeLink
	}
	for _, m := range goModes {
		if info.Mode()&m.of != 0 {
			a.mode |= m.bit
		}
	}
	a.mtime = uint32(min(max(info.ModTime().Unix(), 0), math.MaxUint32))
	a.atime = a.mtime
	addSystemAttrs(&a, info)
	return a
}

// goMode is perm as package fs has it.
func goMode(perm uint32) fs.FileMode {
	mode := fs.FileMode(perm & 0o777)
	for _, m := range goModes {
		if perm&m.bit != 0 {
			mode |= m.of
		}
	}
	return mode
}

func (localSide) list(dir string, each func(string, sftpAttrs) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return reasonOf(err)
	}
	defer d.Close()
	for {
		const page = 256
		entries, err := d.ReadDir(page)
		for _, e := range entries {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // it has vanished
			}
			if err != nil {
				return reasonOf(err)
			}
			if err := each(e.Name(), attrsOf(info)); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return reasonOf(err)
		}
	}
}

func (localSide) mkdir(name string, perm uint32) error {
	return reasonOf(os.Mkdir(name, fs.FileMode(perm&0o777)))
}

func (localSide) set(name string, a sftpAttrs) (err error) {
	if a.flags&sftpHasMode != 0 {
		err = os.Chmod(name, goMode(a.mode))
	}
	if a.flags&sftpHasTimes != 0 && err == nil {
		err = os.Chtimes(name, time.Unix(int64(a.atime), 0), time.Unix(int64(a.mtime), 0))
	}
	return reasonOf(err)
}

// A localReader reads a file in chunks.
type localReader struct {
	f   *os.File
	buf []byte
	at  int64

	sought bool
}

// errPipe: an open would wait for the other end, with nothing to end that.
var errPipe = withHint(errors.New("is a pipe"), "sessio cp - DEVICE:FILE takes what comes on standard input")

func (localSide) read(name string, size int64) (cpReader, error) {
	if info, err := os.Stat(name); err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		return nil, errPipe
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, reasonOf(err)
	}
	n := int64(maxSFTPData)
	if size >= 0 {
		n = min(n, cmp.Or(size, sshChunk)+1) // and the end; a disk and /proc have no size
	}
	return &localReader{f: f, buf: make([]byte, n)}, nil
}

func (r *localReader) seek(at int64)  { r.at, r.sought = at, true }
func (r *localReader) release([]byte) {}
func (r *localReader) close()         { r.f.Close() }

func (r *localReader) next() ([]byte, error) {
	n, err := r.f.ReadAt(r.buf, r.at)
	r.at += int64(n)
	if n > 0 {
		return r.buf[:n], nil
	}
	return nil, reasonOf(err)
}

func (r *localReader) sum(off, n int64) *cpSum { return fileSum(r.f, off, n, r.sought) }

// fileSum hashes when it is waited for.
func fileSum(f *os.File, off, n int64, never bool) *cpSum {
	if never {
		return nil
	}
	return &cpSum{off: off, wait: func() ([]byte, int64, error) {
		h := sha256.New()
		got, err := io.CopyBuffer(h, io.NewSectionReader(f, off, n), make([]byte, 64<<10))
		return h.Sum(nil), got, err
	}}
}

// A localWriter writes a file, or its part.
type localWriter struct {
	f          *os.File
	name, file string // that it shall have, and has
	had        int64
	perm       uint32 // that it shall have; with sftpHasMode it is set
	setPerm    bool
	regular    bool
	good       int64 // the end of what is written
	begun      bool
	sync       bool
	closed     bool
	old, made  fs.FileInfo // what it replaces, if anything; its part
	mode       fs.FileMode // of a new part
}

func (localSide) create(name string, how cpHow) (cpWriter, error) {
	w, err := createLocal(name, how, 0)
	if err != nil {
		return nil, reasonOf(err)
	}
	return w, nil
}

// maxLinks is how many links are followed one after another, as Linux does.
const maxLinks = 40

// createLocal writes through links, as scp does: the part stands beside what
// they lead to.
func createLocal(name string, how cpHow, links int) (*localWriter, error) {
	old, err := os.Lstat(name)
	if how.inplace {
		old, err = os.Stat(name)
	}
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err != nil:
		old = nil
	case old.IsDir():
		return nil, errors.New("is a directory")
	case old.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(name)
		if err != nil || links == maxLinks {
			return nil, cmp.Or(err, error(syscall.ELOOP))
		}
		if !filepath.IsAbs(to) {
			to = localSide{}.join(filepath.Dir(name), to)
		}
		return createLocal(to, how, links+1)
	case !old.Mode().IsRegular():
		how.inplace = true // a device, a fifo
	}
	w := &localWriter{name: name, file: name, perm: how.perm & 0o777, regular: old == nil || old.Mode().IsRegular(), sync: how.sync}
	w.mode = fs.FileMode(w.perm | 0o600) // until all is written the owner may write
	flags := os.O_RDWR | os.O_CREATE
	if !w.regular {
		flags = os.O_WRONLY
	} else if how.inplace && !how.goOn {
		flags |= os.O_TRUNC
	}
	if how.inplace {
		w.f, err = os.OpenFile(w.file, flags, w.mode)
	} else {
		w.file = filepath.Join(filepath.Dir(name), partName(filepath.Base(name)))
		then := sftpAttrs{mode: how.perm}
		if w.old = old; old != nil {
			then, w.mode = attrsOf(old), 0o600
		}
		if err = nil; !resumable(how.size) || !w.adopt(then) {
			err = w.renew()
		}
	}
	if err == nil {
		w.made, err = w.f.Stat()
	}
	if err != nil {
		return nil, err
	}
	if w.regular {
		w.had = w.made.Size()
	}
	if now := uint32(w.made.Mode().Perm()); w.old != nil {
		w.perm, w.setPerm = attrsOf(w.old).mode&0o7777, true
	} else if old == nil {
		w.perm &= now
		w.setPerm = w.perm != now
	}
	return w, nil
}

// adopt opens a part that is there, if nobody else can have it open who may not
// open then.
func (w *localWriter) adopt(then sftpAttrs) bool {
	f, err := os.OpenFile(w.file, os.O_RDWR|openNoFollow, 0)
	if err != nil {
		return false
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || !ownPart(info, then) {
		f.Close()
		return false
	}
	w.f = f
	return true
}

// renew makes the part anew. What is there loses its name, but is left as it
// is: another copy may be writing it.
func (w *localWriter) renew() (err error) {
	if w.f != nil {
		w.f.Close()
	}
	if _, err := os.Lstat(w.file); err == nil {
		if err := os.Remove(w.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is in the way: %w", w.file, reasonOf(err))
		}
	}
	w.f, err = os.OpenFile(w.file, os.O_RDWR|os.O_CREATE|os.O_EXCL, w.mode)
	return err
}

// ours reports whether the part still has its name.
func (w *localWriter) ours() bool {
	now, err := os.Lstat(w.file)
	return err == nil && os.SameFile(now, w.made)
}

func (w *localWriter) have() int64 { return w.had }

func (w *localWriter) part() string {
	if w.file == w.name {
		return ""
	}
	return w.file
}

func (w *localWriter) begin(at int64) error {
	if w.begun, w.good = true, at; at == w.had || !w.regular {
		return nil
	}
	if w.file == w.name {
		return reasonOf(w.f.Truncate(at))
	}
	err := w.renew()
	if err == nil {
		w.made, err = w.f.Stat()
	}
	return reasonOf(err)
}

// write leaves holes for zeros: what is there behind begin is a hole already.
func (w *localWriter) write(off int64, data []byte) error {
	if !w.regular { // a fifo, a terminal
		_, err := w.f.Write(data)
		return reasonOf(err)
	}
	if off, data = withoutZeros(off, data); len(data) == 0 {
		return nil
	}
	n, err := w.f.WriteAt(data, off)
	w.good = off + int64(n)
	return reasonOf(err)
}

func (w *localWriter) sum(off, n int64) *cpSum { return fileSum(w.f, off, n, w.begun || !w.regular) }

func (w *localWriter) settle(size int64, a sftpAttrs) error {
	err := w.finish(size, a)
	w.closed = true
	if closeErr := w.f.Close(); err == nil {
		err = closeErr
	}
	if a.flags&sftpHasTimes != 0 && err == nil {
		err = localSide{}.set(w.file, sftpAttrs{flags: sftpHasTimes, atime: a.atime, mtime: a.mtime})
	}
	return reasonOf(err)
}

func (w *localWriter) finish(size int64, a sftpAttrs) error {
	if !w.regular {
		return nil
	}
	err := w.f.Truncate(size) // what ends in a hole
	if a.flags&sftpHasMode != 0 {
		w.perm, w.setPerm = a.mode&0o1777, true // a device makes nothing here setuid
	}
	if w.old != nil {
		keepOwner(w.f, w.old, w.made)
	}
	if err == nil && w.setPerm {
		err = w.f.Chmod(goMode(w.perm))
	}
	if err == nil && w.sync {
		err = w.f.Sync()
	}
	return err
}

func (w *localWriter) commit() error {
	if w.file == w.name {
		return nil
	}
	if !w.ours() {
		return errTaken
	}
	return reasonOf(os.Rename(w.file, w.name))
}

func (w *localWriter) abort(keep bool) (there int64, left bool) {
	if !w.closed {
		w.f.Close()
	}
	if w.file != w.name && !w.ours() {
		return 0, false
	}
	return w.good, !keep && w.file != w.name && os.Remove(w.file) != nil
}

// localHome expands ~ for the verb sftp, whose words no shell has read.
func localHome(name string) string {
	if rest, ok := strings.CutPrefix(name, "~"); ok && (rest == "" || rest[0] == '/') {
		if home, err := os.UserHomeDir(); err == nil {
			return home + rest
		}
	}
	return name
}
