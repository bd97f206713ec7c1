package main

// This file is the verb forward start: local ports whose connections come out
// at the device. The listeners stay while the connection to the device is lost
// and made again. A person types [BIND:]PORT:HOST:PORT, with IPv6 addresses in
// brackets, and paths of Unix sockets on either side.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

func forwardStartVerb() verb {
	return verb{name: "forward start", usage: "[-l LOGIN] [-v] [-D [BIND:]PORT] [LOGIN@]DEVICE [BIND:]PORT:HOST:PORT…", summary: "ports here that lead to addresses that the device reaches",
		more: "BIND is the address to listen on here, localhost if left out. HOST is resolved on\nthe device. -D makes a port where programs say by SOCKS (4, 4a, 5) where they\nwant to go from there. Each line printed is a port that answers; ^C ends them.",
		setup: func(f *flag.FlagSet) verbRun {
			user := loginFlag(f)
			dynamic := f.String("D", "", "a SOCKS `port` here, as [BIND:]PORT, to all that the device reaches")
			return onDevice(f, func(o operands) (forwardArgs, error) { return parseForwardOperands(o.all(), *user, *dynamic) }, cmdForward)
		}}
}

// A forwardSpec is one local forward: connections to the local end come out at
// the remote one.
type forwardSpec struct {
	local, remote forwardEnd
	dynamic       bool // who connects says by SOCKS where to; remote is empty
}

// A forwardEnd is a host and port, or the path of a Unix socket. An empty host
// at the local end is loopback, "*" is every address.
type forwardEnd struct {
	path string
	host string
	port uint16
}

func (e forwardEnd) String() string {
	if e.path != "" {
		return e.path
	}
	return net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))
}

// String is the form that parseForwardSpec reads.
func (f forwardSpec) String() string {
	local := f.local.path
	if local == "" {
		local = strconv.Itoa(int(f.local.port))
		if f.local.host != "" {
			local = f.local.String()
		}
	}
	if f.dynamic {
		return local
	}
	return local + ":" + f.remote.String()
}

// leadsTo is where a forward goes, for people.
func (f forwardSpec) leadsTo() string {
	if f.dynamic {
		return "what is asked for by SOCKS"
	}
	return f.remote.String()
}

// parseForwardSpec reads what -L of ssh takes.
func parseForwardSpec(s string) (forwardSpec, error) {
	f, err := splitForwardSpec(s)
	if err != nil {
		return forwardSpec{}, usageError("forward %q: %w", s, err)
	}
	return f, nil
}

func splitForwardSpec(s string) (f forwardSpec, err error) {
	fields, err := forwardFields(s)
	if err != nil {
		return f, err
	}
	last := len(fields) - 1
	remoteLen := 2
	if isSocketPath(fields[last]) {
		remoteLen = 1
		f.remote.path = fields[last]
	} else if last < 1 {
		return f, errors.New("want [BIND:]PORT:HOST:PORT")
	} else if f.remote, err = hostAndPort(fields[last-1], fields[last]); err != nil {
		return f, err
	}
	if f.remote.path == "" && (f.remote.host == "" || f.remote.port == 0) {
		return f, errors.New("the far end needs a host and a port other than 0")
	}
	switch local := fields[:len(fields)-remoteLen]; {
	case len(local) == 1 && isSocketPath(local[0]):
		f.local.path = local[0]
	case len(local) == 1:
		f.local, err = hostAndPort("", local[0])
	case len(local) == 2:
		f.local, err = hostAndPort(local[0], local[1])
		if f.local.host == "" { // ":8080:…" is every address, as with ssh
			f.local.host = "*"
		}
	default:
		err = errors.New("want [BIND:]PORT:HOST:PORT")
	}
	return f, err
}

