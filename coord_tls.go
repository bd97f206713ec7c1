//go:build !router

package main

// This file is the TCP port of the coordinator's page: what the flags may say of
// it, TLS, and how many connections it takes.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
)

// A webTLS is what the flags say of who may read along.
type webTLS struct {
	cert, key string // files of a certificate; "" = none
	domain    string // to order a certificate of; "" = none
	directory string // of the CA; "" = Let's Encrypt
	insecure  bool   // plain HTTP on any address
}

// check judges the flags, and returns the address of the port: that of -http,
// or where browsers and CAs ask for a domain.
func (w *webTLS) check(addr string) (string, error) {
	withTLS := w.cert != "" || w.domain != ""
	if addr == "" && w.domain != "" {
		addr = ":443"
	}
	u, err := url.Parse(w.directory)
	switch {
	case (w.cert == "") != (w.key == ""):
		return "", usageError("-tls-cert and -tls-key go together")
	case w.cert != "" && w.domain != "":
		return "", usageError("-acme orders a certificate, -tls-cert brings one: give one of them")
	case w.directory != "" && w.domain == "":
		return "", usageError("-acme-directory is for -acme")
	case w.directory != "" && (err != nil || u.Scheme != "https" || u.Host == ""):
		return "", usageError("-acme-directory %q is not of the form https://HOST/…", w.directory)
	case w.domain != "" && !isDomain(w.domain):
		return "", usageError("-acme %q is no domain: a public name such as coord.example.com, in the form with xn-- if it is not ASCII", w.domain)
	case addr == "" && (withTLS || w.insecure):
		return "", withHint(usageError("-tls-cert and -http-insecure are for the page, and there is none"), "add -http ADDR, such as -http :443")
	case w.insecure && withTLS:
		return "", usageError("-http-insecure is for a page without TLS")
	case addr != "" && !withTLS && !w.insecure && !isLoopback(addr):
		return "", withHint(usageError("-http %s: plain HTTP is for loopback addresses", addr),
			"give -tls-cert F -tls-key F, or -acme DOMAIN, or -http-insecure if others reach it only by way of a proxy that does TLS")
	}
	w.domain = strings.ToLower(w.domain)
	return addr, nil
}

// isDomain reports whether a CA may know s: a host name of two labels or more
// (RFC 1123, section 2.1), the last of them no number.
func isDomain(s string) bool {
	labels := strings.Split(strings.ToLower(s), ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return len(s) <= 253 && len(labels) > 1 && strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// isLoopback reports whether only this machine reaches an address to listen at.
func isLoopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

const (
	// maxWebConns bounds the connections of the page, and so their memory: some
	// 30 KB each with TLS, when they wait. maxWebConnsPer bounds those with TLS from one address
	// (IPv6: from one /64); plain ones may all come by one proxy.
	maxWebConns    = 512
	maxWebConnsPer = 64
	// webHandshake is for TLS's handshake, three round trips at most.
	webHandshake = 5 * time.Second
	// webAcceptPause is after an error such as too many open files.
	webAcceptPause = time.Second
)

// A webListener hands on connections that have their handshake behind them, so
// that a stranger who does not finish it is nobody's work. It has goroutines of
// its own until Close.
type webListener struct {
	net.Listener
	tls   *tls.Config // nil: plain
	logf  func(format string, args ...any)
	ready chan net.Conn
	ctx   context.Context // until Close
	end   context.CancelFunc
	loops sync.WaitGroup

	mu    sync.Mutex
	conns int                  // guarded by mu
	from  map[netip.Prefix]int // guarded by mu
}

// listenWeb opens the port, and returns beside it the loop that keeps its
// certificate, if there is one to keep. dir is where that is kept.
func listenWeb(addr string, w webTLS, dir string, logf func(string, ...any)) (net.Listener, func(context.Context) error, error) {
	var conf *tls.Config
	var keep func(context.Context) error
	switch {
	case w.cert != "":
		files, err := openCertFiles(w.cert, w.key, time.Now, logf)
		if err != nil {
			return nil, nil, err
		}
		conf = webTLSConfig(files.certificate)
	case w.domain != "":
		directory := w.directory
		if directory == "" {
			directory = acme.LetsEncryptURL
		}
		certs := openACMECerts(filepath.Join(dir, "acme"), w.domain, directory, time.Now, logf)
		conf, keep = webTLSConfig(certs.certificate, acme.ALPNProto), certs.run
	}
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, fs.ErrPermission) {
		err = withHint(err, "a port below 1024 is for root, or for a service with AmbientCapabilities=CAP_NET_BIND_SERVICE")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("opening HTTP port: %w", err)
	}
	return newWebListener(ln, conf, logf), keep, nil
}

// webTLSConfig speaks HTTP/1.1 and, to a CA that looks, more.
func webTLSConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), more ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate, NextProtos: append([]string{"http/1.1"}, more...)}
}

func newWebListener(ln net.Listener, conf *tls.Config, logf func(string, ...any)) *webListener {
	l := &webListener{Listener: ln, tls: conf, logf: logf, ready: make(chan net.Conn), from: map[netip.Prefix]int{}}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.loops.Go(l.take)
	return l
}

// take takes connections until Close.
func (l *webListener) take() {
	for {
		raw, err := l.Listener.Accept()
		switch {
		case l.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			if err == nil {
				raw.Close()
			}
			return
		case err != nil:
			l.logf("http: %v", err)
			pause(l.ctx, webAcceptPause)
			continue
		}
		if c := l.admit(raw); c != nil {
			l.loops.Go(func() { l.greet(c) })
		} else {
			raw.Close()
		}
	}
}

// admit counts a connection, nil = one too many.
func (l *webListener) admit(c net.Conn) net.Conn {
	var from netip.Prefix
	if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil && l.tls != nil {
		from = hostOf(a.Addr().Unmap().WithZone(""))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns >= maxWebConns || from.IsValid() && l.from[from] >= maxWebConnsPer {
		return nil
	}
	l.conns++
	l.from[from]++
	return &webConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}
}

func (l *webListener) leave(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns--
	if l.from[from]--; l.from[from] == 0 {
		delete(l.from, from)
	}
}

// A webConn is counted until it is closed.
type webConn struct {
	net.Conn
	leave func()
}

func (c *webConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// greet does the handshake and hands the connection on. A CA that looks has seen
// all it wants with the handshake (RFC 8737, section 3).
func (l *webListener) greet(c net.Conn) {
	if l.tls != nil {
		secure := tls.Server(c, l.tls)
		ctx, stop := context.WithTimeout(l.ctx, webHandshake)
		err := secure.HandshakeContext(ctx)
		stop()
		if c = secure; err != nil || secure.ConnectionState().NegotiatedProtocol == acme.ALPNProto {
			c.Close()
			return
		}
	}
	select {
	case l.ready <- c:
	case <-l.ctx.Done():
		c.Close()
	}
}

func (l *webListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends what has not been handed on, and waits for it.
func (l *webListener) Close() error {
	l.end()
	err := l.Listener.Close()
	l.loops.Wait()
	return err
}
