package main

// This file is the verbs that ask the forwards that run in a state directory,
// in the foreground or not, and end them.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// askForward sends a word to one of them. The caller closes the connection.
func askForward(ctx context.Context, dir, id, word string) (s forwardStatus, c net.Conn, err error) {
	path, done, err := lendPath(filepath.Join(dir, "forwards"), id+".sock")
	if err != nil {
		return s, nil, err
	}
	defer done()
	if c, err = new(net.Dialer).DialContext(ctx, "unix", path); err != nil {
		return s, nil, err
	}
	c.SetDeadline(time.Now().Add(2 * lendWait)) // another may be answered first
	_, err = io.WriteString(c, word+"\n")
	var line []byte
	if err == nil {
		line, err = bufio.NewReaderSize(c, maxLendLine).ReadSlice('\n')
	}
	if err == nil {
		err = json.Unmarshal(line, &s)
	}
	if err != nil {
		c.Close()
		return s, nil, err
	}
	c.SetDeadline(time.Time{})
	return s, c, nil
}

// runningForwards asks all of them, in order of their ids. What a killed
// process has left is removed; one that lives and does not answer is silent.
func runningForwards(ctx context.Context, dir string) (list []forwardStatus, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, "forwards"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".sock")
		if _, err := strconv.ParseUint(id, 10, 16); !ok || err != nil {
			continue
		}
		s, c, err := askForward(ctx, dir, id, "status")
		if err == nil {
			c.Close()
		} else {
			h := &forwardHome{dir: dir, id: id}
			if h.lock, err = holdFile(h.file(".lock")); err == nil {
				os.Remove(h.file(".log"))
				h.release()
				continue
			}
			s.State = "silent"
		}
		s.ID = id
		list = append(list, s)
	}
	sortBy(list, func(a, b forwardStatus) int { return len(a.ID) - len(b.ID) }) // names came sorted
	return list, nil
}

func forwardListVerb() verb {
	return verb{name: "forward list", usage: "[-json]", summary: "the forwards that run here, how they are and what they have carried", bare: true,
		more: "IN is what came from the device, OUT what went to it. Forwards in the background\nwrite what happens to DIR/forwards/ID.log.",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			asJSON := f.Bool("json", false, "one JSON object a line")
			return func(ctx context.Context, p *program, _ operands) error {
				path, err := dir.path()
				if err != nil {
					return err
				}
				list, err := runningForwards(ctx, path)
				if err != nil {
					return err
				}
				if !*asJSON {
					return p.listForwards(list)
				}
				return writeLines(p.out, list)
			}
		}}
}

func (p *program) listForwards(list []forwardStatus) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(p.out, "no forward runs here")
		return err
	}
	now := p.now()
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tDEVICE\tPROCESS\tFOR\tSTATE\tCONNECTIONS\tIN\tOUT\tFORWARDS")
	for _, s := range list {
		state, lines := s.State, ""
		if state == "reconnecting" {
			state += " for " + sayDuration(now.Sub(s.StateSince))
		}
		for i, l := range s.Forwards {
			if i > 0 {
				lines += ", "
			}
			lines += printable(l.say(s.Device))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%s\t%s\t%s\n", s.ID, dash(printable(s.Device)), s.PID, sayDuration(now.Sub(s.Since)), state,
			s.Conns, sayBytes(s.In), sayBytes(s.Out), dash(lines))
	}
	return w.Flush()
}

func forwardStopVerb() verb {
	return verb{name: "forward stop", usage: "ID…", summary: "end forwards that run here, by their ids",
		more: "It returns when they have ended and their ports are free.",
		setup: func(f *flag.FlagSet) verbRun {
			dir := dirFlag(f)
			return func(ctx context.Context, p *program, o operands) error {
				path, err := dir.path()
				if err != nil {
					return err
				}
				if len(o.all()) == 0 {
					return usageError("ID is missing: sessio forward list shows them")
				}
				return interruptible(ctx, func(ctx context.Context) error { return stopForwards(ctx, path, o.all()) })
			}
		}}
}

// stopForwards returns when all have ended.
func stopForwards(ctx context.Context, dir string, ids []string) error {
	list, err := runningForwards(ctx, dir)
	if err != nil {
		return err
	}
	var known []string
	for _, s := range list {
		known = append(known, s.ID)
	}
	for _, id := range ids {
		if !slices.Contains(known, id) {
			hint := "none runs here"
			if len(known) > 0 {
				hint = "those that run here: " + strings.Join(known, ", ")
			}
			return withHint(fmt.Errorf("there is no forward %q", id), "%s", hint)
		}
	}
	for _, id := range ids {
		_, c, err := askForward(ctx, dir, id, "stop")
		if err != nil {
			return fmt.Errorf("stopping forward %s: %w", id, err)
		}
		unhook := context.AfterFunc(ctx, func() { c.Close() })
		io.Copy(io.Discard, c)
		unhook()
		c.Close()
	}
	return nil
}
