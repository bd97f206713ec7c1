package main

// This file finds the key that a person signs with: a file, one that an
// ssh-agent holds, or the recovery key from paper.

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// signerFile, in the state directory, holds the path of the key that account
// create was given: the one that signs unless another is named.
const signerFile = "signer"

// A signerChoice is what the flags say about who signs.
type signerChoice struct {
	key      *string
	recovery *bool
}

// keyFlag is for statements that the recovery key cannot sign.
func keyFlag(f *flag.FlagSet) signerChoice {
	return signerChoice{
		key:      f.String("key", "", "sign with the key in `file`; FILE.pub: with that key in the ssh-agent (default the one of account create)"),
		recovery: new(bool),
	}
}

func signerFlags(f *flag.FlagSet) signerChoice {
	c := keyFlag(f)
	c.recovery = f.Bool("recovery", false, "sign with the recovery key, which is asked for")
	return c
}

// open returns what signs.
func (c signerChoice) open(ctx context.Context, p *program, dir string) (sshStmtSigner, error) {
	if *c.recovery {
		if *c.key != "" {
			return sshStmtSigner{}, usageError("-key or -recovery, not both")
		}
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

// rememberSigner makes file the key that signs from now on. It may be run from
// anywhere.
func rememberSigner(dir, file string) error {
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
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
