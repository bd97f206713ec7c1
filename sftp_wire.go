package main

// This file is SFTP, version 3, as bytes: draft-ietf-secsh-filexfer-02 and the
// extensions of OpenSSH's PROTOCOL file. Server and client share it. A packet is
// its length (4 bytes) and that many bytes, of which the first is its type;
// strings are their length (4 bytes) and as many bytes of any value.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
)

const (
	sftpVersion = 3

	// maxSFTPPacket is the longest packet taken, in bytes: as in OpenSSH, and
	// what limits@openssh.com tells.
	maxSFTPPacket = 256 << 10
	// maxSFTPData is how much one READ or WRITE moves, in bytes: a packet less
	// 1 KiB for what stands before the data. Here too as in OpenSSH.
	maxSFTPData = maxSFTPPacket - 1<<10
)

// Types of packets.
const (
	sftpInit          = 1
	sftpVersionReply  = 2
	sftpOpen          = 3
	sftpClose         = 4
	sftpRead          = 5
	sftpWrite         = 6
	sftpLstat         = 7
	sftpFstat         = 8
	sftpSetstat       = 9
	sftpFsetstat      = 10
	sftpOpendir       = 11
	sftpReaddir       = 12
	sftpRemove        = 13
	sftpMkdir         = 14
	sftpRmdir         = 15
	sftpRealpath      = 16
	sftpStat          = 17
	sftpRename        = 18
	sftpReadlink      = 19
	sftpSymlink       = 20
	sftpStatus        = 101
	sftpHandle        = 102
	sftpData          = 103
	sftpNames         = 104
	sftpAttrsReply    = 105
	sftpExtended      = 200
	sftpExtendedReply = 201
)

// Codes of STATUS.
const (
	sftpOK          = 0
	sftpEOF         = 1
	sftpNoSuchFile  = 2
	sftpDenied      = 3
	sftpFailure     = 4
	sftpBadMessage  = 5
	sftpUnsupported = 8
)

// How OPEN opens.
const (
	sftpOpenRead   = 1
	sftpOpenWrite  = 2
	sftpOpenAppend = 4
	sftpOpenCreate = 8
	sftpOpenTrunc  = 16
	sftpOpenExcl   = 32
)

// Names of extensions.
const (
	sftpPosixRename = "posix-rename@openssh.com"
	sftpStatvfs     = "statvfs@openssh.com"
	sftpFstatvfs    = "fstatvfs@openssh.com"
	sftpHardlink    = "hardlink@openssh.com"
	sftpFsync       = "fsync@openssh.com"
	sftpLsetstat    = "lsetstat@openssh.com"
	sftpLimits      = "limits@openssh.com"
	sftpExpandPath  = "expand-path@openssh.com"
	sftpCopyData    = "copy-data"
	sftpHomeDir     = "home-directory"
	sftpUsersGroups = "users-groups-by-id@openssh.com"
	// sftpSHA256 is our own: handle, offset, length (0 to the end of the file);
	// the answer is an EXTENDED_REPLY of the digest, 32 bytes, and of how many
	// bytes it is, 8 bytes.
	sftpSHA256 = "sha256-range@sessio"
)

// A sftpExt is an extension as VERSION names it.
type sftpExt struct{ name, version string }

// sftpExtensions are those of OpenSSH, in its order, and our own.
var sftpExtensions = []sftpExt{
	{sftpPosixRename, "1"}, {sftpStatvfs, "2"}, {sftpFstatvfs, "2"}, {sftpHardlink, "1"},
	{sftpFsync, "1"}, {sftpLsetstat, "1"}, {sftpLimits, "1"}, {sftpExpandPath, "1"},
	{sftpCopyData, "1"}, {sftpHomeDir, "1"}, {sftpUsersGroups, "1"}, {sftpSHA256, "1"},
}

