//go:build !router

package main

// This file has the bytes of gRPC, without a socket or a clock: fields of
// Protocol Buffers, messages behind their length, frames of HTTP/2 (RFC 9113),
// and how an answer is put together from those. net/http is built without
// HTTP/2 here (testdata/build.sh), and gRPC needs little of it: one request at
// a time, and the trailers.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Kinds of what follows a field's number.
const (
	protoVarint  = 0
	protoFixed64 = 1
	protoBytes   = 2
	protoFixed32 = 5
)

func appendProtoTag(b []byte, num, kind int) []byte {
	return binary.AppendUvarint(b, uint64(num)<<3|uint64(kind))
}

func appendProtoBytes(b []byte, num int, v []byte) []byte {
	b = binary.AppendUvarint(appendProtoTag(b, num, protoBytes), uint64(len(v)))
	return append(b, v...)
}

func appendProtoVarint(b []byte, num int, v uint64) []byte {
	return binary.AppendUvarint(appendProtoTag(b, num, protoVarint), v)
}

func appendProtoFixed64(b []byte, num int, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(appendProtoTag(b, num, protoFixed64), v)
}

var errProto = errors.New("malformed protobuf")

// parseProto tells each field of a message: v is a number's value, data the
// bytes of what has a length. Groups, which nobody sends any more, are an error.
func parseProto(b []byte, field func(num int, v uint64, data []byte) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 >= 1<<29 {
			return errProto
		}
		b = b[n:]
		var v uint64
		var data []byte
		switch size := 8; tag & 7 {
		case protoVarint, protoBytes:
			if v, n = binary.Uvarint(b); n <= 0 {
				return errProto
			}
			b = b[n:]
			if tag&7 == protoVarint {
				break
			}
			if v > uint64(len(b)) {
				return errProto
			}
			data, b, v = b[:v], b[v:], 0
		case protoFixed32:
			size = 4
			fallthrough
		case protoFixed64:
			if len(b) < size {
				return errProto
			}
			var wide [8]byte
			copy(wide[:], b[:size])
			v, b = binary.LittleEndian.Uint64(wide[:]), b[size:]
		default:
			return errProto
		}
		if err := field(int(tag>>3), v, data); err != nil {
			return err
		}
	}
	return nil
}

// grpcHead is the length of what stands before a message: 1 byte, whether it
// is compressed, and 4 with its length.
const grpcHead = 5

// appendGRPC writes msg, not compressed, behind b.
func appendGRPC(b, msg []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 0), uint32(len(msg)))
	return append(b, msg...)
}

// parseGRPC takes the one message that an answer has; an answer without any is
// an empty message.
func parseGRPC(b []byte) ([]byte, error) {
	switch {
	case len(b) == 0:
		return nil, nil
	case len(b) < grpcHead || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-grpcHead):
		return nil, errors.New("an answer that is not one gRPC message")
	case b[0] != 0:
		return nil, errors.New("a compressed answer, which was not asked for")
	}
	return b[grpcHead:], nil
}

// Codes of gRPC that are acted on.
const (
	grpcOK          = 0
	grpcUnknown     = 2
	grpcUnavailable = 14
)

// grpcLater are the codes after which the same records may be sent again
// (OTLP, "Failures"): CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED,
// OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
const grpcLater = 1<<1 | 1<<4 | 1<<8 | 1<<10 | 1<<11 | 1<<grpcUnavailable | 1<<15

// A grpcError is why a server took nothing.
type grpcError struct {
	code int
	text string
}

func (e *grpcError) Error() string { return fmt.Sprintf("gRPC status %d: %s", e.code, e.text) }

