package main

// sessionMembers finds nobody: macOS has no /proc. A terminal that hangs up
// and the signal to the leader's process group have to do.
func sessionMembers(sid int) []int { return nil }
