#!/usr/bin/env bash
# Compares the modules that are linked with the few that may be.
set -euo pipefail
export LC_ALL=C

allowed="github.com/creack/pty github.com/quic-go/quic-go golang.org/x/crypto golang.org/x/net golang.org/x/sys golang.org/x/term"
status=0
for os in linux darwin windows; do
	linked=$(GOOS=$os CGO_ENABLED=0 go list -deps -f '{{with .Module}}{{.Path}}{{end}}' . | sort -u | grep -v -x -e '' -e sessio)
	for m in $linked; do
		case " $allowed " in
		*" $m "*) ;;
		*) echo "$os: module $m is linked and may not be" >&2; status=1 ;;
		esac
	done
done
[ $status = 0 ] && echo "modules:" $linked
exit $status
