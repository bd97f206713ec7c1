package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// newACMETestCA answers as answer says: a status of three digits if it is not 200,
// and a body, in which $CA is its own address, or after 3xx where to go. To "stop"
// it answers that it is not done yet, and ends the context.
func newACMETestCA(t *testing.T, answer map[string]string) (context.Context, *acmeCerts, *tlsTestLog) {
	t.Helper()
	ctx, stop := context.WithCancelCause(t.Context())
	var srv *httptest.Server
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answer[r.URL.Path]
		if !ok {
			text = "{}"
		}
		text = strings.ReplaceAll(text, "$CA", srv.URL)
		status := 200
		if text != "" && text[0] >= '2' && text[0] <= '4' {
			fmt.Sscan(text[:3], &status)
			text = text[3:]
		}
		if text == "stop" {
			text = `{"status":"processing"}`
			stop(errors.New("told to stop"))
		}
		w.Header().Set("Replay-Nonce", "n")
		switch {
		case status/100 == 3:
			w.Header().Set("Location", text)
		case r.URL.Path != "/lost":
			w.Header().Set("Location", srv.URL+r.URL.Path+"/1")
		}
		w.WriteHeader(status)
		if text != "endless" {
			io.WriteString(w, text)
			return
		}
		for rest := bytes.Repeat([]byte(" "), 1<<16); ; {
			if _, err := w.Write(rest); err != nil {
				return
			}
		}
	}))
	srv.StartTLS()
	t.Cleanup(srv.Close)
	log := &tlsTestLog{}
	a := openACMECerts(filepath.Join(t.TempDir(), "acme"), "coord.example", srv.URL+"/dir", time.Now, log.logf)
	a.client.roots = x509.NewCertPool()
	a.client.roots.AddCert(srv.Certificate())
	a.pause = func(_ context.Context, d time.Duration) error { return fmt.Errorf("waits %v", d) }
	return ctx, a, log
}

// Whatever a CA says, there is an error that says what was wrong, and no
// certificate.
func TestACMEStrangeCA(t *testing.T) {
	const dir = `{"newNonce":"$CA/nonce","newAccount":"$CA/account","newOrder":"$CA/order"}`
	const order = `201{"authorizations":["$CA/auth"]}`
	for _, tt := range []struct {
		name, says string
		answer     map[string]string
	}{
		{"no JSON", "reading the directory: invalid character", map[string]string{"/dir": "<html>"}},
		{"nothing", "reading the directory: EOF", map[string]string{"/dir": ""}},
		{"an endless answer", "reading the directory: EOF", map[string]string{"/dir": "endless"}},
		{"an endless error", "the CA says HTTP 403:  ", map[string]string{"/dir": "403endless"}},
		{"an empty directory", "does not support the RFC 8555", map[string]string{"/dir": "{}"}},
		{"addresses without TLS", `"http://a/": the CA's address is not of the form https://`, map[string]string{"/dir": `{"newAccount":"http://a/","newOrder":"b"}`}},
		{"no address of accounts", `opening the account: Post "": the CA's address is not`, map[string]string{"/dir": `{"newOrder":"b"}`}},
		{"a directory that has moved", "the CA says HTTP 404: x", map[string]string{"/dir": "302$CA/moved", "/moved": "404x"}},
		{"one that has lost TLS", `"http://a/": the CA's address is not`, map[string]string{"/dir": "302http://a/"}},
		{"an error without reasons", "the CA says HTTP 404: 404 Not Found", map[string]string{"/dir": "404"}},
		{"an error that is no problem", "the CA says HTTP 403: []", map[string]string{"/dir": dir, "/account": "403[]"}},
		{"a nonce that is never good", "the CA says badNonce: again", map[string]string{"/dir": dir, "/account": `400{"type":"urn:ietf:params:acme:error:badNonce","detail":"again"}`}},
		{"an order that is none", "ordering: the CA says HTTP 200: ", map[string]string{"/dir": dir}},
		{"an order that is nowhere", `waiting for the order: Post "": the CA's address`, map[string]string{"/dir": strings.ReplaceAll(dir, "order", "lost"), "/lost": "201{}"}},
		{"an order that is invalid", "waiting for the order: the CA says dns: nowhere", map[string]string{"/dir": dir, "/order": "201{}", "/order/1": `{"status":"invalid","error":{"type":"urn:ietf:params:acme:error:dns","detail":"nowhere"}}`}},
		{"one that is it for no reason", "status: invalid", map[string]string{"/dir": dir, "/order": "201{}", "/order/1": `{"status":"invalid"}`}},
		{"no proof that we have", "does not offer tls-alpn-01", map[string]string{"/dir": dir, "/order": order, "/auth": `{"status":"pending","challenges":[{"type":"dns-01"}]}`}},
		{"a proof without address", `proving that the name leads here: Post "": the CA's address`, map[string]string{"/dir": dir, "/order": order, "/auth": `{"challenges":[{"type":"tls-alpn-01"}]}`}},
		{"an order without end", "order finalize URL is empty", map[string]string{"/dir": dir, "/order": "201{}", "/order/1": `{"status":"ready"}`}},
		{"a certificate that is none", "certificate chain is empty", map[string]string{"/dir": dir, "/order": "201{}", "/order/1": `{"status":"ready","finalize":"$CA/finalize"}`,
			"/finalize": `{"status":"valid","certificate":"$CA/cert"}`}},
		{"an order that stays as it is", "waiting for the order: context canceled (told to stop)", map[string]string{"/dir": dir, "/order": "201{}", "/order/1": "stop"}},
	} {
		ctx, a, log := newACMETestCA(t, tt.answer)
		if err := a.renew(ctx); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %.1000v", tt.name, err)
		}
		if a.cert != nil || a.answer != nil || log.said() != "" || !a.client.heard {
			t.Errorf("%s: %v, %v, %s", tt.name, a.cert, a.answer, log.said())
		}
	}
}

