package main

// This file keeps the coordinator's sessions: which client has had a way into
// which device, until when, and what the owner has revoked.
//
// 	<dir>/sessions   an entry log: sessions made, orders to end some, orders that
// 	                 a device has acknowledged; written anew when most of it is
// 	                 out of date
//
// The devices enforce. A session that is made is written with others, at most
// sessionFlush later: losing the last ones to a power cut loses no rule, for
// their devices know the tokens, and their beats tell of them again once they are
// used. An order is on disk before it is acknowledged to who gave it, and stays
// until the device has acknowledged it, which is asked again with each beat.
// Which sessions run now is the presence table's to say.

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	// maxSessions bounds the sessions remembered, about 400 bytes each, and
	// maxAcctSessions those of an account. The ones unused the longest make room.
	maxSessions     = 1 << 15
	maxAcctSessions = 1 << 12
	// maxOrders bounds what an account's devices have not acknowledged of sessions
	// revoked one by one, 300 bytes each, and maxOrdersOut how many orders are on
	// their way to one device.
	maxOrders    = 1 << 10
	maxOrdersOut = 16
	// maxSessionQueue bounds the entries that wait for the disk, 180 bytes each.
	// What is dropped is told by beats again.
	maxSessionQueue = 1 << 13
	sessionFlush    = time.Second
	sessionReap     = time.Hour
	// sessionInUse is how long a session counts as used after the last beat that
	// named it: beats come every 25 s, and three may be lost.
	sessionInUse = 100 // seconds
	// reportGap is the time for one session that a device made itself, and
	// reportBurst how many of an account may come at once.
	reportGap   = time.Second
	reportBurst = 256
	// orderLife is how long an order waits for its device: no link lives longer
	// without a path.
	orderLife = 30 * 24 * 3600 // seconds
	// orderAgain is when an order without an answer may go out again: newsTimes
	// are over.
	orderAgain = 7 * time.Second
	// maxSessionEntry bounds an entry of the log, in bytes: an order with as many
	// ids as there may be has less than half of it.
	maxSessionEntry = 2 << 10
	sessionsFresh   = ".new" // behind the name of a log that is being written
)

// Entries of the log, by their first byte.
const (
	entrySession = 1 // coordSession
	entryOrder   = 2 // sessionOrder
	entryDone    = 3 // sessionOrder that is over
)

// A coordSession is a session as the coordinator remembers it, never by its
// token.
type coordSession struct {
	acct           acctID
	client, target deviceID
	id             sessionID
	hash           [32]byte // SHA-256 of the token; zero: the device made it
	made, expires  int64    // unix seconds; 0 = without end
	revoked        int64    // when; 0 = it is not
	used           int64    // when a beat named it last; not on disk
}

func (s *coordSession) fields(c *codec) {
	c.fixed(s.acct[:])
	s.client, s.target = deviceID(c.text(string(s.client), 1, idLen)), deviceID(c.text(string(s.target), 1, idLen))
	c.fixed(s.id[:])
	c.fixed(s.hash[:])
	for _, t := range []*int64{&s.made, &s.expires, &s.revoked} {
		*t = int64(c.uint(uint64(*t), 8))
	}
}

func (s *coordSession) key() sessionKey { return sessionKey{s.target, s.id} }

// over reports whether the session is to be forgotten: at the second that it
// expires, and when it was revoked for as long as tokens live. One that runs
// stays, whatever the time.
func (s *coordSession) over(now time.Time) bool {
	at := now.Unix()
	if s.used != 0 && at-s.used < sessionInUse {
		return false
	}
	return s.expires != 0 && at >= s.expires || s.revoked != 0 && at-s.revoked >= int64(sessionTTL/time.Second)
}

// A sessionOrder has a device end sessions for good.
type sessionOrder struct {
	acct   acctID
	target deviceID
	msg    endMsg
	made   int64     // unix seconds
	sent   time.Time // not on disk
}

