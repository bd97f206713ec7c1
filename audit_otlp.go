//go:build !router

package main

// This file is the audit as log records of OTLP 1.x, over gRPC or as JSON over
// HTTP. Both have their fields from one tree, so that they cannot differ.

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// otlpLinger is how long records wait for others.
	otlpLinger = time.Second
	// maxOTLPAnswer bounds an answer, in bytes: it has a number and an error.
	maxOTLPAnswer = 64 << 10
	otlpMethod    = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
)

// An otlpField is a field with its number in protobuf and its name in JSON. Its
// value is a string, an int (an enum), an int64, a uint64 (fixed64), an
// otlpMessage, or a list of those.
type otlpField struct {
	num   int
	name  string
	value any
}

type otlpMessage []otlpField

func (m otlpMessage) appendProto(b []byte) []byte {
	for _, f := range m {
		switch v := f.value.(type) {
		case string:
			b = appendProtoBytes(b, f.num, []byte(v))
		case int:
			b = appendProtoVarint(b, f.num, uint64(v))
		case int64:
			b = appendProtoVarint(b, f.num, uint64(v))
		case uint64:
			b = appendProtoFixed64(b, f.num, v)
		case otlpMessage:
			b = appendProtoBytes(b, f.num, v.appendProto(nil))
		case []otlpMessage:
			for _, m := range v {
				b = appendProtoBytes(b, f.num, m.appendProto(nil))
			}
		}
	}
	return b
}

// appendJSON writes 64 bits as text, as JSON for protobuf has it.
func (m otlpMessage) appendJSON(b []byte) []byte {
	b = append(b, '{')
	for i, f := range m {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendJSONText(b, f.name), ':')
		switch v := f.value.(type) {
		case string:
			b = appendJSONText(b, v)
		case int:
			b = strconv.AppendInt(b, int64(v), 10)
		case int64:
			b = append(strconv.AppendInt(append(b, '"'), v, 10), '"')
		case uint64:
			b = append(strconv.AppendUint(append(b, '"'), v, 10), '"')
		case otlpMessage:
			b = v.appendJSON(b)
		case []otlpMessage:
			b = append(b, '[')
			for i, m := range v {
				if i > 0 {
					b = append(b, ',')
				}
				b = m.appendJSON(b)
			}
			b = append(b, ']')
		}
	}
	return append(b, '}')
}

func otlpText(s string) otlpMessage { return otlpMessage{{1, "stringValue", s}} }

func otlpAttribute(key string, value otlpMessage) otlpMessage {
	return otlpMessage{{1, "key", key}, {2, "value", value}}
}

// otlpRecord is a LogRecord: the body is the type of event, all else attributes
// with the names that the lines of a file have.
func (e *auditEvent) otlpRecord(now time.Time) otlpMessage {
	var attributes []otlpMessage
	for _, f := range e.fields() {
		value := otlpText(f.text)
		if !f.isText {
			value = otlpMessage{{3, "intValue", f.number}}
		}
		attributes = append(attributes, otlpAttribute(f.name, value))
	}
	severity, word := 9, "INFO"
	switch e.result {
	case auditFailure, auditDenied:
		severity, word = 13, "WARN"
	case auditError:
		severity, word = 17, "ERROR"
	}
	return otlpMessage{
		{1, "timeUnixNano", uint64(e.time.UnixNano())},
		{2, "severityNumber", severity},
		{3, "severityText", word},
		{5, "body", otlpText(string(e.kind))},
		{6, "attributes", attributes},
		{11, "observedTimeUnixNano", uint64(now.UnixNano())},
		{12, "eventName", string(e.kind)},
	}
}

// An otlpSink sends to one collector.
type otlpSink struct {
	host string
	now  func() time.Time
	grpc *grpcClient // or
	http *http.Client
	url  string
}

