package main

// This file is the verbs that make a role a service of this machine, and end
// that.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func installVerb() verb {
	return verb{
		name:    "install",
		usage:   "[-init NAME] [-print] [-- -ROLE FLAG…]",
		summary: "have this system run sessio -device from now on, at boot too",
		more: `NAME is auto, systemd, procd (OpenWrt), openrc, sysv or cron. What stands behind
-- runs in the place of -device, as in: sessio install -- -coordinator -udp :7722
As another user than root the service is that user's: of systemd, or by cron.
Run again it changes what has to be changed and no more.`,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			init := f.String("init", "auto", "the init system's `name`")
			show := f.Bool("print", false, "show the files and commands, and do nothing")
			return func(_ context.Context, p *program, o operands) error {
				if len(o.before) > 0 {
					return usageError("%q is one word too many", o.before[0])
				}
				d, err := dir.path()
				if err != nil {
					return err
				}
				args, d, err := serviceArgs(d, *dir.flag != "", o.after)
				if err != nil {
					return err
				}
				exe, err := thisProgram()
				if err != nil {
					return err
				}
				s, err := newInit(*init, exe, d, args)
				if err != nil {
					return err
				}
				if *show {
					s.show(p.out)
					return nil
				}
				return s.install(p.out)
			}
		},
	}
}

// serviceArgs are the flags of the role that shall run, given those behind
// "--", with the directory of its state, which is dir unless they name another.
func serviceArgs(dir string, named bool, after []string) (args []string, state string, err error) {
	if len(after) == 0 {
		return []string{"-" + roleDevice, "-dir", dir}, dir, nil
	}
	if !strings.HasPrefix(after[0], "-") {
		return nil, "", withHint(usageError("%q stands behind --, where only a role and its flags may", after[0]), "as in: sessio install -- -coordinator -udp :7722")
	}
	r, err := parseRoles(after)
	if err != nil {
		return nil, "", err
	}
	switch own := *r.dir.flag; {
	case r.once:
		return nil, "", usageError("-once is not for a service")
	case own != "" && named:
		return nil, "", usageError("-dir stands on both sides of --")
	case own == "":
		return append(slices.Clone(after), "-dir", dir), dir, nil
	case !filepath.IsAbs(own):
		return nil, "", usageError("-dir %s: a service has no directory of its own: name it from / on", own)
	default:
		return after, own, nil
	}
}

func uninstallVerb() verb {
	return verb{
		name:    "uninstall",
		usage:   "[-purge]",
		summary: "end what install has begun, and remove what it has written",
		more: `The program itself stays, and this machine's state too, unless -purge is given.
What cron has started is ended by the locks in the state directory.`,
		bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			purge := f.Bool("purge", false, "remove the state directory, identity and all, after a yes")
			return func(ctx context.Context, p *program, _ operands) error {
				d, err := dir.path()
				if err != nil {
					return err
				}
				return p.uninstall(ctx, d, *purge)
			}
		},
	}
}

func (p *program) uninstall(ctx context.Context, dir string, purge bool) error {
	if purge {
		_, none := os.Stat(filepath.Join(dir, "identity"))
		_, err := os.Stat(filepath.Join(dir, "coord", "identity"))
		what := ", with this machine's identity and account?"
		if err == nil {
			what = ", with this machine's identity and all that its coordinator keeps?"
		} else if none != nil {
			return withHint(fmt.Errorf("there is no state in %s", dir), "-dir names the directory")
		}
		yes, err := p.confirm(ctx, "remove "+dir+what)
		if err != nil {
			return err
		}
		if !yes {
			return errors.New("nothing was removed")
		}
	}
	cron, err := uninstallServices(p.out)
	if err == nil && (cron || purge) {
		err = endRoles(dir)
	}
	if err != nil || !purge {
		return err
	}
	return p.purge(dir)
}

// endRoles has the processes that run roles in dir end, and waits until they have.
func endRoles(dir string) error {
	for _, role := range []string{roleCoordinator, roleDevice} {
		file := filepath.Join(dir, role+".lock")
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		l, err := holdFile(file)
		if err == nil {
			l.release()
			continue
		}
		if !errors.Is(err, errLocked) {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || pid <= 1 {
			return fmt.Errorf("%s does not say who holds it", file)
		}
		process, err := os.FindProcess(pid)
		if err == nil {
			err = process.Signal(syscall.SIGTERM)
		}
		if err != nil {
			return fmt.Errorf("ending the %s, process %d: %w", role, pid, err)
		}
		unlock, err := lockFile(file)
		if err != nil {
			return err
		}
		unlock()
		os.Remove(file)
	}
	return nil
}

// stateEntries is all that roles and verbs keep in a state directory.
var stateEntries = []string{"identity", "trust", "tickets", signerFile, reachedName, createFile, lendSocket,
	"authorized_keys", "known_hosts", roleDevice + ".lock", roleCoordinator + ".lock", "coord"}

// purge removes a state directory. What was put there by others stays.
func (p *program) purge(dir string) error {
	for _, name := range stateEntries {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	switch err := os.Remove(dir); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		fmt.Fprintf(p.out, "%s stays: %v\n", dir, err)
	default:
		fmt.Fprintf(p.out, "removed %s\n", dir)
	}
	return nil
}
