package main

// This file reads and writes statements: signed sentences about an account, as
// text that people can read and that has one encoding per meaning. The parser
// compares every key with the one it expects, so nothing may be reordered,
// doubled or spelt otherwise. What a statement is worth is judged in trust.go.

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	stmtFirstLine = "sessio-statement-v1"

	// maxStatement is the longest statement in bytes, judged before parsing.
	maxStatement = 4 << 10

	// maxStmtNumber is 2^53: every decimal survives a JSON number.
	maxStmtNumber = 1 << 53

	maxSigners    = 8  // active in an account, and named in one statement
	maxRevokes    = 64 // devices named in one device.revoke
	maxStmtOpName = 32
)

// A stmtHash is the SHA-256 of a statement's bytes. Signatures are not in it:
// ECDSA signatures can be altered without becoming invalid.
type stmtHash [32]byte

func hashStatement(text []byte) stmtHash { return sha256.Sum256(text) }

// A statement is a header, the same for every op for all time, and the op's own
// lines:
//
//	sessio-statement-v1
//	acct <64 hex>         genesis: 64 zeros
//	seq <n>               genesis 0, then one more than the last
//	prev <64 hex>         hash of the last statement; genesis: 64 zeros
//	time <unix seconds>   not less than the last statement's
//	op <name>
//	<op lines>
//
// body is nil for an op that this program does not know. extra holds the lines
// that follow what it knows: all lines of an unknown op, or those that a later
// version has added to a known one.
type statement struct {
	acct  acctID
	seq   uint64
	prev  stmtHash
	time  int64
	op    string
	body  stmtBody
	extra []string
}

// A stmtBody is the typed content of one op.
type stmtBody interface {
	op() string
	appendLines(b []byte) []byte
}

// The bodies, in the order of trust.md's table. The ops coordinators and merge
// are named there and reserved; this program treats them as unknown.
type (
	opGenesis struct {
		nonce   [16]byte
		signers []signerLine // 1 to 8, sorted by their lines
	}
	opSignerAdd struct {
		signer signerLine
	}
	opSignerRemove struct {
		signer signerID
		since  uint64 // 0 keeps its past acts
	}
	opDeviceAdd struct {
		device deviceID
		keys   publicKeys
		grant  deviceGrant
	}
	opDeviceUpdate struct {
		device deviceID
		grant  deviceGrant // replaces the one before, whole
	}
	opRecover struct {
		since   uint64
		signers []signerLine
	}
	opDeviceRevoke struct {
		devices []deviceID // 1 to 64, sorted
		reason  string
	}
)

func (opGenesis) op() string      { return "genesis" }
func (opSignerAdd) op() string    { return "signer.add" }
func (opSignerRemove) op() string { return "signer.remove" }
func (opDeviceAdd) op() string    { return "device.add" }
func (opDeviceUpdate) op() string { return "device.update" }
func (opRecover) op() string      { return "recover" }
func (opDeviceRevoke) op() string { return "device.revoke" }

// A deviceGrant is what a statement says about a device beside its keys.
type deviceGrant struct {
	name    string
	roles   []string // of deviceRoles, sorted, at least one
	users   []string // logins, sorted; or "*" alone; may be empty
	caps    []string // of deviceCaps, sorted, at least one
	expires int64    // unix seconds, 0 never
}

// Sorted, as the values must be.
var (
	deviceRoles   = []string{"client", "server"}
	deviceCaps    = []string{"exec", "forward", "pty", "sftp", "shell"}
	revokeReasons = []string{"lost", "retired", "stolen"}
	signerPowers  = []string{"d", "ds", "r", "s"}
)

// parseStatement reads text, which must be a statement to its last byte. All
// errors have the code stmt-malformed.
func parseStatement(text []byte) (*statement, error) {
	if err := checkStmtText(text); err != nil {
		return nil, err
	}
	r := &stmtReader{rest: string(text)}
	if line := r.line(); line != stmtFirstLine {
		return nil, coded("stmt-malformed", "a statement that begins with %.80q, not %q", line, stmtFirstLine)
	}
	st := &statement{
		acct: acctID(r.hex32("acct")),
		seq:  r.number("seq"),
		prev: r.hex32("prev"),
		time: int64(r.number("time")),
		op:   r.value("op"),
	}
	if r.err == nil && !validOpName(st.op) {
		r.fail("op %q is no name of an operation", st.op)
	}
	if first := st.seq == 0; r.err == nil && (first != st.acct.isZero() || first != (st.prev == stmtHash{})) {
		r.fail("account and previous hash are zero in the first statement and in no other")
	}
	if r.err != nil {
		return nil, r.err
	}
	st.body = r.body(st.op)
	st.extra = r.extraLines()
	if r.err != nil {
		return nil, r.err
	}
	return st, nil
}

// checkStmtText judges size and characters before anything is parsed.
func checkStmtText(text []byte) error {
	if len(text) > maxStatement {
		return coded("stmt-malformed", "a statement of %d bytes, at most %d", len(text), maxStatement)
	}
	if len(text) == 0 || text[len(text)-1] != '\n' {
		return coded("stmt-malformed", "a statement that does not end in a line feed")
	}
	for i, c := range text {
		if c != '\n' && (c < 0x20 || c > 0x7e) {
			return coded("stmt-malformed", "a statement with byte %#02x at %d", c, i)
		}
	}
	return nil
}

