//go:build linux

package main

// Whether anything is left when connections end: processes, descriptors,
// goroutines.

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestParseProcStat(t *testing.T) {
	for _, c := range []struct {
		stat    string
		session int
		alive   bool
	}{
		{"12 (sh) S 1 12 11 34816 12 4194304", 11, true},
		{"12 (a) Z 9) R 1 12 11 0", 11, true}, // a name may look like anything
		{"12 (sh) Z 1 12 11 0", 11, false},
		{"12 (sh) S 1", 0, false},
		{"", 0, false},
	} {
		if session, alive := parseProcStat([]byte(c.stat)); session != c.session || alive != c.alive {
			t.Errorf("%q: %d %v", c.stat, session, alive)
		}
	}
}

func FuzzParseProcStat(f *testing.F) {
	f.Add("sh", 11, "S")
	f.Add(") S 1 2 3 (", -1, "Z")
	f.Fuzz(func(t *testing.T, name string, session int, state string) {
		parseProcStat([]byte(name)) // anything at all
		if len(state) != 1 || state[0] <= ' ' || state == ")" {
			return
		}
		got, alive := parseProcStat(fmt.Appendf(nil, "7 (%s) %s 1 7 %d 0", name, state, session))
		if got != session || alive != (state != "Z" && state != "X") {
			t.Errorf("%q %d %q: %d %v", name, session, state, got, alive)
		}
	})
}

// sshdLosses are clients that vanish in the middle of their work.
var sshdLosses = []struct {
	name    string
	args    []string
	input   string
	members int // processes of the session before the loss
}{
	{"exec", []string{"h", "sleep 1000 & sleep 1001 & echo up; wait"}, "", 3},
	{"background jobs of a shell", []string{"-tt", "h"}, "set -m\nsleep 1000 &\nsleep 1001 &\necho u''p\n", 3},
	{"stopped job", []string{"-tt", "h", "set -m; sleep 1000 & kill -STOP $!; echo up; cat"}, "", 3},
}

func TestSSHDHangup(t *testing.T) {
	for _, c := range sshdLosses {
		t.Run(c.name, func(t *testing.T) { sshdLose(t, c.args, c.input, c.members) })
	}
}

// TestSSHDHangupKill: what ignores SIGHUP is killed in the end.
func TestSSHDHangupKill(t *testing.T) {
	t.Parallel() // it waits for hangupGrace
	sshdLose(t, []string{"-tt", "h"}, "(trap '' HUP; sleep 1000) &\ntrap '' HUP\nnohup sleep 1001 &\necho u''p\n", 3)
}

// TestSSHDHangupKillAll: so is what is deaf where the shell itself is not, and
// dies of the closing terminal before we look.
func TestSSHDHangupKillAll(t *testing.T) {
	t.Parallel()
	sshdLose(t, []string{"-tt", "h"}, "nohup sleep 1000 >/dev/null 2>&1 &\necho u''p\n", 2)
}

func sshdLose(t *testing.T, args []string, input string, members int) {
	d := startSSHD(t, nil)
	cmd := d.ssh(args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := new(sshdBuffer)
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, input)
	sshdUntil(t, "the session's start", func() bool { return strings.Contains(out.String(), "up") })
	sid := d.pids()[0]
	sshdUntil(t, "the session's processes", func() bool { return len(sessionMembers(sid)) >= members })
	cmd.Process.Kill()
	cmd.Wait()
	sshdUntil(t, "the end of all processes", func() bool { return len(sessionMembers(sid)) == 0 })
	sshdUntil(t, "reaping", func() bool { return !sshdIsZombie(sid) })
}

func sshdIsZombie(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Contains(string(stat), ") Z ")
}

