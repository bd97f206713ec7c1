package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// An auditTestLines is what an audit says of itself.
type auditTestLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *auditTestLines) logf(_ int, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *auditTestLines) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// auditTestOpen opens exporters, which are closed with the test.
func auditTestOpen(t testing.TB, exporters ...auditExporter) (*auditLog, *auditTestLines) {
	t.Helper()
	said := &auditTestLines{}
	a, err := openAudit(exporters, auditOptions{host: "attic", now: time.Now, logf: said.logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a, said
}

// An auditTestRecord is a line as a consumer reads it.
type auditTestRecord struct {
	ID        string
	Timestamp time.Time
	Seq       int
	Type      string `json:"event_type"`
	Session   string `json:"session_id"`
	User      string
	ClientIP  string `json:"client_ip"`
	Device    string
	Protocol  string
	Path      string
	DestPath  string `json:"dest_path"`
	Bytes     *int64
	Result    string
	Rule      string
	Details   string
}

// auditTestParse reads whole lines of JSON, with no field that it does not know.
func auditTestParse(t testing.TB, text string) (records []auditTestRecord) {
	t.Helper()
	if text != "" && !strings.HasSuffix(text, "\n") {
		t.Fatalf("a torn line: %q", text[max(0, len(text)-100):])
	}
	for line := range strings.Lines(text) {
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		var r auditTestRecord
		if err := d.Decode(&r); err != nil || d.More() {
			t.Fatalf("%q: %v", line, err)
		}
		records = append(records, r)
	}
	return records
}

func auditTestFile(t testing.TB, files ...string) (records []auditTestRecord) {
	t.Helper()
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, auditTestParse(t, string(b))...)
	}
	return records
}

// auditTestSeqs wants the records to be first, first+1 and so on.
func auditTestSeqs(t testing.TB, records []auditTestRecord, first, last int) {
	t.Helper()
	if len(records) != last-first+1 {
		t.Errorf("%d records, not %d", len(records), last-first+1)
	}
	for i, r := range records {
		if r.Seq != first+i {
			t.Fatalf("record %d has seq %d, not %d", i, r.Seq, first+i)
		}
	}
}

// auditTestLine reads one line.
func auditTestLine(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	s, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return s
}
