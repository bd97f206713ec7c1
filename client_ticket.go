package main

// This file makes tickets and keeps what they promise. The coordinator learns
// the hash of a ticket's secret and nothing else: what a device is signed for
// comes from the copy here.

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
	"time"
)

// keepTickets is how long a copy is kept: as long as its bearer may wait for a
// signature, and a day more.
const keepTickets = pendingLife + 24*time.Hour

// A ticketCopy is what this machine knows of a ticket that it made.
type ticketCopy struct {
	Secret string    `json:"secret"`
	Made   time.Time `json:"made"`
	Grant  grantWish `json:"grant"`

	secret ticketSecret
	file   string
}

func ticketFile(dir string, secret ticketSecret) string {
	hash := hashTicket(secret)
	return filepath.Join(dir, "tickets", base32Lower.EncodeToString(hash[:]))
}

func (t *ticketCopy) save(dir string) error {
	t.Secret, t.file = base32Lower.EncodeToString(t.secret[:]), ticketFile(dir, t.secret)
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(t.file), 0o700); err != nil {
		return err
	}
	return replaceFile(t.file, append(b, '\n'), 0o600)
}

// loadTicket finds the copy of the ticket with this hash; nil if it was not
// made here.
func loadTicket(dir string, hash ticketHash) (*ticketCopy, error) {
	file := filepath.Join(dir, "tickets", base32Lower.EncodeToString(hash[:]))
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t := &ticketCopy{file: file}
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if !decodeWord(t.secret[:], t.Secret) || hashTicket(t.secret) != hash {
		return nil, fmt.Errorf("%s: not the ticket that it should be", file)
	}
	return t, nil
}

// dropOldTickets removes copies that nobody can join by any more.
func dropOldTickets(dir string, now time.Time) {
	files, _ := filepath.Glob(filepath.Join(dir, "tickets", "*"))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && now.Sub(info.ModTime()) > keepTickets {
			os.Remove(f)
		}
	}
}

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
