package main

// This file finds the device that a person means, and guesses when there is
// none of that name.

import (
	"strings"
	"time"
)

// findDevice looks up a name, name.sessio or device id. Revoked devices are
// found by id or by the last name they had, and are returned as such.
func findDevice(st *trustState, called string) (signedDevice, error) {
	name := strings.TrimSuffix(called, ".sessio")
	if st == nil {
		return signedDevice{}, coded("unknown-device", "no such device: this machine has no log yet")
	}
	if dev, ok := st.deviceByName(name); ok {
		return dev, nil
	}
	if dev, ok := st.device(deviceID(name)); ok {
		return dev, revokedError(dev)
	}
	for _, dev := range st.revokedDevices() {
		if dev.name == name {
			return dev, revokedError(dev)
		}
	}
	err := coded("unknown-device", "no such device")
	if near := nearNames(st, name); len(near) > 0 {
		return signedDevice{}, withHint(err, "did you mean %s?", strings.Join(near, " or "))
	}
	return signedDevice{}, withHint(err, "sessio status lists the devices of this account")
}

func revokedError(dev signedDevice) error {
	if !dev.revoked {
		return nil
	}
	return withHint(coded("revoked", "revoked (%s)", dev.reason), "it can be enrolled again with a new ticket and a new identity")
}

// entryError says why nobody should enter the device now. The device itself may
// say so, too; but not one that somebody has stolen.
func entryError(dev signedDevice, now time.Time) error {
	if err := revokedError(dev); err != nil {
		return err
	}
	switch {
	case !dev.hasRole("server"):
		return withHint(coded("role", "is a pure client, nobody can enter it"), "its owner can change that with: sessio trust update")
	case dev.expired(now):
		return withHint(coded("expired", "its signature was good until %s", stmtDate(dev.expires)), "its owner can sign it for longer with: sessio trust update")
	}
	return nil
}

// nearNames are the devices whose names are near.
func nearNames(st *trustState, name string) []string {
	var names []string
	for _, dev := range st.devices() {
		names = append(names, dev.name)
	}
	return nearest(name, names)
}

// nearest are those names that differ from name by a slip of the fingers, at
// most three.
func nearest(name string, names []string) (near []string) {
	type guess struct {
		name string
		d    int
	}
	var guesses []guess
	for _, n := range names {
		d := editDistance(name, n)
		if strings.HasPrefix(n, name) || strings.HasPrefix(name, n) {
			d = min(d, 2)
		}
		if d <= 2 {
			guesses = append(guesses, guess{n, d})
		}
	}
	sortBy(guesses, func(a, b guess) int { return a.d - b.d })
	for _, g := range guesses[:min(len(guesses), 3)] {
		near = append(near, g.name)
	}
	return near
}

// editDistance counts the insertions, deletions and replacements between a and
// b, and a swap of neighbours as one.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last = last, row
		row = make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := int(boolByte(a[i-1] != b[j-1]))
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
