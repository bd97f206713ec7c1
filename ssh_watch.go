//go:build linux || darwin

package main

// This file ends SSH connections that are over in all but name: those without
// data for too long, those whose time is up, and on the TCP port those whose
// client is not there any more.

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

var (
	errSSHIdle = errors.New("no data for security.idle_timeout")
	errSSHTime = errors.New("security.session_timeout is over")
	errSSHDead = errors.New("the client answers no keepalives")
)

// maxKeepalives unanswered end a connection: ClientAliveCountMax of sshd.
const maxKeepalives = 3

// An sshWatch is what is due on one connection.
type sshWatch struct {
	port    bool // on the TCP port
	started time.Time

	in    int64     // bytes that had come when they were last looked at
	heard time.Time // when they were found to be more
	asked int       // keepalives since then
}

// look says what is due: a keepalive to be sent, or the end and why. next is
// when to look again, zero for never. in counts all bytes that have come: any
// is a sign of life, as in sshd. data is when something last passed a channel.
func (w *sshWatch) look(c *serverConfig, now time.Time, in int64, data time.Time) (ask bool, next time.Time, end error) {
	due := func(from time.Time, d time.Duration) bool {
		if d <= 0 {
			return false
		}
		next = earlier(next, from.Add(d))
		return !now.Before(from.Add(d))
	}
	idle := c.idleLink
	if w.port {
		idle = c.idlePort
	}
	switch {
	case due(w.started, c.sessionTimeout):
		return false, next, errSSHTime
	case due(data, idle):
		return false, next, errSSHIdle
	case !w.port || c.keepalive <= 0:
		return false, next, nil
	}
	if in != w.in || w.heard.IsZero() {
		w.in, w.heard, w.asked = in, now, 0
	}
	if ask = !now.Before(w.heard.Add(c.keepalive * time.Duration(w.asked+1))); ask {
		if w.asked == maxKeepalives {
			return false, next, errSSHDead
		}
		w.asked++
	}
	due(w.heard, c.keepalive*time.Duration(w.asked+1))
	return ask, next, nil
}

// watch acts on what is due until ctx ends, and looks at once when c.wake says
// that the settings have changed.
func (c *sshConnection) watch(ctx context.Context) {
	w := sshWatch{port: c.onPort(), started: c.started}
	timer := time.NewTimer(0)
	defer timer.Stop()
	alive := make(chan struct{}, 1) // holds one while a keepalive is not answered
	var asking sync.WaitGroup
	defer asking.Wait() // the request ends with the connection
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		ask, next, err := w.look(c.srv.policy.config(), time.Now(), c.meter.in.Load(), c.dataAt())
		if err != nil {
			c.end(err)
			return
		}
		if ask {
			// The library waits for the answer before it sends another, and what
			// comes in order would not answer the second either.
			select {
			case alive <- struct{}{}:
				asking.Go(func() {
					c.conn.SendRequest("keepalive@openssh.com", true, nil)
					<-alive
				})
			default:
			}
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// dataAt is when something last passed a channel, at first the login.
func (c *sshConnection) dataAt() time.Time { return c.started.Add(time.Duration(c.data.Load())) }

func (c *sshConnection) passed(n int) {
	if n > 0 {
		c.data.Store(int64(time.Since(c.started)))
	}
}

// A countedConn notes what passes the channels that the server opens, a
// watchedNewChannel what passes those that it is asked for.
type countedConn struct {
	ssh.Conn
	c *sshConnection
}

func (w countedConn) OpenChannel(name string, data []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	ch, reqs, err := w.Conn.OpenChannel(name, data)
	return watchedChannel{ch, w.c}, reqs, err
}

type watchedNewChannel struct {
	ssh.NewChannel
	c *sshConnection
}

func (w watchedNewChannel) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	ch, reqs, err := w.NewChannel.Accept()
	return watchedChannel{ch, w.c}, reqs, err
}

type watchedChannel struct {
	ssh.Channel
	c *sshConnection
}

func (w watchedChannel) Read(b []byte) (int, error) {
	n, err := w.Channel.Read(b)
	w.c.passed(n)
	return n, err
}

func (w watchedChannel) Write(b []byte) (int, error) {
	n, err := w.Channel.Write(b)
	w.c.passed(n)
	return n, err
}

func (w watchedChannel) Stderr() io.ReadWriter { return watchedStderr{w.Channel.Stderr(), w.c} }

type watchedStderr struct {
	io.ReadWriter
	c *sshConnection
}

func (w watchedStderr) Read(b []byte) (int, error) {
	n, err := w.ReadWriter.Read(b)
	w.c.passed(n)
	return n, err
}

func (w watchedStderr) Write(b []byte) (int, error) {
	n, err := w.ReadWriter.Write(b)
	w.c.passed(n)
	return n, err
}
