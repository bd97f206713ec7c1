//go:build linux || darwin

package main

// This file is the verb sftp-server: the SFTP server on standard input and
// output, with the flags of OpenSSH's, for Dropbear and for sshd. A program of
// that name is it too.

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const sftpServerName = "sftp-server"

// sftpServerArgs are the words of a verb for a program called sftp-server.
// Letters may stand together there and values behind them, as getopt has it, and
// words behind the flags mean nothing: scp -D gives a host and "sftp".
func sftpServerArgs(args []string) []string {
	if len(args) == 0 || path.Base(args[0]) != sftpServerName {
		return nil
	}
	words := []string{sftpServerName}
	for i := 1; i < len(args) && len(args[i]) > 1 && args[i][0] == '-' && args[i] != "--"; i++ {
		a := args[i]
		for len(a) > 2 && strings.IndexByte("eRh", a[1]) >= 0 {
			words, a = append(words, a[:2]), "-"+a[2:]
		}
		words = append(words, a[:2])
		switch valued := strings.IndexByte("dfluPpQ", a[1]) >= 0; {
		case valued && len(a) > 2:
			words = append(words, a[2:])
		case valued && i+1 < len(args):
			i++
			words = append(words, args[i])
		}
	}
	return words
}

// sftpLevels are what -l takes, and what of the log each shows: as in
// sftpServer.log, -1 nothing.
var sftpLevels = map[string]int{"quiet": -1, "fatal": -1, "error": 0, "info": 1, "verbose": 1, "debug": 2, "debug1": 2, "debug2": 2, "debug3": 2}

// syslogFacilities are what -f takes: RFC 5424, section 6.2.1.
var syslogFacilities = map[string]int{"user": 1, "daemon": 3, "auth": 4, "local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23}

const (
	syslogSocket = "/dev/log"
	syslogError  = 3 // severities
	syslogInfo   = 6
)

func sftpServerVerb() verb {
	return verb{name: sftpServerName, usage: "[-e] [-R] [-d DIR] [-u UMASK] [-f FACILITY] [-l LEVEL] [-P LIST] [-p LIST] [-Q requests]", summary: "SFTP on standard input and output, for another SSH server", bare: true, setup: func(f *flag.FlagSet) verbRun {
		var o sftpServerFlags
		f.BoolVar(&o.toErr, "e", false, "log to standard error, not to syslog")
		f.BoolVar(&o.readOnly, "R", false, "nothing may be changed")
		f.StringVar(&o.dir, "d", "", "`directory` in which relative paths begin, else that in which it is started; %d and %h are the home, %u the user, %% is %")
		f.StringVar(&o.umask, "u", "", "octal `umask` for what is made")
		f.StringVar(&o.facility, "f", "", "`facility` of syslog: user, daemon, auth (the default), local0 to local7")
		f.StringVar(&o.level, "l", "error", "log `level`: quiet, fatal, error, info, verbose, debug, debug1 to debug3")
		f.StringVar(&o.refused, "P", "", "`requests` that are refused, with commas between")
		f.StringVar(&o.allowed, "p", "", "the only `requests` that are not")
		f.StringVar(&o.query, "Q", "", "list what there is: `requests`")
		return func(ctx context.Context, p *program, _ operands) error { return o.run(ctx, p) }
	}}
}

type sftpServerFlags struct {
	toErr, readOnly                                      bool
	dir, umask, facility, level, refused, allowed, query string
}

func (o *sftpServerFlags) run(ctx context.Context, p *program) error {
	if o.query != "" {
		if o.query != "requests" {
			return usageError("-Q %s: only requests can be listed", o.query)
		}
		_, err := io.WriteString(p.out, strings.Join(sftpRequestNames(), "\n")+"\n")
		return err
	}
	refuses, err := o.refuses()
	if err != nil {
		return err
	}
	if o.umask != "" {
		mask, err := strconv.ParseUint(o.umask, 8, 32)
		if err != nil || mask > 0o777 {
			return usageError("-u %s is no umask: octal, 0 to 777", o.umask)
		}
		unix.Umask(int(mask))
	}
	log, done, err := o.log(p)
	if err != nil {
		return err
	}
	defer done()
	d, err := o.door()
	if err != nil {
		return err
	}
	defer d.close()
	s := &sftpServer{door: d, refuses: refuses, log: log}
	if err := s.serve(ctx, p.in, p.out); err != nil {
		log(0, "session ended: %v", err)
		return &exitError{status: 1}
	}
	return nil
}

// refuses is what -P and -p say; nil for neither.
func (o *sftpServerFlags) refuses() (func(string) bool, error) {
	if o.refused == "" && o.allowed == "" {
		return nil, nil
	}
	refused, allowed := strings.Split(o.refused, ","), strings.Split(o.allowed, ",")
	known := sftpRequestNames()
	for _, name := range append(refused[:len(refused):len(refused)], allowed...) {
		if name != "" && !slices.Contains(known, name) {
			return nil, withHint(usageError("there is no request %q", name), "sessio sftp-server -Q requests lists them")
		}
	}
	return func(name string) bool {
		return slices.Contains(refused, name) || o.allowed != "" && !slices.Contains(allowed, name)
	}, nil
}

// log returns what writes lines where -e, -f and -l want them. Without -e and -f
// that is syslog where there is one.
func (o *sftpServerFlags) log(p *program) (log func(int, string, ...any), done func(), err error) {
	level, ok := sftpLevels[strings.ToLower(o.level)]
	if !ok {
		return nil, nil, usageError("-l %s is no level", o.level)
	}
	facility, ok := syslogFacilities[strings.ToLower(cmp.Or(o.facility, "auth"))]
	if !ok {
		return nil, nil, usageError("-f %s is no facility", o.facility)
	}
	done = func() {}
	write := func(_ int, line string) { fmt.Fprintln(p.err, line) }
	if !o.toErr {
		conn, err := net.Dial("unixgram", syslogSocket)
		if err != nil && o.facility != "" {
			return nil, nil, withHint(fmt.Errorf("-f %s: syslog: %w", o.facility, err), "-e logs to standard error")
		}
		write = func(severity int, line string) {
			if err == nil { // without syslog nobody is told, as with OpenSSH's
				fmt.Fprintf(conn, "<%d>%s[%d]: %s", facility<<3|severity, sftpServerName, os.Getpid(), line)
			}
		}
		if err == nil {
			done = func() { conn.Close() }
		}
	}
	return func(n int, format string, args ...any) {
		severity := syslogInfo
		if n == 0 {
			severity = syslogError
		}
		if n <= level {
			write(severity, printable(fmt.Sprintf(format, args...)))
		}
	}, done, nil
}

// door is the way to all files, from where -d says.
func (o *sftpServerFlags) door() (*fileDoor, error) {
	acct, err := ownAccount()
	if err != nil {
		return nil, err
	}
	start := strings.NewReplacer("%%", "%", "%d", acct.home, "%h", acct.home, "%u", acct.name).Replace(o.dir)
	if err := os.Chdir(cmp.Or(start, ".")); err != nil {
		return nil, fmt.Errorf("-d: %w", err)
	}
	if start, err = os.Getwd(); err != nil {
		return nil, err
	}
	d, err := openFileDoor(fileRules{protocol: kindSFTP, user: acct.name, home: acct.home, readOnly: o.readOnly}, nil)
	if err == nil {
		d.start = start
	}
	return d, err
}
