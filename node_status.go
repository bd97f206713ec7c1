package main

// This file tells how a node fares: what status, ping and their -json show.

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"
)

// A linkStatus is one link as status -v shows it.
type linkStatus struct {
	Link    string    `json:"link"`
	Device  string    `json:"device"`
	Name    string    `json:"name,omitempty"`
	Dialed  bool      `json:"dialed"`
	Path    string    `json:"path,omitempty"` // the peer's address; empty while held
	Kind    string    `json:"kind,omitempty"` // lan, v6, mapped, v4, punched
	RTT     float64   `json:"rtt_ms,omitempty"`
	Since   time.Time `json:"since"`   // of the link
	PathAt  time.Time `json:"path_at"` // since when this path, or none
	Moves   int       `json:"moves"`   // from one path to another, until now
	Streams int       `json:"streams"` // SSH connections on it
}

// pathKinds are the kinds of paths, see pathTry.kind, with what they are.
var pathKinds = []struct{ kind, words string }{
	{"lan", "by the device's address in a local network"},
	{"v6", "by IPv6"},
	{"v4", "at an address of the device's own, outside any NAT"},
	{"mapped", "through a port that the device's router keeps open"},
	{"punched", "through a hole in the device's NAT"},
}

// path is the path in two words.
func (l *linkStatus) path() string {
	if l.Path == "" {
		return "held, no path"
	}
	return l.Kind + " " + l.Path
}

// change says what has become of a link since before, which is nil at first.
func (l *linkStatus) change(before *linkStatus, now time.Time) string {
	switch {
	case before == nil:
		for _, k := range pathKinds {
			if k.kind == l.Kind {
				return fmt.Sprintf(", %s, for %s; link %s", k.words, sayDuration(now.Sub(l.PathAt)), l.Link)
			}
		}
		return ", link " + l.Link
	case l.Link != before.Link:
		return fmt.Sprintf(", a new link %s, the old one was %s", l.Link, before.path())
	case l.path() != before.path():
		return ", moved from " + before.path()
	case l.Moves != before.Moves:
		return ", moved away and back"
	}
	return ""
}

// A nodeStatus is the process itself.
type nodeStatus struct {
	Observed    string  `json:"observed,omitempty"`
	Coordinator bool    `json:"coordinator"` // it has answered within a minute
	ClockOff    float64 `json:"clock_off_s"`
	WriteErrors uint64  `json:"write_errors"`
	Goroutines  int     `json:"goroutines"`
}

func (n *node) status() nodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := nodeStatus{Coordinator: n.talk.known(time.Now()), ClockOff: n.talk.offset.Seconds(), WriteErrors: n.mux.writeErrors.Load(), Goroutines: runtime.NumGoroutine()}
	if n.talk.observed.IsValid() {
		s.Observed = n.talk.observed.String()
	}
	return s
}

func (n *node) linkStatuses() []linkStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []linkStatus
	for l := range n.links {
		out = append(out, n.linkStatusLocked(l))
	}
	sortBy(out, func(a, b linkStatus) int { return strings.Compare(a.Name+a.Link, b.Name+b.Link) })
	return out
}

func (n *node) linkStatusLocked(l *link) linkStatus {
	f := l.proc.finder
	s := linkStatus{Link: l.id, Device: string(l.device), Dialed: l.dialed, Since: l.opened, PathAt: f.lostAt, Moves: f.moves}
	if dev, ok := n.deviceOf(l.device); ok {
		s.Name = dev.name
	}
	l.mu.Lock()
	s.Streams = l.streams
	l.mu.Unlock()
	if f.best != nil {
		s.Path, s.Kind = f.best.src.addr.String(), f.best.kind()
		s.RTT, s.PathAt = float64(f.best.rtt.Microseconds())/1000, f.since
	}
	return s
}

// A pingResult is one round trip over a link.
type pingResult struct {
	RTT  float64    `json:"rtt_ms"`
	Link linkStatus `json:"link"`
}

// pingDevice measures one round trip to the device's process, over a link that
// is made if there is none.
func (n *node) pingDevice(ctx context.Context, id deviceID) (*pingResult, error) {
	l, err := n.linkByID(ctx, id)
	if err != nil {
		return nil, err
	}
	begun, over := n.beginOn(ctx, l)
	began := time.Now()
	if err := over(l.echo(begun)); err != nil {
		return nil, err
	}
	rtt := time.Since(began)
	n.mu.Lock()
	defer n.mu.Unlock()
	return &pingResult{float64(rtt.Microseconds()) / 1000, n.linkStatusLocked(l)}, nil
}
