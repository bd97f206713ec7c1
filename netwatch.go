package main

// This file tells whether the machine's network is another than before.

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"
)

// pollEvery is how often to look where the kernel reports nothing.
const pollEvery = 250 * time.Millisecond

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func nativeUint16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }

// pollNetwork calls changed whenever the addresses of the machine are others,
// until ctx ends.
func pollNetwork(ctx context.Context, changed func(why string)) {
	before := machineAddrs()
	for pause(ctx, pollEvery) {
		if now := machineAddrs(); !slices.Equal(now, before) {
			before = now
			changed("addresses have changed")
		}
	}
}

// machineAddrs are the addresses of all interfaces.
func machineAddrs() (out []netip.Prefix) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// acceptPause is for an Accept that fails: too many open files, as a rule.
const acceptPause = 100 * time.Millisecond

// pause waits; it returns false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