func (o *sessionOrder) fields(c *codec) {
	c.fixed(o.acct[:])
	o.target = deviceID(c.text(string(o.target), 1, idLen))
	o.msg.fields(c)
	o.made = int64(c.uint(uint64(o.made), 8))
}

// covers reports whether the order is about s.
func (o *sessionOrder) covers(s *coordSession) bool {
	return s.target == o.target && (o.msg.all || o.msg.client != "" && o.msg.client == s.client || slices.Contains(o.msg.ids, s.id))
}

// A sessionMatch says which sessions of an account are meant: all, or those that
// every field which is set names. The zero one means none.
type sessionMatch struct {
	all    bool
	id     string // public id
	target deviceID
	client deviceID
}

func (m *sessionMatch) is(s *coordSession) bool {
	if m.all || m.id == "" && m.target == "" && m.client == "" {
		return m.all
	}
	return (m.id == "" || m.id == s.id.String()) && (m.target == "" || m.target == s.target) && (m.client == "" || m.client == s.client)
}

// orders are what the devices of sessions have to be told: of whole devices where
// that is meant, so that what we have not heard of yet ends too.
func (m *sessionMatch) orders(acct acctID, list []*coordSession, keep bool, now time.Time) (out []*sessionOrder) {
	for _, s := range list {
		i := slices.IndexFunc(out, func(o *sessionOrder) bool {
			return o.target == s.target && (m.id == "" || len(o.msg.ids) < maxEndIDs)
		})
		if i < 0 {
			o := &sessionOrder{acct: acct, target: s.target, msg: endMsg{all: m.id == "" && m.client == "", keep: keep}, made: now.Unix()}
			if m.id == "" {
				o.msg.client = m.client
			}
			rand.Read(o.msg.order[:])
			i, out = len(out), append(out, o)
		}
		if m.id != "" {
			out[i].msg.ids = append(out[i].msg.ids, s.id)
		}
	}
	return out
}

// acctSessions are those of one account.
type acctSessions struct {
	sessions map[sessionKey]*coordSession
	orders   []*sessionOrder // not acknowledged, oldest first
	reports  pace
}

// apply enters an order and marks what it is about. One that says more makes
// earlier ones of the same device needless.
func (a *acctSessions) apply(o *sessionOrder) (n int) {
	a.orders = append(slices.DeleteFunc(a.orders, func(old *sessionOrder) bool {
		return old.target == o.target && (o.msg.all || o.msg.client != "" && o.msg.client == old.msg.client)
	}), o)
	for _, s := range a.sessions {
		if s.revoked == 0 && o.covers(s) {
			s.revoked = o.made
			n++
		}
	}
	return n
}

// A sessionStore is the file. All methods may be called at once; those that
// write wait for the disk.
type sessionStore struct {
	file  string
	start time.Time
	wake  chan struct{} // the queue is not empty any more

	disk    sync.Mutex // taken before mu
	log     *entryLog  // guarded by disk
	entries int        // guarded by disk: in log
	renamed bool       // guarded by disk: the log is a new file, perhaps not yet on disk by its name

	mu    sync.Mutex
	accts map[acctID]*acctSessions // guarded by mu
	count int                      // guarded by mu: sessions of all
	queue [][]byte                 // guarded by mu: entries to be written
}

// openSessionStore reads the store in dir and forgets what is over. A log that
// is damaged is put aside, and said so: the devices go by what they know.
func openSessionStore(dir string, now time.Time, logf func(format string, args ...any)) (*sessionStore, error) {
	st := &sessionStore{file: filepath.Join(dir, "sessions"), start: now, wake: make(chan struct{}, 1), accts: map[acctID]*acctSessions{}}
	os.Remove(st.file + sessionsFresh) // the rest of a compact that did not end
	err := st.load(now)
	if codeOf(err) == "log-corrupt" {
		logf("%v: put aside as %s.damaged, with what was revoked there", err, st.file)
		st.accts, st.count = map[acctID]*acctSessions{}, 0
		if err = os.Rename(st.file, st.file+".damaged"); err == nil {
			err = st.load(now)
		}
	}
	if err == nil {
		err = st.reap(now)
	}
	if err != nil {
		return nil, fmt.Errorf("coordinator's sessions: %w", err)
	}
	return st, nil
}

