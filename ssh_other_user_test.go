//go:build linux

package main

// What runs for another user when the server is root.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// init makes this test program do what main does first.
func init() {
	if (isNetChild(os.Args) || isFilesChild(os.Args)) && os.Getenv("GORACE") == "" {
		// Else the race detector sleeps for a second at the end of each.
		syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), "GORACE=atexit_sleep_ms=0"))
	}
	if isNetChild(os.Args) {
		os.Exit(exitStatus(runNetChild()))
	}
	if isFilesChild(os.Args) {
		os.Exit(exitStatus(runFilesChild()))
	}
}

// nobodySSHD logs everybody in as nobody, with a shell.
func nobodySSHD(t *testing.T) *sshdTest {
	nobody := sshdNobody(t)
	return startSSHD(t, func(d *sshdTest, p *sshPolicy) { d.acct = nobody })
}

func TestSSHDOtherUser(t *testing.T) {
	d := nobodySSHD(t)
	out := d.output("grep -E '^(Uid|Gid|Groups|NoNewPrivs):' /proc/self/status | tr '\\t' ' '; pwd; echo $USER $LOGNAME")
	uid, gid := fmt.Sprint(d.acct.uid), fmt.Sprint(d.acct.gid)
	for _, want := range []string{
		"Uid: " + strings.Join([]string{uid, uid, uid, uid}, " ") + "\n",
		"Gid: " + strings.Join([]string{gid, gid, gid, gid}, " ") + "\n",
		"Groups: 1 " + gid + " \n",
		"nobody nobody\n",
		"\n/\n", // its home is not there
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	_, stderr, _ := d.run(d.ssh("h", "true"))
	if !strings.Contains(stderr, "Could not chdir to home directory /nonexistent: no such file or directory") {
		t.Errorf("stderr %q", stderr)
	}
}

// TestSSHDOtherUserHome: the directory is entered as the user, not as root.
func TestSSHDOtherUserHome(t *testing.T) {
	d := nobodySSHD(t)
	d.acct.home = d.dir
	if err := os.Chmod(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cl := d.mustDial()
	out, err := d.newSession(cl).CombinedOutput("pwd")
	if err != nil || !strings.Contains(string(out), "permission denied\r\n") || !strings.Contains("\n"+string(out), "\n/\n") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestSSHDOtherUserTerminal(t *testing.T) {
	d := nobodySSHD(t)
	s := d.newSession(d.mustDial())
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	out, err := s.Output("stat -c '%U %G %a' $(tty); echo x >$(tty)")
	if err != nil || !strings.Contains(string(out), "nobody tty 620\r\nx\r\n") {
		t.Errorf("%q, %v", out, err)
	}
}

// TestSSHDOtherUserForward: the connection is made by the user's own process,
// which ends with the SSH connection.
func TestSSHDOtherUserForward(t *testing.T) {
	d := nobodySSHD(t)
	owner := make(chan uint32, 1)
	target := sshdEcho(t, func(nc *net.TCPConn) {
		owner <- sshdSocketOwner(t, nc)
		io.Copy(nc, nc)
		nc.CloseWrite()
	})
	cl := d.mustDial()
	before := sshdCount(t)
	for range 3 {
		nc, err := cl.Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		if uid := <-owner; uid != d.acct.uid {
			t.Errorf("the socket is uid %d's", uid)
		}
		io.WriteString(nc, "there and back")
		nc.(interface{ CloseWrite() error }).CloseWrite()
		if b, err := io.ReadAll(nc); string(b) != "there and back" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		nc.Close()
	}
	if got := sshdCount(t).children - before.children; got != 1 {
		t.Errorf("%d children for three forwards", got)
	}
	_, err := cl.Dial("tcp", sshdFreePort(t))
	if open := (*ssh.OpenChannelError)(nil); !errors.As(err, &open) || !strings.Contains(open.Message, "connection refused") {
		t.Error(err)
	}
	cl.Close()
	sshdUntil(t, "the end of child and sockets", func() bool {
		after := sshdCount(t)
		return after.children <= before.children && after.fds <= before.fds
	})
}

// sshdSocketOwner finds who made the other end of nc: proc(5). Its port alone
// may be in use, or in TIME_WAIT, towards others as well.
func sshdSocketOwner(t *testing.T, nc *net.TCPConn) uint32 {
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Error(err)
	}
	there, here := nc.RemoteAddr().(*net.TCPAddr).Port, nc.LocalAddr().(*net.TCPAddr).Port
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 7 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", there)) && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", here)) {
			var uid uint32
			fmt.Sscan(f[7], &uid)
			return uid
		}
	}
	t.Errorf("no socket with port %d", there)
	return 0
}

// TestNetChildDies: a child that is killed fails what is asked, and the next
// ask starts another.
func TestNetChildDies(t *testing.T) {
	d := nobodySSHD(t)
	var n netChild
	defer n.stop()
	target := sshdEcho(t, func(nc *net.TCPConn) { io.WriteString(nc, "x") })
	for range 2 {
		nc, err := n.ask(context.Background(), d.acct, netAsk{netDialTCP, target})
		if err != nil {
			t.Fatal(err)
		}
		nc.close()
		p := n.proc
		p.proc.Kill()
		<-p.done
	}
	n.stop()
	if _, err := n.ask(context.Background(), d.acct, netAsk{netDialTCP, target}); !errors.Is(err, errNetChildEnded) {
		t.Error(err)
	}
}

