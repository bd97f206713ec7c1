//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestPermitRules(t *testing.T) {
	for _, c := range []struct {
		rule, name, addr string
		port             uint16
		want             bool
	}{
		{"*:*", "db.example", "127.0.0.1", 5, true},
		{"*:80", "", "192.0.2.1", 80, true},
		{"*:80", "", "192.0.2.1", 81, false},
		{"*:80*", "", "192.0.2.1", 8080, true},
		{"192.0.2.1:80", "", "192.0.2.1", 80, true},
		{"192.0.2.1:80", "any.example", "192.0.2.1", 80, true},
		{"[192.0.2.1]:80", "", "192.0.2.1", 80, true},
		{"192.0.2.*:80", "", "192.0.2.9", 80, true},
		{"10.*:*", "10.example", "127.0.0.1", 80, false},
		{"10.*:*", "10.example", "10.0.0.1", 80, true},
		{"[2001:DB8::0:1]:*", "", "2001:db8::1", 1, true},
		{"[2001:db8:*]:*", "", "2001:db8::1", 1, true},
		{"[::ffff:10.0.0.1]:*", "", "10.0.0.1", 1, true},
		{"db.example:5432", "db.example", "10.0.0.1", 5432, true},
		{"DB.example:5432", "db.example", "10.0.0.1", 5432, true},
		{"db.example:5432", "db2.example", "10.0.0.1", 5432, false},
		{"db.example:5432", "", "10.0.0.1", 5432, false},
		{"*.example:*", "a.example", "10.0.0.1", 1, true},
		{"*.example:*", "a.example", "127.0.0.1", 1, false},
		{"*.example:*", "a.example", "169.254.1.1", 1, false},
		{"*.example:*", "a.example", "0.0.0.0", 1, false},
		{"*.example:*", "a.example", "fe80::1", 1, false},
		{"attic:*", "attic", "127.0.1.1", 1, true},
		{"localhost:*", "localhost", "::1", 1, true},
		{"localhost:*", "evil.example", "::1", 1, false},
		{"[ab]*.lan:1", "b1.lan", "10.0.0.1", 1, true},
	} {
		r, err := parsePermit(c.rule)
		if err != nil {
			t.Errorf("%q: %v", c.rule, err)
			continue
		}
		if got := r.hasPort(c.port) && r.allows(c.name, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%q for %q at %s, %d: %v", c.rule, c.name, c.addr, c.port, got)
		}
	}
	for _, bad := range []string{"", "host", ":80", "host:", "::1:80", "host:http", "host:70000", "host:080", "[::1]80", "[x:1", "a[:1"} {
		if r, err := parsePermit(bad); err == nil {
			t.Errorf("%q became %+v", bad, r)
		}
	}
}

// TestPermitListens: permitlisten is about the words that the client uses.
func TestPermitListens(t *testing.T) {
	for _, c := range []struct {
		rules []string
		host  string
		port  uint16
		want  bool
	}{
		{nil, "x", 1, true},
		{[]string{}, "x", 1, false},
		{[]string{"8080"}, "localhost", 8080, true},
		{[]string{"8080"}, "", 8080, true},
		{[]string{"8080"}, "localhost", 0, false},
		{[]string{"*"}, "localhost", 0, true},
		{[]string{"localhost:8080"}, "localhost", 8080, true},
		{[]string{"localhost:8080"}, "127.0.0.1", 8080, false},
		{[]string{"[::1]:*"}, "::1", 7, true},
		{[]string{"nonsense here", "local*:7"}, "localhost", 7, true},
		{[]string{"nonsense here"}, "localhost", 7, false},
	} {
		if got := permitListOf(c.rules, "*").listens(c.host, c.port); got != c.want {
			t.Errorf("%q, %q port %d: %v", c.rules, c.host, c.port, got)
		}
	}
}

// TestPermitted: what is dialled is what was judged.
func TestPermitted(t *testing.T) {
	for _, c := range []struct {
		a, b []string
		host string
		want string
	}{
		{nil, nil, "Some.Host", "Some.Host:80"},
		{[]string{"127.0.0.1:80"}, nil, "localhost", "127.0.0.1:80"},
		{[]string{"localhost:80"}, []string{"127.0.0.0:80", "127.0.0.1:*"}, "LocalHost", "127.0.0.1:80"},
		{[]string{"127.0.0.1:80"}, nil, "::ffff:127.0.0.1", "127.0.0.1:80"},
		{[]string{"192.0.2.1:80"}, nil, "localhost", ""},
		{[]string{"*:80"}, []string{}, "localhost", ""},
		{[]string{"*:80"}, []string{"*:81"}, "192.0.2.1", ""},
		{[]string{"other.example:80"}, nil, "not-even-asked-for.invalid", ""},
		{[]string{"[fe80::1]:80"}, nil, "fe80::1%lo", "[fe80::1%lo]:80"},
		{[]string{"localhost:80"}, nil, "127.0.0.1", ""},
	} {
		got, err := permitted(context.Background(), []permitList{permitListOf(c.a, ""), permitListOf(c.b, "")}, c.host, 80)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q and %q, %q: %q, %v", c.a, c.b, c.host, got, err)
		}
		if denied := (*permitError)(nil); c.want == "" && !errors.As(err, &denied) {
			t.Errorf("%q: %v", c.host, err)
		}
	}
}

