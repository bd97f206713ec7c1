package main

// This file introduces devices to each other: a call becomes an answer to the
// caller and a ring to the device called, at once, and both go out again until
// they are acknowledged. News of an account's log goes out the same way, and so
// does the word that sessions are to end.
//
// A source that is not proved never gets more bytes than came from it.

import (
	"container/heap"
	"crypto/rand"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

const (
	// callLife is how long a call id names the session that it made.
	callLife = 60 * time.Second
	// callFresh is how far a call's time may be from ours, either way, if its
	// sender has not shown to receive where it comes from. Within it an earlier
	// copy is still known by callLife; a later copy is asked for a cookie.
	callFresh = 25 * time.Second
	// maxCalls bounds the calls of the last callLife, 400 bytes each: 1,000 a
	// second, and 24 MB.
	maxCalls = 1 << 16
	// maxResends bounds the messages that wait for an ack, 500 bytes each. News
	// beyond it is left to the next beat's answer.
	maxResends = 1 << 16
	// callGap is the time for one call of a device, and callBurst the calls
	// that it may be ahead: `run` on every device of an account at once.
	callGap   = 100 * time.Millisecond
	callBurst = 256
)

// When an answer, a ring, news and an end go out again, counted from the first; at the
// last time all hope ends. A ring unanswered then means a silent device.
var (
	introTimes = []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond,
		400 * time.Millisecond, 700 * time.Millisecond}
	newsTimes = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond,
		1500 * time.Millisecond, 3 * time.Second, 6 * time.Second}
)

// introductions are the calls of late and what waits for an ack. The presence
// table owns them under its lock.
type introductions struct {
	calls   map[callKey]*presCall
	order   []*presCall // the same, oldest first
	due     resendHeap
	unacked map[ackKey]*resend
}

func newIntroductions() introductions {
	return introductions{calls: make(map[callKey]*presCall), unacked: make(map[ackKey]*resend)}
}

// earlierThan reports whether something is due before at.
func (i *introductions) earlierThan(at time.Duration) bool {
	return len(i.due) > 0 && i.due[0].next < at
}

type callKey struct {
	m  *presMember
	id callID
}

// A presCall is a call that made a session.
type presCall struct {
	key      callKey
	made     time.Duration
	instance instanceID // of the caller
	window   replayWindow
	token    sessionToken
	target   *presMember
	rung     instanceID // process of the target that is rung
	acked    bool       // by that process
	from     udpSource  // of the caller
	proved   bool       // the caller receives there
	credit   int        // bytes that may go there while it is not proved
	cands    string     // the caller's: wireAddrs
	answer   *resend    // nil when it does not wait for an ack
	ring     *resend
}

// A pace bounds how often a member may ask for something.
type pace time.Duration // when it has nothing to its charge, see presInput.at

// take reports whether one more is allowed at a time: burst at once, then one
// each gap.
func (p *pace) take(at, gap time.Duration, burst int) bool {
	next := max(time.Duration(*p), at)
	if next-at >= time.Duration(burst)*gap {
		return false
	}
	*p = pace(next + gap)
	return true
}

func (p *presence) callLocked(in presInput, rest []byte) {
	var proto protoRange
	s := cryptobyte.String(rest)
	if !readProto(&s, &proto) {
		return
	}
	msg, err := parseCall(rest)
	if !proto.speaks() {
		no := refuseMsg{reason: refuseUpdate}
		if err == nil {
			no.call = msg.call
		}
		p.refuseLocked(in, no)
		return
	}
	if err != nil {
		return
	}
	inst := in.m.instance(in.head.sender)
	proved := p.receivesAt(in, inst, msg.cookie)
	if inst != nil && !inst.window.fresh(in.head.counter) {
		return
	}
	c := p.intro.calls[callKey{in.m, msg.call}]
	switch {
	case c == nil && !proved && !in.timely(msg.time):
		p.helloLocked(in)
	case c == nil:
		if c, reason := p.newCallLocked(in, msg); reason != 0 {
			p.refuseLocked(in, refuseMsg{call: msg.call, reason: reason})
		} else {
			p.introduceLocked(in, msg, c, proved)
		}
	case c.instance == in.head.sender && c.window.fresh(in.head.counter):
		p.introduceLocked(in, msg, c, proved)
	}
}

// timely reports whether unix seconds t are about now.
func (in presInput) timely(t int64) bool {
	const most = int64(callFresh / time.Second)
	return t >= in.now-most && t <= in.now+most
}

// newCallLocked draws the session of a call; it is entered into the table when
// it is introduced.
func (p *presence) newCallLocked(in presInput, msg *callMsg) (c *presCall, refusal byte) {
	switch {
	case !in.m.nextCall.take(in.at, callGap, callBurst):
		return nil, refuseLimit
	case len(p.intro.calls) >= maxCalls || len(p.intro.due) >= maxResends:
		return nil, refuseBusy
	}
	c = &presCall{key: callKey{in.m, msg.call}, made: in.at, instance: in.head.sender}
	c.window.fresh(in.head.counter)
	rand.Read(c.token[:])
	return c, 0
}

