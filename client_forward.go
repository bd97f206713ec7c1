package main

// This file is the verb forward start: ports here whose connections come out
// at the device, and ports there whose connections come out here. The listeners
// stay while the connection to the device is lost and made again.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

func forwardStartVerb() verb {
	return verb{name: "forward start", usage: "[-f] [-l LOGIN] [-v] [-D [BIND:]PORT]… [-R SPEC]… [LOGIN@]DEVICE [SPEC…]", summary: "ports here that lead to where the device reaches, and with -R back",
		more: "SPEC is [BIND:]PORT:HOST:PORT: where to listen, and where connections shall come\nout. Either side may be the path of a Unix socket, with a slash in it. BIND is the\naddress to listen on, localhost if left out. Without -R this machine listens, and\nthe device connects and resolves HOST; with -R it is the other way round, and port\n0 is any that is free there. -D makes a port where programs say by SOCKS (4, 4a,\n5) where they want to go from there. Each line printed is a port that answers. ^C\nor forward stop ends them.",
		setup: func(f *flag.FlagSet) verbRun {
			dir, verbose, user := dirFlag(f), verboseFlag(f), loginFlag(f)
			behind := f.Bool("f", false, "go to the background once all ports answer; see forward list")
			var dynamic, back []string
			f.Func("D", "a SOCKS `port` here, as [BIND:]PORT, to all that the device reaches", appendTo(&dynamic))
			f.Func("R", "`SPEC` of a forward from the device to here", appendTo(&back))
			return func(ctx context.Context, p *program, o operands) error {
				args, err := parseForwardOperands(o.all(), *user, dynamic, back)
				if err != nil {
					return err
				}
				path, err := dir.path()
				if err != nil {
					return err
				}
				if *behind && os.Getenv(behindEnv) == "" {
					if err := p.withState(dir, func(*client) error { return nil }); err != nil { // what it says is for here
						return err
					}
					return startBehind(ctx, p)
				}
				home := &forwardHome{dir: path, behind: *behind}
				ctx, stop := untilSignal(ctx) // before home has anything to leave behind
				defer stop()
				return home.run(p, func() error {
					return withClient(ctx, p, dir, *verbose, func(ctx context.Context, c *client) error {
						return cmdForward(ctx, c, p.stdio, args, home)
					})
				})
			}
		}}
}

func appendTo(list *[]string) func(string) error {
	return func(s string) error {
		*list = append(*list, s)
		return nil
	}
}

type forwardArgs struct {
	target target
	specs  []forwardSpec
}

// parseForwardOperands reads DEVICE SPEC…; with -D or -R there may be no SPEC.
func parseForwardOperands(operands []string, user string, dynamic, back []string) (args forwardArgs, err error) {
	if len(operands) == 0 || len(operands)+len(dynamic)+len(back) < 2 {
		return args, usageError("forward start needs a device and [BIND:]PORT:HOST:PORT, -R or -D")
	}
	if args.target, err = parseTarget(operands[0], user); err != nil {
		return args, err
	}
	for _, group := range []struct {
		texts []string
		parse func(string) (forwardSpec, error)
	}{
		{dynamic, parseDynamicSpec},
		{operands[1:], func(s string) (forwardSpec, error) { return parseForwardSpec(s, false) }},
		{back, func(s string) (forwardSpec, error) { return parseForwardSpec(s, true) }},
	} {
		for _, s := range group.texts {
			f, err := group.parse(s)
			if err != nil {
				return args, err
			}
			args.specs = append(args.specs, f)
		}
	}
	return args, nil
}

// A forwarder serves all forwards of one verb over one connection at a time.
type forwarder struct {
	op     sshOpener
	target target
	device string // as the log names it
	home   *forwardHome
	log    *os.File // what people should know while it runs
	slots  chan struct{}
	began  time.Time
	here   []forwardListener
	back   []*backForward
	loops  sync.WaitGroup
	asking sync.Mutex // held while the device is asked to listen

	conns   atomic.Int64 // carried now
	in, out atomic.Int64 // bytes from the device, and to it

	mu     sync.Mutex
	client *sshClient    // guarded by mu; nil while there is none
	change chan struct{} // guarded by mu; closed when client changes
	up     bool          // guarded by mu; there is a client, and the device listens
	since  time.Time     // guarded by mu; when up changed
	why    string        // guarded by mu; why it is not up
}

