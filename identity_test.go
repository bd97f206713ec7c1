package main

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// ed25519FromSeed is a key whose seed is 32 times b.
func ed25519FromSeed(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32))
}

func TestIdentityIsMadeOnceAndReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "identity")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), ".identity.tmp1"), []byte("of a start that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	got := make([]*identity, 8)
	for i := range got {
		wg.Go(func() {
			id, err := loadIdentity(file)
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = id
		})
	}
	wg.Wait()
	for _, id := range got[1:] {
		if id == nil || got[0] == nil || id.keys.deviceID() != got[0].keys.deviceID() {
			t.Fatal("processes that started together have different identities")
		}
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestIdentityIsAnOpenSSHKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "identity")
	id, err := loadIdentity(file)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh-keygen", "-y", "-f", file).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	want := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(id.keys.sshKey())))
	if !strings.HasPrefix(string(out), want) {
		t.Errorf("ssh-keygen reads %s, not %s", out, want)
	}
}

func TestIdentityRefusesDamage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(file, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadIdentity(file); err == nil {
		t.Error("a damaged identity was accepted")
	}
	if b, _ := os.ReadFile(file); string(b) != "not a key" {
		t.Error("a damaged identity was overwritten")
	}
}

func TestCertificateCarriesBothKeys(t *testing.T) {
	id, err := newIdentity(ed25519FromSeed(3))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keysOfCert(id.cert.Certificate[0])
	if err != nil || keys.deviceID() != id.keys.deviceID() {
		t.Errorf("certificate says %v, %v", keys, err)
	}
}
