package main

// This file is a device as one side of a copy: the same acts as SFTP requests,
// as many of them at once as do not depend on each other.

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"golang.org/x/crypto/ssh"
)

// A remoteSide is a device's files over one session.
type remoteSide struct {
	*sftpClient
	device string
	conn   *sshClient
	ch     *remoteSession
}

// openRemote connects to a device and starts SFTP there.
func openRemote(ctx context.Context, op sshOpener, t target, errs io.Writer) (*remoteSide, error) {
	conn, err := dialSSH(ctx, op, t.device, t.login)
	if err != nil {
		return nil, err
	}
	io.WriteString(errs, conn.banner)
	r, err := startSFTP(ctx, conn)
	if err != nil {
		conn.close()
		return nil, err
	}
	return r, nil
}

func startSFTP(ctx context.Context, conn *sshClient) (*remoteSide, error) {
	s, err := openSession(ctx, conn)
	if err != nil {
		return nil, err
	}
	r := &remoteSide{device: conn.device, conn: conn, ch: s}
	unhook := context.AfterFunc(ctx, func() { conn.wire.Close() })
	defer unhook()
	conn.loops.Go(func() { s.exit = s.awaitExit() })
	conn.loops.Go(func() { copyChunks(io.Discard, s.ch.Stderr()) })
	started, err := s.ch.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
	if err == nil && !started {
		return nil, withHint(fmt.Errorf("%s has no SFTP for this login", r.device), "there sftp.enabled may be false, the login's shell nologin without an sftp.root, or its right to sftp not granted")
	}
	if err == nil {
		r.sftpClient, err = newSFTPClient(s.ch, r.why)
	}
	if ctx.Err() != nil {
		err = endedBy(ctx)
	}
	return r, err
}

// why says what a broken stream means.
func (r *remoteSide) why(err error) error {
	if lost := r.conn.lost(); lost != nil {
		return lost
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s ended the transfer", r.device)
	}
	return fmt.Errorf("SFTP of %s: %w", r.device, err)
}

// errInterrupted is what a person is told who did it.
var errInterrupted = errors.New("interrupted")

// cut ends what is under way, although the link may take nothing more.
func (r *remoteSide) cut() {
	r.conn.wire.Close()
	r.fail(errInterrupted)
}

// end closes the connection.
func (r *remoteSide) end() {
	r.sftpClient.close()
	r.conn.close()
}

func (r *remoteSide) show(name string) string {
	return r.device + ":" + strings.TrimPrefix(name, "./") // home's
}
func (r *remoteSide) base(name string) string      { return name[strings.LastIndexByte(name, '/')+1:] }
func (r *remoteSide) join(dir, name string) string { return strings.TrimSuffix(dir, "/") + "/" + name }
func (r *remoteSide) resolve(name string) (string, error) {
	return r.path(sftpRealpath, name).oneName()
}

func (r *remoteSide) stat(name string, follow bool) (sftpAttrs, error) {
	if follow {
		return r.path(sftpStat, name).attrs()
	}
	return r.path(sftpLstat, name).attrs()
}

func (r *remoteSide) list(dir string, each func(string, sftpAttrs) error) error {
	return r.sftpClient.list(dir, func(e sftpName) error {
		if e.name == "." || e.name == ".." {
			return nil
		}
		if err := checkEntry(e.name); err != nil {
			return err
		}
		return each(e.name, e.attrs)
	})
}

// same compares resolved names: SFTP tells no inodes.
func (r *remoteSide) same(a, b string) bool {
	other := r.path(sftpRealpath, b)
	one, err := r.resolve(a)
	two, otherErr := other.oneName()
	return err == nil && otherErr == nil && one == two
}

func (r *remoteSide) mkdir(name string, perm uint32) error {
	return r.give(sftpMkdir, name, sftpAttrs{flags: sftpHasMode, mode: perm & 0o777}).status()
}

func (r *remoteSide) set(name string, a sftpAttrs) error {
	return r.give(sftpSetstat, name, a).status()
}

// posixRename puts a file in the place of another, in one step.
func (r *remoteSide) posixRename(from, to string) error {
	if r.ext[sftpPosixRename] {
		return r.extended(sftpPosixRename, appendSFTPString(appendSFTPString(nil, from), to)).status()
	}
	err := r.begin(maxSFTPAnswer, sftpRequest{kind: sftpRename, path: from, path2: to}).status()
	if _, old := r.stat(to, false); err != nil && old == nil {
		return withHint(fmt.Errorf("its server cannot put a new file in the place of an old one: %w", err), "-inplace writes into the old one")
	}
	return err
}