// TestSSHDHangupSpares: a process of another session is none of ours, nor is
// what nohup keeps of a command that has ended by itself.
func TestSSHDHangupSpares(t *testing.T) {
	d := startSSHD(t, nil)
	for _, command := range []string{
		"setsid sleep 1000 >/dev/null 2>&1 & echo $!; wait",
		"trap '' HUP; sleep 1000 & echo $!", // holds the pipes
	} {
		cl := d.mustDial()
		s := d.newSession(cl)
		stdout, err := s.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(command); err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Fscanln(stdout, &pid); err != nil {
			t.Fatal(err)
		}
		sshdUntil(t, "sleep", func() bool {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return string(name) == "sleep\n"
		})
		if strings.HasPrefix(command, "trap") {
			sshdUntil(t, "the command's end", func() bool { return strings.Contains(d.logged(), "ended: status 0") })
		}
		cl.Close()
		sshdUntil(t, "the end of the connection", func() bool { return strings.HasSuffix(d.logged(), "logged out") })
		if sshdIsZombie(pid) {
			t.Errorf("%s: the process is gone", command)
		}
		p, _ := os.FindProcess(pid)
		if err := p.Kill(); err != nil {
			t.Errorf("%s: %v", command, err)
		}
		d.mu.Lock()
		d.logs = nil
		d.mu.Unlock()
	}
}

// sshdHeld counts what a leak would add to.
type sshdHeld struct{ goroutines, fds, children int }

// settled waits until no more is held than before.
func (d *sshdTest) settled(before sshdHeld) {
	d.Helper()
	d.idle()
	sshdUntil(d.T, "nothing left behind", func() bool {
		after := sshdCount(d.T)
		return after.goroutines <= before.goroutines && after.fds <= before.fds && after.children <= before.children
	})
}

func sshdCount(t *testing.T) (h sshdHeld) {
	h.goroutines = runtime.NumGoroutine()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	h.fds = len(fds)
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range lists {
		pids, _ := os.ReadFile(file)
		h.children += len(strings.Fields(string(pids)))
	}
	return h
}

// TestSSHDLeavesNothing: after many sessions, ended in every way, the server
// holds what it held before.
func TestSSHDLeavesNothing(t *testing.T) {
	d := startSSHD(t, nil)
	start := runtime.NumGoroutine()
	d.leak(0) // what is made once
	d.idle()
	before := sshdCount(t)
	before.goroutines = start
	for i := range 102 { // each kind as often
		d.leak(i)
	}
	d.settled(before)
}

// idle waits until no connection is served.
func (d *sshdTest) idle() {
	sshdUntil(d.T, "the end of all connections", func() bool {
		d.srv.mu.Lock()
		defer d.srv.mu.Unlock()
		return len(d.srv.conns) == 0
	})
}

func (d *sshdTest) leak(i int) {
	cl := d.mustDial()
	defer cl.Close()
	s := d.newSession(cl)
	switch i % 6 {
	case 0:
		s.Run("true")
	case 1:
		s.RequestPty("x", 24, 80, nil)
		s.Run("true")
	case 2:
		s.RequestPty("x", 24, 80, nil)
		s.Shell() // and leave
	case 3:
		s.Start("sleep 1000") // and leave
	case 4: // the connection is cut
		s.Start("cat")
		cl.Conn.Close()
	case 5:
		s.Start("kill -9 $$")
		s.Wait()
		if nc, err := cl.Dial("tcp", d.addr); err == nil {
			nc.Close()
		}
	}
}

// TestSSHDUnauthenticated: a connection that never logs in ends, and one with
// a wrong key too.
func TestSSHDUnauthenticated(t *testing.T) {
	d := startSSHD(t, nil)
	before := sshdCount(t)
	for range 20 {
		if _, err := d.dial(ssh.PublicKeys(sshdSigner(t, sshdKey(t)))); err == nil {
			t.Fatal("any key logs in")
		}
	}
	sshdUntil(t, "nothing left behind", func() bool {
		after := sshdCount(t)
		return after.goroutines <= before.goroutines && after.fds <= before.fds
	})
}

// TestSSHDStdinOfDead: the client goes on sending to a command that has ended.
func TestSSHDStdinOfDead(t *testing.T) {
	d := startSSHD(t, nil)
	cmd := exec.Command("sh", "-c", `yes | "$@"`, "sh")
	cmd.Args = append(cmd.Args, d.ssh("h", "head -c "+strconv.Itoa(3<<20)+" | wc -c").Args...)
	cmd.Env = d.ssh("h").Env
	d.want(cmd, strconv.Itoa(3<<20)+"\n", 0)
}
