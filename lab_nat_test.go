//go:build linux

package main

// The lab's routers: the kinds of NAT as rules of nftables, and what may happen
// to a router or a machine behind it while a link is up.

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// A labKind is how a router treats UDP. The names are those that people use.
type labKind string

const (
	labPublic   labKind = "public"             // none: addresses that everybody reaches
	labFullCone labKind = "full cone"          // one mapping, open to all
	labAddress  labKind = "address-restricted" // one mapping, open to addresses that were sent to
	labPort     labKind = "port-restricted"    // one mapping, open to ports that were sent to: Linux, most homes
	labHairpin  labKind = "hairpin"            // the same, and its own machines reach it from inside
	labStep     labKind = "step"               // another port for each destination, the next one
	labBlock    labKind = "block"              // the same, a random one of a block of 1,000
	labRandom   labKind = "random"             // the same, a random one of all
	labNoUDP    labKind = "no UDP"
)

// labClass is the letter of the matrix in DESIGN.md for a kind.
var labClass = map[labKind]string{labPublic: "P", labFullCone: "P", labAddress: "E", labPort: "E",
	labStep: "S", labBlock: "B", labRandom: "R"}

// A routerConf is what a router is like.
type routerConf struct {
	nat    labKind
	v6     bool       // IPv6 as well, with a stateful firewall and no NAT
	only6  bool       // no IPv4
	accept bool       // packets to the router itself are answered: INPUT accept
	behind *labRouter // the router whose customer this one is: CGN
	ports  int        // cables so far
	given  int        // addresses so far
	block  int        // first port of a block, moved by a reboot
	redial int        // how many other addresses the provider has given
	wan    string     // its address outside
	lan    string     // "192.168.7", its network without the last part
	lan6   string     // "2001:db8:7:1"
}

// A labRouter is a router in a namespace of its own, with a bridge to its LAN.
type labRouter struct {
	*labHost
	routerConf
	id int
}

func (l *lab) router(nat labKind) *labRouter { return l.newRouter(routerConf{nat: nat}) }

func (l *lab) newRouter(conf routerConf) *labRouter {
	l.t.Helper()
	l.n++
	r := &labRouter{labHost: l.newHost(fmt.Sprintf("r%d", l.n)), routerConf: conf, id: l.n}
	r.block = 20000 + 1000*(l.n%10)
	r.lan, r.lan6 = fmt.Sprintf("192.168.%d", r.id), fmt.Sprintf("2001:db8:%x:1", r.id)
	if r.nat == labPublic {
		r.lan = fmt.Sprintf("198.18.%d", r.id) // for test networks, RFC 2544
	}
	r.ip(fmt.Sprintf("link add lan type bridge\nlink set lan up\naddr add %s.1/24 dev lan\naddr add %s::1/64 dev lan nodad", r.lan, r.lan6))
	r.sysctl("net/ipv4/ip_forward", "1")
	r.sysctl("net/ipv6/conf/all/forwarding", "1")
	r.connect()
	r.load()
	return r
}

// connect brings the router to the internet or to the one it is behind.
func (r *labRouter) connect() {
	r.l.t.Helper()
	if r.behind != nil {
		r.behind.plug(r.labHost, "wan")
		r.wan = r.addr4
		return
	}
	if r.wan == "" {
		r.wan = fmt.Sprintf("203.0.113.%d", r.id)
	}
	wan6 := fmt.Sprintf("2001:db8:%x::1/128", r.id)
	r.l.openWAN(r.labHost, labDelay, r.wan+"/32", wan6)
	if r.v6 || r.only6 {
		r.l.hub.do("route", r.ns, fmt.Sprintf("2001:db8:%x::/48", r.id))
	}
	if r.nat == labPublic {
		r.l.hub.do("route", r.ns, r.lan+".0/24")
	}
}

// cable leads from the LAN to a new device of a host, and returns when both
// ends are up.
func (r *labRouter) cable(h *labHost, dev string) {
	r.l.t.Helper()
	r.ports++
	port := fmt.Sprintf("p%d", r.ports)
	r.ip(fmt.Sprintf("link add %s type veth peer name %s netns %s\nlink set %s master lan up", port, dev, h.ns, port))
	if r.nat == labHairpin { // even to the machine itself
		r.ip("link set " + port + " type bridge_slave hairpin on")
	}
	h.ip("link set " + dev + " up")
	h.running(dev)
	r.running(port)
}

