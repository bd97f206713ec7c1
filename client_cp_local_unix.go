//go:build linux || darwin

package main

import (
	"io/fs"
	"os"
	"syscall"
)

// addSystemAttrs adds the owner and, from the same look, the time of access.
func addSystemAttrs(a *sftpAttrs, info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		a.flags |= sftpHasOwner
		a.uid, a.gid = st.Uid, st.Gid
		a.atime = uint32(min(max(accessTime(st), 0), 1<<32-1))
	}
}

// ownPart reports whether a part is this process's alone, and no wider than what
// it will be.
func ownPart(info fs.FileInfo, then sftpAttrs) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == uint32(os.Geteuid()) && st.Nlink == 1 && !wider(attrsOf(info), then)
}

// keepOwner gives a new file the owner of the one that it replaces, which only
// root can.
func keepOwner(f *os.File, old, now fs.FileInfo) {
	o, ok := old.Sys().(*syscall.Stat_t)
	n, more := now.Sys().(*syscall.Stat_t)
	if ok && more && (o.Uid != n.Uid || o.Gid != n.Gid) {
		f.Chown(int(o.Uid), int(o.Gid))
	}
}

// hasDrive reports whether a name begins with a drive: there are none.
func hasDrive(string) bool { return false }
