package main

import (
	"bytes"
	"strings"
	"testing"
)

const trustTestHead = "sessio-statement-v1\nacct 1111111111111111111111111111111111111111111111111111111111111111\nseq 5\n" +
	"prev 2222222222222222222222222222222222222222222222222222222222222222\ntime 1800000000\n"

// trustTestStmts is a statement of each op, written by hand but for the keys.
func trustTestStmts() map[string]string {
	alice := trustTestLine(trustTestKey("a"), "ds", "alice").value()
	attic, laptop := string(trustTestID("attic")), string(trustTestID("laptop"))
	keys := trustTestKeys("attic")
	ids := []string{attic, laptop}
	if attic > laptop {
		ids = []string{laptop, attic}
	}
	phone := "saaaaaaaaaaaaaaaaaaaaaaaaa webauthn ds phone coord.example.com http://localhost:7722,https://coord.example.com aWQ= " + b64(trustTestCOSE("phone"))
	return map[string]string{
		"genesis": "sessio-statement-v1\nacct " + strings.Repeat("0", 64) + "\nseq 0\nprev " + strings.Repeat("0", 64) +
			"\ntime 0\nop genesis\nnonce 000102030405060708090a0b0c0d0e0f\nsigner " + alice + "\n",
		"signer.add":    trustTestHead + "op signer.add\nsigner " + alice + "\n",
		"webauthn":      trustTestHead + "op signer.add\nsigner " + phone + "\n",
		"signer.remove": trustTestHead + "op signer.remove\nsigner-id saaaaaaaaaaaaaaaaaaaaaaaaa\nsince 0\n",
		"device.add": trustTestHead + "op device.add\ndevice " + attic + "\nname attic\nkey ssh-ed25519 " + b64(keys.sshKey().Marshal()) +
			"\npath " + b64(keys.path[:]) + "\nroles client,server\nusers alice,root\ncaps exec,forward,pty,sftp,shell\nexpires 9007199254740992\n",
		"device.update": trustTestHead + "op device.update\ndevice " + attic + "\nname attic\nroles server\nusers *\ncaps exec\nexpires 0\n",
		"nobody":        trustTestHead + "op device.update\ndevice " + attic + "\nname attic\nroles server\nusers -\ncaps exec\nexpires 0\n",
		"recover":       trustTestHead + "op recover\nsince 3\nsigner " + alice + "\n",
		"device.revoke": trustTestHead + "op device.revoke\ndevice " + ids[0] + "\ndevice " + ids[1] + "\nreason lost\n",
		"unknown":       trustTestHead + "op merge\nother 33\nother  44 \n",
		"bare":          trustTestHead + "op later.op-2\n",
		"extra":         trustTestHead + "op device.revoke\ndevice " + attic + "\nreason lost\nnote what ever\n",
	}
}

