package main

// This file tells of SSH connections at run time: who is in, from where, since
// when, and how much has passed.

import (
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// An sshStatus is one connection, as sessions list shows it.
type sshStatus struct {
	ID            string    `json:"id"`
	Session       string    `json:"session,omitempty"` // public id of the token it came by
	User          string    `json:"user,omitempty"`    // empty until logged in, as is
	Device        string    `json:"device,omitempty"`  // the client's name
	Address       string    `json:"address"`
	Authenticated bool      `json:"authenticated"`
	AuthAttempts  int       `json:"auth_attempts"` // logins tried, with keys that were only offered
	Started       time.Time `json:"started"`
	LastActivity  time.Time `json:"last_activity"` // in a channel, once logged in
	Channels      int       `json:"channels"`
	In            int64     `json:"bytes_in"`
	Out           int64     `json:"bytes_out"`
}

// A sessionsStats is what sessions stats says.
type sessionsStats struct {
	Total         int `json:"total"`
	Authenticated int `json:"authenticated"`
	Users         int `json:"users"`
	Idle          int `json:"idle"` // nothing has passed for sessionIdle
}

// sessionIdle is after how long a connection counts as idle.
const sessionIdle = 5 * time.Minute

func statsOf(list []sshStatus, now time.Time) (s sessionsStats) {
	var users []string
	for _, c := range list {
		s.Total++
		if c.Authenticated {
			s.Authenticated++
			users = append(users, c.User)
		}
		if now.Sub(c.LastActivity) >= sessionIdle {
			s.Idle++
		}
	}
	s.Users = len(slices.Compact(slices.Sorted(slices.Values(users))))
	return s
}

// An sshMeter counts what passes a connection, and when it did last.
type sshMeter struct {
	net.Conn
	in, out atomic.Int64
	last    atomic.Int64 // unix nanoseconds
}

func newSSHMeter(nc net.Conn, now time.Time) *sshMeter {
	m := &sshMeter{Conn: nc}
	m.last.Store(now.UnixNano())
	return m
}

func (m *sshMeter) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.count(&m.in, n)
	return n, err
}

func (m *sshMeter) Write(b []byte) (int, error) {
	n, err := m.Conn.Write(b)
	m.count(&m.out, n)
	return n, err
}

func (m *sshMeter) count(to *atomic.Int64, n int) {
	if n > 0 {
		to.Add(int64(n))
		m.last.Store(time.Now().UnixNano())
	}
}
