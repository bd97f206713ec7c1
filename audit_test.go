package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestAuditLine(t *testing.T) {
	n := int64(0)
	e := auditEvent{id: "i", seq: 7, time: time.Unix(1, 5).In(time.FixedZone("", 3600)), kind: auditFileRenamed, session: "s", user: "u", clientIP: "192.0.2.1",
		device: "d", path: "/a", destPath: "/b", bytes: &n, result: auditDenied, rule: "r", details: "x", protocol: "sftp"}
	const want = `{"id":"i","timestamp":"1970-01-01T00:00:01.000000005Z","seq":7,"event_type":"file_renamed","session_id":"s","user":"u","client_ip":"192.0.2.1",` +
		`"device":"d","protocol":"sftp","path":"/a","dest_path":"/b","bytes":0,"result":"denied","rule":"r","details":"x"}` + "\n"
	if got := string(e.appendLine(nil)); got != want {
		t.Errorf("%s", got)
	}
	e = auditEvent{id: "i", seq: 1, time: time.Unix(0, 0), kind: auditSessionEnd}
	if got := string(e.appendLine(nil)); got != `{"id":"i","timestamp":"1970-01-01T00:00:00.000000000Z","seq":1,"event_type":"session_end"}`+"\n" {
		t.Errorf("%s", got)
	}
}

func TestAuditText(t *testing.T) {
	long := strings.Repeat("a", maxAuditText)
	for _, tt := range []struct{ in, text, quoted string }{
		{"a\xffb", `a\xffb`, `"a\\xffb"`},
		{`a\xffb`, `a\x5cxffb`, `"a\\x5cxffb"`},
		{`a\b`, `a\b`, `"a\\b"`},
		{"\x1b[31m\n\u009b", "\x1b[31m\n\u009b", `"\u001b[31m\u000a\u009b"`},
		{"\u202eevil\u2028\U000e0001", "\u202eevil\u2028\U000e0001", `"\u202eevil\u2028\udb40\udc01"`},
		{"\ufffd é", "\ufffd é", `"` + "\ufffd é" + `"`},
		{long, long, `"` + long + `"`},
		{long + "a", long + "…", `"` + long + `…"`},
	} {
		text := auditText(tt.in)
		if quoted := string(appendJSONText(nil, text)); text != tt.text || quoted != tt.quoted {
			t.Errorf("%q: %q, %s", tt.in, text, quoted)
		}
	}
}

// auditTestUnescape is what a consumer does to have the bytes.
func auditTestUnescape(t *testing.T, s string) string {
	var b strings.Builder
	for s != "" {
		if !strings.HasPrefix(s, `\x`) {
			b.WriteByte(s[0])
			s = s[1:]
			continue
		}
		n, err := strconv.ParseUint(s[2:4], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteByte(byte(n))
		s = s[4:]
	}
	return b.String()
}

func FuzzAuditJSON(f *testing.F) {
	f.Add("alice", "/tmp/\xff\\xff", "\x1b]0;\x07", int64(1))
	f.Add("\\", "\\\\x", "\u2028\U0010ffff\xed\xa0\x80", int64(-1))
	f.Fuzz(func(t *testing.T, user, path, details string, n int64) {
		e := auditEvent{id: "i", kind: auditFileRead, user: auditText(user), path: auditText(path), details: auditText(details), bytes: &n}
		line := string(e.appendLine(nil))
		if strings.Count(line, "\n") != 1 || !utf8.ValidString(line) || strings.ContainsAny(line, "\x1b\x7f\u009b\u202e") {
			t.Fatalf("%q", line)
		}
		r := auditTestParse(t, line)[0]
		if *r.Bytes != n || len(line) > maxAuditLine {
			t.Fatalf("%q", line)
		}
		for _, s := range [][2]string{{user, r.User}, {path, r.Path}, {details, r.Details}} {
			if len(s[0]) <= maxAuditText && auditTestUnescape(t, s[1]) != s[0] {
				t.Fatalf("%q became %q", s[0], s[1])
			}
		}
		var any map[string]any
		if err := json.Unmarshal([]byte(line), &any); err != nil {
			t.Fatal(err)
		}
	})
}

// An auditTestSink takes what it is let take.
type auditTestSink struct {
	mu     sync.Mutex
	took   []*auditEvent
	calls  []time.Time
	err    error         // to all
	block  chan struct{} // not nil: until it is closed
	rate   int           // at most so many at once; 0 all
	giveUp int           // lost of the next
	wait   time.Duration // linger
	closed bool
}

func (s *auditTestSink) send(ctx context.Context, events []*auditEvent) (taken, lost int, err error) {
	s.mu.Lock()
	s.calls = append(s.calls, time.Now())
	block := s.block
	s.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, 0, s.err
	}
	if s.rate > 0 {
		events = events[:min(len(events), s.rate)]
	}
	s.took = append(s.took, events...)
	lost, s.giveUp = s.giveUp, 0
	return len(events), lost, nil
}

