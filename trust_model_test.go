package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// This file searches all that a hostile coordinator can do with two histories:
// every tree of up to five statements with a fork, over an alphabet of ops,
// every order in which they can reach a device, and every way in which three
// such devices can meet. It runs the real trustTree over the real apply.
//
// A coordinator can bring each device on its own into any state that can be
// reached, so the states of several are all combinations of those of one.

// A modelStep is one letter of the alphabet: who signs what.
type modelStep struct {
	name string
	body func() stmtBody
	by   func(k *trustTestAcct) []stmtSigner
}

func modelAlphabet() []modelStep {
	thief, fresh := trustTestKey("thief"), trustTestKey("fresh")
	add := func(name string) func() stmtBody {
		return func() stmtBody { return opDeviceAdd{trustTestID(name), trustTestKeys(name), trustTestGrant(name)} }
	}
	return []modelStep{
		{"thief adds x", add("x"), func(k *trustTestAcct) []stmtSigner { return []stmtSigner{thief} }},
		{"alice adds x", add("x"), func(k *trustTestAcct) []stmtSigner { return []stmtSigner{k.a} }},
		{"bob revokes base", func() stmtBody { return opDeviceRevoke{[]deviceID{trustTestID("base")}, "lost"} },
			func(k *trustTestAcct) []stmtSigner { return []stmtSigner{k.b} }},
		{"thief revokes x", func() stmtBody { return opDeviceRevoke{[]deviceID{trustTestID("x")}, "lost"} },
			func(k *trustTestAcct) []stmtSigner { return []stmtSigner{thief} }},
		{"alice throws the thief out", func() stmtBody { return opSignerRemove{thief.id(), 2} },
			func(k *trustTestAcct) []stmtSigner { return []stmtSigner{k.a} }},
		{"recover", func() stmtBody { return opRecover{3, []signerLine{trustTestLine(fresh, "ds", "fresh")}} },
			func(k *trustTestAcct) []stmtSigner { return []stmtSigner{k.r, fresh} }},
	}
}

// modelBase is the account before the tree: genesis, the thief, a device.
func modelBase(t *testing.T) *trustTestAcct {
	k := newTrustTestAcct(t)
	thief := trustTestKey("thief")
	k.ok(k.text(opSignerAdd{trustTestLine(thief, "ds", "thief")}), nil, k.b, thief)
	k.addDevice("base")
	return k
}

// modelPaths are all valid continuations of k by exactly n letters. Equal
// statements are equal bytes, so paths with a common beginning share it.
func modelPaths(k *trustTestAcct, n int) (paths []*trustTestAcct) {
	if n == 0 {
		return []*trustTestAcct{k}
	}
	for _, step := range modelAlphabet() {
		next := k.branch()
		text := k.text(step.body())
		if k.state.checkRules(modelParse(k.t, text).stmt) != nil {
			continue
		}
		raw := k.sign(text, step.by(k)...)
		s, err := apply(k.state, raw, trustTestNow)
		if err != nil {
			continue
		}
		next.state, next.raws = s, append(next.raws, raw)
		paths = append(paths, modelPaths(next, n-1)...)
	}
	return paths
}

func modelParse(t testing.TB, text []byte) *trustRecord {
	st, err := parseStatement(text)
	if err != nil {
		t.Fatal(err)
	}
	return &trustRecord{text: text, stmt: st, hash: hashStatement(text)}
}

// clone copies what add changes.
func (t *trustTree) clone() *trustTree {
	n := newTrustTree(t.pin)
	n.log, n.state, n.view = slices.Clone(t.log), t.state, t.view
	for _, node := range t.order {
		c := *node
		n.order = append(n.order, &c)
		n.beside[c.hash] = &c
	}
	return n
}

