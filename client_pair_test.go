//go:build linux

package main

import (
	"bytes"
	"crypto/rand"
	"net"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshcPair starts a peer with our own SSH server, which grants caps to the key
// that the link has proved.
func sshcPair(t testing.TB, caps ...string) *sshcPeer {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	host, mine := sshcNewKey(t, filepath.Join(dir, "host")), sshcNewKey(t, filepath.Join(dir, "key"))
	srv := newSSHServer(sshPolicy{
		hostKey: host,
		authorize: func(key ssh.PublicKey, login string) (sshGrant, error) {
			if login != me.Username || !bytes.Equal(key.Marshal(), mine.PublicKey().Marshal()) {
				return sshGrant{}, coded("user", "%q may not log in", login)
			}
			return sshGrant{device: "laptop", caps: caps}, nil
		},
		log: func(format string, args ...any) {},
	})
	p := sshcListen(t, func(conn net.Conn) { srv.serve(t.Context(), conn, mine.PublicKey(), "") })
	p.hostKey, p.userKey, p.keyFile, p.users = host.PublicKey(), mine, filepath.Join(dir, "key"), []string{me.Username}
	return p
}

var sshcAllCaps = []string{"shell", "exec", "forward", "pty"}

func TestRunOnOurServer(t *testing.T) {
	p := sshcPair(t, sshcAllCaps...)
	for _, c := range []struct {
		name, stdin, line string
		out, err          string
		status            int
	}{
		{"streams apart", "", "echo out; echo err >&2", "out\n", "err\n", 0},
		{"exit code", "", "exit 7", "", "", 7},
		{"stdin ends", "a\nb\n", "cat; echo done", "a\nb\ndone\n", "", 0},
		{"stdin unread", strings.Repeat("x", 1<<20), "true", "", "", 0},
		{"signal", "", "kill -KILL $$", "", `ended on attic by signal "KILL"`, 255},
		{"stdout closed early", "in", "exec 1>&-; cat >&2; exit 3", "", "in", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errOut, status := sshcRun(t, p, c.stdin, c.line)
			if out != c.out || errOut != c.err || status != c.status {
				t.Errorf("got %q, %q, status %d", out, errOut, status)
			}
		})
	}
	data := make([]byte, 16<<20)
	rand.Read(data)
	if out, errOut, status := sshcRun(t, p, string(data), "cat"); out != string(data) || errOut != "" || status != 0 {
		t.Errorf("%d bytes came back of %d, %q, status %d", len(out), len(data), errOut, status)
	}
}

func TestShellOnOurServer(t *testing.T) {
	term := sshcOpenTerminal(t)
	ended := make(chan error, 1)
	go func() {
		ended <- cmdShell(t.Context(), sshcPair(t, sshcAllCaps...), stdio{term.tty, term.tty, term.tty}, target{device: "attic"})
	}()
	term.keys("exec sh\rstty size; stty -a | grep -o 'intr = ..'; echo up-$((40+2))\r")
	term.expect("31 97")
	term.expect("intr = ^C")
	term.expect("up-42")
	term.keys("exit 4\r")
	if err := <-ended; exitStatus(err) != 4 {
		t.Errorf("%v", err)
	}
	term.restored()
}

// A shell without the pty it asked for would leave a person with a raw
// terminal and no answer to any key.
func TestShellWithoutPtyIsRefused(t *testing.T) {
	term := sshcOpenTerminal(t)
	p := sshcPair(t, slices.DeleteFunc(slices.Clone(sshcAllCaps), func(c string) bool { return c == "pty" })...)
	err := cmdShell(t.Context(), p, stdio{term.tty, term.tty, term.tty}, target{device: "attic"})
	if err == nil || exitStatus(err) == 0 {
		t.Errorf("%v", err)
	}
	term.expect("pty")
	term.restored()
}

func TestForwardOnOurServer(t *testing.T) {
	addrs, _ := sshcForward(t, sshcPair(t, sshcAllCaps...), 1, "127.0.0.1:0:127.0.0.1:"+sshcEcho(t))
	data := bytes.Repeat([]byte("x"), 4<<20)
	if got, err := sshcAsk("tcp", addrs[0], data); err != nil || len(got) != len("echo 4194304\n")+len(data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
