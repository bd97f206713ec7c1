package main

// This file writes what stock OpenSSH reads: authorized_keys (who may come in)
// and known_hosts (who is who), both made from the verified state and from
// nothing else. They are never read back as authority.

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

const localKeysFile = "authorized_keys.local"

// authorizedKeysText lists the clients. A pure client whose logins are narrowed,
// or which may not run what it likes, is left out: these lines cannot say so.
func authorizedKeysText(s *trustState) []byte {
	var b []byte
	for _, d := range s.devices() {
		caps := d.caps
		if d.hasRole("server") {
			caps = deviceCaps // what is signed then bounds only who enters it
		}
		free := d.hasRole("server") || slices.Contains(d.users, "*") && d.hasCap("shell") && d.hasCap("exec") && d.hasCap("sftp")
		if !d.hasRole("client") || !free {
			continue
		}
		b = fmt.Appendf(b, "%s %s %s %s.%s\n", keyOptions(caps, d.expires),
			ssh.KeyAlgoED25519, b64(d.keys.sshKey().Marshal()), d.name, d.id)
	}
	return b
}

// keyOptions are in the form of sshd(8), "AUTHORIZED_KEYS FILE FORMAT".
func keyOptions(caps []string, expires int64) string {
	options := "restrict"
	if slices.Contains(caps, "pty") {
		options += ",pty"
	}
	if slices.Contains(caps, "forward") {
		options += ",port-forwarding"
	}
	if expires != 0 {
		options += fmt.Sprintf(",expiry-time=%q", time.Unix(expires, 0).UTC().Format("20060102150405Z"))
	}
	return options
}

// knownHostsText lists the servers, and what once were servers as revoked.
func knownHostsText(s *trustState) []byte {
	var b []byte
	for _, d := range append(s.devices(), s.revokedDevices()...) {
		if !d.hasRole("server") {
			continue
		}
		if d.revoked {
			b = append(b, "@revoked "...)
		}
		b = fmt.Appendf(b, "%s.sessio,%s.sessio %s %s\n", d.name, d.id,
			ssh.KeyAlgoED25519, b64(d.keys.sshKey().Marshal()))
	}
	return b
}

// derivedHead begins a derived file: whose it is, and a sum of what follows, by
// which an edit by hand is told from an older state.
func derivedHead(s *trustState, body []byte) []byte {
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "# made by sessio from the signed log of account %s, and replaced when that changes\n"+
		"# your own keys go into %s\n# sum %x\n", acctWords(s.acct()), localKeysFile, sum[:8])
}

// editedByHand reports whether text is not as sessio wrote it, now or earlier.
func editedByHand(text []byte) bool {
	lines := bytes.SplitAfterN(text, []byte("\n"), 4)
	if len(lines) < 4 || !bytes.HasPrefix(lines[0], []byte("# made by sessio ")) {
		return true
	}
	sum := sha256.Sum256(lines[3])
	return string(lines[2]) != fmt.Sprintf("# sum %x\n", sum[:8])
}

// derivedTexts are the bodies of the files in dir.
func derivedTexts(s *trustState) map[string][]byte {
	return map[string][]byte{
		"authorized_keys": authorizedKeysText(s),
		"known_hosts":     knownHostsText(s),
	}
}

// writeDerivedLocked brings the files up to date. What somebody has written into
// them is kept in a copy, reported, and has no effect: the log is the authority,
// so that a failure here is reported and changes nothing else.
func (t *trustStore) writeDerivedLocked() {
	for name, body := range derivedTexts(t.state()) {
		file := filepath.Join(t.dir, name)
		text := append(derivedHead(t.state(), body), body...)
		old, err := os.ReadFile(file)
		if err == nil && bytes.Equal(old, text) {
			continue
		}
		if err == nil && editedByHand(old) {
			t.noteLocked(withHint(fmt.Errorf("%s was edited by hand: it is replaced, the edited text is in %s.edited", file, file),
				"your own keys go into %s", filepath.Join(t.dir, localKeysFile)))
			if err := replaceFile(file+".edited", old, 0o600); err != nil {
				t.noteLocked(fmt.Errorf("keeping a copy: %w", err))
			}
		}
		if err := replaceFile(file, text, 0o600); err != nil {
			t.noteLocked(fmt.Errorf("writing %s: %w", file, err))
		}
	}
}

// removeDerived is for a machine that forgets its account.
func (t *trustStore) removeDerived() error {
	for _, name := range []string{"authorized_keys", "known_hosts"} {
		file := filepath.Join(t.dir, name)
		if text, err := os.ReadFile(file); err != nil || editedByHand(text) {
			continue // not ours
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("trust reset: %w", err)
		}
	}
	return nil
}
