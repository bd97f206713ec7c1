package main

import (
	"errors"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestChooseLogin(t *testing.T) {
	for _, c := range []struct {
		name, asked, local string
		users              []string
		want               string // "" is wrong usage
		says               string
	}{
		{"asked for", "root", "alice", []string{"alice"}, "root", ""},
		{"asked for, any", "root", "alice", []string{"*"}, "root", ""},
		{"local user is listed", "", "alice", []string{"alice", "root"}, "alice", ""},
		{"any: local user", "", "alice", []string{"*"}, "alice", ""},
		{"any and listed", "", "alice", []string{"*", "root"}, "alice", ""},
		{"the only one", "", "alice", []string{"root"}, "root", ""},
		{"none fits", "", "alice", []string{"bob", "root"}, "", "bob, root"},
		{"no local user, the only one", "", "", []string{"root"}, "root", ""},
		{"no local user, any", "", "", []string{"*"}, "", "any login"},
		{"nobody", "", "alice", nil, "", "no login"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := chooseLogin(c.asked, c.local, "attic", c.users)
			if got != c.want || (err != nil) != (c.want == "") {
				t.Fatalf("got %q, %v", got, err)
			}
			if err != nil && (exitStatus(err) != 2 || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("error %v, status %d", err, exitStatus(err))
			}
		})
	}
}

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		operand, login string
		want           target
	}{
		{"attic", "", target{"attic", ""}},
		{"attic", "bob", target{"attic", "bob"}},
		{"alice@attic", "", target{"attic", "alice"}},
		{"alice@attic", "bob", target{"attic", "bob"}},
		{"a@b@attic.sessio", "", target{"attic.sessio", "a@b"}},
	} {
		if got, err := parseTarget(c.operand, c.login); err != nil || got != c.want {
			t.Errorf("%q, -l %q: %v, %v", c.operand, c.login, got, err)
		}
	}
	for _, bad := range []string{"", "@attic", "alice@", "@"} {
		if _, err := parseTarget(bad, "bob"); exitStatus(err) != 2 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParseRunOperands(t *testing.T) {
	none := []string{}
	for _, c := range []struct {
		before, after []string
		dashed        bool
		devices       []string
		line          string // "" is wrong usage
	}{
		{[]string{"attic"}, []string{"ls -l | wc"}, true, []string{"attic"}, "ls -l | wc"},
		{[]string{"attic", "roof"}, []string{"ls", "-l"}, true, []string{"attic", "roof"}, "'ls' '-l'"},
		{[]string{"attic", "uptime"}, nil, false, []string{"attic"}, "uptime"},
		{[]string{"attic", "echo", "a b"}, nil, false, []string{"attic"}, "'echo' 'a b'"},
		{[]string{"attic"}, none, true, nil, ""},
		{[]string{"attic"}, nil, false, nil, ""},
		{none, []string{"ls"}, true, nil, ""},
		{none, none, false, nil, ""},
	} {
		devices, line, err := parseRunOperands(c.before, c.after, c.dashed)
		if !slices.Equal(devices, c.devices) || line != c.line || exitStatus(err) == 2 != (c.line == "") {
			t.Errorf("%q -- %q: %q, %q, %v", c.before, c.after, devices, line, err)
		}
	}
}

func TestParseProxyOperands(t *testing.T) {
	for _, ok := range [][]string{{"attic"}, {"alice@attic"}, {"attic", "22"}} {
		if args, err := parseProxyOperands(ok); err != nil || args.device != "attic" {
			t.Errorf("%q: %v, %v", ok, args, err)
		}
	}
	for _, bad := range [][]string{{}, {"attic", "0"}, {"attic", "ssh"}, {"attic", "22", "23"}, {"@"}} {
		if _, err := parseProxyOperands(bad); exitStatus(err) != 2 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParseShellOperands(t *testing.T) {
	if args, err := parseShellOperands([]string{"alice@attic"}, ""); err != nil || args != (target{"attic", "alice"}) {
		t.Errorf("%v, %v", args, err)
	}
	for _, bad := range [][]string{{}, {"attic", "ls"}, {"alice@"}} {
		if _, err := parseShellOperands(bad, ""); exitStatus(err) != 2 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"": "''", "a": "'a'", "it's": `'it'\''s'`, "a b": "'a b'", "if": "'if'", `\`: `'\'`,
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// Whatever the words, a POSIX shell makes the same words of them.
func FuzzShellQuote(f *testing.F) {
	if runtime.GOOS == "windows" {
		f.Skip("needs a POSIX shell")
	}
	for _, seed := range []string{"", "a b", "it's", "''", `'\''`, "$(x)`y`", "-n", "\n", "\xff\xfe", "!!", "~", "*?[a]", "#", `\`, "é\u200b"} {
		f.Add(seed, "x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.Contains(a+b, "\x00") || len(a)+len(b) > 1<<14 {
			return
		}
		out, err := exec.Command("/bin/sh", "-c", commandLine([]string{"printf", `%s\n%s.`, a, b})).Output()
		if err != nil || string(out) != a+"\n"+b+"." {
			t.Fatalf("%q, %q came out as %q, %v", a, b, out, err)
		}
	})
}

func TestLinkFailure(t *testing.T) {
	if linkFailure(nil) != nil {
		t.Error("nil became an error")
	}
	if got := exitStatus(linkFailure(errors.New("x"))); got != 255 {
		t.Errorf("status %d", got)
	}
	if got := exitStatus(linkFailure(usageError("x"))); got != 2 {
		t.Errorf("wrong usage became %d", got)
	}
}

func TestSessionEnv(t *testing.T) {
	long := "LC_LONG=" + strings.Repeat("x", 300)
	got := sessionEnv([]string{"PATH=/bin", "LC_TIME=C", "LANG=de_DE.UTF-8", "LANGUAGE=de", "LD_PRELOAD=x", long, "LC_EMPTY="})
	if want := []string{"LANG=de_DE.UTF-8", "LC_EMPTY=", "LC_TIME=C"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestEscapeFilter(t *testing.T) {
	suspend := "+^Z"
	if !canSuspend {
		suspend = "~\x1a"
	}
	for typed, want := range map[string]string{
		"plain":         "plain",
		"~.":            "+.",
		"~?x~.":         "+?x~.",
		"a~.":           "a~.",
		"a\r~.":         "a\r+.",
		"a\n~?~.":       "a\n+?+.",
		"~~.":           "~.",
		"\r~~~.":        "\r~~.",
		"~x":            "~x",
		"~\r~.":         "~\r+.",
		"~":             "",
		"\r~\x1a":       "\r" + suspend,
		"\xff\r~\xff\r": "\xff\r~\xff\r",
	} {
		if got := escapesIn([]byte(typed), len(typed)); got != want {
			t.Errorf("%q: %q, want %q", typed, got, want)
		}
	}
}

// escapesIn filters typed in pieces of n bytes, and writes escapes as "+.".
func escapesIn(typed []byte, n int) string {
	var out []byte
	filter := newEscapeFilter()
	for piece := range slices.Chunk(typed, max(n, 1)) {
		for len(piece) > 0 {
			var e escape
			out, e, piece = filter.next(out, piece)
			switch e {
			case escapeNone:
			case escapeSuspend:
				out = append(out, "+^Z"...)
			default:
				out = append(out, '+', byte(e))
			}
		}
	}
	return string(out)
}

// How the bytes arrive makes no difference, and none but tildes and escapes
// disappear.
func FuzzEscapeFilter(f *testing.F) {
	f.Add([]byte("\r~~.\r~.~?"), 2)
	f.Add([]byte("~\x1a"), 1)
	f.Fuzz(func(t *testing.T, typed []byte, n int) {
		n = 1 + int(uint(n)%16)
		whole := escapesIn(typed, len(typed))
		if pieces := escapesIn(typed, n); pieces != whole {
			t.Fatalf("%q in pieces of %d: %q, whole %q", typed, n, pieces, whole)
		}
		if !strings.Contains(string(typed), "~") && whole != string(typed) {
			t.Fatalf("%q became %q", typed, whole)
		}
	})
}
