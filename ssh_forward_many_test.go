//go:build linux

package main

// A thousand forwards at once, and targets and clients that misbehave.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// TestSSHDForwardThousand: a thousand connections through one SSH connection,
// all open at once, data both ways and each end by itself; then everything is
// released.
func TestSSHDForwardThousand(t *testing.T) {
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		const many = 1000
		cl := d.mustDial()
		target := sshdEcho(t, sshdUpper)
		nc, err := cl.Dial("tcp", target)
		sshdAskUpper(t, nc, err)
		sshdUntil(t, "the end of the first", func() bool { return d.forwards() == 0 })
		before := sshdCount(t)
		var open sync.WaitGroup
		conns := make([]net.Conn, many)
		for i := range conns {
			open.Go(func() {
				var err error
				if conns[i], err = cl.Dial("tcp", target); err != nil {
					t.Error(i, err)
					return
				}
				fmt.Fprintf(conns[i], "number %d", i)
			})
		}
		open.Wait()
		if t.Failed() {
			t.FailNow()
		}
		if n := d.forwards(); n != many {
			t.Errorf("%d are open", n)
		}
		for i, nc := range conns {
			open.Go(func() {
				nc.(interface{ CloseWrite() error }).CloseWrite()
				b, err := io.ReadAll(nc)
				if string(b) != fmt.Sprintf("NUMBER %d", i) || err != nil {
					t.Errorf("%d: %q, %v", i, b, err)
				}
				nc.Close()
			})
		}
		open.Wait()
		sshdUntil(t, "all released", func() bool {
			after := sshdCount(t)
			return d.forwards() == 0 && after.goroutines <= before.goroutines && after.fds <= before.fds
		})
	})
}

// forwards counts those of all connections.
func (d *sshdTest) forwards() (n int) {
	d.srv.mu.Lock()
	defer d.srv.mu.Unlock()
	for c := range d.srv.conns {
		n += c.forwards
	}
	return n
}

// TestSSHDForwardLimit: more than maxForwards are refused, sessions are not
// among them, and a closed one makes room.
func TestSSHDForwardLimit(t *testing.T) {
	d := startSSHD(t, nil)
	cl := d.mustDial()
	target := sshdEcho(t, sshdUpper)
	var first net.Conn
	for i := range maxForwards {
		nc, err := cl.Dial("tcp", target)
		if err != nil {
			t.Fatal(i, err)
		}
		if i == 0 {
			first = nc
		}
	}
	_, err := cl.Dial("tcp", target)
	if open := (*ssh.OpenChannelError)(nil); !errors.As(err, &open) || open.Reason != ssh.ResourceShortage {
		t.Error(err)
	}
	d.newSession(cl)
	first.Close()
	sshdUntil(t, "room for another", func() bool {
		_, err := cl.Dial("tcp", target)
		return err == nil
	})
}

// TestSSHDForwardDeaf: a target that takes nothing, behind a listener that
// accepts nothing, holds up neither others nor the end of the connection.
func TestSSHDForwardDeaf(t *testing.T) {
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		cl := d.mustDial()
		deaf, err := cl.Dial("tcp", ln.Addr().String()) // the kernel connects it
		if err != nil {
			t.Fatal(err)
		}
		full := make(chan struct{})
		go func() { // until the windows are full
			defer close(full)
			deaf.Write(make([]byte, 64<<20))
		}()
		nc, err := cl.Dial("tcp", sshdEcho(t, sshdUpper))
		sshdAskUpper(t, nc, err)
		cl.Close()
		<-full
		ln.Close() // resets what it has not accepted
		d.idle()
	})
}

// TestSSHDRemoteReset: a connection to a remote port that is reset closes the
// channel, and one whose channel the client closes is closed.
func TestSSHDRemoteReset(t *testing.T) {
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		cl := d.mustDial()
		ln, err := cl.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		for _, far := range []bool{true, false} {
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			ch, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if far {
				nc.(*net.TCPConn).SetLinger(0)
				nc.Close()
				if _, err := io.ReadAll(ch); err != nil {
					t.Error(err)
				}
			} else {
				ch.Close()
				if b, err := io.ReadAll(nc); len(b) > 0 || err != nil {
					t.Errorf("%q, %v", b, err)
				}
			}
			nc.Close()
			ch.Close()
		}
		sshdUntil(t, "their end", func() bool { return d.forwards() == 0 })
	})
}

// TestSSHDForwardStockMore is -W, -D and a jump through our server to itself.
func TestSSHDForwardStockMore(t *testing.T) {
	t.Parallel()
	sshdBothUsers(t, func(t *testing.T, d *sshdTest) {
		target := sshdEcho(t, func(nc *net.TCPConn) { io.WriteString(nc, "hello from afar") })
		d.want(d.ssh("-W", target, "h"), "hello from afar", 0)

		config := d.write("jump.conf", []byte(fmt.Sprintf("Host *\n HostName 127.0.0.1\n Port %s\n User %s\n HostKeyAlias h\n IdentityFile %s/id\n IdentitiesOnly yes\n BatchMode yes\n UserKnownHostsFile %s/known_hosts\n", d.port, d.user, d.dir, d.dir)))
		jump := d.ssh()
		jump.Args = []string{"ssh", "-F", config, "-J", "first", "second", "echo through"}
		d.want(jump, "through\n", 0)

		socks := sshdFreePort(t)
		d.master("-D", socks)
		var nc net.Conn
		sshdUntil(t, "the local port", func() (ok bool) {
			var err error
			nc, err = net.Dial("tcp", socks)
			return err == nil
		})
		defer nc.Close()
		a, err := net.ResolveTCPAddr("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		nc.Write([]byte{5, 1, 0})
		nc.Write(append([]byte{5, 1, 0, 3, 9}, append([]byte("localhost"), byte(a.Port>>8), byte(a.Port))...))
		b, _ := io.ReadAll(nc)
		if len(b) != 2+10+15 || string(b[12:]) != "hello from afar" {
			t.Errorf("%q", b)
		}
	})
}

// TestHangUpBlocking: a user whose process has handed over a socket can make it
// blocking, and keeps nothing of the server busy by it.
func TestHangUpBlocking(t *testing.T) {
	for range 20 {
		a, _ := sshdConnPair(t)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []interface{ File() (*os.File, error) }{a.(*net.TCPConn), ln.(*net.TCPListener)} {
			f, err := s.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
				t.Fatal(err)
			}
		}
		var work sync.WaitGroup
		began := make(chan struct{}, 2)
		work.Go(func() {
			began <- struct{}{}
			io.Copy(io.Discard, a)
		})
		work.Go(func() {
			began <- struct{}{}
			ln.Accept()
		})
		<-began
		<-began
		endTarget(a.(*net.TCPConn))
		hangUp(ln, unix.SHUT_RDWR)
		ln.Close()
		work.Wait()
	}
}
