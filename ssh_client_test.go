//go:build !windows

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// An sshcPeer is a device for client tests: a listener on loopback with a real
// sshd, or a server of the test's own, behind every connection.
type sshcPeer struct {
	addr    string
	hostKey ssh.PublicKey
	userKey ssh.Signer
	keyFile string // userKey's, for stock ssh and helper processes
	users   []string
	name    string

	mu    sync.Mutex
	conns []net.Conn // guarded by mu; what the opener has handed out
	opens int        // guarded by mu
	fail  func(open int) error

	lostBy error // the reason of a link that is dead from the start
}

// openSSH makes every peer its own opener.
func (p *sshcPeer) openSSH(ctx context.Context, device string) (*sshPipe, error) {
	p.mu.Lock()
	open, fail := p.opens, p.fail
	p.opens++
	p.mu.Unlock()
	if fail != nil {
		if err := fail(open); err != nil {
			return nil, err
		}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.conns = append(p.conns, conn)
	p.mu.Unlock()
	pipe := &sshPipe{Conn: conn, hostKey: p.hostKey, userKey: p.userKey, users: p.users, name: p.name}
	if p.lostBy != nil {
		lost := make(chan struct{})
		close(lost)
		pipe.lost, pipe.reason = lost, func() error { return p.lostBy }
	}
	return pipe, nil
}

// cut breaks every connection, as a lost link would.
func (p *sshcPeer) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func sshcNewKey(t testing.TB, file string) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// sshcListen starts a peer that gives every connection to serve.
func sshcListen(t testing.TB, serve func(net.Conn)) *sshcPeer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var loops sync.WaitGroup
	p := &sshcPeer{addr: l.Addr().String(), name: "attic"}
	loops.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			loops.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cut()
		loops.Wait()
	})
	return p
}

// sshcSSHD starts a peer with OpenSSH's sshd, one process a connection as
// inetd would run it, in the name of the user that runs the test.
func sshcSSHD(t testing.TB) *sshcPeer {
	t.Helper()
	const sshd = "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		t.Skip("needs OpenSSH's sshd: ", err)
	}
	if os.Getuid() == 0 { // where sshd puts its unprivileged half
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	host := sshcNewKey(t, filepath.Join(dir, "host"))
	mine := sshcNewKey(t, filepath.Join(dir, "key"))
	keys := filepath.Join(dir, "authorized_keys")
	conf := filepath.Join(dir, "sshd_config")
	for file, text := range map[string]string{
		keys: string(ssh.MarshalAuthorizedKey(mine.PublicKey())),
		conf: fmt.Sprintf("HostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\n"+
			"PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"+
			"AcceptEnv LANG LC_*\nPrintMotd no\nPrintLastLog no\nLogLevel ERROR\n"+
			"Subsystem sftp /usr/lib/openssh/sftp-server\n",
			filepath.Join(dir, "host"), keys),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var errs sshcBuffer
	p := sshcListen(t, func(conn net.Conn) {
		defer conn.Close()
		file, err := conn.(*net.TCPConn).File()
		if err != nil {
			return
		}
		defer file.Close()
		cmd := exec.Command(sshd, "-i", "-e", "-f", conf)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, &errs
		if err := cmd.Start(); err != nil {
			t.Errorf("sshd: %v", err)
			return
		}
		file.Close()
		conn.Close() // sshd holds its own copy: let its end be the end
		cmd.Wait()
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("sshd: %s", errs.String())
		}
	})
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	p.hostKey, p.userKey, p.keyFile, p.users = host.PublicKey(), mine, filepath.Join(dir, "key"), []string{me.Username}
	return p
}

// sshcServer starts a peer with a server of the test's own: conf judges the
// login, handle has each channel.
func sshcServer(t testing.TB, conf *ssh.ServerConfig, handle func(ssh.NewChannel, ssh.Conn)) *sshcPeer {
	t.Helper()
	dir := t.TempDir()
	host := sshcNewKey(t, filepath.Join(dir, "host"))
	conf.AddHostKey(host)
	p := sshcListen(t, func(nc net.Conn) {
		defer nc.Close()
		conn, channels, requests, err := ssh.NewServerConn(nc, conf)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		var handlers sync.WaitGroup
		for ch := range channels {
			handlers.Go(func() { handle(ch, conn) })
		}
		handlers.Wait()
	})
	p.keyFile = filepath.Join(dir, "key")
	p.hostKey, p.userKey, p.users = host.PublicKey(), sshcNewKey(t, p.keyFile), []string{"alice"}
	return p
}

