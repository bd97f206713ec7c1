package main

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// defaultGateway is the router of the best default route, or none.
func defaultGateway() netip.Addr {
	text, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return netip.Addr{}
	}
	return parseRoutes(string(text))
}

// parseRoutes reads the kernel's table: name, destination, gateway, flags, two
// counters, metric, mask. Addresses are numbers in the machine's byte order.
func parseRoutes(text string) (best netip.Addr) {
	const up, viaGateway = 1, 2 // RTF_UP, RTF_GATEWAY of linux/route.h
	lowest := uint64(1) << 32
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		gateway, err1 := strconv.ParseUint(f[2], 16, 32)
		flags, err2 := strconv.ParseUint(f[3], 16, 32)
		metric, err3 := strconv.ParseUint(f[6], 10, 32)
		if err1 != nil || err2 != nil || err3 != nil || flags&(up|viaGateway) != up|viaGateway || metric >= lowest {
			continue
		}
		var ip [4]byte
		binary.NativeEndian.PutUint32(ip[:], uint32(gateway))
		best, lowest = netip.AddrFrom4(ip), metric
	}
	return best
}
