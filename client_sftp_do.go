package main

// This file is the words that the verb sftp knows.

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
)

// A sftpAct is what a word does, with the letters it takes as flags and how many
// words it takes besides.
type sftpAct struct {
	usage       string // names, with bars between them, and the rest
	what        string
	flags       string
	least, most int
	do          func(s *sftpShell, flags string, words []sftpWord) error // nil: errSFTPBye
}

var sftpActs []sftpAct

func init() { // help reads the table
	many := math.MaxInt
	each := func(do func(s *sftpShell, path string) error) func(*sftpShell, string, []sftpWord) error {
		return func(s *sftpShell, _ string, words []sftpWord) error {
			return s.each(words, func(path string) error { return do(s, path) })
		}
	}
	sftpActs = []sftpAct{
		{"![COMMAND]", "a command here, or a shell", "", 0, 0, nil}, // is no word: loop
		{"bye|exit|quit", "end", "", 0, 0, nil},
		{"cd [PATH]", "go to a directory there", "", 0, 1, (*sftpShell).cd},
		{"chgrp GROUP PATH…", "give to a group, by its number", "", 2, many, (*sftpShell).chgrp},
		{"chmod MODE PATH…", "set the mode, octal", "", 2, many, (*sftpShell).chmod},
		{"chown OWNER PATH…", "give to an owner, by its number", "", 2, many, (*sftpShell).chown},
		{"df [-h] [PATH]", "room there", "hi", 0, 1, (*sftpShell).df},
		{"get|mget [-afpr] REMOTE [LOCAL]", "fetch; -a goes on behind what is here", "afpPrR", 1, 2, (*sftpShell).get},
		{"progress", "show the bar of a transfer, or not", "", 0, 0, func(s *sftpShell, _ string, _ []sftpWord) error {
			if s.quiet = !s.quiet; s.quiet {
				return s.say("Progress meter disabled\n")
			}
			return s.say("Progress meter enabled\n")
		}},
		{"help|?", "this list", "", 0, 0, (*sftpShell).help},
		{"lcd [PATH]", "go to a directory here", "", 0, 1, (*sftpShell).lcd},
		{"lls [PATH]", "list a directory here", "", 0, 1, (*sftpShell).lls},
		{"lmkdir PATH", "make a directory here", "", 1, 1, func(s *sftpShell, _ string, words []sftpWord) error {
			return os.Mkdir(s.here(words[0].text), 0o777)
		}},
		{"ln [-s] OLD NEW", "link, with -s by name", "s", 2, 2, (*sftpShell).ln},
		{"symlink OLD NEW", "link by name", "", 2, 2, func(s *sftpShell, _ string, words []sftpWord) error { return s.ln("s", words) }},
		{"lpwd", "the directory here", "", 0, 0, func(s *sftpShell, _ string, _ []sftpWord) error {
			return s.say("Local working directory: %s\n", s.lcwd)
		}},
		{"ls|dir [-1afhlnrSt] [PATH…]", "list", "1afhlnrSt", 0, many, (*sftpShell).ls},
		{"mkdir PATH", "make a directory there", "", 1, 1, func(s *sftpShell, _ string, words []sftpWord) error {
			path, err := s.there(words[0].text)
			if err == nil {
				err = s.r.mkdir(path, 0o777)
			}
			return about(words[0].text, err)
		}},
		{"put|mput [-afpr] LOCAL [REMOTE]", "send; -a goes on behind what is there", "afpPrR", 1, 2, (*sftpShell).put},
		{"pwd", "the directory there", "", 0, 0, func(s *sftpShell, _ string, _ []sftpWord) error {
			return s.say("Remote working directory: %s\n", s.cwd)
		}},
		{"reget [-fpr] REMOTE [LOCAL]", "get -a", "fpPrR", 1, 2, func(s *sftpShell, flags string, words []sftpWord) error { return s.get(flags+"a", words) }},
		{"reput [-fpr] LOCAL [REMOTE]", "put -a", "fpPrR", 1, 2, func(s *sftpShell, flags string, words []sftpWord) error { return s.put(flags+"a", words) }},
		{"rename OLD NEW", "rename", "", 2, 2, func(s *sftpShell, _ string, words []sftpWord) error {
			return s.two(words, s.r.posixRename)
		}},
		{"rm PATH…", "remove files", "", 1, many, each(func(s *sftpShell, path string) error { return s.r.path(sftpRemove, path).status() })},
		{"rmdir PATH…", "remove empty directories", "", 1, many, each(func(s *sftpShell, path string) error { return s.r.path(sftpRmdir, path).status() })},
		{"stat PATH…", "all that is known of a file", "", 1, many, each((*sftpShell).stat)},
	}
}

