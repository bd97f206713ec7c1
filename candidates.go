package main

// This file lists the addresses of our own under which a peer may reach us.

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// insideNets are interfaces whose addresses mean nothing to another machine:
// bridges and virtual ends for containers.
var insideNets = []string{"docker", "veth", "br-", "virbr", "cni", "flannel", "cali", "kube", "podman", "lxc", "vEthernet"}

// localCandidates are the interface addresses with our port, at most
// maxCandidates: private IPv4 and IPv6 first, for only they cannot be observed
// from outside, then the rest.
func localCandidates(port uint16) []netip.AddrPort {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var found []netip.Addr
	for _, i := range ifaces {
		inside := slices.ContainsFunc(insideNets, func(p string) bool { return strings.HasPrefix(i.Name, p) })
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || inside {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					found = append(found, ip.Unmap())
				}
			}
		}
	}
	return rankCandidates(found, port)
}

func rankCandidates(found []netip.Addr, port uint16) (out []netip.AddrPort) {
	sortBy(found, func(a, b netip.Addr) int { return candidateRank(a) - candidateRank(b) })
	for _, a := range found {
		ap := netip.AddrPortFrom(a, port)
		if a.IsGlobalUnicast() && !slices.Contains(out, ap) && len(out) < maxCandidates {
			out = append(out, ap)
		}
	}
	return out
}

func candidateRank(a netip.Addr) int {
	switch {
	case a.Is4() && a.IsPrivate():
		return 0
	case a.Is6() && !a.IsPrivate():
		return 1
	case a.Is4():
		return 2
	}
	return 3 // unique local IPv6
}

// hostOf is what one person usually has of the address space.
func hostOf(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

func usableAddr(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && !a.Addr().IsUnspecified() && !a.Addr().IsMulticast()
}
