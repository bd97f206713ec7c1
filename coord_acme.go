//go:build !router

package main

// This file orders a certificate from a CA (ACME, RFC 8555) and proves to it by
// tls-alpn-01 (RFC 8737) that the name leads here. x/crypto/acme makes the proof;
// its client would link that of net/http: 0.35 MB where this file is 0.1.

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

const (
	// maxACMEAnswer bounds an answer with its header, in bytes: a certificate
	// and its chain have some 10 KB.
	maxACMEAnswer = 256 << 10
	// acmeTimeout is for one request: a CA under load answers within seconds.
	acmeTimeout = 30 * time.Second
	// acmePoll is the first pause before an order or authorization is looked at
	// again, each is twice the last, up to maxACMEPoll.
	acmePoll    = 250 * time.Millisecond
	maxACMEPoll = 10 * time.Second
	// maxACMETries is how often a request is sent whose nonce the CA has
	// forgotten (RFC 8555, section 6.5).
	maxACMETries = 10
	// maxACMEDetail bounds what of a CA's reasons is shown, in characters.
	maxACMEDetail = 600

	acmeError = "urn:ietf:params:acme:error:"
)

// acmeB64 is how bytes stand in requests.
func acmeB64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// An acmeProblem is why a CA refuses (RFC 8555, section 6.7).
type acmeProblem struct {
	Type   string // a kind of RFC 8555 without what they all begin with, or another URI
	Detail string
	after  time.Duration // the CA asks for so long a pause; 0: it says nothing of it
}

func (p *acmeProblem) Error() string {
	return fmt.Sprintf("the CA says %.100s: %.*s", strings.TrimPrefix(p.Type, acmeError), maxACMEDetail, p.Detail)
}

// is reports whether the problem is one of those kinds of RFC 8555.
func (p *acmeProblem) is(kinds ...string) bool {
	for _, k := range kinds {
		if p.Type == acmeError+k {
			return true
		}
	}
	return false
}

// An acmeState is what a CA says of an order, an authorization or a challenge.
type acmeState struct {
	Status     string
	Error      *acmeProblem
	Challenges []struct { // of an authorization
		Type, URL, Token string
		Error            *acmeProblem
	}
	Authorizations        []string // of an order
	Finalize, Certificate string
}

// An acmeClient speaks with one CA. It is not for concurrent use.
type acmeClient struct {
	directory string
	key       *ecdsa.PrivateKey // of the account, on P-256
	roots     *x509.CertPool    // that the CA's HTTPS is checked with; nil: the system's
	pause     func(context.Context, time.Duration) error

	urls struct{ NewNonce, NewAccount, NewOrder string }
	// account is its URL, once the CA has said it; until then the key is shown.
	account string
	nonce   string // for the next request, "" = none
	heard   bool   // the CA has answered something
}

