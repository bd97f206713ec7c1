//go:build linux || darwin

package main

// This file does what forwards need of the system, in whatever process is the
// user's: it connects and listens, on TCP and on Unix sockets, and makes the
// socket of an agent. Who may use a port or a path, and what a firewall's owner
// rules say, is then right by itself.

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A netAsk is one thing to do. Its argument is host:port, or an absolute path.
type netAsk struct {
	op  netOp
	arg string
}

type netOp byte

const (
	netDialTCP    netOp = 't'
	netDialUnix   netOp = 'u'
	netListenTCP  netOp = 'T'
	netListenUnix netOp = 'U'
	netAgent      netOp = 'a' // no argument: a socket in a new directory
	netRemove     netOp = 'r' // what netListenUnix said
	netRemoveDir  netOp = 'R' // what netAgent said; the directory goes too
)

// A netGot is what came of it: conn or ln, and for a Unix socket that was made
// a text to remove it by, device, inode and path.
type netGot struct {
	conn streamConn
	ln   net.Listener
	made string
}

func (g netGot) close() {
	if g.conn != nil {
		g.conn.Close()
	}
	if g.ln != nil {
		g.ln.Close()
	}
}

func (a netAsk) do(ctx context.Context) (g netGot, err error) {
	switch a.op {
	case netDialTCP:
		g.conn, err = netDial(ctx, "tcp", a.arg)
	case netDialUnix:
		g.conn, err = netDial(ctx, "unix", a.arg)
	case netListenTCP:
		g.ln, err = net.Listen("tcp", a.arg)
	case netListenUnix:
		g.ln, g.made, err = listenPrivate(a.arg)
	case netAgent:
		var dir string
		if dir, err = os.MkdirTemp(agentDirs, "sessio-"); err != nil {
			break
		}
		if g.ln, g.made, err = listenPrivate(dir + "/agent"); err != nil {
			os.Remove(dir)
		}
	case netRemove, netRemoveDir:
		var path string
		if path, err = removeMade(a.arg); err == nil && a.op == netRemoveDir {
			err = os.Remove(filepath.Dir(path))
		}
	default:
		err = fmt.Errorf("unknown ask %q", a.op)
	}
	return g, err
}

// agentDirs is where sshd makes agents' sockets too: $TMPDIR is the server's,
// not the user's.
const agentDirs = "/tmp"

func netDial(ctx context.Context, network, addr string) (streamConn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return nc.(streamConn), nil // *net.TCPConn or *net.UnixConn
}

// listenPrivate listens on a path that must not exist, mode 0600. The mode is
// there before anybody can connect; the umask is the whole process's and is
// left alone.
func listenPrivate(path string) (ln net.Listener, made string, err error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		return rc.Control(func(fd uintptr) { privateSocket(int(fd)) })
	}}
	ln, err = lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, "", err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	var st unix.Stat_t
	if err = privatePath(path); err == nil {
		err = unix.Lstat(path, &st)
	}
	if err != nil {
		ln.Close()
		return nil, "", err
	}
	return ln, fmt.Sprintf("%d %d %s", st.Dev, st.Ino, path), nil
}

// madePath is the path in what listenPrivate said.
func madePath(made string) string {
	f := strings.SplitN(made, " ", 3)
	return f[len(f)-1]
}

// removeMade removes a socket if it is still the one that was made.
func removeMade(made string) (path string, err error) {
	path = madePath(made)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return path, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	if fmt.Sprintf("%d %d %s", st.Dev, st.Ino, path) != made {
		return path, fmt.Errorf("%s is not the socket that was made", path)
	}
	return path, os.Remove(path)
}

// socketPath checks a path that a client names. Relative to what, it could not
// say; and what Go takes for a name outside of the file system (an "@" in
// front) has no owner.
func socketPath(path string) error {
	switch {
	case !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0):
		return fmt.Errorf("%.40q is not an absolute path", path)
	case len(path) > maxSunPath:
		return fmt.Errorf("the path of a socket has at most %d bytes", maxSunPath)
	}
	return nil
}

// maxSunPath is what sockaddr_un holds on Linux and macOS, less the NUL.
const maxSunPath = len(unix.RawSockaddrUnix{}.Path) - 1

// A rawSocket is a net.Conn or net.Listener of a socket.
type rawSocket interface {
	SyscallConn() (syscall.RawConn, error)
}

// hangUp ends reading, writing and accepting on s, also where whoever shares
// the socket has made it blocking, which no deadline and no Close would end.
func hangUp(s any, how int) {
	onSocket(s, func(fd int) { unix.Shutdown(fd, how) })
}

// onSocket does something with the descriptor of s while that is open, and
// reports whether s is of a kind that has one.
func onSocket(s any, do func(fd int)) bool {
	raw, ok := s.(rawSocket)
	if ok {
		if rc, err := raw.SyscallConn(); err == nil {
			rc.Control(func(fd uintptr) { do(int(fd)) })
		}
	}
	return ok
}
