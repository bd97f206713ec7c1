package main

// These tests send to a collector made of gRPC's and OpenTelemetry's own code
// (testdata/otlp).

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var otlpFile = sync.OnceValues(func() (string, error) {
	return labBuild("otlp", "go", "build", "-C", "testdata/otlp", "-o")
})

// An otlpTestCollector is a process that takes records.
type otlpTestCollector struct {
	t       *testing.T
	cmd     *exec.Cmd
	in      io.Writer
	answers chan string
	records chan otlpTestRecord
	ca      string
	addrs   []string // gRPC, gRPC with TLS, HTTP, HTTPS
}

type otlpTestRecord struct {
	Via, Scope, Severity, Body, Event string
	Resource, Attributes              map[string]any
	Time, Observed                    uint64
	Number                            int
}

func newOTLPTestCollector(t *testing.T) *otlpTestCollector {
	t.Helper()
	file, err := otlpFile()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &otlpTestCollector{t: t, cmd: exec.Command(file, dir), answers: make(chan string, 10), records: make(chan otlpTestRecord, 5000), ca: filepath.Join(dir, "cert.pem")}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in = in
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 4<<20)
	if !lines.Scan() {
		t.Fatal("no addresses")
	}
	c.addrs = strings.Fields(lines.Text())
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines.Scan() {
			var r otlpTestRecord
			if !strings.HasPrefix(lines.Text(), "{") {
				c.answers <- lines.Text()
			} else if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Error(err)
			} else {
				c.records <- r
			}
		}
	})
	t.Cleanup(func() {
		in.Close()
		c.cmd.Process.Kill()
		reading.Wait()
		c.cmd.Wait()
	})
	return c
}

func (c *otlpTestCollector) tell(words ...any) string {
	c.t.Helper()
	fmt.Fprintln(c.in, words...)
	said, ok := strings.CutPrefix(<-c.answers, "ok")
	if !ok {
		c.t.Fatalf("%v: %s", words, said)
	}
	return strings.TrimSpace(said)
}

// exporter is one of its four doors.
func (c *otlpTestCollector) exporter(door int) auditExporter {
	if door%2 == 1 {
		return auditExporter{kind: "otel", endpoint: "https://" + c.addrs[door], ca: c.ca}
	}
	return auditExporter{kind: "otel", endpoint: "http://" + c.addrs[door]}
}

func (c *otlpTestCollector) record() otlpTestRecord {
	c.t.Helper()
	select {
	case r := <-c.records:
		return r
	case <-time.After(20 * time.Second):
		c.t.Fatal("no record comes")
		panic("")
	}
}

// Every field arrives as it was sent, through each door.
func TestAuditOTLPFields(t *testing.T) {
	t.Parallel()
	c := newOTLPTestCollector(t)
	n := int64(1) << 53
	for door, via := range []string{"grpc", "grpc", "/v1/logs", "/v1/logs"} {
		a, said := auditTestOpen(t, c.exporter(door))
		at := time.Unix(1700000000, 123456789)
		for _, result := range []auditResult{auditSuccess, auditDenied, auditError, ""} {
			a.record(auditEvent{time: at, kind: auditFileRenamed, session: "s", user: "ali\xffce", clientIP: "192.0.2.1", device: "dev", path: "/a\n\"ü\u202e",
				destPath: "/b", bytes: &n, result: result, rule: "r", details: "\x1b[0m", protocol: "sftp"})
		}
		a.close()
		for seq := 1; seq <= 4; seq++ {
			got := c.record()
			want := otlpTestRecord{Via: via, Scope: "sessio.audit", Body: "file_renamed", Event: "file_renamed", Time: uint64(at.UnixNano()), Observed: got.Observed,
				Severity: []string{"INFO", "WARN", "ERROR", "INFO"}[seq-1], Number: []int{9, 13, 17, 9}[seq-1],
				Resource: map[string]any{"service.name": "sessio", "service.version": version, "host.name": "attic"},
				Attributes: map[string]any{"id": fmt.Sprintf("%s-%d", a.run, seq), "timestamp": "2023-11-14T22:13:20.123456789Z", "seq": float64(seq), "event_type": "file_renamed",
					"session_id": "s", "user": `ali\xffce`, "client_ip": "192.0.2.1", "device": "dev", "protocol": "sftp", "path": "/a\n\"ü\u202e", "dest_path": "/b",
					"bytes": float64(n), "rule": "r", "details": "\x1b[0m"}}
			if r := []string{"success", "denied", "error", ""}[seq-1]; r != "" {
				want.Attributes["result"] = r
			}
			if !reflect.DeepEqual(got, want) || time.Since(time.Unix(0, int64(got.Observed))) > time.Minute {
				t.Errorf("door %d:\n got %+v\nwant %+v", door, got, want)
			}
		}
		if counts := a.lost()[0]; counts.delivered != 4 || counts.lost != 0 || said.all() != "" {
			t.Errorf("door %d: %+v, %s", door, counts, said.all())
		}
	}
}

