#!/bin/bash
# run.sh SECONDS TARGET...: runs each fuzz target for so long, as many at a time as there are processors (or JOBS). What
# is new goes to build/fuzz/corpus, what fails to build/fuzz/failures; then a table.
set -eu

seconds=$1
shift
build=${BUILD:-build/fuzz}
jobs=${JOBS:-$(nproc)}
mkdir -p "$build/failures" "$build/logs"

run_one() {
    local target=$1 options=()
    mkdir -p "$build/corpus/$target"
    [ ! -e "tests/fuzz/$target.dict" ] || options+=(-dict="tests/fuzz/$target.dict")
    "$build/tests/fuzz/$target" "$build/corpus/$target" "tests/fuzz/corpus/$target" -max_total_time="$seconds" \
        -timeout=600 -rss_limit_mb=4096 -max_len=8192 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="$build/failures/$target-" "${options[@]}" >"$build/logs/$target.log" 2>&1 </dev/null &&
        echo passed >"$build/logs/$target.result" || echo FAILED >"$build/logs/$target.result"
    [ ! -t 1 ] || echo "$target: $(cat "$build/logs/$target.result")"
}
export -f run_one
export build seconds

printf '%s\n' "$@" | xargs -P "$jobs" -I '{}' bash -c 'run_one "$1"' _ '{}'

# Of the last line that tells how far it is, and of the statistics at the end.
figure() {
    sed -n "s/.*$2.*/\\1/p" "$build/logs/$1.log" | tail -n 1
}

failed=0
printf '%-16s %13s %9s %16s %7s\n' target executions a-second edges corpus
for target in "$@"; do
    result=$(cat "$build/logs/$target.result")
    printf '%-16s %13s %9s %16s %7s %s\n' "$target" "$(figure "$target" 'number_of_executed_units: *\([0-9]*\)')" \
        "$(figure "$target" 'average_exec_per_sec: *\([0-9]*\)')" \
        "$(figure "$target" 'cov: \([0-9]*\)') of $(figure "$target" '(\([0-9]*\) inline 8-bit counters)')" \
        "$(figure "$target" 'corp: \([0-9]*\)')" "$result"
    if [ "$result" != passed ]; then
        failed=$((failed + 1))
        sed 's/^/    /' "$build/logs/$target.log" | tail -n 40
    fi
done
echo
echo "$(($# - failed)) passed, $failed failed"
[ "$failed" = 0 ]
