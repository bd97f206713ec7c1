//go:build linux

package main

// The table of make bench: our server and our links beside stock sshd in one
// run, the rounds interleaved, medians of them. Whatever computes for a
// transfer, at either end, is counted in CPU-seconds per GiB, which travel
// better between machines than rates.

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// benchEnv asks for the table, and is the number of rounds.
	benchEnv = "SESSIO_BENCH"
	// benchSizeEnv is how much a bulk row moves, in MiB; a GiB when not said.
	benchSizeEnv = "SESSIO_BENCH_MIB"
	// benchStarts is how many short commands one round of them has.
	benchStarts = 10
	// benchFiles is how many files of 4 KiB a tree has.
	benchFiles = 10000
	// benchNew is a name of its own in each run: a tree is copied to where
	// nothing is.
	benchNew = "-NEW-"
)

// A bench prints one row after the other.
type bench struct {
	*judge
	rounds int
	mib    int
	sshd   int // the process of the stock server
	rows   [][]string
	runs   int
}

// A benchSide is one of two that are compared.
type benchSide struct {
	server int // whose CPU time is counted, with its children's; 0 none
	args   []string
	from   string // standard input, a file; "" for none
}

// A benchCost is what one run took.
type benchCost struct{ wall, cpu time.Duration }

const benchSSHD = `Port %s
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
MaxStartups 100
Subsystem sftp /usr/lib/openssh/sftp-server
`

// TestBench fails only when a run does: a bound that is missed is told.
func TestBench(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv(benchEnv))
	if rounds < 1 {
		t.Skip("only in make bench")
	}
	b := &bench{judge: newPort(t, ""), rounds: rounds, mib: 1024}
	if n, err := strconv.Atoi(os.Getenv(benchSizeEnv)); err == nil {
		b.mib = n
	}
	defer func() { t.Logf("%d rounds, %d MiB\n%s", b.rounds, b.mib, benchTable(b.rows)) }()
	b.startStock()
	b.rows = append(b.rows, []string{"what", "ours", "stock", "ratio", "bound", "", "CPU-s/GiB ours", "stock"})
	b.starts()
	b.port()
	b.files()
	b.links()
	b.far()
}

// startStock runs sshd for the laptop's key as the host "stock".
func (b *bench) startStock() {
	port := freePort(b.t)
	conf := fmt.Sprintf(benchSSHD, port, filepath.Join(b.work, "attic/hostkey"), filepath.Join(b.work, "laptop/id.pub"))
	dir := filepath.Join(b.work, "laptop")
	text := fmt.Sprintf(strings.Replace(judgeConfig, "Host h", "Host stock", 1), port, b.vars["USER"]) + " Ciphers aes128-gcm@openssh.com\n"
	old, err := os.ReadFile(filepath.Join(dir, "config"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config"), append(old, text...), 0o600)
	}
	known, err2 := os.ReadFile(filepath.Join(dir, "known_hosts"))
	if err == nil && err2 == nil {
		known = append(known, bytes.ReplaceAll(known, []byte(b.vars["PORT"]), []byte(port))...)
		err = os.WriteFile(filepath.Join(dir, "known_hosts"), known, 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(conf), 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.run("on laptop")
	b.background("sshd", "/usr/sbin/sshd", []string{"-D", "-e", "-f", filepath.Join(dir, "sshd_config")}, false)
	b.run("wait sshd 'Server listening'")
	b.sshd = b.pid("sshd")
}

// spent is the CPU time of a process and of its children that have ended.
func spent(pid int) (d time.Duration) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, ticks := range f[11:15] { // utime stime cutime cstime, in hundredths of a second
		n, _ := strconv.Atoi(ticks)
		d += time.Duration(n) * 10 * time.Millisecond
	}
	return d
}

// once runs a command to its end.
func (b *bench) once(s benchSide) (c benchCost) {
	b.t.Helper()
	cmd := b.command(s.args[0], b.named(s.args[1:])...)
	cmd.Stdin = nil
	if s.from != "" {
		f, err := os.Open(s.from)
		if err != nil {
			b.t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	before, began := spent(s.server), time.Now()
	if err := cmd.Run(); err != nil {
		b.fatalf("%v: %v\n%s", s.args, err, errs.String())
	}
	c.wall = time.Since(began)
	// A stock server's child is counted when it is reaped.
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end) && spent(s.server) == before; {
		time.Sleep(time.Millisecond)
	}
	c.cpu = spent(s.server) - before + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return c
}

// named gives this run its own names.
func (b *bench) named(args []string) []string {
	b.runs++
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], benchNew, fmt.Sprint("-", b.runs))
	}
	return args
}

