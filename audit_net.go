package main

// This file is the audit as lines over TCP, as logstash takes them. TCP does
// not tell what the other end has read. So what is written shortly before a
// connection ends, up to the newest maxAuditBatch records, is sent again on the
// next one, and may come twice, with the same id; what is older counts as
// delivered.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

const (
	// auditTimeout is for a connection to be made, for one write, for one
	// request.
	auditTimeout = 10 * time.Second
	// auditSettled is how long a connection has to be quiet and well, for what
	// was written before to have arrived when it ends in order.
	auditSettled = time.Minute
	// auditSendBuffer is the kernel's for a connection, in bytes: what is in it
	// has not arrived. It is less than maxAuditBatch records of usual size.
	auditSendBuffer = 8 << 10
)

// auditTLS is how a collector's name is checked.
func auditTLS(ca, host string) (*tls.Config, error) {
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", ca)
		}
	}
	return c, nil
}

// dialAudit connects, with TLS unless config is nil.
func dialAudit(ctx context.Context, addr string, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn.(*net.TCPConn).SetWriteBuffer(auditSendBuffer)
	if config == nil {
		return conn, nil
	}
	c := tls.Client(conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return c, nil
}

// A logstash is a connection, or none, to a collector of lines.
type logstash struct {
	addr string
	tls  *tls.Config // nil: without
	now  func() time.Time
	wake func()

	conn    net.Conn
	ended   chan error    // one, when the collector has ended it
	recent  []*auditEvent // written, and perhaps not arrived
	resend  bool          // recent is to be sent before anything else
	wroteAt time.Time
}

func openLogstash(x auditExporter, opt auditOptions, o *auditOutlet) (auditSink, error) {
	l := &logstash{addr: net.JoinHostPort(x.host, strconv.Itoa(x.port)), now: opt.now, wake: o.wake}
	if x.host == "" || x.port < 1 || x.port > 65535 {
		return nil, fmt.Errorf("it needs a host, and a port from 1 to 65535")
	}
	if x.ca != "" && !x.tls {
		return nil, errors.New("ca is given, and tls is not set")
	}
	if x.tls {
		var err error
		if l.tls, err = auditTLS(x.ca, x.host); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (*logstash) linger() time.Duration { return 0 }

func (l *logstash) send(ctx context.Context, events []*auditEvent) (taken, lost int, err error) {
	if l.conn != nil {
		select {
		case err := <-l.ended:
			l.ended <- err
			l.hangUp(err)
		default:
		}
	}
	if !l.resend && len(events) == 0 {
		return 0, 0, nil
	}
	if l.conn == nil {
		if err := l.dial(ctx); err != nil {
			return 0, 0, err
		}
	}
	var out []byte
	if l.resend {
		for _, e := range l.recent {
			out = e.appendLine(out)
		}
	}
	for _, e := range events {
		out = e.appendLine(out)
	}
	l.wroteAt = l.now()
	l.conn.SetWriteDeadline(time.Now().Add(auditTimeout))
	stop := context.AfterFunc(ctx, func() { l.conn.SetWriteDeadline(time.Now()) })
	defer stop()
	if _, err := l.conn.Write(out); err != nil {
		l.hangUp(err)
		return 0, 0, err
	}
	l.resend = false
	l.recent = append(l.recent, events...)
	if old := len(l.recent) - maxAuditBatch; old > 0 {
		clear(l.recent[copy(l.recent, l.recent[old:]):])
		l.recent = l.recent[:maxAuditBatch]
	}
	return len(events), 0, nil
}

// dial connects and has the end of the connection watched: nothing else is
// read from a collector.
func (l *logstash) dial(ctx context.Context) (err error) {
	if l.conn, err = dialAudit(ctx, l.addr, l.tls); err != nil {
		l.conn = nil
		return err
	}
	conn, ended := l.conn, make(chan error, 1)
	l.ended = ended
	go func() {
		_, err := io.Copy(io.Discard, conn)
		if err == nil {
			err = io.EOF
		}
		ended <- err
		l.wake()
	}()
	return nil
}

// hangUp ends the connection and waits for who watches it.
func (l *logstash) hangUp(why error) {
	if l.conn == nil {
		return
	}
	l.conn.Close()
	<-l.ended
	l.conn = nil
	if errors.Is(why, io.EOF) && l.now().Sub(l.wroteAt) > auditSettled {
		l.recent = nil
	}
	l.resend = len(l.recent) > 0
}

func (l *logstash) close() error {
	l.hangUp(io.EOF)
	return nil
}
