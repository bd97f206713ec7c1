//go:build linux

package main

// What kill -9 of a client leaves on a device, and for how long.

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A judgedShell is a shell on attic with all kinds of children.
type judgedShell struct {
	*judge
	name string
	mark string
	pid  int // of the shell
}

// jobs are what a person leaves in a shell: each but the first in a process
// group of its own.
var jobs = []string{
	"(sleep MARK; sleep 1)",             // in the foreground of nothing, a subshell and its child
	"sleep MARK",                        // in the background
	"nohup sleep MARK 2>/dev/null",      // deaf to SIGHUP
	"sh -c 'kill -STOP $$; sleep MARK'", // stopped
}

// shellWithJobs opens it on a terminal of the laptop's.
func (j *judge) shellWithJobs(name string) *judgedShell {
	j.t.Helper()
	s := &judgedShell{judge: j, name: name, mark: newMark()}
	j.run("on laptop\nterm " + name + " shell attic\nwait " + name + " '[$#] '")
	for _, job := range jobs {
		s.typeLine(strings.ReplaceAll(job, "MARK", s.mark) + " &")
	}
	s.typeLine("set +m; sleep " + s.mark + " & set -m") // in the shell's own group
	s.typeLine("echo pid:$$:")
	j.run("wait " + name + " 'pid:[0-9]+:'\ncapture PID " + name + " 'pid:([0-9]+):'")
	s.pid, _ = strconv.Atoi(j.vars["PID"])
	j.within(scriptWait, "the shell's jobs", func() bool { return len(marked(s.mark)) >= len(jobs)+1 })
	return s
}

func (s *judgedShell) typeLine(text string) {
	s.t.Helper()
	if _, err := s.proc(s.name).tty.WriteString(text + "\r"); err != nil {
		s.fatalf("%v", err)
	}
}

// wantGone waits until nothing is left of the shell.
func (s *judgedShell) wantGone(since time.Time, limit time.Duration, how string) {
	s.t.Helper()
	s.within(limit-time.Since(since), "the end of the shell and its jobs "+how, func() bool {
		return !isAlive(s.pid) && len(marked(s.mark)) == 0
	})
	s.t.Logf("%s: all gone after %v", how, time.Since(since).Round(time.Millisecond))
}

func TestJudgeKilledClientAndAnother(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newJudge(t, "")
	s := j.shellWithJobs("shell")
	j.run("kill shell")
	began := time.Now()
	j.run("tool run attic true")
	s.wantGone(began, 15*time.Second, "killed, another verb run after it")
}

func TestJudgeKilledClientAndNone(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "-hold 5s")
	s := j.shellWithJobs("shell")
	j.run("kill shell")
	began := time.Now()
	s.wantGone(began, 15*time.Second, "killed, none after it, hold 5 s")
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("after %v: a link must be held for 5 s", took)
	}
}

func TestJudgeKilledLender(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newJudge(t, "")
	j.lend()
	s := j.shellWithJobs("shell")
	j.run("kill laptop")
	began := time.Now()
	j.run("ended shell 255\nwait shell 'went away|has ended|closed'")
	j.run("tool -device -once &laptop\nwait laptop 'laptop serves as'\ntool run attic true")
	s.wantGone(began, 20*time.Second, "its lender killed, a verb run by a new one")
}

func TestJudgeEndedShell(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "")
	for _, own := range []bool{true, false} {
		if !own {
			j.lend()
		}
		j.run("on laptop\nterm shell shell attic\nwait shell '[$#] '\ntype shell 'echo pid:$$:'\nwait shell 'pid:[0-9]+:'\ncapture PID shell 'pid:([0-9]+):'")
		pid, _ := strconv.Atoi(j.vars["PID"])
		began := time.Now()
		j.run("type shell 'exit 6'\nended shell 6")
		took := time.Since(began)
		if isAlive(pid) || took > 3*time.Second {
			t.Errorf("the shell ended after %v, alive on the device: %v", took, isAlive(pid))
		}
		t.Logf("exit took %v", took)
	}
}

// TestJudgeHungUp: a terminal that is closed, as by a closed window.
func TestJudgeHungUp(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "")
	s := j.shellWithJobs("shell")
	j.signal("shell", syscall.SIGHUP)
	s.wantGone(time.Now(), 10*time.Second, "its terminal closed")
	j.run("ended shell 129")
}

func TestJudgeCronBringsTheDeviceBack(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "-pidfile $WORK/attic.pid")
	j.run(`
on attic
exists $WORK/attic.pid
kill attic
exists .sessio/device.lock
exists .sessio/sessio.sock
exists $WORK/attic.pid
tool -device -once -pidfile $WORK/attic.pid &attic
wait attic 'attic serves as'
capture READY attic 'ready on udp port [0-9]+'
tool -device -once -pidfile $WORK/attic.pid
! stderr .
on laptop
tool run attic echo back
stdout '^back$'
on attic
stop attic 0
! exists $WORK/attic.pid
! exists .sessio/device.lock
! exists .sessio/sessio.sock
`)
}

// TestJudgeDrain: at SIGTERM what runs may end by itself, and nothing new
// begins. So it is with what is lent.
func TestJudgeDrain(t *testing.T) {
	for _, machine := range []string{"attic", "laptop"} {
		t.Run(machine, func(t *testing.T) {
			t.Parallel()
			j := newJudge(t, "-drain 4s")
			if machine == "laptop" {
				j.run("tool -device -drain 4s &laptop\nwait laptop 'laptop serves as'")
			}
			drained(j, machine)
		})
	}
}

func drained(j *judge, machine string) {
	mark := newMark()
	j.run(`
tool run attic -- 'echo one; sleep 2; echo done; exit 3' &short
tool run attic -- 'echo two; sleep ` + mark + `' &long
wait short '^one$'
wait long '^two$'`)
	began := time.Now()
	j.signal(machine, syscall.SIGTERM)
	j.run("ended short 3\nwait short '^done$'")
	if took := time.Since(began); took > 3500*time.Millisecond {
		j.t.Errorf("a session that ends by itself took %v", took)
	}
	if machine == "attic" {
		j.run("! tool run attic true\nstatus 255")
	} else {
		j.run("! exists .sessio/sessio.sock\ntool run attic true") // by a link of its own
	}
	j.run("ended long 255\nended " + machine + " 0")
	took := time.Since(began)
	if took < 3500*time.Millisecond || took > 8*time.Second {
		j.t.Errorf("with -drain 4s a stop took %v", took)
	}
	j.within(hangupGrace+time.Second, "the end of what ran", func() bool { return len(marked(mark)) == 0 })
	j.t.Logf("with -drain 4s a stop took %v; the long one: %s", took, j.proc("long").said())
}
