//go:build linux || darwin

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
)

// newSession is a session of the library's client.
func (d *sshdTest) newSession(cl *ssh.Client) *ssh.Session {
	d.Helper()
	s, err := cl.NewSession()
	if err != nil {
		d.Fatal(err)
	}
	return s
}

// output runs command on a new connection.
func (d *sshdTest) output(command string) string {
	d.Helper()
	cl := d.mustDial()
	defer cl.Close()
	out, err := d.newSession(cl).Output(command)
	if err != nil {
		d.Errorf("%s: %v", command, err)
	}
	return string(out)
}

func TestSSHDEnvironment(t *testing.T) {
	d := startSSHD(t, nil)
	own := d.acct
	cmd := d.ssh("-o", "SendEnv=LC_TEST LANG LD_PRELOAD BASH_ENV COLORTERM", "h", "env; pwd; umask")
	cmd.Env = append(cmd.Env, "LC_TEST=a b=c", "LANG=C", "LD_PRELOAD=/nowhere", "BASH_ENV=/nowhere", "COLORTERM=truecolor")
	out, stderr, _ := d.run(cmd)
	got := "\n" + out
	for _, want := range []string{
		"LC_TEST=a b=c", "LANG=C", "COLORTERM=truecolor",
		"HOME=" + own.home, "USER=" + own.name, "LOGNAME=" + own.name, "SHELL=" + own.shell,
		"SSH_CONNECTION=127.0.0.1 ", "SSH_CLIENT=127.0.0.1 ",
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("no %s in %q (stderr %q)", want, out, stderr)
		}
	}
	for _, bad := range []string{"LD_PRELOAD", "BASH_ENV", "SSH_TTY", "\nTERM="} {
		if strings.Contains(got, bad) {
			t.Errorf("%s got through: %q", bad, out)
		}
	}
	if !strings.Contains(got, "\n"+own.home+"\n") {
		t.Errorf("not in the home directory: %q", out)
	}
	if !strings.Contains(got, " 127.0.0.1 "+d.port+"\n") {
		t.Errorf("SSH_CONNECTION in %q", out)
	}
}

