package main

// This file changes who may sign: signers added and removed, and the account
// recovered by the key on paper when the others are lost.

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

func signerListVerb() verb {
	return verb{name: "trust signer list", usage: "[-json]", summary: "who may sign for the account", bare: true, setup: func(f *flag.FlagSet) verbRun {
		dir := dirFlag(f)
		asJSON := f.Bool("json", false, "one JSON object a line")
		return func(_ context.Context, p *program, _ operands) error {
			return p.withState(dir, func(c *client) error {
				for _, s := range c.trust.state().signers() {
					if err := p.listSigner(s, *asJSON); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}}
}

// A signerOut is one line of trust signer list -json.
type signerOut struct {
	ID          signerID `json:"id"`
	Label       string   `json:"label"`
	Powers      string   `json:"powers"`
	Kind        string   `json:"kind"`
	Fingerprint string   `json:"fingerprint"`
	Origins     []string `json:"origins,omitempty"`
	Added       uint64   `json:"added"`
}

func (p *program) listSigner(s signer, asJSON bool) error {
	about, print, err := sayKey(s.signerLine)
	if err != nil {
		return err
	}
	if asJSON {
		return writeLine(p.out, signerOut{s.id, s.label, s.powers, s.kind, print, s.origins, s.addedSeq})
	}
	_, err = fmt.Fprintf(p.out, "%s  %-12s %-2s  %s %s\n", s.id, s.label, s.powers, about, print)
	return err
}

func signerAddVerb() verb {
	return verb{
		name:    "trust signer add",
		usage:   "[-powers d|s|ds|r] [-label L] [-new-passkey] [-key F | -passkey | -recovery] [-force-time] [FILE]",
		summary: "let another key sign; the new key signs too",
		more: `FILE is the new key, or FILE.pub for one in the ssh-agent; with -new-passkey a
passkey is made in its place, on the page. Powers: d signs devices, s signers.
With -powers r a new recovery key takes the place of the old one, which has to
sign: -recovery, and no FILE.`,
		setup: func(f *flag.FlagSet) verbRun {
			dir, by, force := dirFlag(f), signerFlags(f), forceTimeFlag(f)
			powers := f.String("powers", "ds", "`what` it may sign: d, s, ds or r")
			label := f.String("label", "", "`name` of the signer (default the file's)")
			passkey := f.Bool("new-passkey", false, "the new signer is a passkey")
			return func(ctx context.Context, p *program, o operands) error {
				if !oneOf(signerPowers)(*powers) {
					return usageError("-powers %q is not d, s, ds or r", *powers)
				}
				n, err := newSignerOf(o, *powers, *label, *passkey)
				if err != nil {
					return err
				}
				return p.act(ctx, dir, *force, func(ctx context.Context, a *acting) error { return a.addSigner(ctx, by, n) })
			}
		},
	}
}

// A newSigner is a signer to be, as typed.
type newSigner struct {
	file, powers, label string
	passkey             bool
}

func newSignerOf(o operands, powers, label string, passkey bool) (n newSigner, err error) {
	n = newSigner{powers: powers, label: label, passkey: passkey}
	switch {
	case powers == "r" && passkey:
		return n, usageError("a recovery key is on paper, and no passkey")
	case powers == "r":
		return n, o.none()
	case passkey:
		if err := o.none(); err != nil {
			return n, err
		}
		n.label = cmp.Or(n.label, "passkey")
	default:
		if n.file, err = o.one("FILE"); err != nil {
			return n, err
		}
	}
	if n.label == "" {
		n.label = foldName(strings.TrimPrefix(filepath.Base(n.file), "."))
	}
	if !validName(n.label) || n.label == recoveryLabel { // that is the recovery key's
		return n, usageError("-label %q: a-z, 0-9 and dashes, at most 32, no dash at either end", n.label)
	}
	return n, nil
}

func (a *acting) addSigner(ctx context.Context, choice signerChoice, n newSigner) error {
	powers := []byte{'s', 'r'}
	if n.powers == "r" {
		powers = []byte{'r'} // a signer must not take the way back from the owner
	}
	by, err := a.signer(ctx, choice, powers...)
	if err != nil {
		return err
	}
	key, line, err := a.openNew(ctx, n)
	if err != nil {
		return err
	}
	err = a.submit(ctx, proposal{
		build:   func(st *trustState) ([]byte, error) { return buildSignerAdd(st, line, a.p.now()) },
		consent: a.agree, signers: []stmtSigner{by, key},
	})
	if err != nil && n.powers == "r" {
		return withHint(err, "unless sessio trust signer list shows %s, the recovery key above is void and the old one holds", line.id)
	}
	if err == nil {
		fmt.Fprintf(a.p.out, "signer %s (%s) may sign: %s\n", line.label, line.id, line.powers)
	}
	return err
}

// openNew opens the new key, or makes the recovery key and shows it.
func (a *acting) openNew(ctx context.Context, n newSigner) (stmtSigner, signerLine, error) {
	switch {
	case n.powers == "r":
		k := newRecoveryKey()
		return k.signer(), k.line(), a.p.sayRecovery(ctx, k)
	case n.passkey:
		return a.p.newPasskey(ctx, n.powers, n.label, a.trust.state().signers())
	}
	return openSignerLine(ctx, a.p, n.file, n.powers, n.label)
}

func signerRemoveVerb() verb {
	return verb{
		name:    "trust signer remove",
		usage:   "[-since SEQ] [-key F | -passkey | -recovery] [-force-time] SIGNER",
		summary: "let a key sign no more; SIGNER is its id or label",
		more: `What it has signed stays, unless -since names a record: from there on all that
it alone has added is taken back. A key removes those that came after it; the
recovery key removes any.`,
		setup: func(f *flag.FlagSet) verbRun {
			dir, by, force := dirFlag(f), signerFlags(f), forceTimeFlag(f)
			since := f.Uint64("since", 0, "take back what it signed from `record` on")
			return func(ctx context.Context, p *program, o operands) error {
				name, err := o.one("SIGNER")
				if err != nil {
					return err
				}
				return p.act(ctx, dir, *force, func(ctx context.Context, a *acting) error { return a.removeSigner(ctx, by, name, *since) })
			}
		},
	}
}

func (a *acting) removeSigner(ctx context.Context, choice signerChoice, name string, since uint64) error {
	target, err := findSigner(a.trust.state(), name)
	if err != nil {
		return err
	}
	by, err := a.signer(ctx, choice, 's', 'r')
	if err != nil {
		return err
	}
	if m, ok := a.trust.state().member(by.id()); ok && m.kind != signerWebauthn && !a.trust.state().mayBack(m, &statement{body: opSignerRemove{signer: target.id}}) {
		return withHint(coded("no-power", "signer %s may not remove %s, which came before it or has the power r", m.label, target.label), "an older one has to sign, or the recovery key: -recovery")
	}
	err = a.submit(ctx, proposal{
		build:   func(st *trustState) ([]byte, error) { return buildSignerRemove(st, target.id, since, a.p.now()) },
		consent: a.agree, signers: []stmtSigner{by},
	})
	if err == nil {
		fmt.Fprintf(a.p.out, "signer %s (%s) may sign no more\n", target.label, target.id)
	}
	return err
}

// findSigner looks a signer up by id or label.
func findSigner(st *trustState, name string) (found signer, err error) {
	var labels []string
	n := 0
	for _, s := range st.signers() {
		if string(s.id) == name {
			return s, nil
		}
		if s.label == name {
			found, n = s, n+1
		}
		labels = append(labels, s.label)
	}
	switch n {
	case 1:
		return found, nil
	case 0:
		return signer{}, withHint(fmt.Errorf("there is no signer %s", name), "there are: %s", strings.Join(labels, ", "))
	}
	return signer{}, withHint(fmt.Errorf("%d signers are called %s", n, name), "name it by its id: sessio trust signer list")
}

func trustRecoverVerb() verb {
	return verb{
		name:    "trust recover",
		usage:   "[-since SEQ] -key NEW | -passkey [-name N] [-force-time] [s1/HOST:PORT/KEYS/ACCT]",
		summary: "put a new key in the place of all lost ones, by the recovery key",
		more: `Removes every signer but the recovery key and installs NEW. With -since what
any of them did from that record on is taken back. A machine that belongs to no
account names it by its word, and becomes a client of it.`,
		setup: func(f *flag.FlagSet) verbRun {
			r := &recovering{dir: dirFlag(f), force: forceTimeFlag(f)}
			r.since = f.Uint64("since", 0, "take back what signers did from `record` on")
			r.key = f.String("key", "", "the new key, a `file`; FILE.pub: that key in the ssh-agent")
			r.passkey = f.Bool("passkey", false, "the new signer is a passkey, made on a page that this program serves")
			r.name = f.String("name", "", "`name` of this machine, if it is not in the log (default the host name)")
			return func(ctx context.Context, p *program, o operands) error {
				return interruptible(ctx, func(ctx context.Context) error { return r.run(ctx, p, o) })
			}
		},
	}
}

// A recovering is trust recover as typed, and what it works with.
type recovering struct {
	dir       stateDir
	force     *bool
	since     *uint64
	key, name *string
	passkey   *bool
	recovery  sshStmtSigner
	owner     stmtSigner
	line      signerLine // the owner's
}

func (r *recovering) run(ctx context.Context, p *program, o operands) error {
	if n := count(*r.key != "", *r.passkey); n != 1 {
		return usageError("-key or -passkey: what shall sign from now on")
	}
	dir, err := r.dir.path()
	if err != nil {
		return err
	}
	t, err := openTrustStore(dir, p.now)
	if err != nil {
		return err
	}
	t.setLog(p.warn)
	word, err := r.account(t, o)
	if err != nil {
		return err
	}
	id, err := loadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		return err
	}
	if !*r.passkey {
		if r.owner, r.line, err = openSignerLine(ctx, p, *r.key, "ds", ownerLabel()); err != nil {
			return err
		}
	}
	if r.recovery, err = p.askRecoveryKey(ctx); err != nil {
		return err
	}
	c := &client{dir: dir, id: id, trust: t, logf: func(int, string, ...any) {}}
	return withCoordAt(ctx, id, word.addr, word.keys, func(cc *coordClient) error {
		return r.recover(ctx, &acting{c, p, cc, word.acct}, word)
	})
}

// account is the one that this machine belongs to, or that the word names.
func (r *recovering) account(t *trustStore, o operands) (word coordWord, err error) {
	pin, pinned := t.anchor()
	if all := o.all(); len(all) > 0 || !pinned {
		text, err := o.one("s1/HOST:PORT/KEYS/ACCT")
		if err != nil {
			return word, err
		}
		if word, err = parseCoordWord(text); err != nil {
			return word, usageError("%w", err)
		}
		if word.acct.isZero() {
			return word, usageError("the word names no account: s1/HOST:PORT/KEYS/ACCT")
		}
		if pinned && pin.acct != word.acct {
			return word, withHint(coded("wrong-account", "this machine belongs to account %s", acctWords(pin.acct)), "sessio trust reset makes it forget that")
		}
		return word, nil
	}
	return coordWord{addr: pin.coordAddr, keys: pin.coordKeys.coordID(), acct: pin.acct}, nil
}

func (r *recovering) recover(ctx context.Context, a *acting, word coordWord) error {
	if err := a.fetchByProof(ctx, word, r.recovery.key); err != nil {
		return err
	}
	if err := a.p.checkClock(ctx, a.cc, *r.force); err != nil {
		return err
	}
	if m, ok := a.trust.state().member(r.recovery.id()); !ok || !m.can('r') {
		return coded("no-power", "this is not the recovery key of account %s", acctWords(word.acct))
	}
	file := *r.key
	if *r.passkey {
		var err error
		if r.owner, r.line, err = a.p.newPasskey(ctx, "ds", ownerLabel(), nil); err != nil { // the lost one may be in the same key ring
			return err
		}
		file = passkeyWord
	}
	err := a.submit(ctx, proposal{
		build: func(st *trustState) ([]byte, error) {
			return buildRecover(st, *r.since, []signerLine{r.line}, a.p.now())
		},
		consent: a.agree, signers: []stmtSigner{r.recovery, r.owner},
	})
	if err != nil {
		return err
	}
	if err := rememberSigner(a.dir, file); err != nil {
		return fmt.Errorf("remembering the signing key: %w", err)
	}
	fmt.Fprintf(a.p.out, "recovered: signer %s (%s)\n", r.line.label, r.line.id)
	return r.enrol(ctx, a)
}

// fetchByProof gets the log of an account that this machine need not be in.
func (a *acting) fetchByProof(ctx context.Context, word coordWord, recovery ssh.Signer) error {
	if a.trust.state() == nil {
		rec, err := a.cc.fetchGenesis(ctx, word.acct, recovery)
		if err != nil {
			return noLogByProof(err)
		}
		if acctID(rec.hash) != word.acct {
			return coded("wrong-account", "WRONG ACCOUNT: the coordinator shows %s, the word says %s", acctWords(acctID(rec.hash)), acctWords(word.acct))
		}
		keys, err := a.cc.coordKeys()
		if err != nil {
			return err
		}
		if err := a.trust.setAnchor(anchor{word.acct, word.addr, keys}); err != nil {
			return err
		}
	}
	return noLogByProof(fetchIntoBy(ctx, a.cc, a.trust, recovery))
}

// noLogByProof adds what a refusal may mean.
func noLogByProof(err error) error {
	if codeOf(err) != "denied" {
		return err
	}
	return withHint(fmt.Errorf("fetching the log: %w", err), "is it the recovery key of this account?")
}

// enrol makes this machine a client, if it is not in the log. The recovery key
// signs as well: for it alone the coordinator takes a record from a stranger.
func (r *recovering) enrol(ctx context.Context, a *acting) error {
	if dev, ok := a.trust.state().device(a.id.keys.deviceID()); ok {
		if dev.revoked {
			a.p.warn(withHint(fmt.Errorf("this machine is revoked (%s)", dev.reason), "enrol it with a new identity: another -dir, and a ticket"))
		}
		return nil
	}
	name := *r.name
	if name == "" {
		host, _ := os.Hostname()
		if name = foldName(host); name == "" {
			name = "recovered"
		}
		if _, taken := a.trust.state().deviceByName(name); taken {
			name = foldName(fmt.Sprintf("%.26s-%s", name, a.id.keys.deviceID()[1:6]))
		}
	}
	grant := newDeviceGrant(name, []string{"client"}, []string{"*"}, deviceCaps, 0)
	err := a.submit(ctx, proposal{
		build:   func(st *trustState) ([]byte, error) { return buildDeviceAdd(st, a.id.keys, grant, a.p.now()) },
		consent: func(context.Context, []byte) (bool, error) { return true, nil },
		signers: []stmtSigner{r.owner, r.recovery},
	})
	if err == nil {
		fmt.Fprintf(a.p.out, "this machine is %s (%s), a client\n", name, a.id.keys.deviceID())
	}
	return err
}