func (st *sessionStore) load(now time.Time) error {
	log, entries, err := openEntryLog(st.file, maxSessionEntry)
	if err != nil {
		return err
	}
	for i, b := range entries {
		if err := st.replay(b); err != nil {
			return errors.Join(coded("log-corrupt", "%s: entry %d: %w", st.file, i, err), log.close())
		}
	}
	st.log, st.entries = log, len(entries)
	return nil
}

// replay does what an entry says. Kinds that are not known are of a later program.
func (st *sessionStore) replay(b []byte) error {
	if len(b) == 0 {
		return errCut
	}
	switch b[0] {
	case entrySession:
		s, err := parseFields(b[1:], new(coordSession))
		if err != nil {
			return err
		}
		st.addLocked(s)
	case entryOrder, entryDone:
		o, err := parseFields(b[1:], new(sessionOrder))
		if err != nil {
			return err
		}
		if b[0] == entryDone {
			st.dropOrderLocked(o.acct, o.msg.order)
		} else {
			st.acctLocked(o.acct).apply(o)
		}
	}
	return nil
}

func sessionEntryOf(kind byte, m fielded) []byte { return appendFields([]byte{kind}, m) }

// acctLocked returns the sessions of an account, made if there are none. st.mu
// must be held; so it must by all that ends in Locked.
func (st *sessionStore) acctLocked(id acctID) *acctSessions {
	a := st.accts[id]
	if a == nil {
		a = &acctSessions{sessions: map[sessionKey]*coordSession{}}
		st.accts[id] = a
	}
	return a
}

// addLocked enters a session, unless it is known.
func (st *sessionStore) addLocked(s *coordSession) bool {
	a := st.acctLocked(s.acct)
	if a.sessions[s.key()] != nil {
		return false
	}
	if len(a.sessions) >= maxAcctSessions {
		st.makeRoomLocked(a)
	} else if st.count >= maxSessions {
		st.makeRoomLocked(nil)
	}
	a.sessions[s.key()] = s
	st.count++
	return true
}

// makeRoomLocked forgets those that nobody has used for the longest, of an account
// or, nil, of all: a sixteenth, so that it need not be done for each that comes.
func (st *sessionStore) makeRoomLocked(of *acctSessions) {
	var all []*coordSession
	for _, a := range st.accts {
		if of != nil && a != of {
			continue
		}
		for _, s := range a.sessions {
			all = append(all, s)
		}
	}
	sortBy(all, func(a, b *coordSession) int { return cmp.Compare(max(a.made, a.used), max(b.made, b.used)) })
	for _, s := range all[:len(all)/16] {
		delete(st.accts[s.acct].sessions, s.key())
		st.count--
	}
}

// queueLocked has an entry written soon, if there is room.
func (st *sessionStore) queueLocked(entry []byte) {
	if len(st.queue) >= maxSessionQueue {
		return
	}
	st.queue = append(st.queue, entry)
	st.wakeUp()
}

func (st *sessionStore) wakeUp() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// made enters a session, for who does not wait for the disk.
func (st *sessionStore) made(s *coordSession) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.addLocked(s) {
		st.queueLocked(sessionEntryOf(entrySession, s))
	}
}

