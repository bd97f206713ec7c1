package main

// ttyName is the console's input; what is asked goes to standard error.
const (
	ttyName        = "CONIN$"
	ttyTakesOutput = false
)
