//go:build router

package main

// The build for routers speaks no HTTP, and so no OTLP.

import "errors"

func openOTLP(auditExporter, auditOptions) (auditSink, error) {
	return nil, withHint(errors.New("this build is made for routers, and speaks no OTLP"), "use type file or logstash, or the full build")
}
