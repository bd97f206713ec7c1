//go:build linux

package main

// What a child may say for the audit, and ways round the filter and the bounds
// that were tried.

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestFilesAudit: what is done with files is recorded with who did it, and
// nothing that is in them.
func TestFilesAudit(t *testing.T) {
	bothWays(t, func(f *filesTest) {
		const secret = "Marked-content-7"
		c := f.sftp()
		for what, r := range map[string]sftpReply{"put": c.put("a", secret, sftpOpenNew), "mkdir": c.do(sftpRequest{kind: sftpMkdir, path: "d"})} {
			if r.code != sftpOK {
				t.Fatal(what, r)
			}
		}
		c.get("a")
		c.one(sftpOpendir, "d")
		c.do(twoNames(sftpRename, "a", "b"))
		c.one(sftpRemove, "b")
		c.one(sftpRmdir, "d")
		c.one(sftpRemove, "gone")
		c.end()
		f.scp("scp -t .", "C0644 16 s\n"+secret+"\x00")
		f.scp("scp -f s", "\x00\x00\x00")
		var got []string
		for _, r := range f.records() {
			if !isFileEvent(auditType(r.Type)) {
				continue
			}
			if strings.HasSuffix(r.Type, "loaded") && (r.Bytes == nil || *r.Bytes != 16) || r.User != f.acct.name || r.Session == "" || r.ClientIP != "127.0.0.1" || filepath.Dir(r.Path) != f.dir {
				t.Errorf("%+v", r)
			}
			got = append(got, strings.Join([]string{r.Protocol, r.Type, filepath.Base(r.Path), r.Result}, " "))
		}
		want := []string{
			"sftp file_open_write a success", "sftp file_uploaded a success", "sftp file_open_read a success", "sftp file_downloaded a success",
			"sftp directory_created d success", "sftp directory_listed d success", "sftp file_renamed a success", "sftp file_deleted b success", "sftp directory_deleted d success", "sftp file_deleted gone failure",
			"scp file_open_write s success", "scp file_uploaded s success", "scp file_open_read s success", "scp file_downloaded s success",
		}
		if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			t.Errorf("recorded %q", got)
		}
		if b, _ := os.ReadFile(f.auditFile); strings.Contains(string(b)+f.logged(), secret) {
			t.Error("a file's content is recorded")
		}
	})
}

