package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A record that breaks one rule is refused with that rule's code, and nothing
// else is wrong with it.
func TestTrustApplyCodes(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("laptop", "client")
	other := &trustTestAcct{t: t, a: trustTestKey("a")}
	text, err := buildGenesis([]signerLine{trustTestLine(k.a, "ds", "alice")}, trustTestNow)
	other.ok(text, err, k.a)

	add := func(name string) stmtBody {
		return opDeviceAdd{trustTestID(name), trustTestKeys(name), trustTestGrant(name)}
	}
	revoke := opDeviceRevoke{[]deviceID{trustTestID("attic")}, "lost"}
	stranger := trustTestKey("stranger")
	newcomer := trustTestLine(trustTestKey("new"), "d", "new")
	cases := []struct {
		name, code string
		text       []byte
		by         []stmtSigner
	}{
		{"another account", "wrong-account", k.edit(revoke, func(s *statement) { s.acct[5] ^= 1 }), []stmtSigner{k.a}},
		{"another account's genesis", "wrong-account", text, []stmtSigner{k.a}},
		{"second statement 2", "fork", k.edit(revoke, func(s *statement) { s.seq-- }), []stmtSigner{k.a}},
		{"too high", "gap", k.edit(revoke, func(s *statement) { s.seq++ }), []stmtSigner{k.a}},
		{"other previous", "fork", k.edit(revoke, func(s *statement) { s.prev[0] ^= 1 }), []stmtSigner{k.a}},
		{"backwards", "time-backwards", k.edit(revoke, func(s *statement) { s.time-- }), []stmtSigner{k.a}},
		{"future", "time-future", k.edit(revoke, func(s *statement) { s.time += 24*3600 + 1 }), []stmtSigner{k.a}},
		{"second genesis", "op-invalid", k.text(opGenesis{signers: []signerLine{trustTestLine(k.a, "ds", "alice")}}), []stmtSigner{k.a}},
		{"nobody's", "no-power", k.text(revoke), []stmtSigner{stranger}},
		{"one too many", "no-power", k.text(revoke), []stmtSigner{k.a, stranger}},
		{"device by s", "no-power", k.text(add("x")), []stmtSigner{k.b}},
		{"device by r", "no-power", k.text(add("x")), []stmtSigner{k.r}},
		{"update by s", "no-power", k.text(opDeviceUpdate{trustTestID("attic"), trustTestGrant("attic")}), []stmtSigner{k.b}},
		{"update by r", "no-power", k.text(opDeviceUpdate{trustTestID("attic"), trustTestGrant("attic")}), []stmtSigner{k.r}},
		{"recover by d and s", "no-power", k.text(opRecover{0, []signerLine{trustTestLine(k.a, "ds", "alice")}}), []stmtSigner{k.a, k.b}},
		{"recovery key by s", "no-power", k.text(opSignerAdd{trustTestLine(trustTestKey("r2"), "r", "r2")}),
			[]stmtSigner{k.a, k.b, trustTestKey("r2")}},
		{"recovery key removed by s", "no-power", k.text(opSignerRemove{k.r.id(), 0}), []stmtSigner{k.a, k.b}},
		{"new signer alone", "no-power", k.text(opSignerAdd{newcomer}), []stmtSigner{trustTestKey("new")}},
		{"new signer absent", "no-possession", k.text(opSignerAdd{newcomer}), []stmtSigner{k.b}},
		{"recovered signer absent", "no-possession", k.text(opRecover{0, []signerLine{trustTestLine(trustTestKey("new"), "ds", "new")}}), []stmtSigner{k.r}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			k := *k
			k.t = t
			k.bad(c.code, c.text, c.by...)
		})
	}
}

