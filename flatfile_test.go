package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestFlatfileSweepsWhatKillHasLeft(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{".a.tmp1": 2 * time.Hour, ".a.tmp2": time.Minute, ".b.tmp1": 2 * time.Hour} {
		file := filepath.Join(dir, name)
		then := time.Now().Add(-age)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, then, then); err != nil {
			t.Fatal(err)
		}
	}
	if err := replaceFile(filepath.Join(dir, "a"), []byte("whole"), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := filepath.Join(names...); err != nil || got != ".a.tmp2/.b.tmp1/a" {
		t.Errorf("left: %q, %v", names, err)
	}
}

// flatTestLog appends batches to a new log and returns its file.
func flatTestLog(t *testing.T, batches ...[][]byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	l, _, err := openEntryLog(file, maxRecord)
	if err != nil {
		t.Fatal(err)
	}
	for _, batch := range batches {
		if err := l.append(batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	return file
}

func flatTestBatch(n, size int) (batch [][]byte) {
	for i := range n {
		batch = append(batch, bytes.Repeat([]byte{byte('a' + i)}, size))
	}
	return batch
}

// Power that fails while a batch is written leaves any of its sectors on disk:
// what was acknowledged before stays, and nothing is called damage. The last
// entry is written when the others are on disk.
func TestFlatfileTornBatch(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 900, maxRecord} {
		before, batch := flatTestBatch(2, 300), flatTestBatch(5, size)
		whole, err := os.ReadFile(flatTestLog(t, before, batch))
		if err != nil {
			t.Fatal(err)
		}
		acked, last := 2*(300+entryOverhead), len(whole)-size-entryOverhead
		var torn [][]byte
		for from := acked; from < last; from += 512 {
			hole := bytes.Clone(whole[:last])
			clear(hole[from:min(from+512, last)])
			torn = append(torn, hole, whole[:from+1], append(bytes.Clone(whole[:from]), make([]byte, last-from)...))
		}
		hole := bytes.Clone(whole)
		clear(hole[last+size/2:])
		torn = append(torn, hole, whole[:len(whole)-1], whole[:last])
		for i, b := range torn {
			file := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			l, got, err := openEntryLog(file, maxRecord)
			if err != nil {
				t.Fatalf("size %d, torn %d: %v", size, i, err)
			}
			if len(got) < 2 || !bytes.Equal(bytes.Join(append(before, batch...)[:len(got)], nil), bytes.Join(got, nil)) {
				t.Fatalf("size %d, torn %d: %d records are left", size, i, len(got))
			}
			if err := l.append([]byte("next")); err != nil {
				t.Fatal(err)
			}
			l.close()
			l, again, err := openEntryLog(file, maxRecord)
			if err != nil || len(again) != len(got)+1 || string(again[len(got)]) != "next" {
				t.Fatalf("size %d, torn %d: %d records after one more, %v", size, i, len(again), err)
			}
			l.close()
		}
	}
}

// Any bit that changes in what was acknowledged, the last entry apart, is
// damage and is called so.
func TestFlatfileDamage(t *testing.T) {
	file := flatTestLog(t, flatTestBatch(3, 40), flatTestBatch(1, 40), flatTestBatch(3, 40))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, got, err := openEntryLog(file, maxRecord); err != nil || len(got) != 7 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for i := range len(whole) - 40 - entryOverhead {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := openEntryLog(file, maxRecord)
		attackDenied(t, fmt.Sprintf("byte %d changed", i), err, "log-corrupt")
	}
}

func readFileString(file string) (string, error) {
	b, err := os.ReadFile(file)
	return string(b), err
}
