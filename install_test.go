//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// installGolden are what -print shows; with SESSIO_GOLDEN=1 they are written.
const installGolden = "testdata/install"

func goldenInit(t *testing.T, name string) initSystem {
	t.Helper()
	s, err := newInit(name, "/usr/local/bin/sessio", "/var/lib/sessio", []string{"-device", "-dir", "/var/lib/sessio", "-listen", "[::]:7 #"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestInstallFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the files are root's")
	}
	for _, i := range initSystems {
		var got bytes.Buffer
		s := goldenInit(t, i.name)
		s.show(&got)
		file := filepath.Join(installGolden, i.name)
		if os.Getenv("SESSIO_GOLDEN") != "" {
			if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || got.String() != string(want) {
			t.Errorf("%s: %v: this is not what is there:\n%s", file, err, &got)
		}
		if all := got.String() + s.stop + s.restart + s.log; strings.Contains(strings.ReplaceAll(all, "# @", ""), "@") {
			t.Errorf("%s: a gap is left in %s", i.name, all)
		}
	}
}

// All that is shell is sh's, in every shell.
func TestInstallFilesAreShell(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the files are root's")
	}
	texts := map[string]string{"detect": detectScript, "served": installScript}
	for _, i := range initSystems {
		s := goldenInit(t, i.name)
		texts[i.name+" start"], texts[i.name+" restart"], texts[i.name+" stop"] = s.start, s.restart, s.stop
		if strings.HasPrefix(s.text, "#!") {
			texts[i.name] = s.text
		}
	}
	for name, text := range texts {
		for _, shell := range installShells {
			cmd := exec.Command(mustLook(t, shell[0]), append(shell[1:len(shell):len(shell)], "-n")...)
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s in %q: %v: %s", name, shell, err, out)
			}
		}
		if name != "procd" && name != "openrc" { // whose functions are elsewhere
			cmd := exec.Command(mustLook(t, "shellcheck"), "-s", "sh", "-S", "warning", "-e", "SC2034", "-")
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
	}
}

func TestInstallUnitIsOneForSystemd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the unit is root's")
	}
	tool := mustLook(t, "systemd-analyze")
	exe := filepath.Join(t.TempDir(), "a program")
	if err := os.WriteFile(exe, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := newInit("systemd", exe, "/var/lib/sessio", []string{"-device", "-dir", "/var/lib/a b", "-listen", "[::]:7"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sessio.service")
	if err := os.WriteFile(file, []byte(s.text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "verify", file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s\n%s", err, out, s.text)
	}
}

func TestServiceWord(t *testing.T) {
	for s, want := range map[string]string{
		"/usr/bin/sessio": "/usr/bin/sessio", "-device": "-device", "a b": "'a b'", "[::]:7722": "'[::]:7722'", "": "''", "~": "'~'", "a;b": "'a;b'",
	} {
		if got, err := serviceWord(s); got != want || err != nil {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"it's", `a"b`, "a%b", "a$b", "a`b", `a\b`, "a\nb", "Größe", "\x7f"} {
		if got, err := serviceWord(s); err == nil {
			t.Errorf("%q is taken as %q", s, got)
		}
	}
}

func FuzzServiceWord(f *testing.F) {
	f.Add("/usr/bin/sessio")
	f.Add("a b;[c]*~")
	f.Fuzz(func(t *testing.T, s string) {
		word, err := serviceWord(s)
		if err != nil {
			return
		}
		if word != s && (!strings.HasPrefix(word, "'") || !strings.HasSuffix(word, "'") || word[1:len(word)-1] != s) {
			t.Fatalf("%q is written %q", s, word)
		}
		if word == s && strings.ContainsAny(s, " \t;&|<>()*?[]{}~#!'\"\\$`%") {
			t.Fatalf("%q is not quoted", s)
		}
	})
}

// What runs a machine is told by what is there.
func TestInstallDetects(t *testing.T) {
	for _, c := range []struct{ want, uid, there, programs string }{
		{"systemd", "0", "/run/systemd/system /sbin/openrc-run /usr/sbin/update-rc.d", "crontab"},
		{"procd", "0", "/etc/openwrt_release /sbin/procd /etc/init.d/rcS", "crontab"},
		{"cron", "0", "/etc/openwrt_release", "crontab"}, // OpenWrt's root in a container
		{"openrc", "0", "/sbin/openrc-run /etc/init.d/rcS", "crontab"},
		{"sysv", "0", "/usr/sbin/update-rc.d", "crontab"},
		{"sysv", "0", "/etc/init.d/rcS", ""},
		{"cron", "0", "", "crontab"},
		{"", "0", "", ""},
		{"systemd", "1000", "/run/systemd/system /var/lib/systemd/linger/me", "crontab"},
		{"cron", "1000", "/run/systemd/system", "crontab"},
		{"systemd", "1000", "/run/systemd/system", ""},
		{"cron", "1000", "/etc/openwrt_release /sbin/procd /sbin/openrc-run /usr/sbin/update-rc.d", "crontab"},
		{"", "1000", "/sbin/openrc-run", ""},
	} {
		root, path := t.TempDir(), t.TempDir()
		for file := range strings.FieldsSeq(c.there) {
			if err := os.MkdirAll(root+file, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		id := "#!/bin/sh\n[ $1 = -un ] && echo me || echo " + c.uid + "\n"
		for name := range strings.FieldsSeq("id " + c.programs) {
			if err := os.WriteFile(filepath.Join(path, name), []byte(id), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		script := detectScript
		for _, dir := range []string{"run", "var", "etc", "sbin", "usr"} {
			for _, before := range []string{" ", `"`} {
				script = strings.ReplaceAll(script, before+"/"+dir+"/", before+root+"/"+dir+"/")
			}
		}
		cmd := exec.Command(mustLook(t, "dash"), "-c", script)
		cmd.Env = []string{"PATH=" + path}
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil && c.want != "" || got != c.want {
			t.Errorf("uid %s, %q, %q: %q, %v; want %q", c.uid, c.there, c.programs, got, err, c.want)
		}
	}
}
