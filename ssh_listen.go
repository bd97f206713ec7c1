//go:build linux || darwin

package main

// This file listens for a client and opens a channel to it for each connection
// that comes: on TCP (ssh -R), on Unix sockets, and as the agent of its
// sessions. TCP is kept to loopback, as sshd does by default (GatewayPorts no).

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	// maxListeners is how many ports and paths a connection may listen on.
	maxListeners = 16
	// maxOpening is how many channels of a listener may wait for the client's
	// answer; more connections wait in the kernel.
	maxOpening = 16
	// descriptorPause is for descriptors to come free when there are none left.
	descriptorPause = 100 * time.Millisecond
	// maxGlobals is how many global requests wait, the library's number.
	maxGlobals = 16
	// removeTimeout is for removing a socket at the end. The process of the
	// user may be stopped.
	removeTimeout = 2 * time.Second
)

// A listenMsg asks for a TCP listener or its end: RFC 4254, section 7.1.
type listenMsg struct {
	Addr string
	Port uint32
}

// A listenUnixMsg asks for a Unix listener or its end.
type listenUnixMsg struct{ Path string }

// A forwardedUnixMsg opens a channel for a connection to a Unix listener.
type forwardedUnixMsg struct{ Path, Reserved string }

// sshListeners are what a connection listens on.
type sshListeners struct {
	mu    sync.Mutex
	open  map[any]*sshListener // by listenMsg, listenUnixMsg, or agentRequest; guarded by mu
	ended bool                 // guarded by mu
}

// An sshListener is one of them: two sockets where loopback has two.
type sshListener struct {
	lns    []net.Listener
	remove netAsk        // of its path, op 0 if it has none
	slots  chan struct{} // of maxOpening
}

// answerGlobals answers global requests in order. A keepalive wants any answer,
// and sshd gives it a failure.
func (c *sshConnection) answerGlobals(reqs <-chan *ssh.Request) {
	for req := range reqs {
		ok, payload := false, []byte(nil)
		var err error
		switch req.Type {
		case listenTCP:
			payload, err = c.listenTCP(req.Payload)
			ok = err == nil
		case listenUnix:
			err = c.listenUnix(req.Payload)
			ok = err == nil
		case listenTCPCancel:
			ok = cancelListener[listenMsg](c, req.Payload)
		case listenUnixCancel:
			ok = cancelListener[listenUnixMsg](c, req.Payload)
		case hostKeysProof:
			payload, ok = proveHostKeys(c.hostKeys, req.Payload, c.conn.SessionID(), c.kexKey)
		}
		if err != nil {
			c.logf("%s refused: %v", req.Type, err)
			c.auditForward(req.Type, forwardTarget(req.Type, req.Payload), err)
		}
		if req.WantReply {
			req.Reply(ok, payload)
		}
		if req.Type == hostKeysProof {
			c.proving.Unlock()
		}
	}
}

// listenTCP answers with the port where the client asked for any.
func (c *sshConnection) listenTCP(payload []byte) (answer []byte, err error) {
	var m listenMsg
	if err := ssh.Unmarshal(payload, &m); err != nil {
		return nil, err
	}
	if err := c.mayForward(listenTCP); err != nil {
		return nil, err
	}
	if m.Port > 65535 || !permitListOf(c.login.permitListen, "*").listens(m.Addr, uint16(m.Port)) {
		return nil, fmt.Errorf("listening on %.80q port %d is not permitted", m.Addr, m.Port)
	}
	asked := m.Port
	l := new(sshListener)
	hosts := loopbackFor(m.Addr)
	if hosts == nil {
		return nil, fmt.Errorf("listening on %.80q: only on loopback", m.Addr)
	}
	for _, host := range hosts {
		ctx, stop := context.WithTimeout(c.ctx, forwardDialTimeout)
		g, err := c.ask(ctx, netAsk{netListenTCP, net.JoinHostPort(host, strconv.Itoa(int(m.Port)))})
		stop()
		if err != nil && len(l.lns) == 0 {
			return nil, err
		}
		if err != nil {
			break // there is no IPv6, or the port is taken there: sshd makes do too
		}
		l.lns = append(l.lns, g.ln)
		m.Port = uint32(g.ln.Addr().(*net.TCPAddr).Port)
	}
	err = c.listen(m, l, forwardedTCP, func(nc net.Conn) []byte {
		host, port := hostPort(nc.RemoteAddr())
		n, _ := strconv.Atoi(port)
		return ssh.Marshal(directTCPMsg{m.Addr, m.Port, host, uint32(n)}) // the same form: section 7.2
	})
	if err == nil && asked == 0 {
		answer = ssh.Marshal(struct{ Port uint32 }{m.Port})
	}
	return answer, err
}

// loopbackFor is where to listen for the address that a client wants: on both
// families for all addresses and localhost, as sshd with GatewayPorts no. For
// any other address sshd does that too; who asks for one means it: nowhere.
func loopbackFor(addr string) []string {
	a, _ := netip.ParseAddr(addr)
	switch {
	case addr == "", addr == "*", addr == "localhost", a.IsUnspecified():
		return []string{"127.0.0.1", "::1"}
	case a.IsLoopback():
		return []string{addr}
	}
	return nil
}

