//go:build !windows

package main

// This file drives a headless Chromium with a virtual authenticator over its
// DevTools pipe (descriptors 3 and 4, messages that end in a NUL byte), for the
// tests of pages.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// chromium is the program itself: /usr/bin/chromium is a shell script around it.
const chromium = "/usr/lib/chromium/chromium"

// browserWait is how long a page may take for what a test waits for.
const browserWait = 30 * time.Second

// A browser is one Chromium with one tab.
type browser struct {
	t       testing.TB
	cmd     *exec.Cmd
	in      io.WriteCloser
	session string
	device  string // the virtual authenticator

	mu      sync.Mutex
	id      int                       // guarded by mu
	waiting map[int]chan browserReply // guarded by mu
	ended   chan struct{}             // closed when nothing comes any more
}

type browserReply struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// oneBrowser runs at a time: their pages have one port, and each is many processes.
var oneBrowser sync.Mutex

func newBrowser(t testing.TB) *browser {
	t.Helper()
	oneBrowser.Lock()
	t.Cleanup(oneBrowser.Unlock)
	toBrowser, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, fromBrowser, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	profile, err := os.MkdirTemp("", "sessio-browser")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	args := []string{"--headless=new", "--remote-debugging-pipe", "--user-data-dir=" + profile, "--no-first-run", "--no-default-browser-check",
		"--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--disable-extensions", "--disable-quic", "--no-proxy-server", "about:blank"}
	if os.Geteuid() == 0 {
		args = append([]string{"--no-sandbox"}, args...)
	}
	b := &browser{t: t, cmd: exec.Command(chromium, args...), in: in, waiting: map[int]chan browserReply{}, ended: make(chan struct{})}
	b.cmd.ExtraFiles = []*os.File{toBrowser, fromBrowser}
	b.cmd.WaitDelay = 5 * time.Second
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := b.cmd.Start(); err != nil {
		t.Fatalf("%v: install chromium", err)
	}
	toBrowser.Close()
	fromBrowser.Close()
	go b.read(out)
	t.Cleanup(b.close)
	var target struct {
		TargetID string `json:"targetId"`
	}
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct {
		SessionID string `json:"sessionId"`
	}
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	b.call("Page.enable", nil, nil)
	b.call("WebAuthn.enable", map[string]any{"enableUI": false}, nil)
	return b
}

func (b *browser) close() {
	syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // its helpers too
	b.cmd.Wait()
	b.in.Close()
	<-b.ended
}

func (b *browser) read(out *os.File) {
	defer close(b.ended)
	defer out.Close()
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var r browserReply
		if json.Unmarshal(bytes.TrimSuffix(line, []byte{0}), &r) != nil || r.ID == 0 {
			continue // an event
		}
		b.mu.Lock()
		c := b.waiting[r.ID]
		delete(b.waiting, r.ID)
		b.mu.Unlock()
		if c != nil {
			c <- r
		}
	}
}

// ask sends one command and reads its result into out.
func (b *browser) ask(method string, params, out any) error {
	if params == nil {
		params = struct{}{}
	}
	c := make(chan browserReply, 1)
	b.mu.Lock()
	b.id++
	id := b.id
	b.waiting[id] = c
	b.mu.Unlock()
	m := map[string]any{"id": id, "method": method, "params": params}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := b.in.Write(append(text, 0)); err != nil {
		return err
	}
	select {
	case r := <-c:
		if r.Error != nil {
			return errors.New(r.Error.Message)
		}
		if out != nil {
			return json.Unmarshal(r.Result, out)
		}
		return nil
	case <-b.ended:
		return errors.New("the browser has ended")
	case <-time.After(browserWait):
		return errors.New("the browser does not answer")
	}
}

func (b *browser) call(method string, params, out any) {
	b.t.Helper()
	if err := b.ask(method, params, out); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
}

// authenticator plugs in a new one, which has no passkeys and asks nobody.
func (b *browser) authenticator() {
	b.t.Helper()
	var added struct {
		ID string `json:"authenticatorId"`
	}
	b.call("WebAuthn.addVirtualAuthenticator", map[string]any{"options": map[string]any{"protocol": "ctap2", "ctap2Version": "ctap2_1", "transport": "internal",
		"hasResidentKey": true, "hasUserVerification": true, "isUserVerified": true, "automaticPresenceSimulation": true}}, &added)
	b.device = added.ID
}

