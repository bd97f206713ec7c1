//go:build linux

package main

// The filter over the real protocols: rules of sizes, users, of several
// matchers, and default_action.

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// filterMoreRules are about a directory each.
const filterMoreRules = `[
{name: big, directory: big, min_size: 6, action: deny},
{name: small, directory: small, max_size: 4, action: deny},
{name: band, directory: band, min_size: 4, max_size: 6, action: deny, operations: [upload]},
{name: exact, directory: exact, min_size: 5, max_size: 5, action: allow},
{name: not exact, directory: exact, action: deny, operations: [upload, download]},
{name: guests, directory: guests, users: [guest, other], action: deny, operations: [upload, download]},
{name: of one, directory: of one, users: [ME], action: allow},
{name: of none, directory: of one, action: deny, operations: [upload, download]},
{name: guests big, directory: guests big, users: [guest], min_size: 6, operations: [upload], action: deny},
{name: and, composite: {type: and, matchers: [{directory: and}, {extensions: [exe]}, {min_size: 3}]}, action: deny},
{name: or, directory: or, composite: {type: or, matchers: [{extensions: [exe]}, {pattern: "x*"}, {min_size: 6}]}, action: deny},
{name: not, directory: not, not: {extensions: [txt]}, action: deny, operations: [upload, download]},
{name: composite not, composite: {type: and, matchers: [{directory: long not}, {composite: {type: not, matcher: {extensions: [txt]}}}]}, action: deny, operations: [upload, download]},
{name: not small, directory: not small, not: {max_size: 4}, action: deny, operations: [upload, download]},
{name: nest, directory: nest, composite: {type: or, matchers: [{composite: {type: and, matchers: [{extensions: [exe]}, {not: {min_size: 5}}]}}, {composite: {type: not, matcher: {pattern: "[a-m]*"}}}]}, action: deny, operations: [upload, download]},
{name: logged, directory: logged, min_size: 6, action: log, operations: [upload, download]},
{name: but, directory: but, extensions: [txt], action: allow},
{name: all but, directory: but, action: deny, operations: [upload, download]}]`

// filterMoreFiles are files of some size, and the rule that denies them to be
// put and to be had: to the account of the test, and to a guest, "" none.
var filterMoreFiles = []struct {
	file     string
	size     int
	me       string
	guest    string // "=": as to the other
	logged   bool
	readable bool // it is denied to be put only
}{
	{"big/five", 5, "", "=", false, false},
	{"big/six", 6, "big", "=", false, false},
	{"big/none", 0, "", "=", false, false},
	{"small/four", 4, "small", "=", false, false},
	{"small/none", 0, "small", "=", false, false},
	{"small/five", 5, "", "=", false, false},
	{"band/three", 3, "", "=", false, false},
	{"band/four", 4, "band", "=", false, true},
	{"band/six", 6, "band", "=", false, true},
	{"band/seven", 7, "", "=", false, false},
	{"exact/four", 4, "not exact", "=", false, false},
	{"exact/five", 5, "", "=", false, false},
	{"exact/six", 6, "not exact", "=", false, false},
	{"guests/a", 1, "", "guests", false, false},
	{"of one/a", 1, "", "of none", false, false},
	{"guests big/five", 5, "", "", false, false},
	{"guests big/six", 6, "", "guests big", false, true},
	{"and/a.exe", 3, "and", "=", false, false},
	{"and/b.exe", 2, "", "=", false, false},
	{"and/a.txt", 3, "", "=", false, false},
	{"or/a.EXE", 1, "or", "=", false, false},
	{"or/x", 1, "or", "=", false, false},
	{"or/six", 6, "or", "=", false, false},
	{"or/a.txt", 5, "", "=", false, false},
	{"not/a.txt", 1, "", "=", false, false},
	{"not/a.exe", 1, "not", "=", false, false},
	{"long not/a.txt", 1, "", "=", false, false},
	{"long not/a", 1, "composite not", "=", false, false},
	{"not small/four", 4, "", "=", false, false},
	{"not small/five", 5, "not small", "=", false, false},
	{"nest/a.exe", 4, "nest", "=", false, false},
	{"nest/b.exe", 5, "", "=", false, false},
	{"nest/z", 5, "nest", "=", false, false},
	{"nest/b", 1, "", "=", false, false},
	{"logged/five", 5, "", "=", false, false},
	{"logged/six", 6, "", "=", true, false},
	{"but/a.txt", 1, "", "=", false, false},
	{"but/a", 1, "all but", "=", false, false},
	{"elsewhere", 9, "", "=", false, false},
}

