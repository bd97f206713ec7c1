#!/usr/bin/env bash
# Builds the program for every system into dist/, as many at once as there are
# processors: to link takes one. Argument: flags of the linker.
set -euo pipefail
export ldflags=$1

# system, processor, its variant, name of the file
targets="linux amd64 - linux-amd64
linux arm64 - linux-arm64
linux arm 5 linux-armv5
linux arm 6 linux-armv6
linux arm 7 linux-armv7
linux riscv64 - linux-riscv64
linux mips softfloat linux-mips
linux mipsle softfloat linux-mipsle
darwin arm64 - darwin-arm64
windows amd64 - windows-amd64.exe"

one() {
	local os=$1 arch=$2 variant=$3 name=$4
	GOOS=$os GOARCH=$arch GOARM=${variant//[!0-9]/} GOMIPS=${variant//[^a-z]/} \
		testdata/build.sh "$ldflags" -o "dist/sessio-$name"
	echo "dist/sessio-$name"
	# For routers: nothing that speaks HTTP, so no page of the coordinator, and
	# none on which passkeys sign.
	[ "$os" = linux ] || return 0
	GOOS=$os GOARCH=$arch GOARM=${variant//[!0-9]/} GOMIPS=${variant//[^a-z]/} SESSIO_TAGS=router \
		testdata/build.sh "$ldflags" -o "dist/sessio-router-$name"
	echo "dist/sessio-router-$name"
}
export -f one
mkdir -p dist
xargs -P "$(nproc)" -I{} bash -c 'set -euo pipefail; one {}' <<<"$targets"
