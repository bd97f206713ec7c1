package main

// This file checks an account's files from the ground up, with every signature.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A fsckReport says what fsck has read and what is wrong with it.
type fsckReport struct {
	records int // in the log, all sound up to here
	beside  int // verified records beside it
	found   []error
}

func (r *fsckReport) add(format string, args ...any) {
	r.found = append(r.found, fmt.Errorf(format, args...))
}

// fsck trusts nothing in memory and changes nothing on disk.
func (t *trustStore) fsck() (r fsckReport, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.locked(func() error {
		text, err := os.ReadFile(t.path("anchor"))
		if err != nil {
			return err
		}
		pin, err := parseAnchor(text)
		if err != nil {
			return err
		}
		tree := newTrustTree(pin.acct)
		tree.roomy = true
		t.fsckFile(&r, "log", tree, addAppended)
		r.records = len(tree.log)
		t.fsckFile(&r, "evidence", tree, addKept)
		r.beside = len(tree.order)
		t.fsckRest(&r, tree)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoAccount
	}
	return r, err
}

// fsckFile puts the records of a file into tree as if a stranger had sent them.
func (t *trustStore) fsckFile(r *fsckReport, name string, tree *trustTree, want addOutcome) {
	b, err := os.ReadFile(t.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		r.add("%w", err)
		return
	}
	raws, _, err := readEntries(bytes.NewReader(b), maxRecord)
	if err != nil {
		r.add("%s: %w", t.path(name), err)
		return
	}
	for i, raw := range raws {
		rec, parseErr := parseRecord(raw)
		if parseErr == nil && want == addKept && tree.find(rec.stmt.seq, rec.hash) != nil {
			continue // it has come into the log since
		}
		outcome, err := tree.add(raw, time.Time{})
		if err == nil {
			err = errors.New("it stands in the wrong place")
		}
		if outcome != want {
			r.add("%s, record %d: %w", t.path(name), i, err)
			return
		}
	}
}

// fsckRest compares what follows from the log with what is in use.
func (t *trustStore) fsckRest(r *fsckReport, tree *trustTree) {
	if t.tree != nil && tree.state.head() != t.tree.state.head() {
		r.add("the log on disk ends at statement %d, and this program uses it up to %d", tree.state.seq(), t.tree.state.seq())
	}
	if tree.view == nil {
		return
	}
	for name, body := range derivedTexts(tree.view) {
		text, err := os.ReadFile(filepath.Join(t.dir, name))
		if err != nil || !bytes.Equal(text, append(derivedHead(tree.view, body), body...)) {
			r.add("%s does not say what the log says", filepath.Join(t.dir, name))
		}
	}
}
