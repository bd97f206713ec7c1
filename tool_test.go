package main

// This file lets the test binary be sessio, for tests that need a process.

import (
	"os"
	"testing"
)

// toolEnv, set to anything, makes the test binary be sessio.
const toolEnv = "SESSIO_TEST_TOOL"

func TestMain(m *testing.M) {
	if os.Getenv(toolEnv) != "" {
		main() // does not return
	}
	os.Exit(m.Run())
}
