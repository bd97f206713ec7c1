//go:build !linux

package main

import (
	"net"
	"net/netip"
	"syscall"
	"time"
)

// transientErrors are those of one write: see isTransient.
var transientErrors = []error{
	syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL,
	syscall.EPERM, syscall.EACCES, syscall.ENOBUFS, syscall.EINVAL, syscall.EAGAIN, syscall.ECONNREFUSED, syscall.EMSGSIZE,
}

// A udpBatch is nothing where datagrams are read and written one by one.
type udpBatch struct{}

func (u *udpMux) initBatch() error { return nil }

// capBuffers bounds the socket's buffers, in bytes.
func (u *udpMux) capBuffers(n int) error {
	if err := u.UDPConn.SetReadBuffer(n); err != nil {
		return err
	}
	return u.UDPConn.SetWriteBuffer(n)
}

// udpPlain is the socket without the means by which QUIC would go around it.
type udpPlain struct {
	net.PacketConn
	u *udpMux
}

func (p *udpPlain) SetReadBuffer(int) error  { return nil } // see capBuffers
func (p *udpPlain) SetWriteBuffer(int) error { return nil }
func (p *udpPlain) LocalAddr() net.Addr      { return p.u.LocalAddr() }

func (p *udpPlain) SetReadDeadline(t time.Time) error { return p.u.SetReadDeadline(t) }

// ReadFrom returns the next packet that QUIC shall see.
func (p *udpPlain) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		if q, ok := p.u.dequeue(); ok {
			return copy(b, q.b), q.as, nil
		}
		n, addr, err := p.u.UDPConn.ReadFromUDPAddrPort(b)
		if err != nil {
			if !p.u.wokenBy(err) && isClosed(err) {
				return 0, nil, err
			}
			continue // Windows reports what became of earlier writes here
		}
		from := udpSource{addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())}
		if up := p.u.sort(b[:n], from); up != nil {
			return n, up, nil
		}
	}
}

func (p *udpPlain) WriteTo(b []byte, addr net.Addr) (int, error) {
	if err := p.u.writeTo(b, udpMeta{}, addr.(*net.UDPAddr), netip.Addr{}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// writeReal sends b to a real address. It returns only errors that QUIC must
// see; sent is false too when b was lost to another one.
func (u *udpMux) writeReal(b []byte, m udpMeta, to udpSource) (sent bool, err error) {
	conn := u.connOf(to.sock)
	if conn == nil || m.low {
		return false, nil // its time was over, or it cannot be done
	}
	_, err = conn.WriteToUDPAddrPort(b, to.addr)
	if err != nil && isTransient(err) {
		u.writeErrors.Add(1)
		return false, nil
	}
	return err == nil, err
}

func initExtra(*net.UDPConn) {}

// allowFragments has nothing to do: DF is never set here.
func (u *udpMux) allowFragments(int) {}

// drain reads a socket that QUIC does not use: it returns when that is closed.
func (u *udpMux) drain() error {
	_, _, err := u.packetConn().ReadFrom(make([]byte, maxSegment))
	return err
}

// packetConn is what QUIC is given.
func (u *udpMux) packetConn() net.PacketConn { return &udpPlain{u.UDPConn, u} }
