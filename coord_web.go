//go:build !router

package main

// This file is the door of the coordinator's page: which request may do what,
// who asks, and how often. What is done stands in coord_signin.go and
// coord_acts.go, what is shown in coord_views.go.
//
// Nothing that a browser may do here adds a key to an account: that takes a
// signer's passkey, and every machine checks its signature.

import (
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

//go:embed page/app.html
var appHTML []byte

//go:embed page/app.css
var appCSS []byte

//go:embed page/app.js
var appJS []byte

//go:embed page/qr.js
var qrJS []byte

// appFiles are the page's.
var appFiles = map[string]pageFile{
	"":           {"text/html; charset=utf-8", appHTML},
	"page.css":   {"text/css; charset=utf-8", pageCSS},
	"app.css":    {"text/css; charset=utf-8", appCSS},
	"passkey.js": {"text/javascript; charset=utf-8", passkeyJS},
	"qr.js":      {"text/javascript; charset=utf-8", qrJS},
	"app.js":     {"text/javascript; charset=utf-8", appJS},
}

const (
	// maxWebBody bounds a request in bytes: two answers of passkeys and a
	// statement.
	maxWebBody = 2*maxPageBody + 2*maxStatement
	// strangerWebGap is the time for one request of an address that nobody is
	// signed in from, and strangerWebBurst how many may come at once.
	strangerWebGap   = time.Second
	strangerWebBurst = 30
	// ownerWebGap and ownerWebBurst are those of a sign-in.
	ownerWebGap   = 100 * time.Millisecond
	ownerWebBurst = 100
	// maxHeavy bounds the requests that read a whole log, at once: one may take
	// some hundred megabytes.
	maxHeavy = 2
	// accountHeader names the account that a page shows.
	accountHeader = "Sessio-Account"
	// cookieName binds the cookie to this host, to all of it, and to TLS
	// (RFC 6265bis, section 4.1.3.2); browsers take loopback for as good.
	cookieName = "__Host-sessio"
)

// A coordWeb is the page.
type coordWeb struct {
	server *coordServer
	word   coordWord // of this coordinator
	origin string    // "https://coord.example.com"
	rp     relyingParty
	builds *buildDir           // nil = none
	routes map[string]webRoute // by path

	strangers gates         // by address
	signins   gates         // by sign-in
	heavy     chan struct{} // has room for those that read a whole log
	proxied   bool          // a proxy on another machine tells for whom it asks

	mu       sync.Mutex
	watchers map[acctID]int // guarded by mu: pages that are kept up to date
	watching int            // guarded by mu: of all accounts
}

// A webRoute is what one path does.
type webRoute struct {
	method string
	owner  bool // who asks must be signed in
	do     func(c *webCall) (any, error)
}

// A webCall is one request.
type webCall struct {
	*coordWeb
	w       http.ResponseWriter
	r       *http.Request
	now     time.Time
	account *coordAccount // of who is signed in
	in      *signin
}

// newCoordWeb makes the page that people find at origin.
func newCoordWeb(server *coordServer, word coordWord, origin string) (*coordWeb, error) {
	u, err := url.Parse(origin)
	if err != nil || u.Hostname() == "" {
		return nil, usageError("-url %q is not of the form https://HOST", origin)
	}
	w := &coordWeb{server: server, word: word, origin: origin, rp: relyingParty{u.Hostname(), []string{origin}},
		heavy: make(chan struct{}, maxHeavy), watchers: map[acctID]int{}}
	w.word.claim = claimSecret{} // it is for who reads the coordinator's own output
	w.routes = map[string]webRoute{
		"hello":           {"GET", false, (*webCall).hello},
		"signin/begin":    {"POST", false, (*webCall).signinBegin},
		"signin/finish":   {"POST", false, (*webCall).signinFinish},
		"register/begin":  {"POST", false, (*webCall).registerBegin},
		"register/signin": {"POST", false, (*webCall).registerSignin},
		"register/signer": {"POST", false, (*webCall).registerSigner},
		"register/finish": {"POST", false, (*webCall).registerFinish},
		"prove/begin":     {"POST", false, (*webCall).proveBegin},
		"prove/finish":    {"POST", false, (*webCall).proveFinish},
		"enrol/begin":     {"POST", false, (*webCall).enrolBegin},
		"enrol/finish":    {"POST", false, (*webCall).enrolFinish},
		"signout":         {"POST", true, (*webCall).signout},
		"signout/others":  {"POST", true, (*webCall).signoutOthers},
		"events":          {"GET", true, (*webCall).events},
		"log":             {"GET", true, (*webCall).log},
		"export":          {"GET", true, (*webCall).export},
		"statement":       {"POST", true, (*webCall).statement},
		"signer/begin":    {"POST", true, (*webCall).signerBegin},
		"signer/finish":   {"POST", true, (*webCall).signerFinish},
		"sign":            {"POST", true, (*webCall).sign},
		"ticket":          {"POST", true, (*webCall).ticket},
		"ticket/cancel":   {"POST", true, (*webCall).ticketCancel},
		"waiting/refuse":  {"POST", true, (*webCall).waitingRefuse},
		"categories":      {"POST", true, (*webCall).categories},
		"sessions/end":    {"POST", true, (*webCall).sessionsEnd},
		"sessions/revoke": {"POST", true, (*webCall).sessionsRevoke},
		"passkey/begin":   {"POST", true, (*webCall).passkeyBegin},
		"passkey/remove":  {"POST", true, (*webCall).passkeyRemove},
	}
	return w, nil
}

// ServeHTTP answers for the page and for what it asks, below /api/.
func (c *coordWeb) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	pageHeaders(w)
	if strings.HasPrefix(c.origin, "https:") {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000") // a passkey's page is never plain
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/api/")
	if !ok {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			pageError(w, http.StatusMethodNotAllowed, errors.New("this is for reading"))
			return
		}
		servePageFile(w, appFiles, strings.TrimPrefix(r.URL.Path, "/"))
		return
	}
	call := &webCall{coordWeb: c, w: w, r: r, now: c.server.now()}
	answer, err := call.answer(name)
	switch {
	case err != nil:
		call.fail(err)
	case answer != nil:
		pageJSON(w, http.StatusOK, answer)
	}
}

