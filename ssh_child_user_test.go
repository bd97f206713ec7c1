//go:build linux

package main

// What a session of another user than root has of the server that is root:
// nothing.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSSHDOtherUserHoldsNothing: no descriptor that the server has opened or
// was started with, no capability, no limit of its own; what the session makes is the user's. Other sessions,
// terminals and forwards are open meanwhile.
func TestSSHDOtherUserHoldsNothing(t *testing.T) {
	leaked, err := syscall.Open("/etc/shadow", syscall.O_RDONLY, 0) // as who starts the server may have left it
	if err == nil {
		defer syscall.Close(leaked)
	}
	d := nobodySSHD(t)
	if err := errors.Join(os.Chmod(d.dir, 0o777), os.Chmod(filepath.Dir(d.dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	d.setAccount(func(a *osAccount) { a.home = d.dir })
	cl := d.mustDial()
	tty := d.newSession(cl)
	if err := tty.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	if err := tty.Shell(); err != nil {
		t.Fatal(err)
	}
	nc, err := cl.Dial("tcp", sshdEcho(t, func(nc *net.TCPConn) { io.Copy(io.Discard, nc) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()

	limits, err := exec.Command("/bin/sh", "-c", "ulimit -a").Output()
	if err != nil {
		t.Fatal(err)
	}
	umask := syscall.Umask(0o022)
	syscall.Umask(umask)
	uid, gid := fmt.Sprint(d.acct.uid), fmt.Sprint(d.acct.gid)
	for command, want := range map[string]string{
		"ls /proc/$$/fd; true": "0\n1\n2\n",
		"grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs):' /proc/self/status | tr -d '0\\t' | tr '\\n' ' '": "CapInh: CapPrm: CapEff: CapAmb: NoNewPrivs: ",
		"ulimit -a": string(limits),
		"umask":     fmt.Sprintf("%04o\n", umask),
		"pwd":       d.dir + "\n",
		"echo x > file; mkdir dir; mkfifo pipe; ln -s x link; stat -c '%n %u %g %a' file dir pipe": fmt.Sprintf("file %[1]s %[2]s 644\ndir %[1]s %[2]s 755\npipe %[1]s %[2]s 644\n", uid, gid),
		"cat /proc/" + fmt.Sprint(os.Getpid()) + "/environ 2>&1 | grep -c denied":                  "1\n",
	} {
		if got := d.output(command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// TestSSHDOtherUserProcesses: every process of a session is the user's, with
// and without a terminal, with a forced command too.
func TestSSHDOtherUserProcesses(t *testing.T) {
	d := nobodySSHD(t)
	cl := d.mustDial()
	for i, terminal := range []bool{false, true} {
		s := d.newSession(cl)
		if terminal {
			if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Start("sleep 1000 & sleep 1000 & wait"); err != nil {
			t.Fatal(err)
		}
		sshdUntil(t, "the start", func() bool { return len(d.pids()) > i })
		sid := d.pids()[i]
		sshdUntil(t, "three processes", func() bool { return len(sessionMembers(sid)) == 3 })
		for _, pid := range sessionMembers(sid) {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			want := fmt.Sprintf("\nUid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", d.acct.uid)
			if err != nil || !strings.Contains(string(status), want) {
				t.Errorf("process %d: %s, %v", pid, status, err)
			}
		}
		s.Close()
		sshdUntil(t, "their end", func() bool { return len(sessionMembers(sid)) == 0 })
	}
}

// TestSSHDUmask: whatever the server was started with, sessions make nothing
// that group or others may write.
func TestSSHDUmask(t *testing.T) {
	was := syscall.Umask(0)
	defer syscall.Umask(was)
	d := startSSHD(t, nil)
	if got := d.output("umask"); got != "0022\n" {
		t.Errorf("umask %q", got)
	}
}

// maxIdleSession is what an idle session may hold, in bytes of heap and stacks,
// its connection included.
const maxIdleSession = 256 << 10

// TestSSHDIdleMemory measures shells that wait on their terminals.
func TestSSHDIdleMemory(t *testing.T) {
	d := startSSHD(t, func(_ *sshdTest, p *sshPolicy) {
		c := defaultServerConfig()
		c.maxSessionsPerUser = 50
		p.config = func() *serverConfig { return c }
	})
	d.shells(2) // what is made once
	const n = 20
	before := heldMemory()
	d.shells(n)
	each := (heldMemory() - before) / n
	t.Logf("an idle shell with its connection holds %d KiB", each>>10)
	if each > maxIdleSession {
		t.Errorf("more than %d KiB", maxIdleSession>>10)
	}
}

// heldMemory is what the heap and all stacks hold, in bytes.
func heldMemory() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are empty only now
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse + m.StackInuse)
}

// shells starts n shells of stock clients, each on a connection of its own,
// that stay until the test ends.
func (d *sshdTest) shells(n int) {
	d.Helper()
	before := len(d.pids())
	for range n {
		cmd := d.ssh("-tt", "h")
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			d.Fatal(err)
		}
		d.Cleanup(func() {
			in.Close()
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
	sshdUntil(d.T, "the shells", func() bool { return len(d.pids()) >= before+n })
}

// TestSlowExecSpeed compares both directions with stock sshd, in turns.
func TestSlowExecSpeed(t *testing.T) {
	slow(t)
	d, stock := startSSHD(t, nil), sshcSSHD(t)
	_, stockPort, _ := net.SplitHostPort(stock.addr)
	const size = 512 << 20
	zeros := d.write("zeros", nil)
	if err := os.Truncate(zeros, size); err != nil {
		t.Fatal(err)
	}
	for way, command := range map[string]string{"up": "cat >/dev/null", "down": "cat " + zeros} {
		rate := func(port, key string) float64 {
			in, err := os.Open(zeros)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			cmd := d.ssh("h", command)
			cmd.Args = append(cmd.Args[:1], append([]string{"-p", port, "-i", key, "-c", "aes128-gcm@openssh.com", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"}, cmd.Args[1:]...)...)
			if way == "up" {
				cmd.Stdin = in
			}
			var errs strings.Builder
			cmd.Stderr = &errs
			began := time.Now()
			if err := cmd.Run(); err != nil {
				t.Fatalf("%s: %v: %s", command, err, errs.String())
			}
			return size / 1e6 / time.Since(began).Seconds()
		}
		for range 5 {
			ours, theirs := rate(d.port, d.dir+"/id"), rate(stockPort, stock.keyFile)
			t.Logf("%s: %.0f MB/s, sshd %.0f, ratio %.2f", way, ours, theirs, ours/theirs)
		}
	}
}

// TestSlowExecOutput: a GiB of a command's output, and the server holds no more
// than its buffers.
func TestSlowExecOutput(t *testing.T) {
	slow(t)
	d := startSSHD(t, nil)
	before := heldMemory()
	cmd := exec.Command("sh", "-c", `"$@" | wc -c`, "sh")
	cmd.Args = append(cmd.Args, d.ssh("h", "head -c 1073741824 /dev/zero").Args...)
	cmd.Env = d.ssh("h").Env
	d.want(cmd, "1073741824\n", 0)
	if more := heldMemory() - before; more > 16<<20 {
		t.Errorf("%d KiB more than before", more>>10)
	}
}
