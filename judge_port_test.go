//go:build linux

package main

// Stock ssh against a device's TCP port, where the machine belongs to no
// account, and the same by way of sessio proxy, on real processes.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// judgeForwards opens what is shut at first.
const judgeForwards = "-set forward.remote=true -set forward.agent=true -set forward.streamlocal=true "

// judgeSecret is a password as a person has it.
const judgeSecret = "correct horse; 'battery' $taple"

const judgeConfig = `Host h
 HostName 127.0.0.1
 Port %s
 User %s
Host *
 IdentityFile id
 IdentitiesOnly yes
 BatchMode yes
 UserKnownHostsFile known_hosts
 StrictHostKeyChecking yes
`

// newPort sets up attic with a TCP port, a host key and a certified, a plain and
// a password login, and laptop, whose ssh knows it as "h". flags are more of
// attic's.
func newPort(t *testing.T, flags string) *judge {
	t.Helper()
	j := &judge{newScript(t, "setup of "+t.Name())}
	j.vars["PORT"], j.vars["SECRET"] = freePort(t), judgeSecret
	j.vars["CONFIG"] = fmt.Sprintf(judgeConfig, j.vars["PORT"], j.vars["USER"])
	j.run(`
on laptop
exec ssh-keygen -q -t ed25519 -N '' -f id
exec ssh-keygen -q -t ed25519 -N '' -f ca
exec ssh-keygen -q -t ecdsa -N '' -f certified
exec ssh-keygen -q -s ca -I judge -n $USER certified.pub
exec ssh-keygen -q -t ed25519 -N '' -f stranger
on attic
tool gen-host-key -o hostkey
exec sh -c 'mkdir -p keys/$0; (cat ../laptop/id.pub; echo cert-authority $(cat ../laptop/ca.pub)) >keys/$0/authorized_keys; chmod -R go-w keys' $USER
exec sh -c 'printf "%s\n" "$1" | "$0" hash-password' $TOOL $SECRET
capture HASH '^[$]argon2id.*'
tool -device -v -p $PORT -b 127.0.0.1 -set server.host_keys=$WORK/attic/hostkey -set auth.publickey.authorized_keys_dir=$WORK/attic/keys -set auth.methods=publickey,password -set "auth.password.users=[{name: '$USER', password_hash: '$HASH'}]" ` + flags + ` &attic
wait attic 'ssh on tcp 127.0.0.1:'
on laptop
exec sh -c 'echo "[127.0.0.1]:$0 $(cat ../attic/hostkey.pub)" >known_hosts' $PORT
exec sh -c 'printf %s "$0" >config' "$CONFIG"`)
	return j
}

// says runs a command, whose output and status must be these.
func (j *judge) says(cmd *exec.Cmd, want string, status int) {
	j.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	defer timeLimit(cmd)()
	err := cmd.Run()
	if code := exitCode(cmd, err); out.String() != want || code != status {
		j.fatalf("%q: status %d, want %d; said %.200q, want %.200q\n%s", cmd.Args, code, status, out.String(), want, errs.String())
	}
}

// timeLimit kills a command that runs too long; what it returns calls that off.
func timeLimit(cmd *exec.Cmd) (off func()) {
	cmd.WaitDelay = time.Second
	timer := time.AfterFunc(2*scriptWait, func() {
		if cmd.Process != nil {
			cmd.Process.Kill()
		}
	})
	return func() { timer.Stop() }
}

func TestJudgePortOpenSSH(t *testing.T) {
	t.Parallel()
	newPort(t, judgeForwards).openSSH("h")
}

func TestJudgeProxyOpenSSH(t *testing.T) {
	t.Parallel()
	newJudge(t, judgeForwards).openSSH("attic.sessio")
}

// openSSH asks all of ssh that goes over a connection.
func (j *judge) openSSH(host string) {
	j.t.Helper()
	alive := j.stockSSH("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1", host, "sleep 2.5; echo on")
	var on bytes.Buffer
	alive.Stdout = &on
	if err := alive.Start(); err != nil {
		j.fatalf("%v", err)
	}
	j.says(j.stockSSH(host, "echo out; echo err >&2; exit 7"), "out\n", 7)
	j.says(j.stockSSH(host, "kill -TERM $$"), "", 255)
	with := j.stockSSH("-o", "SendEnv=LC_JUDGE", "-o", "SendEnv=JUDGE", host, "echo $LC_JUDGE$JUDGE")
	with.Env = append(with.Env, "LC_JUDGE=taken", "JUDGE=left")
	j.says(with, "taken\n", 0)
	j.stockRekey(host)
	j.stockTerminal(host)
	j.stockMux(host)
	j.stockForwards(host)
	if err := alive.Wait(); err != nil || on.String() != "on\n" {
		j.fatalf("with questions whether we are there: %q, %v", on.String(), err)
	}
}

