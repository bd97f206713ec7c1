package main

// This file is a client of SFTP version 3 (draft-ietf-secsh-filexfer-02) on any
// byte stream. Requests are pipelined: begin sends one and returns what waits
// for its answer. What the server says is hostile until it is parsed; an answer
// is never larger than what was asked for.

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"golang.org/x/crypto/cryptobyte"
)

// Bounds in bytes. What is neither data nor names is far smaller than a packet
// may be. In flight are 300 ms at 50 Mbit/s and what an SSH window of 2 MiB
// holds besides.
const (
	maxSFTPAnswer = 34 << 10
	sftpInFlight  = 4 << 20
	sftpProbe     = 4 << 10 // a READ where the end is expected
	maxSFTPHandle = 256     // section 3
)

// A sftpError is a STATUS that is no success.
type sftpError struct {
	code uint32
	text string
}

func (e *sftpError) Error() string {
	switch text := e.text; {
	case text != "" && text != "Failure":
		return strings.ToLower(text[:1]) + text[1:]
	case e.code == sftpNoSuchFile:
		return "no such file"
	case e.code == sftpDenied:
		return "permission denied"
	}
	return fmt.Sprintf("failed, and the device does not say why (status %d)", e.code)
}

func (e *sftpError) Is(target error) bool {
	return target == fs.ErrNotExist && e.code == sftpNoSuchFile || target == fs.ErrPermission && e.code == sftpDenied ||
		target == errors.ErrUnsupported && e.code == sftpUnsupported
}

// A sftpClient is one session. Its methods may be called from any goroutine.
type sftpClient struct {
	rw       io.ReadWriteCloser
	why      func(error) error // what a broken stream means to a person
	ext      map[string]bool   // extensions that the server has announced
	chunk    int               // data of a READ or WRITE, bytes
	files    int               // that may be open at once
	inFlight *byteBudget
	spare    chan []byte // buffers of chunk bytes

	sending sync.Mutex
	out     []byte // guarded by sending

	mu    sync.Mutex
	calls map[uint32]*sftpCall // guarded by mu
	last  uint32               // guarded by mu
	err   error                // guarded by mu; why it is over

	loop sync.WaitGroup
}

// newSFTPClient greets the server and learns its limits: two round trips. On
// an error rw is closed.
func newSFTPClient(rw io.ReadWriteCloser, why func(error) error) (*sftpClient, error) {
	c := &sftpClient{rw: rw, why: why, ext: map[string]bool{}, chunk: sshChunk, files: 64,
		inFlight: newByteBudget(sftpInFlight), spare: make(chan []byte, sftpInFlight/maxSFTPData), calls: map[uint32]*sftpCall{}}
	r := bufio.NewReaderSize(rw, sshChunk)
	if err := c.greet(r); err != nil {
		rw.Close()
		return nil, why(err)
	}
	c.loop.Go(func() {
		for {
			if err := c.readAnswer(r); err != nil {
				c.fail(err)
				return
			}
		}
	})
	if c.ext[sftpLimits] {
		if err := c.learnLimits(); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *sftpClient) greet(r io.Reader) error {
	hello := sftpRequest{kind: sftpInit, id: sftpVersion}
	if _, err := c.rw.Write(hello.appendTo(nil)); err != nil {
		return err
	}
	packet, err := readSFTPPacket(r, nil)
	if errors.Is(err, errSFTPLong) {
		return errors.New("what it answers is no SFTP: a login script may print something")
	}
	if err != nil {
		return err
	}
	v, err := parseSFTPReply(packet)
	if err != nil {
		return err
	}
	if v.kind != sftpVersionReply || v.id != sftpVersion {
		return fmt.Errorf("it does not speak SFTP version %d", sftpVersion)
	}
	for _, e := range v.exts {
		c.ext[e.name] = true
	}
	return nil
}

// learnLimits asks for the sizes that the server takes: PROTOCOL of OpenSSH,
// section 4.8. Zero is "not said".
func (c *sftpClient) learnLimits() error {
	reply, err := c.extended(sftpLimits, nil).expect(sftpExtendedReply)
	if err != nil {
		return err
	}
	var most, read, write, handles uint64
	s := cryptobyte.String(reply.data)
	if !s.ReadUint64(&most) || !s.ReadUint64(&read) || !s.ReadUint64(&write) || !s.ReadUint64(&handles) {
		return fmt.Errorf("%s: %w", sftpLimits, errSFTPShort)
	}
	for _, n := range []uint64{read, write} {
		if n > 0 && (c.chunk == sshChunk || n < uint64(c.chunk)) {
			c.chunk = int(min(n, maxSFTPData))
		}
	}
	if handles > 0 {
		c.files = int(min(handles, uint64(c.files)))
	}
	return nil
}

// close ends the session and returns when nothing of it runs any more.
func (c *sftpClient) close() {
	c.fail(errors.New("the transfer is over"))
	c.loop.Wait()
}

// fail ends every call that waits.
func (c *sftpClient) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = c.why(err)
	c.rw.Close()
	for id, call := range c.calls {
		call.err = c.err
		close(call.done)
		delete(c.calls, id)
	}
}

