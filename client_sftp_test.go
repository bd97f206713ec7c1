//go:build !windows

package main

// These tests speak to devices by the words of sftp, and have the client meet
// servers that lie.

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sftp runs the verb with lines as its batch.
func (c *cpTest) sftp(lines ...string) error {
	c.t.Helper()
	batch := filepath.Join(c.dir, "batch")
	text := strings.Join(append([]string{"@cd " + c.there(""), "@lcd " + c.here("")}, lines...), "\n")
	if err := os.WriteFile(batch, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	out, errs := c.temp(), c.temp()
	err := cmdSFTP(c.t.Context(), c.peer, stdio{nil, out, errs}, sftpArgs{target{device: "attic"}, batch})
	c.out, c.errs = c.read(out), c.read(errs)
	return err
}

// Every word does what it does in sftp(1), against sshd.
func TestSFTPWords(t *testing.T) {
	t.Setenv("SHELL", "/bin/sh")
	c := newCPTest(t, sshcSSHD(t))
	b := c.file(c.here("a b"), 300<<10)
	for _, tt := range []struct {
		line string
		out  string // all of it, if not ""
		ok   func() bool
	}{
		{`put "a b" one`, "", func() bool { c.same(c.there("one"), b); return true }},
		{`put a\ b`, "", func() bool { c.same(c.there("a b"), b); return true }},
		{`mkdir d`, "", nil},
		{`put a* d`, "", func() bool { c.same(c.there("d/a b"), b); return true }},
		{`ls -1`, "a b\nd\none\n", nil},
		{`ls -1r`, "one\nd\na b\n", nil},
		{`ls -1 d`, "d/a b\n", nil},
		{`ls -1 o*`, "one\n", nil},
		{`ls -ln one`, "", func() bool { return strings.HasPrefix(c.out, "-rw-r--r-- ") && strings.HasSuffix(c.out, " one\n") }},
		{`ls -l`, "", func() bool { return strings.Count(c.out, "\n") == 3 && strings.HasPrefix(c.out, "-rw-r--r--") }},
		{`chmod 640 one`, "", func() bool { i, err := os.Stat(c.there("one")); return err == nil && i.Mode() == 0o640 }},
		{`get one two`, "", func() bool { c.same(c.here("two"), b); return true }},
		{`get -r d e`, "", func() bool { c.same(c.here("e/a b"), b); return true }},
		{`rename one three`, "", func() bool { c.gone(c.there("one")); c.same(c.there("three"), b); return true }},
		{`ln -s three sym`, "", func() bool { to, _ := os.Readlink(c.there("sym")); return to == "three" }},
		{`symlink a sym2`, "", func() bool { to, _ := os.Readlink(c.there("sym2")); return to == "a" }},
		{`ln three hard`, "", func() bool { c.same(c.there("hard"), b); return true }},
		{`stat sym`, "", func() bool { return strings.Contains(c.out, "leads to three") }},
		{`rm sym* hard`, "", func() bool { c.gone(c.there("sym")); c.gone(c.there("hard")); return true }},
		{`rm "d/a b"`, "", nil},
		{`rmdir d`, "", func() bool { c.gone(c.there("d")); return true }},
		{`pwd`, "Remote working directory: " + strings.TrimSuffix(c.there("x"), "/x") + "\n", nil},
		{`lpwd`, "Local working directory: " + strings.TrimSuffix(c.here("x"), "/x") + "\n", nil},
		{`lmkdir made`, "", func() bool { i, err := os.Stat(c.here("made")); return err == nil && i.IsDir() }},
		{`lls`, "a b\ne\nmade\ntwo\n", nil},
		{`df -h`, "", func() bool { return strings.Contains(c.out, "%Capacity") }},
		{`lmkdir l{a,b}`, "", func() bool { _, err := os.Stat(c.here("l{a,b}")); return err == nil }},
		{`!rmdir "l{a,b}"; pwd; [ ! -t 0 ] && echo "it's"`, c.dir + "/here\nit's\n", nil},
		{`progress`, "Progress meter enabled\n", nil},
		{`help`, "", func() bool { return strings.Contains(c.out, "rename OLD NEW") }},
		{`# nothing`, "", nil},
	} {
		if err := c.sftp("@" + tt.line); err != nil || c.errs != "" {
			t.Fatalf("%s: %v, %s", tt.line, err, c.errs)
		}
		if tt.out != "" && c.out != tt.out || tt.ok != nil && !tt.ok() {
			t.Errorf("%s: %q, want %q", tt.line, c.out, tt.out)
		}
	}
}

// reput and reget go on behind what is there, and refuse another's beginning.
func TestSFTPGoesOn(t *testing.T) {
	c := newCPTest(t, newSFTPPeer(t, &sftpHand{sums: true}))
	b := c.file(c.here("f"), 1<<20)
	for _, tt := range []struct{ line, file string }{{"reput f", c.there("f")}, {"get -a f g", c.here("g")}} {
		if err := os.WriteFile(tt.file, b[:700_000], 0o644); err != nil {
			t.Fatal(err)
		}
		if err := c.sftp(tt.line); err != nil || !strings.Contains(c.errs, "goes on behind") {
			t.Fatalf("%s: %v, %s", tt.line, err, c.errs)
		}
		c.same(tt.file, b)
		other := c.file(tt.file, 1000)
		if err := c.sftp(tt.line); exitStatus(err) != 1 || !strings.Contains(c.errs, "is not the beginning") {
			t.Fatalf("%s: %v, %s", tt.line, err, c.errs)
		}
		c.same(tt.file, other)
		os.WriteFile(c.there("f"), b, 0o644)
	}
}

// A batch ends at what fails, but for lines that begin with a hyphen.
func TestSFTPBatch(t *testing.T) {
	c := newCPTest(t, sshcSSHD(t))
	if err := c.sftp("-rm none", "-@nonsense", "mkdir a", "rm none", "mkdir b"); exitStatus(err) != 1 {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(c.there("")); len(list) != 1 || list[0].Name() != "a" {
		t.Errorf("%v", list)
	}
	if want := "sftp> -rm none\nsftp> mkdir a\nsftp> rm none\n"; c.out != want {
		t.Errorf("%q, want %q", c.out, want)
	}
	if n := strings.Count(c.errs, "none: no such file"); n != 2 || !strings.Contains(c.errs, `there is no word "nonsense"`) {
		t.Errorf("%s", c.errs)
	}
	if err := c.sftp("-rm none", "bye", "nonsense"); err != nil {
		t.Errorf("%v, %s", err, c.errs)
	}
}

// Braces stand for several names in ls alone, as in sftp(1), and a command here
// ends no batch.
func TestSFTPBraces(t *testing.T) {
	t.Setenv("SHELL", "/bin/sh")
	c := newCPTest(t, newSFTPPeer(t, &sftpHand{ours: true}))
	for _, name := range []string{"a.c", "b.c", "c.h", "{x}", "a,b", "d d"} {
		c.file(c.there(name), 1)
	}
	if err := os.Mkdir(c.there("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		`{a,b}.c`: "a.c\nb.c\n", `{c.h,a.c}`: "a.c\nc.h\n", `{a,{b,c}}.?`: "a.c\nb.c\nc.h\n", `{a,zz}.c`: "a.c\n", `{zz,yy}`: "", `{a,zz}.* dir`: "a.c\n", `{x}`: "",
		`"{x}"`: "{x}\n", `\{x\}`: "{x}\n", `{"{x}",a\,b}`: "a,b\n{x}\n", `{d\ d,di*}`: "d d\ndir\n", `{}`: "", `{a,b`: "", `a.{c,`: "", strings.Repeat("{a,b}", 11): "", strings.Repeat("{", 2000): "",
	} {
		err := c.sftp("@ls -1 " + line)
		if c.out != want || (err == nil) != (want != "") {
			t.Errorf("ls %s: %q, %v, %s", line, c.out, err, c.errs)
		}
	}
	for _, line := range []string{"get {a,b}.c", "put {a,b}", "rm {a,b}.c"} {
		if err := c.sftp("@" + line); exitStatus(err) != 1 {
			t.Errorf("%s: %v", line, err)
		}
	}
	if err := c.sftp("!exit 3", " -!kill -9 $$", "@!echo done", "progress", "progress"); err != nil || c.out != "sftp> !exit 3\nsftp>  -!kill -9 $$\ndone\nsftp> progress\nProgress meter enabled\nsftp> progress\nProgress meter disabled\n" ||
		c.errs != "sessio: sftp: the shell ended with exit status 3\nsessio: sftp: the shell ended with signal: killed\n" {
		t.Errorf("%v, %q, %s", err, c.out, c.errs)
	}
}

// What a tab completes is the name again when the line is read, whatever is in
// it and however it was begun.
func TestSFTPTab(t *testing.T) {
	s := &sftpShell{lcwd: t.TempDir()}
	names := []string{`1 a"b'c`, `2#*?[]{},\x`, "3é", "4漢 z", "5'"}
	for _, name := range append(names, "6\x1b", "7a", "7b", "8é", "8è", "9dir/in") {
		file := filepath.Join(s.lcwd, name)
		os.Mkdir(filepath.Dir(file), 0o755)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		for _, quote := range []string{"", `"`, "'"} {
			line, pos := s.tab(io.Discard, "put "+quote+name[:1]+"tail", len("put "+quote+name[:1]))
			words, err := sftpWords(line[:pos])
			if err != nil || len(words) != 2 || words[1].text != name || words[1].glob || !strings.HasSuffix(line[:pos], " ") || line[pos:] != "tail" {
				t.Errorf("%q becomes %q, %d: %v, %v", quote+name[:1], line, pos, words, err)
			}
		}
	}
	for line, want := range map[string]string{
		"pu": "put ", "r": "r", "lmk": "lmkdir ", "": "", "!": "!", "!p": "!p", "nothing": "nothing", "put ": "put ", "put 7": "put 7", "put 8": "put 8", "put 6": "put 6", "put none": "put none",
		"put 9": "put 9dir/", "put 9dir/": "put 9dir/in ", "put -r 9": "put -r 9dir/", "get -p x 9": "get -p x 9dir/", "lcd " + s.lcwd + "/9": "lcd " + s.lcwd + "/9dir/", `put 7\`: `put 7\`,
	} {
		var shown strings.Builder
		got, pos := s.tab(&shown, line, len(line))
		if got != want || pos != len(got) || strings.Contains(shown.String(), "\x1b") || line == "put 7" && shown.String() != "7a  7b\n" {
			t.Errorf("%q becomes %q, %d, and shows %q", line, got, pos, shown.String())
		}
	}
}

// A batch that cannot be opened is said to be one, before anything is dialled.
func TestSFTPBatchIsMissing(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	err := cmdSFTP(t.Context(), nil, stdio{}, sftpArgs{target{device: "attic"}, none})
	if err == nil || err.Error() != "batch file "+none+": no such file or directory" || hintOf(err) == "" {
		t.Error(err)
	}
}

func TestSFTPSplitsWords(t *testing.T) {
	for line, want := range map[string][]string{
		`a  b`: {"a", "b"}, `"a b"c d`: {"a bc", "d"}, `'a"' \"`: {`a"`, `"`}, `a\ b`: {"a b"},
		`a #b`: {"a"}, `a#b`: {"a#b"}, `""`: {""}, `"*" *`: {`\*`, "*"}, `\*\\`: {`\*\\`}, `"a\"b"`: {`a"b`}, ``: nil,
	} {
		words, err := sftpWords(line)
		var got []string
		for _, w := range words {
			got = append(got, w.pattern)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", line, got, err, want)
		}
	}
	if _, err := sftpWords(`a "b`); err == nil {
		t.Error("an open quote was taken")
	}
}

// sftpLiar answers each request by f, over a pipe.
func sftpLiar(t *testing.T, f func(q sftpRequest) []byte) (*sftpClient, error) {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		for {
			packet, err := readSFTPPacket(far, nil)
			if err != nil {
				return
			}
			q, err := parseSFTPRequest(packet)
			if err != nil {
				return
			}
			answer := f(q)
			if q.kind == sftpInit && answer == nil {
				answer = (&sftpReply{kind: sftpVersionReply, id: sftpVersion}).appendTo(nil)
			}
			if answer == nil {
				return
			}
			if _, err := far.Write(answer); err != nil {
				return
			}
		}
	}()
	c, err := newSFTPClient(near, func(err error) error { return err })
	if err == nil {
		t.Cleanup(c.close)
	}
	return c, err
}

// A server that lies gets an error, and no memory.
func TestSFTPClientMeetsLiars(t *testing.T) {
	reply := func(r sftpReply) []byte { return r.appendTo(nil) }
	for name, lie := range map[string]func(q sftpRequest) []byte{
		"another id": func(q sftpRequest) []byte {
			return reply(sftpReply{kind: sftpStatus, id: q.id + 7, code: sftpOK})
		},
		"more data than asked": func(q sftpRequest) []byte {
			return reply(sftpReply{kind: sftpData, id: q.id, data: make([]byte, 50<<10)})
		},
		"a little more data": func(q sftpRequest) []byte {
			return reply(sftpReply{kind: sftpData, id: q.id, data: make([]byte, q.length+1)})
		},
		"no data": func(q sftpRequest) []byte { return reply(sftpReply{kind: sftpData, id: q.id}) },
		"success": func(q sftpRequest) []byte { return reply(sftpReply{kind: sftpStatus, id: q.id}) },
		"a handle": func(q sftpRequest) []byte {
			return reply(sftpReply{kind: sftpHandle, id: q.id, data: []byte("h")})
		},
		"a huge packet": func(q sftpRequest) []byte { return []byte{0xff, 0xff, 0xff, 0xff, sftpData, 0, 0, 0, 1} },
		"no packet":     func(q sftpRequest) []byte { return make([]byte, 9) },
		"a cut packet": func(q sftpRequest) []byte {
			return append([]byte{0, 0, 0, 6, sftpData}, binary.BigEndian.AppendUint32(nil, q.id)...)
		},
		"the end": func(q sftpRequest) []byte { return nil },
		"too long a field": func(q sftpRequest) []byte {
			b := reply(sftpReply{kind: sftpData, id: q.id, data: []byte("abc")})
			b[9] = 0x7f
			return b
		},
	} {
		c, err := sftpLiar(t, func(q sftpRequest) []byte {
			if q.kind == sftpInit {
				return nil
			}
			return lie(q)
		})
		if err != nil {
			t.Fatal(err)
		}
		r := sftpReader{c: c, handle: "h", size: 100}
		if data, err := r.next(); err == nil {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		c.close()
		r.stop()
		if c.inFlight.free != sftpInFlight {
			t.Errorf("%s: %d bytes are not given back", name, sftpInFlight-c.inFlight.free)
		}
	}
	for name, hello := range map[string][]byte{
		"version 2": reply(sftpReply{kind: sftpVersionReply, id: 2}),
		"text":      []byte("Welcome to attic!\n"),
		"a status":  reply(sftpReply{kind: sftpStatus, id: 3}),
	} {
		if _, err := sftpLiar(t, func(sftpRequest) []byte { return hello }); err == nil {
			t.Errorf("greeted by %s: no error", name)
		}
	}
}

// Data that comes in small pieces is whole, and a size that is a lie is no
// harm.
func TestSFTPClientShortReads(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	for _, size := range []int64{-1, 0, 1, 5000, int64(len(content)), 1 << 60} {
		c, err := sftpLiar(t, func(q sftpRequest) []byte {
			if q.kind == sftpInit {
				return nil
			}
			if q.offset >= uint64(len(content)) {
				return (&sftpReply{kind: sftpStatus, id: q.id, code: sftpEOF}).appendTo(nil)
			}
			rest := content[q.offset:]
			return (&sftpReply{kind: sftpData, id: q.id, data: rest[:min(uint32(len(rest)), q.length, 3333)]}).appendTo(nil)
		})
		if err != nil {
			t.Fatal(err)
		}
		r := sftpReader{c: c, handle: "h", size: size}
		var got []byte
		for err == nil {
			var data []byte
			data, err = r.next()
			got = append(got, data...)
		}
		if r.stop(); err != io.EOF || !bytes.Equal(got, content) {
			t.Errorf("size %d: %d bytes, %v", size, len(got), err)
		}
		if c.inFlight.free != sftpInFlight {
			t.Errorf("size %d: %d bytes are not given back", size, sftpInFlight-c.inFlight.free)
		}
	}
}

// Whatever a server sends after its greeting, the client ends without a panic
// and gives back what was in flight.
func FuzzSFTPClient(f *testing.F) {
	f.Add((&sftpReply{kind: sftpData, id: 1, data: []byte("abc")}).appendTo(nil))
	f.Add((&sftpReply{kind: sftpNames, id: 1, names: []sftpName{{name: "a"}}}).appendTo(nil))
	f.Add((&sftpReply{kind: sftpStatus, id: 1, code: sftpEOF}).appendTo(nil))
	f.Fuzz(func(t *testing.T, answer []byte) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			readSFTPPacket(far, nil)
			far.Write((&sftpReply{kind: sftpVersionReply, id: sftpVersion}).appendTo(nil))
			go io.Copy(io.Discard, far)
			far.Write(answer)
		}()
		c, err := newSFTPClient(near, func(err error) error { return err })
		if err != nil {
			t.Fatal(err)
		}
		r := sftpReader{c: c, handle: "h", size: 100}
		for err == nil {
			var data []byte
			if data, err = r.next(); len(data) > sftpProbe {
				t.Fatalf("%d bytes where at most %d were asked for", len(data), sftpProbe)
			}
		}
		c.path(sftpStat, "x").attrs()
		c.path(sftpRealpath, "x").oneName()
		c.close()
		if r.stop(); c.inFlight.free != sftpInFlight {
			t.Fatalf("%d bytes are not given back", sftpInFlight-c.inFlight.free)
		}
	})
}
