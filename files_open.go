//go:build linux || darwin

package main

// This file reads and writes open files for the door. Where the filter judges
// by size, what is written is judged as it grows and once more when it is
// closed; until then an old file stays as it was, beside a new one.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"math"
	"path"

	"golang.org/x/sys/unix"
)

// An openFile is a file of a client. One goroutine uses it.
type openFile struct {
	door   *fileDoor
	place  filePlace
	fd     int
	pflags uint32

	bySize bool   // what is written is judged by its size
	size   int64  // bytes that have been judged
	fresh  bool   // made by us: removed if it is denied
	stage  string // name that it has until it may take its own; "" none
	denied error  // what the filter said of a write

	read, written int64 // bytes, for the audit
}

// open opens a file as pflags says (sftpOpenRead…); mode is that of a new one,
// less the umask. size is how long what is written will be, in bytes, -1 where
// that is not known.
func (d *fileDoor) open(p string, pflags, mode uint32, size int64) (*openFile, error) {
	writes := pflags&(sftpOpenWrite|sftpOpenCreate|sftpOpenTrunc) != 0
	reads := pflags&sftpOpenRead != 0 || pflags&sftpOpenWrite == 0 // as the kernel has it
	exclusive := pflags&(sftpOpenCreate|sftpOpenExcl) == sftpOpenCreate|sftpOpenExcl
	f := &openFile{door: d, pflags: pflags, fd: -1}
	var err error
	f.place, err = d.at(p, !exclusive)
	if writes {
		err = last(err, f.allowWrite(size))
	}
	if reads {
		err = last(err, d.allow(opDownload, &f.place, -1))
	}
	if err == nil && writes && d.maxSize > 0 && size > d.maxSize {
		err = unix.EFBIG
	}
	if err == nil {
		err = f.open(mode)
	}
	if err == nil {
		err = f.check()
	}
	if err != nil {
		if f.stage != "" || f.fresh && f.fd >= 0 {
			f.discard()
		}
		f.release()
		return nil, err
	}
	kind := auditFileOpenRead
	if writes {
		kind = auditFileOpenWrite
	}
	d.tell(kind, &f.place, auditEvent{}, nil)
	return f, nil
}

// allowWrite judges an upload, unless its size, not known yet, decides.
func (f *openFile) allowWrite(size int64) error {
	d := f.door
	if d.filter != nil && size < 0 && !d.readOnly {
		if v := d.judge(opUpload, &f.place, -1); v.bySize {
			f.bySize = true
			return nil
		}
	}
	return d.allow(opUpload, &f.place, size)
}

func (f *openFile) open(mode uint32) (err error) {
	flags := unix.O_RDONLY
	switch f.pflags & (sftpOpenRead | sftpOpenWrite) {
	case sftpOpenRead | sftpOpenWrite:
		flags = unix.O_RDWR
	case sftpOpenWrite:
		flags = unix.O_WRONLY
	}
	for _, b := range [...][2]int{{sftpOpenAppend, unix.O_APPEND}, {sftpOpenCreate, unix.O_CREAT}, {sftpOpenTrunc, unix.O_TRUNC}, {sftpOpenExcl, unix.O_EXCL}} {
		if f.pflags&uint32(b[0]) != 0 {
			flags |= b[1]
		}
	}
	pl := f.place
	if f.bySize {
		st, err := pl.stat()
		switch {
		case err != nil:
			f.fresh = true
		case st.isRegular() && f.pflags&sftpOpenTrunc != 0 && flags&unix.O_EXCL == 0:
			f.stage = ".sessio-" + rand.Text()
			pl.name = path.Join(path.Dir(pl.name), f.stage)
			mode, flags = st.mode&0o7777, flags|unix.O_CREAT|unix.O_EXCL
		default:
			// What is there already, and longer, no write can mend.
			f.size = st.size
			if d := f.door; d.judge(opUpload, &pl, math.MaxInt64).action == filterDeny {
				if v := d.judge(opUpload, &pl, st.size); v.action == filterDeny {
					return d.apply(opUpload, &f.place, v)
				}
			}
		}
		if f.fresh && flags&unix.O_CREAT != 0 {
			flags |= unix.O_EXCL // what came meanwhile is not ours to remove
		}
	}
	f.fd, err = pl.open(flags, f.door.modeOf(mode))
	if err != nil {
		f.fresh, f.stage = false, ""
		return err
	}
	if f.stage != "" {
		return unix.Fchmod(f.fd, f.door.modeOf(mode)) // the umask was for the old one
	}
	return nil
}

