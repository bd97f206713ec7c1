//go:build linux || darwin

package main

// This file serves SSH on a connection: it lets a login in, hands its channels
// to sessions and forwards, and ends when all of them have.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// An sshServer serves SSH connections under one policy.
type sshServer struct {
	policy sshPolicy

	mu      sync.Mutex
	conns   map[*sshConnection]bool // guarded by mu
	lastID  int                     // guarded by mu
	closing bool                    // guarded by mu
	serving sync.WaitGroup          // calls of serve; Add under mu, before closing
}

func newSSHServer(p sshPolicy) *sshServer {
	if p.config == nil {
		p.config = defaultServerConfig
	}
	if p.account == nil {
		p.account = loginAccount
	}
	return &sshServer{policy: p, conns: map[*sshConnection]bool{}}
}

var errSSHClosing = errors.New("the ssh server is stopping")

// serve serves SSH on nc and closes it. linkKey is the key that the link has
// proved, nil when none. It returns when the connection is over and all that it
// started has ended or been hung up on: nil when the client left, otherwise
// what ended it. session names the token that it came by, if any.
func (s *sshServer) serve(ctx context.Context, nc net.Conn, linkKey ssh.PublicKey, session string) error {
	now := time.Now()
	meter := newSSHMeter(nc, now)
	w := newSSHWire(meter)
	defer w.wait()
	defer w.Close()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(ctx, func() { w.Close() })()
	c := &sshConnection{ctx: ctx, end: end, srv: s, flood: w.flood, meter: meter, token: session, started: now}
	if !s.add(c) {
		return errSSHClosing
	}
	defer s.remove(c)
	err := c.loginAndRun(w, linkKey)
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return cause
	case w.flood.tripped():
		return errFlood
	}
	return err
}

// loginAndRun serves the connection to its end. Its error is of the time
// before the login: afterwards a client may leave as it likes.
func (c *sshConnection) loginAndRun(w *sshWire, linkKey ssh.PublicKey) error {
	sc, chans, reqs, err := c.handshake(w, linkKey)
	if err != nil {
		return err
	}
	login, ok := loginOf(sc.Permissions)
	if !ok {
		return errors.New("authenticated by no method of ours")
	}
	c.conn = sc
	c.srv.mu.Lock()
	c.login = login
	c.srv.mu.Unlock()
	w.flood.start()
	c.logf("logged in from %s", sc.RemoteAddr())
	c.run(chans, reqs)
	c.logf("logged out")
	return nil
}

// handshake ends with the login, or with the connection's grace time.
func (c *sshConnection) handshake(w *sshWire, linkKey ssh.PublicKey) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	if grace := c.srv.policy.config().grace; grace > 0 {
		defer time.AfterFunc(grace, func() { c.end(errSSHGrace) }).Stop()
	}
	return ssh.NewServerConn(w, c.srv.policy.sshServerConfig(linkKey))
}

var errSSHGrace = errors.New("not logged in within the grace time")

func (s *sshServer) add(c *sshConnection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.lastID++
	c.id = strconv.Itoa(s.lastID)
	s.conns[c] = true
	s.serving.Add(1)
	return true
}

// list is the connections, the oldest first; those of user alone if that is
// named.
func (s *sshServer) list(user string) (out []sshStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		st := sshStatus{ID: c.id, Session: c.token, Address: c.meter.RemoteAddr().String(), Started: c.started,
			LastActivity: time.Unix(0, c.meter.last.Load()), Channels: c.channels, In: c.meter.in.Load(), Out: c.meter.out.Load()}
		if c.login != nil {
			st.User, st.Device, st.Authenticated = c.login.user, c.login.device, true
		}
		if user == "" || st.User == user {
			out = append(out, st)
		}
	}
	sortBy(out, func(a, b sshStatus) int { return a.Started.Compare(b.Started) })
	return out
}

var errSSHKilled = errors.New("ended by the owner")

// kill ends the connections that match, by id, login ("" before there is one)
// and the public id of the token that they came by, and says how many.
func (s *sshServer) kill(match func(id, user, token string) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		user := ""
		if c.login != nil {
			user = c.login.user
		}
		if match(c.id, user, c.token) {
			c.end(errSSHKilled)
			n++
		}
	}
	return n
}

func (s *sshServer) remove(c *sshConnection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.serving.Done()
}

