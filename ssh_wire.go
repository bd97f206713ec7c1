package main

// This file stands between the SSH library and the network: it gathers the
// library's many small writes into few, and it counts what came in and was not
// yet read, which the library does not bound. It also has the messages that both
// ends of a connection know.

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// An sshWire is a net.Conn for the SSH library. A packet of 32 KiB is two
// writes to the library; a goroutine here sends what has gathered while its
// previous write ran. Close sends what is left, and wait returns when the
// goroutine has ended.
type sshWire struct {
	net.Conn
	in     *bufio.Reader
	remote net.Addr
	flood  *floodGuard
	named  bool          // the peer has begun as a client of SSH does
	spare  sync.Pool     // of *[]byte for queue; the collector empties it when idle
	ended  chan struct{} // closed when the write loop has ended

	mu      sync.Mutex
	changed sync.Cond // of what follows
	queue   []byte    // written, not yet sent; at most maxWireQueue bytes
	closing bool
	err     error // of the first failed send
}

const (
	wireReadBuffer = 32 << 10
	// maxWireQueue holds four packets, so that one is being encrypted while
	// others are sent. Two such buffers exist while a connection is busy.
	maxWireQueue = 128 << 10
	// wireFlush is how long Close waits for a peer that reads nothing.
	wireFlush = 2 * time.Second
	// identPrefix begins what a client says first (RFC 4253, 4.2).
	identPrefix = "SSH-"
)

func newSSHWire(nc net.Conn) *sshWire {
	w := &sshWire{
		Conn:   nc,
		in:     bufio.NewReaderSize(nc, wireReadBuffer),
		remote: tcpAddrOf(nc.RemoteAddr()),
		flood:  new(floodGuard),
		ended:  make(chan struct{}),
	}
	w.changed.L = &w.mu
	go w.writeLoop()
	return w
}

// RemoteAddr is a TCPAddr for a peer behind UDP as well: the library matches
// "source-address" against nothing else.
func (w *sshWire) RemoteAddr() net.Addr { return w.remote }

func tcpAddrOf(a net.Addr) net.Addr {
	if u, ok := a.(*net.UDPAddr); ok {
		return &net.TCPAddr{IP: u.IP, Port: u.Port, Zone: u.Zone}
	}
	return a
}

func (w *sshWire) Read(p []byte) (int, error) {
	if !w.named {
		if err := w.first(); err != nil {
			return 0, err
		}
	}
	n, err := w.in.Read(p)
	if w.flood.arrived(n) {
		return 0, errFlood
	}
	return n, err
}

var errNotSSH = errors.New("what came is no SSH identification string")

// first waits for how a client begins. The library would read on for the grace
// time; sshd says this at once, to a browser or a scanner.
func (w *sshWire) first() error {
	for i := range len(identPrefix) {
		b, err := w.in.Peek(i + 1)
		if err != nil {
			return err
		}
		if b[i] != identPrefix[i] {
			w.Write([]byte("Invalid SSH identification string.\r\n"))
			return errNotSSH
		}
	}
	w.named = true
	return nil
}

// Write queues p. It blocks while the queue is full, and fails once a send has
// failed.
func (w *sshWire) Write(p []byte) (int, error) {
	w.flood.answered(len(p))
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) > 0 && len(w.queue)+len(p) > maxWireQueue && w.err == nil && !w.closing {
		w.changed.Wait()
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.closing {
		return 0, net.ErrClosed
	}
	if w.queue == nil {
		if b, ok := w.spare.Get().(*[]byte); ok {
			w.queue = (*b)[:0]
		}
	}
	w.queue = append(w.queue, p...)
	w.changed.Broadcast()
	return len(p), nil
}

func (w *sshWire) writeLoop() {
	defer close(w.ended)
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && !w.closing {
			w.changed.Wait()
		}
		batch := w.queue
		w.queue = nil
		w.changed.Broadcast()
		w.mu.Unlock()
		if len(batch) == 0 { // closing, and all is sent
			w.Conn.Close()
			return
		}
		if _, err := w.Conn.Write(batch); err != nil {
			w.fail(err)
			return
		}
		w.spare.Put(&batch)
	}
}

func (w *sshWire) fail(err error) {
	w.mu.Lock()
	w.err = err
	w.queue = nil
	w.changed.Broadcast()
	w.mu.Unlock()
	w.Conn.Close()
}

// Close ends reading at once, and the connection when what was written is sent
// or wireFlush has passed. It does not wait.
func (w *sshWire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return nil
	}
	w.closing = true
	w.changed.Broadcast()
	w.Conn.SetReadDeadline(time.Unix(1, 0)) // long past
	// The deadline ends a Write: the Close of a QUIC stream does not, and must
	// not run beside one.
	force := time.AfterFunc(wireFlush, func() { w.Conn.SetWriteDeadline(time.Unix(1, 0)) })
	go func() {
		<-w.ended
		force.Stop()
	}()
	return nil
}

func (w *sshWire) wait() { <-w.ended }

// A floodGuard bounds what a peer can make the library hold. The library keeps
// each packet of a channel that nobody reads as an element of a list, some 50
// bytes for a packet of one: within the legal window of 2 MiB that is 100 MB a
// channel. The library tells nobody, so the guard estimates: bytes that arrived
// on the wire, less what channels have read, is at least what waits unread.
//
// Interactive packets carry 35 bytes for one, window adjustments carry none, so
// what is read and what is written pays for that too. The rest is forgotten
// whenever a channel has been read empty and no other lags behind.
//
// A nil guard guards nothing: channels need not come over a wire.
type floodGuard struct {
	mu      sync.Mutex
	total   int64 // wire bytes that ever arrived
	unread  int64 // the estimate
	lagging int   // channels that may have something unread
	started bool  // logged in
	over    bool
}