// as opens SFTP as a user; every name is that of the test's account.
func (f *filesTest) as(user string) *ssh.Client {
	f.Helper()
	cl, err := ssh.Dial("tcp", f.addr, &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(sshdSigner(f.T, f.key))},
		HostKeyCallback: ssh.FixedHostKey(sshdSigner(f.T, f.host).PublicKey())})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { cl.Close() })
	return cl
}

// scpAs runs a command of SCP as a user.
func (f *filesTest) scpAs(user, command, in string) (out string, status int) {
	f.Helper()
	s := f.newSession(f.as(user))
	var o sshdBuffer
	s.Stdin, s.Stdout = strings.NewReader(in), &o
	status = filesStatus(s.Run(command))
	return o.String(), status
}

// TestSlowFilterChild is the next tests by a child.
func TestSlowFilterChild(t *testing.T) {
	slow(t)
	t.Run("sizes", func(t *testing.T) { filterMore(t, startFilesTest(t, true)) })
	t.Run("default", func(t *testing.T) { filterDefault(t, startFilesTest(t, true)) })
}

func TestFilterSizesUsersAndMore(t *testing.T) { filterMore(t, startFilesTest(t, false)) }

// filterMore puts and gets each file by SFTP and by SCP, new and over an old one.
// What is denied leaves all as it was.
func filterMore(t *testing.T, f *filesTest) {
	rules := strings.NewReplacer("ME", f.user, "\n", " ").Replace(filterMoreRules)
	f.set(func(c *serverConfig) { c.filter = filterTestMake(t, "allow", rules) })
	logs := map[string]int{}
	for _, user := range []string{f.user, "guest"} {
		c := f.sftpOn(f.as(user))
		var source, given, sink, want strings.Builder // what is asked for, and what comes
		for i, x := range filterMoreFiles {
			rule := x.me
			if user == "guest" && x.guest != "=" {
				rule = x.guest
			}
			base := fmt.Sprintf("%s%d/", user, i)
			old := f.write(base+x.file, strings.Repeat("o", x.size))
			name, text := filepath.Base(x.file), strings.Repeat("n", x.size)
			file := filepath.Join(filepath.Dir(old), name[:1]+"N"+filepath.Ext(name)) // alike to the rules
			denied := func(how string, r sftpReply, rule string) {
				if want := fmt.Sprintf("denied by filter rule %q", rule); rule != "" && (r.code != sftpDenied || r.text != want) || rule == "" && r.code != sftpOK {
					t.Errorf("%s as %s, %s: %d %q, want the rule %q", x.file, user, how, r.code, r.text, rule)
				}
			}
			before := filesTree(t, f.dir+"/"+base)
			getRule := rule
			if x.readable {
				getRule = ""
			}
			got, r := c.get(old)
			denied("get", r, getRule)
			if (r.code == sftpOK) != (got == strings.Repeat("o", x.size)) && x.size > 0 {
				t.Errorf("%s: %q", x.file, got)
			}
			denied("put", c.put(file, text, sftpOpenNew), rule)
			if rule == "" { // and back, which is no write
				c.one(sftpRemove, file)
			}
			denied("put over", c.put(old, text, sftpOpenNew), rule)
			if rule != "" {
				if after := filesTree(t, f.dir+"/"+base); after != before {
					t.Errorf("%s as %s leaves\n%s\nof\n%s", x.file, user, after, before)
				}
			}
			if x.logged {
				logs["sftp"] += 3
				logs["scp"] += 2
			}
			// By SCP all in one: the sink has them as a tree, the source in
			// the order of its words.
			says := func(file string) string {
				return fmt.Sprintf("\x01scp: %s: denied by filter rule %q\n", file, rule)
			}
			fmt.Fprintf(&source, " '%s'", old)
			if getRule != "" {
				given.WriteString(says(old))
			} else {
				fmt.Fprintf(&given, "C0666 %d %s\n%s\x00", x.size, filepath.Base(old), strings.Repeat(map[bool]string{true: "n", false: "o"}[rule == ""], x.size))
			}
			dirs := strings.Split(base+filepath.Dir(x.file), "/")
			for _, dir := range dirs {
				if dir != "." {
					fmt.Fprintf(&sink, "D0777 0 %s\n", dir)
					want.WriteString("\x00")
				}
			}
			fmt.Fprintf(&sink, "C0666 %d %s\n", x.size, filepath.Base(file))
			if rule == "" {
				fmt.Fprintf(&sink, "%s\x00", text)
				want.WriteString("\x00\x00")
			} else {
				want.WriteString(says("./" + base + filepath.Dir(x.file) + "/" + filepath.Base(file)))
			}
			for _, dir := range dirs {
				if dir != "." {
					sink.WriteString("E\n")
					want.WriteString("\x00")
				}
			}
		}
		c.end()
		if out, code := f.scpAs(user, "scp -f"+source.String(), strings.Repeat("\x00", 200)); out != given.String() || code != 1 {
			t.Errorf("scp -f as %s: %d, %s", user, code, firstDifference(out, given.String()))
		}
		if out, code := f.scpAs(user, "scp -r -t .", sink.String()); out != "\x00"+want.String() || code != 1 {
			t.Errorf("scp -t as %s: %d, %s", user, code, firstDifference(out, "\x00"+want.String()))
		}
	}
	for _, r := range f.records() {
		if r.Type == string(auditTransferAllowed) {
			if logs[r.Protocol]--; r.Rule != "logged" {
				t.Errorf("%+v", r)
			}
		}
	}
	if logs["sftp"] != 0 || logs["scp"] != 0 {
		t.Errorf("records of what is to be logged that are missing: %v", logs)
	}
}

