package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// protoTestField is a field as parseProto tells it.
type protoTestField struct {
	num  int
	v    uint64
	data string
}

func protoTestParse(b []byte) (list []protoTestField, err error) {
	err = parseProto(b, func(num int, v uint64, data []byte) error {
		list = append(list, protoTestField{num, v, string(data)})
		return nil
	})
	return list, err
}

// The bytes are those of "Encoding" in the documentation of Protocol Buffers.
func TestProtoBytes(t *testing.T) {
	b := appendProtoVarint(nil, 1, 150)
	b = appendProtoBytes(b, 2, []byte("testing"))
	b = appendProtoFixed64(b, 16, 1)
	if got := hex.EncodeToString(b); got != "089601"+"120774657374696e67"+"81010100000000000000" {
		t.Error(got)
	}
	list, err := protoTestParse(append(b, 0x25, 2, 0, 0, 0)) // field 4, 32 bits
	if fmt.Sprint(list, err) != "[{1 150 } {2 0 testing} {16 1 } {4 2 }] <nil>" {
		t.Error(list, err)
	}
	for _, bad := range []string{"08", "0880", "1202aa", "12ffffffffffffffffff01", "09000000", "2500", "00", "0b", "0c", "ffffffffffffffffffffff"} {
		b, _ := hex.DecodeString(bad)
		if list, err := protoTestParse(b); err == nil {
			t.Errorf("%s: %v", bad, list)
		}
	}
}

func FuzzParseProto(f *testing.F) {
	f.Add([]byte("\x08\x96\x01\x12\x07testing"))
	f.Add([]byte("\x0a\x05\x08\x03\x12\x01a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := protoTestParse(b)
		if err != nil {
			return
		}
		var again []byte
		for _, m := range list {
			if m.data != "" {
				again = appendProtoBytes(again, m.num, []byte(m.data))
			} else {
				again = appendProtoVarint(again, m.num, m.v)
			}
		}
		if twice, err := protoTestParse(again); err != nil || fmt.Sprint(twice) != fmt.Sprint(list) {
			t.Fatalf("%v became %v, %v", list, twice, err)
		}
		parseOTLPAnswer(b)
	})
}

func FuzzParseGRPC(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02ab"))
	f.Add([]byte("\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if msg, err := parseGRPC(b); err == nil && len(b) > 0 && !bytes.Equal(appendGRPC(nil, msg), b) {
			t.Fatalf("%x became %x", b, msg)
		}
	})
}

