package main

// This file brings two logs together over a stream. Both ends run the same
// code: each says how far it is, asks for what it lacks, and gives what it is
// asked for. The end: a side that wants nothing more sends its hello again, and
// when each has sent and received a second one the exchange is over.
//
// It runs before a new peer is judged, so that a freshly signed client brings
// its own proof to a server that the coordinator keeps in the dark. A peer that
// is not in the log learns nothing but how far the log is, and what all such
// peers may cost is bounded.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
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

func (m *logHelloMsg) fields(c *codec) {
	c.fixed(m.acct[:])
	m.tip.fields(c)
	m.min, m.max = uint16(c.uint(uint64(m.min), 2)), uint16(c.uint(uint64(m.max), 2))
	m.build = c.text(m.build, 1, maxLogBuild)
	if strings.IndexFunc(m.build, func(r rune) bool { return r < 0x20 || r > 0x7e }) >= 0 {
		c.fail("exchange: hello with a build that is not text")
	}
	listed(c, &m.branches, 1, maxBranches, "branches", func(t *logTip) { t.fields(c) })
}

func (t *logTip) fields(c *codec) {
	t.seq = c.uint(t.seq, 8)
	c.fixed(t.hash[:])
}

func (m *logGetMsg) fields(c *codec) {
	c.fixed(m.tip[:])
	m.from, m.to = c.uint(m.from, 8), c.uint(m.to, 8)
	if c.reading && m.from > m.to {
		c.fail("exchange: records from %d to %d asked for", m.from, m.to)
	}
}

func (m *logRecordsMsg) fields(c *codec) {
	listed(c, &m.records, 1, maxReplyRecords, "records", func(r *[]byte) { *r = c.prefixed(*r, 4, maxRecord) })
	if !c.in.Empty() {
		c.fail("exchange: bytes behind the last record")
	}
}

func (m *logErrorMsg) fields(c *codec) {
	m.code = c.text(m.code, 1, 255)
	if c.reading && !inSet(m.code, maxErrorCode, "abcdefghijklmnopqrstuvwxyz0123456789-") {
		c.fail("exchange: an error without a proper code")
	}
}

func (m *logHelloMsg) append(b []byte) []byte   { return appendFields(b, m) }
func (m *logGetMsg) append(b []byte) []byte     { return appendFields(b, m) }
func (m *logRecordsMsg) append(b []byte) []byte { return appendFields(b, m) }
func (m *logErrorMsg) append(b []byte) []byte   { return appendFields(b, m) }

func parseLogHello(b []byte) (*logHelloMsg, error)     { return parseFields(b, new(logHelloMsg)) }
func parseLogGet(b []byte) (*logGetMsg, error)         { return parseFields(b, new(logGetMsg)) }
func parseLogRecords(b []byte) (*logRecordsMsg, error) { return parseFields(b, new(logRecordsMsg)) }
func parseLogError(b []byte) (*logErrorMsg, error)     { return parseFields(b, new(logErrorMsg)) }

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

const (
	// exchangeTime bounds one exchange, however slowly a peer sends.
	exchangeTime = 2 * time.Minute

	// maxGetsServed bounds what a peer may ask in one exchange: a full log
	// of the largest records, three a frame, takes 683.
	maxGetsServed = 1024

	// stepBack is how far before the first record that did not fit the
	// search for a common one goes, in records; it doubles each time.
	stepBack = 16

	errorGrace = time.Second // for an error frame to get out
)

// An exchangeStream is what an exchange runs on: a stream of a link or of the
// coordinator. The caller closes it.
type exchangeStream interface {
	io.ReadWriter
	SetDeadline(time.Time) error
}

// exchangeOpts say who the peer is.
type exchangeOpts struct {
	peerKnown bool            // an active device of the log as it was before
	strangers *exchangeBudget // shared by all exchanges of the process; for peers not known
	build     string          // this program's version
}

// An exchangeBudget is what all unknown peers together may cost a minute. What
// advances the log is free.
type exchangeBudget struct {
	mu                     sync.Mutex
	since                  time.Time // guarded by mu, as all that follows
	records, bytes, checks int
}

const (
	maxStrangeRecords = 64
	maxStrangeBytes   = 256 << 10
	maxStrangeChecks  = 32 // signatures
)

var errStrangersBusy = coded("denied", "unknown peers have sent too many records in this minute")

// take spends from the minute's budget, all or nothing. Negative numbers give
// back.
func (g *exchangeBudget) take(now time.Time, records, bytes, checks int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := now.Sub(g.since); d < 0 || d >= time.Minute {
		g.since, g.records, g.bytes, g.checks = now, 0, 0, 0
	}
	if g.records+records > maxStrangeRecords || g.bytes+bytes > maxStrangeBytes || g.checks+checks > maxStrangeChecks {
		return errStrangersBusy
	}
	g.records = max(0, g.records+records)
	g.bytes = max(0, g.bytes+bytes)
	g.checks = max(0, g.checks+checks)
	return nil
}