// sshcOpenDoor lets everybody in without a signature, as a server does for the
// key that the link has proved.
func sshcOpenDoor() *ssh.ServerConfig {
	return &ssh.ServerConfig{NoClientAuth: true}
}

// A sshcBuffer is a bytes.Buffer for several goroutines.
type sshcBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *sshcBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *sshcBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// sshcFiles runs f with pipes as its files: in is what it reads; what it wrote
// is returned.
func sshcFiles(t testing.TB, in io.Reader, f func(stdio) error) (out, errOut []byte, err error) {
	t.Helper()
	var files stdio
	var copies sync.WaitGroup
	var closers []io.Closer
	capture := func(to *[]byte) *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		closers = append(closers, w)
		copies.Go(func() { *to, _ = io.ReadAll(r); r.Close() })
		return w
	}
	files.out, files.err = capture(&out), capture(&errOut)
	r, w, pipeErr := os.Pipe()
	if pipeErr != nil {
		t.Fatal(pipeErr)
	}
	files.in = r
	if in == nil {
		in = strings.NewReader("")
	}
	copies.Go(func() { io.Copy(w, in); w.Close() })
	err = f(files)
	for _, c := range append(closers, r) {
		c.Close()
	}
	copies.Wait()
	return out, errOut, err
}

func TestClientHostKey(t *testing.T) {
	p := sshcSSHD(t)
	p.hostKey = sshcNewKey(t, filepath.Join(t.TempDir(), "other")).PublicKey()
	_, err := dialSSH(t.Context(), p, "attic", "")
	if codeOf(err) != "host-key" || !strings.Contains(err.Error(), "connecting to attic: ") {
		t.Fatalf("another host key: %v, code %q", err, codeOf(err))
	}
	if hintOf(err) == "" {
		t.Error("no hint")
	}
}

func TestClientHostKeyOfAnotherKind(t *testing.T) {
	p := sshcServer(t, sshcOpenDoor(), func(ssh.NewChannel, ssh.Conn) {})
	rsa := new(sshcRSAKey)
	p.hostKey = rsa
	if _, err := dialSSH(t.Context(), p, "attic", ""); codeOf(err) != "host-key" {
		t.Fatalf("a host key of another kind: %v", err)
	}
}

// A sshcRSAKey is a pin that no server here can meet.
type sshcRSAKey struct{ ssh.PublicKey }

func (*sshcRSAKey) Type() string    { return ssh.KeyAlgoRSA }
func (*sshcRSAKey) Marshal() []byte { return []byte("none") }

func TestClientLoginRefused(t *testing.T) {
	refuse := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		return nil, errors.New("no")
	}}
	p := sshcServer(t, refuse, func(ssh.NewChannel, ssh.Conn) {})
	p.users = []string{"alice", "root"}
	for login, code := range map[string]string{"mallory": "user", "alice": "denied"} {
		_, err := dialSSH(t.Context(), p, "attic", login)
		if codeOf(err) != code || !strings.Contains(err.Error(), login) {
			t.Errorf("%s: %v, code %q, want %q", login, err, codeOf(err), code)
		}
	}
	_, err := dialSSH(t.Context(), p, "attic", "mallory")
	if !strings.HasSuffix(hintOf(err), "alice, root") {
		t.Errorf("hint %q does not list the logins", hintOf(err))
	}
}

// A device tells the machine behind the link why it may not log in.
func TestClientLoginReason(t *testing.T) {
	for banner, want := range map[string]struct{ code, says string }{
		"sessio: its signature has expired (expired)\r\n": {"expired", "connecting to attic: its signature has expired"},
		"sessio: user \"x\": shell: no such file (user)":  {"user", "shell: no such file"},
		"sessio: a\x1b[31mb\nc":                           {"denied", "a\x1b[31mb\nc"},
		"sessio: odd (Code!)":                             {"denied", "odd (Code!)"},
		"Welcome.":                                        {"denied", "it refused login"},
		"sessio: " + strings.Repeat("x", 600):             {"denied", "it refused login"},
	} {
		conf := &ssh.ServerConfig{NoClientAuth: true, NoClientAuthCallback: func(ssh.ConnMetadata) (*ssh.Permissions, error) {
			return nil, &ssh.BannerError{Err: errors.New("no"), Message: banner}
		}, PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, errors.New("no")
		}}
		p := sshcServer(t, conf, func(ssh.NewChannel, ssh.Conn) {})
		_, err := dialSSH(t.Context(), p, "attic", "")
		if codeOf(err) != want.code || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%q: %v, code %q", banner, err, codeOf(err))
		}
	}
}

