package main

// This file tells how things stand: this machine, its account and coordinator,
// and every device. What only the coordinator says (who is online) is shown as
// that; names, roles and signatures come from the verified log.

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

func statusVerb() verb {
	return verb{
		name:    "status",
		usage:   "[-json] [-v]",
		summary: "this machine, its coordinator, and every device of the account",
		more:    "With -v also the links that the sessio -device process here has.",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			asJSON := f.Bool("json", false, "one JSON object a line")
			verbose := f.Bool("v", false, "show the links too")
			return func(ctx context.Context, p *program, o operands) error {
				if err := o.none(); err != nil {
					return err
				}
				c, err := p.openClient(dir, 0)
				if err != nil {
					return err
				}
				defer c.close()
				ctx, stop := untilSignal(ctx)
				defer stop()
				s := gatherStatus(ctx, c)
				if ctx.Err() != nil {
					return endedBy(ctx)
				}
				if *asJSON {
					return s.writeJSON(p)
				}
				return s.write(p, *verbose)
			}
		},
	}
}

// A selfStatus is the first line of status -json.
type selfStatus struct {
	Kind      string   `json:"kind"` // self
	Device    deviceID `json:"device"`
	Name      string   `json:"name,omitempty"`
	Roles     []string `json:"roles,omitempty"`
	Signed    bool     `json:"signed"`
	Revoked   bool     `json:"revoked,omitempty"`
	Account   string   `json:"account"`
	Words     string   `json:"account_words"`
	Records   uint64   `json:"records"`
	HeadWords string   `json:"head_words"`
	Running   bool     `json:"running"` // sessio -device
	Dir       string   `json:"dir"`
}

// A coordStatus is the second.
type coordStatus struct {
	Kind     string  `json:"kind"` // coordinator
	Addr     string  `json:"addr"`
	Reached  bool    `json:"reached"`
	RTT      float64 `json:"rtt_ms,omitempty"`
	Observed string  `json:"observed,omitempty"` // as whom it sees us
	Error    string  `json:"error,omitempty"`
}

// A deviceStatus is one for each device; online, seen, version and address are
// the coordinator's word.
type deviceStatus struct {
	Kind    string      `json:"kind"` // device
	Name    string      `json:"name"`
	Device  deviceID    `json:"device"`
	Online  bool        `json:"online"`
	Serves  bool        `json:"serves"`
	Seen    *time.Time  `json:"seen,omitempty"`
	Roles   []string    `json:"roles"`
	Users   []string    `json:"users"`
	Caps    []string    `json:"caps"`
	Expires *time.Time  `json:"expires,omitempty"`
	Record  uint64      `json:"record"` // that signed it
	Self    bool        `json:"self,omitempty"`
	Version string      `json:"version,omitempty"`
	Addr    string      `json:"addr,omitempty"`
	Link    *linkStatus `json:"link,omitempty"`
}

// A statusReport is all of it.
type statusReport struct {
	now     time.Time
	self    selfStatus
	coord   coordStatus
	devices []deviceStatus
	waiting int // for a signature
	links   []linkStatus
}

// statusWait bounds how long status waits for the coordinator.
const statusWait = 3 * time.Second

func gatherStatus(ctx context.Context, c *client) statusReport {
	ctx, stop := context.WithTimeout(ctx, statusWait)
	defer stop()
	s := statusReport{now: time.Now()}
	_, links, err := lentStatus(ctx, c.dir)
	s.links, s.self.Running = links, err == nil
	seen := s.askCoord(ctx, c)
	c.trust.refresh()
	st := c.trust.state()
	pin, _ := c.trust.anchor()
	s.self = selfStatus{Kind: "self", Device: c.id.keys.deviceID(), Account: pin.acct.String(), Words: acctWords(pin.acct),
		HeadWords: headWords(st.head()), Running: s.self.Running, Dir: c.dir}
	if st != nil {
		s.self.Records = st.seq() + 1
	}
	if dev, ok := st.device(s.self.Device); ok {
		s.self.Name, s.self.Roles, s.self.Signed, s.self.Revoked = dev.name, dev.roles, !dev.revoked, dev.revoked
	}
	for _, dev := range st.devices() {
		s.devices = append(s.devices, s.deviceStatus(dev, seen[dev.id]))
	}
	return s
}

// askCoord brings the log up to date and asks who is there.
func (s *statusReport) askCoord(ctx context.Context, c *client) map[deviceID]memberStatus {
	pin, _ := c.trust.anchor()
	s.coord = coordStatus{Kind: "coordinator", Addr: pin.coordAddr}
	seen := map[deviceID]memberStatus{}
	err := c.withCoord(ctx, func(cc *coordClient) error {
		began := time.Now()
		who, err := cc.whoami(ctx)
		if err != nil {
			return err
		}
		s.coord.Reached, s.coord.Observed = true, who.observed.String()
		s.coord.RTT = float64(time.Since(began).Microseconds()) / 1000
		if err := fetchInto(ctx, cc, c.trust); err != nil {
			return err
		}
		list, err := cc.devices(ctx, pin.acct)
		for _, d := range list {
			seen[d.id] = d.status
		}
		if joins, err := cc.pending(ctx, pin.acct); err == nil { // only a client may ask
			s.waiting = len(joins)
		}
		return err
	})
	if err != nil {
		s.coord.Error = err.Error()
	}
	return seen
}

