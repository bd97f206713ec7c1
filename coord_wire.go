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
	opEnrol   = 9 // enrolMsg: enrolledMsg
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
	// maxCategories bounds the categories of one device.
	maxCategories = 8
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

func (m *failureMsg) fields(c *codec) {
	m.code = c.text(m.code, 1, 255)
	m.text = c.text(m.text, 2, maxErrorText)
}

func (m *failureMsg) append(b []byte) []byte     { return appendFields(b, m) }
func parseFailure(b []byte) (*failureMsg, error) { return parseFields(b, new(failureMsg)) }

// A createMsg makes an account.
//
//	claim    16 bytes
//	records  1 byte count, at most maxCreateRecords, then each 4 bytes length
//	         and record: genesis first
type createMsg struct {
	claim   claimSecret
	records [][]byte
}

func (m *createMsg) fields(c *codec) {
	c.fixed(m.claim[:])
	c.records(&m.records, maxCreateRecords)
}

func (m *createMsg) append(b []byte) []byte    { return appendFields(b, m) }
func parseCreate(b []byte) (*createMsg, error) { return parseFields(b, new(createMsg)) }

// A headMsg says where an account's log stands.
//
//	seq   8 bytes   of the last record
//	head  32 bytes  hash of its statement
type headMsg struct {
	seq  uint64
	head [32]byte
}

func (m *headMsg) fields(c *codec) {
	m.seq = c.uint(m.seq, 8)
	c.fixed(m.head[:])
}

func (m *headMsg) append(b []byte) []byte     { return appendFields(b, m) }
func parseHeadMsg(b []byte) (*headMsg, error) { return parseFields(b, new(headMsg)) }

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

func (m *fetchMsg) fields(c *codec) {
	c.fixed(m.acct[:])
	m.from = c.uint(m.from, 8)
	m.proof = c.prefixed(m.proof, 4, maxSSHSig)
}

func (m *fetchMsg) append(b []byte) []byte   { return appendFields(b, m) }
func parseFetch(b []byte) (*fetchMsg, error) { return parseFields(b, new(fetchMsg)) }

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

func (m *fetchedMsg) fields(c *codec) {
	m.head.fields(c)
	c.records(&m.records, maxFetchRecords)
}

func (m *fetchedMsg) append(b []byte) []byte     { return appendFields(b, m) }
func parseFetched(b []byte) (*fetchedMsg, error) { return parseFields(b, new(fetchedMsg)) }

// An appendMsg adds a record to a log, if it follows the log's head.
//
//	acct    32 bytes
//	record  4 bytes length and record
type appendMsg struct {
	acct   acctID
	record []byte
}

func (m *appendMsg) fields(c *codec) {
	c.fixed(m.acct[:])
	m.record = c.prefixed(m.record, 4, maxCoordBody)
}

func (m *appendMsg) append(b []byte) []byte    { return appendFields(b, m) }
func parseAppend(b []byte) (*appendMsg, error) { return parseFields(b, new(appendMsg)) }

// A ticketMsg lets the bearer of a secret join.
//
//	acct     32 bytes
//	ticket   32 bytes  see hashTicket
//	seconds  4 bytes   that it is good for
//	sorted   1 byte count, at most maxCategories, then each 1 byte length and
//	         text: categories of the device; may be missing
type ticketMsg struct {
	acct       acctID
	ticket     ticketHash
	seconds    uint32
	categories []string
}

func (m *ticketMsg) fields(c *codec) {
	c.fixed(m.acct[:])
	c.fixed(m.ticket[:])
	m.seconds = uint32(c.uint(uint64(m.seconds), 4))
	if c.more() {
		c.categories(&m.categories)
	}
}

func (m *ticketMsg) append(b []byte) []byte       { return appendFields(b, m) }
func parseTicketMsg(b []byte) (*ticketMsg, error) { return parseFields(b, new(ticketMsg)) }

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