// unplug takes the authenticator away, with its passkeys.
func (b *browser) unplug() {
	b.t.Helper()
	b.call("WebAuthn.removeVirtualAuthenticator", map[string]any{"authenticatorId": b.device}, nil)
}

// swap puts another authenticator in the place of this one: that which held the
// passkeys once, or a new one. It returns those of this one.
func (b *browser) swap(passkeys []map[string]any) (held []map[string]any) {
	b.t.Helper()
	var has struct {
		Credentials []map[string]any `json:"credentials"`
	}
	b.call("WebAuthn.getCredentials", map[string]any{"authenticatorId": b.device}, &has)
	b.unplug()
	b.authenticator()
	for _, c := range passkeys {
		b.call("WebAuthn.addCredential", map[string]any{"authenticatorId": b.device, "credential": c}, nil)
	}
	return has.Credentials
}

// verifies lets the user be known to the authenticator, or not.
func (b *browser) verifies(is bool) {
	b.t.Helper()
	b.call("WebAuthn.setUserVerified", map[string]any{"authenticatorId": b.device, "isUserVerified": is}, nil)
}

func (b *browser) open(url string) {
	b.t.Helper()
	var said struct {
		ErrorText string `json:"errorText"`
	}
	b.call("Page.navigate", map[string]any{"url": url}, &said)
	if said.ErrorText != "" {
		b.t.Fatalf("%s: %s", url, said.ErrorText)
	}
}

// js evaluates an expression as if a person had clicked, and returns its value.
func (b *browser) js(expression string) (value any, err error) {
	var r struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
		Exception *struct {
			Exception struct {
				Description string `json:"description"`
			} `json:"exception"`
		} `json:"exceptionDetails"`
	}
	err = b.ask("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true}, &r)
	if err == nil && r.Exception != nil {
		err = errors.New(r.Exception.Exception.Description)
	}
	return r.Result.Value, err
}

// until waits until an expression is true.
func (b *browser) until(expression string) {
	b.t.Helper()
	deadline := time.Now().Add(browserWait)
	for tick := time.Tick(20 * time.Millisecond); ; <-tick {
		v, err := b.js(expression)
		if v == true {
			return
		}
		if time.Now().After(deadline) {
			text, _ := b.js("document.body.innerText")
			b.t.Fatalf("never true: %s (%v, %v); the page says\n%v", expression, v, err, text)
		}
	}
}

// says waits until the page has a text.
func (b *browser) says(text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// click clicks what a selector finds, once it can be clicked.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.until(fmt.Sprintf("(e => e && !e.hidden && !e.disabled)(document.querySelector(%q))", selector))
	if _, err := b.js(fmt.Sprintf("document.querySelector(%q).click()", selector)); err != nil {
		b.t.Fatal(err)
	}
}

// algorithm has the browser make passkeys of one algorithm alone.
func (b *browser) algorithm(alg int64) {
	b.t.Helper()
	if _, err := b.js(fmt.Sprintf(`(make => { navigator.credentials.create = o => {
		o.publicKey.pubKeyCredParams = [{ type: "public-key", alg: %d }];
		return make(o);
	}; })(navigator.credentials.create.bind(navigator.credentials))`, alg)); err != nil {
		b.t.Fatal(err)
	}
}

// picture is the page as it is shown now, a PNG.
func (b *browser) picture() []byte {
	b.t.Helper()
	var picture struct {
		Data []byte `json:"data"`
	}
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &picture)
	return picture.Data
}

// shotsEnv, in the environment, names a folder for pictures of the pages.
const shotsEnv = "SESSIO_SHOTS"

// shot takes pictures of the page, as wide as a screen and as a phone, if
// pictures are wanted.
func (b *browser) shot(name string) {
	b.t.Helper()
	dir := os.Getenv(shotsEnv)
	if dir == "" {
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	for _, width := range []int{1280, 390} {
		for _, scheme := range []string{"light", "dark"} {
			b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
			b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}}, nil)
			file := filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, width, scheme))
			if err := os.WriteFile(file, b.picture(), 0o644); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	b.call("Emulation.clearDeviceMetricsOverride", nil, nil)
}
