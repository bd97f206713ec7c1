package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// These tests let a person's verbs meet a hostile coordinator.

// verb runs a verb of the machine and returns all that a person sees of it.
func (m *testMachine) verb(args ...string) (said string, err error) {
	m.w.t.Helper()
	out, err := os.CreateTemp(m.w.t.TempDir(), "out")
	if err != nil {
		m.w.t.Fatal(err)
	}
	defer out.Close()
	p := &program{stdio: stdio{nil, out, out}, now: time.Now}
	ctx, stop := context.WithTimeout(m.w.t.Context(), 30*time.Second)
	defer stop()
	words := append([]string{}, args[:1]...)
	if args[0] == "trust" {
		words = append(words, args[1])
		args = args[1:]
	}
	words = append(append(words, "-dir", m.dir), args[1:]...)
	err = p.run(ctx, words)
	p.printError(err)
	out.Seek(0, io.SeekStart)
	b, _ := io.ReadAll(out)
	return string(b), err
}

// ticket makes one on the laptop, and returns the word for join.
func (w *testWorld) ticket(args ...string) string {
	w.t.Helper()
	said, err := w.laptop.verb(append([]string{"ticket"}, args...)...)
	if err != nil {
		w.t.Fatal(said, err)
	}
	_, word, _ := strings.Cut(said, "sessio join ")
	word, _, _ = strings.Cut(word, "\n")
	return word
}

// ownerKey is a file with the key that signs.
func (w *testWorld) ownerKey() string {
	w.t.Helper()
	block, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(trustTestSeed("owner")), "")
	if err != nil {
		w.t.Fatal(err)
	}
	file := filepath.Join(w.t.TempDir(), "owner")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

// A machine that is shown another account than its ticket pins has joined
// nothing, and says so aloud.
func TestAttackJoinIsShownAnotherAccount(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	other := newCoordTestAcctAt(t, presTestIdentity(t).keys, time.Now())
	for name, log := range map[string]func(honest [][]byte) [][]byte{
		"another account": func([][]byte) [][]byte { return other.log },
		"no record":       func([][]byte) [][]byte { return [][]byte{[]byte("nothing")} },
		"half of one":     func(honest [][]byte) [][]byte { return [][]byte{honest[0][:len(honest[0])/2]} },
	} {
		c.turn(attackHooks{})
		word, m := w.ticket("-name", "attic"), w.machine("attic")
		c.turn(c.servesLog(w, log))
		said, err := m.verb("join", "-no-wait", word)
		if name == "another account" {
			attackDenied(t, name, err, "wrong-account")
			if !strings.Contains(said, "WRONG ACCOUNT") {
				t.Errorf("a person is told only: %s", said)
			}
		}
		if err == nil {
			t.Errorf("%s: joined", name)
		}
		if _, pinned := m.trust.anchor(); pinned || m.trust.state() != nil {
			t.Errorf("%s: the machine has pinned an account", name)
		}
	}
	c.turn(attackHooks{})
	if said, err := w.machine("den").verb("join", "-no-wait", w.ticket("-name", "den")); err != nil {
		t.Errorf("the truth: %v\n%s", err, said)
	}
}

// A machine that joins leaves a coordinator that never stops sending, however
// right the form of what it sends.
func TestAttackJoinIsSentRecordsWithoutEnd(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	word := w.ticket("-name", "attic")
	honest := c.log(w.acct())
	stranger := attackSigner(t)
	var f attackFlood
	c.turn(f.pages(func(from uint64) (page [][]byte) {
		if from == 0 {
			page = append(page, honest[0])
		}
		for n := from + uint64(len(page)); len(page) < 16; n++ {
			st := &statement{acct: w.acct(), seq: n, prev: stmtHash{1}, time: time.Now().Unix(), op: "later", extra: []string{"x " + strings.Repeat("x", 3000)}}
			rec, err := signRecord(st.append(nil), stranger)
			if err != nil {
				t.Error(err)
			}
			page = append(page, rec)
		}
		return page
	}))
	if said, err := w.machine("attic").verb("join", "-no-wait", word); err == nil {
		t.Errorf("joined\n%s", said)
	}
	if f.requests.Load() > 3 || f.bytes.Load() > maxCoordBody {
		t.Errorf("%d requests, %d bytes taken", f.requests.Load(), f.bytes.Load())
	}
}

