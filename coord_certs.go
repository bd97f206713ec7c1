//go:build !router

package main

// This file has the certificates of the coordinator's page: files that somebody
// else renews, or what it orders from a CA, keeps in the state directory and
// renews itself.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
)

// certCheck is how often, at most, files are looked at for a new certificate.
const certCheck = time.Second

// A certFiles is a certificate and its key in files that may be replaced.
type certFiles struct {
	cert, key string
	now       func() time.Time
	logf      func(format string, args ...any)

	mu      sync.Mutex
	pair    *tls.Certificate // guarded by mu
	stamps  [2]fileStamp     // guarded by mu: of what was read last
	checked time.Time        // guarded by mu
}

// A fileStamp changes when a file does.
type fileStamp struct {
	size    int64
	changed time.Time
}

func stampOf(file string) (s fileStamp) {
	if info, err := os.Stat(file); err == nil {
		s = fileStamp{info.Size(), info.ModTime()}
	}
	return s
}

func openCertFiles(cert, key string, now func() time.Time, logf func(string, ...any)) (*certFiles, error) {
	c := &certFiles{cert: cert, key: key, now: now, logf: logf}
	_, err := c.refresh()
	return c, withHint(err, "-tls-cert is the certificate with its chain, -tls-key its private key, both PEM")
}

// certificate is for tls.Config. What cannot be read, or does not fit together,
// is logged once, and the old certificate goes on.
func (c *certFiles) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair, err := c.refresh()
	if err != nil {
		c.logf("%v; the certificate from before goes on", err)
	}
	return pair, nil
}

// refresh reads the files if they have changed, and returns what is good.
func (c *certFiles) refresh() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if since := now.Sub(c.checked); c.pair != nil && since >= 0 && since < certCheck {
		return c.pair, nil
	}
	c.checked = now
	stamps := [2]fileStamp{stampOf(c.cert), stampOf(c.key)}
	if c.pair != nil && stamps == c.stamps {
		return c.pair, nil
	}
	c.stamps = stamps // taken before reading: a change from now on is seen next time
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return c.pair, fmt.Errorf("reading the certificate %s with the key %s: %w", c.cert, c.key, err)
	}
	c.pair = &pair
	return c.pair, nil
}

const (
	// acmeOrderTime is for an order with all its waits.
	acmeOrderTime = 5 * time.Minute
	// acmeUnheard is the pause after the first order for which no CA was reached,
	// acmeRefused after the first one that it did not fulfil: Let's Encrypt takes
	// five failures an hour (letsencrypt.org/docs/rate-limits). Each pause is
	// twice the last, up to maxACMEPause; what a CA asks for is kept to up to
	// maxACMEAfter.
	acmeUnheard  = 10 * time.Second
	acmeRefused  = 5 * time.Minute
	maxACMEPause = 6 * time.Hour
	maxACMEAfter = 7 * 24 * time.Hour
	// acmeGlance is the longest sleep: clocks are set, machines suspended.
	acmeGlance = 12 * time.Hour
	// maxACMEReason bounds what is logged of why an order failed, in characters:
	// the CA has a say in it.
	maxACMEReason = 600
)

// An acmeCerts is the certificate of one domain, from a CA.
type acmeCerts struct {
	domain string
	dir    string     // where account and certificate are kept
	client acmeClient // for run alone
	pause  func(context.Context, time.Duration) error
	now    func() time.Time
	logf   func(format string, args ...any)

	mu     sync.Mutex
	cert   *tls.Certificate // guarded by mu; nil: there is none yet
	answer *tls.Certificate // guarded by mu: to a CA that looks whether we are the domain
}

// openACMECerts takes the certificate that is kept in dir, if it is good.
func openACMECerts(dir, domain, directory string, now func() time.Time, logf func(string, ...any)) *acmeCerts {
	a := &acmeCerts{domain: domain, dir: dir, client: acmeClient{directory: directory}, pause: pauseFor, now: now, logf: logf}
	b, err := os.ReadFile(a.file(domain))
	if err == nil {
		err = a.use(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		logf("%s: %v; another certificate is ordered", a.file(domain), err)
	}
	return a
}

// pauseFor waits, or until ctx ends.
func pauseFor(ctx context.Context, d time.Duration) error {
	if !pause(ctx, d) {
		return context.Cause(ctx)
	}
	return nil
}

// file is where something is kept: what one CA knows, another does not.
func (a *acmeCerts) file(what string) string {
	sum := sha256.Sum256([]byte(a.client.directory))
	return filepath.Join(a.dir, fmt.Sprintf("%s-%x.pem", what, sum[:4]))
}

// use takes a certificate with its key and chain, in PEM.
func (a *acmeCerts) use(b []byte) error {
	cert, err := tls.X509KeyPair(b, b)
	if err == nil {
		err = cert.Leaf.VerifyHostname(a.domain)
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cert = &cert
	return nil
}

func (a *acmeCerts) show(answer *tls.Certificate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

// certificate is for tls.Config: nothing but the domain is answered for.
func (a *acmeCerts) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	cert := a.cert
	if slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto}) {
		cert = a.answer
	}
	switch {
	case !strings.EqualFold(hello.ServerName, a.domain):
		return nil, fmt.Errorf("asked for %q, this is %s", hello.ServerName, a.domain)
	case cert == nil:
		return nil, errors.New("no certificate yet")
	}
	return cert, nil
}

