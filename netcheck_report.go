package main

// This file draws the conclusions of a netcheck: what -json shows as it is, and
// client_netcheck.go puts into words.

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// A netReport is what netcheck has found.
type netReport struct {
	UDP         bool          `json:"udp"` // in the size that QUIC needs
	Error       string        `json:"error,omitempty"`
	Coordinator string        `json:"coordinator"`
	RTT         float64       `json:"rtt_ms,omitempty"`
	IPv4        netVersion    `json:"ipv4"`
	IPv6        netVersion    `json:"ipv6"`
	NAT         netNAT        `json:"nat"` // of IPv4
	PortMapping netPortReport `json:"port_mapping"`
	Pairs       []netPair     `json:"pairs,omitempty"`

	err error // why not UDP, with a hint
}

// A netVersion is what one version of IP brings.
type netVersion struct {
	State     string   `json:"state"` // works, silent, no-route, none, or untried: the coordinator has none
	Addresses []string `json:"addresses,omitempty"`
	Local     string   `json:"local,omitempty"` // that packets to the coordinator leave from
	Observed  string   `json:"observed,omitempty"`
	RTT       float64  `json:"rtt_ms,omitempty"`
	// Filter is whom a port lets in that has sent to one address: open, port,
	// or, as the coordinator's other port has the same IP or another one,
	// open-or-address or address-or-port; "" is not known.
	Filter string `json:"filter,omitempty"`
}

// A netNAT is the NAT before us.
type netNAT struct {
	Kind     string `json:"kind"`          // none, same, step, block, random or unknown
	Why      string `json:"why,omitempty"` // it is unknown
	Step     int    `json:"step,omitempty"`
	Low      uint16 `json:"low,omitempty"` // of the ports seen
	High     uint16 `json:"high,omitempty"`
	PortKept bool   `json:"port_kept"` // the port seen is the one here
	Double   bool   `json:"double"`    // another NAT stands before the router
	Hairpin  *bool  `json:"hairpin,omitempty"`
}

// A netPortReport is a portReport for -json.
type netPortReport struct {
	Router    string            `json:"router,omitempty"`
	External  string            `json:"external,omitempty"`
	Error     string            `json:"error,omitempty"`
	Protocols []netPortProtocol `json:"protocols,omitempty"`
}

type netPortProtocol struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Error     string `json:"error,omitempty"`
}

// A netPair says how soon a direct path to a machine of a kind is found.
type netPair struct {
	To    string `json:"to"`    // ordinary, symmetric, random or ipv6
	Works string `json:"works"` // at-once, second, seconds, mostly, no or unknown
}

// natNames are the kinds of a natKind in netNAT.
var natNames = [...]string{natUnknown: "unknown", natSame: "same", natStep: "step", natBlock: "block", natRandom: "random"}

// fill concludes from what a netcheck that is over has heard; err is why it
// could not ask.
func (r *netReport) fill(families []*netFamily, port uint16, router portReport, err error) {
	for _, v := range []*netVersion{&r.IPv4, &r.IPv6} {
		if v.State = "untried"; len(v.Addresses) == 0 {
			v.State = "none"
		}
	}
	r.NAT = netNAT{Kind: "unknown", Why: "the coordinator does not answer over IPv4"}
	if r.IPv4.State == "none" {
		r.NAT.Why = "there is no IPv4 here"
	}
	r.PortMapping.fill(router)
	for _, f := range families {
		v := r.version(f.talk.addrs[0].Addr())
		v.fill(f)
		if v.RTT != 0 && (r.RTT == 0 || v.RTT < r.RTT) {
			r.RTT = v.RTT
		}
		r.UDP = r.UDP || f.observed.IsValid() && f.full
		if v == &r.IPv4 && f.observed.IsValid() {
			r.NAT = f.natReport(port)
			r.NAT.Double = r.NAT.Kind != "none" && outside(f.observed.Addr()) &&
				(router.doubleNAT || router.external.IsValid() && router.external != f.observed.Addr())
		}
	}
	if r.UDP {
		r.Pairs = r.pairs()
		return
	}
	r.err = r.whyNot(families, err)
	r.Error = r.err.Error()
}

func (r *netReport) version(a netip.Addr) *netVersion {
	if a.Is4() {
		return &r.IPv4
	}
	return &r.IPv6
}

