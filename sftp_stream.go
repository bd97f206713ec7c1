package main

// This file moves a file's bytes over an SFTP session with several requests in
// flight, in order at this end, whatever the server's answers are cut to.

import (
	"fmt"
	"io"
)

// A sftpReader reads an open file from beginning to end.
type sftpReader struct {
	c      *sftpClient
	handle string
	at     int64 // where the next request begins
	size   int64 // what the file is said to have; -1: read on
	probed bool  // the end was asked for
	asked  []sftpAsk
}

type sftpAsk struct {
	call *sftpCall
	off  int64
	n    int
}

func (r *sftpReader) ask(off int64, n int) sftpAsk {
	return sftpAsk{r.c.begin(n+dataSlack, sftpRequest{kind: sftpRead, path: r.handle, offset: uint64(off), length: uint32(n)}), off, n}
}

// fill sends requests while there is room for their answers. One is always
// under way.
func (r *sftpReader) fill() {
	for !r.probed {
		n := r.c.chunk
		if left := r.size - r.at; r.size >= 0 && left > 0 {
			n = int(min(left, int64(n)))
		} else if r.size >= 0 {
			n, r.probed = sftpProbe, true
		}
		if !r.c.inFlight.take(n, len(r.asked) == 0) {
			r.probed = false
			return
		}
		r.asked = append(r.asked, r.ask(r.at, n))
		r.at += int64(n)
	}
}

// next returns the bytes that follow, which release takes back, and io.EOF
// behind the last.
func (r *sftpReader) next() (data []byte, err error) {
	r.fill()
	if len(r.asked) == 0 {
		return nil, io.EOF
	}
	a := r.asked[0]
	reply, err := a.call.expect(sftpData)
	if data = reply.data; err == nil && (len(data) == 0 || len(data) > a.n) {
		err = fmt.Errorf("the device answers a read of %d bytes with %d", a.n, len(data))
	}
	if err != nil {
		return nil, err
	}
	r.c.inFlight.give(len(data))
	if a.n -= len(data); a.n == 0 {
		r.asked = r.asked[1:]
		if len(r.asked) == 0 && r.probed { // it has grown
			r.size, r.probed = -1, false
		}
		return data, nil
	}
	r.asked[0] = r.ask(a.off+int64(len(data)), a.n)
	r.asked[0].off = a.off + int64(len(data))
	return data, nil
}

// stop waits for what is under way.
func (r *sftpReader) stop() {
	for _, a := range r.asked {
		<-a.call.done
		r.c.inFlight.give(a.n)
	}
	r.asked, r.probed = nil, true
}

// A sftpWriter writes an open file. A failure is known some writes later, or
// from flush.
type sftpWriter struct {
	c      *sftpClient
	handle string
	sent   []sftpSent
	good   int64 // the end of what is written for certain, without a gap
	err    error // the first failure
}

type sftpSent struct {
	call    *sftpCall
	n       int
	end     int64 // of what it writes
	mayFail bool  // it is only a wish
}

// also keeps an eye on a request that is no write.
func (w *sftpWriter) also(call *sftpCall, mayFail bool) {
	w.sent = append(w.sent, sftpSent{call: call, mayFail: mayFail})
}

// write sends data, of at most a chunk; it is not kept.
func (w *sftpWriter) write(off int64, data []byte) error {
	for w.err == nil && !w.c.inFlight.take(len(data), len(w.sent) == 0) {
		w.settle()
	}
	if w.err != nil {
		return w.err
	}
	w.sent = append(w.sent, sftpSent{w.c.begin(maxSFTPAnswer, sftpRequest{kind: sftpWrite, path: w.handle, offset: uint64(off), data: data}), len(data), off + int64(len(data)), false})
	return nil
}

// settle waits for the oldest write.
func (w *sftpWriter) settle() {
	s := w.sent[0]
	w.sent = w.sent[1:]
	err := s.call.status()
	w.c.inFlight.give(s.n)
	if w.err == nil && !s.mayFail {
		w.err = err
	}
	if w.err == nil {
		w.good = max(w.good, s.end)
	}
}

// flush waits for every write and returns the first failure.
func (w *sftpWriter) flush() error {
	for len(w.sent) > 0 {
		w.settle()
	}
	return w.err
}
