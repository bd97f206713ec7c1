//go:build !windows

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The coordinator's page in a real browser, with a virtual authenticator, and
// real processes around it.

// A coordBrowser is a browser at a coordinator's page, beside a script.
type coordBrowser struct {
	*browser
	*script
	secrets []string // that the coordinator's log must not have
}

// newCoordBrowser starts a coordinator; flags are further ones of its.
func newCoordBrowser(t *testing.T, flags string) *coordBrowser {
	b := &coordBrowser{browser: newBrowser(t), script: newScript(t, t.Name())}
	b.authenticator()
	b.script.run(`
		on vps
		tool -coordinator -udp 127.0.0.1:0 -http 127.0.0.1:0 ` + flags + ` &vps
		wait vps 'run\n'
		capture COORD vps 's1/[^ \n]+'
		capture URL vps '(http://localhost:[0-9]+)/'
		capture PAGE vps '(http://localhost:[0-9]+/#[^ \n]*)'`)
	return b
}

// fill writes into what a selector finds, as a person does.
func (b *browser) fill(selector, value string) {
	b.t.Helper()
	b.until(fmt.Sprintf("!!document.querySelector(%q)", selector))
	if _, err := b.js(fmt.Sprintf("(e => { e.value = %q; e.dispatchEvent(new Event('input', { bubbles: true })); })(document.querySelector(%q))", value, selector)); err != nil {
		b.t.Fatal(err)
	}
}

