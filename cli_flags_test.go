package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseOperands(t *testing.T) {
	plain := verb{name: "sign"}
	cmd := verb{name: "run", command: true}
	cases := []struct {
		name          string
		v             *verb
		args          string
		before, after string
		user          string
		tty           bool
	}{
		{"flags first", &plain, "-l bo -t attic", "attic", "", "bo", true},
		{"flags last", &plain, "attic -l bo -t", "attic", "", "bo", true},
		{"flags between", &plain, "attic -l=bo loft --t", "attic loft", "", "bo", true},
		{"dashes", &plain, "-t -- -l bo", "", "-l bo", "", true},
		{"a dash is an operand", &plain, "- -t", "-", "", "", true},
		{"command", &cmd, "attic ls -l x", "attic ls -l x", "", "", false},
		{"command, flags before", &cmd, "-l bo attic ls -t", "attic ls -t", "", "bo", false},
		{"command, flags behind the device", &cmd, "attic -l bo ls -t", "attic ls -t", "", "bo", false},
		{"command, dashes", &cmd, "attic loft -t -- ls -l x", "attic loft", "ls -l x", "", true},
		{"command of dashes", &cmd, "attic -- -- x", "attic", "-- x", "", false},
		{"nothing", &cmd, "", "", "", "", false},
	}
	for _, c := range cases {
		f := newFlagSet(c.v.name)
		user, tty := f.String("l", "", ""), f.Bool("t", false, "")
		o, err := c.v.parse(f, strings.Fields(c.args))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := strings.Join(o.before, " "); got != c.before {
			t.Errorf("%s: before %q, want %q", c.name, got, c.before)
		}
		if got := strings.Join(o.after, " "); got != c.after || o.dashed != slices.Contains(strings.Fields(c.args), "--") {
			t.Errorf("%s: after %q %v, want %q", c.name, got, o.dashed, c.after)
		}
		if *user != c.user || *tty != c.tty {
			t.Errorf("%s: -l %q -t %v", c.name, *user, *tty)
		}
	}
}

func TestFindVerb(t *testing.T) {
	table := []verb{{name: "trust sign"}, {name: "trust"}, {name: "trust signer add"}, {name: "run"}}
	for args, want := range map[string]string{
		"trust sign attic":   "trust sign|attic",
		"trust signer add x": "trust signer add|x",
		"trust signer":       "trust|signer",
		"run trust sign":     "run|trust sign",
		"rum":                "|rum",
	} {
		v, rest := findVerb(table, strings.Fields(args))
		got := "|" + strings.Join(rest, " ")
		if v != nil {
			got = v.name + got
		}
		if got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	v := &verb{name: "sign", usage: "[-l user] NAME", setup: func(f *flag.FlagSet) verbRun {
		f.String("l", "", "")
		return func(_ context.Context, _ *program, o operands) error {
			_, err := o.one("NAME")
			return err
		}
	}}
	for args, want := range map[string]string{
		"-x a":  "there is no flag -x",
		"-l":    "flag needs an argument: -l",
		"":      "NAME is missing",
		"a b c": `"b" is one word too many`,
	} {
		err := v.runVerb(t.Context(), &program{}, strings.Fields(args))
		if exitStatus(err) != 2 || err.Error() != want || hintOf(err) != "usage: sessio sign [-l user] NAME" {
			t.Errorf("%q: status %d, %v, hint %q", args, exitStatus(err), err, hintOf(err))
		}
	}
}

// TestFlagsTogether: letters without values may be written together.
func TestFlagsTogether(t *testing.T) {
	for args, want := range map[string]string{
		"-rp a b":     "true true  [a b]",
		"a -pr b":     "true true  [a b]",
		"-l -rp a":    "false false -rp [a]",
		"-p -l x -rp": "true true x []",
		"a -- -rp":    "false false  [a]",
		"-rx a":       "there is no flag -rx",
		"-rl x":       "there is no flag -rl",
		"-l=-rp -r a": "true false -rp [a]",
	} {
		var got string
		v := &verb{name: "copy", setup: func(f *flag.FlagSet) verbRun {
			r, p, l := f.Bool("r", false, ""), f.Bool("p", false, ""), f.String("l", "", "")
			return func(_ context.Context, _ *program, o operands) error {
				got = fmt.Sprintf("%t %t %s %v", *r, *p, *l, o.before)
				return nil
			}
		}}
		if err := v.runVerb(t.Context(), &program{}, strings.Fields(args)); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
}

func TestStateDir(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SESSIO_DIR", "")
	at := func(args ...string) string {
		f := newFlagSet("x")
		d := dirFlag(f)
		if err := f.Parse(args); err != nil {
			t.Fatal(err)
		}
		dir, err := d.path()
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if got := at(); got != filepath.Join(home, ".sessio") {
		t.Errorf("default %s", got)
	}
	t.Setenv("SESSIO_DIR", "/var/lib/sessio")
	if got := at(); got != "/var/lib/sessio" {
		t.Errorf("by environment %s", got)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if got := at("-dir", "d"); got != filepath.Join(wd, "d") {
		t.Errorf("by flag %s", got)
	}
}
