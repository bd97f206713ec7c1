package main

// This file is the role of a device: it keeps presence at the coordinator,
// serves SSH to those whom the log lets in, and lends its links to the verbs
// beside it.

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// A deviceConfig is what the flags of -device say.
type deviceConfig struct {
	dir    string
	listen string        // UDP address, "" = any port
	hold   time.Duration // how long a link lives without a path
	drain  time.Duration // how long sessions have to end at a stop
	logf   func(level int, format string, args ...any)
}

// runDevice runs until ctx ends. The caller holds the directory's role lock.
func runDevice(ctx context.Context, c deviceConfig) error {
	id, err := loadIdentity(filepath.Join(c.dir, "identity"))
	if err != nil {
		return err
	}
	trust, err := openTrustStore(c.dir, time.Now)
	if err != nil {
		return err
	}
	trust.setLog(func(err error) { c.logf(0, "%v", err) })
	d := &device{id: id, trust: trust, logf: c.logf}
	server := newSSHServer(sshPolicy{
		hostKey:   id.sshSigner(),
		authorize: d.authorize,
		log:       func(format string, args ...any) { c.logf(1, format, args...) },
	})
	n, err := openNode(ctx, nodeConfig{id: id, trust: trust, listen: c.listen, hold: c.hold, beat: true, keepPort: true, ssh: server, reached: newReachedFile(c.dir), busy: new(gcGear).busy, logf: c.logf})
	if err != nil {
		return err
	}
	defer n.close()
	ln, err := listenLend(c.dir)
	if err != nil {
		return err
	}
	c.logf(0, "device %s ready on udp port %d", id.keys.deviceID(), n.mux.port())
	defer trust.watch(func(_, _ *trustState) {
		d.sayState()
		server.recheck() // a grant may have been narrowed
	})()
	d.sayState() // what came while we began to watch is in it
	l := &lender{n, ln}
	n.spawn(func() { reapSessions(ctx, n.sessions) })
	var ending sync.WaitGroup
	ending.Go(func() {
		<-ctx.Done()
		server.closeAll(c.drain)
	})
	l.serve(ctx, c.dir, c.drain)
	ending.Wait()
	return nil
}

// reapSessions forgets dead tokens hourly.
func reapSessions(ctx context.Context, t *sessionTable) {
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	for {
		select {
		case now := <-hourly.C:
			t.reap(now)
		case <-ctx.Done():
			return
		}
	}
}

// A device decides by the log.
type device struct {
	id    *identity
	trust *trustStore
	logf  func(level int, format string, args ...any)

	mu   sync.Mutex
	said string // guarded by mu: what sayState said last
}

// sayState tells whoever started us what we may be used for, again when that
// changes.
func (d *device) sayState() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if text := d.state(); text != d.said {
		d.logf(0, "%s", text)
		d.said = text
	}
}

func (d *device) state() string {
	st := d.trust.state()
	if st == nil {
		return "waiting for the log of the account"
	}
	dev, ok := st.device(d.id.keys.deviceID())
	switch {
	case !ok:
		return "not signed yet: on a machine that can sign, run: sessio trust pending"
	case dev.revoked:
		return "this device was revoked: nobody will let it in, and it lets nobody in"
	}
	return fmt.Sprintf("%s serves as %v", dev.name, dev.roles)
}

// authorize says what the log lets key do here as user.
func (d *device) authorize(key ssh.PublicKey, user string) (sshGrant, error) {
	sign, err := ed25519Of(key)
	if err != nil {
		return sshGrant{}, err
	}
	who, caps, err := d.trust.state().judgeLogin(sign, d.id.keys.deviceID(), user, d.trust.now())
	return sshGrant{device: who.name, caps: caps}, err
}

// ed25519Of returns the ed25519 key in an SSH key, the only kind devices have.
func ed25519Of(key ssh.PublicKey) (ed25519.PublicKey, error) {
	if ck, ok := key.(ssh.CryptoPublicKey); ok {
		if pub, ok := ck.CryptoPublicKey().(ed25519.PublicKey); ok {
			return pub, nil
		}
	}
	return nil, coded("unknown-device", "a key of type %s, not a device's", key.Type())
}
