//go:build linux

package main

// OpenSSH's own regress suite (package openssh-tests) against our server: what
// of it drives a server through ssh, with the stand-in of judge_sshd_test.go for
// its sshd and sessio sftp-server for its sftp-server.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const regressDir = "/usr/lib/openssh/regress"

// A regressScript is one of the suite. sed, where it is set, takes something out
// of it, and why says what that needs.
type regressScript struct {
	name, sed, why string
	ports          bool // it has port numbers of its own: one such at a time
}

// regressScripts are what is run.
var regressScripts = []regressScript{
	{name: "multiplex", ports: true},
	{name: "dynamic-forward", ports: true},
	{name: "forwarding", ports: true},
	{name: "cert-file"},
	{name: "integrity"},
	{name: "sftp"},
	{name: "scp"},
	{name: "exit-status"},
	{name: "sftp-perm"},
	{name: "stderr-data"},
	{name: "reconfigure"},
	{name: "agent"},
	{name: "sftp-cmds"},
	{name: "sftp-badcmds"},
	{name: "sftp-batch"},
	{name: "sftp-glob"},
	{name: "sftp-uri", sed: `s/ -oForceCommand=.*//`, why: "ForceCommand"},
	{name: "scp3"},
	{name: "scp-uri"},
	{name: "keytype", sed: `/ktypes="$ktypes .*-sk"/d`, why: "host keys of security keys"},
	{name: "key-options"},
	{name: "transfer"},
	{name: "banner"},
	{name: "envpass"},
	{name: "try-ciphers"},
	{name: "kextype"},
	{name: "yes-head"},
	{name: "connect"},
	{name: "connect-uri"},
	{name: "proxy-connect", sed: `/username with style/,$d`, why: "a login NAME:STYLE is for BSD authentication"},
	{name: "exit-status-signal"},
	{name: "stderr-after-eof"},
	{name: "forcecommand", sed: `/^echo "ForceCommand true/,$d`, why: "ForceCommand"},
	{name: "localcommand"},
	{name: "host-expand"},
	{name: "hostkey-rotate", sed: `/^# Add new hostkey/,$d`, why: "two host keys of one type"},
	{name: "keyscan", sed: `s/SSH_KEYTYPES/SSH_HOSTKEY_TYPES/`, why: "host keys of security keys"},
	{name: "knownhosts"},
	{name: "knownhosts-command"},
	{name: "brokenkeys"},
	{name: "proto-version"},
	{name: "proto-mismatch"},
}

// regressLeftOut is what of the suite has to do with a server and is not run.
var regressLeftOut = map[string]string{
	"forward-control":    "four minutes; PermitListen",
	"rekey":              "three minutes; RekeyLimit of a server, sshd -T; TestJudgePortOpenSSH has new keys",
	"cert-userkey":       "TrustedUserCAKeys, AuthorizedPrincipalsFile, RevokedKeys",
	"cert-hostkey":       "HostCertificate",
	"krl":                "is about ssh-keygen, for minutes",
	"limit-keytype":      "PubkeyAcceptedAlgorithms, AuthenticationMethods",
	"multipubkey":        "AuthenticationMethods",
	"authinfo":           "ExposeAuthInfo",
	"allow-deny-users":   "AllowUsers, DenyUsers",
	"principals-command": "AuthorizedPrincipalsCommand",
	"keys-command":       "AuthorizedKeysCommand",
	"hostbased":          "HostbasedAuthentication",
	"hostkey-agent":      "HostKeyAgent",
	"agent-restrict":     "publickey-hostbound-v00@openssh.com",
	"channel-timeout":    "ChannelTimeout",
	"connection-timeout": "UnusedConnectionTimeout",
	"login-timeout":      "needs telnet, 15 s; TestSSHPortUnauthenticated has the grace time",
	"sftp-chroot":        "ChrootDirectory, a path in /var/run",
	"dhgex":              "diffie-hellman-group-exchange",
	"sshfp-connect":      "names in DNS",
	"connect-privsep":    "UsePrivilegeSeparation",
	"reexec":             "copies sshd",
	"percent":            "20 s of ssh's own file",
	"portnum":            "is about ssh alone",
	"broken-pipe":        "reads a file that is not there: it cannot fail",
	"cfgparse":           "sshd's file", "cfgmatch": "sshd's file", "cfgmatchlisten": "sshd's file",
	"addrmatch": "sshd's file", "servcfginclude": "sshd's file",
	"putty-transfer": "needs a newer puttygen; TestJudgePortPutty", "putty-ciphers": "likewise", "putty-kex": "likewise",
}

// regressLimit is more than what the longest takes on a busy machine.
const regressLimit = 2 * time.Minute

// regressAtOnce is how many run at a time, whatever -parallel says: most of them
// sleep.
const regressAtOnce = 4

