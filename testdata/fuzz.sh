#!/usr/bin/env bash
# Runs every fuzz target for a while, as many at once as there are processors: a
# target gets one of its own. Argument: how long each.
set -euo pipefail
time=${1:-1m}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
targets=$(go test -list '^Fuzz' . | grep '^Fuzz' || true)
[ -n "$targets" ] || { echo "no fuzz targets" >&2; exit 1; }

# one TARGET fuzzes it. Its output is shown when it is over.
one() {
	local log=$dir/$1 status=0
	go test -run '^$' -fuzz "^$1\$" -fuzztime "$time" -parallel 1 . >"$log" 2>&1 || status=$?
	# Before Go 1.27 the end of the time may be taken for a failure:
	# https://go.dev/issue/75804. A real one has its input written down.
	if [ "$status" != 0 ] && grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log"; then
		status=0
	fi
	echo "== $1, $time"
	tail -n 3 "$log"
	if [ "$status" != 0 ]; then
		cat "$log"
		touch "$dir/failed"
	fi
}
export -f one
export time dir
# Named beforehand: all of them need the same test binary, built once.
go test -c -o /dev/null .
printf '%s\n' $targets | xargs -P "$(nproc)" -I{} bash -c 'one {}'
[ ! -e "$dir/failed" ]
