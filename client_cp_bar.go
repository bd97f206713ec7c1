package main

// This file shows how far a copy has come, in one line of a terminal.

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// A cpBar counts, and draws where there is a terminal.
type cpBar struct {
	tty *os.File // nil: draw nothing
	now func() time.Time

	mu      sync.Mutex
	name    string // of the file that began last
	files   int    // that began
	known   int    // files found so far
	done    int64  // bytes
	skipped int64  // of done: were there already
	total   int64  // bytes found so far
	all     bool   // nothing more will be found
	drawn   int    // characters on the line
	began   time.Time
	past    [barMemory]barPoint // of the last draws
	draws   int

	stop chan struct{}
	loop sync.WaitGroup
}

type barPoint struct {
	at   time.Time
	done int64
}

// The line is drawn anew every barGap; the rate is that of the last barMemory
// draws, 4 s.
const (
	barGap    = 200 * time.Millisecond
	barMemory = 20
)

// newCPBar draws on f if it is a terminal that wants it.
func newCPBar(f *os.File, quiet bool, now func() time.Time) *cpBar {
	b := &cpBar{now: now, began: now(), stop: make(chan struct{})}
	if f == nil || quiet || os.Getenv("NO_COLOR") != "" || !term.IsTerminal(int(f.Fd())) {
		return b
	}
	b.tty = f
	b.loop.Go(func() {
		tick := time.NewTicker(barGap)
		defer tick.Stop()
		for {
			select {
			case <-b.stop:
				return
			case <-tick.C:
				b.mu.Lock()
				b.drawLocked()
				b.mu.Unlock()
			}
		}
	})
	return b
}

// found counts a file that will be copied.
func (b *cpBar) found(size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known++
	b.total += max(size, 0)
}

// foundAll says that no more will be found.
func (b *cpBar) foundAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = true
}

// begin is the start of a file of which had bytes are there.
func (b *cpBar) begin(name string, had int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.name, b.files = name, b.files+1
	b.done, b.skipped = b.done+had, b.skipped+had
}

func (b *cpBar) add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += n
}

// print writes lines where the bar may be.
func (b *cpBar) print(write func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clearLocked()
	write()
}

func (b *cpBar) clearLocked() {
	if b.drawn > 0 {
		fmt.Fprintf(b.tty, "\r%*s\r", b.drawn+len("^C"), "")
		b.drawn = 0
	}
}

func (b *cpBar) drawLocked() {
	now := b.now()
	oldest := b.past[b.draws%barMemory]
	if oldest.at.IsZero() {
		oldest = barPoint{b.began, b.skipped}
	}
	b.past[b.draws%barMemory] = barPoint{now, b.done}
	b.draws++
	if b.known == 0 {
		return
	}
	b.putLocked(barLine(b.title(), b.counts(rateOf(oldest, barPoint{now, b.done}), false), b.room()))
}

// room is how much of the terminal's line may be used: its last column would
// wrap, and so would the ^C that it shows behind the bar. A terminal that tells
// no width has 80.
func (b *cpBar) room() int {
	cols := 80
	if size, err := terminalSize(b.tty); err == nil && size.Cols > 0 {
		cols = int(size.Cols)
	}
	return max(cols-1-len("^C"), 0)
}

// putLocked draws over what is there. A line that a narrower window has
// wrapped is wiped as far as it stands in the cursor's row.
func (b *cpBar) putLocked(line string) {
	b.drawn = min(b.drawn, b.room())
	n := len([]rune(line))
	fmt.Fprintf(b.tty, "\r%s%*s", line, max(b.drawn-n, 0), "")
	b.drawn = n
}

func rateOf(from, to barPoint) float64 {
	if d := to.at.Sub(from.at).Seconds(); d > 0 {
		return float64(to.done-from.done) / d
	}
	return 0
}

func (b *cpBar) title() string {
	if b.known == 1 {
		return b.name
	}
	return fmt.Sprintf("%d of %d files, %s", b.files, b.known, b.name)
}

// counts is percent, bytes, rate, and the time that is left or, at the end,
// was taken.
func (b *cpBar) counts(rate float64, over bool) string {
	percent, left := "  ?%", "  --:--"
	if b.all && b.total > 0 {
		percent = fmt.Sprintf("%3d%%", min(b.done*100/max(b.total, 1), 100))
		if todo := b.total - b.done; rate > 0 && todo >= 0 {
			left = clock(time.Duration(float64(todo)/rate*float64(time.Second))) + " left"
		}
	}
	if over {
		left = clock(b.now().Sub(b.began))
	}
	return fmt.Sprintf(" %s %10s %10s/s %s", percent, sayBytes(b.done), sayBytes(int64(rate)), left)
}

// clock is m:ss, or h:mm:ss.
func clock(d time.Duration) string {
	s := int64(min(max(d, 0), 999*time.Hour).Seconds())
	if s < 3600 {
		return fmt.Sprintf("%3d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// barLine fits title and counts into width: the end of a name tells more.
func barLine(title, counts string, width int) string {
	name, room := []rune(printable(title)), width-len(counts)
	if room < 4 {
		return counts[:min(len(counts), max(width, 0))]
	}
	if len(name) > room {
		name = append([]rune("…"), name[len(name)-room+1:]...)
	}
	return string(name) + strings.Repeat(" ", room-len(name)) + counts
}

// end takes the bar away; a whole copy leaves its sum.
func (b *cpBar) end(whole bool) {
	close(b.stop)
	b.loop.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tty == nil || b.known == 0 {
		return
	}
	b.clearLocked()
	if !whole {
		return
	}
	b.all = true
	b.total = b.done
	b.putLocked(barLine(b.title(), b.counts(rateOf(barPoint{b.began, b.skipped}, barPoint{b.now(), b.done}), true), b.room()))
	b.drawn = 0
	fmt.Fprintln(b.tty)
}
