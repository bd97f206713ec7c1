package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// A presTest is a presence table with a clock that only advance moves, and the
// datagrams that it sent.
type presTest struct {
	t     *testing.T
	coord *identity
	p     *presence
	now   time.Time
	next  time.Time
	sent  []outDatagram
}

var presTestAcct = acctID{1, 2, 3}

func newPresTest(t *testing.T) *presTest {
	pt := &presTest{t: t, coord: presTestIdentity(t), now: time.Unix(1_800_000_000, 0)}
	pt.restart()
	return pt
}

func presTestIdentity(t testing.TB) *identity {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := newIdentity(priv)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// restart makes a new table, as a coordinator that was started again.
func (pt *presTest) restart() {
	pt.p = newPresence(pt.coord, protoRange{protoMin, protoMax, "test"}, pt.now,
		func(b []byte, to udpSource) { pt.sent = append(pt.sent, outDatagram{b, to}) }, nil)
	pt.next = pt.p.tick(pt.now)
}

// advance lets time pass and calls tick whenever it asked for it.
func (pt *presTest) advance(d time.Duration) {
	end := pt.now.Add(d)
	for {
		if first := pt.p.tick(pt.now); first.After(end) {
			break
		} else {
			pt.now = first
		}
	}
	pt.now = end
}

// members sets the account's devices.
func (pt *presTest) members(seq uint64, devs ...*presTestDevice) {
	var infos []memberInfo
	for _, d := range devs {
		infos = append(infos, memberInfo{d.id.keys, d.standing})
	}
	pt.p.update(pt.now, presTestAcct, seq, [32]byte{byte(seq)}, infos)
}

// take returns what was sent since the last take.
func (pt *presTest) take() []outDatagram {
	sent := pt.sent
	pt.sent = nil
	return sent
}

// A presTestDevice is a device's end of the conversation, written apart from
// the table's.
type presTestDevice struct {
	pt         *presTest
	id         *identity
	standing   byte
	instance   instanceID
	addr       netip.AddrPort
	coord      instanceID
	cookie     cookie
	counter    uint64
	send, recv sealKey
}

func (pt *presTest) device(addr string) *presTestDevice {
	d := &presTestDevice{pt: pt, id: presTestIdentity(pt.t), instance: newInstanceID(), addr: netip.MustParseAddrPort(addr)}
	d.keys()
	return d
}

func (d *presTestDevice) keys() {
	var err error
	if d.send, d.recv, err = sealKeys(d.id.path, sealDevice, d.pt.coord.keys.path, sealCoord); err != nil {
		d.pt.t.Fatal(err)
	}
}

// again is the same device in a new process.
func (d *presTestDevice) again() *presTestDevice {
	n := *d
	n.instance, n.coord, n.cookie, n.counter = newInstanceID(), instanceID{}, cookie{}, 0
	return &n
}

func (d *presTestDevice) deviceID() deviceID { return d.id.keys.deviceID() }

func (d *presTestDevice) source() udpSource { return udpSource{addr: d.addr} }

// datagram seals a body with the next counter, padded to at least size.
func (d *presTestDevice) datagram(kind byte, body []byte, size int) []byte {
	d.counter++
	h := msgHead{kind, d.instance, d.coord, d.counter}
	b := append(h.append(nil), body...)
	if n := size - sealOverhead - len(b); n > 0 {
		b = append(b, make([]byte, n)...)
	}
	return d.send.seal(sealHintOf(presTestAcct, d.id.keys.sign), b)
}

func (d *presTestDevice) say(b []byte) { d.pt.p.datagram(d.pt.now, b, d.source()) }

type presTestMsg struct {
	head msgHead
	body []byte
	to   udpSource
	size int
}

// got returns what was sent to d's keys and instance since the last take by
// anyone, opened.
func (d *presTestDevice) got() (msgs []presTestMsg) {
	var others []outDatagram
	for _, out := range d.pt.take() {
		body, err := d.recv.open(out.b)
		var h msgHead
		var rest []byte
		if err == nil {
			if h, rest, err = parseHead(body); err != nil {
				d.pt.t.Fatal(err)
			}
		}
		if err != nil || h.receiver != d.instance {
			others = append(others, out)
			continue
		}
		msgs = append(msgs, presTestMsg{h, rest, out.to, len(out.b)})
	}
	d.pt.sent = others
	return msgs
}

// one returns the only message sent to d, which must be of kind.
func (d *presTestDevice) one(kind byte) presTestMsg {
	d.pt.t.Helper()
	msgs := d.got()
	if len(msgs) != 1 || msgs[0].head.kind != kind {
		d.pt.t.Fatalf("got %d messages %v, want one of kind %d", len(msgs), msgs, kind)
	}
	return msgs[0]
}

func (d *presTestDevice) beatMsg(serves bool) []byte {
	m := beatMsg{proto: protoRange{1, 1, "dev"}, serves: serves, cookie: d.cookie,
		cands: []netip.AddrPort{netip.MustParseAddrPort("192.168.1.7:7000")}}
	return m.append(nil)
}

func (d *presTestDevice) beat(serves bool) {
	d.say(d.datagram(msgBeat, d.beatMsg(serves), 0))
}

// takeHello learns the coordinator's instance and cookie.
func (d *presTestDevice) takeHello() {
	d.pt.t.Helper()
	msg := d.one(msgHello)
	hello, err := parseHello(msg.body)
	if err != nil {
		d.pt.t.Fatal(err)
	}
	d.coord, d.cookie = msg.head.sender, hello.cookie
}

// takeBeatAck learns the next cookie.
func (d *presTestDevice) takeBeatAck() *beatAckMsg {
	d.pt.t.Helper()
	ack, err := parseBeatAck(d.one(msgBeatAck).body)
	if err != nil {
		d.pt.t.Fatal(err)
	}
	d.cookie = ack.cookie
	return ack
}

// online brings d up, from nothing.
func (d *presTestDevice) online(serves bool) {
	d.pt.t.Helper()
	d.beat(serves)
	d.takeHello()
	d.beat(serves)
	d.takeBeatAck()
}

func (d *presTestDevice) status() memberStatus {
	return d.pt.p.status(d.pt.now, presTestAcct, d.deviceID())
}

func TestPresenceBeat(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	d.beat(true)
	if st := d.status(); st.online {
		t.Fatal("online before its address is proved")
	}
	d.takeHello()
	d.beat(true)
	ack := d.takeBeatAck()
	if ack.observed != d.addr || ack.seq != 5 || ack.head != ([32]byte{5}) || ack.time != pt.now.Unix() || ack.proto.build != "test" {
		t.Fatalf("beatAck %+v", ack)
	}
	want := memberStatus{online: true, serves: true, build: "dev", addr: d.addr}
	if st := d.status(); st != want {
		t.Fatalf("status %+v, want %+v", st, want)
	}
	if !pt.p.isProved(netip.MustParseAddrPort("[::ffff:198.51.100.7]:1000")) || pt.p.isProved(netip.MustParseAddrPort("198.51.100.7:1001")) {
		t.Fatal("proved addresses are not that of the device")
	}
}

func TestPresenceRestartedCoordinatorKnowsDeviceAfterOneBeat(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	d.online(true)
	old := d.coord
	pt.restart()
	pt.members(5, d)
	d.beat(true)
	d.takeHello()
	if d.coord == old {
		t.Fatal("the restarted coordinator has its old instance")
	}
	d.beat(true)
	d.takeBeatAck()
	if !d.status().online {
		t.Fatal("not online after one beat and its hello")
	}
}

func TestPresenceExpires(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	d.online(true)
	for range 20 {
		pt.advance(25 * time.Second)
		d.beat(true)
		d.takeBeatAck()
	}
	pt.advance(60 * time.Second)
	if !d.status().online {
		t.Fatal("offline 60 s after a beat")
	}
	pt.advance(15 * time.Second)
	if st := d.status(); st.online || st.silent != 75 {
		t.Fatalf("75 s after a beat: %+v", st)
	}
	if pt.p.isProved(d.addr) || len(pt.p.proved) != 0 {
		t.Fatal("its address is still proved")
	}
}

func TestPresenceNewAddressNeedsCookie(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	d.online(true)
	home := d.addr
	d.addr = netip.MustParseAddrPort("203.0.113.9:2000")
	d.beat(true) // with the cookie for home
	if d.status().addr != home {
		t.Fatal("moved by a beat without the cookie for its new address")
	}
	d.takeHello()
	d.beat(true)
	d.takeBeatAck()
	if d.status().addr != d.addr || pt.p.isProved(home) {
		t.Fatalf("status %+v after a beat with the new cookie", d.status())
	}
}

func TestPresenceCookieIsOfOneAddressDeviceAndTime(t *testing.T) {
	pt := newPresTest(t)
	d, other := pt.device("198.51.100.7:1000"), pt.device("198.51.100.7:1000")
	pt.members(5, d, other)
	for _, x := range []*presTestDevice{d, other} {
		x.beat(false)
		x.takeHello()
	}
	d.cookie, other.cookie = other.cookie, d.cookie
	d.beat(false)
	d.takeHello()
	pt.advance(61 * time.Second)
	d.beat(false)
	d.takeHello() // the cookie was too old
	pt.advance(29 * time.Second)
	d.beat(false)
	d.takeBeatAck()
}

func TestPresenceReplayMovesNobody(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	d.online(true)
	beat := d.datagram(msgBeat, d.beatMsg(true), 0)
	thief := udpSource{addr: netip.MustParseAddrPort("203.0.113.66:6")}

	pt.p.datagram(pt.now, beat, thief) // the copy wins the race
	d.takeHello()                      // goes to the thief and is no longer than the beat
	d.say(beat)
	d.takeBeatAck()
	if d.status().addr != d.addr {
		t.Fatal("a copy that came first moved the device")
	}
	for _, at := range []time.Duration{0, time.Second, 20 * time.Second} {
		pt.advance(at)
		pt.p.datagram(pt.now, beat, thief)
		pt.p.datagram(pt.now, beat, d.source())
		if out := pt.take(); len(out) != 0 || d.status().addr != d.addr {
			t.Fatalf("a replay drew %d datagrams, status %+v", len(out), d.status())
		}
	}
	pt.advance(75 * time.Second) // the instance is forgotten now
	pt.p.datagram(pt.now, beat, d.source())
	if d.status().online {
		t.Fatal("a replay brought a dead process back")
	}
	d.one(msgHello)
}

func TestPresenceLeaves(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	d.online(true)
	beat := d.datagram(msgBeat, d.beatMsg(true), 0)
	d.say(beat)
	d.takeBeatAck()
	pt.advance(10 * time.Second)
	m := beatMsg{proto: protoRange{1, 1, ""}, leaves: true}
	leave := d.datagram(msgBeat, m.append(nil), 0)
	pt.p.datagram(pt.now, leave, udpSource{addr: netip.MustParseAddrPort("203.0.113.66:6")})
	if !d.status().online {
		t.Fatal("taken offline from elsewhere")
	}
	pt.take()
	d.say(leave)
	if st := d.status(); st.online || st.silent != 0 || pt.p.isProved(d.addr) || len(pt.p.proved) != 0 {
		t.Fatalf("it has left, and its status is %+v", st)
	}
	for range 8 {
		d.say(beat)
		d.say(leave)
		if d.status().online || len(pt.take()) != 0 {
			t.Fatal("a replay brought a process back that has left")
		}
		pt.advance(8 * time.Second)
	}
}

// process brings up one more process of the device, a second later.
func (d *presTestDevice) process(serves bool) *presTestDevice {
	d.pt.t.Helper()
	d.pt.advance(time.Second)
	n := d.again()
	d.addr = netip.AddrPortFrom(d.addr.Addr(), d.addr.Port()+1)
	n.online(serves)
	return n
}

func (d *presTestDevice) leave() {
	m := beatMsg{proto: protoRange{1, 1, ""}, leaves: true}
	d.say(d.datagram(msgBeat, m.append(nil), 0))
}

func TestPresenceInstancesAreBounded(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	known := func(want ...*presTestDevice) {
		t.Helper()
		m := pt.p.accounts[presTestAcct].member(d.deviceID())
		for i, n := range want {
			if m.instance(n.instance) == nil {
				t.Fatalf("process %d of %d is forgotten", i, len(want))
			}
		}
		if len(m.instances) != maxInstances || len(m.instances) != len(want) {
			t.Fatalf("%d instances are kept", len(m.instances))
		}
	}
	serving := func() instanceID { return pt.p.accounts[presTestAcct].member(d.deviceID()).serving().id }
	var procs []*presTestDevice
	for i := range maxInstances {
		procs = append(procs, d.process(i == 0))
	}
	known(procs...)
	for range 2 * maxInstances { // verbs come and go: it is they who give way
		n := d.process(false)
		procs = append(append(procs[:1:1], procs[2:]...), n)
		known(procs...)
	}
	procs[7].leave()
	procs = append(procs[:7:7], d.process(false)) // in the place of the one that has left
	known(procs...)
	if serving() != procs[0].instance {
		t.Fatal("another process than the one that serves would be rung")
	}
	for range maxInstances - 1 {
		procs = append(append(procs[:1:1], procs[2:]...), d.process(true))
	}
	known(procs...)
	if serving() != procs[7].instance {
		t.Fatal("not the newest process that serves would be rung")
	}
	procs[0].leave()
	verb := d.again()
	verb.beat(false)
	verb.takeHello()
	verb.beat(false)
	if no := verb.takeRefuse(); no.reason != refuseLimit {
		t.Fatalf("a verb among as many that serve as there may be: %+v", no)
	}
	known(procs...)
	procs = append(procs[1:], d.process(true)) // in the place of the one that has left
	known(procs...)
	procs = append(procs[1:], d.process(true))
	known(procs...)
	if len(pt.p.proved) != maxInstances {
		t.Fatalf("%d proved addresses for %d instances", len(pt.p.proved), maxInstances)
	}
}

func TestPresenceMembersGone(t *testing.T) {
	pt := newPresTest(t)
	d, e := pt.device("198.51.100.7:1000"), pt.device("198.51.100.8:1000")
	d.standing = memberWaiting
	pt.members(5, d, e)
	d.online(false)
	e.online(true)
	d.standing = memberActive
	pt.members(5, d, e)
	if !d.status().online || pt.p.accounts[presTestAcct].member(d.deviceID()).standing != memberActive {
		t.Fatal("a device that was signed lost its presence")
	}
	pt.members(5, e)
	d.beat(false)
	if len(pt.take()) != 0 || pt.p.isProved(d.addr) || len(pt.p.members) != 1 {
		t.Fatal("a device that is gone is still known")
	}
}

func TestPresenceOtherVersion(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	d.online(true)
	m := beatMsg{proto: protoRange{9, 12, "from the future"}}
	b := d.datagram(msgBeat, m.append(nil), 0)
	d.say(b)
	msg := d.one(msgRefuse)
	no, err := parseRefuse(msg.body)
	if err != nil || no.reason != refuseUpdate || no.proto.max != protoMax || msg.size > len(b) {
		t.Fatalf("refuse %+v of %d bytes to %d, %v", no, msg.size, len(b), err)
	}
}

// Each device known and online takes at most 512 bytes of memory.
func TestPresenceMemory(t *testing.T) {
	const n = 4000
	t.Logf("member %d, instance %d bytes", unsafe.Sizeof(presMember{}), unsafe.Sizeof(presInstance{}))
	pt := newPresTest(t)
	me := presTestIdentity(t)
	heap := func() uint64 {
		var ms runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&ms)
		return ms.HeapAlloc
	}
	cands := make([]netip.AddrPort, 3)
	for i := range cands {
		cands[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 7000)
	}
	before := heap()
	for a := range n / 20 {
		acct := acctID{byte(a), byte(a >> 8)}
		infos := make([]memberInfo, 20)
		for i := range infos {
			k := me.keys
			k.sign = make(ed25519.PublicKey, 32)
			rand.Read(k.sign)
			infos[i] = memberInfo{keys: k}
		}
		pt.p.update(pt.now, acct, 1, [32]byte{}, infos)
		for i, m := range pt.p.accounts[acct].members {
			pt.p.keyLocked(m)
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(a), byte(a >> 8), byte(i)}), 7000)
			in := presInput{m: m, head: msgHead{sender: newInstanceID()}, from: udpSource{addr: addr}}
			pt.p.countBeatLocked(in, &beatMsg{proto: protoRange{1, 1, "1.0"}, serves: true, cands: cands}, replayWindow{})
		}
	}
	each := (heap() - before) / n
	t.Logf("%d bytes a device", each)
	if each > 512 {
		t.Errorf("%d bytes a device, at most 512", each)
	}
	runtime.KeepAlive(pt)
}

