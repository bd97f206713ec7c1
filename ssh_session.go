//go:build linux || darwin

package main

// This file serves a session channel: environment, terminal, and one command or
// shell, whose streams it copies until all has been said in the right order.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// An sshSession is one session channel. Its requests are handled one by one on
// one goroutine, which never waits for the command.
type sshSession struct {
	conn *sshConnection
	ch   ssh.Channel
	in   *guardedReader // of ch

	env       []string // what the client set, in KEY=value form
	pty       *ptyRequest
	noPty     error         // why a client that did not wait for the answer gets none
	notice    string        // to be shown before all else
	child     *sshChild     // nil until shell or exec
	over      bool          // a request to start something was refused, or files are served in this process
	stopFiles func()        // ends long work of files that are served in this process; nil else
	ended     chan struct{} // closed when all has been said and the channel is to close

	expired atomic.Bool // the command has run for longer than it may

	work sync.WaitGroup // copying, waiting for the child
}

// What a session may be for: the cap of the grant, and all that the log is told.
const (
	kindShell = "shell"
	kindExec  = "exec"
	kindSFTP  = "sftp"
	kindSCP   = "scp"
)

func (c *sshConnection) session(nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return // the connection has ended
	}
	s := &sshSession{conn: c, ch: ch, in: newGuardedReader(ch, c.flood), ended: make(chan struct{})}
	s.work.Go(func() { discard(ch.Stderr()) })
	for req := range reqs {
		s.handle(req)
	}
	s.closed()
	s.work.Wait()
}

// closed is called when the channel is: by us at the end, by the client, or
// with its connection.
func (s *sshSession) closed() {
	if s.stopFiles != nil {
		s.stopFiles()
		return
	}
	if s.child == nil {
		s.in.close()
		return
	}
	select {
	case <-s.ended:
	default:
		s.conn.logf("pid %d: hanging up", s.child.proc.Pid)
		s.child.hangup()
	}
}

// discard reads r to its end. A server has no use for a client's stderr, but
// unread it would fill the library's memory.
func discard(r io.Reader) {
	b := make([]byte, 512)
	for {
		if _, err := r.Read(b); err != nil {
			return
		}
	}
}

func (s *sshSession) handle(req *ssh.Request) {
	switch req.Type {
	case "shell":
		s.startAsked(req, kindShell, nil)
	case "exec":
		var m struct{ Command string }
		if ssh.Unmarshal(req.Payload, &m) != nil || strings.ContainsRune(m.Command, 0) {
			reply(req, false)
			return
		}
		s.startAsked(req, kindExec, &m.Command)
	case "subsystem":
		var m struct{ Name string }
		if ssh.Unmarshal(req.Payload, &m) != nil || m.Name != kindSFTP {
			reply(req, false)
			return
		}
		s.startAsked(req, kindSFTP, &sftpCommand)
	default:
		reply(req, s.handleSimple(req))
	}
}

// reply answers where an answer is wanted. It fails only with the connection.
func reply(req *ssh.Request, ok bool) {
	if req.WantReply {
		req.Reply(ok, nil)
	}
}

// handleSimple handles requests that start nothing and reports success. What
// is not known here (subsystems, X11) is refused: RFC 4254, section 5.4.
func (s *sshSession) handleSimple(req *ssh.Request) bool {
	switch req.Type {
	case "env":
		return s.setEnv(req.Payload)
	case "pty-req":
		return s.setPty(req)
	case "window-change":
		var size windowChangeMsg
		if ssh.Unmarshal(req.Payload, &size) != nil {
			return false
		}
		return s.resize(size)
	case "signal":
		var m struct{ Name string }
		if ssh.Unmarshal(req.Payload, &m) != nil {
			return false
		}
		// As in sshd, what a key is bound to is not the client's to interrupt.
		sig, ok := signalByName(m.Name)
		return ok && s.conn.login.command == nil && s.child != nil && s.child.signal(sig) == nil
	case "eow@openssh.com":
		return s.child != nil && s.child.closeStdout() == nil
	case agentRequest:
		return s.agentRequest()
	case "break":
		return s.child != nil && s.child.term != nil && s.child.term.sendBreak() == nil
	}
	return false
}

