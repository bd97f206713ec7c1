//go:build linux

package main

// The filter over the real protocols: every operation and extension, allowed,
// denied and logged, by the name that is in the rule and by a link to it.

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A filterCase is a request in the directory dir, which has a file f, a
// directory d and a link l to f; free is beside it and has a file f as well.
type filterCase struct {
	op   string // whose rules decide
	name string
	do   func(c *rawSFTP, dir, free string) sftpReply
}

func twoNames(kind byte, a, b string) sftpRequest { return sftpRequest{kind: kind, path: a, path2: b} }

// onHandle opens a file and asks for something with its handle.
func onHandle(c *rawSFTP, file string, pflags uint32, ask func(handle string) sftpRequest) sftpReply {
	h := c.openFile(file, pflags)
	if h.kind != sftpHandle {
		return h
	}
	r := c.do(ask(string(h.data)))
	c.one(sftpClose, string(h.data))
	return r
}

// rangeOf is what copy-data and sha256-range have: all of a file.
func rangeOf(handle string) []byte {
	return append(appendSFTPString(nil, handle), make([]byte, 16)...)
}

var filterCases = []filterCase{
	{"upload", "open new", func(c *rawSFTP, dir, _ string) sftpReply { return c.put(dir+"/new", "x", sftpOpenNew) }},
	{"upload", "open to overwrite", func(c *rawSFTP, dir, _ string) sftpReply { return c.put(dir+"/f", "x", sftpOpenNew) }},
	{"upload", "open to append", func(c *rawSFTP, dir, _ string) sftpReply {
		return c.put(dir+"/f", "x", sftpOpenWrite|sftpOpenAppend)
	}},
	{"upload", "open by a link", func(c *rawSFTP, dir, _ string) sftpReply { return c.put(dir+"/l", "x", sftpOpenWrite) }},
	{"upload", "open to create alone", func(c *rawSFTP, dir, _ string) sftpReply { return c.openFile(dir+"/new", sftpOpenCreate) }},
	{"upload", "open to truncate alone", func(c *rawSFTP, dir, _ string) sftpReply { return c.openFile(dir+"/f", sftpOpenTrunc) }},
	{"upload", "open for both", func(c *rawSFTP, dir, _ string) sftpReply { return c.openFile(dir+"/f", sftpOpenRead|sftpOpenWrite) }},
	{"upload", "setstat of the size", func(c *rawSFTP, dir, _ string) sftpReply {
		return c.do(sftpRequest{kind: sftpSetstat, path: dir + "/f", attrs: sftpAttrs{flags: sftpHasSize, size: 1}})
	}},
	{"upload", "hardlink to", func(c *rawSFTP, dir, free string) sftpReply { return c.ext(sftpHardlink, free+"/f", dir+"/new") }},
	{"upload", "hardlink of", func(c *rawSFTP, dir, free string) sftpReply { return c.ext(sftpHardlink, dir+"/f", free+"/new") }},
	{"upload", "copy-data to", func(c *rawSFTP, dir, free string) sftpReply { return copyData(c, free+"/f", dir+"/new") }},
	{"download", "open to read", func(c *rawSFTP, dir, _ string) sftpReply { _, r := c.get(dir + "/f"); return r }},
	{"download", "open by a link", func(c *rawSFTP, dir, _ string) sftpReply { _, r := c.get(dir + "/l"); return r }},
	{"download", "open for both", func(c *rawSFTP, dir, _ string) sftpReply { return c.openFile(dir+"/f", sftpOpenRead|sftpOpenWrite) }},
	{"download", "open to create, which reads too", func(c *rawSFTP, dir, _ string) sftpReply { return c.openFile(dir+"/f", sftpOpenCreate) }},
	{"download", "open as nothing", func(c *rawSFTP, dir, _ string) sftpReply { return c.openFile(dir+"/f", 0) }},
	{"download", "hardlink of", func(c *rawSFTP, dir, free string) sftpReply { return c.ext(sftpHardlink, dir+"/f", free+"/new") }},
	{"download", "copy-data of", func(c *rawSFTP, dir, free string) sftpReply { return copyData(c, dir+"/f", free+"/new") }},
	{"download", "sha256-range", func(c *rawSFTP, dir, _ string) sftpReply {
		return onHandle(c, dir+"/f", sftpOpenRead, func(h string) sftpRequest {
			return sftpRequest{kind: sftpExtended, path: sftpSHA256, rest: rangeOf(h)}
		})
	}},
	{"download", "sha256-range of what is written", func(c *rawSFTP, dir, _ string) sftpReply {
		return onHandle(c, dir+"/f", sftpOpenRead|sftpOpenWrite, func(h string) sftpRequest {
			return sftpRequest{kind: sftpExtended, path: sftpSHA256, rest: rangeOf(h)}
		})
	}},
	{"delete", "remove", func(c *rawSFTP, dir, _ string) sftpReply { return c.one(sftpRemove, dir+"/f") }},
	{"delete", "remove a link", func(c *rawSFTP, dir, _ string) sftpReply { return c.one(sftpRemove, dir+"/l") }},
	{"delete", "rmdir", func(c *rawSFTP, dir, _ string) sftpReply { return c.one(sftpRmdir, dir+"/d") }},
	{"rename", "rename of", func(c *rawSFTP, dir, free string) sftpReply { return c.do(twoNames(sftpRename, dir+"/f", free+"/new")) }},
	{"rename", "rename to", func(c *rawSFTP, dir, free string) sftpReply { return c.do(twoNames(sftpRename, free+"/f", dir+"/new")) }},
	{"rename", "posix-rename of", func(c *rawSFTP, dir, free string) sftpReply { return c.ext(sftpPosixRename, dir+"/f", free+"/f") }},
	{"rename", "posix-rename to", func(c *rawSFTP, dir, free string) sftpReply { return c.ext(sftpPosixRename, free+"/f", dir+"/f") }},
	{"createdir", "mkdir", func(c *rawSFTP, dir, _ string) sftpReply {
		return c.do(sftpRequest{kind: sftpMkdir, path: dir + "/new"})
	}},
	{"listdir", "opendir", func(c *rawSFTP, dir, _ string) sftpReply { return c.one(sftpOpendir, dir+"/d") }},
	{"stat", "stat", func(c *rawSFTP, dir, _ string) sftpReply { return c.one(sftpStat, dir+"/f") }},
	{"stat", "lstat", func(c *rawSFTP, dir, _ string) sftpReply { return c.one(sftpLstat, dir+"/l") }},
	{"stat", "fstat", func(c *rawSFTP, dir, _ string) sftpReply {
		return onHandle(c, dir+"/f", sftpOpenRead, func(h string) sftpRequest { return sftpRequest{kind: sftpFstat, path: h} })
	}},
	{"stat", "realpath", func(c *rawSFTP, dir, _ string) sftpReply { return c.one(sftpRealpath, dir+"/f") }},
	{"stat", "expand-path", func(c *rawSFTP, dir, _ string) sftpReply { return c.ext(sftpExpandPath, dir+"/f") }},
	{"stat", "expand-path of ~", func(c *rawSFTP, dir, _ string) sftpReply {
		return c.ext(sftpExpandPath, "~/"+dir[strings.LastIndex(dir, "/c")+1:]+"/f")
	}},
	{"stat", "statvfs", func(c *rawSFTP, dir, _ string) sftpReply { return c.ext(sftpStatvfs, dir+"/f") }},
	{"stat", "fstatvfs", func(c *rawSFTP, dir, _ string) sftpReply {
		return onHandle(c, dir+"/f", sftpOpenRead, func(h string) sftpRequest {
			return sftpRequest{kind: sftpExtended, path: sftpFstatvfs, rest: appendSFTPString(nil, h)}
		})
	}},
	{"setstat", "setstat", func(c *rawSFTP, dir, _ string) sftpReply {
		return c.do(sftpRequest{kind: sftpSetstat, path: dir + "/f", attrs: sftpAttrs{flags: sftpHasMode, mode: 0o640}})
	}},
	{"setstat", "lsetstat", func(c *rawSFTP, dir, _ string) sftpReply {
		a := sftpAttrs{flags: sftpHasTimes, atime: 1, mtime: 2}
		return c.do(sftpRequest{kind: sftpExtended, path: sftpLsetstat, rest: a.appendTo(appendSFTPString(nil, dir+"/l"))})
	}},
	{"setstat", "fsetstat", func(c *rawSFTP, dir, _ string) sftpReply {
		return onHandle(c, dir+"/f", sftpOpenRead, func(h string) sftpRequest {
			return sftpRequest{kind: sftpFsetstat, path: h, attrs: sftpAttrs{flags: sftpHasTimes, atime: 1, mtime: 2}}
		})
	}},
	{"symlink", "symlink at", func(c *rawSFTP, dir, _ string) sftpReply { return c.do(twoNames(sftpSymlink, "nowhere", dir+"/new")) }},
	{"symlink", "symlink that leads there", func(c *rawSFTP, dir, free string) sftpReply {
		return c.do(twoNames(sftpSymlink, dir+"/f", free+"/new"))
	}},
	{"readlink", "readlink", func(c *rawSFTP, dir, _ string) sftpReply { return c.one(sftpReadlink, dir+"/l") }},
}

