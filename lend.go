package main

// This file lends the links of a running -device process to the verbs beside
// it, over a Unix socket in the state directory that only its owner may use.
// A request is one line of JSON; the answer is one line of JSON, or several,
// and for an SSH stream the stream's bytes after it.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	lendSocket = "sessio.sock"
	// maxLendLine bounds a request and an answer, in bytes.
	maxLendLine = 64 << 10
	// maxLent bounds the connections at once, each two goroutines and 64 KiB.
	maxLent = 256
)

// lendWait bounds the answer of a process that should have it at hand.
const lendWait = 5 * time.Second

// A lendRequest asks for one thing of Op: ssh, ping, status, or of our own
// sessions: sessions, kill, revoke, ban, unban, bans.
type lendRequest struct {
	Op     string   `json:"op"`
	Device string   `json:"device,omitempty"` // its id; to revoke, its name too
	User   string   `json:"user,omitempty"`
	All    bool     `json:"all,omitempty"`
	IDs    []string `json:"ids,omitempty"`

	Address string        `json:"address,omitempty"`
	For     time.Duration `json:"for,omitempty"` // 0 without end
}

// A lendAnswer says how it went.
type lendAnswer struct {
	Error string `json:"error,omitempty"`
	Code  string `json:"code,omitempty"`
	Hint  string `json:"hint,omitempty"`

	Ping  *pingResult  `json:"ping,omitempty"`
	Links []linkStatus `json:"links,omitempty"`
	Self  *nodeStatus  `json:"self,omitempty"`

	Sessions []sshStatus   `json:"sessions,omitempty"`
	Stats    sessionsStats `json:"stats,omitzero"`
	Bans     []sshBan      `json:"bans,omitempty"`
	Count    int           `json:"count,omitempty"`
}

func answerOf(err error) lendAnswer {
	if err == nil {
		return lendAnswer{}
	}
	return lendAnswer{Error: err.Error(), Code: codeOf(err), Hint: hintOf(err)}
}

func (a lendAnswer) err() error {
	if a.Error == "" {
		return nil
	}
	err := errors.New(a.Error)
	if a.Code != "" {
		err = coded(a.Code, "%s", a.Error)
	}
	if a.Hint != "" {
		err = withHint(err, "%s", a.Hint)
	}
	return err
}

// A lender serves the socket.
type lender struct {
	node *node // nil where the machine belongs to no account
	ssh  *sshServer
	ln   net.Listener
}

// listenLend makes a socket for the verbs anew; the caller holds a lock, so what
// is there is a dead process's.
func listenLend(dir, name string) (net.Listener, error) {
	path, done, err := lendPath(dir, name)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket for the verbs: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// serve answers until ctx ends, then removes the socket. What is lent may go on
// for drain.
func (l *lender) serve(ctx context.Context, dir string, drain time.Duration) {
	lending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	context.AfterFunc(ctx, func() {
		l.ln.Close()
		time.AfterFunc(drain, stop)
	})
	defer os.Remove(filepath.Join(dir, lendSocket))
	slots := make(chan struct{}, maxLent)
	for l.slot(ctx, slots) {
		c, err := l.ln.Accept()
		if err != nil {
			<-slots
			pause(ctx, acceptPause)
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			if uc := c.(*net.UnixConn); ownPeer(uc) {
				l.answer(lending, uc)
			}
		})
	}
}

// slot takes one, false when ctx has ended.
func (l *lender) slot(ctx context.Context, slots chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case slots <- struct{}{}:
		return ctx.Err() == nil
	}
}

func (l *lender) answer(ctx context.Context, c *net.UnixConn) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReaderSize(c, maxLendLine)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return
	}
	c.SetReadDeadline(time.Time{})
	var r lendRequest
	if err := json.Unmarshal(line, &r); err != nil {
		writeLine(c, answerOf(fmt.Errorf("request: %w", err)))
		return
	}
	if l.node == nil && !slices.Contains([]string{"sessions", "kill", "ban", "unban", "bans"}, r.Op) {
		writeLine(c, answerOf(errNoAccount))
		return
	}
	switch r.Op {
	case "ssh":
		l.lendSSH(ctx, c, in, deviceID(r.Device))
	case "ping":
		res, err := l.node.pingDevice(ctx, deviceID(r.Device))
		a := answerOf(err)
		a.Ping = res
		writeLine(c, a)
	case "status":
		self := l.node.status()
		writeLine(c, lendAnswer{Self: &self, Links: l.node.linkStatuses()})
	case "sessions", "kill", "revoke", "ban", "unban", "bans":
		a, err := l.sessions(r)
		if err != nil {
			a = answerOf(err)
		}
		writeLine(c, a)
	default:
		writeLine(c, answerOf(fmt.Errorf("unknown request %q", r.Op)))
	}
}