// stockRekey moves bytes up and down under new keys every 256 KiB; more often
// than twice is sure, for what is under way while keys are made is a window of
// 2 MiB at most.
func (j *judge) stockRekey(host string) {
	j.t.Helper()
	const size = 6 << 20
	file := filepath.Join(j.work, "laptop", "moved")
	for _, way := range []string{"cat >" + file, "cat " + file} {
		cmd := j.stockSSH("-v", "-o", "RekeyLimit=256K", host, way)
		check := &noiseCheck{want: noise(size)}
		var errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = noise(size), check, &errs
		defer timeLimit(cmd)()
		err := cmd.Run()
		keys := strings.Count(errs.String(), "SSH2_MSG_NEWKEYS received")
		if err != nil || keys < 3 || check.n != 0 && check.n != size {
			j.fatalf("%s: %v, new keys %d times, %d bytes came\n%s", way, err, keys, check.n, errs.String())
		}
	}
	f, err := os.Open(file)
	if err != nil {
		j.fatalf("%v", err)
	}
	defer f.Close()
	check := &noiseCheck{want: noise(size)}
	if _, err := io.Copy(check, f); err != nil || check.n != size {
		j.fatalf("%d bytes went up, %v", check.n, err)
	}
}

// stockTerminal sees sizes of a terminal, and a key that interrupts.
func (j *judge) stockTerminal(host string) {
	j.t.Helper()
	j.background("tty", "ssh", append(j.stockSSH().Args[1:], "-tt", host, "tty; stty size; read x; stty size; trap 'echo got INT; exit 6' INT; echo ready; while :; do sleep 0.1; done"), true)
	j.run("wait tty '^/dev/pts/'\nwait tty '^24 200'")
	if err := pty.Setsize(j.proc("tty").tty, &pty.Winsize{Rows: 41, Cols: 97}); err != nil {
		j.fatalf("%v", err)
	}
	j.run("type tty x\nwait tty '^41 97'\nwait tty '^ready'\ntype tty \x03\nwait tty 'got INT'\nended tty 6")
}

// stockMux has twelve sessions at once on one connection: each waits until all
// are there.
func (j *judge) stockMux(host string) {
	j.t.Helper()
	sock := filepath.Join(j.work, "mux")
	j.background("mux", "ssh", append(j.stockSSH().Args[1:], "-M", "-S", sock, "-N", host), false)
	j.within(scriptWait, "the control socket", func() bool { return isThere(sock) })
	var all [12]struct {
		*exec.Cmd
		in  io.Closer
		out *bufio.Reader
	}
	for i := range all {
		cmd := j.stockSSH("-S", sock, host, fmt.Sprintf("cat; exit %d", i))
		cmd.Stdin = nil
		in, inErr := cmd.StdinPipe()
		out, outErr := cmd.StdoutPipe()
		if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
			j.fatalf("%v", err)
		}
		defer timeLimit(cmd)()
		fmt.Fprintln(in, i)
		all[i].Cmd, all[i].in, all[i].out = cmd, in, bufio.NewReader(out)
	}
	for i, s := range all { // none ends before all have answered
		if line, err := s.out.ReadString('\n'); line != fmt.Sprintln(i) {
			j.fatalf("session %d: %q, %v", i, line, err)
		}
	}
	for i, s := range all {
		s.in.Close()
		if code := exitCode(s.Cmd, s.Wait()); code != i {
			j.fatalf("session %d: status %d", i, code)
		}
	}
	j.says(j.stockSSH("-S", sock, "-O", "exit", host), "", 0)
	j.run("ended mux") // with 255, as one that was told to exit has it
}

func isThere(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// stockForwards has one ssh with forwards of all kinds, both ways.
func (j *judge) stockForwards(host string) {
	j.t.Helper()
	echo := sshdEcho(j.t, echoTCP)
	web := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(j.work, "laptop"))))
	defer web.Close()
	ports := [5]string{}
	for i := range ports {
		ports[i] = freePort(j.t)
	}
	here, there := filepath.Join(j.work, "here"), filepath.Join(j.work, "there")
	j.background("forwards", "ssh", append(j.stockSSH().Args[1:], "-N", "-o", "ExitOnForwardFailure=yes",
		"-R", "0:"+echo, "-R", there+":"+echo, "-R", ports[0]+":"+echo, "-R", ports[4],
		"-L", ports[1]+":"+echo, "-L", ports[2]+":"+there, "-L", here+":"+there, "-D", ports[3], host), false)
	j.run("wait forwards 'Allocated port'\ncapture ANY forwards 'Allocated port ([0-9]+)'")
	j.within(scriptWait, "the forwarded socket", func() bool { return isThere(here) && isThere(there) })
	for _, to := range []string{j.vars["ANY"], ports[0], ports[1], ports[2], here, there} {
		for range 5 {
			if err := noiseThere(to, 300000); err != nil {
				j.fatalf("%s: %v", to, err)
			}
		}
	}
	_, webPort, _ := net.SplitHostPort(web.Listener.Addr().String())
	for _, socks := range []string{ports[3], ports[4]} {
		j.says(j.command("curl", "-sS", "--socks5-hostname", "127.0.0.1:"+socks, "http://localhost:"+webPort+"/config"), j.read("laptop/config"), 0)
	}
	j.run("stop forwards")
	j.within(scriptWait, "the end of the sockets", func() bool { return !isThere(there) && noiseThere(ports[0], 1) != nil })

	w := j.stockSSH("-W", echo, host)
	check := &noiseCheck{want: noise(1 << 20)}
	w.Stdin, w.Stdout = noise(1<<20), check
	defer timeLimit(w)()
	if err := w.Run(); err != nil || check.n != 1<<20 {
		j.fatalf("ssh -W: %d bytes came back, %v", check.n, err)
	}

	j.agent()
	j.output(j.command("ssh-add", "-q", "id"))
	keys := j.output(j.command("ssh-add", "-l"))
	j.says(j.stockSSH("-A", host, "ssh-add -l"), keys, 0)
	sock := j.output(j.stockSSH("-A", host, "echo -n $SSH_AUTH_SOCK"))
	j.within(scriptWait, "the end of "+sock, func() bool { return sock != "" && !isThere(sock) })
	j.says(j.stockSSH("-a", host, "echo -n $SSH_AUTH_SOCK"), "", 0)
}