// h2TestHead is headers as a server sends them.
func h2TestHead(pairs ...string) []byte {
	var out bytes.Buffer
	e := hpack.NewEncoder(&out)
	for i := 0; i < len(pairs); i += 2 {
		e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return out.Bytes()
}

// Answers are put together from frames, in each way that HTTP/2 has, or refused.
func TestH2Answers(t *testing.T) {
	head := h2TestHead
	ok, trail := head(":status", "200", "content-type", "application/grpc"), head("grpc-status", "0")
	bad := head(":status", "200", "grpc-status", "14", "grpc-message", "later")
	web := func(status string) []byte { return head(":status", status, "content-type", "text/html") }
	msg := appendGRPC(nil, []byte("hello"))
	end, whole := byte(h2EndStream), byte(h2EndHeaders)
	data := func(p []byte, flags byte) h2Frame { return h2Frame{h2Data, flags, 1, p} }
	for _, tt := range []struct {
		name   string
		frames []h2Frame
		want   string // the message, or of the error
	}{
		{"plain", []h2Frame{{h2Headers, whole, 1, ok}, data(msg, 0), {h2Headers, whole | end, 1, trail}}, "hello"},
		{"in parts", []h2Frame{{h2Headers, 0, 1, ok[:2]}, {h2Continuation, whole, 1, ok[2:]}, data(msg[:3], 0), data(msg[3:], 0), {h2Headers, end, 1, nil}, {h2Continuation, whole, 1, trail}}, "hello"},
		{"padded", []h2Frame{{h2Headers, whole | h2Padded, 1, append(append([]byte{2}, ok...), 0, 0)}, data(append([]byte{1}, append(msg, 0)...), h2Padded), {h2Headers, whole | end, 1, trail}}, "hello"},
		{"with a weight", []h2Frame{{h2Headers, whole | h2Priority, 1, append([]byte{0, 0, 0, 0, 9}, ok...)}, data(msg, 0), {h2Headers, whole | end, 1, trail}}, "hello"},
		{"after an interim answer", []h2Frame{{h2Headers, whole, 1, head(":status", "103")}, {h2Headers, whole, 1, ok}, data(msg, 0), {h2Headers, whole | end, 1, trail}}, "hello"},
		{"amid others", []h2Frame{{h2Settings, 0, 0, nil}, {h2Ping, 0, 0, make([]byte, 8)}, {h2Window, 0, 9, []byte{0, 0, 0, 1}}, {77, 0, 3, nil}, {h2Reset, 0, 9, make([]byte, 4)},
			{h2Headers, whole, 1, ok}, data(msg, 0), {h2GoAway, 0, 0, []byte{0, 0, 0, 1, 0, 0, 0, 0}}, {h2Headers, whole | end, 1, trail}}, "hello"},
		{"trailers alone", []h2Frame{{h2Headers, whole | end, 1, bad}}, "gRPC status 14: later"},
		{"a page", []h2Frame{{h2Headers, whole, 1, web("404")}, data([]byte("no"), end)}, "gRPC status 2: HTTP status \"404\""},
		{"a proxy's page", []h2Frame{{h2Headers, whole | end, 1, web("503")}}, "gRPC status 14: HTTP status \"503\""},
		{"no status", []h2Frame{{h2Headers, whole, 1, ok}, data(msg, end)}, "no gRPC status"},
		{"data first", []h2Frame{data(msg, 0)}, errH2.Error()},
		{"data of another", []h2Frame{{h2Headers, whole, 1, ok}, {h2Data, 0, 3, msg}}, errH2.Error()},
		{"too much", []h2Frame{{h2Headers, whole, 1, ok}, data(make([]byte, h2MaxFrame), 0), data(make([]byte, h2MaxFrame), 0), data(make([]byte, h2MaxFrame), 0), data(make([]byte, h2MaxFrame), 0)}, errH2.Error()},
		{"headers without end", []h2Frame{{h2Headers, 0, 1, ok}, {h2Continuation, 0, 1, make([]byte, h2MaxFrame)}, {h2Continuation, 0, 1, make([]byte, h2MaxFrame)}}, errH2.Error()},
		{"a frame between headers", []h2Frame{{h2Headers, 0, 1, ok}, {h2Ping, 0, 0, make([]byte, 8)}}, errH2.Error()},
		{"padding too long", []h2Frame{{h2Headers, whole | h2Padded, 1, []byte{9, 1}}}, errH2.Error()},
		{"pushed", []h2Frame{{h2Push, 0, 1, nil}}, errH2.Error()},
		{"leaving", []h2Frame{{h2GoAway, 0, 0, make([]byte, 8)}}, errH2Gone.Error()},
		{"reset", []h2Frame{{h2Reset, 0, 1, []byte{0, 0, 0, 7}}}, "HTTP/2 error 00000007"},
		{"window overflow", []h2Frame{{h2Window, 0, 0, []byte{0x7f, 0xff, 0xff, 0xff}}}, errH2.Error()},
		{"odd settings", []h2Frame{{h2Settings, 0, 0, []byte{1}}}, errH2.Error()},
	} {
		got, err := h2TestTake(tt.frames)
		if err != nil {
			got = []byte(err.Error())
		}
		if !strings.Contains(string(got), tt.want) {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
}

var errH2TestCut = errors.New("not complete")

func h2TestTake(frames []h2Frame) ([]byte, error) {
	p := newH2Peer()
	a := &h2Answer{peer: p, stream: 1, window: p.first}
	for _, f := range frames {
		if _, err := a.take(f); err != nil {
			return nil, err
		}
	}
	if !a.done {
		return nil, errH2TestCut
	}
	return a.result()
}

// What may be sent follows what the server says, also of streams that are open.
func TestH2Windows(t *testing.T) {
	p := newH2Peer()
	a := &h2Answer{peer: p, stream: 1, window: p.first - 10}
	reply, err := a.take(h2Frame{kind: h2Settings, payload: []byte{0, 3, 0, 0, 0, 9, 0, 4, 0, 0, 0, 4}})
	if err != nil || hex.EncodeToString(reply) != "000000"+"04"+"01"+"00000000" || a.window != -6 || p.first != 4 || p.window != h2Window0 {
		t.Errorf("%x, %v, %d, %d", reply, err, a.window, p.first)
	}
	a.take(h2Frame{kind: h2Window, stream: 1, payload: []byte{0, 0, 0, 16}})
	a.take(h2Frame{kind: h2Window, payload: []byte{0, 0, 0, 1}})
	if a.window != 10 || p.window != h2Window0+1 {
		t.Errorf("%d, %d", a.window, p.window)
	}
	if reply, err := a.take(h2Frame{kind: h2Ping, payload: []byte("12345678")}); err != nil || string(reply) != "\x00\x00\x08\x06\x01\x00\x00\x00\x0012345678" {
		t.Errorf("%x, %v", reply, err)
	}
}

// Lengths of 127 and more go on in further bytes (RFC 7541, section 5.1).
func TestH2Fields(t *testing.T) {
	for _, n := range []int{0, 1, 126, 127, 128, 254, 255, 300, 5000} {
		value := strings.Repeat("v", n)
		fields, err := newH2Peer().dec.DecodeFull(appendH2Field(nil, "name", value))
		if err != nil || len(fields) != 1 || fields[0].Name != "name" || fields[0].Value != value {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func FuzzParseH2(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88"))
	f.Add([]byte("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var frames []h2Frame
		for r := bytes.NewReader(b); ; {
			begin := len(b) - r.Len()
			frame, err := readH2Frame(r)
			if err != nil {
				break
			}
			again := appendH2Frame(nil, frame)
			again[5] |= b[begin+5] & 0x80 // means nothing
			if !bytes.Equal(again, b[begin:len(b)-r.Len()]) {
				t.Fatalf("%x became %x", b[begin:len(b)-r.Len()], again)
			}
			frames = append(frames, frame)
		}
		h2TestTake(frames)
	})
}