// due is how long the certificate need not be renewed: until a third of its
// life is left.
func (a *acmeCerts) due() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cert == nil {
		return 0
	}
	leaf := a.cert.Leaf
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3).Sub(a.now())
}

// run orders and renews until ctx ends.
func (a *acmeCerts) run(ctx context.Context) error {
	for failed := 0; ; {
		wait := min(a.due(), acmeGlance)
		if wait <= 0 {
			err := a.renew(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if failed++; err == nil {
				failed = 0
				continue
			}
			wait = acmeWait(failed, a.client.heard, err)
			a.logf("certificate for %s from %s: %.*v; %s; next try in %v", a.domain, a.client.directory, maxACMEReason, err, acmeHint(a.client.heard, err), wait.Round(time.Second))
		}
		if err := a.pause(ctx, wait); err != nil {
			return err
		}
	}
}

// renew orders a certificate, keeps and uses it.
func (a *acmeCerts) renew(ctx context.Context) error {
	ctx, stop := context.WithTimeoutCause(ctx, acmeOrderTime, fmt.Errorf("not done within %v", acmeOrderTime))
	defer stop()
	account, err := a.account()
	if err != nil {
		return withHint(fmt.Errorf("the account's key: %w", err), "that directory has to be writable; a damaged file may be removed")
	}
	key, text, err := newACMEKey()
	if err != nil {
		return err
	}
	chain, err := a.client.issue(ctx, account, a.domain, key, a.show)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	if err != nil {
		return err
	}
	text = append(text, chain...)
	if err := a.use(text); err != nil {
		return fmt.Errorf("the certificate that the CA sent: %w", err)
	}
	if err := replaceFile(a.file(a.domain), text, 0o600); err != nil {
		a.logf("keeping the certificate: %v; the next start will order another one", err)
	}
	a.mu.Lock()
	leaf := a.cert.Leaf
	a.mu.Unlock()
	a.logf("certificate for %s from %.100s, valid until %s", a.domain, leaf.Issuer.CommonName, leaf.NotAfter.UTC().Format(time.DateTime))
	if a.due() <= 0 {
		return fmt.Errorf("it is valid from %v to %v: for this machine's clock it should be renewed already", leaf.NotBefore, leaf.NotAfter)
	}
	return nil
}

// account is the key by which the CA knows us. The first time it is made.
func (a *acmeCerts) account() (*ecdsa.PrivateKey, error) {
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return nil, err
	}
	file := a.file("account")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		key, text, err := newACMEKey()
		if err != nil {
			return nil, err
		}
		return key, replaceFile(file, text, 0o600)
	}
	if err != nil {
		return nil, err
	}
	key, err := parseACMEKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

func newACMEKey() (key *ecdsa.PrivateKey, text []byte, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	text, err = formatACMEKey(key)
	return key, text, err
}

func formatACMEKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

// parseACMEKey reads a key on P-256 in PEM.
func parseACMEKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err == nil && key.Curve != elliptic.P256() {
		return nil, errors.New("not a key on P-256")
	}
	return key, err
}

// acmeWait is the pause before the next order, when so many have failed in a
// row. A little at random keeps machines apart that began together.
func acmeWait(failed int, heard bool, err error) time.Duration {
	wait := acmeUnheard
	if heard {
		wait = acmeRefused
	}
	wait = min(wait<<min(failed-1, 16), maxACMEPause)
	if p := (*acmeProblem)(nil); errors.As(err, &p) {
		wait = max(wait, min(p.after(), maxACMEAfter))
	}
	return wait + mrand.N(wait/8)
}

// acmeHint says what a person could do about an order that has failed.
func acmeHint(heard bool, err error) string {
	p := (*acmeProblem)(nil)
	switch errors.As(err, &p); {
	case hintOf(err) != "":
		return hintOf(err)
	case !heard:
		return "is the CA's address right, may this machine go out by TCP (HTTPS_PROXY names a proxy), is its clock right?"
	case p == nil:
	case p.is("dns", "caa"):
		return "the name's A and AAAA records have to be this machine's, and a CAA record has to allow the CA"
	case p.is("connection", "tls", "unauthorized", "incorrectResponse"):
		return "port 443 of that name has to lead here from everywhere"
	case p.is("externalAccountRequired"):
		return "this CA wants an account made on its site, which -acme does not have: take another one"
	case p.is("rateLimited"):
		return "nothing is to be done but to wait"
	}
	return "a coordinator that is started again tries at once"
}