func (m *joinMsg) fields(c *codec) {
	c.fixed(m.acct[:])
	c.fixed(m.ticket[:])
	c.joinNames(&m.name, &m.login)
	c.fixed(m.proof[:])
}

func (m *joinMsg) append(b []byte) []byte  { return appendFields(b, m) }
func parseJoin(b []byte) (*joinMsg, error) { return parseFields(b, new(joinMsg)) }

// joinNames are the name and login of who joins.
func (c *codec) joinNames(name, login *string) {
	*name, *login = c.text(*name, 1, 255), c.text(*login, 1, 255)
	if err := checkJoinNames(*name, *login); c.reading && err != nil {
		c.fail("%w", err)
	}
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

func (m *joinedMsg) fields(c *codec) {
	m.signed = c.uint(uint64(boolByte(m.signed)), 1) == 1
	m.head.fields(c)
}

func (m *joinedMsg) append(b []byte) []byte    { return appendFields(b, m) }
func parseJoined(b []byte) (*joinedMsg, error) { return parseFields(b, new(joinedMsg)) }

// An acctMsg asks about an account.
//
//	acct  32 bytes
type acctMsg struct{ acct acctID }

func (m *acctMsg) fields(c *codec) { c.fixed(m.acct[:]) }

func (m *acctMsg) append(b []byte) []byte     { return appendFields(b, m) }
func parseAcctMsg(b []byte) (*acctMsg, error) { return parseFields(b, new(acctMsg)) }

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

func (m *pendingJoin) fields(c *codec) {
	if c.reading {
		m.keys.sign = make([]byte, 32)
	}
	c.fixed(m.keys.sign)
	c.fixed(m.keys.path[:])
	c.fixed(m.ticket[:])
	c.joinNames(&m.name, &m.login)
	c.fixed(m.proof[:])
	m.time = int64(c.uint(uint64(m.time), 8))
	c.addr(&m.addr)
}

// A pendingMsg lists what waits for a signature.
//
//	joins  1 byte count, then each
type pendingMsg struct{ joins []pendingJoin }

func (m *pendingMsg) fields(c *codec) {
	listed(c, &m.joins, 1, 255, "joins", func(j *pendingJoin) { j.fields(c) })
}

func (m *pendingMsg) append(b []byte) []byte     { return appendFields(b, m) }
func parsePending(b []byte) (*pendingMsg, error) { return parseFields(b, new(pendingMsg)) }

// A deviceSeen says how the coordinator sees a device.
//
//	id      26 bytes
//	flags   1 byte    1 = online, 2 = its process serves
//	silent  8 bytes   seconds since it was heard, all ones = never
//	addr    18 bytes
//	build   1 byte length and text
type deviceSeen struct {
	id         deviceID
	status     memberStatus
	categories []string // not among the fields: see devicesMsg
}

func (m *deviceSeen) fields(c *codec) {
	var id [idLen]byte
	copy(id[:], m.id)
	c.fixed(id[:])
	if c.reading && !validID(string(id[:]), 'd') {
		c.fail("%q is no device id", id)
	}
	m.id = deviceID(id[:])
	st := &m.status
	flags := c.uint(uint64(boolByte(st.online)|boolByte(st.serves)<<1), 1)
	st.online, st.serves = flags&1 != 0, flags&2 != 0
	st.silent = c.uint(st.silent, 8)
	c.addr(&st.addr)
	st.build = c.text(st.build, 1, 255)
}

// A devicesMsg lists the devices of an account.
//
//	devices  2 bytes count, then each
//	sorted   for each in the same order, 1 byte count, at most maxCategories,
//	         then each 1 byte length and text: its categories; may be missing
type devicesMsg struct{ devices []deviceSeen }

func (m *devicesMsg) fields(c *codec) {
	listed(c, &m.devices, 2, 1<<16-1, "devices", func(d *deviceSeen) { d.fields(c) })
	for i := range m.devices {
		if c.more() {
			c.categories(&m.devices[i].categories)
		}
	}
}

// categories are names that sort a device.
func (c *codec) categories(list *[]string) {
	listed(c, list, 1, maxCategories, "categories", func(s *string) {
		if *s = c.text(*s, 1, 255); c.reading && c.err == nil && !validName(*s) {
			c.fail("%q is no name of a category", *s)
		}
	})
}

func (m *devicesMsg) append(b []byte) []byte     { return appendFields(b, m) }
func parseDevices(b []byte) (*devicesMsg, error) { return parseFields(b, new(devicesMsg)) }

// A whoamiMsg tells the asker how it is seen.
//
//	observed  18 bytes
//	time      8 bytes   unix seconds at the coordinator
//	url       1 byte length and text: its public address, a claim until
//	          installLines has checked it; empty = it hands out no builds
//	set       1 byte length and text: of builds, see buildSetID
//
// A coordinator of before ends behind time.
type whoamiMsg struct {
	observed netip.AddrPort
	time     int64
	url, set string
}

func (m *whoamiMsg) fields(c *codec) {
	c.addr(&m.observed)
	m.time = int64(c.uint(uint64(m.time), 8))
	if c.more() {
		m.url, m.set = c.text(m.url, 1, 255), c.text(m.set, 1, 255)
	}
}

func (m *whoamiMsg) append(b []byte) []byte    { return appendFields(b, m) }
func parseWhoami(b []byte) (*whoamiMsg, error) { return parseFields(b, new(whoamiMsg)) }

// An enrolMsg asks that a passkey may be made that signs in to the page.
//
//	acct   32 bytes
//	proof  4 bytes length and record: ownerProofText, signed in ownerNamespace
type enrolMsg struct {
	acct  acctID
	proof []byte
}

func (m *enrolMsg) fields(c *codec) {
	c.fixed(m.acct[:])
	m.proof = c.prefixed(m.proof, 4, maxRecord)
}

func (m *enrolMsg) append(b []byte) []byte   { return appendFields(b, m) }
func parseEnrol(b []byte) (*enrolMsg, error) { return parseFields(b, new(enrolMsg)) }

// The proof that somebody may sign for an account, and so shall own its page: an
// SSHSIG in a namespace of its own, which no machine takes for a statement.
const ownerNamespace = "sessio-owner@v1"

// ownerProofText is what a signer signs: where the proof is good, and a nonce or
// what is exported from the TLS connection, so that it is good once.
func ownerProofText(where string, nonce []byte) []byte {
	return fmt.Appendf(nil, "sessio-owner-v1\n%s\n%x\n", where, nonce)
}

// An enrolledMsg says where that passkey is made.
//
//	page  2 bytes length and text, at most maxErrorText: origin
//	code  1 byte length and text
type enrolledMsg struct{ page, code string }

func (m *enrolledMsg) fields(c *codec) {
	m.page = c.text(m.page, 2, maxErrorText)
	m.code = c.text(m.code, 1, 255)
}

func (m *enrolledMsg) append(b []byte) []byte      { return appendFields(b, m) }
func parseEnrolled(b []byte) (*enrolledMsg, error) { return parseFields(b, new(enrolledMsg)) }

// addr is 18 bytes: see appendAddr.
func (c *codec) addr(a *netip.AddrPort) {
	if !c.reading {
		c.out = appendAddr(c.out, *a)
	} else if c.err == nil && !readAddr(&c.in, a) {
		c.err = errCut
	}
}

// records are a count and records of an account's log, none of them empty.
func (c *codec) records(list *[][]byte, most int) {
	listed(c, list, 1, most, "records", func(r *[]byte) {
		if *r = c.prefixed(*r, 4, maxCoordBody); c.reading && len(*r) == 0 {
			c.fail("an empty record")
		}
	})
}

type noMsg struct{}

func (noMsg) append(b []byte) []byte { return b }
