package main

// These tests order certificates from Let's Encrypt's pebble (testdata/pebble).

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/acme"
)

const (
	acmeTestName = "coord.example"
	acmeTestLife = 90 * 24 * time.Hour
	// acmeTestOrder is longer than an order takes, seconds: a page's clock stands
	// still while its certificate is made.
	acmeTestOrder = time.Minute
)

var pebbleFile = sync.OnceValues(func() (string, error) {
	return labBuild("pebble", "go", "build", "-C", "testdata/pebble", "-o")
})

// A pebbleCA is a CA of our own.
type pebbleCA struct {
	t             *testing.T
	in            io.Writer
	out           *bufio.Reader
	directory     string         // its address
	httpsFile     string         // what its HTTPS is checked with
	https, issued *x509.CertPool // that, and what it issues
}

func newPebble(t *testing.T, env ...string) *pebbleCA {
	t.Helper()
	file, err := pebbleFile()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(file, dir, fmt.Sprint(int(acmeTestLife.Seconds())))
	cmd.Env = append([]string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "PEBBLE_WFE_NONCEREJECT=20"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	in, out := startPiped(t, cmd)
	p := &pebbleCA{t: t, in: in, out: bufio.NewReader(out), httpsFile: filepath.Join(dir, "https.pem")}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill() // it may hold a certificate back
		cmd.Wait()
		if t.Failed() {
			t.Logf("pebble: … %s", said.Bytes()[max(0, said.Len()-1500):])
		}
	})
	p.directory = p.line()
	p.https, p.issued = pebblePool(t, p.httpsFile), pebblePool(t, filepath.Join(dir, "root.pem"))
	return p
}

func pebblePool(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(file)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(b) {
		t.Fatalf("%s: %v", file, err)
	}
	return pool
}

func (p *pebbleCA) line() string {
	p.t.Helper()
	s, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("pebble: %v", err)
	}
	return strings.TrimSpace(s)
}

// tell tells it something; the answer has to begin with ok.
func (p *pebbleCA) tell(words ...string) string {
	p.t.Helper()
	fmt.Fprintln(p.in, strings.Join(words, " "))
	said, ok := strings.CutPrefix(p.line(), "ok")
	if !ok {
		p.t.Fatalf("pebble: %v: %s", words, said)
	}
	return strings.TrimSpace(said)
}

// An acmeTestPage is a page whose certificate comes from pebble. Its clock goes
// on only where a test lets it.
type acmeTestPage struct {
	*acmeCerts
	t       *testing.T
	ca      *pebbleCA
	log     tlsTestLog
	addr    string
	stop    func()
	pauses  chan time.Duration // it begins to wait for so long
	proceed chan struct{}      // and has waited

	clock sync.Mutex
	at    time.Time // guarded by clock
}

func newACMETestPage(t *testing.T, ca *pebbleCA, dir string) *acmeTestPage {
	t.Helper()
	p := &acmeTestPage{t: t, ca: ca, at: time.Now(), pauses: make(chan time.Duration), proceed: make(chan struct{})}
	p.acmeCerts = openACMECerts(filepath.Join(dir, "acme"), acmeTestName, ca.directory, p.time, p.log.logf)
	p.client.roots, p.acmeCerts.pause = ca.https, p.pause
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	ca.tell("target", p.addr)
	p.stop = sync.OnceFunc(serveTLSTest(t, newWebListener(ln, webTLSConfig(p.certificate, acme.ALPNProto), p.log.logf), p.run))
	t.Cleanup(p.stop)
	return p
}

func (p *acmeTestPage) time() time.Time {
	p.clock.Lock()
	defer p.clock.Unlock()
	return p.at
}

