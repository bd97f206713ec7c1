package main

// This file is how a verb changes the account: it brings this machine's copy
// of the log up to date, has the person agree and sign, and hands the record
// in. It signs nothing that the person has not seen in its final form. The key is
// in a file, in an ssh-agent, or the recovery key from paper.

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// signerFile, in the state directory, holds the path of the key that account
// create was given: the one that signs unless another is named.
const signerFile = "signer"

// A signerChoice is what the flags say about who signs.
type signerChoice struct {
	key      *string
	passkey  *bool
	recovery *bool
}

// keyFlag is for statements that the recovery key cannot sign.
func keyFlag(f *flag.FlagSet) signerChoice {
	return signerChoice{
		key:      f.String("key", "", "sign with the key in `file`; FILE.pub: with that key in the ssh-agent (default the one of account create)"),
		passkey:  passkeyFlag(f),
		recovery: new(bool),
	}
}

func signerFlags(f *flag.FlagSet) signerChoice {
	c := keyFlag(f)
	c.recovery = f.Bool("recovery", false, "sign with the recovery key, which is asked for")
	return c
}

func passkeyFlag(f *flag.FlagSet) *bool {
	return f.Bool("passkey", false, "sign with a passkey, on a page that this program serves")
}

// wantsPasskey reports whether a passkey shall sign: it is asked for, or nothing
// else is and this machine remembers that.
func (c signerChoice) wantsPasskey(dir string) (bool, error) {
	if n := count(*c.key != "", *c.passkey, *c.recovery); n > 1 {
		return false, usageError("one of -key, -passkey and -recovery")
	} else if n == 1 {
		return *c.passkey, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, signerFile))
	return err == nil && strings.TrimSpace(string(b)) == passkeyWord, nil
}

func count(flags ...bool) (n int) {
	for _, f := range flags {
		if f {
			n++
		}
	}
	return n
}

// open returns what signs, but for passkeys.
func (c signerChoice) open(ctx context.Context, p *program, dir string) (sshStmtSigner, error) {
	if *c.recovery {
		k, err := p.askRecoveryKey(ctx)
		return k, err
	}
	file := *c.key
	if file == "" {
		b, err := os.ReadFile(filepath.Join(dir, signerFile))
		if errors.Is(err, os.ErrNotExist) {
			return sshStmtSigner{}, withHint(usageError("no key to sign with is known here"), "name it with -key FILE")
		}
		if err != nil {
			return sshStmtSigner{}, err
		}
		file = strings.TrimSpace(string(b))
	}
	return openSigner(ctx, p, file)
}

// rememberSigner makes file the key that signs from now on, or passkeyWord. It may
// be run from anywhere.
func rememberSigner(dir, file string) error {
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	if file == passkeyWord {
		abs = file
	}
	return replaceFile(filepath.Join(dir, signerFile), []byte(abs+"\n"), 0o600)
}

func (p *program) askRecoveryKey(ctx context.Context) (sshStmtSigner, error) {
	b, err := p.secret(ctx, "recovery key")
	if err != nil {
		return sshStmtSigner{}, err
	}
	k, err := parseRecoveryKey(string(b))
	if err != nil {
		return sshStmtSigner{}, err
	}
	return k.signer(), nil
}

// openSigner reads a private key, or finds the agent's key that a public one
// names.
func openSigner(ctx context.Context, p *program, file string) (sshStmtSigner, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return sshStmtSigner{}, fmt.Errorf("signing key: %w", err)
	}
	var key ssh.Signer
	if pub, _, _, _, pubErr := ssh.ParseAuthorizedKey(b); pubErr == nil {
		key, err = agentSigner(p, pub)
	} else {
		key, err = privateKey(ctx, p, file, b)
	}
	if err == nil {
		_, err = parseSSHKeyBlob(key.PublicKey().Marshal())
	}
	if err != nil {
		return sshStmtSigner{}, fmt.Errorf("signing key %s: %w", file, err)
	}
	return sshStmtSigner{key}, nil
}

// openSignerLine opens a key that shall be a signer.
func openSignerLine(ctx context.Context, p *program, file, powers, label string) (stmtSigner, signerLine, error) {
	key, err := openSigner(ctx, p, file)
	if err != nil {
		return nil, signerLine{}, err
	}
	line, err := newSSHSignerLine(key.key.PublicKey(), powers, label)
	return key, line, err
}

// maxTries is how often a passphrase may be mistyped.
const maxTries = 3

