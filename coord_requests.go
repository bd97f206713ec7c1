package main

// This file answers what devices ask of the coordinator, and decides who may
// ask what. It knows neither QUIC nor sockets: the peer's keys come proved from
// coord_stream.go.
//
//	create            who has the claim
//	join              who has a ticket
//	whoami            anyone
//	fetch             in the log, or waiting; else with the recovery key's proof
//	devices           in the log
//	ticket, pending   in the log, with role client
//	enrol             who proves to be a signer with power s or r
//	append            in the log, with role client; anyone, if the recovery key signed

import (
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// errDenied is all that a stranger reads.
var errDenied = coded("denied", "denied")

const (
	// strangerGap is the time for one request of a stranger that costs a
	// signature check, and strangerBurst how many may come at once: 32 a
	// minute, from all strangers together (trust.md, "Exchange").
	strangerGap   = 2 * time.Second
	strangerBurst = 32
	// joinGap is the time for one join with a ticket that nobody knows, from one
	// address, and joinBurst how many may come at once.
	joinGap   = 10 * time.Second
	joinBurst = 20
)

// A coordServer answers requests.
type coordServer struct {
	store    *coordStore
	sessions *sessionStore
	presence *presence
	now      func() time.Time
	logf     func(format string, args ...any)
	builds   func() (url, set string) // what it hands out, see whoamiMsg; nil = nothing

	strangers rateGate
	joins     gates
	proofs    rateGate // of the page
	flows     webFlows // of the page
	page      string   // its origin, "" = there is none; set before anything is asked
}

// A coordPeer is who asks, with the keys that TLS has proved.
type coordPeer struct {
	keys publicKeys
	addr netip.AddrPort
	// channel is exported from the TLS connection: see fetchProofBytes.
	channel func() ([]byte, error)
}

// answer does what is asked and returns the body of the reply.
func (s *coordServer) answer(peer *coordPeer, op byte, body []byte) ([]byte, error) {
	switch op {
	case opCreate:
		return answerTo(body, parseCreate, func(m *createMsg) (*headMsg, error) { return s.create(m) })
	case opFetch:
		return answerTo(body, parseFetch, func(m *fetchMsg) (*fetchedMsg, error) { return s.fetch(peer, m) })
	case opAppend:
		return answerTo(body, parseAppend, func(m *appendMsg) (*headMsg, error) { return s.append(peer, m) })
	case opTicket:
		return answerTo(body, parseTicketMsg, func(m *ticketMsg) (noMsg, error) { return noMsg{}, s.ticket(peer, m) })
	case opJoin:
		return answerTo(body, parseJoin, func(m *joinMsg) (*joinedMsg, error) { return s.join(peer, m) })
	case opPending:
		return answerTo(body, parseAcctMsg, func(m *acctMsg) (*pendingMsg, error) { return s.pending(peer, m) })
	case opDevices:
		return answerTo(body, parseAcctMsg, func(m *acctMsg) (*devicesMsg, error) { return s.devices(peer, m) })
	case opEnrol:
		return answerTo(body, parseEnrol, func(m *enrolMsg) (*enrolledMsg, error) { return s.enrol(peer, m) })
	case opWhoami:
		m := &whoamiMsg{observed: peer.addr, time: s.now().Unix()}
		if s.builds != nil {
			m.url, m.set = s.builds()
		}
		return m.append(nil), nil
	}
	return nil, coded("request-malformed", "request %d is not known here", op)
}

// answerTo parses a request's body, hands it to do, and writes its reply.
func answerTo[Q any, A payload](body []byte, parse func([]byte) (Q, error), do func(Q) (A, error)) ([]byte, error) {
	q, err := parse(body)
	if err != nil {
		return nil, coded("request-malformed", "request: %w", err)
	}
	a, err := do(q)
	if err != nil {
		return nil, err
	}
	return a.append(nil), nil
}

// publishAccount tells the presence table what an account's log and list hold now,
// and the sessions whose they may be.
func (s *coordServer) publishAccount(a *coordAccount) {
	a.publish.Lock() // the last one to come tells the newest
	defer a.publish.Unlock()
	now := s.now()
	seq, head, members := a.members(now)
	s.presence.update(now, a.id, seq, head, members)
	active := map[deviceID]bool{}
	for _, m := range members {
		if m.standing == memberActive {
			active[m.keys.deviceID()] = true
		}
	}
	s.sessions.keepOnly(a.id, active)
}

func (s *coordServer) create(m *createMsg) (*headMsg, error) {
	a, err := s.createAccount(m.claim, m.records, new(ownerState))
	if err != nil {
		return nil, err
	}
	state, _ := a.snapshot(s.now())
	return &headMsg{state.seq(), state.head()}, nil
}

func (s *coordServer) createAccount(claim claimSecret, records [][]byte, owner *ownerState) (*coordAccount, error) {
	if s.store.signup == signupOpen && !s.strangers.take(s.now(), strangerGap, strangerBurst) {
		return nil, errBusy
	}
	a, err := s.store.create(claim, records, owner, s.now())
	if err != nil {
		return nil, err
	}
	s.publishAccount(a)
	state, _ := a.snapshot(s.now())
	s.logf("account %.8s made, head %s", a.id, headWords(state.head()))
	return a, nil
}

// A peerStanding is what a peer is in an account.
type peerStanding struct {
	device  signedDevice
	signed  bool // in the log, with both keys; perhaps revoked
	waiting bool
}

func standingOf(keys publicKeys, state *trustState, wait waitingList) (st peerStanding) {
	if d, ok := state.deviceByKey(keys.sign); ok {
		st.device, st.signed = d, d.keys.path == keys.path
		return st
	}
	for _, j := range wait.joins {
		st.waiting = st.waiting || string(j.keys.sign) == string(keys.sign) && j.keys.path == keys.path
	}
	return st
}

// asClient returns the account if the peer may act for it. Who is not in the
// log learns nothing but that it is denied.
func (s *coordServer) asClient(peer *coordPeer, id acctID) (*coordAccount, error) {
	a, err := s.store.account(id)
	if err != nil {
		return nil, err
	}
	state, wait := a.snapshot(s.now())
	if !standingOf(peer.keys, state, wait).signed {
		return nil, errDenied
	}
	_, err = state.judge(peer.keys, "client", s.now())
	return a, err
}

// fetch gives records. A revoked device reads up to its revocation: enough to
// know, and nothing of what came after.
func (s *coordServer) fetch(peer *coordPeer, m *fetchMsg) (*fetchedMsg, error) {
	a, err := s.store.account(m.acct)
	if err != nil {
		return nil, err
	}
	state, wait := a.snapshot(s.now())
	st := standingOf(peer.keys, state, wait)
	to := state.seq()
	switch {
	case st.signed && st.device.revoked:
		to = st.device.revokedSeq
	case st.signed || st.waiting:
	case len(m.proof) == 0:
		return nil, errDenied
	default:
		if err := s.checkFetchProof(peer, state, m); err != nil {
			return nil, err
		}
	}
	records, err := a.records(m.from, min(to, m.from+maxFetchRecords-1))
	if err != nil {
		return nil, err
	}
	return &fetchedMsg{headMsg{to, state.chain[to]}, fitRecords(records)}, nil
}

// fitRecords returns as many records as fit into one reply.
func fitRecords(records [][]byte) [][]byte {
	size := 64 // head and counts
	for i, r := range records {
		if size += 4 + len(r); size > maxCoordBody {
			return records[:i]
		}
	}
	return records
}

// checkFetchProof lets the recovery key read the log from a machine that is not
// in it.
func (s *coordServer) checkFetchProof(peer *coordPeer, state *trustState, m *fetchMsg) error {
	if !s.strangers.take(s.now(), strangerGap, strangerBurst) {
		return errBusy
	}
	channel, err := peer.channel()
	if err != nil {
		return err
	}
	sig, err := parseSSHSig(m.proof)
	if err != nil {
		return errDenied
	}
	for _, r := range state.signers() {
		if r.kind != signerSSH || !r.can('r') {
			continue
		}
		key, err := parseSSHKeyBlob(r.key)
		if err == nil && sig.verify(key, fetchNamespace, fetchProofBytes(m.acct, channel)) == nil {
			return nil
		}
	}
	return errDenied
}

var errBusy = coded("busy", "the coordinator is busy: try again in a minute")

func (s *coordServer) append(peer *coordPeer, m *appendMsg) (*headMsg, error) {
	a, err := s.asClient(peer, m.acct)
	if err != nil {
		if a, err = s.asRecovery(m, err); err != nil {
			return nil, err
		}
	}
	return s.appendRecord(a, m.record)
}

// appendRecord adds a record whose bringer may do so, and tells everybody.
func (s *coordServer) appendRecord(a *coordAccount, record []byte) (*headMsg, error) {
	state, changed, err := a.append(record, s.now())
	if err != nil {
		return nil, err
	}
	if changed {
		if err := s.store.dropWithSigners(a, s.now()); err != nil {
			s.logf("account %.8s: who signs in: %v", a.id, err)
		}
		s.publishAccount(a)
		s.logf("account %.8s: record %d, head %s", a.id, state.seq(), headWords(state.head()))
	}
	return &headMsg{state.seq(), state.head()}, nil
}

// asRecovery returns the account if its recovery key has signed the record.
// Else the answer is denied, whatever else is wrong with it.
func (s *coordServer) asRecovery(m *appendMsg, denied error) (*coordAccount, error) {
	a, err := s.store.account(m.acct)
	if err != nil {
		return nil, err
	}
	text, sigs, err := splitRecord(m.record)
	if err != nil {
		return nil, denied
	}
	state, _ := a.snapshot(s.now())
	for _, sig := range sigs {
		line, ok := state.signerLine(sig.claimed)
		if !ok || !line.can('r') {
			continue
		}
		if !s.strangers.take(s.now(), strangerGap, strangerBurst) {
			return nil, errBusy
		}
		if sig.verify(line, text) == nil {
			return a, nil
		}
	}
	return nil, denied
}

// enrol gives the code by which a passkey may be made that signs in to the page.
func (s *coordServer) enrol(peer *coordPeer, m *enrolMsg) (*enrolledMsg, error) {
	a, err := s.store.account(m.acct)
	if err != nil {
		return nil, err
	}
	if !s.strangers.take(s.now(), strangerGap, strangerBurst) {
		return nil, errBusy
	}
	channel, err := peer.channel()
	if err != nil {
		return nil, err
	}
	state, _ := a.snapshot(s.now())
	_, sigs, err := splitRecord(m.proof)
	want := ownerProofText(m.acct.String(), channel)
	for _, line := range ownerLines(state) {
		if err != nil || len(sigs) != 1 || sigs[0].claimed != line.id || sigs[0].verifyIn(ownerNamespace, line, want) != nil {
			continue
		}
		if s.page == "" {
			return nil, withHint(coded("no-page", "this coordinator has no page"), "it is started with -http")
		}
		s.logf("account %.8s: signer %s lets a passkey sign in", a.id, line.label)
		code, err := s.flows.put(s.now(), webFlow{kind: "enrol", acct: a.id, label: line.label, by: line.id, owner: string(line.id)})
		return &enrolledMsg{s.page, code}, err
	}
	return nil, errDenied
}

func (s *coordServer) ticket(peer *coordPeer, m *ticketMsg) error {
	a, err := s.asClient(peer, m.acct)
	if err != nil {
		return err
	}
	list, err := checkCategories(m.categories)
	if err != nil {
		return err
	}
	return a.addTicket(m.ticket, time.Duration(m.seconds)*time.Second, ticketWish{Categories: list}, s.now())
}

func (s *coordServer) join(peer *coordPeer, m *joinMsg) (*joinedMsg, error) {
	a, err := s.store.account(m.acct)
	if err != nil {
		return nil, err
	}
	if _, _, err := sealKeys(s.presence.me.path, sealCoord, peer.keys.path, sealDevice); err != nil {
		return nil, coded("key-mismatch", "join: %w", err)
	}
	gate := s.joins.host(s.now(), peer.addr.Addr())
	if !gate.open(s.now(), joinGap, joinBurst) {
		return nil, errBusy
	}
	signed, err := a.join(pendingJoin{keys: peer.keys, ticket: m.ticket, name: m.name, login: m.login,
		proof: m.proof, time: s.now().Unix(), addr: peer.addr}, s.now())
	if codeOf(err) == "ticket-unknown" {
		gate.take(s.now(), joinGap, joinBurst)
	}
	if err != nil {
		return nil, err
	}
	s.publishAccount(a)
	state, _ := a.snapshot(s.now())
	s.logf("account %.8s: %s joins from %s", a.id, peer.keys.deviceID(), peer.addr)
	return &joinedMsg{signed, headMsg{state.seq(), state.head()}}, nil
}

func (s *coordServer) pending(peer *coordPeer, m *acctMsg) (*pendingMsg, error) {
	a, err := s.asClient(peer, m.acct)
	if err != nil {
		return nil, err
	}
	_, wait := a.snapshot(s.now())
	return &pendingMsg{wait.joins}, nil
}

func (s *coordServer) devices(peer *coordPeer, m *acctMsg) (*devicesMsg, error) {
	a, err := s.store.account(m.acct)
	if err != nil {
		return nil, err
	}
	state, wait := a.snapshot(s.now())
	st := standingOf(peer.keys, state, wait)
	if !st.signed || st.device.revoked || st.device.expired(s.now()) {
		return nil, errDenied
	}
	var msg devicesMsg
	sorted := a.ownerNow().Categories
	for _, d := range state.devices() {
		msg.devices = append(msg.devices, deviceSeen{d.id, s.presence.status(s.now(), a.id, d.id), sorted[d.id]})
	}
	return &msg, nil
}

// A rateGate lets one pass each gap, and burst at once after a rest.
type rateGate struct {
	mu   sync.Mutex
	next time.Time // guarded by mu: when what has passed is paid for
}

// open reports whether one more would pass.
func (g *rateGate) open(now time.Time, gap time.Duration, burst int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.next.Sub(now) < time.Duration(burst)*gap
}

// rests reports whether nothing is to its charge.
func (g *rateGate) rests(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !now.Before(g.next)
}

func (g *rateGate) take(now time.Time, gap time.Duration, burst int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next.Before(now) {
		g.next = now
	}
	if g.next.Sub(now) >= time.Duration(burst)*gap {
		return false
	}
	g.next = g.next.Add(gap)
	return true
}

// maxGates bounds those that are counted, 150 bytes each.
const maxGates = 4096

// gates has a rateGate for each of many; the zero value is ready.
type gates struct {
	mu   sync.Mutex
	list map[string]*rateGate // guarded by mu
}

// host is the gate of an IPv4 address or IPv6 /64.
func (g *gates) host(now time.Time, addr netip.Addr) *rateGate {
	return g.of(now, hostOf(addr).String())
}

// of finds a gate. For a new one those give way that have rested, or any.
func (g *gates) of(now time.Time, name string) *rateGate {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.list[name]
	if one != nil {
		return one
	}
	if g.list == nil {
		g.list = map[string]*rateGate{}
	}
	for other, gate := range g.list {
		if len(g.list) < maxGates {
			break
		}
		if gate.rests(now) {
			delete(g.list, other)
		}
	}
	for other := range g.list {
		if len(g.list) < maxGates {
			break
		}
		delete(g.list, other)
	}
	one = new(rateGate)
	g.list[name] = one
	return one
}

// errorReply is what a peer is told of err. What has no code is our own
// trouble: the peer learns no paths of this machine.
func (s *coordServer) errorReply(peer *coordPeer, err error) *failureMsg {
	code := codeOf(err)
	if code == "" {
		s.logf("request from %s: %v", peer.addr, err)
		return &failureMsg{"internal", "the coordinator failed, its log says why"}
	}
	text := err.Error()
	if hint := hintOf(err); hint != "" {
		text = fmt.Sprintf("%s (%s)", text, hint)
	}
	if code == "log-corrupt" {
		s.logf("request from %s: %v", peer.addr, err)
		text = "the coordinator cannot read this account's log, its own log says why"
	}
	return &failureMsg{code, text}
}