// pair runs both in turn and returns the medians, each of n runs a round.
func (b *bench) pair(ours, stock benchSide, n int) (o, s benchCost) {
	b.t.Helper()
	var cost [2][2][]time.Duration
	for range b.rounds * n {
		for i, side := range []benchSide{ours, stock} {
			c := b.once(side)
			cost[i][0], cost[i][1] = append(cost[i][0], c.wall), append(cost[i][1], c.cpu)
		}
	}
	return benchCost{median(cost[0][0]), median(cost[0][1])}, benchCost{median(cost[1][0]), median(cost[1][1])}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func benchVerdict(ok bool) string {
	if ok {
		return "ok"
	}
	return "misses"
}

// short compares the time of what is short: at most bound times the stock's.
func (b *bench) short(what string, ours, stock benchSide, bound float64) {
	b.t.Helper()
	o, s := b.pair(ours, stock, benchStarts)
	ratio := o.wall.Seconds() / s.wall.Seconds()
	b.row(what, benchMS(o.wall), benchMS(s.wall), fmt.Sprintf("%.2f x", ratio), fmt.Sprintf("<= %.2f x time", bound), benchVerdict(ratio <= bound))
}

// bulk compares rates: at least bound times the stock's. size is in bytes.
// Where it is not 0, maxCPU bounds our CPU-seconds a GiB.
func (b *bench) bulk(what string, ours, stock benchSide, size int64, bound, maxCPU float64) {
	b.t.Helper()
	o, s := b.pair(ours, stock, 1)
	rate := func(c benchCost) string { return fmt.Sprintf("%.0f MB/s", float64(size)/1e6/c.wall.Seconds()) }
	gib := func(c benchCost) float64 { return c.cpu.Seconds() / (float64(size) / (1 << 30)) }
	ratio := s.wall.Seconds() / o.wall.Seconds()
	text := fmt.Sprintf(">= %.1f x", bound)
	if maxCPU > 0 {
		text += fmt.Sprintf(", <= %.1f CPU-s", maxCPU)
	}
	b.row(what, rate(o), rate(s), fmt.Sprintf("%.2f x", ratio), text, benchVerdict(ratio >= bound && (maxCPU == 0 || gib(o) <= maxCPU)),
		fmt.Sprintf("%.2f", gib(o)), fmt.Sprintf("%.2f", gib(s)))
}

func (b *bench) row(cells ...string) {
	b.rows = append(b.rows, cells)
	fmt.Print(benchTable([][]string{cells})) // at once: all of them take long
}

func benchMS(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

func benchTable(rows [][]string) string {
	var out strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			fmt.Fprintf(&out, "%-*s ", []int{52, 11, 11, 8, 24, 7, 15, 6}[i], cell)
		}
		out.WriteString("\n")
	}
	return out.String()
}

// starts is the time of the program itself, and of short commands.
func (b *bench) starts() {
	o, _ := b.pair(benchSide{args: []string{toolFile(), "version"}}, benchSide{args: []string{"true"}}, benchStarts)
	b.row("start of the program (version)", benchMS(o.wall), "", "", "<= 5 ms", benchVerdict(o.wall <= 5*time.Millisecond))
	b.short("ssh HOST true", b.attic("ssh", "-F", "config", "h", "true"), b.stock("ssh", "-F", "config", "stock", "true"), 0.5)
}

