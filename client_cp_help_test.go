//go:build !windows

package main

// A device for the tests of cp and sftp: OpenSSH's sftp-server behind a hand
// that adds our digest of ranges, cuts, and lies.

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/ssh"
)

// A sftpHand is what it does besides handing on.
type sftpHand struct {
	ours    bool                              // our own sftp-server, which has digests itself
	sums    bool                              // announce and answer sha256-range@sessio
	request func(q *sftpRequest) bool         // false cuts the connection
	reply   func(q sftpRequest, r *sftpReply) // may change it; kind 0 cuts
}

// A sftpHanding is one connection.
type sftpHanding struct {
	*sftpHand
	mu      sync.Mutex
	asked   map[uint32]sftpRequest // guarded by mu
	handles map[string]string      // guarded by mu; paths of open files
}

// newSFTPPeer starts such a device.
func newSFTPPeer(t testing.TB, h *sftpHand) *sshcPeer {
	const server = "/usr/lib/openssh/sftp-server"
	if _, err := os.Stat(server); err != nil {
		t.Fatal("needs OpenSSH's sftp-server: ", err)
	}
	return sshcServer(t, sshcOpenDoor(), func(nc ssh.NewChannel, conn ssh.Conn) {
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		defer ch.Close()
		for r := range requests {
			if r.Reply(r.Type == "subsystem", nil); r.Type == "subsystem" {
				break
			}
		}
		go ssh.DiscardRequests(requests)
		if h.ours {
			h.serveOurs(t, ch, conn)
			return
		}
		cmd := exec.Command(server)
		in, inErr := cmd.StdinPipe()
		out, outErr := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil || inErr != nil || outErr != nil {
			t.Errorf("sftp-server: %v", err)
			return
		}
		h := &sftpHanding{sftpHand: h, asked: map[uint32]sftpRequest{}, handles: map[string]string{}}
		var ways sync.WaitGroup
		ways.Go(func() {
			if h.requests(in, ch) {
				conn.Close()
			}
			in.Close()
		})
		h.replies(ch, out)
		cmd.Process.Kill() // it may wait to be read
		conn.Close()
		ways.Wait()
		cmd.Wait()
	})
}

// serveOurs is our own server in OpenSSH's place.
func (h *sftpHand) serveOurs(t testing.TB, ch ssh.Channel, conn ssh.Conn) {
	door, err := openFileDoor(fileRules{protocol: kindSFTP, home: "/"}, nil)
	if err != nil {
		t.Error(err)
		return
	}
	defer door.close()
	asks, in := io.Pipe()
	out, answers := io.Pipe()
	hand := &sftpHanding{sftpHand: h, asked: map[uint32]sftpRequest{}, handles: map[string]string{}}
	var ways sync.WaitGroup
	ways.Go(func() {
		if hand.requests(in, ch) {
			conn.Close()
		}
		in.Close()
	})
	ways.Go(func() {
		(&sftpServer{door: door}).serve(t.Context(), asks, answers)
		asks.Close()
		answers.Close()
	})
	hand.replies(ch, out)
	out.Close()
	conn.Close()
	ways.Wait()
}

// requests hands requests on until their end, or until one cuts.
func (h *sftpHanding) requests(to io.Writer, from io.Reader) (cut bool) {
	for {
		packet, err := readSFTPPacket(from, nil)
		if err != nil {
			return false
		}
		q, err := parseSFTPRequest(packet)
		if err != nil {
			return true
		}
		if h.request != nil && !h.request(&q) {
			return true
		}
		h.mu.Lock()
		if q.kind != sftpInit {
			h.asked[q.id] = q
		}
		h.mu.Unlock()
		if q.kind == sftpExtended && q.path == sftpSHA256 && !h.ours { // waits its turn as a look at the file
			var handle string
			rest := cryptobyte.String(q.rest)
			readSFTPString(&rest, &handle)
			q = sftpRequest{kind: sftpFstat, id: q.id, path: handle}
		}
		if _, err := to.Write(q.appendTo(nil)); err != nil {
			return false
		}
	}
}

func (h *sftpHanding) replies(to io.Writer, from io.Reader) {
	for {
		packet, err := readSFTPPacket(from, nil)
		if err != nil {
			return
		}
		r, err := parseSFTPReply(packet)
		if err != nil {
			return
		}
		if r.kind == sftpVersionReply {
			if h.sums {
				r.exts = append(r.exts, sftpExt{sftpSHA256, "1"})
			}
		} else {
			h.mu.Lock()
			q := h.asked[r.id]
			delete(h.asked, r.id)
			if q.kind == sftpOpen && r.kind == sftpHandle {
				h.handles[string(r.data)] = q.path
			}
			if q.kind == sftpExtended && q.path == sftpSHA256 && !h.ours {
				r = h.sumLocked(q)
			}
			h.mu.Unlock()
			if h.reply != nil {
				h.reply(q, &r)
			}
			if r.kind == 0 {
				return
			}
		}
		if _, err := to.Write(r.appendTo(nil)); err != nil {
			return
		}
	}
}

func (h *sftpHanding) sumLocked(q sftpRequest) sftpReply {
	var handle string
	var off, n uint64
	rest := cryptobyte.String(q.rest)
	if !readSFTPString(&rest, &handle) || !rest.ReadUint64(&off) || !rest.ReadUint64(&n) {
		return sftpReply{kind: sftpStatus, id: q.id, code: sftpBadMessage}
	}
	b, err := os.ReadFile(h.handles[handle])
	if err != nil {
		return sftpReply{kind: sftpStatus, id: q.id, code: sftpFailure, text: err.Error()}
	}
	b = b[min(off, uint64(len(b))):]
	if n > 0 {
		b = b[:min(n, uint64(len(b)))]
	}
	sum := sha256.Sum256(b)
	return sftpReply{kind: sftpExtendedReply, id: q.id, data: binary.BigEndian.AppendUint64(sum[:], uint64(len(b)))}
}
