package main

// This file is a device's side of requests to the coordinator: QUIC connections
// pinned to the coordinator's keys (no CA bundle, no date, no TCP), and a stream
// for each request. Nothing that the coordinator says of an account is believed
// here; records are judged by who asked for them.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/crypto/ssh"
)

// coordDialFor bounds finding a coordinator, name resolution included.
const coordDialFor = 10 * time.Second

// resolveCoord returns the addresses of "host:port", at most 4.
func resolveCoord(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("coordinator address: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("coordinator address %s: port %q is no number", hostport, portText)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, withHint(fmt.Errorf("coordinator %s: %w", hostport, err), "check this machine's DNS, or that the name is right")
	}
	var out []netip.AddrPort
	for _, ip := range ips {
		if len(out) < 4 {
			out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
		}
	}
	return out, nil
}

// coordQUIC is the configuration of connections to the coordinator.
func coordQUIC() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout: 5 * time.Second,
		MaxIdleTimeout:       30 * time.Second,
		KeepAlivePeriod:      10 * time.Second,
		InitialPacketSize:    1200,
		MaxIncomingStreams:   -1,
	}
}

// dialCoord connects to the first of addrs that answers and proves to be want.
func dialCoord(ctx context.Context, tr *quic.Transport, mux *udpMux, id *identity, addrs []netip.AddrPort, want coordID) (*quic.Conn, error) {
	ctx, stop := context.WithTimeout(ctx, coordDialFor)
	defer stop()
	type result struct {
		conn *quic.Conn
		err  error
	}
	results := make(chan result, len(addrs))
	var dials sync.WaitGroup
	for _, a := range addrs {
		dials.Go(func() {
			conn, err := dialCoordAt(ctx, tr, mux, id, a, want)
			results <- result{conn, err}
		})
	}
	var won *quic.Conn
	var errs []error
	for range addrs {
		r := <-results
		switch {
		case r.err != nil:
			errs = append(errs, r.err)
		case won == nil:
			won = r.conn
			stop()
		default:
			r.conn.CloseWithError(0, "")
		}
	}
	dials.Wait()
	if won == nil {
		return nil, errors.Join(errs...)
	}
	return won, nil
}

func dialCoordAt(ctx context.Context, tr *quic.Transport, mux *udpMux, id *identity, addr netip.AddrPort, want coordID) (*quic.Conn, error) {
	done := mux.dialDirect(addr)
	var refused error
	tlsConf := id.tlsConfig(alpnCoord, func(claimed publicKeys) error {
		if got := claimed.coordID(); got != want {
			refused = coded("coord-key", "coordinator %s has other keys: %.8s…, not %.8s…", addr, got, want)
		}
		return refused
	})
	conn, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConf, coordQUIC())
	if err != nil {
		done()
		if refused != nil {
			return nil, withHint(refused, "this is another coordinator, or someone in between: nothing was sent to it")
		}
		no := fmt.Errorf("coordinator %s does not answer", addr)
		if late := (net.Error)(nil); !errors.As(err, &late) || !late.Timeout() {
			no = fmt.Errorf("%w: %w", no, err)
		}
		return nil, withHint(no, "is it running, and does a firewall let UDP port %d through?", addr.Port())
	}
	context.AfterFunc(conn.Context(), done)
	return conn, nil
}

// A coordDialer makes connections to a coordinator from a socket of its own:
// for verbs that need no path to a device.
type coordDialer struct {
	mux *udpMux
	tr  *quic.Transport
}

func newCoordDialer() (*coordDialer, error) {
	mux, err := listenUDP(":0", false, nil)
	if err != nil {
		return nil, err
	}
	return &coordDialer{mux, &quic.Transport{Conn: mux.packetConn()}}, nil
}

func (d *coordDialer) dial(ctx context.Context, id *identity, hostport string, want coordID) (*quic.Conn, error) {
	addrs, err := resolveCoord(ctx, hostport)
	if err != nil {
		return nil, err
	}
	return dialCoord(ctx, d.tr, d.mux, id, addrs, want)
}

// close ends the socket; connections are to be closed before.
func (d *coordDialer) close() error {
	return errors.Join(d.tr.Close(), d.mux.Close())
}

// coordTimeout bounds one request where ctx does not.
const coordTimeout = 20 * time.Second

// A coordClient asks over a connection whose other end has proved the
// coordinator's keys. It does not own the connection.
type coordClient struct {
	conn     *quic.Conn
	recovery ssh.Signer // proves that the log may be read, once fetch was given it
}

func newCoordClient(conn *quic.Conn) *coordClient { return &coordClient{conn: conn} }

var errNoAnswer = withHint(fmt.Errorf("no answer within %v", coordTimeout), "run the same again")

