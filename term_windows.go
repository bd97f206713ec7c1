package main

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/term"
)

const (
	canSuspend  = false
	defaultTERM = "xterm-256color"
)

// terminalSize is in characters; the console tells no pixels. The size belongs
// to the output, so that of standard output stands in for an input's.
func terminalSize(f *os.File) (windowChangeMsg, error) {
	if f == nil {
		return windowChangeMsg{}, os.ErrInvalid
	}
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		cols, rows, err = term.GetSize(int(os.Stdout.Fd()))
	}
	return windowChangeMsg{Cols: uint32(cols), Rows: uint32(rows)}, err
}

// watchResize returns a channel that has a value after each change of size,
// until stop closes it. The console tells of changes only among key events,
// so it is asked.
func watchResize(f *os.File) (_ <-chan os.Signal, stop func()) {
	const pollGap = 250 * time.Millisecond
	ch, done := make(chan os.Signal, 1), make(chan struct{})
	var loop sync.WaitGroup
	loop.Go(func() {
		defer close(ch)
		tick := time.NewTicker(pollGap)
		defer tick.Stop()
		last, _ := terminalSize(f)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if now, err := terminalSize(f); err == nil && now != last {
				last = now
				select {
				case ch <- os.Interrupt: // only its coming counts
				default:
				}
			}
		}
	})
	return ch, func() { close(done); loop.Wait() }
}

// hideTyping has nothing to do: reading a secret hides it.
func hideTyping(*os.File) error { return nil }

func suspendSelf() {} // canSuspend is false

// rawOutput makes the console obey the escape sequences of the far end.
func rawOutput(*os.File) (undo func()) {
	h := windows.Handle(os.Stdout.Fd())
	var mode uint32
	if windows.GetConsoleMode(h, &mode) != nil {
		return func() {}
	}
	windows.SetConsoleMode(h, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING|windows.DISABLE_NEWLINE_AUTO_RETURN)
	return func() { windows.SetConsoleMode(h, mode) }
}

// terminalModes has nothing to tell: the far end takes its defaults.
func terminalModes(*os.File) string { return "\x00" }

// A stdinReader reads through a goroutine that is left behind in its last Read
// when cancelled: a console's Read cannot be interrupted. It ends with the
// process.
type stdinReader struct {
	io.Reader
	w *io.PipeWriter
}

func newStdinReader(f *os.File) sessionInput {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, f)
		w.CloseWithError(err)
	}()
	return stdinReader{r, w}
}

func (r stdinReader) cancel() { r.w.Close() }
