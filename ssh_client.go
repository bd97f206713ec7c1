package main

// This file opens an SSH connection to a device: on a byte stream that an
// opener gives, to the host key that the verified log names, authenticated by
// this machine's identity. What was typed decides whom a verb means: the device
// and the login on it.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// A target is a device and the login asked for; "" leaves the login to the
// rule.
type target struct{ device, login string }

// parseTarget reads [user@]DEVICE. The login of -l goes before user@, as with
// ssh.
func parseTarget(operand, login string) (target, error) {
	t := target{device: operand, login: login}
	if at := strings.LastIndexByte(operand, '@'); at >= 0 {
		t.device = operand[at+1:]
		if at == 0 {
			return target{}, usageError("%q has no user before the @", operand)
		}
		if login == "" {
			t.login = operand[:at]
		}
	}
	if t.device == "" {
		return target{}, usageError("%q names no device", operand)
	}
	return t, nil
}

// chooseLogin is the login on a device that lists users: the one asked for;
// else the local user's name if it is listed; else the only one listed.
func chooseLogin(asked, local, device string, users []string) (string, error) {
	switch {
	case asked != "":
		return asked, nil
	case local != "" && loginListed(local, users):
		return local, nil
	case len(users) == 1 && users[0] != "*":
		return users[0], nil
	case len(users) == 0:
		return "", usageError("%s lists no login: name one with -l", device)
	case slices.Contains(users, "*"):
		return "", usageError("%s lets in any login: name one with -l", device)
	}
	return "", usageError("%s has several logins, name one with -l: %s", device, strings.Join(users, ", "))
}

// loginListed reports whether users, where "*" is any, has login.
func loginListed(login string, users []string) bool {
	return slices.Contains(users, login) || slices.Contains(users, "*")
}

// localLogin is the name of the user that runs this process, "" when it has
// none. Windows puts the domain before a backslash.
func localLogin() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username[strings.LastIndexByte(u.Username, '\\')+1:]
}

// commandLine is the line that the remote shell reads: one word is a line of
// shell already, several arrive there as exactly these arguments.
func commandLine(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = shellQuote(w)
	}
	return strings.Join(quoted, " ")
}

// shellQuote makes one word of the POSIX shell of s, which holds no NUL. It
// always quotes: the shell has reserved words and aliases that a command by
// that name must not become.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// linkFailure gives err the status that ssh has for all that is not the remote
// command's, unless it has one.
func linkFailure(err error) error {
	if e := (*exitError)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	return &exitError{255, err}
}

// An sshOpener gives a byte stream to the SSH server of a device, which is
// called by name, name.sessio or id. Errors say why without naming the device.
type sshOpener interface {
	openSSH(ctx context.Context, device string) (*sshPipe, error)
}

// An sshPipe is that stream, and what the verified log says of its far end.
type sshPipe struct {
	net.Conn                 // has CloseWrite where one direction can end alone
	hostKey  ssh.PublicKey   // what the device must show
	userKey  ssh.Signer      // what this machine proves itself by
	users    []string        // logins that the log lists; "*" is any
	name     string          // the device's name in the log
	lost     <-chan struct{} // closed when the link died; may be nil
	reason   func() error    // why it died; may be nil
}

// lossReason is why the link died, never nil.
func (p *sshPipe) lossReason() error {
	if p.reason != nil {
		if err := p.reason(); err != nil {
			return err
		}
	}
	return errors.New("the link is gone")
}

// A stdio is the three files that a verb talks through.
type stdio struct{ in, out, err *os.File }

// An sshClient is an authenticated connection.
type sshClient struct {
	ssh.Conn
	device string // as the log names it, else as it was called
	banner string // what it showed before the login, printable lines
	pipe   *sshPipe
	wire   *watchedConn
	loops  sync.WaitGroup
	take   atomic.Pointer[func(ssh.NewChannel)] // what the device opens; nil refuses it
}

// maxHandshake bounds key exchange and authentication, six round trips. A link
// may lose its path and find another meanwhile.
const maxHandshake = 60 * time.Second

