//go:build !linux

package main

import "context"

// watchNetwork calls changed after every change until ctx ends.
func watchNetwork(ctx context.Context, changed func(why string)) { pollNetwork(ctx, changed) }
