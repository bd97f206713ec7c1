//go:build linux

package main

// How long a shell and a transfer stand still while networks change under
// their link, which must stay the same one.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

const (
	// labTypeEvery is how fast the person in the shell types.
	labTypeEvery = 50 * time.Millisecond
	// labRoamFor is how long a link may stand still before it is given up for
	// lost, and for how long in all before a kind of move is left.
	labRoamFor = 30 * time.Second
	// labBulkRate keeps the transfer from filling this machine, bits a second.
	labBulkRate = "10000000"
)

// A labMove is something that happens to a network. Gap is the longest stand
// still that is wanted, the time without any network not counted; where it is
// held a longer one fails, else it is reported.
type labMove struct {
	name string
	gap  time.Duration
	held bool
	cut  time.Duration // how long do leaves no network
	v6   bool          // both have IPv6 too
	// reached is for a device behind a full cone instead of a port-restricted
	// NAT: whoever knows its address reaches it.
	reached bool
	do      func(r *labRoam)
}

// labBack is the goal for when a network returns.
const labBack = 150*time.Millisecond + labPeerRTT

var labMoves = []labMove{
	{name: "client address", gap: 250 * time.Millisecond, do: func(r *labRoam) { r.at.readdress() }},
	{name: "client network", gap: 250 * time.Millisecond, do: func(r *labRoam) { r.carry(r.at) }},
	{name: "device address", gap: 300 * time.Millisecond, do: func(r *labRoam) { r.there.readdress() }},
	{name: "device network", gap: 300 * time.Millisecond, do: func(r *labRoam) { r.carry(r.there) }},
	{name: "both networks", gap: time.Second, do: func(r *labRoam) { r.carry(r.at); r.carry(r.there) }},
	{name: "client NAT reboot", gap: time.Second, do: func(r *labRoam) { r.at.router.reboot() }},
	{name: "device NAT reboot", gap: time.Second, do: func(r *labRoam) { r.there.router.reboot() }},
	{name: "client redial", gap: time.Second, do: func(r *labRoam) { r.at.router.redialled() }},
	{name: "device redial", gap: time.Second, do: func(r *labRoam) { r.there.router.redialled() }},
	{name: "client outage", gap: labBack, cut: 5 * time.Second, do: func(r *labRoam) { r.cut(r.at, 5*time.Second) }},
	{name: "device outage", gap: labBack, cut: 5 * time.Second, do: func(r *labRoam) { r.cut(r.there, 5*time.Second) }},
	{name: "minute's outage", gap: labBack, cut: time.Minute, do: func(r *labRoam) { r.cut(r.at, time.Minute) }},
	{name: "long outage", gap: labBack, cut: 5 * time.Minute, do: func(r *labRoam) { r.cut(r.there, 5*time.Minute) }},
	{name: "v4, v6, v4", gap: time.Second, v6: true, do: func(r *labRoam) { r.turn() }},
	{name: "coordinator dead", gap: 250 * time.Millisecond, reached: true, do: func(r *labRoam) {
		r.hub.do("down", r.lab.coord.ns)
		r.at.readdress()
	}},
}

// A labRoam is a link between a laptop and a device, both of which keep it in
// a process, and the networks that they may be carried to.
type labRoam struct {
	*labWorld
	at, there *labHost
	laptops   *labRole
	attics    *labRole
	spare     []*labRouter
}

func newLabRoam(t *testing.T, m labMove) *labRoam {
	l := newLab(t)
	r := &labRoam{labWorld: l.account()}
	conf := routerConf{nat: labPort, v6: m.v6}
	r.at = l.newRouter(conf).host()
	if m.reached {
		conf.nat = labFullCone
	}
	r.there = l.newRouter(conf).host()
	r.spare = []*labRouter{l.newRouter(conf), l.newRouter(conf)}
	r.attics, r.laptops = r.attic.serve(r.there), r.laptop.serve(r.at)
	return r
}

// carry takes a machine to a network where it was not.
func (r *labRoam) carry(h *labHost) {
	left := h.router
	h.move(r.spare[0])
	r.spare = append(r.spare[1:], left)
}

