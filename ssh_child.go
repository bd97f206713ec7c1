//go:build linux || darwin

package main

// This file runs the process of a session: as the right user, leading a session
// of its own, on pipes or on a terminal, and hangs up on all that it started
// when the connection is lost. A terminal has its size and modes, as pty-req and
// window-change tell them, before the shell sees it.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// A childSpec is a process to be.
type childSpec struct {
	sshProgram
	acct  osAccount
	env   []string    // SSH_TTY and TERM are added; of two settings the last counts
	pty   *ptyRequest // nil: pipes
	extra []*os.File  // from descriptor 3 on; closed here in any case
}

// An sshChild is the process of a session. It leads a session and a process
// group of the kernel, so that signals reach what it started.
type sshChild struct {
	proc   *os.Process
	term   *terminal // nil with pipes
	stdin  *os.File  // to write; the master with a terminal
	stdout *os.File  // to read; the master with a terminal
	stderr *os.File  // nil with a terminal
	notice string    // to be shown before all else, "" mostly

	mu     sync.Mutex
	reaped bool // its process id may be another's
}

// bequeathNothing sets what all children inherit: files made are not for group
// and others to write, as in sshd, and descriptors that this process was itself
// started with stay here. Those that Go opens do anyway.
func bequeathNothing() {
	syscall.Umask(syscall.Umask(0o077) | 0o022)
	fds, err := os.ReadDir("/dev/fd")
	for _, entry := range fds {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	for fd := 3; err != nil && fd < 1<<10; fd++ { // no /proc
		syscall.CloseOnExec(fd)
	}
}

// startChild starts the process. Its ends of the pipes are closed here, so that
// end of file is seen when the last process that holds them is gone.
func startChild(spec childSpec) (*sshChild, error) {
	c := new(sshChild)
	ends, err := c.open(spec)
	ends = append(ends, spec.extra...)
	defer func() { closeFiles(ends) }()
	if err != nil {
		return nil, err
	}
	env := spec.env
	if c.term != nil {
		env = append(env, "TERM="+spec.pty.term, "SSH_TTY="+c.term.slave.Name())
	}
	attr := &os.ProcAttr{Env: lastOf(env), Files: ends, Sys: &syscall.SysProcAttr{
		Setsid:     true,
		Setctty:    c.term != nil,
		Credential: credentialOf(spec.acct),
	}}
	if err := c.start(spec, attr); err != nil {
		c.closeIO()
		return nil, err
	}
	return c, nil
}

// open makes terminal or pipes and returns the child's ends.
func (c *sshChild) open(spec childSpec) (ends []*os.File, err error) {
	if spec.pty != nil {
		if c.term, err = spec.pty.open(spec.acct); err != nil {
			return nil, err
		}
		c.stdin, c.stdout = c.term.master, c.term.master
		return []*os.File{c.term.slave, c.term.slave, c.term.slave}, nil
	}
	var r, w [3]*os.File
	for i := range r {
		if r[i], w[i], err = os.Pipe(); err != nil {
			closeFiles(append(r[:i], w[:i]...))
			return nil, fmt.Errorf("no pipes: %w", err)
		}
	}
	c.stdin, c.stdout, c.stderr = w[0], r[1], r[2]
	return []*os.File{r[0], w[1], w[2]}, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close() // twice for a terminal, which is harmless
	}
}

// credentialOf is nil where the process is to run as who we are. The groups are
// always set: a forgotten one is a leak (CVE-2023-28436).
func credentialOf(acct osAccount) *syscall.Credential {
	if !acct.mustBecome() {
		return nil
	}
	return &syscall.Credential{Uid: acct.uid, Gid: acct.gid, Groups: acct.groups}
}

// start runs the program in the home directory, or in / with a notice, as sshd
// does. The kernel enters the directory as the user, and does not say whether
// directory or program was missing: trying / tells.
func (c *sshChild) start(spec childSpec, attr *os.ProcAttr) (err error) {
	attr.Dir = spec.acct.home
	if attr.Dir == "" {
		attr.Dir = "/"
	}
	if c.proc, err = os.StartProcess(spec.file, spec.argv, attr); err == nil {
		return nil
	}
	attr.Dir = "/"
	var rootErr error
	if c.proc, rootErr = os.StartProcess(spec.file, spec.argv, attr); rootErr != nil {
		return fmt.Errorf("starting %s: %w", spec.file, syscallCause(rootErr))
	}
	c.notice = fmt.Sprintf("Could not chdir to home directory %s: %v\r\n", spec.acct.home, syscallCause(err))
	return nil
}