// about names the path in an error.
func about(path string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return err
}

// say prints, with what comes from elsewhere shown and not obeyed.
func (s *sftpShell) say(format string, args ...any) error {
	for i, a := range args {
		if text, ok := a.(string); ok {
			args[i] = printable(text)
		}
	}
	if err := s.now.Err(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.files.out, format, args...)
	return err
}

// each does something with all that words stand for, up to the first failure.
func (s *sftpShell) each(words []sftpWord, do func(path string) error) error {
	for _, w := range words {
		paths, err := s.found(w)
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := s.now.Err(); err != nil {
				return err
			}
			if err := do(path); err != nil {
				return about(path, err)
			}
		}
	}
	return nil
}

// two does something with two paths there.
func (s *sftpShell) two(words []sftpWord, do func(a, b string) error) error {
	a, err := s.there(words[0].text)
	b, otherErr := s.there(words[1].text)
	if err = errors.Join(err, otherErr); err != nil {
		return err
	}
	return about(words[0].text, do(a, b))
}

func (s *sftpShell) help(string, []sftpWord) error {
	for _, c := range sftpActs {
		if err := s.say("%-32s %s\n", strings.ReplaceAll(c.usage, "|", ", "), c.what); err != nil {
			return err
		}
	}
	return nil
}

// shell runs a command on this machine, or a shell. As in sftp(1), no batch
// ends by how that ends.
func (s *sftpShell) shell(command string) error {
	name, flag := cmp.Or(os.Getenv("SHELL"), "/bin/sh"), "-c"
	if runtime.GOOS == "windows" {
		name, flag = cmp.Or(os.Getenv("COMSPEC"), `C:\Windows\System32\cmd.exe`), "/c"
	}
	argv := []string{name, flag, command}
	if strings.TrimSpace(command) == "" {
		argv = argv[:1]
	}
	process, err := os.StartProcess(name, argv, &os.ProcAttr{Dir: s.lcwd, Files: []*os.File{s.files.in, s.files.out, s.files.err}})
	if err != nil {
		return fmt.Errorf("starting %s: %w", name, reasonOf(err))
	}
	defer context.AfterFunc(s.ctx, func() { process.Kill() })()
	state, err := process.Wait()
	if err == nil && !state.Success() {
		sayError(s.files.err, "sessio: sftp", fmt.Errorf("the shell ended with %v", state))
	}
	return err
}

func (s *sftpShell) cd(_ string, words []sftpWord) error {
	w := sftpWord{text: "~"}
	if len(words) > 0 {
		w = words[0]
	}
	list, err := s.found(w)
	if err != nil {
		return err
	}
	path, err := s.r.resolve(list[0])
	if err == nil {
		var a sftpAttrs
		if a, err = s.r.stat(path, true); err == nil && !a.is(modeDir) {
			err = errors.New("is no directory")
		}
	}
	if err != nil {
		return about(w.text, err)
	}
	s.cwd = path
	return nil
}

func (s *sftpShell) lcd(_ string, words []sftpWord) error {
	path := s.here("~")
	if len(words) > 0 {
		path = s.here(words[0].text)
	}
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", path)
	}
	if err == nil {
		s.lcwd = path
	}
	return err
}

