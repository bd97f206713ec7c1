//go:build linux || darwin

package main

// The TCP port, its gate and its timeouts, with clients on loopback.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A portTest is an sshdTest whose address is that of a TCP port.
type portTest struct {
	*sshdTest
	p      *sshPort
	conf   atomic.Pointer[serverConfig]
	audit  atomic.Pointer[auditLog]
	reload chan struct{}
}

// startPort starts a server with the settings that change makes.
func startPort(t *testing.T, change func(*serverConfig)) *portTest {
	t.Helper()
	p := &portTest{reload: make(chan struct{})}
	c := defaultServerConfig()
	c.bindAddress, c.port = netip.MustParseAddr("127.0.0.1"), portFree(t)
	if change != nil {
		change(c)
	}
	p.conf.Store(c)
	p.sshdTest = startSSHD(t, func(_ *sshdTest, policy *sshPolicy) { policy.config, policy.audit = p.conf.Load, p.audit.Load })
	p.p = &sshPort{srv: p.srv, identity: sshdSigner(t, p.host), config: p.conf.Load,
		logf: func(_ int, format string, args ...any) { p.logf(format, args...) }}
	if err := p.p.listen(); err != nil {
		t.Fatal(err)
	}
	p.moved()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.p.run(ctx, p.reload) })
	t.Cleanup(func() {
		stop()
		p.srv.closeAll(0)
		running.Wait()
	})
	return p
}

func portFree(t *testing.T) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// moved has the clients go where the settings say.
func (p *portTest) moved() {
	p.port = strconv.Itoa(p.conf.Load().port)
	p.addr = "127.0.0.1:" + p.port
}

// set changes the settings and reloads.
func (p *portTest) set(change func(*serverConfig)) {
	c := *p.conf.Load()
	change(&c)
	p.conf.Store(&c)
	p.reload <- struct{}{}
	p.moved()
}

// dialFrom connects from an address of loopback.
func (p *portTest) dialFrom(from string) net.Conn {
	p.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.Dial("tcp", p.addr)
	if err != nil {
		p.Skipf("no address %s here: %v", from, err) // macOS has 127.0.0.1 alone
	}
	p.Cleanup(func() { nc.Close() })
	return nc
}

// login logs in from an address.
func (p *portTest) login(from string, conf *ssh.ClientConfig) (*ssh.Client, error) {
	p.Helper()
	if conf == nil {
		conf = new(ssh.ClientConfig)
	}
	conf.User, conf.HostKeyCallback = p.user, ssh.FixedHostKey(sshdSigner(p.T, p.host).PublicKey())
	if conf.Auth == nil {
		conf.Auth = []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(p.T, p.key))}
	}
	c, chans, reqs, err := ssh.NewClientConn(p.dialFrom(from), p.addr, conf)
	if err != nil {
		return nil, err
	}
	cl := ssh.NewClient(c, chans, reqs)
	p.Cleanup(func() { cl.Close() })
	return cl, nil
}

func (p *portTest) mustLogin(from string) *ssh.Client {
	p.Helper()
	cl, err := p.login(from, nil)
	if err != nil {
		p.Fatal(err)
	}
	return cl
}

// turnedAway reads what a connection from there is told before any SSH byte.
func (p *portTest) turnedAway(from string) bool {
	p.Helper()
	nc := p.dialFrom(from)
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	b, _ := io.ReadAll(io.LimitReader(nc, 26))
	return string(b) == "Not allowed at this time\r\n"
}

func (p *portTest) here() int { return len(p.srv.list("")) }

func TestSSHPortStockClient(t *testing.T) {
	p := startPort(t, nil)
	p.want(p.ssh("h", "echo in"), "in\n", 0)
	cl := p.mustLogin("127.0.0.1")
	if ok, _, err := cl.SendRequest("keepalive@openssh.com", true, nil); ok || err != nil {
		t.Errorf("a keepalive: %v, %v", ok, err)
	}
	if _, err := p.login("127.0.0.1", &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(t, sshdKey(t)))}}); err == nil {
		t.Error("a stranger's key lets in")
	}
}

