//go:build !router

package main

// This file opens the coordinator's page, with all that speaks HTTP: its flags,
// its port, the builds that it hands out. The build for routers is without.

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"time"
)

// A pageConfig is what the flags say of the page.
type pageConfig struct {
	http     string // address of its port, "" = none
	tls      webTLS // of that port
	binaries string // directory of builds to hand out, "" = none
}

const pageUsage = " [-http ADDR] [-tls-cert F -tls-key F | -acme DOMAIN [-acme-directory URL] | -http-insecure] [-binaries DIR]"

func (r *pageConfig) declare(f *flag.FlagSet) {
	f.StringVar(&r.http, "http", "", "coordinator: `address` that answers /healthz (default none; with -acme :443)")
	f.StringVar(&r.tls.cert, "tls-cert", "", "coordinator: `file` with a certificate for that address, and its chain; read again when it changes")
	f.StringVar(&r.tls.key, "tls-key", "", "coordinator: `file` with the certificate's private key")
	f.StringVar(&r.tls.domain, "acme", "", "coordinator: have a certificate of this `domain` made by Let's Encrypt, whose terms you agree to by that")
	f.StringVar(&r.tls.directory, "acme-directory", "", "coordinator: ACME `URL` of another CA")
	f.BoolVar(&r.tls.insecure, "http-insecure", false, "coordinator: plain HTTP at an address that others reach, for a proxy that does TLS")
	f.StringVar(&r.binaries, "binaries", "", "coordinator: `directory` of builds to hand out to new machines, by -http at -url")
}

// check judges the flags, and fills in where the port is; url is -url.
func (r *pageConfig) check(url string) (err error) {
	if r.http, err = r.tls.check(r.http); err != nil {
		return err
	}
	if r.binaries != "" && (r.http == "" || url == "") {
		return withHint(usageError("-binaries needs -http, which hands them out, and -url, where that is reached"), "-http :8080 -url http://HOST:8080, or https with a server in front")
	}
	return nil
}

// openPage opens the port, before the listener on UDP answers anybody, and
// returns what serves it.
func (c *coordinator) openPage(cfg coordConfig, word coordWord) (loops []func(context.Context) error, err error) {
	if cfg.page.http == "" {
		return nil, nil
	}
	var builds *buildDir
	if cfg.page.binaries != "" {
		if builds, err = openBuildDir(cfg.page.binaries, cfg.url, time.Now, c.server.logf); err != nil {
			return nil, err
		}
		c.server.builds = builds.told
	}
	ln, keepCert, err := listenWeb(cfg.page.http, cfg.page.tls, filepath.Join(cfg.dir, "coord"), c.server.logf)
	if err != nil {
		return nil, err
	}
	origin, err := webOrigin(cfg.url, cfg.page.tls.domain, cfg.page.tls.cert != "", ln.Addr())
	if err != nil {
		ln.Close()
		return nil, err
	}
	page, err := newCoordWeb(c.server, word, origin)
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("the page: %w", err)
	}
	page.builds, page.proxied = builds, cfg.page.tls.insecure
	if passkeysWork(origin) {
		c.server.page = origin
	} else {
		c.server.logf("the page at %s cannot be used: browsers use passkeys by https:// and a name alone, see -url", origin)
	}
	c.server.logf("http at %s", ln.Addr())
	if keepCert != nil {
		loops = append(loops, keepCert)
	}
	return append(loops, func(ctx context.Context) error { return serveCoordHTTP(ctx, ln, page, builds) }), nil
}