func (s *sftpShell) lls(_ string, words []sftpWord) error {
	path := s.lcwd
	if len(words) > 0 {
		path = s.here(words[0].text)
	}
	entries, err := os.ReadDir(path)
	for _, e := range entries {
		if e.Name()[0] != '.' {
			s.say("%s\n", e.Name())
		}
	}
	return err
}

func (s *sftpShell) get(flags string, words []sftpWord) error {
	from, err := s.found(words[0])
	if err != nil {
		return err
	}
	to := s.lcwd
	if len(words) > 1 {
		to = s.here(words[1].text)
	}
	return s.transfer(flags, from, s.r, localSide{}, to)
}

func (s *sftpShell) put(flags string, words []sftpWord) error {
	from, err := s.foundHere(words[0])
	if err != nil {
		return err
	}
	to := s.cwd
	if len(words) > 1 {
		if to, err = s.there(words[1].text); err != nil {
			return err
		}
	}
	return s.transfer(flags, from, localSide{}, s.r, to)
}

func (s *sftpShell) ln(flags string, words []sftpWord) error {
	if flags == "" {
		return s.two(words, func(a, b string) error {
			return s.r.extended(sftpHardlink, appendSFTPString(appendSFTPString(nil, a), b)).status()
		})
	}
	link, err := s.there(words[1].text) // what it leads to stays as it is typed
	if err == nil {
		err = s.r.begin(maxSFTPAnswer, sftpRequest{kind: sftpSymlink, path: words[0].text, path2: link}).status()
	}
	return about(words[1].text, err)
}

func (s *sftpShell) chmod(_ string, words []sftpWord) error {
	mode, err := strconv.ParseUint(words[0].text, 8, 12)
	if err != nil {
		return fmt.Errorf("%q is no octal mode", words[0].text)
	}
	return s.each(words[1:], func(path string) error {
		return s.r.set(path, sftpAttrs{flags: sftpHasMode, mode: uint32(mode)})
	})
}

func (s *sftpShell) chown(_ string, words []sftpWord) error { return s.giveTo(words, false) }
func (s *sftpShell) chgrp(_ string, words []sftpWord) error { return s.giveTo(words, true) }

// giveTo changes owner or group: SFTP sets both at once.
func (s *sftpShell) giveTo(words []sftpWord, group bool) error {
	id, err := strconv.ParseUint(words[0].text, 10, 32)
	if err != nil {
		return fmt.Errorf("%q is no number of an owner or a group", words[0].text)
	}
	return s.each(words[1:], func(path string) error {
		a, err := s.r.stat(path, true)
		if err != nil {
			return err
		}
		if a.flags&sftpHasOwner == 0 {
			return errors.New("the device does not tell its owner")
		}
		if a.flags = sftpHasOwner; group {
			a.gid = uint32(id)
		} else {
			a.uid = uint32(id)
		}
		return s.r.set(path, a)
	})
}

// df shows what statvfs@openssh.com tells: PROTOCOL of OpenSSH, section 4.4.
func (s *sftpShell) df(flags string, words []sftpWord) error {
	path := s.cwd
	if len(words) > 0 {
		var err error
		if path, err = s.there(words[0].text); err != nil {
			return err
		}
	}
	r, err := s.r.extended(sftpStatvfs, appendSFTPString(nil, path)).expect(sftpExtendedReply)
	if err != nil {
		return about(path, err)
	}
	if len(r.data) < 8*8 {
		return about(path, errSFTPShort)
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(r.data[8*i:]) }
	if strings.Contains(flags, "i") {
		s.say("%12s %12s %12s\n", "Inodes", "Used", "Avail")
		return s.say("%12d %12d %12d\n", field(5), field(5)-field(6), field(7))
	}
	show := func(blocks uint64) string {
		kib := blocks * (field(1) / 512) / 2
		if strings.Contains(flags, "h") {
			return sayBytes(int64(kib << 10))
		}
		return strconv.FormatUint(kib, 10)
	}
	used := field(2) - field(3)
	s.say("%12s %12s %12s %9s\n", "Size", "Used", "Avail", "%Capacity")
	return s.say("%12s %12s %12s %8d%%\n", show(field(2)), show(used), show(field(4)), used*100/max(field(2), 1))
}

