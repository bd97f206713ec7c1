//go:build linux || darwin

package main

// This file tells the audit what happens on SSH connections. It has what was
// asked for, a command's line among it, and never what passed: no byte of a
// terminal, a pipe or a forward, and no password.

import (
	"fmt"
	"net/netip"
)

// audit records an event of the connection; what every event of it has is
// filled in here.
func (c *sshConnection) audit(kind auditType, result auditResult, e auditEvent) {
	e.kind, e.result = kind, result
	if e.protocol == "" {
		e.protocol = "ssh"
	}
	if c.id != "" { // "" was not let in
		e.session = fmt.Sprintf("%x-%s", c.started.UnixNano(), c.id)
	}
	if c.from.IsValid() {
		e.clientIP = c.from.String()
	}
	if c.login != nil {
		e.user, e.device = c.login.user, c.login.device
	}
	c.srv.policy.audit().record(e)
}

// auditLogin is told of the login.
func (c *sshConnection) auditLogin() {
	c.audit(auditAuthSuccess, auditSuccess, auditEvent{details: c.login.method})
	c.audit(auditSessionStart, auditSuccess, auditEvent{})
}

// auditEnd is told of the end of a connection that was logged in.
func (c *sshConnection) auditEnd() {
	in, out := c.meter.in.Load(), c.meter.out.Load()
	sum := in + out
	e := auditEvent{bytes: &sum, details: fmt.Sprintf("%d bytes in, %d out", in, out)}
	result := auditSuccess
	cause := c.cause()
	if c.flood.tripped() {
		cause = errFlood
		c.audit(auditSuspicious, auditDenied, auditEvent{details: errFlood.Error()})
	}
	if cause != nil {
		result, e.details = auditError, e.details+": "+cause.Error()
	}
	c.audit(auditSessionEnd, result, e)
}

// auditFailed is told of a failed login.
func (c *sshConnection) auditFailed(user, method string, err error) {
	c.audit(auditAuthFailure, auditFailure, auditEvent{user: user, details: fmt.Sprintf("%s: %v", method, err)})
}

// auditStart is told of a shell or command that was asked for, and what became
// of it: the command of a key runs in its place. command is nil for a shell.
func (s *sshSession) auditStart(kind string, command *string, err error) {
	e := auditEvent{details: kind}
	if command != nil {
		e.details += ": " + *command
	}
	if forced := s.conn.login.command; forced != nil {
		e.details = "forced command: " + *forced + "; asked for: " + e.details
	}
	if err != nil {
		e.details += ": refused: " + err.Error()
		s.conn.audit(auditCommandBlocked, auditDenied, e)
		return
	}
	s.conn.audit(auditCommandExecuted, auditSuccess, e)
}

// auditForward is told of a forward, or of one that was refused or failed.
func (c *sshConnection) auditForward(kind, where string, err error) {
	e := auditEvent{details: kind + " " + where}
	if err != nil {
		e.details += ": " + err.Error()
		c.audit(auditForwardDenied, auditDenied, e)
		return
	}
	c.audit(auditForwardOpen, auditSuccess, e)
}

// auditAddress is told of bans.
func (s *sshServer) auditAddress(kind auditType, net netip.Prefix, details string) {
	result := auditDenied
	if kind == auditIPUnblocked {
		result = auditSuccess
	}
	s.policy.audit().record(auditEvent{kind: kind, result: result, clientIP: net.String(), protocol: "ssh", details: details})
}
