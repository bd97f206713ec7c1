package main

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// A coordRightsTest is an account with somebody of every standing.
type coordRightsTest struct {
	*coordTestServer
	acct  *coordTestAcct
	peers map[string]publicKeys
}

func newCoordRightsTest(t *testing.T) *coordRightsTest {
	rt := &coordRightsTest{coordTestServer: newCoordTestServer(t), peers: map[string]publicKeys{}}
	for _, name := range []string{"client", "server", "revoked", "expired", "waiting", "stranger"} {
		rt.peers[name] = presTestIdentity(t).keys
	}
	forged := rt.peers["client"]
	forged.path = rt.peers["stranger"].path
	rt.peers["other path key"] = forged
	a := newCoordTestAcct(t, rt.peers["client"])
	rt.acct = a
	a.addDevice(rt.peers["server"], "attic", "server")
	a.addDevice(rt.peers["revoked"], "gone", "client", "server")
	text, err := buildDeviceAdd(a.state, rt.peers["expired"],
		newDeviceGrant("old", []string{"client"}, nil, deviceCaps, coordTestNow.Unix()), coordTestNow)
	a.sign(text, err, a.signer)
	a.revoke(rt.peers["revoked"].deviceID())
	rt.create(a)
	secret := ticketSecret{1}
	rt.mustAsk("client", opTicket, &ticketMsg{a.id(), hashTicket(secret), 900, nil})
	rt.mustAsk("waiting", opJoin, rt.joinMsg("waiting", secret))
	rt.advance(time.Second)
	return rt
}

func (rt *coordRightsTest) joinMsg(who string, secret ticketSecret) *joinMsg {
	return &joinMsg{rt.acct.id(), hashTicket(secret), "new", "root", joinProof(secret, rt.acct.id(), rt.peers[who], "new", "root")}
}

func (rt *coordRightsTest) mustAsk(who string, op byte, q payload) []byte {
	rt.t.Helper()
	body, code := rt.ask(rt.peers[who], op, q)
	if code != "" {
		rt.t.Fatalf("request %d by %s: %s", op, who, code)
	}
	return body
}

func TestCoordRights(t *testing.T) {
	rt := newCoordRightsTest(t)
	id := rt.acct.id()
	other := newCoordTestAcct(t, rt.peers["client"])
	named := 0
	next := func() payload { // a good record that comes next, made anew for each
		a := *rt.acct
		named++
		return &appendMsg{id, a.addDevice(presTestIdentity(t).keys, fmt.Sprintf("another-%d", named), "server")}
	}
	for _, tt := range []struct {
		name string
		op   byte
		q    func() payload
		want map[string]string // code by who; "-" stands for done
	}{
		{"whoami", opWhoami, func() payload { return noMsg{} }, map[string]string{
			"client": "-", "server": "-", "revoked": "-", "expired": "-", "waiting": "-", "stranger": "-", "other path key": "-"}},
		{"fetch", opFetch, func() payload { return &fetchMsg{acct: id} }, map[string]string{
			"client": "-", "server": "-", "revoked": "-", "expired": "-", "waiting": "-", "stranger": "denied", "other path key": "denied"}},
		{"devices", opDevices, func() payload { return &acctMsg{id} }, map[string]string{
			"client": "-", "server": "-", "revoked": "denied", "expired": "denied", "waiting": "denied", "stranger": "denied", "other path key": "denied"}},
		{"pending", opPending, func() payload { return &acctMsg{id} }, map[string]string{
			"client": "-", "server": "role", "revoked": "revoked", "expired": "expired", "waiting": "denied", "stranger": "denied", "other path key": "denied"}},
		{"ticket", opTicket, func() payload { return &ticketMsg{id, ticketHash{7}, 900, nil} }, map[string]string{
			"client": "-", "server": "role", "revoked": "revoked", "expired": "expired", "waiting": "denied", "stranger": "denied", "other path key": "denied"}},
		{"append", opAppend, next, map[string]string{
			"server": "role", "revoked": "revoked", "expired": "expired", "waiting": "denied", "stranger": "denied", "other path key": "denied", "client": "-"}},
		{"join without a ticket", opJoin, func() payload { return rt.joinMsg("stranger", ticketSecret{9}) }, map[string]string{
			"revoked": "revoked", "waiting": "ticket-unknown", "stranger": "ticket-unknown", "other path key": "key-mismatch"}},
		{"create without claim", opCreate, func() payload { return &createMsg{records: other.log} }, map[string]string{
			"client": "claim-unknown", "stranger": "claim-unknown"}},
		{"fetch of no account", opFetch, func() payload { return &fetchMsg{acct: other.id()} }, map[string]string{"client": "denied", "stranger": "denied"}},
		{"append to no account", opAppend, func() payload { return &appendMsg{other.id(), other.log[0]} }, map[string]string{"client": "denied"}},
		{"unknown op", 99, func() payload { return noMsg{} }, map[string]string{"client": "request-malformed", "stranger": "request-malformed"}},
		{"short request", opFetch, func() payload { return noMsg{} }, map[string]string{"client": "request-malformed"}},
	} {
		for who, want := range tt.want {
			_, code := rt.ask(rt.peers[who], tt.op, tt.q())
			if want == "-" {
				want = ""
			}
			if code != want {
				t.Errorf("%s by %s: %q, want %q", tt.name, who, code, want)
			}
			if tt.op == opAppend && code == "" { // put it back: the next one is judged alike
				a, _ := rt.store.account(id)
				a.mu.Lock()
				rt.acct.state = a.state
				a.mu.Unlock()
			}
		}
	}
}

