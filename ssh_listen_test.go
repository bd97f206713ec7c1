//go:build linux

package main

// What the server listens on for a client: ports, paths and agents, as the
// server's own user and as another.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshdForwards switches all forwards on.
func sshdForwards(p *sshPolicy) {
	conf := defaultServerConfig()
	conf.forwardRemote, conf.forwardAgent, conf.forwardStreamlocal = true, true, true
	p.config = func() *serverConfig { return conf }
}

// sshdBothUsers runs f with a server whose logins are its own user, and one
// where they are another.
func sshdBothUsers(t *testing.T, f func(*testing.T, *sshdTest)) {
	t.Run("own", func(t *testing.T) { f(t, startSSHD(t, func(_ *sshdTest, p *sshPolicy) { sshdForwards(p) })) })
	t.Run("other", func(t *testing.T) {
		acct := sshdNobody(t)
		d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
			d.acct = acct
			sshdForwards(p)
		})
		if err := os.Chmod(filepath.Dir(d.dir), 0o755); err != nil {
			t.Fatal(err)
		}
		f(t, d)
	})
}

// sshdUserDir is a directory of the user's.
func (d *sshdTest) userDir() string {
	dir, err := os.MkdirTemp("/tmp", "sessio-test-")
	if err == nil {
		err = os.Chown(dir, int(d.acct.uid), int(d.acct.gid))
	}
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// upper answers with what it got to the end, in capitals.
func sshdUpper(nc *net.TCPConn) {
	b, _ := io.ReadAll(nc)
	io.WriteString(nc, strings.ToUpper(string(b)))
}

// sshdAskUpper says hello, ends, and wants the answer of sshdUpper.
func sshdAskUpper(t *testing.T, nc net.Conn, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	defer nc.Close()
	io.WriteString(nc, "hello")
	nc.(interface{ CloseWrite() error }).CloseWrite()
	if b, err := io.ReadAll(nc); string(b) != "HELLO" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// master starts a stock client that stays, and ends with the test. It is
// there, with its forwards, when it returns.
func (d *sshdTest) master(args ...string) {
	d.Helper()
	cmd := d.ssh(append([]string{"-M", "-S", d.dir + "/ctl", "-N", "-o", "ExitOnForwardFailure=yes"}, append(args, "h")...)...)
	var stderr sshdBuffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	sshdUntil(d.T, "the client", func() bool {
		_, _, code := d.run(d.ssh("-S", d.dir+"/ctl", "-O", "check", "h"))
		return code == 0
	})
}

// control asks the master.
func (d *sshdTest) control(args ...string) (stdout, stderr string, code int) {
	d.Helper()
	return d.run(d.ssh(append([]string{"-S", d.dir + "/ctl", "-O"}, append(args, "h")...)...))
}

// TestSSHDRemoteStock is ssh -R with a stock client: port 0 is answered with
// the port, both loopbacks lead to the client, and a cancel frees the port.
func TestSSHDRemoteStock(t *testing.T) {
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		target := sshdEcho(t, sshdUpper)
		d.master()
		out, stderr, code := d.control("forward", "-R", "0:"+target)
		port := strings.TrimSpace(out)
		if code != 0 || port == "" || port == "0" {
			t.Fatalf("%q, %q, %d", out, stderr, code)
		}
		nc, err := net.Dial("tcp", "127.0.0.1:"+port)
		sshdAskUpper(t, nc, err)
		if hasIPv6Loopback() {
			nc, err = net.Dial("tcp", "[::1]:"+port)
			sshdAskUpper(t, nc, err)
		}
		if _, stderr, code := d.control("cancel", "-R", "0:"+target); code != 0 {
			t.Fatal(stderr)
		}
		sshdUntil(t, "the port's end", func() bool { // the client does not wait for the answer
			ln, err := net.Listen("tcp", "127.0.0.1:"+port)
			if err == nil {
				ln.Close()
			}
			return err == nil
		})
	})
}

