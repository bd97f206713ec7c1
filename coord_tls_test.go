package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// tlsTestPair writes a new certificate of name and its key, changed at a time.
func tlsTestPair(t *testing.T, dir, name string, at time.Time) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(at.UnixNano()), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	tlsTestWrite(t, filepath.Join(dir, "cert"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), at)
	tlsTestWrite(t, filepath.Join(dir, "key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), at)
	cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

func tlsTestWrite(t *testing.T, file string, b []byte, at time.Time) {
	t.Helper()
	err := os.WriteFile(file, b, 0o600)
	if err = errors.Join(err, os.Chtimes(file, at, at)); err != nil {
		t.Fatal(err)
	}
}

// A tlsTestLog keeps lines.
type tlsTestLog struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (l *tlsTestLog) logf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *tlsTestLog) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// serveTLSTest serves the page on ln, and returns what ends it, and waits.
func serveTLSTest(t *testing.T, ln net.Listener, more ...func(context.Context) error) (stop func()) {
	t.Helper()
	why := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- runAll(ctx, append(more, func(ctx context.Context) error {
			return serveCoordHTTP(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "page\n") }), nil)
		}))
	}()
	return func() {
		t.Helper()
		cancel(why)
		if err := <-ended; err != why {
			t.Errorf("ended with %v", err)
		}
	}
}

// tlsTestGet asks for /healthz as name, from an address of this machine, and
// returns the server's certificate.
func tlsTestGet(addr, name string, roots *x509.CertPool, from string) (*x509.Certificate, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
	tr := &http.Transport{DialContext: d.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name}, DisableKeepAlives: true}
	res, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get("https://" + addr + "/healthz")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || string(b) != "ok\n" || res.ProtoMajor != 1 || res.TLS.Version < tls.VersionTLS12 {
		return nil, fmt.Errorf("%s %q, %v", res.Proto, b, err)
	}
	return res.TLS.PeerCertificates[0], nil
}

func TestTLSFilesAreReadAgain(t *testing.T) {
	dir, log := t.TempDir(), &tlsTestLog{}
	now := coordTestNow
	roots := tlsTestPair(t, dir, "a.example", now)
	c, err := openCertFiles(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), func() time.Time { return now }, log.logf)
	if err != nil {
		t.Fatal(err)
	}
	serves := func(name string, roots *x509.CertPool) {
		t.Helper()
		pair, err := c.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%v; log: %s", err, log.said())
		}
	}
	serves("a.example", roots)
	second := tlsTestPair(t, dir, "b.example", now.Add(time.Minute))
	now = now.Add(certCheck - 1)
	serves("a.example", roots)
	now = now.Add(1)
	serves("b.example", second)
	if said := log.said(); said != "" {
		t.Errorf("it says %s", said)
	}

	// A certificate whose key is not there yet, rubbish, no file: the old one
	// goes on, and each is said once.
	other := t.TempDir()
	third := tlsTestPair(t, other, "c.example", now)
	cert, err := os.ReadFile(filepath.Join(other, "cert"))
	if err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(){
		func() { tlsTestWrite(t, filepath.Join(dir, "cert"), cert, now) },
		func() { tlsTestWrite(t, filepath.Join(dir, "cert"), []byte("rubbish"), now) },
		func() { os.Remove(filepath.Join(dir, "key")) },
	} {
		change()
		for range 3 {
			now = now.Add(certCheck)
			serves("b.example", second)
		}
		if n := strings.Count(log.said(), "goes on"); n != i+1 {
			t.Errorf("after %d changes it says %s", i+1, log.said())
		}
	}
	for _, name := range []string{"cert", "key"} {
		b, err := os.ReadFile(filepath.Join(other, name))
		if err != nil {
			t.Fatal(err)
		}
		tlsTestWrite(t, filepath.Join(dir, name), b, now)
	}
	now = now.Add(certCheck)
	serves("c.example", third)
}

func TestTLSFilesMustBeGoodAtStart(t *testing.T) {
	cfg := coordConfig{dir: t.TempDir(), udp: "127.0.0.1:0", signup: signupClaim, page: pageConfig{http: "127.0.0.1:0", tls: webTLS{cert: "/nowhere/cert", key: "/nowhere/key"}}}
	err := runCoordinator(t.Context(), cfg, io.Discard, t.Logf)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/cert") || hintOf(err) == "" {
		t.Errorf("%v, hint %q", err, hintOf(err))
	}
}

