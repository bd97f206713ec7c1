//go:build !windows

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// TestSSHCHelper is the program under test in a process of its own, started by
// the other tests. It prints errors as main does.
func TestSSHCHelper(t *testing.T) {
	verb := os.Getenv("SSHC_VERB")
	if verb == "" {
		t.Skip("run by other tests")
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(os.Getenv("SSHC_HOSTKEY")))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(os.Getenv("SSHC_KEYFILE"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	op := &sshcPeer{addr: os.Getenv("SSHC_ADDR"), hostKey: hostKey, userKey: signer,
		users: strings.Split(os.Getenv("SSHC_USERS"), ","), name: "attic"}
	files := stdio{os.Stdin, os.Stdout, os.Stderr}
	line, ctx := os.Getenv("SSHC_LINE"), context.Background()
	switch verb {
	case "shell":
		err = cmdShell(ctx, op, files, target{device: "attic"})
	case "run":
		err = cmdRun(ctx, op, files, runArgs{devices: []string{"attic"}, line: line})
	case "run -t":
		err = cmdRun(ctx, op, files, runArgs{devices: []string{"attic"}, line: line, tty: true})
	case "proxy":
		err = cmdProxy(ctx, op, files, target{device: "attic"})
	case "sftp":
		err = interruptible(ctx, func(ctx context.Context) error {
			return cmdSFTP(ctx, op, files, sftpArgs{target{device: "attic"}, line})
		})
	case "cp":
		var a cpArgs
		if err = a.places(strings.Fields(line), ""); err == nil {
			err = interruptible(ctx, func(ctx context.Context) error { return cmdCp(ctx, op, files, a) })
		}
	case "forward":
		var f forwardSpec
		if f, err = parseForwardSpec(line, false); err == nil {
			err = cmdForward(ctx, op, files, forwardArgs{target: target{device: "attic"}, specs: []forwardSpec{f}}, &forwardHome{dir: t.TempDir()})
		}
	case "panic":
		tty := terminalOf(files)
		if err := tty.makeRaw(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("raw now")
		var b [1]byte
		os.Stdin.Read(b[:])
		go tty.guard(func() { panic("boom") })
		select {}
	}
	if e := (*exitError)(nil); err != nil && !(errors.As(err, &e) && e.err == nil) {
		fmt.Fprintf(os.Stderr, "sessio: %v\n", err)
	}
	os.Exit(exitStatus(err))
}

// sshcHelper prepares such a process for verb on p.
func sshcHelper(p *sshcPeer, verb, line string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestSSHCHelper$")
	cmd.Env = append(os.Environ(), "SSHC_VERB="+verb, "SSHC_LINE="+line, "SSHC_ADDR="+p.addr,
		"SSHC_HOSTKEY="+string(ssh.MarshalAuthorizedKey(p.hostKey)), "SSHC_KEYFILE="+p.keyFile,
		"GORACE=atexit_sleep_ms=0", "SSHC_USERS="+strings.Join(p.users, ","), "TERM=vt220", "PS1=$ ", "ENV=", "GOTRACEBACK=all")
	return cmd
}

// sshcPatience bounds every wait for what must come.
const sshcPatience = 30 * time.Second

// An sshcTerminal is a pseudo-terminal and the person at it.
type sshcTerminal struct {
	t      testing.TB
	screen *os.File // the person's side
	tty    *os.File // the program's side
	before unix.Termios

	mu    sync.Mutex
	shown []byte        // guarded by mu; all output not yet expected
	more  chan struct{} // has a value when shown has grown
}

func sshcOpenTerminal(t testing.TB) *sshcTerminal {
	t.Helper()
	screen, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	term := &sshcTerminal{t: t, screen: screen, tty: tty, more: make(chan struct{}, 1)}
	term.size(97, 31)
	term.before = term.modes()
	var loop sync.WaitGroup
	loop.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := screen.Read(buf)
			term.mu.Lock()
			term.shown = append(term.shown, buf[:n]...)
			term.mu.Unlock()
			select {
			case term.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		tty.Close()
		screen.Close()
		loop.Wait()
	})
	return term
}

func (s *sshcTerminal) size(cols, rows uint16) {
	s.t.Helper()
	if err := pty.Setsize(s.screen, &pty.Winsize{Cols: cols, Rows: rows, X: cols * 8, Y: rows * 16}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sshcTerminal) modes() unix.Termios {
	s.t.Helper()
	tio, err := unix.IoctlGetTermios(int(s.tty.Fd()), ioctlGetTermios)
	if err != nil {
		s.t.Fatal(err)
	}
	return *tio
}

// restored fails the test unless the terminal is as it was found.
func (s *sshcTerminal) restored() {
	s.t.Helper()
	if now := s.modes(); now != s.before {
		s.t.Errorf("terminal modes left as\n%+v, were\n%+v", now, s.before)
	}
}

func (s *sshcTerminal) raw() bool { return s.modes().Lflag&unix.ICANON == 0 }

func (s *sshcTerminal) keys(text string) {
	s.t.Helper()
	if _, err := s.screen.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// expect waits until text has been shown, and forgets all up to its end, which
// it returns.
func (s *sshcTerminal) expect(text string) (passed string) {
	s.t.Helper()
	late := time.After(sshcPatience)
	for {
		s.mu.Lock()
		i := bytes.Index(s.shown, []byte(text))
		if i >= 0 {
			passed, s.shown = string(s.shown[:i+len(text)]), s.shown[i+len(text):]
		}
		shown := string(s.shown)
		s.mu.Unlock()
		if i >= 0 {
			return passed
		}
		select {
		case <-s.more:
		case <-late:
			s.t.Fatalf("waited for %q, the screen shows %q", text, shown)
		}
	}
}

// screenOf is what a terminal of so many columns shows after all that, a line
// each, without the blanks at their ends. Of escapes it knows ESC [ N C and D.
func screenOf(cols int, shown string) string {
	rows, row, col, move := [][]rune{nil}, 0, 0, -1
	down := func() {
		if row++; row == len(rows) {
			rows = append(rows, nil)
		}
	}
	for _, r := range shown {
		switch {
		case r == '\x1b':
			move = 0
			continue
		case move >= 0 && r >= '0' && r <= '9':
			move = move*10 + int(r-'0')
			continue
		case move >= 0 && r == '[':
			continue
		case move >= 0 && r == 'C':
			col, move = min(col+max(move, 1), cols-1), -1
			continue
		case move >= 0 && r == 'D':
			col, move = max(col-max(move, 1), 0), -1
			continue
		}
		switch r {
		case '\r':
			col = 0
		case '\n':
			down()
		case '\b':
			col = max(col-1, 0)
		default:
			if col == cols {
				col = 0
				down()
			}
			for len(rows[row]) <= col {
				rows[row] = append(rows[row], ' ')
			}
			rows[row][col] = r
			col++
		}
	}
	var lines []string
	for _, row := range rows {
		lines = append(lines, strings.TrimRight(string(row), " "))
	}
	return strings.Join(lines, "\n")
}

// start runs cmd with this as its controlling terminal, on those of the three
// files that cmd has not set.
func (s *sshcTerminal) start(cmd *exec.Cmd) *sshcProcess {
	s.t.Helper()
	ctty := 0
	if cmd.Stdin == nil {
		cmd.Stdin = s.tty
	} else {
		ctty = 2
	}
	if cmd.Stdout == nil {
		cmd.Stdout = s.tty
	}
	if cmd.Stderr == nil {
		cmd.Stderr = s.tty
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: ctty}
	return sshcStart(s.t, cmd)
}

// An sshcProcess is a started helper.
type sshcProcess struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
}

func sshcStart(t testing.TB, cmd *exec.Cmd) *sshcProcess {
	t.Helper()
	// A test run in the background may ignore these, and the program would
	// inherit that: ours are caught while it starts.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM)
	err := cmd.Start()
	signal.Stop(caught)
	if err != nil {
		t.Fatal(err)
	}
	p := &sshcProcess{t, cmd, make(chan struct{})}
	go func() { cmd.Wait(); close(p.done) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-p.done })
	return p
}

// status waits for the end; -1 is death by signal.
func (p *sshcProcess) status() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(sshcPatience):
		p.cmd.Process.Signal(syscall.SIGQUIT)
		p.t.Fatal("the program does not end")
		return -1
	}
}

func (p *sshcProcess) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// sshcTerminalSSHD is sshcSSHD for tests that ask it for a pty. Without root
// it can give one only where the system makes them of group tty.
func sshcTerminalSSHD(t testing.TB) *sshcPeer {
	t.Helper()
	if os.Getuid() != 0 {
		screen, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer screen.Close()
		defer tty.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(tty.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		group, err := user.LookupGroup("tty")
		if err == nil && group.Gid != strconv.Itoa(int(st.Gid)) {
			t.Skip("sshd cannot give this user a pty: they are not of group tty")
		}
	}
	return sshcSSHD(t)
}
