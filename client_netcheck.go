package main

// This file is the verb netcheck: what this network allows, in words that help.

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"
)

func netcheckVerb() verb {
	return verb{name: "netcheck", usage: "[-json]", summary: "what this network allows: UDP, IPv6, the NAT, and whom it lets meet",
		more: "It takes up to three seconds, and changes nothing. The exit status is 1 where UDP\ndoes not work: nothing else does then.",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			asJSON := f.Bool("json", false, "as one JSON object")
			return func(ctx context.Context, p *program, o operands) error {
				if err := o.none(); err != nil {
					return err
				}
				return withClient(ctx, p, dir, false, func(ctx context.Context, c *client) error {
					return c.netcheck(ctx, p, *asJSON)
				})
			}
		}}
}

func (c *client) netcheck(ctx context.Context, p *program, asJSON bool) error {
	a, _ := c.trust.anchor()
	r, err := runNetcheck(ctx, c.id, a)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return endedBy(ctx)
	}
	if asJSON {
		err = json.NewEncoder(p.out).Encode(r)
	} else {
		_, err = p.out.WriteString(r.text())
	}
	if err != nil {
		return err
	}
	return r.err
}

// text is the report for people.
func (r *netReport) text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	if r.UDP {
		fmt.Fprintf(w, "UDP:\tworks; the coordinator %s answers in %.1f ms\n", printable(r.Coordinator), r.RTT)
	} else {
		fmt.Fprintln(w, "UDP:\tdoes not work")
	}
	fmt.Fprintf(w, "IPv4:\t%s\nIPv6:\t%s\n", r.IPv4.text(), r.IPv6.text())
	if r.UDP {
		fmt.Fprintf(w, "NAT:\t%s\n", r.NAT.text())
		r.NAT.more(w)
		r.filters(w)
	}
	fmt.Fprintf(w, "port mapping:\t%s\n", r.PortMapping.text(r.NAT.Double))
	w.Flush()
	if r.UDP {
		r.writePairs(&b)
	}
	return b.String()
}

func (v *netVersion) text() string {
	switch {
	case v.State == "works" && strings.HasPrefix(v.Observed, v.Local+":") || strings.HasPrefix(v.Observed, "["+v.Local+"]:"):
		return v.Local + ", and the coordinator sees the same"
	case v.State == "works":
		return v.Local + ", the coordinator sees " + v.Observed
	case v.State == "silent":
		return v.Local + ", but the coordinator does not answer over it"
	case v.State == "none", v.State == "no-route" && len(v.Addresses) == 0:
		return "none here"
	case v.State == "no-route":
		return strings.Join(v.Addresses, ", ") + ", but no route leads out"
	}
	return strings.Join(v.Addresses, ", ") + ", not tried: the coordinator has none"
}

func (n *netNAT) text() string {
	switch n.Kind {
	case "none":
		return "none"
	case "same":
		text := "ordinary: one port for all peers"
		if n.PortKept {
			text += ", the same as here"
		}
		return text
	case "step":
		return fmt.Sprintf("symmetric, counting: each peer sees another port, the next one (%+d)", n.Step)
	case "block":
		return fmt.Sprintf("symmetric, with a block: each peer sees another port, out of about %d to %d", n.Low, n.High)
	case "random":
		return "symmetric, random: each peer sees another port, any of all"
	}
	return "not known: " + printable(n.Why)
}

// more says what else there is to the NAT.
func (n *netNAT) more(w *tabwriter.Writer) {
	if n.Double {
		fmt.Fprintln(w, "\tdouble: the router stands behind another NAT, its provider's or a second router's")
	}
	switch {
	case n.Hairpin == nil:
	case *n.Hairpin:
		fmt.Fprintln(w, "hairpin:\tyes")
	default:
		fmt.Fprintln(w, "hairpin:\tno: machines behind it meet by their addresses there")
	}
}

// filterTexts say whom a port lets in.
var filterTexts = map[string]string{
	"open":            "anybody, once it has been sent from",
	"open-or-address": "every port of a host that was sent to, perhaps anybody",
	"address-or-port": "only hosts that were sent to, perhaps only those ports of theirs",
	"port":            "only whom was sent to",
}

func (r *netReport) filters(w *tabwriter.Writer) {
	for _, v := range []struct{ label, filter string }{{"lets in:", r.IPv4.Filter}, {"lets in, IPv6:", r.IPv6.Filter}} {
		if v.filter != "" {
			fmt.Fprintf(w, "%s\t%s\n", v.label, filterTexts[v.filter])
		}
	}
}

// portNames are how people write the protocols.
var portNames = map[string]string{"pcp": "PCP", "nat-pmp": "NAT-PMP", "upnp": "UPnP"}

func (p *netPortReport) text(double bool) string {
	if p.Error != "" {
		return printable(p.Error)
	}
	var names []string
	refusals := ""
	for _, a := range p.Protocols {
		if a.Available {
			names = append(names, portNames[a.Name])
		} else if why := a.refusal(); why != "" {
			refusals += "; " + portNames[a.Name] + ": " + printable(why)
		}
	}
	text := strings.Join(names, ", ") + " at the router " + p.Router
	switch {
	case len(names) == 0:
		text = "none at the router " + p.Router + " (PCP, NAT-PMP, UPnP)"
	case double:
		text += ", of no use behind the other NAT"
	}
	return text + refusals
}

// peerTexts and worksTexts are the words of a netPair.
var (
	peerTexts = map[string]string{
		"ordinary":  "without a NAT, or behind an ordinary router",
		"symmetric": "behind a symmetric NAT that counts or has a block",
		"random":    "behind a symmetric NAT with random ports",
		"ipv6":      "with IPv6",
	}
	worksTexts = map[string]string{
		"at-once": "yes, at once",
		"second":  "yes, in about a second",
		"seconds": "yes, within a few seconds",
		"mostly":  "mostly, within a few seconds",
		"no":      "no",
		"unknown": "not known",
	}
)

// writePairs says whom a direct path leads to.
func (r *netReport) writePairs(b *strings.Builder) {
	w := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nDIRECT PATHS TO MACHINES\t")
	refused := false
	for _, p := range r.Pairs {
		fmt.Fprintf(w, "%s\t%s\n", peerTexts[p.To], worksTexts[p.Works])
		refused = refused || p.Works == "no"
	}
	w.Flush()
	switch {
	case r.PortMapping.useful() && !r.NAT.Double:
		b.WriteString("\nWhile sessio -device runs here the router keeps a port open for it: then all reach it at once.\n")
	case refused && r.IPv4.State != "works":
		b.WriteString("\nThere is no IPv4 here: the other end needs IPv6.\n")
	case refused:
		b.WriteString("\nWhere it says no, IPv6 at both ends or a port mapping (PCP, NAT-PMP, UPnP) at either would do.\n")
	}
}