const (
	maxEnvVars  = 64
	maxEnvValue = 4 << 10 // bytes of a name and its value
)

func (s *sshSession) setEnv(payload []byte) bool {
	var m struct{ Name, Value string }
	if ssh.Unmarshal(payload, &m) != nil || s.child != nil {
		return false
	}
	if !acceptsEnv(s.config().acceptEnv, m.Name) || strings.ContainsRune(m.Value, 0) {
		return false
	}
	if len(s.env) >= maxEnvVars || len(m.Name)+len(m.Value) > maxEnvValue {
		return false
	}
	s.env = append(s.env, m.Name+"="+m.Value)
	return true
}

// setPty refuses with a notice, and the session goes on without a terminal, as
// ssh expects. A client that does not wait for the answer has made its own
// terminal raw by then: for that one the session is refused as well.
func (s *sshSession) setPty(req *ssh.Request) bool {
	if s.pty != nil || s.child != nil {
		return false
	}
	p, err := parsePtyRequest(req.Payload)
	if !s.conn.login.may("pty") {
		err = notGranted("pty")
	}
	switch {
	case err == nil:
		s.pty = p
		return true
	case req.WantReply:
		s.notice = "sessio: no terminal: " + err.Error() + "\r\n"
	default:
		s.noPty = err
	}
	s.conn.logf("refused: %v", err)
	return false
}

func (s *sshSession) resize(size windowChangeMsg) bool {
	switch {
	case s.pty == nil:
		return false
	case s.child == nil:
		s.pty.size = size
		return true
	}
	return s.child.term.resize(size) == nil
}

// startAsked starts what was asked for, files where that means files.
func (s *sshSession) startAsked(req *ssh.Request, kind string, command *string) {
	if protocol, scp, ok := s.asFiles(kind, command); ok {
		s.startFiles(req, protocol, scp)
		return
	}
	s.start(req, kind, command)
}

// start starts shell or command. The reply goes out before anything that the
// child says, which some clients insist on.
func (s *sshSession) start(req *ssh.Request, kind string, command *string) {
	if s.child != nil || s.over {
		reply(req, false) // one of them a channel: RFC 4254, section 6.5
		return
	}
	spec, err := s.spec(kind, command)
	if err == nil {
		s.child, err = startChild(spec)
	}
	s.auditStart(kind, command, err)
	if err != nil {
		s.refuse(req, err)
		return
	}
	if s.conn.login.command != nil {
		kind = "forced command"
	}
	s.notice += s.child.notice
	s.follow(req, kind)
}

// follow answers that the child has started, and sees to it from then on.
func (s *sshSession) follow(req *ssh.Request, kind string) {
	reply(req, true)
	s.conn.logf("%s started, pid %d", kind, s.child.proc.Pid)
	s.work.Go(s.feed)
	s.work.Go(func() { s.finish(kind) })
	if kind != kindShell {
		s.limit(s.expire)
	}
}

// limit calls end when shell.command_timeout is over before the session is.
func (s *sshSession) limit(end func()) {
	limit := s.config().commandTimeout
	if limit <= 0 {
		return
	}
	s.work.Go(func() {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-s.ended:
		case <-timer.C:
			s.expired.Store(true)
			s.conn.logf("ending it after %v", limit)
			end()
		}
	})
}

// tellExpired says why nothing more comes.
func (s *sshSession) tellExpired() {
	io.WriteString(s.ch.Stderr(), "sessio: ended: it ran for longer than shell.command_timeout\r\n")
}

func (s *sshSession) config() *serverConfig { return s.conn.srv.policy.config() }

// sftpCommand is what a forced command is told to have been asked for when it
// was SFTP: the name that sshd has for its own.
var sftpCommand = "internal-sftp"