// forwardFields splits at colons outside of brackets, and takes the brackets
// away.
func forwardFields(s string) (fields []string, err error) {
	for {
		if !strings.HasPrefix(s, "[") {
			field, rest, more := strings.Cut(s, ":")
			if strings.ContainsAny(field, "[]") {
				return nil, errors.New("a bracket inside of a field")
			}
			fields = append(fields, field)
			if !more {
				return fields, nil
			}
			s = rest
			continue
		}
		field, rest, closed := strings.Cut(s[1:], "]")
		if !closed || strings.Contains(field, "[") || field == "" {
			return nil, errors.New("brackets do not match")
		}
		fields = append(fields, field)
		if rest == "" {
			return fields, nil
		}
		if rest[0] != ':' {
			return nil, errors.New("a bracket inside of a field")
		}
		s = rest[1:]
	}
}

func isSocketPath(s string) bool { return strings.Contains(s, "/") }

func hostAndPort(host, port string) (forwardEnd, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || port != strconv.FormatUint(n, 10) {
		return forwardEnd{}, fmt.Errorf("%q is not a port", port)
	}
	if strings.ContainsAny(host, "/ \t\r\n\x00") {
		return forwardEnd{}, fmt.Errorf("%q is not a host", host)
	}
	return forwardEnd{host: host, port: uint16(n)}, nil
}

type forwardArgs struct {
	target target
	specs  []forwardSpec
}

// parseForwardOperands reads DEVICE SPEC…; with -D there may be no SPEC.
func parseForwardOperands(operands []string, user, dynamic string) (forwardArgs, error) {
	if len(operands) == 0 || len(operands) < 2 && dynamic == "" {
		return forwardArgs{}, usageError("forward start needs a device and [BIND:]PORT:HOST:PORT, or -D [BIND:]PORT")
	}
	t, err := parseTarget(operands[0], user)
	if err != nil {
		return forwardArgs{}, err
	}
	args := forwardArgs{target: t}
	if dynamic != "" {
		f, err := parseDynamicSpec(dynamic)
		if err != nil {
			return forwardArgs{}, err
		}
		args.specs = append(args.specs, f)
	}
	for _, s := range operands[1:] {
		f, err := parseForwardSpec(s)
		if err != nil {
			return forwardArgs{}, err
		}
		args.specs = append(args.specs, f)
	}
	return args, nil
}

// A forwarder serves all forwards of one verb over one connection at a time.
type forwarder struct {
	op     sshOpener
	target target
	log    io.Writer // what people should know while it runs
	slots  chan struct{}

	mu     sync.Mutex
	client *sshClient    // guarded by mu; nil while there is none
	change chan struct{} // guarded by mu; closed when client changes
}

// maxForwarded is how many connections are forwarded at once; more wait
// unaccepted. Each costs up to 2 MiB of window in the worst case.
const maxForwarded = 256

