//go:build linux || darwin

package main

// This file starts SFTP or SCP for a session: in this process where the login is
// who runs it, else in the program started again as that user. What files it may
// reach goes along, what is done with them comes back for the audit.

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// A filesJob is what is served: SFTP, or one command of SCP.
type filesJob struct {
	fileRules
	scp   string // the command; "" SFTP
	paced bool   // the client is one that sftpPace is for
}

// serve serves until the client has had enough, and returns the exit status.
// What is left out of a copy is told on errs.
func (j *filesJob) serve(ctx context.Context, d *fileDoor, in io.Reader, out, errs io.Writer) (status int, err error) {
	if j.scp == "" {
		s := &sftpServer{door: d}
		if j.paced {
			s.pace = new(sftpPace)
		}
		if err := s.serve(ctx, in, out); err != nil {
			return 1, err
		}
		return 0, nil
	}
	c, _ := parseScpCommand(j.scp)
	d.over = ctx.Err
	return serveSCP(d, c, in, out, func(line string) { io.WriteString(errs, "scp: "+line+"\n") }), nil
}

// asFiles reports whether files are served where kind was asked for: for SFTP,
// for a command of SCP, and for a key that is bound to internal-sftp, as sshd
// calls it.
func (s *sshSession) asFiles(kind string, command *string) (protocol, scp string, ok bool) {
	switch forced := s.conn.login.command; {
	case forced != nil:
		return kindSFTP, "", strings.HasPrefix(*forced+" ", sftpCommand+" ")
	case kind != kindExec:
		return kindSFTP, "", kind == kindSFTP
	}
	_, ok = parseScpCommand(*command)
	return kindSCP, *command, ok
}

// startFiles serves files on the channel, or refuses. scp is a command of SCP.
func (s *sshSession) startFiles(req *ssh.Request, protocol, scp string) {
	if s.child != nil || s.over {
		reply(req, false)
		return
	}
	j := &filesJob{s.fileRules(protocol), scp, s.conn.paced()}
	err := s.mayFiles(j)
	if err == nil && s.conn.login.acct.mustBecome() {
		err = s.startFilesChild(req, j)
	} else if err == nil {
		err = s.serveFiles(req, j)
	}
	var asked *string
	if scp != "" {
		asked = &scp
	}
	s.auditStart(protocol, asked, err)
	switch {
	case err == nil:
	case req.Type == "subsystem": // whose clients expect this
		s.over = true
		s.conn.logf("refused: %v", err)
		reply(req, false)
	default:
		s.refuse(req, err)
	}
}

// paced reports whether the client is OpenSSH's and near, by the port.
func (c *sshConnection) paced() bool {
	rtt := tcpRoundTrip(c.meter.Conn)
	return strings.HasPrefix(string(c.conn.ClientVersion()), "SSH-2.0-OpenSSH_") && 0 < rtt && rtt <= sftpNear
}

// mayFiles: the cap is that of SFTP for both. An account whose shell turns
// logins away gets files only where a root keeps it in, as with sshd's
// internal-sftp.
func (s *sshSession) mayFiles(j *filesJob) error {
	conf, login := s.config(), s.conn.login
	switch base := path.Base(login.acct.shell); {
	case !login.may(kindSFTP):
		return notGranted(kindSFTP)
	case j.protocol == kindSFTP && !conf.sftpEnabled, j.protocol == kindSCP && !conf.scpEnabled:
		return fmt.Errorf("%[1]s is switched off here (%[1]s.enabled)", j.protocol)
	case (base == "nologin" || base == "false") && j.root == "":
		return fmt.Errorf("user %s may not log in: the shell is %s, and no %s.root is set", login.user, login.acct.shell, j.protocol)
	}
	if forced := login.command; forced != nil {
		switch words := strings.Fields(*forced); {
		case len(words) == 2 && words[1] == "-R":
			j.readOnly = true
		case len(words) != 1:
			return fmt.Errorf("this key's command: %s takes -R and nothing else here", sftpCommand)
		}
	}
	return s.nologin()
}

func (s *sshSession) fileRules(protocol string) fileRules {
	conf, login := s.config(), s.conn.login
	r := fileRules{protocol: protocol, user: login.user, home: login.acct.home, root: conf.sftpRoot, filter: conf.filter}
	if protocol == kindSCP {
		r.root, r.maxSize = cmp.Or(conf.scpRoot, conf.sftpRoot), conf.scpMaxSize
	}
	return r
}

// noteFile gives the audit an event of a file, whoever says it.
func (s *sshSession) noteFile(protocol string) func(auditEvent) {
	return func(e auditEvent) {
		e.protocol = protocol
		s.conn.audit(e.kind, e.result, e)
	}
}

// serveFiles serves in this process.
func (s *sshSession) serveFiles(req *ssh.Request, j *filesJob) error {
	door, err := openFileDoor(j.fileRules, s.noteFile(j.protocol))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(s.conn.ctx)
	s.over, s.stopFiles = true, stop
	reply(req, true)
	s.conn.logf("%s started", j.protocol)
	s.work.Go(func() {
		defer stop()
		defer door.close()
		code, err := j.serve(ctx, door, s.in, s.ch, s.ch.Stderr())
		s.in.close()
		if s.expired.Load() {
			code = exitExpired
		}
		status := syscall.WaitStatus(code << 8)
		s.conn.logf("%s ended: %s", j.protocol, statusText(status))
		if err != nil {
			s.conn.logf("%s: %v", j.protocol, err)
		}
		s.sendStatus(status)
		close(s.ended)
		s.ch.CloseWrite()
		s.ch.Close()
	})
	s.limit(s.expireFiles)
	return nil
}

// expireFiles ends a session that is served here: the client answers the close,
// and then nothing can be read or written.
func (s *sshSession) expireFiles() {
	s.stopFiles()
	s.sendStatus(exitExpired << 8)
	s.tellExpired()
	s.ch.Close()
}
