package main

// This file has a Linux machine start a role at boot, and again when it has
// ended: by systemd, procd (OpenWrt), OpenRC, the scripts of System V, or cron. It
// writes a file with a line that says so, has a shell run the commands that
// make the init system read it, and takes back just that.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// An initSystem is what one of them wants: a file, and lines of shell. In all of
// these @FILE@ is that file, @EXE@ this program, @ARGS@ its flags, @DIR@ its
// state, @CTL@ systemctl with what a user's services need.
type initSystem struct {
	name string
	file string // "" = none; perm is its mode
	perm fs.FileMode
	text string
	// start enables and starts the service; restart is run as well where the
	// file was there and has changed; stop ends and removes all of it.
	start, restart, stop string
	log                  string // shows what it says
}

// serviceMark is in every file that is ours, with the name of the init system.
const serviceMark = "# Written by sessio install -init "

// A way into a machine is tried for ever: no init system may give up on it. A
// stop gives sessions defaultDrain to end.
var initSystems = []initSystem{
	{"systemd", "/etc/systemd/system/sessio.service", 0o644, `@MARK@
[Unit]
Description=Sessio
After=network.target
StartLimitIntervalSec=0

[Service]
ExecStart=@EXE@ @ARGS@
Restart=always
RestartSec=5
KillMode=mixed

[Install]
WantedBy=@TARGET@
`, "@CTL@ daemon-reload && @CTL@ enable --now sessio", "@CTL@ restart sessio",
		"@CTL@ disable --now sessio; rm -f @FILE@; @CTL@ daemon-reload", "@LOG@ -u sessio"},
	{"procd", "/etc/init.d/sessio", 0o755, `#!/bin/sh /etc/rc.common
@MARK@
START=95
USE_PROCD=1

start_service() {
	procd_open_instance
	procd_set_param command @EXE@ @ARGS@
	procd_set_param respawn 3600 5 0
	procd_set_param term_timeout 15
	procd_set_param stdout 1
	procd_set_param stderr 1
	procd_close_instance
}
`, `mkdir -p /lib/upgrade/keep.d && printf '%s\n' '@MARK@' @EXE@ @DIR@ @FILE@ /etc/rc.d/S95sessio /lib/upgrade/keep.d/sessio >/lib/upgrade/keep.d/sessio &&
@FILE@ enable && @FILE@ start`, "@FILE@ restart",
		"@FILE@ stop; @FILE@ disable; rm -f @FILE@ /lib/upgrade/keep.d/sessio", "logread -e sessio"},
	{"openrc", "/etc/init.d/sessio", 0o755, `#!/sbin/openrc-run
@MARK@
description="Sessio"
supervisor=supervise-daemon
command=@EXE@
command_args="@ARGS@"
respawn_delay=5
respawn_max=0
retry="TERM/15/KILL/5"
output_log=/var/log/sessio.log
error_log=/var/log/sessio.log

depend() {
	use net
	after firewall
}
`, "rc-update add sessio default && rc-service sessio start", "rc-service sessio restart",
		"rc-service sessio stop; rc-update del sessio default; rm -f @FILE@", "tail /var/log/sessio.log"},
	// Without update-rc.d it is busybox's init, which goes by the name.
	{"sysv", "/etc/init.d/sessio", 0o755, sysvScript, `if [ -x /usr/sbin/update-rc.d ]; then update-rc.d sessio defaults; else ln -sf sessio /etc/init.d/S95sessio; fi &&
@FILE@ start`, "@FILE@ restart",
		"@FILE@ stop; rm -f @FILE@ /etc/init.d/S95sessio; [ ! -x /usr/sbin/update-rc.d ] || update-rc.d sessio remove", "tail /var/log/sessio.log"},
	{name: "cron", start: "line=@LINE@\n" + cronScript + ` && echo "cron starts it within a minute, now and after every end"`, stop: "line=\n" + cronScript},
}

