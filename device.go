package main

// This file is the role of a device: it keeps presence at the coordinator,
// serves SSH to those whom the log lets in, and lends its links to the verbs
// beside it.

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"
)

// A deviceConfig is what the flags of -device say.
type deviceConfig struct {
	dir      string
	listen   string        // UDP address, "" = any port
	drain    time.Duration // how long sessions have to end at a stop
	settings *liveConfig
	// hangups brings SIGHUP: to load the settings anew, or to end where we stood
	// in a terminal and that has been closed.
	hangups    <-chan os.Signal
	inTerminal bool
	logf       func(level int, format string, args ...any)
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
		barred:    d.barred,
		config:    c.settings.get,
		audit:     d.audit.Load,
		log:       func(format string, args ...any) { c.logf(1, format, args...) },
		warn:      func(format string, args ...any) { c.logf(0, format, args...) },
	})
	if err := d.openAudit(c.settings.get()); err != nil {
		return err
	}
	defer func() { d.audit.Load().close() }()
	var n *node
	if _, joined := trust.anchor(); joined || c.settings.get().port == 0 {
		n, err = openNode(ctx, nodeConfig{id: id, trust: trust, listen: c.listen, hold: c.settings.get().hold, beat: true, keepPort: true, ssh: server, reached: newReachedFile(c.dir), busy: new(gcGear).busy, logf: c.logf})
		if err != nil {
			if !joined {
				err = withHint(err, "run: sessio join TICKET; or set server.port, to serve SSH on a TCP port alone")
			}
			return err
		}
		defer n.close()
	}
	port := &sshPort{srv: server, identity: id.sshSigner(), config: c.settings.get, logf: c.logf}
	if err := port.listen(); err != nil {
		return err
	}
	var ending sync.WaitGroup
	defer ending.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	reload := make(chan struct{}, 1)
	ending.Go(func() { port.run(ctx, reload) })
	ending.Go(func() {
		if c.follow(ctx, d, n, reload) {
			stop()
		}
	})
	ending.Go(func() {
		<-ctx.Done()
		server.closeAll(c.drain)
	})
	ln, err := listenLend(c.dir, lendSocket)
	if err != nil {
		return err
	}
	if n == nil {
		c.logf(0, "this machine belongs to no account: it serves its TCP port alone; after sessio join, start it again")
	} else {
		c.logf(0, "device %s ready on udp port %d", id.keys.deviceID(), n.mux.port())
		defer trust.watch(func(_, _ *trustState) {
			d.sayState()
			server.recheck() // a grant may have been narrowed
		})()
		d.sayState() // what came while we began to watch is in it
		n.spawn(func() { reapSessions(ctx, n.sessions) })
	}
	l := &lender{n, server, ln}
	l.serve(ctx, c.dir, c.drain)
	return nil
}

// follow loads the settings anew whenever SIGHUP comes, until ctx ends, or the
// terminal is gone that we stood in. n is nil where there is no account.
func (c deviceConfig) follow(ctx context.Context, d *device, n *node, reload chan<- struct{}) (gone bool) {
	c.apply(n)
	for {
		select {
		case <-c.hangups:
		case <-ctx.Done():
			return false
		}
		if c.inTerminal && !term.IsTerminal(int(os.Stdin.Fd())) {
			return true
		}
		next, err := c.settings.source.load()
		for _, w := range next.warnings {
			c.logf(0, "warning: %s", w)
		}
		if err == nil {
			err = d.openAudit(next.serverConfig)
		}
		if err != nil {
			c.logf(0, "the settings stay as they were: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
			continue
		}
		c.settings.current.Store(next.serverConfig)
		c.logf(0, "settings loaded anew")
		c.apply(n)
		select {
		case reload <- struct{}{}:
		default: // it is about to look
		}
	}
}

// apply gives the node what it has its own copy of.
func (c deviceConfig) apply(n *node) {
	if n != nil {
		n.setHold(c.settings.get().hold)
		n.sessions.life.Store(int64(c.settings.get().sessionTTL))
	}
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
	audit atomic.Pointer[auditLog]

	audited []auditExporter // of audit; changed by one goroutine at a time

	mu   sync.Mutex
	said string // guarded by mu: what sayState said last
}

// openAudit has the audit go where c says. Files are opened anew in any case:
// another program may have renamed them.
func (d *device) openAudit(c *serverConfig) error {
	var want []auditExporter
	if c.auditEnabled {
		want = c.exporters
	}
	old := d.audit.Load()
	if slices.Equal(want, d.audited) {
		old.reopen()
		return nil
	}
	var a *auditLog
	if len(want) > 0 {
		host, _ := os.Hostname()
		var err error
		if a, err = openAudit(want, auditOptions{host: host, now: time.Now, logf: d.logf}); err != nil {
			return err
		}
	}
	d.audit.Store(a)
	d.audited = want
	old.close()
	return nil
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

// barred: a device that was revoked lets nobody in, by whatever way.
func (d *device) barred() error {
	if st := d.trust.state(); st != nil {
		if dev, ok := st.device(d.id.keys.deviceID()); ok && dev.revoked {
			return coded("revoked", "this device was revoked")
		}
	}
	return nil
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
