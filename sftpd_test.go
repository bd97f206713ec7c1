//go:build linux

package main

// The verb sftp-server under stock sftp, as a program of that name.

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sftpServerAsked runs a batch of stock sftp on ours with these flags, in DIR.
func sftpServerAsked(t *testing.T, dir, flags, batch string) (out, log string) {
	t.Helper()
	link := t.TempDir() + "/sftp-server"
	self, err := filepath.Abs(toolFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sftp", "-b", "-", "-D", strings.TrimSpace(link+" "+strings.ReplaceAll(flags, "DIR", dir)))
	cmd.Env = append(os.Environ(), toolEnv+"=1")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(batch, "DIR", dir))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Run() // a batch that fails is told on stderr
	return stdout.String(), stderr.String()
}

func TestSFTPServerFlags(t *testing.T) {
	home, err := ownAccount()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, flags, batch string
		out, log, not      string // stdout and stderr hold these; neither holds not
		left               string // what is in DIR then
	}{
		{"a directory to begin in", "-d DIR", "-mkdir a\npwd\n", "Remote working directory: DIR", "", "denied", "drwxr-xr-x a"},
		{"flags as getopt has them", "-edDIR", "-mkdir a\n", "", "", "denied", "drwxr-xr-x a"},
		{"the home of the user", "-d %h", "pwd\n", home.home, "", "", ""},
		{"read only", "-R -d DIR", "-mkdir a\n", "", "Permission denied", "", ""},
		{"a umask", "-u 077 -d DIR", "-mkdir a\n", "", "", "", "drwx------ a"},
		{"a refused request", "-P mkdir,rename -d DIR", "-mkdir a\npwd\n", "working directory", "Permission denied", "", ""},
		{"only some requests", "-p realpath,stat,lstat,limits -d DIR", "-mkdir a\npwd\n", "working directory", "Permission denied", "", ""},
		{"errors are logged", "-e -d DIR", "-mkdir a\n", "", "", "mkdir \"a", "drwxr-xr-x a"},
		{"changes are logged", "-e -l INFO -d DIR", "-mkdir a\n", "", "mkdir \"DIR/a\"", "realpath \"", "drwxr-xr-x a"},
		{"all is logged", "-e -l debug3 -d DIR", "-mkdir a\n", "", "realpath \".\"", "", "drwxr-xr-x a"},
		{"a level that is none", "-l loud", "pwd\n", "", "-l loud is no level", "", ""},
		{"a facility that is none", "-f kern", "pwd\n", "", "-f kern is no facility", "", ""},
		{"a umask that is none", "-u 8", "pwd\n", "", "-u 8 is no umask", "", ""},
		{"a request that is none", "-P rm", "pwd\n", "", "no request \"rm\"", "", ""},
		{"a directory that is none", "-d DIR/none", "pwd\n", "", "no such file", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			out, log := sftpServerAsked(t, dir, c.flags, c.batch)
			for have, want := range map[string]string{out: c.out, log: c.log} {
				if !strings.Contains(have, strings.ReplaceAll(want, "DIR", dir)) {
					t.Errorf("%q is missing:\n%s%s", want, out, log)
				}
			}
			if c.not != "" && strings.Contains(out+log, c.not) {
				t.Errorf("%q:\n%s%s", c.not, out, log)
			}
			left := ""
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				info, _ := e.Info()
				left += info.Mode().String() + " " + e.Name()
			}
			if left != c.left {
				t.Errorf("left %q, want %q\n%s%s", left, c.left, out, log)
			}
		})
	}
}

// TestSFTPServerArgs: as getopt reads them; what follows them is ignored.
func TestSFTPServerArgs(t *testing.T) {
	for args, want := range map[string]string{
		"sftp-server":                           "sftp-server",
		"/x/sftp-server -eRl debug3 -u077 -d /": "sftp-server -e -R -l debug3 -u 077 -d /",
		"sftp-server -el error host sftp -R":    "sftp-server -e -l error",
		"sftp-server -P -R -- -e":               "sftp-server -P -R",
		"sftp-server - -e":                      "sftp-server",
		"sftp-server -xy":                       "sftp-server -x",
		"sftp-server -l":                        "sftp-server -l",
		"sessio sftp-server":                    "",
	} {
		if got := strings.Join(sftpServerArgs(strings.Fields(args)), " "); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}
