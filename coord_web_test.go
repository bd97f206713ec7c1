package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The page's requests without a browser: a passkey in memory answers.

const webTestOrigin = "https://coord.test"

// A webTest is a coordinator's page and a browser that keeps its cookie.
type webTest struct {
	t      testing.TB
	server *coordServer
	web    *coordWeb
	now    time.Time
	logged strings.Builder

	cookie string
	from   string
	signin *testPasskey
	signer *testPasskey
	user   string // handle of signin

	recovery recoveryKey

	same, sameSigner []byte // ids of passkeys that registers makes; nil = new ones
}

func newWebTest(t testing.TB, signup string) *webTest {
	w := &webTest{t: t, now: coordTestNow, from: "192.0.2.7:1"}
	w.start(coordTestOpen(t, t.TempDir(), signup))
	return w
}

// start begins anew on a store: the coordinator's process is another one.
func (w *webTest) start(store *coordStore) {
	id := webTestIdentity(w.t)
	w.server = &coordServer{store: store, sessions: sessionTestOpen(w.t, w.t.TempDir(), w.now), now: func() time.Time { return w.now }, page: webTestOrigin,
		logf: func(format string, args ...any) { fmt.Fprintf(&w.logged, format+"\n", args...) }}
	w.server.presence = newPresence(id, ourProto(), w.now, func([]byte, udpSource) {}, func() {})
	var err error
	if w.web, err = newCoordWeb(w.server, coordWord{addr: "coord.test:7722", keys: id.keys.coordID()}, webTestOrigin); err != nil {
		w.t.Fatal(err)
	}
}

func webTestIdentity(t testing.TB) *identity {
	t.Helper()
	id, err := loadIdentity(filepath.Join(t.TempDir(), "identity"))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// send makes a request and returns its status and body.
func (w *webTest) send(method, path, body string, change func(*http.Request)) (int, []byte) {
	w.t.Helper()
	r := httptest.NewRequest(method, webTestOrigin+path, strings.NewReader(body))
	r.RemoteAddr = w.from
	if method == "POST" {
		r.Header.Set("Origin", webTestOrigin)
		r.Header.Set("Content-Type", "application/json")
	}
	if w.cookie != "" {
		r.AddCookie(&http.Cookie{Name: cookieName, Value: w.cookie})
	}
	if change != nil {
		change(r)
	}
	out := httptest.NewRecorder()
	w.web.ServeHTTP(out, r)
	for _, c := range out.Result().Cookies() {
		if c.Name != cookieName || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
			w.t.Errorf("cookie %v", c)
		}
		w.cookie = c.Value
	}
	return out.Code, out.Body.Bytes()
}

// ask posts in and reads the answer into out; it returns the code of an error.
func (w *webTest) ask(path string, in, out any) string {
	w.t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		w.t.Fatal(err)
	}
	status, body := w.send("POST", "/api/"+path, string(b), nil)
	if status != http.StatusOK {
		var e pageErrorOut
		if json.Unmarshal(body, &e) != nil || e.Code == "" || e.Error == "" || status < 400 {
			w.t.Errorf("%s: status %d, %s", path, status, body)
		}
		return e.Code
	}
	if out != nil {
		if err := json.Unmarshal(body, out); err != nil {
			w.t.Fatal(err)
		}
	}
	return ""
}

func (w *webTest) must(path string, in, out any) {
	w.t.Helper()
	if code := w.ask(path, in, out); code != "" {
		w.t.Fatalf("%s: %s", path, code)
	}
}

// passkey is a new one of this page.
func (w *webTest) passkey(alg int64) *testPasskey {
	p := newTestPasskey(w.t, alg)
	p.rp = relyingParty{"coord.test", []string{webTestOrigin}}
	p.credential = make([]byte, 16)
	rand.Read(p.credential)
	return p
}

