package main

// This file is the byte form of what devices ask of the coordinator on QUIC
// streams (ALPN sessio-coord/1). A stream carries one request and its reply:
//
//	op      1 byte            status  1 byte    0 = done, 1 = a failureMsg
//	length  4 bytes           length  4 bytes
//	body    length bytes      body    length bytes
//
// and ends there, both ways. Numbers are big endian, addresses as in wire.go.
// Bytes after the last field of a body are ignored: that is where fields are
// added.

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
)

// The requests, with their bodies and replies.
const (
	opCreate  = 1 // createMsg: headMsg
	opFetch   = 2 // fetchMsg: fetchedMsg
	opAppend  = 3 // appendMsg: headMsg
	opTicket  = 4 // ticketMsg: nothing
	opJoin    = 5 // joinMsg: joinedMsg
	opPending = 6 // acctMsg: pendingMsg
	opDevices = 7 // acctMsg: devicesMsg
	opWhoami  = 8 // nothing: whoamiMsg
)

const (
	statusDone  = 0
	statusError = 1
)

const (
	// maxCoordBody bounds the body of a request or reply, in bytes: 64 records
	// of usual size; of larger ones there are fewer in a reply.
	maxCoordBody = 256 << 10
	// maxFetchRecords bounds the records of one reply.
	maxFetchRecords = 64
	// maxCreateRecords bounds the records that make an account: genesis and
	// what adds the first devices.
	maxCreateRecords = 8
	// maxErrorText bounds an error's text, in bytes.
	maxErrorText = 1 << 10
)

