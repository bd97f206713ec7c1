//go:build linux || darwin

package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var splitCommandCases = []struct {
	line string
	want []string // nil: a shell is needed
}{
	{"", []string{}},
	{" \t ", []string{}},
	{"ls", []string{"ls"}},
	{"  ls\t-l   dir ", []string{"ls", "-l", "dir"}},
	{"''", []string{""}},
	{`a''b ''`, []string{"ab", ""}},
	{`git-upload-pack '/srv/a b.git'`, []string{"git-upload-pack", "/srv/a b.git"}},
	{`a'$(b)' "it's" 'x'\''y'`, []string{"a$(b)", "it's", "x'y"}},
	{`"\$a \"b\" \\ \c"`, []string{`$a "b" \ \c`}},
	{"\"a\\\nb\nc\"", []string{"ab\nc"}},
	{`a\ b \* \\`, []string{"a b", "*", `\`}},
	{`a#b x~ = ! } ] %1 ^`, []string{"a#b", "x~", "=", "!", "}", "]", "%1", "^"}},
	{"rsync --server -vlogDtpre.iLsfxCIvu . /tmp/x", []string{"rsync", "--server", "-vlogDtpre.iLsfxCIvu", ".", "/tmp/x"}},
	{"a\xff\xc3\xa9\rb", []string{"a\xff\xc3\xa9\rb"}},
	{"a;b", nil}, {"a&b", nil}, {"a|b", nil}, {"a>b", nil}, {"a<b", nil}, {"a\nb", nil}, {"(a)", nil}, {"a)", nil},
	{"$a", nil}, {"`a`", nil}, {`"$a"`, nil}, {"\"`a`\"", nil}, {"a*", nil}, {"a?", nil}, {"[a]", nil}, {"{a,b}", nil},
	{"~", nil}, {"a ~/b", nil}, {"a=~/b", nil}, {"#a", nil}, {"a #b", nil},
	{`'a`, nil}, {`"a`, nil}, {`"a\"`, nil}, {`a\`, nil}, {"a\\\nb", nil},
}

func TestSplitCommand(t *testing.T) {
	for _, c := range splitCommandCases {
		got, err := splitCommand(c.line)
		if (err != nil) != (c.want == nil) || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, %v", c.line, got, err)
		}
	}
}

// FuzzParseCommand: whatever is accepted means the same to a shell, and to us
// when it is quoted again.
func FuzzParseCommand(f *testing.F) {
	for _, c := range splitCommandCases {
		f.Add(c.line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := splitCommand(line)
		if err != nil || strings.ContainsRune(line, 0) {
			return
		}
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = shellQuote(w)
		}
		if again, err := splitCommand(strings.Join(quoted, " ")); err != nil || !slices.Equal(again, words) {
			t.Errorf("%q became %q, then %q, %v", line, words, again, err)
		}
		out, err := exec.Command("/bin/sh", "-c", "set -- "+line+"\nfor a; do printf '%s\\0' \"$a\"; done").Output()
		if err != nil {
			t.Errorf("%q: sh: %v", line, err)
		}
		if want := strings.Join(append(words, ""), "\x00"); string(out) != want && len(words) > 0 {
			t.Errorf("%q: %q, to sh %q", line, words, out)
		}
	})
}

func TestAcceptsEnv(t *testing.T) {
	for _, name := range []string{"LANG", "LC_ALL", "FOO", "A", "GIT_PROTOCOL", "PATHS", "ENVY", "MALLOC"} {
		if !acceptsEnv([]string{"*"}, name) {
			t.Errorf("%s is refused", name)
		}
	}
	for _, name := range []string{
		"", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "PATH", "HOME", "SHELL", "USER", "LOGNAME",
		"BASH_ENV", "BASH_FUNC_ls%%", "BASHOPTS", "ENV", "IFS", "SHELLOPTS", "PYTHONPATH", "PERL5LIB", "PERLLIB", "RUBYOPT", "NODE_OPTIONS",
		"GCONV_PATH", "GLIBC_TUNABLES", "SSH_ORIGINAL_COMMAND", "SSH_AUTH_SOCK", "MALLOC_CHECK_", "A=B", "A/B", "A\x00",
	} {
		if acceptsEnv([]string{"*", "*/*", name}, name) {
			t.Errorf("%q is accepted", name)
		}
	}
	if acceptsEnv(nil, "LANG") || acceptsEnv([]string{"LC_*", "["}, "LANG") || !acceptsEnv([]string{"[", "LC_?"}, "LC_A") {
		t.Error("globs")
	}
}

func TestLastOf(t *testing.T) {
	got := lastOf([]string{"A=1", "B=2", "A=", "C", "A=3=4", "B"})
	if want := []string{"A=3=4", "B", "C"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
