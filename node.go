package main

// This file is a device's process on the network: one socket, one conversation
// with the coordinator, paths to peers and links over them. A verb makes one
// for itself, -device keeps one and lends its links.

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// A nodeConfig is what a node is made of.
type nodeConfig struct {
	id       *identity
	trust    *trustStore // with an anchor
	listen   string      // UDP address, "" = any port
	hold     time.Duration
	beat     bool                // keep presence at the coordinator
	keepPort bool                // ask the router to keep a port open for us
	ssh      *sshServer          // nil: may not be entered
	reached  *reachedFile        // where devices are reached without help; nil: not remembered
	busy     func() (end func()) // told of each link; may be nil
	logf     func(level int, format string, args ...any)
}

// A node owns the socket and all that lives on it.
type node struct {
	nodeConfig
	acct     acctID
	anchor   anchor
	instance instanceID
	mux      *udpMux
	tr       *quic.Transport
	listener *quic.Listener
	sessions *sessionTable
	wake     chan struct{} // the run loop shall look again
	fetch    chan struct{} // the coordinator has records that we lack
	hint     sealHint      // on the coordinator's datagrams to us
	small    bool          // little memory

	strangers exchangeBudget // what unknown peers may send us a minute

	running sync.WaitGroup     // added to by spawn, or by what it counts already
	life    context.Context    // ends when close begins
	stop    context.CancelFunc // ends it

	mu       sync.Mutex
	talk     *coordTalk              // guarded by mu
	peers    *peerTable              // guarded by mu
	nat      *natFinder              // guarded by mu
	ports    *portMapper             // guarded by mu: nil unless keepPort, and behind a NAT
	links    map[*link]bool          // guarded by mu
	dials    map[deviceID]*dialing   // guarded by mu
	hints    map[sealHint]publicKeys // guarded by mu: of the machines in hintsOf
	hintsOf  *trustState             // guarded by mu
	halfOpen map[*halfOpen]bool      // guarded by mu
	changed  chan struct{}           // guarded by mu: closed and made anew when paths or links change
	wanted   logTip                  // guarded by mu: what the coordinator has last
	closed   bool                    // guarded by mu: nothing new may be spawned
}

// A dialing is one attempt under way.
type dialing struct {
	done  chan struct{}
	link  *link
	err   error
	hello chan instanceID // which process it says it is where one was before
}

// candidates are our addresses, or the one that the socket is bound to.
func (n *node) candidates() []netip.AddrPort {
	bound := n.mux.UDPConn.LocalAddr().(*net.UDPAddr).AddrPort()
	if !bound.Addr().IsUnspecified() {
		return []netip.AddrPort{netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())}
	}
	own := localCandidates(bound.Port())
	if at := n.mapped(); at.IsValid() {
		own = append([]netip.AddrPort{at}, own...)
	}
	return own
}

// mapped is the port that the router keeps open for us, if any.
func (n *node) mapped() netip.AddrPort {
	if n.ports == nil {
		return netip.AddrPort{}
	}
	at, _ := n.ports.mapped()
	return at
}

// spawn runs f in a goroutine that close waits for; not once close has begun.
func (n *node) spawn(f func()) (runs bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.running.Go(f)
	}
	return !n.closed
}

// poke makes the loop look again.
func (n *node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// pathsLocked counts the paths there are.
func (n *node) pathsLocked() (paths int) {
	for _, q := range n.peers.byVirtual {
		if q.finder.best != nil {
			paths++
		}
	}
	return paths
}

// changedLocked wakes whoever waits for a path or a link. n.mu must be held.
func (n *node) changedLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// judge asks the log whether a peer may act in a role now; "" is any role.
func (n *node) judge(keys publicKeys, role string) (signedDevice, error) {
	st, now := n.trust.state(), n.trust.now()
	if role != "" {
		return st.judge(keys, role, now)
	}
	dev, err := st.judge(keys, "client", now)
	if codeOf(err) == "role" {
		return st.judge(keys, "server", now)
	}
	return dev, err
}

// memberOf returns the machine of the log whose datagrams bear a hint. n.mu is
// held.
func (n *node) memberOf(hint sealHint) (publicKeys, bool) {
	if st := n.trust.state(); st != n.hintsOf {
		n.hints, n.hintsOf = map[sealHint]publicKeys{}, st
		for _, dev := range st.devices() {
			n.hints[sealHintOf(n.acct, dev.keys.sign)] = dev.keys
		}
	}
	keys, ok := n.hints[hint]
	return keys, ok
}

func (n *node) deviceOf(id deviceID) (signedDevice, bool) {
	st := n.trust.state()
	if st == nil {
		return signedDevice{}, false
	}
	return st.device(id)
}

// exchangeOn runs one exchange of the log with a peer.
func (n *node) exchangeOn(ctx context.Context, rw exchangeStream, peer publicKeys) error {
	_, err := n.judge(peer, "")
	return runExchange(ctx, rw, n.trust, exchangeOpts{peerKnown: err == nil, strangers: &n.strangers})
}

func (n *node) liveLinks() (out []*link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		out = append(out, l)
	}
	return out
}

// addrsOf returns the addresses of the path that a link takes now.
func (n *node) addrsOf(l *link) (local, remote netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := l.proc.finder
	if f.best == nil {
		return netip.AddrPort{}, netip.AddrPort{}
	}
	if f.best.src.local.IsValid() {
		local = netip.AddrPortFrom(f.best.src.local, n.mux.port())
	}
	return local, f.best.src.addr
}
