package main

// This file keeps the sessions that a device's links come by: tokens with a
// lifetime, each for one client's key, so many SSH connections at once. The
// log authorises; the token limits and names.

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"
)

const (
	maxPerToken  = 3  // SSH connections at once under one token
	maxPerDevice = 20 // SSH connections at once in all that come by links
	// maxTokens bounds the tokens remembered, about 200 bytes each.
	maxTokens = 4096
	// tokenWait is how long an unknown token from an authorised key waits
	// for the ring that brings it, and one in use for a place.
	tokenWait = 2 * time.Second
	// tokenTTL is how long new connections may come by a token.
	tokenTTL = 24 * time.Hour
)

// A sessionEntry is one token's state.
type sessionEntry struct {
	owner   [32]byte      // the client's ed25519 key
	expires time.Duration // by clock
	live    int
}

// A sessionTable is safe for concurrent use.
type sessionTable struct {
	start time.Time // monotonic zero of the lifetimes

	mu      sync.Mutex
	entries map[sessionToken]*sessionEntry // guarded by mu
	live    int                            // guarded by mu: connections in all
	changed chan struct{}                  // guarded by mu: closed and made anew when a token or a place comes
}

func newSessionTable(now time.Time) *sessionTable {
	return &sessionTable{start: now, entries: map[sessionToken]*sessionEntry{}, changed: make(chan struct{})}
}

// publicID names a session where its token must not be shown.
func (t sessionToken) publicID() string { return hex.EncodeToString(t[:4]) }

// add makes a token known; a token that is known already stays as it is. ttl
// may only shorten its life; 0 means that it does not.
func (t *sessionTable) add(now time.Time, token sessionToken, owner ed25519.PublicKey, ttl time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries[token] != nil {
		return
	}
	if ttl <= 0 || ttl > tokenTTL {
		ttl = tokenTTL
	}
	if len(t.entries) >= maxTokens {
		t.makeRoomLocked()
	}
	t.entries[token] = &sessionEntry{owner: [32]byte(owner), expires: now.Sub(t.start) + ttl}
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
	t.add(now, token, owner, tokenTTL)
	return token
}

// take counts one connection under the token, or says why not. release must be
// called once when it is over.
func (t *sessionTable) take(now time.Time, token sessionToken, owner ed25519.PublicKey) (release func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[token]
	switch {
	case e == nil || e.owner != [32]byte(owner):
		return nil, coded("token-unknown", "unknown session")
	case now.Sub(t.start) >= e.expires:
		return nil, coded("token-expired", "session expired")
	case e.live >= maxPerToken:
		return nil, coded("token-busy", "session in use %d times", e.live)
	case t.live >= maxPerDevice:
		return nil, coded("device-busy", "%d sessions on this device", t.live)
	}
	e.live++
	t.live++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		e.live--
		t.live--
		t.changedLocked()
	}), nil
}

// changedLocked wakes whoever awaits. t.mu must be held.
func (t *sessionTable) changedLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// await is take, but an unknown token may still come, and one in use may be
// free in a moment: a connection is over for its client before it is here.
func (t *sessionTable) await(ctx context.Context, token sessionToken, owner ed25519.PublicKey) (release func(), err error) {
	ctx, stop := context.WithTimeout(ctx, tokenWait)
	defer stop()
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		release, err = t.take(time.Now(), token, owner)
		if code := codeOf(err); code != "token-unknown" && code != "token-busy" {
			return release, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
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
