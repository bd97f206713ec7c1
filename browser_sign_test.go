//go:build !windows

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Passkeys sign on the page that the program itself serves: a real browser, a
// virtual authenticator, and real processes around them.

// A signBrowser is a browser beside a script whose verbs want signatures.
type signBrowser struct {
	*browser
	*script
}

func newSignBrowser(t *testing.T) *signBrowser {
	b := &signBrowser{newBrowser(t), newScript(t, t.Name())}
	b.authenticator()
	b.script.run(`
		on vps
		tool -coordinator -udp 127.0.0.1:0 &vps
		wait vps 's1/'
		capture COORD vps 's1/[^ \n]+'
		on laptop`)
	return b
}

// visit opens the page that a verb beside the script has named, in the browser.
func (b *signBrowser) visit(name string) {
	b.script.t.Helper()
	b.script.run(`
		wait ` + name + ` '/\n'
		capture URL ` + name + ` '(http://[^ ]+/)\n'`)
	b.browser.open(b.vars["URL"])
}

// compared waits for a step whose words the terminal shows too.
func (b *signBrowser) compared(name, title string) {
	b.script.t.Helper()
	b.says(title)
	words, err := b.js("document.querySelector('#words').textContent")
	if err != nil || words == "" {
		b.script.t.Fatalf("no words: %v", err)
	}
	b.script.run(fmt.Sprintf("wait %s 'to be signed on the page: %s\\n'", name, words))
}

// makesAccount runs account create with a passkey.
func (b *signBrowser) makesAccount() {
	b.script.t.Helper()
	b.script.run(`tool account create -passkey -name laptop $COORD &create`)
	b.visit("create")
	b.says("Make a passkey that signs")
}

func (b *signBrowser) signsAccount() {
	b.script.t.Helper()
	b.click("#go")
	b.compared("create", "Make the account")
	b.click("#go")
	b.compared("create", "Let the device laptop in")
	b.click("#go")
	b.says("You may close this page")
	b.script.run(`
		ended create 0
		capture RECOVERY create '    ([a-z2-7-]{69})\n'
		tool trust signer list
		stdout ' ds +passkey of http://sessio.localhost:7722 SHA256:'`)
}