func (s *sftpShell) stat(path string) error {
	a, err := s.r.stat(path, false)
	if err != nil {
		return err
	}
	s.say("%s\n  size  %d\n  mode  %s %04o\n  owner %d:%d\n", path, a.size, modeLetters(a.mode), a.mode&0o7777, a.uid, a.gid)
	if a.is(modeLink) {
		to, err := s.r.path(sftpReadlink, path).oneName()
		if err != nil {
			return err
		}
		s.say("  leads to %s\n", to)
	}
	return s.say("  read    %s\n  written %s\n", sayTime(a.atime), sayTime(a.mtime))
}

func sayTime(t uint32) string { return time.Unix(int64(t), 0).Format(time.RFC3339) }

// A sftpEntry is a line of ls.
type sftpEntry struct {
	name, long string
	attrs      sftpAttrs
}

func (s *sftpShell) ls(flags string, words []sftpWord) error {
	if len(words) == 0 {
		words = []sftpWord{{}}
	}
	var files []sftpEntry
	for _, w := range words {
		paths, err := s.foundAll(&w)
		if w.text == "" {
			paths, err = []string{s.cwd}, nil
		}
		if err != nil {
			return err
		}
		for _, path := range paths {
			a, err := s.r.stat(path, true)
			if err != nil {
				a, err = s.r.stat(path, false) // a link that leads nowhere
			}
			if err != nil {
				return about(path, err)
			}
			shown := path
			if !strings.HasPrefix(w.text, "/") && !strings.HasPrefix(w.text, "~") {
				shown = strings.TrimPrefix(strings.TrimPrefix(path, s.cwd), "/")
			}
			if !a.is(modeDir) || w.glob && len(paths) > 1 {
				files = append(files, sftpEntry{name: shown, attrs: a})
				continue
			}
			if err := s.lsDir(flags, path, shown); err != nil {
				return about(path, err)
			}
		}
	}
	return s.lsShow(flags, files)
}

// maxBraces is how many { a word may have, and how many words it may become.
const maxBraces = 1 << 10

// foundAll is found with braces, which sftp(1) has in ls alone. What of them is
// not there is left out as long as something is.
func (s *sftpShell) foundAll(w *sftpWord) (list []string, err error) {
	var patterns []string
	if strings.Count(w.pattern, "{") <= maxBraces {
		patterns = expandBraces(nil, w.pattern)
	}
	switch {
	case len(patterns) == 0 || len(patterns) > maxBraces:
		return nil, fmt.Errorf("%s: more than %d braces, or words of them", w.text, maxBraces)
	case patterns[0] == w.pattern:
		return s.found(*w)
	}
	w.glob = true
	for _, pattern := range patterns {
		one := sftpWord{pattern: pattern}
		for i := 0; i < len(pattern); i++ {
			if c := pattern[i]; c == '\\' && i+1 < len(pattern) {
				i++
			} else if strings.IndexByte(`*?[`, c) >= 0 {
				one.glob = true
			}
			one.text += pattern[i : i+1]
		}
		some, foundErr := s.found(one)
		if foundErr == nil && !one.glob {
			_, foundErr = s.r.stat(some[0], false)
		}
		if foundErr == nil {
			list = append(list, some...)
		} else if err == nil {
			err = about(one.text, foundErr)
		}
	}
	if len(list) > 0 {
		err = nil
	}
	return list, err
}

