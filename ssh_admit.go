//go:build linux || darwin

package main

// This file stands at the door of the SSH server: it asks the gate about who
// comes and who fails to log in, gives a user so many connections and no more,
// and takes the owner's orders about addresses.

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"
)

// add takes a connection in, if the gate lets it; chance is a random number in
// [0,1). One that is trusted takes the place of the oldest that is not logged
// in, where there is no other: a flood on the port keeps no link out.
func (s *sshServer) add(c *sshConnection, chance float64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	conf := s.policy.config() // under the lock: else reloaded could miss c
	if s.closing {
		return errSSHClosing
	}
	if err := s.gate.judge(conf, c.from, c.started); err != nil {
		return err
	}
	n, trusted := s.crowdLocked(c), !c.onPort() || onList(conf.whitelist, c.from)
	if trusted && n.total >= conf.maxConnections && n.oldest != nil {
		n.oldest.out = true
		n.oldest.end(errSSHFull)
		n.total--
	}
	if err := n.admits(conf, trusted, s.small, chance); err != nil {
		return err
	}
	s.lastID++
	c.id = strconv.Itoa(s.lastID)
	s.conns[c] = true
	s.serving.Add(1)
	return nil
}

// crowdLocked is who is there already when c comes.
func (s *sshServer) crowdLocked(c *sshConnection) (n struct {
	crowd
	oldest *sshConnection
}) {
	for o := range s.conns {
		if o.out {
			continue
		}
		n.total++
		if o.login == nil && o.onPort() {
			n.waiting++
			if n.oldest == nil || o.started.Before(n.oldest.started) {
				n.oldest = o
			}
			if gateNet(o.from) == gateNet(c.from) {
				n.near++
			}
		}
	}
	return n
}

// toldEvery is how often it is told of connections refused: a flood of them
// must not be one of lines.
const toldEvery = 10 * time.Second

func (s *sshServer) tellRefused(c *sshConnection, err error) {
	s.mu.Lock()
	s.refused++
	n := s.refused
	tell := s.toldAt.IsZero() || c.started.Sub(s.toldAt) >= toldEvery
	if tell {
		s.refused, s.toldAt = 0, c.started
	}
	s.mu.Unlock()
	if tell {
		c.audit(auditAuthRateLimited, auditDenied, auditEvent{details: fmt.Sprintf("%v; %d refused since the last record of this", err, n)})
		s.policy.log("ssh %s: refused: %v (%d refused since this was last said)", c.meter.RemoteAddr(), err, n)
	}
}

// guardLogin counts tries and failures, and lets a login succeed only where the
// user has room for one more connection. Otherwise the connection ends, with a
// reason that stock clients show: left to go on they would try passwords, and
// be banned for those.
func (c *sshConnection) guardLogin(auth *sshAuth, conf *ssh.ServerConfig) {
	in := func(m ssh.ConnMetadata, perms *ssh.Permissions, err error) (*ssh.Permissions, error) {
		if err == nil {
			err = c.takePlace(m.User())
			if err != nil {
				auth.pre.SendAuthBanner(sayWhy(err))
				auth.end(err)
			}
		}
		if err != nil {
			return nil, err
		}
		return perms, nil
	}
	if none := conf.NoClientAuthCallback; none != nil {
		conf.NoClientAuthCallback = func(m ssh.ConnMetadata) (*ssh.Permissions, error) {
			perms, err := none(m)
			return in(m, perms, err)
		}
	}
	if pass := conf.PasswordCallback; pass != nil {
		conf.PasswordCallback = func(m ssh.ConnMetadata, b []byte) (*ssh.Permissions, error) {
			perms, err := pass(m, b)
			return in(m, perms, err)
		}
	}
	if ask := conf.KeyboardInteractiveCallback; ask != nil {
		conf.KeyboardInteractiveCallback = func(m ssh.ConnMetadata, q ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			perms, err := ask(m, q)
			return in(m, perms, err)
		}
	}
	verified := conf.VerifiedPublicKeyCallback
	conf.VerifiedPublicKeyCallback = func(m ssh.ConnMetadata, key ssh.PublicKey, perms *ssh.Permissions, algo string) (_ *ssh.Permissions, err error) {
		if verified != nil {
			perms, err = verified(m, key, perms, algo)
		}
		return in(m, perms, err)
	}
	logged := conf.AuthLogCallback
	conf.AuthLogCallback = func(m ssh.ConnMetadata, method string, err error) {
		if logged != nil {
			logged(m, method, err)
		}
		if method != "none" {
			c.tries.Add(1)
		}
	}
}

