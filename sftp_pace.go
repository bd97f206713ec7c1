//go:build linux || darwin

package main

// This file holds answers back from a client that is near and slower than we
// are. OpenSSH's asks for 16 MiB ahead and takes in what its channel window of 2
// MiB lets it; all that its sftp has not fetched it moves about in its memory.
// With half as much on the way it takes a third of the time. How much it has
// fetched it tells by asking for more.

import (
	"sync"
	"time"
)

const (
	// sftpAhead is how many bytes of answers may be on the way.
	sftpAhead = 1 << 20
	// sftpRamp is how many READs OpenSSH's sftp has under way at most: one at
	// first, and one more with each answer. So of the first 128 every second one
	// tells of an answer that it has fetched, and then each does.
	sftpRamp = 64
	// maxSFTPWaiting bounds the READs that wait.
	maxSFTPWaiting = 2 * sftpRamp
	// sftpPaceWait is how long we wait for the next READ, and maxSFTPWaits how
	// often that may be in vain: such a client asks in some other way.
	sftpPaceWait = 50 * time.Millisecond
	maxSFTPWaits = 3
	// sftpNear is the longest round trip of a client that is near: 1 MiB a round
	// trip is then more than any network carries.
	sftpNear = time.Millisecond
)

// A sftpPace has the READs that wait, in order. The session's goroutine holds
// the lock, but for the time in which it waits for a request.
type sftpPace struct {
	mu      sync.Mutex
	timer   *time.Timer // of the wait for the next READ
	waiting []sftpRequest
	ahead   int    // bytes on the way, as far as that can be known
	handle  string // of the last READ
	asked   int    // READs of it
	waits   int    // in vain
	err     error  // of an answer that the timer sent
	ended   bool
}

func (p *sftpPace) lock() {
	if p != nil {
		p.mu.Lock()
	}
}

func (p *sftpPace) unlock() {
	if p != nil {
		p.mu.Unlock()
	}
}

// end is for who holds the lock.
func (p *sftpPace) end() {
	if p != nil {
		p.ended = true
		if p.timer != nil {
			p.timer.Stop()
		}
		p.mu.Unlock()
	}
}

// later queues a READ, which tells that as much has been fetched.
func (s *sftpServer) later(r *sftpRequest) error {
	p := s.pace
	if p.handle != r.path {
		p.handle, p.asked = r.path, 0
	}
	fetched := int(min(r.length, maxSFTPData))
	if p.asked++; p.asked <= 2*sftpRamp {
		fetched /= 2
	}
	p.ahead = max(0, p.ahead-fetched)
	p.waiting = append(p.waiting, *r)
	return s.answerWaiting(false)
}

// answerWaiting answers READs while little is on the way, or all of them.
func (s *sftpServer) answerWaiting(all bool) error {
	p := s.pace
	for len(p.waiting) > 0 && p.err == nil {
		r := p.waiting[0]
		if !all && p.waits < maxSFTPWaits && len(p.waiting) < maxSFTPWaiting &&
			p.ahead+int(min(r.length, maxSFTPData)) > sftpAhead && !s.asksForEnd(&p.waiting[len(p.waiting)-1]) {
			break
		}
		p.waiting = p.waiting[1:]
		before := len(s.out)
		if err := s.read(&r); err != errSFTPAnswered {
			s.fail(r.id, err)
		}
		p.ahead += len(s.out) - before
		if len(s.out) >= sftpFlushAt {
			p.err = s.flush()
		}
	}
	switch {
	case len(p.waiting) == 0:
		p.waiting = nil
		if p.timer != nil {
			p.timer.Stop()
		}
	case p.timer == nil:
		p.timer = time.AfterFunc(sftpPaceWait, s.paceInVain)
	default:
		p.timer.Reset(sftpPaceWait)
	}
	return p.err
}

// asksForEnd reports whether a READ reaches the end of its file: no more of
// them will come.
func (s *sftpServer) asksForEnd(r *sftpRequest) bool {
	f, err := s.file(r.path)
	if err != nil {
		return true
	}
	st, err := f.stat()
	return err != nil || r.offset+uint64(r.length) >= uint64(st.size)
}

// paceInVain: no READ has come, so what was on the way has been fetched, or it
// is not told.
func (s *sftpServer) paceInVain() {
	p := s.pace
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 || p.ended {
		return
	}
	p.ahead = 0
	p.waits++
	if s.answerWaiting(false) == nil {
		p.err = s.flush()
	}
}
