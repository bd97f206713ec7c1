package main

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// transientErrors are those of one write: see isTransient. EIO is not among
// them, it is how QUIC learns that the device cannot segment.
var transientErrors = []error{
	unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EHOSTDOWN, unix.EADDRNOTAVAIL, unix.EPERM,
	unix.EACCES, unix.ENOBUFS, unix.ENOMEM, unix.EINVAL, unix.EAGAIN, unix.ECONNREFUSED, unix.ENODEV, unix.EAFNOSUPPORT,
}

// A udpBatch reads many datagrams in one system call.
type udpBatch struct {
	batch      *ipv4.PacketConn
	fragmentAt atomic.Int64 // monoNow of when DF was cleared, 0 = it is set
}

// dfRetry is how long a socket may send fragments before DF is tried again.
const dfRetry = 10 * time.Minute

// initBatch asks the kernel for the address that each datagram was sent to:
// answers leave from there.
func (u *udpMux) initBatch() error {
	// QUIC's warning about buffer sizes is not for our users: capBuffers
	// chooses them.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	u.batch = ipv4.NewPacketConn(u.UDPConn)
	rc, err := u.UDPConn.SyscallConn()
	if err != nil {
		return err
	}
	var err4, err6 error
	err = rc.Control(func(fd uintptr) {
		err4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		err6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	if err == nil && err4 != nil && err6 != nil {
		err = err4
	}
	return err
}

// capBuffers bounds the socket's buffers, in bytes. As root QUIC forces up to
// 7 MiB each way, too much for a router; this is called after it has done so.
func (u *udpMux) capBuffers(n int) error {
	rc, err := u.UDPConn.SyscallConn()
	if err != nil {
		return err
	}
	set := func(fd uintptr, force, plain int) error {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, force, n) == nil {
			return nil
		}
		return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, plain, n)
	}
	var errR, errW error
	err = rc.Control(func(fd uintptr) {
		errR = set(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
		errW = set(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
	})
	return errors.Join(err, errR, errW)
}

// ReadBatch fills ms with packets that QUIC shall see and returns only when
// there is one: QUIC takes an empty batch for its last one again. What is kept
// moves into the lower slots by copy, for the buffers of a slot stay in it.
func (u *udpMux) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for {
		if n := u.queuedBatch(ms); n > 0 {
			return n, nil
		}
		n, err := u.batch.ReadBatch(ms, flags)
		if err != nil {
			if u.wokenBy(err) {
				continue
			}
			if isClosed(err) {
				return 0, err
			}
			time.Sleep(time.Millisecond) // a transient error must not spin
			continue
		}
		kept := 0
		for i := range ms[:n] {
			m := &ms[i]
			addr, ok := m.Addr.(*net.UDPAddr)
			if !ok {
				continue
			}
			from := sourceOf(addr, m.OOB[:m.NN])
			up := u.sort(m.Buffers[0][:m.N], from)
			if up == nil {
				continue
			}
			u.keepMessage(&ms[kept], m)
			ms[kept].Addr = up
			kept++
		}
		if kept > 0 {
			return kept, nil
		}
	}
}

// queuedBatch fills ms with what came in on other sockets.
func (u *udpMux) queuedBatch(ms []ipv4.Message) (n int) {
	for n < len(ms) {
		q, ok := u.dequeue()
		if !ok {
			break
		}
		m := &ms[n]
		m.N, m.NN, m.Flags, m.Addr = copy(m.Buffers[0], q.b), 0, 0, q.as
		n++
	}
	return n
}

// initExtra has a further socket say when a datagram is too big for the path,
// as QUIC has made the main one.
func initExtra(c *net.UDPConn) {
	setMTUDiscover(c, unix.IP_PMTUDISC_PROBE, unix.IPV6_PMTUDISC_PROBE, 0)
}

// drain reads a socket that QUIC does not use: it returns when that is closed.
func (u *udpMux) drain() error {
	ms := make([]ipv4.Message, 16)
	for i := range ms {
		ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, maxSegment)}, make([]byte, 128)
	}
	for {
		if _, err := u.ReadBatch(ms, 0); err != nil {
			return err
		}
	}
}

