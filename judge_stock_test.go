//go:build linux

package main

// Stock ssh, git and rsync by way of sessio proxy, on real processes.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// noise is n bytes that no compression or repetition can hide a fault in, the
// same at every call.
func noise(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{7}), n)
}

// A noiseCheck is written to, and finds the first byte that is not noise.
type noiseCheck struct {
	want io.Reader
	n    int64
	buf  [64 << 10]byte
}

func (c *noiseCheck) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n, err := io.ReadFull(c.want, c.buf[:min(len(rest), len(c.buf))])
		if n == 0 || !bytes.Equal(rest[:n], c.buf[:n]) {
			return 0, fmt.Errorf("other bytes after byte %d (%v)", c.n, err)
		}
		c.n += int64(n)
		rest = rest[n:]
	}
	return len(b), nil
}

// throughCat sends size bytes through a command's standard streams.
func (j *judge) throughCat(size int64, limit time.Duration) {
	j.t.Helper()
	cmd := j.stockSSH("attic.sessio", "cat")
	check := &noiseCheck{want: noise(size)}
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = noise(size), check, &errs
	began := time.Now()
	if err := cmd.Start(); err != nil {
		j.fatalf("%v", err)
	}
	timer := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	took := time.Since(began)
	if err != nil || check.n != size {
		j.fatalf("%d of %d bytes came back in %v: %v\n%s", check.n, size, took, err, errs.String())
	}
	j.t.Logf("%d MiB through ssh attic.sessio cat, both ways at once: %v, %.0f MB/s each way", size>>20, took.Round(time.Millisecond), float64(size)/1e6/took.Seconds())
}

func TestJudgeStockBulk(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newJudge(t, "")
	j.throughCat(64<<20, time.Minute)
	cmd := j.stockSSH("attic.sessio", "cat >"+j.work+"/bigfile")
	cmd.Stdin = noise(16 << 20)
	j.output(cmd)
	f, err := os.Open(j.work + "/bigfile")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	check := &noiseCheck{want: noise(16 << 20)}
	if _, err := io.Copy(check, f); err != nil || check.n != 16<<20 {
		t.Errorf("bigfile: %d bytes, %v", check.n, err)
	}
}

// TestJudgeStockSmallWrites: each line is a write of its own, and the next waits
// for its echo; then none waits.
func TestJudgeStockSmallWrites(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "")
	cmd := j.stockSSH("attic.sessio", "cat")
	cmd.Stdin = nil
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(2*scriptWait, func() { cmd.Process.Kill() })
	defer timer.Stop()
	began := time.Now()
	const echoes = 2000
	line := make([]byte, 9)
	for i := range echoes {
		fmt.Fprintf(in, "%08d\n", i)
		if _, err := io.ReadFull(out, line); err != nil || string(line) != fmt.Sprintf("%08d\n", i) {
			t.Fatalf("%q, %v instead of %d", line, err, i)
		}
	}
	t.Logf("an echo takes %v", time.Since(began)/echoes)
	go func() {
		defer in.Close()
		for i := range 10000 {
			fmt.Fprintf(in, "%08d\n", i)
		}
	}()
	for i := range 10000 {
		if _, err := io.ReadFull(out, line); err != nil || string(line) != fmt.Sprintf("%08d\n", i) {
			t.Fatalf("%q, %v instead of %d", line, err, i)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	said := j.output(j.stockSSH("attic.sessio", "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); echo $i; done"))
	if lines := strings.Split(said, "\n"); len(lines) != 10001 || lines[9999] != "10000" {
		t.Errorf("%d lines came", len(lines)-1)
	}
}

// TestJudgeStockPipes: a reader that has enough ends all, here and there.
func TestJudgeStockPipes(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "")
	for _, client := range []string{"ssh -F config attic.sessio", `"$0" run attic --`} {
		mark := "judge" + newMark()
		began := time.Now()
		j.on = "laptop"
		if out := j.output(j.command("sh", "-c", client+" 'yes "+mark+"' | head -n 1", toolFile())); out != mark+"\n" {
			t.Errorf("%s: got %q", client, out)
		}
		j.within(scriptWait, "the end of yes", func() bool { return len(marked(mark)) == 0 })
		t.Logf("%s yes | head -n 1: all gone after %v", client, time.Since(began))
		if out := j.output(j.command("sh", "-c", client+" 'yes | head -n 1'", toolFile())); out != "y\n" {
			t.Errorf("%s: got %q", client, out)
		}
	}
}

