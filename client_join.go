package main

// This file enrols machines. One that may sign makes a ticket: the coordinator
// learns the hash of its secret and nothing else, what a device is signed for
// comes from the copy kept here. The new one asks the coordinator to be let in,
// makes sure that the account shown is the one that the ticket pins, and waits
// for somebody to sign.

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
)

func ticketVerb() verb {
	return verb{
		name:    "ticket",
		usage:   "[-name N] [-roles LIST] [-users LIST] [-caps LIST] [-device-expires D]",
		summary: "a word by which one machine may ask to join, good for 15 minutes",
		more: `Without -roles the machine becomes a server; without -users it may be entered
as the login that runs join there. Nothing is signed yet: see trust sign.`,
		bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			dir, flags := dirFlag(f), declareGrant(f)
			return func(ctx context.Context, p *program, _ operands) error {
				wish, err := flags.wish()
				if err != nil {
					return err
				}
				return p.withState(dir, func(c *client) error { return p.makeTicket(ctx, c, wish) })
			}
		},
	}
}

func (p *program) makeTicket(ctx context.Context, c *client, wish grantWish) error {
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
	err := c.withCoord(ctx, func(cc *coordClient) error { return cc.ticket(ctx, pin.acct, t.secret, ticketLife) })
	if err != nil {
		os.Remove(t.file)
		return err
	}
	word := coordWord{addr: pin.coordAddr, keys: pin.coordKeys.coordID(), acct: pin.acct, secret: t.secret}
	fmt.Fprintf(p.out, "sessio join %s\n", word)
	fmt.Fprintf(p.err, "Run this on the new machine within %.0f minutes. It is good once; who has it may ask to join.\n", ticketLife.Minutes())
	return nil
}

func joinVerb() verb {
	return verb{
		name:    "join",
		usage:   "[-name N] [-no-wait] [-yes] TICKET",
		summary: "enrol this machine in the account that made the ticket",
		more: `Shows this machine's id, fingerprint and words, then waits until somebody signs
them with trust sign. The request stays when the wait is ended.`,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			name := f.String("name", "", "`name` to ask for, unless the ticket has one (default the host name)")
			noWait := f.Bool("no-wait", false, "leave as soon as the request is made")
			yes := f.Bool("yes", false, "do not ask whether the account is the right one")
			return func(ctx context.Context, p *program, o operands) error {
				word, err := o.one("TICKET")
				if err != nil {
					return err
				}
				j := &joining{p: p, yes: *yes, noWait: *noWait, name: *name}
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
	name        string
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
	if _, j.id, j.trust, err = j.p.openState(d); err != nil {
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
	if j.signed() {
		return j.done()
	}
	if j.noWait {
		fmt.Fprintln(j.p.out, "not signed yet; this machine may be left to itself: sessio -device waits for it too")
		return nil
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
	if dev.hasRole("server") {
		fmt.Fprintln(j.p.out, "now run: sessio -device")
	}
	return nil
}
