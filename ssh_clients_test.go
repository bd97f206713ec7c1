//go:build linux || darwin

package main

// Stock clients of other makes, and programs that go over ssh.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// tool skips the test where a program is not installed.
func (d *sshdTest) tool(name string, args ...string) *exec.Cmd {
	d.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		d.Skipf("no %s here", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "TERM=xterm"}
	return cmd
}

func TestSSHDDropbear(t *testing.T) {
	t.Parallel()
	d := startSSHD(t, nil)
	d.want(d.tool("dropbearconvert", "openssh", "dropbear", d.dir+"/id", d.dir+"/id.db"), "", 0)
	client := func(args ...string) *exec.Cmd {
		return d.tool("dbclient", append([]string{"-y", "-y", "-i", d.dir + "/id.db", "-p", d.port, d.user + "@127.0.0.1"}, args...)...)
	}
	d.want(client("echo hi; exit 3"), "hi\n", 3)
	in := client("wc -c")
	in.Stdin = bytes.NewReader(make([]byte, 3<<20))
	d.want(in, "3145728\n", 0)
	out, _, code := d.run(client("head -c 3000000 /dev/zero"))
	if len(out) != 3000000 || code != 0 {
		t.Errorf("%d bytes, code %d", len(out), code)
	}
}

func TestSSHDPutty(t *testing.T) {
	d := startSSHD(t, nil)
	_, stderr, code := d.run(d.tool("puttygen", d.dir+"/id", "-O", "private", "-o", d.dir+"/id.ppk", "--new-passphrase", "/dev/null"))
	if code != 0 {
		t.Skipf("puttygen: %s", stderr)
	}
	host := ssh.FingerprintSHA256(sshdSigner(t, d.host).PublicKey())
	client := func(args ...string) *exec.Cmd {
		return d.tool("plink", append([]string{"-batch", "-ssh", "-P", d.port, "-l", d.user, "-hostkey", host, "-i", d.dir + "/id.ppk", "127.0.0.1"}, args...)...)
	}
	d.want(client("echo hi; exit 3"), "hi\n", 3)
	in := client("wc -c")
	in.Stdin = bytes.NewReader(make([]byte, 3<<20))
	d.want(in, "3145728\n", 0)
	d.want(client("-t", "stty size"), "24 80\r\n", 0)
}

// TestSSHDRekey: new keys every 256 KiB, both ways.
func TestSSHDRekey(t *testing.T) {
	d := startSSHD(t, nil)
	big := d.write("big", bytes.Repeat([]byte("0123456789abcdef"), 1<<18))
	cmd := d.ssh("-o", "RekeyLimit=256K", "h", "cat "+big+" - | cksum")
	f, err := os.Open(big)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdin = f
	want, err := exec.Command("sh", "-c", "cat "+big+" "+big+" | cksum").Output()
	if err != nil {
		t.Fatal(err)
	}
	d.want(cmd, string(want), 0)
}

// TestSSHDMux: many sessions at once on one connection.
func TestSSHDMux(t *testing.T) {
	d := startSSHD(t, nil)
	master := d.ssh("-M", "-S", d.dir+"/mux", "-N", "h")
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	defer master.Wait()
	defer master.Process.Kill()
	sshdUntil(t, "the control socket", func() bool {
		_, err := os.Stat(d.dir + "/mux")
		return err == nil
	})
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() { d.want(d.ssh("-S", d.dir+"/mux", "h", fmt.Sprint("exit ", i)), "", i) })
	}
	all.Wait()
	if n := strings.Count(d.logged(), "logged in"); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestSSHDKeepalive: the client asks each second whether we are alive.
func TestSSHDKeepalive(t *testing.T) {
	t.Parallel() // it waits for two of them
	d := startSSHD(t, nil)
	d.want(d.ssh("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1", "h", "sleep 2.5; echo on"), "on\n", 0)
}

// remoteShell is an ssh command line for programs that run one.
func (d *sshdTest) remoteShell() string {
	args := d.ssh().Args
	return strings.Join(args, " ")
}

func TestSSHDRsync(t *testing.T) {
	d := startSSHD(t, nil)
	from := filepath.Join(d.dir, "from")
	if err := os.MkdirAll(from+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	d.write("from/a", bytes.Repeat([]byte("a"), 1<<20))
	d.write("from/sub/b", []byte("b"))
	d.want(d.tool("rsync", "-a", "-e", d.remoteShell(), from+"/", "h:"+d.dir+"/there/"), "", 0)
	d.want(d.tool("rsync", "-a", "-e", d.remoteShell(), "h:"+d.dir+"/there/", d.dir+"/back/"), "", 0)
	d.want(d.tool("diff", "-r", from, d.dir+"/back"), "", 0)
}

func TestSSHDGit(t *testing.T) {
	d := startSSHD(t, nil)
	d.write("file", bytes.Repeat([]byte("line\n"), 10000))
	script := `set -e; cd "$HOME"; git init -q repo; cp file repo/; cd repo
git add file; git -c user.name=a -c user.email=a@b commit -qm x; cd ..
git clone -q h:"$HOME/repo" copy; cmp file copy/file
cd copy; git push -q origin HEAD:other; git --git-dir "$HOME/repo/.git" rev-parse --verify -q other >/dev/null`
	d.tool("git", "--version")
	cmd := d.tool("sh", "-c", script)
	cmd.Env = append(cmd.Env, "GIT_SSH_COMMAND="+d.remoteShell(), "GIT_SSH_VARIANT=ssh")
	_, stderr, code := d.run(cmd)
	if code != 0 {
		t.Errorf("code %d, %s", code, stderr)
	}
}
