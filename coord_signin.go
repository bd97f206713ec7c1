//go:build !router

package main

// This file is how people come in at the page: with a passkey that signs in, by
// making an account with the claim, or, where that passkey is missing, by the
// proof of one who may sign for the account. A passkey that signs in is never
// one that signs: what it is asked to sign is 32 random bytes.

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// A webAsk is what a page asks of a passkey; bytes are in base64url.
type webAsk struct {
	Flow        string   `json:"flow,omitempty"`
	RPID        string   `json:"rpId"`
	Challenge   string   `json:"challenge"`
	Credentials []string `json:"credentials"` // to choose from, or to make none for
	UserID      string   `json:"userId,omitempty"`
	UserName    string   `json:"userName,omitempty"`
}

// A flowAnswer is a passkey's answer to a step of a ceremony.
type flowAnswer struct {
	Flow   string     `json:"flow"`
	Answer pageAnswer `json:"answer"`
	Label  string     `json:"label"`
}

// begin keeps a ceremony's next step and returns what to ask for it.
func (c *webCall) begin(f webFlow) (webAsk, error) {
	if f.challenge == nil {
		f.challenge = make([]byte, 32)
		rand.Read(f.challenge) // never fails since Go 1.24
	}
	switch f.stranger = false; {
	case f.by != "" && f.in == nil: // has proved to be that signer
		f.owner = string(f.by)
	case c.account != nil:
		f.owner = c.account.id.String()
	default:
		f.owner, f.stranger = hostOf(c.addr()).String(), true
	}
	id, err := c.server.flows.put(c.now, f)
	return webAsk{Flow: id, RPID: c.rp.id, Challenge: b64url.EncodeToString(f.challenge), Credentials: []string{}}, err
}

// beginMaking is begin for a passkey to be made.
func (c *webCall) beginMaking(f webFlow, name string, but [][]byte) (webAsk, error) {
	f.user = make([]byte, 16)
	rand.Read(f.user) // one of its own each: the same would replace the other passkey
	ask, err := c.begin(f)
	ask.UserID, ask.UserName = b64url.EncodeToString(f.user), name
	for _, id := range but {
		ask.Credentials = append(ask.Credentials, b64url.EncodeToString(id))
	}
	return ask, err
}

// made checks the answer to beginMaking.
func (f *webFlow) made(rp relyingParty, a pageAnswer) (newPasskey, error) {
	parts, err := unb64url(a.ClientData, a.Attestation)
	if err != nil {
		return newPasskey{}, err
	}
	return registration{parts[0], parts[1]}.verify(rp, f.challenge)
}

func signinName(label string) string { return label + " – sign in" }

// newSigninKey is a passkey just made, as it is kept.
func newSigninKey(p newPasskey, user []byte, label string, now time.Time) signinKey {
	return signinKey{ID: p.credential, Key: p.key.append(nil), User: user, Label: label, Made: now.Unix(), Eligible: p.flags&flagBE != 0}
}

func (c *webCall) signinBegin() (any, error) { return c.begin(webFlow{kind: "signin"}) }