func (u *udpMux) keepMessage(to, from *ipv4.Message) {
	if to != from {
		to.N = copy(to.Buffers[0], from.Buffers[0][:from.N])
		to.NN = copy(to.OOB, from.OOB[:from.NN])
		to.Flags = from.Flags
	}
	if !u.real {
		to.NN = stripPacketInfo(to.OOB[:to.NN])
	}
}

// sourceOf reads the address that a datagram was sent to from its control
// messages.
func sourceOf(addr *net.UDPAddr, oob []byte) udpSource {
	ap := addr.AddrPort()
	s := udpSource{addr: netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return s
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= 12:
			s.local = netip.AddrFrom4([4]byte(data[4:8])) // spec_dst: ours even for broadcast
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 20:
			s.local = netip.AddrFrom16([16]byte(data[:16])).Unmap()
		}
		oob = rest
	}
	return s
}

// stripPacketInfo removes what would make QUIC pin an address, in place.
func stripPacketInfo(oob []byte) (n int) {
	for len(oob[n:]) > 0 {
		h, _, rest, err := unix.ParseOneSocketControlMessage(oob[n:])
		if err != nil {
			return n
		}
		if h.Type == unix.IP_PKTINFO && h.Level == unix.IPPROTO_IP ||
			h.Type == unix.IPV6_PKTINFO && h.Level == unix.IPPROTO_IPV6 {
			oob = oob[:n+copy(oob[n:], rest)]
			continue
		}
		n = len(oob) - len(rest)
	}
	return n
}

// WriteMsgUDP is how QUIC writes. The control messages that it has made for
// the virtual address are made again for the real one.
func (u *udpMux) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	m, local := metaOf(oob)
	if err := u.writeTo(b, m, addr, local); err != nil {
		return 0, 0, err
	}
	return len(b), len(oob), nil
}

// metaOf reads the control messages of a write.
func metaOf(oob []byte) (m udpMeta, local netip.Addr) {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return m, local
		}
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT && len(data) >= 2:
			m.segment = int(binary.NativeEndian.Uint16(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			m.ecn, m.setECN = data[0]&3, true
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			m.ecn, m.setECN = byte(binary.NativeEndian.Uint32(data))&3, true
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= 8:
			local = netip.AddrFrom4([4]byte(data[4:8]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 16:
			local = netip.AddrFrom16([16]byte(data[:16])).Unmap()
		}
		oob = rest
	}
	return m, local
}

// writeReal sends b to a real address: in one go, or its segments singly where
// that is refused. It returns only errors that QUIC must see; sent is false too
// when b was lost to another one.
func (u *udpMux) writeReal(b []byte, m udpMeta, to udpSource) (sent bool, err error) {
	err = u.writeOnce(b, m, to)
	if err == nil {
		return true, nil
	}
	if m.segment > 0 && len(b) > m.segment && !isClosed(err) && !errors.Is(err, unix.EIO) {
		return u.writeSegments(b, m, to)
	}
	return u.judgeWrite(err)
}

func (u *udpMux) writeSegments(b []byte, m udpMeta, to udpSource) (sent bool, err error) {
	one := m
	one.segment = 0
	sent = true
	for len(b) > 0 {
		n := min(m.segment, len(b))
		ok, err := u.judgeWrite(u.writeOnce(b[:n], one, to))
		if err != nil {
			return false, err
		}
		sent = sent && ok
		b = b[n:]
	}
	return sent, nil
}

func (u *udpMux) judgeWrite(err error) (sent bool, fatal error) {
	if err == nil || !isTransient(err) {
		return err == nil, err
	}
	u.writeErrors.Add(1)
	return false, nil
}

// writeOnce is one system call, or two: a source address that is ours no more
// is dropped, and the kernel chooses.
func (u *udpMux) writeOnce(b []byte, m udpMeta, to udpSource) error {
	u.restoreDF()
	conn := u.connOf(to.sock)
	if conn == nil {
		return unix.ENODEV // its time was over
	}
	var buf [128]byte
	_, _, err := conn.WriteMsgUDPAddrPort(b, controlFor(buf[:0], m, to), to.addr)
	if err != nil && to.local.IsValid() && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENETUNREACH)) {
		to.local = netip.Addr{}
		_, _, err = conn.WriteMsgUDPAddrPort(b, controlFor(buf[:0], m, to), to.addr)
	}
	return err
}