// cut is an outage of the provider.
func (r *labRoam) cut(h *labHost, d time.Duration) {
	h.router.outage(true)
	<-time.After(d)
	h.router.outage(false)
}

// turn gives the client the other family of addresses alone.
func (r *labRoam) turn() {
	if r.at.addr4 != "" {
		r.at.family("6")
	} else {
		r.at.family("4")
	}
}

// link is the only link, as status tells on the laptop.
func (r *labRoam) link() (found linkStatus) {
	r.t.Helper()
	var line struct {
		Type string `json:"type"`
		linkStatus
	}
	for _, text := range strings.Split(r.laptop.verb(r.at, "status", "-json", "-v").out, "\n") {
		if json.Unmarshal([]byte(text), &line) == nil && line.Type == "link" {
			found = line.linkStatus
		}
	}
	return found
}

// A labFlow is what comes back over the link, and the longest that nothing did.
type labFlow struct {
	name string
	far  func() int64 // how far it must have come to have passed what was sent before

	mu    sync.Mutex
	got   int64     // guarded by mu
	sent  int64     // guarded by mu
	last  time.Time // guarded by mu
	worst time.Duration
	err   error // guarded by mu: why it ended
}

func (f *labFlow) came(upTo int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if !f.last.IsZero() {
		f.worst = max(f.worst, now.Sub(f.last))
	}
	f.got, f.last = upTo, now
}

func (f *labFlow) ended(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *labFlow) state() (got int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.got, f.err
}

// reset begins to measure anew.
func (f *labFlow) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.worst = 0
}

func (f *labFlow) gap() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(f.worst, time.Since(f.last))
}

// flows waits until what is sent from now on has come back.
func (f *labFlow) flows() error {
	want := f.far()
	deadline := time.Now().Add(labRoamFor)
	for tick := time.Tick(5 * time.Millisecond); ; <-tick {
		got, err := f.state()
		switch {
		case err != nil:
			return err
		case got >= want:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("stands still for %v", labRoamFor)
		}
	}
}

// typist types a counter into a shell on the device, whose echo is the flow.
func (r *labRoam) typist() *labFlow {
	r.t.Helper()
	cmd := r.laptop.command(r.at, "shell", "attic")
	term, err := pty.Start(cmd)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		term.Close()
	})
	f := &labFlow{name: "shell"}
	f.far = func() int64 {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.sent + 10
	}
	if _, err := io.WriteString(term, "stty raw -echo; echo rea''dy; exec cat\n"); err != nil {
		r.t.Fatal(err)
	}
	in := bufio.NewReader(term)
	for line := ""; !strings.Contains(line, "ready"); {
		if line, err = in.ReadString('\n'); err != nil {
			r.t.Fatalf("shell: %v", err)
		}
	}
	go f.hear(in)
	go f.typeOn(term)
	return f
}

func (f *labFlow) typeOn(w io.Writer) {
	for range time.Tick(labTypeEvery) {
		f.mu.Lock()
		f.sent++
		n, err := f.sent, f.err
		f.mu.Unlock()
		if err == nil {
			_, err = fmt.Fprintf(w, "%d\n", n)
		}
		if err != nil {
			f.ended(err)
			return
		}
	}
}

// hear reads lines that count; one out of order ends it.
func (f *labFlow) hear(in *bufio.Reader) {
	for want := int64(1); ; want++ {
		line, err := in.ReadString('\n')
		if err != nil {
			f.ended(fmt.Errorf("after %d lines: %w", want-1, err))
			return
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64); err != nil || n != want {
			f.ended(fmt.Errorf("line %d is %q", want, line))
			return
		}
		f.came(want)
	}
}

// bulk is a transfer whose every byte is known: all numbers, one a line.
func (r *labRoam) bulk() *labFlow {
	r.t.Helper()
	r.hub.do("rate", r.at.router.ns, labBulkRate)
	cmd := r.laptop.command(r.at, "run", "attic", "--", "seq 1000000000")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	f := &labFlow{name: "transfer"}
	f.far = func() int64 {
		got, _ := f.state()
		return got + 100_000 // 0.7 MB: more than is under way
	}
	go f.hear(bufio.NewReaderSize(out, 64<<10))
	return f
}

