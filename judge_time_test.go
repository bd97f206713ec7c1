//go:build linux

package main

// How long a person waits: from the signature to a shell, and for the true
// reason why there is none.

import (
	"strings"
	"testing"
	"time"
)

const (
	// judgeSecond is what is promised.
	judgeSecond = time.Second
	// judgeBusy is how much longer it may take here, with the race detector
	// and other tests beside.
	judgeBusy = 3
)

// timed runs sessio and returns its status, what it said and how long it took.
func (j *judge) timed(args ...string) (status int, out string, took time.Duration) {
	j.t.Helper()
	cmd := j.command(toolFile(), args...)
	began := time.Now()
	b, err := cmd.CombinedOutput()
	took = time.Since(began)
	if took > judgeBusy*judgeSecond {
		j.t.Errorf("sessio %v took %v", args, took)
	}
	return exitCode(cmd, err), string(b), took
}

func TestJudgeSignToShell(t *testing.T) {
	t.Parallel()
	j := newJudgeAlone(t)
	for _, lent := range []bool{false, true} {
		name, how := "attic", "a link of its own"
		if lent {
			name, how = "cellar", "a lent link"
			j.lend()
		}
		j.run("on laptop\ntool ticket -name " + name + "\ncapture TICKET 's1/[^\\n]+'\non " + name +
			"\ntool join -no-wait $TICKET\ntool -device &" + name + "\nwait " + name + " 'not signed yet'\non laptop\nuntil '" + name + " .*waiting' status")
		j.run("tool trust sign " + name)
		status, out, took := j.timed("run", name, "true")
		if status != 0 {
			t.Errorf("%d, %s", status, out)
		}
		t.Logf("sign to run %s true, by %s: %v", name, how, took)
		if _, _, took = j.timed("run", name, "true"); took > 0 {
			t.Logf("and once more: %v", took)
		}
		began := time.Now()
		j.run("term shell shell " + name + "\nwait shell '[$#] $'")
		t.Logf("shell %s to its prompt: %v", name, time.Since(began))
		j.run("kill shell")
	}
}

func TestJudgeReasons(t *testing.T) {
	t.Parallel()
	j := newJudgeAlone(t)
	for _, name := range []string{"gone", "never", "revoked", "attic"} {
		j.enrol(name)
	}
	j.run(`
tool trust revoke -reason lost revoked
tool ticket -name unsigned
capture TICKET 's1/[^\n]+'
on unsigned
tool join -no-wait $TICKET
tool -device &unsigned
wait unsigned 'not signed yet'
on gone
tool -device &gone
wait gone 'gone serves as'
stop gone 0
on laptop`)
	for _, c := range []struct{ device, reason, hint string }{
		{"unsigned", "not signed yet", "sessio trust sign unsigned"},
		{"atic", "no such device", "did you mean attic?"},
		{"xyzzy", "no such device", "sessio status"},
		{"never", "offline, not seen since", "sessio -device"},
		{"gone", "offline, last seen", "sessio -device"},
		{"revoked", "revoked (lost)", "new ticket"},
	} {
		for _, args := range [][]string{{"shell", c.device}, {"run", c.device, "true"}} {
			for _, lent := range []bool{false, true} {
				if lent {
					j.lend()
				}
				status, out, took := j.timed(args...)
				if lent {
					j.run("stop laptop 0")
				}
				reason, hint, _ := strings.Cut(out, "\nhint: ")
				if status != 255 || !strings.Contains(reason, "connecting to "+c.device+": "+c.reason) || !strings.Contains(hint, c.hint) {
					t.Errorf("%v, lent %v: status %d, %s", args, lent, status, out)
				}
				t.Logf("%v, lent %v: %v, %s", args, lent, took.Round(time.Millisecond), strings.TrimPrefix(reason, "sessio: connecting to "))
			}
		}
	}
}
