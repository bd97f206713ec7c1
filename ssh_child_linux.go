package main

// This file is what the processes of sessions ask of Linux, and a process that
// dials for a user whom the server, being root, must not act for itself: it
// starts the program again as that user, asks it to connect, and is handed the
// connected socket. The child is trusted no further than its user.
//
// Both talk over a Unix socket that keeps messages apart. An ask and its answer
// begin with the same number:
//
// 	id    4 bytes   big endian
// 	rest            ask: the address, host:port
// 	                answer: why not, or nothing; then the socket comes along

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// sessionMembers lists the living processes of the session led by sid.
func sessionMembers(sid int) (pids []int) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // it has just ended
		}
		if session, alive := parseProcStat(stat); alive && session == sid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parseProcStat reads state and session from /proc/PID/stat: proc(5). The name
// in parentheses may itself hold parentheses and blanks, so fields count from
// the last one. A zombie is not alive: its parent has to reap it.
func parseProcStat(stat []byte) (session int, alive bool) {
	_, rest, ok := cutLast(stat, ')')
	f := bytes.Fields(rest) // state ppid pgrp session …
	if !ok || len(f) < 4 {
		return 0, false
	}
	session, err := strconv.Atoi(string(f[3]))
	return session, err == nil && string(f[0]) != "Z" && string(f[0]) != "X"
}

func cutLast(b []byte, sep byte) (before, after []byte, ok bool) {
	i := bytes.LastIndexByte(b, sep)
	if i < 0 {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}

type termFlag = uint32

const (
	ioctlGetTermios = unix.TCGETS
	ioctlSetTermios = unix.TCSETS
	posixVDisable   = 0
)

func systemChars(m map[byte]int) map[byte]int {
	m[16] = unix.VSWTC
	return m
}

func systemFlags(m map[byte]ptyFlag) map[byte]ptyFlag {
	maps.Copy(m, map[byte]ptyFlag{
		37: {inputFlag, unix.IUCLC}, 52: {localFlag, unix.XCASE}, 71: {outputFlag, unix.OLCUC},
	})
	return m
}

// baudRates are the speeds that termios has a code for. Nothing on a pty is
// clocked by them, but programs ask: stty(1), and curses for its padding.
var baudRates = map[uint32]termFlag{
	50: unix.B50, 75: unix.B75, 110: unix.B110, 134: unix.B134, 150: unix.B150, 200: unix.B200,
	300: unix.B300, 600: unix.B600, 1200: unix.B1200, 1800: unix.B1800, 2400: unix.B2400,
	4800: unix.B4800, 9600: unix.B9600, 19200: unix.B19200, 38400: unix.B38400,
	57600: unix.B57600, 115200: unix.B115200, 230400: unix.B230400,
}

// setSpeed leaves rates without a code alone. On Linux the input rate is the
// output rate unless its own bits are set, which no pty needs.
func setSpeed(t *unix.Termios, input bool, baud uint32) {
	if code, ok := baudRates[baud]; ok && !input {
		t.Cflag = t.Cflag&^unix.CBAUD | code
	}
}

func tcSendBreak(fd int) error { return unix.IoctlSetInt(fd, unix.TCSBRK, 0) }

// netChildVerb starts the child. It is no verb for people: main comes to
// runNetChild by it before anything else.
const netChildVerb = "net-child"

func isNetChild(args []string) bool { return len(args) == 2 && args[1] == netChildVerb }

const (
	netChildSocket = 3 // its descriptor in the child
	// maxNetMsg holds an ask (an address of at most 255 and a port) and the
	// text of an answer, which is cut.
	maxNetMsg = 1 << 10
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
	waiting map[uint32]chan netAnswer // nil when the child has ended
}

type netAnswer struct {
	conn streamConn
	err  error
}

var errNetChildEnded = errors.New("the process that connects for the user has ended")

// dial asks the child to connect to addr.
func (n *netChild) dial(ctx context.Context, acct osAccount, addr string) (streamConn, error) {
	p, err := n.running(acct)
	if err != nil {
		return nil, fmt.Errorf("connecting as %s: %w", acct.name, err)
	}
	id, answer, ok := p.ask()
	if !ok {
		return nil, errNetChildEnded
	}
	defer p.forget(id)
	if _, err := p.sock.Write(appendNetMsg(nil, id, addr)); err != nil {
		return nil, err
	}
	select {
	case a := <-answer:
		return a.conn, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("connecting to %s: %w", addr, ctx.Err())
	}
}

func appendNetMsg(b []byte, id uint32, rest string) []byte {
	return append(binary.BigEndian.AppendUint32(b, id), rest...)
}

func parseNetMsg(b []byte) (id uint32, rest string, ok bool) {
	if len(b) < 4 {
		return 0, "", false
	}
	return binary.BigEndian.Uint32(b), string(b[4:]), true
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
	p := &netProcess{proc: proc, sock: ours, done: make(chan struct{}), waiting: map[uint32]chan netAnswer{}}
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

func (p *netProcess) ask() (id uint32, answer chan netAnswer, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		return 0, nil, false
	}
	p.lastID++
	answer = make(chan netAnswer, 1)
	p.waiting[p.lastID] = answer
	return p.lastID, answer, true
}

// forget drops an ask; an answer that has come and was not taken is closed.
func (p *netProcess) forget(id uint32) {
	p.mu.Lock()
	answer, ok := p.waiting[id]
	delete(p.waiting, id)
	p.mu.Unlock()
	if !ok {
		return
	}
	select {
	case a := <-answer:
		a.close()
	default:
	}
}

func (a netAnswer) close() {
	if a.conn != nil {
		a.conn.Close()
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
	for _, answer := range p.waiting {
		select {
		case answer <- netAnswer{err: errNetChildEnded}:
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
	id, text, ok := parseNetMsg(b)
	var a netAnswer
	a.conn, a.err = tcpConnOf(oob)
	if text != "" {
		a.close()
		a = netAnswer{err: errors.New(text)}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := p.waiting[id]
	if !ok || answer == nil {
		a.close() // too late, or never asked for
		return
	}
	select {
	case answer <- a:
	default:
		a.close() // a second answer
	}
}

// tcpConnOf takes the socket that came along. The child's word for what it is
// does not count.
func tcpConnOf(oob []byte) (streamConn, error) {
	files := rightsOf(oob)
	defer closeFiles(files)
	if len(files) != 1 {
		return nil, fmt.Errorf("%d sockets came with the answer", len(files))
	}
	nc, err := net.FileConn(files[0])
	if err != nil {
		return nil, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		nc.Close()
		return nil, errors.New("no TCP socket came with the answer")
	}
	return tcp, nil
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

// runNetChild is the child: it connects as asked until its parent is gone.
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
		if id, addr, ok := parseNetMsg(b[:n]); ok {
			go netAnswerAsk(ctx, sock, id, addr) // at most maxChannels are asked
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

func netAnswerAsk(ctx context.Context, sock *net.UnixConn, id uint32, addr string) {
	ctx, stop := context.WithTimeout(ctx, forwardDialTimeout)
	defer stop()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		text := err.Error()
		sock.Write(appendNetMsg(nil, id, text[:min(len(text), maxNetMsg-4)]))
		return
	}
	defer nc.Close()
	rc, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	rc.Control(func(fd uintptr) {
		sock.WriteMsgUnix(appendNetMsg(nil, id, ""), unix.UnixRights(int(fd)), nil)
	})
}
