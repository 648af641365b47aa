#!/bin/bash
# check.sh [full]: has system calls of msd fail one by one, and allocations, as README.md beside it says: a choice of them,
# or all (many minutes). As many at a time as $TEST_JOBS says.
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top"
export MSD=${MSD-build/msd} MSCLI=${MSCLI-build/mscli} BUILD=${BUILD-build}
faults=$BUILD/tests/faults/faults
size=${1-quick}
jobs=${TEST_JOBS:-$(($(nproc) * 2))}

case $size in
quick | full) ;;
*)
    echo "usage: check.sh [full]" >&2
    exit 2
    ;;
esac
if ldd "$MSD" | grep -qE 'lib[at]san'; then
    echo 'SKIP: under a sanitizer allocations are its own, and strace is not to be had'
    exit 0
fi
if ! command -v strace >/dev/null; then
    echo 'SKIP: strace is not installed'
    exit 0
fi
if ! strace -o /dev/null true 2>/dev/null; then
    echo 'SKIP: ptrace(2) is not allowed here'
    exit 0
fi

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
export directory

# allocations SETUP [MAX]: each of them once, or the first MAX, and at every eighth also the twenty from it on; in the quick
# choice some.
allocations() {
    local n step=1
    n=$("$faults" count "$1" 2>&1 | sed -n 's/^COUNT //p' | sort -n | tail -n 1)
    [ -n "$n" ] || { echo "The allocations of $1 cannot be counted" >&2; return 1; }
    [ "$n" -le "${2-$n}" ] || n=$2
    if [ "$size" = quick ]; then
        step=$((n / 12 + 1))
    fi
    for ((i = 1; i <= n; i += step)); do
        echo "alloc,$i,$1"
        if ((step > 1 || i % 8 == 1)); then
            echo "alloc,$i-$((i + 20)),$1"
        fi
    done
}

if [ "$size" = quick ]; then
    "$faults" list quick >"$directory/cases"
else
    "$faults" list >"$directory/cases"
fi
allocations sim >>"$directory/cases"
# Until its name is known it is another one, and then as a child is.
allocations named 200 >>"$directory/cases"
allocations child >>"$directory/cases"
allocations mscli >>"$directory/cases"

run_one() {
    timeout 150 "$BUILD/tests/faults/faults" run "$1" >"$directory/$1" 2>&1 </dev/null || echo "FAILED" >>"$directory/$1"
}
export -f run_one
xargs -P "$jobs" -I '{}' bash -c 'run_one "$1"' _ '{}' <"$directory/cases"

cases=0 failures=0 went_on=0 ended=0
while read -r name; do
    cases=$((cases + 1))
    if grep -qx FAILED "$directory/$name"; then
        failures=$((failures + 1))
        echo "$name:"
        sed 's/^/    /' "$directory/$name"
    elif grep -q '^OUTCOME went on' "$directory/$name"; then
        went_on=$((went_on + 1))
    elif grep -q '^OUTCOME ended' "$directory/$name"; then
        ended=$((ended + 1))
    else
        failures=$((failures + 1))
        echo "$name: no outcome"
    fi
done <"$directory/cases"
echo "$cases cases: msd went on in $went_on, and ended with a message and status 1 in $ended"
echo "$((100 * (cases - failures) / cases))%: Checks: $cases, Failures: $failures, Errors: 0"
exit $((failures > 0))
