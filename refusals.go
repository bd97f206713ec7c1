package main

// This file says in a person's words why a coordinator introduces nobody.

import (
	"fmt"
	"time"
)

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