func (s *auditTestSink) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *auditTestSink) close() error          { s.closed = true; return nil }
func (s *auditTestSink) linger() time.Duration { return s.wait }

// auditTestStart is an audit with those exporters.
func auditTestStart(t *testing.T, sinks ...auditSink) (*auditLog, *auditTestLines) {
	a, said := auditTestOpen(t)
	var ctx context.Context
	ctx, a.abort = context.WithCancel(context.Background())
	for i, s := range sinks {
		o := &auditOutlet{name: fmt.Sprint("sink ", i), sink: s, queue: make(chan *auditEvent, maxAuditQueue), poke: make(chan struct{}, 1)}
		a.outlets = append(a.outlets, o)
	}
	for _, o := range a.outlets {
		a.loops.Go(func() { a.deliver(ctx, o) })
	}
	return a, said
}

// A collector that takes nothing costs nobody time: what is more than the queue
// holds is counted, told by a line and by a record, and what is queued comes in
// order.
func TestAuditQueueBoundAndCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, well := &auditTestSink{block: make(chan struct{})}, &auditTestSink{}
		a, said := auditTestStart(t, stuck, well)
		begun := time.Now()
		a.record(auditEvent{kind: auditSessionStart})
		synctest.Wait() // one is in the batch
		for range maxAuditQueue + 50 {
			a.record(auditEvent{kind: auditSessionStart})
			synctest.Wait()
		}
		if d := time.Since(begun); d != 0 {
			t.Errorf("record took %v", d)
		}
		if c := a.lost(); c[0] != (auditCount{"sink 0", 0, maxAuditQueue + 1, 50}) || c[1] != (auditCount{"sink 1", maxAuditQueue + 51, 0, 0}) {
			t.Errorf("%+v", c)
		}
		close(stuck.block)
		synctest.Wait()
		for i, e := range stuck.took[:maxAuditQueue+1] {
			if int(e.seq) != i+1 {
				t.Fatalf("record %d has seq %d", i, e.seq)
			}
		}
		for _, s := range []*auditTestSink{stuck, well} {
			last := s.took[len(s.took)-1]
			if last.kind != auditLost || last.seq != maxAuditQueue+52 || last.details != "50 records did not reach sink 0" {
				t.Errorf("%+v", last)
			}
		}
		if len(stuck.took) != maxAuditQueue+2 || said.all() != "audit: sink 0 takes records; 50 are lost" {
			t.Errorf("%d, %s", len(stuck.took), said.all())
		}
	})
}

// Long texts are bounded by bytes, not only by count.
func TestAuditQueueBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &auditTestSink{block: make(chan struct{})}
		a, _ := auditTestStart(t, s)
		const n = 300
		for range n {
			a.record(auditEvent{kind: auditFileRead, path: strings.Repeat("p", 100_000), details: strings.Repeat("d", maxAuditText)})
		}
		most := int64(maxAuditHeld / (2 * maxAuditText))
		if c := a.lost()[0]; c.waiting > most || c.waiting < most-1 || c.lost != n-c.waiting {
			t.Errorf("%+v", c)
		}
		close(s.block)
		synctest.Wait()
		if held := a.outlets[0].held.Load(); held != 0 {
			t.Errorf("%d bytes are held of nothing", held)
		}
	})
}

// While one fails there are ever fewer attempts, no more than a line a minute,
// and nothing is lost that fits in the queue.
func TestAuditBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &auditTestSink{err: errors.New("no room")}
		a, said := auditTestStart(t, s)
		a.record(auditEvent{kind: auditSessionStart})
		time.Sleep(10*time.Minute - time.Second)
		synctest.Wait()
		var calls []time.Time
		s.set(func() {
			s.err = nil
			calls = slices.Clone(s.calls)
		})
		if n := len(calls); n < 20 || n > 50 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		for i := 1; i < len(calls); i++ {
			if d := calls[i].Sub(calls[i-1]); d < auditPause/2 || d > maxAuditPause {
				t.Errorf("attempt %d came after %v", i, d)
			}
		}
		lines := strings.Split(said.all(), "\n")
		if len(lines) < 8 || len(lines) > 10 || lines[0] != "audit: sink 0: no room; 1 records wait, 0 are lost" {
			t.Errorf("%d lines, %q", len(lines), lines)
		}
		time.Sleep(maxAuditPause)
		synctest.Wait()
		if len(s.took) != 1 || !strings.HasSuffix(said.all(), "\naudit: sink 0 takes records; 0 are lost") {
			t.Errorf("%d, %s", len(s.took), said.all())
		}
	})
}

