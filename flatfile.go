package main

// This file writes files so that an acknowledged write survives kill -9 and
// power loss: whole files by temporary file, fsync, rename and fsync of the
// directory; logs by appending entries that carry their length and hash.

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// readSmall reads a regular file of at most most bytes. It may be a pipe, which
// nobody waits for.
func readSmall(file string, most int64) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() > most) {
		err = fmt.Errorf("%s is no file of at most %d bytes", file, most)
	}
	if err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	return b, st, err
}

// replaceFile sets the content of file, whole or not at all. A file that
// already has that content is not written (no wear on flash); it may be there by
// a rename that was not on disk yet.
func replaceFile(file string, content []byte, perm fs.FileMode) error {
	if old, err := os.ReadFile(file); err == nil && string(old) == string(content) {
		return syncDir(filepath.Dir(file))
	}
	tmp, err := writeTemp(file, content, perm)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(file))
}

// createFileOnce writes file unless it exists; then it does nothing and
// returns nil, whoever made it.
func createFileOnce(file string, content []byte, perm fs.FileMode) error {
	tmp, err := writeTemp(file, content, perm)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	err = os.Link(tmp, file)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil { // a file system without hard links
		if _, statErr := os.Lstat(file); statErr == nil {
			return nil
		}
		if err := os.Rename(tmp, file); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(file))
}

func writeTemp(file string, content []byte, perm fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".tmp*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
	if err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("writing %s: %w", file, err)
	}
	sweepTemps(file, f.Name())
	return f.Name(), nil
}

// staleTemp is how much older than a new one a temporary file is that kill -9
// has left: no write takes so long.
const staleTemp = time.Hour

// sweepTemps removes what processes that were killed have left of file. What
// cannot be removed does no harm.
func sweepTemps(file, newest string) {
	now, err := os.Stat(newest)
	if err != nil {
		return
	}
	entries, _ := os.ReadDir(filepath.Dir(file))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "."+filepath.Base(file)+".tmp") {
			continue
		}
		if info, err := e.Info(); err == nil && now.ModTime().Sub(info.ModTime()) > staleTemp {
			os.Remove(filepath.Join(filepath.Dir(file), e.Name()))
		}
	}
}

// An entryLog is a file that only grows. An entry is its length (4 bytes, big
// endian), the record, and the SHA-256 of both. The length's first bit is set
// in all entries but the last of those appended at once: they are on disk
// before the last one is written. Callers serialise append.
type entryLog struct {
	f    *os.File
	size int64 // bytes of whole entries; what follows was never acknowledged
}

// openEntryLog opens or makes the log and returns its records. A torn tail is
// cut off. A bad entry that has the end of an append behind it was once
// acknowledged: that is damage, an error with code log-corrupt.
func openEntryLog(file string, maxRecord int) (*entryLog, [][]byte, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	records, size, err := readEntries(f, maxRecord)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = syncDir(filepath.Dir(file))
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return &entryLog{f, size}, records, nil
}

func readEntries(r io.Reader, maxRecord int) (records [][]byte, size int64, err error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, 0, err
	}
	for {
		rest := b[size:]
		rec, ok := cutEntry(rest, maxRecord)
		if ok {
			records = append(records, rec)
			size += int64(len(rec)) + entryOverhead
			continue
		}
		for i := 1; i < len(rest); i++ {
			if _, ok := cutEntry(rest[i:], maxRecord); ok && rest[i]&moreBit == 0 {
				return nil, 0, coded("log-corrupt", "damaged entry at byte %d", size)
			}
		}
		return records, size, nil
	}
}

const (
	entryOverhead = 4 + sha256.Size
	moreBit       = 0x80 // of an entry's first byte: the same append goes on
)

// cutEntry returns the record of the whole and sound entry that b begins with.
func cutEntry(b []byte, maxRecord int) ([]byte, bool) {
	if len(b) < entryOverhead {
		return nil, false
	}
	n := binary.BigEndian.Uint32(b) &^ (moreBit << 24)
	if int64(n) > int64(maxRecord) || int64(n) > int64(len(b)-entryOverhead) {
		return nil, false
	}
	end := 4 + int(n)
	if sha256.Sum256(b[:end]) != [32]byte(b[end:end+sha256.Size]) {
		return nil, false
	}
	return b[4:end:end], true
}

// append writes records and returns when they are on disk. After an error
// nothing of them is kept.
func (l *entryLog) append(records ...[]byte) error {
	last := max(len(records)-1, 0)
	end, err := l.write(l.size, records[:last], moreBit)
	if err == nil {
		end, err = l.write(end, records[last:], 0)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("appending to %s: %w", l.f.Name(), err), l.f.Truncate(l.size))
	}
	l.size = end
	return nil
}

// write puts entries at a place and returns where they end, on disk.
func (l *entryLog) write(at int64, records [][]byte, more byte) (end int64, err error) {
	if len(records) == 0 {
		return at, nil
	}
	var b []byte
	for _, rec := range records {
		begin := len(b)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(rec))), rec...)
		b[begin] |= more
		sum := sha256.Sum256(b[begin:])
		b = append(b, sum[:]...)
	}
	if _, err := l.f.WriteAt(b, at); err != nil {
		return at, err
	}
	return at + int64(len(b)), l.f.Sync()
}

func (l *entryLog) close() error { return l.f.Close() }
