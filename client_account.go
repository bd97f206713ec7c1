package main

// This file makes an account: its first statement, signed by the owner's key,
// and its first device, this machine. What it does it can do again: before the
// coordinator hears of it, the signed records are on disk here, and a create
// that was cut short anywhere is finished by the same words.

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// createFile, in the state directory, holds what is being made.
const createFile = "account.new"

// A newAccount is an account that the coordinator may or may not have yet. It
// holds no secret but public keys' signatures.
type newAccount struct {
	Coord   string   `json:"coord"` // without the claim
	Records [][]byte `json:"records"`
	Signer  string   `json:"signer"` // path of the key
}

func accountCreateVerb() verb {
	return verb{
		name:    "account create",
		usage:   "-key F [-name N] [-force-time] COORD",
		summary: "make an account; this machine becomes its first device, a client",
		more: `COORD is the word that the coordinator prints at its first start. F is an SSH
key (ed25519, ecdsa on P-256, or one of their security keys): it signs who
belongs to the account. F.pub means that key in the ssh-agent. The recovery key
is printed once: it is the way back when every signing key is lost.`,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			key := f.String("key", "", "the owner's key, a `file`; FILE.pub: that key in the ssh-agent")
			name := f.String("name", "", "`name` of this machine (default the host name)")
			passkey := f.Bool("passkey", false, "sign with a passkey: refused, this version cannot check them")
			force := forceTimeFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				word, err := o.one("COORD")
				if err != nil {
					return err
				}
				if *passkey {
					return errWebauthnUnsupported
				}
				a := &creating{p: p, keyFile: *key, name: *name, force: *force}
				if err := a.read(dir, word); err != nil {
					return err
				}
				return interruptible(ctx, func(ctx context.Context) error {
					return withCoordAt(ctx, a.id, a.word.addr, a.word.keys, func(cc *coordClient) error { return a.run(ctx, cc) })
				})
			}
		},
	}
}

// A creating is an account create under way.
type creating struct {
	p             *program
	keyFile, name string
	force         bool
	dir           string
	word          coordWord
	id            *identity
	trust         *trustStore
}

func (a *creating) read(d stateDir, word string) (err error) {
	if a.word, err = parseCoordWord(word); err != nil {
		return usageError("COORD: %w", err)
	}
	if a.word.isTicket() || !a.word.acct.isZero() {
		return withHint(usageError("this word is of an account that exists"), "sessio join TICKET enrols this machine there")
	}
	if a.keyFile == "" {
		return withHint(usageError("-key is missing: the owner's SSH key"), "ssh-keygen -t ed25519 makes one")
	}
	if a.name == "" {
		host, _ := os.Hostname()
		if a.name = foldName(host); a.name == "" {
			a.name = "first"
		}
	}
	if !validName(a.name) {
		return usageError("-name %q: a-z, 0-9 and dashes, at most 32, no dash at either end", a.name)
	}
	a.dir, a.id, a.trust, err = a.p.openState(d)
	return err
}

func (a *creating) file() string { return filepath.Join(a.dir, createFile) }

// run finishes what is begun, or begins.
func (a *creating) run(ctx context.Context, cc *coordClient) error {
	begun, err := a.begun()
	if err != nil {
		return err
	}
	if begun == nil {
		if begun, err = a.begin(ctx, cc); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(a.p.err, "an account create was cut short here: it is finished now, with the recovery key that was printed then")
	}
	if err := cc.create(ctx, a.word.claim, begun.Records); err != nil {
		return a.failed(err)
	}
	return a.finish(cc, begun)
}

// failed is for a coordinator that has refused for good: what was begun is
// void. When nobody knows what became of it, it stays.
func (a *creating) failed(err error) error {
	switch codeOf(err) {
	case "claim-unknown", "signup-closed", "op-invalid", "stale-head", "time-future":
		os.Remove(a.file())
		return withHint(fmt.Errorf("no account was made, its recovery key is void: %w", err), "the coordinator prints a new COORD as long as it has no account")
	}
	return withHint(err, "run the same again: it goes on where this ended")
}