// writeCoordFrame writes a request or a reply; first is its op or status.
func writeCoordFrame(w io.Writer, first byte, body []byte) error {
	b := append32([]byte{first}, uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readCoordHead reads the op or status, and the length of the body.
func readCoordHead(r io.Reader) (first byte, length int, err error) {
	var b [5]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, 0, err
	}
	s := cryptobyte.String(b[:])
	var n uint32
	if !s.ReadUint8(&first) || !s.ReadUint32(&n) || n > maxCoordBody {
		return 0, 0, fmt.Errorf("a body of %d bytes, at most %d", n, maxCoordBody)
	}
	return first, int(n), nil
}

// readCoordBody reads the body. Memory is taken for what has come, not for
// what a length promises.
func readCoordBody(r io.Reader, length int) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, int64(length)))
	if err == nil && len(body) < length {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

func readCoordFrame(r io.Reader) (first byte, body []byte, err error) {
	first, length, err := readCoordHead(r)
	if err != nil {
		return 0, nil, err
	}
	body, err = readCoordBody(r, length)
	return first, body, err
}

// A failureMsg says why a request failed.
//
//	code  1 byte length and text
//	text  2 bytes length and text, at most maxErrorText
type failureMsg struct{ code, text string }

func (m *failureMsg) append(b []byte) []byte {
	b = appendString8(b, m.code)
	text := m.text[:min(len(m.text), maxErrorText)]
	b = append(b, byte(len(text)>>8), byte(len(text)))
	return append(b, text...)
}

func parseFailure(b []byte) (*failureMsg, error) {
	s := cryptobyte.String(b)
	var m failureMsg
	var text cryptobyte.String
	if !readString8(&s, &m.code) || !s.ReadUint16LengthPrefixed(&text) {
		return nil, errShort
	}
	if len(text) > maxErrorText {
		return nil, fmt.Errorf("an error text of %d bytes, at most %d", len(text), maxErrorText)
	}
	m.text = string(text)
	return &m, nil
}

// A claimSecret lets one account be made; zero = none.
type claimSecret [16]byte

// A createMsg makes an account.
//
//	claim    16 bytes
//	records  1 byte count, at most maxCreateRecords, then each 4 bytes length
//	         and record: genesis first
type createMsg struct {
	claim   claimSecret
	records [][]byte
}

func (m *createMsg) append(b []byte) []byte {
	return appendRecords(append(b, m.claim[:]...), m.records)
}

func parseCreate(b []byte) (*createMsg, error) {
	s := cryptobyte.String(b)
	var m createMsg
	if !s.CopyBytes(m.claim[:]) {
		return nil, errShort
	}
	var err error
	m.records, err = readRecords(&s, maxCreateRecords)
	return &m, err
}

// A headMsg says where an account's log stands.
//
//	seq   8 bytes   of the last record
//	head  32 bytes  hash of its statement
type headMsg struct {
	seq  uint64
	head [32]byte
}

func (m *headMsg) append(b []byte) []byte { return append(append64(b, m.seq), m.head[:]...) }

func parseHeadMsg(b []byte) (*headMsg, error) {
	s := cryptobyte.String(b)
	var m headMsg
	if !s.ReadUint64(&m.seq) || !s.CopyBytes(m.head[:]) {
		return nil, errShort
	}
	return &m, nil
}

// A fetchMsg asks for records. Who is neither in the log nor waiting proves
// that it has the recovery key: see fetchProofBytes.
//
//	acct   32 bytes
//	from   8 bytes  seq of the first record wanted
//	proof  4 bytes length, at most maxSSHSig, and SSHSIG blob; empty = none
type fetchMsg struct {
	acct  acctID
	from  uint64
	proof []byte
}

func (m *fetchMsg) append(b []byte) []byte {
	return appendBytes32(append64(append(b, m.acct[:]...), m.from), m.proof)
}

func parseFetch(b []byte) (*fetchMsg, error) {
	s := cryptobyte.String(b)
	var m fetchMsg
	if !s.CopyBytes(m.acct[:]) || !s.ReadUint64(&m.from) {
		return nil, errShort
	}
	var err error
	m.proof, err = readBytes32(&s, maxSSHSig)
	return &m, err
}

// fetchNamespace is the SSHSIG namespace of a fetchMsg's proof.
const fetchNamespace = "sessio-fetch@v1"

// fetchProofBytes is what the recovery key signs to read an account's log. key
// is exported from the TLS connection (RFC 8446, section 7.5, with label
// fetchExporter, no context, 32 bytes), so that a proof is good on no other.
func fetchProofBytes(acct acctID, key []byte) []byte {
	b := append([]byte("sessio-fetch-v1\n"), acct[:]...)
	return append(b, key...)
}

const fetchExporter = "EXPORTER-sessio-fetch-v1"

// A fetchedMsg brings records and says how far the log goes.
//
//	head     headMsg
//	records  1 byte count, at most maxFetchRecords, then each 4 bytes length
//	         and record
type fetchedMsg struct {
	head    headMsg
	records [][]byte
}

func (m *fetchedMsg) append(b []byte) []byte { return appendRecords(m.head.append(b), m.records) }

func parseFetched(b []byte) (*fetchedMsg, error) {
	s := cryptobyte.String(b)
	var m fetchedMsg
	if !s.ReadUint64(&m.head.seq) || !s.CopyBytes(m.head.head[:]) {
		return nil, errShort
	}
	var err error
	m.records, err = readRecords(&s, maxFetchRecords)
	return &m, err
}

// An appendMsg adds a record to a log, if it follows the log's head.
//
//	acct    32 bytes
//	record  4 bytes length and record
type appendMsg struct {
	acct   acctID
	record []byte
}

func (m *appendMsg) append(b []byte) []byte { return appendBytes32(append(b, m.acct[:]...), m.record) }

func parseAppend(b []byte) (*appendMsg, error) {
	s := cryptobyte.String(b)
	var m appendMsg
	if !s.CopyBytes(m.acct[:]) {
		return nil, errShort
	}
	var err error
	m.record, err = readBytes32(&s, maxCoordBody)
	return &m, err
}

// A ticketHash names a ticket to who does not have it.
type ticketHash [32]byte

// A ticketMsg lets the bearer of a secret join.
//
//	acct     32 bytes
//	ticket   32 bytes  see hashTicket
//	seconds  4 bytes   that it is good for
type ticketMsg struct {
	acct    acctID
	ticket  ticketHash
	seconds uint32
}

func (m *ticketMsg) append(b []byte) []byte {
	return append32(append(append(b, m.acct[:]...), m.ticket[:]...), m.seconds)
}

func parseTicketMsg(b []byte) (*ticketMsg, error) {
	s := cryptobyte.String(b)
	var m ticketMsg
	if !s.CopyBytes(m.acct[:]) || !s.CopyBytes(m.ticket[:]) || !s.ReadUint32(&m.seconds) {
		return nil, errShort
	}
	return &m, nil
}

// A joinMsg asks to be signed into an account; the keys are those that TLS has
// proved.
//
//	acct    32 bytes
//	ticket  32 bytes
//	name    1 byte length and text; empty = as the ticket says
//	login   1 byte length and text
//	proof   32 bytes  see joinProof
type joinMsg struct {
	acct        acctID
	ticket      ticketHash
	name, login string
	proof       [32]byte
}

func (m *joinMsg) append(b []byte) []byte {
	b = append(append(b, m.acct[:]...), m.ticket[:]...)
	b = appendString8(appendString8(b, m.name), m.login)
	return append(b, m.proof[:]...)
}

func parseJoin(b []byte) (*joinMsg, error) {
	s := cryptobyte.String(b)
	var m joinMsg
	if !s.CopyBytes(m.acct[:]) || !s.CopyBytes(m.ticket[:]) || !readString8(&s, &m.name) ||
		!readString8(&s, &m.login) || !s.CopyBytes(m.proof[:]) {
		return nil, errShort
	}
	return &m, checkJoinNames(m.name, m.login)
}

func checkJoinNames(name, login string) error {
	if name != "" && !validName(name) {
		return fmt.Errorf("%q is no name for a device", name)
	}
	if login != "" && !validLogin(login) {
		return fmt.Errorf("%q is no login name", login)
	}
	return nil
}

// A joinedMsg says what has become of a request to join.
//
//	signed  1 byte  0 = it waits, 1 = it is in the log
//	head    headMsg
type joinedMsg struct {
	signed bool
	head   headMsg
}

func (m *joinedMsg) append(b []byte) []byte { return m.head.append(append(b, boolByte(m.signed))) }

func parseJoined(b []byte) (*joinedMsg, error) {
	s := cryptobyte.String(b)
	var m joinedMsg
	var signed uint8
	if !s.ReadUint8(&signed) || !s.ReadUint64(&m.head.seq) || !s.CopyBytes(m.head.head[:]) {
		return nil, errShort
	}
	m.signed = signed == 1
	return &m, nil
}

// An acctMsg asks about an account.
//
//	acct  32 bytes
type acctMsg struct{ acct acctID }

func (m *acctMsg) append(b []byte) []byte { return append(b, m.acct[:]...) }

func parseAcctMsg(b []byte) (*acctMsg, error) {
	s := cryptobyte.String(b)
	var m acctMsg
	if !s.CopyBytes(m.acct[:]) {
		return nil, errShort
	}
	return &m, nil
}

// A pendingJoin is a request to join that waits for a signature. Its keys are
// the joiner's, proved by TLS to the coordinator only; all of it is a claim
// until the proof has been checked with the ticket's secret.
//
//	sign    32 bytes
//	path    32 bytes
//	ticket  32 bytes
//	name    1 byte length and text
//	login   1 byte length and text
//	proof   32 bytes
//	time    8 bytes   unix seconds when it came
//	addr    18 bytes  from where
type pendingJoin struct {
	keys        publicKeys
	ticket      ticketHash
	name, login string
	proof       [32]byte
	time        int64
	addr        netip.AddrPort
}

func (m *pendingJoin) append(b []byte) []byte {
	b = append(append(append(b, m.keys.sign...), m.keys.path[:]...), m.ticket[:]...)
	b = appendString8(appendString8(b, m.name), m.login)
	return appendAddr(append64(append(b, m.proof[:]...), uint64(m.time)), m.addr)
}

func readPendingJoin(s *cryptobyte.String) (m pendingJoin, err error) {
	m.keys.sign = make([]byte, 32)
	var t uint64
	if !s.CopyBytes(m.keys.sign) || !s.CopyBytes(m.keys.path[:]) || !s.CopyBytes(m.ticket[:]) ||
		!readString8(s, &m.name) || !readString8(s, &m.login) || !s.CopyBytes(m.proof[:]) ||
		!s.ReadUint64(&t) || !readAddr(s, &m.addr) {
		return m, errShort
	}
	m.time = int64(t)
	return m, checkJoinNames(m.name, m.login)
}

// A pendingMsg lists what waits for a signature.
//
//	joins  1 byte count, then each
type pendingMsg struct{ joins []pendingJoin }

func (m *pendingMsg) append(b []byte) []byte {
	b = append(b, byte(len(m.joins)))
	for i := range m.joins {
		b = m.joins[i].append(b)
	}
	return b
}

func parsePending(b []byte) (*pendingMsg, error) {
	s := cryptobyte.String(b)
	var m pendingMsg
	return &m, m.read(&s)
}

func (m *pendingMsg) read(s *cryptobyte.String) error {
	var count uint8
	if !s.ReadUint8(&count) {
		return errShort
	}
	for range count {
		join, err := readPendingJoin(s)
		if err != nil {
			return err
		}
		m.joins = append(m.joins, join)
	}
	return nil
}

// A deviceSeen says how the coordinator sees a device.
//
//	id      26 bytes
//	flags   1 byte    1 = online, 2 = its process serves
//	silent  8 bytes   seconds since it was heard, all ones = never
//	addr    18 bytes
//	build   1 byte length and text
type deviceSeen struct {
	id     deviceID
	status memberStatus
}

func (m *deviceSeen) append(b []byte) []byte {
	st := &m.status
	b = append(append(b, m.id...), boolByte(st.online)|boolByte(st.serves)<<1)
	return appendString8(appendAddr(append64(b, st.silent), st.addr), st.build)
}

func readDeviceSeen(s *cryptobyte.String) (m deviceSeen, err error) {
	var id [idLen]byte
	var flags uint8
	st := &m.status
	if !s.CopyBytes(id[:]) || !s.ReadUint8(&flags) || !s.ReadUint64(&st.silent) || !readAddr(s, &st.addr) || !readString8(s, &st.build) {
		return m, errShort
	}
	if !validID(string(id[:]), 'd') {
		return m, fmt.Errorf("%q is no device id", id)
	}
	m.id, st.online, st.serves = deviceID(id[:]), flags&1 != 0, flags&2 != 0
	return m, nil
}

// A devicesMsg lists the devices of an account.
//
//	devices  2 bytes count, then each
type devicesMsg struct{ devices []deviceSeen }

func (m *devicesMsg) append(b []byte) []byte {
	b = append(b, byte(len(m.devices)>>8), byte(len(m.devices)))
	for i := range m.devices {
		b = m.devices[i].append(b)
	}
	return b
}

func parseDevices(b []byte) (*devicesMsg, error) {
	s := cryptobyte.String(b)
	var m devicesMsg
	var count uint16
	if !s.ReadUint16(&count) {
		return nil, errShort
	}
	for range count {
		d, err := readDeviceSeen(&s)
		if err != nil {
			return nil, err
		}
		m.devices = append(m.devices, d)
	}
	return &m, nil
}

// A whoamiMsg tells the asker how it is seen.
//
//	observed  18 bytes
//	time      8 bytes   unix seconds at the coordinator
type whoamiMsg struct {
	observed netip.AddrPort
	time     int64
}

func (m *whoamiMsg) append(b []byte) []byte {
	return append64(appendAddr(b, m.observed), uint64(m.time))
}

func parseWhoami(b []byte) (*whoamiMsg, error) {
	s := cryptobyte.String(b)
	var m whoamiMsg
	var t uint64
	if !readAddr(&s, &m.observed) || !s.ReadUint64(&t) {
		return nil, errShort
	}
	m.time = int64(t)
	return &m, nil
}

func appendString8(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

func readString8(s *cryptobyte.String, v *string) bool {
	var b cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&b) {
		return false
	}
	*v = string(b)
	return true
}

func appendBytes32(b, v []byte) []byte { return append(append32(b, uint32(len(v))), v...) }

// readBytes32 returns a copy of what 4 bytes of length announce.
func readBytes32(s *cryptobyte.String, most int) ([]byte, error) {
	var n uint32
	if !s.ReadUint32(&n) {
		return nil, errShort
	}
	if int64(n) > int64(most) {
		return nil, fmt.Errorf("a field of %d bytes, at most %d", n, most)
	}
	var b []byte
	if !s.ReadBytes(&b, int(n)) {
		return nil, errShort
	}
	return append([]byte(nil), b...), nil
}

func appendRecords(b []byte, records [][]byte) []byte {
	b = append(b, byte(len(records)))
	for _, r := range records {
		b = appendBytes32(b, r)
	}
	return b
}

func readRecords(s *cryptobyte.String, most int) (records [][]byte, err error) {
	var count uint8
	if !s.ReadUint8(&count) {
		return nil, errShort
	}
	if int(count) > most {
		return nil, fmt.Errorf("%d records, at most %d", count, most)
	}
	for range count {
		r, err := readBytes32(s, maxCoordBody)
		if err != nil {
			return nil, err
		}
		if len(r) == 0 {
			return nil, errors.New("an empty record")
		}
		records = append(records, r)
	}
	return records, nil
}

type noMsg struct{}

func (noMsg) append(b []byte) []byte { return b }
