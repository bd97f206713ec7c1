package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const coordKillDir = "SESSIO_TEST_COORD_STORE"

// TestCoordKillHelper is the process that TestCoordStoreSurvivesKill kills: it
// writes to the store without end, and says what has been acknowledged.
func TestCoordKillHelper(t *testing.T) {
	dir := os.Getenv(coordKillDir)
	if dir == "" {
		t.Skip("only as a process of TestCoordStoreSurvivesKill")
	}
	s := coordTestOpen(t, dir, signupOpen)
	for {
		coordKillWrite(t, s)
	}
}

// coordKillWrite makes an account and then does one of everything to it.
func coordKillWrite(t *testing.T, s *coordStore) {
	a := newCoordTestAcct(t, presTestIdentity(t).keys)
	must := func(err error, what string, n uint64) {
		if err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
		fmt.Println(what, a.id(), n)
	}
	acct, err := s.create(claimSecret{}, a.log, new(ownerState), coordTestNow)
	must(err, "log", a.state.seq())
	for i := range 3 {
		ticket := ticketHash{byte(i)}
		must(acct.addTicket(ticket, ticketLife, ticketWish{}, coordTestNow), "ticket", uint64(i))
		keys := presTestIdentity(t).keys
		_, err := acct.join(pendingJoin{keys: keys, ticket: ticket, time: coordTestNow.Unix()}, coordTestNow)
		must(err, "join", uint64(i))
		must(acct.setCategories(keys.deviceID(), []string{fmt.Sprint("c", i)}, coordTestNow), "sorted", uint64(i))
		if i == 1 {
			continue // one goes on waiting
		}
		_, _, err = acct.append(a.addDevice(keys, fmt.Sprintf("d%d", i), "server"), coordTestNow)
		must(err, "log", a.state.seq())
	}
}

// coordKillSeen is what was acknowledged for one account.
type coordKillSeen struct {
	seq     uint64
	tickets map[uint64]bool // acknowledged, and whether used since
	sorted  []string        // categories
}

func TestCoordStoreSurvivesKill(t *testing.T) { coordStoreKilled(t, 12) }

func coordStoreKilled(t *testing.T, rounds int) {
	t.Parallel()
	dir := t.TempDir()
	seen := map[acctID]*coordKillSeen{}
	for round := range rounds {
		lines := 1 + round*5%17
		for _, line := range coordKillRun(t, "TestCoordKillHelper", dir, lines) {
			coordKillNote(t, seen, line)
		}
		s := coordTestOpen(t, dir, signupOpen)
		for id, want := range seen {
			coordKillCheck(t, s, id, want)
		}
		for _, name := range coordTestFiles(t, dir) {
			if strings.Contains(name, "/.") {
				t.Errorf("%s is left behind", name)
			}
		}
	}
	if len(seen) < rounds {
		t.Errorf("only %d accounts were made", len(seen))
	}
}

// coordKillRun starts a test as the helper, kills it when it has said so many
// lines, and returns all that it has said.
func coordKillRun(t *testing.T, helper, dir string, lines int) (said []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+helper+"$")
	cmd.Env = append(os.Environ(), coordKillDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(out); sc.Scan(); {
		said = append(said, sc.Text())
		if len(said) == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	cmd.Wait() // it was killed
	if len(said) < lines {
		t.Fatalf("the helper ended by itself: %q", said)
	}
	return said
}

func coordKillNote(t *testing.T, seen map[acctID]*coordKillSeen, line string) {
	t.Helper()
	f := strings.Fields(line)
	if len(f) != 3 {
		t.Fatalf("the helper says %q", line)
	}
	id, err := parseAcctID(f[1])
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if seen[id] == nil {
		seen[id] = &coordKillSeen{tickets: map[uint64]bool{}}
	}
	switch f[0] {
	case "log":
		seen[id].seq = n
	case "sorted":
		seen[id].sorted = append(seen[id].sorted, fmt.Sprint("c", n))
	case "ticket", "join":
		seen[id].tickets[n] = f[0] == "join"
	}
}

// coordKillCheck finds all that was acknowledged. One step more may have been
// done, and not been said any more.
func coordKillCheck(t *testing.T, s *coordStore, id acctID, want *coordKillSeen) {
	t.Helper()
	a, err := s.account(id)
	if err != nil {
		t.Fatal(err)
	}
	state, wait := a.snapshot(coordTestNow)
	if got := state.seq(); got != want.seq && got != want.seq+1 {
		t.Errorf("log ends at %d, acknowledged %d", got, want.seq)
	}
	sorted := slices.Concat(slices.Collect(maps.Values(a.ownerNow().Categories))...)
	for _, c := range want.sorted {
		if !slices.Contains(sorted, c) {
			t.Errorf("category %s is gone", c)
		}
	}
	for n, used := range want.tickets {
		hash := ticketHash{byte(n)}
		ticket, joined := false, false
		for _, w := range wait.tickets {
			ticket = ticket || w.hash == hash
		}
		for _, j := range wait.joins {
			joined = joined || j.ticket == hash
		}
		signed := n != 1 && state.seq() > 1+n/2 // every device but d1 was signed
		switch {
		case ticket && (used || joined):
			t.Errorf("ticket %d is good again", n)
		case !ticket && !joined && !signed:
			t.Errorf("ticket %d is gone, and nobody has joined by it", n)
		}
	}
}