func (b *bench) attic(args ...string) benchSide { return benchSide{server: b.pid("attic"), args: args} }
func (b *bench) stock(args ...string) benchSide { return benchSide{server: b.sshd, args: args} }

// with is s that reads a file.
func (s benchSide) with(file string) benchSide { s.from = file; return s }

// port is bulk by stock clients.
func (b *bench) port() {
	size := int64(b.mib) << 20
	data := filepath.Join(b.work, "data")
	f, err := os.Create(data)
	if err == nil {
		_, err = io.Copy(f, noise(size))
		f.Close()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.bulk("ssh HOST 'cat >/dev/null'", b.attic("ssh", "-F", "config", "h", "cat >/dev/null").with(data),
		b.stock("ssh", "-F", "config", "stock", "cat >/dev/null").with(data), size, 0.9, 0)
	b.bulk("ssh HOST 'cat FILE'", b.attic("ssh", "-F", "config", "h", "cat "+data), b.stock("ssh", "-F", "config", "stock", "cat "+data), size, 1, 0)
	get, put := filepath.Join(b.work, "laptop", "got"), filepath.Join(b.work, "put")
	batch := func(line string) string {
		file := filepath.Join(b.work, strings.Fields(line)[0]+".batch")
		if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
			b.t.Fatal(err)
		}
		return file
	}
	sftp := func(line string) (ours, stock benchSide) {
		file := batch(line)
		return b.attic("sftp", "-q", "-F", "config", "-b", file, "h"), b.stock("sftp", "-q", "-F", "config", "-b", file, "stock")
	}
	o, s := sftp("get " + data + " " + get)
	b.bulk("sftp get", o, s, size, 1.2, 0)
	o, s = sftp("put " + data + " " + put)
	b.bulk("sftp put", o, s, size, 1.1, 0)
	for _, old := range []string{"-q", "-qO"} {
		name := "scp " + strings.TrimPrefix(old, "-q")
		if old == "-qO" {
			name = "scp -O"
		}
		b.bulk(name+" get", b.attic("scp", old, "-F", "config", "h:"+data, get), b.stock("scp", old, "-F", "config", "stock:"+data, get), size, 1.2, 0)
		b.bulk(name+" put", b.attic("scp", old, "-F", "config", data, "h:"+put), b.stock("scp", old, "-F", "config", data, "stock:"+put), size, 1.1, 0)
	}
	b.peak("memory while it serves one sftp get", "attic", o, 8<<10)
}

// tree makes n files of 4 KiB in directories of 100.
func (b *bench) tree(dir string, n int) {
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprint(i/100))
		err := os.MkdirAll(sub, 0o700)
		if err == nil {
			err = os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), bytes.Repeat([]byte{byte(i)}, 4096), 0o600)
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// files is a tree of small files, by stock clients.
func (b *bench) files() {
	tree := filepath.Join(b.work, "tree")
	b.tree(tree, benchFiles)
	b.bulk(fmt.Sprintf("%d files of 4 KiB, scp -r put", benchFiles), b.attic("scp", "-qr", "-F", "config", tree, "h:"+filepath.Join(b.work, "there"+benchNew)),
		b.stock("scp", "-qr", "-F", "config", tree, "stock:"+filepath.Join(b.work, "there"+benchNew)), benchFiles<<12, 1, 0)
	b.bulk(fmt.Sprintf("%d files of 4 KiB, scp -r get", benchFiles), b.attic("scp", "-qr", "-F", "config", "h:"+tree, "back"+benchNew),
		b.stock("scp", "-qr", "-F", "config", "stock:"+tree, "back"+benchNew), benchFiles<<12, 1, 0)
}

// status reads a figure of /proc/PID/status, in KiB where it has a unit.
func procStatus(pid int, key string) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "\n"+key+":")
	n, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return n
}

// peak is how much more a server has in memory, at most, while it serves one
// run; bound is in KiB.
func (b *bench) peak(what, server string, s benchSide, bound int) {
	pid := b.pid(server)
	os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) // the high-water mark begins anew
	idle := procStatus(pid, "VmRSS")
	b.once(s)
	grew := procStatus(pid, "VmHWM") - idle
	b.row(what, fmt.Sprintf("%.1f MiB", float64(grew)/1024), "", "", fmt.Sprintf("<= %d MiB above idle", bound>>10), benchVerdict(grew <= bound))
}

