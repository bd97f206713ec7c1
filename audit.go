package main

// This file is the audit: what happened, to whom, in order, and to each place
// that shall know of it by a queue of its own. Whoever records never waits: a
// queue that is full loses the record, and that is counted and told.

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// An auditType is what kind of thing happened.
type auditType string

const (
	auditAuthSuccess      auditType = "auth_success"
	auditAuthFailure      auditType = "auth_failure"
	auditAuthRateLimited  auditType = "auth_rate_limited"
	auditSessionStart     auditType = "session_start"
	auditSessionEnd       auditType = "session_end"
	auditCommandExecuted  auditType = "command_executed"
	auditCommandBlocked   auditType = "command_blocked"
	auditFileOpenRead     auditType = "file_open_read"
	auditFileOpenWrite    auditType = "file_open_write"
	auditFileRead         auditType = "file_read"
	auditFileWrite        auditType = "file_write"
	auditFileClose        auditType = "file_close"
	auditFileUploaded     auditType = "file_uploaded"
	auditFileDownloaded   auditType = "file_downloaded"
	auditFileDeleted      auditType = "file_deleted"
	auditFileRenamed      auditType = "file_renamed"
	auditDirectoryCreated auditType = "directory_created"
	auditDirectoryDeleted auditType = "directory_deleted"
	auditDirectoryListed  auditType = "directory_listed"
	auditTransferDenied   auditType = "transfer_denied"
	auditTransferAllowed  auditType = "transfer_allowed"
	auditIPBlocked        auditType = "ip_blocked"
	auditIPUnblocked      auditType = "ip_unblocked"
	auditForwardOpen      auditType = "forward_open"
	auditForwardDenied    auditType = "forward_denied"
	auditSuspicious       auditType = "suspicious_activity"
	auditLost             auditType = "audit_lost" // records did not arrive somewhere
)

// An auditResult is how it ended.
type auditResult string

const (
	auditSuccess auditResult = "success"
	auditFailure auditResult = "failure"
	auditDenied  auditResult = "denied"
	auditError   auditResult = "error"
)

// An auditEvent is one record. What is empty is left out of it; bytes is there
// when it is set, be it 0. Strings may come from peers, with any bytes.
type auditEvent struct {
	id       string    // unique; set by record
	time     time.Time // of record, unless set
	seq      uint64    // from 1 in each process, without gaps unless records are lost; set by record
	kind     auditType
	session  string // all of one SSH connection have it
	user     string
	clientIP string
	device   string // that came over a link, "" at the TCP port
	path     string
	destPath string
	bytes    *int64
	result   auditResult
	rule     string // of the filter
	details  string
	protocol string // ssh, sftp, scp
}

// An auditField is a field of a record as all formats have it.
type auditField struct {
	name   string
	text   string
	number int64
	isText bool
}

// fields lists what an event has, in the order of the line.
func (e *auditEvent) fields() []auditField {
	list := make([]auditField, 0, 15)
	text := func(name, v string) {
		if v != "" {
			list = append(list, auditField{name: name, text: v, isText: true})
		}
	}
	text("id", e.id)
	text("timestamp", e.time.UTC().Format("2006-01-02T15:04:05.000000000Z"))
	list = append(list, auditField{name: "seq", number: int64(e.seq)})
	text("event_type", string(e.kind))
	text("session_id", e.session)
	text("user", e.user)
	text("client_ip", e.clientIP)
	text("device", e.device)
	text("protocol", e.protocol)
	text("path", e.path)
	text("dest_path", e.destPath)
	if e.bytes != nil {
		list = append(list, auditField{name: "bytes", number: *e.bytes})
	}
	text("result", string(e.result))
	text("rule", e.rule)
	text("details", e.details)
	return list
}

// appendLine writes the event as a line of JSON behind b.
func (e *auditEvent) appendLine(b []byte) []byte {
	for i, f := range e.fields() {
		b = append(b, "{,"[min(i, 1)])
		b = append(appendJSONText(b, f.name), ':')
		if f.isText {
			b = appendJSONText(b, f.text)
		} else {
			b = strconv.AppendInt(b, f.number, 10)
		}
	}
	return append(b, "}\n"...)
}

// appendJSONText writes s, which is UTF-8, in quotes: what a terminal would
// obey, or would not show, is escaped too.
func appendJSONText(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			hi, lo := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, hi, lo)
		}
	}
	return append(b, '"')
}

