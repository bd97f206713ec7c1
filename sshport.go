package main

// This file is the TCP port of the SSH server, for clients that know nothing of
// links: its listener, which follows the settings, and its host keys.

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"
)

// An sshPort listens where the settings say.
type sshPort struct {
	srv      *sshServer
	identity ssh.Signer // the host key where none is set
	config   func() *serverConfig
	logf     func(level int, format string, args ...any)

	serving sync.WaitGroup

	// Of the loop that runs the port; accept gets copies.
	addr string // "" where there is no port
	ln   net.Listener
	keys *hostKeySet
}

// A hostKeySet is the host keys for new connections.
type hostKeySet struct {
	mu   sync.Mutex
	keys []ssh.Signer // guarded by mu
}

func (s *hostKeySet) set(keys []ssh.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = keys
}

func (s *hostKeySet) get() []ssh.Signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys
}

// listen opens the port that is set, if any.
func (p *sshPort) listen() error {
	p.keys = new(hostKeySet)
	return p.follow()
}

// follow does what the settings now say. After an error all is as it was, or
// where even the old port cannot be had any more, there is none.
func (p *sshPort) follow() (err error) {
	c := p.config()
	addr := ""
	if c.port != 0 {
		addr = net.JoinHostPort(c.bindAddress.String(), strconv.Itoa(c.port))
		keys, err := loadHostKeys(c.hostKeys)
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			keys = []ssh.Signer{p.identity}
		}
		old := p.keys.get()
		p.keys.set(keys)
		defer func() {
			if err != nil {
				p.keys.set(old)
			}
		}()
	}
	if addr == p.addr {
		return nil
	}
	ln, err := p.open(addr)
	if err != nil && p.ln != nil { // perhaps the old one is in the way
		p.ln.Close()
		if ln, err = p.open(addr); err != nil {
			old, oldErr := p.open(p.addr)
			if p.ln = old; oldErr != nil {
				p.addr = ""
			}
			return errors.Join(err, oldErr)
		}
	}
	if err != nil {
		return err
	}
	if p.ln != nil {
		p.ln.Close()
	}
	p.ln, p.addr = ln, addr
	if ln == nil {
		p.logf(0, "ssh: no tcp port any more")
	}
	return nil
}

// open listens on addr, "" for nowhere, and lets who comes there in.
func (p *sshPort) open(addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", addr) // with TCP keepalives every 15 s, as Go has it
	if err != nil {
		return nil, withHint(fmt.Errorf("ssh port: %w", err), "server.port and server.bind_address say where it listens; ports below 1024 are root's")
	}
	p.logf(0, "ssh on tcp %s", ln.Addr())
	p.serving.Go(func() { p.accept(ln) })
	return ln, nil
}

// run follows the settings whenever reload says so, until ctx ends; then it
// listens no more and waits until the server has ended its connections.
func (p *sshPort) run(ctx context.Context, reload <-chan struct{}) {
	for {
		select {
		case <-reload:
			if err := p.follow(); err != nil {
				p.logf(0, "%v", err)
			}
			p.srv.reloaded()
			continue
		case <-ctx.Done():
		}
		break
	}
	p.close()
}

func (p *sshPort) close() {
	if p.ln != nil {
		p.ln.Close()
	}
	p.serving.Wait()
}

// accept ends with the listener. When there is no descriptor left, which no
// number of tries mends, it waits a little.
func (p *sshPort) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.logf(1, "ssh port: %v", err)
			pause(context.Background(), acceptPause)
		default:
			p.serving.Go(func() { p.srv.servePort(context.Background(), nc, p.keys.get()) })
		}
	}
}

// loadHostKeys reads host keys, at most one of a type, and says all that is
// wrong with them.
func loadHostKeys(files []string) (keys []ssh.Signer, err error) {
	for _, f := range files {
		k, keyErr := loadHostKey(f)
		if keyErr == nil && slices.ContainsFunc(keys, func(o ssh.Signer) bool { return o.PublicKey().Type() == k.PublicKey().Type() }) {
			keyErr = fmt.Errorf("a second key of type %s", k.PublicKey().Type())
		}
		if keyErr != nil {
			err = errors.Join(err, fmt.Errorf("host key %s: %w", f, keyErr))
			continue
		}
		keys = append(keys, k)
	}
	return keys, err
}

// maxHostKeyFile is more than the file of an RSA key of 16384 bits, in bytes.
const maxHostKeyFile = 64 << 10

func loadHostKey(file string) (ssh.Signer, error) {
	b, st, err := readSmall(file, maxHostKeyFile)
	switch {
	case err != nil:
		return nil, err
	case runtime.GOOS != "windows" && st.Mode().Perm()&0o077 != 0:
		return nil, withHint(fmt.Errorf("mode %04o lets others read it", st.Mode().Perm()), "chmod 600 %s", file)
	}
	k, err := ssh.ParsePrivateKey(b)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, errors.New("it has a passphrase, and nobody is there to type it")
	}
	if err != nil {
		return nil, err
	}
	switch k.PublicKey().Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return k, nil
	case ssh.KeyAlgoRSA: // without SHA-1
		return ssh.NewSignerWithAlgorithms(k.(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
	}
	return nil, fmt.Errorf("a key of type %s, not ed25519, ecdsa or rsa", k.PublicKey().Type())
}

// hostKeysProof is what every signature of a proof begins with, and the name of
// the request for it: PROTOCOL of OpenSSH, section 2.5.
const hostKeysProof = "hostkeys-prove-00@openssh.com"

// hostKeyList is the payload that tells a client of all host keys, so that it
// knows them when one is replaced.
func hostKeyList(keys []ssh.Signer) (b []byte) {
	for _, k := range keys {
		b = append(b, ssh.Marshal(struct{ Key []byte }{k.PublicKey().Marshal()})...)
	}
	return b
}

// proveHostKeys signs for the keys that a client has asked about. algo is the
// one of the key exchange: a client takes no other of an RSA key.
func proveHostKeys(keys []ssh.Signer, asked, session []byte, algo string) (proof []byte, ok bool) {
	for n := 0; len(asked) > 0; n++ {
		var m struct {
			Key  []byte
			Rest []byte `ssh:"rest"`
		}
		if n == len(keys) || ssh.Unmarshal(asked, &m) != nil {
			return nil, false
		}
		i := slices.IndexFunc(keys, func(k ssh.Signer) bool { return bytes.Equal(k.PublicKey().Marshal(), m.Key) })
		if i < 0 {
			return nil, false
		}
		sig, err := signHostKey(keys[i], ssh.Marshal(struct {
			What         string
			Session, Key []byte
		}{hostKeysProof, session, m.Key}), algo)
		if err != nil {
			return nil, false
		}
		proof = append(proof, ssh.Marshal(struct{ Sig []byte }{ssh.Marshal(sig)})...)
		asked = m.Rest
	}
	return proof, len(proof) > 0
}

func signHostKey(k ssh.Signer, data []byte, algo string) (*ssh.Signature, error) {
	multi, ok := k.(ssh.MultiAlgorithmSigner)
	if !ok {
		return k.Sign(rand.Reader, data)
	}
	if !slices.Contains(multi.Algorithms(), algo) {
		algo = multi.Algorithms()[0]
	}
	return multi.SignWithAlgorithm(rand.Reader, data, algo)
}
