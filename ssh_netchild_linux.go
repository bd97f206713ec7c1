package main

// This file is a process that acts for a user whom the server, being root, must
// not act for itself: it starts the program again as that user, asks it to do
// what ssh_net.go can, and is handed the socket. The child is trusted no further
// than its user.
//
// Both talk over a Unix socket that keeps messages apart. An ask and its answer
// begin with the same number:
//
// 	id    4 bytes   big endian
// 	kind  1 byte    ask: a netOp
// 	                answer: netDone or netFailed
// 	rest            ask: its argument
// 	                answer: why not, or netGot.made; the socket comes along

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// netChildVerb starts the child. It is no verb for people: main comes to
// runNetChild by it before anything else.
const netChildVerb = "net-child"

func isNetChild(args []string) bool { return len(args) == 2 && args[1] == netChildVerb }

const (
	netChildSocket = 3 // its descriptor in the child
	// maxNetMsg holds an ask (an address of at most 255 and a port, or a path
	// of maxSunPath) and the text of an answer, which is cut.
	maxNetMsg = 1 << 10

	netDone   = 0
	netFailed = 1
)

// A netChild is the child of one connection, started when it is first needed
// and again when it has ended.
type netChild struct {
	mu      sync.Mutex
	proc    *netProcess // nil when none runs; guarded by mu
	stopped bool        // guarded by mu
}

// A netProcess is a running child.
type netProcess struct {
	proc *os.Process
	sock *net.UnixConn
	done chan struct{} // closed when it is reaped

	mu      sync.Mutex
	lastID  uint32
	waiting map[uint32]netWaiter // nil when the child has ended
}

type netAnswer struct {
	netGot
	err error
}

// A netWaiter waits for the answer to an ask.
type netWaiter struct {
	op     netOp
	answer chan netAnswer // of 1
}

var errNetChildEnded = errors.New("the process that connects for the user has ended")

// ask has the child do a. It waits no longer than ctx has time.
func (n *netChild) ask(ctx context.Context, acct osAccount, a netAsk) (netGot, error) {
	p, err := n.running(acct)
	if err != nil {
		return netGot{}, fmt.Errorf("connecting as %s: %w", acct.name, err)
	}
	id, answer, ok := p.wait(a.op)
	if !ok {
		return netGot{}, errNetChildEnded
	}
	defer p.forget(id)
	limit, _ := ctx.Deadline()
	p.sock.SetWriteDeadline(limit) // a child that its user has stopped takes nothing
	if _, err := p.sock.Write(appendNetMsg(nil, id, byte(a.op), a.arg)); err != nil {
		return netGot{}, err
	}
	select {
	case a := <-answer:
		return a.netGot, a.err
	case <-ctx.Done():
		return netGot{}, fmt.Errorf("waiting for the process of %s: %w", acct.name, ctx.Err())
	}
}

func appendNetMsg(b []byte, id uint32, kind byte, rest string) []byte {
	return append(append(binary.BigEndian.AppendUint32(b, id), kind), rest...)
}

func parseNetMsg(b []byte) (id uint32, kind byte, rest string, ok bool) {
	if len(b) < 5 {
		return 0, 0, "", false
	}
	return binary.BigEndian.Uint32(b), b[4], string(b[5:]), true
}

func (n *netChild) running(acct osAccount) (*netProcess, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return nil, errNetChildEnded
	}
	if n.proc != nil && !n.proc.ended() {
		return n.proc, nil
	}
	p, err := startNetProcess(acct)
	if err == nil {
		n.proc = p
	}
	return p, err
}

// stop ends the child. Sockets handed over stay.
func (n *netChild) stop() {
	n.mu.Lock()
	p := n.proc
	n.stopped = true
	n.mu.Unlock()
	if p != nil {
		p.proc.Kill() // it may have been stopped by its user and not see the end
		p.sock.Close()
		<-p.done
	}
}

func startNetProcess(acct osAccount) (*netProcess, error) {
	ours, theirs, err := netSocketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer null.Close()
	proc, err := os.StartProcess("/proc/self/exe", []string{"sessio", netChildVerb}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"HOME=" + acct.home}, // ours may hold secrets
		Files: []*os.File{null, null, null, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: credentialOf(acct)},
	})
	if err != nil {
		ours.Close()
		return nil, err
	}
	p := &netProcess{proc: proc, sock: ours, done: make(chan struct{}), waiting: map[uint32]netWaiter{}}
	go p.readLoop()
	return p, nil
}

func netSocketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "net-child")
	ours, err = unixConnOf(os.NewFile(uintptr(fds[0]), "net-child"))
	if err != nil {
		theirs.Close()
	}
	return ours, theirs, err
}

// unixConnOf makes a connection of f and closes f.
func unixConnOf(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, errors.New("not a unix socket")
	}
	return u, nil
}

func (p *netProcess) wait(op netOp) (id uint32, answer chan netAnswer, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		return 0, nil, false
	}
	p.lastID++
	answer = make(chan netAnswer, 1)
	p.waiting[p.lastID] = netWaiter{op, answer}
	return p.lastID, answer, true
}