func TestJudgeOpenSSHRegress(t *testing.T) {
	slow(t)
	t.Parallel()
	if _, err := os.Stat(regressDir + "/test-exec.sh"); err != nil {
		t.Fatal(err, ": testdata/tools.sh judge installs openssh-tests")
	}
	for _, script := range regressScripts {
		if regressLeftOut[script.name] != "" {
			t.Errorf("%s is run and left out", script.name)
		}
	}
	s := newRegressSuite(t)
	places := make(chan struct{}, regressAtOnce)
	var ports sync.Mutex
	var running sync.WaitGroup
	for _, script := range regressScripts {
		running.Go(func() {
			if script.ports {
				ports.Lock()
				defer ports.Unlock()
			}
			places <- struct{}{}
			defer func() { <-places }()
			t.Run(script.name, func(t *testing.T) { s.run(t, script) })
		})
	}
	running.Wait()
}

// A regressSuite has what all scripts share: programs, and keys that are made
// once.
type regressSuite struct{ dir string }

// regressSSH is ssh, but for its lists of algorithms: of these it names what
// both have, so that scripts that go through them all try those.
const regressSSH = `#!/bin/sh
case " $* " in
*" -Q key"*) /usr/bin/ssh "$@" | grep -v dss ;;
*" -Q kex "* | *" -Q cipher"* | *" -Q mac "*) /usr/bin/ssh "$@" | grep -Fx '%s' ;;
*) exec /usr/bin/ssh "$@" ;;
esac
`

func newRegressSuite(t *testing.T) *regressSuite {
	t.Helper()
	dir, err := os.MkdirTemp("", "regress") // a short path: sockets stand in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &regressSuite{dir}
	self, err := os.Executable()
	tool, toolErr := filepath.Abs(toolFile())
	if err := errors.Join(err, toolErr); err != nil {
		t.Fatal(err)
	}
	ours := sshAlgorithms()
	names := strings.Join(append(append(ours.KeyExchanges, ours.Ciphers...), ours.MACs...), "\n")
	s.program(t, "ssh", fmt.Sprintf(regressSSH, names))
	s.program(t, "sshd", fmt.Sprintf("#!/bin/sh\n%s=%s exec '%s' \"$@\"\n", toolEnv, toolSSHD, self))
	s.program(t, "sftp-server", fmt.Sprintf("#!/bin/sh\n%s=sessio exec %s/bin/sftp-server \"$@\"\n", toolEnv, dir))
	if err := errors.Join(os.Mkdir(dir+"/bin", 0o700), os.Symlink(tool, dir+"/bin/sftp-server")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", regressDir, s.dir+"/keys").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(s.dir+"/keys/none.sh", []byte("tid=keys\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.edit(t, s.dir+"/keys/test-exec.sh", "/^SSH_HOSTKEY_TYPES=/s/maybe_filter_sk/grep -v ^sk/") // ours has none of security keys
	if out, err := s.script(t, s.dir+"/keys", "none").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

// edit runs sed on a file, which must change it.
func (s *regressSuite) edit(t *testing.T, file, how string) {
	t.Helper()
	before, _ := os.ReadFile(file)
	out, err := exec.Command("sed", "-i", how, file).CombinedOutput()
	if after, _ := os.ReadFile(file); err != nil || bytes.Equal(before, after) {
		t.Fatalf("sed %q changes nothing in %s: %v %s", how, file, err, out)
	}
}

func (s *regressSuite) program(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}

// script is a script of the suite in a copy of it, in a process group of its
// own.
func (s *regressSuite) script(t *testing.T, dir, name string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", dir+"/test-exec.sh", dir, dir+"/"+name+".sh")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TEST_SHELL=sh", "TEST_SSH_UNSAFE_PERMISSIONS=1", "TEST_SSH_IPV6=yes", "TEST_SSH_ECC=yes", "BUILDDIR="+dir,
		"TEST_SSH_PORT="+freePort(t), "TEST_SSH_SSH="+s.dir+"/ssh", "TEST_SSH_SSHD="+s.dir+"/sshd", "TEST_SSH_SFTPSERVER="+s.dir+"/sftp-server",
		"PATH="+s.dir+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	return cmd
}

func (s *regressSuite) run(t *testing.T, r regressScript) {
	t.Helper()
	dir := filepath.Join(s.dir, strings.Replace(r.name, "hostkey", "hk", 1)) // one throws out lines with that word
	if out, err := exec.Command("cp", "-a", s.dir+"/keys", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r.sed != "" {
		s.edit(t, dir+"/"+r.name+".sh", r.sed)
	}
	cmd := s.script(t, dir, r.name)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(regressLimit, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	timer.Stop()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what a script left
	t.Logf("%.1f s", time.Since(began).Seconds())
	switch {
	case err != nil:
		logs := ""
		for _, name := range []string{"failed-regress.log", "failed-ssh.log", "failed-sshd.log"} {
			b, _ := os.ReadFile(filepath.Join(dir, name))
			logs += fmt.Sprintf("%s:\n%s\n", name, b[max(0, len(b)-8<<10):])
		}
		t.Errorf("%v\n%s\n%s", err, out.String(), logs)
	case strings.Contains(out.String(), "SKIPPED") || !strings.Contains("\n"+out.String(), "\nok "):
		t.Errorf("it did not run:\n%s", out.String())
	}
	os.RemoveAll(dir)
}