func (s *statusReport) deviceStatus(dev signedDevice, seen memberStatus) deviceStatus {
	d := deviceStatus{Kind: "device", Name: dev.name, Device: dev.id, Online: seen.online, Serves: seen.serves,
		Roles: dev.roles, Users: dev.users, Caps: dev.caps, Record: dev.addedSeq, Self: dev.id == s.self.Device, Version: seen.build}
	if seen.addr.IsValid() {
		d.Addr = seen.addr.String()
	}
	if seen.silent != never && seen.silent < maxStmtNumber && s.coord.Error == "" {
		at := s.now.Add(-time.Duration(seen.silent) * time.Second).UTC().Truncate(time.Second)
		d.Seen = &at
	}
	if dev.expires != 0 {
		until := time.Unix(dev.expires, 0).UTC()
		d.Expires = &until
	}
	for i := range s.links {
		if l := &s.links[i]; l.Device == string(dev.id) && (d.Link == nil || l.Path != "" && l.Since.After(d.Link.Since)) {
			d.Link = l
		}
	}
	return d
}

// writeJSON writes one object a line.
func (s *statusReport) writeJSON(p *program) error {
	lines := []any{s.self, s.coord}
	for _, d := range s.devices {
		lines = append(lines, d)
	}
	for _, l := range s.links {
		lines = append(lines, struct {
			Kind string `json:"kind"`
			linkStatus
		}{"link", l})
	}
	for _, l := range lines {
		if err := writeLine(p.out, l); err != nil {
			return err
		}
	}
	return nil
}

// write is for people.
func (s *statusReport) write(p *program, verbose bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "this machine  %s\n", s.saySelf())
	fmt.Fprintf(&b, "account       %s, %d records, head %s\n", s.self.Words, s.self.Records, s.self.HeadWords)
	fmt.Fprintf(&b, "coordinator   %s\n", s.sayCoord())
	if s.waiting > 0 {
		fmt.Fprintf(&b, "waiting       %d for a signature: sessio trust pending\n", s.waiting)
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tSTATE\tROLES\tUSERS\tSIGNED\tVERSION\tPATH")
	for i := range s.devices {
		d := &s.devices[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Name, s.sayState(d), strings.Join(d.Roles, "+"), listOr(d.Users, "none"),
			saySigned(d, s.now), printable(d.Version), sayPath(d.Link))
	}
	t.Flush()
	if verbose {
		s.writeLinks(&b)
	}
	_, err := p.out.WriteString(b.String())
	return err
}

func (s *statusReport) saySelf() string {
	name := s.self.Name
	switch {
	case s.self.Revoked:
		name += " (revoked)"
	case !s.self.Signed:
		name = "not signed yet"
	default:
		name += ", " + strings.Join(s.self.Roles, "+")
	}
	running := "no sessio -device runs here"
	if s.self.Running {
		running = "sessio -device runs"
	}
	return fmt.Sprintf("%s, %s, %s", name, s.self.Device, running)
}

func (s *statusReport) sayCoord() string {
	if !s.coord.Reached {
		return s.coord.Addr + ", not reached: " + printable(s.coord.Error)
	}
	text := fmt.Sprintf("%s, %.0f ms, sees us at %s", s.coord.Addr, s.coord.RTT, s.coord.Observed)
	if s.coord.Error != "" {
		text += "; " + printable(s.coord.Error)
	}
	return text
}

// sayState is what the coordinator says of a device.
func (s *statusReport) sayState(d *deviceStatus) string {
	switch {
	case s.coord.Error != "":
		return "unknown"
	case d.Online && d.Serves, d.Online && !strings.Contains(strings.Join(d.Roles, ","), "server"):
		return "online"
	case d.Online:
		return "online, serves nobody"
	case d.Seen != nil:
		return "seen " + sayDuration(s.now.Sub(*d.Seen)) + " ago"
	}
	return "not seen"
}

func saySigned(d *deviceStatus, now time.Time) string {
	text := fmt.Sprintf("record %d", d.Record)
	switch {
	case d.Expires == nil:
		return text
	case !now.Before(*d.Expires):
		return text + ", expired"
	}
	return text + ", " + sayDuration(d.Expires.Sub(now)) + " left"
}

func sayPath(l *linkStatus) string {
	if l == nil {
		return "-"
	}
	if l.Path == "" {
		return "held, no path"
	}
	return fmt.Sprintf("%s %s %.1f ms", l.Kind, l.Path, l.RTT)
}

func (s *statusReport) writeLinks(b *strings.Builder) {
	if !s.self.Running {
		fmt.Fprintf(b, "\nno sessio -device runs here: verbs make their own links\n")
		return
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LINK\tDEVICE\tBY\tUP\tSESSIONS\tPATH")
	for i := range s.links {
		l := &s.links[i]
		by := "them"
		if l.Dialed {
			by = "us"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s, %d moves\n", l.Link, listOr(strings.Fields(l.Name), l.Device), by, sayDuration(s.now.Sub(l.Since)), l.Streams, sayPath(l), l.Moves)
	}
	t.Flush()
}
