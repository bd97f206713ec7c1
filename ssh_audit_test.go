//go:build linux || darwin

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/crypto/ssh"
)

// TestSSHAudit: what a client does is recorded, each with its session, user and
// address; what it types is nowhere.
func TestSSHAudit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	audit, said := auditTestOpen(t, auditExporter{kind: "file", path: file})
	const secret, typed, wrong = "Marked-password-7", "Marked-typing-7", "Marked-mistake-7"
	p := startPort(t, func(c *serverConfig) {
		c.methods = []string{"publickey", "password"}
		c.users = []configUser{{name: "marked", passwordHash: hashPassword([]byte(secret), []byte("0123456789abcdef"))}}
		c.permit = []string{"127.0.0.1:*"}
		c.maxAuthAttempts, c.allowedCommands = 2, []string{"cat", "env"}
	})
	p.audit.Store(audit)
	login := func(password string) (*ssh.Client, error) {
		return ssh.Dial("tcp", p.addr, &ssh.ClientConfig{User: "marked", Auth: []ssh.AuthMethod{ssh.Password(password)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	}
	cl, err := login(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	cat := p.newSession(cl)
	cat.Stdin = strings.NewReader(typed)
	if out, err := cat.Output("cat"); string(out) != typed || err != nil {
		t.Fatalf("%q, %v", out, err)
	}
	if err := p.newSession(cl).Run("id -u"); err == nil {
		t.Error("a command that is not allowed")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if nc, err := cl.Dial("tcp", ln.Addr().String()); err != nil {
		t.Error(err)
	} else {
		fmt.Fprint(nc, typed)
		nc.Close()
	}
	if _, err := cl.Dial("tcp", "[::1]:1"); err == nil {
		t.Error("a forward that is not permitted")
	}
	cl.Close()
	for range 2 {
		if _, err := login(wrong); err == nil {
			t.Fatal("a wrong password")
		}
	}
	if _, err := login(secret); err == nil {
		t.Fatal("a banned address")
	}
	if err := p.srv.unban("127.0.0.1"); err != nil {
		t.Error(err)
	}
	p.srv.closeAll(0)
	audit.close()

	var got, sessions []string
	for _, r := range auditTestFile(t, file) {
		got = append(got, r.Type+" "+r.Result+" "+r.User)
		if r.User == "marked" && (r.ClientIP != "127.0.0.1" || r.Protocol != "ssh" || r.Session == "") {
			t.Errorf("%+v", r)
		}
		if r.Type == string(auditSessionStart) || r.Type == string(auditSessionEnd) {
			sessions = append(sessions, r.Session)
		}
	}
	want := []string{
		"auth_success success marked", "session_start success marked",
		"command_executed success marked", "command_blocked denied marked",
		"forward_open success marked", "forward_denied denied marked", "session_end success marked",
		"auth_failure failure marked", "auth_failure failure marked",
		"ip_blocked denied ", "auth_rate_limited denied ", "ip_unblocked success ",
	}
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("recorded %q", got)
	}
	if len(sessions) != 2 || sessions[0] != sessions[1] {
		t.Error("sessions", sessions)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"the audit": string(b), "the log": p.logged() + said.all()} {
		for _, s := range []string{secret, typed, wrong} {
			if strings.Contains(text, s) {
				t.Errorf("%s holds %s", what, s)
			}
		}
	}
}

// TestSSHAuditRefused: what was refused is recorded, and of a key's own command
// that it ran and not what the client said.
func TestSSHAuditRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	audit, _ := auditTestOpen(t, auditExporter{kind: "file", path: file})
	forced := "exit 0"
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		conf, allow := defaultServerConfig(), p.authorize
		conf.forwardLocal = false
		p.config, p.audit = func() *serverConfig { return conf }, func() *auditLog { return audit }
		p.authorize = func(key ssh.PublicKey, user string) (sshGrant, error) {
			grant, err := allow(key, user)
			grant.command = &forced
			return grant, err
		}
	})
	cl := d.mustDial()
	if err := d.newSession(cl).Run("rm -rf /"); err != nil {
		t.Error(err)
	}
	if _, err := cl.Dial("tcp", "127.0.0.1:1"); err == nil {
		t.Error("a forward")
	}
	if _, err := cl.Listen("tcp", "127.0.0.1:7"); err == nil {
		t.Error("a listener")
	}
	cl.Close()
	stranger := sshdSigner(t, sshdKey(t))
	if _, err := d.dial(ssh.PublicKeys(stranger)); err == nil {
		t.Error("a stranger")
	}
	d.srv.closeAll(0)
	audit.close()
	var got []string
	for _, r := range auditTestFile(t, file) {
		got = append(got, r.Type+" "+r.Details)
	}
	all := strings.Join(got, "\n") + "\n"
	for _, want := range []string{
		"command_executed forced command: exit 0; asked for: exec: rm -rf /\n",
		"forward_denied direct-tcpip 127.0.0.1:1: switched off here: forward.local\n",
		"forward_denied tcpip-forward 127.0.0.1:7: switched off here: forward.remote\n",
		"auth_failure publickey: " + ssh.FingerprintSHA256(stranger.PublicKey()) + ": neither the log nor ",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in %q", want, all)
		}
	}
}

// TestSSHAuditEnd: a client that closes its link has left; other ends of a link
// are errors, and are told in words.
func TestSSHAuditEnd(t *testing.T) {
	for code, want := range map[string]string{"closing": "success 0 bytes in, 0 out", "revoked": "error 0 bytes in, 0 out: this machine is revoked"} {
		file := filepath.Join(t.TempDir(), "audit.log")
		audit, _ := auditTestOpen(t, auditExporter{kind: "file", path: file})
		ctx, end := context.WithCancelCause(t.Context())
		c := &sshConnection{ctx: ctx, flood: new(floodGuard), meter: newSSHMeter(&linkStream{}, time.Now()),
			srv: newSSHServer(sshPolicy{audit: func() *auditLog { return audit }})}
		end(&quic.ApplicationError{Remote: true, ErrorCode: quic.ApplicationErrorCode(linkCode(code))})
		c.auditEnd()
		audit.close()
		got := auditTestFile(t, file)
		if len(got) != 1 || got[0].Result+" "+got[0].Details != want {
			t.Errorf("%s: %+v", code, got)
		}
	}
}
