//go:build linux

package main

// Which pairs of NATs can be crossed, how surely and how fast. Every run is
// cold: the device and the client are new processes, the routers know nothing.

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// A labGoal is the least share of runs, in percent, that shall succeed. Goals
// that are not held yet are reported.
type labGoal struct {
	percent int
	held    bool
}

// labGoals are those of pairs of classes, client first; a pair without one is
// reported. "late" is a device that hears its ring late, behind a router that
// takes early packets for its own.
var labGoals = map[string]labGoal{
	"P-P": {100, true}, "P-E": {100, true}, "E-P": {100, true}, "E-E": {100, true},
	"P-S": {100, true}, "P-B": {100, true}, "P-R": {100, true}, "S-P": {100, true}, "B-P": {100, true}, "R-P": {100, true},
	"E-S": {98, true}, "E-B": {99, true}, "E-R": {98, true}, "S-E": {98, true}, "B-E": {99, true}, "R-E": {98, true},
	"S-S": {85, true}, "S-B": {85, true}, "B-S": {85, true}, "B-B": {85, true},
	"late": {100, true},
}

// judge compares what succeeded with a goal. Of a few runs one may miss a goal
// that is not all.
func (g labGoal) judge(t *testing.T, what string, good, n int) {
	t.Helper()
	misses := n * (100 - g.percent) / 100
	if g.percent < 100 && n < 20 {
		misses = 1
	}
	if g.held && n-good > misses {
		t.Errorf("%s: %d of %d, want %d%%", what, good, n, g.percent)
	}
}

var labKinds = []labKind{labPublic, labFullCone, labAddress, labPort, labStep, labBlock, labRandom}

// A labPair is a cell of the matrix.
type labPair struct {
	client, device labKind
	runs           []labSetup
}

func (p *labPair) classes() string { return labClass[p.client] + "-" + labClass[p.device] }

func (p *labPair) good() (n int) {
	for _, r := range p.runs {
		if r.status == 0 {
			n++
		}
	}
	return n
}

// quantile is the time below which a share of the good runs stayed, and that
// until their links were up.
func (p *labPair) quantile(q float64) (run, link time.Duration) {
	var runs, links []time.Duration
	for _, r := range p.runs {
		if r.status == 0 {
			runs, links = append(runs, r.took), append(links, r.link)
		}
	}
	return quantile(runs, q), quantile(links, q)
}

func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(int(q*float64(len(all))), len(all)-1)].Round(time.Millisecond)
}

// A labMatrix has a seat for the client and one for the device behind a router
// of each kind.
type labMatrix struct {
	*labWorld
	clients map[labKind]*labHost
	devices map[labKind]*labHost
}

func newLabMatrix(t *testing.T, kinds []labKind) *labMatrix {
	l := newLab(t)
	m := &labMatrix{l.account(), map[labKind]*labHost{}, map[labKind]*labHost{}}
	for _, k := range kinds {
		m.clients[k], m.devices[k] = l.router(k).host(), l.router(k).host()
	}
	return m
}

// labTries are the runs after which a pair without a goal that is held, and
// that never got through, is left: each takes as long as an error may.
func labTries() int { return labEnough(1, 3) }

// run fills a cell.
func (m *labMatrix) run(client, device labKind, n int) *labPair {
	m.t.Helper()
	p := &labPair{client: client, device: device}
	for i := range n {
		m.once(p)
		if !labGoals[p.classes()].held && i+1 >= labTries() && p.good() == 0 {
			break
		}
	}
	m.judge(p)
	return p
}

func (m *labMatrix) once(p *labPair) {
	m.t.Helper()
	at, there := m.clients[p.client], m.devices[p.device]
	at.router.flush()
	there.router.flush()
	device := m.attic.serve(there)
	r := m.connect(at, "attic")
	device.stop()
	p.runs = append(p.runs, r)
	if r.status != 0 {
		dir := m.keep(fmt.Sprintf("%s-%s-%d", p.client, p.device, len(p.runs)),
			map[string]string{"client": r.String(), "device": device.log.String(), "coordinator": m.coord.log.String()})
		m.t.Logf("%s to %s, run %d: %v; logs in %s", p.client, p.device, len(p.runs), r.labRun, dir)
	}
}

