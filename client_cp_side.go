package main

// This file says what a copy needs of a place that holds files, so that this
// machine and a device can stand on either side of it. Names are bytes as that
// place has them.

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"
)

// A cpSide is such a place.
type cpSide interface {
	// stat does not follow a link unless told to.
	stat(name string, follow bool) (sftpAttrs, error)
	// list calls each with the names in dir, "." and ".." left out; a name that
	// is none is an error. The attributes are those of links themselves.
	list(dir string, each func(name string, a sftpAttrs) error) error
	resolve(name string) (string, error)
	mkdir(name string, perm uint32) error
	set(name string, a sftpAttrs) error
	read(name string, size int64) (cpReader, error)
	create(name string, how cpHow) (cpWriter, error)
	join(dir, name string) string
	base(name string) string
	show(name string) string // for people
	same(a, b string) bool   // are they one file
}

// samePlace reports whether two sides name the same files.
func samePlace(a, b cpSide) bool {
	r, there := a.(*remoteSide)
	q, too := b.(*remoteSide)
	return there == too && a != nil && b != nil && (!there || r.device == q.device)
}

// A cpHow is how a file is to be written.
type cpHow struct {
	size    int64  // -1: not known
	perm    uint32 // of a new file, without its type; -p's too
	inplace bool   // no part beside it
	goOn    bool   // in place, behind what is there
	sync    bool   // have it on disk
}

// A cpReader reads one file from beginning to end.
type cpReader interface {
	seek(at int64)         // before the first next
	next() ([]byte, error) // io.EOF behind the last; good until release
	release(data []byte)   // takes it back
	// sum is nil when that place cannot tell. This machine tells before seek
	// only: what is read then is hashed on its way.
	sum(off, n int64) *cpSum
	close()
}

// A cpWriter writes one file. Failures may be told some writes later.
type cpWriter interface {
	have() int64 // bytes that were there before, to be checked by sum
	part() string
	begin(at int64) error // drops what is there behind at
	write(off int64, data []byte) error
	sum(off, n int64) *cpSum              // as of a cpReader, with begin for seek
	settle(size int64, a sftpAttrs) error // all is written, and closed
	commit() error                        // it stands under its name
	// abort ends it at any time. The part stays if it is of use: there are the
	// bytes of it then, 0 when it is not there; left says that it could not be
	// removed.
	abort(keep bool) (there int64, left bool)
}

// errTaken: a part is found by its name alone, which another copy takes as well.
var errTaken = withHint(errors.New("another copy to that name has taken its place"), "wait for that one, or copy again")

// wider reports whether others may open now who may not open then: they could
// hold it open when it has become then.
func wider(now, then sftpAttrs) bool {
	may := then.mode
	if now.flags&then.flags&sftpHasOwner != 0 && now.gid != then.gid {
		may = then.mode & 7 * 0o11
	}
	return now.mode&0o077&^may != 0
}

// A cpSum is a digest under way.
type cpSum struct {
	want [sha256.Size]byte // what it is compared with
	off  int64
	wait func() (digest []byte, n int64, err error)
}

// check waits for the digest of n bytes.
func (s *cpSum) check(n int64) error {
	digest, got, err := s.wait()
	if err == nil && (got != n || string(digest) != string(s.want[:])) {
		err = coded("differs", "what was written is not what was read, behind byte %d", s.off)
	}
	return err
}

// partName is the name beside base under which it is written first. It has at
// most 255 bytes, which is what file systems take.
func partName(base string) string {
	if most := 255 - len(newFileSuffix) - 1; len(base) > most {
		sum := sha256.Sum256([]byte(base))
		base = base[:most-17] + "-" + hex.EncodeToString(sum[:8])
	}
	return "." + base + newFileSuffix
}

// checkEntry refuses names that would lead out of the directory that they are
// said to be in: CVE-2019-6111.
func checkEntry(claimed string) error {
	bad := claimed == "" || claimed == "." || claimed == ".." || strings.ContainsAny(claimed, "/\x00")
	if runtime.GOOS == "windows" {
		bad = bad || strings.ContainsAny(claimed, `\:`) || !filepath.IsLocal(claimed)
	}
	if bad {
		return fmt.Errorf("%q is no name of a file: nothing is done with it", claimed)
	}
	return nil
}

// zeroBlock is what is looked for to leave holes, 4 KiB as most disks have.
var zeroBlock [4 << 10]byte

// withoutZeros cuts blocks of zeros from both ends of data, which stands at
// off. What is left may be empty.
func withoutZeros(off int64, data []byte) (int64, []byte) {
	const n = len(zeroBlock)
	for len(data) > 0 && string(data[:min(n, len(data))]) == string(zeroBlock[:min(n, len(data))]) {
		off, data = off+int64(min(n, len(data))), data[min(n, len(data)):]
	}
	for len(data) > n && string(data[len(data)-n:]) == string(zeroBlock[:]) {
		data = data[:len(data)-n]
	}
	return off, data
}

// A streamReader is standard input as a file.
type streamReader struct {
	r   io.Reader
	buf []byte
}

func (s *streamReader) seek(int64)              {}
func (s *streamReader) release([]byte)          {}
func (s *streamReader) sum(int64, int64) *cpSum { return nil }
func (s *streamReader) close()                  {}
func (s *streamReader) next() ([]byte, error) {
	n, err := io.ReadFull(s.r, s.buf)
	if n > 0 || errors.Is(err, io.ErrUnexpectedEOF) {
		return s.buf[:n], nil
	}
	return nil, err
}

// A streamWriter is standard output as a file.
type streamWriter struct{ w io.Writer }

func (streamWriter) have() int64                   { return 0 }
func (streamWriter) part() string                  { return "" }
func (streamWriter) begin(int64) error             { return nil }
func (streamWriter) sum(int64, int64) *cpSum       { return nil }
func (streamWriter) settle(int64, sftpAttrs) error { return nil }
func (streamWriter) commit() error                 { return nil }
func (streamWriter) abort(bool) (int64, bool)      { return 0, false }
func (s streamWriter) write(_ int64, b []byte) error {
	_, err := s.w.Write(b)
	return reasonOf(err)
}