// key names a state of a device.
func (t *trustTree) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%x", t.state.head())
	for _, h := range slices.SortedFunc(slices.Values(t.order), func(a, b *treeNode) int { return bytes.Compare(a.hash[:], b.hash[:]) }) {
		fmt.Fprintf(&b, " %x", h.hash[:8])
	}
	return b.String()
}

// revocations are all that a device has ever been shown: ids revoked in its log
// or in a branch.
func (t *trustTree) revocations(tb testing.TB) []deviceID {
	ids := map[deviceID]bool{}
	for _, n := range append(t.tips(), t.log[len(t.log)-1]) {
		s, err := t.stateAfter(n)
		if err != nil {
			tb.Fatal(err)
		}
		for _, d := range s.revokedDevices() {
			ids[d.id] = true
		}
	}
	var list []deviceID
	for id := range ids {
		list = append(list, id)
	}
	slices.Sort(list)
	return list
}

// A model is the search over one pair of histories.
type model struct {
	t       *testing.T
	records [][]byte          // that the coordinator may deliver
	hostile [][]byte          // that nobody may accept
	good    map[stmtHash]bool // records whose signatures were checked once more
	states  []*trustTree
	next    [][]int      // state after a state and a record, by their numbers
	known   [][]deviceID // revocations that a state knows
	holds   [][]int      // records that a state holds, each after what it follows
	checked int
}

// explore finds every state of one device, breadth first.
func (m *model) explore(start *trustTree) {
	seen := map[string]int{start.key(): 0}
	m.states = []*trustTree{start}
	for i := 0; i < len(m.states); i++ {
		m.next = append(m.next, make([]int, len(m.records)))
		for r, raw := range m.records {
			next := m.states[i].clone()
			m.deliver(next, raw)
			n, ok := seen[next.key()]
			if !ok {
				n = len(m.states)
				seen[next.key()] = n
				m.states = append(m.states, next)
			}
			m.next[i][r] = n
		}
	}
	for _, s := range m.states {
		m.known = append(m.known, s.revocations(m.t))
		var holds []int
		for r, raw := range m.records { // paths from the base, in order
			if rec, err := parseRecord(raw); err == nil && s.find(rec.stmt.seq, rec.hash) != nil {
				holds = append(holds, r)
			}
		}
		m.holds = append(m.holds, holds)
		for _, raw := range m.hostile {
			if out, err := s.add(raw, trustTestNow); out != addNothing || err == nil {
				m.t.Fatal("a hostile record is accepted")
			}
		}
	}
}

// deliver gives a record to a device and checks what it does to it.
func (m *model) deliver(t *trustTree, raw []byte) {
	m.checked++
	log, known := slices.Clone(t.log), t.revocations(m.t)
	out, _ := t.add(raw, trustTestNow)
	if out == addSwitched {
		if t.state.recovered == 0 {
			m.t.Fatal("the log was replaced without a recover")
		}
		for _, n := range log {
			if t.find(n.stmt.seq, n.hash) == nil {
				m.t.Fatal("the log given up is forgotten")
			}
		}
	} else if !slices.Equal(t.log[:len(log)], log) {
		m.t.Fatal("the log has shrunk or changed")
	}
	for _, id := range known {
		if !slices.Contains(t.revocations(m.t), id) {
			m.t.Fatal("a revocation is forgotten")
		}
	}
	m.check(t)
}

// check holds in every state: who is active has a record in the log by somebody
// who had the power, and is revoked nowhere.
func (m *model) check(t *trustTree) {
	revoked := t.revocations(m.t)
	for _, d := range t.view.devices() {
		if slices.Contains(revoked, d.id) {
			m.t.Fatalf("%s is revoked and active", d.name)
		}
		i := slices.IndexFunc(t.log, func(n *treeNode) bool {
			b, ok := n.stmt.body.(opDeviceAdd)
			return ok && b.device == d.id && bytes.Equal(b.keys.sign, d.keys.sign) && b.keys.path == d.keys.path
		})
		if i < 1 {
			m.t.Fatalf("%s is active without a record", d.name)
		}
		if m.good[t.log[i].hash] {
			continue // the hash covers all that came before it
		}
		m.good[t.log[i].hash] = true
		before, err := t.stateAfter(t.log[i-1])
		if err != nil {
			m.t.Fatal(err)
		}
		if _, err := before.applyRecord(t.log[i].trustRecord, trustTestNow); err != nil {
			m.t.Fatalf("%s is active by a bad record: %v", d.name, err)
		}
	}
	for _, s := range t.view.signers() {
		if _, ok := t.state.member(s.id); !ok {
			m.t.Fatal("the view has a signer that the log has not")
		}
	}
}