// sysvScript keeps the program running by a shell, since nothing else does. A
// pid file may be older than the boot: the number alone proves nothing.
const sysvScript = `#!/bin/sh
@MARK@
### BEGIN INIT INFO
# Provides:          sessio
# Required-Start:    $remote_fs $network
# Required-Stop:     $remote_fs $network
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Sessio
### END INIT INFO

pid_file=/var/run/sessio.pid
log=/var/log/sessio.log

running() {
	pid=$(cat "$pid_file" 2>/dev/null) && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q "@FILE@ keep"
}

stop() {
	left=15
	running && kill "$pid"
	while running && [ "$left" -gt 0 ]; do
		left=$((left - 1))
		sleep 1
	done
	rm -f "$pid_file"
}

case ${1:-} in
start)
	running && exit 0
	@FILE@ keep </dev/null >/dev/null 2>&1 &
	echo $! >"$pid_file"
	;;
keep)
	trap '' HUP
	trap 'kill $!; wait $!; exit 0' TERM
	while :; do
		[ "$(wc -c <"$log")" -lt 100000 ] || : >"$log"
		@EXE@ @ARGS@ >>"$log" 2>&1 &
		wait $!
		sleep 5 &
		wait $!
	done
	;;
stop) stop ;;
restart | force-reload) stop && @FILE@ start ;;
status)
	running && echo "sessio runs" && exit 0
	echo "sessio does not run"
	exit 3
	;;
*)
	echo "usage: $0 start|stop|restart|status" >&2
	exit 2
	;;
esac
`

// cronMark ends the line in a crontab that is ours.
const cronMark = " # sessio install"

// cronScript sets our line in the crontab, and none where it is empty. A crontab
// that cannot be read is not written. Debian's says the one, busybox's the other
// where there is none.
const cronScript = `command -v crontab >/dev/null || exit 0
old=$(crontab -l 2>/dev/null) || case $(crontab -l 2>&1) in
*"no crontab"* | *"No such file"*) ;;
*) crontab -l; exit 1 ;;
esac
new=$(printf '%s\n' "$old" | grep -v '` + cronMark + `$'; echo "$line")
[ "$new" = "$old" ] || { printf '%s\n' "$new" | sed '/./,$!d' | crontab - && echo "changed the crontab"; }`

// detectScript names the init system that runs here.
const detectScript = `[ "$(id -u)" = 0 ] && root=yes || root=
if [ -d /run/systemd/system ] && { [ $root ] || [ -e "/var/lib/systemd/linger/$(id -un)" ]; }; then echo systemd
elif [ $root ] && [ -e /etc/openwrt_release ] && [ -e /sbin/procd ]; then echo procd
elif [ $root ] && [ -e /sbin/openrc-run ]; then echo openrc
elif [ $root ] && { [ -x /usr/sbin/update-rc.d ] || [ -e /etc/init.d/rcS ]; }; then echo sysv
elif command -v crontab >/dev/null; then echo cron
elif [ -d /run/systemd/system ]; then echo systemd
fi`

// serviceWord makes a word of a command for systemd, shells and crontabs alike.
func serviceWord(s string) (string, error) {
	for _, r := range s {
		if r < ' ' || r > '~' || strings.ContainsRune("'\"\\%$`", r) {
			return "", fmt.Errorf("%q has characters that service files cannot hold in one way", s)
		}
	}
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:,=@+-") == "" {
		return s, nil
	}
	return "'" + s + "'", nil
}

// newInit returns the init system called name, "auto" = the one that runs here,
// with its gaps filled in: exe shall run with args, whose state is in dir.
func newInit(name, exe, dir string, args []string) (s initSystem, err error) {
	if runtime.GOOS != "linux" {
		return s, withHint(errors.New("service files are made for Linux only"), "have your system run sessio -device at its start")
	}
	if name == "auto" {
		said, _ := runShell(detectScript)
		if name = strings.TrimSpace(said); name == "" {
			return s, withHint(errors.New("no init system that is known runs here, and there is no crontab"),
				"have what starts programs here run sessio -device; or name one with -init")
		}
	}
	for _, i := range initSystems {
		if i.name == name {
			s = i
		}
	}
	root := os.Geteuid() == 0
	switch {
	case s.name == "":
		return s, usageError("-init %q is none of auto, systemd, procd, openrc, sysv, cron", name)
	case !root && name != "systemd" && name != "cron":
		return s, withHint(fmt.Errorf("services of %s belong to root", name), "run this as root, or with -init cron")
	}
	words := append([]string{exe, dir}, args...)
	for i := range words {
		if words[i], err = serviceWord(words[i]); err != nil {
			return s, err
		}
	}
	ctl, log, target := "systemctl", "journalctl", "multi-user.target"
	if !root && name == "systemd" {
		home, err := os.UserHomeDir()
		if err != nil {
			return s, err
		}
		s.file = home + "/.config/systemd/user/sessio.service"
		ctl, log, target = "systemctl --user", "journalctl --user", "default.target"
		s.start += ` && { [ -e "/var/lib/systemd/linger/$(id -un)" ] ||
echo "it ends when you log out, and does not start at boot, until you run: sudo loginctl enable-linger $(id -un)"; }`
	}
	flags := strings.Join(words[2:], " ")
	fill := strings.NewReplacer("@MARK@", serviceMark+name+". sessio uninstall removes it.", "@FILE@", s.file, "@EXE@", words[0], "@ARGS@", flags, "@DIR@", words[1],
		"@CTL@", ctl, "@LOG@", log, "@TARGET@", target,
		"@LINE@", shellQuote("* * * * * "+words[0]+" "+flags+" -once >/dev/null 2>&1"+cronMark))
	for _, text := range []*string{&s.text, &s.start, &s.restart, &s.stop, &s.log} {
		*text = fill.Replace(*text)
	}
	return s, nil
}