// spec says what to start for a request, or why not. The command that a key is
// bound to stands for all that may be asked, and is its owner's to choose: the
// configuration's list is for what clients choose.
func (s *sshSession) spec(kind string, command *string) (spec childSpec, err error) {
	login, conf := s.conn.login, s.config()
	if !login.may(kind) {
		return spec, notGranted(kind)
	}
	if s.noPty != nil {
		return spec, s.noPty
	}
	if err := s.nologin(); err != nil {
		return spec, err
	}
	spec = childSpec{acct: login.acct, pty: s.pty}
	if spec.acct.noShell && conf.shell != "" {
		spec.acct.shell = conf.shell
	}
	spec.env = s.environment(spec.acct, conf, command)
	switch {
	case login.command != nil:
		spec.sshProgram = shellProgram(spec.acct, login.command)
	case conf.allowedCommands != nil:
		spec.sshProgram, err = allowedProgram(spec.acct, command, conf.allowedCommands, valueOf(spec.env, "PATH"))
	default:
		spec.sshProgram = shellProgram(spec.acct, command)
	}
	return spec, err
}

// refuse answers a request to start something by a session that says why not.
// A failed request has no room for a reason, and ssh drops what came before it.
// The writes have a goroutine of their own: a client that takes nothing must
// not hold up the connection.
func (s *sshSession) refuse(req *ssh.Request, err error) {
	s.over = true
	s.conn.logf("refused: %v", err)
	reply(req, true)
	status := exitRefused
	if e := (*exitError)(nil); errors.As(err, &e) {
		status = e.status
	}
	s.work.Go(func() {
		fmt.Fprintf(s.ch.Stderr(), "%ssessio: %v\r\n", s.notice, err)
		s.sendStatus(syscall.WaitStatus(status << 8))
		s.ch.CloseWrite()
		s.ch.Close()
	})
}

// sshPaths are what sshd sets on Debian, for root and for others.
const (
	sshPath     = "/usr/local/bin:/usr/bin:/bin:/usr/games"
	sshRootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// environment is for acct. What the configuration sets goes before what the line
// of a key or the client does, as SetEnv of sshd_config(5); the account's entry
// there goes before all.
func (s *sshSession) environment(acct osAccount, conf *serverConfig, command *string) []string {
	login := s.conn.login
	peer, peerPort := hostPort(s.conn.conn.RemoteAddr())
	here, herePort := hostPort(s.conn.conn.LocalAddr())
	env := []string{
		"HOME=" + acct.home, "USER=" + acct.name, "LOGNAME=" + acct.name,
		"SHELL=" + acct.shell, "PATH=" + sshPath,
	}
	if acct.uid == 0 {
		env[4] = "PATH=" + sshRootPath
	}
	if tz, ok := os.LookupEnv("TZ"); ok {
		env = append(env, "TZ="+tz)
	}
	env = append(env, s.env...)
	env = append(env, login.env...)
	env = append(env, conf.env...)
	env = append(env, acct.env...)
	env = append(env,
		"SSH_CLIENT="+strings.Join([]string{peer, peerPort, herePort}, " "),
		"SSH_CONNECTION="+strings.Join([]string{peer, peerPort, here, herePort}, " "))
	if login.command != nil && command != nil {
		env = append(env, "SSH_ORIGINAL_COMMAND="+*command)
	}
	return env
}

// hostPort is an address as SSH_CONNECTION has it; what is none is UNKNOWN and
// 65535, as in sshd.
func hostPort(a net.Addr) (host, port string) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return "UNKNOWN", "65535"
	}
	return ap.Addr().Unmap().String(), fmt.Sprint(ap.Port())
}

// feed copies what the client sends to the child. When the child reads no more
// the rest is thrown away, for the client may not stop. End of file closes a
// pipe; a terminal stays open, as in sshd.
func (s *sshSession) feed() {
	defer s.in.close()
	b := make([]byte, sshChunk)
	if s.child.term != nil {
		b = b[:ptyCopyBuffer]
	}
	for deaf := false; ; {
		n, err := s.in.Read(b)
		if n > 0 && !deaf {
			if _, err := s.child.stdin.Write(b[:n]); err != nil {
				deaf = true
				s.closeStdin()
			}
		}
		if err != nil {
			s.closeStdin()
			return
		}
	}
}

func (s *sshSession) closeStdin() {
	if s.child.term == nil {
		s.child.stdin.Close()
	}
}