// meet is what an exchange does: each gets all that the other holds.
func (m *model) meet(x, y int) (int, int) {
	m.checked++
	a, b := x, y
	for _, r := range m.holds[y] {
		a = m.next[a][r]
	}
	for _, r := range m.holds[x] {
		b = m.next[b][r]
	}
	return a, b
}

// meetings checks that after two devices have met both know every revocation
// that either knew, and that a third hears of them from the second.
func (m *model) meetings() {
	for x := range m.states {
		for y := range m.states {
			a, b := m.meet(x, y)
			for _, id := range slices.Concat(m.known[x], m.known[y]) {
				if !slices.Contains(m.known[a], id) || !slices.Contains(m.known[b], id) {
					m.t.Fatal("two devices have met, and one does not know of a revocation")
				}
			}
			for z := range m.states {
				_, c := m.meet(b, z)
				for _, id := range m.known[x] {
					if d, ok := m.states[c].view.device(id); !slices.Contains(m.known[c], id) || ok && !d.revoked {
						m.t.Fatal("a third device does not know of a revocation")
					}
				}
			}
		}
	}
}

func TestTrustModel(t *testing.T) {
	t.Parallel()
	base := modelBase(t)
	other := newTrustTestAcct(t)
	other.addDevice("evil")
	evil := base.text(opDeviceAdd{trustTestID("evil"), trustTestKeys("evil"), trustTestGrant("evil")})
	hostile := append(other.raws[1:], base.sign(evil, trustTestKey("coordinator")), base.sign(evil, base.b))
	var paths [6][]*trustTestAcct
	for n := range paths {
		paths[n] = modelPaths(base, n)
	}
	for total := 1; total <= 5; total++ {
		for left := (total + 1) / 2; left <= total; left++ {
			t.Run(fmt.Sprint(left, "+", total-left), func(t *testing.T) {
				t.Parallel()
				modelSearch(t, base.tree(), paths[left], paths[total-left], hostile)
			})
		}
	}
}

// modelSearch explores every pair of a history of xs and one of ys.
func modelSearch(t *testing.T, start *trustTree, xs, ys []*trustTestAcct, hostile [][]byte) {
	good := map[stmtHash]bool{}
	states, checked, pairs := 0, 0, 0
	for _, x := range xs {
		for _, y := range ys {
			if !modelWanted(x, y) {
				continue
			}
			pairs++
			m := &model{t: t, records: append(x.raws[3:len(x.raws):len(x.raws)], y.raws[3:]...), hostile: hostile, good: good}
			m.explore(start)
			m.meetings()
			states += len(m.states)
			checked += m.checked
		}
	}
	if pairs == 0 {
		t.Error("nothing to search")
	}
	t.Logf("%d pairs of histories, %d states, %d transitions and meetings", pairs, states, checked)
}

// modelWanted leaves out what other pairs cover: the same two the other way
// round, and one that is the beginning of the other.
func modelWanted(x, y *trustTestAcct) bool {
	last := len(y.raws) - 1
	if len(y.raws) == 3 {
		return true // one history, no fork
	}
	return !bytes.Equal(x.raws[last], y.raws[last]) && (len(x.raws) > len(y.raws) || bytes.Compare(x.raws[last], y.raws[last]) > 0)
}
