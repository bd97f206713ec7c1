//go:build !windows

package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A forward that runs is listed with what it does, and is stopped by its id.
func TestForwardListAndStop(t *testing.T) {
	port := sshcEcho(t)
	p := sshcSSHD(t)
	addrs, errs, dir := sshcForwardArgs(t, p, 1, sshcForwardSpecs(t, []string{"127.0.0.1:0:127.0.0.1:" + port}, nil))
	if got, err := sshcAsk("tcp", addrs[0], []byte("hi")); err != nil || string(got) != "echo 2\nhi" {
		t.Fatalf("%q, %v", got, err)
	}
	status := func() forwardStatus {
		t.Helper()
		list, err := runningForwards(t.Context(), dir)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list[0]
	}
	sshcUntil(t, func() bool { return status().Conns == 0 })
	s := status()
	if s.ID != "1" || s.PID != os.Getpid() || s.Device != "attic" || s.State != "up" || s.Reason != "" || s.Out != 2 || s.In != 9 ||
		len(s.Forwards) != 1 || s.Forwards[0] != (forwardLine{"local", addrs[0], "127.0.0.1:" + port}) || s.StateSince.Before(s.Since) {
		t.Errorf("%+v", s)
	}
	conn, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sshcUntil(t, func() bool { return status().Conns == 1 })

	for _, bad := range []string{"2", "01", "../1", ""} {
		if err := stopForwards(t.Context(), dir, []string{bad}); err == nil || hintOf(err) != "those that run here: 1" {
			t.Errorf("stop %q: %v, hint %q", bad, err, hintOf(err))
		}
	}
	if err := stopForwards(t.Context(), dir, []string{"1"}); err != nil {
		t.Fatal(err)
	}
	if l, err := net.Listen("tcp", addrs[0]); err != nil {
		t.Errorf("after stop the port is not free: %v", err)
	} else {
		l.Close()
	}
	if err := stopForwards(t.Context(), dir, []string{"1"}); err == nil || hintOf(err) != "none runs here" {
		t.Errorf("stop again: %v, hint %q", err, hintOf(err))
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "forwards", "*")); len(left) != 0 {
		t.Errorf("left %q", left)
	}
	sshcUntil(t, func() bool { return strings.Contains(errs.String(), "stopped by forward stop") })
}

// While the link is away that is what the list says, and why.
func TestForwardListReconnecting(t *testing.T) {
	p := sshcSSHD(t)
	p.fail = func(open int) error {
		if open > 0 {
			return coded("offline", "offline, last seen 3 h ago")
		}
		return nil
	}
	_, _, dir := sshcForwardArgs(t, p, 1, sshcForwardSpecs(t, []string{"127.0.0.1:0:127.0.0.1:1"}, nil))
	p.cut()
	sshcUntil(t, func() bool {
		list, err := runningForwards(t.Context(), dir)
		return err == nil && len(list) == 1 && list[0].State == "reconnecting" && strings.Contains(list[0].Reason, "last seen 3 h ago")
	})
}

// What a killed process has left is removed, and its id given again; what is
// locked belongs to one that lives.
func TestForwardListStale(t *testing.T) {
	dir := t.TempDir()
	h := &forwardHome{dir: dir}
	ln, err := h.listen()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	other := &forwardHome{dir: dir}
	if err := other.claim(); err != nil || other.id != "2" {
		t.Fatalf("id %q, %v", other.id, err)
	}
	other.release()
	list, err := runningForwards(t.Context(), dir)
	if err != nil || len(list) != 1 || list[0].ID != "1" || list[0].State != "silent" {
		t.Errorf("one that does not answer: %+v, %v", list, err)
	}
	h.lock.f.Close() // as the kernel does when it kills
	if err := os.WriteFile(h.file(".log"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err = runningForwards(t.Context(), dir)
	if left, _ := filepath.Glob(filepath.Join(dir, "forwards", "*")); err != nil || len(list) != 0 || len(left) != 0 {
		t.Errorf("one that was killed: %+v, %v, left %q", list, err, left)
	}
}

// Nobody at the socket is waited for, and only whole words count.
func TestForwardControlHostile(t *testing.T) {
	_, _, dir := sshcForwardArgs(t, sshcSSHD(t), 1, sshcForwardSpecs(t, []string{"127.0.0.1:0:127.0.0.1:1"}, nil))
	path, done, err := lendPath(filepath.Join(dir, "forwards"), "1.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	for _, said := range []string{"", "stop", "stop now\n", strings.Repeat("x", 1000) + "\n", "\n", "STOP\n"} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(said))
		closeWriteConn(c)
		c.SetReadDeadline(time.Now().Add(sshcPatience))
		for b := make([]byte, 4096); ; {
			if _, err := c.Read(b); err != nil {
				break
			}
		}
		c.Close()
	}
	if list, err := runningForwards(context.Background(), dir); err != nil || len(list) != 1 || list[0].State != "up" {
		t.Errorf("%+v, %v", list, err)
	}
}

// A log in the background keeps its newest half.
func TestForwardLogIsBounded(t *testing.T) {
	h := &forwardHome{dir: t.TempDir()}
	if err := h.claim(); err != nil {
		t.Fatal(err)
	}
	defer h.release()
	if err := h.openLog(); err != nil {
		t.Fatal(err)
	}
	defer h.log.Close()
	fw := &forwarder{home: h, log: h.log}
	line := strings.Repeat("x", 100)
	for range 4 * maxForwardLog / len(line) {
		fw.say("%s", line)
	}
	fw.say("the last")
	b, err := os.ReadFile(h.file(".log"))
	if err != nil || len(b) > maxForwardLog+2*len(line) || len(b) < maxForwardLog/2 || !strings.HasSuffix(string(b), " the last\n") {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
