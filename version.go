package main

// This file knows which program this is.

import (
	"strconv"
	"time"
)

// version and builtAt (unix seconds) are set by the linker; see the Makefile.
var (
	version = "dev"
	builtAt = "0"
)

// maxBuild bounds a program's version text on the wire, in bytes.
const maxBuild = 32

// buildVersion is the version as peers are told it, at most maxBuild bytes.
func buildVersion() string { return version[:min(len(version), maxBuild)] }

// buildTime is a time that lies in the past of every right clock.
func buildTime() time.Time {
	n, err := strconv.ParseInt(builtAt, 10, 64)
	if err != nil {
		return time.Unix(0, 0)
	}
	return time.Unix(n, 0)
}
