package main

// This file brings machines into an account.
//
// The first makes the account: its first statement, signed by the owner's key,
// and its first device, this machine. What it does it can do again: before the
// coordinator hears of it, the signed records are on disk here, and a create
// that was cut short anywhere is finished by the same words.
//
// For any other a machine that may sign makes a ticket: the coordinator learns
// the hash of its secret and nothing else, what a device is signed for comes from
// the copy kept here. The new machine asks the coordinator to be let in, makes
// sure that the account shown is the one that the ticket pins, and waits for
// somebody to sign.

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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
		usage:   "-key F | -passkey [-name N] [-force-time] COORD",
		summary: "make an account; this machine becomes its first device, a client",
		more: `COORD is the word that the coordinator prints at its first start. F is an SSH
key (ed25519, ecdsa on P-256, or one of their security keys): it signs who
belongs to the account. F.pub means that key in the ssh-agent. With -passkey a
passkey does, made on a page that this program serves. The recovery key is
printed once: it is the way back when every signing key is lost.`,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			key := f.String("key", "", "the owner's key, a `file`; FILE.pub: that key in the ssh-agent")
			name := f.String("name", "", "`name` of this machine (default the host name)")
			passkey := passkeyFlag(f)
			force := forceTimeFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				word, err := o.one("COORD")
				if err != nil {
					return err
				}
				a := &creating{p: p, keyFile: *key, passkey: *passkey, name: *name, force: *force}
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
	passkey       bool
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
	if n := count(a.keyFile != "", a.passkey); n == 0 {
		return withHint(usageError("-key is missing: the owner's SSH key"), "ssh-keygen -t ed25519 makes one; or sign with a passkey: -passkey")
	} else if n > 1 {
		return usageError("-key or -passkey, not both")
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
	signer, owner, file, err := a.owner(ctx)
	if err != nil {
		return nil, err
	}
	recovery := newRecoveryKey()
	records, err := a.firstRecords(signer, owner, recovery, a.p.now())
	if err != nil {
		return nil, err
	}
	if err := a.p.sayRecovery(ctx, recovery); err != nil {
		return nil, err
	}
	n := &newAccount{a.coord(), records, file}
	b, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	return n, replaceFile(a.file(), append(b, '\n'), 0o600)
}

// sayRecovery prints the recovery key, once, and at a terminal asks how it ends:
// it is not done unless it was written somewhere.
func (p *program) sayRecovery(ctx context.Context, k recoveryKey) error {
	_, err := fmt.Fprintf(p.out, "Recovery key, shown this once. Write it on paper and keep that safe:\n\n    %s\n\n", k)
	if err != nil {
		return fmt.Errorf("showing the recovery key: %w", err)
	}
	if !p.hasTerminal() {
		return nil
	}
	end := strings.ReplaceAll(k.String()[len(k.String())-9:], "-", "")
	for {
		fmt.Fprint(p.err, "its last two groups, from the paper: ")
		line, err := p.ask(ctx, func() ([]byte, error) { return readLine(p.in) })
		if err != nil {
			return fmt.Errorf("asking for the recovery key's end: %w", err)
		}
		if strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(strings.TrimSpace(string(line)))) == end {
			return nil
		}
		fmt.Fprintln(p.err, "that is not how it ends")
	}
}

// owner opens the first signer, or has it made; file is what is remembered of it.
func (a *creating) owner(ctx context.Context) (signer stmtSigner, line signerLine, file string, err error) {
	if a.passkey {
		signer, line, err = a.p.newPasskey(ctx, "ds", ownerLabel(), nil)
		return signer, line, passkeyWord, err
	}
	if signer, line, err = openSignerLine(ctx, a.p, a.keyFile, "ds", ownerLabel()); err != nil {
		return nil, line, "", err
	}
	file, err = filepath.Abs(a.keyFile)
	return signer, line, file, err
}

// firstRecords are genesis and this machine.
func (a *creating) firstRecords(signer stmtSigner, owner signerLine, recovery recoveryKey, now time.Time) ([][]byte, error) {
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

func ticketVerb() verb {
	return verb{
		name:    "ticket",
		usage:   "[-name N] [-roles LIST] [-users LIST] [-caps LIST] [-categories LIST] [-device-expires D]",
		summary: "a word by which one machine may ask to join, good for 15 minutes",
		more: `Without -roles the machine becomes a server; without -users it may be entered
as the login that runs join there. Nothing is signed yet: see trust sign.`,
		bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			dir, flags := dirFlag(f), declareGrant(f)
			categories := f.String("categories", "", "`names` by which the coordinator sorts it, with commas; unsigned")
			return func(ctx context.Context, p *program, _ operands) error {
				wish, err := flags.wish()
				if err != nil {
					return err
				}
				sorted, err := splitList("categories", *categories, validName)
				if err != nil {
					return err
				}
				if len(sorted) > maxCategories {
					return usageError("-categories: %d names, at most %d", len(sorted), maxCategories)
				}
				return p.withState(dir, func(c *client) error { return p.makeTicket(ctx, c, wish, sorted) })
			}
		},
	}
}

