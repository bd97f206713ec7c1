package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCoordSessionsKillHelper is the process that TestCoordSessionsSurviveKill
// kills: it makes sessions, revokes one, says so, and forgets the others, so that
// the log is written anew again and again.
func TestCoordSessionsKillHelper(t *testing.T) {
	dir := os.Getenv(coordKillDir)
	if dir == "" {
		t.Skip("only as a process of TestCoordSessionsSurviveKill")
	}
	st := sessionTestOpen(t, dir, coordTestNow)
	must := func(err error) {
		if err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
	}
	for {
		var last *coordSession
		for range 600 {
			last = sessionTestMade(0)
			rand.Read(last.id[:])
			last.expires = coordTestNow.Unix() + 1
			st.made(last)
		}
		n, _, err := st.revoke(sessionTestAcct, sessionMatch{id: last.id.String()}, coordTestNow)
		must(err)
		fmt.Println("revoked", last.id, n)
		must(st.reap(coordTestNow.Add(time.Second)))
		fmt.Println("entries", st.entries, st.count)
	}
}

// What was revoked when a process was killed, at whatever it was at, is revoked
// when the next one starts, and its device will be told.
func TestCoordSessionsSurviveKill(t *testing.T) { coordSessionsKilled(t, 12) }

func coordSessionsKilled(t *testing.T, rounds int) {
	t.Parallel()
	dir := t.TempDir()
	var acknowledged []string
	anew := 0
	for round := range rounds {
		entries := 0
		for _, line := range coordKillRun(t, "TestCoordSessionsKillHelper", dir, 3+round*5%17) {
			var id string
			var n, now int
			if _, err := fmt.Sscanf(line, "revoked %s %d", &id, &n); err == nil && n == 1 {
				acknowledged = append(acknowledged, id)
			} else if _, err := fmt.Sscanf(line, "entries %d %d", &now, &n); err != nil {
				t.Fatalf("the helper says %q", line)
			} else {
				anew += int(boolByte(now < entries))
				entries = now
			}
		}
		st := sessionTestOpen(t, dir, coordTestNow)
		var waiting []string
		for _, o := range st.acctLocked(sessionTestAcct).orders {
			waiting = append(waiting, o.msg.ids[0].String())
		}
		for _, id := range acknowledged {
			good := st.list(sessionTestAcct, func(s *coordSession) bool { return s.id.String() == id && s.revoked == 0 })
			if len(good) != 0 || !slices.Contains(waiting, id) {
				t.Errorf("round %d: %s is good again: %v; its device will be told: %v", round, id, len(good) > 0, slices.Contains(waiting, id))
			}
		}
		if len(waiting) < len(acknowledged) || len(waiting) > len(acknowledged)+round+1 {
			t.Errorf("round %d: %d orders for %d revocations", round, len(waiting), len(acknowledged))
		}
		st.log.close()
		if files := coordTestFiles(t, dir); !slices.Equal(files, []string{"sessions"}) {
			t.Errorf("round %d: %q", round, strings.Join(files, " "))
		}
	}
	if len(acknowledged) < 40 || anew < 5 {
		t.Errorf("only %d revocations, and the log was written anew %d times", len(acknowledged), anew)
	}
}
