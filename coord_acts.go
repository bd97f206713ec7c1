//go:build !router

package main

// This file is what a signed-in owner does on the page. What becomes part of the
// log is written here as a statement, shown, and signed by a passkey of the
// account; the coordinator only hands it on. The rest is the coordinator's own:
// tickets, categories, running sessions.

import (
	"fmt"
	"slices"
	"time"
)

// A statementWish is what the owner wants to have signed.
type statementWish struct {
	Op      string   `json:"op"` // of trust_ops.go
	Device  string   `json:"device"`
	Devices []string `json:"devices"`
	Name    string   `json:"name"`
	Roles   []string `json:"roles"`
	Users   []string `json:"users"`
	Caps    []string `json:"caps"`
	Expires int64    `json:"expires"` // seconds from now, 0 = for ever
	Reason  string   `json:"reason"`
	Signer  string   `json:"signer"`
}

// checkGrant makes a wish of what a page says.
func checkGrant(name string, roles, users, caps []string, seconds int64) (w grantWish, err error) {
	if name != "" && !validName(name) {
		return w, coded("request-malformed", "name %.40q: a-z, 0-9 and dashes, at most 32, no dash at either end", name)
	}
	for _, l := range []struct {
		list  []string
		valid func(string) bool
	}{{roles, oneOf(deviceRoles)}, {caps, oneOf(deviceCaps)}, {users, func(s string) bool { return s == "*" || validLogin(s) }}} {
		for _, s := range l.list {
			if !l.valid(s) {
				return w, coded("request-malformed", "%.40q is neither a role, a login nor anything that can be allowed", s)
			}
		}
	}
	if seconds < 0 || seconds > int64(100*365*24*time.Hour/time.Second) {
		return w, coded("request-malformed", "a device that expires in %d seconds", seconds)
	}
	return grantWish{Name: name, Roles: roles, Users: users, Caps: caps, Expires: time.Duration(seconds) * time.Second}, nil
}

// statement writes what is wished and says who may sign it on this page.
func (c *webCall) statement() (any, error) {
	return doing(c, func(in *statementWish) (any, error) {
		state, wait := c.account.snapshot(c.now)
		var text []byte
		powers := []byte{'d'}
		wish, err := checkGrant(in.Name, in.Roles, in.Users, in.Caps, in.Expires)
		if err != nil {
			return nil, err
		}
		switch in.Op {
		case "device.add":
			i := slices.IndexFunc(wait.joins, func(j pendingJoin) bool { return string(j.keys.deviceID()) == in.Device })
			if i < 0 {
				return nil, coded("unknown-device", "this machine does not wait for a signature any more")
			}
			text, err = buildAdd(state, wait.joins[i], wish, c.now)
		case "device.update":
			text, err = buildUpdate(state, deviceID(in.Device), wish, c.now)
		case "device.revoke":
			powers = []byte{'d', 's', 'r'}
			var ids []deviceID
			for _, id := range in.Devices {
				ids = append(ids, deviceID(id))
			}
			text, err = buildDeviceRevoke(state, ids, in.Reason, c.now)
		case "signer.remove":
			powers = []byte{'s', 'r'}
			text, err = buildSignerRemove(state, signerID(in.Signer), 0, c.now)
		default:
			return nil, coded("request-malformed", "%.40q is not signed on this page", in.Op)
		}
		if err != nil {
			return nil, err
		}
		return c.toSign(state, text, powers)
	})
}

func buildAdd(s *trustState, j pendingJoin, wish grantWish, now time.Time) ([]byte, error) {
	if wish.Name == "" {
		wish.Name = j.name
	}
	g, err := wish.grant(j.login, now)
	if err != nil {
		return nil, coded("request-malformed", "%w", err)
	}
	return buildDeviceAdd(s, j.keys, g, now)
}

// buildUpdate keeps what the wish leaves open but the expiry, which is always
// said.
func buildUpdate(s *trustState, id deviceID, wish grantWish, now time.Time) ([]byte, error) {
	dev, ok := s.device(id)
	if !ok || dev.revoked {
		return nil, coded("unknown-device", "there is no such device, or not any more")
	}
	for what, list := range map[string][]string{"role": wish.Roles, "login": wish.Users, "use": wish.Caps} {
		if list != nil && len(list) == 0 { // left out it is nil
			return nil, withHint(coded("request-malformed", "no %s is left to %s", what, dev.name), "name one, or throw the device out")
		}
	}
	g, err := wish.over(grantWish{Name: dev.name, Roles: dev.roles, Users: dev.users, Caps: dev.caps}).grant("", now)
	if err != nil {
		return nil, coded("request-malformed", "%w", err)
	}
	return buildDeviceUpdate(s, id, g, now)
}

