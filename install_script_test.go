//go:build linux

package main

// These tests run the script that the coordinator serves in the shells of real
// systems. Programs that it installs are scripts themselves, which tell how
// they were called.

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

var installShells = [][]string{{"busybox", "ash"}, {"dash"}, {"bash"}}

// fakeBuild is a program that says how it is called, and as which build.
func fakeBuild(name string) string {
	return "#!/bin/sh\necho \"called $0 $* (" + name + ")\"\n"
}

// An installRun is one machine on which the line is run.
type installRun struct {
	t      *testing.T
	home   string
	path   string   // of programs
	env    []string // more of it
	before string   // shell text before the script: functions that stand for programs
	shell  []string
	stderr string
}

// newInstallRun makes a machine with these programs, all of busybox, and no
// others. tools that are missing there are made by the test.
func newInstallRun(t *testing.T, tools string) *installRun {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("%v: testdata/tools.sh installs it", err)
	}
	r := &installRun{t: t, home: t.TempDir(), path: t.TempDir(), shell: []string{"dash"}}
	for tool := range strings.FieldsSeq(tools) {
		if err := os.Symlink(busybox, filepath.Join(r.path, tool)); err != nil {
			t.Fatal(err)
		}
	}
	r.env = []string{"SESSIO_BIN_DIR=" + filepath.Join(r.home, "bin")}
	return r
}

const installTools = "cat chmod cut dd df grep id mkdir mv rm sed sh sha256sum sync tr uname wget"

// run gives the text to the shell's standard input, as a pipe does.
func (r *installRun) run(text string, args ...string) (out string, err error) {
	r.t.Helper()
	shell, err := exec.LookPath(r.shell[0])
	if err != nil {
		r.t.Fatalf("%v: testdata/tools.sh installs it", err)
	}
	cmd := exec.CommandContext(r.t.Context(), shell, append(append(r.shell[1:len(r.shell):len(r.shell)], "-s", "--"), args...)...)
	cmd.Stdin = strings.NewReader(r.before + text)
	cmd.Env = append([]string{"PATH=" + r.path, "HOME=" + r.home}, r.env...)
	cmd.Dir = r.home
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	r.stderr = stderr.String()
	return stdout.String(), err
}

// refused runs the script, which must fail, say what, hint at how, and leave nothing.
func (r *installRun) refused(script, what, hint string) {
	r.t.Helper()
	out, err := r.run(script, "s1/ticket")
	if err == nil || !strings.Contains(r.stderr, "sessio: "+what) || !strings.Contains(r.stderr, "\nhint: "+hint) {
		r.t.Errorf("want %q, hint %q: %v\n%s%s", what, hint, err, out, r.stderr)
	}
	if left, _ := filepath.Glob(filepath.Join(r.home, "bin", "*")); len(left) > 0 {
		r.t.Errorf("left behind: %q", left)
	}
	if left, _ := filepath.Glob(filepath.Join(r.home, "bin", ".*")); len(left) > 0 {
		r.t.Errorf("left behind: %q", left)
	}
}

func (b *testBuilds) scriptNow() string {
	b.t.Helper()
	_, script, _ := b.get("GET", "/i/"+b.current().id)
	return script
}

// allBuilds are fakes for every processor.
func allBuilds() map[string]string {
	m := map[string]string{"sessio-darwin-arm64": "no", "sessio-windows-amd64.exe": "no"}
	for arch := range strings.FieldsSeq("amd64 arm64 armv5 armv6 armv7 mips mipsle riscv64") {
		m["sessio-linux-"+arch] = fakeBuild(arch)
	}
	return m
}

func TestInstallScriptInEveryShell(t *testing.T) {
	t.Parallel()
	b := newTestBuilds(t, allBuilds())
	for _, shell := range installShells {
		r := newInstallRun(t, installTools)
		r.shell, r.before = shell, "uname() { [ \"${1:-}\" = -s ] && echo Linux || echo x86_64; }\n"
		bin := filepath.Join(r.home, "bin", "sessio")
		out, err := r.run(b.scriptNow(), "s1/ticket")
		for _, want := range []string{"Sessio for x86_64: sessio-linux-amd64, ", "\n  from " + b.url + "/b/", "\n  to   " + bin + "\n",
			"version (amd64)\ninstalled " + bin + "\n", "called " + bin + " join -yes -install s1/ticket (amd64)\n"} {
			if err != nil || !strings.Contains(out, want) {
				t.Fatalf("%q: %v, want %q in\n%s%s", shell, err, want, out, r.stderr)
			}
		}
		if info, err := os.Stat(bin); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%q: %v, %v", shell, info, err)
		}
		// Without a ticket it is only installed.
		out, err = r.run(b.scriptNow())
		if err != nil || strings.Contains(out, "join -yes") || !strings.Contains(out, "next: "+bin+" join -install TICKET\n") {
			t.Errorf("%q without a ticket: %v\n%s%s", shell, err, out, r.stderr)
		}
		if left, _ := filepath.Glob(filepath.Join(r.home, "bin", ".*")); len(left) > 0 {
			t.Errorf("%q: left behind %q", shell, left)
		}
	}
}