func copyData(c *rawSFTP, from, to string) sftpReply {
	return onHandle(c, from, sftpOpenRead, func(a string) sftpRequest {
		b := c.openFile(to, sftpOpenNew)
		if b.kind != sftpHandle { // what was denied is asked for again: the answer counts
			return sftpRequest{kind: sftpOpen, path: to, pflags: sftpOpenNew}
		}
		rest := appendSFTPString(rangeOf(a), b.data)
		return sftpRequest{kind: sftpExtended, path: sftpCopyData, rest: binary.BigEndian.AppendUint64(rest, 0)}
	})
}

// filterScpCase is a command of SCP in such a directory.
type filterScpCase struct{ op, name, command, in, denied, allowed string }

var filterScpCases = []filterScpCase{
	{"upload", "sink", "scp -t DIR", "C0644 1 new\nC0644 1 new\nx\x00", "", ""},
	{"upload", "sink in place", "scp -t DIR/f", "C0644 1 g\n", "\x00\x01scp: DIR/f: DENIED\n", ""},
	{"download", "source", "scp -f DIR/f FREE/f", "\x00\x00\x00\x00\x00", "\x01scp: DIR/f: DENIED\nC0666 1 f\nf\x00", "C0666 1 f\nf\x00C0666 1 f\nf\x00"},
	{"download", "source by a glob", "scp -f DIR/[f] FREE/f", "\x00\x00\x00\x00\x00", "\x01scp: DIR/f: DENIED\nC0666 1 f\nf\x00", "C0666 1 f\nf\x00C0666 1 f\nf\x00"},
	{"createdir", "sink of a tree", "scp -r -t DIR", "D0755 0 new\nE\n", "\x00\x01scp: DIR/new: DENIED\n\x02scp: protocol error: the end of no directory\n", "\x00\x00\x00"},
	{"listdir", "source of a tree", "scp -r -f DIR/d FREE/f", "\x00\x00\x00\x00\x00", "\x01scp: DIR/d: DENIED\nC0666 1 f\nf\x00", "D0777 0 d\nE\nC0666 1 f\nf\x00"},
	{"stat", "source", "scp -f DIR/f FREE/f", "\x00\x00\x00\x00\x00", "\x01scp: DIR/f: DENIED\nC0666 1 f\nf\x00", "C0666 1 f\nf\x00C0666 1 f\nf\x00"},
}