// pageSigners are the account's passkeys that may sign here, with one of powers.
func (c *webCall) pageSigners(s *trustState, powers []byte) (lines []signerLine) {
	for _, l := range s.signers() {
		if l.kind == signerWebauthn && l.rpID == c.rp.id && slices.Contains(l.origins, c.origin) && slices.ContainsFunc(powers, l.can) {
			lines = append(lines, l.signerLine)
		}
	}
	return lines
}

// toSign shows a statement with who may sign it; a new signer does too.
func (c *webCall) toSign(s *trustState, text []byte, powers []byte, also ...signerLine) (any, error) {
	st, err := parseStatement(text)
	if err != nil {
		return nil, err
	}
	lines := slices.DeleteFunc(c.pageSigners(s, powers), func(l signerLine) bool { // one that is younger than the signer it removes
		m, ok := s.member(l.id)
		return !ok || !s.mayBack(m, st)
	})
	if len(lines) == 0 {
		return nil, withHint(coded("no-power", "no passkey of this page may sign that"), "sign on a machine of the account: sessio trust")
	}
	out, err := sayWeb(text, s)
	if err != nil {
		return nil, err
	}
	out.Need = []webAsk{c.need(text, lines...)}
	for _, l := range also {
		out.Need = append(out.Need, c.need(text, l))
	}
	return out, nil
}

// sign adds a statement with its signatures to the log. Whether it may be is for
// the log's own rules.
func (c *webCall) sign() (any, error) {
	return doing(c, func(in *struct {
		Text    string       `json:"text"`
		Answers []pageAnswer `json:"answers"`
	}) (any, error) {
		state, _ := c.account.snapshot(c.now)
		st, err := parseStatement([]byte(in.Text))
		if err != nil {
			return nil, err
		}
		lines := st.newSigners()
		for _, l := range state.signers() {
			lines = append(lines, l.signerLine)
		}
		var sigs []recordSig
		for _, a := range in.Answers {
			sig, err := sigOfAnswer(a, lines)
			if err != nil {
				return nil, err
			}
			sigs = append(sigs, sig)
		}
		record, err := newRecord([]byte(in.Text), sigs)
		if err != nil {
			return nil, err
		}
		if _, err := c.server.appendRecord(c.account, record); err != nil {
			return nil, err
		}
		return done, nil
	})
}

// signerBegin has one more passkey made that shall sign here.
func (c *webCall) signerBegin() (any, error) {
	return doing(c, func(in *struct{ Label, Powers string }) (any, error) {
		if !validName(in.Label) || in.Label == recoveryLabel {
			return nil, coded("request-malformed", "name %.40q: a-z, 0-9 and dashes, at most 32, no dash at either end", in.Label)
		}
		if !slices.Contains([]string{"d", "s", "ds"}, in.Powers) {
			return nil, coded("request-malformed", "powers %.10q are not d, s or ds", in.Powers)
		}
		state, _ := c.account.snapshot(c.now)
		var have [][]byte
		for _, l := range c.pageSigners(state, []byte("ds")) {
			have = append(have, l.credential)
		}
		return c.beginMaking(webFlow{kind: "signer", acct: c.account.id, label: in.Label, powers: in.Powers}, signerName(in.Label), have)
	})
}

func (c *webCall) signerFinish() (any, error) {
	return doing(c, func(in *flowAnswer) (any, error) {
		f, err := c.server.flows.take(c.now, in.Flow, "signer")
		if err != nil {
			return nil, err
		}
		if f.acct != c.account.id {
			return nil, errSignedOut
		}
		line, err := c.signerMade(f, in.Answer, f.powers)
		if err != nil {
			return nil, err
		}
		state, _ := c.account.snapshot(c.now)
		text, err := buildSignerAdd(state, line, c.now)
		if err != nil {
			return nil, err
		}
		return c.toSign(state, text, []byte{'s'}, line)
	})
}

