//go:build linux || darwin

package main

// This file gives a session its terminal: it reads pty-req and window-change,
// sets size and modes before the shell sees the terminal, and hands the slave
// side to the user.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// A ptyReqMsg is the payload of "pty-req": RFC 4254, section 6.2.
type ptyReqMsg struct {
	Term                   string
	Cols, Rows             uint32
	WidthPixels, HeightPix uint32
	Modes                  string
}

// winsize is what the kernel has room for.
func (m windowChangeMsg) winsize() *unix.Winsize {
	clip := func(n uint32) uint16 { return uint16(min(n, 1<<16-1)) }
	return &unix.Winsize{
		Row: clip(m.Rows), Col: clip(m.Cols),
		Xpixel: clip(m.Width), Ypixel: clip(m.Height),
	}
}

// A ptyMode is one encoded terminal mode: RFC 4254, section 8.
//
//	opcode  1 byte   1 to 159; 0 ends the list
//	value   4 bytes  big endian
type ptyMode struct {
	op    byte
	value uint32
}

const (
	ptyOpEnd = 0
	// ptyOpUndefined and above have arguments of unknown form: parsing stops.
	ptyOpUndefined = 160
	ptyOpISpeed    = 128
	ptyOpOSpeed    = 129
	// noChar in a mode means that no character does this.
	noChar = 255
)

var errPtyModes = errors.New("terminal modes end within one")

func parsePtyModes(b string) ([]ptyMode, error) {
	var modes []ptyMode
	for len(b) > 0 && b[0] != ptyOpEnd && b[0] < ptyOpUndefined {
		if len(b) < 5 {
			return modes, errPtyModes
		}
		modes = append(modes, ptyMode{b[0], binary.BigEndian.Uint32([]byte(b[1:5]))})
		b = b[5:]
	}
	return modes, nil
}

// A ptyRequest is a terminal asked for, whose process is not started yet.
type ptyRequest struct {
	term  string
	size  windowChangeMsg
	modes []ptyMode
}

// parsePtyRequest is as lenient with broken modes as sshd, which uses what
// comes before the damage.
func parsePtyRequest(payload []byte) (*ptyRequest, error) {
	var m ptyReqMsg
	if err := ssh.Unmarshal(payload, &m); err != nil {
		return nil, err
	}
	modes, _ := parsePtyModes(m.Modes)
	term, _, _ := strings.Cut(m.Term, "\x00") // where the kernel would end it anyway
	size := windowChangeMsg{m.Cols, m.Rows, m.WidthPixels, m.HeightPix}
	return &ptyRequest{term, size, modes}, nil
}

// A terminal is an open pty. The slave is closed here once the child has it.
type terminal struct {
	master *os.File // does not block: Close and deadlines end a Read
	slave  *os.File
}

// open makes the terminal and sets it up for acct.
func (p *ptyRequest) open(acct osAccount) (*terminal, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("no terminal: %w", err)
	}
	t := &terminal{slave: slave}
	t.master, err = unblocked(master)
	if err == nil {
		err = t.resize(p.size)
	}
	if err == nil {
		err = setPtyModes(int(slave.Fd()), p.modes)
	}
	if err == nil && os.Geteuid() == 0 {
		err = chownTerminal(slave, acct)
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("no terminal: %w", err)
	}
	return t, nil
}

// unblocked is f in the runtime's poller; pty.Open leaves it in blocking mode,
// where Close would not end a Read. f is closed.
func unblocked(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// chownTerminal gives the slave to the user and to group tty, who may write:
// so do sshd and login, for write(1) and wall(1).
func chownTerminal(slave *os.File, acct osAccount) error {
	gid, mode := acct.gid, os.FileMode(0o600)
	if tty, ok := findGroup("tty"); ok {
		gid, mode = tty, 0o620
	}
	if err := slave.Chown(int(acct.uid), int(gid)); err != nil {
		return err
	}
	return slave.Chmod(mode)
}

func (t *terminal) resize(size windowChangeMsg) error {
	return controlFile(t.master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size.winsize())
	})
}

// sendBreak does what sshd does for RFC 4335.
func (t *terminal) sendBreak() error {
	return controlFile(t.master, tcSendBreak)
}