// cmdForward returns when ctx ends, on a signal, or when the device says no
// for good. Once it has printed its lines, the ports answer.
func cmdForward(ctx context.Context, op sshOpener, files stdio, args forwardArgs) error {
	for _, f := range args.specs {
		if f.remote.path != "" {
			return usageError("forward %q: a Unix socket on the device cannot be reached yet, a port can", f)
		}
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	t := args.target
	fw := &forwarder{op: op, target: t, log: files.err,
		slots: make(chan struct{}, maxForwarded), change: make(chan struct{})}
	first, err := dialSSH(ctx, op, t.device, t.login)
	if err != nil {
		return err
	}
	listeners, err := listenAll(args.specs)
	if err != nil {
		first.close()
		return err
	}
	for _, l := range listeners {
		fmt.Fprintf(files.out, "forwarding %s to %s on %s\n", l.Addr(), l.spec.leadsTo(), first.device)
	}
	return fw.serve(ctx, first, listeners)
}

// serve accepts until ctx ends or no connection can be had any more.
func (fw *forwarder) serve(ctx context.Context, first *sshClient, listeners []forwardListener) error {
	ctx, end := context.WithCancelCause(ctx)
	var loops sync.WaitGroup
	loops.Go(func() { end(fw.keepConnected(ctx, first)) })
	for _, l := range listeners {
		unhook := context.AfterFunc(ctx, func() { l.Close() })
		defer unhook()
		loops.Go(func() { end(fw.accept(ctx, l, &loops)) })
	}
	loops.Wait()
	return endedBy(ctx)
}

// keepConnected makes the connection again whenever it is lost, until ctx ends
// or the device refuses for a reason that time does not heal.
func (fw *forwarder) keepConnected(ctx context.Context, client *sshClient) error {
	for {
		fw.set(client)
		unhook := context.AfterFunc(ctx, func() { client.wire.Close() })
		client.Wait()
		unhook()
		lost := client.lost()
		fw.set(nil)
		client.close()
		if ctx.Err() != nil {
			return endedBy(ctx)
		}
		fw.say("%v; connecting again", lost)
		var err error
		if client, err = fw.redial(ctx); err != nil {
			return err
		}
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
		pause := time.NewTimer(redialPause(try))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
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

func (fw *forwarder) set(client *sshClient) {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	fw.client = client
	close(fw.change)
	fw.change = make(chan struct{})
}

// say tells the person at the terminal, in one Write.
func (fw *forwarder) say(format string, args ...any) {
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

// accept serves one listener. Its connections are counted in loops.
func (fw *forwarder) accept(ctx context.Context, l forwardListener, loops *sync.WaitGroup) error {
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
		loops.Go(func() {
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
		return spec.remote.String(), fw.forward(ctx, conn, spec.remote, nil)
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
	host, port := originOf(conn)
	ch, requests, err := client.OpenChannel("direct-tcpip", ssh.Marshal(directTCPMsg{to.host, uint32(to.port), host, port}))
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
	joinChannel(client, ch, requests, conn)
	return nil
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

// A forwardListener is one listening socket of a spec.
type forwardListener struct {
	net.Listener
	spec forwardSpec
}

// listenAll opens every listener or none.
func listenAll(specs []forwardSpec) (all []forwardListener, err error) {
	for _, f := range specs {
		listeners, err := listenForward(f.local)
		for _, l := range listeners {
			all = append(all, forwardListener{l, f})
		}
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, fmt.Errorf("forward %s: %w", f, err)
		}
	}
	return all, nil
}

// listenForward listens on one local end: a path, loopback in both families,
// every address, or the one that is named.
func listenForward(at forwardEnd) ([]net.Listener, error) {
	switch {
	case at.path != "":
		return listenOne("unix", at.path)
	case at.host == "" || at.host == "localhost":
		return listenLoopback(at.port)
	case at.host == "*":
		return listenOne("tcp", net.JoinHostPort("", strconv.Itoa(int(at.port))))
	}
	return listenOne("tcp", at.String())
}

func listenOne(network, address string) ([]net.Listener, error) {
	if network == "unix" {
		removeStaleSocket(address)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o600); err != nil {
			l.Close()
			return nil, err
		}
	}
	return []net.Listener{l}, nil
}

// listenLoopback listens on 127.0.0.1 and ::1, so that "localhost" finds the
// port whatever it resolves to. A machine without IPv6 has only the one. Port
// 0 is any that is free in both.
func listenLoopback(port uint16) ([]net.Listener, error) {
	const tries = 16
	for try := 1; ; try++ {
		v4, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			return nil, err
		}
		v6, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(v4.Addr().(*net.TCPAddr).Port)))
		switch {
		case err == nil:
			return []net.Listener{v4, v6}, nil
		case !hasIPv6Loopback():
			return []net.Listener{v4}, nil
		case port != 0 || try == tries:
			v4.Close()
			return nil, err
		}
		v4.Close()
	}
}

func hasIPv6Loopback() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// removeStaleSocket removes a socket that nobody listens on any more, the
// leaving of a process that was killed. It removes nothing else.
func removeStaleSocket(path string) {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != os.ModeSocket {
		return
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path)
	}
}
