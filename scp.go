//go:build linux || darwin

package main

// This file serves SCP: the sink takes files (scp -t), the source gives them
// (scp -f), both through the door to files and in step with the client.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// scpChunk is how much of a file is moved at once, in bytes.
	scpChunk = 64 << 10
	// maxScpDepth is how deep directories nest: more than a path of 4096 bytes has.
	maxScpDepth = 2048
)

// errScpEnd ends a session whose client has been told why, or said so itself.
var errScpEnd = errors.New("the transfer is over")

// An scpServer is one side of one copy. One goroutine uses it.
type scpServer struct {
	scpCommand
	door *fileDoor
	in   *bufio.Reader
	out  *bufio.Writer
	log  func(string) // of what is left out; may be nil
	buf  []byte
	bad  bool // something was not copied: exit status 1
}

// serveSCP does a command and returns its exit status.
func serveSCP(d *fileDoor, c scpCommand, in io.Reader, out io.Writer, log func(string)) int {
	s := &scpServer{scpCommand: c, door: d, in: bufio.NewReaderSize(in, scpChunk), out: bufio.NewWriterSize(out, scpChunk), log: log, buf: make([]byte, scpChunk)}
	tree := scpTree{home: func(user string) (string, error) { return d.expand("~" + user) }, list: s.names, is: func(file string) bool {
		_, err := d.lstat(file)
		return err == nil
	}}
	var paths []string
	for _, w := range c.paths {
		list, err := w.expand(tree)
		if err != nil {
			s.warn(w.text, err)
		}
		if len(paths)+len(list) > maxScpPaths {
			return s.tooMany()
		}
		paths = append(paths, list...)
	}
	var err error
	if c.sink {
		err = s.sinkAll(paths)
	} else if err = s.answer(); err == nil {
		for _, p := range paths {
			if err = s.give(p, 0); err != nil {
				break
			}
		}
	}
	if flushErr := s.out.Flush(); err != nil || flushErr != nil || s.bad {
		return 1
	}
	return 0
}

// tooMany ends a command whose words together stand for more than one may.
func (s *scpServer) tooMany() int {
	s.fatal(errScpPaths)
	s.out.Flush()
	return 1
}

// names lists a directory for a glob.
func (s *scpServer) names(dir string) (names []string, err error) {
	if dir == "" {
		dir = "."
	}
	err = s.each(dir, func(e fileEntry) error {
		if names = append(names, e.name); len(names) > maxScpPaths {
			return errScpPaths
		}
		return nil
	})
	return names, err
}

