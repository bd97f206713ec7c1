//go:build linux || darwin

package main

// This file serves SSH on a connection: it lets a login in, hands its channels
// to sessions and forwards, and ends when all of them have.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// An sshServer serves SSH connections under one policy.
type sshServer struct {
	policy sshPolicy
	small  bool // little memory

	mu      sync.Mutex
	gate    *gate                   // guarded by mu
	refused int                     // guarded by mu: not yet told of
	toldAt  time.Time               // guarded by mu: when it was last told of them
	conns   map[*sshConnection]bool // guarded by mu
	lastID  int                     // guarded by mu
	closing bool                    // guarded by mu
	serving sync.WaitGroup          // calls of serve; Add under mu, before closing
}

func newSSHServer(p sshPolicy) *sshServer {
	bequeathNothing()
	return &sshServer{policy: p.withDefaults(), small: smallMemory(), gate: newGate(time.Now()), conns: map[*sshConnection]bool{}}
}

var errSSHClosing = coded("closing", "the ssh server is stopping")

// serve serves SSH on nc and closes it. linkKey is the key that the link has
// proved, nil when none. It returns when the connection is over and all that it
// started has ended or been hung up on: nil when the client left, otherwise
// what ended it. session names the token that it came by, if any.
func (s *sshServer) serve(ctx context.Context, nc net.Conn, linkKey ssh.PublicKey, session string) error {
	return s.serveConn(ctx, nc, &sshConnection{linkKey: linkKey, token: session})
}

// servePort serves SSH on a TCP connection, with these host keys. Who is turned
// away reads as much as sshd tells.
func (s *sshServer) servePort(ctx context.Context, nc net.Conn, hostKeys []ssh.Signer) {
	c := &sshConnection{hostKeys: hostKeys}
	err := s.serveConn(ctx, nc, c)
	if _, told := err.(toldError); err != nil && !told && c.id != "" && c.login == nil {
		s.policy.log("ssh %s: %v", nc.RemoteAddr(), err)
	}
}

func (s *sshServer) serveConn(ctx context.Context, nc net.Conn, c *sshConnection) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	c.ctx, c.end, c.srv, c.started = ctx, end, s, time.Now()
	c.from, c.wake = gateAddr(nc.RemoteAddr().String()), make(chan struct{}, 1)
	c.meter = newSSHMeter(nc, c.started)
	if err := s.add(c, rand.Float64()); err != nil {
		s.tellRefused(c, err)
		if r, ok := nc.(interface{ refuse(code string) }); ok {
			r.refuse(codeOf(err))
		} else if c.onPort() {
			nc.SetWriteDeadline(c.started.Add(wireFlush))
			io.WriteString(nc, "Not allowed at this time\r\n")
		}
		nc.Close()
		return err
	}
	defer s.remove(c)
	defer processors.busy()()
	w := newSSHWire(c.meter)
	defer w.wait()
	defer w.Close()
	defer context.AfterFunc(ctx, func() { w.Close() })()
	c.flood = w.flood
	err := c.loginAndRun(w)
	switch cause := c.cause(); {
	case cause != nil:
		return cause
	case w.flood.tripped():
		return errFlood
	}
	return err
}

// loginAndRun serves the connection to its end. Its error is of the time
// before the login: afterwards a client may leave as it likes.
func (c *sshConnection) loginAndRun(w *sshWire) error {
	sc, chans, reqs, err := c.handshake(w)
	if err != nil {
		return err
	}
	login, ok := loginOf(sc.Permissions)
	if !ok {
		return errors.New("authenticated by no method of ours")
	}
	c.conn = countedConn{sc, c}
	c.data.Store(int64(time.Since(c.started)))
	c.srv.mu.Lock()
	c.login = login
	c.srv.mu.Unlock()
	w.flood.start()
	c.logf("logged in from %s", sc.RemoteAddr())
	c.auditLogin()
	defer c.auditEnd()
	c.recheck() // something may have changed before there was a login to ask about
	if c.onPort() {
		c.kexKey = sc.Conn.(ssh.AlgorithmsConnMetadata).Algorithms().HostKey
		c.conn.SendRequest("hostkeys-00@openssh.com", false, hostKeyList(c.hostKeys))
	}
	ctx, stop := context.WithCancel(c.ctx)
	var watching sync.WaitGroup
	watching.Go(func() { c.watch(ctx) })
	c.run(chans, reqs)
	stop()
	watching.Wait()
	if cause := c.cause(); cause != nil {
		c.logf("ended: %v", cause)
	}
	c.logf("logged out")
	return nil
}