// maxForwarded is how many connections are forwarded at once; more wait
// unaccepted, or are refused where the device has accepted them. Each costs up
// to 2 MiB of window in the worst case.
const maxForwarded = 256

// errForwardStopped is the end that forward stop makes.
var errForwardStopped = errors.New("stopped by forward stop")

// cmdForward returns when ctx ends, on a signal, when it is stopped, or when
// the device says no for good. Once it has printed its lines, the ports answer.
func cmdForward(ctx context.Context, op sshOpener, files stdio, args forwardArgs, home *forwardHome) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	fw := &forwarder{op: op, target: args.target, home: home, log: files.err, began: time.Now(), since: time.Now(),
		slots: make(chan struct{}, maxForwarded), change: make(chan struct{})}
	for _, f := range args.specs {
		if f.back {
			fw.back = append(fw.back, &backForward{spec: f, port: f.listen.port})
		}
	}
	first, err := dialSSH(ctx, op, args.target.device, args.target.login)
	if err != nil {
		return err
	}
	fw.device = first.device
	fw.loops.Add(1) // what the device opens may come before serve has begun
	control, err := fw.open(ctx, first, args.specs)
	if err == nil {
		err = home.ready(files.out, fw.lines())
	}
	if err != nil {
		first.close()
		fw.loops.Done()
		fw.loops.Wait()
		closeListeners(fw.here)
		if control != nil {
			control.Close()
		}
		return err
	}
	if err = fw.serve(ctx, end, first, control); err == errForwardStopped {
		fw.say("%v", err)
		return nil
	}
	return err
}

// open makes every listener here and at the device, and the socket by which
// this process is asked for itself.
func (fw *forwarder) open(ctx context.Context, c *sshClient, specs []forwardSpec) (control net.Listener, err error) {
	if fw.here, err = listenAll(specs); err != nil {
		return nil, err
	}
	fw.adopt(ctx, c)
	for _, f := range fw.back {
		if err := fw.askBack(ctx, c, f); err != nil {
			return nil, fmt.Errorf("-R %s: %w", f.spec, err)
		}
	}
	return fw.home.listen()
}

// lines says of each port where it leads.
func (fw *forwarder) lines() string {
	var b strings.Builder
	fw.mu.Lock()
	defer fw.mu.Unlock()
	for _, l := range fw.linesLocked() {
		fmt.Fprintf(&b, "forwarding %s\n", l.say(fw.device))
	}
	return b.String()
}

// serve accepts until ctx ends or no connection can be had any more.
func (fw *forwarder) serve(ctx context.Context, end context.CancelCauseFunc, first *sshClient, control net.Listener) error {
	fw.loops.Go(func() { end(fw.keepConnected(ctx, first)) })
	fw.loops.Go(func() { fw.control(ctx, control, end) })
	for _, l := range fw.here {
		unhook := context.AfterFunc(ctx, func() { l.Close() })
		defer unhook()
		fw.loops.Go(func() { end(fw.accept(ctx, l)) })
	}
	fw.loops.Done()
	fw.loops.Wait()
	return endedBy(ctx)
}

// keepConnected makes the connection again whenever it is lost, until ctx ends
// or the device refuses for a reason that time does not heal.
func (fw *forwarder) keepConnected(ctx context.Context, client *sshClient) error {
	for {
		fw.set(client, nil)
		unhook := context.AfterFunc(ctx, func() { client.wire.Close() })
		live, gone := context.WithCancel(ctx)
		var asks sync.WaitGroup
		asks.Go(func() { fw.askAgain(live, client) })
		client.Wait()
		gone()
		asks.Wait()
		unhook()
		lost := client.lost()
		fw.set(nil, lost)
		client.close()
		if ctx.Err() != nil {
			return endedBy(ctx)
		}
		fw.say("%v; connecting again", lost)
		var err error
		if client, err = fw.redial(ctx); err != nil {
			return err
		}
		fw.adopt(ctx, client)
		fw.say("connected to %s again", client.device)
	}
}

