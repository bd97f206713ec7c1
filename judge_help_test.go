//go:build linux

package main

// This file sets up what the judge_*_test.go files look at from outside: real
// processes with the program in them, stock clients, and /proc.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A judge is a script whose machines are set up: vps coordinates, laptop is a
// client, attic serves.
type judge struct{ *script }

const judgeSetup = `
on vps
tool -coordinator -udp 127.0.0.1:0 &vps
wait vps 's1/'
capture COORD vps 's1/[^ \n]+'
on laptop
exec ssh-keygen -q -t ed25519 -N '' -f $WORK/laptop/id
tool account create -key id -name laptop $COORD
`

// newJudge sets them up; flags are more of attic's.
func newJudge(t *testing.T, flags string) *judge {
	t.Helper()
	j := newJudgeAlone(t)
	j.enrol("attic")
	// One user has many connections here: other limits than the user's are judged.
	j.run("on attic\ntool -device -v -set security.max_sessions_per_user=100 " + flags + " &attic\nwait attic 'attic serves as'\non laptop")
	j.run(`exec sh -c '"$0" ssh-config > config' $TOOL`)
	return j
}

// newJudgeAlone sets up vps and laptop.
func newJudgeAlone(t *testing.T) *judge {
	t.Helper()
	for _, tool := range []string{"ssh", "ssh-keygen", "git", "rsync"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: testdata/tools.sh installs it", err)
		}
	}
	j := &judge{newScript(t, "setup of "+t.Name())}
	j.run(judgeSetup)
	return j
}

// enrol makes a machine a signed device.
func (j *judge) enrol(name string) {
	j.t.Helper()
	j.run("on laptop\ntool ticket -name " + name + "\ncapture TICKET 's1/[^\\n]+'\n" +
		"on " + name + "\ntool join -no-wait $TICKET\non laptop\ntool trust sign " + name)
}

// lend starts sessio -device on the laptop.
func (j *judge) lend() {
	j.t.Helper()
	j.run("on laptop\ntool -device &laptop\nwait laptop 'laptop serves as'")
}

// dir is a machine's state directory.
func (j *judge) dir(machine string) string { return filepath.Join(j.work, machine, ".sessio") }

// pid is the process that runs beside under a name.
func (j *judge) pid(name string) int { return j.proc(name).cmd.Process.Pid }

// mute starts sessio beside, its output thrown away.
func (j *judge) mute(name string, args ...string) {
	j.t.Helper()
	j.background(name, "sh", append([]string{"-c", `exec "$0" "$@" >/dev/null`, toolFile()}, args...), false)
}

// stockSSH is ssh with the laptop's ssh-config.
func (j *judge) stockSSH(args ...string) *exec.Cmd {
	j.on = "laptop"
	return j.command("ssh", append([]string{"-F", filepath.Join(j.work, "laptop", "config")}, args...)...)
}

// output runs a command to its end, which must come soon and be well.
func (j *judge) output(cmd *exec.Cmd) string {
	j.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err := cmd.Start()
	if err == nil {
		timer := time.AfterFunc(2*scriptWait, func() { cmd.Process.Kill() })
		err = cmd.Wait()
		timer.Stop()
	}
	if err != nil {
		j.fatalf("%v: %v\n%s%s", cmd.Args, err, out.String(), errs.String())
	}
	return out.String()
}

// tool runs sessio to its end, which must be well.
func (j *judge) tool(args ...string) string {
	j.t.Helper()
	return j.output(j.command(toolFile(), args...))
}

// signal sends a signal to what runs beside under a name.
func (j *judge) signal(name string, sig syscall.Signal) {
	j.t.Helper()
	if err := j.proc(name).cmd.Process.Signal(sig); err != nil {
		j.fatalf("%s: %v", name, err)
	}
}

// within polls ok, and returns how long it took to become true.
func (j *judge) within(d time.Duration, what string, ok func() bool) time.Duration {
	j.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > d {
			j.fatalf("%s: not within %v", what, d)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

// marked lists the living processes with mark among their arguments.
func marked(mark string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(b, []byte(mark)) {
			continue // ended, or a zombie, which has no arguments
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		pids = append(pids, pid)
	}
	return pids
}

// newMark is a number of seconds that no other process sleeps.
func newMark() string {
	return fmt.Sprintf("4%d.%d", os.Getpid(), time.Now().UnixNano()%1e9)
}

func isAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// moved counts the bytes that a process has read and written in all.
func moved(pid int) (read, written int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, 0
	}
	fmt.Sscanf(string(b), "rchar: %d\nwchar: %d", &read, &written)
	return read, written
}