// reported takes what a device says of the sessions that run there, with their
// clients. Those that it has made itself are entered.
func (st *sessionStore) reported(acct acctID, target deviceID, runs map[sessionID]deviceID, now time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for id, client := range runs {
		a := st.acctLocked(acct)
		s := a.sessions[sessionKey{target, id}]
		if s == nil {
			if !a.reports.take(now.Sub(st.start), reportGap, reportBurst) {
				continue
			}
			s = &coordSession{acct: acct, client: client, target: target, id: id, made: now.Unix(), expires: now.Add(sessionTTL).Unix()}
			for _, o := range a.orders { // it is about to end there
				if o.covers(s) {
					s.revoked = o.made
				}
			}
			st.addLocked(s)
			st.queueLocked(sessionEntryOf(entrySession, s))
		}
		s.used = now.Unix()
	}
}

// due are the orders for a device that are not on their way to it.
func (st *sessionStore) due(acct acctID, target deviceID, now time.Time) (out []*sessionOrder) {
	st.mu.Lock()
	defer st.mu.Unlock()
	a, under := st.accts[acct], 0
	if a == nil {
		return nil
	}
	for _, o := range a.orders {
		if o.target != target {
			continue
		}
		if under++; under > maxOrdersOut {
			break
		}
		if o.sent.IsZero() || now.Sub(o.sent) >= orderAgain || now.Before(o.sent) {
			out = append(out, o)
		}
	}
	return out
}

// sent notes that an order has gone out.
func (st *sessionStore) sent(o *sessionOrder, now time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	o.sent = now
}

// done forgets an order: its device has acknowledged it. Should the entry be
// lost, the device is told once more.
func (st *sessionStore) done(acct acctID, order [8]byte) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.dropOrderLocked(acct, order)
	st.queueLocked(sessionEntryOf(entryDone, &sessionOrder{acct: acct, msg: endMsg{order: order}}))
}

func (st *sessionStore) dropOrderLocked(acct acctID, order [8]byte) {
	if a := st.accts[acct]; a != nil {
		a.orders = slices.DeleteFunc(a.orders, func(o *sessionOrder) bool { return o.msg.order == order })
	}
}

// list returns copies of an account's sessions that match.
func (st *sessionStore) list(acct acctID, match func(s *coordSession) bool) (out []*coordSession) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.listLocked(acct, match)
}

func (st *sessionStore) listLocked(acct acctID, match func(s *coordSession) bool) (out []*coordSession) {
	if a := st.accts[acct]; a != nil {
		for _, s := range a.sessions {
			if match(s) {
				one := *s
				out = append(out, &one)
			}
		}
	}
	return out
}

