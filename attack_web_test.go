package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// What somebody may try at the coordinator's page who is not its owner, or not
// any more.

// One account's owner takes no room from another's, nor from strangers.
func TestAttackWebFlowsOfAnAccount(t *testing.T) {
	w := newWebTest(t, signupOpen)
	w.registers(claimSecret{}, nil)
	signin, user := w.signin, w.user
	w.cookie = ""
	w.registers(claimSecret{}, nil)
	refused := ""
	for range maxOwnerFlows + 1 {
		w.now = w.now.Add(time.Second / 2)
		for _, step := range []string{"signin/begin", "prove/begin"} {
			refused = w.ask(step, struct{}{}, nil)
		}
	}
	if n := len(w.server.flows.list); refused != "too-often" || n > maxOwnerFlows+4 {
		t.Errorf("%d ceremonies of one account, then %q", n, refused)
	}
	w.must("signout/others", struct{}{}, nil)
	w.cookie = ""
	if code := w.signsIn(signin, user); code != "" {
		t.Errorf("the owner of another signs in: %q", code)
	}
}

// Thrown out, one does not come back by what one has begun before.
func TestAttackWebEnrolAfterSignout(t *testing.T) {
	w := newOwner(t)
	second := w.passkey(coseES256)
	var ask, later webAsk
	w.must("passkey/begin", map[string]string{"label": "phone"}, &ask)
	w.must("enrol/finish", w.makes(second, ask), nil)
	w.must("passkey/begin", map[string]string{"label": "later"}, &later)
	thief := w.cookie
	w.cookie = ""
	if code := w.signsIn(w.signin, w.user); code != "" {
		t.Fatal(code)
	}
	w.must("passkey/remove", map[string]string{"id": b64url.EncodeToString(second.credential)}, nil)
	w.cookie = thief
	if code := w.ask("enrol/finish", w.makes(w.passkey(coseES256), later), nil); code != "signed-out" {
		t.Errorf("who was thrown out makes a passkey: %q", code)
	}
}

// A link that opens another account says so, and a tab acts on the account that
// it shows.
func TestAttackWebOtherAccount(t *testing.T) {
	w := newWebTest(t, signupOpen)
	w.registers(claimSecret{}, nil)
	eve := w.account()
	w.cookie = ""
	w.registers(claimSecret{}, nil)
	anna := w.account()
	code, err := w.server.flows.put(w.now, webFlow{kind: "enrol", acct: eve.id, label: "anna"})
	if err != nil {
		t.Fatal(err)
	}
	var ask enrolAsk
	w.must("enrol/begin", map[string]string{"code": code}, &ask)
	if ask.Account != acctWords(eve.id) {
		t.Errorf("the page can show %q", ask.Account)
	}
	status, body := w.send("POST", "/api/sessions/revoke", `{"all":true}`, func(r *http.Request) { r.Header.Set(accountHeader, eve.id.String()) })
	if status != http.StatusConflict || !bytes.Contains(body, []byte("other-account")) {
		t.Errorf("a tab that shows another account: %d %s", status, body)
	}
	if status, _ := w.send("POST", "/api/sessions/revoke", `{"all":true}`, func(r *http.Request) { r.Header.Set(accountHeader, anna.id.String()) }); status == http.StatusConflict {
		t.Error("a tab that shows this account is refused")
	}
	old := w.cookie
	if code := w.signsIn(w.signin, w.user); code != "" {
		t.Fatal(code)
	}
	if a, _ := w.server.store.signedIn(old, w.now); a != nil {
		t.Error("the sign-in that a browser had goes on beside the new one")
	}
}

func TestAttackWebFlowsFull(t *testing.T) {
	w := newOwner(t)
	cookie := w.cookie
	w.cookie = ""
	for range 70 {
		for a := range 22 {
			w.from = fmt.Sprintf("198.51.100.%d:1", a)
			w.ask("signin/begin", struct{}{}, nil)
		}
		w.now = w.now.Add(time.Second)
	}
	w.from = "192.0.2.7:1"
	if code := w.signsIn(w.signin, w.user); code != "" {
		t.Errorf("the owner signs in: %q", code)
	}
	w.cookie = cookie
	for a := range 110 { // strangers take three quarters at most
		w.from = fmt.Sprintf("203.0.113.%d:1", a)
		for range strangerWebBurst {
			w.cookie = ""
			w.ask("signin/begin", struct{}{}, nil)
		}
	}
	w.from, w.cookie = "192.0.2.8:1", ""
	if code := w.signsIn(w.signin, w.user); code != "" {
		t.Errorf("the owner signs in from one address more: %q", code)
	}
	w.cookie = cookie
	if code := w.ask("passkey/begin", map[string]string{"label": "phone"}, nil); code != "" {
		t.Errorf("who is signed in begins something: %q", code)
	}
}

