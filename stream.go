package main

// This file is the form of streams on a link: the head that says what a
// stream is for, the codes by which one is refused, and a stream as net.Conn.
//
// SSH streams come by sessions: tokens with a lifetime, each for one client's
// key, so many connections at once. The log authorises; the token limits and
// names.

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
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
	"address",
}

// linkCodeTexts say each code to a person.
var linkCodeTexts = map[string]string{
	"denied":         "the device does not know this machine",
	"key-mismatch":   "the peer is not the machine that was introduced",
	"unknown-device": "not in the account's log",
	"revoked":        "revoked",
	"expired":        "the signature of this machine or of the device has expired",
	"role":           "the role of this machine or of the device does not allow this",
	"token-unknown":  "the device does not know this session",
	"token-expired":  "the session has expired",
	"token-revoked":  "the session was revoked",
	"token-busy":     "the session is in use as often as it may be",
	"device-busy":    "the device has as many sessions as it may",
	"stream-kind":    "the device does not know this kind of stream",
	"closing":        "the other end has closed the link",
	"replaced":       "the device's process has been replaced by a new one",
	"address":        "the device lets nobody in from this address now",
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
	remote := true
	if se := (*quic.StreamError)(nil); errors.As(err, &se) && se.Remote {
		n = uint64(se.ErrorCode)
	} else if ae := (*quic.ApplicationError)(nil); errors.As(err, &ae) {
		n, remote = uint64(ae.ErrorCode), ae.Remote
	}
	if n == 0 || n >= uint64(len(linkCodes)) {
		return err
	}
	code := linkCodes[n]
	err = coded(code, "%s", linkCodeTexts[code])
	if remote && code == "revoked" {
		err = coded(code, "this machine is revoked")
	}
	if slices.Contains([]string{"denied", "revoked", "expired", "role"}, code) {
		err = withHint(err, "sessio status says what this machine and the device are signed for")
	}
	return err
}

// A linkStream is a QUIC stream as net.Conn. Its addresses are those of the
// path in use, as TCP addresses: SSH knows no others.
type linkStream struct {
	*quic.Stream
	local, remote net.Addr
	failed        func(error) // called with what ends a Read, but for the end; may be nil
	done          func()      // called by every Close; may be nil

	first func(error) error // has the last word on the error of the first Read; nil after it
}

func (c *linkStream) LocalAddr() net.Addr  { return c.local }
func (c *linkStream) RemoteAddr() net.Addr { return c.remote }

// cause is err, which ended the link, with its code; nil if the other end has
// closed it as it left.
func (*linkStream) cause(err error) error {
	if ae := (*quic.ApplicationError)(nil); errors.As(err, &ae) && ae.Remote && uint64(ae.ErrorCode) == linkCode("closing") {
		return nil
	}
	return linkErrorOf(err)
}

func (c *linkStream) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	if err != nil && err != io.EOF {
		err = linkErrorOf(err)
		if c.failed != nil {
			c.failed(err)
		}
	}
	if first := c.first; first != nil {
		c.first, err = nil, first(err)
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

// refuse ends a stream that is not taken.
func (c *linkStream) refuse(code string) { refuseStream(c.Stream, code) }

// refuseStream ends a stream that asked for what it may not have.
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

const (
	maxPerToken  = 3          // SSH connections at once under one token
	maxPerDevice = maxRunning // SSH connections at once in all that come by links
	// maxTokens bounds the tokens remembered, about 200 bytes each.
	maxTokens = 4096
	// tokenWait is how long an unknown token from an authorised key waits
	// for the ring that brings it, and one in use for a place.
	tokenWait = 2 * time.Second
	// tokenTTL is how long new connections may come by a token, where nothing
	// else is said.
	tokenTTL = sessionTTL
)

// A sessionEntry is one token's state.
type sessionEntry struct {
	owner   [32]byte      // the client's ed25519 key
	expires time.Duration // by clock
	live    int
	revoked bool
	ended   chan struct{} // closed when it is revoked
}

// A sessionTable is safe for concurrent use.
type sessionTable struct {
	start time.Time     // monotonic zero of the lifetimes
	uses  atomic.Uint64 // how often a connection has begun or ended
	used  func()        // called after each; set before the first
	life  atomic.Int64  // of tokens made from now on, in nanoseconds; 0 has no end

	mu      sync.Mutex
	entries map[sessionToken]*sessionEntry // guarded by mu
	live    int                            // guarded by mu: connections in all
	changed chan struct{}                  // guarded by mu: closed and made anew when a token or a place comes
}

func newSessionTable(now time.Time) *sessionTable {
	t := &sessionTable{start: now, used: func() {}, entries: map[sessionToken]*sessionEntry{}, changed: make(chan struct{})}
	t.life.Store(int64(tokenTTL))
	return t
}

// publicID is the token's id as people read it.
func (t sessionToken) publicID() string { return t.id().String() }

// add makes a token known; a token that is known already stays as it is. ttl
// may only shorten its life; 0 means that it does not. Nothing overflows: a
// process does not live for a hundred years.
func (t *sessionTable) add(now time.Time, token sessionToken, owner ed25519.PublicKey, ttl time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries[token] != nil {
		return
	}
	if life := time.Duration(t.life.Load()); ttl <= 0 || life > 0 && ttl > life {
		ttl = life
	}
	if ttl <= 0 {
		ttl = maxSeconds * time.Second
	}
	if len(t.entries) >= maxTokens {
		t.makeRoomLocked()
	}
	t.entries[token] = &sessionEntry{owner: [32]byte(owner), expires: now.Sub(t.start) + ttl, ended: make(chan struct{})}
	t.changedLocked()
}

// makeRoomLocked forgets the token that would die first of those that nobody
// uses: one that rings without end does not stand in the way of others. There
// is one, for fewer are in use than are remembered.
func (t *sessionTable) makeRoomLocked() {
	var first sessionToken
	var soonest *sessionEntry
	for token, e := range t.entries {
		if e.live == 0 && (soonest == nil || e.expires < soonest.expires) {
			first, soonest = token, e
		}
	}
	delete(t.entries, first)
}

// make adds a token of our own making, for a live link.
func (t *sessionTable) make(now time.Time, owner ed25519.PublicKey) sessionToken {
	var token sessionToken
	rand.Read(token[:])
	t.add(now, token, owner, 0)
	return token
}

// revoke ends the sessions that match, and says how many: nothing comes by them
// any more. They stay known until their time is over, so that who comes by one
// hears why not.
func (t *sessionTable) revoke(match func(token sessionToken, owner [32]byte) bool) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for token, e := range t.entries {
		if !e.revoked && match(token, e.owner) {
			e.revoked = true
			close(e.ended)
			n++
		}
	}
	if n > 0 {
		t.changedLocked()
	}
	return n
}