// revoke revokes sessions on disk, with all that is queued before, and says how
// many and at which devices.
func (st *sessionStore) revoke(acct acctID, which sessionMatch, now time.Time) (n int, targets []deviceID, err error) {
	st.disk.Lock()
	defer st.disk.Unlock()
	st.mu.Lock()
	orders := which.orders(acct, st.listLocked(acct, func(s *coordSession) bool { return s.revoked == 0 && which.is(s) }), false, now)
	// Orders of whole devices and clients make others needless, or are few.
	full := which.id != "" && len(orders) > 0 && len(st.acctLocked(acct).orders)+len(orders) > maxOrders
	st.mu.Unlock()
	switch {
	case len(orders) == 0:
		return 0, nil, nil
	case full:
		return 0, nil, withHint(coded("limit", "more than %d revocations wait for devices that are offline", maxOrders), "revoke all sessions of a device at once")
	}
	var entries [][]byte
	for _, o := range orders {
		entries = append(entries, sessionEntryOf(entryOrder, o))
	}
	if err := st.write(entries...); err != nil {
		return 0, nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, o := range orders {
		n += st.acctLocked(acct).apply(o)
		targets = append(targets, o.target)
	}
	return n, targets, nil
}

// write appends what is queued, then entries, and returns when all are on disk.
// st.disk must be held.
func (st *sessionStore) write(entries ...[]byte) error {
	if st.renamed {
		if err := syncDir(filepath.Dir(st.file)); err != nil {
			return err
		}
		st.renamed = false
	}
	st.mu.Lock()
	queue := st.queue
	st.queue = nil
	st.mu.Unlock()
	if len(queue)+len(entries) == 0 {
		return nil
	}
	if err := st.log.append(append(queue[:len(queue):len(queue)], entries...)...); err != nil {
		st.mu.Lock()
		defer st.mu.Unlock()
		queue = append(queue, st.queue...)
		st.queue = queue[:min(len(queue), maxSessionQueue)]
		return err
	}
	st.entries += len(queue) + len(entries)
	return nil
}

// flush writes what is queued, and the log anew when most of it is out of date.
func (st *sessionStore) flush() error {
	st.disk.Lock()
	defer st.disk.Unlock()
	if err := st.write(); err != nil {
		return err
	}
	st.mu.Lock()
	live := st.count
	for _, a := range st.accts {
		live += len(a.orders)
	}
	if st.entries <= 2*live+maxOrders {
		st.mu.Unlock()
		return nil
	}
	entries := make([][]byte, 0, live)
	for _, a := range st.accts { // an order first: what it has revoked says so itself
		for _, o := range a.orders {
			entries = append(entries, sessionEntryOf(entryOrder, o))
		}
		for _, s := range a.sessions {
			entries = append(entries, sessionEntryOf(entrySession, s))
		}
	}
	st.mu.Unlock()
	return st.compact(entries)
}

// compact puts a log of these entries in the place of the old one. st.disk must
// be held.
func (st *sessionStore) compact(entries [][]byte) error {
	fresh := st.file + sessionsFresh
	log, _, err := openEntryLog(fresh, maxSessionEntry)
	if err != nil {
		return err
	}
	if err = log.append(entries...); err == nil {
		err = os.Rename(fresh, st.file)
	}
	if err != nil {
		return errors.Join(err, log.close(), os.Remove(fresh))
	}
	old := st.log
	st.log, st.entries, st.renamed = log, len(entries), true
	return errors.Join(old.close(), st.write())
}

// reap forgets what is over, and orders that have waited for too long.
func (st *sessionStore) reap(now time.Time) error {
	st.mu.Lock()
	for id := range st.accts {
		st.forgetLocked(id, func(s *coordSession) bool { return s.over(now) },
			func(o *sessionOrder) bool { return now.Unix()-o.made >= orderLife })
	}
	st.mu.Unlock()
	return st.flush()
}

// keepOnly forgets the sessions and orders of an account that name a device which
// is not in it any more.
func (st *sessionStore) keepOnly(acct acctID, members map[deviceID]bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.forgetLocked(acct, func(s *coordSession) bool { return !members[s.client] || !members[s.target] },
		func(o *sessionOrder) bool { return !members[o.target] || o.msg.client != "" && !members[o.msg.client] })
}

func (st *sessionStore) forgetLocked(acct acctID, session func(*coordSession) bool, order func(*sessionOrder) bool) {
	a := st.accts[acct]
	if a == nil {
		return
	}
	for key, s := range a.sessions {
		if session(s) {
			delete(a.sessions, key)
			st.count--
		}
	}
	a.orders = slices.DeleteFunc(a.orders, order)
	if len(a.sessions)+len(a.orders) == 0 {
		delete(st.accts, acct)
	}
}

// run writes what is queued, and reaps hourly, until ctx ends.
func (st *sessionStore) run(ctx context.Context, now func() time.Time, logf func(format string, args ...any)) error {
	hourly := time.NewTicker(sessionReap)
	defer hourly.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-hourly.C:
			err = st.reap(now())
		case <-st.wake:
			pause(ctx, sessionFlush)
			err = st.flush()
		}
		if err != nil { // the queue stays
			logf("sessions: %v", err)
			pause(ctx, time.Minute)
			st.wakeUp()
		}
	}
}

// close writes what is queued.
func (st *sessionStore) close() error {
	err := st.flush()
	return errors.Join(err, st.log.close())
}
