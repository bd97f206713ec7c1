//go:build linux || darwin

package main

// This file serves SFTP: one goroutine takes requests in order and answers each,
// in batches while more requests are there already. What it answers is what
// OpenSSH's sftp-server answers.

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/sys/unix"
)

const (
	// maxSFTPHandles is how many files and directories a session has open.
	maxSFTPHandles = 256
	// sftpReadBuffer holds requests that have come, in bytes.
	sftpReadBuffer = 64 << 10
	// sftpFlushAt is how many bytes of answers are gathered at most before
	// they are sent: one answer to a READ may stand behind them.
	sftpFlushAt = 64 << 10
	// maxSFTPNames is how many entries a NAME has: as in OpenSSH.
	maxSFTPNames = 100
)

// A sftpServer is one SFTP session.
type sftpServer struct {
	door    *fileDoor
	in      *bufio.Reader
	w       io.Writer
	out     []byte // answers that are not sent yet
	ctx     context.Context
	started bool                      // INIT has come
	refuses func(name string) bool    // requests by OpenSSH's names; nil none
	log     func(int, string, ...any) // nil: no log; 0 errors, 1 what is opened and changed, 2 all
	handles map[uint32]*sftpOpened
	lastID  uint32
	names   map[string]map[uint32]string // of users and groups, by file and id
	pace    *sftpPace                    // nil: all is answered at once
}

// A sftpOpened is what a handle stands for: one of them.
type sftpOpened struct {
	file *openFile
	dir  *openDir
}