var (
	errOtherPage    = coded("other-page", "this comes from another page than the coordinator's own")
	errTooOften     = coded("too-often", "too many requests: wait a moment")
	errOtherAccount = coded("other-account", "this page shows another account than the one that you are signed in to: load it again")
	errNoRoute      = coded("not-found", "there is nothing here")
	errMethod       = coded("method", "this is not asked that way")
	errRequestForm  = coded("request-malformed", "this request cannot be read")
	errNoDeviceHere = coded("denied", "a device asks over QUIC, with its key; here people sign in")
)

// answer finds the route, makes sure of who asks, and does it.
func (c *webCall) answer(name string) (any, error) {
	route, ok := c.routes[name]
	switch {
	case !ok:
		return nil, errNoRoute
	case c.r.Method != route.method:
		return nil, errMethod
	case c.r.Header.Get("Authorization") != "":
		return nil, errNoDeviceHere // no credential but the cookie is ever good here
	// A page of another origin can send neither this header's value nor, with
	// the cookie, anything: SameSite.
	case route.method == "POST" && c.r.Header.Get("Origin") != c.origin:
		return nil, withHint(errOtherPage, "open %s", c.origin)
	case route.method == "POST" && c.r.Header.Get("Content-Type") != "application/json":
		return nil, errRequestForm
	}
	if cookie, err := c.r.Cookie(cookieName); err == nil {
		c.account, c.in = c.server.store.signedIn(cookie.Value, c.now)
	}
	if !c.allowed() {
		return nil, errTooOften
	}
	if route.owner && c.account == nil {
		return nil, errSignedOut
	}
	if shown := c.r.Header.Get(accountHeader); route.owner && shown != "" && shown != c.account.id.String() {
		return nil, errOtherAccount
	}
	return route.do(c)
}

// allowed counts the request: of the sign-in, else of the address.
func (c *webCall) allowed() bool {
	if c.account == nil {
		return c.strangers.host(c.now, c.addr()).take(c.now, strangerWebGap, strangerWebBurst)
	}
	return c.signins.of(c.now, string(c.in.Hash)).take(c.now, ownerWebGap, ownerWebBurst)
}

