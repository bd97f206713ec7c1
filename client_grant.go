package main

// This file knows what a device shall be allowed: by the flags of ticket, trust
// sign and trust update, and by the ticket that it joins with, of which the
// machine that made it keeps the secret and the wish.

import (
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

// grantFlags are the flags as typed; nil or "" where not given.
type grantFlags struct {
	name, roles, users, caps *string
	expires                  *time.Duration
	given                    func(name string) bool
}

func declareGrant(f *flag.FlagSet) grantFlags {
	return grantFlags{
		name:    f.String("name", "", "`name` of the device"),
		roles:   f.String("roles", "", "server (may be entered), client (may enter others) or both: a `list` with commas"),
		users:   f.String("users", "", "`logins` that may be taken on a server, with commas; * is any"),
		caps:    f.String("caps", "", "what may be done there, a `list` of "+strings.Join(deviceCaps, ",")),
		expires: f.Duration("device-expires", 0, "the signature is good for this `duration`, such as 8760h; 0 is for ever"),
		given: func(name string) (given bool) {
			f.Visit(func(fl *flag.Flag) { given = given || fl.Name == name })
			return given
		},
	}
}

// wish checks the flags.
func (g grantFlags) wish() (w grantWish, err error) {
	w.Name, w.Expires = *g.name, *g.expires
	for name, value := range map[string]string{"name": w.Name, "roles": *g.roles, "users": *g.users, "caps": *g.caps} {
		if value == "" && g.given(name) {
			return w, usageError("-%s is empty: to leave it as it is, leave it out", name)
		}
	}
	if w.Name != "" && !validName(w.Name) {
		return w, usageError("-name %q: a-z, 0-9 and dashes, at most 32, no dash at either end", w.Name)
	}
	if w.Expires < 0 {
		return w, usageError("-device-expires %v lies in the past", w.Expires)
	}
	if w.Roles, err = splitList("roles", *g.roles, oneOf(deviceRoles)); err != nil {
		return w, err
	}
	if w.Caps, err = splitList("caps", *g.caps, oneOf(deviceCaps)); err != nil {
		return w, err
	}
	w.Users, err = splitList("users", *g.users, func(s string) bool { return s == "*" || validLogin(s) })
	return w, err
}

// splitList reads words separated by commas.
func splitList(flag, value string, valid func(string) bool) ([]string, error) {
	if value == "" {
		return nil, nil
	}
	list := strings.Split(value, ",")
	for _, s := range list {
		if !valid(s) {
			return nil, usageError("-%s %q: %q is not allowed there", flag, value, s)
		}
	}
	return list, nil
}

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

// waitingName is what a device that waits for a signature is called: as our
// ticket says, else as it asks.
func waitingName(dir string, j pendingJoin) string {
	if t, err := loadTicket(dir, j.ticket); err == nil && t != nil && t.Grant.Name != "" {
		return t.Grant.Name
	}
	return j.name
}
