package main

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
)

// What could not be written does not count, neither in memory nor after a
// restart, and the next attempt works. The limit on file sizes is for a process
// of its own: go test writes files too.
func TestTrustStoreFullDisk(t *testing.T) {
	const child = "SESSIO_TEST_FULL_DISK"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTrustStoreFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	k := newTrustTestAcct(t)
	k.addDevice("a")
	ours, theirs := k.branch(), k.branch()
	ours.addDevice("b")
	theirs.revokeDevice("a", k.b)
	st := trustTestStore(t, k, 2)
	trustTestFullDisk(t, st, len(trustTestRead(t, st.path("log")))+100, ours.raws[2])
	trustTestFullDisk(t, st, 100, theirs.raws[2])
	if got := trustTestNames(st.state()); got != "b" {
		t.Error(got)
	}
}

// trustTestFullDisk adds raw while no file may grow beyond size, then once more.
func trustTestFullDisk(t *testing.T, st *trustStore, size int, raw []byte) {
	t.Helper()
	rec, err := parseRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	tip := logTip{rec.stmt.seq, rec.hash}
	head, names := st.state().head(), trustTestNames(st.state())
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(size), Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	n, err := st.add(raw)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if n != 0 || err == nil || codeOf(err) != "" {
		t.Errorf("%d, %v", n, err)
	}
	for _, s := range []*trustStore{st, trustTestOpen(t, st.dir)} {
		if s.state().head() != head || trustTestNames(s.state()) != names || s.knows(tip) {
			t.Error("what was not written counts")
		}
	}
	st.add(raw)
	if !st.knows(tip) || !trustTestOpen(t, st.dir).knows(tip) {
		t.Error("not written afterwards either")
	}
}