// signinFinish is WebAuthn L3 §7.2, for a credential found by its id.
func (c *webCall) signinFinish() (any, error) {
	return doing(c, func(in *flowAnswer) (any, error) {
		f, err := c.server.flows.take(c.now, in.Flow, "signin")
		if err != nil {
			return nil, err
		}
		parts, err := unb64url(in.Answer.ID, in.Answer.AuthData, in.Answer.ClientData, in.Answer.Signature, in.Answer.User)
		if err != nil {
			return nil, err
		}
		a, key := c.server.store.signinAccount(parts[0])
		// Where the page names a passkey its browser may leave the handle out.
		if key == nil || len(parts[4]) > 0 && !bytes.Equal(parts[4], key.User) {
			return nil, withHint(coded("passkey-unknown", "this passkey does not sign in here"), "choose the one that is called “… – sign in”")
		}
		cose, err := parseCOSE(key.Key)
		if err != nil {
			return nil, err
		}
		d, err := assertion{parts[1], parts[2], parts[3]}.verify(c.rp, cose, f.challenge)
		if err != nil {
			return nil, err
		}
		if d.flags&flagBE != 0 != key.Eligible {
			return nil, coded("wa-backup", "this passkey has changed its kind")
		}
		if d.signCount != 0 && d.signCount <= key.Count {
			c.server.logf("account %.8s: a passkey's counter went from %d to %d: there may be a copy of it", a.id, key.Count, d.signCount)
		}
		var cookie string
		var expires time.Time
		err = a.changeOwner(c.now, func(o *ownerState) error {
			k := o.key(parts[0])
			if k == nil {
				return errSignedOut
			}
			k.Used, k.Count = c.now.Unix(), d.signCount
			cookie, expires = o.enter(a.id, k.ID, c.now)
			return nil
		})
		if err != nil {
			return nil, err
		}
		return done, c.entered(cookie, expires)
	})
}

// entered gives the browser its cookie, in place of the one that it had.
func (c *webCall) entered(cookie string, expires time.Time) error {
	if c.account != nil {
		if err := c.endSignins(func(in signin) bool { return bytes.Equal(in.Hash, c.in.Hash) }); err != nil {
			return err
		}
	}
	c.setCookie(cookie, expires)
	return nil
}

func (c *webCall) endSignins(which func(signin) bool) error {
	return c.account.changeOwner(c.now, func(o *ownerState) error {
		o.Signins = slices.DeleteFunc(o.Signins, which)
		return nil
	})
}

func (c *webCall) signout() (any, error) {
	err := c.endSignins(func(in signin) bool { return bytes.Equal(in.Hash, c.in.Hash) })
	if err == nil {
		c.setCookie("", time.Unix(1, 0))
	}
	return done, err
}

func (c *webCall) signoutOthers() (any, error) {
	return done, c.endSignins(func(in signin) bool { return !bytes.Equal(in.Hash, c.in.Hash) })
}

// registerBegin: who has the claim makes the passkey that signs in, then the one
// that signs, then signs the account's first statement.
func (c *webCall) registerBegin() (any, error) {
	return doing(c, func(in *struct{ Claim, Label string }) (any, error) {
		f := webFlow{kind: "register", label: in.Label}
		if in.Claim != "" && !decodeWord(f.claim[:], in.Claim) {
			return nil, coded("claim-unknown", "this is not a claim: open the whole address that the coordinator has printed")
		}
		if !validName(in.Label) || in.Label == recoveryLabel {
			return nil, coded("request-malformed", "name %.40q: a-z, 0-9 and dashes, at most 32, no dash at either end", in.Label)
		}
		if err := c.server.store.mayCreate(f.claim); err != nil {
			return nil, err
		}
		return c.beginMaking(f, signinName(f.label), nil)
	})
}

func (c *webCall) registerSignin() (any, error) {
	return doing(c, func(in *flowAnswer) (any, error) {
		f, err := c.server.flows.take(c.now, in.Flow, "register")
		if err != nil {
			return nil, err
		}
		made, err := f.made(c.rp, in.Answer)
		if err != nil {
			return nil, err
		}
		f.key = newSigninKey(made, f.user, f.label, c.now)
		f.kind, f.challenge = "register-signer", nil
		return c.beginMaking(f, signerName(f.label), nil)
	})
}

// A webStatement is what a page shows and has signed.
type webStatement struct {
	Flow  string     `json:"flow,omitempty"`
	Text  string     `json:"text"`
	Words string     `json:"words"`
	Title string     `json:"title"`
	Facts []pageFact `json:"facts"`
	Need  []webAsk   `json:"need"` // who signs, one after the other
}

// sayWeb shows a statement.
func sayWeb(text []byte, s *trustState) (out webStatement, err error) {
	st, err := parseStatement(text)
	if err != nil {
		return out, err
	}
	out.Text, out.Words = string(text), headWords(hashStatement(text))
	out.Title, out.Facts = sayStatement(st, s)
	return out, nil
}

