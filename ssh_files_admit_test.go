//go:build linux

package main

// Who gets files over a session, and as whom: caps, forced commands, nologin,
// groups, the umask.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFilesUmask: what a session makes has the mode that was sent, less the
// umask; -p of scp means the mode itself.
func TestFilesUmask(t *testing.T) {
	bothWays(t, func(f *filesTest) {
		defer syscall.Umask(syscall.Umask(0o037))
		c := f.sftp()
		for name, mode := range map[string]uint32{"a": 0o666, "b": 0o777, "c": 0o600} {
			h := c.do(sftpRequest{kind: sftpOpen, path: name, pflags: sftpOpenNew, attrs: sftpAttrs{flags: sftpHasMode, mode: mode}})
			if r := c.one(sftpClose, string(h.data)); r.code != sftpOK {
				t.Fatal(r)
			}
		}
		c.put("none", "", sftpOpenNew)
		c.do(sftpRequest{kind: sftpMkdir, path: "d", attrs: sftpAttrs{flags: sftpHasMode, mode: 0o777}})
		c.do(sftpRequest{kind: sftpMkdir, path: "e"})
		f.scp("scp -r -t .", "C0777 0 f\n\x00D0777 0 g\nE\n")
		f.scp("scp -rp -t .", "T1 0 1 0\nC0777 0 h\n\x00T1 0 1 0\nD0777 0 i\nE\n")
		want := "a 640, b 740, c 600, d 740, e 740, f 740, g 740, h 777, i 777, none 640"
		var got []string
		list, _ := os.ReadDir(f.dir)
		for _, e := range list {
			if st, err := e.Info(); err == nil {
				got = append(got, fmt.Sprintf("%s %o", e.Name(), st.Mode().Perm()))
			}
		}
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("%s\nwant %s", text, want)
		}
	})
}

// TestFilesGroups: a child has the groups that passwd and group say, and no
// other: what a supplementary group may read can be read.
func TestFilesGroups(t *testing.T) {
	f := startFilesTest(t, true)
	own := f.acct.groups[len(f.acct.groups)-1]
	for name, gid := range map[string]uint32{"own": own, "others": own + 1, "roots": 0} {
		if err := os.Chown(f.write(name, "text"), 0, int(gid)); err != nil {
			t.Fatal(err)
		}
		os.Chmod(filepath.Join(f.dir, name), 0o640)
	}
	c := f.sftp()
	for name, want := range map[string]uint32{"own": sftpOK, "others": sftpDenied, "roots": sftpDenied} {
		if _, r := c.get(name); r.code != want {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if out, _, code := f.scp("scp -f own others", "\x00\x00\x00\x00"); code != 1 || out != "C0640 4 own\ntext\x00\x01scp: others: Permission denied\n" {
		t.Errorf("%d, %q", code, out)
	}
}

// TestFilesForced: a line's internal-sftp, and with -R to read only, is all that
// its key is good for, whatever is asked.
func TestFilesForced(t *testing.T) {
	k := startKeysTest(t, nil)
	own := k.own()
	for _, c := range []struct {
		command string
		good    string // what of got, put, made is there then
		log     string
	}{
		{"internal-sftp", "got put made", "sftp ended: status 0"},
		{"internal-sftp -R", "got", "sftp ended: status 0"},
		{"internal-sftp -d /tmp", "", "this key's command: internal-sftp takes -R and nothing else here"},
		{"internal-sftpx", "", "forced command"},
	} {
		there, here := t.TempDir(), t.TempDir()
		k.lines(`restrict,command="` + c.command + `" ` + own)
		for _, file := range []string{there + "/file", here + "/file"} {
			write(t, file, "text")
		}
		k.sftpBatch("-cd " + there + "\nlcd " + here + "\n-get file got\n-put file put\n-mkdir made\n")
		var good []string
		for _, name := range []string{here + "/got", there + "/put", there + "/made"} {
			if _, err := os.Stat(name); err == nil {
				good = append(good, filepath.Base(name))
			}
		}
		if got := strings.Join(good, " "); got != c.good || !strings.Contains(k.logged(), c.log) {
			t.Errorf("%s: %q is done, the log says %s", c.command, got, k.logged())
		}
		if c.log != "sftp ended: status 0" || c.good == "got" {
			continue
		}
		// A shell, a command and scp -O get the same: a server of SFTP, to
		// which what they say is nonsense.
		for _, args := range [][]string{{"h"}, {"h", "touch " + there + "/touched"}, {"h", "scp -t " + there}} {
			cmd := k.ssh(args...)
			cmd.Stdin = strings.NewReader("C0644 4 touched\ntext\x00")
			if out, _, code := k.run(cmd); out != "" || code != 1 {
				t.Errorf("%s, %q: %q, %d", c.command, args, out, code)
			}
		}
		if _, err := os.Stat(there + "/touched"); err == nil {
			t.Errorf("%s: a command is run", c.command)
		}
	}
}

// TestFilesReadOnlyChild: the -R goes along to a child.
func TestFilesReadOnlyChild(t *testing.T) {
	f := startFilesTest(t, true)
	f.write("in", "inside")
	command := "internal-sftp -R"
	f.confMu.Lock()
	f.grant.command = &command
	f.confMu.Unlock()
	c := f.sftp()
	if text, r := c.get("in"); text != "inside" || r.code != sftpOK {
		t.Errorf("%q, %+v", text, r)
	}
	before := filesTree(t, f.dir)
	for what, r := range map[string]sftpReply{
		"put": c.put("new", "x", sftpOpenNew), "overwrite": c.put("in", "x", sftpOpenWrite), "remove": c.one(sftpRemove, "in"),
		"mkdir": c.do(sftpRequest{kind: sftpMkdir, path: "d"}), "rename": c.do(twoNames(sftpRename, "in", "out")),
		"link": c.ext(sftpHardlink, "in", "out"), "symlink": c.do(twoNames(sftpSymlink, "in", "out")),
	} {
		if r.kind != sftpStatus || r.code != sftpDenied {
			t.Errorf("%s: %+v", what, r)
		}
	}
	if after := filesTree(t, f.dir); after != before {
		t.Error(after)
	}
}

// TestFilesNologin: an account whose shell turns logins away gets files below a
// root only; while /etc/nologin is there only root does.
func TestFilesNologin(t *testing.T) {
	bothWays(t, func(f *filesTest) {
		f.write("root/in", "inside")
		for _, shell := range []string{"/usr/sbin/nologin", "/bin/false"} {
			if f.acct.mustBecome() && shell == "/bin/false" {
				break // a child knows no shells
			}
			f.setAccount(func(a *osAccount) { a.shell = shell })
			f.set(func(c *serverConfig) { c.sftpRoot = "" })
			if _, err := openRawSFTP(t, f.mustDial()); err == nil || !strings.Contains(f.logged(), "may not log in: the shell is "+shell+", and no sftp.root is set") {
				t.Errorf("%s: %v, %s", shell, err, f.logged())
			}
			if out, errs, code := f.scp("scp -f "+f.dir+"/root/in", "\x00\x00\x00"); code != exitRefused || out != "" || !strings.Contains(errs, "no scp.root is set") {
				t.Errorf("%s: %d, %q, %q", shell, code, out, errs)
			}
			f.set(func(c *serverConfig) { c.sftpRoot = f.dir + "/root" })
			if text, r := f.sftp().get("/in"); text != "inside" {
				t.Errorf("%s, below a root: %q, %+v", shell, text, r)
			}
			if out, errs, code := f.scp("scp -f /in", "\x00\x00\x00"); code != 0 || out != "C0666 6 in\ninside\x00" {
				t.Errorf("%s, below a root: %d, %q, %q", shell, code, out, errs)
			}
		}
	})
	for name, child := range map[string]bool{"root": false, "another user": true} {
		t.Run("the file, as "+name, func(t *testing.T) {
			var nobody osAccount
			if child {
				nobody = sshdNobody(t)
			} else if os.Geteuid() != 0 {
				t.Skip("is not root")
			}
			d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
				if p.nologin = d.dir + "/nologin"; child {
					d.acct = nobody
				}
			})
			d.write("nologin", []byte("Back at noon.\n"))
			out, err := d.sftpBatch("pwd\n")
			if child == (err == nil) || child && !strings.Contains(d.logged(), "only root may log in") {
				t.Errorf("%v, %s, %s", err, out, d.logged())
			}
			out, errs, code := d.run(d.ssh("h", "scp -f /etc/hostname"))
			if child && (code != exitNologin || !strings.Contains(errs, "Back at noon.")) || !child && code == exitNologin {
				t.Errorf("scp: %d, %q, %q", code, out, errs)
			}
		})
	}
}