// That the coordinator says "signed" signs nobody.
func TestAttackJoinIsToldThatItIsSigned(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	word := w.ticket("-name", "attic")
	c.turn(attackHooks{reply: func(_ *coordPeer, op byte, reply, _ []byte) []byte {
		if op == opJoin {
			return (&joinedMsg{signed: true, head: headMsg{7, [32]byte{7}}}).append(nil)
		}
		return reply
	}})
	m := w.machine("attic")
	said, err := m.verb("join", "-no-wait", word)
	if err != nil || !strings.Contains(said, "not signed yet") || strings.Contains(said, "signed as") {
		t.Errorf("%v\n%s", err, said)
	}
}

// The coordinator swaps what a joiner has asked for: its keys, name, login,
// ticket, or all by another joiner's. None of it is shown as proved, none is
// signed by its name.
func TestAttackPendingIsSwapped(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	key, evil := w.ownerKey(), presTestIdentity(t).keys
	word := w.ticket("-name", "attic")
	attic := w.machine("attic")
	if said, err := attic.verb("join", "-no-wait", word); err != nil {
		t.Fatal(err, said)
	}
	spare, err := parseCoordWord(w.ticket("-name", "spare"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []struct {
		name, code string
		change     func(j *pendingJoin)
	}{
		{"keys", "ticket-proof", func(j *pendingJoin) { j.keys = evil }},
		{"the path key", "ticket-proof", func(j *pendingJoin) { j.keys.path = evil.path }},
		{"the signing key", "ticket-proof", func(j *pendingJoin) { j.keys.sign = evil.sign }},
		{"the name", "ticket-proof", func(j *pendingJoin) { j.name = "other" }},
		{"the login", "ticket-proof", func(j *pendingJoin) { j.login = "mallory" }},
		{"the proof", "ticket-proof", func(j *pendingJoin) { j.proof[0]++ }},
		{"the ticket, for another of ours", "ticket-proof", func(j *pendingJoin) { j.ticket = hashTicket(spare.secret) }},
		{"a proof for another account", "ticket-proof", func(j *pendingJoin) {
			j.proof = joinProof(ticketSecret{1}, acctID{1}, j.keys, j.name, j.login)
		}},
		{"the ticket, for a stranger's", "", func(j *pendingJoin) { j.ticket, j.keys = ticketHash{1}, evil }},
	} {
		c.turn(attackHooks{reply: func(_ *coordPeer, op byte, reply, _ []byte) []byte {
			m, err := parsePending(reply)
			if op != opPending || err != nil || len(m.joins) != 1 {
				return reply
			}
			a.change(&m.joins[0])
			return m.append(nil)
		}})
		said, err := w.laptop.verb("trust", "pending")
		if err != nil || strings.Contains(said, "proved by your ticket") || !strings.Contains(said, "device ") {
			t.Errorf("%s: %v\n%s", a.name, err, said)
		}
		asJSON, err := w.laptop.verb("trust", "pending", "-json")
		if err != nil || !strings.Contains(asJSON, `"proved":false`) {
			t.Errorf("%s: %v\n%s", a.name, err, asJSON)
		}
		for _, called := range []string{"attic", "other", "spare"} {
			said, err = w.laptop.verb("trust", "sign", "-key", key, called)
			if err == nil || strings.Contains(said, "\nsigned ") {
				t.Errorf("%s: signed %s: %v\n%s", a.name, called, err, said)
			}
			if called == "attic" && a.code != "" && !strings.Contains(a.name, "another of ours") {
				attackDenied(t, a.name, err, a.code)
			}
		}
		if len(c.log(w.acct())) != 2 {
			t.Fatalf("%s: something was signed", a.name)
		}
	}
	c.turn(attackHooks{})
	if said, err := w.laptop.verb("trust", "pending"); err != nil || !strings.Contains(said, "proved by your ticket") {
		t.Errorf("the truth: %v\n%s", err, said)
	}
	if said, err := w.laptop.verb("trust", "sign", "-key", key, "attic"); err != nil || !strings.Contains(said, "signed attic") {
		t.Errorf("the truth: %v\n%s", err, said)
	}
}

// The coordinator puts newlines and escapes wherever it may put text. Nothing
// of them comes to a terminal as they are, and no false line.
func TestAttackNewlinesInWhatTheCoordinatorSays(t *testing.T) {
	t.Parallel()
	w, c := newAttackWorld(t)
	const evil = "\x1b[2J\nattic  online\r\x9b31m\u202e"
	attic := w.join("attic")
	w.signDevice(attic, "server")
	raw := func(name, login string) []byte { // as pendingMsg.append would, but for the checks
		j := pendingJoin{keys: trustTestKeys("evil"), name: name, login: login}
		return (&pendingMsg{[]pendingJoin{j}}).append(nil)
	}
	for _, a := range []struct {
		name  string
		reply func(op byte, reply []byte) []byte
		verb  []string
	}{
		{"a name that waits", func(op byte, reply []byte) []byte {
			if op == opPending {
				return raw("at\ntic", "root")
			}
			return reply
		}, []string{"trust", "pending"}},
		{"a login that waits", func(op byte, reply []byte) []byte {
			if op == opPending {
				return raw("attic", "root\nproved by your ticket")
			}
			return reply
		}, []string{"trust", "pending"}},
		{"a version", func(op byte, reply []byte) []byte {
			if op == opDevices {
				return (&devicesMsg{[]deviceSeen{{attic.id.keys.deviceID(), memberStatus{online: true, build: evil}, nil}}}).append(nil)
			}
			return reply
		}, []string{"status"}},
	} {
		c.turn(attackHooks{reply: func(_ *coordPeer, op byte, reply, _ []byte) []byte { return a.reply(op, reply) }})
		said, err := w.laptop.verb(a.verb...)
		attackPlain(t, a.name, said)
		if strings.Contains(a.name, "waits") && err == nil {
			t.Errorf("%s: %v\n%s", a.name, err, said)
		}
	}
	c.turn(attackHooks{stream: refuseWith(&failureMsg{"denied\n" + evil, evil})})
	said, err := w.laptop.verb("trust", "pending")
	if err == nil {
		t.Error("a refusal is no error")
	}
	attackPlain(t, "a refusal", said)
	h := onAnswer(func(*answerMsg) {})
	h.datagram = func(_ deviceID, head msgHead, rest []byte) []byte {
		if m, err := parseRefuse(rest); head.kind == msgRefuse && err == nil {
			m.reason, m.proto = refuseUpdate, protoRange{9, 9, evil}
			return m.append(nil)
		}
		return rest
	}
	c.turn(h)
	said, err = w.laptop.verb("ping", "attic")
	attackDenied(t, "a refused call", err, "update")
	attackPlain(t, "a refused call", said)
}

// refuseWith answers every request by a failure.
func refuseWith(m *failureMsg) func(byte, io.ReadWriteCloser) bool {
	return func(_ byte, st io.ReadWriteCloser) bool {
		writeCoordFrame(st, statusError, m.append(nil))
		return true
	}
}

// attackPlain fails if a terminal would obey anything in s, or if a line of it
// is the coordinator's.
func attackPlain(t *testing.T, what, s string) {
	t.Helper()
	if bytes.ContainsFunc([]byte(s), func(r rune) bool { return r != '\n' && notPrintable(r) }) || strings.Contains(s, "\nattic  online\n") {
		t.Errorf("%s: %q", what, s)
	}
}
