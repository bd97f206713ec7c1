//go:build linux || darwin

package main

// This file finds the place of a path: the descriptor of a directory and a name
// in it. Below a root, or for a filter to judge, it goes there step by step
// and follows links by hand, so that nothing that is swapped meanwhile leads
// elsewhere. os.Root would not do: it refuses links to absolute paths, and does
// not tell which path it has followed.

import (
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxWalkLinks is how many links a path may lead over: as in the kernel.
	maxWalkLinks = 40
	// maxWalkSteps bounds the directories opened for one path, which ".." in
	// the targets of links could make many.
	maxWalkSteps = 16 << 10
	// maxPath is PATH_MAX: longer paths the kernel refuses as well, in bytes.
	maxPath = 4096
	// maxRenameDepth bounds the descriptors that judging a directory's content
	// needs: one a level.
	maxRenameDepth = 128
)

// A filePlace is where a path leads: name in the directory dir.
type filePlace struct {
	dir    int
	name   string
	follow bool // the kernel is to follow a link that name is; walked places never
	owned  bool // dir is to be closed

	seen     string // the path as the client means it: absolute, cleaned
	inside   string // the same without links
	resolved string // inside on disk
	hidden   bool   // seen is what the path only led through: nobody may know whether it is there
}

func (pl *filePlace) close() {
	if pl.owned {
		unix.Close(pl.dir)
		pl.owned = false
	}
}

func (pl *filePlace) flag() int {
	if pl.follow {
		return 0
	}
	return unix.AT_SYMLINK_NOFOLLOW
}

func (pl *filePlace) stat() (fileStat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(pl.dir, pl.name, &st, pl.flag()); err != nil {
		return fileStat{}, err
	}
	return statOf(&st), nil
}

// open never waits: not for the other end of a pipe, nor for a device.
func (pl *filePlace) open(flags int, mode uint32) (int, error) {
	if !pl.follow {
		flags |= unix.O_NOFOLLOW
	}
	return openAt(pl.dir, pl.name, flags|unix.O_NONBLOCK|unix.O_NOCTTY, mode)
}