// redial tries until it succeeds, ctx ends or the refusal is final.
func (fw *forwarder) redial(ctx context.Context) (*sshClient, error) {
	for try := 0; ; try++ {
		client, err := dialSSH(ctx, fw.op, fw.target.device, fw.target.login)
		if err == nil || ctx.Err() != nil || isFinal(err) {
			return client, err
		}
		fw.mu.Lock()
		fw.turnLocked(err.Error())
		fw.mu.Unlock()
		fw.home.trim()
		if !pause(ctx, redialPause(try)) {
			return nil, endedBy(ctx)
		}
	}
}

// redialPause doubles from a tenth of a second to half a minute: a link that
// comes back is used at once, one that does not costs little.
func redialPause(try int) time.Duration {
	const first, last = 100 * time.Millisecond, 30 * time.Second
	return min(first<<min(try, 20), last)
}

// isFinal reports whether err is a verdict, which no repetition changes.
func isFinal(err error) bool {
	switch codeOf(err) {
	case "host-key", "user", "denied", "role", "revoked", "expired", "unknown-device", "key-mismatch":
		return true
	}
	e := (*exitError)(nil)
	return errors.As(err, &e)
}

// set says that there is a connection, or why there is none any more.
func (fw *forwarder) set(client *sshClient, lost error) {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	fw.client = client
	close(fw.change)
	fw.change = make(chan struct{})
	why := ""
	if client == nil {
		why = lost.Error()
		for _, f := range fw.back {
			f.up = false
		}
	}
	fw.turnLocked(why)
}

// turnLocked notes when all became up, or ceased to be, and why. fw.mu must be
// held.
func (fw *forwarder) turnLocked(why string) {
	up := fw.client != nil
	for _, f := range fw.back {
		up = up && f.up
	}
	if up != fw.up {
		fw.up, fw.since = up, time.Now()
	}
	fw.why = why
}

// say tells the person at the terminal, in one Write, or the log.
func (fw *forwarder) say(format string, args ...any) {
	if fw.home.log != nil {
		fw.home.trim()
		(&lineLog{now: time.Now, w: fw.log}).logf(0, format, args...)
		return
	}
	fmt.Fprintf(fw.log, "sessio: %s\n", printable(fmt.Sprintf(format, args...)))
}

// maxForwardWait is how long an accepted connection waits for a lost link to
// come back before it is reset.
const maxForwardWait = 20 * time.Second

