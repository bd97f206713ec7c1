#!/usr/bin/env bash
# Makes sure that the tools of a target are there: as root on a system with apt
# they are installed, elsewhere what is missing is said.
set -euo pipefail

# A tool and the package that brings it.
test_tools="ssh:openssh-client ssh-keygen:openssh-client ssh-agent:openssh-client /usr/sbin/sshd:openssh-server /usr/lib/openssh/sftp-server:openssh-sftp-server dbclient:dropbear-bin dropbearconvert:dropbear-bin
plink:putty-tools puttygen:putty-tools /usr/lib/chromium/chromium:chromium git:git rsync:rsync python3:python3 cc:gcc ip:iproute2 ps:procps xz:xz-utils
zbarimg:zbar-tools
busybox:busybox-static dash:dash shellcheck:shellcheck curl:curl openssl:openssl unshare:util-linux systemd-analyze:systemd"
lab_tools="ip:iproute2 nft:nftables conntrack:conntrack ping:iputils-ping ssh-keygen:openssh-client
/usr/sbin/miniupnpd:miniupnpd-nftables"
judge_tools="ssh-audit:ssh-audit ansible:ansible-core mosh-server:mosh rclone:rclone lftp:lftp sshfs:sshfs fusermount3:fuse3 make:make /usr/lib/openssh/regress/modpipe:openssh-tests"
slow_tools="qemu-arm-static:qemu-user-static qemu-mipsel-static:qemu-user-static patch:patch"

case ${1:-} in
size) tools="xz:xz-utils" ;;
lab) tools=$lab_tools ;;
test) tools="$test_tools $lab_tools" ;;
judge) tools="$test_tools $lab_tools $judge_tools" ;;
slow) tools="$test_tools $lab_tools $judge_tools $slow_tools" ;;
*) echo "usage: tools.sh size|lab|test|judge|slow" >&2; exit 2 ;;
esac

missing() {
	for t in $tools; do
		command -v "${t%%:*}" >/dev/null || echo "${t##*:}"
	done | sort -u
	[ "$1" = size ] || [ "$1" = lab ] || /usr/bin/python3 -c 'import cryptography' 2>/dev/null || echo python3-cryptography
	case $1 in judge | slow)
		for m in paramiko asyncssh; do
			/usr/bin/python3 -W ignore -c "import $m" 2>/dev/null || echo "python3-$m"
		done
		;;
	esac
}

packages=$(missing "$1")
[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "installing:" $packages
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq </dev/null
	# shellcheck disable=SC2086 # a list of packages
	apt-get install -y -qq --no-install-recommends $packages </dev/null >/dev/null
	packages=$(missing "$1")
fi
if [ -n "$packages" ]; then
	echo "tools are missing; install the packages:" $packages >&2
	exit 1
fi
