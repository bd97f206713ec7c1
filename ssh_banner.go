//go:build linux || darwin

package main

// This file shows the texts of an administrator: a banner before the login, and
// why nobody may log in for the moment.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

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
	text, err := readText(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	s.notice += strings.ReplaceAll(text, "\n", "\r\n")
	return &exitError{exitNologin, fmt.Errorf("only root may log in while %s is there", file)}
}

// maxTextFile is the most that is shown of a file before a login, in bytes.
const maxTextFile = 64 << 10

// readText reads a regular file of at most maxTextFile.
func readText(file string) (string, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may be a pipe
	if err != nil {
		return "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() > maxTextFile {
		return "", errors.Join(err, fmt.Errorf("%s is no file of at most %d bytes", file, maxTextFile))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTextFile))
	return string(b), err
}

// banner is what is shown before the login, "" when there is nothing.
func (c *sshConnection) banner(ssh.ConnMetadata) string {
	file := c.srv.policy.config().banner
	if file == "" {
		return ""
	}
	text, err := readText(file)
	if err != nil {
		c.srv.policy.log("ssh: no banner: %v", err)
	}
	return text
}
