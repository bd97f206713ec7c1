package main

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Any first port has its neighbour for the second.
func TestCoordSocketsAreNeighbours(t *testing.T) {
	for range 50 {
		s, err := listenCoordSockets("127.0.0.1:0", "", func([]byte, udpSource) {})
		if err != nil {
			t.Fatal(err)
		}
		if s.second.port() != s.first.port()+1 || s.told() != netip.AddrPortFrom(netip.IPv6Unspecified(), s.second.port()) {
			t.Errorf("ports %d and %d, told as %v", s.first.port(), s.second.port(), s.told())
		}
		defer s.close() // the next pair is another one
	}
}

// Where the second port cannot be had the first is given back, and a person is
// told what to do.
func TestCoordSocketsTaken(t *testing.T) {
	s, err := listenCoordSockets("127.0.0.1:0", "", func([]byte, udpSource) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	first, second := s.first.UDPConn.LocalAddr().String(), s.second.UDPConn.LocalAddr().String()
	s.first.UDPConn.Close()
	if _, err = listenCoordSockets(first, "", nil); err == nil || !strings.Contains(err.Error(), second) || !strings.Contains(hintOf(err), "-udp2") {
		t.Errorf("%v, hint %q", err, hintOf(err))
	}
	if _, err = listenCoordSockets("127.0.0.1:65535", "", nil); err == nil || hintOf(err) == "" {
		t.Errorf("after port 65535: %v", err)
	}
	again, err := listenCoordSockets(first, "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.second.port() == s.second.port() || again.second.port() == 0 {
		t.Errorf("the second port is %d", again.second.port())
	}
	again.close()
}

// A device asks both ports for echoes; what answers is the port that it named.
func TestCoordEchoOnBothPorts(t *testing.T) {
	nt := newCoordNetTest(t)
	device := presTestIdentity(t)
	owner := newCoordTestAcct(t, device.keys)
	nt.create(owner)
	send, recv, err := sealKeys(device.path, sealDevice, nt.me.keys.path, sealCoord)
	if err != nil {
		t.Fatal(err)
	}
	box := sealBox{sendKey: send, recvKey: recv, hint: sealHintOf(owner.id(), device.keys.sign), mine: newInstanceID()}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	first := netip.MustParseAddrPort(nt.addr)
	for i, tt := range []struct {
		to, from netip.AddrPort
		other    bool
	}{{first, first, false}, {nt.echo, nt.echo, false}, {first, nt.echo, true}, {nt.echo, first, true}} {
		b, _ := box.pack(msgEcho, &echoMsg{uint64(i), tt.other}, 0)
		if _, err := conn.WriteToUDPAddrPort(b, tt.to); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		in := make([]byte, maxDatagram)
		n, from, err := conn.ReadFromUDPAddrPort(in)
		if err != nil {
			t.Fatal(err)
		}
		body, err := recv.open(in[:n])
		if err != nil {
			t.Fatal(err)
		}
		h, rest, _ := parseHead(body)
		ack, err := parseEchoAck(rest)
		if err != nil || h.kind != msgEchoAck || from != tt.from || *ack != (echoAckMsg{uint64(i), addrPortOf(conn.LocalAddr())}) || n > len(b) {
			t.Errorf("%d: kind %d, %+v from %v, %v", i, h.kind, ack, from, err)
		}
	}
}
