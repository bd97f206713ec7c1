//go:build linux

package main

// Coordinator or verb killed at any moment of account create, join and sign:
// afterwards the stores are whole, and the verb has happened or is repeated
// with success.

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A crashTest kills victim, the coordinator ("vps") or the verb ("verb").
type crashTest struct {
	*judge
	victim string
	vps    string        // the coordinator's machine
	span   time.Duration // how long a verb takes
	rand   *rand.Rand
	done   int // verbs that had ended when their victim was killed
	stuck  int // those that did not end by themselves
}

func newCrashTest(t *testing.T, victim string) *crashTest {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return &crashTest{judge: &judge{newScript(t, t.Name())}, victim: victim, span: 100 * time.Millisecond, rand: rand.New(rand.NewPCG(seed, 0))}
}

// coordinate starts a coordinator, on the port of the last one on that machine.
func (c *crashTest) coordinate(machine string) {
	c.t.Helper()
	port := "0"
	if machine == c.vps {
		port = c.vars["PORT"]
	}
	c.vps = machine
	c.run("on " + machine + "\ntool -coordinator -udp 127.0.0.1:" + port + " &vps\nwait vps 'ready at .*'\ncapture PORT vps 'ready at 127.0.0.1:([0-9]+)'")
	if port == "0" {
		c.run("wait vps 's1/'\ncapture COORD vps 's1/[^ \\n]+'")
	}
}

// crash runs a verb on a machine and kills the victim meanwhile. A verb whose
// coordinator was restarted knows that as soon as it sends again. Where it only
// waits for the answer, a person presses ^C before the 20 s are over.
func (c *crashTest) crash(machine string, words ...string) {
	c.t.Helper()
	c.machine(machine)
	c.background("verb", toolFile(), words, false)
	verb := c.proc("verb")
	moment := time.NewTimer(time.Duration(c.rand.Int64N(int64(c.span) * 5 / 4)))
	defer moment.Stop()
	<-moment.C
	select {
	case <-verb.done:
		c.done++
	default:
	}
	if !c.proc(c.victim).end(syscall.SIGKILL) {
		c.fatalf("%s outlives SIGKILL", c.victim)
	}
	if c.victim == "vps" {
		c.coordinate(c.vps)
	}
	began := time.Now()
	select {
	case <-verb.done:
	case <-time.After(time.Second):
		c.stuck++
		if !verb.end(syscall.SIGINT) {
			c.fatalf("%v ignores an interrupt", words)
		}
	}
	lines := strings.Split(strings.TrimSpace(verb.said()), "\n")
	c.t.Logf("%v: ended %v after the kill: %q", words[:2], time.Since(began).Round(time.Millisecond), lines[max(0, len(lines)-2):])
	if strings.Contains(verb.said(), "DATA RACE") || strings.Contains(verb.said(), "panic:") {
		c.fatalf("%v", words)
	}
}

// again repeats the verb, which must succeed now, or have succeeded before.
func (c *crashTest) again(machine, already string, words ...string) {
	c.t.Helper()
	c.machine(machine)
	cmd := c.command(toolFile(), words...)
	began := time.Now()
	b, err := cmd.CombinedOutput()
	if err != nil && (already == "" || !strings.Contains(string(b), already)) {
		c.fatalf("%v repeated: %v\n%s", words, err, b)
	}
	c.span = (3*c.span + time.Since(began)) / 4
}

// whole looks at a machine's files.
func (c *crashTest) whole(machine string, records int) {
	c.t.Helper()
	c.run(fmt.Sprintf("on %s\ntool trust fsck\nstdout '^%d records, 0 beside'\n! stderr .\ntool status\nstdout 'log at record %d,'\nstdout '^coordinator:  127.*sees us at'", machine, records, records-1))
	if bad := c.match("damaged|corrupt|cannot|forgotten", c.proc("vps").said()); bad {
		c.fatalf("the coordinator complains")
	}
	for _, name := range []string{"account.new", "trust/log.new", "trust/log.corrupt"} {
		if _, err := os.Stat(filepath.Join(c.dir(machine), name)); err == nil {
			c.fatalf("%s has %s", machine, name)
		}
	}
}

// accountCreate makes account after account, each at a coordinator of its own.
func (c *crashTest) accountCreate(n int) {
	c.t.Helper()
	for i := range n {
		laptop := fmt.Sprint("laptop", i)
		if i > 0 {
			c.run("kill vps")
		}
		c.coordinate(fmt.Sprint("vps", i))
		c.run("on " + laptop + "\nexec ssh-keygen -q -t ed25519 -N '' -f $WORK/" + laptop + "/id")
		words := []string{"account", "create", "-key", "id", "-name", "laptop", c.vars["COORD"]}
		c.crash(laptop, words...)
		c.again(laptop, "belongs to account", words...)
		c.whole(laptop, 2)
	}
}

// joinAndSign enrols machine after machine in the account of the last laptop.
func (c *crashTest) joinAndSign(laptop string, n int) {
	c.t.Helper()
	for i := range n {
		name := fmt.Sprint("box", i)
		c.run("on " + laptop + "\ntool ticket -name " + name + "\ncapture TICKET 's1/[^\\n]+'")
		join := []string{"join", "-no-wait", c.vars["TICKET"]}
		c.crash(name, join...)
		c.again(name, "", join...)
		sign := []string{"trust", "sign", name}
		c.crash(laptop, sign...)
		c.again(laptop, "", sign...)
		c.whole(laptop, 3+i)
		c.again(name, "", join...)
		c.whole(name, 3+i)
		c.run("tool trust log\nstdout 'device.add +" + name + "'")
	}
}

func crashAll(t *testing.T, victim string, n int) {
	c := newCrashTest(t, victim)
	c.accountCreate(n)
	c.joinAndSign(fmt.Sprint("laptop", n-1), n)
	t.Logf("of %d verbs %d had ended before the kill, %d did not know of it", 3*n, c.done, c.stuck)
	if c.done == 3*n {
		t.Error("none was under way")
	}
}

func TestJudgeCoordinatorKilled(t *testing.T) {
	slow(t)
	t.Parallel()
	crashAll(t, "vps", 4)
}

func TestJudgeVerbsKilled(t *testing.T) {
	t.Parallel()
	crashAll(t, "verb", 4)
}

func TestJudgeCoordinatorDies(t *testing.T) {
	t.Parallel()
	coordinatorReturns(t, false)
}
