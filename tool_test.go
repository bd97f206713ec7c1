package main

import (
	"io"
	"os"
	"os/exec"
	"testing"
)

// This file makes the test binary be sessio itself when asked, so that the
// tests can start real processes of it.

const (
	// toolEnv makes the test binary be one of toolModes, or with any other value
	// sessio.
	toolEnv = "SESSIO_TEST_TOOL"
	// toolFileEnv names another sessio to be tested: the one that is built.
	toolFileEnv = "SESSIO_BIN"
)

// toolModes are other programs that the test binary can be; none returns.
var toolModes = map[string]func(){}

func TestMain(m *testing.M) {
	if mode := os.Getenv(toolEnv); toolModes[mode] != nil {
		toolModes[mode]()
	} else if mode != "" {
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

// startPiped starts a program and returns its standard input and output.
func startPiped(tb testing.TB, cmd *exec.Cmd) (in io.WriteCloser, out io.ReadCloser) {
	tb.Helper()
	in, err := cmd.StdinPipe()
	if err == nil {
		out, err = cmd.StdoutPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		tb.Fatalf("%v: %v", cmd.Args, err)
	}
	return in, out
}
