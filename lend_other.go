//go:build !linux

package main

import "net"

// ownPeer trusts the socket's mode.
func ownPeer(*net.UnixConn) bool { return true }
