//go:build !windows

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshcForward runs forward start in the background until the test ends, and
// returns the addresses of the lines that it printed, lines of each spec.
func sshcForward(t *testing.T, op sshOpener, lines int, specs ...string) (addrs []string, errs *sshcBuffer) {
	t.Helper()
	addrs, errs, _ = sshcForwardArgs(t, op, lines, sshcForwardSpecs(t, specs, nil))
	return addrs, errs
}

func sshcForwardSpecs(t *testing.T, here, back []string) forwardArgs {
	t.Helper()
	args, err := parseForwardOperands(append([]string{"attic"}, here...), "", nil, back)
	if err != nil {
		t.Fatal(err)
	}
	return args
}

// sshcForwardArgs is sshcForward for what has been read, and returns the state
// directory as well. The forward may be stopped.
func sshcForwardArgs(t *testing.T, op sshOpener, lines int, args forwardArgs) (addrs []string, errs *sshcBuffer, dir string) {
	t.Helper()
	dir = t.TempDir()
	home := &forwardHome{dir: dir}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	errs = new(sshcBuffer)
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() { io.Copy(errs, errR) })
	loops.Go(func() {
		if err := cmdForward(ctx, op, stdio{nil, w, errW}, args, home); ctx.Err() == nil && err != nil || ctx.Err() != nil && exitStatus(err)%130 != 0 {
			t.Errorf("forward start ended: %v", err)
		}
		home.release()
		w.Close()
		errW.Close()
	})
	t.Cleanup(func() { cancel(); loops.Wait(); r.Close(); errR.Close() })
	for in := bufio.NewScanner(r); len(addrs) < lines && in.Scan(); {
		_, rest, _ := strings.Cut(in.Text(), "forwarding ")
		addr, _, ok := strings.Cut(rest, " to ")
		if !ok {
			t.Fatalf("printed %q", in.Text())
		}
		addr, _, _ = strings.Cut(addr, " on ")
		addrs = append(addrs, addr)
	}
	if len(addrs) != lines {
		t.Fatalf("%d lines printed, %s", len(addrs), errs)
	}
	return addrs, errs, dir
}

// sshcEcho answers a connection with what it has got, after its end.
func sshcEcho(t *testing.T) (port string) {
	p := sshcListen(t, func(conn net.Conn) {
		defer conn.Close()
		b, err := io.ReadAll(conn)
		if err == nil {
			fmt.Fprintf(conn, "echo %d\n", len(b))
			conn.Write(b)
		}
	})
	_, port, _ = net.SplitHostPort(p.addr)
	return port
}

// sshcAsk sends b, ends its half, and returns the answer.
func sshcAsk(network, addr string, b []byte) ([]byte, error) {
	conn, err := net.Dial(network, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(sshcPatience))
	if _, err := conn.Write(b); err != nil {
		return nil, err
	}
	closeWriteConn(conn)
	return io.ReadAll(conn)
}

func TestForward(t *testing.T) {
	port := sshcEcho(t)
	addrs, errs := sshcForward(t, sshcSSHD(t), 2, "0:127.0.0.1:"+port)
	data := make([]byte, 8<<20)
	rand.Read(data)
	var asks sync.WaitGroup
	for i := range 10 {
		asks.Go(func() {
			part := data[:len(data)>>(i%4)]
			got, err := sshcAsk("tcp", addrs[i%2], part)
			if want := append(fmt.Appendf(nil, "echo %d\n", len(part)), part...); err != nil || !bytes.Equal(got, want) {
				t.Errorf("through %s: %d bytes, want %d, %v", addrs[i%2], len(got), len(want), err)
			}
		})
	}
	asks.Wait()
	if errs.String() != "" {
		t.Errorf("said %s", errs)
	}
	for _, a := range addrs {
		if !strings.HasPrefix(a, "127.0.0.1:") && !strings.HasPrefix(a, "[::1]:") {
			t.Errorf("listens on %s, beyond loopback", a)
		}
	}
}

// Connections that came and went leave nothing behind.
func TestForwardLeavesNothing(t *testing.T) {
	port := sshcEcho(t)
	addrs, _ := sshcForward(t, sshcSSHD(t), 1, "127.0.0.1:0:127.0.0.1:"+port)
	ask := func() {
		if got, err := sshcAsk("tcp", addrs[0], []byte("x")); err != nil || string(got) != "echo 1\nx" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	ask()
	before := runtime.NumGoroutine()
	for range 300 {
		ask()
	}
	sshcUntil(t, func() bool { return runtime.NumGoroutine() <= before })
}

func TestForwardFromSocket(t *testing.T) {
	port := sshcEcho(t)
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close() // as a killed process leaves it
	sshcForward(t, sshcSSHD(t), 1, path+":localhost:"+port)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info, err)
	}
	if got, err := sshcAsk("unix", path, []byte("hi")); err != nil || string(got) != "echo 2\nhi" {
		t.Errorf("%q, %v", got, err)
	}
}

