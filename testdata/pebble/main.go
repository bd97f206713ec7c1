// Command pebble is the CA of the tests: Let's Encrypt's pebble, told apart
// from a real one by nothing but its names, which all lead to one address.
//
// Arguments: a directory, and how long certificates live, in seconds. Into the
// directory go https.pem, which its own HTTPS is to be checked with, and
// root.pem, the root of what it issues. It prints the address of its
// ACME directory, then reads a command a line from standard input, answers each
// with "ok" or "error: …", and ends when the input does.
//
//	target ADDR     where every name leads: it is asked there by tls-alpn-01
//	block NAME      refuse certificates for a name
//	orders          "ok N": orders taken so far
//	limit SECONDS   refuse orders as a CA does that had too many, 0 for no more
//	down, up        end every connection unheard, or do not
//	hold            keep the next certificate back
//	held            until one is kept back; then "ok"
//	release         let it go
package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "pebble:", err)
		os.Exit(1)
	}
}

// An authority is pebble and what it is told to do.
type authority struct {
	http  http.Handler
	store *db.MemoryStore

	target  atomic.Pointer[string]
	orders  atomic.Int64
	limit   atomic.Int64 // seconds
	down    atomic.Bool
	hold    atomic.Bool
	held    chan struct{} // one is kept back
	release chan struct{}
}

func run() error {
	if len(os.Args) != 3 {
		return errors.New("usage: pebble DIR SECONDS")
	}
	dir := os.Args[1]
	life, err := strconv.ParseUint(os.Args[2], 10, 64)
	if err != nil {
		return err
	}
	a := &authority{store: db.NewMemoryStore(), held: make(chan struct{}), release: make(chan struct{})}
	names, err := serveNames()
	if err != nil {
		return err
	}
	asked, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go a.forward(asked)
	logger := log.New(os.Stderr, "", 0)
	issuer := ca.New(logger, a.store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: life}})
	checker := va.New(logger, 0, asked.Addr().(*net.TCPAddr).Port, true, names, a.store)
	a.http = new(wfe.New(logger, a.store, checker, issuer, []string{"pebble.invalid"}, true, false, 0, 0)).Handler()
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), issuer.GetRootCert(0).PEM(), 0o600); err != nil {
		return err
	}
	ln, err := a.listen(filepath.Join(dir, "https.pem"))
	if err != nil {
		return err
	}
	go http.Serve(ln, a)
	fmt.Printf("https://%s%s\n", ln.Addr(), wfe.DirectoryPath)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		word, arg, _ := strings.Cut(in.Text(), " ")
		said, err := a.command(word, arg)
		if err != nil {
			said = "error: " + err.Error()
		}
		fmt.Println(said)
	}
	return nil
}

func (a *authority) command(word, arg string) (said string, err error) {
	switch said = "ok"; word {
	case "target":
		a.target.Store(&arg)
	case "block":
		err = a.store.AddBlockedDomain(arg)
	case "orders":
		said = fmt.Sprint("ok ", a.orders.Load())
	case "limit":
		var n int64
		n, err = strconv.ParseInt(arg, 10, 64)
		a.limit.Store(n)
	case "down", "up":
		a.down.Store(word == "down")
	case "hold":
		a.hold.Store(true)
	case "held":
		<-a.held
	case "release":
		a.release <- struct{}{}
	default:
		err = fmt.Errorf("unknown command %q", word)
	}
	return said, err
}

// ServeHTTP is pebble, but for what it was told.
func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/order-plz"):
		if n := a.limit.Load(); n > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(n, 10))
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Replay-Nonce", "none")
			w.WriteHeader(http.StatusTooManyRequests)
			io.WriteString(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates","status":429}`)
			return
		}
		a.order(w, r)
		return
	case strings.HasPrefix(r.URL.Path, "/certZ/") && a.hold.Swap(false):
		a.held <- struct{}{}
		<-a.release
	}
	a.http.ServeHTTP(w, r)
}

// order takes an order. Told to use no authorization again (PEBBLE_AUTHZREUSE=0),
// pebble still does in one of a hundred; then the client has to try again.
func (a *authority) order(w http.ResponseWriter, r *http.Request) {
	answer := httptest.NewRecorder()
	a.http.ServeHTTP(answer, r)
	var order struct{ Status string }
	if err := json.Unmarshal(answer.Body.Bytes(), &order); err == nil && order.Status == "ready" && os.Getenv("PEBBLE_AUTHZREUSE") == "0" {
		answer.Header().Set("Content-Type", "application/problem+json")
		answer.Header().Del("Location")
		answer.Code = http.StatusBadRequest
		answer.Body = bytes.NewBufferString(`{"type":"urn:ietf:params:acme:error:badNonce","detail":"try again","status":400}`)
	}
	if answer.Code == http.StatusCreated {
		a.orders.Add(1)
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}

// listen opens the HTTPS port, with a certificate that it writes to file.
func (a *authority) listen(file string) (net.Listener, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"pebble.invalid"}, BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return tls.NewListener(upListener{ln, &a.down},
		&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}), nil
}

// An upListener ends what comes while it is down.
type upListener struct {
	net.Listener
	down *atomic.Bool
}

func (l upListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || !l.down.Load() {
			return c, err
		}
		c.Close()
	}
}

// forward carries what the checker sends to the target.
func (a *authority) forward(ln net.Listener) {
	for {
		from, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			target := a.target.Load()
			if target == nil {
				return
			}
			to, err := net.Dial("tcp", *target)
			if err != nil {
				return
			}
			defer to.Close()
			go func() {
				io.Copy(to, from)
				to.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(from, to)
		}()
	}
}

// serveNames answers that every name is at 127.0.0.1, and returns where it is.
func serveNames() (addr string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	answer := func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for _, one := range q.Question {
			if one.Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{A: net.IPv4(127, 0, 0, 1),
					Hdr: dns.RR_Header{Name: one.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}})
			}
		}
		w.WriteMsg(m)
	}
	go (&dns.Server{Listener: ln, Handler: dns.HandlerFunc(answer)}).ActivateAndServe()
	return ln.Addr().String(), nil
}
