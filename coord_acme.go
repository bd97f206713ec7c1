//go:build !router

package main

// This file orders a certificate from a CA (ACME, RFC 8555) with x/crypto/acme,
// and proves to it by tls-alpn-01 (RFC 8737) that the name leads here.

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

const (
	// maxACMEAnswer bounds the body of an answer, in bytes: a certificate and its
	// chain have some 10 KB. maxACMEHeader bounds what stands before it.
	maxACMEAnswer = 256 << 10
	maxACMEHeader = 64 << 10
	// acmeTimeout is for one request: a CA under load answers within seconds.
	acmeTimeout = 30 * time.Second
	// maxACMEPoll is the longest pause, in seconds, before an order or
	// authorization is looked at again.
	maxACMEPoll = 10
	// maxACMETries is how often a request is sent whose nonce the CA has
	// forgotten (RFC 8555, section 6.5).
	maxACMETries = 10

	acmeError = "urn:ietf:params:acme:error:"
)

// An acmeProblem is why a CA refuses (RFC 8555, section 6.7).
type acmeProblem acme.Error

func (p *acmeProblem) Error() string {
	kind := strings.TrimPrefix(p.ProblemType, acmeError)
	if kind == "" { // perhaps it is no ACME that speaks there
		kind = fmt.Sprint("HTTP ", p.StatusCode)
	}
	return fmt.Sprintf("the CA says %s: %s", kind, p.Detail)
}

// is reports whether the problem is one of those kinds of RFC 8555.
func (p *acmeProblem) is(kinds ...string) bool {
	for _, k := range kinds {
		if p.ProblemType == acmeError+k {
			return true
		}
	}
	return false
}

// after is the pause that the CA asks for, 0 or less when it asks for none.
func (p *acmeProblem) after() time.Duration {
	// RateLimit reads Retry-After for this kind alone; a CA that is down sends it too.
	d, _ := acme.RateLimit(&acme.Error{ProblemType: acmeError + "rateLimited", Header: p.Header})
	return d
}

// acmeFailed says what was tried, and has an *acmeProblem in it if the CA told
// of one: that of an order or authorization is not in the chain of err.
func acmeFailed(tried string, err error) error {
	var p *acme.Error
	var auth *acme.AuthorizationError
	var order *acme.OrderError
	switch {
	case errors.As(err, &auth):
		errors.As(errors.Join(auth.Errors...), &p)
	case errors.As(err, &order):
		p = order.Problem
	default:
		errors.As(err, &p)
	}
	if p != nil {
		err = (*acmeProblem)(p)
	}
	return fmt.Errorf("%s: %w", tried, err)
}

// An acmeClient orders from one CA. It is not for concurrent use.
type acmeClient struct {
	directory string
	roots     *x509.CertPool // that the CA's HTTPS is checked with; nil: the system's
	heard     bool           // the CA has answered something
}

// issue orders a certificate of domain for key, by the account with that key,
// and returns it with its chain in PEM. show is given the certificate that proves
// that domain is ours, to be shown by who is asked for acme-tls/1; it is asked for
// before the CA looks.
func (c *acmeClient) issue(ctx context.Context, account *ecdsa.PrivateKey, domain string, key *ecdsa.PrivateKey, show func(*tls.Certificate)) ([]byte, error) {
	c.heard = false
	ca := &acme.Client{Key: account, DirectoryURL: c.directory, UserAgent: "sessio/" + version,
		HTTPClient: &http.Client{Timeout: acmeTimeout, Transport: &acmeTransport{c, &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12},
			MaxResponseHeaderBytes: maxACMEHeader, DisableKeepAlives: true}}},
		// 400 is asked about for a nonce alone. What else fails ends the order,
		// and the pause before the next one is longer.
		RetryBackoff: func(n int, _ *http.Request, res *http.Response) time.Duration {
			if res.StatusCode != http.StatusBadRequest || n >= maxACMETries {
				return 0
			}
			return time.Millisecond
		}}
	if _, err := ca.Discover(ctx); err != nil {
		return nil, acmeFailed("reading the directory", err)
	}
	if _, err := ca.Register(ctx, &acme.Account{}, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, acmeFailed("opening the account", err)
	}
	order, err := ca.AuthorizeOrder(ctx, acme.DomainIDs(domain))
	if err != nil {
		return nil, acmeFailed("ordering", err)
	}
	for _, auth := range order.AuthzURLs {
		if err := acmeProve(ctx, ca, auth, domain, show); err != nil {
			return nil, acmeFailed("proving that the name leads here", err)
		}
	}
	if order, err = ca.WaitOrder(ctx, order.URI); err != nil {
		return nil, acmeFailed("waiting for the order", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{domain}}, key)
	if err != nil {
		return nil, err
	}
	// CreateOrderCert wants a Location from the CA that RFC 8555 does not ask for.
	chain, _, err := ca.CreateCertFromOrder(ctx, order, csr, true)
	if err != nil {
		return nil, acmeFailed("fetching the certificate", err)
	}
	var text []byte
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text, nil
}

// acmeProve has the CA look, unless it has done so lately.
func acmeProve(ctx context.Context, ca *acme.Client, at, domain string, show func(*tls.Certificate)) error {
	auth, err := ca.GetAuthorization(ctx, at)
	if err != nil || auth.Status == acme.StatusValid {
		return err
	}
	for _, ch := range auth.Challenges {
		if ch.Type != "tls-alpn-01" {
			continue
		}
		cert, err := ca.TLSALPN01ChallengeCert(ch.Token, domain)
		if err != nil {
			return err
		}
		show(&cert)
		defer show(nil)
		if _, err := ca.Accept(ctx, ch); err != nil {
			return err
		}
		_, err = ca.WaitAuthorization(ctx, at)
		return err
	}
	return errors.New("the CA does not offer tls-alpn-01")
}

// An acmeTransport keeps the CA within bounds: HTTPS, wherever it sends us, and
// answers that are not endless.
type acmeTransport struct {
	client *acmeClient
	under  *http.Transport
}

func (t *acmeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.Hostname() == "" {
		return nil, errors.New("the CA's address is not of the form https://HOST/…")
	}
	res, err := t.under.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	t.client.heard = true
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxACMEAnswer), res.Body}
	// The client waits as it is told before it looks again, or not at all: ZeroSSL
	// says a day for what takes seconds (acmesh-official/acme.sh#6221).
	after := res.Header.Get("Retry-After")
	if s, err := strconv.ParseUint(after, 10, 16); after != "" && res.StatusCode < 400 && (err != nil || s > maxACMEPoll) {
		res.Header.Set("Retry-After", strconv.Itoa(maxACMEPoll))
	}
	return res, nil
}