// maxAuditText is the longest text of a record, in bytes: Linux has paths of up
// to 4096. What is longer ends in "…", as do texts that were cut.
const maxAuditText = 4096

// auditText is s as valid UTF-8: a byte that is none is \xNN, and a backslash
// before an x is \x5c, so that no two texts become one. It keeps nothing of a
// longer s in memory.
func auditText(s string) string {
	cut := len(s) > maxAuditText
	if cut {
		s = s[:maxAuditText]
	}
	if utf8.ValidString(s) && !strings.Contains(s, `\x`) && !cut {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || r == '\\' && strings.HasPrefix(s[i+1:], "x") {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		} else {
			b.WriteRune(r)
		}
	}
	if cut {
		b.WriteString("…")
	}
	return b.String()
}

// An auditExporter is a place where records shall go, as configured.
type auditExporter struct {
	kind     string // file, otel, logstash
	path     string // of the file
	maxSize  int64  // bytes, above which the file is rotated; 0 never
	keep     int    // rotated files
	endpoint string // URL of an OTLP collector
	host     string // of logstash
	port     int
	tls      bool
	ca       string // file with the certificates that the collector's is checked with; "" the system's
}

const (
	// auditMaxSize and auditKeep are the defaults of a file's rotation: 600 MiB
	// in all, about two million records.
	auditMaxSize = 100 << 20
	auditKeep    = 5
)

// String is the place without anything secret.
func (x auditExporter) String() string {
	switch x.kind {
	case "file":
		return "file " + x.path
	case "otel":
		return "otel " + x.endpoint[strings.LastIndexByte(x.endpoint, '@')+1:]
	}
	return x.kind + " " + net.JoinHostPort(x.host, strconv.Itoa(x.port))
}

// check says what would keep it from being opened, as far as can be said without
// making anything.
func (x auditExporter) check() error {
	err := error(nil)
	if x.kind == "file" {
		_, err = os.Stat(filepath.Dir(x.path) + "/.")
	} else {
		_, err = openAuditSink(x, auditOptions{}, new(auditOutlet))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", x, err)
	}
	return err
}

// An auditSink delivers records. Its one goroutine calls send, then close.
type auditSink interface {
	// send delivers events in order. The first taken of them need not come
	// again; lost are those that it gave up, of these or earlier ones. Without
	// events it does what is due. It returns when ctx ends.
	send(ctx context.Context, events []*auditEvent) (taken, lost int, err error)
	close() error
	// linger is how long records may wait for others to be sent with them.
	linger() time.Duration
}

const (
	// maxAuditQueue is records that wait for one exporter: some 400 KiB of usual
	// ones. Long texts are bounded by maxAuditHeld, in bytes of text.
	maxAuditQueue = 1000
	maxAuditHeld  = 2 << 20
	// maxAuditBatch is records sent at once.
	maxAuditBatch = 100
	// auditFlush is how long close waits for what is queued.
	auditFlush = 5 * time.Second
	// auditSay is the least time between two lines about one exporter.
	auditSay = time.Minute
	// Pauses between attempts double from the first to the longest; each is
	// shortened by up to half, by chance, so that machines do not come together.
	auditPause    = time.Second
	maxAuditPause = 30 * time.Second
)

// An auditLog is all exporters of a process. A nil one records nothing.
type auditLog struct {
	now     func() time.Time
	logf    func(level int, format string, args ...any)
	run     string // begins the id of each record of this process
	outlets []*auditOutlet
	stop    chan struct{}      // closed: nothing is queued any more
	abort   context.CancelFunc // gives up what is not delivered
	loops   sync.WaitGroup

	mu     sync.Mutex
	seq    uint64 // guarded by mu
	closed bool   // guarded by mu
}

// An auditOutlet is one exporter's queue, and what became of the records.
type auditOutlet struct {
	name  string
	sink  auditSink
	queue chan *auditEvent
	poke  chan struct{} // something is due
	again atomic.Bool   // the file is to be opened anew

	held                     atomic.Int64 // bytes of text in queue and batch
	waiting, delivered, gone atomic.Int64

	// The loop's alone: what of gone a record has told, and when; likewise for
	// the last line; whether that was about a failure.
	told, saidGone int64
	toldAt, saidAt time.Time
	failing        bool
}

