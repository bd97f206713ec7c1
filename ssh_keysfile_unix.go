//go:build linux || darwin

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// readKeysFile reads a file that says who may log in as the user with uid.
// path is absolute and clean. No symlink on the way is followed, and what others
// than the user and root could have changed is refused: a root process reads
// nothing for a user that the user has only linked to.
// fs.ErrNotExist: there is no such file.
func readKeysFile(path string, uid uint32) ([]byte, error) {
	at, dir := "/", -1
	for name := range strings.SplitSeq(path, "/") {
		if name == "" && dir >= 0 {
			continue
		}
		if name == "" {
			name = "/"
		} else {
			at = strings.TrimSuffix(at, "/") + "/" + name
		}
		flags := keysDirOpen | unix.O_DIRECTORY
		if at == path {
			flags = unix.O_RDONLY | unix.O_NONBLOCK // else a FIFO would hold us
		}
		fd, err := openatRetry(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if dir >= 0 {
			unix.Close(dir)
		}
		switch {
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
			return nil, fmt.Errorf("%s is a symlink or not a directory", at)
		case err != nil:
			return nil, &os.PathError{Op: "open", Path: at, Err: err}
		}
		if err := checkKeysPath(fd, uid, at == path); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("%s %w", at, err)
		}
		dir = fd
	}
	f := os.NewFile(uintptr(dir), path)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKeysFile+1))
}

func openatRetry(dir int, name string, flags int) (fd int, err error) {
	for {
		if fd, err = unix.Openat(dir, name, flags, 0); err != unix.EINTR {
			return fd, err
		}
	}
}

// checkKeysPath looks at what was opened. In a sticky directory of root
// everybody may make files, and nobody touch another's.
func checkKeysPath(fd int, uid uint32, isFile bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	mode := uint32(st.Mode)
	switch {
	case isFile && mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("is not a file")
	case st.Uid != uid && st.Uid != 0:
		return fmt.Errorf("belongs to uid %d", st.Uid)
	case mode&0o022 != 0 && (isFile || st.Uid != 0 || mode&unix.S_ISVTX == 0):
		return fmt.Errorf("may be written by others (mode %04o)", mode&0o7777)
	}
	return nil
}
