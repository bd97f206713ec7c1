//go:build linux

package main

// Clients of other makes against a device's TCP port, on real processes. What
// testdata/tools.sh installs for make judge alone is asked for only there.

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestJudgePortDropbear(t *testing.T) {
	t.Parallel()
	j := newPort(t, "-set forward.remote=true ")
	j.run("exec dropbearconvert openssh dropbear id id.db")
	client := func(args ...string) *exec.Cmd {
		j.on = "laptop"
		return j.command("dbclient", append([]string{"-i", "id.db", "-p", j.vars["PORT"], j.vars["USER"] + "@127.0.0.1"}, args...)...)
	}
	j.run(`exec sh -c 'mkdir .ssh; echo "127.0.0.1 $(cat ../attic/hostkey.pub)" >.ssh/known_hosts'`) // it knows no ports
	j.says(client("echo out; echo err >&2; exit 3"), "out\n", 3)
	j.echoes(client("cat"))
	j.clientForwards("dbclient", client().Args[1:])
	byPassword := j.command("dbclient", "-p", j.vars["PORT"], j.vars["USER"]+"@127.0.0.1", "echo in")
	byPassword.Env = append(byPassword.Env, "DROPBEAR_PASSWORD="+judgeSecret)
	j.says(byPassword, "in\n", 0)
}

func TestJudgePortPutty(t *testing.T) {
	t.Parallel()
	j := newPort(t, "-set forward.remote=true ")
	j.run(`exec puttygen id -O private -o id.ppk --new-passphrase /dev/null
exec ssh-keygen -lf ../attic/hostkey.pub
capture FP 'SHA256:[^ ]+'
exec sh -c 'printf %s "$0" >secret' $SECRET`)
	plink := func(auth, with string, args ...string) *exec.Cmd {
		j.on = "laptop"
		return j.command("plink", append([]string{"-batch", "-ssh", "-P", j.vars["PORT"], "-l", j.vars["USER"], "-hostkey", j.vars["FP"], auth, with, "127.0.0.1"}, args...)...)
	}
	j.says(plink("-i", "id.ppk", "echo out; echo err >&2; exit 3"), "out\n", 3)
	j.says(plink("-pwfile", "secret", "echo in"), "in\n", 0)
	j.says(plink("-i", "id.ppk", "-t", "stty size"), "24 80\r\n", 0)
	j.echoes(plink("-i", "id.ppk", "cat"))
	args := plink("-i", "id.ppk").Args[1:]
	j.clientForwards("plink", args)
}

// echoes moves bytes both ways at once through a command that is cat.
func (j *judge) echoes(cmd *exec.Cmd) {
	j.t.Helper()
	const size = 3 << 20
	check := &noiseCheck{want: noise(size)}
	cmd.Stdin, cmd.Stdout = noise(size), check
	defer timeLimit(cmd)()
	if err := cmd.Run(); err != nil || check.n != size {
		j.fatalf("%q: %d bytes came back, %v", cmd.Args, check.n, err)
	}
}

// clientForwards has a client, whose last argument is the host, forward ports
// both ways.
func (j *judge) clientForwards(client string, args []string) {
	j.t.Helper()
	echo := sshdEcho(j.t, echoTCP)
	there, back := freePort(j.t), freePort(j.t)
	n := len(args) - 1
	args = append(slices.Clone(args[:n]), "-N", "-L", there+":"+echo, "-R", back+":"+echo, args[n])
	j.background(client, client, args, false)
	for _, port := range []string{there, back} {
		j.within(scriptWait, "port "+port+" of "+client, func() bool { return noiseThere(port, 300000) == nil })
	}
	j.run("kill " + client)
}

// TestJudgePortPython: testdata/judge has what paramiko and asyncssh ask.
func TestJudgePortPython(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newPort(t, "-set forward.remote=true ")
	scripts, err := filepath.Abs("testdata/judge")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{"paramiko.py", "asyncssh.py"} {
		out := j.output(j.command("/usr/bin/python3", "-I", filepath.Join(scripts, script), j.vars["PORT"], j.vars["USER"], "id", judgeSecret, "known_hosts"))
		if out != "all well\n" {
			t.Errorf("%s: %q", script, out)
		}
	}
}

// TestJudgePortAnsible: without pipelining the module is a file that goes up
// through dd, as there is no SFTP.
func TestJudgePortAnsible(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newPort(t, "")
	j.run(`exec sh -c 'echo "h ansible_host=h ansible_python_interpreter=/usr/bin/python3" >hosts'`)
	for _, pipelining := range []string{"1", "0"} {
		cmd := j.command("ansible", "-i", "hosts", "h", "-o", "-m", "ping")
		cmd.Env = append(cmd.Env, "LC_ALL=C.UTF-8", "ANSIBLE_PIPELINING="+pipelining, "ANSIBLE_SSH_TRANSFER_METHOD=piped",
			"ANSIBLE_SSH_ARGS=-F "+filepath.Join(j.work, "laptop", "config")+" -o ControlMaster=auto -o ControlPersist=2",
			"ANSIBLE_REMOTE_TEMP="+filepath.Join(j.work, "attic", "ansible"), "ANSIBLE_SSH_CONTROL_PATH="+filepath.Join(j.work, "a"+pipelining))
		if out := j.output(cmd); !strings.HasPrefix(out, "h | SUCCESS") || !strings.Contains(out, `"ping": "pong"`) {
			t.Errorf("pipelining %s: %s", pipelining, out)
		}
	}
}

// TestJudgePortMosh: what mosh needs of ssh is a terminal on which its server
// starts, and that it may go on when the session is over.
func TestJudgePortMosh(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newPort(t, "")
	out := j.output(j.stockSSH("-tt", "h", "LC_ALL=C.UTF-8 mosh-server new -i 127.0.0.1 -- sleep 600"))
	text, ok := j.captured(`pid = ([0-9]+)\]`, out)
	pid, _ := strconv.Atoi(text)
	if !ok || !strings.Contains(out, "MOSH CONNECT ") || !isAlive(pid) {
		t.Fatalf("no server of mosh: %s", out)
	}
	syscall.Kill(pid, syscall.SIGTERM)
	j.within(scriptWait, "the end of mosh-server", func() bool { return !isAlive(pid) })
}

// TestJudgePortAudit: ssh-audit 2.5.0 does not know what came after it;
// hmac-sha2-256 stays for Dropbear, and the rest it has nothing against.
func TestJudgePortAudit(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newPort(t, "")
	cmd := j.command("ssh-audit", "-n", "127.0.0.1:"+j.vars["PORT"])
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	defer timeLimit(cmd)()
	if code := exitCode(cmd, cmd.Run()); code != 2 { // worst of all: a warning
		t.Errorf("status %d", code)
	}
	var objections []string
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "[fail]") || strings.Contains(line, "[warn]") {
			objections = append(objections, strings.Join(strings.Fields(line), " "))
		}
	}
	if want := []string{
		"(kex) mlkem768x25519-sha256 -- [warn] unknown algorithm",
		"(kex) kex-strict-s-v00@openssh.com -- [warn] unknown algorithm",
		"(mac) hmac-sha2-256 -- [warn] using encrypt-and-MAC mode",
	}; !slices.Equal(objections, want) || !strings.Contains(out.String(), "(kex) curve25519-sha256 ") {
		t.Errorf("it says %q\n%s", objections, out.String())
	}
}