func TestCoordFetchPages(t *testing.T) {
	rt := newCoordRightsTest(t)
	a, err := rt.store.account(rt.acct.id())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 70 {
		keys := presTestIdentity(t).keys
		rt.mustAsk("client", opAppend, &appendMsg{a.id, rt.acct.addDevice(keys, "d"+string(rune('a'+i%26))+string(rune('a'+i/26)), "server")})
	}
	var got [][]byte
	for from := uint64(0); ; from = uint64(len(got)) {
		page, err := parseFetched(rt.mustAsk("server", opFetch, &fetchMsg{acct: a.id, from: from}))
		if err != nil {
			t.Fatal(err)
		}
		if page.head != (headMsg{rt.acct.state.seq(), rt.acct.state.head()}) || len(page.records) > maxFetchRecords {
			t.Fatalf("head %+v with %d records", page.head, len(page.records))
		}
		if len(page.records) == 0 {
			break
		}
		got = append(got, page.records...)
	}
	if !bytes.Equal(bytes.Join(got, nil), bytes.Join(rt.acct.log, nil)) {
		t.Errorf("%d records fetched, not the %d of the log", len(got), len(rt.acct.log))
	}
	page, err := parseFetched(rt.mustAsk("server", opFetch, &fetchMsg{acct: a.id, from: 1 << 60}))
	if err != nil || len(page.records) != 0 {
		t.Errorf("records from beyond the end: %d, %v", len(page.records), err)
	}
}

func TestCoordRevokedDeviceReadsNoFurther(t *testing.T) {
	rt := newCoordRightsTest(t)
	last := rt.acct.state.seq()
	head := rt.acct.state.head()
	rt.mustAsk("client", opAppend, &appendMsg{rt.acct.id(), rt.acct.addDevice(presTestIdentity(t).keys, "secret", "server")})
	page, err := parseFetched(rt.mustAsk("revoked", opFetch, &fetchMsg{acct: rt.acct.id()}))
	if err != nil || page.head != (headMsg{last, head}) || len(page.records) != int(last)+1 {
		t.Fatalf("a revoked device reads %d records up to %d, %v", len(page.records), page.head.seq, err)
	}
	page, err = parseFetched(rt.mustAsk("revoked", opFetch, &fetchMsg{acct: rt.acct.id(), from: last + 1}))
	if err != nil || len(page.records) != 0 {
		t.Fatalf("a revoked device reads %d records after its revocation, %v", len(page.records), err)
	}
}

