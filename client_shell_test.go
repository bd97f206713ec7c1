//go:build !windows

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A login shell as a person has it: size, type, resizing, ^C for the far end,
// the exit code handed on.
func TestShellOnTerminal(t *testing.T) {
	term := sshcOpenTerminal(t)
	sh := term.start(sshcHelper(sshcTerminalSSHD(t), "shell", ""))
	term.keys("exec sh\r")
	term.keys("stty size; echo \"type=$TERM\"; stty -a | grep -o 'intr = ..'\r")
	term.expect("31 97")
	term.expect("type=vt220")
	term.expect("intr = ^C")
	if !term.raw() {
		t.Error("the terminal is not raw")
	}
	term.keys("sh -c 'trap \"stty size\" WINCH; echo wait\"\"ing; while :; do sleep 0.05; done'\r")
	term.expect("waiting")
	term.size(120, 40)
	term.expect("40 120")
	term.keys("\x03")
	term.keys("echo back-$((40+2))\r")
	term.expect("back-42")
	term.keys("exit 5\r")
	if got := sh.status(); got != 5 {
		t.Errorf("status %d", got)
	}
	term.restored()
}

func TestShellEscapes(t *testing.T) {
	term := sshcOpenTerminal(t)
	sh := term.start(sshcHelper(sshcTerminalSSHD(t), "shell", ""))
	term.keys("~?")
	term.expect("Supported escape sequences:\r\n")
	term.expect("newline.)\r\n")
	term.keys("exec sh\r")
	term.keys("echo g\"\"ot ~.[\r") // not behind a newline
	term.expect("got ~.[")
	term.keys("cat; :\r~~.\r") // shown by the terminal there, and by cat
	term.expect("~.\r\n")
	term.expect("~.\r\n")
	term.keys("~x\r")
	term.expect("~x\r\n~x\r\n")
	term.keys("~.")
	if got := sh.status(); got != 255 {
		t.Errorf("status %d", got)
	}
	term.expect("~.\r\nsessio: connection to attic closed")
	term.restored()
}

// ~^Z gives the terminal back to the shell it came from, fg takes it again.
func TestShellSuspend(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs a shell with job control: ", err)
	}
	term := sshcOpenTerminal(t)
	helper := sshcHelper(sshcTerminalSSHD(t), "shell", "")
	script := filepath.Join(t.TempDir(), "s")
	text := "#!/bin/sh\n" + commandLine(append([]string{"exec"}, helper.Args...)) + "\n"
	text = strings.Replace(text, "'exec'", "exec", 1)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	outer := exec.Command(bash, "--norc", "--noprofile", "--noediting", "-i")
	outer.Env = append(helper.Env, "PS1=outer-prompt ")
	job := term.start(outer)
	term.expect("outer-prompt ")
	term.keys(script + "\r")
	term.keys("exec sh\r")
	term.keys("echo in-$((40+2))\r")
	term.expect("in-42")
	term.keys("\r~\x1a")
	term.expect("Stopped")
	term.expect("outer-prompt ")
	term.keys("stty -a | grep -c ' icanon'; echo out-$((40+2))\r")
	term.expect("\r\n1\r\n")
	term.expect("out-42")
	term.keys("fg\r")
	term.keys("echo again-$((40+2))\r")
	term.expect("again-42")
	term.keys("exit 3\r")
	term.expect("outer-prompt ")
	term.keys("echo status-$?; exit 0\r")
	term.expect("status-3")
	job.status()
}

func TestShellEndedBySignal(t *testing.T) {
	p := sshcTerminalSSHD(t)
	for sig, status := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGHUP: 129, syscall.SIGINT: 130} {
		t.Run(sig.String(), func(t *testing.T) {
			term := sshcOpenTerminal(t)
			sh := term.start(sshcHelper(p, "shell", ""))
			term.keys("echo up-$((40+2))\r")
			term.expect("up-42")
			if !term.raw() {
				t.Error("the terminal is not raw")
			}
			sh.signal(sig)
			if got := sh.status(); got != status {
				t.Errorf("status %d, want %d", got, status)
			}
			term.restored()
		})
	}
}

