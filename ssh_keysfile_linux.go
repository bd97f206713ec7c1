package main

import "golang.org/x/sys/unix"

// keysDirOpen needs no right to list a directory.
const keysDirOpen = unix.O_PATH