func TestCoordFetchWithRecoveryKey(t *testing.T) {
	rt := newCoordRightsTest(t)
	id, stranger := rt.acct.id(), rt.peers["stranger"]
	sign := func(by sshStmtSigner, ns string, acct acctID, channel string) []byte {
		proof, err := signSSHSig(by.key, ns, fetchProofBytes(acct, []byte(channel)))
		if err != nil {
			t.Fatal(err)
		}
		return proof
	}
	right := rt.acct.recovery.signer()
	for _, tt := range []struct {
		name  string
		proof []byte
		want  string
	}{
		{"recovery key", sign(right, fetchNamespace, id, "this connection"), ""},
		{"another key", sign(coordTestSigner(t), fetchNamespace, id, "this connection"), "denied"},
		{"a signer that is not the recovery key", sign(rt.acct.signer, fetchNamespace, id, "this connection"), "denied"},
		{"another connection", sign(right, fetchNamespace, id, "another connection"), "denied"},
		{"another account", sign(right, fetchNamespace, acctID{1}, "this connection"), "denied"},
		{"another namespace", sign(right, stmtNamespace, id, "this connection"), "denied"},
		{"no signature", []byte("proof"), "denied"},
	} {
		if _, code := rt.ask(stranger, opFetch, &fetchMsg{id, 0, tt.proof}); code != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, code, tt.want)
		}
	}
	busy := 0
	for range 2 * strangerBurst {
		if _, code := rt.ask(stranger, opFetch, &fetchMsg{id, 0, []byte("proof")}); code == "busy" {
			busy++
		}
	}
	if busy == 0 {
		t.Error("strangers may have any number of signatures checked")
	}
	if _, code := rt.ask(rt.peers["server"], opFetch, &fetchMsg{id, 0, []byte("proof")}); code != "" {
		t.Errorf("a device of the account is refused meanwhile: %q", code)
	}
}

func TestCoordAppendRecoverByStranger(t *testing.T) {
	rt := newCoordRightsTest(t)
	id, stranger := rt.acct.id(), rt.peers["stranger"]
	old := *rt.acct
	raw := rt.acct.recover()

	forged := bytes.Clone(raw)
	forged[len(forged)-1] ^= 1 // the last signature does not fit any more
	if _, code := rt.ask(stranger, opAppend, &appendMsg{id, forged}); code != "denied" && code != "sig-invalid" {
		t.Errorf("a forged recover: %q", code)
	}
	if _, code := rt.ask(stranger, opAppend, &appendMsg{id, old.addDevice(stranger, "mine", "server")}); code != "denied" {
		t.Errorf("a record of another signer: %q", code)
	}
	if _, code := rt.ask(stranger, opAppend, &appendMsg{id, raw}); code != "" {
		t.Fatalf("recover: %q", code)
	}
	a, err := rt.store.account(id)
	if err != nil {
		t.Fatal(err)
	}
	if state, _ := a.snapshot(rt.now()); state.head() != rt.acct.state.head() {
		t.Error("the log is not that of the recovered account")
	}
}

func TestCoordAppendComparesAndSwaps(t *testing.T) {
	rt := newCoordRightsTest(t)
	id := rt.acct.id()
	mine, theirs := *rt.acct, *rt.acct
	a, b := mine.addDevice(presTestIdentity(t).keys, "one", "server"), theirs.addDevice(presTestIdentity(t).keys, "two", "server")
	rt.mustAsk("client", opAppend, &appendMsg{id, a})
	rt.mustAsk("client", opAppend, &appendMsg{id, a}) // the answer was lost
	after := theirs.addDevice(presTestIdentity(t).keys, "three", "server")
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"the other of two", b, "stale-head"},
		{"what follows the other", after, "stale-head"},
		{"a gap", func() []byte {
			m := mine
			m.addDevice(presTestIdentity(t).keys, "x", "server")
			return m.addDevice(presTestIdentity(t).keys, "y", "server")
		}(), "gap"},
		{"nothing", nil, "record-malformed"},
		{"an hour ahead", func() []byte {
			m := mine
			text, err := buildDeviceAdd(m.state, presTestIdentity(t).keys, newDeviceGrant("z", []string{"server"}, nil, deviceCaps, 0), coordTestNow.Add(time.Hour))
			return m.sign(text, err, m.signer)
		}(), "time-future"},
	} {
		if _, code := rt.ask(rt.peers["client"], opAppend, &appendMsg{id, tt.raw}); code != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, code, tt.want)
		}
	}
}

