//go:build linux || darwin

package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Ports and sockets there lead here, and from here to sockets there: at stock
// sshd and at our server.
func TestForwardBack(t *testing.T) {
	t.Run("sshd", func(t *testing.T) { testForwardBack(t, sshcSSHD(t)) })
	t.Run("sessio", func(t *testing.T) { testForwardBack(t, sshcOurs(t, true)) })
}

// sshcOurs is a device with our server, which may forward all or what it does by
// default.
func sshcOurs(t *testing.T, all bool) *sshcPeer {
	t.Helper()
	d := startSSHD(t, func(_ *sshdTest, p *sshPolicy) {
		conf := defaultServerConfig()
		conf.forwardRemote, conf.forwardStreamlocal = all, all
		p.config = func() *serverConfig { return conf }
	})
	return &sshcPeer{addr: d.addr, hostKey: sshdSigner(t, d.host).PublicKey(), userKey: sshdSigner(t, d.key), users: []string{d.user}, name: "attic"}
}

func testForwardBack(t *testing.T, p *sshcPeer) {
	port := sshcEcho(t)
	dir := t.TempDir()
	there, far, here := filepath.Join(dir, "there"), filepath.Join(dir, "far"), filepath.Join(dir, "here")
	l, err := net.Listen("unix", far)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b, _ := io.ReadAll(conn)
				fmt.Fprintf(conn, "echo %d\n%s", len(b), b)
			}()
		}
	}()
	addrs, errs, _ := sshcForwardArgs(t, p, 6, sshcForwardSpecs(t,
		[]string{"127.0.0.1:0:" + far, here + ":" + far},
		[]string{"0:127.0.0.1:" + port, "localhost:0:" + far, there + ":127.0.0.1:" + port, there + "2:" + far}))
	if addrs[1] != here || addrs[4] != there || addrs[5] != there+"2" {
		t.Errorf("printed %q", addrs)
	}
	data := make([]byte, 3<<20)
	rand.Read(data)
	var asks sync.WaitGroup
	for i, addr := range append(addrs, addrs...) {
		asks.Go(func() {
			network := "tcp"
			if isSocketPath(addr) {
				network = "unix"
			}
			part := data[:len(data)>>(i%6)]
			got, err := sshcAsk(network, addr, part)
			if want := append(fmt.Appendf(nil, "echo %d\n", len(part)), part...); err != nil || !bytes.Equal(got, want) {
				t.Errorf("through %s: %d bytes, want %d, %v", addr, len(got), len(want), err)
			}
		})
	}
	asks.Wait()
	if errs.String() != "" {
		t.Errorf("said %s", errs)
	}
}

// What is refused there is said at once, and nothing of the rest is left.
func TestForwardBackRefused(t *testing.T) {
	for reason, want := range map[string]string{
		"":                                     "attic refuses to listen on localhost:8080",
		"not by this key":                      "attic refuses to listen on localhost:8080: not by this key",
		strings.Repeat("x", maxBannerReason+1): "attic refuses to listen on localhost:8080",
	} {
		s := newSSHCBackServer(t)
		s.answer = func(string, []byte) (bool, []byte) { return false, []byte(reason) }
		path, dir := filepath.Join(t.TempDir(), "s"), t.TempDir()
		home := &forwardHome{dir: dir}
		out, _, err := sshcFiles(t, nil, func(files stdio) error {
			defer home.release()
			return cmdForward(t.Context(), s.peer, files, sshcForwardSpecs(t, []string{path + ":h:80"}, []string{"8080:h:80"}), home)
		})
		if exitStatus(err) != 1 || err.Error() != "-R 8080:h:80: "+want || !strings.Contains(hintOf(err), "forward.remote") {
			t.Errorf("%v, hint %s", err, hintOf(err))
		}
		if _, err := os.Lstat(path); len(out) != 0 || err == nil {
			t.Errorf("printed %q, socket %v", out, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) != 0 {
			t.Errorf("left %q", left)
		}
	}
}

// After a lost link the port that was given is asked for again, for as long as
// the old link holds it; when another is to be had, that is said.
func TestForwardBackComesAgain(t *testing.T) {
	s := newSSHCBackServer(t)
	var mu sync.Mutex
	var asked []string
	s.answer = func(_ string, ask []byte) (bool, []byte) {
		var m struct {
			Host string
			Port uint32
		}
		if err := ssh.Unmarshal(ask, &m); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, fmt.Sprintf("%s:%d", m.Host, m.Port))
		switch len(asked) {
		case 1:
			return true, ssh.Marshal(struct{ Port uint32 }{4711})
		case 2, 3, 4: // the old link has it, nor is there another; then the old one
			return false, nil
		case 5:
			return true, ssh.Marshal(struct{ Port uint32 }{4712})
		}
		return true, nil
	}
	addrs, errs, dir := sshcForwardArgs(t, s.peer, 1, sshcForwardSpecs(t, nil, []string{"*:0:h:80"}))
	if addrs[0] != "localhost:4711" {
		t.Errorf("printed %q", addrs)
	}
	s.peer.cut()
	sshcUntil(t, func() bool {
		return strings.Contains(errs.String(), "attic listens on localhost:4712 now, not on port 4711")
	})
	s.peer.cut()
	sshcUntil(t, func() bool { return strings.Count(errs.String(), "connected to attic again") == 2 })
	sshcUntil(t, func() bool {
		list, err := runningForwards(t.Context(), dir)
		return err == nil && len(list) == 1 && list[0].State == "up" && list[0].Forwards[0].Listen == "localhost:4712"
	})
	mu.Lock()
	defer mu.Unlock()
	if got, want := strings.Join(asked, " "), ":0 :4711 :0 :4711 :0 :4712"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	if strings.Count(errs.String(), "; asking again") != 1 {
		t.Errorf("said %s", errs)
	}
}