// Blocked and banned addresses are cut with a valid key, whatever their form.
func TestSSHPortRefusesAddresses(t *testing.T) {
	p := startPort(t, func(c *serverConfig) { c.blocked = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")} })
	if !p.turnedAway("127.0.0.2") {
		t.Error("a blocked address may come in")
	}
	cl := p.mustLogin("127.0.0.3")
	if n, err := p.srv.ban("127.0.0.3", 0); n != 1 || err != nil {
		t.Errorf("ban: %d ended, %v", n, err)
	}
	if cl.Wait(); !p.turnedAway("127.0.0.3") {
		t.Error("a banned address may come in")
	}
	if err := p.srv.unban("127.0.0.3"); err != nil {
		t.Error(err)
	}
	p.mustLogin("127.0.0.3")
	p.set(func(c *serverConfig) { c.bindAddress = netip.IPv6Unspecified() })
	if !p.turnedAway("127.0.0.2") { // comes as ::ffff:127.0.0.2 now
		t.Error("a blocked address may come in by way of IPv6")
	}
	p.mustLogin("127.0.0.4")
	p.set(func(c *serverConfig) { c.allowed = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	sshdUntil(t, "the end of those not allowed any more", func() bool { return p.here() == 0 })
	if p.mustLogin("127.0.0.1"); !p.turnedAway("127.0.0.4") {
		t.Error("an address that is not allowed may come in")
	}
}

// Five wrong keys that are only asked about ban nobody; the sixth lets in.
func TestSSHPortWrongKeysOfAnAgent(t *testing.T) {
	p := startPort(t, nil)
	var keys []ssh.Signer
	for range 5 {
		keys = append(keys, sshdSigner(t, sshdKey(t)))
	}
	keys = append(keys, sshdSigner(t, p.key))
	for range 3 {
		cl, err := p.login("127.0.0.2", &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(keys...)}})
		if err != nil {
			t.Fatal(err)
		}
		if st := p.srv.list(""); len(st) != 1 || st[0].AuthAttempts < 5 {
			t.Errorf("%+v", st)
		}
		cl.Close()
		sshdUntil(t, "the connection's end", func() bool { return p.here() == 0 })
	}
	if len(p.srv.bans()) != 0 {
		t.Errorf("banned: %v", p.srv.bans())
	}
}

// Wrong passwords ban: the connection that the last came by ends, and those from
// there that are not logged in; who is in stays in.
func TestSSHWrongPasswordsBan(t *testing.T) {
	p := startPort(t, nil)
	in := p.mustLogin("127.0.0.2")
	waits := p.dialFrom("127.0.0.2")
	io.ReadFull(waits, make([]byte, 8))
	guess := func(right bool) error {
		client, server := sshdConnPair(t)
		ctx, end := context.WithCancelCause(context.Background())
		c := &sshConnection{ctx: ctx, end: end, srv: p.srv, from: netip.MustParseAddr("127.0.0.2"), wake: make(chan struct{}, 1),
			meter: newSSHMeter(server, time.Now()), started: time.Now(), hostKeys: []ssh.Signer{sshdSigner(t, p.host)}}
		if err := p.srv.add(c, 0); err != nil {
			return err
		}
		defer p.srv.remove(c)
		defer context.AfterFunc(ctx, func() { server.Close() })()
		conf := &ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
			if right {
				return new(ssh.Permissions), nil
			}
			err := errors.New("wrong")
			c.authFailed(c.from, "root", "password", err)
			return nil, err
		}}
		conf.AddHostKey(c.hostKeys[0])
		c.guardLogin(new(sshAuth), conf)
		go func() {
			ssh.NewClientConn(client, "h", &ssh.ClientConfig{User: "root", HostKeyCallback: ssh.InsecureIgnoreHostKey(), Auth: []ssh.AuthMethod{ssh.Password("x")}})
			client.Close()
		}()
		ssh.NewServerConn(server, conf)
		return context.Cause(ctx)
	}
	for i := range 4 {
		if err := guess(false); err != nil {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	if err := guess(true); err != nil { // takes nothing back
		t.Fatal(err)
	}
	if err := guess(false); !errors.Is(err, errSSHBanned) {
		t.Errorf("the fifth guess: %v", err)
	}
	if err := guess(true); codeOf(err) != "address" {
		t.Errorf("after it: %v", err)
	}
	if _, err := io.Copy(io.Discard, waits); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	if ok, _, err := in.SendRequest("x", true, nil); ok || err != nil {
		t.Errorf("who is in: %v", err)
	}
	p.mustLogin("127.0.0.3")
}

// Three of an address may be not logged in; another address is let in meanwhile,
// and they are gone when the grace time is over.
func TestSSHPortUnauthenticated(t *testing.T) {
	p := startPort(t, func(c *serverConfig) { c.grace = 2 * time.Second })
	for range maxWaitingNear {
		io.ReadFull(p.dialFrom("127.0.0.2"), make([]byte, 8))
	}
	if !p.turnedAway("127.0.0.2") {
		t.Error("a fourth may come in")
	}
	p.mustLogin("127.0.0.3").Close()
	sshdUntil(t, "the end of the grace time", func() bool { return p.here() == 0 })
	if !strings.Contains(p.logged(), errSSHGrace.Error()) {
		t.Errorf("log: %q", p.logged())
	}
	p.mustLogin("127.0.0.2")
}

// Where all places are taken, one that is trusted gets that of the oldest who is
// not logged in, and nobody that of one who is.
func TestSSHPortMakesRoom(t *testing.T) {
	p := startPort(t, func(c *serverConfig) {
		c.maxConnections = 2
		c.whitelist = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}
	})
	p.mustLogin("127.0.0.1")
	sshdUntil(t, "the login", func() bool { return strings.Contains(p.logged(), "logged in from 127.0.0.1:") }) // the client knows sooner
	waits := p.dialFrom("127.0.0.2")
	io.ReadFull(waits, make([]byte, 8))
	if !p.turnedAway("127.0.0.3") {
		t.Error("one more than there may be")
	}
	p.mustLogin("127.0.0.9")
	io.Copy(io.Discard, waits) // ends
	sshdUntil(t, "two", func() bool { return p.here() == 2 })
	if !p.turnedAway("127.0.0.9") {
		t.Error("in the place of one who is logged in")
	}
}

// Before the login a client may send so much and no more.
func TestSSHPortFloodBeforeLogin(t *testing.T) {
	p := startPort(t, nil)
	nc := p.dialFrom("127.0.0.2")
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(nc, "SSH-2.0-flood\r\n")
	go io.Copy(io.Discard, nc)
	// Packets that the library ignores, until the key exchange.
	packet := append([]byte{0, 0, 0x7f, 0xf4, 10, 2}, make([]byte, 0x7ff4-2)...)
	sent, err := 0, error(nil)
	for err == nil && sent < 64<<20 {
		var n int
		n, err = nc.Write(packet)
		sent += n
	}
	if err == nil {
		t.Errorf("%d bytes, and still there", sent)
	}
}

func TestSSHPortSessionsOfAUser(t *testing.T) {
	p := startPort(t, func(c *serverConfig) {
		c.maxSessionsPerUser, c.maxAuthAttempts = 2, 1
		c.methods = []string{"publickey", "password"}
	})
	first := p.mustLogin("127.0.0.1")
	p.mustLogin("127.0.0.1")
	// A client that is told of failure tries passwords, empty ones without a terminal.
	said, _ := p.ssh("-v", "h", "true").CombinedOutput()
	if !strings.Contains(string(said), "max_sessions_per_user") || strings.Count(string(said), "Authentications that can continue") != 1 {
		t.Errorf("%s", said)
	}
	if len(p.srv.bans()) != 0 {
		t.Error("that is no failure")
	}
	first.Close()
	sshdUntil(t, "room", func() bool { return p.here() == 1 })
	p.mustLogin("127.0.0.1")
}

// A connection ends for want of data; keepalives are none.
func TestSSHPortIdle(t *testing.T) {
	p := startPort(t, func(c *serverConfig) { c.idlePort, c.keepalive = time.Second, 20*time.Millisecond })
	cl := p.mustLogin("127.0.0.1")
	s, err := cl.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	out, err := s.Output("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done")
	if err != nil || len(out) != 16 {
		t.Errorf("%q, %v: ended after %v while it talked", out, err, time.Since(began))
	}
	cl.Wait()
	sshdUntil(t, "the reason in the log", func() bool { return strings.Contains(p.logged(), errSSHIdle.Error()) })
}

func TestSSHPortSessionTimeout(t *testing.T) {
	p := startPort(t, nil)
	cl := p.mustLogin("127.0.0.1")
	p.set(func(c *serverConfig) { c.sessionTimeout = 50 * time.Millisecond }) // holds for who is in already
	cl.Wait()
	sshdUntil(t, "the log line", func() bool { return strings.Contains(p.logged(), errSSHTime.Error()) })
}

// A client that answers keepalives is kept, one that does not is not.
func TestSSHPortKeepalive(t *testing.T) {
	p := startPort(t, func(c *serverConfig) { c.keepalive = 50 * time.Millisecond })
	conf := &ssh.ClientConfig{User: p.user, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Auth: []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(t, p.key))}}
	c, _, reqs, err := ssh.NewClientConn(p.dialFrom("127.0.0.1"), p.addr, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for n := 0; n < 10; { // far more than are missed at the most
		req, ok := <-reqs
		if !ok {
			t.Fatal("ended in spite of its answers")
		}
		if req.Type == "keepalive@openssh.com" {
			n++
			req.Reply(false, nil)
		}
	}
	c.Wait() // nothing is answered from here on
	sshdUntil(t, "the log line", func() bool { return strings.Contains(p.logged(), errSSHDead.Error()) })
}

