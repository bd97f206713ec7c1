package main

// This file finds the device that a person means, and says in a person's words
// why it cannot be had: nobody of that name, or nobody whom the coordinator
// introduces.

import (
	"fmt"
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
		return dev, goneError(st, dev)
	}
	for _, dev := range st.revokedDevices() {
		if dev.name == name {
			return dev, goneError(st, dev)
		}
	}
	err := coded("unknown-device", "no such device")
	if near := nearNames(st, name); len(near) > 0 {
		return signedDevice{}, withHint(err, "did you mean %s?", strings.Join(near, " or "))
	}
	return signedDevice{}, withHint(err, "sessio status lists the devices of this account")
}

// goneError is revokedError for a person, to whom a fork leaves a choice.
func goneError(st *trustState, dev signedDevice) error {
	switch {
	case !st.suspended(dev.id):
		return revokedError(dev)
	case dev.reason == reasonUndone:
		return withHint(coded("revoked", "suspended: another branch of the log has thrown out who signed for it"),
			"sessio trust update %s confirms it, with the key of another signer; sessio trust revoke %[1]s ends it for good", dev.id)
	}
	return withHint(coded("revoked", "revoked (%s) on another branch of the log", dev.reason), "sessio trust revoke %s revokes it in this one, too", dev.id)
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
		return withHint(coded("role", "is a pure client, nobody can enter it"), "its owner can change that with: sessio trust update -roles server,client %s", dev.name)
	case dev.expired(now):
		return withHint(coded("expired", "its signature was good until %s", stmtDate(dev.expires)), "its owner can sign it for longer with: sessio trust update -device-expires 8760h %s", dev.name)
	}
	return nil
}

// selfError says why this machine should not come to others now: it needs role,
// or any where that is "".
func selfError(st *trustState, id deviceID, role string, now time.Time) error {
	var dev signedDevice
	known := false
	if st != nil {
		dev, known = st.device(id)
	}
	switch {
	case !known:
		return withHint(coded("unsigned", "this machine is not signed yet"), "on a machine that can sign, run: sessio trust sign %s", id)
	case dev.revoked && st.suspended(id):
		return fmt.Errorf("this machine is %w", goneError(st, dev))
	case dev.revoked:
		return withHint(coded("revoked", "this machine is revoked (%s)", dev.reason), "enrol it with a new identity: another -dir, and a ticket")
	case dev.expired(now):
		return withHint(coded("expired", "this machine's signature was good until %s", stmtDate(dev.expires)),
			"on a machine that can sign, run: sessio trust update -device-expires 8760h %s", dev.name)
	case role != "" && !dev.hasRole(role):
		return withHint(coded("role", "this machine is not signed as a %s", role), "on a machine that can sign, run: sessio trust update -roles server,client %s", dev.name)
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

// refusalOf says a refusal to a person.
func refusalOf(m *refuseMsg, name string) error {
	switch m.reason {
	case refuseUnknown:
		return coded("unknown-device", "the coordinator knows no such device")
	case refuseOffline:
		if m.seconds == never {
			return withHint(coded("offline", "offline, not seen since the coordinator started"), "start it there with: sessio -device")
		}
		return withHint(coded("offline", "offline, last seen %s ago", sayDuration(time.Duration(m.seconds)*time.Second)),
			"start it there with: sessio -device")
	case refuseSilent:
		return withHint(coded("silent", "online, but it does not answer; last heard %s ago", sayDuration(time.Duration(m.seconds)*time.Second)),
			"its network may have changed just now: try again in half a minute")
	case refuseRevoked:
		return withHint(coded("revoked", "revoked"), "it can be enrolled again with a new ticket and a new identity")
	case refuseUnsigned:
		return withHint(coded("unsigned", "not signed yet"), "on a machine that can sign, run: sessio trust sign %s", name)
	case refuseLimit:
		return withHint(coded("limit", "too many calls"), "wait a minute and try again")
	case refuseBusy:
		return withHint(coded("busy", "the coordinator is too busy"), "try again in a minute")
	case refuseUpdate:
		return withHint(coded("update", "the coordinator (%s) speaks protocol %d to %d, this program %d to %d", m.proto.build, m.proto.min, m.proto.max, protoMin, protoMax),
			"update sessio on the older side")
	}
	return fmt.Errorf("refused by the coordinator, reason %d", m.reason)
}

// sayDuration is a length of time in one unit, as a person says it.
func sayDuration(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
