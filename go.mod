module sessio

go 1.26.0

require (
	github.com/creack/pty v1.1.24
	github.com/quic-go/quic-go v0.65.0
	golang.org/x/crypto v0.58.0
	golang.org/x/sys v0.49.0
	golang.org/x/term v0.47.0
)

require golang.org/x/net v0.60.0 // indirect
