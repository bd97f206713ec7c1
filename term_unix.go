//go:build linux || darwin

package main

import (
	"encoding/binary"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	canSuspend  = true
	defaultTERM = "dumb"
)

// terminalSize is in characters and, where the terminal tells, pixels.
func terminalSize(f *os.File) (windowChangeMsg, error) {
	if f == nil {
		return windowChangeMsg{}, os.ErrInvalid
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return windowChangeMsg{}, err
	}
	return windowChangeMsg{uint32(ws.Col), uint32(ws.Row), uint32(ws.Xpixel), uint32(ws.Ypixel)}, nil
}

// watchResize returns a channel that has a value after each change of size,
// until stop closes it.
func watchResize(*os.File) (_ <-chan os.Signal, stop func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGWINCH)
	return ch, func() { signal.Stop(ch); close(ch) }
}

// hideTyping has a terminal show nothing of what is typed.
func hideTyping(f *os.File) error {
	t, err := unix.IoctlGetTermios(int(f.Fd()), ioctlGetTermios)
	if err != nil {
		return err
	}
	t.Lflag &^= unix.ECHO
	return unix.IoctlSetTermios(int(f.Fd()), ioctlSetTermios, t)
}

// suspendSelf stops the job, as ^Z would, and returns when it goes on. In an
// orphaned process group the kernel ignores SIGTSTP and no SIGCONT comes:
// stopWait bounds the wait for it.
func suspendSelf() {
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, unix.SIGCONT)
	defer signal.Stop(resumed)
	unix.Kill(0, unix.SIGTSTP)
	const stopWait = 200 * time.Millisecond
	patience := time.NewTimer(stopWait)
	defer patience.Stop()
	select {
	case <-resumed:
	case <-patience.C:
	}
}

// rawOutput has nothing to do: on Unix the modes of input and output are one.
func rawOutput(*os.File) (undo func()) { return func() {} }

// A stdinReader reads a file whose Read cannot be interrupted, a terminal or a
// pipe in blocking mode, only when poll says that something is there.
type stdinReader struct {
	f    *os.File
	ring *os.File // closed by cancel, so that wake is readable
	once sync.Once

	reading sync.Mutex
	wake    *os.File // guarded by reading; nil once cancelled
}

func newStdinReader(f *os.File) sessionInput {
	wake, ring, err := os.Pipe()
	if err != nil { // no descriptors left: then only the end of f is an end
		return uninterrupted{f}
	}
	return &stdinReader{f: f, ring: ring, wake: wake}
}

func (r *stdinReader) Read(b []byte) (int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	for r.wake != nil {
		fds := []unix.PollFd{
			{Fd: int32(r.f.Fd()), Events: unix.POLLIN},
			{Fd: int32(r.wake.Fd()), Events: unix.POLLIN},
		}
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
		case err == nil && fds[1].Revents != 0:
			r.closeLocked()
		default:
			return r.f.Read(b)
		}
	}
	return 0, io.EOF
}

// cancel ends the Read that waits and all later ones.
func (r *stdinReader) cancel() {
	r.once.Do(func() { r.ring.Close() })
	if r.reading.TryLock() { // else the Read that holds it wakes up
		r.closeLocked()
		r.reading.Unlock()
	}
}

func (r *stdinReader) closeLocked() {
	if r.wake != nil {
		r.wake.Close()
		r.wake = nil
	}
}

type uninterrupted struct{ io.Reader }

func (uninterrupted) cancel() {}

// terminalModes encodes the modes of f as RFC 4254, section 8 has them.
func terminalModes(f *os.File) string {
	t, err := unix.IoctlGetTermios(int(f.Fd()), ioctlGetTermios)
	if err != nil {
		return "\x00"
	}
	var b []byte
	put := func(op byte, value uint32) {
		b = binary.BigEndian.AppendUint32(append(b, op), value)
	}
	for op := range byte(ptyOpISpeed) {
		if at, ok := ptyChars[op]; ok {
			put(op, uint32(t.Cc[at]))
		} else if f, ok := ptyFlags[op]; ok {
			put(op, uint32(boolByte(*f.of(t)&f.bit == f.bit)))
		}
	}
	// The speed means nothing on a pseudo-terminal; some programs want one.
	put(ptyOpISpeed, 38400)
	put(ptyOpOSpeed, 38400)
	return string(append(b, 0))
}
