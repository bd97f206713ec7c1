package main

import "golang.org/x/sys/unix"

const (
	walkFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	pathFlags = unix.O_RDONLY
)

func (pl *filePlace) chmod(mode uint32) error {
	return unix.Fchmodat(pl.dir, pl.name, mode, pl.flag())
}

// renameKeeping renames, or fails where the new name is taken.
func renameKeeping(a, b *filePlace) error {
	return unix.RenameatxNp(a.dir, a.name, b.dir, b.name, unix.RENAME_EXCL)
}

// statFileSystem: the last two flags and numbers are as statvfs(3) has them.
func statFileSystem(fd int) (fileSystem, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err != nil {
		return fileSystem{}, err
	}
	v := fileSystem{
		bsize: uint64(s.Iosize), frsize: uint64(s.Bsize), blocks: s.Blocks, bfree: s.Bfree, bavail: s.Bavail,
		files: s.Files, ffree: s.Ffree, fsid: uint64(uint32(s.Fsid.Val[0])), namemax: 255,
	}
	if s.Flags&unix.MNT_RDONLY != 0 {
		v.flags |= 1
	}
	if s.Flags&unix.MNT_NOSUID != 0 {
		v.flags |= 2
	}
	return v, nil
}

func onProc(int) bool { return false }