func TestAttackWebProofsBusy(t *testing.T) {
	w := newOwner(t)
	w.cookie = ""
	for range 41 {
		for a := range 3 {
			w.from = fmt.Sprintf("198.51.100.%d:1", a)
			var ask webAsk
			w.ask("prove/begin", struct{}{}, &ask)
			w.ask("prove/finish", flowAnswer{Flow: ask.Flow}, nil)
		}
		w.now = w.now.Add(2 * time.Second)
	}
	w.from = "192.0.2.7:1"
	var ask webAsk
	w.must("prove/begin", struct{}{}, &ask)
	if code := w.ask("prove/finish", w.uses(w.signer, ask, ""), &ask); code != "" {
		t.Errorf("the owner: %q", code)
	}
}

// Who was let in by a signer goes with it; a recovery lets everybody go.
func TestAttackWebRemovedSigner(t *testing.T) {
	w := newOwner(t)
	second, friend, late := w.passkey(coseRS256), w.passkey(coseES256), w.passkey(coseES256)
	byFriend, later := w.passkey(coseES256), w.passkey(coseES256)
	var ask webAsk
	w.must("signer/begin", map[string]string{"label": "second", "powers": "ds"}, &ask)
	var st webStatement
	w.must("signer/finish", w.makes(second, ask), &st)
	if code := w.signsText(st, w.signer, second); code != "" {
		t.Fatal(code)
	}
	owner := w.cookie
	proves := func() (e enrolAsk) {
		w.cookie = ""
		w.must("prove/begin", struct{}{}, &ask)
		w.must("prove/finish", w.uses(second, ask, ""), &e)
		return e
	}
	made := proves()
	w.must("enrol/finish", w.makes(friend, made.webAsk), nil)
	w.must("passkey/begin", map[string]string{"label": "more"}, &ask)
	more := ask.UserID
	w.must("enrol/finish", w.makes(byFriend, ask), nil) // one step further from the signer
	thief := w.cookie
	var begun enrolAsk
	w.must("passkey/begin", map[string]string{"label": "late"}, &begun)
	pending := proves()
	w.cookie = owner
	if code := w.signs(map[string]any{"op": "signer.remove", "signer": second.id()}, w.signer); code != "" {
		t.Fatal(code)
	}
	if a, _ := w.server.store.signedIn(thief, w.now); a != nil {
		t.Error("who was let in by a removed signer is signed in still")
	}
	w.cookie = ""
	if code := w.ask("enrol/finish", w.makes(late, pending.webAsk), nil); code != "no-power" {
		t.Errorf("a proof of a removed signer: %q", code)
	}
	if code := w.signsIn(byFriend, more); code != "passkey-unknown" {
		t.Errorf("a passkey made by one that a removed signer let in: %q", code)
	}
	if code := w.ask("enrol/finish", w.makes(later, begun.webAsk), nil); code != "no-power" {
		t.Errorf("one begun by such a passkey: %q", code)
	}
	if code := w.signsIn(w.signin, w.user); code != "" {
		t.Errorf("who signed in before: %q", code)
	}
}

