//go:build linux || darwin

package main

// This file shows the texts of an administrator: a banner before the login, and
// why nobody may log in for the moment.

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// nologinFile keeps all but root out while it is there: nologin(5).
const nologinFile = "/etc/nologin"

// nologin is why nobody but root may log in now. The text of the file is shown
// before it.
func (s *sshSession) nologin() error {
	file := s.conn.srv.policy.nologin
	if file == "" {
		file = nologinFile
	}
	if s.conn.login.acct.uid == 0 {
		return nil
	}
	text, _, err := readSmall(file, maxTextFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	s.notice += strings.ReplaceAll(string(text), "\n", "\r\n")
	return &exitError{exitNologin, fmt.Errorf("only root may log in while %s is there", file)}
}

// maxTextFile is the most that is shown of a file before a login, in bytes: half
// of what fits into a packet.
const maxTextFile = 128 << 10

// banner is what is shown before the login, "" when there is nothing.
func (c *sshConnection) banner(ssh.ConnMetadata) string {
	file := c.srv.policy.config().banner
	if file == "" {
		return ""
	}
	text, _, err := readSmall(file, maxTextFile)
	if err != nil {
		c.srv.policy.log("ssh: no banner: %v", err)
	}
	return string(text)
}
