package main

import (
	"io"
	"net"
	"os"
	"strings"
)

// defaultAgent is the named pipe of the service that Windows brings.
const defaultAgent = `\\.\pipe\openssh-ssh-agent`

func dialAgent(addr string) (io.ReadWriteCloser, error) {
	if strings.HasPrefix(addr, `\\`) {
		return os.OpenFile(addr, os.O_RDWR, 0)
	}
	return net.Dial("unix", addr)
}