// TestSSHDForwardGates: what is switched off, not granted or not permitted is
// refused with the reason.
func TestSSHDForwardGates(t *testing.T) {
	caps, conf, limits := sshdAllCaps, defaultServerConfig(), keyLimits{}
	d := startSSHD(t, func(d *sshdTest, p *sshPolicy) {
		p.config = func() *serverConfig { return conf }
		p.authorize = func(key ssh.PublicKey, user string) (sshGrant, error) {
			g, err := d.authorize(caps)(key, user)
			g.keyLimits = limits
			return g, err
		}
	})
	target := sshdEcho(t, func(nc *net.TCPConn) { io.WriteString(nc, "x") })
	refused := func(want string, f func(*ssh.Client) error) {
		t.Helper()
		cl := d.mustDial()
		defer cl.Close()
		err := f(cl)
		open := (*ssh.OpenChannelError)(nil)
		switch {
		case want == "" && err != nil:
			t.Errorf("refused: %v", err)
		case want != "" && (!errors.As(err, &open) || open.Reason != ssh.Prohibited || open.Message != want) && !strings.Contains(d.logged(), want):
			t.Errorf("%v, want %q", err, want)
		}
		d.mu.Lock()
		d.logs = nil
		d.mu.Unlock()
	}
	tcp := func(cl *ssh.Client) error {
		nc, err := cl.Dial("tcp", target)
		if err == nil {
			nc.Close()
		}
		return err
	}
	unixDial := func(cl *ssh.Client) error { _, err := cl.Dial("unix", "/nonexistent"); return err }
	asked := func(kind string, m any) func(*ssh.Client) error {
		return func(cl *ssh.Client) error {
			if ok, _, _ := cl.SendRequest(kind, true, ssh.Marshal(m)); !ok {
				return errors.New("no")
			}
			return nil
		}
	}
	agent := func(cl *ssh.Client) error {
		if ok, _ := d.newSession(cl).SendRequest(agentRequest, true, nil); !ok {
			return errors.New("no")
		}
		return nil
	}
	listen := asked(listenTCP, listenMsg{"localhost", 0})
	listenPath := asked(listenUnix, listenUnixMsg{d.dir + "/s"})

	refused("", tcp)
	refused("switched off here: forward.streamlocal", unixDial)
	refused("switched off here: forward.remote", listen)
	refused("switched off here: forward.streamlocal", listenPath)
	refused("switched off here: forward.agent", agent)
	local := sshdFreePort(t)
	stock := d.ssh("-v", "-N", "-L", local+":/nonexistent", "h")
	var stderr sshdBuffer
	stock.Stderr = &stderr
	if err := stock.Start(); err != nil {
		t.Fatal(err)
	}
	sshdUntil(t, "the client's reason", func() bool {
		if nc, err := net.Dial("tcp", local); err == nil {
			io.ReadAll(nc)
			nc.Close()
		}
		return strings.Contains(stderr.String(), "open failed: administratively prohibited: switched off here: forward.streamlocal")
	})
	stock.Process.Kill()
	stock.Wait()

	conf.forwardLocal, conf.forwardRemote, conf.forwardStreamlocal, conf.forwardAgent = false, true, true, true
	refused("switched off here: forward.local", tcp)
	_, said, _ := d.run(d.ssh("-v", "-W", target, "h"))
	if !strings.Contains(said, "administratively prohibited: switched off here: forward.local") {
		t.Errorf("stock ssh says %q", said)
	}
	refused("", listen)
	refused("", listenPath)
	refused("", agent)
	conf.forwardLocal = true

	caps = []string{"shell", "exec"}
	for _, f := range []func(*ssh.Client) error{tcp, unixDial, listen, listenPath} {
		refused(notGranted("forward").Error(), f)
	}
	refused("", agent)
	caps = sshdAllCaps

	limits = keyLimits{noAgent: true, permitOpen: []string{"127.0.0.1:1"}, permitListen: []string{"localhost:1"}}
	refused("the key may not forward an agent", agent)
	refused("forwarding to "+target+" is not permitted", tcp)
	refused(`listening on "localhost" port 0 is not permitted`, listen)
	refused("what is permitted are hosts and ports, no Unix sockets", unixDial)
	refused("what is permitted are hosts and ports, no Unix sockets", listenPath)
	limits = keyLimits{permitOpen: []string{target}}
	refused("", tcp)
	conf.permit = []string{"192.0.2.*:*"}
	refused("forwarding to "+target+" is not permitted", tcp)
}

func FuzzParsePermit(f *testing.F) {
	for _, s := range []string{"*:*", "[::1]:80", "[2001:db8:*]:8?", "[ab]*.lan:[0-9]", "localhost:1", "10.*:*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parsePermit(s)
		if err != nil {
			return
		}
		again, err := parsePermit(net.JoinHostPort(r.host, r.port))
		if strings.ContainsAny(r.host, "[]") {
			again, err = parsePermit(r.host + ":" + r.port)
		}
		if err != nil || again != r {
			t.Errorf("%q became %+v, and that %+v, %v", s, r, again, err)
		}
		r.allows("a.example", netip.IPv6Loopback())
		r.hasPort(80)
	})
}