// TestFilterSizesOfMore: sizes count where a file is not put or got as well, and
// none has what is no file.
func TestFilterSizesOfMore(t *testing.T) {
	f := startFilesTest(t, false)
	f.set(func(c *serverConfig) {
		c.filter = filterTestMake(t, "allow", "[{name: big, pattern: '*', min_size: 6, action: deny}]")
	})
	f.write("five", "55555")
	f.write("six", "666666")
	f.write("d/six", "666666")
	c := f.sftp()
	size := func(n uint64) sftpAttrs { return sftpAttrs{flags: sftpHasSize, size: n} }
	for _, x := range []struct {
		name string
		do   func() sftpReply
		ok   bool
	}{
		{"remove", func() sftpReply { return c.one(sftpRemove, "six") }, false},
		{"rename", func() sftpReply { return c.do(twoNames(sftpRename, "six", "x")) }, false},
		{"posix-rename over it", func() sftpReply { return c.ext(sftpPosixRename, "five", "six") }, true},
		{"hardlink", func() sftpReply { return c.ext(sftpHardlink, "d/six", "x") }, false},
		{"stat", func() sftpReply { return c.one(sftpStat, "d/six") }, false},
		{"setstat to grow", func() sftpReply { return c.do(sftpRequest{kind: sftpSetstat, path: "six", attrs: size(6)}) }, false},
		{"setstat to be as it may", func() sftpReply { return c.do(sftpRequest{kind: sftpSetstat, path: "six", attrs: size(4)}) }, true},
		{"fsetstat to grow", func() sftpReply {
			return onHandle(c, "six", sftpOpenWrite, func(h string) sftpRequest {
				return sftpRequest{kind: sftpFsetstat, path: h, attrs: size(1 << 40)}
			})
		}, false},
		{"a write far behind", func() sftpReply {
			return onHandle(c, "new", sftpOpenNew, func(h string) sftpRequest {
				return sftpRequest{kind: sftpWrite, path: h, offset: 1 << 40, data: []byte("x")}
			})
		}, false},
		{"append", func() sftpReply { return c.put("six", "666", sftpOpenWrite|sftpOpenAppend) }, false},
		{"copy-data", func() sftpReply { return copyData(c, "six", "new") }, true},
		{"rename a directory with it", func() sftpReply { return c.do(twoNames(sftpRename, "d", "e")) }, false},
		{"rmdir", func() sftpReply { return c.one(sftpRmdir, "d") }, true}, // is not empty, which is another matter
		{"listdir", func() sftpReply { return c.one(sftpOpendir, "d") }, true},
	} {
		r := x.do()
		if denied := r.kind == sftpStatus && r.code == sftpDenied; denied == x.ok {
			t.Errorf("%s: %+v", x.name, r)
		}
	}
}

