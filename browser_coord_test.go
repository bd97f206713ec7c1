//go:build !windows

package main

import (
	"fmt"
	"strings"
	"testing"
)

// The coordinator's page in a real browser, with a virtual authenticator, and
// real processes around it.

// A coordBrowser is a browser at a coordinator's page, beside a script.
type coordBrowser struct {
	*browser
	*script
}

// newCoordBrowser starts a coordinator; flags are further ones of its.
func newCoordBrowser(t *testing.T, flags string) *coordBrowser {
	b := &coordBrowser{newBrowser(t), newScript(t, t.Name())}
	b.authenticator()
	b.script.run(`
		on vps
		tool -coordinator -udp 127.0.0.1:0 -http 127.0.0.1:0 ` + flags + ` &vps
		wait vps 'run\n'
		capture COORD vps 's1/[^ \n]+'
		capture URL vps '(http://localhost:[0-9]+)/'
		capture PAGE vps '(http://localhost:[0-9]+/#[^ ]*) '`)
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

// adds brings a machine in: ticket, join, comparing words, signature.
func (b *coordBrowser) adds(name, roles string) {
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
	b.browser.until("document.querySelector('svg.qr path').getAttribute('d').length > 1000")
	b.browser.shot("ticket")
	b.press("Close")
	b.script.run("on " + name + "\ntool join -no-wait " + strings.TrimPrefix(line, "sessio join ") + "\ncapture WORDS 'words +(.*)\\n'")
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

func TestBrowserCoordinator(t *testing.T) {
	b := newCoordBrowser(t, "")
	recovery := b.claims("anna")
	b.browser.shot("no-device")
	b.adds("laptop", "client")
	b.adds("attic", "server")
	b.script.run(`
		on attic
		tool -device &attic
		wait attic 'attic serves as'
		on laptop
		tool run attic -- echo through the page
		stdout '^through the page$'`)
	b.browser.until("!!document.querySelector('[data-device=attic] .online')")
	b.browser.shot("devices")
	if strings.Contains(b.script.proc("vps").said(), recovery) {
		t.Error("the coordinator knows the recovery key")
	}
}