// An exchange is one end of a run.
type exchange struct {
	store  *trustStore
	opts   exchangeOpts
	out    chan []byte
	ctx    context.Context
	peer   *logHelloMsg // its first one
	want   []logTip     // of the peer, not here yet
	asked  *logGetMsg   // the one request on its way
	step   uint64       // of the search for a common record
	gets   int          // served
	closed bool         // our second hello is sent
	over   bool         // the peer's second hello has come
}

// runExchange ends with nil when neither side wants anything more, or with the
// error that ended it: codes of the record refused, wrong-account, update,
// denied.
func runExchange(ctx context.Context, rw exchangeStream, t *trustStore, o exchangeOpts) error {
	if _, err := t.refresh(); err != nil {
		return err
	}
	if o.strangers == nil {
		o.strangers = new(exchangeBudget)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, exchangeTime, errors.New("exchange: took too long"))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	wake := context.AfterFunc(ctx, func() { rw.SetDeadline(time.Unix(1, 0)) })
	defer wake()

	x := &exchange{store: t, opts: o, out: make(chan []byte, 8), ctx: ctx}
	var writer sync.WaitGroup
	writer.Go(func() {
		if err := writeFrames(rw, x.out); err != nil {
			stop(fmt.Errorf("exchange: %w", err))
			for range x.out { // nobody may wait for a reader that is gone
			}
		}
	})
	err := x.run(rw)
	if err != nil && ctx.Err() == nil {
		rw.SetDeadline(time.Now().Add(errorGrace))
	}
	close(x.out)
	writer.Wait()
	if cause := context.Cause(ctx); cause != nil && err != nil && codeOf(err) == "" {
		return cause
	}
	return err
}

