package main

// This file is the verbs that tell about devices: status, with this machine, its
// coordinator, the devices of the account and the links to them; ping; and
// ssh-config, with what stock ssh needs to reach the devices by name.

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A statusSelf is this machine. In -json each line has its kind in "type":
// self, coordinator, device, waiting or link.
type statusSelf struct {
	Type    string   `json:"type"`
	Name    string   `json:"name,omitempty"`
	Device  string   `json:"device"`
	Account string   `json:"account"`
	State   string   `json:"state"` // signed, unsigned, expired, revoked
	Roles   []string `json:"roles,omitempty"`
	Seq     uint64   `json:"seq"`
	Head    string   `json:"head"` // words
	Running bool     `json:"running"`
}

type statusCoordinator struct {
	Type    string `json:"type"`
	Address string `json:"address"`
	Answers bool   `json:"answers"`
	Error   string `json:"error,omitempty"`
	Hint    string `json:"hint,omitempty"`
	// Observed is where it sees this verb's socket.
	Observed string `json:"observed,omitempty"`
}

type statusDevice struct {
	Type     string     `json:"type"`
	Name     string     `json:"name"`
	Device   string     `json:"device"`
	Online   *bool      `json:"online,omitempty"` // not known without the coordinator
	LastSeen *time.Time `json:"last_seen,omitempty"`
	Roles    []string   `json:"roles,omitempty"`
	Users    []string   `json:"users,omitempty"`
	Signed   bool       `json:"signed"` // and good still
	Expired  bool       `json:"expired,omitempty"`
	Expires  *time.Time `json:"expires,omitempty"`
	Self     bool       `json:"self,omitempty"`
	Version  string     `json:"version,omitempty"`
	// Categories are the coordinator's word, and signed by nobody.
	Categories []string `json:"categories,omitempty"`
}

type statusLink struct {
	Type string `json:"type"`
	linkStatus
}

// A statusReport is all of it.
type statusReport struct {
	self    statusSelf
	coord   statusCoordinator
	devices []statusDevice
	links   []linkStatus
}

func statusVerb() verb {
	return verb{name: "status", usage: "[-json] [-v] [-category C]", summary: "this machine, the coordinator and the account's devices",
		more: "A path is shown for devices that the sessio -device process beside this verb has\na link to; -v shows those links one by one.",
		bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			asJSON := f.Bool("json", false, "one JSON object a line")
			verbose := f.Bool("v", false, "the links too")
			category := f.String("category", "", "only the devices of a `category`, as the coordinator sorts them")
			return func(ctx context.Context, p *program, _ operands) error {
				return withClient(ctx, p, dir, false, func(ctx context.Context, c *client) error {
					r := c.report(ctx, p.now())
					if *category != "" {
						r.devices = slices.DeleteFunc(r.devices, func(d statusDevice) bool { return !slices.Contains(d.Categories, *category) })
					}
					if *asJSON {
						return r.writeJSON(p)
					}
					return r.writeText(p, *verbose, p.now())
				})
			}
		}}
}

// statusWait bounds asking the coordinator.
const statusWait = 5 * time.Second

func (c *client) report(ctx context.Context, now time.Time) *statusReport {
	ctx, stop := context.WithTimeout(ctx, statusWait)
	defer stop()
	a, _ := c.trust.anchor()
	r := &statusReport{coord: statusCoordinator{Type: "coordinator", Address: a.coordAddr}}
	var seen map[deviceID]deviceSeen
	var waiting []pendingJoin
	err := c.withCoord(ctx, func(cc *coordClient) error {
		who, err := cc.whoami(ctx)
		if err != nil {
			return err
		}
		r.coord.Answers, r.coord.Observed = true, who.observed.String()
		seen, waiting, err = c.askStatus(ctx, cc, a.acct)
		return err
	})
	if err != nil {
		r.coord.Error, r.coord.Hint = err.Error(), hintOf(err)
	}
	_, links, lentErr := lentStatus(ctx, c.dir)
	r.links = links
	r.self = c.selfStatus(a.acct, !errors.Is(lentErr, errNoLender))
	r.devices = c.deviceStatuses(now, seen, waiting)
	return r
}

// askStatus brings the log up to date and asks who is online, and what waits
// where this machine may know.
func (c *client) askStatus(ctx context.Context, cc *coordClient, acct acctID) (map[deviceID]deviceSeen, []pendingJoin, error) {
	if err := fetchInto(ctx, cc, c.trust); err != nil {
		return nil, nil, err
	}
	_, err := c.trust.state().judge(c.id.keys, "client", c.trust.now())
	var waiting []pendingJoin
	if err == nil {
		if waiting, err = cc.pending(ctx, acct); err != nil {
			return nil, nil, err
		}
	} else if codeOf(err) != "role" {
		return nil, nil, nil // not in the log: it may know nothing more
	}
	list, err := cc.devices(ctx, acct)
	seen := map[deviceID]deviceSeen{}
	for _, d := range list {
		seen[d.id] = d
	}
	return seen, waiting, err
}