// maxListed bounds the sessions in one answer, each some 350 bytes.
const maxListed = 100

// maxListedBans bounds the bans in one answer, each some 100 bytes.
const maxListedBans = 500

// sessions answers what is about those who are in.
func (l *lender) sessions(r lendRequest) (a lendAnswer, err error) {
	n := l.node
	switch r.Op {
	case "sessions":
		list := l.ssh.list(r.User)
		a.Stats, a.Count = statsOf(list, time.Now()), len(list)
		a.Sessions = list[:min(len(list), maxListed)]
	case "kill":
		a.Count = l.ssh.kill(func(id, user, _ string) bool { return slices.Contains(r.IDs, id) || r.User != "" && user == r.User })
	case "ban":
		a.Count, err = l.ssh.ban(r.Address, r.For)
	case "unban":
		err = l.ssh.unban(r.Address)
	case "bans":
		list := l.ssh.bans()
		a.Bans = list[:min(len(list), maxListedBans)]
		a.Count = len(list)
	default:
		owner := [32]byte{}
		if r.Device != "" {
			dev, err := findDevice(n.trust.state(), r.Device)
			if err != nil {
				return a, err
			}
			owner = [32]byte(dev.keys.sign)
		}
		a.Count = n.sessions.revoke(func(t sessionToken, of [32]byte) bool {
			return r.All || r.Device != "" && of == owner || slices.Contains(r.IDs, t.publicID())
		})
	}
	return a, err
}

// writeLines writes each as a JSON object in a line.
func writeLines[T any](w io.Writer, list []T) error {
	for _, v := range list {
		if err := writeLine(w, v); err != nil {
			return err
		}
	}
	return nil
}

func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// lendSSH joins the verb to an SSH stream. The first bytes of the device are
// awaited before the answer, for a refusal comes in their place; what the verb
// sends meanwhile is on its way already.
func (l *lender) lendSSH(ctx context.Context, c *net.UnixConn, in *bufio.Reader, id deviceID) {
	s, err := l.node.openSSHByID(ctx, id)
	if err != nil {
		writeLine(c, answerOf(err))
		return
	}
	defer s.Close()
	defer processors.busy()()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	up := make(chan struct{})
	go func() {
		defer close(up)
		io.Copy(s, in)
		s.CloseWrite()
	}()
	first := make([]byte, 4096)
	n, err := s.Read(first)
	if n == 0 {
		if err == io.EOF {
			err = errors.New("the device closed the stream at once")
		}
		writeLine(c, answerOf(err))
	} else if writeLine(c, lendAnswer{}) == nil {
		if _, err := c.Write(first[:n]); err == nil {
			_, err = io.Copy(c, s)
			if err == nil {
				c.CloseWrite()
				waitFor(ctx, up)
			}
		}
	}
	c.Close()
	s.Close()
	<-up
}

func waitFor(ctx context.Context, done <-chan struct{}) {
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// askLend sends one request to the process of dir. errNoLender: there is none.
func askLend(ctx context.Context, dir string, r lendRequest) (*lentConn, error) {
	path, done, err := lendPath(dir, lendSocket)
	if err != nil {
		return nil, errNoLender
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, errNoLender
	}
	if err := writeLine(c, r); err != nil {
		c.Close()
		return nil, errNoLender
	}
	return &lentConn{UnixConn: c.(*net.UnixConn)}, nil
}

var errNoLender = errors.New("no sessio -device runs here")

// A lentConn is a stream lent by the device process. Its answer line is read
// before the first byte, and an error in it is the error of that Read.
type lentConn struct {
	*net.UnixConn
	mu  sync.Mutex
	in  *bufio.Reader // set once, under mu: after the answer line
	err error         // guarded by mu: what the answer said
}

// readAnswer reads the answer line.
func (c *lentConn) readAnswer() (a lendAnswer, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readAnswerLocked()
}

func (c *lentConn) readAnswerLocked() (a lendAnswer, err error) {
	c.in = bufio.NewReaderSize(c.UnixConn, maxLendLine)
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return a, fmt.Errorf("the sessio -device process beside this one went away: %w", err)
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("answer of the device process: %w", err)
	}
	return a, a.err()
}

// Write sends to the device. Where the process beside us has refused already
// and hung up, its answer says why.
func (c *lentConn) Write(b []byte) (int, error) {
	n, err := c.UnixConn.Write(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		if refused := c.answered(); refused != nil {
			err = refused
		}
	}
	return n, err
}

// answered reads the answer line, unless that is done, and returns the error
// in it.
func (c *lentConn) answered() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in == nil {
		_, c.err = c.readAnswerLocked()
	}
	return c.err
}

func (c *lentConn) Read(b []byte) (int, error) {
	if err := c.answered(); err != nil {
		return 0, err
	}
	return c.in.Read(b)
}
