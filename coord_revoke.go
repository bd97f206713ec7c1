package main

// This file joins the coordinator's sessions: what the presence table hears of
// them goes to the store, what the owner revokes goes to the store and from there
// to the devices.

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"
)

// sessionMade and sessionsRun are those of a sessionKeeper.
func (s *coordServer) sessionMade(acct acctID, client, target deviceID, token sessionToken, ttl uint32) {
	now := s.now()
	c := &coordSession{acct: acct, client: client, target: target, id: token.id(), hash: sha256.Sum256(token[:]), made: now.Unix()}
	if ttl > 0 {
		c.expires = c.made + int64(ttl)
	}
	s.sessions.made(c)
}

func (s *coordServer) sessionsRun(acct acctID, target deviceID, runs map[sessionID]deviceID) {
	s.sessions.reported(acct, target, runs, s.now())
	s.sendOrders(acct, target)
}

// sendOrders tells a device which sessions are to end, as far as it has not been
// told, and goes on when it has acknowledged one.
func (s *coordServer) sendOrders(acct acctID, target deviceID) {
	now := s.now()
	for _, o := range s.sessions.due(acct, target, now) {
		if s.presence.end(now, acct, target, &o.msg, func() {
			s.sessions.done(acct, o.msg.order)
			s.sendOrders(acct, target)
		}) {
			s.sessions.sent(o, now)
		}
	}
}

// A sessionView is a session as an owner sees it.
type sessionView struct {
	id             string // public id
	client, device deviceID
	made           time.Time
	expires        time.Time // zero: it does not
	live           int       // connections now, as the device says
	revoked        bool      // the device may not have heard of it yet
}

// sessionsOf lists an account's sessions that are good, or were revoked: those
// that run first, then the newest.
func (s *coordServer) sessionsOf(id acctID) []sessionView {
	live, now := s.presence.running(id), s.now().Unix()
	var out []sessionView
	for _, c := range s.sessions.list(id, func(c *coordSession) bool { return live[c.key()] > 0 || c.expires == 0 || now < c.expires }) {
		v := sessionView{c.id.String(), c.client, c.target, time.Unix(c.made, 0), time.Time{}, live[c.key()], c.revoked != 0}
		if c.expires != 0 {
			v.expires = time.Unix(c.expires, 0)
		}
		out = append(out, v)
	}
	sortBy(out, func(a, b sessionView) int {
		return cmp.Or(int(boolByte(b.live > 0))-int(boolByte(a.live > 0)), b.made.Compare(a.made), strings.Compare(a.id, b.id))
	})
	return out
}

// revokeSessions ends sessions for good, and says how many: those that were good
// until now. That is on disk when it returns. Their devices are told at once, or
// when they are online again.
func (s *coordServer) revokeSessions(id acctID, which sessionMatch) (n int, err error) {
	n, targets, err := s.sessions.revoke(id, which, s.now())
	for _, target := range targets {
		s.sendOrders(id, target)
	}
	if err != nil {
		return 0, fmt.Errorf("revoking sessions: %w", err)
	}
	return n, nil
}

// endSessions ends the connections that are open now, and says of how many
// sessions: these stay good.
func (s *coordServer) endSessions(id acctID, which sessionMatch) (n int, err error) {
	live, now := s.presence.running(id), s.now()
	list := s.sessions.list(id, func(c *coordSession) bool { return live[c.key()] > 0 && which.is(c) })
	for _, o := range which.orders(id, list, true, now) {
		if s.presence.end(now, id, o.target, &o.msg, nil) {
			n += len(slices.DeleteFunc(slices.Clone(list), func(c *coordSession) bool { return !o.covers(c) }))
		}
	}
	return n, nil
}