func TestSSHDEnvRequest(t *testing.T) {
	d := startSSHD(t, nil)
	s := d.newSession(d.mustDial())
	for _, c := range []struct {
		name, value string
		ok          bool
	}{
		{"LANG", "C.UTF-8", true},
		{"LC_ALL", "", true},
		{"LANG", "a\x00b", false},
		{"LC_A=B", "c", false},
		{"LD_PRELOAD", "/x", false},
		{"PATH", "/x", false},
		{"IFS", "/", false},
		{"", "x", false},
		{"LC_BIG", strings.Repeat("x", maxEnvValue), false},
	} {
		if err := s.Setenv(c.name, c.value); (err == nil) != c.ok {
			t.Errorf("env %q=%.20q: %v", c.name, c.value, err)
		}
	}
	for i := range maxEnvVars - 2 {
		if err := s.Setenv(fmt.Sprint("LC_", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if s.Setenv("LC_MORE", "x") == nil {
		t.Errorf("more than %d variables", maxEnvVars)
	}
}

func TestSSHDTerminalSize(t *testing.T) {
	d := startSSHD(t, nil)
	cmd := d.ssh("-t", "h", "stty size; trap 'stty size; exit 5' WINCH; echo ready; sleep 1000 & wait")
	local, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 41, Cols: 102})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	out := new(sshdBuffer)
	go io.Copy(out, local)
	sshdUntil(t, "the first size", func() bool { return strings.Contains(out.String(), "41 102\r\nready") })
	if err := pty.Setsize(local, &pty.Winsize{Rows: 50, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 5 {
		t.Errorf("%v, output %q", err, out)
	}
	sshdUntil(t, "the second size", func() bool { return strings.Contains(out.String(), "50 120") })
}

func TestSSHDTerminalModes(t *testing.T) {
	d := startSSHD(t, nil)
	s := d.newSession(d.mustDial())
	modes := ssh.TerminalModes{ssh.ECHO: 0, ssh.ICRNL: 0, ssh.VINTR: 7, ssh.VQUIT: 255, ssh.TTY_OP_OSPEED: 9600, ssh.IUTF8: 1}
	if err := s.RequestPty("vt100", 24, 80, modes); err != nil {
		t.Fatal(err)
	}
	if s.RequestPty("vt100", 24, 80, modes) == nil {
		t.Error("a second terminal")
	}
	out, err := s.Output("stty -a; echo $TERM; test -t 0 -a -t 1 -a -t 2 && echo all")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"-echo ", "-icrnl", "intr = ^G", "quit = <undef>", "speed 9600", " iutf8", "vt100\r\n", "all\r\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
}

// TestSSHDTerminalTail: what a command wrote just before its end arrives,
// though a background process keeps the terminal open.
func TestSSHDTerminalTail(t *testing.T) {
	d := startSSHD(t, nil)
	cl := d.mustDial()
	for range 20 {
		s := d.newSession(cl)
		if err := s.RequestPty("vt100", 24, 80, ssh.TerminalModes{ssh.OPOST: 0}); err != nil {
			t.Fatal(err)
		}
		out, err := s.Output("trap '' HUP; sleep 2 & seq 2000; exit 4")
		if exit := (*ssh.ExitError)(nil); !errors.As(err, &exit) || exit.ExitStatus() != 4 {
			t.Fatal(err)
		}
		if !strings.HasSuffix(string(out), "\n1999\n2000\n") {
			t.Fatalf("output ends in %q", out[max(0, len(out)-40):])
		}
	}
}

func TestSSHDStreamsEnd(t *testing.T) {
	d := startSSHD(t, nil)
	d.want(d.ssh("h", "yes | head -n 1"), "y\n", 0)

	cmd := d.ssh("h", "exec cat") // half-close: cat ends when stdin does
	cmd.Stdin = strings.NewReader("x")
	d.want(cmd, "x", 0)

	early := d.ssh("h", "exec <&-; echo closed") // stdin is closed under the client
	early.Stdin = bytes.NewReader(make([]byte, 1<<20))
	d.want(early, "closed\n", 0)

	onlyErr := d.ssh("h", "exec >&-; echo still >&2; exit 6") // stdout ends first
	if _, stderr, code := d.run(onlyErr); stderr != "still\n" || code != 6 {
		t.Errorf("stderr %q code %d", stderr, code)
	}

	local := exec.Command("sh", "-c", `"$@" | head -n 1`, "sh") // the client goes first
	local.Args = append(local.Args, d.ssh("h", "yes").Args...)
	local.Env = d.ssh("h").Env
	d.want(local, "y\n", 0)
}

// TestSSHDBackground: a process left behind that holds the pipes keeps the
// channel open, as with sshd, and the status is known before.
func TestSSHDBackground(t *testing.T) {
	d := startSSHD(t, nil)
	cmd := d.ssh("h", "(read x < "+d.dir+"/fifo; echo late) & echo early")
	if err := syscall.Mkfifo(d.dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	out := new(sshdBuffer)
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sshdUntil(t, "the command's end", func() bool { return strings.Contains(d.logged(), "ended: status 0") })
	d.write("fifo", []byte("go\n"))
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if out.String() != "early\nlate\n" {
		t.Errorf("output %q", out)
	}
	// One that lets go of them is not waited for, and lives on.
	pid, err := strconv.Atoi(strings.TrimSpace(d.output("sleep 1000 >/dev/null 2>&1 </dev/null & echo $!")))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the process left behind: %v", err)
	}
}

func TestSSHDSignals(t *testing.T) {
	d := startSSHD(t, nil)
	cl := d.mustDial()
	for _, c := range []struct {
		send ssh.Signal
		end  string
	}{{ssh.SIGTERM, "TERM"}, {ssh.SIGUSR1, "USR1"}, {ssh.SIGKILL, "KILL"}} {
		s := d.newSession(cl)
		stdout, _ := s.StdoutPipe()
		if err := s.Start("echo up; sleep 1000"); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(stdout, make([]byte, 3))
		if err := s.Signal(c.send); err != nil {
			t.Fatal(err)
		}
		err := s.Wait()
		if exit := (*ssh.ExitError)(nil); !errors.As(err, &exit) || exit.Signal() != c.end {
			t.Errorf("%s: %v", c.send, err)
		}
	}
}

// TestSSHDRequests: every request with an answer wanted gets one, and what is
// unknown or out of turn is refused.
func TestSSHDRequests(t *testing.T) {
	d := startSSHD(t, nil)
	cl := d.mustDial()
	for _, name := range []string{"keepalive@openssh.com", "tcpip-forward", "nonsense"} {
		if ok, _, err := cl.SendRequest(name, true, nil); ok || err != nil {
			t.Errorf("global %s: %v %v", name, ok, err)
		}
	}
	s := d.newSession(cl)
	netconf := ssh.Marshal(struct{ Name string }{"netconf"})
	hup := ssh.Marshal(struct{ Name string }{"HUP"})
	before := []struct {
		name    string
		payload []byte
	}{
		{"subsystem", netconf}, {"x11-req", nil}, {"auth-agent-req@openssh.com", nil}, {"break", nil},
		{"signal", hup}, {"window-change", nil}, {"pty-req", []byte{1}}, {"env", []byte{0}}, {"exec", []byte{9}},
		{"keepalive@openssh.com", nil}, {"nonsense@example.com", nil},
	}
	for _, c := range before {
		if ok, err := s.SendRequest(c.name, true, c.payload); ok || err != nil {
			t.Errorf("%s: %v %v", c.name, ok, err)
		}
	}
	if err := s.Start("exec cat"); err != nil {
		t.Fatal(err)
	}
	env := ssh.Marshal(struct{ Name, Value string }{"LANG", "C"})
	command := ssh.Marshal(struct{ Command string }{"true"})
	for name, payload := range map[string][]byte{"exec": command, "shell": nil, "env": env, "break": nil} {
		if ok, err := s.SendRequest(name, true, payload); ok || err != nil {
			t.Errorf("%s after the start: %v %v", name, ok, err)
		}
	}
	if _, _, err := cl.OpenChannel("x11", nil); !strings.Contains(fmt.Sprint(err), "unknown channel type") {
		t.Errorf("channel x11: %v", err)
	}
	cl.SendRequest("no-more-sessions@openssh.com", false, nil)
	sshdUntil(t, "no more sessions", func() bool {
		s, err := cl.NewSession()
		if err == nil {
			s.Close()
		}
		return err != nil
	})
}

func TestSSHDCaps(t *testing.T) {
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) { p.authorize = d.authorize([]string{"sftp"}) })
	_, stderr, code := d.run(d.ssh("h", "true"))
	if code != exitRefused || !strings.Contains(stderr, "does not allow this device exec") {
		t.Errorf("exec: code %d, stderr %q", code, stderr)
	}
	_, stderr, code = d.run(d.ssh("-T", "h"))
	if code != exitRefused || !strings.Contains(stderr, "does not allow this device shell") {
		t.Errorf("shell: code %d, stderr %q", code, stderr)
	}
	cl := d.mustDial()
	if _, err := cl.Dial("tcp", d.addr); !strings.Contains(fmt.Sprint(err), "does not allow this device forward") {
		t.Errorf("forward: %v", err)
	}
}

// TestSSHDNoTerminal: a client that goes on without a terminal is told why.
func TestSSHDNoTerminal(t *testing.T) {
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) { p.authorize = d.authorize([]string{"exec"}) })
	s := d.newSession(d.mustDial())
	if s.RequestPty("x", 1, 1, nil) == nil {
		t.Error("a terminal without pty")
	}
	out, _ := s.CombinedOutput("tty")
	if !strings.Contains(string(out), "not a tty") || !strings.Contains(string(out), "no terminal: the log does not allow this device pty") {
		t.Errorf("output %q", out)
	}
}

