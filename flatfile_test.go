package main

import (
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
