package main

// This file is the audit as lines in a file: on disk within a second, rotated
// by size, never a torn line but perhaps the last one.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// auditSync is the least time between two fsyncs: with one, and the write
	// before it, a record is on disk within a second.
	auditSync = 900 * time.Millisecond
	// maxAuditLine is more than a line can have, in bytes: eight texts of
	// maxAuditText, each byte escaped in six.
	maxAuditLine = 256 << 10
	// maxAuditOut is what is kept of the buffer between writes, in bytes.
	maxAuditOut = 16 << 10
)

// An auditFile is the file that is written to.
type auditFile struct {
	path    string
	maxSize int64 // 0: not rotated
	keep    int
	opt     auditOptions
	again   *atomic.Bool
	due     *time.Timer // wakes the loop for an fsync

	f        *os.File
	size     int64 // bytes, when last looked
	limit    int64 // bytes, above which it is rotated
	torn     int   // bytes of the next line that are in the file already
	out      []byte
	unsynced int // records
	syncedAt time.Time
}

func openAuditFile(x auditExporter, opt auditOptions, o *auditOutlet) (auditSink, error) {
	if !filepath.IsAbs(x.path) {
		return nil, withHint(fmt.Errorf("path %q is not absolute", x.path), "for example /var/log/sessio/audit.log")
	}
	w := &auditFile{path: x.path, maxSize: x.maxSize, keep: x.keep, opt: opt, again: &o.again}
	if err := w.open(); err != nil {
		return nil, err
	}
	w.due = time.AfterFunc(time.Hour, o.wake)
	w.due.Stop()
	return w, nil
}

// open opens the file, or makes it, and lets go of the one before. After an
// error nothing has changed.
func (w *auditFile) open() (err error) {
	perm := fs.FileMode(0o600)
	if w.f != nil { // whoever was let read the last one may read this
		if info, err := w.f.Stat(); err == nil {
			perm = info.Mode().Perm() &^ 0o027
		}
	}
	f, err := os.OpenFile(w.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|openNoFollow, perm)
	if err != nil {
		return withHint(err, "the directory has to exist, and a symbolic link is not followed")
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", w.path)
	case info.Mode().Perm()&0o027 != 0:
		if err := f.Chmod(info.Mode().Perm() &^ 0o027); err != nil {
			return err
		}
	}
	size, err := cutAuditTail(f, info.Size())
	if err == nil {
		err = syncDir(filepath.Dir(w.path))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", w.path, err)
	}
	w.leave()
	w.f, w.size, w.limit, w.torn = f, size, w.maxSize, 0
	return nil
}

// cutAuditTail removes a line that kill -9 or a full disk has left torn, and
// returns the size. What is no line of ours is not touched.
func cutAuditTail(f *os.File, size int64) (int64, error) {
	tail := make([]byte, min(size, maxAuditLine))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, err
	}
	torn := tail[bytes.LastIndexByte(tail, '\n')+1:]
	if len(torn) == 0 {
		return size, nil
	}
	const begin = `{"id":"`
	if !strings.HasPrefix(string(torn), begin[:min(len(torn), len(begin))]) {
		return 0, withHint(errors.New("its last line is no audit record"), "give the audit a file of its own")
	}
	size -= int64(len(torn))
	return size, f.Truncate(size)
}

// leave lets go of the file; a torn line at its end is cut, for it comes again
// in the next one.
func (w *auditFile) leave() error {
	if w.f == nil {
		return nil
	}
	if info, err := w.f.Stat(); err == nil && w.torn > 0 {
		w.f.Truncate(info.Size() - int64(w.torn))
	}
	_, err := w.sync()
	return errors.Join(err, w.f.Close())
}

func (*auditFile) linger() time.Duration { return 0 }

func (w *auditFile) send(_ context.Context, events []*auditEvent) (taken, lost int, err error) {
	if w.again.Swap(false) {
		if err := w.open(); err != nil {
			w.again.Store(true)
			return 0, 0, fmt.Errorf("opening it anew: %w", err)
		}
	}
	for taken < len(events) && err == nil {
		var n int
		n, err = w.write(events[taken:])
		taken += n
		w.unsynced += n
	}
	if cap(w.out) > maxAuditOut {
		w.out = nil
	}
	if w.unsynced > 0 {
		if left := auditSync - w.opt.now().Sub(w.syncedAt); left > 0 {
			w.due.Reset(left)
		} else {
			var syncErr error
			lost, syncErr = w.sync()
			err = errors.Join(err, syncErr)
		}
	}
	return taken, lost, err
}

// sync puts what is written on disk. After an error nobody knows what is
// there: those records count as lost.
func (w *auditFile) sync() (lost int, err error) {
	if w.unsynced == 0 {
		return 0, nil
	}
	if err = w.f.Sync(); err != nil {
		lost = w.unsynced
	}
	w.unsynced, w.syncedAt = 0, w.opt.now()
	return lost, err
}

// write writes as many events as the file shall have, at least one, and
// returns how many are in it whole.
func (w *auditFile) write(events []*auditEvent) (taken int, err error) {
	out := events[0].appendLine(w.out[:0])
	if w.limit > 0 && w.torn == 0 && w.size > 0 && w.size+int64(len(out)) > w.limit {
		w.rotate(int64(len(out)))
	}
	for _, e := range events[1:] {
		n := len(out)
		if out = e.appendLine(out); w.limit > 0 && w.size+int64(len(out)) > w.limit {
			out = out[:n]
			break
		}
	}
	w.out = out
	n, err := w.f.Write(out[w.torn:])
	w.size += int64(n)
	n += w.torn
	w.torn = n - bytes.LastIndexByte(out[:n], '\n') - 1
	if err == nil && n < len(out) {
		err = io.ErrShortWrite
	}
	return bytes.Count(out[:n], []byte("\n")), err
}

// rotate makes room for so many bytes: path becomes path.1, and so on. If that
// does not work the file goes on to grow, and as much later it is tried again.
func (w *auditFile) rotate(room int64) {
	info, err := w.f.Stat()
	if err == nil && info.Size()+room <= w.limit { // something else has cut it
		w.size = info.Size()
		return
	}
	if err == nil {
		err = w.shift()
	}
	if err == nil {
		err = w.open()
	}
	if err != nil {
		w.limit += w.maxSize
		w.opt.logf(0, "audit: rotating %s: %v; it grows beyond %d bytes", w.path, err, w.maxSize)
	}
}

// shift renames what stands at path, if it is what we write to.
func (w *auditFile) shift() error {
	if !isFile(w.f, w.path) {
		return nil
	}
	if w.keep <= 0 {
		return os.Remove(w.path)
	}
	old := func(n int) string { return fmt.Sprintf("%s.%d", w.path, n) }
	for n := w.keep - 1; n > 0; n-- {
		if err := os.Rename(old(n), old(n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Rename(w.path, old(1))
}

func (w *auditFile) close() error {
	if w.due != nil {
		w.due.Stop()
	}
	return w.leave()
}
