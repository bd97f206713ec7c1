package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
)

// A wireVectors is testdata/datagrams/vectors.json, which an independent script made.
type wireVectors struct {
	Acct      string
	IDs       map[string]string
	Paths     map[string]string
	Datagrams []struct{ Name, Ends, Hint, Key, Body, Datagram string }
}

func TestVectorsOfDatagrams(t *testing.T) {
	b, err := os.ReadFile("testdata/datagrams/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v wireVectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	ends := map[string]*identity{"device": wireIdentity(t, 1), "peer": wireIdentity(t, 2), "coord": wireIdentity(t, 3)}
	for name, id := range ends {
		if !bytes.Equal(id.keys.path[:], unhex(t, v.Paths[name])) {
			t.Errorf("path key of %s is %x", name, id.keys.path)
		}
		if want := v.IDs[name]; want != "" && string(id.keys.deviceID()) != want {
			t.Errorf("id of %s is %s, not %s", name, id.keys.deviceID(), want)
		}
	}
	acct, err := parseAcctID(v.Acct)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[byte]bool{}
	for _, d := range v.Datagrams {
		// The receiver's view: it is who the sender seals for.
		receiver, sender := ends["coord"], ends["device"]
		switch d.Ends {
		case "CD":
			receiver, sender = sender, receiver
		case "DD":
			receiver = ends["peer"]
		}
		_, recv, err := sealKeys(receiver.path, d.Ends[1], sender.keys.path, d.Ends[0])
		if err != nil || !bytes.Equal(recv[:], unhex(t, d.Key)) {
			t.Errorf("%s: key %x, %v", d.Name, recv, err)
		}
		hint := sealHintOf(acct, ed25519.PublicKey(ends["device"].keys.sign))
		if !bytes.Equal(hint[:], unhex(t, d.Hint)) {
			t.Errorf("%s: hint %x, not %s", d.Name, hint, d.Hint)
		}
		body, err := recv.open(unhex(t, d.Datagram))
		if err != nil || !bytes.Equal(body, unhex(t, d.Body)) {
			t.Errorf("%s opens as %x, %v", d.Name, body, err)
			continue
		}
		seen[wireVectorParses(t, d.Name, body)] = true
	}
	for _, m := range wireMessages {
		if !seen[m.kind] {
			t.Errorf("no vector of a %s", m.name)
		}
	}
}

// wireVectorParses parses the body and writes it again.
func wireVectorParses(t *testing.T, name string, body []byte) byte {
	t.Helper()
	h, rest, err := parseHead(body)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, m := range wireMessages {
		if m.kind != h.kind {
			continue
		}
		v, err := m.parse(rest)
		if err != nil || !bytes.Equal(v.append(nil), rest) {
			t.Errorf("%s parses as %+v, %v", name, v, err)
		}
		return h.kind
	}
	t.Errorf("%s: type %d", name, h.kind)
	return h.kind
}

func TestVectorsOfDatagramsAreMadeAnew(t *testing.T) {
	got, err := exec.Command("/usr/bin/python3", "testdata/datagrams/make.py").Output()
	if err != nil {
		t.Fatalf("python3 with python3-cryptography is needed: %v", err)
	}
	want, err := os.ReadFile("testdata/datagrams/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("make.py makes other vectors than those kept: the format has changed")
	}
}
