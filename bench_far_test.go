//go:build linux

package main

// The rows of make bench that want a network with a distance: the lab's.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	benchFarRate  = 100e6 // bits a second
	benchFarBytes = 50 << 20
	// benchFarFiles keeps scp, which waits for each, to half a minute.
	benchFarFiles = 200
)

// far is 100 Mbit/s with round trips of 40 ms, each router a quarter of them.
func (b *bench) far() {
	if os.Geteuid() != 0 {
		b.row("40 ms, 100 Mbit/s", "needs root")
		return
	}
	l := newLab(b.t)
	w := l.account()
	at, there := l.router(labPublic).host(), l.router(labPublic).host()
	for _, h := range []*labHost{at, there} {
		l.hub.do("delay", h.router.ns, "10ms")
		l.hub.do("rate", h.router.ns, fmt.Sprint(int(benchFarRate)))
	}
	w.attic.serve(there)
	dir := w.attic.home
	key := filepath.Join(dir, "host")
	l.run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	conf := filepath.Join(dir, "sshd_config")
	text := fmt.Sprintf(benchSSHD, "22", key, filepath.Join(w.laptop.home, "id.pub")) + "ListenAddress " + there.addr4 + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	l.beside("sshd", there.command("/usr/sbin/sshd", "-D", "-e", "-f", conf)).until("listening on "+there.addr4, "\n")
	data := filepath.Join(b.work, "data")
	if err := os.Truncate(data, benchFarBytes); err != nil {
		b.t.Fatal(err)
	}
	options := []string{"-q", "-F", "/dev/null", "-i", filepath.Join(w.laptop.home, "id"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"}
	scp := func(words ...string) func() time.Duration {
		return func() time.Duration {
			began := time.Now()
			if out, err := at.command("scp", append(slices.Clone(options), b.named(words)...)...).CombinedOutput(); err != nil {
				b.fatalf("scp %v: %v\n%s", words, err, out)
			}
			return time.Since(began)
		}
	}
	verb := func(words ...string) func() time.Duration {
		return func() time.Duration {
			began := time.Now()
			w.laptop.must(at, b.named(words)...)
			return time.Since(began)
		}
	}
	stock, got := "root@"+there.addr4+":", filepath.Join(dir, "got")
	compare := func(what string, ours, theirs func() time.Duration, size int64, bound, fill float64) {
		var o, s []time.Duration
		for range b.rounds {
			o, s = append(o, ours()), append(s, theirs())
		}
		mine, other := median(o).Seconds(), median(s).Seconds()
		full := float64(size) * 8 / benchFarRate / mine
		need := fmt.Sprintf(">= %.1f x scp", bound)
		if fill > 0 {
			need += fmt.Sprintf(", %.0f%% of it", fill*100)
		}
		b.row(what, fmt.Sprintf("%.2f s", mine), fmt.Sprintf("%.2f s", other), fmt.Sprintf("%.2f x", other/mine), need,
			benchVerdict(other/mine >= bound && full >= fill), fmt.Sprintf("%.0f%% of the link", full*100))
	}
	compare("run DEV 'cat FILE', 40 ms 100 Mbit/s", verb("run", "attic", "--", "cat "+data), scp(stock+data, got), benchFarBytes, 1, .9)
	compare("cp put, 40 ms 100 Mbit/s", verb("cp", "-q", data, "attic:"+got), scp(data, stock+got), benchFarBytes, 1, .9)
	compare("cp get, 40 ms 100 Mbit/s", verb("cp", "-q", "attic:"+data, got), scp(stock+data, got), benchFarBytes, 1, .9)
	tree := filepath.Join(b.work, "smalltree")
	b.tree(tree, benchFarFiles)
	compare(fmt.Sprintf("%d files of 4 KiB, cp -r, 40 ms", benchFarFiles), verb("cp", "-q", "-r", tree, "attic:"+got+"-tree"+benchNew),
		scp("-r", tree, stock+got+"-stree"+benchNew), benchFarFiles<<12, 5, 0)
}