// Our server allows none of it by itself.
func TestForwardBackNotByDefault(t *testing.T) {
	for _, spec := range []string{"0:h:80", filepath.Join(t.TempDir(), "s") + ":h:80"} {
		_, _, err := sshcFiles(t, nil, func(files stdio) error {
			home := &forwardHome{dir: t.TempDir()}
			defer home.release()
			return cmdForward(t.Context(), sshcOurs(t, false), files, sshcForwardSpecs(t, nil, []string{spec}), home)
		})
		if exitStatus(err) != 1 || !strings.Contains(err.Error(), "attic refuses to listen on ") || !strings.Contains(hintOf(err), "forward.remote") {
			t.Errorf("-R %s: %v, hint %s", spec, err, hintOf(err))
		}
	}
}

// The printed port answers again after a lost link.
func TestForwardBackReconnects(t *testing.T) {
	t.Run("sshd", func(t *testing.T) { testForwardBackReconnects(t, sshcSSHD(t)) })
	t.Run("sessio", func(t *testing.T) { testForwardBackReconnects(t, sshcOurs(t, true)) })
}

func testForwardBackReconnects(t *testing.T, p *sshcPeer) {
	port := sshcEcho(t)
	addrs, errs, dir := sshcForwardArgs(t, p, 1, sshcForwardSpecs(t, nil, []string{"127.0.0.1:0:127.0.0.1:" + port}))
	for round := range 3 {
		if got, err := sshcAsk("tcp", addrs[0], []byte("hi")); err != nil || string(got) != "echo 2\nhi" {
			t.Fatalf("round %d: %q, %v, %s", round, got, err, errs)
		}
		p.cut()
		sshcUntil(t, func() bool { return strings.Count(errs.String(), "connected to attic again") == round+1 })
		sshcUntil(t, func() bool {
			list, err := runningForwards(t.Context(), dir)
			return err == nil && len(list) == 1 && list[0].State == "up"
		})
	}
}

