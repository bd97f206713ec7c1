#!/usr/bin/env bash
# Takes the demo's walkthrough with the routers' builds for mipsle and arm,
# emulated.
# As root the kernel is told to start them by itself while this runs, so that
# the program can start itself again for another user. Argument: flags of the
# linker.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(mktemp -d "${TMPDIR:-/tmp}/sessio-qemu.XXXXXX")
chmod 755 "$bin" # another user starts it too
binfmt=/proc/sys/fs/binfmt_misc
mounted=
registered=()

cleanup() {
	for name in "${registered[@]}"; do echo -1 >"$binfmt/$name"; done
	[ -z "$mounted" ] || umount "$binfmt"
	rm -rf "$bin"
}
trap cleanup EXIT

# register NAME EMULATOR MACHINE makes the kernel start 32-bit little-endian ELF
# files for the machine (two bytes) by the emulator. Flag F opens it now, so
# that it is found from any root directory.
register() {
	local head='\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00'
	local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
	echo ":$1:M::$head$3:$mask:$2:F" >"$binfmt/register"
	registered+=("$1")
}

# walk NAME EMULATOR MACHINE
walk() {
	local emulator
	emulator=$(command -v "$2") || { echo "$2 is missing: package qemu-user-static" >&2; exit 1; }
	cp "dist/sessio-router-linux-$1" "$bin/sessio"
	cp "dist/sessio-linux-$1" "$bin/sessio-full" # the coordinator, which has a page
	export SESSIO_VPS=$bin/sessio-full
	echo "== $1"
	if [ "$(id -u)" = 0 ] && register "sessio-test-$1" "$emulator" "$3"; then
		SESSIO_OTHER=nobody testdata/demo.sh "$bin/sessio"
	else
		SESSIO_RUN=$emulator testdata/demo.sh "$bin/sessio"
	fi
}

if [ "$(id -u)" = 0 ] && [ ! -e "$binfmt/register" ] && mount -t binfmt_misc none "$binfmt"; then
	mounted=yes
fi
testdata/cross.sh "$1" >/dev/null
walk mipsle qemu-mipsel-static '\x08\x00'
walk armv5 qemu-arm-static '\x28\x00'
