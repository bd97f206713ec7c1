package main

// This file is what a running forward start has in the state directory: a
// number, the smallest that is free, held by the lock DIR/forwards/ID.lock, and
// the socket ID.sock beside it, at which it answers. Asked with one word in a
// line, status or stop, it says in a line of JSON how it is; who asked for its
// end sees the connection end with it.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// maxForwardIDs is how many may run at once in one directory.
const maxForwardIDs = 256

// A forwardHome is what one of them has in the state directory.
type forwardHome struct {
	dir    string // the state directory
	behind bool   // it is a child in the background
	id     string
	lock   *fileLock
	log    *os.File   // nil in the foreground
	asked  []net.Conn // who waits for the end
	ours   bool       // ready has been told; an error after it is no start that failed
}

func (h *forwardHome) file(ext string) string { return filepath.Join(h.dir, "forwards", h.id+ext) }

// run does the verb's work with a home, and leaves nothing of it. In the
// background it tells the parent why it could not begin; why it ended later
// stays in the log.
func (h *forwardHome) run(p *program, work func() error) (err error) {
	defer h.release()
	if h.behind {
		if err = h.claim(); err == nil {
			err = h.openLog()
		}
		if err != nil {
			return behindMsg{lendAnswer: answerOf(err), Status: 1}.report(p.out)
		}
		p.err = h.log
	}
	err = work()
	if !h.behind {
		return err
	}
	if !h.ours {
		behindMsg{lendAnswer: answerOf(err), Status: exitStatus(err)}.report(p.out)
	}
	if e := (*exitError)(nil); !h.ours || err == nil || errors.As(err, &e) && e.err == nil {
		os.Remove(h.file(".log"))
	}
	return err
}

// claim takes the smallest id that is free.
func (h *forwardHome) claim() (err error) {
	for n := 1; n <= maxForwardIDs; n++ {
		h.id = strconv.Itoa(n)
		if h.lock, err = holdFile(h.file(".lock")); !errors.Is(err, errLocked) {
			return err
		}
	}
	return fmt.Errorf("%d forwards run here already", maxForwardIDs)
}

// listen makes the socket.
func (h *forwardHome) listen() (net.Listener, error) {
	if h.lock == nil {
		if err := h.claim(); err != nil {
			return nil, err
		}
	}
	return listenLend(filepath.Join(h.dir, "forwards"), h.id+".sock")
}

// ready says that all ports answer. Nobody wants a forward whose parent has gone.
func (h *forwardHome) ready(out *os.File, lines string) (err error) {
	if h.behind {
		lines += fmt.Sprintf("in the background (process %d); to end it: sessio forward stop %s\n", os.Getpid(), h.id)
		err = behindMsg{Lines: lines}.report(out)
	} else {
		_, err = out.WriteString(lines)
	}
	h.ours = err == nil
	return err
}

func (h *forwardHome) trim() {
	if h.log != nil {
		trimLog(h.log)
	}
}

// release is the end: who waits for it is told last.
func (h *forwardHome) release() {
	if h.lock != nil {
		os.Remove(h.file(".sock"))
		h.lock.release()
	}
	for _, c := range h.asked {
		c.Close()
	}
}

// A forwardStatus says how one of them is.
type forwardStatus struct {
	ID         string        `json:"id"`
	PID        int           `json:"pid,omitempty"`
	Device     string        `json:"device,omitempty"`
	Login      string        `json:"login,omitempty"` // as asked for
	Forwards   []forwardLine `json:"forwards,omitempty"`
	Since      time.Time     `json:"since,omitzero"`
	State      string        `json:"state"` // up, reconnecting, silent
	StateSince time.Time     `json:"state_since,omitzero"`
	Reason     string        `json:"reason,omitempty"` // why it is not up
	Conns      int64         `json:"connections"`
	In         int64         `json:"in"`  // bytes from the device
	Out        int64         `json:"out"` // bytes to the device
	Log        string        `json:"log,omitempty"`
}

// A forwardLine is one forward in it.
type forwardLine struct {
	Kind   string `json:"kind"` // local, remote, dynamic
	Listen string `json:"listen"`
	To     string `json:"to,omitempty"`
}

// say is the forward for people.
func (l forwardLine) say(device string) string {
	switch l.Kind {
	case "dynamic":
		return l.Listen + " to what is asked for by SOCKS on " + device
	case "remote":
		return l.Listen + " on " + device + " to " + l.To
	}
	return l.Listen + " to " + l.To + " on " + device
}

func (fw *forwarder) linesLocked() (list []forwardLine) {
	for _, l := range fw.here {
		line := forwardLine{Kind: "local", Listen: l.Addr().String(), To: l.spec.to.String()}
		if l.spec.dynamic {
			line.Kind, line.To = "dynamic", ""
		}
		list = append(list, line)
	}
	for _, f := range fw.back {
		list = append(list, forwardLine{"remote", f.at(f.port), f.spec.to.String()})
	}
	return list
}

func (fw *forwarder) status() forwardStatus {
	s := forwardStatus{ID: fw.home.id, PID: os.Getpid(), Device: fw.device, Login: fw.target.login, Since: fw.began.UTC(),
		State: "reconnecting", Conns: fw.conns.Load(), In: fw.in.Load(), Out: fw.out.Load()}
	if fw.home.log != nil {
		s.Log = fw.home.file(".log")
	}
	fw.mu.Lock()
	defer fw.mu.Unlock()
	s.Forwards = fw.linesLocked()
	if fw.up {
		s.State = "up"
	}
	s.StateSince, s.Reason = fw.since.UTC(), fw.why
	return s
}

// control answers, one after another, until ctx ends.
func (fw *forwarder) control(ctx context.Context, ln net.Listener, end context.CancelCauseFunc) {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for ctx.Err() == nil {
		c, err := ln.Accept()
		if err != nil {
			pause(ctx, acceptPause)
			continue
		}
		if fw.answer(c, ctx.Err() == nil) {
			fw.home.asked = append(fw.home.asked, c)
			end(errForwardStopped)
		} else {
			c.Close()
		}
	}
	ln.Close()
}

// answer reports whether the end was asked for.
func (fw *forwarder) answer(c net.Conn, open bool) (stop bool) {
	if !open || !ownPeer(c.(*net.UnixConn)) {
		return false
	}
	c.SetDeadline(time.Now().Add(lendWait))
	word, err := bufio.NewReaderSize(c, 64).ReadSlice('\n')
	if err != nil || writeLine(c, fw.status()) != nil {
		return false
	}
	return string(word) == "stop\n"
}
