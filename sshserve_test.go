//go:build linux || darwin

package main

// Stock clients against the server on a loopback TCP port.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// An sshdTest is a running server with one authorised key and files for stock
// clients.
type sshdTest struct {
	*testing.T
	srv  *sshServer
	addr string // host:port
	port string
	user string
	acct osAccount          // that every user logs in to
	key  ed25519.PrivateKey // may log in
	host ed25519.PrivateKey
	dir  string // holds id, known_hosts

	linkKey ssh.PublicKey // given to serve; set by change

	mu   sync.Mutex
	logs []string
	errs []error // of serve

	serving sync.WaitGroup
}

var sshdAllCaps = []string{"shell", "exec", "sftp", "forward", "pty"}

// startSSHD starts a server; change may alter its policy.
func startSSHD(t *testing.T, change func(*sshdTest, *sshPolicy)) *sshdTest {
	t.Helper()
	own, err := ownAccount()
	if err != nil {
		t.Fatal(err)
	}
	d := &sshdTest{T: t, user: own.name, key: sshdKey(t), host: sshdKey(t), dir: t.TempDir()}
	// A plain shell in an empty home: nobody's start files say anything.
	d.acct = own
	d.acct.shell, d.acct.home = "/bin/sh", d.dir
	p := sshPolicy{hostKey: sshdSigner(t, d.host), log: d.logf}
	p.account = func(string) (a osAccount, err error) {
		d.setAccount(func(acct *osAccount) { a = *acct })
		return a, nil
	}
	p.authorize = d.authorize(sshdAllCaps)
	if change != nil {
		change(d, &p)
	}
	d.srv = newSSHServer(p)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = ln.Addr().String()
	_, d.port, _ = net.SplitHostPort(d.addr)
	d.writeClientFiles()
	d.serving.Go(func() { d.accept(ln) })
	t.Cleanup(func() {
		ln.Close()
		d.srv.closeAll(0)
		d.serving.Wait()
		if t.Failed() {
			t.Log(strings.Join(d.logs, "\n"))
		}
	})
	return d
}

func (d *sshdTest) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		d.serving.Go(func() {
			err := d.srv.serve(context.Background(), nc, d.linkKey, "")
			d.mu.Lock()
			d.errs = append(d.errs, err)
			d.mu.Unlock()
		})
	}
}

// setAccount changes what is logged in to from now on.
func (d *sshdTest) setAccount(change func(*osAccount)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.acct)
}

// authorize lets in the one key, as anyone.
func (d *sshdTest) authorize(caps []string) func(ssh.PublicKey, string) (sshGrant, error) {
	want := sshdSigner(d.T, d.key).PublicKey().Marshal()
	return func(key ssh.PublicKey, user string) (sshGrant, error) {
		if !bytes.Equal(key.Marshal(), want) {
			return sshGrant{}, coded("unknown-device", "this key is nobody's")
		}
		return sshGrant{device: "laptop", caps: caps}, nil
	}
}

func (d *sshdTest) logf(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.logs = append(d.logs, fmt.Sprintf(format, args...))
}

func (d *sshdTest) logged() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.logs, "\n")
}

func sshdKey(t *testing.T) ed25519.PrivateKey {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return priv
}

func sshdSigner(t *testing.T, key ed25519.PrivateKey) ssh.Signer {
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *sshdTest) writeClientFiles() {
	block, err := ssh.MarshalPrivateKey(d.key, "")
	if err != nil {
		d.Fatal(err)
	}
	d.write("id", pem.EncodeToMemory(block))
	pub := ssh.MarshalAuthorizedKey(sshdSigner(d.T, d.host).PublicKey())
	d.write("known_hosts", append([]byte("h "), pub...))
}

func (d *sshdTest) write(name string, b []byte) string {
	file := filepath.Join(d.dir, name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		d.Fatal(err)
	}
	return file
}

