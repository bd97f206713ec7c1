package main

// This file is what the processes of sessions ask of Linux.

import (
	"bytes"
	"maps"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// sessionMembers lists the living processes of the session led by sid.
func sessionMembers(sid int) (pids []int) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // it has just ended
		}
		if session, alive := parseProcStat(stat); alive && session == sid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parseProcStat reads state and session from /proc/PID/stat: proc(5). The name
// in parentheses may itself hold parentheses and blanks, so fields count from
// the last one. A zombie is not alive: its parent has to reap it.
func parseProcStat(stat []byte) (session int, alive bool) {
	_, rest, ok := cutLast(stat, ')')
	f := bytes.Fields(rest) // state ppid pgrp session …
	if !ok || len(f) < 4 {
		return 0, false
	}
	session, err := strconv.Atoi(string(f[3]))
	return session, err == nil && string(f[0]) != "Z" && string(f[0]) != "X"
}

func cutLast(b []byte, sep byte) (before, after []byte, ok bool) {
	i := bytes.LastIndexByte(b, sep)
	if i < 0 {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}

type termFlag = uint32

const (
	ioctlGetTermios = unix.TCGETS
	ioctlSetTermios = unix.TCSETS
	posixVDisable   = 0
)

func systemChars(m map[byte]int) map[byte]int {
	m[16] = unix.VSWTC
	return m
}

func systemFlags(m map[byte]ptyFlag) map[byte]ptyFlag {
	maps.Copy(m, map[byte]ptyFlag{
		37: {inputFlag, unix.IUCLC}, 52: {localFlag, unix.XCASE}, 71: {outputFlag, unix.OLCUC},
	})
	return m
}

// baudRates are the speeds that termios has a code for. Nothing on a pty is
// clocked by them, but programs ask: stty(1), and curses for its padding.
var baudRates = map[uint32]termFlag{
	50: unix.B50, 75: unix.B75, 110: unix.B110, 134: unix.B134, 150: unix.B150, 200: unix.B200,
	300: unix.B300, 600: unix.B600, 1200: unix.B1200, 1800: unix.B1800, 2400: unix.B2400,
	4800: unix.B4800, 9600: unix.B9600, 19200: unix.B19200, 38400: unix.B38400,
	57600: unix.B57600, 115200: unix.B115200, 230400: unix.B230400,
}

// setSpeed leaves rates without a code alone. On Linux the input rate is the
// output rate unless its own bits are set, which no pty needs.
func setSpeed(t *unix.Termios, input bool, baud uint32) {
	if code, ok := baudRates[baud]; ok && !input {
		t.Cflag = t.Cflag&^unix.CBAUD | code
	}
}

func tcSendBreak(fd int) error { return unix.IoctlSetInt(fd, unix.TCSBRK, 0) }