// childSays is one record of a child.
func childSays(m fileEventMsg) []byte {
	text := ssh.Marshal(m)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// TestFileEventsHostile: a child that writes what it likes tells of files only.
func TestFileEventsHostile(t *testing.T) {
	good := fileEventMsg{Kind: "file_deleted", Result: "success", Path: "/a"}
	with := func(change func(*fileEventMsg)) []byte {
		m := good
		change(&m)
		return childSays(m)
	}
	for name, b := range map[string][]byte{
		"a login":          with(func(m *fileEventMsg) { m.Kind = "auth_success" }),
		"a session":        with(func(m *fileEventMsg) { m.Kind = "session_end" }),
		"no kind":          with(func(m *fileEventMsg) { m.Kind = "" }),
		"a result of none": with(func(m *fileEventMsg) { m.Result = "fine" }),
		"one too long":     with(func(m *fileEventMsg) { m.Path = strings.Repeat("x", maxFileEvent) }),
		"2^32-1 bytes":     {255, 255, 255, 255},
		"a part":           childSays(good)[:20],
	} {
		n := 0
		readFileEvents(bytes.NewReader(slices.Concat(childSays(good), b, childSays(good))), func(auditEvent) { n++ })
		if n != 1 && name != "a part" || n > 1 {
			t.Errorf("%s: %d records", name, n)
		}
	}
	readFileEvents(bytes.NewReader(with(func(m *fileEventMsg) { m.HasBytes, m.Bytes = true, math.MaxUint64 })), func(e auditEvent) {
		if *e.bytes < 0 {
			t.Error(*e.bytes)
		}
	})
}

func FuzzReadFileEvents(f *testing.F) {
	f.Add(childSays(fileEventMsg{Kind: "file_deleted", Result: "success", Path: "/a", HasBytes: true, Bytes: 7}))
	f.Fuzz(func(t *testing.T, b []byte) {
		readFileEvents(bytes.NewReader(b), func(e auditEvent) {
			if !isFileEvent(e.kind) || e.session+e.user+e.clientIP+e.device != "" || e.bytes != nil && *e.bytes < 0 {
				t.Errorf("%+v", e)
			}
		})
	})
}

// TestFilterRenamedAbove: a directory does not take along what a rule keeps by
// its path, nor bring in what may not come.
func TestFilterRenamedAbove(t *testing.T) {
	f := startFilesTest(t, false)
	f.write("pub/kept/secret", "s")
	f.write("mine/deep/x.exe", "x")
	f.write("plain/deep/y", "y")
	f.set(func(c *serverConfig) {
		c.sftpRoot = f.dir
		c.filter = filterTestMake(t, "allow", `[{name: kept, path_prefix: /pub/kept, action: deny}, {name: exe, pattern: "/in/*.exe", action: deny}]`)
	})
	f.write("in/z", "z")
	c, before := f.sftp(), filesTree(t, f.dir)
	for _, names := range [][2]string{{"/pub", "/else"}, {"/mine", "/in/mine"}, {"/mine/deep", "/in/deep"}} {
		for _, r := range []sftpReply{c.do(twoNames(sftpRename, names[0], names[1])), c.ext(sftpPosixRename, names[0], names[1])} {
			if r.code != sftpDenied || !strings.HasPrefix(r.text, "denied by filter rule") || filesTree(t, f.dir) != before {
				t.Errorf("%q: %+v", names, r)
			}
		}
	}
	if r := c.do(twoNames(sftpRename, "/plain", "/in/plain")); r.code != sftpOK {
		t.Errorf("%+v", r)
	}
}

// TestScpManyWords: words that each stand for many files do not add up.
func TestScpManyWords(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(dir, strings.Repeat("x", i%200+1)+string(rune('a'+i%26))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	status := scpTestServe(t, fileRules{home: dir}, "scp -f"+strings.Repeat(" *", 1000), strings.NewReader(""), &out)
	if status != 1 || out.String() != "\x02scp: the pattern matches too many files\n" {
		t.Errorf("%d, %.200q", status, out.String())
	}
}

// TestFilterHidesWhatIsPassed: a path that leads into what may not be seen, and
// out again, is answered alike whether that is there or not; where it may be
// seen, the answer is the kernel's.
func TestFilterHidesWhatIsPassed(t *testing.T) {
	f := startFilesTest(t, false)
	f.write("no/file", "secret")
	f.write("no/dir/deep/file", "secret")
	f.write("ok/dir/file", "text")
	for name, to := range map[string]string{"no/out": "../ok", "ok/up": "../ok/dir/../dir", "ok/in": "../no/dir", "ok/dir/far": "/ok"} {
		if err := os.Symlink(to, filepath.Join(f.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f.set(func(c *serverConfig) {
		c.sftpRoot = f.dir
		c.filter = filterTestMake(t, "allow", `[{name: no, pattern: "/no/**", action: deny}, {name: odd, pattern: "/ok/odd", operations: [download], action: deny}]`)
	})
	c := f.sftp()
	asked := 0
	for _, way := range []string{"/no/%/../../ok/dir", "/no/%/../../ok/dir/file", "/ok/../no/%/.././../ok/dir/file", "/ok/in/%/../../../ok/dir/file", "/no/%/../../ok/gone", "/ok/dir/far/../no/%/../../ok/dir/file"} {
		for _, name := range []string{"file", "dir", "dir/deep/..", "out", "deep", "gone", "gone/gone/.."} {
			p := strings.Replace(way, "%", name, 1)
			asks := map[string]sftpReply{
				"stat": c.one(sftpStat, p), "lstat": c.one(sftpLstat, p), "realpath": c.one(sftpRealpath, p), "list": c.one(sftpOpendir, p), "read": c.openFile(p, sftpOpenRead),
				"write": c.openFile(p, sftpOpenNew), "remove": c.one(sftpRemove, p), "mkdir": c.do(sftpRequest{kind: sftpMkdir, path: p}), "rename": c.do(twoNames(sftpRename, p, "/ok/x")),
				"rename to": c.do(twoNames(sftpRename, "/ok/dir/file", p)), "symlink": c.do(twoNames(sftpSymlink, p, "/ok/made")), "setstat": c.do(sftpRequest{kind: sftpSetstat, path: p}),
			}
			for what, r := range asks {
				if r.code != sftpDenied || r.text != `denied by filter rule "no"` {
					t.Errorf("%s %s: %+v", what, p, r)
				}
			}
			asked += len(asks)
		}
	}
	for p, want := range map[string]uint32{
		"/ok/dir/../dir/file": sftpOK, "/ok/gone/../dir/file": sftpNoSuchFile, "/ok/dir/file/../file": sftpNoSuchFile, "/ok/up/file": sftpOK, "/ok/up/../dir/file": sftpOK,
		"/no/../ok/dir/file": sftpOK, "/ok/dir/far/../ok/dir/file": sftpOK, "ok/../../ok/dir/file": sftpOK, "/ok/odd/../dir/file": sftpNoSuchFile, "/" + strings.Repeat("ok/../", 600) + "ok/dir/file": sftpOK,
	} {
		if _, r := c.get(p); r.code != want {
			t.Errorf("%.60s: %+v", p, r)
		}
	}
	denied := 0
	for _, r := range f.records() {
		if r.Type == "transfer_denied" && r.Rule == "no" && strings.HasPrefix(r.Path, "/no/") {
			denied++
		}
	}
	if denied != asked {
		t.Errorf("%d records of %d denials", denied, asked)
	}
}