func TestTrustStatementRoundTrip(t *testing.T) {
	for name, text := range trustTestStmts() {
		st, err := parseStatement([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := string(st.append(nil)); got != text {
			t.Errorf("%s: written as\n%s\nnot\n%s", name, got, text)
		}
		if plain := name != "unknown" && name != "bare" && name != "extra"; st.understood() != plain {
			t.Errorf("%s: understood %v", name, st.understood())
		}
		removal := name == "signer.remove" || name == "device.revoke" || name == "recover"
		if st.removal() != removal {
			t.Errorf("%s: removal %v", name, st.removal())
		}
	}
}

func TestTrustStatementFields(t *testing.T) {
	st, err := parseStatement([]byte(trustTestStmts()["device.add"]))
	if err != nil {
		t.Fatal(err)
	}
	b, ok := st.body.(opDeviceAdd)
	if !ok || st.seq != 5 || st.time != 1800000000 || st.acct[3] != 0x11 || st.prev[31] != 0x22 {
		t.Fatalf("%+v", st)
	}
	if b.keys.deviceID() != b.device || b.grant.name != "attic" || strings.Join(b.grant.users, " ") != "alice root" || b.grant.expires != 1<<53 {
		t.Errorf("%+v", b)
	}
	if st, err = parseStatement([]byte(trustTestStmts()["nobody"])); err != nil || st.body.(opDeviceUpdate).grant.users != nil {
		t.Error("users - names somebody", err)
	}
}

// Each of these differs from a good statement in one place.
func TestTrustStatementMalformed(t *testing.T) {
	cose := b64(trustTestCOSE("phone"))
	alice := trustTestLine(trustTestKey("a"), "ds", "alice").value()
	bob := trustTestLine(trustTestKey("b"), "ds", "bob").value()
	key := trustTestKeys("attic")
	keyLine := "ssh-ed25519 " + b64(key.sshKey().Marshal())
	ecBlob := b64(trustTestECDSA().key.PublicKey().Marshal())
	lots := func(line string, n int) string { return strings.Repeat(line, n) }
	for _, c := range []struct{ of, old, new string }{
		{"bare", "sessio-statement-v1", "sessio-statement-v2"},
		{"bare", "sessio-statement-v1\n", ""},
		{"bare", "\nacct 1", "\nacct 1\x00"},
		{"bare", "seq 5", "seq 05"},
		{"bare", "seq 5", "5"},
		{"bare", "seq 5", "seq +5"},
		{"bare", "seq 5", "seq  5"},
		{"bare", "seq 5", "seq\t5"},
		{"bare", "seq 5", "seq 9007199254740993"},
		{"bare", "seq 5", "seq 99999999999999999999"},
		{"bare", "seq 5", "seq -5"},
		{"bare", "seq 5", "seq " + lots("5", 3000)},
		{"bare", "seq 5", lots("5", 3000)},
		{"bare", "sessio-statement-v1", lots("v", 3000)},
		{"bare", "seq 5", "seq 0"},
		{"bare", "seq 5", "Seq 5"},
		{"bare", "seq 5\nprev", "prev"},
		{"bare", "seq 5", "seq 5 "},
		{"bare", "seq 5", "seq 5\r"},
		{"bare", "prev 22", "prev 2A"},
		{"bare", "prev 22", "prev 2"},
		{"bare", "prev 22", "prev 2g"},
		{"bare", lots("1", 64), lots("0", 64)},
		{"bare", lots("2", 64), lots("0", 64)},
		{"bare", "time 1", "time 01"},
		{"bare", "op later.op-2", "op Later"},
		{"bare", "op later.op-2", "op 2later"},
		{"bare", "op later.op-2", "op "},
		{"bare", "op later.op-2", "op later_op"},
		{"bare", "op later.op-2", "op " + lots("x", 33)},
		{"bare", "op later.op-2\n", "op later.op-2"},
		{"bare", "op later.op-2\n", "op later.op-2\n\n"},
		{"bare", "op later.op-2\n", "op later.op-2\nkey\n"},
		{"bare", "op later.op-2\n", "op later.op-2\nkey \n"},
		{"bare", "op later.op-2\n", "op later.op-2\n value\n"},
		{"bare", "op later.op-2\n", "op later.op-2\nkey \x7f\n"},
		{"bare", "op later.op-2\n", "op later.op-2\nkey \xc3\xa9\n"},
		{"bare", "op later.op-2\n", "op later.op-2\nkey " + lots("x", maxStatement) + "\n"},
		{"genesis", "seq 0", "seq 1"},
		{"genesis", "nonce 00", "nonce 0"},
		{"genesis", "nonce 00", "nonce 0G"},
		{"genesis", "0a0b0c", "0A0b0c"},
		{"genesis", "0e0f\n", "0e0f00\n"},
		{"genesis", "nonce 000102030405060708090a0b0c0d0e0f\n", ""},
		{"genesis", "signer " + alice + "\n", ""},
		{"genesis", "signer " + alice + "\n", lots("signer "+alice+"\n", 2)},
		{"genesis", "signer " + alice + "\n", "signer " + max(alice, bob) + "\nsigner " + min(alice, bob) + "\n"},
		{"genesis", "signer " + alice + "\n", "signer " + alice + "\nsigner " + strings.Replace(alice, " ds alice", " ds bob", 1) + "\n"},
		{"signer.add", " ssh ds", " ssh sd"},
		{"signer.add", " ssh ds", " ssh rs"},
		{"signer.add", " ssh ds", " ssh "},
		{"signer.add", " ssh ds", " gpg ds"},
		{"signer.add", "signer s", "signer d"},
		{"signer.add", "signer s", "signer sa"},
		{"signer.add", "ds alice", "ds Alice"},
		{"signer.add", "ds alice", "ds -"},
		{"signer.add", "ssh-ed25519 ", "ssh-rsa "},
		{"signer.add", "ssh-ed25519 ", "ssh-ed25519  "},
		{"signer.add", "ssh-ed25519 AAAA", "ssh-ed25519 AAAB"},
		{"signer.add", "ssh-ed25519 ", "sk-ssh-ed25519@openssh.com "},
		{"signer.add", "ssh-ed25519 AAAA", "ssh-ed25519 \tAAAA"},
		{"signer.add", alice, strings.Join(strings.Fields(alice)[:4], " ")},
		{"signer.add", alice, strings.Join(strings.Fields(alice)[:3], " ")},
		{"signer.add", alice, alice + " more"},
		{"signer.add", alice, ""},
		{"webauthn", "coord.example.com http", "coord_example.com http"},
		{"webauthn", "coord.example.com http", " http"},
		{"webauthn", "http://localhost:7722,", "http://Localhost:7722,"},
		{"webauthn", "http://localhost:7722,", "http://localhost:7722,,"},
		{"webauthn", "http://localhost:7722,", "https://d.example.com,"},
		{"webauthn", "http://localhost:7722,", "https://coord.example.com,"},
		{"webauthn", "aWQ=", "aWR="},
		{"webauthn", "aWQ=", "aWQ"},
		{"webauthn", "aWQ=", b64(bytes.Repeat([]byte{1}, 1024))},
		{"webauthn", cose, ""},
		{"webauthn", " " + cose, ""},
		{"webauthn", cose, "Y29zZQ=="},
		{"webauthn", cose, b64(append(trustTestCOSE("phone"), 0))},
		{"webauthn", cose, b64(append([]byte{0xa4, 0x03, 0x27, 0x01, 0x01}, trustTestCOSE("phone")[5:]...))}, // alg before kty
		{"webauthn", cose, b64([]byte{0xa1, 0x01, 0x01})},
		{"signer.remove", "signer-id sa", "signer-id da"},
		{"signer.remove", "signer-id sa", "signer-id s1"},
		{"signer.remove", "since 0", "since 00"},
		{"signer.remove", "since 0\n", ""},
		{"device.add", "device d", "device s"},
		{"device.add", "name attic", "name attic.sessio"},
		{"device.add", "name attic", "name " + lots("a", 33)},
		{"device.add", "name attic", "name "},
		{"device.add", keyLine, "ssh-ed25519 " + ecBlob},
		{"device.add", keyLine, "ecdsa-sha2-nistp256 " + ecBlob},
		{"device.add", keyLine, strings.Replace(keyLine, "ssh-ed25519", "ssh-dss", 1)},
		{"device.add", keyLine, "ssh-ed25519 " + b64(key.sshKey().Marshal()[:50])},
		{"device.add", keyLine, "ssh-ed25519 " + b64(append(key.sshKey().Marshal(), 0))},
		{"device.add", keyLine, keyLine + " comment"},
		{"device.add", "path " + b64(key.path[:]), "path " + b64(key.path[:31])},
		{"device.add", "path " + b64(key.path[:]), "path " + b64(append(key.path[:], 0))},
		{"device.add", "roles client,server", "roles server,client"},
		{"device.add", "roles client,server", "roles client,client"},
		{"device.add", "roles client,server", "roles client, server"},
		{"device.add", "roles client,server", "roles client,"},
		{"device.add", "roles client,server", "roles admin"},
		{"device.add", "roles client,server", "roles -"},
		{"device.add", "users alice,root", "users root,alice"},
		{"device.add", "users alice,root", "users *,root"},
		{"device.add", "users alice,root", "users alice,*"},
		{"device.add", "users alice,root", "users -,root"},
		{"device.add", "users alice,root", "users alice,alice"},
		{"device.add", "users alice,root", "users Alice"},
		{"device.add", "users alice,root", "users "},
		{"device.add", "caps exec,", "caps "},
		{"device.add", "caps exec,forward,pty,sftp,shell", "caps exec,x11"},
		{"device.add", "caps exec,forward,pty,sftp,shell", "caps -"},
		{"device.add", "expires 9007199254740992", "expires 9007199254740993"},
		{"device.add", "expires 9007199254740992\n", ""},
		{"device.revoke", "reason lost", "reason bored"},
		{"device.revoke", "reason lost\n", ""},
		{"device.revoke", "device d", "device s"},
		{"recover", "since 3", "since -3"},
		{"recover", "signer " + alice + "\n", ""},
	} {
		good := trustTestStmts()[c.of]
		bad := strings.Replace(good, c.old, c.new, 1)
		if c.old == "caps exec," {
			bad = strings.Replace(good, c.old, "caps shell,", 1)
		}
		if bad == good {
			t.Errorf("%s: %q is not in it", c.of, c.old)
		}
		_, err := parseStatement([]byte(bad))
		if codeOf(err) != "stmt-malformed" {
			t.Errorf("%s with %q for %q: %v", c.of, c.new, c.old, err)
		} else if len(err.Error()) > 3*maxQuoted {
			t.Errorf("%s: an error of %d bytes", c.of, len(err.Error()))
		}
	}
	if _, err := parseStatement(nil); codeOf(err) != "stmt-malformed" {
		t.Error("empty:", err)
	}
}

// Lists have bounds of their own.
func TestTrustStatementLists(t *testing.T) {
	list := func(n int) []byte {
		var ids []deviceID
		for i := range n {
			ids = append(ids, trustTestID(strings.Repeat("x", i+1)))
		}
		k := newTrustTestAcct(t)
		for i := range ids {
			for j := range i {
				if ids[j] > ids[i] {
					ids[i], ids[j] = ids[j], ids[i]
				}
			}
		}
		return k.text(opDeviceRevoke{ids, "lost"})
	}
	if _, err := parseStatement(list(maxRevokes)); err != nil {
		t.Error(err)
	}
	if _, err := parseStatement(list(maxRevokes + 1)); codeOf(err) != "stmt-malformed" {
		t.Error("65 devices:", err)
	}
	var lines []signerLine
	for _, label := range strings.Fields("q1 q2 q3 q4 q5 q6 q7 q8 q9") {
		lines = append(lines, trustTestLine(trustTestKey(label), "ds", label))
	}
	k := newTrustTestAcct(t)
	if _, err := parseStatement(k.text(opRecover{0, sortedSigners(lines[:8])})); err != nil {
		t.Error(err)
	}
	if _, err := parseStatement(k.text(opRecover{0, sortedSigners(lines)})); codeOf(err) != "stmt-malformed" {
		t.Error("nine signers:", err)
	}
	line := trustTestStmts()["bare"] + "k "
	full := line + strings.Repeat("x", maxStatement-len(line)-1) + "\n"
	if _, err := parseStatement([]byte(full)); err != nil || len(full) != maxStatement {
		t.Error(len(full), err)
	}
	if _, err := parseStatement([]byte("s" + full)); codeOf(err) != "stmt-malformed" || !strings.Contains(err.Error(), "4097 bytes") {
		t.Error(err)
	}
}

// What is parsed is written as it was, and says only what the grammar allows.
func FuzzParseStatement(f *testing.F) {
	for _, text := range trustTestStmts() {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseStatement(b)
		if err != nil {
			if codeOf(err) != "stmt-malformed" {
				t.Fatal(err)
			}
			return
		}
		if got := st.append(nil); !bytes.Equal(got, b) {
			t.Fatalf("written as %q", got)
		}
		if strings.ContainsAny(st.op, " \n") {
			t.Fatal(st.op)
		}
		if d, ok := st.body.(opDeviceAdd); ok && (!validName(d.grant.name) || len(d.keys.sign) != 32 || len(d.grant.roles) == 0 || len(d.grant.caps) == 0) {
			t.Fatal(d)
		}
	})
}