// readReady reads what is in the terminal and does not wait for more: it
// returns 0 when nothing is there. The kernel moves what the other side wrote
// before it answers that nothing is there (n_tty_read), so nothing is missed.
func (t *terminal) readReady(b []byte) (n int, err error) {
	rc, err := t.master.SyscallConn()
	if err != nil {
		return 0, err
	}
	rcErr := rc.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b)
		return true
	})
	if err == unix.EAGAIN {
		return 0, nil
	}
	return max(n, 0), errors.Join(err, rcErr)
}

func (t *terminal) close() {
	if t.master != nil {
		t.master.Close()
	}
	t.slave.Close()
}

func controlFile(f *os.File, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	rcErr := rc.Control(func(fd uintptr) { err = do(int(fd)) })
	return errors.Join(err, rcErr)
}

// setPtyModes changes the terminal as the client's was. What this system does
// not know is skipped: RFC 4254, section 8.
func setPtyModes(fd int, modes []ptyMode) error {
	t, err := unix.IoctlGetTermios(fd, ioctlGetTermios)
	if err != nil {
		return err
	}
	for _, m := range modes {
		applyPtyMode(t, m)
	}
	return unix.IoctlSetTermios(fd, ioctlSetTermios, t)
}

func applyPtyMode(t *unix.Termios, m ptyMode) {
	if at, ok := ptyChars[m.op]; ok {
		t.Cc[at] = uint8(m.value)
		if m.value == noChar {
			t.Cc[at] = posixVDisable
		}
		return
	}
	if m.op == ptyOpISpeed || m.op == ptyOpOSpeed {
		setSpeed(t, m.op == ptyOpISpeed, m.value)
		return
	}
	f, ok := ptyFlags[m.op]
	if !ok {
		return
	}
	word := [...]*termFlag{inputFlag: &t.Iflag, localFlag: &t.Lflag, outputFlag: &t.Oflag, controlFlag: &t.Cflag}[f.word]
	if *word &^= f.bit; m.value != 0 {
		*word |= f.bit
	}
}

// A ptyFlag is a bit in one of the four words of termios.
type ptyFlag struct {
	word int
	bit  termFlag
}

const (
	inputFlag = iota
	localFlag
	outputFlag
	controlFlag
)

// ptyChars and ptyFlags are the opcodes of RFC 4254, section 8: those that all
// systems know, and what the system's own file adds.
var ptyChars = systemChars(map[byte]int{
	1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF,
	6: unix.VEOL, 7: unix.VEOL2, 8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP,
	12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 18: unix.VDISCARD,
})

var ptyFlags = systemFlags(map[byte]ptyFlag{
	30: {inputFlag, unix.IGNPAR}, 31: {inputFlag, unix.PARMRK}, 32: {inputFlag, unix.INPCK},
	33: {inputFlag, unix.ISTRIP}, 34: {inputFlag, unix.INLCR}, 35: {inputFlag, unix.IGNCR},
	36: {inputFlag, unix.ICRNL}, 38: {inputFlag, unix.IXON}, 39: {inputFlag, unix.IXANY},
	40: {inputFlag, unix.IXOFF}, 41: {inputFlag, unix.IMAXBEL}, 42: {inputFlag, unix.IUTF8},
	50: {localFlag, unix.ISIG}, 51: {localFlag, unix.ICANON}, 53: {localFlag, unix.ECHO},
	54: {localFlag, unix.ECHOE}, 55: {localFlag, unix.ECHOK}, 56: {localFlag, unix.ECHONL},
	57: {localFlag, unix.NOFLSH}, 58: {localFlag, unix.TOSTOP}, 59: {localFlag, unix.IEXTEN},
	60: {localFlag, unix.ECHOCTL}, 61: {localFlag, unix.ECHOKE}, 62: {localFlag, unix.PENDIN},
	70: {outputFlag, unix.OPOST}, 72: {outputFlag, unix.ONLCR}, 73: {outputFlag, unix.OCRNL},
	74: {outputFlag, unix.ONOCR}, 75: {outputFlag, unix.ONLRET},
	90: {controlFlag, unix.CS7}, 91: {controlFlag, unix.CS8},
	92: {controlFlag, unix.PARENB}, 93: {controlFlag, unix.PARODD},
})
