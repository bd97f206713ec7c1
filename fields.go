package main

// This file writes and reads the fields of a message by one list of them, so
// that the two cannot differ. Numbers are big endian.

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// A codec goes through the fields of a message in order: it appends them to
// out, or takes them from in. The first error stays, and all that is read after
// it is zero.
type codec struct {
	reading bool
	in      cryptobyte.String
	out     []byte
	err     error
}

// A fielded is a message that names its fields to a codec.
type fielded interface{ fields(c *codec) }

var errCut = errors.New("message cut short")

// appendFields writes m behind b.
func appendFields(b []byte, m fielded) []byte {
	c := codec{out: b}
	m.fields(&c)
	return c.out
}

// parseFields reads m, which must be empty. What stands behind the last field
// is ignored.
func parseFields[M fielded](b []byte, m M) (M, error) {
	c := codec{reading: true, in: b}
	if m.fields(&c); c.err != nil {
		var none M
		return none, c.err
	}
	return m, nil
}

func (c *codec) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// more reports whether fields go on: a message from before they were added ends
// here.
func (c *codec) more() bool { return !c.reading || c.err == nil && !c.in.Empty() }

// fixed is a field of as many bytes as v has.
func (c *codec) fixed(v []byte) {
	if !c.reading {
		c.out = append(c.out, v...)
	} else if c.err == nil && !c.in.CopyBytes(v) {
		c.err = errCut
	}
}

// uint is a number of size bytes: v, or what is read in its place.
func (c *codec) uint(v uint64, size int) uint64 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	c.fixed(b[8-size:])
	return binary.BigEndian.Uint64(b[:])
}

// prefixed is bytes behind their length, itself of size bytes. They are not
// copied; none are nil.
func (c *codec) prefixed(v []byte, size, most int) []byte {
	n := c.uint(uint64(len(v)), size)
	if !c.reading {
		c.out = append(c.out, v...)
		return v
	}
	if n > uint64(most) {
		c.fail("a field of %d bytes, at most %d", n, most)
	}
	var b []byte
	if c.err == nil && !c.in.ReadBytes(&b, int(n)) {
		c.err = errCut
	}
	if len(b) == 0 || c.err != nil {
		return nil
	}
	return b
}

// text is prefixed for a string; one too long is written cut.
func (c *codec) text(v string, size, most int) string {
	return string(c.prefixed([]byte(v[:min(len(v), most)]), size, most))
}

// listed is a count of size bytes and each item of list, called what in errors.
func listed[T any](c *codec, list *[]T, size, most int, what string, each func(item *T)) {
	n := c.uint(uint64(len(*list)), size)
	if c.reading && n > uint64(most) {
		c.fail("%d %s, at most %d", n, what, most)
	}
	for i := 0; i < int(n) && c.err == nil; i++ {
		if c.reading {
			*list = append(*list, *new(T))
		}
		each(&(*list)[i])
	}
}