func (c *client) selfStatus(acct acctID, running bool) statusSelf {
	st := c.trust.state()
	s := statusSelf{Type: "self", Device: string(c.id.keys.deviceID()), Account: acct.String(), State: "unsigned",
		Seq: st.seq(), Head: headWords(st.head()), Running: running}
	if dev, ok := st.device(c.id.keys.deviceID()); ok {
		s.Name, s.Roles, s.State = dev.name, dev.roles, "signed"
		switch {
		case dev.revoked:
			s.State = "revoked"
		case dev.expired(c.trust.now()):
			s.State = "expired"
		}
	}
	return s
}

func (c *client) deviceStatuses(now time.Time, seen map[deviceID]deviceSeen, waiting []pendingJoin) (out []statusDevice) {
	for _, dev := range c.trust.state().devices() {
		d := statusDevice{Type: "device", Name: dev.name, Device: string(dev.id), Roles: dev.roles, Users: dev.users, Signed: !dev.expired(c.trust.now()), Self: dev.id == c.id.keys.deviceID()}
		if dev.expires != 0 {
			until := time.Unix(dev.expires, 0).UTC()
			d.Expires, d.Expired = &until, !d.Signed
		}
		if m, ok := seen[dev.id]; ok {
			d.see(now, m.status)
			d.Categories = m.categories
		}
		out = append(out, d)
	}
	for _, j := range waiting {
		d := statusDevice{Type: "waiting", Name: waitingName(c.dir, j), Device: string(j.keys.deviceID())}
		out = append(out, d)
	}
	return out
}

func (d *statusDevice) see(now time.Time, m memberStatus) {
	d.Online, d.Version = &m.online, m.build
	if m.silent != never {
		at := now.Add(-time.Duration(m.silent) * time.Second).UTC().Truncate(time.Second)
		d.LastSeen = &at
	}
}

func (r *statusReport) writeJSON(p *program) error {
	lines := []any{r.self, r.coord}
	for _, d := range r.devices {
		lines = append(lines, d)
	}
	for _, l := range r.links {
		lines = append(lines, statusLink{"link", l})
	}
	enc := json.NewEncoder(p.out)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			return err
		}
	}
	return nil
}