const (
	// maxUnread is for one channel: its window of 2 MiB in packets of at least
	// 40 bytes passes; of one-byte packets it holds 145,000, 7 MB of heap.
	maxUnread = 5 << 20
	// maxUnreadMore is for each further channel that lags, a full window of
	// decent packets; maxUnreadAll is for all of a connection.
	maxUnreadMore = 9 << 18
	maxUnreadAll  = 16 << 20
	// maxUnlogged is all that may come before the login: the library queues up to
	// 4.3 MiB while it judges one. 128 requests of 4 KiB, the most it takes, pass.
	maxUnlogged = 512 << 10
	// packetCost is what a small packet takes on the wire around its data.
	packetCost = 64
	// sshWindow is the library's channel window.
	sshWindow = 2 << 20
)

var errFlood = errors.New("the peer sends many tiny packets that nobody reads")

// start begins to count: the connection is authenticated.
func (g *floodGuard) start() {
	g.mu.Lock()
	g.unread, g.started = 0, true
	g.mu.Unlock()
}

// arrived counts n bytes and reports whether it is too much.
func (g *floodGuard) arrived(n int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total += int64(n)
	g.unread += int64(n)
	limit := min(maxUnread+maxUnreadMore*int64(max(g.lagging-1, 0)), maxUnreadAll)
	if !g.started {
		limit = maxUnlogged
	}
	g.over = g.over || g.unread > limit
	return g.over
}

func (g *floodGuard) tripped() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over
}

// answered pays for what the library answers or is credited for by itself:
// pongs and window adjustments.
func (g *floodGuard) answered(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.payLocked(int64(min(n, packetCost)))
}

func (g *floodGuard) payLocked(n int64) { g.unread = max(0, g.unread-n) }

// A guardedReader reads a channel and tells the guard of it. One goroutine
// uses it; close must be called when nobody will read any more.
type guardedReader struct {
	r interface{ Read([]byte) (int, error) }
	g *floodGuard // may be nil

	lags bool
	at   int64 // wire bytes when the channel was last seen empty
}

// newGuardedReader counts the channel as lagging until it is first seen empty.
func newGuardedReader(r interface{ Read([]byte) (int, error) }, g *floodGuard) *guardedReader {
	gr := &guardedReader{r: r, g: g}
	if g != nil {
		g.mu.Lock()
		gr.lagLocked(true)
		g.mu.Unlock()
	}
	return gr
}

func (gr *guardedReader) lagLocked(lags bool) {
	if gr.lags != lags {
		gr.lags = lags
		if lags {
			gr.g.lagging++
		} else {
			gr.g.lagging--
		}
	}
}

func (gr *guardedReader) Read(p []byte) (int, error) {
	if gr.g == nil {
		return gr.r.Read(p)
	}
	gr.before()
	n, err := gr.r.Read(p)
	gr.after(n, n < len(p))
	return n, err
}

// before: a channel that was empty a moment ago holds at most what arrived
// since, and if that is little it does not lag.
func (gr *guardedReader) before() {
	gr.g.mu.Lock()
	defer gr.g.mu.Unlock()
	if gr.at > 0 && gr.g.total-gr.at < wireReadBuffer {
		gr.lagLocked(false)
	}
}

// after pays for n bytes read. The library fills the buffer as far as it can,
// so a short read has emptied the channel. A channel is first in, first out:
// when it is the only one that lags, what it read pays in proportion, and no
// more than a window can have come in since; the estimate is then at least
// 1/e of the truth.
func (gr *guardedReader) after(n int, emptied bool) {
	g := gr.g
	g.mu.Lock()
	defer g.mu.Unlock()
	pay := int64(n) + packetCost
	if g.lagging == 0 || g.lagging == 1 && gr.lags {
		if emptied {
			g.unread = 0
		}
		pay = max(pay, g.unread*int64(n)/sshWindow)
	}
	g.payLocked(pay)
	gr.at = 0
	if emptied {
		gr.at = g.total
	}
	gr.lagLocked(true)
}

func (gr *guardedReader) close() {
	if gr.g != nil {
		gr.g.mu.Lock()
		gr.lagLocked(false)
		gr.g.mu.Unlock()
	}
}

// sshChunk is the copy size: the largest packet that SSH peers take, in bytes.
const sshChunk = 32 << 10

// copyChunks copies until r ends, through a buffer of its own: os.File's
// ReadFrom would bring one of another size. The two sides' errors are apart.
func copyChunks(w io.Writer, r io.Reader) (writeErr, readErr error) {
	buf := make([]byte, sshChunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err, nil
			}
		}
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// forwardDialTimeout is for resolving and connecting together.
const forwardDialTimeout = 10 * time.Second

// A streamConn is a connection whose directions end one by one.
type streamConn interface {
	net.Conn
	CloseWrite() error
}

// A directTCPMsg opens a "direct-tcpip" channel: RFC 4254, section 7.2. The
// host may be a name, which the server resolves.
type directTCPMsg struct {
	Host       string
	Port       uint32
	Origin     string
	OriginPort uint32
}

// A windowChangeMsg is the payload of "window-change": RFC 4254, section 6.7.
// Characters, then pixels.
type windowChangeMsg struct{ Cols, Rows, Width, Height uint32 }
