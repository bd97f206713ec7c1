//go:build linux || darwin

package main

// This file is what the SFTP server says in words and codes: the status of an
// error, the lines of listings, names of users and groups, and of requests.

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
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
	return fmt.Sprintf("%s  %3d %-8s %-8s %8d %s %s", modeLetters(e.mode), e.links,
		s.nameOrNumber(passwdFile, e.uid), s.nameOrNumber(groupFile, e.gid), e.size, when, e.name)
}

// nameOf is the name of an id in passwd or group, "" where it has none: both have
// it in the third field. Each file is read once a session.
func (s *sftpServer) nameOf(file string, id uint32) string {
	if s.names[file] == nil {
		names := map[uint32]string{}
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			f := strings.SplitN(line, ":", 4)
			if len(f) < 4 {
				continue
			}
			n, err := strconv.ParseUint(f[2], 10, 32)
			if _, taken := names[uint32(n)]; err == nil && !taken {
				names[uint32(n)] = f[0]
			}
		}
		s.names[file] = names
	}
	return s.names[file][id]
}

// nameOrNumber is nameOf, or the id itself.
func (s *sftpServer) nameOrNumber(file string, id uint32) string {
	return cmp.Or(s.nameOf(file, id), strconv.FormatUint(uint64(id), 10))
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