func (p *program) makeTicket(ctx context.Context, c *client, wish grantWish, categories []string) error {
	dropOldTickets(c.dir, p.now())
	if _, taken := c.trust.state().deviceByName(wish.Name); taken && wish.Name != "" {
		return withHint(fmt.Errorf("there is a device %s already", wish.Name), "choose another name, or revoke that one first")
	}
	t := &ticketCopy{Made: p.now().UTC(), Grant: wish}
	rand.Read(t.secret[:]) // never fails since Go 1.24
	if err := t.save(c.dir); err != nil {
		return fmt.Errorf("keeping the ticket: %w", err)
	}
	pin, _ := c.trust.anchor()
	word := coordWord{addr: pin.coordAddr, keys: pin.coordKeys.coordID(), acct: pin.acct, secret: t.secret}
	var lines []string
	err := c.withCoord(ctx, func(cc *coordClient) error {
		if err := cc.ticket(ctx, pin.acct, t.secret, ticketLife, categories); err != nil {
			return err
		}
		if who, err := cc.whoami(ctx); err == nil { // the ticket is good without
			lines = installLines(who.url, who.set, word.String())
		}
		return nil
	})
	if err != nil {
		os.Remove(t.file)
		return err
	}
	fmt.Fprintf(p.out, "sessio join %s\n", word)
	for _, line := range lines {
		fmt.Fprintln(p.out, line)
	}
	fmt.Fprintf(p.err, "Run this on the new machine within %.0f minutes. It is good once; who has it may ask to join.\n", ticketLife.Minutes())
	if lines != nil {
		fmt.Fprintln(p.err, "The other lines are for a machine without sessio: they install what this coordinator hands out, and join (sudo sh: for all its users).")
	}
	return nil
}

func joinVerb() verb {
	return verb{
		name:    "join",
		usage:   "[-name N] [-no-wait] [-yes] [-install] TICKET",
		summary: "enrol this machine in the account that made the ticket",
		more: `Shows this machine's id, fingerprint and words, then waits until somebody signs
them with trust sign. The request stays when the wait is ended.`,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			name := f.String("name", "", "`name` to ask for, unless the ticket has one (default the host name)")
			noWait := f.Bool("no-wait", false, "leave as soon as the request is made")
			yes := f.Bool("yes", false, "do not ask whether the account is the right one")
			install := f.Bool("install", false, "then have this system run sessio -device, as sessio install does")
			return func(ctx context.Context, p *program, o operands) error {
				word, err := o.one("TICKET")
				if err != nil {
					return err
				}
				j := &joining{p: p, yes: *yes, noWait: *noWait, install: *install, name: *name}
				if err := j.read(dir, word); err != nil {
					return err
				}
				return interruptible(ctx, j.run)
			}
		},
	}
}

// A joining is one machine's way into an account.
type joining struct {
	p           *program
	yes, noWait bool
	install     bool
	failed      error // what became of that
	name        string
	dir         string
	word        coordWord
	id          *identity
	trust       *trustStore
}

// read checks what was typed and opens the state directory.
func (j *joining) read(d stateDir, word string) (err error) {
	if j.word, err = parseCoordWord(word); err != nil {
		return usageError("TICKET: %w", err)
	}
	if !j.word.isTicket() {
		return withHint(usageError("this is no ticket: its secret is missing"), "sessio ticket makes one, on a machine of the account")
	}
	if j.name == "" {
		host, _ := os.Hostname()
		j.name = foldName(host)
	} else if !validName(j.name) {
		return usageError("-name %q: a-z, 0-9 and dashes, at most 32, no dash at either end", j.name)
	}
	if j.dir, j.id, j.trust, err = j.p.openState(d); err != nil {
		return err
	}
	if pin, ok := j.trust.anchor(); ok && pin.acct != j.word.acct {
		return withHint(coded("wrong-account", "this machine belongs to account %s, the ticket is of %s", acctWords(pin.acct), acctWords(j.word.acct)),
			"sessio trust reset makes it forget the account; its identity stays")
	}
	return nil
}