// dialSSH connects to device as login; "" leaves the choice to the rule of
// chooseLogin. The caller closes the client.
func dialSSH(ctx context.Context, op sshOpener, device, login string) (*sshClient, error) {
	pipe, err := op.openSSH(ctx, device)
	if err != nil {
		return nil, dialError(ctx, device, err)
	}
	c := &sshClient{device: device, pipe: pipe, wire: newWatchedConn(pipe.Conn)}
	if pipe.name != "" {
		c.device = pipe.name
	}
	login, err = chooseLogin(login, localLogin(), c.device, pipe.users)
	if err != nil {
		c.wire.Close()
		return nil, err
	}
	if err := c.handshake(ctx, login); err != nil {
		return nil, dialError(ctx, c.device, err)
	}
	return c, nil
}

// dialError names the device, unless ctx ended: then that is the reason.
func dialError(ctx context.Context, device string, err error) error {
	if ctx.Err() != nil {
		return endedBy(ctx)
	}
	return fmt.Errorf("connecting to %s: %w", device, err)
}

func (c *sshClient) handshake(ctx context.Context, login string) error {
	limit, stop := context.WithTimeoutCause(ctx, maxHandshake,
		fmt.Errorf("no SSH answer within %v", maxHandshake))
	defer stop()
	unhook := context.AfterFunc(limit, func() { c.wire.end(context.Cause(limit)) })
	c.loops.Go(c.watchLink)

	conf, trace := c.config(login)
	conn, channels, requests, err := ssh.NewClientConn(c.wire, c.device, conf)
	unhook()
	if err != nil {
		c.wire.Close()
		c.loops.Wait()
		return c.handshakeError(login, trace, err)
	}
	c.Conn = conn
	for line := range strings.Lines(trace.shown) {
		c.banner += printable(strings.TrimRight(line, "\r\n")) + "\n"
	}
	c.loops.Go(func() { ssh.DiscardRequests(requests) })
	c.loops.Go(func() {
		for ch := range channels {
			if take := c.take.Load(); take != nil {
				(*take)(ch)
			} else {
				ch.Reject(ssh.Prohibited, "not asked for")
			}
		}
	})
	return nil
}

// watchLink closes the stream when the link under it has died.
func (c *sshClient) watchLink() {
	defer processors.busy()()
	select {
	case <-c.pipe.lost:
		c.wire.end(c.pipe.lossReason())
	case <-c.wire.dead:
	}
}

// A loginTrace is what a handshake has shown of why it fails: the library's
// own error tells people little.
type loginTrace struct {
	pinned bool   // the host key was the right one
	keyErr error  // it was another
	banner string // what the device said last
	shown  string // what else it said
}

// config is for one connection.
func (c *sshClient) config(login string) (*ssh.ClientConfig, *loginTrace) {
	trace := new(loginTrace)
	conf := &ssh.ClientConfig{
		User:              login,
		ClientVersion:     "SSH-2.0-Sessio",
		HostKeyAlgorithms: hostKeyAlgorithms(c.pipe.hostKey),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if bytes.Equal(key.Marshal(), c.pipe.hostKey.Marshal()) {
				trace.pinned = true
				return nil
			}
			trace.keyErr = coded("host-key", "it shows the host key %s, the log names %s",
				ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(c.pipe.hostKey))
			return trace.keyErr
		},
		BannerCallback: func(text string) error {
			if trace.banner = text; reasonInBanner(text) == nil && len(trace.shown) < maxBanner {
				trace.shown += text
			}
			return nil
		},
	}
	conf.Config = sshAlgorithms()
	conf.Ciphers = clientCiphers(hasAESInstructions())
	// The library tries "none" first, which a server accepts for the key that
	// the link has proved. The signature is for every other case.
	if c.pipe.userKey != nil {
		conf.Auth = []ssh.AuthMethod{ssh.PublicKeys(c.pipe.userKey)}
	}
	return conf, trace
}

// handshakeError tells whose fault it was: the host key's, the link's, or the
// login's.
func (c *sshClient) handshakeError(login string, trace *loginTrace, err error) error {
	loss := c.wire.loss()
	if trace.keyErr != nil {
		return withHint(trace.keyErr, "another machine may stand in its place")
	}
	reason := reasonInBanner(trace.banner)
	if loss != net.ErrClosed && reason == nil { // else the library closed it, for its own reason
		return loss
	}
	if !trace.pinned {
		return err
	}
	if reason == nil && !loginListed(login, c.pipe.users) {
		reason = coded("user", "it does not let %q in", login)
	}
	if codeOf(reason) == "user" && !loginListed("*", c.pipe.users) {
		return withHint(reason, "the logins of %s are: %s", c.device, strings.Join(c.pipe.users, ", "))
	}
	if reason != nil {
		return reason
	}
	return withHint(coded("denied", "it refused login %q", login), "what %s logs says why", c.device)
}