// Whatever a broken connection leaves of the script does nothing.
func TestInstallScriptCutAnywhereDoesNothing(t *testing.T) {
	t.Parallel()
	b := newTestBuilds(t, allBuilds())
	script := b.scriptNow()
	whole := len(strings.TrimSpace(script))
	cuts := t.TempDir()
	for n := 0; n <= whole; n++ {
		if err := os.WriteFile(filepath.Join(cuts, fmt.Sprint(n)), []byte(script[:n]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, shell := range installShells {
		r := newInstallRun(t, installTools)
		r.shell = shell
		step := 23 // every one takes half a minute
		if slowTests() {
			step = 1
		}
		// One process for all of them: an error of the grammar ends the subshell.
		loop := fmt.Sprintf("n=$1\nwhile [ $n -lt $2 ]; do\n(set --; . %s/$n) 2>/dev/null\nn=$((n + %d))\ndone\necho tried $n", cuts, step)
		out, err := r.run(loop, "0", fmt.Sprint(whole))
		if err != nil || strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "tried ") {
			t.Errorf("%q: %v\n%s%s", shell, err, out, r.stderr)
		}
		if left, _ := os.ReadDir(r.home); len(left) > 0 {
			t.Errorf("%q: something was done: %v", shell, left)
		}
		// One character more, and the loop sees what is done.
		if out, _ := r.run(loop, fmt.Sprint(whole), fmt.Sprint(whole+1)); !strings.Contains(out, "installed ") {
			t.Errorf("%q: the whole script says %q", shell, out)
		}
	}
}

func mustLook(t *testing.T, name string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: testdata/tools.sh installs it", err)
	}
	return file
}

func TestInstallScriptRefuses(t *testing.T) {
	t.Parallel()
	b := newTestBuilds(t, allBuilds())
	script := b.scriptNow()
	amd64 := b.current().builds[0]
	machine := func(t *testing.T, tools, uname string) *installRun {
		r := newInstallRun(t, tools)
		r.before = "uname() { [ \"${1:-}\" = -s ] && echo Linux || echo " + uname + "; }\n"
		return r
	}
	t.Run("an unknown processor", func(t *testing.T) {
		for _, m := range []string{"ppc64le", "i686", "armv7b", "s390x", "", "armv5teb"} {
			machine(t, installTools, m).refused(script, "there is no build for this processor ("+m+")", "there are: sessio-darwin-arm64 sessio-linux-amd64 ")
		}
	})
	t.Run("another system", func(t *testing.T) {
		r := newInstallRun(t, installTools)
		r.before = "uname() { echo FreeBSD; }\n"
		r.refused(script, "this is for Linux, and here is FreeBSD", "fetch a build by hand")
	})
	t.Run("no tool for SHA-256", func(t *testing.T) {
		machine(t, strings.ReplaceAll(installTools, "sha256sum", ""), "x86_64").refused(script, "nothing here computes a SHA-256", "install sha256sum")
	})
	t.Run("nothing that fetches", func(t *testing.T) {
		machine(t, strings.ReplaceAll(installTools, "wget", ""), "x86_64").refused(script, "nothing here fetches a file", "install curl or wget")
	})
	t.Run("a list of another set", func(t *testing.T) {
		bad := strings.Replace(script, amd64.sum, strings.Repeat("0", 64), 1)
		machine(t, installTools, "x86_64").refused(bad, "the list of builds is not that of "+b.current().id, "make a new ticket")
	})
	t.Run("no ticket", func(t *testing.T) {
		r := machine(t, installTools, "x86_64")
		for _, args := range [][]string{{"ticket"}, {"-x"}, {""}, {"s1/a", "s1/b"}, {"2s1/a"}} {
			if out, err := r.run(script, args...); err == nil || !strings.Contains(r.stderr, "is no ticket\nhint: ") || out != "" {
				t.Errorf("%q: %v\n%s%s", args, err, out, r.stderr)
			}
		}
	})
	t.Run("a directory that nobody can write to", func(t *testing.T) {
		r := machine(t, installTools, "x86_64")
		r.env = []string{"SESSIO_BIN_DIR=/proc/none"}
		r.refused(script, "cannot write to /proc/none", "is it read-only?")
	})
	t.Run("a build that went away", func(t *testing.T) {
		machine(t, installTools, "aarch64").refused(strings.ReplaceAll(script, b.url+"'", b.url+"/none'"), "fetching "+b.url+"/none/b/", "make a new ticket")
	})
	t.Run("a program that does not run", func(t *testing.T) {
		broken := newTestBuilds(t, map[string]string{"sessio-linux-amd64": "#!/bin/sh\nexit 1\n"})
		machine(t, installTools, "x86_64").refused(broken.scriptNow(), "sessio-linux-amd64 does not run here", "may programs be run from ")
	})
}

// What comes in the place of a build is not run, not even to ask its version.
func TestInstallScriptRefusesAWrongHash(t *testing.T) {
	b := newTestBuilds(t, allBuilds())
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/b/") {
			fmt.Fprint(w, "#!/bin/sh\n: >$HOME/executed\n")
			return
		}
		b.ServeHTTP(w, r)
	}))
	defer liar.Close()
	for _, shell := range installShells {
		r := newInstallRun(t, installTools)
		r.shell, r.before = shell, "uname() { [ \"${1:-}\" = -s ] && echo Linux || echo x86_64; }\n"
		r.refused(strings.ReplaceAll(b.scriptNow(), b.url, liar.URL), "what came is not sessio-linux-amd64", "nothing was installed")
		if _, err := os.Stat(filepath.Join(r.home, "executed")); err == nil {
			t.Errorf("%q: it was executed", shell)
		}
	}
}

