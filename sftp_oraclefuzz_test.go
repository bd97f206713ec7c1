//go:build linux

package main

// Sequences of requests that nobody thought of, to OpenSSH's sftp-server and to
// ours: what TestSFTPOracle asks one by one, in any order.

import (
	"fmt"
	"testing"
)

// oracleFuzzNames are few, so that requests meet. None has "..": both trees lie
// in one directory. None is the pipe, for whose other end stock waits.
var oracleFuzzNames = []string{"f", "e", "d", "d/g", "d/sub", "d/new", "l", "dl", "dl/g", "dl/new", "broken", "loop", "abs", "x", "new", "new/new", "nowhere", "missing/x", "f/x", "DIR/f", ".", ""}

// An oracleFuzz makes requests of bytes; behind their end it has zeros.
type oracleFuzz []byte

func (z *oracleFuzz) next(n int) int {
	if len(*z) == 0 {
		return 0
	}
	b := int((*z)[0])
	*z = (*z)[1:]
	return b % n
}

func (z *oracleFuzz) name() string { return oracleFuzzNames[z.next(len(oracleFuzzNames))] }

func (z *oracleFuzz) attrs() sftpAttrs {
	n := uint32(z.next(256))
	flags := n & 15
	if flags&sftpHasOwner != 0 { // stock gives the file away last, which takes its setuid bit
		flags &^= sftpHasMode
	}
	return sftpAttrs{flags: flags, size: uint64(n) * 100, uid: n >> 4, gid: n >> 5, mode: uint32(z.next(256)) << 4 & 0o7777, atime: n, mtime: n << 24}
}

// op is the next request, of any kind.
func (z *oracleFuzz) op() oracleOp {
	paths := []byte{sftpOpendir, sftpStat, sftpLstat, sftpRemove, sftpRmdir, sftpRealpath, sftpReadlink}
	twoPaths := []string{sftpPosixRename, sftpHardlink}
	onePath := []string{sftpStatvfs, sftpExpandPath}
	onHandles := []string{sftpFstatvfs, sftpFsync}
	switch k := z.next(24); k {
	case 0, 1, 2, 3:
		return askOpen(z.name(), uint32(z.next(64)), z.attrs())
	case 4, 5:
		return askHandle(sftpRead, z.next(6), sftpRequest{offset: uint64(z.next(256)) * 3, length: uint32(z.next(256)) * 20})
	case 6, 7, 8:
		return askHandle(sftpWrite, z.next(6), sftpRequest{offset: uint64(z.next(256)) * 3, data: fmt.Appendf(nil, "%0*d", 1+z.next(40), z.next(10))})
	case 9:
		return askHandle(sftpReaddir, z.next(6), sftpRequest{})
	case 10:
		return askHandle(sftpClose, z.next(6), sftpRequest{})
	case 11:
		return askHandle(sftpFstat, z.next(6), sftpRequest{})
	case 12:
		return askHandle(sftpFsetstat, z.next(6), sftpRequest{attrs: z.attrs()})
	case 13:
		return askAttrs(sftpSetstat, z.name(), z.attrs())
	case 14:
		return askExtended(sftpLsetstat, z.name(), z.attrs())
	case 15:
		return askAttrs(sftpMkdir, z.name(), z.attrs())
	case 16:
		return askTwo(sftpRename, z.name(), z.name())
	case 17:
		return askTwo(sftpSymlink, z.name(), z.name())
	case 18:
		return askExtended(twoPaths[z.next(len(twoPaths))], z.name(), z.name())
	case 19:
		return askExtended(onePath[z.next(len(onePath))], z.name())
	case 20:
		return askExtended(onHandles[z.next(len(onHandles))], z.next(6))
	case 21: // to the end, stock reads what it has written by another name, for ever
		return askExtended(sftpCopyData, z.next(6), uint64(z.next(256)), uint64(1+z.next(200)), z.next(6), uint64(z.next(256)))
	default:
		return askPath(paths[z.next(len(paths))], z.name())
	}
}

// FuzzSFTPOracle compares each answer, and the trees that are left.
func FuzzSFTPOracle(f *testing.F) {
	for _, seed := range []string{
		"\x00\x00\x0e\x1f\x04\x1e\x06\x00\x00\x09\x03\x04\x00\x00\x20\x0a\x00\x16\x01\x0e",                     // made, written, read, closed, looked at
		"\x01\x10\x02\x0e\x16\x04\x02\x11\x02\x02\x16\x06\x0e\x12\x00\x00\x05\x12\x01\x05\x00",                 // moved, linked, removed
		"\x00\x16\x00\x02\x09\x00\x0f\x0e\x04\x70\x0d\x0f\x05\x33\x0e\x06\x08\x00\x16\x06\x06\x09\x00",         // listed while it changes
		"\x01\x00\x03\x01\x00\x00\x00\x01\x1b\x00\x00\x15\x00\x05\x64\x01\x03\x0b\x01\x0c\x01\x05\x10\x0b\x01", // copied
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		z := oracleFuzz(b[:min(len(b), 300)])
		ours, stock := oraclePeers(t, z.next(2) == 1)
		oracleCompare(t, ours, stock, 0, "init", askInit)
		for id := uint32(1); len(z) > 0 && !ours.parted; id++ {
			if !oracleCompare(t, ours, stock, id, fmt.Sprint("request ", id), z.op()) {
				t.Fatalf("both ended at request %d", id)
			}
		}
		if !ours.parted {
			oracleSameTrees(t, ours.dir, stock.dir)
		}
	})
}
