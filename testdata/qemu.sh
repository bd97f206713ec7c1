#!/usr/bin/env bash
# Takes the demo's walkthrough with the builds for mipsle and arm, emulated.
# Argument: flags of the linker.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(mktemp -d "${TMPDIR:-/tmp}/sessio-qemu.XXXXXX")
trap 'rm -rf "$bin"' EXIT

walk() {
	local emulator=$1 name=$2
	command -v "$emulator" >/dev/null || { echo "$emulator is missing: package qemu-user-static" >&2; exit 1; }
	cp "dist/sessio-linux-$name" "$bin/sessio"
	echo "== $name"
	SESSIO_RUN=$emulator testdata/demo.sh "$bin/sessio"
}

testdata/cross.sh "$1" >/dev/null
walk qemu-mipsel-static mipsle
walk qemu-arm-static armv5
