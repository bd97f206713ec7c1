package main

// This file is the form of streams on a link: the head that says what a
// stream is for, the codes by which one is refused, and a stream as net.Conn.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/quic-go/quic-go"
)

// What a stream carries.
const (
	streamSSH     = 1 // body: the session token
	streamLog     = 2 // body empty: an exchange of log records
	streamControl = 3 // body: one request byte; the answer depends on it
)

const (
	streamVersion = 1
	// maxStreamBody bounds the body of a stream's head, in bytes.
	maxStreamBody = 1 << 10
)

// A streamHead begins every stream: kind 1 byte, version 1, body length 2, body.
type streamHead struct {
	kind, version byte
	body          []byte
}

func (h streamHead) append(b []byte) []byte {
	b = append(b, h.kind, h.version)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.body)))
	return append(b, h.body...)
}

func readStreamHead(r io.Reader) (h streamHead, err error) {
	var fixed [4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return h, fmt.Errorf("stream head: %w", err)
	}
	n := binary.BigEndian.Uint16(fixed[2:])
	if n > maxStreamBody {
		return h, fmt.Errorf("stream head with a body of %d bytes, at most %d", n, maxStreamBody)
	}
	h = streamHead{fixed[0], fixed[1], make([]byte, n)}
	if _, err := io.ReadFull(r, h.body); err != nil {
		return h, fmt.Errorf("stream head: %w", err)
	}
	return h, nil
}

// linkCodes are the stable codes as application error codes of QUIC streams
// and connections, by their place in this list; new ones go to the end.
var linkCodes = []string{
	"", "denied", "key-mismatch", "unknown-device", "revoked", "expired", "role", "user", "host-key",
	"token-unknown", "token-expired", "token-revoked", "token-busy", "device-busy", "stream-kind", "closing", "replaced", "held-out",
}

// linkCodeTexts say each code to a person.
var linkCodeTexts = map[string]string{
	"denied":         "the device does not know this machine",
	"key-mismatch":   "the peer is not the machine that was introduced",
	"unknown-device": "not in the account's log",
	"revoked":        "revoked",
	"expired":        "its signature has expired",
	"role":           "its role does not allow this",
	"token-unknown":  "the device does not know this session",
	"token-expired":  "the session has expired",
	"token-revoked":  "the session was revoked",
	"token-busy":     "the session is in use as often as it may be",
	"device-busy":    "the device has as many sessions as it may",
	"stream-kind":    "the device does not know this kind of stream",
	"closing":        "the other end has closed the link",
	"replaced":       "the device's process has been replaced by a new one",
	"held-out":       "the link was without a path for too long",
}

func linkCode(code string) uint64 {
	for i, c := range linkCodes {
		if c == code {
			return uint64(i)
		}
	}
	return 1 // denied
}

// linkErrorOf turns what ended a stream or a link into an error with a code.
func linkErrorOf(err error) error {
	var n uint64
	if se := (*quic.StreamError)(nil); errors.As(err, &se) && se.Remote {
		n = uint64(se.ErrorCode)
	} else if ae := (*quic.ApplicationError)(nil); errors.As(err, &ae) {
		n = uint64(ae.ErrorCode)
	}
	if n == 0 || n >= uint64(len(linkCodes)) {
		return err
	}
	code := linkCodes[n]
	return coded(code, "%s", linkCodeTexts[code])
}

// A linkStream is a QUIC stream as net.Conn. Its addresses are those of the
// path in use, as TCP addresses: SSH knows no others.
type linkStream struct {
	*quic.Stream
	local, remote net.Addr
	failed        func(error) // called with what ends a Read, but for the end; may be nil
	done          func()      // called by every Close; may be nil
}

func (c *linkStream) LocalAddr() net.Addr  { return c.local }
func (c *linkStream) RemoteAddr() net.Addr { return c.remote }

func (c *linkStream) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	if err != nil && err != io.EOF {
		err = linkErrorOf(err)
		if c.failed != nil {
			c.failed(err)
		}
	}
	return n, err
}

func (c *linkStream) Write(b []byte) (int, error) {
	n, err := c.Stream.Write(b)
	if err != nil {
		err = linkErrorOf(err)
	}
	return n, err
}

// CloseWrite ends our direction; the other goes on.
func (c *linkStream) CloseWrite() error { return c.Stream.Close() }

// Close ends both directions. What was written is still delivered; a Write
// that waits for the peer to read is ended.
func (c *linkStream) Close() error {
	c.Stream.CancelRead(0)
	c.Stream.SetWriteDeadline(time.Unix(1, 0))
	err := c.Stream.Close()
	if c.done != nil {
		c.done()
	}
	return err
}

// refuse ends a stream that asked for what it may not have.
func refuseStream(s *quic.Stream, code string) {
	s.CancelRead(quic.StreamErrorCode(linkCode(code)))
	s.CancelWrite(quic.StreamErrorCode(linkCode(code)))
}

// openStream opens a stream and writes its head with what is written first.
func openStream(ctx context.Context, conn *quic.Conn, h streamHead) (*quic.Stream, error) {
	s, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, linkErrorOf(err)
	}
	if _, err := s.Write(h.append(nil)); err != nil {
		s.CancelRead(0)
		return nil, linkErrorOf(err)
	}
	return s, nil
}
