//go:build linux

package main

// pkg/sftp's own tests of its client (testdata/pkgsftp) have sessio sftp-server
// on the other side. OpenSSH's is the measure.

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// minPkgSFTP is how many of its tests pass at least: 171 in v1.13.10, subtests
// among them. Five are of its own server alone and are passed over.
const minPkgSFTP = 165

// TestJudgeFilesPkgSFTP: each of its tests ends with our server as it ends with
// OpenSSH's, and none fails with either.
func TestJudgeFilesPkgSFTP(t *testing.T) {
	slow(t)
	dir := t.TempDir()
	suite := exec.Command("go", "list", "-C", "testdata/pkgsftp", "-m", "-f", "{{.Dir}}", "github.com/pkg/sftp")
	build := exec.Command("go", "test", "-C", "testdata/pkgsftp", "-c", "-o", dir+"/suite", "github.com/pkg/sftp")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, out)
	}
	source, err := suite.Output()
	if err != nil {
		t.Fatalf("%v: %v", suite.Args, err)
	}
	// One of its tests expects that its directory has this name.
	if err := os.CopyFS(dir+"/sftp", os.DirFS(strings.TrimSpace(string(source)))); err != nil {
		t.Fatal(err)
	}
	self, err := filepath.Abs(toolFile())
	if err == nil {
		err = os.Symlink(self, dir+"/"+sftpServerName)
	}
	if err != nil {
		t.Fatal(err)
	}
	stock, stockLog := pkgSFTPResults(t, dir, stockSFTPServer)
	ours, log := pkgSFTPResults(t, dir, dir+"/"+sftpServerName)
	passed := 0
	for name, result := range ours {
		if stock[name] != result || result == "FAIL" {
			t.Errorf("%s: %s with ours, %s with stock", name, result, cmp.Or(stock[name], "not run"))
		}
		if result == "PASS" {
			passed++
		}
		delete(stock, name)
	}
	for name, result := range stock {
		t.Errorf("%s: not run with ours, %s with stock", name, result)
	}
	if passed < minPkgSFTP {
		t.Errorf("%d passed", passed)
	}
	if t.Failed() {
		t.Logf("with ours\n%s\nwith stock\n%s", log, stockLog)
	}
}

// pkgSFTPResults runs the suite in dir with a server: PASS, FAIL or SKIP by name.
func pkgSFTPResults(t *testing.T, dir, server string) (map[string]string, []byte) {
	t.Helper()
	cmd := exec.Command(dir+"/suite", "-test.v", "-test.timeout=2m", "-integration", "-sftp", server)
	// It lists the directory for temporary files, which must keep still meanwhile.
	cmd.Dir, cmd.Env = dir+"/sftp", append(os.Environ(), toolEnv+"=1", "TMPDIR="+dir)
	began := time.Now()
	out, _ := cmd.CombinedOutput() // the results tell what is wrong
	t.Logf("%s: %v", server, time.Since(began).Round(time.Second))
	results := map[string]string{}
	for line := range bytes.Lines(out) {
		if f := strings.Fields(string(line)); len(f) > 2 && f[0] == "---" {
			results[f[2]] = strings.TrimSuffix(f[1], ":")
		}
	}
	if !bytes.HasSuffix(bytes.TrimSpace(out), []byte("PASS")) && !bytes.Contains(out, []byte("--- FAIL")) {
		t.Errorf("with %s it did not end:\n%s", server, out)
	}
	return results, out
}
