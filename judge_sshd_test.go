//go:build linux

package main

// A stand-in for sshd that OpenSSH's regress suite can call: it reads what the
// suite writes into its sshd_config, turns it into our settings, and serves with
// our server: one connection on standard input and output (-i), or a TCP port.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// toolSSHD, as toolEnv, makes the test binary be this sshd.
const toolSSHD = "sshd"

func init() { toolModes[toolSSHD] = func() { os.Exit(sshdMain(os.Args[1:])) } }

// An sshdOptions is what the stand-in is told.
type sshdOptions struct {
	flags   []configFlag
	seen    map[string]bool     // keys that stood there; the first counts, as sshd has it
	lists   map[string][]string // of our keys, for options that add up
	pidFile string

	file, log         string
	check, one, serve bool
}

// sshdIgnored are options without a meaning here: what ours always does, or
// what the client chooses as well wherever the suite sets it.
var sshdIgnored = []string{"strictmodes", "addressfamily", "loglevel", "subsystem", "usepam", "securitykeyprovider",
	"hostkeyalgorithms", "pubkeyacceptedalgorithms", "kexalgorithms", "ciphers", "macs", "maxstartups", "protocol"}

// sshdTexts are options with one value that is ours too.
var sshdTexts = map[string]string{"port": "server.port", "listenaddress": "server.bind_address", "banner": "server.banner"}

func sshdMain(args []string) int {
	o := &sshdOptions{seen: map[string]bool{}, lists: map[string][]string{}}
	err := o.read(args)
	switch {
	case err != nil || o.check:
	case o.one:
		err = o.serveOne()
	case o.serve:
		err = o.servePort()
	default:
		err = o.daemon(args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sshd stand-in:", err)
		return 255
	}
	return 0
}

// read reads arguments and the file that they name. What stands in an argument
// goes before the file.
func (o *sshdOptions) read(args []string) error {
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch a {
		case "-t", "-i", "-D":
			o.check, o.one, o.serve = o.check || a == "-t", o.one || a == "-i", o.serve || a == "-D"
			continue
		}
		if len(a) == 2 && len(args) > 0 {
			a, args = a+args[0], args[1:]
		}
		var err error
		switch {
		case strings.HasPrefix(a, "-f"):
			o.file = a[2:]
		case strings.HasPrefix(a, "-E"):
			o.log = a[2:]
		case strings.HasPrefix(a, "-o"):
			err = o.option(a[2:])
		default:
			err = fmt.Errorf("argument %q", a)
		}
		if err != nil {
			return err
		}
	}
	text, err := os.ReadFile(o.file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if err := o.option(strings.TrimSpace(line)); err != nil {
			return fmt.Errorf("%s: %w", o.file, err)
		}
	}
	for key, list := range o.lists {
		o.set(key, yamlFlow(list))
	}
	// As sshd has it where nothing is said; the suite comes from one address and
	// fails on purpose.
	for key, value := range map[string]string{
		"forward.local": "true", "forward.remote": "true", "forward.agent": "true", "forward.streamlocal": "true",
		"security.whitelist_ips": "127.0.0.1", "security.max_sessions_per_user": "100", "security.max_auth_attempts": "100",
	} {
		if !o.seen[key] {
			o.set(key, value)
		}
	}
	return nil
}

func (o *sshdOptions) set(key, value string) {
	o.flags = append(o.flags, configFlag{"sshd_config", key, value})
}

// option takes a line. One that ours has no like of is an error, so that no
// script passes by it.
func (o *sshdOptions) option(line string) error {
	if line == "" || line[0] == '#' {
		return nil
	}
	i := strings.IndexAny(line, " \t=")
	if i < 0 {
		return fmt.Errorf("option %q has no value", line)
	}
	name, value := strings.ToLower(line[:i]), strings.Trim(line[i:], " \t=")
	switch name {
	case "acceptenv":
		o.lists["shell.accept_env"] = append(o.lists["shell.accept_env"], strings.Fields(value)...)
		return nil
	case "hostkey":
		o.lists["server.host_keys"] = append(o.lists["server.host_keys"], value)
		return nil
	}
	if o.seen[name] {
		return nil
	}
	o.seen[name] = true
	switch {
	case sshdTexts[name] != "":
		o.set(sshdTexts[name], value)
	case name == "pidfile":
		o.pidFile = value
	case name == "authorizedkeysfile":
		o.set("auth.publickey.authorized_keys_pattern", strings.ReplaceAll(value, "%u", "{user}"))
	case name == "permituserenvironment":
		o.set("auth.publickey.permit_user_environment", fmt.Sprint(value == "yes"))
	case name == "logingracetime":
		o.set("server.timeout", strings.TrimSuffix(value, "s"))
	case name == "clientaliveinterval":
		o.set("server.keepalive_interval", value)
	case name == "allowtcpforwarding":
		o.seen["forward.local"], o.seen["forward.remote"] = true, true
		o.set("forward.local", fmt.Sprint(value == "yes" || value == "local"))
		o.set("forward.remote", fmt.Sprint(value == "yes" || value == "remote"))
	case name == "permitopen":
		o.set("forward.permit", yamlFlow(strings.Fields(value)))
	case name == "setenv":
		o.set("shell.env", sshdEnv(value))
	default:
		if !slices.Contains(sshdIgnored, name) {
			return fmt.Errorf("no such option here: %s", line)
		}
	}
	return nil
}

