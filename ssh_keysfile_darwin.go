package main

import "golang.org/x/sys/unix"

const keysDirOpen = unix.O_RDONLY