// filterEvery has rules for each operation and action: a directory of that
// name decides.
func filterEvery(t *testing.T) *fileFilter {
	var rules []string
	for _, op := range filterOps {
		for _, action := range filterActions {
			rules = append(rules, fmt.Sprintf("{name: %[1]s-%[2]s, directory: %[1]s-%[2]s, operations: [%[2]s], action: %[1]s}", action, op))
		}
	}
	return filterTestMake(t, "allow", "["+strings.Join(rules, ", ")+"]")
}

// dirs makes the directories of a case: that which the rule is about, by its
// name or by a link, and the free one.
func (f *filesTest) caseDirs(n int, rule string, linked bool) (dir, free string) {
	base := fmt.Sprintf("c%d/", n)
	f.write(base+rule+"/f", "f")
	f.write(base+"free/f", "f")
	dir, free = filepath.Join(f.dir, base, rule), filepath.Join(f.dir, base, "free")
	if err := os.Mkdir(dir+"/d", 0o777); err != nil {
		f.Fatal(err)
	}
	os.Chmod(dir+"/d", 0o777)
	os.Symlink("f", dir+"/l")
	for p, to := range map[string]string{dir + "/l": "", filepath.Join(f.dir, base, "via"): rule} {
		if to != "" {
			os.Symlink(to, p)
		}
		os.Lchown(p, int(f.acct.uid), int(f.acct.gid))
	}
	for _, p := range []string{dir + "/f", free + "/f", dir + "/d"} { // whose is what setstat changes
		os.Chown(p, int(f.acct.uid), int(f.acct.gid))
	}
	if linked {
		dir = filepath.Join(f.dir, base, "via")
	}
	return dir, free
}

