//go:build !router

package main

// This file answers HTTP at the coordinator: whether it lives, the page of
// coord_web.go, and builds of this program.

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// httpDrain is how long answers under way may take when the coordinator stops.
const httpDrain = 250 * time.Millisecond

// serveCoordHTTP answers on ln until ctx ends, and closes ln. builds may be nil.
func serveCoordHTTP(ctx context.Context, ln net.Listener, page http.Handler, builds *buildDir) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writePlain(w, "ok\n") })
	mux.Handle("/", page)
	if builds != nil {
		mux.Handle("GET /i/", builds)
		mux.Handle("GET /b/", builds)
	}
	srv := &http.Server{
		Handler:           http.MaxBytesHandler(mux, maxWebBody),
		BaseContext:       func(net.Listener) context.Context { return ctx }, // what waits for news ends too
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
	}
	// Shutdown waits for answers under way; Serve returns as soon as it begins.
	done := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(done)
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), httpDrain)
		defer stop()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	})()
	err := srv.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) {
		<-done
		return context.Cause(ctx)
	}
	return err
}
