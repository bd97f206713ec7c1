//go:build !router

package main

// This file lets passkeys sign for the verbs: on the page that this program
// serves (passkey_page.go), one question after the other. What will be signed is
// shown there as on the terminal, with the same words to compare.

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
)

// passkeyWord stands in the file signer, where the path of a key could, when
// passkeys sign from this machine. No path is it: those are absolute.
const passkeyWord = "-passkey"

// A passkeySigner signs with whichever of its passkeys answers.
type passkeySigner struct {
	ctx   context.Context
	p     *program
	lines []signerLine // of one relying party, all with the local page among their origins
	state *trustState  // for the names of devices; may be nil
}

func (k *passkeySigner) id() signerID { return k.lines[0].id }

// passkeysOf are the account's passkeys that sign on the local page, with one of
// the powers: those of one name of the page, this system's if there are any.
func (a *acting) passkeysOf(ctx context.Context, powers []byte) (*passkeySigner, error) {
	k := &passkeySigner{ctx: ctx, p: a.p, state: a.trust.state()}
	elsewhere := ""
	for _, s := range a.trust.state().signers() {
		switch {
		case s.kind != signerWebauthn || !slices.ContainsFunc(powers, s.can):
		case !slices.Contains(s.origins, pageOrigin(s.rpID)):
			elsewhere = s.origins[0]
		case len(k.lines) > 0 && k.lines[0].rpID != pageName() && s.rpID == pageName():
			k.lines = []signerLine{s.signerLine} // this machine's own name before others'
		case len(k.lines) == 0 || k.lines[0].rpID == s.rpID:
			k.lines = append(k.lines, s.signerLine)
		}
	}
	switch {
	case len(k.lines) > 0:
		return k, nil
	case elsewhere != "":
		return nil, withHint(coded("no-power", "the account's passkeys sign on another page than this machine's own"), "sign there: %s", elsewhere)
	}
	return nil, withHint(coded("no-power", "no passkey may sign this for the account"), "sessio trust signer list shows who may")
}

// sign asks on the page. A statement's words are those of the log's head once it
// is in there.
func (k *passkeySigner) sign(namespace string, text []byte) (sig recordSig, err error) {
	page, err := k.p.passkeyPage(k.lines[0].rpID)
	if err != nil {
		return sig, err
	}
	words := headWords(hashStatement(text))
	fmt.Fprintf(k.p.err, "to be signed on the page: %s\n", words)
	step := pageStep{Kind: "get", Text: string(text), Words: words, RPID: k.lines[0].rpID, Challenge: b64url.EncodeToString(sshsigInput(namespace, text)),
		Title: "Let a passkey sign in to the coordinator's page", About: "It is made there, and can sign nothing for the account."}
	if namespace == stmtNamespace {
		st, err := parseStatement(text)
		if err != nil {
			return sig, err
		}
		step.About = ""
		step.Title, step.Facts = sayStatement(st, k.state)
	}
	for _, l := range k.lines {
		step.Credentials = append(step.Credentials, b64url.EncodeToString(l.credential))
	}
	err = page.ask(k.ctx, step, func(a pageAnswer) error {
		if sig, err = sigOfAnswer(a, k.lines); err != nil {
			return err
		}
		i := slices.IndexFunc(k.lines, func(l signerLine) bool { return l.id == sig.claimed })
		return sig.verifyIn(namespace, k.lines[i], text)
	})
	return sig, err
}

// newPasskey has a passkey made on the page. It has signed nothing yet.
func (p *program) newPasskey(ctx context.Context, powers, label string, have []signer) (*passkeySigner, signerLine, error) {
	rp := relyingParty{id: pageName(), origins: []string{pageOrigin(pageName())}}
	page, err := p.passkeyPage(rp.id)
	if err != nil {
		return nil, signerLine{}, err
	}
	challenge, userID := make([]byte, 32), make([]byte, 16)
	rand.Read(challenge) // neither fails since Go 1.24
	rand.Read(userID)    // one of its own each: the same would replace the other passkey
	step := pageStep{Kind: "create", Title: "Make a passkey that signs", RPID: rp.id, Challenge: b64url.EncodeToString(challenge),
		About:  "It will say who belongs to your account, and nothing else. The recovery key is the way back if it gets lost; a second passkey or key is better still.",
		UserID: b64url.EncodeToString(userID), UserName: signerName(label)}
	for _, s := range have {
		if s.kind == signerWebauthn && s.rpID == rp.id {
			step.Credentials = append(step.Credentials, b64url.EncodeToString(s.credential))
		}
	}
	var line signerLine
	err = page.ask(ctx, step, func(a pageAnswer) error {
		parts, err := unb64url(a.ClientData, a.Attestation)
		if err != nil {
			return err
		}
		made, err := registration{parts[0], parts[1]}.verify(rp, challenge)
		if err != nil {
			return err
		}
		line = newPasskeySignerLine(made, powers, label, rp)
		return nil
	})
	return &passkeySigner{ctx: ctx, p: p, lines: []signerLine{line}}, line, err
}

// passkeyPage opens the page, the first time that it is needed.
func (p *program) passkeyPage(rpID string) (*signPage, error) {
	if p.page != nil && p.page.origin == pageOrigin(rpID) {
		return p.page, nil
	}
	if p.page != nil {
		p.page.close("Go on elsewhere", "The next passkey belongs to another name of this page: the terminal shows it.")
		p.page = nil
	}
	page, err := openSignPage(rpID)
	if err != nil {
		return nil, err
	}
	p.page = page
	fmt.Fprintf(p.err, "open this page in a browser on this machine, and sign there:\n  %s\n", page.url())
	if os.Getenv("SSH_CONNECTION") != "" {
		fmt.Fprintf(p.err, "from the machine where you sit it is reached after: ssh -L %s:localhost:%s, to here\n", pagePort, pagePort)
	}
	return page, nil
}

// endPage ends the page, if there is one, with what became of the verb.
func (p *program) endPage(err error) {
	switch {
	case p.page == nil:
	case err == nil:
		p.page.close("Done", "The rest is on the terminal. You may close this page.")
	case exitStatus(err) == 130:
		p.page.close("This was given up", "Nothing was signed here. You may close this page.")
	default:
		p.page.close("This did not work", err.Error())
	}
	p.page = nil
}
