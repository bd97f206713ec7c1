//go:build linux

package main

// Clients of other makes than OpenSSH's bring files to a device and back.

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestJudgeFilesDropbear: dropbear brings no scp of its own, only the way there.
func TestJudgeFilesDropbear(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newFileJudge(t)
	for _, p := range j.peers {
		j.with(p, "", "dropbearconvert", "openssh", "dropbear", p.dir+"/id", p.dir+"/id.db")
		write(t, p.dir+"/dbclient", "#!/bin/sh\nexec dbclient -y -y -i "+p.dir+"/id.db -p "+p.port+` "$@"`+"\n")
		if err := os.Chmod(p.dir+"/dbclient", 0o700); err != nil {
			t.Fatal(err)
		}
	}
	j.trip(func(p filePeer, src, far, back string) {
		// It knows no -o, which scp begins with, and takes no "--".
		write(t, p.dir+"/dbclient", `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	-o|-l) shift ;;
	-x|-oForwardAgent*|-oPermitLocal*|-oClearAll*|-oRemote*|-oRequest*) ;;
	--) shift; break ;;
	*) break ;;
	esac
	shift
done
exec dbclient -y -y -i `+p.dir+`/id.db -p `+p.port+` "$@"
`)
		at := p.user + "@" + p.host + ":"
		j.with(p, "", "scp", "-O", "-qrp", "-S", p.dir+"/dbclient", src, at+far)
		j.with(p, "", "scp", "-O", "-qrp", "-S", p.dir+"/dbclient", at+far, back)
	})
}

