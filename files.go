//go:build linux || darwin

package main

// This file is the one door to files for SFTP and SCP: what a client may reach
// below a root, what the filter says of it, and what the audit is told. Errors
// are the kernel's numbers, or a fileDenied; they name no path.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fileRules are what holds for the files of one session.
type fileRules struct {
	protocol string // sftp or scp: whose settings hold
	user     string // as the filter knows them
	home     string // on disk; where relative paths begin, as far as it lies in root
	root     string // "" the whole file system
	filter   *fileFilter
	readOnly bool
	maxSize  int64 // of a file that is written, in bytes; 0 none
}

// A fileDoor is one session's way to files. One goroutine uses it. Its paths
// are as the client sees them, any bytes but NUL; relative ones begin at start.
//
// Without root and filter they go to the kernel as they are. Else each is walked
// here, component by component, and the last step follows no link: what the
// filter has judged is what is used, whatever is swapped meanwhile.
type fileDoor struct {
	fileRules
	start string // absolute, as the client sees it
	note  func(auditEvent)
	top   int    // descriptor of the root
	base  string // path of the root on disk, without links; "" for the whole file system
	walks bool
	over  func() error // not nil once nobody waits for what is done; may be nil
}

// openFileDoor opens the door. note is told of what happens and may be nil.
func openFileDoor(r fileRules, note func(auditEvent)) (*fileDoor, error) {
	d := &fileDoor{fileRules: r, note: note, start: "/", walks: r.root != "" || r.filter != nil}
	if r.root != "" {
		base, err := filepath.EvalSymlinks(r.root)
		if err != nil {
			return nil, r.noRoot(err)
		}
		d.base = strings.TrimSuffix(path.Clean(base), "/")
	}
	top, err := unix.Open(d.base+"/", walkFlags, 0)
	if err != nil {
		return nil, r.noRoot(err)
	}
	d.top = top
	d.home, err = d.viewOf(r.home)
	if st, statErr := d.statPlain(d.home); err == nil && statErr == nil && st.isDir() {
		d.start = d.home
	}
	return d, nil
}

// noRoot is for the client too, who is not told where the root is.
func (r *fileRules) noRoot(err error) error {
	if n := unix.Errno(0); errors.As(err, &n) {
		err = n
	}
	return fmt.Errorf("%s.root, or the one that stands in for it: %w", r.protocol, err)
}

func (d *fileDoor) close() { unix.Close(d.top) }

// viewOf is a path on disk as the client sees it, "/" if it lies outside.
func (d *fileDoor) viewOf(disk string) (string, error) {
	if d.base == "" {
		if path.IsAbs(disk) {
			return path.Clean(disk), nil
		}
		return "/", fs.ErrNotExist
	}
	real, err := filepath.EvalSymlinks(disk)
	if err != nil {
		return "/", err
	}
	rest, ok := strings.CutPrefix(real+"/", d.base+"/")
	if !ok {
		return "/", nil
	}
	return path.Clean("/" + rest), nil
}

// A fileDenied is the filter's no.
type fileDenied struct{ rule string }

func (e *fileDenied) Error() string {
	if e.rule == "" {
		return "denied by filter: default_action is deny"
	}
	return fmt.Sprintf("denied by filter rule %q", e.rule)
}

func (*fileDenied) Is(target error) bool { return target == fs.ErrPermission }

// tell records an event of a place. A failure that is no denial is recorded as
// such.
func (d *fileDoor) tell(kind auditType, pl *filePlace, e auditEvent, err error) {
	if d.note == nil {
		return
	}
	e.kind, e.path, e.result = kind, pl.seen, auditSuccess
	if err != nil {
		e.result, e.details = auditFailure, err.Error()
	}
	d.note(e)
}

// writes reports whether op changes something.
func (op filterOp) writes() bool {
	switch op {
	case opUpload, opDelete, opRename, opCreateDir, opSetstat, opSymlink:
		return true
	}
	return false
}

func (d *fileDoor) judge(op filterOp, pl *filePlace, size int64) filterVerdict {
	if pl.hidden {
		op = opStat
	}
	return d.filter.judge(filterAsk{op: op, user: d.user, seen: pl.seen, resolved: pl.resolved, size: size})
}

// apply makes an error of a verdict, and records what is to be recorded.
func (d *fileDoor) apply(op filterOp, pl *filePlace, v filterVerdict) error {
	e := auditEvent{kind: auditTransferAllowed, path: pl.seen, result: auditSuccess, rule: v.rule, details: string(op)}
	var err error
	switch v.action {
	case filterAllow:
		return nil
	case filterDeny:
		e.kind, e.result, err = auditTransferDenied, auditDenied, &fileDenied{v.rule}
	}
	if d.note != nil {
		d.note(e)
	}
	return err
}