// privateKey opens a key file, with its passphrase where it has one.
func privateKey(ctx context.Context, p *program, file string, b []byte) (ssh.Signer, error) {
	key, err := ssh.ParsePrivateKey(b)
	locked := (*ssh.PassphraseMissingError)(nil)
	for range maxTries {
		if !errors.As(err, &locked) && !errors.Is(err, x509.IncorrectPasswordError) {
			break
		}
		if errors.Is(err, x509.IncorrectPasswordError) {
			fmt.Fprintln(p.err, "that is not the passphrase")
		}
		typed, askErr := p.secret(ctx, "passphrase of "+file)
		if askErr != nil {
			return nil, askErr
		}
		key, err = ssh.ParsePrivateKeyWithPassphrase(b, typed)
	}
	switch {
	case errors.Is(err, x509.IncorrectPasswordError):
		return nil, errors.New("wrong passphrase")
	case err != nil && strings.Contains(err.Error(), "unhandled key type"):
		return nil, withHint(err, "a security key signs through the ssh-agent: -key %s.pub", file)
	case err != nil && !strings.Contains(string(b), "PRIVATE KEY"):
		return nil, errors.New("neither a private nor a public key of SSH")
	}
	return key, err
}

// An agentKey is a key that an ssh-agent holds.
type agentKey struct {
	pub  ssh.PublicKey
	addr string
	say  io.Writer
}

// agentSigner makes sure that the agent has the key.
func agentSigner(p *program, pub ssh.PublicKey) (ssh.Signer, error) {
	addr := os.Getenv("SSH_AUTH_SOCK")
	if addr == "" {
		addr = defaultAgent
	}
	if addr == "" {
		return nil, withHint(errors.New("a public key, and no ssh-agent here that would have its private key"), "start one with ssh-agent, or name the private key's file")
	}
	k := &agentKey{pub, addr, p.err}
	err := k.ask(func(a agent.ExtendedAgent) error {
		keys, err := a.List()
		if err != nil {
			return err
		}
		for _, have := range keys {
			if string(have.Blob) == string(pub.Marshal()) {
				return nil
			}
		}
		return withHint(errors.New("the ssh-agent does not have this key"), "add it with ssh-add")
	})
	return k, err
}

// ask connects anew each time: a person may take long between two signatures.
func (k *agentKey) ask(f func(agent.ExtendedAgent) error) error {
	conn, err := dialAgent(k.addr)
	if err != nil {
		return fmt.Errorf("ssh-agent: %w", err)
	}
	defer conn.Close()
	if err := f(agent.NewClient(conn)); err != nil {
		return fmt.Errorf("ssh-agent: %w", err)
	}
	return nil
}

func (k *agentKey) PublicKey() ssh.PublicKey { return k.pub }

func (k *agentKey) Sign(_ io.Reader, data []byte) (sig *ssh.Signature, err error) {
	if strings.HasPrefix(k.pub.Type(), "sk-") {
		fmt.Fprintln(k.say, "touch the security key to sign")
	}
	err = k.ask(func(a agent.ExtendedAgent) error {
		sig, err = a.Sign(k.pub, data)
		return err
	})
	return sig, err
}

// warn tells the person something that does not stop the verb.
func (p *program) warn(err error) { sayError(p.err, "warning", err) }

// openClient opens the state directory of a machine that belongs to an
// account, and tells what its owner must know.
func (p *program) openClient(d stateDir, verbose bool) (*client, error) {
	dir, err := d.path()
	if err != nil {
		return nil, err
	}
	logf := func(int, string, ...any) {} // what a role tells its owner is not a verb's to say
	if verbose {
		logf = (&lineLog{level: 2, now: p.now, w: p.err}).logf
	}
	c, err := openClient(dir, logf)
	if err != nil {
		return nil, err
	}
	c.trust.setLog(p.warn)
	return c, nil
}

// openState opens the state directory of any machine.
func (p *program) openState(d stateDir) (dir string, id *identity, t *trustStore, err error) {
	if dir, err = d.path(); err != nil {
		return "", nil, nil, err
	}
	if id, err = loadIdentity(filepath.Join(dir, "identity")); err != nil {
		return "", nil, nil, err
	}
	if t, err = openTrustStore(dir, p.now); err != nil {
		return "", nil, nil, err
	}
	t.setLog(p.warn)
	return dir, id, t, nil
}

// withState runs f with the account as this machine knows it.
func (p *program) withState(d stateDir, f func(c *client) error) error {
	c, err := p.openClient(d, false)
	if err != nil {
		return err
	}
	defer c.close()
	return f(c)
}