// TestSSHDChannelLimit: more channels than maxChannels are refused, and a
// closed one makes room.
func TestSSHDChannelLimit(t *testing.T) {
	d := startSSHD(t, nil)
	cl := d.mustDial()
	var open []*ssh.Session
	for range maxChannels {
		open = append(open, d.newSession(cl))
	}
	if _, err := cl.NewSession(); !strings.Contains(fmt.Sprint(err), "more than 64 channels") {
		t.Errorf("one channel more: %v", err)
	}
	open[7].Close()
	sshdUntil(t, "room for another", func() bool {
		_, err := cl.NewSession()
		return err == nil
	})
}

// pids are the leaders of all sessions started so far.
func (d *sshdTest) pids() (pids []int) {
	for _, line := range strings.Split(d.logged(), "\n") {
		if _, pid, ok := strings.Cut(line, " started, pid "); ok {
			n, _ := strconv.Atoi(pid)
			pids = append(pids, n)
		}
	}
	return pids
}

// TestSSHDDrain: closeAll lets a session end by itself, and not a new one start.
func TestSSHDDrain(t *testing.T) {
	d := startSSHD(t, nil)
	cl, idle := d.mustDial(), d.mustDial()
	s := d.newSession(cl)
	in, _ := s.StdinPipe()
	if err := s.Start("read x; exit 9"); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		d.srv.closeAll(time.Minute)
		close(closed)
	}()
	idle.Wait() // has nothing open and ends at once
	if _, err := cl.NewSession(); err == nil {
		t.Error("a new session while draining")
	}
	if _, err := d.dial(ssh.PublicKeys(sshdSigner(t, d.key))); err == nil {
		t.Error("a new connection while draining")
	}
	io.WriteString(in, "\n")
	err := s.Wait()
	if exit := (*ssh.ExitError)(nil); !errors.As(err, &exit) || exit.ExitStatus() != 9 {
		t.Error(err)
	}
	<-closed
}