func unb64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := b64url.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// makes is what a browser answers where a passkey is made.
func (w *webTest) makes(p *testPasskey, ask webAsk) flowAnswer {
	r := p.create(unb64(w.t, ask.Challenge))
	return flowAnswer{Flow: ask.Flow, Answer: pageAnswer{ID: b64url.EncodeToString(p.credential), ClientData: b64url.EncodeToString(r.clientData), Attestation: b64url.EncodeToString(r.attestation)}}
}

// uses is what it answers where one is used.
func (w *webTest) uses(p *testPasskey, ask webAsk, user string) flowAnswer {
	a := p.get(unb64(w.t, ask.Challenge))
	return flowAnswer{Flow: ask.Flow, Answer: pageAnswer{ID: b64url.EncodeToString(p.credential), ClientData: b64url.EncodeToString(a.clientData),
		AuthData: b64url.EncodeToString(a.authData), Signature: b64url.EncodeToString(a.signature), User: user}}
}

// registers makes an account; before changes the last answer.
func (w *webTest) registers(claim claimSecret, before func(*flowAnswer)) string {
	w.t.Helper()
	w.signin, w.signer = w.passkey(coseES256), w.passkey(coseEdDSA)
	if w.same != nil {
		w.signin.credential = w.same
	}
	if w.sameSigner != nil {
		w.signer.credential = w.sameSigner
	}
	fragment := strings.TrimPrefix(claimFragment(claim), "#claim=")
	if claim == (claimSecret{}) {
		fragment = ""
	}
	var ask webAsk
	if code := w.ask("register/begin", map[string]string{"claim": fragment, "label": "anna"}, &ask); code != "" {
		return code
	}
	w.user = ask.UserID
	w.must("register/signin", w.makes(w.signin, ask), &ask)
	if ask.UserID == w.user || !strings.Contains(ask.UserName, "ADD OR REMOVE") {
		w.t.Errorf("the second passkey is asked for as %+v", ask)
	}
	made := w.makes(w.signer, ask)
	var st webStatement
	w.recovery = newRecoveryKey()
	w.must("register/signer", map[string]any{"flow": made.Flow, "answer": made.Answer, "recovery": b64url.EncodeToString(w.recovery.line().key[len(w.recovery.line().key)-32:])}, &st)
	st.Need[0].Flow = st.Flow
	last := w.uses(w.signer, st.Need[0], "")
	if before != nil {
		before(&last)
	}
	return w.ask("register/finish", last, nil)
}

// newOwner is an account made at the page, signed in.
func newOwner(t testing.TB) *webTest {
	w := newWebTest(t, signupClaim)
	if code := w.registers(w.server.store.unusedClaim(), nil); code != "" {
		t.Fatal(code)
	}
	return w
}

func (w *webTest) account() *coordAccount {
	a, _ := w.server.store.signedIn(w.cookie, w.now)
	if a == nil {
		w.t.Fatal("not signed in")
	}
	return a
}

func (w *webTest) signsIn(p *testPasskey, user string) string {
	w.t.Helper()
	var ask webAsk
	w.must("signin/begin", struct{}{}, &ask)
	return w.ask("signin/finish", w.uses(p, ask, user), nil)
}

// join makes a machine wait, as if its ticket had been made by the page.
func (w *webTest) join(name string) publicKeys {
	w.t.Helper()
	var secret ticketSecret
	copy(secret[:], name)
	hash := hashTicket(secret)
	w.must("ticket", map[string]any{"hash": b64url.EncodeToString(hash[:]), "name": name, "roles": []string{"server"}, "categories": []string{"lab"}}, nil)
	keys := webTestIdentity(w.t).keys
	a := w.account()
	if _, err := a.join(pendingJoin{keys: keys, ticket: hash, name: "other", login: "root", proof: joinProof(secret, a.id, keys, "other", "root"), time: w.now.Unix()}, w.now); err != nil {
		w.t.Fatal(err)
	}
	return keys
}

// signs has a statement signed by the passkeys that are asked.
func (w *webTest) signs(wish any, by ...*testPasskey) string {
	w.t.Helper()
	var st webStatement
	if code := w.ask("statement", wish, &st); code != "" {
		return code
	}
	return w.signsText(st, by...)
}

