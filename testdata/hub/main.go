//go:build linux

// Command hub is the internet of the lab: one TUN device in each namespace,
// and between them delay, loss, rate and size as they are told.
//
// It reads a command a line from standard input and answers each with "ok" or
// "error: …"; it ends when the input does.
//
//	open NS             a TUN device named wan in the namespace
//	route NS PREFIX     packets to PREFIX go there; unroute NS PREFIX
//	delay NS DURATION   one way, each way
//	loss NS PERCENT     of the packets, each way, at random
//	burst NS LENGTH     packets lost in a row, on average
//	rate NS BITS        a second, each way; 0 for no limit
//	mtu NS BYTES        larger packets draw an ICMP error or are cut up, as
//	                    real routers do; 0 for no limit
//	hole NS BYTES       larger packets that may not be cut vanish
//	only NS 4|6|46      other packets vanish
//	down NS, up NS      nothing passes
//	count NS            "ok IN OUT LOST" in packets
package main

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	h, err := newHub()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hub:", err)
		os.Exit(1)
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		said, err := h.command(strings.Fields(in.Text()))
		if err != nil {
			said = "error: " + err.Error()
		}
		fmt.Println(said)
	}
}

func (h *hub) command(words []string) (string, error) {
	if len(words) < 2 {
		return "", fmt.Errorf("too few words: %q", words)
	}
	if words[0] == "open" {
		return "ok", h.open(words[1])
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.ports[words[1]]
	if p == nil {
		return "", fmt.Errorf("no namespace %q is open", words[1])
	}
	switch {
	case words[0] == "count":
		return fmt.Sprintf("ok %d %d %d", p.in, p.out, p.lost), nil
	case words[0] == "down" || words[0] == "up":
		p.down = words[0] == "down"
		return "ok", nil
	case len(words) != 3:
		return "", fmt.Errorf("wrong number of words: %q", words)
	}
	return "ok", h.set(p, words[0], words[2])
}

// set changes one thing about a port. h.mu is held.
func (h *hub) set(p *port, what, value string) (err error) {
	switch what {
	case "route", "unroute":
		var prefix netip.Prefix
		if prefix, err = netip.ParsePrefix(value); err == nil {
			h.route(p, prefix, what == "route")
		}
	case "delay":
		p.delay, err = time.ParseDuration(value)
	case "loss":
		p.loss, err = strconv.ParseFloat(value, 64)
	case "burst":
		p.burst, err = strconv.ParseFloat(value, 64)
	case "rate":
		p.rate, err = strconv.ParseFloat(value, 64)
	case "mtu", "hole":
		p.silent = what == "hole"
		p.mtu, err = strconv.Atoi(value)
	case "only":
		p.no4, p.no6 = !strings.Contains(value, "4"), !strings.Contains(value, "6")
	default:
		err = fmt.Errorf("unknown command %q", what)
	}
	return err
}