// sftpAttrs are what a file has, as far as flags says: section 5.
//
//	flags   4 bytes
//	size    8 bytes  with sftpHasSize
//	uid     4 bytes  with sftpHasOwner
//	gid     4 bytes  likewise
//	mode    4 bytes  with sftpHasMode: st_mode, with the type of the file
//	atime   4 bytes  with sftpHasTimes: seconds since 1970, unsigned
//	mtime   4 bytes  likewise
//	count   4 bytes  with sftpHasExtended: so many pairs of strings follow
type sftpAttrs struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	mode         uint32
	atime, mtime uint32
}

const (
	sftpHasSize     = 1
	sftpHasOwner    = 2
	sftpHasMode     = 4
	sftpHasTimes    = 8
	sftpHasExtended = 1 << 31
)

// appendTo writes a behind b, without extended pairs.
func (a *sftpAttrs) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, a.flags&^sftpHasExtended)
	if a.flags&sftpHasSize != 0 {
		b = binary.BigEndian.AppendUint64(b, a.size)
	}
	if a.flags&sftpHasOwner != 0 {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, a.uid), a.gid)
	}
	if a.flags&sftpHasMode != 0 {
		b = binary.BigEndian.AppendUint32(b, a.mode)
	}
	if a.flags&sftpHasTimes != 0 {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, a.atime), a.mtime)
	}
	return b
}

// read takes attributes from s; extended pairs are skipped.
func (a *sftpAttrs) read(s *cryptobyte.String) bool {
	if !s.ReadUint32(&a.flags) ||
		a.flags&sftpHasSize != 0 && !s.ReadUint64(&a.size) ||
		a.flags&sftpHasOwner != 0 && (!s.ReadUint32(&a.uid) || !s.ReadUint32(&a.gid)) ||
		a.flags&sftpHasMode != 0 && !s.ReadUint32(&a.mode) ||
		a.flags&sftpHasTimes != 0 && (!s.ReadUint32(&a.atime) || !s.ReadUint32(&a.mtime)) {
		return false
	}
	var pairs uint32
	if a.flags&sftpHasExtended != 0 && !s.ReadUint32(&pairs) {
		return false
	}
	a.flags &= sftpHasSize | sftpHasOwner | sftpHasMode | sftpHasTimes
	for left := 2 * uint64(pairs); left > 0; left-- {
		if skipped := ""; !readSFTPString(s, &skipped) {
			return false
		}
	}
	return true
}

func appendSFTPString[S string | []byte](b []byte, v S) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
}

// readSFTPString copies, as a packet's memory is used again.
func readSFTPString(s *cryptobyte.String, v *string) bool {
	var b []byte
	if !readSFTPBytes(s, &b) {
		return false
	}
	*v = string(b)
	return true
}

func readSFTPBytes(s *cryptobyte.String, v *[]byte) bool {
	var n uint32
	return s.ReadUint32(&n) && int64(n) <= int64(len(*s)) && s.ReadBytes(v, int(n))
}

// A sftpRequest is any request: what its kind has of these, in this order.
//
//	INIT                    version 4 (as id), pairs of strings (rest)
//	all others              id 4, then
//	OPEN                    path, pflags 4, attrs
//	CLOSE FSTAT READDIR     handle (as path)
//	READ                    handle, offset 8, length 4
//	WRITE                   handle, offset 8, data
//	STAT LSTAT OPENDIR REMOVE RMDIR REALPATH READLINK   path
//	SETSTAT FSETSTAT MKDIR  path or handle, attrs
//	RENAME SYMLINK          path, path2; of SYMLINK the target first, as
//	                        OpenSSH has it, against the draft
//	EXTENDED                name (as path), and what it has (rest)
type sftpRequest struct {
	kind   byte
	id     uint32
	path   string // or handle, or name of an extension
	path2  string
	pflags uint32
	offset uint64
	length uint32
	attrs  sftpAttrs
	data   []byte // of WRITE; part of the packet that was parsed
	rest   []byte // of INIT and EXTENDED, likewise
}

var errSFTPShort = errors.New("sftp: a packet ends within a field")

// errSFTPUnknown is of a request whose kind is not known; its id is.
var errSFTPUnknown = errors.New("sftp: an unknown request")

