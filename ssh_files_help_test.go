//go:build linux

package main

// What tests of files over sessions share: a server with settings and an audit,
// a client that sends requests of SFTP one by one, and one of SCP.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// A filesTest is a server whose settings can be changed between logins.
type filesTest struct {
	*sshdTest
	dir string // for files: everybody may write there, and no link leads to it

	confMu    sync.Mutex
	conf      serverConfig
	grant     keyLimits
	caps      []string
	audit     *auditLog
	auditFile string
}

// startFilesTest logs in as who runs the test, or by a child as nobody.
func startFilesTest(t *testing.T, child bool) *filesTest {
	t.Helper()
	f := &filesTest{conf: *defaultServerConfig(), caps: sshdAllCaps, auditFile: filepath.Join(t.TempDir(), "audit")}
	f.conf.maxSessionsPerUser = 100
	f.audit, _ = auditTestOpen(t, auditExporter{kind: "file", path: f.auditFile})
	var nobody osAccount
	if child {
		nobody = sshdNobody(t)
	}
	f.sshdTest = startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		if child {
			d.acct, d.user = nobody, nobody.name
		}
		p.audit = func() *auditLog { return f.audit }
		p.config = func() *serverConfig {
			f.confMu.Lock()
			defer f.confMu.Unlock()
			c := f.conf
			return &c
		}
		allow := p.authorize
		p.authorize = func(key ssh.PublicKey, user string) (sshGrant, error) {
			grant, err := allow(key, user)
			f.confMu.Lock()
			defer f.confMu.Unlock()
			grant.keyLimits, grant.caps = f.grant, f.caps
			return grant, err
		}
	})
	f.dir = f.open(t.TempDir())
	f.setAccount(func(a *osAccount) { a.home = f.dir })
	return f
}

// open lets everybody into a directory of the test's.
func (f *filesTest) open(dir string) string {
	f.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	for p := dir; err == nil && filepath.Dir(p) != "/"; p = filepath.Dir(p) {
		err = os.Chmod(p, 0o777)
	}
	if err != nil {
		f.Fatal(err)
	}
	return dir
}

func (f *filesTest) set(change func(*serverConfig)) {
	f.confMu.Lock()
	defer f.confMu.Unlock()
	change(&f.conf)
}

// records closes the audit and reads it.
func (f *filesTest) records() []auditTestRecord {
	f.Helper()
	f.srv.closeAll(0)
	f.audit.close()
	return auditTestFile(f.T, f.auditFile)
}

// A rawSFTP is a client of SFTP, of one request at a time.
type rawSFTP struct {
	t    testing.TB
	ch   ssh.Channel
	errs *sshdBuffer
	id   uint32
	code chan int            // the exit status, -1 for none, when the channel has ended
	seen func(packet []byte) // may be nil
}

// sftp opens a session on a connection of its own.
func (f *filesTest) sftp() *rawSFTP {
	f.Helper()
	c, err := openRawSFTP(f.T, f.mustDial())
	if err != nil {
		f.Fatal(err)
	}
	return c
}

// openRawSFTP returns the client of a session that did not get as far, too.
func openRawSFTP(t testing.TB, cl *ssh.Client) (*rawSFTP, error) {
	ch, reqs, err := cl.OpenChannel("session", nil)
	if err != nil {
		return nil, err
	}
	c := &rawSFTP{t: t, ch: ch, errs: new(sshdBuffer), code: make(chan int, 1)}
	go func() {
		code := -1
		for req := range reqs {
			if m := (struct{ Status uint32 }{}); req.Type == "exit-status" && ssh.Unmarshal(req.Payload, &m) == nil {
				code = int(m.Status)
			}
		}
		c.code <- code
	}()
	go io.Copy(c.errs, ch.Stderr())
	ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
	if err == nil && !ok {
		err = errors.New("the subsystem is refused")
		ch.Close()
	}
	if err == nil {
		_, err = c.try(sftpRequest{kind: sftpInit, id: sftpVersion})
	}
	return c, err
}