func TestWatchLook(t *testing.T) {
	c := defaultServerConfig()
	c.idleLink, c.sessionTimeout = 0, 0
	at := time.Now()
	after := func(s int) time.Time { return at.Add(time.Duration(s) * time.Second) }
	w := sshWatch{port: true, started: at}
	for i, step := range []struct {
		now  int
		in   int64
		data int
		ask  bool
		next int
		end  error
	}{
		{0, 100, 0, false, 60, nil},
		{60, 100, 0, true, 120, nil},
		{61, 100, 0, false, 120, nil},
		{120, 100, 0, true, 180, nil},
		{130, 101, 130, false, 190, nil}, // a byte is a sign of life
		{190, 101, 130, true, 250, nil},
		{250, 101, 130, true, 310, nil},
		{310, 101, 130, true, 370, nil},
		{369, 101, 130, false, 370, nil},
		{370, 101, 130, false, 370, errSSHDead},
		{3730, 102, 130, false, 3730, errSSHIdle},
	} {
		ask, next, end := w.look(c, after(step.now), step.in, after(step.data))
		if ask != step.ask || end != step.end || end == nil && !next.Equal(after(step.next)) {
			t.Errorf("step %d: %v, %v, %v", i, ask, next.Sub(at), end)
		}
	}
	link := sshWatch{started: at} // QUIC and hold decide there
	if ask, next, end := link.look(c, after(9999), 0, at); ask || !next.IsZero() || end != nil {
		t.Errorf("a link: %v, %v, %v", ask, next, end)
	}
	c.sessionTimeout = time.Hour
	if _, _, end := link.look(c, after(3600), 0, after(3600)); end != errSSHTime {
		t.Errorf("a link's session: %v", end)
	}
}