// ask sends a request and returns the body of the reply. What the coordinator
// refuses comes back as a coded error.
func (c *coordClient) ask(ctx context.Context, op byte, q payload) ([]byte, error) {
	ctx, stop := context.WithTimeoutCause(ctx, coordTimeout, errNoAnswer)
	defer stop()
	st, err := c.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the coordinator: %w", err)
	}
	defer context.AfterFunc(ctx, func() {
		st.CancelRead(0)
		st.CancelWrite(0)
	})()
	status, body, err := askStream(st, op, q.append(nil))
	st.CancelRead(0) // what follows the reply is not wanted
	if reset := (*quic.StatelessResetError)(nil); errors.As(err, &reset) {
		return nil, withHint(errors.New("the coordinator was restarted before it had answered"), "run the same again")
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("asking the coordinator: %w", err)
	}
	if status == statusDone {
		return body, nil
	}
	no, err := parseFailure(body)
	if err != nil {
		return nil, fmt.Errorf("the coordinator's refusal: %w", err)
	}
	return nil, coded(plainText(no.code), "the coordinator says: %s", plainText(no.text))
}

// askStream sends a request and reads the reply. Close of a QUIC stream closes
// the writing end only.
func askStream(st io.ReadWriteCloser, op byte, body []byte) (status byte, reply []byte, err error) {
	if len(body) > maxCoordBody {
		return 0, nil, fmt.Errorf("a request of %d bytes, at most %d", len(body), maxCoordBody)
	}
	// A coordinator that is busy answers without reading to the end.
	unsent := errors.Join(writeCoordFrame(st, op, body), st.Close())
	status, reply, err = readCoordFrame(st)
	if err != nil && unsent != nil {
		err = unsent
	}
	return status, reply, err
}

// plainText makes bytes from the other side fit for a terminal.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, s)
}

// asked parses the reply of ask.
func asked[A any](c *coordClient, ctx context.Context, op byte, q payload, parse func([]byte) (A, error)) (a A, err error) {
	body, err := c.ask(ctx, op, q)
	if err != nil {
		return a, err
	}
	if a, err = parse(body); err != nil {
		return a, fmt.Errorf("the coordinator's answer: %w", err)
	}
	return a, nil
}

// create makes an account of its first records. Asked again with the same
// records it is well.
func (c *coordClient) create(ctx context.Context, claim claimSecret, records [][]byte) error {
	if len(records) > maxCreateRecords {
		return fmt.Errorf("%d records to make an account of, at most %d", len(records), maxCreateRecords)
	}
	_, err := asked(c, ctx, opCreate, &createMsg{claim, records}, parseHeadMsg)
	return err
}

// fetch returns a page of the account's raw records from number from on, and where
// the log ends. recovery is the account's recovery key, for a machine that is not
// in the log; else nil.
func (c *coordClient) fetch(ctx context.Context, acct acctID, from uint64, recovery ssh.Signer) (*fetchedMsg, error) {
	var proof []byte
	if recovery != nil {
		c.recovery = recovery
	}
	if c.recovery != nil {
		var err error
		if proof, err = c.fetchProof(acct, c.recovery); err != nil {
			return nil, err
		}
	}
	return asked(c, ctx, opFetch, &fetchMsg{acct, from, proof}, parseFetched)
}

// fetchGenesis returns the account's first record: it says whether the account
// is the one that is meant.
func (c *coordClient) fetchGenesis(ctx context.Context, acct acctID, recovery ssh.Signer) (*trustRecord, error) {
	page, err := c.fetch(ctx, acct, 0, recovery)
	if err != nil {
		return nil, err
	}
	if len(page.records) == 0 {
		return nil, errors.New("the coordinator shows nothing of the account")
	}
	rec, err := parseRecord(page.records[0])
	if err != nil {
		return nil, fmt.Errorf("the coordinator's log: %w", err)
	}
	return rec, nil
}

// fetchInto gets what the store's log lacks. The store judges it.
func fetchInto(ctx context.Context, c *coordClient, t *trustStore) error {
	return fetchIntoBy(ctx, c, t, nil)
}

// fetchIntoBy is fetchInto for who has the recovery key. If the coordinator's log
// is another branch than ours, the search for where they part goes back in steps
// that double, and the branch is kept beside the log, which is no error: its
// removals count even there. What a page brings must be good and in order: a
// coordinator that sends without end costs one page, or those of one search.
func fetchIntoBy(ctx context.Context, c *coordClient, t *trustStore, recovery ssh.Signer) error {
	a, ok := t.anchor()
	if !ok {
		return errors.New("this machine belongs to no account yet")
	}
	from, step := t.count(), uint64(stepBack)
	for {
		page, err := c.fetch(ctx, a.acct, from, recovery)
		if err != nil {
			return err
		}
		end := page.head.seq
		if t.knows(logTip{end, page.head.head}) {
			return nil
		}
		if len(page.records) == 0 && end >= from {
			return fmt.Errorf("the coordinator holds back record %d, and says that there are more", from)
		}
		joins, err := takePage(t, page.records, from)
		switch next := from + uint64(len(page.records)); {
		case err != nil:
			return err
		case joins && next > end:
			return nil
		case joins:
			from, step = next, 0
		case step == 0:
			return fmt.Errorf("the coordinator's record %d does not follow the one before", from)
		default:
			from = min(from, end+1)
			from -= min(from, step)
			step *= 2
		}
	}
}

