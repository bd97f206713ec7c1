package main

// This file has our router keep a UDP port open for us, so that peers behind
// any NAT can reach us: it looks for the router, maps the port by the best
// protocol that is spoken there, renews it and ends it. A connection never
// waits for any of this. Only the router of the default route is asked.

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// portTimes are the times of a portMapper.
type portTimes struct {
	life  time.Duration // asked for; what is granted is renewed after half of it
	floor time.Duration // but never sooner than this
	every time.Duration // nor later: a mapping that the router forgot is missed until then
	retry time.Duration // after the first failure, then twice that, up to every
	calm  time.Duration // between looks that announcements cause
}

var defaultPortTimes = portTimes{life: 2 * time.Hour, floor: 30 * time.Second, every: 10 * time.Minute, retry: 10 * time.Second, calm: 5 * time.Second}

const (
	// portAskTime bounds the asking by one protocol: UPnP may take several
	// calls.
	portAskTime = 5 * time.Second
	// portReleaseTime bounds how long an exit waits for the router.
	portReleaseTime = time.Second
)

// announcements is where routers call out to all: RFC 6887, section 14.1.1.
var announcements = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 1), Port: 5350}

// A portMapper asks the router to keep a UDP port open for us.
type portMapper struct {
	port    uint16
	logf    func(level int, format string, args ...any)
	changed func()
	gateway func() netip.Addr
	times   portTimes
	kick    chan struct{} // the network changed
	heard   chan uint32   // epochs that the router announced

	// What follows is run's own.
	askers [len(portProtocols)]portAsker
	held   int // index of the asker that has or tries to have a mapping, or -1
	watch  epochWatch
	fails  int
	looked time.Time

	mu       sync.Mutex
	router   portRouter     // guarded by mu; set by run
	external netip.AddrPort // guarded by mu
	by       string         // guarded by mu
	last     portReport     // guarded by mu
}

// A portReport is what netcheck says of the router.
type portReport struct {
	router    netip.Addr // invalid: none was asked, err says why
	err       string
	external  netip.Addr // the router's own address as it says, invalid if unknown
	doubleNAT bool       // which is not a public one
	protocols [len(portProtocols)]portAnswer
}

// A portAnswer is how far one protocol got.
type portAnswer struct {
	by        string
	available bool
	err       string // why not, or why it maps nothing
}

// newPortMapper makes one for our main UDP socket's port. run calls changed
// whenever mapped has changed, until its ctx ends.
func newPortMapper(port uint16, logf func(level int, format string, args ...any), changed func()) *portMapper {
	return &portMapper{port: port, logf: logf, changed: changed, gateway: defaultGateway, times: defaultPortTimes,
		kick: make(chan struct{}, 1), heard: make(chan uint32, 1), held: -1}
}

// again has run look anew at once: the network changed.
func (m *portMapper) again() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// mapped is the address that the router keeps for us, invalid when none, and
// the protocol it was got by.
func (m *portMapper) mapped() (netip.AddrPort, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.external, m.by
}

// report is what the last look brought.
func (m *portMapper) report() portReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// probePortMapping asks what the router can, within about a second, and maps
// nothing.
func probePortMapping(ctx context.Context, port uint16) portReport {
	m := newPortMapper(port, func(int, string, ...any) {}, func() {})
	ctx, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if m.find() {
		m.probe(ctx, false)
	}
	return m.report()
}

// run keeps the port mapped until ctx ends, and then ends the mapping.
func (m *portMapper) run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	var listener sync.WaitGroup
	var announced *net.UDPConn
	defer listener.Wait()
	defer stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-m.kick:
		case <-timer.C:
		case epoch := <-m.heard:
			if m.watch.lost(epoch, time.Now()) || m.held < 0 {
				m.logf(2, "port mapping: the router has started anew")
				timer.Reset(time.Until(m.looked.Add(m.times.calm)))
			}
			continue
		}
		if ctx.Err() != nil {
			m.release(context.WithoutCancel(ctx))
			return
		}
		timer.Reset(m.look(ctx))
		if announced == nil { // fails while there is no network
			if announced, _ = net.ListenMulticastUDP("udp4", nil, announcements); announced != nil {
				listener.Go(func() { m.listen(ctx, announced) })
			}
		}
	}
}

// look makes, renews or gives up the mapping, and says when to look again.
func (m *portMapper) look(ctx context.Context) time.Duration {
	m.looked = time.Now()
	if !m.find() {
		m.set(netip.AddrPort{}, "")
		return m.later()
	}
	if i := m.held; i >= 0 {
		wait, err := m.hold(ctx, i)
		if err == nil || ctx.Err() != nil {
			return wait
		}
		m.logf(2, "port mapping: %s: %v", portProtocols[i], err)
	}
	for i, answer := range m.probe(ctx, true).protocols {
		if !answer.available || ctx.Err() != nil {
			continue
		}
		wait, err := m.hold(ctx, i)
		if err == nil || ctx.Err() != nil {
			return wait
		}
		m.logf(2, "port mapping: %s: %v", answer.by, err)
		m.failed(i, err)
	}
	if ctx.Err() == nil {
		m.set(netip.AddrPort{}, "")
	}
	return m.later()
}

