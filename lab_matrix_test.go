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

// labWant is the least share of runs, in percent, that must succeed for a pair
// of classes. Pairs that are not in it are reported.
var labWant = map[string]int{
	"P-P": 100, "P-E": 100, "E-P": 100, "E-E": 100,
}

var labKinds = []labKind{labPublic, labFullCone, labAddress, labPort, labStep, labBlock, labRandom}

// A labPair is a cell of the matrix.
type labPair struct {
	client, device labKind
	runs           []labRun
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

// quantile is the time below which a share of the good runs stayed.
func (p *labPair) quantile(q float64) time.Duration {
	var took []time.Duration
	for _, r := range p.runs {
		if r.status == 0 {
			took = append(took, r.took)
		}
	}
	return quantile(took, q)
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

// run fills a cell. A pair of which nothing is demanded, and that never gets
// through, is left after a few runs: each takes as long as an error may.
func (m *labMatrix) run(client, device labKind, n int) *labPair {
	m.t.Helper()
	p := &labPair{client: client, device: device}
	for i := range n {
		m.once(p)
		if _, demanded := labWant[p.classes()]; !demanded && i >= 2 && p.good() == 0 {
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
	r := m.laptop.verb(at, "run", "-v", "attic", "--", "true")
	device.stop()
	p.runs = append(p.runs, r)
	if r.status != 0 {
		dir := m.keep(fmt.Sprintf("%s-%s-%d", p.client, p.device, len(p.runs)),
			map[string]string{"client": r.String(), "device": device.log.String(), "coordinator": m.coord.log.String()})
		m.t.Logf("%s to %s, run %d: %v; logs in %s", p.client, p.device, len(p.runs), r, dir)
	}
}

// judge compares a cell with what is demanded.
func (m *labMatrix) judge(p *labPair) {
	m.t.Helper()
	share := 100 * p.good() / len(p.runs)
	if want, ok := labWant[p.classes()]; ok && share < want {
		m.t.Errorf("%s to %s: %d%%, want %d%%", p.client, p.device, share, want)
	}
	if p.classes() == "R-R" {
		m.judgeHopeless(p)
	}
}

// judgeHopeless wants an error in time where nothing can help.
func (m *labMatrix) judgeHopeless(p *labPair) {
	m.t.Helper()
	for _, r := range p.runs {
		if r.status != 0 && (r.took > 13*time.Second || !strings.Contains(r.errs, "sessio: ")) {
			m.t.Errorf("%s to %s: no clear error in 12 s: %v", p.client, p.device, r)
		}
	}
}

// labTable is the matrix in Markdown.
func labTable(pairs []*labPair) string {
	var b strings.Builder
	b.WriteString("| client | device | class | runs | success | median | 95 % |\n| --- | --- | --- | ---: | ---: | ---: | ---: |\n")
	for _, p := range pairs {
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d %% | %d ms | %d ms |\n", p.client, p.device, strings.Replace(p.classes(), "-", " × ", 1),
			len(p.runs), 100*p.good()/len(p.runs), p.quantile(0.5).Milliseconds(), p.quantile(0.95).Milliseconds())
	}
	return b.String()
}

// labClassTable is the matrix by classes: success and median, client down,
// device across.
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
				fmt.Fprintf(&b, ", %d ms", all.quantile(0.5).Milliseconds())
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// The pairs that must always work, once or twice each: part of make test.
func TestLabShort(t *testing.T) {
	m := newLabMatrix(t, []labKind{labPublic, labAddress, labPort})
	var pairs []*labPair
	for _, c := range []struct {
		client, device labKind
		n              int
	}{{labPort, labPort, 5}, {labPublic, labPort, 3}, {labPort, labPublic, 3}, {labAddress, labPort, 3}, {labPort, labAddress, 3}} {
		pairs = append(pairs, m.run(c.client, c.device, c.n))
	}
	t.Logf("\n%s", labTable(pairs))
}

// TestLabMatrix is all pairs, three runs each or, for make lab-full, twenty.
// It leaves its table in dist/lab.
func TestLabMatrix(t *testing.T) {
	runs := map[string]int{"short": 3, "full": 20}[os.Getenv(labFull)]
	if runs == 0 {
		t.Skip("make lab and make lab-full run it")
	}
	m := newLabMatrix(t, labKinds)
	var pairs []*labPair
	for _, client := range labKinds {
		for _, device := range labKinds {
			p := m.run(client, device, runs)
			pairs = append(pairs, p)
			fmt.Printf("%-18s to %-18s %d of %d, median %v\n", client, device, p.good(), len(p.runs), p.quantile(0.5))
		}
	}
	text := labClassTable(pairs) + "\n" + labTable(pairs)
	fmt.Println(text)
	if err := os.WriteFile("dist/lab/matrix.md", []byte(text), 0o644); err != nil {
		t.Error(err)
	}
}