func TestShellLinkLost(t *testing.T) {
	p := sshcTerminalSSHD(t)
	term := sshcOpenTerminal(t)
	made := make(chan io.Closer, 1)
	relay := sshcRelay(t, p, func(c io.Closer) { made <- c })
	sh := term.start(sshcHelper(relay, "shell", ""))
	term.keys("echo up-$((40+2))\r")
	term.expect("up-42")
	(<-made).Close()
	if got := sh.status(); got != 255 {
		t.Errorf("status %d", got)
	}
	term.expect("\r\nsessio: the link to attic was lost: ")
	term.restored()
}

func TestShellPanicRestores(t *testing.T) {
	term := sshcOpenTerminal(t)
	p := sshcSSHD(t)
	sh := term.start(sshcHelper(p, "panic", ""))
	term.expect("raw now")
	if !term.raw() {
		t.Error("the terminal is not raw")
	}
	term.keys("x")
	if got := sh.status(); got != 2 {
		t.Errorf("status %d", got)
	}
	term.expect("panic: boom")
	term.expect("TestSSHCHelper")
	term.restored()
}

// sessio shell attic | head -1, with a terminal on standard input.
func TestShellOutputClosed(t *testing.T) {
	term := sshcOpenTerminal(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := sshcHelper(sshcTerminalSSHD(t), "shell", "")
	cmd.Stdout = w
	sh := term.start(cmd)
	w.Close()
	term.keys("while echo more; do :; done\r")
	io.ReadFull(r, make([]byte, 100))
	r.Close()
	if got := sh.status(); got != 141 {
		t.Errorf("status %d", got)
	}
	term.restored()
}

func TestShellWithoutTerminal(t *testing.T) {
	p := sshcSSHD(t)
	out, _, err := sshcFiles(t, strings.NewReader("tty; echo hi; exit 3\n"), func(files stdio) error {
		return cmdShell(t.Context(), p, files, target{device: "attic"})
	})
	if !strings.HasSuffix(string(out), "not a tty\nhi\n") || exitStatus(err) != 3 {
		t.Errorf("got %q, %v", out, err)
	}
}

// The keyboard is heard although nothing can be sent.
func TestShellEscapeOnStalledLink(t *testing.T) {
	term := sshcOpenTerminal(t)
	stalled := newSSHCStall(sshcTerminalSSHD(t))
	ended := make(chan error, 1)
	go func() {
		ended <- cmdShell(t.Context(), stalled, stdio{term.tty, term.tty, term.tty}, target{device: "attic"})
	}()
	term.keys("echo up-$((40+2))\r")
	term.expect("up-42")
	stalled.stall()
	term.keys("is\ranybody\rthere\r~.")
	if err := <-ended; exitStatus(err) != 255 || err.Error() != "connection to attic closed" {
		t.Errorf("%v, status %d", err, exitStatus(err))
	}
	term.restored()
}

func TestRunWithTerminal(t *testing.T) {
	term := sshcOpenTerminal(t)
	sh := term.start(sshcHelper(sshcTerminalSSHD(t), "run -t", `trap "echo caught; exit 9" INT; tty; echo ready; while :; do sleep 0.05; done`))
	term.expect("/dev/")
	term.expect("ready")
	term.keys("\x03")
	term.expect("caught")
	if got := sh.status(); got != 9 {
		t.Errorf("status %d", got)
	}
	term.restored()
}

// yes | head -1
func TestRunOutputClosed(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := sshcHelper(sshcSSHD(t), "run", "yes")
	cmd.Stdout = w
	var errs sshcBuffer
	cmd.Stderr = &errs
	run := sshcStart(t, cmd)
	w.Close()
	if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
		t.Error(err)
	}
	r.Close()
	if got := run.status(); got != 141 || errs.String() != "" {
		t.Errorf("status %d, said %q", got, errs.String())
	}
}