// need asks one of passkeys to sign text.
func (c *webCall) need(text []byte, lines ...signerLine) webAsk {
	ask := webAsk{RPID: c.rp.id, Challenge: b64url.EncodeToString(sshsigInput(stmtNamespace, text))}
	for _, l := range lines {
		ask.Credentials = append(ask.Credentials, b64url.EncodeToString(l.credential))
	}
	return ask
}

// signerMade is a passkey just made, as a signer on this page.
func (c *webCall) signerMade(f webFlow, a pageAnswer, powers string) (l signerLine, err error) {
	made, err := f.made(c.rp, a)
	if err != nil {
		return l, err
	}
	return newPasskeySignerLine(made, powers, f.label, c.rp), nil
}

// registerSigner: the recovery key is made by the page, which sends its public
// half alone.
func (c *webCall) registerSigner() (any, error) {
	return doing(c, func(in *struct {
		Flow     string     `json:"flow"`
		Answer   pageAnswer `json:"answer"`
		Recovery string     `json:"recovery"`
	}) (any, error) {
		f, err := c.server.flows.take(c.now, in.Flow, "register-signer")
		if err != nil {
			return nil, err
		}
		if f.signer, err = c.signerMade(f, in.Answer, "ds"); err != nil {
			return nil, err
		}
		raw, err := b64url.DecodeString(in.Recovery)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, coded("request-malformed", "the recovery key is not 32 bytes in base64url")
		}
		pub, err := ssh.NewPublicKey(ed25519.PublicKey(raw))
		if err != nil {
			return nil, err
		}
		recovery, err := newSSHSignerLine(pub, "r", recoveryLabel)
		if err != nil {
			return nil, err
		}
		if f.text, err = buildGenesis([]signerLine{f.signer, recovery}, c.now); err != nil {
			return nil, err
		}
		out, err := sayWeb(f.text, nil)
		if err != nil {
			return nil, err
		}
		out.Need = []webAsk{c.need(f.text, f.signer)}
		f.kind = "register-sign"
		out.Flow, err = c.server.flows.put(c.now, f)
		return out, err
	})
}

func (c *webCall) registerFinish() (any, error) {
	return doing(c, func(in *flowAnswer) (any, error) {
		if _, err := c.server.flows.look(c.now, in.Flow, "register-done"); err == nil {
			return nil, coded("account-made", "the account is made already: sign in")
		}
		f, err := c.server.flows.take(c.now, in.Flow, "register-sign")
		if err != nil {
			return nil, err
		}
		sig, err := sigOfAnswer(in.Answer, []signerLine{f.signer})
		if err != nil {
			return nil, err
		}
		record, err := newRecord(f.text, []recordSig{sig})
		if err != nil {
			return nil, err
		}
		owner := &ownerState{Keys: []signinKey{f.key}}
		cookie, expires := owner.enter(acctID(hashStatement(f.text)), f.key.ID, c.now)
		if _, err := c.server.createAccount(f.claim, [][]byte{record}, owner); err != nil {
			return nil, err
		}
		c.server.flows.keep(in.Flow, webFlow{kind: "register-done", owner: f.owner, stranger: f.stranger, until: c.now.Add(flowLife)})
		return done, c.entered(cookie, expires)
	})
}

// proveBegin lets a passkey that signs say, by a sentence that is no statement,
// that its owner lacks one that signs in.
func (c *webCall) proveBegin() (any, error) {
	var nonce [32]byte
	rand.Read(nonce[:]) // never fails since Go 1.24
	f := webFlow{kind: "prove", text: ownerProofText(c.origin, nonce[:])}
	f.challenge = sshsigInput(ownerNamespace, f.text)
	return c.begin(f)
}