// Every tool that may be there instead of another does.
func TestInstallScriptWithOtherTools(t *testing.T) {
	t.Parallel()
	b := newTestBuilds(t, allBuilds())
	for _, c := range []struct{ name, tools, without, as string }{
		{"curl", "curl", "wget", ""},
		{"uclient-fetch", "", "wget", "uclient-fetch"},
		{"openssl", "openssl", "sha256sum", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newInstallRun(t, strings.ReplaceAll(installTools, c.without, ""))
			r.before = "uname() { [ \"${1:-}\" = -s ] && echo Linux || echo x86_64; }\n"
			if c.tools != "" {
				if err := os.Symlink(mustLook(t, c.tools), filepath.Join(r.path, c.tools)); err != nil {
					t.Fatal(err)
				}
			}
			if c.as != "" { // OpenWrt's, which takes wget's options
				if err := os.WriteFile(filepath.Join(r.path, c.as), []byte("#!/bin/sh\nexec "+mustLook(t, "busybox")+" wget \"$@\"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := r.run(b.scriptNow(), "s1/ticket"); err != nil || !strings.Contains(out, "join -yes -install s1/ticket (amd64)") {
				t.Errorf("%v\n%s%s", err, out, r.stderr)
			}
		})
	}
}

// A program that runs is replaced by another file, and goes on.
func TestInstallScriptReplacesARunningProgram(t *testing.T) {
	b := newTestBuilds(t, allBuilds())
	r := newInstallRun(t, installTools)
	r.before = "uname() { [ \"${1:-}\" = -s ] && echo Linux || echo x86_64; }\n"
	bin := filepath.Join(r.home, "bin", "sessio")
	old, err := os.ReadFile(mustLook(t, "sleep"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, old, 0o755); err != nil {
		t.Fatal(err)
	}
	running := exec.Command(bin, "1000")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { running.Process.Kill(); running.Wait() }()
	if out, err := r.run(b.scriptNow()); err != nil {
		t.Fatalf("%v\n%s%s", err, out, r.stderr)
	}
	if err := running.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("what ran has ended: %v", err)
	}
	if now, err := os.ReadFile(bin); err != nil || string(now) != fakeBuild("amd64") {
		t.Errorf("%v, %.80q", err, now)
	}
}

// A full disk is named with what it has and what is needed, before and after the attempt.
func TestInstallScriptOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	b := newTestBuilds(t, map[string]string{"sessio-linux-amd64": fakeBuild("amd64") + strings.Repeat("# padding\n", 100_000)})
	for _, c := range []struct{ size, fits string }{{"64k", "no"}, {"512k", "no"}, {"2m", "yes"}} {
		t.Run(c.size, func(t *testing.T) {
			r := newInstallRun(t, installTools)
			r.before = "uname() { [ \"${1:-}\" = -s ] && echo Linux || echo x86_64; }\n"
			bin := filepath.Join(r.home, "bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("none", bin, "tmpfs", 0, "size="+c.size); err != nil {
				t.Fatal(err)
			}
			defer syscall.Unmount(bin, syscall.MNT_DETACH)
			if c.fits == "yes" {
				if out, err := r.run(b.scriptNow()); err != nil {
					t.Errorf("%v\n%s%s", err, out, r.stderr)
				}
				return
			}
			kib := strings.TrimSuffix(c.size, "k")
			r.refused(b.scriptNow(), bin+" has ", "free some, or name a directory with more")
			if !strings.Contains(r.stderr, fmt.Sprintf("bytes free, sessio-linux-amd64 needs %d\n", b.current().builds[0].size)) {
				t.Errorf("%s KiB: %s", kib, r.stderr)
			}
		})
	}
}
