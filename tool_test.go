package main

import (
	"os"
	"testing"
)

// This file makes the test binary be sessio itself when asked, so that the
// tests can start real processes of it.

const (
	// toolEnv, set to anything, makes the test binary be sessio.
	toolEnv = "SESSIO_TEST_TOOL"
	// toolFileEnv names another sessio to be tested: the one that is built.
	toolFileEnv = "SESSIO_BIN"
)

func TestMain(m *testing.M) {
	if os.Getenv(toolEnv) != "" {
		main() // does not return
	}
	os.Exit(m.Run())
}

// toolFile is the sessio that is tested: as a rule this binary itself, which
// brings the race detector into every process.
func toolFile() string {
	if file := os.Getenv(toolFileEnv); file != "" {
		return file
	}
	return os.Args[0]
}
