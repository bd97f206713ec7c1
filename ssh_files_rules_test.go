//go:build linux

package main

// Settings of SFTP and SCP over sessions, in this process and by a child.

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// bothWays runs a test in this process and, as root, by a child as nobody.
func bothWays(t *testing.T, do func(*filesTest)) {
	for i, name := range []string{"in this process", "by a child"} {
		t.Run(name, func(t *testing.T) { do(startFilesTest(t, i == 1)) })
	}
}

func (f *filesTest) write(name, text string) string {
	f.Helper()
	file := filepath.Join(f.dir, name)
	os.MkdirAll(filepath.Dir(file), 0o777)
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		f.Fatal(err)
	}
	for p := file; p != f.dir; p = filepath.Dir(p) { // whatever the umask is
		mode := os.FileMode(0o777)
		if p == file {
			mode = 0o666
		}
		if err := os.Chmod(p, mode); err != nil {
			f.Fatal(err)
		}
	}
	return file
}

// TestSFTPSettings: sftp.enabled and sftp.root.
func TestSFTPSettings(t *testing.T) {
	bothWays(t, func(f *filesTest) {
		inside := f.write("root/home/in", "inside")
		out := f.write("out", "outside")
		f.setAccount(func(a *osAccount) { a.home = filepath.Dir(inside) })
		if text, r := f.sftp().get(out); text != "outside" || r.code != sftpOK {
			t.Errorf("without a root: %q, %+v", text, r)
		}
		f.set(func(c *serverConfig) { c.sftpRoot = filepath.Join(f.dir, "root") })
		c := f.sftp()
		if r := c.one(sftpRealpath, "."); len(r.names) != 1 || r.names[0].name != "/home" {
			t.Errorf("it begins in %+v", r)
		}
		for p, want := range map[string]uint32{"in": sftpOK, "/home/in": sftpOK, "/home/../../home/in": sftpOK, out: sftpNoSuchFile, "../../out": sftpNoSuchFile, inside: sftpNoSuchFile} {
			if text, r := c.get(p); r.code != want || (want == sftpOK) != (text == "inside") {
				t.Errorf("%s: %q, %+v", p, text, r)
			}
		}
		if code := c.end(); code != 0 {
			t.Errorf("exit status %d", code)
		}
		// One that is gone is told of without its place on disk.
		f.set(func(c *serverConfig) { c.sftpRoot = filepath.Join(f.dir, "gone") })
		if c, err := openRawSFTP(t, f.mustDial()); err == nil {
			t.Error("a root that is not there")
		} else if c.wait(); strings.Contains(c.errs.String(), f.dir) {
			t.Errorf("a client reads %q", c.errs)
		}
		f.set(func(c *serverConfig) { c.sftpRoot, c.sftpEnabled = "", false })
		if _, err := openRawSFTP(t, f.mustDial()); err == nil || !strings.Contains(f.logged(), "sftp is switched off here (sftp.enabled)") {
			t.Errorf("switched off: %v", err)
		}
		if _, errs, code := f.scp("scp -f "+out, "\x00\x00\x00"); code != 0 {
			t.Errorf("SCP: %q, %d", errs, code)
		}
		if out, err := f.sftpBatch("ls /\n"); err == nil {
			t.Errorf("stock sftp: %s", out)
		}
	})
}