func openAt(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (pl *filePlace) setTimes(a sftpAttrs) error {
	ts, err := timesOf(a)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(pl.dir, pl.name, ts, pl.flag())
}

func readlinkAt(dir int, name string) (string, error) {
	var b [maxPath]byte
	n, err := unix.Readlinkat(dir, name, b[:])
	return string(b[:max(n, 0)]), err
}

// at finds the place of p. Of a link that p ends in, it is that of the target
// with follow. With an error only seen is there, and resolved is the same.
func (d *fileDoor) at(p string, follow bool) (filePlace, error) {
	if d.walks {
		return d.walked(p, follow)
	}
	abs, err := d.absolute(p)
	seen := path.Clean("/" + abs)
	return filePlace{dir: unix.AT_FDCWD, name: abs, follow: follow, seen: seen, inside: seen, resolved: seen}, err
}

func (d *fileDoor) absolute(p string) (string, error) {
	switch {
	case p == "":
		return "", unix.ENOENT
	case strings.IndexByte(p, 0) >= 0:
		return "", unix.EINVAL
	case len(p) >= maxPath:
		return "", unix.ENAMETOOLONG
	case p[0] != '/':
		return d.start + "/" + p, nil
	}
	return p, nil
}

func (d *fileDoor) walked(p string, follow bool) (filePlace, error) {
	abs, err := d.absolute(p)
	seen := path.Clean("/" + abs)
	pl := filePlace{dir: d.top, seen: seen, inside: seen, resolved: d.base + seen}
	if err != nil {
		return pl, err
	}
	w := walker{door: d, dir: d.top}
	name, err := w.walk(abs, follow)
	if err != nil {
		if w.enter(d.top); w.hidden != "" {
			pl.seen, pl.resolved, pl.hidden = w.hidden, path.Clean(d.base+w.hidden), true
		}
		return pl, err
	}
	pl.dir, pl.name, pl.owned = w.dir, name, w.dir != d.top
	if name != "." {
		w.names = append(w.names, name)
	}
	pl.inside = "/" + strings.Join(w.names, "/")
	pl.resolved = path.Clean(d.base + pl.inside)
	return pl, nil
}

// A walker stands in a directory below the root.
type walker struct {
	door  *fileDoor
	dir   int
	names []string // that lead from the root to dir; none is a link
	links int
	steps int

	hidden string // where the filter has stopped it
}

// enter goes on to a directory and closes that before it.
func (w *walker) enter(dir int) {
	if w.dir != w.door.top {
		unix.Close(w.dir)
	}
	w.dir = dir
}

// walk goes to the directory that the last name of rest is in, and returns that
// name; "." where it is the directory itself. Unless it must be a directory, the
// last name need not exist.
func (w *walker) walk(rest string, follow bool) (string, error) {
	if err := w.leaves(rest); err != nil {
		return "", err
	}
	for {
		rest = strings.TrimLeft(rest, "/")
		name, tail, slash := strings.Cut(rest, "/")
		ends := strings.Trim(tail, "/") == ""
		if w.steps++; w.steps > maxWalkSteps {
			return "", unix.ELOOP
		}
		switch name {
		case "":
			return ".", nil
		case ".":
			rest = tail
			continue
		case "..":
			if err := w.up(); err != nil {
				return "", err
			}
			rest = tail
			continue
		}
		if ends && !slash && !follow {
			return name, nil
		}
		target, err := w.step(name, ends)
		switch {
		case err != nil:
			return "", err
		case target != "":
			rest = target
			if slash {
				rest += "/" + tail
			}
			if err := w.leaves(rest); err != nil {
				return "", err
			}
		case ends:
			return name, w.mayEnd(name, slash)
		default:
			rest = tail
		}
	}
}

// leaves refuses what goes into a place that may not be seen and out of it by
// "..", whether it is there or not: the answer would tell. That names are there
// is known already, so links lead up from where they stand.
func (w *walker) leaves(rest string) error {
	d := w.door
	if d.filter == nil || !strings.Contains(rest, "..") {
		return nil
	}
	names, known := slices.Clone(w.names), len(w.names)
	for name := range strings.SplitSeq(rest, "/") {
		if name != ".." {
			if name != "" && name != "." {
				names = append(names, name)
			}
			continue
		}
		if len(names) > known {
			left := "/" + strings.Join(names, "/")
			if v := d.filter.judge(filterAsk{op: opStat, user: d.user, seen: left, resolved: d.base + left, size: -1}); v.action == filterDeny {
				w.hidden = left
				return &fileDenied{v.rule}
			}
		}
		if w.steps += len(names); w.steps > maxWalkSteps { // as up takes them
			return unix.ELOOP
		}
		names = names[:max(len(names)-1, 0)]
		known = min(known, len(names))
	}
	return nil
}

// step enters the directory name, or when the path ends there only looks at it.
// If it is a link, its target is returned instead.
func (w *walker) step(name string, ends bool) (target string, err error) {
	if !ends {
		next, err := openAt(w.dir, name, walkFlags|unix.O_NOFOLLOW, 0)
		if err == nil {
			w.enter(next)
			w.names = append(w.names, name)
			return "", nil
		}
		if err != unix.ENOTDIR && err != unix.ELOOP {
			return "", err
		}
	}
	target, err = readlinkAt(w.dir, name)
	if err == unix.EINVAL || ends && err == unix.ENOENT { // no link
		if ends {
			return "", nil
		}
		return "", unix.ENOTDIR
	}
	if err != nil {
		return "", err
	}
	if w.links++; w.links > maxWalkLinks {
		return "", unix.ELOOP
	}
	if target == "" {
		return "", unix.ENOENT
	}
	if target[0] == '/' {
		w.enter(w.door.top)
		w.names = nil
	}
	return target, nil
}

// up goes to the directory above, by the names that led here: what ".." would
// open may have been moved.
func (w *walker) up() error {
	if len(w.names) == 0 {
		return nil
	}
	names := w.names[:len(w.names)-1]
	w.enter(w.door.top)
	w.names = nil
	for _, name := range names {
		next, err := openAt(w.dir, name, walkFlags|unix.O_NOFOLLOW, 0)
		if w.steps++; w.steps > maxWalkSteps {
			err = last(err, unix.ELOOP)
		}
		if err != nil {
			if next >= 0 {
				unix.Close(next)
			}
			return err
		}
		w.enter(next)
	}
	w.names = names
	return nil
}

// mayEnd: behind a slash there is a directory, or nothing yet.
func (w *walker) mayEnd(name string, slash bool) error {
	var st unix.Stat_t
	if !slash || unix.Fstatat(w.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	return unix.ENOTDIR
}

// allowBelow judges what the directory a takes along when it becomes b: the name
// of all that is in it changes as well, and what a rule keeps by its path must
// not leave that, nor come there.
func (d *fileDoor) allowBelow(a, b filePlace, depth int) error {
	if d.filter == nil {
		return nil
	}
	fd, err := a.open(unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP || err == unix.ENOENT {
		return nil
	}
	if err == nil && depth == maxRenameDepth {
		unix.Close(fd)
		err = unix.EACCES
	}
	if err != nil {
		return err // what cannot be judged
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	for {
		names, end := f.Readdirnames(100)
		for _, name := range names {
			x, y := a.below(fd, name), b.below(fd, name)
			if err = d.allow(opRename, &x, -1); err == nil {
				err = d.allow(opRename, &y, -1)
			}
			if err == nil {
				err = d.allowBelow(x, y, depth+1)
			}
			if err != nil {
				return err
			}
		}
		if end != nil {
			return nil
		}
	}
}

// below is the place of a name in pl, which dir is a descriptor of.
func (pl *filePlace) below(dir int, name string) filePlace {
	at := func(p string) string { return strings.TrimSuffix(p, "/") + "/" + name }
	return filePlace{dir: dir, name: name, seen: at(pl.seen), inside: at(pl.inside), resolved: at(pl.resolved)}
}
