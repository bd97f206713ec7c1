//go:build !windows

package main

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// An sshcScript is a server that notes the requests of each session channel
// and answers them by its rule.
type sshcScript struct {
	answer func(r *ssh.Request, ch ssh.Channel) (accept bool)

	mu    sync.Mutex
	asked []string // guarded by mu; type of each request, "!" behind it when an answer is wanted
}

func (s *sshcScript) handle(nc ssh.NewChannel, _ ssh.Conn) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	for r := range requests {
		mark := r.Type
		if r.WantReply {
			mark += "!"
		}
		s.mu.Lock()
		s.asked = append(s.asked, mark)
		s.mu.Unlock()
		r.Reply(s.answer(r, ch), nil)
	}
}

func (s *sshcScript) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func sshcExit(ch ssh.Channel, status uint32) {
	ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
	ch.Close()
}

// Only the last request waits for an answer.
func TestSessionRequests(t *testing.T) {
	t.Setenv("LANG", "C")
	s := &sshcScript{answer: func(r *ssh.Request, ch ssh.Channel) bool {
		if r.Type == "shell" {
			go sshcExit(ch, 0)
		}
		return true
	}}
	p := sshcServer(t, sshcOpenDoor(), s.handle)
	term := sshcOpenTerminal(t)
	if err := cmdShell(t.Context(), p, stdio{term.tty, term.tty, term.tty}, target{device: "attic"}); err != nil {
		t.Fatal(err)
	}
	asked := slices.DeleteFunc(s.requests(), func(r string) bool { return r == "env" })
	if want := []string{"pty-req", "shell!"}; !slices.Equal(asked, want) || !slices.Contains(s.requests(), "env") {
		t.Errorf("asked %q", s.requests())
	}
	term.restored()
}

// A command that is not started eats no input and gives the terminal back.
func TestSessionRefused(t *testing.T) {
	s := &sshcScript{answer: func(*ssh.Request, ssh.Channel) bool { return false }}
	p := sshcServer(t, sshcOpenDoor(), s.handle)
	term := sshcOpenTerminal(t)
	err := cmdShell(t.Context(), p, stdio{term.tty, term.tty, term.tty}, target{device: "attic"})
	if exitStatus(err) != 255 || !strings.Contains(err.Error(), "attic refused the shell request") {
		t.Errorf("%v, status %d", err, exitStatus(err))
	}
	term.restored()
	unread := strings.NewReader("precious")
	_, _, err = sshcFiles(t, unread, func(files stdio) error {
		err := cmdRun(t.Context(), p, files, runArgs{devices: []string{"attic"}, line: "x"})
		if left, _ := io.ReadAll(files.in); string(left) != "precious" {
			t.Errorf("%q of the input is left", left)
		}
		return err
	})
	if exitStatus(err) != 255 || !strings.Contains(err.Error(), "refused the exec request") {
		t.Errorf("%v, status %d", err, exitStatus(err))
	}
}

func TestSessionEnds(t *testing.T) {
	exitSignal := func(ch ssh.Channel) {
		ch.SendRequest("exit-signal", false, ssh.Marshal(exitSignalMsg{Name: "SE\x1b[GV", Core: true}))
		ch.Close()
	}
	for name, c := range map[string]struct {
		end    func(ssh.Channel)
		status int
		says   string
	}{
		"status":       {func(ch ssh.Channel) { sshcExit(ch, 42) }, 42, "exit status 42"},
		"large status": {func(ch ssh.Channel) { sshcExit(ch, 256+42) }, 42, "exit status 42"},
		"signal":       {exitSignal, 255, `ended on attic by signal "SE\x1b[GV"`},
		"no status":    {func(ch ssh.Channel) { ch.Close() }, 255, "told no exit status"},
		"EOF, then status": {func(ch ssh.Channel) {
			ch.CloseWrite()
			sshcExit(ch, 5)
		}, 5, "exit status 5"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &sshcScript{answer: func(r *ssh.Request, ch ssh.Channel) bool {
				if r.Type == "exec" {
					r.Reply(true, nil)
					r.WantReply = false
					c.end(ch)
				}
				return true
			}}
			p := sshcServer(t, sshcOpenDoor(), s.handle)
			_, _, err := sshcFiles(t, nil, func(files stdio) error {
				return cmdRun(t.Context(), p, files, runArgs{devices: []string{"attic"}, line: "x"})
			})
			if exitStatus(err) != c.status || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, status %d", err, exitStatus(err))
			}
		})
	}
}