func (c *rawSFTP) try(r sftpRequest) (sftpReply, error) {
	if r.kind != sftpInit {
		c.id++
		r.id = c.id
	}
	if _, err := c.ch.Write(r.appendTo(nil)); err != nil {
		return sftpReply{}, err
	}
	packet, err := readSFTPPacket(c.ch, nil)
	if err != nil {
		return sftpReply{}, err
	}
	if c.seen != nil {
		c.seen(packet)
	}
	reply, err := parseSFTPReply(packet)
	if err == nil && reply.id != r.id {
		err = fmt.Errorf("answer to %d instead of %d", reply.id, r.id)
	}
	return reply, err
}

func (c *rawSFTP) do(r sftpRequest) sftpReply {
	c.t.Helper()
	reply, err := c.try(r)
	if err != nil {
		c.t.Fatalf("%s %q: %v %s", sftpRequestName(&r), r.path, err, c.errs)
	}
	return reply
}

// one does a request whose field is a path or handle.
func (c *rawSFTP) one(kind byte, p string) sftpReply {
	c.t.Helper()
	return c.do(sftpRequest{kind: kind, path: p})
}

// ext does an extension of strings.
func (c *rawSFTP) ext(name string, args ...string) sftpReply {
	c.t.Helper()
	var rest []byte
	for _, a := range args {
		rest = appendSFTPString(rest, a)
	}
	return c.do(sftpRequest{kind: sftpExtended, path: name, rest: rest})
}

func (c *rawSFTP) openFile(p string, pflags uint32) sftpReply {
	c.t.Helper()
	return c.do(sftpRequest{kind: sftpOpen, path: p, pflags: pflags})
}

const sftpOpenNew = sftpOpenWrite | sftpOpenCreate | sftpOpenTrunc

// put writes a file; the first answer that is not good is returned, else the
// last.
func (c *rawSFTP) put(p, text string, pflags uint32) sftpReply {
	c.t.Helper()
	h := c.openFile(p, pflags)
	if h.kind != sftpHandle {
		return h
	}
	w := c.do(sftpRequest{kind: sftpWrite, path: string(h.data), data: []byte(text)})
	end := c.one(sftpClose, string(h.data))
	if w.code != sftpOK {
		return w
	}
	return end
}

// get reads up to 4 KiB of a file.
func (c *rawSFTP) get(p string) (string, sftpReply) {
	c.t.Helper()
	h := c.openFile(p, sftpOpenRead)
	if h.kind != sftpHandle {
		return "", h
	}
	r := c.do(sftpRequest{kind: sftpRead, path: string(h.data), length: 4096})
	return string(r.data), c.one(sftpClose, string(h.data))
}

// wait is the exit status, -1 where there was none.
func (c *rawSFTP) wait() int {
	io.Copy(io.Discard, c.ch)
	c.ch.Close()
	code := <-c.code
	c.code <- code
	return code
}

// end closes the input and waits.
func (c *rawSFTP) end() int {
	c.ch.CloseWrite()
	return c.wait()
}

func filesStatus(err error) int {
	if exit := (*ssh.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitStatus()
	}
	if err != nil {
		return -1
	}
	return 0
}

// scp runs a command of SCP with all input at once.
func (f *filesTest) scp(command, in string) (out, errs string, status int) {
	f.Helper()
	cl := f.mustDial()
	defer cl.Close()
	s := f.newSession(cl)
	var o, e sshdBuffer
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(in), &o, &e
	status = filesStatus(s.Run(command))
	return o.String(), e.String(), status
}

// filesTree is a directory as text, with the times of files.
func filesTree(t testing.TB, dir string) string {
	t.Helper()
	return treeText(t, dir, func(st fs.FileInfo) any {
		if st.Mode().IsRegular() {
			return st.ModTime().UnixNano()
		}
		return ""
	})
}