// addr is who asks. A proxy tells for whom it does, last in its list; the rest of
// the list is whatever the asker wrote there.
func (c *webCall) addr() netip.Addr {
	at, _ := netip.ParseAddrPort(c.r.RemoteAddr)
	from := at.Addr().Unmap()
	list := c.r.Header.Values("X-Forwarded-For")
	if (from.IsLoopback() || c.proxied) && len(list) > 0 {
		last := list[len(list)-1]
		last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
		if it, err := netip.ParseAddrPort(last); err == nil {
			return it.Addr().Unmap()
		}
		if it, err := netip.ParseAddr(strings.Trim(last, "[]")); err == nil {
			return it.Unmap()
		}
	}
	return from
}

// webStatus is the status of each code that is not 400.
var webStatus = map[string]int{
	"signed-out": http.StatusUnauthorized, "other-page": http.StatusForbidden, "denied": http.StatusForbidden, "no-power": http.StatusForbidden,
	"signup-closed": http.StatusForbidden, "claim-unknown": http.StatusForbidden, "too-often": http.StatusTooManyRequests, "busy": http.StatusTooManyRequests,
	"limit": http.StatusTooManyRequests, "not-found": http.StatusNotFound, "method": http.StatusMethodNotAllowed, "unknown-device": http.StatusNotFound, "session-unknown": http.StatusNotFound,
	"stale-head": http.StatusConflict, "other-account": http.StatusConflict, "account-made": http.StatusConflict, "too-late": http.StatusConflict, "passkey-known": http.StatusConflict, "too-large": http.StatusRequestEntityTooLarge,
}

// fail answers with an error. What has no code is our own trouble.
func (c *webCall) fail(err error) {
	code := codeOf(err)
	if code == "" || code == "log-corrupt" {
		c.server.logf("page, %s: %v", c.r.URL.Path, err)
		pageError(c.w, http.StatusInternalServerError, coded("internal", "the coordinator failed, its log says why"))
		return
	}
	status := webStatus[code]
	if status == 0 {
		status = http.StatusBadRequest
	}
	if status == http.StatusTooManyRequests {
		c.w.Header().Set("Retry-After", "30")
	}
	pageError(c.w, status, err)
}

// readWeb reads what the page sends; it is all claims.
func readWeb[T any](c *webCall) (*T, error) {
	in := new(T)
	dec := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, maxWebBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(in)
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return nil, coded("too-large", "a request of more than %d bytes", large.Limit)
	}
	if err != nil {
		return nil, coded("request-malformed", "this request cannot be read: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errRequestForm
	}
	return in, nil
}

// doing makes a route of what reads its request and acts.
func doing[T any](c *webCall, do func(in *T) (any, error)) (any, error) {
	in, err := readWeb[T](c)
	if err != nil {
		return nil, err
	}
	return do(in)
}

// done is the answer where there is nothing to say.
var done = struct{}{}

// setCookie signs the browser in, or out by an empty value.
func (c *webCall) setCookie(value string, expires time.Time) {
	k := &http.Cookie{Name: cookieName, Value: value, Path: "/", Expires: expires, HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode}
	if value == "" {
		k.MaxAge = -1
	}
	http.SetCookie(c.w, k)
}

// passkeysWork reports whether browsers let a page at origin use passkeys: with
// TLS and by a name, or on this machine.
func passkeysWork(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	_, noName := netip.ParseAddr(u.Hostname())
	return noName != nil && (u.Scheme == "https" || u.Hostname() == "localhost" || strings.HasSuffix(u.Hostname(), ".localhost"))
}

// webOrigin is where people find the page: -url, else the name that a certificate
// is ordered for, else this machine's loopback, by the one name there that a
// passkey answers.
func webOrigin(given, domain string, tls bool, at net.Addr) (string, error) {
	_, port, err := net.SplitHostPort(at.String())
	switch {
	case given == "" && domain != "":
		given = "https://" + net.JoinHostPort(domain, port)
	case given == "" && tls:
		return "", usageError("-url is missing: the page's address, https:// and the name that the certificate is for")
	case given == "":
		return "http://localhost:" + port, err
	}
	u, err := url.Parse(given)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", usageError("-url %q is not of the form https://HOST", given)
	}
	host := strings.TrimSuffix(strings.ToLower(u.Host), map[string]string{"https": ":443", "http": ":80"}[u.Scheme])
	return u.Scheme + "://" + host, nil // as browsers write origins
}