// serveSFTP serves until r ends, which is no error between two packets. Long
// work ends with ctx.
func (s *sftpServer) serve(ctx context.Context, r io.Reader, w io.Writer) error {
	s.ctx, s.in, s.w = ctx, bufio.NewReaderSize(r, sftpReadBuffer), w
	s.handles, s.names = map[uint32]*sftpOpened{}, map[string]map[uint32]string{}
	defer func() {
		for _, h := range s.handles {
			h.abandon()
		}
	}()
	s.pace.lock()
	defer s.pace.end()
	var packet []byte
	for {
		if !s.requestReady() || len(s.out) >= sftpFlushAt {
			if err := s.flush(); err != nil {
				return err
			}
		}
		var err error
		s.pace.unlock()
		packet, err = readSFTPPacket(s.in, packet)
		s.pace.lock()
		if err == nil {
			err = s.request(packet)
		} else if s.pace != nil {
			s.answerWaiting(true)
		}
		if err != nil {
			s.flush() // what was answered before
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// requestReady reports whether a whole request is buffered.
func (s *sftpServer) requestReady() bool {
	if s.in.Buffered() < 4 {
		return false
	}
	head, _ := s.in.Peek(4)
	return int64(s.in.Buffered()) >= 4+int64(binary.BigEndian.Uint32(head))
}

func (s *sftpServer) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.w.Write(s.out)
	s.out = s.out[:0]
	return err
}

var errSFTPNoInit = errors.New("sftp: a request before INIT")

// request answers one packet. An error ends the session: it cannot be known
// what else such a client means.
func (s *sftpServer) request(packet []byte) error {
	r, err := parseSFTPRequest(packet)
	switch {
	case err == errSFTPUnknown && s.started:
		s.status(r.id, sftpUnsupported, "")
		return nil
	case err != nil:
		return err
	case r.kind == sftpInit:
		s.started = true
		s.out = (&sftpReply{kind: sftpVersionReply, id: sftpVersion, exts: sftpExtensions}).appendTo(s.out)
		return nil
	case !s.started:
		return errSFTPNoInit
	}
	if s.pace != nil {
		if r.kind == sftpRead {
			return s.later(&r)
		}
		if err := s.answerWaiting(true); err != nil {
			return err
		}
	}
	if s.refuses != nil && s.refuses(sftpRequestName(&r)) {
		s.status(r.id, sftpDenied, "")
		return nil
	}
	err = s.answer(&r)
	if s.log != nil {
		told := err
		if err == nil || err == errSFTPAnswered {
			told = errors.New("done")
		}
		s.log(sftpLogLevel(&r), "%s %q %q: %v", sftpRequestName(&r), r.path, r.path2, told)
	}
	if errors.Is(err, errSFTPShort) {
		return err
	}
	if err != errSFTPAnswered {
		s.fail(r.id, err)
	}
	return nil
}

// errSFTPAnswered says that there is an answer already; nil is success.
var errSFTPAnswered = errors.New("answered")

// fail answers with a status; nil is success.
func (s *sftpServer) fail(id uint32, err error) {
	code, text := sftpCodeOf(err), ""
	if denied := (*fileDenied)(nil); errors.As(err, &denied) {
		text = denied.Error()
	} else if n := unix.Errno(0); (code == sftpFailure || code == sftpBadMessage) && errors.As(err, &n) {
		text = n.Error() // "no space left on device" says more than "Failure", "file name too long" more than "Bad message"
	}
	s.status(id, code, text)
}

func (s *sftpServer) status(id, code uint32, text string) {
	if text == "" {
		text = sftpStatusText(code)
	}
	s.out = (&sftpReply{kind: sftpStatus, id: id, code: code, text: text}).appendTo(s.out)
}

// answer does what r asks for.
func (s *sftpServer) answer(r *sftpRequest) error {
	d := s.door
	switch r.kind {
	case sftpOpen:
		return s.open(r)
	case sftpOpendir:
		dir, err := d.openDir(r.path)
		return s.opened(r.id, &sftpOpened{dir: dir}, err)
	case sftpClose:
		return s.closeHandle(r.path)
	case sftpRead:
		return s.read(r)
	case sftpWrite:
		f, err := s.file(r.path)
		if err != nil {
			return err
		}
		return f.writeAt(r.data, r.offset)
	case sftpReaddir:
		return s.readdir(r)
	case sftpStat:
		st, err := d.stat(r.path)
		return s.attrs(r.id, st, err)
	case sftpLstat:
		st, err := d.lstat(r.path)
		return s.attrs(r.id, st, err)
	case sftpFstat:
		f, err := s.file(r.path)
		if err != nil {
			return err
		}
		st, err := f.statJudged()
		return s.attrs(r.id, st, err)
	case sftpSetstat:
		return d.setstat(r.path, r.attrs)
	case sftpFsetstat:
		f, err := s.file(r.path)
		if err != nil {
			return err
		}
		return f.setstat(r.attrs)
	case sftpRemove:
		return d.remove(r.path)
	case sftpMkdir:
		return d.mkdir(r.path, permOf(r.attrs, 0o777)&0o7777)
	case sftpRmdir:
		return d.rmdir(r.path)
	case sftpRealpath:
		p, err := d.realpath(r.path)
		return s.name(r.id, p, err)
	case sftpReadlink:
		p, err := d.readlink(r.path)
		return s.name(r.id, p, err)
	case sftpRename:
		return d.rename(r.path, r.path2, false)
	case sftpSymlink:
		return d.symlink(r.path, r.path2)
	}
	return s.extended(r)
}

func permOf(a sftpAttrs, usual uint32) uint32 {
	if a.flags&sftpHasMode != 0 {
		return a.mode
	}
	return usual
}

func (s *sftpServer) open(r *sftpRequest) error {
	if len(s.handles) >= maxSFTPHandles {
		return unix.EMFILE
	}
	f, err := s.door.open(r.path, r.pflags, permOf(r.attrs, 0o666), -1)
	return s.opened(r.id, &sftpOpened{file: f}, err)
}

// opened gives h a handle and answers with it: 4 bytes, none used twice.
func (s *sftpServer) opened(id uint32, h *sftpOpened, err error) error {
	if err != nil {
		return err
	}
	if len(s.handles) >= maxSFTPHandles {
		h.abandon()
		return unix.EMFILE
	}
	s.lastID++
	s.handles[s.lastID] = h
	s.out = (&sftpReply{kind: sftpHandle, id: id, data: binary.BigEndian.AppendUint32(nil, s.lastID)}).appendTo(s.out)
	return errSFTPAnswered
}

func (s *sftpServer) handle(text string) *sftpOpened {
	if len(text) != 4 {
		return nil
	}
	return s.handles[binary.BigEndian.Uint32([]byte(text))]
}

// file is the file of a handle; EBADF is sent as OpenSSH sends a handle that it
// does not know: as a failure.
func (s *sftpServer) file(text string) (*openFile, error) {
	if h := s.handle(text); h != nil && h.file != nil {
		return h.file, nil
	}
	return nil, errSFTPHandle
}

var errSFTPHandle = errors.New("no such handle")

func (h *sftpOpened) abandon() {
	if h.dir != nil {
		h.dir.close()
	} else {
		h.file.abandon()
	}
}

func (s *sftpServer) closeHandle(text string) error {
	h := s.handle(text)
	if h == nil {
		return unix.ENOENT // as OpenSSH has it, here only and for fsync
	}
	delete(s.handles, binary.BigEndian.Uint32([]byte(text)))
	if h.dir != nil {
		return h.dir.close()
	}
	return h.file.close()
}

// read reads straight into what is sent. Inside the file it is never short:
// OpenSSH's client would ask for less ever after.
func (s *sftpServer) read(r *sftpRequest) error {
	f, err := s.file(r.path)
	if err != nil {
		return err
	}
	const head = 4 + 1 + 4 + 4
	want := int(min(r.length, maxSFTPData))
	begin := len(s.out)
	for cap(s.out) < begin+head+want {
		s.out = append(s.out[:cap(s.out)], 0)
	}
	s.out = s.out[:begin+head+want]
	n, err := f.readAt(s.out[begin+head:], r.offset)
	if err != nil {
		s.out = s.out[:begin]
		return err
	}
	b := s.out[begin:begin]
	b = binary.BigEndian.AppendUint32(b, uint32(head-4+n))
	b = binary.BigEndian.AppendUint32(append(b, sftpData), r.id)
	binary.BigEndian.AppendUint32(b, uint32(n))
	s.out = s.out[:begin+head+n]
	return errSFTPAnswered
}

func (s *sftpServer) attrs(id uint32, st fileStat, err error) error {
	if err != nil {
		return err
	}
	s.out = (&sftpReply{kind: sftpAttrsReply, id: id, attrs: st.attrs()}).appendTo(s.out)
	return errSFTPAnswered
}

func (s *sftpServer) name(id uint32, name string, err error) error {
	if err != nil {
		return err
	}
	s.out = (&sftpReply{kind: sftpNames, id: id, names: []sftpName{{name: name, long: name}}}).appendTo(s.out)
	return errSFTPAnswered
}

func (s *sftpServer) readdir(r *sftpRequest) error {
	h := s.handle(r.path)
	if h == nil || h.dir == nil {
		return errSFTPHandle
	}
	list, err := h.dir.next(maxSFTPNames - 2)
	for err == nil && len(list) == 0 { // all of them have vanished
		list, err = h.dir.next(maxSFTPNames - 2)
	}
	if err != nil {
		return err
	}
	reply := sftpReply{kind: sftpNames, id: r.id}
	now := time.Now()
	for i := range list {
		reply.names = append(reply.names, sftpName{list[i].name, s.longName(&list[i], now), list[i].attrs()})
	}
	s.out = reply.appendTo(s.out)
	return errSFTPAnswered
}

// extended does what extensions ask for: OpenSSH's PROTOCOL, section 4.
func (s *sftpServer) extended(r *sftpRequest) error {
	in := cryptobyte.String(r.rest)
	var a, b string
	str := func(v *string) bool { return readSFTPString(&in, v) }
	switch r.path {
	case sftpPosixRename, sftpHardlink:
		if !str(&a) || !str(&b) {
			return errSFTPShort
		}
		if r.path == sftpHardlink {
			return s.door.link(a, b)
		}
		return s.door.rename(a, b, true)
	case sftpStatvfs, sftpFstatvfs, sftpFsync, sftpExpandPath, sftpHomeDir:
		if !str(&a) {
			return errSFTPShort
		}
		return s.extendedOne(r, a)
	case sftpLsetstat:
		var attrs sftpAttrs
		if !str(&a) || !attrs.read(&in) {
			return errSFTPShort
		}
		if attrs.flags&sftpHasSize != 0 {
			return unix.EINVAL // a link has none to set
		}
		return s.door.lsetstat(a, attrs)
	case sftpLimits:
		var v []byte
		for _, n := range [...]uint64{maxSFTPPacket, maxSFTPData, maxSFTPData, maxSFTPHandles} {
			v = binary.BigEndian.AppendUint64(v, n)
		}
		return s.extendedReply(r.id, v, nil)
	case sftpUsersGroups:
		return s.usersGroups(r.id, in)
	case sftpCopyData, sftpSHA256:
		return s.extendedRange(r, in)
	}
	return unix.ENOSYS
}

func (s *sftpServer) extendedOne(r *sftpRequest, a string) error {
	var f *openFile
	if r.path == sftpFstatvfs || r.path == sftpFsync {
		var err error
		if f, err = s.file(a); err != nil && r.path == sftpFsync {
			return unix.ENOENT
		} else if err != nil {
			return err
		}
	}
	switch r.path {
	case sftpStatvfs:
		v, err := s.door.statvfs(a)
		return s.extendedReply(r.id, v.appendTo(nil), err)
	case sftpFstatvfs:
		v, err := f.statvfs()
		return s.extendedReply(r.id, v.appendTo(nil), err)
	case sftpFsync:
		return f.sync()
	case sftpHomeDir:
		p, err := s.door.expand("~" + a)
		if err == unix.ENOENT {
			err = errSFTPUser
		}
		return s.name(r.id, p, err)
	}
	p, err := s.door.expand(a)
	return s.name(r.id, p, err)
}

// errSFTPSame: a file would be read as it grows. OpenSSH knows it by its path only.
var errSFTPSame = errors.New("both are the same file")

var errSFTPUser = errors.New("no such user")

// appendTo writes eleven numbers of 8 bytes; favail is ffree.
func (v fileSystem) appendTo(b []byte) []byte {
	for _, n := range [...]uint64{v.bsize, v.frsize, v.blocks, v.bfree, v.bavail, v.files, v.ffree, v.ffree, v.fsid, v.flags, v.namemax} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func (s *sftpServer) extendedReply(id uint32, data []byte, err error) error {
	if err != nil {
		return err
	}
	s.out = (&sftpReply{kind: sftpExtendedReply, id: id, data: data}).appendTo(s.out)
	return errSFTPAnswered
}

// usersGroups answers ids (two strings of numbers) with names, "" for none.
func (s *sftpServer) usersGroups(id uint32, in cryptobyte.String) error {
	var reply []byte
	for _, file := range []string{passwdFile, groupFile} {
		var ids, names []byte
		if !readSFTPBytes(&in, &ids) || len(ids)%4 != 0 {
			return errSFTPShort
		}
		for ; len(ids) > 0 && len(names) < maxSFTPData/4; ids = ids[4:] {
			names = appendSFTPString(names, s.nameOf(file, binary.BigEndian.Uint32(ids)))
		}
		reply = appendSFTPString(reply, names)
	}
	return s.extendedReply(id, reply, nil)
}

// extendedRange is copy-data and sha256-range: a range of an open file.
func (s *sftpServer) extendedRange(r *sftpRequest, in cryptobyte.String) error {
	var a, b string
	var off, length, at uint64
	if !readSFTPString(&in, &a) || !in.ReadUint64(&off) || !in.ReadUint64(&length) {
		return errSFTPShort
	}
	if r.path == sftpCopyData && (!readSFTPString(&in, &b) || !in.ReadUint64(&at)) {
		return errSFTPShort
	}
	f, err := s.file(a)
	if err != nil {
		return err
	}
	if r.path == sftpSHA256 {
		sum, n, err := f.sum(s.ctx, off, length)
		return s.extendedReply(r.id, binary.BigEndian.AppendUint64(sum[:], n), err)
	}
	to, err := s.file(b)
	if err != nil {
		return err
	}
	if from, err := f.stat(); err != nil {
		return err
	} else if st, err := to.stat(); err != nil || st.dev == from.dev && st.ino == from.ino {
		return last(errSFTPSame, err)
	}
	if max(off, at) > math.MaxInt64 {
		return unix.EINVAL
	}
	return f.copyTo(s.ctx, off, length, to, at)
}