func TestCoordJoinUsesTicketUp(t *testing.T) {
	rt := newCoordRightsTest(t)
	id, secret := rt.acct.id(), ticketSecret{2}
	for _, name := range []string{"second", "third"} {
		rt.peers[name] = presTestIdentity(t).keys
	}
	rt.mustAsk("client", opTicket, &ticketMsg{id, hashTicket(secret), 900, nil})
	for range 2 { // and again, for a lost answer
		joined, err := parseJoined(rt.mustAsk("second", opJoin, rt.joinMsg("second", secret)))
		if err != nil || joined.signed || joined.head.seq != rt.acct.state.seq() {
			t.Fatalf("joined %+v, %v", joined, err)
		}
	}
	if _, code := rt.ask(rt.peers["third"], opJoin, rt.joinMsg("third", secret)); code != "ticket-unknown" {
		t.Errorf("a ticket admits a second machine: %q", code)
	}
	pending, err := parsePending(rt.mustAsk("client", opPending, &acctMsg{id}))
	if err != nil || len(pending.joins) != 2 {
		t.Fatalf("pending %+v, %v", pending, err)
	}
	p := pending.joins[1]
	if p.keys.deviceID() != rt.peers["second"].deviceID() || p.name != "new" || p.login != "root" || p.time != rt.now().Unix() ||
		p.addr != coordTestPeer(p.keys).addr || !p.provedBy(secret, id) || p.provedBy(ticketSecret{3}, id) {
		t.Errorf("pending %+v", p)
	}
	if p.name = "other"; p.provedBy(secret, id) {
		t.Error("another name is proved too")
	}
	rt.mustAsk("client", opAppend, &appendMsg{id, rt.acct.addDevice(rt.peers["second"], "second", "server")})
	if pending, _ = parsePending(rt.mustAsk("client", opPending, &acctMsg{id})); len(pending.joins) != 1 {
		t.Error("a signed machine is still pending")
	}
	if joined, err := parseJoined(rt.mustAsk("second", opJoin, rt.joinMsg("second", secret))); err != nil || !joined.signed {
		t.Errorf("joined %+v, %v", joined, err)
	}
}

func TestCoordTicketLivesFifteenMinutes(t *testing.T) {
	rt := newCoordRightsTest(t)
	id := rt.acct.id()
	rt.mustAsk("client", opTicket, &ticketMsg{id, hashTicket(ticketSecret{2}), 1 << 31, nil})
	rt.mustAsk("client", opTicket, &ticketMsg{id, hashTicket(ticketSecret{3}), 60, nil})
	rt.advance(61 * time.Second)
	if _, code := rt.ask(rt.peers["stranger"], opJoin, rt.joinMsg("stranger", ticketSecret{3})); code != "ticket-unknown" {
		t.Errorf("a ticket of a minute after 61 s: %q", code)
	}
	rt.advance(14 * time.Minute)
	if _, code := rt.ask(rt.peers["stranger"], opJoin, rt.joinMsg("stranger", ticketSecret{2})); code != "ticket-unknown" {
		t.Errorf("a ticket of 68 years after 15 minutes: %q", code)
	}
}

