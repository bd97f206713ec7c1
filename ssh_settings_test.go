//go:build linux || darwin

package main

// Sessions as shell.*, banner and the lines of keys have them.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshdWith serves with settings that change makes of the defaults.
func sshdWith(t *testing.T, change func(*serverConfig), limits keyLimits) *sshdTest {
	t.Helper()
	return startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		conf := defaultServerConfig()
		if change != nil {
			change(conf)
		}
		p.config = func() *serverConfig { return conf }
		allow := p.authorize
		p.authorize = func(key ssh.PublicKey, user string) (sshGrant, error) {
			grant, err := allow(key, user)
			grant.keyLimits = limits
			return grant, err
		}
	})
}

// TestSSHDForcedCommand: a key's command stands for shell, command and SFTP,
// and hears what was asked for.
func TestSSHDForcedCommand(t *testing.T) {
	forced := `echo "$0 $# ${SSH_ORIGINAL_COMMAND-none} $FROM_LINE"; exit 5`
	d := sshdWith(t, func(c *serverConfig) {
		c.allowedCommands = []string{"other"}
		c.acceptEnv = []string{"*"}
	}, keyLimits{command: &forced, env: []string{"FROM_LINE=line"}})
	d.want(d.ssh("h", "rm -rf 'x y'"), "sh 0 rm -rf 'x y' line\n", 5)
	d.want(d.ssh("h"), "sh 0 none line\n", 5)
	d.want(d.ssh("-s", "h", "sftp"), "sh 0 internal-sftp line\n", 5)

	env := d.ssh("-o", "SendEnv=FROM_LINE SSH_ORIGINAL_COMMAND", "h", "x")
	env.Env = append(env.Env, "FROM_LINE=client", "SSH_ORIGINAL_COMMAND=client")
	d.want(env, "sh 0 x line\n", 5)

	s := d.newSession(d.mustDial())
	if err := s.RequestSubsystem("netconf"); err == nil {
		t.Error("a subsystem that there is none of")
	}
	forced = "echo in; read x; echo $x"
	s = d.newSession(d.mustDial())
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.Start("x"); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, 3))
	if ok, err := s.SendRequest("signal", true, ssh.Marshal(struct{ Name string }{"KILL"})); ok || err != nil {
		t.Errorf("a signal: %v, %v", ok, err)
	}
	io.WriteString(in, "on\n")
	if b, err := io.ReadAll(out); string(b) != "on\n" || s.Wait() != nil {
		t.Errorf("%q, %v", b, err)
	}
	if strings.Contains(d.logged(), "rm -rf") {
		t.Error("the log has a command")
	}
}

func TestSSHDAllowedCommands(t *testing.T) {
	t.Parallel()
	d := sshdWith(t, func(c *serverConfig) { c.allowedCommands = []string{"printf", "/bin/sh", "no-such-program", "."} }, keyLimits{})
	d.want(d.ssh("h", `printf '%s|' 'a  b' "c'd" \$HOME`), "a  b|c'd|$HOME|", 0)
	d.want(d.ssh("h", `/bin/sh -c 'echo $0; exit 9'`), "/bin/sh\n", 9)
	for command, why := range map[string]string{
		"echo hi": "none of shell.allowed_commands", "/usr/bin/printf x": "none of", "PRINTF x": "none of", "  ''": "none of", " ": "none of", "A=b printf x": "none of",
		"printf x; id": "needs a shell", "printf $HOME": "needs a shell", "printf 'x": "needs a shell", "printf *": "needs a shell",
	} {
		_, stderr, code := d.run(d.ssh("h", command))
		if code != exitRefused || !strings.Contains(stderr, why) {
			t.Errorf("%s: code %d, stderr %q", command, code, stderr)
		}
	}
	for _, command := range []string{"no-such-program", "."} {
		if _, stderr, code := d.run(d.ssh("h", command)); code != exitNotFound || !strings.Contains(stderr, "not installed") {
			t.Errorf("%s: code %d, stderr %q", command, code, stderr)
		}
	}
	if _, stderr, code := d.run(d.ssh("-T", "h")); code != exitRefused || !strings.Contains(stderr, "no shell here") {
		t.Errorf("a shell: code %d, stderr %q", code, stderr)
	}
	d.setAccount(func(a *osAccount) { a.shell = "/usr/sbin/nologin" })
	if _, stderr, code := d.run(d.ssh("h", "printf x")); code != exitRefused || !strings.Contains(stderr, "may not log in") {
		t.Errorf("with nologin for a shell: code %d, stderr %q", code, stderr)
	}
}