// over is why the session is over, nil while it is not.
func (c *sftpClient) over() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// An sftpCall is a request under way.
type sftpCall struct {
	done   chan struct{} // closed when the rest is set
	most   int           // the answer's packet, bytes
	packet []byte
	err    error
}

// begin sends a request and does not wait for its answer, whose packet has at
// most so many bytes. Nothing of q is kept.
func (c *sftpClient) begin(most int, q sftpRequest) *sftpCall {
	call := &sftpCall{done: make(chan struct{}), most: most}
	c.sending.Lock()
	defer c.sending.Unlock()
	c.mu.Lock()
	if c.err != nil {
		call.err = c.err
		close(call.done)
		c.mu.Unlock()
		return call
	}
	c.last++
	q.id = c.last
	c.calls[q.id] = call
	c.mu.Unlock()
	c.out = q.appendTo(c.out[:0])
	if _, err := c.rw.Write(c.out); err != nil {
		c.fail(err)
	}
	return call
}

// readAnswer takes one answer and gives it to whoever waits for it.
func (c *sftpClient) readAnswer(r *bufio.Reader) error {
	head, err := r.Peek(9)
	if err != nil {
		return err
	}
	n, id := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[5:])
	if n < 5 || n > maxSFTPPacket {
		return errSFTPLong
	}
	c.mu.Lock()
	call := c.calls[id]
	c.mu.Unlock()
	if call == nil {
		return errors.New("it answers what was not asked")
	}
	if int(n) > call.most {
		return fmt.Errorf("an answer has %d bytes where at most %d were asked for", n, call.most)
	}
	packet, err := readSFTPPacket(r, c.buffer(int(n)))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[id] == call { // else it has failed meanwhile
		delete(c.calls, id)
		call.packet = packet
		close(call.done)
	}
	return nil
}

// dataSlack is what a DATA answer has besides the data, and room for a STATUS
// in its place.
const dataSlack = 1 << 10

// buffer returns n bytes, a spare chunk where many are wanted.
func (c *sftpClient) buffer(n int) []byte {
	if n < sshChunk/2 {
		return make([]byte, n)
	}
	select {
	case b := <-c.spare:
		if n <= cap(b) {
			return b[:n]
		}
	default:
	}
	return make([]byte, n, max(n, c.chunk+dataSlack))
}

// release gives back what came from buffer.
func (c *sftpClient) release(b []byte) {
	if cap(b) < c.chunk+64 { // the nine bytes before data are lost each time
		return
	}
	select {
	case c.spare <- b[:cap(b)]:
	default:
	}
}