func writeFrames(w io.Writer, frames <-chan []byte) error {
	for b := range frames {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// run reads frames until both sides are done. What a peer did wrong it is told.
func (x *exchange) run(r io.Reader) error {
	x.send(frameHello, x.hello().append(nil))
	for !x.over || !x.closed {
		typ, body, err := readFrame(r, x.allow)
		if err == nil {
			err = x.frame(typ, body)
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("exchange: the peer went away in the middle")
		}
		if err != nil {
			x.sendError(err)
			return err
		}
	}
	return nil
}

func (x *exchange) send(typ byte, body []byte) {
	select {
	case x.out <- appendFrame(nil, typ, body):
	case <-x.ctx.Done():
	}
}

// sendError tells the peer the code, or only denied if it is a stranger.
func (x *exchange) sendError(err error) {
	code := codeOf(err)
	if code == "" || !x.opts.peerKnown {
		code = "denied"
	}
	x.send(frameError, (&logErrorMsg{code}).append(nil))
}

// hello says how far this side is now.
func (x *exchange) hello() *logHelloMsg {
	a, _ := x.store.anchor()
	tips := x.store.tips()
	return &logHelloMsg{acct: a.acct, tip: tips[0], min: exchangeProto, max: exchangeProto,
		build: x.opts.build, branches: tips[1:]}
}

// allow bounds the records that strangers may send before they are read.
func (x *exchange) allow(typ byte, size int) error {
	if typ != frameRecords || x.opts.peerKnown {
		return nil
	}
	return x.opts.strangers.take(x.store.clock(), 0, size, 0)
}

func (x *exchange) frame(typ byte, body []byte) error {
	if x.peer == nil && typ != frameHello && typ != frameError {
		return fmt.Errorf("exchange: frame %d before any hello", typ)
	}
	switch typ {
	case frameHello:
		return x.onHello(body)
	case frameGet:
		return x.onGet(body)
	case frameRecords:
		return x.onRecords(body)
	case frameError:
		return x.onError(body)
	}
	return fmt.Errorf("exchange: a frame of type %d", typ)
}

func (x *exchange) onHello(body []byte) error {
	m, err := parseLogHello(body)
	if err != nil {
		return err
	}
	if x.peer != nil {
		if x.over {
			return errors.New("exchange: a third hello")
		}
		x.over = true
		return nil
	}
	if a, ok := x.store.anchor(); !ok || m.acct != a.acct {
		return coded("wrong-account", "exchange: the peer is of another account")
	}
	if m.min > exchangeProto || m.max < exchangeProto {
		return coded("update", "exchange: the peer speaks versions %d to %d of the protocol, this program %d", m.min, m.max, exchangeProto)
	}
	x.peer = m
	x.want = append([]logTip{m.tip}, m.branches...)
	x.ask()
	return nil
}

// ask requests what comes next of what this side lacks, or says that it wants
// nothing more.
func (x *exchange) ask() {
	for len(x.want) > 0 {
		tip := x.want[0]
		if tip.hash != (stmtHash{}) && tip.seq < maxRecords && !x.store.knows(tip) {
			x.step = stepBack
			x.get(min(tip.seq, x.store.count()))
			return
		}
		x.want = x.want[1:]
	}
	x.closed = true
	x.send(frameHello, x.hello().append(nil))
}

// get asks for records of the first wanted tip, beginning with from.
func (x *exchange) get(from uint64) {
	tip := x.want[0]
	x.asked = &logGetMsg{tip.hash, from, min(tip.seq, from+maxReplyRecords-1)}
	x.send(frameGet, x.asked.append(nil))
}

// skip gives the first wanted tip up and goes on to the next.
func (x *exchange) skip() error {
	x.want = x.want[1:]
	x.ask()
	return nil
}

func (x *exchange) onGet(body []byte) error {
	m, err := parseLogGet(body)
	if err != nil {
		return err
	}
	if x.gets++; x.gets > maxGetsServed {
		return errors.New("exchange: the peer asks without end")
	}
	if !x.opts.peerKnown {
		x.send(frameError, (&logErrorMsg{"denied"}).append(nil))
		return nil
	}
	var reply logRecordsMsg
	size := 1
	for _, raw := range x.store.onPath(m.tip, m.from, m.to) {
		size += 4 + len(raw)
		if len(reply.records) == maxReplyRecords || size > maxFrame {
			break
		}
		reply.records = append(reply.records, raw)
	}
	x.send(frameRecords, reply.append(nil))
	return nil
}

func (x *exchange) onError(body []byte) error {
	m, err := parseLogError(body)
	if err != nil {
		return err
	}
	if x.asked == nil || x.peer == nil {
		return coded(m.code, "exchange: the peer ended it with %s", m.code)
	}
	x.asked, x.want = nil, nil
	x.ask()
	return nil
}

// onRecords adds what was asked for. Where it does not join on to anything
// known, the search goes further back.
func (x *exchange) onRecords(body []byte) error {
	m, err := parseLogRecords(body)
	if err != nil {
		return err
	}
	asked := x.asked
	if asked == nil {
		return errors.New("exchange: records that nobody asked for")
	}
	x.asked = nil
	if len(m.records) == 0 {
		return x.skip()
	}
	claimed, err := checkRun(m.records, asked)
	if err != nil {
		return err
	}
	first := claimed[0].stmt
	if first.seq > 0 && !x.store.knows(logTip{first.seq - 1, first.prev}) {
		x.get(first.seq - min(first.seq, x.step))
		x.step *= 2
		return nil
	}
	if err := x.take(m.records, claimed); err != nil {
		return err
	}
	return x.advance(claimed[len(claimed)-1])
}

// checkRun reads records and demands that they are those asked for, in order.
func checkRun(records [][]byte, asked *logGetMsg) ([]*trustRecord, error) {
	var list []*trustRecord
	for i, raw := range records {
		rec, err := parseRecord(raw)
		if err != nil {
			return nil, err
		}
		if rec.stmt.seq != asked.from+uint64(i) || rec.stmt.seq > asked.to {
			return nil, fmt.Errorf("exchange: record %d where %d was asked for", rec.stmt.seq, asked.from+uint64(i))
		}
		list = append(list, rec)
	}
	return list, nil
}

// take adds records to the log, or beside it. A peer's first failure ends the
// exchange. What cannot be kept for want of room or of time is no failure.
func (x *exchange) take(records [][]byte, claimed []*trustRecord) error {
	batch := len(records)
	if !x.opts.peerKnown {
		batch = 1 // each is paid for
	}
	for list := range slices.Chunk(records, batch) {
		if err := x.pay(list[0], claimed[0]); err != nil {
			return err
		}
		res, err := x.store.addAll(list)
		if err != nil && codeOf(err) != "fork" && codeOf(err) != "time-future" {
			return err
		}
		x.refund(res, list[0], claimed[0])
		claimed = claimed[len(list):]
	}
	return nil
}

// pay charges a stranger for one record, the bytes of which allow has charged.
func (x *exchange) pay(raw []byte, rec *trustRecord) error {
	if x.opts.peerKnown {
		return nil
	}
	return x.opts.strangers.take(x.store.clock(), 1, 0, len(rec.sigs))
}

// refund makes a record free that has advanced the log.
func (x *exchange) refund(res addResult, raw []byte, rec *trustRecord) {
	if !x.opts.peerKnown && res.appended > 0 {
		x.opts.strangers.take(x.store.clock(), -1, -len(raw), -len(rec.sigs))
	}
}

// advance asks for what follows last, if that was kept.
func (x *exchange) advance(last *trustRecord) error {
	if !x.store.knows(logTip{last.stmt.seq, last.hash}) || last.stmt.seq >= x.want[0].seq {
		return x.skip()
	}
	x.get(last.stmt.seq + 1)
	return nil
}