// issue orders a certificate of domain for key, and returns it with its chain in
// PEM. show is given the certificate that proves that domain is ours, to be shown
// by who is asked for acme-tls/1; it is asked for before the CA looks.
func (c *acmeClient) issue(ctx context.Context, domain string, key *ecdsa.PrivateKey, show func(*tls.Certificate)) ([]byte, error) {
	if _, err := c.send(ctx, "GET", c.directory, nil, &c.urls); err != nil {
		return nil, fmt.Errorf("reading the directory: %w", err)
	}
	agree := struct {
		Agreed bool `json:"termsOfServiceAgreed"`
	}{true}
	head, err := c.post(ctx, c.urls.NewAccount, agree, nil)
	if err != nil {
		return nil, fmt.Errorf("opening the account: %w", err)
	}
	c.account = head.Get("Location")
	type name struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	want := struct {
		Names []name `json:"identifiers"`
	}{[]name{{"dns", domain}}}
	var order acmeState
	if head, err = c.post(ctx, c.urls.NewOrder, want, &order); err != nil {
		return nil, fmt.Errorf("ordering: %w", err)
	}
	at := head.Get("Location")
	for _, auth := range order.Authorizations {
		if err := c.prove(ctx, auth, domain, show); err != nil {
			return nil, fmt.Errorf("proving that the name leads here: %w", err)
		}
	}
	if err := c.settle(ctx, at, "ready", &order); err != nil {
		return nil, fmt.Errorf("waiting for the order: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{domain}}, key)
	if err != nil {
		return nil, err
	}
	finish := struct {
		CSR string `json:"csr"`
	}{acmeB64(csr)}
	if _, err := c.post(ctx, order.Finalize, finish, nil); err != nil {
		return nil, fmt.Errorf("asking for the certificate: %w", err)
	}
	if err := c.settle(ctx, at, "valid", &order); err != nil {
		return nil, fmt.Errorf("waiting for the certificate: %w", err)
	}
	var chain []byte
	if _, err := c.post(ctx, order.Certificate, nil, &chain); err != nil {
		return nil, fmt.Errorf("fetching the certificate: %w", err)
	}
	return chain, nil
}

// prove has the CA look, unless it has done so lately.
func (c *acmeClient) prove(ctx context.Context, auth, domain string, show func(*tls.Certificate)) error {
	var state acmeState
	if _, err := c.post(ctx, auth, nil, &state); err != nil || state.Status == "valid" {
		return err
	}
	for _, ch := range state.Challenges {
		if ch.Type != "tls-alpn-01" {
			continue
		}
		cert, err := (&acme.Client{Key: c.key}).TLSALPN01ChallengeCert(ch.Token, domain)
		if err != nil {
			return err
		}
		show(&cert)
		defer show(nil)
		if _, err := c.post(ctx, ch.URL, struct{}{}, nil); err != nil {
			return err
		}
		return c.settle(ctx, auth, "valid", &state)
	}
	return errors.New("the CA does not offer tls-alpn-01")
}

// settle looks at an order or authorization until it is as wanted. An order that
// is ready may be looked at before the CA has begun to make the certificate.
func (c *acmeClient) settle(ctx context.Context, at, wanted string, state *acmeState) error {
	for wait := acmePoll; ; wait = min(2*wait, maxACMEPoll) {
		*state = acmeState{}
		head, err := c.post(ctx, at, nil, state)
		if err != nil {
			return err
		}
		switch state.Status {
		case wanted:
			return nil
		case "pending", "processing", "ready":
			if err := c.pause(ctx, max(wait, min(retryAfter(head, time.Now()), maxACMEPoll))); err != nil {
				return err
			}
			continue
		}
		for _, ch := range state.Challenges {
			if ch.Error != nil {
				return ch.Error
			}
		}
		if state.Error != nil {
			return state.Error
		}
		return fmt.Errorf("the CA says no more than that it is %.20q", state.Status)
	}
}

// post sends a signed request; with nil for what, it asks for what is there. The
// header of the answer is returned, its body goes to answer.
func (c *acmeClient) post(ctx context.Context, at string, what, answer any) (http.Header, error) {
	for try := 1; ; try++ {
		if c.nonce == "" {
			if _, err := c.send(ctx, "HEAD", c.urls.NewNonce, nil, nil); err != nil {
				return nil, fmt.Errorf("asking for a nonce: %w", err)
			}
		}
		body, err := c.sign(at, what)
		if err != nil {
			return nil, err
		}
		head, err := c.send(ctx, "POST", at, body, answer)
		if p := (*acmeProblem)(nil); errors.As(err, &p) && p.is("badNonce") && try < maxACMETries {
			continue
		}
		return head, err
	}
}

// sign makes a JWS (RFC 7515) with ES256, and uses up the nonce.
func (c *acmeClient) sign(at string, what any) ([]byte, error) {
	type jwk struct {
		Crv string `json:"crv"`
		Kty string `json:"kty"`
		X   string `json:"x"`
		Y   string `json:"y"`
	}
	head := struct {
		Alg   string `json:"alg"`
		JWK   *jwk   `json:"jwk,omitempty"`
		KID   string `json:"kid,omitempty"`
		Nonce string `json:"nonce"`
		URL   string `json:"url"`
	}{"ES256", nil, c.account, c.nonce, at}
	c.nonce = ""
	if c.account == "" {
		point, err := c.key.PublicKey.Bytes() // 4, x, y
		if err != nil {
			return nil, err
		}
		head.JWK = &jwk{"P-256", "EC", acmeB64(point[1:33]), acmeB64(point[33:])}
	}
	protected, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	var payload []byte
	if what != nil {
		if payload, err = json.Marshal(what); err != nil {
			return nil, err
		}
	}
	jws := struct {
		Protected string `json:"protected"`
		Payload   string `json:"payload"`
		Signature string `json:"signature"`
	}{Protected: acmeB64(protected), Payload: acmeB64(payload)}
	sum := sha256.Sum256([]byte(jws.Protected + "." + jws.Payload))
	r, s, err := ecdsa.Sign(rand.Reader, c.key, sum[:])
	if err != nil {
		return nil, err
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	jws.Signature = acmeB64(sig[:])
	return json.Marshal(jws)
}

// send makes a request on a connection of its own; readACME says what comes back.
func (c *acmeClient) send(ctx context.Context, method, at string, body []byte, answer any) (http.Header, error) {
	ctx, stop := context.WithTimeoutCause(ctx, acmeTimeout, fmt.Errorf("no answer within %v", acmeTimeout))
	defer stop()
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("the CA's address %.200q is not of the form https://HOST/…", at)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12}}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var head http.Header
	_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: sessio/%s\r\nConnection: close\r\n"+
		"Content-Type: application/jose+json\r\nContent-Length: %d\r\n\r\n%s", method, u.RequestURI(), u.Host, version, len(body), body)
	if err == nil {
		head, err = readACME(conn, method, answer)
	}
	if head != nil {
		c.heard, c.nonce = true, head.Get("Replay-Nonce")
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if p := (*acmeProblem)(nil); err != nil && !errors.As(err, &p) {
		err = fmt.Errorf("%s %s: %w", method, at, err)
	}
	return head, err
}

// readACME reads an answer to method. One of 400 and above is an *acmeProblem.
// The body goes to answer: as it is to a *[]byte, JSON to others. There is a
// header whenever it has come whole.
func readACME(r io.Reader, method string, answer any) (http.Header, error) {
	res, err := http.ReadResponse(bufio.NewReader(io.LimitReader(r, maxACMEAnswer)), &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(res.Body)
	switch to := answer.(type) {
	case *[]byte:
		*to = got
	case any:
		if err == nil && res.StatusCode < 400 {
			err = json.Unmarshal(got, answer)
		}
	}
	if err == nil && res.StatusCode >= 400 {
		p := &acmeProblem{Type: "HTTP " + strconv.Itoa(res.StatusCode), Detail: "no reason"}
		json.Unmarshal(got, p) // or it is no ACME that speaks there
		p.after = retryAfter(res.Header, time.Now())
		err = p
	}
	return res.Header, err
}

// retryAfter is the pause that an answer asks for (RFC 9110, section 10.2.3), 0
// when it asks for none.
func retryAfter(head http.Header, now time.Time) time.Duration {
	text := head.Get("Retry-After")
	if s, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return max(0, at.Sub(now))
}