// ssh is a stock OpenSSH client. args follow the options.
func (d *sshdTest) ssh(args ...string) *exec.Cmd {
	if _, err := exec.LookPath("ssh"); err != nil {
		d.Skip("no OpenSSH client here")
	}
	all := append([]string{"-F", "/dev/null", "-i", d.dir + "/id", "-p", d.port, "-l", d.user,
		"-o", "HostName=127.0.0.1", "-o", "HostKeyAlias=h", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		"-o", "UserKnownHostsFile=" + d.dir + "/known_hosts", "-o", "StrictHostKeyChecking=yes"}, args...)
	cmd := exec.Command("ssh", all...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "TERM=xterm"}
	return cmd
}

// run runs the client to its end.
func (d *sshdTest) run(cmd *exec.Cmd) (stdout, stderr string, code int) {
	d.Helper()
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		d.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// want runs the client and compares output and code.
func (d *sshdTest) want(cmd *exec.Cmd, stdout string, code int) {
	d.Helper()
	o, e, c := d.run(cmd)
	if o != stdout || c != code {
		d.Errorf("%q: got %q and code %d, want %q and %d; stderr %q", cmd.Args[len(cmd.Args)-1], o, c, stdout, code, e)
	}
}

// dial is a client of the library, for what stock clients do not do.
func (d *sshdTest) dial(auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", d.addr, &ssh.ClientConfig{
		User: d.user, Auth: auth,
		HostKeyCallback: ssh.FixedHostKey(sshdSigner(d.T, d.host).PublicKey()),
	})
}

func (d *sshdTest) mustDial() *ssh.Client {
	d.Helper()
	cl, err := d.dial(ssh.PublicKeys(sshdSigner(d.T, d.key)))
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() { cl.Close() })
	return cl
}

// sshdUntil polls until ok, for at most 15 s.
func sshdUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(15 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

func TestSSHDExec(t *testing.T) {
	d := startSSHD(t, nil)
	for _, c := range []struct {
		command, stdout string
		code            int
	}{
		{"echo hi; exit 7", "hi\n", 7},
		{"true", "", 0},
		{"echo out; echo err >&2", "out\n", 0},
		{"kill -TERM $$", "", 255},
		{"kill -KILL $$", "", 255},
		{"exit 255", "", 255},
		{"no-such-command 2>/dev/null", "", 127},
		{"echo $0 $#", "sh 0\n", 0},
	} {
		d.want(d.ssh("h", c.command), c.stdout, c.code)
	}
	_, stderr, _ := d.run(d.ssh("h", "echo err >&2"))
	if stderr != "err\n" {
		t.Errorf("stderr %q", stderr)
	}
}

func TestSSHDShell(t *testing.T) {
	d := startSSHD(t, nil)
	cmd := d.ssh("-T", "h")
	cmd.Stdin = strings.NewReader("echo $0; exit 3\n")
	d.want(cmd, "-sh\n", 3)
}

func TestSSHDTerminal(t *testing.T) {
	d := startSSHD(t, nil)
	cmd := d.ssh("-tt", "h", "tty; stty size; stty -a | tr -d '\\r'; echo $TERM $SSH_TTY")
	stdout, stderr, code := d.run(cmd)
	if code != 0 || !strings.Contains(stdout, "/dev/") || !strings.Contains(stdout, "xterm /dev/") {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// TestSSHDBytes sends 100 MB each way, byte for byte.
func TestSSHDBytes(t *testing.T) {
	d := startSSHD(t, nil)
	size := int64(100 << 20)
	if testing.Short() {
		size = 10 << 20
	}
	big := d.write("big", nil)
	f, err := os.Create(big)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		t.Fatal(err)
	}
	f.Seek(0, io.SeekStart)
	up := d.ssh("h", "cat > "+d.dir+"/up")
	up.Stdin = f
	d.want(up, "", 0)
	f.Close()
	sshdSameFiles(t, big, d.dir+"/up")

	down, err := os.Create(d.dir + "/down")
	if err != nil {
		t.Fatal(err)
	}
	cmd := d.ssh("h", "cat "+big)
	cmd.Stdout = down
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	down.Close()
	sshdSameFiles(t, big, d.dir+"/down")
}

func sshdSameFiles(t *testing.T, a, b string) {
	t.Helper()
	if out, err := exec.Command("cmp", a, b).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// An sshdBuffer is written and read by different goroutines.
type sshdBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *sshdBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *sshdBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// sshdConnPair is a TCP connection on loopback.
func sshdConnPair(t *testing.T) (a, b net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