// press clicks the button that begins with a text: in the dialog, if one is
// open.
func (b *browser) press(text string) {
	b.t.Helper()
	find := fmt.Sprintf("[...(document.querySelector('dialog[open]') || document).querySelectorAll('button')].find(e => e.textContent.startsWith(%q))", text)
	b.until(fmt.Sprintf("(e => !!e && !e.disabled)(%s)", find))
	if _, err := b.js(fmt.Sprintf("%s.click()", find)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) text(selector string) string {
	b.t.Helper()
	b.until(fmt.Sprintf("!!document.querySelector(%q)", selector))
	v, err := b.js(fmt.Sprintf("document.querySelector(%q).textContent", selector))
	if err != nil {
		b.t.Fatal(err)
	}
	return v.(string)
}

// claims makes an account at the page and returns its recovery key.
func (b *coordBrowser) claims(label string) (recovery string) {
	b.script.t.Helper()
	b.browser.open(b.vars["PAGE"])
	b.says("Make your account")
	b.fill("#label", label)
	b.browser.shot("register")
	b.press("1. Make")
	b.press("2. Make")
	b.says("The recovery key")
	b.browser.shot("recovery-key")
	recovery = b.browser.text("#recovery")
	b.fill("#again", "aaaa-bbbb")
	b.press("3. Sign")
	b.says("compare it with the paper")
	b.fill("#again", recovery[len(recovery)-9:])
	b.press("3. Sign")
	b.says("No device yet")
	return recovery
}

// adds brings a machine in under a name: ticket, join, comparing words, signature.
func (b *coordBrowser) adds(machine, name, roles string) {
	b.script.t.Helper()
	b.press("Add a device")
	b.fill("#name", name)
	for _, role := range []string{"server", "client"} {
		b.js(fmt.Sprintf("document.querySelector('input[value=%s]').checked = %t", role, strings.Contains(roles, role)))
	}
	b.fill("#categories", "lab "+name)
	b.press("Make the ticket")
	line := b.browser.text("dialog pre")
	b.browser.until("/^1[45]:[0-9][0-9]$/.test(document.querySelector('[role=timer]').textContent)")
	ticket := strings.TrimPrefix(line, "sessio join ")
	b.secrets = append(b.secrets, ticket[strings.LastIndexByte(ticket, '/')+1:])
	if got := b.qr(); got != ticket {
		b.script.t.Errorf("the QR code says %q, the line %q", got, line)
	}
	b.browser.shot("ticket")
	b.press("Close")
	b.script.run("on " + machine + "\ntool join -no-wait " + ticket + "\ncapture WORDS 'words +(.*)\\n'")
	b.says("Waiting for your signature")
	if got := b.browser.text("[data-waiting] .words"); got != b.vars["WORDS"] {
		b.script.t.Fatalf("the page shows %q, the machine %q", got, b.vars["WORDS"])
	}
	b.browser.shot("waiting")
	b.press("Compare and sign")
	b.browser.shot("compare")
	b.press("The words agree")
	b.says("Let the device " + name + " in")
	b.browser.shot("confirm")
	b.press("Sign with the passkey")
	b.browser.until(fmt.Sprintf("!!document.querySelector('[data-device=%s]')", name))
}

// qr reads the page's QR code as a camera does.
func (b *coordBrowser) qr() string {
	b.script.t.Helper()
	b.browser.until("document.querySelector('svg.qr').getBoundingClientRect().bottom <= innerHeight || (document.querySelector('svg.qr').scrollIntoView(), false)")
	file := b.path("qr.png")
	if err := os.WriteFile(file, b.picture(), 0o600); err != nil {
		b.script.t.Fatal(err)
	}
	out, err := exec.Command("zbarimg", "-q", "--raw", file).Output()
	if err != nil {
		b.script.t.Errorf("zbarimg: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func TestBrowserCoordinator(t *testing.T) {
	t.Parallel()
	b := newCoordBrowser(t, "")
	recovery := b.claims("anna")
	b.accessible("no device")
	b.browser.shot("no-device")
	b.adds("laptop", "laptop", "client")
	b.adds("attic", "attic", "server")
	b.script.run(`
		on attic
		tool -device &attic
		wait attic 'attic serves as'
		on laptop
		tool run attic -- echo through the page
		stdout '^through the page$'
		tool status -category attic
		stdout 'attic +online'
		stdout 'attic,lab'
		! stdout 'laptop +'
		tool trust export -o rec 2
		capture SIGNER '-I (s[a-z2-7]{25})'
		exec sh -c 'ssh-keygen -Y verify -n sessio-trust@v1 -f rec/allowed_signers -I "$0" -s rec/statement.sig <rec/statement' $SIGNER
		stdout 'Good "sessio-trust@v1" signature'`)
	b.browser.until("!!document.querySelector('[data-device=attic] .online')")
	b.accessible("devices")
	b.browser.shot("devices")

	// categories are chips
	b.press("attic")
	b.browser.until("document.querySelectorAll('#devices .card').length === 1")
	b.press("all")

	// who is in is shown, and may be sent out
	b.js("location.hash = 'sessions'")
	b.browser.until("[...document.querySelectorAll('[data-session]')].every(r => r.children[4].textContent === '0')") // that of before
	b.script.run(`
		on laptop
		tool run attic -- 'echo in; sleep 1000' &in
		wait in 'in'`)
	b.says("connections")
	b.browser.until("[...document.querySelectorAll('[data-session]')].some(r => r.innerText.includes('laptop') && r.children[4].textContent === '1')")
	b.accessible("sessions")
	b.browser.shot("sessions")
	b.press("End")
	b.says("Ended.")
	b.script.run("ended in 255")
	b.browser.until("[...document.querySelectorAll('[data-session]')].every(r => r.children[4].textContent === '0')")
	b.script.run(`
		tool run attic -- 'echo in; sleep 1000' &in
		wait in 'in'`)
	b.press("Revoke all")
	b.press("Revoke all")
	b.script.run(`
		ended in 255
		tool run attic -- echo introduced anew
		stdout '^introduced anew$'`)
	b.js("location.hash = 'devices'")

	// what it may do is changed, then it is thrown out
	b.click("[data-device=attic] button:nth-of-type(2)")
	b.says("Change attic")
	b.accessible("change")
	b.fill("#users", "root ann")
	b.browser.shot("change")
	b.press("Go on")
	b.says("users ann,root")
	b.press("Sign with the passkey")
	b.browser.until("document.querySelector('[data-device=attic]').innerText.includes('users ann, root')")
	b.click("[data-device=attic] button:nth-of-type(3)")
	b.says("Throw attic out?")
	b.press("Go on")
	b.says("reason")
	b.verifies(false) // a prompt that is not answered signs nothing
	b.press("Sign with the passkey")
	b.says("The passkey was not used")
	b.verifies(true)
	b.press("Sign with the passkey")
	b.browser.until("!document.querySelector('[data-device=attic]')")
	b.script.run(`
		! tool run attic true
		stderr 'revoked'`)

	for _, part := range []string{"signers", "history", "account"} {
		b.js(fmt.Sprintf("location.hash = %q", part))
		b.browser.until(fmt.Sprintf("document.querySelector('[aria-current=page]').hash === '#%s' && !document.querySelector('[aria-busy]')", part))
		b.accessible(part)
		b.browser.shot(part)
	}
	b.js("location.hash = 'history'")
	b.says("Throw out, for ever")
	var jar struct {
		Cookies []struct{ Name, Value string }
	}
	b.call("Network.getAllCookies", nil, &jar)
	if len(jar.Cookies) != 1 || jar.Cookies[0].Name != cookieName {
		t.Errorf("cookies: %+v", jar.Cookies)
	}
	_, secret, _ := strings.Cut(jar.Cookies[0].Value, ".")
	_, log, _ := strings.Cut(b.script.proc("vps").said(), "made, head") // the claim stands before, once
	for _, s := range append(b.secrets, recovery, secret, b.vars["PAGE"][strings.IndexByte(b.vars["PAGE"], '=')+1:]) {
		if s == "" || strings.Contains(log, s) {
			t.Errorf("%q is in the coordinator's log:\n%s", s, log)
		}
	}
}

// Signing in and out, and what is not let in.
func TestBrowserCoordinatorSignin(t *testing.T) {
	t.Parallel()
	b := newCoordBrowser(t, "-signup open")
	b.claims("anna")
	b.adds("attic", "attic", "server")

	// a sign-in that ends, here in another tab, leads to the sign-in
	post := `fetch("/api/signout", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"}).then(r => r.status)`
	if status, err := b.js(post); status != float64(200) {
		t.Fatal(status, err)
	}
	b.says("Your sign-in is over")
	b.accessible("sign in")
	b.browser.shot("signed-out")
	b.verifies(false)
	b.press("Sign in with the passkey")
	b.says("The passkey was not used")
	b.verifies(true)
	// what was sent once counts once
	b.js(`const post = window.fetch; window.fetch = (u, o) => { if (String(u).endsWith("finish")) window.sent = [u, o]; return post(u, o); }; 0`)
	b.press("Sign in with the passkey")
	b.browser.until("!!document.querySelector('[data-device=attic]')")
	if status, err := b.js("post(...window.sent).then(r => r.status)"); status != float64(409) {
		t.Errorf("a finish played again: %v, %v", status, err)
	}

	// a script that somebody puts into the page does not run
	if v, err := b.js(`(() => { const s = document.createElement("script"); s.textContent = "window.evil = 1"; document.body.append(s); return window.evil || 0; })()`); v != float64(0) {
		t.Errorf("a script of somebody else's ran: %v, %v", v, err)
	}

	// another name of the same page is another page: no cookie, no passkey
	b.browser.open(strings.Replace(b.vars["URL"], "localhost", "127.0.0.1", 1) + "/")
	b.press("Sign in with the passkey")
	b.says("his comes from another page")
	b.browser.shot("other-name")

	// a second account has a device of the same name
	b.browser.open(b.vars["URL"] + "/")
	b.browser.until("!!document.querySelector('[data-device=attic]')")
	b.js(post)
	b.says("Make an account")
	b.swap(nil)
	b.js("location.hash = 'register'; location.reload()")
	b.says("Make your account")
	b.js("localStorage.clear()")
	b.fill("#label", "bob")
	b.press("1. Make")
	b.press("2. Make")
	b.fill("#again", b.browser.text("#recovery")[60:])
	b.press("3. Sign")
	b.says("No device yet")
	b.adds("cellar", "attic", "server")
	b.script.run(`
		on cellar
		tool status
		stdout 'this machine: attic, signed'`)
}

// The passkeys of the page are lost one after the other.
func TestBrowserCoordinatorLost(t *testing.T) {
	t.Parallel()
	b := newCoordBrowser(t, "")
	recovery := b.claims("anna")
	b.adds("laptop", "laptop", "client")

	// a second one that signs, on another key
	b.js("location.hash = 'signers'")
	b.press("Add a passkey that signs")
	b.press("Make the passkey")
	b.says("This passkey belongs to the account already")
	first := b.swap(nil)
	b.press("Make the passkey")
	b.says("Let another key sign")
	b.browser.shot("second-signer")
	second := b.swap(first)
	for _, c := range second {
		b.call("WebAuthn.addCredential", map[string]any{"authenticatorId": b.device, "credential": c}, nil)
	}
	b.press("Sign: the account")
	b.browser.until("!!document.querySelector('[data-signer=second]')")

	// those that sign in are lost: the second one makes another
	b.swap(second)
	b.js(`fetch("/api/signout", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"})`)
	b.says("Your sign-in is over")
	b.js("document.querySelector('details').open = true")
	b.press("Use the signing passkey")
	b.says("opens this page and can sign nothing")
	b.press("Make the passkey")
	b.browser.until("!!document.querySelector('[data-device=laptop]') || !!document.querySelector('[data-signer=second]')")

	// everything is lost but a machine and the paper
	b.script.run(`
		on laptop
		input ` + recovery + `
		tool trust recover -passkey &recover`)
	b.swap(nil)
	b.script.run(`
		wait recover '/\n'
		capture LOCAL recover '(http://[^ ]+/)\n'`)
	b.browser.open(b.vars["LOCAL"])
	b.says("Make a passkey that signs")
	b.click("#go")
	b.says("Recover the account")
	b.click("#go")
	b.says("You may close this page")
	b.script.run(`
		ended recover 0
		tool trust signer list
		! stdout 'second'
		stdout 'passkey of http://sessio.localhost:7722'
		tool account sign-in -passkey &signin
		wait signin '/\n'
		capture LOCAL signin '(http://sessio[^ ]+/)\n'`)
	b.browser.open(b.vars["LOCAL"])
	b.says("Let a passkey sign in to the coordinator")
	b.click("#go")
	b.says("You may close this page")
	b.script.run(`
		ended signin 0
		capture ENROL signin '(http://localhost:[0-9]+/#enrol=[a-z2-7]+)'`)
	b.browser.open(b.vars["ENROL"])
	b.press("Make the passkey")
	b.browser.until("!!document.querySelector('[data-device=laptop]')")
	b.click("[data-device=laptop] button:nth-of-type(2)")
	b.says("None of the account's passkeys signs on this page")
	b.browser.shot("signs-elsewhere")
}

func TestBrowserCoordinatorAlgorithms(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"EdDSA", "RS256"} {
		t.Run(name, func(t *testing.T) {
			b := newCoordBrowser(t, "")
			b.browser.open(b.vars["PAGE"])
			b.says("Make your account")
			b.algorithm(testAlgs[name])
			b.press("1. Make")
			b.press("2. Make")
			b.fill("#again", b.browser.text("#recovery")[60:])
			b.press("3. Sign")
			b.says("No device yet")
			b.adds("attic", "attic", "server")
			b.script.run("tool status\nstdout 'this machine: attic, signed'")
		})
	}
}

// accessible checks what a program can check of a page for people who do not
// see it, or have no mouse: names of controls, order, contrast in both schemes.
func (b *coordBrowser) accessible(what string) {
	b.script.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}}, nil)
		v, err := b.js(accessJS)
		if err != nil {
			b.script.t.Fatal(err)
		}
		if text := fmt.Sprint(v); text != "" {
			b.script.t.Errorf("%s, %s: %s", what, scheme, text)
		}
	}
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{}}, nil)
}

