#!/bin/bash
# check.sh [TOOL...]: what can be said of the sources without running them: by cppcheck, gcc's -fanalyzer and clang-tidy; or
# by those of them that are named. Silent where there is nothing to say. What is left out, and why, stands in cppcheck.txt
# and .clang-tidy, and where a single place is meant in a comment there: cppcheck-suppress, analyzer-suppress, NOLINT.
set -u
cd "$(dirname "$0")/../.."

flags=(-std=gnu17 -I. -D_GNU_SOURCE '-DMSD_VERSION=""' ${LLHTTP_CPPFLAGS-})
mapfile -t sources < <(find common daemon client -name '*.c' | sort)
jobs=$(nproc)

use_cppcheck() {
    cppcheck -j "$jobs" --quiet --enable=warning,style,performance,portability --inline-suppr --std=c17 "${flags[@]:1}" \
        --suppressions-list=tests/lint/cppcheck.txt common daemon client 2>&1
}

# What it says of one file, but for what a comment on the line before has an answer to.
analyze() {
    local line finding
    gcc "${@:2}" -O1 -fanalyzer -fdiagnostics-plain-output -c -o /dev/null "$1" 2>&1 | grep -E ': (warning|(fatal )?error): ' |
        while read -r finding; do
            line=$(cut -d : -f 2 <<<"$finding")
            sed -n "$((line - 1))p" "$1" | grep -q 'analyzer-suppress: ' || echo "$finding"
        done
}
export -f analyze

use_analyzer() {
    printf '%s\n' "${sources[@]}" | xargs -P "$jobs" -I '{}' bash -c 'analyze "$@"' _ '{}' "${flags[@]}"
}

tidy() {
    clang-tidy --quiet "$1" -- "${@:2}" 2>&1 | grep -vE 'warnings? generated\.$|treated as errors?$|^Suppressed |^Use -header'
}
export -f tidy

use_clang_tidy() {
    printf '%s\n' "${sources[@]}" | xargs -P "$jobs" -I '{}' bash -c 'tidy "$@"' _ '{}' "${flags[@]}"
}

failed=0
[ $# -gt 0 ] || set -- cppcheck analyzer clang_tidy
for tool in "$@"; do
    command -v "$(sed 's/analyzer/gcc/; s/_/-/' <<<"$tool")" >/dev/null || { echo "SKIP: $tool is not installed"; continue; }
    findings=$("use_$tool")
    [ -z "$findings" ] || { printf '%s:\n%s\n' "$tool" "$findings"; failed=1; }
done
exit $failed
