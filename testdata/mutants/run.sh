#!/usr/bin/env bash
# Takes each check of the trust log away in turn: a patch per check, and the
# tests that its first line names must turn red. Works on a copy of the trust
# log's files alone, which need nothing else of the program and build fast.
# Arguments: names of patches, without .patch; all if there are none.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

# mutant DIR NAME: one patch in the copy at DIR. Prints nothing if all is well.
mutant() {
	local patch=$here/$2.patch tests file out
	tests=$(sed -n '1s/^tests: //p' "$patch")
	file=$(sed -n 's/^+++ b\///p' "$patch")
	if [ -z "$tests" ] || ! (cd "$1" && git apply "$patch"); then
		echo "$2: does not apply any more"
		return
	fi
	if out=$(cd "$1" && go test -vet=off -failfast -timeout 60s -run "$tests" . 2>&1); then
		echo "$2: nothing noticed ($tests)"
	elif ! grep -qE '^ *--- FAIL|^panic:|fatal error:' <<<"$out"; then
		echo "$2: did not get as far as the tests:"
		tail -5 <<<"$out"
	fi
	cp "$root/$file" "$1/$file"
}

# copy DIR makes a copy of what the trust log is made of.
copy() {
	mkdir -p "$1/testdata"
	(cd "$root" && cp errs.go self.go ids.go fields.go os_*.go lock.go flatfile.go identity.go \
		cose*.go webauthn*.go sshsig.go sshsig_test.go trust*.go go.mod go.sum "$1")
	cp -r "$root/testdata/vectors" "$1/testdata"
	printf 'package main\n\nfunc main() {}\n' >"$1/main.go"
}

if [ "${1:-}" = -worker ]; then # DIR; names on standard input
	while read -r name; do mutant "$2" "$name"; done
	exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
jobs=$(nproc)
names=("$@")
[ $# -gt 0 ] || mapfile -t names < <(cd "$here" && ls -- *.patch | sed 's/\.patch$//')

copy "$work/0"
if ! (cd "$work/0" && go test -vet=off -timeout 300s . >"$work/green" 2>&1); then
	echo "the tests are red without any patch:"
	tail -20 "$work/green"
	exit 1
fi
for ((i = 0; i < jobs; i++)); do
	[ "$i" = 0 ] || copy "$work/$i"
	for ((k = i; k < ${#names[@]}; k += jobs)); do echo "${names[k]}"; done |
		"$0" -worker "$work/$i" >"$work/said.$i" &
done
wait
cat "$work"/said.*
if grep -q . "$work"/said.*; then
	exit 1
fi
echo "${#names[@]} mutants, all noticed"
