package main

import (
	"bytes"
	"os"
	"strconv"
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
