//go:build !windows

package main

// These tests sit at the prompt of sftp, on a real pseudo-terminal.

import (
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A sftpHold is a device that stops in the middle of what it sends.
type sftpHold struct {
	sftpHand
	peer     *sshcPeer
	after    atomic.Int64 // bytes of data that go, or negative: all
	sessions atomic.Int64
	held     chan struct{} // has a value when it has stopped
	on       chan struct{} // a value has it go on, for all time
}

func newSFTPHold(t *testing.T) *sftpHold {
	h := &sftpHold{held: make(chan struct{}, 1), on: make(chan struct{})}
	h.ours = true
	h.after.Store(-1)
	h.request = func(q *sftpRequest) bool {
		if q.kind == sftpInit {
			h.sessions.Add(1)
		}
		return true
	}
	h.reply = func(q sftpRequest, r *sftpReply) {
		if left := h.after.Load(); left < 0 || r.kind != sftpData && q.kind != sftpOpendir {
			return
		} else if h.after.Store(max(left-int64(len(r.data)), 0)); left > 0 && r.kind == sftpData {
			return
		}
		h.after.Store(-1) // before it is known to hold: a next one may be asked for
		select {
		case h.held <- struct{}{}:
			<-h.on
		case <-h.on:
		}
	}
	h.peer = newSFTPPeer(t, &h.sftpHand)
	t.Cleanup(func() { close(h.on) })
	return h
}

// holding starts to hold, and returns what waits until it does.
func (h *sftpHold) holding(t *testing.T, after int64) (wait func()) {
	h.after.Store(after)
	return func() {
		t.Helper()
		select {
		case <-h.held:
		case <-time.After(sshcPatience):
			t.Fatal("nothing was asked for")
		}
	}
}

// awaitBytes waits until a file has something in it.
func awaitBytes(t *testing.T, name string) {
	t.Helper()
	waitWithin(t, sshcPatience, func() bool {
		info, err := os.Stat(name)
		return err == nil && info.Size() > 0
	})
}

// A line is edited and obeyed; ^C gives a fresh one, and only ^D or bye is the
// end, which is 0 whatever failed.
func TestSFTPPrompt(t *testing.T) {
	t.Parallel()
	c := newCPTest(t, newSFTPPeer(t, &sftpHand{ours: true}))
	term := sshcOpenTerminal(t)
	cmd := sshcHelper(c.peer, "sftp", "")
	cmd.Env = append(cmd.Env, "SHELL=/bin/sh")
	helper := term.start(cmd)
	const end, home, up, back = "\x05", "\x01", "\x1b[A", "\x7f"
	term.expect("sftp> ")
	term.keys("lcd " + c.here("") + "\r")
	term.expect("\r\nsftp> ")
	term.keys("wdx" + back + home + "p" + end + "\r")
	term.expect("Remote working directory: ")
	for _, typed := range []string{"rm precious" + home + "\x03", "\x03"} {
		term.expect("sftp> ")
		term.keys(typed)
		if shown := screenOf(97, "sftp> "+term.expect("\r\nsftp> ")); shown != "sftp>\nsftp>" {
			t.Errorf("after ^C: %q", shown)
		}
		term.keys("\r") // a prompt more, for the next
	}
	term.expect("sftp> ")
	term.keys(up + "\r")
	term.expect("Remote working directory: ")
	term.expect("sftp> ")
	term.keys("lpwd" + up + up + "\r") // what was typed first
	term.keys("lpwd\r")
	term.expect("Local working directory: " + strings.TrimSuffix(c.here("x"), "/x") + "\r\n")
	term.expect("sftp> ")
	term.keys("nonsense\r")
	term.expect(`there is no word "nonsense"`)
	term.expect("sftp> ")
	term.keys("!echo ready; exec cat\r")
	term.expect("\r\nready\r\n") // the modes are the terminal's own
	term.keys("a line\r")
	term.expect("a line\r\na line\r\n") // typed, and said by cat
	term.keys("\x03")                   // ends the command, not what is done next
	term.expect("the shell ended with signal: interrupt")
	term.expect("sftp> ")
	term.keys("ls -1 " + c.dir + "\r")
	term.expect("here\r\n")
	term.expect("sftp> ")
	term.keys("\x04")
	if status := helper.status(); status != 0 {
		t.Errorf("^D ends with %d", status)
	}
	term.restored()
}

// A tab completes what is on the device; one that says nothing is given up, and
// the next line has another session.
func TestSlowSFTPTab(t *testing.T) {
	slow(t)
	h := newSFTPHold(t)
	c := newCPTest(t, h.peer)
	for _, name := range []string{"alpha one", "alpha two", "beta"} {
		c.file(c.there(name), 1)
	}
	term := sshcOpenTerminal(t)
	helper := term.start(sshcHelper(c.peer, "sftp", ""))
	term.expect("sftp> ")
	term.keys("cd " + c.there("") + "\r")
	term.expect("sftp> ")
	term.keys("ls -1 al\t\t")
	term.expect("alpha one  alpha two\r\n")
	term.keys("o\t\r")
	term.expect("\r\nalpha one\r\n")
	term.expect("sftp> ")
	held := h.holding(t, 0)
	term.keys("ls -1 b\t")
	held()
	term.keys("eta\r")
	term.expect("\r\nbeta\r\n")
	if n := h.sessions.Load(); n != 2 {
		t.Errorf("%d sessions", n)
	}
	term.bye(helper)
}

// bye ends a session of sftp that all has gone well with.
func (s *sshcTerminal) bye(helper *sshcProcess) {
	s.t.Helper()
	s.keys("bye\r")
	if status := helper.status(); status != 0 {
		s.t.Errorf("bye ends with %d", status)
	}
	s.restored()
}

// ^C ends a transfer, which leaves its part, and the session goes on; one that
// hears nothing more of its device is given up, and the next line has another.
func TestSFTPBreak(t *testing.T) {
	t.Parallel()
	h := newSFTPHold(t)
	c := newCPTest(t, h.peer)
	b := c.file(c.there("big"), 8<<20)
	term := sshcOpenTerminal(t)
	helper := term.start(sshcHelper(c.peer, "sftp", ""))
	term.expect("sftp> ")
	term.keys("lcd " + c.here("") + "\rcd " + c.there("") + "\r")
	term.expect("sftp> ")
	term.expect("sftp> ")
	held := h.holding(t, 1<<20)
	term.keys("get big\r")
	term.expect("\r\n")
	held()
	awaitBytes(t, c.here(partName("big")))
	term.expect("big ") // the bar
	term.keys("\x03")
	shown := term.expect("\b\b  \b\b")
	h.on <- struct{}{}
	shown = screenOf(97, "big "+shown+term.expect("sftp> "))
	if !strings.HasPrefix(shown, "sessio: sftp: "+c.here("big")+": interrupted; ") || !strings.Contains(strings.ReplaceAll(shown, "\n", ""), "stay in") || strings.Contains(shown, "^C") {
		t.Errorf("the screen shows\n%s", shown)
	}
	if part, err := os.Stat(c.here(partName("big"))); err != nil || part.Size() == 0 || part.Size() >= 8<<20 {
		t.Errorf("the part: %v, %v", part, err)
	}

	held = h.holding(t, 0)
	term.keys("ls\r")
	term.expect("ls\r\n")
	held()
	term.keys("\x03")
	if shown := screenOf(97, term.expect("sftp> ")); shown != "sessio: sftp: interrupted\nsftp>" {
		t.Errorf("the screen shows\n%s", shown)
	}
	if n := h.sessions.Load(); n != 1 {
		t.Errorf("%d sessions", n)
	}
	h.on <- struct{}{} // for the old one; its answer goes nowhere

	term.keys("get big\r")
	term.expect("goes on behind")
	term.expect("sftp> ")
	c.same(c.here("big"), b)
	if n := h.sessions.Load(); n != 2 {
		t.Errorf("%d sessions", n)
	}
	term.bye(helper)
}

// What else ends it: SIGTERM and SIGHUP at any time, ^C before there is a
// prompt; and ^C where nobody sits.
func TestSFTPSignals(t *testing.T) {
	t.Parallel()
	h := newSFTPHold(t)
	c := newCPTest(t, h.peer)
	for _, tt := range []struct {
		sig    syscall.Signal
		during bool
	}{{syscall.SIGTERM, false}, {syscall.SIGHUP, true}} {
		term := sshcOpenTerminal(t)
		helper := term.start(sshcHelper(c.peer, "sftp", ""))
		term.expect("sftp> ")
		if tt.during {
			held := h.holding(t, 0)
			term.keys("ls\r")
			held()
		}
		if helper.signal(tt.sig); helper.status() != 128+int(tt.sig) {
			t.Errorf("%v ends with %d", tt.sig, helper.status())
		}
		term.restored()
	}
	h.on <- struct{}{}

	batch := c.here("batch")
	if err := os.WriteFile(batch, []byte("ls\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	nobody := &sshcPeer{addr: silent.Addr().String(), hostKey: c.peer.hostKey, keyFile: c.peer.keyFile, users: c.peer.users}
	for _, connecting := range []bool{true, false} {
		term := sshcOpenTerminal(t)
		var helper *sshcProcess
		if connecting {
			helper = term.start(sshcHelper(nobody, "sftp", ""))
			conn, err := silent.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		} else {
			held := h.holding(t, 0)
			helper = term.start(sshcHelper(c.peer, "sftp", batch))
			held()
		}
		if term.keys("\x03"); helper.status() != 130 {
			t.Errorf("connecting %v: ^C ends with %d", connecting, helper.status())
		}
		term.restored()
	}
}
