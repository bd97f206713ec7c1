package main

// This file serves files in a child that runs as the user. Its rules come to it
// as JSON on a descriptor of their own, and records for the audit go back on
// another: each its length, 4 bytes, and a fileEventMsg. The child is trusted no
// further than its user.

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// filesChildVerb starts the child. It is no verb for people.
const filesChildVerb = "files-child"

func isFilesChild(args []string) bool { return len(args) == 2 && args[1] == filesChildVerb }

const (
	filesRules  = 3 // descriptors in the child
	filesEvents = 4
	// maxFileEvent holds two paths and a reason, in bytes.
	maxFileEvent = 4 * maxPath
	// filesPipe is how much the pipes of data hold, in bytes: at the usual
	// 64 KiB both sides would mostly wait for each other.
	filesPipe = 1 << 20
)

// filesRulesMsg is a filesJob on the way. Paths are bytes, which JSON's strings
// are not.
type filesRulesMsg struct {
	Protocol        string
	User            []byte
	Home, Root, SCP []byte
	UID, GID        uint32
	ReadOnly        bool
	MaxSize         int64
	Filter          []byte // fileFilter.text, nil for none
	Paced           bool
}

func (m *filesRulesMsg) job() (*filesJob, error) {
	r := fileRules{
		protocol: m.Protocol, user: string(m.User), home: string(m.Home), root: string(m.Root),
		readOnly: m.ReadOnly, maxSize: m.MaxSize,
	}
	var err error
	if m.Filter != nil {
		r.filter, err = parseFilter(string(m.Filter))
	}
	return &filesJob{r, string(m.SCP), m.Paced}, err
}

// A fileEventMsg is an audit event on the way: what the child may say of it.
type fileEventMsg struct {
	Kind, Result, Path, DestPath, Rule, Details string
	HasBytes                                    bool
	Bytes                                       uint64
}

// tcpRoundTrip is the kernel's figure for a TCP connection; 0 = not known.
func tcpRoundTrip(nc net.Conn) (rtt time.Duration) {
	onSocket(nc, func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			rtt = time.Duration(info.Rtt) * time.Microsecond
		}
	})
	return rtt
}

// startFilesChild has a child serve the channel, as any command.
func (s *sshSession) startFilesChild(req *ssh.Request, r *filesJob) error {
	acct := s.conn.login.acct
	m := filesRulesMsg{
		Protocol: r.protocol, User: []byte(r.user), Home: []byte(r.home), Root: []byte(r.root), SCP: []byte(r.scp),
		UID: acct.uid, GID: acct.gid, ReadOnly: r.readOnly, MaxSize: r.maxSize, Paced: r.paced,
	}
	if r.filter != nil {
		m.Filter = []byte(r.filter.text())
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	rulesIn, rulesOut, err := os.Pipe()
	if err != nil {
		return err
	}
	events, eventsOut, err := os.Pipe()
	if err != nil {
		closeFiles([]*os.File{rulesIn, rulesOut})
		return err
	}
	acct.home = "/" // where the child stands; it enters no directory of the user's
	child, err := startChild(childSpec{
		sshProgram: sshProgram{"/proc/self/exe", []string{"sessio", filesChildVerb}},
		acct:       acct, env: []string{"HOME=" + r.home}, extra: []*os.File{rulesIn, eventsOut},
	})
	if err != nil {
		closeFiles([]*os.File{rulesOut, events})
		return err
	}
	s.child = child
	for _, f := range []*os.File{child.stdin, child.stdout} {
		controlFile(f, func(fd int) error {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, filesPipe)
			return err // smaller pipes do as well
		})
	}
	s.work.Go(func() {
		rulesOut.Write(text) // fails when the child has ended
		rulesOut.Close()
		readFileEvents(events, s.noteFile(r.protocol))
		events.Close()
	})
	s.follow(req, r.protocol)
	return nil
}

// readFileEvents hands on what the child says of files, until it ends. What is
// no event of a file, or not whole, ends the reading.
func readFileEvents(r io.Reader, note func(auditEvent)) {
	b := make([]byte, maxFileEvent)
	for {
		var n uint32
		if binary.Read(r, binary.BigEndian, &n) != nil || n > maxFileEvent {
			return
		}
		if _, err := io.ReadFull(r, b[:n]); err != nil {
			return
		}
		var m fileEventMsg
		if ssh.Unmarshal(b[:n], &m) != nil || !isFileEvent(auditType(m.Kind)) {
			return
		}
		e := auditEvent{kind: auditType(m.Kind), result: auditResult(m.Result), path: m.Path, destPath: m.DestPath, rule: m.Rule, details: m.Details}
		if !slices.Contains([]auditResult{auditSuccess, auditFailure, auditDenied, auditError}, e.result) {
			return
		}
		if m.HasBytes {
			n := int64(min(m.Bytes, math.MaxInt64))
			e.bytes = &n
		}
		note(e)
	}
}

func isFileEvent(k auditType) bool {
	return strings.HasPrefix(string(k), "file_") || strings.HasPrefix(string(k), "directory_") || strings.HasPrefix(string(k), "transfer_")
}

// runFilesChild is the child. It ends when its pipes do, or when it can no
// longer tell what it does.
func runFilesChild() error {
	var m filesRulesMsg
	in := os.NewFile(filesRules, "rules")
	err := json.NewDecoder(in).Decode(&m)
	in.Close()
	if err != nil {
		return fmt.Errorf("files-child: its rules: %w", err)
	}
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	uid, gid := int(m.UID), int(m.GID)
	if uid == 0 || ruid != uid || euid != uid || suid != uid || rgid != gid || egid != gid || sgid != gid {
		return errors.New("files-child: this is not the user that it is for")
	}
	if err := errors.Join(forgoPrivileges(), unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})); err != nil {
		return fmt.Errorf("files-child: %w", err)
	}
	j, err := m.job()
	if err != nil {
		return fmt.Errorf("files-child: its filter: %w", err)
	}
	unix.CloseOnExec(filesEvents)
	events := os.NewFile(filesEvents, "events")
	door, err := openFileDoor(j.fileRules, func(e auditEvent) {
		if _, err := events.Write(appendFileEvent(nil, e)); err != nil {
			os.Exit(1) // nothing is done that cannot be told
		}
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "sessio: %v\r\n", err) // for the client, as refuse has it
		return err
	}
	defer door.close()
	// What asks it to end, or is the end of its client, may not kill it: open
	// files are still to be judged, and told of.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGHUP, unix.SIGTERM, unix.SIGPIPE)
	defer stop()
	stdin, inErr := unblocked(os.Stdin)
	stdout, outErr := unblocked(os.Stdout)
	if err := errors.Join(inErr, outErr); err != nil {
		return fmt.Errorf("files-child: its pipes: %w", err)
	}
	defer context.AfterFunc(ctx, func() { closeFiles([]*os.File{stdin, stdout}) })()
	status, err := j.serve(ctx, door, stdin, stdout, os.Stderr)
	return &exitError{status, err}
}

func appendFileEvent(b []byte, e auditEvent) []byte {
	m := fileEventMsg{Kind: string(e.kind), Result: string(e.result), Path: e.path, DestPath: e.destPath, Rule: e.rule, Details: e.details[:min(len(e.details), maxPath)]}
	if e.bytes != nil {
		m.HasBytes, m.Bytes = true, uint64(*e.bytes)
	}
	text := ssh.Marshal(m)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...)
}
