package main

// This file is the verbs that go to a device: their flags, and the client that
// they run on.

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"time"
)

// withClient runs f with this machine's state, until a signal.
func withClient(ctx context.Context, p *program, dir stateDir, verbose bool, f func(ctx context.Context, c *client) error) error {
	c, err := p.openClient(dir, verbose)
	if err != nil {
		return err
	}
	defer c.close()
	ctx, stop := untilSignal(ctx)
	defer stop()
	return f(ctx, c)
}

// withDevice is withClient for a verb whose own failures end it as those of
// ssh do.
func withDevice(ctx context.Context, p *program, dir stateDir, verbose bool, f func(ctx context.Context, c *client) error) error {
	return linkFailure(withClient(ctx, p, dir, verbose, f))
}

func verboseFlag(f *flag.FlagSet) *bool {
	return f.Bool("v", false, "say how the device is reached")
}

func loginFlag(f *flag.FlagSet) *string {
	return f.String("l", "", "`login` on the device; else of LOGIN@, else yours if it is listed, else the only one")
}

func shellVerb() verb {
	return verb{name: "shell", usage: "[-l LOGIN] [-v] [LOGIN@]DEVICE", summary: "a login shell on a device",
		more: "At the start of a line ~. ends the link and ~? shows what else there is. The\nexit status is the shell's, or 255 when there is no link.",
		setup: func(f *flag.FlagSet) verbRun {
			dir, user, verbose := dirFlag(f), loginFlag(f), verboseFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				args, err := parseShellOperands(o.all(), *user)
				if err != nil {
					return err
				}
				return withDevice(ctx, p, dir, *verbose, func(ctx context.Context, c *client) error {
					return cmdShell(ctx, c, p.stdio, args)
				})
			}
		}}
}

func runVerb() verb {
	return verb{name: "run", usage: "[-t] [-j N] [-l LOGIN] [-v] [LOGIN@]DEVICE… -- CMD ARG…", summary: "a command on one device or several", command: true,
		more: "Behind -- one word is a line for the device's shell, and several words arrive as\nexactly those arguments. Without -- the first word is the device and the rest the\ncommand. With several devices each line of output begins with the device's name,\nand the exit status is the worst.",
		setup: func(f *flag.FlagSet) verbRun {
			dir, user, verbose := dirFlag(f), loginFlag(f), verboseFlag(f)
			tty := f.Bool("t", false, "run it on a terminal")
			jobs := f.Int("j", 0, "`devices` at once (default 16)")
			return func(ctx context.Context, p *program, o operands) error {
				devices, line, err := parseRunOperands(o.before, o.after, o.dashed)
				if err != nil {
					return err
				}
				if *jobs < 0 {
					return usageError("-j %d: at least 1", *jobs)
				}
				return withDevice(ctx, p, dir, *verbose, func(ctx context.Context, c *client) error {
					return cmdRun(ctx, c, p.stdio, runArgs{devices, line, *tty, *jobs, *user})
				})
			}
		}}
}

func proxyVerb() verb {
	return verb{name: "proxy", usage: "[-v] [LOGIN@]DEVICE [PORT]", summary: "the device's SSH on standard input and output, for ssh's ProxyCommand",
		setup: func(f *flag.FlagSet) verbRun {
			dir, verbose := dirFlag(f), verboseFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				args, err := parseProxyOperands(o.all())
				if err != nil {
					return err
				}
				return withDevice(ctx, p, dir, *verbose, func(ctx context.Context, c *client) error {
					return cmdProxy(ctx, c, p.stdio, args)
				})
			}
		}}
}

func forwardStartVerb() verb {
	return verb{name: "forward start", usage: "[-l LOGIN] [-v] [LOGIN@]DEVICE [BIND:]PORT:HOST:PORT…", summary: "ports here that lead to addresses that the device reaches",
		more: "BIND is the address to listen on here, localhost if left out. HOST is resolved on\nthe device. Each line printed is a port that answers; ^C ends them.",
		setup: func(f *flag.FlagSet) verbRun {
			dir, user, verbose := dirFlag(f), loginFlag(f), verboseFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				args, err := parseForwardOperands(o.all(), *user)
				if err != nil {
					return err
				}
				return withDevice(ctx, p, dir, *verbose, func(ctx context.Context, c *client) error {
					return cmdForward(ctx, c, p.stdio, args)
				})
			}
		}}
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
	dev, err := c.find(ctx, called)
	if err != nil {
		return dialError(ctx, called, err)
	}
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
		fmt.Fprintf(p.out, "%s: %.1f ms by %s %s, link %s\n", dev.name, res.RTT, res.Link.Kind, res.Link.Path, res.Link.Link)
	}
	return nil
}
