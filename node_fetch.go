package main

// This file keeps a node's log abreast of the coordinator's, and knows where the
// coordinator is.

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
)

// headSeen notes which record the coordinator has last: it may be behind, and on
// another branch. n.mu is held.
func (n *node) headSeen(seq uint64, head [32]byte) {
	if st := n.trust.state(); st != nil && st.seq() >= seq && st.chain[seq] == head {
		return
	}
	n.wanted = logTip{seq, head}
	select {
	case n.fetch <- struct{}{}:
	default:
	}
}

// fetchLoop fetches records when the coordinator has new ones. A failure is
// tried again with the next beat.
func (n *node) fetchLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.fetch:
		}
		if err := n.fetchLog(ctx); err != nil && ctx.Err() == nil {
			n.logf(1, "fetching the log: %v", err)
		}
	}
}

// fetchLog brings the log up to date from the coordinator, unless what that has
// is kept here, beside the log.
func (n *node) fetchLog(ctx context.Context) error {
	n.mu.Lock()
	wanted := n.wanted
	n.mu.Unlock()
	if n.trust.knows(wanted) {
		return nil
	}
	conn, err := n.dialCoord(ctx)
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	return fetchInto(ctx, newCoordClient(conn), n.trust)
}

// dialCoord opens a QUIC connection to the coordinator from our socket.
func (n *node) dialCoord(ctx context.Context) (*quic.Conn, error) {
	n.mu.Lock()
	addrs := slices.Clone(n.talk.addrs)
	if at := n.talk.at.addr; at.IsValid() {
		addrs = []netip.AddrPort{at}
	}
	n.mu.Unlock()
	if len(addrs) == 0 {
		return nil, errors.New("coordinator " + n.anchor.coordAddr + " has no address")
	}
	return dialCoord(ctx, n.tr, n.mux, n.id, addrs, n.anchor.coordKeys.coordID())
}

const (
	resolveEvery = 30 * time.Second // how often to look whether it is needed
	resolveMost  = time.Minute      // between two tries
)

// resolveLoop looks the coordinator's name up again while it has no address,
// or while it does not answer: it may have moved.
func (n *node) resolveLoop(ctx context.Context) {
	gap := time.Second
	for {
		n.mu.Lock()
		lost := len(n.talk.addrs) == 0 || n.talk.tries > len(beatRetry)
		n.mu.Unlock()
		wait := resolveEvery
		if lost {
			n.resolve(ctx)
			wait, gap = gap, min(2*gap, resolveMost)
		} else {
			gap = time.Second
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (n *node) resolve(ctx context.Context) {
	addrs, err := resolveCoord(ctx, n.anchor.coordAddr)
	if err != nil {
		n.logf(2, "%v", err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(addrs, n.talk.addrs) {
		n.talk.addrs = addrs
		n.talk.beatSoon()
		n.poke()
	}
}