// TestNetChildStopped: a child that its user has stopped holds nobody up for
// longer than they wait.
func TestNetChildStopped(t *testing.T) {
	d := nobodySSHD(t)
	var n netChild
	defer n.stop()
	target := sshdEcho(t, func(*net.TCPConn) {})
	g, err := n.ask(context.Background(), d.acct, netAsk{netDialTCP, target})
	if err != nil {
		t.Fatal(err)
	}
	g.close()
	if err := n.proc.proc.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	var left atomic.Int32
	for range maxForwards { // more than the socket holds
		left.Add(1)
		go func() {
			defer left.Add(-1)
			if _, err := n.ask(ctx, d.acct, netAsk{netDialTCP, target}); err == nil {
				t.Error("an answer")
			}
		}()
	}
	sshdUntil(t, "the end of all", func() bool { return left.Load() == 0 })
}

func TestNetChildNotAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only as root")
	}
	if err := runNetChild(); !strings.Contains(fmt.Sprint(err), "not as root") {
		t.Error(err)
	}
}

// TestNetChildHostile: a child that its user has taken over can make a forward
// fail and no more.
func TestNetChildHostile(t *testing.T) {
	ours, theirs, err := netSocketPair()
	if err != nil {
		t.Fatal(err)
	}
	child, err := unixConnOf(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	proc, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	p := &netProcess{proc: proc, sock: ours, done: make(chan struct{}), waiting: map[uint32]netWaiter{}}
	go p.readLoop()
	n := &netChild{proc: p}
	defer n.stop()

	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	var udpFD int
	rc, _ := udp.SyscallConn()
	rc.Control(func(fd uintptr) { udpFD = int(fd) })
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	var tcpFD int
	rc, _ = tcp.(*net.TCPListener).SyscallConn()
	rc.Control(func(fd uintptr) { tcpFD = int(fd) })
	fds := sshdCount(t).fds

	for name, c := range map[string]struct {
		op     netOp
		kind   byte
		text   string
		rights []byte
		want   string
	}{
		"no socket":           {netDialTCP, netDone, "", nil, "0 sockets"},
		"not a stream":        {netDialTCP, netDone, "", unix.UnixRights(udpFD), "not of the kind"},
		"a listener":          {netDialTCP, netDone, "", unix.UnixRights(tcpFD), "not of the kind"},
		"TCP for Unix":        {netListenUnix, netDone, "", unix.UnixRights(tcpFD), "not of the kind"},
		"TCP for an agent":    {netAgent, netDone, "1 1 /x", unix.UnixRights(tcpFD), "not of the kind"},
		"a datagram listener": {netListenTCP, netDone, "", unix.UnixRights(udpFD), "not of the kind"},
		"two":                 {netDialTCP, netDone, "", unix.UnixRights(udpFD, udpFD), "2 sockets"},
		"many":                {netDialTCP, netDone, "", unix.UnixRights(udpFD, udpFD, udpFD, udpFD), "sockets"},
		"text and socket":     {netDialTCP, netFailed, "sorry", unix.UnixRights(udpFD), "sorry"},
		"no such answer":      {netDialTCP, 9, "hm", nil, "hm"},
		"an endless text":     {netDialTCP, netFailed, strings.Repeat("x", 4*maxNetMsg), nil, "xxxx"},
		"standard input":      {netDialTCP, netDone, "", unix.UnixRights(0), "not of the kind"},
		"several messages":    {netDialTCP, netDone, "", append(unix.UnixRights(udpFD), unix.UnixRights(udpFD)...), "socket"},
	} {
		go func() {
			b := make([]byte, maxNetMsg)
			k, _ := child.Read(b)
			id, _, _, _ := parseNetMsg(b[:k])
			child.Write([]byte{1})                                                                 // half a message
			child.WriteMsgUnix(appendNetMsg(nil, 1<<31, netDone, ""), unix.UnixRights(udpFD), nil) // never asked
			child.WriteMsgUnix(appendNetMsg(nil, id, c.kind, c.text), c.rights, nil)
			child.WriteMsgUnix(appendNetMsg(nil, id, c.kind, c.text), c.rights, nil) // again
		}()
		g, err := n.ask(context.Background(), osAccount{}, netAsk{c.op, "127.0.0.1:1"})
		if !strings.Contains(fmt.Sprint(err), c.want) || g != (netGot{}) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if _, err := n.ask(ctx, osAccount{}, netAsk{netDialTCP, "127.0.0.1:1"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	sshdUntil(t, "no descriptor kept", func() bool { return sshdCount(t).fds <= fds })
}

func FuzzParseNetMsg(f *testing.F) {
	f.Add(binary.BigEndian.AppendUint32(nil, 7))
	f.Add(appendNetMsg(nil, 1, byte(netDialTCP), "127.0.0.1:80"))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, kind, rest, ok := parseNetMsg(b)
		if ok && string(appendNetMsg(nil, id, kind, rest)) != string(b) {
			t.Errorf("%q became %d %d %q", b, id, kind, rest)
		}
		if ok != (len(b) >= 5) {
			t.Errorf("%q: %v", b, ok)
		}
	})
}