// TestSCPSettings: scp.enabled, scp.root and what stands in for it, scp.max_size.
func TestSCPSettings(t *testing.T) {
	bothWays(t, func(f *filesTest) {
		f.write("sftp/who", "sftp's")
		f.write("scp/who", "scp's")
		for _, c := range []struct {
			sftpRoot, scpRoot, want string
		}{
			{"", "", "\x01scp: /who: No such file or directory\n"},
			{"sftp", "", "C0666 6 who\nsftp's\x00"},
			{"sftp", "scp", "C0666 5 who\nscp's\x00"},
			{"", "scp", "C0666 5 who\nscp's\x00"},
		} {
			f.set(func(conf *serverConfig) {
				conf.sftpRoot, conf.scpRoot = "", ""
				if c.sftpRoot != "" {
					conf.sftpRoot = filepath.Join(f.dir, c.sftpRoot)
				}
				if c.scpRoot != "" {
					conf.scpRoot = filepath.Join(f.dir, c.scpRoot)
				}
			})
			if out, errs, _ := f.scp("scp -f /who", "\x00\x00\x00"); out != c.want || errs != "" {
				t.Errorf("%+v: %q, %q", c, out, errs)
			}
		}
		f.set(func(c *serverConfig) { c.scpMaxSize = 10 })
		f.write("scp/old", "old")
		out, _, code := f.scp("scp -t /", "C0644 11 old\nC0644 10 new\n0123456789\x00C0644 99999999999999 big\n")
		want := "\x00\x01scp: /old: File too large\n\x00\x00\x01scp: /big: File too large\n"
		tree := filesTree(t, filepath.Join(f.dir, "scp"))
		if out != want || code != 1 || strings.Contains(tree, "big") || !strings.Contains(tree, `"/new" -rw-r--r-- 10 `) || !strings.Contains(tree, `"/old" -rw-rw-rw- 3 `) {
			t.Errorf("%q, %d: %s", out, code, tree)
		}
		local := filepath.Join(t.TempDir(), "local")
		if err := os.WriteFile(local, make([]byte, 11), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, errs, code := f.run(f.stockSCP("-O", local, "h:/local")); code != 1 || !strings.Contains(errs, "scp: /local: File too large") {
			t.Errorf("stock scp: %d, %q", code, errs)
		}
		f.set(func(c *serverConfig) { c.scpMaxSize = 0 })
		if _, errs, code := f.run(f.stockSCP("-O", local, "h:/local")); code != 0 {
			t.Errorf("stock scp without a bound: %d, %q", code, errs)
		}
		f.set(func(c *serverConfig) { c.scpEnabled = false })
		for _, command := range []string{"scp -t /", "scp -f /who"} {
			if out, errs, code := f.scp(command, "\x00"); code != exitRefused || out != "" || errs != "sessio: scp is switched off here (scp.enabled)\r\n" {
				t.Errorf("%s: %d, %q, %q", command, code, out, errs)
			}
		}
		f.sftp() // is not
	})
}

// TestFilterDeniesBeforeBytes: cp learns that a name is denied before it sends
// the file, and leaves nothing; others arrive, and go on where they were cut.
func TestFilterDeniesBeforeBytes(t *testing.T) {
	f := startFilesTest(t, false)
	f.set(func(c *serverConfig) {
		c.filter = filterTestMake(t, "allow", `[{name: exe, extensions: [exe], operations: [upload], action: deny}, {name: small, pattern: "*.iso", min_size: 700000, operations: [upload], action: deny}]`)
	})
	signer := sshdSigner(t, f.key)
	c := newCPTest(t, &sshcPeer{addr: f.addr, hostKey: sshdSigner(t, f.host).PublicKey(), userKey: signer, users: []string{f.user}})
	c.dir = f.dir
	for _, dir := range []string{"here/d", "there"} {
		if err := os.MkdirAll(filepath.Join(f.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := c.file(c.here("d/text"), 1<<20)
	c.file(c.here("d/x.exe"), 1<<20)
	c.file(c.here("d/y.ISO"), 1<<20)
	c.file(c.here("d/y.iso"), 1<<20)
	if err := os.WriteFile(filepath.Join(f.dir, "there", partName("text")), text[:600_000], 0o644); err != nil {
		t.Fatal(err)
	}
	os.Rename(c.here("d/y.ISO"), c.there("x.exe")) // stays
	old, err := os.ReadFile(c.there("x.exe"))
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"attic:/x.exe", "attic:/new.exe"} {
		if err := c.cp("here/d/x.exe", to); exitStatus(err) != 1 || !strings.HasSuffix(c.errs, to[len("attic:"):]+": denied by filter rule \"exe\"\n") {
			t.Errorf("%s: %v, %s", to, err, c.errs)
		}
	}
	if err := c.cp("here/d/text", "here/d/y.iso", "attic:/"); exitStatus(err) != 1 || !strings.Contains(c.errs, "y.iso: denied by filter rule") || !strings.Contains(c.errs, "goes on behind") {
		t.Errorf("%v, %s", err, c.errs)
	}
	c.same(c.there("text"), text)
	c.same(c.there("x.exe"), old)
	if list, _ := os.ReadDir(c.there("")); len(list) != 2 {
		t.Errorf("there are %v", list)
	}
	denied := map[string]int{}
	for _, r := range f.records() {
		if strings.Contains(r.Path, "exe") || r.Result == "failure" && !strings.Contains(r.Path, "iso") {
			denied[strings.Join([]string{r.Type, filepath.Base(r.Path), r.Rule}, " ")]++
		}
	}
	if len(denied) != 2 || denied["transfer_denied .x.exe.sessio-part exe"] != 1 || denied["transfer_denied .new.exe.sessio-part exe"] != 1 {
		t.Errorf("recorded %v", denied)
	}
}

// stockSCP is stock scp, whose "h" is the server.
func (d *sshdTest) stockSCP(args ...string) *exec.Cmd {
	cmd := d.ssh(args...)
	var all []string
	for i := 0; i < len(cmd.Args); i++ {
		switch a := cmd.Args[i]; a {
		case "ssh":
			all = append(all, "scp")
		case "-p":
			i++
			all = append(all, "-P", cmd.Args[i])
		case "-l":
			i++
			all = append(all, "-o", "User="+cmd.Args[i])
		default:
			all = append(all, a)
		}
	}
	scp := exec.Command("scp", all[1:]...)
	scp.Env = cmd.Env
	return scp
}