func (w *webTest) signsText(st webStatement, by ...*testPasskey) string {
	w.t.Helper()
	var answers []pageAnswer
	for i, p := range by {
		answers = append(answers, w.uses(p, st.Need[i], "").Answer)
	}
	return w.ask("sign", map[string]any{"text": st.Text, "answers": answers}, nil)
}

func TestWebClaim(t *testing.T) {
	w := newWebTest(t, signupClaim)
	claim := w.server.store.unusedClaim()
	if code := w.registers(claimSecret{9}, nil); code != "claim-unknown" {
		t.Errorf("another claim: %q", code)
	}
	if code := w.registers(claim, func(a *flowAnswer) { a.Answer.Signature = a.Answer.ClientData }); code != "wa-signature" && code != "sig-invalid" {
		t.Errorf("a wrong signature: %q", code)
	}
	if n := len(w.server.store.list()); n != 0 {
		t.Fatalf("%d accounts without a right signature", n)
	}
	var again flowAnswer
	if code := w.registers(claim, func(a *flowAnswer) { again = *a }); code != "" {
		t.Fatalf("the claim: %q", code)
	}
	if code := w.ask("register/finish", again, nil); code != "account-made" {
		t.Errorf("replayed: %q", code)
	}
	if code := w.registers(claim, nil); code != "claim-unknown" {
		t.Errorf("the claim again: %q", code)
	}
	if strings.Contains(w.logged.String(), strings.TrimPrefix(claimFragment(claim), "#claim=")) {
		t.Error("the claim is in the log")
	}
}

func TestWebSignup(t *testing.T) {
	w := newWebTest(t, signupClosed)
	if code := w.registers(claimSecret{}, nil); code != "signup-closed" {
		t.Errorf("closed: %q", code)
	}
	w = newWebTest(t, signupOpen)
	for range 2 {
		if code := w.registers(claimSecret{}, nil); code != "" {
			t.Errorf("open: %q", code)
		}
		w.join("attic") // two accounts may have a device of one name
	}
}

// The id of a passkey is what its maker says: it takes nobody's place.
func TestWebPasskeyOfAnother(t *testing.T) {
	w := newWebTest(t, signupOpen)
	if code := w.registers(claimSecret{}, nil); code != "" {
		t.Fatal(code)
	}
	id, signin, signer, user := w.account().id, w.signin, w.signer, w.user
	w.same = signin.credential
	if code := w.registers(claimSecret{}, nil); code != "passkey-known" {
		t.Errorf("a passkey with another's id: %q", code)
	}
	w.same = nil
	for range 8 { // accounts come in any order
		w.sameSigner = signer.credential
		if code := w.registers(claimSecret{}, nil); code != "" {
			t.Fatal(code)
		}
		w.now = w.now.Add(time.Hour)
	}
	if code := w.signsIn(signin, user); code != "" || w.account().id != id {
		t.Errorf("the first one signs in: %q", code)
	}
	for range 8 {
		var ask webAsk
		w.must("prove/begin", struct{}{}, &ask)
		w.must("prove/finish", w.uses(signer, ask, ""), &ask)
	}
}