// The key that the link proved needs no signature; the user arrives all the
// same.
func TestClientNoneForProvedKey(t *testing.T) {
	got := make(chan string, 1)
	p := sshcServer(t, sshcOpenDoor(), func(ch ssh.NewChannel, conn ssh.Conn) {
		got <- conn.User()
		ch.Reject(ssh.Prohibited, "\x1b[31mno")
	})
	c, err := dialSSH(t.Context(), p, "attic", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	_, err = openSession(t.Context(), c)
	if err == nil || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "administratively prohibited") {
		t.Errorf("refused session: %v", err)
	}
	if user := <-got; user != "alice" {
		t.Errorf("logged in as %q", user)
	}
}

func TestClientAlgorithms(t *testing.T) {
	p := sshcSSHD(t)
	c, err := dialSSH(t.Context(), p, "attic", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	algos := c.Conn.(ssh.AlgorithmsConnMetadata).Algorithms()
	if want := clientCiphers(hasAESInstructions())[0]; algos.Read.Cipher != want || algos.Write.Cipher != want {
		t.Errorf("ciphers %s and %s, want %s", algos.Read.Cipher, algos.Write.Cipher, want)
	}
	if algos.KeyExchange != ssh.KeyExchangeCurve25519 && algos.KeyExchange != ssh.KeyExchangeMLKEM768X25519 {
		t.Errorf("key exchange %s", algos.KeyExchange)
	}
}

func TestClientOpenerError(t *testing.T) {
	p := sshcServer(t, sshcOpenDoor(), func(ssh.NewChannel, ssh.Conn) {})
	p.fail = func(int) error {
		return withHint(coded("unknown-device", "no such device"), "did you mean attic?")
	}
	err := cmdShell(t.Context(), p, stdio{}, target{device: "atic"})
	if got := err.Error(); got != "connecting to atic: no such device" {
		t.Errorf("text %q", got)
	}
	if exitStatus(err) != 255 || codeOf(err) != "unknown-device" || hintOf(err) != "did you mean attic?" {
		t.Errorf("status %d, code %q, hint %q", exitStatus(err), codeOf(err), hintOf(err))
	}
}

// A server that never answers is given up when the caller is.
func TestClientDialCancelled(t *testing.T) {
	reached := make(chan struct{})
	p := sshcListen(t, func(c net.Conn) { close(reached); io.Copy(io.Discard, c) })
	p.hostKey, p.users = sshcNewKey(t, filepath.Join(t.TempDir(), "k")).PublicKey(), []string{"alice"}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	if _, err := dialSSH(ctx, p, "attic", ""); exitStatus(err) != 130 {
		t.Errorf("cancelled: %v", err)
	}
}

// The link's own reason is what people read.
func TestClientLinkLost(t *testing.T) {
	opened := make(chan struct{})
	p := sshcServer(t, sshcOpenDoor(), func(ch ssh.NewChannel, _ ssh.Conn) {
		c, requests, _ := ch.Accept()
		go func() {
			for r := range requests {
				r.Reply(true, nil)
				if r.Type == "exec" {
					close(opened)
				}
			}
		}()
		io.Copy(io.Discard, c)
	})
	lost := make(chan struct{})
	op := sshcOpenerFunc(func(ctx context.Context, device string) (*sshPipe, error) {
		pipe, err := p.openSSH(ctx, device)
		if err == nil {
			pipe.lost, pipe.reason = lost, func() error { return errors.New("no packet for 60 s") }
		}
		return pipe, err
	})
	go func() { <-opened; close(lost) }()
	_, _, err := sshcFiles(t, nil, func(files stdio) error {
		return cmdRun(t.Context(), op, files, runArgs{devices: []string{"attic"}, line: "x"})
	})
	if exitStatus(err) != 255 || !strings.Contains(err.Error(), "the link to attic was lost: no packet for 60 s") || hintOf(err) == "" {
		t.Errorf("lost link: %v, status %d", err, exitStatus(err))
	}
}

type sshcOpenerFunc func(context.Context, string) (*sshPipe, error)

func (f sshcOpenerFunc) openSSH(ctx context.Context, device string) (*sshPipe, error) {
	return f(ctx, device)
}

// sshcByName knows every device but "gone".
func sshcByName(p *sshcPeer) sshOpener {
	return sshcOpenerFunc(func(ctx context.Context, device string) (*sshPipe, error) {
		if device == "gone" {
			return nil, withHint(coded("unknown-device", "no such device"), "did you mean attic?")
		}
		return p.openSSH(ctx, device)
	})
}

// sshcCounting tells count of every pipe that opens and closes.
func sshcCounting(p *sshcPeer, count func(by int)) sshOpener {
	return sshcOpenerFunc(func(ctx context.Context, device string) (*sshPipe, error) {
		pipe, err := p.openSSH(ctx, device)
		if err == nil {
			count(1)
			pipe.Conn = &sshcCountedConn{Conn: pipe.Conn, closed: sync.OnceFunc(func() { count(-1) })}
		}
		return pipe, err
	})
}

type sshcCountedConn struct {
	net.Conn
	closed func()
}

func (c *sshcCountedConn) Close() error { c.closed(); return c.Conn.Close() }

// sshcRelay stands between a client and p, and can break the connection, which
// it gives to made.
func sshcRelay(t testing.TB, p *sshcPeer, made func(io.Closer)) *sshcPeer {
	t.Helper()
	r := sshcListen(t, func(conn net.Conn) {
		defer conn.Close()
		far, err := net.Dial("tcp", p.addr)
		if err != nil {
			return
		}
		made(sshcCloser(func() error { resetConn(conn); return far.Close() }))
		var ways sync.WaitGroup
		ways.Go(func() { io.Copy(far, conn); far.Close() })
		ways.Go(func() { io.Copy(conn, far); conn.Close() })
		ways.Wait()
	})
	r.hostKey, r.userKey, r.keyFile, r.users = p.hostKey, p.userKey, p.keyFile, p.users
	return r
}

type sshcCloser func() error

func (f sshcCloser) Close() error { return f() }

// An sshcStall is an opener whose connections can be made to take no more
// bytes, as a link without a path does.
type sshcStall struct {
	*sshcPeer
	stalled chan struct{}
}

func newSSHCStall(p *sshcPeer) *sshcStall { return &sshcStall{p, make(chan struct{})} }

func (s *sshcStall) stall() { close(s.stalled) }

func (s *sshcStall) openSSH(ctx context.Context, device string) (*sshPipe, error) {
	pipe, err := s.sshcPeer.openSSH(ctx, device)
	if err == nil {
		closed := make(chan struct{})
		pipe.Conn = &sshcStalledConn{pipe.Conn, s.stalled, closed, sync.OnceFunc(func() { close(closed) })}
	}
	return pipe, err
}

// An sshcStalledConn frees a Write that waits at its deadline only, as a QUIC
// stream does.
type sshcStalledConn struct {
	net.Conn
	stalled, closed chan struct{}
	close           func()
}

func (c *sshcStalledConn) SetWriteDeadline(time.Time) error { c.close(); return nil }

func (c *sshcStalledConn) Write(b []byte) (int, error) {
	select {
	case <-c.stalled:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return c.Conn.Write(b)
	}
}

// Whatever a device says, a code is one, and the reason stands as it was said.
func FuzzReasonInBanner(f *testing.F) {
	for _, seed := range []string{"sessio: expired (expired)\r\n", "sessio: (x)", "sessio:  (a) (b)", "sessio: \x1b[1m", "hello", "sessio: \xff (user)"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, banner string) {
		err := reasonInBanner(banner)
		if err == nil {
			return
		}
		code := codeOf(err)
		if code == "" || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz-") != "" {
			t.Errorf("code %q", code)
		}
		again := reasonInBanner("sessio: " + err.Error() + " (" + code + ")")
		if len(banner) < maxBannerReason-20 && (again == nil || again.Error() != err.Error() || codeOf(again) != code) {
			t.Errorf("%q is %v, %q; again %v", banner, err, code, again)
		}
	})
}