// allow judges one operation on a place that was found, or of which only seen
// is known. size is that of the file, -1 where it is what the place has now.
func (d *fileDoor) allow(op filterOp, pl *filePlace, size int64) error {
	if d.readOnly && op.writes() {
		return unix.EACCES
	}
	if d.filter == nil {
		return nil
	}
	v := d.judge(op, pl, size)
	if v.bySize && size < 0 {
		if st, err := pl.stat(); err == nil && st.isRegular() { // nothing else has a size
			v = d.judge(op, pl, st.size)
		}
	}
	return d.apply(op, pl, v)
}

// reach finds the place of a path and judges op on it. What may not be seen is
// denied, whether it is there or not. The caller closes the place of a nil
// error.
func (d *fileDoor) reach(op filterOp, p string, follow bool, size int64) (filePlace, error) {
	pl, err := d.at(p, follow)
	if denied := d.allow(op, &pl, size); denied != nil {
		err = denied
	}
	if err != nil {
		pl.close()
	}
	return pl, err
}

// realpath is p without links, "." and "..". Its last component need not exist,
// unless a slash stands behind it; what that is does not matter, as in OpenSSH.
func (d *fileDoor) realpath(p string) (string, error) {
	if p == "" {
		p = "."
	}
	bare := strings.TrimRight(p, "/")
	if bare == "" {
		bare = p
	}
	pl, err := d.walked(bare, true)
	if err == nil && bare != p {
		_, err = pl.stat()
	}
	if denied := d.allow(opStat, &pl, -1); denied != nil {
		err = denied
	}
	pl.close()
	return pl.inside, err
}

// expand is p with "~" or "~user" in front resolved, as realpath.
func (d *fileDoor) expand(p string) (string, error) {
	if !strings.HasPrefix(p, "~") {
		return d.realpath(p)
	}
	name, rest, _ := strings.Cut(p[1:], "/")
	home := d.home
	if name != "" && name != d.user {
		acct, err := findAccount(name)
		if err != nil || d.base != "" {
			return "", unix.ENOENT
		}
		home = acct.home
	}
	return d.realpath(home + "/" + rest)
}

// statPlain is stat without filter, for the door itself.
func (d *fileDoor) statPlain(p string) (st fileStat, err error) {
	pl, err := d.at(p, true)
	if err == nil {
		st, err = pl.stat()
	}
	pl.close()
	return st, err
}

func (d *fileDoor) stat(p string) (fileStat, error)  { return d.statAt(p, true) }
func (d *fileDoor) lstat(p string) (fileStat, error) { return d.statAt(p, false) }

func (d *fileDoor) statAt(p string, follow bool) (fileStat, error) {
	pl, err := d.reach(opStat, p, follow, -1)
	if err != nil {
		return fileStat{}, err
	}
	defer pl.close()
	return pl.stat()
}

// setstat changes what a says of the file p, lsetstat of a link itself.
func (d *fileDoor) setstat(p string, a sftpAttrs) error  { return d.setstatAt(p, a, true) }
func (d *fileDoor) lsetstat(p string, a sftpAttrs) error { return d.setstatAt(p, a, false) }

func (d *fileDoor) setstatAt(p string, a sftpAttrs, follow bool) error {
	pl, err := d.reach(opSetstat, p, follow, -1)
	if err != nil {
		return err
	}
	defer pl.close()
	if a.flags&sftpHasSize != 0 {
		err = d.setSize(&pl, a.size)
		if denied, ok := err.(*fileDenied); ok {
			return denied // nothing else is done either
		}
	}
	if a.flags&sftpHasOwner != 0 {
		err = last(err, unix.Fchownat(pl.dir, pl.name, int(a.uid), int(a.gid), pl.flag()))
	}
	if a.flags&sftpHasMode != 0 { // behind the owner, which clears bits
		err = last(err, pl.chmod(d.modeOf(a.mode)))
	}
	if a.flags&sftpHasTimes != 0 {
		err = last(err, pl.setTimes(a))
	}
	return err
}

// last is the later of two errors: as OpenSSH, all is tried and the last failure
// told.
func last(a, b error) error {
	if b != nil {
		return b
	}
	return a
}

// modeOf is what of a mode is set: below a root no bit that lends rights.
func (d *fileDoor) modeOf(mode uint32) uint32 {
	if d.base != "" {
		return mode & 0o777
	}
	return mode & 0o7777
}

