//go:build linux || darwin

package main

// Logins that are judged again, and answers to global requests.

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestSSHPortAnswersOnce: each request has one answer, so that the next is not
// taken to be refused.
func TestSSHPortAnswersOnce(t *testing.T) {
	p := startPort(t, nil)
	cl := p.mustLogin("127.0.0.1")
	for range 2 {
		ok, proof, err := cl.SendRequest(hostKeysProof, true, hostKeyList([]ssh.Signer{sshdSigner(t, p.host)}))
		if !ok || len(proof) == 0 || err != nil {
			t.Errorf("%v %q, %v", ok, proof, err)
		}
	}
}

// TestSSHPortRechecksLogins: who would not be let in by the new settings is out.
func TestSSHPortRechecksLogins(t *testing.T) {
	p := startPort(t, nil)
	cl := p.mustLogin("127.0.0.1")
	p.set(func(c *serverConfig) { c.methods = []string{"password"} })
	if err := cl.Wait(); err == nil {
		t.Error("nothing ended it")
	}
	sshdUntil(t, "its end", func() bool { return p.here() == 0 && strings.Contains(p.logged(), "logins by publickey are off now") })
}

// TestKeysGoneDuringLogin: a line that goes while its key logs in lets it start
// nothing, though nobody is asked again about who is not logged in.
func TestKeysGoneDuringLogin(t *testing.T) {
	k := startKeysTest(t, func(k *keysTest, p *sshPolicy) {
		p.onAuthSuccess = func(netip.Addr, *sshLogin) {
			k.lines("")
			k.srv.recheck()
		}
	})
	k.lines(k.own())
	if _, _, code := k.run(k.ssh("h", "touch started")); code != 255 {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(k.acct.home + "/started"); err == nil {
		t.Error("a command ran")
	}
}
