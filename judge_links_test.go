//go:build linux

package main

// Many verbs and stock ssh on one link: a stalled one slows none, a killed one
// stops none.

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stall starts a verb whose output flows, and stops it in the midst.
func (j *judge) stall(name string) {
	j.t.Helper()
	mark := newMark()
	j.mute(name, "run", "attic", "yes "+mark)
	j.within(scriptWait, name+"'s output flows", func() bool {
		read, _ := moved(j.pid(name))
		return read > 8<<20
	})
	j.signal(name, syscall.SIGSTOP)
	writer, still, last := 0, 0, int64(0)
	for _, pid := range marked("yes\x00" + mark) {
		writer = pid
	}
	j.within(scriptWait, name+" stands still", func() bool {
		_, written := moved(writer)
		if written != last {
			last, still = written, 0
		}
		still++
		return still > 20
	})
}

// transfer is a command and its bytes both ways, and how long it took.
func (j *judge) transfer() time.Duration {
	j.t.Helper()
	began := time.Now()
	if out := j.tool("run", "attic", "echo quick; head -c 4000000 /dev/zero | wc -c"); out != "quick\n4000000\n" {
		j.fatalf("got %q", out)
	}
	return time.Since(began)
}

// TestJudgeStalledVerbs: readers that take nothing leave their windows full,
// and there are enough of them to fill a link's window many times over if that
// were not the sum of theirs.
func TestJudgeStalledVerbs(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newJudge(t, "")
	j.lend()
	before := min(j.transfer(), j.transfer())
	for i := range 4 {
		j.stall(fmt.Sprint("stalled", i))
	}
	if took := min(j.transfer(), j.transfer()); took > 3*before+time.Second {
		t.Errorf("a command takes %v beside 4 stalled ones, alone %v", took, before)
	} else {
		t.Logf("a command takes %v beside 4 stalled ones, alone %v", took, before)
	}
}

// links is what the laptop's -device says of its links.
func (j *judge) links() (list []linkStatus) {
	j.t.Helper()
	j.on = "laptop"
	for line := range strings.Lines(j.tool("status", "-json")) {
		var l struct {
			Type string `json:"type"`
			linkStatus
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			j.fatalf("%s: %v", line, err)
		}
		if l.Type == "link" {
			list = append(list, l.linkStatus)
		}
	}
	return list
}

// wantLink waits until there is one link, with so many SSH connections on it.
func (j *judge) wantLink(streams int) (id string) {
	j.t.Helper()
	j.within(scriptWait, fmt.Sprintf("one link with %d streams", streams), func() bool {
		l := j.links()
		if len(l) != 1 {
			j.fatalf("links: %+v", l)
		}
		id = l[0].Link
		return l[0].Streams == streams
	})
	return id
}

// TestJudgeOneLink: two shells, three runs and a stock ssh are one QUIC
// connection.
func TestJudgeOneLink(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "-listen 127.0.0.1:0") // no path but that of this address
	j.lend()
	mark := newMark()
	j.run(`
term shell1 shell attic
term shell2 shell attic
term cat run -t attic cat
tool run attic -- "echo up; sleep ` + mark + `" &victim
wait victim '^up$'`)
	j.background("ssh", "ssh", j.stockSSH("-tt", "attic.sessio").Args[1:], true)
	j.stall("stalled")
	link := j.wantLink(6)
	j.run("tool status -v\nstdout '^" + link + " +attic +lan .* 6$'")
	alive := func(round string) {
		t.Helper()
		for _, shell := range []string{"shell1", "shell2", "ssh"} {
			j.run(fmt.Sprintf("type %s 'echo %s-$((6*7))'\nwait %s '%s-42'", shell, round, shell, round))
		}
		j.run(fmt.Sprintf("type cat %s\nwait cat '(?s)%s.*%s'", round, round, round))
	}
	alive("stalled")
	j.run("kill victim")
	gone := j.within(5*time.Second, "the killed run's command is gone", func() bool { return len(marked(mark)) == 0 })
	t.Logf("the command of a killed run was gone after %v", gone)
	alive("killed")
	j.run("kill stalled\nkill shell2")
	j.run("type ssh 'exit 3'\nended ssh 3\ntype shell1 'exit 4'\nended shell1 4")
	if again := j.wantLink(1); again != link {
		t.Errorf("link %s has become %s", link, again)
	}
	j.run("type cat last\nwait cat '(?s)last.*last'")
}
