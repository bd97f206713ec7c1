package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// newACMETestCA answers as answer says; its own address stands for "$CA".
func newACMETestCA(t *testing.T, answer map[string]string) (*acmeCerts, *tlsTestLog) {
	t.Helper()
	var srv *httptest.Server
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answer[r.URL.Path]
		if !ok {
			text = "{}"
		}
		status := 200
		if strings.HasPrefix(text, "4") {
			fmt.Sscan(text[:3], &status)
			text = text[3:]
		}
		w.Header().Set("Replay-Nonce", "n")
		if !strings.HasPrefix(r.URL.Path, "/lost") {
			w.Header().Set("Location", srv.URL+r.URL.Path+"/1")
		}
		w.WriteHeader(status)
		io.WriteString(w, strings.ReplaceAll(text, "$CA", srv.URL))
		for rest := make([]byte, 1<<16); text == "endless"; {
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
	a.client.pause = func(_ context.Context, d time.Duration) error { return fmt.Errorf("waits %v", d) }
	return a, log
}

// Whatever a CA says, there is an error that says what was wrong, and no
// certificate.
func TestACMEStrangeCA(t *testing.T) {
	const dir = `{"newNonce":"$CA/nonce","newAccount":"$CA/account","newOrder":"$CA/order"}`
	const ready = `{"status":"ready","finalize":"$CA/finalize"}`
	for _, tt := range []struct {
		name, says string
		answer     map[string]string
	}{
		{"no JSON", "reading the directory: GET ", map[string]string{"/dir": "<html>"}},
		{"nothing", "reading the directory: GET ", map[string]string{"/dir": ""}},
		{"an endless answer", "reading the directory: GET ", map[string]string{"/dir": "endless"}},
		{"an empty directory", `address "" is not of the form https://`, map[string]string{"/dir": "{}"}},
		{"addresses without TLS", `address "http://a/" is not of the form https://`, map[string]string{"/dir": `{"newAccount":"http://a/"}`}},
		{"an error without reasons", "the CA says HTTP 404: no reason", map[string]string{"/dir": "404x"}},
		{"an error that is no problem", "the CA says HTTP 403: no reason", map[string]string{"/dir": dir, "/account": "403[]"}},
		{"a nonce that is never good", "the CA says badNonce: again", map[string]string{"/dir": dir, "/account": `400{"type":"urn:ietf:params:acme:error:badNonce","detail":"again"}`}},
		{"an order that is nowhere", `address "" is not`, map[string]string{"/dir": strings.ReplaceAll(dir, "order", "lost")}},
		{"an order of no state", `no more than that it is ""`, map[string]string{"/dir": dir}},
		{"an order that is invalid", "the CA says dns: nowhere", map[string]string{"/dir": dir, "/order/1": `{"status":"invalid","error":{"type":"urn:ietf:params:acme:error:dns","detail":"nowhere"}}`}},
		{"no proof that we have", "does not offer tls-alpn-01", map[string]string{"/dir": dir, "/order": `{"authorizations":["$CA/auth"]}`, "/auth": `{"status":"pending","challenges":[{"type":"dns-01"}]}`}},
		{"a proof without address", `address "" is not`, map[string]string{"/dir": dir, "/order": `{"authorizations":["$CA/auth"]}`, "/auth": `{"challenges":[{"type":"tls-alpn-01"}]}`}},
		{"a certificate that is nowhere", `address "" is not`, map[string]string{"/dir": dir, "/order/1": `{"status":"ready"}`}},
		{"an order that stays as it is", "waits 250ms", map[string]string{"/dir": dir, "/order/1": ready}},
	} {
		a, log := newACMETestCA(t, tt.answer)
		if err := a.renew(t.Context()); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if a.cert != nil || a.answer != nil || log.said() != "" {
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
	a, _ := newACMETestCA(t, nil)
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
	a, log := newACMETestCA(t, nil)
	a.client.directory = "https://" + closed.Addr().String()
	err = a.run(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "waits 1") || !strings.Contains(log.said(), "refused; is the CA's address right") {
		t.Errorf("%v; log: %s", err, log.said())
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
	asks := func(d time.Duration) error { return fmt.Errorf("x: %w", &acmeProblem{after: d}) }
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
		{1 << 40, false, asks(0), maxACMEPause},
		{1, true, asks(time.Hour), time.Hour},
		{9, true, asks(24 * time.Hour), 24 * time.Hour},
		{1, true, asks(1 << 60), maxACMEAfter},
	} {
		if d := acmeWait(tt.failed, tt.heard, tt.err); d < tt.least || d > tt.least+tt.least/8 {
			t.Errorf("%+v: %v", tt, d)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "x": 0, "-1": 0, "0": 0, "3": 3 * time.Second, "99999999999": 0,
		coordTestNow.Add(time.Minute).UTC().Format(http.TimeFormat):  time.Minute,
		coordTestNow.Add(-time.Minute).UTC().Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, coordTestNow); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzReadACME(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 429 Too Many\r\nRetry-After: 9\r\nReplay-Nonce: x\r\n\r\n{\"type\":\"urn:ietf:params:acme:error:rateLimited\"}",
		"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n{\"status\":\"valid\"}\r\n0\r\n\r\n",
		`HTTP/1.1 200 OK` + "\r\n\r\n" + `{"status":"invalid","challenges":[{"type":"tls-alpn-01","url":"u","token":"t","error":{"type":"x","detail":"y"}}]}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var state, again acmeState
		head, err := readACME(strings.NewReader(s), "POST", &state)
		if err != nil {
			_ = err.Error()
			return
		}
		retryAfter(head, coordTestNow)
		b, err := json.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		_, err = readACME(strings.NewReader(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)), "POST", &again)
		if err != nil || !reflect.DeepEqual(state, again) {
			t.Errorf("%+v, again %+v, %v", state, again, err)
		}
	})
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