// links is the program at both ends, on loopback.
func (b *bench) links() {
	stock := b
	b = &bench{judge: newJudge(b.t, ""), rounds: b.rounds, mib: b.mib}
	defer func() { stock.rows = append(stock.rows, b.rows...) }()
	size, data := int64(b.mib)<<20, filepath.Join(stock.work, "data")
	pid := b.pid("attic")
	rss, anon, threads := procStatus(pid, "VmRSS"), procStatus(pid, "RssAnon"), procStatus(pid, "Threads")
	b.row("an idle device: memory", fmt.Sprintf("%.1f MB", float64(rss)*1024/1e6), "", "", "<= 10 MB", benchVerdict(rss*1024 <= 10e6))
	b.row("  of it anonymous", fmt.Sprintf("%.1f MB", float64(anon)*1024/1e6), "", "", "<= 2 MB", benchVerdict(anon*1024 <= 2e6))
	b.row("  threads", fmt.Sprint(threads), "", "", "<= 6", benchVerdict(threads <= 6))
	// The stock client's files are in another place.
	config := []string{"ssh", "-F", filepath.Join(stock.work, "laptop/config"), "-i", filepath.Join(stock.work, "laptop/id"),
		"-o", "UserKnownHostsFile=" + filepath.Join(stock.work, "laptop/known_hosts"), "stock"}
	ssh := func(line string) benchSide {
		return benchSide{server: stock.sshd, args: append(slices.Clone(config), line)}
	}
	b.run("on laptop")
	b.short("run DEV true, cold", b.attic(toolFile(), "run", "attic", "true"), ssh("true"), 0.5)
	// The libraries alone take the stock's place.
	b.background("bare", "env", []string{toolEnv + "=" + toolBare, os.Args[0]}, false)
	b.run("wait bare 'bare at '\ncapture BARE bare 'bare at (.*)'")
	bare := func(way string) benchSide {
		return benchSide{server: b.pid("bare"), args: []string{"env", toolEnv + "=" + toolBare, os.Args[0], b.vars["BARE"], "ssh", way, fmt.Sprint(size)}}
	}
	up, down := b.attic(toolFile(), "run", "attic", "--", "cat >/dev/null").with(data), b.attic(toolFile(), "run", "attic", "--", "cat "+data)
	b.bulk("run DEV 'cat >/dev/null' to bare ssh over QUIC", up, bare("up"), size, 0.9, 7)
	b.bulk("run DEV 'cat FILE' to bare ssh over QUIC", down, bare("down"), size, 0.9, 7)
	quic := func(way string) benchSide { s := bare(way); s.args[4] = "quic"; return s }
	b.bulk("bare QUIC up, to stock ssh 'cat >/dev/null'", quic("up"), ssh("cat >/dev/null").with(data), size, 0, 0)
	b.bulk("bare QUIC down, to stock ssh 'cat FILE'", quic("down"), ssh("cat "+data), size, 0, 0)
	b.peak("memory while it serves one transfer", "attic", b.attic(toolFile(), "run", "attic", "--", "cat "+data), 8<<10)
	scp := func(from, to string) benchSide {
		return benchSide{server: stock.sshd, args: append(append([]string{"scp", "-q"}, config[1:len(config)-1]...), from, to)}
	}
	got := filepath.Join(b.work, "got")
	b.bulk("cp get", b.attic(toolFile(), "cp", "-q", "attic:"+data, got), scp("stock:"+data, got+"-scp"), size, 0, 7)
	b.bulk("cp put", b.attic(toolFile(), "cp", "-q", data, "attic:"+got), scp(data, "stock:"+got+"-scp"), size, 0, 7)
	b.lend()
	b.short("run DEV true, a link is up", b.attic(toolFile(), "run", "attic", "true"), ssh("true"), 0.5)
}