// A labGaps is how a kind of move went.
type labGaps struct {
	move  labMove
	flow  string
	gaps  []time.Duration
	err   error
	moves int // as the link counts them
	same  bool
}

func (g labGaps) String() string {
	s := fmt.Sprintf("%-18s %-8s %2d moves, gap median %v, largest %v (wanted %v), same link %v, its moves %d",
		g.move.name, g.flow, len(g.gaps), quantile(g.gaps, 0.5), quantile(g.gaps, 1), g.move.gap, g.same, g.moves)
	if g.err != nil {
		s += ", then lost: " + g.err.Error()
	}
	return s
}

// roam makes n moves while a flow goes on.
func (r *labRoam) roam(m labMove, f *labFlow, n int) labGaps {
	r.t.Helper()
	g := labGaps{move: m, flow: f.name}
	if g.err = f.flows(); g.err != nil {
		return g
	}
	before, stood := r.link(), time.Duration(0)
	for range n {
		f.reset()
		m.do(r)
		g.err = f.flows()
		g.gaps = append(g.gaps, max(0, f.gap()-labTypeEvery-m.cut))
		if stood += g.gaps[len(g.gaps)-1]; g.err != nil || stood > labRoamFor {
			break
		}
	}
	r.hub.do("up", r.lab.coord.ns)
	after := r.link()
	g.same, g.moves = before.Link != "" && before.Link == after.Link, after.Moves-before.Moves
	return g
}

// judge compares the gaps with what is wanted, and keeps the logs where they
// are longer.
func (r *labRoam) judge(g labGaps) {
	r.t.Helper()
	r.t.Log(g)
	if g.err == nil && g.same && quantile(g.gaps, 1) <= g.move.gap {
		return
	}
	dir := r.keep("roam-"+g.move.name+"-"+g.flow, map[string]string{"client": r.laptops.log.String(), "device": r.attics.log.String(), "coordinator": r.labWorld.coord.log.String()})
	r.t.Logf("logs in %s", dir)
	if g.move.held {
		r.t.Errorf("%v", g)
	}
}

// row is the line of the table.
func (g labGaps) row() string {
	largest := fmt.Sprintf("%d ms", quantile(g.gaps, 1).Milliseconds())
	if g.err != nil || !g.same {
		largest = "lost"
	}
	return fmt.Sprintf("| %s | %s | %d | %d ms | %s | %d ms |\n", g.move.name, g.flow, len(g.gaps), quantile(g.gaps, 0.5).Milliseconds(), largest, g.move.gap.Milliseconds())
}

// TestLabRoam makes every move under a shell twice, or for make lab-full under
// a shell and a transfer fifty times. Its table is left in dist/lab.
func TestLabRoam(t *testing.T) {
	needTime(t)
	var table strings.Builder
	table.WriteString("| move | under | moves | gap, median | largest | wanted |\n| --- | --- | ---: | ---: | ---: | ---: |\n")
	for _, m := range labMoves {
		for _, start := range []func(*labRoam) *labFlow{(*labRoam).typist, (*labRoam).bulk}[:labEnough(1, 2)] {
			n := labMoveCount(m)
			if n == 0 {
				continue
			}
			t.Run(m.name, func(t *testing.T) {
				r := newLabRoam(t, m)
				g := r.roam(m, start(r), n)
				r.judge(g)
				table.WriteString(g.row())
			})
		}
	}
	fmt.Println(table.String())
	if err := os.WriteFile("dist/lab/roam.md", []byte(table.String()), 0o644); err != nil {
		t.Error(err)
	}
}

// labMoveCount is how often a move is made: what lasts, less often.
func labMoveCount(m labMove) int {
	switch {
	case m.cut >= time.Minute:
		return labEnough(0, 1)
	case m.cut > 0:
		return labEnough(1, 10)
	}
	return labEnough(2, 50)
}