// authFailed counts a failed login, for which the address may be banned: then
// all its connections that are not logged in end.
func (c *sshConnection) authFailed(from netip.Addr, user, method string, err error) {
	c.auditFailed(user, method, err)
	if told := c.srv.policy.onAuthFailure; told != nil {
		told(from, user, method, err)
	}
	now, conf := time.Now(), c.srv.policy.config()
	c.srv.mu.Lock()
	bans := c.srv.gate.failed(conf, c.from, now)
	c.srv.mu.Unlock()
	if bans {
		c.srv.auditAddress(auditIPBlocked, gateNet(c.from), fmt.Sprintf("too many failed logins: banned for %v", conf.banTime))
		warn := c.srv.policy.warn
		if warn == nil {
			warn = c.srv.policy.log
		}
		warn("ssh %s: banned for %v: too many failed logins, the last as %.40q by %s", c.from, conf.banTime, user, method)
		c.srv.endWhere(func(o *sshConnection) error {
			if o.login == nil && o.from.IsValid() && gateNet(o.from) == gateNet(c.from) {
				return errSSHBanned
			}
			return nil
		})
	}
}

var (
	errSSHBanned = errors.New("its address is banned")
	errUserFull  = coded("device-busy", "you have as many connections as security.max_sessions_per_user allows")
)

// takePlace counts the connection to user, until it is over.
func (c *sshConnection) takePlace(user string) error {
	limit := c.srv.policy.config().maxSessionsPerUser
	c.srv.mu.Lock()
	n := 0
	for o := range c.srv.conns {
		if o != c && o.place == user {
			n++
		}
	}
	full := limit > 0 && n >= limit
	if !full {
		c.place = user
	}
	c.srv.mu.Unlock()
	if full {
		c.audit(auditAuthRateLimited, auditDenied, auditEvent{user: user, details: errUserFull.Error()})
		return errUserFull
	}
	return nil
}

// reloaded applies new settings to the connections there are: those whose
// address or login may not come in any more end, and times are counted anew.
func (s *sshServer) reloaded() {
	conf := s.policy.config()
	s.endWhere(func(c *sshConnection) error {
		select {
		case c.wake <- struct{}{}:
		default:
		}
		return judgeLists(conf, c.from)
	})
	s.recheck()
}

// ban bans the network of addr for d, 0 until the process ends, and ends all
// its connections, logged in or not.
func (s *sshServer) ban(addr string, d time.Duration) (ended int, err error) {
	a, err := banAddr(addr)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	err = s.gate.ban(s.policy.config(), a, d, time.Now())
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	s.auditAddress(auditIPBlocked, gateNet(a), "banned by the owner")
	return s.endWhere(func(c *sshConnection) error {
		if c.from.IsValid() && gateNet(c.from) == gateNet(a) {
			return errSSHBanned
		}
		return nil
	}), nil
}

// unban lifts the ban of the network of addr.
func (s *sshServer) unban(addr string) error {
	a, err := banAddr(addr)
	if err != nil {
		return err
	}
	s.mu.Lock()
	was := s.gate.unban(a, time.Now())
	s.mu.Unlock()
	if !was {
		return withHint(fmt.Errorf("%s is not banned", gateNet(a)), "sessio sessions bans shows who is")
	}
	s.auditAddress(auditIPUnblocked, gateNet(a), "by the owner")
	return nil
}

func (s *sshServer) bans() []sshBan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gate.bans(time.Now())
}
