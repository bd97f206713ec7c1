package main

// This file shows the log and changes what is in it: records by hand, devices
// revoked and updated, this machine's copy checked or forgotten.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func trustLogVerb() verb {
	return verb{name: "trust log", usage: "[-json]", summary: "every record of the account's log", bare: true, setup: func(f *flag.FlagSet) verbRun {
		dir := dirFlag(f)
		asJSON := f.Bool("json", false, "one JSON object a line")
		return func(ctx context.Context, p *program, _ operands) error {
			return p.withState(dir, func(c *client) error { return p.showLog(c.trust, *asJSON) })
		}
	}}
}

// A logLine is one record of trust log -json.
type logLine struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Op      string    `json:"op"`
	About   []string  `json:"about,omitempty"`
	Signers []string  `json:"signers"`
	Hash    string    `json:"hash"`
}

func (p *program) showLog(t *trustStore, asJSON bool) error {
	labels := map[signerID]string{}
	for _, raw := range t.records(0, maxRecords) {
		rec, err := parseRecord(raw)
		if err != nil {
			return err
		}
		for _, l := range rec.stmt.newSigners() {
			labels[l.id] = l.label
		}
		line := logLine{Seq: rec.stmt.seq, Time: time.Unix(rec.stmt.time, 0).UTC(), Op: rec.stmt.op, About: aboutStatement(rec.stmt), Hash: fmt.Sprintf("%x", rec.hash)}
		for _, sig := range rec.sigs {
			if label := labels[sig.claimed]; label != "" {
				line.Signers = append(line.Signers, label)
			} else {
				line.Signers = append(line.Signers, string(sig.claimed))
			}
		}
		if asJSON {
			err = writeLine(p.out, line)
		} else {
			_, err = fmt.Fprintf(p.out, "%4d  %s  %-14s %s  by %s\n", line.Seq, line.Time.Format(time.RFC3339), line.Op, strings.Join(line.About, ", "), strings.Join(line.Signers, ", "))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// aboutStatement says whom a statement is about.
func aboutStatement(st *statement) (about []string) {
	switch b := st.body.(type) {
	case opDeviceAdd:
		return []string{b.grant.name, string(b.device), sayGrant(b.grant.roles, b.grant.users, b.grant.caps, b.grant.expires)}
	case opDeviceUpdate:
		return []string{b.grant.name, string(b.device), sayGrant(b.grant.roles, b.grant.users, b.grant.caps, b.grant.expires)}
	case opDeviceRevoke:
		about = append(about, b.reason)
		for _, id := range b.devices {
			about = append(about, string(id))
		}
	case opSignerRemove:
		return []string{string(b.signer), fmt.Sprintf("since %d", b.since)}
	}
	for _, l := range st.newSigners() {
		about = append(about, fmt.Sprintf("%s %s (%s)", l.powers, l.label, l.id))
	}
	return about
}

func trustAddVerb() verb {
	return verb{
		name:    "trust add",
		usage:   "FILE.sig…",
		summary: "hand in a statement that ssh-keygen -Y sign has signed",
		more: `The statement is read from FILE, as trust sign -print wrote it; further
signatures of the same statement may follow.`,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				files := o.all()
				if len(files) == 0 {
					return usageError("FILE.sig is missing")
				}
				record, err := readSigned(files)
				if err != nil {
					return err
				}
				return p.withAccount(ctx, dir, func(ctx context.Context, a *acting) error {
					if _, err := a.handInOn(ctx, a.trust.state(), record); err != nil {
						return err
					}
					fmt.Fprintf(p.out, "record %d is in the log\n", a.trust.state().seq())
					return nil
				})
			}
		},
	}
}

// readSigned joins a statement and its signature files.
func readSigned(files []string) ([]byte, error) {
	name, ok := strings.CutSuffix(files[0], ".sig")
	if !ok {
		return nil, usageError("%q does not end in .sig", files[0])
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, withHint(fmt.Errorf("the statement: %w", err), "it stands beside its signature, under the same name without .sig")
	}
	var sigs []recordSig
	for _, file := range files {
		armored, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		sig, err := readSSHKeygenSig(text, armored)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		sigs = append(sigs, sig)
	}
	return newRecord(text, sigs)
}

func trustRevokeVerb() verb {
	return verb{name: "trust revoke", usage: "[-reason lost|stolen|retired] [-key F | -passkey | -recovery] [-force-time] NAME…", summary: "throw devices out, for ever", setup: func(f *flag.FlagSet) verbRun {
		dir, by, force := dirFlag(f), signerFlags(f), forceTimeFlag(f)
		reason := f.String("reason", "lost", "`why`: lost, stolen or retired")
		return func(ctx context.Context, p *program, o operands) error {
			names := o.all()
			if len(names) == 0 {
				return usageError("NAME is missing")
			}
			if !slices.Contains(revokeReasons, *reason) {
				return usageError("-reason %q is not lost, stolen or retired", *reason)
			}
			return p.act(ctx, dir, *force, func(ctx context.Context, a *acting) error { return a.revoke(ctx, by, names, *reason) })
		}
	}}
}

func (a *acting) revoke(ctx context.Context, by signerChoice, names []string, reason string) error {
	var ids []deviceID
	for _, name := range names {
		dev, err := findDevice(a.trust.state(), name)
		if a.trust.state().suspended(dev.id) {
			fmt.Fprintf(a.p.err, "%s: %v; revoking it in this one\n", dev.name, err)
		} else if codeOf(err) == "revoked" {
			fmt.Fprintf(a.p.out, "%s is revoked already, by record %d\n", dev.name, dev.revokedSeq)
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		ids = append(ids, dev.id)
	}
	if len(ids) == 0 {
		return nil
	}
	key, err := a.signer(ctx, by, 'd', 's', 'r')
	if err != nil {
		return err
	}
	err = a.submit(ctx, proposal{
		build:   func(st *trustState) ([]byte, error) { return buildDeviceRevoke(st, ids, reason, a.p.now()) },
		consent: a.agree, signers: []stmtSigner{key},
	})
	if err == nil {
		fmt.Fprintf(a.p.out, "revoked: %s\n", strings.Join(names, ", "))
	}
	return err
}

func trustUpdateVerb() verb {
	return verb{
		name:    "trust update",
		usage:   "[-name N] [-roles LIST] [-users LIST] [-caps LIST] [-device-expires D] [-key F | -passkey] [-force-time] NAME",
		summary: "change what a device is signed for; what is not named stays",
		setup: func(f *flag.FlagSet) verbRun {
			dir, by, flags, force := dirFlag(f), keyFlag(f), declareGrant(f), forceTimeFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				name, err := o.one("NAME")
				if err != nil {
					return err
				}
				wish, err := flags.wish()
				if err != nil {
					return err
				}
				if wish.empty() && !flags.given("device-expires") {
					return usageError("what shall change? -name, -roles, -users, -caps or -device-expires")
				}
				return p.act(ctx, dir, *force, func(ctx context.Context, a *acting) error {
					return a.update(ctx, by, name, wish, flags.given("device-expires"))
				})
			}
		},
	}
}

func (a *acting) update(ctx context.Context, by signerChoice, name string, wish grantWish, newExpiry bool) error {
	dev, err := findDevice(a.trust.state(), name)
	if dev.reason == reasonUndone && a.trust.state().suspended(dev.id) {
		fmt.Fprintf(a.p.err, "%s: %v; confirming it\n", dev.name, err)
	} else if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	grant, err := wish.over(grantWish{Name: dev.name, Roles: dev.roles, Users: dev.users, Caps: dev.caps}).grant("", a.p.now())
	if err != nil {
		return err
	}
	if !newExpiry {
		grant.expires = dev.expires
	}
	key, err := a.signer(ctx, by, 'd')
	if err != nil {
		return err
	}
	err = a.submit(ctx, proposal{
		build:   func(st *trustState) ([]byte, error) { return buildDeviceUpdate(st, dev.id, grant, a.p.now()) },
		consent: a.agree, signers: []stmtSigner{key},
	})
	if err == nil {
		fmt.Fprintf(a.p.out, "%s: %s\n", grant.name, sayGrant(grant.roles, grant.users, grant.caps, grant.expires))
	}
	return err
}

func trustExportVerb() verb {
	return verb{
		name:    "trust export",
		usage:   "[-o DIR] SEQ",
		summary: "write a record as files that ssh-keygen -Y verify can check",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			to := f.String("o", ".", "`directory` for statement, statement.sig and allowed_signers")
			return func(ctx context.Context, p *program, o operands) error {
				word, err := o.one("SEQ")
				if err != nil {
					return err
				}
				seq, err := strconv.ParseUint(word, 10, 64)
				if err != nil {
					return usageError("SEQ %q is no number of a record", word)
				}
				return p.withState(dir, func(c *client) error { return p.exportRecord(c.trust, seq, *to) })
			}
		},
	}
}