// A remoteReader reads a device's file.
type remoteReader struct{ sftpReader }

func (r *remoteSide) read(name string, size int64) (cpReader, error) {
	h, err := r.open(name, sftpOpenRead, sftpAttrs{}).handle()
	if err != nil {
		return nil, err
	}
	return &remoteReader{sftpReader{c: r.sftpClient, handle: h, size: size}}, nil
}

func (r *remoteReader) release(data []byte)     { r.c.release(data) }
func (r *remoteReader) sum(off, n int64) *cpSum { return r.c.sum(r.handle, off, n) }

// seek sends the first requests, so that a digest asked for next follows them.
func (r *remoteReader) seek(at int64) {
	r.at = at
	r.fill()
}

// close does not wait for the answer: nothing depends on it.
func (r *remoteReader) close() {
	r.stop()
	r.c.path(sftpClose, r.handle)
}

// sum begins a digest, nil where the server has none. No bytes have a digest
// that needs no asking, and 0 would mean all.
func (c *sftpClient) sum(handle string, off, n int64) *cpSum {
	if !c.ext[sftpSHA256] || n == 0 {
		return nil
	}
	ask := binary.BigEndian.AppendUint64(appendSFTPString(nil, handle), uint64(off))
	call := c.extended(sftpSHA256, binary.BigEndian.AppendUint64(ask, uint64(n)))
	return &cpSum{off: off, wait: func() (digest []byte, got int64, err error) {
		r, err := call.expect(sftpExtendedReply)
		if err == nil && len(r.data) != 32+8 {
			err = fmt.Errorf("the device answers %s with %d bytes", sftpSHA256, len(r.data))
		}
		if err != nil {
			return nil, 0, err
		}
		return r.data[:32], int64(binary.BigEndian.Uint64(r.data[32:])), nil
	}}
}

// A remoteWriter writes a device's file, or its part.
type remoteWriter struct {
	sftpWriter
	side       *remoteSide
	name, file string    // that it shall have, and has
	had, end   int64     // its size before; now, once all writes are done
	perm       uint32    // to be set, with its type; 0: as it was made
	mode       uint32    // of a new part
	old        sftpAttrs // what others may open then: the file that is replaced, with over, or a new one
	over       bool
	chown      bool // to old's owner, which only root can
	taken      bool // the part has lost its name
	plain      bool // a regular file
	sync       bool
}

// resumable reports whether the rest of a part saves more than a look at it
// costs.
func resumable(size int64) bool { return size > maxSFTPData }

func (r *remoteSide) create(name string, how cpHow) (cpWriter, error) {
	return r.createAt(name, how, 0)
}

// createAt asks for all that does not depend on an answer at once: one round
// trip for a small file.
func (r *remoteSide) createAt(name string, how cpHow, links int) (cpWriter, error) {
	w := &remoteWriter{sftpWriter: sftpWriter{c: r.sftpClient}, side: r, name: name, file: name, plain: true, sync: how.sync}
	w.mode, w.old = how.perm&0o777|0o600, sftpAttrs{mode: how.perm}
	oldCall := r.path(sftpLstat, name)
	var open, look *sftpCall
	if how.inplace {
		oldCall = r.path(sftpStat, name)
	} else {
		w.file = name[:len(name)-len(r.base(name))] + partName(r.base(name))
		if !resumable(how.size) || !r.ext[sftpSHA256] {
			open = w.openNew()
		}
		look = r.path(sftpLstat, w.file)
	}
	old, err := oldCall.attrs()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, w.forget(open, err)
	}
	flags := uint32(sftpOpenWrite | sftpOpenRead | sftpOpenCreate)
	switch {
	case err != nil:
	case old.is(modeDir):
		return nil, w.forget(open, errors.New("is a directory"))
	case old.is(modeLink):
		w.forget(open, nil)
		real, err := r.resolve(name)
		if err != nil || links > 0 {
			return nil, errors.New("it is a link to what cannot be found; -inplace follows it")
		}
		return r.createAt(real, how, 1)
	case !old.is(modeFile) && old.flags&sftpHasMode != 0:
		w.forget(open, nil)
		how.inplace, w.file = true, name
		flags = sftpOpenWrite
		w.plain = false
	case !how.inplace:
		w.old, w.mode, w.over = old, 0o600, true
	}
	var now sftpAttrs
	if how.inplace {
		if !how.goOn && w.plain {
			flags |= sftpOpenTrunc
		}
		open, look = r.open(name, flags, sftpAttrs{flags: sftpHasMode, mode: w.mode}), r.path(sftpStat, name)
		w.handle, err = open.handle()
		now, _ = look.attrs()
	} else {
		now, err = w.openPart(open, look)
	}
	if err != nil {
		return nil, err
	}
	if w.plain {
		w.had, w.end = int64(now.size), int64(now.size)
		if !how.inplace || old.flags == 0 {
			w.inherit(now)
		}
	}
	return w, nil
}

