package main

// This file speaks PCP, NAT-PMP and UPnP-IGD with one router. Each of them can
// be probed, which changes nothing at the router, and can hold our port open.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

const (
	pcpPort  = 5351 // of NAT-PMP too
	ssdpPort = 1900
	// firstPortWait is for an answer of PCP and NAT-PMP, before the request is
	// sent again with twice the patience: RFC 6886, section 3.1.
	firstPortWait = 250 * time.Millisecond
	maxPortSends  = 3
	// searchWait is for all answers to a search; the multicast goes out after
	// firstPortWait, and MX allows a second for its answers. searchMore is for
	// others once there was one.
	searchWait = 1250 * time.Millisecond
	searchMore = 50 * time.Millisecond
	// upnpWait is for one answer over HTTP.
	upnpWait = 2 * time.Second
	// maxDescriptions bounds the places that answers to one search name.
	maxDescriptions = 4
	// upnpPortTries bounds the ports tried when ours is taken at the router.
	upnpPortTries = 4
	// upnpName is what the router's own page shows.
	upnpName = "sessio"
)

var (
	errPortSilent = errors.New("no answer")
	// errDoubleNAT is a router whose own address outside is not public.
	errDoubleNAT = errors.New("the router is itself behind another NAT")
)

// A portLease is what a router granted.
type portLease struct {
	external netip.AddrPort // a public address
	life     time.Duration  // 0 = for ever
	epoch    uint32
	hasEpoch bool
}

// A portAsker speaks one protocol with one router, for one port of ours.
type portAsker interface {
	// probe asks whether it is spoken, and for the router's own address.
	probe(ctx context.Context) (netip.Addr, error)
	// hold makes the mapping or renews it.
	hold(ctx context.Context, life time.Duration) (portLease, error)
	// release ends it.
	release(ctx context.Context) error
}

// A portRouter is whom we ask, and our own address on the way there.
type portRouter struct{ addr, self netip.Addr }

// findPortRouter looks where the default route leads.
func findPortRouter(gateway func() netip.Addr) (portRouter, error) {
	r := portRouter{addr: gateway()}
	if !r.addr.Is4() {
		return portRouter{}, errors.New("no router was found")
	}
	r.self = sourceTowards(r.addr)
	switch {
	case !r.self.Is4() || r.self == r.addr:
		return portRouter{}, fmt.Errorf("no way to the router %v", r.addr)
	case publicIPv4(r.self):
		return portRouter{}, fmt.Errorf("none is needed: this machine has the public address %v", r.self)
	}
	return r, nil
}

// sourceTowards is the address that we would send from. No packet is sent.
func sourceTowards(to netip.Addr) netip.Addr {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, pcpPort)))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// The protocols by name, the best first.
var portProtocols = [...]string{"pcp", "nat-pmp", "upnp"}

func (r portRouter) askers(port uint16) [len(portProtocols)]portAsker {
	p := &pcpAsker{router: r, want: pcpMapping{protocol: pcpUDP, port: port}}
	rand.Read(p.want.nonce[:])
	return [...]portAsker{p, &pmpAsker{router: r, port: port, want: port}, &upnpAsker{router: r, port: port, want: port}}
}

// ask sends a request to the router until one of its packets is taken.
func (r portRouter) ask(ctx context.Context, request []byte, take func(b []byte) (ours bool, err error)) error {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.addr, pcpPort)))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf, wait := make([]byte, maxPCP), firstPortWait
	for range maxPortSends {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		wait *= 2
		for {
			n, err := conn.Read(buf)
			if ctx.Err() != nil {
				return errPortSilent
			}
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				break
			} else if err != nil {
				return err
			}
			if ours, err := take(buf[:n]); ours {
				return err
			}
		}
	}
	return errPortSilent
}

type pcpAsker struct {
	router portRouter
	want   pcpMapping // external is what we had last
}

// ask leaves alone what is no answer to the request.
func (p *pcpAsker) ask(ctx context.Context, request []byte, opcode uint8) (r *pcpReply, err error) {
	err = p.router.ask(ctx, request, func(b []byte) (bool, error) {
		r, err = parsePCPReply(b)
		switch {
		case errors.Is(err, errOtherVersion):
			return true, err
		case err != nil || r.opcode != opcode:
			return false, nil
		case r.hasMapping && (r.mapping.nonce != p.want.nonce || r.mapping.protocol != pcpUDP || r.mapping.port != p.want.port):
			return false, nil
		}
		return true, nil
	})
	return r, err
}