// A certificate of another key or name is not used.
func TestACMEOtherCertificate(t *testing.T) {
	dir := t.TempDir()
	tlsTestPair(t, dir, "coord.example", time.Now())
	pair := func() (b []byte) {
		for _, name := range []string{"key", "cert"} {
			part, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, part...)
		}
		return b
	}
	_, a, _ := newACMETestCA(t, nil)
	good := pair()
	tlsTestPair(t, dir, "other.example", time.Now())
	other := pair()
	for name, b := range map[string][]byte{"nothing": nil, "another name": other, "half a file": good[:len(good)/2],
		"another key": append(other[:strings.Index(string(other), "-----BEGIN CERT")], good[strings.Index(string(good), "-----BEGIN CERT"):]...)} {
		if err := a.use(b); err == nil || a.cert != nil {
			t.Errorf("%s is used", name)
		}
	}
	if err := a.use(good); err != nil || a.cert == nil {
		t.Error(err)
	}
}

// Where nobody listens, and with a key that is damaged, it says so and waits.
func TestACMEFailsWithHint(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	_, a, log := newACMETestCA(t, nil)
	a.client.directory = "https://" + closed.Addr().String()
	err = a.run(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "waits 1") || !strings.Contains(log.said(), "refused; is the CA's address right") {
		t.Errorf("%v; log: %s", err, log.said())
	}
	_, b, said := newACMETestCA(t, map[string]string{"/dir": "403endless"})
	b.run(t.Context())
	if n := len(said.said()); n < maxACMEReason || n > 2*maxACMEReason || !strings.Contains(said.said(), "tries at once; next try in 5m") {
		t.Errorf("%d bytes of log", n)
	}
	if err := os.WriteFile(a.file("account"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.run(t.Context())
	if !strings.Contains(log.said(), "not a PEM file; that directory has to be writable; a damaged file may be removed; next try in") {
		t.Errorf("log: %s", log.said())
	}
}

func TestACMEPauses(t *testing.T) {
	asks := func(d time.Duration) error {
		return fmt.Errorf("x: %w", &acmeProblem{ProblemType: acmeError + "serverInternal", Header: http.Header{"Retry-After": {fmt.Sprint(int64(d.Seconds()))}}})
	}
	for _, tt := range []struct {
		failed int
		heard  bool
		err    error
		least  time.Duration
	}{
		{1, false, errors.New("x"), acmeUnheard},
		{3, false, errors.New("x"), 4 * acmeUnheard},
		{1, true, asks(0), acmeRefused},
		{4, true, asks(time.Minute), 8 * acmeRefused},
		{8, true, asks(0), maxACMEPause},
		{1 << 30, false, asks(0), maxACMEPause},
		{1, true, asks(time.Hour), time.Hour},
		{9, true, asks(24 * time.Hour), 24 * time.Hour},
		{1, true, asks(1<<31*time.Second - time.Second), maxACMEAfter},
		{1, true, asks(-time.Hour), acmeRefused},
		{1, true, &acmeProblem{}, acmeRefused},
	} {
		if d := acmeWait(tt.failed, tt.heard, tt.err); d < tt.least || d > tt.least+tt.least/8 {
			t.Errorf("%+v: %v", tt, d)
		}
	}
}

// A CA may ask for a pause of some seconds before it is looked at again; what it
// asks for by an error is for the next order.
func TestACMELooksAgainSoon(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, after, _ := strings.Cut(r.URL.Query().Get("say"), " ")
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		n, _ := strconv.Atoi(status)
		w.WriteHeader(n)
	}))
	defer srv.Close()
	client := http.Client{Transport: &acmeTransport{&acmeClient{}, srv.Client().Transport.(*http.Transport)}}
	for say, want := range map[string]string{
		"200": "", "200 0": "0", "200 3": "3", "200 10": "10", "200 11": "10", "200 86400": "10", "200 99999999999": "10", "200 -1": "10",
		"200 x": "10", "200 " + coordTestNow.UTC().Format(http.TimeFormat): "10", "429 86400": "86400", "503 -1": "-1",
	} {
		res, err := client.Get(srv.URL + "/?say=" + url.QueryEscape(say))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Retry-After"); got != want {
			t.Errorf("%q: %q", say, got)
		}
	}
}

func FuzzParseACMEKey(f *testing.F) {
	_, text, err := newACMEKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := parseACMEKey(b)
		if err != nil {
			return
		}
		text, err := formatACMEKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseACMEKey(text); err != nil || !again.Equal(key) {
			t.Errorf("%v", err)
		}
	})
}
