//go:build !linux && !darwin

package main

import (
	"context"
	"errors"
	"net"
	"runtime"
	"time"

	"golang.org/x/crypto/ssh"
)

// An sshServer cannot be had here: nothing of what it starts would be right.
type sshServer struct{}

var errNoSSHServer = errors.New("no ssh server on " + runtime.GOOS)

func newSSHServer(sshPolicy) *sshServer { return new(sshServer) }

func (*sshServer) serve(_ context.Context, nc net.Conn, _ ssh.PublicKey, _ string) error {
	return errors.Join(errNoSSHServer, nc.Close())
}

func (*sshServer) servePort(_ context.Context, nc net.Conn, _ []ssh.Signer) { nc.Close() }

func (*sshServer) ban(string, time.Duration) (int, error)         { return 0, errNoSSHServer }
func (*sshServer) unban(string) error                             { return errNoSSHServer }
func (*sshServer) bans() []sshBan                                 { return nil }
func (*sshServer) reloaded()                                      {}
func (*sshServer) recheck()                                       {}
func (*sshServer) closeAll(time.Duration)                         {}
func (*sshServer) list(string) []sshStatus                        { return nil }
func (*sshServer) kill(func(id, user, token string) bool) (n int) { return 0 }

// There is no child process for it either.
func isNetChild([]string) bool   { return false }
func runNetChild() error         { return errNoSSHServer }
func isFilesChild([]string) bool { return false }
func runFilesChild() error       { return errNoSSHServer }