// each goes through a directory, without "." and "..".
func (s *scpServer) each(dir string, do func(fileEntry) error) error {
	o, err := s.door.openDir(dir)
	if err != nil {
		return err
	}
	defer o.close()
	for {
		list, err := o.next(100)
		for _, e := range list {
			if e.name == "." || e.name == ".." {
				continue
			}
			if err := do(e); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// warn tells the client that something is not copied.
func (s *scpServer) warn(file string, err error) {
	s.bad = true
	reason := err.Error()
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		reason = strings.ToUpper(reason[:1]) + reason[1:]
	}
	s.out.Write(scpRecord{kind: 1, name: printable("scp: " + file + ": " + reason)}.append(nil))
}

// fatal is warn, and the end.
func (s *scpServer) fatal(err error) error {
	s.bad = true
	s.out.Write(scpRecord{kind: 2, name: printable("scp: " + err.Error())}.append(nil))
	return errScpEnd
}

func (s *scpServer) ack() { s.out.WriteByte(0) }

// answer waits for the client's. errScpNo is its warning: that is not wanted.
func (s *scpServer) answer() error {
	if err := s.out.Flush(); err != nil {
		return err
	}
	c, err := s.in.ReadByte()
	if err != nil || c == 0 {
		return err
	}
	s.bad = true
	if _, err := s.line(); err != nil {
		return err
	}
	if c == 1 {
		return errScpNo
	}
	return errScpEnd
}

var errScpNo = errors.New("the client does not want it")

// line reads up to a line end, at most maxScpLine bytes; what came before an
// error is returned with it.
func (s *scpServer) line() ([]byte, error) {
	line, err := s.in.ReadSlice('\n')
	if err == nil && len(line) > maxScpLine {
		err = bufio.ErrBufferFull
	}
	if err != nil {
		return line, err
	}
	return line[:len(line)-1], nil
}

// sinkAll takes files to the one target.
func (s *scpServer) sinkAll(paths []string) error {
	if len(paths) != 1 {
		return s.fatal(errors.New("ambiguous target"))
	}
	target := paths[0]
	st, err := s.door.stat(target)
	folder := err == nil && st.isDir()
	if s.folder && !folder {
		if err == nil {
			err = unix.ENOTDIR
		}
		s.warn(target, err)
		return errScpEnd
	}
	return s.take(target, folder, 0)
}

// take takes files into a directory, or the one that is to have the target's
// name, until the end of the stream, or of the directory.
func (s *scpServer) take(target string, folder bool, depth int) error {
	var times *scpRecord
	s.ack()
	for {
		if err := s.out.Flush(); err != nil {
			return err
		}
		line, err := s.line()
		if err == io.EOF && len(line) == 0 && depth == 0 && times == nil {
			return nil
		}
		if err == bufio.ErrBufferFull {
			return s.fatal(fmt.Errorf("protocol error: a record of more than %d bytes", maxScpLine))
		}
		if err != nil {
			return err
		}
		r, err := parseScpRecord(line)
		if err != nil && err != errScpControl {
			return s.fatal(err)
		}
		if times != nil && r.kind != 'C' && r.kind != 'D' {
			return s.fatal(errors.New("protocol error: times without a file"))
		}
		name := target
		if folder && r.name != "" {
			name = strings.TrimSuffix(target, "/") + "/" + r.name
			if target == "" {
				name = r.name
			}
		}
		if err != nil { // errScpControl: the client sends the next
			s.warn(name, err)
			times = nil
			continue
		}
		switch r.kind {
		case 1:
			s.bad = true
		case 2:
			s.bad = true
			return errScpEnd
		case 'E':
			if depth == 0 {
				return s.fatal(errors.New("protocol error: the end of no directory"))
			}
			s.ack()
			return nil
		case 'T':
			times = &r
			s.ack()
		case 'D':
			if !s.recursive || depth >= maxScpDepth {
				return s.fatal(errors.New("received directory without -r, or too deep"))
			}
			err = s.takeFolder(name, r, times, depth)
			times = nil
		case 'C':
			err = s.takeFile(name, r, times)
			times = nil
		}
		if err != nil {
			return err
		}
	}
}

// attrs are the times of a T record.
func (r *scpRecord) attrs() sftpAttrs {
	return sftpAttrs{flags: sftpHasTimes, atime: uint32(r.atime), mtime: uint32(r.mtime)}
}

func (s *scpServer) takeFolder(name string, r scpRecord, times *scpRecord, depth int) error {
	st, err := s.door.stat(name)
	mode := uint32(0) // to be set when it is full
	switch {
	case err == nil && !st.isDir():
		err = unix.ENOTDIR
	case err == nil && s.times:
		mode = r.mode & 0o7777
	case errors.Is(err, unix.ENOENT):
		if err = s.door.mkdir(name, r.mode&0o777|0o700); err == nil && (s.times || r.mode&0o700 != 0o700) {
			if st, err = s.door.lstat(name); err == nil {
				mode = st.mode & r.mode & 0o777 // less the umask
			}
			if s.times { // -p brings all bits, as with OpenSSH's
				mode = r.mode & 0o7777
			}
		}
	}
	if err != nil {
		s.warn(name, err)
		return nil
	}
	if err := s.take(name, true, depth+1); err != nil {
		return err
	}
	a := sftpAttrs{}
	if times != nil {
		a = times.attrs()
	}
	if mode != 0 {
		a.flags, a.mode = a.flags|sftpHasMode, mode
	}
	if a.flags != 0 {
		if err := s.door.setstat(name, a); err != nil {
			s.warn(name, err)
		}
	}
	return nil
}

// takeFile takes one file. Whatever fails, as many bytes are read as were told.
func (s *scpServer) takeFile(name string, r scpRecord, times *scpRecord) error {
	f, err := s.door.open(name, sftpOpenWrite|sftpOpenCreate|sftpOpenTrunc, r.mode&0o777, r.size)
	if err != nil {
		s.warn(name, err) // the client sends the next
		return nil
	}
	s.ack()
	if err := s.out.Flush(); err != nil {
		f.abandon()
		return err
	}
	var wrong error
	for off := int64(0); off < r.size; {
		n, err := s.in.Read(s.buf[:min(int64(len(s.buf)), r.size-off)])
		if n > 0 && wrong == nil {
			wrong = f.writeAt(s.buf[:n], uint64(off))
		}
		if off += int64(n); err != nil && off < r.size {
			f.abandon()
			return fmt.Errorf("%d bytes short: %w", r.size-off, err)
		}
	}
	a := sftpAttrs{}
	if times != nil {
		a = times.attrs()
	}
	if s.times {
		a.flags, a.mode = a.flags|sftpHasMode, r.mode&0o7777
	}
	var told error // the source may not have read all of the file
	c, err := s.in.ReadByte()
	if err == nil && c != 0 {
		s.bad = true
		_, err = s.line()
		told = errScpNo
	}
	if err != nil {
		f.abandon()
		return err
	}
	if wrong == nil && told == nil && a.flags != 0 {
		wrong = f.setstat(a)
	}
	if err := f.close(); wrong == nil {
		wrong = err
	}
	if wrong != nil {
		s.warn(name, wrong)
	} else {
		s.ack()
	}
	return nil
}

// give sends a file, or with -r a directory.
func (s *scpServer) give(name string, depth int) (ended error) {
	st, err := s.door.stat(name)
	switch {
	case err != nil:
	case st.isDir() && s.recursive && depth < maxScpDepth:
		return s.giveFolder(name, st, depth)
	case !st.isRegular():
		err = errors.New("not a regular file")
	}
	var f *openFile
	if err == nil {
		f, err = s.door.open(name, sftpOpenRead, 0, -1)
	}
	if err != nil {
		s.warn(name, err)
		return nil
	}
	defer func() {
		if ended != nil {
			f.abandon()
		} else {
			f.close()
		}
	}()
	if st, err = f.stat(); err != nil || !st.isRegular() {
		s.warn(name, errors.New("not a regular file"))
		return nil
	}
	if err := s.offer(scpRecord{kind: 'C', mode: st.mode & 0o6777, size: st.size, name: scpName(scpBase(name))}, st); err != nil {
		return passed(err)
	}
	var wrong error
	for off := int64(0); off < st.size; {
		b := s.buf[:min(int64(len(s.buf)), st.size-off)]
		n, err := 0, wrong
		if wrong == nil {
			n, err = f.readAt(b, uint64(off))
		}
		if n < len(b) && wrong == nil { // it is shorter now: zeros keep step
			if wrong = err; err == nil || err == io.EOF {
				wrong = errors.New("file changed size")
			}
		}
		clear(b[n:])
		if _, err := s.out.Write(b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	if wrong != nil {
		s.warn(name, wrong)
	} else {
		s.ack()
	}
	return passed(s.answer())
}

// offer sends times, if wanted, and a record, and waits for its answer.
func (s *scpServer) offer(r scpRecord, st fileStat) error {
	if s.times {
		cut := func(t int64) int64 { return max(0, min(t, 1<<32-1)) }
		s.out.Write(scpRecord{kind: 'T', mtime: cut(st.mtime), atime: cut(st.atime)}.append(nil))
		if err := s.answer(); err != nil {
			return err
		}
	}
	s.out.Write(r.append(nil))
	return s.answer()
}

// passed: what the client does not want is no reason to end.
func passed(err error) error {
	if err == errScpNo {
		return nil
	}
	return err
}

func (s *scpServer) giveFolder(name string, st fileStat, depth int) error {
	if _, err := s.names(name); err != nil { // no record for what cannot be read
		s.warn(name, err)
		return nil
	}
	if err := s.offer(scpRecord{kind: 'D', mode: st.mode & 0o6777, name: scpName(scpBase(name))}, st); err != nil {
		return passed(err)
	}
	var ended error // of the stream, not of the directory
	err := s.each(name, func(e fileEntry) error {
		file := strings.TrimSuffix(name, "/") + "/" + e.name
		if e.mode&unix.S_IFMT == unix.S_IFLNK && s.door.walks {
			if s.log != nil {
				s.log(fmt.Sprintf("scp: %s is a symlink: not followed below a root or with a filter", printable(file)))
			}
			return nil
		}
		ended = s.give(file, depth+1)
		return ended
	})
	if ended != nil {
		return ended
	}
	if err != nil {
		s.warn(name, err)
	}
	s.out.Write(scpRecord{kind: 'E'}.append(nil))
	return passed(s.answer())
}
