#!/usr/bin/env bash
# Makes sure that the tools of a target are there: as root on a system with apt
# they are installed, elsewhere what is missing is said.
set -euo pipefail

# A tool and the package that brings it.
test_tools="ssh:openssh-client ssh-keygen:openssh-client ssh-agent:openssh-client git:git rsync:rsync python3:python3 cc:gcc"
slow_tools="qemu-arm-static:qemu-user-static qemu-mipsel-static:qemu-user-static patch:patch"

case ${1:-} in
test) tools=$test_tools ;;
slow) tools="$test_tools $slow_tools" ;;
*) echo "usage: tools.sh test|slow" >&2; exit 2 ;;
esac

missing() {
	for t in $tools; do
		command -v "${t%%:*}" >/dev/null || echo "${t##*:}"
	done | sort -u
}

packages=$(missing)
[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "installing:" $packages
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq </dev/null
	# shellcheck disable=SC2086 # a list of packages
	apt-get install -y -qq --no-install-recommends $packages </dev/null >/dev/null
	packages=$(missing)
fi
if [ -n "$packages" ]; then
	echo "tools are missing; install the packages:" $packages >&2
	exit 1
fi