// begun returns what an earlier run has left.
func (a *creating) begun() (*newAccount, error) {
	b, err := os.ReadFile(a.file())
	if errors.Is(err, fs.ErrNotExist) {
		if pin, ok := a.trust.anchor(); ok {
			return nil, withHint(fmt.Errorf("this machine belongs to account %s already", acctWords(pin.acct)), "sessio trust reset makes it forget that; its identity stays")
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := new(newAccount)
	if err := json.Unmarshal(b, n); err != nil {
		return nil, withHint(fmt.Errorf("%s: %w", a.file(), err), "sessio trust reset forgets it")
	}
	if n.Coord != a.coord() {
		return nil, withHint(fmt.Errorf("an account create at %s was cut short here", n.Coord), "finish it with that word, or forget it: sessio trust reset")
	}
	return n, nil
}

// coord is the word without the claim, which is a secret.
func (a *creating) coord() string {
	w := a.word
	w.claim = claimSecret{}
	return w.String()
}

// begin makes the records and has them signed. The recovery key is on the
// terminal before they are on disk, and on disk it never is.
func (a *creating) begin(ctx context.Context, cc *coordClient) (*newAccount, error) {
	if err := a.p.checkClock(ctx, cc, a.force); err != nil {
		return nil, err
	}
	signer, err := openSigner(ctx, a.p, a.keyFile)
	if err != nil {
		return nil, err
	}
	recovery := newRecoveryKey()
	records, err := a.firstRecords(signer, recovery, a.p.now())
	if err != nil {
		return nil, err
	}
	if err := a.p.sayRecovery(recovery); err != nil {
		return nil, err
	}
	file, err := filepath.Abs(a.keyFile)
	if err != nil {
		return nil, err
	}
	n := &newAccount{a.coord(), records, file}
	b, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	return n, replaceFile(a.file(), append(b, '\n'), 0o600)
}

// sayRecovery prints the recovery key, once. It is not done unless it was
// written somewhere.
func (p *program) sayRecovery(k recoveryKey) error {
	_, err := fmt.Fprintf(p.out, "Recovery key, shown this once. Write it on paper and keep that safe:\n\n    %s\n\n", k)
	if err != nil {
		return fmt.Errorf("showing the recovery key: %w", err)
	}
	return nil
}

// firstRecords are genesis and this machine.
func (a *creating) firstRecords(signer sshStmtSigner, recovery recoveryKey, now time.Time) ([][]byte, error) {
	owner, err := newSSHSignerLine(signer.key.PublicKey(), "ds", ownerLabel())
	if err != nil {
		return nil, err
	}
	text, err := buildGenesis([]signerLine{owner, recovery.line()}, now)
	if err != nil {
		return nil, err
	}
	genesis, err := signRecord(text, signer)
	if err != nil {
		return nil, err
	}
	st, err := apply(nil, genesis, now)
	if err != nil {
		return nil, err
	}
	text, err = buildDeviceAdd(st, a.id.keys, newDeviceGrant(a.name, []string{"client"}, []string{"*"}, deviceCaps, 0), now)
	if err != nil {
		return nil, err
	}
	device, err := signRecord(text, signer)
	return [][]byte{genesis, device}, err
}

// ownerLabel is the label of the first signer: the local user's name.
func ownerLabel() string {
	if label := foldName(localLogin()); label != "" && label != recoveryLabel {
		return label
	}
	return "owner"
}

// finish pins the account here and says what is next.
func (a *creating) finish(cc *coordClient, n *newAccount) error {
	rec, err := parseRecord(n.Records[0])
	if err != nil {
		return err
	}
	keys, err := cc.coordKeys()
	if err != nil {
		return err
	}
	if err := a.trust.setAnchor(anchor{acctID(rec.hash), a.word.addr, keys}); err != nil {
		return err
	}
	if _, err := a.trust.add(n.Records...); err != nil {
		return err
	}
	if err := rememberSigner(a.dir, n.Signer); err != nil {
		return fmt.Errorf("remembering the signing key: %w", err)
	}
	if err := os.Remove(a.file()); err != nil {
		return err
	}
	dev, _ := a.trust.state().device(a.id.keys.deviceID())
	fmt.Fprintf(a.p.out, "account  %s\ndevice   %s (%s), a client\n", acctWords(acctID(rec.hash)), dev.name, dev.id)
	fmt.Fprintln(a.p.out, "next: sessio ticket -name NAME -roles server, for a machine that shall be entered")
	return nil
}
