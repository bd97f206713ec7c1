package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// coordTestNow is where the clocks of these tests begin.
var coordTestNow = time.Unix(1_800_000_000, 0)

// A coordTestAcct is an account as its owner has it.
type coordTestAcct struct {
	t        testing.TB
	signer   sshStmtSigner
	recovery recoveryKey
	state    *trustState
	log      [][]byte
	now      time.Time // of its statements
}

func coordTestSigner(t testing.TB) sshStmtSigner {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return sshStmtSigner{key}
}

func coordTestSignerLine(t testing.TB, s sshStmtSigner, label string) signerLine {
	t.Helper()
	line, err := newSSHSignerLine(s.key.PublicKey(), "ds", label)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// newCoordTestAcct makes genesis and the first device, a client.
func newCoordTestAcct(t testing.TB, laptop publicKeys) *coordTestAcct {
	t.Helper()
	return newCoordTestAcctAt(t, laptop, coordTestNow)
}

func newCoordTestAcctAt(t testing.TB, laptop publicKeys, now time.Time) *coordTestAcct {
	t.Helper()
	a := &coordTestAcct{t: t, signer: coordTestSigner(t), recovery: newRecoveryKey(), now: now}
	text, err := buildGenesis([]signerLine{coordTestSignerLine(t, a.signer, "owner"), a.recovery.line()}, a.now)
	a.sign(text, err, a.signer)
	a.addDevice(laptop, "laptop", "client")
	return a
}

func (a *coordTestAcct) id() acctID { return a.state.acct() }

// sign makes a record of text, applies it, and returns it.
func (a *coordTestAcct) sign(text []byte, err error, by ...stmtSigner) []byte {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := signRecord(text, by...)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.state, err = apply(a.state, raw, time.Time{}); err != nil {
		a.t.Fatal(err)
	}
	a.log = append(a.log, raw)
	return raw
}

func (a *coordTestAcct) addDevice(keys publicKeys, name string, roles ...string) []byte {
	a.t.Helper()
	text, err := buildDeviceAdd(a.state, keys, newDeviceGrant(name, roles, []string{"*"}, deviceCaps, 0), a.now)
	return a.sign(text, err, a.signer)
}

func (a *coordTestAcct) revoke(id deviceID) []byte {
	a.t.Helper()
	text, err := buildDeviceRevoke(a.state, []deviceID{id}, "lost", a.now)
	return a.sign(text, err, a.signer)
}

// recover replaces the signer, signed by the recovery key.
func (a *coordTestAcct) recover() []byte {
	a.t.Helper()
	fresh := coordTestSigner(a.t)
	text, err := buildRecover(a.state, 0, []signerLine{coordTestSignerLine(a.t, fresh, "fresh")}, a.now)
	raw := a.sign(text, err, a.recovery.signer(), fresh)
	a.signer = fresh
	return raw
}

// A coordTestServer answers requests with a clock that stands still.
type coordTestServer struct {
	*coordServer
	t   testing.TB
	dir string
	mu  sync.Mutex
	at  time.Time // guarded by mu
}

func newCoordTestServer(t testing.TB) *coordTestServer {
	s := &coordTestServer{t: t, dir: t.TempDir(), at: coordTestNow}
	s.open(presTestIdentity(t))
	return s
}

// open opens the store, as a coordinator that was started again.
func (s *coordTestServer) open(me *identity) {
	s.t.Helper()
	store, err := openCoordStore(s.dir, signupClaim, s.t.Logf)
	if err != nil {
		s.t.Fatal(err)
	}
	p := newPresence(me, protoRange{1, 1, "test"}, s.now(), func([]byte, udpSource) {}, nil)
	sessions, err := openSessionStore(s.dir, s.now(), s.t.Logf)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { sessions.close() })
	s.coordServer = &coordServer{store: store, sessions: sessions, presence: p, now: s.now, logf: s.t.Logf}
	for _, a := range store.list() {
		s.publishAccount(a)
	}
}

func (s *coordTestServer) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

func (s *coordTestServer) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = s.at.Add(d)
}

func (s *coordTestServer) create(a *coordTestAcct) {
	s.t.Helper()
	if _, err := s.store.create(s.store.unusedClaim(), a.log, new(ownerState), s.now()); err != nil {
		s.t.Fatal(err)
	}
	acct, err := s.store.account(a.id())
	if err != nil {
		s.t.Fatal(err)
	}
	s.publishAccount(acct)
}

func coordTestPeer(keys publicKeys) *coordPeer {
	return &coordPeer{keys: keys, addr: netip.MustParseAddrPort("192.0.2.9:999"),
		channel: func() ([]byte, error) { return []byte("this connection"), nil }}
}

// ask sends a request as peer and returns the code of the error.
func (s *coordTestServer) ask(keys publicKeys, op byte, q payload) ([]byte, string) {
	body, err := s.answer(coordTestPeer(keys), op, q.append(nil))
	if err != nil && codeOf(err) == "" {
		s.t.Errorf("an error without code: %v", err)
	}
	return body, codeOf(err)
}

// fetchAll returns the records from number from on, with their numbers in order
// and nothing else judged.
func (c *coordClient) fetchAll(ctx context.Context, acct acctID, from uint64, recovery ssh.Signer) (records [][]byte, err error) {
	for {
		page, err := c.fetch(ctx, acct, from+uint64(len(records)), recovery)
		if err != nil {
			return nil, err
		}
		for _, raw := range page.records {
			rec, err := parseRecord(raw)
			if err != nil {
				return nil, err
			}
			if seq := from + uint64(len(records)); rec.stmt.seq != seq || seq >= maxRecords {
				return nil, fmt.Errorf("the coordinator sends record %d where %d was asked for", rec.stmt.seq, seq)
			}
			records = append(records, raw)
		}
		if len(page.records) == 0 || from+uint64(len(records)) > page.head.seq {
			return records, nil
		}
	}
}
