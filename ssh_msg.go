package main

// This file is the SSH messages that both ends of a connection know.

// A directTCPMsg opens a "direct-tcpip" channel: RFC 4254, section 7.2. The
// host may be a name, which the server resolves.
type directTCPMsg struct {
	Host       string
	Port       uint32
	Origin     string
	OriginPort uint32
}

// A windowChangeMsg is the payload of "window-change": RFC 4254, section 6.7.
// Characters, then pixels.
type windowChangeMsg struct{ Cols, Rows, Width, Height uint32 }
