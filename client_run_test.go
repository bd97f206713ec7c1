//go:build !windows

package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// sshcRun runs a shell line on p and returns what came of it.
func sshcRun(t testing.TB, p *sshcPeer, stdin, line string) (out, errOut string, status int) {
	t.Helper()
	o, e, err := sshcFiles(t, strings.NewReader(stdin), func(files stdio) error {
		return cmdRun(t.Context(), p, files, runArgs{devices: []string{"attic"}, line: line})
	})
	if err != nil && err.Error() != fmt.Sprintf("exit status %d", exitStatus(err)) {
		e = append(e, err.Error()...)
	}
	return string(o), string(e), exitStatus(err)
}

func TestRunOnSSHD(t *testing.T) {
	p := sshcSSHD(t)
	for _, c := range []struct {
		name, stdin, line string
		out, err          string
		status            int
	}{
		{"streams apart", "", "echo out; echo err >&2", "out\n", "err\n", 0},
		{"exit code", "", "exit 7", "", "", 7},
		{"not found", "", "exec /nonexistent-command 2>/dev/null", "", "", 127},
		{"stdin ends", "a\nb\n", "cat; echo done", "a\nb\ndone\n", "", 0},
		{"stdin unread", strings.Repeat("x", 1<<20), "true", "", "", 0},
		{"no pty", "", "tty", "not a tty\n", "", 1},
		{"signal", "", "kill -KILL $$", "", `ended on attic by signal "KILL"`, 255},
		{"last words", "", "printf 'no newline'; exit 255", "no newline", "", 255},
		{"stdout closed early", "in", "exec 1>&-; cat >&2; exit 3", "", "in", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errOut, status := sshcRun(t, p, c.stdin, c.line)
			if out != c.out || errOut != c.err || status != c.status {
				t.Errorf("got %q, %q, status %d", out, errOut, status)
			}
		})
	}
}

func TestRunArguments(t *testing.T) {
	p := sshcSSHD(t)
	words := []string{"printf", "%s|", "", "two words", "it's", `back\slash`, "$HOME", "*", "new\nline", "-n", "ünï", "\xff"}
	_, line, err := parseRunOperands([]string{"attic"}, words, true)
	if err != nil {
		t.Fatal(err)
	}
	out, _, status := sshcRun(t, p, "", line)
	if want := strings.Join(words[2:], "|") + "|"; out != want || status != 0 {
		t.Errorf("got %q, status %d, want %q", out, status, want)
	}
}

func TestRunEnvironment(t *testing.T) {
	t.Setenv("LC_SESSIO_TEST", "käse")
	t.Setenv("SESSIO_SECRET", "not this")
	out, _, _ := sshcRun(t, sshcSSHD(t), "", `echo "$LC_SESSIO_TEST,$SESSIO_SECRET"`)
	if out != "käse,\n" {
		t.Errorf("environment there: %q", out)
	}
}

// 64 MB go up and come back at the same time, and are the same.
func TestRunBulk(t *testing.T) {
	p := sshcSSHD(t)
	data := make([]byte, 64<<20)
	rand.Read(data)
	out, errOut, err := sshcFiles(t, bytes.NewReader(data), func(files stdio) error {
		return cmdRun(t.Context(), p, files, runArgs{devices: []string{"attic"}, line: "cat"})
	})
	if err != nil || len(errOut) != 0 {
		t.Fatalf("%v, %q", err, errOut)
	}
	if !bytes.Equal(out, data) {
		t.Fatalf("%d bytes came back of %d, or others", len(out), len(data))
	}
}

func TestRunSmallWrites(t *testing.T) {
	out, _, status := sshcRun(t, sshcSSHD(t), "", "i=0; while [ $i -lt 10000 ]; do echo $i; i=$((i+1)); done")
	if status != 0 || strings.Count(out, "\n") != 10000 || !strings.HasSuffix(out, "\n9999\n") {
		t.Errorf("status %d, %d lines", status, strings.Count(out, "\n"))
	}
}

func TestRunMany(t *testing.T) {
	p := sshcSSHD(t)
	out, errOut, err := sshcFiles(t, strings.NewReader("nobody reads this"), func(files stdio) error {
		return cmdRun(t.Context(), sshcByName(p), files, runArgs{
			devices: []string{"attic", "gone", "cellar", "alias@roof"},
			user:    p.users[0],
			line:    `read x; echo "one $x"; echo two >&2; printf three; exit 4`,
		})
	})
	if exitStatus(err) != 255 {
		t.Errorf("status %d, want the worst", exitStatus(err))
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	want := []string{"attic: one ", "attic: three", "cellar: one ", "cellar: three", "roof: one ", "roof: three"}
	if !slices.Equal(lines, want) {
		t.Errorf("output %q, want %q", lines, want)
	}
	errLines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(errOut)), "\n"), func(line string) bool {
		return !strings.HasPrefix(line, "gone:") && !strings.HasSuffix(line, ": two") // a word of the login shell's own files
	})
	slices.Sort(errLines)
	want = []string{"attic: two", "cellar: two", "gone: hint: did you mean attic?",
		"gone: sessio: connecting to gone: no such device", "roof: two"}
	if !slices.Equal(errLines, want) {
		t.Errorf("errors %q, want %q", errLines, want)
	}
}

// No more than -j devices are connected to at once.
func TestRunJobs(t *testing.T) {
	p := sshcSSHD(t)
	var mu sync.Mutex
	running, most := 0, 0
	count := sshcCounting(p, func(by int) {
		mu.Lock()
		defer mu.Unlock()
		running += by
		most = max(most, running)
	})
	_, _, err := sshcFiles(t, nil, func(files stdio) error {
		return cmdRun(t.Context(), count, files, runArgs{devices: []string{"a", "b", "c", "d"}, line: "true", jobs: 2})
	})
	if err != nil || most != 2 {
		t.Errorf("%v; %d at once, want 2", err, most)
	}
}

func TestRunWorstStatus(t *testing.T) {
	p := sshcSSHD(t)
	_, _, err := sshcFiles(t, nil, func(files stdio) error {
		return cmdRun(t.Context(), p, files, runArgs{devices: []string{"a", "b"}, line: "exit 3"})
	})
	if e, ok := err.(*exitError); !ok || e.status != 3 || e.err != nil {
		t.Errorf("got %v, want a silent 3", err)
	}
}
