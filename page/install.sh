#!/bin/sh
# Installs Sessio from @URL@, builds @SET@, and joins by a ticket:
#
#	curl -fsSL @URL@/i/@SET@ | sh -s -- [TICKET]
#
# Without a ticket the program is installed and nothing else. SESSIO_BIN_DIR
# names another directory for it than the one that this would choose.
# All of this is one command of the shell: a part of it does nothing.
{

set -eu
export LC_ALL=C
umask 022

url='@URL@'
set_id='@SET@'
# name, size in bytes, SHA-256
builds='@BUILDS@'

fail() { # WHAT HINT
	printf 'sessio: %s\nhint: %s\n' "$1" "$2" >&2
	exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The SHA-256 of standard input, in hex.
sha256() {
	if have sha256sum; then
		sum=$(sha256sum)
	elif have openssl; then
		sum=$(openssl dgst -sha256 -r)
	else
		sum=$(busybox sha256sum)
	fi
	printf '%s' "${sum%% *}"
}

# The first 80 bits of a hash in hex, in base32.
base32() {
	at=1
	while [ "$at" -lt 20 ]; do
		bits=$((0x$(printf '%s' "$1" | cut -c "$at-$((at + 4))")))
		for shift in 15 10 5 0; do
			printf 'abcdefghijklmnopqrstuvwxyz234567' | cut -c "$(((bits >> shift & 31) + 1))"
		done
		at=$((at + 5))
	done | tr -d '\n'
}

# Which processor's builds run here, the best first.
processors() {
	case $(uname -m) in
	x86_64 | amd64) echo amd64 ;;
	aarch64 | arm64) echo arm64 ;;
	riscv64) echo riscv64 ;;
	mips*) byte_order ;;
	arm*b) ;; # big endian: there is no build
	arm*)
		# What a board can do stands there: many routers have an ARMv7 without VFP.
		arm=" $(sed -n 's/^Features[^:]*://p' /proc/cpuinfo 2>/dev/null | tr '\n' ' ') "
		case $(uname -m)$arm in
		armv[78]*" neon "* | armv[78]*" vfpv"*) echo armv7 armv6 armv5 ;;
		armv[678]*" vfp "*) echo armv6 armv5 ;;
		*) echo armv5 ;;
		esac
		;;
	esac
}

# Of MIPS, where uname does not tell: byte 6 of an ELF file is 1 for little endian.
byte_order() {
	for elf in /bin/busybox /bin/sh /proc/self/exe; do
		case $(dd if="$elf" bs=1 skip=5 count=1 2>/dev/null) in
		"$(printf '\001')") echo mipsle && return ;;
		"$(printf '\002')") echo mips && return ;;
		esac
	done
	case $(opkg print-architecture 2>/dev/null) in
	*mipsel*) echo mipsle ;;
	*mips*) echo mips ;;
	esac
}

# Of the builds the line for this machine.
choose() {
	for processor in $(processors); do
		printf '%s\n' "$builds" | grep "^sessio-linux-$processor " && return
	done
	return 1
}

fetch() { # URL FILE
	if have curl; then
		curl -fsSL -o "$2" "$1"
	elif have wget; then
		wget -q -O "$2" "$1"
	else
		uclient-fetch -q -O "$2" "$1"
	fi
}

# Where the program shall be.
place() {
	if [ -n "${SESSIO_BIN_DIR:-}" ]; then
		echo "$SESSIO_BIN_DIR"
	elif [ "$(id -u)" != 0 ]; then
		[ -d "$HOME/.local/bin" ] || [ ! -d "$HOME/bin" ] || { echo "$HOME/bin" && return; }
		echo "$HOME/.local/bin"
	elif [ -d /usr/local/bin ] && [ ! -e /etc/openwrt_release ]; then
		echo /usr/local/bin
	else
		echo /usr/bin
	fi
}

# How many KiB are free there; nothing where that is not known.
free_in() {
	df -Pk "$1" 2>/dev/null | while read -r _ _ _ free _; do
		case $free in
		*[!0-9]*) ;;
		*) echo "$free" ;;
		esac
	done
}

no_room() { # FREE, in KiB
	fail "$bin has $(($1 * 1024)) bytes free, $name needs $size" "free some, or name a directory with more: … | SESSIO_BIN_DIR=/mnt/disk sh -s -- TICKET"
}

main() {
	ticket=${1:-}
	case $#$ticket in
	0 | 1s1/*) ;;
	*) fail "\"$*\" is no ticket" "sessio ticket makes one, on a machine of the account; it begins with s1/" ;;
	esac
	[ "$(printf '' | sha256 2>/dev/null | cut -c 1-8)" = e3b0c442 ] ||
		fail "nothing here computes a SHA-256" "install sha256sum (coreutils) or openssl; or bring the program by scp, then: sessio join TICKET"
	have curl || have wget || have uclient-fetch || fail "nothing here fetches a file" "install curl or wget"
	[ "$(uname -s)" = Linux ] || fail "this is for Linux, and here is $(uname -s)" "fetch a build by hand, then: sessio join TICKET"
	[ "$(base32 "$(printf '%s\n' "$builds" | while read -r name size sum; do echo "$name $sum"; done | sha256)")" = "$set_id" ] ||
		fail "the list of builds is not that of $set_id" "make a new ticket, and fetch this again"
	build=$(choose) || fail "there is no build for this processor ($(uname -m))" "there are: $(printf '%s\n' "$builds" | cut -d' ' -f1 | tr '\n' ' ')"
	name=${build%% *} size=${build#* } sum=${build##* }
	size=${size% *}

	bin=$(place)
	echo "Sessio for $(uname -m): $name, $size bytes"
	echo "  from $url/b/$sum/$name"
	echo "  to   $bin/sessio"
	[ -z "$ticket" ] || echo "then it joins by the ticket, and is started now and at every boot"

	new=$bin/.sessio.new.$$
	trap 'rm -f "$new"' EXIT
	trap 'exit 130' INT TERM HUP
	if ! mkdir -p "$bin" 2>/dev/null || ! (set -C && : >"$new") 2>/dev/null; then
		fail "cannot write to $bin" "is it read-only? Name another directory: … | SESSIO_BIN_DIR=/mnt/disk sh -s -- TICKET"
	fi
	# Flash file systems compress a program to 40 %: only less than that is hopeless.
	free=$(free_in "$bin")
	[ -z "$free" ] || [ "$free" -ge $((size / 2560)) ] || no_room "$free"
	if ! fetch "$url/b/$sum/$name" "$new"; then
		[ -z "$free" ] || [ "$free" -ge $((size / 1024)) ] || no_room "$free"
		fail "fetching $url/b/$sum/$name failed" "make a new ticket if the coordinator's builds have changed; https needs a right clock (date) and CA certificates"
	fi
	[ "$(sha256 <"$new")" = "$sum" ] || fail "what came is not $name: its SHA-256 is wrong" "nothing was installed: try again, and if it stays so look at the coordinator"
	chmod 755 "$new"
	"$new" version || fail "$name does not run here" "may programs be run from $bin? Is $(uname -m) right?"
	mv -f "$new" "$bin/sessio" # a sessio that runs goes on with the old program
	sync
	echo "installed $bin/sessio"
	case :$PATH: in
	*:"$bin":*) ;;
	*) echo "$bin is not in PATH" ;;
	esac
	if [ -n "$ticket" ]; then
		exec "$bin/sessio" join -yes -install "$ticket"
	fi
	echo "next: $bin/sessio join -install TICKET"
}

main "$@"
}