// openNew begins to make the part. None is there then.
func (w *remoteWriter) openNew() *sftpCall {
	return w.c.open(w.file, sftpOpenWrite|sftpOpenRead|sftpOpenCreate|sftpOpenExcl, sftpAttrs{flags: sftpHasMode, mode: w.mode})
}

// openPart has w write a part that nobody else can have open who may not open
// what it becomes: that which open made, one of ours, or else a new one.
func (w *remoteWriter) openPart(open, look *sftpCall) (sftpAttrs, error) {
	now, lookErr := look.attrs()
	if open != nil {
		var err error
		if w.handle, err = open.handle(); err == nil && !wider(now, w.old) || err != nil && (lookErr != nil || errors.Is(err, fs.ErrPermission)) {
			return now, err
		}
	} else if lookErr == nil {
		if adopted, ok := w.adopt(now); ok {
			return adopted, nil
		}
	}
	return w.renew(lookErr == nil)
}

// adopt opens a part that this login has made. SFTP does not tell who a login
// is: the owner of a file that it makes in that directory does.
func (w *remoteWriter) adopt(part sftpAttrs) (now sftpAttrs, ok bool) {
	c, base := w.c, w.side.base(w.name)
	probe := w.name[:len(w.name)-len(base)] + partName("."+base)
	ours := func(a sftpAttrs) bool {
		return a.flags&sftpHasOwner != 0 && a.is(modeFile) && a.size > 0 && !wider(a, w.old)
	}
	if !ours(part) {
		return now, false
	}
	made, err := c.open(probe, sftpOpenWrite|sftpOpenCreate|sftpOpenExcl, sftpAttrs{flags: sftpHasMode, mode: 0o600}).handle()
	look := c.path(sftpFstat, made)
	c.path(sftpClose, made)
	c.path(sftpRemove, probe)
	if mine, lookErr := look.attrs(); err != nil || lookErr != nil || mine.flags&sftpHasOwner == 0 || mine.uid != part.uid {
		return now, false
	}
	if w.handle, err = c.open(w.file, sftpOpenWrite|sftpOpenRead, sftpAttrs{}).handle(); err != nil {
		w.handle = ""
		return now, false
	}
	now, err = c.path(sftpFstat, w.handle).attrs()
	return now, err == nil && ours(now) && now.uid == part.uid
}

// renew makes the part anew. What is there loses its name, but is left as it
// is: another copy may be writing it.
func (w *remoteWriter) renew(there bool) (now sftpAttrs, err error) {
	if w.handle != "" {
		w.c.path(sftpClose, w.handle)
	}
	var remove *sftpCall
	if there {
		remove = w.c.path(sftpRemove, w.file)
	}
	open, look := w.openNew(), w.c.path(sftpLstat, w.file)
	w.handle, err = open.handle()
	now, lookErr := look.attrs()
	if err != nil && there && lookErr == nil {
		err = fmt.Errorf("%s is in the way: %w", w.side.show(w.file), cmp.Or(remove.status(), err))
	}
	return now, err
}

// forget undoes an open that is of no use, and returns err.
func (w *remoteWriter) forget(open *sftpCall, err error) error {
	if open != nil {
		if h, openErr := open.handle(); openErr == nil {
			w.c.path(sftpClose, h).status()
			w.c.path(sftpRemove, w.file).status()
		}
	}
	return err
}

// inherit finds out what is to be set once all is written: mode and owner of
// what the file will replace, or the mode that a new one has been given.
func (w *remoteWriter) inherit(now sftpAttrs) {
	mode := now.mode & (w.old.mode | modeType | 0o7000)
	if w.over {
		mode = w.old.mode
	}
	if w.perm = 0; mode != now.mode && (!w.over || w.old.flags&sftpHasMode != 0) {
		w.perm = mode
	}
	w.chown = w.over && w.old.flags&now.flags&sftpHasOwner != 0 && (w.old.uid != now.uid || w.old.gid != now.gid)
}

func (w *remoteWriter) have() int64 { return w.had }

func (w *remoteWriter) part() string {
	if w.file == w.name {
		return ""
	}
	return w.file
}