func TestCoordWaitingIsBounded(t *testing.T) {
	rt := newCoordRightsTest(t)
	id := rt.acct.id()
	for i := range maxTickets {
		rt.mustAsk("client", opTicket, &ticketMsg{id, hashTicket(ticketSecret{5, byte(i)}), 900, nil})
	}
	rt.mustAsk("client", opTicket, &ticketMsg{id, hashTicket(ticketSecret{5, 0}), 900, nil}) // known already
	if _, code := rt.ask(rt.peers["client"], opTicket, &ticketMsg{id, ticketHash{6}, 900, nil}); code != "limit" {
		t.Errorf("one ticket more than %d: %q", maxTickets, code)
	}
	for i := range maxPending { // one waits already
		rt.peers["x"] = presTestIdentity(t).keys
		_, code := rt.ask(rt.peers["x"], opJoin, rt.joinMsg("x", ticketSecret{5, byte(i)}))
		if last := i == maxPending-1; last != (code == "limit") {
			t.Fatalf("join %d: %q", i, code)
		}
	}
	rt.advance(pendingLife)
	if pending, err := parsePending(rt.mustAsk("client", opPending, &acctMsg{id})); err != nil || len(pending.joins) != 0 {
		t.Errorf("%d still wait after a week, %v", len(pending.joins), err)
	}
}

func TestCoordDevicesListsWhoIsOnline(t *testing.T) {
	rt := newCoordRightsTest(t)
	m, err := parseDevices(rt.mustAsk("server", opDevices, &acctMsg{rt.acct.id()}))
	if err != nil || len(m.devices) != 3 {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, d := range m.devices {
		if d.status.online || d.status.silent != never {
			t.Errorf("%+v, and nobody was heard", d)
		}
	}
}

func TestCoordErrorsTellNoPaths(t *testing.T) {
	rt := newCoordRightsTest(t)
	msg := rt.errorReply(coordTestPeer(rt.peers["client"]), errShort)
	if msg.code != "internal" || bytes.Contains([]byte(msg.text), []byte(errShort.Error())) {
		t.Errorf("%+v", msg)
	}
}

// The page is opened by a signer's proof for this very connection, and by nothing
// that a device has.
func TestCoordEnrol(t *testing.T) {
	rt := newCoordRightsTest(t)
	rt.page = webTestOrigin
	id := rt.acct.id()
	channel := []byte("this connection")
	proof := func(by stmtSigner, namespace string, text []byte) []byte {
		t.Helper()
		sig, err := by.sign(namespace, text)
		if err != nil {
			t.Fatal(err)
		}
		return appendRecord(nil, text, []recordSig{sig})
	}
	good := ownerProofText(id.String(), channel)
	other := ownerProofText(id.String(), []byte("another connection"))
	ask := func(who string, b []byte) string {
		_, code := rt.ask(rt.peers[who], opEnrol, &enrolMsg{id, b})
		rt.advance(time.Minute)
		return code
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "no record": {1}, "for another connection": proof(rt.acct.signer, ownerNamespace, other),
		"as a statement": proof(rt.acct.signer, stmtNamespace, good), "by nobody": proof(trustTestKey("stranger"), ownerNamespace, good),
	} {
		for _, who := range []string{"client", "server", "stranger"} {
			if code := ask(who, b); code != "denied" {
				t.Errorf("%s, by %s: %q", name, who, code)
			}
		}
	}
	if code := ask("client", proof(rt.acct.recovery.signer(), ownerNamespace, good)); code != "" {
		t.Errorf("by the recovery key: %q", code)
	}
	body := rt.mustAsk("server", opEnrol, &enrolMsg{id, proof(rt.acct.signer, ownerNamespace, good)})
	m, err := parseEnrolled(body)
	if err != nil || m.page != webTestOrigin || len(m.code) != 26 {
		t.Errorf("%+v, %v", m, err)
	}
	rt.page = ""
	if code := ask("client", proof(rt.acct.signer, ownerNamespace, good)); code != "no-page" {
		t.Errorf("without a page: %q", code)
	}
}