// connected returns the live connection to the device, and waits for one.
func (fw *forwarder) connected(ctx context.Context) (*sshClient, error) {
	for {
		fw.mu.Lock()
		client, change := fw.client, fw.change
		fw.mu.Unlock()
		if client != nil && client.lost() == nil {
			return client, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// accept serves one listener.
func (fw *forwarder) accept(ctx context.Context, l forwardListener) error {
	for {
		select {
		case fw.slots <- struct{}{}:
		case <-ctx.Done():
			return endedBy(ctx)
		}
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return endedBy(ctx)
			}
			return fmt.Errorf("listening on %s: %w", l.Addr(), err)
		}
		fw.loops.Go(func() {
			defer func() { <-fw.slots }()
			defer conn.Close()
			to, err := fw.carry(ctx, conn, l.spec)
			if err != nil && ctx.Err() == nil {
				fw.say("%s to %s: %v", l.Addr(), printable(to), err)
			}
		})
	}
}

// carry finds out where a connection shall go, and says so, and carries it.
func (fw *forwarder) carry(ctx context.Context, conn net.Conn, spec forwardSpec) (to string, err error) {
	if !spec.dynamic {
		return spec.to.String(), fw.forward(ctx, conn, spec.to, nil)
	}
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	end, reply, err := askSocks(conn)
	unhook()
	if err != nil {
		return spec.leadsTo(), err
	}
	return end.String(), fw.forward(ctx, conn, end, reply)
}

// forward carries one connection. What cannot be carried to its end is reset,
// so that nobody takes a part for the whole.
func (fw *forwarder) forward(ctx context.Context, conn net.Conn, to forwardEnd, reply socksReply) error {
	patience, stop := context.WithTimeoutCause(ctx, maxForwardWait, errors.New("no link"))
	defer stop()
	client, err := fw.connected(patience)
	if err != nil {
		refuseForward(conn, reply)
		return err
	}
	ch, requests, err := client.OpenChannel(askFor(to, conn))
	if err != nil {
		refuseForward(conn, reply)
		if refused := (*ssh.OpenChannelError)(nil); errors.As(err, &refused) {
			return fmt.Errorf("%s: %s: %q", client.device, refused.Reason, refused.Message)
		}
		return client.lost()
	}
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	defer unhook()
	if reply != nil && reply(true) != nil {
		ch.Close()
		return nil // who asked has gone
	}
	fw.join(client, ch, requests, conn)
	return nil
}

// askFor is the channel that leads to an end at the device: RFC 4254, section
// 7.2, or OpenSSH's PROTOCOL, section 2.4.
func askFor(to forwardEnd, conn net.Conn) (kind string, extra []byte) {
	if to.path != "" {
		return "direct-streamlocal@openssh.com", ssh.Marshal(struct {
			Path, Reserved string
			Reserved2      uint32
		}{Path: to.path})
	}
	host, port := originOf(conn)
	return "direct-tcpip", ssh.Marshal(directTCPMsg{to.host, uint32(to.port), host, port})
}

// join carries one connection, and counts it.
func (fw *forwarder) join(client *sshClient, ch ssh.Channel, requests <-chan *ssh.Request, conn net.Conn) {
	fw.conns.Add(1)
	defer fw.conns.Add(-1)
	joinChannel(client, countedChannel{ch, fw}, requests, conn)
}

type countedChannel struct {
	ssh.Channel
	fw *forwarder
}

func (c countedChannel) Read(b []byte) (int, error) {
	n, err := c.Channel.Read(b)
	c.fw.in.Add(int64(n))
	return n, err
}

func (c countedChannel) Write(b []byte) (int, error) {
	n, err := c.Channel.Write(b)
	c.fw.out.Add(int64(n))
	return n, err
}

// joinChannel copies both ways, each with its own end, until both have ended
// or the far end has closed the channel.
func joinChannel(client *sshClient, ch ssh.Channel, requests <-chan *ssh.Request, conn net.Conn) {
	defer ch.Close()
	var ways sync.WaitGroup
	down := make(chan struct{})
	ways.Go(func() {
		defer close(down)
		writeErr, _ := copyChunks(conn, ch)
		switch {
		case client.lost() != nil:
			resetConn(conn)
		case writeErr != nil:
			ch.Close()
		default:
			closeWriteConn(conn)
		}
	})
	ways.Go(func() {
		writeErr, readErr := copyChunks(ch, conn)
		if readErr != nil {
			ch.Close() // the reader there must not take it for an end
		} else if writeErr == nil {
			ch.CloseWrite()
		}
	})
	ways.Go(func() {
		ssh.DiscardRequests(requests) // ends when the channel is closed
		<-down
		conn.Close()
	})
	ways.Wait()
}

// originOf is where a connection came from, as the channel request wants it.
func originOf(conn net.Conn) (host string, port uint32) {
	host, p, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return "127.0.0.1", 0 // a Unix socket: ssh sends the like
	}
	n, _ := strconv.ParseUint(p, 10, 16)
	return host, uint32(n)
}

func closeWriteConn(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		return
	}
	conn.Close()
}

func resetConn(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}
