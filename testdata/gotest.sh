#!/usr/bin/env bash
# Runs "go test ARGUMENTS". Tests here talk to other programs in real time, and
# the machine may have other work: up to three that fail are run once more, alone,
# and if they pass then, that is said last, for somebody to mend them. No second
# run for a data race, a panic, a program that hangs or does not build.
set -uo pipefail
here=$(dirname "$0")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

"$here/plain.sh" go test "$@" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
[ "$status" != 0 ] || exit 0
mapfile -t failed < <(sed -n 's/^--- FAIL: \(Test[A-Za-z0-9_]*\) .*/\1/p' "$log")
if [ ${#failed[@]} = 0 ] || [ ${#failed[@]} -gt 3 ] ||
	grep -qE '^(WARNING: DATA RACE|panic: |fatal error: |FAIL.*(build failed|setup failed))' "$log"; then
	exit "$status"
fi
names=$(IFS='|' && echo "${failed[*]}")
printf '\n==== once more, alone: %s\n' "${failed[*]}"
"$here/plain.sh" go test "$@" -count 1 -run "^($names)\$" || exit
printf '==== PASSED ONLY WHEN RUN AGAIN, ALONE: %s\n' "${failed[*]}"
