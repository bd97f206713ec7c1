//go:build !router

package main

// This file serves the page on which a passkey signs, from this program to a
// browser on this machine: the coordinator has no part in it. A passkey answers
// one name of a page for ever, so the page has always the same address,
// http://sessio.localhost:7722, on both loopback addresses, so that nobody else's
// page is there. It is found by a path that is drawn anew each time.

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	pagePort = "7722"
	// pageWait is how long one question may stay unanswered.
	pageWait = 5 * time.Minute
	// pageLinger is how long the browser has to hear how it ended.
	pageLinger = 2 * time.Second
	// pagePoll is how long a question of the page for the next step waits.
	pagePoll = 10 * time.Second
	// maxPageTries is how many answers to one question may be wrong.
	maxPageTries = 10
)

//go:embed page/sign.html
var signHTML []byte

//go:embed page/sign.js
var signJS []byte

// pageName is the relying party of new passkeys. Chromium, Firefox and Edge look
// names below localhost up themselves (RFC 6761, section 6.3); Safari asks the
// system, which on macOS may not know them.
func pageName() string {
	const name = "sessio.localhost"
	if runtime.GOOS == "darwin" {
		if _, err := net.LookupHost(name); err != nil {
			return "localhost"
		}
	}
	return name
}

// pageOrigin is where the page of a relying party is.
func pageOrigin(rpID string) string { return "http://" + rpID + ":" + pagePort }

// A pageStep is one thing that the page shows or asks.
type pageStep struct {
	N           int        `json:"n"`
	Kind        string     `json:"kind"` // create, get, wait or done
	Title       string     `json:"title"`
	About       string     `json:"about,omitempty"`
	Facts       []pageFact `json:"facts,omitempty"`
	Text        string     `json:"text,omitempty"`  // of the statement
	Words       string     `json:"words,omitempty"` // to compare with the terminal's
	RPID        string     `json:"rpId,omitempty"`
	Challenge   string     `json:"challenge,omitempty"` // base64url, as are all bytes
	Credentials []string   `json:"credentials,omitempty"`
	UserID      string     `json:"userId,omitempty"`
	UserName    string     `json:"userName,omitempty"`
}

// A signPage is the page while it is served.
type signPage struct {
	origin string
	path   string // "/<secret>/"
	srv    *http.Server
	serves sync.WaitGroup

	mu      sync.Mutex
	step    pageStep               // guarded by mu
	check   func(pageAnswer) error // guarded by mu: of the step; nil: it asks nothing
	tries   int                    // guarded by mu: wrong answers to it
	result  chan error             // guarded by mu: how the step ended
	changed chan struct{}          // guarded by mu: closed and made anew with each step
	seen    bool                   // guarded by mu: a browser has opened it
	heard   chan struct{}          // closed when the page has heard of the end
}

// openSignPage begins to serve the page for a relying party.
func openSignPage(rpID string) (*signPage, error) {
	lns, err := listenPage()
	if err != nil {
		return nil, err
	}
	var secret [16]byte
	rand.Read(secret[:]) // never fails since Go 1.24
	s := &signPage{origin: pageOrigin(rpID), path: "/" + base32Lower.EncodeToString(secret[:]) + "/",
		step: pageStep{N: 1, Kind: "wait", Title: "Asking the program …"}, changed: make(chan struct{}), heard: make(chan struct{})}
	s.srv = &http.Server{
		Handler:           http.MaxBytesHandler(http.HandlerFunc(s.serve), maxPageBody),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      pagePoll + 10*time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
	for _, ln := range lns {
		s.serves.Go(func() { s.srv.Serve(ln) })
	}
	return s, nil
}

// listenPage takes the port on both loopback addresses, so that no other user's
// page is at either; a machine without IPv6 has one.
func listenPage() (lns []net.Listener, err error) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, pagePort))
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			for _, ln := range lns {
				ln.Close()
			}
			return nil, withHint(fmt.Errorf("the page for the passkey: %w", err),
				"passkeys are bound to this very port: end what has it")
		}
		lns = append(lns, ln)
	}
	if len(lns) == 0 {
		return nil, errors.New("the page for the passkey: this machine has no loopback address")
	}
	return lns, nil
}

// url is what a person opens.
func (s *signPage) url() string { return s.origin + s.path }

