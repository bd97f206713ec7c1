package main

// This file runs the roles that stay: -coordinator and -device, one of them or
// both in one process, in the foreground until a signal.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"
)

const (
	roleCoordinator = "coordinator"
	roleDevice      = "device"
)

// defaultDrain is how long sessions may go on at a stop.
const defaultDrain = 10 * time.Second

// roleFlags are the flags of both roles, as they were given.
type roleFlags struct {
	roles   map[string]*bool
	dir     stateDir
	pidFile string
	once    bool
	verbose [4]bool // by level; the first is always there

	listen      string
	hold, drain time.Duration // hold 0: as the settings have it
	config      configFlags

	udp, udp2, url, signup string
	page                   pageConfig
}

// roleOf tells to which role alone a flag belongs.
var roleOf = map[string]string{
	"listen": roleDevice, "hold": roleDevice, "drain": roleDevice, "D": roleDevice,
	"config": roleDevice, "c": roleDevice, "p": roleDevice, "b": roleDevice, "set": roleDevice,
	"udp": roleCoordinator, "udp2": roleCoordinator, "http": roleCoordinator, "url": roleCoordinator, "signup": roleCoordinator, "binaries": roleCoordinator,
	"tls-cert": roleCoordinator, "tls-key": roleCoordinator, "acme": roleCoordinator, "acme-directory": roleCoordinator, "http-insecure": roleCoordinator,
}

func (r *roleFlags) declare(f *flag.FlagSet) {
	r.roles = map[string]*bool{
		roleCoordinator: f.Bool(roleCoordinator, false, "run the meeting point that introduces machines to each other"),
		roleDevice:      f.Bool(roleDevice, false, "let this machine be entered, and keep its links for the verbs run beside it"),
	}
	r.dir = dirFlag(f)
	f.StringVar(&r.pidFile, "pidfile", "", "write the process id to `file` and remove it at the end")
	f.BoolVar(&r.once, "once", false, "end at once, without an error, where the role runs already in the directory")
	f.BoolVar(&r.verbose[1], "v", false, "log who comes and goes")
	f.BoolVar(&r.verbose[2], "vv", false, "log what for")
	f.BoolVar(&r.verbose[3], "vvv", false, "log every step")
	f.StringVar(&r.listen, "listen", "", "device: UDP `address` of its socket (default any port)")
	f.DurationVar(&r.hold, "hold", 0, "device: how long a link lives without a path, a `duration` (default 24h, or hold of the configuration)")
	r.config.declare(f)
	f.DurationVar(&r.drain, "drain", defaultDrain, "device: how long sessions may go on at a stop, a `duration`")
	f.Bool("D", true, "device: stay in the foreground, as always")
	f.StringVar(&r.udp, "udp", ":7722", "coordinator: UDP `address`")
	f.StringVar(&r.udp2, "udp2", "", "coordinator: UDP `address` that answers echoes too (default the next port)")
	f.StringVar(&r.url, "url", "", "coordinator: `URL` by which people reach it")
	f.StringVar(&r.signup, "signup", signupClaim, "coordinator: who may make an account, a `mode`: claim (who has the printed word, once), open, closed")
	r.page.declare(f)
}

// parseRoles reads args and refuses what would have no effect.
func parseRoles(args []string) (*roleFlags, error) {
	r := new(roleFlags)
	f := newFlagSet("sessio")
	r.declare(f)
	o, err := (&verb{}).parse(f, args)
	if err != nil {
		return nil, err
	}
	if !*r.roles[roleCoordinator] && !*r.roles[roleDevice] {
		if len(o.before) > 0 {
			return nil, withHint(usageError("the verb comes first"), "sessio %s …, then flags", o.before[0])
		}
		return nil, withHint(usageError("neither a role nor a verb"), "sessio -device, sessio -coordinator, or see sessio help")
	}
	if err := o.none(); err != nil {
		return nil, withHint(err, "a role takes flags only: sessio -device -h")
	}
	f.Visit(func(fl *flag.Flag) {
		if role := roleOf[fl.Name]; role != "" && !*r.roles[role] && err == nil {
			err = withHint(usageError("-%s is for the role -%s", fl.Name, role), "both roles may run in one process")
		}
	})
	switch {
	case r.hold < 0 || r.drain < 0:
		return nil, usageError("-hold and -drain are not less than 0")
	case !slices.Contains([]string{signupClaim, signupOpen, signupClosed}, r.signup):
		return nil, usageError("-signup %q is not claim, open or closed", r.signup)
	case err == nil:
		err = r.page.check(r.url)
	}
	return r, err
}

// level is how much is logged.
func (r *roleFlags) level() (level int) {
	for i, v := range r.verbose {
		if v {
			level = i
		}
	}
	return level
}

