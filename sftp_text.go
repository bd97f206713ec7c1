//go:build linux || darwin

package main

// This file is what the SFTP server says in words and codes: the status of an
// error, the lines of listings, names of users and groups, and of requests.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sftpCodeOf is the code for an error, as OpenSSH maps them.
func sftpCodeOf(err error) uint32 {
	denied, n := (*fileDenied)(nil), unix.Errno(0)
	switch {
	case err == nil:
		return sftpOK
	case err == io.EOF:
		return sftpEOF
	case errors.As(err, &denied):
		return sftpDenied
	case !errors.As(err, &n):
		return sftpFailure
	}
	switch n {
	case unix.ENOENT, unix.ENOTDIR, unix.EBADF, unix.ELOOP:
		return sftpNoSuchFile
	case unix.EPERM, unix.EACCES, unix.EFAULT:
		return sftpDenied
	case unix.ENAMETOOLONG, unix.EINVAL:
		return sftpBadMessage
	case unix.ENOSYS:
		return sftpUnsupported
	}
	return sftpFailure
}

// longName is the line of "ls -l", which FileZilla and others parse.
func (s *sftpServer) longName(e *fileEntry, now time.Time) string {
	at := time.Unix(e.mtime, 0)
	when := at.Format("Jan _2  2006")
	if age := now.Sub(at); age < 365*24*time.Hour/2 && age >= 0 {
		when = at.Format("Jan _2 15:04")
	}
	return fmt.Sprintf("%s %3d %-8s %-8s %8d %s %s", modeText(e.mode), e.links,
		s.nameOf(passwdFile, e.uid), s.nameOf(groupFile, e.gid), e.size, when, e.name)
}

// modeText is a mode as strmode(3) has it, with its blank behind.
func modeText(mode uint32) string {
	b := []byte("?rwxrwxrwx ")
	for i, c := range "pcdb-ls" {
		if mode&unix.S_IFMT == [...]uint32{unix.S_IFIFO, unix.S_IFCHR, unix.S_IFDIR, unix.S_IFBLK, unix.S_IFREG, unix.S_IFLNK, unix.S_IFSOCK}[i] {
			b[0] = byte(c)
		}
	}
	for i := range 9 {
		if mode>>(8-i)&1 == 0 {
			b[1+i] = '-'
		}
	}
	for i, x := range [...]struct {
		bit  uint32
		c, C byte
	}{{unix.S_ISUID, 's', 'S'}, {unix.S_ISGID, 's', 'S'}, {unix.S_ISVTX, 't', 'T'}} {
		if at := &b[3+3*i]; mode&x.bit != 0 && *at == 'x' {
			*at = x.c
		} else if mode&x.bit != 0 {
			*at = x.C
		}
	}
	return string(b)
}

// nameOf is the name of an id in passwd or group, the number where it has none.
func (s *sftpServer) nameOf(file string, id uint32) string {
	key := uint64(id) << 1
	if file == groupFile {
		key |= 1
	}
	name, ok := s.names[key]
	if !ok {
		if name = idName(file, id); name == "" {
			name = fmt.Sprint(id)
		}
		if len(s.names) < 1<<10 {
			s.names[key] = name
		}
	}
	return name
}

// idName finds the name of an id: passwd and group have it in the third field.
func idName(file string, id uint32) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(line, ":", 4); len(f) == 4 && f[2] == fmt.Sprint(id) {
			return f[0]
		}
	}
	return ""
}

// sftpKindNames are requests as sftp-server's -P and -p name them.
var sftpKindNames = [...]string{sftpOpen: "open", sftpClose: "close", sftpRead: "read", sftpWrite: "write", sftpLstat: "lstat", sftpFstat: "fstat", sftpSetstat: "setstat", sftpFsetstat: "fsetstat", sftpOpendir: "opendir", sftpReaddir: "readdir", sftpRemove: "remove", sftpMkdir: "mkdir", sftpRmdir: "rmdir", sftpRealpath: "realpath", sftpStat: "stat", sftpRename: "rename", sftpReadlink: "readlink", sftpSymlink: "symlink"}

func sftpRequestName(r *sftpRequest) string {
	if r.kind == sftpExtended {
		name, _, _ := strings.Cut(r.path, "@")
		return name
	}
	return sftpKindNames[r.kind]
}

// sftpRequestNames are all of them.
func sftpRequestNames() []string {
	names := append([]string(nil), sftpKindNames[sftpOpen:]...)
	for _, e := range sftpExtensions {
		names = append(names, sftpRequestName(&sftpRequest{kind: sftpExtended, path: e.name}))
	}
	return names
}

// sftpLogLevel is 1 for what opens or changes, 2 for the rest.
func sftpLogLevel(r *sftpRequest) int {
	switch r.kind {
	case sftpOpen, sftpOpendir, sftpSetstat, sftpFsetstat, sftpRemove, sftpMkdir, sftpRmdir, sftpRename, sftpSymlink, sftpExtended:
		return 1
	}
	return 2
}
