//go:build linux

package main

// Whether a running device is after many sessions what it was before them.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A procCount is what a process holds.
type procCount struct{ fds, children, threads, goroutines, links int }

// count looks at a machine's -device process.
func (j *judge) count(machine string) (c procCount) {
	j.t.Helper()
	proc := fmt.Sprintf("/proc/%d", j.pid(machine))
	entries := func(dir string) int {
		list, err := os.ReadDir(filepath.Join(proc, dir))
		if err != nil {
			j.fatalf("%v", err)
		}
		return len(list)
	}
	files, _ := filepath.Glob(proc + "/task/*/children")
	for _, file := range files {
		b, _ := os.ReadFile(file) // the thread may have ended
		c.children += len(strings.Fields(string(b)))
	}
	self, links, err := lentStatus(j.t.Context(), j.dir(machine))
	if err != nil {
		j.fatalf("%v", err)
	}
	c.goroutines, c.links = self.Goroutines, len(links)
	c.fds, c.threads = entries("fd"), entries("task")
	return c
}

// judgedSessions are ways to come and go. The last words are sessio's, but for
// ssh.
var judgedSessions = []struct {
	words  []string
	killed bool // with its client, by SIGKILL
}{
	{[]string{"run", "attic", "true"}, false},
	{[]string{"run", "-t", "attic", "sleep 0.01; tty"}, false},
	{[]string{"run", "attic", "sleep MARK & echo started; wait"}, true},
	{[]string{"ssh", "attic.sessio", "echo; exit 4"}, false},
	{[]string{"run", "attic", "exit 3"}, false},
	{[]string{"run", "attic", "kill -9 $$"}, false},
	{[]string{"shell", "attic"}, false},
}

// session comes and goes once.
func (j *judge) session(n int, machine, mark string) error {
	kind := judgedSessions[n%len(judgedSessions)]
	words := append([]string{toolFile()}, kind.words...)
	if kind.words[0] == "ssh" {
		words = append([]string{"ssh", "-F", filepath.Join(j.work, machine, "config")}, kind.words[1:]...)
	}
	last := len(words) - 1
	words[last] = strings.ReplaceAll(words[last], "MARK", mark)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = filepath.Join(j.work, machine)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, toolEnv + "=1", "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if kind.killed {
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return err
		}
		_, err = out.Read(make([]byte, 1))
		cmd.Process.Kill()
		cmd.Wait() // it was killed
		return err
	}
	b, _ := cmd.CombinedOutput() // many end with a status
	if code := cmd.ProcessState.ExitCode(); code == 255 && !strings.Contains(string(b), "by signal") || code < 0 {
		return fmt.Errorf("%v: status %d, %s", words, code, b)
	}
	return nil
}

// sessions makes n of them from a machine, some at once.
func (j *judge) sessions(n, atOnce int, machine, mark string) {
	j.t.Helper()
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := j.session(i, machine, mark); err != nil {
				j.t.Errorf("session %d of %s: %v", i, machine, err)
			}
		})
	}
	all.Wait()
}

// manySessions makes n from the laptop, each with a link of its own, and n from
// the phone, whose -device lends its link.
func manySessions(t *testing.T, n int) {
	j := newJudge(t, "-hold 3s")
	j.run(`tool ticket -name phone -roles client
capture TICKET 's1/[^\n]+'
on phone
tool join -no-wait $TICKET
on laptop
tool trust sign phone
on phone
tool -device &phone
wait phone 'phone serves as'
exec sh -c '"$0" ssh-config > config' $TOOL`)
	mark := newMark()
	j.sessions(len(judgedSessions), 1, "phone", mark) // whatever is made once
	j.sessions(len(judgedSessions), 1, "laptop", mark)
	quiet := func() bool { return len(marked(mark)) == 0 && j.count("attic").links == 1 }
	j.within(2*scriptWait, "quiet before", quiet)
	j.within(scriptWait, "a first count", func() bool { return j.count("attic").children == 0 })
	attic, phone := j.count("attic"), j.count("phone")
	began := time.Now()
	var both sync.WaitGroup
	both.Go(func() { j.sessions(n, 4, "laptop", mark) })
	both.Go(func() { j.sessions(n, 4, "phone", mark) })
	both.Wait()
	t.Logf("%d sessions in %v", 2*n, time.Since(began))
	j.within(2*scriptWait, "quiet after", quiet)
	settled := func(name string, before procCount) {
		var now procCount
		for end := time.Now().Add(scriptWait); ; time.Sleep(50 * time.Millisecond) {
			now = j.count(name)
			if now.fds <= before.fds && now.children <= before.children && now.goroutines <= before.goroutines && now.links <= before.links {
				break
			}
			if time.Now().After(end) {
				t.Errorf("%s held %+v before, and holds %+v now", name, before, now)
				return
			}
		}
		t.Logf("%s held %+v before, and holds %+v now", name, before, now)
	}
	settled("attic", attic)
	settled("phone", phone)
}

func TestJudgeFiftySessions(t *testing.T) {
	slow(t)
	t.Parallel()
	manySessions(t, 25)
}
