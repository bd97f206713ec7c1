package main

// This file makes tickets. The coordinator learns the hash of a ticket's secret
// and nothing else: what a device is signed for comes from the copy here.

import (
	"context"
	"crypto/rand"
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
		setup: func(f *flag.FlagSet) verbRun {
			dir, flags := dirFlag(f), declareGrant(f)
			return func(ctx context.Context, p *program, o operands) error {
				if err := o.none(); err != nil {
					return err
				}
				wish, err := flags.wish()
				if err != nil {
					return err
				}
				return p.makeTicket(ctx, dir, wish)
			}
		},
	}
}

func (p *program) makeTicket(ctx context.Context, d stateDir, wish grantWish) error {
	c, err := p.openClient(d, false)
	if err != nil {
		return err
	}
	defer c.close()
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
	err = c.withCoord(ctx, func(cc *coordClient) error { return cc.ticket(ctx, pin.acct, t.secret, ticketLife) })
	if err != nil {
		os.Remove(t.file)
		return err
	}
	word := coordWord{addr: pin.coordAddr, keys: pin.coordKeys.coordID(), acct: pin.acct, secret: t.secret}
	fmt.Fprintf(p.out, "sessio join %s\n", word)
	fmt.Fprintf(p.err, "Run this on the new machine within %.0f minutes. It is good once; who has it may ask to join.\n", ticketLife.Minutes())
	return nil
}
