package main

// This file has the verbs that go to a device: their flags and operands. What
// they do is in client_shell.go, client_run.go, client_forward.go and
// client_proxy.go.

import (
	"context"
	"flag"
	"fmt"
	"time"
)

// A deviceVerb is what these verbs share.
type deviceVerb struct {
	dir     stateDir
	user    *string
	verbose *bool
}

func declareDeviceVerb(f *flag.FlagSet, login bool) deviceVerb {
	d := deviceVerb{dir: dirFlag(f), user: new(string)}
	if login {
		d.user = f.String("l", "", "`login` on the device; else of user@, else yours if it is listed, else the only one")
	}
	d.verbose = f.Bool("v", false, "log how the device is reached")
	return d
}

// with runs f with this machine's way to devices. Failures have the status
// that ssh has for them.
func (d deviceVerb) with(p *program, f func(c *client, files stdio) error) error {
	level := 0
	if *d.verbose {
		level = 2
	}
	c, err := p.openClient(d.dir, level)
	if err != nil {
		return linkFailure(err)
	}
	defer c.close()
	return f(c, p.stdio)
}

func shellVerb() verb {
	return verb{
		name:    "shell",
		usage:   "[-l LOGIN] [-v] [LOGIN@]DEVICE",
		summary: "a login shell on a device",
		more:    "On a terminal, ~. at the start of a line ends it and ~? lists what else there is.",
		setup: func(f *flag.FlagSet) verbRun {
			d := declareDeviceVerb(f, true)
			return func(ctx context.Context, p *program, o operands) error {
				args, err := parseShellOperands(o.all(), *d.user)
				if err != nil {
					return err
				}
				return d.with(p, func(c *client, files stdio) error { return cmdShell(ctx, c, files, args) })
			}
		},
	}
}

func runVerb() verb {
	return verb{
		name:    "run",
		usage:   "[-t] [-j N] [-l LOGIN] [-v] [LOGIN@]DEVICE… -- CMD ARG…",
		command: true,
		summary: "a command on one or several devices; its exit status is handed on",
		more: `After -- one word is a line for the shell there; several arrive as exactly these
arguments. Without -- the first word is the device, the rest the command.
Several devices run side by side, their output is marked with their names.`,
		setup: func(f *flag.FlagSet) verbRun {
			d := declareDeviceVerb(f, true)
			tty := f.Bool("t", false, "on a terminal")
			jobs := f.Int("j", 0, "`number` of devices at once (default 16)")
			return func(ctx context.Context, p *program, o operands) error {
				if *jobs < 0 {
					return usageError("-j %d is less than one device at once", *jobs)
				}
				devices, line, err := parseRunOperands(o.before, o.after, o.dashed)
				if err != nil {
					return err
				}
				args := runArgs{devices: devices, line: line, tty: *tty, jobs: *jobs, user: *d.user}
				return d.with(p, func(c *client, files stdio) error { return cmdRun(ctx, c, files, args) })
			}
		},
	}
}

func proxyVerb() verb {
	return verb{
		name:    "proxy",
		usage:   "[-v] [LOGIN@]DEVICE [PORT]",
		summary: "standard input and output to the device's SSH, for ssh's ProxyCommand",
		setup: func(f *flag.FlagSet) verbRun {
			d := declareDeviceVerb(f, false)
			return func(ctx context.Context, p *program, o operands) error {
				args, err := parseProxyOperands(o.all())
				if err != nil {
					return err
				}
				return d.with(p, func(c *client, files stdio) error { return cmdProxy(ctx, c, files, args) })
			}
		},
	}
}

func forwardStartVerb() verb {
	return verb{
		name:    "forward start",
		usage:   "[-l LOGIN] [-v] [LOGIN@]DEVICE [BIND:]PORT:HOST:PORT…",
		summary: "ports here that lead to what the device can reach, until ^C",
		more:    "PORT 0 takes any free port. A socket's path may stand for [BIND:]PORT and for HOST:PORT.",
		setup: func(f *flag.FlagSet) verbRun {
			d := declareDeviceVerb(f, true)
			return func(ctx context.Context, p *program, o operands) error {
				args, err := parseForwardOperands(o.all(), *d.user)
				if err != nil {
					return err
				}
				return d.with(p, func(c *client, files stdio) error { return cmdForward(ctx, c, files, args) })
			}
		},
	}
}

func pingVerb() verb {
	return verb{
		name:    "ping",
		usage:   "[-c N] [-v] DEVICE",
		summary: "round trips to a device over the link, and the path that they take",
		setup: func(f *flag.FlagSet) verbRun {
			d := declareDeviceVerb(f, false)
			count := f.Int("c", 4, "`number` of round trips, 0 for no end")
			return func(ctx context.Context, p *program, o operands) error {
				name, err := o.one("DEVICE")
				if err != nil {
					return err
				}
				if *count < 0 {
					return usageError("-c %d is less than none", *count)
				}
				return d.with(p, func(c *client, files stdio) error { return p.ping(ctx, c, name, *count) })
			}
		},
	}
}

// ping prints a line for each round trip, one a second.
func (p *program) ping(ctx context.Context, c *client, name string, count int) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	dev, err := c.find(ctx, name)
	if err != nil {
		return dialError(ctx, name, err)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		r, err := c.ping(ctx, dev)
		if err != nil {
			return dialError(ctx, dev.name, err)
		}
		if _, err := fmt.Fprintf(p.out, "%s: %.1f ms over %s\n", dev.name, r.RTT, sayWay(r.Link)); err != nil {
			return err
		}
		if n == count {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return endedBy(ctx)
		}
	}
}

// sayWay is a path as ping shows it.
func sayWay(l linkStatus) string {
	if l.Path == "" {
		return "a link that has just lost its path"
	}
	return l.Kind + " " + l.Path
}
