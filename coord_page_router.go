//go:build router

package main

// The build for routers has no page: nothing in it speaks HTTP.

import (
	"context"
	"flag"
)

type pageConfig struct{}

const pageUsage = ""

func (*pageConfig) declare(*flag.FlagSet) {}
func (*pageConfig) check(string) error    { return nil }

func (*coordinator) openPage(coordConfig, coordWord) ([]func(context.Context) error, error) {
	return nil, nil
}
