package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// openTestPage opens the page; tests of it take turns, for its port is one.
func openTestPage(t *testing.T) *signPage {
	t.Helper()
	s, err := openSignPage("sessio.localhost")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask sends a request as a browser does, but for what change changes.
func (s *signPage) testAsk(t *testing.T, method, path, body string, change func(*http.Request)) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://127.0.0.1:"+pagePort+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "sessio.localhost:" + pagePort
	if method == http.MethodPost {
		r.Header.Set("Origin", s.origin)
		r.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(r)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func TestSignPageTakesItsPortAlone(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, pagePort))
		if err != nil {
			t.Logf("%s: %v", host, err)
			continue // no IPv6 here
		}
		if s, err := openSignPage("localhost"); err == nil || !strings.Contains(hintOf(err), "this very port") {
			t.Errorf("beside a listener on %s: %v, %v", host, s, err)
		}
		ln.Close()
	}
	s := openTestPage(t) // nothing of the failures is left
	s.close("Done", "")
	if c, err := net.Dial("tcp", "127.0.0.1:"+pagePort); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
}

func TestSignPageAnswersItsOwnPageAlone(t *testing.T) {
	s := openTestPage(t)
	defer s.close("Done", "")
	host := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	header := func(k, v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(k, v) } }
	for _, c := range []struct {
		what, method, path, body string
		change                   func(*http.Request)
		want                     int
	}{
		{"the page", "GET", s.path, "", nil, 200},
		{"its script", "GET", s.path + "sign.js", "", nil, 200},
		{"its style", "GET", s.path + "page.css", "", nil, 200},
		{"its step", "GET", s.path + "step?after=0", "", nil, 200},
		{"no path", "GET", "/", "", nil, 404},
		{"another path", "GET", "/" + strings.Repeat("a", 26) + "/", "", nil, 404},
		{"another file", "GET", s.path + "other", "", nil, 404},
		{"a rebound name", "GET", s.path, "", host("evil.example:7722"), 421},
		{"an address", "GET", s.path, "", host("127.0.0.1:7722"), 421},
		{"localhost", "GET", s.path, "", host("localhost:7722"), 421},
		{"no port", "GET", s.path, "", host("sessio.localhost"), 421},
		{"putting", "PUT", s.path + "answer", "{}", nil, 405},
		{"posting elsewhere", "POST", s.path, "{}", nil, 405},
		{"another page", "POST", s.path + "answer", "{}", header("Origin", "http://localhost:7722"), 403},
		{"no page", "POST", s.path + "answer", "{}", header("Origin", "null"), 403},
		{"a form", "POST", s.path + "answer", "{}", header("Content-Type", "text/plain"), 403},
		{"no JSON", "POST", s.path + "answer", "{", nil, 400},
		{"too much", "POST", s.path + "answer", `{"id":"` + strings.Repeat("x", maxPageBody) + `"}`, nil, 400},
		{"nothing asked", "POST", s.path + "answer", `{"n":1}`, nil, 409},
	} {
		status, h, body := s.testAsk(t, c.method, c.path, c.body, c.change)
		if status != c.want {
			t.Errorf("%s: status %d, want %d: %s", c.what, status, c.want, body)
		}
		if h.Get("Content-Security-Policy") != pagePolicy || h.Get("Access-Control-Allow-Origin") != "" || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers %v", c.what, h)
		}
	}
	if n := len(signHTML) + len(pageCSS) + len(signJS); n > 20<<10 {
		t.Errorf("the page has %d bytes", n)
	}
}

func TestSignPageAsks(t *testing.T) {
	s := openTestPage(t)
	defer s.close("Done", "")
	step := func() pageStep {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.step
	}
	ask := func(ctx context.Context, check func(pageAnswer) error) chan error {
		was, done := step().N, make(chan error, 1)
		go func() { done <- s.ask(ctx, pageStep{Kind: "get", Title: "t"}, check) }()
		waitUntil(t, func() bool { return step().N > was })
		return done
	}
	answer := func(n string) int {
		status, _, _ := s.testAsk(t, "POST", s.path+"answer", `{"n":`+n+`,"id":"x"}`, nil)
		return status
	}
	// wrong, right, and the same again
	wrong := true
	done := ask(t.Context(), func(pageAnswer) error {
		if wrong {
			return errors.New("wrong")
		}
		return nil
	})
	if got := answer("1"); got != 409 {
		t.Errorf("an answer to what was asked before: %d", got)
	}
	if got := answer("2"); got != 400 {
		t.Errorf("a wrong answer: %d", got)
	}
	wrong = false
	if got := answer("2"); got != 200 {
		t.Errorf("a right one: %d", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := answer("2"); got != 409 {
		t.Errorf("the same again: %d", got)
	}
	// enough is enough
	done = ask(t.Context(), func(pageAnswer) error { return errors.New("wrong") })
	for range maxPageTries {
		answer("4")
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "10 wrong answers") {
		t.Errorf("after ten wrong answers: %v", err)
	}
	// the verb is given up
	ctx, stop := context.WithCancelCause(t.Context())
	done = ask(ctx, func(pageAnswer) error { return nil })
	stop(errors.New("given up"))
	if err := <-done; err == nil || err.Error() != "given up" {
		t.Errorf("given up: %v", err)
	}
	waitUntil(t, func() bool { return step().Kind == "wait" })
	if got := answer("6"); got != 409 {
		t.Errorf("an answer after that: %d", got)
	}
}
