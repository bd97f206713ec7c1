//go:build linux

package main

// The rows of make bench that want a network with a distance: the lab's, with
// stock sshd at the far end.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/creack/pty"
)

const (
	// benchFarBytes is some 17 s of 100 Mbit/s: login and start are counted.
	benchFarBytes = 200 << 20
	// benchFarFiles keeps scp, which waits for each, to half a minute.
	benchFarFiles = 200
	// benchKeys is how many keys are typed for one row, benchKeyPause after each
	// echo.
	benchKeys     = 200
	benchKeyPause = 15 * time.Millisecond
	// benchLossBytes is little: at 100 ms, 1 % of loss leaves scp some 1.5 Mbit/s.
	benchLossBytes = 4 << 20
	benchLongBytes = 50 << 20
)

// A benchFar is a laptop and attic, each behind a router of its own.
type benchFar struct {
	*bench
	w         *labWorld
	at, there *labHost
	options   []string // of ssh and scp
	data      string   // a file at both ends
}

func (b *bench) far() {
	if os.Geteuid() != 0 {
		b.row("a line with a distance", "needs root")
		return
	}
	l := newLab(b.t)
	once := *b
	once.rounds, once.rows = 1, nil // the line is the same every time
	defer func() { b.rows = append(b.rows, once.rows...) }()
	f := &benchFar{bench: &once, w: l.account(), at: l.router(labPublic).host(), there: l.router(labPublic).host(), data: filepath.Join(b.work, "data")}
	f.options = []string{"-q", "-F", "/dev/null", "-i", filepath.Join(f.w.laptop.home, "id"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"}
	for _, h := range []*labHost{f.at, f.there} {
		// What nearly all machines have. QUIC's is the library's: cubic too.
		h.sysctl("net/ipv4/tcp_congestion_control", "cubic")
	}
	f.w.attic.serve(f.there)
	f.startStock()
	f.typing()
	f.commands()
	f.files()
}

func (f *benchFar) startStock() {
	dir := f.w.attic.home
	key, conf := filepath.Join(dir, "host"), filepath.Join(dir, "sshd_config")
	f.w.lab.run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	text := fmt.Sprintf(benchSSHD, "22", key, filepath.Join(f.w.laptop.home, "id.pub")) + "ListenAddress " + f.there.addr4 + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.w.beside("sshd", f.there.command("/usr/sbin/sshd", "-D", "-e", "-f", conf)).until("listening on "+f.there.addr4, "\n")
}

// line sets the way between the two: round trips, of which each router has a
// quarter and to the coordinator as many, the rate in Mbit/s (0 none), and the
// loss in each direction in percent.
func (f *benchFar) line(rtt time.Duration, mbit int, loss float64) string {
	for _, h := range []string{f.at.router.ns, f.there.router.ns, f.w.lab.coord.ns} {
		f.w.hub.do("delay", h, (rtt / 4).String())
	}
	for _, h := range []*labHost{f.at, f.there} {
		f.w.hub.do("rate", h.router.ns, fmt.Sprint(mbit*1e6))
	}
	f.w.hub.do("loss", f.at.router.ns, fmt.Sprint(loss))
	text := fmt.Sprintf("%d ms", rtt.Milliseconds())
	if mbit > 0 {
		text += fmt.Sprintf(", %d Mbit/s", mbit)
	}
	if loss > 0 {
		text += fmt.Sprintf(", %g%% lost", loss)
	}
	return text
}

// verb and stock run one to its end.
func (f *benchFar) verb(words ...string) func() time.Duration {
	return func() time.Duration {
		cmd := f.w.laptop.command(f.at, f.named(words)...)
		return f.timed(cmd)
	}
}

func (f *benchFar) stock(program string, words ...string) func() time.Duration {
	return func() time.Duration {
		return f.timed(f.at.command(program, append(slices.Clone(f.options), f.named(words)...)...))
	}
}

func (f *benchFar) timed(cmd *exec.Cmd) time.Duration {
	var errs bytes.Buffer
	cmd.Stderr = &errs
	began := time.Now()
	if err := cmd.Run(); err != nil {
		f.fatalf("%v: %v\n%s", cmd.Args, err, errs.String())
	}
	return time.Since(began)
}

func (f *benchFar) medians(ours, stock func() time.Duration, n int) (o, s float64) {
	var mine, theirs []time.Duration
	for range f.rounds * n {
		mine, theirs = append(mine, ours()), append(theirs, stock())
	}
	return median(mine).Seconds(), median(theirs).Seconds()
}

// commands is the time of a short command.
func (f *benchFar) commands() {
	row := func(what string, bound float64) {
		o, s := f.medians(f.verb("run", "attic", "true"), f.stock("ssh", "root@"+f.there.addr4, "true"), 3)
		f.row(what, fmt.Sprintf("%.2f s", o), fmt.Sprintf("%.2f s", s), fmt.Sprintf("%.2f x", o/s), fmt.Sprintf("<= %.2f x time", bound), benchVerdict(o/s <= bound))
	}
	line := f.line(100*time.Millisecond, 0, 0)
	row("run DEV true, cold, "+line, 0.75)
	lender := f.w.laptop.serve(f.at)
	f.verb("run", "attic", "true")()
	row("run DEV true, a link is up, "+line, 0.55)
	lender.stop()
}

// bulk compares two ways of moving size bytes; the line, of rate Mbit/s, is to
// be filled as far as fill says.
func (f *benchFar) bulk(what string, ours, stock func() time.Duration, size int64, bound float64, mbit int, fill float64) {
	o, s := f.medians(ours, stock, 1)
	full := float64(size) * 8 / 1e6 / float64(mbit) / o
	need := fmt.Sprintf(">= %.1f x scp", bound)
	if fill > 0 {
		need += fmt.Sprintf(", %.0f%% of it", fill*100)
	}
	f.row(what, fmt.Sprintf("%.2f s", o), fmt.Sprintf("%.2f s", s), fmt.Sprintf("%.2f x", s/o), need,
		benchVerdict(s/o >= bound && full >= fill), fmt.Sprintf("%.0f%% of the line", full*100))
}

func (f *benchFar) files() {
	there, got := "root@"+f.there.addr4+":", filepath.Join(f.w.attic.home, "got")
	cut := func(size int64) { // ever shorter: a longer one would have a hole
		if err := os.Truncate(f.data, size); err != nil {
			f.t.Fatal(err)
		}
	}
	cut(benchFarBytes)
	line := f.line(40*time.Millisecond, 100, 0)
	f.bulk("run DEV 'cat FILE', "+line, f.verb("run", "attic", "--", "cat "+f.data), f.stock("scp", there+f.data, got), benchFarBytes, 1, 100, .9)
	f.bulk("cp put, "+line, f.verb("cp", "-q", f.data, "attic:"+got), f.stock("scp", f.data, there+got), benchFarBytes, 1, 100, .9)
	f.bulk("cp get, "+line, f.verb("cp", "-q", "attic:"+f.data, got), f.stock("scp", there+f.data, got), benchFarBytes, 1, 100, .9)
	tree := filepath.Join(f.work, "smalltree")
	f.tree(tree, benchFarFiles)
	f.bulk(fmt.Sprintf("%d files of 4 KiB, cp -r, %s", benchFarFiles, line), f.verb("cp", "-q", "-r", tree, "attic:"+got+"-tree"+benchNew),
		f.stock("scp", "-r", tree, there+got+"-stree"+benchNew), benchFarFiles<<12, 5, 100, 0)
	cut(benchLongBytes)
	line = f.line(300*time.Millisecond, 50, 0)
	f.bulk("cp put, "+line, f.verb("cp", "-q", f.data, "attic:"+got), f.stock("scp", f.data, there+got), benchLongBytes, 2, 50, 0)
	f.bulk("cp get, "+line, f.verb("cp", "-q", "attic:"+f.data, got), f.stock("scp", there+f.data, got), benchLongBytes, 2, 50, 0)
	cut(benchLossBytes)
	line = f.line(100*time.Millisecond, 20, 1)
	f.bulk("cp put, "+line, f.verb("cp", "-q", f.data, "attic:"+got), f.stock("scp", f.data, there+got), benchLossBytes, 1, 20, 0)
	f.bulk("cp get, "+line, f.verb("cp", "-q", "attic:"+f.data, got), f.stock("scp", there+f.data, got), benchLossBytes, 1, 20, 0)
}

// typing is how long a key takes to its echo: half of them, and nearly all.
func (f *benchFar) typing() {
	ssh := append(slices.Clone(f.options), "-tt", "root@"+f.there.addr4, "cat")
	row := func(what string, late float64) {
		mine := f.echoes(f.w.laptop.command(f.at, "run", "-t", "attic", "cat"))
		theirs := f.echoes(f.at.command("ssh", ssh...))
		for _, q := range []struct {
			name  string
			at    int
			bound float64
		}{{"p50", benchKeys / 2, 1}, {"p99", benchKeys * 99 / 100, late}} {
			o, s := mine[q.at], theirs[q.at]
			f.row("key to echo, "+q.name+", "+what, benchMS(o), benchMS(s), fmt.Sprintf("%.2f x", o.Seconds()/s.Seconds()),
				fmt.Sprintf("<= %.1f x time", q.bound), benchVerdict(o.Seconds()/s.Seconds() <= q.bound+.02)) // of noise
		}
	}
	row(f.line(60*time.Millisecond, 0, 0), 1)
	row(f.line(60*time.Millisecond, 0, 2), 0.7)
	// Beside a transfer: ours on the same link, which the laptop's device role
	// lends, and stock ssh's on its one connection.
	line := f.line(60*time.Millisecond, 100, 0)
	lender := f.w.laptop.serve(f.at)
	f.verb("run", "attic", "true")()
	bulk := f.w.laptop.command(f.at, "run", "attic", "--", "cat /dev/zero")
	mux := filepath.Join(f.work, "mux")
	master := f.at.command("ssh", append(slices.Clone(f.options), "-M", "-S", mux, "root@"+f.there.addr4, "cat /dev/zero")...)
	ssh = append([]string{"-S", mux}, ssh...)
	for _, cmd := range []*exec.Cmd{bulk, master} {
		begun := make(chan struct{})
		cmd.Stdout = &benchSink{begun: begun}
		if err := cmd.Start(); err != nil {
			f.t.Fatal(err)
		}
		<-begun
	}
	row("a transfer beside it, "+line, 0.7)
	for _, cmd := range []*exec.Cmd{bulk, master} {
		cmd.Process.Kill()
		cmd.Wait()
	}
	lender.stop()
}

// A benchSink takes everything, and says that something has come.
type benchSink struct{ begun chan struct{} }

func (s *benchSink) Write(b []byte) (int, error) {
	if s.begun != nil {
		close(s.begun)
		s.begun = nil
	}
	return len(b), nil
}

// echoes types into a command's terminal and returns how long each echo took,
// in order.
func (f *benchFar) echoes(cmd *exec.Cmd) (all []time.Duration) {
	term, err := pty.Start(cmd)
	if err != nil {
		f.t.Fatal(err)
	}
	defer term.Close()
	in := bufio.NewReader(term)
	hear := func(what string) {
		for {
			c, err := in.ReadByte()
			if err != nil {
				f.fatalf("%v: the terminal: %v", cmd.Args, err)
			}
			if strings.IndexByte(what, c) >= 0 {
				return
			}
		}
	}
	// The echo of a line that cat has read is the sign that all is set up.
	io.WriteString(term, "~\n")
	hear("~")
	hear("~")
	for i := range benchKeys {
		began := time.Now()
		key := "qz"[i%2:][:1]
		io.WriteString(term, key)
		hear(key)
		all = append(all, time.Since(began))
		time.Sleep(benchKeyPause)
	}
	io.WriteString(term, "\x03")
	cmd.Wait()
	slices.Sort(all)
	return all
}
