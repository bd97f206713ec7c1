package main

// This file says to people what statements and keys are: on a terminal, on the
// page that this program serves, and on the coordinator's. It also has what a
// device shall be allowed while that is being decided.

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// A pageFact is what something is called, and what it is.
type pageFact [2]string

// sayStatement says what a statement does. Names of devices are those of s.
func sayStatement(st *statement, s *trustState) (title string, facts []pageFact) {
	named := func(id deviceID) string {
		if dev, ok := s.device(id); ok {
			return dev.name + " (" + string(id) + ")"
		}
		return string(id)
	}
	grant := func(g deviceGrant) pageFact {
		return pageFact{"will be", sayGrant(g.roles, g.users, g.caps, g.expires)}
	}
	switch b := st.body.(type) {
	case opGenesis:
		return "Make the account", saySigners(b.signers)
	case opDeviceAdd:
		return "Let the device " + b.grant.name + " in", []pageFact{{"device", string(b.device)}, {"fingerprint", fingerprint(b.keys)}, {"its words", b.keys.deviceWords()}, grant(b.grant)}
	case opDeviceUpdate:
		return "Change what " + b.grant.name + " may do", []pageFact{{"device", named(b.device)}, {"name", b.grant.name}, grant(b.grant)}
	case opDeviceRevoke:
		for _, id := range b.devices {
			facts = append(facts, pageFact{"device", named(id)})
		}
		return "Throw out, for ever", append(facts, pageFact{"reason", b.reason})
	case opSignerAdd:
		return "Let another key sign", saySigners([]signerLine{b.signer})
	case opSignerRemove:
		if m, ok := s.member(b.signer); ok {
			facts = saySigners([]signerLine{m.signerLine})
		}
		if b.since != 0 {
			facts = append(facts, pageFact{"taken back", fmt.Sprintf("what it alone added from record %d on", b.since)})
		}
		return "Let a key sign no more", facts
	case opRecover:
		facts = append(saySigners(b.signers), pageFact{"removed", "every other signer but the recovery key"})
		if b.since != 0 {
			facts = append(facts, pageFact{"taken back", fmt.Sprintf("what they added from record %d on", b.since)})
		}
		return "Recover the account", facts
	}
	return "Sign " + st.op, nil
}

func saySigners(list []signerLine) (facts []pageFact) {
	for _, l := range list {
		about, print, err := sayKey(l)
		if err != nil { // no parsed line has such a key
			about = "?"
		}
		facts = append(facts, pageFact{"signer", l.label + ", for " + map[string]string{"d": "devices", "s": "signers", "ds": "devices and signers", "r": "recovery"}[l.powers]},
			pageFact{"key", about + " " + print})
	}
	return facts
}

// sayKey says what a signer's key is, and its fingerprint.
func sayKey(l signerLine) (about, print string, err error) {
	if l.kind == signerWebauthn {
		sum := sha256.Sum256(l.key)
		return "passkey of " + strings.Join(l.origins, ", "), "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]), nil
	}
	key, err := parseSSHKeyBlob(l.key)
	if err != nil {
		return "", "", err
	}
	return key.Type(), ssh.FingerprintSHA256(key), nil
}

// A grantWish is a grant in the making. Empty lists are filled in when it is
// known who joins.
type grantWish struct {
	Name    string        `json:"name,omitempty"`
	Roles   []string      `json:"roles,omitempty"`
	Users   []string      `json:"users,omitempty"`
	Caps    []string      `json:"caps,omitempty"`
	Expires time.Duration `json:"device_expires,omitempty"`
}

func (w grantWish) empty() bool {
	return w.Name == "" && len(w.Roles)+len(w.Users)+len(w.Caps) == 0 && w.Expires == 0
}

// over returns w where it says something, and old elsewhere.
func (w grantWish) over(old grantWish) grantWish {
	if w.Name == "" {
		w.Name = old.Name
	}
	if len(w.Roles) == 0 {
		w.Roles = old.Roles
	}
	if len(w.Users) == 0 {
		w.Users = old.Users
	}
	if len(w.Caps) == 0 {
		w.Caps = old.Caps
	}
	if w.Expires == 0 {
		w.Expires = old.Expires
	}
	return w
}

// grant fills in what was left open: a server, with all that can be done
// there, for the login that ran join; a pure client may take any login.
func (w grantWish) grant(login string, now time.Time) (deviceGrant, error) {
	w = w.over(grantWish{Roles: []string{"server"}, Caps: deviceCaps})
	if len(w.Users) == 0 {
		w.Users = []string{"*"}
		if strings.Contains(strings.Join(w.Roles, ","), "server") {
			if !validLogin(login) {
				return deviceGrant{}, withHint(fmt.Errorf("nobody knows which login %s shall have", w.Name), "name it with -users")
			}
			w.Users = []string{login}
		}
	}
	var expires int64
	if w.Expires > 0 {
		expires = now.Add(w.Expires).Unix()
	}
	return newDeviceGrant(w.Name, w.Roles, w.Users, w.Caps, expires), nil
}

// sayGrant is a grant in one line.
func sayGrant(roles, users, caps []string, expires int64) string {
	s := strings.Join(roles, "+") + ", users " + listOr(users, "none")
	if len(caps) < len(deviceCaps) {
		s += ", only " + strings.Join(caps, ",")
	}
	if expires != 0 {
		s += ", until " + stmtDate(expires)
	}
	return s
}

func listOr(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ",")
}