// TestSSHDRemoteAddresses: whatever address a client wants, the port is on
// loopback, and connections come with the words that the client used.
func TestSSHDRemoteAddresses(t *testing.T) {
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		cl := d.mustDial()
		opened := cl.HandleChannelOpen(forwardedTCP)
		for _, addr := range []string{"", "0.0.0.0", "::", "*", "localhost", "127.0.0.1"} {
			ok, b, err := cl.SendRequest(listenTCP, true, ssh.Marshal(listenMsg{addr, 0}))
			var m struct{ Port uint32 }
			if err != nil || !ok || ssh.Unmarshal(b, &m) != nil || m.Port == 0 {
				t.Fatalf("%q: %v, %v", addr, ok, err)
			}
			local := fmt.Sprintf("127.0.0.1:%d", m.Port)
			nc, err := net.Dial("tcp", local)
			if err != nil {
				t.Fatalf("%q: %v", addr, err)
			}
			var got directTCPMsg
			open := <-opened
			if ssh.Unmarshal(open.ExtraData(), &got) != nil || got.Host != addr || got.Port != m.Port ||
				fmt.Sprintf("%s:%d", got.Origin, got.OriginPort) != nc.LocalAddr().String() {
				t.Errorf("%q: %+v", addr, got)
			}
			open.Reject(ssh.Prohibited, "no")
			if b, err := io.ReadAll(nc); len(b) > 0 || err != nil {
				t.Errorf("%q: a refused one: %q, %v", addr, b, err)
			}
			if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.2:%d", m.Port)); err == nil {
				t.Errorf("%q: it listens beyond 127.0.0.1", addr)
			}
			if ok, _, _ := cl.SendRequest(listenTCP, true, ssh.Marshal(listenMsg{addr, m.Port})); ok {
				t.Errorf("%q: twice", addr)
			}
			if ok, _, _ := cl.SendRequest(listenTCPCancel, true, ssh.Marshal(listenMsg{addr + "x", m.Port})); ok {
				t.Errorf("%q: another's end", addr)
			}
			if ok, _, _ := cl.SendRequest(listenTCPCancel, true, ssh.Marshal(listenMsg{addr, m.Port})); !ok {
				t.Errorf("%q: not cancelled", addr)
			}
			if _, err := net.Dial("tcp", local); err == nil {
				t.Errorf("%q: still there", addr)
			}
		}
		for _, addr := range []string{"192.0.2.1", "2001:db8::1", "no such host"} {
			if ok, _, err := cl.SendRequest(listenTCP, true, ssh.Marshal(listenMsg{addr, 0})); ok || err != nil {
				t.Errorf("%q: %v, %v", addr, ok, err)
			}
		}
		for _, payload := range [][]byte{nil, {1}, ssh.Marshal(listenMsg{"", 65536})} {
			for _, kind := range []string{listenTCP, listenTCPCancel, listenUnix, listenUnixCancel} {
				if ok, _, err := cl.SendRequest(kind, true, payload); ok || err != nil {
					t.Errorf("%s %x: %v, %v", kind, payload, ok, err)
				}
			}
		}
	})
}

// TestSSHDRemoteLow: the kernel keeps ports below 1024 from users.
func TestSSHDRemoteLow(t *testing.T) {
	acct := sshdNobody(t)
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		d.acct = acct
		sshdForwards(p)
	})
	if ok, _, err := d.mustDial().SendRequest(listenTCP, true, ssh.Marshal(listenMsg{"localhost", 1})); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if !strings.Contains(d.logged(), "tcpip-forward refused: listen tcp 127.0.0.1:1: bind: permission denied") {
		t.Error("no reason in the log")
	}
}

// TestSSHDRemoteMany: sixteen listeners a connection, and all are released
// with it, two hundred times over; twenty where each starts a process, for
// which the race detector takes most of a second.
func TestSSHDRemoteMany(t *testing.T) {
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		cl := d.mustDial()
		for i := range maxListeners + 1 {
			ok, _, err := cl.SendRequest(listenTCP, true, ssh.Marshal(listenMsg{"localhost", 0}))
			if err != nil || ok != (i < maxListeners) {
				t.Errorf("listener %d: %v, %v", i, ok, err)
			}
		}
		cl.Close()
		d.idle()
		dir := d.userDir()
		cycle := func() {
			cl := d.mustDial()
			defer cl.Close()
			ok, b, err := cl.SendRequest(listenTCP, true, ssh.Marshal(listenMsg{"localhost", 0}))
			ok2, _, err2 := cl.SendRequest(listenUnix, true, ssh.Marshal(listenUnixMsg{dir + "/s"}))
			var m struct{ Port uint32 }
			if !ok || !ok2 || ssh.Unmarshal(b, &m) != nil {
				t.Fatal(ok, ok2, err, err2)
			}
			nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", m.Port)) // it waits for an answer that does not come
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
		}
		cycle()
		d.idle()
		before := sshdCount(t)
		cycles := 60
		if d.acct.mustBecome() {
			cycles = 8
		}
		for range cycles {
			cycle()
			d.idle()
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left in the directory: %v", left)
		}
		sshdUntil(t, "nothing left behind", func() bool {
			after := sshdCount(t)
			return after.goroutines <= before.goroutines && after.fds <= before.fds+cycles && after.children <= before.children
		})
	})
}

