#!/bin/bash
# coverage.sh: runs the tests with a build that counts, and prints how many branches and lines of each source were reached,
# and which lines were not. What is left, and why, is in coverage.md.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build/coverage}

find "$build" -name '*.gcda' -delete 2>/dev/null || true
# Without those that keep the counts from being written: by a file system that is read-only, and by calls that fail. What
# fails here for want of time does not count.
make --no-print-directory -s -j"$(nproc)" BUILD="$build" OPTIMIZE='-O0 -g' SANITIZE='--coverage -fprofile-update=atomic' \
    SYSTEMD_TESTS="$(find tests/systemd -name '*.sh' ! -name hardened.sh ! -name inside.sh | tr '\n' ' ')" \
    SCRIPT_TESTS='tests/soak/check.sh tests/privilege/syscalls.sh' check-built || true
of=(-r . --object-directory "$build" --exclude tests/)
gcovr "${of[@]}" --branches
gcovr "${of[@]}" --print-summary