// introduceLocked answers a call and rings its target. A repeated call is
// answered again, and rings again only if there is something new to say.
func (p *presence) introduceLocked(in presInput, msg *callMsg, c *presCall, proved bool) {
	target, inst, no := p.targetLocked(in, msg.target)
	if no.reason != 0 {
		no.call = msg.call
		p.refuseLocked(in, no)
		return
	}
	credit := in.size
	if c.from == in.from && !c.proved {
		credit += c.credit
	}
	to := p.sourceLocked(inst)
	answer := answerMsg{call: msg.call, token: c.token, ttl: p.ttl, instance: inst.id,
		target: to.addr, caller: in.from.addr, second: p.second, cands: inst.candidates()}
	body := answer.append(nil)
	if !proved && credit < datagramLen(body)+p.refuseLen() {
		p.helloLocked(in) // a padded call or a cookie is wanted
		return
	}
	cands := wireAddrs(msg.cands)
	ring := c.target != target || c.rung != inst.id || c.from.addr != in.from.addr || c.cands != cands ||
		!c.acked && c.ring == nil
	p.keepCallLocked(c)
	if p.keeper != nil && c.target != target && in.m.standing == memberActive {
		acct, client, called, token := in.m.acct.id, in.m.deviceID(), target.deviceID(), c.token
		p.after = append(p.after, func() { p.keeper.sessionMade(acct, client, called, token, p.ttl) })
	}
	c.from, c.proved, c.credit, c.cands = in.from, proved, credit, cands
	p.resendLocked(in.at, &c.answer, resend{kind: msgAnswer, m: in.m, receiver: in.head.sender, body: body, call: c, times: introTimes})
	if ring {
		c.target, c.rung, c.acked = target, inst.id, false
		msg := ringMsg{call: msg.call, token: c.token, ttl: p.ttl, keys: in.m.keys(), instance: in.head.sender,
			caller: in.from.addr, cands: msg.cands}
		p.resendLocked(in.at, &c.ring, resend{kind: msgRing, m: target, receiver: inst.id, body: msg.append(nil), call: c, times: introTimes})
	}
}

// keepCallLocked enters a call that is not in the table yet.
func (p *presence) keepCallLocked(c *presCall) {
	if p.intro.calls[c.key] != c {
		p.intro.calls[c.key] = c
		p.intro.order = append(p.intro.order, c)
	}
}

// targetLocked returns the device called and the process to ring, or why not.
func (p *presence) targetLocked(in presInput, id deviceID) (*presMember, *presInstance, refuseMsg) {
	target := in.m.acct.member(id)
	switch {
	case target == nil:
		return nil, nil, refuseMsg{reason: refuseUnknown}
	case target.standing == memberRevoked:
		return nil, nil, refuseMsg{reason: refuseRevoked}
	case target.standing == memberWaiting:
		return nil, nil, refuseMsg{reason: refuseUnsigned}
	}
	inst := target.serving()
	if inst == nil {
		return nil, nil, refuseMsg{reason: refuseOffline, seconds: target.silence(in.at)}
	}
	return target, inst, refuseMsg{}
}

func datagramLen(body []byte) int { return sealOverhead + msgHeadLen + len(body) }

// refuseLen is the length of a refuse datagram.
func (p *presence) refuseLen() int {
	return datagramLen((&refuseMsg{proto: p.proto}).append(nil))
}

// refuseLocked answers what came in. The build's name is left out where the
// answer would be longer than what it answers; it then never is.
func (p *presence) refuseLocked(in presInput, no refuseMsg) {
	no.proto = p.proto
	if p.refuseLen() > in.size {
		no.proto.build = ""
	}
	if body := no.append(nil); datagramLen(body) <= in.size {
		p.postLocked(in.m, in.head.sender, in.from, msgRefuse, body)
	}
}

// A resend is a message that goes out until it is acknowledged.
type resend struct {
	kind     byte
	m        *presMember
	receiver instanceID
	body     []byte
	call     *presCall // of an answer or a ring
	done     func()    // called without the lock when it is acknowledged; may be nil
	times    []time.Duration
	owner    **resend // set to nil when the resend ends

	began, next time.Duration
	step        int // times that are over
	counters    []uint64
	index       int // in the heap
}

type ackKey struct {
	m       *presMember
	counter uint64
}

// resendLocked sends r and enters it at *owner, in place of what is there.
func (p *presence) resendLocked(at time.Duration, owner **resend, r resend) {
	if *owner != nil {
		p.endResendLocked(*owner)
	}
	r.owner, r.began, r.next = owner, at, at+r.times[0]
	*owner = &r
	heap.Push(&p.intro.due, &r)
	p.sendAgainLocked(&r)
}

