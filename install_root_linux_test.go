package main

// These tests are run in a directory tree that is a small Linux of busybox, by
// root: the line from a coordinator until a command runs on the machine, and
// the scripts of init systems.

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newInstallRoot makes the tree. Its busybox is /bin/busybox-real, so that a test may
// make another /bin/busybox.
func newInstallRoot(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("chroot takes root")
	}
	root := t.TempDir()
	for _, dir := range []string{"bin", "usr/bin", "proc", "dev", "etc/init.d", "root", "tmp", "var/spool/cron/crontabs", "var/run", "var/log"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox := mustLook(t, "busybox")
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	box, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	inTree(t, root, "bin/busybox-real", string(box), 0o755)
	for name := range strings.FieldsSeq(string(applets)) {
		if err := os.Symlink("/bin/busybox-real", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	inTree(t, root, "etc/passwd", "root:x:0:0:root:/root:/bin/ash\n", 0o644)
	if err := syscall.Mknod(filepath.Join(root, "dev/null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	return root
}

func inTree(t *testing.T, root, name, text string, perm os.FileMode) {
	t.Helper()
	file := filepath.Join(root, name)
	os.Remove(file) // a link is not followed
	if err := os.WriteFile(file, []byte(text), perm); err != nil {
		t.Fatal(err)
	}
}

// rootScript runs a line of shell in the tree, with a /proc of its own mounts.
const rootScript = `#!/bin/sh
exec unshare -m sh -c 'mount -t proc proc "$0/proc" && exec env -i PATH=/usr/bin:/bin:/usr/sbin HOME=/root chroot "$0" /bin/ash -c "$1"' ROOT "$1"
`

// rootRunner is a program that runs its argument there.
func rootRunner(t *testing.T, root string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(file, []byte(strings.Replace(rootScript, "ROOT", root, 1)), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// inRoot runs a line to its end. What it leaves running keeps no pipe open.
func inRoot(t *testing.T, runner, line string) (string, int) {
	t.Helper()
	cmd := exec.Command(runner, line)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", line, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// One line on an empty machine: it joins, is signed, is entered, is upgraded
// while it runs, and is uninstalled.
func TestInstallLineBringsAMachineIn(t *testing.T) {
	t.Parallel()
	root := newInstallRoot(t)
	runner := rootRunner(t, root)
	tool, err := labTool()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	http := ln.Addr().String()
	ln.Close()
	s := newScript(t, t.Name())
	s.vars["HTTP"], s.vars["IN"], s.vars["ROOT"], s.vars["BUILT"] = http, runner, root, tool
	s.run(`
exec mkdir $WORK/dist
exec cp $BUILT $WORK/dist/sessio-linux-amd64
exec cp $BUILT $WORK/dist/sessio-linux-arm64
on vps
! tool -coordinator -udp 127.0.0.1:0 -binaries $WORK/dist -url http://$HTTP
status 2
stderr '^sessio: -binaries needs -http'
! tool -coordinator -udp 127.0.0.1:0 -http 127.0.0.1:0 -binaries $WORK/none -url http://$HTTP
status 1
stderr '^hint: make cross leaves the builds in dist/'
tool -coordinator -udp 127.0.0.1:0 -http $HTTP -url http://$HTTP -binaries $WORK/dist &vps
wait vps 's1/'
capture COORD vps 's1/[^ \n]+'
on laptop
exec ssh-keygen -q -t ed25519 -N '' -f $WORK/laptop/id
tool account create -key id -name laptop $COORD
tool ticket -name attic
stdout '^sessio join s1/[^ ]+$'
stdout "^curl -fsSL http://$HTTP/i/[a-z2-7]{16} \| sh -s -- s1/[^ ]+$"
capture LINE '^wget -qO- .*$'
exec $IN 'crontab -' 
exec $IN $LINE &join
wait join '^installed /usr/bin/sessio$'
wait join '^device       d[a-z2-7]{25}$'
wait join '^fingerprint  SHA256:'
wait join '^changed the crontab$'
wait join '^cron starts it within a minute'
wait join '^waiting for the signature'
capture WORDS join '^words        ([a-z-]+)$'
tool trust pending
stdout "words        $WORDS"
tool trust sign attic
ended join 0
wait join '^signed as attic: server, users root$'
silent join 'now run'
exec $IN 'crontab -l'
`)
	line := regexp.MustCompile(`(?m)^\* \* \* \* \* (/usr/bin/sessio -device -dir /root/.sessio -once >/dev/null 2>&1 # sessio install)$`).FindStringSubmatch(s.stdout)
	if line == nil {
		t.Fatalf("the crontab is %q", s.stdout)
	}
	// What cron does in one minute and in the next.
	s.vars["CRON"] = line[1]
	s.run(`
exec $IN $CRON &attic
until '^attic +online +server ' status
exec $IN $CRON
tool run attic -- 'echo over $SSH_CONNECTION from $(cat /etc/passwd)'
stdout '^over [0-9a-f.:]+ .* from root:x:0:0:root:/root:/bin/ash$'

# another set of builds, while the old program runs
exec sh -c 'echo >>$0' $WORK/dist/sessio-linux-amd64
`)
	// The coordinator looks once a second. Then the line of before does nothing.
	s.until("the old set is gone", func() bool {
		s.run("exec $IN \"wget -qO- http://$HTTP/i/" + regexp.MustCompile("/i/([a-z2-7]+)").FindStringSubmatch(s.vars["LINE"])[1] + " | wc -l\"")
		return s.stdout == "0\n"
	})
	s.run(`
exec $IN $LINE
stderr '404'
! stdout .
tool ticket -name again
capture LINE '^wget -qO- .*$'
exec $IN $LINE
stdout '^installed /usr/bin/sessio$'
stdout '^signed as attic: '
tool run attic -- 'echo still there; cmp /usr/bin/sessio /proc/$(cat /root/.sessio/device.lock)/exe || echo another file'
stdout '^still there$'
stdout '^another file$'
exec $IN 'crontab -l'
`)
	if strings.Count(s.stdout, "\n") != 1 {
		t.Errorf("the crontab is %q", s.stdout)
	}
	s.run(`
exec $IN 'echo no | sessio uninstall -purge; echo $?; echo yes | sessio uninstall -purge; crontab -l | wc -c; ls -A /root'
stderr 'sessio: nothing was removed$'
stdout '^1$'
stdout '^changed the crontab$'
stdout '^removed /root/.sessio$'
stdout '^0$'
! stdout '^\.sessio'
ended attic 0
exec $IN 'sessio uninstall'
stdout '^nothing here was written by sessio install$'
`)
}

// The build is that of the processor: what uname, /proc/cpuinfo and an ELF file say.
func TestInstallScriptProcessors(t *testing.T) {
	root := newInstallRoot(t)
	for _, c := range []struct{ uname, features, elf, want string }{
		{"x86_64", "", "", "amd64"},
		{"aarch64", "fp asimd", "", "arm64"},
		{"riscv64", "", "", "riscv64"},
		{"armv7l", "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4", "", "armv7 armv6 armv5"},
		{"armv7l", "half thumb vfp edsp vfpv3d16", "", "armv7 armv6 armv5"},
		{"armv8l", "half thumb vfp neon", "", "armv7 armv6 armv5"},
		{"armv7l", "swp half thumb fastmult edsp", "", "armv5"}, // no VFP: BCM4708
		{"armv7l", "swp half vfp", "", "armv6 armv5"},
		{"armv6l", "half thumb fastmult vfp edsp java tls", "", "armv6 armv5"},
		{"armv6l", "half thumb", "", "armv5"},
		{"armv5tel", "swp half thumb fastmult edsp", "", "armv5"},
		{"armv5tel", "swp vfp neon", "", "armv5"},
		{"armv6l", "", "", "armv5"},
		{"armv7b", "neon vfpv3", "", ""},
		{"mips", "", "\x7fELF\x01\x01\x01", "mipsle"},
		{"mips", "", "\x7fELF\x01\x02\x01", "mips"},
		{"mips64", "", "\x7fELF\x02\x02\x01", "mips"},
		{"mips", "", "no", ""},
		{"i686", "", "", ""},
	} {
		cpu := "processor\t: 0\nmodel name\t: x\nFeatures\t: " + c.features + "\nprocessor\t: 1\nFeatures\t: " + c.features + "\n"
		inTree(t, root, "proc/cpuinfo", cpu, 0o644)
		inTree(t, root, "bin/busybox", c.elf, 0o644)
		inTree(t, root, "bin/sh", c.elf, 0o644)
		script := strings.Replace("uname() { echo "+c.uname+"; }\n"+installScript, `main "$@"`, "processors", 1)
		inTree(t, root, "tmp/script", script, 0o644)
		cmd := exec.Command("/bin/busybox-real", "ash", "/tmp/script")
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		cmd.Env, cmd.Dir = []string{"PATH=/bin"}, "/"
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("%s %q %q: %q, %v; want %q", c.uname, c.features, c.elf, got, err, c.want)
		}
	}
}

// The script for System V starts, keeps running, stops, and believes no old pid file.
func TestInstallSysVScriptRuns(t *testing.T) {
	t.Parallel()
	root := newInstallRoot(t)
	runner := rootRunner(t, root)
	s, err := newInit("sysv", "/usr/bin/role", "/root/.sessio", []string{"-device", "-dir", "/root/a b"})
	if err != nil {
		t.Fatal(err)
	}
	file := s.file
	inTree(t, root, file, s.text, s.perm)
	inTree(t, root, "bin/sleep", "#!/bin/busybox-real ash\n", 0o755) // nothing waits five seconds
	inTree(t, root, "usr/bin/role", "#!/bin/busybox-real ash\necho \"started $* by $$\"\nmkfifo /tmp/$$; read -r word </tmp/$$\n", 0o755)
	log := func() string {
		b, _ := os.ReadFile(filepath.Join(root, "var/log/sessio.log"))
		return string(b)
	}
	started := func(n int) string {
		t.Helper()
		waitUntil(t, func() bool { return strings.Count(log(), "started") == n })
		return log()[strings.LastIndex(log(), " by ")+4 : len(log())-1]
	}
	status := func(want string) {
		t.Helper()
		if out, _ := inRoot(t, runner, file+" status"); out != want+"\n" {
			t.Errorf("status: %q, want %q", out, want)
		}
	}
	do := func(word string) {
		t.Helper()
		if out, code := inRoot(t, runner, file+" "+word); out != "" || code != 0 {
			t.Errorf("%s: %q, status %d", word, out, code)
		}
	}
	status("sessio does not run")
	// A pid file of before, and its number another process's: ours.
	inTree(t, root, "var/run/sessio.pid", fmt.Sprintln(os.Getpid()), 0o644)
	status("sessio does not run")
	do("stop")
	do("start")
	t.Cleanup(func() { inRoot(t, runner, file+" stop") })
	first := started(1)
	if !strings.Contains(log(), "started -device -dir /root/a b by ") {
		t.Errorf("it was called so: %s", log())
	}
	status("sessio runs")
	do("start") // again: nothing
	inRoot(t, runner, "kill -9 "+first)
	second := started(2)
	status("sessio runs")
	do("restart")
	third := started(3)
	if out, _ := inRoot(t, runner, "kill -0 "+second); !strings.Contains(out, "No such process") {
		t.Errorf("restart left the old one: %q", out)
	}
	do("stop")
	status("sessio does not run")
	if out, _ := inRoot(t, runner, "kill -0 "+third); !strings.Contains(out, "No such process") {
		t.Errorf("stop left the program: %q", out)
	}
	if out, code := inRoot(t, runner, file+" frob"); code != 2 || !strings.Contains(out, "usage: ") {
		t.Errorf("frob: %d %q", code, out)
	}
}

// installStub is a program of an init system: it notes how it was called.
const installStub = "#!/bin/busybox-real ash\necho \"${0##*/} $*\" >>/tmp/calls\n"

// rcCommon is as much of OpenWrt's as the script needs.
const rcCommon = `#!/bin/busybox-real ash
procd_open_instance() { echo open; }
procd_set_param() { printf '<%s>' "$@"; echo; }
procd_close_instance() { echo close; }
. "$1"
case $2 in
start | restart) echo "$2 $START $USE_PROCD"; start_service ;;
*) echo "$2" ;;
esac >>/tmp/calls
`

// openrcRun shows what the script sets.
const openrcRun = `#!/bin/busybox-real ash
use() { echo "use $*"; }
after() { echo "after $*"; }
. "$1"
{ eval "printf '<%s>' $command $command_args"; depend; echo "$2 $supervisor $respawn_max"; } >>/tmp/calls
`

// Each init system is told what it wants to hear, again when it changes, and to
// forget it.
func TestInstallByEachInit(t *testing.T) {
	tool, err := labTool()
	if err != nil {
		t.Fatal(err)
	}
	built, err := os.ReadFile(tool)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file string
		there      map[string]string // stubs, and what detection goes by
		first      string            // calls of install
		changed    string            // more of them, when the flags have changed
		last       string            // calls of uninstall
	}{
		{"systemd", "/etc/systemd/system/sessio.service", map[string]string{"run/systemd/system/x": "", "usr/bin/systemctl": installStub, "sbin/openrc-run": installStub},
			"systemctl daemon-reload\nsystemctl enable --now sessio\n", "systemctl restart sessio\n",
			"systemctl disable --now sessio\nsystemctl daemon-reload\n"},
		{"procd", "/etc/init.d/sessio", map[string]string{"etc/openwrt_release": "", "sbin/procd": "", "etc/rc.common": rcCommon},
			"enable\nstart 95 1\nopen\n<command></usr/bin/sessio><-device><-dir></root/.sessio>\n<respawn><3600><5><0>\n<term_timeout><15>\n<stdout><1>\n<stderr><1>\nclose\n",
			"restart 95 1\nopen\n<command></usr/bin/sessio><-device><-hold><1h><-dir></root/.sessio>\n<respawn><3600><5><0>\n<term_timeout><15>\n<stdout><1>\n<stderr><1>\nclose\n",
			"stop\ndisable\n"},
		{"openrc", "/etc/init.d/sessio", map[string]string{"sbin/openrc-run": openrcRun, "usr/bin/rc-update": installStub, "usr/bin/rc-service": installStub},
			"rc-update add sessio default\nrc-service sessio start\n", "rc-service sessio restart\n",
			"rc-service sessio stop\nrc-update del sessio default\n"},
		{"sysv", "/etc/init.d/sessio", map[string]string{"usr/sbin/update-rc.d": installStub},
			"update-rc.d sessio defaults\n", "", "update-rc.d sessio remove\n"},
		{"sysv", "/etc/init.d/sessio", map[string]string{"etc/init.d/rcS": ""}, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := newInstallRoot(t)
			runner := rootRunner(t, root)
			inTree(t, root, "usr/bin/sessio", string(built), 0o755)
			for name, text := range c.there {
				if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
					t.Fatal(err)
				}
				inTree(t, root, name, text, 0o755)
			}
			want := func(line, calls string, says ...string) {
				t.Helper()
				inTree(t, root, "tmp/calls", "", 0o644)
				out, code := inRoot(t, runner, line)
				got, _ := os.ReadFile(filepath.Join(root, "tmp/calls"))
				if code != 0 || string(got) != calls {
					t.Errorf("%s: status %d\n%s\ncalls:\n%s\nwant:\n%s", line, code, out, got, calls)
				}
				for _, s := range says {
					if !strings.Contains(out, s) {
						t.Errorf("%s: want %q in\n%s", line, s, out)
					}
				}
			}
			want("sessio install", c.first, "wrote "+c.file+"\n", "what it says: ")
			want("sessio install", c.first, c.file+" is as it should be\n")
			want("sessio install -- -device -hold 1h", strings.ReplaceAll(c.first, "<-device>", "<-device><-hold><1h>")+c.changed, "wrote "+c.file+"\n")
			if c.name == "openrc" {
				want(c.file+" start", "</usr/bin/sessio><-device><-hold><1h><-dir></root/.sessio>use net\nafter firewall\nstart supervise-daemon 0\n")
			}
			if c.name == "procd" {
				want("cat /lib/upgrade/keep.d/sessio", "", "/usr/bin/sessio\n/root/.sessio\n/etc/init.d/sessio\n/etc/rc.d/S95sessio\n")
			}
			want("sessio uninstall", c.last)
			want("sessio uninstall", "", "nothing here was written by sessio install\n")
			left, _ := inRoot(t, runner, "find /etc /lib /var/run -name '*sessio*'")
			if left = strings.ReplaceAll(left, "find: /lib: No such file or directory\n", ""); left != "" {
				t.Errorf("left behind: %s", left)
			}
			// What somebody else has written stays.
			inTree(t, root, c.file, "#!/bin/sh\n# mine\n", 0o755)
			if out, code := inRoot(t, runner, "sessio install"); code != 1 || !strings.Contains(out, c.file+" is there, and sessio install has not written it") {
				t.Errorf("over a file of somebody else: %d %s", code, out)
			}
			want("sessio uninstall", "", "nothing here was written by sessio install\n")
			if b, err := os.ReadFile(filepath.Join(root, c.file)); err != nil || string(b) != "#!/bin/sh\n# mine\n" {
				t.Errorf("it is %q now, %v", b, err)
			}
		})
	}
}

// Lines of others stay in a crontab; one that cannot be read is not written.
func TestInstallKeepsTheCrontab(t *testing.T) {
	tool, err := labTool()
	if err != nil {
		t.Fatal(err)
	}
	built, err := os.ReadFile(tool)
	if err != nil {
		t.Fatal(err)
	}
	root := newInstallRoot(t)
	runner := rootRunner(t, root)
	inTree(t, root, "usr/bin/sessio", string(built), 0o755)
	const others = "# mine\n\n5 4 * * * echo 'a  b' \\% \"$HOME\" # sessio install is not the end\n@reboot x"
	line := func(flags string) string {
		return "* * * * * /usr/bin/sessio -device " + flags + " -once >/dev/null 2>&1 # sessio install\n"
	}
	inTree(t, root, "var/spool/cron/crontabs/root", others, 0o600) // without a newline at its end
	crontab := func(do, want string) {
		t.Helper()
		out, code := inRoot(t, runner, do)
		got, _ := os.ReadFile(filepath.Join(root, "var/spool/cron/crontabs/root"))
		if code != 0 || string(got) != want {
			t.Errorf("%s: %d %s\nthe crontab is\n%s\nwant\n%s", do, code, out, got, want)
		}
	}
	crontab("sessio install", others+"\n"+line("-dir /root/.sessio"))
	crontab("sessio install", others+"\n"+line("-dir /root/.sessio"))
	crontab("sessio install -- -device -dir '/root/a b' -listen '[::]:7'", others+"\n"+line("-dir '/root/a b' -listen '[::]:7'"))
	crontab("sessio uninstall", others+"\n")
	os.Remove(filepath.Join(root, "var/spool/cron/crontabs/root"))
	if err := os.Mkdir(filepath.Join(root, "var/spool/cron/crontabs/root"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, do := range []string{"sessio install", "sessio uninstall"} {
		if out, code := inRoot(t, runner, do); code != 1 || !strings.Contains(out, "s a directory\n") || !strings.Contains(out, "sessio: cron: exit status 1\n") {
			t.Errorf("%s: %d %s", do, code, out)
		}
	}
}

// A plain user gets no more than is theirs.
func TestInstallAsAPlainUser(t *testing.T) {
	tool, err := labTool()
	if err != nil {
		t.Fatal(err)
	}
	built, err := os.ReadFile(tool)
	if err != nil {
		t.Fatal(err)
	}
	root := newInstallRoot(t)
	runner := rootRunner(t, root)
	inTree(t, root, "usr/bin/sessio", string(built), 0o755)
	inTree(t, root, "etc/passwd", "root:x:0:0:root:/root:/bin/ash\nme:x:1000:1000::/home/me:/bin/ash\n", 0o644)
	inTree(t, root, "usr/bin/systemctl", installStub, 0o755)
	for _, c := range []struct {
		line string
		code int
		want string
	}{
		{"mkdir -p /home/me && chown 1000 /home/me && : >/tmp/calls && chmod 666 /tmp/calls", 0, ""},
		{"su me -c 'sessio install -init procd'", 1, "sessio: services of procd belong to root\nhint: run this as root, or with -init cron\n"},
		{"su me -c 'sessio install -init systemd'", 0, "wrote /home/me/.config/systemd/user/sessio.service\n"},
		{"su me -c 'sessio install -init systemd'", 0, "until you run: sudo loginctl enable-linger me\n"},
		{"grep -A1 Install /home/me/.config/systemd/user/sessio.service", 0, "\nWantedBy=default.target\n"},
		{"su me -c 'sessio uninstall'", 0, "run: systemctl --user disable --now sessio; "},
		{"ls /home/me/.config/systemd/user | wc -l", 0, "0\n"},
		{"cat /tmp/calls", 0, "systemctl --user enable --now sessio\n"},
	} {
		if out, code := inRoot(t, runner, c.line); code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: status %d, want %q in\n%s", c.line, code, c.want, out)
		}
	}
}
