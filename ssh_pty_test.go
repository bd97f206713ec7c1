//go:build linux || darwin

package main

import (
	"encoding/binary"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

func appendPtyModes(b []byte, modes []ptyMode) []byte {
	for _, m := range modes {
		b = binary.BigEndian.AppendUint32(append(b, m.op), m.value)
	}
	return append(b, ptyOpEnd)
}

func TestParsePtyModes(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		want        []ptyMode
		err         error
	}{
		{"none", "", nil, nil},
		{"only the end", "00", nil, nil},
		{"ECHO off", "35 00000000 00", []ptyMode{{53, 0}}, nil},
		{"two, and more after the end", "01 00000003 81 00009600 00 35 00000001", []ptyMode{{1, 3}, {129, 38400}}, nil},
		{"no end", "35 00000001", []ptyMode{{53, 1}}, nil},
		{"undefined form", "35 00000001 a0 01", []ptyMode{{53, 1}}, nil},
		{"cut short", "35 00000001 01 0000", []ptyMode{{53, 1}}, errPtyModes},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(c.bytes, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		got, err := parsePtyModes(string(b))
		if !slices.Equal(got, c.want) || err != c.err {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}

func FuzzParsePtyModes(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendPtyModes(nil, []ptyMode{{1, 3}, {53, 0}, {129, 38400}}))
	f.Add([]byte{53, 0, 0})
	f.Add([]byte{160, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		modes, err := parsePtyModes(string(b))
		again, err2 := parsePtyModes(string(appendPtyModes(nil, modes)))
		if !slices.Equal(modes, again) || err2 != nil {
			t.Errorf("%x: %v, %v became %v, %v", b, modes, err, again, err2)
		}
		var term unix.Termios
		for _, m := range modes {
			applyPtyMode(&term, m) // any of them
		}
	})
}

func FuzzParsePtyRequest(f *testing.F) {
	f.Add(ssh.Marshal(ptyReqMsg{"xterm", 80, 24, 640, 480, "\x35\x00\x00\x00\x00\x00"}))
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePtyRequest(b)
		if err != nil {
			return
		}
		again, err := parsePtyRequest(ssh.Marshal(ptyReqMsg{p.term, p.size.Cols, p.size.Rows,
			p.size.Width, p.size.Height, string(appendPtyModes(nil, p.modes))}))
		if err != nil || again.term != p.term || again.size != p.size || !slices.Equal(again.modes, p.modes) {
			t.Errorf("%x: %+v became %+v, %v", b, p, again, err)
		}
		if strings.ContainsRune(p.term, 0) {
			t.Errorf("TERM %q", p.term)
		}
	})
}

// TestTerminalSetUp: size with pixels and modes are there before anybody opens
// the terminal, and what does not fit is cut.
func TestTerminalSetUp(t *testing.T) {
	own, err := ownAccount()
	if err != nil {
		t.Fatal(err)
	}
	p := &ptyRequest{size: windowChangeMsg{132, 43, 1 << 20, 860}, modes: []ptyMode{{53, 0}, {1, 1}, {7, noChar}, {38, 1}, {129, 19200}, {77, 1}}}
	term, err := p.open(own)
	if err != nil {
		t.Fatal(err)
	}
	defer term.close()
	fd := int(term.slave.Fd())
	size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil || *size != (unix.Winsize{Row: 43, Col: 132, Xpixel: 65535, Ypixel: 860}) {
		t.Errorf("%+v, %v", size, err)
	}
	tio, err := unix.IoctlGetTermios(fd, ioctlGetTermios)
	if err != nil {
		t.Fatal(err)
	}
	if tio.Lflag&unix.ECHO != 0 || tio.Iflag&unix.IXON == 0 || tio.Cc[unix.VINTR] != 1 || tio.Cc[unix.VEOL2] != posixVDisable {
		t.Errorf("%+v", tio)
	}
	if err := term.resize(windowChangeMsg{Cols: 10, Rows: 5}); err != nil {
		t.Fatal(err)
	}
	if size, _ := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); size.Row != 5 || size.Col != 10 {
		t.Errorf("%+v", size)
	}
	if err := term.sendBreak(); err != nil {
		t.Error(err)
	}
}

// TestTerminalRead: Close ends a Read that waits, and readReady does not wait.
func TestTerminalRead(t *testing.T) {
	own, err := ownAccount()
	if err != nil {
		t.Fatal(err)
	}
	term, err := new(ptyRequest).open(own)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := term.readReady(b); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	io.WriteString(term.slave, "tail")
	if n, err := term.readReady(b); string(b[:n]) != "tail" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
	ended := make(chan error)
	go func() {
		_, err := term.master.Read(b)
		ended <- err
	}()
	term.close()
	if err := <-ended; err == nil {
		t.Error("a Read after close")
	}
}
