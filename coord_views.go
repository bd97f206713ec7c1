//go:build !router

package main

// This file is what the page shows: the state of an account, pushed whenever it
// changes, and the log as a history.

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	// viewGap is the time between two looks at whether anything has changed.
	viewGap = time.Second
	// viewRest is how long nothing comes before a line that says nothing keeps
	// proxies from closing the stream.
	viewRest = 20 * time.Second
	// maxWatchers bounds the pages of an account that are kept up to date, and
	// maxAllWatchers those of all.
	maxWatchers    = 8
	maxAllWatchers = 512
)

// hello is all that a stranger is shown.
func (c *webCall) hello() (any, error) {
	out := struct {
		SignedIn    bool   `json:"signedIn"`
		Signup      string `json:"signup"` // claim, open or closed; claim: there is no account yet
		Coordinator string `json:"coordinator"`
		Build       string `json:"build"`
	}{c.account != nil, c.server.store.signup, c.word.String(), version}
	if out.Signup == signupClaim && c.server.store.unusedClaim() == (claimSecret{}) {
		out.Signup = signupClosed
	}
	return out, nil
}

// An accountView is what the page knows.
type accountView struct {
	Account    string         `json:"account"`
	Words      string         `json:"words"`
	Ticket     string         `json:"ticket"`  // a ticket's word but for the secret
	Install    []string       `json:"install"` // lines that bring a machine in, with TICKET for the ticket
	Builds     []buildView    `json:"builds"`
	Seq        uint64         `json:"seq"`
	Head       string         `json:"head"`
	Expires    int64          `json:"expires"` // of this sign-in
	SignsHere  bool           `json:"signsHere"`
	Devices    []deviceView   `json:"devices"`
	Waiting    []waitingView  `json:"waiting"`
	Tickets    []ticketView   `json:"tickets"`
	Sessions   []sessionShown `json:"sessions"`
	Signers    []signerView   `json:"signers"`
	Passkeys   []passkeyView  `json:"passkeys"`
	Categories []string       `json:"categories"` // all that are in use
}

// A buildView is a build that the coordinator hands out.
type buildView struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
	Sum  string `json:"sum"`  // SHA-256 in hex
}

type deviceView struct {
	ID          deviceID `json:"id"`
	Name        string   `json:"name"`
	Roles       []string `json:"roles"`
	Users       []string `json:"users"`
	Caps        []string `json:"caps"`
	Expires     int64    `json:"expires"`
	Expired     bool     `json:"expired"`
	Online      bool     `json:"online"`
	Seen        int64    `json:"seen"` // unix seconds, rounded; 0 = never, or online
	Version     string   `json:"version"`
	Categories  []string `json:"categories"`
	Fingerprint string   `json:"fingerprint"`
	Words       string   `json:"words"`
}

type waitingView struct {
	ID          deviceID `json:"id"`
	Name        string   `json:"name"`
	Login       string   `json:"login"`
	Roles       []string `json:"roles"`
	Users       []string `json:"users"`
	Caps        []string `json:"caps"`
	Since       int64    `json:"since"`
	From        string   `json:"from"`
	Categories  []string `json:"categories"`
	Fingerprint string   `json:"fingerprint"`
	Words       string   `json:"words"`
}

type ticketView struct {
	Hash    string `json:"hash"`
	Name    string `json:"name"`
	Expires int64  `json:"expires"`
}

// maxShownSessions bounds what a page is shown; those that run come first.
const maxShownSessions = 200

type sessionShown struct {
	ID      string `json:"id"`
	Client  string `json:"client"` // name of the device, or its id
	Device  string `json:"device"`
	Made    int64  `json:"made"`
	Expires int64  `json:"expires"` // 0 = never
	Live    int    `json:"live"`
	Revoked bool   `json:"revoked"`
}

type signerView struct {
	ID          signerID `json:"id"`
	Label       string   `json:"label"`
	Powers      string   `json:"powers"`
	Key         string   `json:"key"`
	Fingerprint string   `json:"fingerprint"`
	Here        bool     `json:"here"` // it signs on this page
}