// A sessionLease is one connection's place under a token.
type sessionLease struct {
	release func()          // to be called when the connection is over
	ended   <-chan struct{} // closed when the session is revoked
}

// take counts one connection under the token, or says why not: the token
// first, then the device.
func (t *sessionTable) take(now time.Time, token sessionToken, owner ed25519.PublicKey) (l sessionLease, err error) {
	t.mu.Lock()
	l, err = t.takeLocked(now, token, owner)
	t.mu.Unlock()
	if err == nil {
		t.changedUse()
	}
	return l, err
}

// changedUse tells that a connection has begun or ended.
func (t *sessionTable) changedUse() {
	t.uses.Add(1)
	t.used()
}

// takeLocked is take. t.mu must be held.
func (t *sessionTable) takeLocked(now time.Time, token sessionToken, owner ed25519.PublicKey) (l sessionLease, err error) {
	e := t.entries[token]
	switch {
	case e == nil || e.owner != [32]byte(owner):
		return l, coded("token-unknown", "unknown session")
	case e.revoked:
		return l, coded("token-revoked", "session revoked")
	case now.Sub(t.start) >= e.expires:
		return l, coded("token-expired", "session expired")
	case e.live >= maxPerToken:
		return l, coded("token-busy", "session in use %d times", e.live)
	case t.live >= maxPerDevice:
		return l, coded("device-busy", "%d sessions on this device", t.live)
	}
	e.live++
	t.live++
	return sessionLease{ended: e.ended, release: sync.OnceFunc(func() {
		t.mu.Lock()
		e.live--
		t.live--
		t.changedLocked()
		t.mu.Unlock()
		t.changedUse()
	})}, nil
}

// running calls each with every session that connections are open under.
func (t *sessionTable) running(each func(token sessionToken, owner [32]byte, live int)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for token, e := range t.entries {
		if e.live > 0 {
			each(token, e.owner, e.live)
		}
	}
}

// changedLocked wakes whoever awaits. t.mu must be held.
func (t *sessionTable) changedLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// await is take, but an unknown token may still come, and one in use may be
// free in a moment: a connection is over for its client before it is here.
func (t *sessionTable) await(ctx context.Context, token sessionToken, owner ed25519.PublicKey) (l sessionLease, err error) {
	ctx, stop := context.WithTimeout(ctx, tokenWait)
	defer stop()
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		l, err = t.take(time.Now(), token, owner)
		if code := codeOf(err); code != "token-unknown" && code != "token-busy" {
			return l, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return l, err
		}
	}
}

// reap forgets tokens past their time that nobody uses.
func (t *sessionTable) reap(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reapLocked(now)
}

// reapLocked is reap. t.mu must be held.
func (t *sessionTable) reapLocked(now time.Time) {
	for token, e := range t.entries {
		if e.live == 0 && now.Sub(t.start) >= e.expires {
			delete(t.entries, token)
		}
	}
}
