package main

import "golang.org/x/sys/unix"

// sessionMembers finds nobody: macOS has no /proc. A terminal that hangs up
// and the signal to the leader's process group have to do.
func sessionMembers(sid int) []int { return nil }

type termFlag = uint64

const (
	ioctlGetTermios = unix.TIOCGETA
	ioctlSetTermios = unix.TIOCSETA
	posixVDisable   = 255
)

func systemChars(m map[byte]int) map[byte]int {
	m[11], m[17] = unix.VDSUSP, unix.VSTATUS
	return m
}

func systemFlags(m map[byte]ptyFlag) map[byte]ptyFlag { return m }

func setSpeed(t *unix.Termios, input bool, baud uint32) {
	if input {
		t.Ispeed = uint64(baud)
	} else {
		t.Ospeed = uint64(baud)
	}
}

func tcSendBreak(fd int) error {
	return unix.IoctlSetInt(fd, unix.TIOCSBRK, 0)
}