// Frames of HTTP/2 (RFC 9113, section 6).
const (
	h2Data         = 0
	h2Headers      = 1
	h2Reset        = 3
	h2Settings     = 4
	h2Push         = 5
	h2Ping         = 6
	h2GoAway       = 7
	h2Window       = 8
	h2Continuation = 9

	h2EndStream  = 1 // of data and headers
	h2Ack        = 1 // of settings and ping
	h2EndHeaders = 4
	h2Padded     = 8
	h2Priority   = 0x20

	h2FrameHead = 9
	// h2MaxFrame is the longest frame that is sent or taken, in bytes: what
	// holds without a word about it.
	h2MaxFrame = 16 << 10
	// h2Window0 is what may be sent before anything is said about it, in bytes.
	// We never say more to a server about one answer, so it bounds that too.
	h2Window0 = 64<<10 - 1
	h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// An h2Frame is one frame. Its bytes: length 3, kind 1, flags 1, stream 4 (the
// first bit means nothing), payload.
type h2Frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

func appendH2Frame(b []byte, f h2Frame) []byte {
	n := len(f.payload)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), f.kind, f.flags)
	return append(binary.BigEndian.AppendUint32(b, f.stream), f.payload...)
}

// parseH2Head reads the first 9 bytes of a frame, and how long its payload is.
func parseH2Head(b [h2FrameHead]byte) (f h2Frame, length int, err error) {
	length = int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	f = h2Frame{kind: b[3], flags: b[4], stream: binary.BigEndian.Uint32(b[5:]) &^ (1 << 31)}
	if length > h2MaxFrame {
		return f, length, fmt.Errorf("an HTTP/2 frame of %d bytes, at most %d: is that gRPC?", length, h2MaxFrame)
	}
	return f, length, nil
}

// appendH2Field writes a header that no table remembers (RFC 7541, 6.2.2).
func appendH2Field(b []byte, name, value string) []byte {
	b = append(b, 0)
	for _, s := range []string{name, value} {
		if n := len(s); n < 127 {
			b = append(b, byte(n))
		} else {
			b = binary.AppendUvarint(append(b, 127), uint64(n-127))
		}
		b = append(b, s...)
	}
	return b
}

// An h2Peer is what a connection knows of the server between requests.
type h2Peer struct {
	dec     *hpack.Decoder
	first   int64 // bytes that may be sent in a new stream
	window  int64 // and in all of the connection
	streams uint32
	leaving bool // it takes no new streams
}

func newH2Peer() *h2Peer {
	dec := hpack.NewDecoder(4096, nil)
	dec.SetMaxStringLength(h2MaxFrame)
	return &h2Peer{dec: dec, first: h2Window0, window: h2Window0}
}

// An h2Answer is the answer to one request, as far as it has come.
type h2Answer struct {
	peer   *h2Peer
	stream uint32
	window int64  // bytes that may be sent in it
	block  []byte // headers, encoded
	last   bool   // they end the stream
	open   bool   // they go on
	heads  int    // blocks of headers that are complete
	body   []byte
	status string // of HTTP
	code   string // of gRPC
	text   string // why
	done   bool
}

var (
	errH2     = errors.New("the server breaks HTTP/2: is that gRPC?")
	errH2Gone = errors.New("the server leaves, and did not look at the request")
)

// take acts on a frame, and returns what is to be sent for it. After done the
// answer is complete.
func (a *h2Answer) take(f h2Frame) (reply []byte, err error) {
	p := f.payload
	if a.open && (f.kind != h2Continuation || f.stream != a.stream) {
		return nil, errH2
	}
	switch f.kind {
	case h2Data:
		return a.takeData(f)
	case h2Headers:
		if f.stream != a.stream || a.done {
			return nil, errH2
		}
		if p, err = h2Unpad(f); err != nil {
			return nil, err
		}
		if f.flags&h2Priority != 0 {
			if len(p) < 5 {
				return nil, errH2
			}
			p = p[5:]
		}
		a.block, a.last = append(a.block[:0], p...), f.flags&h2EndStream != 0
		return nil, a.headers(f.flags)
	case h2Continuation:
		if !a.open || len(a.block)+len(p) > 2*h2MaxFrame {
			return nil, errH2
		}
		a.block = append(a.block, p...)
		return nil, a.headers(f.flags)
	case h2Reset:
		if f.stream == a.stream && !a.done {
			return nil, fmt.Errorf("the server ended the request: HTTP/2 error %x", p)
		}
	case h2Settings:
		return a.takeSettings(f)
	case h2Push:
		return nil, errH2
	case h2Ping:
		if len(p) != 8 {
			return nil, errH2
		}
		if f.flags&h2Ack == 0 {
			return appendH2Frame(nil, h2Frame{kind: h2Ping, flags: h2Ack, payload: p}), nil
		}
	case h2GoAway:
		if len(p) < 8 {
			return nil, errH2
		}
		a.peer.leaving = true
		if last := binary.BigEndian.Uint32(p) &^ (1 << 31); last < a.stream {
			return nil, errH2Gone
		}
	case h2Window:
		return nil, a.takeWindow(f)
	}
	return nil, nil
}