func (c *sshConnection) listenUnix(payload []byte) error {
	var m listenUnixMsg
	if err := ssh.Unmarshal(payload, &m); err != nil {
		return err
	}
	if err := c.mayForward(listenUnix); err != nil {
		return err
	}
	if err := socketPath(m.Path); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(c.ctx, forwardDialTimeout)
	defer stop()
	g, err := c.ask(ctx, netAsk{netListenUnix, m.Path})
	if err != nil {
		return err
	}
	l := &sshListener{lns: []net.Listener{g.ln}, remove: netAsk{netRemove, g.made}}
	return c.listen(m, l, forwardedUnix, func(net.Conn) []byte { return ssh.Marshal(forwardedUnixMsg{Path: m.Path}) })
}

// agentSocket is the path of the socket that leads to the client's agent. As
// in sshd all sessions of a connection share it.
func (c *sshConnection) agentSocket() (path string, err error) {
	if err := c.mayForward(agentRequest); err != nil {
		return "", err
	}
	c.listeners.mu.Lock()
	l := c.listeners.open[agentRequest]
	c.listeners.mu.Unlock()
	if l != nil {
		return madePath(l.remove.arg), nil
	}
	ctx, stop := context.WithTimeout(c.ctx, forwardDialTimeout)
	defer stop()
	g, err := c.ask(ctx, netAsk{netAgent, ""})
	if err != nil {
		return "", err
	}
	l = &sshListener{lns: []net.Listener{g.ln}, remove: netAsk{netRemoveDir, g.made}}
	return madePath(g.made), c.listen(agentRequest, l, agentChannel, func(net.Conn) []byte { return nil })
}

// agentRequest handles the session request of that name.
func (s *sshSession) agentRequest() bool {
	if s.child != nil {
		return false
	}
	path, err := s.conn.agentSocket()
	if err != nil {
		s.conn.logf("agent refused: %v", err)
		s.conn.auditForward(agentRequest, "", err)
		return false
	}
	s.env = append(s.env, "SSH_AUTH_SOCK="+path)
	return true
}

// listen serves l under key until it is cancelled or the connection ends. open
// makes the message that opens a channel of kind for a connection.
func (c *sshConnection) listen(key any, l *sshListener, kind string, open func(net.Conn) []byte) error {
	l.slots = make(chan struct{}, maxOpening)
	ls := &c.listeners
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var err error
	switch {
	case ls.ended:
		err = errSSHClosing
	case ls.open[key] != nil:
		err = errors.New("it is listened on already")
	case len(ls.open) >= maxListeners:
		err = fmt.Errorf("more than %d listeners", maxListeners)
	}
	if err != nil {
		c.work.Go(func() { c.stopListener(l) })
		return err
	}
	if ls.open == nil {
		ls.open = map[any]*sshListener{}
	}
	ls.open[key] = l
	for _, ln := range l.lns {
		c.logf("%s listens on %s", kind, ln.Addr())
		c.auditForward(kind, "from "+ln.Addr().String(), nil)
		c.work.Go(func() { c.acceptLoop(l, ln, kind, open) })
	}
	return nil
}

func (c *sshConnection) acceptLoop(l *sshListener, ln net.Listener, kind string, open func(net.Conn) []byte) {
	for {
		nc, err := ln.Accept()
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			time.Sleep(descriptorPause)
			continue
		}
		if err != nil {
			return // cancelled
		}
		l.slots <- struct{}{} // OpenChannel returns when the connection ends
		c.work.Go(func() { c.openTo(nc.(streamConn), l, kind, open) })
	}
}

// openTo hands a connection that has come to the client.
func (c *sshConnection) openTo(nc streamConn, l *sshListener, kind string, open func(net.Conn) []byte) {
	_, text := c.count(kind)
	var ch ssh.Channel
	var reqs <-chan *ssh.Request
	err := errors.New(text)
	if text == "" {
		defer c.release(kind)
		ch, reqs, err = c.conn.OpenChannel(kind, open(nc))
	}
	<-l.slots
	if err != nil {
		c.logf("%s refused: %v", kind, err)
		endTarget(nc)
		return
	}
	c.relay(ch, reqs, nc)
}

// cancelListener ends the listener that was made by such a message. What came
// by it stays.
func cancelListener[M comparable](c *sshConnection, payload []byte) bool {
	var m M
	if ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	c.listeners.mu.Lock()
	l := c.listeners.open[m]
	delete(c.listeners.open, m)
	c.listeners.mu.Unlock()
	if l == nil {
		return false
	}
	c.stopListener(l)
	return true
}

// stopListener frees port or path at once.
func (c *sshConnection) stopListener(l *sshListener) {
	for _, ln := range l.lns {
		hangUp(ln, unix.SHUT_RDWR)
		ln.Close()
	}
	if l.remove.op == 0 {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), removeTimeout)
	defer stop()
	if _, err := c.ask(ctx, l.remove); err != nil {
		c.logf("removing %s: %v", madePath(l.remove.arg), err)
	}
}

// stopListeners ends all of them, and there are no more.
func (c *sshConnection) stopListeners() {
	c.listeners.mu.Lock()
	open := c.listeners.open
	c.listeners.open, c.listeners.ended = nil, true
	c.listeners.mu.Unlock()
	for _, l := range open {
		c.work.Go(func() { c.stopListener(l) }) // each may take removeTimeout
	}
}