func (p *program) exportRecord(t *trustStore, seq uint64, to string) error {
	records := t.records(seq, seq)
	if len(records) == 0 {
		return withHint(fmt.Errorf("the log has no record %d", seq), "sessio trust log lists them")
	}
	files, left, err := exportRecord(t.state(), records[0])
	if err != nil {
		return err
	}
	for _, id := range left {
		p.warn(fmt.Errorf("signature of %s: %w; sessio trust fsck checks it", id, errNoSSHForm))
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := replaceFile(filepath.Join(to, name), content, 0o644); err != nil {
			return err
		}
	}
	signer, _, ok := strings.Cut(string(files["allowed_signers"]), " ")
	if !ok {
		return nil
	}
	fmt.Fprintf(p.out, "ssh-keygen -Y verify -n %s -f allowed_signers -I %s -s statement.sig < statement\n", stmtNamespace, signer)
	return nil
}

func trustFsckVerb() verb {
	return verb{name: "trust fsck", summary: "check this machine's copy of the log, every signature of it", bare: true, setup: func(f *flag.FlagSet) verbRun {
		dir := dirFlag(f)
		return func(_ context.Context, p *program, _ operands) error {
			return p.withState(dir, func(c *client) error { return p.checkLog(c.trust) })
		}
	}}
}