// TestSSHDCommandTimeout: a command and what it started end with 124 and a
// word why, though they ignore TERM or have left the session; a shell goes on.
func TestSSHDCommandTimeout(t *testing.T) {
	d := sshdWith(t, func(c *serverConfig) { c.commandTimeout = 300 * time.Millisecond }, keyLimits{})
	for _, command := range []string{
		"echo up; exec sleep 1000",
		"echo up; trap 'echo tidy; exit 3' TERM; sleep 1000 & wait",
		"trap '' TERM; sleep 1000 & echo up; while :; do sleep 1; done",
		"setsid sleep 2 & echo up; wait", // it holds the pipes
	} {
		out, stderr, code := d.run(d.ssh("h", command))
		if !strings.HasPrefix(out, "up\n") || strings.Contains(command, "tidy") != strings.Contains(out, "tidy") ||
			!strings.Contains(stderr, "longer than shell.command_timeout") || code != exitExpired {
			t.Errorf("%s: code %d, stdout %q, stderr %q", command, code, out, stderr)
		}
	}
	for _, pid := range d.pids() {
		if err := syscall.Kill(-pid, 0); err != syscall.ESRCH {
			t.Errorf("process group %d: %v", pid, err)
		}
	}
	d.want(d.ssh("h", "echo quick"), "quick\n", 0)
	shell := d.ssh("-T", "h")
	shell.Stdin = strings.NewReader("sleep .6; echo shell\n")
	d.want(shell, "shell\n", 0)
}

// TestSSHDVariables: a client's variables, a key's, the configuration's, an
// account's: each counts before those named earlier, and once only.
func TestSSHDVariables(t *testing.T) {
	d := sshdWith(t, func(c *serverConfig) {
		c.env = []string{"A=conf", "B=conf", "C=conf", "D=conf", "TERM=conf", "SSH_CLIENT=conf", "PATH=/conf:/bin:/usr/bin"}
		c.acceptEnv = []string{"[A-Z]", "PATH", "HOME", "LD_*"}
	}, keyLimits{env: []string{"D=key", "F=key"}})
	d.setAccount(func(a *osAccount) { a.env = []string{"B=account", "C=account", "D=account"} })
	says := func(want string) {
		t.Helper()
		cmd := d.ssh("-o", "SendEnv=C D E F PATH HOME LD_PRELOAD LANG", "h", `echo $A $B $C $D $E $F $TERM "$PATH"; env | cut -d= -f1 | sort | uniq -d; env | grep -c -E '^(LANG|LD_|SSH_CLIENT=conf)'; exit 0`)
		cmd.Env = append(cmd.Env, "C=client", "D=client", "E=client", "F=client", "LD_PRELOAD=/x", "LANG=C")
		d.want(cmd, want+" conf /conf:/bin:/usr/bin\n0\n", 0)
	}
	says("conf account account account client key")
	d.setAccount(func(a *osAccount) { a.env = nil })
	says("conf conf conf conf client key")
	d.want(d.ssh("-tt", "h", "echo $TERM"), "xterm\r\n", 0)
}