// TestSSHDUnixStock is -L and -R between Unix sockets with a stock client.
func TestSSHDUnixStock(t *testing.T) {
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		dir := d.userDir()
		there, here := dir+"/there", d.dir+"/here"
		target := sshdEcho(t, sshdUpper)
		d.master("-R", there+":"+target, "-L", here+":"+there)
		var st os.FileInfo
		var err error
		sshdUntil(t, "the socket", func() bool {
			st, err = os.Lstat(there)
			return err == nil
		})
		if st.Mode() != os.ModeSocket|0o600 || sshdOwner(st) != d.acct.uid {
			t.Errorf("%v of %d, %v", st.Mode(), sshdOwner(st), err)
		}
		nc, err := net.Dial("unix", here) // to the server, back, and to the target
		sshdAskUpper(t, nc, err)
		if ok, _, err := d.mustDial().SendRequest(listenUnix, true, ssh.Marshal(listenUnixMsg{there})); ok || err != nil {
			t.Errorf("a path that is taken: %v, %v", ok, err)
		}
		if _, stderr, code := d.control("cancel", "-R", there+":"+target); code != 0 {
			t.Error(stderr)
		}
		sshdUntil(t, "its end", func() bool { // the client does not wait for the answer
			_, err := os.Lstat(there)
			return errors.Is(err, os.ErrNotExist)
		})
	})
}

// TestSSHDUnixNotOurs: what is at the path by then is removed only if it is
// the socket that was made.
func TestSSHDUnixNotOurs(t *testing.T) {
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		path := d.userDir() + "/s"
		cl := d.mustDial()
		for _, bad := range []string{"relative", "", "@abstract", "/a\x00b", "/" + strings.Repeat("a", 200)} {
			if ok, _, err := cl.SendRequest(listenUnix, true, ssh.Marshal(listenUnixMsg{bad})); ok || err != nil {
				t.Errorf("%q: %v, %v", bad, ok, err)
			}
			_, _, err := cl.OpenChannel(directUnix, ssh.Marshal(directUnixMsg{Path: bad}))
			if open := (*ssh.OpenChannelError)(nil); !errors.As(err, &open) || open.Reason != ssh.ConnectionFailed {
				t.Errorf("%q: %v", bad, err)
			}
		}
		ok, _, err := cl.SendRequest(listenUnix, true, ssh.Marshal(listenUnixMsg{path}))
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := os.Rename(path, path+"2"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		cl.Close()
		d.idle()
		if b, err := os.ReadFile(path); string(b) != "mine" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// TestSSHDUnixAsUser: a socket that the user may not use is not reached by way
// of a server that is root.
func TestSSHDUnixAsUser(t *testing.T) {
	acct := sshdNobody(t)
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		d.acct = acct
		sshdForwards(p)
	})
	path := t.TempDir() + "/s"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = d.mustDial().Dial("unix", path)
	if open := (*ssh.OpenChannelError)(nil); !errors.As(err, &open) || !strings.Contains(open.Message, "permission denied") {
		t.Error(err)
	}
}

// TestSSHDAgentStock is ssh -A: keys of the client's agent are listed at the
// far end, by a socket that only the user may use and that ends with the
// connection.
func TestSSHDAgentStock(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"ssh-agent", "ssh-add"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("no", tool)
		}
	}
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		sock := d.dir + "/agent"
		agent := exec.Command("ssh-agent", "-D", "-a", sock)
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		defer agent.Wait()
		defer agent.Process.Kill()
		add := func() bool {
			cmd := exec.Command("ssh-add", d.dir+"/id")
			cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
			return cmd.Run() == nil
		}
		sshdUntil(t, "the agent", add)
		cmd := d.ssh("-A", "h", `ssh-add -l; stat -c '%U %a' $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK); echo $SSH_AUTH_SOCK`)
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+sock)
		out, stderr, code := d.run(cmd)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		name := d.acct.name
		if code != 0 || len(lines) != 4 || !strings.Contains(lines[0], ssh.FingerprintSHA256(sshdSigner(t, d.key).PublicKey())) ||
			lines[1] != name+" 600" || lines[2] != name+" 700" {
			t.Fatalf("%q, %q, %d", out, stderr, code)
		}
		d.idle()
		if _, err := os.Stat(filepath.Dir(lines[3])); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the directory of the socket: %v", err)
		}
		without := d.ssh("-a", "h", "echo $SSH_AUTH_SOCK")
		without.Env = append(without.Env, "SSH_AUTH_SOCK="+sock)
		d.want(without, "\n", 0)
	})
}

// sshdNobody is an account for a server that is root.
func sshdNobody(t *testing.T) osAccount {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	nobody, err := findAccount("nobody")
	if err != nil {
		t.Skip(err)
	}
	nobody.shell = "/bin/sh"
	nobody.groups = append(nobody.groups, 1) // one more than passwd says
	return nobody
}

func sshdOwner(st os.FileInfo) uint32 { return st.Sys().(*syscall.Stat_t).Uid }