func (p *program) checkLog(t *trustStore) error {
	r, err := t.fsck()
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "%d records, %d beside the log\n", r.records, r.beside)
	for _, found := range r.found {
		p.warn(found)
	}
	if len(r.found) > 0 {
		return fmt.Errorf("fsck: %d faults", len(r.found))
	}
	return nil
}

func trustResetVerb() verb {
	return verb{
		name:    "trust reset",
		summary: "forget this machine's account, after a yes; the identity stays",
		more:    "Without a terminal the yes is a line of standard input.",
		bare:    true,
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			return func(ctx context.Context, p *program, _ operands) error {
				ctx, stop := untilSignal(ctx)
				defer stop()
				return p.resetTrust(ctx, dir)
			}
		},
	}
}

func (p *program) resetTrust(ctx context.Context, d stateDir) error {
	dir, err := d.path()
	if err != nil {
		return err
	}
	t, err := openTrustStore(dir, p.now)
	if err != nil {
		return err
	}
	what := "an account create that was cut short"
	if pin, ok := t.anchor(); ok {
		what = "account " + acctWords(pin.acct)
	} else if _, err := os.Stat(filepath.Join(dir, createFile)); err != nil {
		return errors.New("this machine belongs to no account: there is nothing to forget")
	}
	yes, err := p.confirm(ctx, "forget "+what+"?")
	if err != nil {
		return err
	}
	if !yes {
		return &exitError{1, errors.New("nothing was forgotten")}
	}
	if err := t.reset(); err != nil {
		return err
	}
	for _, name := range []string{createFile, signerFile, reachedName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	fmt.Fprintf(p.out, "forgotten: %s\n", what)
	return os.RemoveAll(filepath.Join(dir, "tickets"))
}
