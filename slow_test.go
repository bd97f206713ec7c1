package main

import (
	"os"
	"testing"
)

// slowTests reports whether what takes longer than a build shall run: all of it
// with SESSIO_SLOW=1.
func slowTests() bool { return os.Getenv("SESSIO_SLOW") != "" }

// slow skips a test that only make judge runs.
func slow(t *testing.T) {
	t.Helper()
	if !slowTests() {
		t.Skip("only in make judge")
	}
}