func TestTrustGenesis(t *testing.T) {
	k := &trustTestAcct{t: t, a: trustTestKey("a"), b: trustTestKey("b"), r: trustTestKey("r")}
	alice, bob, paper := trustTestLine(k.a, "d", "alice"), trustTestLine(k.b, "s", "bob"), trustTestLine(k.r, "r", "recovery")
	genesis := func(change func(*statement), list ...signerLine) []byte {
		st := &statement{time: trustTestNow.Unix(), op: "genesis", body: opGenesis{signers: sortedSigners(list)}}
		change(st)
		return st.append(nil)
	}
	same := func(*statement) {}
	webauthn := newTestPasskey(t, coseES256).line("ds")
	liar := alice
	liar.id = bob.id
	second := trustTestLine(trustTestKey("r2"), "r", "second")

	k.bad("no-possession", genesis(same, alice, bob), k.a)
	k.bad("no-possession", genesis(same, alice, bob, paper), k.b, k.r)
	k.bad("no-power", genesis(same, alice, bob), k.a, k.b, trustTestKey("stranger"))
	k.bad("op-invalid", genesis(same, alice, paper), k.a)
	k.bad("op-invalid", genesis(same, bob, paper), k.b)
	k.bad("op-invalid", genesis(same, alice, bob, paper, second), k.a, k.b)
	k.bad("op-invalid", genesis(same, liar), k.a, k.b)
	k.bad("op-invalid", genesis(func(s *statement) { s.extra = []string{"later version"} }, alice, bob), k.a, k.b)
	k.bad("op-invalid", genesis(func(s *statement) { s.op, s.body = "charter", nil; s.extra = []string{"a b"} }), k.a)
	k.bad("op-invalid", genesis(func(s *statement) {
		s.op, s.body = "recover", opRecover{0, []signerLine{trustTestLine(k.a, "ds", "alice")}}
	}), k.a)
	k.bad("no-possession", genesis(same, alice, bob, webauthn), k.a, k.b)
	k.bad("gap", (&statement{acct: acctID{1}, prev: stmtHash{1}, seq: 1, time: trustTestNow.Unix(), op: "recover",
		body: opRecover{0, []signerLine{alice}}}).append(nil), k.a)
	k.bad("time-future", genesis(func(s *statement) { s.time += 100000 }, alice, bob), k.a, k.b)
	k.applied(k.sign(genesis(same, alice, bob, paper), k.a, k.b))
	if k.state.seq() != 0 || k.state.acct() != acctID(k.state.head()) || len(k.state.signers()) != 3 {
		t.Error("state after genesis", k.state.seq(), k.state.signers())
	}
	k.bad("no-possession", k.text(opSignerAdd{webauthn}), k.b)
}

func TestTrustSignatureOverAnotherStatement(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	one, two := k.text(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "lost"}), k.text(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "stolen"})
	sig, err := k.a.sign(stmtNamespace, one)
	if err != nil {
		t.Fatal(err)
	}
	k.refused("sig-invalid", appendRecord(nil, two, []recordSig{sig}))
	// by a key that is not the signer's, under the signer's name
	stranger, err := trustTestKey("stranger").sign(stmtNamespace, two)
	if err != nil {
		t.Fatal(err)
	}
	stranger.claimed = k.a.id()
	k.refused("sig-invalid", appendRecord(nil, two, []recordSig{stranger}))
	// of a kind that the signer is not
	k.refused("sig-invalid", appendRecord(nil, one, []recordSig{{k.a.id(), signerWebauthn, [][]byte{{1}, {2}, {3}}}}))
	asked, err := k.a.sign(stmtNamespace, two)
	if err != nil {
		t.Fatal(err)
	}
	asked.kind, asked.parts = signerWebauthn, append(asked.parts, []byte{2}, []byte{3})
	k.refused("sig-invalid", appendRecord(nil, two, []recordSig{asked}))
	// and a good one beside a bad one
	good, err := k.b.sign(stmtNamespace, two)
	if err != nil {
		t.Fatal(err)
	}
	k.refused("sig-invalid", appendRecord(nil, two, []recordSig{good, sig}))
	k.applied(appendRecord(nil, two, []recordSig{good}))
}