// runShell runs a script and returns what it said, in both ways.
func runShell(script string) (string, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return "", err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	process, err := os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{null, w, w}})
	w.Close()
	if err != nil {
		return "", err
	}
	said, err := io.ReadAll(r)
	state, waitErr := process.Wait()
	if err = errors.Join(err, waitErr); err == nil && !state.Success() {
		err = errors.New(state.String())
	}
	return string(said), err
}

// command runs a line of shell and shows it, and what it says.
func (s *initSystem) command(out io.Writer, line string) error {
	if s.file != "" {
		fmt.Fprintf(out, "run: %s\n", line)
	}
	said, err := runShell(line)
	io.WriteString(out, said)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

// show says what install would do.
func (s *initSystem) show(out io.Writer) {
	if s.file != "" {
		fmt.Fprintf(out, "# %s, mode %o\n%s\n# then\n", s.file, s.perm, s.text)
	}
	fmt.Fprintln(out, s.start)
}

// install writes the file, enables and starts. What is as it should be already
// is left alone.
func (s *initSystem) install(out io.Writer) error {
	todo := s.start
	if s.file != "" {
		replaced, err := s.write(out)
		if err != nil {
			return withHint(err, "sessio install -print shows what belongs there")
		}
		if replaced {
			todo += " && " + s.restart
		}
	}
	if err := s.command(out, todo); err != nil {
		return err
	}
	if s.log != "" {
		fmt.Fprintf(out, "what it says: %s\n", s.log)
	}
	return nil
}

// write writes the file unless somebody else has; replaced: there was another of ours.
func (s *initSystem) write(out io.Writer) (replaced bool, err error) {
	old, err := os.ReadFile(s.file)
	switch {
	case err == nil && string(old) == s.text:
		fmt.Fprintf(out, "%s is as it should be\n", s.file)
		return false, nil
	case err == nil && !strings.Contains(string(old), serviceMark):
		return false, fmt.Errorf("%s is there, and sessio install has not written it: move it away", s.file)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	replaced = err == nil
	if err = os.MkdirAll(filepath.Dir(s.file), 0o755); err == nil {
		err = replaceFile(s.file, []byte(s.text), s.perm)
	}
	if err == nil {
		fmt.Fprintf(out, "wrote %s\n", s.file)
	}
	return replaced, err
}

// uninstallServices stops and removes what install has written, whichever init
// system it was for. What cron has started runs on; cron says that there was a line.
func uninstallServices(out io.Writer) (cron bool, err error) {
	found := false
	for _, i := range initSystems {
		s, err := newInit(i.name, "x", "x", nil)
		if err != nil {
			continue // not this user's
		}
		if s.file == "" {
			said := new(strings.Builder)
			err := s.command(said, s.stop)
			if io.WriteString(out, said.String()); err != nil {
				return false, err
			}
			cron = said.Len() > 0
			continue
		}
		if b, err := os.ReadFile(s.file); err != nil || !strings.Contains(string(b), serviceMark+s.name+".") {
			continue
		}
		found = true
		if err := s.command(out, s.stop); err != nil {
			return false, err
		}
	}
	if !found && !cron {
		fmt.Fprintln(out, "nothing here was written by sessio install")
	}
	return cron, nil
}

// thisProgram is the file that services shall run.
func thisProgram() (string, error) {
	exe, err := os.Executable()
	return strings.TrimSuffix(exe, " (deleted)"), err // the running file may have been replaced
}

// installDevice makes the device of dir a service of the init system that is here.
func installDevice(out io.Writer, dir string) error {
	exe, err := thisProgram()
	if err != nil {
		return err
	}
	s, err := newInit("auto", exe, dir, []string{"-device", "-dir", dir})
	if err != nil {
		return err
	}
	return s.install(out)
}