// Records wait for company, and a second at most.
func TestAuditLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &auditTestSink{wait: time.Second}
		a, _ := auditTestStart(t, s)
		begun := time.Now()
		for range 3 {
			a.record(auditEvent{kind: auditSessionStart})
			time.Sleep(300 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(s.calls) != 1 || len(s.took) != 3 || s.calls[0].Sub(begun) != time.Second {
			t.Errorf("%d calls, %d records, after %v", len(s.calls), len(s.took), s.calls[0].Sub(begun))
		}
		begun = time.Now()
		for range maxAuditBatch {
			a.record(auditEvent{kind: auditSessionStart})
		}
		synctest.Wait()
		if len(s.took) != 3+maxAuditBatch || time.Since(begun) != 0 {
			t.Errorf("a full batch waits: %d records", len(s.took))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(s.calls) != 2 {
			t.Errorf("%d calls with nothing to do", len(s.calls)-2)
		}
	})
}

// close delivers what is queued, gives up what cannot be within its time, and
// leaves no goroutine.
func TestAuditClose(t *testing.T) {
	before := runtime.NumGoroutine()
	synctest.Test(t, func(t *testing.T) {
		slow, failing, stuck := &auditTestSink{rate: 1, wait: time.Second}, &auditTestSink{err: errors.New("gone")}, &auditTestSink{block: make(chan struct{})}
		a, said := auditTestStart(t, slow, failing, stuck)
		for range 500 {
			a.record(auditEvent{kind: auditSessionStart})
		}
		begun := time.Now()
		a.close()
		if d := time.Since(begun); d != auditFlush {
			t.Errorf("close took %v", d)
		}
		a.record(auditEvent{kind: auditSessionStart})
		a.close()
		if len(slow.took) != 500 || !slow.closed || !failing.closed || !stuck.closed {
			t.Errorf("%d records, closed %v %v %v", len(slow.took), slow.closed, failing.closed, stuck.closed)
		}
		for i, c := range a.lost() {
			if want := []int64{0, 500, 500}[i]; c.lost != want || c.waiting != 0 {
				t.Errorf("%+v", c)
			}
		}
		for _, line := range []string{"audit: sink 1: gone; 500 records are lost", "audit: sink 2: context canceled; 500 records are lost"} {
			if !strings.Contains(said.all(), line) {
				t.Errorf("not said: %s\n%s", line, said.all())
			}
		}
	})
	waitUntil(t, func() bool { return runtime.NumGoroutine() <= before })
}

// Many record at once: every place has the same order.
func TestAuditOrder(t *testing.T) {
	one, two := &auditTestSink{}, &auditTestSink{rate: 7}
	a, _ := auditTestStart(t, one, two)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				a.record(auditEvent{kind: auditSessionStart})
			}
		})
	}
	all.Wait()
	a.close()
	for _, s := range []*auditTestSink{one, two} {
		if len(s.took) != 800 {
			t.Fatalf("%d records", len(s.took))
		}
		for i, e := range s.took {
			if int(e.seq) != i+1 {
				t.Fatalf("record %d has seq %d", i, e.seq)
			}
		}
	}
}

func TestAuditNil(t *testing.T) {
	var a *auditLog
	a.record(auditEvent{})
	a.reopen()
	a.close()
	if a.lost() != nil {
		t.Error("nothing counts")
	}
}

func TestAuditWrongExporters(t *testing.T) {
	for _, tt := range []struct {
		x    auditExporter
		want string
	}{
		{auditExporter{kind: "syslog"}, "unknown type"},
		{auditExporter{kind: "file", path: "audit.log"}, "not absolute"},
		{auditExporter{kind: "file", path: "/nowhere/audit.log"}, "/nowhere/audit.log"},
		{auditExporter{kind: "logstash", host: "a"}, "a port from 1"},
		{auditExporter{kind: "logstash", host: "a", port: 1, ca: "/x"}, "tls is not set"},
		{auditExporter{kind: "logstash", host: "a", port: 1, tls: true, ca: "/nowhere"}, "/nowhere"},
		{auditExporter{kind: "otel", endpoint: "collector:4317"}, "http or https"},
		{auditExporter{kind: "otel", endpoint: "http://u:p@collector:4317"}, "http or https"},
		{auditExporter{kind: "otel", endpoint: "http://c:4317", ca: "/x"}, "not https"},
	} {
		_, err := openAudit([]auditExporter{tt.x}, auditOptions{now: time.Now})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "u:p@") {
			t.Errorf("%+v: %v", tt.x, err)
		}
	}
}