func TestTrustKnownRecordChangesNothing(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	for _, raw := range k.raws {
		if s, err := apply(k.state, raw, trustTestNow); err != nil || s != k.state {
			t.Fatal(err)
		}
	}
}

func TestTrustDeviceRules(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("laptop", "client")
	k.addDevice("gone")
	k.revokeDevice("gone", k.a)
	bad := func(body stmtBody) {
		t.Helper()
		k.bad("op-invalid", k.text(body), k.a)
	}
	x := trustTestKeys("x")
	bad(opDeviceAdd{trustTestID("y"), x, trustTestGrant("x")}) // id of other keys
	bad(opDeviceAdd{x.deviceID(), x, trustTestGrant("attic")}) // name taken
	bad(opDeviceAdd{trustTestID("attic"), trustTestKeys("attic"), trustTestGrant("again")})
	bad(opDeviceAdd{trustTestID("gone"), trustTestKeys("gone"), trustTestGrant("gone")})
	half := publicKeys{trustTestKeys("gone").sign, x.path}
	bad(opDeviceAdd{half.deviceID(), half, trustTestGrant("half")})
	half = publicKeys{x.sign, trustTestKeys("gone").path}
	bad(opDeviceAdd{half.deviceID(), half, trustTestGrant("half")})
	bad(opDeviceUpdate{trustTestID("x"), trustTestGrant("x")})
	bad(opDeviceUpdate{trustTestID("gone"), trustTestGrant("gone")})
	bad(opDeviceUpdate{trustTestID("attic"), trustTestGrant("laptop")})
	bad(opDeviceRevoke{[]deviceID{trustTestID("x")}, "lost"})
	bad(opDeviceRevoke{[]deviceID{trustTestID("gone")}, "lost"})

	// a signer's key is no device's and the other way round
	signerKey := publicKeys{sign: bytes.Clone(k.a.key.PublicKey().Marshal()[19:]), path: x.path}
	bad(opDeviceAdd{signerKey.deviceID(), signerKey, trustTestGrant("x")})
	for _, name := range []string{"attic", "gone"} {
		key := trustTestKey("device " + name)
		k.bad("op-invalid", k.text(opSignerAdd{trustTestLine(key, "d", "machine")}), k.a, key)
	}

	// the name of a revoked device is free, one's own may be kept
	k.applied(k.sign(k.text(opDeviceAdd{x.deviceID(), x, trustTestGrant("gone")}), k.a))
	k.applied(k.sign(k.text(opDeviceUpdate{trustTestID("attic"), newDeviceGrant("attic", []string{"server"}, []string{"root"}, []string{"exec"}, 77)}), k.a))
	d, ok := k.state.deviceByName("attic")
	if !ok || d.expires != 77 || strings.Join(d.users, ",") != "root" || strings.Join(d.caps, ",") != "exec" || d.addedSeq != 1 {
		t.Error(d)
	}
	if got := trustTestNames(k.state); got != "attic gone laptop" {
		t.Error(got)
	}
}