// ticket makes a ticket of which the page alone has the secret.
func (c *webCall) ticket() (any, error) {
	return doing(c, func(in *struct {
		Hash       string   `json:"hash"`
		Name       string   `json:"name"`
		Roles      []string `json:"roles"`
		Users      []string `json:"users"`
		Caps       []string `json:"caps"`
		Categories []string `json:"categories"`
	}) (any, error) {
		hash, err := unb64url(in.Hash)
		if err != nil || len(hash[0]) != len(ticketHash{}) {
			return nil, coded("request-malformed", "a ticket is named by 32 bytes in base64url")
		}
		grant, err := checkGrant(in.Name, in.Roles, in.Users, in.Caps, 0)
		if err != nil {
			return nil, err
		}
		state, _ := c.account.snapshot(c.now)
		if _, taken := state.deviceByName(in.Name); taken && in.Name != "" {
			return nil, coded("op-invalid", "there is a device %s already", in.Name)
		}
		wish := ticketWish{Grant: grant}
		if wish.Categories, err = checkCategories(in.Categories); err != nil {
			return nil, err
		}
		if err := c.account.addTicket(ticketHash(hash[0]), ticketLife, wish, c.now); err != nil {
			return nil, err
		}
		return map[string]int64{"expires": c.now.Add(ticketLife).Unix()}, nil
	})
}

func (c *webCall) ticketCancel() (any, error) {
	return doing(c, func(in *struct{ Hash string }) (any, error) {
		hash, err := unb64url(in.Hash)
		if err != nil || len(hash[0]) != len(ticketHash{}) {
			return nil, coded("request-malformed", "a ticket is named by 32 bytes in base64url")
		}
		return done, c.account.cancelTicket(ticketHash(hash[0]), c.now)
	})
}

func (c *webCall) waitingRefuse() (any, error) {
	return doing(c, func(in *struct{ Device string }) (any, error) {
		err := c.account.refuse(deviceID(in.Device), c.now)
		if err == nil {
			c.server.publishAccount(c.account)
		}
		return done, err
	})
}

func (c *webCall) categories() (any, error) {
	return doing(c, func(in *struct {
		Device     string
		Categories []string
	}) (any, error) {
		state, wait := c.account.snapshot(c.now)
		_, ok := state.device(deviceID(in.Device))
		if !ok && !slices.ContainsFunc(wait.joins, func(j pendingJoin) bool { return string(j.keys.deviceID()) == in.Device }) {
			return nil, coded("unknown-device", "there is no such device")
		}
		return done, c.account.setCategories(deviceID(in.Device), in.Categories, c.now)
	})
}

// sessionsEnd closes the connections that run by sessions; sessionsRevoke makes
// the sessions worthless as well.
func (c *webCall) sessionsEnd() (any, error)    { return c.sessions(c.server.endSessions) }
func (c *webCall) sessionsRevoke() (any, error) { return c.sessions(c.server.revokeSessions) }

func (c *webCall) sessions(act func(acctID, sessionMatch) (int, error)) (any, error) {
	return doing(c, func(in *struct {
		ID, Device, Client string
		All                bool
	}) (any, error) {
		which := sessionMatch{id: in.ID, target: deviceID(in.Device), client: deviceID(in.Client), all: in.All}
		if which == (sessionMatch{}) {
			return nil, coded("request-malformed", "which sessions is not said")
		}
		n, err := act(c.account.id, which)
		if err == nil && n == 0 {
			err = coded("session-unknown", "there is no such session, or not any more")
		}
		return map[string]int{"count": n}, err
	})
}

// export is all that the coordinator keeps of the account, but who is signed in.
func (c *webCall) export() (any, error) {
	leave, err := c.weigh()
	if err != nil {
		return nil, err
	}
	defer leave()
	records, err := c.account.records(0, maxRecords)
	if err != nil {
		return nil, err
	}
	o := *c.account.ownerNow()
	o.Signins = nil
	c.w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=sessio-%.8s.json", c.account.id))
	return struct {
		Account     string     `json:"account"`
		Coordinator string     `json:"coordinator"`
		Time        time.Time  `json:"time"`
		Records     [][]byte   `json:"records"` // from the first on, as trust.md and every device has them
		Owner       ownerState `json:"owner"`
	}{c.account.id.String(), c.word.String(), c.now.UTC(), records, o}, nil
}