// parseSFTPRequest reads a packet without its length. Bytes behind the last
// field are ignored, as in OpenSSH. Kind and id are right even with an error,
// if they were there.
func parseSFTPRequest(packet []byte) (r sftpRequest, err error) {
	s := cryptobyte.String(packet)
	if !s.ReadUint8(&r.kind) || !s.ReadUint32(&r.id) {
		return r, errSFTPShort
	}
	ok := false
	switch r.kind {
	case sftpInit:
		ok, r.rest = true, s
	case sftpOpen:
		ok = readSFTPString(&s, &r.path) && s.ReadUint32(&r.pflags) && r.attrs.read(&s)
	case sftpClose, sftpFstat, sftpReaddir, sftpStat, sftpLstat, sftpOpendir, sftpRemove, sftpRmdir, sftpRealpath, sftpReadlink:
		ok = readSFTPString(&s, &r.path)
	case sftpRead:
		ok = readSFTPString(&s, &r.path) && s.ReadUint64(&r.offset) && s.ReadUint32(&r.length)
	case sftpWrite:
		ok = readSFTPString(&s, &r.path) && s.ReadUint64(&r.offset) && readSFTPBytes(&s, &r.data)
	case sftpSetstat, sftpFsetstat, sftpMkdir:
		ok = readSFTPString(&s, &r.path) && r.attrs.read(&s)
	case sftpRename, sftpSymlink:
		ok = readSFTPString(&s, &r.path) && readSFTPString(&s, &r.path2)
	case sftpExtended:
		ok = readSFTPString(&s, &r.path)
		r.rest = s
	default:
		return r, errSFTPUnknown
	}
	if !ok {
		return r, errSFTPShort
	}
	return r, nil
}

// appendTo writes the packet behind b, with its length.
func (r *sftpRequest) appendTo(b []byte) []byte {
	begin := len(b)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 0, r.kind), r.id)
	if r.kind != sftpInit {
		b = appendSFTPString(b, r.path)
	}
	switch r.kind {
	case sftpOpen:
		b = r.attrs.appendTo(binary.BigEndian.AppendUint32(b, r.pflags))
	case sftpRead:
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, r.offset), r.length)
	case sftpWrite:
		b = appendSFTPString(binary.BigEndian.AppendUint64(b, r.offset), r.data)
	case sftpSetstat, sftpFsetstat, sftpMkdir:
		b = r.attrs.appendTo(b)
	case sftpRename, sftpSymlink:
		b = appendSFTPString(b, r.path2)
	case sftpInit, sftpExtended:
		b = append(b, r.rest...)
	}
	return sealSFTP(b, begin)
}

// sealSFTP fills in the length of the packet that begins at begin.
func sealSFTP(b []byte, begin int) []byte {
	binary.BigEndian.PutUint32(b[begin:], uint32(len(b)-begin-4))
	return b
}

// A sftpName is an entry of NAME.
type sftpName struct {
	name, long string // long as "ls -l" shows it
	attrs      sftpAttrs
}

// A sftpReply is any reply: what its kind has of these.
//
//	VERSION         version 4 (as id), pairs of strings
//	all others      id 4, then
//	STATUS          code 4, text, language
//	HANDLE DATA     data
//	NAME            count 4, and so many: name, long name, attrs
//	ATTRS           attrs
//	EXTENDED_REPLY  data, to the end
type sftpReply struct {
	kind  byte
	id    uint32
	code  uint32
	text  string
	data  []byte // part of the packet that was parsed
	attrs sftpAttrs
	names []sftpName
	exts  []sftpExt
}

