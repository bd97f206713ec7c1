package main

import (
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// walkFlags open a directory to go on from there, pathFlags anything to be
	// asked about itself. Neither needs the right to read.
	walkFlags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	pathFlags = unix.O_PATH
)

// chmod goes by a descriptor where the kernel (before 6.6) cannot keep from
// following links otherwise.
func (pl *filePlace) chmod(mode uint32) error {
	err := unix.Fchmodat(pl.dir, pl.name, mode, pl.flag())
	if err != unix.EOPNOTSUPP {
		return err
	}
	fd, openErr := pl.open(pathFlags, 0)
	if openErr != nil {
		return openErr
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if statErr := unix.Fstat(fd, &st); statErr != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return err
	}
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
}

// renameKeeping renames, or fails where the new name is taken.
func renameKeeping(a, b *filePlace) error {
	return unix.Renameat2(a.dir, a.name, b.dir, b.name, unix.RENAME_NOREPLACE)
}

func statFileSystem(fd int) (fileSystem, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err != nil {
		return fileSystem{}, err
	}
	v := fileSystem{
		bsize: uint64(s.Bsize), frsize: uint64(s.Frsize), blocks: s.Blocks, bfree: s.Bfree, bavail: s.Bavail,
		files: s.Files, ffree: s.Ffree, fsid: uint64(uint32(s.Fsid.Val[0])) | uint64(uint32(s.Fsid.Val[1]))<<32,
		flags: uint64(s.Flags) & (unix.ST_RDONLY | unix.ST_NOSUID), namemax: uint64(s.Namelen),
	}
	if v.frsize == 0 {
		v.frsize = v.bsize
	}
	return v, nil
}

// onProc reports whether a file is the kernel's own account of processes.
func onProc(fd int) bool {
	var s unix.Statfs_t
	return unix.Fstatfs(fd, &s) == nil && s.Type == unix.PROC_SUPER_MAGIC
}
