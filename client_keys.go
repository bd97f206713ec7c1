package main

// This file makes what a device's SSH port for stock clients is told: its host
// keys, and the hashes of passwords.

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

const (
	// ssh-keygen's default; clients refuse shorter ones than the least, and a
	// longer one than the most takes a router minutes.
	defaultRSABits = 3072
	maxRSABits     = 8192
)

func genHostKeyVerb() verb {
	return verb{name: "gen-host-key", usage: "[-t ed25519|rsa] [-bits N] -o FILE", summary: "make a host key for the SSH port for stock clients",
		more: "FILE is an OpenSSH private key without passphrase, FILE.pub the public one. On a\nterminal it asks before it overwrites them, without one it does not.", bare: true,
		setup: func(f *flag.FlagSet) verbRun {
			kind := f.String("t", "ed25519", "`kind`: ed25519 or rsa")
			bits := f.Int("bits", 0, fmt.Sprintf("`length` of an rsa key, %d to %d (default %d)", minRSABits, maxRSABits, defaultRSABits))
			file := f.String("o", "", "`file` to write")
			return func(ctx context.Context, p *program, _ operands) error {
				if *file == "" {
					return usageError("-o FILE is missing")
				}
				make, err := hostKeyMaker(*kind, *bits)
				if err != nil {
					return err
				}
				return interruptible(ctx, func(ctx context.Context) error { return p.writeHostKey(ctx, *file, make) })
			}
		}}
}

// hostKeyMaker checks what is wanted. 0 bits are the default.
func hostKeyMaker(kind string, bits int) (func() (crypto.Signer, error), error) {
	switch kind {
	case "ed25519":
		if bits != 0 {
			return nil, usageError("-bits is for rsa: an ed25519 key has one length")
		}
		return func() (crypto.Signer, error) {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			return key, err
		}, nil
	case "rsa":
		if bits == 0 {
			bits = defaultRSABits
		}
		if bits < minRSABits || bits > maxRSABits {
			return nil, usageError("-bits %d: %d to %d", bits, minRSABits, maxRSABits)
		}
		return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, bits) }, nil
	}
	return nil, usageError("-t %q: ed25519 or rsa", kind)
}

func (p *program) writeHostKey(ctx context.Context, file string, make func() (crypto.Signer, error)) error {
	pubFile := file + ".pub"
	for _, f := range []string{file, pubFile} {
		if _, err := os.Lstat(f); errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if !p.hasTerminal() {
			return withHint(fmt.Errorf("%s exists, and nobody is there to ask whether to overwrite it", f), "name another file, or remove it")
		}
		if yes, err := p.confirm(ctx, f+" exists. Overwrite it?"); err != nil {
			return err
		} else if !yes {
			return errors.New("nothing was written")
		}
		break
	}
	key, err := make()
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return err
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := replaceFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return fmt.Errorf("host key %s: %w", file, err)
	}
	if err := replaceFile(pubFile, ssh.MarshalAuthorizedKey(pub), 0o644); err != nil {
		return fmt.Errorf("public key %s: %w", pubFile, err)
	}
	_, err = fmt.Fprintf(p.out, "wrote %s and %s: %s %s\n", file, pubFile, pub.Type(), ssh.FingerprintSHA256(pub))
	return err
}

func hashPasswordVerb() verb {
	return verb{name: "hash-password", summary: "ask for a password and print its hash for the settings",
		more: "On a terminal it asks twice and shows nothing; else the password is one line of\nstandard input.", bare: true,
		setup: func(*flag.FlagSet) verbRun {
			return func(ctx context.Context, p *program, _ operands) error {
				return interruptible(ctx, func(ctx context.Context) error {
					pw, err := p.newPassword(ctx)
					if err != nil {
						return err
					}
					salt := make([]byte, saltSize)
					rand.Read(salt) // never fails since Go 1.24
					_, err = fmt.Fprintln(p.out, hashPassword(pw, salt))
					return err
				})
			}
		}}
}

// newPassword reads a password that somebody shall log in with.
func (p *program) newPassword(ctx context.Context) (pw []byte, err error) {
	if !p.hasTerminal() {
		if pw, err = p.ask(ctx, func() ([]byte, error) { return readLine(p.in) }); err != nil {
			return nil, fmt.Errorf("reading the password: %w", err)
		}
	} else if pw, err = p.secret(ctx, "password"); err != nil {
		return nil, err
	} else if again, err := p.secret(ctx, "again"); err != nil {
		return nil, err
	} else if string(again) != string(pw) {
		return nil, errors.New("the two passwords differ")
	}
	if strings.TrimSpace(string(pw)) == "" {
		return nil, errors.New("an empty password lets anybody in")
	}
	return pw, nil
}