// append writes the one encoding of st.
func (st *statement) append(b []byte) []byte {
	b = fmt.Appendf(b, "%s\nacct %x\nseq %d\nprev %x\ntime %d\nop %s\n",
		stmtFirstLine, st.acct[:], st.seq, st.prev[:], st.time, st.op)
	if st.body != nil {
		b = st.body.appendLines(b)
	}
	for _, line := range st.extra {
		b = append(append(b, line...), '\n')
	}
	return b
}

// understood reports whether this program knows all that st says. If not, st
// has no effect.
func (st *statement) understood() bool { return st.body != nil && len(st.extra) == 0 }

// newSigners are the signers that st brings in.
func (st *statement) newSigners() []signerLine {
	switch b := st.body.(type) {
	case opGenesis:
		return b.signers
	case opSignerAdd:
		return []signerLine{b.signer}
	case opRecover:
		return b.signers
	}
	return nil
}

// removal reports whether st does nothing but take away: such statements act
// where others have to wait. A recover counts, since it removes every signer.
func (st *statement) removal() bool {
	if !st.understood() {
		return false
	}
	switch st.body.(type) {
	case opDeviceRevoke, opSignerRemove, opRecover:
		return true
	}
	return false
}

// validOpName accepts [a-z][a-z0-9.-]{0,31}.
func validOpName(s string) bool {
	return len(s) >= 1 && len(s) <= maxStmtOpName && s[0] >= 'a' && s[0] <= 'z' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

// A stmtReader takes a statement's lines one by one. The first error stays, and
// all reads after it return zero values.
type stmtReader struct {
	rest string
	err  error
}

// maxQuoted is how much of a foreign text an error repeats, in bytes.
const maxQuoted = 80

func (r *stmtReader) fail(format string, args ...any) {
	for i, a := range args {
		if text, ok := a.(string); ok && len(text) > maxQuoted {
			args[i] = text[:maxQuoted] + "..."
		}
	}
	if r.err == nil {
		r.err = coded("stmt-malformed", "statement: "+format, args...)
	}
}

// line takes the next line, which checkStmtText has made sure ends in LF.
func (r *stmtReader) line() string {
	line, rest, _ := strings.Cut(r.rest, "\n")
	r.rest = rest
	return line
}

// hasKey reports whether the next line has the given key.
func (r *stmtReader) hasKey(key string) bool {
	return r.err == nil && strings.HasPrefix(r.rest, key+" ")
}

// value takes the next line, which must have the given key, and returns what
// stands behind it.
func (r *stmtReader) value(key string) string {
	if r.err != nil {
		return ""
	}
	line := r.line()
	value, ok := strings.CutPrefix(line, key+" ")
	if !ok {
		r.fail("%q where the line %q must stand", line, key)
	}
	return value
}

// values takes all next lines with key, at least one and at most max, each
// greater by its bytes than the one before.
func (r *stmtReader) values(key string, max int) []string {
	var list []string
	for len(list) == 0 || r.hasKey(key) {
		v := r.value(key)
		if r.err != nil {
			return nil
		}
		if len(list) > 0 && list[len(list)-1] >= v {
			r.fail("lines %q are not sorted", key)
			return nil
		}
		if list = append(list, v); len(list) > max {
			r.fail("more than %d lines %q", max, key)
			return nil
		}
	}
	return list
}

// number reads a decimal without leading zeros, at most 2^53.
func (r *stmtReader) number(key string) uint64 {
	v := r.value(key)
	if r.err != nil {
		return 0
	}
	n, err := parseStmtNumber(v)
	if err != nil {
		r.fail("%s %w", key, err)
	}
	return n
}

func parseStmtNumber(v string) (uint64, error) {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n > maxStmtNumber || strconv.FormatUint(n, 10) != v {
		return 0, fmt.Errorf("%.80q is no plain number up to 2^53", v)
	}
	return n, nil
}

func (r *stmtReader) hex32(key string) [32]byte {
	v := r.value(key)
	if r.err != nil {
		return [32]byte{}
	}
	id, err := parseAcctID(v)
	if err != nil {
		r.fail("%s %q is not 64 lower-case hex digits", key, v)
	}
	return id
}

// csv reads sorted values, each of which valid accepts, separated by commas.
func (r *stmtReader) csv(key string, valid func(string) bool) []string {
	v := r.value(key)
	if r.err != nil {
		return nil
	}
	list := strings.Split(v, ",")
	for i, item := range list {
		if !valid(item) {
			r.fail("%s %q: %q is not allowed", key, v, item)
			return nil
		}
		if i > 0 && list[i-1] >= item {
			r.fail("%s %q is not sorted", key, v)
			return nil
		}
	}
	return list
}

// extraLines takes what is left. A line is a key, a space and a value, whatever
// later versions make of them.
func (r *stmtReader) extraLines() []string {
	var list []string
	for r.err == nil && r.rest != "" {
		line := r.line()
		key, value, ok := strings.Cut(line, " ")
		if !ok || key == "" || value == "" {
			r.fail("line %q has no key and value", line)
			return nil
		}
		list = append(list, line)
	}
	return list
}

// oneOf makes a validator of a table.
func oneOf(table []string) func(string) bool {
	return func(s string) bool { return slices.Contains(table, s) }
}