type passkeyView struct {
	ID    string `json:"id"`
	Label string `json:"label"`
	Made  int64  `json:"made"`
	Used  int64  `json:"used"`
	Own   bool   `json:"own"` // this sign-in came by it
}

// view looks at the account as it is now.
func (c *webCall) view(now time.Time) (*accountView, error) {
	state, wait := c.account.snapshot(now)
	owner := c.account.ownerNow()
	word := c.word
	word.acct = c.account.id
	v := &accountView{Account: c.account.id.String(), Words: acctWords(c.account.id), Ticket: word.String(), Seq: state.seq(), Head: headWords(state.head()), Expires: c.in.Expires,
		SignsHere: len(c.pageSigners(state, []byte{'d'})) > 0,
		Devices:   []deviceView{}, Waiting: []waitingView{}, Tickets: []ticketView{}, Sessions: []sessionShown{}, Signers: []signerView{}, Passkeys: []passkeyView{}, Categories: []string{}}
	if c.builds != nil {
		url, set := c.builds.told()
		v.Install = installLines(url, set, "TICKET")
		for _, b := range c.builds.current().builds {
			v.Builds = append(v.Builds, buildView{b.name, b.size, b.sum})
		}
	}
	for _, d := range state.devices() {
		v.Devices = append(v.Devices, c.viewDevice(d, owner.Categories[d.id], now))
	}
	sortBy(v.Devices, func(a, b deviceView) int { return strings.Compare(a.Name, b.Name) })
	for _, j := range wait.joins {
		wish := owner.wish(j.ticket).Grant
		id := j.keys.deviceID()
		w := waitingView{ID: id, Name: wish.over(grantWish{Name: j.name}).Name, Login: j.login, Roles: wish.Roles, Users: wish.Users, Caps: wish.Caps, Since: j.time,
			From: j.addr.Addr().String(), Categories: owner.Categories[id], Fingerprint: fingerprint(j.keys), Words: j.keys.deviceWords()}
		v.Waiting = append(v.Waiting, w)
	}
	for _, t := range wait.tickets {
		v.Tickets = append(v.Tickets, ticketView{b64url.EncodeToString(t.hash[:]), owner.wish(t.hash).Grant.Name, t.expires})
	}
	named := func(id deviceID) string {
		if d, ok := state.device(id); ok {
			return d.name
		}
		return string(id)
	}
	for _, s := range c.server.sessionsOf(c.account.id) {
		if len(v.Sessions) == maxShownSessions {
			break
		}
		shown := sessionShown{ID: s.id, Client: named(s.client), Device: named(s.device), Made: s.made.Unix(), Live: s.live, Revoked: s.revoked}
		if !s.expires.IsZero() {
			shown.Expires = s.expires.Unix()
		}
		v.Sessions = append(v.Sessions, shown)
	}
	for _, s := range state.signers() {
		about, print, err := sayKey(s.signerLine)
		if err != nil {
			return nil, err
		}
		v.Signers = append(v.Signers, signerView{s.id, s.label, s.powers, about, print, s.rpID == c.rp.id && slices.Contains(s.origins, c.origin)})
	}
	for _, k := range owner.Keys {
		v.Passkeys = append(v.Passkeys, passkeyView{b64url.EncodeToString(k.ID), k.Label, k.Made, k.Used, bytes.Equal(k.ID, c.in.Key)})
	}
	for _, d := range v.Devices {
		v.Categories = append(v.Categories, d.Categories...)
	}
	for _, w := range v.Waiting { // those of who is thrown out are nobody's
		v.Categories = append(v.Categories, w.Categories...)
	}
	v.Categories = append([]string{}, sortedSet(v.Categories)...)
	return v, nil
}

