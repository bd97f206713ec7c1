package main

// This file waits for changes of the machine's network: addresses, routes and
// links, as the kernel reports them (netlink(7), rtnetlink(7)).

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// netQuiet is how long a burst of events is gathered: an interface that comes
// up brings a dozen.
const netQuiet = 20 * time.Millisecond

// watchNetwork calls changed after every change until ctx ends. Where the kernel
// tells nothing it looks by itself.
func watchNetwork(ctx context.Context, changed func(why string)) {
	events, err := openNetlink()
	if err != nil {
		pollNetwork(ctx, changed)
		return
	}
	defer events.Close()
	defer context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })()
	b := make([]byte, 16<<10)
	for {
		n, err := events.Read(b)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !os.IsTimeout(err) { // a burst too long for the buffer says enough
			if !pause(ctx, time.Second) {
				return
			}
		}
		if err == nil && !tellsChange(b[:n]) {
			continue
		}
		events.SetReadDeadline(time.Now().Add(netQuiet))
		for err = nil; err == nil; { // the rest of the burst
			_, err = events.Read(b)
		}
		events.SetReadDeadline(time.Time{})
		if ctx.Err() != nil {
			return
		}
		changed("addresses or routes have changed")
	}
}

func openNetlink() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// tellsChange reports whether messages tell of more than the neighbourhood and
// routes of the kernel's cache.
func tellsChange(b []byte) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(nativeUint32(b))
		switch kind := nativeUint16(b[4:]); kind {
		case unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.RTM_NEWLINK, unix.RTM_DELLINK:
			return true
		}
		next := (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		if length < unix.SizeofNlMsghdr || next > len(b) {
			return false
		}
		b = b[next:]
	}
	return false
}
