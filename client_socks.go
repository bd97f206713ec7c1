package main

// This file lets a program say by SOCKS where a forwarded connection shall come
// out: version 5 (RFC 1928) without authentication, for TCP, and 4 and 4a.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// socksWait is how long a program may take to say where it wants to go.
const socksWait = 10 * time.Second

// maxSocksText bounds a name of SOCKS 4, in bytes: a host name has at most 253.
const maxSocksText = 255

var (
	errNoSocks      = errors.New("this is not SOCKS")
	errSocksAuth    = errors.New("this program wants to show a password by SOCKS, and there is none")
	errSocksCommand = errors.New("by SOCKS only connections can be asked for")
)

// A socksReply tells the program whether it is connected.
type socksReply func(connected bool) error

// askSocks reads where conn wants to go.
func askSocks(conn net.Conn) (to forwardEnd, reply socksReply, err error) {
	conn.SetDeadline(time.Now().Add(socksWait))
	defer conn.SetDeadline(time.Time{})
	return readSocks(conn)
}

// readSocks takes no byte behind the request: it is the connection's own.
func readSocks(conn io.ReadWriter) (to forwardEnd, reply socksReply, err error) {
	var version [1]byte
	if _, err := io.ReadFull(conn, version[:]); err != nil {
		return to, nil, err
	}
	switch version[0] {
	case 5:
		return readSocks5(conn)
	case 4:
		return readSocks4(conn)
	}
	return to, nil, errNoSocks
}

func readSocks5(conn io.ReadWriter) (to forwardEnd, reply socksReply, err error) {
	methods, err := readSocksText(conn)
	if err != nil {
		return to, nil, err
	}
	if bytes.IndexByte(methods, 0) < 0 {
		conn.Write([]byte{5, 0xff})
		return to, nil, errSocksAuth
	}
	if _, err := conn.Write([]byte{5, 0}); err != nil {
		return to, nil, err
	}
	var head [4]byte // version, command, reserved, type of address
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return to, nil, err
	}
	answer := func(code byte) error {
		_, err := conn.Write([]byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0})
		return err
	}
	switch {
	case head[0] != 5:
		return to, nil, errNoSocks
	case head[1] != 1:
		answer(7)
		return to, nil, errSocksCommand
	}
	var host []byte
	switch head[3] {
	case 1, 4: // IPv4, IPv6
		ip := make([]byte, 4*int(head[3]))
		if _, err := io.ReadFull(conn, ip); err != nil {
			return to, nil, err
		}
		addr, _ := netip.AddrFromSlice(ip)
		host = []byte(addr.Unmap().String())
	case 3:
		if host, err = readSocksText(conn); err != nil {
			return to, nil, err
		}
	default:
		answer(8)
		return to, nil, fmt.Errorf("SOCKS knows no addresses of type %d", head[3])
	}
	if to, err = readSocksPort(conn, string(host)); err != nil {
		return to, nil, err
	}
	return to, func(connected bool) error { return answer(4 * (1 - boolByte(connected))) }, nil
}

// readSocks4 knows the host by name too (4a): its address is then 0.0.0.x.
func readSocks4(conn io.ReadWriter) (to forwardEnd, reply socksReply, err error) {
	var head [7]byte // command, port, address
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return to, nil, err
	}
	if _, err := readSocksLine(conn); err != nil { // whose it is
		return to, nil, err
	}
	to = forwardEnd{host: netip.AddrFrom4([4]byte(head[3:])).String(), port: uint16(head[1])<<8 | uint16(head[2])}
	if head[3] == 0 && head[4] == 0 && head[5] == 0 && head[6] != 0 {
		if to.host, err = readSocksLine(conn); err != nil {
			return to, nil, err
		}
	}
	answer := func(connected bool) error {
		_, err := conn.Write([]byte{0, 0x5b - boolByte(connected), 0, 0, 0, 0, 0, 0})
		return err
	}
	if head[0] != 1 {
		answer(false)
		return to, nil, errSocksCommand
	}
	if to.host == "" || to.port == 0 {
		return to, nil, errNoSocks
	}
	return to, answer, nil
}

// readSocksText reads bytes behind their count, of one byte.
func readSocksText(r io.Reader) ([]byte, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, n[0])
	_, err := io.ReadFull(r, b)
	return b, err
}

// readSocksLine reads text that ends in a zero.
func readSocksLine(r io.Reader) (string, error) {
	var b []byte
	for len(b) <= maxSocksText {
		var one [1]byte
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return "", err
		}
		if one[0] == 0 {
			return string(b), nil
		}
		b = append(b, one[0])
	}
	return "", errNoSocks
}

func readSocksPort(r io.Reader, host string) (to forwardEnd, err error) {
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return to, err
	}
	to = forwardEnd{host: host, port: uint16(port[0])<<8 | uint16(port[1])}
	if to.host == "" || to.port == 0 {
		return to, errNoSocks
	}
	return to, nil
}

// refuseForward says why not to who asked by SOCKS, and resets all others.
func refuseForward(conn net.Conn, reply socksReply) {
	if reply == nil || reply(false) != nil {
		resetConn(conn)
	}
}