// running waits until packets sent to a device are no longer thrown away: the
// kernel takes its time with that.
func (h *labHost) running(dev string) {
	h.l.t.Helper()
	var up bool
	err := h.inside(func() error {
		for began := time.Now(); !up && time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
			i, err := net.InterfaceByName(dev)
			if err != nil {
				return err
			}
			up = i.Flags&net.FlagRunning != 0
		}
		return nil
	})
	if err != nil || !up {
		h.l.t.Fatalf("%s: %s is not up: %v", h.ns, dev, err)
	}
}

// plug leads a cable to a host's device and gives that an address.
func (r *labRouter) plug(h *labHost, dev string) {
	r.l.t.Helper()
	r.cable(h, dev)
	h.dev = dev
	h.ip(h.address(r))
}

// address chooses an address of a router's LAN for a host, the one it had there
// before as DHCP does; what is returned enters it with the default route.
func (h *labHost) address(r *labRouter) (batch string) {
	if h.leases[r.id] == 0 {
		r.given++
		h.leases[r.id] = r.given + 1
	}
	lease := h.leases[r.id]
	h.addr4, h.addr6 = "", ""
	if !r.only6 {
		h.addr4 = fmt.Sprintf("%s.%d", r.lan, lease)
		batch = fmt.Sprintf("addr add %s/24 dev %s\nroute replace default via %s.1\n", h.addr4, h.dev, r.lan)
	}
	if r.v6 || r.only6 {
		h.addr6 = fmt.Sprintf("%s::%x", r.lan6, lease)
		batch += fmt.Sprintf("addr add %s/64 dev %s nodad\nroute replace ::/0 via %s::1\n", h.addr6, h.dev, r.lan6)
	}
	return batch
}

// host is a new machine's namespace behind the router.
func (r *labRouter) host() *labHost {
	r.l.t.Helper()
	h := r.l.newHost(fmt.Sprintf("r%dh%d", r.id, r.ports+1))
	r.plug(h, "eth0")
	h.router = r
	switch {
	case r.only6:
		h.hosts(labCoord6)
	case !r.v6:
		h.hosts(labCoord4)
	}
	return h
}

// load enters the rules of the router's kind.
func (r *labRouter) load() {
	r.l.t.Helper()
	r.l.run(r.rules(), "ip", "netns", "exec", r.ns, "nft", "-f", "-")
}

// rules are the router's, in nft's language. What comes from outside passes if
// it belongs to a flow from inside, or if the kind lets it.
func (r *labRouter) rules() string {
	policy := "drop"
	if r.accept {
		policy = "accept"
	}
	from, to, forward := r.natRules()
	return fmt.Sprintf(`flush ruleset
table inet lab {
	map mapped { type inet_service : ipv4_addr . inet_service; size 65535; flags dynamic; }
	set contacted { type inet_service . ipv4_addr; size 65535; flags dynamic; }
	chain input { type filter hook input priority filter; policy %s;
		iifname lo accept
		ct state established,related accept
		meta l4proto { icmp, ipv6-icmp } accept
	}
	chain forward { type filter hook forward priority filter; policy drop;
		%s
		ct state established,related accept
		iifname lan accept
	}
	chain pre { type nat hook prerouting priority dstnat;
		%s
	}
	chain post { type nat hook postrouting priority srcnat;
		%s
		meta nfproto ipv4 oifname wan masquerade
	}
}
`, policy, forward, from, to)
}

// natRules are the rules of a kind for what comes to the router, what leaves
// it, and what it lets in. Linux itself keeps a flow's port where it can, and
// lets in only answers: a port-restricted cone.
func (r *labRouter) natRules() (pre, post, forward string) {
	const (
		out  = "meta nfproto ipv4 meta l4proto udp oifname wan "
		open = "iifname wan meta l4proto udp ip daddr %s dnat ip to udp dport map @mapped"
		note = out + "update @mapped { udp sport : ip saddr . udp sport }\n"
	)
	switch r.nat {
	case labPublic:
		return "", "meta nfproto ipv4 accept", "accept"
	case labFullCone:
		return fmt.Sprintf(open, r.wan), note, "iifname wan ct status dnat accept"
	case labAddress:
		return fmt.Sprintf(open, r.wan), note + out + "update @contacted { udp sport . ip daddr }",
			"iifname wan ct status dnat udp dport . ip saddr @contacted accept"
	case labHairpin:
		inside := strings.Replace(fmt.Sprintf(open, r.wan), "iifname wan", "iifname lan", 1)
		return inside, note + "oifname lan ip saddr " + r.lan + ".0/24 ct status dnat snat ip to " + r.wan, ""
	case labStep:
		return "", out + "snat ip to " + r.steps(), ""
	case labBlock:
		return "", fmt.Sprintf(out+"snat ip to %s:%d-%d fully-random", r.wan, r.block, r.block+999), ""
	case labRandom:
		return "", out + "masquerade fully-random", ""
	case labNoUDP:
		return "", "", "meta l4proto udp drop"
	}
	return "", "", ""
}