func (p *presence) endResendLocked(r *resend) {
	heap.Remove(&p.intro.due, r.index)
	for _, n := range r.counters {
		delete(p.intro.unacked, ackKey{r.m, n})
	}
	if *r.owner == r {
		*r.owner = nil
	}
}

// sendAgainLocked sends r once more, under a counter of its own so that the
// receiver does not take it for a replay, to where the receiver is now.
func (p *presence) sendAgainLocked(r *resend) {
	var to udpSource
	if r.kind == msgAnswer {
		to = r.call.from
		if !r.call.pay(datagramLen(r.body), p.refuseLen()) {
			return
		}
	} else if inst := r.m.instance(r.receiver); inst != nil && !inst.left {
		to = p.sourceLocked(inst)
	} else {
		return
	}
	n := p.postLocked(r.m, r.receiver, to, r.kind, r.body)
	r.counters = append(r.counters, n)
	p.intro.unacked[ackKey{r.m, n}] = r
}

// pay takes n bytes from the credit of a caller that is not proved, if keep
// bytes are left: for a refusal.
func (c *presCall) pay(n, keep int) bool {
	if c.proved {
		return true
	}
	if c.credit < n+keep {
		return false
	}
	c.credit -= n
	return true
}

func (p *presence) ackLocked(in presInput, rest []byte) {
	msg, err := parseAck(rest)
	if err != nil {
		return
	}
	r := p.intro.unacked[ackKey{in.m, msg.counter}]
	if r == nil || r.receiver != in.head.sender {
		return
	}
	if r.kind == msgRing {
		r.call.acked = true
	}
	if r.done != nil {
		p.after = append(p.after, r.done)
	}
	p.endResendLocked(r)
}

// newsLocked tells an account's head to all its processes that are online.
func (p *presence) newsLocked(at time.Duration, a *presAccount) {
	old := slices.DeleteFunc(slices.Clone(p.intro.due), func(r *resend) bool { return r.kind != msgNews || r.m.acct != a })
	for _, r := range old {
		p.endResendLocked(r)
	}
	body := (&newsMsg{a.seq, a.head}).append(nil)
	for _, m := range a.members {
		for i := range m.instances {
			if m.instances[i].left {
				continue
			}
			if len(p.intro.due) >= maxResends {
				return
			}
			p.resendLocked(at, new(*resend), resend{kind: msgNews, m: m, receiver: m.instances[i].id, body: body, times: newsTimes})
		}
	}
}

// end tells the process of a device that serves to end sessions, again and again
// as with news; done is called when that process has acknowledged it. It reports
// whether there is one to tell.
func (p *presence) end(now time.Time, acct acctID, target deviceID, msg *endMsg, done func()) bool {
	p.mu.Lock()
	defer p.unlockAndSend()
	a := p.accounts[acct]
	if a == nil || len(p.intro.due) >= maxResends {
		return false
	}
	m := a.member(target)
	if m == nil || m.standing != memberActive {
		return false
	}
	inst := m.serving()
	if inst == nil {
		return false
	}
	p.resendLocked(now.Sub(p.start), new(*resend), resend{kind: msgEnd, m: m, receiver: inst.id, body: msg.append(nil), done: done, times: newsTimes})
	return true
}

// introTickLocked sends what is due again and forgets old calls.
func (p *presence) introTickLocked(at time.Duration) {
	for len(p.intro.due) > 0 && p.intro.due[0].next <= at {
		r := p.intro.due[0]
		r.step++
		if r.step == len(r.times) || r.m.acct == nil {
			p.endResendLocked(r)
			p.giveUpLocked(at, r)
			continue
		}
		r.next = r.began + r.times[r.step]
		heap.Fix(&p.intro.due, r.index)
		p.sendAgainLocked(r)
	}
	i := &p.intro
	for len(i.order) > 0 && at-i.order[0].made >= callLife {
		delete(i.calls, i.order[0].key)
		i.order = i.order[1:]
	}
}

// giveUpLocked tells the caller of a silent device.
func (p *presence) giveUpLocked(at time.Duration, r *resend) {
	if r.kind != msgRing || r.call.key.m.acct == nil {
		return
	}
	c := r.call
	no := refuseMsg{call: c.key.id, reason: refuseSilent, seconds: r.m.silence(at), proto: p.proto}
	if body := no.append(nil); c.pay(datagramLen(body), 0) {
		p.postLocked(c.key.m, c.instance, c.from, msgRefuse, body)
	}
}

// A resendHeap has what is due next at index 0.
type resendHeap []*resend

func (h resendHeap) Len() int           { return len(h) }
func (h resendHeap) Less(i, j int) bool { return h[i].next < h[j].next }
func (h resendHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *resendHeap) Push(r any) {
	r.(*resend).index = len(*h)
	*h = append(*h, r.(*resend))
}
func (h *resendHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return r
}