// The server closes the connection instead of the channel.
func TestSessionDisconnected(t *testing.T) {
	p := sshcServer(t, sshcOpenDoor(), func(nc ssh.NewChannel, conn ssh.Conn) {
		_, requests, err := nc.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			if r.Type == "exec" {
				conn.Close()
			}
		}
	})
	_, _, err := sshcFiles(t, nil, func(files stdio) error {
		return cmdRun(t.Context(), p, files, runArgs{devices: []string{"attic"}, line: "x"})
	})
	if exitStatus(err) != 255 || !strings.Contains(err.Error(), "the link to attic was lost") {
		t.Errorf("%v, status %d", err, exitStatus(err))
	}
}

// ^C goes to the command as a signal, its last words are shown, and the verb
// ends as interrupted. A second of patience, and it ends anyway.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	for name, obeys := range map[string]bool{"obeyed": true, "ignored": false} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 1)
			s := &sshcScript{answer: func(r *ssh.Request, ch ssh.Channel) bool {
				switch r.Type {
				case "exec":
					io.WriteString(ch, "started\n")
				case "signal":
					var m signalMsg
					ssh.Unmarshal(r.Payload, &m)
					got <- m.Name
					if obeys {
						io.WriteString(ch, "last words\n")
						sshcExit(ch, 3)
					}
				}
				return true
			}}
			p := sshcServer(t, sshcOpenDoor(), s.handle)
			term := sshcOpenTerminal(t)
			run := term.start(sshcHelper(p, "run", "x"))
			term.expect("started")
			term.keys("\x03") // the terminal makes it a SIGINT: it is not raw
			select {
			case name := <-got:
				if name != "INT" {
					t.Errorf("signal %q", name)
				}
			case <-time.After(sshcPatience):
				t.Fatal("no signal came")
			}
			if obeys {
				term.expect("last words")
			}
			if got := run.status(); got != 130 {
				t.Errorf("status %d", got)
			}
		})
	}
}

// ^C ends a verb whose link takes nothing more.
func TestRunInterruptedOnStalledLink(t *testing.T) {
	started := make(chan struct{})
	s := &sshcScript{answer: func(r *ssh.Request, _ ssh.Channel) bool {
		if r.Type == "exec" {
			close(started)
		}
		return true
	}}
	stalled := newSSHCStall(sshcServer(t, sshcOpenDoor(), s.handle))
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-started; stalled.stall(); cancel(signalError{syscall.SIGINT}) }()
	_, _, err := sshcFiles(t, sshcEndless{}, func(files stdio) error {
		return cmdRun(ctx, stalled, files, runArgs{devices: []string{"attic"}, line: "x"})
	})
	if e, ok := err.(*exitError); !ok || e.status != 130 || e.err != nil {
		t.Errorf("%v", err)
	}
}

// An sshcEndless never stops to give input.
type sshcEndless struct{}

func (sshcEndless) Read(b []byte) (int, error) { return len(b), nil }

// Before there is a session ^C ends the verb as well.
func TestRunInterruptedEarly(t *testing.T) {
	reached := make(chan struct{})
	p := sshcListen(t, func(conn net.Conn) { close(reached); io.Copy(io.Discard, conn) })
	q := sshcServer(t, sshcOpenDoor(), nil)
	p.hostKey, p.keyFile, p.users = q.hostKey, q.keyFile, q.users
	cmd := sshcHelper(p, "run", "x")
	var errs sshcBuffer
	cmd.Stderr = &errs
	run := sshcStart(t, cmd)
	<-reached
	run.signal(syscall.SIGINT)
	if got := run.status(); got != 130 || errs.String() != "" {
		t.Errorf("status %d, said %q", got, errs.String())
	}
}

