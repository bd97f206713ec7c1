//go:build !linux && !darwin

package main

import (
	"context"
	"errors"
	"flag"
)

func sftpServerArgs([]string) []string { return nil }

func sftpServerVerb() verb {
	return verb{name: "sftp-server", usage: "", summary: "SFTP on standard input and output: not on this system", setup: func(*flag.FlagSet) verbRun {
		return func(context.Context, *program, operands) error {
			return errors.New("sftp-server: files are served on Linux and macOS only")
		}
	}}
}