// wait returns when the process has ended, and reaps it.
func (c *sshChild) wait() (syscall.WaitStatus, error) {
	state, err := c.proc.Wait()
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return state.Sys().(syscall.WaitStatus), nil
}

// ended reports whether the process has been reaped.
func (c *sshChild) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reaped
}

// signal goes to the process group of the leader: RFC 4254, section 6.9.
func (c *sshChild) signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return os.ErrProcessDone
	}
	return unix.Kill(-c.proc.Pid, sig)
}

// closeStdout is for a client that takes no more output, as in "ssh host yes |
// head": the next write ends the writer with SIGPIPE.
func (c *sshChild) closeStdout() error {
	if c.term != nil {
		return errors.ErrUnsupported // stdin comes the same way
	}
	return c.stdout.Close()
}

// closeIO closes what we hold of terminal or pipes and so ends all copying.
// Losing its master, a terminal hangs up by itself.
func (c *sshChild) closeIO() {
	if c.term != nil {
		c.term.close()
		return
	}
	for _, f := range []*os.File{c.stdin, c.stdout, c.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

const (
	// hangupGrace is how long processes may tidy up after SIGHUP. With the time
	// in which a dead client is found out, answerWait, it stays below 15 s.
	hangupGrace = 3 * time.Second
	// hangupLook is how often we look whether they are gone.
	hangupLook = 50 * time.Millisecond
	// killRounds bounds the hunt for processes that fork while they are killed.
	killRounds = 40
)

// hangup ends the session because its connection is lost. While the leader
// lives, everything in its session gets SIGHUP, and SIGKILL after hangupGrace:
// background jobs too, whose process groups are their own. When the leader has
// ended by itself, what it left behind only gets SIGHUP, so that a daemon that
// was started with nohup lives on when the client does not wait for its pipes.
func (c *sshChild) hangup() {
	leaderAlive := !c.ended() // now: a terminal that closes is its end
	c.closeIO()
	if leaderAlive {
		c.end(syscall.SIGHUP)
	} else {
		c.tell(syscall.SIGHUP)
	}
}

// tell signals the session, its stopped processes too.
func (c *sshChild) tell(sig syscall.Signal) {
	c.signalSession(sig)
	c.signalSession(syscall.SIGCONT) // the stopped ones hear it only then
}

// end signals the session and after hangupGrace kills what is left of it.
func (c *sshChild) end(sig syscall.Signal) {
	c.tell(sig)
	look := time.NewTicker(hangupLook)
	defer look.Stop()
	grace := time.After(hangupGrace)
	for rounds := 0; rounds < killRounds && !c.gone(); {
		select {
		case <-grace:
			rounds = 1
		case <-look.C:
		}
		if rounds > 0 {
			c.signalSession(syscall.SIGKILL)
			rounds++
		}
	}
}

// gone reports whether the leader is reaped and nothing of its session is left.
func (c *sshChild) gone() bool {
	return c.ended() && len(sessionMembers(c.proc.Pid)) == 0
}

// signalSession signals the leader's process group and, where the system lets
// us find them, all other processes of its session. The kernel does not hand
// out a process id while a group or session is called by it. So if the leader
// is reaped and its number lives, then it is another's and nobody is left.
func (c *sshChild) signalSession(sig syscall.Signal) {
	sid := c.proc.Pid
	if c.ended() && unix.Kill(sid, 0) != unix.ESRCH {
		return
	}
	unix.Kill(-sid, sig)
	for _, pid := range sessionMembers(sid) {
		unix.Kill(pid, sig)
	}
}

// syscallCause is the last error in err's chain: the kernel's word without
// what we tried.
func syscallCause(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err
		}
		err = u.Unwrap()
	}
}

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
	word := f.of(t)
	if *word &^= f.bit; m.value != 0 {
		*word |= f.bit
	}
}

// A ptyFlag is a bit in one of the four words of termios.
type ptyFlag struct {
	word int
	bit  termFlag
}

// of is the word that the bit is in.
func (f ptyFlag) of(t *unix.Termios) *termFlag {
	return [...]*termFlag{&t.Iflag, &t.Lflag, &t.Oflag, &t.Cflag}[f.word]
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
