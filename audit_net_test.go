package main

import (
	"bufio"
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// logstashTestListen is where a collector of lines listens, with TLS or not.
func logstashTestListen(t *testing.T, safe bool) (net.Listener, auditExporter) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	x := auditExporter{kind: "logstash", host: "127.0.0.1", port: ln.Addr().(*net.TCPAddr).Port, tls: safe}
	if safe {
		srv := httptest.NewUnstartedServer(nil)
		srv.StartTLS()
		srv.Close()
		x.ca = filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(x.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: srv.TLS.Certificates})
	}
	return ln, x
}

func logstashTestAccept(t *testing.T, ln net.Listener) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, bufio.NewReader(c)
}

// Lines arrive as a file has them. A collector that ends the connection gets
// the last ones again, with the same ids, without anything new to send.
func TestAuditLogstash(t *testing.T) {
	for _, safe := range []bool{false, true} {
		ln, x := logstashTestListen(t, safe)
		a, said := auditTestOpen(t, x)
		for range 3 {
			a.record(auditEvent{kind: auditSessionStart, user: "alice"})
		}
		c, r := logstashTestAccept(t, ln)
		first := auditTestLine(t, r) + auditTestLine(t, r) + auditTestLine(t, r)
		auditTestSeqs(t, auditTestParse(t, first), 1, 3)
		c.Close()
		c, r = logstashTestAccept(t, ln)
		if again := auditTestLine(t, r) + auditTestLine(t, r) + auditTestLine(t, r); again != first {
			t.Errorf("%s\n%s", first, again)
		}
		a.record(auditEvent{kind: auditSessionEnd})
		auditTestSeqs(t, auditTestParse(t, auditTestLine(t, r)), 4, 4)
		a.close()
		if _, err := r.ReadByte(); err == nil {
			t.Error("more comes")
		}
		c.Close()
		if n := a.lost()[0]; n.delivered != 4 || n.lost != 0 || said.all() != "" {
			t.Errorf("%+v, %s", n, said.all())
		}
	}
}

// A certificate that nobody vouches for is refused, and nothing is sent.
func TestAuditLogstashStranger(t *testing.T) {
	ln, x := logstashTestListen(t, true)
	x.ca = ""
	a, said := auditTestOpen(t, x)
	a.record(auditEvent{kind: auditSessionStart})
	c, _ := logstashTestAccept(t, ln)
	if err := c.(*tls.Conn).HandshakeContext(t.Context()); err == nil {
		t.Error("the handshake succeeds")
	}
	waitUntil(t, func() bool { return strings.Contains(said.all(), "TLS: ") })
	ln.Close()
	a.close()
	if n := a.lost()[0]; n.delivered != 0 || n.lost != 1 {
		t.Errorf("%+v", n)
	}
}

// A collector that reads nothing stops the sender, not who records. When it is
// gone, the next one gets all that did not arrive or is counted as lost.
func TestAuditLogstashSlow(t *testing.T) {
	t.Parallel()
	ln, x := logstashTestListen(t, false)
	a, _ := auditTestOpen(t, x)
	a.record(auditEvent{kind: auditSessionStart})
	c, _ := logstashTestAccept(t, ln)
	c.(*net.TCPConn).SetReadBuffer(4096)
	for a.lost()[0].lost < 100 {
		a.record(auditEvent{kind: auditFileRead, path: strings.Repeat("p", 2000)})
	}
	most := int(a.lost()[0].delivered) // in the kernel's buffers, or to be sent again
	c.Close()
	_, r := logstashTestAccept(t, ln)
	first := auditTestParse(t, auditTestLine(t, r))[0].Seq
	if first > most+1 || first < most+1-maxAuditBatch {
		t.Errorf("it goes on with %d, %d were written", first, most)
	}
	for seq := first + 1; seq < most+maxAuditQueue/2; seq++ {
		if got := auditTestParse(t, auditTestLine(t, r))[0].Seq; got != seq {
			t.Fatalf("%d comes after %d", got, seq-1)
		}
	}
}