func TestSSHDRecheck(t *testing.T) {
	revoked := make(chan struct{})
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		allow := p.authorize
		p.authorize = func(key ssh.PublicKey, user string) (sshGrant, error) {
			select {
			case <-revoked:
				return sshGrant{}, coded("revoked", "laptop is revoked")
			default:
				return allow(key, user)
			}
		}
	})
	cl := d.mustDial()
	s := d.newSession(cl)
	if err := s.Start("sleep 1000"); err != nil {
		t.Fatal(err)
	}
	d.srv.recheck()
	if _, err := cl.NewSession(); err != nil {
		t.Fatal(err)
	}
	close(revoked)
	d.srv.recheck()
	cl.Wait()
	sshdUntil(t, "the reason", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.errs) == 1 && codeOf(d.errs[0]) == "revoked"
	})
}

// TestSSHDContext: cancelling ends the connection and its children.
func TestSSHDContext(t *testing.T) {
	d := startSSHD(t, nil)
	ctx, stop := context.WithCancel(context.Background())
	ours, theirs := sshdConnPair(t)
	done := make(chan error, 1)
	go func() { done <- d.srv.serve(ctx, theirs, sshdSigner(t, d.key).PublicKey(), "") }()
	cc, chans, reqs, err := ssh.NewClientConn(ours, "", &ssh.ClientConfig{
		User: d.user, HostKeyCallback: ssh.FixedHostKey(sshdSigner(t, d.host).PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	s := d.newSession(ssh.NewClient(cc, chans, reqs))
	if err := s.Start("sleep 1000"); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := syscall.Kill(d.pids()[0], 0); err != syscall.ESRCH {
		t.Errorf("the child: %v", err)
	}
}
