package main

import "testing"

func TestTrustHappyPath(t *testing.T) {
	k := newTrustTestAcct(t)
	k.addDevice("attic")
	k.addDevice("laptop", "client")
	k.revokeDevice("attic", k.b)
	st := trustTestStore(t, k, len(k.raws))
	if got := trustTestNames(st.state()); got != "laptop" {
		t.Fatal(got)
	}
	again, err := openTrustStore(st.dir, trustTestClock)
	if err != nil || again.state().head() != k.state.head() {
		t.Fatal(err)
	}
}
