#!/usr/bin/env bash
# Runs every fuzz target for a while, one after the other: sessio.test fuzzes
# one at a time. Argument: how long each.
set -euo pipefail
time=${1:-1m}
targets=$(go test -list '^Fuzz' . | grep '^Fuzz' || true)
[ -n "$targets" ] || { echo "no fuzz targets" >&2; exit 1; }
for target in $targets; do
	echo "== $target, $time"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" .
done