// An auditOptions is what openAudit needs besides the exporters.
type auditOptions struct {
	host string // name of this machine, for collectors
	now  func() time.Time
	logf func(level int, format string, args ...any)
}

// openAudit opens files and starts all exporters. Collectors are not waited
// for. Errors name the exporter.
func openAudit(exporters []auditExporter, opt auditOptions) (*auditLog, error) {
	var run [8]byte
	rand.Read(run[:])
	a := &auditLog{now: opt.now, logf: opt.logf, run: hex.EncodeToString(run[:]), stop: make(chan struct{})}
	var errs []error
	for _, x := range exporters {
		o := &auditOutlet{name: x.String(), queue: make(chan *auditEvent, maxAuditQueue), poke: make(chan struct{}, 1)}
		var err error
		if o.sink, err = openAuditSink(x, opt, o); err != nil {
			errs = append(errs, fmt.Errorf("audit exporter %s: %w", o.name, err))
			continue
		}
		a.outlets = append(a.outlets, o)
	}
	if err := errors.Join(errs...); err != nil {
		for _, o := range a.outlets {
			o.sink.close()
		}
		return nil, err
	}
	var ctx context.Context
	ctx, a.abort = context.WithCancel(context.Background())
	for _, o := range a.outlets {
		a.loops.Go(func() { a.deliver(ctx, o) })
	}
	return a, nil
}

func openAuditSink(x auditExporter, opt auditOptions, o *auditOutlet) (auditSink, error) {
	switch x.kind {
	case "file":
		return openAuditFile(x, opt, o)
	case "logstash":
		return openLogstash(x, opt, o)
	case "otel":
		return openOTLP(x, opt)
	}
	return nil, withHint(fmt.Errorf("unknown type %q", x.kind), "types are file, otel and logstash")
}

// record gives e to every exporter. It does not block.
func (a *auditLog) record(e auditEvent) {
	if a == nil {
		return
	}
	for _, s := range []*string{&e.session, &e.user, &e.clientIP, &e.device, &e.path, &e.destPath, &e.rule, &e.details, &e.protocol} {
		*s = auditText(*s)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.stampLocked(&e)
		for _, o := range a.outlets {
			o.put(&e)
		}
	}
}

func (a *auditLog) stampLocked(e *auditEvent) {
	a.seq++
	e.seq, e.id = a.seq, fmt.Sprintf("%s-%d", a.run, a.seq)
	if e.time.IsZero() {
		e.time = a.now()
	}
}

// size is the bytes of an event's texts.
func (e *auditEvent) size() (n int64) {
	for _, s := range []string{e.session, e.user, e.clientIP, e.device, e.path, e.destPath, e.rule, e.details, e.protocol} {
		n += int64(len(s))
	}
	return n
}

// put queues e or counts it as lost. a.mu is held: that keeps the order.
func (o *auditOutlet) put(e *auditEvent) bool {
	if o.held.Load()+e.size() <= maxAuditHeld && len(o.queue) < cap(o.queue) {
		o.held.Add(e.size())
		o.waiting.Add(1)
		o.queue <- e // only put fills it
		return true
	}
	o.gone.Add(1)
	return false
}

// wake has send called soon.
func (o *auditOutlet) wake() {
	select {
	case o.poke <- struct{}{}:
	default:
	}
}

// reopen has files opened anew, after something else has renamed them.
func (a *auditLog) reopen() {
	if a == nil {
		return
	}
	for _, o := range a.outlets {
		o.again.Store(true)
		o.wake()
	}
}

// An auditCount is what became of an exporter's records. Delivered ones are
// written to the file, confirmed by OTLP, or handed to logstash's connection.
type auditCount struct {
	name                     string
	delivered, waiting, lost int64
}

// lost counts, for each exporter.
func (a *auditLog) lost() (counts []auditCount) {
	if a == nil {
		return nil
	}
	for _, o := range a.outlets {
		counts = append(counts, auditCount{o.name, o.delivered.Load(), o.waiting.Load(), o.gone.Load()})
	}
	return counts
}

// close takes no more records, and returns when those it has are delivered or,
// after auditFlush, counted as lost. A file system that hangs is not waited for.
func (a *auditLog) close() {
	if a == nil {
		return
	}
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.stop)
	}
	a.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		a.loops.Wait()
		close(ended)
	}()
	limit := time.AfterFunc(auditFlush, a.abort)
	defer limit.Stop()
	select {
	case <-ended:
		a.abort()
	case <-time.After(auditFlush + time.Second):
		a.logf(0, "audit: a file cannot be written to the end: its disk does not answer")
	}
}

