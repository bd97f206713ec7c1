package main

// This file is the verb ssh-config: what stock ssh needs to reach the devices
// of the account by name.

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

func sshConfigVerb() verb {
	return verb{name: "ssh-config", usage: "", summary: "lines for ~/.ssh/config: then ssh, scp, rsync and git reach NAME.sessio",
		more: "For example: sessio ssh-config >~/.ssh/sessio, and in ~/.ssh/config as its first\nline: Include sessio",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				if err := o.none(); err != nil {
					return err
				}
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
