package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each route, asked by whom it is not for.
func TestWebDoor(t *testing.T) {
	w := newOwner(t)
	for name, route := range w.web.routes {
		path, body := "/api/"+name, ""
		if route.method == "POST" {
			body = "{}"
		}
		for _, tt := range []struct {
			name   string
			status int
			method string
			body   string
			change func(r *http.Request)
		}{
			{"nobody is signed in", http.StatusUnauthorized, route.method, body, func(r *http.Request) { r.Header.Del("Cookie") }},
			{"a cookie of nobody's", http.StatusUnauthorized, route.method, body, func(r *http.Request) {
				r.Header.Set("Cookie", cookieName+"="+w.account().id.String()+"."+b64url.EncodeToString(make([]byte, 32)))
			}},
			{"a device's credentials", http.StatusForbidden, route.method, body, func(r *http.Request) {
				r.Header.Set("Authorization", "Bearer "+string(webTestIdentity(t).keys.deviceID()))
			}},
			{"another page", http.StatusForbidden, "POST", body, func(r *http.Request) { r.Header.Set("Origin", "https://evil.test") }},
			{"no page", http.StatusForbidden, "POST", body, func(r *http.Request) { r.Header.Del("Origin") }},
			{"a form", http.StatusBadRequest, "POST", "a=b", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }},
			{"another method", http.StatusMethodNotAllowed, "PUT", body, nil},
			{"no JSON", http.StatusBadRequest, "POST", "{", nil},
			{"a list", http.StatusBadRequest, "POST", "[]", nil},
			{"a member that nobody knows", http.StatusBadRequest, "POST", `{"else":1}`, nil},
			{"more behind the end", http.StatusBadRequest, "POST", `{} {}`, nil},
			{"too much", http.StatusRequestEntityTooLarge, "POST", `{"label":"` + strings.Repeat("a", maxWebBody) + `"}`, nil},
		} {
			body := readsBody(name)
			switch {
			case tt.status == http.StatusUnauthorized && !route.owner,
				tt.method == "POST" && route.method != "POST",
				(tt.status == http.StatusBadRequest && tt.name != "a form" || tt.status == http.StatusRequestEntityTooLarge) && !body:
				continue
			}
			w.now = w.now.Add(2 * time.Second)
			before := w.cookie
			status, said := w.send(tt.method, path, tt.body, tt.change)
			if status != tt.status && !(name == "signer/finish" && status == http.StatusConflict) {
				t.Errorf("%s, %s: status %d, want %d: %s", name, tt.name, status, tt.status, said)
			}
			if w.cookie != before {
				t.Fatalf("%s, %s: a cookie", name, tt.name)
			}
		}
	}
}

// readsBody reports whether a route reads what is posted.
func readsBody(name string) bool {
	return !strings.Contains("signin/begin prove/begin signout signout/others hello events log export", name)
}

func TestWebTooOften(t *testing.T) {
	w := newWebTest(t, signupClaim)
	ask := func() int {
		status, _ := w.send("POST", "/api/signin/begin", "{}", nil)
		return status
	}
	for i := range strangerWebBurst {
		if status := ask(); status != http.StatusOK {
			t.Fatalf("request %d: status %d", i, status)
		}
	}
	if status := ask(); status != http.StatusTooManyRequests {
		t.Errorf("one more: status %d", status)
	}
	w.from = "198.51.100.1:7"
	if status := ask(); status != http.StatusOK {
		t.Errorf("from elsewhere: status %d", status)
	}
	// behind a proxy on this machine each one counts for himself
	w.from = "127.0.0.1:9"
	proxied := func(list string) int {
		status, _ := w.send("POST", "/api/signin/begin", "{}", func(r *http.Request) { r.Header.Set("X-Forwarded-For", list) })
		return status
	}
	for range strangerWebBurst {
		proxied("10.0.0.1, 203.0.113.5")
	}
	if status := proxied("10.0.0.2, 203.0.113.5"); status != http.StatusTooManyRequests {
		t.Errorf("a list that the asker has written: status %d", status)
	}
	if status := proxied("203.0.113.6"); status != http.StatusOK {
		t.Errorf("another one behind the proxy: status %d", status)
	}
}

