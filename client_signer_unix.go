//go:build !windows

package main

import (
	"io"
	"net"
)

// defaultAgent is where an ssh-agent is without $SSH_AUTH_SOCK.
const defaultAgent = ""

func dialAgent(addr string) (io.ReadWriteCloser, error) { return net.Dial("unix", addr) }