// finish sees the child to its end, in the order that clients depend on: wait
// for it, send how it ended, send all that was written to stdout and stderr,
// then end of file for both, then close. Some OpenSSH versions lose a status
// that comes after the end of file.
//
// On pipes this waits until the last process that holds them has closed them,
// as sshd does; on a terminal only for what is there.
func (s *sshSession) finish(kind string) {
	var copying sync.WaitGroup
	if s.child.term != nil {
		copying.Go(func() { s.copyTerminal(s.child.term) })
	} else {
		copying.Go(func() { copyOut(s.ch, s.child.stdout) })
		copying.Go(func() {
			io.WriteString(s.ch.Stderr(), s.notice)
			copyOut(s.ch.Stderr(), s.child.stderr)
		})
	}
	status, err := s.child.wait()
	if err != nil {
		s.conn.logf("%s: %v", kind, err)
	}
	if s.expired.Load() {
		status = exitExpired << 8
	}
	s.sendStatus(status)
	s.conn.logf("%s, pid %d, ended: %s", kind, s.child.proc.Pid, statusText(status))
	if s.child.term != nil {
		s.child.term.master.SetReadDeadline(time.Unix(1, 0)) // long past: Read returns now
	}
	copying.Wait()
	s.child.closeIO()
	if s.expired.Load() {
		s.tellExpired()
	}
	close(s.ended)
	s.ch.CloseWrite()
	s.ch.Close()
}

// expire ends a command, with all that it has started: a process that has left
// its session and holds the pipes loses them.
func (s *sshSession) expire() {
	s.child.end(syscall.SIGTERM)
	timer := time.NewTimer(hangupGrace)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
		s.child.closeIO()
	}
}

// copyOut copies until end of file. If nobody listens any more the pipe is
// closed, so that the writer gets SIGPIPE.
func copyOut(w io.Writer, r *os.File) {
	if writeErr, _ := copyChunks(w, r); writeErr != nil {
		r.Close()
	}
}

const (
	// ptyCopyBuffer is as much as a terminal gives or takes at once.
	ptyCopyBuffer = 4 << 10
	// maxPtyBacklog is more than a pty holds: a process left behind that goes
	// on writing does not keep the session open.
	maxPtyBacklog = 256 << 10
)

// copyTerminal copies until the terminal ends (EIO) or, once the leader is gone
// and the deadline set, until nothing more is in it.
func (s *sshSession) copyTerminal(t *terminal) {
	b := make([]byte, ptyCopyBuffer)
	io.WriteString(s.ch, s.notice)
	for {
		n, err := t.master.Read(b)
		if n > 0 {
			if _, err := s.ch.Write(b[:n]); err != nil {
				return
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return
		}
	}
	t.master.SetReadDeadline(time.Time{})
	for left := maxPtyBacklog; left > 0; {
		n, err := t.readReady(b)
		if err != nil || n == 0 {
			return
		}
		if _, err := s.ch.Write(b[:n]); err != nil {
			return
		}
		left -= n
	}
}

// sendStatus tells how the child ended: RFC 4254, section 6.10.
func (s *sshSession) sendStatus(status syscall.WaitStatus) {
	s.conn.proved()
	if status.Signaled() {
		s.ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name          string
			CoreDumped    bool
			Message, Lang string
		}{signalName(status.Signal()), status.CoreDump(), "", ""}))
		return
	}
	s.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status.ExitStatus())}))
}

func statusText(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + signalName(status.Signal())
	}
	return fmt.Sprintf("status %d", status.ExitStatus())
}

// sshSignals are the names of RFC 4254, section 6.10, without "SIG".
var sshSignals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE,
	"HUP": syscall.SIGHUP, "ILL": syscall.SIGILL, "INT": syscall.SIGINT,
	"KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE, "QUIT": syscall.SIGQUIT,
	"SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

// signalByName also takes the "SIG" that some clients put before it.
func signalByName(name string) (syscall.Signal, bool) {
	sig, ok := sshSignals[strings.TrimPrefix(name, "SIG")]
	return sig, ok
}

// signalName names what the RFC does not as sshd does.
func signalName(sig syscall.Signal) string {
	for name, s := range sshSignals {
		if s == sig {
			return name
		}
	}
	return "SIG@openssh.com"
}
