//go:build linux || darwin

package main

// This file forwards for a client: a connection that it asks for, to a TCP port
// (direct-tcpip, ssh -L, -D, -W and -J) or to a Unix socket. It says which
// forwards there may be at all. Names are resolved here, and each direction ends
// by itself.

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// maxForwards is how many connections are forwarded at once on one SSH
// connection, both ways and agents' too. Idle, each holds two buffers of
// minForwardBuffer and five goroutines; what is sent and not read the floodGuard
// bounds for all together.
const maxForwards = 1024

// The channels and requests of forwards that have OpenSSH's names: its file
// PROTOCOL, sections 2.4 and 2.1 for the agent's.
const (
	directTCP        = "direct-tcpip"
	directUnix       = "direct-streamlocal@openssh.com"
	forwardedTCP     = "forwarded-tcpip"
	forwardedUnix    = "forwarded-streamlocal@openssh.com"
	agentChannel     = "auth-agent@openssh.com"
	agentRequest     = "auth-agent-req@openssh.com"
	listenTCP        = "tcpip-forward"
	listenTCPCancel  = "cancel-tcpip-forward"
	listenUnix       = "streamlocal-forward@openssh.com"
	listenUnixCancel = "cancel-streamlocal-forward@openssh.com"
)

// A directUnixMsg opens a channel to a Unix socket.
type directUnixMsg struct {
	Path, Reserved string
	Reserved2      uint32
}

// mayForward says why a kind of forward, which is one of ours, is not to be had.
func (c *sshConnection) mayForward(kind string) error {
	conf := c.srv.policy.config()
	on, key := false, ""
	switch kind {
	case directTCP:
		on, key = conf.forwardLocal, "forward.local"
	case listenTCP:
		on, key = conf.forwardRemote, "forward.remote"
	case directUnix, listenUnix:
		on, key = conf.forwardStreamlocal, "forward.streamlocal"
	case agentRequest:
		on, key = conf.forwardAgent, "forward.agent"
	}
	switch {
	case kind == agentRequest && c.login.noAgent:
		return errors.New("the key may not forward an agent")
	case kind != agentRequest && !c.login.may("forward"):
		return notGranted("forward")
	case !on:
		return errors.New("switched off here: " + key)
	case kind == directUnix && (len(conf.permit) > 0 || c.login.permitOpen != nil),
		kind == listenUnix && c.login.permitListen != nil:
		return errors.New("what is permitted are hosts and ports, no Unix sockets")
	}
	return nil
}

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

// forwardTarget is what a message of that kind is about, as far as it can be
// read.
func forwardTarget(kind string, payload []byte) string {
	var tcp directTCPMsg
	var path directUnixMsg
	switch kind {
	case directTCP:
		ssh.Unmarshal(payload, &tcp)
	case listenTCP:
		var m listenMsg
		ssh.Unmarshal(payload, &m)
		tcp.Host, tcp.Port = m.Addr, m.Port
	case directUnix:
		ssh.Unmarshal(payload, &path)
		return path.Path
	default:
		var m listenUnixMsg
		ssh.Unmarshal(payload, &m)
		return m.Path
	}
	return net.JoinHostPort(tcp.Host, strconv.Itoa(int(tcp.Port)))
}

// forward dials, answers the open with the outcome, and copies.
func (c *sshConnection) forward(nc ssh.NewChannel) {
	ctx, stop := context.WithTimeout(c.ctx, forwardDialTimeout)
	target, to, err := c.dialFor(ctx, nc)
	stop()
	c.auditForward(nc.ChannelType(), to, err)
	if err != nil {
		c.logf("forward to %q: %v", to, err)
		reason := ssh.ConnectionFailed
		if denied := (*permitError)(nil); errors.As(err, &denied) {
			reason = ssh.Prohibited
		}
		nc.Reject(reason, err.Error())
		return
	}
	c.logf("forward to %q", to)
	ch, reqs, err := nc.Accept()
	if err != nil {
		endTarget(target)
		return // the connection has ended
	}
	c.relay(ch, reqs, target)
}

// dialFor dials what a channel is opened for.
func (c *sshConnection) dialFor(ctx context.Context, nc ssh.NewChannel) (target streamConn, to string, err error) {
	if nc.ChannelType() == directUnix {
		var m directUnixMsg
		if err = ssh.Unmarshal(nc.ExtraData(), &m); err == nil {
			err = socketPath(m.Path)
		}
		if err != nil {
			return nil, m.Path, err
		}
		g, err := c.ask(ctx, netAsk{netDialUnix, m.Path})
		return g.conn, m.Path, err
	}
	var m directTCPMsg
	err = ssh.Unmarshal(nc.ExtraData(), &m)
	to, ok := m.address()
	if err != nil || !ok {
		return nil, to, errors.New("not an address and port")
	}
	host, _, err := net.SplitHostPort(to)
	if err != nil {
		return nil, to, err
	}
	conf := c.srv.policy.config()
	lists := []permitList{nil, permitListOf(c.login.permitOpen, "")}
	if len(conf.permit) > 0 {
		lists[0] = permitListOf(conf.permit, "")
	}
	addrs, err := permitted(ctx, lists, host, uint16(m.Port))
	for _, addr := range addrs {
		var g netGot
		if g, err = c.ask(ctx, netAsk{netDialTCP, addr}); err == nil {
			return g.conn, to, nil
		}
	}
	return nil, to, err
}

// ask does a as the user of the login.
func (c *sshConnection) ask(ctx context.Context, a netAsk) (netGot, error) {
	if c.login.acct.mustBecome() {
		return c.netChild.ask(ctx, c.login.acct, a)
	}
	return a.do(ctx)
}

// forwardDrain is how long a target may take to read what was sent before the
// channel was closed.
const forwardDrain = 10 * time.Second

// endTarget closes target. Its socket may be shared with a process that has
// made it blocking: then only a shutdown ends what runs on it.
func endTarget(target streamConn) {
	hangUp(target, unix.SHUT_RDWR)
	target.Close()
}

// relay copies both ways until the channel is closed, and closes target. Each
// end of file is handed on by itself; an error on the target's side closes the
// channel. What the client sent before it closed still reaches the target.
func (c *sshConnection) relay(ch ssh.Channel, reqs <-chan *ssh.Request, target streamConn) {
	defer target.Close()
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
	hangUp(target, unix.SHUT_RD)
	target.SetWriteDeadline(time.Now().Add(forwardDrain))
	defer time.AfterFunc(forwardDrain, func() { hangUp(target, unix.SHUT_RDWR) }).Stop()
	work.Wait()
}

// minForwardBuffer is what a direction that carries little holds, in bytes.
const minForwardBuffer = 4 << 10

// grown is a buffer for what comes next, once n bytes came into b: a full one
// grows, up to sshChunk.
func grown(b []byte, n int) []byte {
	if n < len(b) || n >= sshChunk {
		return b
	}
	return make([]byte, min(2*n, sshChunk))
}

// toTarget reads on when the target takes no more: the client may not stop.
func (c *sshConnection) toTarget(target streamConn, ch ssh.Channel) {
	in := newGuardedReader(ch, c.flood)
	defer in.close()
	b := make([]byte, minForwardBuffer)
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
		b = grown(b, n)
	}
}

func fromTarget(ch ssh.Channel, target streamConn) {
	b := make([]byte, minForwardBuffer)
	for {
		n, err := target.Read(b)
		if n > 0 {
			if _, err := ch.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			ch.CloseWrite()
			if !errors.Is(err, io.EOF) {
				ch.Close() // reset: nothing will come back for what is still sent
			}
			return
		}
		b = grown(b, n)
	}
}
