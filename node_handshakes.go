package main

// This file bounds the handshakes that peers leave half open: each holds QUIC's
// state and TLS's for up to twice handshakeIdle, before anybody knows who it is
// that dials.

import (
	"context"
	"errors"

	"github.com/quic-go/quic-go"
)

const (
	// maxHalfOpen bounds those of one process, which needs one at a time; its
	// others are of dials that it has given up.
	maxHalfOpen = 4
	// maxStrangersHalfOpen bounds those of all machines that the log does not
	// know: whoever makes a coordinator introduce them has as many as he likes.
	maxStrangersHalfOpen = 16
)

var errHalfOpen = errors.New("too many handshakes are half open")

// A halfOpen is one of them.
type halfOpen struct {
	proc     *peerProc
	stranger bool
}

type halfOpenKey struct{}

// connContext is asked by QUIC before it makes a connection.
func (n *node) connContext(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &halfOpen{proc: n.peers.ofVirtual(info.RemoteAddr)}
	if h.proc == nil {
		return nil, errHalfOpen
	}
	_, err := n.judge(h.proc.keys, "")
	h.stranger = err != nil || h.proc.finder.knocking()
	same, strangers := 0, 0
	for o := range n.halfOpen {
		if o.proc == h.proc {
			same++
		}
		if o.stranger {
			strangers++
		}
	}
	if same >= maxHalfOpen || h.stranger && strangers >= maxStrangersHalfOpen {
		return nil, errHalfOpen
	}
	n.halfOpen[h] = true
	context.AfterFunc(ctx, func() { n.opened(h) }) // where it fails
	return context.WithValue(ctx, halfOpenKey{}, h), nil
}

// opened takes note that a handshake is over, one way or the other.
func (n *node) opened(h *halfOpen) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.halfOpen, h)
}