// controlFor builds the control messages for a write to a real address: its
// family decides how ECN and source are said.
func controlFor(b []byte, m udpMeta, to udpSource) []byte {
	v4 := to.addr.Addr().Is4()
	if to.local.IsValid() && to.local.Is4() == v4 {
		if v4 {
			var info [12]byte // ifindex, spec_dst, addr
			ip := to.local.As4()
			copy(info[4:], ip[:])
			b = appendControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
		} else {
			var info [20]byte // addr, ifindex
			ip := to.local.As16()
			copy(info[:], ip[:])
			b = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
		}
	}
	if ttl := binary.NativeEndian.AppendUint32(nil, lowTTL); m.low && v4 {
		b = appendControl(b, unix.IPPROTO_IP, unix.IP_TTL, ttl)
	} else if m.low {
		b = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, ttl)
	}
	if m.segment > 0 {
		b = appendControl(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, uint16(m.segment)))
	}
	if m.setECN && v4 {
		b = appendControl(b, unix.IPPROTO_IP, unix.IP_TOS, []byte{m.ecn})
	} else if m.setECN {
		b = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, binary.NativeEndian.AppendUint32(nil, uint32(m.ecn)))
	}
	return b
}

// appendControl writes a cmsghdr: its length in a word of the machine, level
// and type 4 bytes each, then the data.
func appendControl(b []byte, level, kind int, data []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(len(data)))...)
	const word = unix.SizeofCmsghdr - 8
	if word == 8 {
		binary.NativeEndian.PutUint64(b[at:], uint64(unix.CmsgLen(len(data))))
	} else {
		binary.NativeEndian.PutUint32(b[at:], uint32(unix.CmsgLen(len(data))))
	}
	binary.NativeEndian.PutUint32(b[at+word:], uint32(level))
	binary.NativeEndian.PutUint32(b[at+word+4:], uint32(kind))
	copy(b[at+unix.CmsgLen(0):], data)
	return b
}

// allowFragments clears DF for a while.
func (u *udpMux) allowFragments(sock int) {
	u.fragmentAt.Store(monoNow())
	if c := u.connOf(sock); c != nil {
		setMTUDiscover(c, unix.IP_PMTUDISC_DONT, unix.IPV6_PMTUDISC_DONT, minMTU6)
	}
}

func (u *udpMux) restoreDF() {
	at := u.fragmentAt.Load()
	if at == 0 || monoSince(at) < dfRetry || !u.fragmentAt.CompareAndSwap(at, 0) {
		return
	}
	initExtra(u.UDPConn)
	u.mu.RLock()
	defer u.mu.RUnlock()
	for _, c := range u.socks {
		initExtra(c)
	}
}

// minMTU6 is what every IPv6 path carries, in bytes (RFC 8200, section 5). No
// router on it cuts packets: the kernel must.
const minMTU6 = 1280

func setMTUDiscover(c *net.UDPConn, v4, v6, cut6 int) {
	rc, err := c.SyscallConn()
	if err != nil {
		return
	}
	rc.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, v4)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, v6)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU, cut6)
	})
}

var _ syscall.Conn = (*udpMux)(nil)

// packetConn is what QUIC is given.
func (u *udpMux) packetConn() net.PacketConn { return u }