func TestPresenceJunkCostsNothing(t *testing.T) {
	pt := newPresTest(t)
	d := pt.device("198.51.100.7:1000")
	pt.members(5, d)
	d.online(true)
	hint := sealHintOf(presTestAcct, d.id.keys.sign)
	b := make([]byte, 1400)
	rand.Read(b)
	from := udpSource{addr: netip.MustParseAddrPort("203.0.113.1:1")}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 1_000_000 {
		junk := b[i%200 : i%200+(i*7)%1200]
		if len(junk) > 9 {
			junk[0] = sealVersion
			if i%64 == 0 { // looks like the device's, and does not open
				copy(junk[1:], hint[:])
			}
		}
		pt.p.datagram(pt.now, junk, from)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(pt.take()) != 0 {
		t.Error("junk was answered")
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 256<<10 {
		t.Errorf("memory grew by %d bytes", grown)
	}
	runtime.KeepAlive(pt)
}

func TestPresenceFromManyGoroutines(t *testing.T) {
	pt := newPresTest(t)
	pt.p.send = func([]byte, udpSource) {}
	var wg sync.WaitGroup
	for i := range 4 {
		d := pt.device("198.51.100.7:1000")
		pt.members(uint64(i), d)
		wg.Go(func() {
			for n := range 200 {
				now := pt.now.Add(time.Duration(n) * time.Second)
				pt.p.datagram(now, d.datagram(msgBeat, d.beatMsg(true), 0), d.source())
				pt.p.update(now, presTestAcct, uint64(n), [32]byte{}, []memberInfo{{keys: d.id.keys}})
				pt.p.tick(now)
				pt.p.status(now, presTestAcct, d.deviceID())
				pt.p.isProved(d.addr)
			}
		})
	}
	wg.Wait()
}