// Ceremonies take bounded memory, and nobody takes another's part of it.
func TestWebFlowsAreBounded(t *testing.T) {
	t.Parallel()
	f := webFlows{list: map[string]webFlow{}}
	put := func(now time.Time, stranger bool, owner, code string) (id string) {
		t.Helper()
		id, err := f.put(now, webFlow{kind: "signin", owner: owner, stranger: stranger})
		if codeOf(err) != code {
			t.Errorf("%s: %v, want %q", owner, err, code)
		}
		return id
	}
	one, two := put(coordTestNow, true, "one", ""), put(coordTestNow, false, "two", "")
	for i := range maxFlows - 2 {
		old := webFlow{owner: fmt.Sprint("many-", i/maxOwnerFlows), stranger: i < maxFlows*3/4-1, until: coordTestNow.Add(flowLife)}
		f.list[fmt.Sprint(i)] = old
	}
	put(coordTestNow, false, "many-60", "too-often")
	for i := range 10 {
		put(coordTestNow, i%2 == 0, fmt.Sprint("more-", i), "")
	}
	if len(f.list) != maxFlows {
		t.Errorf("%d ceremonies", len(f.list))
	}
	for _, id := range []string{one, two} {
		if _, err := f.take(coordTestNow, id, "signin"); err != nil {
			t.Error(err)
		}
	}
	if put(coordTestNow.Add(flowLife), true, "one", ""); len(f.list) != 1 {
		t.Errorf("when they are over: %d", len(f.list))
	}
}

func TestWebFiles(t *testing.T) {
	w := newWebTest(t, signupClaim)
	size := 0
	for name, f := range appFiles {
		status, body := w.send("GET", "/"+name, "", nil)
		if status != http.StatusOK || string(body) != string(f.body) {
			t.Errorf("/%s: status %d, %d bytes", name, status, len(body))
		}
		size += len(body)
	}
	t.Logf("the page has %d bytes", size)
	if size > 100_000 {
		t.Errorf("the page has %d bytes, at most 100,000", size)
	}
	for path, want := range map[string]int{"/nothing": 404, "/api/nothing": 404, "/../etc/passwd": 404} {
		if status, _ := w.send("GET", path, "", nil); status != want {
			t.Errorf("%s: status %d", path, status)
		}
	}
	if status, _ := w.send("POST", "/", "", nil); status != http.StatusMethodNotAllowed {
		t.Errorf("POST /: status %d", status)
	}
	for _, part := range []string{"http:", "https:", "//cdn", "style=", "onclick", "innerHTML", "eval("} {
		for name, f := range appFiles {
			if strings.Contains(strings.ReplaceAll(string(f.body), "http://www.w3.org/2000/svg", ""), part) {
				t.Errorf("%s has %q", name, part)
			}
		}
	}
}

// A page is told at once what changes, and told when its sign-in is over.
func TestWebEvents(t *testing.T) {
	t.Parallel()
	w := newOwner(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	now := make(chan time.Time, 1)
	now <- w.now
	w.server.now = func() time.Time { n := <-now; now <- n; return n }
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveCoordHTTP(ctx, ln, w.web, nil) }()
	defer func() { stop(); <-ended }()
	listen := func() (*http.Response, *bufio.Scanner) {
		t.Helper()
		r, err := http.NewRequest("GET", "http://"+ln.Addr().String()+"/api/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.AddCookie(&http.Cookie{Name: cookieName, Value: w.cookie})
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		return res, bufio.NewScanner(res.Body)
	}
	res, lines := listen()
	next := func() string {
		t.Helper()
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return text
			}
			if strings.HasPrefix(lines.Text(), "event: ") {
				return lines.Text()
			}
		}
		return ""
	}
	var v accountView
	if json.Unmarshal([]byte(next()), &v) != nil || v.Account != w.account().id.String() {
		t.Fatalf("first: %+v", v)
	}
	w.join("attic")
	for len(v.Waiting) == 0 { // the ticket may come first
		text := next()
		if text == "" || json.Unmarshal([]byte(text), &v) != nil {
			t.Fatalf("nothing came when a machine waited: %q", text)
		}
	}
	for range maxWatchers - 1 {
		more, _ := listen()
		defer more.Body.Close()
		if more.StatusCode != http.StatusOK {
			t.Errorf("another page: status %d", more.StatusCode)
		}
	}
	if more, _ := listen(); more.StatusCode != http.StatusTooManyRequests {
		t.Errorf("one page more than there may be: status %d", more.StatusCode)
	}
	<-now
	now <- w.now.Add(signinLife)
	if got := next(); got != "event: signed-out" {
		t.Errorf("at the sign-in's end: %q", got)
	}
	res.Body.Close()
}

