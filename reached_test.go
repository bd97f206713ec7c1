package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const reachedLine = "dhqmvqp4yvmyitf3zsyldnwjwp 0102030405060708 192.168.1.5:7722 [2001:db8::5]:7722\n"

func TestParseReached(t *testing.T) {
	want := reachedAt{"dhqmvqp4yvmyitf3zsyldnwjwp", instanceID{1, 2, 3, 4, 5, 6, 7, 8}, addrList("192.168.1.5:7722", "[2001:db8::5]:7722")}
	bad := []string{"", "\n", strings.TrimSuffix(reachedLine, "\n"), "d123 0102030405060708 192.168.1.5:7722\n"}
	for _, change := range [][2]string{
		{" 0102", " 01 02"}, {"0708", "07080"}, {"0708", "070"}, {"0708", "07xx"}, {" 192.168.1.5:7722 [2001:db8::5]:7722", ""},
		{":7722 ", " "}, {":7722 ", ":0 "}, {"192.168.1.5", "0.0.0.0"}, {"192.168.1.5", "224.0.0.1"}, {"192.168.1.5", "[fe80::1%eth0]"},
		{" [", "  ["}, {" [", strings.Repeat(" 192.0.2.1:1", 3) + " ["}, {"dhq", "shq"},
	} {
		bad = append(bad, strings.Replace(reachedLine, change[0], change[1], 1))
	}
	for _, line := range bad {
		if _, ok := parseReachedLine(line); ok {
			t.Errorf("%q was taken", line)
		}
	}
	got := parseReached([]byte(strings.Join(bad[3:], "") + reachedLine + bad[2]))
	if len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("got %v", got)
	}
}

func FuzzParseReached(f *testing.F) {
	f.Add([]byte(reachedLine))
	f.Add([]byte(reachedLine + "x\n" + reachedLine))
	f.Fuzz(func(t *testing.T, b []byte) {
		all := parseReached(b)
		if again := parseReached(appendReached(nil, all)); !reflect.DeepEqual(all, again) {
			t.Errorf("%v, then %v", all, again)
		}
	})
}

func TestReachedFile(t *testing.T) {
	r := newReachedFile(t.TempDir())
	at := func(i int, addrs ...string) reachedAt {
		return reachedAt{deviceID(fmt.Sprintf("d%s", strings.Repeat(string("abcdefghijklmnopqrstuvwxyz234567"[i%32]), 24)+string("abcdefghijklmnopqrstuvwxyz234567"[i/32]))), instanceID{byte(i)}, addrList(addrs...)}
	}
	note := func(a reachedAt) {
		t.Helper()
		if err := r.note(a); err != nil {
			t.Fatal(err)
		}
	}
	note(at(1)) // nothing to forget
	if _, err := os.Stat(r.file); err == nil {
		t.Error("a file of nothing")
	}
	for i := range maxReached + 2 {
		note(at(i, "192.0.2.1:1"))
	}
	if got := r.look(at(1).device); len(got.addrs) != 0 {
		t.Errorf("the one used the longest ago is still there: %v", got)
	}
	if got, want := r.look(at(2).device), at(2, "192.0.2.1:1"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	before, _ := os.Stat(r.file)
	note(at(2, "192.0.2.1:1"))
	if after, _ := os.Stat(r.file); !os.SameFile(before, after) {
		t.Error("written again without a change")
	}
	note(at(2, "192.0.2.2:2"))
	note(at(3))
	if got := r.look(at(2).device).addrs; got[0] != netip.MustParseAddrPort("192.0.2.2:2") {
		t.Errorf("still at %v", got)
	}
	if got := r.look(at(3).device); len(got.addrs) != 0 {
		t.Errorf("not forgotten: %v", got)
	}
	lost := &reachedFile{file: filepath.Join(r.file, "none")}
	if err := lost.note(at(1, "192.0.2.1:1")); err == nil || !strings.Contains(err.Error(), "remembering where devices are") {
		t.Errorf("a directory that is none: %v", err)
	}
}

// What may be tried without help is remembered, the path in use first.
func TestPunchReached(t *testing.T) {
	n := newPunchNet(t, 30*ms, punchA, punchB)
	f, now := n.ends[0].finder, n.now
	for i, addr := range []string{"192.168.1.1:1", "[2001:db8::1]:1", "198.51.100.1:1", "198.51.100.2:1", "198.51.100.3:1", "10.0.0.1:1", "[fe80::1%eth0]:1"} {
		p := f.know(now, udpSource{addr: netip.MustParseAddrPort(addr)})
		p.returned, p.rtt = i != 3, time.Duration(i+1)*30*ms
		p.own = i == 2
	}
	f.know(now, udpSource{sock: 1, addr: netip.MustParseAddrPort("192.168.1.9:1")}).returned = true
	want := addrList("192.168.1.1:1", "[2001:db8::1]:1", "198.51.100.1:1", "10.0.0.1:1")
	if got := f.reached(); len(got) != 4 || got[0] != want[0] {
		t.Errorf("got %v", got)
	}
	f.best = f.tries[udpKey{0, want[2]}]
	if got := f.reached(); got[0] != want[2] {
		t.Errorf("the path in use is not first: %v", got)
	}
}

// An address from memory gets three pings that no coordinator's word pays for,
// and a path if it still leads to the peer.
func TestPunchRemembers(t *testing.T) {
	n := newPunchNet(t, 30*ms, punchA, punchB)
	e := n.ends[0]
	e.finder.remember(n.now, punchB)
	e.tick()
	if took := n.run(time.Second, func() bool { return e.finder.best != nil }); took > 70*ms {
		t.Errorf("proved after %v", took)
	}
	// introduced meanwhile, the address gets at once what QUIC has written already
	n = newPunchNet(t, 30*ms, punchA, punchB)
	e = n.ends[0]
	e.finder.remember(n.now, punchB)
	if len(e.replays) != 0 {
		t.Errorf("from memory alone the first flight goes to %v", e.replays)
	}
	e.finder.introduce(n.now, punchB[0], nil)
	if !slices.Equal(e.replays, punchB) {
		t.Errorf("introduced, the first flight goes to %v", e.replays)
	}
	n = newPunchNet(t, 30*ms, punchA, punchB)
	e = n.ends[0]
	e.finder.remember(n.now, addrList("203.0.113.9:9"))
	e.tick()
	n.run(20*time.Second, func() bool { return false })
	if got := e.sent[netip.MustParseAddrPort("203.0.113.9:9")]; got != maxUnvouched || e.credits[netip.MustParseAddrPort("203.0.113.9:9")] != 0 {
		t.Errorf("%d pings to an address where nobody is", got)
	}
}
