package main

// This file forwards from the device to here (-R): the device is asked to
// listen (RFC 4254, section 7.1; streamlocal-forward of OpenSSH's PROTOCOL,
// section 2.4), and each connection that it takes comes as a channel, whose
// end here is dialled. After a lost link the device is asked anew, for the port
// that it gave before.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/crypto/ssh"
)

// A backForward is one listener at the device.
type backForward struct {
	spec forwardSpec
	port uint16 // guarded by forwarder.mu; what was asked for, then what was given
	up   bool   // guarded by forwarder.mu; the device listens
}

// backHost is the address of a listening end as the device wants it.
func backHost(e forwardEnd) string {
	switch e.host {
	case "":
		return "localhost"
	case "*":
		return "" // every address of every family
	}
	return e.host
}

// at is where the device listens, for people.
func (f *backForward) at(port uint16) string {
	if f.spec.listen.path != "" {
		return f.spec.listen.path
	}
	host := backHost(f.spec.listen)
	if a, _ := netip.ParseAddr(host); host == "" || a.IsUnspecified() {
		host = "localhost" // devices listen on loopback alone
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// adopt has the channels that the device opens lead to where they shall.
func (fw *forwarder) adopt(ctx context.Context, c *sshClient) {
	take := func(nc ssh.NewChannel) { fw.take(ctx, c, nc) }
	c.take.Store(&take)
}

// askBack has the device listen for f. When the port that it gave before is
// taken meanwhile, any other will do, if any would have at first.
func (fw *forwarder) askBack(ctx context.Context, c *sshClient, f *backForward) error {
	fw.asking.Lock()
	defer fw.asking.Unlock()
	fw.mu.Lock()
	port := f.port
	fw.mu.Unlock()
	given, err := askListen(ctx, c, f, port)
	if port != f.spec.listen.port && err != nil && c.lost() == nil {
		given, err = askListen(ctx, c, f, 0)
	}
	if err != nil {
		return err
	}
	fw.mu.Lock()
	f.port, f.up = given, true
	fw.turnLocked("")
	fw.mu.Unlock()
	if port != 0 && given != port {
		fw.say("%s listens on %s now, not on port %d", c.device, f.at(given), port)
	}
	return nil
}

// askListen asks once, and returns the port that the device listens on.
func askListen(ctx context.Context, c *sshClient, f *backForward, port uint16) (given uint16, err error) {
	name, ask := "tcpip-forward", ssh.Marshal(struct {
		Host string
		Port uint32
	}{backHost(f.spec.listen), uint32(port)})
	if path := f.spec.listen.path; path != "" {
		name, ask = "streamlocal-forward@openssh.com", ssh.Marshal(struct{ Path string }{path})
	}
	limit, stop := context.WithTimeoutCause(ctx, maxHandshake, fmt.Errorf("no answer within %v", maxHandshake))
	defer stop()
	unhook := context.AfterFunc(limit, func() { c.wire.end(context.Cause(limit)) })
	ok, answer, err := c.SendRequest(name, true, ask)
	unhook()
	switch {
	case ctx.Err() != nil:
		return 0, endedBy(ctx)
	case err != nil:
		c.wire.Close()
		c.Wait()
		return 0, c.lost()
	case !ok:
		return 0, f.refusal(c.device, port, answer)
	case port != 0 || f.spec.listen.path != "":
		return port, nil
	}
	var m struct{ Port uint32 }
	if ssh.Unmarshal(answer, &m) != nil || m.Port == 0 || m.Port > 65535 {
		return 0, fmt.Errorf("%s says that it listens, and not on which port", c.device)
	}
	return uint16(m.Port), nil
}

// refusal is why the device does not listen. The protocol has no place for a
// reason; what stands behind the refusal all the same is shown.
func (f *backForward) refusal(device string, port uint16, answer []byte) error {
	err := fmt.Errorf("%s refuses to listen on %s", device, f.at(port))
	if len(answer) > 0 && len(answer) <= maxBannerReason {
		err = fmt.Errorf("%w: %s", err, answer)
	}
	if f.spec.listen.path != "" {
		return withHint(err, "is it taken there? forward.streamlocal and forward.remote in the configuration of %s, and its capability forward, allow it", device)
	}
	return withHint(err, "is it taken there, or below 1024? forward.remote in the configuration of %s, and its capability forward, allow it", device)
}

// askAgain asks for all after a link was lost, until the device listens or ctx
// ends: it may hold the port for the old link still.
func (fw *forwarder) askAgain(ctx context.Context, c *sshClient) {
	for try := 0; ; try++ {
		var refused error
		for _, f := range fw.back {
			fw.mu.Lock()
			up := f.up
			fw.mu.Unlock()
			if !up {
				refused = errors.Join(refused, fw.askBack(ctx, c, f))
			}
		}
		if refused == nil || c.lost() != nil || ctx.Err() != nil {
			return
		}
		if try == 0 {
			fw.say("%v; asking again", refused)
		}
		fw.mu.Lock()
		fw.turnLocked(refused.Error())
		fw.mu.Unlock()
		if !pause(ctx, redialPause(try)) {
			return
		}
	}
}

// parseBack reads what a channel from the device says of the end that it came
// in by.
func parseBack(kind string, extra []byte) (at forwardEnd, err error) {
	switch kind {
	case "forwarded-tcpip":
		var m directTCPMsg
		if err := ssh.Unmarshal(extra, &m); err != nil {
			return at, err
		}
		if m.Port == 0 || m.Port > 65535 {
			return at, fmt.Errorf("port %d", m.Port)
		}
		return forwardEnd{host: m.Host, port: uint16(m.Port)}, nil
	case "forwarded-streamlocal@openssh.com":
		var m struct{ Path, Reserved string }
		if err := ssh.Unmarshal(extra, &m); err != nil {
			return at, err
		}
		if m.Path == "" {
			return at, errors.New("no path")
		}
		return forwardEnd{path: m.Path}, nil
	}
	return at, fmt.Errorf("%q is nothing that was asked for", kind)
}

// wanted finds the forward whose listener a connection came in by. Some servers
// name it by another address: of several on that port the one of that host is
// taken first.
func (fw *forwarder) wanted(at forwardEnd) (found *backForward) {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	for _, f := range fw.back {
		if f.spec.listen.path != at.path || f.port != at.port {
			continue
		}
		if backHost(f.spec.listen) == at.host {
			return f
		}
		if found == nil {
			found = f
		}
	}
	return found
}

// take carries one connection that the device has taken. It does not wait.
func (fw *forwarder) take(ctx context.Context, c *sshClient, nc ssh.NewChannel) {
	at, err := parseBack(nc.ChannelType(), nc.ExtraData())
	if err != nil {
		nc.Reject(ssh.Prohibited, "not asked for")
		return
	}
	select {
	case fw.slots <- struct{}{}:
	default:
		nc.Reject(ssh.ResourceShortage, "too many connections")
		return
	}
	fw.loops.Go(func() {
		defer func() { <-fw.slots }()
		f := fw.wanted(at)
		if f == nil { // it may have come before we have read which port was given
			fw.asking.Lock()
			f = fw.wanted(at)
			fw.asking.Unlock()
		}
		if f == nil {
			nc.Reject(ssh.Prohibited, "not asked for")
			return
		}
		if err := fw.carryBack(ctx, c, nc, f.spec.to); err != nil && ctx.Err() == nil {
			fw.say("%s on %s to %s: %v", f.at(at.port), c.device, f.spec.to, err)
		}
	})
}

// carryBack connects to the end here before it accepts, so that who connects
// there is refused when this end refuses. Why is not the device's to know.
func (fw *forwarder) carryBack(ctx context.Context, c *sshClient, nc ssh.NewChannel, to forwardEnd) error {
	network := "tcp"
	if to.path != "" {
		network = "unix"
	}
	limit, stop := context.WithTimeout(ctx, forwardDialTimeout)
	defer stop()
	var d net.Dialer
	conn, err := d.DialContext(limit, network, to.String())
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, "connect failed")
		return err
	}
	defer conn.Close()
	ch, requests, err := nc.Accept()
	if err != nil {
		return nil // the link is lost, which is said elsewhere
	}
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	defer unhook()
	fw.join(c, ch, requests, conn)
	return nil
}