func (v *netVersion) fill(f *netFamily) {
	switch {
	case !f.local.IsValid():
		v.State = "no-route"
		return
	case !f.observed.IsValid():
		v.State, v.Local = "silent", f.local.String()
		return
	}
	v.State, v.Local, v.Observed = "works", f.local.String(), f.observed.String()
	v.RTT = float64(f.rtt.Microseconds()) / 1000
	if !f.nat.seen[1].IsValid() || !outside(f.observed.Addr()) {
		return
	}
	otherIP := f.talk.secondOf(f.talk.at.addr).Addr() != f.talk.at.addr.Addr()
	switch {
	case f.through && otherIP:
		v.Filter = "open"
	case f.through:
		v.Filter = "open-or-address"
	case otherIP:
		v.Filter = "address-or-port"
	default:
		v.Filter = "port"
	}
}

// outside reports whether who sees us there stands outside our network.
func outside(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !natNets[0].Contains(a)
}

func (f *netFamily) natReport(port uint16) netNAT {
	k := f.nat.kind
	n := netNAT{Kind: natNames[k.kind], PortKept: f.observed.Port() == port}
	switch {
	case !outside(f.observed.Addr()):
		n.Kind, n.Why = "unknown", "the coordinator stands in this network and sees us before any NAT"
		return n
	case f.observed.Addr() == f.local:
		n.Kind = "none"
		return n
	case k.kind == natUnknown:
		n.Why = fmt.Sprintf("the coordinator's second port, %v, does not answer", f.talk.secondOf(f.talk.at.addr))
	case k.kind != natSame:
		n.Step, n.Low, n.High = int(k.step), k.low, k.high
	}
	n.Hairpin = &f.wordBack
	return n
}

func (p *netPortReport) fill(router portReport) {
	p.Error = router.err
	if router.router.IsValid() {
		p.Router = router.router.String()
	}
	if router.external.IsValid() {
		p.External = router.external.String()
	}
	for _, a := range router.protocols {
		if a.by != "" {
			p.Protocols = append(p.Protocols, netPortProtocol{a.by, a.available, a.err})
		}
	}
}

// refusal is what the router says who answers, but maps nothing by a protocol.
func (a netPortProtocol) refusal() string {
	if a.Available || a.Error == errPortSilent.Error() {
		return ""
	}
	return a.Error
}

// useful reports whether the router is likely to keep a port open: by PCP it
// does not say beforehand that it has no address outside, by the others it does.
func (p *netPortReport) useful() bool {
	is := func(a netPortProtocol) bool { return a.Available }
	refused := func(a netPortProtocol) bool { return a.refusal() != "" }
	return slices.ContainsFunc(p.Protocols, is) && (p.External != "" || !slices.ContainsFunc(p.Protocols, refused))
}

// pairs follows planFor in punch_hard.go, and what its tests in the lab have
// shown.
func (r *netReport) pairs() []netPair {
	works := [3]string{"unknown", "unknown", "unknown"}
	open := r.IPv4.Filter == "open" || r.IPv4.Filter == "open-or-address"
	switch {
	case r.IPv4.State == "no-route", r.IPv4.State == "none":
		works = [3]string{"no", "no", "no"}
	case (r.NAT.Kind == "none" || r.NAT.Kind == "same") && open:
		works = [3]string{"at-once", "at-once", "at-once"}
	case r.NAT.Kind == "none" || r.NAT.Kind == "same":
		works = [3]string{"at-once", "second", "seconds"}
	case r.NAT.Kind == "step" || r.NAT.Kind == "block":
		works = [3]string{"second", "mostly", "no"}
	case r.NAT.Kind == "random":
		works = [3]string{"seconds", "no", "no"}
	}
	pairs := []netPair{{"ordinary", works[0]}, {"symmetric", works[1]}, {"random", works[2]}}
	if r.IPv6.State == "works" {
		pairs = append(pairs, netPair{"ipv6", "at-once"})
	}
	return pairs
}

// whyNot says why there is no UDP, from err or what the system says.
func (r *netReport) whyNot(families []*netFamily, err error) error {
	if err != nil {
		return err
	}
	var fault error
	for _, f := range families {
		if f.observed.IsValid() {
			return withHint(fmt.Errorf("UDP passes, but no datagrams of %d bytes", maxDatagram),
				"QUIC needs them: some network on the way, perhaps a tunnel, has an MTU below 1280")
		}
		if fault == nil || f.local.IsValid() {
			fault = f.fault
		}
	}
	silent := fmt.Errorf("the coordinator %s does not answer", r.Coordinator)
	switch {
	case errors.Is(fault, syscall.ECONNREFUSED):
		return withHint(fmt.Errorf("%w: nothing listens there", silent), "UDP gets that far: is the coordinator running?")
	case fault != nil:
		return withHint(fmt.Errorf("%w: %s", silent, portErrorText(fault)), "is this machine online, and do its own firewall and the router let UDP out?")
	}
	return withHint(silent, "if others reach it, this network blocks UDP: no direct path leads out of it, and Sessio has no relay. Try another one")
}
