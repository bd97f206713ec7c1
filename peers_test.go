package main

import (
	"testing"
	"time"
)

func TestPeersForgetTheLongestWithoutALink(t *testing.T) {
	mux, err := listenUDP("127.0.0.1:0", false, func([]byte, udpSource) {})
	if err != nil {
		t.Fatal(err)
	}
	defer mux.Close()
	tab := newPeerTable(presTestIdentity(t), acctID{}, newInstanceID(), mux)
	peer, now := presTestIdentity(t).keys, time.Now()
	var procs []*peerProc
	come := func(i int) (*peerProc, error) {
		return tab.proc(now.Add(time.Duration(i)*ms), peer, instanceID{byte(i), byte(i >> 8), 1}, false)
	}
	for i := range maxProcs {
		q, err := come(i)
		if err != nil {
			t.Fatal(err)
		}
		q.used = i != 5 && i != 7
		procs = append(procs, q)
	}
	for i, gone := range []int{5, 7} {
		q, err := come(maxProcs + i)
		if err != nil {
			t.Fatal(err)
		}
		q.used = true
		if tab.ofVirtual(procs[gone].udp.virtual) != nil {
			t.Errorf("process %d is not the one forgotten", gone)
		}
	}
	if _, err := come(maxProcs + 2); err == nil {
		t.Error("more processes with links than may be")
	}
	if n := len(tab.byVirtual); n != maxProcs {
		t.Errorf("%d processes are known", n)
	}
}
