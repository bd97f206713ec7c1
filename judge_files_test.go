//go:build linux

package main

// Stock clients bring files to a device's TCP port and back, on real processes.
// What each of them makes there is compared with what it makes of OpenSSH's own
// server.

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A fileJudge is one client's machine and the two servers that it is told of,
// as "h" by their own configuration files.
type fileJudge struct {
	*judge
	peers []filePeer
}

// A filePeer is a server. Its files are in a directory of their own: id,
// known_hosts, config.
type filePeer struct {
	name, dir string
	host, key string // fingerprint of the host key
	port      string
	user      string
}

func newFileJudge(t *testing.T) *fileJudge {
	t.Helper()
	j := &fileJudge{judge: newPort(t, "")}
	ours := filepath.Join(j.work, "laptop")
	hostKey, err := os.ReadFile(filepath.Join(j.work, "attic", "hostkey.pub"))
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	j.peers = []filePeer{{"sessio", ours, "127.0.0.1", ssh.FingerprintSHA256(key), j.vars["PORT"], j.vars["USER"]}, j.stockPeer()}
	for i := range j.peers {
		p := &j.peers[i] // paths that do not depend on where a client runs
		text := strings.NewReplacer(" id\n", " "+p.dir+"/id\n", " known_hosts\n", " "+p.dir+"/known_hosts\n").
			Replace(fmt.Sprintf(judgeConfig, p.port, p.user))
		if err := os.WriteFile(p.dir+"/config", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

// stockPeer is OpenSSH's sshd with its sftp-server.
func (j *fileJudge) stockPeer() filePeer {
	p := sshcSSHD(j.t)
	host, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		j.t.Fatal(err)
	}
	dir := filepath.Join(j.work, "stock")
	line := fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(p.hostKey))
	key, err := os.ReadFile(p.keyFile)
	for name, text := range map[string]string{"id": string(key), "known_hosts": line} {
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
		}
	}
	if err != nil {
		j.t.Fatal(err)
	}
	return filePeer{"sshd", dir, host, ssh.FingerprintSHA256(p.hostKey), port, p.users[0]}
}

// treeTimes are what files of a tree are given: a client that keeps times
// leaves them, to the second.
var treeTimes = time.Unix(981173106, 0)

