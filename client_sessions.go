package main

// This file is the verbs about running sessions on this machine: they ask the
// sessio -device process beside them.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"text/tabwriter"
	"time"
)

// askSessions sends one request to the device's process.
func askSessions(ctx context.Context, dir string, r lendRequest) (a lendAnswer, err error) {
	lent, err := askLend(ctx, dir, r)
	if err != nil {
		return a, withHint(err, "sessions are those of a running sessio -device; -dir names its directory")
	}
	defer lent.Close()
	defer context.AfterFunc(ctx, func() { lent.Close() })()
	lent.SetReadDeadline(time.Now().Add(lendWait))
	return lent.readAnswer()
}

// sessionsRun makes a verb of what it asks and what it says to the answer.
func sessionsRun(dir stateDir, ask func(o operands) (lendRequest, error), say func(p *program, a lendAnswer) error) verbRun {
	return func(ctx context.Context, p *program, o operands) error {
		r, err := ask(o)
		if err != nil {
			return err
		}
		path, err := dir.path()
		if err != nil {
			return err
		}
		a, err := askSessions(ctx, path, r)
		if err != nil {
			return err
		}
		return say(p, a)
	}
}

func sessionsListVerb() verb {
	return verb{name: "sessions list", usage: "[-json] [-user LOGIN]", summary: "who is in on this machine, from where and since when", bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			asJSON := f.Bool("json", false, "one JSON object a line")
			user := f.String("user", "", "only those of a `login`")
			return sessionsRun(dir, func(operands) (lendRequest, error) { return lendRequest{Op: "sessions", User: *user}, nil },
				func(p *program, a lendAnswer) error {
					if *asJSON {
						if more := a.Count - len(a.Sessions); more > 0 {
							p.warn(fmt.Errorf("%d more are not listed", more))
						}
						return writeLines(p.out, a.Sessions)
					}
					return p.listSessions(a)
				})
		}}
}

func (p *program) listSessions(a lendAnswer) error {
	if len(a.Sessions) == 0 {
		_, err := fmt.Fprintln(p.out, "nobody is in")
		return err
	}
	now := p.now()
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSESSION\tUSER\tDEVICE\tADDRESS\tTRIES\tFOR\tIDLE\tCHANNELS\tIN\tOUT")
	for _, s := range a.Sessions {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%d\t%s\t%s\n", s.ID, dash(s.Session), dash(printable(s.User)), dash(s.Device), s.Address, s.AuthAttempts,
			sayDuration(now.Sub(s.Started)), sayDuration(max(0, now.Sub(s.LastActivity))), s.Channels, sayBytes(s.In), sayBytes(s.Out))
	}
	if more := a.Count - len(a.Sessions); more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	return w.Flush()
}

// sayBytes is an amount in one unit, to three digits.
func sayBytes(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if f < 1000 {
			break
		}
		f, unit = f/1000, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.3g %s", f, unit)
}

func sessionsKillVerb() verb {
	return verb{name: "sessions kill", usage: "[-user LOGIN] [ID…]", summary: "end connections, by their ids or all of a login",
		more: "What ran in them is hung up. The client may come back: sessions revoke and\ntrust revoke keep it out.",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			user := f.String("user", "", "all connections of a `login`")
			return sessionsRun(dir, func(o operands) (lendRequest, error) {
				ids := o.all()
				if len(ids) == 0 && *user == "" {
					return lendRequest{}, usageError("ID is missing: sessio sessions list shows them")
				}
				return lendRequest{Op: "kill", User: *user, IDs: ids}, nil
			}, func(p *program, a lendAnswer) error { return p.sayCount(a.Count, "ended", "connection") })
		}}
}