// viewDevice rounds when a device was seen, so that the view does not change
// each second.
func (c *webCall) viewDevice(d signedDevice, sorted []string, now time.Time) deviceView {
	v := deviceView{ID: d.id, Name: d.name, Roles: d.roles, Users: append([]string{}, d.users...), Caps: d.caps, Expires: d.expires, Expired: d.expired(now), Categories: sorted,
		Fingerprint: fingerprint(d.keys), Words: d.keys.deviceWords()}
	st := c.server.presence.status(now, c.account.id, d.id)
	v.Online, v.Version = st.online, st.build
	if !st.online && st.silent != never {
		v.Seen = now.Add(-time.Duration(st.silent)*time.Second).Unix() / 60 * 60
	}
	return v
}

// weigh waits for nothing: few read whole logs at once.
func (c *webCall) weigh() (leave func(), err error) {
	select {
	case c.heavy <- struct{}{}:
		return func() { <-c.heavy }, nil
	default:
		return nil, errBusy
	}
}

// watch counts a page that is kept up to date.
func (c *webCall) watch() (leave func(), err error) {
	id := c.account.id
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers[id] >= maxWatchers || c.watching >= maxAllWatchers {
		return nil, coded("limit", "this page is open as often as it may be: close it elsewhere")
	}
	c.watchers[id]++
	c.watching++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.watchers[id]--; c.watchers[id] == 0 {
			delete(c.watchers, id)
		}
		c.watching--
	}, nil
}

// events sends the view whenever it has changed (server-sent events), until the
// sign-in is over.
func (c *webCall) events() (any, error) {
	leave, err := c.watch()
	if err != nil {
		return nil, err
	}
	defer leave()
	out := http.NewResponseController(c.w)
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.Header().Set("X-Accel-Buffering", "no") // nginx would keep it back
	c.w.WriteHeader(http.StatusOK)
	send := func(text string) bool {
		out.SetWriteDeadline(time.Now().Add(requestTime))
		_, err := c.w.Write([]byte(text))
		return err == nil && out.Flush() == nil
	}
	tick := time.NewTicker(viewGap)
	defer tick.Stop()
	var last []byte
	cookie, _ := c.r.Cookie(cookieName)
	for quiet := time.Duration(0); ; quiet += viewGap {
		now := c.server.now()
		if a, _ := c.server.store.signedIn(cookie.Value, now); a == nil {
			send("event: signed-out\ndata: \n\n")
			return nil, nil
		}
		v, err := c.view(now)
		if err != nil {
			c.server.logf("page, account %.8s: %v", c.account.id, err)
			return nil, nil
		}
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		switch {
		case !bytes.Equal(text, last):
			last, quiet = text, 0
			if !send("data: " + string(text) + "\n\n") {
				return nil, nil
			}
		case quiet >= viewRest:
			if quiet = 0; !send(":\n\n") {
				return nil, nil
			}
		}
		select {
		case <-tick.C:
		case <-c.r.Context().Done():
			return nil, nil
		}
	}
}

// A recordView is one line of the history.
type recordView struct {
	Seq   uint64     `json:"seq"`
	Time  int64      `json:"time"`
	Title string     `json:"title"`
	Facts []pageFact `json:"facts"`
	By    []string   `json:"by"`
	Words string     `json:"words"`
	Text  string     `json:"text"`
}

// log is the history, from the newest on.
func (c *webCall) log() (any, error) {
	leave, err := c.weigh()
	if err != nil {
		return nil, err
	}
	defer leave()
	records, err := c.account.records(0, maxRecords)
	if err != nil {
		return nil, err
	}
	state, _ := c.account.snapshot(c.now)
	labels := map[signerID]string{}
	out := []recordView{}
	for _, raw := range records {
		rec, err := parseRecord(raw)
		if err != nil {
			return nil, err
		}
		for _, l := range rec.stmt.newSigners() {
			labels[l.id] = l.label
		}
		v := recordView{Seq: rec.stmt.seq, Time: rec.stmt.time, Words: headWords(rec.hash), Text: string(rec.text)}
		title, facts := sayStatement(rec.stmt, state)
		v.Title, v.Facts = title, append([]pageFact{}, facts...)
		for _, sig := range rec.sigs {
			v.By = append(v.By, labels[sig.claimed])
		}
		out = append(out, v)
	}
	slices.Reverse(out)
	return out, nil
}
