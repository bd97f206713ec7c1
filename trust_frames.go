package main

// This file holds the bytes by which two machines compare their logs and hand
// each other what is missing.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
)

// A frame is its type (1 byte), the length of its body (4 bytes, big endian) and
// the body.
const (
	frameHello   = 1
	frameGet     = 2
	frameRecords = 3
	frameError   = 4

	maxFrame        = 64 << 10 // bytes of body
	maxReplyRecords = 64
	maxLogBuild     = 64
	maxErrorCode    = 32

	exchangeProto = 1 // the protocol that this program speaks
)

// A logHelloMsg says how far a log has come. It begins an exchange; the second one
// says that the sender asks for nothing more. The body:
//
//	acct      32 bytes
//	seq        8 bytes  number of the last record
//	head      32 bytes  hash of the last statement; zero: no records
//	min, max   2 bytes each: protocol versions
//	build      1 byte length and text, at most 64 of 0x20-0x7e
//	branches   1 byte   count, at most 8; for each tip beside the log:
//	             seq    8 bytes
//	             hash  32 bytes
//
// Bytes after the last branch are ignored: that is where fields are added.
type logHelloMsg struct {
	acct     acctID
	tip      logTip
	min, max uint16
	build    string
	branches []logTip
}

// A logTip names the end of a log or of a branch.
type logTip struct {
	seq  uint64
	hash stmtHash
}

// A logGetMsg asks for records from…to on the way to a statement: 32 bytes of
// hash, 8 bytes each of from and to.
type logGetMsg struct {
	tip      stmtHash
	from, to uint64
}

// A logRecordsMsg answers a logGetMsg: a count (1 byte, at most 64), then each record
// with its length (4 bytes). They begin at from and may end before to; none at
// all means that there are none. No tail.
type logRecordsMsg struct{ records [][]byte }

// An logErrorMsg instead of records refuses to give any; at any other time it says
// why its sender ends the exchange. A stable code of at most 32 letters and
// dashes, with its length (1 byte). Bytes after it are ignored.
type logErrorMsg struct{ code string }

var errFrameShort = errors.New("exchange: a frame cut short")

func (m *logHelloMsg) append(b []byte) []byte {
	b = append(b, m.acct[:]...)
	b = appendTip(b, m.tip)
	b = binary.BigEndian.AppendUint16(b, m.min)
	b = binary.BigEndian.AppendUint16(b, m.max)
	b = append(append(b, byte(len(m.build))), m.build...)
	b = append(b, byte(len(m.branches)))
	for _, tip := range m.branches {
		b = appendTip(b, tip)
	}
	return b
}

func appendTip(b []byte, tip logTip) []byte {
	return append(binary.BigEndian.AppendUint64(b, tip.seq), tip.hash[:]...)
}

func parseLogHello(b []byte) (*logHelloMsg, error) {
	s := cryptobyte.String(b)
	m := new(logHelloMsg)
	var build cryptobyte.String
	var count uint8
	if !s.CopyBytes(m.acct[:]) || !readTip(&s, &m.tip) || !s.ReadUint16(&m.min) || !s.ReadUint16(&m.max) ||
		!s.ReadUint8LengthPrefixed(&build) || !s.ReadUint8(&count) {
		return nil, errFrameShort
	}
	if len(build) > maxLogBuild || count > maxBranches {
		return nil, fmt.Errorf("exchange: hello with a build of %d bytes and %d branches", len(build), count)
	}
	for _, c := range build {
		if c < 0x20 || c > 0x7e {
			return nil, errors.New("exchange: hello with a build that is not text")
		}
	}
	m.build = string(build)
	for range count {
		var tip logTip
		if !readTip(&s, &tip) {
			return nil, errFrameShort
		}
		m.branches = append(m.branches, tip)
	}
	return m, nil
}

func readTip(s *cryptobyte.String, tip *logTip) bool {
	return s.ReadUint64(&tip.seq) && s.CopyBytes(tip.hash[:])
}

func (m *logGetMsg) append(b []byte) []byte {
	b = append(b, m.tip[:]...)
	b = binary.BigEndian.AppendUint64(b, m.from)
	return binary.BigEndian.AppendUint64(b, m.to)
}

func parseLogGet(b []byte) (*logGetMsg, error) {
	s := cryptobyte.String(b)
	m := new(logGetMsg)
	if !s.CopyBytes(m.tip[:]) || !s.ReadUint64(&m.from) || !s.ReadUint64(&m.to) {
		return nil, errFrameShort
	}
	if m.from > m.to {
		return nil, fmt.Errorf("exchange: records from %d to %d asked for", m.from, m.to)
	}
	return m, nil
}

func (m *logRecordsMsg) append(b []byte) []byte {
	b = append(b, byte(len(m.records)))
	for _, rec := range m.records {
		b = appendSSHString(b, rec)
	}
	return b
}

func parseLogRecords(b []byte) (*logRecordsMsg, error) {
	s := cryptobyte.String(b)
	m := new(logRecordsMsg)
	var count uint8
	if !s.ReadUint8(&count) {
		return nil, errFrameShort
	}
	if count > maxReplyRecords {
		return nil, fmt.Errorf("exchange: %d records at once, at most %d", count, maxReplyRecords)
	}
	for range count {
		var rec []byte
		if !readSSHString(&s, &rec) {
			return nil, errFrameShort
		}
		m.records = append(m.records, rec)
	}
	if !s.Empty() {
		return nil, errors.New("exchange: bytes behind the last record")
	}
	return m, nil
}

func (m *logErrorMsg) append(b []byte) []byte {
	return append(append(b, byte(len(m.code))), m.code...)
}

func parseLogError(b []byte) (*logErrorMsg, error) {
	s := cryptobyte.String(b)
	var code cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&code) {
		return nil, errFrameShort
	}
	if !inSet(string(code), maxErrorCode, "abcdefghijklmnopqrstuvwxyz0123456789-") {
		return nil, errors.New("exchange: an error without a proper code")
	}
	return &logErrorMsg{string(code)}, nil
}

func appendFrame(b []byte, typ byte, body []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, typ), uint32(len(body)))
	return append(b, body...)
}

// readFrame reads one frame. allow is asked before memory is taken for the
// body.
func readFrame(r io.Reader, allow func(typ byte, size int) error) (typ byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("exchange: a frame of %d bytes, at most %d", size, maxFrame)
	}
	if err := allow(head[0], int(size)); err != nil {
		return 0, nil, err
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return head[0], body, nil
}
