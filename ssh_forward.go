//go:build linux || darwin

package main

// This file forwards for a client: a TCP connection that it asks for
// (direct-tcpip, ssh -L and -D). Names are resolved here, as the user, and each
// direction ends by itself.

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// address is what to dial, ok only if it can be one. OpenSSH's clients strip
// the brackets of an IPv6 address, others do not.
func (m directTCPMsg) address() (addr string, ok bool) {
	host := m.Host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	// A DNS name has at most 253 characters, a zone makes an address longer.
	if host == "" || len(host) > 255 || strings.ContainsRune(host, 0) || m.Port < 1 || m.Port > 65535 {
		return "", false
	}
	return net.JoinHostPort(host, strconv.Itoa(int(m.Port))), true
}

// forward dials, answers the open with the outcome, and copies.
func (c *sshConnection) forward(nc ssh.NewChannel) {
	var m directTCPMsg
	err := ssh.Unmarshal(nc.ExtraData(), &m)
	addr, ok := m.address()
	if err != nil || !ok {
		nc.Reject(ssh.ConnectionFailed, "not an address and port")
		return
	}
	ctx, stop := context.WithTimeout(c.ctx, forwardDialTimeout)
	target, err := c.dial(ctx, addr)
	stop()
	if err != nil {
		c.logf("forward to %q: %v", addr, err)
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer target.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return // the connection has ended
	}
	c.relay(ch, reqs, target)
}

// forwardDrain is how long a target may take to read what was sent before the
// channel was closed.
const forwardDrain = 10 * time.Second

// relay copies both ways until the channel is closed. Each end of file is
// handed on by itself; an error on the target's side closes the channel. What
// the client sent before it closed still reaches the target.
func (c *sshConnection) relay(ch ssh.Channel, reqs <-chan *ssh.Request, target streamConn) {
	var work, both sync.WaitGroup
	work.Go(func() { discard(ch.Stderr()) })
	both.Go(func() { c.toTarget(target, ch) })
	both.Go(func() { fromTarget(ch, target) })
	work.Go(func() {
		both.Wait()
		ch.Close()
	})
	for req := range reqs {
		reply(req, false)
	}
	target.SetReadDeadline(time.Unix(1, 0)) // long past
	target.SetWriteDeadline(time.Now().Add(forwardDrain))
	work.Wait()
}

// toTarget reads on when the target takes no more: the client may not stop.
func (c *sshConnection) toTarget(target streamConn, ch ssh.Channel) {
	in := newGuardedReader(ch, c.flood)
	defer in.close()
	b := make([]byte, sshChunk)
	for deaf := false; ; {
		n, err := in.Read(b)
		if n > 0 && !deaf {
			_, err := target.Write(b[:n])
			deaf = err != nil
		}
		if err != nil {
			target.CloseWrite()
			return
		}
	}
}

func fromTarget(ch ssh.Channel, target streamConn) {
	writeErr, readErr := copyChunks(ch, target)
	if writeErr != nil {
		return
	}
	ch.CloseWrite()
	if readErr != nil {
		ch.Close() // reset: nothing will come back for what is still sent
	}
}

// dial connects to addr as the user of the login: who may use a port, and what
// a firewall's owner rules say, is then right by itself.
func (c *sshConnection) dial(ctx context.Context, addr string) (streamConn, error) {
	if c.login.acct.mustBecome() {
		return c.netChild.dial(ctx, c.login.acct, addr)
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return nc.(*net.TCPConn), nil
}