// handshake ends with the login, or with the connection's grace time.
func (c *sshConnection) handshake(w *sshWire) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	if grace := c.srv.policy.config().grace; grace > 0 {
		defer time.AfterFunc(grace, func() { c.end(errSSHGrace) }).Stop()
	}
	policy := c.srv.policy
	if c.onPort() {
		policy.hostKey = c.hostKeys[0]
	}
	policy.onAuthFailure = c.authFailed
	end := func(cause error) { // nothing follows: not that another method may be tried
		c.end(cause)
		w.Close()
	}
	auth := &sshAuth{sshPolicy: &policy, ctx: c.ctx, end: end, linkKey: c.linkKey, from: c.from}
	conf := auth.serverConfig()
	for _, k := range c.hostKeys {
		conf.AddHostKey(k)
	}
	conf.BannerCallback = c.banner
	c.guardLogin(auth, conf)
	sc, chans, reqs, err := ssh.NewServerConn(w, conf)
	if err != nil {
		auth.finish(nil, err)
		if why := auth.refused; why != nil && context.Cause(c.ctx) != errUserFull { // its keys led to nothing
			policy.log("ssh login as %.64q from %s failed (publickey): %v", auth.user, c.from, why)
			c.auditFailed(auth.user, "publickey", why)
		}
		if all := (*ssh.ServerAuthError)(nil); errors.As(err, &all) {
			switch err = errNoLogin; {
			case auth.refused != nil:
				err = toldError{auth.refused}
			case auth.failed > 0:
				err = toldError{err}
			}
		}
		return nil, nil, nil, err
	}
	auth.finish(sc.Permissions, nil)
	return sc, chans, reqs, nil
}

var (
	errSSHGrace = errors.New("not logged in within the grace time")
	errNoLogin  = errors.New("it left without a login")
)

// A toldError is in the log already.
type toldError struct{ error }

// list is the connections, the oldest first; those of user alone if that is
// named.
func (s *sshServer) list(user string) (out []sshStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		st := sshStatus{ID: c.id, Session: c.token, Address: c.meter.RemoteAddr().String(), AuthAttempts: int(c.tries.Load()), Started: c.started,
			LastActivity: time.Unix(0, c.meter.last.Load()), Channels: c.channels, In: c.meter.in.Load(), Out: c.meter.out.Load()}
		if c.login != nil {
			st.User, st.Device, st.Authenticated = c.login.user, c.login.device, true
			st.LastActivity = c.dataAt().Round(0)
		}
		if user == "" || st.User == user {
			out = append(out, st)
		}
	}
	sortBy(out, func(a, b sshStatus) int { return a.Started.Compare(b.Started) })
	return out
}

// cause is what ended the connection, nil if its client left: by closing its
// link, too.
func (c *sshConnection) cause() error {
	err := context.Cause(c.ctx)
	if l, ok := c.meter.Conn.(interface{ cause(error) error }); ok {
		err = l.cause(err)
	}
	return err
}

var errSSHKilled = errors.New("ended by the owner")

// kill ends the connections that match, by id, login ("" before there is one)
// and the public id of the token that they came by, and says how many.
func (s *sshServer) kill(match func(id, user, token string) bool) (n int) {
	return s.endWhere(func(c *sshConnection) error {
		user := ""
		if c.login != nil {
			user = c.login.user
		}
		if !match(c.id, user, c.token) {
			return nil
		}
		return errSSHKilled
	})
}

// endWhere ends the connections for which there is a reason, and says how many.
func (s *sshServer) endWhere(why func(*sshConnection) error) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if err := why(c); err != nil {
			c.end(err)
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

// recheck ends the connections whose login would not be let in any more, with
// all that they run. To be called when the trust log or the settings have
// changed; the users' authorized_keys are read again.
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
		c.recheck()
	}
}

