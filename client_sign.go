package main

// This file signs devices in. A device that asks to join is a claim of the
// coordinator's until its proof has been checked with the secret of a ticket
// made here, or until a person has compared the words.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// A candidate is a device that waits for a signature, and what is known of it.
type candidate struct {
	pendingJoin
	copy   *ticketCopy // of the ticket it came by; nil if not made here
	proved bool        // its bearer asked for exactly this
	wish   grantWish   // the copy's, else only the name that is claimed
}

func (c *candidate) id() deviceID { return c.keys.deviceID() }

// candidates lists who waits.
func (a *acting) candidates(ctx context.Context) ([]candidate, error) {
	joins, err := a.cc.pending(ctx, a.acct)
	if err != nil {
		return nil, err
	}
	return a.judgeJoins(joins)
}

// judgeJoins compares what the coordinator says with our own tickets.
func (a *acting) judgeJoins(joins []pendingJoin) (list []candidate, err error) {
	for _, j := range joins {
		c := candidate{pendingJoin: j, wish: grantWish{Name: j.name}}
		if c.copy, err = loadTicket(a.dir, j.ticket); err != nil {
			a.p.warn(err)
		}
		if c.copy != nil {
			c.proved = j.provedBy(c.copy.secret, a.acct)
			c.wish = c.copy.Grant.over(c.wish)
		}
		list = append(list, c)
	}
	sortBy(list, func(x, y candidate) int {
		return strings.Compare(x.wish.Name+string(x.id()), y.wish.Name+string(y.id()))
	})
	return list, nil
}

// say shows what a person compares before signing.
func (c *candidate) say(g deviceGrant, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  device       %s\n  fingerprint  %s\n  words        %s\n", g.name, c.id(), fingerprint(c.keys), c.keys.deviceWords())
	fmt.Fprintf(&b, "  asked        %s ago from %s\n", sayDuration(max(0, now.Sub(time.Unix(c.time, 0)))), c.addr)
	switch {
	case c.proved:
		fmt.Fprintf(&b, "  ticket       proved by your ticket of %s\n", c.copy.Made.Local().Format("15:04, 2 January"))
	case c.copy != nil:
		b.WriteString("  ticket       NOT PROVED: these are not the keys, name and login that your ticket's bearer asked for\n")
	default:
		b.WriteString("  ticket       not made here: compare the words with those on that machine\n")
	}
	fmt.Fprintf(&b, "  will be      %s\n", sayGrant(g.roles, g.users, g.caps, g.expires))
	return b.String()
}

func trustSignVerb() verb {
	return verb{
		name:    "trust sign",
		usage:   "[-key F | -passkey] [-print] [-name N] [-roles LIST] [-users LIST] [-caps LIST] [-device-expires D] [-force-time] NAME…",
		summary: "sign devices that wait; NAME is a name or a device id",
		more: `On a terminal it asks after showing fingerprint and words. Without one a single
NAME is consent, for a ticket made on this machine; any other device is then
named by its id. With -print the statement goes to standard output for
ssh-keygen -Y sign -n ` + stmtNamespace + `, on any machine; trust add hands it in.`,
		setup: func(f *flag.FlagSet) verbRun {
			s := &signing{dir: dirFlag(f), by: keyFlag(f), flags: declareGrant(f), force: forceTimeFlag(f)}
			s.print = f.Bool("print", false, "print the statement, sign nothing")
			return s.run
		},
	}
}

// A signing is trust sign as typed.
type signing struct {
	dir          stateDir
	by           signerChoice
	flags        grantFlags
	force, print *bool
}