// recheck ends the connections whose key may not log in any more, with all
// that they run. To be called when the trust log has changed.
func (s *sshServer) recheck() {
	s.mu.Lock()
	var conns []*sshConnection
	for c := range s.conns {
		if c.login != nil {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		if _, err := s.policy.authorize(c.login.key, c.login.user); err != nil {
			c.logf("ended: %v", err)
			c.end(err)
		}
	}
}

// closeAll takes no more connections and channels, gives those that are open
// drain to end by themselves, and ends the rest. It returns when all are over.
func (s *sshServer) closeAll(drain time.Duration) {
	s.mu.Lock()
	s.closing = true
	for c := range s.conns {
		if c.channels == 0 {
			c.end(errSSHClosing)
		}
	}
	s.mu.Unlock()
	force := time.AfterFunc(drain, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.end(errSSHClosing)
		}
	})
	defer force.Stop()
	s.serving.Wait()
}

// maxChannels is per connection, sessions and forwards together. A channel
// holds at most its window of 2 MiB unread, and the floodGuard bounds their
// sum. OpenSSH allows 10 sessions and any number of forwards.
const maxChannels = 64

// An sshConnection is one connection. Once it is logged in it knows channels
// as interfaces only: they need not be the library's.
type sshConnection struct {
	ctx     context.Context
	end     context.CancelCauseFunc // ends the connection
	srv     *sshServer
	flood   *floodGuard // nil where the transport bounds channels itself
	id      string
	token   string // public id of the one that it came by
	started time.Time
	meter   *sshMeter
	conn    ssh.Conn
	login   *sshLogin // nil until logged in; set under srv.mu

	netChild netChild // dials for another user

	channels int  // open or being opened; guarded by srv.mu
	noMore   bool // the client wants no further session; guarded by srv.mu
	work     sync.WaitGroup
}

// run serves channels and requests until the connection ends. Both must be
// drained at all times: the library handles packets on one goroutine, which
// waits for us. It hands them over on two Go channels and loses their order:
// what was opened before a request is already there when the request is.
func (c *sshConnection) run(chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	for chans != nil || reqs != nil {
		select {
		case nc, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			c.channel(nc)
		case req, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			for range len(chans) {
				if nc, ok := <-chans; ok {
					c.channel(nc)
				}
			}
			c.global(req)
		}
	}
	c.work.Wait()
	c.netChild.stop()
}

func (c *sshConnection) channel(nc ssh.NewChannel) {
	if reason, text := c.admit(nc.ChannelType()); text != "" {
		c.logf("channel %.40q refused: %s", nc.ChannelType(), text)
		nc.Reject(reason, text)
		return
	}
	c.work.Go(func() {
		defer c.release()
		if nc.ChannelType() == "session" {
			c.session(nc)
		} else {
			c.forward(nc)
		}
	})
}

// admit counts a channel in, or says why not.
func (c *sshConnection) admit(kind string) (ssh.RejectionReason, string) {
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	switch {
	case kind != "session" && kind != "direct-tcpip":
		return ssh.UnknownChannelType, "this server has no such channels"
	case kind == "direct-tcpip" && !c.login.may("forward"):
		return ssh.Prohibited, notGranted("forward").Error()
	case c.srv.closing:
		return ssh.ResourceShortage, errSSHClosing.Error()
	case kind == "session" && c.noMore:
		return ssh.Prohibited, "you wanted no more sessions"
	case c.channels >= maxChannels:
		return ssh.ResourceShortage, fmt.Sprintf("more than %d channels", maxChannels)
	}
	c.channels++
	return 0, ""
}

func (c *sshConnection) release() {
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	c.channels--
	if c.channels == 0 && c.srv.closing {
		c.end(errSSHClosing)
	}
}

// global answers global requests. A keepalive wants any answer, and sshd gives
// it this one; remote forwarding is refused by it too.
func (c *sshConnection) global(req *ssh.Request) {
	if req.Type == "no-more-sessions@openssh.com" {
		c.srv.mu.Lock()
		c.noMore = true
		c.srv.mu.Unlock()
	}
	reply(req, false)
}

func (c *sshConnection) logf(format string, args ...any) {
	c.srv.policy.log("ssh %s: "+format, append([]any{c.login}, args...)...)
}