func (c *webCall) proveFinish() (any, error) {
	return doing(c, func(in *flowAnswer) (any, error) {
		f, err := c.server.flows.take(c.now, in.Flow, "prove")
		if err != nil {
			return nil, err
		}
		// Another account may name the same credential, with a key of its own:
		// that one's signature does not fit.
		taken := false
		why := coded("no-power", "this passkey may not sign for an account here, or for devices alone")
		for _, a := range c.server.store.list() {
			state, _ := a.snapshot(c.now)
			sig, err := sigOfAnswer(in.Answer, ownerLines(state))
			if codeOf(err) == "no-power" {
				continue
			}
			if err != nil {
				return nil, err
			}
			if !taken && !c.server.proofs.take(c.now, strangerGap, strangerBurst) {
				return nil, errBusy
			}
			taken = true
			line, _ := state.signerLine(sig.claimed)
			if err := sig.verifyIn(ownerNamespace, line, f.text); err != nil {
				why = err
				continue
			}
			c.server.logf("account %.8s: signer %s lets a passkey sign in", a.id, line.label)
			return c.enrol(a, webFlow{label: line.label, by: line.id})
		}
		return nil, why
	})
}

// An enrolAsk says to whose page a passkey is being made: a link may have been
// sent by anybody.
type enrolAsk struct {
	webAsk
	Account string `json:"account"` // words
	Label   string `json:"label"`
}

// enrol lets a passkey be made that signs in to an account. f says by whose word.
func (c *webCall) enrol(a *coordAccount, f webFlow) (any, error) {
	var have [][]byte
	for _, k := range a.ownerNow().Keys {
		have = append(have, k.ID)
	}
	f.kind, f.acct = "enrol-made", a.id
	ask, err := c.beginMaking(f, signinName(f.label), have)
	return enrolAsk{ask, acctWords(a.id), f.label}, err
}

// enrolBegin takes the code that a signer was given by account sign-in; it is
// used up when the passkey is made.
func (c *webCall) enrolBegin() (any, error) {
	return doing(c, func(in *struct{ Code string }) (any, error) {
		f, err := c.server.flows.look(c.now, in.Code, "enrol")
		if err != nil {
			return nil, err
		}
		a, err := c.server.store.account(f.acct)
		if err != nil {
			return nil, err
		}
		return c.enrol(a, webFlow{label: f.label, by: f.by, code: in.Code})
	})
}

func (c *webCall) enrolFinish() (any, error) {
	return doing(c, func(in *flowAnswer) (any, error) {
		f, err := c.server.flows.take(c.now, in.Flow, "enrol-made")
		if err != nil {
			return nil, err
		}
		a, err := c.server.store.account(f.acct)
		if err != nil {
			return nil, err
		}
		made, err := f.made(c.rp, in.Answer)
		if err != nil {
			return nil, err
		}
		if f.code != "" {
			if _, err := c.server.flows.take(c.now, f.code, "enrol"); err != nil {
				return nil, err
			}
		}
		key := newSigninKey(made, f.user, f.label, c.now)
		key.By = f.by
		cookie, expires, err := c.server.store.addSigninKey(a, key, f.in, c.now)
		if err != nil {
			return nil, err
		}
		return done, c.entered(cookie, expires)
	})
}

func (c *webCall) passkeyBegin() (any, error) {
	return doing(c, func(in *struct{ Label string }) (any, error) {
		if !validName(in.Label) {
			return nil, coded("request-malformed", "name %.40q: a-z, 0-9 and dashes, at most 32, no dash at either end", in.Label)
		}
		own := c.account.ownerNow().key(c.in.Key)
		if own == nil {
			return nil, errSignedOut
		}
		return c.enrol(c.account, webFlow{label: in.Label, by: own.By, in: c.in.Hash})
	})
}

func (c *webCall) passkeyRemove() (any, error) {
	return doing(c, func(in *struct{ ID string }) (any, error) {
		id, err := unb64url(in.ID)
		if err != nil {
			return nil, err
		}
		if err := c.server.store.removeSigninKey(c.account, id[0], c.now); err != nil {
			return nil, fmt.Errorf("removing a passkey: %w", err)
		}
		return done, nil
	})
}