func echoTCP(nc *net.TCPConn) { io.Copy(nc, nc) }

// agent starts an ssh-agent, which what runs afterwards finds.
func (j *judge) agent() {
	j.t.Helper()
	sock := filepath.Join(j.work, "agent")
	j.on = "laptop"
	j.background("agent", "ssh-agent", []string{"-D", "-a", sock}, false)
	j.within(scriptWait, "the agent", func() bool { return isThere(sock) })
	j.vars["SSH_AUTH_SOCK"] = sock
}

// noiseThere sends n bytes to an echo at a port of loopback or a Unix socket.
func noiseThere(to string, n int64) error {
	network := "unix"
	if !filepath.IsAbs(to) {
		network, to = "tcp", "127.0.0.1:"+to
	}
	c, err := net.Dial(network, to)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(scriptWait))
	go func() {
		io.Copy(c, noise(n))
		c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	check := &noiseCheck{want: noise(n)}
	if _, err := io.Copy(check, c); err != nil || check.n != n {
		return fmt.Errorf("%d bytes, %v", check.n, err)
	}
	return nil
}

// read is what stands in a file of a machine.
func (j *judge) read(name string) string {
	j.t.Helper()
	b, err := os.ReadFile(filepath.Join(j.work, name))
	if err != nil {
		j.fatalf("%v", err)
	}
	return string(b)
}

// TestJudgePortLogins lets in who should be, and nobody else.
func TestJudgePortLogins(t *testing.T) {
	t.Parallel()
	j := newPort(t, "-set security.max_auth_attempts=100 ")
	j.stockLogins()
}

func (j *judge) stockLogins() {
	j.t.Helper()
	who := func(want string, status int, args ...string) {
		j.t.Helper()
		j.says(j.stockSSH(append(args, "h", "echo in")...), want, status)
	}
	who("in\n", 0)
	j.run(`exec sh -c 'sed "s, IdentityFile .*,," config >bare'`)
	j.says(j.command("ssh", "-F", "bare", "-i", "certified", "h", "echo in"), "in\n", 0)
	j.says(j.command("ssh", "-F", "bare", "-i", "stranger", "h", "echo in"), "", 255)
	j.run(`exec mv certified-cert.pub away`)
	j.says(j.command("ssh", "-F", "bare", "-i", "certified", "h", "echo in"), "", 255)

	j.run(`exec sh -c 'printf "#!/bin/sh\ncat secret" >ask; chmod 700 ask; printf %s "$0" >secret; echo wrong >wrong' $SECRET`)
	j.vars["SSH_ASKPASS"], j.vars["SSH_ASKPASS_REQUIRE"] = filepath.Join(j.work, "laptop", "ask"), "force"
	byPassword := []string{"-F", "bare", "-o", "PubkeyAuthentication=no", "-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=1", "h", "echo in"}
	j.says(j.command("ssh", byPassword...), "in\n", 0)
	j.run("exec cp wrong secret")
	j.says(j.command("ssh", byPassword...), "", 255)

	// the sixth key of an agent fits
	j.agent()
	j.run(`exec sh -c 'for i in 1 2 3 4 5; do ssh-keygen -q -t ed25519 -N "" -f k$i; ssh-add -q k$i; done; ssh-add -q id'`)
	j.says(j.command("ssh", "-F", "bare", "-o", "IdentitiesOnly=no", "h", "echo in"), "in\n", 0)
	j.run("exec ssh-add -q -d id")
	j.says(j.command("ssh", "-F", "bare", "-o", "IdentitiesOnly=no", "h", "echo in"), "", 255)

	who("in\n", 0, "-J", "h", "-o", "HostKeyAlias=[127.0.0.1]:"+j.vars["PORT"])
	j.says(j.stockSSH("-l", "nobody-at-all", "h", "echo in"), "", 255)
}