// recheck ends the connection if its login would not be let in now.
func (c *sshConnection) recheck() {
	if err := c.srv.policy.judgeAgain(c.login); err != nil {
		c.end(err)
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

// maxChannels is how many sessions a connection has; for forwards it is
// maxForwards. A channel holds at most its window of 2 MiB unread, and the
// floodGuard bounds their sum. OpenSSH allows 10 sessions and any number of
// forwards.
const maxChannels = 64

// An sshConnection is one connection. Once it is logged in it knows channels
// as interfaces only: they need not be the library's.
type sshConnection struct {
	ctx     context.Context
	end     context.CancelCauseFunc // ends the connection
	srv     *sshServer
	flood   *floodGuard // nil where the transport bounds channels itself
	id      string
	started time.Time
	from    netip.Addr // zero where it is not known
	meter   *sshMeter
	conn    ssh.Conn
	login   *sshLogin // nil until logged in; set under srv.mu
	place   string    // login that it counts for, "" none; guarded by srv.mu
	out     bool      // ends to make room; guarded by srv.mu

	linkKey  ssh.PublicKey // that the link has proved
	token    string        // public id of the one that it came by
	hostKeys []ssh.Signer  // of the TCP port; none on a link
	kexKey   string        // algorithm by which one of them was shown

	tries atomic.Int32  // logins tried, but for "none"
	data  atomic.Int64  // when something last passed a channel: nanoseconds since started
	wake  chan struct{} // the settings have changed

	netChild  netChild // acts for another user
	listeners sshListeners

	proving  sync.Mutex // held while a proof of host keys is awaited: a client leaves with its session
	channels int        // open or being opened; guarded by srv.mu
	forwards int        // those of them that are no sessions; guarded by srv.mu
	noMore   bool       // the client wants no further session; guarded by srv.mu
	work     sync.WaitGroup
}

func (c *sshConnection) onPort() bool { return c.hostKeys != nil }

// run serves channels and requests until the connection ends. Both must be
// drained at all times: the library handles packets on one goroutine, which
// waits for us. It hands them over on two Go channels and loses their order:
// what was opened before a request is already there when the request is.
func (c *sshConnection) run(chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	globals := make(chan *ssh.Request, maxGlobals)
	c.work.Go(func() { c.answerGlobals(globals) })
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
			globals <- req
		}
	}
	close(globals)
	c.stopListeners()
	c.work.Wait()
	c.netChild.stop()
}

func (c *sshConnection) channel(nc ssh.NewChannel) {
	if reason, text := c.admit(nc.ChannelType()); text != "" {
		c.logf("channel %.40q refused: %s", nc.ChannelType(), text)
		if reason == ssh.Prohibited && nc.ChannelType() != "session" {
			c.auditForward(nc.ChannelType(), forwardTarget(nc.ChannelType(), nc.ExtraData()), errors.New(text))
		}
		nc.Reject(reason, text)
		return
	}
	nc = watchedNewChannel{nc, c}
	c.work.Go(func() {
		defer c.release(nc.ChannelType())
		if nc.ChannelType() == "session" {
			c.session(nc)
		} else {
			c.forward(nc)
		}
	})
}

// admit counts a channel of the client's in, or says why not.
func (c *sshConnection) admit(kind string) (ssh.RejectionReason, string) {
	switch kind {
	case "session":
	case directTCP, directUnix:
		if err := c.mayForward(kind); err != nil {
			return ssh.Prohibited, err.Error()
		}
	default:
		return ssh.UnknownChannelType, "this server has no such channels"
	}
	return c.count(kind)
}

// count counts a channel in, the client's or ours, or says why not.
func (c *sshConnection) count(kind string) (ssh.RejectionReason, string) {
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	switch {
	case c.srv.closing, c.ctx.Err() != nil:
		return ssh.ResourceShortage, errSSHClosing.Error()
	case kind == "session" && c.noMore:
		return ssh.Prohibited, "you wanted no more sessions"
	case kind == "session" && c.channels-c.forwards >= maxChannels:
		return ssh.ResourceShortage, fmt.Sprintf("more than %d channels", maxChannels)
	case kind != "session" && c.forwards >= maxForwards:
		return ssh.ResourceShortage, fmt.Sprintf("more than %d forwarded connections", maxForwards)
	}
	c.channels++
	if kind != "session" {
		c.forwards++
	}
	return 0, ""
}

func (c *sshConnection) release(kind string) {
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	c.channels--
	if kind != "session" {
		c.forwards--
	}
	if c.channels == 0 && c.srv.closing {
		c.end(errSSHClosing)
	}
}

// global obeys what holds for the channels after it; answerGlobals answers all.
func (c *sshConnection) global(req *ssh.Request) {
	switch req.Type {
	case "no-more-sessions@openssh.com":
		c.srv.mu.Lock()
		c.noMore = true
		c.srv.mu.Unlock()
	case hostKeysProof:
		c.proving.Lock() // until it is answered
	}
}

// proved waits for the answer to a proof that was asked for.
func (c *sshConnection) proved() {
	c.proving.Lock()
	defer c.proving.Unlock()
}

func (c *sshConnection) logf(format string, args ...any) {
	c.srv.policy.log("ssh %s: "+format, append([]any{c.login}, args...)...)
}
