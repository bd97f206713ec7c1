//go:build !windows

package main

// ttyName is the terminal of this process, which can be written to as well.
const (
	ttyName        = "/dev/tty"
	ttyTakesOutput = true
)