// ask shows a step and returns when an answer to it has passed check, or when
// there will be none. check is called under the page's lock.
func (s *signPage) ask(ctx context.Context, step pageStep, check func(pageAnswer) error) error {
	ctx, stop := context.WithTimeoutCause(ctx, pageWait, withHint(fmt.Errorf("nobody has signed on the page within %s", sayDuration(pageWait)), "run the same again"))
	defer stop()
	result := make(chan error, 1)
	s.show(step, check, result)
	defer s.show(pageStep{Kind: "wait", Title: "Thank you", About: "The program goes on."}, nil, nil)
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *signPage) show(step pageStep, check func(pageAnswer) error, result chan error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	step.N = s.step.N + 1
	s.step, s.check, s.tries, s.result = step, check, 0, result
	close(s.changed)
	s.changed = make(chan struct{})
}

// close tells the page how it ended, and ends it.
func (s *signPage) close(title, about string) {
	s.show(pageStep{Kind: "done", Title: title, About: about}, nil, nil)
	s.mu.Lock()
	seen := s.seen
	s.mu.Unlock()
	if seen {
		linger := time.NewTimer(pageLinger)
		defer linger.Stop()
		select {
		case <-s.heard:
		case <-linger.C:
		}
	}
	ctx, stop := context.WithTimeout(context.Background(), pageLinger)
	defer stop()
	if s.srv.Shutdown(ctx) != nil {
		s.srv.Close()
	}
	s.serves.Wait()
}

// serve answers requests that name exactly this page: another name that leads
// here is somebody else's page.
func (s *signPage) serve(w http.ResponseWriter, r *http.Request) {
	pageHeaders(w)
	rest, ok := strings.CutPrefix(r.URL.Path, s.path)
	switch {
	case "http://"+r.Host != s.origin:
		http.Error(w, "This is not the address of the page: open the one that the terminal shows.", http.StatusMisdirectedRequest)
	case !ok:
		http.Error(w, "There is nothing here: open the whole address that the terminal shows.", http.StatusNotFound)
	case r.Method == http.MethodPost && rest == "answer":
		s.answer(w, r)
	case r.Method != http.MethodGet:
		pageError(w, http.StatusMethodNotAllowed, errors.New("this is for reading"))
	case rest == "step":
		s.next(w, r)
	default:
		servePageFile(w, signFiles, rest)
	}
}

// signFiles are the page's.
var signFiles = map[string]pageFile{
	"":           {"text/html; charset=utf-8", signHTML},
	"page.css":   {"text/css; charset=utf-8", pageCSS},
	"passkey.js": {"text/javascript; charset=utf-8", passkeyJS},
	"sign.js":    {"text/javascript; charset=utf-8", signJS},
}

// next tells the step, or waits for another than the page has.
func (s *signPage) next(w http.ResponseWriter, r *http.Request) {
	wait := time.NewTimer(pagePoll)
	defer wait.Stop()
	for {
		s.mu.Lock()
		step, changed := s.step, s.changed
		s.seen = true
		s.mu.Unlock()
		if fmt.Sprint(step.N) != r.URL.Query().Get("after") {
			pageJSON(w, http.StatusOK, step)
			if step.Kind == "done" {
				s.hear()
			}
			return
		}
		select {
		case <-changed:
		case <-wait.C:
			pageJSON(w, http.StatusOK, step)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// hear notes that the page knows the end.
func (s *signPage) hear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.heard:
	default:
		close(s.heard)
	}
}

// answer takes the answer to the step, once. A wrong one may be followed by
// another: a person may have taken the wrong passkey.
func (s *signPage) answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != s.origin || r.Header.Get("Content-Type") != "application/json" {
		pageError(w, http.StatusForbidden, errors.New("this comes from another page"))
		return
	}
	var a pageAnswer
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
		pageError(w, http.StatusBadRequest, fmt.Errorf("the answer cannot be read: %w", err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.check == nil || a.N != s.step.N {
		pageError(w, http.StatusConflict, errors.New("this has been answered already, or is not asked any more"))
		return
	}
	err := s.check(a)
	if s.tries++; err != nil {
		pageError(w, http.StatusBadRequest, err)
		if s.tries < maxPageTries {
			return
		}
		err = fmt.Errorf("%d wrong answers from the page, the last: %w", s.tries, err)
	} else {
		pageJSON(w, http.StatusOK, struct{}{})
	}
	s.check = nil
	s.result <- err
}
