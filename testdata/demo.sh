#!/usr/bin/env bash
# A first day with Sessio, on one machine: a coordinator, a device and a client
# in directories of their own under one temporary one, talking over loopback.
# Needs no root. Argument: the program. With SESSIO_RUN, words that start it
# (an emulator), the same walk is taken by a foreign processor's build; with
# SESSIO_OTHER, a login, the port is opened as that user (the device is root);
# with SESSIO_VPS, a program, that one is the coordinator.
set -euo pipefail
export LC_ALL=C

bin=$(cd "$(dirname "${1:-./sessio}")" && pwd)/$(basename "${1:-./sessio}")
read -ra run <<<"${SESSIO_RUN:-} $bin"
read -ra vps <<<"${SESSIO_RUN:-} ${SESSIO_VPS:-$bin}"
work=$(mktemp -d "${TMPDIR:-/tmp}/sessio-demo.XXXXXX")
pids=()

cleanup() {
	local status=$?
	trap - EXIT
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	if [ "$status" != 0 ]; then
		echo "demo: failed with status $status; what the roles said:"
		tail -n 40 "$work"/*.log 2>/dev/null || true
	fi
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# What a machine's owner has is no part of the demo.
unset SESSIO_DIR SSH_AUTH_SOCK
me=$(id -un)
other=${SESSIO_OTHER:-$me}

began=${EPOCHREALTIME/[.,]/}
say() { printf '%6d ms  %s\n' $(((${EPOCHREALTIME/[.,]/} - began) / 1000)) "$*"; }
indent() { sed 's/^/           /'; }

# on MACHINE WORDS… runs the words with that machine's home.
on() {
	local machine=$1
	shift
	HOME="$work/$machine" SESSIO_DIR="$work/$machine/.sessio" "$@" </dev/null
}

# at MACHINE WORDS… runs sessio there, and shows the line and what it says.
at() {
	local machine=$1
	shift
	say "$machine\$ sessio $*"
	on "$machine" "${run[@]}" "$@" 2>&1 | indent
}

# stay MACHINE TEXT WORDS… starts a role there and waits until it says TEXT.
stay() {
	local machine=$1 text=$2
	shift 2
	say "$machine\$ sessio $* &"
	: >"$work/$machine.log"
	local program=("${run[@]}")
	[ "$machine" != vps ] || program=("${vps[@]}")
	env HOME="$work/$machine" SESSIO_DIR="$work/$machine/.sessio" "${program[@]}" "$@" </dev/null >"$work/$machine.log" 2>&1 &
	pids+=($!)
	until grep -q -- "$text" "$work/$machine.log"; do
		kill -0 "${pids[-1]}" 2>/dev/null || exit 1
		sleep 0.02
	done
}

mkdir -p "$work"/{vps,laptop,attic}
ssh-keygen -q -t ed25519 -N '' -f "$work/laptop/id_ed25519"

say "# a coordinator"
stay vps s1/ -coordinator -udp 127.0.0.1:0 -http 127.0.0.1:0
coord=$(grep -o 's1/[^ ]*' "$work/vps.log" | tail -n 1)

say "# an account, whose first machine is the laptop"
at laptop account create -key "$work/laptop/id_ed25519" -name laptop "$coord"

say "# a ticket, and a machine that joins by it"
say "laptop\$ sessio ticket -name attic -users $me,$other"
join=$(on laptop "${run[@]}" ticket -name attic -users "$me,$other" 2>/dev/null)
indent <<<"$join"
at attic join -no-wait "${join##* }"

say "# the owner looks who waits, and signs"
at laptop trust pending
at laptop trust sign attic

say "# the machine serves"
stay attic 'the coordinator knows this machine' -device

say "# a command over the direct path"
at laptop run attic -- 'echo "hello from $(uname -n), to ${SSH_CONNECTION%% *}"'

say "# the same with stock ssh"
on laptop "${run[@]}" ssh-config | sed "s|ProxyCommand |ProxyCommand ${SESSIO_RUN:-} |" >"$work/laptop/ssh_config"
say "laptop\$ ssh attic.sessio 'echo hello again'"
on laptop ssh -F "$work/laptop/ssh_config" attic.sessio 'echo hello again' 2>&1 | indent

say "# a file to the machine, and back"
cp "$bin" "$work/laptop/up"
on laptop "${run[@]}" cp "$work/laptop/up" "attic:$work/attic/there"
on laptop "${run[@]}" cp "attic:$work/attic/there" "$work/laptop/back"
cmp "$work/laptop/up" "$work/laptop/back"
say "laptop\$ sessio cp up attic:there; sessio cp attic:there back   # $(stat -c %s "$bin") bytes, the same"

say "# a port here that leads to one there"
http=$(sed -n 's/.*http at //p' "$work/vps.log")
stay laptop forwarding forward start -l "$other" attic "127.0.0.1:0:$http"
here=$(sed -n 's/.*forwarding 127.0.0.1:\([0-9]*\) .*/\1/p' "$work/laptop.log")
say "laptop\$ curl http://127.0.0.1:$here/healthz"
exec 3<>"/dev/tcp/127.0.0.1/$here"
printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3
tail -n 1 <&3 | indent
exec 3>&-
kill "${pids[-1]}"
wait "${pids[-1]}" || [ $? = 143 ]
unset 'pids[-1]'

say "# how things stand"
at laptop status
at laptop ping -c 1 attic

say "# everything is stopped"
for pid in "${pids[@]}"; do
	kill "$pid"
	wait "$pid"
done
pids=()
left=$(find "$work" -name '*.lock' -o -name '*.sock' -o -name '*.pid')
if [ -n "$left" ]; then
	echo "left behind: $left"
	exit 1
fi
say "done"
echo "demo: ok"