func (j *joining) run(ctx context.Context) error {
	ok, err := j.agreed(ctx)
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("this machine has joined nothing")
	}
	if err := withCoordAt(ctx, j.id, j.word.addr, j.word.keys, func(cc *coordClient) error { return j.enter(ctx, cc) }); err != nil {
		return err
	}
	j.show()
	if j.install {
		// A wait may be cut short; the service waits for the signature too.
		if j.failed = installDevice(j.p.out, j.dir); j.failed != nil {
			sayError(j.p.err, "sessio install", j.failed)
			j.failed = &exitError{status: 1} // it is said, and now the signature is waited for
		}
	}
	if j.signed() {
		return j.done()
	}
	if j.noWait {
		fmt.Fprintln(j.p.out, "not signed yet; this machine may be left to itself: sessio -device waits for it too")
		return j.failed
	}
	return j.wait(ctx)
}

// agreed asks on a terminal whether the account is meant.
func (j *joining) agreed(ctx context.Context) (bool, error) {
	if j.yes || !j.p.hasTerminal() {
		return true, nil
	}
	fmt.Fprintf(j.p.err, "account      %s\ncoordinator  %s\n", acctWords(j.word.acct), j.word.addr)
	return j.p.confirm(ctx, "let the owner of this account decide who may enter this machine?")
}

// enter asks to join, and pins account and coordinator once the log has proved
// to be that account's.
func (j *joining) enter(ctx context.Context, cc *coordClient) error {
	if _, err := cc.join(ctx, j.id.keys, j.word.acct, j.word.secret, j.name, loginToJoin()); err != nil {
		return fmt.Errorf("joining: %w", err)
	}
	keys, err := cc.coordKeys()
	if err != nil {
		return err
	}
	genesis, err := cc.fetchGenesis(ctx, j.word.acct, nil)
	if err != nil {
		return fmt.Errorf("fetching the log: %w", err)
	}
	if err := j.checkGenesis(genesis); err != nil {
		return err
	}
	if err := j.trust.setAnchor(anchor{j.word.acct, j.word.addr, keys}); err != nil {
		return err
	}
	return fetchInto(ctx, cc, j.trust)
}

// checkGenesis compares the account that the coordinator shows with the one
// that the ticket pins.
func (j *joining) checkGenesis(rec *trustRecord) error {
	if got := acctID(rec.hash); got != j.word.acct {
		return withHint(coded("wrong-account", "WRONG ACCOUNT: the coordinator shows %s, the ticket pins %s; this machine has joined nothing",
			acctWords(got), acctWords(j.word.acct)), "somebody stands between you and your account: do not sign anything, look at the coordinator")
	}
	return nil
}

// loginToJoin is the login that a server is entered as unless the ticket says
// otherwise; "" where the name is none that the log could hold.
func loginToJoin() string {
	if login := localLogin(); validLogin(login) {
		return login
	}
	return ""
}

func (j *joining) signed() bool {
	st := j.trust.state()
	if st == nil {
		return false
	}
	dev, ok := st.device(j.id.keys.deviceID())
	return ok && !dev.revoked
}

// show prints what the signer must see on the other machine.
func (j *joining) show() {
	fmt.Fprintf(j.p.out, "device       %s\nfingerprint  %s\nwords        %s\naccount      %s\n",
		j.id.keys.deviceID(), fingerprint(j.id.keys), j.id.keys.deviceWords(), acctWords(j.word.acct))
}

// wait keeps presence at the coordinator, which sends news of the log, until
// the signature is there.
func (j *joining) wait(ctx context.Context) error {
	fmt.Fprintln(j.p.out, "on a machine that can sign: sessio trust pending, then sessio trust sign NAME if the words agree")
	fmt.Fprintln(j.p.out, "waiting for the signature (^C leaves, the request stays) …")
	news := make(chan struct{}, 1)
	stop := j.trust.watch(func(_, _ *trustState) {
		select {
		case news <- struct{}{}:
		default:
		}
	})
	defer stop()
	n, err := openNode(ctx, nodeConfig{id: j.id, trust: j.trust, beat: true, logf: func(int, string, ...any) {}})
	if err != nil {
		return err
	}
	defer n.close()
	for !j.signed() {
		select {
		case <-news:
		case <-ctx.Done():
			return endedBy(ctx)
		}
	}
	return j.done()
}

func (j *joining) done() error {
	dev, _ := j.trust.state().device(j.id.keys.deviceID())
	fmt.Fprintf(j.p.out, "signed as %s: %s\n", dev.name, sayGrant(dev.roles, dev.users, dev.caps, dev.expires))
	if dev.hasRole("server") && (!j.install || j.failed != nil) {
		fmt.Fprintln(j.p.out, "now run: sessio -device\nor have it started at every boot: sessio install")
	}
	return j.failed
}