// TestFilterTable: every operation and extension of SFTP, and SCP, under rules
// that allow, deny and log it.
func TestFilterTable(t *testing.T) {
	t.Parallel()
	bothWays(t, func(f *filesTest) {
		f.set(func(c *serverConfig) { c.filter = filterEvery(t) })
		c := f.sftp()
		n, want := 0, map[string]int{} // records by type and rule
		for _, linked := range []bool{false, true} {
			for _, action := range filterActions {
				note := func(rule string) {
					if kind := map[string]auditType{"deny": auditTransferDenied, "log": auditTransferAllowed}[action]; kind != "" {
						want[string(kind)+" "+rule]++
					}
				}
				for _, x := range filterCases {
					rule := action + "-" + x.op
					dir, free := f.caseDirs(n, rule, linked)
					n++
					note(rule)
					what, before := fmt.Sprintf("%s: %s, by a link: %v", rule, x.name, linked), filesTree(t, filepath.Dir(free))
					r := x.do(c, dir, free)
					denied := r.kind == sftpStatus && r.code == sftpDenied && r.text == fmt.Sprintf("denied by filter rule %q", rule)
					if denied != (action == "deny") || !denied && r.kind == sftpStatus && r.code != sftpOK {
						t.Errorf("%s: %d %d %q", what, r.kind, r.code, r.text)
					}
					if after := filesTree(t, filepath.Dir(free)); denied && x.name != "copy-data of" && after != before {
						t.Errorf("%s leaves\n%s\nof\n%s", what, after, before)
					}
				}
			}
			for _, action := range []string{"allow", "deny"} {
				for _, x := range filterScpCases {
					rule := action + "-" + x.op
					dir, free := f.caseDirs(n, rule, linked)
					n++
					if action == "deny" {
						want[string(auditTransferDenied)+" "+rule]++
					}
					what, before := fmt.Sprintf("%s: scp %s, by a link: %v", rule, x.name, linked), filesTree(t, filepath.Dir(free))
					fill := strings.NewReplacer("DIR", dir, "FREE", free, "DENIED", fmt.Sprintf("denied by filter rule %q", rule))
					out, errs, code := f.scp(fill.Replace(x.command), x.in)
					switch {
					case action == "deny" && (code != 1 || x.denied != "" && out != fill.Replace(x.denied) || !strings.Contains(out, fill.Replace("\x01scp: DIR")) || filesTree(t, filepath.Dir(free)) != before),
						action == "allow" && x.allowed != "" && (code != 0 || out != fill.Replace(x.allowed)):
						t.Errorf("%s: %d, %q, %q", what, code, out, errs)
					}
				}
			}
		}
		t.Log(n, "cases")
		got := map[string]int{}
		for _, r := range f.records() {
			if !strings.HasPrefix(r.Type, "transfer_") {
				continue
			}
			got[r.Type+" "+r.Rule]++
			if r.User != f.acct.name || r.Session == "" || r.ClientIP != "127.0.0.1" || !slices.Contains([]string{"sftp", "scp"}, r.Protocol) ||
				(r.Type == string(auditTransferDenied)) != (r.Result == "denied") {
				t.Errorf("%+v", r)
			}
		}
		for key, n := range want {
			if got[key] < n {
				t.Errorf("%d records of %s, of %d cases", got[key], key, n)
			}
			delete(got, key)
		}
		if len(got) > 0 {
			t.Errorf("recorded too: %v", got)
		}
	})
}
