package main

import (
	"io/fs"
	"os"
)

func addSystemAttrs(*sftpAttrs, fs.FileInfo) {}

func ownPart(fs.FileInfo, sftpAttrs) bool { return true }

func keepOwner(_ *os.File, _, _ fs.FileInfo) {}

// hasDrive reports whether a name begins with a drive, which is no device.
func hasDrive(name string) bool {
	return len(name) >= 2 && name[1] == ':' && (name[0]|0x20) >= 'a' && (name[0]|0x20) <= 'z'
}