func TestWebSignsIn(t *testing.T) {
	w := newOwner(t)
	id := w.account().id
	w.must("signout", struct{}{}, nil)
	if status, _ := w.send("GET", "/api/log", "", nil); status != http.StatusUnauthorized {
		t.Errorf("signed out: status %d", status)
	}
	if code := w.signsIn(w.signin, w.user); code != "" || w.account().id != id {
		t.Fatalf("the passkey: %q", code)
	}
	first := w.cookie
	if code := w.signsIn(w.signin, w.user); code != "" || w.cookie == first {
		t.Errorf("each sign-in has a secret of its own: %q", code)
	}
	for _, tt := range []struct {
		name, code string
		user       string
		change     func(p *testPasskey)
	}{
		{"the passkey that signs", "passkey-unknown", w.user, func(p *testPasskey) { *p = *w.signer }},
		{"no handle", "", "", nil}, // browsers leave it out where the page has named the passkey
		{"another handle", "passkey-unknown", b64url.EncodeToString([]byte("0123456789abcdef")), nil},
		{"another origin", "wa-origin", w.user, func(p *testPasskey) { p.rp.origins = []string{"https://coord.test.evil"} }},
		{"another relying party", "wa-rpid", w.user, func(p *testPasskey) { p.rp.id = "evil" }},
		{"user not verified", "wa-uv", w.user, func(p *testPasskey) { p.flags &^= flagUV }},
		{"user not present", "wa-up", w.user, func(p *testPasskey) { p.flags &^= flagUP }},
		{"eligible for backup all at once", "wa-backup", w.user, func(p *testPasskey) { p.flags ^= flagBE }},
		{"another key", "wa-signature", w.user, func(p *testPasskey) { p.priv = newTestPasskey(t, coseES256).priv }},
	} {
		p := *w.signin
		if tt.change != nil {
			tt.change(&p)
		}
		if code := w.signsIn(&p, tt.user); code != tt.code {
			t.Errorf("%s: %q, want %q", tt.name, code, tt.code)
		}
	}
}

// A sign-in that was answered once is answered no more, nor late, nor with what
// was signed for another.
func TestWebSigninIsFresh(t *testing.T) {
	w := newOwner(t)
	var ask, other webAsk
	w.must("signin/begin", struct{}{}, &ask)
	w.must("signin/begin", struct{}{}, &other)
	mixed := w.uses(w.signin, ask, w.user)
	mixed.Flow = other.Flow
	if code := w.ask("signin/finish", mixed, nil); code != "wa-challenge" {
		t.Errorf("another sign-in's answer: %q", code)
	}
	good := w.uses(w.signin, ask, w.user)
	w.must("signin/finish", good, nil)
	if code := w.ask("signin/finish", good, nil); code != "too-late" {
		t.Errorf("again: %q", code)
	}
	w.must("signin/begin", struct{}{}, &ask)
	late := w.uses(w.signin, ask, w.user)
	w.now = w.now.Add(flowLife)
	if code := w.ask("signin/finish", late, nil); code != "too-late" {
		t.Errorf("late: %q", code)
	}
	var st webStatement
	keys := w.join("attic")
	w.must("statement", map[string]any{"op": "device.add", "device": keys.deviceID()}, &st)
	w.must("signin/begin", struct{}{}, &ask)
	signed := w.uses(w.signer, st.Need[0], w.user)
	signed.Flow, signed.Answer.ID = ask.Flow, b64url.EncodeToString(w.signin.credential)
	if code := w.ask("signin/finish", signed, nil); code != "wa-challenge" {
		t.Errorf("a statement's signature as a sign-in: %q", code)
	}
	w.must("signin/begin", struct{}{}, &ask)
	tap := w.uses(w.signer, ask, "").Answer
	if code := w.ask("sign", map[string]any{"text": st.Text, "answers": []pageAnswer{tap}}, nil); code != "sig-invalid" {
		t.Errorf("a sign-in as a statement's signature: %q", code)
	}
	if code := w.signsText(st, w.signin); code != "no-power" {
		t.Errorf("the passkey that signs in signs a statement: %q", code)
	}
}

func TestWebSigninEnds(t *testing.T) {
	w := newOwner(t)
	a := w.account()
	w.now = w.now.Add(signinLife - time.Second)
	if status, _ := w.send("GET", "/api/log", "", nil); status != http.StatusOK {
		t.Errorf("a second before its end: status %d", status)
	}
	w.now = w.now.Add(time.Second)
	if status, body := w.send("GET", "/api/log", "", nil); status != http.StatusUnauthorized || !bytes.Contains(body, []byte("signed-out")) {
		t.Errorf("at its end: status %d, %s", status, body)
	}
	w.cookie = ""
	for range maxSignins + 3 {
		w.cookie = "" // each is another browser
		if code := w.signsIn(w.signin, w.user); code != "" {
			t.Fatal(code)
		}
		w.now = w.now.Add(time.Minute)
	}
	if n := len(a.ownerNow().Signins); n != maxSignins {
		t.Errorf("%d browsers are signed in, at most %d", n, maxSignins)
	}
}