func openOTLP(x auditExporter, opt auditOptions) (auditSink, error) {
	u, err := url.Parse(x.endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, withHint(errors.New("an endpoint is http or https, a host, perhaps a port, and for HTTP perhaps a path"), "for example http://HOST:4317 for gRPC, http://HOST:4318 for HTTP")
	}
	if x.ca != "" && u.Scheme != "https" {
		return nil, errors.New("ca is given, and the endpoint is not https")
	}
	config, err := auditTLS(x.ca, u.Hostname())
	if err != nil {
		return nil, err
	}
	s := &otlpSink{host: opt.host, now: opt.now}
	if u.Path == "/" {
		u.Path = ""
	}
	if u.Port() == "4317" && u.Path == "" {
		s.grpc = &grpcClient{addr: u.Host, scheme: u.Scheme}
		if u.Scheme == "https" {
			config.NextProtos = []string{"h2"}
			s.grpc.tls = config
		}
		return s, nil
	}
	if u.Path == "" {
		u.Path = "/v1/logs"
	}
	s.url = u.String()
	s.http = &http.Client{Timeout: auditTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config,
		MaxResponseHeaderBytes: maxOTLPAnswer, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s, nil
}

func (*otlpSink) linger() time.Duration { return otlpLinger }

func (s *otlpSink) close() error {
	if s.grpc != nil {
		s.grpc.hangUp()
		return nil
	}
	s.http.CloseIdleConnections()
	return nil
}

// An otlpRefusal is why a collector took nothing, and will not.
type otlpRefusal struct{ err error }

func (r *otlpRefusal) Error() string { return r.err.Error() + "; these records are not sent again" }

func (s *otlpSink) send(ctx context.Context, events []*auditEvent) (taken, lost int, err error) {
	if len(events) == 0 {
		return 0, 0, nil
	}
	now := s.now()
	var records []otlpMessage
	for _, e := range events {
		records = append(records, e.otlpRecord(now))
	}
	request := otlpMessage{{1, "resourceLogs", []otlpMessage{{
		{1, "resource", otlpMessage{{1, "attributes", []otlpMessage{
			otlpAttribute("service.name", otlpText("sessio")),
			otlpAttribute("service.version", otlpText(version)),
			otlpAttribute("host.name", otlpText(auditText(s.host))),
		}}}},
		{2, "scopeLogs", []otlpMessage{{
			{1, "scope", otlpMessage{{1, "name", "sessio.audit"}}},
			{2, "logRecords", records},
		}}},
	}}}}
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	var rejected int64
	var why string
	if s.grpc != nil {
		rejected, why, err = s.overGRPC(ctx, request.appendProto(nil))
	} else {
		rejected, why, err = s.overHTTP(ctx, request.appendJSON(nil))
	}
	if r := (*otlpRefusal)(nil); errors.As(err, &r) {
		return len(events), len(events), err
	}
	if err != nil {
		return 0, 0, err
	}
	if rejected = min(max(rejected, 0), int64(len(events))); rejected > 0 {
		err = fmt.Errorf("the collector rejects %d of %d records: %s", rejected, len(events), why)
	}
	return len(events), int(rejected), err
}

func (s *otlpSink) overGRPC(ctx context.Context, msg []byte) (rejected int64, why string, err error) {
	answer, err := s.grpc.call(ctx, msg)
	if g := (*grpcError)(nil); errors.As(err, &g) && (g.code >= 32 || grpcLater>>g.code&1 == 0) {
		return 0, "", &otlpRefusal{err}
	}
	if err != nil {
		return 0, "", err
	}
	return parseOTLPAnswer(answer)
}

// parseOTLPAnswer reads an ExportLogsServiceResponse. What cannot be read does
// not undo that the collector has said OK.
func parseOTLPAnswer(b []byte) (rejected int64, why string, err error) {
	parseProto(b, func(num int, _ uint64, data []byte) error {
		if num != 1 { // partial_success
			return nil
		}
		return parseProto(data, func(num int, v uint64, data []byte) error {
			switch num {
			case 1:
				rejected = int64(v)
			case 2:
				why = string(data)
			}
			return nil
		})
	})
	return rejected, why, nil
}

func (s *otlpSink) overHTTP(ctx context.Context, body []byte) (rejected int64, why string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return 0, "", &otlpRefusal{err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "sessio/"+version)
	res, err := s.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxOTLPAnswer))
	switch {
	case res.StatusCode/100 == 2:
	case res.StatusCode == 429 || res.StatusCode >= 502 && res.StatusCode <= 504:
		return 0, "", fmt.Errorf("the collector answers HTTP %s", res.Status)
	default:
		return 0, "", &otlpRefusal{fmt.Errorf("the collector answers HTTP %s: %.200s", res.Status, answer)}
	}
	if err != nil {
		return 0, "", err
	}
	var said struct {
		PartialSuccess struct {
			RejectedLogRecords json.Number
			ErrorMessage       string
		}
	}
	json.Unmarshal(answer, &said)
	rejected, _ = said.PartialSuccess.RejectedLogRecords.Int64()
	return rejected, said.PartialSuccess.ErrorMessage, nil
}