// probe takes any answer: a refusal is PCP as well.
func (p *pcpAsker) probe(ctx context.Context) (netip.Addr, error) {
	_, err := p.ask(ctx, appendPCPAnnounce(nil, p.router.self), pcpAnnounce)
	return netip.Addr{}, err
}

func (p *pcpAsker) hold(ctx context.Context, life time.Duration) (portLease, error) {
	r, err := p.ask(ctx, appendPCPMap(nil, p.router.self, uint32(life/time.Second), &p.want), pcpMap)
	if err != nil {
		return portLease{}, err
	}
	if err := resultError(pcpResults, uint16(r.result)); err != nil {
		// miniupnpd 2.3 says which address it has when it refuses for that.
		if a := r.mapping.external.Addr(); a.Is4() && !a.IsUnspecified() && !publicIPv4(a) {
			err = doubleNAT(a)
		}
		return portLease{}, err
	}
	lease, err := newPortLease(r.mapping.external, r.lifetime, r.epoch)
	if err != nil {
		p.release(ctx)
		return portLease{}, err
	}
	p.want.external = lease.external
	return lease, nil
}

// newPortLease refuses what would be of no use.
func newPortLease(external netip.AddrPort, seconds, epoch uint32) (portLease, error) {
	switch {
	case external.Port() == 0 || seconds == 0:
		return portLease{}, errors.New("the router grants nothing")
	case !publicIPv4(external.Addr()):
		return portLease{}, doubleNAT(external.Addr())
	}
	return portLease{external, time.Duration(seconds) * time.Second, epoch, true}, nil
}

// doubleNAT says what is wrong with an address that is not public.
func doubleNAT(a netip.Addr) error {
	if !a.Is4() || a.IsUnspecified() {
		return errors.New("the router has no address outside")
	}
	return fmt.Errorf("%w: its own address is %v", errDoubleNAT, a)
}

// release wishes for no address: RFC 6887, section 15.1.
func (p *pcpAsker) release(ctx context.Context) error {
	bare := p.want
	bare.external = netip.AddrPort{}
	r, err := p.ask(ctx, appendPCPMap(nil, p.router.self, 0, &bare), pcpMap)
	if err != nil {
		return err
	}
	return resultError(pcpResults, uint16(r.result))
}

type pmpAsker struct {
	router     portRouter
	port, want uint16
}

func (p *pmpAsker) ask(ctx context.Context, request []byte, opcode uint8) (r *pmpReply, err error) {
	err = p.router.ask(ctx, request, func(b []byte) (bool, error) {
		r, err = parsePMPReply(b)
		switch {
		case errors.Is(err, errOtherVersion):
			return true, err
		case err != nil || r.opcode != opcode:
			return false, nil
		case r.result != 0:
			return true, resultError(pmpResults, r.result)
		}
		return opcode != pmpMapUDP || r.port == p.port, nil
	})
	return r, err
}

func (p *pmpAsker) probe(ctx context.Context) (netip.Addr, error) {
	r, err := p.ask(ctx, appendPMPAddress(nil), pmpAddress)
	if err != nil {
		return netip.Addr{}, err
	}
	return r.address, nil
}

func (p *pmpAsker) hold(ctx context.Context, life time.Duration) (portLease, error) {
	a, err := p.probe(ctx)
	if err != nil {
		return portLease{}, err
	}
	if !publicIPv4(a) {
		return portLease{}, doubleNAT(a)
	}
	r, err := p.ask(ctx, appendPMPMap(nil, p.port, p.want, uint32(life/time.Second)), pmpMapUDP)
	if err != nil {
		return portLease{}, err
	}
	lease, err := newPortLease(netip.AddrPortFrom(a, r.external), r.lifetime, r.epoch)
	if err == nil {
		p.want = r.external
	}
	return lease, err
}

func (p *pmpAsker) release(ctx context.Context) error {
	_, err := p.ask(ctx, appendPMPMap(nil, p.port, 0, 0), pmpMapUDP)
	return err
}

type upnpAsker struct {
	router     portRouter
	port, want uint16
	service    upnpService // the one that has an address outside
}