// A process that was started to ignore a signal goes on ignoring it: nohup.
func TestRunUnderNohup(t *testing.T) {
	s := &sshcScript{answer: func(r *ssh.Request, ch ssh.Channel) bool {
		if r.Type == "exec" {
			go func() {
				io.WriteString(ch, "started\n")
				io.ReadAll(ch)
				sshcExit(ch, 7)
			}()
		}
		return true
	}}
	helper := sshcHelper(sshcServer(t, sshcOpenDoor(), s.handle), "run", "x")
	helper.Args = []string{"sh", "-c", `trap "" HUP; exec "$0" "$1"`, helper.Path, helper.Args[1]}
	helper.Path = "/bin/sh"
	in, err := helper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run := sshcStart(t, helper)
	if _, err := io.ReadFull(out, make([]byte, len("started\n"))); err != nil {
		t.Fatal(err)
	}
	run.signal(syscall.SIGHUP)
	in.Close()
	if got := run.status(); got != 7 {
		t.Errorf("status %d", got)
	}
}

func TestPrefixWriter(t *testing.T) {
	var out strings.Builder
	var lines sync.Mutex
	p := &prefixWriter{lines: &lines, w: &out, prefix: "a: "}
	for _, piece := range []string{"one\ntw", "o\n", "\n", "", strings.Repeat("x", maxPrefixedLine+1), "\nend"} {
		if n, err := io.WriteString(p, piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	p.flush()
	p.flush()
	want := "a: one\na: two\na: \na: " + strings.Repeat("x", maxPrefixedLine) + "\na: x\na: end\n"
	if out.String() != want {
		t.Errorf("got %q", out.String())
	}
}

// TestRunShowsBanner: what a device shows before the login stands on standard
// error, nothing in it that a terminal would obey.
func TestRunShowsBanner(t *testing.T) {
	conf := sshcOpenDoor()
	conf.BannerCallback = func(ssh.ConnMetadata) string { return "Mind the \x1b[31mgap\r\nplease" }
	script := &sshcScript{answer: func(r *ssh.Request, ch ssh.Channel) bool {
		sshcExit(ch, 0)
		return true
	}}
	p := sshcServer(t, conf, script.handle)
	out, errOut, err := sshcFiles(t, strings.NewReader(""), func(files stdio) error {
		return cmdRun(t.Context(), p, files, runArgs{devices: []string{"attic"}, line: "x"})
	})
	if string(out) != "" || string(errOut) != "Mind the \\x1b[31mgap\nplease\n" || err != nil {
		t.Errorf("stdout %q, stderr %q, %v", out, errOut, err)
	}
}

// A process may run many sessions: none leaves a goroutine or a descriptor.
func TestSessionsLeaveNothing(t *testing.T) {
	s := &sshcScript{answer: func(r *ssh.Request, ch ssh.Channel) bool {
		if r.Type == "exec" {
			go sshcExit(ch, 0)
		}
		return true
	}}
	p := sshcServer(t, sshcOpenDoor(), s.handle)
	in, keyboard, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer keyboard.Close() // nobody types: every Read is cancelled
	run := func() {
		err := cmdRun(t.Context(), p, stdio{in, os.Stdout, os.Stderr}, runArgs{devices: []string{"attic"}, line: "x"})
		if err != nil {
			t.Fatal(err)
		}
	}
	run()
	goroutines, files := runtime.NumGoroutine(), sshcOpenFiles(t)
	for range 100 {
		run()
	}
	sshcUntil(t, func() bool { return runtime.NumGoroutine() <= goroutines && sshcOpenFiles(t) <= files })
}

// sshcOpenFiles counts this process's descriptors.
func sshcOpenFiles(t testing.TB) int {
	list, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(list)
}
