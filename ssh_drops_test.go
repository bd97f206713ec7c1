//go:build linux

package main

// Clients that are gone at any moment: in the handshake, in the login, in the
// middle of a session.

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// A cutConn is closed when left bytes have come in.
type cutConn struct {
	net.Conn
	left atomic.Int64
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.left.Add(int64(-n)) < 0 {
		c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// A drop is one client: what it runs, and after how many bytes it is gone.
type drop struct {
	command  string
	terminal bool
	after    int64
}

// TestSSHDDropsAtRandom: 200 connections, eight at a time, are cut at random.
// No goroutine, descriptor or process is left, and none waits to be reaped.
func TestSSHDDropsAtRandom(t *testing.T) {
	d := startSSHD(t, nil)
	d.leak(0) // what is made once
	d.idle()
	before := sshdCount(t)
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	drops := make(chan drop)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for c := range drops {
				d.dropped(c)
			}
		})
	}
	commands := []string{"", "yes", "head -c 300000 /dev/zero; sleep 1000 & wait", "exec cat", "kill -9 $$", "echo; sleep 3 >/dev/null 2>&1 </dev/null &", "yes >&2"}
	for range 200 {
		drops <- drop{commands[rng.IntN(len(commands))], rng.IntN(2) == 0, 1 << rng.IntN(20)}
	}
	close(drops)
	clients.Wait()
	d.settled(before)
}

// dropped is a client that leaves as c says, or when its command ends.
func (d *sshdTest) dropped(c drop) {
	nc, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.Error(err)
		return
	}
	cut := &cutConn{Conn: nc}
	cut.left.Store(c.after)
	defer cut.Close()
	cc, chans, reqs, err := ssh.NewClientConn(cut, "", &ssh.ClientConfig{
		User: d.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(d.T, d.key))},
		HostKeyCallback: ssh.FixedHostKey(sshdSigner(d.T, d.host).PublicKey())})
	if err != nil {
		return
	}
	cl := ssh.NewClient(cc, chans, reqs)
	defer cl.Close()
	s, err := cl.NewSession()
	if err != nil {
		return
	}
	if c.terminal && s.RequestPty("xterm", 24, 80, nil) != nil {
		return
	}
	out, _ := s.StdoutPipe()
	if c.command == "" {
		err = s.Shell()
	} else {
		err = s.Start(c.command)
	}
	if err == nil && c.command != "" && c.command != "exec cat" { // which say nothing by themselves
		io.CopyN(io.Discard, out, c.after/2)
	}
}
