//go:build !windows

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestScpWordsAsShell: words become what sh makes of them.
func TestScpWordsAsShell(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "ab", ".hid", "sp ace", "d/x", "d/y.c", "e/x", "q'uote", "st*r", "[x]", "back\\slash", "\xff", "f/g/h", ".dot/x"} {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := func(p string) string {
		if !filepath.IsAbs(p) {
			p = dir + "/" + p
		}
		return p
	}
	tree := scpTree{
		home: func(user string) (string, error) {
			if user != "" {
				return "", os.ErrNotExist
			}
			return dir + "/d", nil
		},
		list: func(p string) (names []string, err error) {
			entries, err := os.ReadDir(at(p))
			for _, e := range entries {
				names = append(names, e.Name())
			}
			return names, err
		},
		is: func(p string) bool { _, err := os.Stat(at(p)); return err == nil },
	}
	for _, text := range []string{
		"a", "a b", "*", "?", "a*", "'*'", `"*"`, `\*`, `sp\ ace`, "'sp ace'", `"sp ace"`, "sp*", "*/x", "*/*", "d/*.c", "nothing*", "[ab]", "[!ab]*", "[a-b]", "[",
		"'q'\\''uote'", "st[*]r", "'st*'r", "st\\*?", "\\[x]", "'[x]'", "[[]x]", `back\\slash`, `"back\slash"`, "~", "~/x", "~/*", "'~'", "\\~", "~nobody-at-all/x", "a~", ".*", ".h*", "''", `""`, "'' a",
		"*/g/h", "*/*/h", "./a*", "d//*", "d/.", "*/", dir + "/a*", `"a\"b"`, `"a\b"`, "a\\\nb", "x#y", ".dot/*", ".d*/x", "d/[xy]*", "\xff", "?*?",
	} {
		words, ok := scpWords(text)
		if !ok {
			t.Errorf("%q is left to the shell", text)
			continue
		}
		var got []string
		for _, w := range words {
			list, err := w.expand(tree)
			if err != nil {
				t.Error(text, err)
			}
			got = append(got, list...)
		}
		sh := exec.Command("sh", "-c", "printf '%s\\0' "+text)
		sh.Dir, sh.Env = dir, []string{"HOME=" + dir + "/d", "LC_ALL=C", "PATH=" + os.Getenv("PATH")}
		out, err := sh.Output()
		want := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		// sh lists . and .. for .*, which no scp is meant to copy.
		want = slices.DeleteFunc(want, func(s string) bool { return text == ".*" && (s == "." || s == "..") })
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, sh has %q, %v", text, got, want, err)
		}
	}
	for _, text := range []string{"$HOME", "`id`", `"$x"`, "a;b", "a&b", "a|b", "a>b", "<a", "(a)", "a\nb", "#a", "{a,b}", "'a", `"a`, `a\`, "a\x00b"} {
		if w, ok := scpWords(text); ok {
			t.Errorf("%q: %+v", text, w)
		}
	}
}

func TestScpCommand(t *testing.T) {
	for text, want := range map[string]string{
		"scp -t .": "t .", "scp -v -r -p -d -t -- -x": "trpd -x", "scp -f a 'b c'": "f a|b c", "scp -rp -f a": "frp a", "scp -f -- a": "f a", "scp -t -": "t -",
		"scp -f": "", "scp a b": "", "scp -t -f a": "", "scp -q -t a": "", "/usr/bin/scp -t a": "", "scp -t a; id": "", "scp -t $(id)": "", "scpx -t a": "", "": "", "scp": "",
	} {
		c, ok := parseScpCommand(text)
		got := ""
		if ok {
			var paths []string
			for _, w := range c.paths {
				paths = append(paths, w.text)
			}
			for _, flag := range []struct {
				on bool
				s  string
			}{{c.sink, "t"}, {!c.sink, "f"}, {c.recursive, "r"}, {c.times, "p"}, {c.folder, "d"}} {
				if flag.on {
					got += flag.s
				}
			}
			got += " " + strings.Join(paths, "|")
		}
		if got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestScpRecords(t *testing.T) {
	for line, r := range map[string]scpRecord{
		"C0644 5 a b":                 {kind: 'C', mode: 0o644, size: 5, name: "a b"},
		"D0755 0 \xff":                {kind: 'D', mode: 0o755, name: "\xff"},
		"E":                           {kind: 'E'},
		"T4294967295 0 1 0":           {kind: 'T', mtime: 1<<32 - 1, atime: 1},
		"\x01scp: a: no":              {kind: 1, name: "scp: a: no"},
		"\x02":                        {kind: 2},
		"C0000 9223372036854775807 x": {kind: 'C', size: 1<<63 - 1, name: "x"},
	} {
		got, err := parseScpRecord([]byte(line))
		if err != nil || got != r || string(r.append(nil)) != line+"\n" {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	for _, line := range []string{
		"", "X", "C", "C0644", "C0644 5", "C0644 5 ", "C0644  a", "C644 5 a", "C06440 5 a", "C0648 5 a", "C-644 5 a", "C0644 -5 a", "C0644 +5 a", "C0644 9223372036854775808 a", "C0644 5x a",
		"C0644 5 ..", "C0644 5 .", "C0644 5 a/b", "C0644 5 /", "C0644 5 a\x1b[2J", "C0644 5 a\x00", "C0644 5 a\x7f", "D0755 0 ../x", "Ex", "T1 0 1", "T1 0 1 0 0", "T-1 0 1 0", "T4294967296 0 1 0", "T1 1000000 1 0", "T1  1 0", "C0644 5 " + strings.Repeat("a", maxScpLine),
	} {
		if r, err := parseScpRecord([]byte(line)); err == nil {
			t.Errorf("%.40q: %+v", line, r)
		}
	}
	if got := scpName("a\nb\\"); got != `a\^Jb\\` || scpName(`a\`) != `a\` {
		t.Error(got)
	}
	for p, want := range map[string]string{"a/b": "b", "a": "a", "/a/b//": "b", "/": "", "": ""} {
		if scpBase(p) != want {
			t.Error(p, scpBase(p))
		}
	}
}

func FuzzParseScpRecord(f *testing.F) {
	for _, s := range []string{"C0644 5 a", "D0755 0 d", "E", "T1 0 2 0", "\x01x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseScpRecord(line)
		if err != nil {
			return
		}
		if (r.kind == 'C' || r.kind == 'D') && (strings.ContainsAny(r.name, "/\x00\n") || r.name == ".." || r.size < 0) {
			t.Fatalf("%q: %+v", line, r)
		}
		b := r.append(nil)
		if again, err := parseScpRecord(b[:len(b)-1]); len(b)-1 <= maxScpLine && (err != nil || again != r) {
			t.Fatalf("%q: %+v, %v", b, again, err)
		}
	})
}

// FuzzScpWords: what is not left to the shell has no sign that it would obey.
func FuzzScpWords(f *testing.F) {
	for _, s := range []string{"scp -t 'a b'", `scp -f -- "x\"y" a\ b*`, "scp -r -f ~/[a-z]?"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		words, ok := scpWords(s)
		if !ok {
			return
		}
		for _, w := range words {
			if len(w.text) != len(w.bare) {
				t.Fatal(w)
			}
			for i, bare := range w.bare {
				if bare && strings.IndexByte(";&|<>()$`{}\n \t'\"\\", w.text[i]) >= 0 {
					t.Fatalf("%q: %+v", s, w)
				}
			}
			w.expand(scpTree{
				home: func(string) (string, error) { return "/h", nil },
				list: func(string) ([]string, error) { return []string{"a", ".b", "[c"}, nil },
				is:   func(string) bool { return len(s)%2 == 0 },
			})
		}
		parseScpCommand(s)
	})
}