// A port that the device cannot reach is told, and resets the connection.
func TestForwardRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	addrs, errs := sshcForward(t, sshcSSHD(t), 1, "127.0.0.1:0:"+closed)
	if got, err := sshcAsk("tcp", addrs[0], nil); err == nil {
		t.Errorf("got %q and a clean end", got)
	}
	sshcUntil(t, func() bool { return strings.Contains(errs.String(), "connect failed") })
}

// The listener stays while the link is lost; connections wait for the new one.
func TestForwardReconnects(t *testing.T) {
	port := sshcEcho(t)
	p := sshcSSHD(t)
	p.fail = func(open int) error {
		if open == 1 || open == 2 {
			return errors.New("offline")
		}
		return nil
	}
	addrs, errs := sshcForward(t, p, 1, "127.0.0.1:0:127.0.0.1:"+port)
	for i := range 3 {
		got, err := sshcAsk("tcp", addrs[0], []byte("hi"))
		if err != nil || string(got) != "echo 2\nhi" {
			t.Fatalf("round %d: %q, %v, %s", i, got, err, errs)
		}
		p.cut()
		sshcUntil(t, func() bool { return strings.Count(errs.String(), "connected to attic again") == i+1 })
	}
	if !strings.Contains(errs.String(), "the link to attic was lost") {
		t.Errorf("said %s", errs)
	}
}

// A part of a stream never looks like the whole.
func TestForwardCutIsReset(t *testing.T) {
	halfWay := make(chan struct{})
	half := sshcListen(t, func(conn net.Conn) {
		defer conn.Close()
		io.WriteString(conn, "half")
		<-halfWay
	})
	defer close(halfWay)
	p := sshcSSHD(t)
	addrs, _ := sshcForward(t, p, 1, "127.0.0.1:0:"+half.addr)
	conn, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(sshcPatience))
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	p.cut()
	if n, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read %d, %v, want a reset", n, err)
	}
}

// When the device closes for good, so does this end.
func TestForwardFarEndCloses(t *testing.T) {
	p := sshcServer(t, sshcOpenDoor(), func(ch ssh.NewChannel, _ ssh.Conn) {
		c, requests, err := ch.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		io.WriteString(c, "bye")
		c.Close()
	})
	addrs, _ := sshcForward(t, p, 1, "127.0.0.1:0:there:80")
	conn, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(sshcPatience))
	if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
		t.Errorf("%q, %v", got, err)
	}
	sshcUntil(t, func() bool { _, err := conn.Write([]byte("more")); return err != nil })
}

func TestForwardFinalRefusal(t *testing.T) {
	p := sshcSSHD(t)
	p.fail = func(open int) error {
		if open > 0 {
			return coded("revoked", "this machine was revoked")
		}
		return nil
	}
	path := filepath.Join(t.TempDir(), "s")
	var watcher sync.WaitGroup
	watcher.Go(func() { // up means that the port answers
		sshcUntil(t, func() bool {
			conn, err := net.Dial("unix", path)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		p.cut()
	})
	_, _, err := sshcFiles(t, nil, func(files stdio) error {
		home := &forwardHome{dir: t.TempDir()}
		defer home.release()
		return cmdForward(t.Context(), p, files, forwardArgs{target: target{device: "attic"},
			specs: []forwardSpec{{listen: forwardEnd{path: path}, to: forwardEnd{host: "127.0.0.1", port: 1}}}}, home)
	})
	watcher.Wait()
	if codeOf(err) != "revoked" || exitStatus(err) != 1 {
		t.Errorf("%v, status %d", err, exitStatus(err))
	}
}

func TestForwardPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	out, _, err := sshcFiles(t, nil, func(files stdio) error {
		return cmdForward(t.Context(), sshcSSHD(t), files, sshcForwardSpecs(t, []string{port + ":h:80"}, nil), &forwardHome{dir: t.TempDir()})
	})
	if exitStatus(err) != 1 || !strings.Contains(err.Error(), "in use") || len(out) != 0 {
		t.Errorf("%v, printed %q", err, out)
	}
}

func TestRedialPause(t *testing.T) {
	last := time.Duration(0)
	for try := range 100 {
		p := redialPause(try)
		if p < last || p > 30*time.Second || p < 100*time.Millisecond {
			t.Fatalf("try %d: %v after %v", try, p, last)
		}
		last = p
	}
}

// sshcUntil waits for what another goroutine or process is about to do.
func sshcUntil(t testing.TB, done func() bool) {
	t.Helper()
	late := time.After(sshcPatience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("waited in vain")
		}
	}
}