func TestTrustSignerRules(t *testing.T) {
	k := newTrustTestAcct(t)
	young := trustTestKey("young")
	k.ok(k.text(opSignerAdd{trustTestLine(young, "s", "young")}), nil, k.b, young)

	k.bad("op-invalid", k.text(opSignerAdd{trustTestLine(young, "ds", "again")}), k.b, young)
	liar := trustTestLine(trustTestKey("x"), "d", "x")
	liar.id = trustTestKey("y").id()
	k.bad("op-invalid", k.text(opSignerAdd{liar}), k.b, trustTestKey("y"))
	k.bad("op-invalid", k.text(opSignerRemove{trustTestKey("x").id(), 0}), k.b)
	k.bad("op-invalid", k.text(opSignerRemove{young.id(), 2}), k.b) // since is not in the past
	k.bad("op-invalid", k.text(opSignerRemove{k.a.id(), 0}), k.a)   // no d would be left
	k.bad("no-power", k.text(opSignerRemove{k.b.id(), 0}), young)   // younger
	only := k.branch()
	only.ok(k.text(opSignerRemove{k.b.id(), 0}), nil, k.a)
	only.ok(only.text(opSignerRemove{young.id(), 0}), nil, k.a)
	only.bad("op-invalid", only.text(opSignerRemove{k.a.id(), 0}), k.r) // no s would be left either

	k.ok(k.text(opSignerRemove{young.id(), 0}), nil, k.b)
	k.bad("no-power", k.text(opSignerRemove{k.b.id(), 0}), young)
	k.ok(k.text(opSignerAdd{trustTestLine(young, "s", "young")}), nil, k.b, young) // and back
	k.ok(k.text(opSignerRemove{young.id(), 0}), nil, young)                        // it may go by itself
	k.ok(k.text(opSignerRemove{k.b.id(), 0}), nil, k.r)                            // r may remove anybody
	k.ok(k.text(opSignerAdd{trustTestLine(k.b, "s", "bob")}), nil, k.r, k.b)       // and let anybody in

	for i := range maxSigners - len(k.state.signers()) {
		s := trustTestKey(fmt.Sprint("extra", i))
		k.ok(k.text(opSignerAdd{trustTestLine(s, "d", fmt.Sprint("extra", i))}), nil, k.b, s)
	}
	k.bad("op-invalid", k.text(opSignerAdd{trustTestLine(young, "d", "ninth")}), k.b, young)

	// who may only sign devices changes no signers
	onlyd := trustTestKey("extra0")
	k.bad("no-power", k.text(opSignerRemove{trustTestKey("extra1").id(), 0}), onlyd)
	one := k.branch()
	one.ok(one.text(opSignerRemove{trustTestKey("extra1").id(), 0}), nil, k.b)
	one.bad("no-power", one.text(opSignerAdd{trustTestLine(young, "d", "young")}), onlyd, young)

	// a new recovery key takes the place of the old one, also when all are full
	r2 := trustTestKey("r2")
	k.bad("no-possession", k.text(opSignerAdd{trustTestLine(r2, "r", "new-recovery")}), k.r)
	k.ok(k.text(opSignerAdd{trustTestLine(r2, "r", "new-recovery")}), nil, k.r, r2)
	k.bad("no-power", k.text(opSignerRemove{k.b.id(), 0}), k.r)
	k.ok(k.text(opSignerRemove{r2.id(), 0}), nil, r2)
	k.bad("no-power", k.text(opSignerAdd{trustTestLine(k.r, "r", "recovery")}), k.a, k.b, k.r)
}

func TestTrustDeviceLimit(t *testing.T) {
	k := newTrustTestAcct(t)
	for i := range maxDevices {
		k.addDevice(fmt.Sprint("m", i))
	}
	k.bad("op-invalid", k.text(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), trustTestGrant("x")}), k.a)
	k.revokeDevice("m7", k.a)
	k.addDevice("x")
}

// The last 256 records are for removals, and then the log is full.
func TestTrustLogLimit(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("laptop")
	fill := func(to int) {
		for len(k.state.chain) < to {
			k.state.chain = append(k.state.chain, stmtHash{7})
		}
	}
	fill(maxRecords - recordsReserved - 1)
	k.addDevice("last")
	k.bad("op-invalid", k.text(opDeviceAdd{trustTestID("x"), trustTestKeys("x"), trustTestGrant("x")}), k.a)
	k.bad("op-invalid", k.edit(opDeviceRevoke{[]deviceID{trustTestID("attic")}, "lost"}, func(s *statement) { s.extra = []string{"a b"} }), k.a)
	k.revokeDevice("attic", k.a)
	fill(maxRecords - 1)
	k.ok(k.text(opSignerRemove{k.b.id(), 0}), nil, k.a)
	if len(k.state.chain) != maxRecords {
		t.Fatal(len(k.state.chain))
	}
	k.bad("op-invalid", k.text(opDeviceRevoke{[]deviceID{trustTestID("laptop")}, "lost"}), k.a)
}