// A device reaches only what it was asked to listen for.
func TestForwardBackOnlyWhatWasAsked(t *testing.T) {
	echo := sshcEcho(t)
	s := newSSHCBackServer(t)
	s.answer = func(string, []byte) (bool, []byte) { return true, nil }
	_, errs, _ := sshcForwardArgs(t, s.peer, 2, sshcForwardSpecs(t, nil, []string{"8080:127.0.0.1:" + echo, "/run/x:127.0.0.1:1"}))
	conn := <-s.conns
	tcp := func(host string, port uint32) []byte { return ssh.Marshal(directTCPMsg{host, port, "192.0.2.1", 1}) }
	for _, tt := range []struct {
		kind   string
		extra  []byte
		reason ssh.RejectionReason
	}{
		{"forwarded-tcpip", tcp("localhost", 8081), ssh.Prohibited},
		{"forwarded-tcpip", tcp("localhost", 0), ssh.Prohibited},
		{"forwarded-tcpip", tcp("localhost", 8080+1<<16), ssh.Prohibited},
		{"forwarded-tcpip", tcp("localhost", 8080)[:8], ssh.Prohibited},
		{"forwarded-tcpip", nil, ssh.Prohibited},
		{"forwarded-streamlocal@openssh.com", ssh.Marshal(struct{ Path, Reserved string }{Path: "/run/y"}), ssh.Prohibited},
		{"forwarded-streamlocal@openssh.com", ssh.Marshal(struct{ Path, Reserved string }{}), ssh.Prohibited},
		{"direct-tcpip", tcp("127.0.0.1", 22), ssh.Prohibited},
		{"session", nil, ssh.Prohibited},
		{"x11", nil, ssh.Prohibited},
		{"auth-agent@openssh.com", nil, ssh.Prohibited},
		{"forwarded-streamlocal@openssh.com", ssh.Marshal(struct{ Path, Reserved string }{Path: "/run/x"}), ssh.ConnectionFailed},
	} {
		_, _, err := conn.OpenChannel(tt.kind, tt.extra)
		if refused := (*ssh.OpenChannelError)(nil); !errors.As(err, &refused) || refused.Reason != tt.reason {
			t.Errorf("%s %x: %v, want %v", tt.kind, tt.extra, err, tt.reason)
		} else if strings.Contains(refused.Message, "127.0.0.1") {
			t.Errorf("told the device %q", refused.Message)
		}
	}
	sshcUntil(t, func() bool { return strings.Contains(errs.String(), "/run/x on attic to 127.0.0.1:1: ") })
	for _, host := range []string{"localhost", "127.0.0.1"} { // Dropbear names what it has bound
		ch, requests, err := conn.OpenChannel("forwarded-tcpip", tcp(host, 8080))
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(requests)
		io.WriteString(ch, "hi")
		ch.CloseWrite()
		if got, err := io.ReadAll(ch); err != nil || string(got) != "echo 2\nhi" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Of two forwards on one port the host decides.
func TestForwardBackWanted(t *testing.T) {
	fw := new(forwarder)
	for _, s := range []string{"10.0.0.1:80:a:1", "10.0.0.2:80:b:1", "81:c:1", "/x:d:1"} {
		f, err := parseForwardSpec(s, true)
		if err != nil {
			t.Fatal(err)
		}
		fw.back = append(fw.back, &backForward{spec: f, port: f.listen.port})
	}
	for at, want := range map[forwardEnd]string{
		{host: "10.0.0.2", port: 80}: "b", {host: "::", port: 80}: "a", {host: "localhost", port: 81}: "c", {path: "/x"}: "d",
	} {
		if f := fw.wanted(at); f == nil || f.spec.to.host != want {
			t.Errorf("%v: %v, want %s", at, f, want)
		}
	}
	for _, at := range []forwardEnd{{port: 82}, {path: "/y"}, {}} {
		if f := fw.wanted(at); f != nil {
			t.Errorf("%v: %v", at, f)
		}
	}
}

// What a channel says of where it came in is written again and read alike.
func FuzzParseBack(f *testing.F) {
	f.Add(false, ssh.Marshal(directTCPMsg{"localhost", 8080, "192.0.2.1", 4711}))
	f.Add(true, ssh.Marshal(struct{ Path, Reserved string }{Path: "/run/x"}))
	f.Fuzz(func(t *testing.T, local bool, b []byte) {
		kind := "forwarded-tcpip"
		if local {
			kind = "forwarded-streamlocal@openssh.com"
		}
		at, err := parseBack(kind, b)
		if err != nil {
			return
		}
		again := ssh.Marshal(directTCPMsg{at.host, uint32(at.port), "", 0})
		if local {
			again = ssh.Marshal(struct{ Path, Reserved string }{Path: at.path})
		}
		if same, err := parseBack(kind, again); err != nil || same != at || local != (at.path != "") || local == (at.port != 0) {
			t.Errorf("%x: %+v, again %+v, %v", b, at, same, err)
		}
	})
}

// An sshcBackServer is an SSH server that is asked to listen.
type sshcBackServer struct {
	peer   *sshcPeer
	conns  chan ssh.Conn
	answer func(name string, ask []byte) (ok bool, data []byte)
}

func newSSHCBackServer(t *testing.T) *sshcBackServer {
	t.Helper()
	s := &sshcBackServer{conns: make(chan ssh.Conn, 8)}
	conf := sshcOpenDoor()
	dir := t.TempDir()
	host := sshcNewKey(t, filepath.Join(dir, "host"))
	conf.AddHostKey(host)
	s.peer = sshcListen(t, func(nc net.Conn) {
		defer nc.Close()
		conn, channels, requests, err := ssh.NewServerConn(nc, conf)
		if err != nil {
			return
		}
		s.conns <- conn
		go func() {
			for ch := range channels {
				ch.Reject(ssh.Prohibited, "no")
			}
		}()
		for req := range requests {
			ok, data := s.answer(req.Type, req.Payload)
			req.Reply(ok, data)
		}
	})
	s.peer.name, s.peer.users = "attic", []string{"alice"}
	s.peer.hostKey, s.peer.userKey = host.PublicKey(), sshcNewKey(t, filepath.Join(dir, "key"))
	return s
}
