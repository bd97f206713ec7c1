package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestLockRole(t *testing.T) {
	dir := t.TempDir()
	l, err := lockRole(dir, "device")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "device.lock")
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(os.Getpid()) {
		t.Errorf("lock file %q, %v", b, err)
	}
	_, err = lockRole(dir, "device")
	if !errors.Is(err, errLocked) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second device: %v", err)
	}
	other, err := lockRole(dir, "coordinator")
	if err != nil {
		t.Fatalf("another role: %v", err)
	}
	other.release()
	l.release()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A process that was killed leaves the file, but not the lock.
func TestLockAfterKill(t *testing.T) {
	file := filepath.Join(t.TempDir(), "device.lock")
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockHolder$")
	cmd.Env = append(os.Environ(), "SESSIO_TEST_LOCK="+file)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "locked\n" {
		t.Fatalf("holder says %q", line)
	}
	if _, err := holdFile(file); !errors.Is(err, errLocked) {
		t.Errorf("lock of a live process: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("the file is gone: %v", err)
	}
	l, err := holdFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l.release()
}

// TestLockHolder is the process of TestLockAfterKill.
func TestLockHolder(t *testing.T) {
	file := os.Getenv("SESSIO_TEST_LOCK")
	if file == "" {
		t.Skip("only as a child of TestLockAfterKill")
	}
	if _, err := holdFile(file); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("locked\n")
	io.Copy(io.Discard, os.Stdin) // until killed
}

// Who takes and releases in turn is never in there with another.
func TestLockRace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "race.lock")
	var mu sync.Mutex
	inside, taken := 0, 0
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for range 200 {
				l, err := holdFile(file)
				if err != nil {
					continue
				}
				mu.Lock()
				inside++
				taken++
				if inside != 1 {
					t.Errorf("%d inside at once", inside)
				}
				mu.Unlock()
				mu.Lock()
				inside--
				mu.Unlock()
				l.release()
			}
		})
	}
	workers.Wait()
	if taken == 0 {
		t.Error("nobody got the lock")
	}
}