// Who was let in by a signer that is gone stays out though the file that says so
// could not be written, also after a restart.
func TestAttackWebRemovedUnwritten(t *testing.T) {
	newLine, newKey := trustTestLine(trustTestKey("new"), "ds", "new"), trustTestKey("new")
	paper := newRecoveryKey()
	for op, byPaper := range map[string]bool{"signer.remove": false, "signer.add": true, "recover": true} {
		w := newOwner(t)
		a, friend := w.account(), w.passkey(coseES256)
		appends := func(text []byte, err error, by ...stmtSigner) {
			t.Helper()
			raw, bad := signRecord(text, by...)
			if err = errors.Join(err, bad); err == nil {
				_, err = w.server.appendRecord(a, raw)
			}
			if err != nil {
				t.Fatal(op, err)
			}
		}
		state := func() *trustState { s, _ := a.snapshot(w.now); return s }
		second := trustTestKey("second")
		text, err := buildSignerAdd(state(), trustTestLine(second, "ds", "second"), w.now)
		appends(text, err, w.signer, second)
		f := webFlow{kind: "enrol", acct: a.id, label: "friend", by: second.id()}
		if byPaper {
			f.by = w.recovery.signer().id()
		}
		code, err := w.server.flows.put(w.now, f)
		if err != nil {
			t.Fatal(err)
		}
		var ask enrolAsk
		w.must("enrol/begin", map[string]string{"code": code}, &ask)
		w.must("enrol/finish", w.makes(friend, ask.webAsk), nil)
		thief := w.cookie
		old, err := os.ReadFile(a.ownerFile())
		if err := errors.Join(err, os.Remove(a.ownerFile()), os.MkdirAll(a.ownerFile()+"/full", 0o700)); err != nil {
			t.Fatal(err)
		}
		switch op {
		case "signer.remove":
			text, err = buildSignerRemove(state(), second.id(), 0, w.now)
			appends(text, err, w.signer)
		case "signer.add":
			text, err = buildSignerAdd(state(), paper.line(), w.now)
			appends(text, err, w.recovery.signer(), paper.signer())
		case "recover":
			text, err = buildRecover(state(), 0, []signerLine{newLine}, w.now)
			appends(text, err, w.recovery.signer(), newKey)
		}
		if !strings.Contains(w.logged.String(), "who signs in") {
			t.Errorf("%s: the file was written", op)
		}
		for _, when := range []string{"now", "after a restart"} {
			if when != "now" {
				if err := errors.Join(os.RemoveAll(a.ownerFile()), os.WriteFile(a.ownerFile(), old, 0o600)); err != nil {
					t.Fatal(err)
				}
				w.start(coordTestOpen(t, w.server.store.dir, signupClaim))
				if a, err = w.server.store.account(a.id); err != nil {
					t.Fatal(err)
				}
			}
			if in, _ := w.server.store.signedIn(thief, w.now); in != nil {
				t.Errorf("%s: signed in still, %s", op, when)
			}
			w.cookie = ""
			if code := w.signsIn(friend, ask.UserID); code != "passkey-unknown" {
				t.Errorf("%s: signs in %s: %q", op, when, code)
			}
			want := map[bool]string{true: "passkey-unknown"}[op == "recover"]
			if when == "now" && want == "" {
				continue // the file is a directory
			}
			if code := w.signsIn(w.signin, w.user); code != want {
				t.Errorf("%s: the owner %s: %q, want %q", op, when, code, want)
			}
			if when == "now" {
				continue
			}
			text, err = buildSignerAdd(state(), trustTestLine(trustTestKey("more"), "d", "more"), w.now)
			by := stmtSigner(w.signer)
			if op == "recover" {
				by = newKey
			}
			appends(text, err, by, trustTestKey("more"))
			if o := a.ownerNow(); o.key(friend.credential) != nil {
				t.Errorf("%s: it is never cleared away", op)
			}
		}
	}
}

// A thief's requests do not keep the owner from sending him away.
func TestAttackWebOwnersGate(t *testing.T) {
	w := newOwner(t)
	thief := w.cookie
	w.cookie = ""
	if code := w.signsIn(w.signin, w.user); code != "" {
		t.Fatal(code)
	}
	owner := w.cookie
	for range ownerWebBurst + 5 {
		w.cookie = thief
		w.ask("categories", map[string]string{}, nil)
	}
	w.cookie = owner
	w.must("signout/others", struct{}{}, nil)
	if a, _ := w.server.store.signedIn(thief, w.now); a != nil {
		t.Error("the thief is signed in still")
	}
}

// An answer that was lost on its way is not the account's end.
func TestWebRegisterAnswerLost(t *testing.T) {
	w := newWebTest(t, signupClaim)
	var last flowAnswer
	if code := w.registers(w.server.store.unusedClaim(), func(a *flowAnswer) { last = *a }); code != "" {
		t.Fatal(code)
	}
	w.cookie = ""
	if code := w.ask("register/finish", last, nil); code != "account-made" || w.cookie != "" {
		t.Errorf("the same again: %q", code)
	}
	if code := w.signsIn(w.signin, w.user); code != "" {
		t.Error(code)
	}
}