// forget drops an ask; an answer that has come and was not taken is closed.
func (p *netProcess) forget(id uint32) {
	p.mu.Lock()
	w, ok := p.waiting[id]
	delete(p.waiting, id)
	p.mu.Unlock()
	if !ok {
		return
	}
	select {
	case a := <-w.answer:
		a.close()
	default:
	}
}

func (p *netProcess) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting == nil
}

// readLoop hands answers to those who asked, until the child ends.
func (p *netProcess) readLoop() {
	defer close(p.done)
	b, oob := make([]byte, maxNetMsg), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := p.sock.ReadMsgUnix(b, oob)
		if err != nil || n == 0 {
			break
		}
		p.answer(b[:n], oob[:oobn])
	}
	p.mu.Lock()
	for _, w := range p.waiting {
		select {
		case w.answer <- netAnswer{err: errNetChildEnded}:
		default: // answered already
		}
	}
	p.waiting = nil
	p.mu.Unlock()
	p.sock.Close()
	p.proc.Kill()
	p.proc.Wait()
}

func (p *netProcess) answer(b, oob []byte) {
	files := rightsOf(oob)
	defer closeFiles(files)
	id, kind, text, ok := parseNetMsg(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[id]
	if !ok || w.answer == nil || len(w.answer) > 0 {
		return // too late, never asked for, or a second answer
	}
	var a netAnswer
	if kind != netDone {
		a.err = errors.New(text)
	} else if a.netGot, a.err = w.op.take(files); a.err == nil {
		a.made = text
	}
	w.answer <- a
}

var errNotThatSocket = errors.New("the socket is not of the kind that was asked for")

// take makes of what came along what was asked for. The child's word for what
// it is does not count.
func (op netOp) take(files []*os.File) (g netGot, err error) {
	if op == netRemove || op == netRemoveDir {
		return g, nil
	}
	if len(files) != 1 {
		return g, fmt.Errorf("%d sockets came with the answer", len(files))
	}
	fd := int(files[0].Fd())
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
		return g, errNotThatSocket
	}
	if listens, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); listens == 0 {
		var nc net.Conn
		if nc, err = net.FileConn(files[0]); err == nil {
			g.conn = nc.(streamConn) // *net.TCPConn or *net.UnixConn
		}
	} else {
		g.ln, err = net.FileListener(files[0])
	}
	_, tcpConn := g.conn.(*net.TCPConn)
	_, unixConn := g.conn.(*net.UnixConn)
	_, tcp := g.ln.(*net.TCPListener)
	_, path := g.ln.(*net.UnixListener)
	if err != nil || map[netOp]bool{netDialTCP: tcpConn, netDialUnix: unixConn,
		netListenTCP: tcp, netListenUnix: path, netAgent: path}[op] {
		return g, err
	}
	g.close()
	return netGot{}, errNotThatSocket
}

// rightsOf lists the descriptors that came along, however many.
func rightsOf(oob []byte) (files []*os.File) {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		fds, _ := unix.ParseUnixRights(&m) // an error for other messages
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "forward"))
		}
	}
	return files
}

// privateSocket gives a socket the mode that its path will have: unix(7) takes
// it from there, less the umask.
func privateSocket(fd int) { unix.Fchmod(fd, 0o600) }

func privatePath(string) error { return nil }

// runNetChild is the child: it does as asked until its parent is gone.
func runNetChild() error {
	if os.Getuid() == 0 || os.Geteuid() == 0 {
		return errors.New("net-child: not as root")
	}
	if err := forgoPrivileges(); err != nil {
		return fmt.Errorf("net-child: %w", err)
	}
	sock, err := unixConnOf(os.NewFile(netChildSocket, "net-child"))
	if err != nil {
		return fmt.Errorf("net-child: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	b := make([]byte, maxNetMsg)
	for {
		n, err := sock.Read(b)
		if err != nil || n == 0 {
			return nil
		}
		if id, op, arg, ok := parseNetMsg(b[:n]); ok {
			go netAnswerAsk(ctx, sock, id, netAsk{netOp(op), arg}) // at most maxForwards and a few are asked
		}
	}
}

// forgoPrivileges: no program that is started can gain any, and the user's
// other processes cannot look into this one.
func forgoPrivileges() error {
	return errors.Join(
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

func netAnswerAsk(ctx context.Context, sock *net.UnixConn, id uint32, ask netAsk) {
	ctx, stop := context.WithTimeout(ctx, forwardDialTimeout)
	defer stop()
	g, err := ask.do(ctx)
	if err != nil {
		text := err.Error()
		sock.Write(appendNetMsg(nil, id, netFailed, text[:min(len(text), maxNetMsg-5)]))
		return
	}
	defer g.close()
	send := func(rights []byte) { sock.WriteMsgUnix(appendNetMsg(nil, id, netDone, g.made), rights, nil) }
	made := any(g.conn)
	if g.ln != nil {
		made = g.ln
	}
	if !onSocket(made, func(fd int) { send(unix.UnixRights(fd)) }) {
		send(nil)
	}
}