func TestFilterDefault(t *testing.T) { filterDefault(t, startFilesTest(t, false)) }

// filterDefault: what no rule says is what default_action says, in every
// operation, with the word for it.
func filterDefault(t *testing.T, f *filesTest) {
	const says = "denied by filter: default_action is deny"
	f.set(func(c *serverConfig) {
		c.filter = filterTestMake(t, "deny", `[{name: open, path_prefix: `+f.dir+`/free, action: allow}, {name: open, path_prefix: `+f.dir+`/c0/free, action: allow},
{name: to begin, pattern: `+f.dir+`, operations: [stat], action: allow}]`)
	})
	c := f.sftp()
	for i, x := range filterCases {
		dir, free := f.caseDirs(0, fmt.Sprint("shut", i), false)
		before := filesTree(t, dir)
		if r := x.do(c, dir, free); r.kind != sftpStatus || r.code != sftpDenied || r.text != says {
			t.Errorf("%s: %+v", x.name, r)
		}
		if after := filesTree(t, dir); after != before {
			t.Errorf("%s leaves\n%s\nof\n%s", x.name, after, before)
		}
	}
	f.write("free/f", "f")
	if text, r := c.get(f.dir + "/free/f"); text != "f" || r.code != sftpOK {
		t.Errorf("what a rule allows: %q, %+v", text, r)
	}
	out, _, code := f.scp("scp -f "+f.dir+"/shut "+f.dir+"/free/f", "\x00\x00\x00\x00")
	if want := "\x01scp: " + f.dir + "/shut: " + says + "\nC0666 1 f\nf\x00"; code != 1 || out != want {
		t.Errorf("scp -f: %d, %q", code, out)
	}
	out, _, code = f.scp("scp -t "+f.dir+"/new", "C0644 1 x\n")
	if want := "\x00\x01scp: " + f.dir + "/new: " + says + "\n"; code != 1 || out != want {
		t.Errorf("scp -t: %d, %q", code, out)
	}
	f.set(func(c *serverConfig) { c.filter = filterTestMake(t, "log", "[{directory: quiet, action: allow}]") })
	f.write("quiet/f", "f")
	c = f.sftp()
	c.get(f.dir + "/quiet/f")
	c.get(f.dir + "/free/f")
	c.end()
	logged := 0
	for _, r := range f.records() {
		if r.Type == string(auditTransferAllowed) && strings.HasSuffix(r.Path, "/free/f") && r.Rule == "" && r.Details == "download" {
			logged++
		} else if r.Type == string(auditTransferAllowed) {
			t.Errorf("%+v", r)
		}
	}
	if logged != 1 {
		t.Errorf("%d records of what is logged by default", logged)
	}
}