// deliver is an exporter's loop. After stop it ends when all is delivered, or
// at the first failure.
func (a *auditLog) deliver(ctx context.Context, o *auditOutlet) {
	defer func() {
		if err := o.sink.close(); err != nil {
			a.logf(0, "audit: %s: %v", o.name, err)
		}
	}()
	var batch []*auditEvent
	var pause time.Duration // the last one
	var failedAt time.Time
	for wait := time.Duration(0); ; {
		batch = a.gather(o, batch, wait)
		closing := a.closing()
		taken, lost, err := o.sink.send(ctx, batch)
		for _, e := range batch[:taken] {
			o.held.Add(-e.size())
		}
		o.waiting.Add(int64(-taken))
		o.gone.Add(int64(lost))
		o.delivered.Add(int64(taken - lost))
		n := copy(batch, batch[taken:])
		clear(batch[n:])
		batch = batch[:n]
		switch {
		case err == nil:
			a.delivers(o)
			if closing && len(batch)+len(o.queue) == 0 {
				return
			}
			wait = 0
			continue
		case closing:
			rest := int64(len(batch) + len(o.queue))
			o.gone.Add(rest)
			o.waiting.Add(-rest)
			a.logf(0, "audit: %s: %v; %d records are lost", o.name, err, o.gone.Load())
			return
		}
		if a.now().Sub(failedAt) > 2*maxAuditPause {
			pause = 0
		}
		pause = min(max(2*pause, auditPause), maxAuditPause)
		wait, failedAt = pause/2+mrand.N(pause/2), a.now()
		a.fails(o, err)
	}
}

func (a *auditLog) closing() bool {
	select {
	case <-a.stop:
		return true
	default:
		return false
	}
}

// gather waits for so long, or when that is 0 until there is something to do,
// and fills batch with what is queued.
func (a *auditLog) gather(o *auditOutlet, batch []*auditEvent, wait time.Duration) []*auditEvent {
	var late <-chan time.Time // until when more may come
	switch {
	case wait > 0:
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-o.poke:
		case <-a.stop:
		}
	case len(batch) == 0:
		select {
		case e := <-o.queue:
			batch = append(batch, e)
			if d := o.sink.linger(); d > 0 {
				timer := time.NewTimer(d)
				defer timer.Stop()
				late = timer.C
			}
		case <-o.poke:
		case <-a.stop:
		}
	}
	for len(batch) < maxAuditBatch {
		select {
		case e := <-o.queue:
			batch = append(batch, e)
			continue
		default:
		}
		if late == nil {
			break
		}
		select {
		case e := <-o.queue:
			batch = append(batch, e)
		case <-late:
			late = nil
		case <-a.stop:
			late = nil
		}
	}
	return batch
}

// fails says that o fails, unless something was said of it just now.
func (a *auditLog) fails(o *auditOutlet, err error) {
	if now := a.now(); o.saidAt.IsZero() || now.Sub(o.saidAt) >= auditSay {
		o.saidAt, o.saidGone, o.failing = now, o.gone.Load(), true
		a.logf(0, "audit: %s: %v; %d records wait, %d are lost", o.name, err, o.waiting.Load(), o.saidGone)
	}
}

// delivers says that o works after it was said that it does not, and tells of
// lost records: by a line, and by a record to all exporters.
func (a *auditLog) delivers(o *auditOutlet) {
	now, gone := a.now(), o.gone.Load()
	if o.failing || gone > o.saidGone && now.Sub(o.saidAt) >= auditSay {
		o.saidAt, o.saidGone, o.failing = now, gone, false
		a.logf(0, "audit: %s takes records; %d are lost", o.name, gone)
	}
	queued := len(o.queue)
	if gone == o.told || queued > 0 && now.Sub(o.toldAt) < auditSay || queued > maxAuditQueue/2 {
		return
	}
	e := &auditEvent{kind: auditLost, result: auditError, details: fmt.Sprintf("%d records did not reach %s", gone-o.told, auditText(o.name))}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stampLocked(e)
	if o.put(e) {
		o.told, o.toldAt = gone, now
	}
	for _, other := range a.outlets {
		if other != o && !a.closed {
			other.put(e)
		}
	}
}