func (d *fileDoor) setSize(pl *filePlace, size uint64) error {
	if size > 1<<63-1 {
		return unix.EINVAL
	}
	if err := d.allow(opUpload, pl, int64(size)); err != nil {
		return err
	}
	if d.maxSize > 0 && int64(size) > d.maxSize {
		return unix.EFBIG
	}
	fd, err := pl.open(unix.O_WRONLY, 0)
	if err == unix.ENXIO {
		err = unix.EINVAL // a pipe, as truncate says it
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Ftruncate(fd, int64(size))
}

// remove removes what is no directory, rmdir a directory that is empty.
func (d *fileDoor) remove(p string) error { return d.unlink(p, 0, auditFileDeleted) }
func (d *fileDoor) rmdir(p string) error {
	return d.unlink(p, unix.AT_REMOVEDIR, auditDirectoryDeleted)
}

func (d *fileDoor) unlink(p string, flags int, kind auditType) error {
	pl, err := d.reach(opDelete, p, false, -1)
	if err != nil {
		return err
	}
	defer pl.close()
	err = unix.Unlinkat(pl.dir, pl.name, flags)
	d.tell(kind, &pl, auditEvent{}, err)
	return err
}

func (d *fileDoor) mkdir(p string, mode uint32) error {
	if bare := strings.TrimRight(p, "/"); bare != "" {
		p = bare // "link/" is the link here, which is in the way
	}
	pl, err := d.reach(opCreateDir, p, false, -1)
	if err != nil {
		return err
	}
	defer pl.close()
	err = unix.Mkdirat(pl.dir, pl.name, d.modeOf(mode))
	d.tell(auditDirectoryCreated, &pl, auditEvent{}, err)
	return err
}

// two reaches two places, the second with the size of the first.
func (d *fileDoor) two(op, op2 filterOp, p, p2 string) (a, b filePlace, err error) {
	if a, err = d.reach(op, p, false, -1); err != nil {
		if denied := d.deniedUnseen(op2, p2); denied != nil {
			err = denied
		}
		return a, b, err
	}
	size := int64(-1)
	if st, err := a.stat(); err == nil && st.isRegular() {
		size = st.size
	}
	if b, err = d.reach(op2, p2, false, size); err != nil {
		a.close()
	}
	return a, b, err
}

// deniedUnseen is the filter's no to a second path whose first failed.
func (d *fileDoor) deniedUnseen(op filterOp, p string) error {
	pl, err := d.reach(op, p, false, -1)
	if _, ok := err.(*fileDenied); ok {
		return err
	}
	if err == nil {
		pl.close()
	}
	return nil
}

// rename fails where the new name is taken, unless replace is set.
func (d *fileDoor) rename(old, name string, replace bool) error {
	a, b, err := d.two(opRename, opRename, old, name)
	if err != nil {
		return err
	}
	defer a.close()
	defer b.close()
	if err := d.allowBelow(a, b, 0); err != nil {
		return err
	}
	if replace {
		err = unix.Renameat(a.dir, a.name, b.dir, b.name)
	} else {
		err = renameNew(&a, &b)
	}
	d.tell(auditFileRenamed, &a, auditEvent{destPath: b.seen}, err)
	return err
}

// renameNew fails where the new name is taken. For file systems that cannot, as
// in OpenSSH a file gets its name by a link, which fails where one is.
func renameNew(a, b *filePlace) error {
	err := renameKeeping(a, b)
	if err != unix.EINVAL && err != unix.ENOSYS && err != unix.ENOTSUP {
		return err
	}
	st, err := a.stat()
	if err != nil {
		return err
	}
	if st.mode&unix.S_IFMT == unix.S_IFREG {
		err = unix.Linkat(a.dir, a.name, b.dir, b.name, 0)
		if err == nil {
			return unix.Unlinkat(a.dir, a.name, 0)
		}
		if err != unix.EOPNOTSUPP && err != unix.EPERM && err != unix.ENOSYS && err != unix.EMLINK {
			return err
		}
	}
	if _, err := b.stat(); err == nil {
		return unix.EEXIST
	}
	return unix.Renameat(a.dir, a.name, b.dir, b.name)
}

// link gives the file old a second name.
func (d *fileDoor) link(old, name string) error {
	a, b, err := d.two(opDownload, opUpload, old, name)
	if err != nil {
		return err
	}
	defer a.close()
	defer b.close()
	if err := d.allow(opUpload, &a, -1); err != nil {
		return err // what may not be written may not get a name by which it may
	}
	err = unix.Linkat(a.dir, a.name, b.dir, b.name, 0)
	d.tell(auditFileUploaded, &b, auditEvent{details: "hard link to " + a.seen}, err)
	return err
}

// symlink makes a link at p that says target, as it is. It is judged where it
// leads too, which need not be there.
func (d *fileDoor) symlink(target, p string) error {
	if target == "" {
		return unix.ENOENT
	}
	pl, err := d.reach(opSymlink, p, false, -1)
	if err != nil {
		return err
	}
	defer pl.close()
	if d.filter != nil {
		leads := target
		if target[0] != '/' {
			leads = path.Dir(pl.inside) + "/" + target
		}
		to, _ := d.at(leads, true)
		defer to.close()
		if err := d.allow(opSymlink, &to, -1); err != nil {
			return err
		}
	}
	return unix.Symlinkat(target, pl.dir, pl.name)
}

func (d *fileDoor) readlink(p string) (string, error) {
	pl, err := d.reach(opReadlink, p, false, -1)
	if err != nil {
		return "", err
	}
	defer pl.close()
	return readlinkAt(pl.dir, pl.name)
}

// statvfs tells of the file system that p is on.
func (d *fileDoor) statvfs(p string) (fileSystem, error) {
	pl, err := d.reach(opStat, p, true, -1)
	if err != nil {
		return fileSystem{}, err
	}
	defer pl.close()
	fd, err := pl.open(pathFlags, 0)
	if err != nil {
		return fileSystem{}, err
	}
	defer unix.Close(fd)
	return statFileSystem(fd)
}

// A fileStat is what is known of a file.
type fileStat struct {
	mode, uid, gid uint32 // mode with the type, as in st_mode
	size           int64
	links          uint64
	atime, mtime   int64 // seconds since 1970
	dev, ino       uint64
}

func (s *fileStat) isDir() bool     { return s.mode&unix.S_IFMT == unix.S_IFDIR }
func (s *fileStat) isRegular() bool { return s.mode&unix.S_IFMT == unix.S_IFREG }

func statOf(st *unix.Stat_t) fileStat {
	return fileStat{
		mode: uint32(st.Mode), uid: st.Uid, gid: st.Gid, size: st.Size, links: uint64(st.Nlink),
		atime: int64(st.Atim.Sec), mtime: int64(st.Mtim.Sec), dev: uint64(st.Dev), ino: uint64(st.Ino),
	}
}

// attrs are all that SFTP can say of it; times are cut as in OpenSSH.
func (s *fileStat) attrs() sftpAttrs {
	return sftpAttrs{
		flags: sftpHasSize | sftpHasOwner | sftpHasMode | sftpHasTimes, size: uint64(s.size),
		uid: s.uid, gid: s.gid, mode: s.mode, atime: uint32(s.atime), mtime: uint32(s.mtime),
	}
}

// timesOf is both times for the kernel. On 32-bit systems they end in 2038.
func timesOf(a sftpAttrs) ([]unix.Timespec, error) {
	at, err := unix.TimeToTimespec(time.Unix(int64(a.atime), 0))
	mt, err2 := unix.TimeToTimespec(time.Unix(int64(a.mtime), 0))
	return []unix.Timespec{at, mt}, last(err, err2)
}

// A fileSystem is what statvfs tells; ids and flags as statvfs(3).
type fileSystem struct {
	bsize, frsize, blocks, bfree, bavail, files, ffree, fsid, flags, namemax uint64
}

// An openDir lists a directory.
type openDir struct {
	f     *os.File
	fd    int
	top   bool // what is above it is nobody's business
	begun bool
}

// A fileEntry is a name in a directory.
type fileEntry struct {
	name string
	fileStat
}

func (d *fileDoor) openDir(p string) (*openDir, error) {
	if d.over != nil && d.over() != nil {
		return nil, unix.ECANCELED
	}
	pl, err := d.reach(opListDir, p, true, -1)
	if err != nil {
		return nil, err
	}
	defer pl.close()
	fd, err := pl.open(unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if d.tell(auditDirectoryListed, &pl, auditEvent{}, err); err != nil {
		return nil, err
	}
	return &openDir{f: os.NewFile(uintptr(fd), ""), fd: fd, top: d.base != "" && pl.inside == "/"}, nil
}

// next returns up to n entries, "." and ".." before the first n; io.EOF behind the last. What
// has vanished is left out.
func (o *openDir) next(n int) (list []fileEntry, err error) {
	names, err := o.f.Readdirnames(n)
	if !o.begun {
		names, err = append([]string{".", ".."}, names...), nil
	}
	if err != nil {
		return nil, err
	}
	o.begun = true
	for _, name := range names {
		at := name
		if name == ".." && o.top {
			at = "."
		}
		var st unix.Stat_t
		if unix.Fstatat(o.fd, at, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			list = append(list, fileEntry{name, statOf(&st)})
		}
	}
	return list, nil
}

func (o *openDir) close() error { return o.f.Close() }