// TestSSHDDefaultShell: shell.default is for accounts that name none.
func TestSSHDDefaultShell(t *testing.T) {
	if _, err := os.Stat("/bin/bash"); err != nil {
		t.Skip(err)
	}
	d := sshdWith(t, func(c *serverConfig) { c.shell = "/bin/bash" }, keyLimits{})
	d.want(d.ssh("h", "echo $SHELL $0"), "/bin/sh sh\n", 0)
	d.setAccount(func(a *osAccount) { a.noShell = true })
	d.want(d.ssh("h", "echo $SHELL $0"), "/bin/bash bash\n", 0)
	if a, ok := parsePasswdLine("u:x:1:1::/home/u:"); !ok || !a.noShell || a.shell != fallbackShell {
		t.Errorf("%+v", a)
	}
	d.setAccount(func(a *osAccount) { a.noShell, a.shell = false, d.dir+"/gone" })
	if _, stderr, code := d.run(d.ssh("h", "true")); code != exitRefused || !strings.Contains(stderr, "starting "+d.dir+"/gone: no such file") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

// TestSSHDBanner: the file is read anew for each connection; one that is
// missing, too large or no file is a line in the log.
func TestSSHDBanner(t *testing.T) {
	var file string
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		file = d.dir + "/issue"
		p.config = func() *serverConfig {
			c := defaultServerConfig()
			c.banner = file
			return c
		}
	})
	seen := func() (text string) {
		t.Helper()
		cl, err := ssh.Dial("tcp", d.addr, &ssh.ClientConfig{
			User: d.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(t, d.key))},
			HostKeyCallback: ssh.FixedHostKey(sshdSigner(t, d.host).PublicKey()),
			BannerCallback:  func(s string) error { text += s; return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		cl.Close()
		return text
	}
	if text := seen(); text != "" || !strings.Contains(d.logged(), "no banner: open "+file) {
		t.Errorf("%q, log %q", text, d.logged())
	}
	for _, text := range []string{"Authorised use only.\n", strings.Repeat("x", maxTextFile), ""} {
		d.write("issue", []byte(text))
		if got := seen(); got != text {
			t.Errorf("%.20q instead of %.20q", got, text)
		}
	}
	d.write("issue", make([]byte, maxTextFile+1))
	if text := seen(); text != "" || !strings.Contains(d.logged(), fmt.Sprintf("no file of at most %d bytes", maxTextFile)) {
		t.Errorf("%.20q, log %q", text, d.logged())
	}
	os.Remove(file)
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if text := seen(); text != "" {
		t.Errorf("%q", text)
	}
	os.Remove(file)
	d.write("issue", []byte("hello\n"))
	stock := d.ssh("h", "true")
	stock.Args = append([]string{"ssh", "-o", "LogLevel=INFO"}, stock.Args[1:]...)
	if _, stderr, code := d.run(stock); stderr != "hello\n" || code != 0 {
		t.Errorf("ssh shows %q, code %d", stderr, code)
	}
}

// TestSSHDNologin: while the file is there nobody but root gets in, and reads
// its text.
func TestSSHDNologin(t *testing.T) {
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) { p.nologin = d.dir + "/nologin" })
	d.setAccount(func(a *osAccount) { a.uid = 12345 }) // nothing is started as that
	file := d.write("nologin", []byte("Back at noon.\nYour admin\n"))
	for _, args := range [][]string{{"h", "echo in"}, {"-tt", "h"}} {
		out, stderr, code := d.run(d.ssh(args...))
		if out != "" || code != exitNologin || !strings.Contains(stderr, "Back at noon.\r\nYour admin\r\n") || !strings.Contains(stderr, "only root may log in") {
			t.Errorf("code %d, stdout %q, stderr %q", code, out, stderr)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	d.setAccount(func(a *osAccount) { a.uid = uint32(os.Geteuid()) })
	d.want(d.ssh("h", "echo in"), "in\n", 0)
	if os.Geteuid() == 0 {
		d.write("nologin", nil)
		d.want(d.ssh("h", "echo in"), "in\n", 0)
	}
}

// TestSSHDScriptOnInput is how VS Code and Ansible start: a script on the
// input of a shell without a terminal, more of it when the first lines have
// answered.
func TestSSHDScriptOnInput(t *testing.T) {
	d := startSSHD(t, nil)
	s := d.newSession(d.mustDial())
	in, inErr := s.StdinPipe()
	out, outErr := s.StdoutPipe()
	if err := errors.Join(inErr, outErr, s.Start("/bin/sh")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 64)
	for _, c := range []struct{ line, want string }{{"test -t 0 || echo piped\n", "piped\n"}, {"x=a\necho got $x\n", "got a\n"}, {"echo last; exit 4\n", "last\n"}} {
		if _, err := in.Write([]byte(c.line)); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadFull(out, got[:len(c.want)])
		if string(got[:n]) != c.want {
			t.Fatalf("%q: %q, %v", c.line, got[:n], err)
		}
	}
	err := s.Wait() // the input is still open
	if exit := (*ssh.ExitError)(nil); !errors.As(err, &exit) || exit.ExitStatus() != 4 {
		t.Error(err)
	}
}
