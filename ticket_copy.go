package main

// This file keeps what a ticket promises: its secret, and what the device that
// joins by it shall be signed for.

import (
	"encoding/json"
	"errors"
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

// waitingName is what a device that waits for a signature is called: as our
// ticket says, else as it asks.
func waitingName(dir string, j pendingJoin) string {
	if t, err := loadTicket(dir, j.ticket); err == nil && t != nil && t.Grant.Name != "" {
		return t.Grant.Name
	}
	return j.name
}