// Three host keys: shown, told of and proved to OpenSSH, which writes them down.
func TestSSHPortHostKeys(t *testing.T) {
	dir := t.TempDir()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	files := portKeys(t, dir, sshdKey(t), rsaKey, ecKey)
	p := startPort(t, func(c *serverConfig) { c.hostKeys = files })
	keys, err := loadHostKeys(files)
	if err != nil || len(keys) != 3 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for _, k := range keys {
		known := p.write("known_hosts", append([]byte("h "), ssh.MarshalAuthorizedKey(k.PublicKey())...))
		cmd := p.ssh("-o", "UpdateHostKeys=yes", "h", "echo in")
		p.want(cmd, "in\n", 0)
		b, _ := os.ReadFile(known)
		for _, o := range keys {
			if !strings.Contains(string(b), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(o.PublicKey())))) {
				t.Errorf("by %s OpenSSH does not learn %s: %s", k.PublicKey().Type(), o.PublicKey().Type(), b)
			}
		}
	}
	if _, ok := proveHostKeys(keys[:1], hostKeyList(keys), nil, ""); ok {
		t.Error("proof of a key that is not ours")
	}
	if _, ok := proveHostKeys(keys[:1], append(hostKeyList(keys[:1]), hostKeyList(keys[:1])...), nil, ""); ok {
		t.Error("more signatures than there are keys")
	}
}

