//go:build linux

package main

// What make bench compares our links with: the libraries alone. Bytes go
// through one stream of quic-go, or through a channel of x/crypto/ssh on it.

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/crypto/ssh"
)

// toolBare, as toolEnv, makes the test binary be this. Without arguments it
// serves and says where; else they are the address, quic or ssh, up or down, and
// how many bytes.
const toolBare = "bare"

func init() {
	toolModes[toolBare] = func() {
		var err error
		if len(os.Args) > 1 {
			err = bareDial(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
		} else {
			err = bareServe()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bare:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// bareALPN says what is to be moved: by quic or ssh, up or down.
func bareALPN(kind, way string) string { return "bare-" + kind + "-" + way }

// bareConn is a stream for the SSH library.
type bareConn struct{ *quic.Stream }

func (bareConn) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (bareConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

func bareTransport() (*quic.Transport, error) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	return &quic.Transport{Conn: conn}, err
}

func bareServe() error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	id, err := newIdentity(key)
	if err != nil {
		return err
	}
	cert, err := id.certificate()
	if err != nil {
		return err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}}
	for _, kind := range []string{"quic", "ssh"} {
		conf.NextProtos = append(conf.NextProtos, bareALPN(kind, "up"), bareALPN(kind, "down"))
	}
	tr, err := bareTransport()
	if err != nil {
		return err
	}
	l, err := tr.Listen(conf, &quic.Config{})
	if err != nil {
		return err
	}
	fmt.Println("bare at", tr.Conn.LocalAddr())
	for {
		conn, err := l.Accept(context.Background())
		if err != nil {
			return err
		}
		if err := bareAnswer(conn, id.sshSigner()); err != nil {
			return err
		}
	}
}

func bareAnswer(conn *quic.Conn, key ssh.Signer) error {
	what := strings.Split(conn.ConnectionState().TLS.NegotiatedProtocol, "-")
	s, err := conn.AcceptStream(context.Background())
	if err != nil {
		return err
	}
	var rw io.ReadWriteCloser = s
	if what[1] == "ssh" {
		conf := &ssh.ServerConfig{NoClientAuth: true}
		conf.AddHostKey(key)
		_, channels, requests, err := ssh.NewServerConn(bareConn{s}, conf)
		if err != nil {
			return err
		}
		go ssh.DiscardRequests(requests)
		ch, more, err := (<-channels).Accept()
		if err != nil {
			return err
		}
		go ssh.DiscardRequests(more)
		rw = ch
	}
	var size int64
	err = binary.Read(rw, binary.BigEndian, &size)
	if err == nil {
		err = bareMove(rw, what[2] == "down", size)
	}
	if err == nil {
		_, err = rw.Write([]byte{'!'})
	}
	<-conn.Context().Done()
	return err
}

// bareMove writes size bytes, or reads as many.
func bareMove(rw io.ReadWriter, write bool, size int64) error {
	b := make([]byte, sshChunk)
	for ; size > 0; size -= int64(len(b)) {
		var err error
		if write {
			_, err = rw.Write(b)
		} else {
			_, err = io.ReadFull(rw, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func bareDial(addr, kind, way, size string) error {
	tr, err := bareTransport()
	if err != nil {
		return err
	}
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	conn, err := tr.Dial(ctx, to, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{bareALPN(kind, way)}}, &quic.Config{})
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	s, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	var rw io.ReadWriter = s
	if kind == "ssh" {
		c, channels, requests, err := ssh.NewClientConn(bareConn{s}, addr, &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
		if err != nil {
			return err
		}
		go ssh.DiscardRequests(requests)
		go ssh.NewClient(c, channels, nil)
		ch, more, err := c.OpenChannel("bare", nil)
		if err != nil {
			return err
		}
		go ssh.DiscardRequests(more)
		rw = ch
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	if err := binary.Write(rw, binary.BigEndian, n); err != nil {
		return err
	}
	if err := bareMove(rw, way == "up", n); err != nil {
		return err
	}
	_, err = io.ReadFull(rw, make([]byte, 1))
	return err
}
