//go:build linux

package main

// Files over a session, by the stock clients: in this process, and by a child
// for another user.

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sftpBatch runs stock sftp's commands and returns what it printed.
func (d *sshdTest) sftpBatch(commands string) (string, error) {
	d.Helper()
	cmd := exec.Command("sftp", "-q", "-b", "-", "-F", "/dev/null", "-P", d.port, "-i", d.dir+"/id",
		"-o", "HostKeyAlias=h", "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile="+d.dir+"/known_hosts", d.user+"@127.0.0.1")
	cmd.Stdin = strings.NewReader(commands)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// everyVerb is a batch of stock sftp that uses each request.
const everyVerb = `mkdir DIR/d
put FILE DIR/d/a
get DIR/d/a FILE.back
rename DIR/d/a DIR/d/b
ln DIR/d/b DIR/d/hard
ln -s b DIR/d/soft
ls -la DIR/d
chmod 600 DIR/d/b
copy DIR/d/b DIR/d/c
get DIR/d/c FILE.copy
df DIR/d
-rename DIR/d/b DIR/d/missing/x
rm DIR/d/b
rm DIR/d/c
rm DIR/d/hard
rm DIR/d/soft
rmdir DIR/d
`

func TestFilesStockSFTP(t *testing.T) {
	for _, c := range []struct {
		name string
		d    *sshdTest
	}{{"in this process", startSSHD(t, nil)}, {"by a child", nobodySSHD(t)}} {
		t.Run(c.name, func(t *testing.T) {
			own, dir := t.TempDir(), t.TempDir()
			for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
				if err := os.Chmod(p, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			file, content := filepath.Join(own, "f"), make([]byte, 3<<20+17)
			rand.Read(content)
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := c.d.sftpBatch(strings.NewReplacer("DIR", dir, "FILE", file).Replace(everyVerb))
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for _, name := range []string{".back", ".copy"} {
				if back, err := os.ReadFile(file + name); err != nil || !bytes.Equal(back, content) {
					t.Errorf("%s: %d bytes, %v", name, len(back), err)
				}
			}
			if !strings.Contains(out, "soft") || !strings.Contains(out, "lrwxrwxrwx") {
				t.Errorf("listing: %s", out)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestFilesRoot: what lies outside of the root cannot be had by its name, by
// "..", nor by a link; what a link means is meant inside.
func TestFilesRoot(t *testing.T) {
	root, out := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{filepath.Join(out, "secret"): "outside", filepath.Join(root, "in"): "inside"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"abs": out + "/secret", "up": "../../../../.." + out + "/secret", "proc": "/proc/self/root" + out + "/secret", "fine": "/in"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	d, err := openFileDoor(fileRules{protocol: "sftp", root: root}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for _, p := range []string{"abs", "up", "proc", out + "/secret", "/../../" + out + "/secret", "fine/../.." + out + "/secret"} {
		if f, err := d.open(p, sftpOpenRead, 0, -1); err == nil {
			t.Errorf("%s could be read", p)
			f.close()
		}
		if err := d.link(p, "stolen"); err == nil {
			if f, err := d.open("stolen", sftpOpenRead, 0, -1); err == nil {
				t.Errorf("%s could be linked and read", p)
				f.close()
			}
			d.remove("stolen")
		}
		for what, err := range map[string]error{
			"renamed": d.rename(p+"x", "y", true), "setstat": d.setstat(p, sftpAttrs{flags: sftpHasMode, mode: 0o777}),
		} {
			if err == nil {
				t.Errorf("%s: %s", p, what)
			}
		}
	}
	f, err := d.open("fine", sftpOpenRead, 0, -1)
	if err != nil {
		t.Fatalf("an absolute link inside: %v", err)
	}
	b := make([]byte, 10)
	if n, _ := f.readAt(b, 0); string(b[:n]) != "inside" {
		t.Errorf("%q", b[:n])
	}
	f.close()
	if text, err := os.ReadFile(out + "/secret"); string(text) != "outside" {
		t.Errorf("%q, %v", text, err)
	}
	if st, _ := os.Stat(out + "/secret"); st.Mode().Perm() != 0o644 {
		t.Errorf("mode %v", st.Mode())
	}
}