// TestFilesRefused: what is missing is said, to a client of SCP by the session,
// in the log in any case; where the root is is nobody's business.
func TestFilesRefused(t *testing.T) {
	bothWays(t, func(f *filesTest) {
		f.confMu.Lock()
		f.caps = []string{"shell", "exec", "forward", "pty"}
		f.confMu.Unlock()
		if _, err := openRawSFTP(t, f.mustDial()); err == nil || !strings.Contains(f.logged(), "does not allow this device sftp") {
			t.Errorf("without the cap: %v, %s", err, f.logged())
		}
		if out, errs, code := f.scp("scp -f .", "\x00"); code != exitRefused || out != "" || errs != "sessio: the log does not allow this device sftp (caps)\r\n" {
			t.Errorf("without the cap: %d, %q, %q", code, out, errs)
		}
		f.confMu.Lock()
		f.caps = sshdAllCaps
		f.confMu.Unlock()
		f.set(func(c *serverConfig) { c.sftpRoot = f.dir + "/gone" })
		if out, errs, code := f.scp("scp -f .", "\x00"); code == 0 || out != "" || !strings.Contains(errs, "scp.root, or the one that stands in for it: no such file or directory") || strings.Contains(errs, f.dir) {
			t.Errorf("without its root: %d, %q, %q", code, out, errs)
		}
		f.set(func(c *serverConfig) { c.sftpRoot = "" })
		f.setAccount(func(a *osAccount) { a.home = f.dir + "/gone" })
		if r := f.sftp().one(sftpRealpath, "."); len(r.names) != 1 || r.names[0].name != "/" {
			t.Errorf("without a home it begins in %+v", r)
		}
		f.setAccount(func(a *osAccount) { a.home = "" })
		if r := f.sftp().one(sftpRealpath, "."); len(r.names) != 1 || r.names[0].name != "/" {
			t.Errorf("with no home it begins in %+v", r)
		}
	})
}
