package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The kernel's own events, in a network of the test's own: a change is told
// within 100 ms, a burst of changes a few times at most, and nothing is left
// when the watch ends.
func TestNetworkChangesAreTold(t *testing.T) {
	if os.Getenv("SESSIO_TEST_NETWATCH") == "" {
		inOwnNetwork(t, "SESSIO_TEST_NETWATCH=1")
		return
	}
	fds := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	ip := func(batch string) {
		t.Helper()
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(batch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", batch, err, out)
		}
	}
	ip("link add veth0 type veth peer name veth1\nlink set veth0 addrgenmode none\nlink set veth1 addrgenmode none\nlink set veth0 up\nlink set veth1 up\n")
	before := fds()
	told := make(chan time.Time, 1000)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watchNetwork(ctx, func(string) { told <- time.Now() })
	}()
	waitUntil(t, func() bool { return fds() > before }) // it listens
	quiet := func() (n int) {
		for {
			select {
			case <-told:
				n++
			case <-time.After(10 * netQuiet):
				return n
			}
		}
	}
	quiet()
	for _, change := range []string{"addr add 10.9.0.1/24 dev veth0", "addr del 10.9.0.1/24 dev veth0", "link set veth0 down", "link set veth0 up",
		"addr add 2001:db8::1/64 dev veth0 nodad", "route add 192.0.2.0/24 dev veth0", "route del 192.0.2.0/24 dev veth0"} {
		ip(change + "\n")
		done := time.Now()
		select {
		case at := <-told:
			if late := at.Sub(done); late > 100*time.Millisecond {
				t.Errorf("%s: told after %v", change, late)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s is not told", change)
		}
		quiet()
	}
	var burst strings.Builder
	for i := range 200 {
		fmt.Fprintf(&burst, "addr add 10.10.%d.1/24 dev veth0\n", i)
	}
	ip(burst.String())
	if n := quiet(); n == 0 || n > 20 {
		t.Errorf("200 addresses are told %d times", n)
	}
	if n := quiet(); n > 0 {
		t.Errorf("told %d times of nothing", n)
	}
	stop()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the watch does not end")
	}
	waitUntil(t, func() bool { return fds() <= before })
}

// tellsChange reads whatever comes without falling off its end.
func FuzzTellsChange(f *testing.F) {
	f.Add([]byte{16, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{20, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 16, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{3, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if tellsChange(b) && len(b) < 16 {
			t.Errorf("%x tells of a change", b)
		}
	})
}
