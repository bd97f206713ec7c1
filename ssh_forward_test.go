//go:build linux || darwin

package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshdEcho serves each connection with f on loopback.
func sshdEcho(t *testing.T, f func(*net.TCPConn)) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				f(nc.(*net.TCPConn))
			}()
		}
	}()
	return ln.Addr().String()
}

func sshdFreePort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// TestSSHDForwardStock is ssh -L with a stock client, both directions closing
// by themselves.
func TestSSHDForwardStock(t *testing.T) {
	d := startSSHD(t, nil)
	target := sshdEcho(t, func(nc *net.TCPConn) {
		b, _ := io.ReadAll(nc) // until the other side's end
		nc.Write(bytes.ToUpper(b))
	})
	local := sshdFreePort(t)
	cmd := d.ssh("-N", "-L", local+":"+target, "-o", "ExitOnForwardFailure=yes", "h")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var nc net.Conn
	sshdUntil(t, "the local port", func() (ok bool) {
		var err error
		nc, err = net.Dial("tcp", local)
		return err == nil
	})
	defer nc.Close()
	io.WriteString(nc, "hello")
	nc.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(nc); string(b) != "HELLO" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// TestSSHDForwardEnds: each direction ends by itself, whichever is first.
func TestSSHDForwardEnds(t *testing.T) {
	d := startSSHD(t, nil)
	got := make(chan string, 1)
	target := sshdEcho(t, func(nc *net.TCPConn) {
		io.WriteString(nc, "bye")
		nc.CloseWrite()
		b, _ := io.ReadAll(nc)
		got <- string(b)
	})
	nc, err := d.mustDial().Dial("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(nc); string(b) != "bye" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	io.WriteString(nc, "after their end")
	nc.Close()
	if s := <-got; s != "after their end" {
		t.Errorf("the target got %q", s)
	}
}

func TestSSHDForwardBytes(t *testing.T) {
	d := startSSHD(t, nil)
	target := sshdEcho(t, func(nc *net.TCPConn) {
		io.Copy(nc, nc)
		nc.CloseWrite()
	})
	nc, err := d.mustDial().Dial("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 5<<20)
	rand.Read(sent)
	go func() {
		nc.Write(sent)
		nc.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, err := io.ReadAll(nc); !bytes.Equal(got, sent) || err != nil {
		t.Errorf("%d bytes came back of %d, or others; %v", len(got), len(sent), err)
	}
}

// TestSSHDForwardReset: a reset target closes the channel.
func TestSSHDForwardReset(t *testing.T) {
	d := startSSHD(t, nil)
	target := sshdEcho(t, func(nc *net.TCPConn) {
		nc.Read(make([]byte, 1))
		nc.SetLinger(0)
	})
	nc, err := d.mustDial().Dial("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(nc, "x")
	io.ReadAll(nc)
	sshdUntil(t, "writing to fail", func() bool {
		_, err := io.WriteString(nc, "x")
		return err != nil
	})
}

func TestSSHDForwardFails(t *testing.T) {
	d := startSSHD(t, nil)
	cl := d.mustDial()
	host, port, _ := net.SplitHostPort(sshdFreePort(t))
	var n uint32
	fmt.Sscan(port, &n)
	for _, c := range []struct {
		host string
		port uint32
		text string
	}{
		{host, n, "connection refused"},
		{"[" + host + "]", n, "connection refused"},
		{"no-such-host.invalid", 80, "no-such-host.invalid"},
		{"", 80, "not an address"},
		{host, 0, "not an address"},
		{host, 65536, "not an address"},
		{"a\x00b", 80, "not an address"},
		{strings.Repeat("a", 300), 80, "not an address"},
	} {
		_, _, err := cl.OpenChannel("direct-tcpip", ssh.Marshal(directTCPMsg{c.host, c.port, "127.0.0.1", 1}))
		open := (*ssh.OpenChannelError)(nil)
		if !errors.As(err, &open) || open.Reason != ssh.ConnectionFailed || !strings.Contains(open.Message, c.text) {
			t.Errorf("%.20q %d: %v", c.host, c.port, err)
		}
	}
	if _, _, err := cl.OpenChannel("direct-tcpip", []byte{1}); err == nil {
		t.Error("half a request")
	}
}

// TestSSHDForwardHangup: when the client goes, so does the connection to the
// target.
func TestSSHDForwardHangup(t *testing.T) {
	d := startSSHD(t, nil)
	ended := make(chan struct{})
	target := sshdEcho(t, func(nc *net.TCPConn) {
		io.WriteString(nc, "up\n")
		io.Copy(io.Discard, nc)
		close(ended)
	})
	cl := d.mustDial()
	nc, err := cl.Dial("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(nc).ReadString('\n')
	cl.Conn.Close()
	<-ended
}

func FuzzDirectTCP(f *testing.F) {
	f.Add(ssh.Marshal(directTCPMsg{"localhost", 80, "127.0.0.1", 1}))
	f.Add(ssh.Marshal(directTCPMsg{"[::1%lo]", 65535, "", 0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m directTCPMsg
		if ssh.Unmarshal(b, &m) != nil {
			return
		}
		addr, ok := m.address()
		if !ok {
			return
		}
		host, port, err := net.SplitHostPort(addr)
		if strings.ContainsAny(m.Host, "[]") && err != nil {
			return // no address has them inside: the dial fails
		}
		if err != nil || port != fmt.Sprint(m.Port) || !strings.Contains(m.Host, host) {
			t.Errorf("%+v became %q: %q %q %v", m, addr, host, port, err)
		}
	})
}