func sessionsRevokeVerb() verb {
	return verb{name: "sessions revoke", usage: "[-client NAME] [-all] [SESSION…]", summary: "end sessions, with their connections; nothing comes by them again",
		more: "SESSION is what sessions list shows in that column. A client whose session is\nrevoked may be introduced anew: trust revoke throws it out.",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			client := f.String("client", "", "all sessions of a `device`, by its name or id")
			all := f.Bool("all", false, "all sessions")
			return sessionsRun(dir, func(o operands) (lendRequest, error) {
				ids := o.all()
				if count(len(ids) > 0, *client != "", *all) != 1 {
					return lendRequest{}, usageError("one of SESSION…, -client and -all")
				}
				return lendRequest{Op: "revoke", Device: *client, All: *all, IDs: ids}, nil
			}, func(p *program, a lendAnswer) error { return p.sayCount(a.Count, "revoked", "session") })
		}}
}

func sessionsBanVerb() verb {
	return verb{name: "sessions ban", usage: "[-for D] ADDR", summary: "let nobody in from an address, and end the connections from there",
		more: "An IPv6 address stands for its /64. Without -for the ban holds until sessions\nunban or the end of the device's process. One on the whitelist is not banned.",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			lasts := f.Duration("for", 0, "how long, a `duration` such as 24h")
			return sessionsRun(dir, func(o operands) (lendRequest, error) {
				addr, err := o.one("ADDR")
				if err == nil && *lasts < 0 {
					err = usageError("-for is not less than 0")
				}
				return lendRequest{Op: "ban", Address: addr, For: *lasts}, err
			}, func(p *program, a lendAnswer) error {
				_, err := fmt.Fprintf(p.out, "banned; %d connections ended\n", a.Count)
				return err
			})
		}}
}

func sessionsUnbanVerb() verb {
	return verb{name: "sessions unban", usage: "ADDR", summary: "lift a ban, with the failed logins that led to it",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			return sessionsRun(dir, func(o operands) (lendRequest, error) {
				addr, err := o.one("ADDR")
				return lendRequest{Op: "unban", Address: addr}, err
			}, func(*program, lendAnswer) error { return nil })
		}}
}

func sessionsBansVerb() verb {
	return verb{name: "sessions bans", usage: "[-json]", summary: "addresses that nobody gets in from for now", bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			asJSON := f.Bool("json", false, "one JSON object a line")
			return sessionsRun(dir, func(operands) (lendRequest, error) { return lendRequest{Op: "bans"}, nil }, func(p *program, a lendAnswer) error {
				if *asJSON {
					return writeLines(p.out, a.Bans)
				}
				return p.listBans(a)
			})
		}}
}

func (p *program) listBans(a lendAnswer) error {
	if len(a.Bans) == 0 {
		_, err := fmt.Fprintln(p.out, "nobody is banned")
		return err
	}
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tFOR\tWHY")
	for _, b := range a.Bans {
		left, why := "always", "failed logins"
		if !b.Until.IsZero() {
			left = sayDuration(max(0, b.Until.Sub(p.now())))
		}
		if b.Ordered {
			why = "sessions ban"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", b.Address, left, why)
	}
	if more := a.Count - len(a.Bans); more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	return w.Flush()
}

// sayCount says how many were hit; none is a failure.
func (p *program) sayCount(n int, done, what string) error {
	if n == 0 {
		return withHint(errors.New("there is no such "+what), "sessio sessions list shows them")
	}
	if n > 1 {
		what += "s"
	}
	_, err := fmt.Fprintf(p.out, "%d %s %s\n", n, what, done)
	return err
}

func sessionsStatsVerb() verb {
	return verb{name: "sessions stats", usage: "[-json]", summary: "how many are in, how many of them idle", bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			asJSON := f.Bool("json", false, "a JSON object")
			return sessionsRun(dir, func(operands) (lendRequest, error) { return lendRequest{Op: "sessions"}, nil }, func(p *program, a lendAnswer) error {
				s := a.Stats
				if *asJSON {
					return writeLine(p.out, s)
				}
				_, err := fmt.Fprintf(p.out, "connections    %d\nauthenticated  %d\nusers          %d\nidle           %d\n", s.Total, s.Authenticated, s.Users, s.Idle)
				return err
			})
		}}
}