// What is on disk lets nobody in, and is known again after a restart.
func TestWebOwnerOnDisk(t *testing.T) {
	w := newOwner(t)
	w.join("attic")
	secret := strings.SplitN(w.cookie, ".", 2)[1]
	content, err := readFileString(w.account().ownerFile())
	if err != nil {
		t.Fatal(err)
	}
	raw := unb64(t, secret)
	for _, s := range []string{secret, fmt.Sprintf("%x", raw), b64(raw)} {
		if strings.Contains(content, s) {
			t.Error("the file has the cookie's secret")
		}
	}
	sum := sha256.Sum256(raw)
	if !strings.Contains(content, b64(sum[:])) {
		t.Error("the file has not the secret's hash either")
	}
	dir := w.server.store.dir
	w.start(coordTestOpen(t, dir, signupClaim))
	w.account()
	if code := w.signsIn(w.signin, w.user); code != "" {
		t.Errorf("after a restart: %q", code)
	}
	var list []recordView
	if status, body := w.send("GET", "/api/log", "", nil); status != 200 || json.Unmarshal(body, &list) != nil || len(list) != 1 || list[0].Title != "Make the account" {
		t.Errorf("history: %d %s", status, body)
	}
}

func TestWebDeviceLife(t *testing.T) {
	w := newOwner(t)
	keys := w.join("attic")
	see := func() *accountView {
		t.Helper()
		call := &webCall{coordWeb: w.web, now: w.now}
		call.account, call.in = w.server.store.signedIn(w.cookie, w.now)
		v, err := call.view(w.now)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := see()
	if len(v.Waiting) != 1 || v.Waiting[0].Name != "attic" || v.Waiting[0].Words != keys.deviceWords() || !slices.Equal(v.Waiting[0].Categories, []string{"lab"}) || !v.SignsHere {
		t.Fatalf("waiting: %+v", v)
	}
	id := string(keys.deviceID())
	if code := w.signs(map[string]any{"op": "device.add", "device": id, "name": "attic", "roles": []string{"server"}}, w.signer); code != "" {
		t.Fatal(code)
	}
	if v = see(); len(v.Waiting) != 0 || len(v.Devices) != 1 || !slices.Equal(v.Devices[0].Users, []string{"root"}) || !slices.Equal(v.Categories, []string{"lab"}) {
		t.Fatalf("signed: %+v", v)
	}
	w.must("categories", map[string]any{"device": id, "categories": []string{"roof", "lab"}}, nil)
	if code := w.ask("categories", map[string]any{"device": id, "categories": []string{"\x1b[2J"}}, nil); code != "request-malformed" {
		t.Errorf("a category of control bytes: %q", code)
	}
	if code := w.signs(map[string]any{"op": "device.update", "device": id, "users": []string{"ann"}}, w.signer); code != "" {
		t.Fatal(code)
	}
	for _, list := range []string{"roles", "users", "caps"} {
		if code := w.ask("statement", map[string]any{"op": "device.update", "device": id, list: []string{}}, nil); code != "request-malformed" {
			t.Errorf("all %s taken away: %q", list, code)
		}
	}
	if v = see(); !slices.Equal(v.Devices[0].Users, []string{"ann"}) || !slices.Equal(v.Devices[0].Categories, []string{"lab", "roof"}) || v.Devices[0].Name != "attic" {
		t.Errorf("updated: %+v", v.Devices)
	}
	second := w.passkey(coseRS256)
	var ask webAsk
	w.must("signer/begin", map[string]string{"label": "second", "powers": "d"}, &ask)
	if len(ask.Credentials) != 1 {
		t.Errorf("a passkey that signs already may be made again: %+v", ask)
	}
	var st webStatement
	w.must("signer/finish", w.makes(second, ask), &st)
	if code := w.signsText(st, w.signer); code != "no-possession" {
		t.Errorf("a signer that has not signed: %q", code)
	}
	if code := w.signsText(st, w.signer, second); code != "" {
		t.Fatal(code)
	}
	if code := w.signs(map[string]any{"op": "signer.remove", "signer": second.id()}, second); code != "no-power" {
		t.Errorf("a signer of devices signs for signers: %q", code)
	}
	if code := w.signs(map[string]any{"op": "device.revoke", "devices": []string{id}, "reason": "lost"}, second); code != "" {
		t.Fatal(code)
	}
	if code := w.signs(map[string]any{"op": "signer.remove", "signer": second.id()}, w.signer); code != "" {
		t.Fatal(code)
	}
	if v = see(); len(v.Devices)+len(v.Categories) != 0 || len(v.Signers) != 2 || v.Seq != 5 {
		t.Errorf("in the end: %+v", v)
	}
	if code := w.signs(map[string]any{"op": "device.revoke", "devices": []string{id}, "reason": "lost"}, w.signer); code == "" {
		t.Error("revoked twice")
	}
	state, _ := w.account().snapshot(w.now)
	records, err := w.account().records(0, 9)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range records {
		if _, _, err := exportRecord(state, raw); err != nil {
			t.Error(err)
		}
	}
}

// Two pages sign at once: one is told that the log has gone on.
func TestWebStale(t *testing.T) {
	w := newOwner(t)
	a, b := w.join("attic"), w.join("cellar")
	var one, two webStatement
	w.must("statement", map[string]any{"op": "device.add", "device": a.deviceID()}, &one)
	w.must("statement", map[string]any{"op": "device.add", "device": b.deviceID()}, &two)
	if code := w.signsText(one, w.signer); code != "" {
		t.Fatal(code)
	}
	if code := w.signsText(two, w.signer); code != "stale-head" {
		t.Errorf("the second: %q", code)
	}
}

func TestWebPasskeys(t *testing.T) {
	w := newOwner(t)
	second := w.passkey(coseRS256)
	var ask webAsk
	w.must("passkey/begin", map[string]string{"label": "phone"}, &ask)
	w.must("enrol/finish", w.makes(second, ask), nil)
	user := ask.UserID
	if code := w.signsIn(second, user); code != "" {
		t.Errorf("the second passkey: %q", code)
	}
	gone := w.cookie
	if code := w.signsIn(w.signin, w.user); code != "" {
		t.Fatal(code)
	}
	w.must("passkey/remove", map[string]string{"id": b64url.EncodeToString(second.credential)}, nil)
	if a, _ := w.server.store.signedIn(gone, w.now); a != nil {
		t.Error("who came by a passkey that is removed is signed in still")
	}
	if code := w.signsIn(second, user); code != "passkey-unknown" {
		t.Errorf("a removed passkey: %q", code)
	}
	if code := w.ask("passkey/remove", map[string]string{"id": b64url.EncodeToString(w.signin.credential)}, nil); code != "op-invalid" {
		t.Errorf("the last one: %q", code)
	}
	// all are lost: the one that signs lets another one sign in
	third := w.passkey(coseES256)
	w.cookie = ""
	w.must("prove/begin", struct{}{}, &ask)
	if code := w.ask("prove/finish", w.uses(third, ask, ""), nil); code != "no-power" {
		t.Errorf("a passkey of nobody proves: %q", code)
	}
	w.must("prove/begin", struct{}{}, &ask)
	proof := w.uses(w.signer, ask, "")
	w.must("prove/finish", proof, &ask)
	if code := w.ask("prove/finish", proof, nil); code != "too-late" {
		t.Errorf("a proof replayed: %q", code)
	}
	w.must("enrol/finish", w.makes(third, ask), nil)
	w.account()
}
