package main

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// An echo is answered from the address that was asked, of those that a port has.
func TestCoordSocketsAnswerFromWhereTheyWereAsked(t *testing.T) {
	for _, tt := range []struct{ udp, udp2, ask, told string }{
		{":0", "", "127.0.0.1", "::"},
		{":0", "", "127.0.0.3", "::"},
		{"127.0.0.1:0", "127.0.0.2:0", "127.0.0.2", "127.0.0.2"},
	} {
		got := make(chan udpSource, 1)
		s, err := listenCoordSockets(tt.udp, tt.udp2, func(_ []byte, from udpSource) { got <- from })
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.readSecond(ctx) }()
		to := netip.AddrPortFrom(netip.MustParseAddr(tt.ask), s.second.port())
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) // takes in nothing from elsewhere
		if err != nil {
			t.Fatal(err)
		}
		if s.told() != netip.AddrPortFrom(netip.MustParseAddr(tt.told), s.second.port()) {
			t.Errorf("%+v: told as %v", tt, s.told())
		}
		conn.Write([]byte{0xc0, 1, 2, 3}) // QUIC's, say: it is not taken in
		conn.Write([]byte{sealVersion, 7})
		from := <-got
		if want := (udpSource{1, addrPortOf(conn.LocalAddr()), to.Addr()}); from != want {
			t.Errorf("%+v: from %+v, want %+v", tt, from, want)
		}
		s.send([]byte("answer"), from)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 16)
		if n, err := conn.Read(b); err != nil || string(b[:n]) != "answer" {
			t.Errorf("%+v: %q, %v", tt, b[:n], err)
		}
		conn.Close()
		stop()
		if err := <-ended; err != context.Canceled {
			t.Errorf("ended with %v", err)
		}
		s.close()
	}
}