// A page never reads null where it counts on a list.
func TestWebNoNulls(t *testing.T) {
	w := newOwner(t)
	keys := w.join("attic")
	if code := w.signs(map[string]any{"op": "device.add", "device": keys.deviceID()}, w.signer); code != "" {
		t.Fatal(code)
	}
	state, _ := w.account().snapshot(w.now)
	bare, err := buildDeviceUpdate(state, keys.deviceID(), newDeviceGrant("attic", []string{"server"}, nil, deviceCaps, 0), w.now)
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Replace(bare, []byte("op device.update"), []byte("op device.polish"), 1)
	for _, text := range [][]byte{bare, bytes.Replace(bytes.Replace(text, []byte("seq 2"), []byte("seq 3"), 1), []byte(fmt.Sprintf("prev %x", state.head())), fmt.Appendf(nil, "prev %x", hashStatement(bare)), 1)} {
		raw, err := signRecord(text, w.signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.server.appendRecord(w.account(), raw); err != nil {
			t.Fatal(err)
		}
	}
	call := &webCall{coordWeb: w.web, now: w.now}
	call.account, call.in = w.server.store.signedIn(w.cookie, w.now)
	v, err := call.view(w.now)
	if err != nil {
		t.Fatal(err)
	}
	shown, _ := json.Marshal(v.Devices[0].Users)
	_, list := w.send("GET", "/api/log", "", nil)
	if string(shown) != "[]" || bytes.Contains(list, []byte("null")) {
		t.Errorf("%s, %s", shown, list)
	}
}

// Damage to who signs in takes the page away, and no device.
func TestWebOwnerDamaged(t *testing.T) {
	w := newOwner(t)
	id := w.account().id
	if err := os.WriteFile(w.account().ownerFile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	said := 0
	s, err := openCoordStore(w.server.store.dir, signupClaim, func(format string, args ...any) { said++ })
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.account(id)
	if err != nil || said != 1 {
		t.Fatalf("%v, said %d times", err, said)
	}
	if _, err := os.Stat(a.ownerFile() + ".damaged"); err != nil {
		t.Error(err)
	}
	if err := a.setCategories("dx", nil, w.now); err != nil {
		t.Error(err)
	}
}

// Tickets that are taken back leave nothing, and categories go with who is
// refused; asking again undoes no sorting.
func TestWebTicketsLeaveNothing(t *testing.T) {
	w := newOwner(t)
	a := w.account()
	for i := range maxTickets + maxPending + 10 {
		hash := b64url.EncodeToString(append(make([]byte, 30), byte(i), byte(i>>8)))
		w.must("ticket", map[string]any{"hash": hash, "name": "x", "categories": []string{"lab"}}, nil)
		w.must("ticket/cancel", map[string]string{"hash": hash}, nil)
		w.now = w.now.Add(time.Second / 4)
	}
	if n := len(a.ownerNow().Wishes); n != 0 {
		t.Errorf("%d wishes", n)
	}
	keys := w.join("attic")
	w.must("categories", map[string]any{"device": keys.deviceID(), "categories": []string{"roof"}}, nil)
	var secret ticketSecret
	copy(secret[:], "attic")
	if _, err := a.join(pendingJoin{keys: keys, ticket: hashTicket(secret), name: "other", login: "root", time: w.now.Unix()}, w.now); err != nil {
		t.Fatal(err)
	}
	if got := a.ownerNow().Categories[keys.deviceID()]; len(got) != 1 || got[0] != "roof" {
		t.Errorf("asked again it is sorted under %q", got)
	}
	w.must("waiting/refuse", map[string]string{"device": string(keys.deviceID())}, nil)
	if n := len(a.ownerNow().Categories); n != 0 {
		t.Errorf("categories of %d devices", n)
	}
}

func TestWebPasskeysWork(t *testing.T) {
	for origin, want := range map[string]bool{"https://coord.test": true, "https://coord.test:8443": true, "http://localhost:1": true, "http://a.localhost": true,
		"https://192.0.2.1": false, "https://[2001:db8::1]": false, "http://coord.test": false, "http://127.0.0.1:1": false} {
		if passkeysWork(origin) != want {
			t.Errorf("%s: %t", origin, !want)
		}
	}
}
