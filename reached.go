package main

// This file remembers, from one process to the next, where devices were reached
// that can be reached without help: in this LAN, by IPv6, at a public address
// or a port that a router keeps open. The next verb tries that at once, while
// it asks the coordinator. A line of the file, fields apart by one space:
//
//	<device id> <instance, 16 hex digits> <address:port>…
//
// It is a hint and no authority: what is wrong in it costs three small packets,
// and an address that leads to somebody else proves nothing.

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

const (
	reachedName = "reached"
	// maxReached bounds the devices remembered, those used last.
	maxReached = 256
	// maxReachedAddrs bounds the addresses of one, the best first.
	maxReachedAddrs = 4
)

// A reachedAt is where a process of a device was reached last.
type reachedAt struct {
	device   deviceID
	instance instanceID
	addrs    []netip.AddrPort
}

// A reachedFile is the memory of one state directory.
type reachedFile struct {
	file string
	mu   sync.Mutex // held while this process reads, changes and writes it
}

func newReachedFile(dir string) *reachedFile {
	return &reachedFile{file: filepath.Join(dir, reachedName)}
}

// look returns where a device was reached last; no addrs: nothing is known.
func (r *reachedFile) look(id deviceID) reachedAt {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, at := range r.readLocked() {
		if at.device == id {
			return at
		}
	}
	return reachedAt{}
}

// note remembers at before all others. What stood there already is not written
// again. No addrs: nothing is known any more.
func (r *reachedFile) note(at reachedAt) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.readLocked()
	i := slices.IndexFunc(all, func(o reachedAt) bool { return o.device == at.device })
	switch {
	case i >= 0 && all[i].instance == at.instance && slices.Equal(all[i].addrs, at.addrs), i < 0 && len(at.addrs) == 0:
		return nil
	case i >= 0:
		all = slices.Delete(all, i, i+1)
	}
	if len(at.addrs) > 0 {
		all = slices.Insert(all, 0, at)
	}
	if err := replaceFile(r.file, appendReached(nil, all[:min(len(all), maxReached)]), 0o600); err != nil {
		return fmt.Errorf("remembering where devices are: %w", err)
	}
	return nil
}

// readLocked returns what can be read of the file.
func (r *reachedFile) readLocked() []reachedAt {
	b, err := os.ReadFile(r.file)
	if err != nil {
		return nil
	}
	return parseReached(b)
}

func appendReached(b []byte, all []reachedAt) []byte {
	for _, at := range all {
		b = fmt.Appendf(b, "%s %x", at.device, at.instance)
		for _, a := range at.addrs {
			b = fmt.Appendf(b, " %s", a)
		}
		b = append(b, '\n')
	}
	return b
}

// parseReached passes over lines that are not as appendReached writes them.
func parseReached(b []byte) (all []reachedAt) {
	for line := range strings.Lines(string(b)) {
		if at, ok := parseReachedLine(line); ok && len(all) < maxReached {
			all = append(all, at)
		}
	}
	return all
}

func parseReachedLine(line string) (at reachedAt, ok bool) {
	line, ok = strings.CutSuffix(line, "\n")
	words := strings.Split(line, " ")
	if !ok || len(words) < 3 || len(words) > 2+maxReachedAddrs || !validID(words[0], 'd') {
		return at, false
	}
	at.device = deviceID(words[0])
	if n, err := hex.Decode(at.instance[:], []byte(words[1][:min(len(words[1]), 16)])); err != nil || n != 8 || len(words[1]) != 16 {
		return at, false
	}
	for _, w := range words[2:] {
		a, err := netip.ParseAddrPort(w)
		if err != nil || !usableAddr(a) || a.Addr().Zone() != "" {
			return at, false
		}
		at.addrs = append(at.addrs, a)
	}
	return at, true
}