// sshdEnv is NAME=value words as a mapping; the first of a name counts.
func sshdEnv(words string) string {
	var env []string
	seen := map[string]bool{}
	for _, w := range strings.Fields(words) {
		name, _, _ := strings.Cut(w, "=")
		if !seen[name] {
			env = append(env, w)
		}
		seen[name] = true
	}
	return envText(env)
}

// begin loads the settings, and opens the log where -E says: standard error
// where it says nothing.
func (o *sshdOptions) begin() (c *liveConfig, logf func(format string, args ...any), err error) {
	out := os.Stderr
	if o.log != "" {
		if out, err = os.OpenFile(o.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
			return nil, nil, err
		}
	}
	c = &liveConfig{source: configSource{dir: filepath.Dir(o.file), getenv: func(string) string { return "" }, flags: o.flags}}
	_, err = c.reload()
	return c, func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }, err
}

// serveOne serves SSH on standard input and output, whose peer has no address.
func (o *sshdOptions) serveOne() error {
	settings, logf, err := o.begin()
	if err != nil {
		return err
	}
	keys, err := loadHostKeys(settings.get().hostKeys)
	if err != nil || len(keys) == 0 {
		return errors.Join(err, errors.New("host keys are needed"))
	}
	nc := &stdioConn{}
	for fd, f := range map[int]**os.File{0: &nc.in, 1: &nc.out} { // with deadlines
		if err := syscall.SetNonblock(fd, true); err != nil {
			return err
		}
		*f = os.NewFile(uintptr(fd), "stdio")
	}
	srv := newSSHServer(sshPolicy{hostKey: keys[0], config: settings.get, log: logf, authorize: func(ssh.PublicKey, string) (sshGrant, error) {
		return sshGrant{}, coded("unknown-device", "there is no log here")
	}})
	return srv.serveConn(context.Background(), nc, &sshConnection{hostKeys: keys})
}

// A stdioConn is standard input and output as a connection.
type stdioConn struct{ in, out *os.File }

func (c *stdioConn) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *stdioConn) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *stdioConn) Close() error                { return errors.Join(c.in.Close(), c.out.Close()) }
func (c *stdioConn) LocalAddr() net.Addr         { return &net.UnixAddr{} }
func (c *stdioConn) RemoteAddr() net.Addr        { return &net.UnixAddr{} }
func (c *stdioConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
func (c *stdioConn) SetReadDeadline(t time.Time) error  { return c.in.SetReadDeadline(t) }
func (c *stdioConn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }

// servePort is a device that belongs to no account. The file with its process id
// is there while it listens, and is written anew when it has read its settings
// again.
func (o *sshdOptions) servePort() error {
	settings, logf, err := o.begin()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer os.Remove(o.pidFile)
	return runDevice(ctx, deviceConfig{dir: filepath.Dir(o.file), settings: settings, hangups: hangups, logf: func(_ int, format string, args ...any) {
		line := fmt.Sprintf(format, args...)
		logf("%s", line)
		if strings.HasPrefix(line, "this machine belongs to no account") || line == "settings loaded anew" {
			replaceFile(o.pidFile, []byte(fmt.Sprintln(os.Getpid())), 0o644)
		}
	}})
}

// daemon starts servePort beside and returns once it listens. It stays in the
// script's process group, which the test ends.
func (o *sshdOptions) daemon(args []string) error {
	cmd := exec.Command(os.Args[0], append([]string{"-D"}, args...)...)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !isThere(o.pidFile) {
		select {
		case err := <-ended:
			return fmt.Errorf("it ended: %v", err)
		case <-tick.C:
		}
	}
	return nil
}