func portKeys(t *testing.T, dir string, keys ...any) (files []string) {
	for i, k := range keys {
		block, err := ssh.MarshalPrivateKey(k, "")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, fmt.Sprint("key", i))
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

func TestLoadHostKeys(t *testing.T) {
	dir := t.TempDir()
	files := portKeys(t, dir, sshdKey(t), sshdKey(t))
	block, _ := ssh.MarshalPrivateKeyWithPassphrase(sshdKey(t), "", []byte("x"))
	locked := filepath.Join(dir, "locked")
	os.WriteFile(locked, pem.EncodeToMemory(block), 0o600)
	open := portKeys(t, t.TempDir(), sshdKey(t))[0]
	os.Chmod(open, 0o640)
	junk := filepath.Join(dir, "junk")
	os.WriteFile(junk, []byte("junk"), 0o600)
	keys, err := loadHostKeys([]string{files[0], files[1], locked, open, junk, dir, dir + "/none"})
	if len(keys) != 1 {
		t.Errorf("%d keys", len(keys))
	}
	for _, why := range []string{"a second key of type ssh-ed25519", "passphrase", "mode 0640", junk, "is no file of at most", "no such file"} {
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q is not in %v", why, err)
		}
	}
}

// A reload moves the port; what is wrong changes nothing, and who is in stays.
func TestSSHPortFollowsSettings(t *testing.T) {
	p := startPort(t, nil)
	in := p.mustLogin("127.0.0.1")
	old := p.addr
	p.set(func(c *serverConfig) { c.port = portFree(t) })
	sshdUntil(t, "the old port's end", func() bool {
		nc, err := net.Dial("tcp", old)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	p.mustLogin("127.0.0.1")
	if ok, _, err := in.SendRequest("x", true, nil); ok || err != nil {
		t.Errorf("who is in: %v", err)
	}
	at := p.addr
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p.set(func(c *serverConfig) { c.port = taken.Addr().(*net.TCPAddr).Port })
	sshdUntil(t, "the failure", func() bool { return strings.Contains(p.logged(), "address already in use") })
	p.set(func(c *serverConfig) { c.hostKeys = []string{"/nowhere"} })
	sshdUntil(t, "the failure", func() bool { return strings.Contains(p.logged(), "host key /nowhere") })
	p.addr = at
	p.mustLogin("127.0.0.1")
	p.set(func(c *serverConfig) { c.port = 0 })
	sshdUntil(t, "no port", func() bool {
		nc, err := net.Dial("tcp", at)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
}

// A machine of no account serves its port alone, and its verbs; without a port
// it says what there is to do.
func TestDeviceWithoutAccount(t *testing.T) {
	dir, log := t.TempDir(), &testLog{}
	run := func(ctx context.Context, c *serverConfig) error {
		return runDevice(ctx, deviceConfig{dir: dir, drain: time.Second, settings: settingsOf(c), logf: log.logf})
	}
	if err := run(t.Context(), defaultServerConfig()); err == nil || !strings.Contains(hintOf(err), "server.port") {
		t.Errorf("%v, hint %q", err, hintOf(err))
	}
	c := defaultServerConfig()
	c.bindAddress, c.port = netip.MustParseAddr("127.0.0.1"), portFree(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, c) }()
	ask := func(r lendRequest) (lendAnswer, error) { return askSessions(t.Context(), dir, r) }
	sshdUntil(t, "the verbs' socket", func() bool {
		_, err := ask(lendRequest{Op: "bans"})
		return err == nil
	})
	nc, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(c.port))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	first := make([]byte, 8)
	if io.ReadFull(nc, first); string(first) != "SSH-2.0-" {
		t.Errorf("it says %q", first)
	}
	if a, err := ask(lendRequest{Op: "sessions"}); err != nil || len(a.Sessions) != 1 || a.Sessions[0].Authenticated {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := ask(lendRequest{Op: "ban", Address: "127.0.0.1"}); err != nil || a.Count != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := ask(lendRequest{Op: "bans"}); err != nil || len(a.Bans) != 1 || a.Bans[0].Address != "127.0.0.1" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := ask(lendRequest{Op: "status"}); err == nil {
		t.Error("the status of no account")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
