//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxCoordBytes is what may pass the coordinator's port while a client and a
// device meet and move any number of bytes between them.
const maxCoordBytes = 20 << 10

// The coordinator sees no byte of a session: a relay before its port, which is
// all that anybody knows of it, counts what passes from the client's start to
// the end of a transfer.
func TestAttackCoordinatorSeesNoSession(t *testing.T) {
	t.Parallel()
	size := int64(20 << 20)
	if slowTests() {
		size = 100 << 20
	}
	c := newAttackCoord(t)
	r := newAttackRelay(t, addrPortOf(c.mux.UDPConn.LocalAddr()))
	w := newWorldAt(t, c, r.addr().String())
	attic := w.join("attic")
	w.signDevice(attic, "server")
	attic.run(defaultHold)
	in, out, began := r.in.Load(), r.out.Load(), time.Now()
	conn, err := dialSSH(t.Context(), w.laptop.client(), "attic", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.close()
	for name, move := range map[string]func(ssh.Channel) (int64, error){
		"down": func(ch ssh.Channel) (int64, error) { return io.Copy(io.Discard, ch) },
		"up": func(ch ssh.Channel) (int64, error) {
			_, err := io.Copy(ch, io.LimitReader(zeroReader{}, size))
			if err == nil {
				err = ch.CloseWrite()
			}
			var n int64
			if err == nil {
				_, err = fmt.Fscan(ch, &n)
			}
			return n, err
		},
	} {
		command := map[string]string{"down": fmt.Sprintf("head -c %d /dev/zero", size), "up": "wc -c"}[name]
		if n, err := moveBytes(t.Context(), conn, command, move); err != nil || n != size {
			t.Errorf("%s: %d of %d bytes, %v", name, n, size, err)
		}
	}
	in, out = r.in.Load()-in, r.out.Load()-out
	t.Logf("%d bytes each way in %v: %d bytes to the coordinator, %d from it", size, time.Since(began), in, out)
	if in+out > maxCoordBytes {
		t.Errorf("%d bytes passed the coordinator's port, at most %d", in+out, maxCoordBytes)
	}
	if in == 0 || out == 0 {
		t.Error("nobody has met by way of the relay: it has counted nothing")
	}
}

// moveBytes runs command on a channel of its own and moves bytes by it.
func moveBytes(ctx context.Context, c *sshClient, command string, move func(ssh.Channel) (int64, error)) (int64, error) {
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		return 0, err
	}
	defer ch.Close()
	defer context.AfterFunc(ctx, func() { ch.Close() })()
	go ssh.DiscardRequests(reqs)
	if _, err := ch.SendRequest("exec", true, ssh.Marshal(execMsg{command})); err != nil {
		return 0, err
	}
	return move(ch)
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }
