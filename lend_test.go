package main

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
)

// TestLendRefusalReachesAWriter: a verb sends before it reads, and may find the
// socket closed by a process that has said why.
func TestLendRefusalReachesAWriter(t *testing.T) {
	dir := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(dir, lendSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.ReadAtLeast(c, make([]byte, 100), 1)
		writeLine(c, answerOf(coded("device-busy", "no room")))
	}()
	c, err := askLend(t.Context(), dir, lendRequest{Op: "ssh"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-gone
	if _, err := c.Write([]byte("SSH-2.0-x\r\n")); codeOf(err) != "device-busy" {
		t.Errorf("the write: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); codeOf(err) != "device-busy" || errors.Is(err, io.EOF) {
		t.Errorf("the read: %v", err)
	}
}