// makeTree makes what clients of all makes can carry.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	big := make([]byte, 3<<20)
	noise(int64(len(big))).Read(big)
	put := func(name string, mode fs.FileMode, text []byte) {
		name = filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		if err == nil {
			err = os.WriteFile(name, text, 0o600)
		}
		if err == nil {
			err = os.Chmod(name, mode)
		}
		if err == nil {
			err = os.Chtimes(name, treeTimes, treeTimes)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("big", 0o644, big)
	put("empty", 0o600, nil)
	put("run", 0o755, []byte("#!/bin/sh\n"))
	put("read only", 0o444, []byte("no more\n"))
	put("deep/er/and deeper/säge 'n\" $x", 0o640, []byte("text\n"))
	put("deep/page", 0o644, big[:255<<10+1])
	if err := os.Mkdir(filepath.Join(dir, "nothing"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// describeTree has a line for each file: what it is, its mode, whether its time
// is that of makeTree, its content.
func describeTree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		what := ""
		switch {
		case st.Mode().IsRegular():
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(text)
			what = fmt.Sprintf("%d %s %t", len(text), hex.EncodeToString(sum[:6]), st.ModTime().Equal(treeTimes))
		case st.Mode()&fs.ModeSymlink != 0:
			what, err = os.Readlink(name)
		}
		fmt.Fprintf(&b, "%q\t%v %s\n", rel, st.Mode(), what)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// contents is describeTree without modes and times.
func contents(tree string) string {
	var b strings.Builder
	for line := range strings.Lines(tree) {
		name, rest, _ := strings.Cut(line, "\t")
		f := strings.Fields(rest)
		fmt.Fprintln(&b, name, f[1:min(3, len(f))], f[0][0] == 'd')
	}
	return b.String()
}

// A fileTrip brings the tree src to far on the peer, and that to back here.
// All of them are absolute and none of far and back is there.
type fileTrip func(p filePeer, src, far, back string)

// trip makes the trip to both servers. Whatever the client keeps of a file it
// keeps with both, and the contents it keeps in any case.
func (j *fileJudge) trip(do fileTrip) {
	j.t.Helper()
	src := filepath.Join(j.work, "src")
	makeTree(j.t, src)
	want := contents(describeTree(j.t, src))
	var stock [2]string
	for i := len(j.peers) - 1; i >= 0; i-- {
		p := j.peers[i]
		far, back := filepath.Join(j.work, "far-"+p.name), filepath.Join(j.work, "back-"+p.name)
		do(p, src, far, back)
		got := [2]string{describeTree(j.t, far), describeTree(j.t, back)}
		for k, tree := range got {
			where := [2]string{"there", "back here"}[k]
			if contents(tree) != want {
				j.t.Errorf("%s, %s: %s\nwant %s", p.name, where, contents(tree), want)
			}
			if stock[k] != "" && tree != stock[k] {
				j.t.Errorf("%s: with sessio\n%swith sshd\n%s", where, tree, stock[k])
			}
		}
		stock = got
	}
}

// with runs a client on the machine of the peer's files, in its directory.
func (j *fileJudge) with(p filePeer, input, name string, args ...string) string {
	j.t.Helper()
	j.input = input
	cmd := j.command(name, args...)
	cmd.Dir = p.dir
	cmd.Env = append(cmd.Env, "HOME="+p.dir, "LC_ALL=C.UTF-8", "XDG_CONFIG_HOME="+p.dir, "XDG_DATA_HOME="+p.dir)
	return j.output(cmd)
}

func TestJudgeFilesSFTP(t *testing.T) {
	t.Parallel()
	j := newFileJudge(t)
	j.trip(func(p filePeer, src, far, back string) {
		j.with(p, "", "sftp", "-F", p.dir+"/config", "-b", write(t, p.dir+"/batch", "put -Rp "+src+" "+far+"\nget -Rp "+far+" "+back+"\n"), "h")
	})
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// sftpVerbs is every verb of sftp(1) that asks the server for something. What
// fails on purpose has a dash.
const sftpVerbs = `pwd
mkdir FAR/d
-mkdir FAR/d
-mkdir FAR/no/d
cd FAR/d
pwd
put -p SRC/big
put SRC/run r1
-put SRC/run no/r1
put -f SRC/run r2
ls -1
ls -l
ls -ln
ls -la FAR/d
ls -1S
ls -1r
-ls nothing
ls -1 r*
chmod 640 r1
-chmod 640 r9
chgrp GID r1
chown UID r1
rename r1 r3
-rename r1 r4
rename -l r3 r4
rename r4 r5
-rename -l r5 r2
rename r5 r2
ln r2 hard
ln -s r2 soft
symlink nowhere dangling
-ln r9 hard
-ln r2 hard
ls -l
get soft BACK/soft
-get dangling BACK/dangling
get -p big BACK/big
reget big BACK/big
put SRC/deep/page grows
reput SRC/big grows
get SRC/deep/page BACK/grows
reget SRC/big BACK/grows
copy big copied
cp r2 copied2
ls -1
rm hard
-rm hard
-rm FAR/d
rm r*
-rmdir FAR/d
mkdir sub
rmdir sub
-rmdir sub
-rmdir big
rm *
rmdir FAR/d
-cd FAR/d
cd FAR
pwd
ls -la
`

// TestJudgeFilesVerbs: sftp prints with us what it prints with sftp-server.
func TestJudgeFilesVerbs(t *testing.T) {
	t.Parallel()
	j := newFileJudge(t)
	src := filepath.Join(j.work, "src")
	makeTree(t, src)
	var said [2]string
	for i, p := range j.peers {
		far, back := filepath.Join(j.work, "far-"+p.name), filepath.Join(j.work, "back-"+p.name)
		for _, dir := range []string{far, back} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(far, treeTimes, treeTimes); err != nil {
			t.Fatal(err)
		}
		verbs := strings.NewReplacer("FAR", far, "SRC", src, "BACK", back, "UID", fmt.Sprint(os.Getuid()), "GID", fmt.Sprint(os.Getgid())).Replace(sftpVerbs)
		cmd := exec.Command("sftp", "-F", p.dir+"/config", "-b", write(t, p.dir+"/batch", verbs), "h")
		cmd.Dir, cmd.Env = p.dir, append(os.Environ(), "LC_ALL=C", "HOME="+p.dir)
		defer timeLimit(cmd)()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", p.name, err, out)
		}
		text := strings.NewReplacer(p.dir, "HOME", far, "FAR", back, "BACK").Replace(string(out))
		lines := strings.Split(text, "\n")
		for k, line := range lines { // the links of a directory that has more in it, and the minute
			if strings.HasSuffix(line, " ..") || strings.HasSuffix(line, " FAR/d/..") {
				lines[k] = "drwx …"
			} else if i := strings.IndexByte(line, ':'); strings.Contains(line, "    ? ") && i > 9 {
				lines[k] = line[:i-9] + line[i+3:]
			}
		}
		said[i] = strings.Join(lines, "\n")
	}
	if said[0] != said[1] {
		t.Errorf("with sessio\n%swith sshd\n%s", said[0], said[1])
	}
	if len(said[1]) < 2000 {
		t.Errorf("sshd said only %s", said[1])
	}
}

func TestJudgeFilesSCP(t *testing.T) {
	for name, mode := range map[string]string{"sftp": "-s", "scp": "-O"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newFileJudge(t)
			j.trip(func(p filePeer, src, far, back string) {
				j.with(p, "", "scp", mode, "-qrp", "-F", p.dir+"/config", src, "h:"+far)
				j.with(p, "", "scp", mode, "-qrp", "-F", p.dir+"/config", "h:"+far, back)
			})
		})
		t.Run(name+" by way of here", func(t *testing.T) {
			t.Parallel()
			j := newFileJudge(t)
			j.trip(func(p filePeer, src, far, back string) {
				j.with(p, "", "scp", mode, "-3", "-qrp", "-F", p.dir+"/config", "h:"+src, "h:"+far)
				j.with(p, "", "scp", mode, "-3", "-qr", "-F", p.dir+"/config", "h:"+far, "h:"+back)
			})
		})
	}
}

// TestJudgeFilesSCPNames: what a login shell would make of the name is what
// scp -O gets, and several sources go into a directory.
func TestJudgeFilesSCPNames(t *testing.T) {
	t.Parallel()
	j := newFileJudge(t)
	src := filepath.Join(j.work, "src")
	makeTree(t, src)
	var trees [2]string
	for i, p := range j.peers {
		far := filepath.Join(j.work, "far-"+p.name)
		if err := os.Mkdir(far, 0o755); err != nil {
			t.Fatal(err)
		}
		scp := func(args ...string) {
			j.with(p, "", "scp", append([]string{"-O", "-q", "-F", p.dir + "/config"}, args...)...)
		}
		scp("h:"+src+"/r*", far)
		scp("-T", "h:'"+src+"/read only'", far+"/quoted") // it would take the quotes for a part of the name
		scp("-T", "h:"+src+"/read\\ only", far+"/escaped")
		scp("h:"+src+"/[be]*", "h:"+src+"/r?n", far)
		scp(src+"/big", src+"/run", "h:'"+far+"'")
		scp(src+"/run", "h:"+far+"/'new name'")
		scp("-p", src+"/run", "h:"+far+"/kept")
		trees[i] = describeTree(t, far)
	}
	if trees[0] != trees[1] {
		t.Errorf("with sessio\n%swith sshd\n%s", trees[0], trees[1])
	}
}