func TestJudgeFilesPutty(t *testing.T) {
	slow(t)
	putty := func(p filePeer) []string {
		return []string{"-batch", "-P", p.port, "-l", p.user, "-hostkey", p.key, "-i", p.dir + "/id.ppk"}
	}
	key := func(j *fileJudge, p filePeer) {
		j.with(p, "", "puttygen", p.dir+"/id", "-O", "private", "-o", p.dir+"/id.ppk", "--new-passphrase", "/dev/null")
	}
	t.Run("psftp", func(t *testing.T) {
		t.Parallel()
		j := newFileJudge(t)
		j.trip(func(p filePeer, src, far, back string) {
			key(j, p)
			batch := write(t, p.dir+"/batch", "put -r "+src+" "+far+"\nget -r "+far+" "+back+"\n")
			j.with(p, "", "psftp", append(putty(p), "-b", batch, p.host)...)
		})
	})
	for _, mode := range []string{"-sftp", "-scp"} {
		t.Run("pscp "+mode, func(t *testing.T) {
			t.Parallel()
			j := newFileJudge(t)
			j.trip(func(p filePeer, src, far, back string) {
				key(j, p)
				if err := os.MkdirAll(back, 0o755); err != nil {
					t.Fatal(err)
				}
				pscp := append([]string{mode, "-q", "-r", "-p"}, putty(p)...)
				if mode == "-sftp" { // it makes no directory by another name
					if err := os.Mkdir(far, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				j.with(p, "", "pscp", append(pscp, src, p.host+":"+far)...)
				if st, err := os.Stat(far + "/src"); err == nil && st.IsDir() {
					if err := os.Rename(far+"/src", far+".moved"); err != nil {
						t.Fatal(err)
					}
					os.Remove(far)
					if err := os.Rename(far+".moved", far); err != nil {
						t.Fatal(err)
					}
				}
				j.with(p, "", "pscp", append(pscp, p.host+":"+far, back)...)
				if err := os.Rename(filepath.Join(back, filepath.Base(far)), back+".moved"); err != nil {
					t.Fatal(err)
				}
				os.Remove(back)
				if err := os.Rename(back+".moved", back); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestJudgeFilesRclone(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newFileJudge(t)
	j.trip(func(p filePeer, src, far, back string) {
		remote := fmt.Sprintf(":sftp,host=%s,port=%s,user=%s,key_file='%s/id',known_hosts_file='%s/known_hosts':", p.host, p.port, p.user, p.dir, p.dir)
		rclone := func(args ...string) string {
			return j.with(p, "", "rclone", append(args, "--config", p.dir+"/rclone.conf", "-q", "--retries", "1")...)
		}
		rclone("copy", "--create-empty-src-dirs", src, remote+far)
		rclone("check", src, remote+far)
		rclone("check", "--download", src, remote+far)
		if err := os.WriteFile(far+"/superfluous", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		rclone("sync", "--create-empty-src-dirs", src, remote+far)
		rclone("copy", "--create-empty-src-dirs", remote+far, back)
		if out := rclone("lsf", "-R", remote+far); !strings.Contains(out, "deep/er/and deeper/säge 'n\" $x\n") {
			t.Errorf("%s: lsf: %q", p.name, out)
		}
	})
}

func TestJudgeFilesLftp(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newFileJudge(t)
	j.trip(func(p filePeer, src, far, back string) {
		j.with(p, "", "lftp", "-c", "set cmd:fail-exit yes; set sftp:connect-program 'ssh -a -x -F "+p.dir+"/config'; open -u "+p.user+",x sftp://h; mirror -R "+src+" "+far+"; mirror "+far+" "+back+"; ls "+far)
	})
}

// TestJudgeFilesCurl: curl has libssh2 beneath.
func TestJudgeFilesCurl(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newFileJudge(t)
	src := filepath.Join(j.work, "src")
	makeTree(t, src)
	var trees [2]string
	for i, p := range j.peers {
		far, back := filepath.Join(j.work, "far-"+p.name), filepath.Join(j.work, "back-"+p.name)
		if err := os.Mkdir(back, 0o755); err != nil {
			t.Fatal(err)
		}
		j.with(p, "", "ssh-keygen", "-q", "-t", "rsa", "-N", "", "-m", "PEM", "-f", p.dir+"/pem") // of its own kinds
		curl := func(args ...string) string {
			return j.with(p, "", "curl", append([]string{"-sS", "-u", p.user + ":", "--key", p.dir + "/id", "--pubkey", p.dir + "/id.pub",
				"--hostpubsha256", strings.TrimPrefix(p.key, "SHA256:")}, args...)...)
		}
		j.with(p, "", "sh", "-c", "ssh-keygen -y -f id >id.pub")
		url := "sftp://" + p.host + ":" + p.port + far
		curl("-T", src+"/big", "--ftp-create-dirs", url+"/a/b/big")
		curl("-T", src+"/run", "-Q", "-chmod 640 "+far+"/a/run", url+"/a/run")
		curl("-T", src+"/run", "-Q", "*rm nothing", url+"/a/page", "-T", src+"/deep/page", url+"/a/page")
		if out := curl(url + "/a/"); !strings.Contains(out, " run\n") {
			t.Errorf("%s: listed as %q", p.name, out)
		}
		curl("-o", back+"/big", url+"/a/b/big")
		curl("-o", back+"/part", "-r", "1000-2999999", url+"/a/b/big")
		curl("-o", back+"/x", "-Q", "rename "+far+"/a/run "+far+"/a/ran", "-Q", "symlink ran "+far+"/a/soft", "-Q", "mkdir "+far+"/c", "-Q", "rmdir "+far+"/c", url+"/a/soft")
		trees[i] = describeTree(t, far) + describeTree(t, back)
	}
	if trees[0] != trees[1] {
		t.Errorf("with sessio\n%swith sshd\n%s", trees[0], trees[1])
	}
}

// TestJudgeFilesPython: testdata/judge has what paramiko and asyncssh do.
func TestJudgeFilesPython(t *testing.T) {
	slow(t)
	for _, script := range []string{"paramiko_files.py", "asyncssh_files.py"} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			path, err := filepath.Abs("testdata/judge/" + script)
			if err != nil {
				t.Fatal(err)
			}
			j := newFileJudge(t)
			j.trip(func(p filePeer, src, far, back string) {
				if out := j.with(p, "", "/usr/bin/python3", "-W", "ignore", "-I", path, p.port, p.user, p.dir+"/id", p.dir+"/known_hosts", src, far, back); out != "all well\n" {
					t.Errorf("%s: %q", p.name, out)
				}
			})
		})
	}
}

func TestJudgeFilesAnsible(t *testing.T) {
	slow(t)
	t.Parallel()
	j := newFileJudge(t)
	j.trip(func(p filePeer, src, far, back string) {
		write(t, p.dir+"/hosts", "h ansible_python_interpreter=/usr/bin/python3\n")
		ansible := func(module, args string) {
			cmd := j.command("ansible", "-i", p.dir+"/hosts", "h", "-o", "-m", module, "-a", args)
			cmd.Env = append(cmd.Env, "LC_ALL=C.UTF-8", "ANSIBLE_SSH_ARGS=-F "+p.dir+"/config -o ControlMaster=auto -o ControlPersist=2",
				"ANSIBLE_REMOTE_TEMP="+p.dir+"/tmp", "ANSIBLE_SSH_CONTROL_PATH="+filepath.Join(j.work, "m"), "ANSIBLE_SSH_TRANSFER_METHOD=sftp")
			if out := j.output(cmd); !strings.HasPrefix(out, "h | CHANGED") {
				t.Errorf("%s: %s %s: %s", p.name, module, args, out)
			}
		}
		ansible("copy", "src="+src+"/ dest="+far+"/ mode=preserve")
		err := filepath.WalkDir(far, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(far, name)
			if d.IsDir() {
				return os.MkdirAll(filepath.Join(back, rel), 0o755)
			}
			if strings.Contains(name, "$") { // it would be a template
				return os.Link(name, filepath.Join(back, rel))
			}
			ansible("fetch", fmt.Sprintf("src='%s' dest='%s' flat=yes", name, filepath.Join(back, rel)))
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestJudgeFilesSshfs: a small project is cloned, built and committed to on a
// mounted directory.
func TestJudgeFilesSshfs(t *testing.T) {
	slow(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE on this system: ", err)
	}
	t.Parallel()
	j := newFileJudge(t)
	p := j.peers[0]
	far, at := filepath.Join(j.work, "far"), filepath.Join(j.work, "mounted")
	for _, dir := range []string{far, at} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	j.with(p, "", "sh", "-ec", `git init -q -b main src
cd src
printf '#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n' >main.c
printf 'all: prog\nprog: main.o\n\tcc -o $@ main.o\n' >Makefile
git add .
git -c user.name=a -c user.email=a@b commit -qm one`)
	j.background("sshfs", "sshfs", []string{"-f", "-F", p.dir + "/config", "h:" + far, at}, false)
	defer exec.Command("fusermount3", "-uz", at).Run()
	j.within(scriptWait, "the mount", func() bool { return exec.Command("mountpoint", "-q", at).Run() == nil })
	out := j.with(p, "", "sh", "-ec", `cd "$0"
git clone -q `+p.dir+`/src clone
cd clone
make -s
./prog
echo more >>main.c.bak
mv main.c.bak main.c.new
echo x >atomic.tmp; mv atomic.tmp Makefile.old; echo y >atomic.tmp; mv atomic.tmp Makefile.old
cat Makefile.old
ln -s main.c link
git add link Makefile.old
git -c user.name=a -c user.email=a@b commit -qm two
git fsck --strict 2>&1
git status --short --untracked-files=no
df . >/dev/null
chmod 600 main.c
touch -d @1000000000 main.c
stat -c '%a %Y' main.c
rm -r .git
rmdir .git 2>/dev/null || echo gone`, at)
	if want := "built\ny\n600 1000000000\ngone\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	if text, err := os.ReadFile(far + "/clone/Makefile.old"); string(text) != "y\n" {
		t.Errorf("there: %q, %v", text, err)
	}
}
