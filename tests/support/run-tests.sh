#!/bin/bash
# run-tests.sh LOG_DIRECTORY TEST...: runs test programs, several at a time, and adds up what they did.
#
# A test program ends with libcheck's line "100%: Checks: N, Failures: N, Errors: N", or is a script whose exit
# status says it all. A line "SKIP: REASON" is a test that could not run here. The last line is "N passed, N failed",
# and how many were skipped.
set -u

logs=$1
shift
mkdir -p "$logs"
jobs=${TEST_JOBS:-$(($(nproc) * 2))}

run_one() {
    local log=$1/$(tr / - <<<"$2").log start=$SECONDS status=0
    "$2" >"$log" 2>&1 </dev/null || status=$?
    echo "$status $((SECONDS - start))" >"$log.status"
}
export -f run_one

printf '%s\n' "$@" | xargs -P "$jobs" -I '{}' bash -c 'run_one "$@"' _ "$logs" '{}'

passed=0 failed=0 skipped=0
for test in "$@"; do
    log=$logs/$(tr / - <<<"$test").log
    read -r status seconds <"$log.status"
    skips=$(grep -c '^SKIP: ' "$log")
    if [[ $(grep -E '^[0-9]+%: Checks: ' "$log" | tail -n 1) =~ Checks:\ ([0-9]+),\ Failures:\ ([0-9]+),\ Errors:\ ([0-9]+) ]]; then
        count=${BASH_REMATCH[1]}
        bad=$((BASH_REMATCH[2] + BASH_REMATCH[3]))
        # A program that fails behind its tests, by a sanitizer's report for one, has failed.
        [ "$status" = 0 ] || [ "$bad" != 0 ] || bad=1
    else
        count=1
        bad=$((status != 0))
    fi
    good=$((count - bad - skips))
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + skips))
    printf '%-36s %5d passed %3d failed %3d skipped %4ds\n' "$test" "$good" "$bad" "$skips" "$seconds"
    grep '^SKIP: ' "$log" | sed 's/^/    /'
    [ "$bad" = 0 ] || sed 's/^/    /' "$log"
done
echo
if [ "$skipped" = 0 ]; then
    echo "$passed passed, $failed failed"
else
    echo "$passed passed, $failed failed, $skipped skipped"
fi
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