func TestTrustJudge(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("gone")
	k.revokeDevice("gone", k.a)
	late := newDeviceGrant("late", []string{"server"}, nil, deviceCaps, trustTestNow.Unix())
	k.ok(k.text(opDeviceAdd{trustTestID("late"), trustTestKeys("late"), late}), nil, k.a)
	mixed := publicKeys{trustTestKeys("attic").sign, trustTestKeys("late").path}
	for _, c := range []struct {
		keys       publicKeys
		role, code string
		now        time.Time
	}{
		{trustTestKeys("attic"), "server", "", trustTestNow},
		{trustTestKeys("attic"), "client", "role", trustTestNow},
		{trustTestKeys("x"), "server", "unknown-device", trustTestNow},
		{trustTestKeys("gone"), "server", "revoked", trustTestNow},
		{trustTestKeys("late"), "server", "expired", trustTestNow},
		{trustTestKeys("late"), "server", "", trustTestNow.Add(-time.Second)},
		{mixed, "server", "key-mismatch", trustTestNow},
		{publicKeys{}, "server", "unknown-device", trustTestNow},
	} {
		d, err := k.state.judge(c.keys, c.role, c.now)
		if codeOf(err) != c.code || (err == nil) != (d.id != "") {
			t.Errorf("judge as %s: %v, want code %q", c.role, err, c.code)
		}
	}
	if _, err := (*trustState)(nil).judge(trustTestKeys("attic"), "server", trustTestNow); codeOf(err) != "unknown-device" {
		t.Error("an empty log knows a device:", err)
	}
}

func TestTrustJudgeLogin(t *testing.T) {
	k := newTrustTestAcct(t)
	add := func(name, roles, users, caps string, expires int64) {
		g := newDeviceGrant(name, strings.Split(roles, ","), strings.Fields(strings.ReplaceAll(users, ",", " ")), strings.Split(caps, ","), expires)
		k.ok(k.text(opDeviceAdd{trustTestID(name), trustTestKeys(name), g}), nil, k.a)
	}
	add("server", "server", "alice,root", "exec,shell,sftp", 0)
	add("open", "server", "*", "exec,shell,sftp", 0)
	add("shut", "server", "", "exec", 0)
	add("late", "server", "*", "exec", trustTestNow.Unix())
	add("free", "client", "*", "exec,forward,pty,sftp,shell", 0)
	add("narrow", "client", "alice", "exec,pty", 0)
	add("both", "client,server", "bob", "pty", 0)
	for _, c := range []struct{ client, server, login, code, caps string }{
		{"free", "server", "alice", "", "exec,sftp,shell"},
		{"free", "server", "bob", "user", ""},
		{"free", "open", "bob", "", "exec,sftp,shell"},
		{"free", "open", "*", "user", ""},
		{"free", "open", "no such", "user", ""},
		{"free", "shut", "alice", "user", ""},
		{"free", "late", "alice", "expired", ""},
		{"free", "narrow", "alice", "role", ""},
		{"free", "nowhere", "alice", "unknown-device", ""},
		{"server", "open", "alice", "role", ""},
		{"nobody", "open", "alice", "unknown-device", ""},
		{"narrow", "server", "alice", "", "exec"},
		{"narrow", "server", "root", "user", ""},
		{"both", "server", "root", "", "exec,sftp,shell"}, // its users and caps say who enters it
		{"both", "both", "bob", "", "pty"},
	} {
		d, caps, err := k.state.judgeLogin(trustTestKeys(c.client).sign, trustTestID(c.server), c.login, trustTestNow)
		if codeOf(err) != c.code || strings.Join(caps, ",") != c.caps || err == nil && d.name != c.client {
			t.Errorf("%s to %s as %s: caps %q, %v", c.client, c.server, c.login, caps, err)
		}
	}
}