// expect waits for an answer of a kind. io.EOF is the server's.
func (call *sftpCall) expect(kind byte) (r sftpReply, err error) {
	<-call.done
	if call.err != nil {
		return r, call.err
	}
	r, err = parseSFTPReply(call.packet)
	switch {
	case err != nil || r.kind == kind && kind != sftpStatus:
		return r, err
	case r.kind != sftpStatus:
		return r, fmt.Errorf("the device answers with packet type %d, not %d", r.kind, kind)
	case r.code == sftpEOF:
		return r, io.EOF
	case r.code != sftpOK:
		return r, &sftpError{r.code, r.text[:min(len(r.text), maxBannerReason)]}
	case kind != sftpStatus:
		return r, errors.New("the device answers with success where data was asked for")
	}
	return r, nil
}

// status waits for success.
func (call *sftpCall) status() error {
	_, err := call.expect(sftpStatus)
	if err == io.EOF {
		err = errors.New("the device answers with end of file")
	}
	return err
}

func (call *sftpCall) handle() (string, error) {
	r, err := call.expect(sftpHandle)
	if err == nil && len(r.data) > maxSFTPHandle {
		err = fmt.Errorf("the device gives a handle of %d bytes", len(r.data))
	}
	return string(r.data), err
}

func (call *sftpCall) attrs() (sftpAttrs, error) {
	r, err := call.expect(sftpAttrsReply)
	return r.attrs, err
}

// oneName waits for a NAME answer that has to be one path.
func (call *sftpCall) oneName() (string, error) {
	r, err := call.expect(sftpNames)
	if err == nil && (len(r.names) != 1 || r.names[0].name == "" || strings.IndexByte(r.names[0].name, 0) >= 0) {
		err = errors.New("the device answers with no path")
	}
	if err != nil {
		return "", err
	}
	return r.names[0].name, nil
}

// path begins a request of a path or handle alone.
func (c *sftpClient) path(kind byte, name string) *sftpCall {
	return c.begin(maxSFTPAnswer, sftpRequest{kind: kind, path: name})
}

// give begins a request that gives a path or handle attributes.
func (c *sftpClient) give(kind byte, name string, a sftpAttrs) *sftpCall {
	return c.begin(maxSFTPAnswer, sftpRequest{kind: kind, path: name, attrs: a})
}

func (c *sftpClient) open(name string, flags uint32, a sftpAttrs) *sftpCall {
	return c.begin(maxSFTPAnswer, sftpRequest{kind: sftpOpen, path: name, pflags: flags, attrs: a})
}

// extended begins a request of an extension.
func (c *sftpClient) extended(name string, rest []byte) *sftpCall {
	return c.begin(maxSFTPAnswer, sftpRequest{kind: sftpExtended, path: name, rest: rest})
}

// list calls each for every entry of a directory, "." and ".." too. The names
// are as the device claims.
func (c *sftpClient) list(dir string, each func(sftpName) error) error {
	h, err := c.path(sftpOpendir, dir).handle()
	if err != nil {
		return err
	}
	defer c.path(sftpClose, h)
	ask := func() *sftpCall { return c.begin(maxSFTPPacket, sftpRequest{kind: sftpReaddir, path: h}) }
	for next := ask(); ; {
		call := next
		next = ask() // a page ahead
		r, err := call.expect(sftpNames)
		for i := 0; i < len(r.names) && err == nil; i++ {
			err = each(r.names[i])
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// A byteBudget bounds what is in flight.
type byteBudget struct {
	mu   sync.Mutex
	free int // guarded by mu
	more *sync.Cond
}

func newByteBudget(n int) *byteBudget {
	b := &byteBudget{free: n}
	b.more = sync.NewCond(&b.mu)
	return b
}

// take waits for n bytes, or returns false when it should not wait.
func (b *byteBudget) take(n int, wait bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.free < n {
		if !wait {
			return false
		}
		b.more.Wait()
	}
	b.free -= n
	return true
}

func (b *byteBudget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.more.Broadcast()
}
