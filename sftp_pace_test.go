//go:build linux || darwin

package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A paceClient reads a file of a paced server, in a bubble.
type paceClient struct {
	t    *testing.T
	in   *io.PipeWriter
	mu   sync.Mutex
	out  bytes.Buffer // sent and not fetched
	done chan error
	want []byte
	got  []byte
	next uint64
	id   uint32
	ends int
}

func (c *paceClient) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func newPaceClient(t *testing.T, size int) *paceClient {
	t.Helper()
	dir := t.TempDir()
	c := &paceClient{t: t, done: make(chan error, 1), got: make([]byte, 0, size), want: bytes.Repeat([]byte("0123456789abcdeF"), size/16)}
	if err := os.WriteFile(filepath.Join(dir, "f"), c.want, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openFileDoor(fileRules{protocol: kindSFTP, user: "ann", root: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	c.in = w
	go func() {
		defer d.close()
		c.done <- (&sftpServer{door: d, pace: new(sftpPace)}).serve(t.Context(), r, c)
	}()
	c.send(sftpRequest{kind: sftpInit, id: sftpVersion})
	c.send(sftpRequest{kind: sftpOpen, path: "f", pflags: sftpOpenRead})
	c.fetch()
	c.fetch()
	return c
}

func (c *paceClient) send(r sftpRequest) {
	c.id++
	if r.kind != sftpInit {
		r.id = c.id
	}
	if _, err := c.in.Write(r.appendTo(nil)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *paceClient) ask() {
	c.send(sftpRequest{kind: sftpRead, path: "\x00\x00\x00\x01", offset: c.next, length: maxSFTPData})
	c.next += maxSFTPData
}

// held is how many bytes have come that the client has not fetched.
func (c *paceClient) held() int {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Len()
}

// fetch takes one answer and keeps its data. Nothing there: it waits, and time
// passes.
func (c *paceClient) fetch() {
	c.t.Helper()
	for c.held() == 0 {
		time.Sleep(time.Millisecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	packet, err := readSFTPPacket(&c.out, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	reply, err := parseSFTPReply(packet)
	switch {
	case err != nil:
		c.t.Fatal(err)
	case reply.kind == sftpData:
		c.got = append(c.got, reply.data...)
	case reply.kind == sftpStatus:
		c.ends++
	}
}

func (c *paceClient) end() {
	c.t.Helper()
	c.in.Close()
	if err := <-c.done; err != nil {
		c.t.Error(err)
	}
	if !bytes.Equal(c.got, c.want) {
		c.t.Errorf("%d bytes came, or others, not %d", len(c.got), len(c.want))
	}
}

// A client that asks as OpenSSH's sftp does never has more than a mebibyte to
// fetch (a READ more while it asks for ever more), and never waits.
func TestSFTPPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 30 << 20
		c := newPaceClient(t, size)
		began, most, under, peak := time.Now(), 1, 0, 0
		for len(c.got) < size || under > 0 {
			for ; under < most; under++ {
				c.ask()
			}
			if c.next < size {
				peak = max(peak, c.held())
			}
			c.fetch()
			under--
			switch {
			case c.ends > 0:
				most = 0
			case c.next > size:
				most = 1
			case most < sftpRamp:
				most++
			}
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("it waits for %v", took)
		}
		if peak < sftpAhead/2 || peak > sftpAhead+maxSFTPData {
			t.Errorf("at most %d bytes were on the way", peak)
		}
		c.end()
	})
}

// One that asks in another way waits three times at most.
func TestSFTPPaceOtherClients(t *testing.T) {
	for _, under := range []int{1, 4, 300} {
		synctest.Test(t, func(t *testing.T) {
			const size = 12 << 20
			c := newPaceClient(t, size)
			began := time.Now()
			for n := 0; len(c.got) < size; n-- {
				for ; n < under && c.next < size; n++ {
					c.ask()
				}
				c.fetch()
			}
			if took := time.Since(began); took > maxSFTPWaits*sftpPaceWait+10*time.Millisecond {
				t.Errorf("%d at a time: it waits for %v", under, took)
			}
			c.end()
		})
	}
}

// What is asked before another request, or before the end, is answered before.
func TestSFTPPaceInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPaceClient(t, 20<<20)
		for range 40 {
			c.ask()
		}
		if held := c.held(); held > 30*maxSFTPData {
			t.Errorf("%d bytes on the way", held)
		}
		c.send(sftpRequest{kind: sftpFstat, path: "\x00\x00\x00\x01"})
		for range 20 {
			c.ask()
		}
		c.in.Close()
		if err := <-c.done; err != nil {
			t.Error(err)
		}
		var ids []uint32
		for c.out.Len() > 0 {
			packet, err := readSFTPPacket(&c.out, nil)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, binary.BigEndian.Uint32(packet[1:]))
		}
		for i, id := range ids {
			if id != uint32(i)+3 {
				t.Fatalf("answers to %v", ids)
			}
		}
		if len(ids) != 61 {
			t.Errorf("%d answers", len(ids))
		}
	})
}