// takePage adds the records from number from on. joins is false if what is before
// them is not known here: then none is taken. All others must be good, but may be
// known, or stand beside the log.
func takePage(t *trustStore, raw [][]byte, from uint64) (joins bool, err error) {
	if len(raw) == 0 {
		return false, nil
	}
	first, err := parseRecord(raw[0])
	if err != nil {
		return false, err
	}
	if from > 0 && first.stmt.seq == from && !t.knows(logTip{from - 1, first.stmt.prev}) {
		return false, nil
	}
	_, judged := t.addAll(raw)
	if judged != nil && codeOf(judged) != "fork" && codeOf(judged) != "time-future" {
		return false, judged
	}
	last, err := parseRecord(raw[len(raw)-1])
	if err != nil {
		return false, err
	}
	tip := logTip{from + uint64(len(raw)) - 1, last.hash}
	if t.knows(tip) {
		return true, nil
	}
	if judged == nil {
		judged = fmt.Errorf("the coordinator sends other records than those from %d to %d", from, tip.seq)
	}
	return false, judged
}

// fetchProof signs that this connection's peer may read the account's log.
func (c *coordClient) fetchProof(acct acctID, recovery ssh.Signer) ([]byte, error) {
	key, err := channelKey(c.conn)
	if err != nil {
		return nil, err
	}
	return signSSHSig(recovery, fetchNamespace, fetchProofBytes(acct, key))
}

// channelKey is the same at both ends of this connection and of no other.
func channelKey(conn *quic.Conn) ([]byte, error) {
	tls := conn.ConnectionState().TLS
	return tls.ExportKeyingMaterial(fetchExporter, nil, 32)
}

// append adds a record to the account's log. Code stale-head: it does not
// follow the log's head.
func (c *coordClient) append(ctx context.Context, acct acctID, record []byte) error {
	_, err := asked(c, ctx, opAppend, &appendMsg{acct, record}, parseHeadMsg)
	return err
}

// enrol proves to be a signer, and returns the address at which a passkey is made
// that signs in to the coordinator's page.
func (c *coordClient) enrol(ctx context.Context, acct acctID, by stmtSigner) (string, error) {
	key, err := channelKey(c.conn)
	if err != nil {
		return "", err
	}
	text := ownerProofText(acct.String(), key)
	sig, err := by.sign(ownerNamespace, text)
	if err != nil {
		return "", err
	}
	m, err := asked(c, ctx, opEnrol, &enrolMsg{acct, appendRecord(nil, text, []recordSig{sig})}, parseEnrolled)
	if err != nil {
		return "", err
	}
	return m.page + "/#enrol=" + m.code, nil
}

// ticket lets the bearer of secret join within life.
func (c *coordClient) ticket(ctx context.Context, acct acctID, secret ticketSecret, life time.Duration, categories []string) error {
	_, err := c.ask(ctx, opTicket, &ticketMsg{acct, hashTicket(secret), uint32(life / time.Second), categories})
	return err
}

// join asks for a signature. signed: this machine is in the log already. Asked
// again with the same ticket it is well.
func (c *coordClient) join(ctx context.Context, me publicKeys, acct acctID, secret ticketSecret, name, login string) (signed bool, err error) {
	if err := checkJoinNames(name, login); err != nil {
		return false, err
	}
	joined, err := asked(c, ctx, opJoin, &joinMsg{acct, hashTicket(secret), name, login, joinProof(secret, acct, me, name, login)}, parseJoined)
	if err != nil {
		return false, err
	}
	return joined.signed, nil
}

// pending lists what waits for a signature: claims of the coordinator's, until
// proved by the ticket.
func (c *coordClient) pending(ctx context.Context, acct acctID) ([]pendingJoin, error) {
	m, err := asked(c, ctx, opPending, &acctMsg{acct}, parsePending)
	if err != nil {
		return nil, err
	}
	return m.joins, nil
}

// provedBy reports whether the joiner had the secret and asked for exactly
// this.
func (m *pendingJoin) provedBy(secret ticketSecret, acct acctID) bool {
	return m.ticket == hashTicket(secret) && m.proof == joinProof(secret, acct, m.keys, m.name, m.login)
}

// devices says who is online.
func (c *coordClient) devices(ctx context.Context, acct acctID) ([]deviceSeen, error) {
	m, err := asked(c, ctx, opDevices, &acctMsg{acct}, parseDevices)
	if err != nil {
		return nil, err
	}
	return m.devices, nil
}

// whoami says how the coordinator sees us, and its time.
func (c *coordClient) whoami(ctx context.Context) (*whoamiMsg, error) {
	return asked(c, ctx, opWhoami, noMsg{}, parseWhoami)
}

// coordKeys are the coordinator's keys, as the connection has proved them.
func (c *coordClient) coordKeys() (publicKeys, error) {
	return keysOfCert(c.conn.ConnectionState().TLS.PeerCertificates[0].Raw)
}