// A grpcClient makes one call after the other, over one connection while that
// lasts. Nothing reads the connection between calls: what has come by then,
// and be it the end, is read by the next.
type grpcClient struct {
	addr, scheme string
	tls          *tls.Config

	conn net.Conn
	peer *h2Peer
}

func (g *grpcClient) hangUp() {
	if g.conn != nil {
		g.conn.Close()
		g.conn = nil
	}
}

// call sends msg and returns the answer's message. A connection that was kept
// may have ended meanwhile: then it is tried once more on a new one.
func (g *grpcClient) call(ctx context.Context, msg []byte) ([]byte, error) {
	if kept := g.conn != nil; kept {
		answer, err := g.try(ctx, msg)
		if e := (*grpcError)(nil); err == nil || errors.As(err, &e) || ctx.Err() != nil {
			return answer, err
		}
	}
	return g.try(ctx, msg)
}

func (g *grpcClient) try(ctx context.Context, msg []byte) (answer []byte, err error) {
	if g.conn == nil {
		if err := g.dial(ctx); err != nil {
			return nil, err
		}
	}
	conn := g.conn
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	a, err := g.exchange(appendGRPC(nil, msg))
	if err != nil {
		g.hangUp()
		return nil, err
	}
	if g.peer.leaving || g.peer.streams > 1<<30 {
		g.hangUp()
	}
	return a.result()
}

func (g *grpcClient) dial(ctx context.Context) error {
	conn, err := dialAudit(ctx, g.addr, g.tls)
	if err != nil {
		return err
	}
	if c, ok := conn.(*tls.Conn); ok && c.ConnectionState().NegotiatedProtocol != "h2" {
		conn.Close()
		return withHint(errors.New("the collector does not speak HTTP/2"), "over HTTP/1 the endpoint needs a path: /v1/logs")
	}
	// ENABLE_PUSH 0
	hello := appendH2Frame([]byte(h2Preface), h2Frame{kind: h2Settings, payload: []byte{0, 2, 0, 0, 0, 0}})
	if _, err := conn.Write(hello); err != nil {
		conn.Close()
		return err
	}
	g.conn, g.peer = conn, newH2Peer()
	return nil
}

// exchange sends a request with that body and reads until its answer is
// complete.
func (g *grpcClient) exchange(body []byte) (*h2Answer, error) {
	a := &h2Answer{peer: g.peer, stream: 2*g.peer.streams + 1, window: g.peer.first}
	g.peer.streams++
	var block []byte
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", g.scheme}, {":path", otlpMethod}, {":authority", g.addr},
		{"te", "trailers"}, {"content-type", "application/grpc"}, {"user-agent", "sessio/" + version}} {
		block = appendH2Field(block, h[0], h[1])
	}
	out := appendH2Frame(nil, h2Frame{h2Headers, h2EndHeaders, a.stream, block})
	for !a.done {
		for len(body) > 0 {
			n := min(int64(len(body)), h2MaxFrame, a.window, g.peer.window)
			if n <= 0 {
				break
			}
			f := h2Frame{kind: h2Data, stream: a.stream, payload: body[:n]}
			if body = body[n:]; len(body) == 0 {
				f.flags = h2EndStream
			}
			out = appendH2Frame(out, f)
			a.window -= n
			g.peer.window -= n
		}
		if len(out) > 0 {
			if _, err := g.conn.Write(out); err != nil {
				return nil, err
			}
			out = nil
		}
		f, err := readH2Frame(g.conn)
		if err != nil {
			return nil, err
		}
		if out, err = a.take(f); err != nil {
			return nil, err
		}
	}
	if len(body) > 0 { // answered before all was sent: an error; the stream is not ended
		out = appendH2Frame(out, h2Frame{kind: h2Reset, stream: a.stream, payload: binary.BigEndian.AppendUint32(nil, 8)}) // CANCEL
	}
	_, err := g.conn.Write(out)
	return a, err
}

func readH2Frame(r io.Reader) (h2Frame, error) {
	var head [h2FrameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return h2Frame{}, err
	}
	f, n, err := parseH2Head(head)
	if err != nil {
		return f, err
	}
	f.payload = make([]byte, n)
	_, err = io.ReadFull(r, f.payload)
	return f, err
}