// withClient runs f with this machine's state, until a signal.
func withClient(ctx context.Context, p *program, dir stateDir, verbose bool, f func(ctx context.Context, c *client) error) error {
	c, err := p.openClient(dir, verbose)
	if err != nil {
		return err
	}
	defer c.close()
	ctx, stop := untilSignal(ctx)
	defer stop()
	return f(ctx, c)
}

// onDevice makes a verb of what reads its operands and what does the work. Its
// own failures end it as those of ssh do.
func onDevice[A any](f *flag.FlagSet, parse func(o operands) (A, error), do func(ctx context.Context, op sshOpener, files stdio, args A) error) verbRun {
	dir, verbose := dirFlag(f), verboseFlag(f)
	return func(ctx context.Context, p *program, o operands) error {
		args, err := parse(o)
		if err != nil {
			return err
		}
		return linkFailure(withClient(ctx, p, dir, *verbose, func(ctx context.Context, c *client) error {
			return do(ctx, c, p.stdio, args)
		}))
	}
}

func verboseFlag(f *flag.FlagSet) *bool {
	return f.Bool("v", false, "say how the device is reached")
}

func loginFlag(f *flag.FlagSet) *string {
	return f.String("l", "", "`login` on the device; else of LOGIN@, else yours if it is listed, else the only one")
}

// An acting is a verb that may sign: the account here, and a connection to its
// coordinator.
type acting struct {
	*client
	p    *program
	cc   *coordClient
	acct acctID
}

// withAccount runs f with the coordinator's newest log.
func (p *program) withAccount(ctx context.Context, d stateDir, f func(ctx context.Context, a *acting) error) error {
	return p.withState(d, func(c *client) error {
		return interruptible(ctx, func(ctx context.Context) error {
			return c.withCoord(ctx, func(cc *coordClient) error {
				pin, _ := c.trust.anchor()
				if err := fetchInto(ctx, cc, c.trust); codeOf(err) == "fork" {
					p.warn(err) // no room for another branch: peers may know how it ended
				} else if err != nil {
					return fmt.Errorf("fetching the log: %w", err)
				}
				return f(ctx, &acting{c, p, cc, pin.acct})
			})
		})
	})
}

// act is withAccount for a verb that signs: the devices that can be reached
// are heard too, and the clock is checked unless force is set.
func (p *program) act(ctx context.Context, d stateDir, force bool, f func(ctx context.Context, a *acting) error) error {
	return p.withAccount(ctx, d, func(ctx context.Context, a *acting) error {
		a.hearPeers(ctx)
		if _, err := a.trust.refresh(); err != nil {
			return err
		}
		if err := p.checkClock(ctx, a.cc, force); err != nil {
			return err
		}
		return f(ctx, a)
	})
}

func forceTimeFlag(f *flag.FlagSet) *bool {
	return f.Bool("force-time", false, "sign although the clocks here and at the coordinator differ")
}

// maxClockOff is how far this machine's clock may be from the coordinator's
// when a statement is dated by it.
const maxClockOff = 10 * time.Minute

func (p *program) checkClock(ctx context.Context, cc *coordClient, force bool) error {
	who, err := cc.whoami(ctx)
	if err != nil || force {
		return err
	}
	off := p.now().Sub(time.Unix(who.time, 0))
	if math.Abs(float64(off)) <= float64(maxClockOff) {
		return nil
	}
	side := "ahead of"
	if off < 0 {
		side, off = "behind", -off
	}
	return withHint(coded("clock", "this machine's clock is %s %s the coordinator's", sayDuration(off), side),
		"set the clock; if it is the coordinator that is wrong, say -force-time")
}

const (
	// maxHeard is how many devices are asked for their logs, and hearFor for
	// how long: usually they answer within two round trips.
	maxHeard = 4
	hearFor  = 1500 * time.Millisecond
)

// hearPeers meets devices that are online, for the coordinator might hold
// records back. Each meeting exchanges logs.
func (a *acting) hearPeers(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, hearFor)
	defer stop()
	seen, err := a.cc.devices(ctx, a.acct)
	if err != nil {
		return
	}
	var meetings sync.WaitGroup
	defer meetings.Wait()
	met := 0
	for _, d := range seen {
		dev, ok := a.trust.state().device(d.id)
		if !ok || dev.revoked || !d.status.serves || d.id == a.id.keys.deviceID() {
			continue
		}
		if met++; met > maxHeard {
			return
		}
		meetings.Go(func() { a.meet(ctx, dev) })
	}
}