// reasonInBanner reads the line by which a device says why it refused the key
// that the link has proved: "sessio: TEXT (CODE)". It returns nil for others.
func reasonInBanner(banner string) error {
	text, ok := strings.CutPrefix(strings.TrimSpace(banner), "sessio: ")
	if !ok || len(text) > maxBannerReason {
		return nil
	}
	if open := strings.LastIndex(text, " ("); open > 0 && strings.HasSuffix(text, ")") {
		code := text[open+2 : len(text)-1]
		if code != "" && strings.Trim(code, "abcdefghijklmnopqrstuvwxyz-") == "" {
			return coded(code, "%s", text[:open])
		}
	}
	return coded("denied", "%s", text)
}

// maxBanner is how much of banners is kept before one that is cut no more, in
// bytes: a packet holds 256 KiB.
const maxBanner = 64 << 10

// maxBannerReason is the longest reason shown, in bytes: a few lines.
const maxBannerReason = 500

// hostKeyAlgorithms puts the expected key's first; the others are there so
// that a wrong key is seen and named as such.
func hostKeyAlgorithms(want ssh.PublicKey) []string {
	list := []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	for i, algo := range list {
		if algo == want.Type() {
			list[0], list[i] = list[i], list[0]
		}
	}
	return list
}

// clientCiphers is in order of speed. The link has encrypted already, so the
// cheapest is best. A server leaves out what is dear for its own CPU.
func clientCiphers(aes bool) []string {
	gcm := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	if aes {
		return append(gcm, ssh.CipherChaCha20Poly1305, ssh.CipherAES128CTR)
	}
	return append([]string{ssh.CipherChaCha20Poly1305}, append(gcm, ssh.CipherAES128CTR)...)
}

// close ends the connection and returns when nothing of it runs any more.
func (c *sshClient) close() {
	c.wire.Close()
	c.Wait()
	c.loops.Wait()
}

// lost returns nil while the connection lives, else an error that names the
// device and the reason.
func (c *sshClient) lost() error {
	switch err := c.wire.loss(); err {
	case nil:
		return nil
	case net.ErrClosed: // the library closed it: a disconnect message, or nonsense
		return fmt.Errorf("%s ended the connection: %w", c.device, c.Wait())
	default:
		if err == io.EOF {
			err = errors.New("the other end closed it")
		}
		return withHint(fmt.Errorf("the link to %s was lost: %w", c.device, err),
			"sessio ping %s shows whether it can be reached", c.device)
	}
}

// A watchedConn keeps the first error of its stream. It knows of it before the
// SSH library has made an end of file of it on every channel, so that the
// reader of a channel can tell a lost link from an end. The stream is closed
// once, whoever asks for it.
type watchedConn struct {
	net.Conn
	dead  chan struct{} // closed when err is set
	close sync.Once

	mu  sync.Mutex
	err error // guarded by mu; net.ErrClosed when this end closed it first
}

func newWatchedConn(conn net.Conn) *watchedConn {
	return &watchedConn{Conn: conn, dead: make(chan struct{})}
}

func (w *watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.fail(err)
	}
	return n, err
}

func (w *watchedConn) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if err != nil {
		w.fail(err)
	}
	return n, err
}

func (w *watchedConn) Close() error { return w.end(net.ErrClosed) }

// end closes the stream for reason, which counts unless it had failed before.
// A Write that waits for a path must not outlast it: Close alone would let it
// finish on a QUIC stream.
func (w *watchedConn) end(reason error) (err error) {
	w.fail(reason)
	w.close.Do(func() {
		w.Conn.SetWriteDeadline(time.Unix(1, 0)) // long past
		err = w.Conn.Close()
	})
	return err
}

func (w *watchedConn) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		close(w.dead)
	}
}

func (w *watchedConn) loss() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