// judge compares a cell with its goal.
func (m *labMatrix) judge(p *labPair) {
	m.t.Helper()
	labGoals[p.classes()].judge(m.t, fmt.Sprintf("%s to %s", p.client, p.device), p.good(), len(p.runs))
	if p.classes() == "R-R" {
		m.judgeHopeless(p)
	}
}

// judgeHopeless wants an error in time where nothing can help.
func (m *labMatrix) judgeHopeless(p *labPair) {
	m.t.Helper()
	for _, r := range p.runs {
		if r.status != 0 && (r.took > 12500*time.Millisecond || strings.Count(r.errs, "symmetric, random") < 2) {
			m.t.Errorf("%s to %s: no clear error in 12 s: %v", p.client, p.device, r.labRun)
		}
	}
}

// labTable is the matrix in Markdown.
func labTable(pairs []*labPair) string {
	var b strings.Builder
	b.WriteString("| client | device | class | runs | success | goal | link, median | 95 % | command, median | 95 % |\n| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, p := range pairs {
		goal := "-"
		if g, ok := labGoals[p.classes()]; ok {
			goal = fmt.Sprintf("%d %%", g.percent)
		}
		run, link := p.quantile(0.5)
		run95, link95 := p.quantile(0.95)
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d %% | %s | %d ms | %d ms | %d ms | %d ms |\n", p.client, p.device, strings.Replace(p.classes(), "-", " × ", 1),
			len(p.runs), 100*p.good()/len(p.runs), goal, link.Milliseconds(), link95.Milliseconds(), run.Milliseconds(), run95.Milliseconds())
	}
	return b.String()
}

// labClassTable is the matrix by classes: success and the median time to the
// link, client down, device across.
func labClassTable(pairs []*labPair) string {
	const classes = "PESBR"
	var b strings.Builder
	b.WriteString("| client \\ device | P | E | S | B | R |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	for _, c := range classes {
		fmt.Fprintf(&b, "| %c |", c)
		for _, d := range classes {
			all := &labPair{}
			for _, p := range pairs {
				if p.classes() == string(c)+"-"+string(d) {
					all.runs = append(all.runs, p.runs...)
				}
			}
			if len(all.runs) == 0 {
				b.WriteString(" |")
				continue
			}
			fmt.Fprintf(&b, " %d %%", 100*all.good()/len(all.runs))
			if all.good() > 0 {
				_, link := all.quantile(0.5)
				fmt.Fprintf(&b, ", %d ms", link.Milliseconds())
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// The pairs that must always work, once or twice each: part of make test.
func TestLabShort(t *testing.T) {
	m := newLabMatrix(t, []labKind{labPublic, labFullCone, labAddress, labPort})
	var pairs []*labPair
	for _, c := range []struct {
		client, device labKind
		n              int
	}{{labPort, labPort, 3}, {labPublic, labPort, 1}, {labPort, labPublic, 1}, {labFullCone, labPort, 1}, {labPort, labFullCone, 1}, {labAddress, labPort, 1}, {labPort, labAddress, 1}} {
		pairs = append(pairs, m.run(c.client, c.device, c.n))
	}
	t.Logf("\n%s", labTable(pairs))
}

// TestLabMatrix is a pair of each two classes three times or, for make
// lab-full, all pairs of kinds twenty times.
// It leaves its table in dist/lab.
func TestLabMatrix(t *testing.T) {
	needTime(t)
	kinds, runs := []labKind{labPublic, labPort, labStep, labBlock, labRandom}, 3
	if labIsFull() {
		kinds, runs = labKinds, 20
	}
	m := newLabMatrix(t, kinds)
	var pairs []*labPair
	for _, client := range kinds {
		for _, device := range kinds {
			p := m.run(client, device, runs)
			pairs = append(pairs, p)
			run, link := p.quantile(0.5)
			fmt.Printf("%-18s to %-18s %d of %d, link %v, command %v\n", client, device, p.good(), len(p.runs), link, run)
		}
	}
	text := labClassTable(pairs) + "\n" + labTable(pairs)
	fmt.Println(text)
	if err := os.WriteFile("dist/lab/matrix.md", []byte(text), 0o644); err != nil {
		t.Error(err)
	}
}