// parseSFTPReply reads a packet without its length. A STATUS without text is
// taken: old servers send it.
func parseSFTPReply(packet []byte) (r sftpReply, err error) {
	s := cryptobyte.String(packet)
	if !s.ReadUint8(&r.kind) || !s.ReadUint32(&r.id) {
		return r, errSFTPShort
	}
	ok := false
	switch r.kind {
	case sftpVersionReply:
		for ok = true; ok && !s.Empty(); {
			var e sftpExt
			ok = readSFTPString(&s, &e.name) && readSFTPString(&s, &e.version)
			r.exts = append(r.exts, e)
		}
	case sftpStatus:
		ok = s.ReadUint32(&r.code) && (s.Empty() || readSFTPString(&s, &r.text))
	case sftpHandle, sftpData:
		ok = readSFTPBytes(&s, &r.data)
	case sftpAttrsReply:
		ok = r.attrs.read(&s)
	case sftpExtendedReply:
		ok, r.data = true, s
	case sftpNames:
		var count uint32
		for ok = s.ReadUint32(&count); ok && count > 0; count-- {
			var n sftpName
			ok = readSFTPString(&s, &n.name) && readSFTPString(&s, &n.long) && n.attrs.read(&s)
			r.names = append(r.names, n)
		}
	default:
		return r, fmt.Errorf("sftp: an unknown reply, type %d", r.kind)
	}
	if !ok {
		return r, errSFTPShort
	}
	return r, nil
}

// appendTo writes the packet behind b, with its length.
func (r *sftpReply) appendTo(b []byte) []byte {
	begin := len(b)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 0, r.kind), r.id)
	switch r.kind {
	case sftpVersionReply:
		for _, e := range r.exts {
			b = appendSFTPString(appendSFTPString(b, e.name), e.version)
		}
	case sftpStatus:
		b = appendSFTPString(binary.BigEndian.AppendUint32(b, r.code), r.text)
		b = appendSFTPString(b, "") // the language
	case sftpHandle, sftpData:
		b = appendSFTPString(b, r.data)
	case sftpAttrsReply:
		b = r.attrs.appendTo(b)
	case sftpExtendedReply:
		b = append(b, r.data...)
	case sftpNames:
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.names)))
		for i := range r.names {
			n := &r.names[i]
			b = n.attrs.appendTo(appendSFTPString(appendSFTPString(b, n.name), n.long))
		}
	}
	return sealSFTP(b, begin)
}

// errSFTPLong is of a length that no packet may have. Where the next packet
// begins cannot be known then.
var errSFTPLong = fmt.Errorf("sftp: a packet of more than %d bytes, or of none", maxSFTPPacket)

// readSFTPPacket reads a packet and returns it without its length, in buf where
// that is long enough. io.EOF is an end between packets.
func readSFTPPacket(r io.Reader, buf []byte) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxSFTPPacket {
		return nil, errSFTPLong
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return buf, nil
}

// sftpStatusText is what OpenSSH says of a code, where nothing better is known.
func sftpStatusText(code uint32) string {
	texts := [...]string{"Success", "End of file", "No such file", "Permission denied", "Failure", "Bad message", "No connection", "Connection lost", "Operation unsupported"}
	if int(code) < len(texts) {
		return texts[code]
	}
	return "Unknown error"
}

// The types among the bits of a mode, POSIX.
const (
	modeType = 0o170000
	modeFile = 0o100000
	modeDir  = 0o040000
	modeLink = 0o120000
)

func (a sftpAttrs) is(kind uint32) bool { return a.flags&sftpHasMode != 0 && a.mode&modeType == kind }

// modeLetters is a mode as "ls -l" has it.
func modeLetters(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	for i, kind := range [...]uint32{modeFile, modeDir, modeLink, 0o010000, 0o140000, 0o020000, 0o060000} {
		if mode&modeType == kind {
			b[0] = "-dlpscb"[i]
		}
	}
	for i := range 9 {
		if mode>>(8-i)&1 == 0 {
			b[1+i] = '-'
		}
	}
	for i := range 3 { // setuid, setgid, sticky
		if at := 3 + 3*i; mode&(0o4000>>i) != 0 && b[at] == 'x' {
			b[at] = "sst"[i]
		} else if mode&(0o4000>>i) != 0 {
			b[at] = "SST"[i]
		}
	}
	return string(b)
}