// rolesHelp is what -h shows for the roles.
func rolesHelp() string {
	f := newFlagSet("sessio")
	new(roleFlags).declare(f)
	return "usage: sessio " + coordinatorUsage + "\n       sessio " + deviceUsage + "\n" + flagHelp(f)
}

const (
	coordinatorUsage = "-coordinator [-dir D] [-udp ADDR] [-udp2 ADDR] [-url URL] [-signup MODE]" + pageUsage + " [-pidfile F] [-once] [-v]"
	deviceUsage      = "-device [-dir D] [-config F | -c F] [-p PORT] [-b ADDR] [-set KEY=VALUE]… [-listen UDPADDR] [-hold D] [-drain D] [-pidfile F] [-once] [-v | -vv | -vvv]"
)

// runRoles runs what the flags ask for until a signal, or until one role fails.
func (p *program) runRoles(ctx context.Context, args []string) error {
	r, err := parseRoles(args)
	if errors.Is(err, flag.ErrHelp) {
		_, err = p.out.WriteString(rolesHelp())
		return err
	}
	if err != nil {
		return err
	}
	dir, err := r.dir.path()
	if err != nil {
		return err
	}
	release, err := r.lock(dir)
	if r.once && errors.Is(err, errLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer release()
	log := &lineLog{level: r.level(), now: p.now, w: p.err}
	var settings *liveConfig
	var hangups chan os.Signal
	if *r.roles[roleDevice] {
		if settings, err = r.settings(dir, log.logf); err != nil {
			return p.sayConfigErrors(err)
		}
		hangups = make(chan os.Signal, 1)
	}
	boundMemory()
	if *r.roles[roleCoordinator] {
		processors.free()
	}
	ctx, stop := untilStopped(ctx, hangups)
	defer stop()
	return r.run(ctx, dir, p.out, deviceConfig{settings: settings, hangups: hangups, inTerminal: term.IsTerminal(int(os.Stdin.Fd()))}, log.logf)
}

// settings loads what the device is told by file, environment and flags.
func (r *roleFlags) settings(dir string, logf func(level int, format string, args ...any)) (*liveConfig, error) {
	source := r.config.source(dir)
	source.hold = r.hold
	c := &liveConfig{source: source}
	warnings, err := c.reload()
	for _, w := range warnings {
		logf(0, "warning: %s", w)
	}
	return c, err
}

// lock takes what keeps this process single, all or nothing.
func (r *roleFlags) lock(dir string) (release func(), err error) {
	var held []*fileLock
	release = func() {
		for _, l := range held {
			l.release()
		}
	}
	take := func(l *fileLock, lockErr error) {
		if lockErr == nil {
			held = append(held, l)
		} else if err == nil {
			err = lockErr
		}
	}
	for _, role := range []string{roleCoordinator, roleDevice} {
		if *r.roles[role] && err == nil {
			take(lockRole(dir, role))
		}
	}
	if r.pidFile != "" && err == nil {
		l, lockErr := holdFile(r.pidFile)
		if lockErr != nil {
			lockErr = fmt.Errorf("pid file: %w", lockErr)
		}
		take(l, lockErr)
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// untilStopped ends the context at the first signal that asks for an end and
// that the process was not started to ignore; the next one of the kind ends
// the process. A log whose reader has gone is no reason to end: a handler that
// does nothing is, other than ignoring, not inherited by the shells we start.
// They would lack their ^C where a script has started us by &.
//
// Where hangups is not nil it gets SIGHUP: the settings are to be loaded anew.
func untilStopped(ctx context.Context, hangups chan<- os.Signal) (context.Context, context.CancelFunc) {
	var signals []os.Signal
	nothing := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if hangups != nil && s == syscall.SIGHUP {
			signal.Notify(hangups, s)
		} else if signal.Ignored(s) {
			signal.Notify(nothing, s)
		} else if s != syscall.SIGQUIT {
			signals = append(signals, s)
		}
	}
	signal.Notify(nothing, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// run runs the roles side by side; the first that ends ends the other.
func (r *roleFlags) run(ctx context.Context, dir string, out io.Writer, device deviceConfig, logf func(level int, format string, args ...any)) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var running sync.WaitGroup
	failed := make(chan error, 2)
	start := func(role string, run func(context.Context) error) {
		if !*r.roles[role] {
			return
		}
		running.Go(func() {
			if err := run(ctx); err != nil {
				failed <- err
			}
			stop(nil)
		})
	}
	start(roleCoordinator, func(ctx context.Context) error {
		return runCoordinator(ctx, coordConfig{dir: dir, udp: r.udp, udp2: r.udp2, url: r.url, signup: r.signup, page: r.page},
			out, func(format string, args ...any) { logf(0, format, args...) })
	})
	start(roleDevice, func(ctx context.Context) error {
		device.dir, device.listen, device.drain, device.logf = dir, r.listen, r.drain, logf
		return runDevice(ctx, device)
	})
	running.Wait()
	close(failed)
	return <-failed
}
