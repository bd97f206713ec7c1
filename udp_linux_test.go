package main

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUDPControlMessagesFollowTheRealFamily(t *testing.T) {
	for _, c := range []struct {
		to          udpSource
		level, kind int32
	}{
		{udpSource{addr: netip.MustParseAddrPort("192.0.2.1:1"), local: netip.MustParseAddr("192.0.2.9")}, unix.IPPROTO_IP, unix.IP_TOS},
		{udpSource{addr: netip.MustParseAddrPort("[2001:db8::1]:1"), local: netip.MustParseAddr("2001:db8::9")}, unix.IPPROTO_IPV6, unix.IPV6_TCLASS},
	} {
		oob := controlFor(nil, udpMeta{segment: 1200, ecn: 2, setECN: true}, c.to)
		m, local := metaOf(oob)
		if m != (udpMeta{1200, 2, true, false}) || local != c.to.local {
			t.Errorf("%v: %+v from %v", c.to.addr, m, local)
		}
		msgs, err := unix.ParseSocketControlMessage(oob)
		if err != nil || len(msgs) != 3 || msgs[2].Header.Level != c.level || msgs[2].Header.Type != c.kind {
			t.Errorf("%v: %+v, %v", c.to.addr, msgs, err)
		}
		n := stripPacketInfo(oob)
		if m, local := metaOf(oob[:n]); local.IsValid() || m != (udpMeta{1200, 2, true, false}) {
			t.Errorf("%v: stripped to %+v from %v", c.to.addr, m, local)
		}
	}
	// A source of the other family cannot be asked for.
	oob := controlFor(nil, udpMeta{}, udpSource{addr: netip.MustParseAddrPort("192.0.2.1:1"), local: netip.MustParseAddr("2001:db8::9")})
	if len(oob) != 0 {
		t.Error("an IPv6 source was asked for an IPv4 destination")
	}
}

func TestUDPBuffersAreCapped(t *testing.T) {
	_, b, _, _ := udpTestPair(t)
	if err := b.mux.capBuffers(256 << 10); err != nil {
		t.Fatal(err)
	}
	rc, err := b.mux.UDPConn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) {
		for _, opt := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, opt); err != nil || n > 512<<10 {
				t.Errorf("socket buffer of %d bytes, %v", n, err)
			}
		}
	})
}