// check refuses, below a root or a filter, what is neither file nor directory,
// and what the kernel only makes up; to write that is refused in any case: by
// /proc/self/mem this process itself would be changed.
func (f *openFile) check() error {
	if (f.door.walks || f.pflags&sftpOpenWrite != 0) && onProc(f.fd) {
		return unix.EACCES
	}
	if !f.door.walks {
		return nil
	}
	st, err := f.stat()
	if err == nil && !st.isRegular() && !st.isDir() {
		err = unix.EACCES
	}
	return err
}

func (f *openFile) stat() (fileStat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return fileStat{}, err
	}
	return statOf(&st), nil
}

// statJudged is stat for the client.
func (f *openFile) statJudged() (fileStat, error) {
	if err := f.door.allow(opStat, &f.place, -1); err != nil {
		return fileStat{}, err
	}
	return f.stat()
}

// readAt fills b as far as the file goes; io.EOF when nothing is there.
func (f *openFile) readAt(b []byte, off uint64) (n int, err error) {
	if off > math.MaxInt64-uint64(len(b)) {
		return 0, unix.EINVAL
	}
	for n < len(b) {
		k, err := unix.Pread(f.fd, b[n:], int64(off)+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil && n == 0 {
			return 0, err
		}
		if k <= 0 {
			break
		}
		n += k
	}
	f.read += int64(n)
	if n == 0 { // pread takes an offset that no file of this kind can have
		if _, err := unix.Seek(f.fd, int64(off), io.SeekStart); err != nil {
			return 0, err
		}
	}
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// writeAt writes all of b, at the end of a file that is open for that.
func (f *openFile) writeAt(b []byte, off uint64) error {
	if off > math.MaxInt64-uint64(len(b)) {
		return unix.EINVAL
	}
	appends := f.pflags&sftpOpenAppend != 0
	if err := f.mayGrow(int64(off)+int64(len(b)), appends, int64(len(b))); err != nil {
		return err
	}
	for len(b) > 0 {
		var n int
		var err error
		if appends {
			n, err = unix.Write(f.fd, b)
		} else {
			n, err = unix.Pwrite(f.fd, b, int64(off))
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		f.written += int64(n)
		off += uint64(n)
		b = b[n:]
	}
	return nil
}

// mayGrow judges a file that is to be end bytes long, or grow by more where it
// is appended to. A denial that a greater size would lift waits for the close.
func (f *openFile) mayGrow(end int64, appends bool, more int64) error {
	d := f.door
	if !f.bySize && d.maxSize == 0 {
		return nil
	}
	if f.denied != nil {
		return f.denied
	}
	if appends {
		st, err := f.stat()
		if err != nil {
			return err
		}
		end = st.size + more
	}
	if d.maxSize > 0 && end > d.maxSize {
		return unix.EFBIG
	}
	if !f.bySize || end <= f.size {
		return nil
	}
	if v := d.judge(opUpload, &f.place, end); v.action == filterDeny && d.judge(opUpload, &f.place, math.MaxInt64).action == filterDeny {
		f.denied = d.apply(opUpload, &f.place, v)
		return f.denied
	}
	f.size = end
	return nil
}

// setstat changes what a says.
func (f *openFile) setstat(a sftpAttrs) (err error) {
	if err := f.door.allow(opSetstat, &f.place, -1); err != nil {
		return err
	}
	if a.flags&sftpHasSize != 0 {
		err = f.truncate(a.size)
	}
	if a.flags&sftpHasOwner != 0 {
		err = last(err, unix.Fchown(f.fd, int(a.uid), int(a.gid)))
	}
	if a.flags&sftpHasMode != 0 {
		err = last(err, unix.Fchmod(f.fd, f.door.modeOf(a.mode)))
	}
	if a.flags&sftpHasTimes != 0 {
		ts, tsErr := timesOf(a)
		if tsErr == nil {
			tsErr = unix.Futimes(f.fd, []unix.Timeval{unix.NsecToTimeval(ts[0].Nano()), unix.NsecToTimeval(ts[1].Nano())})
		}
		err = last(err, tsErr)
	}
	return err
}

func (f *openFile) truncate(size uint64) error {
	if size > math.MaxInt64 {
		return unix.EINVAL
	}
	if !f.bySize {
		if err := f.door.allow(opUpload, &f.place, int64(size)); err != nil {
			return err
		}
	}
	if err := f.mayGrow(int64(size), false, 0); err != nil {
		return err
	}
	return unix.Ftruncate(f.fd, int64(size))
}

func (f *openFile) sync() error { return unix.Fsync(f.fd) }

func (f *openFile) statvfs() (fileSystem, error) {
	if err := f.door.allow(opStat, &f.place, -1); err != nil {
		return fileSystem{}, err
	}
	return statFileSystem(f.fd)
}

// hashChunk is how much is read at once to be hashed or copied, in bytes; a
// session that ends is noticed between two.
const hashChunk = 64 << 10

// sum is the SHA-256 of length bytes from off, or to the end where length is 0
// or the file shorter; n is how many bytes it is of.
func (f *openFile) sum(ctx context.Context, off, length uint64) (digest [sha256.Size]byte, n uint64, err error) {
	if err := f.door.allow(opDownload, &f.place, -1); err != nil {
		return digest, 0, err
	}
	h := sha256.New()
	n, err = f.each(ctx, off, length, func(b []byte) error {
		h.Write(b)
		return nil
	})
	h.Sum(digest[:0])
	return digest, n, err
}

// copyTo copies length bytes from off, or to the end where it is 0, to a place
// in another file.
func (f *openFile) copyTo(ctx context.Context, off, length uint64, to *openFile, at uint64) error {
	if err := last(f.door.allow(opDownload, &f.place, -1), f.door.allow(opUpload, &to.place, to.size)); err != nil && !to.bySize {
		return err
	}
	_, err := f.each(ctx, off, length, func(b []byte) error {
		err := to.writeAt(b, at)
		at += uint64(len(b))
		return err
	})
	return err
}

// each goes through length bytes from off, or to the end where length is 0.
func (f *openFile) each(ctx context.Context, off, length uint64, do func([]byte) error) (n uint64, err error) {
	b := make([]byte, hashChunk)
	for length == 0 || n < length {
		if ctx.Err() != nil {
			return n, unix.ECANCELED
		}
		want := uint64(len(b))
		if length > 0 {
			want = min(want, length-n)
		}
		k, err := f.readAt(b[:want], off+n)
		if err == io.EOF {
			break
		}
		if err == nil {
			err = do(b[:k])
		}
		if err != nil {
			return n, err
		}
		n += uint64(k)
	}
	return n, nil
}

// close closes the file, with the failure of a write that comes only now. What
// was written and is denied is gone then, and what was there before is left.
func (f *openFile) close() error {
	err := f.end()
	f.tell(err)
	return err
}

func (f *openFile) end() error {
	err := f.denied
	if f.bySize && err == nil {
		st, statErr := f.stat()
		if err = statErr; err == nil {
			err = f.door.apply(opUpload, &f.place, f.door.judge(opUpload, &f.place, st.size))
		}
	}
	switch {
	case f.bySize && err != nil:
		f.discard()
	case f.stage != "":
		dir, tmp := f.place.dir, path.Join(path.Dir(f.place.name), f.stage)
		if err = unix.Renameat(dir, tmp, dir, f.place.name); err != nil {
			f.discard()
		}
	}
	return last(err, f.release())
}

// abandon closes a file that its client has not: an upload that was not to be
// seen before its end is dropped.
func (f *openFile) abandon() {
	err := errFileCut
	if f.stage != "" {
		f.discard()
		f.release()
	} else {
		err = last(err, f.end())
	}
	f.tell(err)
}

var errFileCut = errors.New("the session ended before the file was closed")

// discard removes what must not stay.
func (f *openFile) discard() {
	if f.fd >= 0 && (f.stage != "" || f.fresh) {
		unix.Ftruncate(f.fd, 0) // it may have another name by now
	}
	switch {
	case f.stage != "":
		unix.Unlinkat(f.place.dir, path.Join(path.Dir(f.place.name), f.stage), 0)
	case f.fresh:
		var own, there unix.Stat_t
		if unix.Fstat(f.fd, &own) == nil && unix.Fstatat(f.place.dir, f.place.name, &there, unix.AT_SYMLINK_NOFOLLOW) == nil &&
			own.Dev == there.Dev && own.Ino == there.Ino {
			unix.Unlinkat(f.place.dir, f.place.name, 0)
		}
	}
}

// release gives the descriptors back.
func (f *openFile) release() (err error) {
	if f.fd >= 0 {
		err = unix.Close(f.fd)
		f.fd = -1
	}
	f.place.close()
	return err
}

// tell records what was moved: one record a direction.
func (f *openFile) tell(err error) {
	if f.door.note == nil {
		return
	}
	if f.pflags&sftpOpenWrite != 0 {
		f.door.tell(auditFileUploaded, &f.place, auditEvent{bytes: &f.written}, err)
	}
	if f.pflags&sftpOpenWrite == 0 || f.read > 0 {
		f.door.tell(auditFileDownloaded, &f.place, auditEvent{bytes: &f.read}, err)
	}
}