// steps maps a counter to ports, one after the other.
func (r *labRouter) steps() string {
	const n = 4000
	var b strings.Builder
	fmt.Fprintf(&b, "numgen inc mod %d map {", n)
	for i := range n {
		fmt.Fprintf(&b, " %d : %s . %d,", i, r.wan, r.block+i)
	}
	return b.String() + " }"
}

// flush has the router forget all flows and mappings, and keep its rules'
// random choices: conntrack's table only.
func (r *labRouter) flush() {
	r.l.t.Helper()
	r.l.run("", "ip", "netns", "exec", r.ns, "conntrack", "-F")
}

// reboot has it forget everything; ports are given from another block.
func (r *labRouter) reboot() {
	r.l.t.Helper()
	r.block = 10000 + r.block%50000
	rules := r.rules()
	if r.nat == labPort { // it would find the same port again
		rules = strings.Replace(rules, "oifname wan masquerade", fmt.Sprintf("oifname wan meta l4proto udp snat ip to %s:%d-%d", r.wan, r.block, r.block+999), 1)
	}
	r.l.run(rules, "ip", "netns", "exec", r.ns, "nft", "-f", "-")
	r.flush()
}

// redialled gives the router another address, as providers do at night.
func (r *labRouter) redialled() {
	r.l.t.Helper()
	old := r.wan
	r.redial++
	r.wan = fmt.Sprintf("203.0.113.%d", r.id+64*(r.redial%4)) // id is below 64
	r.l.hub.do("unroute", r.ns, old+"/32")
	r.l.hub.do("route", r.ns, r.wan+"/32")
	r.ip(fmt.Sprintf("addr add %s/32 dev wan\naddr del %s/32 dev wan", r.wan, old))
	r.load()
	r.flush()
}

// outage cuts the router off for a while: the link to it stays up.
func (r *labRouter) outage(down bool) {
	word := "up"
	if down {
		word = "down"
	}
	r.l.hub.do(word, r.ns)
}

// hole6 has the internet lose IPv6 of this router without a word.
func (r *labRouter) hole6() { r.l.hub.do("only", r.ns, "4") }

// timeouts sets how long the router remembers a flow without and with answers.
func (r *labRouter) timeouts(unreplied, stream time.Duration) {
	r.l.t.Helper()
	r.sysctl("net/netfilter/nf_conntrack_udp_timeout", fmt.Sprint(int(unreplied.Seconds())))
	r.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", fmt.Sprint(int(stream.Seconds())))
}

// maxFlows empties the router's table and bounds it: nf_conntrack_max is one
// for all namespaces, so that a rule must do it.
func (r *labRouter) maxFlows(n int) {
	r.l.t.Helper()
	r.flush()
	r.l.run(fmt.Sprintf(`add chain inet lab flows { type filter hook forward priority filter - 10; }
add rule inet lab flows ct state new ct count over %d drop
`, n), "ip", "netns", "exec", r.ns, "nft", "-f", "-")
}

// readdress gives a machine another address in its network.
func (h *labHost) readdress() {
	h.l.t.Helper()
	delete(h.leases, h.router.id)
	h.ip("addr flush dev " + h.dev + " scope global\n" + h.address(h.router))
}

// move unplugs a machine and plugs it in behind another router.
func (h *labHost) move(to *labRouter) {
	h.l.t.Helper()
	old := h.dev
	h.dev = map[string]string{"eth0": "eth1", "eth1": "eth0"}[old]
	to.cable(h, h.dev)
	h.ip("link del " + old + "\n" + h.address(to))
	h.router = to
}

// link pulls the machine's plug, or pushes it in again: the kernel has removed
// the routes.
func (h *labHost) link(up bool) {
	h.l.t.Helper()
	if !up {
		h.ip("link set " + h.dev + " down")
		return
	}
	h.ip("link set " + h.dev + " up\naddr flush dev " + h.dev + " scope global\n" + h.address(h.router))
	h.running(h.dev)
}

// family leaves a machine of both families one of them, or both: 4, 6, 46.
func (h *labHost) family(which string) {
	h.l.t.Helper()
	h.l.run("", "ip", "-6", "-n", h.ns, "route", "flush", "default")
	r := *h.router
	r.only6, r.v6 = which == "6", strings.Contains(which, "6")
	h.ip("addr flush dev " + h.dev + " scope global\n" + h.address(&r))
	h.router.given = r.given
}