func (r *statusReport) writeText(p *program, verbose bool, now time.Time) error {
	name := r.self.Name
	if name == "" {
		name = r.self.Device
	}
	fmt.Fprintf(p.out, "this machine: %s, %s%s; log at record %d, %s\n", printable(name), r.self.State, roleText(r.self.Roles), r.self.Seq, r.self.Head)
	lead := "coordinator:"
	if r.coord.Answers {
		fmt.Fprintf(p.out, "%-14s%s, sees us at %s\n", lead, r.coord.Address, r.coord.Observed)
		lead = ""
	}
	if r.coord.Error != "" {
		no := strings.TrimPrefix(strings.ReplaceAll(r.coord.Error, "\n", "; "), "coordinator ")
		fmt.Fprintf(p.out, "%-14s%s\n", lead, printable(no))
	}
	if r.coord.Hint != "" {
		fmt.Fprintf(p.out, "%-14shint: %s\n", "", printable(r.coord.Hint))
	}
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	sorted := slices.ContainsFunc(r.devices, func(d statusDevice) bool { return len(d.Categories) > 0 })
	fmt.Fprintln(w, "\nDEVICE\tSTATE\tROLES\tSIGNED\tVERSION\tPATH"+strings.Repeat("\tCATEGORIES", int(boolByte(sorted))))
	for _, d := range r.devices {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s", printable(d.Name), d.stateText(now), dash(strings.Join(d.Roles, ",")), d.signedText(now), dash(printable(d.Version)), r.pathText(d.Device))
		if sorted {
			fmt.Fprintf(w, "\t%s", dash(strings.Join(d.Categories, ",")))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil || !verbose {
		return err
	}
	return r.writeLinks(p, now)
}

func (r *statusReport) writeLinks(p *program, now time.Time) error {
	if !r.self.Running {
		_, err := fmt.Fprintln(p.out, "\nno sessio -device runs here: verbs make links of their own")
		return err
	}
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nLINK\tDEVICE\tPATH\tRTT\tPATH FOR\tLINK FOR\tMOVES\tSTREAMS")
	for _, l := range r.links {
		rtt := "-"
		if l.Path != "" {
			rtt = fmt.Sprintf("%.1f ms", l.RTT)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\n", l.Link, dash(l.Name), l.path(), rtt, sayDuration(now.Sub(l.PathAt)), sayDuration(now.Sub(l.Since)), l.Moves, l.Streams)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return r.writeKinds(p)
}

// writeKinds says what the kinds of paths that were shown are.
func (r *statusReport) writeKinds(p *program) error {
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	before := "\n"
	for _, k := range pathKinds {
		if slices.ContainsFunc(r.links, func(l linkStatus) bool { return l.Kind == k.kind }) {
			fmt.Fprintf(w, "%s%s\t%s\n", before, k.kind, k.words)
			before = ""
		}
	}
	return w.Flush()
}

func roleText(roles []string) string {
	if len(roles) == 0 {
		return ""
	}
	return ", " + strings.Join(roles, " and ")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (d statusDevice) signedText(now time.Time) string {
	switch {
	case d.Expired:
		return "expired"
	case !d.Signed:
		return "waiting"
	case d.Expires == nil:
		return "yes"
	}
	return sayDuration(d.Expires.Sub(now)) + " left"
}

func (d statusDevice) stateText(now time.Time) string {
	switch {
	case d.Online != nil && *d.Online:
		return "online"
	case d.Self:
		return "here"
	case d.Online == nil:
		return "-"
	case d.LastSeen == nil:
		return "offline"
	}
	return "seen " + sayDuration(now.Sub(*d.LastSeen)) + " ago"
}

// pathText is the newest path to a device.
func (r *statusReport) pathText(device string) string {
	for _, l := range r.links {
		if l.Device == device && l.Path != "" {
			return fmt.Sprintf("%s %.1f ms", l.path(), l.RTT)
		}
	}
	return "-"
}

func sshConfigVerb() verb {
	return verb{name: "ssh-config", usage: "", summary: "lines for ~/.ssh/config: then ssh, scp, rsync and git reach NAME.sessio",
		more: "For example: sessio ssh-config >~/.ssh/sessio, and in ~/.ssh/config as its first\nline: Include sessio",
		bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			return func(ctx context.Context, p *program, _ operands) error {
				return withClient(ctx, p, dir, false, func(_ context.Context, c *client) error {
					binary, err := os.Executable()
					if err != nil {
						return fmt.Errorf("where this program lies: %w", err)
					}
					def, err := defaultDir()
					if err != nil {
						def = ""
					}
					_, err = io.WriteString(p.out, sshConfigText(c.trust.state().devices(), binary, c.dir, def, localLogin()))
					return err
				})
			}
		}}
}

// sshConfigText is a block for every device that may be entered, and one for
// them all. A user is named by the rule of the verbs where that leaves no
// choice to make.
func sshConfigText(devices []signedDevice, binary, dir, defaultDir, local string) string {
	var b strings.Builder
	b.WriteString("# the machines of a Sessio account: made by sessio ssh-config\n")
	for _, dev := range devices {
		if !dev.hasRole("server") {
			continue
		}
		fmt.Fprintf(&b, "Host %s.sessio %s.sessio\n    HostKeyAlias %s.sessio\n", dev.name, dev.id, dev.name)
		if user, err := chooseLogin("", local, dev.name, dev.users); err == nil {
			fmt.Fprintf(&b, "    User %s\n", user)
		}
	}
	command := shellWord(binary)
	if dir != defaultDir {
		command += " proxy -dir " + shellWord(dir)
	} else {
		command += " proxy"
	}
	fmt.Fprintf(&b, "Host *.sessio\n    ProxyCommand %s %%h\n    UserKnownHostsFile %s\n    GlobalKnownHostsFile none\n    StrictHostKeyChecking yes\n    Port 22\n",
		command, configWord(filepath.Join(dir, "known_hosts")))
	return b.String()
}

// shellWord quotes a path for the shell that runs a ProxyCommand, and for ssh,
// to which % begins a token.
func shellWord(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@%=:,") == "" {
		return s
	}
	if runtime.GOOS == "windows" {
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// configWord quotes a path for ssh_config itself.
func configWord(s string) string {
	return `"` + strings.ReplaceAll(s, "%", "%%") + `"`
}

func pingVerb() verb {
	return verb{name: "ping", usage: "[-c N] [-json] [-v] DEVICE", summary: "round trips over the link, and the path that it takes",
		setup: func(f *flag.FlagSet) verbRun {
			dir, verbose := dirFlag(f), verboseFlag(f)
			count := f.Int("c", 4, "how `many`")
			asJSON := f.Bool("json", false, "one JSON object a line")
			return func(ctx context.Context, p *program, o operands) error {
				device, err := o.one("DEVICE")
				if err != nil {
					return err
				}
				if *count < 1 {
					return usageError("-c %d: at least 1", *count)
				}
				return withClient(ctx, p, dir, *verbose, func(ctx context.Context, c *client) error {
					return c.pingTimes(ctx, p, device, *count, *asJSON)
				})
			}
		}}
}

// pingGap is the time between two pings.
const pingGap = time.Second

func (c *client) pingTimes(ctx context.Context, p *program, called string, count int, asJSON bool) error {
	dev, err := c.find(ctx, called, "")
	if err != nil {
		return dialError(ctx, called, err)
	}
	var before *linkStatus
	for i := range count {
		if i > 0 {
			select {
			case <-time.After(pingGap):
			case <-ctx.Done():
				return endedBy(ctx)
			}
		}
		res, err := c.ping(ctx, dev)
		if err != nil {
			return dialError(ctx, dev.name, err)
		}
		if asJSON {
			if err := json.NewEncoder(p.out).Encode(res); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(p.out, "%s: %.1f ms by %s%s\n", dev.name, res.RTT, res.Link.path(), res.Link.change(before, p.now()))
		before = &res.Link
	}
	return nil
}
