package main

// These tests fill a disk and interrupt copies.

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// smallDisk mounts 2 MiB at dir in a mount namespace of its own, and returns
// the path by which everybody reaches it. room makes it larger.
func smallDisk(t *testing.T, dir string) (path string, room func()) {
	t.Helper()
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
		`mount -t tmpfs -o size=2m none "$0" && echo ready && read x && mount -o remount,size=16m "$0" && echo ready && read x`, dir)
	if os.Geteuid() == 0 {
		cmd.Args = append(cmd.Args[:1], cmd.Args[3:]...)
	}
	cmd.Stderr = os.Stderr
	in, out := startPiped(t, cmd)
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	said := bufio.NewReader(out)
	ready := func() {
		t.Helper()
		if _, err := said.ReadString('\n'); err != nil {
			t.Fatal("a small disk: ", err)
		}
	}
	ready()
	return fmt.Sprintf("/proc/%d/root%s", cmd.Process.Pid, dir), func() {
		t.Helper()
		fmt.Fprintln(in)
		ready()
	}
}

// A full disk, at the device and here, leaves the old file and the part, says
// so, and the next copy goes on once there is room.
func TestCpFullDisk(t *testing.T) {
	for _, up := range []bool{true, false} {
		c := newCPTest(t, newSFTPPeer(t, &sftpHand{ours: true}))
		b := c.file(c.here("f"), 3<<20)
		if err := os.WriteFile(c.there("f"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		w, mount := []string{"attic:/f", ""}, c.here("")
		if up {
			w, mount = []string{"here/f", "attic:/../../../../../../../.."}, c.there("")
		}
		disk, room := smallDisk(t, strings.TrimSuffix(mount, "/"))
		w[1] += disk + "/g"
		old := c.file(disk+"/g", 1000)
		if err := c.cp(w...); exitStatus(err) != 1 || !strings.Contains(c.errs, "no space left on device; ") || !strings.Contains(c.errs, " of 3.15 MB stay in ") {
			t.Fatalf("up %v: %v, %s", up, err, c.errs)
		}
		c.same(disk+"/g", old)
		part, err := os.Stat(disk + "/" + partName("g"))
		if err != nil || part.Size() < 1<<20 {
			t.Fatalf("up %v: the part: %v, %v", up, part, err)
		}
		if err := c.cp(append([]string{"-inplace"}, w...)...); exitStatus(err) != 1 || !strings.Contains(c.errs, "no space left on device; ") || !strings.Contains(c.errs, "in the file itself") {
			t.Fatalf("up %v in place: %v, %s", up, err, c.errs)
		}
		room()
		if err := c.cp(w...); err != nil || !strings.Contains(c.errs, "goes on behind") {
			t.Fatalf("up %v again: %v, %s", up, err, c.errs)
		}
		c.same(disk+"/g", b)
		c.gone(disk + "/" + partName("g"))
	}
}

// SIGINT's end of a copy is status 130, SIGTERM's 143; the part stays and the
// next copy goes on.
func TestCpInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		ctx, cut := context.WithCancelCause(t.Context())
		var left atomic.Int64
		left.Store(6 << 20) // of which at most 4 MiB are in flight
		h := &sftpHand{ours: true}
		h.reply = func(_ sftpRequest, r *sftpReply) {
			if r.kind == sftpData && left.Add(-int64(len(r.data))) < 0 {
				cut(signalError{sig})
			}
		}
		c := newCPTest(t, newSFTPPeer(t, h))
		c.ctx = ctx
		b, old := c.file(c.there("f"), 8<<20), c.file(c.here("f"), 10)
		if err := c.cp("attic:/f", "here/f"); exitStatus(err) != 128+int(sig) || !strings.Contains(c.errs, "interrupted; ") || !strings.Contains(c.errs, "stay in") {
			t.Fatalf("%v: %v, %s", sig, err, c.errs)
		}
		c.same(c.here("f"), old)
		c.ctx = nil
		if err := c.cp("attic:/f", "here/f"); err != nil || !strings.Contains(c.errs, "goes on behind") {
			t.Fatalf("%v again: %v, %s", sig, err, c.errs)
		}
		c.same(c.here("f"), b)
	}
}