func TestTLSServesHTTP1(t *testing.T) {
	dir := t.TempDir()
	roots := tlsTestPair(t, dir, "a.example", time.Now())
	ln, keep, err := listenWeb("127.0.0.1:0", webTLS{cert: filepath.Join(dir, "cert"), key: filepath.Join(dir, "key")}, dir, t.Logf)
	if err != nil || keep != nil {
		t.Fatal(err)
	}
	defer serveTLSTest(t, ln)()
	if _, err := tlsTestGet(ln.Addr().String(), "a.example", roots, "127.0.0.1"); err != nil {
		t.Error(err)
	}
	for name, conf := range map[string]*tls.Config{
		"TLS 1.1": {MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
		"no HTTP": {NextProtos: []string{"acme-tls/1"}},
	} {
		conf.InsecureSkipVerify = true
		if c, err := tls.Dial("tcp", ln.Addr().String(), conf); err == nil {
			c.Close()
			t.Errorf("%s is taken", name)
		}
	}
	if res, err := http.Get("http://" + ln.Addr().String() + "/healthz"); err == nil {
		res.Body.Close()
		t.Errorf("plain HTTP is answered: %s", res.Status)
	}
}

func TestWebTLSFlags(t *testing.T) {
	for _, tt := range []struct{ args, addr, err, hint string }{
		{"", "", "", ""},
		{"-http 127.0.0.1:80", "127.0.0.1:80", "", ""},
		{"-http 127.9.9.9:80", "127.9.9.9:80", "", ""},
		{"-http [::1]:80", "[::1]:80", "", ""},
		{"-http LocalHost:80", "LocalHost:80", "", ""},
		{"-http :80", "", "plain HTTP is for loopback", "give -tls-cert F -tls-key F, or -acme DOMAIN, or -http-insecure if"},
		{"-http 192.0.2.1:80", "", "plain HTTP is for loopback", "-acme DOMAIN"},
		{"-http localhost.example:80", "", "plain HTTP is for loopback", "-acme DOMAIN"},
		{"-http :80 -http-insecure", ":80", "", ""},
		{"-http :443 -tls-cert c -tls-key k", ":443", "", ""},
		{"-tls-cert c -tls-key k", "", "there is none", "add -http"},
		{"-http-insecure", "", "there is none", "add -http"},
		{"-http :443 -tls-cert c", "", "go together", ""},
		{"-http :443 -tls-key k", "", "go together", ""},
		{"-http :443 -tls-cert c -tls-key k -acme a.example", "", "give one of them", ""},
		{"-http :443 -tls-cert c -tls-key k -http-insecure", "", "without TLS", ""},
		{"-acme a.example -http-insecure", "", "without TLS", ""},
		{"-acme a.example", ":443", "", ""},
		{"-acme a.example -http 127.0.0.1:8443 -acme-directory https://ca/x", "127.0.0.1:8443", "", ""},
		{"-acme-directory https://ca/x", "", "is for -acme", ""},
		{"-acme a.example -acme-directory http://ca/x", "", "https://HOST", ""},
		{"-acme a.example -acme-directory https:///x", "", "https://HOST", ""},
		{"-acme a", "", "no domain", ""},
		{"-acme *.a.example", "", "no domain", ""},
		{"-acme 192.0.2.1", "", "no domain", ""},
		{"-acme a.example.", "", "no domain", ""},
		{"-acme bücher.example", "", "xn--", ""},
		{"-acme -a.example", "", "no domain", ""},
	} {
		r, err := parseRoles(append([]string{"-coordinator"}, strings.Fields(tt.args)...))
		if tt.err == "" {
			if err != nil || r.page.http != tt.addr {
				t.Errorf("%s: %v, %v", tt.args, r, err)
			}
			continue
		}
		if exitStatus(err) != 2 || !strings.Contains(err.Error(), tt.err) || !strings.Contains(hintOf(err), tt.hint) {
			t.Errorf("%s: status %d, %v, hint %q", tt.args, exitStatus(err), err, hintOf(err))
		}
	}
	r, err := parseRoles([]string{"-coordinator", "-acme", "A.Example"})
	if err != nil || r.page.tls.domain != "a.example" {
		t.Errorf("%v, %v", r.page.tls, err)
	}
	if _, err := parseRoles([]string{"-device", "-acme", "a.example"}); exitStatus(err) != 2 {
		t.Errorf("a device has a page: %v", err)
	}
}

// What is taken for a domain is the host of a URL, and a name in certificates.
func FuzzIsDomain(f *testing.F) {
	for _, s := range []string{"a.example", "A.B", "xn--a.b", "1.2", "a..b", "a.b-", strings.Repeat("a.", 127) + "b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !isDomain(s) {
			return
		}
		u, err := url.Parse("https://" + s)
		if err != nil || u.Host != s || !isDomain(strings.ToLower(s)) || !strings.EqualFold(s, u.Hostname()) {
			t.Errorf("%q: %v, %v", s, u, err)
		}
		if err := (&x509.Certificate{DNSNames: []string{s}}).VerifyHostname(s); err != nil {
			t.Error(err)
		}
	})
}

// Close ends a handshake under way, and one that nobody takes, and waits.
func TestWebCloseWaits(t *testing.T) {
	for name, conf := range map[string]*tls.Config{"in a handshake": webTLSConfig(nil), "not taken": nil} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		web := newWebListener(ln, conf, t.Logf)
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		waitUntil(t, func() bool {
			web.mu.Lock()
			defer web.mu.Unlock()
			return web.conns == 1
		})
		if err := web.Close(); err != nil || web.conns != 0 {
			t.Errorf("%s: %v, %d connections are left", name, err, web.conns)
		}
		if _, err := web.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An errListener has no descriptors left, and then one.
type errListener struct {
	net.Listener
	failed bool
}

func (l *errListener) Accept() (net.Conn, error) {
	if !l.failed {
		l.failed = true
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestWebGoesOnAfterAcceptErrors(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &tlsTestLog{}
	defer serveTLSTest(t, newWebListener(&errListener{Listener: ln}, nil, log.logf))()
	res, err := http.Get("http://" + ln.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || log.said() != "http: too many open files" {
		t.Errorf("%s; log: %s", res.Status, log.said())
	}
}