func (w *remoteWriter) begin(at int64) error {
	if w.good = at; at == w.had {
		return nil
	}
	if w.end = at; w.file == w.name {
		return w.c.give(sftpFsetstat, w.handle, sftpAttrs{flags: sftpHasSize, size: uint64(at)}).status()
	}
	now, err := w.renew(true)
	if err == nil {
		w.inherit(now)
	}
	return err
}

// write leaves holes for zeros: behind begin there is nothing. The pieces are
// what the server takes.
func (w *remoteWriter) write(off int64, data []byte) error {
	if w.plain {
		off, data = withoutZeros(off, data)
	}
	for len(data) > 0 {
		n := min(len(data), w.c.chunk)
		if err := w.sftpWriter.write(off, data[:n]); err != nil {
			return err
		}
		off, data = off+int64(n), data[n:]
		w.end = max(w.end, off)
	}
	return nil
}

// grow makes a hole at the end.
func (w *remoteWriter) grow(size int64) {
	if w.end < size && w.plain {
		w.end = size
		w.also(w.c.give(sftpFsetstat, w.handle, sftpAttrs{flags: sftpHasSize, size: uint64(size)}), false)
	}
}

func (w *remoteWriter) sum(off, n int64) *cpSum {
	if !w.plain {
		return nil
	}
	w.grow(off + n)
	return w.c.sum(w.handle, off, n)
}

// settle sends what is left without waiting in between.
func (w *remoteWriter) settle(size int64, a sftpAttrs) error {
	w.grow(size)
	var look *sftpCall
	if w.plain {
		look = w.c.path(sftpFstat, w.handle)
	}
	if w.chown {
		w.also(w.c.give(sftpFsetstat, w.handle, sftpAttrs{flags: sftpHasOwner, uid: w.old.uid, gid: w.old.gid}), true)
	}
	if a.flags&sftpHasMode != 0 {
		w.perm = 0
	} else if w.perm != 0 {
		a.flags, a.mode = a.flags|sftpHasMode, w.perm
	}
	if a.mode &= 0o7777; a.flags&(sftpHasMode|sftpHasTimes) != 0 && w.plain {
		a.flags &= sftpHasMode | sftpHasTimes
		w.also(w.c.give(sftpFsetstat, w.handle, a), false)
	}
	if w.sync {
		w.also(w.c.extended(sftpFsync, appendSFTPString(nil, w.handle)), false)
	}
	w.also(w.c.path(sftpClose, w.handle), false)
	named := w.c.path(sftpLstat, w.file)
	err := w.flush()
	w.handle = ""
	if look != nil {
		now, lookErr := look.attrs()
		switch {
		case err != nil:
		case lookErr != nil:
			err = lookErr
		case now.flags&sftpHasSize != 0 && now.size != uint64(size):
			err = fmt.Errorf("%d bytes were written, the device has %d", size, now.size)
		case w.file != w.name:
			part, partErr := named.attrs()
			if w.taken = errors.Is(partErr, fs.ErrNotExist) || partErr == nil && part.size != now.size; w.taken {
				err = errTaken
			}
		}
	}
	return err
}

func (w *remoteWriter) commit() error {
	if w.file == w.name {
		return nil
	}
	err := w.side.posixRename(w.file, w.name)
	if err == nil {
		return nil
	}
	if _, gone := w.side.stat(w.file, false); errors.Is(gone, fs.ErrNotExist) {
		w.taken, err = true, errTaken
	}
	return err
}

// abort cuts a part where writes began to fail: what is behind may have gaps.
func (w *remoteWriter) abort(keep bool) (there int64, left bool) {
	w.flush()
	if keep && w.good < w.end && !w.taken {
		kind, at := byte(sftpFsetstat), w.handle
		if at == "" {
			kind, at = sftpSetstat, w.file
		}
		w.c.give(kind, at, sftpAttrs{flags: sftpHasSize, size: uint64(w.good)}).status()
	}
	if w.handle != "" {
		w.c.path(sftpClose, w.handle).status()
	}
	if w.taken || w.file == w.name {
		return w.good, false
	}
	if !keep {
		err := w.c.path(sftpRemove, w.file).status()
		return 0, err != nil && !errors.Is(err, fs.ErrNotExist)
	}
	if _, err := w.side.stat(w.file, false); errors.Is(err, fs.ErrNotExist) {
		return 0, false
	}
	return w.good, false
}

// pace keeps what is asked for ahead within a quarter of a second at a rate.
func (r *remoteSide) pace(rate int64) {
	if rate <= 0 {
		return
	}
	ahead := int(min(max(rate/4, sftpProbe), sftpInFlight))
	r.chunk = min(r.chunk, ahead)
	r.inFlight = newByteBudget(max(ahead, r.chunk))
}