// probe searches for the router's description, and in it for a service that
// has an address outside.
func (u *upnpAsker) probe(ctx context.Context) (netip.Addr, error) {
	places, err := u.search(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	err = errors.New("the router maps no ports")
	for _, at := range places {
		status, doc, getErr := u.http(ctx, at, appendGet(nil, at))
		if getErr != nil || status != 200 {
			err = fmt.Errorf("no description: HTTP status %d, %v", status, getErr)
			continue
		}
		for _, s := range parseDescription(doc, at) {
			u.service = s
			a, addrErr := u.external(ctx)
			if addrErr == nil {
				return a, nil
			}
			err = addrErr
		}
	}
	return netip.Addr{}, err
}

// search asks the router alone at first; what others answer is not read.
func (u *upnpAsker) search(ctx context.Context) (places []upnpURL, err error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(u.router.self, 0)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	end := time.Now().Add(searchWait)
	for _, round := range []struct {
		to    netip.Addr
		until time.Time
	}{{u.router.addr, time.Now().Add(firstPortWait)}, {netip.AddrFrom4([4]byte{239, 255, 255, 250}), end}} {
		for _, target := range upnpSearches {
			conn.WriteToUDPAddrPort(appendSearch(nil, target), netip.AddrPortFrom(round.to, ssdpPort))
		}
		if places = u.searchAnswers(conn, round.until); len(places) > 0 {
			return places, nil
		}
	}
	return nil, errPortSilent
}

func (u *upnpAsker) searchAnswers(conn *net.UDPConn, until time.Time) (places []upnpURL) {
	conn.SetReadDeadline(until)
	buf := make([]byte, 2<<10)
	for len(places) < maxDescriptions {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() || errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil || from.Addr().Unmap() != u.router.addr {
			continue // refused by an ICMP message, or not the router
		}
		at, err := parseSearchAnswer(buf[:n], u.router.addr)
		if err != nil || slices.Contains(places, at) {
			continue
		}
		if places = append(places, at); len(places) == 1 {
			conn.SetReadDeadline(time.Now().Add(searchMore))
		}
	}
	return places
}

func (u *upnpAsker) http(ctx context.Context, at upnpURL, request []byte) (int, []byte, error) {
	ctx, stop := context.WithTimeout(ctx, upnpWait)
	defer stop()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", at.host.String())
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(request); err != nil {
		return 0, nil, err
	}
	return readHTTP(conn)
}

func (u *upnpAsker) call(ctx context.Context, wanted, action string, args ...string) (string, error) {
	status, body, err := u.http(ctx, u.service.control, appendSOAP(nil, u.service, action, args...))
	if err != nil {
		return "", err
	}
	return parseSOAP(status, body, wanted)
}

func (u *upnpAsker) external(ctx context.Context) (netip.Addr, error) {
	text, err := u.call(ctx, "NewExternalIPAddress", "GetExternalIPAddress")
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}, doubleNAT(netip.Addr{})
	}
	return a, nil
}

func (u *upnpAsker) hold(ctx context.Context, life time.Duration) (portLease, error) {
	a, err := u.external(ctx)
	if err != nil {
		return portLease{}, err
	}
	if !publicIPv4(a) {
		return portLease{}, doubleNAT(a)
	}
	lease := portLease{life: life}
	err = u.add(ctx, life)
	if f := (*upnpFault)(nil); errors.As(err, &f) && (f.code == upnpOnlyPermanent || f.code == upnpInvalidArgs) {
		lease.life = 0
		err = u.add(ctx, 0)
	}
	lease.external = netip.AddrPortFrom(a, u.want)
	return lease, err
}

// add maps a port at the router: ours, or another if that one is taken.
func (u *upnpAsker) add(ctx context.Context, life time.Duration) (err error) {
	for range upnpPortTries {
		_, err = u.call(ctx, "", "AddPortMapping", u.mapping(life)...)
		f := (*upnpFault)(nil)
		if !errors.As(err, &f) || f.code != upnpConflict && f.code != upnpConflictInStatic {
			return err
		}
		if u.service.kind == upnpWANIP2 {
			text, err := u.call(ctx, "NewReservedPort", "AddAnyPortMapping", u.mapping(life)...)
			if err != nil {
				return err
			}
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil || n == 0 {
				return errors.New("the router grants nothing")
			}
			u.want = uint16(n)
			return nil
		}
		u.want = uint16(1024 + mathrand.IntN(1<<16-1024))
	}
	return err
}

func (u *upnpAsker) mapping(life time.Duration) []string {
	return append(u.named(), "NewInternalPort", strconv.Itoa(int(u.port)), "NewInternalClient", u.router.self.String(), "NewEnabled", "1",
		"NewPortMappingDescription", upnpName, "NewLeaseDuration", strconv.Itoa(int(life/time.Second)))
}

func (u *upnpAsker) named() []string {
	return []string{"NewRemoteHost", "", "NewExternalPort", strconv.Itoa(int(u.want)), "NewProtocol", "UDP"}
}

func (u *upnpAsker) release(ctx context.Context) error {
	_, err := u.call(ctx, "", "DeletePortMapping", u.named()...)
	return err
}
