//go:build !windows

package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Stock ssh through the proxy, bytes exact.
func TestProxyForStockSSH(t *testing.T) {
	t.Parallel()
	stock, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("needs OpenSSH's client: ", err)
	}
	p := sshcSSHD(t)
	dir := t.TempDir()
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte("attic "+string(ssh.MarshalAuthorizedKey(p.hostKey))), 0o600); err != nil {
		t.Fatal(err)
	}
	helper := sshcHelper(p, "proxy", "")
	cmd := exec.Command(stock, "-F", "none", "-i", p.keyFile, "-o", "UserKnownHostsFile="+known, "-o", "BatchMode=yes",
		"-o", "ProxyCommand="+commandLine(helper.Args), p.users[0]+"@attic", "cat; exit 6")
	cmd.Env = helper.Env
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 6 || !bytes.Equal(out, data) {
		t.Errorf("%d bytes of %d, %v", len(out), len(data), err)
	}
}

// The proxy goes when the device does, although its input stays open, and when
// its input ends, although the device says no more.
func TestProxyEnds(t *testing.T) {
	device := sshcListen(t, func(conn net.Conn) {
		defer conn.Close()
		io.WriteString(conn, "hello")
		if b := make([]byte, 1); b[0] == 0 {
			if _, err := conn.Read(b); err == nil && b[0] == 'q' {
				return
			}
		}
		io.Copy(io.Discard, conn)
	})
	for name, typed := range map[string]string{"device ends": "q", "input ends": ""} {
		t.Run(name, func(t *testing.T) {
			in, keyboard := io.Pipe()
			go func() {
				io.WriteString(keyboard, typed)
				if typed == "" {
					keyboard.Close()
				}
			}()
			out, _, err := sshcFiles(t, in, func(files stdio) error {
				defer keyboard.Close()
				return cmdProxy(t.Context(), device, files, target{device: "attic"})
			})
			if err != nil || typed != "" && string(out) != "hello" {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
}

func TestProxyNoDevice(t *testing.T) {
	p := &sshcPeer{fail: func(int) error { return coded("unknown-device", "no such device") }}
	err := cmdProxy(t.Context(), p, stdio{}, target{device: "gone"})
	if exitStatus(err) != 1 || err.Error() != "connecting to gone: no such device" {
		t.Errorf("%v", err)
	}
}

func TestProxyLinkLost(t *testing.T) {
	device := sshcListen(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	device.lostBy = errors.New("closed by the device")
	in, keyboard := io.Pipe()
	_, _, err := sshcFiles(t, in, func(files stdio) error {
		defer keyboard.Close()
		return cmdProxy(t.Context(), device, files, target{device: "attic"})
	})
	if err == nil || !strings.Contains(err.Error(), "proxy to attic: closed by the device") {
		t.Errorf("%v", err)
	}
}
