package main

// This file puts a forward into the background. A Go program cannot fork: it
// starts itself again with the same words, detached, and reads from that child's
// standard output one line of JSON, which says that every forward is up, or why
// not. Only then does the parent end. What the child has to say later goes to
// DIR/forwards/ID.log.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
)

// behindEnv, in its environment, tells a process that it is that child.
const behindEnv = "SESSIO_FORWARD_BEHIND"

// A behindMsg is what the child reports.
type behindMsg struct {
	lendAnswer
	Status int    `json:"status,omitempty"` // to exit with
	Lines  string `json:"lines,omitempty"`  // to be printed
}

// startBehind returns when the child's forwards are up, or when it has ended
// without.
func startBehind(ctx context.Context, p *program) error {
	return interruptible(ctx, func(ctx context.Context) error {
		m, err := runBehind(ctx)
		if err != nil {
			return fmt.Errorf("going to the background: %w", err)
		}
		if err := m.err(); err != nil {
			return &exitError{m.Status, err}
		}
		_, err = p.out.WriteString(m.Lines)
		return err
	})
}

func runBehind(ctx context.Context) (m behindMsg, err error) {
	exe, err := os.Executable()
	if err != nil {
		return m, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return m, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return m, err
	}
	defer r.Close()
	child, err := os.StartProcess(exe, os.Args, &os.ProcAttr{Env: append(os.Environ(), behindEnv+"=1"),
		Files: []*os.File{null, w, null}, Sys: detached()})
	w.Close()
	if err != nil {
		return m, err
	}
	unhook := context.AfterFunc(ctx, func() { endProcess(child) })
	line, err := bufio.NewReaderSize(r, maxLendLine).ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &m)
	} else {
		err = errors.New("the process there ended without a word")
	}
	if unhook() && err == nil && m.Error == "" {
		return m, child.Release()
	}
	_, waitErr := child.Wait()
	return m, errors.Join(err, waitErr)
}

// report tells the parent, once; what follows has nobody to be told.
func (m behindMsg) report(out *os.File) error {
	err := writeLine(out, m)
	out.Close()
	return err
}

// maxForwardLog bounds the log of a forward in the background, in bytes: some
// hundred lines.
const maxForwardLog = 64 << 10

// openLog makes the log, which is where a crash goes too.
func (h *forwardHome) openLog() (err error) {
	h.log, err = os.OpenFile(h.file(".log"), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err == nil {
		err = debug.SetCrashOutput(h.log, debug.CrashOptions{})
	}
	return err
}

// trimLog leaves the newer half of a log that has grown too long.
func trimLog(f *os.File) {
	info, err := f.Stat()
	if err != nil || info.Size() <= maxForwardLog {
		return
	}
	b := make([]byte, maxForwardLog/2)
	n, _ := f.ReadAt(b, info.Size()-int64(len(b)))
	if f.Truncate(0) == nil {
		f.Write(b[:n])
	}
}
