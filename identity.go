package main

// This file keeps a machine's identity: one ed25519 key, made at first start
// and never overwritten, and the path key that follows from its seed. The key
// signs TLS handshakes and its own certificate, SSH exchange hashes and SSH
// user authentication, and nothing else.

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
)

// An identity is a device's or coordinator's private keys and the TLS
// certificate made from them.
type identity struct {
	keys publicKeys
	sign ed25519.PrivateKey
	path *ecdh.PrivateKey
	cert tls.Certificate
}

// An instanceID is drawn by every process at start: verbs, -device and
// restarts share a key but are never mixed up. Zero means unknown.
type instanceID [8]byte

func newInstanceID() (id instanceID) {
	for id == (instanceID{}) {
		rand.Read(id[:]) // never fails since Go 1.24
	}
	return id
}

// loadIdentity reads the identity at file, an OpenSSH private key without
// passphrase, and makes it when it is not there. Directories are made 0700.
func loadIdentity(file string) (*identity, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return createIdentity(file)
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	key, err := ssh.ParseRawPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", file, err)
	}
	priv, ok := key.(*ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("identity %s: a %T, not an ed25519 key", file, key)
	}
	sweepKeys(file)
	return newIdentity(*priv)
}

// sweepKeys removes what a first start that was killed has left of a key that
// is nobody's. Who is making one right now needs it no more: see createFileOnce.
func sweepKeys(file string) {
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".tmp*"))
	for _, f := range left {
		os.Remove(f)
	}
}

// createIdentity writes a new key. Two processes may race here: the hard link
// makes one win, and the other reads the winner's.
func createIdentity(file string) (*identity, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(priv, "sessio")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if err := createFileOnce(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return loadIdentity(file)
}

// newIdentity derives all else from the ed25519 key.
func newIdentity(priv ed25519.PrivateKey) (*identity, error) {
	seed, err := hkdf.Key(sha256.New, priv.Seed(), nil, "sessio-path-v1", 32)
	if err != nil {
		return nil, err
	}
	path, err := ecdh.X25519().NewPrivateKey(seed)
	if err != nil {
		return nil, err
	}
	id := &identity{sign: priv, path: path}
	id.keys.sign = priv.Public().(ed25519.PublicKey)
	id.keys.path = [32]byte(path.PublicKey().Bytes())
	id.cert, err = id.certificate()
	return id, err
}

// resetKey makes the tokens by which a process disowns QUIC connections of one
// that is dead: RFC 9000, section 10.3. It is the same after every start.
func (id *identity) resetKey() ([32]byte, error) {
	key, err := hkdf.Key(sha256.New, id.sign.Seed(), nil, "sessio-reset-v1", 32)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(key), nil
}

// certificate is self-signed, and its subject's common name carries the path
// key, so that a peer can check the hash of both. No end checks its dates:
// clocks start in 1970 on routers.
func (id *identity) certificate() (tls.Certificate, error) {
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: base64.StdEncoding.EncodeToString(id.keys.path[:])},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, id.keys.sign, id.sign)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: id.sign}, nil
}

// sshSigner is the identity as SSH host key and user key.
func (id *identity) sshSigner() ssh.Signer {
	s, err := ssh.NewSignerFromKey(id.sign)
	if err != nil {
		panic("ed25519 signer refused: " + err.Error())
	}
	return s
}

// keysOfCert reads both keys from a peer's certificate. They are proved by the
// TLS handshake (the signing key) and by the hash in an id (both); until then
// they are only claimed.
func keysOfCert(der []byte) (publicKeys, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return publicKeys{}, fmt.Errorf("peer certificate: %w", err)
	}
	pub, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return publicKeys{}, fmt.Errorf("peer certificate: a %T, not an ed25519 key", cert.PublicKey)
	}
	path, err := base64.StdEncoding.DecodeString(cert.Subject.CommonName)
	if err != nil || len(path) != 32 {
		return publicKeys{}, errors.New("peer certificate: no path key in its common name")
	}
	return publicKeys{sign: pub, path: [32]byte(path)}, nil
}

const (
	alpnLink  = "sessio/1"
	alpnCoord = "sessio-coord/1"
	// tlsName is the constant server name of every handshake: nobody checks
	// it, and it tells an onlooker nothing.
	tlsName = "sessio"
)

// tlsConfig is for either side of a handshake with alpn. check is given the
// keys that the peer has shown and, through its certificate, proved to hold;
// an error ends the handshake.
func (id *identity) tlsConfig(alpn string, check func(claimed publicKeys) error) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		NextProtos:   []string{alpn},
		ServerName:   tlsName,
		ClientAuth:   tls.RequireAnyClientCert,
		// Peers are known by pinned keys: VerifyConnection judges them.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) != 1 {
				return fmt.Errorf("peer showed %d certificates, not one", len(cs.PeerCertificates))
			}
			keys, err := keysOfCert(cs.PeerCertificates[0].Raw)
			if err != nil {
				return err
			}
			return check(keys)
		},
	}
}