func (p *acmeTestPage) pause(ctx context.Context, d time.Duration) error {
	select {
	case p.pauses <- d:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-p.proceed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// waits is when it waits, for how long.
func (p *acmeTestPage) waits() time.Duration {
	p.t.Helper()
	select {
	case d := <-p.pauses:
		return d
	case <-time.After(time.Minute):
		p.t.Fatalf("it does not come to rest; log: %s", p.log.said())
		return 0
	}
}

// after lets it go on at a later time.
func (p *acmeTestPage) after(d time.Duration) {
	p.clock.Lock()
	p.at = p.at.Add(d)
	p.clock.Unlock()
	p.proceed <- struct{}{}
}

// renewed lets it go on when its certificate is due, and waits for it to have
// another one: by then the clock is right again, as the new certificate is not
// of the future.
func (p *acmeTestPage) renewed() {
	p.t.Helper()
	p.ca.tell("hold")
	p.after(acmeTestLife*2/3 + acmeTestOrder)
	p.ca.tell("held")
	p.clock.Lock()
	p.at = time.Now()
	p.clock.Unlock()
	p.ca.tell("release")
	if d := p.waits(); d != acmeGlance {
		p.t.Errorf("waits %v; log: %s", d, p.log.said())
	}
}

// failed checks that it has failed and waits for at least so long, by an eighth
// more at most, and that the log says what.
func (p *acmeTestPage) failed(least time.Duration, says string) {
	p.t.Helper()
	if d := p.waits(); d < least || d > least+least/8 || !strings.Contains(p.log.said(), says) {
		p.t.Errorf("waits %v, at least %v; log: %s", d, least, p.log.said())
	}
	if _, err := p.get(); err == nil || !strings.Contains(err.Error(), "tls: ") {
		p.t.Errorf("there is no certificate, and a client sees %v", err)
	}
}

func (p *acmeTestPage) get() (*x509.Certificate, error) {
	return tlsTestGet(p.addr, acmeTestName, p.ca.issued, "127.0.0.1")
}

// serves is the certificate that clients see.
func (p *acmeTestPage) serves() *x509.Certificate {
	p.t.Helper()
	leaf, err := p.get()
	if err != nil {
		p.t.Fatalf("%v; log: %s", err, p.log.said())
	}
	return leaf
}

func TestACMEOrdersServesRenews(t *testing.T) {
	t.Parallel()
	ca, dir := newPebble(t), t.TempDir()
	page := newACMETestPage(t, ca, dir)
	if d := page.waits(); d != acmeGlance {
		t.Fatalf("waits %v; log: %s", d, page.log.said())
	}
	first := page.serves()
	if due := page.due(); due < acmeTestLife*2/3-time.Hour || due > acmeTestLife*2/3+acmeTestOrder {
		t.Errorf("due in %v", due)
	}
	for _, conf := range []*tls.Config{
		{ServerName: "other.example"}, {}, {ServerName: "www." + acmeTestName},
		{ServerName: acmeTestName, NextProtos: []string{acme.ALPNProto}},
	} {
		conf.InsecureSkipVerify = true
		if c, err := tls.Dial("tcp", page.addr, conf); err == nil {
			c.Close()
			t.Errorf("%q %v is answered", conf.ServerName, conf.NextProtos)
		}
	}
	acmeTestFiles(t, filepath.Join(dir, "acme"), 2)

	page.after(acmeTestLife/3 + acmeTestLife/4)
	if page.waits(); ca.tell("orders") != "1" {
		t.Errorf("renewed too early; log: %s", page.log.said())
	}
	page.renewed()
	second := page.serves()
	if second.SerialNumber.Cmp(first.SerialNumber) == 0 || ca.tell("orders") != "2" {
		t.Errorf("not renewed after %s orders; log: %s", ca.tell("orders"), page.log.said())
	}
	page.stop()

	page = newACMETestPage(t, ca, dir)
	page.waits()
	if leaf := page.serves(); leaf.SerialNumber.Cmp(second.SerialNumber) != 0 || ca.tell("orders") != "2" {
		t.Errorf("started again, %s orders; log: %s", ca.tell("orders"), page.log.said())
	}
	page.stop()

	// What is damaged is not served.
	if err := os.Truncate(page.file(acmeTestName), 700); err != nil {
		t.Fatal(err)
	}
	page = newACMETestPage(t, ca, dir)
	page.waits()
	if page.serves(); ca.tell("orders") != "3" || !strings.Contains(page.log.said(), "another certificate is ordered") {
		t.Errorf("%s orders; log: %s", ca.tell("orders"), page.log.said())
	}
}

// acmeTestFiles checks that there are so many files in dir, for nobody else.
func acmeTestFiles(t *testing.T, dir string, n int) {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != n {
		t.Errorf("%v, %v; want %d files", files, err, n)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
}

// A name that the CA has lately seen lead here is not looked at again.
func TestACMEProofIsUsedAgain(t *testing.T) {
	t.Parallel()
	ca := newPebble(t, "PEBBLE_AUTHZREUSE=100")
	page := newACMETestPage(t, ca, t.TempDir())
	page.waits()
	ca.tell("target", "127.0.0.1:1")
	page.renewed()
	if page.serves(); ca.tell("orders") != "2" {
		t.Errorf("%s orders; log: %s", ca.tell("orders"), page.log.said())
	}
}

func TestACMERefused(t *testing.T) {
	t.Parallel()
	ca := newPebble(t)
	ca.tell("block", acmeTestName)
	page := newACMETestPage(t, ca, t.TempDir())
	page.failed(acmeRefused, "the CA says rejectedIdentifier: ")
	page.after(acmeRefused)
	page.failed(2*acmeRefused, "started again tries at once")
	ca.tell("limit", "86400")
	page.after(0)
	page.failed(24*time.Hour, "the CA says rateLimited: too many certificates; nothing is to be done but to wait; next try in 2")
}

func TestACMENameLeadsElsewhere(t *testing.T) {
	t.Parallel()
	ca := newPebble(t)
	page := newACMETestPage(t, ca, t.TempDir())
	page.waits()
	// The next one is for who has the name now.
	elsewhere := newACMETestPage(t, ca, t.TempDir())
	elsewhere.waits()
	page.after(acmeTestLife)
	if d := page.waits(); d < acmeRefused || !strings.Contains(page.log.said(), "port 443 of that name has to lead here from everywhere") {
		t.Errorf("waits %v; log: %s", d, page.log.said())
	}
	page.serves() // the old one goes on
	ca.tell("target", page.addr)
	page.renewed()
}

// A clock that is far ahead has no certificate that it would not renew: it is
// used, and there are pauses between the orders.
func TestACMEClockAhead(t *testing.T) {
	t.Parallel()
	ca := newPebble(t)
	ca.tell("down")
	page := newACMETestPage(t, ca, t.TempDir())
	page.waits()
	ca.tell("up")
	page.after(acmeTestLife)
	if d := page.waits(); d < 2*acmeRefused || !strings.Contains(page.log.said(), "for this machine's clock") {
		t.Errorf("waits %v; log: %s", d, page.log.said())
	}
	page.serves()
}

func TestACMEDown(t *testing.T) {
	t.Parallel()
	ca := newPebble(t)
	ca.tell("down")
	page := newACMETestPage(t, ca, t.TempDir())
	page.failed(acmeUnheard, "reading the directory: ")
	page.after(0)
	page.failed(2*acmeUnheard, "is the CA's address right")
	ca.tell("up")
	page.after(0)
	if d := page.waits(); d != acmeGlance {
		t.Errorf("waits %v; log: %s", d, page.log.said())
	}
	page.serves()
}

// acmeTestPort is an address for the page of a program yet to be started.
func acmeTestPort(t *testing.T) string {
	t.Helper()
	port, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.1:0", 64+os.Getpid()>>8&63, os.Getpid()&255))
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	return port.Addr().String()
}

// coordinator starts the whole program.
func (p *pebbleCA) coordinator(dir, addr, directory string, env ...string) *besideProc {
	p.t.Helper()
	b := &besideProc{done: make(chan struct{})}
	b.cmd = exec.Command(toolFile(), "-coordinator", "-dir", dir, "-udp", "127.0.0.1:0", "-http", addr,
		"-acme", acmeTestName, "-acme-directory", directory)
	b.cmd.Env = append([]string{toolEnv + "=1", "GORACE=atexit_sleep_ms=0", "HOME=" + dir, "SSL_CERT_FILE=" + p.httpsFile}, env...)
	b.cmd.Stdout, b.cmd.Stderr = b, b
	if err := b.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() { b.err = b.cmd.Wait(); close(b.done) }()
	p.t.Cleanup(func() { b.end(syscall.SIGKILL) })
	return b
}

// The whole program: killed when the CA has made the certificate and before it
// is kept, it leaves nothing behind that does harm; stopped then, it ends.
func TestACMEKilled(t *testing.T) {
	t.Parallel()
	ca, dir := newPebble(t), t.TempDir()
	addr := acmeTestPort(t)
	ca.tell("target", addr)
	kept := filepath.Join(dir, "coord", "acme")
	for _, sig := range []os.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		ca.tell("hold")
		b := ca.coordinator(dir, addr, ca.directory)
		ca.tell("held")
		if !b.end(sig) || b.cmd.ProcessState.Success() != (sig == syscall.SIGTERM) {
			t.Errorf("by %v: %v; it said %s", sig, b.err, b.said())
		}
		acmeTestFiles(t, kept, 1) // the account
		ca.tell("release")
	}
	b := ca.coordinator(dir, addr, ca.directory)
	waitUntil(t, func() bool { return strings.Contains(b.said(), "valid until") })
	if _, err := tlsTestGet(addr, acmeTestName, ca.issued, "127.0.0.1"); err != nil {
		t.Errorf("%v; it said %s", err, b.said())
	}
	acmeTestFiles(t, kept, 2)
	if !b.end(syscall.SIGTERM) || b.err != nil || ca.tell("orders") != "3" {
		t.Errorf("%v; %s orders; it said %s", b.err, ca.tell("orders"), b.said())
	}
}

// A CA whose name only a proxy knows. The proxy's password stands in no log.
func TestACMEByProxy(t *testing.T) {
	t.Parallel()
	ca, dir, addr := newPebble(t), t.TempDir(), acmeTestPort(t)
	ca.tell("target", addr)
	at := strings.TrimSuffix(strings.TrimPrefix(ca.directory, "https://"), "/dir")
	named := strings.Replace(ca.directory, "127.0.0.1", "pebble.invalid", 1)
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " "); r.Method != "CONNECT" || "https://"+r.Host+"/dir" != named ||
			user != "Basic" || password != base64.StdEncoding.EncodeToString([]byte("us:pa%ss")) {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		asked.Add(1)
		to, err := net.Dial("tcp", at)
		if err != nil {
			return
		}
		defer to.Close()
		w.WriteHeader(http.StatusOK)
		from, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		go func() {
			io.Copy(to, buf)
			to.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(from, to)
	}))
	t.Cleanup(proxy.Close)
	host := strings.TrimPrefix(proxy.URL, "http://")

	b := ca.coordinator(dir, addr, named, "HTTPS_PROXY=http://us:wrong@"+host)
	waitUntil(t, func() bool { return strings.Contains(b.said(), "next try in 1") })
	if !b.end(syscall.SIGTERM) || !strings.Contains(b.said(), "Proxy Authentication Required; ") || !strings.Contains(b.said(), "HTTPS_PROXY names a proxy") || strings.Contains(b.said(), "wrong") {
		t.Errorf("%v; it said %s", b.err, b.said())
	}
	b = ca.coordinator(dir, addr, named, "HTTPS_PROXY=http://us:pa%25ss@"+host)
	waitUntil(t, func() bool { return strings.Contains(b.said(), "valid until") })
	if !b.end(syscall.SIGTERM) || asked.Load() == 0 || strings.Contains(b.said(), "pa%") {
		t.Errorf("%v; the proxy is asked %d times; it said %s", b.err, asked.Load(), b.said())
	}
}