func TestWebExport(t *testing.T) {
	w := newOwner(t)
	w.join("attic")
	status, body := w.send("GET", "/api/export", "", nil)
	var out struct {
		Account string
		Records [][]byte
		Owner   ownerState
	}
	if status != http.StatusOK || json.Unmarshal(body, &out) != nil {
		t.Fatalf("status %d", status)
	}
	var state *trustState
	for _, raw := range out.Records {
		var err error
		if state, err = apply(state, raw, w.now); err != nil {
			t.Fatal(err)
		}
	}
	if state.acct().String() != out.Account || len(out.Owner.Keys) != 1 || len(out.Owner.Signins) != 0 {
		t.Errorf("exported: %+v", out)
	}
	if strings.Contains(string(body), strings.SplitN(w.cookie, ".", 2)[1]) {
		t.Error("the export has a cookie's secret")
	}
}

// The page has the line that installs, and says what of.
func TestWebBuilds(t *testing.T) {
	w := newOwner(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sessio-linux-mipsle"), []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.web.builds, err = openBuildDir(dir, webTestOrigin, time.Now, t.Logf); err != nil {
		t.Fatal(err)
	}
	call := &webCall{coordWeb: w.web, now: w.now}
	call.account, call.in = w.server.store.signedIn(w.cookie, w.now)
	v, err := call.view(w.now)
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("a program")))
	if len(v.Builds) != 1 || v.Builds[0] != (buildView{"sessio-linux-mipsle", 9, sum}) || len(v.Install) != 2 || !strings.HasSuffix(v.Install[0], " | sh -s -- TICKET") {
		t.Errorf("%+v %q", v.Builds, v.Install)
	}
}

// Nothing that a page sends ends in a panic, an error of our own, or a change
// without a signature.
func FuzzWebRequest(f *testing.F) {
	w := newOwner(f)
	f.Add("statement", []byte(`{"op":"device.add","device":"x","name":"a","roles":["server"],"expires":1}`))
	f.Add("sign", []byte(`{"text":"sessio-statement-v1\n","answers":[{"id":"AA"}]}`))
	f.Add("ticket", []byte(`{"hash":"","categories":["a"]}`))
	f.Add("categories", []byte(`{"device":"d","categories":["a"]}`))
	f.Add("enrol/begin", []byte(`{"code":"aa"}`))
	f.Add("signer/finish", []byte(`{"flow":"","answer":{"clientData":"e30"}}`))
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		w.t = t
		if _, ok := w.web.routes[name]; !ok || strings.HasPrefix(name, "signout") {
			return
		}
		w.now = w.now.Add(time.Second)
		for i := range w.account().ownerNow().Signins {
			w.account().owner.Signins[i].Expires = w.now.Add(time.Hour).Unix()
		}
		before, _ := w.account().snapshot(w.now)
		status, said := w.send("POST", "/api/"+name, string(body), nil)
		if status >= 500 || !json.Valid(said) {
			t.Errorf("%s %q: status %d, %s", name, body, status, said)
		}
		if after, _ := w.account().snapshot(w.now); after.seq() != before.seq() {
			t.Errorf("%s %q: the log has changed", name, body)
		}
	})
}

// Joins with tickets that nobody knows are bounded, those of others are not.
func TestWebRandomTickets(t *testing.T) {
	w := newOwner(t)
	var secret ticketSecret
	copy(secret[:], "right")
	if err := w.account().addTicket(hashTicket(secret), ticketLife, ticketWish{}, w.now); err != nil {
		t.Fatal(err)
	}
	codes := map[string]int{}
	stranger := webTestIdentity(t).keys
	for i := range 1000 {
		peer := &coordPeer{keys: stranger, addr: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.9:%d", 1000+i))}
		_, err := w.server.join(peer, &joinMsg{acct: w.account().id, ticket: ticketHash{1, byte(i), byte(i >> 8)}, name: "x"})
		codes[codeOf(err)]++
	}
	if codes["ticket-unknown"] != joinBurst || codes["busy"] != 1000-joinBurst {
		t.Errorf("1,000 random tickets: %v", codes)
	}
	keys := webTestIdentity(t).keys
	good := &joinMsg{acct: w.account().id, ticket: hashTicket(secret), name: "attic", proof: joinProof(secret, w.account().id, keys, "attic", "")}
	if _, err := w.server.join(&coordPeer{keys: keys, addr: netip.MustParseAddrPort("192.0.2.9:1")}, good); codeOf(err) != "busy" {
		t.Errorf("the right ticket from there: %v", err)
	}
	if _, err := w.server.join(&coordPeer{keys: keys, addr: netip.MustParseAddrPort("192.0.2.10:1")}, good); err != nil {
		t.Errorf("the right ticket from elsewhere: %v", err)
	}
	for range 100 { // who has a ticket is not counted
		if _, err := w.server.join(&coordPeer{keys: keys, addr: netip.MustParseAddrPort("192.0.2.10:1")}, good); err != nil {
			t.Fatal(err)
		}
	}
}
