package main

// This file writes what ~/.ssh/config needs so that stock ssh, scp, rsync and
// git come in by way of "sessio proxy". The link has proved this machine
// already: ssh needs no key of its own, and host keys are in known_hosts.

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

func sshConfigVerb() verb {
	return verb{
		name:    "ssh-config",
		summary: "lines for ~/.ssh/config: then ssh, scp, rsync, git, VS Code find DEVICE.sessio",
		more: `Keep them in a file of their own and name it in ~/.ssh/config:
  sessio ssh-config > ~/.ssh/sessio.conf
  Include sessio.conf`,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			return func(_ context.Context, p *program, o operands) error {
				if err := o.none(); err != nil {
					return err
				}
				c, err := p.openClient(dir, 0)
				if err != nil {
					return err
				}
				defer c.close()
				exe, err := os.Executable()
				if err != nil {
					return fmt.Errorf("where this program is: %w", err)
				}
				_, err = p.out.WriteString(sshConfig(c.trust.state(), localLogin(), exe, c.dir, dir.isDefault()))
				return err
			}
		},
	}
}

// sshConfig is the text for a user called login. ssh takes the first value it
// finds for each option, so that a device's User goes before anything general.
func sshConfig(st *trustState, login, exe, dir string, defaultDir bool) string {
	var b strings.Builder
	b.WriteString("# written by sessio ssh-config; write it anew when devices come or go\n")
	for _, dev := range st.devices() {
		if !dev.hasRole("server") {
			continue
		}
		user, err := chooseLogin("", login, dev.name, dev.users)
		if err != nil {
			fmt.Fprintf(&b, "\n# %s takes: %s\nHost %s.sessio %s.sessio\n", dev.name, listOr(dev.users, "nobody"), dev.name, dev.id)
			continue
		}
		fmt.Fprintf(&b, "\nHost %s.sessio %s.sessio\n    User %s\n", dev.name, dev.id, user)
	}
	command := sshConfigWord(exe) + " proxy "
	if !defaultDir {
		command += "-dir " + sshConfigWord(dir) + " "
	}
	fmt.Fprintf(&b, `
Host *.sessio
    ProxyCommand %s%%h
    Port 22
    UserKnownHostsFile %s
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    HostKeyAlgorithms ssh-ed25519
`, command, sshConfigPath(filepath.Join(dir, "known_hosts")))
	return b.String()
}

// sshConfigWord is one word of a ProxyCommand, which the user's shell reads after
// ssh has replaced its tokens.
func sshConfigWord(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%\\") == "" && runtime.GOOS != "windows" && !strings.Contains(s, `\`) {
		return s
	}
	if runtime.GOOS == "windows" {
		return `"` + s + `"`
	}
	return shellQuote(s)
}

// sshConfigPath is a file's name as an option's value (ssh_config(5): tokens, and
// quotes around blanks).
func sshConfigPath(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	s = strings.ReplaceAll(s, `\`, `\\`)
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}
