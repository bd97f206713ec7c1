package main

// This file reads and writes the records of SCP, as scp -t and scp -f speak it:
// lines of text, each answered by a byte, and the bytes of files between them.

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxScpLine is the longest record, in bytes: a name has at most 255, a message
// quotes a path of at most 4096.
const maxScpLine = 8 << 10

// A scpRecord is one line:
//
//	C0644 SIZE NAME          a file, whose SIZE bytes follow
//	D0755 0 NAME             a directory; what follows is in it
//	E                        its end
//	TMTIME MUSEC ATIME AUSEC times of the next file or directory
//	\1TEXT                   a warning, about a file that does not come
//	\2TEXT                   an error, the end
type scpRecord struct {
	kind         byte // C D E T 1 2
	mode         uint32
	size         int64  // in bytes
	mtime, atime int64  // seconds since 1970, 0 to 2^32-1
	name         string // or the text of 1 and 2
}

func (r scpRecord) append(b []byte) []byte {
	switch r.kind {
	case 'E':
		b = append(b, 'E')
	case 'T':
		b = fmt.Appendf(b, "T%d 0 %d 0", r.mtime, r.atime)
	case 1, 2:
		b = append(append(b, r.kind), r.name...)
	default:
		b = fmt.Appendf(b, "%c%04o %d %s", r.kind, r.mode, r.size, r.name)
	}
	return append(b, '\n')
}

// errScpControl refuses one name, not what it came with.
var errScpControl = errors.New("a name with control bytes is not taken here")

// parseScpRecord reads a line without its end. Names are single components that
// a terminal shows as they are; with errScpControl all else is good.
func parseScpRecord(line []byte) (r scpRecord, err error) {
	if len(line) == 0 || len(line) > maxScpLine {
		return r, fmt.Errorf("protocol error: a record of %d bytes, 1 to %d", len(line), maxScpLine)
	}
	r.kind = line[0]
	text := string(line[1:])
	switch r.kind {
	case 1, 2:
		r.name = text
	case 'E':
		if text != "" {
			err = fmt.Errorf("protocol error: %q behind E", clip(text))
		}
	case 'T':
		parts := strings.Split(text, " ")
		var n [4]uint64
		for i := range n {
			if len(parts) == len(n) && err == nil {
				n[i], err = strconv.ParseUint(parts[i], 10, 32)
			}
		}
		if len(parts) != len(n) || err != nil || n[1] > 999999 || n[3] > 999999 {
			return r, fmt.Errorf("protocol error: times %q", clip(text))
		}
		r.mtime, r.atime = int64(n[0]), int64(n[2])
	case 'C', 'D':
		mode, rest, _ := strings.Cut(text, " ")
		size, name, ok := strings.Cut(rest, " ")
		m, modeErr := strconv.ParseUint(mode, 8, 32)
		n, sizeErr := strconv.ParseUint(size, 10, 63)
		if !ok || len(mode) != 4 || modeErr != nil || sizeErr != nil {
			return r, fmt.Errorf("protocol error: mode and size %q", clip(text))
		}
		if !isScpName(name) {
			return r, fmt.Errorf("unexpected filename %q", clip(name))
		}
		if strings.IndexFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }) >= 0 {
			err = errScpControl
		}
		r.mode, r.size, r.name = uint32(m), int64(n), name
	default:
		err = fmt.Errorf("protocol error: a record that begins with %q", r.kind)
	}
	return r, err
}

// isScpName reports whether this is a name, as OpenSSH's sink has it.
func isScpName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.Contains(s, "/")
}

// scpName is a base name as OpenSSH's scp sends it: a line end would end the
// record, so one with that goes as vis(3) writes it.
func scpName(s string) string {
	if !strings.Contains(s, "\n") {
		return s
	}
	var b []byte
	for _, c := range []byte(s) {
		low := c & 0x7f
		switch {
		case c == '\\':
			b = append(b, `\\`...)
		case c == '\t' || c >= ' ' && c < 0x7f:
			b = append(b, c)
		case low == ' ':
			b = append(b, `\240`...)
		default:
			if b = append(b, '\\'); c != low {
				b = append(b, 'M')
			}
			if low < ' ' || low == 0x7f {
				b = append(b, '^', low^0x40)
			} else {
				b = append(b, '-', low)
			}
		}
	}
	return string(b)
}

// scpBase is the last component, of "a/" too.
func scpBase(s string) string {
	s = strings.TrimRight(s, "/")
	return s[strings.LastIndexByte(s, '/')+1:]
}