// find learns who the router is; a mapping at another is left to expire.
func (m *portMapper) find() bool {
	r, err := findPortRouter(m.gateway)
	m.mu.Lock()
	defer m.mu.Unlock()
	if r != m.router {
		m.router, m.askers, m.held, m.fails, m.watch = r, r.askers(m.port), -1, 0, epochWatch{}
		m.last = portReport{router: r.addr}
	}
	if err != nil {
		m.last.err = err.Error()
	}
	return err == nil
}

// probe asks by all protocols at once. In a hurry it does not wait for those
// that a better one has made needless.
func (m *portMapper) probe(ctx context.Context, hurry bool) portReport {
	var addrs [len(portProtocols)]netip.Addr
	var ctxs [len(portProtocols)]context.Context
	var stops [len(portProtocols)]context.CancelFunc
	for i := range ctxs {
		ctxs[i], stops[i] = context.WithCancel(ctx)
		defer stops[i]()
	}
	rep := portReport{router: m.router.addr}
	var asked sync.WaitGroup
	for i, a := range m.askers {
		asked.Go(func() {
			var err error
			addrs[i], err = a.probe(ctxs[i])
			if err == nil && hurry {
				for _, stop := range stops[i+1:] {
					stop()
				}
			}
			rep.protocols[i] = portAnswer{by: portProtocols[i], available: err == nil, err: portErrorText(err)}
			if err != nil && ctxs[i].Err() != nil && ctx.Err() == nil {
				rep.protocols[i].err = "not waited for: a better one was there"
			}
		})
	}
	asked.Wait()
	for _, a := range addrs {
		if a.Is4() && !a.IsUnspecified() {
			rep.external, rep.doubleNAT = a, !publicIPv4(a)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = rep
	return rep
}

// hold has one protocol make or renew the mapping. If ctx ends meanwhile, the
// mapping may be there all the same, and m.held says so.
func (m *portMapper) hold(ctx context.Context, i int) (time.Duration, error) {
	m.held = i
	asking, stop := context.WithTimeout(ctx, portAskTime)
	defer stop()
	lease, err := m.askers[i].hold(asking, m.times.life)
	if err != nil {
		if ctx.Err() == nil {
			m.held = -1
		}
		return 0, err
	}
	m.fails = 0
	if lease.hasEpoch {
		m.watch.lost(lease.epoch, time.Now())
	}
	m.set(lease.external, portProtocols[i])
	return m.renewal(lease.life), nil
}

// renewal is after half the lifetime. What lasts for ever some routers write
// to their flash: it is renewed as seldom as if it were not.
func (m *portMapper) renewal(granted time.Duration) time.Duration {
	if granted == 0 {
		return m.times.life / 2
	}
	return max(min(granted/2, m.times.every), m.times.floor)
}

// later is the pause after a failure: short at first, for after a power cut
// the router comes up with us.
func (m *portMapper) later() time.Duration {
	m.fails++
	return min(m.times.retry<<min(m.fails-1, 16), m.times.every)
}

// failed notes why a protocol that is spoken maps nothing.
func (m *portMapper) failed(i int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.protocols[i].err = portErrorText(err)
	if errors.Is(err, errDoubleNAT) {
		m.last.doubleNAT = true
	}
}

// portErrorText leaves out the two addresses that the net package puts before.
func portErrorText(err error) string {
	if oe := (*net.OpError)(nil); errors.As(err, &oe) {
		err = oe.Err
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// set notes what is mapped, and tells whom it concerns.
func (m *portMapper) set(a netip.AddrPort, by string) {
	m.mu.Lock()
	same := a == m.external && by == m.by
	m.external, m.by = a, by
	m.mu.Unlock()
	switch {
	case same:
		return
	case a.IsValid():
		m.logf(1, "port mapping: the router keeps %v for us, by %s", a, by)
	default:
		m.logf(1, "port mapping: lost")
	}
	m.changed()
}

// release ends the mapping at the router.
func (m *portMapper) release(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, portReleaseTime)
	defer stop()
	if m.held >= 0 {
		if err := m.askers[m.held].release(ctx); err != nil {
			m.logf(2, "port mapping: not ended: %v", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.external, m.by = netip.AddrPort{}, ""
}

// listen hears what the router announces to all. Where it cannot, the looks
// notice as well, but later.
func (m *portMapper) listen(ctx context.Context, conn *net.UDPConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, maxPCP)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		m.mu.Lock()
		router := m.router.addr
		m.mu.Unlock()
		epoch, ok := parseAnnouncement(buf[:n])
		if !ok || from.Addr().Unmap() != router {
			continue
		}
		select {
		case m.heard <- epoch:
		default:
		}
	}
}
