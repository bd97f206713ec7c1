//go:build linux

package main

// This file carries packets from port to port, each at its time.

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxQueue is how long a packet waits for a port with a rate before it is
// dropped instead.
const maxQueue = 250 * time.Millisecond

// A port is where a namespace meets the internet.
type port struct {
	tun    *os.File
	delay  time.Duration
	loss   float64 // percent
	burst  float64 // packets lost in a row, on average; below 1 counts as 1
	rate   float64 // bits a second
	mtu    int
	silent bool
	no4    bool
	no6    bool
	down   bool

	sending time.Time // until when the line is taken, outwards
	getting time.Time // and inwards
	in, out int       // packets from and to the namespace
	lost    int
	losing  bool // in a burst
}

type route struct {
	to   *port
	nets netip.Prefix
}

type hub struct {
	mu     sync.Mutex
	ports  map[string]*port
	routes []route // the narrowest first
	queue  departures
	seq    uint64
	timer  *os.File // a timerfd: Go's own timers are late by up to a millisecond
}

func newHub() (*hub, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timer: %w", err)
	}
	h := &hub{ports: map[string]*port{}, timer: os.NewFile(uintptr(fd), "timer")}
	go h.deliver()
	return h, nil
}

// open makes the TUN device of a namespace and reads it until that is gone.
func (h *hub) open(name string) error {
	type result struct {
		tun *os.File
		err error
	}
	opened := make(chan result)
	go func() {
		runtime.LockOSThread() // unlocked only where it is at home again
		tun, err := openTUN("/run/netns/"+name, "wan")
		opened <- result{tun, err}
	}()
	r := <-opened
	if r.err != nil {
		return fmt.Errorf("TUN in %s: %w", name, r.err)
	}
	p := &port{tun: r.tun}
	h.mu.Lock()
	h.ports[name] = p
	h.mu.Unlock()
	go h.read(p)
	return nil
}

// openTUN takes the thread into the namespace and back.
func openTUN(netns, dev string) (*os.File, error) {
	ns, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ns)
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(home)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	defer func() {
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(dev)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), dev), nil
}

// route enters or takes back a route. h.mu is held.
func (h *hub) route(p *port, nets netip.Prefix, enter bool) {
	h.routes = slices.DeleteFunc(h.routes, func(r route) bool { return r.nets == nets })
	if enter {
		h.routes = append(h.routes, route{p, nets})
	}
	slices.SortStableFunc(h.routes, func(a, b route) int { return b.nets.Bits() - a.nets.Bits() })
}

func (h *hub) lookup(dst netip.Addr) *port {
	for _, r := range h.routes {
		if r.nets.Contains(dst) {
			return r.to
		}
	}
	return nil
}

func (h *hub) read(p *port) {
	defer p.tun.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := p.tun.Read(buf)
		if err != nil {
			return // the namespace is gone
		}
		h.mu.Lock()
		p.in++
		h.forward(time.Now(), p, slices.Clone(buf[:n]))
		h.mu.Unlock()
	}
}

// forward puts a packet on its way, or drops it. h.mu is held.
func (h *hub) forward(now time.Time, from *port, b []byte) {
	dst, ok := parsePacket(b)
	to := h.lookup(dst)
	if !ok || to == nil || to == from || !from.lets(dst) || !to.lets(dst) || !crossHops(b) {
		from.lost++
		return
	}
	limit, silent := narrower(from, to)
	if limit == 0 || len(b) <= limit {
		h.send(now, from, to, b)
		return
	}
	back := tooBig(b, limit)
	switch {
	case back != nil:
		from.lost++
		if !silent {
			h.send(now, to, from, back)
		}
		return
	}
	for _, part := range fragments(b, limit) {
		h.send(now, from, to, part)
	}
}

func (p *port) lets(dst netip.Addr) bool {
	return !p.down && (!p.no4 || !dst.Is4()) && (!p.no6 || !dst.Is6())
}

// narrower is the smaller limit of the two, 0 for none.
func narrower(a, b *port) (limit int, silent bool) {
	if a.mtu == 0 || b.mtu != 0 && b.mtu < a.mtu {
		a = b
	}
	return a.mtu, a.silent
}

// send queues a packet between two ports. h.mu is held.
func (h *hub) send(now time.Time, from, to *port, b []byte) {
	if from.loses() || to.loses() {
		from.lost++
		return
	}
	leaves := line(&from.sending, now, from.rate, len(b))
	arrives := leaves.Add(from.delay + to.delay)
	taken := line(&to.getting, arrives, to.rate, len(b))
	if leaves.Sub(now) > maxQueue || taken.Sub(arrives) > maxQueue {
		from.lost++
		return
	}
	h.seq++
	heap.Push(&h.queue, &departure{taken, h.seq, to, b})
	if h.queue[0].seq == h.seq {
		h.setTimer(now)
	}
}

// loses draws whether a packet is lost: bursts begin and end at random, so that
// the share lost is the port's (Gilbert's model).
func (p *port) loses() bool {
	share, burst := p.loss/100, max(p.burst, 1)
	if p.losing { // a path that loses nothing ends what was under way, too
		p.losing = share > 0 && rand.Float64() < 1-1/burst
	} else {
		p.losing = share > 0 && rand.Float64() < share/(burst*(1-share))
	}
	return p.losing
}

// line takes a line of a rate for n bytes, and says when they have passed. A
// packet that will be dropped for its waiting takes nothing.
func line(free *time.Time, at time.Time, rate float64, n int) time.Time {
	if rate == 0 {
		return at
	}
	start := at
	if free.After(start) {
		start = *free
	}
	end := start.Add(time.Duration(float64(n*8) / rate * float64(time.Second)))
	if end.Sub(at) <= maxQueue {
		*free = end
	}
	return end
}

// setTimer wakes deliver for the first of the queue. h.mu is held.
func (h *hub) setTimer(now time.Time) {
	wait := max(h.queue[0].at.Sub(now), 1)
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(wait.Nanoseconds())}
	conn, err := h.timer.SyscallConn()
	if err != nil {
		return
	}
	conn.Control(func(fd uintptr) { unix.TimerfdSettime(int(fd), 0, &spec, nil) })
}

// deliver hands out each packet when its time has come.
func (h *hub) deliver() {
	var buf [8]byte
	for {
		if _, err := h.timer.Read(buf[:]); err != nil {
			return
		}
		now := time.Now()
		h.mu.Lock()
		for len(h.queue) > 0 && !h.queue[0].at.After(now) {
			d := heap.Pop(&h.queue).(*departure)
			if d.to.down {
				d.to.lost++
				continue
			}
			d.to.out++
			d.to.tun.Write(d.b) // a device that is down loses it
		}
		if len(h.queue) > 0 {
			h.setTimer(time.Now())
		}
		h.mu.Unlock()
	}
}

// A departure is a packet that waits; seq keeps the order of those of one time.
type departure struct {
	at  time.Time
	seq uint64
	to  *port
	b   []byte
}

type departures []*departure

func (d departures) Len() int      { return len(d) }
func (d departures) Swap(i, j int) { d[i], d[j] = d[j], d[i] }
func (d departures) Less(i, j int) bool {
	return d[i].at.Before(d[j].at) || d[i].at.Equal(d[j].at) && d[i].seq < d[j].seq
}
func (d *departures) Push(x any) { *d = append(*d, x.(*departure)) }
func (d *departures) Pop() any {
	old := *d
	last := old[len(old)-1]
	*d = old[:len(old)-1]
	return last
}