func TestBrowserSigns(t *testing.T) {
	t.Parallel()
	b := newSignBrowser(t)
	b.makesAccount()

	b.shot("make-passkey")

	// a user who is not known does not sign, and may try again
	b.verifies(false)
	b.click("#go")
	b.says("The passkey was not used")
	b.shot("not-used")
	b.verifies(true)
	b.signsAccount()

	// a machine joins, is signed and entered
	b.script.run(`
		tool ticket -name attic
		capture TICKET 's1/[^\n]+'
		on attic
		tool join -no-wait $TICKET
		on laptop
		tool trust sign attic &sign`)
	b.visit("sign")
	b.compared("sign", "Let the device attic in")
	b.says("will be")
	b.shot("sign-device")

	// what is open to others: nothing
	for _, c := range []struct{ expression, want string }{
		{`fetch("/").then(r => r.status)`, "404"},
		{`fetch("nothing").then(r => r.status)`, "404"},
		{`fetch("step", {method: "POST"}).then(r => r.status)`, "405"},
		{`fetch("answer", {method: "POST", body: "{}"}).then(r => r.status)`, "403"},
		{`fetch("answer", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{"}).then(r => r.status)`, "400"},
		{`fetch("answer", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{\"n\":1}"}).then(r => r.status)`, "409"},
		{`fetch("answer", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({n: step.n, id: "AA", authData: "", clientData: "", signature: ""})}).then(r => r.json()).then(r => r.code)`, "no-power"},
		{`fetch("answer", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({n: step.n, id: step.credentials[0], authData: "", clientData: "e30", signature: ""})}).then(r => r.json()).then(r => r.code)`, "wa-type"},
		{`fetch("answer", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({n: step.n, id: "!"})}).then(r => r.json()).then(r => r.error)`, "the answer is not in base64url"},
		{`new Promise(r => { const f = document.createElement("iframe"); f.src = "."; f.onload = () => r(String(f.contentDocument)); document.body.append(f); })`, "null"},
	} {
		if got, err := b.js(c.expression); fmt.Sprint(got) != c.want {
			t.Errorf("%s: %v, want %s (%v)", c.expression, got, c.want, err)
		}
	}

	// what was sent once counts once
	if _, err := b.js(`const post = window.fetch; window.fetch = (u, o) => { if (o) window.sent = [u, o]; return post(u, o); }; 0`); err != nil {
		t.Fatal(err)
	}
	b.click("#go")
	b.says("You may close this page")
	b.shot("done")
	if got, err := b.js(`post(...window.sent).then(r => r.status, e => "gone")`); got != float64(409) && got != "gone" {
		t.Errorf("a finish played again: %v, %v", got, err)
	}
	b.script.run(`
		ended sign 0
		on attic
		tool -device &attic
		wait attic 'the coordinator knows this machine'
		wait attic 'attic serves as'
		on laptop
		tool run attic -- echo hello
		stdout '^hello$'
		tool trust export -o rec 2
		capture SIGNER '-I (s[a-z2-7]{25})'
		exec sh -c 'ssh-keygen -Y verify -n sessio-trust@v1 -f rec/allowed_signers -I "$0" -s rec/statement.sig <rec/statement' $SIGNER
		stdout 'Good "sessio-trust@v1" signature'
		tool trust fsck
		stdout '^3 records, 0 beside the log$'`)

	// another machine's name for the page is another page
	b.script.run(`tool trust revoke -reason lost attic &revoke`)
	b.visit("revoke")
	b.compared("revoke", "Throw out, for ever")
	b.says("attic (d")
	other := strings.Replace(b.vars["URL"], "sessio.localhost", "localhost", 1)
	b.browser.open(other)
	b.says("This is not the address of the page")
	b.shot("wrong-address")
	b.browser.open(b.vars["URL"])
	b.says("Throw out, for ever")
	b.script.run(`
		signal revoke INT
		ended revoke 130`)
	b.says("This was given up")
	b.script.run(`
		tool trust log
		! stdout 'device.revoke'`)
}

// A second passkey signs as well; when all are lost, the recovery key makes room
// for a new one.
func TestBrowserRecovers(t *testing.T) {
	t.Parallel()
	b := newSignBrowser(t)
	b.makesAccount()
	b.signsAccount()
	b.script.run(`tool trust signer add -new-passkey -label spare &add`)
	b.visit("add")
	b.says("Make a passkey that signs")
	b.click("#go")
	b.says("This passkey belongs to the account already") // the authenticator knows it
	first := b.swap(nil)
	b.click("#go")
	b.compared("add", "Let another key sign")
	spare := b.swap(first)
	b.click("#go")
	b.browser.until(`document.querySelector("#title").textContent === "Let another key sign" && !document.querySelector("#go").disabled`)
	b.swap(spare)
	b.click("#go") // the new one signs too
	b.says("You may close this page")
	b.script.run(`
		ended add 0
		tool trust signer list
		stdout 'spare +ds +passkey'`)

	b.swap(spare) // lost to a thief, and still in the key ring
	b.script.run(`
		input $RECOVERY
		tool trust recover -passkey &recover`)
	b.visit("recover")
	b.says("Make a passkey that signs")
	b.click("#go")
	b.compared("recover", "Recover the account")
	b.click("#go")
	b.says("You may close this page")
	b.script.run(`
		ended recover 0
		tool trust signer list
		! stdout 'spare'
		stdout ' ds +passkey of '
		tool trust fsck`)
}

func TestBrowserAlgorithms(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"EdDSA", "RS256"} {
		t.Run(name, func(t *testing.T) {
			b := newSignBrowser(t)
			b.makesAccount()
			b.algorithm(testAlgs[name])
			b.signsAccount()
			b.script.run(`
				tool trust fsck
				tool trust export -o rec 1
				stderr 'OpenSSH knows no passkeys of this kind'`)
			if _, err := os.Stat(b.path("rec/statement.sig")); err == nil {
				t.Error("a signature that ssh-keygen cannot read")
			}
		})
	}
}