func TestJudgeStockTerminal(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "")
	j.background("ssh", "ssh", append(j.stockSSH().Args[1:], "-t", "attic.sessio", "tty; stty size; read x; echo got-$x; exit 5"), true)
	j.run(`
wait ssh '^/dev/pts/'
wait ssh '^24 200'
type ssh hello
wait ssh '^got-hello'
ended ssh 5`)
}

// TestJudgeStockHangup: ssh closes its helper's input and then sends it SIGHUP,
// which may come at any moment of the end. The device learns of each end.
func TestJudgeStockHangup(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "")
	for n := 1; n <= 10; n++ {
		j.on = "laptop"
		cmd := j.command(toolFile(), "proxy", "attic.sessio")
		cmd.Stdin = nil
		in, inErr := cmd.StdinPipe()
		out, outErr := cmd.StdoutPipe()
		if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		off := timeLimit(cmd)
		if _, err := io.ReadFull(out, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		in.Close()
		ended := make(chan struct{})
		go func() { cmd.Wait(); close(ended) }()
		for over := false; !over; {
			select {
			case <-ended:
				over = true
			case <-time.After(time.Millisecond):
				cmd.Process.Signal(syscall.SIGHUP)
			}
		}
		off()
		if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
			t.Errorf("proxy was ended by %v", s.Signal())
		}
		j.within(5*time.Second, "the end of the link", func() bool { return strings.Count(j.proc("attic").said(), "with laptop has ended") >= n })
	}
}

func TestJudgeStockForward(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "")
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	sock := filepath.Join(j.work, "forward")
	port := freePort(t)
	args := append(j.stockSSH().Args[1:], "-N", "-o", "ExitOnForwardFailure=yes", "-L", sock+":"+echo.Addr().String(), "-L", port+":"+echo.Addr().String(), "attic.sessio")
	j.background("ssh", "ssh", args, false)
	j.within(scriptWait, "the forwarded socket", func() bool {
		_, err := os.Stat(sock)
		return err == nil
	})
	for _, to := range [][2]string{{"unix", sock}, {"tcp", "127.0.0.1:" + port}} {
		for range 20 {
			c, err := net.Dial(to[0], to[1])
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(scriptWait))
			go func() {
				io.Copy(c, noise(300000))
				c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			check := &noiseCheck{want: noise(300000)}
			if _, err := io.Copy(check, c); err != nil || check.n != 300000 {
				t.Fatalf("%s: %d bytes, %v", to[0], check.n, err)
			}
			c.Close()
		}
	}
}

// freePort is a TCP port that nobody used just now.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// TestJudgeStockGitAndRsync: git finds the repository from the login's home, as
// in git clone attic.sessio:repo.
func TestJudgeStockGitAndRsync(t *testing.T) {
	t.Parallel()
	j := newJudge(t, "")
	home := strings.TrimSpace(j.output(j.stockSSH("attic.sessio", "pwd")))
	repo, err := filepath.Rel(home, filepath.Join(j.work, "attic", "repo"))
	if err != nil {
		t.Fatal(err)
	}
	j.vars["REPO"] = repo
	j.vars["SSH_REMOTE"] = "ssh -F " + filepath.Join(j.work, "laptop", "config")
	j.run(`
on attic
exec git init -q repo
exec sh -c 'head -c 5000000 /dev/urandom > repo/big; seq 100000 > repo/lines; cd repo; git add .; git -c user.name=a -c user.email=a@b commit -qm one'
on laptop
exec sh -c 'GIT_SSH_COMMAND=$SSH_REMOTE git clone -q attic.sessio:$0 cloned' $REPO
same cloned/big $WORK/attic/repo/big
same cloned/lines $WORK/attic/repo/lines
exec sh -c 'cd cloned; echo more >lines; GIT_SSH_COMMAND=$SSH_REMOTE; export GIT_SSH_COMMAND; git -c user.name=a -c user.email=a@b commit -qam two; git push -q origin HEAD:two'
exec sh -c 'cd cloned; test "$(git rev-parse HEAD)" = "$(git --git-dir $0 rev-parse two)"' $WORK/attic/repo/.git
exec sh -c 'rsync -a -e "$SSH_REMOTE" cloned/ attic.sessio:$0' $WORK/attic/synced/
exec diff -r cloned $WORK/attic/synced
exec sh -c 'echo changed >cloned/lines; rsync -a --checksum -e "$SSH_REMOTE" cloned/ attic.sessio:$0' $WORK/attic/synced/
exec sh -c 'rsync -a -e "$SSH_REMOTE" attic.sessio:$0 back/' $WORK/attic/synced/
exec diff -r cloned back
! exec sh -c 'rsync -a -e "$SSH_REMOTE" attic.sessio:/nowhere/at/all back/'
status 23`)
}