const accessJS = `(() => {
	const wrong = [], root = document.querySelector("dialog[open]") || document.body;
	const seen = e => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== "hidden";
	const all = [...root.querySelectorAll("*")].filter(seen);
	const rgb = c => (c.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
	const light = c => { const [r, g, b] = rgb(c).map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor, p = rgb(c); if (p.length < 4 || p[3] > 0) return c; } return "rgb(255,255,255)"; };
	for (const e of all) {
		const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
		if (own && !e.matches(":disabled")) {
			const a = light(getComputedStyle(e).color), b = light(ground(e)), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
			if (ratio < 4.5) wrong.push("contrast " + ratio.toFixed(1) + " of " + e.textContent.trim().slice(0, 30));
		}
		if (e.matches("input, select") && !(e.labels && e.labels.length && e.labels[0].textContent.trim())) wrong.push("no label: " + e.id);
		if (e.matches("button, a[href]") && !(e.textContent.trim() || e.getAttribute("aria-label"))) wrong.push("a control without a name");
		if (e.matches("button, input:not([type=checkbox]), select") && e.getBoundingClientRect().height < 24) wrong.push("too small to hit: " + e.textContent);
		if (e.tabIndex > 0) wrong.push("its own focus order: " + e.tagName);
		if (e.matches("svg") && !e.getAttribute("aria-label")) wrong.push("a picture without a name");
	}
	const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
	if (new Set(ids).size !== ids.length) wrong.push("an id twice");
	if (!document.documentElement.lang) wrong.push("no language");
	if (document.querySelectorAll("main").length !== 1) wrong.push("not one main");
	if (root === document.body && document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
	const levels = [...root.querySelectorAll("h1, h2, h3")].filter(seen).map(e => +e.tagName[1]);
	if (document.querySelector("dialog[open]") && !document.getElementById(document.querySelector("dialog").getAttribute("aria-labelledby"))) wrong.push("a dialog without a title");
	const order = all.filter(e => e.matches("button:not(:disabled), a[href], input, select, summary"));
	for (let i = 1; i < order.length; i++)
		if (order[i - 1].compareDocumentPosition(order[i]) & Node.DOCUMENT_POSITION_PRECEDING) wrong.push("focus goes back");
	if (innerWidth < document.documentElement.scrollWidth) wrong.push("it is wider than the window");
	return wrong.join("; ");
})()`
