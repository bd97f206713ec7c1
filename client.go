package main

// This file gives the verbs their way to a device: a link lent by the process
// that runs beside them, else one of their own. Either way the host key and
// the logins come from the verified log here, never from a neighbour.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// A client is what a verb holds of this machine's state.
type client struct {
	dir   string
	id    *identity
	trust *trustStore
	logf  func(level int, format string, args ...any)

	mu   sync.Mutex
	node *node // guarded by mu: our own, made when first needed
}

// openClient opens the state directory of a machine that belongs to an account.
func openClient(dir string, logf func(level int, format string, args ...any)) (*client, error) {
	id, err := loadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		return nil, err
	}
	trust, err := openTrustStore(dir, time.Now)
	if err != nil {
		return nil, err
	}
	if _, ok := trust.anchor(); !ok {
		return nil, withHint(errors.New("this machine belongs to no account yet"), "run: sessio join TICKET, or: sessio account create -key FILE COORD")
	}
	return &client{dir: dir, id: id, trust: trust, logf: logf}, nil
}

// close ends the link of our own, if there is one.
func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node != nil {
		c.node.close()
		c.node = nil
	}
}

// ownNode returns our own node, made now if it is not there.
func (c *client) ownNode(ctx context.Context) (*node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node != nil {
		return c.node, nil
	}
	n, err := openNode(ctx, nodeConfig{id: c.id, trust: c.trust, hold: defaultHold, beat: true, reached: newReachedFile(c.dir), logf: c.logf})
	if err == nil {
		c.node = n
	}
	return n, err
}

// find looks a device up in the log, for a verb that needs this machine to have
// role; "": for a link alone. What speaks against it, here or there, may have
// changed since our copy: the coordinator is asked then.
func (c *client) find(ctx context.Context, called, role string) (signedDevice, error) {
	c.trust.refresh()
	dev, self, err := c.look(called, role)
	if self == nil && err == nil {
		return dev, nil
	}
	asked, waiting, askErr := c.askCoordinator(ctx, called)
	if askErr != nil {
		c.logf(1, "asking the coordinator for %s: %v", called, askErr)
	}
	dev, self, err = c.look(called, role)
	switch {
	case self != nil && (asked || codeOf(self) == "revoked"): // else the device may know better
		return dev, self
	case waiting && codeOf(err) == "unknown-device":
		return dev, withHint(coded("unsigned", "not signed yet"), "sign it with: sessio trust sign %s", called)
	case err != nil && !asked && codeOf(err) != "revoked":
		return dev, fmt.Errorf("%w, as far as is known here: %v", err, askErr)
	}
	return dev, err
}

// look is find in our copy of the log. self is what speaks against this machine.
func (c *client) look(called, role string) (dev signedDevice, self, err error) {
	st, now := c.trust.state(), c.trust.now()
	self = selfError(st, c.id.keys.deviceID(), role, now)
	if dev, err = findDevice(st, called); err == nil {
		err = entryError(dev, now)
	}
	if role == "" && codeOf(err) == "role" {
		err = nil
	}
	return dev, self, err
}

// askCoordinator fetches what the log lacks. It reports whether the coordinator
// was there, and whether a device of that name waits for a signature.
func (c *client) askCoordinator(ctx context.Context, called string) (asked, waiting bool, err error) {
	ctx, stop := context.WithTimeout(ctx, 3*time.Second)
	defer stop()
	err = c.withCoord(ctx, func(cc *coordClient) error {
		asked = true
		if err := fetchInto(ctx, cc, c.trust); err != nil {
			return err
		}
		a, _ := c.trust.anchor()
		list, err := cc.pending(ctx, a.acct)
		waiting = slices.ContainsFunc(list, func(p pendingJoin) bool {
			return waitingName(c.dir, p) == called || string(p.keys.deviceID()) == called
		})
		return err
	})
	return asked, waiting, err
}

// withCoord runs f with a connection to the account's coordinator, from a
// socket of its own.
func (c *client) withCoord(ctx context.Context, f func(*coordClient) error) error {
	a, _ := c.trust.anchor()
	return withCoordAt(ctx, c.id, a.coordAddr, a.coordKeys.coordID(), f)
}

// withCoordAt runs f with a connection to the coordinator at hostport that
// proves to be want.
func withCoordAt(ctx context.Context, id *identity, hostport string, want coordID, f func(*coordClient) error) error {
	d, err := newCoordDialer()
	if err != nil {
		return err
	}
	defer d.close()
	conn, err := d.dial(ctx, id, hostport, want)
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	return f(newCoordClient(conn))
}

// openSSH is the sshOpener of the verbs.
func (c *client) openSSH(ctx context.Context, called string) (*sshPipe, error) {
	dev, err := c.find(ctx, called, "client")
	if err != nil {
		return nil, err
	}
	p := &sshPipe{hostKey: dev.keys.sshKey(), userKey: c.id.sshSigner(), users: dev.users, name: dev.name}
	lent, err := askLend(ctx, c.dir, lendRequest{Op: "ssh", Device: string(dev.id)})
	if err == nil {
		p.Conn = lent
		return p, nil
	}
	n, err := c.ownNode(ctx)
	if err != nil {
		return nil, err
	}
	l, err := n.connect(ctx, dev)
	if err != nil {
		return nil, err
	}
	s, err := n.openSSHOn(ctx, l)
	if err != nil {
		return nil, err
	}
	p.Conn, p.lost, p.reason = s, l.conn.Context().Done(), l.err
	return p, nil
}

// ping measures a round trip to a device, over a lent link or our own.
func (c *client) ping(ctx context.Context, dev signedDevice) (*pingResult, error) {
	lent, err := askLend(ctx, c.dir, lendRequest{Op: "ping", Device: string(dev.id)})
	if err == nil {
		defer lent.Close()
		defer context.AfterFunc(ctx, func() { lent.Close() })()
		a, err := lent.readAnswer()
		return a.Ping, err
	}
	n, err := c.ownNode(ctx)
	if err != nil {
		return nil, err
	}
	return n.pingDevice(ctx, dev.id)
}

// lentStatus asks the process beside us for itself and its links.
// errNoLender: there is none.
func lentStatus(ctx context.Context, dir string) (*nodeStatus, []linkStatus, error) {
	lent, err := askLend(ctx, dir, lendRequest{Op: "status"})
	if err != nil {
		return nil, nil, err
	}
	defer lent.Close()
	lent.SetReadDeadline(time.Now().Add(lendWait))
	a, err := lent.readAnswer()
	return a.Self, a.Links, err
}

var _ net.Conn = (*lentConn)(nil)
