package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// A path may shrink under a connection that has found a larger size: QUIC
// does not look for that, so the sockets send in fragments for a while.
func TestUDPPathThatShrinks(t *testing.T) {
	if os.Getenv("SESSIO_TEST_SHRINK") == "" {
		inOwnNetwork(t, "SESSIO_TEST_SHRINK=1")
		return
	}
	a, _, dialed, accepted := udpTestPair(t)
	udpTestCopy(t, dialed, accepted, 8<<20, nil)
	if got := a.peer.workedSize(); got <= 1300 {
		t.Fatalf("QUIC has found no size above %d", got)
	}
	setLoopbackMTU(t, "1300")
	udpTestCopy(t, dialed, accepted, 8<<20, nil)
	if a.mux.fragmentAt.Load() == 0 {
		t.Error("DF is still set")
	}
}

// workedSize is the largest datagram that has left by the path, in bytes.
func (p *udpPeer) workedSize() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.worked
}

// A network that is gone for a second must end no connection: a failed
// sendmsg would, if QUIC saw it.
func TestUDPNetworkGoneForAWhile(t *testing.T) {
	if os.Getenv("SESSIO_TEST_GONE") == "" {
		inOwnNetwork(t, "SESSIO_TEST_GONE=1")
		return
	}
	a, _, dialed, accepted := udpTestPair(t)
	udpTestCopy(t, dialed, accepted, 1<<20, nil)
	runIP(t, "addr", "flush", "dev", "lo")
	runIP(t, "route", "add", "unreachable", "127.0.0.0/8")
	s, err := dialed.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("into the void")); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, func() bool { return a.mux.writeErrors.Load() > 0 })
	runIP(t, "route", "del", "unreachable", "127.0.0.0/8")
	runIP(t, "addr", "add", "127.0.0.1/8", "dev", "lo")
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	r, err := accepted.AcceptStream(ctx)
	if err != nil {
		t.Fatalf("the connection did not live: %v", err)
	}
	buf := make([]byte, 13)
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := r.Read(buf); err != nil || string(buf) != "into the void" {
		t.Errorf("read %q, %v", buf, err)
	}
}

// inOwnNetwork runs the calling test again, in a network namespace of its own.
func inOwnNetwork(t *testing.T, env string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	// The loopback device of a new namespace is down, and the race detector's
	// runtime does not care.
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `ip link set lo up && exec "$0" "$@"`}, cmd.Args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in a network of its own (needs root, or namespaces for users): %v\n%s", err, out)
	}
}

func setLoopbackMTU(t *testing.T, mtu string) {
	t.Helper()
	runIP(t, "link", "set", "lo", "mtu", mtu)
}

func runIP(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

func TestUDPNeverPinsAnAddress(t *testing.T) {
	a, _, _, accepted := udpTestPair(t)
	for _, addr := range []net.Addr{a.mux.LocalAddr(), accepted.LocalAddr()} {
		ip := addr.(*net.UDPAddr).IP
		if ip.IsUnspecified() || !virtualNet.Contains(netip.AddrFrom16([16]byte(ip.To16()))) {
			t.Errorf("QUIC is told the local address %v and would pin it", ip)
		}
	}
}