func (a *h2Answer) takeData(f h2Frame) (reply []byte, err error) {
	p, err := h2Unpad(f)
	if err != nil || f.stream != a.stream || a.heads == 0 || a.done || len(a.body)+len(p) > h2Window0 {
		return nil, errH2
	}
	a.body, a.done = append(a.body, p...), f.flags&h2EndStream != 0
	if len(f.payload) == 0 {
		return nil, nil
	}
	more := binary.BigEndian.AppendUint32(nil, uint32(len(f.payload)))
	return appendH2Frame(nil, h2Frame{kind: h2Window, payload: more}), nil
}

// h2Unpad is a frame's payload without padding.
func h2Unpad(f h2Frame) ([]byte, error) {
	p := f.payload
	if f.flags&h2Padded == 0 {
		return p, nil
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, errH2
	}
	return p[1 : len(p)-int(p[0])], nil
}

// headers decodes a block that is whole.
func (a *h2Answer) headers(flags byte) error {
	if a.open = flags&h2EndHeaders == 0; a.open {
		return nil
	}
	fields, err := a.peer.dec.DecodeFull(a.block)
	if err != nil {
		return err
	}
	for _, h := range fields {
		switch h.Name {
		case ":status":
			a.status = h.Value
		case "grpc-status":
			a.code = h.Value
		case "grpc-message":
			a.text = h.Value
		}
	}
	if !strings.HasPrefix(a.status, "1") {
		a.heads++
	}
	a.done = a.last
	return nil
}

func (a *h2Answer) takeSettings(f h2Frame) (reply []byte, err error) {
	p := f.payload
	if f.stream != 0 || len(p)%6 != 0 {
		return nil, errH2
	}
	if f.flags&h2Ack != 0 {
		return nil, nil
	}
	for ; len(p) > 0; p = p[6:] {
		if v := int64(binary.BigEndian.Uint32(p[2:])); binary.BigEndian.Uint16(p) == 4 { // INITIAL_WINDOW_SIZE
			if v >= 1<<31 {
				return nil, errH2
			}
			a.window += v - a.peer.first
			a.peer.first = v
		}
	}
	return appendH2Frame(nil, h2Frame{kind: h2Settings, flags: h2Ack}), nil
}

func (a *h2Answer) takeWindow(f h2Frame) error {
	if len(f.payload) != 4 {
		return errH2
	}
	window := &a.peer.window
	switch f.stream {
	case 0:
	case a.stream:
		window = &a.window
	default:
		return nil // of a stream that has ended
	}
	if *window += int64(binary.BigEndian.Uint32(f.payload) &^ (1 << 31)); *window >= 1<<31 {
		return errH2
	}
	return nil
}

// result is the message of a complete answer, or a *grpcError.
func (a *h2Answer) result() ([]byte, error) {
	if a.code == "" && a.status != "200" {
		code := grpcUnknown
		switch a.status { // gRPC over HTTP/2, "HTTP to gRPC Status Code Mapping"
		case "429", "502", "503", "504":
			code = grpcUnavailable
		}
		return nil, &grpcError{code, fmt.Sprintf("HTTP status %q and no gRPC status", a.status)}
	}
	code, err := strconv.ParseUint(a.code, 10, 16)
	if err != nil {
		return nil, &grpcError{grpcUnknown, fmt.Sprintf("no gRPC status but %q", a.code)}
	}
	if code != grpcOK {
		return nil, &grpcError{int(code), a.text}
	}
	return parseGRPC(a.body)
}