// Batches larger than HTTP/2's windows arrive whole and in order.
func TestAuditOTLPLarge(t *testing.T) {
	t.Parallel()
	c := newOTLPTestCollector(t)
	for door := range 4 {
		a, _ := auditTestOpen(t, c.exporter(door))
		path := strings.Repeat("p", maxAuditText)
		for range 200 {
			a.record(auditEvent{kind: auditFileRead, path: path, destPath: path})
		}
		for seq := 1; seq <= 200; seq++ {
			if r := c.record(); r.Attributes["seq"] != float64(seq) || r.Attributes["dest_path"] != path {
				t.Fatalf("door %d: %v instead of %d", door, r.Attributes["seq"], seq)
			}
		}
		a.close()
	}
}

// What a collector refuses for now is sent again; what it refuses for good, or
// in part, is lost, counted and told.
func TestAuditOTLPRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		door      int
		command   string
		delivered int64
		lost      int64
		said      string
	}{
		{0, "refuse 14 2", 1, 0, "gRPC status 14"},
		{2, "refuse 503 2", 1, 0, "HTTP 503"},
		{0, "refuse 3 1", 1, 1, "gRPC status 3: told so; these records are not sent again"},
		{2, "refuse 400 1", 1, 1, "HTTP 400"},
		{0, "reject 1", 1, 1, "rejects 1 of 1 records: told so"},
		{2, "reject 1", 1, 1, "rejects 1 of 1 records: told so"},
	} {
		t.Run(fmt.Sprint(tt.door, " ", tt.command), func(t *testing.T) {
			t.Parallel()
			c := newOTLPTestCollector(t)
			c.tell(tt.command)
			a, said := auditTestOpen(t, c.exporter(tt.door))
			a.record(auditEvent{kind: auditSessionStart})
			waitUntil(t, func() bool { return strings.Contains(said.all(), tt.said) })
			if tt.lost > 0 { // that is told with the next
				a.record(auditEvent{kind: auditSessionEnd})
				tt.delivered = 2
			}
			waitUntil(t, func() bool { return a.lost()[0].delivered == tt.delivered })
			a.close()
			counts := a.lost()[0]
			if counts.lost != tt.lost {
				t.Errorf("%+v: %+v", tt, counts)
			}
			want := []string{"session_end", "audit_lost"}
			switch {
			case tt.lost == 0:
				want = []string{"session_start"}
			case strings.HasPrefix(tt.command, "reject"): // of what the collector took
				want = []string{"session_start", "session_end", "audit_lost"}
			}
			for _, kind := range want {
				if got := c.record().Body; got != kind {
					t.Errorf("%+v: %s instead of %s", tt, got, kind)
				}
			}
		})
	}
}

// A collector that dies and one that does not answer cost a recorder nothing;
// what was not confirmed is sent again to the next one.
func TestAuditOTLPKilled(t *testing.T) {
	for _, door := range []int{0, 2} {
		c := newOTLPTestCollector(t)
		x := c.exporter(door)
		a, said := auditTestOpen(t, x)
		a.record(auditEvent{kind: auditSessionStart})
		c.record()
		c.tell("hold")
		a.record(auditEvent{kind: auditSessionEnd})
		waitUntil(t, func() bool { return c.tell("requests") == "2" })
		c.cmd.Process.Kill()
		waitUntil(t, func() bool { return strings.Contains(said.all(), "1 records wait, 0 are lost") })
		begun := time.Now()
		for range 2 * maxAuditQueue {
			a.record(auditEvent{kind: auditFileRead})
		}
		if d := time.Since(begun); d > 5*time.Second {
			t.Errorf("recording took %v", d)
		}
		if counts := a.lost()[0]; counts.delivered != 1 || counts.lost < maxAuditQueue-maxAuditBatch || counts.lost+counts.waiting != 2*maxAuditQueue+1 {
			t.Errorf("%+v", counts)
		}
		a.close()
		if counts := a.lost()[0]; counts.waiting != 0 || counts.lost != 2*maxAuditQueue+1 {
			t.Errorf("%+v", counts)
		}
	}
}
