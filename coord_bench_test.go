package main

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkCoordStart opens a store of 10,000 records: six accounts whose 250
// devices were changed again and again.
func BenchmarkCoordStart(b *testing.B) {
	dir := b.TempDir()
	s, err := openCoordStore(dir, signupOpen, b.Logf)
	if err != nil {
		b.Fatal(err)
	}
	for range 6 {
		w := &webTest{t: b, now: coordTestNow, from: "192.0.2.7:1"}
		w.start(s)
		if code := w.registers(claimSecret{}, nil); code != "" {
			b.Fatal(code)
		}
		a := w.account()
		state, _ := a.snapshot(w.now)
		for n := 1; n < 1700; n++ {
			var text []byte
			var err error
			if n <= 250 {
				text, err = buildDeviceAdd(state, webTestIdentity(b).keys, newDeviceGrant(fmt.Sprint("d", n), []string{"server"}, []string{"root"}, deviceCaps, 0), w.now)
			} else {
				d, _ := state.deviceByName(fmt.Sprint("d", 1+n%250))
				text, err = buildDeviceUpdate(state, d.id, newDeviceGrant(d.name, []string{"server"}, []string{"root", fmt.Sprint("u", n)}, deviceCaps, 0), w.now)
			}
			if err != nil {
				b.Fatal(err)
			}
			raw, err := signRecord(text, w.signer)
			if err != nil {
				b.Fatal(err)
			}
			if state, _, err = a.append(raw, w.now); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		began := time.Now()
		s, err := openCoordStore(dir, signupOpen, b.Logf)
		if err != nil || len(s.list()) != 6 {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(began).Seconds()*1000, "ms/start")
	}
}