func (s *signing) run(ctx context.Context, p *program, o operands) error {
	names := o.all()
	wish, err := s.flags.wish()
	switch {
	case err != nil:
		return err
	case len(names) == 0:
		return usageError("NAME is missing: sessio trust pending lists who waits")
	case len(names) > 1 && (*s.print || wish.Name != ""):
		return usageError("-print and -name are for one device at a time")
	case len(names) > 1 && !p.hasTerminal():
		return withHint(errors.New("several devices, and nobody to ask whether they are meant"), "without a terminal sign them one by one")
	}
	return p.act(ctx, s.dir, *s.force, func(ctx context.Context, a *acting) error {
		for _, name := range names {
			if err := s.one(ctx, a, name, wish); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}

// one signs the device that name means.
func (s *signing) one(ctx context.Context, a *acting, name string, wish grantWish) error {
	c, err := a.pick(ctx, name)
	if err != nil || c == nil {
		return err
	}
	grant, err := wish.over(c.wish).grant(c.login, a.p.now())
	if err != nil {
		return err
	}
	build := func(st *trustState) ([]byte, error) { return buildDeviceAdd(st, c.keys, grant, a.p.now()) }
	if *s.print {
		return a.printStatement(build, string(c.id()))
	}
	if err := a.mayBeSigned(c, name); err != nil {
		return err
	}
	key, err := a.signer(ctx, s.by, 'd')
	if err != nil {
		return err
	}
	err = a.submit(ctx, proposal{build: build, signers: []stmtSigner{key}, consent: func(ctx context.Context, _ []byte) (bool, error) {
		fmt.Fprint(a.p.err, c.say(grant, a.p.now()))
		if !a.p.hasTerminal() {
			return true, nil
		}
		return a.p.confirm(ctx, "sign "+grant.name+"?")
	}})
	if err != nil {
		return err
	}
	if c.copy != nil {
		os.Remove(c.copy.file)
	}
	fmt.Fprintf(a.p.out, "signed %s: %s\n", grant.name, sayGrant(grant.roles, grant.users, grant.caps, grant.expires))
	return nil
}

// pick finds who is meant. Nil without an error: the device is signed already,
// which has been said.
func (a *acting) pick(ctx context.Context, name string) (*candidate, error) {
	list, err := a.candidates(ctx)
	if err != nil {
		return nil, err
	}
	var found []*candidate
	var names []string
	for i := range list {
		if list[i].wish.Name == name || string(list[i].id()) == name {
			found = append(found, &list[i])
		}
		names = append(names, list[i].wish.Name)
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if len(found) > 1 {
		var ids []string
		for _, c := range found {
			ids = append(ids, string(c.id()))
		}
		return nil, withHint(fmt.Errorf("%d devices of that name wait", len(found)), "name the one you mean by its id: %s", strings.Join(ids, " or "))
	}
	if dev, err := findDevice(a.trust.state(), name); err == nil {
		fmt.Fprintf(a.p.out, "%s is signed already, by record %d\n", dev.name, dev.addedSeq)
		return nil, nil
	}
	if near := nearest(name, names); len(near) > 0 {
		return nil, withHint(errors.New("no such device waits for a signature"), "did you mean %s?", strings.Join(near, " or "))
	}
	return nil, withHint(errors.New("no such device waits for a signature"), "sessio trust pending lists who does")
}

// mayBeSigned refuses what nobody should sign, and asks for certainty where
// nobody can look.
func (a *acting) mayBeSigned(c *candidate, name string) error {
	if c.copy != nil && !c.proved {
		return withHint(coded("ticket-proof", "the coordinator shows other keys, name or login than your ticket's bearer asked for: not signed"),
			"somebody stands between you and that machine; make a new ticket, and look at the coordinator")
	}
	if !c.proved && !a.p.hasTerminal() && name != string(c.id()) {
		return withHint(errors.New("its ticket was not made here, so a person must compare its words"), "once that is done: sessio trust sign %s", c.id())
	}
	return nil
}

// signer opens the key that signs and makes sure that it has one of the powers
// at all, before anybody is asked for anything.
func (a *acting) signer(ctx context.Context, choice signerChoice, powers ...byte) (stmtSigner, error) {
	if wants, err := choice.wantsPasskey(a.dir); err != nil {
		return nil, err
	} else if wants {
		return a.passkeysOf(ctx, powers)
	}
	key, err := choice.open(ctx, a.p, a.dir)
	if err != nil {
		return nil, err
	}
	m, ok := a.trust.state().member(key.id())
	if !ok {
		return nil, withHint(coded("no-power", "this key is no signer of the account"), "sessio trust signer list shows them")
	}
	if !slices.ContainsFunc(powers, m.can) {
		return nil, coded("no-power", "signer %s has the powers %q and may not sign this", m.label, m.powers)
	}
	return key, nil
}

// printStatement writes a statement for ssh-keygen on another machine.
func (a *acting) printStatement(build func(*trustState) ([]byte, error), what string) error {
	text, err := build(a.trust.state())
	if err != nil {
		return err
	}
	if _, err := a.p.out.Write(text); err != nil {
		return err
	}
	fmt.Fprintf(a.p.err, "statement about %s. Keep it in a file, sign it where the key is, hand it in here:\n", what)
	fmt.Fprintf(a.p.err, "  ssh-keygen -Y sign -f KEY -n %s FILE\n  sessio trust add FILE.sig\n", stmtNamespace)
	return nil
}

func accountSigninVerb() verb {
	return verb{name: "account sign-in", usage: "[-key F | -passkey | -recovery]", summary: "the address at which a passkey is made that opens the coordinator's page",
		more: `The page shows devices and makes tickets; it can sign nothing unless a passkey
that signs was made there too. Whoever may sign for signers, or has the recovery
key, may let a passkey sign in. The address is good once, for 15 minutes.`,
		bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			dir, by := dirFlag(f), signerFlags(f)
			return func(ctx context.Context, p *program, _ operands) error {
				return p.withAccount(ctx, dir, func(ctx context.Context, a *acting) error {
					key, err := a.signer(ctx, by, 's', 'r')
					if err != nil {
						return err
					}
					url, err := a.cc.enrol(ctx, a.acct, key)
					if err != nil {
						return fmt.Errorf("asking the coordinator: %w", err)
					}
					fmt.Fprintf(p.err, "Open this within 15 minutes in the browser that shall sign in; it is good once, and shows the account's words:\n  %s\n", acctWords(a.acct))
					_, err = fmt.Fprintln(p.out, printable(url))
					return err
				})
			}
		}}
}

func trustPendingVerb() verb {
	return verb{name: "trust pending", usage: "[-json]", summary: "who waits for a signature, with fingerprint and words", bare: true, setup: func(f *flag.FlagSet) verbRun {
		dir := dirFlag(f)
		asJSON := f.Bool("json", false, "one JSON object a line")
		return func(ctx context.Context, p *program, _ operands) error {
			return p.withAccount(ctx, dir, func(ctx context.Context, a *acting) error {
				list, err := a.candidates(ctx)
				if err != nil {
					return err
				}
				return a.listPending(list, *asJSON)
			})
		}
	}}
}

// A pendingLine is one line of trust pending -json.
type pendingLine struct {
	Name        string    `json:"name"`
	Device      deviceID  `json:"device"`
	Fingerprint string    `json:"fingerprint"`
	Words       string    `json:"words"`
	Login       string    `json:"login"`
	Proved      bool      `json:"proved"`
	Asked       time.Time `json:"asked"`
	Addr        string    `json:"addr"`
}

func (a *acting) listPending(list []candidate, asJSON bool) error {
	if len(list) == 0 && !asJSON {
		fmt.Fprintln(a.p.err, "nobody waits for a signature")
	}
	for _, c := range list {
		if asJSON {
			line := pendingLine{c.wish.Name, c.id(), fingerprint(c.keys), c.keys.deviceWords(), c.login, c.proved, time.Unix(c.time, 0).UTC(), c.addr.String()}
			if err := writeLine(a.p.out, line); err != nil {
				return err
			}
			continue
		}
		grant, err := c.wish.grant(c.login, a.p.now())
		if err != nil {
			grant = deviceGrant{name: c.wish.Name, roles: []string{"server"}}
		}
		if _, err := a.p.out.WriteString(c.say(grant, a.p.now())); err != nil {
			return err
		}
	}
	return nil
}