// meet exchanges logs with a device, by a link lent or our own.
func (a *acting) meet(ctx context.Context, dev signedDevice) {
	lent, err := askLend(ctx, a.dir, lendRequest{Op: "ping", Device: string(dev.id)})
	if err == nil {
		defer lent.Close()
		defer context.AfterFunc(ctx, func() { lent.Close() })()
		lent.readAnswer()
		return
	}
	n, err := a.ownNode(ctx)
	if err != nil {
		return
	}
	if l, err := n.connect(ctx, dev); err == nil {
		select {
		case <-l.known:
		case <-ctx.Done():
		}
	}
}

// A proposal is a statement to be: build writes it on the log's head, consent
// shows it and asks.
type proposal struct {
	build   func(st *trustState) ([]byte, error)
	consent func(ctx context.Context, text []byte) (bool, error)
	signers []stmtSigner
}

// errDeclined ends a verb whose question was answered with no.
var errDeclined = &exitError{1, fmt.Errorf("nothing was signed")}

// submit has a proposal signed and hands it in. When another signer was faster
// it is built anew and the person is asked anew; nothing is ever signed twice
// by itself.
func (a *acting) submit(ctx context.Context, pr proposal) error {
	for {
		st := a.trust.state()
		text, err := pr.build(st)
		if err != nil {
			return err
		}
		yes, err := pr.consent(ctx, text)
		if err != nil {
			return err
		}
		if !yes {
			return errDeclined
		}
		record, err := signRecord(text, pr.signers...)
		if err != nil {
			return err
		}
		if stale, err := a.handInOn(ctx, st, record); !stale || !a.p.hasTerminal() {
			return err
		}
		fmt.Fprintln(a.p.err, "the log has gone on meanwhile: this is what it would be now")
	}
}

// handInOn is handIn for a record made on st. stale: another signer was faster, and
// what he signed is here. If nothing is, the coordinator has another branch, or it
// lies to get a second statement of the same number: no more is signed for it.
func (a *acting) handInOn(ctx context.Context, st *trustState, record []byte) (stale bool, err error) {
	err = a.handIn(ctx, record)
	if codeOf(err) != "stale-head" {
		return false, err
	}
	if err := fetchInto(ctx, a.cc, a.trust); err != nil {
		return false, fmt.Errorf("fetching what the coordinator says was signed meanwhile: %w", err)
	}
	if a.trust.state().head() != st.head() {
		return true, withHint(err, "another signer was faster: run the same again")
	}
	pin, _ := a.trust.anchor()
	word := coordWord{addr: pin.coordAddr, keys: pin.coordKeys.coordID(), acct: pin.acct}
	return false, withHint(coded("fork", "the coordinator takes nothing that follows statement %d of this machine's log: it has another branch, or it lies", st.seq()),
		"do not sign it again; the recovery key settles it, in an empty directory: sessio trust recover -dir EMPTY -key NEW %s", word)
}

// handIn gives a record to the coordinator, and what it lacks before it, then
// adds it here.
func (a *acting) handIn(ctx context.Context, record []byte) error {
	err := a.cc.append(ctx, a.acct, record)
	if codeOf(err) == "gap" {
		if err = a.bringUp(ctx); err == nil {
			err = a.cc.append(ctx, a.acct, record)
		}
	}
	if err != nil {
		return err
	}
	_, err = a.trust.add(record)
	return err
}

// bringUp gives the coordinator the records that it lacks: one that was set up
// anew from an old copy.
func (a *acting) bringUp(ctx context.Context) error {
	ours := a.trust.state().seq()
	page, err := asked(a.cc, ctx, opFetch, &fetchMsg{acct: a.acct, from: ours + 1}, parseFetched)
	if err != nil {
		return err
	}
	for _, record := range a.trust.records(page.head.seq+1, ours) {
		if err := a.cc.append(ctx, a.acct, record); err != nil {
			return fmt.Errorf("bringing the coordinator up to date: %w", err)
		}
	}
	return nil
}

// agree shows a statement's own lines and asks on a terminal. Without one the
// words that were typed are consent.
func (a *acting) agree(ctx context.Context, text []byte) (bool, error) {
	if !a.p.hasTerminal() {
		return true, nil
	}
	_, lines, _ := strings.Cut(string(text), "\nop ")
	fmt.Fprint(a.p.err, indent(lines))
	return a.p.confirm(ctx, "sign this?")
}

// indent sets lines off, two blanks after the first.
func indent(lines string) string {
	return strings.ReplaceAll(strings.TrimRight(lines, "\n"), "\n", "\n  ") + "\n"
}