// expandBraces adds to list what a pattern with {a,b} stands for, up to one more
// than maxBraces. {} is itself, as is what is quoted or not closed.
func expandBraces(list []string, p string) []string {
	for i := 0; i < len(p); i++ {
		if p[i] == '\\' || strings.HasPrefix(p[i:], "{}") {
			i++
		} else if p[i] == '{' {
			depth, ends := 0, []int{i}
			for j := i; j < len(p); j++ {
				switch p[j] {
				case '\\':
					j++
					continue
				case '{':
					depth++
				case '}':
					depth--
				}
				if p[j] == ',' && depth == 1 || depth == 0 {
					ends = append(ends, j)
				}
				if depth > 0 {
					continue
				}
				for k := 1; k < len(ends) && len(list) <= maxBraces; k++ {
					list = expandBraces(list, p[:i]+p[ends[k-1]+1:ends[k]]+p[j+1:])
				}
				return list
			}
			break
		}
	}
	return append(list, p)
}

func (s *sftpShell) lsDir(flags, path, shown string) error {
	var list []sftpEntry
	err := s.r.sftpClient.list(path, func(e sftpName) error {
		if err := s.now.Err(); err != nil {
			return err
		}
		if len(list) == maxOffshoots {
			return fmt.Errorf("more than %d entries", maxOffshoots)
		}
		if e.name != "" && e.name[0] == '.' && !strings.Contains(flags, "a") {
			return nil
		}
		name := e.name
		if shown != "" {
			name = s.r.join(shown, name)
		}
		list = append(list, sftpEntry{name, e.long, e.attrs})
		return nil
	})
	return errors.Join(err, s.lsShow(flags, list))
}

// lsShow prints entries in order, in columns on a terminal.
func (s *sftpShell) lsShow(flags string, list []sftpEntry) error {
	has := func(f string) bool { return strings.Contains(flags, f) }
	if !has("f") {
		sortBy(list, func(a, b sftpEntry) int {
			order := strings.Compare(a.name, b.name)
			switch {
			case has("t"):
				order = cmp.Or(cmp.Compare(b.attrs.mtime, a.attrs.mtime), order)
			case has("S"):
				order = cmp.Or(cmp.Compare(b.attrs.size, a.attrs.size), order)
			}
			if has("r") {
				order = -order
			}
			return order
		})
	}
	if !has("l") && !has("n") && !has("1") && term.IsTerminal(int(s.files.out.Fd())) {
		return s.lsColumns(list)
	}
	for _, e := range list {
		line := e.name
		if has("l") || has("n") {
			if line = e.long; line == "" || has("n") || has("h") {
				line = longLine(e, has("h"))
			}
		}
		if err := s.say("%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// longLine is a line as "ls -ln" has it, without the number of links.
func longLine(e sftpEntry, human bool) string {
	size := strconv.FormatUint(e.attrs.size, 10)
	if human {
		size = sayBytes(int64(min(e.attrs.size, math.MaxInt64)))
	}
	at := time.Unix(int64(e.attrs.mtime), 0)
	return fmt.Sprintf("%s    ? %-8d %-8d %8s %s %s", modeLetters(e.attrs.mode), e.attrs.uid, e.attrs.gid, size, at.Format("Jan _2  2006"), e.name)
}

func (s *sftpShell) lsColumns(list []sftpEntry) error {
	width, widest := 80, 1
	if size, err := terminalSize(s.files.out); err == nil && size.Cols > 0 {
		width = int(size.Cols)
	}
	for i := range list {
		list[i].name = printable(list[i].name)
		widest = max(widest, len([]rune(list[i].name))+2)
	}
	columns := max(width/widest, 1)
	rows := (len(list) + columns - 1) / columns
	for row := range rows {
		line := ""
		for i := row; i < len(list); i += rows {
			line += list[i].name + strings.Repeat(" ", widest-len([]rune(list[i].name)))
		}
		if err := s.say("%s\n", strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}
